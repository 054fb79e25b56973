/* Clocks and timers. */
#include "base/clock.h"

#include <glib.h>

enum { MAX_FIRED = 16 };

struct log {
	struct clock *clock;
	char names[MAX_FIRED + 1];
	u64 at[MAX_FIRED];
	unsigned count;
};

struct probe {
	struct timer timer;
	struct log *log;
	char name;
	u64 period; /* 0: one-shot */
};

static void on_fire(void *opaque)
{
	struct probe *p = opaque;
	g_assert_cmpuint(p->timer.deadline, ==, CLOCK_NEVER);
	g_assert_cmpuint(p->log->count, <, MAX_FIRED);
	p->log->at[p->log->count] = clock_now(p->log->clock);
	p->log->names[p->log->count++] = p->name;
	if (p->period)
		timer_arm(&p->timer, clock_now(p->log->clock) + p->period);
}

static void probe_init(struct probe *p, struct log *log, char name)
{
	*p = (struct probe){ .log = log, .name = name };
	timer_init(&p->timer, log->clock, on_fire, p);
}

static void test_stands_still(void)
{
	struct clock clock;
	clock_init_manual(&clock);
	g_assert_cmpuint(clock_now(&clock), ==, 0);
	clock_advance_to(&clock, 1000);
	g_assert_cmpuint(clock_now(&clock), ==, 1000);
	clock_advance_to(&clock, 500); /* never back */
	g_assert_cmpuint(clock_now(&clock), ==, 1000);
}

static void test_order(void)
{
	struct clock clock;
	struct log log = { .clock = &clock };
	struct probe a, b, c;
	clock_init_manual(&clock);
	probe_init(&a, &log, 'a');
	probe_init(&b, &log, 'b');
	probe_init(&c, &log, 'c');
	timer_arm(&a.timer, 300);
	timer_arm(&b.timer, 100);
	timer_arm(&c.timer, 300);
	clock_advance_to(&clock, 99);
	g_assert_cmpuint(log.count, ==, 0);
	clock_advance_to(&clock, 1000);
	g_assert_cmpstr(log.names, ==, "bac"); /* of equals the first armed */
	g_assert_cmpuint(log.at[0], ==, 100);
	g_assert_cmpuint(log.at[1], ==, 300);
	g_assert_cmpuint(clock_now(&clock), ==, 1000);
}

static void test_rearms_itself(void)
{
	struct clock clock;
	struct log log = { .clock = &clock };
	struct probe p;
	clock_init_manual(&clock);
	probe_init(&p, &log, 'p');
	p.period = 10;
	timer_arm(&p.timer, 10);
	clock_advance_to(&clock, 45);
	g_assert_cmpstr(log.names, ==, "pppp");
	for (unsigned i = 0; i < 4; i++)
		g_assert_cmpuint(log.at[i], ==, 10 * (i + 1));
}

static void test_disarm(void)
{
	struct clock clock;
	struct log log = { .clock = &clock };
	struct probe a, b;
	clock_init_manual(&clock);
	probe_init(&a, &log, 'a');
	probe_init(&b, &log, 'b');
	timer_disarm(&a.timer); /* was never armed */
	timer_arm(&a.timer, 10);
	timer_arm(&b.timer, 20);
	timer_arm(&a.timer, 30); /* replaces 10 */
	timer_disarm(&b.timer);
	timer_disarm(&b.timer);
	clock_advance_to(&clock, 100);
	g_assert_cmpstr(log.names, ==, "a");
	g_assert_cmpuint(log.at[0], ==, 30);
	g_assert_null(clock.armed);
}

static struct {
	unsigned calls;
	u64 deadline;
} rearmed;

static void on_rearm(void *opaque, u64 deadline)
{
	g_assert_true(opaque == &rearmed);
	rearmed.calls++;
	rearmed.deadline = deadline;
}

static void test_rearm_hook(void)
{
	struct clock clock;
	struct log log = { .clock = &clock };
	struct probe a, b;
	clock_init_manual(&clock);
	clock.rearm = on_rearm;
	clock.rearm_opaque = &rearmed;
	probe_init(&a, &log, 'a');
	probe_init(&b, &log, 'b');
	timer_arm(&a.timer, 100);
	g_assert_cmpuint(rearmed.calls, ==, 1);
	g_assert_cmpuint(rearmed.deadline, ==, 100);
	timer_arm(&b.timer, 200); /* not the soonest: nobody need know */
	g_assert_cmpuint(rearmed.calls, ==, 1);
	timer_disarm(&a.timer);
	g_assert_cmpuint(rearmed.deadline, ==, 200);
	timer_disarm(&b.timer);
	g_assert_cmpuint(rearmed.deadline, ==, CLOCK_NEVER);
}

