/*
 * The frame of fuzz programs that set up a machine at random, run it for a moment, and look at what it did: options,
 * seed, limits, and a report that names seed and run when one crashes.
 *
 *	PROGRAM [-runs=N] [-seconds=N] [-seed=N]
 */
#ifndef STRATA_TESTS_FUZZ_RUNS_H
#define STRATA_TESTS_FUZZ_RUNS_H

#include "../unit/machine.h"

u64 next_random(void);
bool one_in(unsigned n);

/* Reads the options and prints the seed. First of all. */
void fuzz_begin(int argc, char **argv);

/* Calls try_once until the runs or the seconds (5 unless told) are over; returns how often. SIGALRM stops the CPU. */
unsigned long fuzz_runs(struct machine *machine, void (*try_once)(void));

/* Has half of the runs translated by `jit`, and half interpreted. */
void fuzz_choose_translation(struct machine *machine, const struct jit_ops *jit);

/* Runs an active CPU for 2 ms at most, and past its first idle stops. */
void fuzz_run_a_moment(struct machine *machine);

#endif
