/* Local APICs: priorities, modes, timer, local interrupts, messages among several CPUs. */
#include "chip/lapic.h"
#include "chip.h"

enum { CPUS = 4, TSC_KHZ = 2000000 };

/* xAPIC offsets. */
enum {
	ID = 0x20,
	VERSION = 0x30,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR_HIGH = 0x310,
	LVT_TIMER_REG = 0x320,
	LVT_LINT0_REG = 0x350,
	LVT_LINT1_REG = 0x360,
	LVT_ERROR_REG = 0x370,
	INITIAL = 0x380,
	CURRENT = 0x390,
	DIVIDE = 0x3e0
};
enum { MSR_BASE = 0x1b, MSR_DEADLINE = 0x6e0 };
enum { LVT_MASK = 0x10000, PERIODIC = 0x20000, DEADLINE = 0x40000 };

#define X2(offset) (0x800u + (offset) / 16)

struct cpu_side {
	unsigned intr, nmi, smi, init, sipi;
	u8 sipi_vector;
};

struct rig {
	struct clock clock;
	struct apic_bus bus;
	struct lapic lapic[CPUS];
	struct cpu_side cpu[CPUS];
	unsigned eois, extint_acks;
	u8 eoi_vector;
};

static void on_intr(void *opaque)
{
	((struct cpu_side *)opaque)->intr++;
}

static void on_nmi(void *opaque)
{
	((struct cpu_side *)opaque)->nmi++;
}

static void on_smi(void *opaque)
{
	((struct cpu_side *)opaque)->smi++;
}

static void on_init(void *opaque)
{
	((struct cpu_side *)opaque)->init++;
}

static void on_sipi(void *opaque, u8 vector)
{
	((struct cpu_side *)opaque)->sipi++;
	((struct cpu_side *)opaque)->sipi_vector = vector;
}

static void on_eoi(void *opaque, u8 vector)
{
	struct rig *rig = opaque;
	rig->eois++;
	rig->eoi_vector = vector;
}

static int on_extint(void *opaque)
{
	((struct rig *)opaque)->extint_acks++;
	return 0x77;
}

static const struct lapic_cpu cpu_ops = {
	.intr_changed = on_intr, .nmi = on_nmi, .smi = on_smi, .init = on_init, .sipi = on_sipi
};

static void write_reg(struct rig *rig, unsigned n, u32 offset, u32 value)
{
	lapic_page_write(&rig->lapic[n], offset, 4, value);
}

static u32 read_reg(struct rig *rig, unsigned n, u32 offset)
{
	return lapic_page_read(&rig->lapic[n], offset, 4);
}

/* CPUS local APICs, software-enabled. */
static struct rig *rig_new(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	clock_init_manual(&rig->clock);
	apic_bus_init(&rig->bus);
	apic_bus_add_listener(&rig->bus, on_eoi, rig);
	rig->bus.extint_ack = on_extint;
	rig->bus.extint_opaque = rig;
	for (unsigned n = 0; n < CPUS; n++) {
		lapic_init(&rig->lapic[n], &rig->bus, &rig->clock, n, n == 0, TSC_KHZ);
		lapic_connect_cpu(&rig->lapic[n], &cpu_ops, &rig->cpu[n]);
		write_reg(rig, n, SVR, 0x1ff);
	}
	return rig;
}

static void wrmsr(struct rig *rig, unsigned n, u32 msr, u64 value)
{
	g_assert_true(lapic_msr_write(&rig->lapic[n], msr, value));
}

static bool wrmsr_faults(struct rig *rig, unsigned n, u32 msr, u64 value)
{
	return !lapic_msr_write(&rig->lapic[n], msr, value);
}

static u64 rdmsr(struct rig *rig, unsigned n, u32 msr)
{
	u64 value = 0;
	g_assert_true(lapic_msr_read(&rig->lapic[n], msr, &value));
	return value;
}

static bool rdmsr_faults(struct rig *rig, unsigned n, u32 msr)
{
	u64 value;
	return !lapic_msr_read(&rig->lapic[n], msr, &value);
}

static void to_x2apic(struct rig *rig, unsigned n)
{
	wrmsr(rig, n, MSR_BASE, rdmsr(rig, n, MSR_BASE) | 0xc00);
}

static void send_fixed(struct rig *rig, u8 vector, bool level)
{
	struct apic_message message = { .destination = 0, .delivery = APIC_FIXED, .vector = vector, .level = level };
	g_assert_true(apic_bus_deliver(&rig->bus, &message));
}

