/*
 * System instructions that kernels execute at each entry and around user memory, in straight runs with accesses that
 * depend on them; and what makes each of them fault, at the same place. Each piece runs often enough to be translated.
 */
#include "lib/guest.h"

enum { PWU = 7, ROUNDS = 40 };
enum { E_P = 1, E_U = 4 };
#define CR4_TSD        BIT(2)
#define CR4_FSGSBASE   BIT(16)
#define CR4_SMAP       BIT(21)
#define CR4_PKE        BIT(22)
#define EFER_SCE       1
#define MSR_EFER       0xc0000080
#define MSR_STAR       0xc0000081
#define MSR_LSTAR      0xc0000082
#define MSR_FMASK      0xc0000084
#define MSR_FS_BASE    0xc0000100
#define MSR_GS_BASE    0xc0000101
#define MSR_KERNEL_GS  0xc0000102
#define NOT_CANONICAL  (1ULL << 62)
#define FLAG_INTERRUPT BIT(9)

static u64 window_pdpt[512] ALIGNED(4096), window_pd[512] ALIGNED(4096), window_pt[512] ALIGNED(4096);
static u64 page[512] ALIGNED(4096), first[4] = { 11, 12, 13, 14 }, second[4] = { 21, 22, 23, 24 };

#define WINDOW ((volatile u64 *)(1ULL << 39))

static bool has_feature(u32 leaf, unsigned reg, unsigned bit)
{
	u32 r[4];
	cpuid(leaf, 0, r);
	return r[reg] & BIT(bit);
}

/* --- SWAPGS --- */

static void test_swapgs(void)
{
	u64 wrong = 0;
	wrmsr(MSR_GS_BASE, (u64)first);
	wrmsr(MSR_KERNEL_GS, (u64)second);
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 a, b, c, d;
		asm volatile("mov %%gs:0, %0; mov %%gs:8, %1; swapgs; mov %%gs:8, %2; mov %%gs:16, %3; swapgs"
			     : "=&r"(a), "=&r"(b), "=&r"(c), "=&r"(d)
			     :
			     : "memory");
		wrong += a != 11 || b != 12 || c != 22 || d != 23;
	}
	CHECK_EQUAL("operands-behind-swapgs-have-the-other-base", wrong, 0);
	asm volatile("swapgs" : : : "memory");
	CHECK("swapgs-shows-in-msrs", rdmsr(MSR_GS_BASE) == (u64)second && rdmsr(MSR_KERNEL_GS) == (u64)first);
	wrmsr(MSR_GS_BASE, 0);
}

static void user_swapgs(void)
{
	asm volatile("nop; nop; swapgs; int $0x80");
}

static void user_stac(void)
{
	asm volatile("nop; nop; stac; int $0x80");
}

static void user_read_cr2(void)
{
	asm volatile("nop; nop; mov %cr2, %rax; int $0x80");
}

static void user_sti(void)
{
	asm volatile("nop; nop; sti; nop; int $0x80");
}

static void user_rdtsc(void)
{
	asm volatile("nop; nop; rdtsc; int $0x80");
}

