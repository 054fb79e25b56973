/*
 * Direct branches to other pages. What lies there depends on where the branch's own page is mapped and on what else is,
 * so such a jump is direct only while the page and the stamp of its jit_far are the ones the CPU runs with: the jump
 * cache would then find the same block. Otherwise C code looks where it leads now. The stamp of the MMU's copies
 * changes whenever the other one does, and is compared where a trace is entered: so it is enough to look at the page
 * here, in a place that is forgotten with the predictions.
 *
 * Indirect branches are aimed: the same, but for where they lead instead of the page that they lie in.
 */
#include "jit/translation.h"

enum { PATIENCE = 8, PATIENCE_MAX = 1 << 20 }; /* misses */

static void take_out(struct jit_link **list, const struct jit_link *link)
{
	while (*list != link)
		list = &(*list)->next;
	*list = link->next;
}

/*
 * A far jump has one target at a time; another one is rare. Where each process maps the same code, it is the one that
 * it had before. false: nothing is translated there.
 */
static bool lead_to(struct cpu *cpu, struct jit *jit, struct jit_link *link, u64 ram_offset)
{
	u32 mode_key = block_key(cpu->mode_key);
	if (link->bound && link->ram_offset == ram_offset && link->mode_key == mode_key)
		return true;
	struct block *block = ram_offset == RAM_OFFSET_NONE ? NULL : block_find(cpu, ram_offset, mode_key);
	if (!block || block->entry == cpu->blocks->untranslated)
		return false;
	if (link->bound) {
		struct block *old = block_find(cpu, link->ram_offset, link->mode_key);
		struct jit_link *incoming = old->incoming;
		take_out(&incoming, link);
		old->incoming = incoming;
	}
	link->ram_offset = ram_offset;
	link->mode_key = mode_key;
	jit_bind(jit, link, block);
	return true;
}

/* It is among those that are forgotten with the page's predictions. */
static void list(struct jit *jit, struct jit_far *far)
{
	u64 *first = &far->predictions->first, number = (u64)(far->near - jit->predictions);
	u32 *next = &jit->prediction_next[number];
	if (*next != NOT_LISTED)
		return;
	*next = *first ? (u32)*first : LAST_LISTED;
	*first = number;
}

u64 jit_bind_far(struct cpu *cpu, struct jit_far *far, u64 key)
{
	u64 stamp = mmu_copy_stamp(&cpu->mmu), linear = key + (u64)far->offset;
	far->misses_left = far->patience ? far->patience : 1; /* should it fail */
	u64 ram_offset = cpu_code_at(cpu, linear);
	if (mmu_copy_stamp(&cpu->mmu) != stamp)
		return 0; /* the trace must not go on with its predictions */
	if (!lead_to(cpu, jit_of(cpu), &far->link, ram_offset))
		return 0;
	mmu_note_code(&cpu->mmu, linear); /* its INVLPG changes the stamp */
	far->bound = (struct far_place){ key, cpu->jit_stamp };
	if (far->aimed) {
		far->near->addend = linear & PAGE_MASK;
		far->patience = far->patience ? far->patience * 2 : PATIENCE;
		if (far->patience > PATIENCE_MAX)
			far->patience = PATIENCE_MAX;
		far->misses_left = far->patience;
	}
	if (far->near) {
		far->near->page = key;
		list(jit_of(cpu), far);
	}
	return 1;
}

void jit_unbind_far(const struct jit *jit, struct jit_far *far)
{
	far->bound.stamp = 0;
	if (far->near)
		far->near->page = jit->nowhere;
}

/* A jump that is taken unless the CPU's field, which `reg` becomes, is what the far jump is bound for. */
static u8 *emit_unless_bound(struct translation *t, const u64 *place, i32 field, unsigned reg)
{
	struct emit *e = &t->e;
	emit_load(e, reg, HOST_CPU, field);
	emit_mov_imm(e, HOST_T1, (u64)place);
	emit_rm(e, OPCODE_WIDE(0x3b), reg, HOST_T1, HOST_NONE, 0, 0);
	return emit_jcc(e, COND_NZ, NULL);
}

