#include "vmx.h"

u64 l2_regs[16];
u8 vmxon_region[4096] ALIGNED(4096), vmcs_region[4096] ALIGNED(4096), other_region[4096] ALIGNED(4096);
u8 io_bitmaps[2][4096] ALIGNED(4096), msr_bitmap[4096] ALIGNED(4096), virtual_apic[4096] ALIGNED(4096);
u64 ept_pml4[512] ALIGNED(4096), ept_pdpt[512] ALIGNED(4096), ept_pd[4][512] ALIGNED(4096),
	ept_pt[8][512] ALIGNED(4096);

static u8 l2_stack[8192] ALIGNED(16);
static bool launched;

unsigned vmx_enter(bool resume);

void vmx_start(void)
{
	*(u32 *)vmxon_region = (u32)rdmsr(MSR_VMX_BASIC);
	write_cr0(read_cr0() | CR0_NE);
	write_cr4(read_cr4() | CR4_VMXE);
	CHECK_EQUAL("vmxon-succeeds", vmxon((u64)vmxon_region), 0);
}

static void make_controls(void)
{
	vmwrite(F(pin_controls), (u32)rdmsr(MSR_VMX_TRUE_PIN));
	vmwrite(F(cpu_controls), (u32)rdmsr(MSR_VMX_TRUE_CPU));
	vmwrite(F(exit_controls), (u32)rdmsr(MSR_VMX_TRUE_EXIT) | EXITC_HOST_LONG | EXITC_LOAD_EFER | EXITC_SAVE_EFER);
	vmwrite(F(entry_controls), (u32)rdmsr(MSR_VMX_TRUE_ENTRY) | ENTRYC_GUEST_LONG | ENTRYC_LOAD_EFER);
	vmwrite(F(link_pointer), ~0ULL);
	vmwrite(F(io_bitmap_a), (u64)io_bitmaps[0]);
	vmwrite(F(io_bitmap_b), (u64)io_bitmaps[1]);
	vmwrite(F(msr_bitmap), (u64)msr_bitmap);
	vmwrite(F(virtual_apic), (u64)virtual_apic);
}

struct table_register {
	u16 limit;
	u64 base;
} __attribute__((packed));

static struct table_register read_gdtr(void)
{
	struct table_register r;
	asm volatile("sgdt %0" : "=m"(r));
	return r;
}

static struct table_register read_idtr(void)
{
	struct table_register r;
	asm volatile("sidt %0" : "=m"(r));
	return r;
}

static void make_host(void)
{
	vmwrite(F(host_cr0), read_cr0());
	vmwrite(F(host_cr3), read_cr3());
	vmwrite(F(host_cr4), read_cr4());
	vmwrite(F(host_efer), rdmsr(0xc0000080));
	vmwrite(F(host_cs_selector), CODE64);
	vmwrite(F(host_ss_selector), DATA);
	vmwrite(F(host_ds_selector), DATA);
	vmwrite(F(host_es_selector), DATA);
	vmwrite(F(host_tr_selector), TSS);
	vmwrite(F(host_tr_base), (u64)&tss);
	vmwrite(F(host_gdtr_base), read_gdtr().base);
	vmwrite(F(host_idtr_base), read_idtr().base);
}

static void make_segment(unsigned n, u16 selector, u32 ar, u32 limit, u64 base)
{
	vmwrite(F(guest_es_selector) + 2 * n, selector);
	vmwrite(F(guest_es_ar) + 2 * n, ar);
	vmwrite(F(guest_es_limit) + 2 * n, limit);
	vmwrite(F(guest_es_base) + 2 * n, base);
}

