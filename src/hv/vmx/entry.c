/*
 * VM entry: checks, loading the guest, MSRs, event injection (SDM vol. 3, 27.3 to 27.7). Events that are due right
 * after the entry (windows, preemption timer, MTF) are exit_event.c's.
 */
#include "base/trace.h"
#include "cpu/system.h"
#include "hv/vmx/vmx.h"

#include <string.h>

/* DR7 bits that are fixed whatever the field says: 10 is 1; 12, 14 and 15 are 0. */
#define DR7_ZERO (BIT(12) | BIT(14) | BIT(15) | BITS(63, 32))

static bool guest_uses_pae(const struct vmx *vmx)
{
	return (vmx->vmcs.guest_cr0 & CR0_PG) && (vmx->vmcs.guest_cr4 & CR4_PAE) && !vmx_entryc(vmx, ENTRYC_GUEST_LONG);
}

/* With EPT the PDPTEs are fields of the VMCS, otherwise they are read from memory at CR3: once, before their check. */
static void fetch_pdptes(struct vmx *vmx)
{
	const struct vmcs *v = &vmx->vmcs;
	vmx->guest_pae = guest_uses_pae(vmx);
	if (!vmx->guest_pae)
		return;
	if (vmx_cpu2(vmx, CPU2_EPT)) {
		vmx->guest_pdpte[0] = v->guest_pdpte0;
		vmx->guest_pdpte[1] = v->guest_pdpte1;
		vmx->guest_pdpte[2] = v->guest_pdpte2;
		vmx->guest_pdpte[3] = v->guest_pdpte3;
		return;
	}
	for (unsigned i = 0; i < 4; i++)
		vmx->guest_pdpte[i] = mem_read_u64(vmx->cpu->mem, (v->guest_cr3 & BITS(31, 5)) + i * 8);
}

/* What the checks of segments depend on besides the segments and the controls. */
static u8 segs_mode(const struct vmcs *v)
{
	return (v->guest_rflags & RFLAGS_VM ? 1 : 0) | (v->guest_cr0 & CR0_PE ? 2 : 0);
}

/* A table whose outcome is remembered in `flag`. */
static const struct vmx_check *check_once(struct vmx *vmx, const struct vmx_check *table, u8 flag)
{
	if (vmx->checked & flag)
		return vmx_check_memory(table, vmx);
	const struct vmx_check *failed = vmx_check_run(table, vmx);
	if (!failed)
		vmx->checked |= flag;
	return failed;
}

static const struct vmx_check *check_segs(struct vmx *vmx)
{
	u8 mode = segs_mode(&vmx->vmcs);
	if ((vmx->checked & CHECKED_SEGS) && vmx->checked_mode == mode)
		return NULL;
	vmx->checked &= ~CHECKED_SEGS;
	vmx->checked_mode = mode;
	return check_once(vmx, vmx_checks_guest_segs, CHECKED_SEGS);
}

static const struct vmx_check *check_guest(struct vmx *vmx)
{
	const struct vmx_check *failed;
	fetch_pdptes(vmx);
	if (!(failed = vmx_check_run(vmx_checks_guest_regs, vmx)) && !(failed = check_segs(vmx)))
		failed = vmx_check_run(vmx_checks_guest_nonreg, vmx);
	return failed;
}

/* --- loading guest state (27.3.2) --- */

static u64 guest_efer(const struct vmx *vmx)
{
	const struct vmcs *v = &vmx->vmcs;
	if (vmx_entryc(vmx, ENTRYC_LOAD_EFER))
		return v->guest_efer;
	u64 lma = vmx_entryc(vmx, ENTRYC_GUEST_LONG) ? EFER_LMA : 0;
	u64 efer = (vmx->cpu->efer & ~EFER_LMA) | lma;
	if (v->guest_cr0 & CR0_PG)
		efer = lma ? efer | EFER_LME : efer & ~EFER_LME;
	return efer;
}

static void load_control_registers(struct cpu *cpu, struct vmx *vmx)
{
	const struct vmcs *v = &vmx->vmcs;
	cpu->efer = guest_efer(vmx);
	cpu->cr0 = (cpu->cr0 & VMX_CR0_KEPT) | (v->guest_cr0 & ~VMX_CR0_KEPT);
	cpu->cr3 = v->guest_cr3;
	cpu->cr4 = v->guest_cr4;
	cpu->msr.sysenter_cs = v->guest_sysenter_cs;
	cpu->msr.sysenter_esp = v->guest_sysenter_esp;
	cpu->msr.sysenter_eip = v->guest_sysenter_eip;
	if (vmx_entryc(vmx, ENTRYC_LOAD_DEBUG)) {
		cpu->dr[7] = (v->guest_dr7 & ~DR7_ZERO) | DR7_FIXED1;
		cpu->msr.debugctl = v->guest_debugctl;
	}
	if (vmx_entryc(vmx, ENTRYC_LOAD_PERF_GLOBAL_CTRL))
		pmu_set_global_control(cpu, v->guest_perf_global_ctrl);
	if (vmx_entryc(vmx, ENTRYC_LOAD_PAT))
		cpu->msr.pat = v->guest_pat;
	if (vmx_entryc(vmx, ENTRYC_LOAD_BNDCFGS))
		cpu->msr.bndcfgs = v->guest_bndcfgs;
	if (vmx_entryc(vmx, ENTRYC_LOAD_PKRS))
		mmu_set_pkrs(&cpu->mmu, (u32)v->guest_pkrs);
}

