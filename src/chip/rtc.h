/*
 * The MC146818 real-time clock with 128 bytes of CMOS memory, and the ICH9's second bank of 128.
 *
 * Time of day comes from the caller's wall clock (ns since 1970, UTC); what the guest sets is kept as a difference to
 * it. Update, alarm and periodic interrupts follow the VM's clock; without an interrupt enabled, flags are found when
 * read.
 *
 * Life: rtc_init(), rtc_set_memory(), rtc_reset() at RESET (memory and time stay). The board maps rtc_ops at 0x70
 * (RTC_PORTS ports). Line out: irq (IRQ 8); where an HPET exists, wire it through hpet_legacy_input().
 *
 * Owner: the board, by value. Threads: every call with the board lock held.
 */
#ifndef STRATA_CHIP_RTC_H
#define STRATA_CHIP_RTC_H

#include "base/clock.h"
#include "base/types.h"
#include "bus/bus.h"

enum { RTC_PORTS = 4, RTC_CMOS_SIZE = 256 };

struct rtc {
	u8 index, index_high;   /* ports 0x70 (without the NMI bit) and 0x72 */
	u8 cmos[RTC_CMOS_SIZE]; /* registers too; the time of day as it was when last looked at */
	i64 offset;             /* ns: guest's time of day minus the wall clock */
	i64 update_seen;        /* second up to which updates are in register C */
	u64 periodic_seen;      /* tick up to which periodic events are in register C */
	struct timer update, periodic;
	struct clock *clock;
	u64 (*wall)(void *opaque);
	void *opaque;
	struct irq_line irq;
};

void rtc_init(struct rtc *rtc, struct clock *clock, u64 (*wall)(void *opaque), void *opaque, struct irq_line irq);
void rtc_reset(struct rtc *rtc);

/* Fills the bytes by which PC firmware learns of RAM (0x15 to 0x18, 0x30, 0x31, 0x34, 0x35, 0x5b to 0x5d) and CPUs
 * (0x5f). */
void rtc_set_memory(struct rtc *rtc, u64 below_4g, u64 above_4g, unsigned cpus);

extern const struct io_ops rtc_ops;

#endif
