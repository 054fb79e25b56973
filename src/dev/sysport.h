/*
 * The chip set's single-port registers: fast A20 and reset (0x92), POST codes (0x80), reset control (0xcf9).
 *
 * Life: sysport_init(), sysport_reset() at RESET. The board maps sysport_92_ops at 0x92 and sysport_post_ops at 0x80 (1
 * port each), and gives sysport_cf9_ops to the PCI host bridge (pci_host.cf9_ops), whose address register surrounds
 * that port. `reset` is called, with the board lock held, when the guest asks for a reset.
 *
 * Owner: the board, by value. Threads: every call with the board lock held.
 */
#ifndef STRATA_DEV_SYSPORT_H
#define STRATA_DEV_SYSPORT_H

#include "base/types.h"
#include "bus/bus.h"

struct sysport {
	u8 port92, cf9, post;
	void (*reset)(void *opaque);
	void *opaque;
};

void sysport_init(struct sysport *ports, void (*reset)(void *opaque), void *opaque);
void sysport_reset(struct sysport *ports);

extern const struct io_ops sysport_92_ops, sysport_post_ops, sysport_cf9_ops;

#endif
