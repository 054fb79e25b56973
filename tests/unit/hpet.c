/* The HPET: counter, comparators, routing, legacy replacement. */
#include "chip/hpet.h"
#include "chip.h"

/* Lines of the rig: I/O APIC pins by number, then the two legacy outputs. */
enum { IRQ0 = 30, IRQ8 = 31 };
enum { CAPABILITIES = 0, CONFIG = 0x10, STATUS = 0x20, COUNTER = 0xf0 };
#define TIMER(n)      (0x100u + 0x20u * (n))
#define COMPARATOR(n) (0x108u + 0x20u * (n))
enum { LEVEL = 2, ENABLE = 4, PERIODIC = 8, SET = 0x40, WIDTH32 = 0x100 };
#define ROUTE(pin) ((u64)(pin) << 9)

struct rig {
	struct hpet hpet;
	struct clock clock;
	struct pins pins;
};

static void set_gsi(void *opaque, unsigned gsi, bool level)
{
	pins_set(opaque, gsi, level);
}

static struct rig *rig_new(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	clock_init_manual(&rig->clock);
	hpet_init(&rig->hpet, &rig->clock, (struct irq_line){ set_gsi, &rig->pins, 0 }, pin(&rig->pins, IRQ0),
		  pin(&rig->pins, IRQ8));
	return rig;
}

static u64 in(struct rig *rig, u64 offset)
{
	return hpet_ops.read(&rig->hpet, offset, 8);
}

static void out(struct rig *rig, u64 offset, u64 value)
{
	hpet_ops.write(&rig->hpet, offset, 8, value);
}

static void test_capabilities(void)
{
	struct rig *rig = rig_new();
	/* 10 ns in femtoseconds; 64 bits, legacy routing, three timers, Intel. */
	g_assert_cmphex(in(rig, CAPABILITIES), ==, 10000000ULL << 32 | 0x8086a201);
	out(rig, CAPABILITIES, 0);
	g_assert_cmphex(in32(&hpet_ops, &rig->hpet, 4), ==, 10000000);
	/* Every timer: 64 bits, periodic, some route. */
	for (unsigned n = 0; n < 3; n++) {
		g_assert_cmphex(in(rig, TIMER(n)) & 0x30, ==, 0x30);
		g_assert_cmphex(in(rig, TIMER(n)) >> 32, !=, 0);
	}
	g_assert_cmphex(in(rig, TIMER(3)), ==, 0);
	g_free(rig);
}

static void test_counter(void)
{
	struct rig *rig = rig_new();
	clock_advance(&rig->clock, 1000);
	g_assert_cmpint(in(rig, COUNTER), ==, 0); /* halted */
	out(rig, COUNTER, 500);
	out(rig, CONFIG, 1);
	clock_advance(&rig->clock, 1000);
	g_assert_cmpint(in(rig, COUNTER), ==, 600);
	out(rig, CONFIG, 0);
	clock_advance(&rig->clock, 1000);
	g_assert_cmpint(in(rig, COUNTER), ==, 600);
	out32(&hpet_ops, &rig->hpet, COUNTER + 4, 7);
	g_assert_cmphex(in(rig, COUNTER), ==, 7ULL << 32 | 600);
	g_free(rig);
}

static void test_one_shot(void)
{
	struct rig *rig = rig_new();
	out(rig, TIMER(2), ENABLE | ROUTE(21));
	out(rig, COMPARATOR(2), 100);
	out(rig, CONFIG, 1);
	clock_advance(&rig->clock, 999);
	g_assert_cmpint(rig->pins.rises[21], ==, 0);
	clock_advance(&rig->clock, 1);
	g_assert_cmpint(rig->pins.rises[21], ==, 1);
	g_assert_false(rig->pins.level[21]); /* an edge */
	g_assert_cmphex(in(rig, STATUS), ==, 0);
	clock_advance(&rig->clock, 1000000000);
	g_assert_cmpint(rig->pins.rises[21], ==, 1);
	g_free(rig);
}

static void test_level(void)
{
	struct rig *rig = rig_new();
	out(rig, TIMER(1), ENABLE | LEVEL | ROUTE(20));
	out(rig, COMPARATOR(1), 100);
	out(rig, CONFIG, 1);
	clock_advance(&rig->clock, 2000);
	g_assert_true(rig->pins.level[20]);
	g_assert_cmphex(in(rig, STATUS), ==, 2);
	out(rig, STATUS, 1); /* another timer's bit */
	g_assert_true(rig->pins.level[20]);
	out(rig, STATUS, 2);
	g_assert_false(rig->pins.level[20]);
	g_assert_cmphex(in(rig, STATUS), ==, 0);
	g_free(rig);
}