static void test_run_due(void)
{
	struct clock clock;
	struct log log = { .clock = &clock };
	struct probe a, b, c;
	clock_init_monotonic(&clock, false);
	probe_init(&a, &log, 'a');
	probe_init(&b, &log, 'b');
	probe_init(&c, &log, 'c');
	u64 later = clock_now(&clock) + 3600 * NS_PER_SEC;
	timer_arm(&a.timer, later);
	timer_arm(&b.timer, 0);
	timer_arm(&c.timer, clock_now(&clock));
	g_assert_cmpuint(clock_run_due(&clock), ==, later);
	g_assert_cmpstr(log.names, ==, "bc");
	timer_disarm(&a.timer);
	g_assert_cmpuint(clock_run_due(&clock), ==, CLOCK_NEVER);
}

static void test_monotonic(void)
{
	struct clock clock;
	clock_init_monotonic(&clock, false);
	u64 before = clock_now(&clock);
	g_assert_cmpuint(before, <, NS_PER_SEC); /* counts from its start */
	g_usleep(2000);
	u64 passed = clock_now(&clock) - before;
	g_assert_cmpuint(passed, >=, 2000000);
}

/* --- the host's clock by its TSC --- */

enum { TICKS_PER_US = 3000 };

/* A clock whose host has counted for `us` at `ticks_per_us`, looked at each millisecond. */
static void count(struct host_clock *clock, u64 *tsc, u64 *ns, u64 us, u64 ticks_per_us)
{
	for (u64 ms = 0; ms < us / 1000; ms++) {
		*tsc += 1000 * ticks_per_us;
		*ns += 1000000;
		host_clock_draw(clock, *tsc, *ns);
	}
}

static void start(struct host_clock *clock, u64 *tsc, u64 *ns)
{
	*tsc = 1ULL << 50;
	*ns = 7 * NS_PER_SEC;
	*clock = (struct host_clock){
		.counts = true,
		.from = { .tsc = *tsc, .ns = *ns },
		.since = { .tsc = *tsc, .ns = *ns },
	};
}

static void assert_near(u64 is, u64 should_be, u64 most)
{
	g_assert_cmpuint(is + most, >=, should_be);
	g_assert_cmpuint(is, <=, should_be + most);
}

static void test_host_line(void)
{
	struct host_clock clock;
	u64 tsc, ns;
	start(&clock, &tsc, &ns);
	count(&clock, &tsc, &ns, 10000, TICKS_PER_US);
	g_assert_cmpuint(host_clock_at(&clock, tsc), ==, 0); /* too short to tell */
	count(&clock, &tsc, &ns, 20000, TICKS_PER_US);
	assert_near(host_clock_at(&clock, tsc), ns, 1);
	assert_near(host_clock_at(&clock, tsc + 2000 * TICKS_PER_US), ns + 2000000, 2);
	g_assert_cmpuint(host_clock_at(&clock, tsc - 10), ==, host_clock_at(&clock, tsc)); /* a CPU that is behind */
}

static void test_host_line_backwards(void)
{
	struct host_clock clock;
	u64 tsc, ns;
	start(&clock, &tsc, &ns);
	count(&clock, &tsc, &ns, 30000, TICKS_PER_US);
	/* The counter goes faster than it was measured: time is ahead by 20 us when the host says so. */
	tsc += 2020 * TICKS_PER_US;
	ns += 2000000;
	u64 shown = host_clock_at(&clock, tsc);
	assert_near(shown, ns + 20000, 2);
	host_clock_draw(&clock, tsc, ns);
	g_assert_cmpuint(host_clock_at(&clock, tsc), ==, shown);
	for (unsigned us = 0; us < 2000; us++) {
		u64 later = host_clock_at(&clock, tsc + us * TICKS_PER_US);
		g_assert_cmpuint(later, >=, shown);
		shown = later;
	}
	u64 end = HOST_LINE_TICKS / TICKS_PER_US;
	assert_near(host_clock_at(&clock, tsc + HOST_LINE_TICKS), ns + 1000 * end, 2000);
	/* It was behind: then it jumps. */
	host_clock_draw(&clock, tsc + 1000 * TICKS_PER_US, ns + 3000000);
	g_assert_cmpuint(host_clock_at(&clock, tsc + 1000 * TICKS_PER_US), ==, ns + 3000000);
}

static void test_host_line_long(void)
{
	struct host_clock clock;
	u64 tsc, ns;
	start(&clock, &tsc, &ns);
	count(&clock, &tsc, &ns, 40000000, TICKS_PER_US);
	/* What the rate is measured from moves along. */
	count(&clock, &tsc, &ns, 60000000, TICKS_PER_US + 1);
	assert_near(host_clock_at(&clock, tsc + 2000 * (TICKS_PER_US + 1)), ns + 2000000, 2);
}

/* --- several threads, one behind the other --- */

struct turns {
	struct host_clock clock;
	u32 turn; /* of which thread; atomic */
	u64 last, backwards;
};