/* Which CPUs have `vector` in IRR: a bit for each; takes it away again. */
static unsigned who_got(struct rig *rig, u8 vector)
{
	unsigned who = 0;
	for (unsigned n = 0; n < CPUS; n++) {
		u32 *irr = &rig->lapic[n].irr[vector / 32];
		if (*irr >> vector % 32 & 1)
			who |= 1u << n;
		*irr &= ~(1u << vector % 32);
	}
	return who;
}

/* --- priorities --- */

static void test_ack_and_eoi(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	g_assert_false(lapic_interrupt_pending(lapic));
	g_assert_cmpint(lapic_ack_interrupt(lapic), ==, -1);
	send_fixed(rig, 0x45, false);
	g_assert_true(lapic_interrupt_pending(lapic));
	g_assert_cmpint(rig->cpu[0].intr, ==, 1);
	g_assert_cmphex(read_reg(rig, 0, IRR + 0x20), ==, 0x20);
	g_assert_cmphex(lapic_pending_vector(lapic), ==, 0x45);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x45);
	g_assert_false(lapic_interrupt_pending(lapic));
	g_assert_cmphex(read_reg(rig, 0, IRR + 0x20), ==, 0);
	g_assert_cmphex(read_reg(rig, 0, ISR + 0x20), ==, 0x20);
	g_assert_cmphex(read_reg(rig, 0, PPR), ==, 0x40);
	write_reg(rig, 0, EOI, 0);
	g_assert_cmphex(read_reg(rig, 0, ISR + 0x20), ==, 0);
	g_assert_cmphex(read_reg(rig, 0, PPR), ==, 0);
	g_assert_cmpint(rig->eois, ==, 0); /* edges are nobody else's business */
	g_free(rig);
}

static void test_nesting(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	send_fixed(rig, 0x45, false);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x45);
	send_fixed(rig, 0x4f, false); /* same class: waits */
	g_assert_false(lapic_interrupt_pending(lapic));
	send_fixed(rig, 0x31, false);
	send_fixed(rig, 0x61, false);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x61);
	write_reg(rig, 0, EOI, 0);
	g_assert_false(lapic_interrupt_pending(lapic));
	write_reg(rig, 0, EOI, 0);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x4f);
	write_reg(rig, 0, EOI, 0);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x31);
	g_free(rig);
}

static void test_tpr(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	lapic_cr8_write(lapic, 5);
	g_assert_cmphex(read_reg(rig, 0, TPR), ==, 0x50);
	send_fixed(rig, 0x55, false);
	g_assert_false(lapic_interrupt_pending(lapic));
	g_assert_cmpint(rig->cpu[0].intr, ==, 0);
	write_reg(rig, 0, TPR, 0x4f);
	g_assert_cmpint(lapic_cr8_read(lapic), ==, 4);
	g_assert_true(lapic_interrupt_pending(lapic));
	g_assert_cmpint(rig->cpu[0].intr, ==, 1);
	write_reg(rig, 0, TPR, 0x60);
	g_assert_false(lapic_interrupt_pending(lapic));
	g_assert_cmpint(lapic_ack_interrupt(lapic), ==, -1);
	write_reg(rig, 0, TPR, 0);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x55);
	write_reg(rig, 0, TPR, 0x52); /* same class as in service: TPR shows, sub-class and all */
	g_assert_cmphex(read_reg(rig, 0, PPR), ==, 0x52);
	g_free(rig);
}

static void test_level_eoi_is_broadcast(void)
{
	struct rig *rig = rig_new();
	send_fixed(rig, 0x45, true);
	g_assert_cmphex(read_reg(rig, 0, TMR + 0x20), ==, 0x20);
	lapic_ack_interrupt(&rig->lapic[0]);
	write_reg(rig, 0, EOI, 0);
	g_assert_cmpint(rig->eois, ==, 1);
	g_assert_cmphex(rig->eoi_vector, ==, 0x45);
	/* Suppressed by SVR bit 12. */
	write_reg(rig, 0, SVR, 0x11ff);
	send_fixed(rig, 0x45, true);
	lapic_ack_interrupt(&rig->lapic[0]);
	write_reg(rig, 0, EOI, 0);
	g_assert_cmpint(rig->eois, ==, 1);
	g_free(rig);
}

