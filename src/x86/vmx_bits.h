/*
 * Bits of VT-x's controls, capability MSRs and fields; names and numbers as in SDM vol. 3, chapters 25 to 28 and
 * appendix A. Only those that Strata needs.
 */
#ifndef STRATA_X86_VMX_BITS_H
#define STRATA_X86_VMX_BITS_H

#include "base/types.h"

/* Pin-based VM-execution controls. */
#define PIN_EXTERNAL_INTERRUPT BIT(0)
#define PIN_NMI                BIT(3)
#define PIN_VIRTUAL_NMIS       BIT(5)
#define PIN_PREEMPTION_TIMER   BIT(6)
#define PIN_POSTED_INTERRUPTS  BIT(7)
#define PIN_DEFAULT1           (BIT(1) | BIT(2) | BIT(4))

/* Primary processor-based VM-execution controls. */
#define CPU_INTERRUPT_WINDOW BIT(2)
#define CPU_TSC_OFFSETTING   BIT(3)
#define CPU_HLT              BIT(7)
#define CPU_INVLPG           BIT(9)
#define CPU_MWAIT_EXITING    BIT(10)
#define CPU_RDPMC            BIT(11)
#define CPU_RDTSC            BIT(12)
#define CPU_CR3_LOAD         BIT(15)
#define CPU_CR3_STORE        BIT(16)
#define CPU_CR8_LOAD         BIT(19)
#define CPU_CR8_STORE        BIT(20)
#define CPU_TPR_SHADOW       BIT(21)
#define CPU_NMI_WINDOW       BIT(22)
#define CPU_TERTIARY         BIT(17)
#define CPU_MOV_DR           BIT(23)
#define CPU_UNCONDITIONAL_IO BIT(24)
#define CPU_IO_BITMAPS       BIT(25)
#define CPU_MTF              BIT(27)
#define CPU_MSR_BITMAPS      BIT(28)
#define CPU_MONITOR          BIT(29)
#define CPU_PAUSE            BIT(30)
#define CPU_SECONDARY        BIT(31)
#define CPU_DEFAULT1         (BIT(1) | BITS(6, 4) | BIT(8) | BITS(16, 13) | BIT(26))

/* Secondary processor-based VM-execution controls. */
#define CPU2_APIC_ACCESSES      BIT(0) /* virtualize APIC accesses */
#define CPU2_EPT                BIT(1)
#define CPU2_DESCRIPTOR_TABLE   BIT(2)
#define CPU2_RDTSCP             BIT(3)
#define CPU2_X2APIC             BIT(4) /* virtualize x2APIC mode */
#define CPU2_VPID               BIT(5)
#define CPU2_WBINVD             BIT(6)
#define CPU2_UNRESTRICTED_GUEST BIT(7)
#define CPU2_APIC_REGISTERS     BIT(8) /* APIC-register virtualization */
#define CPU2_VIRTUAL_INTERRUPTS BIT(9) /* virtual-interrupt delivery */
#define CPU2_PAUSE_LOOP         BIT(10)
#define CPU2_RDRAND             BIT(11)
#define CPU2_INVPCID            BIT(12)
#define CPU2_VM_FUNCTIONS       BIT(13)
#define CPU2_VMCS_SHADOWING     BIT(14)
#define CPU2_RDSEED             BIT(16)
#define CPU2_PML                BIT(17)
#define CPU2_EPT_VE             BIT(18) /* EPT-violation #VE */
#define CPU2_XSAVES             BIT(20)
#define CPU2_MODE_BASED_EXECUTE BIT(22) /* mode-based execute control for EPT */
#define CPU2_TSC_SCALING        BIT(25)

/* Tertiary processor-based VM-execution controls. */
#define CPU3_IPI BIT(4) /* IPI virtualization */

/* VM-function controls. */
#define VMFUNC_EPTP_SWITCHING BIT(0)

/* VM-exit controls. */
#define EXITC_SAVE_DEBUG            BIT(2)
#define EXITC_HOST_LONG             BIT(9) /* host address-space size */
#define EXITC_LOAD_PERF_GLOBAL_CTRL BIT(12)
#define EXITC_ACK_INTERRUPT         BIT(15)
#define EXITC_SAVE_PAT              BIT(18)
#define EXITC_LOAD_PAT              BIT(19)
#define EXITC_SAVE_EFER             BIT(20)
#define EXITC_LOAD_EFER             BIT(21)
#define EXITC_SAVE_PREEMPTION       BIT(22)
#define EXITC_CLEAR_BNDCFGS         BIT(23)
#define EXITC_LOAD_PKRS             BIT(29)
#define EXITC_DEFAULT1              (BITS(8, 0) | BITS(11, 10) | BITS(14, 13) | BITS(17, 16))

/* VM-entry controls. */
#define ENTRYC_LOAD_DEBUG            BIT(2)
#define ENTRYC_GUEST_LONG            BIT(9) /* IA-32e mode guest */
#define ENTRYC_LOAD_PERF_GLOBAL_CTRL BIT(13)
#define ENTRYC_LOAD_PAT              BIT(14)
#define ENTRYC_LOAD_EFER             BIT(15)
#define ENTRYC_LOAD_BNDCFGS          BIT(16)
#define ENTRYC_LOAD_PKRS             BIT(22)
#define ENTRYC_DEFAULT1              (BITS(8, 0) | BIT(12))

