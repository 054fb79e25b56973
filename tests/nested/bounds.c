/* VM entries and exits with MPX: IA32_BNDCFGS, the check of its field, and that L2's bounds are L2's to check. */
#include "vmx.h"

enum { MSR_BNDCFGS = 0xd90, EN = 1, PRESERVE = 2, X87 = 1, SSE = 2, BNDREGS = 8, BNDCSR = 16 };

#define GUEST_CONFIG 0x5002ULL
#define HOST_CONFIG  0x7002ULL

L2(l2_config, "mov $0xd90, %ecx; rdmsr; mov %eax, %esi; mov $0x6002, %eax; xor %edx, %edx; wrmsr; vmcall")
L2(l2_check, "mov $0x1000, %edi; bndmk (%rdi), %bnd1; bndcl -1(%rdi), %bnd1; vmcall")

static void make(void (*code)(void), u32 entry_controls, u32 exit_controls)
{
	vmcs_make(code);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	vmcs_set(F(entry_controls), entry_controls);
	vmcs_set(F(exit_controls), exit_controls);
	vmwrite(F(guest_bndcfgs), GUEST_CONFIG);
	wrmsr(MSR_BNDCFGS, HOST_CONFIG);
}

static void test_config(void)
{
	make(l2_config, ENTRYC_LOAD_BNDCFGS, 0);
	CHECK_EQUAL("runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("the-entry-loads-bndcfgs", l2_regs[L2_RSI], GUEST_CONFIG);
	CHECK_EQUAL("the-exit-saves-it", vmread(F(guest_bndcfgs)), 0x6002);
	CHECK_EQUAL("and-leaves-it", rdmsr(MSR_BNDCFGS), 0x6002);
	make(l2_config, 0, EXITC_CLEAR_BNDCFGS);
	CHECK_EQUAL("runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("without-control-the-entry-leaves-bndcfgs", l2_regs[L2_RSI], HOST_CONFIG);
	CHECK_EQUAL("the-exit-clears-bndcfgs", rdmsr(MSR_BNDCFGS), 0);
	CHECK_EQUAL("what-it-was-is-saved", vmread(F(guest_bndcfgs)), 0x6002);
}

static void test_check(void)
{
	static const u64 bad[] = { 4, 0x800, BIT(56) };
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		make(l2_config, ENTRYC_LOAD_BNDCFGS, 0);
		vmwrite(F(guest_bndcfgs), bad[i]);
		CHECK_EQUAL("entry-with-a-bad-bndcfgs-fails", vmx_run(), EXIT_ENTRY_GUEST_STATE | EXIT_ENTRY_FAILURE);
		make(l2_config, 0, 0);
		vmwrite(F(guest_bndcfgs), bad[i]);
		CHECK_EQUAL("without-control-it-counts-nothing", vmx_run(), EXIT_VMCALL);
	}
}

static void test_bounds(void)
{
	make(l2_check, ENTRYC_LOAD_BNDCFGS, EXITC_CLEAR_BNDCFGS);
	vmwrite(F(guest_bndcfgs), EN | PRESERVE);
	vmwrite(F(exception_bitmap), BIT(BR));
	CHECK_EQUAL("a-guest-with-bndcfgs-checks-bounds", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("and-exits-with-br", vmread(F(exit_event)) & 0xff, BR);
	make(l2_check, ENTRYC_LOAD_BNDCFGS, EXITC_CLEAR_BNDCFGS);
	vmwrite(F(guest_bndcfgs), PRESERVE);
	vmwrite(F(exception_bitmap), BIT(BR));
	wrmsr(MSR_BNDCFGS, EN | PRESERVE);
	CHECK_EQUAL("a-guest-without-does-not", vmx_run(), EXIT_VMCALL);
	make(l2_check, 0, EXITC_CLEAR_BNDCFGS);
	vmwrite(F(exception_bitmap), BIT(BR));
	wrmsr(MSR_BNDCFGS, EN | PRESERVE);
	CHECK_EQUAL("the-hosts-goes-on", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("until-the-exit", TRY("bndcl %0, %%bnd1", : : "r"(5ULL)), NO_FAULT);
}

void guest_main(void)
{
	vmx_start();
	write_cr4(read_cr4() | BIT(18));
	asm volatile("xsetbv" : : "a"(X87 | SSE | BNDREGS | BNDCSR), "d"(0), "c"(0) : "memory");
	test_config();
	test_check();
	test_bounds();
}
