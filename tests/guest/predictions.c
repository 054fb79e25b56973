/*
 * Operands in memory whose page the translator predicts to be the one of last time: what they find must change with
 * their address, with what is mapped there, with its rights, and with who asks.
 */
#include "lib/code.h"
#include "lib/window.h"

#define ROUNDS   300
#define DIRTY    BIT(6)
#define PCIDE    BIT(17)
#define CR4_SMAP BIT(21)
#define PAGES    64

static struct window_tables other ALIGNED(4096);
static u64 other_pml4[512] ALIGNED(4096);
static u8 pages[PAGES][4096] ALIGNED(4096);

/* Each is one instruction with one operand, wherever it is called from. */
asm(".pushsection .text\n"
    ".global read_it, read_local, write_it, read_any, write_any, remap_between, read_two\n"
    "read_it: mov (%rdi), %rax; ret\n"
    "read_local: mov (%rdi), %rax; ret\n"
    "write_it: mov %rsi, (%rdi); ret\n"
    /* These two are used all over the place, and soon not predicted any more. */
    "read_any: mov (%rdi), %rax; ret\n"
    "write_any: mov %rsi, (%rdi); ret\n"
    /* Reads, maps another page there, and reads again, all in one go. */
    "remap_between: mov (%rdi), %rax; mov %rsi, (%rdx); invlpg (%rdi); sub (%rdi), %rax; ret\n"
    "read_two: mov (%rdi), %rax; mov 8(%rdi), %rdx; lea (%rax,%rdx), %rax; ret\n"
    ".global read_fs, read_fs_late\n"
    "read_fs: mov %fs:8, %rax; ret\n"
    "read_fs_late: mov %fs:8, %rax; ret\n"
    ".popsection\n");
u64 read_it(const void *at), read_local(const void *at), read_any(const void *at), read_two(const void *at);
void write_it(void *at, u64 value), write_any(void *at, u64 value);
u64 remap_between(const void *at, u64 entry, u64 *slot), read_fs(void), read_fs_late(void);

static void test_addresses(void)
{
	bool right = true;
	for (u64 i = 0, n = 1; i < 20 * ROUNDS; i++) {
		u8 *at = WINDOW + 4096 * (n % PAGES) + 8 * (i % 500);
		write_any(at, i);
		right &= read_any(at) == i && *(u64 *)(pages[n % PAGES] + 8 * (i % 500)) == i;
		n = n * 6364136223846793005ULL + 1442695040888963407ULL;
		n ^= n >> 33;
	}
	CHECK("operand-goes-where-its-address-is", right);
	right = true;
	for (unsigned i = 0; i < 4096 - 16; i++)
		pages[0][i] = (u8)(3 * i);
	memset(pages[1], 0x55, 32);
	for (unsigned i = 4096 - 40; i < 4096 + 8; i++) {
		u64 low, high;
		memcpy(&low, WINDOW + i, 8);
		memcpy(&high, WINDOW + i + 8, 8);
		right &= read_any(WINDOW + i) == low && read_two(WINDOW + i) == low + high;
	}
	CHECK("operands-across-the-page's-end-have-both-pages", right);
	CHECK("and-go-back", read_any(WINDOW + 4096) == 0x5555555555555555 && read_any(WINDOW) == *(u64 *)pages[0]);
}

static void test_remapping(void)
{
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		u8 *from = pages[i & 1], *to = pages[~i & 1];
		*(u64 *)from = 1000 + i;
		*(u64 *)to = i;
		right &= remap_between(WINDOW, (u64)to | PRESENT | WRITE, &window.pt[0]) == 1000;
		write_it(WINDOW, 77 + i);
		right &= *(u64 *)to == 77 + i && *(u64 *)from == 1000 + i && read_it(WINDOW) == 77 + i;
	}
	map(0, pages[0], PRESENT | WRITE);
	CHECK("another-page-there-counts-behind-invlpg", right);
}

static void test_rights(void)
{
	bool faulted = true, dirty = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		write_it(WINDOW, i);
		map(0, pages[0], PRESENT);
		word vector = TRY("call write_it", : : "D"(WINDOW), "S"(-1UL) : "memory", "rax");
		faulted &= vector == PF && fault.address == (word)WINDOW && read_it(WINDOW) == i;
		map(0, NULL, 0);
		vector = TRY("call read_it", : : "D"(WINDOW) : "memory", "rax");
		faulted &= vector == PF && fault.address == (word)WINDOW;
		map(0, pages[0], PRESENT | WRITE);
		read_it(WINDOW);
		dirty &= !(window.pt[0] & DIRTY);
		write_it(WINDOW, i);
		dirty &= !!(window.pt[0] & DIRTY);
	}
	CHECK("page-that-lost-a-right-faults", faulted);
	CHECK("first-write-sets-the-dirty-flag-again", dirty);
}

