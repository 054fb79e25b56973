/*
 * Numbers of the model-specific registers (SDM vol. 4), those of VT-x excepted (vmx_bits.h).
 */
#ifndef STRATA_X86_MSR_H
#define STRATA_X86_MSR_H

#define MSR_TSC                  0x10
#define MSR_PLATFORM_ID          0x17
#define MSR_APIC_BASE            0x1b
#define MSR_FEATURE_CONTROL      0x3a
#define MSR_TSC_ADJUST           0x3b
#define MSR_SPEC_CTRL            0x48
#define MSR_PRED_CMD             0x49
#define MSR_BIOS_SIGN_ID         0x8b
#define MSR_PMC0                 0xc1
#define MSR_MTRR_CAP             0xfe
#define MSR_ARCH_CAPABILITIES    0x10a
#define MSR_SYSENTER_CS          0x174
#define MSR_SYSENTER_ESP         0x175
#define MSR_SYSENTER_EIP         0x176
#define MSR_P5_MC_ADDR           0x000
#define MSR_P5_MC_TYPE           0x001
#define MSR_MCG_CAP              0x179
#define MSR_MCG_STATUS           0x17a
#define MSR_PERFEVTSEL0          0x186
#define MSR_MISC_ENABLE          0x1a0
#define MSR_DEBUGCTL             0x1d9
#define MSR_PAT                  0x277
#define MSR_MTRR_DEF_TYPE        0x2ff
#define MSR_FIXED_CTR0           0x309
#define MSR_PERF_CAPABILITIES    0x345
#define MSR_FIXED_CTR_CTRL       0x38d
#define MSR_PERF_GLOBAL_STATUS   0x38e
#define MSR_PERF_GLOBAL_CTRL     0x38f
#define MSR_PERF_GLOBAL_OVF_CTRL 0x390
#define MSR_VMX_FIRST            0x480
#define MSR_VMX_LAST             0x492
#define MSR_A_PMC0               0x4c1
#define MSR_TSC_DEADLINE         0x6e0
#define MSR_PKRS                 0x6e1
#define MSR_X2APIC_FIRST         0x800
#define MSR_X2APIC_LAST          0x8ff
#define MSR_BNDCFGS              0xd90
#define MSR_XSS                  0xda0
#define MSR_EFER                 0xc0000080
#define MSR_STAR                 0xc0000081
#define MSR_LSTAR                0xc0000082
#define MSR_CSTAR                0xc0000083
#define MSR_FMASK                0xc0000084
#define MSR_FS_BASE              0xc0000100
#define MSR_GS_BASE              0xc0000101
#define MSR_KERNEL_GS_BASE       0xc0000102
#define MSR_TSC_AUX              0xc0000103

/* AMD's (APM vol. 2, appendix A). */
#define MSR_LAST_BRANCH_FROM 0x1db
#define MSR_LAST_BRANCH_TO   0x1dc
#define MSR_LAST_INT_FROM    0x1dd
#define MSR_LAST_INT_TO      0x1de
#define MSR_PERF_CTL0        0xc0010000
#define MSR_PERF_CTR3        0xc0010007
#define MSR_SYSCFG           0xc0010010
#define MSR_HWCR             0xc0010015
#define MSR_TOP_MEM          0xc001001a
#define MSR_TOP_MEM2         0xc001001d
#define MSR_NB_CFG           0xc001001f
#define MSR_PATCH_LOADER     0xc0010020
#define MSR_PERF_CTL_CORE0   0xc0010200 /* control and count of each counter, by turns */
#define MSR_LS_CFG           0xc0011020
#define MSR_IC_CFG           0xc0011021
#define MSR_DC_CFG           0xc0011022
#define MSR_BU_CFG           0xc0011023
#define MSR_DE_CFG           0xc0011029
#define MSR_BU_CFG2          0xc001102a

#define HWCR_TSC_FREQ_SEL BIT(24) /* the TSC counts at P0's frequency */
#define DE_CFG_LFENCE     BIT(1)  /* LFENCE serializes */

/* IA32_ARCH_CAPABILITIES: what this CPU is not affected by. */
#define ARCH_CAP_RDCL_NO      BIT(0)
#define ARCH_CAP_IBRS_ALL     BIT(1)
#define ARCH_CAP_SKIP_L1DFL   BIT(3)
#define ARCH_CAP_SSB_NO       BIT(4)
#define ARCH_CAP_MDS_NO       BIT(5)
#define ARCH_CAP_PSCHANGE_NO  BIT(6)
#define ARCH_CAP_TAA_NO       BIT(8)
#define ARCH_CAP_SBDR_SSDP_NO BIT(13)
#define ARCH_CAP_FBSDP_NO     BIT(14)
#define ARCH_CAP_PSDP_NO      BIT(15)
#define ARCH_CAP_BHI_NO       BIT(20)
#define ARCH_CAP_PBRSB_NO     BIT(24)
#define ARCH_CAP_GDS_NO       BIT(26)
#define ARCH_CAP_RFDS_NO      BIT(27)
#define ARCH_CAP_ITS_NO       BIT(62)

/* IA32_SPEC_CTRL, IA32_PRED_CMD */
#define SPEC_CTRL_IBRS      BIT(0)
#define SPEC_CTRL_STIBP     BIT(1)
#define SPEC_CTRL_BHI_DIS_S BIT(10)
#define PRED_CMD_IBPB       BIT(0)

#define MISC_ENABLE_PERFMON BIT(7)  /* IA32_MISC_ENABLE: performance monitoring is available */
#define PERF_CAP_FULL_WRITE BIT(13) /* IA32_PERF_CAPABILITIES: counters can be written as wide as they are */

#endif
