/*
 * Near stack instructions: PUSH POP PUSHA POPA ENTER LEAVE PUSHF POPF. Stack-pointer width is that of the stack
 * segment, operand size that of the instruction; RSP changes last, so that faults leave it alone.
 */
#include "cpu/block.h"
#include "cpu/internal.h"
#include "cpu/operand.h"

/* --- the stack --- */

static u64 stack_linear(struct cpu *cpu, u64 sp, unsigned size, enum mmu_access access)
{
	if (cpu->mode_key & MODE_CODE64)
		return sp;
	if (cpu->mode_key & MODE_FLAT)
		return (u32)sp;
	return access_check_segment(cpu, SEG_SS, sp, size, access);
}

u64 near_stack_read(struct cpu *cpu, u64 sp, unsigned size)
{
	u64 linear = stack_linear(cpu, sp, size, MMU_READ);
	switch (size) {
	case 2:
		return mem_read16(cpu, linear);
	case 4:
		return mem_read32(cpu, linear);
	default:
		return mem_read64(cpu, linear);
	}
}

void near_stack_write(struct cpu *cpu, u64 sp, unsigned size, u64 value)
{
	u64 linear = stack_linear(cpu, sp, size, MMU_WRITE);
	switch (size) {
	case 2:
		mem_write16(cpu, linear, (u16)value);
		break;
	case 4:
		mem_write32(cpu, linear, (u32)value);
		break;
	default:
		mem_write64(cpu, linear, value);
	}
}

u64 near_sp(const struct cpu *cpu, i64 change)
{
	return (cpu->reg[RSP] + (u64)change) & size_mask(cpu->stack_size);
}

void near_set_sp(struct cpu *cpu, u64 sp)
{
	reg_set(cpu, RSP, cpu->stack_size, sp);
}

void near_push(struct cpu *cpu, unsigned size, u64 value)
{
	u64 sp = near_sp(cpu, -(i64)size);
	near_stack_write(cpu, sp, size, value);
	near_set_sp(cpu, sp);
}

u8 near_operand_size(const struct decode *d)
{
	bool prefix = d->zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE;
	if (d->mode_key & MODE_CODE64)
		return prefix && !d->zi->raw.rex.W ? 2 : 8;
	return (d->mode_key & MODE_CODE32) != 0 ? (prefix ? 2 : 4) : (prefix ? 4 : 2);
}

/* --- PUSH --- */

static void push64_r(struct cpu *cpu, const struct insn *insn)
{
	u64 sp = cpu->reg[RSP] - 8;
	mem_write64(cpu, sp, cpu->reg[insn->dst]);
	cpu->reg[RSP] = sp;
}

static void push64_i(struct cpu *cpu, const struct insn *insn)
{
	u64 sp = cpu->reg[RSP] - 8;
	mem_write64(cpu, sp, insn->imm);
	cpu->reg[RSP] = sp;
}

static void push64_m(struct cpu *cpu, const struct insn *insn)
{
	u64 v = get_mem64(cpu, insn), sp = cpu->reg[RSP] - 8;
	mem_write64(cpu, sp, v);
	cpu->reg[RSP] = sp;
}

static void push_r(struct cpu *cpu, const struct insn *insn)
{
	near_push(cpu, insn->opsize, cpu->reg[insn->dst]);
}

static void push_i(struct cpu *cpu, const struct insn *insn)
{
	near_push(cpu, insn->opsize, insn->imm);
}

static void push_m(struct cpu *cpu, const struct insn *insn)
{
	u64 v = insn->opsize == 2   ? get_mem16(cpu, insn)
		: insn->opsize == 4 ? get_mem32(cpu, insn)
				    : get_mem64(cpu, insn);
	near_push(cpu, insn->opsize, v);
}

static void push_sreg(struct cpu *cpu, const struct insn *insn)
{
	near_push(cpu, insn->opsize, cpu->seg[insn->dst].selector);
}

/* Intel's CPUs move 16 bits into a stack slot of 32, and out of one of any size (SDM vol. 2, PUSH). */
static void push_sreg_word(struct cpu *cpu, const struct insn *insn)
{
	u64 sp = near_sp(cpu, -4);
	near_stack_write(cpu, sp, 2, cpu->seg[insn->dst].selector);
	near_set_sp(cpu, sp);
}

static bool is_segment(const ZydisDecodedOperand *op)
{
	return op->type == OPERAND_REG && op->reg.value >= ZYDIS_REGISTER_ES && op->reg.value <= ZYDIS_REGISTER_GS;
}

