#include "cli/run_options.h"

#include "base/trace.h"
#include "cli/cli.h"
#include "cli/option.h"
#include "cpu/system.h"
#include "vm/vm.h"
#include "x86/host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DEFAULT_MEMORY         (512ULL << 20)
#define TRANSLATION_MEMORY_MIN (4ULL << 20)
#define TRANSLATION_MEMORY_MAX (1ULL << 30)

/* --- One function an option --- */

static int take_engine(void *target, const char *value)
{
	static const char *const names[] = { [ENGINE_AUTO] = "auto", [ENGINE_SOFT] = "soft", [ENGINE_KVM] = "kvm" };
	struct run_options *options = target;
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		if (!strcmp(value, names[i])) {
			options->engine = i;
			return 0;
		}
	}
	return cli_fail(CLI_USAGE, "run: --engine %s: there are auto, soft and kvm", value);
}

static const char *const nested_names[] = { [NESTING_NONE] = "none", [NESTING_VTX] = "vt-x", [NESTING_SVM] = "amd-v" };

const char *nested_name(enum nested_choice nested)
{
	return nested_names[nested];
}

static int take_nested(void *target, const char *value)
{
	struct run_options *options = target;
	for (unsigned i = 0; i < ARRAY_SIZE(nested_names); i++) {
		if (!strcmp(value, nested_names[i])) {
			options->nested = i;
			return 0;
		}
	}
	return cli_fail(CLI_USAGE, "run: --nested %s: there are none, vt-x and amd-v", value);
}

static int take_path(const char **path, const char *option, const char *value)
{
	if (!*value)
		return cli_fail(CLI_USAGE, "run: --%s wants the name of a file", option);
	*path = value;
	return 0;
}

static int take_interpret(void *target, const char *value)
{
	((struct run_options *)target)->interpret = true;
	return 0;
}

static int take_translate(void *target, const char *value)
{
	((struct run_options *)target)->translation.mode = TRANSLATION_ON;
	return 0;
}

static int take_translate_after(void *target, const char *value)
{
	u64 runs;
	if (!option_number(value, 1000, &runs) || runs == 0)
		return cli_fail(CLI_USAGE, "run: --translate-after %s: a number from 1 to 1000", value);
	((struct run_options *)target)->translation.after = (unsigned)runs;
	return 0;
}

static int take_check_translation(void *target, const char *value)
{
	((struct run_options *)target)->translation.mode = TRANSLATION_CHECKED;
	return 0;
}

/* What --host-features takes. */
static bool may_hide_of_host(enum feature feature, bool more)
{
	return !more && host_feature_name(feature);
}

/* `may` knows the words that the option takes. */
static int refuse_feature(const char *option, const char *unknown, bool (*may)(enum feature feature, bool more))
{
	char names[512] = "";
	for (unsigned i = 0; i < 2 * FEATURE_COUNT; i++) {
		enum feature f = i % FEATURE_COUNT;
		bool more = i >= FEATURE_COUNT;
		size_t n = strlen(names);
		if (may(f, more))
			snprintf(names + n, sizeof names - n, " %c%s", more ? '+' : '-', feature_name(f));
	}
	return cli_fail(CLI_USAGE, "run: --%s: not '%.*s', but a list of%s", option, (int)strcspn(unknown, ","),
			unknown, names);
}

static int take_host_features(void *target, const char *value)
{
	const char *unknown = host_hide(value);
	((struct run_options *)target)->soft_only = "host-features";
	return unknown ? refuse_feature("host-features", unknown, may_hide_of_host) : 0;
}

static int take_cpu_features(void *target, const char *value)
{
	struct run_options *options = target;
	const char *unknown = feature_list(value, cpu_may_choose, &options->choice);
	options->soft_only = "cpu-features";
	return unknown ? refuse_feature("cpu-features", unknown, cpu_may_choose) : 0;
}

static int take_translation_memory(void *target, const char *value)
{
	struct translation_config *config = &((struct run_options *)target)->translation;
	if (!option_size(value, &config->memory) || config->memory < TRANSLATION_MEMORY_MIN ||
	    config->memory > TRANSLATION_MEMORY_MAX)
		return cli_fail(CLI_USAGE, "run: --translation-memory %s: a size from 4M to 1G", value);
	return 0;
}

static int take_dump_block(void *target, const char *value)
{
	struct translation_config *config = &((struct run_options *)target)->translation;
	char *end;
	bool numeric = *value >= '0' && *value <= '9';
	errno = 0;
	config->dump_address = strtoull(value, &end, 0);
	if (!numeric || *end || errno)
		return cli_fail(CLI_USAGE, "run: --dump-block %s: that is no address; 0xffffffff81000000 is", value);
	config->dump = true;
	return 0;
}

