/*
 * From a planned block to host code.
 */
#include "jit/translation.h"

#include "base/trace.h"

#include <string.h>

static_assert(offsetof(struct block_cache, jump) == 0 && sizeof(struct jump_entry) == 1 << JUMP_ENTRY_SHIFT,
	      "as emit_lookup() computes it");

/* --- cold code --- */

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

/* Instructions of the trace up to this one, with it. */
static unsigned executed(const struct translation *t, const struct plan *p)
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

/* --- copied instructions --- */

struct operand {
	const ZydisDecodedOperand *op;
	unsigned guest;
	unsigned host;
	bool high;
};

/* Does the instruction need the register's old value? Writing 32 or 64 bits always leaves nothing of it. */
static bool needs_old(const struct plan *p, const ZydisDecodedOperand *op)
{
	/* Without a bit set in the source these leave their destination alone. */
	if (p->zi.mnemonic == ZYDIS_MNEMONIC_BSF || p->zi.mnemonic == ZYDIS_MNEMONIC_BSR)
		return true;
	return op->size < 32 || op->actions != ZYDIS_OPERAND_ACTION_WRITE;
}

/* A register operand: finds or loads its host register. */
static void take_operand(struct translation *t, const struct plan *p, unsigned encoding, unsigned temporary,
			 struct operand *o)
{
	*o = (struct operand){ 0 };
	for (unsigned i = 0; i < p->zi.operand_count; i++)
		if (p->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && p->op[i].encoding == encoding)
			o->op = &p->op[i];
	if (!o->op)
		return;
	o->guest = jit_gpr_number(o->op);
	o->high = jit_is_high_byte(o->op->reg.value);
	o->host = t->host[o->guest];
	if (o->host == HOST_NONE)
		o->host = temporary;
}

/* Does a general register of the guest that it names live in a temporary meanwhile? */
static bool uses_temporary(const struct translation *t, const struct plan *p)
{
	for (u16 named = p->named; named; named &= (u16)(named - 1))
		if (t->host[__builtin_ctz(named)] == HOST_NONE)
			return true;
	return false;
}

static void load_operand(struct translation *t, const struct plan *p, const struct operand *o)
{
	if (o->op && t->host[o->guest] == HOST_NONE && needs_old(p, o->op))
		emit_load(&t->e, o->host, HOST_CPU, guest_offset(o->guest));
}

