/*
 * Runs one program once and prints what it took.
 *
 *	bench --list		"NAME KIND N" for each program; N takes roughly 50 ms on a host of 2023
 *	bench NAME N [ROUNDS]	"bench: NAME NANOSECONDS CHECKSUM" for each round
 *
 * Kinds: whole (counts in the geometric mean), part (one feature of a machine), guest (makes sense in guests only),
 * package (a program of a Debian package).
 */
#include "bench.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct program {
	const char *name;
	const char *kind;
	bench_run *run;
	uint64_t n;
} programs[] = {
	{ "sort", "whole", bench_sort, 16 },
	{ "hash", "whole", bench_hash, 80 },
	{ "lz", "whole", bench_lz, 120 },
	{ "interpreter", "whole", bench_interpreter, 200 },
	{ "matrix", "whole", bench_matrix, 60 },
	{ "n-body", "whole", bench_nbody, 300000 },
	{ "tree", "whole", bench_tree, 32 },
	{ "crc", "whole", bench_crc, 300 },
	{ "json", "whole", bench_json, 800 },
	{ "queens", "whole", bench_queens, 13 },
	{ "calls", "whole", bench_calls, 35 },
	{ "chase", "part", bench_chase, 2000000 },
	{ "store", "part", bench_store, 5000 },
	{ "memcpy-1M", "part", bench_memcpy, 2000 },
	{ "rep-movsb", "part", bench_rep_movsb, 2000 },
	{ "vector", "part", bench_vector, 10000 },
	{ "getppid", "part", bench_getppid, 200000 },
	{ "page-fault", "part", bench_page_fault, 30000 },
	{ "fork-exit", "part", bench_fork_exit, 500 },
	{ "fork-exec", "part", bench_fork_exec, 100 },
	{ "pipe", "part", bench_pipe, 10000 },
	{ "switch", "part", bench_switch, 10000 },
	{ "cpuid", "part", bench_cpuid, 5000 },
	{ "port", "guest", bench_port, 5000 },
	{ "gzip", "package", bench_gzip, 2 },
	{ "openssl", "package", bench_openssl, 40 },
	{ "sqlite3", "package", bench_sqlite3, 8 },
	{ "compile", "package", bench_compile, 4 },
};

#define COUNT (sizeof(programs) / sizeof(programs[0]))

_Noreturn void bench_die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

/* Guests have one CPU; the host gets one as well, or hand-offs between processes would not compare. */
static void use_one_cpu(void)
{
	cpu_set_t set;
	int cpu = sched_getcpu();

	CPU_ZERO(&set);
	CPU_SET(cpu < 0 ? 0 : cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "--nothing") == 0) {
		return 0; /* what fork-exec runs */
	}
	if (argc == 2 && strcmp(argv[1], "--list") == 0) {
		for (size_t i = 0; i < COUNT; i++) {
			printf("%s %s %llu\n", programs[i].name, programs[i].kind, (unsigned long long)programs[i].n);
		}
		return 0;
	}
	for (size_t i = 0; (argc == 3 || argc == 4) && i < COUNT; i++) {
		if (strcmp(argv[1], programs[i].name) != 0) {
			continue;
		}
		use_one_cpu();
		for (int rounds = argc == 4 ? atoi(argv[3]) : 1; rounds > 0; rounds--) {
			uint64_t start = now_ns();
			uint64_t sum = programs[i].run(strtoull(argv[2], NULL, 0));
			uint64_t end = now_ns();

			printf("bench: %s %llu %016llx\n", argv[1], (unsigned long long)(end - start),
			       (unsigned long long)sum);
			fflush(stdout);
		}
		return 0;
	}
	fprintf(stderr, "usage: bench --list | bench NAME N [ROUNDS]\n");
	return 2;
}
