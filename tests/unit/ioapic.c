/* The I/O APIC with a real local APIC behind it. */
#include "chip/ioapic.h"
#include "chip.h"
#include "chip/lapic.h"

enum { MASKED = 0x10000, LEVEL = 0x8000, REMOTE_IRR = 0x4000 };

struct rig {
	struct clock clock;
	struct apic_bus bus;
	struct lapic lapic;
	struct ioapic ioapic;
};

static struct rig *rig_new(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	clock_init_manual(&rig->clock);
	apic_bus_init(&rig->bus);
	lapic_init(&rig->lapic, &rig->bus, &rig->clock, 0, true, 1000000);
	lapic_page_write(&rig->lapic, 0xf0, 4, 0x1ff);
	ioapic_init(&rig->ioapic, &rig->bus);
	return rig;
}

static void write_reg(struct rig *rig, u8 index, u32 value)
{
	out32(&ioapic_ops, &rig->ioapic, 0, index);
	out32(&ioapic_ops, &rig->ioapic, 0x10, value);
}

static u32 read_reg(struct rig *rig, u8 index)
{
	out32(&ioapic_ops, &rig->ioapic, 0, index);
	return in32(&ioapic_ops, &rig->ioapic, 0x10);
}

static void route(struct rig *rig, unsigned pin_number, u32 low)
{
	write_reg(rig, (u8)(0x11 + 2 * pin_number), 0);
	write_reg(rig, (u8)(0x10 + 2 * pin_number), low);
}

static u32 entry(struct rig *rig, unsigned pin_number)
{
	return read_reg(rig, (u8)(0x10 + 2 * pin_number));
}

static void set(struct rig *rig, unsigned pin_number, bool level)
{
	ioapic_set_irq(&rig->ioapic, pin_number, level);
}

static int take(struct rig *rig)
{
	return lapic_ack_interrupt(&rig->lapic);
}

static void eoi(struct rig *rig)
{
	lapic_page_write(&rig->lapic, 0xb0, 4, 0);
}

static void test_registers(void)
{
	struct rig *rig = rig_new();
	g_assert_cmphex(read_reg(rig, 1), ==, 0x170020);
	g_assert_cmphex(entry(rig, 0), ==, MASKED);
	g_assert_cmphex(entry(rig, 23), ==, MASKED);
	write_reg(rig, 0, 0xff000000);
	g_assert_cmphex(read_reg(rig, 0), ==, 0x0f000000);
	write_reg(rig, 0x11, 0xab000000);
	g_assert_cmphex(read_reg(rig, 0x11), ==, 0xab000000);
	route(rig, 3, 0xfffff);
	g_assert_cmphex(entry(rig, 3), ==, 0x1afff); /* status and remote IRR are read-only */
	g_assert_cmphex(read_reg(rig, 0x40), ==, 0); /* beyond pin 23 */
	write_reg(rig, 0x40, 0xffffffff);
	g_free(rig);
}

static void test_edge(void)
{
	struct rig *rig = rig_new();
	route(rig, 4, 0x54);
	set(rig, 4, true);
	g_assert_cmphex(take(rig), ==, 0x54);
	eoi(rig);
	g_assert_cmpint(take(rig), ==, -1); /* the level means nothing */
	set(rig, 4, false);
	set(rig, 4, true);
	g_assert_cmphex(take(rig), ==, 0x54);
	g_free(rig);
}

static void test_edge_while_masked_is_lost(void)
{
	struct rig *rig = rig_new();
	route(rig, 4, MASKED | 0x54);
	set(rig, 4, true);
	route(rig, 4, 0x54);
	g_assert_cmpint(take(rig), ==, -1);
	g_free(rig);
}

static void test_level(void)
{
	struct rig *rig = rig_new();
	route(rig, 20, LEVEL | 0x62);
	set(rig, 20, true);
	g_assert_true(entry(rig, 20) & REMOTE_IRR);
	g_assert_cmphex(take(rig), ==, 0x62);
	set(rig, 20, false);
	set(rig, 20, true); /* already being served */
	g_assert_cmpint(lapic_pending_vector(&rig->lapic), ==, -1);
	eoi(rig); /* the line is still up: again */
	g_assert_true(entry(rig, 20) & REMOTE_IRR);
	g_assert_cmphex(take(rig), ==, 0x62);
	set(rig, 20, false);
	eoi(rig);
	g_assert_false(entry(rig, 20) & REMOTE_IRR);
	g_assert_cmpint(take(rig), ==, -1);
	g_free(rig);
}

static void test_level_unmasked_while_high(void)
{
	struct rig *rig = rig_new();
	route(rig, 20, MASKED | LEVEL | 0x62);
	set(rig, 20, true);
	g_assert_cmpint(take(rig), ==, -1);
	route(rig, 20, LEVEL | 0x62);
	g_assert_cmphex(take(rig), ==, 0x62);
	g_free(rig);
}

static void test_level_masked_in_service(void)
{
	struct rig *rig = rig_new();
	route(rig, 20, LEVEL | 0x62);
	set(rig, 20, true);
	take(rig);
	route(rig, 20, MASKED | LEVEL | 0x62);
	eoi(rig);
	g_assert_false(entry(rig, 20) & REMOTE_IRR);
	g_assert_cmpint(take(rig), ==, -1);
	route(rig, 20, LEVEL | 0x62);
	g_assert_cmphex(take(rig), ==, 0x62);
	g_free(rig);
}

