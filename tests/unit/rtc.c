/* The real-time clock: time of day, setting it, update, alarm and periodic events, CMOS memory. */
#include "chip/rtc.h"
#include "chip.h"

/* 2024-02-28 23:59:50 UTC, a Wednesday. */
#define START 1709164790ULL

enum { A = 10, B = 11, C = 12, D = 13, CENTURY = 0x32 };
enum { SET = 0x80, PIE = 0x40, AIE = 0x20, UIE = 0x10, BINARY = 4, HOURS24 = 2 };

struct rig {
	struct rtc rtc;
	struct clock clock;
	struct pins pins;
};

static u64 wall(void *opaque)
{
	return START * NS_PER_SEC + clock_now(opaque);
}

static struct rig *rig_new(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	clock_init_manual(&rig->clock);
	rtc_init(&rig->rtc, &rig->clock, wall, &rig->clock, pin(&rig->pins, 8));
	return rig;
}

static u8 in(struct rig *rig, u8 index)
{
	out8(&rtc_ops, &rig->rtc, 0, index);
	return in8(&rtc_ops, &rig->rtc, 1);
}

static void out(struct rig *rig, u8 index, u8 value)
{
	out8(&rtc_ops, &rig->rtc, 0, index);
	out8(&rtc_ops, &rig->rtc, 1, value);
}

static void seconds(struct rig *rig, u64 n)
{
	clock_advance(&rig->clock, n * NS_PER_SEC);
}

/* hh:mm:ss, weekday, YYYY-MM-DD in the registers' own notation. */
static void expect(struct rig *rig, u32 time, u8 weekday, u32 date)
{
	g_assert_cmphex((u32)(in(rig, 4) << 16 | in(rig, 2) << 8 | in(rig, 0)), ==, time);
	g_assert_cmphex(in(rig, 6), ==, weekday);
	g_assert_cmphex((u32)in(rig, CENTURY) << 24 | (u32)(in(rig, 9) << 16 | in(rig, 8) << 8 | in(rig, 7)), ==, date);
}

static void test_time(void)
{
	struct rig *rig = rig_new();
	expect(rig, 0x235950, 4, 0x20240228);
	seconds(rig, 10);
	expect(rig, 0x000000, 5, 0x20240229);
	seconds(rig, 86400);
	expect(rig, 0x000000, 6, 0x20240301);
	seconds(rig, 86400 * 306);
	expect(rig, 0x000000, 4, 0x20250101);
	g_assert_cmphex(in(rig, D), ==, 0x80);
	g_free(rig);
}

static void test_formats(void)
{
	struct rig *rig = rig_new();
	out(rig, B, BINARY | HOURS24);
	expect(rig, 23 << 16 | 59 << 8 | 50, 4, 20u << 24 | 24 << 16 | 2 << 8 | 28);
	out(rig, B, 0);
	g_assert_cmphex(in(rig, 4), ==, 0x91); /* 11 p.m. */
	seconds(rig, 10);
	g_assert_cmphex(in(rig, 4), ==, 0x12); /* 12 a.m. */
	seconds(rig, 12 * 3600);
	g_assert_cmphex(in(rig, 4), ==, 0x92); /* 12 p.m. */
	g_free(rig);
}

static void test_set(void)
{
	struct rig *rig = rig_new();
	out(rig, B, SET | HOURS24);
	seconds(rig, 100);
	g_assert_cmphex(in(rig, 0), ==, 0x50); /* stands still */
	/* In an order that is no date half-way: February 30, 1999. */
	out(rig, 0, 0x59);
	out(rig, 2, 0x59);
	out(rig, 4, 0x23);
	out(rig, 9, 0x99);
	out(rig, CENTURY, 0x19);
	out(rig, 7, 0x31);
	out(rig, 8, 0x12);
	out(rig, B, HOURS24);
	expect(rig, 0x235959, 6, 0x19991231);
	seconds(rig, 1);
	expect(rig, 0x000000, 7, 0x20000101);
	g_free(rig);
}

