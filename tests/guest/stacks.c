/*
 * Stacks: what lies close to RSP is taken by the translator to lie in the page where that was last, whoever asks. It
 * must be where RSP points nevertheless, with the rights that its page has now, for those who ask now.
 */
#include "lib/code.h"
#include "lib/window.h"

#define ROUNDS 300
#define PAGES  16

static struct window_tables other ALIGNED(4096);
static u64 other_pml4[512] ALIGNED(4096);
static u8 pages[PAGES][4096] ALIGNED(4096);

/* What is mapped there: neighbours are none. */
static u8 *page(unsigned n)
{
	return pages[n * 5 % PAGES];
}

/* RDI is their stack for a while. */
asm(".pushsection .text\n"
    ".global push_on, pop_from, pop_two, push_on_both, push_as_user, pushes\n"
    "push_on: mov %rsp, %rdx; mov %rdi, %rsp; push %rsi; mov %rdx, %rsp; ret\n"
    "pop_from: mov %rsp, %rdx; mov %rdi, %rsp; pop %rax; mov %rdx, %rsp; ret\n"
    "pop_two: mov %rsp, %rdx; mov %rdi, %rsp; pop %rax; mov (%rsi), %r8; pop %rcx; lea (%rax, %rcx), %rax\n"
    "	mov %rdx, %rsp; ret\n"
    /* 1 and then 3 on the first stack, between them 2 on the second. */
    "push_on_both: mov %rsp, %rdx; mov %rdi, %rsp; push $1; mov %rsp, %rcx; mov %rsi, %rsp; push $2\n"
    "	movq $3, -8(%rcx); mov (%rcx), %rax; mov %rdx, %rsp; ret\n"
    /* ESI: the supervisor uses that stack before the user does. */
    "push_as_user: push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15; mov %rsp, user_return(%rip)\n"
    "	mov %rdi, %rsp; test %esi, %esi; jz 1f; pushq -8(%rsp); pop %rax\n"
    "1: lea pushes(%rip), %rcx; mov $2, %r11d; sysretq\n"
    ".fill 4096, 1, 0x90\n" /* in another page, for another privilege */
    /* CPUID ends a group; with too many of its like the block would be interpreted. */
    "pushes: mov (%rsp), %rax; cpuid; push %rdi; .rept 8; inc %rax; .endr; int $0x80\n"
    ".popsection\n");
void push_on(void *top, u64 value), push_as_user(void *top, u32 before), pushes(void);
u64 pop_from(const void *at), pop_two(const void *at, const void *other), push_on_both(void *first, void *second);

static bool is_pushed(u64 n, u64 value)
{
	unsigned p = (unsigned)(n % PAGES), at = 8 * (unsigned)(n / PAGES % 512);
	push_on(WINDOW + 4096 * p + at + 8, value);
	return *(u64 *)(page(p) + at) == value && pop_from(WINDOW + 4096 * p + at) == value;
}

static void test_addresses(void)
{
	bool right = true;
	for (u64 i = 0, n = 1; i < 4 * ROUNDS; i++) {
		right &= is_pushed(n, i);
		n = n * 6364136223846793005ULL + 1442695040888963407ULL;
		n ^= n >> 33;
	}
	CHECK("what-is-pushed-is-where-rsp-points", right);
	for (unsigned stacks = 1; stacks <= 3; stacks++) {
		right = true;
		for (u64 i = 0; i < ROUNDS; i++)
			right &= is_pushed(i % stacks, 1000 * stacks + i);
		CHECK("so-it-is-on-stacks-in-turn", right);
	}
	right = true;
	for (unsigned i = 1; i < 8; i++) {
		u64 is;
		memset(WINDOW + 4096 - 8, 0xff, 16);
		push_on_both(WINDOW + 2048, WINDOW + 4096 + i);
		memcpy(&is, WINDOW + 4096 + i - 8, 8);
		right &= is == 2 && pop_from(WINDOW + 4096 + i - 8) == 2;
		/* When the first page is the one before the latest, too. */
		push_on(WINDOW + 2048, 0);
		push_on(WINDOW + 4096 + i, 0x5555555555555555);
		memcpy(&is, WINDOW + 4096 + i - 8, 8);
		right &= is == 0x5555555555555555;
	}
	CHECK("across-the-page's-end-it-is-in-both-pages", right);
}

