/* The state of a CPU for people: triple faults, --stats, debugging. */
#include "cpu/cpu.h"

#include <stdio.h>

static const char *mode_name(unsigned mode)
{
	static const char *const names[] = { "real", "virtual-8086", "protected", "compatibility", "64-bit" };
	return mode < ARRAY_SIZE(names) ? names[mode] : "?";
}

static const char *activity_name(unsigned activity)
{
	static const char *const names[] = { "active", "halted", "shutdown", "wait-for-SIPI", "mwait" };
	return activity < ARRAY_SIZE(names) ? names[activity] : "?";
}

static void dump_debug_registers(const struct cpu *cpu, void (*emit)(void *opaque, const char *line), void *opaque)
{
	char line[160];
	snprintf(line, sizeof(line), "DR0 %016llx  DR1 %016llx  DR2 %016llx  DR3 %016llx  DR6 %08llx  DR7 %08llx",
		 (unsigned long long)cpu->dr[0], (unsigned long long)cpu->dr[1], (unsigned long long)cpu->dr[2],
		 (unsigned long long)cpu->dr[3], (unsigned long long)cpu->dr[6], (unsigned long long)cpu->dr[7]);
	emit(opaque, line);
}

/* Newest first, as people read backtraces. */
static void dump_blocks(const struct cpu *cpu, void (*emit)(void *opaque, const char *line), void *opaque)
{
	const unsigned n = ARRAY_SIZE(cpu->last_rip);
	char line[160];

	emit(opaque, "last blocks, newest first:");
	for (unsigned row = 0; row < n; row += 4) {
		int used = 0;
		for (unsigned i = row; i < row + 4; i++)
			used += snprintf(line + used, sizeof(line) - (size_t)used, " %016llx",
					 (unsigned long long)cpu->last_rip[(cpu->last_rip_at - 1 - i) % n]);
		emit(opaque, line);
	}
}

void cpu_dump(const struct cpu *cpu, void (*emit)(void *opaque, const char *line), void *opaque)
{
	struct x86_state state;
	char line[160];

	snprintf(line, sizeof(line), "CPU %u: %s mode, CPL %u, %s%s", cpu->config->cpu_index, mode_name(cpu->mode),
		 cpu->cpl, activity_name(cpu->activity), cpu->non_root ? ", in a guest of the guest" : "");
	emit(opaque, line);
	cpu_get_state(cpu, &state);
	x86_state_print(&state, emit, opaque);
	dump_debug_registers(cpu, emit, opaque);
	dump_blocks(cpu, emit, opaque);
}
