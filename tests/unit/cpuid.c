/* CPUID: every feature bit in its place, and the leaves that guests compute with. */
#include "machine.h"

#include "cpu/system.h"
#include "x86/feature.h"
#include "x86/msr.h"

enum { EAX, EBX, ECX, EDX };
#define A EAX
#define B EBX
#define C ECX
#define D EDX
static const struct {
	const char *name;
	u32 leaf, subleaf;
	unsigned reg, bit;
} features[] = {
#define X(name, leaf, subleaf, reg, bit, source) { #name, leaf, subleaf, reg, bit },
#include "x86/feature.def"
#undef X
};
#undef A
#undef B
#undef C
#undef D

static u32 query(struct machine *m, u32 leaf, u32 subleaf, unsigned reg)
{
	u32 out[4];
	cpuid_query(&m->cpu, leaf, subleaf, out);
	return out[reg];
}

/* With one feature alone, its bit is there; without it, it is not. Row n of the .def is FEATURE n + 1. */
static void test_feature_bits(void)
{
	struct machine *m = machine_new();
	for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
		memset(m->config.features, 0, sizeof(m->config.features));
		bool amd = features[i].leaf > 0x80000001;
		m->config.nested = amd ? NESTED_SVM : NESTED_NONE;
		/* Leaf 0Dh says nothing without XSAVE. */
		m->config.features[FEATURE_XSAVE / 8] |= 1 << FEATURE_XSAVE % 8;
		if (i + 1 != FEATURE_XSAVE)
			g_assert_cmphex(
				query(m, features[i].leaf, features[i].subleaf, features[i].reg) >> features[i].bit & 1,
				==, 0);
		m->config.features[(i + 1) / 8] |= (u8)(1 << (i + 1) % 8);
		g_assert_cmphex(query(m, features[i].leaf, features[i].subleaf, features[i].reg) >> features[i].bit & 1,
				==, 1);
	}
	machine_free(m);
}

/* Bits that software knows by heart, so that a wrong number in the table shows. */
static void test_known_bits(void)
{
	struct machine *m = machine_new();
	u32 required = 1u << 0 | 1u << 5 | 1u << 6 | 1u << 8 | 1u << 15 | 1u << 24 | 1u << 25 | 1u << 26;
	g_assert_cmphex(query(m, 1, 0, EDX) & required, ==, required);
	g_assert_true(query(m, 1, 0, ECX) & 1u << 21);          /* x2APIC */
	g_assert_true(query(m, 0x80000001, 0, EDX) & 1u << 29); /* long mode */
	g_assert_true(query(m, 0x80000001, 0, EDX) & 1u << 20); /* NX */
	g_assert_true(query(m, 7, 0, EBX) & 1u << 20);          /* SMAP */
	g_assert_true(query(m, 7, 0, EDX) & 1u << 29);          /* IA32_ARCH_CAPABILITIES */
	g_assert_true(query(m, 7, 0, EDX) & 1u << 26);          /* IA32_SPEC_CTRL, IA32_PRED_CMD */
	g_assert_false(query(m, 7, 0, EDX) & 1u << 31);         /* no SSBD */
	g_assert_cmpuint(query(m, 7, 0, EAX), ==, 2);
	g_assert_true(query(m, 7, 2, EDX) & 1u << 4); /* BHI_DIS_S */
	g_assert_cmphex(query(m, 7, 3, EDX), ==, 0);
	machine_free(m);
}

static void test_vendor(void)
{
	struct machine *m = machine_new();
	u32 out[4];
	cpuid_query(&m->cpu, 0, 0, out);
	g_assert_cmpint(memcmp(&out[EBX], "Genu", 4) | memcmp(&out[EDX], "ineI", 4) | memcmp(&out[ECX], "ntel", 4), ==,
			0);
	char brand[49] = "";
	for (u32 i = 0; i < 3; i++) {
		cpuid_query(&m->cpu, 0x80000002 + i, 0, out);
		memcpy(brand + 16 * i, out, 16);
	}
	g_assert_true(g_str_has_prefix(brand, "Strata virtual CPU"));
	cpuid_query(&m->cpu, 0x40000000, 0, out);
	g_assert_cmpint(memcmp(&out[EBX], "StrataStrata", 12), ==, 0);
	g_assert_true(query(m, 1, 0, ECX) >> 31);
	machine_free(m);
}

