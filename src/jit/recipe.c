/*
 * Recipes: how to make the guest's flags once more.
 *
 * A check of an operand destroys the host's flags, and its rare path, which may end in a fault, wants the guest's. Most
 * instructions that make flags can make them once more when they are wanted, from what they left in their registers, as
 * long as that is there: the first operand may change by constants, as LEA, PUSH and POP make it, or have moved.
 */
#include "jit/translation.h"

/* --- which instructions --- */

/* Numbers of ADD and so on as in opcodes 80h to 83h. */
enum { ADD = 0, SUB = 5, CMP = 7 };

static bool is_low_register(const ZydisDecodedOperand *op)
{
	return jit_is_gpr(op) && !jit_is_high_byte(op->reg.value);
}

/* Do the flags follow from what the instruction leaves in its first operand alone? */
static bool is_logic(const struct plan *p)
{
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
		return true;
	case ZYDIS_MNEMONIC_TEST:
		return p->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER && p->op[0].reg.value == p->op[1].reg.value;
	default:
		return false;
	}
}

static bool is_immediate(const struct plan *p)
{
	return p->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

/* Small enough for a displacement, with what a register may change besides. */
static bool is_small(i64 constant)
{
	return constant > -(1 << 30) && constant < 1 << 30;
}

static bool is_small_immediate(const struct plan *p)
{
	return is_immediate(p) && is_small((i32)p->insn->imm);
}

static bool has_second_register(const struct plan *p)
{
	return !is_logic(p) && p->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
}

/* Another register than the first operand, and not RSP, which is settled late. */
static bool is_second_register(const struct plan *p)
{
	if (!has_second_register(p) || !is_low_register(&p->op[1]))
		return false;
	unsigned guest = jit_gpr_number(&p->op[1]);
	return guest != jit_gpr_number(&p->op[0]) && guest != RSP;
}

static bool is_recipe(const struct plan *p)
{
	if (p->kind != PLAN_COPY || p->reads_flags || !is_low_register(&p->op[0]))
		return false;
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
		return is_logic(p) || is_immediate(p) || is_second_register(p);
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		return is_small_immediate(p) || is_second_register(p);
	default:
		return is_logic(p);
	}
}

struct recipe recipe_of(const struct plan *p)
{
	if (!is_recipe(p))
		return (struct recipe){ 0 };
	return (struct recipe){ p, { (u8)jit_gpr_number(&p->op[0]), 0 }, { REG_ZERO, 0 } };
}

/* --- the recipe's registers --- */

/* Does the instruction make the low `bits` of a register those of one, perhaps the same, and a constant? */
static bool derives(const struct plan *p, unsigned bits, unsigned *to, struct kept *from)
{
	if (p->kind == PLAN_LEA && p->insn->opsize * 8u >= bits && p->insn->base < GPR_COUNT &&
	    p->insn->index == REG_ZERO) {
		*to = jit_gpr_number(&p->op[0]);
		*from = (struct kept){ p->insn->base, p->insn->disp };
		return true;
	}
	if (p->kind != PLAN_COPY || p->memory || !is_low_register(&p->op[0]) || !is_low_register(&p->op[1]) ||
	    p->op[0].size < bits || p->op[1].size < bits)
		return false;
	*to = jit_gpr_number(&p->op[0]);
	*from = (struct kept){ (u8)jit_gpr_number(&p->op[1]), 0 };
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
		return true;
	default:
		return false;
	}
}

/* What PUSH and POP add to RSP; 0: it is no such instruction. */
static i32 pushed(const struct plan *p)
{
	switch (p->kind) {
	case PLAN_PUSH:
	case PLAN_PUSH_FLAGS:
		return -8;
	case PLAN_POP:
		return p->insn->dst == RSP ? 0 : 8;
	default:
		return 0;
	}
}

static struct kept kept_plus(struct kept k, i64 plus)
{
	plus += k.plus;
	return is_small(plus) ? (struct kept){ k.reg, (i32)plus } : (struct kept){ REG_ZERO, 0 };
}

/* What keeps it behind the instruction. */
static struct kept kept_behind(struct kept k, const struct plan *p, unsigned bits)
{
	struct kept from;
	unsigned to;
	if (k.reg == REG_ZERO || !(p->written & BIT(k.reg)))
		return k;
	if (derives(p, bits, &to, &from) && to == k.reg && from.reg == k.reg)
		return kept_plus(k, from.plus);
	if (k.reg == RSP && pushed(p))
		return kept_plus(k, pushed(p));
	return (struct kept){ REG_ZERO, 0 };
}

/* Another register that has it behind the instruction, which made it of this one. */
static struct kept copied(struct kept k, const struct plan *p, unsigned bits)
{
	struct kept from;
	unsigned to;
	if (k.reg == REG_ZERO || !derives(p, bits, &to, &from) || from.reg != k.reg || to == k.reg)
		return (struct kept){ REG_ZERO, 0 };
	return kept_plus((struct kept){ (u8)to, k.plus }, from.plus);
}

