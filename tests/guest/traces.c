/*
 * Straight runs and loops that the translator makes one piece of: flags, faults, page borders and changed code in the
 * middle of them. Each piece runs often enough to be translated, and what it computes is known.
 */
#include "lib/guest.h"

#define WINDOW  ((u8 *)(1ULL << 39))
#define ROUNDS  200
#define PRESENT 1
#define WRITE   2

static u64 window_pdpt[512] ALIGNED(4096), window_pd[512] ALIGNED(4096), window_pt[512] ALIGNED(4096);
static u8 pages[3][4096] ALIGNED(4096);

static void map(unsigned n, u64 rights)
{
	window_pt[n] = (u64)pages[n] | rights;
	invlpg(WINDOW + 4096 * n);
}

/* --- flags --- */

asm(".pushsection .text\n"
    /* XOR's flags must arrive behind POPs and RET. */
    ".global flags_over_return, flags_over_call, flags_of_rotation\n"
    "flags_over_return: push %rbx; push %rbp; push %r12; xor %eax, %eax; pop %r12; pop %rbp; pop %rbx; ret\n"
    "flags_over_call: call 1f; ret\n"
    "1: mov $0x80, %eax; push %rbx; add %al, %al; pop %rbx; ret\n" /* 80h + 80h: CF, ZF, OF */
    /* OF is undefined behind it; SF, PF and AF stay as ADD made them. */
    "flags_of_rotation: mov $0x7fffffff, %eax; add $1, %eax; rol $4, %eax; rol $3, %eax; ret\n"
    ".popsection\n");

static word flags_behind(const char *function)
{
	word flags;
	asm volatile("stc; call *%1; pushf; pop %0" : "=r"(flags) : "r"(function) : "rax", "cc", "memory");
	return flags & 0x8d5;
}
extern const char flags_over_return[], flags_over_call[], flags_of_rotation[];

static void test_flags(void)
{
	word xored = 0x44, added = 0x845, rotated = 0x94;
	for (unsigned i = 0; i < ROUNDS; i++) {
		xored &= flags_behind(flags_over_return) == 0x44 ? ~0UL : 0;
		added &= flags_behind(flags_over_call) == 0x845 ? ~0UL : 0;
		rotated &= (flags_behind(flags_of_rotation) & 0xd5) == 0x94 ? ~0UL : 0;
	}
	CHECK_EQUAL("flags-pass-pops-and-return", xored, 0x44);
	CHECK_EQUAL("flags-pass-a-return-to-a-return", added, 0x845);
	CHECK_EQUAL("a-rotation-keeps-flags-but-cf-and-of", rotated, 0x94);
	/* A loop that carries CF round, through memory accesses. */
	u64 sum[4] = { 0 }, one[4] = { ~0ULL, ~0ULL, ~0ULL, 0 };
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 n = 4;
		const u64 *from = one;
		u64 *to = sum;
		asm volatile("stc\n1: mov (%0), %%rax; adc %%rax, (%1); lea 8(%0), %0; lea 8(%1), %1; dec %2; jnz 1b"
			     : "+r"(from), "+r"(to), "+r"(n)
			     :
			     : "rax", "memory", "cc");
	}
	CHECK("carry-goes-round-a-loop", sum[0] == 0 && sum[1] == 0 && sum[2] == 0 && sum[3] == ROUNDS);
}

/* --- LOOP and JRCXZ --- */

static u64 carry_round_a_count(void)
{
	u64 sum[4] = { 0 }, one[4] = { ~0ULL, ~0ULL, ~0ULL, 0 }, n = 4;
	const u64 *from = one;
	u64 *to = sum;
	asm volatile("stc\n1: mov (%0), %%rax; adc %%rax, (%1); lea 8(%0), %0; lea 8(%1), %1; loop 1b"
		     : "+r"(from), "+r"(to), "+c"(n)
		     :
		     : "rax", "memory", "cc");
	return sum[0] | sum[1] | sum[2] | (sum[3] ^ 1) | n;
}

/* The flags are those of the last round's CMP, of 1 and 1, whatever LOOP has left in RCX. */
static bool flags_are_those_before_the_count(void)
{
	word image, n = ROUNDS;
	asm volatile("1: cmp $1, %%rcx; push %%rax; pop %%rax; loop 1b; pushf; pop %0" : "=r"(image), "+c"(n) : : "cc");
	return (image & 0x8d5) == 0x44;
}

/* A bit for each branch that went the right way: not taken, taken, and the same of JRCXZ. */
static unsigned count_branches(u64 count)
{
	unsigned ways = 0;
	u64 n = count;
	asm volatile("loop 1f; or $1, %0; 1: add $1, %1; jrcxz 2f; or $2, %0; 2:" : "+r"(ways), "+c"(n) : : "cc");
	return ways | (n == count ? 4 : 0);
}

static void test_count_branches(void)
{
	unsigned wrong = 0, narrow = 0;
	for (unsigned i = 0; i < ROUNDS; i++) {
		wrong += carry_round_a_count() != 0;
		wrong += !flags_are_those_before_the_count();
		wrong += count_branches(0) != 4;
		wrong += count_branches(1) != 7;
		wrong += count_branches(BIT(32) + 1) != 6;
		u64 n = BIT(32) + 2;
		asm volatile("1: inc %0; addr32 loop 1b" : "+r"(narrow), "+c"(n) : : "cc");
	}
	CHECK_EQUAL("loop-and-jrcxz-count", wrong, 0);
	CHECK_EQUAL("loop-with-32-bit-addresses-counts-in-ecx", narrow, 2 * ROUNDS);
}

