/*
 * Events that cause #VMEXITs: exceptions, interrupts, nested page faults; and the virtual ones (APM vol. 2, 15.12,
 * 15.13, 15.21).
 */
#include "hv/svm/svm.h"

u64 svm_event_info(const struct event *event)
{
	static const u8 types[] = {
		[EVENT_INTERRUPT] = EVENTINJ_INTR,      [EVENT_NMI] = EVENTINJ_NMI,
		[EVENT_EXCEPTION] = EVENTINJ_EXCEPTION, [EVENT_SOFT_INT] = EVENTINJ_SOFT,
		[EVENT_SOFT_EXC] = EVENTINJ_EXCEPTION,  [EVENT_PRIV_SOFT_EXC] = EVENTINJ_EXCEPTION,
		[EVENT_OTHER] = EVENTINJ_INTR,
	};
	u64 info = event->vector | (u64)types[event->type] << 8 | EVENTINJ_VALID;
	return event->has_error ? info | EVENTINJ_ERROR | (u64)event->error << 32 : info;
}

/* --- exceptions --- */

/*
 * The saved RIP of INT3 and INTO is theirs. CR2 stays as it is, EXITINFO2 has the address; DR6 and DR7 are already what
 * the handler would see (15.12).
 */
void svm_exception(struct cpu *cpu, const struct event *event)
{
	const struct svm *svm = svm_of(cpu);
	/* #DB of INT1 is a trap, as all of its kind are: RIP is behind the instruction; of INT3 and INTO it is not. */
	bool software = event->type == EVENT_SOFT_EXC, trap = event->type == EVENT_PRIV_SOFT_EXC;
	if (event->type != EVENT_EXCEPTION && !software && !trap)
		return;
	if (likely(!svm_intercepts(svm, SVM_EXIT_EXCEPTION + event->vector)) || event->vector == VEC_NMI)
		return;
	if (event->vector == VEC_DB) {
		cpu->dr[6] = (cpu->dr[6] & ~15ULL) | event->address;
		cpu->dr[7] &= ~DR7_GD;
	}
	svm_exit(cpu, &(struct svm_exit){
			      .code = SVM_EXIT_EXCEPTION + event->vector,
			      .info1 = event->has_error ? event->error : 0,
			      .info2 = event->vector == VEC_PF ? event->address : 0,
			      .rip = cpu->reg[REG_RIP] + (trap ? event->length : 0),
			      .next_rip = software ? cpu->reg[REG_RIP] + event->length : 0,
			      .bytes = event->vector == VEC_PF && !(event->error & PF_FETCH),
		      });
}

void svm_triple_fault(struct cpu *cpu)
{
	if (svm_intercepts(svm_of(cpu), SVM_EXIT_SHUTDOWN))
		svm_exit(cpu, &(struct svm_exit){
				      .code = SVM_EXIT_SHUTDOWN, .rip = cpu->reg[REG_RIP], .no_vectoring = true });
}

void svm_stage2_fault(struct cpu *cpu, u64 va, const struct mmu_result *fault)
{
	svm_exit(cpu, &(struct svm_exit){
			      .code = SVM_EXIT_NPF,
			      .info1 = fault->qualification,
			      .info2 = fault->l2_gpa,
			      .rip = cpu->rip_start,
			      .bytes = !(fault->qualification & PF_FETCH),
		      });
}

/* --- physical interrupts: an intercepted one stays pending, for the host, whose GIF is 0 at first --- */

static bool virtual_nmis(const struct svm *svm)
{
	return svm_int_ctl(svm, V_NMI_ENABLE) && svm_has(svm, FEATURE_VNMI);
}

/* With virtual NMIs real ones are never blocked by the guest's. */
void svm_nmi(struct cpu *cpu)
{
	const struct svm *svm = svm_of(cpu);
	if (!svm_intercepts(svm, SVM_EXIT_NMI) || (cpu->nmi_blocked && !virtual_nmis(svm)))
		return;
	svm_exit_boundary(cpu, SVM_EXIT_NMI);
}

void svm_smi(struct cpu *cpu)
{
	if (svm_intercepts(svm_of(cpu), SVM_EXIT_SMI))
		svm_exit_boundary(cpu, SVM_EXIT_SMI);
}

void svm_init_signal(struct cpu *cpu)
{
	if (!svm_intercepts(svm_of(cpu), SVM_EXIT_INIT))
		return;
	cpu_attend(cpu, ATTEND_INIT);
	svm_exit_boundary(cpu, SVM_EXIT_INIT);
}

/* INIT redirection (15.28): #SX with an error code that says so. */
bool svm_init_blocked(struct cpu *cpu)
{
	enum { SX_INIT = 1 };
	if (!(svm_of(cpu)->vm_cr & VM_CR_R_INIT))
		return false;
	cpu->rip_start = cpu->reg[REG_RIP];
	cpu_raise_error(cpu, VEC_SX, SX_INIT);
}

