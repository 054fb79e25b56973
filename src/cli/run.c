/*
 * `strata run`: opens everything, picks the engine, makes the VM, closes the sandbox, runs, and tells how it ended.
 */
#include "cli/cli.h"
#include "cli/console.h"
#include "cli/engines.h"
#include "cli/image.h"
#include "cli/option.h"
#include "cli/run_options.h"
#include "cli/sandbox.h"
#include "cli/stats.h"
#include "vm/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What one run has open. */
struct run {
	struct run_options options;
	struct vm_config config;
	char engine_reason[ENGINE_REASON_MAX];
	FILE *stats_file; /* NULL unless --stats */
	int status;
};

/* --- Opening --- */

static bool same_file(const char *path, const char *other)
{
	struct stat a, b;
	return other && stat(path, &a) == 0 && S_ISREG(a.st_mode) && stat(other, &b) == 0 && a.st_dev == b.st_dev &&
	       a.st_ino == b.st_ino;
}

/* A file to write, made empty; but never one that was read for the guest. */
static int open_output(const char *option, const char *path, const struct run_options *options, int *fd)
{
	bool input = same_file(path, options->kernel) || same_file(path, options->initrd);
	for (unsigned i = 0; i < options->modules; i++)
		input = input || same_file(path, options->module[i].path);
	if (input)
		return cli_fail(CLI_USAGE, "run: %s: %s is what the guest boots; it would be overwritten", option,
				path);
	*fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOCTTY, 0666);
	if (*fd >= 0)
		return 0;
	int err = errno;
	return cli_fail(err == ENOENT || err == ENOTDIR ? CLI_NOT_FOUND : CLI_USAGE, "run: %s: %s: %s", option, path,
			strerror(err));
}

static int open_serial(struct run *run)
{
	const struct run_options *options = &run->options;
	run->config.serial_out = run->config.serial_in = -1;
	switch (options->serial) {
	case SERIAL_STDIO:
		run->config.serial_out = STDOUT_FILENO;
		run->config.serial_in = STDIN_FILENO;
		/* From a pipe or a file, 0x1d is a byte like any other. */
		run->config.escape = isatty(STDIN_FILENO);
		return 0;
	case SERIAL_FILE:
		return open_output("--serial", options->serial_path, options, &run->config.serial_out);
	case SERIAL_NONE:
		return 0;
	}
	return 0;
}

static int open_stats(struct run *run)
{
	static char buffer[BUFSIZ];
	const struct run_options *options = &run->options;
	int fd = STDERR_FILENO;
	if (options->stats == STATS_NONE)
		return 0;
	if (options->stats_path) {
		if (options->serial_path && !strcmp(options->serial_path, options->stats_path))
			return cli_fail(CLI_USAGE, "run: --serial and --stats name the same file: %s",
					options->stats_path);
		int status = open_output("--stats", options->stats_path, options, &fd);
		if (status)
			return status;
	}
	run->stats_file = fdopen(fd, "w");
	if (!run->stats_file)
		return cli_fail(CLI_FAILED, "run: --stats: %s", strerror(errno));
	/* Otherwise stdio asks the kernel what kind of file it is, which the sandbox does not allow. */
	setvbuf(run->stats_file, buffer, _IOFBF, sizeof buffer);
	return 0;
}

/* Lines are always added at the end, also when the file was made empty again. */
static int open_perf_map(struct run *run)
{
	const struct run_options *options = &run->options;
	char usual[32];
	int fd;
	if (!options->perf_map)
		return 0;
	snprintf(usual, sizeof usual, "/tmp/perf-%d.map", (int)getpid());
	int status = open_output("--perf-map", options->perf_map_path ? options->perf_map_path : usual, options, &fd);
	if (!status && fcntl(fd, F_SETFL, O_APPEND) < 0)
		status = cli_fail(CLI_FAILED, "run: --perf-map: %s", strerror(errno));
	if (!status)
		run->config.translation.perf_map = fd;
	return status;
}

static int read_inputs(struct run *run)
{
	const struct run_options *options = &run->options;
	int status = image_read("kernel", options->kernel, options->memory, &run->config.kernel);
	if (!status && options->initrd)
		status = image_read("initrd", options->initrd, options->memory, &run->config.initrd);
	for (unsigned i = 0; !status && i < options->modules; i++) {
		struct vm_module *module = &run->config.module[run->config.modules++];
		status = image_read("module", options->module[i].path, options->memory, &module->file);
		module->text = options->module[i].text;
	}
	return status;
}

static int choose_engine(struct run *run)
{
	int status = 0;
	run->config.engine = engines_choose(&run->options, run->engine_reason, &status);
	return run->config.engine ? 0 : cli_fail(status, "run: %s", run->engine_reason);
}

