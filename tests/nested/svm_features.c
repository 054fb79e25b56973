/*
 * What AMD-V has beside its core, each shown by its effect: TSC offset and ratio, PAUSE filter, branch records, the
 * lock of VM_CR; and what an AMD CPU does otherwise than Intel's: SYSCALL and SYSENTER.
 */
#include "svm.h"

enum { MSR_TSC = 0x10, MSR_DEBUGCTL = 0x1d9, BRANCH_FROM = 0x1db, BRANCH_TO = 0x1dc, MSR_STAR = 0xc0000081 };

/* --- TSC --- */

L2(l2_rdtsc, "rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rbx; mov $0x10, %ecx; rdmsr;"
	     "shl $32, %rdx; or %rdx, %rax; mov %rax, %rsi; vmmcall")

static void test_tsc(void)
{
	u64 before, after;
	vmcb_make(l2_rdtsc);
	vmcb.control.tsc_offset = BIT(60);
	before = rdtsc();
	CHECK_EQUAL("l2-reads-the-tsc", svm_run(), SVM_EXIT_VMMCALL);
	after = rdtsc();
	u64 rdtsc_value = l2_regs[L2_RBX] - BIT(60), rdmsr_value = l2_regs[L2_RSI] - BIT(60);
	CHECK("rdtsc-has-the-offset", rdtsc_value >= before && rdtsc_value <= after);
	CHECK("rdmsr-has-it-too", rdmsr_value >= rdtsc_value && rdmsr_value <= after);
	CHECK_EQUAL("ratio-is-1-at-first", rdmsr(MSR_TSC_RATIO), TSC_RATIO_ONE);
	wrmsr(MSR_TSC_RATIO, TSC_RATIO_ONE / 4);
	vmcb_make(l2_rdtsc);
	before = rdtsc() / 4;
	CHECK_EQUAL("l2-reads-the-tsc", svm_run(), SVM_EXIT_VMMCALL);
	after = rdtsc() / 4;
	CHECK("the-ratio-counts", l2_regs[L2_RBX] >= before && l2_regs[L2_RBX] <= after);
	u64 root = rdtsc();
	CHECK("but-not-for-the-host", root >= 4 * l2_regs[L2_RBX]);
	wrmsr(MSR_TSC_RATIO, TSC_RATIO_ONE);
	CHECK_EQUAL("ratios-have-8-bits-before-the-point",
		    TRY("wrmsr",
			:
			: "a"(0), "d"(1u << 8), "c"(MSR_TSC_RATIO)),
		    GP);
}

/* --- PAUSE filter --- */

L2(l2_pauses, "mov $20, %ecx; 1: pause; dec %ecx; jne 1b; vmmcall")
L2(l2_spaced, "mov $2, %ecx; 1: mov $20, %ebx; 2: pause; dec %ebx; jne 2b; mov $1000, %ebx; 3: dec %ebx; jne 3b;"
	      "dec %ecx; jne 1b; vmmcall")

static u64 run_pauses(void (*code)(void), u16 count, u16 threshold)
{
	vmcb_make(code);
	intercept(SVM_EXIT_PAUSE);
	vmcb.control.pause_count = count;
	vmcb.control.pause_threshold = threshold;
	return svm_run();
}

