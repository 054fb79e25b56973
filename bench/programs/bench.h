/*
 * The measured programs. Each is one function: it does `n` units of work and returns a checksum, which depends on n
 * only: never on the machine, the time or addresses. main.c lists, times and prints them.
 */
#pragma once

#include <stdint.h>

typedef uint64_t bench_run(uint64_t n);

bench_run bench_sort, bench_hash, bench_lz, bench_interpreter, bench_matrix, bench_nbody, bench_tree, bench_crc,
	bench_json, bench_queens, bench_calls;
bench_run bench_chase, bench_store, bench_memcpy, bench_rep_movsb, bench_vector;
bench_run bench_getppid, bench_page_fault, bench_fork_exit, bench_fork_exec, bench_pipe, bench_switch;
bench_run bench_cpuid, bench_port;
bench_run bench_gzip, bench_openssl, bench_sqlite3, bench_compile;

/* xorshift64: cheap, the same everywhere. The state must not be 0. */
static inline uint64_t bench_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* Adds one value to a checksum so that the order counts. */
static inline uint64_t bench_mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value) * 0x9e3779b97f4a7c15 + 1;
}

/* Ends the program: a system call that must work did not. */
_Noreturn void bench_die(const char *what);
