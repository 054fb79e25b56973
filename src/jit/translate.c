/*
 * From a planned block to host code.
 */
#include "jit/translation.h"

#include "base/trace.h"

#include <string.h>

/* --- ways into cold code --- */

struct cold *add_cold(struct translation *t, u8 *from)
{
	if (t->colds == COLD_MAX) {
		t->e.overflow = true;
		return &t->cold[0];
	}
	struct cold *c = &t->cold[t->colds++];
	*c = (struct cold){ .from = from, .rsp = t->rsp };
	if (t->flags == IN_RECIPE)
		c->recipe = t->recipe;
	return c;
}

unsigned executed(const struct translation *t, const struct plan *p)
{
	return (unsigned)(plain_plan(t, p) - t->jit->plan) + 1;
}

void emit_handler_if(struct translation *t, const struct plan *p, unsigned condition)
{
	if (t->loop) {
		emit_go_on_plain_if(t, p, condition);
		return;
	}
	struct cold *c = add_cold(t, emit_jcc(&t->e, condition, NULL));
	c->kind = COLD_HANDLER;
	c->plan = plain_plan(t, p);
}

const struct plan *plain_plan(const struct translation *t, const struct plan *p)
{
	return t->loop || t->split ? t->jit->plan + (p - t->plan) : p;
}

void emit_go_on_plain_if(struct translation *t, const struct plan *p, unsigned condition)
{
	struct cold *c = add_cold(t, emit_jcc(&t->e, condition, NULL));
	c->kind = COLD_GO_ON_PLAIN;
	c->plan = plain_plan(t, p);
}

void emit_site(struct translation *t, const struct plan *p, u8 vectors, bool x87)
{
	const struct plan *end = p;
	while (end != t->plan + t->count && end->block == p->block && end->before == p->before)
		end++;
	unsigned index = (unsigned)(p->insn - p->block->insn);
	emit_mov_imm(&t->e, HOST_T1, jit_site(t->cpu, p, index + (unsigned)(end - p), vectors, x87));
}

/* Runs the handler; what the code behind wants is loaded again afterwards. */
static void emit_call_handler(struct translation *t, const struct plan *p)
{
	emit_site(t, p, p->vectors_after, p->x87_after);
	emit_call(&t->e, t->jit->stub_handler);
	if (p->vectors_after)
		emit_call(&t->e, t->jit->stub_load_vectors[p->vectors_after]);
	if (p->x87_after)
		emit_call(&t->e, t->jit->stub_load_x87);
}

/* --- cold code --- */

static void emit_cold_handler(struct translation *t, const struct cold *c)
{
	if (!c->resume) {
		emit_site(t, c->plan, VECTORS_NONE, false);
		emit_jmp(&t->e, t->jit->stub_handler_end);
		return;
	}
	emit_call_handler(t, c->plan);
	if (c->load_flags)
		emit_load_flags(t);
	emit_jmp(&t->e, c->resume);
}

