/*
 * Predictions: an operand in memory mostly lies in the page where it was last. Each keeps a copy of that page's TLB
 * entry beside its code (mmu.h, struct mmu_copies), so that a check is a subtraction and a comparison, and the access
 * need not wait for it. A trace whose copies are of another address space, or older than an invalidation, forgets them
 * where it is entered; and behind each handler it is left if copies have become invalid.
 */
#include "jit/translation.h"

#include "cpu/block_cache.h"

enum {
	/*
	 * Every so many misses, one is looked at: if they came one in so many instructions, and this operand has been
	 * met so often, its page changes all the time, and the TLB is the better place to look. Likewise where an
	 * indirect branch leads, and the jump cache.
	 */
	MISSES = 64,
	RARE = 250,
	ROAMING = 4,
	STAMP_BITS = 48,
	/* In references to a prediction, behind what emit_range_reference() has: its page's number; its own. */
	PAGE_AT = REFERENCE_BITS,
	NUMBER_AT = 32,
	PREDICTION_SHIFT = 4,
	NEXT_SHIFT = 2
};

static_assert(sizeof(struct prediction) == 16 && sizeof(struct predictions) == 16 &&
		      sizeof(struct page_predictions) == 16,
	      "as translated code finds them");
static_assert(1 << PREDICTION_SHIFT == sizeof(struct prediction) && 1 << NEXT_SHIFT == sizeof(u32), "likewise");
static_assert(offsetof(struct cpu, mmu.revision) + 8 <= 128 + CPU_BIAS, "short displacements");
static_assert(offsetof(struct cpu, mmu) % 8 == 0 && offsetof(struct mmu, stamp) == 0 && sizeof(struct mmu_stamp) == 8 &&
		      offsetof(struct cpu, attention) == offsetof(struct cpu, mmu) + STAMP_BITS / 8,
	      "one load reads both");

static i32 from_code(const struct translation *t, const void *to, unsigned length)
{
	return (i32)((const u8 *)to - (jit_executable(t->jit, t->e.at) + length));
}

/* OPCODE `reg`, [field of a prediction, or of their header]. */
static void emit_field(struct translation *t, u8 opcode, unsigned reg, const void *field)
{
	enum { LENGTH = 7 };
	emit_rip(&t->e, opcode, reg, from_code(t, field, LENGTH));
}

/* Its place among all: as in lists, and where stubs are to know it. */
static u64 number_of(const struct translation *t, const void *prediction)
{
	return (u64)((const struct prediction *)prediction - t->jit->predictions);
}

/* Those of the page that the trace lies in; there is room for them. */
static struct page_predictions *page_of(struct translation *t)
{
	struct jit *jit = t->jit;
	u32 *at = &t->cpu->blocks->pages[t->trace->block[0]->ram_offset >> PAGE_SHIFT].predictions;
	if (!*at) {
		*at = (u32)++jit->predictions_used;
		*(struct page_predictions *)(jit->predictions + *at - 1) = (struct page_predictions){ 0 };
	}
	return (struct page_predictions *)(jit->predictions + *at - 1);
}

/*
 * One comparison for both: the page's stamp has nothing where the CPU's has `attention`. The checker's fragments, which
 * are not left for attention, compare what is beside it.
 */
void emit_begin_predictions(struct translation *t)
{
	struct jit *jit = t->jit;
	t->page = page_of(t);
	t->predictions = (struct predictions *)(jit->predictions + jit->predictions_used);
	*t->predictions = (struct predictions){ .head = t->trace->block[0] };
	emit_load(&t->e, HOST_T0, HOST_CPU, CPU_FIELD(mmu.stamp));
	if (!t->chain) {
		emit_shift(&t->e, 4, true, HOST_T0, 64 - STAMP_BITS);
		emit_shift(&t->e, 5, true, HOST_T0, 64 - STAMP_BITS);
	}
	emit_field(t, 0x3b, HOST_T0, &t->page->stamp);
	struct cold *c = add_cold(t, emit_jcc(&t->e, COND_NZ, NULL));
	c->kind = COLD_FORGET;
	c->back = t->e.at;
}

