/*
 * VMRUN: what its operand and its VMCB must be, one consistency check after the other, and what it loads and saves; the
 * instructions around it, and their privilege.
 */
#include "svm.h"

L2(l2_vmmcall, "vmmcall")
L2(l2_change, "mov $0x77, %rax; mov %rax, %cr2; mov $1, %ecx; stc; vmmcall")

static u64 saved_rip;

/* Each breaks a good VMCB in one way. */
static void no_svme(void)
{
	vmcb.save.efer &= ~EFER_SVME;
}

static void efer_reserved(void)
{
	vmcb.save.efer |= BIT(9);
}

static void nw_without_cd(void)
{
	vmcb.save.cr0 = (vmcb.save.cr0 & ~CR0_CD) | CR0_NW;
}

static void cr0_high(void)
{
	vmcb.save.cr0 |= BIT(32);
}

static void cr3_reserved(void)
{
	vmcb.save.cr3 |= BIT(52);
}

static void cr4_reserved(void)
{
	vmcb.save.cr4 |= BIT(13);
}

static void dr6_high(void)
{
	vmcb.save.dr6 |= BIT(32);
}

static void dr7_high(void)
{
	vmcb.save.dr7 |= BIT(63);
}

static void long_without_pae(void)
{
	vmcb.save.cr4 &= ~CR4_PAE;
}

static void long_without_pe(void)
{
	vmcb.save.cr0 &= ~CR0_PE;
}

static void cs_l_and_d(void)
{
	vmcb.save.cs.attr |= 0x600;
}

static void vmrun_not_intercepted(void)
{
	no_intercept(SVM_EXIT_VMRUN);
}

static void iopm_beyond(void)
{
	vmcb.control.iopm = BIT(40) - 2 * 4096;
}

static void msrpm_beyond(void)
{
	vmcb.control.msrpm = BIT(40) - 4096;
}

static void asid_zero(void)
{
	vmcb.control.asid = 0;
}

static void tlb_control_reserved(void)
{
	vmcb.control.tlb_control = 2;
}

static void event_type_reserved(void)
{
	vmcb.control.event_inj = EVENTINJ_VALID | 1 << 8 | 13;
}

static void event_exception_is_nmi(void)
{
	vmcb.control.event_inj = EVENTINJ_VALID | EVENTINJ_EXCEPTION << 8 | NMI;
}

static void event_exception_beyond_31(void)
{
	vmcb.control.event_inj = EVENTINJ_VALID | EVENTINJ_EXCEPTION << 8 | 32;
}

static void vnmi_without_intercept(void)
{
	vmcb.control.int_ctl = V_NMI_ENABLE;
}

static void ncr3_reserved(void)
{
	npt_use();
	vmcb.control.ncr3 |= BIT(45);
}

static void guest_pat_reserved(void)
{
	npt_use();
	vmcb.save.g_pat = 2;
}

static void pdptes_reserved(void)
{
	static u64 pdpt[4] ALIGNED(32);
	pdpt[1] = PTE_P | BIT(1);
	vmcb.save.efer &= ~(EFER_LME | BIT(10));
	vmcb.save.cs.attr = 0xc9b;
	vmcb.save.cr3 = (u64)pdpt;
}

static const struct {
	const char *name;
	void (*spoil)(void);
} bad[] = {
	{ "efer-svme-is-0", no_svme },
	{ "efer-reserved-bits", efer_reserved },
	{ "cr0-nw-without-cd", nw_without_cd },
	{ "cr0-bits-63-to-32", cr0_high },
	{ "cr3-reserved-bits", cr3_reserved },
	{ "cr4-reserved-bits", cr4_reserved },
	{ "dr6-bits-63-to-32", dr6_high },
	{ "dr7-bits-63-to-32", dr7_high },
	{ "long-mode-without-pae", long_without_pae },
	{ "long-mode-without-protection", long_without_pe },
	{ "cs-l-and-d", cs_l_and_d },
	{ "vmrun-not-intercepted", vmrun_not_intercepted },
	{ "iopm-beyond-physical-addresses", iopm_beyond },
	{ "msrpm-beyond-physical-addresses", msrpm_beyond },
	{ "asid-zero", asid_zero },
	{ "tlb-control-reserved", tlb_control_reserved },
	{ "event-of-reserved-type", event_type_reserved },
	{ "event-exception-2", event_exception_is_nmi },
	{ "event-exception-32", event_exception_beyond_31 },
	{ "virtual-nmis-without-nmi-intercept", vnmi_without_intercept },
	{ "ncr3-reserved-bits", ncr3_reserved },
	{ "guest-pat-reserved", guest_pat_reserved },
	{ "pdptes-reserved-bits", pdptes_reserved },
};