static void emit_cold(struct translation *t, const struct cold *c)
{
	struct emit *e = &t->e;
	const u8 *start = e->at;
	emit_patch(e, c->from, start);
	if (c->also)
		emit_patch(e, c->also, start);
	t->flags = IN_MEMORY;
	t->recipe = (struct recipe){ 0 };
	t->rsp = c->rsp;
	settle_rsp(t);
	/* What goes back has not touched the guest's flags. */
	if (c->stack_page)
		emit_cold_stack_page(t, c);
	if (c->prediction)
		emit_cold_predict(t, c);
	if (c->kind == COLD_GO_ON_PLAIN || c->kind == COLD_PREDICT_STRETCH || c->stretch)
		emit_leave_stretch(t);
	if (c->recipe.plan)
		emit_recipe_to_memory(t, &c->recipe);
	switch (c->kind) {
	case COLD_HANDLER:
	case COLD_PREDICT:
		emit_cold_handler(t, c);
		break;
	case COLD_FORGET:
		emit_cold_forget(t, c);
		break;
	case COLD_FILL:
		emit_cold_fill(t, c);
		break;
	case COLD_PREDICT_GROUP:
	case COLD_UNGROUP:
		emit_cold_ungroup(t, c);
		break;
	case COLD_SPLIT:
	case COLD_PREDICT_SPLIT:
		emit_jmp(e, t->plain_at[c->plan - t->plan]);
		break;
	case COLD_EXIT:
		t->flags = c->save_flags ? IN_HOST : IN_MEMORY;
		if (!c->stretch)
			t->recipe = c->made;
		if (c->stretch) {
			give_up_host_flags(t, true);
			emit_rounds_done(t, c->plan);
		}
		emit_exit(t, c->plan, c->taken, c->offset);
		break;
	case COLD_UNLINKED:
		c->link->unlinked = start;
		emit_mov_imm(e, HOST_T2, (u64)((const u8 *)c->link - t->jit->writable));
		emit_jmp(e, t->jit->stub_leave_by);
		break;
	case COLD_TOO_DEEP:
		emit_load(e, HOST_RSP, HOST_CPU, CPU_FIELD(jit_stack));
		emit_jmp(e, c->back);
		break;
	case COLD_ODD_RETURN:
		emit_odd_return(t, c->plan);
		break;
	case COLD_ATTENTION:
		emit_mov_imm(e, HOST_T2, (u64)c->offset);
		emit_jmp(e, t->jit->stub_leave_at);
		break;
	case COLD_FAR:
		emit_cold_far(t, c);
		if (c->plan) {
			emit_site(t, c->plan, VECTORS_NONE, false);
			emit_jmp(e, t->jit->stub_handler_end);
			break;
		}
		emit_count(t, c->executed);
		emit_page_address(t, HOST_T0, c->far->offset);
		emit_leave(t);
		break;
	case COLD_AIM:
		emit_cold_aim(t, c);
		emit_missed_aim(t, c);
		break;
	case COLD_FAR_UNBOUND:
		emit_cold_far_unbound(t, c);
		break;
	case COLD_FAR_MISS:
		if (c->executed)
			emit_count(t, c->executed);
		emit_leave(t);
		break;
	case COLD_VECTORS:
		emit_site(t, c->plan, VECTORS_NONE, false);
		emit_call(e, t->jit->stub_enter_vectors[c->vectors]);
		emit_jmp(e, c->resume);
		break;
	case COLD_NO_STRETCH:
		emit_patch(e, c->from, t->jit->loop->end);
		break;
	case COLD_NO_CREDIT:
		emit_site(t, t->plan, VECTORS_NONE, false);
		emit_jmp(e, t->jit->stub_no_credit);
		break;
	case COLD_CROSSING:
		emit_mov_imm(e, HOST_T1, (u64)t->trace->crossing);
		emit_jmp(e, t->jit->stub_crossing);
		break;
	case COLD_GO_ON_PLAIN:
	case COLD_PREDICT_STRETCH:
		emit_rounds_done(t, c->plan);
		emit_jmp(e, t->plain_at[c->plan - t->plan]);
		break;
	case COLD_X87:
		emit_site(t, c->plan, VECTORS_NONE, false);
		emit_call(e, t->jit->stub_enter_x87);
		emit_jmp(e, c->resume);
		break;
	}
}

/* --- traces --- */

static void translate_handler(struct translation *t, const struct plan *p)
{
	give_up_host_flags(t, true);
	if (p->insn->flags & INSN_ENDS) {
		emit_site(t, p, VECTORS_NONE, false);
		emit_jmp(&t->e, t->jit->stub_handler_end);
	} else {
		emit_call_handler(t, p);
	}
}

u8 held_behind(const struct translation *t, const struct plan *p, u8 held)
{
	switch (p->kind) {
	case PLAN_PUSH:
	case PLAN_PUSH_FLAGS:
	case PLAN_POP:
	case PLAN_LEAVE:
		return p->group;
	case PLAN_COPY:
		/* Without memory a register may take T1. */
		if (p->memory && !p->known)
			return p->hoisted ? 0 : p->group;
		return uses_temporary(t, p) ? 0 : held;
	case PLAN_REENCODE:
		if (uses_temporary(t, p) || p->hoisted)
			return 0;
		return p->memory ? p->group : held;
	case PLAN_LEA:
		return address_takes_t1(t, p) ? 0 : held;
	case PLAN_NOTHING:
	case PLAN_SELECTOR:
		return held;
	case PLAN_JCC:
		return held; /* as long as the trace goes on */
	default:
		return 0;
	}
}

