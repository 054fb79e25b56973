/*
 * Does /dev/kvm run a guest? The device node proves nothing: on some hosts it opens and runs only guests made for it.
 * So a small guest goes all the way (kvm_probe_guest.S) in a child process, which is killed if it gets stuck. How long
 * the whole way takes says nothing: a guest hypervisor's guest may be a thousand times slower than one on hardware.
 */
#include "engine/kvm_probe.h"
#include "engine/kvm.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PROBE_STAGE_LIMIT_MS = 2000, PROBE_REASON_MAX = 160, PROBE_MAX_TRIES = 1000 };

/* A round whose loop takes longer is emulated: less than 5 million instructions a second. */
#define PROBE_ROUND_LIMIT_NS 20000000ULL

extern const u8 kvm_probe_guest[], kvm_probe_guest_end[];

struct verdict {
	int err; /* 0 or -errno */
	char reason[PROBE_REASON_MAX];
};

/* What the child tells, after each stage and at the end; at most PIPE_BUF, so it comes as a whole. */
struct message {
	bool concluded;
	unsigned stage;         /* the last that was passed; 0: a VM was made */
	struct verdict verdict; /* if concluded */
};

static const char *const stage_names[] = {
	[PROBE_REAL] = "run real mode",
	[PROBE_PROTECTED] = "enter protected mode",
	[PROBE_LONG] = "enter 64-bit mode with its own page tables",
	[PROBE_SYSTEM] = "use CPUID and MSRs",
	[PROBE_FAULTS] = "handle its own faults",
	[PROBE_VECTOR] = "use vector instructions",
	[PROBE_NESTING] = "use virtualization extensions",
	[PROBE_SPEED] = "run a loop",
	[PROBE_HALTED] = "halt",
};

static const char *nesting_name(enum nested_choice nested)
{
	return nested == NESTING_VTX ? "VT-x" : nested == NESTING_SVM ? "AMD-V" : "none";
}

static void PRINTF_LIKE(3, 4) conclude(struct verdict *verdict, int err, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(verdict->reason, sizeof verdict->reason, fmt, ap);
	va_end(ap);
	verdict->err = err;
}

static u64 now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

/* --- In the child --- */

struct probe {
	struct engine_board board;
	struct engine engine;
	struct engine_vcpu vcpu;
	u64 stage_ns; /* of the fastest stage without a loop: little more than entering and leaving the guest */
	u64 round_ns[PROBE_SPEED_ROUNDS];
	int pipe;
};

static bool tell(int fd, const struct message *message)
{
	return write(fd, message, sizeof *message) == sizeof *message;
}

