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
	test_interrupts();
}
