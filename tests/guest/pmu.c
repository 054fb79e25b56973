/*
 * Performance counters as a guest of either vendor sees them: what exactly they count, by privilege; overflow and its
 * interrupt; RDPMC; registers.
 *
 * A counter counts the WRMSR that enables it, and not the one that disables it.
 */
#include "lib/guest.h"

enum { LAPIC_EOI = 0xb0, LAPIC_SVR = 0xf0, LAPIC_LVT_PERF = 0x340, LVT_NMI = 0x400, LVT_MASKED = 0x10000 };
enum { LAPIC_TIMER = 0x320, LAPIC_INITIAL = 0x380, LAPIC_DIVIDE = 0x3e0 };
enum {
	MSR_PMC0 = 0xc1,
	MSR_PERFEVTSEL0 = 0x186,
	MSR_DEBUGCTL = 0x1d9,
	MSR_FIXED_CTR0 = 0x309,
	MSR_CAPABILITIES = 0x345,
	MSR_FIXED_CTRL = 0x38d,
	MSR_GLOBAL_STATUS = 0x38e,
	MSR_GLOBAL_CTRL = 0x38f,
	MSR_OVF_CTRL = 0x390,
	MSR_A_PMC0 = 0x4c1
};
#define MSR_AMD_CTL0 0xc0010000u /* the oldest four: four selects, four counts */
#define MSR_AMD_CTR0 0xc0010004u
#define MSR_AMD_CORE 0xc0010200u /* all six: select and count by turns */

#define USER      BIT(16)
#define KERNEL    BIT(17)
#define INTERRUPT BIT(20)
#define ENABLE    BIT(22)
#define BOTH      (USER | KERNEL)
#define WIDTH     48
#define CR4_PCE   BIT(8)

static volatile u32 *const lapic = (volatile u32 *)0xfee00000;
static bool amd;
static u32 select0, count0; /* of counter 0, which the tests of both vendors use */
static u64 instructions = 0xc0, cycles = 0x3c, branches = 0xc4;

static volatile unsigned nmis, interrupts;
static volatile word interrupted_at, interrupted_bx;

static void on_nmi(struct frame *f)
{
	nmis++;
	interrupted_at = f->ip;
	interrupted_bx = f->bx;
}

static void on_interrupt(struct frame *f)
{
	interrupts++;
	interrupted_at = f->ip;
	lapic[LAPIC_EOI / 4] = 0;
}

static void set_lvt(u32 value)
{
	lapic[LAPIC_LVT_PERF / 4] = value;
}

static u32 get_lvt(void)
{
	return lapic[LAPIC_LVT_PERF / 4];
}

static u64 rdpmc(u32 index)
{
	u32 low, high;
	asm volatile("rdpmc" : "=a"(low), "=d"(high) : "c"(index));
	return low | (u64)high << 32;
}

/* Preset to overflow at the n-th event. */
static u64 minus(u64 n)
{
	return -n & (BIT(WIDTH) - 1);
}

/* `code` between enabling counter 0 and disabling it: COUNTED(config, code) is the count that code alone makes. */
enum { OVERHEAD = 4 };
#define RUN_COUNTED(config, code)                                                                                      \
	asm volatile("mov %k[s], %%ecx; wrmsr;" code "; mov %k[s], %%ecx; xor %%eax, %%eax; xor %%edx, %%edx; wrmsr"   \
		     :                                                                                                 \
		     : [s] "S"(select0), "a"((u32)(config)), "d"((u32)((config) >> 32))                                \
		     : "rbx", "rcx", "rdi", "memory", "cc")
#define COUNTED(config, code)                                                                                          \
	({                                                                                                             \
		wrmsr(count0, 0);                                                                                      \
		RUN_COUNTED((config) | ENABLE, code);                                                                  \
		rdmsr(count0) - OVERHEAD;                                                                              \
	})

/* --- what is counted --- */

static u8 from[256];
u8 to[256];
static unsigned steps;

