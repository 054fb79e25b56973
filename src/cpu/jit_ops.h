/*
 * What the run loop asks of the translator (src/jit), which lies above src/cpu: the soft engine fills cpu->jit, or
 * leaves it NULL and everything is interpreted. All functions run on the CPU's thread.
 */
#ifndef STRATA_CPU_JIT_OPS_H
#define STRATA_CPU_JIT_OPS_H

#include "cpu/block.h"

/*
 * For translated code behind an instruction that a handler did: the translated block to go on with, jit_page and
 * jit_stamp made right for it; or NULL: return, for the run loop is needed.
 */
struct block *cpu_next_translated(struct cpu *cpu);

/*
 * RAM offset of the code at a linear address; RAM_OFFSET_NONE if it cannot be fetched, or is not in RAM. Throws
 * nothing; may set accessed flags.
 */
u64 cpu_code_at(struct cpu *cpu, u64 linear);

/*
 * For the translation of a block of no instruction: runs the instruction at RIP from scratch, and may throw. false: did
 * not, for something wants attention.
 */
bool cpu_run_crossing(struct cpu *cpu);

struct jit_ops {
	/* The block has run `hot` times: may set block->entry and block->lines. */
	void (*translate)(struct cpu *cpu, struct block *block);
	/*
	 * Runs a translated block at RIP, and what it leads to. RIP and all other state are as between blocks when it
	 * returns. Throws as handlers do.
	 */
	void (*run)(struct cpu *cpu, struct block *block);
	/* block->entry is about to go: nothing may lead there any more. */
	void (*untranslate)(struct cpu *cpu, struct block *block);
	/* ATTEND_JIT, between blocks. */
	void (*attend)(struct cpu *cpu);
	/* All blocks are gone; no translated code runs. */
	void (*flushed)(struct cpu *cpu);
};

#endif
