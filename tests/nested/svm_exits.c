/*
 * Instructions that exit by their intercept and not without it: code, next RIP, and the details that decode assists
 * give; permission maps.
 */
#include "svm.h"

static u8 table_image[16] __attribute__((used));
static u64 word_in_memory __attribute__((used));
static struct {
	u64 low, high;
} descriptor;

L2(l2_cpuid, "xor %eax, %eax; cpuid; vmmcall")
L2(l2_rdtsc, "rdtsc; vmmcall")
L2(l2_rdtscp, "rdtscp; vmmcall")
L2(l2_pushf, "pushf; pop %rax; vmmcall")
L2(l2_popf, "push $2; popf; vmmcall")
L2(l2_invd, "invd; vmmcall")
L2(l2_wbinvd, "wbinvd; vmmcall")
L2(l2_pause, "pause; vmmcall")
L2(l2_monitor, "lea word_in_memory, %rax; xor %ecx, %ecx; xor %edx, %edx; monitor; vmmcall")
L2(l2_invlpga, "mov $0x5000, %eax; mov $1, %ecx; invlpga %rax, %ecx; vmmcall")
L2(l2_vmload, "lea other_vmcb, %rax; vmload %rax; vmmcall")
L2(l2_vmsave, "lea other_vmcb, %rax; vmsave %rax; vmmcall")
L2(l2_stgi, "stgi; vmmcall")
L2(l2_clgi, "clgi; vmmcall")
L2(l2_sgdt, "sgdt table_image; vmmcall")
L2(l2_sidt, "sidt table_image; vmmcall")
L2(l2_sldt, "sldt %eax; vmmcall")
L2(l2_str, "str %eax; vmmcall")
L2(l2_lgdt, "sgdt table_image; lgdt table_image; vmmcall")
L2(l2_lidt, "sidt table_image; lidt table_image; vmmcall")
L2(l2_lldt, "xor %eax, %eax; lldt %ax; vmmcall")
L2(l2_invlpg, "invlpg 0x5678; vmmcall")
L2(l2_read_cr0, "mov %cr0, %rbx; vmmcall")
L2(l2_read_cr2, "mov %cr2, %rbp; vmmcall")
L2(l2_read_cr3, "mov %cr3, %rsi; vmmcall")
L2(l2_read_cr4, "mov %cr4, %r9; vmmcall")
L2(l2_read_cr8, "mov %cr8, %rdi; vmmcall")
L2(l2_write_cr0, "mov %cr0, %rbx; mov %rbx, %cr0; vmmcall")
L2(l2_write_cr2, "mov %rbp, %cr2; vmmcall")
L2(l2_write_cr3, "mov %cr3, %rsi; mov %rsi, %cr3; vmmcall")
L2(l2_write_cr4, "mov %cr4, %r9; mov %r9, %cr4; vmmcall")
L2(l2_write_cr8, "xor %edi, %edi; mov %rdi, %cr8; vmmcall")
L2(l2_smsw, "smsw %eax; vmmcall")
L2(l2_clts, "clts; vmmcall")
L2(l2_lmsw, "smsw %eax; lmsw %ax; vmmcall")
L2(l2_read_dr3, "mov %dr3, %rdx; vmmcall")
L2(l2_write_dr7, "mov %dr7, %rax; mov %rax, %dr7; vmmcall")
L2(l2_int_80, "int $0x80; vmmcall")
L2(l2_icebp, ".byte 0xf1; vmmcall")
L2(l2_rsm, "rsm; vmmcall")
L2(l2_iret, "mov %rsp, %rbx; mov %ss, %eax; push %rax; push %rbx; pushf; mov %cs, %eax; push %rax;"
	    "lea 1f(%rip), %rax; push %rax; iretq; 1: vmmcall")
L2(l2_invpcid, "mov $2, %ecx; invpcid descriptor, %rcx; vmmcall")

#define MOV(gpr) (BIT(63) | (gpr))
enum { ANY = 1000 };

