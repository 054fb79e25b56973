/*
 * CPU features as CPUID reports them, one line each in feature.def. FEATURE_BASE is always there.
 */
#ifndef STRATA_X86_FEATURE_H
#define STRATA_X86_FEATURE_H

enum feature {
	FEATURE_BASE,
#define X(name, leaf, subleaf, reg, bit, source) FEATURE_##name,
#include "x86/feature.def"
#undef X
	FEATURE_COUNT
};

#endif
