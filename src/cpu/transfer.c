/*
 * Far transfers between code segments, call gates and returns: SDM vol. 2 "JMP", "CALL", "RET", "IRET"; vol. 3, 5.8.
 * Every function first does all that can fault, then changes registers.
 */
#include "cpu/access.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"

void transfer_arrive(struct cpu *cpu, unsigned cpl, u64 rip)
{
	cpu->cpl = (u8)cpl;
	cpu->reg[REG_RIP] = rip;
	if (likely(cpu->mode == CPU_LONG && (cpu->seg[SEG_CS].ar & SEG_AR_L)))
		cpu_update_class(cpu);
	else
		cpu_update_mode(cpu);
}

void transfer_enter(struct cpu *cpu, const struct descriptor *cs, unsigned cpl, u64 rip)
{
	struct segment *s = &cpu->seg[SEG_CS];
	descriptor_unpack(cs, s);
	s->selector = (u16)((cs->selector & ~3u) | cpl);
	transfer_arrive(cpu, cpl, rip);
}

/* --- what all of them check --- */

/* Enters 64-bit code? Also #GP for a code segment that claims L and D at once. */
static bool is_code64(struct cpu *cpu, const struct descriptor *cs)
{
	if (!cpu_long_mode(cpu) || !(cs->ar & SEG_AR_L))
		return false;
	if (cs->ar & SEG_AR_DB)
		cpu_raise_error(cpu, VEC_GP, selector_error(cs->selector, 0));
	return true;
}

/* The new instruction pointer must lie in the segment, or be canonical. */
static void check_target(struct cpu *cpu, const struct descriptor *cs, u64 rip)
{
	if (is_code64(cpu, cs) ? !is_canonical(cpu, rip) : rip > descriptor_limit(cs->raw))
		cpu_raise_gp(cpu);
}

static void check_present(struct cpu *cpu, const struct descriptor *d)
{
	if (!(d->ar & SEG_AR_P))
		cpu_raise_error(cpu, VEC_NP, selector_error(d->selector, 0));
}

static NORETURN void raise_selector(struct cpu *cpu, u16 selector)
{
	cpu_raise_error(cpu, VEC_GP, selector_error(selector, 0));
}

/* --- JMP and CALL --- */

static void far_real(struct cpu *cpu, u16 selector, u64 offset, unsigned opsize, bool call)
{
	if (offset > cpu->seg[SEG_CS].limit)
		cpu_raise_gp(cpu);
	if (call) {
		struct stack stack;
		stack_current(cpu, &stack, 0);
		stack_push(cpu, &stack, opsize, cpu->seg[SEG_CS].selector);
		stack_push(cpu, &stack, opsize, cpu->reg[REG_RIP]);
		stack_commit(cpu, &stack);
	}
	segment_load_real(cpu, SEG_CS, selector);
	cpu->reg[REG_RIP] = offset;
}

static void far_code(struct cpu *cpu, struct descriptor *cs, u64 offset, unsigned opsize, bool call)
{
	bool wrong = desc_is_conforming(cs) ? desc_dpl(cs) > cpu->cpl
					    : (cs->selector & 3u) > cpu->cpl || desc_dpl(cs) != cpu->cpl;
	if (wrong)
		raise_selector(cpu, cs->selector);
	check_present(cpu, cs);
	check_target(cpu, cs, offset);
	if (call) {
		struct stack stack;
		stack_current(cpu, &stack, 0);
		stack_push(cpu, &stack, opsize, cpu->seg[SEG_CS].selector);
		stack_push(cpu, &stack, opsize, cpu->reg[REG_RIP]);
		descriptor_set_accessed(cpu, cs);
		stack_commit(cpu, &stack);
	} else {
		descriptor_set_accessed(cpu, cs);
	}
	transfer_enter(cpu, cs, cpu->cpl, offset);
}

