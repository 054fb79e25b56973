/*
 * The debug-exit port (--debug-exit): a guest write of V ends the run with status (V << 1) | 1, modulo 256.
 * The board maps debugexit_ops at the chosen port, DEBUGEXIT_PORTS ports.
 *
 * Owner: the board, by value. Threads: `exit` is called on the writing CPU's thread, with the board lock held.
 */
#ifndef STRATA_DEV_DEBUGEXIT_H
#define STRATA_DEV_DEBUGEXIT_H

#include "base/types.h"
#include "bus/bus.h"

enum { DEBUGEXIT_PORTS = 4 };

struct debugexit {
	void (*exit)(void *opaque, int status);
	void *opaque;
};

void debugexit_init(struct debugexit *dx, void (*exit)(void *opaque, int status), void *opaque);

extern const struct io_ops debugexit_ops;

#endif
