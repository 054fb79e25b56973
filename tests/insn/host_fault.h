/*
 * The signal handler of host.c, apart because <ucontext.h> and cpu.h both name a REG_RIP.
 */
#ifndef STRATA_TESTS_INSN_HOST_FAULT_H
#define STRATA_TESTS_INSN_HOST_FAULT_H

#include "base/types.h"

struct host_fault {
	int vector; /* -1: none */
	u64 error, cr2, rip;
};

extern volatile struct host_fault host_fault;
/* The bytes of the instruction, for the message if all goes wrong. */
extern char host_running[64];

/* Faults of code in [base, +size) are recorded in host_fault and go on at `leave`; others end the process. */
void host_catch_faults(u64 base, u64 size, void (*leave)(void));

#endif
