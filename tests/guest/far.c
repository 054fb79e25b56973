/*
 * Branches to other pages: what they lead to changes with what is mapped there, with where their own page is mapped,
 * with the address space, and with the code itself.
 */
#include "lib/guest.h"

#define WINDOW  ((u8 *)(1ULL << 39))
#define ROUNDS  100
#define PRESENT 1
#define WRITE   2
#define PCIDE   BIT(17)

struct tables {
	u64 pdpt[512], pd[512], pt[512];
};
static struct tables window ALIGNED(4096), other ALIGNED(4096);
static u64 other_pml4[512] ALIGNED(4096);
static u8 source[4096] ALIGNED(4096), one[4096] ALIGNED(4096), two[4096] ALIGNED(4096);

static void make(u64 *pml4, struct tables *t)
{
	pml4[1] = (u64)t->pdpt | PRESENT | WRITE;
	t->pdpt[0] = (u64)t->pd | PRESENT | WRITE;
	t->pd[0] = (u64)t->pt | PRESENT | WRITE;
}

static void map(unsigned n, const u8 *page)
{
	window.pt[n] = page ? (u64)page | PRESENT | WRITE : 0;
	invlpg(WINDOW + 4096 * n);
}

/* mov $value, %eax; ret */
static void put_function(u8 *at, u32 value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static u8 *put_jump(u8 *at, u8 opcode, int distance)
{
	at[0] = opcode;
	memcpy(at + 1, &distance, 4);
	return at + 5;
}

enum { JUMP = 0, CALL = 64, BRANCH = 128, FALL = 4096 - 16 };

/* Each way to the page behind, where the functions are at the same offsets. */
static void put_source(void)
{
	put_jump(source + JUMP, 0xe9, 4096 - 5);
	u8 *at = put_jump(source + CALL, 0xe8, 4096 - 5);
	*at = 0xc3;
	/* test %edi, %edi; jz to the next page; mov $0, %eax; ret */
	static const u8 test[] = { 0x85, 0xff, 0x0f };
	memcpy(source + BRANCH, test, sizeof test);
	at = put_jump(source + BRANCH + 3, 0x84, 4096 - 8);
	put_function(at, 0);
	memset(source + FALL, 0x90, 16);
}

static void put_target(u8 *page, u32 value)
{
	put_function(page, value);
	put_function(page + CALL, value + 1);
	put_function(page + BRANCH, value + 2);
}

static u32 call(const u8 *at)
{
	u32 value, zero = 0;
	asm volatile("call *%2" : "=a"(value), "+D"(zero) : "r"(at) : "memory", "cc");
	return value;
}

/* Do all ways from this page lead to functions of `value`? */
static bool leads_to(const u8 *page, u32 value)
{
	return call(page + JUMP) == value && call(page + CALL) == value + 1 && call(page + BRANCH) == value + 2 &&
	       call(page + FALL) == value;
}

static void test_another_page_there(void)
{
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++)
		right &= leads_to(WINDOW, 10);
	CHECK("every-way-leads-to-the-next-page", right);
	map(1, two);
	CHECK("another-page-there-counts-at-once", leads_to(WINDOW, 20));
	map(1, one);
	CHECK("and-back", leads_to(WINDOW, 10));
	for (unsigned i = 0; i < ROUNDS; i++) {
		map(1, i & 1 ? two : one);
		right &= leads_to(WINDOW, i & 1 ? 20 : 10);
	}
	CHECK("and-to-and-fro", right);
	map(1, one);
}

static void test_two_addresses(void)
{
	bool right = true;
	map(2, source);
	map(3, two);
	for (unsigned i = 0; i < ROUNDS; i++)
		right &= leads_to(WINDOW, 10) && leads_to(WINDOW + 2 * 4096, 20);
	CHECK("one-page-at-two-addresses-has-two-next-pages", right);
}

static void test_changed_target(void)
{
	bool right = true;
	for (u32 i = 1; i < ROUNDS; i++) {
		put_target(one, 10 + i);
		right &= leads_to(WINDOW, 10 + i) && leads_to(WINDOW + 2 * 4096, 20);
	}
	CHECK("changed-target-counts", right);
	put_target(one, 10);
	CHECK("and-changed-back", leads_to(WINDOW, 10));
}

static void test_missing_target(void)
{
	map(1, NULL);
	word vector = TRY("jmp *%0", : : "r"(WINDOW + JUMP) : "memory");
	CHECK("jump-to-a-page-that-went-faults-there",
	      vector == PF && fault.ip == (word)WINDOW + 4096 && fault.address == fault.ip);
	map(1, one);
	CHECK("jump-to-a-page-that-came-back", leads_to(WINDOW, 10));
}

/* The same addresses in two address spaces, which differ in the page behind. */
static bool alternate(word cr3, word other_cr3)
{
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		write_cr3(i & 1 ? other_cr3 : cr3);
		right &= leads_to(WINDOW, i & 1 ? 20 : 10);
	}
	write_cr3(cr3);
	return right;
}

static void test_address_spaces(void)
{
	u32 r[4];
	memcpy(other_pml4, boot_pml4, sizeof other_pml4);
	make(other_pml4, &other);
	other.pt[0] = (u64)source | PRESENT | WRITE;
	other.pt[1] = (u64)two | PRESENT | WRITE;
	word cr3 = read_cr3();
	CHECK("two-address-spaces-differ-in-the-next-page", alternate(cr3, (word)other_pml4));
	cpuid(1, 0, r);
	if (!(r[2] >> 17 & 1)) {
		skip("two-pcids-differ-in-the-next-page", "no PCID");
		return;
	}
	write_cr4(read_cr4() | PCIDE);
	CHECK("two-pcids-differ-in-the-next-page", alternate(cr3 | 1 | BIT(63), (word)other_pml4 | 2 | BIT(63)));
	write_cr3(cr3);
	write_cr4(read_cr4() & ~PCIDE);
}

/* The last bytes below the hole that no linear address lies in: a branch over its border faults as a branch. */
static void test_canonical_border(void)
{
	static struct tables top ALIGNED(4096);
	u8 *page = (u8 *)0x7ffffffff000, *at = page + 64;
	boot_pml4[255] = (u64)top.pdpt | PRESENT | WRITE;
	top.pdpt[511] = (u64)top.pd | PRESENT | WRITE;
	top.pd[511] = (u64)top.pt | PRESENT | WRITE;
	top.pt[511] = (u64)two | PRESENT | WRITE;
	write_cr3(read_cr3());
	bool jump = true, call = true;
	put_jump(at, 0xe9, 4096);
	put_jump(at + 16, 0xe8, 4096);
	for (unsigned i = 0; i < ROUNDS; i++) {
		word vector = TRY("jmp *%0", : : "r"(at) : "memory");
		jump &= vector == GP && fault.ip == (word)at && fault.error == 0;
		vector = TRY("jmp *%0", : : "r"(at + 16) : "memory");
		call &= vector == GP && fault.ip == (word)at + 16 && fault.error == 0;
	}
	CHECK("jump-out-of-canonical-addresses-faults-as-a-jump", jump);
	CHECK("call-out-of-canonical-addresses-faults-as-a-call", call);
}

void guest_main(void)
{
	make(boot_pml4, &window);
	write_cr3(read_cr3());
	map(0, source);
	map(1, one);
	put_source();
	put_target(one, 10);
	put_target(two, 20);
	test_another_page_there();
	test_two_addresses();
	test_changed_target();
	test_missing_target();
	test_address_spaces();
	test_canonical_border();
}