static void test_amd_vendor(void)
{
	struct machine *m = machine_new_nested(NESTED_SVM, NULL);
	u32 out[4];
	for (u32 leaf = 0; leaf <= 0x80000000; leaf += 0x80000000) {
		cpuid_query(&m->cpu, leaf, 0, out);
		g_assert_cmpint(memcmp(&out[EBX], "Auth", 4) | memcmp(&out[EDX], "enti", 4) |
					memcmp(&out[ECX], "cAMD", 4),
				==, 0);
		if (leaf)
			break;
	}
	g_assert_cmphex(query(m, 1, 0, EAX), ==, query(m, 0x80000001, 0, EAX));
	g_assert_cmphex(query(m, 1, 0, EAX) >> 8 & 0xf, ==, 0xf); /* family: the extended field counts */
	g_assert_true(query(m, 0x80000001, 0, ECX) & 1u << 2);    /* SVM */
	g_assert_true(query(m, 0x8000000a, 0, EDX) & 1);          /* nested paging */
	g_assert_cmpuint(query(m, 0x8000000a, 0, EBX), >=, 8);    /* ASIDs */
	g_assert_cmphex(query(m, 2, 0, EAX) | query(m, 4, 0, EAX) | query(m, 0x15, 0, EBX), ==, 0);
	g_assert_false(query(m, 1, 0, ECX) & 1u << 5);  /* VMX */
	g_assert_false(query(m, 7, 0, EDX) & 1u << 29); /* IA32_ARCH_CAPABILITIES */
	/* What AMD repeats of leaf 1. */
	g_assert_cmphex((query(m, 1, 0, EDX) ^ query(m, 0x80000001, 0, EDX)) & 0x0183f3ff & ~(1u << 11), ==, 0);
	machine_free(m);
}

static void test_vmx_only_when_nested(void)
{
	struct cpu_config config = { .cpu_count = 1 };
	config.nested = NESTED_NONE;
	g_assert_cmpint(cpu_cpuid_init(&config), ==, 0);
	g_assert_false(config.features[FEATURE_VMX / 8] >> FEATURE_VMX % 8 & 1);
	config.nested = NESTED_VTX;
	g_assert_cmpint(cpu_cpuid_init(&config), ==, 0);
	g_assert_true(config.features[FEATURE_VMX / 8] >> FEATURE_VMX % 8 & 1);
}

/* The architecture of machine checks means nothing without the exception (SDM vol. 3, 16.1). */
static void test_machine_check(void)
{
	struct cpu_config config = { .cpu_count = 1 };
	g_assert_cmpint(cpu_cpuid_init(&config), ==, 0);
	g_assert_true(config.features[FEATURE_MCA / 8] >> FEATURE_MCA % 8 & 1);
	g_assert_true(config.features[FEATURE_MCE / 8] >> FEATURE_MCE % 8 & 1);
}

/* MWAIT would wait for ever on what another CPU writes. */
static void test_monitor_only_alone(void)
{
	struct cpu_config config = { .cpu_count = 2 };
	g_assert_cmpint(cpu_cpuid_init(&config), ==, 0);
	g_assert_false(config.features[FEATURE_MONITOR / 8] >> FEATURE_MONITOR % 8 & 1);
}

static void choose(struct cpu_config *config, const char *list)
{
	config->choice = (struct feature_choice){ 0 };
	g_assert_null(feature_list(list, cpu_may_choose, &config->choice));
	g_assert_cmpint(cpu_cpuid_init(config), ==, 0);
}