/* Each register but RAX and RDX has a bit of its own, and x87 has one of its own loaded: all that are left behind. */
static u64 registers_behind_rdtsc(void)
{
	static double one;
	u64 sum;
	asm volatile("push %%rbp; mov $1, %%ebx; mov $2, %%ecx; mov $4, %%esi; mov $8, %%edi; mov $0x10, %%ebp\n\t"
		     "mov $0x20, %%r8d; mov $0x40, %%r9d; mov $0x80, %%r10d; mov $0x100, %%r11d; mov $0x200, %%r12d\n\t"
		     "mov $0x400, %%r13d; mov $0x800, %%r14d; mov $0x1000, %%r15d; fninit; fld1\n\t"
		     "rdtsc; fstpl %[one]; lea (%%rbx, %%rcx), %%rax; add %%rsi, %%rax; add %%rdi, %%rax\n\t"
		     "add %%rbp, %%rax; add %%r8, %%rax; add %%r9, %%rax; add %%r10, %%rax; add %%r11, %%rax\n\t"
		     "add %%r12, %%rax; add %%r13, %%rax; add %%r14, %%rax; add %%r15, %%rax; pop %%rbp"
		     : "=&a"(sum), [one] "+m"(one)
		     :
		     : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc");
	return sum | (u64)(*(volatile u64 *)&one != 0x3ff0000000000000) << 63;
}

static void test_time(void)
{
	u64 wrong = 0, changed = 0;
	for (unsigned i = 0; i < ROUNDS; i++)
		changed |= registers_behind_rdtsc() ^ 0x1fff;
	CHECK_EQUAL("rdtsc-leaves-other-registers-alone", changed, 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		write_cr4(read_cr4() | CR4_TSD);
		wrong += run_user(user_rdtsc) != GP;
		write_cr4(read_cr4() & ~CR4_TSD);
		wrong += run_user(user_rdtsc) != 0x80;
	}
	CHECK_EQUAL("rdtsc-at-cpl-3-goes-by-cr4-tsd", wrong, 0);
}

/* --- SYSCALL and SYSRET --- */

#define SUPERVISOR_ONLY "0x40000000" /* open_to_user() opens what is below */

asm(".pushsection .text\n"
    /* Goes to the kernel 40 times, each time with CF set, and sums up what it finds behind SYSCALL. */
    ".global rings_user, rings_entry\n"
    "rings_user: mov $40, %ebx\n"
    "1: stc; syscall; adcq $0, rings_found; mov %cs, %edx; add %rdx, rings_found+8; mov %ss, %edx\n"
    "add %rdx, rings_found+16; dec %ebx; jnz 1b; mov " SUPERVISOR_ONLY ", %rdx; int $0x80\n"
    /* So does the kernel; what it does with flags is undone. */
    "rings_entry: mov %cs, %edx; lea (%rdx, %rdx), %rdx; pushf; add %rdx, rings_found+24; mov %ss, %edx\n"
    "add %rdx, rings_found+32; popq %rdx; and $0x6d5, %edx; add %rdx, rings_found+40\n"
    "add %rcx, rings_found+48; mov %r11, %rdx; and $1, %edx; add %rdx, rings_found+56\n"
    "mov " SUPERVISOR_ONLY ", %rdx; xor %edx, %edx; sysretq\n"
    ".popsection\n");
u64 rings_found[8];
void rings_user(void), rings_entry(void);

static void test_rings(void)
{
	enum { SELECTORS = 0x33, USER_SS = SELECTORS + 8, USER_CS = SELECTORS + 16, TIMES = 40 };
	u64 efer = rdmsr(MSR_EFER), fault_found = 0;
	wrmsr(MSR_EFER, efer | EFER_SCE);
	wrmsr(MSR_STAR, (u64)CODE64 << 32 | (u64)SELECTORS << 48);
	wrmsr(MSR_LSTAR, (u64)rings_entry);
	wrmsr(MSR_FMASK, 0x47fd5);
	word vector = run_user(rings_user);
	CHECK_EQUAL("sysret-brings-flags-back", rings_found[0], TIMES);
	CHECK_EQUAL("sysret-loads-cs", rings_found[1], TIMES * USER_CS);
	/* AMD's processors leave its RPL to STAR, which has it here. */
	CHECK_EQUAL("sysret-loads-ss", rings_found[2], TIMES * USER_SS);
	CHECK_EQUAL("syscall-loads-cs", rings_found[3], TIMES * 2 * CODE64);
	CHECK_EQUAL("syscall-loads-ss", rings_found[4], TIMES * (CODE64 + 8));
	CHECK_EQUAL("syscall-clears-the-flags-of-fmask", rings_found[5], 0);
	CHECK_EQUAL("syscall-keeps-where-it-was", rings_found[6] / TIMES - (u64)rings_user, 8);
	CHECK_EQUAL("syscall-keeps-flags", rings_found[7], TIMES);
	CHECK("sysret-ends-the-supervisors-rights", vector == PF && fault.error == (E_P | E_U));
	/* The same without all of that in the mask: the interpreter's way, over the same code. */
	memset(rings_found, 0, sizeof rings_found);
	wrmsr(MSR_FMASK, 0x40200);
	run_user(rings_user);
	CHECK("syscall-leaves-other-flags", rings_found[5] >= TIMES);
	u32 r[4];
	cpuid(0, 0, r);
	for (unsigned i = 0; i < ROUNDS; i++) {
		TRY_AT("sysretq", : : "c"(NOT_CANONICAL), "a"(0) : "r11");
		fault_found += is_fault(GP, 0);
	}
	if (r[2] == 0x444d4163) /* cAMD */
		skip("sysret-to-what-is-not-canonical-is-gp", "AMD's goes there");
	else
		CHECK_EQUAL("sysret-to-what-is-not-canonical-is-gp", fault_found, ROUNDS);
	wrmsr(MSR_EFER, efer);
}

static void test_user(void)
{
	u64 wrong[4] = { 0 };
	for (unsigned i = 0; i < ROUNDS; i++) {
		wrong[0] += run_user(user_swapgs) != GP;
		wrong[1] += run_user(user_stac) != UD;
		wrong[2] += run_user(user_read_cr2) != GP;
		wrong[3] += run_user(user_sti) != GP;
	}
	CHECK_EQUAL("swapgs-at-cpl-3-is-gp", wrong[0], 0);
	CHECK_EQUAL("stac-at-cpl-3-is-ud", wrong[1], 0);
	CHECK_EQUAL("mov-from-cr-at-cpl-3-is-gp", wrong[2], 0);
	CHECK_EQUAL("sti-at-cpl-3-is-gp", wrong[3], 0);
}

/* --- STAC and CLAC --- */

static void test_smap(void)
{
	u64 wrong = 0, faults = 0, a, b;
	if (!has_feature(7, 1, 20)) {
		skip("user-memory-opens-with-stac", "no SMAP");
		skip("user-memory-closes-with-clac", "no SMAP");
		return;
	}
	boot_pml4[1] = (u64)window_pdpt | PWU;
	window_pdpt[0] = (u64)window_pd | PWU;
	window_pd[0] = (u64)window_pt | PWU;
	window_pt[0] = (u64)page | PWU;
	page[0] = 31;
	page[1] = 32;
	write_cr4(read_cr4() | CR4_SMAP);
	for (unsigned i = 0; i < ROUNDS; i++) {
		asm volatile("stac; mov (%2), %0; mov 8(%2), %1; clac"
			     : "=&r"(a), "=&r"(b)
			     : "r"(WINDOW)
			     : "memory", "cc");
		wrong += a != 31 || b != 32;
	}
	CHECK_EQUAL("user-memory-opens-with-stac", wrong, 0);
	/* The second access is beside the first one, whose page was found under STAC. */
	for (unsigned i = 0; i < ROUNDS; i++) {
		TRY("stac; mov (%0), %%rax; clac; " TRY_MARK "mov 8(%0), %%rax",
		    :
		    : "r"(WINDOW)
		    : "rax", "memory", "cc");
		faults += is_fault(PF, E_P) && !(fault.flags & BIT(18));
	}
	CHECK_EQUAL("user-memory-closes-with-clac", faults, ROUNDS);
	write_cr4(read_cr4() & ~CR4_SMAP);
}

/* --- bases --- */

static void test_bases(void)
{
	u64 wrong = 0, faults = 0, undefined = 0;
	if (!has_feature(7, 1, 0)) {
		skip("operands-behind-wrfsbase-have-the-new-base", "no FSGSBASE");
		skip("wrfsbase-of-what-is-not-canonical-is-gp", "no FSGSBASE");
		skip("rdgsbase-without-cr4-fsgsbase-is-ud", "no FSGSBASE");
		return;
	}
	write_cr4(read_cr4() | CR4_FSGSBASE);
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 a, b, base, narrow = ~0ULL;
		asm volatile("wrfsbase %4; mov %%fs:0, %0; wrfsbase %5; mov %%fs:0, %1; rdfsbase %2; rdfsbase %k3"
			     : "=&r"(a), "=&r"(b), "=&r"(base), "+&r"(narrow)
			     : "r"(first), "r"(second)
			     : "memory");
		wrong += a != 11 || b != 21 || base != (u64)second || narrow != (u32)(u64)second;
		wrong += rdmsr(MSR_FS_BASE) != (u64)second;
	}
	CHECK_EQUAL("operands-behind-wrfsbase-have-the-new-base", wrong, 0);
	for (unsigned i = 0; i < ROUNDS; i++) {
		TRY("nop; " TRY_MARK "wrfsbase %0", : : "r"(NOT_CANONICAL) : "memory");
		faults += is_fault(GP, 0) && rdmsr(MSR_FS_BASE) == (u64)second;
	}
	CHECK_EQUAL("wrfsbase-of-what-is-not-canonical-is-gp", faults, ROUNDS);
	write_cr4(read_cr4() & ~CR4_FSGSBASE);
	for (unsigned i = 0; i < ROUNDS; i++) {
		TRY("nop; " TRY_MARK "rdgsbase %%rax", : : : "rax");
		undefined += is_fault(UD, 0);
	}
	CHECK_EQUAL("rdgsbase-without-cr4-fsgsbase-is-ud", undefined, ROUNDS);
	wrmsr(MSR_FS_BASE, 0);
}

