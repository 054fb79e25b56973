/* Memory protection extensions in 32-bit mode: bounds of 32 bits, tables with smaller entries, BOUND beside them. */
#include "lib/guest.h"

enum { X87 = 1, SSE = 2, BNDREGS = 8, BNDCSR = 16, BOUND_CSR = 1024 };
enum { EN = 1, PRESERVE = 2 };

#define CR4_OSXSAVE BIT(18)
#define MSR_BNDCFGS 0xd90
#define MAKE        "bndmk (%%edi,%%esi), %%bnd1;"
#define RANGE       "D"(0x1000), "S"(0x1000)

static u8 area[2048] ALIGNED(64);
static u32 directory[1 << 20] ALIGNED(4096), table[1 << 12] ALIGNED(4096);

static u64 status(void)
{
	asm volatile("xsave %0" : "+m"(area) : "a"(BNDCSR), "d"(0) : "memory");
	return *(u64 *)(area + BOUND_CSR + 8);
}

static void test_checks(void)
{
	u32 bounds[3] = { 0, 0, 0x1234 };
	asm volatile(MAKE "bndmov %%bnd1, %0" : "=m"(bounds) : RANGE);
	CHECK("bounds-have-32-bits-in-memory", bounds[0] == 0x1000 && ~bounds[1] == 0x2000 && bounds[2] == 0x1234);
	CHECK_EQUAL("bndcl-lets-the-bound-pass", TRY(MAKE "bndcl %0, %%bnd1", : : "r"(0x1000), RANGE), NO_FAULT);
	CHECK_EQUAL("and-nothing-below", TRY("bndcl %0, %%bnd1", : : "r"(0xfff)), BR);
	CHECK_EQUAL("bndcu-lets-the-bound-pass", TRY("bndcu %0, %%bnd1", : : "r"(0x2000)), NO_FAULT);
	CHECK_EQUAL("and-nothing-above", TRY("bndcu %0, %%bnd1", : : "r"(0x2001)), BR);
	CHECK_EQUAL("initial-bounds-let-everything-pass", TRY("bndcu %0, %%bnd0", : : "r"(~0)), NO_FAULT);
	CHECK_EQUAL("16-bit-addresses-are-ud", TRY(".byte 0x67, 0xf3, 0x0f, 0x1a, 0x07", : : : "memory"), UD);
	CHECK_EQUAL("loaded-bounds-have-32-bits",
		    TRY("bndmov %0, %%bnd2; bndcu %1, %%bnd2",
			:
			: "m"(bounds), "r"(0x2000)),
		    NO_FAULT);
}

static void test_tables(void)
{
	enum { PLACE = 0x12348, VALUE = 0x1800 };
	u32 *entry = table + 4 * (PLACE % 4096 / 4), bounds[2];
	CHECK_EQUAL("bndstx-without-table-is-br",
		    TRY(MAKE "bndstx %%bnd1, (%0,%1)",
			:
			: "r"(PLACE), "r"(VALUE), RANGE
			: "memory"),
		    BR);
	CHECK_EQUAL("bndstatus-is-the-directorys-entry", status(), (u32)&directory[PLACE >> 12] | 2);
	directory[PLACE >> 12] = (u32)table | 1;
	CHECK_EQUAL("bndstx-stores",
		    TRY(MAKE "bndstx %%bnd1, (%0,%1)",
			:
			: "r"(PLACE), "r"(VALUE), RANGE
			: "memory"),
		    NO_FAULT);
	CHECK("bounds-and-the-pointer", entry[0] == 0x1000 && ~entry[1] == 0x2000 && entry[2] == VALUE);
	asm volatile("bndldx (%1,%2), %%bnd0; bndmov %%bnd0, %0" : "=m"(bounds) : "r"(PLACE), "r"(VALUE));
	CHECK("bndldx-loads-them", bounds[0] == 0x1000 && ~bounds[1] == 0x2000);
	asm volatile("bndldx (%1,%2), %%bnd0; bndmov %%bnd0, %0" : "=m"(bounds) : "r"(PLACE), "r"(VALUE + 1));
	CHECK("of-another-pointer-initial-ones", bounds[0] == 0 && bounds[1] == 0);
}

static void test_bound(void)
{
	static const int32_t pair[] = { 0, 5 };
	TRY(MAKE "bndcl %0, %%bnd1", : : "r"(0), RANGE);
	CHECK_EQUAL("bndcl-sets-bndstatus", status(), 1);
	CHECK_EQUAL("bound-is-br", TRY("bound %0, %1", : : "r"(6), "m"(pair)), BR);
	CHECK_EQUAL("and-clears-bndstatus", status(), 0);
}

void guest_main(void)
{
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[1] & BIT(14))) {
		skip("bounds-have-32-bits-in-memory", "not in CPUID");
		return;
	}
	write_cr4(read_cr4() | CR4_OSXSAVE);
	asm volatile("xsetbv" : : "a"(X87 | SSE | BNDREGS | BNDCSR), "d"(0), "c"(0) : "memory");
	wrmsr(MSR_BNDCFGS, (u32)directory | EN | PRESERVE);
	test_checks();
	test_tables();
	test_bound();
}