static void test_instructions(void)
{
	const u64 config = instructions | BOTH;
	CHECK_EQUAL("nothing-is-nothing", COUNTED(config, ""), 0);
	CHECK_EQUAL("each-nop-counts", COUNTED(config, "nop; nop; nop"), 3);
	CHECK_EQUAL("a-known-loop-retires-exactly", COUNTED(config, "mov $1000, %%ebx; 1: dec %%ebx; jnz 1b"), 2001);
	CHECK_EQUAL("a-long-loop-too", COUNTED(config, "mov $1000000, %%ebx; 1: dec %%ebx; jnz 1b"), 2000001);
	CHECK_EQUAL("a-call-and-its-return",
		    COUNTED(config, "mov $50, %%ebx; 1: call 2f; dec %%ebx; jnz 1b; jmp 3f; 2: ret; 3:"), 50 * 4 + 2);
	CHECK_EQUAL("cpuid-in-a-loop", COUNTED(config, "mov $40, %%edi; 1: xor %%eax, %%eax; cpuid; dec %%edi; jnz 1b"),
		    40 * 4 + 1);
	wrmsr(count0, 0);
	asm volatile("mov %k[s], %%ecx; wrmsr; mov $256, %%ecx; mov %[from], %%rsi; mov %[to], %%rdi; rep movsb;"
		     "mov %k[s], %%ecx; xor %%eax, %%eax; xor %%edx, %%edx; wrmsr"
		     :
		     : [s] "b"(select0), "a"((u32)(config | ENABLE)), "d"(0), [from] "r"(from), [to] "r"(to)
		     : "rcx", "rsi", "rdi", "memory");
	CHECK_EQUAL("a-repeated-string-instruction-is-one", rdmsr(count0) - OVERHEAD, 4);
	CHECK_EQUAL("disabled-it-counts-nothing", COUNTED(instructions, "nop; nop"), (u64)-OVERHEAD);
	CHECK_EQUAL("an-unknown-event-counts-nothing", COUNTED(0x2f | BOTH, "nop; nop"), (u64)-OVERHEAD);
	CHECK_EQUAL("nor-does-a-condition-on-cycles", COUNTED(config | 2 << 24, "nop; nop"), (u64)-OVERHEAD);
}

/* All that does not just go on: taken or not, near or far. */
static void test_branches(void)
{
	const u64 config = branches | BOTH;
	CHECK_EQUAL("no-branch", COUNTED(config, "nop; nop") + OVERHEAD, 0);
	CHECK_EQUAL("a-loop-has-one-a-round", COUNTED(config, "mov $1000, %%ebx; 1: dec %%ebx; jnz 1b") + OVERHEAD,
		    1000);
	CHECK_EQUAL("a-long-one-too", COUNTED(config, "mov $1000000, %%ebx; 1: dec %%ebx; jnz 1b") + OVERHEAD, 1000000);
	CHECK_EQUAL("loop", COUNTED(config, "mov $3000, %%ecx; 1: loop 1b") + OVERHEAD, 3000);
	CHECK_EQUAL("calls-returns-and-jumps",
		    COUNTED(config, "mov $500, %%ebx; 1: call 2f; jmp 4f; 4: dec %%ebx; jnz 1b; jmp 3f; 2: ret; 3:") +
			    OVERHEAD,
		    500 * 4 + 1);
	CHECK_EQUAL(
		"taken-or-not",
		COUNTED(config,
			"mov $300, %%ebx; 1: test $1, %%bl; jz 2f; nop; 2: cmp $1, %%ebx; jb 1b; dec %%ebx; jnz 1b") +
			OVERHEAD,
		300 * 3);
	CHECK_EQUAL(
		"through-registers",
		COUNTED(config,
			"mov $200, %%ebx; 1: lea 2f(%%rip), %%rdi; jmp *%%rdi; 2: lea 3f(%%rip), %%rdi; call *%%rdi;"
			"dec %%ebx; jnz 1b; jmp 4f; 3: ret; 4:") +
			OVERHEAD,
		200 * 4 + 1);
	CHECK_EQUAL("to-other-pages",
		    COUNTED(config, "mov $100, %%ebx; 1: call sled; test %%ebx, %%ebx; jz far_jump; dec %%ebx; jnz 1b;"
				    "jmp far_jump; .globl far_back; far_back:") +
			    OVERHEAD,
		    100 * 4 + 2);
}

