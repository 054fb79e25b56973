/*
 * Which engine runs a VM, and why.
 */
#ifndef STRATA_CLI_ENGINES_H
#define STRATA_CLI_ENGINES_H

#include "cli/run_options.h"

enum { ENGINE_REASON_MAX = 320 };

/*
 * The engine for these options, probed. NULL if there is none; `status` is then the exit status. `reason` says in one
 * line, without prefix, what was chosen or what is missing.
 */
const struct engine_ops *engines_choose(const struct run_options *options, char reason[ENGINE_REASON_MAX], int *status);

#endif
