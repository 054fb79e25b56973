/*
 * Options of a verb, as a table: the parser and the help text read the same rows. Long options only, `--name VALUE` or
 * `--name=VALUE`, never abbreviated, each at most once unless its row says otherwise. A mistake is one line and
 * CLI_USAGE.
 */
#ifndef STRATA_CLI_OPTION_H
#define STRATA_CLI_OPTION_H

#include "base/types.h"

enum option_value {
	OPTION_FLAG,     /* takes none */
	OPTION_VALUE,    /* takes one */
	OPTION_REPEATED, /* takes one, and may be given again */
	OPTION_OPTIONAL, /* --name or --name=VALUE */
};

struct option_row {
	const char *name; /* without the dashes */
	enum option_value value;
	const char *shown; /* what help shows as value; NULL for flags */
	const char *help;  /* may have several lines */
	/*
	 * Stores the value (NULL if none was given) in `target`. 0, or an exit status after it said what is wrong.
	 */
	int (*take)(void *target, const char *value);
};

enum { OPTION_ROWS_MAX = 64, OPTION_HELP = -1 };

/*
 * Parses all of argv[1..argc). 0, an exit status after a message, or OPTION_HELP if --help is among the words. `verb`
 * is for messages.
 */
int option_parse(const char *verb, const struct option_row *rows, size_t count, int argc, char **argv, void *target);

/* The rows as help shows them, on standard output. */
void option_print_help(const struct option_row *rows, size_t count);

/* A decimal number up to `max`, nothing else around it. */
bool option_number(const char *text, u64 max, u64 *value);

/* A size in bytes: a number of MiB, or one with a suffix K, M, G or T (powers of 1024). false: not a size. */
bool option_size(const char *text, u64 *bytes);

/* "512 MiB", "1.5 GiB": for messages. Returns `buffer`. */
enum { SIZE_TEXT_MAX = 32 };
const char *option_size_text(u64 bytes, char buffer[SIZE_TEXT_MAX]);

#endif
