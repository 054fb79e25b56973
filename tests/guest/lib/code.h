/* The smallest function that code which changes can be told by. */
#ifndef TESTS_GUEST_CODE_H
#define TESTS_GUEST_CODE_H

#include "guest.h"

/* mov $value, %eax; ret */
static inline void put_function(u8 *at, u32 value)
{
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0xc3;
}

static inline u32 call(const void *at)
{
	u32 value;
	asm volatile("call *%1" : "=a"(value) : "r"(at) : "memory", "cc");
	return value;
}

#endif
