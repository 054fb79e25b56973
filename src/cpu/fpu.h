/*
 * The guest's x87, MMX and SSE state as the vector families share it: where things are in the FXSAVE64 image
 * (SDM vol. 1, table 10-2), the availability checks, and the code area of native.h.
 *
 *    0 FCW   2 FSW   4 FTW (one bit a register: 1 = in use)   6 FOP   8 FIP   16 FDP   24 MXCSR   28 MXCSR_MASK
 *   32 + 16n ST(n) or MMn      160 + 16n XMMn
 *
 * FIP and FDP are offsets, 64 bits wide; the CPU says by CPUID that it keeps no FCS and FDS.
 */
#ifndef STRATA_CPU_FPU_H
#define STRATA_CPU_FPU_H

#include "cpu/cpu.h"
#include "cpu/event.h"
#include "cpu/insn.h"
#include "cpu/internal.h"
#include "cpu/native_trap.h"
#include "x86/feature.h"

#include <string.h>

enum { FPU_FCW = 0, FPU_FSW = 2, FPU_FTW = 4, FPU_FOP = 6, FPU_FIP = 8, FPU_FDP = 16, FPU_MXCSR = 24 };
enum { FPU_MXCSR_MASK = 28, FPU_ST = 32, FPU_XMM = 160, FPU_X87_BYTES = 160 };

#define FSW_ERRORS 0x003fu /* IE DE ZE OE UE PE */
#define FSW_SF     0x0040u /* stack fault */
#define FSW_ES     0x0080u /* an unmasked exception is pending */
#define FSW_TOP    0x3800u
#define FSW_B      0x8000u /* follows ES */
#define FCW_INIT   0x037fu

#define MXCSR_VALID 0xffffu /* what may be set without #GP */
#define MXCSR_FLAGS 0x003fu
#define MXCSR_FZ    0x8000u

#define FPU_FIELD(name, type, at)                                                                                      \
	static inline type fpu_##name(const struct cpu *cpu)                                                           \
	{                                                                                                              \
		type v;                                                                                                \
		memcpy(&v, cpu->fpu.legacy + (at), sizeof(v));                                                         \
		return v;                                                                                              \
	}                                                                                                              \
	static inline void fpu_set_##name(struct cpu *cpu, type v)                                                     \
	{                                                                                                              \
		memcpy(cpu->fpu.legacy + (at), &v, sizeof(v));                                                         \
	}
FPU_FIELD(fcw, u16, FPU_FCW)
FPU_FIELD(fsw, u16, FPU_FSW)
FPU_FIELD(ftw, u8, FPU_FTW)
FPU_FIELD(fop, u16, FPU_FOP)
FPU_FIELD(fip, u64, FPU_FIP)
FPU_FIELD(fdp, u64, FPU_FDP)
FPU_FIELD(mxcsr, u32, FPU_MXCSR)
#undef FPU_FIELD

static inline u8 *fpu_st(struct cpu *cpu, unsigned n)
{
	return cpu->fpu.legacy + FPU_ST + 16 * n;
}

static inline u8 *fpu_xmm(struct cpu *cpu, unsigned n)
{
	return cpu->fpu.legacy + FPU_XMM + 16 * n;
}

/*
 * TOP := top, without touching a register: the image counts registers from TOP, so they move in it. MMn is the physical
 * register n, which is its place in the image when TOP is 0.
 */
void fpu_set_top(struct cpu *cpu, unsigned top);

/* Sets ES and B as FCW and the exception flags demand. */
void fpu_update_summary(struct cpu *cpu);
/* #NM, then #MF for an unmasked exception of an earlier instruction: what every waiting x87 instruction does first. */
void x87_check(struct cpu *cpu);

/* #UD and #NM of SSE and VEX instructions (SDM vol. 2, 2.4). */
NORETURN void sse_unavailable(struct cpu *cpu);
NORETURN void avx_unavailable(struct cpu *cpu);

static inline void sse_check(struct cpu *cpu)
{
	if (unlikely((cpu->cr0 & (CR0_EM | CR0_TS)) || !(cpu->cr4 & CR4_OSFXSR)))
		sse_unavailable(cpu);
}

static inline void avx_check(struct cpu *cpu)
{
	const u64 needed = XCR0_SSE | XCR0_AVX;
	if (unlikely((cpu->cr0 & CR0_TS) || !(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & needed) != needed ||
		     cpu->mode <= CPU_V86))
		avx_unavailable(cpu);
}

/* --- code area (native_code.c) --- */

/* Kinds of stub: what surrounds the instruction. */
enum stub_kind { STUB_SSE, STUB_AVX, STUB_MMX, STUB_X87 };

/*
 * The stub that runs this instruction, shared if there is one with the same code. NULL if the instruction cannot be
 * rewritten (an encoding the guest does not have), or, with *full set, if the area is full.
 */
stub_fn stub_make(const struct decode *d, enum stub_kind kind, bool *full);

/* Handler of instructions that found the area full when they were decoded: empties it and decodes anew. */
void native_exec_full(struct cpu *cpu, const struct insn *insn);

#endif