/* OF behind a shift by more than one is undefined, and on some processors goes by the form of the instruction. */
static void test_shifts(void)
{
	bool carried = true;
	for (u32 i = 0; i < ROUNDS; i++) {
		u32 value = i * 0x9e3779b9, rotated = value, shifted = value;
		word flags[2];
		asm volatile("rol $7, %2; pushf; pop %0; shl $5, %3; pushf; pop %1"
			     : "=&r"(flags[0]), "=&r"(flags[1]), "+r"(rotated), "+r"(shifted)
			     :
			     : "cc", "memory");
		carried &= rotated == (value << 7 | value >> 25) && (flags[0] & 1) == (value >> 25 & 1);
		carried &= shifted == value << 5 && (flags[1] & 1) == (value >> 27 & 1);
	}
	CHECK("shifts-leave-the-last-bit-in-carry", carried);
}

/* AH to BH beside memory: there is no encoding of them with the host's registers. */
static void test_high_bytes(void)
{
	unsigned wrong = 0;
	for (u32 i = 0; i < ROUNDS; i++) {
		u32 value = i * 0x9e3779b9, rest = value;
		u8 cell[5] = { 0, 7, 0, (u8)(value >> 8), 5 };
		u8 high = (u8)(value >> 8), below;
		word flags;
		asm volatile("mov %%bh, (%[at]); add 1(%[at]), %%bh; cmp %%bh, 3(%[at]); pushf; pop %[flags];"
			     "setb %[below]; xchg %%bh, 4(%[at]); lock sub %%bh, 2(%[at]); mov %%bh, %%bl"
			     : "+b"(rest), [flags] "=&S"(flags), [below] "=&d"(below)
			     : [at] "D"(cell)
			     : "memory", "cc");
		wrong += cell[0] != high || cell[4] != (u8)(high + 7) || cell[2] != (u8)-5;
		wrong += below != (high < (u8)(high + 7)) || (flags & 1) != below;
		wrong += rest != ((value & ~0xffffu) | 0x505);
		/* CMPXCHG uses AL besides; and an address uses the register. */
		u32 expected = high << 8 | 7;
		asm volatile("cmpxchg %%ah, 1(%[at]); mov %%ch, 2(%%rcx)"
			     : "+a"(expected)
			     : [at] "D"(cell), "c"(cell)
			     : "memory", "cc");
		wrong += cell[1] != high || cell[2] != (u8)((word)cell >> 8) || expected != (u32)(high << 8 | 7);
	}
	CHECK_EQUAL("high-bytes-meet-memory", wrong, 0);
}

/* --- one check for several operands --- */

/* Four words from `at` on, read and written as neighbours. */
static u64 touch(u64 *at)
{
	u64 sum;
	asm volatile("mov (%1), %0; add 8(%1), %0; add 16(%1), %0; add 24(%1), %0; incq (%1); incq 24(%1)"
		     : "=&r"(sum)
		     : "r"(at)
		     : "memory", "cc");
	return sum;
}

static void test_page_borders(void)
{
	bool right = true;
	map(0, PRESENT | WRITE);
	map(1, PRESENT | WRITE);
	/* The second page lies somewhere else than behind the first. */
	window_pt[1] = (u64)pages[2] | PRESENT | WRITE;
	invlpg(WINDOW + 4096);
	memset(pages, 0, sizeof pages);
	for (unsigned i = 0; i < ROUNDS; i++)
		for (unsigned offset = 4096 - 40; offset <= 4096; offset += 8) {
			u64 *at = (u64 *)(WINDOW + offset);
			u64 before = at[0] + at[1] + at[2] + at[3];
			right &= touch(at) == before && at[0] + at[1] + at[2] + at[3] == before + 2;
		}
	CHECK("neighbours-on-both-sides-of-a-page-border", right);
	u64 elsewhere = 0;
	for (unsigned i = 0; i < 512; i++)
		elsewhere += ((u64 *)pages[1])[i];
	CHECK_EQUAL("no-neighbour-in-the-wrong-page", elsewhere, 0);
}

/* The fault of the third of four neighbours: what the two before did has happened, and nothing else. */
static void test_faults_between_neighbours(void)
{
	u64 *at = (u64 *)(WINDOW + 4096 - 16);
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		bool absent = i % 8 == 7;
		map(1, absent ? 0 : PRESENT | WRITE);
		at[0] = at[1] = 0;
		TRY("cmp %%rax, %%rax; incq (%0); incq 8(%0); stc; incq 16(%0); incq 24(%0)",
		    :
		    : "r"(at)
		    : "memory", "cc");
		right &= at[0] == 1 && at[1] == 1;
		right &= fault.vector == (absent ? PF : NO_FAULT);
		if (absent)
			right &= fault.address == (word)(at + 2) && fault.error == 2 && (fault.flags & 1);
	}
	CHECK("fault-of-a-neighbour-is-precise", right);
	map(1, PRESENT | WRITE);
}

/* Reads of a page that may not be written, then a write beside them. */
static void test_read_only_neighbours(void)
{
	bool right = true;
	write_cr0(read_cr0() | BIT(16)); /* WP */
	for (unsigned i = 0; i < ROUNDS; i++) {
		bool locked = i % 4 == 3;
		map(0, locked ? PRESENT : PRESENT | WRITE);
		u64 *at = (u64 *)(WINDOW + 64), seen = 0;
		*(u64 *)(pages[0] + 64) = 5;
		TRY("mov (%1), %0; add 8(%1), %0; movq $9, (%1)", : "+r"(seen) : "r"(at) : "memory", "cc");
		right &= fault.vector == (locked ? PF : NO_FAULT) && *(u64 *)(pages[0] + 64) == (locked ? 5 : 9);
	}
	CHECK("write-beside-reads-of-a-read-only-page-faults", right);
	map(0, PRESENT | WRITE);
}

/* A word, and one of the two from there on; `second`: the latter. */
static __attribute__((noinline)) u64 pick(const u64 *at, u64 second)
{
	u64 sum;
	asm volatile("mov (%1), %0; xor %%ecx, %%ecx; cmp $0, %2; setne %%cl; add (%1,%%rcx,8), %0"
		     : "=&r"(sum)
		     : "S"(at), "D"(second)
		     : "rcx", "memory", "cc");
	return sum;
}