static void store_operand(struct translation *t, const struct operand *o)
{
	if (o->op && t->host[o->guest] == HOST_NONE && (o->op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		emit_store(&t->e, o->host, HOST_CPU, guest_offset(o->guest));
}

static unsigned encoded(const struct operand *o)
{
	return o->high ? o->host + 4 : o->host;
}

static bool needs_rex(const struct operand *o)
{
	return o->op && o->op->size == 8 && !o->high && o->host >= 4;
}

static struct opcode copied_opcode(const struct plan *p)
{
	return (struct opcode){
		.byte = p->zi.opcode,
		.map = (u8)p->zi.opcode_map,
		.mandatory = p->insn->flags & INSN_REP ? 0xf3 : 0,
		.operand16 = p->zi.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE,
		.wide = p->zi.raw.rex.W,
		.lock = p->insn->flags & INSN_LOCK,
	};
}

void emit_immediates(struct translation *t, const struct plan *p)
{
	for (unsigned i = 0; i < 2; i++)
		for (unsigned n = 0; n < p->zi.raw.imm[i].size / 8u; n++)
			emit8(&t->e, p->bytes[p->zi.raw.imm[i].offset + n]);
}

/*
 * May the instruction use a guest register where it lives in memory, instead of ModRM.rm's register? Not where that
 * would leave bits 63..32 alone, or where memory means more than a register does.
 */
static bool fits_in_memory(const struct translation *t, const struct plan *p, const struct operand *rm)
{
	bool written = rm->op && rm->op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	if (p->memory || !rm->op || t->host[rm->guest] != HOST_NONE || (written && rm->op->size == 32))
		return false;
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_XCHG: /* a lock */
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_BT: /* a string of bits */
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS:
		return false;
	default:
		return true;
	}
}

/* XCHG of a register's low byte and its high one; changes no flag. */
static void emit_swap(struct translation *t, const struct operand *o)
{
	emit_rr(&t->e, (struct opcode){ .byte = 0x86 }, o->host, o->host + 4);
}

static void translate_copy(struct translation *t, const struct plan *p)
{
	struct operand reg, rm, low;
	struct place_in_memory m = { 0 };
	bool in_register = p->known, memory = p->memory && !in_register;
	if (memory)
		m = emit_place(t, p);
	if (p->reads_flags)
		need_host_flags(t);
	take_operand(t, p, ZYDIS_OPERAND_ENCODING_MODRM_REG, memory ? HOST_T2 : HOST_T1, &reg);
	take_operand(t, p, ZYDIS_OPERAND_ENCODING_MODRM_RM, HOST_T2, &rm);
	take_operand(t, p, ZYDIS_OPERAND_ENCODING_OPCODE, HOST_T1, &low);
	bool in_memory = fits_in_memory(t, p, &rm);
	/* One register twice is one temporary. */
	if (reg.op && rm.op && reg.guest == rm.guest)
		rm.host = reg.host;
	load_operand(t, p, &reg);
	if (!in_memory)
		load_operand(t, p, &rm);
	load_operand(t, p, &low);
	if (p->swaps) {
		emit_swap(t, &reg);
		reg.high = false;
	}
	struct opcode op = copied_opcode(p);
	op.byte_registers = needs_rex(&reg) || (!in_memory && needs_rex(&rm)) || needs_rex(&low);
	if (p->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		unsigned r = reg.op ? encoded(&reg) : p->zi.raw.modrm.reg;
		if (in_register)
			emit_rr(&t->e, op, r, t->host[p->known - 1]);
		else if (memory)
			emit_rm(&t->e, op, r, m.base, m.index, m.scale, m.disp);
		else if (in_memory)
			emit_rm(&t->e, op, r, HOST_CPU, HOST_NONE, 0, guest_offset(rm.guest));
		else
			emit_rr(&t->e, op, r, encoded(&rm));
	} else {
		if (low.op)
			op.byte &= 0xf8;
		emit_o(&t->e, op, low.op ? encoded(&low) : HOST_NONE);
	}
	emit_immediates(t, p);
	if (p->swaps)
		emit_swap(t, &reg);
	if (p->writes_flags)
		t->flags = IN_HOST;
	store_operand(t, &reg);
	if (!in_memory)
		store_operand(t, &rm);
	store_operand(t, &low);
}

static void translate_lea(struct translation *t, const struct plan *p)
{
	unsigned guest = jit_gpr_number(&p->op[0]), host = t->host[guest];
	unsigned to = host == HOST_NONE ? HOST_T0 : host;
	emit_address(t, p, to, p->insn->opsize == 8);
	if (host == HOST_NONE)
		emit_store(&t->e, to, HOST_CPU, guest_offset(guest));
}

/* --- the stack --- */

static void emit_adjust_rsp(struct translation *t, i32 change)
{
	emit_lea(&t->e, t->host[RSP], t->host[RSP], change);
}

void settle_rsp(struct translation *t)
{
	if (t->rsp)
		emit_adjust_rsp(t, t->rsp);
	t->rsp = 0;
}

/* Behind a push or pop. Nobody looks at RSP between those of a group, for only its leader can fault. */
static void move_rsp(struct translation *t, const struct plan *p, i32 change)
{
	t->rsp += change;
	if (!p->group)
		settle_rsp(t);
}

/* Can the instruction be done while RSP is still to be settled? It must neither leave nor fault, nor use RSP otherwise.
 */
static bool may_defer_rsp(const struct plan *p)
{
	bool follows = p->group && !p->leads;
	switch (p->kind) {
	case PLAN_PUSH:
		return follows && !(jit_is_gpr(&p->op[0]) && jit_gpr_number(&p->op[0]) == RSP);
	case PLAN_POP:
		return follows && p->insn->dst != RSP;
	case PLAN_RET:
		return follows;
	case PLAN_COPY:
		return (!p->memory || follows) && !(p->named & BIT(RSP));
	case PLAN_LEA:
		return !(p->named & BIT(RSP)) && p->insn->base != RSP;
	case PLAN_NOTHING:
		return true;
	default:
		return false;
	}
}

static void emit_load_place(struct translation *t, unsigned to, struct place_in_memory m)
{
	emit_rm(&t->e, OPCODE_WIDE(0x8b), to, m.base, m.index, m.scale, m.disp);
}

static void emit_store_place(struct translation *t, unsigned from, struct place_in_memory m)
{
	emit_rm(&t->e, OPCODE_WIDE(0x89), from, m.base, m.index, m.scale, m.disp);
}

/* PUSH of memory: each operand is checked by itself, and what was read waits in the place of RIP for the second. */
static void translate_push_memory(struct translation *t, const struct plan *p)
{
	emit_load_place(t, HOST_T0, emit_place(t, p));
	emit_store(&t->e, HOST_T0, HOST_CPU, guest_offset(REG_RIP));
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], -8, true);
	emit_load(&t->e, HOST_T2, HOST_CPU, guest_offset(REG_RIP));
	emit_store_place(t, HOST_T2, m);
	emit_adjust_rsp(t, -8);
}

