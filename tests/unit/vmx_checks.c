/*
 * The checks of VM entry: from a VMCS that passes all, each case breaks one thing and names the check that must notice
 * it first. Every check of every table has a case.
 */
#undef _GNU_SOURCE /* its <signal.h> has a REG_RIP too */

#include "hv/vmx/vmx.h"

#include <glib.h>
#include <string.h>

static struct cpu_config config = { .nested = NESTED_VTX, .phys_bits = 40 };
static struct cpu *cpu;
static struct mem mem;
static struct vmx vmx;

enum { LINK_PAGE = 0x5000, OTHER_PAGE = 0x6000, VIRTUAL_APIC = 0x7000, SHADOW_PAGE = 0x8000 };

/* A 64-bit hypervisor about to enter a 64-bit guest. */
static void make_valid(void)
{
	struct vmcs *v = &vmx.vmcs;
	memset(v, 0, sizeof(*v));
	v->pin_controls = PIN_DEFAULT1;
	v->cpu_controls = CPU_DEFAULT1;
	v->exit_controls = EXITC_DEFAULT1 | EXITC_HOST_LONG;
	v->entry_controls = ENTRYC_DEFAULT1 | ENTRYC_GUEST_LONG;
	v->host_cr0 = v->guest_cr0 = CR0_PE | CR0_NE | CR0_PG | CR0_ET;
	v->host_cr4 = v->guest_cr4 = CR4_PAE | CR4_VMXE;
	v->host_cs_selector = 8;
	v->host_tr_selector = 16;
	v->link_pointer = VMCS_NONE;
	v->guest_rflags = RFLAGS_ONE;
	v->guest_pat = v->host_pat = 0x0007040600070406;
	for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++) {
		*vmcs_limit(v, seg) = 0xffffffff;
		*vmcs_ar(v, seg) = 0xc093;
	}
	v->guest_cs_ar = 0xa09b;
	v->guest_tr_ar = 0x8b;
	v->guest_tr_limit = 0x67;
	v->guest_ldtr_ar = SEG_AR_UNUSABLE;
}

static void setup(void)
{
	cpu = g_new0(struct cpu, 1);
	memset(config.features, 0xff, sizeof(config.features));
	g_assert_cmpint(mem_init(&mem, 1 << 20), ==, 0);
	cpu->config = &config;
	cpu->mem = &mem;
	cpu->hv_state = &vmx;
	cpu->efer = EFER_LMA | EFER_LME;
	vmx.cpu = cpu;
	vmx.on = true;
	vmx.current = 0x4000;
	vmx_caps_init(&vmx);
	mem_write_u32(&mem, LINK_PAGE, VMCS_REVISION);
	mem_write_u32(&mem, 0x4000, VMCS_REVISION);
	mem_write_u32(&mem, OTHER_PAGE, VMCS_REVISION + 1);
	mem_write_u32(&mem, SHADOW_PAGE, VMCS_REVISION | VMCS_SHADOW);
}

static const struct vmx_check *const tables[] = { vmx_checks_controls, vmx_checks_host, vmx_checks_guest_regs,
						  vmx_checks_guest_segs, vmx_checks_guest_nonreg };

static const struct vmx_check *first_failure(void)
{
	const struct vmx_check *failed = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(tables) && !failed; i++)
		failed = vmx_check_run(tables[i], &vmx);
	return failed;
}

/* --- the cases --- */

struct change {
	u16 offset;
	u8 bytes;
	u64 value;
};

#define F(field) offsetof(struct vmcs, field), sizeof(((struct vmcs *)0)->field)
#define SET(field, value)                                                                                              \
	{                                                                                                              \
		F(field), value                                                                                        \
	}
#define SECONDARY(bits) SET(cpu_controls, CPU_DEFAULT1 | CPU_SECONDARY), SET(cpu_controls2, bits)
#define WITH(bits)      SET(cpu_controls, CPU_DEFAULT1 | (bits))
#define SHADOWED(bits)  SET(cpu_controls, CPU_DEFAULT1 | CPU_SECONDARY | CPU_TPR_SHADOW), SET(cpu_controls2, bits)
#define PINS(bits)      SET(pin_controls, PIN_DEFAULT1 | (bits))
#define POSTED                                                                                                         \
	SHADOWED(CPU2_VIRTUAL_INTERRUPTS), PINS(PIN_EXTERNAL_INTERRUPT | PIN_POSTED_INTERRUPTS),                       \
		EXIT(EXITC_ACK_INTERRUPT)