static void test_pause_filter(void)
{
	CHECK_EQUAL("count-0-exits-at-once", run_pauses(l2_pauses, 0, 0), SVM_EXIT_PAUSE);
	CHECK_EQUAL("fewer-than-the-count-pass", run_pauses(l2_pauses, 21, 0), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("more-do-not", run_pauses(l2_pauses, 10, 0), SVM_EXIT_PAUSE);
	CHECK_EQUAL("ten-were-counted", l2_regs[L2_RCX], 20 - 9);
	CHECK_EQUAL("far-apart-they-count-anew", run_pauses(l2_spaced, 30, 200), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("within-the-threshold-they-do-not", run_pauses(l2_spaced, 30, 60000), SVM_EXIT_PAUSE);
}

/* --- branch records --- */

asm("host_branch: mov $0x1d9, %ecx; mov $1, %eax; xor %edx, %edx; wrmsr\n"
    "host_from: jmp host_to\n nop\n"
    "host_to: xor %eax, %eax; wrmsr; ret\n");
extern u8 host_from[], host_to[];
void host_branch(void);

static void record_host_branch(void)
{
	asm volatile("call host_branch" : : : "rax", "rcx", "rdx", "memory");
}

L2(l2_branch, "mov $0x1d9, %ecx; rdmsr; mov %eax, %ebx; l2_from: jmp l2_to; nop; l2_to: vmmcall")
extern u8 l2_from[], l2_to[];

static void test_branch_records(void)
{
	record_host_branch();
	CHECK_EQUAL("the-last-branch-began", rdmsr(BRANCH_FROM), (u64)host_from);
	CHECK_EQUAL("and-ended", rdmsr(BRANCH_TO), (u64)host_to);
	vmcb_make(l2_branch);
	vmcb.control.virt_ext = VIRT_EXT_LBR;
	vmcb.save.dbgctl = 1;
	CHECK_EQUAL("l2-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("with-debugctl-of-the-vmcb", l2_regs[L2_RBX], 1);
	CHECK_EQUAL("the-guests-branch-is-in-the-vmcb", vmcb.save.br_from, (u64)l2_from);
	CHECK_EQUAL("with-its-end", vmcb.save.br_to, (u64)l2_to);
	CHECK_EQUAL("the-host-keeps-its-own", rdmsr(BRANCH_FROM), (u64)host_from);
	CHECK_EQUAL("and-its-debugctl", rdmsr(MSR_DEBUGCTL), 0);
	vmcb_make(l2_branch);
	wrmsr(MSR_DEBUGCTL, 1);
	u64 exit = svm_run();
	wrmsr(MSR_DEBUGCTL, 0);
	CHECK_EQUAL("l2-runs", exit, SVM_EXIT_VMMCALL);
	CHECK_EQUAL("without-virtualization-it-shares-debugctl", l2_regs[L2_RBX], 1);
}

/* --- PAT --- */

L2(l2_pat, "mov $0x277, %ecx; rdmsr; mov %eax, %ebx; mov $0x06060606, %eax; mov %eax, %edx; wrmsr; vmmcall")

static void test_pat(void)
{
	u64 pat = rdmsr(0x277);
	vmcb_make(l2_pat);
	npt_use();
	vmcb.save.g_pat = 0x0101010101010101;
	CHECK_EQUAL("l2-uses-its-pat", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("it-reads-the-vmcbs", l2_regs[L2_RBX], 0x01010101);
	CHECK_EQUAL("and-writes-it", vmcb.save.g_pat, 0x0606060606060606);
	CHECK_EQUAL("the-hosts-stays", rdmsr(0x277), pat);
}

/* --- guest mode execute trap --- */

static u8 code_page[4096] ALIGNED(4096);

L2(l2_run_code, "call code_page; vmmcall")

__attribute__((naked)) static void user_code(void)
{
	asm volatile("vmmcall");
}

/* Guest mode execute trap: the U bit keeps supervisors from executing, and says nothing else. */
static void test_gmet(void)
{
	code_page[0] = 0xc3;
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
	vmcb_make(l2_run_code);
	npt_use();
	vmcb.control.nested_ctl |= NESTED_GMET;
	for (unsigned i = 0; i < 8 * 512; i++)
		npt_pt[i / 512][i % 512] &= ~PTE_U;
	CHECK_EQUAL("with-gmet-supervisor-pages-run", svm_run(), SVM_EXIT_VMMCALL);
	vmcb.save.rip = (u64)l2_run_code;
	vmcb.control.tlb_control = TLB_FLUSH_ALL;
	*npt_entry(code_page) |= PTE_U;
	CHECK_EQUAL("user-pages-do-not", svm_run(), SVM_EXIT_NPF);
	CHECK_EQUAL("as-a-fetch", vmcb.control.exit_info1, BIT(32) | 0x15);
	CHECK_EQUAL("of-the-page", vmcb.control.exit_info2, (u64)code_page);
	vmcb.control.nested_ctl &= ~NESTED_GMET;
	vmcb.control.tlb_control = TLB_FLUSH_ALL;
	CHECK_EQUAL("without-it-supervisor-pages-do-not", svm_run(), SVM_EXIT_NPF);
	open_to_user();
	vmcb_make(user_code);
	npt_use();
	vmcb.control.nested_ctl |= NESTED_GMET;
	vmcb.save.cpl = 3;
	vmcb.save.cs.attr |= 3 << 5;
	vmcb.save.ss.attr |= 3 << 5;
	CHECK_EQUAL("users-run-user-pages", svm_run(), SVM_EXIT_VMMCALL);
}

/* --- SYSCALL as AMD has it --- */

__attribute__((naked)) static void user_sysenter(void)
{
	asm volatile("sysenter");
}

/* Compatibility mode: SYSCALL goes to CSTAR, in 64-bit mode. */
asm(".code32\n"
    "user_syscall32: mov $0x1234, %ecx; syscall; int $0x80\n"
    ".code64\n"
    "cstar_target: mov %rcx, cstar_rcx; mov %cs, cstar_cs; mov user_return_sp, %rsp; mov $0x10, %eax; mov %eax, %ss; "
    "ret\n");
extern u8 cstar_target[];
void user_syscall32(void);
u64 cstar_rcx, user_return_sp;
u16 cstar_cs;

static void test_syscall(void)
{
	open_to_user();
	CHECK_EQUAL("sysenter-is-ud-in-long-mode", run_user(user_sysenter), UD);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | 1);
	wrmsr(MSR_STAR, (u64)CODE64 << 32);
	wrmsr(0xc0000083, (u64)cstar_target);
	wrmsr(0xc0000084, 0x200);
	/* enter_user() never comes back that way: the target unwinds to here. */
	asm volatile("lea 1f(%%rip), %%rax; push %%rax; mov %%rsp, user_return_sp\n"
		     "push $0x2b; push %0; push $2; push $0x23; lea user_syscall32(%%rip), %%rax; push %%rax; iretq\n"
		     "1:"
		     :
		     : "r"((u64)user_stack + sizeof user_stack)
		     : "rax", "rcx", "rdx", "rbx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
		       "memory");
	CHECK_EQUAL("syscall-in-compatibility-mode-enters-64-bit-code", cstar_cs, CODE64);
	CHECK_EQUAL("and-keeps-the-return-address", cstar_rcx, (u64)user_syscall32 + 7);
}

/* --- near branches --- */

/* With an operand-size prefix the target has 16 bits, in 64-bit mode too. Each piece ends with a jump to RBX. */
static u64 run_low(const u8 *code, unsigned n, u64 rdx)
{
	enum { LOW = 0x9000 };
	static const u8 back[] = { 0xb9, 0x34, 0x12, 0, 0, 0xff, 0xe3 }; /* mov $0x1234, %ecx; jmp *%rbx */
	u64 rcx = 0;
	memcpy((void *)LOW, back, sizeof(back));
	memcpy(code_page, code, n);
	memcpy(code_page + n, back, sizeof(back));
	code_page[n + 1] = 0x56;
	asm volatile("lea 1f(%%rip), %%rbx; jmp *%2; 1:" : "+c"(rcx), "+d"(rdx) : "r"(code_page) : "rbx", "memory");
	return rcx;
}

static void test_near_branches(void)
{
	static const u8 jump[] = { 0x66, 0xff, 0xe2 };               /* jmp *%dx */
	static const u8 always[] = { 0x38, 0xc0, 0x66, 0x74, 0x00 }; /* cmp %al, %al; je to the next, in 16 bits */
	static const u8 never[] = { 0x38, 0xc0, 0x66, 0x75, 0x00 };  /* cmp %al, %al; jne */
	static const u8 relative[] = { 0x66, 0xe9, 0x00, 0x00 };     /* jmp to the next, in 16 bits */
	CHECK_EQUAL("an-indirect-jump-has-16-bits", run_low(jump, sizeof(jump), 0x12349000), 0x1234);
	CHECK_EQUAL("a-branch-not-taken-goes-on", run_low(never, sizeof(never), 0), 0x1256);
	/* The low 16 bits of what follows the branch, with the same code there. */
	u64 low = (u64)code_page & 0xffff;
	memcpy((void *)(low + sizeof(always)), (const u8[]){ 0xb9, 0x78, 0x12, 0, 0, 0xff, 0xe3 }, 7);
	CHECK_EQUAL("a-conditional-branch-has-16-bits", run_low(always, sizeof(always), 0), 0x1278);
	memcpy((void *)(low + sizeof(relative)), (const u8[]){ 0xb9, 0x79, 0x12, 0, 0, 0xff, 0xe3 }, 7);
	CHECK_EQUAL("a-relative-jump-has-16-bits", run_low(relative, sizeof(relative), 0), 0x1279);
}

/* --- clean bits --- */

L2(l2_vmmcall, "vmmcall")

/* A clean bit lets the processor use what it remembers of that part of the VMCB; a clear one does not. */
static void test_clean_bits(void)
{
	CHECK_EQUAL("l2-runs", svm_run_fresh(l2_vmmcall), SVM_EXIT_VMMCALL);
	vmcb.control.clean = 0xffff;
	CHECK_EQUAL("clean-bits-are-hints", svm_run(), SVM_EXIT_VMMCALL);
	vmcb.control.clean = 0;
	vmcb.save.cr4 |= BIT(13);
	CHECK_EQUAL("what-is-not-clean-is-read-again", svm_run(), EXIT_FAILED);
}

/* --- the lock --- */

/* --- performance counters of guests and hosts only (13.2.1) --- */

enum { PERF_CTL0 = 0xc0010200, PERF_CTR0 };
#define COUNT_INSTRUCTIONS (0xc0 | BIT(16) | BIT(17) | BIT(22))
#define GUEST_ONLY         BIT(40)
#define HOST_ONLY          BIT(41)

L2(l2_5_nops, "nop; nop; nop; nop; nop; vmmcall")
L2(l2_loop, "mov $300, %ecx; 1: dec %ecx; jnz 1b; vmmcall")

static u64 count_run(void (*code)(void), u64 only)
{
	vmcb_make(code);
	wrmsr(PERF_CTR0, 0);
	wrmsr(PERF_CTL0, COUNT_INSTRUCTIONS | only);
	u64 exit = svm_run();
	wrmsr(PERF_CTL0, 0);
	return exit == SVM_EXIT_VMMCALL ? rdmsr(PERF_CTR0) : ~0ULL;
}

static void test_counters(void)
{
	/* VMRUN retires in the guest, what exits does not. */
	CHECK_EQUAL("guest-only-counts-the-guest", count_run(l2_5_nops, GUEST_ONLY), 1 + 5);
	CHECK_EQUAL("all-that-it-does", count_run(l2_loop, GUEST_ONLY), 1 + 601);
	u64 host = count_run(l2_5_nops, HOST_ONLY);
	CHECK_EQUAL("host-only-counts-the-same-for-any-guest", count_run(l2_loop, HOST_ONLY), host);
	CHECK_EQUAL("both-bits-count-both", count_run(l2_loop, GUEST_ONLY | HOST_ONLY), host + 602);
	CHECK_EQUAL("as-does-none", count_run(l2_loop, 0), host + 602);
}

static void test_lock(void)
{
	CHECK_EQUAL("svm-in-use-cannot-be-disabled", TRY("wrmsr", : : "a"(0x10), "d"(0), "c"(MSR_VM_CR)), GP);
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~EFER_SVME);
	wrmsr(MSR_VM_CR, VM_CR_SVMDIS | VM_CR_LOCK);
	wrmsr(MSR_VM_CR, 0);
	CHECK_EQUAL("locked-it-stays", rdmsr(MSR_VM_CR), VM_CR_SVMDIS | VM_CR_LOCK);
	CHECK_EQUAL("and-svme-cannot-be-set",
		    TRY("rdmsr; or $0x1000, %%eax; wrmsr",
			:
			: "c"(MSR_EFER)
			: "rax", "rdx"),
		    GP);
}

void guest_main(void)
{
	svm_start();
	test_tsc();
	test_pause_filter();
	test_branch_records();
	test_pat();
	test_gmet();
	test_syscall();
	test_near_branches();
	test_clean_bits();
	test_counters();
	test_lock();
	guest_exit();
}
