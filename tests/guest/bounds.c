/*
 * Memory protection extensions in 64-bit mode: CPUID, XCR0 and XSAVE's components 3 and 4, the instructions, #BR and
 * BNDSTATUS, what branches do to bounds, CPL 3. Without the feature (no --cpu-features=+mpx): that all of it is NOPs.
 */
#include "lib/guest.h"

enum { X87 = 1, SSE = 2, BNDREGS = 8, BNDCSR = 16, HEADER = 512, BOUND_REGISTERS = 960, BOUND_CSR = 1024 };
enum { EN = 1, PRESERVE = 2 };

#define CR4_OSXSAVE   BIT(18)
#define MSR_BNDCFGS   0xd90
#define NON_CANONICAL BIT(56) /* with five levels too */

u8 area[2048] ALIGNED(64);
/* The directory's first page is for pointers that lie in the first 512 MiB: one table for each MiB. */
static u64 directory[512] ALIGNED(4096);
static u8 table[4 << 20] ALIGNED(4096);

struct bounds {
	u64 lower, upper; /* the latter in ones' complement */
};
static struct bounds bounds;

static word xsetbv(u64 value)
{
	return TRY("xsetbv", : : "a"((u32)value), "d"(value >> 32), "c"(0) : "memory");
}

static void xsave(u32 components)
{
	asm volatile("xsave %0" : "+m"(area) : "a"(components), "d"(0) : "memory");
}

static void xrstor(u32 components)
{
	asm volatile("xrstor %0" : : "m"(area), "a"(components), "d"(0) : "memory");
}

static u64 *csr(void)
{
	return (u64 *)(area + BOUND_CSR);
}

static u64 status(void)
{
	xsave(BNDCSR);
	return csr()[1];
}

/* BNDCFGU, with BNDSTATUS 0. */
static void set_user_config(u64 value)
{
	memset(area, 0, sizeof(area));
	*(u64 *)(area + HEADER) = BNDCSR;
	csr()[0] = value;
	xrstor(BNDCSR);
}

/* Bounds 1000h to 2000h in BND1, and none in the others. */
#define MAKE  "bndmk (%%rdi,%%rsi), %%bnd1;"
#define RANGE "D"(0x1000ULL), "S"(0x1000ULL)

static void test_without(void)
{
	u64 value = 5;
	CHECK_EQUAL("xcr0-without-mpx-has-no-bounds", xsetbv(X87 | BNDREGS | BNDCSR), GP);
	CHECK_EQUAL("there-is-no-bndcfgs", TRY("rdmsr", : : "c"(MSR_BNDCFGS) : "rax", "rdx"), GP);
	CHECK_EQUAL("the-opcodes-are-nops",
		    TRY(MAKE "bndcl %0, %%bnd1; bndmov (%0), %%bnd0; bndldx (%0), %%bnd0",
			:
			: "r"(value), RANGE
			: "memory"),
		    NO_FAULT);
}

static void test_enabling(void)
{
	u32 r[4];
	cpuid(0xd, 0, r);
	CHECK_EQUAL("xsave-has-components-3-and-4", r[0] & (BNDREGS | BNDCSR), BNDREGS | BNDCSR);
	CHECK("its-area-is-for-them-too", r[2] >= BOUND_CSR + 64);
	cpuid(0xd, 3, r);
	CHECK("component-3-is-64-bytes-at-960", r[0] == 64 && r[1] == BOUND_REGISTERS);
	cpuid(0xd, 4, r);
	CHECK("component-4-is-64-bytes-at-1024", r[0] == 64 && r[1] == BOUND_CSR);
	cpuid(0xd, 9, r);
	CHECK("pkru-comes-behind-them", !r[0] || r[1] == BOUND_CSR + 64);
	CHECK_EQUAL("one-without-the-other-is-gp", xsetbv(X87 | SSE | BNDREGS), GP);
	CHECK_EQUAL("bndcfgs-is-0-after-reset", rdmsr(MSR_BNDCFGS), 0);
	wrmsr(MSR_BNDCFGS, EN | PRESERVE);
	CHECK_EQUAL("without-xcr0-bndcl-is-a-nop", TRY(MAKE "bndcl %0, %%bnd1", : : "r"(5ULL), RANGE), NO_FAULT);
	CHECK_EQUAL("both-together-are-fine", xsetbv(X87 | SSE | BNDREGS | BNDCSR), NO_FAULT);
	cpuid(0xd, 0, r);
	CHECK_EQUAL("the-area-in-use-grows", r[1], BOUND_CSR + 64);
	CHECK_EQUAL("then-bndcl-checks", TRY(MAKE "bndcl %0, %%bnd1", : : "r"(5ULL), RANGE), BR);
	wrmsr(MSR_BNDCFGS, PRESERVE);
	CHECK_EQUAL("without-en-it-is-a-nop", TRY("bndcl %0, %%bnd1", : : "r"(5ULL)), NO_FAULT);
	CHECK_EQUAL("reserved-bits-of-bndcfgs-are-gp", TRY("wrmsr", : : "c"(MSR_BNDCFGS), "a"(4), "d"(0)), GP);
	CHECK_EQUAL("so-is-an-address-that-is-not-canonical",
		    TRY("wrmsr",
			:
			: "c"(MSR_BNDCFGS), "a"(0), "d"(NON_CANONICAL >> 32)),
		    GP);
	wrmsr(MSR_BNDCFGS, (u64)directory | EN | PRESERVE);
}

