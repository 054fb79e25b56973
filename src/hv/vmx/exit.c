/*
 * VM exit: recording why, saving the guest, loading the host, and what happens if that fails (SDM vol. 3, 28).
 */
#include "base/trace.h"
#include "cpu/system.h"
#include "hv/vmx/vmx.h"

/* --- recording (28.2) --- */

static void record(struct cpu *cpu, struct vmx *vmx, const struct vmx_exit *x)
{
	struct vmcs *v = &vmx->vmcs;
	const struct event *vectoring = &cpu->vectoring;
	v->exit_reason = x->reason;
	v->qualification = x->qualification;
	v->guest_linear = x->linear;
	v->guest_physical = x->physical;
	v->exit_insn_info = x->info;
	v->exit_insn_length = x->length;
	v->exit_event = x->event;
	v->exit_event_error = x->event_error;
	v->vectoring_event = 0;
	if (unlikely(vectoring->valid) && !x->no_vectoring) {
		v->vectoring_event = vmx_event_info(vectoring);
		v->vectoring_error = vectoring->error;
		if (vectoring->length)
			v->exit_insn_length = vectoring->length;
	}
	v->entry_event &= ~(u32)EVENT_INFO_VALID;
}

/* --- saving the guest (28.3) --- */

static void save_registers(struct cpu *cpu, struct vmx *vmx, const struct vmx_exit *x)
{
	struct vmcs *v = &vmx->vmcs;
	v->guest_cr0 = cpu->cr0;
	v->guest_cr3 = cpu->cr3;
	v->guest_cr4 = cpu->cr4;
	v->guest_sysenter_cs = (u32)cpu->msr.sysenter_cs;
	v->guest_sysenter_esp = cpu->msr.sysenter_esp;
	v->guest_sysenter_eip = cpu->msr.sysenter_eip;
	if (vmx_exitc(vmx, EXITC_SAVE_DEBUG)) {
		v->guest_dr7 = cpu->dr[7];
		v->guest_debugctl = cpu->msr.debugctl;
	}
	if (vmx_exitc(vmx, EXITC_SAVE_PAT))
		v->guest_pat = cpu->msr.pat;
	if (vmx_exitc(vmx, EXITC_SAVE_EFER))
		v->guest_efer = cpu->efer;
	/* Saved wherever they can be loaded, by no control. */
	v->guest_pkrs = mmu_pkrs(&cpu->mmu);
	v->guest_bndcfgs = cpu->msr.bndcfgs;
	if (unlikely(cpu_long_mode(cpu) != vmx_entryc(vmx, ENTRYC_GUEST_LONG))) {
		v->entry_controls ^= ENTRYC_GUEST_LONG;
		vmx->checked = 0;
	}
	v->guest_rsp = cpu->reg[RSP];
	v->guest_rip = x->rip;
	u64 rflags = cpu_rflags(cpu);
	v->guest_rflags = x->rf == RF_KEEP ? rflags : x->rf == RF_SET ? rflags | RFLAGS_RF : rflags & ~RFLAGS_RF;
}

/* true: it is what the VMCS has already. */
static bool save_segment(struct vmcs *v, unsigned seg, const struct segment *s, u32 ar)
{
	bool same = *vmcs_selector(v, seg) == s->selector && *vmcs_limit(v, seg) == s->limit &&
		    *vmcs_ar(v, seg) == ar && *vmcs_base(v, seg) == s->base;
	*vmcs_selector(v, seg) = s->selector;
	*vmcs_limit(v, seg) = s->limit;
	*vmcs_ar(v, seg) = ar;
	*vmcs_base(v, seg) = s->base;
	return same;
}

static void save_segments(struct cpu *cpu, struct vmx *vmx)
{
	struct vmcs *v = &vmx->vmcs;
	bool same = true;
	for (unsigned seg = 0; seg < SEG_COUNT; seg++) {
		const struct segment *s = &cpu->seg[seg];
		same &= save_segment(v, seg, s, cpu->mode == CPU_V86 && seg <= SEG_GS ? 0xf3 : s->ar);
	}
	if (!same)
		vmx->checked &= ~CHECKED_SEGS;
	v->guest_gdtr_base = cpu->gdtr.base;
	v->guest_gdtr_limit = cpu->gdtr.limit;
	v->guest_idtr_base = cpu->idtr.base;
	v->guest_idtr_limit = cpu->idtr.limit;
}

