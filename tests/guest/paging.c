/* 4-level paging as a guest sees it: rights, error codes, accessed and dirty bits, TLB flushes, PCID. */
#include "lib/guest.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define NX  BIT(63)
#define PWU (P | W | U)

/* Error code bits. */
enum { E_P = 1, E_W = 2, E_U = 4, E_RSVD = 8, E_FETCH = 16 };

#define CR0_WP    BIT(16)
#define CR4_PGE   BIT(7)
#define CR4_PCIDE BIT(17)
#define CR4_SMEP  BIT(20)
#define CR4_SMAP  BIT(21)

/* Tables of a window at 512 GiB, apart from the identity map. */
static u64 window_pdpt[512] ALIGNED(4096), window_pd[512] ALIGNED(4096), window_pt[512] ALIGNED(4096);
static u8 pages[4][4096] ALIGNED(4096);

#define WINDOW ((u8 *)(1ULL << 39))

static volatile u8 *at(unsigned page)
{
	return WINDOW + page * 4096;
}

static void map(unsigned page, const void *target, u64 bits)
{
	window_pt[page] = (u64)target | bits;
	invlpg((void *)at(page));
}

static void open_window(void)
{
	boot_pml4[1] = (u64)window_pdpt | PWU;
	window_pdpt[0] = (u64)window_pd | PWU;
	window_pd[0] = (u64)window_pt | PWU;
	for (unsigned i = 0; i < 4; i++)
		memset(pages[i], (int)i + 1, sizeof pages[i]);
	write_cr3(read_cr3());
}

static word read_at(volatile u8 *p)
{
	return TRY("movb (%0), %%al", : : "r"(p) : "rax", "memory");
}

static word write_at(volatile u8 *p)
{
	return TRY("movb $9, (%0)", : : "r"(p) : "memory");
}

static word call_at(volatile u8 *p)
{
	return TRY("call *%0", : : "r"(p) : "memory");
}

#define RET 0xc3

static bool page_fault(word vector, volatile u8 *p, word error)
{
	return vector == PF && fault.error == error && fault.address == (word)p;
}

static void test_present(void)
{
	map(0, pages[0], P | W);
	CHECK("reads-what-is-mapped", *at(0) == 1);
	*at(0) = 7;
	CHECK("writes-what-is-mapped", pages[0][0] == 7);
	map(0, pages[1], P | W);
	CHECK("invlpg-brings-the-new-page", *at(0) == 2);
	map(0, 0, 0);
	CHECK("absent-page-read", page_fault(read_at(at(0) + 5), at(0) + 5, 0));
	CHECK("absent-page-write", page_fault(write_at(at(0) + 5), at(0) + 5, E_W));
	window_pd[1] = 0;
	CHECK("absent-directory-read", page_fault(read_at(at(512)), at(512), 0));
	map(0, pages[0], P | W);
	map(1, pages[1], P | W);
	*(volatile u32 *)(at(1) - 2) = 0x44332211;
	CHECK("write-across-pages",
	      pages[0][4094] == 0x11 && pages[0][4095] == 0x22 && pages[1][0] == 0x33 && pages[1][1] == 0x44);
	map(1, 0, 0);
	pages[0][4095] = 0x55;
	word v = TRY("movl $0, (%0)", : : "r"(at(1) - 2) : "memory");
	CHECK("write-into-absent-second-page-faults-there", page_fault(v, at(1), E_W));
	CHECK("write-into-absent-second-page-changes-nothing", pages[0][4095] == 0x55);
	v = TRY("addl $1, (%0)", : : "r"(at(1) - 1) : "memory");
	CHECK("read-modify-write-across-faults-as-a-write", page_fault(v, at(1), E_W));
}

static void test_rights(void)
{
	map(0, pages[0], P);
	CHECK("wp-stops-supervisor-write", page_fault(write_at(at(0)), at(0), E_P | E_W));
	write_cr0(read_cr0() & ~CR0_WP);
	CHECK("without-wp-supervisor-writes-read-only-page", write_at(at(0)) == NO_FAULT);
	write_cr0(read_cr0() | CR0_WP);
	CHECK("wp-again-stops-supervisor-write", page_fault(write_at(at(0)), at(0), E_P | E_W));
	map(0, pages[0], P | W);
	window_pd[0] = (u64)window_pt | P | U;
	write_cr3(read_cr3());
	CHECK("read-only-directory-stops-write", page_fault(write_at(at(0)), at(0), E_P | E_W));
	window_pd[0] = (u64)window_pt | PWU;
	write_cr3(read_cr3());
	CHECK("writable-directory-lets-write", write_at(at(0)) == NO_FAULT);

	pages[0][0] = RET;
	map(0, pages[0], P | W);
	CHECK("executes-without-nx", call_at(at(0)) == NO_FAULT);
	map(0, pages[0], P | W | NX);
	CHECK("nx-stops-fetch", page_fault(call_at(at(0)), at(0), E_P | E_FETCH));
	CHECK("nx-lets-read", read_at(at(0)) == NO_FAULT);
	map(0, pages[0], P | W);
	window_pd[0] = (u64)window_pt | PWU | NX;
	write_cr3(read_cr3());
	CHECK("nx-of-directory-stops-fetch", page_fault(call_at(at(0)), at(0), E_P | E_FETCH));
	window_pd[0] = (u64)window_pt | PWU;
	write_cr3(read_cr3());
	map(0, 0, 0);
	CHECK("absent-fetch", page_fault(call_at(at(0)), at(0), E_FETCH));
}

