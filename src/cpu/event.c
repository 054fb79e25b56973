/*
 * Raising events, the double-fault rules, and what is looked at between instructions. How an event reaches its handler
 * is in deliver.c.
 */
#include "cpu/event.h"
#include "base/trace.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"

#include <stdio.h>
#include <string.h>

static NORETURN void throw_event(struct cpu *cpu, const struct event *event)
{
	cpu->pending = *event;
	cpu->reg[REG_RIP] = cpu->rip_start;
	longjmp(cpu->restart, 1);
}

void cpu_raise(struct cpu *cpu, enum vector vector)
{
	struct event e = { .valid = true, .vector = (u8)vector, .type = EVENT_EXCEPTION };
	throw_event(cpu, &e);
}

void cpu_raise_error(struct cpu *cpu, enum vector vector, u32 error)
{
	struct event e = {
		.valid = true, .vector = (u8)vector, .type = EVENT_EXCEPTION, .has_error = true, .error = error
	};
	throw_event(cpu, &e);
}

void cpu_raise_page_fault(struct cpu *cpu, u64 va, u32 error)
{
	struct event e = { .valid = true,
			   .vector = VEC_PF,
			   .type = EVENT_EXCEPTION,
			   .has_error = true,
			   .error = error,
			   .address = va };
	throw_event(cpu, &e);
}

void cpu_raise_db(struct cpu *cpu, u64 dr6_bits)
{
	struct event e = { .valid = true, .vector = VEC_DB, .type = EVENT_EXCEPTION, .address = dr6_bits };
	throw_event(cpu, &e);
}

void cpu_raise_gp(struct cpu *cpu)
{
	cpu_raise_error(cpu, VEC_GP, 0);
}

/* The bytes at the running instruction, as hexadecimal text; what cannot be read is left out. */
static void running_bytes(struct cpu *cpu, char text[48])
{
	text[0] = 0;
	for (unsigned i = 0; i < 15; i++) {
		u64 linear = cpu->seg_base[SEG_CS] + cpu->rip_start + i;
		if (cpu->mode != CPU_LONG)
			linear = (u32)linear;
		struct mmu_result at = mmu_peek(&cpu->mmu, linear);
		u8 byte;
		if (at.kind != MMU_OK || !mem_read(cpu->mem, at.gpa, &byte, 1))
			return;
		snprintf(text + 3 * i, 4, "%02x ", byte);
	}
}

void cpu_raise_unimplemented(struct cpu *cpu)
{
	char bytes[48];
	running_bytes(cpu, bytes);
	REPORT("instruction not implemented at %04x:%llx, mode %u: %s", cpu->seg[SEG_CS].selector,
	       (unsigned long long)cpu->rip_start, cpu->mode, bytes);
	cpu_raise(cpu, VEC_UD);
}

void cpu_resume(struct cpu *cpu)
{
	cpu->vectoring.valid = false;
	longjmp(cpu->restart, 1);
}

/* --- double faults: SDM vol. 3, 6.15, tables 6-4 and 6-5 --- */

enum fault_class { BENIGN, CONTRIBUTORY, PAGE, DOUBLE };

static enum fault_class fault_class(const struct event *e)
{
	if (e->type != EVENT_EXCEPTION)
		return BENIGN;
	switch (e->vector) {
	case VEC_DE:
	case VEC_TS:
	case VEC_NP:
	case VEC_SS:
	case VEC_GP:
	case VEC_CP:
		return CONTRIBUTORY;
	case VEC_PF:
	case VEC_VE:
		return PAGE;
	case VEC_DF:
		return DOUBLE;
	default:
		return BENIGN;
	}
}

enum fault_result { FAULT_SERIAL, FAULT_DOUBLE, FAULT_TRIPLE };

static enum fault_result combine_faults(const struct event *first, const struct event *second)
{
	enum fault_class a = fault_class(first), b = fault_class(second);
	if (b == BENIGN || a == BENIGN)
		return FAULT_SERIAL;
	if (a == DOUBLE)
		return FAULT_TRIPLE;
	if (a == CONTRIBUTORY && b == PAGE)
		return FAULT_SERIAL;
	return FAULT_DOUBLE;
}

static int triple_fault(struct cpu *cpu)
{
	cpu->vectoring.valid = false;
	if (cpu->non_root)
		cpu->hv->triple_fault(cpu);
	TRACE(cpu, "triple fault at %llx", (unsigned long long)cpu->reg[REG_RIP]);
	cpu->activity = CPU_SHUTDOWN;
	return CPU_STOP_TRIPLE_FAULT + 1;
}

