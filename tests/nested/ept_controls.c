/* What controls add to EPT: the page-modification log, #VE, EPTP switching, mode-based execute control, five levels. */
#include "vmx.h"

enum { READ = 1, WRITE = 2, EXECUTE = 4, RIGHTS = 7, EXECUTE_USER = 1 << 10, MEMORY_WB = 6 << 3 };
enum { ACCESSED = 1 << 8, DIRTY = 1 << 9 };
#define SUPPRESS_VE BIT(63)
/* Exit qualification (SDM vol. 3, table 28-7). */
#define QUAL_WRITE      BIT(1)
#define QUAL_FETCH      BIT(2)
#define QUAL_USER_EXEC  BIT(6)
#define QUAL_LINEAR     BIT(7)
#define QUAL_TRANSLATED BIT(8)
#define QUAL_PAGING     BITS(11, 9)
#define QUAL_USER       BIT(9)
#define QUAL_WRITABLE   BIT(10)

static u64 data_page[512] ALIGNED(4096), spare_page[512] ALIGNED(4096), code_page[512] ALIGNED(4096);
static u64 list_page[512] ALIGNED(4096), log_page[512] ALIGNED(4096), pml5[512] ALIGNED(4096);
static struct ve_info ve_page ALIGNED(4096);

L2(l2_read, "mov data_page + 0x18, %rax; vmcall")
L2(l2_write, "mov %rax, data_page + 0x20; vmcall")
L2(l2_write_two, "mov %rax, data_page; mov %rax, spare_page; mov %rax, data_page + 8; vmcall")
L2(l2_jump, "mov $code_page, %eax; jmp *%rax")

static void make(void (*code)(void))
{
	vmcs_make(code);
	ept_use();
}

static void set_entry(void *page, u64 entry)
{
	*ept_entry(page) = entry;
	invept(1, ept_pointer());
}

static u64 page_entry(void *page)
{
	return (u64)page | MEMORY_WB | RIGHTS;
}

/* --- page-modification logging --- */

static void make_pml(void (*code)(void), u16 index)
{
	make(code);
	vmwrite(F(eptp), ept_pointer() | EPTP_AD);
	vmcs_set(F(cpu_controls2), CPU2_PML);
	vmwrite(F(pml_address), (u64)log_page);
	vmwrite(F(guest_pml_index), index);
	memset(log_page, 0, sizeof(log_page));
}

static bool is_logged(void *page)
{
	for (unsigned i = 0; i < 512; i++)
		if (log_page[i] == (u64)page)
			return true;
	return false;
}

