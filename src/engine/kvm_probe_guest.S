/*
 * The guest that kvm_probe.c runs: from real mode to 64-bit mode with its own page tables and exceptions, as every
 * operating system goes, and to VMXON or VMSAVE if asked. It tells each stage it has passed (kvm_probe.h).
 */
#include "engine/kvm_probe.h"

#define AT(label) (PROBE_CODE + (label) - kvm_probe_guest)
#define PASSED(stage)		\
	movb	$stage, %al;	\
	outb	%al, $PROBE_PORT

#define CR0_PE		0x00000001
#define CR0_PG		0x80000000
#define CR4_PAE		0x00000020
#define CR4_OSFXSR	0x00000200
#define CR4_VMXE	0x00002000
#define MSR_EFER	0xc0000080
#define MSR_LSTAR	0xc0000082
#define MSR_VMX_BASIC	0x480
#define EFER_LME	0x100
#define EFER_SVME	0x1000
#define PTE_PRESENT_RW	3
#define PTE_LARGE	0x80
#define UNMAPPED	0x40000000	/* the page tables end here */

	.section .rodata
	.globl	kvm_probe_guest, kvm_probe_guest_end
	.balign	16
	.code16
kvm_probe_guest:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	PASSED(PROBE_REAL)
	lgdtl	AT(gdt_pointer)
	movl	$CR0_PE, %eax
	movl	%eax, %cr0
	ljmpl	$0x08, $AT(protected)

	.code32
protected:
	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$PROBE_STACK, %esp
	PASSED(PROBE_PROTECTED)
	/* One large page, identity-mapped; RAM is zero otherwise. */
	movl	$PROBE_PDPT + PTE_PRESENT_RW, PROBE_PML4
	movl	$PROBE_PD + PTE_PRESENT_RW, PROBE_PDPT
	movl	$PTE_LARGE + PTE_PRESENT_RW, PROBE_PD
	movl	$PROBE_PML4, %eax
	movl	%eax, %cr3
	movl	$CR4_PAE, %eax
	movl	%eax, %cr4
	movl	$MSR_EFER, %ecx
	rdmsr
	orl	$EFER_LME, %eax
	wrmsr
	movl	$CR0_PE | CR0_PG, %eax
	movl	%eax, %cr0
	ljmp	$0x18, $AT(long_mode)

	.code64
long_mode:
	PASSED(PROBE_LONG)
	movl	%ebx, %esi		/* CPUID takes EBX */
	xorl	%eax, %eax
	cpuid
	orl	%ebx, %ebx		/* no vendor has an empty name */
	jz	fail
	movl	$MSR_LSTAR, %ecx
	movl	$0x12345678, %eax
	movl	$0x00001234, %edx
	wrmsr
	xorl	%eax, %eax
	xorl	%edx, %edx
	rdmsr
	cmpl	$0x12345678, %eax
	jne	fail
	cmpl	$0x00001234, %edx
	jne	fail
	PASSED(PROBE_SYSTEM)

	movl	$PROBE_IDT + 6 * 16, %edi
	movl	$AT(invalid_opcode), %eax
	call	set_gate
	movl	$PROBE_IDT + 14 * 16, %edi
	movl	$AT(page_fault), %eax
	call	set_gate
	lidt	AT(idt_pointer)
	xorl	%ebp, %ebp		/* handlers leave what they saw here */
	ud2
	cmpl	$6, %ebp
	jne	fail
	movl	$UNMAPPED, %edi
	movb	(%rdi), %al		/* two bytes long, as is UD2 */
	cmpl	$UNMAPPED, %ebp
	jne	fail
	PASSED(PROBE_FAULTS)

	movl	$CR4_PAE | CR4_OSFXSR, %eax
	movq	%rax, %cr4
	movl	$21, %eax
	movd	%eax, %xmm0
	paddd	%xmm0, %xmm0
	movd	%xmm0, %eax
	cmpl	$42, %eax
	jne	fail
	PASSED(PROBE_VECTOR)

	cmpl	$PROBE_ASK_VTX, %esi
	je	vtx
	cmpl	$PROBE_ASK_SVM, %esi
	je	svm
nesting_passed:
	PASSED(PROBE_NESTING)

	movl	$PROBE_SPEED_ROUNDS, %edx
round:
	movl	$PROBE_SPEED_LOOPS, %ecx
1:	decl	%ecx
	jnz	1b
	PASSED(PROBE_SPEED)
	decl	%edx
	jnz	round
halt:
	hlt
	jmp	halt

vtx:
	movq	%cr4, %rax
	orl	$CR4_VMXE, %eax
	movq	%rax, %cr4
	movq	%cr0, %rax
	orl	$0x20, %eax		/* VMX wants CR0.NE */
	movq	%rax, %cr0
	movl	$MSR_VMX_BASIC, %ecx
	rdmsr
	movl	%eax, PROBE_HV_PAGE	/* the revision */
	vmxon	AT(hv_page_pointer)
	jbe	fail			/* CF or ZF: refused */
	vmxoff
	jmp	nesting_passed

svm:
	movl	$MSR_EFER, %ecx
	rdmsr
	orl	$EFER_SVME, %eax
	wrmsr
	movl	$PROBE_HV_PAGE, %eax
	vmsave
	jmp	nesting_passed

/* A result was wrong: stop without passing the stage, on a byte no stage has. */
fail:
	PASSED(0)
	jmp	halt

/* EDI: descriptor, EAX: handler. The upper halves are zero already. */
set_gate:
	movw	%ax, (%rdi)
	movw	$0x18, 2(%rdi)
	movw	$0x8e00, 4(%rdi)
	ret

invalid_opcode:
	movl	$6, %ebp
	addq	$2, (%rsp)
	iretq

page_fault:
	movq	%cr2, %rbp
	addq	$8, %rsp		/* the error code */
	addq	$2, (%rsp)
	iretq

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9b000000ffff	/* 08: 32-bit code */
	.quad	0x00cf93000000ffff	/* 10: data */
	.quad	0x00af9b000000ffff	/* 18: 64-bit code */
gdt_pointer:
	.word	gdt_pointer - gdt - 1
	.long	AT(gdt)
	.balign	8
idt_pointer:
	.word	16 * 16 - 1
	.quad	PROBE_IDT
hv_page_pointer:
	.quad	PROBE_HV_PAGE
kvm_probe_guest_end:

	.section .note.GNU-stack, "", @progbits