void emit_cold_forget(struct translation *t, const struct cold *c)
{
	emit_mov_imm(&t->e, HOST_T2, number_of(t, t->page) << PAGE_SHIFT | t->plan->offset);
	emit_call(&t->e, t->jit->stub_forget);
	emit_jmp(&t->e, c->back);
}

void jit_keep_predictions(struct jit *jit, const struct predictions *predictions)
{
	if (predictions->count)
		jit->predictions_used += 1 + predictions->count;
}

struct prediction *new_place(struct translation *t)
{
	struct prediction *n = &t->predictions->of[t->predictions->count];
	if (n == t->jit->predictions + t->jit->predictions_max)
		return NULL;
	t->predictions->count++;
	*n = (struct prediction){ .page = t->jit->nowhere };
	t->jit->prediction_next[n - t->jit->predictions] = NOT_LISTED;
	return n;
}

void emit_compare_place(struct translation *t, unsigned reg, const u64 *field)
{
	emit_field(t, 0x3b, reg, field);
}

/* One whose misses are looked at: see jit_attend(). */
static struct prediction *new_watched(struct translation *t, const struct plan *p, bool aim)
{
	struct prediction *n = new_place(t);
	if (!n)
		return NULL;
	t->jit->prediction_info[n - t->jit->predictions] = (struct prediction_info){
		.insn = (u32)((const u8 *)p->insn - t->cpu->blocks->arena),
		.index = (u16)(n - t->predictions->of) & 0x7fff,
		.aim = aim,
	};
	return n;
}

struct prediction *new_aim(struct translation *t, const struct plan *p)
{
	return p->insn->strays ? NULL : new_watched(t, p, true);
}

/*
 * Relative to RIP, or to FS or GS alone: T0 is the page that the code lies in, or the segment's base. The operand lies
 * a constant further, so it is enough to compare that, which stands in the prediction instead of the operand's page: no
 * guest can make either of them `nowhere`, for both are canonical.
 */
static bool is_keyed(const struct translation *t, const struct plan *p, const struct range *r)
{
	const struct insn *insn = p->insn;
	bool segment = insn->seg == SEG_FS || insn->seg == SEG_GS;
	return !t->loop && insn->flags & INSN_MEM && r->base == HOST_T0 && insn->index == REG_ZERO &&
	       (segment ? insn->base == REG_ZERO : insn->base == REG_RIP);
}

bool emit_predicted(struct translation *t, const struct plan *p, struct range r, bool group)
{
	struct emit *e = &t->e;
	struct prediction *n = p->insn->roams ? NULL : new_watched(t, p, false);
	if (!n)
		return false;
	bool keyed = is_keyed(t, p, &r);
	if (keyed) {
		emit_field(t, 0x3b, HOST_T0, &n->page);
	} else {
		emit_lea(e, HOST_T2, r.base, r.disp);
		emit_field(t, 0x2b, HOST_T2, &n->page);
		emit_alu_imm(e, 7, true, HOST_T2, (i32)(PAGE_SIZE - r.size + 1));
	}
	struct cold *c = add_cold(t, emit_jcc(e, keyed ? COND_NZ : COND_AE, NULL));
	c->keyed = keyed;
	emit_field(t, 0x8b, HOST_T1, &n->addend);
	c->kind = t->loop             ? COLD_PREDICT_STRETCH
		  : group && t->split ? COLD_PREDICT_SPLIT
		  : group             ? COLD_PREDICT_GROUP
				      : COLD_PREDICT;
	c->plan = plain_plan(t, p);
	c->back = e->at;
	c->range = r;
	c->prediction = n;
	if (group)
		t->group_addend[p->group - 1] = &n->addend;
	return true;
}

void emit_load_predicted(struct translation *t, unsigned reg, const u64 *addend)
{
	if (addend == &t->cpu->mmu.stack.addend)
		emit_load(&t->e, reg, HOST_CPU, CPU_FIELD(mmu.stack.addend));
	else
		emit_field(t, 0x8b, reg, addend);
}

void emit_page_reference(struct translation *t)
{
	emit_mov_imm(&t->e, HOST_T2, number_of(t, t->page) << PAGE_AT);
}

