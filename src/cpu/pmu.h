/*
 * The performance-monitoring unit: Intel's architectural performance monitoring of version 2 (SDM vol. 3, chapter 20),
 * or AMD's six core counters, of which the oldest four have second numbers (APM vol. 2, 13.2).
 *
 * What is counted, exactly at every instruction: instructions retired, by the count that the CPU keeps anyway, and the
 * branches among them. Besides, cycles at the rate of the time-stamp counter, while the CPU is not halted and the host
 * lets it run. A counter of any other event counts nothing, which one log line says, and CPUID too.
 *
 * How: a counter's value is as of the last time the unit settled. It settles when one of its registers is accessed,
 * when the CPU starts or stops running, and, if `filters` is set, when CPL, guest mode or EFER.SVME change: only then
 * does an enabled counter tell these apart. An unused unit costs a test of `filters` or `active` in those places.
 *
 * Overflow: a counter that interrupts asks for ATTEND_PMU once it is about to overflow: one of cycles by the platform's
 * timer, the others by `stop_at`, which the run loop and tracked code look at. Over the last instructions the run loop
 * is held to blocks that end before the overflow (`bound`), so that the interrupt comes behind the very instruction
 * that caused it.
 *
 * Translated code is `tracked` where it must count branches, or stop before an overflow: all code is translated anew
 * once a counter first wants that, and stays so until there is another reason to do it.
 *
 * Owner and thread: part of struct cpu, the CPU's thread alone.
 */
#ifndef STRATA_CPU_PMU_H
#define STRATA_CPU_PMU_H

#include "base/types.h"

struct cpu;
struct insn;

enum { PMU_PROGRAMMABLE = 6, PMU_FIXED = 3, PMU_COUNTERS = PMU_PROGRAMMABLE + PMU_FIXED };

struct pmu_counter {
	u64 value;       /* PMU_WIDTH bits */
	u8 event;        /* enum pmu_event */
	u8 where;        /* PMU_IN_*: all that it counts in; 0: nowhere */
	bool interrupts; /* on overflow */
};

struct pmu {
	bool filters; /* wants to hear of changes of CPL and the like: pmu_changed() */
	bool active;  /* a counter counts, or would elsewhere */
	u8 context;   /* PMU_IN_*: where the CPU is, as of the last settling; 0: it does not run */
	u16 counting; /* the counters that count there, one bit each */
	struct pmu_counter counter[PMU_COUNTERS]; /* programmable ones, then fixed ones */
	u64 select[PMU_PROGRAMMABLE];
	u64 fixed_control, global_control, global_status; /* Intel's */
	u64 branches;                                     /* retired; stands while nobody counts them */
	u64 instructions, branches_settled, cycles;       /* as of the last settling */
	bool counts_cycles;                               /* or `cycles` is not kept, for that is a system call */
	bool counts_branches;                             /* an enabled counter wants them */
	bool tracks;  /* that, or one that counts no cycles may interrupt before long */
	bool tracked; /* code that is translated from now on */
	u64 bound;    /* so many instructions more may run before the unit has to settle; ~0: any number */
	u64 stop_at;  /* counters.instructions from which on attention is due; ~0: never */
	u64 armed;    /* the platform's TSC that attention is asked for, or was; 0: never */
};

/* How many programmable counters there are; 0: no such unit. */
unsigned pmu_programmable(const struct cpu *cpu);
void pmu_reset(struct cpu *cpu); /* RESET; INIT changes nothing */

/* Its registers. pmu_has_msr() says which there are; false from the others: #GP. */
bool pmu_has_msr(const struct cpu *cpu, u32 msr);
bool pmu_msr_read(struct cpu *cpu, u32 msr, u64 *value);
bool pmu_msr_write(struct cpu *cpu, u32 msr, u64 value);
/* RDPMC's ECX. false: #GP. */
bool pmu_read(struct cpu *cpu, u32 index, u64 *value);
/* IA32_PERF_GLOBAL_CTRL as VM entries and VM exits check and load it. */
bool pmu_global_control_valid(const struct cpu *cpu, u64 value);
void pmu_set_global_control(struct cpu *cpu, u64 value);
/* Bits of IA32_DEBUGCTL that come with the unit. */
u64 pmu_debugctl_bits(const struct cpu *cpu);

/* Is it a branch, far ones and interrupts by instructions included? */
bool pmu_is_branch(const struct insn *insn);
/* The instruction has retired: counts it if it is a branch, and if that is wanted. */
static inline void pmu_retired(struct pmu *pmu, const struct insn *insn)
{
	if (__builtin_expect(pmu->counts_branches, false))
		pmu->branches += pmu_is_branch(insn);
}

/* CPL, guest mode, EFER.SVME or `running` may have changed. */
void pmu_changed(struct cpu *cpu);
/* ATTEND_PMU at an instruction boundary: what is due happens, and attention is asked for again as need be. */
void pmu_attend(struct cpu *cpu);

#endif
