/* Every exception that software can cause in 64-bit mode: vector, error code, saved RIP, and that it can be restarted.
 */
#include "lib/guest.h"

static void test_divide(void)
{
	TRY_AT("div %%cl", : : "a"(1000), "c"(0) : "memory");
	CHECK("div-by-zero-is-de", is_fault(DE, 0));
	TRY_AT("div %%cl", : : "a"(0x1000), "c"(1) : "memory");
	CHECK("div-quotient-overflow-is-de", is_fault(DE, 0));
	TRY_AT("idiv %%ecx", : : "a"(0x80000000), "d"(-1), "c"(-1) : "memory");
	CHECK("idiv-overflow-is-de", is_fault(DE, 0));
	u64 low = 1, high = 5;
	TRY("div %%rcx", : "+a"(low), "+d"(high) : "c"(5ULL) : "memory");
	CHECK("div-fault-leaves-registers", fault.vector == DE && low == 1 && high == 5);
}

static void test_software(void)
{
	TRY("int3", : : : "memory");
	CHECK("int3-is-a-trap", fault.vector == BP && *(u8 *)(fault.ip - 1) == 0xcc);
	TRY(".byte 0xcd, 3", : : : "memory");
	CHECK("int-3-is-a-trap", fault.vector == BP && *(u8 *)(fault.ip - 2) == 0xcd);
	TRY("int $0x80", : : : "memory");
	CHECK("int-n-saves-next-ip", fault.vector == 0x80 && *(u8 *)(fault.ip - 2) == 0xcd);
	TRY_AT("int $0xff\n", : : : "memory");
	CHECK("int-n-at-cpl-0-ignores-gate-dpl", fault.vector == 0xff);
	TRY(".byte 0xf1", : : : "memory");
	CHECK("int1-is-db-trap", fault.vector == DB && *(u8 *)(fault.ip - 1) == 0xf1);
}

static void test_undefined(void)
{
	TRY_AT("ud2", : : : "memory");
	CHECK("ud2-is-ud", is_fault(UD, 0));
	TRY_AT(".byte 0x06", : : : "memory");
	CHECK("push-es-is-ud-in-64-bit-mode", is_fault(UD, 0));
	TRY_AT(".byte 0xf0, 0x90", : : : "memory");
	CHECK("lock-nop-is-ud", is_fault(UD, 0));
	TRY_AT(".byte 0xf0, 0x01, 0xc8", : : : "memory");
	CHECK("lock-on-register-is-ud", is_fault(UD, 0));
	TRY_AT(".byte 0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x66,0x90", : : : "memory");
	CHECK("sixteen-bytes-are-gp", is_fault(GP, 0));
	TRY_AT("mov %%cs, %%eax; mov %%eax, %%eax\n", : : : "eax", "memory");
	CHECK("mov-from-cs-is-fine", fault.vector == NO_FAULT);
	TRY_AT(".byte 0x8e, 0xc8", : : : "memory");
	CHECK("mov-to-cs-is-ud", is_fault(UD, 0));
	TRY_AT("mov %%cr1, %%rax", : : : "rax", "memory");
	CHECK("mov-from-cr1-is-ud", is_fault(UD, 0));
	TRY_AT(".byte 0x0f, 0x0b, 0x90", : : : "memory");
	CHECK("ud2-again-is-ud", is_fault(UD, 0));
}