/* `length`: of the instruction, which is the last before VMMCALL. `info1` without decode assists is 0. */
static const struct {
	const char *name;
	void (*code)(void);
	unsigned exit, length;
	u64 info1;
} cases[] = {
	{ "cpuid", l2_cpuid, SVM_EXIT_CPUID, 2, 0 },
	{ "rdtsc", l2_rdtsc, SVM_EXIT_RDTSC, 2, 0 },
	{ "rdtscp", l2_rdtscp, SVM_EXIT_RDTSCP, 3, 0 },
	{ "pushf", l2_pushf, SVM_EXIT_PUSHF, ANY, 0 },
	{ "popf", l2_popf, SVM_EXIT_POPF, 1, 0 },
	{ "invd", l2_invd, SVM_EXIT_INVD, 2, 0 },
	{ "wbinvd", l2_wbinvd, SVM_EXIT_WBINVD, 2, 0 },
	{ "pause", l2_pause, SVM_EXIT_PAUSE, 2, 0 },
	{ "monitor", l2_monitor, SVM_EXIT_MONITOR, 3, 0 },
	{ "invlpga", l2_invlpga, SVM_EXIT_INVLPGA, 3, 0x5000 },
	{ "vmload", l2_vmload, SVM_EXIT_VMLOAD, 3, 0 },
	{ "vmsave", l2_vmsave, SVM_EXIT_VMSAVE, 3, 0 },
	{ "stgi", l2_stgi, SVM_EXIT_STGI, 3, 0 },
	{ "clgi", l2_clgi, SVM_EXIT_CLGI, 3, 0 },
	{ "sgdt", l2_sgdt, SVM_EXIT_GDTR_READ, 8, 0 },
	{ "sidt", l2_sidt, SVM_EXIT_IDTR_READ, 8, 0 },
	{ "sldt", l2_sldt, SVM_EXIT_LDTR_READ, 3, 0 },
	{ "str", l2_str, SVM_EXIT_TR_READ, 3, 0 },
	{ "lgdt", l2_lgdt, SVM_EXIT_GDTR_WRITE, 8, 0 },
	{ "lidt", l2_lidt, SVM_EXIT_IDTR_WRITE, 8, 0 },
	{ "lldt", l2_lldt, SVM_EXIT_LDTR_WRITE, 3, 0 },
	{ "invlpg", l2_invlpg, SVM_EXIT_INVLPG, 8, 0x5678 },
	{ "read-cr0", l2_read_cr0, SVM_EXIT_CR_READ + 0, 3, MOV(3) },
	{ "read-cr2", l2_read_cr2, SVM_EXIT_CR_READ + 2, 3, MOV(5) },
	{ "read-cr3", l2_read_cr3, SVM_EXIT_CR_READ + 3, 3, MOV(6) },
	{ "read-cr4", l2_read_cr4, SVM_EXIT_CR_READ + 4, 4, MOV(9) },
	{ "read-cr8", l2_read_cr8, SVM_EXIT_CR_READ + 8, 4, MOV(7) },
	{ "write-cr0", l2_write_cr0, SVM_EXIT_CR_WRITE + 0, 3, MOV(3) },
	{ "write-cr2", l2_write_cr2, SVM_EXIT_CR_WRITE + 2, 3, MOV(5) },
	{ "write-cr3", l2_write_cr3, SVM_EXIT_CR_WRITE + 3, 3, MOV(6) },
	{ "write-cr4", l2_write_cr4, SVM_EXIT_CR_WRITE + 4, 4, MOV(9) },
	{ "write-cr8", l2_write_cr8, SVM_EXIT_CR_WRITE + 8, 4, MOV(7) },
	{ "smsw", l2_smsw, SVM_EXIT_CR_READ + 0, 3, 0 },
	{ "clts", l2_clts, SVM_EXIT_CR_WRITE + 0, 2, 0 },
	{ "lmsw", l2_lmsw, SVM_EXIT_CR_WRITE + 0, 3, 0 },
	{ "lmsw-selectively", l2_lmsw, SVM_EXIT_CR0_SEL_WRITE, 3, 0 },
	{ "read-dr3", l2_read_dr3, SVM_EXIT_DR_READ + 3, 3, 2 },
	{ "write-dr7", l2_write_dr7, SVM_EXIT_DR_WRITE + 7, 3, 0 },
	{ "int-80", l2_int_80, SVM_EXIT_SWINT, 2, 0x80 },
	{ "icebp", l2_icebp, SVM_EXIT_ICEBP, 1, 0 },
	{ "iret", l2_iret, SVM_EXIT_IRET, 2, 0 },
	{ "invpcid", l2_invpcid, SVM_EXIT_INVPCID, 10, (u64)&descriptor },
};

static void handler(struct frame *frame)
{
}

static void test_intercepts(void)
{
	handlers[0x80] = handler;
	handlers[DB] = handler;
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		print("# %s\n", cases[i].name);
		CHECK_EQUAL("without-the-intercept-it-runs", svm_run_fresh(cases[i].code), SVM_EXIT_VMMCALL);
		u64 end = vmcb.save.rip;
		vmcb_make(cases[i].code);
		intercept(cases[i].exit);
		CHECK_EQUAL("with-it-exits", svm_run(), cases[i].exit);
		if (cases[i].length != ANY)
			CHECK_EQUAL("at-the-instruction", vmcb.save.rip, end - cases[i].length);
		CHECK("next-rip-is-behind-it", vmcb.control.next_rip > vmcb.save.rip && vmcb.control.next_rip <= end);
		CHECK_EQUAL("exitinfo1", vmcb.control.exit_info1, cases[i].info1);
	}
}

/* #UD outside system-management mode, unless intercepted. */
static void test_rsm(void)
{
	vmcb_make(l2_rsm);
	intercept(SVM_EXIT_EXCEPTION + UD);
	CHECK_EQUAL("rsm-is-ud", svm_run(), SVM_EXIT_EXCEPTION + UD);
	intercept(SVM_EXIT_RSM);
	CHECK_EQUAL("but-its-intercept-comes-first", svm_run(), SVM_EXIT_RSM);
}

L2(l2_set_mp, "mov %cr0, %rax; xor $2, %rax; mov %rax, %cr0; vmmcall")
L2(l2_set_am, "mov %cr0, %rax; xor $0x40000, %rax; mov %rax, %cr0; vmmcall")

