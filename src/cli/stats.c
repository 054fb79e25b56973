#include "cli/stats.h"

#include "base/clock.h"
#include "x86/exit_reason.h"

#include <string.h>

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

/* Exit reasons, most frequent first; `order` has room for all. Returns how many occurred. */
static unsigned sort_reasons(const struct counters *counters, unsigned order[COUNTERS_EXIT_REASONS])
{
	unsigned count = 0;
	for (unsigned reason = 0; reason < COUNTERS_EXIT_REASONS; reason++) {
		if (!counters->exit_reason[reason])
			continue;
		unsigned at = count++;
		for (; at > 0 && counters->exit_reason[order[at - 1]] < counters->exit_reason[reason]; at--)
			order[at] = order[at - 1];
		order[at] = reason;
	}
	return count;
}

/* A reason's name; its number if it has none, so that names are not repeated. */
static const char *name_of_reason(unsigned reason, char buffer[16])
{
	const char *name = exit_reason_name(reason);
	if (strcmp(name, "reserved"))
		return name;
	snprintf(buffer, 16, "reason %u", reason);
	return buffer;
}

static void table_line(FILE *out, const char *name, unsigned long long value)
{
	fprintf(out, "  %-48s %16llu\n", name, value);
}

void stats_print_table(FILE *out, const struct stats *stats)
{
	const struct counters *counters = stats->counters;
	unsigned order[COUNTERS_EXIT_REASONS];
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
	unsigned count = sort_reasons(counters, order);
	for (unsigned i = 0; i < count; i++) {
		char name[64], number[16];
		snprintf(name, sizeof name, "VM exits: %s", name_of_reason(order[i], number));
		table_line(out, name, counters->exit_reason[order[i]]);
	}
}

void stats_print_json(FILE *out, const struct stats *stats)
{
	const struct counters *counters = stats->counters;
	unsigned order[COUNTERS_EXIT_REASONS];
	fprintf(out, "{\n  \"engine\": \"%s\",\n  \"status\": %d,\n  \"seconds\": %.6f,\n  \"resets\": %u",
		stats->engine, stats->status, (double)stats->run_ns / NS_PER_SEC, stats->resets);
	if (counters) {
		fprintf(out, ",\n  \"instructions_per_second\": %.0f,\n  \"counters\": {",
			per_second(counters->instructions, stats->run_ns));
		for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
			fprintf(out, "%s\n    \"%s\": %llu", i ? "," : "", rows[i].name,
				(unsigned long long)value_of(counters, i));
		fprintf(out, "\n  },\n  \"vm_exits_by_reason\": {");
		unsigned count = sort_reasons(counters, order);
		for (unsigned i = 0; i < count; i++) {
			char number[16];
			fprintf(out, "%s\n    \"%s\": %llu", i ? "," : "", name_of_reason(order[i], number),
				(unsigned long long)counters->exit_reason[order[i]]);
		}
		fprintf(out, "\n  }");
	}
	fprintf(out, "\n}\n");
}