static void test_general_protection(void)
{
	TRY_AT("mov %%eax, %%fs", : : "a"(0x400) : "memory");
	CHECK("selector-beyond-gdt-is-gp-with-selector", is_fault(GP, 0x400));
	TRY_AT("mov %%eax, %%fs", : : "a"(0x403) : "memory");
	CHECK("gp-error-code-has-no-rpl", is_fault(GP, 0x400));
	asm volatile("lldt %w0" : : "r"(0));
	TRY_AT("mov %%eax, %%fs", : : "a"(0x14) : "memory");
	CHECK("selector-in-missing-ldt-is-gp-with-ti", is_fault(GP, 0x14));
	TRY_AT("mov %%eax, %%ss", : : "a"(0) : "memory");
	CHECK("null-ss-at-cpl-0-is-fine-in-64-bit-mode", fault.vector == NO_FAULT);
	TRY_AT("mov %%eax, %%ss", : : "a"(3) : "memory");
	CHECK("null-ss-with-rpl-3-is-gp-at-cpl-0", is_fault(GP, 0));
	TRY_AT("mov %%eax, %%ss", : : "a"(CODE64) : "memory");
	CHECK("code-in-ss-is-gp", is_fault(GP, CODE64));
	asm volatile("mov %0, %%ss" : : "r"(DATA));
	TRY_AT("mov %%eax, %%ds", : : "a"(TSS) : "memory");
	CHECK("tss-in-ds-is-gp", is_fault(GP, TSS));
	TRY_AT("wrmsr", : : "c"(0xc0000080), "a"(BIT(1)), "d"(0) : "memory");
	CHECK("reserved-efer-bit-is-gp", is_fault(GP, 0));
	TRY_AT("rdmsr", : : "c"(0xdead0000) : "rax", "rdx", "memory");
	CHECK("unknown-msr-is-gp", is_fault(GP, 0));
	TRY_AT("mov %0, %%cr0", : : "r"(read_cr0() | BIT(40)) : "memory");
	CHECK("reserved-cr0-bit-is-gp", is_fault(GP, 0));
	TRY_AT("mov %0, %%cr0", : : "r"(read_cr0() & ~BIT(0)) : "memory");
	CHECK("cr0-pg-without-pe-is-gp", is_fault(GP, 0));
	TRY_AT("mov %0, %%cr4", : : "r"(read_cr4() & ~BIT(5)) : "memory");
	CHECK("clearing-pae-in-long-mode-is-gp", is_fault(GP, 0));
	TRY_AT("mov %0, %%cr4", : : "r"(read_cr4() | BIT(31)) : "memory");
	CHECK("reserved-cr4-bit-is-gp", is_fault(GP, 0));
	TRY_AT("mov %0, %%cr8", : : "r"(0x10ULL) : "memory");
	CHECK("cr8-above-15-is-gp", is_fault(GP, 0));
	TRY_AT("mov %%rax, (%%rbx)", : : "a"(0), "b"(0x8000000000000000) : "memory");
	CHECK("non-canonical-write-is-gp", is_fault(GP, 0));
	TRY_AT("mov (%%rbx), %%rax", : : "b"(0x0000800000000000 - 4) : "rax", "memory");
	CHECK("read-across-the-canonical-edge-is-gp", fault.vector == GP || fault.vector == PF);
	TRY_AT("jmp *%%rax", : : "a"(0x8000000000000000) : "memory");
	CHECK("jump-to-non-canonical-is-gp-at-the-jump", is_fault(GP, 0));
	TRY_AT("movaps %%xmm0, 1(%%rbx)", : : "b"(user_stack) : "memory");
	bool no_sse = fault.vector == UD; /* CR4.OSFXSR is off */
	CHECK("sse-without-osfxsr-is-ud", no_sse);
	write_cr4(read_cr4() | BIT(9) | BIT(10));
	TRY_AT("movaps %%xmm0, 1(%%rbx)", : : "b"(user_stack) : "memory");
	CHECK("misaligned-movaps-is-gp", is_fault(GP, 0));
	TRY_AT("movups %%xmm0, 1(%%rbx)", : : "b"(user_stack) : "memory");
	CHECK("misaligned-movups-is-fine", fault.vector == NO_FAULT);
}

static u8 fault_stack[4096] ALIGNED(16);
extern u8 exception_entries[256][16];

static void test_stack(void)
{
	/* Nothing can be delivered on a stack that is not there: a stack from the TSS. */
	tss.ist[0] = (u64)fault_stack + sizeof fault_stack;
	set_gate(SS, exception_entries[SS], CODE64, 0x8e, 1);
	TRY("mov %%rax, %%rsp; push %%rcx", : : "a"(0x8000000000000000) : "memory");
	CHECK("push-to-non-canonical-is-ss", fault.vector == SS && fault.error == 0);
	TRY("mov %%rax, %%rsp; call 1f; 1:", : : "a"(0x8000000000000000) : "memory");
	CHECK("call-to-non-canonical-stack-is-ss", fault.vector == SS && fault.error == 0);
	TRY("mov %%rax, %%rsp; mov 8(%%rsp), %%rcx", : : "a"(0x8000000000000000) : "rcx", "memory");
	CHECK("rsp-based-non-canonical-is-ss", fault.vector == SS && fault.error == 0);
	TRY("push %%rbp; mov %%rax, %%rbp; movq $96f, fault(%%rip); movq %%rsp, fault+8(%%rip); mov (%%rbp), %%rcx; "
	    "96: pop %%rbp",
	    :
	    : "a"(0x8000000000000000)
	    : "rcx", "memory");
	CHECK("rbp-based-non-canonical-is-ss", fault.vector == SS && fault.error == 0);
	set_gate(SS, exception_entries[SS], CODE64, 0x8e, 0);
}