static u32 saved_activity(const struct cpu *cpu)
{
	switch (cpu->activity) {
	case CPU_HALTED:
		return ACTIVITY_HLT;
	case CPU_SHUTDOWN:
		return ACTIVITY_SHUTDOWN;
	case CPU_WAIT_SIPI:
		return ACTIVITY_WAIT_SIPI;
	default:
		return ACTIVITY_ACTIVE;
	}
}

/*
 * Interruptibility, activity and pending debug exceptions. A shadow counts if its instruction is the one that the saved
 * RIP names. Traps of an instruction that completed are pending if the exit came before they were taken.
 */
static void save_non_register(struct cpu *cpu, struct vmx *vmx, const struct vmx_exit *x)
{
	struct vmcs *v = &vmx->vmcs;
	u32 blocking = 0;
	u8 shadow = cpu->vectoring.valid ? 0 : cpu_shadow(cpu, x->rip);
	if (unlikely(shadow))
		blocking |= shadow == SHADOW_STI ? INTR_STATE_STI : INTR_STATE_MOV_SS;
	if (vmx->virtual_nmi_blocked || cpu->nmi_blocked)
		blocking |= INTR_STATE_NMI;
	v->guest_interruptibility = blocking;
	v->guest_activity = saved_activity(cpu);
	u64 pending = x->boundary ? cpu->pending_db : 0;
	bool step_done = (x->boundary && (cpu->step_armed & CPU_STEP_TF)) ||
			 (blocking & (INTR_STATE_STI | INTR_STATE_MOV_SS)) || v->guest_activity == ACTIVITY_HLT;
	if (step_done && (v->guest_rflags & RFLAGS_TF) && !(cpu->msr.debugctl & DEBUGCTL_BTF))
		pending |= DR6_BS;
	if (pending & BITS(3, 0))
		pending |= PENDING_DB_ENABLED;
	v->guest_pending_db = pending;
}

