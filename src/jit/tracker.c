#include "jit/tracker.h"

enum {
	WIDE_MAX = 64,         /* bytes that a small index moves an operand by */
	CONSTANT_MAX = 1 << 30 /* and not much more when others are added */
};

static void set(struct tracker *k, unsigned gpr, struct value v)
{
	k->reg[gpr] = v;
	k->most[gpr] = UNBOUNDED;
	k->most_low[gpr] = UINT8_MAX;
}

static void forget(struct tracker *k, unsigned gpr)
{
	set(k, gpr, (struct value){ .root = ++k->last_root });
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
	if (insn->index == REG_ZERO)
		return true;
	struct value index = k->reg[insn->index];
	u32 spread = (u32)k->most[insn->index] << insn->scale;
	if (index.root != ROOT_ZERO && spread <= WIDE_MAX) {
		a->size = (u8)(a->size + spread);
		a->wide = true;
		return true;
	}
	a->index = index.root;
	a->offset += (i64)((u64)index.offset << insn->scale);
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

/* `first`: RAX or EAX, of that width. */
static bool is_gpr_of(const ZydisDecodedOperand *op, ZydisRegister first)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= first && op->reg.value < first + GPR_COUNT;
}

static void forget_written(struct tracker *k, const struct plan *p)
{
	for (u16 written = p->written; written; written &= (u16)(written - 1))
		forget(k, (unsigned)__builtin_ctz(written));
}

/* An instruction that leaves a register with the value of one plus a constant. */
struct step {
	unsigned to, from;
	i64 plus;
	bool narrow; /* to 32 bits, or of them */
};

static bool step_by_lea(const struct plan *p, struct step *s)
{
	const struct insn *insn = p->insn;
	if (insn->opsize < 4 || insn->base >= GPR_COUNT || insn->index != REG_ZERO)
		return false;
	*s = (struct step){ jit_gpr_number(&p->op[0]), insn->base, insn->disp, insn->opsize == 4 };
	return true;
}

static bool step_of(const struct plan *p, struct step *s)
{
	if (p->kind == PLAN_LEA)
		return step_by_lea(p, s);
	bool whole = is_gpr_of(&p->op[0], ZYDIS_REGISTER_RAX);
	if (p->kind != PLAN_COPY || !(whole || is_gpr_of(&p->op[0], ZYDIS_REGISTER_EAX)))
		return false;
	unsigned to = jit_gpr_number(&p->op[0]);
	i64 imm = whole ? (i64)p->insn->imm : (i32)p->insn->imm;
	bool immediate = p->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && (!whole || p->insn->imm + BIT(30) < BIT(31));
	*s = (struct step){ to, to, 0, !whole };
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_ADD:
		s->plus = imm;
		return immediate;
	case ZYDIS_MNEMONIC_SUB:
		s->plus = -imm;
		return immediate;
	case ZYDIS_MNEMONIC_INC:
		s->plus = 1;
		return true;
	case ZYDIS_MNEMONIC_DEC:
		s->plus = -1;
		return true;
	case ZYDIS_MNEMONIC_CDQE:
		s->narrow = true;
		return true;
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVSXD:
		s->narrow = !whole || p->zi.mnemonic == ZYDIS_MNEMONIC_MOVSXD;
		if (!is_gpr_of(&p->op[1], s->narrow ? ZYDIS_REGISTER_EAX : ZYDIS_REGISTER_RAX))
			return false;
		s->from = jit_gpr_number(&p->op[1]);
		return true;
	default:
		return false;
	}
}

/* The value, taken as one of 32 bits; false: may be none. */
static bool bound(struct tracker *k, struct value v)
{
	if (v.root == ROOT_ZERO)
		return v.offset >= 0 && v.offset <= INT32_MAX;
	if (!k->narrow || v.root < INITIAL_ROOT || v.root >= INITIAL_ROOT + GPR_COUNT || v.offset > NARROW_MAX ||
	    v.offset < -NARROW_MAX)
		return false;
	unsigned g = v.root - INITIAL_ROOT;
	k->bounded |= (u16)BIT(g);
	if (v.offset < k->narrow_low[g])
		k->narrow_low[g] = (i32)v.offset;
	if (v.offset > k->narrow_high[g])
		k->narrow_high[g] = (i32)v.offset;
	return true;
}

/* Adds a constant to a register, or copies one? Does it, then. */
static bool moves_constant(struct tracker *k, const struct plan *p)
{
	struct step s;
	if (!step_of(p, &s))
		return false;
	struct value v = k->reg[s.from];
	v.offset += s.plus;
	if (s.narrow && !bound(k, v))
		return false;
	set(k, s.to, v);
	return true;
}

/* Are both operands the same register? What else an operand may be is numbered in the same place. */
static bool is_with_itself(const struct plan *p)
{
	return p->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER && p->op[0].reg.value == p->op[1].reg.value;
}

