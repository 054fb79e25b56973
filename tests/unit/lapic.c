/* Local APICs: priorities, modes, timer, local interrupts. */
#include "lapic_rig.h"

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

/* What posted interrupts need: an EOI and a notification in either mode. */
static void test_posted(void)
{
	struct rig *rig = rig_new();
	lapic_send(&rig->lapic[0], 1 << 8, 0x46); /* xAPIC IDs are in bits 15:8 */
	g_assert_cmphex(lapic_pending_vector(&rig->lapic[1]), ==, 0x46);
	g_assert_cmpint(rig->cpu[0].intr, ==, 0);
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[1]), ==, 0x46);
	lapic_eoi(&rig->lapic[1]);
	g_assert_cmphex(read_reg(rig, 1, ISR + 0x20), ==, 0);
	g_assert_true(lapic_msr_write(&rig->lapic[0], MSR_BASE, LAPIC_DEFAULT_BASE | 0xd00)); /* x2APIC, bootstrap */
	lapic_send(&rig->lapic[0], 1, 0x47);
	g_assert_cmphex(lapic_pending_vector(&rig->lapic[1]), ==, 0x47);
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
	rig->lapic[0].has_x2apic = false;
	g_assert_true(wrmsr_faults(rig, 0, MSR_BASE, base | 0xc00));
	rig->lapic[0].has_x2apic = true;
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

/* One that leaves no time between its interrupts: they come less often, and it counts as it should. */
static void test_timer_short_period(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	write_reg(rig, 0, DIVIDE, 0xb);
	write_reg(rig, 0, LVT_TIMER_REG, PERIODIC | 0x40);
	write_reg(rig, 0, INITIAL, 1000);
	clock_advance(&rig->clock, 1000);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x40);
	write_reg(rig, 0, EOI, 0);
	for (unsigned i = 0; i < 5; i++) {
		clock_advance(&rig->clock, 99900);
		g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 100);
		g_assert_false(lapic_interrupt_pending(lapic));
		clock_advance(&rig->clock, 100);
		g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x40);
		write_reg(rig, 0, EOI, 0);
	}
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

/* An Intel APIC masks the entry when it delivers, AMD's leaves it. */
static void test_counter_overflow(void)
{
	struct rig *rig = rig_new();
	struct lapic *lapic = &rig->lapic[0];
	lapic_counter_overflow(lapic, true); /* masked */
	g_assert_false(lapic_interrupt_pending(lapic));
	write_reg(rig, 0, LVT_PERF_REG, 0x42);
	lapic_counter_overflow(lapic, true);
	g_assert_cmphex(lapic_ack_interrupt(lapic), ==, 0x42);
	g_assert_cmphex(read_reg(rig, 0, LVT_PERF_REG), ==, LVT_MASK | 0x42);
	write_reg(rig, 0, LVT_PERF_REG, 0x400);
	lapic_counter_overflow(lapic, false);
	lapic_counter_overflow(lapic, false);
	g_assert_cmpint(rig->cpu[0].nmi, ==, 2);
	g_assert_cmphex(read_reg(rig, 0, LVT_PERF_REG), ==, 0x400);
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

static void test_timer_divide_change(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, DIVIDE, 0xb);
	write_reg(rig, 0, LVT_TIMER_REG, 0x40);
	write_reg(rig, 0, INITIAL, 1000000);
	clock_advance(&rig->clock, 400000);
	write_reg(rig, 0, DIVIDE, 0x1); /* by 4 from here on */
	g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 600000);
	clock_advance(&rig->clock, 2399999);
	g_assert_cmpint(read_reg(rig, 0, CURRENT), ==, 1);
	g_assert_false(lapic_interrupt_pending(&rig->lapic[0]));
	clock_advance(&rig->clock, 1);
	g_assert_true(lapic_interrupt_pending(&rig->lapic[0]));
	g_free(rig);
}

