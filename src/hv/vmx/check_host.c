/*
 * Checks of the host-state area: failing one is VM-instruction error 8 (SDM vol. 3, 27.2.2 to 27.2.4).
 */
#include "hv/vmx/vmx.h"

#define SELECTOR_RPL_TI 7

static bool host_long(const struct vmx *vmx)
{
	return vmx_exitc(vmx, EXITC_HOST_LONG);
}

/* --- control registers and MSRs (27.2.2) --- */

static bool cr0(const struct vmx *vmx)
{
	return vmx_cr0_fixed(vmx, vmx->vmcs.host_cr0, false);
}

static bool cr4(const struct vmx *vmx)
{
	return vmx_cr4_fixed(vmx, vmx->vmcs.host_cr4);
}

static bool cr3(const struct vmx *vmx)
{
	return vmx_address_fits(vmx, vmx->vmcs.host_cr3);
}

static bool sysenter(const struct vmx *vmx)
{
	return vmx_canonical(vmx, vmx->vmcs.host_sysenter_esp) && vmx_canonical(vmx, vmx->vmcs.host_sysenter_eip);
}

static bool perf_global_ctrl(const struct vmx *vmx)
{
	return !vmx_exitc(vmx, EXITC_LOAD_PERF_GLOBAL_CTRL) ||
	       pmu_global_control_valid(vmx->cpu, vmx->vmcs.host_perf_global_ctrl);
}

static bool pat(const struct vmx *vmx)
{
	return !vmx_exitc(vmx, EXITC_LOAD_PAT) || vmx_pat_valid(vmx->vmcs.host_pat);
}

static bool pkrs(const struct vmx *vmx)
{
	return !vmx_exitc(vmx, EXITC_LOAD_PKRS) || !(vmx->vmcs.host_pkrs >> 32);
}

static bool efer_reserved(const struct vmx *vmx)
{
	return !vmx_exitc(vmx, EXITC_LOAD_EFER) ||
	       !(vmx->vmcs.host_efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE));
}

static bool efer_long(const struct vmx *vmx)
{
	if (!vmx_exitc(vmx, EXITC_LOAD_EFER))
		return true;
	u64 expected = host_long(vmx) ? EFER_LMA | EFER_LME : 0;
	return (vmx->vmcs.host_efer & (EFER_LMA | EFER_LME)) == expected;
}

/* --- segments and descriptor tables (27.2.3) --- */

static bool selectors(const struct vmx *vmx)
{
	const struct vmcs *v = &vmx->vmcs;
	u16 all = v->host_es_selector | v->host_cs_selector | v->host_ss_selector | v->host_ds_selector |
		  v->host_fs_selector | v->host_gs_selector | v->host_tr_selector;
	return !(all & SELECTOR_RPL_TI);
}

static bool cs_not_null(const struct vmx *vmx)
{
	return vmx->vmcs.host_cs_selector;
}

static bool tr_not_null(const struct vmx *vmx)
{
	return vmx->vmcs.host_tr_selector;
}

static bool ss_not_null(const struct vmx *vmx)
{
	return host_long(vmx) || vmx->vmcs.host_ss_selector;
}

static bool bases(const struct vmx *vmx)
{
	const struct vmcs *v = &vmx->vmcs;
	return vmx_canonical(vmx, v->host_fs_base) && vmx_canonical(vmx, v->host_gs_base) &&
	       vmx_canonical(vmx, v->host_gdtr_base) && vmx_canonical(vmx, v->host_idtr_base) &&
	       vmx_canonical(vmx, v->host_tr_base);
}

/* --- address-space size (27.2.4) --- */

static bool size_is_current(const struct vmx *vmx)
{
	return host_long(vmx) == cpu_long_mode(vmx->cpu);
}

static bool long_guest_of_long_host(const struct vmx *vmx)
{
	return host_long(vmx) || !vmx_entryc(vmx, ENTRYC_GUEST_LONG);
}

static bool pcide_needs_long(const struct vmx *vmx)
{
	return host_long(vmx) || !(vmx->vmcs.host_cr4 & CR4_PCIDE);
}

static bool long_needs_pae(const struct vmx *vmx)
{
	return !host_long(vmx) || (vmx->vmcs.host_cr4 & CR4_PAE);
}

static bool rip(const struct vmx *vmx)
{
	return host_long(vmx) ? vmx_canonical(vmx, vmx->vmcs.host_rip) : !(vmx->vmcs.host_rip >> 32);
}

const struct vmx_check vmx_checks_host[] = {
	CHECK("host CR0: fixed bits", cr0),
	CHECK("host CR4: fixed bits", cr4),
	CHECK("host CR3: physical-address width", cr3),
	CHECK("host SYSENTER addresses", sysenter),
	CHECK("host IA32_PERF_GLOBAL_CTRL", perf_global_ctrl),
	CHECK("host PAT", pat),
	CHECK("host PKRS", pkrs),
	CHECK("host EFER: reserved bits", efer_reserved),
	CHECK("host EFER: LMA and LME against the address-space size", efer_long),
	CHECK("host selectors: RPL and TI", selectors),
	CHECK("host CS selector is null", cs_not_null),
	CHECK("host TR selector is null", tr_not_null),
	CHECK("host SS selector is null", ss_not_null),
	CHECK("host base addresses", bases),
	CHECK("host address-space size against EFER.LMA", size_is_current),
	CHECK("IA-32e mode guest of a 32-bit host", long_guest_of_long_host),
	CHECK("host CR4.PCIDE outside IA-32e mode", pcide_needs_long),
	CHECK("host CR4.PAE clear in IA-32e mode", long_needs_pae),
	CHECK("host RIP", rip),
	{ .name = NULL },
};
