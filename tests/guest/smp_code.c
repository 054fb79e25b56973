/* Code that one CPU writes and others run: as Linux patches (INT3 first), as JITs do, in fresh pages, beside data. */
#include "lib/code.h"
#include "lib/smp.h"

static u8 code[64][4096] ALIGNED(4096);
static volatile bool stop;
static volatile unsigned wrong, runs[SMP_MAX];

static void serialize(void)
{
	u32 r[4];
	cpuid(0, 0, r);
}

static void stop_all(void)
{
	stop = true;
	for (unsigned i = 1; i < smp_cpus; i++)
		if (!smp_wait(i))
			CHECK("every-cpu-comes-to-an-end", false);
	stop = false;
}

/* --- handing over: the data says that the code is there --- */

static volatile u64 version ALIGNED(64), done_version[SMP_MAX] ALIGNED(64);
static u8 *volatile function;

/* Runs each version as soon as it is announced; serializing, as the manual demands. */
static void run_versions(unsigned cpu)
{
	u64 seen = 0;
	while (!stop) {
		if (version == seen) {
			pause();
			continue;
		}
		seen = version;
		serialize();
		if (call(function) != (u32)seen)
			wrong++;
		done_version[cpu] = seen;
	}
}

static bool all_ran(u64 n)
{
	for (unsigned i = 1; i < smp_cpus; i++)
		if (done_version[i] != n)
			return false;
	return true;
}

static bool hand_over(u64 rounds, unsigned pages)
{
	static u64 n;
	wrong = 0;
	for (unsigned i = 1; i < smp_cpus; i++)
		done_version[i] = 0;
	version = n = 0;
	for (unsigned i = 1; i < smp_cpus; i++)
		smp_run(i, run_versions);
	bool all = true;
	while (n < rounds && all) {
		n++;
		/* Other functions of the page were written and run before, or it is data that turns into code. */
		u8 *at = code[n % pages] + (n * 64) % 4032;
		put_function(at, (u32)n);
		function = at;
		version = n;
		all = WAIT_FOR(all_ran(n));
	}
	stop_all();
	return all;
}

static void test_hand_over(void)
{
	bool all = hand_over(500, 1);
	CHECK("the-same-page-over-and-over", all && wrong == 0);
	for (unsigned i = 0; i < ARRAY_SIZE(code); i++)
		memset(code[i], 0, 4096);
	all = hand_over(1500, ARRAY_SIZE(code));
	CHECK("many-pages-in-turn", all && wrong == 0);
	print("# %u wrong\n", wrong);
}

/* --- single stores into running code, without serializing: seen in the end, and old or new until then --- */

static void run_and_watch(unsigned cpu)
{
	u32 last = 0;
	while (!stop) {
		u32 value = call(code[0] + 1024 + 3); /* the immediate is aligned */
		if (value < last)
			wrong++;
		last = value;
		runs[cpu]++;
	}
	if (call(code[0] + 1024 + 3) != 200000)
		wrong++;
}

static void test_immediate(void)
{
	put_function(code[0] + 1024 + 3, 1);
	wrong = 0;
	for (unsigned i = 1; i < smp_cpus; i++) {
		runs[i] = 0;
		smp_run(i, run_and_watch);
		WAIT_FOR(runs[i]);
	}
	for (u32 i = 2; i <= 1000; i++)
		*(volatile u32 *)(code[0] + 1024 + 4) = i;
	*(volatile u32 *)(code[0] + 1024 + 4) = 200000;
	stop_all();
	CHECK_EQUAL("stores-into-running-code-arrive-in-order", wrong, 0);
}

/* --- INT3 patching --- */

static volatile unsigned traps, synced;
static u8 *volatile patched;

static void on_breakpoint(struct frame *f)
{
	__atomic_add_fetch(&traps, 1, __ATOMIC_SEQ_CST);
	f->ip += 4; /* over the rest of the five bytes, as if they were a NOP */
}

static void on_sync(struct frame *f)
{
	__atomic_add_fetch(&synced, 1, __ATOMIC_SEQ_CST);
	lapic_write(LAPIC_EOI, 0); /* IRET serializes */
}

