/* VMX instructions outside L2: what each requires, and the error it reports otherwise. */
#include "vmx.h"

enum { OK, INVALID, VALID };

static u32 error(void)
{
	return (u32)vmread(F(insn_error));
}

static void test_before_vmxon(void)
{
	u64 region = (u64)vmxon_region;
	TRY_AT("vmxon %0", : : "m"(region) : "memory", "cc");
	CHECK("vmxon-without-vmxe-is-ud", is_fault(UD, 0));
	TRY_AT("vmxoff", : : : "memory", "cc");
	CHECK("vmxoff-outside-vmx-operation-is-ud", is_fault(UD, 0));
	TRY_AT("vmread %%rax, %%rax", : : : "rax", "memory", "cc");
	CHECK("vmread-outside-vmx-operation-is-ud", is_fault(UD, 0));
	TRY_AT("vmcall", : : : "memory", "cc");
	CHECK("vmcall-outside-vmx-operation-is-ud", is_fault(UD, 0));
	TRY_AT("wrmsr", : : "c"(MSR_FEATURE_CONTROL), "a"(0), "d"(0) : "memory");
	CHECK("feature-control-is-locked", is_fault(GP, 0));
	CHECK_EQUAL("feature-control-allows-vmxon", rdmsr(MSR_FEATURE_CONTROL), 5);
	TRY_AT("rdmsr", : : "c"(MSR_VMX_END) : "rax", "rdx", "memory");
	CHECK("secondary-exit-capability-is-absent", is_fault(GP, 0));
}

static void test_vmxon(void)
{
	u64 region = (u64)vmxon_region;
	u32 revision = (u32)rdmsr(MSR_VMX_BASIC);
	write_cr4(read_cr4() | CR4_VMXE);
	write_cr0(read_cr0() & ~CR0_NE);
	TRY_AT("vmxon %0", : : "m"(region) : "memory", "cc");
	CHECK("vmxon-with-ne-clear-is-gp", is_fault(GP, 0));
	write_cr0(read_cr0() | CR0_NE);
	*(u32 *)vmxon_region = revision + 1;
	CHECK_EQUAL("vmxon-of-wrong-revision-fails", vmxon(region), INVALID);
	*(u32 *)vmxon_region = revision | 1u << 31;
	CHECK_EQUAL("vmxon-of-shadow-revision-fails", vmxon(region), INVALID);
	*(u32 *)vmxon_region = revision;
	CHECK_EQUAL("vmxon-of-unaligned-region-fails", vmxon(region + 8), INVALID);
	CHECK_EQUAL("vmxon-of-too-wide-address-fails", vmxon(region | BIT(50)), INVALID);
	vmx_start();
	CHECK_EQUAL("vmxon-again-without-vmcs-fails-invalid", vmxon(region), INVALID);
	TRY_AT("mov %0, %%cr4", : : "r"(read_cr4() & ~CR4_VMXE) : "memory");
	CHECK("clearing-vmxe-in-vmx-operation-is-gp", is_fault(GP, 0));
	TRY_AT("mov %0, %%cr0", : : "r"(read_cr0() & ~CR0_NE) : "memory");
	CHECK("clearing-ne-in-vmx-operation-is-gp", is_fault(GP, 0));
}

static void test_without_vmcs(void)
{
	CHECK_EQUAL("vmptrst-without-vmcs-is-all-ones", vmptrst(), ~0ULL);
	CHECK_EQUAL("vmread-without-vmcs-fails-invalid", vmread_result(F(guest_rip)), INVALID);
	CHECK_EQUAL("vmwrite-without-vmcs-fails-invalid", vmwrite(F(guest_rip), 0), INVALID);
	CHECK_EQUAL("vmlaunch-without-vmcs-fails-invalid", VMX_RESULT("vmlaunch", "r"(0)), INVALID);
	CHECK_EQUAL("vmresume-without-vmcs-fails-invalid", VMX_RESULT("vmresume", "r"(0)), INVALID);
	CHECK_EQUAL("vmcall-in-root-without-vmcs-fails-invalid", VMX_RESULT("vmcall", "r"(0)), INVALID);
}

L2(l2_vmcall, "vmcall")