#define IPIS                      WITH(CPU_TERTIARY | CPU_TPR_SHADOW), SET(cpu_controls3, CPU3_IPI)
#define UNRESTRICTED              SECONDARY(CPU2_EPT | CPU2_UNRESTRICTED_GUEST), SET(eptp, 0x101e)
#define EVENT(type, vector, rest) SET(entry_event, EVENT_INFO_VALID | (type) << 8 | (vector) | (rest))
#define EXIT(bits)                SET(exit_controls, EXITC_DEFAULT1 | EXITC_HOST_LONG | (bits))
#define ENTRY(bits)               SET(entry_controls, ENTRYC_DEFAULT1 | ENTRYC_GUEST_LONG | (bits))
/* A 32-bit guest: its CS, its CR4 as given. */
#define GUEST32       SET(entry_controls, ENTRYC_DEFAULT1), SET(guest_cs_ar, 0xc09b)
#define NON_CANONICAL 0xaaaaaaaaaaaaaaaaULL
#define TOO_WIDE      BIT(40)
#define V86                                                                                                            \
	SET(entry_controls, ENTRYC_DEFAULT1), SET(guest_rflags, RFLAGS_VM | RFLAGS_ONE), SET(guest_es_limit, 0xffff),  \
		SET(guest_cs_limit, 0xffff), SET(guest_ss_limit, 0xffff), SET(guest_ds_limit, 0xffff),                 \
		SET(guest_fs_limit, 0xffff), SET(guest_gs_limit, 0xffff), SET(guest_es_ar, 0xf3),                      \
		SET(guest_cs_ar, 0xf3), SET(guest_ss_ar, 0xf3), SET(guest_ds_ar, 0xf3), SET(guest_fs_ar, 0xf3),        \
		SET(guest_gs_ar, 0xf3)