/* CALL through a gate to an inner ring: a new stack, the old one's pointer and `count` parameters on it. */
static void call_inner(struct cpu *cpu, struct descriptor *cs, u64 rip, unsigned size, unsigned count)
{
	struct stack outer, inner;
	unsigned cpl = desc_dpl(cs);

	stack_current(cpu, &outer, 0);
	if (size == 8) {
		inner = (struct stack){ .ss = segment_unusable((u16)cpl, cpl),
					.sp = stack_pointer64(cpu, cpl, 0, 0),
					.mask = ~0ULL,
					.cls = MMU_SUPERVISOR,
					.flat = true };
	} else {
		stack_from_tss(cpu, cpl, &inner, 0);
	}
	check_target(cpu, cs, rip);
	stack_push(cpu, &inner, size, cpu->seg[SEG_SS].selector);
	stack_push(cpu, &inner, size, cpu->reg[RSP]);
	while (count-- > 0)
		stack_push(cpu, &inner, size, stack_peek(cpu, &outer, count * size, size));
	stack_push(cpu, &inner, size, cpu->seg[SEG_CS].selector);
	stack_push(cpu, &inner, size, cpu->reg[REG_RIP]);
	descriptor_set_accessed(cpu, cs);
	cpu->seg[SEG_SS] = inner.ss;
	stack_commit(cpu, &inner);
	transfer_enter(cpu, cs, cpl, rip);
}

static void call_same(struct cpu *cpu, struct descriptor *cs, u64 rip, unsigned size)
{
	struct stack stack;

	check_target(cpu, cs, rip);
	stack_current(cpu, &stack, 0);
	stack_push(cpu, &stack, size, cpu->seg[SEG_CS].selector);
	stack_push(cpu, &stack, size, cpu->reg[REG_RIP]);
	descriptor_set_accessed(cpu, cs);
	stack_commit(cpu, &stack);
	transfer_enter(cpu, cs, cpu->cpl, rip);
}

static void far_call_gate(struct cpu *cpu, const struct descriptor *gate, bool call)
{
	u64 rip = (gate->raw & 0xffff) | (desc_type(gate) == DESC_CALL32 ? gate->raw >> 32 & 0xffff0000 : 0);
	unsigned size = desc_type(gate) == DESC_CALL32 ? 4 : 2, count = gate->raw >> 32 & 31;
	u16 selector = (u16)(gate->raw >> 16);
	struct descriptor cs;

	check_present(cpu, gate);
	if (cpu_long_mode(cpu)) {
		u64 high = descriptor_get_high(cpu, gate);
		if (bits_get(high, 44, 40))
			raise_selector(cpu, gate->selector);
		rip |= high << 32;
		size = 8;
		count = 0;
	}
	if (selector_is_null(selector))
		cpu_raise_gp(cpu);
	descriptor_get(cpu, selector, &cs, VEC_GP, 0);
	if (!desc_is_code(&cs) || desc_dpl(&cs) > cpu->cpl)
		raise_selector(cpu, selector);
	if (cpu_long_mode(cpu) && !is_code64(cpu, &cs))
		raise_selector(cpu, selector);
	bool inner = !desc_is_conforming(&cs) && desc_dpl(&cs) < cpu->cpl;
	if (inner && !call)
		raise_selector(cpu, selector);
	check_present(cpu, &cs);
	if (inner) {
		call_inner(cpu, &cs, rip, size, count);
	} else if (call) {
		call_same(cpu, &cs, rip, size);
	} else {
		check_target(cpu, &cs, rip);
		descriptor_set_accessed(cpu, &cs);
		transfer_enter(cpu, &cs, cpu->cpl, rip);
	}
}

/* Gates and TSSs as targets of JMP and CALL. */
static void far_system(struct cpu *cpu, const struct descriptor *d, bool call)
{
	unsigned type = desc_type(d);
	enum task_source source = call ? TASK_CALL : TASK_JMP;

	if (cpu_long_mode(cpu) && type != DESC_CALL32)
		raise_selector(cpu, d->selector);
	switch (type) {
	case DESC_CALL16:
	case DESC_CALL32:
	case DESC_TASK_GATE:
	case DESC_TSS16:
	case DESC_TSS32:
		break;
	default:
		raise_selector(cpu, d->selector);
	}
	if (desc_dpl(d) < cpu->cpl || desc_dpl(d) < (d->selector & 3u))
		raise_selector(cpu, d->selector);
	if (type == DESC_CALL16 || type == DESC_CALL32) {
		far_call_gate(cpu, d, call);
	} else if (type == DESC_TASK_GATE) {
		check_present(cpu, d);
		task_switch(cpu, (u16)(d->raw >> 16), source, false, 0, 0);
	} else {
		task_switch(cpu, d->selector, source, false, 0, 0);
	}
}

static void far_transfer(struct cpu *cpu, u16 selector, u64 offset, unsigned opsize, bool call)
{
	struct descriptor d;

	if (opsize == 2)
		offset &= 0xffff;
	if (cpu->mode <= CPU_V86) {
		far_real(cpu, selector, offset, opsize, call);
		return;
	}
	if (selector_is_null(selector))
		cpu_raise_gp(cpu);
	descriptor_get(cpu, selector, &d, VEC_GP, 0);
	if (desc_is_system(&d))
		far_system(cpu, &d, call);
	else if (desc_is_code(&d))
		far_code(cpu, &d, offset, opsize, call);
	else
		raise_selector(cpu, selector);
}

