/*
 * Which operands in memory share one check. Operands of a trace whose addresses differ only by small constants lie in
 * one page more often than not: the first of them checks the whole range and keeps the page's addend, and the others
 * use that, without a check and without touching the flags. Nothing between them can withdraw a translation, for
 * whatever may do that ends its trace, or is a handler, behind which no group goes on.
 *
 * To see that two addresses differ by a constant, each register is known as an unknown value (its root) and an offset.
 */
#include "jit/internal.h"

enum {
	GROUP_RANGE = 256, /* bytes; a longer range crosses a page too often */
	ROOT_RIP = 1,      /* the page's start */
	ROOT_ZERO,
	ROOT_FIRST
};

struct value {
	u32 root;
	i64 offset;
};

struct tracker {
	struct value reg[GPR_COUNT];
	u32 last_root;
	u32 era; /* counts handlers */
};

/* An operand's address: base + (index << scale) + segment base, by roots, and the constant rest. */
struct access {
	u32 base, index, era;
	u8 scale, seg, size, alignment;
	bool write;
	i64 offset;
};

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

/* false: none, or one that is checked by itself. */
static bool access_of(const struct tracker *k, const struct plan *p, struct access *a)
{
	switch (p->kind) {
	case PLAN_PUSH:
		*a = on_stack(k, RSP, -8, true);
		return true;
	case PLAN_POP:
	case PLAN_RET:
		*a = on_stack(k, RSP, 0, false);
		return true;
	case PLAN_LEAVE:
		*a = on_stack(k, RBP, 0, false);
		return true;
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

static void follow_registers(struct tracker *k, const struct plan *p)
{
	switch (p->kind) {
	case PLAN_HANDLER:
		forget_all(k);
		break;
	case PLAN_PUSH:
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
		if (!moves_constant(k, p))
			forget_written(k, p);
	}
}

/* --- groups --- */

struct candidate {
	struct plan *plan; /* NULL: no operand to share, or it has its group already */
	struct access at;
};

static bool is_alike(const struct access *a, const struct access *b)
{
	return a->base == b->base && a->index == b->index && a->era == b->era && a->seg == b->seg &&
	       (a->index == ROOT_ZERO || a->scale == b->scale);
}

/* Is what follows from the leader's alignment enough for the other? */
static bool is_aligned_with(const struct access *a, const struct access *leader)
{
	return !a->alignment || (a->alignment <= leader->alignment && !((a->offset - leader->offset) & a->alignment));
}

/* Makes a group of the first candidate and those behind it that fit; true if there are any. */
static bool make_group(struct candidate *c, unsigned count, u8 slot)
{
	const struct access first = c[0].at;
	i64 low = first.offset, high = first.offset + first.size;
	unsigned members = 1;
	bool write = first.write;

	for (unsigned i = 1; i < count; i++) {
		const struct access *a = &c[i].at;
		if (!c[i].plan || !is_alike(a, &first) || !is_aligned_with(a, &first))
			continue;
		i64 l = a->offset < low ? a->offset : low;
		l -= (l - first.offset) & first.alignment; /* the range begins where the leader's alignment shows */
		i64 h = a->offset + a->size > high ? a->offset + a->size : high;
		if (h - l > GROUP_RANGE)
			continue;
		low = l;
		high = h;
		write |= a->write;
		members++;
		c[i].plan->group = slot;
		c[i].plan = NULL;
	}
	if (members == 1)
		return false;
	c[0].plan->group = slot;
	c[0].plan->leads = true;
	c[0].plan->group_low = (i32)(low - first.offset);
	c[0].plan->group_size = (u16)(high - low);
	c[0].plan->group_write = write;
	return true;
}

void jit_plan_groups(struct plan *plan, unsigned count)
{
	struct candidate c[TRACE_MAX];
	struct tracker k = { .last_root = ROOT_FIRST };

	forget_all(&k);
	for (unsigned i = 0; i < count; i++) {
		struct plan *p = &plan[i];
		p->group = 0;
		p->leads = false;
		c[i] = (struct candidate){ 0 };
		if (access_of(&k, p, &c[i].at) && !p->block->plain)
			c[i].plan = p;
		follow_registers(&k, p);
	}
	for (unsigned i = 0, slot = 1; i < count && slot <= JIT_GROUPS; i++)
		if (c[i].plan && make_group(&c[i], count - i, (u8)slot))
			slot++;
}