static void load_segments(struct cpu *cpu, struct vmcs *v)
{
	for (unsigned seg = 0; seg < SEG_COUNT; seg++)
		cpu->seg[seg] = (struct segment){
			.selector = *vmcs_selector(v, seg),
			.limit = *vmcs_limit(v, seg),
			.ar = *vmcs_ar(v, seg) & (BITS(16, 12) | BITS(7, 0)),
			.base = *vmcs_base(v, seg),
		};
	cpu->gdtr = (struct table_register){ v->guest_gdtr_base, (u16)v->guest_gdtr_limit };
	cpu->idtr = (struct table_register){ v->guest_idtr_base, (u16)v->guest_idtr_limit };
	cpu->cpl = SEG_DPL(cpu->seg[SEG_SS].ar);
}

static void load_paging(struct cpu *cpu, struct vmx *vmx)
{
	struct mmu_paging paging = {
		.cr0 = cpu->cr0,
		.cr3 = cpu->cr3,
		.cr4 = cpu->cr4,
		.efer = cpu->efer,
		.eptp = vmx_cpu2(vmx, CPU2_EPT) ? vmx->vmcs.eptp : 0,
		.apic_page = vmx_cpu2(vmx, CPU2_APIC_ACCESSES) ? vmx->vmcs.apic_access | 1 : 0,
		.mbec = vmx_cpu2(vmx, CPU2_MODE_BASED_EXECUTE),
		.vpid = vmx_cpu2(vmx, CPU2_VPID) ? vmx->vmcs.vpid : 0,
	};
	cpu->mmu.pml_index = vmx_cpu2(vmx, CPU2_PML) ? &vmx->vmcs.guest_pml_index : NULL;
	cpu->mmu.pml_log = vmx->vmcs.pml_address;
	if (vmx->guest_pae)
		memcpy(paging.pdpte, vmx->guest_pdpte, sizeof(paging.pdpte));
	/* Without VPIDs a VM entry flushes what VPID 0 tags (27.3.2.5): root and this guest share it. */
	if (!vmx_cpu2(vmx, CPU2_VPID))
		mmu_flush_vpid(&cpu->mmu, 0, true);
	mmu_set_paging(&cpu->mmu, &paging);
}

static void load_non_register(struct cpu *cpu, struct vmx *vmx)
{
	static const u8 activity[] = {
		[ACTIVITY_ACTIVE] = CPU_ACTIVE,
		[ACTIVITY_HLT] = CPU_HALTED,
		[ACTIVITY_SHUTDOWN] = CPU_SHUTDOWN,
		[ACTIVITY_WAIT_SIPI] = CPU_WAIT_SIPI,
	};
	u32 blocking = vmx->vmcs.guest_interruptibility;
	bool nmi = blocking & INTR_STATE_NMI;
	vmx->virtual_nmi_blocked = vmx_pin(vmx, PIN_VIRTUAL_NMIS) && nmi;
	cpu->nmi_blocked = !vmx_pin(vmx, PIN_VIRTUAL_NMIS) && nmi;
	cpu->activity = activity[vmx->vmcs.guest_activity];
	cpu->shadow = 0;
	cpu->step_armed = 0;
	cpu->monitor_armed = false;
	cpu->pending_db = 0;
	if (blocking & (INTR_STATE_STI | INTR_STATE_MOV_SS))
		cpu_set_shadow(cpu, blocking & INTR_STATE_STI ? SHADOW_STI : SHADOW_MOV_SS);
}

static void load_guest(struct cpu *cpu, struct vmx *vmx)
{
	struct vmcs *v = &vmx->vmcs;
	cpu->non_root = true;
	load_control_registers(cpu, vmx);
	load_segments(cpu, v);
	cpu->reg[RSP] = v->guest_rsp;
	cpu->reg[REG_RIP] = cpu->rip_start = v->guest_rip;
	cpu_set_rflags(cpu, v->guest_rflags);
	load_paging(cpu, vmx);
	load_non_register(cpu, vmx);
	cpu_update_mode(cpu);
}

/* --- MSR lists (27.4) --- */

