/*
 * Capability MSRs (SDM vol. 3, appendix A): exactly what the other files do. Firmware's part, IA32_FEATURE_CONTROL, is
 * as a BIOS leaves it: VMXON allowed outside SMX, and locked.
 */
#include "hv/vmx/vmx.h"
#include "x86/feature.h"

/* What may be 1 beyond the default-1 bits. */
#define PIN_ALLOWED (PIN_EXTERNAL_INTERRUPT | PIN_NMI | PIN_VIRTUAL_NMIS | PIN_PREEMPTION_TIMER | PIN_POSTED_INTERRUPTS)
#define CPU_ALLOWED                                                                                                    \
	(CPU_INTERRUPT_WINDOW | CPU_TSC_OFFSETTING | CPU_HLT | CPU_INVLPG | CPU_MWAIT_EXITING | CPU_RDPMC |            \
	 CPU_RDTSC | CPU_CR8_LOAD | CPU_CR8_STORE | CPU_TPR_SHADOW | CPU_NMI_WINDOW | CPU_MOV_DR |                     \
	 CPU_UNCONDITIONAL_IO | CPU_IO_BITMAPS | CPU_MTF | CPU_MSR_BITMAPS | CPU_MONITOR | CPU_PAUSE | CPU_SECONDARY)
#define CPU2_ALLOWED                                                                                                   \
	(CPU2_APIC_ACCESSES | CPU2_EPT | CPU2_DESCRIPTOR_TABLE | CPU2_X2APIC | CPU2_VPID | CPU2_WBINVD |               \
	 CPU2_UNRESTRICTED_GUEST | CPU2_APIC_REGISTERS | CPU2_VIRTUAL_INTERRUPTS | CPU2_PAUSE_LOOP |                   \
	 CPU2_VM_FUNCTIONS | CPU2_VMCS_SHADOWING | CPU2_PML | CPU2_EPT_VE | CPU2_MODE_BASED_EXECUTE |                  \
	 CPU2_TSC_SCALING)
#define EXITC_ALLOWED                                                                                                  \
	(EXITC_HOST_LONG | EXITC_ACK_INTERRUPT | EXITC_SAVE_PAT | EXITC_LOAD_PAT | EXITC_SAVE_EFER | EXITC_LOAD_EFER | \
	 EXITC_SAVE_PREEMPTION)
#define ENTRYC_ALLOWED (ENTRYC_GUEST_LONG | ENTRYC_LOAD_PAT | ENTRYC_LOAD_EFER)

/* Default-1 controls that the true capability MSRs let be 0 (appendix A.2). */
#define CPU_TRUE_FLEXIBLE    (CPU_CR3_LOAD | CPU_CR3_STORE)
#define EXITC_TRUE_FLEXIBLE  EXITC_SAVE_DEBUG
#define ENTRYC_TRUE_FLEXIBLE ENTRYC_LOAD_DEBUG

#define BASIC_TYPE_WB   (6ULL << 50)
#define BASIC_IO_INFO   BIT(54) /* INS and OUTS fill the instruction information */
#define BASIC_TRUE_MSRS BIT(55)

#define MISC_STORE_LMA    BIT(5) /* VM exits store EFER.LMA into the control "IA-32e mode guest" */
#define MISC_ACTIVITY_ALL BITS(8, 6)
#define MISC_VMWRITE_ALL  BIT(29) /* VMWRITE works on every field */
#define MISC_LENGTH_ZERO  BIT(30) /* software events may be injected with instruction length 0 */

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
#define EPT_INVEPT_TYPES   BITS(26, 25)
#define VPID_INVVPID       BIT(32)
#define VPID_INVVPID_TYPES BITS(43, 40)

static bool has(const struct vmx *vmx, enum feature f)
{
	return vmx->cpu->config->features[f / 8] & (1u << f % 8);
}