static void test_pml(void)
{
	make_pml(l2_write_two, 511);
	CHECK_EQUAL("logged-writes-run", vmx_run(), EXIT_VMCALL);
	CHECK("each-dirtied-page-is-logged", is_logged(data_page) && is_logged(spare_page));
	CHECK("so-are-the-guests-tables", is_logged(boot_pml4));
	unsigned used = 511 - (u16)vmread(F(guest_pml_index)), entries = 0;
	for (unsigned i = 0; i < 512; i++)
		entries += log_page[i] != 0;
	CHECK_EQUAL("each-once", entries, used);
	CHECK("from-the-top", log_page[511] != 0);
	vmwrite(F(guest_rip), (u64)l2_write_two);
	CHECK_EQUAL("dirty-pages-are-not-logged-again", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-leave-the-index", 511 - (u16)vmread(F(guest_pml_index)), used);

	make_pml(l2_write, 511);
	vmwrite(F(eptp), ept_pointer());
	CHECK_EQUAL("without-dirty-flags-nothing-is-logged", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("nor-counted", vmread(F(guest_pml_index)), 511);
}

static void test_pml_full(void)
{
	make_pml(l2_write, 511);
	CHECK_EQUAL("first-run-dirties-the-tables", vmx_run(), EXIT_VMCALL);
	set_entry(data_page, page_entry(data_page));
	invept(1, ept_pointer() | EPTP_AD);
	vmwrite(F(guest_rip), (u64)l2_write);
	vmwrite(F(guest_pml_index), 0xffff);
	CHECK_EQUAL("write-with-a-full-log-exits", vmx_run(), EXIT_PML_FULL);
	CHECK_EQUAL("before-the-write", vmread(F(guest_rip)), (u64)l2_write);
	CHECK_EQUAL("and-before-the-flags", *ept_entry(data_page) & (ACCESSED | DIRTY), 0);
	CHECK_EQUAL("pml-full-qualification", vmread(F(qualification)), 0);
	CHECK("pml-full-saves-rf", vmread(F(guest_rflags)) & BIT(16));
	vmwrite(F(guest_pml_index), 0);
	CHECK_EQUAL("with-room-it-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("the-last-entry-is-used", log_page[0], (u64)data_page);
	CHECK_EQUAL("the-index-wraps", vmread(F(guest_pml_index)), 0xffff);
	make_pml(l2_write, 511);
	vmwrite(F(pml_address), 0xf0000000);
	CHECK_EQUAL("log-outside-ram-hurts-nobody", vmx_run(), EXIT_VMCALL);
}

/* --- #VE --- */

volatile u64 ve_count; /* not static: the handler below counts it */
void l2_ve_handler(void);
/* Counts, and skips the access, which has 8 bytes. */
asm(".text\nl2_ve_handler: incq ve_count\n addq $8, (%rsp)\n iretq");

static struct gate {
	u64 low, high;
} l2_idt[32] ALIGNED(16);

static void make_ve(void (*code)(void), u64 entry)
{
	u64 handler = (u64)l2_ve_handler;
	make(code);
	memset(l2_idt, 0, sizeof(l2_idt));
	memset(&ve_page, 0, sizeof(ve_page));
	l2_idt[20].low = (handler & 0xffff) | (u64)CODE64 << 16 | 0x8e00ULL << 32 | (handler >> 16 & 0xffff) << 48;
	vmwrite(F(guest_idtr_base), (u64)l2_idt);
	vmwrite(F(guest_idtr_limit), sizeof(l2_idt) - 1);
	vmcs_set(F(cpu_controls2), CPU2_EPT_VE);
	vmwrite(F(ve_info), (u64)&ve_page);
	vmwrite(F(eptp_index), 7);
	ve_count = 0;
	set_entry(data_page, entry);
}

static void test_ve(void)
{
	u64 address = (u64)data_page + 0x18;
	make_ve(l2_read, 0);
	CHECK_EQUAL("violation-becomes-ve", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("once", ve_count, 1);
	CHECK_EQUAL("ve-reason", ve_page.reason, EXIT_EPT_VIOLATION);
	CHECK_EQUAL("ve-area-is-taken", ve_page.busy, 0xffffffff);
	CHECK_EQUAL("ve-qualification", ve_page.qualification & ~QUAL_PAGING, 1 | QUAL_LINEAR | QUAL_TRANSLATED);
	CHECK_EQUAL("ve-linear-address", ve_page.linear, address);
	CHECK_EQUAL("ve-physical-address", ve_page.physical, address);
	CHECK_EQUAL("ve-eptp-index", ve_page.eptp_index, 7);
	vmwrite(F(guest_rip), (u64)l2_read);
	CHECK_EQUAL("violation-with-the-area-taken-exits", vmx_run(), EXIT_EPT_VIOLATION);

	make_ve(l2_read, SUPPRESS_VE);
	CHECK_EQUAL("suppressed-violation-of-absent-page-exits", vmx_run(), EXIT_EPT_VIOLATION);
	make_ve(l2_write, page_entry(data_page) & ~(u64)WRITE);
	CHECK_EQUAL("violation-of-rights-becomes-ve", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("once-too", ve_count, 1);
	make_ve(l2_write, (page_entry(data_page) & ~(u64)WRITE) | SUPPRESS_VE);
	CHECK_EQUAL("suppressed-violation-of-rights-exits", vmx_run(), EXIT_EPT_VIOLATION);
	make_ve(l2_read, (u64)data_page | WRITE | MEMORY_WB);
	CHECK_EQUAL("misconfiguration-exits", vmx_run(), EXIT_EPT_MISCONFIG);
	make_ve(l2_read, 0);
	vmwrite(F(exception_bitmap), BIT(20));
	CHECK_EQUAL("ve-is-an-exception-of-the-bitmap", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("vector-20-without-error-code", vmread(F(exit_event)), EVENT_INFO_VALID | 3 << 8 | 20);
	make_ve(l2_read, 0);
	vmcs_clear_bits(F(cpu_controls2), CPU2_EPT_VE);
	CHECK_EQUAL("without-the-control-violations-exit", vmx_run(), EXIT_EPT_VIOLATION);
	make_ve(l2_read, 0);
	set_entry(l2_idt, 0);
	vmwrite(F(exception_bitmap), 0);
	CHECK_EQUAL("violation-in-delivery-exits", vmx_run(), EXIT_EPT_VIOLATION);
	CHECK_EQUAL("with-the-ve-as-vectoring", vmread(F(vectoring_event)), EVENT_INFO_VALID | 3 << 8 | 20);
}

/* --- VMFUNC --- */

L2(l2_vmfunc, "vmfunc; mov data_page + 0x18, %rbx; vmcall")

/* A second set of tables, which maps the data page to the spare one. */
static u64 other_pml4[512] ALIGNED(4096),
	other_pdpt[512] ALIGNED(4096), other_pd[512] ALIGNED(4096), other_pt[512] ALIGNED(4096);

static u64 other_pointer(void)
{
	u64 page = (u64)data_page >> 12;
	other_pml4[0] = (u64)other_pdpt | RIGHTS;
	memcpy(other_pdpt, ept_pdpt, sizeof(ept_pdpt));
	other_pdpt[0] = (u64)other_pd | RIGHTS;
	memcpy(other_pd, ept_pd[0], sizeof(other_pd));
	other_pd[page >> 9] = (u64)other_pt | RIGHTS;
	memcpy(other_pt, ept_pt[page >> 9], sizeof(other_pt));
	other_pt[page & 511] = page_entry(spare_page);
	return (u64)other_pml4 | EPTP_WALK4 | EPTP_TYPE_WB;
}

static u32 run_vmfunc(u64 function, u64 index)
{
	l2_regs[L2_RAX] = function;
	l2_regs[L2_RCX] = index;
	return vmx_run();
}

static void make_vmfunc(u64 functions)
{
	make(l2_vmfunc);
	vmcs_set(F(cpu_controls2), CPU2_VM_FUNCTIONS);
	vmwrite(F(vm_functions), functions);
	vmwrite(F(eptp_list), (u64)list_page);
	vmwrite(F(exception_bitmap), BIT(UD));
	list_page[0] = ept_pointer();
	list_page[511] = other_pointer();
	list_page[1] = other_pointer() | 1;
}

static void test_vmfunc(void)
{
	data_page[3] = 0x1111;
	spare_page[3] = 0x2222;
	CHECK_EQUAL("vmfunc-capability-is-eptp-switching", rdmsr(MSR_VMX_VMFUNC), VMFUNC_EPTP_SWITCHING);
	make_vmfunc(VMFUNC_EPTP_SWITCHING);
	CHECK_EQUAL("eptp-switching-runs", run_vmfunc(0, 511), EXIT_VMCALL);
	CHECK_EQUAL("with-the-other-tables", l2_regs[L2_RBX], 0x2222);
	CHECK_EQUAL("which-the-vmcs-names", vmread(F(eptp)), other_pointer());
	CHECK_EQUAL("without-ve-the-index-stays", vmread(F(eptp_index)), 0);
	vmwrite(F(guest_rip), (u64)l2_vmfunc);
	CHECK_EQUAL("switching-back-runs", run_vmfunc(0, 0), EXIT_VMCALL);
	CHECK_EQUAL("with-the-first-tables", l2_regs[L2_RBX], 0x1111);
	make_vmfunc(VMFUNC_EPTP_SWITCHING);
	vmcs_set(F(cpu_controls2), CPU2_EPT_VE);
	vmwrite(F(ve_info), (u64)&ve_page);
	CHECK_EQUAL("with-ve-it-runs", run_vmfunc(0, 511), EXIT_VMCALL);
	CHECK_EQUAL("and-notes-the-index", vmread(F(eptp_index)), 511);

	make_vmfunc(VMFUNC_EPTP_SWITCHING);
	CHECK_EQUAL("index-beyond-the-list-exits", run_vmfunc(0, 512), EXIT_VMFUNC);
	CHECK_EQUAL("vmfunc-exit-length", vmread(F(exit_insn_length)), 3);
	CHECK_EQUAL("bad-pointer-in-the-list-exits", run_vmfunc(0, 1), EXIT_VMFUNC);
	CHECK_EQUAL("function-that-is-off-exits", run_vmfunc(1, 0), EXIT_VMFUNC);
	CHECK_EQUAL("function-64-is-ud", run_vmfunc(64, 0), EXIT_EXCEPTION_NMI);
	make_vmfunc(0);
	CHECK_EQUAL("switching-that-is-off-exits", run_vmfunc(0, 0), EXIT_VMFUNC);
	make_vmfunc(VMFUNC_EPTP_SWITCHING);
	vmwrite(F(eptp_list), 0xf0000000);
	CHECK_EQUAL("list-outside-ram-exits", run_vmfunc(0, 0), EXIT_VMFUNC);
	make(l2_vmfunc);
	vmwrite(F(exception_bitmap), BIT(UD));
	CHECK_EQUAL("without-the-control-vmfunc-is-ud", run_vmfunc(0, 0), EXIT_EXCEPTION_NMI);
}

/* --- mode-based execute control, and what violations say of the page --- */

static u32 run_fetch(bool control, bool user, u64 rights)
{
	static const u8 vmcall[] = { 0x0f, 0x01, 0xc1 };
	memcpy(code_page, vmcall, sizeof(vmcall));
	make(l2_jump);
	if (control) {
		vmcs_set(F(cpu_controls2), CPU2_MODE_BASED_EXECUTE);
		for (u64 i = 0; i < 8 * 512; i++)
			ept_pt[i / 512][i % 512] |= EXECUTE_USER;
		for (u64 i = 0; i < 8; i++)
			ept_pd[0][i] |= EXECUTE_USER;
		ept_pml4[0] |= EXECUTE_USER;
		ept_pdpt[0] |= EXECUTE_USER;
	}
	if (user) { /* the mode of the address is that of its tables */
		open_to_user();
		vmwrite(F(guest_cr4), vmread(F(guest_cr4)) & ~BIT(20));
	}
	set_entry(code_page, (u64)code_page | MEMORY_WB | rights);
	return vmx_run();
}

static void test_mode_based_execute(void)
{
	CHECK_EQUAL("supervisor-fetch-needs-bit-2", run_fetch(true, false, READ | EXECUTE), EXIT_VMCALL);
	CHECK_EQUAL("bit-10-does-not-help-it", run_fetch(true, false, READ | EXECUTE_USER), EXIT_EPT_VIOLATION);
	CHECK_EQUAL("qualification-says-user-execute", vmread(F(qualification)),
		    QUAL_FETCH | READ << 3 | QUAL_USER_EXEC | QUAL_LINEAR | QUAL_TRANSLATED | QUAL_WRITABLE);
	CHECK_EQUAL("bit-10-alone-is-present", run_fetch(true, false, EXECUTE_USER), EXIT_EPT_VIOLATION);
	CHECK_EQUAL("with-that-right", vmread(F(qualification)) & (7 << 3 | QUAL_USER_EXEC), QUAL_USER_EXEC);
	CHECK_EQUAL("without-the-control-bit-10-is-ignored", run_fetch(false, false, READ | EXECUTE), EXIT_VMCALL);
	CHECK_EQUAL("and-grants-nothing", run_fetch(false, false, READ | EXECUTE_USER), EXIT_EPT_VIOLATION);
	CHECK_EQUAL("user-fetch-needs-bit-10", run_fetch(true, true, READ | EXECUTE_USER), EXIT_VMCALL);
	CHECK_EQUAL("bit-2-does-not-help-it", run_fetch(true, true, READ | EXECUTE), EXIT_EPT_VIOLATION);
	CHECK_EQUAL("qualification-says-user-page", vmread(F(qualification)),
		    QUAL_FETCH | (READ | EXECUTE) << 3 | QUAL_LINEAR | QUAL_TRANSLATED | QUAL_USER | QUAL_WRITABLE);
	CHECK_EQUAL("without-the-control-user-fetches-need-bit-2", run_fetch(false, true, READ | EXECUTE), EXIT_VMCALL);
}

/* --- five levels --- */

static void test_five_levels(void)
{
	data_page[3] = 0x5555;
	make(l2_read);
	memset(pml5, 0, sizeof(pml5));
	pml5[0] = (u64)ept_pml4 | RIGHTS;
	vmwrite(F(eptp), (u64)pml5 | EPTP_WALK5 | EPTP_TYPE_WB);
	CHECK_EQUAL("five-levels-run", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-translate", l2_regs[L2_RAX], 0x5555);
	pml5[0] |= 1 << 3;
	invept(2, 0);
	vmwrite(F(guest_rip), (u64)l2_read);
	CHECK_EQUAL("reserved-bits-of-the-fifth-level-are-misconfigured", vmx_run(), EXIT_EPT_MISCONFIG);
	pml5[0] = 0;
	invept(2, 0);
	CHECK_EQUAL("absent-fifth-level-is-a-violation", vmx_run(), EXIT_EPT_VIOLATION);
}

void guest_main(void)
{
	vmx_start();
	test_pml();
	test_pml_full();
	test_ve();
	test_vmfunc();
	test_five_levels();
	test_mode_based_execute();
}
