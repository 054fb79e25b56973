/* EPT and VPID: what violations and misconfigurations say, accessed and dirty flags, and what invalidation is needed
 * for. */
#include "vmx.h"

enum { READ = 1, WRITE = 2, EXECUTE = 4, RIGHTS = 7 };
/* Exit qualification (SDM vol. 3, table 28-7). */
#define QUAL_READ       BIT(0)
#define QUAL_WRITE      BIT(1)
#define QUAL_FETCH      BIT(2)
#define QUAL_RIGHTS(n)  ((u64)(n) << 3)
#define QUAL_LINEAR     BIT(7)
#define QUAL_TRANSLATED BIT(8)

static u64 data_page[512] ALIGNED(4096), code_page[512] ALIGNED(4096), spare_page[512] ALIGNED(4096);

L2(l2_read, "mov data_page + 0x18, %rax; vmcall")
L2(l2_write, "mov %rax, data_page + 0x20; vmcall")
L2(l2_rmw, "lock incq data_page + 0x28; vmcall")
L2(l2_jump, "mov $code_page, %eax; jmp *%rax")

static void make(void (*code)(void))
{
	vmcs_make(code);
	ept_use();
}

static void set_rights(void *page, u64 rights)
{
	u64 *entry = ept_entry(page);
	*entry = (*entry & ~(u64)RIGHTS) | rights;
	invept(1, ept_pointer());
}

struct access_case {
	const char *name;
	void (*code)(void);
	void *page;
	u32 rights, offset;
	u64 qualification; /* 0: no violation */
};

static const struct access_case accesses[] = {
	{ "read-of-readable-page-runs", l2_read, data_page, READ, 0x18, 0 },
	{ "read-of-absent-page-exits", l2_read, data_page, 0, 0x18, QUAL_READ },
	{ "read-of-execute-only-page-exits", l2_read, data_page, EXECUTE, 0x18, QUAL_READ },
	{ "write-to-writable-page-runs", l2_write, data_page, READ | WRITE, 0x20, 0 },
	{ "write-to-read-only-page-exits", l2_write, data_page, READ, 0x20, QUAL_WRITE },
	{ "write-to-absent-page-exits", l2_write, data_page, 0, 0x20, QUAL_WRITE },
	{ "read-modify-write-of-read-only-page-exits", l2_rmw, data_page, READ, 0x28, QUAL_WRITE },
	{ "fetch-from-executable-page-runs", l2_jump, code_page, READ | EXECUTE, 0, 0 },
	{ "fetch-from-execute-only-page-runs", l2_jump, code_page, EXECUTE, 0, 0 },
	{ "fetch-from-data-page-exits", l2_jump, code_page, READ | WRITE, 0, QUAL_FETCH },
};

static void test_accesses(void)
{
	static const u8 vmcall[] = { 0x0f, 0x01, 0xc1 };
	memcpy(code_page, vmcall, sizeof(vmcall));
	for (unsigned i = 0; i < ARRAY_SIZE(accesses); i++) {
		const struct access_case *a = &accesses[i];
		make(a->code);
		set_rights(a->page, a->rights);
		CHECK_EQUAL(a->name, vmx_run(), a->qualification ? EXIT_EPT_VIOLATION : EXIT_VMCALL);
		if (!a->qualification)
			continue;
		u64 address = (u64)a->page + a->offset, q = vmread(F(qualification));
		/* Processors may call a read-modify-write both a read and a write. */
		if (a->code == l2_rmw)
			q &= ~QUAL_READ;
		CHECK_EQUAL("qualification", q & 0x1bf,
			    a->qualification | QUAL_RIGHTS(a->rights) | QUAL_LINEAR | QUAL_TRANSLATED);
		CHECK_EQUAL("guest-physical-address", vmread(F(guest_physical)), address);
		CHECK_EQUAL("guest-linear-address", vmread(F(guest_linear)), address);
		CHECK("saved-rf", vmread(F(guest_rflags)) & BIT(16));
		u64 rip = vmread(F(guest_rip));
		CHECK("rip-is-the-instruction", rip == (a->code == l2_jump ? address : (u64)a->code));
		set_rights(a->page, RIGHTS);
		CHECK_EQUAL("with-rights-it-runs-again", vmx_run(), EXIT_VMCALL);
	}
}

