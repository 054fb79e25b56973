/*
 * Instructions that exit: always, or by a control; and that they do not exit without it. Reason, qualification,
 * instruction length, instruction information.
 */
#include "vmx.h"

static u64 word_in_memory;
static struct {
	u64 low, high;
} descriptor;
static u8 table_image[16];

/* --- exits without more than a reason and a length --- */

L2(l2_cpuid, "cpuid; vmcall")
L2(l2_invd, "invd; vmcall")
L2(l2_xsetbv, "xor %ecx, %ecx; mov $1, %eax; xor %edx, %edx; xsetbv; vmcall")
L2(l2_hlt, "hlt; vmcall")
L2(l2_mwait, "xor %ecx, %ecx; xor %eax, %eax; mwait; vmcall")
L2(l2_monitor, "lea word_in_memory, %rax; xor %ecx, %ecx; xor %edx, %edx; monitor; vmcall")
L2(l2_pause, "pause; vmcall")
L2(l2_rdpmc, "xor %ecx, %ecx; rdpmc; vmcall")
L2(l2_rdtsc, "rdtsc; vmcall")
L2(l2_rdtscp, "rdtscp; vmcall")
L2(l2_wbinvd, "wbinvd; vmcall")
L2(l2_vmcall, "vmcall; vmcall")
L2(l2_vmlaunch, "vmlaunch; vmcall")
L2(l2_vmresume, "vmresume; vmcall")
L2(l2_vmxoff, "vmxoff; vmcall")
L2(l2_rdmsr, "mov $0xc0000080, %ecx; rdmsr; vmcall")
L2(l2_wrmsr, "mov $0x174, %ecx; xor %eax, %eax; xor %edx, %edx; wrmsr; vmcall")

struct simple {
	const char *name;
	void (*code)(void);
	u32 reason, length;
	u64 field; /* and bit of the control that asks for the exit; 0: it always comes */
	u32 bit;
};

static const struct simple simple[] = {
	{ "cpuid", l2_cpuid, EXIT_CPUID, 2, 0, 0 },
	{ "invd", l2_invd, EXIT_INVD, 2, 0, 0 },
	{ "vmcall", l2_vmcall, EXIT_VMCALL, 3, 0, 0 },
	{ "vmlaunch", l2_vmlaunch, EXIT_VMLAUNCH, 3, 0, 0 },
	{ "vmresume", l2_vmresume, EXIT_VMRESUME, 3, 0, 0 },
	{ "vmxoff", l2_vmxoff, EXIT_VMXOFF, 3, 0, 0 },
	{ "rdmsr-without-bitmaps", l2_rdmsr, EXIT_RDMSR, 2, 0, 0 },
	{ "wrmsr-without-bitmaps", l2_wrmsr, EXIT_WRMSR, 2, 0, 0 },
	{ "hlt", l2_hlt, EXIT_HLT, 1, F(cpu_controls), CPU_HLT },
	{ "mwait", l2_mwait, EXIT_MWAIT, 3, F(cpu_controls), CPU_MWAIT_EXITING },
	{ "monitor", l2_monitor, EXIT_MONITOR, 3, F(cpu_controls), CPU_MONITOR },
	{ "pause", l2_pause, EXIT_PAUSE, 2, F(cpu_controls), CPU_PAUSE },
	{ "rdtsc", l2_rdtsc, EXIT_RDTSC, 2, F(cpu_controls), CPU_RDTSC },
	{ "wbinvd", l2_wbinvd, EXIT_WBINVD, 2, F(cpu_controls2), CPU2_WBINVD },
};

static void expect_exit(const char *name, u32 reason, u32 length, u64 qualification)
{
	u32 is = (u32)vmread(F(exit_reason));
	u64 rip = vmread(F(guest_rip));
	print("# %s\n", name);
	CHECK_EQUAL("exit-reason", is, reason);
	CHECK_EQUAL("exit-length", vmread(F(exit_insn_length)), length);
	CHECK_EQUAL("exit-qualification", vmread(F(qualification)), qualification);
	l2_skip();
	CHECK_EQUAL("skipping-it-reaches-the-next-instruction", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("which-is-where-it-should-be", vmread(F(guest_rip)), rip + length);
}

static void test_simple(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(simple); i++) {
		const struct simple *s = &simple[i];
		if (s->field && s->reason != EXIT_HLT) {
			vmcs_make(s->code);
			CHECK_EQUAL(s->name, vmx_run(), EXIT_VMCALL); /* without the control */
		}
		vmcs_make(s->code);
		if (s->field)
			vmcs_set(s->field, s->bit);
		vmx_run();
		expect_exit(s->name, s->reason, s->length, 0);
	}
}

