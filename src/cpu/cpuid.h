/*
 * What the files of CPUID share.
 */
#ifndef STRATA_CPU_CPUID_H
#define STRATA_CPU_CPUID_H

#include "cpu/internal.h"

/* The answer: out[EAX] and so on. */
enum { EAX, EBX, ECX, EDX };

/* Sets all feature bits of a leaf. */
void cpuid_add_features(const struct cpu_config *config, u32 leaf, u32 subleaf, u32 out[4]);

/* One cache of the model that every leaf about caches describes. type: 1 data, 2 code, 3 unified. */
struct cpuid_cache {
	u8 type, level, ways;
	u16 sets; /* of 64-byte lines */
};

/* The cache that a subleaf of leaf 4 or 8000001DH names; NULL beyond the last. */
const struct cpuid_cache *cpuid_cache(u32 subleaf);
/* EAX to ECX of both of these leaves, but for bits 31:26 of EAX, which are Intel's alone. */
void cpuid_cache_leaf(const struct cpu_config *config, u32 subleaf, u32 out[4]);

/* --- cpuid_amd.c --- */

#define CPUID_AMD_MAX_BASIC    0xd
#define CPUID_AMD_MAX_EXTENDED 0x80000021

/* Family 19h, model 01h: guests warn of models they do not know. */
#define CPUID_AMD_SIGNATURE 0x00a00f11

/* Extended leaves as AMD has them; `out` is zero. */
void cpuid_amd_extended(struct cpu *cpu, u32 leaf, u32 subleaf, u32 out[4]);

#endif
