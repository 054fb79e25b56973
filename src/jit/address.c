/*
 * Operands in memory: from the guest's address to the host's, by the TLB.
 *
 * Ungrouped, an operand that the TLB does not know is for its instruction's handler. A group's leader first has C code
 * fill the TLB; where that does not help (another page, a device, a fault), the interpreter does the rest of the block.
 */
#include "jit/translation.h"

static_assert(sizeof(struct tlb_entry) == 32 && PAGE_SHIFT == 12, "as emit_compare() computes it");

static bool has_base(unsigned seg)
{
	return seg == SEG_FS || seg == SEG_GS;
}

/* Of its operand in memory; what only pushes and pops has none. */
static unsigned segment_of(const struct plan *p)
{
	return p->insn->flags & INSN_MEM ? p->insn->seg : SEG_FLAT;
}

void emit_add_to(struct emit *e, unsigned reg, i32 field)
{
	emit_rm(e, OPCODE_WIDE(0x03), reg, HOST_CPU, HOST_NONE, 0, field);
}

void emit_add_segment(struct translation *t, unsigned reg, unsigned seg)
{
	if (has_base(seg))
		emit_add_to(&t->e, reg, (i32)(offsetof(struct cpu, seg_base) + 8 * seg));
}

/* ADD `reg`, guest register. Uses the flags. */
static void emit_add_guest(struct translation *t, unsigned reg, unsigned guest)
{
	if (t->host[guest] == HOST_NONE)
		emit_add_to(&t->e, reg, guest_offset(guest));
	else
		emit_rr(&t->e, OPCODE_WIDE(0x03), reg, t->host[guest]);
}

unsigned emit_use(struct translation *t, unsigned guest, unsigned temporary)
{
	if (t->host[guest] != HOST_NONE)
		return t->host[guest];
	emit_load(&t->e, temporary, HOST_CPU, guest_offset(guest));
	return temporary;
}

void emit_page_address(struct translation *t, unsigned to, i64 offset)
{
	emit_load(&t->e, to, HOST_CPU, CPU_FIELD(jit_page));
	if (offset == (i32)offset) {
		emit_lea(&t->e, to, to, (i32)offset);
		return;
	}
	emit_mov_imm(&t->e, HOST_T1, (u64)offset);
	emit_rm(&t->e, OPCODE_WIDE(0x8d), to, to, HOST_T1, 0, 0);
}

static i64 page_offset(const struct plan *p)
{
	return p->insn->disp + next_offset(p);
}

/* The same plus a constant. */
static void emit_address_plus(struct translation *t, const struct plan *p, unsigned to, bool wide, i32 plus)
{
	const struct insn *insn = p->insn;
	if (insn->base == REG_RIP) {
		emit_page_address(t, to, page_offset(p) + plus);
		if (!wide)
			emit_rr(&t->e, (struct opcode){ .byte = 0x89 }, to, to);
		return;
	}
	unsigned base = insn->base == REG_ZERO ? HOST_NONE : emit_use(t, insn->base, HOST_T0);
	unsigned index = insn->index == REG_ZERO ? HOST_NONE : emit_use(t, insn->index, HOST_T1);
	struct opcode lea = { .byte = 0x8d, .wide = wide };
	i64 disp = (i64)insn->disp + plus;
	bool fits = disp == (i32)disp;
	emit_rm(&t->e, lea, to, base, index, insn->scale, fits ? (i32)disp : insn->disp);
	if (!fits)
		emit_lea(&t->e, to, to, plus);
}

void emit_address(struct translation *t, const struct plan *p, unsigned to, bool wide)
{
	emit_address_plus(t, p, to, wide, 0);
}

bool address_takes_t1(const struct translation *t, const struct plan *p)
{
	const struct insn *insn = p->insn;
	if (insn->base == REG_RIP)
		return page_offset(p) != (i32)page_offset(p);
	return insn->index != REG_ZERO && t->host[insn->index] == HOST_NONE;
}

/* This is access_hit(); that the tag of the last byte's page must be that of the first one's entry excludes ranges
 * across pages. */