static int set_up_vm(struct probe *probe, int kvm_fd, const struct kvm_cpuid2 *cpuid)
{
	u8 *ram = mmap(NULL, PROBE_RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (ram == MAP_FAILED)
		return -errno;
	memcpy(ram + PROBE_CODE, kvm_probe_guest, (size_t)(kvm_probe_guest_end - kvm_probe_guest));
	struct kvm_userspace_memory_region region = { .memory_size = PROBE_RAM_SIZE,
						      .userspace_addr = (u64)(uintptr_t)ram };
	u64 identity_map = KVM_IDENTITY_MAP_ADDR;
	int vm = kvm_ioctl(kvm_fd, KVM_CREATE_VM, NULL);
	int err = vm;
	if (err >= 0)
		err = kvm_ioctl(vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	if (err >= 0)
		err = kvm_ioctl(vm, KVM_SET_TSS_ADDR, (void *)KVM_TSS_ADDR);
	if (err >= 0)
		err = kvm_ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
	if (err >= 0)
		err = probe->vcpu.fd = kvm_ioctl(vm, KVM_CREATE_VCPU, NULL);
	if (err >= 0)
		err = kvm_ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
	if (err < 0)
		return err;
	probe->vcpu.run = mmap(NULL, (size_t)err, PROT_READ | PROT_WRITE, MAP_SHARED, probe->vcpu.fd, 0);
	if (probe->vcpu.run == MAP_FAILED)
		return -errno;
	return kvm_cpuid_setup(&probe->vcpu, cpuid);
}

static int set_start(int vcpu_fd, enum nested_choice nested)
{
	struct x86_state state;
	int err = kvm_state_get(vcpu_fd, &state);
	if (err < 0)
		return err;
	state.seg[SEG_CS].selector = 0;
	state.seg[SEG_CS].base = 0;
	state.rip = PROBE_CODE;
	state.gpr[RBX] = nested == NESTING_VTX ? PROBE_ASK_VTX : nested == NESTING_SVM ? PROBE_ASK_SVM : PROBE_ASK_NONE;
	return kvm_state_set(vcpu_fd, &state);
}

static const char *exit_name(u32 reason)
{
	switch (reason) {
	case KVM_EXIT_IO:
		return "gave a wrong result";
	case KVM_EXIT_MMIO:
		return "touched memory it does not have";
	case KVM_EXIT_SHUTDOWN:
		return "triple-faulted";
	case KVM_EXIT_FAIL_ENTRY:
		return "was refused by the processor";
	case KVM_EXIT_INTERNAL_ERROR:
		return "met an instruction that this KVM cannot run";
	case KVM_EXIT_HLT:
		return "halted too early";
	default:
		return "stopped for an unknown reason";
	}
}

/* All stages passed: the fastest round counts, the others may have met a busy host. */
static void judge_speed(const struct probe *probe, struct verdict *verdict)
{
	u64 best = UINT64_MAX;
	for (unsigned i = 0; i < PROBE_SPEED_ROUNDS; i++)
		if (probe->round_ns[i] < best)
			best = probe->round_ns[i];
	best = best > probe->stage_ns ? best - probe->stage_ns : 0;
	if (best > PROBE_ROUND_LIMIT_NS)
		conclude(verdict, -ENOTSUP,
			 "/dev/kvm opens, but it emulates guests in software (%.1f million instructions/s)",
			 2.0 * PROBE_SPEED_LOOPS * 1000 / (double)best);
	else
		conclude(verdict, 0, "its test guest ran%s%s",
			 probe->board.nested == NESTING_NONE ? "" : ", and may use ",
			 probe->board.nested == NESTING_NONE ? "" : nesting_name(probe->board.nested));
}

/* Runs to the next exit that is not an interruption; false after a verdict. */
static bool run_once(struct probe *probe, unsigned stage, struct verdict *verdict)
{
	for (unsigned tries = 0; tries < PROBE_MAX_TRIES; tries++) {
		if (ioctl(probe->vcpu.fd, KVM_RUN, NULL) == 0)
			return true;
		if (errno != EINTR && errno != EAGAIN)
			break;
	}
	conclude(verdict, -ENOTSUP, "/dev/kvm opens, but its test guest could not %s: KVM_RUN: %s", stage_names[stage],
		 strerror(errno));
	return false;
}

static void run_stages(struct probe *probe, struct verdict *verdict)
{
	const struct kvm_run *run = probe->vcpu.run;
	unsigned stage = PROBE_REAL, round = 0;
	for (;;) {
		tell(probe->pipe, &(struct message){ .stage = stage - 1 });
		u64 start = now_ns();
		if (!run_once(probe, stage, verdict))
			return;
		const u8 *data = (const u8 *)run + run->io.data_offset;
		u64 took = now_ns() - start;
		bool passed = run->exit_reason == KVM_EXIT_IO && run->io.port == PROBE_PORT && data[0] == stage;
		if (passed && stage == PROBE_SPEED) {
			probe->round_ns[round++] = took;
			stage += round == PROBE_SPEED_ROUNDS;
		} else if (passed) {
			if (took < probe->stage_ns)
				probe->stage_ns = took;
			stage++;
		} else if (stage == PROBE_HALTED && run->exit_reason == KVM_EXIT_HLT) {
			judge_speed(probe, verdict);
			return;
		} else {
			conclude(verdict, -ENOTSUP, "/dev/kvm opens, but its test guest could not %s: it %s",
				 stage_names[stage], exit_name(run->exit_reason));
			return;
		}
	}
}

static void probe_in_child(enum nested_choice nested, int pipe, struct verdict *verdict)
{
	struct probe probe = { .board = { .cpus = 1, .nested = nested }, .stage_ns = UINT64_MAX, .pipe = pipe };
	probe.engine.board = &probe.board;
	probe.vcpu.engine = &probe.engine;
	int kvm_fd = kvm_open(verdict->reason, sizeof verdict->reason);
	if (kvm_fd < 0) {
		verdict->err = kvm_fd;
		return;
	}
	struct kvm_cpuid2 *cpuid = kvm_supported_cpuid(kvm_fd);
	if (!cpuid) {
		conclude(verdict, -ENOTSUP, "/dev/kvm does not say which CPUID it supports: %s", strerror(errno));
		return;
	}
	if (nested != NESTING_NONE && kvm_cpuid_nesting(cpuid) != nested) {
		conclude(verdict, -ENOTSUP,
			 "this host's KVM gives guests no %s (parameter 'nested' of its module, or other vendor)",
			 nesting_name(nested));
		return;
	}
	int err = set_up_vm(&probe, kvm_fd, cpuid);
	if (err >= 0)
		err = set_start(probe.vcpu.fd, nested);
	if (err < 0)
		conclude(verdict, -ENOTSUP, "/dev/kvm opens, but no guest can be made: %s", strerror(-err));
	else
		run_stages(&probe, verdict);
}

/* --- In the parent --- */

/* false: no message within the limit. */
static bool receive(int fd, struct message *message)
{
	u64 deadline = now_ns() + PROBE_STAGE_LIMIT_MS * 1000000ULL, now;
	while ((now = now_ns()) < deadline) {
		struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
		if (poll(&poll_fd, 1, (int)((deadline - now) / 1000000) + 1) <= 0)
			continue; /* a signal, or the time is over */
		if (read(fd, message, sizeof *message) == sizeof *message)
			return true;
		message->concluded = true;
		conclude(&message->verdict, -ENOTSUP, "/dev/kvm opens, but the process that tried it died");
		return true;
	}
	return false;
}

/* Waits for the child's verdict, as long as it gets on. */
static void await(int fd, struct verdict *verdict)
{
	struct message message = { 0 };
	unsigned stage = 0;
	while (receive(fd, &message)) {
		if (message.concluded) {
			*verdict = message.verdict;
			verdict->reason[sizeof verdict->reason - 1] = 0;
			return;
		}
		stage = message.stage < PROBE_HALTED ? message.stage + 1 : PROBE_HALTED;
	}
	conclude(verdict, -ETIMEDOUT, "/dev/kvm opens, but its test guest took more than %d s to %s",
		 PROBE_STAGE_LIMIT_MS / 1000, stage ? stage_names[stage] : "be made");
}

int kvm_probe(enum nested_choice nested, char *reason, size_t reason_size)
{
	struct verdict verdict = { 0 };
	int pipe_fd[2];
	if (pipe(pipe_fd) < 0)
		return -errno;
	pid_t child = fork();
	if (child == 0) {
		close(pipe_fd[0]);
		struct message message = { .concluded = true };
		probe_in_child(nested, pipe_fd[1], &message.verdict);
		_exit(!tell(pipe_fd[1], &message));
	}
	close(pipe_fd[1]);
	if (child < 0) {
		conclude(&verdict, -errno, "no process to try /dev/kvm in: %s", strerror(errno));
	} else {
		await(pipe_fd[0], &verdict);
		kill(child, SIGKILL);
		/*
		 * A child stuck inside the kernel dies when the kernel lets it; nobody waits for that. It is reaped
		 * with Strata itself.
		 */
		for (unsigned tries = 0; tries < 50 && waitpid(child, NULL, WNOHANG) == 0; tries++)
			usleep(1000);
	}
	close(pipe_fd[0]);
	snprintf(reason, reason_size, "%s", verdict.reason);
	return verdict.err;
}