bool select_push(const struct decode *d, struct insn *insn)
{
	insn->opsize = near_operand_size(d);
	bool wide = insn->opsize == 8;
	if (is_segment(&d->op[0]))
		insn->exec = insn->opsize == 4 && !cpu_is_amd(d->cpu) ? push_sreg_word : push_sreg;
	else if (operand_is(d, 0, OPERAND_REG))
		insn->exec = wide ? push64_r : push_r;
	else if (operand_is(d, 0, OPERAND_IMM))
		insn->exec = wide ? push64_i : push_i;
	else
		insn->exec = wide ? push64_m : push_m;
	return true;
}

/* --- POP --- */

static void pop64_r(struct cpu *cpu, const struct insn *insn)
{
	u64 v = mem_read64(cpu, cpu->reg[RSP]);
	cpu->reg[RSP] += 8;
	cpu->reg[insn->dst] = v;
}

static void pop_r(struct cpu *cpu, const struct insn *insn)
{
	u64 v = near_stack_read(cpu, near_sp(cpu, 0), insn->opsize);
	near_set_sp(cpu, near_sp(cpu, insn->opsize));
	reg_set(cpu, insn->dst, insn->opsize, v);
}

/* An address by RSP uses its value after the pop; if the store faults, RSP is as before. */
static void pop_m(struct cpu *cpu, const struct insn *insn)
{
	u64 v = near_stack_read(cpu, near_sp(cpu, 0), insn->opsize);
	u64 sp = near_sp(cpu, insn->opsize), linear;
	if (insn->base == RSP) {
		u64 before = cpu->reg[RSP];
		near_set_sp(cpu, sp);
		u64 ea = insn_ea(cpu, insn);
		cpu->reg[RSP] = before;
		linear = access_offset_linear(cpu, insn, ea, insn->opsize, MMU_WRITE);
	} else {
		linear = access_linear(cpu, insn, insn->opsize, MMU_WRITE);
	}
	access_write(cpu, linear, &v, insn->opsize, cpu->mmu.cls);
	near_set_sp(cpu, sp);
}

static void pop_sreg(struct cpu *cpu, const struct insn *insn)
{
	u64 v = near_stack_read(cpu, near_sp(cpu, 0), cpu_is_amd(cpu) ? insn->opsize : 2);
	u64 sp = near_sp(cpu, insn->opsize);
	unsigned width = cpu->stack_size; /* POP SS: of the old stack */
	segment_load(cpu, insn->dst, (u16)v);
	reg_set(cpu, RSP, width, sp);
	if (insn->dst == SEG_SS)
		cpu_set_shadow(cpu, SHADOW_MOV_SS);
}

bool select_pop(const struct decode *d, struct insn *insn)
{
	insn->opsize = near_operand_size(d);
	if (is_segment(&d->op[0])) {
		insn->exec = pop_sreg;
		insn->flags |= INSN_ENDS;
	} else if (operand_is(d, 0, OPERAND_REG)) {
		insn->exec = insn->opsize == 8 ? pop64_r : pop_r;
	} else {
		insn->exec = pop_m;
	}
	return true;
}

/* --- PUSHA, POPA --- */

static void exec_pusha(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	for (unsigned i = 0; i < 8; i++)
		near_stack_write(cpu, near_sp(cpu, -(i64)(size * (i + 1))), size, cpu->reg[RAX + i]);
	near_set_sp(cpu, near_sp(cpu, -(i64)(size * 8)));
}

static void exec_popa(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	u64 value[8];
	for (unsigned i = 0; i < 8; i++)
		value[7 - i] = near_stack_read(cpu, near_sp(cpu, size * i), size);
	u64 sp = near_sp(cpu, size * 8);
	for (unsigned i = 0; i < 8; i++)
		if (i != RSP)
			reg_set(cpu, i, size, value[i]);
	near_set_sp(cpu, sp);
}

/* The mnemonics name the operand size; neither exists in 64-bit mode (Zydis knows). */
static bool select_all(const struct decode *d, struct insn *insn, insn_fn exec)
{
	insn->opsize = near_operand_size(d);
	insn->exec = exec;
	return true;
}

bool select_pusha(const struct decode *d, struct insn *insn)
{
	return select_all(d, insn, exec_pusha);
}

bool select_popa(const struct decode *d, struct insn *insn)
{
	return select_all(d, insn, exec_popa);
}

/* --- ENTER, LEAVE --- */