static void test_reserved(void)
{
	map(0, pages[0], P | W | BIT(51));
	CHECK("address-beyond-maxphyaddr-is-reserved", page_fault(read_at(at(0)), at(0), E_P | E_RSVD));
	map(0, pages[0], P | W);
	window_pd[2] = P | W | PS | BIT(13);
	CHECK("bit-13-of-2m-is-reserved", page_fault(write_at(at(1024)), at(1024), E_P | E_W | E_RSVD));
	window_pd[2] = 0;
	u64 old = boot_pml4[1];
	boot_pml4[1] |= PS;
	write_cr3(read_cr3());
	CHECK("ps-of-pml4e-is-reserved", page_fault(read_at(at(0)), at(0), E_P | E_RSVD));
	boot_pml4[1] = old;
	write_cr3(read_cr3());
	wrmsr(0xc0000080, rdmsr(0xc0000080) & ~BIT(11));
	map(0, pages[0], P | W | NX);
	CHECK("nx-without-nxe-is-reserved", page_fault(read_at(at(0)), at(0), E_P | E_RSVD));
	wrmsr(0xc0000080, rdmsr(0xc0000080) | BIT(11));
	CHECK("nx-with-nxe-reads", read_at(at(0)) == NO_FAULT);
}

static void test_accessed_dirty(void)
{
	map(0, pages[0], P | W);
	boot_pml4[1] &= ~(u64)A;
	window_pdpt[0] &= ~(u64)A;
	window_pd[0] &= ~(u64)A;
	write_cr3(read_cr3());
	(void)*at(0);
	CHECK("read-sets-accessed", (window_pt[0] & (A | D)) == A);
	CHECK("read-sets-accessed-above", boot_pml4[1] & A && window_pdpt[0] & A && window_pd[0] & A);
	*at(0) = 1;
	CHECK("write-sets-dirty", (window_pt[0] & (A | D)) == (A | D));
	CHECK("write-sets-no-dirty-above", !(window_pd[0] & D));
	map(0, pages[0], P | W);
	*at(0) = 1;
	CHECK("write-sets-both", (window_pt[0] & (A | D)) == (A | D));
	map(0, pages[0], P);
	write_at(at(0));
	CHECK("refused-write-sets-no-dirty", !(window_pt[0] & D));
	map(0, pages[0], P | W);
	pages[0][0] = RET;
	call_at(at(0));
	CHECK("fetch-sets-accessed", (window_pt[0] & (A | D)) == A);
}

static void test_large_pages(void)
{
	memset(pages[0], 0x5a, 16);
	u64 two = (u64)pages[0] >> 21 << 21;
	window_pd[3] = two | P | W | PS;
	volatile u8 *p = WINDOW + (3 << 21) + ((u64)pages[0] & 0x1fffff);
	CHECK("2m-page", *p == 0x5a);
	*p = 0x5b;
	CHECK("2m-page-sets-dirty", pages[0][0] == 0x5b && window_pd[3] & D);
	/* INVLPG anywhere in the page drops all of it. */
	(void)*(p + 4096);
	window_pd[3] = 0;
	invlpg(WINDOW + (3 << 21));
	CHECK("invlpg-drops-all-of-a-2m-page", read_at(p) == PF && read_at(p + 4096) == PF);
	window_pdpt[1] = P | W | PS;
	p = WINDOW + BIT(30) + (u64)pages[0];
	CHECK("1g-page", *p == 0x5b);
	window_pdpt[1] = 0;
	invlpg(WINDOW + BIT(30) + BIT(29));
	CHECK("invlpg-drops-all-of-a-1g-page", read_at(p) == PF);
}