static void test_software_disable(void)
{
	struct rig *rig = rig_new();
	struct apic_message message = { .delivery = APIC_FIXED, .vector = 0x50 };
	write_reg(rig, 0, LVT_TIMER_REG, 0x40);
	write_reg(rig, 0, SVR, 0xff);
	g_assert_false(apic_bus_deliver(&rig->bus, &message));
	g_assert_cmphex(read_reg(rig, 0, LVT_TIMER_REG), ==, 0x10040);
	write_reg(rig, 0, LVT_TIMER_REG, 0x40); /* cannot be unmasked */
	g_assert_cmphex(read_reg(rig, 0, LVT_TIMER_REG), ==, 0x10040);
	message.delivery = APIC_NMI;
	g_assert_true(apic_bus_deliver(&rig->bus, &message));
	g_assert_cmpint(rig->cpu[0].nmi, ==, 1);
	g_free(rig);
}

/* --- modes --- */

static void test_base_transitions(void)
{
	struct rig *rig = rig_new();
	const u64 base = LAPIC_DEFAULT_BASE | 0x100;
	g_assert_cmphex(rdmsr(rig, 0, MSR_BASE), ==, base | 0x800);
	g_assert_cmphex(rdmsr(rig, 1, MSR_BASE), ==, LAPIC_DEFAULT_BASE | 0x800);
	g_assert_true(wrmsr_faults(rig, 0, MSR_BASE, base | 0x400)); /* x2APIC without enable */
	g_assert_true(wrmsr_faults(rig, 0, MSR_BASE, base | 0x801)); /* reserved */
	wrmsr(rig, 0, MSR_BASE, base | 0xc00);
	g_assert_true(wrmsr_faults(rig, 0, MSR_BASE, base | 0x800)); /* back to xAPIC */
	wrmsr(rig, 0, MSR_BASE, base);
	g_assert_false(lapic_enabled(&rig->lapic[0]));
	g_assert_true(wrmsr_faults(rig, 0, MSR_BASE, base | 0xc00)); /* from disabled straight to x2APIC */
	wrmsr(rig, 0, MSR_BASE, base | 0x800);
	g_assert_cmphex(read_reg(rig, 0, SVR), ==, 0xff); /* state was lost */
	rig->lapic[0].phys_bits = 40;
	g_assert_true(wrmsr_faults(rig, 0, MSR_BASE, base | 0x800 | 1ULL << 40));
	wrmsr(rig, 0, MSR_BASE, 0x42000000 | 0x900);
	g_free(rig);
}

static void test_x2apic_registers(void)
{
	struct rig *rig = rig_new();
	g_assert_true(rdmsr_faults(rig, 1, X2(ID))); /* not in xAPIC mode */
	g_assert_true(wrmsr_faults(rig, 1, X2(EOI), 0));
	write_reg(rig, 1, LDR, 0x42000000);
	to_x2apic(rig, 1);
	g_assert_cmphex(read_reg(rig, 1, ID), ==, 0xffffffff); /* the page is gone */
	g_assert_cmphex(rdmsr(rig, 1, X2(ID)), ==, 1);
	g_assert_cmphex(rdmsr(rig, 1, X2(LDR)), ==, 0x2); /* cluster 0, member 1 */
	g_assert_cmphex(rdmsr(rig, 1, X2(VERSION)) & 0xff00ff, ==, 0x50014);
	g_assert_cmphex(rdmsr(rig, 1, X2(SVR)), ==, 0x1ff); /* kept */
	g_assert_true(rdmsr_faults(rig, 1, X2(DFR)));
	g_assert_true(rdmsr_faults(rig, 1, X2(ICR_HIGH)));
	g_assert_true(rdmsr_faults(rig, 1, X2(EOI)));
	g_assert_true(rdmsr_faults(rig, 1, 0x83f)); /* self IPI: write-only */
	g_assert_true(rdmsr_faults(rig, 1, 0x840));
	g_assert_true(rdmsr_faults(rig, 1, 0x8ff));
	g_assert_true(wrmsr_faults(rig, 1, X2(ID), 1));
	g_assert_true(wrmsr_faults(rig, 1, X2(LDR), 1));
	g_assert_true(wrmsr_faults(rig, 1, X2(PPR), 0));
	g_assert_true(wrmsr_faults(rig, 1, X2(CURRENT), 0));
	g_assert_true(wrmsr_faults(rig, 1, X2(EOI), 1));
	g_assert_true(wrmsr_faults(rig, 1, X2(ESR), 1));
	g_assert_true(wrmsr_faults(rig, 1, X2(TPR), 0x100));
	g_assert_true(wrmsr_faults(rig, 1, X2(SVR), 1ULL << 32 | 0x1ff));
	g_assert_true(wrmsr_faults(rig, 1, 0x83f, 0x100));
	g_assert_true(wrmsr_faults(rig, 1, X2(LVT_TIMER_REG), 0x100));
	wrmsr(rig, 1, X2(ESR), 0);
	wrmsr(rig, 1, X2(EOI), 0);
	g_free(rig);
}

