/*
 * The local APIC's timer: SDM vol. 3, 11.5.4. A part of lapic.c, apart because its subject is time. Nobody else
 * includes it.
 */
#ifndef STRATA_CHIP_LAPIC_TIMER_H
#define STRATA_CHIP_LAPIC_TIMER_H

#include "chip/lapic.h"

#define LVT_MASKED          BIT(16)
#define LVT_TIMER_MODE_MASK (3u << 17)
#define LVT_TIMER_ONE_SHOT  (0u << 17)
#define LVT_TIMER_PERIODIC  (1u << 17)
#define LVT_TIMER_DEADLINE  (2u << 17)

void lapic_timer_init(struct lapic *lapic);
/* RESET and INIT: no count, no deadline. */
void lapic_timer_reset(struct lapic *lapic);

void lapic_timer_write_lvt(struct lapic *lapic, u32 value);
void lapic_timer_write_initial(struct lapic *lapic, u32 value);
void lapic_timer_write_divide(struct lapic *lapic, u32 value);
u32 lapic_timer_current(struct lapic *lapic);

void lapic_timer_write_deadline(struct lapic *lapic, u64 value);
u64 lapic_timer_read_deadline(struct lapic *lapic);

/* lapic.c: the timer's interrupt, by its LVT entry. */
void lapic_timer_expired(struct lapic *lapic);

#endif