/* --- what tells of the state --- */

static void test_control(void)
{
	u64 wrong = 0;
	word cr3 = read_cr3(), cr4 = read_cr4(), cr0 = read_cr0();
	for (unsigned i = 0; i < ROUNDS; i++) {
		word a, b, c, d;
		write_cr2(i * 4096);
		asm volatile("mov %%cr0, %0; mov %%cr2, %%r10; mov %%r10, %1; mov %%cr3, %2; mov %%cr4, %3"
			     : "=&r"(a), "=&r"(b), "=&r"(c), "=&r"(d)
			     :
			     : "r10");
		wrong += a != cr0 || b != i * 4096 || c != cr3 || d != cr4;
	}
	CHECK_EQUAL("control-registers-read-in-the-middle", wrong, 0);
}

static void test_flags(void)
{
	u64 wrong = 0;
	for (unsigned i = 0; i < ROUNDS; i++) {
		word off, on;
		u32 x = i;
		/* The flags of ADD go past STI and CLI. */
		asm volatile("cli; pushf; pop %0; add $-20, %2; sti; nop; pushf; pop %1; cli"
			     : "=&r"(off), "=&r"(on), "+r"(x)
			     :
			     : "cc", "memory");
		wrong += (off & FLAG_INTERRUPT) || !(on & FLAG_INTERRUPT) || (on & 1) != (i >= 20);
	}
	CHECK_EQUAL("flags-pass-sti-and-cli", wrong, 0);
}