static u64 moved_from, moved_to;

static void on_page_moved(void *opaque, struct lapic *lapic, u64 old_base, u64 new_base)
{
	moved_from = old_base;
	moved_to = new_base;
}

static void test_page_moves(void)
{
	struct rig *rig = rig_new();
	rig->bus.page_moved = on_page_moved;
	wrmsr(rig, 0, MSR_BASE, 0x42000900);
	g_assert_cmphex(moved_from, ==, LAPIC_DEFAULT_BASE);
	g_assert_cmphex(moved_to, ==, 0x42000000);
	wrmsr(rig, 0, MSR_BASE, 0x42000d00);
	g_assert_cmphex(moved_to, ==, 0); /* x2APIC mode has no page */
	lapic_reset(&rig->lapic[0]);
	g_assert_cmphex(moved_to, ==, LAPIC_DEFAULT_BASE);
	g_free(rig);
}

static void test_page_access(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, TPR, 0x30);
	g_assert_cmphex(lapic_page_read(&rig->lapic[0], TPR, 1), ==, 0);
	g_assert_cmphex(lapic_page_read(&rig->lapic[0], TPR + 4, 4), ==, 0);
	lapic_page_write(&rig->lapic[0], TPR, 2, 0x70);
	g_assert_cmphex(read_reg(rig, 0, TPR), ==, 0x30);
	/* Through the bus, CPU 0 answers unless the board says otherwise. */
	g_assert_cmphex(in32(&apic_bus_page_ops, &rig->bus, TPR), ==, 0x30);
	out32(&apic_bus_page_ops, &rig->bus, TPR, 0x20);
	g_assert_cmphex(read_reg(rig, 0, TPR), ==, 0x20);
	g_free(rig);
}

static void test_init_signal(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 1, ID, 0x09000000);
	write_reg(rig, 1, LVT_LINT1_REG, 0x400);
	write_reg(rig, 1, TPR, 0x20);
	lapic_init_signal(&rig->lapic[1]);
	g_assert_cmphex(read_reg(rig, 1, ID), ==, 0x09000000);
	g_assert_cmphex(read_reg(rig, 1, LVT_LINT1_REG), ==, LVT_MASK);
	g_assert_cmphex(read_reg(rig, 1, SVR), ==, 0xff);
	g_assert_cmphex(read_reg(rig, 1, TPR), ==, 0);
	g_assert_cmphex(read_reg(rig, 1, DFR), ==, 0xffffffff);
	g_free(rig);
}

/* --- timer --- */

static void test_timer_one_shot(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	write_reg(rig, 0, DIVIDE, 0x3); /* by 16 */
	write_reg(rig, 0, LVT_TIMER_REG, 0x40);
	write_reg(rig, 0, INITIAL, 1000);
	g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 1000);
	clock_advance(&rig->clock, 1600);
	g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 900);
	clock_advance(&rig->clock, 16000 - 1600 - 1);
	g_assert_false(lapic_interrupt_pending(lapic));
	clock_advance(&rig->clock, 1);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x40);
	g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 0);
	write_reg(rig, 0, EOI, 0);
	clock_advance(&rig->clock, 1000000);
	g_assert_false(lapic_interrupt_pending(lapic));
	g_free(rig);
}

static void test_timer_divide(void)
{
	static const struct {
		u32 code;
		unsigned divisor;
	} cases[] = { { 0, 2 }, { 1, 4 }, { 2, 8 }, { 3, 16 }, { 8, 32 }, { 9, 64 }, { 10, 128 }, { 11, 1 } };
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rig *rig = rig_new();
		write_reg(rig, 0, DIVIDE, cases[i].code);
		write_reg(rig, 0, INITIAL, 1000000);
		clock_advance(&rig->clock, 1000 * cases[i].divisor);
		g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 999000);
		g_free(rig);
	}
}

static void test_timer_periodic(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	write_reg(rig, 0, DIVIDE, 0xb);
	write_reg(rig, 0, LVT_TIMER_REG, PERIODIC | 0x40);
	write_reg(rig, 0, INITIAL, 1000000);
	for (unsigned i = 0; i < 5; i++) {
		clock_advance(&rig->clock, 999999);
		g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 1);
		g_assert_false(lapic_interrupt_pending(lapic));
		clock_advance(&rig->clock, 1);
		g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x40);
		g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 1000000);
		write_reg(rig, 0, EOI, 0);
	}
	write_reg(rig, 0, INITIAL, 0); /* stops it */
	clock_advance(&rig->clock, 10000000);
	g_assert_false(lapic_interrupt_pending(lapic));
	g_free(rig);
}

