#include "cli/console.h"

#include "vm/vm.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/time.h>
#include <termios.h>
#include <unistd.h>

/* A VM that has not stopped this long after its time was over is not going to. */
enum { GRACE_SECONDS = 10, STATUS_TIMEOUT = 7 };

/* What the handlers need; they have no other way to get it. Written before they are installed. */
static struct vm *the_vm;
static struct termios cooked, raw_mode;
static volatile sig_atomic_t is_raw, stop_reason, stop_signal;

void console_restore(void)
{
	if (is_raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &cooked);
}

static int handle(int signal, void (*handler)(int), int flags)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = flags };
	sigemptyset(&action.sa_mask);
	return sigaction(signal, &action, NULL) < 0 ? -errno : 0;
}

void console_die(int signal)
{
	console_restore();
	handle(signal, SIG_DFL, 0);
	raise(signal);
}

/* Who asks a second time does not want to wait for the VM. */
static void on_stop(int signal)
{
	if (stop_reason == CONSOLE_SIGNAL) {
		console_die(signal);
		return;
	}
	if (stop_reason == CONSOLE_NOT_STOPPED) {
		stop_signal = signal;
		stop_reason = CONSOLE_SIGNAL;
	}
	vm_stop(the_vm);
}

static void on_time_over(int signal)
{
	if (stop_reason == CONSOLE_TIMEOUT) {
		static const char text[] = "strata: the virtual machine does not stop; ended\n";
		console_restore();
		ssize_t done = write(STDERR_FILENO, text, sizeof text - 1);
		(void)done;
		_exit(STATUS_TIMEOUT);
	}
	stop_reason = CONSOLE_TIMEOUT;
	vm_stop(the_vm);
}

/* A stopped Strata leaves a usable terminal, and takes it again when it goes on. */
static void on_suspend(int signal)
{
	int saved_errno = errno;
	console_restore();
	raise(SIGSTOP);
	if (is_raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &raw_mode);
	errno = saved_errno;
}

/* Installed with SA_RESETHAND: what is raised again ends the process. */
static void on_fatal(int signal)
{
	console_restore();
	raise(signal);
}

static int install_handlers(void)
{
	/* The first four are what people send; the others would end the process by default. */
	static const int stopping[] = { SIGINT,  SIGTERM, SIGHUP,    SIGQUIT, SIGUSR1, SIGUSR2,
					SIGPOLL, SIGPROF, SIGVTALRM, SIGXCPU, SIGPWR,  SIGSTKFLT };
	static const int fatal[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
	int err = 0;
	for (size_t i = 0; !err && i < ARRAY_SIZE(stopping); i++) {
		struct sigaction old;
		/* nohup and background jobs of plain shells ignore some, and mean it; the engine has its own use of
		 * one. */
		if (sigaction(stopping[i], NULL, &old) == 0 && old.sa_handler != SIG_DFL)
			continue;
		err = handle(stopping[i], on_stop, SA_RESTART);
	}
	for (size_t i = 0; !err && i < ARRAY_SIZE(fatal); i++) {
		struct sigaction old;
		/* The CPU may have its own use of faults. */
		if (sigaction(fatal[i], NULL, &old) == 0 && old.sa_handler != SIG_DFL)
			continue;
		err = handle(fatal[i], on_fatal, (int)SA_RESETHAND);
	}
	if (!err)
		err = handle(SIGTSTP, on_suspend, SA_RESTART);
	if (!err)
		err = handle(SIGALRM, on_time_over, SA_RESTART);
	/* A reader of our output that went away, or a file's size limit, is an error of write(2), not the end. */
	if (!err)
		err = handle(SIGXFSZ, SIG_IGN, 0);
	return err ? err : handle(SIGPIPE, SIG_IGN, 0);
}

static int enter_raw_mode(void)
{
	if (!isatty(STDIN_FILENO))
		return 0;
	if (tcgetattr(STDIN_FILENO, &cooked) < 0)
		return -errno;
	raw_mode = cooked;
	cfmakeraw(&raw_mode);
	/* Strata's own lines still end in newline alone, and the guest's carriage returns pass unchanged. */
	raw_mode.c_oflag = cooked.c_oflag;
	is_raw = 1;
	return tcsetattr(STDIN_FILENO, TCSADRAIN, &raw_mode) < 0 ? -errno : 0;
}

int console_open(struct vm *vm, bool raw, u64 timeout)
{
	the_vm = vm;
	int err = install_handlers();
	if (!err && raw)
		err = enter_raw_mode();
	if (!err && timeout) {
		struct itimerval limit = { .it_value.tv_sec = (time_t)timeout, .it_interval.tv_sec = GRACE_SECONDS };
		err = setitimer(ITIMER_REAL, &limit, NULL) < 0 ? -errno : 0;
	}
	return err;
}

void console_close(void)
{
	struct itimerval none = { 0 };
	setitimer(ITIMER_REAL, &none, NULL);
	console_restore();
	is_raw = 0;
}

enum console_stop console_stopped(int *signal)
{
	*signal = stop_signal;
	return stop_reason;
}
