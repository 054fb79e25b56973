/*
 * Runs a fuzz target without a fuzzing engine, so that a short run can be part of the tests: seeds given by the target,
 * mutated at random. The target itself has libFuzzer's interface and links with that instead of this file.
 *
 *	PROGRAM [-runs=N] [-seconds=N] [-seed=N] [FILE...]
 *
 * Files are run as they are. A crash names the seed and the run, and leaves the input in fuzz-crash.bin.
 */
#include "driver.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static u8 input[FUZZ_MAX_INPUT];
static size_t input_size;
static u64 random_state, seed;
static unsigned long run;

static u64 next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static size_t below(size_t n)
{
	return n ? next_random() % n : 0;
}

static void on_crash(int signal)
{
	fprintf(stderr, "signal %d in run %lu of seed %llu, input of %zu bytes in fuzz-crash.bin\n", signal, run,
		(unsigned long long)seed, input_size);
	FILE *f = fopen("fuzz-crash.bin", "wb");
	if (f) {
		fwrite(input, 1, input_size, f);
		fclose(f);
	}
	_exit(1);
}

/* Numbers at which checks of offsets and lengths tend to break. */
static u64 telling_number(void)
{
	static const u64 numbers[] = { 0,          1,           2,           0x7f,       0x80,
				       0xff,       0x100,       0x1000,      0x7fff,     0x8000,
				       0xffff,     0x10000,     0x7fffffff,  0x80000000, 0xfffff000,
				       0xffffffff, 0x100000000, ~0ULL << 12, ~0ULL >> 1, ~0ULL };
	u64 n = numbers[below(sizeof numbers / sizeof numbers[0])];
	return next_random() % 3 ? n : n + below(33) - 16;
}

static void mutate_once(void)
{
	u64 value = next_random() & 1 ? telling_number() : next_random();
	size_t width = 1ULL << below(4);
	switch (below(8)) {
	case 0: /* shorter or longer */
		input_size = below(8) ? below(input_size + 1) : below(FUZZ_MAX_INPUT);
		break;
	case 1: /* a piece copied elsewhere */
		if (input_size) {
			size_t n = 1 + below(input_size < 64 ? input_size : 64);
			memmove(input + below(input_size - n + 1), input + below(input_size - n + 1), n);
		}
		break;
	case 2:
		if (input_size)
			input[below(input_size)] ^= (u8)(1 << below(8));
		break;
	default: /* a number overwritten; most fields lie near the beginning */
		if (input_size >= width) {
			size_t range = next_random() & 1 && input_size > 1024 ? 1024 : input_size;
			memcpy(input + below(range - width + 1), &value, width);
		}
	}
}

static void fuzz(unsigned long runs, unsigned seconds)
{
	unsigned seeds = 0;
	time_t end = time(NULL) + seconds;
	while (fuzz_seed(seeds, input))
		seeds++;
	for (run = 0; run < runs && (!seconds || time(NULL) < end); run++) {
		memset(input, 0, sizeof input);
		input_size = fuzz_seed((unsigned)below(seeds), input);
		for (size_t n = below(6); n; n--)
			mutate_once();
		LLVMFuzzerTestOneInput(input, input_size);
	}
	printf("ok: %lu runs of seed %llu\n", run, (unsigned long long)seed);
}

static int run_file(const char *name)
{
	FILE *f = fopen(name, "rb");
	if (!f) {
		perror(name);
		return 1;
	}
	input_size = fread(input, 1, sizeof input, f);
	fclose(f);
	return LLVMFuzzerTestOneInput(input, input_size);
}

int main(int argc, char **argv)
{
	unsigned long runs = ~0UL;
	unsigned seconds = 0, files = 0;
	seed = (u64)time(NULL) ^ (u64)getpid() << 32;
	signal(SIGSEGV, on_crash);
	signal(SIGBUS, on_crash);
	signal(SIGABRT, on_crash);
	signal(SIGFPE, on_crash);
	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "-runs=", 6))
			runs = strtoul(argv[i] + 6, NULL, 0);
		else if (!strncmp(argv[i], "-seconds=", 9))
			seconds = (unsigned)strtoul(argv[i] + 9, NULL, 0);
		else if (!strncmp(argv[i], "-seed=", 6))
			seed = strtoull(argv[i] + 6, NULL, 0);
		else if (files++, run_file(argv[i]))
			return 1;
	}
	if (files)
		return 0;
	random_state = seed | 1;
	srandom((unsigned)seed);
	printf("seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	fuzz(runs, runs == ~0UL && !seconds ? 10 : seconds);
	return 0;
}
