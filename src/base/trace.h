/*
 * What Strata says besides the guest's own output: trace lines by channel, and reports of things a guest did that
 * Strata cannot follow. Everything goes to standard error, one line a call. Any thread may call; lines never mix.
 */
#ifndef STRATA_BASE_TRACE_H
#define STRATA_BASE_TRACE_H

#include "base/types.h"

/* name, what --trace help says of it */
#define TRACE_CHANNELS(X)                                                                                              \
	X(exits, "VM exits and entries of the guest's own hypervisor")                                                 \
	X(mmu, "page-table walks that fault, TLB flushes")                                                             \
	X(msr, "RDMSR and WRMSR")                                                                                      \
	X(irq, "interrupt lines, interrupt delivery, APIC messages")                                                   \
	X(io, "port and memory-mapped device accesses")                                                                \
	X(cpu, "exceptions, mode changes, CPUID")                                                                      \
	X(jit, "blocks translated")                                                                                    \
	X(vmx, "VMX instructions, failed checks of VM entry and VMRUN")                                                \
	X(boot, "what the boot loader put where")

enum trace_channel {
#define X(name, text) TRACE_##name,
	TRACE_CHANNELS(X)
#undef X
		TRACE_COUNT
};

/* Bit mask of the channels switched on; set once before the guest starts. */
extern u32 trace_enabled;

/*
 * Switches on the channels of a comma-separated list ("all" for every one). Returns NULL, or the first unknown word
 * (pointing into `list`, ended by ',' or NUL).
 */
const char *trace_enable(const char *list);

/* Name and help text of channel c. */
const char *trace_name(enum trace_channel c);
const char *trace_help(enum trace_channel c);

void trace_line(enum trace_channel c, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* TRACE(irq, "vector %u", v): costs one test when the channel is off. */
#define TRACE(channel, ...)                                                                                            \
	do {                                                                                                           \
		if (unlikely(trace_enabled & (1u << TRACE_##channel)))                                                 \
			trace_line(TRACE_##channel, __VA_ARGS__);                                                      \
	} while (0)

/*
 * One line about something the guest did that is not implemented or makes no sense. Always shown, but each call site
 * speaks at most eight times per process, so that a guest cannot flood the log.
 */
void report_line(unsigned *budget_used, const char *fmt, ...) PRINTF_LIKE(2, 3);
#define REPORT(...)                                                                                                    \
	do {                                                                                                           \
		static unsigned budget_used_;                                                                          \
		report_line(&budget_used_, __VA_ARGS__);                                                               \
	} while (0)

#endif