u32 range_reference(const struct cold *c)
{
	/* Is the operand itself to be written, by which the range was found? */
	bool group = c->kind == COLD_PREDICT_GROUP || c->kind == COLD_PREDICT_SPLIT;
	bool written = group ? jit_writes(c->plan) : c->range.write;
	return (written ? REFERENCE_WRITE : 0) | (c->range.size - 1);
}

void emit_cold_predict(struct translation *t, const struct cold *c)
{
	struct emit *e = &t->e;
	bool moved = c->range.base == HOST_T0 && c->range.disp;
	/* Where a stretch is left from, registers are not where C code expects them. */
	const u8 *const *stubs = c->kind == COLD_PREDICT_STRETCH ? t->jit->stub_look
				 : c->keyed                      ? t->jit->stub_predict_keyed
								 : t->jit->stub_predict;
	if (c->keyed)
		emit_mov(e, HOST_T1, HOST_T0);
	if (c->range.base != HOST_T0 || moved)
		emit_lea(e, HOST_T0, c->range.base, c->range.disp);
	emit_mov_imm(e, HOST_T2,
		     number_of(t, c->prediction) << NUMBER_AT | number_of(t, t->page) << PAGE_AT | range_reference(c));
	emit_call(e, stubs[c->range.write]);
	/* The code there may have its address from T0. */
	if (moved)
		emit_lea(e, HOST_T0, HOST_T0, -c->range.disp);
	emit_jcc(e, COND_Z, c->back);
}

/* --- stubs --- */

/* `number` becomes the address of that prediction, and `base` that of them all. */
static void emit_prediction_of(struct emit *e, const struct jit *jit, unsigned number, unsigned base)
{
	emit_mov_imm(e, base, (u64)jit->predictions);
	emit_shift(e, 4, true, number, PREDICTION_SHIFT);
	emit_rr(e, OPCODE_WIDE(0x01), base, number);
}

/*
 * call: T0 = stamp, and `attention` above it, T2 = number of a page's predictions << PAGE_SHIFT | offset of the trace
 * in its page. If something wants attention, leaves. Else they are forgotten, and made for this stamp from now on. It
 * must be the one that was compared: a raise that comes meanwhile is not to become part of it.
 */
static void make_forget(struct emit *e, const struct jit *jit)
{
	emit_push(e, HOST_T0);
	emit_shift(e, 5, true, HOST_T0, STAMP_BITS);
	emit_pop(e, HOST_T0);
	u8 *attention = emit_jcc(e, COND_NZ, NULL);
	emit_push(e, HOST_RCX);
	emit_mov(e, HOST_T1, HOST_T2);
	emit_shift(e, 5, true, HOST_T1, PAGE_SHIFT);
	emit_prediction_of(e, jit, HOST_T1, HOST_RCX);
	emit_store(e, HOST_T0, HOST_T1, offsetof(struct page_predictions, stamp));
	emit_load(e, HOST_T0, HOST_T1, offsetof(struct page_predictions, first));
	emit_store_zero(e, HOST_T1, offsetof(struct page_predictions, first));
	emit_mov_imm(e, HOST_T2, jit->nowhere);
	const u8 *loop = e->at;
	emit_alu_imm(e, 7, true, HOST_T0, LAST_LISTED);
	u8 *done = emit_jcc(e, COND_BE, NULL);
	emit_mov(e, HOST_T1, HOST_T0);
	emit_shift(e, 4, true, HOST_T1, PREDICTION_SHIFT);
	emit_rm(e, OPCODE_WIDE(0x89), HOST_T2, HOST_RCX, HOST_T1, 0, offsetof(struct prediction, page));
	emit_mov_imm(e, HOST_T1, (u64)jit->prediction_next);
	emit_rm(e, OPCODE_WIDE(0x8d), HOST_T1, HOST_T1, HOST_T0, NEXT_SHIFT, 0);
	emit_rm(e, (struct opcode){ .byte = 0x8b }, HOST_T0, HOST_T1, HOST_NONE, 0, 0);
	emit_rm(e, (struct opcode){ .byte = 0xc7 }, 0, HOST_T1, HOST_NONE, 0, 0);
	emit32(e, NOT_LISTED);
	emit_jmp(e, loop);
	emit_patch(e, done, e->at);
	emit_pop(e, HOST_RCX);
	emit8(e, 0xc3);
	emit_patch(e, attention, e->at);
	emit_alu_imm(e, 4, false, HOST_T2, PAGE_SIZE - 1);
	emit_jmp(e, jit->stub_leave_at);
}

