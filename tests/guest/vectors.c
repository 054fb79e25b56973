/*
 * Vector instructions in the midst of other code: faults at just that instruction, with everything before it done and
 * nothing of it; registers that outlive handlers, faults and interrupts; MXCSR; upper halves.
 *
 * Each piece runs often, so that a translation of it is what is tested.
 */
#include "lib/guest.h"

enum { CR0_TS = BIT(3), CR4_OSFXSR = BIT(9), CR4_OSXMMEXCPT = BIT(10), CR4_OSXSAVE = BIT(18), XCR0_ALL = 7 };
enum { MXCSR_DEFAULT = 0x1f80, MXCSR_ZE = 0x04, MXCSR_PE = 0x20, MXCSR_ZM = 0x200, MXCSR_ROUND_UP = 0x4000 };
enum { TIMES = 20 };
enum { LAPIC_EOI = 0xb0, LAPIC_SVR = 0xf0, LAPIC_ICR = 0x300, SELF_FIXED = 0x40000, VECTOR = 0x90 };

static volatile u32 *const lapic = (volatile u32 *)0xfee00000;

struct state {
	u8 ymm[16][32];
};

static bool has_avx;
static struct state pattern ALIGNED(32), found ALIGNED(32);
static u8 page[3 * 4096] ALIGNED(4096);

static void load_mxcsr(u32 v)
{
	asm volatile("ldmxcsr %0" : : "m"(v));
}

static u32 read_mxcsr(void)
{
	u32 v;
	asm volatile("stmxcsr %0" : "=m"(v));
	return v;
}

