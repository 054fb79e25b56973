#include "cli/stats.h"

#include "base/clock.h"
#include "cpu/insn.h"
#include "x86/exit_reason.h"
#include "x86/svm_exit.h"

#include <string.h>

/* Of the table; JSON has all. */
enum { HANDLERS_SHOWN = 24 };

static const struct {
	const char *name, *text;
	size_t offset;
} rows[] = {
#define X(field, help) { #field, help, offsetof(struct counters, field) },
#include "base/counters.def"
#undef X
};

static u64 value_of(const struct counters *counters, size_t row)
{
	return *(const u64 *)((const char *)counters + rows[row].offset);
}

static double per_second(u64 count, u64 ns)
{
	return ns ? (double)count * NS_PER_SEC / (double)ns : 0;
}

/* Indexes of counters that are not 0, highest first; `order` has room for all. Returns how many there are. */
static unsigned sort(const u64 *counters, unsigned size, unsigned *order)
{
	unsigned count = 0;
	for (unsigned i = 0; i < size; i++) {
		if (!counters[i])
			continue;
		unsigned at = count++;
		for (; at > 0 && counters[order[at - 1]] < counters[i]; at--)
			order[at] = order[at - 1];
		order[at] = i;
	}
	return count;
}

/* A reason's name; its number if it has none, so that names are not repeated. */
static const char *name_of_reason(unsigned reason, char buffer[32])
{
	if (reason >= COUNTERS_SVM_EXITS)
		return svm_exit_name(reason - COUNTERS_SVM_EXITS, buffer);
	const char *name = exit_reason_name(reason);
	if (strcmp(name, "reserved"))
		return name;
	snprintf(buffer, 32, "reason %u", reason);
	return buffer;
}

static void table_line(FILE *out, const char *name, unsigned long long value)
{
	fprintf(out, "  %-48s %16llu\n", name, value);
}

void stats_print_table(FILE *out, const struct stats *stats)
{
	const struct counters *counters = stats->counters;
	unsigned order[COUNTERS_HANDLERS];
	fprintf(out, "strata: engine %s, %.3f s, %u reset%s, status %d\n", stats->engine,
		(double)stats->run_ns / NS_PER_SEC, stats->resets, stats->resets == 1 ? "" : "s", stats->status);
	if (!counters)
		return;
	/* Zero is what did not happen, or what this engine cannot count. */
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (value_of(counters, i))
			table_line(out, rows[i].text, value_of(counters, i));
	if (counters->instructions)
		table_line(out, "instructions per second",
			   (unsigned long long)per_second(counters->instructions, stats->run_ns));
	unsigned count = sort(counters->handler, COUNTERS_HANDLERS, order);
	for (unsigned i = 0; i < count && i < HANDLERS_SHOWN; i++) {
		char name[64];
		snprintf(name, sizeof name, "handlers called: %s", insn_row_name(order[i]));
		table_line(out, name, counters->handler[order[i]]);
	}
	count = sort(counters->exit_reason, COUNTERS_EXIT_REASONS, order);
	for (unsigned i = 0; i < count; i++) {
		char name[64], number[32];
		snprintf(name, sizeof name, "VM exits: %s", name_of_reason(order[i], number));
		table_line(out, name, counters->exit_reason[order[i]]);
	}
}

void stats_print_json(FILE *out, const struct stats *stats)
{
	const struct counters *counters = stats->counters;
	unsigned order[COUNTERS_HANDLERS];
	fprintf(out, "{\n  \"engine\": \"%s\",\n  \"status\": %d,\n  \"seconds\": %.6f,\n  \"resets\": %u",
		stats->engine, stats->status, (double)stats->run_ns / NS_PER_SEC, stats->resets);
	if (counters) {
		fprintf(out, ",\n  \"instructions_per_second\": %.0f,\n  \"counters\": {",
			per_second(counters->instructions, stats->run_ns));
		for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
			fprintf(out, "%s\n    \"%s\": %llu", i ? "," : "", rows[i].name,
				(unsigned long long)value_of(counters, i));
		fprintf(out, "\n  },\n  \"vm_exits_by_reason\": {");
		unsigned count = sort(counters->exit_reason, COUNTERS_EXIT_REASONS, order);
		for (unsigned i = 0; i < count; i++) {
			char number[32];
			fprintf(out, "%s\n    \"%s\": %llu", i ? "," : "", name_of_reason(order[i], number),
				(unsigned long long)counters->exit_reason[order[i]]);
		}
		fprintf(out, "\n  },\n  \"handlers_called\": {");
		count = sort(counters->handler, COUNTERS_HANDLERS, order);
		for (unsigned i = 0; i < count; i++)
			fprintf(out, "%s\n    \"%s\": %llu", i ? "," : "", insn_row_name(order[i]),
				(unsigned long long)counters->handler[order[i]]);
		fprintf(out, "\n  }");
	}
	fprintf(out, "\n}\n");
}