static void translate_push(struct translation *t, const struct plan *p)
{
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], -8, true);
	if (p->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		emit_rm(&t->e, OPCODE_WIDE(0xc7), 0, m.base, m.index, m.scale, m.disp);
		emit32(&t->e, (u32)p->insn->imm);
	} else {
		emit_store_place(t, emit_use(t, p->insn->dst, HOST_T2), m);
	}
	move_rsp(t, p, -8);
}

void emit_rflags(struct translation *t, i32 mask)
{
	struct emit *e = &t->e;
	emit_rm(e, (struct opcode){ .byte = 0xb6, .map = 1 }, HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(arith) + 1);
	emit_alu_imm(e, 4, false, HOST_T2, RFLAGS_ARITH & 0xff);
	emit_rm(e, (struct opcode){ .byte = 0xb6, .map = 1 }, HOST_T0, HOST_CPU, HOST_NONE, 0, CPU_FIELD(arith));
	emit_alu_imm(e, 4, false, HOST_T0, ARITH_OF);
	emit_rr(e, (struct opcode){ .byte = 0xc1 }, 4, HOST_T0);
	emit8(e, __builtin_ctz(RFLAGS_OF));
	emit_rr(e, (struct opcode){ .byte = 0x0b }, HOST_T2, HOST_T0);
	emit_rm(e, OPCODE_WIDE(0x0b), HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(rflags_sys));
	emit_alu_imm(e, 4, true, HOST_T2, mask);
}

/* The image has RF and VM clear (SDM vol. 2, PUSHF). */
static void translate_push_flags(struct translation *t, const struct plan *p)
{
	give_up_host_flags(t, true);
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], -8, true);
	emit_rflags(t, ~(i32)(RFLAGS_RF | RFLAGS_VM));
	emit_store_place(t, HOST_T2, m);
	emit_adjust_rsp(t, -8);
}

static void translate_selector(struct translation *t, const struct plan *p)
{
	unsigned guest = jit_gpr_number(&p->op[0]), host = t->host[guest];
	unsigned to = host == HOST_NONE ? HOST_T0 : host, seg = (unsigned)ZydisRegisterGetId(p->op[1].reg.value);
	emit_rm(&t->e, (struct opcode){ .byte = 0xb7, .map = 1 }, to, HOST_CPU, HOST_NONE, 0,
		(i32)(offsetof(struct cpu, seg) + sizeof(struct segment) * seg + offsetof(struct segment, selector)));
	if (host == HOST_NONE)
		emit_store(&t->e, to, HOST_CPU, guest_offset(guest));
}

static void translate_pop(struct translation *t, const struct plan *p)
{
	unsigned guest = p->insn->dst, host = t->host[guest];
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], 0, false);
	emit_load_place(t, host == HOST_NONE ? HOST_T0 : host, m);
	if (guest != RSP)
		move_rsp(t, p, 8);
	if (host == HOST_NONE)
		emit_store(&t->e, HOST_T0, HOST_CPU, guest_offset(guest));
}