static void test_consistency(void)
{
	CHECK_EQUAL("good-vmcb-runs", svm_run_fresh(l2_vmmcall), SVM_EXIT_VMMCALL);
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		vmcb_make(l2_vmmcall);
		bad[i].spoil();
		CHECK_EQUAL(bad[i].name, svm_run(), EXIT_FAILED);
		CHECK_EQUAL("and-the-guest-did-not-run", vmcb.save.rip, (u64)l2_vmmcall);
	}
	CHECK_EQUAL("a-good-one-runs-after-all-that", svm_run_fresh(l2_vmmcall), SVM_EXIT_VMMCALL);
}

static void test_operand(void)
{
	CHECK_EQUAL("vmrun-of-unaligned-address-is-gp", TRY("vmrun %%rax", : : "a"((u64)&vmcb + 8)), GP);
	CHECK_EQUAL("vmrun-beyond-physical-addresses-is-gp", TRY("vmrun %%rax", : : "a"(BIT(40))), GP);
	CHECK_EQUAL("vmload-of-unaligned-address-is-gp", TRY("vmload %%rax", : : "a"((u64)&vmcb + 8)), GP);
	CHECK_EQUAL("vmsave-beyond-physical-addresses-is-gp", TRY("vmsave %%rax", : : "a"(BIT(45))), GP);
	CHECK_EQUAL("vmmcall-is-ud", TRY("vmmcall", :), UD);
	CHECK_EQUAL("skinit-is-ud", TRY("skinit", : : "a"(0)), UD);
	CHECK_EQUAL("vmcall-is-ud", TRY("vmcall", :), UD);
	CHECK_EQUAL("vmxoff-is-ud", TRY("vmxoff", :), UD);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SVME);
	CHECK_EQUAL("without-svme-vmrun-is-ud", TRY("vmrun %%rax", : : "a"(&vmcb)), UD);
	CHECK_EQUAL("without-svme-stgi-is-ud", TRY("stgi", :), UD);
	CHECK_EQUAL("without-svme-invlpga-is-ud", TRY("invlpga %%rax, %%ecx", : : "a"(0), "c"(0)), UD);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
}

__attribute__((naked)) static void user_vmrun(void)
{
	asm volatile("xor %eax, %eax; vmrun %rax");
}

__attribute__((naked)) static void user_clgi(void)
{
	asm volatile("clgi");
}

static void test_privilege(void)
{
	open_to_user();
	CHECK_EQUAL("vmrun-at-cpl-3-is-gp", run_user(user_vmrun), GP);
	CHECK_EQUAL("clgi-at-cpl-3-is-gp", run_user(user_clgi), GP);
}

static void test_state(void)
{
	u64 cr2 = 0x1234;
	vmcb_make(l2_change);
	vmcb.save.cr2 = cr2;
	l2_regs[L2_RCX] = 5;
	saved_rip = vmcb.save.rip;
	CHECK_EQUAL("l2-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("rax-is-saved", vmcb.save.rax, 0x77);
	CHECK_EQUAL("cr2-is-saved", vmcb.save.cr2, 0x77);
	CHECK_EQUAL("rcx-is-shared", l2_regs[L2_RCX], 1);
	CHECK_EQUAL("flags-are-saved", vmcb.save.rflags & 1, 1);
	CHECK_EQUAL("cpl-is-saved", vmcb.save.cpl, 0);
	CHECK_EQUAL("dr7-of-the-host-is-clear", read_dr7(), 0x400);
	CHECK("next-rip-is-behind-the-instruction", vmcb.control.next_rip == vmcb.save.rip + 3);
}

static void test_vmload_vmsave(void)
{
	memset(&other_vmcb, 0, sizeof(other_vmcb));
	asm volatile("vmsave %0" : : "a"(&other_vmcb) : "memory");
	CHECK_EQUAL("vmsave-saves-tr", other_vmcb.save.tr.selector, TSS);
	CHECK_EQUAL("vmsave-saves-its-attributes", other_vmcb.save.tr.attr, 0x8b);
	vmcb = other_vmcb;
	vmcb.save.kernel_gs_base = 0x123456789;
	vmcb.save.star = 0xaabb00000000;
	vmcb.save.fs.base = BIT(47) + 0x1000; /* is made canonical if linear addresses have 48 bits */
	asm volatile("vmload %0" : : "a"(&vmcb) : "memory");
	CHECK_EQUAL("vmload-loads-kernel-gs-base", rdmsr(0xc0000102), 0x123456789);
	CHECK_EQUAL("vmload-loads-star", rdmsr(0xc0000081), 0xaabb00000000);
	CHECK_EQUAL("vmload-loads-fs-base", rdmsr(0xc0000100) & (BIT(48) - 1), BIT(47) + 0x1000);
	asm volatile("vmload %0" : : "a"(&other_vmcb) : "memory");
	CHECK_EQUAL("and-back", rdmsr(0xc0000102), other_vmcb.save.kernel_gs_base);
}

void guest_main(void)
{
	svm_start();
	test_operand();
	test_consistency();
	test_state();
	test_vmload_vmsave();
	test_privilege();
	guest_exit();
}