static void translate_instruction(struct translation *t, const struct plan *p)
{
	unsigned colds = t->colds;
	if (!may_defer_rsp(p))
		settle_rsp(t);
	flags_before(t, p);
	t->plain_at[p - t->plan] = t->e.at; /* a stretch is emitted before its plain copy */
	switch (p->kind) {
	case PLAN_HANDLER:
		translate_handler(t, p);
		break;
	case PLAN_COPY:
		translate_copy(t, p);
		break;
	case PLAN_REENCODE:
		translate_reencoded(t, p);
		break;
	case PLAN_DIVIDE:
		translate_divide(t, p);
		break;
	case PLAN_X87:
		translate_x87(t, p);
		break;
	case PLAN_BIT_STRING:
		translate_bit_string(t, p);
		break;
	case PLAN_DIRECTION:
		translate_direction(t, p);
		break;
	case PLAN_SELECTOR:
		translate_selector(t, p);
		break;
	case PLAN_SYSTEM:
		translate_system(t, p);
		break;
	case PLAN_STRING:
		translate_string(t, p);
		flags_behind(t, p);
		return; /* its handler ends the trace, for it may have to go on */
	case PLAN_NOTHING:
		break;
	case PLAN_LEA:
		translate_lea(t, p);
		break;
	case PLAN_PUSH:
		translate_push(t, p);
		break;
	case PLAN_PUSH_FLAGS:
		translate_push_flags(t, p);
		break;
	case PLAN_POP:
		translate_pop(t, p);
		break;
	case PLAN_LEAVE:
		translate_leave(t, p);
		break;
	case PLAN_JCC:
		translate_jcc(t, p);
		return;
	case PLAN_JMP:
		translate_jmp(t, p);
		return;
	case PLAN_CALL:
		translate_call(t, p);
		return;
	case PLAN_RET:
		translate_ret(t, p);
		return;
	case PLAN_RING:
		translate_ring(t, p);
		return;
	}
	flags_behind(t, p);
	/* The handler did the whole instruction; go on behind it with the flags where they are now. */
	for (; colds < t->colds; colds++) {
		t->cold[colds].resume = t->e.at;
		t->cold[colds].load_flags = (t->flags == IN_HOST || t->flags == IN_BOTH) && p->live_after;
	}
}

/* What the first instructions want loaded. Where it cannot be, the interpreter runs the block. */
static void emit_needs(struct translation *t, const struct plan *p)
{
	if (p->vectors_before) {
		struct cold *c = add_cold(t, emit_vectors_missing(t, p->vectors_before));
		c->kind = COLD_VECTORS;
		c->plan = plain_plan(t, p);
		c->vectors = p->vectors_before;
		c->resume = t->e.at;
	}
	if (p->x87_before) {
		struct cold *c = add_cold(t, emit_x87_missing(t));
		c->kind = COLD_X87;
		c->plan = plain_plan(t, p);
		c->resume = t->e.at;
	}
}

static void emit_entry(struct translation *t)
{
	struct emit *e = &t->e;
	emit_begin_predictions(t);
	if (unlikely(t->chain && t->cpu->pmu.tracked)) {
		emit_load(e, HOST_T0, HOST_CPU, CPU_FIELD(counters.instructions));
		emit_rm(e, OPCODE_WIDE(0x3b), HOST_T0, HOST_CPU, HOST_NONE, 0, CPU_FIELD(pmu.stop_at));
		emit_leave_if(t, COND_AE, t->plan->offset);
	}
	t->quiet = e->at;
	if (t->trace->crossing)
		emit_crossing(t);
	emit_needs(t, t->plan);
}