/* Registers that an exception leaves its cause in; not when hv injects the event (SDM vol. 3, 27.6.1.1). */
static void record_cause(struct cpu *cpu, const struct event *e)
{
	if (e->vector == VEC_PF) {
		cpu->cr2 = e->address;
		cpu->counters.page_faults++;
	} else if (e->vector == VEC_DB) {
		cpu->dr[6] = (cpu->dr[6] & ~15ULL) | e->address;
		cpu->dr[7] &= ~DR7_GD;
		cpu->msr.debugctl &= ~(DEBUGCTL_LBR | DEBUGCTL_BTF);
	}
	cpu->counters.exceptions++;
}

int cpu_take_pending(struct cpu *cpu)
{
	struct event e = cpu->pending;

	cpu->pending.valid = false;
	cpu->rip_start = cpu->reg[REG_RIP];
	if (cpu->non_root)
		cpu->hv->exception(cpu, &e);
	if (unlikely(cpu->vectoring.valid)) {
		enum fault_result result = combine_faults(&cpu->vectoring, &e);
		if (result == FAULT_TRIPLE)
			return triple_fault(cpu);
		if (result == FAULT_DOUBLE) {
			/* A #PF that turns into #DF has still written CR2. */
			if (e.vector == VEC_PF)
				cpu->cr2 = e.address;
			e = (struct event){
				.valid = true, .vector = VEC_DF, .type = EVENT_EXCEPTION, .has_error = true
			};
			cpu->vectoring.valid = false;
			if (cpu->non_root)
				cpu->hv->exception(cpu, &e);
		}
	}
	TRACE(cpu, "exception %u error %x address %llx at %04x:%llx", e.vector, e.error, (unsigned long long)e.address,
	      cpu->seg[SEG_CS].selector, (unsigned long long)cpu->rip_start);
	record_cause(cpu, &e);
	cpu_deliver(cpu, &e);
	return 0;
}

/* --- between instructions --- */

enum { ATTEND_NMIS = ATTEND_NMI | ATTEND_NMI_2, HOLDABLE = ATTEND_INTR | ATTEND_NMIS | ATTEND_SMI | ATTEND_INIT };

void cpu_hold_events(struct cpu *cpu, bool hold)
{
	if (cpu->events_held && !hold) {
		cpu_attend(cpu, cpu->held | ATTEND_INTR);
		cpu->held = 0;
	}
	cpu->events_held = hold;
}

void cpu_set_shadow(struct cpu *cpu, u8 kind)
{
	/* A shadow does not extend the one it is under (SDM vol. 2, "STI"): MOV SS; MOV SS; … would never end. */
	if (cpu->shadow == kind && cpu->shadow_rip == cpu->rip_start && cpu->shadow_seen)
		return;
	cpu->shadow = kind;
	cpu->shadow_seen = false;
	cpu->shadow_rip = cpu->reg[REG_RIP];
	cpu->shadow_insn = NULL;
	cpu_attend(cpu, ATTEND_SHADOW);
}

u8 cpu_shadow(const struct cpu *cpu, u64 rip)
{
	/* Inside a block nobody ends a shadow in time; but only from the STI does the next instruction follow. */
	bool over = cpu->shadow_insn && cpu->insn != cpu->shadow_insn + 1;
	return cpu->shadow_rip == rip && !over ? cpu->shadow : 0;
}

void cpu_retry(struct cpu *cpu)
{
	/* Its boundary is looked at after all, if it is in the shadow of an STI of its block. */
	if (cpu_shadow(cpu, cpu->rip_start))
		cpu->shadow_insn = NULL;
	cpu->retry = true;
	cpu->reg[REG_RIP] = cpu->rip_start;
	cpu_resume(cpu);
}

/* Is this the boundary before an instruction in the shadow of STI or MOV SS? Its kind, or 0. */
static u8 boundary_shadow(struct cpu *cpu)
{
	bool over = cpu->shadow_insn && cpu->insn != cpu->shadow_insn;
	if (cpu->shadow && !over && !cpu->shadow_seen && cpu->shadow_rip == cpu->reg[REG_RIP]) {
		cpu->shadow_seen = true;
		cpu->shadow_insn = NULL;
		cpu_attend(cpu, ATTEND_SHADOW);
		return cpu->shadow;
	}
	cpu->shadow = 0;
	if (cpu->attention & ATTEND_SHADOW)
		cpu_attended(cpu, ATTEND_SHADOW);
	return 0;
}

/* With BTF, TF traps after taken branches only (SDM vol. 3, 18.4.3): RIP is then not behind the instruction. */
static bool step_is_due(const struct cpu *cpu)
{
	bool branches_only = cpu->msr.debugctl & DEBUGCTL_BTF;
	return (cpu->step_armed & CPU_STEP_TF) &&
	       (!branches_only || cpu->reg[REG_RIP] != cpu->step_rip + cpu->insn->length);
}