static void test_checks(void)
{
	asm volatile(MAKE "bndmov %%bnd1, %0" : "=m"(bounds) : RANGE);
	CHECK_EQUAL("lower-bound-is-the-base", bounds.lower, 0x1000);
	CHECK_EQUAL("upper-bound-is-the-address", ~bounds.upper, 0x2000);
	asm volatile("bndmk 0x50(,%%rsi,2), %%bnd1; bndmov %%bnd1, %0" : "=m"(bounds) : RANGE);
	CHECK("without-base-the-lower-one-is-0", bounds.lower == 0 && ~bounds.upper == 0x2050);
	CHECK_EQUAL("bndcl-lets-the-bound-pass", TRY(MAKE "bndcl %0, %%bnd1", : : "r"(0x1000ULL), RANGE), NO_FAULT);
	CHECK_EQUAL("and-nothing-below", TRY_AT("bndcl %0, %%bnd1", : : "r"(0xfffULL)), BR);
	CHECK("the-fault-is-at-the-instruction", is_fault(BR, 0));
	CHECK_EQUAL("bndstatus-is-1", status(), 1);
	CHECK_EQUAL("bndcu-lets-the-bound-pass", TRY("bndcu %0, %%bnd1", : : "r"(0x2000ULL)), NO_FAULT);
	CHECK_EQUAL("and-nothing-above", TRY("bndcu %0, %%bnd1", : : "r"(0x2001ULL)), BR);
	CHECK_EQUAL("nor-high-addresses", TRY("bndcu %0, %%bnd1", : : "r"(~0ULL)), BR);
	CHECK_EQUAL("bndcn-compares-the-register-as-it-is", TRY("bndcn %0, %%bnd1", : : "r"(~0x2000ULL)), NO_FAULT);
	CHECK_EQUAL("whatever-that-is", TRY("bndcn %0, %%bnd1", : : "r"(~0x1fffULL)), BR);
	CHECK_EQUAL("addresses-are-checked-too", TRY("bndcl -1(%0), %%bnd1", : : "r"(0x1000ULL)), BR);
	CHECK_EQUAL("and-not-accessed", TRY("bndcl (%0,%0), %%bnd1", : : "r"(NON_CANONICAL)), NO_FAULT);
	CHECK_EQUAL("67h-means-nothing", TRY(".byte 0x67; bndcu (%0), %%bnd1", : : "r"(BIT(32))), BR);
	CHECK_EQUAL("initial-bounds-let-everything-pass",
		    TRY("bndcl %0, %%bnd0; bndcu %1, %%bnd0",
			:
			: "r"(0ULL), "r"(~0ULL)),
		    NO_FAULT);
	CHECK_EQUAL("bnd4-is-ud", TRY(".byte 0xf3, 0x44, 0x0f, 0x1a, 0xc0", : : : "memory"), UD);
	CHECK_EQUAL("lock-is-ud", TRY(".byte 0xf0, 0xf3, 0x0f, 0x1a, 0x00", : : "a"(table)), UD);
	CHECK_EQUAL("bndmk-of-rip-is-ud", TRY(".byte 0xf3, 0x0f, 0x1b, 5, 0, 0, 0, 0", : : : "memory"), UD);
	CHECK_EQUAL("bndmk-of-a-register-is-a-nop", TRY(".byte 0xf3, 0x0f, 0x1b, 0xc8", : : : "memory"), NO_FAULT);
}

static void test_moves(void)
{
	const struct bounds from = { 0x1111, 0x2222 };
	asm volatile("bndmov %1, %%bnd2; bndmov %%bnd2, %%bnd3; bndmov %%bnd3, %0" : "=m"(bounds) : "m"(from));
	CHECK("bndmov-moves-both", bounds.lower == 0x1111 && bounds.upper == 0x2222);
	CHECK_EQUAL("bndmov-accesses-memory", TRY("bndmov (%0), %%bnd2", : : "r"(NON_CANONICAL)), GP);
	asm volatile("bndmov %%bnd2, %0" : "=m"(bounds));
	CHECK_EQUAL("and-its-fault-changes-nothing", bounds.lower, 0x1111);
}