static void test_periodic(void)
{
	struct rig *rig = rig_new();
	out(rig, CONFIG, 1);
	out(rig, TIMER(0), ENABLE | PERIODIC | SET | ROUTE(22));
	out(rig, COMPARATOR(0), 5000);  /* first match */
	out(rig, COMPARATOR(0), 10000); /* period */
	g_assert_false(in(rig, TIMER(0)) & SET);
	clock_advance(&rig->clock, 50000);
	g_assert_cmpint(rig->pins.rises[22], ==, 1);
	g_assert_cmpint(in(rig, COMPARATOR(0)), ==, 15000);
	clock_advance(&rig->clock, 99999);
	g_assert_cmpint(rig->pins.rises[22], ==, 1);
	clock_advance(&rig->clock, 1 + 900000);
	g_assert_cmpint(rig->pins.rises[22], ==, 11);
	out(rig, TIMER(0), PERIODIC | ROUTE(22)); /* disabled: matches in silence */
	clock_advance(&rig->clock, 1000000);
	g_assert_cmpint(rig->pins.rises[22], ==, 11);
	g_free(rig);
}

static void test_width_32(void)
{
	struct rig *rig = rig_new();
	out(rig, COUNTER, 0x1fffffff0);
	out(rig, TIMER(0), ENABLE | WIDTH32 | ROUTE(20));
	out(rig, COMPARATOR(0), 0x5500000010); /* upper half is not there */
	g_assert_cmphex(in(rig, COMPARATOR(0)), ==, 0x10);
	out(rig, CONFIG, 1);
	clock_advance(&rig->clock, 0x20 * 10);
	g_assert_cmpint(rig->pins.rises[20], ==, 1); /* across the wrap of the low half */
	clock_advance(&rig->clock, (1ULL << 32) * 10);
	g_assert_cmpint(rig->pins.rises[20], ==, 2); /* and once each time around */
	g_free(rig);
}

static void test_passed_comparator(void)
{
	struct rig *rig = rig_new();
	out(rig, COUNTER, 1000);
	out(rig, TIMER(0), ENABLE | ROUTE(20));
	out(rig, COMPARATOR(0), 999);
	out(rig, CONFIG, 1);
	clock_advance(&rig->clock, 1000000000);
	g_assert_cmpint(rig->pins.rises[20], ==, 0); /* only equality matches */
	g_free(rig);
}

static void test_halt_stops_comparators(void)
{
	struct rig *rig = rig_new();
	out(rig, TIMER(0), ENABLE | ROUTE(20));
	out(rig, COMPARATOR(0), 100);
	out(rig, CONFIG, 1);
	clock_advance(&rig->clock, 500);
	out(rig, CONFIG, 0);
	clock_advance(&rig->clock, 5000);
	g_assert_cmpint(rig->pins.rises[20], ==, 0);
	out(rig, CONFIG, 1);
	clock_advance(&rig->clock, 499);
	g_assert_cmpint(rig->pins.rises[20], ==, 0);
	clock_advance(&rig->clock, 1);
	g_assert_cmpint(rig->pins.rises[20], ==, 1);
	g_free(rig);
}

static void test_legacy(void)
{
	struct rig *rig = rig_new();
	hpet_legacy_input(&rig->hpet, 0, true);
	g_assert_true(rig->pins.level[IRQ0]); /* the PIT's */
	out(rig, CONFIG, 3);
	g_assert_false(rig->pins.level[IRQ0]); /* cut off */
	hpet_legacy_input(&rig->hpet, 1, true);
	g_assert_false(rig->pins.level[IRQ8]);
	u64 now = in(rig, COUNTER);
	out(rig, TIMER(0), ENABLE | ROUTE(20)); /* the route is ignored */
	out(rig, TIMER(1), ENABLE);
	out(rig, COMPARATOR(0), now + 100);
	out(rig, COMPARATOR(1), now + 200);
	unsigned before = rig->pins.rises[IRQ0];
	clock_advance(&rig->clock, 1000);
	g_assert_cmpint(rig->pins.rises[IRQ0] - before, ==, 1);
	g_assert_cmpint(rig->pins.rises[IRQ8], ==, 0);
	clock_advance(&rig->clock, 1000);
	g_assert_cmpint(rig->pins.rises[IRQ8], ==, 1);
	g_assert_cmpint(rig->pins.rises[20], ==, 0);
	out(rig, CONFIG, 1);
	g_assert_true(rig->pins.level[IRQ0]); /* PIT and RTC again */
	g_assert_true(rig->pins.level[IRQ8]);
	g_free(rig);
}

static void test_route_must_be_offered(void)
{
	struct rig *rig = rig_new();
	out(rig, TIMER(0), ENABLE | ROUTE(3));
	g_assert_cmphex(in(rig, TIMER(0)) >> 9 & 31, ==, 0);
	out(rig, TIMER(0), ENABLE | ROUTE(23));
	g_assert_cmphex(in(rig, TIMER(0)) >> 9 & 31, ==, 23);
	g_free(rig);
}

static void test_shortest_period(void)
{
	struct rig *rig = rig_new();
	out(rig, CONFIG, 1);
	out(rig, TIMER(0), ENABLE | PERIODIC | SET | ROUTE(20));
	out(rig, COMPARATOR(0), 1);
	clock_advance(&rig->clock, 10000000);
	g_assert_cmpint(rig->pins.rises[20], >=, 900);
	g_assert_cmpint(rig->pins.rises[20], <=, 1001);
	g_free(rig);
}