void emit_compare_tag(struct translation *t, unsigned base, i32 disp, unsigned size, i32 tag)
{
	struct emit *e = &t->e;
	if (disp)
		emit_rm(e, (struct opcode){ .byte = 0x8d }, HOST_T1, base, HOST_NONE, 0, disp);
	else
		emit_rr(e, (struct opcode){ .byte = 0x89 }, base, HOST_T1);
	emit_rr(e, (struct opcode){ .byte = 0xc1 }, 5, HOST_T1);
	emit8(e, 7);
	emit_alu_imm(e, 4, false, HOST_T1, (TLB_ENTRIES - 1) << 5);
	emit_rm(e, OPCODE_WIDE(0x03), HOST_T1, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.tlb));
	emit_lea(e, HOST_T2, base, disp + (i32)size - 1);
	emit_alu_imm(e, 4, true, HOST_T2, -(i32)PAGE_SIZE);
	emit_rm(e, OPCODE_WIDE(0x0b), HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.revision));
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_T2, HOST_T1, HOST_NONE, 0, tag);
}

void emit_compare(struct translation *t, unsigned base, i32 disp, unsigned size, bool write)
{
	emit_compare_tag(t, base, disp, size,
			 write ? offsetof(struct tlb_entry, write) : offsetof(struct tlb_entry, read));
}

/* A linear address: what a host register holds, plus a constant. */
struct linear {
	unsigned base;
	i32 disp;
};

static bool is_locked(const struct plan *p)
{
	return p->insn->flags & INSN_LOCK || p->zi.mnemonic == ZYDIS_MNEMONIC_XCHG;
}

/* Room for the displacements of a range's other bytes, and for the negative. */
static bool is_disp(i64 disp)
{
	return disp >= INT32_MIN + 512 && disp <= INT32_MAX - 512;
}

/* The displacement of an address without index, whose base is a register or the page of RIP. */
static i64 disp_of(const struct plan *p)
{
	return p->insn->base == REG_RIP ? page_offset(p) : p->insn->disp;
}

/* Need the linear address not be computed for a check, because it is a host register plus a constant anyway? */
static bool is_near(const struct plan *p, i32 plus)
{
	const struct insn *insn = p->insn;
	return insn->index == REG_ZERO && !p->alignment && !is_locked(p) && is_disp(disp_of(p) + plus) &&
	       (insn->base != REG_ZERO || has_base(segment_of(p)));
}

/* The register is the guest's own, or T0. */
static unsigned emit_near_base(struct translation *t, const struct plan *p)
{
	unsigned guest = p->insn->base, seg = segment_of(p);
	if (guest == REG_RIP)
		emit_load(&t->e, HOST_T0, HOST_CPU, CPU_FIELD(jit_page));
	else if (guest != REG_ZERO && !has_base(seg))
		return emit_use(t, guest, HOST_T0);
	else if (has_base(seg))
		emit_load(&t->e, HOST_T0, HOST_CPU, (i32)(offsetof(struct cpu, seg_base) + 8 * seg));
	if (has_base(seg) && guest == REG_RIP)
		emit_add_segment(t, HOST_T0, seg);
	else if (has_base(seg) && guest != REG_ZERO)
		emit_add_guest(t, HOST_T0, guest);
	return HOST_T0;
}

/* The operand's address plus a constant. */
static struct linear emit_linear(struct translation *t, const struct plan *p, i32 plus)
{
	if (is_near(p, plus))
		return (struct linear){ emit_near_base(t, p), (i32)disp_of(p) + plus };
	emit_address_plus(t, p, HOST_T0, true, plus);
	emit_add_segment(t, HOST_T0, segment_of(p));
	return (struct linear){ HOST_T0, 0 };
}

/* --- operands by themselves --- */

/* Of a plain copy, this is where a stretch goes on that could not check the operand. */
static void give_up_for_check(struct translation *t, const struct plan *p)
{
	if (p->stored_later)
		give_up_host_flags(t, p->live_before);
	else
		set_flags_aside(t, p->live_before);
	if (!t->loop)
		t->plain_at[p - t->plan] = t->e.at;
}

