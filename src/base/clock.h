/*
 * Time and timers, injected: chips never ask the host. A clock counts nanoseconds from the VM's start and keeps a list
 * of armed timers. Production clocks follow CLOCK_MONOTONIC; test clocks stand still until told.
 *
 * Threads: the caller serializes every call on one clock (in a VM: the board lock), except clock_now() and
 * clock_thread_time().
 */
#ifndef STRATA_BASE_CLOCK_H
#define STRATA_BASE_CLOCK_H

#include "base/host_clock.h"
#include "base/types.h"

#define CLOCK_NEVER UINT64_MAX
#define NS_PER_SEC  1000000000ULL

struct clock;

struct timer {
	struct clock *clock;
	void (*fire)(void *opaque); /* called once at or after the deadline, timer already disarmed */
	void *opaque;
	u64 deadline;       /* ns of the clock; CLOCK_NEVER while disarmed */
	struct timer *next; /* the clock's list, soonest first */
};

struct clock {
	u64 (*now)(struct clock *clock);
	u64 (*thread_time)(void); /* NULL: threads always run, as far as this clock can tell */
	/* Told whenever the soonest deadline changes, so that the thread that waits can wait anew. May be NULL. */
	void (*rearm)(void *opaque, u64 deadline);
	void *rearm_opaque;
	struct timer *armed;
	u64 base;               /* monotonic: host ns at the start; manual: the time itself */
	struct host_clock host; /* monotonic */
};

/* `by_tsc`: host_clock_fits(). */
void clock_init_monotonic(struct clock *clock, bool by_tsc);
void clock_init_manual(struct clock *clock);

static inline u64 clock_now(struct clock *clock)
{
	return clock->now(clock);
}

/* How long the calling thread has had a processor, in ns of no particular beginning. */
static inline u64 clock_thread_time(struct clock *clock)
{
	return clock->thread_time ? clock->thread_time() : clock->now(clock);
}

/* Manual clocks only: moves time on to `ns`, firing what falls due on the way, each at its own time. */
void clock_advance_to(struct clock *clock, u64 ns);

void timer_init(struct timer *timer, struct clock *clock, void (*fire)(void *opaque), void *opaque);
void timer_arm(struct timer *timer, u64 deadline); /* replaces an earlier deadline; CLOCK_NEVER disarms */
void timer_disarm(struct timer *timer);

/* Fires every timer that is due now. Returns the next deadline, or CLOCK_NEVER. */
u64 clock_run_due(struct clock *clock);

/* a * b / c without overflow of the product; c is not zero. */
static inline u64 mul_div(u64 a, u64 b, u64 c)
{
	return (u64)((unsigned __int128)a * b / c);
}

#endif