static bool sync_all(void)
{
	synced = 0;
	ipi(0, ICR_OTHERS | 0x50);
	return WAIT_FOR(synced == smp_cpus - 1);
}

/* Five bytes of NOP, or MOV $value, %ecx, then RET; ECX 0 before. */
static u32 call_patched(void)
{
	u32 value = 0;
	asm volatile("call *%1" : "+c"(value) : "r"(patched) : "memory", "cc");
	return value;
}

static void run_patched(unsigned cpu)
{
	irq_enable();
	while (!stop) {
		u32 value = call_patched();
		if (value != 0 && value != 0x11223344 && value != 0x55667788)
			wrong++;
		runs[cpu]++;
	}
}

static bool patch(u8 *at, const u8 *bytes)
{
	*(volatile u8 *)at = 0xcc;
	if (!sync_all())
		return false;
	for (unsigned i = 1; i < 5; i++)
		*(volatile u8 *)(at + i) = bytes[i];
	if (!sync_all())
		return false;
	*(volatile u8 *)at = bytes[0];
	return sync_all();
}

static void test_int3(void)
{
	static const u8 versions[3][5] = { { 0x0f, 0x1f, 0x44, 0x00, 0x00 },
					   { 0xb9, 0x44, 0x33, 0x22, 0x11 },
					   { 0xb9, 0x88, 0x77, 0x66, 0x55 } };
	handlers[BP] = on_breakpoint;
	handlers[0x50] = on_sync;
	patched = code[1] + 61; /* across lines */
	memcpy(patched, versions[0], 5);
	patched[5] = 0xc3;
	wrong = 0;
	for (unsigned i = 1; i < smp_cpus; i++) {
		runs[i] = 0;
		smp_run(i, run_patched);
		WAIT_FOR(runs[i]);
	}
	bool all = true, exact = true;
	for (unsigned n = 1; n <= 150 && all; n++) {
		all = patch(patched, versions[n % 3]);
		u32 expected = n % 3 == 0 ? 0 : n % 3 == 1 ? 0x11223344 : 0x55667788;
		exact = exact && call_patched() == expected;
	}
	stop_all();
	CHECK("int3-patching-is-acknowledged", all);
	CHECK("int3-patching-shows-no-mixture", wrong == 0 && exact);
	print("# %u breakpoints\n", traps);
}

/* --- data beside code --- */

static void count_beside_code(unsigned cpu)
{
	volatile u64 *mine = (volatile u64 *)(code[2] + 64 * (cpu + 1));
	smp_barrier();
	for (unsigned n = 0; n < 2000; n++) {
		++*mine;
		asm volatile("lock incq %0" : "+m"(*(volatile u64 *)(code[2] + 4088)));
		if (call(code[2]) != 7)
			wrong++;
	}
}

static void test_data_beside_code(void)
{
	memset(code[2], 0, 4096);
	put_function(code[2], 7);
	wrong = 0;
	smp_run_all(count_beside_code);
	bool sums = true;
	for (unsigned i = 0; i < smp_cpus; i++)
		sums = sums && *(u64 *)(code[2] + 64 * (i + 1)) == 2000;
	CHECK("data-beside-code-adds-up", sums && wrong == 0);
	CHECK_EQUAL("locked-too", *(u64 *)(code[2] + 4088), 2000ULL * smp_cpus);
}

/* --- the page is written by all and run by all --- */

static void write_and_run(unsigned cpu)
{
	u8 *at = code[3] + 48 * cpu;
	smp_barrier();
	for (u32 n = 0; n < 1000; n++) {
		put_function(at, n << 8 | cpu);
		if (call(at) != (n << 8 | cpu))
			wrong++;
	}
}

void guest_main(void)
{
	CHECK("all-cpus-start", smp_start());
	test_hand_over();
	test_immediate();
	test_int3();
	test_data_beside_code();
	wrong = 0;
	smp_run_all(write_and_run);
	CHECK_EQUAL("each-cpu-runs-what-it-wrote", wrong, 0);
}
