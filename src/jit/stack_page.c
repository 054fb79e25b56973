/*
 * The page of the stack: nearly all that lies close to RSP lies in the page where the latest such access was. So these
 * operands share one copy of its TLB entry, in struct cpu (mmu.h, `stack`), instead of a prediction each: short code,
 * one line of the host's cache for all, and nothing to be learnt anew by each of them when the address space changes.
 * That page may be both read and written, or it is not copied. Where frames lie on a border of two pages both are
 * wanted in turn, so the page before the latest is kept, too, for cold code.
 */
#include "jit/translation.h"

enum {
	/* Further away from RSP, operands have predictions of their own: large frames have several pages. */
	NEAR = 512
};

static_assert(offsetof(struct cpu, mmu.stack) + sizeof(struct mmu_copy) <= 128 + CPU_BIAS, "short displacements");

#define LATEST(field) CPU_FIELD(mmu.stack.field)

bool emit_stack_page(struct translation *t, const struct plan *p, struct range r, bool group)
{
	struct emit *e = &t->e;
	if (t->loop || r.base != t->host[RSP] || r.disp < -NEAR || r.disp + (i32)r.size > NEAR)
		return false;
	emit_lea(e, HOST_T2, r.base, r.disp);
	emit_rm(e, OPCODE_WIDE(0x2b), HOST_T2, HOST_CPU, HOST_NONE, 0, LATEST(page));
	emit_alu_imm(e, 7, true, HOST_T2, (i32)(PAGE_SIZE - r.size + 1));
	struct cold *c = add_mispredicted(t, emit_jcc(e, COND_AE, NULL), p, r, group);
	c->stack_page = true;
	emit_load(e, HOST_T1, HOST_CPU, LATEST(addend));
	c->back = e->at;
	if (group)
		t->group_addend[p->group - 1] = &t->cpu->mmu.stack.addend;
	return true;
}

void emit_cold_stack_page(struct translation *t, const struct cold *c)
{
	struct emit *e = &t->e;
	emit_lea(e, HOST_T0, c->range.base, c->range.disp);
	emit_mov_imm(e, HOST_T2, range_reference(c));
	emit_call(e, t->jit->stub_stack_page[c->range.write]);
	emit_jcc(e, COND_Z, c->back);
}

/* May it ask for the page of the stack? */
static bool asks(const struct plan *p)
{
	if (jit_follows(p))
		return false;
	switch (p->kind) {
	case PLAN_PUSH:
	case PLAN_PUSH_FLAGS:
	case PLAN_POP:
	case PLAN_CALL:
	case PLAN_RET:
		return true;
	default:
		return p->memory && p->insn->base == RSP;
	}
}

bool is_stack_page_kept(const struct translation *t, const struct plan *leader)
{
	bool kept = true;
	for (const struct plan *p = leader + 1; p != t->plan + t->count; p++) {
		if (p->group == leader->group && !kept)
			return false;
		kept &= !asks(p);
	}
	return true;
}

/* --- stubs --- */

/* RCX = the place of the page before the latest. */
static void emit_before(struct emit *e)
{
	i32 at = CPU_FIELD(mmu.stack_before);
	emit_lea(e, HOST_RCX, HOST_CPU, at + (i32)sizeof(struct mmu_copy));
	emit_rm(e, (struct opcode){ .byte = 0x83 }, 7, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.cls));
	emit8(e, MMU_USER);
	u8 *user = emit_jcc(e, COND_Z, NULL);
	emit_lea(e, HOST_RCX, HOST_CPU, at);
	emit_patch(e, user, e->at);
}