static void test_not_present(void)
{
	gdt[GDT_FREE / 8] = 0x00cf13000000ffff; /* data, P = 0 */
	TRY_AT("mov %%eax, %%fs", : : "a"(GDT_FREE) : "memory");
	CHECK("absent-data-segment-is-np", is_fault(NP, GDT_FREE));
	TRY_AT("mov %%eax, %%ss", : : "a"(GDT_FREE) : "memory");
	CHECK("absent-stack-segment-is-ss", is_fault(SS, GDT_FREE));
	set_gate(0x90, (void *)test_not_present, CODE64, 0x0e, 0);
	TRY_AT("int $0x90", : : : "memory");
	CHECK("absent-gate-is-np-with-idt-bit", is_fault(NP, 0x90 * 8 + 2));
	set_gate(0x91, (void *)test_not_present, 0x1f8, 0x8e, 0);
	TRY_AT("int $0x91", : : : "memory");
	CHECK("gate-to-missing-segment-is-gp", is_fault(GP, 0x1f8 & ~7) || is_fault(GP, 0x1f8));
	set_gate(0x92, (void *)test_not_present, CODE64, 0x85, 0);
	TRY_AT("int $0x92", : : : "memory");
	CHECK("task-gate-in-long-mode-is-gp", is_fault(GP, 0x92 * 8 + 2));
}

static void test_device_not_available(void)
{
	write_cr0(read_cr0() | BIT(3)); /* TS */
	TRY_AT("fninit", : : : "memory");
	CHECK("x87-with-ts-is-nm", is_fault(NM, 0));
	TRY_AT("movups %%xmm0, %%xmm1", : : : "memory");
	CHECK("sse-with-ts-is-nm", is_fault(NM, 0));
	TRY_AT("clts; fninit", : : : "memory");
	CHECK("clts-clears-ts", fault.vector == NO_FAULT);
}

static void test_floating_point(void)
{
	u16 control = 0x37b; /* zero divide unmasked */
	asm volatile("fninit; fldcw %0; fld1; fldz" : : "m"(control));
	asm volatile("fdivrp" : : : "memory");
	TRY_AT("fwait", : : : "memory");
	CHECK("x87-error-is-mf-at-the-next-waiting-instruction", is_fault(MF, 0));
	asm volatile("fnclex; fninit");
	u32 mxcsr = 0x1f80 & ~BIT(9), normal = 0x1f80;
	float one = 1, zero = 0;
	asm volatile("ldmxcsr %0; movss %1, %%xmm0" : : "m"(mxcsr), "m"(one));
	TRY_AT("divss %0, %%xmm0", : : "m"(zero) : "memory");
	CHECK("unmasked-sse-exception-is-xm", is_fault(XM, 0));
	asm volatile("ldmxcsr %0" : : "m"(normal));
}

/* --- CPL 3 --- */

asm(".text\n"
    "user_cli: cli; int $0x80\n"
    "user_hlt: hlt; int $0x80\n"
    "user_rdmsr: rdmsr; int $0x80\n"
    "user_cr0: mov %cr0, %rax; int $0x80\n"
    "user_in: in $0x80, %al; int $0x80\n"
    "user_int_0x81: int $0x81; int $0x80\n"
    "user_int_0x80: int $0x80\n"
    "user_unaligned: pushf; orl $0x40000, (%rsp); popf; lea user_stack(%rip), %rax; mov 1(%rax), %ecx; int $0x80\n"
    "user_aligned: pushf; orl $0x40000, (%rsp); popf; lea user_stack(%rip), %rax; mov 4(%rax), %ecx; int $0x80\n"
    "user_load_ss: mov $0x10, %eax; mov %eax, %ss; int $0x80\n"
    "user_popf_if: pushf; orl $0x200, (%rsp); popf; pushf; pop %rax; int $0x80\n");
extern void user_cli(void), user_hlt(void), user_rdmsr(void), user_cr0(void), user_in(void), user_int_0x81(void),
	user_int_0x80(void), user_unaligned(void), user_aligned(void), user_load_ss(void), user_popf_if(void);