/* At CPL 3, entered by IRET, which retires there. INT and faulting instructions do not. */
asm(".text\n"
    "user_nops: nop; nop; nop; int $0x80\n"
    "user_fault: nop; nop; ud2\n"
    "user_loop: mov $500, %ecx; 1: dec %ecx; jnz 1b; int $0x80\n"
    "user_rep: mov $5, %ecx; mov $to, %edi; rep stosb; int $0x80\n"
    "user_rdpmc: xor %ecx, %ecx; rdpmc; int $0x80\n");
extern void user_nops(void), user_fault(void), user_loop(void), user_rep(void), user_rdpmc(void);

static u64 count_user(u64 where, void (*code)(void))
{
	wrmsr(count0, 0);
	wrmsr(select0, instructions | where | ENABLE);
	run_user(code);
	wrmsr(select0, 0);
	return rdmsr(count0);
}

static void test_privilege(void)
{
	CHECK_EQUAL("kernel-counter-counts-the-kernel", COUNTED(instructions | KERNEL, "nop; nop"), 2);
	CHECK_EQUAL("user-counter-does-not", COUNTED(instructions | USER, "nop; nop"), (u64)-OVERHEAD);
	CHECK_EQUAL("user-counter-counts-the-user", count_user(USER, user_nops), 4);
	CHECK_EQUAL("a-fault-does-not-retire", count_user(USER, user_fault), 3);
	CHECK_EQUAL("the-users-loop", count_user(USER, user_loop), 1002);
	u64 event = instructions;
	instructions = branches;
	CHECK_EQUAL("the-users-branches", count_user(USER, user_loop), 501);
	instructions = event;
	u64 kernel = count_user(KERNEL, user_nops);
	CHECK("kernel-counter-counts-around-it", kernel > 10);
	CHECK_EQUAL("whatever-the-user-does", count_user(KERNEL, user_loop), kernel);
	CHECK_EQUAL("both-count-both", count_user(BOTH, user_loop), kernel + 1002);
}

static void on_step(struct frame *f)
{
	steps++;
}

/* Each element traps, and the handler's IRET retires at CPL 3; but the instruction does once. */
static void test_steps(void)
{
	handlers[DB] = on_step;
	wrmsr(count0, 0);
	wrmsr(select0, instructions | USER | ENABLE);
	fault.vector = NO_FAULT;
	enter_user((word)user_rep, (word)user_stack + sizeof user_stack, 2 | BIT(8));
	wrmsr(select0, 0);
	CHECK_EQUAL("each-element-is-a-step", steps, 2 + 5);
	CHECK_EQUAL("but-the-string-instruction-retires-once", rdmsr(count0), 1 + 3 + steps);
}

static void test_cycles(void)
{
	const u64 config = cycles | BOTH | ENABLE;
	wrmsr(count0, 0);
	u64 start = rdtsc();
	wrmsr(select0, config);
	for (unsigned i = 0; i < 10000; i++)
		asm volatile("pause");
	wrmsr(select0, 0);
	u64 end = rdtsc(), counted = rdmsr(count0), more = (end - start) / 1000 + 1000;
	CHECK("cycles-are-counted", counted > 1000);
	/* Fewer if the host let others run; and it has two clocks. */
	CHECK("at-the-rate-of-the-tsc-or-fewer", counted <= end - start + more);

	handlers[0x41] = on_interrupt;
	lapic[LAPIC_DIVIDE / 4] = 0xb;
	lapic[LAPIC_TIMER / 4] = 0x41;
	wrmsr(count0, 0);
	interrupts = 0;
	wrmsr(select0, config);
	start = rdtsc();
	lapic[LAPIC_INITIAL / 4] = 200000000;
	while (!interrupts)
		asm volatile("sti; hlt; cli" : : : "memory");
	end = rdtsc();
	wrmsr(select0, 0);
	CHECK("a-halted-cpu-counts-no-cycles", rdmsr(count0) < (end - start) / 2);
	lapic[LAPIC_TIMER / 4] = LVT_MASKED;
}

/* --- overflow --- */

asm(".text\n"
    "sled: .fill 300, 1, 0x90; ret\n"
    ".balign 4096; nop; far_jump: jmp far_back\n");
extern u8 sled[];

