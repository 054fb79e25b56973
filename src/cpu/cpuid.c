/*
 * CPUID: features come from x86/feature.def, the rest is written out leaf by leaf (SDM vol. 2, "CPUID"). The CPU calls
 * itself AMD's if it has AMD-V, and Intel's otherwise; cpuid_amd.c has what is AMD's alone.
 */
#include "cpu/cpuid.h"
#include "cpu/native.h"
#include "x86/feature.h"
#include "x86/host.h"
#include "x86/msr.h"

#include <errno.h>
#include <string.h>

/* Family 6; a model number that Intel gave to no processor, so that no guest looks for that one's errata. */
enum { SIGNATURE = 0x000e06a0 };
enum { MAX_BASIC = 0x1f, MAX_HYPERVISOR = 0x40000010, MAX_EXTENDED = 0x80000008 };
/* The "crystal" of leaf 15h: guests take it for the APIC timer's rate, so it must be chip/lapic.h's. */
enum { CRYSTAL_KHZ = 1000000 };
enum { DEFAULT_PHYS_BITS = 40 };

enum source { OURS, HOST };

static const struct feature_row {
	u32 leaf;
	u8 subleaf, reg, bit, source;
} rows[FEATURE_COUNT] = {
#define A                                        EAX
#define B                                        EBX
#define C                                        ECX
#define D                                        EDX
#define X(name, leaf, subleaf, reg, bit, source) [FEATURE_##name] = { leaf, subleaf, reg, bit, source },
#include "x86/feature.def"
#undef X
#undef A
#undef B
#undef C
#undef D
};

/* --- what the features are --- */

/* Features that only one vendor's CPUs have. */
static bool fits_vendor(const struct cpu_config *config, unsigned feature)
{
	bool amd = config->nested == NESTED_SVM;
	switch (feature) {
	case FEATURE_VMX:
		return config->nested == NESTED_VTX;
	case FEATURE_ARCH_CAPABILITIES:
	case FEATURE_IBRS:
	case FEATURE_STIBP:
	case FEATURE_BHI_CTRL:
	case FEATURE_MCDT_NO:
	case FEATURE_NO_FCS_FDS:
	case FEATURE_PKS:
	case FEATURE_PDCM:
	case FEATURE_ARCH_PERFMON:
	case FEATURE_MPX:
		return !amd;
	case FEATURE_SVM:
	case FEATURE_TOPOEXT:
	case FEATURE_PERFCTR_CORE:
	case FEATURE_RSTR_FP_ERR_PTRS:
		return amd;
	default:
		return amd || (rows[feature].leaf != 0x8000000a && rows[feature].leaf != 0x80000021);
	}
}

/* Features that a CPU has only if it is asked for: those that processors of today have no more. */
static bool is_extra(enum feature feature)
{
	return feature == FEATURE_MPX;
}

bool cpu_may_choose(enum feature feature, bool more)
{
	if (more)
		return is_extra(feature);
	switch (feature) {
	case FEATURE_MONITOR:
	case FEATURE_PCID:
	case FEATURE_X2APIC:
	case FEATURE_XSAVE:
	case FEATURE_AVX:
	case FEATURE_FSGSBASE:
	case FEATURE_SMEP:
	case FEATURE_SMAP:
	case FEATURE_INVPCID:
	case FEATURE_UMIP:
	case FEATURE_PKU:
	case FEATURE_PKS:
	case FEATURE_LA57:
	case FEATURE_RDPID:
	case FEATURE_RDTSCP:
	case FEATURE_ARCH_PERFMON:
	case FEATURE_PDCM:
	case FEATURE_PERFCTR_CORE:
		return true;
	default:
		return rows[feature].leaf == 0x8000000a;
	}
}

static bool is_offered(const struct cpu_config *config, unsigned feature)
{
	if (!fits_vendor(config, feature) || feature_in(config->choice.less, feature))
		return false;
	if (is_extra((enum feature)feature) && !feature_in(config->choice.more, feature))
		return false;
	if (rows[feature].source == HOST && !host_has(feature))
		return false;
	/* Nobody watches the monitored line; see MONITOR. */
	if (feature == FEATURE_MONITOR)
		return config->cpu_count <= 1;
	return true;
}