static void test_timer_mask(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	write_reg(rig, 0, DIVIDE, 0xb);
	write_reg(rig, 0, LVT_TIMER_REG, PERIODIC | LVT_MASK | 0x40);
	write_reg(rig, 0, INITIAL, 1000000);
	clock_advance(&rig->clock, 2500000);
	g_assert_false(lapic_interrupt_pending(lapic));
	g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 500000); /* counts all the same */
	write_reg(rig, 0, LVT_TIMER_REG, PERIODIC | 0x40);
	clock_advance(&rig->clock, 500000);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x40);
	g_free(rig);
}

static void test_timer_mode_change(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, DIVIDE, 0xb);
	write_reg(rig, 0, LVT_TIMER_REG, 0x40);
	write_reg(rig, 0, INITIAL, 1000000);
	clock_advance(&rig->clock, 600000);
	write_reg(rig, 0, LVT_TIMER_REG, PERIODIC | 0x40); /* goes on from where it is */
	g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 400000);
	clock_advance(&rig->clock, 400000);
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[0]), ==, 0x40);
	write_reg(rig, 0, EOI, 0);
	clock_advance(&rig->clock, 3300000);
	lapic_ack_interrupt(&rig->lapic[0]);
	write_reg(rig, 0, EOI, 0);
	write_reg(rig, 0, LVT_TIMER_REG, 0x40);
	g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 700000);
	clock_advance(&rig->clock, 700000);
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[0]), ==, 0x40);
	write_reg(rig, 0, EOI, 0);
	write_reg(rig, 0, LVT_TIMER_REG, PERIODIC | 0x40); /* it ran out: nothing to go on from */
	clock_advance(&rig->clock, 5000000);
	g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 0);
	g_assert_false(lapic_interrupt_pending(&rig->lapic[0]));
	write_reg(rig, 0, INITIAL, 1000);
	clock_advance(&rig->clock, 10000);
	g_assert_true(lapic_interrupt_pending(&rig->lapic[0]));
	g_free(rig);
}

static void test_tsc_deadline(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	to_x2apic(rig, 0);
	wrmsr(rig, 0, MSR_DEADLINE, 1000);
	g_assert_cmpint(rdmsr(rig, 0, MSR_DEADLINE), ==, 0); /* another timer mode: ignored */
	wrmsr(rig, 0, X2(LVT_TIMER_REG), DEADLINE | 0xef);
	wrmsr(rig, 0, MSR_DEADLINE, 2000000); /* a millisecond at 2 GHz */
	g_assert_cmpint(rdmsr(rig, 0, MSR_DEADLINE), ==, 2000000);
	clock_advance(&rig->clock, 999999);
	g_assert_false(lapic_interrupt_pending(lapic));
	clock_advance(&rig->clock, 2);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0xef);
	g_assert_cmpint(rdmsr(rig, 0, MSR_DEADLINE), ==, 0);
	wrmsr(rig, 0, X2(EOI), 0);
	wrmsr(rig, 0, MSR_DEADLINE, 1); /* in the past: at once */
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0xef);
	wrmsr(rig, 0, X2(EOI), 0);
	wrmsr(rig, 0, MSR_DEADLINE, 4000000);
	wrmsr(rig, 0, MSR_DEADLINE, 0); /* disarmed */
	clock_advance(&rig->clock, 10000000);
	g_assert_false(lapic_interrupt_pending(lapic));
	wrmsr(rig, 0, MSR_DEADLINE, UINT64_MAX); /* in centuries */
	clock_advance(&rig->clock, 1000000000);
	g_assert_false(lapic_interrupt_pending(lapic));
	wrmsr(rig, 0, X2(LVT_TIMER_REG), 0xef); /* leaving the mode disarms */
	g_assert_cmpint(rdmsr(rig, 0, MSR_DEADLINE), ==, 0);
	g_free(rig);
}

static u64 tsc_value;

static u64 fixed_tsc(void *opaque)
{
	return tsc_value;
}

static void test_tsc_deadline_follows_the_cpus_tsc(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	const struct lapic_cpu cpu = { .tsc = fixed_tsc };
	tsc_value = 5000000;
	lapic_connect_cpu(lapic, &cpu, NULL);
	write_reg(rig, 0, LVT_TIMER_REG, DEADLINE | 0xef);
	wrmsr(rig, 0, MSR_DEADLINE, 7000000);
	clock_advance(&rig->clock, 1500000);
	/* The timer came too early for a TSC that stands still: it waits on. */
	g_assert_false(lapic_interrupt_pending(lapic));
	tsc_value = 8000000; /* IA32_TSC_ADJUST grew */
	lapic_tsc_changed(lapic);
	g_assert_true(lapic_interrupt_pending(lapic));
	g_free(rig);
}