/* The NMI comes behind the n-th instruction that counts; the first is the enabling WRMSR, the second a call. */
static word overflow_at(u64 n)
{
	nmis = 0;
	set_lvt(LVT_NMI);
	wrmsr(count0, minus(n));
	RUN_COUNTED(instructions | BOTH | INTERRUPT | ENABLE, "call sled");
	return nmis == 1 ? interrupted_at - (word)sled : ~0UL;
}

static void test_overflow(void)
{
	handlers[NMI] = on_nmi;
	CHECK_EQUAL("nmi-behind-the-3rd-instruction", overflow_at(3), 1);
	CHECK_EQUAL("nmi-behind-the-102nd-instruction", overflow_at(102), 100);
	CHECK_EQUAL("nmi-behind-the-259th-instruction", overflow_at(259), 257);
	CHECK_EQUAL("the-lvt-is-masked-then-on-intel", get_lvt(), amd ? LVT_NMI : LVT_NMI | LVT_MASKED);
	CHECK("it-counts-on", rdmsr(count0) > 300 + 2 + OVERHEAD - 259); /* and the handler */

	nmis = 0;
	set_lvt(LVT_NMI);
	wrmsr(count0, minus(3000000));
	RUN_COUNTED(instructions | BOTH | INTERRUPT | ENABLE, "mov $2000000, %%ebx; 1: dec %%ebx; jnz 1b");
	CHECK_EQUAL("one-comes-in-a-long-loop", nmis, 1);
	/* WRMSR, MOV, and two for each round that is done. */
	CHECK_EQUAL("behind-the-3000000th-instruction", interrupted_bx, 2000000 - (3000000 - 2) / 2);
	CHECK("and-it-has-counted-all", rdmsr(count0) >= 1000000);

	nmis = 0;
	set_lvt(LVT_NMI);
	wrmsr(count0, minus(100));
	RUN_COUNTED(instructions | BOTH | ENABLE, "call sled");
	CHECK_EQUAL("without-the-interrupt-bit-none-comes", nmis, 0);
	set_lvt(LVT_NMI | LVT_MASKED);
	wrmsr(count0, minus(100));
	RUN_COUNTED(instructions | BOTH | INTERRUPT | ENABLE, "call sled");
	CHECK_EQUAL("with-the-lvt-masked-none-comes", nmis, 0);

	handlers[0x42] = on_interrupt;
	interrupts = 0;
	set_lvt(0x42);
	wrmsr(count0, minus(52));
	irq_enable();
	RUN_COUNTED(instructions | BOTH | INTERRUPT | ENABLE, "call sled");
	irq_disable();
	CHECK("as-an-interrupt-by-its-vector", interrupts == 1 && interrupted_at == (word)sled + 50);

	interrupts = 0;
	set_lvt(0x42);
	wrmsr(count0, minus(3000000)); /* 3 ms */
	irq_enable();
	wrmsr(select0, cycles | BOTH | INTERRUPT | ENABLE);
	u64 end = rdtsc() + 20000000000ULL;
	while (!interrupts && rdtsc() < end)
		asm volatile("pause");
	irq_disable();
	wrmsr(select0, 0);
	CHECK_EQUAL("cycles-overflow-too", interrupts, 1);
	set_lvt(LVT_MASKED);
}

/* In user mode alone, while the kernel runs as well. */
static void test_user_overflow(void)
{
	nmis = 0;
	set_lvt(LVT_NMI);
	wrmsr(count0, minus(604));
	wrmsr(select0, instructions | USER | INTERRUPT | ENABLE);
	run_user(user_nops); /* 4 */
	CHECK_EQUAL("the-user-has-not-counted-so-far", nmis, 0);
	run_user(user_loop);
	wrmsr(select0, 0);
	/* IRET, MOV, and then by turns: the 600th is a JNZ, behind which DEC is next. */
	CHECK_EQUAL("nmi-at-the-users-600th-instruction", nmis ? interrupted_at - (word)user_loop : 0, 5);
	nmis = 0;
	set_lvt(LVT_NMI);
	wrmsr(count0, minus(501));
	wrmsr(select0, branches | USER | INTERRUPT | ENABLE);
	run_user(user_loop);
	wrmsr(select0, 0);
	CHECK_EQUAL("and-at-its-last-branch", nmis ? interrupted_at - (word)user_loop : 0, 9);
	set_lvt(LVT_MASKED);
}

/* --- RDPMC --- */

