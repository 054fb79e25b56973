/* VMCS shadowing: which VMREADs and VMWRITEs of L2 exit, and what the others see. */
#include "vmx.h"

enum { OK, INVALID, VALID };
enum { SHADOW = 1u << 31, MAGIC = 0x1234560 };

static u8 vmread_bitmap[4096] ALIGNED(4096), vmwrite_bitmap[4096] ALIGNED(4096);

/* RAX: the value read or to be written; RCX: the encoding. RBX becomes CF (bit 0) and ZF (bit 6) of the result. */
L2(l2_vmread, "vmread %rcx, %rax; pushf; pop %rbx; vmcall")
L2(l2_vmwrite, "vmwrite %rax, %rcx; pushf; pop %rbx; vmcall")
L2(l2_vmread_memory, "vmread %rcx, l2_word; pushf; pop %rbx; vmcall")

u64 l2_word;

static unsigned l2_result(void)
{
	return l2_regs[L2_RBX] & 1 ? INVALID : l2_regs[L2_RBX] & 0x40 ? VALID : OK;
}

static void make_region(u8 *region, u32 indicator)
{
	vmclear((u64)region);
	memset(region, 0, 4096);
	*(u32 *)region = (u32)rdmsr(MSR_VMX_BASIC) | indicator;
	vmclear((u64)region);
}

static void write_shadow(u64 field, u64 value)
{
	vmptrld((u64)other_region);
	CHECK_EQUAL("vmwrite-to-a-current-shadow-vmcs-succeeds", vmwrite(field, value), OK);
	vmclear((u64)other_region);
	vmptrld((u64)vmcs_region);
}

static u64 read_shadow(u64 field)
{
	vmptrld((u64)other_region);
	u64 value = vmread(field);
	vmclear((u64)other_region);
	vmptrld((u64)vmcs_region);
	return value;
}

static void make(void (*code)(void))
{
	vmcs_make(code);
	make_region(other_region, SHADOW);
	memset(vmread_bitmap, 0, sizeof(vmread_bitmap));
	memset(vmwrite_bitmap, 0, sizeof(vmwrite_bitmap));
	vmcs_set(F(cpu_controls2), CPU2_VMCS_SHADOWING);
	vmwrite(F(link_pointer), (u64)other_region);
	vmwrite(F(vmread_bitmap), (u64)vmread_bitmap);
	vmwrite(F(vmwrite_bitmap), (u64)vmwrite_bitmap);
}

static u32 run(void (*code)(void), u64 encoding, u64 value)
{
	vmwrite(F(guest_rip), (u64)code);
	l2_regs[L2_RCX] = encoding;
	l2_regs[L2_RAX] = value;
	return vmx_run();
}

static void test_access(void)
{
	make(l2_vmread);
	write_shadow(F(guest_rip), MAGIC);
	CHECK_EQUAL("shadowed-vmread-runs", run(l2_vmread, F(guest_rip), 0), EXIT_VMCALL);
	CHECK_EQUAL("it-succeeds", l2_result(), OK);
	CHECK_EQUAL("and-reads-the-shadow-vmcs", l2_regs[L2_RAX], MAGIC);
	CHECK_EQUAL("shadowed-vmwrite-runs", run(l2_vmwrite, F(guest_rip), MAGIC + 1), EXIT_VMCALL);
	CHECK_EQUAL("it-writes-the-shadow-vmcs", read_shadow(F(guest_rip)), MAGIC + 1);
	CHECK_EQUAL("shadowed-vmwrite-of-exit-information-runs", run(l2_vmwrite, F(exit_reason), 7), EXIT_VMCALL);
	CHECK_EQUAL("it-is-read-back", run(l2_vmread, F(exit_reason), 0), EXIT_VMCALL);
	CHECK_EQUAL("as-it-was-written", l2_regs[L2_RAX], 7);
	CHECK_EQUAL("16-bit-fields-truncate", run(l2_vmwrite, F(vpid), 0x12345678), EXIT_VMCALL);
	CHECK_EQUAL("in-the-shadow-vmcs", read_shadow(F(vpid)), 0x5678);
	CHECK_EQUAL("high-halves-work", run(l2_vmwrite, F(tsc_offset) + 1, 0x11223344), EXIT_VMCALL);
	CHECK_EQUAL("in-the-shadow-vmcs-too", read_shadow(F(tsc_offset)), 0x1122334400000000);
	l2_word = 0;
	CHECK_EQUAL("vmread-to-memory-runs", run(l2_vmread_memory, F(guest_rip), 0), EXIT_VMCALL);
	CHECK_EQUAL("and-writes-there", l2_word, MAGIC + 1);
}

