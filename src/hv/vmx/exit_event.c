/*
 * Events that cause VM exits: exceptions, interrupts, windows, the preemption timer, the monitor trap flag, EPT faults
 * (SDM vol. 3, 26.2, 26.5, 28.2.2).
 */
#include "hv/vmx/vmx.h"

#include <string.h>

u32 vmx_event_info(const struct event *event)
{
	u32 info = event->vector | (u32)event->type << 8 | (u32)EVENT_INFO_VALID;
	return event->has_error ? info | (u32)EVENT_INFO_ERROR : info;
}

/* --- exceptions --- */

/* The exception bitmap, which page faults see through a mask and match of their error code (25.6.3). */
static bool intercepted(const struct vmcs *v, const struct event *event)
{
	bool bit = v->exception_bitmap >> (event->vector & 31) & 1;
	if (event->type != EVENT_EXCEPTION && event->type != EVENT_SOFT_EXC && event->type != EVENT_PRIV_SOFT_EXC)
		return false;
	if (event->vector != VEC_PF)
		return bit;
	return bit == ((event->error & v->pf_error_mask) == v->pf_error_match);
}

void vmx_exception(struct cpu *cpu, const struct event *event)
{
	const u64 db_bits = BITS(3, 0) | DR6_BD | DR6_BS;
	const struct vmx *vmx = vmx_of(cpu);
	if (unlikely(event->vector == VEC_VE && event->type == EVENT_EXCEPTION))
		mem_write(cpu->mem, vmx->vmcs.ve_info, &vmx->ve, sizeof(vmx->ve));
	if (likely(!intercepted(&vmx->vmcs, event)))
		return;
	bool software = event->type != EVENT_EXCEPTION;
	struct vmx_exit x = {
		.reason = EXIT_EXCEPTION_NMI,
		.rip = cpu->reg[REG_RIP],
		.length = software ? event->length : 0,
		.event = vmx_event_info(event),
		.event_error = event->error,
		.no_vectoring = event->vector == VEC_DF,
		.rf = software || event->vector == VEC_DB ? RF_KEEP : RF_SET,
	};
	if (event->vector == VEC_PF)
		x.qualification = event->address;
	else if (event->vector == VEC_DB)
		x.qualification = event->address & db_bits;
	if (!cpu->vectoring.valid && !x.no_vectoring && vmx_iret_unblocked(cpu))
		x.event |= EVENT_INFO_IRET;
	vmx_exit(cpu, &x);
}

void vmx_triple_fault(struct cpu *cpu)
{
	vmx_exit(cpu, &(struct vmx_exit){
			      .reason = EXIT_TRIPLE_FAULT,
			      .rip = cpu->reg[REG_RIP],
			      .no_vectoring = true,
		      });
}

/* --- EPT --- */

/*
 * EPT-violation #VE (26.5.7): the guest gets an exception instead of the exit, unless the entry says otherwise, an
 * event is being delivered, or the guest has not yet released the information area from the last one. The area is
 * written when the exception is taken.
 */
static void convert_violation(struct cpu *cpu, u64 va, const struct mmu_result *fault)
{
	struct vmx *vmx = vmx_of(cpu);
	const struct vmcs *v = &vmx->vmcs;
	gpa_t busy = v->ve_info + offsetof(struct ve_info, busy);
	if (!vmx_cpu2(vmx, CPU2_EPT_VE) || fault->suppress_ve || !(cpu->cr0 & CR0_PE) || cpu->vectoring.valid ||
	    mem_read_u32(cpu->mem, busy))
		return;
	vmx->ve = (struct ve_info){
		.reason = EXIT_EPT_VIOLATION,
		.busy = ~0u,
		.qualification = fault->qualification,
		.linear = fault->qualification & EPT_QUAL_LINEAR_VALID ? va : 0,
		.physical = fault->l2_gpa,
		.eptp_index = v->eptp_index,
	};
	cpu_raise(cpu, VEC_VE);
}

static enum exit_reason stage2_reason(const struct mmu_result *fault)
{
	switch (fault->kind) {
	case MMU_EPT_MISCONFIG:
		return EXIT_EPT_MISCONFIG;
	case MMU_PML_FULL:
		return EXIT_PML_FULL;
	default:
		return EXIT_EPT_VIOLATION;
	}
}

void vmx_stage2_fault(struct cpu *cpu, u64 va, const struct mmu_result *fault)
{
	bool violation = fault->kind == MMU_EPT_VIOLATION;
	struct vmx_exit x = {
		.reason = stage2_reason(fault),
		.rip = cpu->rip_start,
		.physical = fault->l2_gpa,
		.rf = RF_SET,
	};
	if (violation) {
		convert_violation(cpu, va, fault);
		x.qualification = fault->qualification;
		if (fault->qualification & EPT_QUAL_LINEAR_VALID)
			x.linear = va;
	}
	if (x.reason != EXIT_EPT_MISCONFIG && !cpu->vectoring.valid && vmx_iret_unblocked(cpu))
		x.qualification |= EPT_QUAL_IRET;
	vmx_exit(cpu, &x);
}

