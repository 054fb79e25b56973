/* REP string instructions: what is left of them when a page fault or an interrupt comes in between. */
#include "lib/guest.h"

static u64 window_pdpt[512] ALIGNED(4096), window_pd[512] ALIGNED(4096), window_pt[512] ALIGNED(4096);
static u8 source[3][4096] ALIGNED(4096), target[3][4096] ALIGNED(4096);

#define WINDOW ((u8 *)(1ULL << 39))

/* Maps pages 0, 1 of the window to `where` in a row; page 2 is absent. */
static void map(const u8 (*where)[4096])
{
	boot_pml4[1] = (u64)window_pdpt | 3;
	window_pdpt[0] = (u64)window_pd | 3;
	window_pd[0] = (u64)window_pt | 3;
	for (unsigned i = 0; i < 2; i++)
		window_pt[i] = (u64)where[i] | 3;
	window_pt[2] = 0;
	write_cr3(read_cr3());
}

struct regs {
	u64 di, si, cx;
};

#define STRING(code, r, ax) TRY(code, : "+D"((r)->di), "+S"((r)->si), "+c"((r)->cx) : "a"(ax) : "memory", "cc")

static void test_faults(void)
{
	map(target);
	memset(target, 0, sizeof target);
	struct regs r = { (u64)WINDOW + 8192 - 5, 0, 20 };
	word v = STRING("rep stosb", &r, 0x5a);
	CHECK("stosb-stops-at-the-absent-page", v == PF && fault.address == (u64)WINDOW + 8192);
	CHECK("stosb-registers-show-how-far", r.di == (u64)WINDOW + 8192 && r.cx == 15);
	CHECK("stosb-wrote-up-to-there", target[1][4095] == 0x5a && target[1][4091] == 0x5a && target[1][4090] == 0);
	CHECK("stosb-ip-is-its-own", *(u16 *)fault.ip == 0xaaf3);

	r = (struct regs){ (u64)WINDOW + 8192 - 12, 0, 4 };
	STRING("rep stosq", &r, 0x1122334455667788);
	CHECK("stosq-across-the-edge-writes-no-part",
	      r.cx == 3 && r.di == (u64)WINDOW + 8192 - 4 && target[1][4092] == 0x5a);

	for (unsigned i = 0; i < 4096; i++)
		source[0][i] = source[1][i] = (u8)i;
	memset(target, 0, sizeof target);
	r = (struct regs){ (u64)WINDOW + 4096, (u64)source, 8192 };
	v = STRING("rep movsb", &r, 0);
	CHECK("movsb-faults-on-its-target", v == PF && fault.error == 2 && fault.address == (u64)WINDOW + 8192);
	CHECK("movsb-registers", r.cx == 4096 && r.si == (u64)source + 4096 && r.di == (u64)WINDOW + 8192);
	CHECK("movsb-copied-a-page", !memcmp(target[1], source[0], 4096));

	map(source);
	memset(target, 0, sizeof target);
	r = (struct regs){ (u64)target, (u64)WINDOW + 8192 - 64, 100 };
	v = STRING("rep movsl", &r, 0);
	CHECK("movsl-faults-on-its-source", v == PF && fault.error == 0 && r.cx == 84);
	CHECK("movsl-copied-what-was-there", !memcmp(target, source[1] + 4096 - 64, 64) && target[0][64] == 0);

	r = (struct regs){ 0, (u64)WINDOW + 8192 - 4, 100 };
	v = STRING("rep lodsb", &r, 0);
	CHECK("lodsb-faults", v == PF && r.cx == 96 && r.si == (u64)WINDOW + 8192);
	r = (struct regs){ (u64)WINDOW + 8192 - 4, 0, 100 };
	v = STRING("repne scasb", &r, 0x77);
	CHECK("scasb-faults", v == PF && r.cx == 96);
	r = (struct regs){ (u64)source[1] + 4096 - 16, (u64)WINDOW + 8192 - 16, 100 };
	v = STRING("repe cmpsb", &r, 0);
	CHECK("cmpsb-faults", v == PF && r.cx == 84);
}

