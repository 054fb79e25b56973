/*
 * The program: picks the verb.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#ifndef STRATA_VERSION
#error "the build defines STRATA_VERSION"
#endif

static const struct verb verbs[] = {
	{ "run", "run a virtual machine until it ends", run_main },
	{ "host", "what this host offers, and what Strata will use", host_main },
};

static void say(const char *fmt, va_list ap)
{
	char line[1024];
	int n = snprintf(line, sizeof line, "strata: ");
	int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	size_t length = (size_t)n + (m > 0 ? (size_t)m : 0);
	if (length > sizeof line - 2)
		length = sizeof line - 2;
	/* File names come from the user: no control character of theirs reaches the terminal, and a message is a line.
	 */
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	line[length++] = '\n';
	ssize_t done = write(STDERR_FILENO, line, length);
	(void)done;
}

void cli_say(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

int cli_fail(int status, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	return status;
}

int cli_close_stdout(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	return cli_fail(CLI_FAILED, "writing to standard output: %s", strerror(errno));
}

/* A closed descriptor 0, 1 or 2 would be given to the next file opened, and guest output would go there. */
static bool ensure_standard_descriptors(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_RDONLY : O_WRONLY) != fd)
			return false;
	return true;
}

static int help(void)
{
	puts("Strata: a hypervisor made for nested virtualization.\n"
	     "\n"
	     "usage: strata VERB [OPTION]...\n");
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		printf("  %-8s %s\n", verbs[i].name, verbs[i].help);
	puts("\n"
	     "  --help     this text; `strata VERB --help` says more of one\n"
	     "  --version  the version\n"
	     "\n"
	     "Exit status: 0 the guest powered off; 1 Strata failed; 2 usage or bad input; 3 not found; 4 wrong "
	     "state;\n"
	     "6 the host lacks a capability; 7 timeout; 9 the guest died (triple fault).\n"
	     "\n"
	     "See strata(1), strata-run(1), strata-host(1).");
	return cli_close_stdout(CLI_OK);
}

static int version(void)
{
	puts("strata " STRATA_VERSION);
	return cli_close_stdout(CLI_OK);
}

int main(int argc, char **argv)
{
	if (!ensure_standard_descriptors())
		return CLI_FAILED;
	if (argc < 2)
		return cli_fail(CLI_USAGE, "which verb? `strata --help` lists them");
	const char *word = argv[1];
	if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help"))
		return help();
	if (!strcmp(word, "--version") || !strcmp(word, "-V"))
		return version();
	for (size_t i = 0; i < ARRAY_SIZE(verbs); i++)
		if (!strcmp(word, verbs[i].name))
			return verbs[i].main(argc - 1, argv + 1);
	return cli_fail(CLI_USAGE, "unknown %s '%s'; `strata --help` lists what there is",
			word[0] == '-' ? "option" : "verb", word);
}
