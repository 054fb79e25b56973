/*
 * SYSCALL and SYSRET of 64-bit code: into the kernel and back, without C code. As exec_syscall() and exec_sysret() do
 * it (SDM vol. 2); whatever is unusual is left to them. Calls that are open on the host's stack are so no more: where
 * RET leads, nobody asks whether the stamp of the MMU's copies has changed.
 */
#include "jit/translation.h"

enum { COMMON = SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_ACCESSED | SEG_AR_G };

bool jit_plan_ring(const struct cpu *cpu, const struct jit *jit, const struct plan *p)
{
	/* The checker cannot do these twice; handlers count them as branches where that is wanted. */
	if (jit->options.check || cpu->pmu.tracked || !p->insn->mnemonic || p->insn->exec == insn_exec_undefined)
		return false;
	if (p->zi.mnemonic == ZYDIS_MNEMONIC_SYSCALL)
		return true;
	/* AMD's leaves part of SS alone, and takes any RIP. */
	return p->zi.mnemonic == ZYDIS_MNEMONIC_SYSRET && p->insn->opsize == 8 && cpu->config->nested != NESTED_SVM;
}

/* --- pieces --- */

/* MOV of an immediate to a field of 2, 4 or 8 bytes; sign-extended. */
static void emit_set(struct translation *t, unsigned size, i32 field, u32 value)
{
	struct opcode mov = { .byte = 0xc7, .operand16 = size == 2, .wide = size == 8 };
	emit_rm(&t->e, mov, 0, HOST_CPU, HOST_NONE, 0, field);
	if (size == 2) {
		emit8(&t->e, (u8)value);
		emit8(&t->e, (u8)(value >> 8));
	} else {
		emit32(&t->e, value);
	}
}

static void emit_load32(struct translation *t, unsigned to, i32 field)
{
	emit_rm(&t->e, (struct opcode){ .byte = 0x8b }, to, HOST_CPU, HOST_NONE, 0, field);
}

static i32 segment_field(enum seg seg, size_t field)
{
	return (i32)(offsetof(struct cpu, seg) + sizeof(struct segment) * seg + field);
}

/* A segment register's contents but for the selector, which is T2's low half. */
static void emit_segment(struct translation *t, enum seg seg, u32 ar)
{
	emit_rm(&t->e, (struct opcode){ .byte = 0x89, .operand16 = true }, HOST_T2, HOST_CPU, HOST_NONE, 0,
		segment_field(seg, offsetof(struct segment, selector)));
	emit_set(t, 4, segment_field(seg, offsetof(struct segment, limit)), 0xffffffff);
	emit_set(t, 4, segment_field(seg, offsetof(struct segment, ar)), ar);
	emit_set(t, 8, segment_field(seg, offsetof(struct segment, base)), 0);
}

/* mmu.stamp: what lies beside it is written by other threads. Uses T2. */
static void emit_copy_stamp(struct translation *t, enum mmu_class cls)
{
	struct emit *e = &t->e;
	struct opcode store32 = { .byte = 0x89 }, store16 = { .byte = 0x89, .operand16 = true };
	emit_load(e, HOST_T2, HOST_CPU, OF_CLASS(cls, stamp));
	emit_rm(e, store32, HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.stamp.low));
	emit_shift(e, 5, true, HOST_T2, 32);
	emit_rm(e, store16, HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.stamp.high));
}

/* As mmu_set_class(). Uses T1 and T2. */
static void emit_swap_stacks(struct translation *t)
{
	struct emit *e = &t->e;
	for (i32 at = 0; at < (i32)sizeof(struct mmu_copy); at += 8) {
		emit_load(e, HOST_T1, HOST_CPU, CPU_FIELD(mmu.stack) + at);
		emit_load(e, HOST_T2, HOST_CPU, CPU_FIELD(mmu.other_stack) + at);
		emit_store(e, HOST_T1, HOST_CPU, CPU_FIELD(mmu.other_stack) + at);
		emit_store(e, HOST_T2, HOST_CPU, CPU_FIELD(mmu.stack) + at);
	}
}

/* CS from bits of STAR plus `plus`, SS 8 above it, or for CPL 3 below it; CPL, the class of accesses, and what code is
 * stamped with. Uses T1 and T2.
 */
static void emit_ring(struct translation *t, const struct plan *p, unsigned cpl, i32 star, i32 plus)
{
	struct emit *e = &t->e;
	enum mmu_class cls = cpl == 3 ? MMU_USER : MMU_SUPERVISOR;

	emit_rm(e, (struct opcode){ .byte = 0xb7, .map = 1 }, HOST_T2, HOST_CPU, HOST_NONE, 0, star);
	emit_lea(e, HOST_T2, HOST_T2, plus);
	emit_alu_imm(e, 4, false, HOST_T2, ~3);
	emit_alu_imm(e, 1, false, HOST_T2, (i32)cpl);
	emit_segment(t, SEG_CS, COMMON | cpl << 5 | SEG_AR_CODE | SEG_AR_L);
	emit_lea(e, HOST_T2, HOST_T2, cpl == 3 ? -8 : 8);
	emit_segment(t, SEG_SS, COMMON | cpl << 5 | SEG_AR_DB);
	emit_set_byte(e, CPU_FIELD(cpl), (u8)cpl);
	emit_set(t, 4, CPU_FIELD(mmu.cls), cls);
	emit_swap_stacks(t);
	emit_load(e, HOST_T2, HOST_CPU, OF_CLASS(cls, tlb));
	emit_store(e, HOST_T2, HOST_CPU, CPU_FIELD(mmu.tlb));
	emit_copy_stamp(t, cls);
	emit_load(e, HOST_T2, HOST_CPU, OF_CLASS(cls, pages));
	emit_store(e, HOST_T2, HOST_CPU, CPU_FIELD(mmu.copies.pages));
	emit_load(e, HOST_T2, HOST_CPU, OF_CLASS(cls, generation));
	emit_store(e, HOST_T2, HOST_CPU, CPU_FIELD(mmu.generation));
	emit_shift(e, 4, true, HOST_T2, JUMP_STAMP_SHIFT);
	emit_alu_imm(e, 1, true, HOST_T2, (i32)jump_stamp_key(cpl == 3, p->block->mode_key));
	emit_store(e, HOST_T2, HOST_CPU, CPU_FIELD(jit_stamp));
	emit_load(e, HOST_RSP, HOST_CPU, CPU_FIELD(jit_stack));
}

