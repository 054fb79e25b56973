/*
 * Blocks: runs of decoded instructions, keyed by RAM offset and mode, so that any virtual alias, process or guest level
 * shares them. A block ends at control flow, at a page's end, or after BLOCK_MAX instructions. Code outside RAM,
 * instructions across pages and code that changes all the time run one by one, each compared with its bytes first.
 *
 * Owner: one cache per CPU, used by the CPU's thread alone. Dropped blocks are unlinked at once, and left after the
 * writing instruction if one runs; their memory is taken back when the whole cache is emptied, which happens only
 * between blocks. The tables beside the blocks know 64-byte lines, so that data beside code drops nothing.
 *
 * Invalidation, for any number of CPUs. A page of RAM knows which CPUs have blocks of it (its owners, group.h); while
 * it has any it has PAGE_HAS_CODE, and no TLB gets a write entry for it.
 *
 *   Decoding. Under code_lock a CPU becomes an owner, reads the bytes and links the block. The first owner sets
 *   PAGE_HAS_CODE, and gives the page a number; ATTEND_CODE makes every other CPU drop its write entries for it, and
 *   note that it has seen this number. A CPU may be in the middle of a block, with a store under way through an entry
 *   that it checked before. So until all running CPUs have seen the number, nobody keeps blocks of the page: its
 *   instructions run one by one, each compared with the bytes of this moment (run.c). Nobody waits, so no CPU that the
 *   host does not run can hold up another.
 *
 *   Writing. Every write to such a page goes to code_written, which takes code_lock, drops the writer's own blocks, and
 *   queues the range for other owners and sets their ATTEND_CODE; once before the bytes change and once after, for an
 *   owner may drop a block and decode the old bytes again in between. An owner that is not in cpu_run() has its blocks
 *   dropped by the writer. An owner whose queue is full empties its cache.
 *
 *   Looking. A CPU looks at ATTEND_CODE between blocks in the run loop; in translated code where a translation is
 *   entered, but on the way forward in one page, and behind each handler.
 *
 * What this promises: the writing CPU itself executes the new bytes with the next instruction. Another CPU that has
 * seen the write, or any later write of that CPU, executes old bytes at most until it looks: its attention was set
 * before. Instructions that serialize are handlers that end their block, so it looks behind each of them. x86 promises
 * less (SDM vol. 3, 9.1.3: cross-modifying code needs a serializing instruction between seeing the signal and executing
 * the new code), and guests that rely on just that, as Linux does (INT3 first, an IPI to all, then the tail, an IPI,
 * then the first byte), or on the coherence of single stores, as JITs do, get it. One instruction is decoded from one
 * copy of its bytes; that a copy may be torn is as on any processor.
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
#define MODE_BOUNDS   0x400 /* MPX is enabled: never translated */

enum { BLOCK_MAX = 64 };

int block_cache_init(struct cpu *cpu);
void block_cache_destroy(struct cpu *cpu);
/* Empties the cache before the next block runs; the running one goes on to its end. */
void block_cache_flush(struct cpu *cpu);

#endif
