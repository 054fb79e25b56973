/*
 * From the Multiboot entry (flat 32-bit protected mode, no paging) to guest_main() in C, in 64-bit mode with 4 GiB
 * identity-mapped by 2 MiB pages, or in 32-bit protected mode without paging; exception entries; the way to CPL 3.
 */
#define MAGIC 0x1badb002
#define FLAGS 0x00010000 /* load addresses are in the header */

	.section .multiboot, "ax"
	.code32
	.balign 4
header:
	.long MAGIC, FLAGS, -(MAGIC + FLAGS)
	.long header, image_start, image_end, image_bss_end, guest_start

	.global guest_start
guest_start:
	cli
	cld
	mov $stack_top, %esp
	lgdt gdt_pointer
	ljmp $0x08, $1f
1:	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %ss
	xor %eax, %eax
	mov %eax, %fs
	mov %eax, %gs
#ifdef __x86_64__
	/* PML4 and PDPT, then 2048 large pages. */
	movl $boot_pdpt + 3, boot_pml4
	mov $boot_pdpt, %edi
	mov $boot_pd + 3, %eax
	mov $4, %ecx
2:	mov %eax, (%edi)
	add $0x1000, %eax
	add $8, %edi
	loop 2b
	mov $boot_pd, %edi
	mov $0x83, %eax
	mov $2048, %ecx
3:	mov %eax, (%edi)
	add $0x200000, %eax
	add $8, %edi
	loop 3b
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
	ljmp $0x18, $4f
	.code64
4:	mov $stack_top, %rsp
	call guest_begin
#else
	mov $0x10033, %eax
	mov %eax, %cr0
	call guest_begin
#endif
5:	hlt
	jmp 5b

	.data
	.balign 16
	.global gdt
gdt:
	.quad 0
	.quad 0x00cf9b000000ffff	/* 08: code, 32 bits, CPL 0 */
	.quad 0x00cf93000000ffff	/* 10: data, CPL 0 */
	.quad 0x00af9b000000ffff	/* 18: code, 64 bits, CPL 0 */
	.quad 0x00cffb000000ffff	/* 20: code, 32 bits, CPL 3 */
	.quad 0x00cff3000000ffff	/* 28: data, CPL 3 */
gdt_tss:
	.quad 0, 0			/* 30: TSS, filled by guest_begin */
	.quad 0x00affb000000ffff	/* 40: code, 64 bits, CPL 3 */
	.fill 23, 8, 0			/* 48: free for tests */
gdt_end:
	.global gdt_pointer
gdt_pointer:
	.word gdt_end - gdt - 1
#ifdef __x86_64__
	.quad gdt
#else
	.long gdt
#endif

	.bss
	.balign 4096
	.global boot_pml4, boot_pdpt, boot_pd
boot_pml4:
	.skip 4096
boot_pdpt:
	.skip 4096
boot_pd:
	.skip 4 * 4096
	.skip 32768
	.global stack_top
stack_top:

/* --- exception entries: one of 16 bytes for each vector --- */

	.text
	.balign 16
	.global exception_entries
exception_entries:
	.set vector, 0
	.rept 256
	.balign 16
	.if (vector == 8) || ((vector >= 10) && (vector <= 14)) || (vector == 17) || (vector == 21) || (vector == 30)
	.else
	push $0
	.endif
	push $vector
	jmp exception_common
	.set vector, vector + 1
	.endr

exception_common:
	cld
#ifdef __x86_64__
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, %rdi
	mov %rsp, %rbp
	and $-16, %rsp
	call guest_exception
	mov %rbp, %rsp
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq
#else
	pusha
	push %ds
	push %es
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	push %esp
	call guest_exception
	add $4, %esp
	pop %es
	pop %ds
	popa
	add $8, %esp
	iret
#endif

/*
 * enter_user(ip, sp, flags): runs at CPL 3 until an exception or INT that the fault mechanism takes (guest.h), then
 * returns as if called.
 */
	.global enter_user, leave_user
#ifdef __x86_64__
enter_user:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rsp, user_return(%rip)
	mov $0x2b, %eax	/* IRET to CPL 3 would clear data segments of CPL 0 */
	mov %eax, %ds
	mov %eax, %es
	push $0x2b
	push %rsi
	push %rdx
	push user_cs(%rip)
	push %rdi
	iretq

leave_user:
	mov user_return(%rip), %rsp
	movq $0, user_return(%rip)
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret
#else
enter_user:
	mov 4(%esp), %eax
	mov 8(%esp), %ecx
	mov 12(%esp), %edx
	push %ebx
	push %ebp
	push %esi
	push %edi
	mov %esp, user_return
	push $0x2b
	push %ecx
	push %edx
	push user_cs
	push %eax
	mov $0x2b, %ecx
	mov %ecx, %ds
	mov %ecx, %es
	iret

leave_user:
	mov $0x10, %eax
	mov %eax, %ds
	mov %eax, %es
	mov user_return, %esp
	movl $0, user_return
	pop %edi
	pop %esi
	pop %ebp
	pop %ebx
	ret
#endif

	.data
	.balign 8
	.global user_return, user_cs
user_return:
	.quad 0
user_cs:
#ifdef __x86_64__
	.quad 0x43
#else
	.long 0x23
#endif
	.section .note.GNU-stack, "", @progbits