static void test_reset(void)
{
	struct rig *rig = rig_new();
	out(rig, CONFIG, 1);
	out(rig, TIMER(1), ENABLE | LEVEL | PERIODIC | SET | ROUTE(20));
	out(rig, COMPARATOR(1), 1000);
	clock_advance(&rig->clock, 10000);
	g_assert_true(rig->pins.level[20]);
	hpet_reset(&rig->hpet);
	g_assert_false(rig->pins.level[20]);
	g_assert_cmphex(in(rig, CONFIG), ==, 0);
	g_assert_cmphex(in(rig, STATUS), ==, 0);
	g_assert_cmphex(in(rig, COUNTER), ==, 0);
	g_assert_cmphex(in(rig, COMPARATOR(1)), ==, UINT64_MAX);
	g_assert_cmphex((u32)in(rig, TIMER(1)), ==, 0x30);
	out(rig, CONFIG, 1);
	out(rig, TIMER(1), ENABLE | PERIODIC | SET | ROUTE(20));
	clock_advance(&rig->clock, 1000000);
	g_assert_cmpint(rig->pins.rises[20], ==, 1); /* no period is left of the time before */
	g_free(rig);
}

static void test_late(void)
{
	struct rig *rig = rig_new();
	out(rig, CONFIG, 1);
	out(rig, TIMER(0), ENABLE | PERIODIC | SET | ROUTE(20));
	out(rig, COMPARATOR(0), 1000);
	rig->clock.base += 25000; /* time passes, but nobody ran the timers */
	g_assert_cmpint(in(rig, COMPARATOR(0)), ==, 3000);
	g_assert_cmpint(rig->pins.rises[20], ==, 1);
	rig->clock.base += 10000;
	out(rig, TIMER(0), PERIODIC | ROUTE(20)); /* what was due comes before the change */
	g_assert_cmpint(rig->pins.rises[20], ==, 2);
	g_free(rig);
}

static void test_missed(void)
{
	struct rig *rig = rig_new();
	const u64 millisecond = 1000000;
	out(rig, CONFIG, 1);
	out(rig, TIMER(0), ENABLE | PERIODIC | SET | ROUTE(20));
	out(rig, COMPARATOR(0), millisecond / 10);
	rig->clock.base += 5 * millisecond + millisecond / 2;
	clock_advance(&rig->clock, 1);
	g_assert_cmpint(rig->pins.rises[20], ==, 1);
	clock_advance(&rig->clock, millisecond / 8);
	g_assert_cmpint(rig->pins.rises[20], ==, 2); /* one by one, or the guest would see one only */
	clock_advance(&rig->clock, 3 * millisecond / 8);
	g_assert_cmpint(rig->pins.rises[20], >=, 5);
	clock_advance(&rig->clock, 4 * millisecond + millisecond / 2);
	g_assert_cmpint(rig->pins.rises[20], ==, 10);
	/* A guest that slept for long is not flooded. */
	rig->clock.base += 10000 * millisecond;
	clock_advance(&rig->clock, 20 * millisecond);
	g_assert_cmpint(rig->pins.rises[20], >, 10 + 20);
	g_assert_cmpint(rig->pins.rises[20], <=, 10 + 21 + 64);
	/* Nor after it set the timer anew. */
	rig->clock.base += 10 * millisecond;
	out(rig, COMPARATOR(0), millisecond / 10);
	int rises = (int)rig->pins.rises[20];
	clock_advance(&rig->clock, 5 * millisecond);
	g_assert_cmpint(rig->pins.rises[20], <=, rises + 6 + 10);
	g_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/hpet/capabilities", test_capabilities);
	g_test_add_func("/hpet/counter-counts-while-enabled", test_counter);
	g_test_add_func("/hpet/one-shot-is-an-edge", test_one_shot);
	g_test_add_func("/hpet/level-holds-until-status-is-cleared", test_level);
	g_test_add_func("/hpet/periodic-adds-its-period", test_periodic);
	g_test_add_func("/hpet/32-bit-timer-wraps", test_width_32);
	g_test_add_func("/hpet/passed-comparator-does-not-match", test_passed_comparator);
	g_test_add_func("/hpet/halt-stops-comparators", test_halt_stops_comparators);
	g_test_add_func("/hpet/legacy-replacement-takes-irq-0-and-8", test_legacy);
	g_test_add_func("/hpet/route-must-be-offered", test_route_must_be_offered);
	g_test_add_func("/hpet/shortest-period-is-bounded", test_shortest_period);
	g_test_add_func("/hpet/reset-stops-and-clears", test_reset);
	g_test_add_func("/hpet/missed-periods-are-made-up-for", test_missed);
	g_test_add_func("/hpet/late-match-shows-on-the-next-access", test_late);
	return g_test_run();
}