static void test_user(void)
{
	open_to_user();
	static const struct {
		void (*code)(void);
		word vector, error;
		const char *name;
	} cases[] = {
		{ user_cli, GP, 0, "cli-at-cpl-3-is-gp" },
		{ user_hlt, GP, 0, "hlt-at-cpl-3-is-gp" },
		{ user_rdmsr, GP, 0, "rdmsr-at-cpl-3-is-gp" },
		{ user_cr0, GP, 0, "mov-cr-at-cpl-3-is-gp" },
		{ user_in, GP, 0, "in-without-io-permission-is-gp" },
		{ user_int_0x81, GP, 0x81 * 8 + 2, "int-through-dpl-0-gate-is-gp-with-idt-bit" },
		{ user_load_ss, GP, 0x10, "ss-of-other-dpl-is-gp" },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		run_user(cases[i].code);
		CHECK(cases[i].name,
		      fault.vector == cases[i].vector && fault.error == cases[i].error && (fault.cs & 3) == 3);
	}
	CHECK("int-through-dpl-3-gate", run_user(user_int_0x80) == 0x80);
	CHECK("alignment-is-free-without-cr0-am", run_user(user_unaligned) == 0x80);
	write_cr0(read_cr0() | BIT(18));
	CHECK("unaligned-access-with-am-and-ac-is-ac", run_user(user_unaligned) == AC && fault.error == 0);
	CHECK("aligned-access-with-am-and-ac-is-fine", run_user(user_aligned) == 0x80);
	asm volatile("pushf; orl $0x40000, (%%rsp); popf; mov 1(%0), %%eax; pushf; andl $~0x40000, (%%rsp); popf"
		     :
		     : "r"(user_stack)
		     : "eax");
	CHECK("no-alignment-check-at-cpl-0", true);
	write_cr0(read_cr0() & ~BIT(18));
	CHECK("popf-at-cpl-3-keeps-if", run_user(user_popf_if) == 0x80 && !(fault.flags & BIT(9)));
	/* The same code at IOPL 0 and 3, over and over: translated code must look each time. */
	bool by_iopl = true;
	for (unsigned i = 0; i < 50; i++) {
		fault.vector = NO_FAULT;
		enter_user((word)user_cli, (word)user_stack + sizeof user_stack, i & 1 ? 0x3203 : 0x203);
		by_iopl &= i & 1 ? fault.vector == 0x80 && (fault.flags & (BIT(9) | 1)) == 1
				 : fault.vector == GP && (fault.flags & (BIT(9) | 1)) == (BIT(9) | 1);
	}
	CHECK("cli-at-cpl-3-is-gp-or-clears-if-by-iopl-and-keeps-cf", by_iopl);
}

/* --- double fault --- */

static void test_double_fault(void)
{
	set_gate(DF, exception_entries[DF], CODE64, 0x8e, 1);
	/* #GP cannot be delivered: its gate is not present, #NP is contributory: #DF. */
	set_gate(GP, exception_entries[GP], CODE64, 0x0e, 0);
	TRY("mov %%eax, %%fs", : : "a"(0x400) : "memory");
	CHECK("contributory-during-contributory-is-df", fault.vector == DF && fault.error == 0);
	set_gate(GP, exception_entries[GP], CODE64, 0x8e, 0);
	/* #UD is benign: what its delivery raises is delivered as itself. */
	set_gate(UD, exception_entries[UD], CODE64, 0x0e, 0);
	TRY("ud2", : : : "memory");
	/* The error code: vector, IDT, and EXT because the program did not ask for the event that failed. */
	CHECK("contributory-during-benign-is-itself", fault.vector == NP && fault.error == UD * 8 + 3);
	set_gate(UD, exception_entries[UD], CODE64, 0x8e, 0);
	CHECK("ist-gives-the-stack", TRY("ud2", : : : "memory") == UD);
	set_gate(PF, exception_entries[PF], CODE64, 0x0e, 0);
	TRY("mov (%%rax), %%eax", : : "a"(0x4000000000) : "memory");
	CHECK("contributory-during-page-fault-is-df", fault.vector == DF);
	set_gate(PF, exception_entries[PF], CODE64, 0x8e, 0);
}

void guest_main(void)
{
	test_divide();
	test_software();
	test_undefined();
	test_general_protection();
	test_stack();
	test_not_present();
	test_device_not_available();
	test_floating_point();
	test_user();
	test_double_fault();
}