static void set_feature(struct cpu_config *config, unsigned feature, bool on)
{
	u8 bit = (u8)(1 << (feature % 8)), *byte = &config->features[feature / 8];
	*byte = on ? *byte | bit : *byte & (u8)~bit;
}

static bool has(const struct cpu_config *config, unsigned feature)
{
	return feature_in(config->features, feature);
}

/* Takes back what is nothing without another feature. The needed ones stand first. */
static void take_back(struct cpu_config *config)
{
	static const struct {
		u8 feature, needs;
	} needs[] = {
		{ FEATURE_AVX, FEATURE_XSAVE },
		{ FEATURE_XSAVEOPT, FEATURE_XSAVE },
		{ FEATURE_XSAVEC, FEATURE_XSAVE },
		{ FEATURE_XGETBV1, FEATURE_XSAVE },
		{ FEATURE_XSAVES, FEATURE_XSAVE },
		{ FEATURE_AVX2, FEATURE_AVX },
		{ FEATURE_FMA, FEATURE_AVX },
		{ FEATURE_F16C, FEATURE_AVX },
		{ FEATURE_PDCM, FEATURE_ARCH_PERFMON },
		{ FEATURE_GMET, FEATURE_NPT },
		{ FEATURE_PAUSE_THRESHOLD, FEATURE_PAUSE_FILTER },
		{ FEATURE_X2AVIC, FEATURE_AVIC },
		{ FEATURE_MPX, FEATURE_XSAVE },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
		if (!has(config, needs[i].needs))
			set_feature(config, needs[i].feature, false);
}

int cpu_cpuid_init(struct cpu_config *config)
{
	static const u8 required[] = { FEATURE_SSE2, FEATURE_SSE3, FEATURE_SSSE3, FEATURE_SSE41, FEATURE_SSE42 };

	memset(config->features, 0, sizeof(config->features));
	if (config->phys_bits == 0)
		config->phys_bits = DEFAULT_PHYS_BITS;
	set_feature(config, FEATURE_BASE, true);
	for (unsigned f = FEATURE_BASE + 1; f < FEATURE_COUNT; f++)
		set_feature(config, f, is_offered(config, f));
	take_back(config);
	for (unsigned i = 0; i < ARRAY_SIZE(required); i++)
		if (!has(config, required[i]))
			return -ENOTSUP;
	return 0;
}

/* --- leaves --- */

void cpuid_add_features(const struct cpu_config *config, u32 leaf, u32 subleaf, u32 out[4])
{
	for (unsigned f = FEATURE_BASE + 1; f < FEATURE_COUNT; f++)
		if (rows[f].leaf == leaf && rows[f].subleaf == subleaf && has(config, f))
			out[rows[f].reg] |= 1u << rows[f].bit;
}

static void set_text(u32 *out, const char *text, unsigned bytes)
{
	memcpy(out, text, bytes);
}

static void leaf_vendor(const struct cpu_config *config, u32 out[4])
{
	bool amd = config->nested == NESTED_SVM;
	out[EAX] = amd ? CPUID_AMD_MAX_BASIC : MAX_BASIC;
	set_text(&out[EBX], amd ? "Auth" : "Genu", 4);
	set_text(&out[EDX], amd ? "enti" : "ineI", 4);
	set_text(&out[ECX], amd ? "cAMD" : "ntel", 4);
}

static void leaf_version(struct cpu *cpu, u32 out[4])
{
	const struct cpu_config *config = cpu->config;
	u64 apic_base = 0;

	cpuid_add_features(config, 1, 0, out);
	out[EAX] = config->nested == NESTED_SVM ? CPUID_AMD_SIGNATURE : SIGNATURE;
	/* APIC id, logical CPUs, CLFLUSH line in units of 8 bytes. */
	out[EBX] = config->cpu_index << 24 | config->cpu_count << 16 | 8 << 8;
	out[ECX] |= 1u << 31; /* a hypervisor is present */
	if (cpu->cr4 & CR4_OSXSAVE)
		out[ECX] |= 1u << 27;
	if (config->cpu_count > 1)
		out[EDX] |= 1u << 28; /* HTT: the count in EBX is valid */
	if (cpu->platform->apic_msr_read &&
	    cpu->platform->apic_msr_read(cpu->platform->opaque, MSR_APIC_BASE, &apic_base) && !(apic_base & BIT(11)))
		out[EDX] &= ~(1u << 9);
}

const struct cpuid_cache *cpuid_cache(u32 subleaf)
{
	static const struct cpuid_cache caches[] = {
		{ 1, 1, 8, 64 }, { 2, 1, 8, 64 }, { 3, 2, 16, 1024 }, { 3, 3, 16, 16384 }
	};
	return subleaf < ARRAY_SIZE(caches) ? &caches[subleaf] : NULL;
}

void cpuid_cache_leaf(const struct cpu_config *config, u32 subleaf, u32 out[4])
{
	const struct cpuid_cache *cache = cpuid_cache(subleaf);

	if (!cache)
		return;
	u32 sharing = cache->level == 3 ? config->cpu_count - 1 : 0;
	out[EAX] = cache->type | (u32)cache->level << 5 | 1 << 8 | sharing << 14;
	out[EBX] = (64 - 1) | (u32)(cache->ways - 1) << 22;
	out[ECX] = cache->sets - 1u;
}

/* Deterministic cache parameters. */
static void leaf_cache(const struct cpu_config *config, u32 subleaf, u32 out[4])
{
	cpuid_cache_leaf(config, subleaf, out);
	if (cpuid_cache(subleaf))
		out[EAX] |= (config->cpu_count - 1) << 26;
}

/* Extended topology: one thread a core, all cores in one package. */
static void leaf_topology(const struct cpu_config *config, u32 subleaf, u32 out[4])
{
	unsigned core_bits = config->cpu_count > 1 ? 32 - (unsigned)__builtin_clz(config->cpu_count - 1) : 0;

	out[ECX] = subleaf & 0xff;
	out[EDX] = config->cpu_index;
	if (subleaf == 0) {
		out[EBX] = 1;
		out[ECX] |= 1 << 8;
	} else if (subleaf == 1) {
		out[EAX] = core_bits;
		out[EBX] = config->cpu_count;
		out[ECX] |= 2 << 8;
	}
}

static void leaf_xsave(struct cpu *cpu, u32 subleaf, u32 out[4])
{
	const struct cpu_config *config = cpu->config;
	u64 all = xsave_supported(cpu);

	if (!has(config, FEATURE_XSAVE))
		return;
	if (subleaf == 0) {
		out[EAX] = (u32)all;
		out[EBX] = xsave_size(cpu, cpu->xcr0, false);
		out[ECX] = xsave_size(cpu, all, false);
	} else if (subleaf == 1) {
		cpuid_add_features(config, 0xd, 1, out);
		out[EBX] = xsave_size(cpu, cpu->xcr0, true);
	} else if (subleaf < 32 && all >> subleaf & 1) {
		out[EAX] = xsave_component(cpu, BIT(subleaf), &out[EBX]);
	}
}

/* Performance monitoring: how much of it, and which of the seven architectural events are not counted (pmu.c). */
static void leaf_perfmon(const struct cpu_config *config, u32 out[4])
{
	const u32 width = 48, events = 7, cache_and_misses = 0x58;

	cpuid_add_features(config, 0xa, 0, out);
	if (!out[EAX])
		return;
	out[EAX] |= 4 << 8 | width << 16 | events << 24;
	out[EBX] = cache_and_misses;
	out[EDX] = PMU_FIXED | width << 5;
}

static u32 greatest_common_divisor(u32 a, u32 b)
{
	while (b) {
		u32 r = a % b;
		a = b;
		b = r;
	}
	return a;
}

/* TSC = crystal * EBX / EAX, exactly. */
static void leaf_tsc(const struct cpu_config *config, u32 out[4])
{
	u32 g = greatest_common_divisor(config->tsc_khz, CRYSTAL_KHZ);
	if (config->tsc_khz == 0)
		return;
	out[EAX] = CRYSTAL_KHZ / g;
	out[EBX] = config->tsc_khz / g;
	out[ECX] = CRYSTAL_KHZ * 1000u;
}

/* Leaves that are Intel's alone. */
static bool is_intel_leaf(u32 leaf)
{
	return leaf == 2 || leaf == 4 || leaf == 0x15 || leaf == 0x16;
}

static void query_basic(struct cpu *cpu, u32 leaf, u32 subleaf, u32 out[4])
{
	const struct cpu_config *config = cpu->config;

	switch (leaf) {
	case 0:
		leaf_vendor(config, out);
		break;
	case 1:
		leaf_version(cpu, out);
		break;
	case 2:
		out[EAX] = 0x0000ff01;
		break; /* "see leaf 4" */
	case 4:
		leaf_cache(config, subleaf, out);
		break;
	case 5:
		if (has(config, FEATURE_MONITOR)) {
			out[EAX] = out[EBX] = 64;
			out[ECX] = 3;      /* extensions enumerated; interrupts wake with IF = 0 */
			out[EDX] = 1 << 4; /* one C1 state */
		}
		break;
	case 6:
		out[EAX] = 1 << 2;
		break; /* the APIC timer never stops */
	case 7:
		if (subleaf == 0)
			out[EAX] = has(config, FEATURE_BHI_CTRL) ? 2 : 0; /* the last subleaf */
		cpuid_add_features(config, 7, subleaf, out);
		if (subleaf == 0 && (cpu->cr4 & CR4_PKE))
			out[ECX] |= 1 << 4; /* OSPKE */
		break;
	case 0xa:
		leaf_perfmon(config, out);
		break;
	case 0xb:
	case 0x1f: /* the same without modules, tiles and dies */
		leaf_topology(config, subleaf, out);
		break;
	case 0xd:
		leaf_xsave(cpu, subleaf, out);
		break;
	case 0x15:
		leaf_tsc(config, out);
		break;
	case 0x16:
		out[EAX] = out[EBX] = config->tsc_khz / 1000;
		out[ECX] = 100;
		break;
	default:
		break; /* reserved */
	}
}

static void query_hypervisor(const struct cpu_config *config, u32 leaf, u32 out[4])
{
	if (leaf == 0x40000000) {
		out[EAX] = MAX_HYPERVISOR;
		set_text(&out[EBX], "StrataStrata", 12);
	} else if (leaf == 0x40000010) {
		out[EAX] = config->tsc_khz;
		out[EBX] = CRYSTAL_KHZ;
	}
}

static void query_extended(struct cpu *cpu, u32 leaf, u32 out[4])
{
	static const char brand[48] = "Strata virtual CPU";
	const struct cpu_config *config = cpu->config;

	switch (leaf) {
	case 0x80000000:
		out[EAX] = MAX_EXTENDED;
		break;
	case 0x80000001:
		cpuid_add_features(config, leaf, 0, out);
		break;
	case 0x80000002:
	case 0x80000003:
	case 0x80000004:
		set_text(out, brand + 16 * (leaf - 0x80000002), 16);
		break;
	case 0x80000006:
		out[ECX] = 1024 << 16 | 8 << 12 | 64;
		break; /* L2: 1 MByte, 16 ways, 64-byte lines */
	case 0x80000007:
		out[EDX] = 1 << 8;
		break; /* invariant TSC */
	case 0x80000008:
		out[EAX] = config->phys_bits | (has(config, FEATURE_LA57) ? 57u : 48u) << 8;
		break;
	default:
		break;
	}
}

void cpuid_query(struct cpu *cpu, u32 leaf, u32 subleaf, u32 out[4])
{
	bool amd = cpu->config->nested == NESTED_SVM;

	memset(out, 0, 4 * sizeof(out[0]));
	if (leaf >= 0x80000000 && leaf <= (amd ? CPUID_AMD_MAX_EXTENDED : MAX_EXTENDED)) {
		bool brand = leaf >= 0x80000002 && leaf <= 0x80000004;
		if (amd && !brand)
			cpuid_amd_extended(cpu, leaf, subleaf, out);
		else
			query_extended(cpu, leaf, out);
	} else if (leaf >= 0x40000000 && leaf <= 0x4fffffff) {
		query_hypervisor(cpu->config, leaf, out);
	} else if (!amd) {
		/* Intel's CPUs answer leaves beyond the last with the last basic one. */
		query_basic(cpu, leaf <= MAX_BASIC ? leaf : MAX_BASIC, subleaf, out);
	} else if (leaf <= CPUID_AMD_MAX_BASIC && !is_intel_leaf(leaf)) {
		query_basic(cpu, leaf, subleaf, out);
	}
}