/* Results of one look: stop codes of cpu_run() are positive. */
enum { LOOK_DONE = 0, LOOK_AGAIN = -1 };

static int take_db(struct cpu *cpu, u64 bits)
{
	cpu->pending = (struct event){ .valid = true, .vector = VEC_DB, .type = EVENT_EXCEPTION, .address = bits };
	int stop = cpu_take_pending(cpu);
	return stop ? stop : LOOK_AGAIN;
}

/* Traps of the instruction that just ended: single-step, data and I/O breakpoints, and the end of RF's reach. */
static int attend_traps(struct cpu *cpu, u8 shadow)
{
	if (cpu->step_armed & CPU_STEP_RF)
		cpu->rflags_sys &= ~RFLAGS_RF;
	/* MOV SS drops its own single-step trap; breakpoints wait for the next boundary (SDM vol. 3, 6.8.3). */
	if (step_is_due(cpu) && !(shadow & SHADOW_MOV_SS))
		cpu->pending_db |= DR6_BS;
	cpu->step_armed = 0;
	if (!cpu->pending_db || (shadow & SHADOW_MOV_SS))
		return LOOK_DONE;
	u64 bits = cpu->pending_db;
	cpu->pending_db = 0;
	return take_db(cpu, bits);
}

void cpu_attend_nmi(struct cpu *cpu)
{
	bool blocked = __atomic_load_n(&cpu->nmi_blocked, __ATOMIC_RELAXED) ||
		       __atomic_load_n(&cpu->events_held, __ATOMIC_RELAXED);
	u32 before = __atomic_fetch_or(&cpu->attention, ATTEND_NMI, __ATOMIC_SEQ_CST);
	if ((before & ATTEND_NMI) && !blocked)
		cpu_attend(cpu, ATTEND_NMI_2);
}

/* The first may have been taken meanwhile, so the second may stand alone. */
void cpu_take_nmi(struct cpu *cpu)
{
	cpu_attended(cpu, cpu->attention & ATTEND_NMI_2 ? ATTEND_NMI_2 : ATTEND_NMI);
}

static int attend_nmi(struct cpu *cpu, u8 shadow)
{
	if (shadow)
		return LOOK_DONE;
	if (cpu->non_root)
		cpu->hv->nmi(cpu);
	if (cpu->nmi_blocked)
		return LOOK_DONE;
	cpu_take_nmi(cpu);
	struct event e = { .valid = true, .vector = VEC_NMI, .type = EVENT_NMI };
	cpu_deliver(cpu, &e);
	return LOOK_AGAIN;
}

static int attend_interrupt(struct cpu *cpu, u8 shadow)
{
	const struct cpu_platform *platform = cpu->platform;

	cpu_attended(cpu, ATTEND_INTR);
	cpu->intr_held = platform->interrupt_pending(platform->opaque);
	if (!cpu->intr_held)
		return LOOK_DONE;
	if (cpu->activity == CPU_MWAIT)
		cpu->activity = CPU_ACTIVE;
	if (shadow) {
		cpu_attend(cpu, ATTEND_INTR);
		return LOOK_DONE;
	}
	if (cpu->non_root && !cpu->hv->interrupt(cpu))
		return LOOK_DONE;
	if (!(cpu->rflags_sys & RFLAGS_IF))
		return LOOK_DONE;
	int vector = platform->ack_interrupt(platform->opaque);
	cpu_attend(cpu, ATTEND_INTR); /* there may be another one */
	if (vector < 0)
		return LOOK_DONE;
	TRACE(irq, "interrupt %02x delivered at %04x:%llx", (unsigned)vector, cpu->seg[SEG_CS].selector,
	      (unsigned long long)cpu->reg[REG_RIP]);
	cpu->counters.interrupts++;
	struct event e = { .valid = true, .vector = (u8)vector, .type = EVENT_INTERRUPT };
	cpu_deliver(cpu, &e);
	return LOOK_AGAIN;
}

static void attend_init(struct cpu *cpu)
{
	cpu_attended(cpu, ATTEND_INIT);
	if (cpu->non_root)
		cpu->hv->init_signal(cpu);
	if (cpu->hv && cpu->hv->init_blocked(cpu))
		return;
	cpu_init_signal(cpu);
}

static void attend_sipi(struct cpu *cpu)
{
	cpu_attended(cpu, ATTEND_SIPI);
	if (cpu->activity != CPU_WAIT_SIPI)
		return;
	if (cpu->non_root) {
		cpu->hv->sipi(cpu, cpu->sipi_vector);
		return;
	}
	cpu->seg[SEG_CS].selector = (u16)(cpu->sipi_vector << 8);
	cpu->seg[SEG_CS].base = (u64)cpu->sipi_vector << 12;
	cpu->reg[REG_RIP] = cpu->rip_start = 0;
	cpu->activity = CPU_ACTIVE;
	cpu_update_mode(cpu);
}