static void test_divider_reset(void)
{
	struct rig *rig = rig_new();
	clock_advance(&rig->clock, NS_PER_SEC / 4);
	out(rig, A, 0x76);
	seconds(rig, 5);
	g_assert_cmphex(in(rig, 0), ==, 0x50);
	out(rig, A, 0x26);
	clock_advance(&rig->clock, NS_PER_SEC / 2 - 1);
	g_assert_cmphex(in(rig, 0), ==, 0x50);
	clock_advance(&rig->clock, 1); /* half a second after release */
	g_assert_cmphex(in(rig, 0), ==, 0x51);
	g_free(rig);
}

static void test_update_in_progress(void)
{
	struct rig *rig = rig_new();
	g_assert_false(in(rig, A) & 0x80);
	clock_advance(&rig->clock, NS_PER_SEC - 245000);
	g_assert_false(in(rig, A) & 0x80);
	clock_advance(&rig->clock, 2000);
	g_assert_true(in(rig, A) & 0x80);
	g_assert_cmphex(in(rig, 0), ==, 0x50);
	clock_advance(&rig->clock, 243000);
	g_assert_false(in(rig, A) & 0x80);
	g_assert_cmphex(in(rig, 0), ==, 0x51);
	g_free(rig);
}

static void test_update_interrupt(void)
{
	struct rig *rig = rig_new();
	clock_advance(&rig->clock, 300000000);
	out(rig, B, UIE | HOURS24);
	clock_advance(&rig->clock, 699999999);
	g_assert_false(rig->pins.level[8]);
	clock_advance(&rig->clock, 1);
	g_assert_true(rig->pins.level[8]);
	g_assert_cmphex(in(rig, C) & 0xb0, ==, 0x90);
	g_assert_false(rig->pins.level[8]); /* reading clears */
	g_assert_cmphex(in(rig, C), ==, 0);
	seconds(rig, 1);
	g_assert_cmpint(rig->pins.rises[8], ==, 2);
	g_free(rig);
}

static void test_update_flag_without_interrupt(void)
{
	struct rig *rig = rig_new();
	in(rig, C);
	g_assert_cmphex(in(rig, C) & 0x10, ==, 0);
	seconds(rig, 1);
	g_assert_cmphex(in(rig, C) & 0x90, ==, 0x10); /* UF, no IRQF */
	g_assert_cmpint(rig->pins.rises[8], ==, 0);
	g_free(rig);
}

static void test_alarm(void)
{
	struct rig *rig = rig_new();
	out(rig, 5, 0x00);
	out(rig, 3, 0x01);
	out(rig, 1, 0x30);
	out(rig, B, AIE | HOURS24);
	seconds(rig, 10 + 89);
	g_assert_false(rig->pins.level[8]);
	seconds(rig, 1);
	g_assert_true(rig->pins.level[8]);
	g_assert_cmphex(in(rig, C) & 0xa0, ==, 0xa0);
	seconds(rig, 86400 - 1);
	g_assert_false(rig->pins.level[8]);
	seconds(rig, 1); /* again the next day */
	g_assert_true(rig->pins.level[8]);
	g_free(rig);
}

static void test_alarm_wildcard(void)
{
	struct rig *rig = rig_new();
	out(rig, 5, 0xff);
	out(rig, 3, 0xc0);
	out(rig, 1, 0x05); /* every minute */
	out(rig, B, AIE | HOURS24);
	unsigned alarms = 0;
	for (unsigned i = 0; i < 300; i++) {
		seconds(rig, 1);
		alarms += rig->pins.level[8];
		in(rig, C);
	}
	g_assert_cmpint(alarms, ==, 5);
	g_free(rig);
}

