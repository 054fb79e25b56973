/*
 * Checks of the VMX controls: failing one is VM-instruction error 7 (SDM vol. 3, 27.2.1).
 */
#include "hv/vmx/vmx.h"

/* --- VM-execution controls (27.2.1.1) --- */

static bool pin_reserved(const struct vmx *vmx)
{
	return vmx_control_allowed(vmx, MSR_VMX_TRUE_PIN, vmx->vmcs.pin_controls);
}

static bool cpu_reserved(const struct vmx *vmx)
{
	return vmx_control_allowed(vmx, MSR_VMX_TRUE_CPU, vmx->vmcs.cpu_controls);
}

static bool cpu2_reserved(const struct vmx *vmx)
{
	return !vmx_cpu(vmx, CPU_SECONDARY) || vmx_control_allowed(vmx, MSR_VMX_CPU2, vmx->vmcs.cpu_controls2);
}

static bool cpu3_reserved(const struct vmx *vmx)
{
	return !vmx_cpu(vmx, CPU_TERTIARY) || !(vmx->vmcs.cpu_controls3 & ~vmx_cap(vmx, MSR_VMX_CPU3));
}

static bool cr3_target_count(const struct vmx *vmx)
{
	return vmx->vmcs.cr3_target_count <= VMX_CR3_TARGETS;
}

static bool io_bitmaps(const struct vmx *vmx)
{
	return !vmx_cpu(vmx, CPU_IO_BITMAPS) || (vmx_address_ok(vmx, vmx->vmcs.io_bitmap_a, PAGE_SIZE) &&
						 vmx_address_ok(vmx, vmx->vmcs.io_bitmap_b, PAGE_SIZE));
}

static bool msr_bitmap(const struct vmx *vmx)
{
	return !vmx_cpu(vmx, CPU_MSR_BITMAPS) || vmx_address_ok(vmx, vmx->vmcs.msr_bitmap, PAGE_SIZE);
}

static bool virtual_apic_address(const struct vmx *vmx)
{
	return !vmx_cpu(vmx, CPU_TPR_SHADOW) || vmx_address_ok(vmx, vmx->vmcs.virtual_apic, PAGE_SIZE);
}

/* The threshold counts only where virtual interrupts are not delivered: then the TPR has its own use. */
static bool has_threshold(const struct vmx *vmx)
{
	return vmx_cpu(vmx, CPU_TPR_SHADOW) && !vmx_cpu2(vmx, CPU2_VIRTUAL_INTERRUPTS);
}

static bool tpr_threshold_reserved(const struct vmx *vmx)
{
	return !has_threshold(vmx) || !(vmx->vmcs.tpr_threshold & BITS(31, 4));
}

static bool tpr_threshold_not_above_vtpr(const struct vmx *vmx)
{
	if (!has_threshold(vmx) || vmx_cpu2(vmx, CPU2_APIC_ACCESSES))
		return true;
	u32 vtpr = mem_read_u32(vmx->cpu->mem, vmx->vmcs.virtual_apic + 0x80);
	return (vmx->vmcs.tpr_threshold & 0xf) <= bits_get(vtpr, 7, 4);
}

static bool virtual_nmis(const struct vmx *vmx)
{
	return vmx_pin(vmx, PIN_NMI) || !vmx_pin(vmx, PIN_VIRTUAL_NMIS);
}

static bool nmi_window(const struct vmx *vmx)
{
	return vmx_pin(vmx, PIN_VIRTUAL_NMIS) || !vmx_cpu(vmx, CPU_NMI_WINDOW);
}

static bool apic_access_address(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_APIC_ACCESSES) || vmx_address_ok(vmx, vmx->vmcs.apic_access, PAGE_SIZE);
}

static bool virtual_apic_needs_shadow(const struct vmx *vmx)
{
	return vmx_cpu(vmx, CPU_TPR_SHADOW) ||
	       !(vmx_cpu2(vmx, CPU2_X2APIC | CPU2_APIC_REGISTERS | CPU2_VIRTUAL_INTERRUPTS) || vmx_cpu3(vmx, CPU3_IPI));
}

static bool one_apic_mode(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_X2APIC) || !vmx_cpu2(vmx, CPU2_APIC_ACCESSES);
}

static bool virtual_interrupts(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_VIRTUAL_INTERRUPTS) || vmx_pin(vmx, PIN_EXTERNAL_INTERRUPT);
}

static bool posted_interrupts(const struct vmx *vmx)
{
	return !vmx_pin(vmx, PIN_POSTED_INTERRUPTS) ||
	       (vmx_cpu2(vmx, CPU2_VIRTUAL_INTERRUPTS) && vmx_exitc(vmx, EXITC_ACK_INTERRUPT) &&
		vmx->vmcs.posted_vector <= 0xff && vmx_address_ok(vmx, vmx->vmcs.posted_descriptor, 64));
}

