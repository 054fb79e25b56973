/*
 * How an event reaches its handler: real-mode vector table, IDT of protected mode (16- and 32-bit gates, task gates,
 * virtual-8086 mode with its extensions), IDT of long mode with IST. SDM vol. 3, chapter 6 and 20.2.
 *
 * Each path first does everything that can fault, then changes registers.
 */
#include "base/trace.h"
#include "cpu/access.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"

/* An event being delivered: what all paths need. */
struct delivery {
	const struct event *event;
	bool soft;       /* INT n, INT3, INTO: the gate's DPL counts */
	u32 ext;         /* EXT bit of error codes that the delivery itself may cause */
	u64 rip, rflags; /* as pushed */
};

/* Error code naming the IDT entry. */
static u32 idt_error(const struct delivery *dv)
{
	return dv->event->vector * 8u + 2 + dv->ext;
}

/* Flags that handlers start without; interrupt gates clear IF besides. */
static void enter_flags(struct cpu *cpu, bool clear_if)
{
	u64 clear = RFLAGS_TF | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM | (clear_if ? RFLAGS_IF : 0);
	bool step = cpu->rflags_sys & RFLAGS_TF;
	cpu->rflags_sys &= ~clear;
	if (unlikely(step))
		cpu_update_step(cpu);
}

/* --- long mode --- */

/* Code segment of a gate: #GP and #NP with the selector. Common to both IDT formats. */
static void gate_code_segment(struct cpu *cpu, const struct delivery *dv, u16 selector, struct descriptor *cs)
{
	if (unlikely(selector_is_null(selector)))
		cpu_raise_error(cpu, VEC_GP, dv->ext);
	descriptor_get(cpu, selector, cs, VEC_GP, dv->ext);
	if (unlikely(!desc_is_code(cs) || desc_dpl(cs) > cpu->cpl))
		cpu_raise_error(cpu, VEC_GP, selector_error(selector, dv->ext));
	if (unlikely(!(cs->ar & SEG_AR_P)))
		cpu_raise_error(cpu, VEC_NP, selector_error(selector, dv->ext));
}

/* Writes the long-mode frame below rsp; its new top. */
static u64 push_frame64(struct cpu *cpu, const struct delivery *dv, unsigned cpl, u64 rsp)
{
	u64 frame[6];
	unsigned n = 0;

	if (dv->event->has_error)
		frame[n++] = dv->event->error;
	frame[n++] = dv->rip;
	frame[n++] = cpu->seg[SEG_CS].selector;
	frame[n++] = dv->rflags;
	frame[n++] = cpu->reg[RSP];
	frame[n++] = cpu->seg[SEG_SS].selector;

	unsigned size = n * 8;
	u64 top = (rsp & ~15ULL) - size;
	if (unlikely(!is_canonical(cpu, top) || !is_canonical(cpu, top + size - 1)))
		cpu_raise_error(cpu, VEC_SS, dv->ext);
	u8 *host = cpl == 3 ? NULL : access_hit(cpu, cpu->mmu.system, top, size, true);
	if (likely(host))
		memcpy(host, frame, size);
	else
		access_write(cpu, top, frame, size, cpl == 3 ? MMU_USER : MMU_SUPERVISOR);
	return top;
}