static void test_periodic(void)
{
	struct rig *rig = rig_new();
	static const struct {
		u8 rate;
		unsigned hz;
	} cases[] = { { 15, 2 }, { 10, 64 }, { 6, 1024 }, { 3, 8192 }, { 2, 128 }, { 1, 256 } };
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		out(rig, A, 0x20 | cases[i].rate);
		out(rig, B, PIE | HOURS24);
		in(rig, C);
		unsigned ticks = 0;
		for (unsigned t = 0; t < 40000; t++) {
			clock_advance(&rig->clock, 25000);
			if (rig->pins.level[8] && (in(rig, C) & 0x40))
				ticks++;
		}
		g_assert_cmpint(ticks, >=, cases[i].hz - 1);
		g_assert_cmpint(ticks, <=, cases[i].hz + 1);
	}
	out(rig, A, 0x20);
	in(rig, C);
	seconds(rig, 10);
	g_assert_false(in(rig, C) & 0x40);
	g_free(rig);
}

static void test_memory(void)
{
	struct rig *rig = rig_new();
	rtc_set_memory(&rig->rtc, 0x80000000, 0x140000000, 4);
	g_assert_cmphex(in(rig, 0x15) | in(rig, 0x16) << 8, ==, 640);
	g_assert_cmphex(in(rig, 0x30) | in(rig, 0x31) << 8, ==, 0xffff);
	g_assert_cmphex(in(rig, 0x34) | in(rig, 0x35) << 8, ==, (0x80000000 - 0x1000000) / 0x10000);
	g_assert_cmphex(in(rig, 0x5b) | in(rig, 0x5c) << 8 | in(rig, 0x5d) << 16, ==, 0x140000000 / 0x10000);
	g_assert_cmphex(in(rig, 0x5f), ==, 3);
	rtc_set_memory(&rig->rtc, 8 << 20, 0, 1);
	g_assert_cmphex(in(rig, 0x17) | in(rig, 0x18) << 8, ==, 7 * 1024);
	g_assert_cmphex(in(rig, 0x34) | in(rig, 0x35) << 8, ==, 0);
	g_free(rig);
}

static void test_nvram(void)
{
	struct rig *rig = rig_new();
	out(rig, 0x80 | 0x40, 0xa5); /* bit 7 of the index is the NMI mask */
	g_assert_cmphex(in(rig, 0x40), ==, 0xa5);
	out8(&rtc_ops, &rig->rtc, 2, 0x40);
	out8(&rtc_ops, &rig->rtc, 3, 0x5a);
	g_assert_cmphex(in8(&rtc_ops, &rig->rtc, 3), ==, 0x5a);
	g_assert_cmphex(in(rig, 0x40), ==, 0xa5);
	out(rig, B, HOURS24 | UIE);
	rtc_reset(&rig->rtc);
	g_assert_cmphex(in(rig, 0x40), ==, 0xa5);
	g_assert_cmphex(in(rig, B), ==, HOURS24);
	g_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/rtc/shows-wall-clock-and-calendar", test_time);
	g_test_add_func("/rtc/binary-and-12-hour-formats", test_formats);
	g_test_add_func("/rtc/set-stops-and-sets-the-clock", test_set);
	g_test_add_func("/rtc/divider-release-updates-after-half-a-second", test_divider_reset);
	g_test_add_func("/rtc/update-in-progress-warns-before-the-second", test_update_in_progress);
	g_test_add_func("/rtc/update-interrupt-each-second", test_update_interrupt);
	g_test_add_func("/rtc/update-flag-without-interrupt", test_update_flag_without_interrupt);
	g_test_add_func("/rtc/alarm-once-a-day", test_alarm);
	g_test_add_func("/rtc/alarm-with-wildcards", test_alarm_wildcard);
	g_test_add_func("/rtc/periodic-rates", test_periodic);
	g_test_add_func("/rtc/memory-size-bytes", test_memory);
	g_test_add_func("/rtc/memory-survives-reset", test_nvram);
	return g_test_run();
}
