/*
 * Ways out of a trace: to other traces of its page by links, elsewhere by the jump cache or far jumps, and back to its
 * beginning.
 */
#include "jit/translation.h"

static_assert(offsetof(struct block_cache, jump) == 0 && sizeof(struct jump_entry) == 1 << JUMP_ENTRY_SHIFT,
	      "as emit_lookup() computes it");

void emit_count(struct translation *t, unsigned n)
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

void emit_count_passed(struct translation *t)
{
	if (likely(!t->cpu->pmu.tracked))
		return;
	emit_load(&t->e, HOST_T0, HOST_CPU, CPU_FIELD(pmu.branches));
	emit_lea(&t->e, HOST_T0, HOST_T0, 1);
	emit_store(&t->e, HOST_T0, HOST_CPU, CPU_FIELD(pmu.branches));
}

void emit_leave(struct translation *t)
{
	emit_jmp(&t->e, t->jit->stub_leave);
}

void emit_link(struct translation *t, i64 offset, bool call, bool quiet)
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
	emit_shift(e, 7, true, HOST_T1, 47);
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

void emit_lookup(struct translation *t, const struct plan *p, unsigned executed)
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

void emit_enter_page(struct translation *t)
{
	emit_alu_imm(&t->e, 4, true, HOST_T0, -(i32)PAGE_SIZE);
	emit_store(&t->e, HOST_T0, HOST_CPU, CPU_FIELD(jit_page));
}

void emit_enter_far(struct translation *t, unsigned n)
{
	emit_enter_page(t);
	emit_rm(&t->e, (struct opcode){ .byte = 0xff }, n, HOST_T1, HOST_NONE, 0, offsetof(struct jump_entry, code));
}

void emit_go_far(struct translation *t, const struct plan *p)
{
	emit_count(t, executed(t, p));
	if (!t->chain) {
		emit_leave(t);
		return;
	}
	emit_enter_far(t, 4);
}

void emit_go_to(struct translation *t, const struct plan *p)
{
	emit_lookup(t, NULL, executed(t, p));
	emit_go_far(t, p);
}

static void emit_exit_far(struct translation *t, const struct plan *p, bool taken, i64 offset)
{
	if (t->chain) {
		struct jit_far *far = emit_far_check(t, taken ? p : NULL, executed(t, p), offset);
		emit_count(t, executed(t, p));
		emit_far_branch(t, far, false, true);
		return;
	}
	emit_page_address(t, HOST_T0, offset);
	if (taken)
		emit_canonical(t, p);
	emit_count(t, executed(t, p));
	emit_leave(t);
}

/* Not where each trace looks at the count of instructions. */
bool has_quiet_links(const struct translation *t)
{
	return t->chain && !t->cpu->pmu.tracked;
}

void emit_compare_attention(struct translation *t)
{
	emit_rm(&t->e, (struct opcode){ .byte = 0x83, .operand16 = true }, 7, HOST_CPU, HOST_NONE, 0,
		CPU_FIELD(attention));
	emit8(&t->e, 0);
}

void emit_leave_for_attention(struct translation *t, i64 offset)
{
	emit_compare_attention(t);
	emit_leave_if(t, COND_NZ, offset);
}

void emit_leave_if(struct translation *t, unsigned condition, i64 offset)
{
	struct cold *c = add_cold(t, emit_jcc(&t->e, condition, NULL));
	c->kind = COLD_ATTENTION;
	c->offset = offset;
}

/* Counts, and looks whether something wants attention: then leaves for `offset` in this page. */
static void emit_pause(struct translation *t, const struct plan *p, i64 offset)
{
	emit_count(t, executed(t, p));
	emit_leave_for_attention(t, offset);
}

/* Will nobody look at the flags at `offset` in this page? */
static bool are_flags_dead(struct translation *t, i64 offset)
{
	const struct block *here = t->trace->block[0];
	u64 ram_offset = (here->ram_offset & PAGE_MASK) + (u64)offset;
	struct block *block = block_find(t->cpu, ram_offset, here->mode_key);
	if (!block)
		return jit_flags_are_dead_ahead(t->cpu, t->jit, ram_offset, here->mode_key, &t->lines);
	if (!jit_flags_are_dead(t->cpu, t->jit, block))
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

void emit_exit(struct translation *t, const struct plan *p, bool taken, i64 offset)
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
	emit_leave(t);
}

void emit_loop(struct translation *t, const struct plan *p)
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
