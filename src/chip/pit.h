/*
 * The 8254 interval timer with port 0x61 (speaker and gate of channel 2). It counts 1,193,182 Hz of the clock it is
 * given.
 *
 * Life: pit_init(), pit_reset() at RESET. The board maps pit_ops at 0x40 (4 ports) and pit_port61_ops at 0x61 (1 port).
 * Line out: irq, the OUT pin of channel 0. Where an HPET exists, wire it through hpet_legacy_input().
 *
 * Owner: the board, by value. Threads: every call with the board lock held.
 */
#ifndef STRATA_CHIP_PIT_H
#define STRATA_CHIP_PIT_H

#include "base/clock.h"
#include "base/types.h"
#include "bus/bus.h"

#define PIT_HZ 1193182ULL

struct pit_channel {
	u8 mode;   /* 0..5 */
	u8 access; /* control word's RW: 1 low byte, 2 high byte, 3 low then high */
	bool bcd;
	bool gate;
	bool write_high; /* access 3: the next write is the high byte */
	bool read_high;
	u8 low_written; /* access 3: the low byte already written */
	bool latched;   /* `latch` holds a count */
	u8 latch_left;  /* bytes of the latch still to read */
	u16 latch;
	bool status_latched;
	u8 status;
	bool null_count; /* a count was written and not loaded yet */
	u32 count;       /* count register's value as binary: 1..65536 (10000 with BCD) */
	u32 next_count;  /* a periodic mode's new count, from the next reload on */
	bool loaded;     /* counting: start is valid */
	bool triggered;  /* modes 1, 5: a gate edge came after the count */
	bool paused;     /* gate low in modes 0, 2, 3, 4 */
	u64 start;       /* PIT ticks of the clock when the current period's count was loaded */
	u64 held;        /* ticks already counted while paused */
};

struct pit {
	struct pit_channel channel[3];
	struct timer timer; /* next change of channel 0's OUT */
	struct clock *clock;
	struct irq_line irq;
	bool irq_level;
	u8 port61; /* bits 0 (gate 2) and 1 (speaker data), and the parity/channel check enables */
};

void pit_init(struct pit *pit, struct clock *clock, struct irq_line irq);
void pit_reset(struct pit *pit);

/* OUT pin of a channel now. */
bool pit_out(struct pit *pit, unsigned channel);

extern const struct io_ops pit_ops, pit_port61_ops;

#endif
