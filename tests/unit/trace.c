/* Trace lines and reports, as they come out on standard error. */
#include "base/trace.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What `speak` writes to standard error, up to 4 KiB. */
static char *heard(void (*speak)(void))
{
	static char text[4096];
	int ends[2];
	g_assert_cmpint(pipe(ends), ==, 0);
	int saved = dup(STDERR_FILENO);
	dup2(ends[1], STDERR_FILENO);
	speak();
	dup2(saved, STDERR_FILENO);
	close(saved);
	close(ends[1]);
	size_t length = 0;
	ssize_t n;
	while ((n = read(ends[0], text + length, sizeof text - 1 - length)) > 0)
		length += (size_t)n;
	close(ends[0]);
	text[length] = 0;
	return text;
}

static unsigned lines_of(const char *text)
{
	unsigned n = 0;
	for (; *text; text++)
		n += *text == '\n';
	return n;
}

static void test_lists(void)
{
	trace_enabled = 0;
	g_assert_null(trace_enable("mmu"));
	g_assert_cmphex(trace_enabled, ==, 1u << TRACE_mmu);
	g_assert_null(trace_enable("io,irq"));
	g_assert_cmphex(trace_enabled, ==, 1u << TRACE_mmu | 1u << TRACE_io | 1u << TRACE_irq);
	g_assert_null(trace_enable("all"));
	g_assert_cmphex(trace_enabled, ==, (1u << TRACE_COUNT) - 1);
	trace_enabled = 0;
}

static void test_unknown_words(void)
{
	trace_enabled = 0;
	g_assert_cmpstr(trace_enable("mmu,nonsense,io"), ==, "nonsense,io");
	g_assert_cmpstr(trace_enable(""), ==, "");
	g_assert_cmpstr(trace_enable("mm"), ==, "mm");
	g_assert_cmpstr(trace_enable("mmus"), ==, "mmus");
	g_assert_cmpstr(trace_enable("io,"), ==, "");
	trace_enabled = 0;
}

static void test_names(void)
{
	g_assert_cmpstr(trace_name(TRACE_vmx), ==, "vmx");
	for (unsigned c = 0; c < TRACE_COUNT; c++)
		g_assert_cmpuint(strlen(trace_help(c)), >, 0);
}

static void speak_twice(void)
{
	TRACE(io, "port %#x", 0x80);
	TRACE(mmu, "silent");
}

static void test_only_enabled_channels_speak(void)
{
	trace_enabled = 1u << TRACE_io;
	g_assert_cmpstr(heard(speak_twice), ==, "strata: io: port 0x80\n");
	trace_enabled = 0;
	g_assert_cmpstr(heard(speak_twice), ==, "");
}

static void speak_long(void)
{
	char word[2000];
	memset(word, 'x', sizeof word - 1);
	word[sizeof word - 1] = 0;
	TRACE(io, "%s", word);
}

static void test_long_lines_are_cut(void)
{
	trace_enabled = 1u << TRACE_io;
	char *text = heard(speak_long);
	g_assert_cmpuint(lines_of(text), ==, 1);
	g_assert_true(text[strlen(text) - 1] == '\n');
	g_assert_cmpuint(strlen(text), <=, 512);
	trace_enabled = 0;
}

static void report_often(void)
{
	for (unsigned i = 0; i < 100; i++)
		REPORT("number %u", i);
}

static void report_elsewhere(void)
{
	REPORT("another site");
}

static void test_reports_have_a_budget(void)
{
	char *text = heard(report_often);
	g_assert_cmpuint(lines_of(text), ==, 8);
	g_assert_true(g_str_has_prefix(text, "strata: guest: number 0\n"));
	g_assert_cmpstr(heard(report_often), ==, "");
	g_assert_cmpstr(heard(report_elsewhere), ==, "strata: guest: another site\n");
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/trace/lists-of-channels", test_lists);
	g_test_add_func("/trace/points-at-the-unknown-word", test_unknown_words);
	g_test_add_func("/trace/names-and-help", test_names);
	g_test_add_func("/trace/only-enabled-channels-speak", test_only_enabled_channels_speak);
	g_test_add_func("/trace/long-lines-are-cut", test_long_lines_are_cut);
	g_test_add_func("/trace/each-report-site-has-a-budget", test_reports_have_a_budget);
	return g_test_run();
}
