/*
 * Basic VM-exit reasons of VT-x, EXIT_<name of exit_reason.def>. Instruction rows name them too.
 */
#ifndef STRATA_X86_EXIT_REASON_H
#define STRATA_X86_EXIT_REASON_H

enum exit_reason {
	EXIT_NONE = -1,
#define X(number, name, text) EXIT_##name = number,
#include "x86/exit_reason.def"
#undef X
	EXIT_REASON_COUNT
};

/* "CPUID", "EPT violation"; "reserved" for numbers that mean nothing. Never NULL. */
const char *exit_reason_name(unsigned reason);

#endif