/* A guest page table that EPT hides: the walk is a read (or, to set A and D, a write) of that table. */
static void test_walk(void)
{
	make(l2_read);
	set_rights(boot_pdpt, 0);
	CHECK_EQUAL("walk-through-absent-table-exits", vmx_run(), EXIT_EPT_VIOLATION);
	u64 q = vmread(F(qualification));
	CHECK_EQUAL("qualification-has-no-final-translation", q & 0x1b8, QUAL_LINEAR);
	CHECK("walk-is-a-read", q & QUAL_READ);
	CHECK_EQUAL("guest-physical-address-of-the-table", vmread(F(guest_physical)) & ~0xfffULL, (u64)boot_pdpt);
	CHECK_EQUAL("guest-linear-address-of-the-fetch", vmread(F(guest_linear)), (u64)l2_read);
}

static u32 run_misconfigured(u64 bits)
{
	make(l2_read);
	*ept_entry(data_page) = bits;
	invept(1, ept_pointer());
	return vmx_run();
}

static void test_misconfiguration(void)
{
	u64 page = (u64)data_page;
	CHECK_EQUAL("write-only-is-misconfigured", run_misconfigured(page | 6 << 3 | WRITE), EXIT_EPT_MISCONFIG);
	CHECK_EQUAL("guest-physical-address-of-it", vmread(F(guest_physical)), page + 0x18);
	CHECK_EQUAL("write-execute-is-misconfigured", run_misconfigured(page | 6 << 3 | WRITE | EXECUTE),
		    EXIT_EPT_MISCONFIG);
	CHECK_EQUAL("reserved-memory-type-is-misconfigured", run_misconfigured(page | 2 << 3 | RIGHTS),
		    EXIT_EPT_MISCONFIG);
	CHECK_EQUAL("address-too-wide-is-misconfigured", run_misconfigured(BIT(51) | 6 << 3 | RIGHTS),
		    EXIT_EPT_MISCONFIG);
	CHECK_EQUAL("absent-is-a-violation-whatever-else", run_misconfigured(BIT(51) | 2 << 3), EXIT_EPT_VIOLATION);
	make(l2_read);
	ept_pdpt[0] |= 1 << 3;
	invept(1, ept_pointer());
	CHECK_EQUAL("reserved-bits-of-tables-are-misconfigured", vmx_run(), EXIT_EPT_MISCONFIG);
}

enum { ACCESSED = 1 << 8, DIRTY = 1 << 9 };

static void make_ad(void (*code)(void), bool enabled)
{
	make(code);
	vmwrite(F(eptp), ept_pointer() | (enabled ? EPTP_AD : 0));
}

