/*
 * The program: picks the verb.
 */
#include "cli/cli.h"

#include <fcntl.h>
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
