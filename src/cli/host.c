/*
 * `strata host`: what this host offers, what Strata will use, and why.
 */
#include "x86/host.h"
#include "cli/cli.h"
#include "cli/option.h"
#include "cli/run_options.h"
#include "cli/sandbox.h"

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct option_row no_rows[1];

static void print_machine(void)
{
	struct utsname name;
	char memory[SIZE_TEXT_MAX];
	u64 bytes = (u64)sysconf(_SC_PHYS_PAGES) * (u64)sysconf(_SC_PAGESIZE);
	if (uname(&name) == 0)
		printf("host          %s %s, %s\n", name.sysname, name.release, name.machine);
	printf("processors    %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
	printf("memory        %s\n", option_size_text(bytes, memory));
}

/* true if the engine runs without nesting. */
static bool print_engine(const struct engine_ops *engine)
{
	static const enum nested_choice kinds[] = { NESTING_VTX, NESTING_SVM };
	char reason[160] = "";
	bool runs = engine->probe(NESTING_NONE, reason, sizeof reason) == 0;
	printf("\nengine %-6s %s: %s\n", engine->name, runs ? "yes" : "no", reason);
	for (size_t i = 0; runs && i < ARRAY_SIZE(kinds); i++) {
		bool nests = engine->probe(kinds[i], reason, sizeof reason) == 0;
		printf("  nested %-5s %s%s%s\n", nested_name(kinds[i]), nests ? "yes" : "no", reason[0] ? ": " : "",
		       reason);
	}
	return runs;
}

/* What the soft engine chooses by: the features that the host has, and those that it does without. */
static void print_features(const char *title, bool there)
{
	printf("  %-13s", title);
	bool any = false;
	for (enum feature f = FEATURE_BASE; f < FEATURE_COUNT; f++) {
		const char *name = host_feature_name(f);
		if (name && host_has(f) == there) {
			printf(" %s", name);
			any = true;
		}
	}
	puts(any ? "" : " none");
}

/* The bars that hold here, found by entering the sandbox in a child. */
static unsigned try_sandbox(void)
{
	unsigned bars = 0;
	int fd[2];
	if (pipe(fd) < 0)
		return 0;
	pid_t child = fork();
	if (child == 0) {
		bars = sandbox_enter(false);
		if (sandbox_close(NULL, 0, NULL) == 0)
			bars |= SANDBOX_SECCOMP;
		_exit(write(fd[1], &bars, sizeof bars) != sizeof bars);
	}
	close(fd[1]);
	if (child < 0 || read(fd[0], &bars, sizeof bars) != sizeof bars)
		bars = 0;
	close(fd[0]);
	if (child > 0)
		waitpid(child, NULL, 0);
	return bars;
}

static void print_sandbox(void)
{
	static const struct {
		enum sandbox_bar bar;
		const char *name, *yes, *no;
	} rows[] = {
		{ SANDBOX_SECCOMP, "seccomp", "yes: no system call opens, executes or maps code",
		  "no: the kernel refuses the filter; runs need --no-sandbox" },
		{ SANDBOX_NO_NEW_PRIVS, "privileges", "yes: none can be gained", "no" },
		{ SANDBOX_NO_CAPABILITIES, "capabilities", "yes: none are kept", "no" },
		{ SANDBOX_NAMESPACES, "namespaces", "yes: own user, mount, network, IPC and UTS namespaces",
		  "no: the host does not let this user make them" },
		{ SANDBOX_EMPTY_ROOT, "empty root", "yes: the file system is an empty directory", "no" },
		{ SANDBOX_LANDLOCK, "landlock", "yes: no file can be reached", "no: not in this kernel" },
	};
	unsigned bars = try_sandbox();
	printf("\nconfinement of a running guest\n");
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		printf("  %-12s %s\n", rows[i].name, bars & rows[i].bar ? rows[i].yes : rows[i].no);
}

int host_main(int argc, char **argv)
{
	int status = option_parse("host", no_rows, 0, argc, argv, NULL);
	if (status == OPTION_HELP) {
		puts("usage: strata host\n"
		     "\n"
		     "Says what this host offers, what Strata will use, and why. Tries /dev/kvm with a small guest, "
		     "which\n"
		     "takes two seconds at most.");
		return cli_close_stdout(CLI_OK);
	}
	if (status)
		return status;
	print_machine();
	bool soft = print_engine(&engine_soft);
	if (soft)
		puts("  translation yes: hot 64-bit code runs as host code, registers pinned, tagged TLB");
	if (soft) {
		print_features("features used", true);
		print_features("not there", false);
	}
	bool kvm = print_engine(&engine_kvm);
	printf("\n--engine auto uses %s\n", kvm ? "kvm" : soft ? "soft" : "neither; nothing can run here");
	print_sandbox();
	return cli_close_stdout(CLI_OK);
}