static struct jit_far *new_far(struct translation *t, struct prediction *near, i64 offset)
{
	struct jit *jit = t->jit;
	jit->links_start -= sizeof(struct jit_far);
	struct jit_far *far = (struct jit_far *)(jit->writable + jit->links_start);
	*far = (struct jit_far){ .near = near, .predictions = t->page, .offset = offset, .link.far = far };
	return far;
}

struct jit_far *emit_far_check(struct translation *t, const struct plan *p, unsigned executed, i64 offset)
{
	struct emit *e = &t->e;
	struct jit_far *far = new_far(t, new_place(t), offset);
	const u8 *start = e->at;
	u8 *other_page, *other_stamp = NULL;
	if (far->near) {
		emit_load(e, HOST_T0, HOST_CPU, CPU_FIELD(jit_page));
		emit_compare_place(t, HOST_T0, &far->near->page);
		other_page = emit_jcc(e, COND_NZ, NULL);
	} else {
		other_page = emit_unless_bound(t, &far->bound.key, CPU_FIELD(jit_page), HOST_T0);
		other_stamp = emit_unless_bound(t, &far->bound.stamp, CPU_FIELD(jit_stamp), HOST_T2);
	}
	struct cold *c = add_cold(t, other_page);
	c->also = other_stamp;
	c->kind = COLD_FAR;
	c->plan = p ? plain_plan(t, p) : NULL;
	c->executed = executed;
	c->back = start;
	c->far = far;
	return far;
}

struct cold *emit_aim(struct translation *t, const struct plan *p)
{
	struct prediction *near = t->chain ? new_aim(t, p) : NULL;
	if (!near)
		return NULL;
	struct jit_far *far = new_far(t, near, 0);
	far->aimed = true;
	far->misses_left = 1;
	const u8 *start = t->e.at;
	emit_compare_place(t, HOST_T0, &near->page);
	struct cold *c = add_cold(t, emit_jcc(&t->e, COND_NZ, NULL));
	c->kind = COLD_AIM;
	c->plan = plain_plan(t, p);
	c->back = start;
	c->far = far;
	return c;
}

void emit_far_branch(struct translation *t, struct jit_far *far, bool call, bool from_t0)
{
	struct emit *e = &t->e;
	i64 page = far->offset & ~(i64)(PAGE_SIZE - 1);
	if (far->aimed)
		emit_load_predicted(t, HOST_T0, &far->near->addend);
	else if (from_t0 && page == (i32)page)
		emit_lea(e, HOST_T0, HOST_T0, (i32)page);
	else
		emit_page_address(t, HOST_T0, page);
	emit_store(e, HOST_T0, HOST_CPU, CPU_FIELD(jit_page));
	struct cold *c = add_cold(t, call ? emit_call(e, NULL) : emit_jmp(e, NULL));
	c->kind = COLD_FAR_UNBOUND;
	c->far = far;
	far->link.site = c->from;
}

/* The target was untranslated behind the check. T0 is its page. */
void emit_cold_far_unbound(struct translation *t, const struct cold *c)
{
	struct emit *e = &t->e;
	c->far->link.unlinked = e->at;
	if (c->far->aimed) {
		emit_mov_imm(e, HOST_T1, (u64)c->far);
		emit_load(e, HOST_T0, HOST_T1, offsetof(struct jit_far, bound.key));
	} else {
		emit_lea(e, HOST_T0, HOST_T0, (i32)(c->far->offset & (i64)(PAGE_SIZE - 1)));
	}
	emit_leave(t);
}

void emit_cold_far(struct translation *t, const struct cold *c)
{
	struct emit *e = &t->e;
	emit_mov_imm(e, HOST_T1, (u64)c->far);
	if (c->far->near)
		emit_page_reference(t);
	emit_call(e, c->far->near ? t->jit->stub_far_near : t->jit->stub_far);
	emit_rr(e, OPCODE_WIDE(0x85), HOST_T2, HOST_T2);
	emit_jcc(e, COND_NZ, c->back);
}

void emit_cold_aim(struct translation *t, const struct cold *c)
{
	struct emit *e = &t->e;
	emit_mov_imm(e, HOST_T1, (u64)c->far);
	emit_page_reference(t);
	emit_call(e, t->jit->stub_aim);
	emit_alu_imm(e, 7, false, HOST_T2, 1);
	emit_jcc(e, COND_Z, c->back);
	emit_handler_if(t, c->plan, COND_B);
}
