/* Several CPUs on the same memory: locked operations, ordering, page tables that change, TLB shootdown. */
#include "lib/smp.h"

enum { ROUNDS = 3000, LITMUS_ROUNDS = 4000, LINE = 64 };

static u8 arena[4 * 4096] ALIGNED(4096);
static volatile u8 *place;

/* --- locked operations --- */

static void add_one(unsigned cpu)
{
	smp_barrier();
	for (unsigned n = 0; n < ROUNDS; n++)
		asm volatile("lock incw %0" : "+m"(*(volatile u16 *)place));
}

static void add_four(unsigned cpu)
{
	smp_barrier();
	for (unsigned n = 0; n < ROUNDS; n++)
		asm volatile("lock addl $1, %0" : "+m"(*(volatile u32 *)place));
}

static void add_eight(unsigned cpu)
{
	smp_barrier();
	for (unsigned n = 0; n < ROUNDS; n++) {
		u64 by = 0x100000001;
		asm volatile("lock xadd %1, %0" : "+m"(*(volatile u64 *)place), "+r"(by));
	}
}

static void compare_and_add(unsigned cpu)
{
	smp_barrier();
	for (unsigned n = 0; n < ROUNDS; n++) {
		volatile u64 *p = (volatile u64 *)place;
		u64 old;
		bool done;
		do {
			old = *p;
			u64 next = old + 1, seen = old;
			asm volatile("lock cmpxchg %3, %1"
				     : "=@ccz"(done), "+m"(*p), "+a"(seen)
				     : "r"(next)
				     : "memory");
		} while (!done);
	}
}

static volatile u64 guarded;

static void spin_lock_by_exchange(unsigned cpu)
{
	smp_barrier();
	for (unsigned n = 0; n < ROUNDS / 4; n++) {
		u32 taken;
		do {
			taken = 1;
			asm volatile("xchg %0, %1" : "+r"(taken), "+m"(*(volatile u32 *)place) : : "memory");
			if (taken)
				pause();
		} while (taken);
		guarded = guarded + 1;
		asm volatile("" : : : "memory");
		*(volatile u32 *)place = 0;
	}
}

static void spin_lock_by_bit(unsigned cpu)
{
	smp_barrier();
	for (unsigned n = 0; n < ROUNDS / 4; n++) {
		bool taken;
		do {
			asm volatile("lock btsl $5, %1" : "=@ccc"(taken), "+m"(*(volatile u32 *)place) : : "memory");
			if (taken)
				pause();
		} while (taken);
		guarded = guarded + 1;
		asm volatile("lock btrl $5, %0" : "+m"(*(volatile u32 *)place) : : "memory");
	}
}

static void add_sixteen(unsigned cpu)
{
	smp_barrier();
	for (unsigned n = 0; n < ROUNDS; n++) {
		volatile u64 *p = (volatile u64 *)place;
		u64 low = p[0], high = p[1];
		bool done;
		do
			asm volatile("lock cmpxchg16b %1"
				     : "=@ccz"(done), "+m"(*(volatile __int128 *)p), "+a"(low), "+d"(high)
				     : "b"(low + 1), "c"(high + 3)
				     : "memory");
		while (!done);
	}
}

static void count_at(u8 *at, const char *where)
{
	u64 times = (u64)ROUNDS * smp_cpus;
	char name[64];
	static const char *const kinds[] = { "inc-16-bits-", "add-32-bits-", "xadd-64-bits-", "cmpxchg-64-bits-" };
	static void (*const functions[])(unsigned) = { add_one, add_four, add_eight, compare_and_add };
	const u64 sums[] = { times & 0xffff, times, times * 0x100000001, times };
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		memset(at, 0, 8);
		place = at;
		smp_run_all(functions[i]);
		char *to = name;
		for (const char *s = kinds[i]; *s;)
			*to++ = *s++;
		for (const char *s = where; *s;)
			*to++ = *s++;
		*to = 0;
		u64 sum;
		memcpy(&sum, at, 8);
		CHECK_EQUAL(name, sum, sums[i]);
	}
	u64 turns = (u64)(ROUNDS / 4) * smp_cpus;
	memset(at, 0, 8);
	guarded = 0;
	smp_run_all(spin_lock_by_exchange);
	CHECK_EQUAL("xchg-is-a-lock", guarded, turns);
	memset(at, 0, 8);
	guarded = 0;
	smp_run_all(spin_lock_by_bit);
	CHECK_EQUAL("bts-is-a-lock", guarded, turns);
}

static void test_locked(void)
{
	count_at(arena + 256, "aligned");
	count_at(arena + 256 + 4, "within-a-line");
	count_at(arena + 256 + LINE - 1, "across-lines");
	count_at(arena + 4096 - 1, "across-pages");
	memset(arena, 0, 16);
	place = arena;
	smp_run_all(add_sixteen);
	u64 low = *(u64 *)arena, high = *(u64 *)(arena + 8);
	CHECK("cmpxchg16b-adds-up", low == (u64)ROUNDS * smp_cpus && high == 3 * low);
}

/* --- ordering --- */

static volatile u64 x ALIGNED(64), y ALIGNED(64), seen_x ALIGNED(64), seen_y ALIGNED(64);
static volatile unsigned forbidden, torn;

/* Two CPUs, each stores one and loads the other: with a fence between not both can miss. */
static void store_buffering(unsigned cpu)
{
	for (unsigned n = 0; n < LITMUS_ROUNDS; n++) {
		if (cpu == 0)
			x = y = 0;
		smp_barrier();
		if (cpu == 0) {
			x = 1;
			if (n & 1)
				asm volatile("mfence" : : : "memory");
			else
				asm volatile("lock orl $0, (%%rsp)" : : : "memory", "cc");
			seen_y = y;
		} else if (cpu == 1) {
			y = 1;
			if (n & 2)
				asm volatile("mfence" : : : "memory");
			else
				asm volatile("lock orl $0, (%%rsp)" : : : "memory", "cc");
			seen_x = x;
		}
		smp_barrier();
		if (cpu == 0 && !seen_x && !seen_y)
			forbidden++;
	}
}

