/* Protection keys as a guest sees them: RDPKRU and WRPKRU, rights of user pages, error codes, XSAVE's component 9. */
#include "lib/guest.h"

enum { P = 1, W = 2, U = 4, PWU = P | W | U };
enum { E_P = 1, E_W = 2, E_U = 4, E_FETCH = 16, E_KEY = 32 }; /* error code */
enum { AD = 1, WD = 2 };                                      /* a key's bits in PKRU */
enum { KEY = 5, PKRU_COMPONENT = 9 };

#define CR0_WP      BIT(16)
#define CR4_PCIDE   BIT(17)
#define CR4_OSXSAVE BIT(18)
#define CR4_PKE     BIT(22)
#define CR4_PKS     BIT(24)
#define MSR_PKRS    0x6e1
#define KEYED(k)    ((u64)(k) << 59)
#define NOFLUSH     BIT(63)
#define RET         0xc3

static u64 window_pdpt[512] ALIGNED(4096), window_pd[512] ALIGNED(4096), window_pt[512] ALIGNED(4096);
static u8 page[4096] ALIGNED(4096), area[1024] ALIGNED(64);

#define WINDOW ((volatile u8 *)(1ULL << 39))

static void map(u64 bits)
{
	window_pt[0] = (u64)page | bits;
	invlpg(WINDOW);
}

static u32 read_pkru(void)
{
	u32 value, high;
	asm volatile("rdpkru" : "=a"(value), "=d"(high) : "c"(0));
	return value;
}

static void write_pkru(u32 value)
{
	asm volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory");
}

static void write_rights(unsigned rights)
{
	write_pkru(rights << 2 * KEY);
}

static word read_it(void)
{
	return TRY("movb (%0), %%al", : : "r"(WINDOW) : "rax", "memory");
}

static word write_it(void)
{
	return TRY("movb %1, (%0)", : : "r"(WINDOW), "c"((u8)RET) : "memory");
}

static word call_it(void)
{
	return TRY("call *%0", : : "r"(WINDOW) : "memory");
}

static bool page_fault(word vector, word error)
{
	return vector == PF && fault.error == error && fault.address == (word)WINDOW;
}

/* At CPL 3. */
asm(".text\n"
    "user_read: movabs $0x8000000000, %rax; mov (%rax), %cl; int $0x80\n"
    "user_write: movabs $0x8000000000, %rax; movb $0xc3, (%rax); int $0x80\n"
    "user_call: movabs $0x8000000000, %rax; call *%rax; int $0x80\n"
    "user_close: mov $0x400, %eax; xor %ecx, %ecx; xor %edx, %edx; wrpkru; int $0x80\n");
extern void user_read(void), user_write(void), user_call(void), user_close(void);

static void test_instructions(void)
{
	u32 r[4];
	TRY_AT("rdpkru", : : "c"(0) : "rax", "rdx");
	CHECK("rdpkru-without-pke-is-ud", is_fault(UD, 0));
	TRY_AT("wrpkru", : : "a"(0), "c"(0), "d"(0) : "memory");
	CHECK("wrpkru-without-pke-is-ud", is_fault(UD, 0));
	cpuid(7, 0, r);
	CHECK("ospke-is-0", !(r[2] & BIT(4)));
	write_cr4(read_cr4() | CR4_PKE);
	cpuid(7, 0, r);
	CHECK("ospke-is-pke", r[2] & BIT(4));
	CHECK_EQUAL("pkru-is-0-after-reset", read_pkru(), 0);
	write_pkru(0x12345678);
	u64 rax = ~0ULL, rdx = ~0ULL;
	asm volatile("rdpkru" : "+a"(rax), "+d"(rdx) : "c"(0));
	CHECK("rdpkru-fills-eax-and-clears-edx", rax == 0x12345678 && rdx == 0);
	TRY_AT("rdpkru", : : "c"(1) : "rax", "rdx");
	CHECK("rdpkru-with-ecx-is-gp", is_fault(GP, 0));
	TRY_AT("wrpkru", : : "a"(0), "c"(1), "d"(0) : "memory");
	CHECK("wrpkru-with-ecx-is-gp", is_fault(GP, 0));
	TRY_AT("wrpkru", : : "a"(0), "c"(0), "d"(1) : "memory");
	CHECK("wrpkru-with-edx-is-gp", is_fault(GP, 0));
	CHECK_EQUAL("which-changes-nothing", read_pkru(), 0x12345678);
	write_pkru(0);
}