/* A page is data for a while, then code, and the same instruction writes it all the time. */
static void test_code(void)
{
	bool right = true;
	for (unsigned i = 2; i < PAGES; i++) {
		for (u64 round = 0; round < 8; round++) {
			/* mov $round, %eax; ret */
			write_it(WINDOW + 4096 * i, 0xb8 | round << 8 | 0xc3ULL << 40);
			right &= call(WINDOW + 4096 * i) == round && call(pages[i]) == round;
		}
	}
	CHECK("page-that-became-code-is-written-under-watch", right);
}

/* mov d(%rip), %rax; ret, or mov %rdi, d(%rip); ret: `offset` bytes behind the beginning of its page. */
static void put_relative(u8 *at, bool write, u32 offset)
{
	u32 d = offset - ((u32)(word)at & 4095) - 7;
	const u8 code[] = { 0x48, write ? 0x89 : 0x8b, write ? 0x3d : 0x05 };
	memcpy(at, code, sizeof code);
	memcpy(at + sizeof code, &d, sizeof d);
	at[7] = 0xc3;
}

static u64 call_with(const u8 *at, u64 value)
{
	asm volatile("call *%1" : "=a"(value) : "r"(at), "D"(value) : "memory", "cc");
	return value;
}

/* A page of code twice, before different pages of data, or behind one. */
static void test_relative(void)
{
	enum { FIRST = 10, SECOND = 20, SPANS = 4096 + 4092 };
	u8 *first = WINDOW + 4096 * FIRST, *second = WINDOW + 4096 * SECOND;
	bool right = true;
	map(FIRST, pages[40], PRESENT | WRITE);
	map(SECOND, pages[40], PRESENT | WRITE);
	put_relative(pages[40], false, 4096 + 16);
	put_relative(pages[40] + 16, true, 4096 + 16);
	put_relative(pages[40] + 32, false, -(4096 - 8U));
	put_relative(pages[40] + 48, false, SPANS);
	for (u64 i = 0; i < ROUNDS; i++) {
		unsigned data = i % 3;
		u8 *at = i & 1 ? second : first;
		map(i & 1 ? SECOND + 1 : FIRST + 1, pages[41 + data], PRESENT | WRITE);
		((u64 *)pages[41 + data])[2] = i;
		right &= call_with(at, 0) == i && call_with(at, 0) == i;
		call_with(at + 16, 1000 + i);
		right &= ((u64 *)pages[41 + data])[2] == 1000 + i && call_with(at, 0) == 1000 + i;
		*(u64 *)(at - 4096 + 8) = 2000 + i;
		right &= call_with(at + 32, 0) == 2000 + i;
		memcpy(at + SPANS, &i, sizeof i);
		right &= call_with(at + 48, 0) == i && call_with(at + 48, 0) == i;
	}
	CHECK("operands-beside-the-code-are-where-it-is", right);
}

static void set_fs(const u8 *base)
{
	wrmsr(0xc0000100, (word)base);
}

static void test_segment(void)
{
	bool right = true;
	for (u64 i = 0; i < 4 * ROUNDS; i++) {
		/* In two pages, which test_relative() has left far apart in memory. */
		const u8 *base = WINDOW + (i / 3 & 1 ? 4096 * 11 : 0) + i % 5 * 800;
		set_fs(base);
		for (unsigned n = 0; n < 2; n++) {
			u64 value = 10 * i + n;
			memcpy((u8 *)base + 8, &value, sizeof value);
			right &= read_fs() == value;
		}
	}
	CHECK("operands-of-fs-go-with-its-base", right);
}

static bool alternate(word cr3, word other_cr3, u64 (*read)(const void *at))
{
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		write_cr3(i & 1 ? other_cr3 : cr3);
		/* The second time it is in the TLB. */
		for (unsigned n = 0; n < 3; n++)
			right &= read(WINDOW) == (i & 1 ? 2 : 1);
	}
	write_cr3(cr3);
	return right;
}

static void set_global(bool global)
{
	enum { CR4_PGE = BIT(7), GLOBAL = BIT(8) };
	for (unsigned i = 0; i < 4 * 512; i++) {
		u64 *entry = &boot_pd[i / 512][i % 512];
		*entry = global ? *entry | GLOBAL : *entry & ~(u64)GLOBAL;
	}
	write_cr4(global ? read_cr4() | CR4_PGE : read_cr4() & ~(word)CR4_PGE);
}

static void test_address_spaces(void)
{
	u32 r[4];
	memcpy(other_pml4, boot_pml4, sizeof other_pml4);
	window_open(other_pml4, &other);
	other.pt[0] = (u64)pages[1] | PRESENT | WRITE;
	*(u64 *)pages[0] = 1;
	*(u64 *)pages[1] = 2;
	word cr3 = read_cr3();
	CHECK("two-address-spaces-differ", alternate(cr3, (word)other_pml4, read_it));
	/* All but the window is global now. */
	set_global(true);
	CHECK("the-few-pages-that-are-not-global-differ", alternate(cr3, (word)other_pml4, read_local));
	set_global(false);
	cpuid(1, 0, r);
	if (!(r[2] >> 17 & 1)) {
		skip("two-pcids-differ", "no PCID");
		return;
	}
	write_cr4(read_cr4() | PCIDE);
	CHECK("two-pcids-differ", alternate(cr3 | 1 | BIT(63), (word)other_pml4 | 2 | BIT(63), read_it));
	write_cr3(cr3);
	write_cr4(read_cr4() & ~PCIDE);
}

