/*
 * The sandbox, tried from inside: each attempt is a process of its own that enters it and then does what code of an
 * attacker would do.
 */
#include "cli/sandbox.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { DENIED = 1, RETURNED = 42, NOT_CONFINED = 43, PAGE = 4096 };

struct attempt {
	const char *name;
	void (*try)(void);
};

static void *page; /* one writable page, mapped before the sandbox closed */

static void try_open(void)
{
	open("/etc/passwd", O_RDONLY);
}

static void try_openat(void)
{
	syscall(SYS_openat, AT_FDCWD, ".", O_RDONLY | O_DIRECTORY);
}

static void try_socket(void)
{
	socket(AF_UNIX, SOCK_STREAM, 0);
}

static void try_connect(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET };
	connect(0, (struct sockaddr *)&address, sizeof address);
}

static void try_execve(void)
{
	execl("/bin/true", "true", (char *)NULL);
}

static void try_fork(void)
{
	syscall(SYS_fork);
}

static void try_clone(void)
{
	syscall(SYS_clone, CLONE_VM, 0, 0, 0, 0);
}

static void try_ptrace(void)
{
	ptrace(PTRACE_TRACEME, 0, NULL, NULL);
}

static void try_kill(void)
{
	kill(getppid(), 0);
}

static void try_signal_parent(void)
{
	syscall(SYS_tgkill, 1, 1, 0);
}