/* The instruction exists; a change of CPL means nothing but another class of accesses. */
static void require_usual(struct translation *t, const struct plan *p)
{
	require_bits(t, p, CPU_FIELD(efer), EFER_SCE);
	require_byte(t, p, CPU_FIELD(mmu.checked), false);
	require_byte(t, p, CPU_FIELD(pmu.filters), 0);
}

/* --- SYSCALL --- */

static void translate_syscall(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	give_up_host_flags(t, true);
	require_usual(t, p);
	/* Kernels have all arithmetic flags cleared, and AC. T1 = the flags that stay. */
	emit_load32(t, HOST_T1, CPU_FIELD(msr.fmask));
	emit_rr(e, (struct opcode){ .byte = 0xf7 }, 2, HOST_T1);
	emit_rr(e, (struct opcode){ .byte = 0xf7 }, 0, HOST_T1);
	emit32(e, RFLAGS_ARITH | RFLAGS_AC);
	emit_handler_if(t, p, COND_NZ);
	emit_rflags(t, ~(i32)RFLAGS_RF);
	emit_store(e, HOST_T2, HOST_CPU, guest_offset(R11));
	emit_rr(e, OPCODE_WIDE(0x23), HOST_T2, HOST_T1);
	emit_alu_imm(e, 1, true, HOST_T2, RFLAGS_ONE);
	emit_store(e, HOST_T2, HOST_CPU, CPU_FIELD(rflags_sys));
	emit_set(t, 2, CPU_FIELD(arith), 0x200);
	emit_page_address(t, t->host[RCX], p->offset + p->insn->length);
	emit_ring(t, p, 0, CPU_FIELD(msr.star) + 4, 0);
	emit_load(e, HOST_T0, HOST_CPU, CPU_FIELD(msr.lstar));
	emit_go_to(t, p);
}

/* --- SYSRET --- */

static void translate_sysret(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	give_up_host_flags(t, true);
	require_usual(t, p);
	require_byte(t, p, CPU_FIELD(cpl), 0);
	/* Does anybody wait for IF? */
	require_byte(t, p, CPU_FIELD(intr_held), false);
	if (p->block->mode_key & MODE_NON_ROOT)
		require_byte(t, p, CPU_FIELD(if_free), true);
	emit_mov(e, HOST_T0, t->host[RCX]);
	emit_canonical(t, p);
	emit_load32(t, HOST_T2, guest_offset(R11));
	emit_rr(e, (struct opcode){ .byte = 0xf7 }, 0, HOST_T2);
	emit32(e, RFLAGS_TF | RFLAGS_AC);
	emit_handler_if(t, p, COND_NZ);
	emit_store(e, HOST_T0, HOST_CPU, guest_offset(REG_RIP));
	/* Arithmetic flags, as LAHF and SETO leave them. */
	emit_rr(e, (struct opcode){ .byte = 0x8b }, HOST_T1, HOST_T2);
	emit_alu_imm(e, 4, false, HOST_T1, RFLAGS_ARITH & 0xff);
	emit_shift(e, 4, false, HOST_T1, 8);
	emit_alu_imm(e, 1, false, HOST_T1, 0x200);
	emit_rr(e, (struct opcode){ .byte = 0x8b }, HOST_T0, HOST_T2);
	emit_shift(e, 5, false, HOST_T0, __builtin_ctz(RFLAGS_OF));
	emit_alu_imm(e, 4, false, HOST_T0, ARITH_OF);
	emit_rr(e, (struct opcode){ .byte = 0x0b }, HOST_T1, HOST_T0);
	emit_rm(e, (struct opcode){ .byte = 0x89, .operand16 = true }, HOST_T1, HOST_CPU, HOST_NONE, 0,
		CPU_FIELD(arith));
	emit_alu_imm(e, 4, false, HOST_T2, RFLAGS_SYSRET & ~RFLAGS_ARITH);
	emit_alu_imm(e, 1, false, HOST_T2, RFLAGS_ONE);
	emit_store(e, HOST_T2, HOST_CPU, CPU_FIELD(rflags_sys));
	emit_ring(t, p, 3, CPU_FIELD(msr.star) + 6, 16);
	emit_load(e, HOST_T0, HOST_CPU, guest_offset(REG_RIP));
	emit_go_to(t, p);
}

void translate_ring(struct translation *t, const struct plan *p)
{
	if (p->zi.mnemonic == ZYDIS_MNEMONIC_SYSCALL)
		translate_syscall(t, p);
	else
		translate_sysret(t, p);
}