static int take_perf_map(void *target, const char *value)
{
	struct run_options *options = target;
	options->perf_map = true;
	return value ? take_path(&options->perf_map_path, "perf-map", value) : 0;
}

static int take_cpus(void *target, const char *value)
{
	u64 cpus;
	if (!option_number(value, UINT32_MAX, &cpus) || cpus == 0)
		return cli_fail(CLI_USAGE, "run: --cpus %s: that is no number of CPUs", value);
	if (cpus > VM_MAX_CPUS)
		return cli_fail(CLI_USAGE, "run: --cpus %s: a machine has at most %d", value, VM_MAX_CPUS);
	((struct run_options *)target)->cpus = (unsigned)cpus;
	return 0;
}

static u64 host_memory(void)
{
	return (u64)sysconf(_SC_PHYS_PAGES) * (u64)sysconf(_SC_PAGESIZE);
}

/* On a small host half of what there is, in whole MiB. */
static u64 default_memory(void)
{
	u64 half = host_memory() / 2 & ~BITS(19, 0);
	return half < DEFAULT_MEMORY && half >= VM_MIN_MEMORY ? half : DEFAULT_MEMORY;
}

static int take_memory(void *target, const char *value)
{
	struct run_options *options = target;
	char least[SIZE_TEXT_MAX], most[SIZE_TEXT_MAX];
	u64 host = host_memory();
	if (!option_size(value, &options->memory))
		return cli_fail(CLI_USAGE, "run: --memory %s: that is no size; 512M, 2G and 512 (MiB) are", value);
	if (options->memory < VM_MIN_MEMORY)
		return cli_fail(CLI_USAGE, "run: --memory %s: too small; a guest has at least %s", value,
				option_size_text(VM_MIN_MEMORY, least));
	if (options->memory % PAGE_SIZE)
		return cli_fail(CLI_USAGE, "run: --memory %s: that is no multiple of 4K", value);
	if (options->memory > host)
		return cli_fail(CLI_USAGE, "run: --memory %s: this host has %s", value, option_size_text(host, most));
	return 0;
}

static int take_kernel(void *target, const char *value)
{
	return take_path(&((struct run_options *)target)->kernel, "kernel", value);
}

static int take_initrd(void *target, const char *value)
{
	return take_path(&((struct run_options *)target)->initrd, "initrd", value);
}

/* The file's name ends at the first space. */
static int take_module(void *target, const char *value)
{
	struct run_options *options = target;
	size_t length = strcspn(value, " ");
	if (options->modules == VM_MAX_MODULES)
		return cli_fail(CLI_USAGE, "run: --module: at most %d are possible", VM_MAX_MODULES);
	if (!length)
		return cli_fail(CLI_USAGE, "run: --module wants the name of a file");
	char *path = strndup(value, length);
	if (!path)
		return cli_fail(CLI_FAILED, "run: --module: %s", strerror(ENOMEM));
	options->module[options->modules].path = path;
	options->module[options->modules++].text = value[length] ? value + length + 1 : "";
	return 0;
}

static int take_append(void *target, const char *value)
{
	if (strlen(value) >= VM_CMDLINE_MAX)
		return cli_fail(CLI_USAGE, "run: --append: the kernel command line may have %d characters, not %zu",
				VM_CMDLINE_MAX - 1, strlen(value));
	((struct run_options *)target)->append = value;
	return 0;
}

static int take_serial(void *target, const char *value)
{
	struct run_options *options = target;
	if (!strcmp(value, "stdio")) {
		options->serial = SERIAL_STDIO;
	} else if (!strcmp(value, "none")) {
		options->serial = SERIAL_NONE;
	} else if (!strncmp(value, "file:", 5) && value[5]) {
		options->serial = SERIAL_FILE;
		options->serial_path = value + 5;
	} else {
		return cli_fail(CLI_USAGE, "run: --serial %s: there are stdio, file:PATH and none", value);
	}
	return 0;
}

static int take_debug_exit(void *target, const char *value)
{
	char *end;
	bool numeric = *value >= '0' && *value <= '9';
	unsigned long port = strtoul(value, &end, 0);
	if (!numeric || *end || port > 0xffff)
		return cli_fail(CLI_USAGE, "run: --debug-exit %s: that is no I/O port; 0xf4 is", value);
	((struct run_options *)target)->debug_exit = (int)port;
	return 0;
}

static int take_timeout(void *target, const char *value)
{
	struct run_options *options = target;
	if (!option_number(value, RUN_TIMEOUT_MAX, &options->timeout) || options->timeout == 0)
		return cli_fail(CLI_USAGE, "run: --timeout %s: that is no number of seconds from 1 to %d", value,
				RUN_TIMEOUT_MAX);
	return 0;
}

