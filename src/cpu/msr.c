/*
 * Model-specific registers: the table is msr.def; here is what computes, and the two switches made of it.
 */
#include "x86/msr.h"
#include "base/trace.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"
#include "x86/vmcb.h"

/* --- values that may be stored --- */

static bool msr_valid_canonical(const struct cpu *cpu, u64 value)
{
	return is_canonical_base(cpu, value);
}

/* UC, WC, WT, WP, WB (SDM vol. 3, table 12-8). */
static bool is_memory_type(u64 type)
{
	return type <= 6 && type != 2 && type != 3;
}

static bool msr_valid_mtrr_types(const struct cpu *cpu, u64 value)
{
	for (unsigned i = 0; i < 64; i += 8)
		if (!is_memory_type(value >> i & 0xff))
			return false;
	return true;
}

/* PAT has UC- besides. */
static bool msr_valid_pat(const struct cpu *cpu, u64 value)
{
	for (unsigned i = 0; i < 64; i += 8)
		if (!is_memory_type(value >> i & 0xff) && (value >> i & 0xff) != 7)
			return false;
	return true;
}

static bool msr_valid_mtrr_base(const struct cpu *cpu, u64 value)
{
	u64 defined = BITS(cpu->config->phys_bits - 1, 12) | 0xff;
	return !(value & ~defined) && is_memory_type(value & 0xff);
}

static bool msr_valid_mtrr_mask(const struct cpu *cpu, u64 value)
{
	u64 defined = BITS(cpu->config->phys_bits - 1, 11);
	return !(value & ~defined);
}

static bool msr_valid_mtrr_default(const struct cpu *cpu, u64 value)
{
	return !(value & ~0xcffULL) && is_memory_type(value & 0xff);
}

/* LBR (only AMD's CPU has last-branch records to see it), BTF, and what comes with performance counters. */
bool msr_valid_debugctl(const struct cpu *cpu, u64 value)
{
	return !(value & ~(DEBUGCTL_LBR | DEBUGCTL_BTF | pmu_debugctl_bits(cpu)));
}

static bool msr_valid_bndcfgs(const struct cpu *cpu, u64 value)
{
	return !(value & ~BNDCFG_DEFINED) && is_canonical_base(cpu, value & PAGE_MASK);
}

/* --- computed registers --- */

static bool msr_read_zero(struct cpu *cpu, u32 msr, u64 *value)
{
	*value = 0;
	return true;
}

/* Write-only registers. */
static bool msr_read_none(struct cpu *cpu, u32 msr, u64 *value)
{
	return false;
}

/* Read-only registers. */
static bool msr_write_none(struct cpu *cpu, u32 msr, u64 value)
{
	return false;
}

static bool msr_write_ignored(struct cpu *cpu, u32 msr, u64 value)
{
	return true;
}

static bool msr_write_pred_cmd(struct cpu *cpu, u32 msr, u64 value)
{
	return !(value & ~PRED_CMD_IBPB);
}

static bool msr_read_tsc(struct cpu *cpu, u32 msr, u64 *value)
{
	*value = cpu_tsc(cpu);
	return true;
}

/* A write of the TSC moves TSC_ADJUST by as much (SDM vol. 3, 18.17.3). */
static bool msr_write_tsc(struct cpu *cpu, u32 msr, u64 value)
{
	cpu->msr.tsc_adjust += value - cpu_tsc(cpu);
	return true;
}

static bool msr_read_apic(struct cpu *cpu, u32 msr, u64 *value)
{
	return cpu->platform->apic_msr_read(cpu->platform->opaque, msr, value);
}

static bool msr_write_apic(struct cpu *cpu, u32 msr, u64 value)
{
	return cpu->platform->apic_msr_write(cpu->platform->opaque, msr, value);
}

/* A microcode revision, since zero would mean that none is loaded; AMD's is in the lower half. */
static bool msr_read_microcode(struct cpu *cpu, u32 msr, u64 *value)
{
	*value = cpu_is_amd(cpu) ? 1 : 1ULL << 32;
	return true;
}

/* Eight variable ranges, fixed ranges, write-combining. */
static bool msr_read_mtrr_cap(struct cpu *cpu, u32 msr, u64 *value)
{
	*value = 0x508;
	return true;
}

