/*
 * Where an application processor begins: in real mode at AP_START, a copy of ap_start, and by way of protected mode to
 * smp_ap_main() in 64-bit mode, on a stack of its own, with the tables of the bootstrap processor.
 */
#define AP_START 0x8000

	.text
	.code16
	.global ap_start, ap_start_end, ap_gdt
ap_start:
	cli
	cld
	xor %ax, %ax
	mov %ax, %ds
	lgdtl AP_START + ap_gdt - ap_start
	mov %cr0, %eax
	or $1, %al
	mov %eax, %cr0
	ljmpl $0x08, $ap_protected
ap_gdt:
	.skip 10
ap_start_end:

	.code32
ap_protected:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	mov $0x20, %eax		/* CR4.PAE */
	mov %eax, %cr4
	mov $boot_pml4, %eax
	mov %eax, %cr3
	mov $0xc0000080, %ecx	/* EFER: LME, NXE, SCE */
	rdmsr
	or $0x901, %eax
	wrmsr
	mov $0x80010033, %eax	/* PG, WP, NE, ET, MP, PE */
	mov %eax, %cr0
	ljmp $0x18, $ap_long

	.code64
ap_long:
	mov $1, %eax
	cpuid
	shr $24, %ebx		/* APIC ID */
	mov %ebx, %edi
	lea 1(%rdi), %rax
	shl $12, %rax
	lea smp_stacks(%rip), %rsp
	add %rax, %rsp
	lidt smp_idt(%rip)
	call smp_ap_main
	.section .note.GNU-stack, "", @progbits