/* The page of T0, whose addend is T1, becomes the latest, and the latest the one before, at RCX. Uses RAX and T2. */
static void emit_change(struct emit *e)
{
	emit_load(e, HOST_T2, HOST_CPU, LATEST(page));
	emit_store(e, HOST_T2, HOST_RCX, offsetof(struct mmu_copy, page));
	emit_load(e, HOST_T2, HOST_CPU, LATEST(addend));
	emit_store(e, HOST_T2, HOST_RCX, offsetof(struct mmu_copy, addend));
	emit_mov(e, HOST_RAX, HOST_T0);
	emit_alu_imm(e, 4, true, HOST_RAX, -(i32)PAGE_SIZE);
	emit_store(e, HOST_RAX, HOST_CPU, LATEST(page));
	emit_store(e, HOST_T1, HOST_CPU, LATEST(addend));
}

/*
 * A jump that is taken if the range does not lie in the page before the latest. Else T1 = that page's addend. RCX = its
 * place. Uses RAX.
 */
static u8 *emit_unless_before(struct emit *e)
{
	static_assert(REFERENCE_SIZE < PAGE_SIZE - 1, "RAX = where the range may begin at most");
	emit_before(e);
	emit_mov(e, HOST_T1, HOST_T0);
	emit_rm(e, OPCODE_WIDE(0x2b), HOST_T1, HOST_RCX, HOST_NONE, 0, offsetof(struct mmu_copy, page));
	emit_mov(e, HOST_RAX, HOST_T2);
	emit_rr(e, (struct opcode){ .byte = 0xf7 }, 2, HOST_RAX);
	emit_alu_imm(e, 1, false, HOST_RAX, (i32)(PAGE_SIZE - 1 - REFERENCE_SIZE));
	emit_alu_imm(e, 4, false, HOST_RAX, PAGE_SIZE - 1);
	emit_rr(e, OPCODE_WIDE(0x3b), HOST_T1, HOST_RAX);
	u8 *elsewhere = emit_jcc(e, COND_A, NULL);
	emit_load(e, HOST_T1, HOST_RCX, offsetof(struct mmu_copy, addend));
	return elsewhere;
}

/*
 * call: T0 = linear address, T2 = reference to a range from there on. If it lies in the page before the latest, or the
 * TLB has it: ZF, T1 = addend, which the copy has, too; and it is of this page, if it may. Keeps T0; and T2, without
 * ZF.
 */
static void make_look(struct emit *e, const struct jit *jit, bool write)
{
	emit_push(e, HOST_RAX);
	emit_push(e, HOST_RCX);
	u8 *elsewhere = emit_unless_before(e);
	emit_change(e);
	u8 *changed = emit_jmp(e, NULL);

	emit_patch(e, elsewhere, e->at);
	emit_find_entry(e, write);
	u8 *miss = emit_jcc(e, COND_NZ, NULL);
	emit_load(e, HOST_T1, HOST_RAX, offsetof(struct tlb_entry, addend));
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_RCX, HOST_RAX, HOST_NONE, 0, offsetof(struct tlb_entry, write));
	u8 *read_only = emit_jcc(e, COND_NZ, NULL);
	emit_test_copies(e);
	u8 *no_copy = emit_jcc(e, COND_B, NULL);
	emit_before(e);
	emit_change(e);
	emit_note_copy(e, HOST_T1, true);
	u8 *copied = emit_jmp(e, NULL);
	emit_patch(e, read_only, e->at);
	emit_patch(e, no_copy, e->at);
	emit_mov_imm(e, HOST_RAX, jit->nowhere);
	emit_store(e, HOST_RAX, HOST_CPU, LATEST(page));
	emit_store(e, HOST_T1, HOST_CPU, LATEST(addend));
	emit_patch(e, changed, e->at);
	emit_patch(e, copied, e->at);
	emit_rr(e, (struct opcode){ .byte = 0x31 }, HOST_RAX, HOST_RAX);
	emit_patch(e, miss, e->at);
	emit_pop(e, HOST_RCX);
	emit_pop(e, HOST_RAX);
	emit8(e, 0xc3);
}

void jit_make_stack_page_stubs(struct jit *jit, struct emit *e)
{
	for (unsigned write = 0; write < 2; write++) {
		const u8 *look = e->at;
		make_look(e, jit, write);
		jit->stub_stack_page[write] = e->at;
		make_look_twice(e, jit, look);
	}
}