static void test_hidden(void)
{
	struct cpu_config config = { .cpu_count = 1, .nested = NESTED_SVM };
	choose(&config, "-pcid,-npt");
	g_assert_false(feature_in(config.features, FEATURE_PCID));
	g_assert_false(feature_in(config.features, FEATURE_NPT));
	g_assert_false(feature_in(config.features, FEATURE_GMET)); /* is nothing without NPT */
	g_assert_true(feature_in(config.features, FEATURE_INVPCID));
	choose(&config, "-xsave");
	static const u8 needing[] = { FEATURE_XSAVE, FEATURE_AVX,      FEATURE_AVX2,   FEATURE_FMA,
				      FEATURE_F16C,  FEATURE_XSAVEOPT, FEATURE_XSAVEC, FEATURE_XSAVES };
	for (unsigned i = 0; i < ARRAY_SIZE(needing); i++)
		g_assert_false(feature_in(config.features, needing[i]));
	g_assert_true(feature_in(config.features, FEATURE_PCID));
	/* What the CPU needs, or what is no name. */
	static const char *const refused[] = { "-sse2", "-npt,-lm", "npt",  "-npt,", "-",
					       "",      "+npt",     "-mpx", "+",     "+mpx," };
	for (unsigned i = 0; i < ARRAY_SIZE(refused); i++)
		g_assert_nonnull(feature_list(refused[i], cpu_may_choose, &config.choice));
}

static void test_asked_for(void)
{
	struct cpu_config config = { .cpu_count = 1 };
	g_assert_cmpint(cpu_cpuid_init(&config), ==, 0);
	g_assert_false(feature_in(config.features, FEATURE_MPX));
	choose(&config, "+mpx");
	g_assert_true(feature_in(config.features, FEATURE_MPX));
	choose(&config, "-pcid,+mpx,-xsave");
	g_assert_false(feature_in(config.features, FEATURE_MPX)); /* is nothing without XSAVE */
	config.nested = NESTED_SVM;
	choose(&config, "+mpx");
	g_assert_false(feature_in(config.features, FEATURE_MPX)); /* Intel's */
}

/* Nothing of a hidden feature is left: its bits of CR4, its registers. */
static void test_hidden_is_not_there(void)
{
	struct machine *m = machine_new();
	const u64 bits = CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_PKE | CR4_FSGSBASE | CR4_OSXSAVE | CR4_LA57;
	u64 value;
	g_assert_cmphex(cr4_supported(&m->cpu) & bits, ==, bits);
	g_assert_true(msr_read(&m->cpu, MSR_TSC_AUX, &value));
	choose(&m->config, "-pcid,-smep,-smap,-umip,-pku,-fsgsbase,-xsave,-la57,-rdtscp,-rdpid");
	g_assert_cmphex(cr4_supported(&m->cpu) & bits, ==, 0);
	g_assert_false(msr_read(&m->cpu, MSR_TSC_AUX, &value));
	g_assert_cmphex(query(m, 0xd, 0, EAX), ==, 0);
	machine_free(m);
}

static void test_osxsave(void)
{
	struct machine *m = machine_new();
	g_assert_false(query(m, 1, 0, ECX) & 1u << 27);
	if (query(m, 1, 0, ECX) & 1u << 26) {
		cr4_write(&m->cpu, m->cpu.cr4 | CR4_OSXSAVE);
		g_assert_true(query(m, 1, 0, ECX) & 1u << 27);
	}
	machine_free(m);
}

static void test_xsave_size(void)
{
	struct machine *m = machine_new();
	if (!(query(m, 1, 0, ECX) & 1u << 28)) {
		g_test_skip("the host has no AVX");
	} else {
		g_assert_cmpuint(query(m, 0xd, 0, EBX), ==, 576);
		g_assert_cmpuint(query(m, 0xd, 0, ECX), ==, 840);
		m->cpu.xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
		g_assert_cmpuint(query(m, 0xd, 0, EBX), ==, 832);
		g_assert_cmpuint(query(m, 0xd, 2, EAX), ==, 256);
		g_assert_cmpuint(query(m, 0xd, 2, EBX), ==, 576);
		m->cpu.xcr0 |= XCR0_PKRU;
		g_assert_cmpuint(query(m, 0xd, 0, EBX), ==, 840);
		g_assert_cmpuint(query(m, 0xd, 9, EAX), ==, 8);
		g_assert_cmpuint(query(m, 0xd, 9, EBX), ==, 832);
	}
	machine_free(m);
}