static int take_trace(void *target, const char *value)
{
	if (!strcmp(value, "help"))
		return OPTION_HELP;
	const char *unknown = trace_enable(value);
	if (!unknown)
		return 0;
	char names[256] = "all";
	for (unsigned c = 0; c < TRACE_COUNT; c++) {
		size_t n = strlen(names);
		snprintf(names + n, sizeof names - n, ", %s", trace_name(c));
	}
	return cli_fail(CLI_USAGE, "run: --trace: unknown channel '%.*s'; there are %s", (int)strcspn(unknown, ","),
			unknown, names);
}

static int take_stats(void *target, const char *value)
{
	struct run_options *options = target;
	if (!value) {
		options->stats = STATS_TABLE;
	} else if (!strcmp(value, "json")) {
		options->stats = STATS_JSON;
	} else if (!strncmp(value, "json:", 5) && value[5]) {
		options->stats = STATS_JSON;
		options->stats_path = value + 5;
	} else {
		return cli_fail(CLI_USAGE, "run: --stats=%s: there are --stats, --stats=json and --stats=json:PATH",
				value);
	}
	return 0;
}

static int take_test_devices(void *target, const char *value)
{
	((struct run_options *)target)->test_devices = true;
	return 0;
}

static int take_no_sandbox(void *target, const char *value)
{
	((struct run_options *)target)->no_sandbox = true;
	return 0;
}

static int refuse_firmware(void *target, const char *value)
{
	return cli_fail(CLI_USAGE, "run: --firmware is not there yet; boot a kernel with --kernel FILE");
}

static int refuse_disk(void *target, const char *value)
{
	return cli_fail(CLI_USAGE, "run: --disk is not there yet; give the guest its files with --initrd FILE");
}

static int refuse_nic(void *target, const char *value)
{
	return cli_fail(CLI_USAGE, "run: --nic is not there yet");
}

/* --- The table --- */

static const struct option_row rows[] = {
	{ "engine", OPTION_VALUE, "auto|soft|kvm",
	  "what executes the guest: Strata's own CPU, or the host's KVM;\nauto: kvm where it can, else soft",
	  take_engine },
	{ "interpret", OPTION_FLAG, NULL, "engine soft without translation", take_interpret },
	{ "translate", OPTION_FLAG, NULL, "engine soft with hot code translated to host code: the default",
	  take_translate },
	{ "translate-after", OPTION_VALUE, "RUNS",
	  "how often a block runs before it is translated; unless given 4,\nand 16 once there is much translated code",
	  take_translate_after },
	{ "check-translation", OPTION_FLAG, NULL,
	  "translate, and run each translation beside the interpreter;\nthe first difference ends Strata",
	  take_check_translation },
	{ "translation-memory", OPTION_VALUE, "SIZE",
	  "bound of what is kept of guest code, decoded and translated;\n90M unless given", take_translation_memory },
	{ "host-features", OPTION_VALUE, "-NAME[,-NAME...]", "do without these features of the host's processor",
	  take_host_features },
	{ "cpu-features", OPTION_VALUE, "-NAME[,+NAME...]",
	  "features that the guest's processor has not, or has besides", take_cpu_features },
	{ "dump-block", OPTION_VALUE, "ADDRESS",
	  "print the translation that holds this linear address or RAM\noffset, guest and host code side by side, once",
	  take_dump_block },
	{ "perf-map", OPTION_OPTIONAL, "PATH",
	  "tell Linux' perf which guest code each translation is;\n/tmp/perf-PID.map unless given", take_perf_map },
	{ "cpus", OPTION_VALUE, "N", "virtual CPUs, up to 64; 1 if not given", take_cpus },
	{ "memory", OPTION_VALUE, "SIZE",
	  "guest RAM: MiB, or with K, M, G, T; 512M unless given,\nor half of the host's", take_memory },
	{ "nested", OPTION_VALUE, "none|vt-x|amd-v", "virtualization extensions the guest gets; none unless given",
	  take_nested },
	{ "kernel", OPTION_VALUE, "FILE", "what to boot: bzImage, PVH ELF or Multiboot 1", take_kernel },
	{ "initrd", OPTION_VALUE, "FILE", "the kernel's initial RAM disk, or Multiboot's module", take_initrd },
	{ "module", OPTION_REPEATED, "'FILE [TEXT]'",
	  "a module for a Multiboot or PVH kernel, with its command line;\nas many as wanted, in this order",
	  take_module },
	{ "append", OPTION_VALUE, "TEXT", "the kernel's command line", take_append },
	{ "firmware", OPTION_VALUE, "seabios|ovmf|FILE", "not there yet", refuse_firmware },
	{ "disk", OPTION_VALUE, "FILE[,k=v...]", "not there yet", refuse_disk },
	{ "nic", OPTION_VALUE, "user|...", "not there yet", refuse_nic },
	{ "serial", OPTION_VALUE, "stdio|file:PATH|none",
	  "where the first serial port goes; stdio unless given.\nOn a terminal, Ctrl-] leaves", take_serial },
	{ "debug-exit", OPTION_VALUE, "PORT",
	  "a guest's write of V to this I/O port ends the run with\nstatus (V << 1) | 1", take_debug_exit },
	{ "test-devices", OPTION_FLAG, NULL, "the ports kvm-unit-tests expect", take_test_devices },
	{ "timeout", OPTION_VALUE, "SECONDS", "end the run after this time, with status 7", take_timeout },
	{ "trace", OPTION_VALUE, "CHANNEL[,...]", "lines on standard error; the channels are listed below",
	  take_trace },
	{ "stats", OPTION_OPTIONAL, "json[:PATH]",
	  "counters at the end: a table, or JSON, on standard error;\nJSON into a file with a path", take_stats },
	{ "no-sandbox", OPTION_FLAG, NULL, "for debugging: do not confine the process", take_no_sandbox },
};