/* --- NMIs --- */

/* With virtual NMIs, the guest's blocking is in virtual_nmi_blocked and real NMIs are never blocked. */
void vmx_nmi(struct cpu *cpu)
{
	const struct vmx *vmx = vmx_of(cpu);
	bool blocked = cpu->nmi_blocked && !vmx_pin(vmx, PIN_VIRTUAL_NMIS);
	if (blocked || !vmx_pin(vmx, PIN_NMI))
		return;
	cpu_take_nmi(cpu);
	vmx_exit(cpu, &(struct vmx_exit){
			      .reason = EXIT_EXCEPTION_NMI,
			      .rip = cpu->reg[REG_RIP],
			      .event = VEC_NMI | EVENT_NMI << 8 | (u32)EVENT_INFO_VALID,
			      .boundary = true,
		      });
}

/* What IRET does to NMI blocking depends on who has it (26.3, "IRET"). */
void vmx_iret(struct cpu *cpu)
{
	struct vmx *vmx = vmx_of(cpu);
	bool blocked = vmx->virtual_nmi_blocked || cpu->nmi_blocked;
	if (vmx_pin(vmx, PIN_VIRTUAL_NMIS))
		vmx->virtual_nmi_blocked = false;
	else if (!vmx_pin(vmx, PIN_NMI))
		cpu->nmi_blocked = false;
	else
		blocked = false;
	vmx->iret_unblocked = blocked;
	vmx->iret_rip = cpu->rip_start;
	if (vmx_cpu(vmx, CPU_NMI_WINDOW))
		cpu_attend(cpu, ATTEND_HV);
}

bool vmx_iret_unblocked(struct cpu *cpu)
{
	const struct vmx *vmx = vmx_of(cpu);
	const struct insn_row *row = cpu->insn ? insn_row(cpu->insn) : NULL;
	return vmx->iret_unblocked && vmx->iret_rip == cpu->rip_start && row && !strncmp(row->name, "IRET", 4);
}

/* --- external interrupts, INIT, start-up IPIs --- */

bool vmx_interrupt(struct cpu *cpu)
{
	struct vmx *vmx = vmx_of(cpu);
	u32 event = 0;
	if (cpu->activity == CPU_SHUTDOWN || cpu->activity == CPU_WAIT_SIPI)
		return false;
	if (!vmx_pin(vmx, PIN_EXTERNAL_INTERRUPT))
		return true;
	if (vmx_exitc(vmx, EXITC_ACK_INTERRUPT)) {
		int vector = cpu->platform->ack_interrupt(cpu->platform->opaque);
		if (vector < 0)
			return false;
		if (vmx_vapic_posted(cpu, (u8)vector))
			return false;
		event = (u32)vector | EVENT_INTERRUPT << 8 | (u32)EVENT_INFO_VALID;
	}
	vmx_exit(cpu, &(struct vmx_exit){
			      .reason = EXIT_EXTERNAL_INTERRUPT,
			      .rip = cpu->reg[REG_RIP],
			      .event = event,
			      .boundary = true,
		      });
}

void vmx_init_signal(struct cpu *cpu)
{
	vmx_exit_boundary(cpu, EXIT_INIT, 0);
}

/* Root operation blocks INIT; leaving VMX operation, or a VM entry, lets it through. */
bool vmx_init_blocked(struct cpu *cpu)
{
	struct vmx *vmx = vmx_of(cpu);
	vmx->init_held = vmx->on;
	return vmx->on;
}

void vmx_release_init(struct cpu *cpu)
{
	struct vmx *vmx = vmx_of(cpu);
	if (likely(!vmx->init_held))
		return;
	vmx->init_held = false;
	cpu_attend(cpu, ATTEND_INIT);
}

void vmx_sipi(struct cpu *cpu, u8 vector)
{
	vmx_exit_boundary(cpu, EXIT_SIPI, vector);
}

/* --- preemption timer (26.5.1) --- */

static u64 timer_now(struct cpu *cpu)
{
	return cpu->platform->tsc(cpu->platform->opaque) >> VMX_TIMER_SHIFT;
}

u32 vmx_timer_value(struct vmx *vmx)
{
	u64 now = timer_now(vmx->cpu);
	if (!vmx_pin(vmx, PIN_PREEMPTION_TIMER))
		return vmx->vmcs.preemption_timer;
	return now < vmx->timer_end ? (u32)(vmx->timer_end - now) : 0;
}

