/*
 * Which features of its own processor Strata may use. Features that --host-features hides count as not there, so that
 * every choice made by what the host has can be tried on one host.
 *
 * Threads: host_hide() before anything else asks; host_has() from any thread.
 */
#ifndef STRATA_X86_HOST_H
#define STRATA_X86_HOST_H

#include "base/types.h"
#include "x86/feature.h"

/* Does the host execute this feature's instructions? Those on YMM registers only if its kernel saves these. */
bool host_has(enum feature feature);

/*
 * Hides the features of a list "-NAME,-NAME,...". Returns NULL, or the first word that is none of the names that
 * host_feature_name() gives (pointing into `list`).
 */
const char *host_hide(const char *list);

/* The name, lower case, if something is chosen by this feature; else NULL. */
const char *host_feature_name(enum feature feature);

#endif