static const struct breakage {
	const char *expected; /* NULL: still valid */
	struct change change[20];
} cases[] = {
	/* clang-format off */
	{ NULL, {} },
	/* VM-execution controls. */
	{ "pin-based controls: reserved bits", { SET(pin_controls, 0) } },
	{ "pin-based controls: reserved bits", { SET(pin_controls, PIN_DEFAULT1 | BIT(8)) } },
	{ "primary processor-based controls: reserved bits", { SET(cpu_controls, 0) } },
	{ "primary processor-based controls: reserved bits", { WITH(BIT(18)) } },
	{ NULL, { SET(cpu_controls, CPU_DEFAULT1 & ~(CPU_CR3_LOAD | CPU_CR3_STORE)) } },
	{ "secondary processor-based controls: reserved bits", { SECONDARY(BIT(31)) } },
	{ "secondary processor-based controls: reserved bits", { SECONDARY(BIT(24)) } },
	{ NULL, { SET(cpu_controls2, BIT(31)) } },
	{ "tertiary processor-based controls: reserved bits", { WITH(CPU_TERTIARY), SET(cpu_controls3, BIT(0)) } },
	{ NULL, { SET(cpu_controls3, BIT(0)) } },
	{ "CR3-target count", { SET(cr3_target_count, 5) } },
	{ NULL, { SET(cr3_target_count, 4) } },
	{ "I/O-bitmap addresses", { WITH(CPU_IO_BITMAPS), SET(io_bitmap_a, 1) } },
	{ "I/O-bitmap addresses", { WITH(CPU_IO_BITMAPS), SET(io_bitmap_b, TOO_WIDE) } },
	{ NULL, { SET(io_bitmap_a, 1) } },
	{ "MSR-bitmap address", { WITH(CPU_MSR_BITMAPS), SET(msr_bitmap, 0x800) } },
	{ "MSR-bitmap address", { WITH(CPU_MSR_BITMAPS), SET(msr_bitmap, TOO_WIDE) } },
	{ "virtual-APIC address", { WITH(CPU_TPR_SHADOW), SET(virtual_apic, 8) } },
	{ "TPR threshold: reserved bits", { WITH(CPU_TPR_SHADOW), SET(tpr_threshold, 0x10) } },
	{ "TPR threshold above virtual TPR", { WITH(CPU_TPR_SHADOW), SET(virtual_apic, VIRTUAL_APIC), SET(tpr_threshold, 4) } },
	{ NULL, { WITH(CPU_TPR_SHADOW), SET(virtual_apic, VIRTUAL_APIC), SET(tpr_threshold, 3) } },
	{ "virtual NMIs without NMI exiting", { SET(pin_controls, PIN_DEFAULT1 | PIN_VIRTUAL_NMIS) } },
	{ "NMI-window exiting without virtual NMIs", { SET(pin_controls, PIN_DEFAULT1 | PIN_NMI), WITH(CPU_NMI_WINDOW) } },
	{ NULL, { SET(pin_controls, PIN_DEFAULT1 | PIN_NMI | PIN_VIRTUAL_NMIS), WITH(CPU_NMI_WINDOW) } },
	{ "APIC-access address", { SECONDARY(CPU2_APIC_ACCESSES), SET(apic_access, 8) } },
	{ NULL, { SECONDARY(CPU2_APIC_ACCESSES) } },
	{ "virtual APIC without TPR shadow", { SECONDARY(CPU2_X2APIC) } },
	{ "virtual APIC without TPR shadow", { SECONDARY(CPU2_APIC_REGISTERS) } },
	{ "virtual APIC without TPR shadow", { SECONDARY(CPU2_VIRTUAL_INTERRUPTS) } },
	{ "virtualization of both APIC modes", { SHADOWED(CPU2_X2APIC | CPU2_APIC_ACCESSES) } },
	{ NULL, { SHADOWED(CPU2_X2APIC | CPU2_APIC_REGISTERS) } },
	{ NULL, { SHADOWED(CPU2_APIC_ACCESSES), SET(virtual_apic, VIRTUAL_APIC), SET(tpr_threshold, 4) } },
	{ "virtual-interrupt delivery without external-interrupt exiting", { SHADOWED(CPU2_VIRTUAL_INTERRUPTS) } },
	{ NULL, { SHADOWED(CPU2_VIRTUAL_INTERRUPTS), PINS(PIN_EXTERNAL_INTERRUPT), SET(tpr_threshold, 0x10) } },
	{ "posted interrupts", { PINS(PIN_EXTERNAL_INTERRUPT | PIN_POSTED_INTERRUPTS), EXIT(EXITC_ACK_INTERRUPT) } },
	{ "posted interrupts", { POSTED, SET(exit_controls, EXITC_DEFAULT1 | EXITC_HOST_LONG) } },
	{ "posted interrupts", { POSTED, SET(posted_vector, 0x100) } },
	{ "posted interrupts", { POSTED, SET(posted_descriptor, 32) } },
	{ NULL, { POSTED, SET(posted_vector, 0xff), SET(posted_descriptor, 64) } },
	{ "virtual APIC without TPR shadow", { WITH(CPU_TERTIARY), SET(cpu_controls3, CPU3_IPI) } },
	{ "PID-pointer table", { IPIS, SET(pid_table, 4) } },
	{ "PID-pointer table", { IPIS, SET(pid_table, TOO_WIDE - 8), SET(last_pid_index, 1) } },
	{ NULL, { IPIS, SET(pid_table, TOO_WIDE - 8) } },
	{ "VPID is 0", { SECONDARY(CPU2_VPID) } },
	{ NULL, { SECONDARY(CPU2_VPID), SET(vpid, 1) } },
	{ "EPT pointer", { SECONDARY(CPU2_EPT) } },
	{ NULL, { SECONDARY(CPU2_EPT), SET(eptp, 0x101e) } },
	{ NULL, { SECONDARY(CPU2_EPT), SET(eptp, 0x1026) } },
	{ "EPT pointer", { SECONDARY(CPU2_EPT), SET(eptp, 0x1016) } },
	{ "EPT pointer", { SECONDARY(CPU2_EPT), SET(eptp, 0x102e) } },
	{ "page-modification logging: EPT and address", { SECONDARY(CPU2_PML) } },
	{ "page-modification logging: EPT and address", { SECONDARY(CPU2_EPT | CPU2_PML), SET(eptp, 0x101e), SET(pml_address, 8) } },
	{ NULL, { SECONDARY(CPU2_EPT | CPU2_PML), SET(eptp, 0x101e) } },
	{ "unrestricted guest without EPT", { SECONDARY(CPU2_UNRESTRICTED_GUEST) } },
	{ NULL, { UNRESTRICTED } },
	{ "mode-based execute control without EPT", { SECONDARY(CPU2_MODE_BASED_EXECUTE) } },
	{ NULL, { SECONDARY(CPU2_EPT | CPU2_MODE_BASED_EXECUTE), SET(eptp, 0x101e) } },
	{ "VM-function controls: reserved bits", { SECONDARY(CPU2_VM_FUNCTIONS), SET(vm_functions, 2) } },
	{ NULL, { SECONDARY(CPU2_VM_FUNCTIONS), SET(eptp_list, 8) } },
	{ "EPTP switching: EPT and list address", { SECONDARY(CPU2_VM_FUNCTIONS), SET(vm_functions, 1) } },
	{ "EPTP switching: EPT and list address", { SECONDARY(CPU2_EPT | CPU2_VM_FUNCTIONS), SET(eptp, 0x101e), SET(vm_functions, 1), SET(eptp_list, TOO_WIDE) } },
	{ NULL, { SECONDARY(CPU2_EPT | CPU2_VM_FUNCTIONS), SET(eptp, 0x101e), SET(vm_functions, 1) } },
	{ "virtualization-exception information address", { SECONDARY(CPU2_EPT_VE), SET(ve_info, 8) } },
	{ NULL, { SECONDARY(CPU2_EPT_VE) } },
	{ "VMREAD- and VMWRITE-bitmap addresses", { SECONDARY(CPU2_VMCS_SHADOWING), SET(vmread_bitmap, 8) } },
	{ "VMREAD- and VMWRITE-bitmap addresses", { SECONDARY(CPU2_VMCS_SHADOWING), SET(vmwrite_bitmap, TOO_WIDE) } },
	{ NULL, { SECONDARY(CPU2_VMCS_SHADOWING) } },
	{ "TSC multiplier is 0", { SECONDARY(CPU2_TSC_SCALING) } },
	{ NULL, { SECONDARY(CPU2_TSC_SCALING), SET(tsc_multiplier, 1) } },
	/* VM-exit controls. */
	{ "VM-exit controls: reserved bits", { SET(exit_controls, 0) } },
	{ "VM-exit controls: reserved bits", { EXIT(BIT(24)) } },
	{ NULL, { SET(exit_controls, (EXITC_DEFAULT1 | EXITC_HOST_LONG) & ~EXITC_SAVE_DEBUG) } },
	{ "saving of an inactive preemption timer", { EXIT(EXITC_SAVE_PREEMPTION) } },
	{ NULL, { EXIT(EXITC_SAVE_PREEMPTION), SET(pin_controls, PIN_DEFAULT1 | PIN_PREEMPTION_TIMER) } },
	{ "VM-exit MSR-store list", { SET(exit_msr_store_count, 1), SET(exit_msr_store, 8) } },
	{ "VM-exit MSR-store list", { SET(exit_msr_store_count, 1), SET(exit_msr_store, TOO_WIDE) } },
	{ "VM-exit MSR-store list", { SET(exit_msr_store_count, 2), SET(exit_msr_store, TOO_WIDE - 16) } },
	{ NULL, { SET(exit_msr_store_count, 1), SET(exit_msr_store, TOO_WIDE - 16) } },
	{ "VM-exit MSR-load list", { SET(exit_msr_load_count, 1), SET(exit_msr_load, 8) } },
	/* VM-entry controls. */
	{ "VM-entry controls: reserved bits", { SET(entry_controls, 0) } },
	{ "VM-entry controls: reserved bits", { ENTRY(BIT(10)) } },
	{ "event: type", { EVENT(1, 0, 0) } },
	{ "event: vector", { EVENT(EVENT_NMI, 3, 0) } },
	{ "event: vector", { EVENT(EVENT_EXCEPTION, 32, 0) } },
	{ "event: vector", { EVENT(EVENT_OTHER, 1, 0) } },
	{ NULL, { EVENT(EVENT_OTHER, 0, 0) } },
	{ NULL, { EVENT(EVENT_SOFT_INT, 255, 0), SET(entry_insn_length, 2) } },
	{ "event: error-code delivery", { EVENT(EVENT_EXCEPTION, VEC_GP, 0) } },
	{ "event: error-code delivery", { EVENT(EVENT_EXCEPTION, VEC_UD, EVENT_INFO_ERROR) } },
	{ "event: error-code delivery", { EVENT(EVENT_NMI, 2, EVENT_INFO_ERROR) } },
	{ NULL, { EVENT(EVENT_EXCEPTION, VEC_GP, EVENT_INFO_ERROR) } },
	{ "event: reserved bits", { EVENT(EVENT_EXCEPTION, VEC_UD, BIT(12)) } },
	{ "event: error code", { EVENT(EVENT_EXCEPTION, VEC_GP, EVENT_INFO_ERROR), SET(entry_event_error, BIT(16)) } },
	{ "event: instruction length", { EVENT(EVENT_SOFT_EXC, VEC_BP, 0), SET(entry_insn_length, 16) } },
	{ NULL, { EVENT(EVENT_SOFT_EXC, VEC_BP, 0), SET(entry_insn_length, 0) } },
	{ NULL, { EVENT(EVENT_EXCEPTION, VEC_UD, 0), SET(entry_insn_length, 16) } },
	{ "VM-entry MSR-load list", { SET(entry_msr_load_count, 1), SET(entry_msr_load, 4) } },
	/* Host state. */
	{ "host CR0: fixed bits", { SET(host_cr0, CR0_PE | CR0_PG) } },
	{ "host CR0: fixed bits", { UNRESTRICTED, SET(host_cr0, CR0_NE) } },
	{ "host CR0: fixed bits", { SET(host_cr0, CR0_PE | CR0_PG | CR0_NE | BIT(32)) } },
	{ "host CR4: fixed bits", { SET(host_cr4, CR4_PAE) } },
	{ "host CR4: fixed bits", { SET(host_cr4, CR4_PAE | CR4_VMXE | BIT(31)) } },
	{ "host CR3: physical-address width", { SET(host_cr3, TOO_WIDE) } },
	{ "host SYSENTER addresses", { SET(host_sysenter_esp, NON_CANONICAL) } },
	{ "host SYSENTER addresses", { SET(host_sysenter_eip, NON_CANONICAL) } },
	{ "host IA32_PERF_GLOBAL_CTRL", { EXIT(EXITC_LOAD_PERF_GLOBAL_CTRL), SET(host_perf_global_ctrl, BIT(4)) } },
	{ NULL, { EXIT(EXITC_LOAD_PERF_GLOBAL_CTRL), SET(host_perf_global_ctrl, 0x70000000f) } },
	{ NULL, { SET(host_perf_global_ctrl, BIT(4)) } },
	{ "host PAT", { EXIT(EXITC_LOAD_PAT), SET(host_pat, 2) } },
	{ NULL, { SET(host_pat, 2) } },
	{ "host PKRS", { EXIT(EXITC_LOAD_PKRS), SET(host_pkrs, BIT(32)) } },
	{ NULL, { SET(host_pkrs, BIT(32)) } },
	{ "host EFER: reserved bits", { EXIT(EXITC_LOAD_EFER), SET(host_efer, EFER_LMA | EFER_LME | BIT(9)) } },
	{ "host EFER: LMA and LME against the address-space size", { EXIT(EXITC_LOAD_EFER), SET(host_efer, EFER_LME) } },
	{ "host EFER: LMA and LME against the address-space size", { EXIT(EXITC_LOAD_EFER), SET(host_efer, 0) } },
	{ NULL, { EXIT(EXITC_LOAD_EFER), SET(host_efer, EFER_LMA | EFER_LME | EFER_NXE | EFER_SCE) } },
	{ "host selectors: RPL and TI", { SET(host_fs_selector, 3) } },
	{ "host selectors: RPL and TI", { SET(host_tr_selector, 20) } },
	{ "host CS selector is null", { SET(host_cs_selector, 0) } },
	{ "host TR selector is null", { SET(host_tr_selector, 0) } },
	{ "host SS selector is null", { SET(exit_controls, EXITC_DEFAULT1) } },
	{ "host base addresses", { SET(host_gs_base, NON_CANONICAL) } },
	{ "host base addresses", { SET(host_idtr_base, NON_CANONICAL) } },
	{ "host address-space size against EFER.LMA", { SET(exit_controls, EXITC_DEFAULT1), SET(host_ss_selector, 24) } },
	{ "host CR4.PAE clear in IA-32e mode", { SET(host_cr4, CR4_VMXE) } },
	{ "host RIP", { SET(host_rip, NON_CANONICAL) } },
	/* Guest registers. */
	{ "guest CR0: fixed bits", { SET(guest_cr0, CR0_PE | CR0_PG) } },
	{ "guest CR0: fixed bits", { SET(guest_cr0, CR0_NE) } },
	{ "guest CR0: PG without PE", { UNRESTRICTED, SET(guest_cr0, CR0_NE | CR0_PG) } },
	{ "guest CR4: fixed bits", { SET(guest_cr4, CR4_PAE) } },
	{ "guest DEBUGCTL", { SET(guest_debugctl, BIT(2)) } },
	{ NULL, { SET(guest_debugctl, DEBUGCTL_FREEZE_PERFMON) } },
	{ "IA-32e mode guest without paging or PAE", { SET(guest_cr4, CR4_VMXE) } },
	{ "IA-32e mode guest without paging or PAE", { UNRESTRICTED, SET(guest_cr0, CR0_NE | CR0_PE) } },
	{ "guest CR4.PCIDE outside IA-32e mode", { GUEST32, SET(guest_cr4, CR4_PAE | CR4_VMXE | CR4_PCIDE) } },
	{ NULL, { GUEST32, SET(guest_cr4, CR4_VMXE) } },
	{ "guest CR3: physical-address width", { SET(guest_cr3, TOO_WIDE) } },
	{ "guest DR7", { SET(guest_dr7, BIT(32)) } },
	{ NULL, { SET(guest_dr7, BIT(32)), SET(entry_controls, (ENTRYC_DEFAULT1 | ENTRYC_GUEST_LONG) & ~ENTRYC_LOAD_DEBUG) } },
	{ "guest SYSENTER addresses", { SET(guest_sysenter_esp, NON_CANONICAL) } },
	{ "guest IA32_PERF_GLOBAL_CTRL", { ENTRY(ENTRYC_LOAD_PERF_GLOBAL_CTRL), SET(guest_perf_global_ctrl, BIT(35)) } },
	{ NULL, { ENTRY(ENTRYC_LOAD_PERF_GLOBAL_CTRL), SET(guest_perf_global_ctrl, 0x70000000f) } },
	{ NULL, { SET(guest_perf_global_ctrl, BIT(35)) } },
	{ "guest PAT", { ENTRY(ENTRYC_LOAD_PAT), SET(guest_pat, 0x0800) } },
	{ "guest BNDCFGS", { ENTRY(ENTRYC_LOAD_BNDCFGS), SET(guest_bndcfgs, 4) } },
	{ "guest BNDCFGS", { ENTRY(ENTRYC_LOAD_BNDCFGS), SET(guest_bndcfgs, NON_CANONICAL & ~0xfffULL) } },
	{ NULL, { SET(guest_bndcfgs, 4) } },
	{ "guest PKRS", { ENTRY(ENTRYC_LOAD_PKRS), SET(guest_pkrs, BIT(32)) } },
	{ NULL, { SET(guest_pkrs, BIT(32)) } },
	{ "guest EFER: reserved bits", { ENTRY(ENTRYC_LOAD_EFER), SET(guest_efer, BIT(1)) } },
	{ "guest EFER: LMA", { ENTRY(ENTRYC_LOAD_EFER), SET(guest_efer, EFER_LME) } },
	{ "guest EFER: LME", { ENTRY(ENTRYC_LOAD_EFER), SET(guest_efer, EFER_LMA) } },
	{ NULL, { ENTRY(ENTRYC_LOAD_EFER), SET(guest_efer, EFER_LMA | EFER_LME) } },
	{ "guest GDTR and IDTR base addresses", { SET(guest_gdtr_base, NON_CANONICAL) } },
	{ "guest GDTR and IDTR limits", { SET(guest_idtr_limit, 0x10000) } },
	{ "guest RIP", { SET(guest_rip, NON_CANONICAL) } },
	{ "guest RIP", { SET(guest_cs_ar, 0xc09b), SET(guest_rip, BIT(32)) } },
	{ "guest RFLAGS: reserved bits", { SET(guest_rflags, 0) } },
	{ "guest RFLAGS: reserved bits", { SET(guest_rflags, RFLAGS_ONE | BIT(15)) } },
	{ "guest RFLAGS: VM", { SET(guest_rflags, RFLAGS_ONE | RFLAGS_VM) } },
	{ "guest RFLAGS: IF clear with an external interrupt", { EVENT(EVENT_INTERRUPT, 32, 0) } },
	{ NULL, { EVENT(EVENT_INTERRUPT, 32, 0), SET(guest_rflags, RFLAGS_ONE | RFLAGS_IF) } },
	/* Guest segments. */
	{ "guest TR selector: TI", { SET(guest_tr_selector, 4) } },
	{ "guest LDTR selector: TI", { SET(guest_ldtr_selector, 4), SET(guest_ldtr_ar, 0x82) } },
	{ NULL, { SET(guest_ldtr_selector, 4) } },
	{ "guest SS selector: RPL is not CS's", { SET(guest_ss_selector, 3) } },
	{ NULL, { UNRESTRICTED, SET(guest_ss_selector, 3) } },
	{ NULL, { V86 } },
	{ "guest segment bases in virtual-8086 mode", { V86, SET(guest_ds_base, 16) } },
	{ "guest TR, FS and GS bases", { SET(guest_fs_base, NON_CANONICAL) } },
	{ "guest LDTR base", { SET(guest_ldtr_ar, 0x82), SET(guest_ldtr_base, NON_CANONICAL) } },
	{ "guest CS base", { SET(guest_cs_base, BIT(32)) } },
	{ "guest SS, DS and ES bases", { SET(guest_ds_base, BIT(32)) } },
	{ NULL, { SET(guest_ds_base, BIT(32)), SET(guest_ds_ar, SEG_AR_UNUSABLE) } },
	{ "guest segment limits in virtual-8086 mode", { V86, SET(guest_gs_limit, 0xfffe) } },
	{ "guest access rights in virtual-8086 mode", { V86, SET(guest_es_ar, 0x93) } },
	{ "guest CS: type", { SET(guest_cs_ar, 0xa09a) } },
	{ "guest CS: type", { SET(guest_cs_ar, 0xc093) } },
	{ NULL, { UNRESTRICTED, SET(guest_cs_ar, 0xc093) } },
	{ "guest SS: type", { SET(guest_ss_ar, 0xc091) } },
	{ NULL, { SET(guest_ss_ar, 0xc091 | SEG_AR_UNUSABLE) } },
	{ "guest data segments: type", { SET(guest_ds_ar, 0xc092) } },
	{ "guest data segments: type", { SET(guest_gs_ar, 0xc099) } },
	{ "guest segments: S", { SET(guest_es_ar, 0xc083) } },
	{ "guest CS: DPL", { SET(guest_cs_ar, 0xa0fb) } },
	{ "guest CS: DPL", { SET(guest_cs_ar, 0xa0ff) } },
	{ NULL, { SET(guest_cs_ar, 0xa09f) } },
	{ "guest CS: DPL", { UNRESTRICTED, SET(guest_cs_ar, 0xc0f3), SET(guest_ss_ar, 0xc0f3) } },
	{ "guest SS: DPL is not RPL", { SET(guest_cs_ar, 0xa0fb), SET(guest_ss_ar, 0xc0f3) } },
	{ NULL, { SET(guest_cs_ar, 0xa0fb), SET(guest_ss_ar, 0xc0f3), SET(guest_cs_selector, 3), SET(guest_ss_selector, 3) } },
	{ "guest SS: DPL is not 0", { UNRESTRICTED, SET(guest_cs_ar, 0xc093), SET(guest_ss_ar, 0xc0f3) } },
	{ "guest data segments: DPL below RPL", { SET(guest_es_selector, 3) } },
	{ "guest segments: P", { SET(guest_ds_ar, 0xc013) } },
	{ "guest segments: reserved access rights", { SET(guest_ds_ar, 0xc193) } },
	{ "guest segments: reserved access rights", { SET(guest_cs_ar, 0xa09b | BIT(17)) } },
	{ "guest CS: L and D/B", { SET(guest_cs_ar, 0xe09b) } },
	{ "guest segments: G against the limit", { SET(guest_ds_limit, 0xfff0) } },
	{ "guest segments: G against the limit", { SET(guest_ds_ar, 0x4093) } },
	{ "guest TR: type", { SET(guest_tr_ar, 0x83) } },
	{ "guest TR: type", { SET(guest_tr_ar, 0x89) } },
	{ NULL, { GUEST32, SET(guest_tr_ar, 0x83), SET(guest_cr4, CR4_VMXE) } },
	{ "guest TR: access rights", { SET(guest_tr_ar, 0x0b) } },
	{ "guest TR: access rights", { SET(guest_tr_ar, 0x9b) } },
	{ "guest TR: access rights", { SET(guest_tr_ar, 0x8b | SEG_AR_UNUSABLE) } },
	{ "guest TR: access rights", { SET(guest_tr_ar, 0x808b) } },
	{ "guest LDTR: type", { SET(guest_ldtr_ar, 0x83) } },
	{ "guest LDTR: access rights", { SET(guest_ldtr_ar, 0x02) } },
	/* Non-register state. */
	{ "guest activity state", { SET(guest_activity, 4) } },
	{ "guest in HLT above CPL 0", { SET(guest_activity, ACTIVITY_HLT), SET(guest_cs_ar, 0xa0fb), SET(guest_ss_ar, 0xc0f3),
					SET(guest_cs_selector, 3), SET(guest_ss_selector, 3) } },
	{ "guest inactive under STI or MOV SS", { SET(guest_activity, ACTIVITY_HLT), SET(guest_interruptibility, 2) } },
	{ "guest activity state does not take the event", { SET(guest_activity, ACTIVITY_HLT), EVENT(EVENT_EXCEPTION, VEC_UD, 0) } },
	{ NULL, { SET(guest_activity, ACTIVITY_HLT), EVENT(EVENT_NMI, 2, 0) } },
	{ "guest activity state does not take the event", { SET(guest_activity, ACTIVITY_SHUTDOWN), EVENT(EVENT_INTERRUPT, 32, 0),
							    SET(guest_rflags, RFLAGS_ONE | RFLAGS_IF) } },
	{ "guest activity state does not take the event", { SET(guest_activity, ACTIVITY_WAIT_SIPI), EVENT(EVENT_NMI, 2, 0) } },
	{ "guest interruptibility: reserved bits", { SET(guest_interruptibility, BIT(5)) } },
	{ "guest blocked by STI and MOV SS", { SET(guest_interruptibility, 3), SET(guest_rflags, RFLAGS_ONE | RFLAGS_IF) } },
	{ "guest blocked by STI with IF clear", { SET(guest_interruptibility, 1) } },
	{ "external interrupt while blocked by STI or MOV SS", { SET(guest_interruptibility, 1), SET(guest_rflags, RFLAGS_ONE | RFLAGS_IF),
								 EVENT(EVENT_INTERRUPT, 32, 0) } },
	{ "NMI while blocked by MOV SS", { SET(guest_interruptibility, 2), EVENT(EVENT_NMI, 2, 0) } },
	{ "guest blocking by SMI", { SET(guest_interruptibility, 4) } },
	{ "virtual NMI while blocked by NMI", { SET(pin_controls, PIN_DEFAULT1 | PIN_NMI | PIN_VIRTUAL_NMIS),
						SET(guest_interruptibility, 8), EVENT(EVENT_NMI, 2, 0) } },
	{ NULL, { SET(guest_interruptibility, 8), EVENT(EVENT_NMI, 2, 0) } },
	{ "guest pending debug exceptions: reserved bits", { SET(guest_pending_db, BIT(4)) } },
	{ "guest pending debug exceptions: BS against TF", { SET(guest_interruptibility, 2), SET(guest_rflags, RFLAGS_ONE | RFLAGS_TF) } },
	{ "guest pending debug exceptions: BS against TF", { SET(guest_activity, ACTIVITY_HLT), SET(guest_pending_db, DR6_BS) } },
	{ NULL, { SET(guest_interruptibility, 2), SET(guest_rflags, RFLAGS_ONE | RFLAGS_TF), SET(guest_pending_db, DR6_BS) } },
	{ "VMCS link pointer: address", { SET(link_pointer, LINK_PAGE + 8) } },
	{ "VMCS link pointer: address", { SET(link_pointer, TOO_WIDE) } },
	{ "VMCS link pointer: revision", { SET(link_pointer, OTHER_PAGE) } },
	{ "VMCS link pointer: the current VMCS", { SET(link_pointer, 0x4000) } },
	{ NULL, { SET(link_pointer, LINK_PAGE) } },
	{ "VMCS link pointer: revision", { SECONDARY(CPU2_VMCS_SHADOWING), SET(link_pointer, LINK_PAGE) } },
	{ "VMCS link pointer: revision", { SET(link_pointer, SHADOW_PAGE) } },
	{ NULL, { SECONDARY(CPU2_VMCS_SHADOWING), SET(link_pointer, SHADOW_PAGE) } },
	/* clang-format on */
};

