/* The 8254: modes, reading, latching, read-back, BCD, the gate of channel 2, channel 0's interrupt. */
#include "chip/pit.h"
#include "chip.h"

struct rig {
	struct pit pit;
	struct clock clock;
	struct pins pins;
};

static struct rig *rig_new(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	clock_init_manual(&rig->clock);
	pit_init(&rig->pit, &rig->clock, pin(&rig->pins, 0));
	return rig;
}

static u8 in(struct rig *rig, u16 port)
{
	return port == 0x61 ? in8(&pit_port61_ops, &rig->pit, 0) : in8(&pit_ops, &rig->pit, port - 0x40);
}

static void out(struct rig *rig, u16 port, u8 value)
{
	if (port == 0x61)
		out8(&pit_port61_ops, &rig->pit, 0, value);
	else
		out8(&pit_ops, &rig->pit, port - 0x40, value);
}

/* To the middle of the n-th tick from the clock's start, so that rounding is nobody's concern. */
static void to_tick(struct rig *rig, u64 tick)
{
	clock_advance_to(&rig->clock, mul_div(2 * tick + 1, NS_PER_SEC, 2 * PIT_HZ));
}

/* Loads a count at tick 0.5; the counting element takes it at tick 1. */
static void start(struct rig *rig, unsigned channel, unsigned mode, u16 count)
{
	to_tick(rig, 0);
	out(rig, 0x43, (u8)(channel << 6 | 0x30 | mode << 1));
	out(rig, 0x40 + channel, (u8)count);
	out(rig, 0x40 + channel, (u8)(count >> 8));
}

static u16 value(struct rig *rig, unsigned channel)
{
	out(rig, 0x43, (u8)(channel << 6));
	u8 low = in(rig, 0x40 + channel);
	return (u16)(in(rig, 0x40 + channel) << 8 | low);
}

static void test_mode0(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 0, 1000);
	g_assert_false(pit_out(&rig->pit, 0));
	to_tick(rig, 1);
	g_assert_cmpint(value(rig, 0), ==, 1000);
	to_tick(rig, 1000);
	g_assert_cmpint(value(rig, 0), ==, 1);
	g_assert_false(rig->pins.level[0]);
	to_tick(rig, 1001);
	g_assert_true(rig->pins.level[0]);
	g_assert_cmpint(rig->pins.rises[0], ==, 1);
	/* It counts on, through 0, and stays high. */
	g_assert_cmpint(value(rig, 0), ==, 0);
	to_tick(rig, 1002);
	g_assert_cmpint(value(rig, 0), ==, 0xffff);
	to_tick(rig, 200000);
	g_assert_cmpint(rig->pins.rises[0], ==, 1);
	g_assert_true(pit_out(&rig->pit, 0));
	g_free(rig);
}

static void test_mode0_new_count(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 0, 100);
	to_tick(rig, 50);
	out(rig, 0x40, 0xe8);
	to_tick(rig, 500); /* half a count: stopped */
	g_assert_false(pit_out(&rig->pit, 0));
	out(rig, 0x40, 0x03);
	to_tick(rig, 500 + 1000);
	g_assert_false(pit_out(&rig->pit, 0));
	to_tick(rig, 500 + 1001);
	g_assert_true(rig->pins.level[0]);
	g_free(rig);
}

static void test_mode2(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 2, 100);
	g_assert_true(pit_out(&rig->pit, 0));
	unsigned before = rig->pins.rises[0];
	to_tick(rig, 100); /* value 1: low for this tick */
	g_assert_cmpint(value(rig, 0), ==, 1);
	g_assert_false(pit_out(&rig->pit, 0));
	to_tick(rig, 101);
	g_assert_cmpint(value(rig, 0), ==, 100);
	g_assert_true(pit_out(&rig->pit, 0));
	g_assert_cmpint(rig->pins.rises[0] - before, ==, 1);
	to_tick(rig, 1001);
	g_assert_cmpint(rig->pins.rises[0] - before, ==, 10);
	g_free(rig);
}