static void save_guest(struct cpu *cpu, struct vmx *vmx, const struct vmx_exit *x)
{
	struct vmcs *v = &vmx->vmcs;
	/* CR0.PE decides whether an event may have an error code. */
	if ((v->guest_cr0 ^ cpu->cr0) & CR0_PE)
		vmx->checked &= ~CHECKED_CONTROLS;
	save_registers(cpu, vmx, x);
	save_segments(cpu, vmx);
	save_non_register(cpu, vmx, x);
	if (vmx_cpu2(vmx, CPU2_EPT) && (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !cpu_long_mode(cpu)) {
		const u64 *pdpte = cpu->mmu.paging.pdpte;
		v->guest_pdpte0 = pdpte[0];
		v->guest_pdpte1 = pdpte[1];
		v->guest_pdpte2 = pdpte[2];
		v->guest_pdpte3 = pdpte[3];
	}
	if (vmx_exitc(vmx, EXITC_SAVE_PREEMPTION))
		v->preemption_timer = vmx_timer_value(vmx);
}

/* --- VMX abort (28.7) --- */

/* The machine is beyond help: shutdown, with the cause in the VMCS region. */
static NORETURN void vmx_abort(struct cpu *cpu, enum vmx_abort cause)
{
	struct vmx *vmx = vmx_of(cpu);
	REPORT("VMX abort %d: the guest's hypervisor cannot be resumed", cause);
	mem_write_u32(cpu->mem, vmx->current + VMCS_ABORT_OFFSET, cause);
	vmx->vmcs.abort = cause;
	cpu->non_root = false;
	cpu->pending.valid = cpu->vectoring.valid = false;
	cpu->activity = CPU_SHUTDOWN;
	cpu_attend(cpu, ATTEND_TRAP);
	cpu_resume(cpu);
}

/* --- MSR-store list (28.4) --- */

static bool msr_list_store(struct cpu *cpu, gpa_t list, u32 count)
{
	enum { SMBASE = 0x9e };
	for (u32 i = 0; i < count; i++) {
		struct vmx_msr_entry e;
		gpa_t at = list + i * sizeof(e);
		if (i >= VMX_MSR_LIST_MAX || !mem_read(cpu->mem, at, &e, sizeof(e)) || e.reserved ||
		    e.index == SMBASE || !msr_read(cpu, e.index, &e.value))
			return false;
		mem_write_u64(cpu->mem, at + offsetof(struct vmx_msr_entry, value), e.value);
	}
	return true;
}

/* --- loading the host (28.5) --- */

static void load_control_registers(struct cpu *cpu, struct vmx *vmx)
{
	const struct vmcs *v = &vmx->vmcs;
	bool host_long = vmx_exitc(vmx, EXITC_HOST_LONG);
	const u64 lma_lme = EFER_LMA | EFER_LME;
	cpu->cr0 = (cpu->cr0 & VMX_CR0_KEPT) | (v->host_cr0 & ~VMX_CR0_KEPT);
	cpu->cr3 = v->host_cr3;
	cpu->cr4 = v->host_cr4;
	if (host_long)
		cpu->cr4 |= CR4_PAE;
	else
		cpu->cr4 &= ~CR4_PCIDE;
	if (vmx_exitc(vmx, EXITC_LOAD_EFER))
		cpu->efer = v->host_efer;
	cpu->efer = (cpu->efer & ~lma_lme) | (host_long ? lma_lme : 0);
	cpu->dr[7] = DR7_FIXED1;
	cpu->msr.debugctl = 0;
	cpu->msr.sysenter_cs = v->host_sysenter_cs;
	cpu->msr.sysenter_esp = v->host_sysenter_esp;
	cpu->msr.sysenter_eip = v->host_sysenter_eip;
	if (vmx_exitc(vmx, EXITC_LOAD_PERF_GLOBAL_CTRL))
		pmu_set_global_control(cpu, v->host_perf_global_ctrl);
	if (vmx_exitc(vmx, EXITC_LOAD_PAT))
		cpu->msr.pat = v->host_pat;
	if (vmx_exitc(vmx, EXITC_CLEAR_BNDCFGS))
		cpu->msr.bndcfgs = 0;
	if (vmx_exitc(vmx, EXITC_LOAD_PKRS))
		mmu_set_pkrs(&cpu->mmu, (u32)v->host_pkrs);
}

/* Access rights of host segments are fixed: flat, accessed, DPL 0 (28.5.2). */
static void load_segments(struct cpu *cpu, struct vmx *vmx)
{
	const u32 flat = SEG_AR_S | SEG_AR_P | SEG_AR_G | SEG_AR_RW | SEG_AR_ACCESSED;
	const struct vmcs *v = &vmx->vmcs;
	bool host_long = vmx_exitc(vmx, EXITC_HOST_LONG);
	const u16 selectors[] = {
		[SEG_ES] = v->host_es_selector, [SEG_CS] = v->host_cs_selector, [SEG_SS] = v->host_ss_selector,
		[SEG_DS] = v->host_ds_selector, [SEG_FS] = v->host_fs_selector, [SEG_GS] = v->host_gs_selector,
	};
	for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++)
		cpu->seg[seg] = (struct segment){
			.selector = selectors[seg],
			.limit = 0xffffffff,
			.ar = selectors[seg] ? flat | SEG_AR_DB : flat | SEG_AR_DB | SEG_AR_UNUSABLE,
		};
	cpu->seg[SEG_CS].ar = flat | SEG_AR_CODE | (host_long ? SEG_AR_L : SEG_AR_DB);
	cpu->seg[SEG_FS].base = v->host_fs_base;
	cpu->seg[SEG_GS].base = v->host_gs_base;
	cpu->seg[SEG_LDTR] = (struct segment){ .ar = SEG_AR_UNUSABLE };
	cpu->seg[SEG_TR] = (struct segment){
		.selector = v->host_tr_selector,
		.limit = 0x67,
		.ar = SEG_AR_P | 11,
		.base = v->host_tr_base,
	};
	cpu->gdtr = (struct table_register){ v->host_gdtr_base, 0xffff };
	cpu->idtr = (struct table_register){ v->host_idtr_base, 0xffff };
	cpu->cpl = 0;
}

/* false: a 32-bit host's PDPTEs are not valid. */
static bool load_paging(struct cpu *cpu, struct vmx *vmx)
{
	struct mmu_paging paging = { .cr0 = cpu->cr0, .cr3 = cpu->cr3, .cr4 = cpu->cr4, .efer = cpu->efer };
	if ((cpu->cr4 & CR4_PAE) && !cpu_long_mode(cpu)) {
		for (unsigned i = 0; i < 4; i++)
			paging.pdpte[i] = mem_read_u64(cpu->mem, (cpu->cr3 & BITS(31, 5)) + i * 8);
		if (!vmx_pdptes_valid(vmx, paging.pdpte))
			return false;
	}
	if (!vmx_cpu2(vmx, CPU2_VPID))
		mmu_flush_vpid(&cpu->mmu, 0, true);
	cpu->mmu.pml_index = NULL;
	mmu_set_paging(&cpu->mmu, &paging);
	return true;
}