/* --- local interrupts --- */

static void test_extint(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	apic_bus_set_lint(&rig->bus, 0, true);
	g_assert_false(lapic_interrupt_pending(lapic)); /* masked */
	write_reg(rig, 0, LVT_LINT0_REG, 0x700);
	g_assert_true(lapic_interrupt_pending(lapic));
	write_reg(rig, 0, TPR, 0xff); /* means nothing to the PIC */
	g_assert_true(lapic_interrupt_pending(lapic));
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x77);
	g_assert_cmpint(rig->extint_acks, ==, 1);
	apic_bus_set_lint(&rig->bus, 0, false);
	g_assert_false(lapic_interrupt_pending(lapic));
	g_assert_false(lapic_interrupt_pending(&rig->lapic[1]));
	g_free(rig);
}

static void test_disabled_apic_passes_pins(void)
{
	struct rig *rig = rig_new();
	wrmsr(rig, 0, MSR_BASE, LAPIC_DEFAULT_BASE | 0x100);
	apic_bus_set_lint(&rig->bus, 0, true);
	g_assert_true(lapic_interrupt_pending(&rig->lapic[0]));
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[0]), ==, 0x77);
	apic_bus_set_lint(&rig->bus, 1, true);
	g_assert_cmpint(rig->cpu[0].nmi, ==, 1);
	g_free(rig);
}

static void test_lint(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, LVT_LINT1_REG, 0x400);
	apic_bus_set_lint(&rig->bus, 1, true);
	apic_bus_set_lint(&rig->bus, 1, true);
	g_assert_cmpint(rig->cpu[0].nmi, ==, 1);
	g_assert_cmpint(rig->cpu[1].nmi, ==, 0);
	/* A level-triggered LINT0: remote IRR until EOI, then again. */
	write_reg(rig, 0, LVT_LINT0_REG, 0x8042);
	lapic_set_lint(&rig->lapic[0], 0, true);
	g_assert_cmphex(read_reg(rig, 0, LVT_LINT0_REG), ==, 0xc042);
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[0]), ==, 0x42);
	g_assert_false(lapic_interrupt_pending(&rig->lapic[0]));
	write_reg(rig, 0, EOI, 0);
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[0]), ==, 0x42);
	lapic_set_lint(&rig->lapic[0], 0, false);
	write_reg(rig, 0, EOI, 0);
	g_assert_false(lapic_interrupt_pending(&rig->lapic[0]));
	g_assert_cmphex(read_reg(rig, 0, LVT_LINT0_REG), ==, 0x8042);
	g_free(rig);
}

static void test_errors(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, LVT_ERROR_REG, 0xfe);
	write_reg(rig, 0, ICR, 0x40005);               /* to itself, vector 5 */
	g_assert_cmphex(read_reg(rig, 0, ESR), ==, 0); /* shown after a write */
	write_reg(rig, 0, ESR, 0);
	g_assert_cmphex(read_reg(rig, 0, ESR), ==, 0x60);
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[0]), ==, 0xfe);
	write_reg(rig, 0, ESR, 0);
	g_assert_cmphex(read_reg(rig, 0, ESR), ==, 0);
	read_reg(rig, 0, 0x3f0);
	write_reg(rig, 0, ESR, 0);
	g_assert_cmphex(read_reg(rig, 0, ESR), ==, 0x80);
	/* An error vector that is illegal itself must not recurse. */
	write_reg(rig, 0, LVT_ERROR_REG, 0x03);
	write_reg(rig, 0, ICR, 0x40005);
	g_free(rig);
}

/* --- messages --- */

static void ipi(struct rig *rig, unsigned from, u8 destination, u32 icr)
{
	write_reg(rig, from, ICR_HIGH, (u32)destination << 24);
	write_reg(rig, from, ICR, icr);
}

static void test_ipi_physical(void)
{
	struct rig *rig = rig_new();
	ipi(rig, 0, 2, 0x50);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0x4);
	ipi(rig, 1, 0xff, 0x50);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0xf);
	ipi(rig, 1, 9, 0x50);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0);
	write_reg(rig, 3, ID, 0x09000000);
	ipi(rig, 1, 9, 0x50);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0x8);
	g_free(rig);
}