static void test_pkru(void)
{
	u64 wrong = 0, faults = 0;
	if (!has_feature(7, 2, 3)) {
		skip("rdpkru-clears-what-is-above", "no PKU");
		skip("rdpkru-wants-ecx-0", "no PKU");
		return;
	}
	write_cr4(read_cr4() | CR4_PKE);
	asm volatile("wrpkru" : : "a"(0x55555554), "c"(0), "d"(0));
	for (unsigned i = 0; i < ROUNDS; i++) {
		u64 a = ~0ULL, d = ~0ULL;
		asm volatile("rdpkru; nop" : "+a"(a), "+d"(d) : "c"(0));
		wrong += a != 0x55555554 || d != 0;
		TRY("nop; " TRY_MARK "rdpkru", : "+a"(a), "+d"(d) : "c"(1));
		faults += is_fault(GP, 0);
	}
	CHECK_EQUAL("rdpkru-clears-what-is-above", wrong, 0);
	CHECK_EQUAL("rdpkru-wants-ecx-0", faults, ROUNDS);
	asm volatile("wrpkru" : : "a"(0), "c"(0), "d"(0));
	write_cr4(read_cr4() & ~CR4_PKE);
}

void guest_main(void)
{
	test_swapgs();
	test_smap();
	test_bases();
	test_control();
	test_flags();
	test_pkru();
	open_to_user();
	test_user();
	test_time();
	test_rings();
}
