/* Model-specific registers: what may be written, what is checked, what does not exist. */
#include "machine.h"

#include "cpu/hv_ops.h"
#include "cpu/system.h"
#include "x86/msr.h"
#include "x86/vmcb.h"

static u64 get(struct machine *m, u32 msr)
{
	u64 value = 0;
	g_assert_true(msr_read(&m->cpu, msr, &value));
	return value;
}

static bool put(struct machine *m, u32 msr, u64 value)
{
	return msr_write(&m->cpu, msr, value);
}

/* Registers of one vendor alone: makes the CPU that vendor's. */
static u32 fit_vendor(struct machine *m, u32 msr)
{
	u64 value;
	m->config.nested = NESTED_NONE;
	if (!msr_read(&m->cpu, msr, &value))
		m->config.nested = NESTED_SVM;
	return msr;
}

/* Reset values and write masks of the whole table. */
static void test_table(void)
{
	struct machine *m = machine_new();
	memset(m->config.features, 0xff, sizeof m->config.features);
#define MSR_STORED(field, number, reset, writable)                                                                     \
	g_assert_cmphex(get(m, fit_vendor(m, number)), ==, (u64)(reset));                                              \
	g_assert_true(put(m, number, (u64)(writable)));                                                                \
	g_assert_cmphex(get(m, number), ==, (u64)(writable));                                                          \
	if ((u64)(writable) != ~0ULL) {                                                                                \
		g_assert_false(put(m, number, ~0ULL));                                                                 \
		g_assert_cmphex(get(m, number), ==, (u64)(writable));                                                  \
	}
#define MSR_CHECKED(field, number, reset, valid)                                                                       \
	g_assert_cmphex(get(m, number), ==, (u64)(reset));                                                             \
	g_assert_true(put(m, number, get(m, number)));                                                                 \
	g_assert_false(put(m, number, 0x0202020202020202ULL << 8));
#define MSR_COMPUTED(...)
#include "cpu/msr.def"
#undef MSR_STORED
#undef MSR_CHECKED
#undef MSR_COMPUTED
	machine_free(m);
}

static void test_vendors_have_their_own(void)
{
	static const u32 intel[] = { MSR_PLATFORM_ID, MSR_ARCH_CAPABILITIES, MSR_FEATURE_CONTROL, MSR_SPEC_CTRL };
	static const u32 amd[] = { MSR_HWCR,      MSR_SYSCFG, MSR_DE_CFG,      MSR_TOP_MEM,  MSR_PERF_CTL0,
				   MSR_PERF_CTR3, MSR_VM_CR,  MSR_VM_HSAVE_PA, MSR_TSC_RATIO };
	struct machine *i = machine_new_nested(NESTED_VTX, &vmx_ops), *a = machine_new_nested(NESTED_SVM, &svm_ops);
	u64 value;
	for (unsigned n = 0; n < ARRAY_SIZE(intel); n++) {
		g_assert_true(msr_read(&i->cpu, intel[n], &value));
		g_assert_false(msr_read(&a->cpu, intel[n], &value));
	}
	for (unsigned n = 0; n < ARRAY_SIZE(amd); n++) {
		g_assert_false(msr_read(&i->cpu, amd[n], &value));
		g_assert_false(msr_write(&i->cpu, amd[n], 0));
		g_assert_true(msr_read(&a->cpu, amd[n], &value));
	}
	g_assert_true(put(i, MSR_PRED_CMD, PRED_CMD_IBPB));
	g_assert_false(put(a, MSR_PRED_CMD, PRED_CMD_IBPB));
	machine_free(i);
	machine_free(a);
}

static void test_svm_registers(void)
{
	struct machine *m = machine_new_nested(NESTED_SVM, &svm_ops);
	g_assert_false(put(m, MSR_VM_HSAVE_PA, 0x1001));
	g_assert_false(put(m, MSR_VM_HSAVE_PA, BIT(40)));
	g_assert_true(put(m, MSR_VM_HSAVE_PA, 0x1000));
	g_assert_cmphex(get(m, MSR_TSC_RATIO), ==, TSC_RATIO_ONE);
	g_assert_false(put(m, MSR_TSC_RATIO, BIT(40)));
	/* Locked, SVM stays off until the key comes. */
	g_assert_true(put(m, MSR_SVM_KEY, 0x1234));
	g_assert_cmphex(get(m, MSR_SVM_KEY), ==, 0);
	g_assert_true(put(m, MSR_VM_CR, VM_CR_LOCK | VM_CR_SVMDIS));
	g_assert_true(put(m, MSR_VM_CR, 0));
	g_assert_cmphex(get(m, MSR_VM_CR), ==, VM_CR_LOCK | VM_CR_SVMDIS);
	g_assert_false(put(m, MSR_EFER, get(m, MSR_EFER) | EFER_SVME));
	g_assert_true(put(m, MSR_SVM_KEY, 0x1235));
	g_assert_true(get(m, MSR_VM_CR) & VM_CR_LOCK);
	g_assert_true(put(m, MSR_SVM_KEY, 0x1234));
	g_assert_true(put(m, MSR_VM_CR, 0));
	g_assert_true(put(m, MSR_EFER, get(m, MSR_EFER) | EFER_SVME));
	g_assert_false(put(m, MSR_VM_CR, VM_CR_SVMDIS));
	g_assert_false(put(m, MSR_VM_CR, BIT(5)));
	machine_free(m);
}

