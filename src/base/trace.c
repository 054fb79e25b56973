#include "base/trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

u32 trace_enabled;

enum { REPORTS_PER_SITE = 8, LINE_MAX_BYTES = 512 };

static const struct {
	const char *name, *help;
} channels[TRACE_COUNT] = {
#define X(n, text) [TRACE_##n] = { #n, text },
	TRACE_CHANNELS(X)
#undef X
};

const char *trace_name(enum trace_channel c)
{
	return channels[c].name;
}

const char *trace_help(enum trace_channel c)
{
	return channels[c].help;
}

const char *trace_enable(const char *list)
{
	for (;;) {
		size_t n = strcspn(list, ",");
		u32 found = 0;
		if (n == 3 && !strncmp(list, "all", 3))
			found = (1u << TRACE_COUNT) - 1;
		for (unsigned c = 0; c < TRACE_COUNT; c++)
			if (strlen(channels[c].name) == n && !strncmp(channels[c].name, list, n))
				found = 1u << c;
		if (!found)
			return list;
		trace_enabled |= found;
		if (!list[n])
			return NULL;
		list += n + 1;
	}
}

/* One write(2) a line, so that lines of several threads cannot mix. */
static void write_line(const char *prefix, const char *fmt, va_list ap)
{
	char line[LINE_MAX_BYTES];
	int n = snprintf(line, sizeof line, "strata: %s: ", prefix);
	int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	size_t len = (size_t)n + (m > 0 ? (size_t)m : 0);
	if (len > sizeof line - 2)
		len = sizeof line - 2;
	line[len++] = '\n';
	ssize_t done = write(STDERR_FILENO, line, len);
	(void)done;
}

void trace_line(enum trace_channel c, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	write_line(channels[c].name, fmt, ap);
	va_end(ap);
}

void report_line(unsigned *budget_used, const char *fmt, ...)
{
	if (__atomic_fetch_add(budget_used, 1, __ATOMIC_RELAXED) >= REPORTS_PER_SITE)
		return;
	va_list ap;
	va_start(ap, fmt);
	write_line("guest", fmt, ap);
	va_end(ap);
}