/* --- RET and IRET --- */

/* Code segment of a return: its RPL is the new CPL. */
static void return_code_segment(struct cpu *cpu, u16 selector, struct descriptor *cs)
{
	if (selector_is_null(selector))
		cpu_raise_gp(cpu);
	descriptor_get(cpu, selector, cs, VEC_GP, 0);
	unsigned rpl = selector & 3u;
	if (!desc_is_code(cs) || rpl < cpu->cpl)
		raise_selector(cpu, selector);
	if (desc_is_conforming(cs) ? desc_dpl(cs) > rpl : desc_dpl(cs) != rpl)
		raise_selector(cpu, selector);
	check_present(cpu, cs);
}

/* Stack segment of a return to ring cpl; a null one does for 64-bit code below ring 3. */
static struct segment return_stack_segment(struct cpu *cpu, u16 selector, unsigned cpl, bool to64)
{
	struct descriptor ss;

	if (selector_is_null(selector)) {
		if (!to64 || cpl == 3 || (selector & 3u) != cpl)
			cpu_raise_gp(cpu);
		return segment_unusable(selector, cpl);
	}
	descriptor_get(cpu, selector, &ss, VEC_GP, 0);
	if ((selector & 3u) != cpl || desc_dpl(&ss) != cpl || !desc_is_data(&ss) || !(ss.ar & SEG_AR_RW))
		raise_selector(cpu, selector);
	if (!(ss.ar & SEG_AR_P))
		cpu_raise_error(cpu, VEC_SS, selector_error(selector, 0));
	descriptor_set_accessed(cpu, &ss);
	return descriptor_segment(&ss);
}

/* SS:RSP popped by a return; SP's width is the new stack's. */
static void load_stack(struct cpu *cpu, const struct segment *ss, u64 rsp, bool to64)
{
	struct stack stack = { .sp = rsp, .mask = to64 ? ~0ULL : stack_mask(ss->ar) };
	cpu->seg[SEG_SS] = *ss;
	stack_commit(cpu, &stack);
}

static void return_real(struct cpu *cpu, struct stack *stack, u64 rip, u16 selector)
{
	if (rip > cpu->seg[SEG_CS].limit)
		cpu_raise_gp(cpu);
	stack_commit(cpu, stack);
	segment_load_real(cpu, SEG_CS, selector);
	cpu->reg[REG_RIP] = rip;
}

/* RET far, `release` more bytes of parameters. */
static void far_return(struct cpu *cpu, unsigned opsize, unsigned release)
{
	struct stack stack;
	struct descriptor cs;

	stack_current(cpu, &stack, 0);
	u64 rip = stack_pop(cpu, &stack, opsize);
	u16 selector = (u16)stack_pop(cpu, &stack, opsize);
	if (cpu->mode <= CPU_V86) {
		stack.sp += release;
		return_real(cpu, &stack, rip, selector);
		return;
	}
	return_code_segment(cpu, selector, &cs);
	unsigned cpl = selector & 3u;
	bool to64 = is_code64(cpu, &cs);
	stack.sp = (stack.sp + release) & stack.mask;
	if (cpl == cpu->cpl) {
		check_target(cpu, &cs, rip);
		descriptor_set_accessed(cpu, &cs);
		stack_commit(cpu, &stack);
		transfer_enter(cpu, &cs, cpl, rip);
		return;
	}
	u64 rsp = stack_pop(cpu, &stack, opsize);
	struct segment ss = return_stack_segment(cpu, (u16)stack_pop(cpu, &stack, opsize), cpl, to64);
	check_target(cpu, &cs, rip);
	descriptor_set_accessed(cpu, &cs);
	load_stack(cpu, &ss, rsp + release, to64);
	transfer_enter(cpu, &cs, cpl, rip);
	segment_drop_privileged(cpu, cpl);
}

/* RFLAGS bits that IRET at the current CPL takes from the stack. */
static u64 iret_flags(const struct cpu *cpu, unsigned opsize)
{
	u64 mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;
	if (opsize != 2)
		mask |= RFLAGS_RF | RFLAGS_AC | RFLAGS_ID;
	if (cpu->cpl <= cpu_iopl(cpu))
		mask |= RFLAGS_IF;
	if (cpu->cpl == 0) {
		mask |= RFLAGS_IOPL;
		if (opsize != 2)
			mask |= RFLAGS_VIF | RFLAGS_VIP;
	}
	return mask;
}