static void test_ipi_shorthand(void)
{
	struct rig *rig = rig_new();
	ipi(rig, 1, 3, 0x40050);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0x2);
	ipi(rig, 1, 3, 0x80050);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0xf);
	ipi(rig, 1, 3, 0xc0050);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0xd);
	g_free(rig);
}

static void test_ipi_flat(void)
{
	struct rig *rig = rig_new();
	for (unsigned n = 0; n < CPUS; n++)
		write_reg(rig, n, LDR, 1u << (24 + n));
	ipi(rig, 0, 0x6, 0x850);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0x6);
	ipi(rig, 0, 0xff, 0x850);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0xf);
	ipi(rig, 0, 0x10, 0x850);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0);
	g_free(rig);
}

static void test_ipi_cluster(void)
{
	struct rig *rig = rig_new();
	for (unsigned n = 0; n < CPUS; n++) {
		write_reg(rig, n, DFR, 0x0fffffff);
		/* CPUs 0 and 1 in cluster 1, 2 and 3 in cluster 2. */
		write_reg(rig, n, LDR, (n / 2 + 1) << 28 | 1u << (24 + n % 2));
	}
	ipi(rig, 0, 0x13, 0x850);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0x3);
	ipi(rig, 0, 0x22, 0x850);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0x8);
	ipi(rig, 0, 0xff, 0x850);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0xf);
	g_free(rig);
}

static void test_ipi_x2apic(void)
{
	struct rig *rig = rig_new();
	for (unsigned n = 0; n < CPUS; n++)
		to_x2apic(rig, n);
	wrmsr(rig, 0, X2(ICR), 2ULL << 32 | 0x50);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0x4);
	wrmsr(rig, 0, X2(ICR), 0xffffffffULL << 32 | 0x50);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0xf);
	wrmsr(rig, 0, X2(ICR), 0xffULL << 32 | 0x50); /* no broadcast here: APIC 255 */
	g_assert_cmphex(who_got(rig, 0x50), ==, 0);
	wrmsr(rig, 0, X2(ICR), 0xaULL << 32 | 0x850);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0xa);
	wrmsr(rig, 0, X2(ICR), 0x1000fULL << 32 | 0x850); /* cluster 1 is empty */
	g_assert_cmphex(who_got(rig, 0x50), ==, 0);
	wrmsr(rig, 3, 0x83f, 0x50);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0x8);
	g_assert_true(wrmsr_faults(rig, 0, X2(ICR), 0x1050)); /* the status bit is reserved */
	g_free(rig);
}

static void test_x2apic_clusters(void)
{
	struct rig *rig = rig_new();
	struct lapic *far = g_new0(struct lapic, 1);
	lapic_init(far, &rig->bus, &rig->clock, 0x23, false, TSC_KHZ);
	u64 value;
	g_assert_true(lapic_msr_write(far, MSR_BASE, LAPIC_DEFAULT_BASE | 0xc00));
	g_assert_true(lapic_msr_read(far, X2(LDR), &value));
	g_assert_cmphex(value, ==, 0x20008);
	g_free(far);
	g_free(rig);
}

static void test_ipi_kinds(void)
{
	struct rig *rig = rig_new();
	ipi(rig, 0, 1, 0x4400);
	g_assert_cmpint(rig->cpu[1].nmi, ==, 1);
	ipi(rig, 0, 1, 0x4200);
	g_assert_cmpint(rig->cpu[1].smi, ==, 1);
	ipi(rig, 0, 0, 0xc4500); /* INIT to all others */
	g_assert_cmpint(rig->cpu[0].init, ==, 0);
	g_assert_cmpint(rig->cpu[1].init + rig->cpu[2].init + rig->cpu[3].init, ==, 3);
	ipi(rig, 0, 0, 0xc8500); /* de-assert: nothing */
	g_assert_cmpint(rig->cpu[1].init, ==, 1);
	ipi(rig, 0, 2, 0x4698);
	g_assert_cmpint(rig->cpu[2].sipi, ==, 1);
	g_assert_cmphex(rig->cpu[2].sipi_vector, ==, 0x98);
	g_assert_cmpint(rig->cpu[3].sipi, ==, 0);
	g_free(rig);
}

static void test_lowest_priority(void)
{
	struct rig *rig = rig_new();
	unsigned hits[CPUS] = { 0 };
	for (unsigned n = 0; n < CPUS; n++)
		write_reg(rig, n, LDR, 1u << (24 + n));
	write_reg(rig, 0, TPR, 0x20);
	write_reg(rig, 2, TPR, 0x30);
	for (unsigned i = 0; i < 8; i++) {
		ipi(rig, 0, 0xf, 0x950);
		unsigned who = who_got(rig, 0x50);
		g_assert_true(who == 0x2 || who == 0x8); /* the idle ones, one at a time */
		hits[who == 0x2 ? 1 : 3]++;
	}
	g_assert_cmpint(hits[1], ==, 4);
	g_assert_cmpint(hits[3], ==, 4);
	g_free(rig);
}

