/* One feature each: dependent loads, stores, copies, vectors. */
#include "bench.h"

#include <string.h>

/* Follows a random cycle through 4 MiB, a cache line a step. */
uint64_t bench_chase(uint64_t n)
{
	enum { LINES = 1 << 16 };
	static struct {
		uint32_t next;
		uint32_t unused[15];
	} line[LINES];
	static uint32_t order[LINES];
	uint64_t seed = 9;
	uint32_t at = 0;

	for (uint32_t i = 0; i < LINES; i++) {
		order[i] = i;
	}
	for (uint32_t i = LINES - 1; i > 0; i--) {
		uint32_t j = bench_random(&seed) % i, t = order[i];

		order[i] = order[j];
		order[j] = t;
	}
	for (uint32_t i = 0; i < LINES; i++) {
		line[order[i]].next = order[(i + 1) % LINES];
	}
	while (n--) {
		at = line[at].next;
	}
	return at;
}

/* 16 Ki stores of 4 bytes a unit. */
uint64_t bench_store(uint64_t n)
{
	enum { COUNT = 1 << 14 };
	static volatile uint32_t cells[COUNT];

	for (uint64_t round = 0; round < n; round++) {
		for (uint32_t i = 0; i < COUNT; i++) {
			cells[i] = i + round;
		}
	}
	return bench_mix(cells[0], cells[COUNT - 1]);
}

enum { BLOCK = 1 << 20 };
static uint8_t source[BLOCK], target[BLOCK];

uint64_t bench_memcpy(uint64_t n)
{
	memset(source, 5, BLOCK);
	for (uint64_t i = 0; i < n; i++) {
		source[i % BLOCK] = i;
		memcpy(target, source, BLOCK);
		__asm__ volatile("" ::: "memory");
	}
	return bench_mix(target[0], target[BLOCK - 1]);
}

uint64_t bench_rep_movsb(uint64_t n)
{
	memset(source, 6, BLOCK);
	for (uint64_t i = 0; i < n; i++) {
		void *to = target, *from = source;
		uint64_t count = BLOCK;

		source[i % BLOCK] = i;
		__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
	}
	return bench_mix(target[0], target[BLOCK - 1]);
}

typedef int32_t int_vector __attribute__((vector_size(16)));
typedef float float_vector __attribute__((vector_size(16)));

/* SSE2, whole numbers and floats, 1024 vectors of each a unit. Floats stay small whole numbers: exact. */
uint64_t bench_vector(uint64_t n)
{
	enum { COUNT = 1024 };
	static int_vector a[COUNT];
	static float_vector f[COUNT];
	uint64_t sum = 0;

	for (int i = 0; i < COUNT; i++) {
		a[i] = (int_vector){ i, i + 1, i + 2, i + 3 };
		f[i] = (float_vector){ i % 7, i % 5, i % 3, 1 };
	}
	for (uint64_t round = 0; round < n; round++) {
		int_vector whole = { (int)round, 1, 2, 3 };
		float_vector real = { 0 };

		for (int i = 0; i < COUNT; i++) {
			whole = (whole ^ a[i]) + (a[i] << 3) - (whole >> 5);
			real += f[i] * f[COUNT - 1 - i];
		}
		for (int k = 0; k < 4; k++) {
			sum = bench_mix(sum, (uint32_t)whole[k] + (uint64_t)real[k]);
		}
	}
	return sum;
}