/*
 * A CPU in software speculates about nothing, so there is nothing that a guest could mitigate, and these bits switch
 * its attempts off; IBRS_ALL those that replace indirect branches. What the host's CPU speculates about while it runs
 * Strata no code of a guest can bear on, retpolines included: the translator makes the same jumps of them all.
 */
static bool msr_read_arch_capabilities(struct cpu *cpu, u32 msr, u64 *value)
{
	*value = ARCH_CAP_RDCL_NO | ARCH_CAP_IBRS_ALL | ARCH_CAP_SKIP_L1DFL | ARCH_CAP_SSB_NO | ARCH_CAP_MDS_NO |
		 ARCH_CAP_PSCHANGE_NO | ARCH_CAP_TAA_NO | ARCH_CAP_SBDR_SSDP_NO | ARCH_CAP_FBSDP_NO | ARCH_CAP_PSDP_NO |
		 ARCH_CAP_BHI_NO | ARCH_CAP_PBRSB_NO | ARCH_CAP_GDS_NO | ARCH_CAP_RFDS_NO | ARCH_CAP_ITS_NO;
	return true;
}

static bool msr_read_efer(struct cpu *cpu, u32 msr, u64 *value)
{
	*value = cpu->efer;
	return true;
}

static bool msr_write_efer(struct cpu *cpu, u32 msr, u64 value)
{
	return efer_set(cpu, value);
}

static bool write_base(struct cpu *cpu, enum seg seg, u64 value)
{
	if (!is_canonical_base(cpu, value))
		return false;
	cpu->seg[seg].base = cpu->seg_base[seg] = value;
	return true;
}

static bool msr_read_fs_base(struct cpu *cpu, u32 msr, u64 *value)
{
	*value = cpu->seg[SEG_FS].base;
	return true;
}

static bool msr_write_fs_base(struct cpu *cpu, u32 msr, u64 value)
{
	return write_base(cpu, SEG_FS, value);
}

static bool msr_read_gs_base(struct cpu *cpu, u32 msr, u64 *value)
{
	*value = cpu->seg[SEG_GS].base;
	return true;
}

static bool msr_write_gs_base(struct cpu *cpu, u32 msr, u64 value)
{
	return write_base(cpu, SEG_GS, value);
}

static bool msr_read_pkrs(struct cpu *cpu, u32 msr, u64 *value)
{
	*value = mmu_pkrs(&cpu->mmu);
	return true;
}

static bool msr_write_pkrs(struct cpu *cpu, u32 msr, u64 value)
{
	if (value >> 32)
		return false;
	mmu_set_pkrs(&cpu->mmu, (u32)value);
	return true;
}

/* --- the table --- */

static bool is_hv_msr(u32 msr)
{
	return msr == MSR_FEATURE_CONTROL || (msr >= MSR_VMX_FIRST && msr <= MSR_VMX_LAST) || msr == MSR_TSC_RATIO ||
	       (msr >= MSR_VM_CR && msr <= MSR_SVM_KEY) || msr == MSR_DOORBELL;
}

/*
 * Registers of one feature or of one vendor alone: AMD's range, and what Intel has below it. The two that restrict
 * speculation are both vendors', but AMD announces them by bits of its own (80000008H, EBX), which are 0 here.
 */
static bool msr_exists(const struct cpu *cpu, u32 msr)
{
	switch (msr) {
	case MSR_PKRS:
		return cpu_has(cpu, FEATURE_PKS);
	case MSR_BNDCFGS:
		return cpu_has(cpu, FEATURE_MPX);
	case MSR_TSC_AUX:
		return cpu_has(cpu, FEATURE_RDTSCP) || cpu_has(cpu, FEATURE_RDPID);
	case MSR_PLATFORM_ID:
	case MSR_ARCH_CAPABILITIES:
	case MSR_SPEC_CTRL:
	case MSR_PRED_CMD:
		return !cpu_is_amd(cpu);
	case MSR_LAST_BRANCH_FROM:
	case MSR_LAST_BRANCH_TO:
	case MSR_LAST_INT_FROM:
	case MSR_LAST_INT_TO:
		return cpu_is_amd(cpu);
	default:
		return msr >> 16 != 0xc001 || cpu_is_amd(cpu);
	}
}

