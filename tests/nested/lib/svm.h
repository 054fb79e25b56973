/*
 * The twin of vmx.h for AMD-V: L1 is guest_main(), L2 a few instructions in the same address space (or behind nested
 * page tables). L2 code is written with L2(), begins at the given function and leaves by any #VMEXIT, at last by
 * VMMCALL; l2_regs holds its registers, but for RAX, RSP, RIP and RFLAGS, which the VMCB has.
 */
#ifndef TESTS_NESTED_SVM_H
#define TESTS_NESTED_SVM_H

#include "guest.h"

#include "x86/svm_exit.h"
#include "x86/vmcb.h"

#define CR0_PE      BIT(0)
#define CR0_MP      BIT(1)
#define CR0_TS      BIT(3)
#define CR0_NW      BIT(29)
#define CR0_CD      BIT(30)
#define CR0_PG      BIT(31)
#define CR4_PAE     BIT(5)
#define CR4_SMEP    BIT(20)
#define EFER_LME    BIT(8)
#define EFER_NXE    BIT(11)
#define EFER_SVME   BIT(12)
#define MSR_EFER    0xc0000080
#define FLAG_TF     BIT(8)
#define FLAG_IF     BIT(9)
#define PTE_P       BIT(0)
#define PTE_W       BIT(1)
#define PTE_U       BIT(2)
#define PTE_A       BIT(5)
#define PTE_D       BIT(6)
#define PTE_NX      BIT(63)
#define EXIT_FAILED (~0ULL) /* VMEXIT_INVALID */

enum { L2_RCX = 1, L2_RDX, L2_RBX, L2_RBP = 5, L2_RSI, L2_RDI };
extern u64 l2_regs[16];

#define L2(name, code)                                                                                                 \
	static __attribute__((naked)) void name(void)                                                                  \
	{                                                                                                              \
		asm volatile(code);                                                                                    \
	}

extern struct vmcb vmcb, other_vmcb;
extern u8 iopm[3 * 4096], msrpm[2 * 4096], host_save[4096];

/* Switches SVM on. */
void svm_start(void);

/* A fresh VMCB that enters L2 at `code` in this address space, with VMRUN, VMMCALL and shutdown intercepted. */
void vmcb_make(void (*code)(void));

static inline void intercept(unsigned code)
{
	vmcb.control.intercept[code / 32] |= 1u << code % 32;
}

static inline void no_intercept(unsigned code)
{
	vmcb.control.intercept[code / 32] &= ~(1u << code % 32);
}

/* Bits of CPUID 8000000AH, EDX. */
enum { DECODE_ASSISTS = 7, VIRTUAL_VMLOAD = 15 };
static inline bool svm_has(unsigned bit)
{
	u32 r[4];
	cpuid(0x8000000a, 0, r);
	return r[3] >> bit & 1;
}

/* One VMRUN, with the registers of l2_regs. */
void svm_enter(struct vmcb *at);

/* Enters L2 until its next #VMEXIT; the exit code. GIF is 1 before and after. */
u64 svm_run(void);
/* The same with GIF as #VMEXIT leaves it. */
u64 svm_run_gif_clear(void);

/* A fresh VMCB for `code`, and one run. */
u64 svm_run_fresh(void (*code)(void));

static inline void stgi(void)
{
	asm volatile("stgi" : : : "memory");
}

static inline void clgi(void)
{
	asm volatile("clgi" : : : "memory");
}

/* Identity map of the first 4 GiB by nested page tables: 2 MiB pages; the first 16 MiB in 4 KiB pages. */
extern u64 npt_pml4[512], npt_pdpt[512], npt_pd[4][512], npt_pt[8][512];
void npt_use(void);
static inline u64 *npt_entry(const volatile void *address)
{
	u64 page = (u64)address >> 12;
	return &npt_pt[page >> 9][page & 511];
}

#endif