/* An instruction follows: its breakpoint is a fault before it, TF and RF decide what comes after it. */
static int attend_start(struct cpu *cpu, u8 shadow)
{
	u64 bits;

	if (!(cpu->mode_key & MODE_STEP)) {
		cpu_attended(cpu, ATTEND_TRAP);
		return LOOK_DONE;
	}
	cpu_attend(cpu, ATTEND_TRAP);
	/* MOV SS holds instruction breakpoints back on Intel's CPUs, not on AMD's. */
	bool held = (shadow & SHADOW_MOV_SS) && !cpu_is_amd(cpu);
	if ((cpu->dr[7] & 0xff) && !(cpu_rflags(cpu) & RFLAGS_RF) && !held && debug_code_hit(cpu, &bits))
		return take_db(cpu, bits);
	cpu->step_rip = cpu->reg[REG_RIP];
	cpu->step_armed =
		(cpu->rflags_sys & RFLAGS_TF ? CPU_STEP_TF : 0) | (cpu->rflags_sys & RFLAGS_RF ? CPU_STEP_RF : 0);
	return LOOK_DONE;
}

static int look_once(struct cpu *cpu)
{
	/* First, for it may bring an interrupt or NMI. */
	if (unlikely(cpu->attention & ATTEND_PMU))
		pmu_attend(cpu);
	u32 attention = __atomic_load_n(&cpu->attention, __ATOMIC_SEQ_CST);
	int r = LOOK_DONE;

	cpu->rip_start = cpu->reg[REG_RIP];
	if (attention & ATTEND_STOP) {
		cpu_attended(cpu, ATTEND_STOP);
		return CPU_STOP_ASKED + 1;
	}
	if (unlikely(cpu->events_held)) {
		u32 held = attention & HOLDABLE;
		cpu->held |= held;
		cpu_attended(cpu, held);
		attention &= ~held;
	}
	if (unlikely(attention & ATTEND_INIT))
		attend_init(cpu);
	if (unlikely(attention & ATTEND_SIPI))
		attend_sipi(cpu);
	if (unlikely(attention & ATTEND_SMI)) {
		if (cpu->non_root && cpu->hv->smi)
			cpu->hv->smi(cpu);
		REPORT("SMI ignored: there is no system-management mode");
		cpu_attended(cpu, ATTEND_SMI);
	}
	/* A guest's hypervisor can have it in shutdown, too: then NMIs and hv's events go on. */
	if (unlikely(cpu->activity == CPU_SHUTDOWN && !cpu->non_root))
		return CPU_STOP_TRIPLE_FAULT + 1;
	if (unlikely(cpu->activity == CPU_WAIT_SIPI))
		return CPU_STOP_IDLE + 1;

	/* What hv once asked for is void in root operation; left set it would keep the CPU at this look. */
	if (unlikely((attention & ATTEND_HV) && !cpu->non_root))
		cpu_attended(cpu, ATTEND_HV);

	u8 shadow = boundary_shadow(cpu);
	/* MTF comes before debug traps, hv's other reasons behind them (SDM vol. 3, 26.5). */
	if ((attention & ATTEND_HV) && cpu->non_root && cpu->hv_step)
		cpu->hv->attention(cpu);
	if ((attention & ATTEND_TRAP) && (r = attend_traps(cpu, shadow)))
		return r;
	if ((attention & ATTEND_HV) && cpu->non_root && !cpu->hv_step)
		cpu->hv->attention(cpu);
	if (unlikely(attention & ATTEND_NMIS) && (r = attend_nmi(cpu, shadow)))
		return r;
	if ((attention & ATTEND_INTR) && (r = attend_interrupt(cpu, shadow)))
		return r;
	if (((attention | cpu->attention) & ATTEND_HV) && cpu->non_root && cpu->hv->virtual_event &&
	    cpu->hv->virtual_event(cpu, shadow != 0))
		return LOOK_AGAIN;
	if (cpu->activity != CPU_ACTIVE) {
		/* The caller sleeps until something is set anew. */
		cpu_attended(cpu, ATTEND_TRAP | ATTEND_SHADOW);
		return CPU_STOP_IDLE + 1;
	}
	return (attention & ATTEND_TRAP) || (cpu->mode_key & MODE_STEP) ? attend_start(cpu, shadow) : LOOK_DONE;
}

int cpu_attend_events(struct cpu *cpu)
{
	int r;
	do
		r = look_once(cpu);
	while (r == LOOK_AGAIN);
	return r;
}
