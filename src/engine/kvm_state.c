/*
 * struct x86_state to and from KVM_{GET,SET}_{REGS,SREGS}.
 */
#include "engine/kvm.h"

static void segment_to_kvm(const struct segment *from, struct kvm_segment *to)
{
	*to = (struct kvm_segment){
		.base = from->base,
		.limit = from->limit,
		.selector = from->selector,
		.type = from->ar & SEG_AR_TYPE,
		.s = !!(from->ar & SEG_AR_S),
		.dpl = SEG_DPL(from->ar),
		.present = !!(from->ar & SEG_AR_P),
		.avl = !!(from->ar & SEG_AR_AVL),
		.l = !!(from->ar & SEG_AR_L),
		.db = !!(from->ar & SEG_AR_DB),
		.g = !!(from->ar & SEG_AR_G),
		.unusable = !!(from->ar & SEG_AR_UNUSABLE),
	};
}

static void segment_from_kvm(const struct kvm_segment *from, struct segment *to)
{
	*to = (struct segment){ .selector = from->selector, .limit = from->limit, .base = from->base };
	to->ar = from->type & SEG_AR_TYPE;
	to->ar |= (u32)(from->dpl & 3) << 5;
	to->ar |= from->s ? SEG_AR_S : 0;
	to->ar |= from->present ? SEG_AR_P : 0;
	to->ar |= from->avl ? SEG_AR_AVL : 0;
	to->ar |= from->l ? SEG_AR_L : 0;
	to->ar |= from->db ? SEG_AR_DB : 0;
	to->ar |= from->g ? SEG_AR_G : 0;
	to->ar |= from->unusable ? SEG_AR_UNUSABLE : 0;
}

/* struct kvm_sregs has a member for each segment register; the order is that of enum seg. */
static struct kvm_segment *kvm_seg(struct kvm_sregs *sregs, unsigned seg)
{
	struct kvm_segment *const by_seg[SEG_COUNT] = {
		[SEG_ES] = &sregs->es, [SEG_CS] = &sregs->cs, [SEG_SS] = &sregs->ss,    [SEG_DS] = &sregs->ds,
		[SEG_FS] = &sregs->fs, [SEG_GS] = &sregs->gs, [SEG_LDTR] = &sregs->ldt, [SEG_TR] = &sregs->tr,
	};
	return by_seg[seg];
}

static __u64 *kvm_gpr(struct kvm_regs *regs, unsigned gpr)
{
	__u64 *const by_gpr[GPR_COUNT] = {
		[RAX] = &regs->rax, [RCX] = &regs->rcx, [RDX] = &regs->rdx, [RBX] = &regs->rbx,
		[RSP] = &regs->rsp, [RBP] = &regs->rbp, [RSI] = &regs->rsi, [RDI] = &regs->rdi,
		[R8] = &regs->r8,   [R9] = &regs->r9,   [R10] = &regs->r10, [R11] = &regs->r11,
		[R12] = &regs->r12, [R13] = &regs->r13, [R14] = &regs->r14, [R15] = &regs->r15,
	};
	return by_gpr[gpr];
}

int kvm_state_get(int vcpu_fd, struct x86_state *state)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	int err = kvm_ioctl(vcpu_fd, KVM_GET_REGS, &regs);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &sregs);
	if (err < 0)
		return err;
	for (unsigned i = 0; i < GPR_COUNT; i++)
		state->gpr[i] = *kvm_gpr(&regs, i);
	state->rip = regs.rip;
	state->rflags = regs.rflags;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		segment_from_kvm(kvm_seg(&sregs, i), &state->seg[i]);
	state->gdtr = (struct table_register){ .base = sregs.gdt.base, .limit = sregs.gdt.limit };
	state->idtr = (struct table_register){ .base = sregs.idt.base, .limit = sregs.idt.limit };
	state->cr0 = sregs.cr0;
	state->cr2 = sregs.cr2;
	state->cr3 = sregs.cr3;
	state->cr4 = sregs.cr4;
	state->efer = sregs.efer;
	return 0;
}

int kvm_state_set(int vcpu_fd, const struct x86_state *state)
{
	struct kvm_regs regs = { .rip = state->rip, .rflags = state->rflags };
	struct kvm_sregs sregs;
	/* What struct x86_state does not hold (APIC base, CR8) stays. */
	int err = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &sregs);
	if (err < 0)
		return err;
	for (unsigned i = 0; i < GPR_COUNT; i++)
		*kvm_gpr(&regs, i) = state->gpr[i];
	for (unsigned i = 0; i < SEG_COUNT; i++)
		segment_to_kvm(&state->seg[i], kvm_seg(&sregs, i));
	sregs.gdt = (struct kvm_dtable){ .base = state->gdtr.base, .limit = state->gdtr.limit };
	sregs.idt = (struct kvm_dtable){ .base = state->idtr.base, .limit = state->idtr.limit };
	sregs.cr0 = state->cr0;
	sregs.cr2 = state->cr2;
	sregs.cr3 = state->cr3;
	sregs.cr4 = state->cr4;
	sregs.efer = state->efer;
	for (unsigned i = 0; i < ARRAY_SIZE(sregs.interrupt_bitmap); i++)
		sregs.interrupt_bitmap[i] = 0;
	err = kvm_ioctl(vcpu_fd, KVM_SET_SREGS, &sregs);
	return err < 0 ? err : kvm_ioctl(vcpu_fd, KVM_SET_REGS, &regs);
}
