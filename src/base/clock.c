#include "base/clock.h"

#include <time.h>

static u64 host_thread_time(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (u64)ts.tv_sec * NS_PER_SEC + (u64)ts.tv_nsec;
}

static u64 monotonic_now(struct clock *clock)
{
	return host_clock_now(&clock->host) - clock->base;
}

static u64 manual_now(struct clock *clock)
{
	return clock->base;
}

void clock_init_monotonic(struct clock *clock, bool by_tsc)
{
	*clock = (struct clock){ .now = monotonic_now, .thread_time = host_thread_time };
	host_clock_init(&clock->host, by_tsc);
	clock->base = host_clock_now(&clock->host);
}

void clock_init_manual(struct clock *clock)
{
	*clock = (struct clock){ .now = manual_now };
}

static void tell_soonest(struct clock *clock)
{
	if (clock->rearm)
		clock->rearm(clock->rearm_opaque, clock->armed ? clock->armed->deadline : CLOCK_NEVER);
}

/* Takes a timer off the list; returns whether it was the soonest. */
static bool unlink_timer(struct timer *timer)
{
	if (timer->deadline == CLOCK_NEVER)
		return false;
	struct timer **at = &timer->clock->armed;
	bool first = *at == timer;
	while (*at != timer)
		at = &(*at)->next;
	*at = timer->next;
	timer->next = NULL;
	timer->deadline = CLOCK_NEVER;
	return first;
}

void timer_init(struct timer *timer, struct clock *clock, void (*fire)(void *opaque), void *opaque)
{
	*timer = (struct timer){ .clock = clock, .fire = fire, .opaque = opaque, .deadline = CLOCK_NEVER };
}

void timer_arm(struct timer *timer, u64 deadline)
{
	struct clock *clock = timer->clock;
	bool changed = unlink_timer(timer);
	if (deadline != CLOCK_NEVER) {
		struct timer **at = &clock->armed;
		while (*at && (*at)->deadline <= deadline)
			at = &(*at)->next;
		timer->deadline = deadline;
		timer->next = *at;
		*at = timer;
		changed |= clock->armed == timer;
	}
	if (changed)
		tell_soonest(clock);
}

void timer_disarm(struct timer *timer)
{
	timer_arm(timer, CLOCK_NEVER);
}

static void fire_soonest(struct clock *clock)
{
	struct timer *timer = clock->armed;
	unlink_timer(timer);
	timer->fire(timer->opaque);
}

u64 clock_run_due(struct clock *clock)
{
	u64 now = clock_now(clock);
	while (clock->armed && clock->armed->deadline <= now)
		fire_soonest(clock);
	tell_soonest(clock);
	return clock->armed ? clock->armed->deadline : CLOCK_NEVER;
}

void clock_advance_to(struct clock *clock, u64 ns)
{
	while (clock->armed && clock->armed->deadline <= ns) {
		if (clock->armed->deadline > clock->base)
			clock->base = clock->armed->deadline;
		fire_soonest(clock);
	}
	if (ns > clock->base)
		clock->base = ns;
}
