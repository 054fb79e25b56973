/*
 * Jumps, calls and returns.
 */
#include "jit/translation.h"

static bool is_last(const struct translation *t, const struct plan *p)
{
	return p == t->plan + t->count - 1;
}

enum follow following(const struct translation *t, const struct plan *p)
{
	return is_last(t, p) && !(t->chain && t->trace->loop) ? FOLLOW_NONE : p->follow;
}

/* By the jump whose displacement is at `from`. */
static void add_exit(struct translation *t, const struct plan *p, u8 *from, bool taken, i64 offset)
{
	struct cold *c = add_cold(t, from);
	c->kind = COLD_EXIT;
	c->plan = plain_plan(t, p);
	c->stretch = t->loop;
	c->taken = taken;
	c->offset = offset;
	c->save_flags = t->flags == IN_HOST;
	c->made = t->recipe;
}

/* LOOP and JRCXZ, which neither want flags nor change any: a jump if the branch is, or is not, taken. */
static u8 *emit_count_branch(struct translation *t, const struct plan *p, bool taken)
{
	enum { JMP8 = 2, JMP32 = 5 }; /* bytes */
	struct emit *e = &t->e;
	bool loop = p->zi.mnemonic == ZYDIS_MNEMONIC_LOOP, if_zero = loop != taken;

	if (loop)
		emit_lea(e, HOST_RCX, HOST_RCX, -1);
	emit8(e, 0xe3); /* JRCXZ reaches near code only */
	emit8(e, if_zero ? JMP8 : JMP32);
	if (if_zero) {
		emit8(e, 0xeb);
		emit8(e, JMP32);
	}
	return emit_jmp(e, NULL);
}

/* Behind a conditional branch, on the way that the trace goes. */
static void go_on(struct translation *t, const struct plan *p)
{
	if (!is_last(t, p))
		emit_count_passed(t);
	else if (following(t, p) == FOLLOW_NONE)
		emit_exit(t, p, false, next_offset(p));
	else
		emit_loop(t, p);
}

void translate_jcc(struct translation *t, const struct plan *p)
{
	bool taken = following(t, p) != FOLLOW_TARGET; /* is the exit? */
	i64 offset = taken ? target_offset(p) : next_offset(p);

	if (jit_is_count_branch(p)) {
		add_exit(t, p, emit_count_branch(t, p, taken), taken, offset);
		go_on(t, p);
		return;
	}
	unsigned leaves = (p->zi.opcode & 15) ^ !taken;
	need_host_flags(t);
	if (t->loop && is_last(t, p) && !t->plan->live_before) {
		/* Nothing is to be done between two rounds. */
		emit_jcc(&t->e, leaves ^ 1, t->loop->start);
		add_exit(t, p, emit_jmp(&t->e, NULL), taken, offset);
		return;
	}
	add_exit(t, p, emit_jcc(&t->e, leaves, NULL), taken, offset);
	go_on(t, p);
}

/* T0 = where a JMP or CALL through a register or memory goes. */
static void emit_pointer(struct translation *t, const struct plan *p)
{
	if (p->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
		emit_load_place(t, HOST_T0, emit_place(t, p));
	} else {
		emit_mov(&t->e, HOST_T0, emit_use(t, p->insn->dst, HOST_T0));
	}
}

void translate_jmp(struct translation *t, const struct plan *p)
{
	if (p->insn->direct) {
		if (following(t, p) == FOLLOW_NONE)
			emit_exit(t, p, true, target_offset(p));
		else if (is_last(t, p))
			emit_loop(t, p);
		else
			emit_count_passed(t);
		return;
	}
	give_up_host_flags(t, true);
	emit_pointer(t, p);
	const struct cold *aim = emit_aim(t, p);
	if (aim) {
		emit_count(t, executed(t, p));
		emit_far_branch(t, aim->far, false, false);
		return;
	}
	emit_lookup(t, p, 0);
	emit_go_far(t, p);
}

/*
 * A CALL is a call of the host's, so that the host predicts its return. Above the host's return address lies the
 * guest's; RET compares it with what is on the guest's stack, and if they are the same returns to behind the call, from
 * where a link leads on. T2 = the guest's return address.
 */
static void emit_open_call(struct translation *t)
{
	struct emit *e = &t->e;
	emit_rr(e, (struct opcode){ .byte = 0xf7 }, 0, HOST_RSP);
	emit32(e, CALLS_ROOM);
	struct cold *c = add_cold(t, emit_jcc(e, COND_Z, NULL));
	c->kind = COLD_TOO_DEEP;
	c->back = e->at;
	emit_push(e, HOST_T2);
}

/*
 * Where RET leads: T0 = the guest's return address. While the call was open the MMU's stamp has not changed, so the
 * page's predictions are as good as at the call; and attention is looked at by calls that lead backwards, or out of the
 * page: without them there is an end to returns.
 */
static void emit_landing(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	i64 offset = next_offset(p);
	emit_lea(e, HOST_RSP, HOST_RSP, 8);
	if (!is_in_page(offset)) {
		emit_lookup(t, NULL, 0);
		emit_enter_far(t, 4);
		return;
	}
	emit_enter_page(t);
	emit_link(t, offset, false, has_quiet_links(t));
}

