/*
 * Checks of guest control registers, debug registers, MSRs, descriptor tables, RIP and RFLAGS (SDM vol. 3, 27.3.1.1,
 * 27.3.1.3 and 27.3.1.4). Failing one is a VM exit for invalid guest state.
 */
#include "cpu/system.h"
#include "hv/vmx/vmx.h"

static bool guest_long(const struct vmx *vmx)
{
	return vmx_entryc(vmx, ENTRYC_GUEST_LONG);
}

static bool cr0(const struct vmx *vmx)
{
	return vmx_cr0_fixed(vmx, vmx->vmcs.guest_cr0, vmx_cpu2(vmx, CPU2_UNRESTRICTED_GUEST));
}

static bool paging_needs_protection(const struct vmx *vmx)
{
	return !(vmx->vmcs.guest_cr0 & CR0_PG) || (vmx->vmcs.guest_cr0 & CR0_PE);
}

static bool cr4(const struct vmx *vmx)
{
	return vmx_cr4_fixed(vmx, vmx->vmcs.guest_cr4);
}

static bool debugctl(const struct vmx *vmx)
{
	return !vmx_entryc(vmx, ENTRYC_LOAD_DEBUG) || msr_valid_debugctl(vmx->cpu, vmx->vmcs.guest_debugctl);
}

static bool long_needs_paging(const struct vmx *vmx)
{
	return !guest_long(vmx) || ((vmx->vmcs.guest_cr0 & CR0_PG) && (vmx->vmcs.guest_cr4 & CR4_PAE));
}

static bool pcide_needs_long(const struct vmx *vmx)
{
	return guest_long(vmx) || !(vmx->vmcs.guest_cr4 & CR4_PCIDE);
}

static bool cr3(const struct vmx *vmx)
{
	return vmx_address_fits(vmx, vmx->vmcs.guest_cr3);
}

static bool dr7(const struct vmx *vmx)
{
	return !vmx_entryc(vmx, ENTRYC_LOAD_DEBUG) || !(vmx->vmcs.guest_dr7 >> 32);
}

static bool sysenter(const struct vmx *vmx)
{
	return vmx_canonical(vmx, vmx->vmcs.guest_sysenter_esp) && vmx_canonical(vmx, vmx->vmcs.guest_sysenter_eip);
}

static bool perf_global_ctrl(const struct vmx *vmx)
{
	return !vmx_entryc(vmx, ENTRYC_LOAD_PERF_GLOBAL_CTRL) ||
	       pmu_global_control_valid(vmx->cpu, vmx->vmcs.guest_perf_global_ctrl);
}

static bool pat(const struct vmx *vmx)
{
	return !vmx_entryc(vmx, ENTRYC_LOAD_PAT) || vmx_pat_valid(vmx->vmcs.guest_pat);
}

static bool bndcfgs(const struct vmx *vmx)
{
	u64 value = vmx->vmcs.guest_bndcfgs;
	return !vmx_entryc(vmx, ENTRYC_LOAD_BNDCFGS) ||
	       (!(value & ~BNDCFG_DEFINED) && vmx_canonical(vmx, value & PAGE_MASK));
}

static bool pkrs(const struct vmx *vmx)
{
	return !vmx_entryc(vmx, ENTRYC_LOAD_PKRS) || !(vmx->vmcs.guest_pkrs >> 32);
}

static bool efer_reserved(const struct vmx *vmx)
{
	return !vmx_entryc(vmx, ENTRYC_LOAD_EFER) ||
	       !(vmx->vmcs.guest_efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE));
}

static bool efer_lma(const struct vmx *vmx)
{
	return !vmx_entryc(vmx, ENTRYC_LOAD_EFER) || !!(vmx->vmcs.guest_efer & EFER_LMA) == guest_long(vmx);
}

static bool efer_lme(const struct vmx *vmx)
{
	u64 efer = vmx->vmcs.guest_efer;
	return !vmx_entryc(vmx, ENTRYC_LOAD_EFER) || !(vmx->vmcs.guest_cr0 & CR0_PG) ||
	       !!(efer & EFER_LMA) == !!(efer & EFER_LME);
}

/* --- descriptor-table registers (27.3.1.3) --- */

static bool table_bases(const struct vmx *vmx)
{
	return vmx_canonical(vmx, vmx->vmcs.guest_gdtr_base) && vmx_canonical(vmx, vmx->vmcs.guest_idtr_base);
}

static bool table_limits(const struct vmx *vmx)
{
	return !((vmx->vmcs.guest_gdtr_limit | vmx->vmcs.guest_idtr_limit) >> 16);
}

/* --- RIP and RFLAGS (27.3.1.4) --- */

static bool rip(const struct vmx *vmx)
{
	if (guest_long(vmx) && (vmx->vmcs.guest_cs_ar & SEG_AR_L))
		return vmx_canonical(vmx, vmx->vmcs.guest_rip);
	return !(vmx->vmcs.guest_rip >> 32);
}

static bool rflags_reserved(const struct vmx *vmx)
{
	const u64 zero = BITS(63, 22) | BIT(15) | BIT(5) | BIT(3);
	return !(vmx->vmcs.guest_rflags & zero) && (vmx->vmcs.guest_rflags & RFLAGS_ONE);
}

static bool rflags_vm(const struct vmx *vmx)
{
	return !(vmx->vmcs.guest_rflags & RFLAGS_VM) || (!guest_long(vmx) && (vmx->vmcs.guest_cr0 & CR0_PE));
}

static bool rflags_if(const struct vmx *vmx)
{
	u32 event = vmx->vmcs.entry_event;
	bool interrupt = (event & EVENT_INFO_VALID) && bits_get(event, 10, 8) == EVENT_INTERRUPT;
	return !interrupt || (vmx->vmcs.guest_rflags & RFLAGS_IF);
}

const struct vmx_check vmx_checks_guest_regs[] = {
	CHECK("guest CR0: fixed bits", cr0),
	CHECK("guest CR0: PG without PE", paging_needs_protection),
	CHECK("guest CR4: fixed bits", cr4),
	CHECK("guest DEBUGCTL", debugctl),
	CHECK("IA-32e mode guest without paging or PAE", long_needs_paging),
	CHECK("guest CR4.PCIDE outside IA-32e mode", pcide_needs_long),
	CHECK("guest CR3: physical-address width", cr3),
	CHECK("guest DR7", dr7),
	CHECK("guest SYSENTER addresses", sysenter),
	CHECK("guest IA32_PERF_GLOBAL_CTRL", perf_global_ctrl),
	CHECK("guest PAT", pat),
	CHECK("guest BNDCFGS", bndcfgs),
	CHECK("guest PKRS", pkrs),
	CHECK("guest EFER: reserved bits", efer_reserved),
	CHECK("guest EFER: LMA", efer_lma),
	CHECK("guest EFER: LME", efer_lme),
	CHECK("guest GDTR and IDTR base addresses", table_bases),
	CHECK("guest GDTR and IDTR limits", table_limits),
	CHECK("guest RIP", rip),
	CHECK("guest RFLAGS: reserved bits", rflags_reserved),
	CHECK("guest RFLAGS: VM", rflags_vm),
	CHECK("guest RFLAGS: IF clear with an external interrupt", rflags_if),
	{ .name = NULL },
};
