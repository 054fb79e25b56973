/* Whole programs of branches and calls: a byte-code interpreter, queens, recursive calls. */
#include "bench.h"

enum op { OP_PUSH, OP_ADD, OP_MUL, OP_XOR, OP_DUP, OP_SWAP, OP_JUMP_IF, OP_STORE, OP_LOAD, OP_HALT };

/* A stack machine runs a loop of 10000 rounds: acc = acc * 31 ^ i. */
static uint64_t interpret(const int64_t *code)
{
	uint64_t stack[16], *top = stack, cells[4] = { 0 };
	const int64_t *pc = code;

	for (;;) {
		switch ((enum op) * pc++) {
		case OP_PUSH:
			*top++ = *pc++;
			break;
		case OP_ADD:
			top--;
			top[-1] += top[0];
			break;
		case OP_MUL:
			top--;
			top[-1] *= top[0];
			break;
		case OP_XOR:
			top--;
			top[-1] ^= top[0];
			break;
		case OP_DUP:
			*top = top[-1];
			top++;
			break;
		case OP_SWAP: {
			uint64_t t = top[-1];

			top[-1] = top[-2];
			top[-2] = t;
			break;
		}
		case OP_JUMP_IF:
			pc = *--top ? code + *pc : pc + 1;
			break;
		case OP_STORE:
			cells[*pc++] = *--top;
			break;
		case OP_LOAD:
			*top++ = cells[*pc++];
			break;
		case OP_HALT:
			return cells[1];
		}
	}
}

uint64_t bench_interpreter(uint64_t n)
{
	static const int64_t code[] = {
		OP_PUSH,  10000,    OP_STORE, 0,                  /* i = 10000 */
		OP_PUSH,  31,       OP_LOAD,  1,          OP_MUL, /* 4: acc * 31 */
		OP_LOAD,  0,        OP_SWAP,  OP_XOR,             /* ^ i */
		OP_STORE, 1,                                      /* acc = */
		OP_LOAD,  0,        OP_PUSH,  -1,         OP_ADD, /* i - 1 */
		OP_DUP,   OP_STORE, 0,        OP_JUMP_IF, 4,      OP_HALT,
	};
	uint64_t sum = 0;

	while (n--) {
		sum = bench_mix(sum, interpret(code));
	}
	return sum;
}

static uint64_t place(uint32_t all, uint32_t columns, uint32_t left, uint32_t right)
{
	uint64_t found = columns == all;

	for (uint32_t free = all & ~(columns | left | right); free; free &= free - 1) {
		uint32_t bit = free & -free;

		found += place(all, columns | bit, (left | bit) << 1, (right | bit) >> 1);
	}
	return found;
}

/* How many ways n queens stand on an n x n board; n = 8: 92. */
uint64_t bench_queens(uint64_t n)
{
	return place((1u << n) - 1, 0, 0, 0);
}

/* The compiler would unroll several levels of recursion into one function; every call is to be a call. */
#ifdef __clang__
__attribute__((noinline)) static uint64_t fibonacci(uint64_t n)
#else
__attribute__((noinline, noclone, optimize("no-optimize-sibling-calls"))) static uint64_t fibonacci(uint64_t n)
#endif
{
	uint64_t (*volatile self)(uint64_t) = fibonacci;

	return n < 2 ? n : fibonacci(n - 1) + self(n - 2);
}

/* The nth Fibonacci number by two calls for each, one of them through a pointer. */
uint64_t bench_calls(uint64_t n)
{
	return fibonacci(n);
}