void emit_note(struct emit *e, i32 table)
{
	emit_mov(e, HOST_T2, HOST_RCX);
	emit_shift(e, 7, true, HOST_T2, 63);
	emit_alu_imm(e, 4, false, HOST_T2, COPY_PAGES / 2);
	emit_shift(e, 5, true, HOST_RCX, PAGE_SHIFT);
	emit_alu_imm(e, 4, false, HOST_RCX, COPY_PAGES / 2 - 1);
	emit_rr(e, OPCODE_WIDE(0x09), HOST_T2, HOST_RCX);
	emit_add_to(e, HOST_RCX, table);
	emit_rm(e, (struct opcode){ .byte = 0xc6 }, 0, HOST_RCX, HOST_NONE, 0, 0);
	emit8(e, 1);
}

/* ZF = the prediction T1 is not listed. Uses RCX. */
static void emit_compare_listed(struct emit *e, const struct jit *jit)
{
	enum { APART = PREDICTION_SHIFT - NEXT_SHIFT };
	emit_mov_imm(e, HOST_RCX, ((u64)jit->prediction_next << APART) - (u64)jit->predictions);
	emit_rr(e, OPCODE_WIDE(0x01), HOST_T1, HOST_RCX);
	emit_shift(e, 5, true, HOST_RCX, APART);
	emit_rm(e, (struct opcode){ .byte = 0x83 }, 7, HOST_RCX, HOST_NONE, 0, 0);
	emit8(e, NOT_LISTED);
}

/* The prediction T1 is one of its page's from now on; T2 tells which. Uses RCX and T2. */
static void emit_enlist(struct emit *e, const struct jit *jit)
{
	emit_push(e, HOST_T0);
	emit_rr(e, (struct opcode){ .byte = 0x89 }, HOST_T2, HOST_RCX);
	emit_shift(e, 5, false, HOST_RCX, PAGE_AT);
	emit_prediction_of(e, jit, HOST_RCX, HOST_T0);
	emit_mov(e, HOST_T2, HOST_T1);
	emit_rr(e, OPCODE_WIDE(0x29), HOST_T0, HOST_T2);
	emit_shift(e, 5, true, HOST_T2, PREDICTION_SHIFT);
	emit_load(e, HOST_T0, HOST_RCX, offsetof(struct page_predictions, first));
	emit_store(e, HOST_T2, HOST_RCX, offsetof(struct page_predictions, first));
	emit_alu_imm(e, 7, true, HOST_T0, LAST_LISTED);
	emit_alu_imm(e, 2, true, HOST_T0, 0); /* ADC: NOT_LISTED becomes LAST_LISTED */
	emit_mov_imm(e, HOST_RCX, (u64)jit->prediction_next);
	emit_rm(e, (struct opcode){ .byte = 0x89 }, HOST_T0, HOST_RCX, HOST_T2, NEXT_SHIFT, 0);
	emit_pop(e, HOST_T0);
}

/* RAX = addend of the page at T0: the listed prediction T1 copies it; as mmu_note_copy(). Uses RCX and T2. */
static void emit_copy(struct emit *e, bool write)
{
	emit_mov(e, HOST_RCX, HOST_T0);
	emit_alu_imm(e, 4, true, HOST_RCX, -(i32)PAGE_SIZE);
	emit_store(e, HOST_RCX, HOST_T1, offsetof(struct prediction, page));
	emit_mov(e, HOST_RCX, HOST_T0);
	emit_note(e, CPU_FIELD(mmu.copies.pages));
	if (!write)
		return;
	emit_rm(e, OPCODE_WIDE(0x8d), HOST_RCX, HOST_T0, HOST_RAX, 0, 0);
	emit_note(e, CPU_FIELD(mmu.copies.writable));
}