/* The supervisor may read the page, the user may not; by the same instruction. */
static void user_reads(void)
{
	asm volatile("call read_it; int $0x80" : : "D"(WINDOW) : "rax", "memory");
}

static void test_smap(void)
{
	bool right = true;
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[1] >> 20 & 1)) {
		skip("smap-counts-again-behind-clac", "no SMAP");
		return;
	}
	map(0, pages[0], PRESENT | WRITE | USER);
	write_cr4(read_cr4() | CR4_SMAP);
	set_fs(WINDOW);
	((u64 *)pages[0])[1] = 2;
	for (unsigned i = 0; i < ROUNDS; i++) {
		asm volatile("stac" : : : "cc");
		right &= read_it(WINDOW) == 1;
		right &= read_fs_late() == 2;
		asm volatile("clac" : : : "cc");
		word vector = TRY("call read_it", : : "D"(WINDOW) : "memory", "rax");
		right &= vector == PF && fault.address == (word)WINDOW;
		vector = TRY("call read_fs_late", : : : "memory", "rax");
		right &= vector == PF && fault.address == (word)WINDOW + 8;
	}
	write_cr4(read_cr4() & ~CR4_SMAP);
	CHECK("smap-counts-again-behind-clac", right);
}

static void test_user(void)
{
	bool right = true;
	open_to_user();
	for (unsigned i = 0; i < ROUNDS; i++) {
		map(0, pages[0], PRESENT | WRITE | (i & 1 ? USER : 0));
		right &= read_it(WINDOW) == 1;
		word vector = run_user(user_reads);
		right &= i & 1 ? vector == 0x80 : vector == PF && fault.address == (word)WINDOW;
		right &= read_it(WINDOW) == 1;
	}
	CHECK("user-does-not-see-what-the-supervisor-sees", right);
}

/*
 * The supervisor reads behind its own call; or the user comes back there, by a RET to the same address, from a call
 * that the supervisor made and left by SYSRET.
 */
asm(".pushsection .text\n"
    ".global read_behind_call\n"
    "read_behind_call: call 1f; mov (%rdi), %rax; test %esi, %esi; jnz 2f; ret\n"
    "2: int $0x80\n"
    "1: test %esi, %esi; jnz 3f; ret\n"
    "3: pop %rdx; push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; mov %rsp, user_return(%rip)\n"
    "	lea user_stack + 4088(%rip), %rsp; mov %rdx, (%rsp); lea 4f(%rip), %rcx; mov $2, %r11d; sysretq\n"
    ".fill 4096, 1, 0x90\n" /* in another page: entering one forgets what was predicted there for others */
    "4: ret\n"
    ".popsection\n");
u64 read_behind_call(const void *at, u32 as_user);

static void test_return_as_user(void)
{
	enum { MSR_EFER = 0xc0000080, MSR_STAR };
	bool right = true;
	map(0, pages[0], PRESENT | WRITE);
	asm volatile("sti; nop; cli"); /* nothing waits for IF any more: SYSRET is translated then */
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	wrmsr(MSR_STAR, (u64)CODE64 << 32 | (u64)0x33 << 48);
	for (unsigned i = 0; i < ROUNDS; i++) {
		right &= read_behind_call(WINDOW, 0) == 1;
		fault.vector = NO_FAULT;
		read_behind_call(WINDOW, 1);
		right &= fault.vector == PF && fault.address == (word)WINDOW && (fault.error & USER);
	}
	CHECK("user-who-returns-to-the-supervisor's-call-is-a-user", right);
}

static void test_breakpoint(void)
{
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		right &= read_it(WINDOW) == 1;
		asm volatile("mov %0, %%dr0; mov %1, %%dr7" : : "r"(WINDOW), "r"(0xb0402UL)); /* 4 bytes, data */
		word vector = TRY("call read_it", : : "D"(WINDOW) : "memory", "rax");
		asm volatile("mov %0, %%dr7" : : "r"(0x400UL));
		right &= vector == DB;
	}
	CHECK("data-breakpoint-traps", right);
}

void guest_main(void)
{
	window_open(boot_pml4, &window);
	write_cr3(read_cr3());
	for (unsigned i = 0; i < PAGES; i++)
		map(i, pages[i], PRESENT | WRITE);
	test_addresses();
	test_remapping();
	test_rights();
	test_code();
	test_relative();
	test_segment();
	test_address_spaces();
	test_smap();
	test_breakpoint();
	test_user();
	test_return_as_user();
}