static u32 secondary_allowed(const struct vmx *vmx)
{
	u64 allowed = CPU2_ALLOWED;
	if (has(vmx, FEATURE_RDTSCP) || has(vmx, FEATURE_RDPID))
		allowed |= CPU2_RDTSCP;
	if (has(vmx, FEATURE_RDRAND))
		allowed |= CPU2_RDRAND;
	if (has(vmx, FEATURE_RDSEED))
		allowed |= CPU2_RDSEED;
	if (has(vmx, FEATURE_INVPCID))
		allowed |= CPU2_INVPCID;
	if (has(vmx, FEATURE_XSAVES))
		allowed |= CPU2_XSAVES;
	return (u32)allowed;
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
		{ FEATURE_MCA, CR4_MCE },
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
	};
	u64 allowed = 0;
	for (size_t i = 0; i < ARRAY_SIZE(by_feature); i++)
		if (by_feature[i].feature == FEATURE_BASE || has(vmx, by_feature[i].feature))
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

static void control_caps(struct vmx *vmx)
{
	set(vmx, MSR_VMX_PIN, control(PIN_DEFAULT1, PIN_ALLOWED));
	set(vmx, MSR_VMX_TRUE_PIN, control(PIN_DEFAULT1, PIN_ALLOWED));
	set(vmx, MSR_VMX_CPU, control(CPU_DEFAULT1, CPU_ALLOWED));
	set(vmx, MSR_VMX_TRUE_CPU, control(CPU_DEFAULT1 & ~CPU_TRUE_FLEXIBLE, CPU_DEFAULT1 | CPU_ALLOWED));
	set(vmx, MSR_VMX_CPU2, control(0, secondary_allowed(vmx)));
	set(vmx, MSR_VMX_EXIT, control(EXITC_DEFAULT1, EXITC_ALLOWED));
	set(vmx, MSR_VMX_TRUE_EXIT, control(EXITC_DEFAULT1 & ~EXITC_TRUE_FLEXIBLE, EXITC_DEFAULT1 | EXITC_ALLOWED));
	set(vmx, MSR_VMX_ENTRY, control(ENTRYC_DEFAULT1, ENTRYC_ALLOWED));
	set(vmx, MSR_VMX_TRUE_ENTRY,
	    control(ENTRYC_DEFAULT1 & ~ENTRYC_TRUE_FLEXIBLE, ENTRYC_DEFAULT1 | ENTRYC_ALLOWED));
}

void vmx_caps_init(struct vmx *vmx)
{
	vmx->feature_control = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX;
	set(vmx, MSR_VMX_BASIC,
	    VMCS_REVISION | (u64)VMCS_REGION_SIZE << 32 | BASIC_TYPE_WB | BASIC_IO_INFO | BASIC_TRUE_MSRS);
	control_caps(vmx);
	set(vmx, MSR_VMX_MISC,
	    VMX_TIMER_SHIFT | MISC_STORE_LMA | MISC_ACTIVITY_ALL | VMX_CR3_TARGETS << 16 | MISC_VMWRITE_ALL |
		    MISC_LENGTH_ZERO);
	set(vmx, MSR_VMX_CR0_FIXED0, CR0_PE | CR0_NE | CR0_PG);
	set(vmx, MSR_VMX_CR0_FIXED1, BITS(31, 0));
	set(vmx, MSR_VMX_CR4_FIXED0, CR4_VMXE);
	set(vmx, MSR_VMX_CR4_FIXED1, cr4_allowed(vmx));
	vmx->linear_bits = cr4_allowed(vmx) & CR4_LA57 ? 57 : 48;
	set(vmx, MSR_VMX_VMCS_ENUM, VMCS_INDEX_MAX << 1);
	set(vmx, MSR_VMX_EPT_VPID,
	    EPT_EXECUTE_ONLY | EPT_WALK4 | EPT_WALK5 | EPT_UC | EPT_WB | EPT_2M | EPT_1G | EPT_INVEPT | EPT_AD |
		    EPT_ADVANCED_INFO | EPT_INVEPT_TYPES | VPID_INVVPID | VPID_INVVPID_TYPES);
	set(vmx, MSR_VMX_VMFUNC, VMFUNC_EPTP_SWITCHING);
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
