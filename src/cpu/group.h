/*
 * The CPUs of one machine: what they share besides memory. Two things need all of them.
 *
 * Code that changes. Each CPU has a block cache of its own; a page of RAM knows whose caches hold blocks of it. The
 * protocol, and what it promises, is in block.h.
 *
 * An exclusive instruction. A locked access across cache lines is done by bytes, since the host's kernel may punish
 * real ones, so no other CPU may run meanwhile. group_ask_exclusive() in a handler makes the run loop run that
 * instruction again, with all other CPUs stopped between instructions.
 *
 * A CPU is `running` while it is in cpu_run(); one that is not holds no address of guest memory, uses no block, and
 * looks at `attention` before it does anything else. Nobody ever waits for a CPU that does not run.
 *
 * Locks, both taken last: code_lock and stop_lock. Under them only attention bits of other CPUs are set. No CPU waits
 * for another with the board lock or code_lock held.
 *
 * Owner: made by the first CPU on a struct mem, freed by the last. Join and leave before and after the CPUs run.
 */
#ifndef STRATA_CPU_GROUP_H
#define STRATA_CPU_GROUP_H

#include "cpu/cpu.h"

#include <pthread.h>

enum {
	GROUP_MAX = 64,   /* CPUs: one bit each in code_owners.cpus */
	FRESH_PAGES = 256 /* pages that just got code, until every CPU has let go of them; a power of two */
};

/* Who has blocks of a page. Under code_lock. */
struct code_owners {
	u64 cpus;  /* bit n: member n has, or is about to have */
	u64 since; /* group.fresh when the page got its first owner; 0: every CPU has let go of it since */
};

struct cpu_group {
	struct cpu *cpu[GROUP_MAX]; /* by cpu->member; NULL: left */
	unsigned count;             /* members that ever joined */

	pthread_mutex_t code_lock;
	struct code_owners *pages; /* of RAM */
	u64 page_count;
	u64 fresh; /* counts pages that got their first owner; atomic */
	u64 fresh_page[FRESH_PAGES];

	pthread_mutex_t stop_lock;
	pthread_cond_t stop_changed; /* of `exclusive`, or of who is running or stopped */
	struct cpu *exclusive;       /* who may run, if not everybody; atomic */
};

/* 0 or -errno. cpu->mem is set. */
int group_join(struct cpu *cpu);
void group_leave(struct cpu *cpu);

/* Around cpu_run(). */
void group_start(struct cpu *cpu);
void group_stop(struct cpu *cpu);

/* The CPU that this thread runs or ran last; NULL in other threads. */
struct cpu *group_current(void);

/*
 * What each CPU gets of a buffer that one CPU alone would have `bytes` of: with more CPUs less, for they run much the
 * same, but never so little that it is emptied all the time.
 */
static inline size_t group_share(const struct cpu *cpu, size_t bytes)
{
	unsigned cpus = cpu->config->cpu_count;
	return cpus <= 1 ? bytes : cpus <= 4 ? bytes / 2 : cpus <= 16 ? bytes / 4 : bytes / 8;
}

static inline bool group_is_exclusive(const struct cpu *cpu)
{
	return cpu->group->count == 1 || cpu->exclusive;
}

/* From a handler that has changed nothing yet: its instruction runs again, and then exclusively. */
NORETURN void group_ask_exclusive(struct cpu *cpu);

/* Between instructions. Begin returns with all other CPUs stopped. */
void group_begin_exclusive(struct cpu *cpu);
void group_end_exclusive(struct cpu *cpu);
/* ATTEND_PAUSE: waits while another CPU runs exclusively. */
void group_pause(struct cpu *cpu);

#endif
