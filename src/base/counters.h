/*
 * The counters of one virtual CPU. The CPU's own thread alone writes them; others may read a slightly old value.
 */
#ifndef STRATA_BASE_COUNTERS_H
#define STRATA_BASE_COUNTERS_H

#include "base/types.h"

enum { COUNTERS_EXIT_REASONS = 128 + 196, COUNTERS_SVM_EXITS = 128, COUNTERS_HANDLERS = 2048 };

struct counters {
#define X(name, text) u64 name;
#include "base/counters.def"
#undef X
	/*
	 * VM exits by basic exit reason (Intel SDM vol. 3, appendix C); those of AMD-V from COUNTERS_SVM_EXITS on, by
	 * svm_exit_slot().
	 */
	u64 exit_reason[COUNTERS_EXIT_REASONS];
	/* Handlers called from translated code, by number of the instruction's row (cpu/insn.h). */
	u64 handler[COUNTERS_HANDLERS];
};

static inline void counters_add(struct counters *sum, const struct counters *one)
{
#define X(name, text) sum->name += one->name;
#include "base/counters.def"
#undef X
	for (unsigned i = 0; i < COUNTERS_EXIT_REASONS; i++)
		sum->exit_reason[i] += one->exit_reason[i];
	for (unsigned i = 0; i < COUNTERS_HANDLERS; i++)
		sum->handler[i] += one->handler[i];
}

#endif