/* The other of the two: AL is turned around by a constant, and by memory. */
static __attribute__((noinline)) u64 pick_other(const u64 *at, u64 second)
{
	static const u8 one = 1;
	u64 by_constant, by_memory;
	asm volatile("mov (%[at]), %[constant]; mov %[constant], %[memory];"
		     "xor %%eax, %%eax; cmp $0, %[second]; setne %%al; xor $1, %%al; add (%[at],%%rax,8), %[constant];"
		     "xor %%eax, %%eax; cmp $0, %[second]; setne %%al; xor %[one], %%al; add (%[at],%%rax,8), %[memory]"
		     : [constant] "=&r"(by_constant), [memory] "=&r"(by_memory)
		     : [at] "S"(at), [second] "D"(second), [one] "m"(one)
		     : "rax", "memory", "cc");
	return by_constant == by_memory ? by_constant : ~0ULL;
}

/* The same by the low bits of a byte, in registers that live in memory, and written. */
static __attribute__((noinline)) u64 count_up(u64 *at, u8 which)
{
	u64 sum;
	asm volatile("mov %1, %%r8; mov (%1), %0; movzbl %2, %%r9d; and $3, %%r9d; add (%%r8,%%r9,8), %0;"
		     "movzbl %2, %%ecx; and $3, %%ecx; mov %%ecx, %%edx;"
		     "mov $0x100, %%ecx; mov %2, %%cl; and $3, %%cl; movzwl %%cx, %%ecx; movzbl 8 - 0x100(%1,%%rcx), "
		     "%%ecx; add %%rcx, %0;"
		     "incq (%%r8); incq 8(%1,%%rdx,8)"
		     : "=&r"(sum)
		     : "S"(at), "b"(which)
		     : "rcx", "rdx", "r8", "r9", "memory", "cc");
	return sum;
}

/* An index is so small that all it may reach is checked with its neighbour. Most lie in one page, a few do not. */
static void test_small_indices(void)
{
	unsigned wrong = 0, faults = 0;
	map(0, PRESENT | WRITE);
	window_pt[1] = (u64)pages[2] | PRESENT | WRITE;
	invlpg(WINDOW + 4096);
	memset(pages, 0, sizeof pages);
	for (unsigned i = 0; i < 40 * ROUNDS; i++) {
		u64 *at = (u64 *)(WINDOW + (i % 64 == 63 ? 4096 - 8 * (1 + i / 64 % 5) : 64));
		for (unsigned n = 0; n < 5; n++)
			at[n] = 10 * n + i;
		wrong += pick(at, i & 1) != 2 * i + (i & 1 ? 10 : 0);
		wrong += pick_other(at, ~i & 1) != 2 * i + (i & 1 ? 10 : 0);
		wrong += count_up(at, (u8)(i / 3)) != 2 * i + i / 3 % 4 * 10 + ((10 + i) >> i / 3 % 4 * 8 & 0xff);
		wrong += at[0] != i + 1 || at[1 + i / 3 % 4] != 10 * (1 + i / 3 % 4) + i + 1;
	}
	CHECK_EQUAL("small-indices-on-both-sides-of-a-page-border", wrong, 0);
	map(1, 0);
	for (unsigned i = 0; i < 4 * ROUNDS; i++) {
		u64 *at = (u64 *)(WINDOW + (i % 64 == 63 ? 4096 - 8 : 64)), sum = 0;
		bool absent = i % 64 == 63 && i & 64;
		TRY("mov (%1), %0; xor %%ecx, %%ecx; cmp $0, %2; setne %%cl; add (%1,%%rcx,8), %0",
		    : "+r"(sum)
		    : "S"(at), "D"((u64)(i & 64))
		    : "rcx", "memory", "cc");
		wrong += fault.vector != (absent ? PF : NO_FAULT) ||
			 (absent && (fault.address != (word)(at + 1) || fault.error != 0));
		faults += absent;
	}
	CHECK("a-small-index-faults-where-it-leads", wrong == 0 && faults > 4);
	map(1, PRESENT | WRITE);
}

/* Five words by indices that code sets: the last one is incremented. */
static __attribute__((noinline)) u64 pick_by_constants(u64 *at)
{
	u64 sum;
	asm volatile("mov (%1), %0; xor %%ecx, %%ecx; add (%1,%%rcx,8), %0; add $1, %%rcx; add (%1,%%rcx,8), %0;"
		     "mov $3, %%ecx; add (%1,%%rcx,8), %0; dec %%ecx; add (%1,%%rcx,8), %0;"
		     "mov $-2, %%rcx; add $6, %%ecx; add (%1,%%rcx,8), %0;" /* of 32 bits: not 2^32 + 4 */
		     "mov $1, %%r9d; mov $5, %%r10d; xor %%r9d, %%r10d; incq (%1,%%r10,8);"
		     "incq (%1); incq (%1,%%r9,8); decq (%1); decq (%1,%%r9,8);"
		     "mov $-1, %%ecx; add $2, %%ecx; movslq %%ecx, %%rcx; sub -8(%1,%%rcx,8), %0;"
		     "sub %%ecx, %%ecx; mov $2, %%cl; sub (%1,%%rcx,4), %0"
		     : "=&r"(sum)
		     : "S"(at)
		     : "rcx", "r9", "r10", "memory", "cc");
	return sum;
}

