/*
 * PUSH, POP, LEAVE, and how far RSP is yet to be moved by them.
 */
#include "jit/translation.h"

void emit_adjust_rsp(struct translation *t, i32 change)
{
	emit_lea(&t->e, t->host[RSP], t->host[RSP], change);
}

void settle_rsp(struct translation *t)
{
	if (t->rsp)
		emit_adjust_rsp(t, t->rsp);
	t->rsp = 0;
}

/* Behind a push or pop. Nobody looks at RSP between those of a group, for only its leader can fault. */
static void move_rsp(struct translation *t, const struct plan *p, i32 change)
{
	t->rsp += change;
	if (!p->group)
		settle_rsp(t);
}

bool may_defer_rsp(const struct plan *p)
{
	bool follows = jit_follows(p);
	switch (p->kind) {
	case PLAN_PUSH:
		return follows && !(jit_is_gpr(&p->op[0]) && jit_gpr_number(&p->op[0]) == RSP);
	case PLAN_POP:
		return follows && p->insn->dst != RSP;
	case PLAN_RET:
		return follows;
	case PLAN_COPY:
		return (!p->memory || follows) && !(p->named & BIT(RSP));
	case PLAN_LEA:
		return !(p->named & BIT(RSP)) && p->insn->base != RSP;
	case PLAN_NOTHING:
		return true;
	default:
		return false;
	}
}

/* PUSH of memory: each operand is checked by itself, and what was read waits in the place of RIP for the second. */
static void translate_push_memory(struct translation *t, const struct plan *p)
{
	emit_load_place(t, HOST_T0, emit_place(t, p));
	emit_store(&t->e, HOST_T0, HOST_CPU, guest_offset(REG_RIP));
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], -8, true);
	emit_load(&t->e, HOST_T2, HOST_CPU, guest_offset(REG_RIP));
	emit_store_place(t, HOST_T2, m);
	emit_adjust_rsp(t, -8);
}

void translate_push(struct translation *t, const struct plan *p)
{
	if (p->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
		translate_push_memory(t, p);
		return;
	}
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], -8, true);
	if (p->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		emit_rm(&t->e, OPCODE_WIDE(0xc7), 0, m.base, m.index, m.scale, m.disp);
		emit32(&t->e, (u32)p->insn->imm);
	} else {
		emit_store_place(t, emit_use(t, p->insn->dst, HOST_T2), m);
	}
	move_rsp(t, p, -8);
}

/* The image has RF and VM clear (SDM vol. 2, PUSHF). */
void translate_push_flags(struct translation *t, const struct plan *p)
{
	give_up_host_flags(t, true);
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], -8, true);
	emit_rflags(t, ~(i32)(RFLAGS_RF | RFLAGS_VM));
	emit_store_place(t, HOST_T2, m);
	emit_adjust_rsp(t, -8);
}

void translate_pop(struct translation *t, const struct plan *p)
{
	unsigned guest = p->insn->dst, host = t->host[guest];
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], 0, false);
	emit_load_place(t, host == HOST_NONE ? HOST_T0 : host, m);
	if (guest != RSP)
		move_rsp(t, p, 8);
	if (host == HOST_NONE)
		emit_store(&t->e, HOST_T0, HOST_CPU, guest_offset(guest));
}

void translate_leave(struct translation *t, const struct plan *p)
{
	struct place_in_memory m = emit_stack(t, p, t->host[RBP], 0, false);
	emit_lea(&t->e, t->host[RSP], t->host[RBP], 8);
	emit_load_place(t, t->host[RBP], m);
}