/* Stores become visible in order, loads are done in order. */
static void message_passing(unsigned cpu)
{
	smp_barrier();
	for (u64 n = 1; n <= 20 * LITMUS_ROUNDS && cpu < 2; n++) {
		if (cpu == 0) {
			x = n;
			y = n;
		} else {
			u64 flag = y;
			if (x < flag)
				forbidden++;
		}
	}
}

/* An aligned store is seen whole, of whatever page. */
static void whole_words(unsigned cpu)
{
	smp_barrier();
	for (u64 n = 0; n < 10 * LITMUS_ROUNDS && cpu < 2; n++) {
		if (cpu == 0) {
			x = n & 1 ? ~0ULL : 0;
		} else {
			u64 value = x;
			if (value != 0 && value != ~0ULL)
				torn++;
		}
	}
}

static void test_order(void)
{
	smp_run_all(store_buffering);
	CHECK_EQUAL("fences-order-stores-and-loads", forbidden, 0);
	x = y = forbidden = 0;
	smp_run_all(message_passing);
	CHECK_EQUAL("messages-arrive-behind-their-data", forbidden, 0);
	x = 0;
	smp_run_all(whole_words);
	CHECK_EQUAL("words-are-not-torn", torn, 0);
}

/* --- page tables --- */

#define WINDOW ((volatile u64 *)(1ULL << 39))
static u64 window_pdpt[512] ALIGNED(4096), window_pd[512] ALIGNED(4096), window_pt[512] ALIGNED(4096);
static u64 page[2][512] ALIGNED(4096);

static void open_window(void)
{
	window_pt[0] = (u64)page[0] | 3;
	window_pd[0] = (u64)window_pt | 3;
	window_pdpt[0] = (u64)window_pd | 3;
	boot_pml4[1] = (u64)window_pdpt | 3;
	write_cr3(read_cr3());
}

enum { AVAILABLE = 52, ACCESSED = 0x20, DIRTY = 0x40 };

/* CPU 0 counts in available bits of an entry whose A and D bits the others' accesses set: neither may lose an update.
 */
static void count_in_entry(unsigned cpu)
{
	smp_barrier();
	for (unsigned n = 0; n < 1000; n++) {
		if (cpu == 0) {
			asm volatile("lock addq %1, %0" : "+m"(*(volatile u64 *)window_pt) : "r"(1ULL << AVAILABLE));
			asm volatile("lock andq $-97, %0" : "+m"(*(volatile u64 *)window_pt));
		} else {
			invlpg(WINDOW);
			WINDOW[cpu] = n;
		}
	}
}

static volatile unsigned acknowledged;

static void on_shootdown(struct frame *f)
{
	invlpg(WINDOW);
	__atomic_add_fetch(&acknowledged, 1, __ATOMIC_SEQ_CST);
	lapic_write(LAPIC_EOI, 0);
}

static volatile bool stop;
static volatile u64 writes[SMP_MAX];

/* Others write and read through the window, with interrupts on, until told to stop. */
static void use_window(unsigned cpu)
{
	irq_enable();
	while (!stop) {
		/* One instruction: between a load and a store the page could change. */
		asm volatile("incq %0" : "+m"(WINDOW[cpu]) : : "cc");
		writes[cpu]++;
	}
}

static void test_shootdown(void)
{
	handlers[0x50] = on_shootdown;
	stop = false;
	for (unsigned i = 1; i < smp_cpus; i++)
		smp_run(i, use_window);
	bool all = true, quiet = true;
	for (unsigned n = 0; n < 100 && all; n++) {
		u64 *from = page[n & 1], *to = page[~n & 1];
		*(volatile u64 *)window_pt = (u64)to | 3;
		acknowledged = 0;
		ipi(0, ICR_OTHERS | 0x50);
		all = WAIT_FOR(acknowledged == smp_cpus - 1);
		/* Nobody writes to the old page any more. */
		u64 before[SMP_MAX];
		for (unsigned i = 1; i < smp_cpus; i++)
			before[i] = ((volatile u64 *)from)[i];
		for (u64 end = rdtsc() + 100000; rdtsc() < end;)
			pause();
		for (unsigned i = 1; i < smp_cpus; i++)
			quiet = quiet && before[i] == ((volatile u64 *)from)[i];
	}
	stop = true;
	bool ended = true;
	for (unsigned i = 1; i < smp_cpus; i++)
		ended = smp_wait(i) && ended;
	CHECK("shootdowns-are-acknowledged", all && ended);
	CHECK("the-old-page-is-left-alone", quiet);
	bool sums = true;
	for (unsigned i = 1; i < smp_cpus; i++)
		sums = sums && page[0][i] + page[1][i] == writes[i];
	CHECK("no-write-is-lost", sums);
}

static void test_tables(void)
{
	open_window();
	smp_run_all(count_in_entry);
	CHECK_EQUAL("entries-lose-no-update", window_pt[0] >> AVAILABLE & 0x7ff, 1000 & 0x7ff);
	memset(page, 0, sizeof page);
	window_pt[0] = (u64)page[0] | 3;
	write_cr3(read_cr3());
	test_shootdown();
}

void guest_main(void)
{
	CHECK("all-cpus-start", smp_start());
	test_locked();
	test_order();
	test_tables();
}