/* What an index is, is known from the code. Most of these neighbours lie in one page, a few do not. */
static void test_constant_indices(void)
{
	unsigned wrong = 0;
	map(0, PRESENT | WRITE);
	window_pt[1] = (u64)pages[2] | PRESENT | WRITE;
	invlpg(WINDOW + 4096);
	memset(pages, 0, sizeof pages);
	for (unsigned i = 0; i < 40 * ROUNDS; i++) {
		u64 *at = (u64 *)(WINDOW + (i % 64 == 63 ? 4096 - 8 * (i / 64 % 6) : 64));
		for (unsigned n = 0; n < 5; n++)
			at[n] = 10 * n + i;
		wrong += pick_by_constants(at) != 4 * i + 90 || at[4] != 41 + i || at[0] != i;
	}
	CHECK_EQUAL("constant-indices-on-both-sides-of-a-page-border", wrong, 0);
	/* The upper half becomes 0: from there on, one lies 4 GiB before the other. */
	u8 *end = WINDOW + 64 - 0xffffffffULL;
	for (unsigned i = 0; i < ROUNDS; i++) {
		TRY("mov $-1, %%rcx; add $0, %%ecx; mov (%0,%%rcx), %%al; mov -1(%0), %%al",
		    :
		    : "S"(end)
		    : "rax", "rcx", "memory", "cc");
		wrong += fault.vector != PF || fault.address != (word)(end - 1);
	}
	CHECK_EQUAL("constants-of-32-bits-have-no-upper-half", wrong, 0);
}

/* --- loads of what the same piece has stored --- */

/* A register's value, and what becomes of the register; `other` may be the same place, or an overlapping one. */
static __attribute__((noinline)) bool stores_are_seen(u64 *at, u64 *other, u64 value)
{
	u64 same, changed, overwritten, half = ~0ULL, sum = 1;
	word flags;
	asm volatile("mov %[value], (%[at]); mov (%[at]), %[same]; add (%[at]), %[sum]; cmp (%[at]), %[same]; pushf;"
		     "pop %[flags]; not %[value]; mov (%[at]), %[changed]; not %[value];"
		     "mov %k[value], 16(%[at]); mov 16(%[at]), %k[half];"
		     "mov %[half], (%[other]); mov (%[at]), %[overwritten]"
		     : [same] "=&r"(same), [changed] "=&r"(changed), [overwritten] "=&r"(overwritten),
		       [half] "+&r"(half), [sum] "+&r"(sum), [flags] "=&r"(flags), [value] "+&r"(value)
		     : [at] "r"(at), [other] "r"(other)
		     : "memory", "cc");
	u64 now = *at;
	return same == value && changed == value && half == (u32)value && sum == value + 1 && (flags & 0x40) &&
	       overwritten == now;
}

/* A word of which half is stored; and a sum of which only the first part is still in a register. */
static __attribute__((noinline)) bool no_more_is_seen(u64 *at, u64 value)
{
	u64 whole, sum, first = value;
	at[2] = ~0ULL;
	asm volatile("mov %k[first], 16(%[at]); mov 16(%[at]), %[whole];"
		     "lea 5(%[first]), %[sum]; mov %[sum], (%[at]); xor %k[sum], %k[sum]; mov (%[at]), %[sum]"
		     : [whole] "=&r"(whole), [sum] "=&r"(sum), [first] "+&r"(first)
		     : [at] "r"(at)
		     : "memory", "cc");
	return whole == (~0ULL << 32 | (u32)value) && sum == value + 5 && first == value;
}

/* The same by one register: bytes in the midst; and the word one page further, which may be the same one. */
static __attribute__((noinline)) bool later_stores_are_seen(u64 *at, u64 value)
{
	u64 mixed, aliased;
	asm volatile("mov %[value], 8(%[at]); movb $0x55, 11(%[at]); mov 8(%[at]), %[mixed];"
		     "mov %[value], (%[at]); mov %[at], 4096(%[at]); mov (%[at]), %[aliased]"
		     : [mixed] "=&r"(mixed), [aliased] "=&r"(aliased)
		     : [at] "r"(at), [value] "r"(value)
		     : "memory", "cc");
	return mixed == ((value & ~0xff000000ULL) | 0x55000000) && mixed == at[1] && aliased == at[0];
}

static __attribute__((noinline)) bool pushes_are_seen(u64 value)
{
	u64 top, below, popped;
	asm volatile("push %[value]; push %[value]; incq (%%rsp); mov (%%rsp), %[top]; mov 8(%%rsp), %[below];"
		     "push %[top]; mov (%%rsp), %[popped]; add $24, %%rsp"
		     : [top] "=&r"(top), [below] "=&r"(below), [popped] "=&r"(popped)
		     : [value] "r"(value)
		     : "memory", "cc");
	return top == value + 1 && below == value && popped == value + 1;
}

/* How far a pointer in memory walks to the first 0. */
static __attribute__((noinline)) u64 walk_by_memory(const u8 *from)
{
	const u8 *at = from;
	asm volatile("1: mov (%0), %%rdx; lea 1(%%rdx), %%rcx; mov %%rcx, (%0); cmpb $0, 1(%%rdx); jne 1b"
		     :
		     : "S"(&at)
		     : "rcx", "rdx", "memory", "cc");
	return (u64)(at - from);
}