static void test_mode2_new_count(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 2, 100);
	to_tick(rig, 31);
	out(rig, 0x40, 200);
	out(rig, 0x40, 0);
	to_tick(rig, 51);
	g_assert_cmpint(value(rig, 0), ==, 50); /* the old period goes on */
	to_tick(rig, 101);
	g_assert_cmpint(value(rig, 0), ==, 200);
	to_tick(rig, 301);
	g_assert_cmpint(value(rig, 0), ==, 200);
	g_free(rig);
}

static void test_mode3(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 3, 100);
	g_assert_true(pit_out(&rig->pit, 0));
	to_tick(rig, 1);
	g_assert_cmpint(value(rig, 0), ==, 100);
	to_tick(rig, 11);
	g_assert_cmpint(value(rig, 0), ==, 80);
	to_tick(rig, 50);
	g_assert_true(rig->pins.level[0]);
	to_tick(rig, 51);
	g_assert_false(rig->pins.level[0]);
	g_assert_cmpint(value(rig, 0), ==, 100);
	to_tick(rig, 100);
	g_assert_false(rig->pins.level[0]);
	to_tick(rig, 101);
	g_assert_true(rig->pins.level[0]);
	g_free(rig);
}

static void test_mode3_odd(void)
{
	struct rig *rig = rig_new();
	unsigned high = 0;
	start(rig, 2, 3, 7);
	out(rig, 0x61, 1);
	to_tick(rig, 5);
	for (u64 tick = 8; tick < 8 + 7; tick++) {
		to_tick(rig, tick);
		high += pit_out(&rig->pit, 2);
	}
	g_assert_cmpint(high, ==, 4); /* (N + 1) / 2 of them */
	g_free(rig);
}

static void test_mode4(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 4, 50);
	unsigned before = rig->pins.rises[0];
	to_tick(rig, 50);
	g_assert_true(pit_out(&rig->pit, 0));
	to_tick(rig, 51);
	g_assert_false(pit_out(&rig->pit, 0));
	to_tick(rig, 52);
	g_assert_true(pit_out(&rig->pit, 0));
	g_assert_true(rig->pins.level[0]);
	to_tick(rig, 100000);
	g_assert_cmpint(rig->pins.rises[0] - before, ==, 1);
	g_free(rig);
}

static void test_mode1(void)
{
	struct rig *rig = rig_new();
	start(rig, 2, 1, 100);
	to_tick(rig, 500);
	g_assert_true(pit_out(&rig->pit, 2)); /* waits for the gate */
	out(rig, 0x61, 1);
	to_tick(rig, 501);
	g_assert_false(pit_out(&rig->pit, 2));
	to_tick(rig, 550);
	out(rig, 0x61, 0);
	out(rig, 0x61, 1); /* retriggered */
	to_tick(rig, 650);
	g_assert_false(pit_out(&rig->pit, 2));
	to_tick(rig, 651);
	g_assert_true(pit_out(&rig->pit, 2));
	g_free(rig);
}

static void test_mode5(void)
{
	struct rig *rig = rig_new();
	start(rig, 2, 5, 10);
	to_tick(rig, 100);
	g_assert_true(pit_out(&rig->pit, 2));
	out(rig, 0x61, 1);
	to_tick(rig, 110);
	g_assert_true(pit_out(&rig->pit, 2));
	to_tick(rig, 111);
	g_assert_false(pit_out(&rig->pit, 2));
	to_tick(rig, 112);
	g_assert_true(pit_out(&rig->pit, 2));
	g_free(rig);
}

static void test_gate_pauses(void)
{
	struct rig *rig = rig_new();
	out(rig, 0x61, 1);
	start(rig, 2, 0, 1000);
	to_tick(rig, 101);
	out(rig, 0x61, 0);
	g_assert_cmpint(value(rig, 2), ==, 900);
	to_tick(rig, 50000);
	g_assert_cmpint(value(rig, 2), ==, 900);
	out(rig, 0x61, 1);
	to_tick(rig, 50000 + 899);
	g_assert_false(in(rig, 0x61) & 0x20);
	to_tick(rig, 50000 + 900);
	g_assert_true(in(rig, 0x61) & 0x20);
	g_free(rig);
}