static bool pid_table(const struct vmx *vmx)
{
	u64 table = vmx->vmcs.pid_table;
	return !vmx_cpu3(vmx, CPU3_IPI) ||
	       (vmx_address_ok(vmx, table, 8) && vmx_address_fits(vmx, table + vmx->vmcs.last_pid_index * 8ULL + 7));
}

static bool vpid_not_zero(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_VPID) || vmx->vmcs.vpid;
}

static bool eptp(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_EPT) || vmx_eptp_valid(vmx, vmx->vmcs.eptp);
}

static bool pml(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_PML) ||
	       (vmx_cpu2(vmx, CPU2_EPT) && vmx_address_ok(vmx, vmx->vmcs.pml_address, PAGE_SIZE));
}

static bool unrestricted_guest_with_ept(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_UNRESTRICTED_GUEST) || vmx_cpu2(vmx, CPU2_EPT);
}

static bool execute_control_with_ept(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_MODE_BASED_EXECUTE) || vmx_cpu2(vmx, CPU2_EPT);
}

static bool vm_functions(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_VM_FUNCTIONS) || !(vmx->vmcs.vm_functions & ~vmx_cap(vmx, MSR_VMX_VMFUNC));
}

static bool eptp_list(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_VM_FUNCTIONS) || !(vmx->vmcs.vm_functions & VMFUNC_EPTP_SWITCHING) ||
	       (vmx_cpu2(vmx, CPU2_EPT) && vmx_address_ok(vmx, vmx->vmcs.eptp_list, PAGE_SIZE));
}

static bool shadowing_bitmaps(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_VMCS_SHADOWING) || (vmx_address_ok(vmx, vmx->vmcs.vmread_bitmap, PAGE_SIZE) &&
						       vmx_address_ok(vmx, vmx->vmcs.vmwrite_bitmap, PAGE_SIZE));
}

static bool ve_info(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_EPT_VE) || vmx_address_ok(vmx, vmx->vmcs.ve_info, PAGE_SIZE);
}

static bool tsc_multiplier(const struct vmx *vmx)
{
	return !vmx_cpu2(vmx, CPU2_TSC_SCALING) || vmx->vmcs.tsc_multiplier;
}

/* --- VM-exit controls (27.2.1.2) --- */

static bool exit_reserved(const struct vmx *vmx)
{
	return vmx_control_allowed(vmx, MSR_VMX_TRUE_EXIT, vmx->vmcs.exit_controls);
}

static bool save_timer_with_timer(const struct vmx *vmx)
{
	return vmx_pin(vmx, PIN_PREEMPTION_TIMER) || !vmx_exitc(vmx, EXITC_SAVE_PREEMPTION);
}

static bool msr_list(const struct vmx *vmx, u64 address, u32 count)
{
	return !count || (vmx_address_ok(vmx, address, sizeof(struct vmx_msr_entry)) &&
			  vmx_address_fits(vmx, address + (u64)count * sizeof(struct vmx_msr_entry) - 1));
}

static bool exit_msr_store(const struct vmx *vmx)
{
	return msr_list(vmx, vmx->vmcs.exit_msr_store, vmx->vmcs.exit_msr_store_count);
}

static bool exit_msr_load(const struct vmx *vmx)
{
	return msr_list(vmx, vmx->vmcs.exit_msr_load, vmx->vmcs.exit_msr_load_count);
}

/* --- VM-entry controls (27.2.1.3) --- */

static bool entry_reserved(const struct vmx *vmx)
{
	return vmx_control_allowed(vmx, MSR_VMX_TRUE_ENTRY, vmx->vmcs.entry_controls);
}

static enum event_type event_type(const struct vmx *vmx)
{
	return bits_get(vmx->vmcs.entry_event, 10, 8);
}

static u8 event_vector(const struct vmx *vmx)
{
	return vmx->vmcs.entry_event & EVENT_INFO_VECTOR;
}

static bool injecting(const struct vmx *vmx)
{
	return vmx->vmcs.entry_event & EVENT_INFO_VALID;
}

static bool event_type_defined(const struct vmx *vmx)
{
	return !injecting(vmx) || event_type(vmx) != 1;
}

static bool event_vector_fits_type(const struct vmx *vmx)
{
	if (!injecting(vmx))
		return true;
	switch (event_type(vmx)) {
	case EVENT_NMI:
		return event_vector(vmx) == VEC_NMI;
	case EVENT_EXCEPTION:
		return event_vector(vmx) <= 31;
	case EVENT_OTHER:
		return event_vector(vmx) == 0;
	default:
		return true;
	}
}