static void test_smep_smap(void)
{
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[1] & BIT(7)) || !(r[1] & BIT(20))) {
		skip("smep-and-smap", "not in CPUID");
		return;
	}
	pages[0][0] = RET;
	map(0, pages[0], PWU);
	CHECK("supervisor-executes-user-page-without-smep", call_at(at(0)) == NO_FAULT);
	write_cr4(read_cr4() | CR4_SMEP);
	CHECK("smep-stops-fetch", page_fault(call_at(at(0)), at(0), E_P | E_FETCH));
	CHECK("smep-lets-read", read_at(at(0)) == NO_FAULT);
	write_cr4(read_cr4() & ~CR4_SMEP);
	CHECK("without-smep-again", call_at(at(0)) == NO_FAULT);
	write_cr4(read_cr4() | CR4_SMAP);
	CHECK("smap-stops-read", page_fault(read_at(at(0)), at(0), E_P));
	CHECK("smap-stops-write", page_fault(write_at(at(0)), at(0), E_P | E_W));
	CHECK("smap-lets-fetch", call_at(at(0)) == NO_FAULT);
	asm volatile("stac");
	word with_ac = read_at(at(0));
	asm volatile("clac");
	CHECK("stac-suspends-smap", with_ac == NO_FAULT);
	CHECK("clac-ends-it", page_fault(read_at(at(0)), at(0), E_P));
	map(0, pages[0], P | W);
	CHECK("smap-lets-supervisor-page", read_at(at(0)) == NO_FAULT);
	/* Implicit accesses do not look at AC: a local descriptor table in a user page. */
	map(1, pages[1], PWU);
	u64 base = (u64)at(1);
	gdt[GDT_FREE / 8] = 0xfff | (base & 0xffffff) << 16 | 0x82ULL << 40 | (base >> 24 & 0xff) << 56;
	gdt[GDT_FREE / 8 + 1] = base >> 32;
	((u64 *)pages[1])[1] = 0x00cf93000000ffff;
	asm volatile("lldt %w0; stac" : : "r"(GDT_FREE));
	word v = TRY("mov %%eax, %%fs", : : "a"(0xc) : "memory");
	asm volatile("clac");
	CHECK("smap-stops-descriptor-read-despite-ac", page_fault(v, at(1) + 8, E_P));
	write_cr4(read_cr4() & ~CR4_SMAP);
	CHECK("descriptor-read-without-smap", TRY("mov %%eax, %%fs", : : "a"(0xc) : "memory") == NO_FAULT);
	asm volatile("lldt %w0; mov %w0, %%fs" : : "r"(0));
}

/* --- CPL 3 --- */

asm(".text\n"
    "user_read: movabs $0x8000000000, %rax; mov (%rax), %cl; int $0x80\n"
    "user_write: movabs $0x8000000000, %rax; mov %cl, (%rax); int $0x80\n"
    "user_call: movabs $0x8000000000, %rax; call *%rax; int $0x80\n"
    "user_read_kernel: mov boot_pml4, %rax; int $0x80\n");
extern void user_read(void), user_write(void), user_call(void), user_read_kernel(void);

static void test_user(void)
{
	open_to_user();
	map(0, pages[0], PWU);
	pages[0][0] = RET;
	CHECK("user-reads", run_user(user_read) == 0x80);
	CHECK("user-writes", run_user(user_write) == 0x80);
	pages[0][0] = RET;
	CHECK("user-executes", run_user(user_call) == 0x80);
	map(0, pages[0], P | U);
	CHECK("user-write-of-read-only-page", page_fault(run_user(user_write), at(0), E_P | E_W | E_U));
	write_cr0(read_cr0() & ~CR0_WP);
	CHECK("wp-is-nothing-to-users", page_fault(run_user(user_write), at(0), E_P | E_W | E_U));
	write_cr0(read_cr0() | CR0_WP);
	map(0, pages[0], P | W);
	CHECK("user-read-of-supervisor-page", page_fault(run_user(user_read), at(0), E_P | E_U));
	CHECK("user-call-of-supervisor-page", page_fault(run_user(user_call), at(0), E_P | E_U | E_FETCH));
	map(0, pages[0], PWU | NX);
	CHECK("user-call-of-nx-page", page_fault(run_user(user_call), at(0), E_P | E_U | E_FETCH));
	map(0, 0, 0);
	CHECK("user-read-of-absent-page", page_fault(run_user(user_read), at(0), E_U));
	map(0, pages[0], P | W);
	(void)*at(0); /* what the supervisor has cached is not the user's */
	CHECK("supervisor-access-opens-nothing-to-users", page_fault(run_user(user_read), at(0), E_P | E_U));
}

/* --- flushes --- */