struct recipe recipe_behind(const struct recipe *r, const struct plan *p)
{
	unsigned bits = r->plan->insn->opsize * 8u;
	struct kept first = kept_behind(r->first, p, bits), copy = kept_behind(r->copy, p, bits);
	if (copy.reg == REG_ZERO)
		copy = copied(r->first, p, bits);
	if (has_second_register(r->plan)) {
		struct kept second = { (u8)jit_gpr_number(&r->plan->op[1]), 0 };
		struct kept now = kept_behind(second, p, bits);
		if (now.reg != second.reg || now.plus)
			return (struct recipe){ 0 };
	}
	if (first.reg != REG_ZERO)
		return (struct recipe){ r->plan, first, copy };
	if (copy.reg != REG_ZERO)
		return (struct recipe){ r->plan, copy, { REG_ZERO, 0 } };
	return (struct recipe){ 0 };
}

/* --- making flags --- */

static struct opcode of_width(const struct plan *p, u8 opcode)
{
	unsigned size = p->insn->opsize;
	return (struct opcode){
		.byte = (u8)(opcode | (size > 1)),
		.operand16 = size == 2,
		.wide = size == 8,
		.byte_registers = true,
	};
}

static void emit_immediate(struct translation *t, const struct plan *p)
{
	unsigned size = p->insn->opsize > 4 ? 4 : p->insn->opsize;
	for (unsigned i = 0; i < size; i++)
		emit8(&t->e, (u8)(p->insn->imm >> 8 * i));
}

/* OPCODE `reg`, the second operand, a register; wherever it is, for T2 is the only temporary here. */
static void emit_with_second(struct translation *t, const struct plan *p, struct opcode o, unsigned reg)
{
	unsigned guest = jit_gpr_number(&p->op[1]), host = t->host[guest];
	if (host == HOST_NONE)
		emit_rm(&t->e, o, reg, HOST_CPU, HOST_NONE, 0, guest_offset(guest));
	else
		emit_rr(&t->e, o, reg, host);
}

/* ADD and so on of `reg` and the recipe's second operand, at its width. */
static void emit_operation(struct translation *t, const struct plan *p, unsigned n, unsigned reg)
{
	if (is_immediate(p)) {
		emit_rr(&t->e, of_width(p, 0x80), n, reg);
		emit_immediate(t, p);
	} else {
		emit_with_second(t, p, of_width(p, (u8)(n << 3 | 2)), reg);
	}
}

static void emit_test(struct translation *t, const struct plan *p, unsigned reg)
{
	if (is_immediate(p)) {
		emit_rr(&t->e, of_width(p, 0xf6), 0, reg);
		emit_immediate(t, p);
	} else {
		emit_with_second(t, p, of_width(p, 0x84), reg);
	}
}

/* What the host register of the first operand has more than the instruction left. */
static i32 first_plus(const struct translation *t, const struct recipe *r)
{
	return r->first.plus - (r->first.reg == RSP ? t->rsp : 0);
}

/* T2 = what the first operand was before ADD or SUB. */
static void emit_undo(struct translation *t, const struct recipe *r)
{
	const struct plan *p = r->plan;
	bool add = p->zi.mnemonic == ZYDIS_MNEMONIC_ADD;
	unsigned now = emit_use(t, r->first.reg, HOST_T2);
	i32 imm = is_immediate(p) ? (i32)p->insn->imm : 0;
	emit_lea(&t->e, HOST_T2, now, (add ? -imm : imm) - first_plus(t, r));
	if (!is_immediate(p))
		emit_with_second(t, p, OPCODE_WIDE(add ? 0x2b : 0x03), HOST_T2);
}

/* The host register with what the instruction left in its first operand: the guest's own, or T2. */
static unsigned emit_first(struct translation *t, const struct recipe *r)
{
	unsigned now = emit_use(t, r->first.reg, HOST_T2);
	i32 plus = first_plus(t, r);
	if (!plus)
		return now;
	emit_lea(&t->e, HOST_T2, now, -plus);
	return HOST_T2;
}

void emit_recipe(struct translation *t, const struct recipe *r)
{
	const struct plan *p = r->plan;
	if (is_logic(p)) {
		unsigned result = emit_first(t, r);
		emit_rr(&t->e, of_width(p, 0x84), result, result);
		return;
	}
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_CMP:
		emit_operation(t, p, CMP, emit_first(t, r));
		break;
	case ZYDIS_MNEMONIC_TEST:
		emit_test(t, p, emit_first(t, r));
		break;
	case ZYDIS_MNEMONIC_ADD:
		emit_undo(t, r);
		emit_operation(t, p, ADD, HOST_T2);
		break;
	default:
		emit_undo(t, r);
		emit_operation(t, p, SUB, HOST_T2);
		break;
	}
}