static void test_pointers(void)
{
	u64 region = (u64)vmcs_region;
	vmcs_make(l2_vmcall);
	CHECK_EQUAL("vmptrst-stores-the-current-vmcs", vmptrst(), region);
	CHECK_EQUAL("vmxon-in-root-fails", vmxon((u64)vmxon_region), VALID);
	CHECK_EQUAL("vmxon-in-root-is-error-15", error(), VMERR_VMXON_IN_ROOT);
	CHECK_EQUAL("vmclear-of-unaligned-address-fails", vmclear(region + 16), VALID);
	CHECK_EQUAL("vmclear-of-unaligned-address-is-error-2", error(), VMERR_VMCLEAR_ADDRESS);
	CHECK_EQUAL("vmclear-of-vmxon-region-fails", vmclear((u64)vmxon_region), VALID);
	CHECK_EQUAL("vmclear-of-vmxon-region-is-error-3", error(), VMERR_VMCLEAR_VMXON_POINTER);
	CHECK_EQUAL("vmptrld-of-too-wide-address-fails", vmptrld(region | BIT(52)), VALID);
	CHECK_EQUAL("vmptrld-of-too-wide-address-is-error-9", error(), VMERR_VMPTRLD_ADDRESS);
	CHECK_EQUAL("vmptrld-of-vmxon-region-fails", vmptrld((u64)vmxon_region), VALID);
	CHECK_EQUAL("vmptrld-of-vmxon-region-is-error-10", error(), VMERR_VMPTRLD_VMXON_POINTER);
	CHECK_EQUAL("vmptrld-of-wrong-revision-fails", vmptrld((u64)other_region), VALID);
	CHECK_EQUAL("vmptrld-of-wrong-revision-is-error-11", error(), VMERR_VMPTRLD_REVISION);
	CHECK_EQUAL("failed-vmptrld-keeps-the-current-vmcs", vmptrst(), region);
	CHECK_EQUAL("vmcall-in-root-fails", VMX_RESULT("vmcall", "r"(0)), VALID);
	CHECK_EQUAL("vmcall-in-root-is-error-1", error(), VMERR_VMCALL_IN_ROOT);
}

static void test_fields(void)
{
	CHECK_EQUAL("vmread-of-no-field-fails", vmread_result(0x4840), VALID);
	CHECK_EQUAL("vmread-of-no-field-is-error-12", error(), VMERR_UNSUPPORTED_FIELD);
	CHECK_EQUAL("vmread-of-wide-encoding-fails", vmread_result(BIT(32) | F(guest_rip)), VALID);
	CHECK_EQUAL("vmwrite-of-no-field-fails", vmwrite(0x4840, 0), VALID);
	CHECK("misc-says-that-vmwrite-reaches-all-fields", rdmsr(MSR_VMX_MISC) & BIT(29));
	CHECK_EQUAL("vmwrite-of-exit-information-succeeds", vmwrite(F(exit_reason), 0x1234), OK);
	CHECK_EQUAL("and-it-is-read-back", vmread(F(exit_reason)), 0x1234);
	vmwrite(F(vpid), 0x12345678);
	CHECK_EQUAL("16-bit-field-truncates", vmread(F(vpid)), 0x5678);
	vmwrite(F(exception_bitmap), 0x1122334455667788);
	CHECK_EQUAL("32-bit-field-truncates", vmread(F(exception_bitmap)), 0x55667788);
	vmwrite(F(tsc_offset), 0x1122334455667788);
	CHECK_EQUAL("64-bit-field-keeps-all", vmread(F(tsc_offset)), 0x1122334455667788);
	CHECK_EQUAL("high-encoding-reads-the-high-half", vmread(F(tsc_offset) + 1), 0x11223344);
	vmwrite(F(tsc_offset) + 1, 0xaabbccddeeff0011);
	CHECK_EQUAL("high-encoding-writes-the-high-half", vmread(F(tsc_offset)), 0xeeff001155667788);
	u64 memory = 0x123456789a;
	asm volatile("vmwrite %0, %1" : : "m"(memory), "r"((u64)F(guest_rip)) : "cc");
	memory = 0;
	asm volatile("vmread %1, %0" : "=m"(memory) : "r"((u64)F(guest_rip)) : "cc");
	CHECK_EQUAL("memory-operands-work", memory, 0x123456789a);
}

/* VMCLEAR writes fields back; another VMCS in between has its own. */
static void test_two_vmcs(void)
{
	*(u32 *)other_region = (u32)rdmsr(MSR_VMX_BASIC);
	vmwrite(F(guest_cr3), 0x1111000);
	CHECK_EQUAL("vmclear-of-another-vmcs-keeps-the-current", vmclear((u64)other_region), OK);
	CHECK_EQUAL("vmptrld-of-another-vmcs-succeeds", vmptrld((u64)other_region), OK);
	vmwrite(F(guest_cr3), 0x2222000);
	CHECK_EQUAL("vmptrld-back-succeeds", vmptrld((u64)vmcs_region), OK);
	CHECK_EQUAL("each-vmcs-keeps-its-fields", vmread(F(guest_cr3)), 0x1111000);
	CHECK_EQUAL("vmclear-of-the-current-vmcs-succeeds", vmclear((u64)vmcs_region), OK);
	CHECK_EQUAL("after-it-there-is-none", vmptrst(), ~0ULL);
	vmptrld((u64)other_region);
	CHECK_EQUAL("the-other-vmcs-kept-its-fields-too", vmread(F(guest_cr3)), 0x2222000);
}