static void test_bitmaps(void)
{
	make(l2_vmread);
	vmread_bitmap[F(guest_rip) / 8] |= 1 << F(guest_rip) % 8;
	CHECK_EQUAL("vmread-with-its-bit-set-exits", run(l2_vmread, F(guest_rip), 0), EXIT_VMREAD);
	CHECK_EQUAL("vmread-of-the-next-encoding-runs", run(l2_vmread, F(guest_rflags), 0), EXIT_VMCALL);
	CHECK_EQUAL("vmwrite-has-a-bitmap-of-its-own", run(l2_vmwrite, F(guest_rip), 0), EXIT_VMCALL);
	vmwrite_bitmap[F(guest_rip) / 8] |= 1 << F(guest_rip) % 8;
	CHECK_EQUAL("vmwrite-with-its-bit-set-exits", run(l2_vmwrite, F(guest_rip), 0), EXIT_VMWRITE);
	CHECK_EQUAL("encoding-beyond-the-bitmap-exits", run(l2_vmread, BIT(15), 0), EXIT_VMREAD);
	CHECK_EQUAL("encoding-with-a-high-bit-exits", run(l2_vmwrite, BIT(63) | F(guest_rip), 0), EXIT_VMWRITE);
	vmwrite(F(vmread_bitmap), 0xf0000000); /* nothing there */
	CHECK_EQUAL("bitmap-outside-ram-exits", run(l2_vmread, F(guest_rflags), 0), EXIT_VMREAD);
	make(l2_vmread);
	vmcs_clear_bits(F(cpu_controls2), CPU2_VMCS_SHADOWING);
	vmwrite(F(link_pointer), ~0ULL);
	CHECK_EQUAL("without-the-control-vmread-exits", run(l2_vmread, F(guest_rip), 0), EXIT_VMREAD);
}

static void test_failures(void)
{
	make(l2_vmread);
	vmwrite(F(insn_error), 0);
	CHECK_EQUAL("vmread-of-no-field-runs", run(l2_vmread, 0x7ffe, 0), EXIT_VMCALL);
	CHECK_EQUAL("and-fails", l2_result(), VALID);
	CHECK_EQUAL("with-an-error-number-in-the-current-vmcs", vmread(F(insn_error)), VMERR_UNSUPPORTED_FIELD);
	CHECK_EQUAL("vmwrite-of-no-field-runs", run(l2_vmwrite, 0x7ffe, 0), EXIT_VMCALL);
	CHECK_EQUAL("and-fails-too", l2_result(), VALID);
	make(l2_vmread);
	vmwrite(F(link_pointer), ~0ULL);
	CHECK_EQUAL("without-link-pointer-vmread-runs", run(l2_vmread, F(guest_rip), 0), EXIT_VMCALL);
	CHECK_EQUAL("and-fails-invalid", l2_result(), INVALID);
	CHECK_EQUAL("without-link-pointer-vmwrite-runs", run(l2_vmwrite, F(guest_rip), 0), EXIT_VMCALL);
	CHECK_EQUAL("and-fails-invalid-too", l2_result(), INVALID);
	make(l2_vmread);
	open_to_user();
	vmwrite(F(guest_cs_selector), vmread(F(guest_cs_selector)) | 3);
	vmwrite(F(guest_ss_selector), vmread(F(guest_ss_selector)) | 3);
	vmwrite(F(guest_cs_ar), 0xa0fb);
	vmwrite(F(guest_ss_ar), 0xc0f3);
	vmwrite(F(exception_bitmap), BIT(GP));
	CHECK_EQUAL("shadowed-vmread-at-cpl-3-is-gp", run(l2_vmread, F(guest_rip), 0), EXIT_EXCEPTION_NMI);
	vmread_bitmap[F(guest_rip) / 8] |= 1 << F(guest_rip) % 8;
	CHECK_EQUAL("but-an-exit-comes-first", run(l2_vmread, F(guest_rip), 0), EXIT_VMREAD);
}

static void test_entry(void)
{
	const u32 invalid = EXIT_ENTRY_GUEST_STATE | (u32)EXIT_ENTRY_FAILURE;
	make(l2_vmread);
	vmwrite(F(vmread_bitmap), (u64)vmread_bitmap + 8);
	CHECK_EQUAL("unaligned-vmread-bitmap-fails", vmx_run(), VM_FAIL_VALID);
	make(l2_vmread);
	vmwrite(F(vmwrite_bitmap), BIT(50));
	CHECK_EQUAL("vmwrite-bitmap-that-is-too-wide-fails", vmx_run(), VM_FAIL_VALID);
	make(l2_vmread);
	make_region(other_region, 0);
	CHECK_EQUAL("link-to-an-ordinary-vmcs-fails", vmx_run(), invalid);
	CHECK_EQUAL("and-says-so", vmread(F(qualification)), 4);
	make(l2_vmread);
	vmcs_clear_bits(F(cpu_controls2), CPU2_VMCS_SHADOWING);
	CHECK_EQUAL("link-to-a-shadow-vmcs-without-shadowing-fails", vmx_run(), invalid);
	vmptrld((u64)other_region);
	CHECK_EQUAL("vmlaunch-of-a-shadow-vmcs-fails-invalid", VMX_RESULT("vmlaunch", "r"(0)), INVALID);
	CHECK_EQUAL("vmresume-of-a-shadow-vmcs-fails-invalid", VMX_RESULT("vmresume", "r"(0)), INVALID);
}

void guest_main(void)
{
	vmx_start();
	test_access();
	test_bitmaps();
	test_failures();
	test_entry();
}