/* The host address of `size` bytes, or the handler does it all. */
static struct place_in_memory emit_check(struct translation *t, const struct plan *p, struct linear at, unsigned size,
					 bool write)
{
	struct range r = { at.base, at.disp, size, write };
	if (!emit_stack_page(t, p, r, false) && !emit_predicted(t, p, r, false)) {
		emit_compare(t, at.base, at.disp, size, write);
		emit_handler_if(t, p, COND_NZ);
		emit_load(&t->e, HOST_T1, HOST_T1, offsetof(struct tlb_entry, addend));
	}
	return (struct place_in_memory){ (u8)at.base, HOST_T1, 0, at.disp };
}

void emit_test_alignment(struct translation *t, u32 mask)
{
	emit_rr(&t->e, (struct opcode){ .byte = 0xf7 }, 0, HOST_T0);
	emit32(&t->e, mask);
}

static void emit_alignment(struct translation *t, const struct plan *p, u32 mask)
{
	emit_test_alignment(t, mask);
	emit_handler_if(t, p, COND_NZ);
}

static struct place_in_memory emit_single(struct translation *t, const struct plan *p)
{
	give_up_for_check(t, p);
	struct linear at = emit_linear(t, p, 0);
	/* The host's kernel may punish locks across cache lines; the handler does without. */
	if (p->memory_size > 1 && is_locked(p))
		emit_alignment(t, p, p->memory_size - 1u);
	if (p->alignment)
		emit_alignment(t, p, p->alignment);
	return emit_check(t, p, at, p->memory_size, p->memory_write);
}

/* --- groups --- */

static i32 slot_offset(const struct plan *p)
{
	return addend_offset(p->group - 1u);
}

static void emit_ungroup_if(struct translation *t, const struct plan *p, unsigned condition)
{
	if (t->loop) {
		emit_go_on_plain_if(t, p, condition);
		return;
	}
	struct cold *c = add_cold(t, emit_jcc(&t->e, condition, NULL));
	c->kind = t->split ? COLD_SPLIT : COLD_UNGROUP;
	c->plan = plain_plan(t, p);
}

/* Where a group's range begins. */
static struct linear emit_range_start(struct translation *t, const struct plan *p)
{
	switch (p->kind) {
	case PLAN_PUSH:
	case PLAN_PUSH_FLAGS:
	case PLAN_CALL:
		return (struct linear){ t->host[RSP], p->group_low - 8 };
	case PLAN_POP:
	case PLAN_RET:
		return (struct linear){ t->host[RSP], p->group_low };
	case PLAN_LEAVE:
		return (struct linear){ t->host[RBP], p->group_low };
	default:
		return emit_linear(t, p, p->group_low);
	}
}

/* Checks the group's range, and returns where it begins. T1 = the page's addend. */
static struct linear emit_lead_check(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	struct linear start = emit_range_start(t, p);
	if (p->alignment) {
		emit_test_alignment(t, p->alignment);
		emit_ungroup_if(t, p, COND_NZ);
	}
	struct range r = { start.base, start.disp, p->group_size, p->group_write };
	if (emit_stack_page(t, p, r, true) || emit_predicted(t, p, r, true))
		return start;
	emit_compare(t, r.base, r.disp, r.size, r.write);
	if (t->loop || t->split) {
		emit_ungroup_if(t, p, COND_NZ);
	} else {
		struct cold *c = add_cold(t, emit_jcc(e, COND_NZ, NULL));
		c->kind = COLD_FILL;
		c->plan = p;
		c->back = e->at;
		c->range = r;
	}
	emit_load(e, HOST_T1, HOST_T1, offsetof(struct tlb_entry, addend));
	return start;
}

void emit_cold_ungroup(struct translation *t, const struct cold *c)
{
	emit_site(t, c->plan, VECTORS_NONE, false);
	emit_jmp(&t->e, t->jit->stub_ungroup);
}

/* The TLB has not got the group's range: fills it with the leader's page, and looks once more. */
void emit_cold_fill(struct translation *t, const struct cold *c)
{
	const struct plan *p = c->plan;
	emit_lea(&t->e, HOST_T0, c->range.base, c->range.disp - p->group_low);
	emit_mov_imm(&t->e, HOST_T2, jit_writes(p));
	emit_call(&t->e, t->jit->stub_fill);
	emit_lea(&t->e, HOST_T0, HOST_T0, p->group_low);
	emit_compare(t, HOST_T0, 0, c->range.size, c->range.write);
	emit_lea(&t->e, HOST_T0, HOST_T0, -c->range.disp);
	emit_jcc(&t->e, COND_Z, c->back);
	emit_cold_ungroup(t, c);
}

