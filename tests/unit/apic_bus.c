/* Messages among local APICs: destinations, delivery modes, MSI. */
#include "lapic_rig.h"

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

static void test_extint_message(void)
{
	struct rig *rig = rig_new();
	ipi(rig, 0, 1, 0x4700);
	g_assert_true(lapic_interrupt_pending(&rig->lapic[1]));
	g_assert_false(lapic_interrupt_pending(&rig->lapic[0]));
	g_assert_cmphex(lapic_ack_interrupt(&rig->lapic[1]), ==, 0x77);
	g_assert_false(lapic_interrupt_pending(&rig->lapic[1]));
	g_assert_cmpint(rig->extint_acks, ==, 1);
	g_free(rig);
}

static void test_msi_broadcast(void)
{
	struct rig *rig = rig_new();
	g_assert_true(apic_bus_msi(&rig->bus, 0xfeeff000, 0x51));
	g_assert_cmphex(who_got(rig, 0x51), ==, 0xf);
	g_assert_true(apic_bus_msi(&rig->bus, 0xfee01000, 0x8051)); /* level */
	g_assert_true(rig->lapic[1].tmr[0x51 / 32] >> 0x51 % 32 & 1);
	g_assert_true(apic_bus_msi(&rig->bus, 0xfee01000, 0x400)); /* NMI */
	g_assert_cmpint(rig->cpu[1].nmi, ==, 1);
	g_free(rig);
}

static void test_x2apic_icr(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, ICR_HIGH, 0x02000000);
	to_x2apic(rig, 0);
	g_assert_cmphex(rdmsr(rig, 0, X2(ICR)), ==, 0);
	wrmsr(rig, 0, X2(ICR), 3ULL << 32 | 0x50);
	wrmsr(rig, 0, MSR_BASE, rdmsr(rig, 0, MSR_BASE)); /* no change of mode */
	g_assert_cmphex(rdmsr(rig, 0, X2(ICR)), ==, 3ULL << 32 | 0x50);
	g_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
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
	g_test_add_func("/apic-bus/extint-message-asks-the-pic-once", test_extint_message);
	g_test_add_func("/apic-bus/msi-broadcast", test_msi_broadcast);
	g_test_add_func("/apic-bus/x2apic-starts-with-a-clean-destination", test_x2apic_icr);
	return g_test_run();
}