static NORETURN void load_host(struct cpu *cpu, struct vmx *vmx)
{
	struct vmcs *v = &vmx->vmcs;
	vmx_events_disarm(cpu);
	cpu->non_root = false;
	load_control_registers(cpu, vmx);
	load_segments(cpu, vmx);
	cpu->reg[RSP] = v->host_rsp;
	cpu->reg[REG_RIP] = cpu->rip_start = v->host_rip;
	cpu_set_rflags(cpu, RFLAGS_ONE);
	cpu->activity = CPU_ACTIVE;
	cpu->shadow = 0;
	cpu->step_armed = 0;
	cpu->monitor_armed = false;
	cpu->pending_db = 0;
	cpu->pending.valid = cpu->vectoring.valid = false;
	if (!load_paging(cpu, vmx))
		vmx_abort(cpu, VMX_ABORT_HOST_PDPTES);
	cpu_update_mode(cpu);
	if (unlikely(v->exit_msr_load_count) && vmx_msr_list_load(cpu, v->exit_msr_load, v->exit_msr_load_count))
		vmx_abort(cpu, VMX_ABORT_LOAD_MSRS);
	cpu_resume(cpu);
}

/* --- the whole --- */

void vmx_exit(struct cpu *cpu, const struct vmx_exit *x)
{
	struct vmx *vmx = vmx_of(cpu);
	struct vmcs *v = &vmx->vmcs;
	cpu->counters.vm_exits++;
	cpu->counters.exit_reason[x->reason % COUNTERS_SVM_EXITS]++;
	cpu->retry = x->rip == cpu->rip_start; /* or the instruction has retired */
	/* The delivery of an injected NMI blocked NMIs: with virtual NMIs that is the guest's own affair. */
	if (vmx_pin(vmx, PIN_VIRTUAL_NMIS))
		cpu->nmi_blocked = false;
	record(cpu, vmx, x);
	save_guest(cpu, vmx, x);
	TRACE(exits, "exit %s rip %llx qualification %llx event %x vectoring %x", exit_reason_name(x->reason),
	      (unsigned long long)x->rip, (unsigned long long)x->qualification, x->event, v->vectoring_event);
	if (unlikely(v->exit_msr_store_count) && !msr_list_store(cpu, v->exit_msr_store, v->exit_msr_store_count))
		vmx_abort(cpu, VMX_ABORT_SAVE_MSRS);
	/* NMIs wait for the host's IRET if one caused the exit; virtual-NMI blocking ends with the guest (28.5.5). */
	bool nmi = x->reason == EXIT_EXCEPTION_NMI && bits_get(x->event, 10, 8) == EVENT_NMI;
	cpu->nmi_blocked = cpu->nmi_blocked || nmi;
	load_host(cpu, vmx);
}

void vmx_entry_failed(struct cpu *cpu, enum exit_reason reason, u64 qualification)
{
	struct vmx *vmx = vmx_of(cpu);
	cpu->counters.vm_exits++;
	cpu->counters.exit_reason[reason]++;
	vmx->vmcs.exit_reason = (u32)(reason | EXIT_ENTRY_FAILURE);
	vmx->vmcs.qualification = qualification;
	TRACE(exits, "exit %s qualification %llx", exit_reason_name(reason), (unsigned long long)qualification);
	load_host(cpu, vmx);
}

void vmx_exit_insn(struct cpu *cpu, enum exit_reason reason, u64 qualification, u32 info)
{
	vmx_exit(cpu, &(struct vmx_exit){
			      .reason = reason,
			      .qualification = qualification,
			      .rip = cpu->rip_start,
			      .info = info,
			      .length = cpu->insn->length,
			      .rf = RF_CLEAR,
		      });
}

void vmx_exit_boundary(struct cpu *cpu, enum exit_reason reason, u64 qualification)
{
	vmx_exit(cpu, &(struct vmx_exit){
			      .reason = reason,
			      .qualification = qualification,
			      .rip = cpu->reg[REG_RIP],
			      .boundary = true,
		      });
}