static void test_rdpmc(void)
{
	wrmsr(count0, 0x123456);
	CHECK_EQUAL("rdpmc-reads-the-counter", rdpmc(0), 0x123456);
	TRY_AT("rdpmc", : : "c"(amd ? 6 : 4) : "rax", "rdx");
	CHECK("rdpmc-beyond-the-last-is-gp", is_fault(GP, 0));
	TRY_AT("rdpmc", : : "c"(0x80000000) : "rax", "rdx");
	CHECK("rdpmc-of-an-unknown-type-is-gp", is_fault(GP, 0));
	CHECK("rdpmc-at-cpl-3-without-pce-is-gp", run_user(user_rdpmc) == GP);
	write_cr4(read_cr4() | CR4_PCE);
	CHECK("with-pce-it-runs", run_user(user_rdpmc) == 0x80);
	write_cr4(read_cr4() & ~CR4_PCE);
}

/* --- Intel's registers --- */

static bool writes(u32 msr, u64 value)
{
	return TRY("wrmsr", : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory") == NO_FAULT;
}

static void test_intel_registers(void)
{
	CHECK_EQUAL("programmable-counters-are-enabled-at-reset", rdmsr(MSR_GLOBAL_CTRL), 0xf);
	CHECK("performance-monitoring-is-available", rdmsr(0x1a0) & BIT(7));
	CHECK_EQUAL("capabilities-are-full-width-writes", rdmsr(MSR_CAPABILITIES), BIT(13));
	CHECK("which-are-read-only", !writes(MSR_CAPABILITIES, BIT(13)));
	CHECK("status-is-read-only", !writes(MSR_GLOBAL_STATUS, 0));
	CHECK("select-bit-21-is-reserved", !writes(MSR_PERFEVTSEL0, BIT(21)));
	CHECK("select-bit-32-is-reserved", !writes(MSR_PERFEVTSEL0, BIT(32)));
	CHECK("the-others-are-there", writes(MSR_PERFEVTSEL0, 0xffffffff & ~(BIT(21) | ENABLE)));
	CHECK("any-thread-of-fixed-counters-is-reserved", !writes(MSR_FIXED_CTRL, 4));
	CHECK("a-fourth-fixed-counter-is-reserved", !writes(MSR_FIXED_CTRL, BIT(12)));
	CHECK("a-fifth-counter-is-reserved", !writes(MSR_GLOBAL_CTRL, BIT(4)));
	CHECK("a-fourth-fixed-counter-cannot-be-enabled", !writes(MSR_GLOBAL_CTRL, BIT(35)));
	CHECK("nor-its-overflow-be-cleared", !writes(MSR_OVF_CTRL, BIT(35)));
	CHECK("counters-are-48-bits-wide", !writes(MSR_A_PMC0, BIT(48)) && !writes(MSR_FIXED_CTR0, BIT(48)));
	wrmsr(MSR_A_PMC0, BIT(48) - 1);
	CHECK_EQUAL("all-of-them", rdmsr(MSR_PMC0), BIT(48) - 1);
	wrmsr(MSR_PMC0, 0xffff00000001);
	CHECK_EQUAL("the-old-number-takes-32-bits", rdmsr(MSR_A_PMC0), 1);
	wrmsr(MSR_PMC0, 0x80000000);
	CHECK_EQUAL("and-extends-their-sign", rdmsr(MSR_A_PMC0), 0xffff80000000);
	wrmsr(MSR_FIXED_CTR0 + 1, 77);
	CHECK_EQUAL("rdpmc-reads-a-fixed-counter", rdpmc(BIT(30) | 1), 77);
	TRY_AT("rdpmc", : : "c"(BIT(30) | 3) : "rax", "rdx");
	CHECK("rdpmc-beyond-the-last-fixed-is-gp", is_fault(GP, 0));
	wrmsr(MSR_PERFEVTSEL0, 0);
}

/* All enabled and disabled at once by the global control, with `code` between. */
#define RUN_GLOBAL(mask, code)                                                                                         \
	asm volatile("wrmsr;" code "; mov $0x38f, %%ecx; xor %%eax, %%eax; xor %%edx, %%edx; wrmsr"                    \
		     :                                                                                                 \
		     : "a"((u32)(mask)), "d"((u32)((mask) >> 32)), "c"(MSR_GLOBAL_CTRL)                                \
		     : "rbx", "memory", "cc")

static void test_global(void)
{
	wrmsr(MSR_GLOBAL_CTRL, 0);
	wrmsr(MSR_FIXED_CTRL, 0x333);
	wrmsr(MSR_PERFEVTSEL0 + 3, instructions | KERNEL | ENABLE);
	wrmsr(MSR_PERFEVTSEL0 + 2, instructions | USER | ENABLE);
	wrmsr(MSR_PMC0 + 3, 0);
	wrmsr(MSR_PMC0 + 2, 0);
	for (unsigned i = 0; i < 3; i++)
		wrmsr(MSR_FIXED_CTR0 + i, 0);
	RUN_GLOBAL(BIT(32) | BIT(3), "mov $700, %%ebx; 1: dec %%ebx; jnz 1b");
	CHECK_EQUAL("fixed-counter-0-counts-instructions", rdmsr(MSR_FIXED_CTR0), 1401 + OVERHEAD);
	CHECK_EQUAL("as-does-the-programmable-one", rdmsr(MSR_PMC0 + 3), 1401 + OVERHEAD);
	CHECK("those-not-enabled-stand", !rdmsr(MSR_PMC0 + 2) && !rdmsr(MSR_FIXED_CTR0 + 1));
	RUN_GLOBAL(BIT(33) | BIT(34), "mov $70000, %%ebx; 1: dec %%ebx; jnz 1b");
	CHECK("fixed-counter-1-counts-cycles", rdmsr(MSR_FIXED_CTR0 + 1));
	CHECK_EQUAL("fixed-counter-2-counts-the-same", rdmsr(MSR_FIXED_CTR0 + 2), rdmsr(MSR_FIXED_CTR0 + 1));

	wrmsr(MSR_FIXED_CTR0, 0);
	wrmsr(MSR_PMC0 + 3, 0);
	wrmsr(MSR_GLOBAL_CTRL, BIT(32) | BIT(3) | BIT(2));
	run_user(user_loop);
	run_user(user_nops);
	wrmsr(MSR_GLOBAL_CTRL, 0);
	CHECK_EQUAL("users-share-is-exact", rdmsr(MSR_PMC0 + 2), 1002 + 4);
	CHECK_EQUAL("user-and-kernel-are-all", rdmsr(MSR_PMC0 + 2) + rdmsr(MSR_PMC0 + 3), rdmsr(MSR_FIXED_CTR0));
	wrmsr(MSR_PERFEVTSEL0 + 2, 0);
	wrmsr(MSR_PERFEVTSEL0 + 3, 0);
}

static void test_status(void)
{
	wrmsr(MSR_OVF_CTRL, rdmsr(MSR_GLOBAL_STATUS));
	CHECK_EQUAL("status-can-be-cleared", rdmsr(MSR_GLOBAL_STATUS), 0);
	wrmsr(MSR_FIXED_CTRL, 3);
	wrmsr(MSR_FIXED_CTR0, minus(10));
	wrmsr(MSR_PERFEVTSEL0 + 1, instructions | BOTH | ENABLE);
	wrmsr(MSR_A_PMC0 + 1, minus(2000));
	RUN_GLOBAL(BIT(32) | BIT(1), "call sled");
	CHECK_EQUAL("the-overflowed-one-says-so", rdmsr(MSR_GLOBAL_STATUS), BIT(32));
	RUN_GLOBAL(BIT(1), "mov $1000, %%ebx; 1: dec %%ebx; jnz 1b");
	CHECK_EQUAL("and-the-other-one-then", rdmsr(MSR_GLOBAL_STATUS), BIT(32) | BIT(1));
	wrmsr(MSR_OVF_CTRL, BIT(32));
	CHECK_EQUAL("each-is-cleared-by-itself", rdmsr(MSR_GLOBAL_STATUS), BIT(1));
	wrmsr(MSR_OVF_CTRL, BIT(1) | BIT(62) | BIT(63));

	CHECK("debugctl-has-freezing", writes(MSR_DEBUGCTL, BIT(12) | BIT(11)));
	nmis = 0;
	set_lvt(LVT_NMI);
	wrmsr(MSR_FIXED_CTRL, 0xb);
	wrmsr(MSR_FIXED_CTR0, minus(102));
	wrmsr(MSR_A_PMC0 + 1, 0);
	RUN_GLOBAL(BIT(32) | BIT(1), "call sled; mov $0x38f, %%ecx; rdmsr; mov %%eax, %%ebx");
	CHECK("nmi-of-a-fixed-counter", nmis == 1 && interrupted_at == (word)sled + 100);
	CHECK_EQUAL("with-freezing-all-stop-there", rdmsr(MSR_A_PMC0 + 1), 102);
	CHECK_EQUAL("and-so-does-the-one-that-overflowed", rdmsr(MSR_FIXED_CTR0), 0);
	wrmsr(MSR_DEBUGCTL, 0);
	wrmsr(MSR_FIXED_CTRL, 0);
	wrmsr(MSR_PERFEVTSEL0 + 1, 0);
	set_lvt(LVT_MASKED);
}

/* --- AMD's registers --- */

static void test_amd_registers(void)
{
	for (unsigned i = 0; i < 4; i++) {
		wrmsr(MSR_AMD_CORE + 2 * i + 1, 100 + i);
		CHECK_EQUAL("the-oldest-four-have-two-numbers", rdmsr(MSR_AMD_CTR0 + i), 100 + i);
		wrmsr(MSR_AMD_CTL0 + i, 0x76 | USER);
		CHECK_EQUAL("both-of-them", rdmsr(MSR_AMD_CORE + 2 * i), 0x76 | USER);
		wrmsr(MSR_AMD_CTL0 + i, 0);
	}
	wrmsr(MSR_AMD_CORE + 2 * 5 + 1, ~0ULL);
	CHECK_EQUAL("counters-are-48-bits-wide", rdpmc(5), BIT(48) - 1);
	wrmsr(MSR_AMD_CORE + 2 * 5, ~ENABLE);
	CHECK_EQUAL("reserved-bits-read-as-0", rdmsr(MSR_AMD_CORE + 2 * 5), 0x30fff97ffff & ~ENABLE);
	wrmsr(MSR_AMD_CORE + 2 * 5, 0);
	TRY_AT("rdmsr", : : "c"(MSR_AMD_CORE + 12) : "rax", "rdx");
	CHECK("a-seventh-is-gp", is_fault(GP, 0));
	/* Without EFER.SVME there are neither guests nor hosts. */
	const u64 config = instructions | BOTH;
	CHECK_EQUAL("guest-only-without-svm-is-nothing", COUNTED(config | BIT(40), "nop; nop"), (u64)-OVERHEAD);
	CHECK_EQUAL("host-only-without-svm-is-nothing", COUNTED(config | BIT(41), "nop; nop"), (u64)-OVERHEAD);
}

static bool has_counters(void)
{
	u32 r[4];
	cpuid(0, 0, r);
	amd = r[1] == 0x68747541;
	cpuid(amd ? 0x80000001 : 0xa, 0, r);
	return amd ? r[2] & BIT(23) : r[0] & 0xff;
}

static void test_absent(void)
{
	TRY_AT("rdmsr", : : "c"(amd ? MSR_AMD_CORE : MSR_PERFEVTSEL0) : "rax", "rdx");
	CHECK("without-feature-its-registers-are-gp", is_fault(GP, 0));
	TRY_AT("rdpmc", : : "c"(4) : "rax", "rdx");
	CHECK("and-rdpmc", is_fault(GP, 0));
}

void guest_main(void)
{
	if (!has_counters()) {
		test_absent();
		return;
	}
	select0 = amd ? MSR_AMD_CTL0 : MSR_PERFEVTSEL0;
	count0 = amd ? MSR_AMD_CTR0 : MSR_A_PMC0;
	cycles = amd ? 0x76 : 0x3c;
	branches = amd ? 0xc2 : 0xc4;
	lapic[LAPIC_SVR / 4] = 0x1ff;
	open_to_user();
	if (amd)
		test_amd_registers();
	else
		test_intel_registers();
	test_instructions();
	test_branches();
	test_privilege();
	test_steps();
	test_cycles();
	test_overflow();
	test_user_overflow();
	test_rdpmc();
	if (!amd) {
		test_global();
		test_status();
	}
}