/* All instructions, with what leads on behind the last one; `at`, NULL or [count + 1], becomes where they are. */
static void translate_instructions(struct translation *t, const u8 **at)
{
	const struct plan *last = &t->plan[t->count - 1];
	for (unsigned i = 0; i < t->count; i++) {
		if (at)
			at[i] = t->e.at;
		if (t->loop && i == t->loop->round_at) {
			settle_rsp(t);
			emit_round(t, &t->plan[i]);
		}
		translate_instruction(t, &t->plan[i]);
		t->held = held_behind(t, &t->plan[i], t->held);
	}
	settle_rsp(t);
	if (!(last->insn->flags & INSN_ENDS) || last->kind == PLAN_STRING) {
		if (following(t, last) == FOLLOW_NONE)
			emit_exit(t, last, false, next_offset(last));
		else
			emit_loop(t, last);
	}
	if (at)
		at[t->count] = t->e.at;
}

/* What begins now is reached from cold code alone, which has the guest's flags in memory. */
static void begin_plain(struct translation *t)
{
	t->plan = t->jit->plan;
	t->flags = IN_MEMORY;
	t->recipe = (struct recipe){ 0 };
	t->held = 0;
}

/*
 * `loop`: the trace has stretches; or NULL. `split`: it has groups that often fail; where one does, the plain copy goes
 * on, in which each operand is checked by itself.
 */
static void translate_trace(struct translation *t, struct loop *loop, bool split)
{
	emit_entry(t);
	if (loop) {
		emit_begin_stretch(t, loop);
		translate_instructions(t, t->jit->made.at);
		emit_end_stretch(t);
		begin_plain(t);
	} else if (split) {
		t->split = true;
		t->plan = t->jit->loop->plan;
		translate_instructions(t, t->jit->made.at);
		t->split = false;
		begin_plain(t);
	}
	t->plain = t->e.at;
	translate_instructions(t, loop || split ? NULL : t->jit->made.at);
	/* Cold code may need more of it. */
	for (unsigned i = 0; i < t->colds; i++)
		emit_cold(t, &t->cold[i]);
}

/* Do its groups fail so often that a plain copy pays? */
static bool fails_often(const struct trace *trace)
{
	for (unsigned i = 0; i < trace->blocks; i++)
		if (trace->block[i]->splits && !trace->block[i]->plain)
			return true;
	return false;
}

const u8 *jit_translate(struct cpu *cpu, struct jit *jit, const struct trace *trace, unsigned first, unsigned count,
			bool chain)
{
	u8 *start = jit->writable + jit->used;
	size_t links = jit->links_start;
	struct cold cold[COLD_MAX]; /* for clearing it would take its time */
	struct translation t = {
		.cpu = cpu,
		.jit = jit,
		.trace = trace,
		.plan = &jit->plan[first],
		.count = count,
		.host = host_register,
		.chain = chain,
		.start = start,
		.e = { .at = start, .end = start + JIT_TRACE_MAX },
		.cold = cold,
	};

	if (!jit_has_room(jit, JIT_TRACE_MAX, 2 * TRACE_MAX))
		return NULL;
	struct loop *loop = trace->stretches ? jit->loop : NULL;
	bool fails = !loop && fails_often(trace), split = fails && chain;
	if (split) {
		memcpy(jit->loop->plan, jit->plan, count * sizeof(struct plan));
		jit_plan_state(jit->loop->plan, count, 1, trace->loop);
	}
	if (!loop)
		jit_plan_state(&jit->plan[first], count, fails ? NO_GROUPS : 1, chain && trace->loop);
	translate_trace(&t, loop, split);
	size_t size = (size_t)(t.e.at - start);
	bool verified = !t.e.overflow && !t.refused && jit_verify(jit, start, size, loop);
	if (!verified) {
		jit->links_start = links;
		if (!t.e.overflow && !t.refused)
			REPORT("jit: the translation of RAM offset %#llx has an instruction that must not be there; "
			       "interpreted",
			       (unsigned long long)trace->block[0]->ram_offset);
		return NULL;
	}
	jit_keep(cpu, jit, size);
	jit->predictions_used += t.predictions;
	cpu->counters.loops_hoisted += loop != NULL;
	struct jit_made *made = &jit->made;
	made->trace = trace;
	made->page = cpu->reg[REG_RIP] & PAGE_MASK;
	made->start = start;
	made->size = size;
	made->first = first;
	made->count = count;
	made->quiet = (u8)(t.quiet - start);
	made->lines = t.lines;
	jit_look(cpu, jit);
	return jit_executable(jit, start);
}