static void test_semantics(void)
{
	struct regs r = { (u64)target, (u64)source, 0 };
	CHECK("rep-with-cx-0-does-nothing", STRING("rep movsb", &r, 0) == NO_FAULT && r.di == (u64)target);
	r = (struct regs){ 0x8000000000000000, 0, 0 };
	CHECK("rep-with-cx-0-touches-no-memory", STRING("rep stosb", &r, 0) == NO_FAULT);
	/* Overlap by one element: a pattern spreads. */
	memset(target, 0, 64);
	target[0][0] = 0xab;
	r = (struct regs){ (u64)target + 1, (u64)target, 63 };
	STRING("rep movsb", &r, 0);
	CHECK("overlapping-movsb-spreads-the-first-byte", target[0][63] == 0xab);
	for (unsigned i = 0; i < 64; i++)
		target[0][i] = (u8)i;
	r = (struct regs){ (u64)target + 63, (u64)target + 62, 63 };
	STRING("std; rep movsb; cld", &r, 0);
	CHECK("backward-movsb-moves-up", target[0][63] == 62 && target[0][1] == 0 && r.cx == 0);
	memset(target, 1, 64);
	target[0][40] = 9;
	r = (struct regs){ (u64)target, 0, 64 };
	STRING("repne scasb", &r, 9);
	CHECK("repne-scasb-stops-behind-the-match", r.di == (u64)target + 41 && r.cx == 23);
	r = (struct regs){ (u64)target, 0, 64 };
	STRING("repe scasb", &r, 1);
	CHECK("repe-scasb-stops-behind-the-difference", r.di == (u64)target + 41 && r.cx == 23);
	r = (struct regs){ (u64)target, 0, 0x100000004 };
	STRING("addr32 rep stosb", &r, 3);
	CHECK("addr32-counts-in-ecx", r.cx == 0 && target[0][3] == 3 && target[0][4] == 1);
	/* Copying to a device: the debug-exit port is none, so the serial scratch register by OUTS. */
	static const u8 bytes[] = { 1, 2, 3, 0x5c };
	u64 si = (u64)bytes, cx = 4;
	asm volatile("rep outsb" : "+S"(si), "+c"(cx) : "d"(0x3ff) : "memory");
	CHECK("rep-outsb-writes-each-byte", cx == 0 && si == (u64)bytes + 4 && inb(0x3ff) == 0x5c);
	u64 di = (u64)target;
	cx = 3;
	asm volatile("rep insb" : "+D"(di), "+c"(cx) : "d"(0x3ff) : "memory");
	CHECK("rep-insb-reads-each-byte", cx == 0 && target[0][2] == 0x5c);
}

/* --- every width, place and count, by the same few instructions --- */

#define AREA 8192 /* two pages of the window */
static u8 expected[AREA], from[AREA];

