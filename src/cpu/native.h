/*
 * Vector and x87 instructions on the host's own CPU: at decode time an instruction is re-encoded with its memory
 * operand and general registers replaced, and wrapped in a stub that loads the guest's registers it reads and stores
 * those it writes. Stubs with the same code are shared. They live in one code area that is mapped twice, writable here
 * and executable there, both made before the sandbox closes; when full, it is emptied together with the block cache.
 *
 * A guest's instruction never faults on the host: memory operands are checked pages or bounce buffers, SSE exceptions
 * are masked while it runs, x87 ones stay pending and are cleared before anything of the host's could wait for them.
 *
 * Owner and thread: the CPU's.
 */
#ifndef STRATA_CPU_NATIVE_H
#define STRATA_CPU_NATIVE_H

#include "cpu/cpu.h"
#include "cpu/insn.h"

/* Makes the code area. Call before the sandbox closes. 0 or -errno. */
int native_init(struct cpu *cpu);
void native_destroy(struct cpu *cpu);

/* `select` of the rows in insn_vector.def. native_select takes everything that the host executes as it is. */
bool native_select(const struct decode *d, struct insn *insn);
bool x87_select(const struct decode *d, struct insn *insn);
bool x87_control_select(const struct decode *d, struct insn *insn);
bool mxcsr_select(const struct decode *d, struct insn *insn);
bool gather_select(const struct decode *d, struct insn *insn);
bool masked_move_select(const struct decode *d, struct insn *insn);
bool vzero_select(const struct decode *d, struct insn *insn);
bool xsave_select(const struct decode *d, struct insn *insn);

/* Guest FPU state to RESET values. INIT leaves all of it alone (SDM vol. 3, table 10-1). */
void fpu_reset(struct cpu *cpu, bool init_signal);

/* XCR0 bits this CPU can have: x87, SSE, PKRU, and AVX if the host has it. For XSETBV and CPUID leaf 0DH. */
u64 xsave_supported(const struct cpu *cpu);
/* May XCR0 be `value`? XSETBV raises #GP otherwise. */
bool xsave_xcr0_valid(const struct cpu *cpu, u64 value);
/* Which components are not in their initial configuration, for XGETBV. */
u64 xsave_in_use(struct cpu *cpu);
/* Bytes of an XSAVE area that holds `components`. For CPUID leaf 0DH. */
u32 xsave_size(const struct cpu *cpu, u64 components, bool compacted);
/* Bytes of one component, and where it is in the standard format; not for the first two. For CPUID leaf 0DH. */
u32 xsave_component(const struct cpu *cpu, u64 component, u32 *offset);

#endif
