/*
 * Which operands of a loop are checked before its rounds, and what host registers hold meanwhile.
 */
#include "jit/loop.h"
#include "jit/tracker.h"

#include <string.h>

enum {
	RANGE = 512,    /* bytes of a round that one check covers */
	STEP_MAX = 1024 /* per round; with more, a page has too few rounds */
};

static bool may_run(const struct plan *p)
{
	switch (p->kind) {
	case PLAN_COPY:
	case PLAN_REENCODE:
	case PLAN_LEA:
	case PLAN_NOTHING:
	case PLAN_JCC:
		return true;
	case PLAN_JMP:
		return p->insn->direct;
	default:
		return false;
	}
}

static void note_register(u16 *set, unsigned guest)
{
	if (guest < GPR_COUNT)
		*set |= (u16)BIT(guest);
}

/* --- how registers move: `end` is the tracker behind the round --- */

static u8 register_of(u32 root)
{
	if (root == ROOT_RIP)
		return REG_RIP;
	if (root == ROOT_ZERO)
		return REG_ZERO;
	return root < INITIAL_ROOT + GPR_COUNT ? (u8)(root - INITIAL_ROOT) : REG_SLOTS;
}

/* Per round; of a steady register. */
static i64 step_of(const struct tracker *end, u8 reg)
{
	return reg < GPR_COUNT ? end->reg[reg].offset : 0;
}

static bool is_steady(const struct tracker *end, u8 reg)
{
	return reg == REG_RIP || reg == REG_ZERO || (reg < GPR_COUNT && register_of(end->reg[reg].root) == reg);
}

/* Would it leave the bounds of 32 bits too soon? */
static bool is_too_fast(const struct tracker *end, u8 reg)
{
	i64 step = step_of(end, reg);
	return reg < GPR_COUNT && end->bounded & BIT(reg) && (step > STEP_MAX || step < -STEP_MAX);
}

/* An operand, with where it began and how its registers differ from then. */
struct operand_motion {
	struct access at;
	bool known;
	i64 base_offset, index_offset;
};

/* Follows one round; false: something in it must not be in a stretch. */
static bool follow_round(const struct plan *plan, unsigned count, struct tracker *k, struct operand_motion *o)
{
	tracker_begin(k);
	k->narrow = true;
	for (unsigned i = 0; i < count; i++) {
		const struct plan *p = &plan[i];
		const struct insn *insn = p->insn;
		if (!may_run(p))
			return false;
		o[i] = (struct operand_motion){ 0 };
		o[i].known = tracker_access(k, p, &o[i].at);
		if (o[i].known && insn->base < GPR_COUNT)
			o[i].base_offset = k->reg[insn->base].offset;
		if (o[i].known && insn->index < GPR_COUNT)
			o[i].index_offset = k->reg[insn->index].offset;
		tracker_follow(k, p);
	}
	return true;
}

/* --- what is checked beforehand --- */

/* The check that the operand would be a check of its own for; false: it moves in another way. */
static bool describe(const struct tracker *end, const struct access *a, struct hoisted *h)
{
	bool negated = a->index & NEGATED;
	u8 base = register_of(a->base), index = register_of(a->index & ~(u32)NEGATED);
	if (!is_steady(end, base) || !is_steady(end, index) || is_too_fast(end, base) || is_too_fast(end, index) ||
	    a->offset != (i32)a->offset)
		return false;
	i64 base_step = step_of(end, base), index_step = (i64)((u64)step_of(end, index) << a->scale);
	if (negated && index_step == 0 && base_step != 0)
		return false; /* HOISTED_INDEX */
	i64 step = negated ? base_step - index_step : base_step + index_step;
	if (step > STEP_MAX || step < -STEP_MAX || step & a->alignment)
		return false;
	*h = (struct hoisted){
		.base = base,
		.index = index,
		.scale = a->scale,
		.seg = a->seg,
		.negated = negated,
		.write = a->write,
		.alignment = a->alignment,
		.size = a->size,
		.low = a->offset,
		.step = (i32)step,
		.form = index == REG_ZERO && base < GPR_COUNT ? HOISTED_ADDEND
			: base_step == 0                      ? HOISTED_BASE
			: index_step == 0                     ? HOISTED_INDEX
							      : HOISTED_ADDEND,
		.host = HOST_NONE,
	};
	return true;
}

/* Takes the operand along with a check that is there already. */
static bool join(struct hoisted *h, const struct hoisted *one)
{
	if (h->base != one->base || h->index != one->index || h->scale != one->scale || h->seg != one->seg ||
	    h->negated != one->negated)
		return false;
	i64 low = h->low < one->low ? h->low : one->low;
	i64 high = h->low + h->size > one->low + one->size ? h->low + h->size : one->low + one->size;
	/* The range begins where all alignments show. */
	if (high - low > RANGE || ((h->low - low) & h->alignment) || ((one->low - low) & one->alignment))
		return false;
	h->low = low;
	h->size = (u16)(high - low);
	h->write |= one->write;
	h->alignment |= one->alignment;
	return true;
}

static bool hoist(struct loop *loop, struct plan *p, const struct hoisted *one)
{
	unsigned n = 0;
	while (n < loop->checks && !join(&loop->check[n], one))
		n++;
	if (n == loop->checks) {
		if (loop->checks == JIT_GROUPS)
			return false;
		loop->check[loop->checks++] = *one;
	}
	p->hoisted = (u8)(n + 1);
	loop->saved++;
	return true;
}