/* XSETBV, RDPMC, RDTSCP: more than a control decides. */
static void test_less_simple(void)
{
	vmcs_make(l2_xsetbv);
	vmwrite(F(guest_cr4), vmread(F(guest_cr4)) | BIT(18));
	CHECK_EQUAL("xsetbv-exits", vmx_run(), EXIT_XSETBV);
	vmcs_make(l2_xsetbv);
	vmwrite(F(exception_bitmap), BIT(UD));
	CHECK_EQUAL("xsetbv-without-osxsave-is-ud", vmx_run(), EXIT_EXCEPTION_NMI);
	vmcs_make(l2_rdpmc);
	vmcs_set(F(cpu_controls), CPU_RDPMC);
	CHECK_EQUAL("rdpmc-exits", vmx_run(), EXIT_RDPMC);
	vmcs_make(l2_rdtscp);
	vmwrite(F(exception_bitmap), BIT(UD));
	CHECK_EQUAL("rdtscp-that-is-not-enabled-is-ud", vmx_run(), EXIT_EXCEPTION_NMI);
	vmcs_make(l2_rdtscp);
	vmcs_set(F(cpu_controls2), CPU2_RDTSCP);
	CHECK_EQUAL("enabled-rdtscp-runs", vmx_run(), EXIT_VMCALL);
	vmcs_make(l2_rdtscp);
	vmcs_set(F(cpu_controls2), CPU2_RDTSCP);
	vmcs_set(F(cpu_controls), CPU_RDTSC);
	CHECK_EQUAL("enabled-rdtscp-exits-with-rdtsc-exiting", vmx_run(), EXIT_RDTSCP);
}

/* Instructions that a control enables, and nothing else lets exit here: IA32_XSS has no bits. */
u8 xsave_area[4096] ALIGNED(64);
L2(l2_rdpid, "rdpid %rax; vmcall")
L2(l2_xsaves, "xor %edx, %edx; mov $1, %eax; xsaves xsave_area; vmcall")

static u32 run_enabled(void (*code)(void), u32 control)
{
	vmcs_make(code);
	vmwrite(F(guest_cr4), vmread(F(guest_cr4)) | BIT(18));
	vmwrite(F(exception_bitmap), BIT(UD));
	vmwrite(F(xss_bitmap), ~0ULL);
	if (control)
		vmcs_set(F(cpu_controls2), control);
	return vmx_run();
}