static void apply(const struct breakage *b)
{
	make_valid();
	for (const struct change *c = b->change; c->bytes; c++)
		memcpy((u8 *)&vmx.vmcs + c->offset, &c->value, c->bytes);
}

static void test_cases(void)
{
	mem_write_u32(&mem, VIRTUAL_APIC + 0x80, 0x30);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		apply(&cases[i]);
		const struct vmx_check *failed = first_failure();
		g_test_message("case %zu", i);
		g_assert_cmpstr(failed ? failed->name : NULL, ==, cases[i].expected);
	}
}

/* --- checks that are not repeated --- */

static u64 encoding_of(u16 offset)
{
	static const struct {
		u64 encoding;
		u16 offset;
	} all[] = {
#define X(type, field, enc) { enc, offsetof(struct vmcs, field) },
#include "x86/vmcs.def"
#undef X
	};
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		if (all[i].offset == offset)
			return all[i].encoding;
	g_assert_not_reached();
}

/* The CHECKED_* flag of the table that has a check; 0 if the table is always run. */
static u8 flag_of(const char *name)
{
	static const u8 flags[] = { CHECKED_CONTROLS, CHECKED_HOST, 0, CHECKED_SEGS, 0 };
	for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct vmx_check *check = tables[t]; check->name; check++)
			if (!strcmp(check->name, name))
				return flags[t];
	g_assert_not_reached();
}

