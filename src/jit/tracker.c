#include "jit/tracker.h"

static void forget(struct tracker *k, unsigned gpr)
{
	k->reg[gpr] = (struct value){ .root = ++k->last_root };
}

static void forget_all(struct tracker *k)
{
	for (unsigned i = 0; i < GPR_COUNT; i++)
		forget(k, i);
	k->era++;
}

void tracker_begin(struct tracker *k)
{
	*k = (struct tracker){ .last_root = ROOT_FIRST };
	forget_all(k);
}

/* --- addresses --- */

static struct access on_stack(const struct tracker *k, unsigned gpr, i64 offset, bool write)
{
	return (struct access){
		.base = k->reg[gpr].root,
		.offset = k->reg[gpr].offset + offset,
		.index = ROOT_ZERO,
		.era = k->era,
		.seg = SEG_FLAT,
		.size = 8,
		.write = write,
	};
}

static bool operand_access(const struct tracker *k, const struct plan *p, struct access *a)
{
	const struct insn *insn = p->insn;
	if (!p->memory || insn->flags & INSN_LOCK || p->zi.mnemonic == ZYDIS_MNEMONIC_XCHG ||
	    (p->kind != PLAN_COPY && p->kind != PLAN_REENCODE && p->kind != PLAN_X87 && p->kind != PLAN_JMP))
		return false;
	*a = (struct access){
		.base = ROOT_ZERO,
		.index = ROOT_ZERO,
		.era = k->era,
		.scale = insn->scale,
		.seg = insn->seg == SEG_FS || insn->seg == SEG_GS ? insn->seg : SEG_FLAT,
		.size = p->memory_size,
		.alignment = p->alignment,
		.write = p->memory_write,
		.offset = insn->disp,
	};
	if (insn->base == REG_RIP) {
		a->base = ROOT_RIP;
		a->offset += p->offset + insn->length;
	} else if (insn->base != REG_ZERO) {
		a->base = k->reg[insn->base].root;
		a->offset += k->reg[insn->base].offset;
	}
	if (insn->index != REG_ZERO) {
		a->index = k->reg[insn->index].root;
		a->offset += (i64)((u64)k->reg[insn->index].offset << insn->scale);
	}
	return true;
}

bool tracker_access(const struct tracker *k, const struct plan *p, struct access *a)
{
	switch (p->kind) {
	case PLAN_POP:
	case PLAN_RET:
		*a = on_stack(k, RSP, 0, false);
		return true;
	case PLAN_LEAVE:
		*a = on_stack(k, RBP, 0, false);
		return true;
	case PLAN_PUSH_FLAGS:
		*a = on_stack(k, RSP, -8, true);
		return true;
	case PLAN_PUSH:
	case PLAN_CALL:
		*a = on_stack(k, RSP, -8, true);
		return p->op[0].type != ZYDIS_OPERAND_TYPE_MEMORY;
	default:
		return operand_access(k, p, a);
	}
}

/* --- registers --- */

static bool is_gpr64(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_GPR64;
}

