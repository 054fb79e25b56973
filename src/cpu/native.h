/*
 * Vector and x87 instructions on the host's own CPU: at decode time an instruction is re-encoded with its memory operand
 * and general registers replaced, and wrapped in a stub that loads the guest's vector registers it reads and stores those
 * it writes. Stubs are shared by encoding and live in one code area that is mapped twice, writable here and executable
 * there, both made before the sandbox closes; when full, it is emptied together with the block cache.
 */
#ifndef STRATA_CPU_NATIVE_H
#define STRATA_CPU_NATIVE_H

#include "cpu/cpu.h"
#include "cpu/insn.h"

int native_init(struct cpu *cpu);
void native_destroy(struct cpu *cpu);

/* `select` of every row in insn_vector.def that the host executes. */
bool native_select(const struct decode *d, struct insn *insn);

/* Guest FPU state to INIT/RESET values. */
void fpu_reset(struct cpu *cpu, bool init_signal);

#endif