/* AMD's four oldest counters have no CPUID bit that could say no: without the six (pmu.c) they count nothing. */
static bool is_idle_counter(const struct cpu *cpu, u32 msr)
{
	return cpu_is_amd(cpu) && msr >= MSR_PERF_CTL0 && msr <= MSR_PERF_CTR3;
}

static bool is_x2apic_msr(u32 msr)
{
	return msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST;
}

static bool find_and_read(struct cpu *cpu, u32 msr, u64 *value)
{
	if (!msr_exists(cpu, msr))
		return false;
	switch (msr) {
#define MSR_STORED(field, number, ...)                                                                                 \
	case number:                                                                                                   \
		*value = cpu->msr.field;                                                                               \
		return true;
#define MSR_CHECKED(field, number, ...)                                                                                \
	case number:                                                                                                   \
		*value = cpu->msr.field;                                                                               \
		return true;
#define MSR_COMPUTED(number, read, write)                                                                              \
	case number:                                                                                                   \
		return msr_read_##read(cpu, msr, value);
#include "cpu/msr.def"
#undef MSR_STORED
#undef MSR_CHECKED
#undef MSR_COMPUTED
	default:
		break;
	}
	if (is_x2apic_msr(msr))
		return msr_read_apic(cpu, msr, value);
	if (pmu_has_msr(cpu, msr))
		return pmu_msr_read(cpu, msr, value);
	if (is_idle_counter(cpu, msr))
		return msr_read_zero(cpu, msr, value);
	return is_hv_msr(msr) && cpu->hv && cpu->hv->msr_read(cpu, msr, value);
}

static bool find_and_write(struct cpu *cpu, u32 msr, u64 value)
{
	if (!msr_exists(cpu, msr))
		return false;
	switch (msr) {
#define MSR_STORED(field, number, reset, writable)                                                                     \
	case number:                                                                                                   \
		if (value & ~(u64)(writable))                                                                          \
			return false;                                                                                  \
		cpu->msr.field = value;                                                                                \
		return true;
#define MSR_CHECKED(field, number, reset, valid)                                                                       \
	case number:                                                                                                   \
		if (!msr_valid_##valid(cpu, value))                                                                    \
			return false;                                                                                  \
		cpu->msr.field = value;                                                                                \
		return true;
#define MSR_COMPUTED(number, read, write)                                                                              \
	case number:                                                                                                   \
		return msr_write_##write(cpu, msr, value);
#include "cpu/msr.def"
#undef MSR_STORED
#undef MSR_CHECKED
#undef MSR_COMPUTED
	default:
		break;
	}
	if (is_x2apic_msr(msr))
		return msr_write_apic(cpu, msr, value);
	if (pmu_has_msr(cpu, msr))
		return pmu_msr_write(cpu, msr, value);
	if (is_idle_counter(cpu, msr))
		return true;
	return is_hv_msr(msr) && cpu->hv && cpu->hv->msr_write(cpu, msr, value);
}

bool msr_read(struct cpu *cpu, u32 msr, u64 *value)
{
	bool known = find_and_read(cpu, msr, value);
	if (known)
		TRACE(msr, "RDMSR %x: %llx", msr, (unsigned long long)*value);
	else
		TRACE(msr, "RDMSR %x: #GP at %llx", msr, (unsigned long long)cpu->rip_start);
	return known;
}

bool msr_write(struct cpu *cpu, u32 msr, u64 value)
{
	bool known = find_and_write(cpu, msr, value);
	if (unlikely(known && (msr == MSR_TSC || msr == MSR_TSC_ADJUST)) && cpu->platform->tsc_changed)
		cpu->platform->tsc_changed(cpu->platform->opaque);
	if (unlikely(msr == MSR_DEBUGCTL))
		cpu_update_step(cpu);
	if (unlikely(msr == MSR_BNDCFGS))
		cpu_update_bounds(cpu);
	TRACE(msr, "WRMSR %x = %llx%s", msr, (unsigned long long)value, known ? "" : ": #GP");
	return known;
}

void msr_reset(struct cpu *cpu)
{
#define MSR_STORED(field, number, reset, writable) cpu->msr.field = (reset);
#define MSR_CHECKED(field, number, reset, valid)   cpu->msr.field = (reset);
#define MSR_COMPUTED(...)
#include "cpu/msr.def"
#undef MSR_STORED
#undef MSR_CHECKED
#undef MSR_COMPUTED
}
