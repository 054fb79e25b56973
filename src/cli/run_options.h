/*
 * What `strata run` was asked for: its options, parsed and checked against each other, before anything is opened.
 */
#ifndef STRATA_CLI_RUN_OPTIONS_H
#define STRATA_CLI_RUN_OPTIONS_H

#include "vm/vm.h"

enum engine_choice { ENGINE_AUTO, ENGINE_SOFT, ENGINE_KVM };
enum serial_choice { SERIAL_STDIO, SERIAL_FILE, SERIAL_NONE };
enum stats_choice { STATS_NONE, STATS_TABLE, STATS_JSON };

enum { RUN_TIMEOUT_MAX = 1000000 }; /* seconds */

struct run_options {
	enum engine_choice engine;
	bool interpret;
	struct translation_config translation; /* its mode TRANSLATION_OFF: not given */
	const char *soft_only;                 /* the last option given that only engine soft has */
	struct feature_choice choice;          /* CPU features that the guest shall have or not */
	bool perf_map;
	const char *perf_map_path; /* NULL: where perf looks for it */
	u64 memory;                /* bytes */
	unsigned cpus;
	enum nested_choice nested;
	const char *kernel, *initrd, *append; /* NULL: not given */
	struct {
		const char *path, *text;
	} module[VM_MAX_MODULES];
	unsigned modules;
	enum serial_choice serial;
	const char *serial_path; /* SERIAL_FILE */
	int debug_exit;          /* port; -1: none */
	bool test_devices;
	bool no_sandbox;
	u64 timeout; /* seconds; 0: none */
	enum stats_choice stats;
	const char *stats_path; /* STATS_JSON; NULL: standard error */
};

/* 0; an exit status after a message; or OPTION_HELP (cli/option.h). The strings are argv's. */
int run_options_parse(int argc, char **argv, struct run_options *options);

/* How the soft engine shall run code, as the options say or else by default. */
struct translation_config run_options_translation(const struct run_options *options);

/* `strata run --help`, on standard output. */
void run_options_help(void);

const char *nested_name(enum nested_choice nested);

#endif
