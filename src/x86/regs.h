/*
 * Names of the registers and their bits. Facts only; numbers as in the Intel SDM (vol. 1 ch. 3, vol. 3 ch. 2, 4, 5).
 */
#ifndef STRATA_X86_REGS_H
#define STRATA_X86_REGS_H

#include "base/types.h"

enum gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, GPR_COUNT };

/* Order of the Sreg field; then the two system segments. */
enum seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, SEG_COUNT };

#define RFLAGS_CF    BIT(0)
#define RFLAGS_ONE   BIT(1) /* always reads 1 */
#define RFLAGS_PF    BIT(2)
#define RFLAGS_AF    BIT(4)
#define RFLAGS_ZF    BIT(6)
#define RFLAGS_SF    BIT(7)
#define RFLAGS_TF    BIT(8)
#define RFLAGS_IF    BIT(9)
#define RFLAGS_DF    BIT(10)
#define RFLAGS_OF    BIT(11)
#define RFLAGS_IOPL  BITS(13, 12)
#define RFLAGS_NT    BIT(14)
#define RFLAGS_RF    BIT(16)
#define RFLAGS_VM    BIT(17)
#define RFLAGS_AC    BIT(18)
#define RFLAGS_VIF   BIT(19)
#define RFLAGS_VIP   BIT(20)
#define RFLAGS_ID    BIT(21)
#define RFLAGS_ARITH (RFLAGS_CF | RFLAGS_PF | RFLAGS_AF | RFLAGS_ZF | RFLAGS_SF | RFLAGS_OF)
/* What SYSRET takes from R11. */
#define RFLAGS_SYSRET                                                                                                  \
	(RFLAGS_ARITH | RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_AC | RFLAGS_VIF |         \
	 RFLAGS_VIP | RFLAGS_ID)

#define CR0_PE BIT(0)
#define CR0_MP BIT(1)
#define CR0_EM BIT(2)
#define CR0_TS BIT(3)
#define CR0_ET BIT(4)
#define CR0_NE BIT(5)
#define CR0_WP BIT(16)
#define CR0_AM BIT(18)
#define CR0_NW BIT(29)
#define CR0_CD BIT(30)
#define CR0_PG BIT(31)

#define CR4_VME        BIT(0)
#define CR4_PVI        BIT(1)
#define CR4_TSD        BIT(2)
#define CR4_DE         BIT(3)
#define CR4_PSE        BIT(4)
#define CR4_PAE        BIT(5)
#define CR4_MCE        BIT(6)
#define CR4_PGE        BIT(7)
#define CR4_PCE        BIT(8)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP       BIT(11)
#define CR4_LA57       BIT(12)
#define CR4_VMXE       BIT(13)
#define CR4_SMXE       BIT(14)
#define CR4_FSGSBASE   BIT(16)
#define CR4_PCIDE      BIT(17)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)
#define CR4_PKE        BIT(22)
#define CR4_PKS        BIT(24)

#define EFER_SCE  BIT(0)
#define EFER_LME  BIT(8)
#define EFER_LMA  BIT(10)
#define EFER_NXE  BIT(11)
#define EFER_SVME BIT(12)

#define XCR0_X87     BIT(0)
#define XCR0_SSE     BIT(1)
#define XCR0_AVX     BIT(2)
#define XCR0_BNDREGS BIT(3)
#define XCR0_BNDCSR  BIT(4)
#define XCR0_PKRU    BIT(9)

/* BNDCFGU and IA32_BNDCFGS: bits 63:12 are the linear address of the bound directory. */
#define BNDCFG_EN       BIT(0)
#define BNDCFG_PRESERVE BIT(1)
#define BNDCFG_DEFINED  (BITS(63, 12) | BNDCFG_EN | BNDCFG_PRESERVE)

#define DR6_FIXED1 0xffff0ff0ULL
#define DR6_BD     BIT(13)
#define DR6_BS     BIT(14)
#define DR6_BT     BIT(15)
#define DR7_FIXED1 BIT(10)
#define DR7_GD     BIT(13)

/* IA32_DEBUGCTL. */
#define DEBUGCTL_LBR            BIT(0)
#define DEBUGCTL_BTF            BIT(1)  /* single-step on branches */
#define DEBUGCTL_FREEZE_LBRS    BIT(11) /* on an interrupt of a performance counter */
#define DEBUGCTL_FREEZE_PERFMON BIT(12)

/* Exception vectors. */
enum vector {
	VEC_DE = 0,
	VEC_DB = 1,
	VEC_NMI = 2,
	VEC_BP = 3,
	VEC_OF = 4,
	VEC_BR = 5,
	VEC_UD = 6,
	VEC_NM = 7,
	VEC_DF = 8,
	VEC_TS = 10,
	VEC_NP = 11,
	VEC_SS = 12,
	VEC_GP = 13,
	VEC_PF = 14,
	VEC_MF = 16,
	VEC_AC = 17,
	VEC_MC = 18,
	VEC_XM = 19,
	VEC_VE = 20,
	VEC_CP = 21,
	VEC_SX = 30,
};

/* Page-fault error code (SDM vol. 3, 4.7). */
#define PF_PRESENT BIT(0)
#define PF_WRITE   BIT(1)
#define PF_USER    BIT(2)
#define PF_RSVD    BIT(3)
#define PF_FETCH   BIT(4)
#define PF_KEY     BIT(5)

#endif
