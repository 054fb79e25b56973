/*
 * Nested paging: faults and what they report, accessed and dirty bits, ASIDs and their flushes, guests in each paging
 * mode.
 */
#include "svm.h"

static u64 cell ALIGNED(4096);
static u64 guest_pdpt[4] ALIGNED(32), guest_pd[512] ALIGNED(4096);
static u8 code_page[4096] ALIGNED(4096);

L2(l2_read, "mov cell, %rbx; vmmcall")
L2(l2_write, "movq $1, cell; vmmcall")
L2(l2_run_code, "call code_page; vmmcall")

enum { P = 1, W = 2, U = 4, RSVD = 8, FETCH = 16 };
#define FINAL BIT(32)
#define TABLE BIT(33)

static u64 fault_of(void (*code)(void), u64 *entry, u64 set, u64 clear)
{
	vmcb_make(code);
	npt_use();
	*entry = (*entry | set) & ~clear;
	return svm_run();
}

static void expect(const char *name, u64 exit, u64 info, const void *at)
{
	CHECK_EQUAL(name, exit, SVM_EXIT_NPF);
	CHECK_EQUAL("exitinfo1", vmcb.control.exit_info1, info);
	CHECK_EQUAL("exitinfo2-is-the-address", vmcb.control.exit_info2 & ~4095ULL, (u64)at & ~4095ULL);
}

static void test_faults(void)
{
	u64 *e = npt_entry(&cell);
	vmcb_make(l2_read);
	npt_use();
	CHECK_EQUAL("an-identity-map-runs", svm_run(), SVM_EXIT_VMMCALL);
	expect("not-present", fault_of(l2_read, e, 0, PTE_P), U | FINAL, &cell);
	CHECK_EQUAL("rip-is-the-instruction", vmcb.save.rip, (u64)l2_read);
	if (svm_has(DECODE_ASSISTS))
		CHECK("its-bytes-are-there",
		      vmcb.control.insn_length >= 8 && !memcmp(vmcb.control.insn_bytes, (void *)l2_read, 8));
	expect("not-present-for-a-write", fault_of(l2_write, e, 0, PTE_P), W | U | FINAL, &cell);
	expect("read-only", fault_of(l2_write, e, 0, PTE_W), P | W | U | FINAL, &cell);
	CHECK_EQUAL("read-only-can-be-read", fault_of(l2_read, e, 0, PTE_W), SVM_EXIT_VMMCALL);
	expect("supervisor-page", fault_of(l2_read, e, 0, PTE_U), P | U | FINAL, &cell);
	expect("reserved-bit", fault_of(l2_read, e, BIT(51), 0), P | U | RSVD | FINAL, &cell);
}

static void test_execute(void)
{
	code_page[0] = 0xc3;
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
	expect("no-execute", fault_of(l2_run_code, npt_entry(code_page), PTE_NX, 0), P | U | FETCH | FINAL, code_page);
	CHECK_EQUAL("no-bytes-of-a-fetch", vmcb.control.insn_length, 0);
	vmcb_make(l2_run_code);
	npt_use();
	*npt_entry(code_page) |= PTE_NX;
	vmcb.save.efer &= ~EFER_NXE;
	CHECK_EQUAL("the-guests-nxe-means-nothing-to-it", svm_run(), SVM_EXIT_NPF);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_NXE);
	expect("nx-is-reserved-without-the-hosts-nxe", fault_of(l2_run_code, npt_entry(code_page), PTE_NX, 0),
	       P | U | RSVD | FINAL, code_page);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
}

/* Guest page tables are looked at as if written. */
static void test_tables(void)
{
	u64 *e = npt_entry(boot_pml4);
	expect("table-not-present", fault_of(l2_read, e, 0, PTE_P), W | U | TABLE, boot_pml4);
	expect("table-read-only", fault_of(l2_read, e, 0, PTE_W), P | W | U | TABLE, boot_pml4);
	vmcb_make(l2_read);
	npt_use();
	npt_pml4[0] |= BIT(8);
	CHECK_EQUAL("bit-8-of-a-pml4e-is-reserved", svm_run(), SVM_EXIT_NPF);
	CHECK_EQUAL("exitinfo1", vmcb.control.exit_info1, P | W | U | RSVD | TABLE);
}

