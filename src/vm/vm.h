/*
 * One virtual machine: an engine, a board, what to boot, and its life from creation to its end.
 *
 * The front opens every file and device first and hands over contents and descriptors. vm_create() does all that needs
 * the host's rights: it maps memory, creates the engine and its CPUs, builds the board, loads the kernel and starts the
 * CPU threads, which wait. From then on the VM opens nothing, maps nothing executable and starts no thread, so the
 * front may close the sandbox between vm_create() and vm_run() (over all threads: TSYNC).
 *
 * Threads: the caller's thread creates, runs and destroys; inside vm_run() it is the device thread, which serves
 * timers and serial input. vm_stop() may be called from any thread and from a signal handler.
 */
#ifndef STRATA_VM_VM_H
#define STRATA_VM_VM_H

#include "base/counters.h"
#include "engine/engine.h"

struct vm;

/* A file's contents, kept by the caller until vm_destroy() (a reset loads them again). */
struct vm_file {
	const char *name; /* as the user gave it, for messages; NULL: no such file */
	const u8 *data;
	size_t size;
	bool mapped; /* from a file, page by page: what is read again need not stay in memory */
};

/* What a Multiboot or PVH kernel gets besides itself, in this order behind the initrd. */
struct vm_module {
	struct vm_file file;
	const char *text; /* its command line without the file's name */
};

enum { VM_MAX_MODULES = 16 };

struct vm_config {
	const struct engine_ops *engine; /* probed by the caller */
	u64 memory;                      /* bytes of guest RAM; any value, checked by vm_create() */
	unsigned cpus;                   /* 1 to VM_MAX_CPUS */
	enum nested_choice nested;
	struct feature_choice choice; /* CPU features asked for (engine_board) */
	struct translation_config translation;
	struct vm_file kernel, initrd;
	struct vm_module module[VM_MAX_MODULES];
	unsigned modules;
	const char *append;  /* kernel command line; NULL: empty */
	int serial_out;      /* COM1's output, byte for byte; -1: dropped */
	int serial_in;       /* COM1's input, read when readable; -1: none */
	bool escape;         /* Ctrl-] (0x1d) on serial_in ends the run */
	int debug_exit_port; /* I/O port that ends the run when written; -1: none */
	bool test_devices;   /* the ports kvm-unit-tests expect (dev/testdev.h) */
	bool host_tsc;       /* the host's TSC is fit to tell the time (base/host_clock.h) */
};

enum { VM_CMDLINE_MAX = 2048, VM_MAX_CPUS = 64 };
#define VM_MIN_MEMORY (2ULL << 20)

/* Exit statuses of the command line, as far as a VM gives them. */
enum vm_status {
	VM_STATUS_OK = 0,
	VM_STATUS_FAILED = 1,    /* Strata or the host failed */
	VM_STATUS_BAD_INPUT = 2, /* a file, size or option that cannot be used */
	VM_STATUS_NOT_FOUND = 3, /* for the front: files that are not there */
	VM_STATUS_NO_HOST = 6,   /* the host lacks a capability */
	VM_STATUS_DIED = 9       /* triple fault */
};

/* One line for the user, without prefix and newline: what is wrong, where, and what would be right. */
struct vm_error {
	enum vm_status status;
	char text[320];
};

/*
 * Would the images load? Loads them into memory of its own, with no engine and no threads, so that a front knows before
 * it creates files. false with *error filled.
 */
bool vm_check(const struct vm_config *config, struct vm_error *error);

/* NULL on failure, with *error filled. Nothing is left behind. */
struct vm *vm_create(const struct vm_config *config, struct vm_error *error);

enum vm_end {
	VM_POWERED_OFF,
	VM_DEBUG_EXIT,   /* the guest wrote the debug-exit port: status is (value << 1) | 1 */
	VM_TRIPLE_FAULT, /* its state was dumped on stderr */
	VM_LEFT,         /* Ctrl-] */
	VM_STOPPED,      /* vm_stop() */
	VM_FAILED        /* the engine failed and said why, or a reset could not load the kernel again */
};

struct vm_result {
	enum vm_end end;
	int status;      /* exit status of the process, 0 for VM_LEFT and VM_STOPPED */
	unsigned resets; /* how often the guest reset the machine on the way */
	u64 run_ns;      /* host time from vm_run() to the end */
};

/* Runs the guest until it ends. Serial output is complete when this returns. A guest's reset boots the same images
 * again. */
void vm_run(struct vm *vm, struct vm_result *result);

/* Asks a running VM to end. Async-signal-safe. */
void vm_stop(struct vm *vm);

/* Counters of CPU n; NULL if its engine has none. Exact once vm_run() has returned. */
const struct counters *vm_counters(const struct vm *vm, unsigned cpu);

void vm_destroy(struct vm *vm); /* NULL is fine */

#endif
