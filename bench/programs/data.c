/* Whole programs that move data about: sort, hash table, tree, matrix product, n-body. */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Quicksort of 64 Ki numbers, the middle one as pivot, written out so that the compiler, not libc, decides. */
static void quicksort(uint32_t *a, long low, long high)
{
	while (low < high) {
		uint32_t pivot = a[low + (high - low) / 2];
		long i = low, j = high;

		while (i <= j) {
			while (a[i] < pivot) {
				i++;
			}
			while (a[j] > pivot) {
				j--;
			}
			if (i <= j) {
				uint32_t t = a[i];

				a[i++] = a[j];
				a[j--] = t;
			}
		}
		quicksort(a, low, j);
		low = i;
	}
}

uint64_t bench_sort(uint64_t n)
{
	enum { COUNT = 1 << 16 };
	static uint32_t a[COUNT];
	uint64_t seed = 1, sum = 0;

	while (n--) {
		for (int i = 0; i < COUNT; i++) {
			a[i] = bench_random(&seed);
		}
		quicksort(a, 0, COUNT - 1);
		for (int i = 0; i < COUNT; i += 97) {
			sum = bench_mix(sum, a[i]);
		}
	}
	return sum;
}

/* Open addressing: 32 Ki insertions into 64 Ki places, then as many look-ups, half of which find nothing. */
uint64_t bench_hash(uint64_t n)
{
	enum { SLOTS = 1 << 16 };
	static uint64_t keys[SLOTS], values[SLOTS];
	uint64_t sum = 0;

	while (n--) {
		uint64_t seed = n + 1, found = 0;

		memset(keys, 0, sizeof(keys));
		for (int i = 0; i < SLOTS; i++) {
			uint64_t key = i < SLOTS / 2 ? bench_random(&seed) | 1 : 0;

			if (i == SLOTS / 2) {
				seed = n + 1;
			}
			if (i >= SLOTS / 2) {
				key = (bench_random(&seed) | 1) + (i & 1) * 2;
			}
			uint64_t slot = (key * 0x9e3779b97f4a7c15) >> 48;

			while (keys[slot] != 0 && keys[slot] != key) {
				slot = (slot + 1) % SLOTS;
			}
			if (i < SLOTS / 2) {
				keys[slot] = key;
				values[slot] = i;
			} else if (keys[slot] == key) {
				found += values[slot] + 1;
			}
		}
		sum = bench_mix(sum, found);
	}
	return sum;
}

struct node {
	struct node *child[2];
	uint32_t key;
};

static uint64_t depth_sum(const struct node *node, uint64_t depth)
{
	return node ? depth + depth_sum(node->child[0], depth + 1) + depth_sum(node->child[1], depth + 1) : 0;
}

static void tree_free(struct node *node)
{
	if (node) {
		tree_free(node->child[0]);
		tree_free(node->child[1]);
		free(node);
	}
}

/* An unbalanced binary search tree of 16 Ki allocated nodes, walked and freed. */
uint64_t bench_tree(uint64_t n)
{
	uint64_t seed = 7, sum = 0;

	while (n--) {
		struct node *root = NULL;

		for (int i = 0; i < 1 << 14; i++) {
			uint32_t key = bench_random(&seed);
			struct node **link = &root;

			while (*link && (*link)->key != key) {
				link = &(*link)->child[key > (*link)->key];
			}
			if (!*link) {
				*link = calloc(1, sizeof(**link));
				(*link)->key = key;
			}
		}
		sum = bench_mix(sum, depth_sum(root, 1));
		tree_free(root);
	}
	return sum;
}

/* 128 x 128 doubles; whole numbers, so that no order of adding can change the sum. */
uint64_t bench_matrix(uint64_t n)
{
	enum { SIDE = 128 };
	static double a[SIDE][SIDE], b[SIDE][SIDE], c[SIDE][SIDE];
	uint64_t sum = 0;

	while (n--) {
		for (int i = 0; i < SIDE * SIDE; i++) {
			(&a[0][0])[i] = (i + n) % 13;
			(&b[0][0])[i] = (i * 7 + n) % 11;
		}
		memset(c, 0, sizeof(c));
		for (int i = 0; i < SIDE; i++) {
			for (int k = 0; k < SIDE; k++) {
				for (int j = 0; j < SIDE; j++) {
					c[i][j] += a[i][k] * b[k][j];
				}
			}
		}
		for (int i = 0; i < SIDE; i++) {
			sum = bench_mix(sum, (uint64_t)c[i][(i * 5) % SIDE]);
		}
	}
	return sum;
}

/* Five bodies under gravity; the checksum is the exact bits of where they end. */
uint64_t bench_nbody(uint64_t n)
{
	enum { BODIES = 5 };
	static const double mass[BODIES] = { 40, 0.04, 0.01, 0.002, 0.002 };
	double at[BODIES][3], v[BODIES][3];
	uint64_t sum = 0, bits;

	for (int i = 0; i < BODIES; i++) {
		for (int k = 0; k < 3; k++) {
			at[i][k] = i * (k == 0 ? 5.0 : 0.25 * k);
			v[i][k] = i && k == 1 ? 2.5 / i : 0;
		}
	}
	while (n--) {
		for (int i = 0; i < BODIES; i++) {
			for (int j = i + 1; j < BODIES; j++) {
				double d[3], square = 0.01;

				for (int k = 0; k < 3; k++) {
					d[k] = at[i][k] - at[j][k];
					square += d[k] * d[k];
				}
				double pull = 0.001 / (square * sqrt(square));

				for (int k = 0; k < 3; k++) {
					v[i][k] -= d[k] * mass[j] * pull;
					v[j][k] += d[k] * mass[i] * pull;
				}
			}
		}
		for (int i = 0; i < BODIES; i++) {
			for (int k = 0; k < 3; k++) {
				at[i][k] += 0.001 * v[i][k];
			}
		}
	}
	for (int i = 0; i < BODIES; i++) {
		memcpy(&bits, &at[i][0], sizeof(bits));
		sum = bench_mix(sum, bits);
	}
	return sum;
}
