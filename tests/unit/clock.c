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
	clock_init_monotonic(&clock);
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
	clock_init_monotonic(&clock);
	u64 before = clock_now(&clock);
	g_assert_cmpuint(before, <, NS_PER_SEC); /* counts from its start */
	g_usleep(2000);
	u64 passed = clock_now(&clock) - before;
	g_assert_cmpuint(passed, >=, 2000000);
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
	g_test_add_func("/clock/mul-div-does-not-overflow", test_mul_div);
	return g_test_run();
}
