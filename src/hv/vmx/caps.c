/*
 * Capability MSRs (SDM vol. 3, appendix A): exactly what the other files do, as features.def lists it. Firmware's part,
 * IA32_FEATURE_CONTROL, is as a BIOS leaves it: VMXON allowed outside SMX, and locked.
 */
#include "hv/vmx/vmx.h"
#include "x86/feature.h"

#define BASIC_TYPE_WB   (6ULL << 50)
#define BASIC_IO_INFO   BIT(54) /* INS and OUTS fill the instruction information */
#define BASIC_TRUE_MSRS BIT(55)

#define MISC_STORE_LMA         BIT(5) /* VM exits store EFER.LMA into the control "IA-32e mode guest" */
#define MISC_ACTIVITY_HLT      BIT(6)
#define MISC_ACTIVITY_SHUTDOWN BIT(7)
#define MISC_ACTIVITY_SIPI     BIT(8)
#define MISC_VMWRITE_ALL       BIT(29) /* VMWRITE works on every field */
#define MISC_LENGTH_ZERO       BIT(30) /* software events may be injected with instruction length 0 */

#define EPT_EXECUTE_ONLY   BIT(0)
#define EPT_WALK4          BIT(6)
#define EPT_WALK5          BIT(7)
#define EPT_UC             BIT(8)
#define EPT_WB             BIT(14)
#define EPT_2M             BIT(16)
#define EPT_1G             BIT(17)
#define EPT_INVEPT         BIT(20)
#define EPT_AD             BIT(21)
#define EPT_ADVANCED_INFO  BIT(22)
#define EPT_INVEPT_SINGLE  BIT(25)
#define EPT_INVEPT_ALL     BIT(26)
#define VPID_INVVPID       BIT(32)
#define VPID_INVVPID_TYPES BITS(43, 40)

/* The MSRs that have features; a control that is 1 by default may have the feature that it can be 0. */
enum capability {
	IN_BASIC,
	IN_PIN,
	IN_CPU,
	IN_CPU_MAY_BE_0,
	IN_CPU2,
	IN_CPU3,
	IN_EXIT,
	IN_EXIT_MAY_BE_0,
	IN_ENTRY,
	IN_ENTRY_MAY_BE_0,
	IN_MISC,
	IN_EPT_VPID,
	IN_VMFUNC
};

static const struct {
	u64 bits;
	u8 in; /* enum capability */
	u8 feature;
} features[] = {
#define FEATURE(msr, mask, needs, name, section, test) { mask, IN_##msr, FEATURE_##needs },
#include "hv/vmx/features.def"
#undef FEATURE
};

static bool has(const struct vmx *vmx, enum feature f)
{
	return f == FEATURE_BASE || (vmx->cpu->config->features[f / 8] & (1u << f % 8));
}

/* All features of one kind that this CPU has. */
static u64 all(const struct vmx *vmx, enum capability in)
{
	u64 bits = 0;
	for (size_t i = 0; i < ARRAY_SIZE(features); i++)
		if (features[i].in == in && has(vmx, features[i].feature))
			bits |= features[i].bits;
	return bits;
}

/* CR4 bits that may be 1: those whose feature this CPU has. */
static u64 cr4_allowed(const struct vmx *vmx)
{
	static const struct {
		enum feature feature;
		u64 bits;
	} by_feature[] = {
		{ FEATURE_BASE, CR4_PCE | CR4_VMXE },
		{ FEATURE_VME, CR4_VME | CR4_PVI },
		{ FEATURE_TSC, CR4_TSD },
		{ FEATURE_DE, CR4_DE },
		{ FEATURE_PSE, CR4_PSE },
		{ FEATURE_PAE, CR4_PAE },
		{ FEATURE_MCE, CR4_MCE },
		{ FEATURE_PGE, CR4_PGE },
		{ FEATURE_FXSR, CR4_OSFXSR },
		{ FEATURE_SSE, CR4_OSXMMEXCPT },
		{ FEATURE_UMIP, CR4_UMIP },
		{ FEATURE_LA57, CR4_LA57 },
		{ FEATURE_FSGSBASE, CR4_FSGSBASE },
		{ FEATURE_PCID, CR4_PCIDE },
		{ FEATURE_XSAVE, CR4_OSXSAVE },
		{ FEATURE_SMEP, CR4_SMEP },
		{ FEATURE_SMAP, CR4_SMAP },
		{ FEATURE_PKU, CR4_PKE },
		{ FEATURE_PKS, CR4_PKS },
	};
	u64 allowed = 0;
	for (size_t i = 0; i < ARRAY_SIZE(by_feature); i++)
		if (has(vmx, by_feature[i].feature))
			allowed |= by_feature[i].bits;
	return allowed;
}

/* A control capability: bits that must be 1 in 31:0, bits that may be 1 in 63:32. */
static u64 control(u64 must, u64 may)
{
	return (must & BITS(31, 0)) | (must | may) << 32;
}

static void set(struct vmx *vmx, enum vmx_msr msr, u64 value)
{
	vmx->caps[msr - MSR_VMX_BASIC] = value;
}

