/* Programs of Debian's packages, each on input that is made here: gzip, openssl, sqlite3, and tcc as the C compiler. */
#include "bench.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { TEXT_BYTES = 1 << 20, INSERTS = 3000, FUNCTIONS = 2000 };

#define INPUT  "/tmp/bench-input"
#define OUTPUT "/tmp/bench-output"

static FILE *open_input(const char *suffix)
{
	char path[64];

	snprintf(path, sizeof(path), INPUT "%s", suffix);
	FILE *file = fopen(path, "w");
	if (!file) {
		bench_die(path);
	}
	return file;
}

static void close_input(FILE *file)
{
	if (fclose(file)) {
		bench_die(INPUT);
	}
}

/* Words of a small vocabulary in changing order: text that compresses as text does. */
static void make_text(void)
{
	static const char *const words[] = { "guest", "page", "the ", "table, ", "of\n", "exit; ", "a ", "processor " };
	FILE *file = open_input("");
	uint64_t state = 1;

	for (int n = 0; n < TEXT_BYTES;) {
		state = state * 6364136223846793005ull + 1442695040888963407ull;
		n += fprintf(file, "%s%llu", words[state >> 61], (unsigned long long)(state >> 33 & 15));
	}
	close_input(file);
}

static void make_sql(void)
{
	FILE *file = open_input(".sql");

	fprintf(file, "create table t (a integer, b text);\nbegin;\n");
	for (int i = 0; i < INSERTS; i++) {
		fprintf(file, "insert into t values (%d, 'row %d');\n", (int)(i * 7919ll % INSERTS), i);
	}
	fprintf(file, "commit;\ncreate index i on t (a);\n"
		      "select count(*), sum(x.a * y.a) from t x join t y on x.a = y.a + 1;\n"
		      "select b from t order by b desc limit 5;\n");
	close_input(file);
}

static void make_c(void)
{
	FILE *file = open_input(".c");

	for (int i = 0; i < FUNCTIONS; i++) {
		fprintf(file,
			"int f%d(int n, int *p) { int s = %d; for (int i = 0; i < n; i++) { if (p[i] > s) s += p[i] * "
			"%d; "
			"else s ^= i << %d; } return s; }\n",
			i, i, i + 3, i % 20);
	}
	close_input(file);
}

/* FNV-1a of what the program wrote to standard output, or into OUTPUT, going on from `sum`. */
static uint64_t output_sum(int fd, uint64_t sum)
{
	static uint8_t buffer[65536];

	for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) {
		for (ssize_t i = 0; i < n; i++) {
			sum = (sum ^ buffer[i]) * 0x100000001b3ull;
		}
	}
	return sum;
}

/* Runs a program n times, `input` its standard input. */
static uint64_t run(uint64_t n, const char *input, char *const argv[])
{
	uint64_t sum = 0xcbf29ce484222325ull;

	for (uint64_t i = 0; i < n; i++) {
		int in = open(input, O_RDONLY), out = open(OUTPUT, O_RDWR | O_CREAT | O_TRUNC, 0600), status = 1;
		if (in < 0 || out < 0) {
			bench_die(input);
		}
		pid_t child = fork();
		if (child == 0) {
			if (dup2(in, 0) < 0 || dup2(out, 1) < 0) {
				_exit(126);
			}
			execv(argv[0], argv);
			_exit(127);
		}
		if (child < 0 || waitpid(child, &status, 0) < 0 || status != 0) {
			bench_die(argv[0]);
		}
		/* tcc writes its file anew: what is open may be the old one. */
		close(out);
		out = open(OUTPUT, O_RDONLY);
		if (out < 0) {
			bench_die(OUTPUT);
		}
		sum = output_sum(out, sum);
		close(in);
		close(out);
	}
	unlink(OUTPUT);
	return sum;
}

uint64_t bench_gzip(uint64_t n)
{
	make_text();
	return run(n, INPUT, (char *[]){ "/usr/bin/gzip", "-n", "-c", NULL });
}

uint64_t bench_openssl(uint64_t n)
{
	make_text();
	setenv("OPENSSL_CONF", "/dev/null", 1);
	return run(n, INPUT,
		   (char *[]){ "/usr/bin/openssl", "enc", "-aes-256-cbc", "-K", "00112233445566778899aabbccddeeff",
			       "-iv", "00112233445566778899aabbccddeeff", NULL });
}

uint64_t bench_sqlite3(uint64_t n)
{
	make_sql();
	return run(n, INPUT ".sql", (char *[]){ "/usr/bin/sqlite3", "-batch", ":memory:", NULL });
}

uint64_t bench_compile(uint64_t n)
{
	make_c();
	return run(n, INPUT ".c", (char *[]){ "/usr/bin/tcc", "-c", "-o", OUTPUT, INPUT ".c", NULL });
}
