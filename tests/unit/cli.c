/* The pure parts of the command line: numbers, sizes, the option table, statistics. */
#include "cli/option.h"
#include "cli/stats.h"
#include "x86/exit_reason.h"

#include <glib.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1ULL << 20)

static void sizes_are_mib_or_have_a_suffix(void)
{
	static const struct {
		const char *text;
		u64 bytes;
	} rows[] = {
		{ "0", 0 },
		{ "1", MIB },
		{ "512", 512 * MIB },
		{ "512M", 512 * MIB },
		{ "512m", 512 * MIB },
		{ "4K", 4096 },
		{ "2G", 2048 * MIB },
		{ "1T", MIB * MIB },
		{ "17592186044415", 17592186044415 * MIB },
	};
	for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
		u64 bytes = ~0ULL;
		g_assert_true(option_size(rows[i].text, &bytes));
		g_assert_cmpuint(bytes, ==, rows[i].bytes);
	}
}

static void what_is_no_size_is_refused(void)
{
	static const char *const texts[] = { "",
					     "M",
					     "x",
					     "1x",
					     "-1",
					     "+1",
					     "1.5G",
					     " 1",
					     "1 ",
					     "1MM",
					     "1MB",
					     "0x10",
					     "1e3",
					     "17592186044416",
					     "16777216T",
					     "99999999999999999999",
					     "111111111111111111111111111111111" };
	for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
		u64 bytes;
		g_assert_false(option_size(texts[i], &bytes));
	}
}

static void numbers_are_decimal_and_bounded(void)
{
	u64 n = 0;
	g_assert_true(option_number("18446744073709551615", UINT64_MAX, &n));
	g_assert_cmpuint(n, ==, UINT64_MAX);
	g_assert_false(option_number("18446744073709551616", UINT64_MAX, &n));
	g_assert_true(option_number("10", 10, &n));
	g_assert_false(option_number("11", 10, &n));
	g_assert_false(option_number("", 10, &n));
	g_assert_false(option_number("-0", 10, &n));
}

static void sizes_are_shown_in_the_largest_unit(void)
{
	char text[SIZE_TEXT_MAX];
	g_assert_cmpstr(option_size_text(0, text), ==, "0 bytes");
	g_assert_cmpstr(option_size_text(1023, text), ==, "1023 bytes");
	g_assert_cmpstr(option_size_text(2 * MIB, text), ==, "2 MiB");
	g_assert_cmpstr(option_size_text(1536 * MIB, text), ==, "1.5 GiB");
	g_assert_cmpstr(option_size_text(UINT64_MAX, text), ==, "16 EiB");
}

/* --- The table --- */

struct taken {
	const char *value, *optional;
	unsigned flags, optionals;
};

static int take_value(void *target, const char *value)
{
	((struct taken *)target)->value = value;
	return strcmp(value, "bad") ? 0 : 77;
}

static int take_flag(void *target, const char *value)
{
	g_assert_null(value);
	((struct taken *)target)->flags++;
	return 0;
}

static int take_optional(void *target, const char *value)
{
	((struct taken *)target)->optional = value;
	((struct taken *)target)->optionals++;
	return 0;
}

static const struct option_row rows_of_options[] = {
	{ "value", OPTION_VALUE, "V", "takes one", take_value },
	{ "flag", OPTION_FLAG, NULL, "takes none", take_flag },
	{ "optional", OPTION_OPTIONAL, "V", "may take one", take_optional },
};

static int parse(struct taken *taken, const char *line)
{
	g_auto(GStrv) words = g_strsplit(line, " ", -1);
	memset(taken, 0, sizeof *taken);
	int status = option_parse("verb", rows_of_options, G_N_ELEMENTS(rows_of_options), (int)g_strv_length(words),
				  words, taken);
	/* The strings are the words'. */
	taken->value = g_intern_string(taken->value);
	taken->optional = g_intern_string(taken->optional);
	return status;
}

static void values_come_in_the_next_word_or_behind_an_equals_sign(void)
{
	struct taken taken;
	g_assert_cmpint(parse(&taken, "verb --value a"), ==, 0);
	g_assert_cmpstr(taken.value, ==, "a");
	g_assert_cmpint(parse(&taken, "verb --value=--x=y"), ==, 0);
	g_assert_cmpstr(taken.value, ==, "--x=y");
	g_assert_cmpint(parse(&taken, "verb --value="), ==, 0);
	g_assert_cmpstr(taken.value, ==, "");
	g_assert_cmpint(parse(&taken, "verb --flag --value -x"), ==, 0);
	g_assert_cmpstr(taken.value, ==, "-x");
	g_assert_cmpuint(taken.flags, ==, 1);
}