static void test_gate_reloads(void)
{
	struct rig *rig = rig_new();
	out(rig, 0x61, 1);
	start(rig, 2, 2, 1000);
	to_tick(rig, 301);
	out(rig, 0x61, 0);
	g_assert_true(pit_out(&rig->pit, 2));
	to_tick(rig, 5000);
	out(rig, 0x61, 1);
	to_tick(rig, 5001);
	g_assert_cmpint(value(rig, 2), ==, 1000);
	g_free(rig);
}

static void test_zero_is_65536(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 2, 0);
	to_tick(rig, 2);
	g_assert_cmpint(value(rig, 0), ==, 0xffff);
	unsigned before = rig->pins.rises[0];
	to_tick(rig, 65536);
	g_assert_cmpint(rig->pins.rises[0] - before, ==, 0);
	to_tick(rig, 65537);
	g_assert_cmpint(rig->pins.rises[0] - before, ==, 1);
	g_free(rig);
}

static void test_bcd(void)
{
	struct rig *rig = rig_new();
	to_tick(rig, 0);
	out(rig, 0x43, 0x31); /* channel 0, mode 0, BCD */
	out(rig, 0x40, 0x34);
	out(rig, 0x40, 0x12);
	to_tick(rig, 1 + 35);
	g_assert_cmphex(value(rig, 0), ==, 0x1199);
	to_tick(rig, 1 + 1234);
	g_assert_true(pit_out(&rig->pit, 0));
	to_tick(rig, 2 + 1234);
	g_assert_cmphex(value(rig, 0), ==, 0x9999);
	g_free(rig);
}

static void test_latch_holds(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 2, 1000);
	to_tick(rig, 101);
	out(rig, 0x43, 0x00);
	to_tick(rig, 201);
	out(rig, 0x43, 0x00); /* ignored: the first latch was not read */
	to_tick(rig, 301);
	u8 low = in(rig, 0x40);
	g_assert_cmpint(in(rig, 0x40) << 8 | low, ==, 900);
	low = in(rig, 0x40); /* from the counter itself again */
	g_assert_cmpint(in(rig, 0x40) << 8 | low, ==, 700);
	g_free(rig);
}

static void test_byte_access(void)
{
	struct rig *rig = rig_new();
	to_tick(rig, 0);
	out(rig, 0x43, 0x14); /* channel 0, low byte, mode 2 */
	out(rig, 0x40, 200);
	to_tick(rig, 101);
	g_assert_cmpint(in(rig, 0x40), ==, 100);
	g_assert_cmpint(in(rig, 0x40), ==, 100);
	out(rig, 0x43, 0x64); /* channel 1, high byte */
	out(rig, 0x41, 2);
	to_tick(rig, 102 + 256);
	g_assert_cmpint(in(rig, 0x41), ==, 1);
	g_free(rig);
}

static void test_read_back(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 3, 1000);
	to_tick(rig, 101);
	out(rig, 0x43, 0xc2); /* count and status of channel 0 */
	to_tick(rig, 900);
	g_assert_cmphex(in(rig, 0x40), ==, 0x80 | 0x36); /* OUT, then the control word */
	u8 low = in(rig, 0x40);
	g_assert_cmpint(in(rig, 0x40) << 8 | low, ==, 800);
	out(rig, 0x43, 0xe2); /* status only */
	g_assert_cmphex(in(rig, 0x40), ==, 0x36);
	g_free(rig);
}

static void test_null_count(void)
{
	struct rig *rig = rig_new();
	to_tick(rig, 0);
	out(rig, 0x43, 0x34);
	out(rig, 0x43, 0xe2);
	g_assert_true(in(rig, 0x40) & 0x40); /* no count yet */
	out(rig, 0x40, 100);
	out(rig, 0x40, 0);
	to_tick(rig, 2);
	out(rig, 0x43, 0xe2);
	g_assert_false(in(rig, 0x40) & 0x40);
	out(rig, 0x40, 50);
	out(rig, 0x40, 0);
	out(rig, 0x43, 0xe2);
	g_assert_true(in(rig, 0x40) & 0x40); /* waits for the period's end */
	to_tick(rig, 101);
	out(rig, 0x43, 0xe2);
	g_assert_false(in(rig, 0x40) & 0x40);
	g_free(rig);
}