/* Linux multiplies crystal kHz by EBX in 32 bits: the usual rate must not overflow there. */
static void test_tsc_rate(void)
{
	static const u32 rates[] = { 1000000, 2500000, 2994374 };
	struct machine *m = machine_new();
	for (unsigned i = 0; i < ARRAY_SIZE(rates); i++) {
		m->config.tsc_khz = rates[i];
		u64 crystal = query(m, 0x15, 0, ECX), num = query(m, 0x15, 0, EBX), den = query(m, 0x15, 0, EAX);
		g_assert_cmpuint(crystal * num / den, ==, rates[i] * 1000ULL);
		g_assert_cmpuint(crystal * num % den, ==, 0);
		g_assert_cmpuint(query(m, 0x40000010, 0, EAX), ==, rates[i]);
	}
	m->config.tsc_khz = 1000000;
	g_assert_cmpuint((u64)query(m, 0x15, 0, ECX) / 1000 * query(m, 0x15, 0, EBX), <, 1ULL << 32);
	machine_free(m);
}

static void test_beyond_last_leaf(void)
{
	struct machine *m = machine_new();
	g_assert_cmpuint(query(m, 0, 0, EAX), ==, 0x1f);
	g_assert_cmpuint(query(m, 0x20, 1, ECX), ==, query(m, 0x1f, 1, ECX));
	g_assert_cmpuint(query(m, 0x20, 1, ECX), !=, 0);
	g_assert_cmpuint(query(m, 0x40000001, 0, EAX), ==, 0);
	machine_free(m);
}

/* Version 2: four counters and three fixed ones, 48 bits each; of seven events those that are not counted. */
static void test_performance_monitoring(void)
{
	struct machine *m = machine_new();
	g_assert_cmphex(query(m, 0xa, 0, EAX), ==, 0x07300402);
	g_assert_cmphex(query(m, 0xa, 0, EBX), ==, 0x58);
	g_assert_cmphex(query(m, 0xa, 0, EDX), ==, 0x603);
	g_assert_true(query(m, 1, 0, ECX) & 1u << 15);
	choose(&m->config, "-arch_perfmon");
	for (unsigned reg = EAX; reg <= EDX; reg++)
		g_assert_cmphex(query(m, 0xa, 0, reg), ==, 0);
	g_assert_false(query(m, 1, 0, ECX) & 1u << 15);
	m->config.nested = NESTED_SVM;
	choose(&m->config, "-pcid");
	g_assert_cmphex(query(m, 0xa, 0, EAX), ==, 0);
	g_assert_true(query(m, 0x80000001, 0, ECX) & 1u << 23);
	machine_free(m);
}

static void test_address_widths(void)
{
	struct machine *m = machine_new();
	g_assert_cmpuint(query(m, 0x80000008, 0, EAX) & 0xff, ==, m->config.phys_bits);
	bool la57 = query(m, 7, 0, ECX) >> 16 & 1;
	g_assert_cmpuint(query(m, 0x80000008, 0, EAX) >> 8 & 0xff, ==, la57 ? 57 : 48);
	machine_free(m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/cpuid/machine-check-exception-with-its-architecture", test_machine_check);
	g_test_add_func("/cpuid/amd-vendor", test_amd_vendor);
	g_test_add_func("/cpuid/performance-monitoring-of-version-2", test_performance_monitoring);
	g_test_add_func("/cpuid/every-feature-shows-its-bit-alone", test_feature_bits);
	g_test_add_func("/cpuid/known-bits-are-where-guests-look", test_known_bits);
	g_test_add_func("/cpuid/names-vendor-brand-and-hypervisor", test_vendor);
	g_test_add_func("/cpuid/vmx-shows-only-with-nesting", test_vmx_only_when_nested);
	g_test_add_func("/cpuid/monitor-shows-only-on-a-single-cpu", test_monitor_only_alone);
	g_test_add_func("/cpuid/osxsave-follows-cr4", test_osxsave);
	g_test_add_func("/cpuid/xsave-size-follows-xcr0", test_xsave_size);
	g_test_add_func("/cpuid/hidden-features-and-what-needs-them-are-gone", test_hidden);
	g_test_add_func("/cpuid/some-features-are-there-if-asked-for", test_asked_for);
	g_test_add_func("/cpuid/nothing-of-a-hidden-feature-is-left", test_hidden_is_not_there);
	g_test_add_func("/cpuid/leaf-15h-gives-the-exact-tsc-rate", test_tsc_rate);
	g_test_add_func("/cpuid/leaves-beyond-the-last-repeat-it", test_beyond_last_leaf);
	g_test_add_func("/cpuid/address-widths-match-the-cpu", test_address_widths);
	return g_test_run();
}
