/*
 * The same-ISA translator: turns hot blocks of 64-bit code into host code. See docs/translation.md for how it works.
 *
 * The code area is one memory object mapped twice, writable here and executable there, both made by jit_create(), so
 * before the sandbox closes; no mapping is both. When it is full it is emptied together with the block cache.
 *
 * Owner and thread: jit_create() and jit_destroy() are the engine's; all else runs on the CPU's thread.
 */
#ifndef STRATA_JIT_JIT_H
#define STRATA_JIT_JIT_H

#include "cpu/cpu.h"

struct jit_options {
	u16 hot;    /* translate a block when it runs for this time, at least 1 */
	u16 hotter; /* the same once two fifths of the memory are used, at least `hot` */
	bool check; /* run each translation beside the interpreter, and stop at the first difference */
	bool dump;  /* print the first translation of the block that holds dump_address, beside the guest's code */
	u64 dump_address; /* linear, or a RAM offset */
	size_t memory;    /* bytes of translated code at most; 0: as is usual */
	int perf_map; /* descriptor of a file where `perf` looks for names of translated code, the caller's; 0: none */
};

/* Gives the CPU a translator, after cpu_init(). 0 or -errno. */
int jit_create(struct cpu *cpu, const struct jit_options *options);
/* Before cpu_destroy(). */
void jit_destroy(struct cpu *cpu);

#endif