static void test_accessed_dirty(void)
{
	CHECK_EQUAL("l2-reads", fault_of(l2_read, npt_entry(&cell), 0, 0), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("accessed-is-set", *npt_entry(&cell) & (PTE_A | PTE_D), PTE_A);
	CHECK("accessed-is-set-above", npt_pml4[0] & npt_pdpt[0] & npt_pd[0][0] & PTE_A);
	CHECK_EQUAL("tables-are-dirty", *npt_entry(boot_pml4) & (PTE_A | PTE_D), PTE_A | PTE_D);
	CHECK_EQUAL("l2-writes", fault_of(l2_write, npt_entry(&cell), 0, 0), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("dirty-is-set", *npt_entry(&cell) & (PTE_A | PTE_D), PTE_A | PTE_D);
}

/* Two ASIDs remember their own translations; TLB_CONTROL and INVLPGA make them forget. */
static u64 read_as(u32 asid, u8 control)
{
	vmcb.control.asid = asid;
	vmcb.control.tlb_control = control;
	vmcb.save.rip = (u64)l2_read;
	return svm_run();
}

static void test_flushes(void)
{
	static const u8 controls[] = { TLB_FLUSH_ALL, TLB_FLUSH_ASID, TLB_FLUSH_ASID_LOCAL };
	for (unsigned i = 0; i < ARRAY_SIZE(controls); i++) {
		vmcb_make(l2_read);
		npt_use();
		CHECK_EQUAL("l2-reads", read_as(1, TLB_FLUSH_ALL), SVM_EXIT_VMMCALL);
		*npt_entry(&cell) &= ~PTE_P;
		CHECK_EQUAL("the-flush-makes-a-change-seen", read_as(1, controls[i]), SVM_EXIT_NPF);
		CHECK_EQUAL("and-another-asid-sees-it-too", read_as(2, TLB_KEEP), SVM_EXIT_NPF);
	}
	vmcb_make(l2_read);
	npt_use();
	CHECK_EQUAL("l2-reads", read_as(3, TLB_FLUSH_ALL), SVM_EXIT_VMMCALL);
	*npt_entry(&cell) &= ~PTE_P;
	asm volatile("invlpga %0, %1" : : "a"(&cell), "c"(3) : "memory");
	CHECK_EQUAL("invlpga-makes-a-change-seen", read_as(3, TLB_KEEP), SVM_EXIT_NPF);
}

/* --- guests in other paging modes --- */

asm(".code32\n"
    "l2_read32: mov cell, %ebx; vmmcall\n"
    ".code64\n");
extern u8 l2_read32[];

static void make_guest32(u64 cr3, bool pae)
{
	vmcb_make((void (*)(void))l2_read32);
	npt_use();
	vmcb.save.cs.attr = 0xc9b;
	vmcb.save.efer &= ~(EFER_LME | BIT(10));
	vmcb.save.cr4 = (vmcb.save.cr4 & ~(CR4_PAE | BIT(4))) | (pae ? CR4_PAE : BIT(4));
	vmcb.save.cr3 = cr3;
}

static void make_pae_tables(void)
{
	guest_pdpt[0] = (u64)guest_pd | PTE_P;
	for (u64 i = 0; i < 512; i++)
		guest_pd[i] = i << 21 | 0x80 | PTE_P | PTE_W;
}

static void test_pae_guest(void)
{
	make_pae_tables();
	make_guest32((u64)guest_pdpt, true);
	l2_regs[L2_RBX] = 0;
	cell = 0x1234567;
	CHECK_EQUAL("pae-guest-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-reads-through-both", l2_regs[L2_RBX], 0x1234567);
	make_guest32((u64)guest_pdpt, true);
	guest_pdpt[0] |= BIT(1);
	intercept(SVM_EXIT_EXCEPTION + PF);
	CHECK_EQUAL("a-bad-pdpte-is-found-by-the-walk", svm_run(), SVM_EXIT_EXCEPTION + PF);
	CHECK_EQUAL("as-a-reserved-bit", vmcb.control.exit_info1 & RSVD, RSVD);
	guest_pdpt[0] = 0;
	make_guest32((u64)guest_pdpt, true);
	intercept(SVM_EXIT_EXCEPTION + PF);
	CHECK_EQUAL("so-is-one-that-is-not-present", svm_run(), SVM_EXIT_EXCEPTION + PF);
	make_pae_tables();
	make_guest32((u64)guest_pdpt, true);
	*npt_entry(guest_pdpt) &= ~PTE_W;
	expect("pdptes-go-through-nested-paging", svm_run(), P | W | U | TABLE, guest_pdpt);
}

static void test_legacy_guest(void)
{
	u32 *pd = (u32 *)guest_pd;
	for (u32 i = 0; i < 1024; i++)
		pd[i] = i << 22 | 0x80 | PTE_P | PTE_W;
	make_guest32((u64)guest_pd, false);
	l2_regs[L2_RBX] = 0;
	CHECK_EQUAL("legacy-guest-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-reads-through-both", l2_regs[L2_RBX], 0x1234567);
}

static void test_guest_without_paging(void)
{
	make_guest32(0, false);
	vmcb.save.cr0 &= ~CR0_PG;
	l2_regs[L2_RBX] = 0;
	CHECK_EQUAL("guest-without-paging-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-reads-through-nested-paging", l2_regs[L2_RBX], 0x1234567);
}

/* Virtual VMLOAD and VMSAVE go through nested paging; others name the machine's memory. */
L2(l2_vmsave, "lea other_vmcb, %rax; vmsave %rax; vmmcall")

static void test_virtual_vmsave(void)
{
	vmcb_make(l2_vmsave);
	npt_use();
	*npt_entry(&other_vmcb) &= ~PTE_W;
	CHECK_EQUAL("vmsave-is-the-machines", svm_run(), SVM_EXIT_VMMCALL);
	vmcb_make(l2_vmsave);
	npt_use();
	*npt_entry(&other_vmcb) &= ~PTE_W;
	vmcb.control.virt_ext = VIRT_EXT_VMLOAD_SAVE;
	expect("virtual-vmsave-is-the-guests", svm_run(), P | W | U | FINAL, &other_vmcb);
	memset(&other_vmcb, 0, sizeof(other_vmcb));
	vmcb_make(l2_vmsave);
	npt_use();
	vmcb.control.virt_ext = VIRT_EXT_VMLOAD_SAVE;
	CHECK_EQUAL("virtual-vmsave-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-saves", other_vmcb.save.tr.selector, TSS);
}

void guest_main(void)
{
	svm_start();
	test_faults();
	test_execute();
	test_tables();
	test_accessed_dirty();
	test_flushes();
	test_pae_guest();
	test_legacy_guest();
	test_guest_without_paging();
	test_virtual_vmsave();
	guest_exit();
}