static void translate_leave(struct translation *t, const struct plan *p)
{
	struct place_in_memory m = emit_stack(t, p, t->host[RBP], 0, false);
	emit_lea(&t->e, t->host[RSP], t->host[RBP], 8);
	emit_load_place(t, t->host[RBP], m);
}

/* --- leaving the trace --- */

/* The first n instructions of the trace, the last of which may be a branch; those before it are counted. Uses the
 * flags. */
static void emit_count(struct translation *t, unsigned n)
{
	bool tracked = unlikely(t->cpu->pmu.tracked); /* then traces look at the count where they begin */
	emit_rm(&t->e, OPCODE_WIDE(0x83), 0, HOST_CPU, HOST_NONE, 0,
		tracked ? CPU_FIELD(counters.instructions) : CPU_FIELD(jit_instructions));
	emit8(&t->e, (u8)n);
	if (tracked && pmu_is_branch(t->jit->plan[n - 1].insn)) {
		emit_rm(&t->e, OPCODE_WIDE(0x83), 0, HOST_CPU, HOST_NONE, 0, CPU_FIELD(pmu.branches));
		emit8(&t->e, 1);
	}
}

/* A branch, where the trace goes on behind it: with the flags as they are. Uses T0. */
static void emit_count_passed(struct translation *t)
{
	if (likely(!t->cpu->pmu.tracked))
		return;
	emit_load(&t->e, HOST_T0, HOST_CPU, CPU_FIELD(pmu.branches));
	emit_lea(&t->e, HOST_T0, HOST_T0, 1);
	emit_store(&t->e, HOST_T0, HOST_CPU, CPU_FIELD(pmu.branches));
}

void emit_leave(struct translation *t, const struct jit_link *link)
{
	emit_mov_imm(&t->e, HOST_T2, (u64)link);
	emit_jmp(&t->e, t->jit->stub_leave);
}

/* To `offset` in this page, by a jump, or call, that jit.c makes direct. */
static void emit_link(struct translation *t, i64 offset, bool call, bool quiet)
{
	struct jit *jit = t->jit;
	const struct block *block = t->trace->block[0];

	jit->links_start -= sizeof(struct jit_link);
	struct jit_link *link = (struct jit_link *)(jit->writable + jit->links_start);
	*link = (struct jit_link){
		.ram_offset = (block->ram_offset & PAGE_MASK) + (u64)offset,
		.mode_key = block->mode_key,
		.quiet = quiet,
	};
	struct cold *c = add_cold(t, call ? emit_call(&t->e, NULL) : emit_jmp(&t->e, NULL));
	c->kind = COLD_UNLINKED;
	c->offset = offset;
	c->link = link;
	link->site = c->from;
}

void emit_canonical(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	emit_mov(e, HOST_T1, HOST_T0);
	emit_rr(e, OPCODE_WIDE(0xc1), 7, HOST_T1);
	emit8(e, 47);
	emit_alu_imm(e, 0, true, HOST_T1, 1);
	emit_alu_imm(e, 7, true, HOST_T1, 1);
	emit_handler_if(t, p, COND_A);
}

static void emit_miss(struct translation *t, const struct plan *p, unsigned executed)
{
	if (p) {
		emit_handler_if(t, p, COND_NZ);
	} else {
		struct cold *c = add_cold(t, emit_jcc(&t->e, COND_NZ, NULL));
		c->kind = COLD_FAR_MISS;
		c->executed = executed;
	}
}

/*
 * Looks up T0 in the jump cache: goes on with T1 = its entry there, or jumps to cold code. `p`: a miss is for its
 * handler, which does the whole branch; NULL: it leaves with RIP = T0, and `executed` instructions to count. Uses T2.
 */