static void merge_flags(struct cpu *cpu, u64 value, u64 mask)
{
	cpu_set_rflags(cpu, (cpu_rflags(cpu) & ~mask) | (value & mask));
}

static void iret_real(struct cpu *cpu, unsigned opsize)
{
	struct stack stack;

	stack_current(cpu, &stack, 0);
	u64 rip = stack_pop(cpu, &stack, opsize);
	u16 selector = (u16)stack_pop(cpu, &stack, opsize);
	u64 flags = stack_pop(cpu, &stack, opsize);
	return_real(cpu, &stack, rip, selector);
	merge_flags(cpu, flags, iret_flags(cpu, opsize) & ~(RFLAGS_VIF | RFLAGS_VIP));
}

/* IRET inside virtual-8086 mode: SDM vol. 3, 20.3.1 and table 20-2. */
static void iret_v86(struct cpu *cpu, unsigned opsize)
{
	struct stack stack;
	u64 mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;
	bool trusted = cpu_iopl(cpu) == 3;

	if (!trusted && (!(cpu->cr4 & CR4_VME) || opsize != 2))
		cpu_raise_gp(cpu);
	stack_current(cpu, &stack, 0);
	u64 rip = stack_pop(cpu, &stack, opsize);
	u16 selector = (u16)stack_pop(cpu, &stack, opsize);
	u64 flags = stack_pop(cpu, &stack, opsize);
	if (trusted) {
		mask |= RFLAGS_IF | (opsize == 4 ? RFLAGS_RF | RFLAGS_AC | RFLAGS_ID : 0);
	} else {
		bool set = flags & RFLAGS_IF;
		if ((flags & RFLAGS_TF) || (set && (cpu->rflags_sys & RFLAGS_VIP)))
			cpu_raise_gp(cpu);
		flags = set ? flags | RFLAGS_VIF : flags & ~RFLAGS_VIF;
		mask |= RFLAGS_VIF;
	}
	return_real(cpu, &stack, rip, selector);
	merge_flags(cpu, flags, mask);
}