static void test_own_stores(void)
{
	bool seen = true, walked = true;
	map(0, PRESENT | WRITE);
	window_pt[1] = (u64)pages[0] | PRESENT | WRITE; /* one page at two addresses */
	window_pt[2] = (u64)pages[2] | PRESENT | WRITE;
	invlpg(WINDOW + 4096);
	invlpg(WINDOW + 8192);
	memset(pages, 0, sizeof pages);
	for (u64 i = 0; i < 4 * ROUNDS; i++) {
		u64 *at = (u64 *)(WINDOW + (i % 64 == 63 ? 4096 - 8 * (i / 64 % 4) : 64)),
		    value = i * 0x9e3779b97f4a7c15;
		u64 *other = i % 3 == 0 ? at : i % 3 == 1 ? at + 512 : (u64 *)((u8 *)at + i % 8);
		seen &= stores_are_seen(at, other, value);
		seen &= later_stores_are_seen(i % 64 == 63 ? (u64 *)(WINDOW + 4096 - 8 * (i / 64 % 2)) : at, value);
		seen &= no_more_is_seen(at, value);
		seen &= pushes_are_seen(value);
	}
	CHECK("own-stores-are-seen-whatever-comes-between", seen);
	memset(pages, 1, sizeof pages);
	pages[0][0] = pages[2][100] = 0;
	for (unsigned i = 0; i < ROUNDS; i++) {
		pages[0][0] = 1;
		walked &= walk_by_memory(WINDOW + 4096 + i % 32) == 4096 + 100 - i % 32;
		pages[0][0] = 0;
		walked &= walk_by_memory(WINDOW + 4096 - 1 - i % 32) == 1 + i % 32;
	}
	CHECK("pointer-in-memory-walks-over-pages", walked);
	map(1, PRESENT | WRITE);
	map(2, PRESENT | WRITE);
}

/* One time in a hundred, neighbours are not in one page, and sometimes the second page is not there. */
static void test_seldom_across_a_border(void)
{
	unsigned wrong = 0, faults = 0;
	window_pt[1] = (u64)pages[2] | PRESENT | WRITE;
	invlpg(WINDOW + 4096);
	memset(pages, 0, sizeof pages);
	for (unsigned i = 0; i < 100 * ROUNDS; i++) {
		bool across = i % 100 == 99, absent = across && i / 100 % 4 == 3;
		u64 *at = (u64 *)(WINDOW + (across ? 4096 - 16 : 256));
		if (across) {
			window_pt[1] = absent ? 0 : (u64)pages[2] | PRESENT | WRITE;
			invlpg(WINDOW + 4096);
		}
		at[0] = at[1] = 0;
		TRY("cmp %%rax, %%rax; incq (%0); incq 8(%0); stc; incq 16(%0); incq 24(%0)",
		    :
		    : "r"(at)
		    : "memory", "cc");
		wrong += at[0] != 1 || at[1] != 1 || fault.vector != (absent ? PF : NO_FAULT);
		wrong += absent && (fault.address != (word)(at + 2) || fault.error != 2 || !(fault.flags & 1));
		faults += absent;
	}
	CHECK("neighbours-seldom-across-a-border", wrong == 0 && faults == ROUNDS / 4);
	u64 *second = (u64 *)pages[2];
	CHECK("what-lies-across-the-border-is-done-once", second[0] == ROUNDS - faults && second[1] == ROUNDS - faults);
	CHECK("and-nowhere-else", ((u64 *)pages[1])[0] == 0);
	map(1, PRESENT | WRITE);
}

/* The base register moves between neighbours, and another one is a copy of it. */
static void test_moving_base(void)
{
	static u64 cell[8];
	bool right = true;
	for (u64 i = 0; i < ROUNDS; i++) {
		u64 *at = cell, *copy, sum;
		asm volatile("movq %3, (%0); add $8, %0; movq %3, (%0); mov %0, %1; inc %0; movq %3, 7(%0);"
			     "lea 23(%0), %0; movq %3, (%0); mov 8(%1), %2; sub $32, %0; add (%0), %2"
			     : "+r"(at), "=&r"(copy), "=&r"(sum)
			     : "r"(i)
			     : "memory", "cc");
		right &= at == cell && copy == cell + 1 && sum == 2 * i && cell[0] == i && cell[1] == i &&
			 cell[2] == i && cell[4] == i && cell[3] == 0;
	}
	CHECK("neighbours-of-a-moving-base", right);
}

/* --- deep calls, and code that changes below a run --- */

static u8 deep_stack[1 << 18] ALIGNED(16);

static u64 depth(u64 n)
{
	u64 r;
	asm volatile("mov %1, %%rcx; mov %%rsp, %%rbx; mov %2, %%rsp; call 1f; mov %%rbx, %%rsp; jmp 2f\n"
		     "1: test %%rcx, %%rcx; jz 3f; dec %%rcx; push %%rcx; call 1b; pop %%rcx; inc %%rax; ret\n"
		     "3: xor %%eax, %%eax; ret\n"
		     "2:"
		     : "=a"(r)
		     : "r"(n), "r"(deep_stack + sizeof deep_stack)
		     : "rbx", "rcx", "memory", "cc");
	return r;
}

/* Returns to where its caller did not call from. */
asm(".pushsection .text\n"
    ".global odd_return\n"
    "odd_return: call 1f; mov $1, %eax; ret\n"
    "1: addq $5, (%rsp); ret\n" /* over the MOV */
    ".popsection\n");
u32 odd_return(void);

static void test_calls(void)
{
	bool right = true;
	for (unsigned i = 0; i < 20; i++)
		right &= depth(20 + 13 * i) == 20 + 13 * i;
	CHECK("deep-recursion", right);
	/* Deeper than calls can be open on the host's stack. */
	for (unsigned i = 0; i < 4; i++)
		right &= depth(5000 + 3000 * i) == 5000 + 3000 * i;
	CHECK("very-deep-recursion", right);
	u32 value = 1;
	for (unsigned i = 0; i < ROUNDS; i++) {
		asm volatile("xor %%eax, %%eax; call odd_return" : "=a"(value) : : "memory", "cc");
		right &= value == 0;
	}
	CHECK("return-to-another-place-than-behind-the-call", right);
}

