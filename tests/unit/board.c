/* The board's wiring: which line reaches which pin, what answers where, and what is left to an engine with its own
 * chips. */
#include "vm/board.h"

#include <glib.h>
#include <string.h>

static struct board *board;
static unsigned irq_calls, last_gsi;
static bool last_level;
static unsigned resets, suspends, power_offs;
static int exit_status;

static void on_irq(struct engine *engine, unsigned gsi, bool level)
{
	irq_calls++;
	last_gsi = gsi;
	last_level = level;
}

static void on_power_off(void *opaque)
{
	power_offs++;
}

static void on_reset(void *opaque)
{
	resets++;
}

static void on_suspend(void *opaque)
{
	suspends++;
}

static void on_debug_exit(void *opaque, int status)
{
	exit_status = status;
}

static size_t on_output(void *opaque, const u8 *bytes, size_t n)
{
	return n;
}

static void on_room(void *opaque)
{
}

static const struct board_ops ops = { on_power_off, on_reset, on_suspend, on_debug_exit, on_output, on_room };
static const struct engine_ops soft = { .name = "soft" };
static const struct engine_ops kernel_chips = { .name = "kernel", .has_irqchip = true, .irq = on_irq };

static void set_up(const struct engine_ops *engine, int debug_exit_port)
{
	struct vm_config config = {
		.engine = engine, .memory = 4 << 20, .cpus = 1, .debug_exit_port = debug_exit_port, .test_devices = true
	};
	struct vm_error error;
	board = g_new0(struct board, 1);
	if (!board_init(board, &config, &ops, NULL, &error))
		g_error("board_init: %s", error.text);
	board_reset(board);
	irq_calls = resets = suspends = power_offs = 0;
}

static void tear_down(void)
{
	board_destroy(board);
	g_free(board);
}

static void out(u16 port, unsigned size, u32 value)
{
	bus_write_pio(&board->bus, port, size, value);
}

static u32 in(u16 port, unsigned size)
{
	return bus_read_pio(&board->bus, port, size);
}

/* Drives an interrupt line through the test device, and sees both controllers' inputs. */
static void lines_reach_their_pins(void)
{
	set_up(&soft, -1);
	for (unsigned gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		out((u16)(TESTDEV_IRQ + gsi), 1, 1);
		g_assert_cmphex(board->ioapic.level, ==, 1u << gsi);
		unsigned irq = gsi == 2 ? 0 : gsi;
		if (irq < 16 && gsi != 0)
			g_assert_cmphex(board->pic.chip[irq >> 3].line & 1 << (irq & 7), !=, 0);
		out((u16)(TESTDEV_IRQ + gsi), 1, 0);
		g_assert_cmphex(board->ioapic.level, ==, 0);
	}
	tear_down();
}

/* PIT channel 0 idles high in mode 2: IRQ 0 of the PIC, pin 2 of the I/O APIC, never pin 0. */
static void timer_is_isa_0_and_pin_2(void)
{
	set_up(&soft, -1);
	out(0x43, 1, 0x34);
	out(0x40, 1, 0);
	out(0x40, 1, 0);
	g_assert_cmphex(board->ioapic.level, ==, 1u << 2);
	g_assert_cmphex(board->pic.chip[0].line & 7, ==, 1);
	tear_down();
}

static void com1_is_irq_4(void)
{
	set_up(&soft, -1);
	out(COM1_BASE + 4, 1, 0x08); /* OUT2 gates the interrupt */
	out(COM1_BASE + 1, 1, 0x02); /* transmitter empty, as it is */
	g_assert_cmphex(board->ioapic.level, ==, 1u << 4);
	tear_down();
}

static void sci_is_irq_9(void)
{
	set_up(&soft, -1);
	out(PM_PM1_CNT, 2, 1); /* SCI_EN */
	out(PM_PM1_EVT + 2, 2, 1 << 8);
	bus_lock(&board->bus);
	pm_power_button(&board->pm);
	bus_unlock(&board->bus);
	g_assert_cmphex(board->ioapic.level, ==, 1u << 9);
	tear_down();
}

static void an_engine_with_chips_gets_the_lines(void)
{
	set_up(&kernel_chips, -1);
	board->engine = (struct engine *)&irq_calls; /* any pointer: only handed on */
	out(COM1_BASE + 4, 1, 0x08);
	out(COM1_BASE + 1, 1, 0x02);
	g_assert_cmpuint(irq_calls, ==, 1);
	g_assert_cmpuint(last_gsi, ==, 4);
	g_assert_true(last_level);
	/* And has the chips' ports and pages to itself. */
	g_assert_cmphex(in(0x21, 1), ==, 0xff);
	g_assert_cmphex(in(0x40, 1), ==, 0xff);
	g_assert_cmphex(bus_read_mmio(&board->bus, LAPIC_DEFAULT_BASE + 0x30, 4), ==, 0xffffffff);
	g_assert_cmphex(bus_read_mmio(&board->bus, IOAPIC_DEFAULT_BASE, 4), ==, 0xffffffff);
	/* Nobody has an HPET. */
	g_assert_cmphex(bus_read_mmio(&board->bus, HPET_DEFAULT_BASE, 4), ==, 0xffffffff);
	tear_down();
}

/* A suspend silences COM1, which loses its power, and not the power button. */
static void resumed_engine_learns_which_lines_are_up(void)
{
	set_up(&kernel_chips, -1);
	board->engine = (struct engine *)&irq_calls;
	out(PM_SMI_CMD, 1, PM_ACPI_ENABLE);
	out(PM_PM1_EVT + 2, 2, 0x100);
	out(COM1_BASE + 4, 1, 0x08);
	out(COM1_BASE + 1, 1, 0x02);
	out(PM_PM1_CNT, 2, PM_SLEEP_S3 << 10 | 1 << 13);
	g_assert_cmpuint(suspends, ==, 1);
	board_suspend(board);
	g_assert_true(board->pm.asleep);
	pm_power_button(&board->pm);
	g_assert_false(board->pm.asleep);
	irq_calls = 0;
	board_resume(board);
	g_assert_cmpuint(irq_calls, ==, 1);
	g_assert_cmpuint(last_gsi, ==, GSI_SCI);
	g_assert_true(last_level);
	tear_down();
}

