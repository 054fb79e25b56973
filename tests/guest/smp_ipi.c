/* Several CPUs: start-up, INIT, IPIs of every delivery mode and destination, NMI, timers, time, topology. */
#include "lib/smp.h"

enum { VECTOR = 0x40, TIMER_VECTOR = 0x41, NEVER = 3000000 };
enum { MSR_TSC_ADJUST = 0x3b, MSR_X2APIC = 0x800, MSR_APIC_BASE = 0x1b };

static volatile unsigned count[SMP_MAX], nmis[SMP_MAX], ticks[SMP_MAX];
static bool x2apic;

static void eoi(void)
{
	if (x2apic)
		wrmsr(MSR_X2APIC + 0xb, 0);
	else
		lapic_write(LAPIC_EOI, 0);
}

static void on_ipi(struct frame *f)
{
	count[this_cpu()]++;
	eoi();
}

static void on_tick(struct frame *f)
{
	ticks[this_cpu()]++;
	eoi();
}

static void on_nmi(struct frame *f)
{
	nmis[this_cpu()]++;
}

static unsigned total(void)
{
	unsigned sum = 0;
	for (unsigned i = 0; i < smp_cpus; i++)
		sum += count[i];
	return sum;
}

/* Sends, and waits until as many CPUs as are set in `wanted` have it, each once, and a moment more for others. */
static bool reaches(u64 destination, u32 icr, u64 wanted)
{
	unsigned expected = 0;
	for (unsigned i = 0; i < smp_cpus; i++)
		count[i] = 0;
	for (unsigned i = 0; i < smp_cpus; i++)
		expected += wanted >> i & 1;
	irq_enable();
	if (x2apic)
		wrmsr(MSR_X2APIC + 0x30, destination << 32 | icr);
	else
		ipi((u8)destination, icr);
	bool all = WAIT_FOR(total() >= expected);
	for (u64 end = rdtsc() + NEVER; rdtsc() < end;)
		pause();
	irq_disable();
	for (unsigned i = 0; i < smp_cpus; i++)
		all = all && count[i] == (wanted >> i & 1);
	if (!all)
		for (unsigned i = 0; i < smp_cpus; i++)
			print("# CPU %u: %u\n", i, count[i]);
	return all;
}

static u64 everybody(void)
{
	return (smp_cpus < 64 ? BIT(smp_cpus) : 0) - 1;
}

static void test_xapic(void)
{
	bool each = true;
	for (unsigned i = 0; i < smp_cpus; i++)
		each = each && reaches(i, VECTOR, BIT(i));
	CHECK("fixed-to-each-apic-id", each);
	CHECK("nobody-has-an-id-beyond-the-last", reaches(smp_cpus, VECTOR, 0));
	CHECK("physical-ff-is-everybody", reaches(0xff, VECTOR, everybody()));
	CHECK("shorthand-self", reaches(1, ICR_SELF | VECTOR, 1));
	CHECK("shorthand-all", reaches(1, ICR_ALL | VECTOR, everybody()));
	CHECK("shorthand-others", reaches(1, ICR_OTHERS | VECTOR, everybody() & ~1ULL));
}

static void set_flat(unsigned cpu)
{
	lapic_write(LAPIC_DFR, 0xffffffff);
	lapic_write(LAPIC_LDR, cpu < 8 ? 1u << (24 + cpu) : 0);
}

/* Two CPUs a cluster, eight clusters. */
static void set_cluster(unsigned cpu)
{
	lapic_write(LAPIC_DFR, 0x0fffffff);
	lapic_write(LAPIC_LDR, cpu < 16 ? ((cpu / 2) << 4 | 1u << (cpu & 1)) << 24 : 0);
}

static bool lowest_takes_one(u8 destination, u64 among)
{
	u64 seen = 0;
	for (unsigned n = 0; n < 16; n++) {
		for (unsigned i = 0; i < smp_cpus; i++)
			count[i] = 0;
		irq_enable();
		ipi(destination, ICR_LOWEST | ICR_LOGICAL | VECTOR);
		bool came = WAIT_FOR(total() >= 1);
		irq_disable();
		for (unsigned i = 0; i < smp_cpus; i++)
			if (count[i])
				seen |= BIT(i);
		if (!came || total() != 1)
			return false;
	}
	return seen && !(seen & ~among);
}

static void test_logical(void)
{
	smp_run_all(set_flat);
	CHECK("flat-logical-single", reaches(1 << 1, ICR_LOGICAL | VECTOR, 2));
	CHECK("flat-logical-set", reaches(3, ICR_LOGICAL | VECTOR, 3));
	CHECK("flat-logical-broadcast", reaches(0xff, ICR_LOGICAL | VECTOR, everybody()));
	CHECK("lowest-priority-takes-one-of-a-set", lowest_takes_one(3, 3));
	smp_run_all(set_cluster);
	CHECK("cluster-logical-single", reaches(0x02, ICR_LOGICAL | VECTOR, 2));
	CHECK("cluster-logical-set", reaches(0x03, ICR_LOGICAL | VECTOR, 3));
	if (smp_cpus >= 4)
		CHECK("cluster-logical-second-cluster", reaches(0x13, ICR_LOGICAL | VECTOR, 0xc));
	CHECK("cluster-logical-empty-cluster", reaches(0xe3, ICR_LOGICAL | VECTOR, 0));
	smp_run_all(set_flat);
}

