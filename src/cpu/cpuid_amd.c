/*
 * CPUID of a CPU that presents itself as AMD's (APM vol. 3, appendix E): the extended leaves. Basic leaves that Intel
 * alone has read 0.
 */
#include "cpu/cpuid.h"
#include "x86/feature.h"
#include "x86/vmcb.h"

#include <string.h>

/* Feature bits of leaf 1, EDX, which AMD repeats in leaf 80000001H. */
#define REPEATED_EDX 0x0183f3ffu

static void leaf_features(struct cpu *cpu, u32 out[4])
{
	u32 basic[4];
	cpuid_query(cpu, 1, 0, basic);
	out[EAX] = CPUID_AMD_SIGNATURE;
	out[EDX] = basic[EDX] & REPEATED_EDX;
	cpuid_add_features(cpu->config, 0x80000001, 0, out);
	if (cpu->config->cpu_count > 1)
		out[ECX] |= 1u << 1; /* the CPUs of leaf 1, EBX are cores, not threads */
}

/* L1 caches and TLBs: KiB, ways, lines a tag, bytes a line; entries and ways. */
static void leaf_l1(u32 out[4])
{
	const u32 tlb = 0xff40ff40, cache = 32u << 24 | 8 << 16 | 1 << 8 | 64;
	out[EAX] = out[EBX] = tlb;
	out[ECX] = out[EDX] = cache;
}

/* L2 and L3: KiB (L3: units of 512 KiB), ways as a code (8: 16 ways), lines a tag, bytes a line. */
static void leaf_l2(u32 out[4])
{
	out[ECX] = 1024u << 16 | 8 << 12 | 1 << 8 | 64;
	out[EDX] = 32u << 18 | 8 << 12 | 1 << 8 | 64;
}

static unsigned core_id_bits(const struct cpu_config *config)
{
	return config->cpu_count > 1 ? 32 - (unsigned)__builtin_clz(config->cpu_count - 1) : 0;
}

static void leaf_sizes(const struct cpu_config *config, u32 out[4])
{
	out[EAX] = config->phys_bits | (config->features[FEATURE_LA57 / 8] >> FEATURE_LA57 % 8 & 1 ? 57u : 48u) << 8;
	cpuid_add_features(config, 0x80000008, 0, out);
	out[ECX] = (config->cpu_count - 1) | core_id_bits(config) << 12;
}

static void leaf_svm(const struct cpu_config *config, u32 out[4])
{
	if (config->nested != NESTED_SVM)
		return;
	out[EAX] = 1; /* revision */
	out[EBX] = SVM_ASIDS;
	cpuid_add_features(config, 0x8000000a, 0, out);
}

void cpuid_amd_extended(struct cpu *cpu, u32 leaf, u32 subleaf, u32 out[4])
{
	const struct cpu_config *config = cpu->config;

	switch (leaf) {
	case 0x80000000:
		out[EAX] = CPUID_AMD_MAX_EXTENDED;
		memcpy(&out[EBX], "Auth", 4);
		memcpy(&out[EDX], "enti", 4);
		memcpy(&out[ECX], "cAMD", 4);
		break;
	case 0x80000001:
		leaf_features(cpu, out);
		break;
	case 0x80000005:
		leaf_l1(out);
		break;
	case 0x80000006:
		leaf_l2(out);
		break;
	case 0x80000007:
		out[EDX] = 1 << 8;
		break; /* invariant TSC */
	case 0x80000008:
		leaf_sizes(config, out);
		break;
	case 0x8000000a:
		leaf_svm(config, out);
		break;
	case 0x8000001d:
		cpuid_cache_leaf(config, subleaf, out);
		break;
	case 0x8000001e:
		out[EAX] = config->cpu_index;
		out[EBX] = config->cpu_index; /* one thread a core */
		break;
	case 0x80000021:
		cpuid_add_features(config, leaf, 0, out);
		break;
	default:
		break;
	}
}