static void test_changed_successor(void)
{
	/* 0: dec %edi; js 32; jmp 16.  16: mov $imm, %eax; add %eax, %esi; jmp 0.  32: mov %esi, %eax; ret. */
	static const u8 loop[] = { 0xff, 0xcf, 0x78, 0x1c, 0xeb, 0x0a };
	static const u8 body[] = { 0xb8, 1, 0, 0, 0, 0x01, 0xc6, 0xeb, 0xe7 };
	static const u8 end[] = { 0x89, 0xf0, 0xc3 };
	u8 *code = pages[1];
	bool right = true;
	memcpy(code, loop, sizeof loop);
	memcpy(code + 16, body, sizeof body);
	memcpy(code + 32, end, sizeof end);
	for (u32 i = 1; i < ROUNDS; i++) {
		u32 sum, count = 50, zero = 0;
		*(volatile u32 *)(code + 17) = i; /* a block in the middle of the loop, not the one that is entered */
		asm volatile("call *%3" : "=a"(sum), "+D"(count), "+S"(zero) : "r"(code) : "memory", "cc");
		right &= sum == 50 * i;
	}
	CHECK("changed-block-in-the-middle-of-a-loop-counts", right);
}

/* XLAT is left to its handler: where there are many, the translator leaves the block alone. */
static void test_handlers_in_a_row(void)
{
	static const u8 table[4] = { 1, 2, 3, 0 };
	word n = ROUNDS;
	u8 value = 0;
	asm volatile("1: xlat; xlat; xlat; xlat; xlat; dec %1; jnz 1b" : "+a"(value), "+r"(n) : "b"(table) : "cc");
	CHECK_EQUAL("handlers-in-a-row", value, 5 * ROUNDS % 4);
}

/* --- what shows the CPU's state --- */

static void test_flags_image(void)
{
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		word image;
		/* DF, OF, SF, AF, PF and bit 1; CF as it was. */
		asm volatile("std; cmp %1, %1; clc; mov $0x7f, %%al; inc %%al; pushf; pop %0; cld"
			     : "=r"(image)
			     : "r"(0UL)
			     : "rax", "cc");
		right &= (image & ~0x3202UL) == 0x890 + 0x400UL && (image & 2);
	}
	CHECK("pushf-in-a-loop-shows-all-flags", right);
}

static void test_selectors(void)
{
	bool right = true;
	for (unsigned i = 0; i < ROUNDS; i++) {
		word cs = ~0UL, ss = ~0UL;
		u16 low = 0;
		asm volatile("mov %%cs, %k0; mov %%ss, %k1; mov $-1, %%r9; mov %%cs, %%r9w; mov %%r9w, %2"
			     : "=r"(cs), "=r"(ss), "=r"(low)
			     :
			     : "r9");
		right &= cs == CODE64 && ss == DATA && low == CODE64;
	}
	CHECK("mov-of-a-segment-register-clears-the-upper-half", right);
}

/* --- loops whose memory is checked before the rounds --- */

/* Adds `n` words, from `at` on backwards, and increments each. */
static u64 walk_back(u8 *at, u64 n)
{
	u64 sum = 0;
	asm volatile("1: add (%1), %0; incq (%1); add $-8, %1; dec %2; jnz 1b"
		     : "+r"(sum), "+r"(at), "+r"(n)
		     :
		     : "memory", "cc");
	return sum;
}

/* The same with a constant step, so that it can be known beforehand, and with registers that live in memory elsewhere.
 */
static u64 walk_up(u8 *at, u64 n)
{
	u64 sum;
	asm volatile("mov %1, %%r9; mov %2, %%r10; xor %%r11d, %%r11d\n"
		     "1: add (%%r9), %%r11; incq (%%r9); add $8, %%r9; sub $1, %%r10; jnz 1b\n"
		     "mov %%r11, %0"
		     : "=r"(sum)
		     : "r"(at), "r"(n)
		     : "memory", "cc", "r9", "r10", "r11");
	return sum;
}

/* By an index of 32 bits that counts down. */
static u64 walk_down(u8 *at, u32 n)
{
	u64 sum;
	asm volatile("xor %%eax, %%eax\n"
		     "1: add -8(%1,%q2,8), %%rax; incq -8(%1,%q2,8); sub $1, %2; jnz 1b"
		     : "=&a"(sum), "+r"(at), "+r"(n)
		     :
		     : "memory", "cc");
	return sum;
}

static void test_loops_over_pages(void)
{
	enum { WORDS = 1024 };
	bool right = true;
	map(0, PRESENT | WRITE);
	/* The second page lies somewhere else than behind the first. */
	window_pt[1] = (u64)pages[2] | PRESENT | WRITE;
	invlpg(WINDOW + 4096);
	memset(pages, 0, sizeof pages);
	for (unsigned i = 0; i < 20; i++) {
		right &= walk_up(WINDOW, WORDS) == 3ULL * i * WORDS;
		right &= walk_down(WINDOW, WORDS) == (3ULL * i + 1) * WORDS;
		right &= walk_back(WINDOW + 8 * (WORDS - 1), WORDS) == (3ULL * i + 2) * WORDS;
	}
	CHECK("loops-over-pages", right);
	u64 elsewhere = 0;
	for (unsigned i = 0; i < 512; i++)
		elsewhere += ((u64 *)pages[1])[i];
	CHECK_EQUAL("no-loop-in-the-wrong-page", elsewhere, 0);
	/* Words across the border: no round may take both from one page. */
	memset(pages, 0, sizeof pages);
	for (unsigned i = 0; i < 20; i++)
		right &= walk_up(WINDOW + 3, WORDS - 1) == i * (WORDS - 1ULL);
	CHECK("loops-over-words-across-a-border", right);
}