static void test_eoi_register(void)
{
	struct rig *rig = rig_new();
	/* With EOI broadcast suppressed, only the register ends the interrupt. */
	lapic_page_write(&rig->lapic, 0xf0, 4, 0x11ff);
	route(rig, 20, LEVEL | 0x62);
	set(rig, 20, true);
	take(rig);
	set(rig, 20, false);
	eoi(rig);
	g_assert_true(entry(rig, 20) & REMOTE_IRR);
	out32(&ioapic_ops, &rig->ioapic, 0x40, 0x61);
	g_assert_true(entry(rig, 20) & REMOTE_IRR);
	out32(&ioapic_ops, &rig->ioapic, 0x40, 0x62);
	g_assert_false(entry(rig, 20) & REMOTE_IRR);
	g_free(rig);
}

static void test_edge_mode_clears_remote_irr(void)
{
	struct rig *rig = rig_new();
	route(rig, 20, LEVEL | 0x62);
	set(rig, 20, true);
	set(rig, 20, false);
	g_assert_true(entry(rig, 20) & REMOTE_IRR);
	route(rig, 20, MASKED | 0x62);
	route(rig, 20, LEVEL | 0x62);
	g_assert_false(entry(rig, 20) & REMOTE_IRR);
	g_free(rig);
}

static void test_shared_vector(void)
{
	struct rig *rig = rig_new();
	route(rig, 20, LEVEL | 0x62);
	route(rig, 21, LEVEL | 0x62);
	set(rig, 20, true);
	set(rig, 21, true);
	g_assert_cmphex(take(rig), ==, 0x62);
	set(rig, 20, false);
	eoi(rig);
	g_assert_cmphex(take(rig), ==, 0x62); /* pin 21's: both came in one IRR bit before, but it asks on */
	g_free(rig);
}

static void test_refused_level_stays_pending(void)
{
	struct rig *rig = rig_new();
	lapic_page_write(&rig->lapic, 0xf0, 4, 0xff); /* software-disabled: accepts no vectors */
	route(rig, 20, LEVEL | 0x62);
	set(rig, 20, true);
	g_assert_false(entry(rig, 20) & REMOTE_IRR);
	lapic_page_write(&rig->lapic, 0xf0, 4, 0x1ff);
	set(rig, 20, true);
	g_assert_cmphex(take(rig), ==, 0x62);
	g_free(rig);
}

static void test_pin_out_of_range(void)
{
	struct rig *rig = rig_new();
	set(rig, 24, true);
	set(rig, 4000000000u, true);
	g_assert_cmpint(take(rig), ==, -1);
	g_free(rig);
}

static void test_reset(void)
{
	struct rig *rig = rig_new();
	write_reg(rig, 0, 0x05000000);
	route(rig, 5, 0x55);
	ioapic_reset(&rig->ioapic);
	g_assert_cmphex(in32(&ioapic_ops, &rig->ioapic, 0), ==, 0);
	g_assert_cmphex(read_reg(rig, 0), ==, 0);
	g_assert_cmphex(entry(rig, 5), ==, MASKED);
	g_free(rig);
}

static void test_narrow(void)
{
	struct rig *rig = rig_new();
	route(rig, 4, 0x54);
	out8(&ioapic_ops, &rig->ioapic, 0, 0x18);
	g_assert_cmphex(in8(&ioapic_ops, &rig->ioapic, 0x10), ==, 0x54);
	out8(&ioapic_ops, &rig->ioapic, 0x10, 0x99); /* the window takes dwords */
	g_assert_cmphex(entry(rig, 4), ==, 0x54);
	g_assert_cmphex(in32(&ioapic_ops, &rig->ioapic, 0x20), ==, 0);
	g_free(rig);
}

static void test_destinations(void)
{
	struct rig *rig = rig_new();
	static const struct {
		u32 high, low;
		int vector;
	} cases[] = {
		{ 0x00000000, 0x54, 0x54 },  { 0x01000000, 0x54, -1 },    { 0xff000000, 0x54, 0x54 },
		{ 0x40000000, 0x854, 0x54 }, { 0x80000000, 0x854, -1 },   { 0xff000000, 0x854, 0x54 },
		{ 0x00000000, 0x154, 0x54 }, { 0xff000000, 0x954, 0x54 },
	};
	lapic_page_write(&rig->lapic, 0xd0, 4, 0x40000000);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		write_reg(rig, 0x19, cases[i].high);
		write_reg(rig, 0x18, cases[i].low);
		set(rig, 4, true);
		set(rig, 4, false);
		g_assert_cmpint(take(rig), ==, cases[i].vector);
		eoi(rig);
	}
	g_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/ioapic/registers-keep-what-they-should", test_registers);
	g_test_add_func("/ioapic/edge-asks-once", test_edge);
	g_test_add_func("/ioapic/edge-while-masked-is-lost", test_edge_while_masked_is_lost);
	g_test_add_func("/ioapic/level-asks-until-it-falls", test_level);
	g_test_add_func("/ioapic/level-unmasked-while-high-asks", test_level_unmasked_while_high);
	g_test_add_func("/ioapic/level-masked-in-service-waits", test_level_masked_in_service);
	g_test_add_func("/ioapic/eoi-register-ends-one-vector", test_eoi_register);
	g_test_add_func("/ioapic/edge-mode-clears-remote-irr", test_edge_mode_clears_remote_irr);
	g_test_add_func("/ioapic/pins-share-a-vector", test_shared_vector);
	g_test_add_func("/ioapic/refused-level-stays-pending", test_refused_level_stays_pending);
	g_test_add_func("/ioapic/pin-out-of-range-is-ignored", test_pin_out_of_range);
	g_test_add_func("/ioapic/reset-masks-everything", test_reset);
	g_test_add_func("/ioapic/narrow-access", test_narrow);
	g_test_add_func("/ioapic/destinations", test_destinations);
	return g_test_run();
}