/* Each right is taken away and given back without an INVLPG. */
static void test_supervisor(void)
{
	map(PWU | KEYED(KEY));
	CHECK("key-without-bits-lets-all", read_it() == NO_FAULT && write_it() == NO_FAULT && call_it() == NO_FAULT);
	write_rights(AD);
	CHECK("access-disable-stops-read", page_fault(read_it(), E_P | E_KEY));
	CHECK("access-disable-stops-write", page_fault(write_it(), E_P | E_W | E_KEY));
	CHECK("access-disable-lets-fetch", call_it() == NO_FAULT);
	write_rights(WD);
	CHECK("write-disable-lets-read", read_it() == NO_FAULT);
	CHECK("write-disable-stops-write", page_fault(write_it(), E_P | E_W | E_KEY));
	write_cr0(read_cr0() & ~CR0_WP);
	CHECK("write-disable-without-wp-lets-supervisor-write", write_it() == NO_FAULT);
	write_rights(AD);
	CHECK("access-disable-without-wp-stops-write", page_fault(write_it(), E_P | E_W | E_KEY));
	write_cr0(read_cr0() | CR0_WP);
	write_rights(0);
	CHECK("rights-given-back", read_it() == NO_FAULT && write_it() == NO_FAULT);
	write_pkru(~(3u << 2 * KEY) & ~3u);
	CHECK("other-keys-bits-mean-nothing", read_it() == NO_FAULT && write_it() == NO_FAULT);
	write_rights(AD | WD);
	map(P | W | KEYED(KEY));
	CHECK("supervisor-page-has-no-key", read_it() == NO_FAULT && write_it() == NO_FAULT);
	map(P | U | KEYED(KEY));
	CHECK("read-only-page-says-both", page_fault(write_it(), E_P | E_W | E_KEY));
	write_rights(0);
	CHECK("read-only-page-alone-says-no-key", page_fault(write_it(), E_P | E_W));
	write_rights(AD);
	map(PWU | KEYED(KEY));
	write_cr4(read_cr4() & ~CR4_PKE);
	CHECK("without-pke-keys-mean-nothing", read_it() == NO_FAULT && write_it() == NO_FAULT);
	write_cr4(read_cr4() | CR4_PKE);
	CHECK("with-pke-again-they-do", page_fault(read_it(), E_P | E_KEY));
	window_pt[0] = 0;
	invlpg(WINDOW);
	CHECK("absent-page-has-no-key", page_fault(read_it(), 0));
	write_rights(0);
}

static void test_user(void)
{
	map(PWU | KEYED(KEY));
	CHECK("user-reads-and-writes", run_user(user_read) == 0x80 && run_user(user_write) == 0x80);
	write_rights(AD);
	CHECK("access-disable-stops-user-read", page_fault(run_user(user_read), E_P | E_U | E_KEY));
	CHECK("access-disable-lets-user-fetch", run_user(user_call) == 0x80);
	write_rights(WD);
	CHECK("write-disable-lets-user-read", run_user(user_read) == 0x80);
	write_cr0(read_cr0() & ~CR0_WP);
	CHECK("write-disable-stops-user-write-even-without-wp",
	      page_fault(run_user(user_write), E_P | E_W | E_U | E_KEY));
	write_cr0(read_cr0() | CR0_WP);
	write_rights(0);
	CHECK("user-may-write-pkru", run_user(user_close) == 0x80 && read_pkru() == AD << 2 * KEY);
	map(P | W | KEYED(KEY));
	CHECK("supervisor-page-refuses-users-without-key", page_fault(run_user(user_read), E_P | E_U));
	write_rights(0);
}

/* The other register: supervisor pages, and nobody but the supervisor reaches those. */
static void test_supervisor_keys(void)
{
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[2] & BIT(31))) {
		TRY_AT("mov %0, %%cr4", : : "r"(read_cr4() | CR4_PKS) : "memory");
		CHECK("pks-without-feature-is-gp", is_fault(GP, 0));
		TRY_AT("rdmsr", : : "c"(MSR_PKRS) : "rax", "rdx");
		CHECK("pkrs-without-feature-is-gp", is_fault(GP, 0));
		return;
	}
	CHECK_EQUAL("pkrs-is-0-after-reset", rdmsr(MSR_PKRS), 0);
	wrmsr(MSR_PKRS, AD << 2 * KEY);
	TRY_AT("wrmsr", : : "c"(MSR_PKRS), "a"(0), "d"(1) : "memory");
	CHECK("upper-half-of-pkrs-is-reserved", is_fault(GP, 0));
	map(P | W | KEYED(KEY));
	CHECK("without-pks-supervisor-pages-have-no-keys", read_it() == NO_FAULT && write_it() == NO_FAULT);
	write_cr4(read_cr4() | CR4_PKS);
	CHECK("pks-stops-read", page_fault(read_it(), E_P | E_KEY));
	CHECK("pks-stops-write", page_fault(write_it(), E_P | E_W | E_KEY));
	CHECK("pks-lets-fetch", call_it() == NO_FAULT);
	wrmsr(MSR_PKRS, WD << 2 * KEY);
	CHECK("pkrs-write-disable-lets-read", read_it() == NO_FAULT);
	CHECK("pkrs-write-disable-stops-write", page_fault(write_it(), E_P | E_W | E_KEY));
	write_cr0(read_cr0() & ~CR0_WP);
	CHECK("pkrs-write-disable-needs-wp", write_it() == NO_FAULT);
	write_cr0(read_cr0() | CR0_WP);
	map(PWU | KEYED(KEY));
	CHECK("pkrs-is-not-for-user-pages", read_it() == NO_FAULT && write_it() == NO_FAULT);
	write_rights(AD);
	wrmsr(MSR_PKRS, 0);
	map(P | W | KEYED(KEY));
	CHECK("pkru-is-not-for-supervisor-pages", read_it() == NO_FAULT && write_it() == NO_FAULT);
	write_rights(0);
	write_cr4(read_cr4() & ~CR4_PKS);
}

