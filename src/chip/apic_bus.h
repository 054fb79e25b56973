/*
 * What carries interrupt messages between local APICs, I/O APICs and devices with message-signalled interrupts: the
 * system bus of SDM vol. 3, 11.1. It knows every local APIC of the VM and finds those a message names.
 *
 * Invariants: lapic[n] is set once, before the machine runs, and never changes. Messages are delivered at once; the bus
 * keeps none.
 *
 * Owner: the board, by value. Threads: every call with the board lock held.
 */
#ifndef STRATA_CHIP_APIC_BUS_H
#define STRATA_CHIP_APIC_BUS_H

#include "base/types.h"
#include "bus/bus.h"

struct lapic;

enum { APIC_BUS_MAX_CPUS = 255, APIC_BUS_MAX_IOAPICS = 2 };

/* Delivery mode, as in the ICR, the LVT, redirection entries and MSI data (SDM vol. 3, 11.5.1, 11.6.1, 11.11.2). */
enum apic_delivery {
	APIC_FIXED = 0,
	APIC_LOWEST = 1,
	APIC_SMI = 2,
	APIC_NMI = 4,
	APIC_INIT = 5,
	APIC_STARTUP = 6,
	APIC_EXTINT = 7
};

struct apic_message {
	u32 destination; /* APIC ID, or a logical address if `logical` */
	bool broadcast;  /* everybody; destination is void */
	bool logical;
	bool level;  /* trigger mode: level */
	u8 delivery; /* enum apic_delivery */
	u8 vector;
	const struct lapic *except; /* who does not hear it, though named: the sender of an IPI; NULL: nobody */
};

struct apic_bus {
	struct lapic *lapic[APIC_BUS_MAX_CPUS];
	unsigned count;
	unsigned last_lowest; /* who got the last lowest-priority message: the next tie goes to someone else */
	/* I/O APICs, which hear of every EOI of a level-triggered vector. */
	struct {
		void (*eoi)(void *ioapic, u8 vector);
		void *ioapic;
	} listener[APIC_BUS_MAX_IOAPICS];
	unsigned listeners;
	/* The 8259A pair behind ExtINT: acknowledges its interrupt and gives the vector. NULL without a PIC. */
	int (*extint_ack)(void *opaque);
	void *extint_opaque;
	/*
	 * Whose registers a memory access to the APIC page means: the local APIC of the CPU that does the access. NULL:
	 * CPU 0's. The engine sets it, whose threads run the CPUs.
	 */
	struct lapic *(*current)(void *opaque);
	void *current_opaque;
	/* A CPU's IA32_APIC_BASE moved its register page (the old or new base is 0 if it was or is unmapped). May be
	 * NULL. */
	void (*page_moved)(void *opaque, struct lapic *lapic, u64 old_base, u64 new_base);
	void *page_moved_opaque;
};

void apic_bus_init(struct apic_bus *bus);

/* 0, or -ENOSPC. lapic_init() calls the first, ioapic_init() the second. */
int apic_bus_add(struct apic_bus *bus, struct lapic *lapic);
int apic_bus_add_listener(struct apic_bus *bus, void (*eoi)(void *ioapic, u8 vector), void *ioapic);

/* Delivers to every local APIC that the message names. Returns whether any accepted it. */
bool apic_bus_deliver(struct apic_bus *bus, const struct apic_message *message);

/* A message-signalled interrupt: a device's write of `data` to `address` (0xfeexxxxx; SDM vol. 3, 11.11). */
bool apic_bus_msi(struct apic_bus *bus, u64 address, u32 data);

/* Level of LINT0 (input 0: the PIC's INTR) or LINT1 (input 1: NMI) on every CPU; controller is the apic_bus. */
void apic_bus_set_lint(void *bus, unsigned input, bool level);

/* EOI of a level-triggered vector: tells the I/O APICs. */
void apic_bus_eoi(struct apic_bus *bus, u8 vector);

/*
 * The xAPIC register page, to be mapped once with device = the apic_bus at LAPIC_DEFAULT_BASE, LAPIC_PAGE_SIZE long.
 */
extern const struct io_ops apic_bus_page_ops;

#endif