/* This miss is to be looked at: see attend(). */
static void emit_report(struct emit *e)
{
	emit_rm(e, (struct opcode){ .byte = 0xc7 }, 0, HOST_CPU, HOST_NONE, 0, CPU_FIELD(jit_misses_left));
	emit32(e, MISSES);
	emit_store(e, HOST_T1, HOST_CPU, CPU_FIELD(jit_missed));
	emit_rm(e, (struct opcode){ .byte = 0x80, .lock = true }, 1, HOST_CPU, HOST_NONE, 0, CPU_FIELD(attention) + 1);
	emit8(e, ATTEND_JIT >> 8);
}

/* The prediction T1 was wrong. */
static void emit_count_miss(struct emit *e)
{
	emit_rm(e, (struct opcode){ .byte = 0x83 }, 5, HOST_CPU, HOST_NONE, 0, CPU_FIELD(jit_misses_left));
	emit8(e, 1);
	u8 *not_now = emit_jcc(e, COND_NZ, NULL);
	emit_report(e);
	emit_patch(e, not_now, e->at);
}

/* Lists the prediction T1; or it is there already: then it has roamed, and the miss counts. */
static void emit_list(struct emit *e, const struct jit *jit)
{
	emit_compare_listed(e, jit);
	u8 *forgotten = emit_jcc(e, COND_Z, NULL);
	emit_count_miss(e);
	u8 *listed = emit_jmp(e, NULL);
	emit_patch(e, forgotten, e->at);
	emit_enlist(e, jit);
	emit_patch(e, listed, e->at);
}

void emit_test_copies(struct emit *e)
{
	emit_load(e, HOST_RCX, HOST_CPU, CPU_FIELD(mmu.tlb));
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_RCX, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.system));
	u8 *supervisor = emit_jcc(e, COND_Z, NULL);
	static_assert(MMU_USER == MMU_CLASSES - 1, "CF = any other class");
	emit_rm(e, (struct opcode){ .byte = 0x83 }, 7, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.cls));
	emit8(e, MMU_USER);
	u8 *other = emit_jmp(e, NULL);
	emit_patch(e, supervisor, e->at);
	emit_rr(e, (struct opcode){ .byte = 0x89 }, HOST_T0, HOST_RCX);
	emit_shift(e, 5, false, HOST_RCX, PAGE_SHIFT);
	emit_alu_imm(e, 4, false, HOST_RCX, TLB_ENTRIES - 1);
	emit_load(e, HOST_RAX, HOST_CPU, CPU_FIELD(mmu.copies.spared));
	emit_rm(e, (struct opcode){ .byte = 0xa3, .map = 1, .wide = true }, HOST_RCX, HOST_RAX, HOST_NONE, 0, 0);
	emit_patch(e, other, e->at);
}

void emit_find_entry(struct emit *e)
{
	emit_rr(e, (struct opcode){ .byte = 0x89 }, HOST_T0, HOST_RAX);
	emit_shift(e, 5, false, HOST_RAX, 7);
	emit_alu_imm(e, 4, false, HOST_RAX, (TLB_ENTRIES - 1) << 5);
	emit_add_to(e, HOST_RAX, CPU_FIELD(mmu.tlb));
	emit_mov(e, HOST_RCX, HOST_T2);
	emit_alu_imm(e, 4, false, HOST_RCX, REFERENCE_SIZE);
	emit_rr(e, OPCODE_WIDE(0x01), HOST_T0, HOST_RCX);
	emit_alu_imm(e, 4, true, HOST_RCX, -(i32)PAGE_SIZE);
	emit_rm(e, OPCODE_WIDE(0x0b), HOST_RCX, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.revision));
}

/*
 * call: T0 = linear address, T2 = reference to a prediction. If the TLB has its range: ZF, T1 = addend, which the
 * prediction has, too, and it is of this page, if it may. Keeps T0; and T2, without ZF.
 */
