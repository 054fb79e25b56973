#include "x86/host.h"

#include "x86/regs.h"

#include <cpuid.h>

enum { A, B, C, D };
enum source { OURS, HOST };

static const struct {
	u32 leaf;
	u8 subleaf, reg, bit, source;
} rows[FEATURE_COUNT] = {
#define X(name, leaf, subleaf, reg, bit, source) [FEATURE_##name] = { leaf, subleaf, reg, bit, source },
#include "x86/feature.def"
#undef X
};

static struct feature_choice choice;

/* Features that Strata gives its guest on any host, and its translator takes the host's instructions for. */
static bool is_shortcut(enum feature feature)
{
	switch (feature) {
	case FEATURE_POPCNT:
	case FEATURE_MOVBE:
	case FEATURE_LZCNT:
	case FEATURE_BMI1:
	case FEATURE_BMI2:
	case FEATURE_ADX:
		return true;
	default:
		return false;
	}
}

/* Does Strata choose something by this feature of the host? */
static bool is_choice(enum feature feature)
{
	return feature != FEATURE_BASE && (rows[feature].source == HOST || is_shortcut(feature));
}

const char *host_feature_name(enum feature feature)
{
	return is_choice(feature) ? feature_name(feature) : NULL;
}

static bool may_hide(enum feature feature, bool more)
{
	return !more && is_choice(feature);
}

const char *host_hide(const char *list)
{
	return feature_list(list, may_hide, &choice);
}

static bool has_bit(enum feature feature)
{
	u32 r[4] = { 0 };
	if (!__get_cpuid_count(rows[feature].leaf, rows[feature].subleaf, &r[A], &r[B], &r[C], &r[D]))
		return false;
	return r[rows[feature].reg] >> rows[feature].bit & 1;
}

/* Does the host's kernel save the upper halves of the YMM registers? */
static bool saves_avx(void)
{
	u32 a, b, c, d;
	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return false;
	__asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
	return (a & (XCR0_SSE | XCR0_AVX)) == (XCR0_SSE | XCR0_AVX);
}

bool host_has(enum feature feature)
{
	if (feature == FEATURE_BASE)
		return true;
	if (feature_in(choice.less, feature) || !has_bit(feature))
		return false;
	switch (feature) {
	case FEATURE_AVX:
		return host_has(FEATURE_XSAVE) && saves_avx();
	case FEATURE_AVX2:
	case FEATURE_FMA:
	case FEATURE_F16C:
		return host_has(FEATURE_AVX);
	default:
		return true;
	}
}