/* IRET from ring 0 into a virtual-8086 task: nine words, no checks but the limit of IP. */
static void iret_to_v86(struct cpu *cpu, struct stack *stack, u64 rip, u16 cs, u64 flags)
{
	static const enum seg order[] = { SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	u16 selector[ARRAY_SIZE(order)];

	u64 rsp = stack_pop(cpu, stack, 4);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		selector[i] = (u16)stack_pop(cpu, stack, 4);
	if (rip > 0xffff)
		cpu_raise_gp(cpu);
	for (unsigned i = 0; i < ARRAY_SIZE(order); i++)
		cpu->seg[order[i]] = segment_v86(selector[i]);
	cpu->seg[SEG_CS] = segment_v86(cs);
	cpu->reg[RSP] = rsp;
	cpu->reg[REG_RIP] = rip;
	cpu_set_rflags(cpu, flags);
	cpu_update_mode(cpu);
}

static void iret_task(struct cpu *cpu)
{
	if (cpu_long_mode(cpu))
		cpu_raise_gp(cpu);
	u16 link = sys_read16(cpu, (u32)cpu->seg[SEG_TR].base);
	task_switch(cpu, link, TASK_IRET, false, 0, 0);
}

static void iret_protected(struct cpu *cpu, unsigned opsize)
{
	struct stack stack;
	struct descriptor cs;

	stack_current(cpu, &stack, 0);
	u64 rip = stack_pop(cpu, &stack, opsize);
	u16 selector = (u16)stack_pop(cpu, &stack, opsize);
	u64 flags = stack_pop(cpu, &stack, opsize);
	if (opsize == 4 && (flags & RFLAGS_VM) && cpu->cpl == 0 && !cpu_long_mode(cpu)) {
		iret_to_v86(cpu, &stack, rip, selector, flags);
		return;
	}
	return_code_segment(cpu, selector, &cs);
	unsigned cpl = selector & 3u;
	bool to64 = is_code64(cpu, &cs), outer = cpl > cpu->cpl;
	struct segment ss;
	u64 rsp = 0;
	/* 64-bit mode always pops SS:RSP. */
	bool pops_stack = outer || cpu->mode == CPU_LONG;
	if (pops_stack) {
		rsp = stack_pop(cpu, &stack, opsize);
		ss = return_stack_segment(cpu, (u16)stack_pop(cpu, &stack, opsize), cpl, to64);
	}
	check_target(cpu, &cs, rip);
	descriptor_set_accessed(cpu, &cs);

	u64 mask = iret_flags(cpu, opsize);
	if (pops_stack)
		load_stack(cpu, &ss, rsp, to64);
	else
		stack_commit(cpu, &stack);
	transfer_enter(cpu, &cs, cpl, rip);
	merge_flags(cpu, flags, mask);
	if (outer)
		segment_drop_privileged(cpu, cpl);
}

/* Accessed and present, of ring cpl and of just this kind; a null selector's descriptor need not be looked at. */
static bool is_plain(const struct descriptor *d, u32 kind, unsigned cpl)
{
	const u32 all = SEG_AR_P | SEG_AR_S | SEG_AR_CODE | SEG_AR_DC | SEG_AR_ACCESSED | SEG_AR_DPL;
	u32 mask = all | (kind & SEG_AR_CODE ? SEG_AR_L | SEG_AR_DB : SEG_AR_RW);
	return (d->ar & mask) == (kind | cpl << 5) && !selector_is_null(d->selector);
}

/*
 * The common IRETQ: frame in one page, 64-bit code to 64-bit code with flat segments. Does nothing and returns false if
 * any condition fails; the long way then finds out which fault it is.
 */
static bool iret_fast(struct cpu *cpu)
{
	const u32 code64 = SEG_AR_P | SEG_AR_S | SEG_AR_CODE | SEG_AR_L | SEG_AR_ACCESSED;
	const u32 data = SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_ACCESSED;
	u64 sp = cpu->reg[RSP];
	const u8 *host = access_hit(cpu, cpu->mmu.tlb, sp, 40, false);
	struct descriptor cs, ss;
	u64 frame[5];

	if (!host || !is_canonical(cpu, sp))
		return false;
	memcpy(frame, host, sizeof(frame));
	u64 rip = frame[0], flags = frame[2], rsp = frame[3];
	u16 cs_selector = (u16)frame[1], ss_selector = (u16)frame[4];
	unsigned cpl = cs_selector & 3u;
	if (cpl < cpu->cpl || (ss_selector & 3u) != cpl || !is_canonical(cpu, rip) ||
	    !descriptor_find(cpu, cs_selector, &cs) || !is_plain(&cs, code64, cpl))
		return false;
	/* Interrupted kernels often run on a null SS. */
	bool null = selector_is_null(ss_selector) && cpl != 3;
	if (!null && (!descriptor_find(cpu, ss_selector, &ss) || !is_plain(&ss, data, cpl)))
		return false;

	bool outer = cpl > cpu->cpl;
	u64 mask = iret_flags(cpu, 8);
	if (null)
		cpu->seg[SEG_SS] = segment_unusable(ss_selector, cpl);
	else
		descriptor_unpack(&ss, &cpu->seg[SEG_SS]);
	cpu->reg[RSP] = rsp;
	transfer_enter(cpu, &cs, cpl, rip);
	merge_flags(cpu, flags, mask);
	if (outer)
		segment_drop_privileged(cpu, cpl);
	return true;
}

static void far_iret(struct cpu *cpu, unsigned opsize)
{
	if (cpu->mode == CPU_V86 && cpu_iopl(cpu) != 3 && (!(cpu->cr4 & CR4_VME) || opsize != 2))
		cpu_raise_gp(cpu);
	/* NMIs come again even if the IRET faults (SDM vol. 3, 6.7.1). */
	if (unlikely(cpu->non_root))
		cpu->hv->iret(cpu);
	else
		cpu->nmi_blocked = false;
	if (cpu->mode == CPU_REAL)
		iret_real(cpu, opsize);
	else if (cpu->mode == CPU_V86)
		iret_v86(cpu, opsize);
	else if (unlikely(cpu->rflags_sys & RFLAGS_NT))
		iret_task(cpu);
	else if (cpu->mode != CPU_LONG || opsize != 8 || !iret_fast(cpu))
		iret_protected(cpu, opsize);
}

/* --- handlers --- */

static void exec_far_immediate(struct cpu *cpu, const struct insn *insn)
{
	far_transfer(cpu, (u16)insn->imm2, insn->imm, insn->opsize, insn->cond);
}

static void exec_far_memory(struct cpu *cpu, const struct insn *insn)
{
	u64 linear = access_linear(cpu, insn, insn->opsize + 2u, MMU_READ), offset = 0;
	access_read(cpu, linear, &offset, insn->opsize, cpu->mmu.cls);
	u64 after = (linear + insn->opsize) & linear_mask(cpu);
	u16 selector = mem_read16(cpu, after);
	far_transfer(cpu, selector, offset, insn->opsize, insn->cond);
}

static void exec_far_return(struct cpu *cpu, const struct insn *insn)
{
	far_return(cpu, insn->opsize, (u16)insn->imm);
}

bool transfer_select_far(const struct decode *d, struct insn *insn)
{
	insn->flags |= INSN_ENDS;
	insn->opsize = d->zi->operand_width / 8;
	insn->cond = d->zi->mnemonic == ZYDIS_MNEMONIC_CALL;
	if (d->zi->mnemonic == ZYDIS_MNEMONIC_RET) {
		insn->exec = exec_far_return;
	} else if (d->op[0].type == ZYDIS_OPERAND_TYPE_POINTER) {
		insn->imm = d->op[0].ptr.offset;
		insn->imm2 = d->op[0].ptr.segment;
		insn->exec = exec_far_immediate;
	} else {
		insn->exec = exec_far_memory;
	}
	return true;
}

static void exec_iret(struct cpu *cpu, const struct insn *insn)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST); /* it serializes (SDM vol. 3, 9.3) */
	far_iret(cpu, insn->opsize);
}

