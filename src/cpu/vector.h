/*
 * Between the files of the vector family: what C does itself, and what selects share.
 */
#ifndef STRATA_CPU_VECTOR_H
#define STRATA_CPU_VECTOR_H

#include "cpu/cpu.h"
#include "cpu/insn.h"

/* Does the guest have the feature that this form needs? */
bool vector_form_exists(const struct decode *d);

/* The explicit memory operand, NULL if there is none. */
const ZydisDecodedOperand *vector_memory_operand(const struct decode *d);

/* Is it one whose memory operand Intel's alignment check leaves alone, whatever its size? insn may be NULL. */
bool vector_is_never_aligned(const struct insn *insn);

/* Takes plain 16- and 32-byte moves, which C does faster than a stub; opsize and cond as in native.c. */
bool vector_move_select(const struct decode *d, struct insn *insn);

/* What every MMX instruction does to the x87 state: MMn is physical register n, TOP becomes 0, all tags valid. */
void mmx_switch(struct cpu *cpu);

/* Whole state images, any size, in cpu->mmu.cls. state_write writes nothing unless all of it can be written. */
void state_read(struct cpu *cpu, u64 linear, void *buffer, unsigned size);
void state_write(struct cpu *cpu, u64 linear, const void *buffer, unsigned size);

#endif
