/*
 * --stats: the counters of a run, as a table for people or as JSON for programs.
 */
#ifndef STRATA_CLI_STATS_H
#define STRATA_CLI_STATS_H

#include "base/counters.h"

#include <stdio.h>

struct stats {
	const char *engine;
	int status; /* exit status */
	u64 run_ns;
	unsigned resets;
	const struct counters *counters; /* summed over the CPUs; NULL if the engine has none */
};

void stats_print_table(FILE *out, const struct stats *stats);

/*
 * One object: {"engine", "status", "seconds", "resets", "counters": {name: n, ...}, "instructions_per_second",
 * "vm_exits_by_reason": {name: n, ...}, "handlers_called": {instruction: n, ...}}, only what occurred.
 */
void stats_print_json(FILE *out, const struct stats *stats);

#endif