static void test_port61(void)
{
	struct rig *rig = rig_new();
	out(rig, 0x61, 0xff);
	g_assert_cmphex(in(rig, 0x61) & 0x0f, ==, 0x0f);
	out(rig, 0x61, 0);
	unsigned toggles = 0;
	u8 last = in(rig, 0x61) & 0x10;
	for (unsigned i = 0; i < 1000; i++) {
		clock_advance(&rig->clock, 1000);
		u8 now = in(rig, 0x61) & 0x10;
		toggles += now != last;
		last = now;
	}
	g_assert_cmpint(toggles, >=, 60); /* a millisecond of 15 us each */
	g_assert_cmpint(toggles, <=, 70);
	g_free(rig);
}

/* A guest that asks for an interrupt every two ticks gets some, but cannot keep the host busy. */
static void test_shortest_period(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 2, 2);
	unsigned before = rig->pins.rises[0];
	clock_advance(&rig->clock, 10000000);
	g_assert_cmpint(rig->pins.rises[0] - before, >, 300);
	g_assert_cmpint(rig->pins.rises[0] - before, <=, 1000);
	g_free(rig);
}

static void test_read_back_channels(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 2, 100);
	start(rig, 1, 3, 200);
	start(rig, 2, 0, 300);
	to_tick(rig, 11);
	out(rig, 0x43, 0xdc); /* counts of 1 and 2 */
	to_tick(rig, 21);
	g_assert_cmpint(in(rig, 0x40), ==, 80); /* live */
	g_assert_cmpint(in(rig, 0x41), ==, 180);
	out(rig, 0x43, 0xe0 | 0x08); /* status of 2: gate low, still at 300 */
	g_assert_cmphex(in(rig, 0x42) & 0x3f, ==, 0x30);
	g_free(rig);
}

static void test_count_while_paused(void)
{
	struct rig *rig = rig_new();
	out(rig, 0x61, 1);
	start(rig, 2, 0, 1000);
	to_tick(rig, 101);
	out(rig, 0x61, 0);
	out(rig, 0x42, 0x2c);
	out(rig, 0x42, 0x01); /* 300 */
	to_tick(rig, 1000);
	g_assert_cmpint(value(rig, 2), ==, 300);
	out(rig, 0x61, 1);
	to_tick(rig, 1100);
	g_assert_cmpint(value(rig, 2), ==, 200);
	g_free(rig);
}

static void test_two_counts_in_a_period(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 2, 100);
	to_tick(rig, 11);
	out(rig, 0x40, 50);
	out(rig, 0x40, 0);
	to_tick(rig, 121); /* in the first period of 50 */
	out(rig, 0x40, 30);
	out(rig, 0x40, 0);
	to_tick(rig, 150);
	g_assert_cmpint(value(rig, 0), ==, 1);
	to_tick(rig, 151);
	g_assert_cmpint(value(rig, 0), ==, 30);
	g_free(rig);
}

static void test_control_stops(void)
{
	struct rig *rig = rig_new();
	start(rig, 0, 2, 100);
	to_tick(rig, 50);
	out(rig, 0x43, 0x30);
	g_assert_false(rig->pins.level[0]); /* mode 0 begins low */
	to_tick(rig, 5000);
	g_assert_false(rig->pins.level[0]);
	g_assert_cmphex(in8(&pit_ops, &rig->pit, 3), ==, 0xff); /* cannot be read */
	pit_reset(&rig->pit);
	to_tick(rig, 100000);
	g_assert_false(rig->pins.level[0]);
	g_free(rig);
}

