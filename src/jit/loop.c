/*
 * Code of stretches: loop.h.
 */
#include "jit/loop.h"
#include "jit/translation.h"

enum {
	/* What setting a stretch up costs, and what a check that is not needed saves, in instructions. */
	COST = 22,
	COST_OF_CHECK = 16,
	SAVING = 6
};

/* Rounds of which a stretch must have more, on average, to pay. */
static i32 cost_of(const struct loop *loop)
{
	return (i32)(1 + (COST + COST_OF_CHECK * loop->checks) / (SAVING * loop->saved));
}

/* A jump to behind the stretch, for there can be none. */
static void emit_plain_if(struct translation *t, unsigned condition)
{
	add_cold(t, emit_jcc(&t->e, condition, NULL))->kind = COLD_NO_STRETCH;
}

/* --- before the stretch: guest registers are where they are elsewhere, those that lend theirs in memory as well --- */

/* May what is kept there be made there, beside the temporaries? */
static bool is_made_in_place(u8 host)
{
	return host != HOST_NONE && host != HOST_T0 && host != HOST_T1 && host != HOST_T2;
}

/* Loses credit; without any, the loop is translated again without stretches. */
static void emit_pay(struct translation *t, const struct loop *loop)
{
	struct block *head = t->trace->block[0];
	emit_mov_imm(&t->e, HOST_T0, (u64)&head->stretch_credit);
	emit_rm(&t->e, OPCODE_WIDE(0x81), 5, HOST_T0, HOST_NONE, 0, 0);
	emit32(&t->e, (u32)cost_of(loop));
	add_cold(t, emit_jcc(&t->e, COND_S, NULL))->kind = COLD_NO_CREDIT;
}

/* T0 -= index << scale. Uses T1. */
static void emit_subtract_index(struct translation *t, const struct hoisted *h)
{
	struct emit *e = &t->e;
	emit_mov(e, HOST_T1, emit_use(t, h->index, HOST_T1));
	emit_shift(e, 4, true, HOST_T1, h->scale);
	emit_rr(e, OPCODE_WIDE(0x29), HOST_T1, HOST_T0);
}

/* T0 = where the check's operands begin in the first round. Uses T1. */
static void emit_first(struct translation *t, const struct hoisted *h)
{
	if (h->base == REG_RIP) {
		emit_page_address(t, HOST_T0, h->low);
	} else {
		bool added = h->index != REG_ZERO && !h->negated;
		unsigned base = h->base == REG_ZERO ? HOST_NONE : emit_use(t, h->base, HOST_T0);
		unsigned index = added ? emit_use(t, h->index, HOST_T1) : HOST_NONE;
		emit_rm(&t->e, OPCODE_WIDE(0x8d), HOST_T0, base, index, h->scale, (i32)h->low);
		if (h->negated)
			emit_subtract_index(t, h);
	}
	emit_add_segment(t, HOST_T0, h->seg);
}

/* T2 /= n, for numbers to 2^13 and n to 2^10: times 2^24 / n, rounded up, is right for these. */
static void emit_divide(struct emit *e, u32 n)
{
	if (n & (n - 1)) {
		emit_rr(e, OPCODE_WIDE(0x69), HOST_T2, HOST_T2);
		emit32(e, (1u << 24) / n + 1);
		n = 1u << 24;
	}
	emit_shift(e, 5, true, HOST_T2, (u8)__builtin_ctz(n));
}

/* From T0, how many rounds stay in the page: (bytes to its end, or beginning) / step + 1. Uses T2. */
static void emit_rounds(struct translation *t, const struct hoisted *h)
{
	struct emit *e = &t->e;
	u32 step = (u32)(h->step < 0 ? -h->step : h->step);

	emit_rr(e, (struct opcode){ .byte = 0x89 }, HOST_T0, HOST_T2);
	if (h->step > 0)
		emit_rr(e, (struct opcode){ .byte = 0xf7 }, 2, HOST_T2);
	emit_alu_imm(e, 4, false, HOST_T2, PAGE_SIZE - 1);
	emit_alu_imm(e, 0, false, HOST_T2, h->step > 0 ? h->step + 1 - h->size : -h->step);
	emit_divide(e, step);
	u8 rounds = t->jit->loop->rounds_left;
	if (is_made_in_place(rounds)) {
		emit_rr(e, OPCODE_WIDE(0x3b), HOST_T2, rounds);
		emit_rr(e, (struct opcode){ .byte = 0x42, .map = 1, .wide = true }, rounds, HOST_T2);
		return;
	}
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(jit_rounds));
	emit_rm(e, (struct opcode){ .byte = 0x47, .map = 1, .wide = true }, HOST_T2, HOST_CPU, HOST_NONE, 0,
		CPU_FIELD(jit_rounds));
	emit_store(e, HOST_T2, HOST_CPU, CPU_FIELD(jit_rounds));
}

