/*
 * Predictions: an operand in memory mostly lies in the page where it was last. Each keeps a copy of that page's TLB
 * entry beside its code (mmu.h, struct mmu_copies), so that a check is a subtraction and a comparison, and the access
 * need not wait for it. A trace whose copies are of another address space, or older than an invalidation, forgets them
 * where it is entered; and behind each handler it is left if copies have become invalid. Where one is wrong:
 * predict_miss.c.
 */
#include "jit/translation.h"

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
		*at = (u32)jit->predictions_used++;
		jit->predictions[*at] = (struct prediction){ 0 };
	}
	return (struct page_predictions *)(jit->predictions + *at);
}

/*
 * One comparison for both: the page's stamp has nothing where the CPU's has `attention`. The checker's fragments, which
 * are not left for attention, compare what is beside it.
 */
void emit_begin_predictions(struct translation *t)
{
	t->page = page_of(t);
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

struct prediction *new_place(struct translation *t)
{
	struct jit *jit = t->jit;
	size_t number = jit->predictions_used + t->predictions;
	if (number == jit->predictions_max)
		return NULL;
	t->predictions++;
	jit->predictions[number] = (struct prediction){ .page = jit->nowhere };
	jit->prediction_next[number] = NOT_LISTED;
	return &jit->predictions[number];
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
		.head = (u32)((const u8 *)t->trace->block[0] - t->cpu->blocks->arena),
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

struct cold *add_mispredicted(struct translation *t, u8 *from, const struct plan *p, struct range r, bool group)
{
	struct cold *c = add_cold(t, from);
	c->kind = t->loop             ? COLD_PREDICT_STRETCH
		  : group && t->split ? COLD_PREDICT_SPLIT
		  : group             ? COLD_PREDICT_GROUP
				      : COLD_PREDICT;
	c->plan = plain_plan(t, p);
	c->range = r;
	return c;
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
	struct cold *c = add_mispredicted(t, emit_jcc(e, keyed ? COND_NZ : COND_AE, NULL), p, r, group);
	c->keyed = keyed;
	c->prediction = n;
	emit_field(t, 0x8b, HOST_T1, &n->addend);
	c->back = e->at;
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
	emit_mov_imm(&t->e, HOST_T2, number_of(t, t->page) << REFERENCE_PAGE);
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
		     number_of(t, c->prediction) << REFERENCE_NUMBER | number_of(t, t->page) << REFERENCE_PAGE |
			     range_reference(c));
	emit_call(e, stubs[c->range.write]);
	/* The code there may have its address from T0. */
	if (moved)
		emit_lea(e, HOST_T0, HOST_T0, -c->range.disp);
	emit_jcc(e, COND_Z, c->back);
}