/* Whatever breaks a remembered check is a VMWRITE that makes it forgotten. */
static void test_writes_forget_checks(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		if (!cases[i].expected)
			continue;
		u8 forgotten = 0, needed = flag_of(cases[i].expected);
		for (const struct change *c = cases[i].change; c->bytes; c++)
			forgotten |= vmx_checks_of_field(encoding_of(c->offset));
		g_test_message("%s", cases[i].expected);
		g_assert_cmphex(forgotten & needed, ==, needed);
	}
}

/* --- 32-bit hosts, and PDPTEs, which no field alone can break --- */

static void expect(const char *name)
{
	const struct vmx_check *failed = first_failure();
	g_assert_cmpstr(failed ? failed->name : NULL, ==, name);
}

static void make_valid32(void)
{
	make_valid();
	vmx.vmcs.exit_controls = EXITC_DEFAULT1;
	vmx.vmcs.entry_controls = ENTRYC_DEFAULT1;
	vmx.vmcs.host_ss_selector = 24;
	vmx.vmcs.guest_cs_ar = 0xc09b;
	cpu->efer = 0;
}

static void test_host32(void)
{
	make_valid32();
	expect(NULL);
	vmx.vmcs.entry_controls |= ENTRYC_GUEST_LONG;
	expect("IA-32e mode guest of a 32-bit host");
	make_valid32();
	vmx.vmcs.host_cr4 |= CR4_PCIDE;
	expect("host CR4.PCIDE outside IA-32e mode");
	make_valid32();
	vmx.vmcs.host_rip = BIT(32);
	expect("host RIP");
	cpu->efer = EFER_LMA | EFER_LME;
}