static void xsetbv(u64 value)
{
	asm volatile("xsetbv" : : "c"(0), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

/* --- all registers at once --- */

#define EACH(X)      X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD_XMM(n)  "movups 32*" #n "(%%rsi), %%xmm" #n "\n\t"
#define LOAD_YMM(n)  "vmovups 32*" #n "(%%rsi), %%ymm" #n "\n\t"
#define STORE_XMM(n) "movups %%xmm" #n ", 32*" #n "(%%rdi)\n\t"
#define STORE_YMM(n) "vmovups %%ymm" #n ", 32*" #n "(%%rdi)\n\t"

/* Loads the pattern, runs the code, stores what is there: all in one block but for what the code does. */
#define AMONG(code, ...)                                                                                               \
	do {                                                                                                           \
		if (has_avx)                                                                                           \
			asm volatile(EACH(LOAD_YMM) code "\n\t" EACH(STORE_YMM)                                        \
				     :                                                                                 \
				     : "S"(&pattern), "D"(&found), ##__VA_ARGS__                                       \
				     : "memory", "rax");                                                               \
		else                                                                                                   \
			asm volatile(EACH(LOAD_XMM) code "\n\t" EACH(STORE_XMM)                                        \
				     :                                                                                 \
				     : "S"(&pattern), "D"(&found), ##__VA_ARGS__                                       \
				     : "memory", "rax");                                                               \
	} while (0)

static void fill_pattern(void)
{
	for (unsigned i = 0; i < sizeof pattern; i++)
		((u8 *)&pattern)[i] = (u8)(i * 37 + i / 32 + 1);
}

static bool kept(void)
{
	for (unsigned n = 0; n < 16; n++)
		if (memcmp(found.ymm[n], pattern.ymm[n], has_avx ? 32 : 16))
			return false;
	return true;
}

static void test_registers_survive(void)
{
	bool handler = true, fault_kept = true, device = true;
	for (unsigned i = 0; i < TIMES; i++) {
		/* XLAT and a far look at a segment call handlers; no block ends there. */
		memset(&found, 0, sizeof found);
		AMONG("xlat; lsl %%edx, %%eax; pushf; pop %%rax", "b"(&page), "d"(DATA));
		handler &= kept();
		memset(&found, 0, sizeof found);
		AMONG("movq $97f, fault(%%rip); movq %%rsp, fault+8(%%rip); mov (%%rbx), %%rax; 97:",
		      "b"(0x8000000000000000));
		fault_kept &= kept() && fault.vector == GP;
		memset(&found, 0, sizeof found);
		AMONG("mov 0x30(%%rbx), %%eax", "b"(lapic));
		device &= kept();
	}
	fault.resume = 0;
	CHECK("registers-survive-handlers", handler);
	CHECK("registers-survive-faults", fault_kept);
	CHECK("registers-survive-device-access", device);
}

static volatile unsigned interrupts;

/* A kernel that saves what it uses, and uses it. */
static void on_interrupt(struct frame *f)
{
	static u8 saved[16];
	interrupts++;
	asm volatile("movups %%xmm3, %0; pcmpeqd %%xmm3, %%xmm3; paddd %%xmm3, %%xmm3; movups %1, %%xmm3"
		     : "=m"(saved)
		     : "m"(saved));
	lapic[LAPIC_EOI / 4] = 0;
}

static void test_interrupts(void)
{
	bool good = true;
	handlers[VECTOR] = on_interrupt;
	lapic[LAPIC_SVR / 4] = 0x1ff;
	irq_enable();
	for (unsigned i = 0; i < TIMES; i++) {
		memset(&found, 0, sizeof found);
		AMONG("movl %%ecx, (%%rbx); mov $50, %%eax; 1: paddq %%xmm3, %%xmm3; psubq %%xmm3, %%xmm3; "
		      "por 96(%%rsi), %%xmm3; dec %%eax; jnz 1b",
		      "b"(lapic + LAPIC_ICR / 4), "c"(SELF_FIXED | VECTOR));
		good &= !memcmp(found.ymm[3], pattern.ymm[3], 16) && !memcmp(found.ymm[4], pattern.ymm[4], 16);
	}
	irq_disable();
	CHECK("interrupts-came", interrupts == TIMES);
	CHECK("registers-survive-interrupts", good);
}

/* --- faults of the instruction itself --- */

/* Adds 1 to `before`, runs the instruction, adds 1 to `after`. */
#define PRECISELY(instruction, ...)                                                                                    \
	TRY("incl %[before]\n\t" TRY_MARK instruction "\n\tincl %[after]",                                             \
	    : [before] "+m"(before), [after] "+m"(after)                                                               \
	    : __VA_ARGS__                                                                                              \
	    : "memory")

static unsigned before, after;

static __attribute__((noinline)) word legacy_add(void)
{
	return PRECISELY("addps %%xmm1, %%xmm0", "m"(page));
}

static __attribute__((noinline)) word vex_add(void)
{
	return PRECISELY("vaddps %%xmm1, %%xmm2, %%xmm0", "m"(page));
}

static __attribute__((noinline)) word add_memory(const void *at)
{
	return PRECISELY("paddd (%%rbx), %%xmm0", "b"(at));
}

static __attribute__((noinline)) word store_aligned(void *at)
{
	return PRECISELY("movaps %%xmm5, (%%rbx)", "b"(at));
}

static __attribute__((noinline)) word divide(void)
{
	return PRECISELY("divps %%xmm1, %%xmm0", "m"(page));
}

static bool works(word (*code)(void))
{
	bool good = true;
	for (unsigned i = 0; i < TIMES; i++) {
		before = after = 0;
		good &= code() == NO_FAULT && before == 1 && after == 1;
	}
	return good;
}

static bool faults(word (*code)(void), word vector)
{
	before = after = 0;
	code();
	return is_fault(vector, 0) && before == 1 && after == 0;
}

static void test_unavailable(void)
{
	CHECK("sse-works", works(legacy_add));
	write_cr0(read_cr0() | CR0_TS);
	CHECK("ts-is-nm-at-the-instruction", faults(legacy_add, NM));
	CHECK("ts-is-nm-each-time", faults(legacy_add, NM));
	asm volatile("clts");
	CHECK("sse-works-after-clts", works(legacy_add));
	write_cr4(read_cr4() & ~CR4_OSFXSR);
	CHECK("no-osfxsr-is-ud", faults(legacy_add, UD));
	write_cr4(read_cr4() | CR4_OSFXSR);
	write_cr0(read_cr0() | BIT(2));
	CHECK("em-is-ud", faults(legacy_add, UD));
	write_cr0(read_cr0() & ~BIT(2));
	CHECK("sse-works-again", works(legacy_add));
	if (!has_avx) {
		skip("vex", "no AVX");
		return;
	}
	CHECK("vex-works", works(vex_add));
	write_cr0(read_cr0() | CR0_TS);
	CHECK("ts-is-nm-for-vex", faults(vex_add, NM));
	asm volatile("clts");
	xsetbv(XCR0_ALL & ~4);
	CHECK("no-xcr0-avx-is-ud", faults(vex_add, UD));
	CHECK("sse-works-without-xcr0-avx", works(legacy_add));
	xsetbv(XCR0_ALL);
	write_cr4(read_cr4() & ~CR4_OSXSAVE);
	CHECK("no-osxsave-is-ud", faults(vex_add, UD));
	write_cr4(read_cr4() | CR4_OSXSAVE);
	CHECK("vex-works-again", works(vex_add));
}

static void test_alignment(void)
{
	bool good = true;
	for (unsigned i = 0; i < TIMES; i++)
		good &= add_memory(page) == NO_FAULT && store_aligned(page + 32) == NO_FAULT;
	CHECK("aligned-operands-work", good);
	before = after = 0;
	add_memory(page + 8);
	CHECK("misaligned-load-is-gp", is_fault(GP, 0) && before == 1 && after == 0);
	memset(page, 0xee, 64);
	before = after = 0;
	store_aligned(page + 20);
	CHECK("misaligned-store-is-gp", is_fault(GP, 0) && before == 1 && after == 0);
	CHECK("misaligned-store-stores-nothing", page[20] == 0xee && page[35] == 0xee);
	good = true;
	for (unsigned i = 0; i < TIMES; i++) {
		static u8 back[16];
		memset(page + 4080, 0, 32);
		asm volatile("movdqu (%%rsi), %%xmm0; movdqu %%xmm0, (%%rbx); pxor %%xmm0, %%xmm0; "
			     "movdqu (%%rbx), %%xmm0; movdqu %%xmm0, %0"
			     : "=m"(back)
			     : "S"(&pattern), "b"(page + 4087)
			     : "memory");
		good &= !memcmp(back, &pattern, 16) && !memcmp(page + 4087, &pattern, 16) && !page[4086];
	}
	CHECK("operands-across-pages-work", good);
}

static void test_exceptions(void)
{
	static const float ones[4] ALIGNED(16) = { 1, 1, 1, 1 }, divisor[4] ALIGNED(16) = { 3, 3, 0, 3 };
	static float result[4] ALIGNED(16);
	load_mxcsr(MXCSR_DEFAULT);
	asm volatile("movaps %0, %%xmm0; movaps %1, %%xmm1" : : "m"(ones), "m"(divisor));
	bool good = works(divide);
	CHECK("masked-exceptions-only-set-flags", good && read_mxcsr() == (MXCSR_DEFAULT | MXCSR_ZE | MXCSR_PE));
	load_mxcsr(MXCSR_DEFAULT & ~MXCSR_ZM);
	asm volatile("movaps %0, %%xmm0; movaps %1, %%xmm1" : : "m"(ones), "m"(divisor));
	CHECK("unmasked-exception-is-xm-at-the-instruction", faults(divide, XM));
	asm volatile("movaps %%xmm0, %0" : "=m"(result));
	CHECK("unmasked-exception-changes-no-register", !memcmp(result, ones, sizeof ones));
	CHECK("unmasked-exception-sets-its-flag", read_mxcsr() & MXCSR_ZE);
	write_cr4(read_cr4() & ~CR4_OSXMMEXCPT);
	CHECK("unmasked-exception-without-osxmmexcpt-is-ud", faults(divide, UD));
	write_cr4(read_cr4() | CR4_OSXMMEXCPT);
	load_mxcsr(MXCSR_DEFAULT);
}

static void test_mxcsr(void)
{
	static const double one = 1, three = 3;
	static u64 result[2];
	static u32 flags;
	bool good = true;
	for (unsigned i = 0; i < TIMES; i++) {
		u32 up = MXCSR_DEFAULT | MXCSR_ROUND_UP, near = MXCSR_DEFAULT;
		asm volatile("ldmxcsr %4; movsd %5, %%xmm0; divsd %6, %%xmm0; movsd %%xmm0, %0\n\t"
			     "ldmxcsr %3; movsd %5, %%xmm0; divsd %6, %%xmm0; stmxcsr %2; movsd %%xmm0, %1"
			     : "=m"(result[0]), "=m"(result[1]), "=m"(flags)
			     : "m"(near), "m"(up), "m"(one), "m"(three));
		good &= result[0] == 0x3fd5555555555556 && result[1] == 0x3fd5555555555555 &&
			flags == (MXCSR_DEFAULT | MXCSR_PE);
	}
	CHECK("rounding-and-flags-follow-mxcsr", good);
}

static void test_upper_halves(void)
{
	bool sse = true, vex = true, cleared = true;
	if (!has_avx) {
		skip("upper-halves", "no AVX");
		return;
	}
	for (unsigned i = 0; i < TIMES; i++) {
		AMONG("paddb %%xmm1, %%xmm0; xlat; paddb %%xmm1, %%xmm0; vpaddb %%xmm1, %%xmm0, %%xmm2", "b"(&page));
		sse &= !memcmp(found.ymm[0] + 16, pattern.ymm[0] + 16, 16) &&
		       found.ymm[0][5] == (u8)(pattern.ymm[0][5] + 2 * pattern.ymm[1][5]);
		vex &= found.ymm[2][5] == (u8)(pattern.ymm[0][5] + 3 * pattern.ymm[1][5]) && !found.ymm[2][16] &&
		       !found.ymm[2][31];
		AMONG("vzeroupper; xlat", "b"(&page));
		cleared &= !found.ymm[9][16] && !memcmp(found.ymm[9], pattern.ymm[9], 16);
		asm volatile("vzeroall");
	}
	CHECK("legacy-sse-keeps-upper-halves", sse);
	CHECK("vex-128-clears-upper-halves", vex);
	CHECK("vzeroupper-clears-upper-halves", cleared);
}

/* Neighbours in memory of which some must be aligned: which of them faults, if the base is off by 8? */
static u64 neighbours(u8 *at, bool aligned_first)
{
	u64 done = 0;
	if (aligned_first)
		TRY("movaps (%1), %%xmm0; inc %0; movups 24(%1), %%xmm1; inc %0; addps 16(%1), %%xmm0; inc %0;"
		    "movaps %%xmm0, 48(%1); inc %0",
		    : "+r"(done)
		    : "r"(at)
		    : "memory", "cc");
	else
		TRY("movups (%1), %%xmm0; inc %0; movaps 32(%1), %%xmm1; inc %0; mov 40(%1), %%rax; inc %0;"
		    "movaps %%xmm0, 48(%1); inc %0",
		    : "+r"(done)
		    : "r"(at)
		    : "rax", "memory", "cc");
	return done | (u64)fault.vector << 8;
}

static void test_aligned_neighbours(void)
{
	bool first = true, later = true;
	for (unsigned i = 0; i < 2 * TIMES; i++) {
		unsigned off = i % 5 == 4 ? 8 : 0;
		first &= neighbours(page + 64 + off, true) == (off ? GP << 8 : 4 | NO_FAULT << 8);
		later &= neighbours(page + 64 + off, false) == (off ? 1 | GP << 8 : 4 | NO_FAULT << 8);
	}
	CHECK("first-of-neighbours-must-be-aligned", first);
	CHECK("another-of-neighbours-must-be-aligned", later);
}

/* --- x87 --- */

static const u16 fcw_default = 0x37f, fcw_zero_divide = 0x37b, fcw_round_up = 0xb7f;

static __attribute__((noinline)) word x87_add(void)
{
	return PRECISELY("fadd %%st(1), %%st", "m"(page));
}

static __attribute__((noinline)) word x87_divide(void)
{
	return TRY("fninit; fldcw %1; fld1; fldz; incl %0\n\tfdivrp\n\tincl %0\n\t" TRY_MARK "fwait\n\tincl %0",
		   : "+m"(before)
		   : "m"(fcw_zero_divide)
		   : "memory");
}

/* 1 + 1/2 + ... + 1/n, and through memory, a device, an instruction that only a handler does. */
static u64 harmonic(u16 control, unsigned n)
{
	static u8 spilled[10];
	u64 result;
	u32 i = 1;
	asm volatile(
		"fninit; fldcw %[control]; fldz; 1: fld1; fildl %[i]; fdivrp; faddp; fstpt %[spilled]; "
		"fldt %[spilled]; xlat; incl %[i]; movl 0x30(%[lapic]), %%eax; cmp %[i], %[n]; jae 1b; fstpl %[result]"
		: [result] "=m"(result), [i] "+m"(i), [spilled] "=m"(spilled)
		: [control] "m"(control), [n] "r"(n), [lapic] "r"(lapic), "b"(page)
		: "rax", "memory");
	return result;
}

struct environment {
	u32 fcw, fsw, ftw, fip, fcs_fop, fdp, fds;
};

static void test_x87(void)
{
	static struct environment env;
	static const double three = 3;
	static double stored;
	static u16 status;
	u64 down = harmonic(fcw_default, 40), up = harmonic(fcw_round_up, 40);
	CHECK("x87-rounds-as-fcw-says", down == 0x40111d3a62eb0a6f && up == down + 1);
	bool good = true;
	for (unsigned i = 0; i < TIMES; i++) {
		word at;
		asm volatile("fninit; fldl %2; fld1; 97: faddl (%3); fnstcw (%4); fnstsw %%ax; fnstenv %0; lea "
			     "97b(%%rip), %1"
			     : "=m"(env), "=&r"(at)
			     : "m"(three), "r"(&three), "r"(&status)
			     : "rax", "memory");
		good &= env.fip == (u32)at && env.fdp == (u32)(word)&three && (env.fcs_fop >> 16 & 0x7f8) == 0x400 &&
			(env.fsw >> 11 & 7) == 6;
	}
	CHECK("x87-pointers-are-the-guests", good);
	good = true;
	for (unsigned i = 0; i < TIMES; i++) {
		before = 0;
		good &= x87_divide() == MF && is_fault(MF, 0) && before == 2;
	}
	CHECK("x87-error-is-mf-at-the-next-waiting-instruction", good);
	asm volatile("fninit; fld1; fld1");
	CHECK("x87-works", works(x87_add));
	write_cr0(read_cr0() | CR0_TS);
	CHECK("x87-with-ts-is-nm-at-the-instruction", faults(x87_add, NM));
	asm volatile("clts");
	CHECK("x87-works-after-clts", works(x87_add));
	good = true;
	for (unsigned i = 0; i < TIMES; i++) {
		before = after = 0;
		TRY("incl %[before]\n\tfldl %[three]\n\t" TRY_MARK "fstpl (%%rbx)\n\tincl %[after]",
		    : [before] "+m"(before), [after] "+m"(after)
		    : "b"(0x8000000000000000), [three] "m"(three)
		    : "memory");
		good &= is_fault(GP, 0) && before == 1 && after == 0;
		asm volatile("fstpl %0" : "=m"(stored));
		good &= *(u64 *)&stored == 0x4008000000000000;
	}
	CHECK("x87-store-that-faults-leaves-the-stack", good);
	asm volatile("fninit");
}

/* Time comes from C code, which has the host's registers for itself; guest registers that it may use stay, too. */
static void test_time(void)
{
	static const u32 four[4] = { 1, 2, 3, 4 };
	u64 wrong = 0, last = rdtsc();
	for (unsigned i = 0; i < TIMES; i++) {
		u64 c = i + 1, si = i + 2, di = i + 3, low, high;
		u32 sum[4];
		static double two;
		asm volatile(
			"fld1; movups %8, %%xmm1; mov %2, %%r14; mov %3, %%r8; rdtsc; movups %%xmm1, %%xmm2\n\t"
			"paddd %%xmm1, %%xmm2; fld1; faddp; fstpl %7; movups %%xmm2, %6; sub %%r14, %2; add %%r8, %2"
			: "=&a"(low), "=&d"(high), "+&c"(c), "+&S"(si), "+&D"(di), "+&b"(last), "=m"(sum), "=m"(two)
			: "m"(four)
			: "r14", "r8", "memory", "cc");
		u64 now = low | high << 32;
		wrong += low >> 32 || high >> 32 || now < last || c != i + 2 || si != i + 2 || di != i + 3;
		wrong += sum[0] != 2 || sum[1] != 4 || sum[2] != 6 || sum[3] != 8 || *(u64 *)&two != BIT(62);
		last = now;
	}
	CHECK_EQUAL("registers-pass-rdtsc", wrong, 0);
}

void guest_main(void)
{
	u32 r[4];
	cpuid(1, 0, r);
	has_avx = r[2] >> 28 & 1;
	write_cr4(read_cr4() | CR4_OSFXSR | CR4_OSXMMEXCPT | (r[2] >> 26 & 1 ? CR4_OSXSAVE : 0));
	if (has_avx)
		xsetbv(XCR0_ALL);
	asm volatile("fninit");
	load_mxcsr(MXCSR_DEFAULT);
	fill_pattern();
	test_registers_survive();
	test_interrupts();
	test_unavailable();
	test_alignment();
	test_aligned_neighbours();
	test_exceptions();
	test_mxcsr();
	test_upper_halves();
	test_x87();
	test_time();
	guest_exit();
}
