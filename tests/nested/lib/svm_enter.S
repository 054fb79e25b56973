/*
 * void svm_enter(struct vmcb *): one VMRUN and the #VMEXIT that ends it. L2's general registers come from and go to
 * l2_regs, but for those that the VMCB holds.
 */
	.text
	.global svm_enter
svm_enter:
	push %rbx
	push %rbp
	push %r12
	push %r13
	push %r14
	push %r15
	mov %rdi, %rax
	mov l2_regs + 8 * 1, %rcx
	mov l2_regs + 8 * 2, %rdx
	mov l2_regs + 8 * 3, %rbx
	mov l2_regs + 8 * 5, %rbp
	mov l2_regs + 8 * 6, %rsi
	mov l2_regs + 8 * 7, %rdi
	mov l2_regs + 8 * 8, %r8
	mov l2_regs + 8 * 9, %r9
	mov l2_regs + 8 * 10, %r10
	mov l2_regs + 8 * 11, %r11
	mov l2_regs + 8 * 12, %r12
	mov l2_regs + 8 * 13, %r13
	mov l2_regs + 8 * 14, %r14
	mov l2_regs + 8 * 15, %r15
	vmrun %rax
	mov %rcx, l2_regs + 8 * 1
	mov %rdx, l2_regs + 8 * 2
	mov %rbx, l2_regs + 8 * 3
	mov %rbp, l2_regs + 8 * 5
	mov %rsi, l2_regs + 8 * 6
	mov %rdi, l2_regs + 8 * 7
	mov %r8, l2_regs + 8 * 8
	mov %r9, l2_regs + 8 * 9
	mov %r10, l2_regs + 8 * 10
	mov %r11, l2_regs + 8 * 11
	mov %r12, l2_regs + 8 * 12
	mov %r13, l2_regs + 8 * 13
	mov %r14, l2_regs + 8 * 14
	mov %r15, l2_regs + 8 * 15
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %rbp
	pop %rbx
	ret
	.section .note.GNU-stack, "", @progbits
