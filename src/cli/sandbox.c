#include "cli/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

/* --- Namespaces --- */

static bool enter_namespaces(void)
{
	/* A user namespace with no users in it; it is what gives an ordinary user the right to the others. */
	if (unshare(CLONE_NEWUSER) < 0)
		return false;
	static const int others[] = { CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWIPC, CLONE_NEWUTS };
	bool all = true;
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		all = unshare(others[i]) == 0 && all;
	return all;
}

static bool bring_kvm(void)
{
	if (mkdir("dev", 0700) < 0)
		return false;
	int fd = open("dev/kvm", O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);
	if (fd < 0)
		return false;
	close(fd);
	return mount("/dev/kvm", "dev/kvm", NULL, MS_BIND, NULL) == 0;
}

/*
 * Makes an empty, read-only directory the root. The place it is mounted on matters only until then; nothing of it
 * remains. An initial RAM file system cannot be pivoted away, chroot has to do there.
 */
static bool empty_root(bool needs_kvm)
{
	static const char place[] = "/tmp";
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("strata", place, "tmpfs", MS_NOSUID | MS_NOEXEC, "size=64k,mode=700") < 0)
		return false;
	if (chdir(place) < 0 || (needs_kvm && !bring_kvm()) ||
	    mount(NULL, place, NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL) < 0) {
		bool back = chdir("/") == 0 && umount2(place, MNT_DETACH) == 0;
		(void)back;
		return false;
	}
	if (syscall(SYS_pivot_root, ".", ".") == 0)
		return umount2(".", MNT_DETACH) == 0 && chdir("/") == 0;
	return chroot(".") == 0 && chdir("/") == 0;
}

static bool drop_capabilities(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct none[_LINUX_CAPABILITY_U32S_3] = { 0 };
	return syscall(SYS_capset, &header, none) == 0;
}

/* --- Landlock --- */

/* The attributes as of interface version 6; older kernels take the front part. */
struct landlock_attributes {
	u64 fs, net, scoped;
};

/* Rights to handle, by the interface version that brought them. */
static u64 landlock_fs_rights(int version)
{
	unsigned count = version >= 5 ? 16 : version >= 3 ? 15 : version == 2 ? 14 : 13;
	return BITS(count - 1, 0);
}

int sandbox_landlock_version(void)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	return version > 0 ? (int)version : 0;
}

static bool allow_kvm(int ruleset, u64 handled)
{
	int fd = open("/dev/kvm", O_PATH | O_CLOEXEC);
	if (fd < 0)
		return false;
	/* Reading, writing, and ioctl(2) (bit 15) where that is a right of its own. */
	struct landlock_path_beneath_attr rule = {
		.allowed_access = (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | BIT(15)) & handled,
		.parent_fd = fd,
	};
	bool added = syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
	close(fd);
	return added;
}

static bool enter_landlock(bool needs_kvm)
{
	int version = sandbox_landlock_version();
	if (version == 0)
		return false;
	struct landlock_attributes attributes = {
		.fs = landlock_fs_rights(version),
		.net = 3,    /* bind and connect */
		.scoped = 3, /* abstract sockets and signals */
	};
	size_t size = version >= 6 ? 24 : version >= 4 ? 16 : 8;
	int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attributes, size, 0);
	if (ruleset < 0)
		return false;
	bool entered = (!needs_kvm || allow_kvm(ruleset, attributes.fs)) &&
		       syscall(SYS_landlock_restrict_self, ruleset, 0) == 0;
	close(ruleset);
	return entered;
}

unsigned sandbox_enter(bool needs_kvm)
{
	unsigned bars = 0;
	/* An inherited READ_IMPLIES_EXEC would make every mapping executable. */
	personality(PER_LINUX);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
		bars |= SANDBOX_NO_NEW_PRIVS;
	if (enter_namespaces()) {
		bars |= SANDBOX_NAMESPACES;
		if (empty_root(needs_kvm))
			bars |= SANDBOX_EMPTY_ROOT;
	}
	if (drop_capabilities())
		bars |= SANDBOX_NO_CAPABILITIES;
	/* Last: it forbids what the steps above do. */
	if (enter_landlock(needs_kvm))
		bars |= SANDBOX_LANDLOCK;
	return bars;
}

/* --- The seccomp filter --- */

/* Allowed with any arguments. */
static const int allowed[] = {
	/* what is open */
	SCMP_SYS(read),
	SCMP_SYS(write),
	SCMP_SYS(writev),
	SCMP_SYS(poll),
	SCMP_SYS(close),
	/* time */
	SCMP_SYS(clock_gettime),
	SCMP_SYS(clock_nanosleep),
	SCMP_SYS(timerfd_settime),
	SCMP_SYS(setitimer),
	/* threads that exist */
	SCMP_SYS(futex),
	SCMP_SYS(sched_yield),
	SCMP_SYS(getpid),
	SCMP_SYS(gettid),
	SCMP_SYS(rt_sigaction),
	SCMP_SYS(rt_sigprocmask),
	SCMP_SYS(rt_sigreturn),
	SCMP_SYS(restart_syscall),
	/* a thread that was made but has not run yet */
	SCMP_SYS(rseq),
	SCMP_SYS(set_robust_list),
	/* memory; see also add_conditional() */
	SCMP_SYS(munmap),
	SCMP_SYS(mremap),
	SCMP_SYS(madvise),
	SCMP_SYS(brk),
	SCMP_SYS(getrandom),
	/* the end */
	SCMP_SYS(exit),
	SCMP_SYS(exit_group),
};

static int add_conditional(scmp_filter_ctx filter, const unsigned long *ioctls, int resizable)
{
	static const unsigned long terminal[] = { TCGETS, TCSETS, TCSETSW, TCSETSF };
	struct scmp_arg_cmp not_executable = SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0);
	struct scmp_arg_cmp this_process = SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid(), 0);
	int err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1, not_executable);
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1, not_executable);
	if (!err)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1, this_process);
	if (!err && resizable)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ftruncate), 1,
				       SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)resizable, 0));
	for (size_t i = 0; !err && i < ARRAY_SIZE(terminal); i++)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 2,
				       SCMP_A0(SCMP_CMP_EQ, STDIN_FILENO, 0), SCMP_A1(SCMP_CMP_EQ, terminal[i], 0));
	for (; !err && ioctls && *ioctls; ioctls++)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_EQ, *ioctls, 0));
	return err;
}

/* The process's, as signal handlers are. */
static void (*before_end)(void);

/* The filter's default: the call was not made. This says so and ends the process. */
static void on_denied(int signal, siginfo_t *info, void *context)
{
	char line[96];
	if (before_end)
		before_end();
	int length =
		snprintf(line, sizeof line, "strata: the sandbox denied system call %d; ended\n", info->si_syscall);
	ssize_t done = write(STDERR_FILENO, line, (size_t)length);
	(void)done;
	_exit(1);
}

int sandbox_close(const unsigned long *ioctls, int resizable, void (*at_denial)(void))
{
	struct sigaction action = { .sa_sigaction = on_denied, .sa_flags = SA_SIGINFO };
	sigemptyset(&action.sa_mask);
	before_end = at_denial;
	if (sigaction(SIGSYS, &action, NULL) < 0)
		return -errno;
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_TRAP);
	if (!filter)
		return -ENOMEM;
	int err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!err)
		err = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
	for (size_t i = 0; !err && i < ARRAY_SIZE(allowed); i++)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, allowed[i], 0);
	if (!err)
		err = add_conditional(filter, ioctls, resizable);
	if (!err)
		err = seccomp_load(filter);
	seccomp_release(filter);
	return err;
}