/* Delivered through the IDT of protected mode, and an exception that has an error code. */
static bool event_has_error(const struct vmx *vmx)
{
	const u32 with_error =
		1u << VEC_DF | 1u << VEC_TS | 1u << VEC_NP | 1u << VEC_SS | 1u << VEC_GP | 1u << VEC_PF | 1u << VEC_AC;
	bool real = vmx_cpu2(vmx, CPU2_UNRESTRICTED_GUEST) && !(vmx->vmcs.guest_cr0 & CR0_PE);
	return !real && event_type(vmx) == EVENT_EXCEPTION && event_vector(vmx) <= 31 &&
	       (with_error >> event_vector(vmx) & 1);
}

static bool event_error_delivery(const struct vmx *vmx)
{
	return !injecting(vmx) || !!(vmx->vmcs.entry_event & EVENT_INFO_ERROR) == event_has_error(vmx);
}

static bool event_reserved(const struct vmx *vmx)
{
	return !injecting(vmx) || !(vmx->vmcs.entry_event & EVENT_INFO_RESERVED);
}

static bool event_error_reserved(const struct vmx *vmx)
{
	return !injecting(vmx) || !(vmx->vmcs.entry_event & EVENT_INFO_ERROR) ||
	       !(vmx->vmcs.entry_event_error & BITS(31, 16));
}

static bool event_length(const struct vmx *vmx)
{
	if (!injecting(vmx))
		return true;
	switch (event_type(vmx)) {
	case EVENT_SOFT_INT:
	case EVENT_PRIV_SOFT_EXC:
	case EVENT_SOFT_EXC:
		return vmx->vmcs.entry_insn_length <= 15;
	default:
		return true;
	}
}

static bool entry_msr_load(const struct vmx *vmx)
{
	return msr_list(vmx, vmx->vmcs.entry_msr_load, vmx->vmcs.entry_msr_load_count);
}

const struct vmx_check vmx_checks_controls[] = {
	CHECK("pin-based controls: reserved bits", pin_reserved),
	CHECK("primary processor-based controls: reserved bits", cpu_reserved),
	CHECK("secondary processor-based controls: reserved bits", cpu2_reserved),
	CHECK("tertiary processor-based controls: reserved bits", cpu3_reserved),
	CHECK("CR3-target count", cr3_target_count),
	CHECK("I/O-bitmap addresses", io_bitmaps),
	CHECK("MSR-bitmap address", msr_bitmap),
	CHECK("virtual-APIC address", virtual_apic_address),
	CHECK("TPR threshold: reserved bits", tpr_threshold_reserved),
	{ .name = "TPR threshold above virtual TPR", .holds = tpr_threshold_not_above_vtpr, .memory = true },
	CHECK("virtual NMIs without NMI exiting", virtual_nmis),
	CHECK("NMI-window exiting without virtual NMIs", nmi_window),
	CHECK("APIC-access address", apic_access_address),
	CHECK("virtual APIC without TPR shadow", virtual_apic_needs_shadow),
	CHECK("virtualization of both APIC modes", one_apic_mode),
	CHECK("virtual-interrupt delivery without external-interrupt exiting", virtual_interrupts),
	CHECK("posted interrupts", posted_interrupts),
	CHECK("PID-pointer table", pid_table),
	CHECK("VPID is 0", vpid_not_zero),
	CHECK("EPT pointer", eptp),
	CHECK("page-modification logging: EPT and address", pml),
	CHECK("unrestricted guest without EPT", unrestricted_guest_with_ept),
	CHECK("mode-based execute control without EPT", execute_control_with_ept),
	CHECK("VM-function controls: reserved bits", vm_functions),
	CHECK("EPTP switching: EPT and list address", eptp_list),
	CHECK("VMREAD- and VMWRITE-bitmap addresses", shadowing_bitmaps),
	CHECK("virtualization-exception information address", ve_info),
	CHECK("TSC multiplier is 0", tsc_multiplier),
	CHECK("VM-exit controls: reserved bits", exit_reserved),
	CHECK("saving of an inactive preemption timer", save_timer_with_timer),
	CHECK("VM-exit MSR-store list", exit_msr_store),
	CHECK("VM-exit MSR-load list", exit_msr_load),
	CHECK("VM-entry controls: reserved bits", entry_reserved),
	CHECK("event: type", event_type_defined),
	CHECK("event: vector", event_vector_fits_type),
	CHECK("event: error-code delivery", event_error_delivery),
	CHECK("event: reserved bits", event_reserved),
	CHECK("event: error code", event_error_reserved),
	CHECK("event: instruction length", event_length),
	CHECK("VM-entry MSR-load list", entry_msr_load),
	{ .name = NULL },
};