/* SDM vol. 2, ENTER: copies level - 1 frame pointers of the enclosing frames, then the new one. */
static void exec_enter(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize, level = insn->imm2 & 31;
	u64 mask = size_mask(cpu->stack_size);
	u64 sp = near_sp(cpu, -(i64)size), bp = cpu->reg[RBP];

	near_stack_write(cpu, sp, size, bp);
	u64 frame = sp;
	for (unsigned i = 1; i < level; i++) {
		bp = (bp - size) & mask;
		u64 v = near_stack_read(cpu, bp, size);
		sp = (sp - size) & mask;
		near_stack_write(cpu, sp, size, v);
	}
	if (level) {
		sp = (sp - size) & mask;
		near_stack_write(cpu, sp, size, frame);
	}
	sp = (sp - (u16)insn->imm) & mask;
	/* The new top must be writable, though nothing is written. */
	access_probe(cpu, stack_linear(cpu, sp, size, MMU_WRITE), size, MMU_WRITE);
	reg_set(cpu, RBP, size, frame);
	near_set_sp(cpu, sp);
}

bool select_enter(const struct decode *d, struct insn *insn)
{
	return select_all(d, insn, exec_enter);
}

static void leave64(struct cpu *cpu, const struct insn *insn)
{
	u64 bp = cpu->reg[RBP];
	u64 v = mem_read64(cpu, bp);
	cpu->reg[RSP] = bp + 8;
	cpu->reg[RBP] = v;
}

static void exec_leave(struct cpu *cpu, const struct insn *insn)
{
	u64 mask = size_mask(cpu->stack_size), bp = cpu->reg[RBP] & mask;
	u64 v = near_stack_read(cpu, bp, insn->opsize);
	near_set_sp(cpu, (bp + insn->opsize) & mask);
	reg_set(cpu, RBP, insn->opsize, v);
}

bool select_leave(const struct decode *d, struct insn *insn)
{
	return select_all(d, insn, near_operand_size(d) == 8 ? leave64 : exec_leave);
}

/* --- PUSHF, POPF (SDM vol. 2; virtual-8086 extensions: vol. 3, 20.3) --- */

static void exec_pushf(struct cpu *cpu, const struct insn *insn)
{
	u64 flags = cpu_rflags(cpu) & ~(RFLAGS_VM | RFLAGS_RF);

	if (cpu->mode == CPU_V86 && cpu_iopl(cpu) < 3) {
		if (!(cpu->cr4 & CR4_VME) || insn->opsize != 2)
			cpu_raise_gp(cpu);
		flags = (flags & ~RFLAGS_IF) | RFLAGS_IOPL | (flags & RFLAGS_VIF ? RFLAGS_IF : 0);
	}
	near_push(cpu, insn->opsize, flags);
}

bool select_pushf(const struct decode *d, struct insn *insn)
{
	return select_all(d, insn, exec_pushf);
}

/* Which flags a POPF of this size may change at this privilege. */
static u64 popf_mask(const struct cpu *cpu, unsigned size)
{
	u64 mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT | RFLAGS_IF | RFLAGS_IOPL;
	if (size > 2)
		mask |= RFLAGS_AC | RFLAGS_ID | RFLAGS_RF;
	if (cpu->cpl > 0)
		mask &= ~RFLAGS_IOPL;
	if (cpu->cpl > cpu_iopl(cpu))
		mask &= ~RFLAGS_IF;
	return mask;
}

/* Virtual-8086 mode with VME and IOPL < 3: IF stands for VIF. */
static u64 popf_vme(struct cpu *cpu, u64 old, u64 popped)
{
	if ((popped & RFLAGS_TF) || ((popped & RFLAGS_IF) && (old & RFLAGS_VIP)))
		cpu_raise_gp(cpu);
	u64 mask = RFLAGS_ARITH | RFLAGS_TF | RFLAGS_DF | RFLAGS_NT;
	u64 flags = (old & ~(mask | RFLAGS_VIF)) | (popped & mask);
	return flags | (popped & RFLAGS_IF ? RFLAGS_VIF : 0);
}

static void exec_popf(struct cpu *cpu, const struct insn *insn)
{
	bool vme = cpu->mode == CPU_V86 && cpu_iopl(cpu) < 3;
	if (vme && (!(cpu->cr4 & CR4_VME) || insn->opsize != 2))
		cpu_raise_gp(cpu);
	u64 popped = near_stack_read(cpu, near_sp(cpu, 0), insn->opsize);
	u64 old = cpu_rflags(cpu), mask = popf_mask(cpu, insn->opsize);
	/* RF is always cleared. */
	u64 flags = vme ? popf_vme(cpu, old, popped) : (old & ~mask) | (popped & mask & ~RFLAGS_RF);
	near_set_sp(cpu, near_sp(cpu, insn->opsize));
	cpu_set_rflags(cpu, flags);
}

bool select_popf(const struct decode *d, struct insn *insn)
{
	insn->flags |= INSN_ENDS;
	return select_all(d, insn, exec_popf);
}