static void test_nmi(void)
{
	handlers[NMI] = on_nmi;
	ipi(1, ICR_NMI | ICR_ASSERT);
	CHECK("nmi-reaches-another-cpu", WAIT_FOR(nmis[1] == 1) && nmis[0] == 0);
	ipi(0, ICR_OTHERS | ICR_NMI | ICR_ASSERT);
	bool all = true;
	for (unsigned i = 1; i < smp_cpus; i++)
		all = all && WAIT_FOR(nmis[i] == (i == 1 ? 2 : 1));
	CHECK("nmi-reaches-all-others", all && nmis[0] == 0);
}

/* --- INIT and start-up --- */

static volatile bool looping;

static void loop_for_ever(unsigned cpu)
{
	irq_disable();
	looping = true;
	for (;;)
		pause();
}

static void halt_once(unsigned cpu)
{
	irq_disable(); /* or the interrupt might come between the look at the count and HLT */
	unsigned before = count[cpu];
	looping = true;
	while (count[cpu] == before)
		asm volatile("sti; hlt; cli" : : : "memory");
}

static void test_init(void)
{
	unsigned started = smp_started[1];
	ipi(1, ICR_STARTUP | AP_START >> 12);
	smp_run(1, set_flat);
	CHECK("start-up-ipi-to-a-running-cpu-does-nothing", smp_wait(1) && smp_started[1] == started);
	looping = false;
	smp_run(1, loop_for_ever);
	CHECK("a-cpu-can-be-lost", WAIT_FOR(looping));
	smp_restart(1);
	CHECK("init-and-start-up-bring-it-back", WAIT_FOR(smp_started[1] == started + 1));
	CHECK("init-resets-its-apic", (smp_run(1, set_flat), smp_wait(1)) && reaches(1, VECTOR, 2));
	/* INIT alone: it waits, and neither interrupts nor NMIs wake it. */
	unsigned before = nmis[1];
	ipi(1, ICR_INIT | ICR_ASSERT);
	ipi(1, ICR_NMI | ICR_ASSERT);
	CHECK("a-cpu-that-waits-for-start-up-takes-no-interrupt", reaches(1, VECTOR, 0) && nmis[1] == before);
	ipi(1, ICR_STARTUP | AP_START >> 12);
	CHECK("start-up-ends-the-wait", WAIT_FOR(smp_started[1] == started + 2));
	for (unsigned n = 0; n < 20; n++) {
		looping = false;
		smp_run(1, halt_once);
		WAIT_FOR(looping);
		for (u64 end = rdtsc() + NEVER / 10; rdtsc() < end;)
			;
		ipi(1, VECTOR);
		if (!smp_wait(1)) {
			CHECK("ipi-wakes-a-halted-cpu", false);
			return;
		}
	}
	CHECK("ipi-wakes-a-halted-cpu", true);
}

/* --- timers and time --- */

static void start_timer(unsigned cpu)
{
	lapic_write(LAPIC_DIVIDE, 0xb);
	lapic_write(LAPIC_TIMER, 0x20000 | TIMER_VECTOR);
	lapic_write(LAPIC_INITIAL, 1000000);
	irq_enable();
	while (ticks[cpu] < 5)
		asm volatile("sti; hlt" : : : "memory");
	irq_disable();
	lapic_write(LAPIC_INITIAL, 0);
}

static volatile u64 last_tsc;
static volatile unsigned tsc_lock, backwards;

static void take_turns_reading(unsigned cpu)
{
	smp_barrier();
	for (unsigned n = 0; n < 5000; n++) {
		while (__atomic_exchange_n(&tsc_lock, 1, __ATOMIC_SEQ_CST))
			pause();
		u64 now = rdtsc();
		if (now < last_tsc)
			backwards++;
		last_tsc = now;
		__atomic_store_n(&tsc_lock, 0, __ATOMIC_SEQ_CST);
	}
}

enum { SHIFT = 40 };
static volatile u64 shifted_tsc, adjust_there;

static void shift_tsc(unsigned cpu)
{
	wrmsr(MSR_TSC_ADJUST, BIT(SHIFT));
	shifted_tsc = rdtsc();
	adjust_there = rdmsr(MSR_TSC_ADJUST);
	wrmsr(MSR_TSC_ADJUST, 0);
}

