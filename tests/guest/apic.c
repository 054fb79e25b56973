/* Interrupts: local APIC timer in its three modes, I/O APIC from the PIT and the test device, IPIs, NMI, priorities. */
#include "lib/guest.h"

enum {
	LAPIC_TPR = 0x80,
	LAPIC_PPR = 0xa0,
	LAPIC_EOI = 0xb0,
	LAPIC_SVR = 0xf0,
	LAPIC_ISR = 0x100,
	LAPIC_IRR = 0x200,
	LAPIC_ICR = 0x300,
	LAPIC_ICR_HIGH = 0x310,
	LAPIC_TIMER = 0x320,
	LAPIC_LINT0 = 0x350,
	LAPIC_INITIAL = 0x380,
	LAPIC_CURRENT = 0x390,
	LAPIC_DIVIDE = 0x3e0
};
enum { TIMER_ONE_SHOT = 0, TIMER_PERIODIC = 0x20000, TIMER_DEADLINE = 0x40000, MASKED = 0x10000 };
enum { MSR_DEADLINE = 0x6e0, MSR_X2APIC = 0x800, MSR_APIC_BASE = 0x1b };

static volatile u32 *const lapic = (volatile u32 *)0xfee00000;
static volatile u32 *const ioapic = (volatile u32 *)0xfec00000;

static u32 lapic_read(u32 reg)
{
	return lapic[reg / 4];
}

static void lapic_write(u32 reg, u32 value)
{
	lapic[reg / 4] = value;
}

static volatile unsigned count[256];
static volatile unsigned order[16], order_at;

static void on_interrupt(struct frame *f)
{
	count[f->vector]++;
	if (order_at < ARRAY_SIZE(order))
		order[order_at++] = f->vector;
	lapic_write(LAPIC_EOI, 0);
}

enum { LEVEL_PIN = 20, LEVEL_TIMES = 3 };

/* A level-triggered interrupt comes again after each EOI; the handler ends it after the third. */
static void on_level(struct frame *f)
{
	if (++count[f->vector] == LEVEL_TIMES)
		outl(0x2000 + LEVEL_PIN, 0);
	lapic_write(LAPIC_EOI, 0);
}

static void on_nmi(struct frame *f)
{
	count[NMI]++;
}

/* Waits with interrupts on until `vector` has come `times` times, or far too long. */
static bool wait_for(unsigned vector, unsigned times)
{
	u64 end = rdtsc() + 4000000000ULL;
	irq_enable();
	while (count[vector] < times && rdtsc() < end)
		asm volatile("pause");
	irq_disable();
	return count[vector] >= times;
}

/* The same, asleep: HLT ends by each interrupt. */
static bool halt_for(unsigned vector, unsigned times)
{
	for (unsigned i = 0; i < 1000 && count[vector] < times; i++)
		asm volatile("sti; hlt; cli" : : : "memory");
	return count[vector] >= times;
}

static void test_timer(void)
{
	lapic_write(LAPIC_SVR, 0x1ff);
	lapic_write(LAPIC_DIVIDE, 0xb); /* by 1 */
	lapic_write(LAPIC_TIMER, TIMER_ONE_SHOT | 0x40);
	lapic_write(LAPIC_INITIAL, 100000);
	CHECK("one-shot-counts-down", lapic_read(LAPIC_CURRENT) <= 100000);
	CHECK("one-shot-fires", wait_for(0x40, 1));
	CHECK("one-shot-stops-at-0", lapic_read(LAPIC_CURRENT) == 0);
	for (volatile unsigned i = 0; i < 100000; i++)
		;
	irq_enable();
	asm volatile("nop");
	irq_disable();
	CHECK("one-shot-fires-once", count[0x40] == 1);

	lapic_write(LAPIC_TIMER, TIMER_PERIODIC | 0x41);
	lapic_write(LAPIC_INITIAL, 50000);
	CHECK("periodic-fires-on", wait_for(0x41, 5));
	CHECK("periodic-wakes-from-hlt", halt_for(0x41, 8));
	lapic_write(LAPIC_TIMER, TIMER_PERIODIC | MASKED | 0x41);
	irq_enable();
	asm volatile("nop");
	irq_disable();
	unsigned before = count[0x41];
	for (volatile unsigned i = 0; i < 100000; i++)
		;
	irq_enable();
	asm volatile("nop; nop");
	irq_disable();
	CHECK("masked-timer-is-silent", count[0x41] == before);
	lapic_write(LAPIC_INITIAL, 0);

	u32 r[4];
	cpuid(1, 0, r);
	if (!(r[2] & BIT(24))) {
		skip("tsc-deadline", "not in CPUID");
		return;
	}
	lapic_write(LAPIC_TIMER, TIMER_DEADLINE | 0x42);
	u64 deadline = rdtsc() + 40000000; /* 40 ms: the host may be busy, and checking what it translates */
	wrmsr(MSR_DEADLINE, deadline);
	CHECK("deadline-reads-back", rdmsr(MSR_DEADLINE) == deadline);
	CHECK("deadline-fires", halt_for(0x42, 1));
	CHECK("deadline-not-early", rdtsc() >= deadline);
	CHECK("deadline-disarms", rdmsr(MSR_DEADLINE) == 0);
	wrmsr(MSR_DEADLINE, 1);
	CHECK("past-deadline-fires-at-once", wait_for(0x42, 2));
}

/* --- delivery --- */

static void self_ipi(unsigned vector)
{
	lapic_write(LAPIC_ICR, 0x40000 | vector); /* shorthand: self */
}

static u64 came_at;

static void on_exact(struct frame *f)
{
	came_at = f->ip;
	lapic_write(LAPIC_EOI, 0);
}

