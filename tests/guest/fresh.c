/*
 * Writes and runs new code all the time: more than a translator keeps. ROUNDS times over 4 MiB of small functions, each
 * run once a round at least, each time with another value.
 */
#include "lib/guest.h"

enum { FUNCTIONS = 64 << 10, STRIDE = 64, ROUNDS = 3 };
static u8 code[FUNCTIONS][STRIDE] ALIGNED(4096);

/* Reads by four registers, which says nothing of where the others point; mov $value, %eax; add %edi, %eax; ret. */
static void put_function(u8 *at, u32 value)
{
	static const u8 reads[] = { 0x38, 0x01, 0x38, 0x02, 0x38, 0x03, 0x38, 0x06 }; /* cmp %al, (%rcx) ... (%rsi) */
	memcpy(at, reads, sizeof reads);
	at += sizeof reads;
	at[0] = 0xb8;
	memcpy(at + 1, &value, 4);
	at[5] = 0x01;
	at[6] = 0xf8;
	at[7] = 0xc3;
}

static u32 call(const void *at, u32 argument)
{
	u32 value;
	asm volatile("call *%1" : "=a"(value) : "c"(at), "d"(at), "b"(at), "S"(at), "D"(argument) : "memory", "cc");
	return value;
}

void guest_main(void)
{
	u32 wrong = 0;
	for (u32 round = 0; round < ROUNDS; round++) {
		/* A page's functions are written before any runs, so that pages do not count as changing all the time.
		 */
		for (u32 i = 0; i < FUNCTIONS; i++) {
			if (i % (4096 / STRIDE) == 0)
				for (u32 n = i; n < i + 4096 / STRIDE; n++)
					put_function(code[n], n * 3 + round);
			for (u32 again = 0; again < 2; again++)
				wrong += call(code[i], again) != i * 3 + round + again;
		}
	}
	CHECK_EQUAL("new-code-runs-as-written", wrong, 0);
}
