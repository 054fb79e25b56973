/*
 * What memory is known to hold: values that a trace itself has stored, of registers that still have them. Loads of
 * those need not look.
 *
 * The own store is what a load behind it sees, unless somebody else writes in between: another CPU, so this is for
 * machines of one; or a device, which nothing in a trace waits for, since asking a device ends in a handler. And the
 * store must have gone to plain memory: both must be in one group, whose leader sees to that.
 *
 * Owner and thread: the translator's.
 */
#ifndef STRATA_JIT_KNOWN_H
#define STRATA_JIT_KNOWN_H

#include "jit/tracker.h"

enum { KNOWN_STORES = 8 };

struct known {
	struct known_store {
		struct access at;
		struct value value;    /* of the register that was stored */
		const struct plan *by; /* NULL: nothing is known here */
	} store[KNOWN_STORES];
	unsigned next; /* to be replaced */
};

/*
 * If the instruction only reads an operand that lies at `at`, and a register has what is there: fills in p->known. The
 * store; or NULL. `k`: before the instruction.
 */
const struct plan *known_find(const struct known *known, const struct tracker *k, struct plan *p,
			      const struct access *at);
/* What is known behind the instruction; `at`: its operand, or NULL. `k`: before it. */
void known_follow(struct known *known, const struct tracker *k, const struct plan *p, const struct access *at);

#endif