static void deliver_long(struct cpu *cpu, const struct delivery *dv)
{
	u32 offset = dv->event->vector * 16u;
	struct descriptor cs;

	if (unlikely(offset + 15 > cpu->idtr.limit))
		cpu_raise_error(cpu, VEC_GP, idt_error(dv));
	u64 low = sys_read64(cpu, cpu->idtr.base + offset);
	u64 high = sys_read64(cpu, cpu->idtr.base + offset + 8);
	unsigned type = (unsigned)bits_get(low, 44, 40);
	if (unlikely(type != DESC_INT32 && type != DESC_TRAP32))
		cpu_raise_error(cpu, VEC_GP, idt_error(dv));
	if (unlikely(dv->soft && bits_get(low, 46, 45) < cpu->cpl))
		cpu_raise_error(cpu, VEC_GP, idt_error(dv));
	if (unlikely(!(low & BIT(47))))
		cpu_raise_error(cpu, VEC_NP, idt_error(dv));

	gate_code_segment(cpu, dv, (u16)(low >> 16), &cs);
	if (unlikely((cs.ar & (SEG_AR_L | SEG_AR_DB)) != SEG_AR_L))
		cpu_raise_error(cpu, VEC_GP, selector_error(cs.selector, dv->ext));
	u64 rip = (low & 0xffff) | (low >> 32 & 0xffff0000) | high << 32;
	if (unlikely(!is_canonical(cpu, rip)))
		cpu_raise_error(cpu, VEC_GP, dv->ext);

	unsigned cpl = desc_is_conforming(&cs) ? cpu->cpl : desc_dpl(&cs);
	unsigned ist = (unsigned)bits_get(low, 34, 32);
	bool inner = cpl < cpu->cpl;
	u64 rsp = inner || ist ? stack_pointer64(cpu, cpl, ist, dv->ext) : cpu->reg[RSP];
	rsp = push_frame64(cpu, dv, cpl, rsp);
	descriptor_set_accessed(cpu, &cs);

	enter_flags(cpu, type == DESC_INT32);
	if (inner)
		cpu->seg[SEG_SS] = segment_unusable((u16)cpl, cpl);
	cpu->reg[RSP] = rsp;
	transfer_enter(cpu, &cs, cpl, rip);
}

/* --- protected mode without long mode --- */

/* New stack of an inner ring, with the outer one's pointer (and, from virtual-8086 mode, data segments) pushed. */
static void push_outer(struct cpu *cpu, struct stack *stack, unsigned size)
{
	if (cpu->mode == CPU_V86) {
		static const enum seg data[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };
		for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
			stack_push(cpu, stack, size, cpu->seg[data[i]].selector);
	}
	stack_push(cpu, stack, size, cpu->seg[SEG_SS].selector);
	stack_push(cpu, stack, size, cpu->reg[RSP]);
}

static void push_return(struct cpu *cpu, const struct delivery *dv, struct stack *stack, unsigned size)
{
	stack_push(cpu, stack, size, dv->rflags);
	stack_push(cpu, stack, size, cpu->seg[SEG_CS].selector);
	stack_push(cpu, stack, size, dv->rip);
	if (dv->event->has_error)
		stack_push(cpu, stack, size, dv->event->error);
}

/* Virtual-8086 mode is left: its data segments mean nothing in protected mode. */
static void null_data_segments(struct cpu *cpu)
{
	static const enum seg data[] = { SEG_GS, SEG_FS, SEG_DS, SEG_ES };
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		cpu->seg[data[i]] = segment_unusable(0, 0);
}

static void deliver_through_gate(struct cpu *cpu, const struct delivery *dv, u64 gate)
{
	unsigned type = (unsigned)bits_get(gate, 43, 40), size = type & 8 ? 4 : 2;
	struct descriptor cs;
	struct stack stack;

	gate_code_segment(cpu, dv, (u16)(gate >> 16), &cs);
	unsigned cpl = desc_is_conforming(&cs) ? cpu->cpl : desc_dpl(&cs);
	bool v86 = cpu->mode == CPU_V86, inner = cpl < cpu->cpl;
	if (v86 && cpl != 0)
		cpu_raise_error(cpu, VEC_GP, selector_error(cs.selector, dv->ext));
	u32 rip = (u32)(gate & 0xffff) | (size == 4 ? (u32)(gate >> 32) & 0xffff0000 : 0);

	if (inner) {
		stack_from_tss(cpu, cpl, &stack, dv->ext);
		if (rip > descriptor_limit(cs.raw))
			cpu_raise_error(cpu, VEC_GP, dv->ext);
		push_outer(cpu, &stack, size);
	} else {
		stack_current(cpu, &stack, dv->ext);
		if (rip > descriptor_limit(cs.raw))
			cpu_raise_error(cpu, VEC_GP, dv->ext);
	}
	push_return(cpu, dv, &stack, size);
	descriptor_set_accessed(cpu, &cs);

	enter_flags(cpu, !(type & 1));
	if (inner)
		cpu->seg[SEG_SS] = stack.ss;
	if (v86)
		null_data_segments(cpu);
	stack_commit(cpu, &stack);
	transfer_enter(cpu, &cs, cpl, rip);
}

