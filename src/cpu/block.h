/*
 * Blocks: runs of decoded instructions, keyed by RAM offset and mode, so that any virtual alias, process or guest level
 * shares them. A block ends at control flow, at a page's end, or after BLOCK_MAX instructions. Code outside RAM,
 * instructions across pages and code that changes all the time run one by one, each compared with its bytes first.
 *
 * Invalidation: a page with blocks has PAGE_HAS_CODE; a write to it ends in block_code_written(), which drops the
 * blocks whose bytes change. Dropped blocks are unlinked at once, and left after the writing instruction if one runs;
 * their memory is taken back when the whole cache is emptied, which happens only between blocks. The tables beside the
 * blocks know 64-byte lines, so that data beside code drops nothing.
 *
 * Owner: one cache per CPU, used by the CPU's thread alone; block_code_written() may come from any thread. There is one
 * CPU for now: with several, PAGE_HAS_CODE must stay as long as any of their caches holds blocks of the page, and
 * mem->code_written must reach them all.
 */
#ifndef STRATA_CPU_BLOCK_H
#define STRATA_CPU_BLOCK_H

#include "cpu/cpu.h"
#include "cpu/insn.h"

/* mode_key: what decoding depends on besides the bytes. */
#define MODE_CODE16   0x001
#define MODE_CODE32   0x002
#define MODE_CODE64   0x004
#define MODE_STACK16  0x008
#define MODE_STACK32  0x010
#define MODE_REAL     0x020 /* real mode (CR0.PE = 0) */
#define MODE_V86      0x040
#define MODE_FLAT     0x080 /* protected mode: CS, DS, ES, SS have base 0, limit 4 GiB, read/write: no checks needed */
#define MODE_NON_ROOT 0x100 /* rows with intercepts ask hv */
#define MODE_STEP     0x200 /* TF or a debug/HV reason: one instruction at a time; the same blocks serve it */

enum { BLOCK_MAX = 64 };

int block_cache_init(struct cpu *cpu);
void block_cache_destroy(struct cpu *cpu);
/* Empties the cache before the next block runs; the running one goes on to its end. */
void block_cache_flush(struct cpu *cpu);

/* mem->code_written: drops blocks that overlap [ram_offset, +size). */
void block_code_written(void *cpu, u64 ram_offset, u64 size);

#endif
