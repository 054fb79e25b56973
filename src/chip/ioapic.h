/*
 * The I/O APIC: 24 inputs, each with a redirection entry (82093AA data sheet; version 0x20 adds the EOI register).
 * Input levels are logical: true is "asserted", whatever polarity the guest programs.
 *
 * Life: ioapic_init() (joins the APIC bus as listener for EOIs), ioapic_reset() at RESET. The board maps ioapic_ops at
 * IOAPIC_DEFAULT_BASE and wires devices' lines to ioapic_set_irq().
 *
 * Owner: the board, by value. Threads: every call with the board lock held.
 */
#ifndef STRATA_CHIP_IOAPIC_H
#define STRATA_CHIP_IOAPIC_H

#include "base/types.h"
#include "bus/bus.h"
#include "chip/apic_bus.h"

#define IOAPIC_DEFAULT_BASE 0xfec00000ULL
#define IOAPIC_PAGE_SIZE    0x1000ULL
#define IOAPIC_PINS         24u

struct ioapic {
	u8 id;
	u8 index; /* IOREGSEL */
	u64 redirection[IOAPIC_PINS];
	u32 level; /* input levels, bit n is pin n */
	struct apic_bus *bus;
};

/* 0, or -ENOSPC if the APIC bus has no room. */
int ioapic_init(struct ioapic *ioapic, struct apic_bus *bus);
void ioapic_reset(struct ioapic *ioapic);

/* Level of pin `pin` (0..23); others are ignored. An irq_line.set: controller is the ioapic. */
void ioapic_set_irq(void *ioapic, unsigned pin, bool level);

/* Memory range of IOAPIC_PAGE_SIZE; device is the ioapic. */
extern const struct io_ops ioapic_ops;

#endif