/* Will a member of the leader's group want what it kept once T1 has something else? */
static bool is_slot_read(const struct translation *t, const struct plan *leader)
{
	u8 held = held_behind(t, leader, leader->group);
	for (const struct plan *p = leader + 1; p != t->plan + t->count; p++) {
		if (p->group == leader->group && (held != p->group || p->kind == PLAN_CALL))
			return true;
		held = held_behind(t, p, held);
	}
	return false;
}

/* What the group keeps, in T1: loaded, or found by the leader. */
static void emit_kept(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	const u64 **predicted = &t->group_addend[p->group - 1];
	if (!p->leads) {
		if (t->held == p->group)
			return;
		if (*predicted)
			emit_load_predicted(t, HOST_T1, *predicted);
		else
			emit_load(e, HOST_T1, HOST_CPU, slot_offset(p));
		return;
	}
	*predicted = NULL;
	struct linear start = emit_lead_check(t, p);
	if (p->group_place || (*predicted == &t->cpu->mmu.stack.addend && !is_stack_page_kept(t, p)))
		*predicted = NULL;
	if (p->group_place)
		emit_rm(e, OPCODE_WIDE(0x8d), HOST_T1, start.base, HOST_T1, 0, start.disp - p->group_low);
	if (!*predicted && is_slot_read(t, p))
		emit_store(e, HOST_T1, HOST_CPU, slot_offset(p));
}

/* An operand whose address is `base` + disp. */
static struct place_in_memory in_group(const struct plan *p, unsigned base, i32 disp)
{
	return p->group_place ? (struct place_in_memory){ HOST_T1, HOST_NONE, 0, p->group_offset }
			      : (struct place_in_memory){ (u8)base, HOST_T1, 0, disp };
}

static struct place_in_memory emit_grouped(struct translation *t, const struct plan *p)
{
	if (p->leads)
		give_up_for_check(t, p);
	i32 rsp = p->insn->base == RSP ? t->rsp : 0, disp = p->insn->disp + rsp;
	bool wide = p->insn->index != REG_ZERO && !p->group_place;
	if (wide)
		emit_address_plus(t, p, HOST_T0, true, rsp);
	emit_kept(t, p);
	if (wide)
		return (struct place_in_memory){ HOST_T0, HOST_T1, 0, 0 };
	return in_group(p, p->group_place ? HOST_NONE : emit_use(t, p->insn->base, HOST_T0), disp);
}

/* --- what others call --- */

struct place_in_memory emit_place(struct translation *t, const struct plan *p)
{
	return p->hoisted ? emit_hoisted(t, p) : p->group ? emit_grouped(t, p) : emit_single(t, p);
}

void emit_operand(struct translation *t, const struct plan *p)
{
	emit_one_register(t, emit_place(t, p));
}

struct place_in_memory emit_one_register(struct translation *t, struct place_in_memory m)
{
	if (m.base != HOST_T0 || m.index != HOST_NONE || m.disp)
		emit_rm(&t->e, OPCODE_WIDE(0x8d), HOST_T0, m.base, m.index, m.scale, m.disp);
	return (struct place_in_memory){ .base = HOST_T0, .index = HOST_NONE };
}

struct place_in_memory emit_stack(struct translation *t, const struct plan *p, unsigned base, i32 change, bool write)
{
	if (!jit_follows(p))
		give_up_for_check(t, p);
	if (!p->group)
		return emit_check(t, p, (struct linear){ base, change }, 8, write);
	emit_kept(t, p);
	return in_group(p, base, change + t->rsp);
}

void emit_load_place(struct translation *t, unsigned to, struct place_in_memory m)
{
	emit_rm(&t->e, OPCODE_WIDE(0x8b), to, m.base, m.index, m.scale, m.disp);
}

void emit_store_place(struct translation *t, unsigned from, struct place_in_memory m)
{
	emit_rm(&t->e, OPCODE_WIDE(0x89), from, m.base, m.index, m.scale, m.disp);
}