bool select_iret(const struct decode *d, struct insn *insn)
{
	insn->flags |= INSN_ENDS;
	insn->exec = exec_iret;
	insn->opsize = d->zi->mnemonic == ZYDIS_MNEMONIC_IRETQ ? 8 : d->zi->mnemonic == ZYDIS_MNEMONIC_IRETD ? 4 : 2;
	return true;
}

/* LDS, LES, LFS, LGS, LSS: `cond` holds the segment register. */
static void exec_load_far_pointer(struct cpu *cpu, const struct insn *insn)
{
	u64 linear = access_linear(cpu, insn, insn->opsize + 2u, MMU_READ), offset = 0;
	access_read(cpu, linear, &offset, insn->opsize, cpu->mmu.cls);
	u16 selector = mem_read16(cpu, (linear + insn->opsize) & linear_mask(cpu));
	segment_load(cpu, insn->cond, selector);
	if (insn->opsize == 2)
		cpu->reg[insn->dst] = (cpu->reg[insn->dst] & ~0xffffULL) | offset;
	else
		cpu->reg[insn->dst] = offset;
}

/*
 * AMD's CPUs load 32 bits with REX.W as without it (APM vol. 3, LSS). Their JMP and CALL far have no 64-bit offsets
 * either, says the manual; but KVM gives its guests there Intel's, on which kvm-unit-tests count.
 */
bool select_load_far_pointer(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_load_far_pointer;
	insn->opsize = d->op[0].size == 64 && cpu_is_amd(d->cpu) ? 4 : (u8)(d->op[0].size / 8);
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_LDS:
		insn->cond = SEG_DS;
		break;
	case ZYDIS_MNEMONIC_LES:
		insn->cond = SEG_ES;
		break;
	case ZYDIS_MNEMONIC_LFS:
		insn->cond = SEG_FS;
		break;
	case ZYDIS_MNEMONIC_LGS:
		insn->cond = SEG_GS;
		break;
	default:
		insn->cond = SEG_SS;
		break;
	}
	if (!(d->mode_key & MODE_CODE64))
		insn->flags |= INSN_ENDS;
	return true;
}

/* INT n, INT3, INTO, INT1. */
static void exec_int_n(struct cpu *cpu, const struct insn *insn)
{
	cpu_software_interrupt(cpu, (u8)insn->imm, EVENT_SOFT_INT);
}

static void exec_int3(struct cpu *cpu, const struct insn *insn)
{
	cpu_software_interrupt(cpu, VEC_BP, EVENT_SOFT_EXC);
}

static void exec_into(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->arith & ARITH_OF)
		cpu_software_interrupt(cpu, VEC_OF, EVENT_SOFT_EXC);
}

static void exec_int1(struct cpu *cpu, const struct insn *insn)
{
	cpu_software_interrupt(cpu, VEC_DB, EVENT_PRIV_SOFT_EXC);
}

SYSTEM_SELECT_END(int_n)
SYSTEM_SELECT_END(int3)
SYSTEM_SELECT_END(into)
SYSTEM_SELECT_END(int1)