static void optional_value_is_never_the_next_word(void)
{
	struct taken taken;
	g_assert_cmpint(parse(&taken, "verb --optional --flag"), ==, 0);
	g_assert_cmpuint(taken.optionals, ==, 1);
	g_assert_null(taken.optional);
	g_assert_cmpint(parse(&taken, "verb --optional=x"), ==, 0);
	g_assert_cmpstr(taken.optional, ==, "x");
}

static void help_is_found_behind_what_is_right(void)
{
	struct taken taken;
	g_assert_cmpint(parse(&taken, "verb --help"), ==, OPTION_HELP);
	g_assert_cmpint(parse(&taken, "verb --flag -h"), ==, OPTION_HELP);
}

static void status_of_a_refused_value_is_passed_on(void)
{
	struct taken taken;
	g_assert_cmpint(parse(&taken, "verb --value bad --flag"), ==, 77);
	g_assert_cmpuint(taken.flags, ==, 0);
}

/* --- Statistics --- */

static char *printed(void (*print)(FILE *out, const struct stats *stats), const struct stats *stats)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);
	print(out, stats);
	fclose(out);
	return text;
}

static const struct counters example = { .instructions = 3000,
					 .vm_exits = 12,
					 .exit_reason = {
						 [EXIT_CPUID] = 2, [EXIT_HLT] = 9, [EXIT_RDMSR] = 1, [127] = 5 } };

static void json_has_every_counter_and_only_the_reasons_that_occurred(void)
{
	struct stats stats = { .engine = "soft", .status = 9, .run_ns = 1500000000, .resets = 2, .counters = &example };
	char *text = printed(stats_print_json, &stats);
	g_assert_nonnull(strstr(text, "\"engine\": \"soft\""));
	g_assert_nonnull(strstr(text, "\"status\": 9"));
	g_assert_nonnull(strstr(text, "\"seconds\": 1.500000"));
	g_assert_nonnull(strstr(text, "\"resets\": 2"));
	g_assert_nonnull(strstr(text, "\"instructions_per_second\": 2000"));
#define X(name, help) g_assert_nonnull(strstr(text, "\"" #name "\": "));
#include "base/counters.def"
#undef X
	g_assert_nonnull(strstr(text, "\"HLT\": 9,\n    \"reason 127\": 5,\n    \"CPUID\": 2,\n    \"RDMSR\": 1\n"));
	g_assert_null(strstr(text, "VMCALL"));
	free(text);
}

static void json_of_an_engine_without_counters_has_none(void)
{
	struct stats stats = { .engine = "x" };
	char *text = printed(stats_print_json, &stats);
	g_assert_null(strstr(text, "counters"));
	g_assert_true(g_str_has_prefix(text, "{\n") && g_str_has_suffix(text, "\n}\n"));
	free(text);
}

static void table_leaves_out_what_did_not_happen(void)
{
	struct stats stats = { .engine = "soft", .run_ns = 1000000000, .resets = 1, .counters = &example };
	char *text = printed(stats_print_table, &stats);
	g_assert_true(g_str_has_prefix(text, "strata: engine soft, 1.000 s, 1 reset, status 0\n"));
	g_assert_nonnull(strstr(text, "  instructions executed "));
	g_assert_nonnull(strstr(text, "  VM exits: HLT "));
	g_assert_null(strstr(text, "port accesses"));
	free(text);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/option/sizes-are-mib-or-have-a-suffix", sizes_are_mib_or_have_a_suffix);
	g_test_add_func("/option/what-is-no-size-is-refused", what_is_no_size_is_refused);
	g_test_add_func("/option/numbers-are-decimal-and-bounded", numbers_are_decimal_and_bounded);
	g_test_add_func("/option/sizes-are-shown-in-the-largest-unit", sizes_are_shown_in_the_largest_unit);
	g_test_add_func("/option/values-come-in-the-next-word-or-behind-an-equals-sign",
			values_come_in_the_next_word_or_behind_an_equals_sign);
	g_test_add_func("/option/optional-value-is-never-the-next-word", optional_value_is_never_the_next_word);
	g_test_add_func("/option/help-is-found-behind-what-is-right", help_is_found_behind_what_is_right);
	g_test_add_func("/option/status-of-a-refused-value-is-passed-on", status_of_a_refused_value_is_passed_on);
	g_test_add_func("/stats/json-has-every-counter-and-only-the-reasons-that-occurred",
			json_has_every_counter_and_only_the_reasons_that_occurred);
	g_test_add_func("/stats/json-of-an-engine-without-counters-has-none",
			json_of_an_engine_without_counters_has_none);
	g_test_add_func("/stats/table-leaves-out-what-did-not-happen", table_leaves_out_what_did_not_happen);
	return g_test_run();
}
