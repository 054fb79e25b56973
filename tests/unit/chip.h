/* What the tests of chips share: register access through io_ops, and a line that remembers. */
#ifndef STRATA_TESTS_CHIP_H
#define STRATA_TESTS_CHIP_H

#include "base/clock.h"
#include "bus/bus.h"

#include <glib.h>

/* The other end of interrupt lines. */
struct pins {
	bool level[32];
	unsigned rises[32]; /* how often the line went up */
};

static inline void pins_set(void *opaque, unsigned input, bool level)
{
	struct pins *pins = opaque;
	pins->rises[input] += level && !pins->level[input];
	pins->level[input] = level;
}

static inline struct irq_line pin(struct pins *pins, unsigned input)
{
	return (struct irq_line){ pins_set, pins, input };
}

static inline u8 in8(const struct io_ops *ops, void *device, u64 offset)
{
	return (u8)ops->read(device, offset, 1);
}

static inline void out8(const struct io_ops *ops, void *device, u64 offset, u8 value)
{
	ops->write(device, offset, 1, value);
}

static inline u32 in32(const struct io_ops *ops, void *device, u64 offset)
{
	return (u32)ops->read(device, offset, 4);
}

static inline void out32(const struct io_ops *ops, void *device, u64 offset, u32 value)
{
	ops->write(device, offset, 4, value);
}

static inline void clock_advance(struct clock *clock, u64 ns)
{
	clock_advance_to(clock, clock_now(clock) + ns);
}

#endif
