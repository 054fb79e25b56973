/*
 * Checks of guest non-register state and of the PDPTEs (SDM vol. 3, 27.3.1.5 and 27.3.1.6). Failing one is a VM exit
 * for invalid guest state; some say in the exit qualification which.
 */
#include "hv/vmx/vmx.h"

static u32 interruptibility(const struct vmx *vmx)
{
	return vmx->vmcs.guest_interruptibility;
}

static bool blocked_by_shadow(const struct vmx *vmx)
{
	return interruptibility(vmx) & (INTR_STATE_STI | INTR_STATE_MOV_SS);
}

static bool injecting(const struct vmx *vmx, enum event_type type)
{
	u32 event = vmx->vmcs.entry_event;
	return (event & EVENT_INFO_VALID) && bits_get(event, 10, 8) == type;
}

static bool injecting_exception(const struct vmx *vmx, u8 vector)
{
	return injecting(vmx, EVENT_EXCEPTION) && (vmx->vmcs.entry_event & EVENT_INFO_VECTOR) == vector;
}

/* --- activity state --- */

static bool activity_defined(const struct vmx *vmx)
{
	return vmx->vmcs.guest_activity <= ACTIVITY_WAIT_SIPI;
}

static bool hlt_needs_cpl0(const struct vmx *vmx)
{
	return vmx->vmcs.guest_activity != ACTIVITY_HLT || SEG_DPL(vmx->vmcs.guest_ss_ar) == 0;
}

static bool active_in_shadow(const struct vmx *vmx)
{
	return !blocked_by_shadow(vmx) || vmx->vmcs.guest_activity == ACTIVITY_ACTIVE;
}

static bool activity_allows_event(const struct vmx *vmx)
{
	if (!(vmx->vmcs.entry_event & EVENT_INFO_VALID))
		return true;
	switch (vmx->vmcs.guest_activity) {
	case ACTIVITY_ACTIVE:
		return true;
	case ACTIVITY_HLT:
		return injecting(vmx, EVENT_INTERRUPT) || injecting(vmx, EVENT_NMI) || injecting(vmx, EVENT_OTHER) ||
		       injecting_exception(vmx, VEC_DB) || injecting_exception(vmx, VEC_MC);
	case ACTIVITY_SHUTDOWN:
		return injecting(vmx, EVENT_NMI) || injecting_exception(vmx, VEC_MC);
	default:
		return false;
	}
}

/* --- interruptibility state --- */

static bool interruptibility_reserved(const struct vmx *vmx)
{
	return !(interruptibility(vmx) & INTR_STATE_RESERVED);
}

static bool one_shadow(const struct vmx *vmx)
{
	return (interruptibility(vmx) & (INTR_STATE_STI | INTR_STATE_MOV_SS)) != (INTR_STATE_STI | INTR_STATE_MOV_SS);
}

static bool sti_needs_if(const struct vmx *vmx)
{
	return !(interruptibility(vmx) & INTR_STATE_STI) || (vmx->vmcs.guest_rflags & RFLAGS_IF);
}

static bool interrupt_not_blocked(const struct vmx *vmx)
{
	return !injecting(vmx, EVENT_INTERRUPT) || !blocked_by_shadow(vmx);
}

static bool nmi_not_in_mov_ss(const struct vmx *vmx)
{
	return !injecting(vmx, EVENT_NMI) || !(interruptibility(vmx) & INTR_STATE_MOV_SS);
}

static bool not_in_smm(const struct vmx *vmx)
{
	return !(interruptibility(vmx) & INTR_STATE_SMI);
}

static bool nmi_not_blocked(const struct vmx *vmx)
{
	return !vmx_pin(vmx, PIN_VIRTUAL_NMIS) || !injecting(vmx, EVENT_NMI) ||
	       !(interruptibility(vmx) & INTR_STATE_NMI);
}

/* --- pending debug exceptions --- */

static bool pending_db_reserved(const struct vmx *vmx)
{
	return !(vmx->vmcs.guest_pending_db & ~(BITS(3, 0) | PENDING_DB_ENABLED | DR6_BS));
}

/* An instruction under a shadow, or HLT, has left a single-step trap exactly if TF is set (and BTF is not). */
static bool pending_db_single_step(const struct vmx *vmx)
{
	if (!blocked_by_shadow(vmx) && vmx->vmcs.guest_activity != ACTIVITY_HLT)
		return true;
	bool stepping = (vmx->vmcs.guest_rflags & RFLAGS_TF) && !(vmx->vmcs.guest_debugctl & DEBUGCTL_BTF);
	return !!(vmx->vmcs.guest_pending_db & DR6_BS) == stepping;
}

/* --- VMCS link pointer --- */

static bool link_pointer_address(const struct vmx *vmx)
{
	u64 link = vmx->vmcs.link_pointer;
	return link == VMCS_NONE || vmx_address_ok(vmx, link, PAGE_SIZE);
}

/* The shadow bit must be as "VMCS shadowing" is. */
static bool link_pointer_revision(const struct vmx *vmx)
{
	u64 link = vmx->vmcs.link_pointer;
	u32 revision = VMCS_REVISION | (vmx_cpu2(vmx, CPU2_VMCS_SHADOWING) ? VMCS_SHADOW : 0);
	return link == VMCS_NONE || mem_read_u32(vmx->cpu->mem, link) == revision;
}

static bool link_pointer_is_not_current(const struct vmx *vmx)
{
	return vmx->vmcs.link_pointer == VMCS_NONE || vmx->vmcs.link_pointer != vmx->current;
}

/* --- PDPTEs --- */

static bool pdptes(const struct vmx *vmx)
{
	return !vmx->guest_pae || vmx_pdptes_valid(vmx, vmx->guest_pdpte);
}

const struct vmx_check vmx_checks_guest_nonreg[] = {
	CHECK("guest activity state", activity_defined),
	CHECK("guest in HLT above CPL 0", hlt_needs_cpl0),
	CHECK("guest inactive under STI or MOV SS", active_in_shadow),
	CHECK("guest activity state does not take the event", activity_allows_event),
	CHECK("guest interruptibility: reserved bits", interruptibility_reserved),
	CHECK("guest blocked by STI and MOV SS", one_shadow),
	CHECK("guest blocked by STI with IF clear", sti_needs_if),
	CHECK("external interrupt while blocked by STI or MOV SS", interrupt_not_blocked),
	CHECK("NMI while blocked by MOV SS", nmi_not_in_mov_ss),
	CHECK("guest blocking by SMI", not_in_smm),
	CHECK("virtual NMI while blocked by NMI", nmi_not_blocked),
	CHECK("guest pending debug exceptions: reserved bits", pending_db_reserved),
	CHECK("guest pending debug exceptions: BS against TF", pending_db_single_step),
	CHECK_SAYING("VMCS link pointer: address", link_pointer_address, ENTRY_FAIL_LINK),
	CHECK_SAYING("VMCS link pointer: revision", link_pointer_revision, ENTRY_FAIL_LINK),
	CHECK_SAYING("VMCS link pointer: the current VMCS", link_pointer_is_not_current, ENTRY_FAIL_LINK),
	CHECK_SAYING("guest PDPTEs", pdptes, ENTRY_FAIL_PDPTE),
	{ .name = NULL },
};
