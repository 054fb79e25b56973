/*
 * Short integer names and the few macros every file uses.
 */
#ifndef STRATA_BASE_TYPES_H
#define STRATA_BASE_TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int8_t i8;
typedef int16_t i16;
typedef int32_t i32;
typedef int64_t i64;

#define likely(x)                     __builtin_expect(!!(x), 1)
#define unlikely(x)                   __builtin_expect(!!(x), 0)
#define ARRAY_SIZE(a)                 (sizeof(a) / sizeof((a)[0]))
#define NORETURN                      __attribute__((noreturn))
#define PRINTF_LIKE(f, a)             __attribute__((format(printf, f, a)))
#define container_of(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))

/* Bit n of a 64-bit word; bits hi..lo, inclusive, as a mask. */
#define BIT(n)       (1ULL << (n))
#define BITS(hi, lo) ((~0ULL >> (63 - (hi))) & (~0ULL << (lo)))

static inline u64 bits_get(u64 v, unsigned hi, unsigned lo)
{
	return (v & BITS(hi, lo)) >> lo;
}

/* Sign-extends the low `bits` bits of v. */
static inline u64 sign_extend(u64 v, unsigned bits)
{
	return (u64)((i64)(v << (64 - bits)) >> (64 - bits));
}

#endif
