/*
 * Port and memory-mapped I/O dispatch, and interrupt lines.
 *
 * Devices register ranges before the machine runs; the maps never change afterwards, but a PCI BAR may be moved
 * (bus_move_mmio). Reads of nothing give all ones, writes vanish; both show on trace channel io.
 *
 * Threads: bus_read_* and bus_write_* take the board lock around the device call. Code that already holds the lock
 * (timers, other devices) calls devices directly. The lock is recursive in no way.
 */
#ifndef STRATA_BUS_BUS_H
#define STRATA_BUS_BUS_H

#include "base/types.h"

#include <pthread.h>

struct io_ops {
	/* `offset` counts from the start of the registered range; `size` is 1, 2, 4 or 8. Unused high bits are 0. */
	u64 (*read)(void *device, u64 offset, unsigned size);
	void (*write)(void *device, u64 offset, unsigned size, u64 value);
	/* An 8-bit device: wider accesses reach it as bytes, lowest address first. */
	bool byte_wide;
};

struct io_range {
	const char *name;
	u64 base, size;
	const struct io_ops *ops;
	void *device;
};

enum { BUS_MAX_RANGES = 64 };

struct bus {
	pthread_mutex_t lock;                                      /* the board lock */
	struct io_range pio[BUS_MAX_RANGES], mmio[BUS_MAX_RANGES]; /* sorted by base, no overlap */
	unsigned pio_count, mmio_count;
};

void bus_init(struct bus *bus);
void bus_destroy(struct bus *bus);

/* 0, or -EEXIST on overlap, -ENOSPC when full. */
int bus_add_pio(struct bus *bus, u16 base, u16 size, const struct io_ops *ops, void *device, const char *name);
int bus_add_mmio(struct bus *bus, u64 base, u64 size, const struct io_ops *ops, void *device, const char *name);
int bus_move_mmio(struct bus *bus, void *device, u64 old_base, u64 new_base);

/* A port access that spans ranges is split into bytes, as the ISA bus would. */
u32 bus_read_pio(struct bus *bus, u16 port, unsigned size);
void bus_write_pio(struct bus *bus, u16 port, unsigned size, u32 value);
u64 bus_read_mmio(struct bus *bus, u64 gpa, unsigned size);
void bus_write_mmio(struct bus *bus, u64 gpa, unsigned size, u64 value);

static inline void bus_lock(struct bus *bus)
{
	pthread_mutex_lock(&bus->lock);
}

static inline void bus_unlock(struct bus *bus)
{
	pthread_mutex_unlock(&bus->lock);
}

/* An output pin of a device, wired by the board to an input of an interrupt controller. Called with the board lock. */
struct irq_line {
	void (*set)(void *controller, unsigned input, bool level);
	void *controller;
	unsigned input;
};

static inline void irq_set(const struct irq_line *line, bool level)
{
	if (line->set)
		line->set(line->controller, line->input, level);
}

#endif
