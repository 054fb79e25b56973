/* VT-x capability MSRs: consistent with each other, and what Linux's kvm_intel needs. */
#undef _GNU_SOURCE /* its <signal.h> has a REG_RIP too */

#include "hv/vmx/vmx.h"

#include <glib.h>
#include <string.h>

static struct cpu_config config = { .nested = NESTED_VTX, .phys_bits = 40 };
static struct cpu cpu;
static struct vmx vmx;

static void setup(bool features)
{
	memset(&cpu, 0, sizeof(cpu));
	memset(&vmx, 0, sizeof(vmx));
	memset(config.features, features ? 0xff : 0, sizeof(config.features));
	cpu.config = &config;
	cpu.hv_state = &vmx;
	vmx.cpu = &cpu;
	vmx.current = VMCS_NONE;
	vmx_caps_init(&vmx);
}

static u32 must(enum vmx_msr msr)
{
	return (u32)vmx_cap(&vmx, msr);
}

static u32 may(enum vmx_msr msr)
{
	return (u32)(vmx_cap(&vmx, msr) >> 32);
}

static void test_must_is_may(void)
{
	static const enum vmx_msr controls[] = { MSR_VMX_PIN,      MSR_VMX_CPU,       MSR_VMX_EXIT,
						 MSR_VMX_ENTRY,    MSR_VMX_CPU2,      MSR_VMX_TRUE_PIN,
						 MSR_VMX_TRUE_CPU, MSR_VMX_TRUE_EXIT, MSR_VMX_TRUE_ENTRY };
	setup(true);
	for (size_t i = 0; i < ARRAY_SIZE(controls); i++)
		g_assert_cmphex(must(controls[i]) & ~may(controls[i]), ==, 0);
}

/* The true MSRs may relax what must be 1, and nothing else (appendix A.3 to A.5). */
static void test_true(void)
{
	static const enum vmx_msr pairs[][2] = { { MSR_VMX_PIN, MSR_VMX_TRUE_PIN },
						 { MSR_VMX_CPU, MSR_VMX_TRUE_CPU },
						 { MSR_VMX_EXIT, MSR_VMX_TRUE_EXIT },
						 { MSR_VMX_ENTRY, MSR_VMX_TRUE_ENTRY } };
	setup(true);
	for (size_t i = 0; i < ARRAY_SIZE(pairs); i++) {
		g_assert_cmphex(may(pairs[i][0]), ==, may(pairs[i][1]));
		g_assert_cmphex(must(pairs[i][1]) & ~must(pairs[i][0]), ==, 0);
	}
}

static void test_default1(void)
{
	setup(true);
	g_assert_cmphex(must(MSR_VMX_PIN), ==, 0x16);
	g_assert_cmphex(must(MSR_VMX_CPU), ==, 0x401e172);
	g_assert_cmphex(must(MSR_VMX_EXIT), ==, 0x36dff);
	g_assert_cmphex(must(MSR_VMX_ENTRY), ==, 0x11ff);
	g_assert_cmphex(must(MSR_VMX_TRUE_CPU), ==, 0x4006172);
	g_assert_cmphex(must(MSR_VMX_TRUE_EXIT), ==, 0x36dfb);
	g_assert_cmphex(must(MSR_VMX_TRUE_ENTRY), ==, 0x11fb);
}

/* What arch/x86/kvm/vmx of Linux 6.1 refuses to live without, or loses much without. */
static void test_linux(void)
{
	setup(true);
	g_assert_cmphex(may(MSR_VMX_TRUE_PIN) & 0x69, ==, 0x69);
	g_assert_cmphex(may(MSR_VMX_TRUE_CPU) & 0xb3b99e8cu, ==, 0xb3b99e8cu);
	g_assert_cmphex(may(MSR_VMX_CPU2) & 0x1118ee, ==, 0x1118ee);
	g_assert_cmphex(may(MSR_VMX_TRUE_EXIT) & 0x7c8204, ==, 0x7c8204);
	g_assert_cmphex(may(MSR_VMX_TRUE_ENTRY) & 0xc204, ==, 0xc204);
	u64 basic = vmx_cap(&vmx, MSR_VMX_BASIC);
	g_assert_cmphex(bits_get(basic, 44, 32), <=, 4096);
	g_assert_cmphex(bits_get(basic, 53, 50), ==, 6);
	g_assert_cmphex(basic & (BIT(31) | BIT(48)), ==, 0);
	u64 ept = vmx_cap(&vmx, MSR_VMX_EPT_VPID);
	g_assert_cmphex(ept, ==, 0xf01067341c1ULL);
}

