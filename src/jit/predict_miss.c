/*
 * Where a prediction is wrong or forgotten: stubs that look into the TLB and predict anew, and that forget all of a
 * page; and operands, and indirect branches, for which that comes so often that they had better not be predicted.
 */
#include "cpu/block_cache.h"
#include "jit/translation.h"

enum {
	/*
	 * Every so many misses, one is looked at: if they came one in so many instructions, and this operand has been
	 * met so often, its page changes all the time, and the TLB is the better place to look. Likewise where an
	 * indirect branch leads, and the jump cache.
	 */
	MISSES = 64,
	RARE = 250,
	ROAMING = 4,
	PREDICTION_SHIFT = 4,
	NEXT_SHIFT = 2
};

static_assert(sizeof(struct prediction) == 16 && sizeof(struct page_predictions) == 16,
	      "as translated code finds them");
static_assert(1 << PREDICTION_SHIFT == sizeof(struct prediction) && 1 << NEXT_SHIFT == sizeof(u32), "likewise");

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

/* BYTE [[CPU + table] + copy_index(RCX)] = 1. Uses T2. */
static void emit_note(struct emit *e, i32 table)
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

void emit_note_copy(struct emit *e, unsigned addend, bool write)
{
	emit_mov(e, HOST_RCX, HOST_T0);
	emit_note(e, CPU_FIELD(mmu.copies.pages));
	if (!write)
		return;
	emit_rm(e, OPCODE_WIDE(0x8d), HOST_RCX, HOST_T0, addend, 0, 0);
	emit_note(e, CPU_FIELD(mmu.copies.writable));
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
	emit_shift(e, 5, false, HOST_RCX, REFERENCE_PAGE);
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

/* RAX = addend of the page at T0: the listed prediction T1 copies it. Uses RCX and T2. */
static void emit_copy(struct emit *e, bool write)
{
	emit_mov(e, HOST_RCX, HOST_T0);
	emit_alu_imm(e, 4, true, HOST_RCX, -(i32)PAGE_SIZE);
	emit_store(e, HOST_RCX, HOST_T1, offsetof(struct prediction, page));
	emit_note_copy(e, HOST_RAX, write);
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

void emit_find_entry(struct emit *e, bool write)
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
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_RCX, HOST_RAX, HOST_NONE, 0,
		write ? offsetof(struct tlb_entry, write) : offsetof(struct tlb_entry, read));
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
	emit_shift(e, 5, true, HOST_T1, REFERENCE_NUMBER);
	emit_prediction_of(e, jit, HOST_T1, HOST_RCX);
	emit_find_entry(e, write);
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
	emit_shift(e, 5, true, HOST_RAX, REFERENCE_NUMBER);
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
	block_retranslate(cpu, (struct block *)(cpu->blocks->arena + info->head));
}