static void forget_written(struct tracker *k, const struct plan *p)
{
	for (unsigned i = 0; i < p->zi.operand_count; i++) {
		const ZydisDecodedOperand *op = &p->op[i];
		if (op->type != ZYDIS_OPERAND_TYPE_REGISTER || !(op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
			continue;
		ZydisRegisterClass c = ZydisRegisterGetClass(op->reg.value);
		if (c == ZYDIS_REGCLASS_GPR8 || c == ZYDIS_REGCLASS_GPR16 || c == ZYDIS_REGCLASS_GPR32 ||
		    c == ZYDIS_REGCLASS_GPR64)
			forget(k, jit_gpr_number(op));
	}
}

static bool is_gpr32(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER && ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_GPR32;
}

/* The value, taken as one of 32 bits; false: may be none. */
static bool bound(struct tracker *k, struct value v, struct value *to)
{
	if (v.root < INITIAL_ROOT || v.root >= INITIAL_ROOT + GPR_COUNT || v.offset > NARROW_MAX ||
	    v.offset < -NARROW_MAX)
		return false;
	unsigned g = v.root - INITIAL_ROOT;
	k->bounded |= (u16)BIT(g);
	if (v.offset < k->narrow_low[g])
		k->narrow_low[g] = (i32)v.offset;
	if (v.offset > k->narrow_high[g])
		k->narrow_high[g] = (i32)v.offset;
	*to = v;
	return true;
}

static bool moves_narrow(struct tracker *k, const struct plan *p)
{
	const struct insn *insn = p->insn;
	if (p->kind == PLAN_LEA) {
		if (insn->opsize != 4 || insn->base >= GPR_COUNT || insn->index != REG_ZERO)
			return false;
		struct value v = k->reg[insn->base];
		v.offset += insn->disp;
		return bound(k, v, &k->reg[jit_gpr_number(&p->op[0])]);
	}
	bool extends = p->zi.mnemonic == ZYDIS_MNEMONIC_MOVSXD || p->zi.mnemonic == ZYDIS_MNEMONIC_CDQE;
	if (p->kind != PLAN_COPY || !(is_gpr32(&p->op[0]) || (extends && is_gpr64(&p->op[0]))))
		return false;
	struct value *to = &k->reg[jit_gpr_number(&p->op[0])], v = *to;
	i64 imm = (i32)insn->imm;
	bool immediate = p->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
		v.offset += imm;
		return immediate && bound(k, v, to);
	case ZYDIS_MNEMONIC_SUB:
		v.offset -= imm;
		return immediate && bound(k, v, to);
	case ZYDIS_MNEMONIC_INC:
		v.offset++;
		return bound(k, v, to);
	case ZYDIS_MNEMONIC_DEC:
		v.offset--;
		return bound(k, v, to);
	case ZYDIS_MNEMONIC_CDQE:
		return bound(k, v, to);
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVSXD:
		return is_gpr32(&p->op[1]) && bound(k, k->reg[jit_gpr_number(&p->op[1])], to);
	default:
		return false;
	}
}

/* Adds a constant to a whole register, or copies one? Does it, then. */
static bool moves_constant(struct tracker *k, const struct plan *p)
{
	const struct insn *insn = p->insn;
	if (p->kind == PLAN_LEA) {
		if (insn->opsize != 8 || insn->base >= GPR_COUNT || insn->index != REG_ZERO)
			return false;
		struct value v = k->reg[insn->base];
		v.offset += insn->disp;
		k->reg[jit_gpr_number(&p->op[0])] = v;
		return true;
	}
	if (p->kind != PLAN_COPY || !is_gpr64(&p->op[0]))
		return false;
	struct value *to = &k->reg[jit_gpr_number(&p->op[0])];
	bool immediate = p->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && insn->imm + BIT(30) < BIT(31);
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
		to->offset += immediate ? (i64)insn->imm : 0;
		return immediate;
	case ZYDIS_MNEMONIC_SUB:
		to->offset -= immediate ? (i64)insn->imm : 0;
		return immediate;
	case ZYDIS_MNEMONIC_INC:
		to->offset++;
		return true;
	case ZYDIS_MNEMONIC_DEC:
		to->offset--;
		return true;
	case ZYDIS_MNEMONIC_MOV:
		if (is_gpr64(&p->op[1]))
			*to = k->reg[jit_gpr_number(&p->op[1])];
		return is_gpr64(&p->op[1]);
	default:
		return false;
	}
}

void tracker_follow(struct tracker *k, const struct plan *p)
{
	switch (p->kind) {
	case PLAN_HANDLER:
		forget_all(k);
		break;
	case PLAN_PUSH:
	case PLAN_PUSH_FLAGS:
	case PLAN_CALL:
		k->reg[RSP].offset -= 8;
		break;
	case PLAN_POP:
		k->reg[RSP].offset += 8;
		forget(k, p->insn->dst);
		break;
	case PLAN_LEAVE:
		k->reg[RSP] = k->reg[RBP];
		k->reg[RSP].offset += 8;
		forget(k, RBP);
		break;
	default:
		if (!moves_constant(k, p) && !(k->narrow && moves_narrow(k, p)))
			forget_written(k, p);
	}
}