static void test_enabled(void)
{
	CHECK_EQUAL("rdpid-that-is-not-enabled-is-ud", run_enabled(l2_rdpid, 0), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("enabled-rdpid-runs", run_enabled(l2_rdpid, CPU2_RDTSCP), EXIT_VMCALL);
	if (!(rdmsr(MSR_VMX_CPU2) >> 32 & CPU2_XSAVES)) {
		skip("enabled-xsaves-runs", "no XSAVES");
		return;
	}
	CHECK_EQUAL("xsaves-that-is-not-enabled-is-ud", run_enabled(l2_xsaves, 0), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("enabled-xsaves-runs", run_enabled(l2_xsaves, CPU2_XSAVES), EXIT_VMCALL);
}

L2(l2_rdtsc_offset, "rdtsc; vmcall")
static u64 l2_tsc(void)
{
	return (u32)l2_regs[L2_RAX] | l2_regs[L2_RDX] << 32;
}

/* The multiplier has 48 bits behind the point; it counts only with an offset, and before it. */
static void test_tsc_scaling(void)
{
	vmcs_make(l2_rdtsc_offset);
	vmcs_set(F(cpu_controls2), CPU2_TSC_SCALING);
	CHECK_EQUAL("tsc-multiplier-0-fails", vmx_run(), VM_FAIL_VALID);
	vmwrite(F(tsc_multiplier), 3ULL << 47);
	u64 before = rdtsc();
	vmx_run();
	u64 after = rdtsc();
	CHECK("tsc-scaling-without-offsetting-does-nothing", l2_tsc() >= before && l2_tsc() <= after);
	vmcs_make(l2_rdtsc_offset);
	vmcs_set(F(cpu_controls2), CPU2_TSC_SCALING);
	vmcs_set(F(cpu_controls), CPU_TSC_OFFSETTING);
	vmwrite(F(tsc_multiplier), 3ULL << 47);
	vmwrite(F(tsc_offset), BIT(60));
	before = rdtsc();
	vmx_run();
	after = rdtsc();
	u64 l2 = l2_tsc() - BIT(60);
	CHECK("rdtsc-multiplies-by-one-and-a-half", l2 >= before + before / 2 && l2 <= after + after / 2);
}

static void test_tsc_offset(void)
{
	vmcs_make(l2_rdtsc_offset);
	vmcs_set(F(cpu_controls), CPU_TSC_OFFSETTING);
	vmwrite(F(tsc_offset), BIT(60));
	u64 before = rdtsc();
	vmx_run();
	u64 l2 = (u32)l2_regs[L2_RAX] | l2_regs[L2_RDX] << 32, after = rdtsc();
	CHECK("rdtsc-adds-the-offset", l2 - BIT(60) >= before && l2 - BIT(60) <= after);
}

/* --- protection keys: no field of the VMCS holds PKRU, entries and exits leave it alone --- */

#define CR4_PKE BIT(22)

L2(l2_change_pkru, "xor %ecx, %ecx; rdpkru; mov %eax, %ebx; mov $0x30, %eax; wrpkru; vmcall")

static u32 read_pkru(void)
{
	u32 value;
	asm volatile("rdpkru" : "=a"(value) : "c"(0) : "rdx");
	return value;
}

static void write_pkru(u32 value)
{
	asm volatile("wrpkru" : : "a"(value), "c"(0), "d"(0) : "memory");
}

static void test_pkru(void)
{
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[2] & BIT(3))) {
		skip("pkru-passes-through-entry", "not in CPUID");
		return;
	}
	write_cr4(read_cr4() | CR4_PKE);
	write_pkru(0xc0);
	vmcs_make(l2_change_pkru); /* the guest's CR4 is as ours */
	CHECK_EQUAL("guest-may-write-pkru", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("pkru-passes-through-entry", l2_regs[L2_RBX], 0xc0);
	CHECK_EQUAL("pkru-passes-through-exit", read_pkru(), 0x30);
	write_pkru(0);
	write_cr4(read_cr4() & ~CR4_PKE);
}

/* --- PAUSE-loop exiting --- */

L2(l2_pauses, "mov $1000, %ecx; 1: pause; loop 1b; vmcall")
L2(l2_pause_forever, "1: pause; jmp 1b")

static void make_pause_loop(void (*code)(void), u32 gap, u32 window)
{
	vmcs_make(code);
	vmcs_set(F(cpu_controls2), CPU2_PAUSE_LOOP);
	vmwrite(F(ple_gap), gap);
	vmwrite(F(ple_window), window);
}

static void make_user(void)
{
	open_to_user();
	vmwrite(F(guest_cs_selector), vmread(F(guest_cs_selector)) | 3);
	vmwrite(F(guest_ss_selector), vmread(F(guest_ss_selector)) | 3);
	vmwrite(F(guest_cs_ar), 0xa0fb);
	vmwrite(F(guest_ss_ar), 0xc0f3);
}

static void test_pause_loop(void)
{
	make_pause_loop(l2_pause_forever, ~0u, 100000);
	u64 before = rdtsc();
	CHECK_EQUAL("pause-loop-exits-after-the-window", vmx_run(), EXIT_PAUSE);
	CHECK("and-not-before", rdtsc() - before > 100000);
	CHECK_EQUAL("pause-loop-exit-length", vmread(F(exit_insn_length)), 2);
	make_pause_loop(l2_pauses, 0, 0);
	CHECK_EQUAL("pauses-further-apart-than-the-gap-are-no-loop", vmx_run(), EXIT_VMCALL);
	make_pause_loop(l2_pauses, ~0u, ~0u);
	CHECK_EQUAL("loop-younger-than-the-window-runs", vmx_run(), EXIT_VMCALL);
	make_pause_loop(l2_pauses, ~0u, 0);
	make_user();
	CHECK_EQUAL("pause-loop-at-cpl-3-runs", vmx_run(), EXIT_VMCALL);
	make_pause_loop(l2_pauses, ~0u, ~0u);
	make_user();
	vmcs_set(F(cpu_controls), CPU_PAUSE);
	CHECK_EQUAL("pause-exiting-exits-at-cpl-3", vmx_run(), EXIT_PAUSE);
}

/* --- memory operands: displacement and instruction information --- */

/* Fields of the VM-exit instruction information, as SDM vol. 3, tables 28-8 to 28-15 have them. */
#define INFO_SCALE(n)   (n)
#define INFO_REG1(n)    ((n) << 3)
#define INFO_ADDRESS64  (2 << 7)
#define INFO_REGISTER   (1 << 10)
#define INFO_SEGMENT(n) ((n) << 15)
#define INFO_INDEX(n)   ((n) << 18)
#define INFO_NO_INDEX   (1 << 22)
#define INFO_BASE(n)    ((n) << 23)
#define INFO_NO_BASE    (1 << 27)
#define INFO_REG2(n)    ((u32)(n) << 28)
#define INFO_WHICH(n)   ((n) << 28)
#define INFO_OPERAND32  (1 << 11)
enum { SEG_SS = 2, SEG_DS = 3, SEG_FS = 4 };

L2(l2_vmread_reg, "vmread %rcx, %rbx; vmcall")
L2(l2_vmread_mem, "vmread %rdx, 0x10(%rbx, %rsi, 4); vmcall")
L2(l2_vmwrite_mem, "vmwrite -8(%rbp), %r9; vmcall")
L2(l2_vmptrld, "vmptrld 0x20(%rdi); vmcall")
L2(l2_vmptrst, "vmptrst (%rsp); vmcall")
L2(l2_vmclear, "vmclear %fs:0x30(, %rax, 2); vmcall")
L2(l2_vmxon, "vmxon word_in_memory(%rip); vmcall")
L2(l2_invept, "invept (%rax), %rdx; vmcall")
L2(l2_invvpid, "invvpid 1(%r12), %r13; vmcall")
L2(l2_sgdt, "sgdt table_image; vmcall")
L2(l2_lidt, "lidt 5(%r8); vmcall")
L2(l2_sldt, "sldt %ebx; vmcall")
L2(l2_ltr, "ltr (%rcx); vmcall")
L2(l2_rdrand, "rdrand %r10d; vmcall")
L2(l2_rdseed, "rdseed %rbx; vmcall")
L2(l2_invpcid, "invpcid 8(%rcx), %rdx; vmcall")

static const struct operands {
	const char *name;
	void (*code)(void);
	u32 reason;
	u64 qualification;
	u32 info, mask; /* mask: defined bits */
	u64 field;
	u32 bit;
} operands[] = {
	{ "vmread-to-register", l2_vmread_reg, EXIT_VMREAD, 0, INFO_REG1(3) | INFO_REGISTER | INFO_REG2(1), 0xf0000478,
	  0, 0 },
	{ "vmread-to-memory", l2_vmread_mem, EXIT_VMREAD, 0x10,
	  INFO_SCALE(2) | INFO_ADDRESS64 | INFO_SEGMENT(SEG_DS) | INFO_INDEX(6) | INFO_BASE(3) | INFO_REG2(2),
	  0xffffff83, 0, 0 },
	{ "vmwrite-from-memory", l2_vmwrite_mem, EXIT_VMWRITE, -8ULL,
	  INFO_ADDRESS64 | INFO_SEGMENT(SEG_SS) | INFO_NO_INDEX | INFO_BASE(5) | INFO_REG2(9), 0xfff78780, 0, 0 },
	{ "vmptrld", l2_vmptrld, EXIT_VMPTRLD, 0x20,
	  INFO_ADDRESS64 | INFO_SEGMENT(SEG_DS) | INFO_NO_INDEX | INFO_BASE(7), 0x0fc38780, 0, 0 },
	{ "vmptrst", l2_vmptrst, EXIT_VMPTRST, 0, INFO_ADDRESS64 | INFO_SEGMENT(SEG_SS) | INFO_NO_INDEX | INFO_BASE(4),
	  0x0fc38780, 0, 0 },
	{ "vmclear", l2_vmclear, EXIT_VMCLEAR, 0x30,
	  INFO_SCALE(1) | INFO_ADDRESS64 | INFO_SEGMENT(SEG_FS) | INFO_INDEX(0) | INFO_NO_BASE, 0x087f8783, 0, 0 },
	{ "vmxon-rip-relative", l2_vmxon, EXIT_VMXON, (u64)&word_in_memory,
	  INFO_ADDRESS64 | INFO_SEGMENT(SEG_DS) | INFO_NO_INDEX | INFO_NO_BASE, 0x08438780, 0, 0 },
	{ "invept", l2_invept, EXIT_INVEPT, 0,
	  INFO_ADDRESS64 | INFO_SEGMENT(SEG_DS) | INFO_NO_INDEX | INFO_BASE(0) | INFO_REG2(2), 0xffc38780, 0, 0 },
	{ "invvpid", l2_invvpid, EXIT_INVVPID, 1,
	  INFO_ADDRESS64 | INFO_SEGMENT(SEG_DS) | INFO_NO_INDEX | INFO_BASE(12) | INFO_REG2(13), 0xffc38780, 0, 0 },
	{ "sgdt", l2_sgdt, EXIT_GDTR_IDTR, (u64)table_image,
	  INFO_ADDRESS64 | INFO_NO_INDEX | INFO_NO_BASE | INFO_WHICH(0), 0x38400780, F(cpu_controls2),
	  CPU2_DESCRIPTOR_TABLE },
	{ "lidt", l2_lidt, EXIT_GDTR_IDTR, 5, INFO_ADDRESS64 | INFO_NO_INDEX | INFO_BASE(8) | INFO_WHICH(3), 0x3fc00780,
	  F(cpu_controls2), CPU2_DESCRIPTOR_TABLE },
	{ "sldt", l2_sldt, EXIT_LDTR_TR, 0, INFO_REG1(3) | INFO_REGISTER | INFO_WHICH(0), 0x30000478, F(cpu_controls2),
	  CPU2_DESCRIPTOR_TABLE },
	{ "ltr", l2_ltr, EXIT_LDTR_TR, 0, INFO_ADDRESS64 | INFO_NO_INDEX | INFO_BASE(1) | INFO_WHICH(3), 0x3fc00780,
	  F(cpu_controls2), CPU2_DESCRIPTOR_TABLE },
	{ "rdrand", l2_rdrand, EXIT_RDRAND, 0, INFO_REG1(10) | 1 << 11, 0x1878, F(cpu_controls2), CPU2_RDRAND },
	{ "rdseed", l2_rdseed, EXIT_RDSEED, 0, INFO_REG1(3) | 2 << 11, 0x1878, F(cpu_controls2), CPU2_RDSEED },
	{ "invpcid", l2_invpcid, EXIT_INVPCID, 8, INFO_ADDRESS64 | INFO_NO_INDEX | INFO_BASE(1) | INFO_REG2(2),
	  0xffc00780, F(cpu_controls2), CPU2_INVPCID },
};

static void test_operands(void)
{
	l2_regs[L2_RCX] = (u64)&descriptor;
	for (unsigned i = 0; i < ARRAY_SIZE(operands); i++) {
		const struct operands *o = &operands[i];
		vmcs_make(o->code);
		if (o->field)
			vmcs_set(o->field, o->bit);
		if (o->reason == EXIT_INVPCID)
			vmcs_set(F(cpu_controls), CPU_INVLPG);
		CHECK_EQUAL(o->name, vmx_run(), o->reason);
		CHECK_EQUAL("qualification-is-the-displacement", vmread(F(qualification)), o->qualification);
		CHECK_EQUAL("instruction-information", vmread(F(exit_insn_info)) & o->mask, o->info & o->mask);
	}
}

L2(l2_invlpg, "invlpg 0x1234(%rax); vmcall")
static void test_invlpg(void)
{
	l2_regs[L2_RAX] = 0x100000;
	CHECK_EQUAL("invlpg-runs", vmx_run_fresh(l2_invlpg), EXIT_VMCALL);
	vmcs_make(l2_invlpg);
	vmcs_set(F(cpu_controls), CPU_INVLPG);
	CHECK_EQUAL("invlpg-exits", vmx_run(), EXIT_INVLPG);
	CHECK_EQUAL("invlpg-qualification-is-the-address", vmread(F(qualification)), 0x101234);
}

/* --- control registers --- */

L2(l2_cr0_set_ts, "mov %cr0, %rax; or $8, %rax; mov %rax, %cr0; mov %cr0, %rbx; vmcall")
L2(l2_read_cr0, "mov %cr0, %rax; mov %cr4, %rbx; smsw %rcx; vmcall")
L2(l2_clts, "clts; mov %cr0, %rax; vmcall")
L2(l2_lmsw, "mov $9, %eax; lmsw %ax; vmcall")
L2(l2_cr3, "mov %cr3, %rdx; mov %rdx, %cr3; vmcall")
L2(l2_cr4_pge, "mov %cr4, %rsi; or $0x80, %rsi; mov %rsi, %cr4; vmcall")
L2(l2_cr8, "mov %cr8, %rbp; mov %rbp, %cr8; vmcall")

static void test_cr0(void)
{
	vmcs_make(l2_cr0_set_ts);
	CHECK_EQUAL("unmasked-cr0-write-runs", vmx_run(), EXIT_VMCALL);
	CHECK("and-changes-it", l2_regs[L2_RBX] & CR0_TS);
	vmcs_make(l2_cr0_set_ts);
	vmwrite(F(cr0_mask), CR0_TS);
	CHECK_EQUAL("masked-cr0-write-that-differs-from-the-shadow-exits", vmx_run(), EXIT_CR_ACCESS);
	CHECK_EQUAL("qualification-mov-to-cr0-from-rax", vmread(F(qualification)), 0);
	vmcs_make(l2_cr0_set_ts);
	vmwrite(F(cr0_mask), CR0_TS);
	vmwrite(F(cr0_shadow), CR0_TS);
	CHECK_EQUAL("masked-cr0-write-equal-to-the-shadow-runs", vmx_run(), EXIT_VMCALL);
	CHECK("guest-sees-the-shadow", l2_regs[L2_RBX] & CR0_TS);
	CHECK("host-bit-stays", !(vmread(F(guest_cr0)) & CR0_TS));
	vmcs_make(l2_read_cr0);
	vmwrite(F(cr0_mask), BIT(3) | BIT(16));
	vmwrite(F(cr0_shadow), BIT(3));
	vmwrite(F(cr4_mask), BIT(13));
	vmx_run();
	u64 cr0 = (read_cr0() & ~BIT(16)) | BIT(3);
	CHECK_EQUAL("cr0-reads-through-mask-and-shadow", l2_regs[L2_RAX], cr0);
	CHECK_EQUAL("cr4-reads-through-mask-and-shadow", l2_regs[L2_RBX], read_cr4() & ~CR4_VMXE);
	CHECK_EQUAL("smsw-reads-through-them-too", l2_regs[L2_RCX] & 0xffff, cr0 & 0xffff);
}

static void test_clts_lmsw(void)
{
	vmcs_make(l2_clts);
	vmwrite(F(guest_cr0), read_cr0() | CR0_TS);
	vmx_run();
	CHECK("clts-clears-ts", !(l2_regs[L2_RAX] & CR0_TS));
	vmcs_make(l2_clts);
	vmwrite(F(cr0_mask), CR0_TS);
	vmwrite(F(cr0_shadow), CR0_TS);
	CHECK_EQUAL("masked-clts-exits", vmx_run(), EXIT_CR_ACCESS);
	CHECK_EQUAL("qualification-clts", vmread(F(qualification)), 2 << 4);
	vmcs_make(l2_clts);
	vmwrite(F(guest_cr0), read_cr0() | CR0_TS);
	vmwrite(F(cr0_mask), CR0_TS);
	CHECK_EQUAL("clts-with-shadow-clear-runs", vmx_run(), EXIT_VMCALL);
	CHECK("and-leaves-the-real-bit", vmread(F(guest_cr0)) & CR0_TS);
	vmcs_make(l2_lmsw);
	vmwrite(F(cr0_mask), CR0_TS);
	CHECK_EQUAL("masked-lmsw-exits", vmx_run(), EXIT_CR_ACCESS);
	CHECK_EQUAL("qualification-lmsw", vmread(F(qualification)), 3 << 4 | 9 << 16);
	vmcs_make(l2_lmsw);
	vmwrite(F(cr0_mask), CR0_PE);
	vmwrite(F(cr0_shadow), CR0_PE);
	CHECK_EQUAL("lmsw-that-keeps-pe-runs", vmx_run(), EXIT_VMCALL);
}

static void test_cr3_cr4(void)
{
	CHECK_EQUAL("cr3-accesses-run", vmx_run_fresh(l2_cr3), EXIT_VMCALL);
	vmcs_make(l2_cr3);
	vmcs_set(F(cpu_controls), CPU_CR3_STORE);
	CHECK_EQUAL("cr3-store-exits", vmx_run(), EXIT_CR_ACCESS);
	CHECK_EQUAL("qualification-mov-from-cr3-to-rdx", vmread(F(qualification)), 3 | 1 << 4 | 2 << 8);
	vmcs_make(l2_cr3);
	vmcs_set(F(cpu_controls), CPU_CR3_LOAD);
	CHECK_EQUAL("cr3-load-exits", vmx_run(), EXIT_CR_ACCESS);
	CHECK_EQUAL("qualification-mov-to-cr3-from-rdx", vmread(F(qualification)), 3 | 2 << 8);
	vmcs_make(l2_cr3);
	vmcs_set(F(cpu_controls), CPU_CR3_LOAD);
	vmwrite(F(cr3_target_count), 2);
	vmwrite(F(cr3_target1), read_cr3());
	CHECK_EQUAL("cr3-load-of-a-target-runs", vmx_run(), EXIT_VMCALL);
	vmwrite(F(cr3_target_count), 1);
	vmwrite(F(guest_rip), (u64)l2_cr3);
	CHECK_EQUAL("targets-beyond-the-count-do-not-help", vmx_run(), EXIT_CR_ACCESS);
	vmcs_make(l2_cr4_pge);
	vmwrite(F(cr4_mask), BIT(7));
	CHECK_EQUAL("masked-cr4-write-exits", vmx_run(), EXIT_CR_ACCESS);
	CHECK_EQUAL("qualification-mov-to-cr4-from-rsi", vmread(F(qualification)), 4 | 6 << 8);
	vmcs_make(l2_cr4_pge);
	CHECK_EQUAL("unmasked-cr4-write-runs", vmx_run(), EXIT_VMCALL);
	CHECK("and-changes-it", vmread(F(guest_cr4)) & BIT(7));
}

static void test_cr8(void)
{
	vmcs_make(l2_cr8);
	vmcs_set(F(cpu_controls), CPU_CR8_STORE);
	CHECK_EQUAL("cr8-store-exits", vmx_run(), EXIT_CR_ACCESS);
	CHECK_EQUAL("qualification-mov-from-cr8-to-rbp", vmread(F(qualification)), 8 | 1 << 4 | 5 << 8);
	vmcs_make(l2_cr8);
	vmcs_set(F(cpu_controls), CPU_CR8_LOAD);
	CHECK_EQUAL("cr8-load-exits", vmx_run(), EXIT_CR_ACCESS);
	CHECK_EQUAL("qualification-mov-to-cr8-from-rbp", vmread(F(qualification)), 8 | 5 << 8);
}

L2(l2_tpr, "mov %cr8, %rax; mov $5, %ebx; mov %rbx, %cr8; mov $3, %ebx; mov %rbx, %cr8; vmcall")
static void test_tpr_shadow(void)
{
	u32 *vtpr = (u32 *)(virtual_apic + 0x80);
	vmcs_make(l2_tpr);
	vmcs_set(F(cpu_controls), CPU_TPR_SHADOW);
	*vtpr = 0x70;
	vmwrite(F(tpr_threshold), 4);
	CHECK_EQUAL("tpr-below-threshold-exits", vmx_run(), EXIT_TPR_BELOW_THRESHOLD);
	CHECK_EQUAL("cr8-reads-the-virtual-tpr", l2_regs[L2_RAX], 7);
	CHECK_EQUAL("the-exit-came-with-the-second-write", l2_regs[L2_RBX], 3);
	CHECK_EQUAL("cr8-writes-the-virtual-tpr", *vtpr, 0x30);
	vmwrite(F(tpr_threshold), 0);
	CHECK_EQUAL("the-exit-is-after-the-write", vmx_run(), EXIT_VMCALL);
	word real;
	asm volatile("mov %%cr8, %0" : "=r"(real));
	CHECK_EQUAL("the-real-tpr-stays", real, 0);
}

/* --- debug registers, I/O, MSRs --- */

L2(l2_dr, "mov %rcx, %dr2; vmcall")
L2(l2_dr_read, "mov %dr7, %r9; vmcall")
static void test_dr(void)
{
	CHECK_EQUAL("mov-dr-runs", vmx_run_fresh(l2_dr), EXIT_VMCALL);
	vmcs_make(l2_dr);
	vmcs_set(F(cpu_controls), CPU_MOV_DR);
	CHECK_EQUAL("mov-to-dr-exits", vmx_run(), EXIT_DR_ACCESS);
	CHECK_EQUAL("qualification-mov-to-dr2-from-rcx", vmread(F(qualification)), 2 | 1 << 8);
	vmcs_make(l2_dr_read);
	vmcs_set(F(cpu_controls), CPU_MOV_DR);
	CHECK_EQUAL("mov-from-dr-exits", vmx_run(), EXIT_DR_ACCESS);
	CHECK_EQUAL("qualification-mov-from-dr7-to-r9", vmread(F(qualification)), 7 | 1 << 4 | 9 << 8);
}

L2(l2_out_imm, "mov $0x41, %al; out %al, $0xe0; vmcall")
L2(l2_in_dx, "mov $0x8001, %edx; in %dx, %ax; vmcall")
L2(l2_outl_wrap, "mov $0xffff, %edx; out %ax, %dx; vmcall")
L2(l2_insb, "mov $0xe0, %edx; lea word_in_memory, %rdi; mov $2, %ecx; cld; rep insb; vmcall")
L2(l2_outsl, "mov $0xe0, %edx; lea word_in_memory, %rsi; cld; outsl; vmcall")

static u32 run_io(void (*code)(void), u32 control)
{
	vmcs_make(code);
	vmcs_set(F(cpu_controls), control);
	return vmx_run();
}

static void test_io(void)
{
	CHECK_EQUAL("out-runs", run_io(l2_out_imm, 0), EXIT_VMCALL);
	CHECK_EQUAL("out-exits-unconditionally", run_io(l2_out_imm, CPU_UNCONDITIONAL_IO), EXIT_IO);
	CHECK_EQUAL("qualification-outb-immediate", vmread(F(qualification)), BIT(6) | 0xe0 << 16);
	CHECK_EQUAL("io-bitmaps-let-it-run", run_io(l2_out_imm, CPU_IO_BITMAPS | CPU_UNCONDITIONAL_IO), EXIT_VMCALL);
	io_bitmaps[0][0xe0 / 8] = 1;
	CHECK_EQUAL("io-bitmap-a-makes-it-exit", run_io(l2_out_imm, CPU_IO_BITMAPS), EXIT_IO);
	CHECK_EQUAL("string-input-exits", run_io(l2_insb, CPU_IO_BITMAPS), EXIT_IO);
	CHECK_EQUAL("qualification-rep-insb", vmread(F(qualification)), BIT(3) | BIT(4) | BIT(5) | 0xe0 << 16);
	CHECK_EQUAL("linear-address-of-insb", vmread(F(guest_linear)), (u64)&word_in_memory);
	CHECK_EQUAL("information-of-insb-is-the-address-size", vmread(F(exit_insn_info)) & 0x380, 2 << 7);
	CHECK_EQUAL("string-output-exits", run_io(l2_outsl, CPU_IO_BITMAPS), EXIT_IO);
	CHECK_EQUAL("qualification-outsl", vmread(F(qualification)), 3 | BIT(4) | 0xe0 << 16);
	CHECK_EQUAL("information-of-outsl-names-ds", vmread(F(exit_insn_info)) & 0x38380, 2 << 7 | SEG_DS << 15);
	io_bitmaps[0][0xe0 / 8] = 0;
	io_bitmaps[1][0] = 4;
	CHECK_EQUAL("io-bitmap-b-holds-the-high-ports", run_io(l2_in_dx, CPU_IO_BITMAPS), EXIT_IO);
	CHECK_EQUAL("qualification-inw-of-dx", vmread(F(qualification)), 1 | BIT(3) | 0x8001ULL << 16);
	io_bitmaps[1][0] = 0;
	CHECK_EQUAL("access-that-wraps-exits", run_io(l2_outl_wrap, CPU_IO_BITMAPS), EXIT_IO);
}

static u32 run_msr(void (*code)(void))
{
	vmcs_make(code);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	return vmx_run();
}

L2(l2_rdmsr_far, "mov $0x40000000, %ecx; rdmsr; vmcall")
static void test_msr(void)
{
	CHECK_EQUAL("rdmsr-runs-with-clear-bitmap", run_msr(l2_rdmsr), EXIT_VMCALL);
	CHECK_EQUAL("wrmsr-runs-with-clear-bitmap", run_msr(l2_wrmsr), EXIT_VMCALL);
	CHECK_EQUAL("msrs-outside-the-ranges-exit", run_msr(l2_rdmsr_far), EXIT_RDMSR);
	msr_bitmap[1024 + 0x80 / 8] = 1;
	CHECK_EQUAL("high-read-bitmap-makes-rdmsr-exit", run_msr(l2_rdmsr), EXIT_RDMSR);
	msr_bitmap[1024 + 0x80 / 8] = 0;
	msr_bitmap[2048 + 0x174 / 8] = 1 << 4;
	CHECK_EQUAL("low-write-bitmap-makes-wrmsr-exit", run_msr(l2_wrmsr), EXIT_WRMSR);
	msr_bitmap[2048 + 0x174 / 8] = 0;
	msr_bitmap[0x174 / 8] = 1 << 4;
	CHECK_EQUAL("low-read-bitmap-lets-wrmsr-run", run_msr(l2_wrmsr), EXIT_VMCALL);
	msr_bitmap[0x174 / 8] = 0;
}

/* --- exceptions --- */

L2(l2_ud, "ud2")
L2(l2_int3, "int3; vmcall")
L2(l2_int1, ".byte 0xf1; vmcall")
L2(l2_pf, "mov $0x7fff00000000, %rax; movl $1, 8(%rax); vmcall")
L2(l2_gp, "mov $0x8000000000000000, %rax; mov (%rax), %eax; vmcall")
L2(l2_step, "nop; nop; vmcall")

static u32 run_exception(void (*code)(void), u32 bitmap)
{
	vmcs_make(code);
	vmwrite(F(exception_bitmap), bitmap);
	return vmx_run();
}

static void test_exceptions(void)
{
	u32 valid = (u32)EVENT_INFO_VALID, hardware = 3 << 8, error = EVENT_INFO_ERROR;
	CHECK_EQUAL("ud-exits", run_exception(l2_ud, BIT(UD)), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("information-ud", vmread(F(exit_event)), valid | hardware | UD);
	CHECK_EQUAL("rip-of-ud", vmread(F(guest_rip)), (u64)l2_ud);
	CHECK("faults-save-rf", vmread(F(guest_rflags)) & BIT(16));
	CHECK_EQUAL("gp-exits", run_exception(l2_gp, BIT(GP)), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("information-gp", vmread(F(exit_event)), valid | hardware | error | GP);
	CHECK_EQUAL("int3-exits", run_exception(l2_int3, BIT(BP)), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("information-int3", vmread(F(exit_event)), valid | 6 << 8 | BP);
	CHECK_EQUAL("rip-of-int3-is-its-own", vmread(F(guest_rip)), (u64)l2_int3);
	CHECK_EQUAL("length-of-int3", vmread(F(exit_insn_length)), 1);
	CHECK_EQUAL("int1-exits", run_exception(l2_int1, BIT(DB)), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("information-int1", vmread(F(exit_event)), valid | 5 << 8 | DB);
	asm volatile("mov %0, %%cr2" : : "r"(0x1234UL));
	CHECK_EQUAL("pf-exits", run_exception(l2_pf, BIT(PF)), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("information-pf", vmread(F(exit_event)), valid | hardware | error | PF);
	CHECK_EQUAL("qualification-of-pf-is-the-address", vmread(F(qualification)), 0x7fff00000008);
	CHECK_EQUAL("error-code-of-pf", vmread(F(exit_event_error)), 2);
	CHECK_EQUAL("cr2-stays", read_cr2(), 0x1234);
	vmcs_make(l2_step);
	vmwrite(F(exception_bitmap), BIT(DB));
	vmwrite(F(guest_rflags), 2 | FLAG_TF);
	CHECK_EQUAL("single-step-exits", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("qualification-of-db-is-bs", vmread(F(qualification)), BIT(14));
	CHECK_EQUAL("rip-of-the-trap", vmread(F(guest_rip)), (u64)l2_step + 1);
}

static u32 run_page_fault(u32 bitmap, u32 mask, u32 match)
{
	vmcs_make(l2_pf);
	vmwrite(F(exception_bitmap), bitmap);
	vmwrite(F(pf_error_mask), mask);
	vmwrite(F(pf_error_match), match);
	handlers[PF] = NULL;
	return vmx_run();
}

static void test_page_fault_match(void)
{
	/* A write to a page that is not present: error code 2. */
	CHECK_EQUAL("pf-that-matches-exits", run_page_fault(BIT(PF), 3, 2), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("pf-that-does-not-match-exits-if-the-bit-is-clear", run_page_fault(0, 3, 1), EXIT_EXCEPTION_NMI);
}

/* --- triple fault --- */

L2(l2_triple, "ud2")
static void test_triple_fault(void)
{
	vmcs_make(l2_triple);
	vmwrite(F(guest_idtr_limit), 0);
	CHECK_EQUAL("triple-fault-exits", vmx_run(), EXIT_TRIPLE_FAULT);
	CHECK_EQUAL("without-idt-vectoring", vmread(F(vectoring_event)) >> 31, 0);
	vmcs_make(l2_triple);
	vmwrite(F(guest_idtr_limit), 0);
	vmwrite(F(exception_bitmap), BIT(DF));
	CHECK_EQUAL("double-fault-exits", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("information-df", vmread(F(exit_event)), EVENT_INFO_VALID | EVENT_INFO_ERROR | 3 << 8 | DF);
	CHECK_EQUAL("df-is-no-vectoring", vmread(F(vectoring_event)) >> 31, 0);
	vmcs_make(l2_triple);
	vmwrite(F(guest_idtr_limit), 0);
	vmwrite(F(exception_bitmap), BIT(GP));
	CHECK_EQUAL("fault-in-delivery-exits", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("vectoring-is-the-first-fault", vmread(F(vectoring_event)), EVENT_INFO_VALID | 3 << 8 | UD);
	CHECK_EQUAL("error-code-names-the-gate", vmread(F(exit_event_error)), UD * 8 + 3);
}

void guest_main(void)
{
	vmx_start();
	test_simple();
	test_less_simple();
	test_enabled();
	test_tsc_offset();
	test_pkru();
	test_tsc_scaling();
	test_pause_loop();
	test_operands();
	test_invlpg();
	test_cr0();
	test_clts_lmsw();
	test_cr3_cr4();
	test_cr8();
	test_tpr_shadow();
	test_dr();
	test_io();
	test_msr();
	test_exceptions();
	test_page_fault_match();
	test_triple_fault();
}