/* T1 = TLB entry: what the check keeps, to its register, or to cpu->jit_addend[]. */
static void emit_keep(struct translation *t, const struct hoisted *h, unsigned check)
{
	struct emit *e = &t->e;
	unsigned to = is_made_in_place(h->host) ? h->host : HOST_T1;
	emit_load(e, to, HOST_T1, offsetof(struct tlb_entry, addend));
	emit_add_segment(t, to, h->seg);
	if (h->form == HOISTED_BASE && h->base == REG_RIP)
		emit_add_to(&t->e, to, CPU_FIELD(jit_page));
	else if (h->form == HOISTED_BASE && h->base != REG_ZERO)
		emit_rr(e, OPCODE_WIDE(0x03), to, emit_use(t, h->base, HOST_T0));
	else if (h->form == HOISTED_INDEX)
		emit_rm(e, OPCODE_WIDE(0x8d), to, to, emit_use(t, h->index, HOST_T0), h->scale, 0);
	if (to == HOST_T1)
		emit_store(e, HOST_T1, HOST_CPU, addend_offset(check));
}

/* Values of 32 bits stay in bounds for all rounds. With that, the register's upper half is 0. */
static void emit_bound(struct translation *t, const struct loop *loop, unsigned guest)
{
	i32 low = loop->bound_low[guest], high = loop->bound_high[guest];
	emit_lea(&t->e, HOST_T0, emit_use(t, guest, HOST_T0), -low);
	emit_alu_imm(&t->e, 7, true, HOST_T0, (i32)(0x7fffffff - low - high));
	emit_plain_if(t, COND_AE);
}

static void emit_hoisted_check(struct translation *t, const struct hoisted *h, unsigned check)
{
	emit_first(t, h);
	if (h->alignment) {
		emit_test_alignment(t, h->alignment);
		emit_plain_if(t, COND_NZ);
	}
	emit_compare(t, HOST_T0, 0, h->size, h->write);
	emit_plain_if(t, COND_NZ);
	if (h->step)
		emit_rounds(t, h);
	emit_keep(t, h, check);
}

/* --- into the stretch and out of it: no flag changes --- */

/* Was the guest register given a host register for the stretch? */
static bool is_moved(const struct loop *loop, unsigned guest)
{
	return loop->host[guest] != host_register[guest];
}

/* Guest registers whose host register does something else in the stretch. */
static bool has_lent(const struct loop *loop, unsigned guest)
{
	return host_register[guest] != HOST_NONE && loop->lent & BIT(host_register[guest]);
}

/* Registers that are lent are in memory from now on, and nothing is kept in them yet. */
static void emit_lend(struct translation *t, const struct loop *loop)
{
	for (unsigned g = 0; g < GPR_COUNT; g++)
		if (has_lent(loop, g))
			emit_store(&t->e, host_register[g], HOST_CPU, guest_offset(g));
	if (is_made_in_place(loop->rounds_left)) {
		emit_mov_imm(&t->e, loop->rounds_left, ROUNDS_MAX);
		return;
	}
	emit_rm(&t->e, OPCODE_WIDE(0xc7), 0, HOST_CPU, HOST_NONE, 0, CPU_FIELD(jit_rounds));
	emit32(&t->e, ROUNDS_MAX);
}

static void emit_take_back(struct translation *t, const struct loop *loop)
{
	for (unsigned g = 0; g < GPR_COUNT; g++)
		if (has_lent(loop, g))
			emit_load(&t->e, host_register[g], HOST_CPU, guest_offset(g));
}

static void emit_enter_stretch(struct translation *t, const struct loop *loop)
{
	struct emit *e = &t->e;
	if (is_made_in_place(loop->rounds_left)) {
		emit_store(e, loop->rounds_left, HOST_CPU, CPU_FIELD(jit_rounds));
	} else if (loop->rounds_left == HOST_NONE) {
		emit_load(e, HOST_T0, HOST_CPU, CPU_FIELD(jit_rounds));
		emit_store(e, HOST_T0, HOST_CPU, CPU_FIELD(jit_rounds_left));
	} else {
		emit_load(e, loop->rounds_left, HOST_CPU, CPU_FIELD(jit_rounds));
	}
	for (unsigned g = 0; g < GPR_COUNT; g++)
		if (is_moved(loop, g))
			emit_load(e, loop->host[g], HOST_CPU, guest_offset(g));
	for (unsigned n = 0; n < loop->checks; n++)
		if (loop->check[n].host != HOST_NONE && !is_made_in_place(loop->check[n].host))
			emit_load(e, loop->check[n].host, HOST_CPU, addend_offset(n));
}

