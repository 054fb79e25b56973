/*
 * The host's CLOCK_MONOTONIC, read from its time-stamp counter: a guest reads its own TSC thousands of times a second,
 * and the host's library takes twice as long and more.
 *
 * A rate, nanoseconds a tick, is measured against CLOCK_MONOTONIC, and each few milliseconds once more; in between,
 * time is a multiplication. It never goes backwards: where it was ahead, it goes a little slower for a while.
 *
 * Threads: host_clock_now() from any. Readers find a complete line, whoever draws a new one meanwhile.
 */
#ifndef STRATA_BASE_HOST_CLOCK_H
#define STRATA_BASE_HOST_CLOCK_H

#include "base/types.h"

/* At `tsc` it was `ns`, and each tick is `rate` / 2^32 ns. */
struct host_line {
	u64 tsc, ns, rate;
};

struct host_clock {
	bool counts;  /* the host's TSC is fit; otherwise each look is at CLOCK_MONOTONIC */
	u32 latest;   /* line[latest % 2] holds, 0: none yet; atomic */
	bool drawing; /* a thread draws the next line; atomic */
	struct host_line line[2];
	struct host_line from, since; /* what the rate is measured from, and will be later; no rates */
};

enum { HOST_LINE_TICKS = 1 << 23 }; /* as long a line is good: 2 to 8 ms */

/* Does the host's own kernel keep its time by the TSC? Opens a file. */
bool host_clock_fits(void);

void host_clock_init(struct host_clock *clock, bool counts);
u64 host_clock_now(struct host_clock *clock); /* ns */

/* What that is made of, for tests. The time at `tsc`, by the latest line; and a new one, for the time is `ns` there. */
u64 host_clock_at(const struct host_clock *clock, u64 tsc);
void host_clock_draw(struct host_clock *clock, u64 tsc, u64 ns);

#endif
