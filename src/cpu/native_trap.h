/*
 * Stubs that may raise a SIMD floating-point exception on the host. Knows nothing of the CPU: <ucontext.h> and cpu.h do
 * not go together.
 */
#ifndef STRATA_CPU_NATIVE_TRAP_H
#define STRATA_CPU_NATIVE_TRAP_H

#include "base/types.h"

#define MXCSR_INIT 0x1f80u

struct cpu;

/* `image`: 512 bytes, 16-byte aligned, for x87 stubs; others ignore it. */
typedef void (*stub_fn)(struct cpu *cpu, void *memory, u8 *image);

/* The host's MXCSR, MXCSR_INIT outside stubs. */
static inline void host_set_mxcsr(u32 v)
{
	__asm__ volatile("ldmxcsr %0" : : "m"(v));
}

static inline u32 host_mxcsr(void)
{
	u32 v;
	__asm__ volatile("stmxcsr %0" : "=m"(v));
	return v;
}

/* Takes SIGFPE for this process, once. 0 or -1 with errno. */
int native_trap_init(void);

/*
 * Runs a stub that is no x87 one with the guest's MXCSR, and returns its MXCSR after. false: the host raised a SIMD
 * exception, no register of the guest was stored, *mxcsr has the flags.
 */
bool native_run_trapped(stub_fn stub, struct cpu *cpu, void *memory, u32 *mxcsr);

#endif