void emit_leave_stretch(struct translation *t)
{
	const struct loop *loop = t->jit->loop;
	struct emit *e = &t->e;
	for (unsigned g = 0; g < GPR_COUNT; g++)
		if (is_moved(loop, g) && loop->written & BIT(g))
			emit_store(e, loop->host[g], HOST_CPU, guest_offset(g));
	if (loop->rounds_left == HOST_NONE)
		emit_load(e, HOST_T0, HOST_CPU, CPU_FIELD(jit_rounds_left));
	else if (loop->rounds_left != HOST_T0)
		emit_mov(e, HOST_T0, loop->rounds_left);
	emit_take_back(t, loop);
}

void emit_rounds_done(struct translation *t, const struct plan *p)
{
	const struct loop *loop = t->jit->loop;
	struct emit *e = &t->e;
	/* The round that is left halfway is among them, if it was counted already: -left - 1, or -left. */
	bool counted = (unsigned)(p - t->jit->plan) >= loop->round_at;
	emit_rr(e, OPCODE_WIDE(0xf7), counted ? 2 : 3, HOST_T0);
	emit_add_to(e, HOST_T0, CPU_FIELD(jit_rounds));
	emit_mov_imm(e, HOST_T1, (u64)&t->trace->block[0]->stretch_credit);
	emit_rm(e, OPCODE_WIDE(0x01), HOST_T0, HOST_T1, HOST_NONE, 0, 0);
	emit_rr(e, OPCODE_WIDE(0x69), HOST_T0, HOST_T0);
	emit32(e, loop->count);
	emit_rm(e, OPCODE_WIDE(0x01), HOST_T0, HOST_CPU, HOST_NONE, 0, CPU_FIELD(jit_instructions));
}

void emit_begin_stretch(struct translation *t, struct loop *loop)
{
	struct emit *e = &t->e;
	t->trace->block[0]->stretch_credit = 64 * cost_of(loop);
	emit_pay(t, loop);
	emit_lend(t, loop);
	for (unsigned g = 0; g < GPR_COUNT; g++)
		if (loop->bounded & BIT(g))
			emit_bound(t, loop, g);
	for (unsigned n = 0; n < loop->checks; n++)
		emit_hoisted_check(t, &loop->check[n], n);
	emit_enter_stretch(t, loop);
	while ((e->at - t->start) % 16 && !e->overflow)
		emit8(e, 0x90);
	t->loop = loop;
	t->plan = loop->plan;
	t->host = loop->host;
	loop->start = e->at;
}

void emit_end_stretch(struct translation *t)
{
	struct loop *loop = t->jit->loop;
	loop->end = t->e.at;
	emit_take_back(t, loop);
	t->loop = NULL;
	t->host = host_register;
}

/* --- in the stretch --- */

void emit_round(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	if (t->loop->rounds_left != HOST_NONE) {
		emit_alu_imm(e, 5, true, t->loop->rounds_left, 1);
	} else {
		emit_rm(e, OPCODE_WIDE(0x83), 5, HOST_CPU, HOST_NONE, 0, CPU_FIELD(jit_rounds_left));
		emit8(e, 1);
	}
	emit_go_on_plain_if(t, p, COND_Z);
	t->flags = IN_MEMORY; /* nobody wants them here */
	t->recipe = (struct recipe){ 0 };
}

struct place_in_memory emit_hoisted(struct translation *t, const struct plan *p)
{
	const struct hoisted *h = &t->loop->check[p->hoisted - 1];
	const struct insn *insn = p->insn;
	u8 kept = h->host;
	bool both_move = h->form == HOISTED_ADDEND && insn->index != REG_ZERO;
	if (both_move)
		emit_address(t, p, HOST_T0, true);
	if (kept == HOST_NONE) {
		emit_load(&t->e, HOST_T1, HOST_CPU, addend_offset(p->hoisted - 1u));
		kept = HOST_T1;
	}
	if (both_move)
		return (struct place_in_memory){ .base = HOST_T0, .index = kept };
	if (h->form != HOISTED_BASE)
		return (struct place_in_memory){ (u8)emit_use(t, insn->base, HOST_T0), kept, 0, p->hoisted_disp };
	if (insn->index == REG_ZERO)
		return (struct place_in_memory){ kept, HOST_NONE, 0, p->hoisted_disp };
	return (struct place_in_memory){ kept, (u8)emit_use(t, insn->index, HOST_T0), insn->scale, p->hoisted_disp };
}