static void test_msi(void)
{
	struct rig *rig = rig_new();
	g_assert_true(apic_bus_msi(&rig->bus, 0xfee02000, 0x51));
	g_assert_cmphex(who_got(rig, 0x51), ==, 0x4);
	for (unsigned n = 0; n < CPUS; n++)
		write_reg(rig, n, LDR, 1u << (24 + n));
	g_assert_true(apic_bus_msi(&rig->bus, 0xfee0a004, 0x51));
	g_assert_cmphex(who_got(rig, 0x51), ==, 0xa);
	g_assert_true(apic_bus_msi(&rig->bus, 0xfee0a00c, 0x51)); /* redirection hint: one of them */
	unsigned who = who_got(rig, 0x51);
	g_assert_true(who == 0x2 || who == 0x8);
	g_assert_false(apic_bus_msi(&rig->bus, 0xfed00000, 0x51));
	g_free(rig);
}

static void test_globally_disabled_hears_nothing(void)
{
	struct rig *rig = rig_new();
	wrmsr(rig, 2, MSR_BASE, LAPIC_DEFAULT_BASE);
	ipi(rig, 0, 2, 0x50);
	ipi(rig, 0, 2, 0x4400);
	g_assert_cmphex(who_got(rig, 0x50), ==, 0);
	g_assert_cmpint(rig->cpu[2].nmi, ==, 0);
	g_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/lapic/ack-moves-irr-to-isr-and-eoi-ends-it", test_ack_and_eoi);
	g_test_add_func("/lapic/only-higher-class-nests", test_nesting);
	g_test_add_func("/lapic/tpr-holds-back-its-class", test_tpr);
	g_test_add_func("/lapic/level-eoi-is-broadcast-unless-suppressed", test_level_eoi_is_broadcast);
	g_test_add_func("/lapic/software-disable-masks-lvt", test_software_disable);
	g_test_add_func("/lapic/base-allows-only-legal-transitions", test_base_transitions);
	g_test_add_func("/lapic/x2apic-registers-fault-as-specified", test_x2apic_registers);
	g_test_add_func("/lapic/page-follows-base", test_page_moves);
	g_test_add_func("/lapic/page-takes-dwords-only", test_page_access);
	g_test_add_func("/lapic/init-keeps-the-id", test_init_signal);
	g_test_add_func("/lapic/timer-one-shot-fires-once", test_timer_one_shot);
	g_test_add_func("/lapic/timer-divides", test_timer_divide);
	g_test_add_func("/lapic/timer-periodic-reloads", test_timer_periodic);
	g_test_add_func("/lapic/timer-masked-counts-on", test_timer_mask);
	g_test_add_func("/lapic/timer-mode-change-counts-on", test_timer_mode_change);
	g_test_add_func("/lapic/tsc-deadline", test_tsc_deadline);
	g_test_add_func("/lapic/tsc-deadline-follows-the-cpus-tsc", test_tsc_deadline_follows_the_cpus_tsc);
	g_test_add_func("/lapic/extint-asks-the-pic", test_extint);
	g_test_add_func("/lapic/disabled-apic-passes-pins-through", test_disabled_apic_passes_pins);
	g_test_add_func("/lapic/lint-pins", test_lint);
	g_test_add_func("/lapic/errors-show-after-a-write-to-esr", test_errors);
	g_test_add_func("/apic-bus/physical-destinations", test_ipi_physical);
	g_test_add_func("/apic-bus/shorthands", test_ipi_shorthand);
	g_test_add_func("/apic-bus/logical-flat", test_ipi_flat);
	g_test_add_func("/apic-bus/logical-cluster", test_ipi_cluster);
	g_test_add_func("/apic-bus/x2apic-destinations-and-self-ipi", test_ipi_x2apic);
	g_test_add_func("/apic-bus/x2apic-logical-id-follows-the-id", test_x2apic_clusters);
	g_test_add_func("/apic-bus/nmi-smi-init-startup", test_ipi_kinds);
	g_test_add_func("/apic-bus/lowest-priority-takes-turns", test_lowest_priority);
	g_test_add_func("/apic-bus/msi", test_msi);
	g_test_add_func("/apic-bus/disabled-apic-hears-nothing", test_globally_disabled_hears_nothing);
	return g_test_run();
}