static void deliver_protected(struct cpu *cpu, const struct delivery *dv)
{
	u32 offset = dv->event->vector * 8u;

	if (offset + 7 > cpu->idtr.limit)
		cpu_raise_error(cpu, VEC_GP, idt_error(dv));
	u64 gate = sys_read64(cpu, (u32)(cpu->idtr.base + offset));
	unsigned type = (unsigned)bits_get(gate, 44, 40);
	const u32 known = BIT(DESC_TASK_GATE) | BIT(DESC_INT16) | BIT(DESC_TRAP16) | BIT(DESC_INT32) | BIT(DESC_TRAP32);
	if (!(known >> type & 1))
		cpu_raise_error(cpu, VEC_GP, idt_error(dv));
	if (dv->soft && bits_get(gate, 46, 45) < cpu->cpl)
		cpu_raise_error(cpu, VEC_GP, idt_error(dv));
	if (!(gate & BIT(47)))
		cpu_raise_error(cpu, VEC_NP, idt_error(dv));
	if (type != DESC_TASK_GATE) {
		deliver_through_gate(cpu, dv, gate);
		return;
	}
	cpu->reg[REG_RIP] = dv->rip;
	/* The TSS gets the image that a stack would. */
	if (dv->rflags & RFLAGS_RF)
		cpu_set_rflags(cpu, dv->rflags);
	task_switch(cpu, (u16)(gate >> 16), TASK_GATE, dv->event->has_error, dv->event->error, dv->ext);
}

/* --- real mode, and INT n of virtual-8086 mode that stays there --- */

/* Pushes FLAGS, CS and IP and goes through the vector table at `table`; flags are cleared by the caller. */
static void enter_8086_handler(struct cpu *cpu, u64 table, u8 vector, u64 rip, u64 rflags)
{
	struct stack stack;
	u32 target = sys_read32(cpu, (u32)(table + vector * 4u));

	stack_current(cpu, &stack, 0);
	stack_push(cpu, &stack, 2, rflags);
	stack_push(cpu, &stack, 2, cpu->seg[SEG_CS].selector);
	stack_push(cpu, &stack, 2, rip);
	stack_commit(cpu, &stack);
	segment_load_real(cpu, SEG_CS, (u16)(target >> 16));
	cpu->reg[REG_RIP] = target & 0xffff;
}

static void deliver_real(struct cpu *cpu, const struct delivery *dv)
{
	if (dv->event->vector * 4u + 3 > cpu->idtr.limit)
		cpu_raise_error(cpu, VEC_GP, idt_error(dv));
	enter_8086_handler(cpu, cpu->idtr.base, dv->event->vector, dv->rip, dv->rflags);
	cpu->rflags_sys &= ~RFLAGS_AC;
	enter_flags(cpu, true);
}

/* --- all modes --- */

/* Faults push RF = 1, so that the restarted instruction does not meet its breakpoint again (SDM vol. 3, 18.3.1.1). */
static bool pushes_rf(const struct event *e)
{
	if (e->type != EVENT_EXCEPTION || e->vector == VEC_DF || e->vector == VEC_MC)
		return false;
	return e->vector != VEC_DB || (e->address & DR6_BD);
}

