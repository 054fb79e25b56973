/* ACPI power management: the timer, power-off, SCI, general-purpose events, ACPI enable. */
#include "chip/pm.h"
#include "chip.h"

struct rig {
	struct pm pm;
	struct clock clock;
	struct pins pins;
	unsigned power_offs, suspends;
};

static void on_power_off(void *opaque)
{
	((struct rig *)opaque)->power_offs++;
}

static void on_suspend(void *opaque)
{
	((struct rig *)opaque)->suspends++;
}

static const struct pm_power power = { on_power_off, on_suspend };

static struct rig *rig_new(bool timer_32bit)
{
	struct rig *rig = g_new0(struct rig, 1);
	clock_init_manual(&rig->clock);
	pm_init(&rig->pm, &rig->clock, timer_32bit, pin(&rig->pins, 9), &power, rig);
	return rig;
}

static u64 in(struct rig *rig, u16 port, unsigned size)
{
	return pm_ops.read(&rig->pm, port - PM_BASE, size);
}

static void out(struct rig *rig, u16 port, unsigned size, u64 value)
{
	pm_ops.write(&rig->pm, port - PM_BASE, size, value);
}

static void enable_acpi(struct rig *rig)
{
	out8(&pm_smi_ops, &rig->pm, 0, PM_ACPI_ENABLE);
}

static void test_timer(void)
{
	struct rig *rig = rig_new(true);
	clock_advance(&rig->clock, NS_PER_SEC);
	g_assert_cmpint(in(rig, PM_TIMER, 4), ==, 3579545);
	clock_advance(&rig->clock, 4 * NS_PER_SEC);
	g_assert_cmpint(in(rig, PM_TIMER, 4), ==, 5 * 3579545); /* beyond 24 bits */
	g_assert_cmphex(in(rig, PM_TIMER, 1), ==, (5 * 3579545) & 0xff);
	out(rig, PM_TIMER, 4, 0);
	g_assert_cmpint(in(rig, PM_TIMER, 4), ==, 5 * 3579545);
	g_free(rig);
	rig = rig_new(false);
	clock_advance(&rig->clock, 5 * NS_PER_SEC);
	g_assert_cmpint(in(rig, PM_TIMER, 4), ==, 5 * 3579545 - (1 << 24));
	g_free(rig);
}

static void test_timer_overflow(void)
{
	struct rig *rig = rig_new(false);
	enable_acpi(rig);
	out(rig, PM_PM1_EVT + 2, 2, 1);
	clock_advance(&rig->clock, 2343000000); /* bit 23 changes after 2.3435 s */
	g_assert_false(rig->pins.level[9]);
	g_assert_cmphex(in(rig, PM_PM1_EVT, 2) & 1, ==, 0);
	clock_advance(&rig->clock, 1000000);
	g_assert_true(rig->pins.level[9]);
	g_assert_cmphex(in(rig, PM_PM1_EVT, 2) & 1, ==, 1);
	out(rig, PM_PM1_EVT, 2, 1);
	g_assert_false(rig->pins.level[9]);
	g_assert_cmphex(in(rig, PM_PM1_EVT, 2) & 1, ==, 0);
	clock_advance(&rig->clock, 2344000000);
	g_assert_true(rig->pins.level[9]);
	g_free(rig);
}

static void test_power_off(void)
{
	struct rig *rig = rig_new(true);
	out(rig, PM_PM1_CNT, 2, 5 << 10); /* a type without SLP_EN */
	g_assert_cmpint(rig->power_offs, ==, 0);
	out(rig, PM_PM1_CNT, 2, PM_SLEEP_S5 << 10 | 1 << 13);
	g_assert_cmpint(rig->power_offs, ==, 1);
	g_assert_false(in(rig, PM_PM1_CNT, 2) & 1 << 13);       /* SLP_EN reads 0 */
	out(rig, PM_PM1_CNT + 1, 1, PM_SLEEP_S5 << 2 | 1 << 5); /* by byte */
	g_assert_cmpint(rig->power_offs, ==, 2);
	out(rig, PM_PM1_CNT, 2, 2 << 10 | 1 << 13); /* another sleep state */
	g_assert_cmpint(rig->power_offs, ==, 2);
	g_free(rig);
}

static struct rig *suspended(u16 enable)
{
	struct rig *rig = rig_new(true);
	enable_acpi(rig);
	out(rig, PM_PM1_EVT + 2, 2, enable);
	out(rig, PM_PM1_CNT, 2, PM_SLEEP_S3 << 10 | 1 << 13 | 1);
	g_assert_cmpint(rig->suspends, ==, 1);
	g_assert_cmpint(rig->power_offs, ==, 0);
	return rig;
}

static void test_suspend(void)
{
	struct rig *rig = suspended(0x100);
	g_assert_true(rig->pm.asleep);
	pm_rtc(&rig->pm, true); /* not enabled */
	g_assert_true(rig->pm.asleep);
	g_assert_false(rig->pins.level[9]);
	pm_power_button(&rig->pm);
	g_assert_false(rig->pm.asleep);
	g_assert_cmphex(in(rig, PM_PM1_EVT, 2), ==, 0x8500); /* WAK_STS, RTC_STS, PWRBTN_STS */
	g_assert_cmphex(in(rig, PM_PM1_CNT, 2) & 1, ==, 1);  /* ACPI is on */
	g_assert_true(rig->pins.level[9]);
	g_free(rig);
}