/*
 * Events: VM-entry interruption information, VM-exit interruption information, IDT-vectoring information.
 *
 *   31     30..13  12                  11          10..8             7..0
 *   valid  zero    NMI unblocking      error code  enum event_type   vector
 *                  due to IRET (exit)  valid
 */
#define EVENT_INFO_VECTOR   BITS(7, 0)
#define EVENT_INFO_TYPE     BITS(10, 8)
#define EVENT_INFO_ERROR    BIT(11)
#define EVENT_INFO_IRET     BIT(12)
#define EVENT_INFO_VALID    BIT(31)
#define EVENT_INFO_RESERVED BITS(30, 12)

/* Guest interruptibility state. */
#define INTR_STATE_STI      BIT(0)
#define INTR_STATE_MOV_SS   BIT(1)
#define INTR_STATE_SMI      BIT(2)
#define INTR_STATE_NMI      BIT(3)
#define INTR_STATE_RESERVED BITS(31, 4)

/* Guest activity state. */
enum vmcs_activity { ACTIVITY_ACTIVE, ACTIVITY_HLT, ACTIVITY_SHUTDOWN, ACTIVITY_WAIT_SIPI };

/* Pending debug exceptions: DR6's bits where DR6 has them, and: */
#define PENDING_DB_ENABLED BIT(12) /* a breakpoint met was enabled in DR7 */

/* Exit reason. */
#define EXIT_ENTRY_FAILURE BIT(31)

/* Exit qualifications. */
#define EPT_QUAL_LINEAR_VALID BIT(7)
#define EPT_QUAL_IRET         BIT(12)
enum entry_failure { ENTRY_FAIL_OTHER = 0, ENTRY_FAIL_PDPTE = 2, ENTRY_FAIL_LINK = 4 };
enum apic_access { APIC_ACCESS_READ, APIC_ACCESS_WRITE, APIC_ACCESS_FETCH, APIC_ACCESS_EVENT };
enum cr_access { CR_ACCESS_WRITE, CR_ACCESS_READ, CR_ACCESS_CLTS, CR_ACCESS_LMSW };

/* Virtualization-exception information area (SDM vol. 3, table 26-1). */
struct ve_info {
	u32 reason, busy;
	u64 qualification, linear, physical;
	u16 eptp_index;
} __attribute__((packed));

/* Extended-page-table pointer. */
#define EPTP_TYPE     BITS(2, 0)
#define EPTP_TYPE_UC  0
#define EPTP_TYPE_WB  6
#define EPTP_WALK     BITS(5, 3)
#define EPTP_WALK4    BITS(4, 3) /* length minus one */
#define EPTP_WALK5    BIT(5)
#define EPTP_AD       BIT(6)
#define EPTP_RESERVED BITS(11, 7)

/* IA32_FEATURE_CONTROL. */
#define FEATURE_CONTROL_LOCK BIT(0)
#define FEATURE_CONTROL_VMX  BIT(2) /* VMXON outside SMX */

enum vmx_msr {
	MSR_FEATURE_CONTROL = 0x3a,
	MSR_VMX_BASIC = 0x480,
	MSR_VMX_PIN,
	MSR_VMX_CPU,
	MSR_VMX_EXIT,
	MSR_VMX_ENTRY,
	MSR_VMX_MISC,
	MSR_VMX_CR0_FIXED0,
	MSR_VMX_CR0_FIXED1,
	MSR_VMX_CR4_FIXED0,
	MSR_VMX_CR4_FIXED1,
	MSR_VMX_VMCS_ENUM,
	MSR_VMX_CPU2,
	MSR_VMX_EPT_VPID,
	MSR_VMX_TRUE_PIN,
	MSR_VMX_TRUE_CPU,
	MSR_VMX_TRUE_EXIT,
	MSR_VMX_TRUE_ENTRY,
	MSR_VMX_VMFUNC,
	MSR_VMX_CPU3,
	MSR_VMX_END
};

/* VM-instruction errors (SDM vol. 3, 31.4). */
enum vmx_error {
	VMERR_VMCALL_IN_ROOT = 1,
	VMERR_VMCLEAR_ADDRESS = 2,
	VMERR_VMCLEAR_VMXON_POINTER = 3,
	VMERR_VMLAUNCH_NOT_CLEAR = 4,
	VMERR_VMRESUME_NOT_LAUNCHED = 5,
	VMERR_VMRESUME_AFTER_VMXOFF = 6,
	VMERR_ENTRY_CONTROLS = 7,
	VMERR_ENTRY_HOST_STATE = 8,
	VMERR_VMPTRLD_ADDRESS = 9,
	VMERR_VMPTRLD_VMXON_POINTER = 10,
	VMERR_VMPTRLD_REVISION = 11,
	VMERR_UNSUPPORTED_FIELD = 12,
	VMERR_READ_ONLY_FIELD = 13,
	VMERR_VMXON_IN_ROOT = 15,
	VMERR_ENTRY_MOV_SS = 26,
	VMERR_INVALIDATE_OPERAND = 28
};

/* VMX-abort indicators (SDM vol. 3, 28.7). */
enum vmx_abort { VMX_ABORT_SAVE_MSRS = 1, VMX_ABORT_HOST_PDPTES = 2, VMX_ABORT_LOAD_MSRS = 4 };

#endif