static void test_flushes(void)
{
	map(0, pages[0], P | W);
	map(1, pages[1], P | W);
	pages[0][0] = 1;
	pages[1][0] = 2;
	pages[2][0] = 3;
	(void)*at(0);
	(void)*at(1);
	window_pt[0] = (u64)pages[2] | P | W;
	window_pt[1] = (u64)pages[2] | P | W;
	write_cr3(read_cr3());
	CHECK("mov-to-cr3-flushes", *at(0) == 3 && *at(1) == 3);
	map(0, pages[0], P | W | G);
	write_cr4(read_cr4() | CR4_PGE);
	(void)*at(0);
	window_pt[0] = (u64)pages[2] | P | W;
	invlpg((void *)at(0));
	CHECK("invlpg-drops-a-global-page", *at(0) == 3);
	map(0, pages[0], P | W | G);
	(void)*at(0);
	window_pt[0] = (u64)pages[2] | P | W;
	write_cr4(read_cr4() & ~CR4_PGE);
	CHECK("clearing-pge-drops-global-pages", *at(0) == 3);
}

static u64 other_pml4[512] ALIGNED(4096),
	other_pdpt[512] ALIGNED(4096), other_pd[512] ALIGNED(4096), other_pt[512] ALIGNED(4096);

#define NOFLUSH BIT(63)

/* In PCID 1, whose page 0 is pages[2]. */
static void test_invpcid(void)
{
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[1] & BIT(10))) {
		skip("invpcid", "not in CPUID");
		return;
	}
	struct {
		u64 pcid, address;
	} d = { 1, (u64)at(0) };
	window_pt[0] = (u64)pages[0] | P | W;
	asm volatile("invpcid %0, %1" : : "m"(d), "r"(0ULL) : "memory");
	CHECK("invpcid-0-drops-the-page", *at(0) == 1);
	window_pt[0] = (u64)pages[2] | P | W;
	asm volatile("invpcid %0, %1" : : "m"(d), "r"(1ULL) : "memory");
	CHECK("invpcid-1-drops-the-pcid", *at(0) == 3);
	window_pt[0] = (u64)pages[0] | P | W;
	asm volatile("invpcid %0, %1" : : "m"(d), "r"(2ULL) : "memory");
	CHECK("invpcid-2-drops-all", *at(0) == 1);
	TRY_AT("invpcid %0, %1", : : "m"(d), "r"(4ULL) : "memory");
	CHECK("invpcid-4-is-gp", is_fault(GP, 0));
}

static void test_pcid(void)
{
	u32 r[4];
	cpuid(1, 0, r);
	if (!(r[2] & BIT(17))) {
		skip("pcid", "not in CPUID");
		return;
	}
	u64 base = read_cr3() & ~0xfffULL;
	memcpy(other_pml4, boot_pml4, 4096);
	other_pml4[1] = (u64)other_pdpt | PWU;
	other_pdpt[0] = (u64)other_pd | PWU;
	other_pd[0] = (u64)other_pt | PWU;
	other_pt[0] = (u64)pages[1] | P | W;
	pages[0][0] = 1;
	pages[1][0] = 2;
	pages[2][0] = 3;
	map(0, pages[0], P | W);
	TRY_AT("mov %0, %%cr3", : : "r"(base | NOFLUSH) : "memory");
	CHECK("cr3-bit-63-without-pcide-is-gp", is_fault(GP, 0));
	write_cr4(read_cr4() | CR4_PCIDE);
	CHECK("pcide-starts-with-pcid-0", read_cr3() == base);
	write_cr3(base | 1);
	CHECK("pcid-1-sees-its-page", *at(0) == 1);
	write_cr3((u64)other_pml4 | 2);
	CHECK("pcid-2-sees-its-page", *at(0) == 2);
	write_cr3(base | 1 | NOFLUSH);
	CHECK("cr3-reads-back-without-bit-63", read_cr3() == (base | 1));
	CHECK("back-in-pcid-1", *at(0) == 1);
	window_pt[0] = (u64)pages[2] | P | W;
	write_cr3(base | 1);
	CHECK("mov-to-cr3-flushes-its-pcid", *at(0) == 3);
	test_invpcid();
	TRY_AT("mov %0, %%cr4", : : "r"(read_cr4() & ~BIT(5)) : "memory");
	CHECK("pae-stays-with-pcide", is_fault(GP, 0));
	write_cr3(base);
	write_cr4(read_cr4() & ~CR4_PCIDE);
	write_cr3(base | 0x18);
	CHECK("cr3-low-bits-without-pcide", *at(0) == 1);
	write_cr3(base);
}

void guest_main(void)
{
	open_window();
	test_present();
	test_rights();
	test_reserved();
	test_accessed_dirty();
	test_large_pages();
	test_smep_smap();
	test_user();
	test_flushes();
	test_pcid();
}
