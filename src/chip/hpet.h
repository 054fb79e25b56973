/*
 * The high precision event timer (IA-PC HPET specification 1.0a): a 64-bit counter of 100 MHz and three comparators,
 * all of them periodic-capable, with legacy replacement routing; no FSB messages.
 *
 * Life: hpet_init(), hpet_reset() at RESET. The board maps hpet_ops at HPET_DEFAULT_BASE (HPET_PAGE_SIZE bytes).
 * Lines out: `gsi` (its input is ignored: the HPET passes the I/O APIC pin it routes to), and legacy[0] (IRQ 0),
 * legacy[1] (IRQ 8). The PIT and the RTC are wired to hpet_legacy_input() 0 and 1: the HPET passes them on to legacy[]
 * unless legacy replacement is on.
 *
 * Owner: the board, by value. Threads: every call with the board lock held.
 */
#ifndef STRATA_CHIP_HPET_H
#define STRATA_CHIP_HPET_H

#include "base/clock.h"
#include "base/types.h"
#include "bus/bus.h"

#define HPET_DEFAULT_BASE 0xfed00000ULL
#define HPET_PAGE_SIZE    0x400ULL
#define HPET_TIMERS       3u
#define HPET_PERIOD_NS    10ULL
/* Low half of General Capabilities and ID, as the ACPI table repeats it. */
#define HPET_ID 0x8086a201u

struct hpet_timer {
	u64 config;
	u64 comparator;
	u64 period; /* periodic mode: what is added at each match */
	struct timer timer;
	struct hpet *hpet;
	u32 missed; /* periods that went by unseen and are still to be made up for */
};

struct hpet {
	u64 config;
	u64 status;  /* bit n: level-triggered timer n is active */
	u64 counter; /* value while halted; otherwise value at `started` */
	u64 started; /* clock ns */
	struct hpet_timer timer[HPET_TIMERS];
	bool legacy_in[2];
	bool line[HPET_TIMERS]; /* level each timer drives */
	struct clock *clock;
	struct irq_line gsi;
	struct irq_line legacy[2];
};

void hpet_init(struct hpet *hpet, struct clock *clock, struct irq_line gsi, struct irq_line irq0, struct irq_line irq8);
void hpet_reset(struct hpet *hpet);

/* The PIT's (0) and the RTC's (1) interrupt. An irq_line.set: controller is the hpet. */
void hpet_legacy_input(void *hpet, unsigned input, bool level);

extern const struct io_ops hpet_ops;

#endif