static void make_guest(void (*code)(void))
{
	enum { ES, CS, SS_, DS, FS, GS, LDTR, TR };
	vmwrite(F(guest_cr0), read_cr0());
	vmwrite(F(guest_cr3), read_cr3());
	vmwrite(F(guest_cr4), read_cr4());
	vmwrite(F(guest_efer), rdmsr(0xc0000080));
	for (unsigned n = ES; n <= GS; n++)
		make_segment(n, DATA, 0xc093, 0xffffffff, 0);
	make_segment(CS, CODE64, 0xa09b, 0xffffffff, 0);
	make_segment(LDTR, 0, 0x10000, 0, 0);
	make_segment(TR, TSS, 0x8b, sizeof(tss) - 1, (u64)&tss);
	vmwrite(F(guest_gdtr_base), read_gdtr().base);
	vmwrite(F(guest_gdtr_limit), read_gdtr().limit);
	vmwrite(F(guest_idtr_base), read_idtr().base);
	vmwrite(F(guest_idtr_limit), read_idtr().limit);
	vmwrite(F(guest_dr7), 0x400);
	vmwrite(F(guest_rflags), 2);
	vmwrite(F(guest_rsp), (u64)l2_stack + sizeof(l2_stack) - 8);
	vmwrite(F(guest_rip), (u64)code);
}

void vmcs_make(void (*code)(void))
{
	/* First VMCLEAR, which writes back the old contents, then a blank region, whose launch state it must clear too.
	 */
	bool failed = vmclear((u64)vmcs_region);
	memset(vmcs_region, 0, sizeof(vmcs_region));
	*(u32 *)vmcs_region = (u32)rdmsr(MSR_VMX_BASIC);
	if (failed || vmclear((u64)vmcs_region) || vmptrld((u64)vmcs_region))
		CHECK("vmcs-is-loaded", false);
	make_controls();
	make_host();
	make_guest(code);
	launched = false;
}

void vmcs_set(u64 field, u32 bits)
{
	vmwrite(field, vmread(field) | bits);
	if (field == F(cpu_controls2))
		vmcs_set(F(cpu_controls), CPU_SECONDARY);
}

void vmcs_clear_bits(u64 field, u32 bits)
{
	vmwrite(field, vmread(field) & ~(u64)bits);
}

u32 vmx_run(void)
{
	switch (vmx_enter(launched)) {
	case 0:
		break;
	case 1:
		return VM_FAIL_INVALID;
	default:
		return VM_FAIL_VALID;
	}
	u32 reason = (u32)vmread(F(exit_reason));
	if (!(reason & EXIT_ENTRY_FAILURE))
		launched = true;
	return reason;
}

u32 vmx_run_fresh(void (*code)(void))
{
	vmcs_make(code);
	return vmx_run();
}

void l2_skip(void)
{
	vmwrite(F(guest_rip), vmread(F(guest_rip)) + vmread(F(exit_insn_length)));
}

/* --- EPT --- */

enum { EPT_RWX = 7, EPT_TYPE_WB = 6 << 3, EPT_LARGE = 0x80 };

void ept_make(void)
{
	memset(ept_pml4, 0, sizeof(ept_pml4));
	memset(ept_pdpt, 0, sizeof(ept_pdpt));
	ept_pml4[0] = (u64)ept_pdpt | EPT_RWX;
	for (u64 i = 0; i < 4; i++)
		ept_pdpt[i] = (u64)ept_pd[i] | EPT_RWX;
	for (u64 i = 0; i < 4 * 512; i++)
		ept_pd[i / 512][i % 512] = i << 21 | EPT_LARGE | EPT_TYPE_WB | EPT_RWX;
	for (u64 i = 0; i < 8; i++)
		ept_pd[0][i] = (u64)ept_pt[i] | EPT_RWX;
	for (u64 i = 0; i < 8 * 512; i++)
		ept_pt[i / 512][i % 512] = i << 12 | EPT_TYPE_WB | EPT_RWX;
}

u64 ept_pointer(void)
{
	return (u64)ept_pml4 | EPTP_WALK4 | EPTP_TYPE_WB;
}

void ept_use(void)
{
	ept_make();
	vmcs_set(F(cpu_controls2), CPU2_EPT);
	vmwrite(F(eptp), ept_pointer());
	invept(2, 0);
}
