/*
 * The 8254 interval timer with port 0x61 (speaker and gate of channel 2). It counts PIT_HZ of the clock it is given.
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
	u8 control; /* access, mode and BCD bits of the control word */
	u8 mode;    /* 0..5 */
	u8 access;  /* 1: low byte, 2: high byte, 3: low then high */
	bool bcd;
	bool gate;
	/* bytes to and from the CPU */
	bool write_high; /* access 3: the next byte written is the high one */
	bool read_high;
	u8 low_written;
	u8 latch_left; /* bytes of the latched count still to read; 0: not latched */
	u16 latch;
	bool status_latched;
	u8 status;
	/* counting; counts are 1..65536, or 1..10000 in BCD */
	bool loaded;    /* has a count (modes 1 and 5: and a trigger came) */
	u32 count;      /* what the counting element started from */
	u32 next_count; /* what it will start from next; 0: none written yet */
	u64 reload_at;  /* tick at which a running periodic mode takes next_count; UINT64_MAX: it has */
	u64 start;      /* tick of loading */
	bool paused;    /* gate low in modes 0, 2, 3, 4 */
	u64 held;       /* ticks counted before the pause */
};

struct pit {
	struct pit_channel channel[3];
	struct timer timer; /* channel 0's next edge, or one in place of a missed one */
	u64 period;         /* tick at which the last period of channel 0 that was noticed began */
	u32 missed;         /* rising edges of its OUT that went by unseen and are still to be made up for */
	u64 make_up_at;     /* nanosecond of the next of them */
	struct clock *clock;
	struct irq_line irq;
	u8 port61;
};

void pit_init(struct pit *pit, struct clock *clock, struct irq_line irq);
void pit_reset(struct pit *pit);

/* OUT pin of a channel now. */
bool pit_out(struct pit *pit, unsigned channel);

extern const struct io_ops pit_ops, pit_port61_ops;

#endif
