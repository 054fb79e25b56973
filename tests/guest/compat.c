/* 64-bit mode beside compatibility mode at CPL 3, SYSCALL and SYSENTER, and operand sizes that differ between the two.
 */
#include "lib/guest.h"

enum {
	MSR_EFER = 0xc0000080,
	MSR_STAR,
	MSR_LSTAR,
	MSR_CSTAR,
	MSR_FMASK,
	MSR_FS_BASE = 0xc0000100,
	MSR_GS_BASE,
	MSR_KERNEL_GS_BASE,
	MSR_SYSENTER_CS = 0x174,
	MSR_SYSENTER_ESP,
	MSR_SYSENTER_EIP
};

volatile u64 results[16];

asm(".text\n"
    ".code32\n"
    "compat_arith: mov $0xffffffff, %eax; add $1, %eax; mov %eax, results; setc results+8; mov %cs, %ecx; mov %ecx, "
    "results+16\n"
    "	.byte 0x40\n" /* INC EAX here, REX in 64-bit mode */
    "	nop; mov %eax, results+24; int $0x80\n"
    "compat_push: mov %esp, %ecx; push %eax; sub %esp, %ecx; mov %ecx, results; int $0x80\n"
    "compat_wrap: mov $user_stack, %eax; mov $0xfffffff0, %ecx; mov 16(%ecx,%eax), %eax; mov %eax, results; int $0x80\n"
    "compat_push_es: push %es; pop %eax; mov %eax, results; int $0x80\n"
    "compat_far: ljmp $0x43, $compat_far_64\n"
    ".code64\n"
    "compat_far_64: mov %cs, %ecx; mov %rcx, results; mov $0x123456789, %rax; mov %rax, results+8; int $0x80\n"
    ".code32\n"
    "compat_syscall: syscall; int $0x80\n"
    ".code64\n"
    "long_arith: mov $-1, %eax; mov %rax, results; movabs $0x1122334455667788, %rbx; mov $0, %bl; mov $0, %bh; mov "
    "%rbx, results+8\n"
    "	mov $0x99, %r8d; bswap %r8; mov %r8, results+16; int $0x80\n"
    "long_syscall: mov $0x77, %eax; stc; syscall; mov %rcx, results+8; mov %cs, %edx; mov %rdx, results+24; int $0x80\n"
    "syscall_entry: mov %rcx, results; mov %r11, results+16; pushf; pop results+32; mov %cs, %edx; mov %rdx, "
    "results+40\n"
    "	mov %ss, %edx; mov %rdx, results+48; sysretq\n"
    "long_sysenter: mov $0x55, %eax; sysenter; int $0x80\n"
    "sysenter_entry: mov %cs, %edx; mov %rdx, results; mov %rsp, results+8; lea sysenter_back(%rip), %rdx; lea "
    "user_stack+4096(%rip), %rcx; sysexitq\n"
    "sysenter_back: mov %cs, %edx; mov %rdx, results+16; int $0x80\n"
    "long_swapgs: swapgs; int $0x80\n");
extern void compat_arith(void), compat_push(void), compat_wrap(void), compat_push_es(void), compat_far(void),
	compat_syscall(void), long_arith(void), long_syscall(void), syscall_entry(void), long_sysenter(void),
	sysenter_entry(void), long_swapgs(void);

static bool in_compat(void (*code)(void))
{
	user_cs = USER_CODE32;
	word vector = run_user(code);
	user_cs = USER_CODE64;
	return vector == 0x80;
}

static void test_compat(void)
{
	CHECK("compat-arithmetic", in_compat(compat_arith) && (u32)results[0] == 0 && (u8)results[1] == 1);
	CHECK("compat-cs", (u32)results[2] == USER_CODE32);
	CHECK("compat-0x40-is-inc", (u32)results[3] == 1);
	CHECK("compat-push-is-4-bytes", in_compat(compat_push) && (u32)results[0] == 4);
	*(volatile u32 *)user_stack = 0x5a5a;
	CHECK("compat-addresses-wrap-at-4-gib", in_compat(compat_wrap) && (u32)results[0] == 0x5a5a);
	CHECK("compat-push-es", in_compat(compat_push_es));
	CHECK("compat-far-jump-to-64-bit-code",
	      in_compat(compat_far) && results[0] == USER_CODE64 && results[1] == 0x123456789);
}

static void test_long(void)
{
	CHECK("32-bit-result-clears-the-high-half", run_user(long_arith) == 0x80 && results[0] == 0xffffffff);
	CHECK("8-bit-results-keep-the-rest", results[1] == 0x1122334455660000);
	CHECK("bswap-of-64-bits", results[2] == 0x9900000000000000);
}