/* Sets a whole register to a constant that does not depend on the code's place? Notes that, then. */
static bool sets_constant(struct tracker *k, const struct plan *p)
{
	bool whole = is_gpr_of(&p->op[0], ZYDIS_REGISTER_RAX);
	if (p->kind != PLAN_COPY || !(whole || is_gpr_of(&p->op[0], ZYDIS_REGISTER_EAX)))
		return false;
	i64 value = 0;
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_SUB:
		if (!is_with_itself(p))
			return false;
		break;
	case ZYDIS_MNEMONIC_MOV:
		value = whole ? (i64)p->insn->imm : (i64)(u32)p->insn->imm;
		if (p->op[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE || value > CONSTANT_MAX || value < -CONSTANT_MAX)
			return false;
		break;
	default:
		return false;
	}
	set(k, jit_gpr_number(&p->op[0]), (struct value){ ROOT_ZERO, value });
	return true;
}

static struct value negated(struct value v)
{
	return (struct value){ v.root == ROOT_ZERO ? v.root : v.root ^ NEGATED, -v.offset };
}

/* Is the register behind the instruction something known less one value? Notes that, then. */
static bool turns_round(struct tracker *k, const struct plan *p)
{
	if (p->kind != PLAN_COPY || !is_gpr_of(&p->op[0], ZYDIS_REGISTER_RAX))
		return false;
	unsigned to = jit_gpr_number(&p->op[0]);
	struct value v = k->reg[to];
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_NEG:
		v = negated(v);
		break;
	case ZYDIS_MNEMONIC_NOT:
		v = negated(v);
		v.offset--;
		break;
	case ZYDIS_MNEMONIC_SUB:
		if (v.root != ROOT_ZERO || !is_gpr_of(&p->op[1], ZYDIS_REGISTER_RAX))
			return false;
		v = negated(k->reg[jit_gpr_number(&p->op[1])]);
		v.offset += k->reg[to].offset;
		break;
	default:
		return false;
	}
	set(k, to, v);
	return true;
}

/* --- small values --- */

static bool is_low_byte(const ZydisDecodedOperand *op)
{
	return jit_is_gpr(op) && op->reg.value < ZYDIS_REGISTER_AX && !jit_is_high_byte(op->reg.value);
}

/* What the instruction leaves in the lowest byte of its first operand, at most. */
static u8 most_of_low_byte(const struct tracker *k, const struct plan *p)
{
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_XOR:
		return is_with_itself(p) ? 0 : UINT8_MAX;
	case ZYDIS_MNEMONIC_AND:
		return p->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? (u8)p->insn->imm : UINT8_MAX;
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
		return is_low_byte(&p->op[1]) || (jit_is_gpr(&p->op[1]) && p->op[1].size > 8)
			       ? k->most_low[jit_gpr_number(&p->op[1])]
			       : UINT8_MAX;
	default:
		return p->zi.mnemonic >= ZYDIS_MNEMONIC_SETB && p->zi.mnemonic <= ZYDIS_MNEMONIC_SETZ ? 1 : UINT8_MAX;
	}
}

/* Is all but the lowest byte of the first operand's register 0 behind the instruction? */
static bool leaves_low_byte_alone(const struct tracker *k, const struct plan *p)
{
	const ZydisDecodedOperand *to = &p->op[0], *from = &p->op[1];
	if (to->size < 32)
		return is_low_byte(to) && k->most[jit_gpr_number(to)] <= UINT8_MAX;
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_XOR:
		return is_with_itself(p);
	case ZYDIS_MNEMONIC_AND:
		return from->type == ZYDIS_OPERAND_TYPE_IMMEDIATE && p->insn->imm <= UINT8_MAX;
	case ZYDIS_MNEMONIC_MOV:
		return jit_is_gpr(from) && k->most[jit_gpr_number(from)] <= UINT8_MAX;
	case ZYDIS_MNEMONIC_MOVZX:
		return from->size == 8;
	default:
		return false;
	}
}

/* What is known of the register behind the instruction, which is yet to be followed; GPR_COUNT: nothing new. */
struct small {
	unsigned gpr;
	u16 most;
	u8 most_low;
};

static struct small small_behind(const struct tracker *k, const struct plan *p)
{
	const ZydisDecodedOperand *to = &p->op[0];
	if (p->kind != PLAN_COPY || !jit_is_gpr(to) || !(to->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) ||
	    (to->size < 32 && !is_low_byte(to)))
		return (struct small){ .gpr = GPR_COUNT };
	u8 low = most_of_low_byte(k, p);
	return (struct small){ jit_gpr_number(to), leaves_low_byte_alone(k, p) ? low : UNBOUNDED, low };
}

static void follow_registers(struct tracker *k, const struct plan *p)
{
	struct small small = small_behind(k, p);
	if (!moves_constant(k, p) && !sets_constant(k, p) && !turns_round(k, p))
		forget_written(k, p);
	if (small.gpr < GPR_COUNT) {
		k->most[small.gpr] = small.most;
		k->most_low[small.gpr] = small.most_low;
	}
	if (jit_changes_spaces(p))
		k->era++;
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
		follow_registers(k, p);
	}
}

void tracker_load(struct tracker *k, const struct plan *p, unsigned from)
{
	struct value v = k->reg[from];
	tracker_follow(k, p);
	if (p->zi.mnemonic == ZYDIS_MNEMONIC_MOV && is_gpr_of(&p->op[0], ZYDIS_REGISTER_RAX))
		k->reg[jit_gpr_number(&p->op[0])] = v;
}