/* Ticks of a millisecond, and five that come while nobody looks. */
static void test_missed(gconstpointer mode)
{
	struct rig *rig = rig_new();
	const u64 millisecond = 1000000;
	start(rig, 0, GPOINTER_TO_UINT(mode), 1193);
	int first = (int)rig->pins.rises[0]; /* with the mode alone OUT becomes high */
	clock_advance(&rig->clock, millisecond / 2);
	rig->clock.base += 5 * millisecond;
	clock_advance(&rig->clock, 1);
	g_assert_cmpint(rig->pins.rises[0], ==, first + 1);
	clock_advance(&rig->clock, millisecond / 7);
	g_assert_cmpint(rig->pins.rises[0], ==, first + 2); /* one by one, or the guest would see one only */
	/* Neither a look at the count nor another channel's programming loses any. */
	value(rig, 0);
	out(rig, 0x43, 0xb6);
	clock_advance(&rig->clock, 3 * millisecond / 7);
	g_assert_cmpint(rig->pins.rises[0], ==, first + 5);
	clock_advance(&rig->clock, 5 * millisecond);
	g_assert_cmpint(rig->pins.rises[0], ==, first + 11);
	/* A guest that slept for long is not flooded. */
	rig->clock.base += 10000 * millisecond;
	clock_advance(&rig->clock, 20 * millisecond);
	g_assert_cmpint(rig->pins.rises[0], >, first + 11 + 21);
	g_assert_cmpint(rig->pins.rises[0], <=, first + 11 + 21 + 64);
	/* Nor after it programmed the channel anew. */
	rig->clock.base += 10 * millisecond;
	start(rig, 0, GPOINTER_TO_UINT(mode), 1193);
	int rises = (int)rig->pins.rises[0];
	clock_advance(&rig->clock, 5 * millisecond);
	g_assert_cmpint(rig->pins.rises[0], <=, rises + 5);
	g_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pit/mode0-rises-at-terminal-count", test_mode0);
	g_test_add_func("/pit/mode0-stops-at-first-byte-of-new-count", test_mode0_new_count);
	g_test_add_func("/pit/mode1-is-retriggered-by-gate", test_mode1);
	g_test_add_func("/pit/mode2-reloads-after-terminal-count", test_mode2);
	g_test_add_func("/pit/mode2-takes-new-count-at-period-end", test_mode2_new_count);
	g_test_add_func("/pit/mode3-is-square", test_mode3);
	g_test_add_func("/pit/mode3-odd-count-is-longer-high", test_mode3_odd);
	g_test_add_func("/pit/mode4-strobes-once", test_mode4);
	g_test_add_func("/pit/mode5-strobes-after-gate", test_mode5);
	g_test_add_func("/pit/gate-pauses-mode0", test_gate_pauses);
	g_test_add_func("/pit/gate-reloads-mode2", test_gate_reloads);
	g_test_add_func("/pit/count-0-is-65536", test_zero_is_65536);
	g_test_add_func("/pit/bcd-counts-decimally", test_bcd);
	g_test_add_func("/pit/latch-holds-until-read", test_latch_holds);
	g_test_add_func("/pit/single-byte-access", test_byte_access);
	g_test_add_func("/pit/read-back-gives-status-then-count", test_read_back);
	g_test_add_func("/pit/null-count-until-loaded", test_null_count);
	g_test_add_func("/pit/port61-reads-back-and-refreshes", test_port61);
	g_test_add_func("/pit/shortest-period-is-bounded", test_shortest_period);
	g_test_add_func("/pit/read-back-picks-channels", test_read_back_channels);
	g_test_add_func("/pit/count-written-while-gate-is-low-starts-over", test_count_while_paused);
	g_test_add_func("/pit/second-count-replaces-the-waiting-one", test_two_counts_in_a_period);
	g_test_add_func("/pit/control-word-stops-the-channel", test_control_stops);
	g_test_add_data_func("/pit/missed-periods-are-made-up-for-in-mode-2", GUINT_TO_POINTER(2), test_missed);
	g_test_add_data_func("/pit/missed-periods-are-made-up-for-in-mode-3", GUINT_TO_POINTER(3), test_missed);
	return g_test_run();
}