static void test_accessed_dirty(void)
{
	make_ad(l2_read, false);
	CHECK_EQUAL("read-without-ad", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("leaves-the-flags", *ept_entry(data_page) & (ACCESSED | DIRTY), 0);
	make_ad(l2_read, true);
	CHECK_EQUAL("read-with-ad", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("sets-accessed", *ept_entry(data_page) & (ACCESSED | DIRTY), ACCESSED);
	CHECK("and-in-every-table", (ept_pml4[0] & ACCESSED) && (ept_pdpt[0] & ACCESSED) && (ept_pd[0][0] & ACCESSED));
	CHECK_EQUAL("guest-tables-are-written", *ept_entry(boot_pml4) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
	make_ad(l2_write, true);
	CHECK_EQUAL("write-with-ad", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("sets-accessed-and-dirty", *ept_entry(data_page) & (ACCESSED | DIRTY), ACCESSED | DIRTY);
	make_ad(l2_read, true);
	set_rights(boot_pdpt, READ);
	CHECK_EQUAL("walk-of-read-only-table-with-ad-exits", vmx_run(), EXIT_EPT_VIOLATION);
	CHECK_EQUAL("as-a-write", vmread(F(qualification)) & (QUAL_WRITE | QUAL_LINEAR | QUAL_TRANSLATED),
		    QUAL_WRITE | QUAL_LINEAR);
}

static void test_large_pages(void)
{
	data_page[3] = 0x1111;
	make(l2_read);
	ept_pd[0][0] = 0x80 | 6 << 3 | RIGHTS;
	invept(1, ept_pointer());
	CHECK_EQUAL("2-mib-page-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("2-mib-page-translates", l2_regs[L2_RAX], 0x1111);
	make(l2_read);
	ept_pdpt[0] = 0x80 | 6 << 3 | RIGHTS;
	invept(1, ept_pointer());
	CHECK_EQUAL("1-gib-page-runs", vmx_run(), EXIT_VMCALL);
	make(l2_read);
	ept_pdpt[0] = 0x80 | 0x1000 | 6 << 3 | RIGHTS;
	invept(1, ept_pointer());
	CHECK_EQUAL("reserved-bits-of-large-page-are-misconfigured", vmx_run(), EXIT_EPT_MISCONFIG);
}

static void test_memory_types(void)
{
	if (!(rdmsr(MSR_VMX_EPT_VPID) & BIT(8))) {
		skip("uncacheable-tables-work", "KVM gives its guests no memory type UC");
		return;
	}
	make(l2_read);
	vmwrite(F(eptp), (u64)ept_pml4 | EPTP_WALK4 | EPTP_TYPE_UC);
	CHECK_EQUAL("uncacheable-tables-work", vmx_run(), EXIT_VMCALL);
}

/* EPT maps a guest page elsewhere: with INVEPT the change is seen at once. */
static void test_invept(void)
{
	data_page[3] = 0xaaaa;
	spare_page[3] = 0xbbbb;
	make(l2_read);
	vmx_run();
	CHECK_EQUAL("first-page-is-read", l2_regs[L2_RAX], 0xaaaa);
	for (unsigned type = 1; type <= 2; type++) {
		*ept_entry(data_page) = (u64)(type == 1 ? spare_page : data_page) | 6 << 3 | RIGHTS;
		invept(type, ept_pointer());
		vmwrite(F(guest_rip), (u64)l2_read);
		vmx_run();
		CHECK_EQUAL("after-invept-the-other-page-is-read", l2_regs[L2_RAX], type == 1 ? 0xbbbb : 0xaaaa);
	}
}

/* --- VPID --- */

enum { VIRTUAL = 0x40000000 }; /* mapped by one page table of our own: boot_pd[1][0] */
static u64 page_table[512] ALIGNED(4096);

L2(l2_read_virtual, "mov 0x40000018, %rax; vmcall")

static void map_virtual(void *page)
{
	page_table[0] = (u64)page | 3;
	boot_pd[1][0] = (u64)page_table | 3;
}

static u64 read_virtual(u16 vpid)
{
	vmwrite(F(vpid), vpid);
	vmwrite(F(guest_rip), (u64)l2_read_virtual);
	if (vmx_run() != EXIT_VMCALL)
		return ~0ULL;
	return l2_regs[L2_RAX];
}

static void test_invvpid(void)
{
	static const struct {
		const char *name;
		u64 type, vpid, address;
	} invalidations[] = {
		{ "individual-address-invvpid-is-enough", 0, 1, VIRTUAL },
		{ "single-context-invvpid-is-enough", 1, 1, 0 },
		{ "all-context-invvpid-is-enough", 2, 0, 0 },
		{ "retaining-globals-invvpid-is-enough", 3, 1, 0 },
	};
	data_page[3] = 0x1111;
	spare_page[3] = 0x2222;
	vmcs_make(l2_read_virtual);
	vmcs_set(F(cpu_controls2), CPU2_VPID);
	map_virtual(data_page);
	CHECK_EQUAL("guest-with-vpid-reads", read_virtual(1), 0x1111);
	for (unsigned i = 0; i < ARRAY_SIZE(invalidations); i++) {
		bool spare = i % 2 == 0;
		map_virtual(spare ? spare_page : data_page);
		invvpid(invalidations[i].type, invalidations[i].vpid, invalidations[i].address);
		CHECK_EQUAL(invalidations[i].name, read_virtual(1), spare ? 0x2222 : 0x1111);
	}
}

/* Without VPIDs each entry and exit flushes; different VPIDs do not see each other. */
static void test_tagging(void)
{
	vmcs_make(l2_read_virtual);
	map_virtual(data_page);
	CHECK_EQUAL("guest-without-vpid-reads", read_virtual(0), 0x1111);
	map_virtual(spare_page);
	CHECK_EQUAL("entry-without-vpid-flushes", read_virtual(0), 0x2222);
	volatile u64 *root = (volatile u64 *)(u64)VIRTUAL;
	CHECK_EQUAL("so-does-the-exit", root[3], 0x2222);
	vmcs_set(F(cpu_controls2), CPU2_VPID);
	map_virtual(data_page);
	CHECK_EQUAL("a-new-vpid-starts-empty", read_virtual(7), 0x1111);
	map_virtual(spare_page);
	CHECK_EQUAL("another-vpid-has-its-own-translations", read_virtual(8), 0x2222);
	boot_pd[1][0] = 0x40000083;
	write_cr3(read_cr3());
}

void guest_main(void)
{
	vmx_start();
	test_accesses();
	test_walk();
	test_misconfiguration();
	test_accessed_dirty();
	test_large_pages();
	test_memory_types();
	test_invept();
	test_invvpid();
	test_tagging();
}