/* Features that the CPU lacks give no control to their instructions. */
static void test_features(void)
{
	setup(false);
	g_assert_cmphex(may(MSR_VMX_CPU2) & (CPU2_RDTSCP | CPU2_INVPCID | CPU2_XSAVES | CPU2_RDRAND | CPU2_RDSEED), ==,
			0);
	g_assert_cmphex(vmx_cap(&vmx, MSR_VMX_CR4_FIXED1), ==, CR4_PCE | CR4_VMXE);
	setup(true);
	g_assert_cmphex(vmx_cap(&vmx, MSR_VMX_CR4_FIXED1) & CR4_SMXE, ==, 0);
}

static void test_fixed(void)
{
	setup(true);
	g_assert_true(vmx_cr0_valid(&cpu, 0));
	g_assert_true(vmx_cr4_valid(&cpu, 0));
	vmx.on = true;
	g_assert_false(vmx_cr0_valid(&cpu, CR0_PE | CR0_PG));
	g_assert_true(vmx_cr0_valid(&cpu, CR0_PE | CR0_PG | CR0_NE));
	g_assert_false(vmx_cr4_valid(&cpu, CR4_PAE));
	g_assert_true(vmx_cr4_valid(&cpu, CR4_PAE | CR4_VMXE));
	g_assert_false(vmx_cr4_valid(&cpu, CR4_PAE | CR4_VMXE | CR4_SMXE));
	cpu.non_root = true;
	g_assert_false(vmx_cr0_valid(&cpu, CR0_NE));
	vmx.vmcs.cpu_controls = CPU_SECONDARY;
	vmx.vmcs.cpu_controls2 = CPU2_UNRESTRICTED_GUEST;
	g_assert_true(vmx_cr0_valid(&cpu, CR0_NE));
}

static void test_msrs(void)
{
	u64 value;
	setup(true);
	g_assert_true(vmx_msr_read(&cpu, MSR_FEATURE_CONTROL, &value));
	g_assert_cmphex(value, ==, 5);
	g_assert_false(vmx_msr_write(&cpu, MSR_FEATURE_CONTROL, 0));
	for (u32 msr = MSR_VMX_BASIC; msr < MSR_VMX_END; msr++) {
		g_assert_true(vmx_msr_read(&cpu, msr, &value));
		g_assert_false(vmx_msr_write(&cpu, msr, value));
	}
	g_assert_false(vmx_msr_read(&cpu, MSR_VMX_END, &value));
	g_assert_false(vmx_msr_read(&cpu, 0x10, &value));
}

static void test_eptp(void)
{
	setup(true);
	g_assert_true(vmx_eptp_valid(&vmx, 0x1000 | 0x1e));
	g_assert_true(vmx_eptp_valid(&vmx, 0x1000 | 0x5e)); /* accessed and dirty flags */
	g_assert_true(vmx_eptp_valid(&vmx, 0x1000 | 0x18)); /* UC */
	g_assert_false(vmx_eptp_valid(&vmx, 0x1000 | 0x1c));
	g_assert_true(vmx_eptp_valid(&vmx, 0x1000 | 0x26)); /* 5 levels */
	g_assert_false(vmx_eptp_valid(&vmx, 0x1000 | 0x2e));
	g_assert_false(vmx_eptp_valid(&vmx, 0x1000 | 0x9e)); /* supervisor shadow stacks */
	g_assert_false(vmx_eptp_valid(&vmx, BIT(40) | 0x1e));
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/vmx-caps/what-must-be-1-may-be-1", test_must_is_may);
	g_test_add_func("/vmx-caps/true-msrs-only-relax", test_true);
	g_test_add_func("/vmx-caps/default-1-bits", test_default1);
	g_test_add_func("/vmx-caps/linux-finds-what-it-needs", test_linux);
	g_test_add_func("/vmx-caps/controls-follow-features", test_features);
	g_test_add_func("/vmx-caps/fixed-bits-hold-in-vmx-operation", test_fixed);
	g_test_add_func("/vmx-caps/msrs-are-read-only", test_msrs);
	g_test_add_func("/vmx-caps/ept-pointer", test_eptp);
	return g_test_run();
}
