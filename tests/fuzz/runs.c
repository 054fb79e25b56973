#include "runs.h"

#include "cpu/block_cache.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static struct machine *stopped_by_alarm;
static u64 random_state, seed;
static unsigned long run, runs_wanted = ~0UL;
static long seconds = 5;

u64 next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

bool one_in(unsigned n)
{
	return next_random() % n == 0;
}

static void on_alarm(int signal)
{
	cpu_attend(&stopped_by_alarm->cpu, ATTEND_STOP);
}

static void on_crash(int signal)
{
	static char text[100];
	int n = snprintf(text, sizeof(text), "signal %d in run %lu of seed %llu\n", signal, run,
			 (unsigned long long)seed);
	if (write(STDERR_FILENO, text, (size_t)n) < 0)
		_exit(2);
	_exit(1);
}

void fuzz_begin(int argc, char **argv)
{
	seed = (u64)time(NULL);
	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "-runs=", 6))
			runs_wanted = strtoul(argv[i] + 6, NULL, 0);
		else if (!strncmp(argv[i], "-seconds=", 9))
			seconds = strtol(argv[i] + 9, NULL, 0);
		else if (!strncmp(argv[i], "-seed=", 6))
			seed = strtoull(argv[i] + 6, NULL, 0);
	}
	printf("seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	random_state = seed * 2 + 1;
	/* Before there is a CPU, which takes over the signals it expects. */
	const int crashes[] = { SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL, SIGTRAP };
	for (unsigned i = 0; i < G_N_ELEMENTS(crashes); i++)
		signal(crashes[i], on_crash);
}

unsigned long fuzz_runs(struct machine *machine, void (*try_once)(void))
{
	stopped_by_alarm = machine;
	signal(SIGALRM, on_alarm);
	time_t end = time(NULL) + seconds;
	for (run = 0; run < runs_wanted && time(NULL) < end; run++)
		try_once();
	return run;
}

void fuzz_run_a_moment(struct machine *machine)
{
	const struct itimerval soon = { .it_value.tv_usec = 2000 }, never = { 0 };
	struct cpu *cpu = &machine->cpu;
	cpu->activity = CPU_ACTIVE;
	setitimer(ITIMER_REAL, &soon, NULL);
	for (unsigned events = 0; events < 4; events++) {
		if (cpu_run(cpu) != CPU_STOP_IDLE)
			break;
		cpu->activity = CPU_ACTIVE;
	}
	setitimer(ITIMER_REAL, &never, NULL);
	cpu_attended(cpu, ATTEND_STOP);
}

void fuzz_choose_translation(struct machine *machine, const struct jit_ops *jit)
{
	bool translated = one_in(2);
	/* What the translator made does not stay behind without it. */
	if (!translated && machine->cpu.jit)
		block_cache_flush_now(&machine->cpu);
	machine->cpu.jit = translated ? jit : NULL;
}