static void emit_lookup(struct translation *t, const struct plan *p, unsigned executed)
{
	struct emit *e = &t->e;

	if (!t->chain) {
		if (p)
			emit_canonical(t, p);
		return;
	}
	emit_rr(e, (struct opcode){ .byte = 0x69 }, HOST_T1, HOST_T0);
	emit32(e, JUMP_FACTOR);
	emit_shift(e, 5, false, HOST_T1, JUMP_SHIFT);
	emit_alu_imm(e, 4, false, HOST_T1, -(1 << JUMP_ENTRY_SHIFT));
	emit_add_to(e, HOST_T1, CPU_FIELD(blocks));
	emit_rm(e, OPCODE_WIDE(0x39), HOST_T0, HOST_T1, HOST_NONE, 0, offsetof(struct jump_entry, linear));
	emit_miss(t, p, executed);
	emit_load(e, HOST_T2, HOST_CPU, CPU_FIELD(jit_stamp));
	emit_rm(e, OPCODE_WIDE(0x39), HOST_T2, HOST_T1, HOST_NONE, 0, offsetof(struct jump_entry, stamp));
	emit_miss(t, p, executed);
}

/* Linear address T0 is where the CPU is from now on. */
static void emit_enter_page(struct translation *t)
{
	emit_alu_imm(&t->e, 4, true, HOST_T0, -(i32)PAGE_SIZE);
	emit_store(&t->e, HOST_T0, HOST_CPU, CPU_FIELD(jit_page));
}

/* After emit_lookup(): a jump (4), or call (2), to where T1 says; T0 is its address. */
static void emit_enter_far(struct translation *t, unsigned n)
{
	emit_enter_page(t);
	emit_rm(&t->e, (struct opcode){ .byte = 0xff }, n, HOST_T1, HOST_NONE, 0, offsetof(struct jump_entry, code));
}

/* After emit_lookup(), behind instruction `p`. */
static void emit_go_far(struct translation *t, const struct plan *p)
{
	emit_count(t, executed(t, p));
	if (!t->chain) {
		emit_leave(t, NULL);
		return;
	}
	emit_enter_far(t, 4);
}

void emit_go_to(struct translation *t, const struct plan *p)
{
	emit_lookup(t, NULL, executed(t, p));
	emit_go_far(t, p);
}

static bool is_in_page(i64 offset)
{
	return offset >= 0 && offset < (i64)PAGE_SIZE;
}

static void emit_exit_far(struct translation *t, const struct plan *p, bool taken, i64 offset)
{
	if (t->chain) {
		struct jit_far *far = emit_far_check(t, taken ? p : NULL, executed(t, p), offset);
		emit_count(t, executed(t, p));
		emit_far_branch(t, far, false);
		return;
	}
	emit_page_address(t, HOST_T0, offset);
	if (taken)
		emit_canonical(t, p);
	emit_count(t, executed(t, p));
	emit_leave(t, NULL);
}

/* Not where each trace looks at the count of instructions, nor without predictions, and their stamp. */
static bool has_quiet_links(const struct translation *t)
{
	return t->chain && t->page && !t->cpu->pmu.tracked;
}

void emit_compare_attention(struct translation *t)
{
	emit_rm(&t->e, (struct opcode){ .byte = 0x83, .operand16 = true }, 7, HOST_CPU, HOST_NONE, 0,
		CPU_FIELD(attention));
	emit8(&t->e, 0);
}

/* Leaves for `offset` in this page if `condition`. */
static void emit_leave_if(struct translation *t, unsigned condition, i64 offset)
{
	struct cold *c = add_cold(t, emit_jcc(&t->e, condition, NULL));
	c->kind = COLD_ATTENTION;
	c->offset = offset;
}

/* Counts, and looks whether something wants attention: then leaves for `offset` in this page. */
static void emit_pause(struct translation *t, const struct plan *p, i64 offset)
{
	emit_count(t, executed(t, p));
	emit_compare_attention(t);
	emit_leave_if(t, COND_NZ, offset);
}

/* Will nobody look at the flags at `offset` in this page? */
static bool are_flags_dead(struct translation *t, i64 offset)
{
	const struct block *here = t->trace->block[0];
	struct block *block = block_find(t->cpu, (here->ram_offset & PAGE_MASK) + (u64)offset, here->mode_key);
	if (!block || !jit_flags_are_dead(t->cpu, t->jit, block))
		return false;
	t->lines |= block_lines(block);
	return true;
}