static void chips_answer_where_the_tables_say(void)
{
	set_up(&soft, -1);
	g_assert_cmphex(bus_read_mmio(&board->bus, LAPIC_DEFAULT_BASE + 0x30, 4) & 0xff, ==, 0x14);
	bus_write_mmio(&board->bus, IOAPIC_DEFAULT_BASE, 4, 1);
	g_assert_cmphex(bus_read_mmio(&board->bus, IOAPIC_DEFAULT_BASE + 0x10, 4), ==, 0x170020);
	g_assert_cmphex(bus_read_mmio(&board->bus, HPET_DEFAULT_BASE, 4), ==, HPET_ID);
	g_assert_cmphex(bus_read_mmio(&board->bus, MEM_ECAM_BASE, 4), ==, 0x29c08086);
	g_assert_cmphex(bus_read_mmio(&board->bus, MEM_ECAM_BASE + (0x1f << 15), 4), ==, 0x29188086);
	out(0xcf8, 4, 0x80000000);
	g_assert_cmphex(in(0xcfc, 4), ==, 0x29c08086);
	out(FW_CFG_PORT, 2, FW_CFG_NB_CPUS);
	g_assert_cmphex(in(FW_CFG_PORT + 1, 1), ==, 1);
	tear_down();
}

static void local_apic_page_follows_its_base(void)
{
	const u64 elsewhere = 0xfef00000;
	set_up(&soft, -1);
	bus_lock(&board->bus);
	g_assert_true(lapic_msr_write(&board->lapic[0], 0x1b, elsewhere | 0x900));
	bus_unlock(&board->bus);
	g_assert_cmphex(bus_read_mmio(&board->bus, elsewhere + 0x30, 4) & 0xff, ==, 0x14);
	g_assert_cmphex(bus_read_mmio(&board->bus, LAPIC_DEFAULT_BASE + 0x30, 4), ==, 0xffffffff);
	/* Switched off, and on again at the first place. */
	bus_lock(&board->bus);
	g_assert_true(lapic_msr_write(&board->lapic[0], 0x1b, elsewhere | 0x100));
	bus_unlock(&board->bus);
	g_assert_cmphex(bus_read_mmio(&board->bus, elsewhere + 0x30, 4), ==, 0xffffffff);
	bus_lock(&board->bus);
	g_assert_true(lapic_msr_write(&board->lapic[0], 0x1b, LAPIC_DEFAULT_BASE | 0x900));
	bus_unlock(&board->bus);
	g_assert_cmphex(bus_read_mmio(&board->bus, LAPIC_DEFAULT_BASE + 0x30, 4) & 0xff, ==, 0x14);
	tear_down();
}

static void every_way_to_reset_and_power_off_is_heard(void)
{
	set_up(&soft, 0xf4);
	out(0x64, 1, 0xfe);
	g_assert_cmpuint(resets, ==, 1);
	out(0x92, 1, 1);
	g_assert_cmpuint(resets, ==, 2);
	out(0xcf9, 1, 0x02);
	out(0xcf9, 1, 0x06);
	g_assert_cmpuint(resets, ==, 3);
	out(PM_PM1_CNT, 2, PM_SLEEP_S5 << 10 | 1 << 13);
	g_assert_cmpuint(power_offs, ==, 1);
	out(0xf4, 1, 0x21);
	g_assert_cmpint(exit_status, ==, 0x43);
	tear_down();
}

static void reset_silences_every_line(void)
{
	set_up(&soft, -1);
	out(COM1_BASE + 4, 1, 0x08);
	out(COM1_BASE + 1, 1, 0x02);
	for (unsigned gsi = 5; gsi < IOAPIC_PINS; gsi++)
		if (gsi != GSI_RTC && gsi != GSI_SCI)
			out((u16)(TESTDEV_IRQ + gsi), 1, 1);
	g_assert_cmphex(board->ioapic.level, !=, 0);
	bus_lock(&board->bus);
	board_reset(board);
	bus_unlock(&board->bus);
	/* What may be up is the timer, whose output idles high in some modes. */
	g_assert_cmphex(board->ioapic.level & ~(1u << GSI_TIMER), ==, 0);
	g_assert_false(lapic_interrupt_pending(&board->lapic[0]));
	tear_down();
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/board/lines-reach-their-pins", lines_reach_their_pins);
	g_test_add_func("/board/timer-is-isa-0-and-pin-2", timer_is_isa_0_and_pin_2);
	g_test_add_func("/board/com1-is-irq-4", com1_is_irq_4);
	g_test_add_func("/board/sci-is-irq-9", sci_is_irq_9);
	g_test_add_func("/board/an-engine-with-chips-gets-the-lines", an_engine_with_chips_gets_the_lines);
	g_test_add_func("/board/resumed-engine-learns-which-lines-are-up", resumed_engine_learns_which_lines_are_up);
	g_test_add_func("/board/chips-answer-where-the-tables-say", chips_answer_where_the_tables_say);
	g_test_add_func("/board/local-apic-page-follows-its-base", local_apic_page_follows_its_base);
	g_test_add_func("/board/every-way-to-reset-and-power-off-is-heard", every_way_to_reset_and_power_off_is_heard);
	g_test_add_func("/board/reset-silences-every-line", reset_silences_every_line);
	return g_test_run();
}