/* --- tables --- */

#define POINTER ((u64 *)0x212348) /* where a pointer lies: MiB 2, and byte 12348h in it */
enum { PLACE_MIB = 2, PLACE_ENTRY = 0x12348 / 8 };

static void test_tables(void)
{
	u64 *entry = (u64 *)table + 4 * PLACE_ENTRY;
	u64 value = 0x1800, at = (u64)&directory[PLACE_MIB];
	CHECK_EQUAL("bndstx-without-table-is-br",
		    TRY(MAKE "bndstx %%bnd1, (%0,%1)",
			:
			: "r"(POINTER), "r"(value), RANGE
			: "memory"),
		    BR);
	CHECK_EQUAL("bndstatus-is-the-directorys-entry", status(), at | 2);
	CHECK_EQUAL("bndldx-without-table-too", TRY("bndldx (%0,%1), %%bnd0", : : "r"(POINTER), "r"(value)), BR);
	directory[PLACE_MIB] = (u64)table | 1;
	CHECK_EQUAL("bndstx-stores",
		    TRY(MAKE "bndstx %%bnd1, (%0,%1)",
			:
			: "r"(POINTER), "r"(value), RANGE
			: "memory"),
		    NO_FAULT);
	CHECK("bounds-and-the-pointer", entry[0] == 0x1000 && ~entry[1] == 0x2000 && entry[2] == value);
	CHECK_EQUAL("and-nothing-else", entry[3], 0);
	asm volatile("bndldx 0x48(%1,%2), %%bnd0; bndmov %%bnd0, %0"
		     : "=m"(bounds)
		     : "r"((u8 *)POINTER - 0x48), "r"(value));
	CHECK("bndldx-loads-them", bounds.lower == 0x1000 && ~bounds.upper == 0x2000);
	asm volatile("bndldx (%1,%2), %%bnd0; bndmov %%bnd0, %0" : "=m"(bounds) : "r"(POINTER), "r"(value + 1));
	CHECK("of-another-pointer-initial-ones", bounds.lower == 0 && bounds.upper == 0);
	CHECK_EQUAL("bndldx-of-rip-is-ud", TRY(".byte 0x0f, 0x1a, 5, 0, 0, 0, 0", : : : "memory"), UD);
	CHECK_EQUAL("bndldx-of-a-register-is-a-nop", TRY(".byte 0x0f, 0x1a, 0xc8", : : : "memory"), NO_FAULT);
	directory[PLACE_MIB] = NON_CANONICAL | 1;
	CHECK_EQUAL("a-table-that-is-not-canonical-is-gp", TRY("bndldx (%0), %%bnd0", : : "r"(POINTER)), GP);
	directory[PLACE_MIB] = 0;
}

/* --- branches --- */

/* Is BND1 as it was behind `branch`? */
#define KEEPS(branch)                                                                                                  \
	({                                                                                                             \
		asm volatile(MAKE branch "; bndmov %%bnd1, %0" : "=m"(bounds) : RANGE : "rcx", "memory", "cc");        \
		bounds.lower == 0x1000;                                                                                \
	})
#define LONG_JUMP ".byte 0xe9, 0, 0, 0, 0"

static void test_branches(void)
{
	CHECK("with-preserve-jmp-keeps-bounds", KEEPS(LONG_JUMP));
	/* From here on the compiler's own branches lose them. */
	wrmsr(MSR_BNDCFGS, (u64)directory | EN);
	CHECK("jmp-takes-them-back", !KEEPS(LONG_JUMP));
	CHECK("bnd-jmp-keeps-them", KEEPS(".byte 0xf2; " LONG_JUMP));
	CHECK("short-jmp-keeps-them", KEEPS(".byte 0xeb, 0"));
	CHECK("indirect-jmp-takes-them-back", !KEEPS("lea 1f(%%rip), %%rcx; jmp *%%rcx; 1:"));
	CHECK("bnd-indirect-jmp-keeps-them", KEEPS("lea 1f(%%rip), %%rcx; bnd jmp *%%rcx; 1:"));
	CHECK("jcc-takes-them-back", !KEEPS("xor %%ecx, %%ecx; jz 1f; 1:"));
	CHECK("even-if-it-does-not-jump", !KEEPS("xor %%ecx, %%ecx; jnz 1f; 1:"));
	CHECK("bnd-jcc-keeps-them", KEEPS("xor %%ecx, %%ecx; bnd jz 1f; 1:"));
	CHECK("jrcxz-keeps-them", KEEPS("xor %%ecx, %%ecx; jrcxz 1f; 1:"));
	CHECK("loop-keeps-them", KEEPS("mov $3, %%ecx; 1: loop 1b"));
	CHECK("call-takes-them-back", !KEEPS("call 1f; 1: lea 8(%%rsp), %%rsp"));
	CHECK("bnd-call-keeps-them", KEEPS("bnd call 1f; 1: lea 8(%%rsp), %%rsp"));
	CHECK("ret-takes-them-back", !KEEPS("lea 1f(%%rip), %%rcx; push %%rcx; ret; 1:"));
	CHECK("bnd-ret-keeps-them", KEEPS("lea 1f(%%rip), %%rcx; push %%rcx; bnd ret; 1:"));
	wrmsr(MSR_BNDCFGS, (u64)directory | EN | PRESERVE);
}