static void make_look(struct emit *e, const struct jit *jit, bool write)
{
	emit_push(e, HOST_RAX);
	emit_push(e, HOST_RCX);
	emit_mov(e, HOST_T1, HOST_T2);
	emit_shift(e, 5, true, HOST_T1, NUMBER_AT);
	emit_prediction_of(e, jit, HOST_T1, HOST_RCX);
	emit_find_entry(e);
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_RCX, HOST_RAX, HOST_NONE, 0,
		write ? offsetof(struct tlb_entry, write) : offsetof(struct tlb_entry, read));
	u8 *miss = emit_jcc(e, COND_NZ, NULL);
	emit_load(e, HOST_RAX, HOST_RAX, offsetof(struct tlb_entry, addend));
	emit_list(e, jit);
	emit_store(e, HOST_RAX, HOST_T1, offsetof(struct prediction, addend));
	emit_mov_imm(e, HOST_RCX, jit->nowhere);
	emit_store(e, HOST_RCX, HOST_T1, offsetof(struct prediction, page));
	emit_test_copies(e);
	emit_load(e, HOST_RAX, HOST_T1, offsetof(struct prediction, addend));
	u8 *no_copy = emit_jcc(e, COND_B, NULL);
	emit_copy(e, write);
	emit_patch(e, no_copy, e->at);
	emit_mov(e, HOST_T1, HOST_RAX);
	emit_rr(e, (struct opcode){ .byte = 0x31 }, HOST_RAX, HOST_RAX);
	emit_patch(e, miss, e->at);
	emit_pop(e, HOST_RCX);
	emit_pop(e, HOST_RAX);
	emit8(e, 0xc3);
}

/* The aim T1 is bound for another target than T0: T2 = 2, for it stays so. But every so often it is bound anew. */
static void emit_miss_aim(struct emit *e, const struct jit *jit)
{
	emit_rm(e, (struct opcode){ .byte = 0x83 }, 5, HOST_T1, HOST_NONE, 0, offsetof(struct jit_far, misses_left));
	emit8(e, 1);
	emit_jcc(e, COND_Z, jit->stub_far);
	emit_load(e, HOST_T1, HOST_T1, offsetof(struct jit_far, near));
	emit_count_miss(e);
	emit_mov_imm(e, HOST_T2, 2);
	emit8(e, 0xc3);
}

/*
 * call: T0 = key, T1 = a far jump that has a place beside its code, T2 = emit_page_reference(). If that was only
 * forgotten, it is right here once more: T2 = 1. Else as stub_far; or, for an aim, as emit_miss_aim().
 */
static void make_far_near(struct emit *e, const struct jit *jit, bool aim)
{
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_T0, HOST_T1, HOST_NONE, 0, offsetof(struct jit_far, bound.key));
	u8 *other_key = emit_jcc(e, COND_NZ, aim ? NULL : jit->stub_far);
	emit_push(e, HOST_RCX);
	emit_load(e, HOST_RCX, HOST_CPU, CPU_FIELD(jit_stamp));
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_RCX, HOST_T1, HOST_NONE, 0, offsetof(struct jit_far, bound.stamp));
	u8 *other_stamp = emit_jcc(e, COND_NZ, NULL);
	emit_load(e, HOST_T1, HOST_T1, offsetof(struct jit_far, near));
	emit_store(e, HOST_T0, HOST_T1, offsetof(struct prediction, page));
	emit_compare_listed(e, jit);
	u8 *listed = emit_jcc(e, COND_NZ, NULL);
	emit_enlist(e, jit);
	emit_patch(e, listed, e->at);
	emit_mov_imm(e, HOST_T2, 1);
	emit_pop(e, HOST_RCX);
	emit8(e, 0xc3);
	emit_patch(e, other_stamp, e->at);
	emit_pop(e, HOST_RCX);
	emit_jmp(e, jit->stub_far);
	if (aim) {
		emit_patch(e, other_key, e->at);
		emit_miss_aim(e, jit);
	}
}