/* MSRs that lists may not load: those of the SMM monitor, and x2APIC's in x2APIC mode. FS and GS bases have fields. */
static bool list_may_load(struct cpu *cpu, u32 index)
{
	enum { APIC_BASE = 0x1b, SMM_MONITOR_CTL = 0x9b, X2APIC_FIRST = 0x800, FS_BASE = 0xc0000100, GS_BASE };
	const u64 x2apic = BIT(10);
	u64 apic_base;
	if (index == SMM_MONITOR_CTL || index == (u32)FS_BASE || index == (u32)GS_BASE)
		return false;
	if (index >> 8 == X2APIC_FIRST >> 8)
		return !(msr_read(cpu, APIC_BASE, &apic_base) && (apic_base & x2apic));
	return true;
}

u32 vmx_msr_list_load(struct cpu *cpu, gpa_t list, u32 count)
{
	for (u32 i = 0; i < count; i++) {
		struct vmx_msr_entry e;
		if (i >= VMX_MSR_LIST_MAX || !mem_read(cpu->mem, list + i * sizeof(e), &e, sizeof(e)) || e.reserved ||
		    !list_may_load(cpu, e.index) || !msr_write(cpu, e.index, e.value)) {
			TRACE(vmx, "MSR-load list: entry %u of %u fails", i + 1, count);
			return i + 1;
		}
	}
	return 0;
}

/* --- event injection (27.6) --- */

static struct event entry_event(const struct vmcs *v)
{
	u32 info = v->entry_event;
	struct event e = {
		.valid = true,
		.vector = info & EVENT_INFO_VECTOR,
		.type = bits_get(info, 10, 8),
		.has_error = info & EVENT_INFO_ERROR,
		.error = v->entry_event_error,
	};
	if (event_is_software(&e))
		e.length = (u8)v->entry_insn_length;
	return e;
}

/*
 * Debug exceptions that were pending when the guest last ran (27.7.3). An injected interrupt or NMI leaves them for its
 * handler's first boundary; other injected events lose them.
 */
static void load_pending_db(struct cpu *cpu, const struct vmcs *v)
{
	u64 pending = v->guest_pending_db;
	if (v->entry_event & EVENT_INFO_VALID) {
		enum event_type type = bits_get(v->entry_event, 10, 8);
		if (type != EVENT_INTERRUPT && type != EVENT_NMI && type != EVENT_OTHER)
			return;
	}
	if (!(pending & (PENDING_DB_ENABLED | DR6_BS)))
		return;
	cpu->pending_db = pending & (BITS(3, 0) | DR6_BS);
	cpu_attend(cpu, ATTEND_TRAP);
}

/* Throws if delivery faults: the guest's handler, or an exit, sees the injected event as the one being delivered. */
static void inject(struct cpu *cpu, struct vmx *vmx)
{
	struct event e = entry_event(&vmx->vmcs);
	cpu->activity = CPU_ACTIVE;
	if (e.type == EVENT_OTHER)
		return; /* MTF: vmx_events_arm() saw to it */
	if (e.type == EVENT_NMI && vmx_pin(vmx, PIN_VIRTUAL_NMIS))
		vmx->virtual_nmi_blocked = true;
	TRACE(exits, "entry injects vector %u type %d", e.vector, e.type);
	cpu_deliver(cpu, &e);
}

/* --- the whole --- */

static void check_trace(const char *what, const struct vmx_check *failed)
{
	TRACE(vmx, "VM entry fails: %s: %s", what, failed->name);
}

enum vmx_error vmx_enter(struct cpu *cpu, bool launch)
{
	struct vmx *vmx = vmx_of(cpu);
	struct vmcs *v = &vmx->vmcs;
	const struct vmx_check *failed;

	if (unlikely(failed = check_once(vmx, vmx_checks_controls, CHECKED_CONTROLS))) {
		check_trace("control", failed);
		return VMERR_ENTRY_CONTROLS;
	}
	if (unlikely(failed = check_once(vmx, vmx_checks_host, CHECKED_HOST))) {
		check_trace("host state", failed);
		return VMERR_ENTRY_HOST_STATE;
	}
	if (unlikely(failed = check_guest(vmx))) {
		check_trace("guest state", failed);
		vmx_entry_failed(cpu, EXIT_ENTRY_GUEST_STATE, failed->qualification);
	}
	cpu->counters.vm_entries++;
	cpu_retire(cpu); /* in root operation: Intel's counters do not count it for the guest */
	load_guest(cpu, vmx);
	if (unlikely(v->entry_msr_load_count)) {
		u32 bad = vmx_msr_list_load(cpu, v->entry_msr_load, v->entry_msr_load_count);
		if (bad)
			vmx_entry_failed(cpu, EXIT_ENTRY_MSR_LOADING, bad);
	}
	if (launch)
		v->launch = VMCS_LAUNCHED;
	TRACE(exits, "entry rip %llx", (unsigned long long)v->guest_rip);
	load_pending_db(cpu, v);
	vmx_events_arm(cpu);
	if (v->entry_event & EVENT_INFO_VALID)
		inject(cpu, vmx);
	cpu_resume(cpu);
}