static void test_pdptes(void)
{
	make_valid();
	vmx.guest_pae = true;
	vmx.guest_pdpte[2] = 0x1000;
	expect(NULL);
	vmx.guest_pdpte[2] = 0x1006; /* not present: nothing is reserved */
	expect(NULL);
	vmx.guest_pdpte[2] = 0x1003;
	expect("guest PDPTEs");
	vmx.guest_pdpte[2] = TOO_WIDE | 1;
	expect("guest PDPTEs");
	g_assert_cmpuint(vmx_check_run(vmx_checks_guest_nonreg, &vmx)->qualification, ==, 2);
	vmx.guest_pae = false;
}

static void test_link_says_so(void)
{
	make_valid();
	vmx.vmcs.link_pointer = 8;
	g_assert_cmpuint(first_failure()->qualification, ==, 4);
}

/* A check without a case would be a check without a test. */
static void test_all_covered(void)
{
	static const char *const elsewhere[] = { "IA-32e mode guest of a 32-bit host",
						 "host CR4.PCIDE outside IA-32e mode", "guest PDPTEs" };
	for (size_t t = 0; t < ARRAY_SIZE(tables); t++)
		for (const struct vmx_check *check = tables[t]; check->name; check++) {
			bool covered = false;
			for (size_t i = 0; i < ARRAY_SIZE(elsewhere); i++)
				covered |= !strcmp(check->name, elsewhere[i]);
			for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
				covered |= !g_strcmp0(check->name, cases[i].expected);
			g_test_message("%s", check->name);
			g_assert_true(covered);
		}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	setup();
	g_test_add_func("/vmx-checks/each-breakage-is-noticed-by-its-check", test_cases);
	g_test_add_func("/vmx-checks/writes-forget-the-checks-they-can-break", test_writes_forget_checks);
	g_test_add_func("/vmx-checks/a-32-bit-host-has-its-own-rules", test_host32);
	g_test_add_func("/vmx-checks/reserved-bits-of-present-pdptes", test_pdptes);
	g_test_add_func("/vmx-checks/link-pointer-failure-says-so", test_link_says_so);
	g_test_add_func("/vmx-checks/every-check-has-a-case", test_all_covered);
	return g_test_run();
}