/*
 * Asks the platform for attention when the timer ends. A wish already armed that comes no later is kept (the timer is
 * then looked at too early, and armed again), so that most entries arm nothing. false: there is no such service.
 */
static bool timer_arm(struct cpu *cpu, struct vmx *vmx, u64 now)
{
	if (!cpu->platform->attend_at)
		return false;
	if (vmx->timer_armed <= now || vmx->timer_armed > vmx->timer_end) {
		vmx->timer_armed = vmx->timer_end;
		cpu->platform->attend_at(cpu->platform->opaque, ATTEND_HV, vmx->timer_end << VMX_TIMER_SHIFT);
	}
	return true;
}

/* true: the timer must be polled at every boundary. */
static bool attend_timer(struct cpu *cpu, struct vmx *vmx)
{
	if (!vmx_pin(vmx, PIN_PREEMPTION_TIMER) || cpu->activity == CPU_WAIT_SIPI)
		return false;
	u64 now = timer_now(cpu);
	if (now >= vmx->timer_end)
		vmx_exit_boundary(cpu, EXIT_PREEMPTION_TIMER, 0);
	return !timer_arm(cpu, vmx, now);
}

/* --- windows (26.2) and the monitor trap flag (26.5.2) --- */

/* The boundary right after a VM entry is not yet one that MTF means: an instruction or an event comes first. */
static bool attend_mtf(struct cpu *cpu, struct vmx *vmx)
{
	if (!cpu->hv_step)
		return false;
	if (vmx->mtf_due)
		vmx_exit_boundary(cpu, EXIT_MTF, 0);
	vmx->mtf_due = true;
	return true;
}

/* true: a window would be open but for the shadow of STI or MOV SS, which ends after the next instruction. */
static bool attend_windows(struct cpu *cpu, struct vmx *vmx)
{
	bool nmi = vmx_cpu(vmx, CPU_NMI_WINDOW) && !vmx->virtual_nmi_blocked && cpu->activity != CPU_WAIT_SIPI;
	bool intr = vmx_cpu(vmx, CPU_INTERRUPT_WINDOW) && (cpu->rflags_sys & RFLAGS_IF) &&
		    (cpu->activity == CPU_ACTIVE || cpu->activity == CPU_HALTED || cpu->activity == CPU_MWAIT);
	if (!nmi && !intr)
		return false;
	if (cpu->shadow)
		return true;
	vmx_exit_boundary(cpu, nmi ? EXIT_NMI_WINDOW : EXIT_INTERRUPT_WINDOW, 0);
}

void vmx_attention(struct cpu *cpu)
{
	struct vmx *vmx = vmx_of(cpu);
	/* First, so that a request which arrives meanwhile is not lost. */
	cpu_attended(cpu, ATTEND_HV);
	vmx_vapic_exit_if_due(cpu);
	bool again = attend_mtf(cpu, vmx);
	again |= attend_timer(cpu, vmx);
	again |= attend_windows(cpu, vmx);
	if (again)
		cpu_attend(cpu, ATTEND_HV);
}

/* --- VM entry and exit --- */

void vmx_events_arm(struct cpu *cpu)
{
	struct vmx *vmx = vmx_of(cpu);
	const struct vmcs *v = &vmx->vmcs;
	bool injecting = v->entry_event & EVENT_INFO_VALID;
	bool injecting_mtf = injecting && bits_get(v->entry_event, 10, 8) == EVENT_OTHER;
	vmx->iret_unblocked = false;
	vmx->pause_last = 0;
	vmx->mtf_due = injecting;
	cpu->hv_step = vmx_cpu(vmx, CPU_MTF) || injecting_mtf;
	if (unlikely(cpu->hv_step))
		cpu_update_mode(cpu);
	bool windows = vmx_cpu(vmx, CPU_NMI_WINDOW | CPU_INTERRUPT_WINDOW);
	bool timer = vmx_pin(vmx, PIN_PREEMPTION_TIMER);
	if (timer)
		vmx->timer_end = timer_now(cpu) + v->preemption_timer;
	cpu->if_free = !vmx_cpu(vmx, CPU_INTERRUPT_WINDOW);
	vmx_vapic_enter(cpu);
	if (windows || timer || cpu->hv_step)
		cpu_attend(cpu, ATTEND_HV);
	vmx_release_init(cpu);
	/* An interrupt or NMI that root held back may cause an exit at once. */
	if (cpu->intr_held)
		cpu_attend(cpu, ATTEND_INTR);
}

void vmx_events_disarm(struct cpu *cpu)
{
	cpu->hv_step = cpu->if_free = false;
	vmx_of(cpu)->apic_exit_due = vmx_of(cpu)->virtual_interrupt = false;
	cpu_attended(cpu, ATTEND_HV);
}