static void test_selective_cr0(void)
{
	vmcb_make(l2_set_mp);
	intercept(SVM_EXIT_CR0_SEL_WRITE);
	CHECK_EQUAL("selective-intercept-ignores-mp", svm_run(), SVM_EXIT_VMMCALL);
	vmcb_make(l2_set_am);
	intercept(SVM_EXIT_CR0_SEL_WRITE);
	CHECK_EQUAL("selective-intercept-sees-am", svm_run(), SVM_EXIT_CR0_SEL_WRITE);
	intercept(SVM_EXIT_CR_WRITE + 0);
	CHECK_EQUAL("the-plain-intercept-comes-first", svm_run(), SVM_EXIT_CR_WRITE + 0);
}

/* --- I/O --- */

L2(l2_in, "mov $0x5001, %edx; in %dx, %eax; vmmcall")
L2(l2_out, "xor %eax, %eax; out %al, $0x80; vmmcall")
L2(l2_rep_outs, "lea word_in_memory, %rsi; mov $2, %ecx; mov $0x80, %edx; rep outsw; vmmcall")
L2(l2_wrap, "mov $0xffff, %edx; in %dx, %ax; vmmcall")

static u64 io_exit(void (*code)(void), unsigned port)
{
	vmcb_make(code);
	intercept(SVM_EXIT_IOIO);
	iopm[port / 8] |= (u8)(1 << port % 8);
	return svm_run();
}

static void test_io(void)
{
	CHECK_EQUAL("a-port-not-in-the-map-passes", io_exit(l2_in, 0x5000), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("any-byte-of-the-access-counts", io_exit(l2_in, 0x5004), SVM_EXIT_IOIO);
	CHECK_EQUAL("in-dword", vmcb.control.exit_info1, 0x50010000 | 4 << 7 | 4 << 4 | 1);
	CHECK_EQUAL("exitinfo2-is-the-next-rip", vmcb.control.exit_info2, vmcb.save.rip + 1);
	CHECK_EQUAL("out-exits", io_exit(l2_out, 0x80), SVM_EXIT_IOIO);
	CHECK_EQUAL("out-byte", vmcb.control.exit_info1, 0x800000 | 4 << 7 | 1 << 4);
	CHECK_EQUAL("rep-outs-exits", io_exit(l2_rep_outs, 0x81), SVM_EXIT_IOIO);
	CHECK_EQUAL("rep-outs-word", vmcb.control.exit_info1, 0x800000 | 3 << 10 | 4 << 7 | 2 << 4 | BIT(3) | BIT(2));
	CHECK_EQUAL("behind-the-last-port-the-map-goes-on", io_exit(l2_wrap, 0x10000), SVM_EXIT_IOIO);
}

/* --- MSRs --- */

L2(l2_rdmsr, "mov $0xc0000082, %ecx; rdmsr; vmmcall")
L2(l2_wrmsr, "mov $0xc0000082, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; vmmcall")
L2(l2_rdmsr_low, "mov $0x174, %ecx; rdmsr; vmmcall")
L2(l2_rdmsr_amd, "mov $0xc0010015, %ecx; rdmsr; vmmcall")
L2(l2_rdmsr_other, "mov $0x12345678, %ecx; rdmsr; vmmcall")

static u64 msr_exit(void (*code)(void), unsigned offset, u8 bits)
{
	vmcb_make(code);
	intercept(SVM_EXIT_MSR);
	msrpm[offset] = bits;
	return svm_run();
}

static void test_msrs(void)
{
	const unsigned lstar = 0x800 + 0x82 / 4, low = 0x174 / 4, amd = 0x1000 + 0x15 / 4;
	CHECK_EQUAL("rdmsr-exits-by-the-read-bit", msr_exit(l2_rdmsr, lstar, 0x10), SVM_EXIT_MSR);
	CHECK_EQUAL("rdmsr-is-info-0", vmcb.control.exit_info1, 0);
	CHECK_EQUAL("rdmsr-passes-other-bits", msr_exit(l2_rdmsr, lstar, 0xef), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("wrmsr-passes-the-read-bit", msr_exit(l2_wrmsr, lstar, 0x10), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("wrmsr-exits-by-the-write-bit", msr_exit(l2_wrmsr, lstar, 0x20), SVM_EXIT_MSR);
	CHECK_EQUAL("wrmsr-is-info-1", vmcb.control.exit_info1, 1);
	CHECK_EQUAL("low-range", msr_exit(l2_rdmsr_low, low, 1), SVM_EXIT_MSR);
	CHECK_EQUAL("amd-range", msr_exit(l2_rdmsr_amd, amd, 4), SVM_EXIT_MSR);
	CHECK_EQUAL("amd-range-passes", msr_exit(l2_rdmsr_amd, amd, 0), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("others-exit-always", msr_exit(l2_rdmsr_other, 0, 0), SVM_EXIT_MSR);
}

void guest_main(void)
{
	svm_start();
	test_intercepts();
	test_rsm();
	test_selective_cr0();
	test_io();
	test_msrs();
	guest_exit();
}