static void test_reset_restores(void)
{
	struct machine *m = machine_new();
	g_assert_true(put(m, MSR_LSTAR, 0x1234));
	g_assert_true(put(m, MSR_PAT, 0));
	cpu_reset(&m->cpu);
	g_assert_cmphex(get(m, MSR_LSTAR), ==, 0);
	g_assert_cmphex(get(m, MSR_PAT), ==, 0x0007040600070406ULL);
	machine_free(m);
}

static void test_init_keeps(void)
{
	struct machine *m = machine_new();
	g_assert_true(put(m, MSR_LSTAR, 0x1234));
	cpu_init_signal(&m->cpu);
	g_assert_cmphex(get(m, MSR_LSTAR), ==, 0x1234);
	g_assert_cmphex(get(m, MSR_EFER), ==, 0);
	machine_free(m);
}

static void test_pat(void)
{
	struct machine *m = machine_new();
	for (u64 type = 0; type < 256; type++) {
		bool valid = type <= 7 && type != 2 && type != 3;
		for (unsigned shift = 0; shift < 64; shift += 8)
			g_assert_true(put(m, MSR_PAT, type << shift) == valid);
	}
	machine_free(m);
}

static void test_mtrr(void)
{
	struct machine *m = machine_new();
	g_assert_cmphex(get(m, MSR_MTRR_CAP) & 0xff, ==, 8);
	g_assert_true(put(m, 0x200, 0x80000006));
	g_assert_false(put(m, 0x200, 0x80000002));               /* reserved type */
	g_assert_false(put(m, 0x200, BIT(m->config.phys_bits))); /* beyond MAXPHYADDR */
	g_assert_false(put(m, 0x200, 0x100));                    /* reserved bit */
	g_assert_true(put(m, 0x20f, BITS(m->config.phys_bits - 1, 11)));
	g_assert_false(put(m, 0x20f, 0x400));
	g_assert_false(put(m, MSR_MTRR_CAP, 0));
	g_assert_false(put(m, 0x210, 0)); /* no ninth range */
	machine_free(m);
}

static void test_canonical(void)
{
	static const u32 addresses[] = { MSR_LSTAR,          MSR_CSTAR,        MSR_FS_BASE,     MSR_GS_BASE,
					 MSR_KERNEL_GS_BASE, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP };
	struct machine *m = machine_new();
	for (unsigned i = 0; i < ARRAY_SIZE(addresses); i++) {
		g_assert_true(put(m, addresses[i], 0xffff800000000000ULL));
		g_assert_cmphex(get(m, addresses[i]), ==, 0xffff800000000000ULL);
		g_assert_false(put(m, addresses[i], 0x8000000000000000ULL));
		g_assert_cmphex(get(m, addresses[i]), ==, 0xffff800000000000ULL);
	}
	g_assert_cmphex(m->cpu.seg[SEG_FS].base, ==, 0xffff800000000000ULL);
	g_assert_cmphex(m->cpu.seg_base[SEG_GS], ==, 0xffff800000000000ULL);
	machine_free(m);
}

static void test_efer(void)
{
	struct machine *m = machine_new();
	g_assert_true(put(m, MSR_EFER, EFER_LME | EFER_NXE | EFER_SCE)); /* LMA cannot be written, so it stays */
	g_assert_cmphex(get(m, MSR_EFER), ==, EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE);
	g_assert_false(put(m, MSR_EFER, EFER_NXE)); /* LME while paging is on */
	g_assert_false(put(m, MSR_EFER, EFER_LME | BIT(1)));
	machine_free(m);
}