static void test_alarm(void)
{
	struct rig *rig = suspended(0x400);
	pm_rtc(&rig->pm, false);
	g_assert_true(rig->pm.asleep);
	pm_rtc(&rig->pm, true);
	g_assert_false(rig->pm.asleep);
	g_assert_cmphex(in(rig, PM_PM1_EVT, 2), ==, 0x8400);
	out(rig, PM_PM1_EVT, 2, 0x8400);
	pm_rtc(&rig->pm, true); /* the same edge */
	g_assert_cmphex(in(rig, PM_PM1_EVT, 2), ==, 0);
	g_free(rig);
}

static void test_pending_event(void)
{
	struct rig *rig = rig_new(true);
	pm_power_button(&rig->pm);
	out(rig, PM_PM1_EVT + 2, 2, 0x100);
	out(rig, PM_PM1_CNT, 2, PM_SLEEP_S3 << 10 | 1 << 13);
	g_assert_cmpint(rig->suspends, ==, 1);
	g_assert_false(rig->pm.asleep);
	g_assert_cmphex(in(rig, PM_PM1_EVT, 2), ==, 0x8100);
	g_free(rig);
}

static void test_power_button(void)
{
	struct rig *rig = rig_new(true);
	pm_power_button(&rig->pm);
	out(rig, PM_PM1_EVT + 2, 2, 0x100);
	g_assert_false(rig->pins.level[9]); /* ACPI is not enabled yet */
	enable_acpi(rig);
	g_assert_cmphex(in(rig, PM_PM1_CNT, 2) & 1, ==, 1);
	g_assert_true(rig->pins.level[9]);
	out(rig, PM_PM1_EVT, 4, 0x100 | 0x100u << 16); /* clears the status, keeps the enable */
	g_assert_false(rig->pins.level[9]);
	g_assert_cmphex(in(rig, PM_PM1_EVT, 4), ==, 0x100u << 16);
	out8(&pm_smi_ops, &rig->pm, 0, PM_ACPI_DISABLE);
	g_assert_cmphex(in(rig, PM_PM1_CNT, 2) & 1, ==, 0);
	g_free(rig);
}

static void test_gpe(void)
{
	struct rig *rig = rig_new(true);
	enable_acpi(rig);
	pm_gpe(&rig->pm, 17);
	g_assert_false(rig->pins.level[9]);
	out(rig, PM_GPE0 + 8 + 2, 1, 0x02);
	g_assert_true(rig->pins.level[9]);
	g_assert_cmphex(in(rig, PM_GPE0, 4), ==, 1 << 17);
	out(rig, PM_GPE0 + 2, 1, 0x01);
	g_assert_true(rig->pins.level[9]);
	out(rig, PM_GPE0 + 2, 1, 0x02);
	g_assert_false(rig->pins.level[9]);
	g_free(rig);
}

static void test_reset(void)
{
	struct rig *rig = rig_new(true);
	enable_acpi(rig);
	out(rig, PM_PM1_EVT + 2, 2, 0x100);
	pm_power_button(&rig->pm);
	pm_reset(&rig->pm);
	g_assert_false(rig->pins.level[9]);
	g_assert_cmphex(in(rig, PM_PM1_CNT, 2), ==, 0);
	g_assert_cmphex(in(rig, PM_PM1_EVT, 4), ==, 0);
	g_free(rig);
}

static void test_bytes(void)
{
	struct rig *rig = rig_new(true);
	out(rig, PM_PM1_EVT + 2, 1, 0x21);
	out(rig, PM_PM1_EVT + 3, 1, 0x07);
	g_assert_cmphex(in(rig, PM_PM1_EVT + 2, 2), ==, 0x0721);
	out(rig, PM_PM1_CNT, 1, 0x02);
	out(rig, PM_PM1_CNT + 1, 1, 0x14);
	out(rig, PM_PM1_CNT + 2, 2, 0xffff); /* beyond the register */
	g_assert_cmphex(in(rig, PM_PM1_CNT, 4), ==, 0x1402);
	out(rig, PM_BASE + 0x30, 4, 0x12345678);
	g_assert_cmphex(in(rig, PM_BASE + 0x30, 4), ==, 0x12345678);
	rig->pm.smi_status = 0x30;
	out(rig, PM_BASE + 0x34, 4, 0x10);
	g_assert_cmphex(in(rig, PM_BASE + 0x34, 4), ==, 0x20);
	g_free(rig);
}

static void test_enable_twice(void)
{
	struct rig *rig = rig_new(true);
	enable_acpi(rig);
	enable_acpi(rig);
	g_assert_cmphex(in(rig, PM_PM1_CNT, 2) & 1, ==, 1);
	out8(&pm_smi_ops, &rig->pm, 1, 0x77);
	g_assert_cmphex(in8(&pm_smi_ops, &rig->pm, 1), ==, 0x77);
	g_assert_cmphex(in8(&pm_smi_ops, &rig->pm, 0), ==, PM_ACPI_ENABLE);
	g_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pm/timer-runs-at-3.579545-mhz", test_timer);
	g_test_add_func("/pm/timer-overflow-raises-sci", test_timer_overflow);
	g_test_add_func("/pm/s5-with-slp-en-powers-off", test_power_off);
	g_test_add_func("/pm/s3-sleeps-until-an-enabled-event", test_suspend);
	g_test_add_func("/pm/alarm-of-the-rtc-wakes", test_alarm);
	g_test_add_func("/pm/pending-event-wakes-at-once", test_pending_event);
	g_test_add_func("/pm/power-button-raises-sci-under-acpi", test_power_button);
	g_test_add_func("/pm/general-purpose-events", test_gpe);
	g_test_add_func("/pm/reset-is-quiet", test_reset);
	g_test_add_func("/pm/registers-by-byte", test_bytes);
	g_test_add_func("/pm/acpi-enable-twice", test_enable_twice);
	return g_test_run();
}