/* MOVBE of a register by which it is addressed, while the loop moves R10, R11 and R15 to others and leaves it few. */
static void test_moved_registers(void)
{
	unsigned wrong = 0;
	map(0, PRESENT | WRITE);
	for (u64 i = 0; i < ROUNDS; i++) {
		u64 sign = ~i, count = 100;
		u8 *at = WINDOW;
		memset(pages[0], 0, sizeof pages[0]);
		asm volatile("mov %[at], %%r8; mov %[sign], %%r11; xor %%r15d, %%r15d\n"
			     "1: sub $1, %%r12w; xor $1, %%rax; movslq %%r11d, %%rsi; imul 2048(%%r8,%%r15,4), %%rdx;"
			     "movslq %%edx, %%r10; test %%r11, %%rbp; inc %%rdi; movbe %%r15, 64(%%r8,%%r15,2);"
			     "add $1, %%r15; sub $1, %%rcx; jnz 1b"
			     : [sign] "+S"(sign), "+c"(count), [at] "+D"(at)
			     :
			     : "rax", "rdx", "r8", "r10", "r11", "r12", "r15", "memory", "cc");
		wrong += sign != ~i || pages[0][64 + 2 * 99 + 7] != 99;
	}
	CHECK_EQUAL("registers-that-a-loop-moves-keep-their-values", wrong, 0);
}

/* JRCXZ leaves the loop with flags that nothing but R15 has any more, which the loop moves to another register. */
static void test_flags_behind_a_loop(void)
{
	unsigned wrong = 0;
	u64 zero = 0;
	map(0, PRESENT | WRITE);
	memset(pages[0], 0xff, sizeof pages[0]);
	for (u64 i = 0; i < ROUNDS; i++) {
		u64 count = 100, other = 0, *at = (u64 *)WINDOW;
		u8 sign;
		u64 last = 60 + i % 7, value = i & 1 ? ~i : i;
		memcpy(pages[0] + 8 * last, &value, 8);
		memcpy(pages[0] + 1024 + 8 * last, &zero, 8);
		asm volatile("mov %[not], %%r15\n"
			     "1: mov (%[at]), %%r15; mov 1024(%[at]), %%rcx; or %%r15, %%r15;"
			     "mov (%[zero],%[other]), %[other]; lea 8(%[at]), %[at]; jrcxz 2f; dec %[count]; jnz 1b\n"
			     "2: sets %[sign]"
			     : [at] "+S"(at), [count] "+D"(count), [other] "+a"(other), [sign] "=b"(sign)
			     : [not ] "d"(~value), [zero] "r"(&zero)
			     : "rcx", "r15", "memory", "cc");
		wrong += sign != (i & 1) || count != 100 - last;
		memset(pages[0] + 8 * last, 0xff, 8);
		memset(pages[0] + 1024 + 8 * last, 0xff, 8);
	}
	CHECK_EQUAL("a-loop-is-left-with-its-flags", wrong, 0);
}

/* The fault of a round in the middle: all rounds before it are done, and the registers are its own. */
static void test_fault_in_a_loop(void)
{
	bool right = true;
	map(0, PRESENT | WRITE);
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 *at = (u64 *)(WINDOW + 4096 - 8 * 100), n = 200;
		map(1, i % 3 == 0 ? PRESENT | WRITE : i % 3 == 1 ? PRESENT : 0);
		memset(pages, 0, sizeof pages);
		TRY("1: addq $-1, (%0); lea 8(%0), %0; stc; dec %1; jnz 1b", : "+r"(at), "+r"(n) : : "memory", "cc");
		bool whole = i % 3 == 0;
		right &= fault.vector == (whole ? NO_FAULT : PF);
		right &= n == (whole ? 0 : 100) && at == (u64 *)(WINDOW + 4096) + (whole ? 100 : 0);
		right &= at[-1] == ~0ULL && *(u64 *)(pages[0] + 4088) == ~0ULL;
		right &= *(u64 *)pages[1] == (whole ? ~0ULL : 0);
		/* DEC left CF as STC set it. */
		right &= whole || (fault.address == (word)at && (fault.flags & 1) && !(fault.flags & 0x40));
	}
	CHECK("fault-in-a-loop-is-precise", right);
	map(1, PRESENT | WRITE);
}

/* A loop that writes over code which lies in its way, and then runs it. */
static void test_loop_over_code(void)
{
	/* mov $imm, %eax; ret, at the beginning of the second page. */
	static const u8 code[8] = { 0xb8, 0, 0, 0, 0, 0xc3, 0x90, 0x90 };
	bool right = true;
	map(0, PRESENT | WRITE);
	map(1, PRESENT | WRITE);
	for (u32 i = 1; i < ROUNDS; i++) {
		u64 word_of_code, *at = (u64 *)(WINDOW + 4096 - 8 * 50), n = 60;
		u32 value;
		memcpy(&word_of_code, code, 8);
		word_of_code |= (u64)i << 8;
		asm volatile("1: mov %2, (%0); add $8, %0; sub $1, %1; jnz 1b"
			     : "+r"(at), "+r"(n)
			     : "r"(word_of_code)
			     : "memory", "cc");
		asm volatile("call *%1" : "=a"(value) : "r"(WINDOW + 4096) : "memory", "cc");
		right &= value == i;
	}
	CHECK("loop-over-code-changes-it", right);
}

/* --- loops of few rounds, visited so often that their rounds become one piece --- */

#define VISITS  1000
#define TOUCHED 0x60 /* accessed, dirty */

/* Adds `n` words from `at` on and increments each. R15 lives in memory elsewhere. Each use is a loop of its own. */
static inline __attribute__((always_inline)) u64 walk_shortly(u8 *at, u64 n)
{
	u64 sum = 0, index = 0;
	asm volatile("mov %3, %%r15\n"
		     "1: add (%%r15,%1), %0; incq (%%r15,%1); add $8, %1; dec %2; jnz 1b"
		     : "+r"(sum), "+r"(index), "+r"(n)
		     : "r"(at)
		     : "memory", "cc", "r15");
	return sum;
}