/* Pages of a large size, and address spaces that were away while PKRU changed. */
static void test_caches(void)
{
	window_pd[1] = ((u64)page >> 21 << 21) | PWU | BIT(7) | KEYED(KEY);
	volatile u8 *large = WINDOW + (1 << 21);
	write_rights(AD);
	CHECK("large-page-has-a-key", TRY("movb (%0), %%al", : : "r"(large) : "rax", "memory") == PF);
	write_rights(0);
	CHECK("and-opens", TRY("movb (%0), %%al", : : "r"(large) : "rax", "memory") == NO_FAULT);

	u32 r[4];
	cpuid(1, 0, r);
	if (!(r[2] & BIT(17))) {
		skip("keys-over-pcids", "no PCID");
		return;
	}
	map(PWU | KEYED(KEY));
	u64 cr3 = read_cr3();
	write_cr4(read_cr4() | CR4_PCIDE);
	(void)*WINDOW;
	write_cr3(cr3 | 1 | NOFLUSH);
	write_rights(AD);
	write_cr3(cr3 | NOFLUSH);
	CHECK("rights-of-an-address-space-put-aside", page_fault(read_it(), E_P | E_KEY));
	write_rights(0);
	write_cr3(cr3);
	write_cr4(read_cr4() & ~CR4_PCIDE);
}

static u64 *xstate_bv(void)
{
	return (u64 *)(area + 512);
}

static void test_xsave(void)
{
	u32 r[4];
	cpuid(1, 0, r);
	if (!(r[2] & BIT(26))) {
		skip("xsave-of-pkru", "no XSAVE");
		return;
	}
	cpuid(0xd, 0, r);
	CHECK("xcr0-may-have-pkru", r[0] & BIT(PKRU_COMPONENT));
	u32 all = r[2];
	cpuid(0xd, PKRU_COMPONENT, r);
	CHECK("component-is-8-bytes-of-user-state", r[0] == 8 && r[2] == 0);
	CHECK_EQUAL("it-ends-the-area", r[1] + 8, all);
	u32 *saved = (u32 *)(area + r[1]);
	write_cr4(read_cr4() | CR4_OSXSAVE);
	asm volatile("xsetbv" : : "a"(3 | BIT(PKRU_COMPONENT)), "c"(0), "d"(0));
	cpuid(0xd, 0, r);
	CHECK_EQUAL("size-follows-xcr0", r[1], all);
	cpuid(0xd, 1, r);
	CHECK_EQUAL("compacted-size-follows-xcr0", r[1], 576 + 8);

	write_rights(WD);
	asm volatile("xsave64 (%0)" : : "r"(area), "a"(BIT(PKRU_COMPONENT)), "d"(0) : "memory");
	CHECK("xsave-stores-pkru", *saved == WD << 2 * KEY && *xstate_bv() == BIT(PKRU_COMPONENT));
	write_rights(0);
	asm volatile("xgetbv" : "=a"(r[0]), "=d"(r[3]) : "c"(1));
	CHECK("pkru-of-0-is-initial", !(r[0] & BIT(PKRU_COMPONENT)));
	map(PWU | KEYED(KEY));
	(void)write_it();
	asm volatile("xrstor64 (%0)" : : "r"(area), "a"(BIT(PKRU_COMPONENT)), "d"(0) : "memory");
	CHECK_EQUAL("xrstor-loads-pkru", read_pkru(), WD << 2 * KEY);
	CHECK("which-counts-at-once", page_fault(write_it(), E_P | E_W | E_KEY));
	*xstate_bv() = 0;
	asm volatile("xrstor64 (%0)" : : "r"(area), "a"(BIT(PKRU_COMPONENT)), "d"(0) : "memory");
	CHECK_EQUAL("xrstor-of-initial-state-clears-it", read_pkru(), 0);

	write_rights(AD);
	memset(area, 0, sizeof area);
	asm volatile("xsavec64 (%0)" : : "r"(area), "a"(BIT(PKRU_COMPONENT)), "d"(0) : "memory");
	CHECK("xsavec-packs-it-behind-the-header", *(u32 *)(area + 576) == AD << 2 * KEY);
	write_rights(0);
	asm volatile("xrstor64 (%0)" : : "r"(area), "a"(BIT(PKRU_COMPONENT)), "d"(0) : "memory");
	CHECK_EQUAL("xrstor-finds-it-there", read_pkru(), AD << 2 * KEY);
	write_rights(0);
}

void guest_main(void)
{
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[2] & BIT(3))) {
		skip("keys", "not in CPUID");
		return;
	}
	open_to_user();
	boot_pml4[1] = (u64)window_pdpt | PWU;
	window_pdpt[0] = (u64)window_pd | PWU;
	window_pd[0] = (u64)window_pt | PWU;
	write_cr3(read_cr3());
	page[0] = RET;
	test_instructions();
	test_supervisor();
	test_user();
	test_supervisor_keys();
	test_caches();
	test_xsave();
}
