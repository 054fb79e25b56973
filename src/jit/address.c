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

void emit_add_field(struct translation *t, unsigned reg, i32 field)
{
	emit_add_to(&t->e, reg, field);
}

void emit_add_segment(struct translation *t, unsigned reg, unsigned seg)
{
	if (has_base(seg))
		emit_add_field(t, reg, (i32)(offsetof(struct cpu, seg_base) + 8 * seg));
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
	return (i64)p->insn->disp + p->offset + p->insn->length;
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

/*
 * Is the linear address just base + constant, with the base in a host register? Then it need not be computed for a
 * check, nor for the access.
 */
static bool is_near(const struct translation *t, const struct plan *p, i64 disp)
{
	const struct insn *insn = p->insn;
	bool lock = insn->flags & INSN_LOCK || p->zi.mnemonic == ZYDIS_MNEMONIC_XCHG;
	return insn->base < GPR_COUNT && t->host[insn->base] != HOST_NONE && insn->index == REG_ZERO &&
	       !has_base(segment_of(p)) && !p->alignment && !lock && disp == (i32)disp &&
	       disp + 512 == (i32)(disp + 512);
}

/* --- operands by themselves --- */

/* Of a plain copy, this is where a stretch goes on that could not check the operand. */
static void give_up_for_check(struct translation *t, const struct plan *p)
{
	set_flags_aside(t, p->live_before);
	if (!t->loop)
		t->plain_at[p - t->plan] = t->e.at;
}

/* The host address of `size` bytes at linear address T0, or the handler does it all. */
static struct place_in_memory emit_check(struct translation *t, const struct plan *p, unsigned size, bool write)
{
	if (emit_predicted(t, p, (struct range){ HOST_T0, 0, size, write }, false))
		return (struct place_in_memory){ .base = HOST_T0, .index = HOST_T1 };
	emit_compare(t, HOST_T0, 0, size, write);
	emit_handler_if(t, p, COND_NZ);
	emit_rm(&t->e, OPCODE_WIDE(0x03), HOST_T0, HOST_T1, HOST_NONE, 0, offsetof(struct tlb_entry, addend));
	return (struct place_in_memory){ .base = HOST_T0, .index = HOST_NONE };
}

/* The same at base + disp. */
static struct place_in_memory emit_near_check(struct translation *t, const struct plan *p, unsigned base, i32 disp,
					      unsigned size, bool write)
{
	if (!emit_predicted(t, p, (struct range){ base, disp, size, write }, false)) {
		emit_compare(t, base, disp, size, write);
		emit_handler_if(t, p, COND_NZ);
		emit_load(&t->e, HOST_T1, HOST_T1, offsetof(struct tlb_entry, addend));
	}
	return (struct place_in_memory){ (u8)base, HOST_T1, 0, disp };
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
	const struct insn *insn = p->insn;
	give_up_for_check(t, p);
	if (is_near(t, p, insn->disp))
		return emit_near_check(t, p, t->host[insn->base], insn->disp, p->memory_size, p->memory_write);
	emit_address(t, p, HOST_T0, true);
	emit_add_segment(t, HOST_T0, segment_of(p));
	/* The host's kernel may punish locks across cache lines; the handler does without. */
	if (p->memory_size > 1 && (insn->flags & INSN_LOCK || p->zi.mnemonic == ZYDIS_MNEMONIC_XCHG))
		emit_alignment(t, p, p->memory_size - 1u);
	if (p->alignment)
		emit_alignment(t, p, p->alignment);
	return emit_check(t, p, p->memory_size, p->memory_write);
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
	c->kind = COLD_UNGROUP;
	c->plan = p;
}

/*
 * Where a group's range begins: base + disp; computed in T0, unless that is a guest register plus a constant in any
 * case.
 */
struct range_start {
	unsigned base;
	i32 disp;
};

static struct range_start range_start(const struct translation *t, const struct plan *p)
{
	const struct insn *insn = p->insn;
	switch (p->kind) {
	case PLAN_PUSH:
	case PLAN_PUSH_FLAGS:
	case PLAN_CALL:
		return (struct range_start){ t->host[RSP], p->group_low - 8 };
	case PLAN_POP:
	case PLAN_RET:
		return (struct range_start){ t->host[RSP], p->group_low };
	case PLAN_LEAVE:
		return (struct range_start){ t->host[RBP], p->group_low };
	default:
		if (is_near(t, p, (i64)insn->disp + p->group_low))
			return (struct range_start){ t->host[insn->base], insn->disp + p->group_low };
		return (struct range_start){ HOST_T0, 0 };
	}
}

static struct range_start emit_range_start(struct translation *t, const struct plan *p)
{
	struct range_start start = range_start(t, p);
	if (start.base != HOST_T0)
		return start;
	emit_address_plus(t, p, HOST_T0, true, p->group_low);
	emit_add_segment(t, HOST_T0, segment_of(p));
	return start;
}

/* Checks the group's range. T1 = the page's addend. */
static void emit_lead_check(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	struct range_start start = emit_range_start(t, p);
	if (p->alignment) {
		emit_test_alignment(t, p->alignment);
		emit_ungroup_if(t, p, COND_NZ);
	}
	if (emit_predicted(t, p, (struct range){ start.base, start.disp, p->group_size, p->group_write }, true))
		return;
	emit_compare(t, start.base, start.disp, p->group_size, p->group_write);
	if (t->loop) {
		emit_go_on_plain_if(t, p, COND_NZ);
	} else {
		struct cold *c = add_cold(t, emit_jcc(e, COND_NZ, NULL));
		c->kind = COLD_FILL;
		c->plan = p;
		c->back = e->at;
	}
	emit_load(e, HOST_T1, HOST_T1, offsetof(struct tlb_entry, addend));
}

void emit_cold_ungroup(struct translation *t, const struct cold *c)
{
	emit_site(t, c->plan, VECTORS_NONE, false);
	emit_jmp(&t->e, t->jit->stub_ungroup);
}

/* Fills the TLB with the leader's page; T0 is where the range begins. */
static void emit_fill(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	emit_mov_imm(e, HOST_T2, (u64)(u32)-p->group_low << 1 | jit_writes(p));
	emit_call(e, t->jit->stub_fill);
	if (p->vectors_before)
		emit_call(e, t->jit->stub_load_vectors[p->vectors_before]);
	if (p->x87_before)
		emit_call(e, t->jit->stub_load_x87);
}

/* The TLB has not got the group's range: fills it, and looks once more. */
void emit_cold_fill(struct translation *t, const struct cold *c)
{
	const struct plan *p = c->plan;
	struct range_start start = range_start(t, p);
	if (start.base != HOST_T0)
		emit_lea(&t->e, HOST_T0, start.base, start.disp);
	emit_fill(t, p);
	emit_compare(t, HOST_T0, 0, p->group_size, p->group_write);
	emit_jcc(&t->e, COND_Z, c->back);
	emit_cold_ungroup(t, c);
}

/* The same behind emit_cold_predict(). */
void emit_cold_fill_predicted(struct translation *t, const struct cold *c)
{
	emit_fill(t, c->plan);
	emit_cold_predict_again(t, c);
	emit_cold_ungroup(t, c);
}

/*
 * The group's addend in T1, loaded or found by its leader, with all that the members' addresses have in common but
 * registers: the page of RIP, the segment's base.
 */
static void emit_addend(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	if (!p->leads) {
		if (t->held != p->group)
			emit_load(e, HOST_T1, HOST_CPU, slot_offset(p));
		return;
	}
	emit_lead_check(t, p);
	emit_add_segment(t, HOST_T1, segment_of(p));
	if (p->insn->flags & INSN_MEM && p->insn->base == REG_RIP)
		emit_add_field(t, HOST_T1, CPU_FIELD(jit_page));
	emit_store(e, HOST_T1, HOST_CPU, slot_offset(p));
}

static struct place_in_memory emit_grouped(struct translation *t, const struct plan *p)
{
	const struct insn *insn = p->insn;
	if (p->leads)
		give_up_for_check(t, p);
	if (insn->index != REG_ZERO) {
		if (p->leads)
			emit_addend(t, p);
		emit_address(t, p, HOST_T0, true);
		emit_load(&t->e, HOST_T1, HOST_CPU, slot_offset(p));
		return (struct place_in_memory){ .base = HOST_T0, .index = HOST_T1 };
	}
	emit_addend(t, p);
	if (insn->base == REG_RIP)
		return (struct place_in_memory){ HOST_T1, HOST_NONE, 0, (i32)page_offset(p) };
	if (insn->base == REG_ZERO)
		return (struct place_in_memory){ HOST_T1, HOST_NONE, 0, insn->disp };
	return (struct place_in_memory){ (u8)emit_use(t, insn->base, HOST_T0), HOST_T1, 0, insn->disp };
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
	if (!p->group || p->leads)
		give_up_for_check(t, p);
	if (!p->group)
		return emit_near_check(t, p, base, change, 8, write);
	emit_addend(t, p);
	return (struct place_in_memory){ (u8)base, HOST_T1, 0, change };
}