static void try_map_code(void)
{
	mmap(NULL, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void try_make_code(void)
{
	mprotect(page, PAGE, PROT_READ | PROT_EXEC);
}

static void try_make_writable_code(void)
{
	mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static void try_pkey_make_code(void)
{
	syscall(SYS_pkey_mprotect, page, PAGE, PROT_READ | PROT_EXEC, -1);
}

static void try_terminal_input(void)
{
	ioctl(0, TIOCSTI, "x");
}

static void try_terminal_elsewhere(void)
{
	ioctl(2, TCSETS, page);
}

static void try_create_vm(void)
{
	ioctl(0, KVM_CREATE_VM, 0);
}

static void try_unlink(void)
{
	unlink("/tmp/nothing");
}

static void try_mount(void)
{
	syscall(SYS_mount, "none", "/", "tmpfs", 0, NULL);
}

static void try_32_bit_call(void)
{
	/* getpid of the 32-bit interface, where numbers mean other calls. */
	long result;
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
}

static void try_x32_call(void)
{
	syscall(0x40000000 | SYS_getpid);
}

static const struct attempt denied[] = {
	{ "open", try_open },
	{ "openat", try_openat },
	{ "socket", try_socket },
	{ "connect", try_connect },
	{ "execve", try_execve },
	{ "fork", try_fork },
	{ "clone", try_clone },
	{ "ptrace", try_ptrace },
	{ "kill-parent", try_kill },
	{ "tgkill-other-process", try_signal_parent },
	{ "mmap-executable", try_map_code },
	{ "mprotect-executable", try_make_code },
	{ "mprotect-writable-executable", try_make_writable_code },
	{ "pkey-mprotect-executable", try_pkey_make_code },
	{ "ioctl-push-terminal-input", try_terminal_input },
	{ "ioctl-terminal-not-standard-input", try_terminal_elsewhere },
	{ "ioctl-create-vm", try_create_vm },
	{ "unlink", try_unlink },
	{ "mount", try_mount },
};

/* Runs `try` in a child, in the whole sandbox or only what sandbox_enter() does, and returns how the child ended. */
static int run_confined(void (*try)(void), const unsigned long *ioctls)
{
	pid_t child = fork();
	g_assert_cmpint(child, >=, 0);
	if (child == 0) {
		page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		int null = open("/dev/null", O_RDWR);
		dup2(null, 2); /* the message; system tests look at it */
		sandbox_enter(false);
		if (sandbox_close(ioctls, 0, NULL) < 0)
			_exit(NOT_CONFINED);
		try();
		_exit(RETURNED);
	}
	int status;
	g_assert_cmpint(waitpid(child, &status, 0), ==, child);
	return status;
}

static void expect_denied(gconstpointer data)
{
	const struct attempt *attempt = data;
	int status = run_confined(attempt->try, NULL);
	g_assert_true(WIFEXITED(status));
	g_assert_cmpint(WEXITSTATUS(status), ==, DENIED);
}

/* The kernel ends these at once: a foreign interface is not even told to the handler. */
static void expect_ended(gconstpointer data)
{
	const struct attempt *attempt = data;
	int status = run_confined(attempt->try, NULL);
	/* A host without the interface lets it fault. */
	g_assert_true(WIFSIGNALED(status));
	g_assert_true(WTERMSIG(status) == SIGSYS || WTERMSIG(status) == SIGSEGV);
}

static void use_what_is_allowed(void)
{
	struct timespec now, short_time = { .tv_nsec = 1000 };
	char *block;
	int ok = clock_gettime(CLOCK_MONOTONIC, &now) == 0;
	ok = ok && nanosleep(&short_time, NULL) == 0;
	ok = ok && sched_yield() == 0;
	ok = ok && write(2, "x", 1) == 1;
	/* Enough for the allocator to map memory of its own. */
	block = malloc(64 << 20);
	ok = ok && block && memset(block, 1, 64 << 20);
	free(block);
	ok = ok && mprotect(page, PAGE, PROT_READ) == 0;
	ok = ok && munmap(page, PAGE) == 0;
	if (!ok)
		_exit(NOT_CONFINED);
}

static void allows_what_a_running_vm_needs(void)
{
	int status = run_confined(use_what_is_allowed, NULL);
	g_assert_true(WIFEXITED(status));
	g_assert_cmpint(WEXITSTATUS(status), ==, RETURNED);
}

static void allows_only_the_engines_ioctls(void)
{
	static const unsigned long with[] = { KVM_CREATE_VM, 0 }, without[] = { KVM_RUN, 0 };
	int status = run_confined(try_create_vm, with);
	g_assert_cmpint(WEXITSTATUS(status), ==, RETURNED);
	status = run_confined(try_create_vm, without);
	g_assert_cmpint(WEXITSTATUS(status), ==, DENIED);
}

static volatile int closed;

static void *open_when_closed(void *opaque)
{
	while (!__atomic_load_n(&closed, __ATOMIC_SEQ_CST))
		sched_yield();
	try_open();
	_exit(RETURNED);
}

static void covers_threads_that_exist_already(void)
{
	pid_t child = fork();
	if (child == 0) {
		pthread_t thread;
		int null = open("/dev/null", O_RDWR);
		dup2(null, 2);
		sandbox_enter(false);
		pthread_create(&thread, NULL, open_when_closed, NULL);
		if (sandbox_close(NULL, 0, NULL) < 0)
			_exit(NOT_CONFINED);
		__atomic_store_n(&closed, 1, __ATOMIC_SEQ_CST);
		pthread_join(thread, NULL);
		_exit(RETURNED);
	}
	int status;
	g_assert_cmpint(waitpid(child, &status, 0), ==, child);
	g_assert_true(WIFEXITED(status));
	g_assert_cmpint(WEXITSTATUS(status), ==, DENIED);
}

/* The other bars hold without the filter as well. The child tells which it has, and which of them leak. */
static void bars_hold_without_the_filter(void)
{
	unsigned told[2] = { 0 };
	int fd[2];
	g_assert_cmpint(pipe(fd), ==, 0);
	pid_t child = fork();
	if (child == 0) {
		unsigned bars = sandbox_enter(false), leaks = 0;
		struct stat st;
		if (bars & SANDBOX_NO_NEW_PRIVS && prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1)
			leaks |= SANDBOX_NO_NEW_PRIVS;
		if (bars & SANDBOX_NAMESPACES && sethostname("x", 1) == 0)
			leaks |= SANDBOX_NAMESPACES;
		if (bars & SANDBOX_EMPTY_ROOT &&
		    (stat("/etc", &st) == 0 || stat("/dev", &st) == 0 || stat("/proc", &st) == 0))
			leaks |= SANDBOX_EMPTY_ROOT;
		if (bars & SANDBOX_NO_CAPABILITIES && chroot("/") == 0)
			leaks |= SANDBOX_NO_CAPABILITIES;
		if (bars & SANDBOX_LANDLOCK && open("/", O_RDONLY | O_DIRECTORY) >= 0)
			leaks |= SANDBOX_LANDLOCK;
		unsigned both[2] = { bars, leaks };
		_exit(write(fd[1], both, sizeof both) != sizeof both);
	}
	g_assert_cmpint(read(fd[0], told, sizeof told), ==, sizeof told);
	waitpid(child, NULL, 0);
	close(fd[0]);
	close(fd[1]);
	g_assert_cmphex(told[0] & SANDBOX_NO_NEW_PRIVS, ==, SANDBOX_NO_NEW_PRIVS);
	g_assert_cmphex(told[1], ==, 0);
}

int main(int argc, char **argv)
{
	static const struct attempt int80 = { "int80", try_32_bit_call }, x32 = { "x32", try_x32_call };
	g_test_init(&argc, &argv, NULL);
	for (size_t i = 0; i < G_N_ELEMENTS(denied); i++) {
		g_autofree char *path = g_strdup_printf("/sandbox/denies/%s", denied[i].name);
		g_test_add_data_func(path, &denied[i], expect_denied);
	}
	g_test_add_data_func("/sandbox/ends-a-process-that-uses-the-32-bit-interface", &int80, expect_ended);
	g_test_add_data_func("/sandbox/ends-a-process-that-uses-the-x32-interface", &x32, expect_ended);
	g_test_add_func("/sandbox/allows-what-a-running-vm-needs", allows_what_a_running_vm_needs);
	g_test_add_func("/sandbox/allows-only-the-engines-ioctls", allows_only_the_engines_ioctls);
	g_test_add_func("/sandbox/covers-threads-that-exist-already", covers_threads_that_exist_already);
	g_test_add_func("/sandbox/other-bars-hold-without-the-filter", bars_hold_without_the_filter);
	return g_test_run();
}