static void test_launch_state(void)
{
	vmcs_make(l2_vmcall);
	CHECK_EQUAL("vmresume-of-clear-vmcs-fails", VMX_RESULT("vmresume", "r"(0)), VALID);
	CHECK_EQUAL("vmresume-of-clear-vmcs-is-error-5", error(), VMERR_VMRESUME_NOT_LAUNCHED);
	CHECK_EQUAL("vmlaunch-enters", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("vmlaunch-of-launched-vmcs-fails", VMX_RESULT("vmlaunch", "r"(0)), VALID);
	CHECK_EQUAL("vmlaunch-of-launched-vmcs-is-error-4", error(), VMERR_VMLAUNCH_NOT_CLEAR);
	CHECK_EQUAL("vmresume-enters-again", vmx_run(), EXIT_VMCALL);
	unsigned r = VMX_RESULT("mov %%ss, %%eax; mov %%eax, %%ss; vmresume", "r"(0));
	CHECK_EQUAL("vmresume-under-mov-ss-fails", r, VALID);
	CHECK_EQUAL("vmresume-under-mov-ss-is-error-26", error(), VMERR_ENTRY_MOV_SS);
	vmwrite(F(pin_controls), 0);
	CHECK_EQUAL("vmresume-with-bad-control-fails", vmx_run(), VM_FAIL_VALID);
	CHECK_EQUAL("vmresume-with-bad-control-is-error-7", error(), VMERR_ENTRY_CONTROLS);
	vmcs_make(l2_vmcall);
	vmwrite(F(host_cr4), 0);
	CHECK_EQUAL("vmlaunch-with-bad-host-state-fails", vmx_run(), VM_FAIL_VALID);
	CHECK_EQUAL("vmlaunch-with-bad-host-state-is-error-8", error(), VMERR_ENTRY_HOST_STATE);
}

static void test_invalidate(void)
{
	CHECK_EQUAL("invept-single-context-succeeds", invept(1, ept_pointer()), OK);
	CHECK_EQUAL("invept-all-contexts-succeeds", invept(2, 0), OK);
	CHECK_EQUAL("invept-type-0-fails", invept(0, ept_pointer()), VALID);
	CHECK_EQUAL("invept-type-0-is-error-28", error(), VMERR_INVALIDATE_OPERAND);
	CHECK_EQUAL("invept-type-3-fails", invept(3, 0), VALID);
	CHECK_EQUAL("invept-of-bad-pointer-fails", invept(1, ept_pointer() | 1), VALID);
	for (unsigned type = 0; type < 4; type++)
		CHECK_EQUAL("invvpid-of-each-type-succeeds", invvpid(type, 1, 0), OK);
	CHECK_EQUAL("invvpid-type-4-fails", invvpid(4, 1, 0), VALID);
	CHECK_EQUAL("invvpid-type-4-is-error-28", error(), VMERR_INVALIDATE_OPERAND);
	CHECK_EQUAL("invvpid-of-vpid-0-fails", invvpid(1, 0, 0), VALID);
	CHECK_EQUAL("invvpid-all-takes-vpid-0", invvpid(2, 0, 0), OK);
	CHECK_EQUAL("invvpid-of-reserved-bits-fails", invvpid(2, BIT(16), 0), VALID);
	CHECK_EQUAL("invvpid-of-non-canonical-address-fails", invvpid(0, 1, BIT(63)), VALID);
}

static void user_vmread(void)
{
	asm volatile("vmread %%rax, %%rax" : : : "rax", "cc");
}

static void user_vmxoff(void)
{
	asm volatile("vmxoff" : : : "cc");
}

static void test_privilege(void)
{
	open_to_user();
	CHECK_EQUAL("vmread-at-cpl-3-is-gp", run_user(user_vmread), GP);
	CHECK_EQUAL("vmxoff-at-cpl-3-is-gp", run_user(user_vmxoff), GP);
	TRY_AT(".byte 0x0f, 0x01, 0xd4", : : : "memory");
	CHECK("vmfunc-in-root-is-ud", is_fault(UD, 0));
}

void guest_main(void)
{
	test_before_vmxon();
	test_vmxon();
	test_without_vmcs();
	test_pointers();
	test_fields();
	test_two_vmcs();
	test_launch_state();
	test_invalidate();
	test_privilege();
	CHECK_EQUAL("vmxoff-succeeds", vmxoff(), OK);
	TRY_AT("vmxoff", : : : "memory", "cc");
	CHECK("after-vmxoff-it-is-ud", is_fault(UD, 0));
}