static void test_time(void)
{
	smp_run_all(start_timer);
	bool all = true;
	for (unsigned i = 0; i < smp_cpus; i++)
		all = all && ticks[i] >= 5;
	CHECK("each-cpu-has-its-timer", all);
	smp_run_all(take_turns_reading);
	CHECK_EQUAL("tsc-never-runs-backwards-across-cpus", backwards, 0);
	u64 before = rdtsc();
	smp_run(1, shift_tsc);
	bool done = smp_wait(1);
	CHECK("tsc-adjust-moves-that-cpus-tsc",
	      done && adjust_there == BIT(SHIFT) && shifted_tsc >= before + BIT(SHIFT));
	CHECK("and-no-others", rdmsr(MSR_TSC_ADJUST) == 0 && rdtsc() < before + BIT(SHIFT));
}

/* --- topology --- */

static volatile u32 id1[SMP_MAX], idb[SMP_MAX], id1f[SMP_MAX], shift_b[SMP_MAX], bsp[SMP_MAX];

static void note_topology(unsigned cpu)
{
	u32 r[4];
	cpuid(1, 0, r);
	id1[cpu] = r[1] >> 24;
	cpuid(0xb, 1, r);
	idb[cpu] = r[3];
	shift_b[cpu] = r[0] & 31;
	cpuid(0x1f, 1, r);
	id1f[cpu] = r[3];
	bsp[cpu] = rdmsr(MSR_APIC_BASE) >> 8 & 1;
}

static void test_topology(void)
{
	smp_run_all(note_topology);
	bool ids = true, one_bsp = true;
	for (unsigned i = 0; i < smp_cpus; i++) {
		ids = ids && id1[i] == i && idb[i] == i && id1f[i] == i && lapic_read(LAPIC_ID) == 0;
		one_bsp = one_bsp && bsp[i] == (i == 0);
	}
	CHECK("cpuid-gives-each-its-apic-id", ids);
	CHECK("cpu-0-alone-is-the-bootstrap-processor", one_bsp);
	CHECK("all-are-in-one-package", (smp_cpus - 1) >> shift_b[0] == 0);
	u32 r[4];
	cpuid(1, 0, r);
	CHECK("cpuid-1-counts-them", (r[3] & BIT(28)) && (r[1] >> 16 & 0xff) >= smp_cpus);
	cpuid(4, 0, r);
	CHECK("cpuid-4-counts-them", (r[0] >> 26) + 1 >= smp_cpus);
}

/* --- x2APIC: this cannot be undone, so it comes last --- */

static void enter_x2apic(unsigned cpu)
{
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | BIT(10));
}

static volatile u32 x2apic_id[SMP_MAX], x2apic_ldr[SMP_MAX];

static void note_x2apic(unsigned cpu)
{
	x2apic_id[cpu] = (u32)rdmsr(MSR_X2APIC + 2);
	x2apic_ldr[cpu] = (u32)rdmsr(MSR_X2APIC + 0xd);
}

static volatile u32 version_by_page;

static void read_page(unsigned cpu)
{
	version_by_page = lapic_read(0x30);
}

static void test_x2apic(void)
{
	enter_x2apic(0);
	smp_run(1, read_page);
	CHECK("others-keep-their-register-page", smp_wait(1) && (version_by_page & 0xff) == 0x14);
	CHECK("who-left-it-reads-ones", lapic_read(0x30) == 0xffffffff);
	for (unsigned i = 1; i < smp_cpus; i++) {
		smp_run(i, enter_x2apic);
		smp_wait(i);
	}
	x2apic = true;
	smp_run_all(note_x2apic);
	bool ids = true, each = true;
	for (unsigned i = 0; i < smp_cpus; i++)
		ids = ids && x2apic_id[i] == i && x2apic_ldr[i] == ((i & ~15u) << 12 | 1u << (i & 15));
	CHECK("x2apic-ids", ids);
	for (unsigned i = 0; i < smp_cpus; i++)
		each = each && reaches(i, VECTOR, BIT(i));
	CHECK("x2apic-physical", each);
	CHECK("x2apic-ff-is-nobody", reaches(0xff, VECTOR, 0));
	CHECK("x2apic-broadcast", reaches(0xffffffff, VECTOR, everybody()));
	CHECK("x2apic-others", reaches(0, ICR_OTHERS | VECTOR, everybody() & ~1ULL));
	CHECK("x2apic-logical-set", reaches(3, ICR_LOGICAL | VECTOR, 3));
	if (smp_cpus > 16)
		CHECK("x2apic-logical-second-cluster", reaches(0x10001, ICR_LOGICAL | VECTOR, BIT(16)));
	CHECK("x2apic-logical-empty-cluster", reaches(0x70003, ICR_LOGICAL | VECTOR, 0));
}

void guest_main(void)
{
	handlers[VECTOR] = on_ipi;
	handlers[TIMER_VECTOR] = on_tick;
	CHECK("all-cpus-start", smp_start());
	print("# %u CPUs\n", smp_cpus);
	test_topology();
	test_xapic();
	test_logical();
	test_nmi();
	test_init();
	test_time();
	test_x2apic();
}