/*
 * To another trace of the page: its predictions are good if this one's are. Attention need not be looked at on the way
 * forward, for somewhere a way leads back. Flags that are dead there are made only where translated code is left.
 */
static void emit_quiet_exit(struct translation *t, const struct plan *p, i64 offset)
{
	if (are_flags_dead(t, offset))
		set_flags_aside(t, true);
	else
		give_up_host_flags(t, true);
	if (offset > p->offset)
		emit_count(t, executed(t, p));
	else
		emit_pause(t, p, offset);
	emit_link(t, offset, false, true);
}

/*
 * Leaves the trace behind instruction `p` for an offset counted from this page's start. A branch (`taken`) must find
 * its target canonical.
 */
static void emit_exit(struct translation *t, const struct plan *p, bool taken, i64 offset)
{
	if (has_quiet_links(t) && is_in_page(offset)) {
		emit_quiet_exit(t, p, offset);
		return;
	}
	give_up_host_flags(t, true);
	if (!is_in_page(offset)) {
		emit_exit_far(t, p, taken, offset);
		return;
	}
	emit_count(t, executed(t, p));
	if (t->chain) {
		emit_link(t, offset, false, false);
		return;
	}
	emit_page_address(t, HOST_T0, offset);
	emit_leave(t, NULL);
}

static i64 next_offset(const struct plan *p)
{
	return p->offset + p->insn->length;
}

static i64 target_offset(const struct plan *p)
{
	return next_offset(p) + (i64)p->insn->imm;
}

/* From the trace's end back to its beginning. */
static void emit_loop(struct translation *t, const struct plan *p)
{
	if (t->loop) {
		give_up_host_flags(t, t->plan->live_before);
		emit_jmp(&t->e, t->loop->start);
		return;
	}
	if (!has_quiet_links(t)) {
		give_up_host_flags(t, true);
		emit_count(t, executed(t, p));
		emit_jmp(&t->e, t->start);
		return;
	}
	if (t->plan->live_before)
		give_up_host_flags(t, true);
	else
		set_flags_aside(t, true);
	emit_pause(t, p, t->plan->offset);
	emit_jmp(&t->e, t->quiet);
}

static bool is_last(const struct translation *t, const struct plan *p)
{
	return p == t->plan + t->count - 1;
}

/* Where the code goes on behind the instruction: FOLLOW_NONE at the end, but for a loop. */
static enum follow following(const struct translation *t, const struct plan *p)
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

static void translate_jcc(struct translation *t, const struct plan *p)
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

static void translate_jmp(struct translation *t, const struct plan *p)
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
	emit_o(e, (struct opcode){ .byte = 0x50 }, HOST_T2);
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

/* T2 = the return address, which goes to the guest's stack. The instruction is done but for the jump. */
static void emit_push_return(struct translation *t, const struct plan *p)
{
	struct place_in_memory m = emit_stack(t, p, t->host[RSP], -8, true);
	emit_page_address(t, HOST_T2, next_offset(p));
	emit_store_place(t, HOST_T2, m);
	emit_adjust_rsp(t, -8);
	if (t->chain)
		emit_count(t, executed(t, p));
}

/*
 * Until the return address is pushed, where it goes, the entry of the jump cache, waits in T0; or, if that means a
 * check, in the place of RIP.
 */
static void translate_indirect_call(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	bool unchecked = p->group && !p->leads;
	emit_pointer(t, p);
	emit_lookup(t, p, 0);
	t->held = 0; /* all this used T1 */
	if (unchecked)
		emit_mov(e, HOST_T0, HOST_T1);
	else
		emit_store(e, HOST_T1, HOST_CPU, guest_offset(REG_RIP));
	emit_push_return(t, p);
	emit_open_call(t);
	if (unchecked)
		emit_mov(e, HOST_T1, HOST_T0);
	else
		emit_load(e, HOST_T1, HOST_CPU, guest_offset(REG_RIP));
	emit_load(e, HOST_T0, HOST_T1, offsetof(struct jump_entry, linear));
	emit_enter_far(t, 2);
}