struct player {
	struct turns *turns;
	u32 number;
};

/* Waits for the other one's store, then reads at once: a counter that does not wait for the load is too early. */
static void *take_turns(void *data)
{
	const struct player *player = data;
	struct turns *t = player->turns;
	for (unsigned i = 0; i < 200000; i++) {
		/* Where there is one processor, the other thread wants it. */
		for (unsigned tries = 0; __atomic_load_n(&t->turn, __ATOMIC_ACQUIRE) != player->number; tries++)
			if (tries >= 1000)
				g_thread_yield();
		u64 now = host_clock_now(&t->clock);
		t->backwards += now < t->last;
		t->last = now;
		__atomic_store_n(&t->turn, !player->number, __ATOMIC_RELEASE);
	}
	return NULL;
}

static void test_turns(void)
{
	if (!host_clock_fits()) {
		g_test_skip("the host does not keep its time by the TSC");
		return;
	}
	struct turns t = { 0 };
	host_clock_init(&t.clock, true);
	struct player player[2] = { { &t, 0 }, { &t, 1 } };
	GThread *thread[2];
	for (unsigned i = 0; i < 2; i++)
		thread[i] = g_thread_new("turns", take_turns, &player[i]);
	for (unsigned i = 0; i < 2; i++)
		g_thread_join(thread[i]);
	g_assert_cmpuint(t.backwards, ==, 0);
}

static void test_host_line_anew(void)
{
	struct host_clock clock;
	u64 tsc, ns;
	start(&clock, &tsc, &ns);
	count(&clock, &tsc, &ns, 100000, TICKS_PER_US);
	tsc = 5;
	ns += 1000000;
	host_clock_draw(&clock, tsc, ns);
	g_assert_cmpuint(host_clock_at(&clock, tsc), ==, ns);
	assert_near(host_clock_at(&clock, tsc + 1000 * TICKS_PER_US), ns + 1000000, 2);
	count(&clock, &tsc, &ns, 100000, TICKS_PER_US);
	assert_near(host_clock_at(&clock, tsc), ns, 2);
}

static gpointer look_often(gpointer data)
{
	struct clock *clock = data;
	u64 before = 0, end = clock_now(clock) + 150 * 1000 * 1000;
	while (before < end) {
		u64 now = clock_now(clock);
		g_assert_cmpuint(now, >=, before);
		before = now;
	}
	return NULL;
}

static void test_by_tsc(void)
{
	struct clock tsc, plain;
	if (!host_clock_fits()) {
		g_test_skip("the host keeps its time otherwise");
		return;
	}
	clock_init_monotonic(&tsc, true);
	clock_init_monotonic(&plain, false);
	i64 apart = (i64)(plain.base - tsc.base);
	GThread *other = g_thread_new("other", look_often, &tsc);
	look_often(&tsc);
	g_thread_join(other);
	for (unsigned i = 0; i < 1000; i++) {
		u64 before = clock_now(&plain), now = clock_now(&tsc) - (u64)apart, after = clock_now(&plain);
		g_assert_cmpuint(now + 20000, >=, before);
		g_assert_cmpuint(now, <=, after + 20000);
	}
}

static void test_mul_div(void)
{
	g_assert_cmpuint(mul_div(10, 3, 4), ==, 7);
	g_assert_cmpuint(mul_div(1ULL << 63, 1000, 1000), ==, 1ULL << 63);
	g_assert_cmpuint(mul_div(NS_PER_SEC, 1193182, NS_PER_SEC), ==, 1193182);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/clock/manual-stands-still", test_stands_still);
	g_test_add_func("/clock/fires-in-order-of-deadlines", test_order);
	g_test_add_func("/clock/timer-may-rearm-itself", test_rearms_itself);
	g_test_add_func("/clock/disarmed-does-not-fire", test_disarm);
	g_test_add_func("/clock/tells-when-the-soonest-changes", test_rearm_hook);
	g_test_add_func("/clock/run-due-returns-the-next-deadline", test_run_due);
	g_test_add_func("/clock/monotonic-counts-from-its-start", test_monotonic);
	g_test_add_func("/clock/host-tsc-is-time-once-its-rate-is-known", test_host_line);
	g_test_add_func("/clock/host-tsc-never-takes-time-back", test_host_line_backwards);
	g_test_add_func("/clock/host-tsc-rate-is-that-of-late", test_host_line_long);
	g_test_add_func("/clock/host-tsc-may-begin-anew", test_host_line_anew);
	g_test_add_func("/clock/host-tsc-tells-what-the-host-tells", test_by_tsc);
	g_test_add_func("/clock/host-tsc-goes-forward-from-thread-to-thread", test_turns);
	g_test_add_func("/clock/mul-div-does-not-overflow", test_mul_div);
	return g_test_run();
}
