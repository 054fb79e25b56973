/*
 * Flags that the manuals leave undefined, on this host. An instruction that leaves some undefined is given the guest's
 * flags before it, so that they come out as in the interpreter, which executes the same instruction with the same
 * flags. Those must be kept for it, then, and brought back, though nobody sets store by AF behind a shift; and on most
 * hosts what comes out does not even depend on what was there. Each host is asked that once.
 */
#include "jit/internal.h"

#include <x86intrin.h>

/* The flags behind `instruction`, with RAX = `a`, RCX = 37, and `before` as the flags before it. */
#define EXECUTE(name, instruction)                                                                                     \
	static u64 name(u64 a, u64 before)                                                                             \
	{                                                                                                              \
		u64 flags;                                                                                             \
		/* The caller's red zone lies where PUSH writes. */                                                    \
		asm("lea -128(%%rsp), %%rsp\n\t"                                                                       \
		    "push %[before]\n\tpopf\n\t" instruction "\n\tpushf\n\tpop %[flags]\n\t"                           \
		    "lea 128(%%rsp), %%rsp"                                                                            \
		    : [flags] "=&r"(flags), "+a"(a)                                                                    \
		    : [before] "r"(before), "c"(37UL)                                                                  \
		    : "rdx", "cc", "memory");                                                                          \
		return flags;                                                                                          \
	}

EXECUTE(shl, "shl $3, %%eax")
EXECUTE(shl_wide, "shl $35, %%rax")
EXECUTE(shr, "shr $3, %%eax")
EXECUTE(shr_wide, "shr $35, %%rax")
EXECUTE(shr_byte, "shr $3, %%al")
EXECUTE(sar, "sar $3, %%eax")
EXECUTE(sar_wide, "sar $35, %%rax")
EXECUTE(shld, "shld $3, %%rcx, %%rax")
EXECUTE(shrd, "shrd $3, %%rcx, %%rax")
EXECUTE(imul, "imul %%ecx, %%eax")
EXECUTE(imul_wide, "imul %%rcx, %%rax")
EXECUTE(imul_immediate, "imul $77, %%rcx, %%rax")
EXECUTE(mul, "mul %%rcx")
EXECUTE(bsf, "bsf %%rax, %%rax")
EXECUTE(bsr, "bsr %%rax, %%rax")

static const struct {
	u64 (*execute)(u64 a, u64 before);
	u32 bit;
} rows[] = {
	{ shl, HOST_SETTLES_SHIFTS },         { shl_wide, HOST_SETTLES_SHIFTS },
	{ shr, HOST_SETTLES_SHIFTS },         { shr_wide, HOST_SETTLES_SHIFTS },
	{ shr_byte, HOST_SETTLES_SHIFTS },    { sar, HOST_SETTLES_SHIFTS },
	{ sar_wide, HOST_SETTLES_SHIFTS },    { shld, HOST_SETTLES_SHIFTS },
	{ shrd, HOST_SETTLES_SHIFTS },        { imul, HOST_SETTLES_PRODUCTS },
	{ imul_wide, HOST_SETTLES_PRODUCTS }, { imul_immediate, HOST_SETTLES_PRODUCTS },
	{ mul, HOST_SETTLES_PRODUCTS },       { bsf, HOST_SETTLES_SCANS },
	{ bsr, HOST_SETTLES_SCANS },
};

static bool depends(u64 (*execute)(u64 a, u64 before))
{
	static const u64 values[] = {
		0, 1, 8, 0x80, 0xff, 0x7fffffff, 0x80000000, ~0ULL, 1ULL << 63, 0x5a5a5a5a12345678
	};
	u64 others = __readeflags() & ~(u64)RFLAGS_ARITH;
	for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
		u64 clear = execute(values[i], others);
		for (u64 flag = 1; flag <= RFLAGS_OF; flag <<= 1)
			if (flag & RFLAGS_ARITH && (execute(values[i], others | flag) ^ clear) & RFLAGS_ARITH)
				return true;
		if ((execute(values[i], others | RFLAGS_ARITH) ^ clear) & RFLAGS_ARITH)
			return true;
	}
	return false;
}

u32 jit_settled_flags(void)
{
	u32 settled = HOST_SETTLES_SHIFTS | HOST_SETTLES_PRODUCTS | HOST_SETTLES_SCANS;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		if (depends(rows[i].execute))
			settled &= ~rows[i].bit;
	return settled;
}

bool jit_settles_flags(const struct jit *jit, ZydisMnemonic m)
{
	if (jit_is_shift(m))
		return jit->host & HOST_SETTLES_SHIFTS;
	switch (m) {
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_MUL:
		return jit->host & HOST_SETTLES_PRODUCTS;
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
		return jit->host & HOST_SETTLES_SCANS;
	/* No processor lets their AF depend on what it was. */
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_TEST:
		return true;
	default:
		return false;
	}
}