#define OPERATION(suffix, size)                                                                                        \
	static __attribute__((noinline)) void do_stos##suffix(struct regs *r, u64 ax)                                  \
	{                                                                                                              \
		asm volatile("rep stos" #suffix : "+D"(r->di), "+c"(r->cx) : "a"(ax) : "memory");                      \
	}                                                                                                              \
	static __attribute__((noinline)) void do_movs##suffix(struct regs *r, u64 ax)                                  \
	{                                                                                                              \
		asm volatile("rep movs" #suffix : "+D"(r->di), "+S"(r->si), "+c"(r->cx) : "a"(ax) : "memory");         \
	}
OPERATION(b, 1)
OPERATION(w, 2)
OPERATION(l, 4)
OPERATION(q, 8)

static void (*const operations[4][2])(struct regs *, u64) = {
	{ do_stosb, do_movsb }, { do_stosw, do_movsw }, { do_stosl, do_movsl }, { do_stosq, do_movsq }
};

/* One of them on the window, which shows target; is all as it must be? */
static bool repeats(unsigned width, bool move, unsigned to, unsigned si, unsigned count)
{
	u64 ax = 0x8877665544332211;
	unsigned size = 1u << width;
	struct regs r = { (u64)WINDOW + to, (u64)from + si, count };

	memset(target, 0xcc, AREA);
	memset(expected, 0xcc, AREA);
	for (unsigned i = 0; i < count * size; i++)
		expected[to + i] = move ? from[si + i] : (u8)(ax >> 8 * (i % size));
	operations[width][move](&r, ax);
	return r.cx == 0 && r.di == (u64)WINDOW + to + count * size &&
	       r.si == (u64)from + si + (move ? count * size : 0) && !memcmp(target, expected, AREA);
}

static void test_widths(void)
{
	static const unsigned places[] = { 0, 1, 8, 2043, 4088, 4095 }, counts[] = { 0, 1, 2, 5, 32, 511, 512 };
	bool stores = true, moves = true;

	map(target);
	for (unsigned i = 0; i < AREA; i++)
		from[i] = (u8)(i * 7 + i / 256);
	for (unsigned width = 0; width < 4; width++)
		for (unsigned i = 0; i < sizeof places / sizeof *places; i++)
			for (unsigned n = 0; n < sizeof counts / sizeof *counts; n++) {
				if (places[i] + (counts[n] << width) > AREA)
					continue;
				stores &= repeats(width, false, places[i], 0, counts[n]);
				moves &= repeats(width, true, places[i], 8, counts[n]);
				moves &= repeats(width, true, 16, places[i], counts[n]);
			}
	CHECK("rep-stos-of-any-width-and-place", stores);
	CHECK("rep-movs-of-any-width-and-place", moves);

	/* To the last byte of a page, and of what is mapped. */
	CHECK("rep-stosb-of-a-page", repeats(0, false, 4096, 0, 4096));
	CHECK("rep-movsb-of-a-page", repeats(0, true, 4096, 0, 4096));
	/* Counts whose bytes are no number of 64 bits. */
	struct regs r = { (u64)WINDOW + 8192 - 16, (u64)from, 1ULL << 61 };
	word v = STRING("rep stosq", &r, 0);
	CHECK("rep-stosq-of-2-to-the-64-bytes", v == PF && r.cx == (1ULL << 61) - 2);
	r = (struct regs){ (u64)WINDOW + 8192 - 16, (u64)from, (1ULL << 61) + 1 };
	v = STRING("rep movsq", &r, 0);
	CHECK("rep-movsq-of-more", v == PF && r.cx == (1ULL << 61) - 1 && r.si == (u64)from + 16);
}

/* What comes behind: the flags of before, and the registers of after. */
static void test_neighbours(void)
{
	bool flags = true, registers = true;
	for (unsigned i = 0; i < 8; i++) {
		u64 di = (u64)target, si = (u64)from, cx = i, sum = i & 1;
		u8 zero, carry, sign;
		asm volatile("cmp $1, %[sum]; rep movsb; setz %[zero]; setc %[carry]; sets %[sign]; lea (%%rdi, "
			     "%%rsi), %[sum]"
			     : "+D"(di), "+S"(si),
			       "+c"(cx), [sum] "+r"(sum), [zero] "=&r"(zero), [carry] "=&r"(carry), [sign] "=&r"(sign)
			     :
			     : "memory", "cc");
		flags &= zero == (i & 1) && carry == !(i & 1) && sign == !(i & 1);
		registers &= sum == (u64)target + (u64)from + 2 * i;
	}
	CHECK("flags-stay-over-rep-movsb", flags);
	CHECK("registers-behind-rep-movsb", registers);
	/* Operands of 64-bit pointers that the repetition moves: none shares a check with what was before. */
	bool values = true;
	for (unsigned i = 0; i < 8; i++) {
		u64 before, di = (u64)target + 4096 - 8, cx = 8, at;
		*(u64 *)di = 0x1111 * i;
		*(u64 *)(di + 8) = 0x2222 * i;
		asm volatile("mov (%%rdi), %[before]; rep stosb; mov (%%rdi), %[at]"
			     : "+D"(di), "+c"(cx), [before] "=&r"(before), [at] "=&r"(at)
			     : "a"(0)
			     : "memory");
		values &= before == 0x1111 * i && at == 0x2222 * i;
	}
	CHECK("operands-beside-rep-stosb", values);
}

/* --- interrupts --- */

enum { LAPIC_SVR = 0xf0, LAPIC_EOI = 0xb0, LAPIC_TIMER = 0x320, LAPIC_INITIAL = 0x380, LAPIC_DIVIDE = 0x3e0 };
static volatile u32 *const lapic = (volatile u32 *)0xfee00000;
#define STORES (24ULL << 20)

static volatile u64 ticks, ticks_in_the_middle;

/* Stores that a tick found under way, with RIP back at the instruction (F3 AA). */
static void on_timer(struct frame *f)
{
	ticks++;
	if (*(const u16 *)f->ip == 0xaaf3 && f->cx > 0 && f->cx < STORES)
		ticks_in_the_middle++;
	lapic[LAPIC_EOI / 4] = 0;
}

static void test_interrupts(void)
{
	handlers[0x40] = on_timer;
	lapic[LAPIC_SVR / 4] = 0x1ff;
	lapic[LAPIC_DIVIDE / 4] = 0xb;
	lapic[LAPIC_TIMER / 4] = 0x20040; /* periodic */
	lapic[LAPIC_INITIAL / 4] = 20000;
	/* 4 GiB of stores of nothing much: it must be stopped in between, over and over. */
	u64 di = 16 << 20, cx = STORES;
	irq_enable();
	for (unsigned i = 0; i < 100 && ticks_in_the_middle < 3; i++) {
		di = 16 << 20;
		cx = STORES;
		asm volatile("rep stosb" : "+D"(di), "+c"(cx) : "a"(i) : "memory");
	}
	irq_disable();
	lapic[LAPIC_INITIAL / 4] = 0;
	CHECK("timer-interrupts-while-rep-stosb-runs", ticks >= 3);
	CHECK("interrupted-in-the-middle-at-the-instruction", ticks_in_the_middle >= 3);
	CHECK("and-finished-all-the-same", cx == 0 && di == (16 << 20) + STORES);
}

void guest_main(void)
{
	test_faults();
	test_semantics();
	test_widths();
	test_neighbours();
	test_interrupts();
}