void cpu_deliver(struct cpu *cpu, const struct event *event)
{
	struct event *e = &cpu->vectoring;
	*e = *event;
	struct delivery dv = {
		.event = e,
		.soft = e->type == EVENT_SOFT_INT || e->type == EVENT_SOFT_EXC,
		.rip = cpu->reg[REG_RIP] + (event_is_software(e) ? e->length : 0),
		.rflags = cpu_rflags(cpu) | (pushes_rf(e) ? RFLAGS_RF : 0),
	};
	dv.ext = dv.soft ? 0 : 1;
	if (cpu->mode != CPU_LONG)
		dv.rip = (u32)dv.rip;
	cpu->rip_start = cpu->reg[REG_RIP];
	e->valid = true;
	if (debug_records_branches(cpu))
		debug_record_event(cpu);
	cpu->activity = CPU_ACTIVE;
	if (e->type == EVENT_NMI)
		cpu->nmi_blocked = true;

	if (likely(cpu->efer & EFER_LMA))
		deliver_long(cpu, &dv);
	else if (cpu->cr0 & CR0_PE)
		deliver_protected(cpu, &dv);
	else
		deliver_real(cpu, &dv);
	e->valid = false;
	cpu->shadow = 0;
	cpu->step_armed = 0;
}

/* --- INT n, INT3, INTO, INT1 --- */

/* Software interrupt redirection bit map: 32 bytes below the I/O map of the 32-bit TSS (SDM vol. 3, 20.3.3). */
static bool v86_redirected(struct cpu *cpu, u8 vector)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	if (tr->limit < 0x67)
		cpu_raise_gp(cpu);
	u32 io_map = sys_read16(cpu, (u32)(tr->base + 0x66));
	u32 offset = io_map - 32 + vector / 8;
	if (io_map < 32 || offset > tr->limit)
		cpu_raise_gp(cpu);
	return !(sys_read8(cpu, (u32)(tr->base + offset)) >> (vector & 7) & 1);
}

/* INT n in virtual-8086 mode; true if the task's own handler was entered, false: through the IDT. */
static bool v86_interrupt(struct cpu *cpu, u8 vector)
{
	bool trusted = cpu_iopl(cpu) == 3;

	if (!(cpu->cr4 & CR4_VME) || !v86_redirected(cpu, vector)) {
		if (!trusted)
			cpu_raise_gp(cpu);
		return false;
	}
	u64 rflags = cpu_rflags(cpu);
	if (!trusted) {
		rflags = (rflags & ~RFLAGS_IF) | RFLAGS_IOPL;
		if (rflags & RFLAGS_VIF)
			rflags |= RFLAGS_IF;
	}
	enter_8086_handler(cpu, 0, vector, cpu->reg[REG_RIP], rflags);
	cpu->rflags_sys &= ~(trusted ? RFLAGS_IF | RFLAGS_TF : RFLAGS_VIF | RFLAGS_TF);
	cpu_update_mode(cpu);
	return true;
}

void cpu_software_interrupt(struct cpu *cpu, u8 vector, enum event_type type)
{
	struct event e = { .valid = true, .vector = vector, .type = type, .length = cpu->insn->length };

	if (cpu->mode == CPU_V86 && type == EVENT_SOFT_INT && v86_interrupt(cpu, vector))
		cpu_resume(cpu);
	cpu->reg[REG_RIP] = cpu->rip_start;
	if (cpu->non_root && type != EVENT_SOFT_INT)
		cpu->hv->exception(cpu, &e);
	/* INT1 takes along what waited behind MOV SS: one #DB, not two. */
	if (type == EVENT_PRIV_SOFT_EXC) {
		cpu->dr[6] |= cpu->pending_db;
		cpu->pending_db = 0;
	}
	TRACE(cpu, "software interrupt %02x at %04x:%llx", vector, cpu->seg[SEG_CS].selector,
	      (unsigned long long)cpu->rip_start);
	cpu_deliver(cpu, &e);
	cpu_resume(cpu);
}