static void test_tsc_adjust(void)
{
	struct machine *m = machine_new();
	g_assert_true(put(m, MSR_TSC, 5000));
	g_assert_cmpuint(get(m, MSR_TSC_ADJUST), ==, 5000); /* the platform's TSC stands at 0 */
	g_assert_cmpuint(get(m, MSR_TSC), ==, 5000);
	g_assert_true(put(m, MSR_TSC_ADJUST, 7));
	g_assert_cmpuint(get(m, MSR_TSC), ==, 7);
	machine_free(m);
}

static void test_unknown(void)
{
	static const u32 unknown[] = { 0x2, 0x33, 0x140, 0xce, 0x606, 0xc0010015, 0x4b564d00, 0xffffffff };
	struct machine *m = machine_new();
	u64 value;
	for (unsigned i = 0; i < ARRAY_SIZE(unknown); i++) {
		g_assert_false(msr_read(&m->cpu, unknown[i], &value));
		g_assert_false(put(m, unknown[i], 0));
	}
	/* Without virtualization extensions theirs do not exist either. */
	g_assert_false(msr_read(&m->cpu, MSR_FEATURE_CONTROL, &value));
	g_assert_false(msr_read(&m->cpu, MSR_VMX_FIRST, &value));
	machine_free(m);
}

static void test_read_only(void)
{
	struct machine *m = machine_new();
	g_assert_cmphex(get(m, MSR_ARCH_CAPABILITIES) & (ARCH_CAP_RDCL_NO | ARCH_CAP_MDS_NO | ARCH_CAP_SSB_NO), ==,
			ARCH_CAP_RDCL_NO | ARCH_CAP_MDS_NO | ARCH_CAP_SSB_NO);
	g_assert_false(put(m, MSR_ARCH_CAPABILITIES, 0));
	g_assert_false(put(m, MSR_MCG_CAP, 0));
	g_assert_cmphex(get(m, MSR_P5_MC_TYPE), ==, 0); /* no machine check was noted */
	g_assert_true(put(m, MSR_BIOS_SIGN_ID, 0));     /* software writes 0 and reads the revision */
	g_assert_cmphex(get(m, MSR_BIOS_SIGN_ID) >> 32, !=, 0);
	machine_free(m);
}

/* What a kernel that trusts IBRS_ALL does: IBRS on once, a barrier now and then. */
static void test_speculation_control(void)
{
	struct machine *m = machine_new();
	u64 value;
	g_assert_true(get(m, MSR_ARCH_CAPABILITIES) & ARCH_CAP_IBRS_ALL);
	g_assert_true(put(m, MSR_SPEC_CTRL, SPEC_CTRL_IBRS | SPEC_CTRL_STIBP));
	g_assert_cmphex(get(m, MSR_SPEC_CTRL), ==, SPEC_CTRL_IBRS | SPEC_CTRL_STIBP);
	g_assert_true(put(m, MSR_SPEC_CTRL, SPEC_CTRL_IBRS | SPEC_CTRL_BHI_DIS_S)); /* BHI_NO alone satisfies nobody */
	g_assert_false(put(m, MSR_SPEC_CTRL, 1 << 2));                              /* SSBD, which is not shown */
	g_assert_true(put(m, MSR_PRED_CMD, PRED_CMD_IBPB));
	g_assert_false(put(m, MSR_PRED_CMD, 2));
	g_assert_false(msr_read(&m->cpu, MSR_PRED_CMD, &value));
	machine_free(m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/msr/vendors-have-their-own", test_vendors_have_their_own);
	g_test_add_func("/msr/svm-registers", test_svm_registers);
	g_test_add_func("/msr/table-resets-and-masks-as-it-says", test_table);
	g_test_add_func("/msr/reset-restores-values", test_reset_restores);
	g_test_add_func("/msr/speculation-control-takes-its-bits", test_speculation_control);
	g_test_add_func("/msr/init-keeps-values-but-efer", test_init_keeps);
	g_test_add_func("/msr/pat-refuses-reserved-types", test_pat);
	g_test_add_func("/msr/mtrrs-refuse-reserved-bits", test_mtrr);
	g_test_add_func("/msr/addresses-must-be-canonical", test_canonical);
	g_test_add_func("/msr/efer-guards-lme-and-lma", test_efer);
	g_test_add_func("/msr/writing-the-tsc-moves-tsc-adjust", test_tsc_adjust);
	g_test_add_func("/msr/unknown-registers-do-not-exist", test_unknown);
	g_test_add_func("/msr/read-only-registers-refuse-writes", test_read_only);
	return g_test_run();
}