static void test_reset_values(void)
{
	struct rig *rig = rig_new();
	static const struct {
		u32 offset, value;
	} expected[] = {
		{ ID, 0x01000000 },
		{ TPR, 0 },
		{ PPR, 0 },
		{ LDR, 0 },
		{ DFR, ~0u },
		{ SVR, 0xff },
		{ ISR + 0x20, 0 },
		{ IRR + 0x20, 0 },
		{ TMR + 0x20, 0 },
		{ ESR, 0 },
		{ ICR, 0 },
		{ ICR_HIGH, 0 },
		{ LVT_TIMER_REG, 0x10000 },
		{ 0x330, 0x10000 },
		{ 0x340, 0x10000 },
		{ LVT_LINT0_REG, 0x10000 },
		{ LVT_LINT1_REG, 0x10000 },
		{ LVT_ERROR_REG, 0x10000 },
		{ INITIAL, 0 },
		{ CURRENT, 0 },
		{ DIVIDE, 0 },
	};
	for (u32 offset = 0; offset < 0x400; offset += 16)
		if (offset != EOI && offset != ICR)
			write_reg(rig, 1, offset, 0x4a4a4a4a);
	struct apic_message message = { .destination = 0x4a, .vector = 0x45, .level = true };
	apic_bus_deliver(&rig->bus, &message);
	lapic_ack_interrupt(&rig->lapic[1]);
	apic_bus_deliver(&rig->bus, &message);
	lapic_reset(&rig->lapic[1]);
	for (unsigned i = 0; i < ARRAY_SIZE(expected); i++)
		g_assert_cmphex(read_reg(rig, 1, expected[i].offset), ==, expected[i].value);
	g_assert_false(lapic_interrupt_pending(&rig->lapic[1]));
	clock_advance(&rig->clock, 10 * NS_PER_SEC);
	g_assert_false(lapic_interrupt_pending(&rig->lapic[1]));
	g_free(rig);
}

static void test_virtual_wire(void)
{
	struct rig *rig = rig_new();
	for (unsigned n = 0; n < 2; n++) {
		lapic_reset(&rig->lapic[n]);
		lapic_virtual_wire(&rig->lapic[n]);
		g_assert_true(lapic_software_enabled(&rig->lapic[n]));
	}
	apic_bus_set_lint(&rig->bus, 0, true);
	g_assert_true(lapic_interrupt_pending(&rig->lapic[0]));
	g_assert_false(lapic_interrupt_pending(&rig->lapic[1])); /* the bootstrap processor's alone */
	apic_bus_set_lint(&rig->bus, 1, true);
	g_assert_cmpint(rig->cpu[0].nmi, ==, 1);
	g_assert_cmpint(rig->cpu[1].nmi, ==, 1);
	g_free(rig);
}

static void test_registers_exist(void)
{
	struct rig *rig = rig_new();
	static const char *const xapic = "..XX....XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX.......XXXXXXXXXX....X.";
	static const char *const x2apic = "..XX....X.X..X.XXXXXXXXXXXXXXXXXXXXXXXXXX.......X.XXXXXXXX....X.";
	for (unsigned reg = 0; reg < 0x40; reg++) {
		read_reg(rig, 0, reg * 16);
		write_reg(rig, 0, ESR, 0);
		g_assert_cmphex(read_reg(rig, 0, ESR), ==, xapic[reg] == 'X' ? 0 : 0x80);
	}
	to_x2apic(rig, 0);
	for (unsigned reg = 0; reg < 0x100; reg++)
		g_assert_true(rdmsr_faults(rig, 0, 0x800 + reg) == (reg >= 0x40 || x2apic[reg] == '.'));
	g_free(rig);
}

static void test_disable_keeps_masks(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, LVT_ERROR_REG, 0x100fe);
	write_reg(rig, 0, LVT_LINT1_REG, 0x00400);
	write_reg(rig, 0, SVR, 0xff);
	g_assert_cmphex(read_reg(rig, 0, LVT_ERROR_REG), ==, 0x100fe);
	g_assert_cmphex(read_reg(rig, 0, LVT_LINT1_REG), ==, 0x10400);
	g_free(rig);
}

