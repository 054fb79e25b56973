/*
 * CPU features as CPUID reports them, one line each in feature.def. FEATURE_BASE is always there.
 */
#ifndef STRATA_X86_FEATURE_H
#define STRATA_X86_FEATURE_H

#include "base/types.h"

#include <stdbool.h>

enum feature {
	FEATURE_BASE,
#define X(name, leaf, subleaf, reg, bit, source) FEATURE_##name,
#include "x86/feature.def"
#undef X
	FEATURE_COUNT
};

/* A set of features: feature n is bit n % 8 of byte n / 8. */
enum { FEATURE_SET_BYTES = 32 };
_Static_assert(FEATURE_COUNT <= 8 * FEATURE_SET_BYTES, "a bit for each feature");

static inline bool feature_in(const u8 set[FEATURE_SET_BYTES], enum feature feature)
{
	return set[feature / 8] >> (feature % 8) & 1;
}

/* The name in lower case, as options take it; NULL for FEATURE_BASE. It lasts until the thread's next call. */
const char *feature_name(enum feature feature);

/* What a list of features asks for. */
struct feature_choice {
	u8 less[FEATURE_SET_BYTES], more[FEATURE_SET_BYTES];
};

/*
 * Takes a list "-NAME,+NAME,...": features to go without, and ones to have. The last word about a feature counts.
 * Returns NULL, or the first word that names no feature that `may` lets through (pointing into `list`); `more` is how
 * it is asked for.
 */
const char *feature_list(const char *list, bool (*may)(enum feature feature, bool more), struct feature_choice *choice);

#endif