/* The displacement from what the check keeps, and the operand's other register, if any. */
static i32 displacement(const struct hoisted *h, const struct operand_motion *o, const struct insn *insn)
{
	switch (h->form) {
	case HOISTED_BASE: /* the index of a wide one is not part of what was checked */
		return (i32)(o->at.offset - (o->at.wide ? 0 : (i64)((u64)o->index_offset << o->at.scale)));
	case HOISTED_INDEX:
		return (i32)(o->at.offset - o->base_offset);
	default:
		return insn->disp;
	}
}

static void find_hoisted(struct loop *loop, const struct tracker *end, const struct operand_motion *o)
{
	struct hoisted one;
	loop->checks = loop->saved = 0;
	loop->bounded = 0;
	for (unsigned i = 0; i < loop->count; i++) {
		struct plan *p = &loop->plan[i];
		p->hoisted = 0;
		if (o[i].known && describe(end, &o[i].at, &one) && hoist(loop, p, &one))
			p->hoisted_disp = displacement(&one, &o[i], p->insn);
		if (!p->hoisted)
			continue;
		note_register(&loop->bounded, one.base);
		note_register(&loop->bounded, one.index);
	}
	loop->bounded &= end->bounded;
	for (unsigned g = 0; g < GPR_COUNT; g++) {
		i64 way = step_of(end, (u8)g) * ROUNDS_MAX;
		loop->bound_low[g] = (i32)((way < 0 ? -way : 0) - end->narrow_low[g]);
		loop->bound_high[g] = (i32)((way > 0 ? way : 0) + end->narrow_high[g]);
	}
}

/* --- registers --- */

/* Guest registers that the loop names, in whatever way. */
static u16 used_registers(struct loop *loop)
{
	u16 used = 0;
	loop->written = 0;
	for (unsigned i = 0; i < loop->count; i++) {
		const struct plan *p = &loop->plan[i];
		note_register(&used, p->insn->flags & INSN_MEM ? p->insn->base : GPR_COUNT);
		note_register(&used, p->insn->flags & INSN_MEM ? p->insn->index : GPR_COUNT);
		used |= p->named;
		loop->written |= p->written;
	}
	return used;
}

/* Does an address need a temporary although it was checked: base and index both move. */
static bool needs_address(const struct loop *loop, const struct plan *p)
{
	return p->hoisted && loop->check[p->hoisted - 1].form == HOISTED_ADDEND && p->insn->index != REG_ZERO;
}

static bool needs_temporaries(const struct loop *loop)
{
	if (loop->plan[0].live_before)
		return true; /* flags go to memory and back each round */
	for (unsigned i = 0; i < loop->count; i++) {
		const struct plan *p = &loop->plan[i];
		if ((p->memory && !p->hoisted) || needs_address(loop, p))
			return true;
	}
	return false;
}

static unsigned take(struct loop *loop, u16 *free)
{
	if (!*free)
		return HOST_NONE;
	unsigned host = (unsigned)__builtin_ctz(*free);
	*free &= (u16)(*free - 1);
	loop->lent |= (u16)BIT(host);
	return host;
}

/* false: not all guest registers in use, and checks, got one, and they need temporaries then, which are not free. */
static bool assign(struct loop *loop, u16 used, bool temporaries)
{
	u16 free = temporaries ? 0 : BIT(HOST_T0) | BIT(HOST_T1) | BIT(HOST_T2);
	bool all = true;

	loop->lent = 0;
	for (unsigned g = 0; g < GPR_COUNT; g++) {
		loop->host[g] = host_register[g];
		if (host_register[g] != HOST_NONE && !(used & BIT(g)))
			free |= (u16)BIT(host_register[g]);
	}
	for (unsigned g = 0; g < GPR_COUNT; g++)
		if (host_register[g] == HOST_NONE && used & BIT(g)) {
			loop->host[g] = (u8)take(loop, &free);
			all &= loop->host[g] != HOST_NONE;
		}
	for (unsigned n = 0; n < loop->checks; n++) {
		loop->check[n].host = (u8)take(loop, &free);
		all &= loop->check[n].host != HOST_NONE;
	}
	loop->rounds_left = (u8)take(loop, &free);
	return all || temporaries;
}

u32 loop_bases(const struct loop *loop)
{
	u32 bases = 0;
	for (unsigned n = 0; n < loop->checks; n++)
		bases |= (u32)BIT(loop->check[n].host == HOST_NONE ? HOST_T1 : loop->check[n].host);
	return bases;
}

/* --- the round's count --- */

/* The last place where no flag is wanted, neither in the stretch nor in the plain copy. */
static bool find_round_at(struct loop *loop, const struct plan *plain)
{
	for (unsigned i = loop->count; i-- > 0;) {
		const struct plan *p = &loop->plan[i];
		if (p->kind == PLAN_COPY && p->writes_flags && !p->memory && !p->live_before && !plain[i].live_before) {
			loop->round_at = i;
			return true;
		}
	}
	return false;
}

bool jit_plan_loop(struct jit *jit, const struct trace *trace)
{
	struct loop *loop = jit->loop;
	struct tracker end;
	struct operand_motion operand[TRACE_MAX];

	if (!trace->loop || trace->block[0]->unhoisted)
		return false;
	if (!follow_round(jit->plan, trace->count, &end, operand))
		return false;
	loop->count = trace->count;
	memcpy(loop->plan, jit->plan, trace->count * sizeof(struct plan));
	find_hoisted(loop, &end, operand);
	if (!loop->checks)
		return false;
	jit_plan_state(loop->plan, loop->count, loop->checks + 1, true);
	jit_plan_state(jit->plan, loop->count, NO_GROUPS, false);
	u16 used = used_registers(loop);
	if (!find_round_at(loop, jit->plan))
		return false;
	return assign(loop, used, needs_temporaries(loop)) || assign(loop, used, true);
}