static void test_lowest_vector(void)
{
	struct rig *rig = rig_new();
	send_fixed(rig, 0x10, true); /* the lowest legal one */
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[0]), ==, 0x10);
	write_reg(rig, 0, EOI, 0);
	g_assert_cmphex(rig->eoi_vector, ==, 0x10);
	write_reg(rig, 0, EOI, 0); /* nothing in service: nothing happens */
	g_assert_cmpint(rig->eois, ==, 1);
	send_fixed(rig, 0xff, false);
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[0]), ==, 0xff);
	g_free(rig);
}

static void test_misaligned_write(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, TPR, 0x20);
	lapic_page_write(&rig->lapic[0], TPR + 4, 4, 0x70);
	lapic_page_write(&rig->lapic[0], 0x1000 + TPR, 4, 0x70);
	g_assert_cmphex(read_reg(rig, 0, TPR), ==, 0x20);
	g_free(rig);
}

static void test_disable_updates(void)
{
	struct rig *rig = rig_new();
	lapic_set_lint(&rig->lapic[0], 0, true);
	g_assert_false(lapic_interrupt_pending(&rig->lapic[0]));
	wrmsr(rig, 0, MSR_BASE, LAPIC_DEFAULT_BASE | 0x100);
	g_assert_true(lapic_interrupt_pending(&rig->lapic[0]));
	wrmsr(rig, 0, MSR_BASE, LAPIC_DEFAULT_BASE | 0x900);
	g_assert_false(lapic_interrupt_pending(&rig->lapic[0]));
	g_free(rig);
}

static void test_lint_unmask(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, LVT_LINT0_REG, 0x18042);
	g_assert_cmpint(lapic_pending_vector(&rig->lapic[0]), ==, -1);
	write_reg(rig, 0, LVT_LINT0_REG, 0x8042); /* low: nothing */
	g_assert_cmpint(lapic_pending_vector(&rig->lapic[0]), ==, -1);
	write_reg(rig, 0, LVT_LINT0_REG, 0x18042);
	lapic_set_lint(&rig->lapic[0], 0, true);
	write_reg(rig, 0, LVT_LINT0_REG, 0x8042);
	g_assert_cmphex(lapic_pending_vector(&rig->lapic[0]), ==, 0x42);
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
	g_test_add_func("/lapic/timer-with-a-short-period-leaves-time", test_timer_short_period);
	g_test_add_func("/lapic/timer-masked-counts-on", test_timer_mask);
	g_test_add_func("/lapic/timer-mode-change-counts-on", test_timer_mode_change);
	g_test_add_func("/lapic/tsc-deadline", test_tsc_deadline);
	g_test_add_func("/lapic/tsc-deadline-follows-the-cpus-tsc", test_tsc_deadline_follows_the_cpus_tsc);
	g_test_add_func("/lapic/extint-asks-the-pic", test_extint);
	g_test_add_func("/lapic/disabled-apic-passes-pins-through", test_disabled_apic_passes_pins);
	g_test_add_func("/lapic/lint-pins", test_lint);
	g_test_add_func("/lapic/counter-overflow-follows-its-lvt", test_counter_overflow);
	g_test_add_func("/lapic/errors-show-after-a-write-to-esr", test_errors);
	g_test_add_func("/lapic/timer-divide-change-counts-on", test_timer_divide_change);
	g_test_add_func("/lapic/reset-values", test_reset_values);
	g_test_add_func("/lapic/virtual-wire-passes-the-pic-and-nmi", test_virtual_wire);
	g_test_add_func("/lapic/registers-exist-by-mode", test_registers_exist);
	g_test_add_func("/lapic/lvt-masked-stays-masked-when-disabled", test_disable_keeps_masks);
	g_test_add_func("/lapic/sends-and-ends-posted-interrupts", test_posted);
	g_test_add_func("/lapic/vector-0-class-in-service", test_lowest_vector);
	g_test_add_func("/lapic/page-write-off-a-register-is-nothing", test_misaligned_write);
	g_test_add_func("/lapic/disabling-hands-intr-to-the-pin", test_disable_updates);
	g_test_add_func("/lapic/level-lint0-unmasked-while-high", test_lint_unmask);
	return g_test_run();
}