/* --- XSAVE --- */

static void test_xsave(void)
{
	struct bounds *saved = (struct bounds *)(area + BOUND_REGISTERS);
	u64 *header = (u64 *)(area + HEADER);
	memset(area, 0, sizeof(area));
	asm volatile(MAKE : : RANGE);
	xsave(BNDREGS);
	CHECK("xsave-saves-bounds", saved[1].lower == 0x1000 && ~saved[1].upper == 0x2000);
	CHECK_EQUAL("they-are-in-use", header[0], BNDREGS);
	saved[1].lower = 0x77;
	xrstor(BNDREGS);
	asm volatile("bndmov %%bnd1, %0" : "=m"(bounds));
	CHECK_EQUAL("xrstor-restores-them", bounds.lower, 0x77);
	header[0] = 0;
	xrstor(BNDREGS);
	asm volatile("bndmov %%bnd1, %0" : "=m"(bounds));
	CHECK("or-makes-them-initial", !(bounds.lower | bounds.upper));
	set_user_config(0x1ffc | NON_CANONICAL);
	memset(area, 0, sizeof(area));
	xsave(BNDREGS | BNDCSR);
	CHECK_EQUAL("bndcfgu-keeps-what-is-defined", csr()[0], 0xff00000000001000);
	CHECK_EQUAL("bounds-are-not-in-use-then", header[0], BNDCSR);
	set_user_config(0);
	asm volatile(MAKE : : RANGE);
	memset(area, 0, sizeof(area));
	asm volatile("xsavec %0" : "+m"(area) : "a"(BNDREGS | BNDCSR), "d"(0) : "memory");
	CHECK("xsavec-packs-them", header[1] == (BIT(63) | BNDREGS | BNDCSR) && header[0] == BNDREGS);
	CHECK_EQUAL("behind-the-header", ((u64 *)(area + 576))[2], 0x1000);
	((u64 *)(area + 576))[2] = 0x88;
	xrstor(BNDREGS | BNDCSR);
	asm volatile("bndmov %%bnd1, %0" : "=m"(bounds));
	CHECK_EQUAL("xrstor-unpacks-them", bounds.lower, 0x88);
}

/* --- CPL 3 --- */

/* The last enables the extension itself, right before it uses it. */
asm(".text\n"
    "user_check: mov $0x1000, %edi; bndmk (%rdi), %bnd1; mov $0xfff, %eax; bndcl %rax, %bnd1; int $0x80\n"
    "user_enable: mov $0x1000, %edi; mov $16, %eax; xor %edx, %edx; xrstor area; bndmk (%rdi), %bnd1; bndcl -1(%rdi), "
    "%bnd1;"
    "int $0x80\n");
extern void user_check(void), user_enable(void);

static void test_user(void)
{
	set_user_config(0);
	CHECK_EQUAL("bndcfgs-is-not-for-cpl-3", run_user(user_check), 0x80);
	set_user_config(EN | PRESERVE);
	CHECK_EQUAL("bndcfgu-is", run_user(user_check), BR);
	wrmsr(MSR_BNDCFGS, 0);
	CHECK_EQUAL("and-not-for-cpl-0", TRY(MAKE "bndcl %0, %%bnd1", : : "r"(5ULL), RANGE), NO_FAULT);
	CHECK_EQUAL("whatever-the-other-says", run_user(user_check), BR);
	set_user_config(0);
	csr()[0] = EN | PRESERVE;
	CHECK_EQUAL("xrstor-at-cpl-3-enables-at-once", run_user(user_enable), BR);
}

void guest_main(void)
{
	u32 r[4];
	open_to_user();
	write_cr4(read_cr4() | CR4_OSXSAVE);
	cpuid(7, 0, r);
	if (!(r[1] & BIT(14))) {
		test_without();
		return;
	}
	test_enabling();
	test_checks();
	test_moves();
	test_tables();
	test_branches();
	test_xsave();
	test_user();
}