/* A guest never waits for one: INIT that is not intercepted ends guest mode. */
void svm_sipi(struct cpu *cpu, u8 vector)
{
}

/* With V_INTR_MASKING the host's IF masks physical interrupts, the guest's the virtual ones alone (15.21.1). */
bool svm_interrupt(struct cpu *cpu)
{
	const struct svm *svm = svm_of(cpu);
	bool masking = svm_int_ctl(svm, V_INTR_MASKING);
	u64 flags = masking ? svm->host.rflags : cpu->rflags_sys;
	if (!(flags & RFLAGS_IF))
		return false;
	if (svm_intercepts(svm, SVM_EXIT_INTR))
		svm_exit_boundary(cpu, SVM_EXIT_INTR);
	if (!masking || (cpu->rflags_sys & RFLAGS_IF))
		return true;
	/* The guest takes it although its own IF is 0. */
	int vector = cpu->platform->ack_interrupt(cpu->platform->opaque);
	cpu_attend(cpu, ATTEND_INTR);
	if (vector < 0)
		return false;
	struct event e = { .valid = true, .vector = (u8)vector, .type = EVENT_INTERRUPT };
	cpu_deliver(cpu, &e);
	cpu_resume(cpu);
}

void svm_attention(struct cpu *cpu)
{
	svm_avic_exit_if_due(cpu);
}

/* --- virtual interrupts (15.21.4) and NMIs (15.21.10) --- */

static bool virtual_gif(const struct svm *svm)
{
	return !svm_int_ctl(svm, V_GIF_ENABLE) || !svm_has(svm, FEATURE_VGIF) || svm_int_ctl(svm, V_GIF);
}

static bool virtual_nmi(struct cpu *cpu, struct svm *svm)
{
	u32 *ctl = &svm->vmcb.control.int_ctl;
	if (!virtual_nmis(svm) || !(*ctl & V_NMI) || (*ctl & V_NMI_MASK))
		return false;
	*ctl = (*ctl & ~(u32)V_NMI) | (u32)V_NMI_MASK;
	struct event e = { .valid = true, .vector = VEC_NMI, .type = EVENT_NMI };
	cpu_deliver(cpu, &e);
	cpu->nmi_blocked = false; /* V_NMI_MASK is it */
	return true;
}

/* The vector of the interrupt that priorities let in, or -1. */
static int pending_vector(const struct svm *svm)
{
	const struct vmcb_control *c = &svm->vmcb.control;
	if (svm_avic(svm))
		return svm_avic_pending(svm);
	if (!(c->int_ctl & V_IRQ))
		return -1;
	if (!(c->int_ctl & V_IGN_TPR) && bits_get(c->int_ctl, 19, 16) <= (c->int_ctl & V_TPR))
		return -1;
	return (u8)c->int_vector;
}

static bool virtual_interrupt(struct cpu *cpu, struct svm *svm, int vector)
{
	if (vector < 0 || !(cpu->rflags_sys & RFLAGS_IF))
		return false;
	if (svm_intercepts(svm, SVM_EXIT_VINTR))
		svm_exit_boundary(cpu, SVM_EXIT_VINTR);
	if (svm_avic(svm))
		svm_avic_accept(svm, (u8)vector);
	else
		svm->vmcb.control.int_ctl &= ~(u32)V_IRQ;
	struct event e = { .valid = true, .vector = (u8)vector, .type = EVENT_INTERRUPT };
	cpu_deliver(cpu, &e);
	return true;
}

/* Whatever opens a window later asks for attention again: IF while an interrupt waits for it, TPR, V_GIF, IRET. */
bool svm_virtual_event(struct cpu *cpu, bool shadow)
{
	struct svm *svm = svm_of(cpu);
	/* First, so that a doorbell which rings meanwhile is not lost. */
	cpu_attended(cpu, ATTEND_HV);
	int vector = pending_vector(svm);
	cpu->if_free = vector < 0;
	if ((vector < 0 && !svm_int_ctl(svm, V_NMI)) || !virtual_gif(svm))
		return false;
	if (shadow) {
		cpu_attend(cpu, ATTEND_HV);
		return false;
	}
	bool delivered = virtual_nmi(cpu, svm) || virtual_interrupt(cpu, svm, vector);
	if (delivered)
		cpu_attend(cpu, ATTEND_HV);
	return delivered;
}

void svm_iret(struct cpu *cpu)
{
	struct svm *svm = svm_of(cpu);
	if (!virtual_nmis(svm)) {
		cpu->nmi_blocked = false;
		return;
	}
	svm->vmcb.control.int_ctl &= ~(u32)V_NMI_MASK;
	cpu_attend(cpu, ATTEND_HV);
}