/* --- Options that do not go together --- */

static int check(const struct run_options *options)
{
	if (!options->kernel && options->initrd)
		return cli_fail(CLI_USAGE, "run: --initrd without --kernel: nothing would read it");
	if (!options->kernel && options->modules)
		return cli_fail(CLI_USAGE, "run: --module without --kernel: nothing would read it");
	if (!options->kernel && options->append)
		return cli_fail(CLI_USAGE, "run: --append without --kernel: nothing would read it");
	if (!options->kernel)
		return cli_fail(CLI_USAGE, "run: nothing to boot; give --kernel FILE");
	if (options->interpret && options->engine == ENGINE_KVM)
		return cli_fail(CLI_USAGE, "run: --interpret is for engine soft, --engine says kvm");
	const bool looks = options->translation.dump || options->perf_map;
	if (options->interpret && (options->translation.mode || looks))
		return cli_fail(CLI_USAGE, "run: --interpret does without translation, another option asks for it");
	if ((options->translation.mode || looks) && options->engine == ENGINE_KVM)
		return cli_fail(CLI_USAGE, "run: translation is for engine soft, --engine says kvm");
	if (options->soft_only && options->engine == ENGINE_KVM)
		return cli_fail(CLI_USAGE, "run: --%s is for engine soft, --engine says kvm", options->soft_only);
	return 0;
}

struct translation_config run_options_translation(const struct run_options *options)
{
	struct translation_config config = options->translation;
	if (options->interpret)
		config.mode = TRANSLATION_OFF;
	else if (config.mode == TRANSLATION_OFF)
		config.mode = TRANSLATION_ON;
	return config;
}

int run_options_parse(int argc, char **argv, struct run_options *options)
{
	*options = (struct run_options){ .memory = default_memory(), .cpus = 1, .debug_exit = -1 };
	int status = option_parse("run", rows, ARRAY_SIZE(rows), argc, argv, options);
	return status ? status : check(options);
}

void run_options_help(void)
{
	puts("usage: strata run --kernel FILE [OPTION]...\n"
	     "\n"
	     "Runs a virtual machine until it ends. Its serial port is standard input and output.\n");
	option_print_help(rows, ARRAY_SIZE(rows));
	puts("\nTrace channels (all: every one):\n");
	for (unsigned c = 0; c < TRACE_COUNT; c++)
		printf("  %-8s %s\n", trace_name(c), trace_help(c));
	puts("\n"
	     "Examples:\n"
	     "\n"
	     "  A Linux kernel with a file system in memory, its console on this terminal:\n"
	     "    strata run --kernel vmlinuz --initrd root.cpio --append console=ttyS0\n"
	     "\n"
	     "  A guest that runs guests of its own:\n"
	     "    strata run --nested vt-x --memory 1G --kernel vmlinuz --initrd l1.cpio --append console=ttyS0\n"
	     "\n"
	     "  Xen, with a Linux that manages it:\n"
	     "    strata run --nested vt-x --kernel xen --append 'console=com1' --module 'vmlinuz console=hvc0' \\\n"
	     "      --module dom0.cpio\n"
	     "\n"
	     "  A test image that reports through a port, with a time limit:\n"
	     "    strata run --kernel test.elf --test-devices --debug-exit 0xf4 --timeout 60\n"
	     "\n"
	     "  What the guest hypervisor does, and how often:\n"
	     "    strata run --nested vt-x --kernel vmlinuz --initrd l1.cpio --trace exits,vmx --stats 2>log\n"
	     "\n"
	     "Exit status: 0 the guest powered off; 1 Strata failed; 2 usage or bad input; 3 not found; 6 the host "
	     "lacks\n"
	     "a capability; 7 timeout; 9 the guest died (triple fault).");
}