void make_look_twice(struct emit *e, const struct jit *jit, const u8 *look)
{
	emit_call(e, look);
	u8 *hit = emit_jcc(e, COND_Z, NULL);
	emit_mov(e, HOST_T1, HOST_T2);
	emit_alu_imm(e, 4, false, HOST_T1, REFERENCE_SIZE);
	emit_rr(e, OPCODE_WIDE(0x01), HOST_T0, HOST_T1);
	emit_rr(e, OPCODE_WIDE(0x31), HOST_T0, HOST_T1);
	emit_alu_imm(e, 4, true, HOST_T1, -(i32)PAGE_SIZE);
	u8 *across = emit_jcc(e, COND_NZ, NULL);
	emit_push(e, HOST_T2);
	emit_alu_imm(e, 4, false, HOST_T2, REFERENCE_WRITE);
	emit_call(e, jit->stub_fill);
	emit_pop(e, HOST_T2);
	emit_jmp(e, look);
	emit_patch(e, hit, e->at);
	emit_patch(e, across, e->at);
	emit8(e, 0xc3);
}

/* The same, for a prediction that has the key T1 instead of a page. Does not keep T2. */
static void make_predict_keyed(struct emit *e, const struct jit *jit, bool write)
{
	emit_push(e, HOST_T2);
	emit_push(e, HOST_T1);
	emit_push(e, HOST_T1); /* C code wants the stack aligned */
	emit_call(e, jit->stub_predict[write]);
	emit_pop(e, HOST_T2);
	emit_pop(e, HOST_T2);
	u8 *miss = emit_jcc(e, COND_NZ, NULL);
	emit_push(e, HOST_RAX);
	emit_push(e, HOST_RCX);
	emit_load(e, HOST_RAX, HOST_RSP, 16);
	emit_shift(e, 5, true, HOST_RAX, NUMBER_AT);
	emit_prediction_of(e, jit, HOST_RAX, HOST_RCX);
	emit_mov_imm(e, HOST_RCX, jit->nowhere);
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_RCX, HOST_RAX, HOST_NONE, 0, offsetof(struct prediction, page));
	u8 *no_copy = emit_jcc(e, COND_Z, NULL);
	emit_store(e, HOST_T2, HOST_RAX, offsetof(struct prediction, page));
	emit_rr(e, (struct opcode){ .byte = 0x31 }, HOST_RAX, HOST_RAX);
	emit_patch(e, no_copy, e->at);
	emit_pop(e, HOST_RCX);
	emit_pop(e, HOST_RAX);
	emit_patch(e, miss, e->at);
	emit_pop(e, HOST_T2);
	emit8(e, 0xc3);
}

void jit_make_prediction_stubs(struct cpu *cpu, struct jit *jit, struct emit *e)
{
	jit->stub_far_near = e->at;
	make_far_near(e, jit, false);
	jit->stub_aim = e->at;
	make_far_near(e, jit, true);
	cpu->jit_misses_left = MISSES;
	jit->stub_forget = e->at;
	make_forget(e, jit);
	for (unsigned write = 0; write < 2; write++) {
		jit->stub_look[write] = e->at;
		make_look(e, jit, write);
		jit->stub_predict[write] = e->at;
		make_look_twice(e, jit, jit->stub_look[write]);
		jit->stub_predict_keyed[write] = e->at;
		make_predict_keyed(e, jit, write);
	}
}

/* --- operands that roam, and branches that stray --- */

void jit_attend(struct cpu *cpu)
{
	struct jit *jit = jit_of(cpu);
	struct prediction *n = cpu->jit_missed;
	u64 since = cpu->counters.instructions - jit->missed_at;

	jit->missed_at = cpu->counters.instructions;
	cpu->jit_missed = NULL;
	struct prediction_info *info = n ? &jit->prediction_info[n - jit->predictions] : NULL;
	if (!n || since > (u64)MISSES * RARE || ++info->misses < ROAMING)
		return;
	struct insn *insn = (struct insn *)(cpu->blocks->arena + info->insn);
	if (info->aim) {
		insn->strays = true;
		cpu->counters.branches_straying++;
	} else {
		insn->roams = true;
		cpu->counters.operands_roaming++;
	}
	block_retranslate(cpu, ((struct predictions *)(n - info->index) - 1)->head);
}