static void test_syscall(void)
{
	/* STAR 47:32: CS 0x18 and SS 0x20 of the kernel; 63:48: CS + 16 and SS + 8 of the user. */
	u64 saved_gdt = gdt[4];
	gdt[4] = 0x00cf93000000ffff; /* SS for the kernel at 0x20 */
	wrmsr(MSR_STAR, (u64)CODE64 << 32 | (u64)0x33 << 48);
	wrmsr(MSR_LSTAR, (u64)syscall_entry);
	wrmsr(MSR_FMASK, 1);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~BIT(0));
	CHECK("syscall-without-sce-is-ud", run_user(long_syscall) == UD);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | BIT(0));
	gdt[0x38 / 8] = gdt[0x38 / 8]; /* 0x3b would be SS: SYSRET does not look */
	CHECK("syscall-and-sysret", run_user(long_syscall) == 0x80);
	CHECK("syscall-saves-next-ip-in-rcx", results[0] == results[1] && *(u16 *)(results[0] - 2) == 0x050f);
	CHECK("syscall-saves-flags-in-r11", results[2] & 1);
	CHECK("syscall-masks-flags", !(results[4] & 1));
	CHECK("syscall-loads-cs-and-ss", results[5] == CODE64 && results[6] == CODE64 + 8);
	CHECK("sysret-loads-cs", results[3] == 0x43);
	gdt[4] = saved_gdt;

	wrmsr(MSR_SYSENTER_CS, 0);
	CHECK("sysenter-with-cs-0-is-gp", run_user(long_sysenter) == GP && fault.error == 0);
	/* SYSENTER: CS n, SS n + 8; SYSEXIT to 64 bits: CS n + 32, SS n + 40. */
	static const u64 flat[] = { 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff,
				    0x00cff3000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff };
	for (unsigned i = 0; i < ARRAY_SIZE(flat); i++)
		gdt[GDT_FREE / 8 + i] = flat[i];
	wrmsr(MSR_SYSENTER_CS, GDT_FREE);
	wrmsr(MSR_SYSENTER_EIP, (u64)sysenter_entry);
	wrmsr(MSR_SYSENTER_ESP, (u64)user_stack + 2048);
	CHECK("sysenter-and-sysexit", run_user(long_sysenter) == 0x80);
	CHECK("sysenter-loads-cs-and-sp", results[0] == GDT_FREE && results[1] == (u64)user_stack + 2048);
	CHECK("sysexit-loads-cs", results[2] == (GDT_FREE + 32 + 3));
}

static void test_bases(void)
{
	static u64 here = 0x1111, there = 0x2222;
	u64 value;
	wrmsr(MSR_FS_BASE, (u64)&here);
	asm volatile("mov %%fs:0, %0" : "=r"(value));
	CHECK("fs-base-is-added", value == 0x1111);
	wrmsr(MSR_GS_BASE, (u64)&here);
	wrmsr(MSR_KERNEL_GS_BASE, (u64)&there);
	asm volatile("swapgs; mov %%gs:0, %0; swapgs" : "=r"(value));
	CHECK("swapgs-swaps", value == 0x2222);
	asm volatile("mov %%gs:0, %0" : "=r"(value));
	CHECK("swapgs-swaps-back", value == 0x1111);
	CHECK("swapgs-at-cpl-3-is-gp", run_user(long_swapgs) == GP);
	TRY_AT("wrmsr", : : "c"(MSR_GS_BASE), "a"(0), "d"(0x80000000) : "memory");
	CHECK("non-canonical-base-is-gp", is_fault(GP, 0));
	wrmsr(MSR_FS_BASE, BIT(40));
	asm volatile("mov %0, %%fs" : : "r"(DATA));
	CHECK("loading-fs-replaces-its-base", rdmsr(MSR_FS_BASE) == 0);
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[1] & 1)) {
		skip("fsgsbase", "not in CPUID");
		return;
	}
	TRY_AT("rdfsbase %%rax", : : : "rax", "memory");
	CHECK("rdfsbase-without-cr4-is-ud", is_fault(UD, 0));
	write_cr4(read_cr4() | BIT(16));
	asm volatile("wrfsbase %1; rdfsbase %0" : "=r"(value) : "r"(&there));
	CHECK("wrfsbase-and-rdfsbase", value == (u64)&there);
}

void guest_main(void)
{
	open_to_user();
	test_compat();
	test_long();
	test_syscall();
	test_bases();
}