/* A call that leads back looks at attention for the trace that it leads to. */
static void translate_near_call(struct translation *t, const struct plan *p, i64 target)
{
	bool quiet = has_quiet_links(t);
	emit_push_return(t, p);
	if (quiet && target <= p->offset) {
		emit_compare_attention(t);
		emit_leave_if(t, COND_NZ, target);
	}
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
	emit_push_return(t, p);
	emit_load(&t->e, HOST_T0, HOST_CPU, guest_offset(REG_RIP));
	emit_go_far(t, p);
}

static void translate_call(struct translation *t, const struct plan *p)
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
		t->held = 0;
		emit_push_return(t, p);
		emit_open_call(t);
		emit_far_branch(t, far, true);
	}
	emit_landing(t, p);
}

static void translate_ret(struct translation *t, const struct plan *p)
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

/* The guest returns to somewhere else than behind the last open call: all are forgotten. */
static void emit_odd_return(struct translation *t, const struct plan *p)
{
	emit_load(&t->e, HOST_RSP, HOST_CPU, CPU_FIELD(jit_stack));
	emit_lookup(t, p, 0);
	emit_adjust_rsp(t, 8 + (u16)p->insn->imm);
	emit_go_far(t, p);
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
	if (c->prediction)
		emit_cold_predict(t, c);
	if (c->kind == COLD_GO_ON_PLAIN || c->kind == COLD_PREDICT_STRETCH)
		emit_leave_stretch(t);
	if (c->recipe.plan)
		emit_recipe_to_memory(t, &c->recipe);
	switch (c->kind) {
	case COLD_HANDLER:
	case COLD_PREDICT:
		emit_cold_handler(t, c);
		break;
	case COLD_PREDICT_GROUP:
		emit_cold_fill_predicted(t, c);
		break;
	case COLD_FORGET:
		emit_cold_forget(t, c);
		break;
	case COLD_FILL:
		emit_cold_fill(t, c);
		break;
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
			emit_leave_stretch(t);
			give_up_host_flags(t, true);
			emit_rounds_done(t, c->plan);
		}
		emit_exit(t, c->plan, c->taken, c->offset);
		break;
	case COLD_UNLINKED:
		c->link->unlinked = start;
		emit_page_address(t, HOST_T0, c->offset);
		emit_leave(t, c->link);
		break;
	case COLD_TOO_DEEP:
		emit_load(e, HOST_RSP, HOST_CPU, CPU_FIELD(jit_stack));
		emit_jmp(e, c->back);
		break;
	case COLD_ODD_RETURN:
		emit_odd_return(t, c->plan);
		break;
	case COLD_ATTENTION:
		emit_page_address(t, HOST_T0, c->offset);
		emit_leave(t, NULL);
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
		emit_leave(t, NULL);
		break;
	case COLD_FAR_UNBOUND:
		emit_cold_far_unbound(t, c);
		break;
	case COLD_FAR_MISS:
		if (c->executed)
			emit_count(t, c->executed);
		emit_leave(t, NULL);
		break;
	case COLD_VECTORS:
		emit_site(t, c->plan, VECTORS_NONE, false);
		emit_call(e, t->jit->stub_enter_vectors[c->vectors]);
		emit_jmp(e, c->resume);
		break;
	case COLD_NO_STRETCH:
		emit_patch(e, c->from, t->plain);
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
	bool operand = p->insn->flags & INSN_MEM;
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
	case PLAN_LEA: {
		if (p->insn->base == REG_RIP)
			return (i32)p->insn->disp + (i64)p->offset + p->insn->length <= INT32_MAX ? held : 0;
		unsigned index = p->insn->index;
		return operand && (index == REG_ZERO || t->host[index] != HOST_NONE) ? held : 0;
	}
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
		if (p->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY)
			translate_push_memory(t, p);
		else
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
	if (!emit_begin_predictions(t) && t->chain) {
		emit_compare_attention(t);
		emit_leave_if(t, COND_NZ, t->plan->offset);
	}
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
	jit_keep_predictions(jit, t.predictions);
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