/* What a write to a device causes comes behind the writing instruction, whatever follows it. */
static void test_exact(void)
{
	extern const u8 after_write[];
	handlers[0x5a] = on_exact;
	asm volatile("sti; nop\n"
		     "movl $0x4005a, 0x300(%0)\n"
		     ".global after_write\nafter_write: nop; nop; nop; cli"
		     :
		     : "r"(lapic)
		     : "memory");
	CHECK("interrupt-comes-right-behind-the-write", came_at == (u64)after_write);
}

static void test_ipi_and_priority(void)
{
	self_ipi(0x50);
	CHECK("ipi-waits-for-if", count[0x50] == 0 && lapic_read(LAPIC_IRR + 0x20) & BIT(16));
	CHECK("ipi-comes-with-sti", wait_for(0x50, 1));
	order_at = 0;
	self_ipi(0x51);
	self_ipi(0x93);
	self_ipi(0x72);
	irq_enable();
	asm volatile("nop; nop; nop; nop");
	irq_disable();
	CHECK("highest-vector-first", order_at == 3 && order[0] == 0x93 && order[1] == 0x72 && order[2] == 0x51);
	lapic_write(LAPIC_TPR, 0x80);
	self_ipi(0x7f);
	self_ipi(0x91);
	irq_enable();
	asm volatile("nop; nop");
	irq_disable();
	CHECK("tpr-holds-lower-classes", count[0x7f] == 0 && count[0x91] == 1);
	asm volatile("mov %0, %%cr8" : : "r"(0ULL));
	CHECK("cr8-is-the-tpr", lapic_read(LAPIC_TPR) == 0);
	CHECK("and-lets-it-through", wait_for(0x7f, 1));
	/* STI holds interrupts back for one instruction. */
	self_ipi(0x52);
	asm volatile("sti; cli; nop");
	CHECK("sti-cli-lets-nothing-in", count[0x52] == 0);
	asm volatile("sti; nop; cli");
	CHECK("sti-nop-cli-lets-it-in", count[0x52] == 1);
	handlers[NMI] = on_nmi;
	lapic_write(LAPIC_ICR_HIGH, lapic_read(0x20));
	lapic_write(LAPIC_ICR, 0x4400); /* NMI to our own ID: the shorthand takes fixed interrupts only */
	for (volatile unsigned i = 0; i < 1000 && !count[NMI]; i++)
		;
	CHECK("nmi-needs-no-if", count[NMI] == 1);
}

/* --- I/O APIC --- */

static void route(unsigned pin, u32 low)
{
	ioapic[0] = 0x10 + 2 * pin;
	ioapic[4] = low;
	ioapic[0] = 0x11 + 2 * pin;
	ioapic[4] = 0;
}

static void test_ioapic(void)
{
	route(2, 0x60);   /* IRQ 0 is on pin 2 */
	outb(0x43, 0x34); /* channel 0, rate generator */
	outb(0x40, 0x00);
	outb(0x40, 0x10);
	CHECK("pit-through-the-io-apic", wait_for(0x60, 2));
	CHECK("pit-wakes-from-hlt", halt_for(0x60, 4));
	route(2, MASKED | 0x60);
	outb(0x43, 0x30);
	outb(0x40, 0);
	outb(0x40, 0);
	/* The test device drives a pin: edge and level. */
	route(LEVEL_PIN, 0x61);
	outl(0x2000 + LEVEL_PIN, 1);
	irq_enable();
	asm volatile("nop");
	irq_disable();
	outl(0x2000 + LEVEL_PIN, 0);
	CHECK("edge-gives-one-interrupt", count[0x61] == 1);
	handlers[0x62] = on_level;
	route(LEVEL_PIN, 0x8062);
	outl(0x2000 + LEVEL_PIN, 1);
	CHECK("level-repeats-while-high", wait_for(0x62, LEVEL_TIMES));
	irq_enable();
	asm volatile("nop; nop; nop");
	irq_disable();
	CHECK("and-ends-with-the-level", count[0x62] == LEVEL_TIMES);
	route(LEVEL_PIN, MASKED);
}

static void test_x2apic(void)
{
	u32 r[4];
	cpuid(1, 0, r);
	if (!(r[2] & BIT(21))) {
		skip("x2apic", "not in CPUID");
		return;
	}
	TRY_AT("rdmsr", : : "c"(MSR_X2APIC + 2) : "rax", "rdx", "memory");
	CHECK("x2apic-msr-in-xapic-mode-is-gp", is_fault(GP, 0));
	wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | BIT(10));
	CHECK("x2apic-shows-svr", rdmsr(MSR_X2APIC + 0xf) == 0x1ff);
	wrmsr(MSR_X2APIC + 0x3f, 0x53); /* SELF IPI */
	handlers[0x53] = NULL;
	bool pending = rdmsr(MSR_X2APIC + 0x22) & BIT(0x53 - 0x40);
	CHECK("x2apic-self-ipi", pending);
	TRY_AT("wrmsr", : : "c"(MSR_X2APIC + 0xb), "a"(1), "d"(0) : "memory");
	CHECK("x2apic-eoi-of-non-zero-is-gp", is_fault(GP, 0));
	TRY_AT("wrmsr", : : "c"(MSR_APIC_BASE), "a"((u32)(rdmsr(MSR_APIC_BASE) & ~BIT(10))), "d"(0) : "memory");
	CHECK("x2apic-back-to-xapic-is-gp", is_fault(GP, 0));
}

void guest_main(void)
{
	for (unsigned vector = 0x30; vector < 0x100; vector++)
		if (vector != 0x80)
			handlers[vector] = on_interrupt;
	test_timer();
	test_exact();
	test_ipi_and_priority();
	test_ioapic();
	test_x2apic();
}
