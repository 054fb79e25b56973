#include "cli/option.h"
#include "cli/cli.h"

#include <stdio.h>
#include <string.h>

bool option_number(const char *text, u64 max, u64 *value)
{
	u64 n = 0;
	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9')
			return false;
		if (__builtin_mul_overflow(n, (u64)10, &n) || __builtin_add_overflow(n, (u64)(*text - '0'), &n))
			return false;
	}
	*value = n;
	return n <= max;
}

bool option_size(const char *text, u64 *bytes)
{
	static const char suffixes[] = "KMGT";
	char digits[24];
	size_t length = strlen(text);
	unsigned shift = 20;
	if (length == 0 || length >= sizeof digits)
		return false;
	memcpy(digits, text, length + 1);
	char last = digits[length - 1];
	const char *suffix = strchr(suffixes, last >= 'a' && last <= 'z' ? last - 'a' + 'A' : last);
	if (suffix) {
		shift = 10 * (unsigned)(suffix - suffixes + 1);
		digits[length - 1] = 0;
	}
	u64 n;
	if (!option_number(digits, UINT64_MAX, &n) || n > UINT64_MAX >> shift)
		return false;
	*bytes = n << shift;
	return true;
}

const char *option_size_text(u64 bytes, char buffer[SIZE_TEXT_MAX])
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	unsigned unit = 0;
	double n = (double)bytes;
	for (; n >= 1024 && unit + 1 < ARRAY_SIZE(units); unit++)
		n /= 1024;
	if (n == (double)(u64)n)
		snprintf(buffer, SIZE_TEXT_MAX, "%llu %s", (unsigned long long)n, units[unit]);
	else
		snprintf(buffer, SIZE_TEXT_MAX, "%.1f %s", n, units[unit]);
	return buffer;
}

static int find_row(const struct option_row *rows, size_t count, const char *name, size_t length)
{
	for (size_t i = 0; i < count; i++)
		if (strlen(rows[i].name) == length && !memcmp(rows[i].name, name, length))
			return (int)i;
	return -1;
}

int option_parse(const char *verb, const struct option_row *rows, size_t count, int argc, char **argv, void *target)
{
	bool given[OPTION_ROWS_MAX] = { false };
	for (int i = 1; i < argc; i++) {
		const char *word = argv[i];
		if (!strcmp(word, "--help") || !strcmp(word, "-h"))
			return OPTION_HELP;
		if (strncmp(word, "--", 2))
			return cli_fail(CLI_USAGE, "%s: '%s' is no option; `strata %s --help` lists them", verb, word,
					verb);
		const char *name = word + 2, *value = NULL;
		size_t length = strcspn(name, "=");
		int at = find_row(rows, count, name, length);
		if (at < 0)
			return cli_fail(CLI_USAGE, "%s: unknown option '--%.*s'; `strata %s --help` lists them", verb,
					(int)length, name, verb);
		const struct option_row *row = &rows[at];
		if (given[at] && row->value != OPTION_REPEATED)
			return cli_fail(CLI_USAGE, "%s: --%s is given twice", verb, row->name);
		given[at] = true;
		if (name[length] == '=')
			value = name + length + 1;
		if (row->value == OPTION_FLAG && value)
			return cli_fail(CLI_USAGE, "%s: --%s takes no value", verb, row->name);
		if ((row->value == OPTION_VALUE || row->value == OPTION_REPEATED) && !value) {
			/* What looks like the next option is one; `--append=--x` says otherwise. */
			if (i + 1 == argc || !strncmp(argv[i + 1], "--", 2))
				return cli_fail(CLI_USAGE, "%s: --%s wants a value: --%s %s", verb, row->name,
						row->name, row->shown);
			value = argv[++i];
		}
		int status = row->take(target, value);
		if (status)
			return status;
	}
	return 0;
}

void option_print_help(const struct option_row *rows, size_t count)
{
	enum { COLUMN = 28 };
	for (size_t i = 0; i < count; i++) {
		char left[80];
		const struct option_row *row = &rows[i];
		snprintf(left, sizeof left, "  --%s%s%s", row->name,
			 !row->shown                     ? ""
			 : row->value == OPTION_OPTIONAL ? "[="
							 : " ",
			 row->shown ? row->shown : "");
		if (row->value == OPTION_OPTIONAL)
			strncat(left, "]", sizeof left - strlen(left) - 1);
		if (strlen(left) >= COLUMN)
			printf("%s\n%*s", left, COLUMN, "");
		else
			printf("%-*s", COLUMN, left);
		for (const char *line = row->help;;) {
			size_t length = strcspn(line, "\n");
			printf("%.*s\n", (int)length, line);
			if (!line[length])
				break;
			line += length + 1;
			printf("%*s", COLUMN, "");
		}
	}
}