/*
 * T2 = the return address, which goes to the guest's stack. The instruction is done but for the jump. `from_t0`: T0 is
 * the page.
 */
static void emit_push_return(struct translation *t, const struct plan *p, bool from_t0)
{
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], -8, true);
	if (from_t0)
		emit_lea(&t->e, HOST_T2, HOST_T0, (i32)next_offset(p));
	else
		emit_page_address(t, HOST_T2, next_offset(p));
	emit_store_place(t, HOST_T2, m);
	emit_adjust_rsp(t, -8);
	if (t->chain)
		emit_count(t, executed(t, p));
}

/*
 * A call to T0. Until the return address is pushed, where it goes, the entry of the jump cache, waits in T0; or, if
 * that means a check, in the place of RIP.
 */
static void emit_call_by_lookup(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	bool unchecked = jit_follows(p);
	emit_lookup(t, p, 0);
	t->held = 0; /* all this used T1 */
	if (unchecked)
		emit_mov(e, HOST_T0, HOST_T1);
	else
		emit_store(e, HOST_T1, HOST_CPU, guest_offset(REG_RIP));
	emit_push_return(t, p, false);
	emit_open_call(t);
	if (unchecked)
		emit_mov(e, HOST_T1, HOST_T0);
	else
		emit_load(e, HOST_T1, HOST_CPU, guest_offset(REG_RIP));
	emit_load(e, HOST_T0, HOST_T1, offsetof(struct jump_entry, linear));
	emit_enter_far(t, 2);
}

static void translate_indirect_call(struct translation *t, const struct plan *p)
{
	emit_pointer(t, p);
	struct cold *aim = emit_aim(t, p);
	if (!aim) {
		emit_call_by_lookup(t, p);
		return;
	}
	t->held = 0; /* cold code that comes back used T1 */
	emit_push_return(t, p, false);
	emit_open_call(t);
	emit_far_branch(t, aim->far, true, false);
	aim->resume = t->e.at;
}

void emit_missed_aim(struct translation *t, const struct cold *c)
{
	if (c->plan->kind == PLAN_CALL) {
		emit_call_by_lookup(t, c->plan);
		emit_jmp(&t->e, c->resume);
	} else {
		emit_lookup(t, c->plan, 0);
		emit_go_far(t, c->plan);
	}
}

/* A call that leads back looks at attention for the trace that it leads to. */
static void translate_near_call(struct translation *t, const struct plan *p, i64 target)
{
	bool quiet = has_quiet_links(t);
	emit_push_return(t, p, false);
	if (quiet && target <= p->offset)
		emit_leave_for_attention(t, target);
	emit_open_call(t);
	emit_link(t, target, true, quiet);
}

/* Calls are left for their targets alone by the checker's fragments. */
static void translate_lone_call(struct translation *t, const struct plan *p)
{
	if (p->insn->direct)
		emit_page_address(t, HOST_T0, target_offset(p));
	else
		emit_pointer(t, p);
	emit_canonical(t, p);
	emit_store(&t->e, HOST_T0, HOST_CPU, guest_offset(REG_RIP));
	t->held = 0;
	emit_push_return(t, p, false);
	emit_load(&t->e, HOST_T0, HOST_CPU, guest_offset(REG_RIP));
	emit_go_far(t, p);
}

void translate_call(struct translation *t, const struct plan *p)
{
	i64 target = target_offset(p);

	give_up_host_flags(t, true);
	if (!t->chain) {
		translate_lone_call(t, p);
		return;
	}
	if (!p->insn->direct) {
		translate_indirect_call(t, p);
	} else if (is_in_page(target)) {
		translate_near_call(t, p, target);
	} else {
		struct jit_far *far = emit_far_check(t, p, 0, target);
		bool from_t0 = jit_follows(p); /* without a check nothing changes it */
		t->held = 0;
		emit_push_return(t, p, from_t0);
		emit_open_call(t);
		emit_far_branch(t, far, true, from_t0);
	}
	emit_landing(t, p);
}

void translate_ret(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	give_up_host_flags(t, true);
	emit_load_place(t, HOST_T0, emit_stack(t, p, t->host[RSP], 0, false));
	if (!t->chain) {
		settle_rsp(t);
		emit_canonical(t, p);
		emit_adjust_rsp(t, 8 + (u16)p->insn->imm);
		emit_go_far(t, p);
		return;
	}
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_T0, HOST_RSP, HOST_NONE, 0, 8);
	struct cold *c = add_cold(t, emit_jcc(e, COND_NZ, NULL));
	c->kind = COLD_ODD_RETURN;
	c->plan = plain_plan(t, p);
	t->rsp += 8 + (u16)p->insn->imm;
	settle_rsp(t);
	emit_count(t, executed(t, p));
	emit8(e, 0xc3);
}

void emit_odd_return(struct translation *t, const struct plan *p)
{
	emit_load(&t->e, HOST_RSP, HOST_CPU, CPU_FIELD(jit_stack));
	emit_lookup(t, p, 0);
	emit_adjust_rsp(t, 8 + (u16)p->insn->imm);
	emit_go_far(t, p);
}