/* After all that may turn out wrong, so that a mistake leaves no empty file behind. */
static int open_outputs(struct run *run)
{
	struct vm_error error;
	bool creates_files = run->options.serial_path || run->options.stats_path || run->options.perf_map;
	if (creates_files && !vm_check(&run->config, &error))
		return cli_fail(error.status, "run: %s", error.text);
	int status = open_serial(run);
	if (!status)
		status = open_stats(run);
	return status ? status : open_perf_map(run);
}

/* --- The end --- */

/* Of all CPUs together; false if the engine counts nothing. */
static bool sum_counters(const struct run *run, const struct vm *vm, struct counters *sum)
{
	*sum = (struct counters){ 0 };
	for (unsigned i = 0; i < run->config.cpus; i++) {
		const struct counters *one = vm_counters(vm, i);
		if (!one)
			return false;
		counters_add(sum, one);
	}
	return true;
}

static void print_stats(const struct run *run, const struct vm *vm, const struct vm_result *result)
{
	struct counters sum;
	bool counted = sum_counters(run, vm, &sum);
	struct stats stats = {
		.engine = run->config.engine->name,
		.status = run->status,
		.run_ns = result->run_ns,
		.resets = result->resets,
		.counters = counted ? &sum : NULL,
	};
	if (run->options.stats == STATS_TABLE)
		stats_print_table(run->stats_file, &stats);
	else
		stats_print_json(run->stats_file, &stats);
	if (fflush(run->stats_file))
		cli_say("run: --stats: %s", strerror(errno));
}

/* Says how it ended, where that is not plain, and gives the exit status. */
static int conclude(const struct vm_result *result, u64 timeout, int *signal)
{
	enum console_stop stop = console_stopped(signal);
	if (result->end != VM_STOPPED || stop != CONSOLE_SIGNAL)
		*signal = 0;
	switch (result->end) {
	case VM_STOPPED:
		if (stop == CONSOLE_TIMEOUT)
			return cli_fail(CLI_TIMEOUT, "run: the time limit of %llu s is over; ended",
					(unsigned long long)timeout);
		return CLI_OK;
	case VM_LEFT:
		return cli_fail(CLI_OK, "run: left; the virtual machine is ended");
	case VM_TRIPLE_FAULT:
		return cli_fail(CLI_GUEST_DIED, "run: the guest died (triple fault)");
	case VM_FAILED:
		return result->status ? result->status : CLI_FAILED;
	default:
		return result->status;
	}
}

static int run_vm(struct run *run, struct vm *vm)
{
	struct vm_result result;
	int signal;
	int err = console_open(vm, run->config.escape, run->options.timeout);
	if (!err && !run->options.no_sandbox) {
		err = sandbox_close(run->config.engine->ioctls, run->config.translation.perf_map, console_restore);
		if (err)
			cli_say("run: this host does not let Strata confine itself (seccomp); --no-sandbox runs "
				"without");
	}
	if (err) {
		console_close();
		return cli_fail(CLI_NO_CAPABILITY, "run: %s", strerror(-err));
	}
	vm_run(vm, &result);
	console_close();
	run->status = conclude(&result, run->options.timeout, &signal);
	if (run->stats_file)
		print_stats(run, vm, &result);
	if (signal)
		console_die(signal);
	return run->status;
}

static int start(struct run *run)
{
	struct vm_error error;
	int status = read_inputs(run);
	if (!status)
		status = choose_engine(run);
	if (!status)
		status = open_outputs(run);
	if (status)
		return status;
	run->config.host_tsc = host_clock_fits();
	if (!run->options.no_sandbox)
		sandbox_enter(run->config.engine == &engine_kvm);
	struct vm *vm = vm_create(&run->config, &error);
	if (!vm)
		return cli_fail(error.status, "run: %s", error.text);
	if (run->options.engine == ENGINE_AUTO)
		cli_say("%s", run->engine_reason);
	status = run_vm(run, vm);
	vm_destroy(vm);
	return status;
}

int run_main(int argc, char **argv)
{
	struct run run = { 0 };
	int status = run_options_parse(argc, argv, &run.options);
	if (status == OPTION_HELP) {
		run_options_help();
		return cli_close_stdout(CLI_OK);
	}
	if (status)
		return status;
	/* What a careless parent left open is none of the guest's business. */
	close_range(STDERR_FILENO + 1, UINT_MAX, 0);
	run.config = (struct vm_config){
		.memory = run.options.memory,
		.cpus = run.options.cpus,
		.nested = run.options.nested,
		.translation = run_options_translation(&run.options),
		.append = run.options.append,
		.debug_exit_port = run.options.debug_exit,
		.test_devices = run.options.test_devices,
	};
	run.config.choice = run.options.choice;
	return start(&run);
}