static void test_short_loops(void)
{
	u64 *words = (u64 *)WINDOW, all = 0;
	bool right = true;
	map(0, PRESENT | WRITE);
	map(1, PRESENT | WRITE);
	memset(pages, 0, sizeof pages);
	for (unsigned i = 0; i < VISITS; i++) {
		u64 n = 1 + i % 4, sum = 0;
		for (unsigned k = 0; k < n; k++)
			sum += words[k];
		right &= walk_shortly(WINDOW, n) == sum;
		all += n;
	}
	CHECK("short-loops-end-behind-any-round",
	      right && words[0] + words[1] + words[2] + words[3] == all && !words[4]);

	/* The second page lies somewhere else than behind the first. */
	window_pt[1] = (u64)pages[2] | PRESENT | WRITE;
	invlpg(WINDOW + 4096);
	memset(pages, 0, sizeof pages);
	for (unsigned i = 0; i < VISITS; i++)
		walk_shortly(WINDOW + 4096 - 8 * (i % 4), 3);
	/* The first word behind the border is in three of four walks, the last one before it in all that cross. */
	right &= *(u64 *)pages[2] == VISITS * 3 / 4 && *(u64 *)(pages[0] + 4088) == VISITS * 3 / 4;
	right &= ((u64 *)pages[2])[2] == VISITS / 4 && *(u64 *)(pages[0] + 4072) == VISITS / 4;
	CHECK("short-loops-cross-pages-in-any-round", right);
	CHECK_EQUAL("no-short-loop-in-the-wrong-page", *(u64 *)pages[1], 0);
}

/* The last word of a page is the last one of the loop: the next page is not touched. */
static void test_rounds_that_do_not_run(void)
{
	bool right = true;
	map(0, PRESENT | WRITE);
	map(1, PRESENT | WRITE);
	memset(pages, 0, sizeof pages);
	for (unsigned i = 0; i < VISITS; i++) {
		u64 n = 1 + i % 4;
		walk_shortly(i % 8 != 5 ? WINDOW : WINDOW + 4096 - 8 * n, n);
		right &= !(window_pt[1] & TOUCHED);
	}
	CHECK("rounds-that-do-not-run-touch-no-page", right);
}

static void test_faults_in_a_short_loop(void)
{
	bool right = true;
	map(0, PRESENT | WRITE);
	for (unsigned i = 0; i < VISITS; i++) {
		unsigned first = i % 4; /* how many rounds are in the first page */
		bool border = i % 16 > 11;
		u64 *at = (u64 *)(border ? WINDOW + 4096 - 8 * first : WINDOW), n = 3;
		map(1, i % 32 > 15 ? PRESENT : 0);
		memset(pages, 0, sizeof pages);
		TRY("1: addq $-1, (%0); lea 8(%0), %0; stc; dec %1; jnz 1b", : "+r"(at), "+r"(n) : : "memory", "cc");
		bool whole = !border || first == 3;
		right &= fault.vector == (whole ? NO_FAULT : PF) && n == (whole ? 0 : 3 - first);
		right &= at == (u64 *)(border ? WINDOW + 4096 : WINDOW) + (border ? 0 : 3);
		right &= whole || (fault.address == (word)at && fault.error == (i % 32 > 15 ? 3 : 2));
		right &= whole || first == 0 || ((fault.flags & 1) && !(fault.flags & 0x40));
		for (unsigned k = 1; border && k <= 3; k++)
			right &= ((u64 *)(WINDOW + 4096))[-(int)k] == (k <= first ? ~0ULL : 0);
		right &= !*(u64 *)pages[1];
	}
	CHECK("fault-in-any-round-of-a-short-loop-is-precise", right);
	map(1, PRESENT | WRITE);
}

/* Every so often a round writes to the immediate of the loop's own ADD, and the next one adds that. */
static void test_short_loop_that_changes_itself(void)
{
	enum { CODE = 0x200, IMMEDIATE = CODE + 2 };
	static const u8 loop[] = {
		0x81, 0xc0, 0, 0, 0, 0, /* add $immediate, %eax */
		0x89, 0x0e,             /* mov %ecx, (%rsi) */
		0xff, 0xc9,             /* dec %ecx */
		0x75, 0xf4,             /* jnz */
		0xc3,
	};
	bool right = true;
	map(0, PRESENT | WRITE);
	map(1, PRESENT | WRITE);
	memset(pages, 0, sizeof pages);
	memcpy(WINDOW + CODE, loop, sizeof loop);
	u32 immediate = 0;
	for (unsigned i = 0; i < VISITS; i++) {
		bool change = i % 64 == 63;
		u32 sum = 0, n = 3;
		void *to = change ? WINDOW + IMMEDIATE : WINDOW + 4096;
		asm volatile("call *%3" : "+a"(sum), "+c"(n), "+S"(to) : "r"(WINDOW + CODE) : "memory", "cc");
		right &= sum == (change ? immediate + 3 + 2 : 3 * immediate);
		immediate = change ? 1 : immediate;
		if (change && i % 128 == 127) {
			immediate = i;
			memcpy(WINDOW + IMMEDIATE, &immediate, 4);
		}
	}
	CHECK("short-loop-that-changes-itself-runs-what-it-wrote", right);
}

void guest_main(void)
{
	boot_pml4[1] = (u64)window_pdpt | PRESENT | WRITE;
	window_pdpt[0] = (u64)window_pd | PRESENT | WRITE;
	window_pd[0] = (u64)window_pt | PRESENT | WRITE;
	write_cr3(read_cr3());
	test_flags();
	test_count_branches();
	test_shifts();
	test_high_bytes();
	test_page_borders();
	test_faults_between_neighbours();
	test_read_only_neighbours();
	test_small_indices();
	test_constant_indices();
	test_own_stores();
	test_seldom_across_a_border();
	test_moving_base();
	test_calls();
	test_changed_successor();
	test_handlers_in_a_row();
	test_flags_image();
	test_selectors();
	test_loops_over_pages();
	test_moved_registers();
	test_flags_behind_a_loop();
	test_fault_in_a_loop();
	test_loop_over_code();
	test_short_loops();
	test_rounds_that_do_not_run();
	test_faults_in_a_short_loop();
	test_short_loop_that_changes_itself();
}
