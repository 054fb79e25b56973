/*
 * The init process of a Linux guest: counts with performance counters as `perf` does, through perf_event_open(), says
 * what came out as TAP, and powers off.
 */
#include <fcntl.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ROUNDS = 10000000, INSTRUCTIONS = 2 * ROUNDS + 1, PERIOD = 2000000, SLACK = 20000 };

static unsigned checks;

static void check(const char *name, bool kept, long long value)
{
	printf("%sok %u - %s: %lld\n", kept ? "" : "not ", ++checks, name, value);
}

static int open_event(struct perf_event_attr *attr)
{
	attr->type = PERF_TYPE_HARDWARE;
	attr->size = sizeof *attr;
	attr->disabled = 1;
	return (int)syscall(SYS_perf_event_open, attr, 0, -1, -1, 0);
}

static void run_loop(void)
{
	unsigned n = ROUNDS;
	__asm__ volatile("1: dec %0; jnz 1b" : "+r"(n) : : "cc");
}

static long long count(struct perf_event_attr *attr)
{
	int fd = open_event(attr);
	uint64_t value = 0;
	if (fd < 0)
		return -1;
	ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
	run_loop();
	ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
	bool done = read(fd, &value, sizeof value) == (ssize_t)sizeof value;
	close(fd);
	return done ? (long long)value : -1;
}

/* Every timer interrupt returns by an IRET that retires in user mode; there is little else. */
static bool is_about(long long value, long long expected)
{
	return value >= expected && value <= expected + SLACK;
}

static volatile sig_atomic_t overflows;

static void on_overflow(int signal)
{
	(void)signal;
	overflows++;
}

static void check_sampling(void)
{
	struct perf_event_attr attr = {
		.config = PERF_COUNT_HW_INSTRUCTIONS, .sample_period = PERIOD, .wakeup_events = 1, .exclude_kernel = 1
	};
	int fd = open_event(&attr);
	signal(SIGIO, on_overflow);
	fcntl(fd, F_SETOWN, getpid());
	fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK | O_ASYNC);
	ioctl(fd, PERF_EVENT_IOC_ENABLE, 0);
	run_loop();
	ioctl(fd, PERF_EVENT_IOC_DISABLE, 0);
	close(fd);
	/* Fewer where Linux finds them slow. */
	check("overflows-come-by-their-period", overflows > 0 && overflows <= INSTRUCTIONS / PERIOD, overflows);
}

static int watchdog(void)
{
	char state = 0;
	int fd = open("/proc/sys/kernel/nmi_watchdog", O_RDONLY);
	return fd >= 0 && read(fd, &state, 1) == 1 ? state - '0' : -1;
}

int main(void)
{
	struct perf_event_attr user = { .config = PERF_COUNT_HW_INSTRUCTIONS, .exclude_kernel = 1 };
	struct perf_event_attr kernel = { .config = PERF_COUNT_HW_INSTRUCTIONS, .exclude_user = 1 };
	struct perf_event_attr both = { .config = PERF_COUNT_HW_INSTRUCTIONS };
	struct perf_event_attr branches = { .config = PERF_COUNT_HW_BRANCH_INSTRUCTIONS, .exclude_kernel = 1 };
	struct perf_event_attr cycles = { .config = PERF_COUNT_HW_CPU_CYCLES };
	struct perf_event_attr reference = { .config = PERF_COUNT_HW_REF_CPU_CYCLES };

	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	setvbuf(stdout, NULL, _IONBF, 0);
	printf("\n");
	check("linux-watches-for-lock-ups-with-a-counter", watchdog() == 1, watchdog());
	long long value = count(&user);
	check("instructions-of-the-user-are-the-loops", is_about(value, INSTRUCTIONS), value);
	value = count(&kernel);
	check("instructions-of-the-kernel-are-not", value > 0 && value < INSTRUCTIONS, value);
	value = count(&both);
	check("both-are-at-least-the-loops", value > INSTRUCTIONS, value);
	value = count(&branches);
	check("branches-are-the-loops-rounds", is_about(value, ROUNDS), value);
	value = count(&cycles);
	check("cycles-are-counted", value > 0, value);
	value = count(&reference);
	check("reference-cycles-too-where-there-is-an-event", value != 0, value);
	check_sampling();
	printf("1..%u\n", checks);
	reboot(RB_POWER_OFF);
	return 0;
}
