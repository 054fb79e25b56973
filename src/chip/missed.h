/*
 * Periods of a timer that go by while the host runs something else are made up for, at CATCH_UP times their rate: a
 * guest that counts ticks loses none, as long as there are not too many. (Linux finds a timer that loses them not to
 * work, and panics.)
 */
#ifndef STRATA_CHIP_MISSED_H
#define STRATA_CHIP_MISSED_H

#include "base/types.h"

enum { CATCH_UP = 8, MISSED_MAX = 64 };

static inline u32 missed_add(u32 missed, u64 more)
{
	return missed + more < MISSED_MAX ? (u32)(missed + more) : MISSED_MAX;
}

/* From one tick to one in place of a missed one; the host is woken no sooner than `least_ns`. */
static inline u64 missed_wait(u64 period_ns, u64 least_ns)
{
	return period_ns / CATCH_UP > least_ns ? period_ns / CATCH_UP : least_ns;
}

#endif
