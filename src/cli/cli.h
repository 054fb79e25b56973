/*
 * The command line: verbs, exit statuses, and how Strata speaks to the user. Standard output belongs to the guest's
 * serial port and to answers that were asked for (help, version, `strata host`); all else goes to standard error, one
 * line a message, prefixed "strata: ".
 *
 * Everything here runs on the main thread, mostly before the VM exists.
 */
#ifndef STRATA_CLI_CLI_H
#define STRATA_CLI_CLI_H

#include "base/types.h"

/* Exit statuses; fixed for good, scripts depend on them. */
enum cli_status {
	CLI_OK = 0,        /* the guest powered off */
	CLI_FAILED = 1,    /* Strata or the host failed */
	CLI_USAGE = 2,     /* usage or bad input */
	CLI_NOT_FOUND = 3, /* a file that is not there */
	CLI_WRONG_STATE = 4,
	CLI_NO_CAPABILITY = 6, /* the host lacks something */
	CLI_TIMEOUT = 7,       /* --timeout was over */
	CLI_GUEST_DIED = 9     /* triple fault */
};

struct verb {
	const char *name;
	const char *help;                   /* one line of `strata --help` */
	int (*main)(int argc, char **argv); /* argv[0] is the verb; returns the exit status */
};

int run_main(int argc, char **argv);
int host_main(int argc, char **argv);

/* One line on standard error. */
void cli_say(const char *fmt, ...) PRINTF_LIKE(1, 2);

/* The same, and returns `status`, for `return cli_fail(CLI_USAGE, ...)`. */
int cli_fail(int status, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Flushes standard output; CLI_FAILED with a message if what was asked for could not be written, `status` otherwise. */
int cli_close_stdout(int status);

#endif