static void test_groups(void)
{
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned a = i % PAGES, b = i / PAGES % PAGES;
		u64 *first = (u64 *)(page(a) + 2048), *second = (u64 *)(page(b) + 1024);
		first[-2] = second[-1] = 0;
		right &= push_on_both(WINDOW + 4096 * a + 2048, WINDOW + 4096 * b + 1024) == 1;
		right &= first[-1] == 1 && first[-2] == 3 && second[-1] == 2;
	}
	CHECK("one-stack-does-not-become-the-other", right);
	right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		unsigned n = i % PAGES;
		((u64 *)page(n))[0] = i;
		((u64 *)page(n))[1] = 5000;
		map(n, page(n), i & 1 ? PRESENT | WRITE : PRESENT);
		right &= pop_two(WINDOW + 4096 * n, page(n)) == 5000 + i;
		map(n, page(n), PRESENT | WRITE);
	}
	CHECK("what-may-only-be-read-is-popped", right);
}

static void test_remapping(void)
{
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		map(0, pages[i & 1], PRESENT | WRITE);
		*(u64 *)pages[~i & 1] = 0;
		push_on(WINDOW + 8, 1000 + i);
		right &= *(u64 *)pages[i & 1] == 1000 + i && !*(u64 *)pages[~i & 1];
	}
	map(0, pages[0], PRESENT | WRITE);
	CHECK("another-page-there-counts-behind-invlpg", right);
}

static void test_code(void)
{
	bool right = true;
	for (unsigned i = 2; i < PAGES; i++)
		for (u64 round = 0; round < 8; round++) {
			/* mov $round, %eax; ret */
			push_on(WINDOW + 4096 * i + 8, 0xb8 | round << 8 | 0xc3ULL << 40);
			right &= call(WINDOW + 4096 * i) == round && call(page(i)) == round;
		}
	CHECK("code-that-is-pushed-is-what-runs", right);
}

static void test_address_spaces(void)
{
	bool right = true;
	memcpy(other_pml4, boot_pml4, sizeof other_pml4);
	window_open(other_pml4, &other);
	other.pt[0] = (u64)pages[1] | PRESENT | WRITE;
	((u64 *)pages[1])[1] = 0;
	word cr3 = read_cr3();
	for (unsigned i = 0; i < ROUNDS; i++) {
		write_cr3(i & 1 ? (word)other_pml4 : cr3);
		for (unsigned n = 0; n < 3; n++) {
			push_on(WINDOW + 16, 10 * i + n + 1);
			right &= ((u64 *)pages[i & 1])[1] == 10 * i + n + 1 && ((u64 *)pages[~i & 1])[1] <= 10 * i;
		}
	}
	write_cr3(cr3);
	CHECK("two-address-spaces-differ", right);
}

/* The user reads and pushes on a page that the supervisor has just pushed on. */
static bool pushes_right(bool by_sysret, unsigned round)
{
	static const u64 rights[] = { PRESENT | WRITE | USER, PRESENT | WRITE, PRESENT | USER, 0 };
	u64 now = rights[round % ARRAY_SIZE(rights)];

	/* The supervisor may push where the user may not, and has just done so. */
	map(0, pages[0], now & WRITE ? now : PRESENT | WRITE | USER);
	push_on(WINDOW + 24, round);
	if (!(now & WRITE))
		map(0, now ? pages[0] : NULL, now);
	fault.vector = NO_FAULT;
	if (by_sysret)
		push_as_user(WINDOW + 24, now & WRITE);
	else
		enter_user((word)pushes, (word)(WINDOW + 24), 2);
	if (now == rights[0])
		return fault.vector == 0x80 && ((u64 *)pages[0])[2] != round;
	/* Where it may read it does, first. */
	bool reads = now == rights[2];
	return fault.vector == PF && fault.address == (word)WINDOW + (reads ? 16 : 24) &&
	       fault.error == (USER | (now & PRESENT) | (reads ? WRITE : 0)) && ((u64 *)pages[0])[2] == round;
}

static void test_user(void)
{
	enum { MSR_EFER = 0xc0000080, MSR_STAR };
	bool right = true;
	open_to_user();
	/* A supervisor that seems to use hardly any pages but global ones would not have their places kept. */
	for (unsigned i = 0; i < PAGES; i++)
		pop_from(WINDOW + 4096 * i);
	write_cr3(read_cr3());
	for (unsigned i = 0; i < ROUNDS; i++)
		right &= pushes_right(false, i);
	CHECK("user-pushes-where-a-user-may", right);
	asm volatile("sti; nop; cli"); /* nothing waits for IF any more: SYSRET is translated then */
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	wrmsr(MSR_STAR, (u64)CODE64 << 32 | (u64)0x33 << 48);
	right = true;
	for (unsigned i = 0; i < ROUNDS; i++)
		right &= pushes_right(true, i);
	CHECK("so-does-one-who-came-by-sysret", right);
}

void guest_main(void)
{
	window_open(boot_pml4, &window);
	write_cr3(read_cr3());
	for (unsigned i = 0; i < PAGES; i++)
		map(i, page(i), PRESENT | WRITE);
	test_addresses();
	test_groups();
	test_remapping();
	test_code();
	test_address_spaces();
	test_user();
}