/* A control word's MSR and its true twin, which lets more bits be 0. */
static void set_control(struct vmx *vmx, enum vmx_msr msr, enum vmx_msr true_msr, u64 default1, u64 may, u64 may_be_0)
{
	set(vmx, msr, control(default1, may));
	set(vmx, true_msr, control(default1 & ~may_be_0, default1 | may));
}

void vmx_caps_init(struct vmx *vmx)
{
	vmx->feature_control = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX;
	set(vmx, MSR_VMX_BASIC, VMCS_REVISION | (u64)VMCS_REGION_SIZE << 32 | BASIC_TYPE_WB | all(vmx, IN_BASIC));
	set_control(vmx, MSR_VMX_PIN, MSR_VMX_TRUE_PIN, PIN_DEFAULT1, all(vmx, IN_PIN), 0);
	set_control(vmx, MSR_VMX_CPU, MSR_VMX_TRUE_CPU, CPU_DEFAULT1, all(vmx, IN_CPU), all(vmx, IN_CPU_MAY_BE_0));
	set(vmx, MSR_VMX_CPU2, control(0, all(vmx, IN_CPU2)));
	set_control(vmx, MSR_VMX_EXIT, MSR_VMX_TRUE_EXIT, EXITC_DEFAULT1, all(vmx, IN_EXIT),
		    all(vmx, IN_EXIT_MAY_BE_0));
	set_control(vmx, MSR_VMX_ENTRY, MSR_VMX_TRUE_ENTRY, ENTRYC_DEFAULT1, all(vmx, IN_ENTRY),
		    all(vmx, IN_ENTRY_MAY_BE_0));
	set(vmx, MSR_VMX_MISC, VMX_TIMER_SHIFT | VMX_CR3_TARGETS << 16 | all(vmx, IN_MISC));
	set(vmx, MSR_VMX_CR0_FIXED0, CR0_PE | CR0_NE | CR0_PG);
	set(vmx, MSR_VMX_CR0_FIXED1, BITS(31, 0));
	set(vmx, MSR_VMX_CR4_FIXED0, CR4_VMXE);
	set(vmx, MSR_VMX_CR4_FIXED1, cr4_allowed(vmx));
	vmx->linear_bits = cr4_allowed(vmx) & CR4_LA57 ? 57 : 48;
	set(vmx, MSR_VMX_VMCS_ENUM, VMCS_INDEX_MAX << 1);
	set(vmx, MSR_VMX_EPT_VPID, all(vmx, IN_EPT_VPID));
	set(vmx, MSR_VMX_VMFUNC, all(vmx, IN_VMFUNC));
	set(vmx, MSR_VMX_CPU3, all(vmx, IN_CPU3));
}

bool vmx_msr_read(struct cpu *cpu, u32 msr, u64 *value)
{
	const struct vmx *vmx = vmx_of(cpu);
	if (msr == MSR_FEATURE_CONTROL)
		*value = vmx->feature_control;
	else if (msr >= MSR_VMX_BASIC && msr < MSR_VMX_END)
		*value = vmx_cap(vmx, msr);
	else
		return false;
	return true;
}

/* The lock bit is set from the start, so that every write is #GP, as to the read-only capability MSRs. */
bool vmx_msr_write(struct cpu *cpu, u32 msr, u64 value)
{
	return false;
}

static bool fixed_ok(u64 value, u64 fixed0, u64 fixed1)
{
	return (value & fixed0) == fixed0 && !(value & ~fixed1);
}

bool vmx_cr0_fixed(const struct vmx *vmx, u64 value, bool unrestricted)
{
	u64 fixed0 = vmx_cap(vmx, MSR_VMX_CR0_FIXED0);
	if (unrestricted)
		fixed0 &= ~(CR0_PE | CR0_PG);
	return fixed_ok(value, fixed0, vmx_cap(vmx, MSR_VMX_CR0_FIXED1));
}

bool vmx_cr4_fixed(const struct vmx *vmx, u64 value)
{
	return fixed_ok(value, vmx_cap(vmx, MSR_VMX_CR4_FIXED0), vmx_cap(vmx, MSR_VMX_CR4_FIXED1));
}

bool vmx_cr0_valid(struct cpu *cpu, u64 value)
{
	const struct vmx *vmx = vmx_of(cpu);
	return !vmx->on || vmx_cr0_fixed(vmx, value, cpu->non_root && vmx_cpu2(vmx, CPU2_UNRESTRICTED_GUEST));
}

bool vmx_cr4_valid(struct cpu *cpu, u64 value)
{
	const struct vmx *vmx = vmx_of(cpu);
	return !vmx->on || vmx_cr4_fixed(vmx, value);
}

bool vmx_control_allowed(const struct vmx *vmx, enum vmx_msr msr, u32 value)
{
	u64 cap = vmx_cap(vmx, msr);
	return fixed_ok(value, cap & BITS(31, 0), cap >> 32);
}

bool vmx_eptp_valid(const struct vmx *vmx, u64 eptp)
{
	u64 type = eptp & EPTP_TYPE, walk = eptp & EPTP_WALK;
	return (type == EPTP_TYPE_UC || type == EPTP_TYPE_WB) && (walk == EPTP_WALK4 || walk == EPTP_WALK5) &&
	       !(eptp & EPTP_RESERVED) && vmx_address_fits(vmx, eptp);
}
