/*
 * What the run loop asks of the translator (src/jit), which lies above src/cpu: the soft engine fills cpu->jit, or
 * leaves it NULL and everything is interpreted. All functions run on the CPU's thread.
 */
#ifndef STRATA_CPU_JIT_OPS_H
#define STRATA_CPU_JIT_OPS_H

#include "cpu/block.h"

struct jit_ops {
	/* The block has run `hot` times: may set block->entry. Called once for a block. */
	void (*translate)(struct cpu *cpu, struct block *block);
	/*
	 * Runs a translated block at RIP, and what it chains to. RIP and all other state are as between blocks when it
	 * returns. Result: the link (one of some block's next[]) that led out of translated code to RIP, within one
	 * page, or NULL. Throws as handlers do.
	 */
	struct block **(*run)(struct cpu *cpu, struct block *block);
	/* All blocks are gone; no translated code runs. */
	void (*flushed)(struct cpu *cpu);
};

#endif
