/*
 * Which instructions are translated how, and where a guest's flags are needed. Whatever is not plainly known to be
 * right is left to the interpreter's handler.
 */
#include "jit/internal.h"

#include <string.h>

/* Instructions that mean the same with other registers and with the guest's memory in another place. */
static bool is_copied(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_XOR:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_SAHF:
		return true;
	default:
		return (m >= ZYDIS_MNEMONIC_CMOVB && m <= ZYDIS_MNEMONIC_CMOVZ) ||
		       (m >= ZYDIS_MNEMONIC_SETB && m <= ZYDIS_MNEMONIC_SETZ && m != ZYDIS_MNEMONIC_SETSSBSY);
	}
}

/* F3 as part of the opcode. */
static bool has_mandatory_f3(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_POPCNT || m == ZYDIS_MNEMONIC_TZCNT || m == ZYDIS_MNEMONIC_LZCNT;
}

static bool is_bit_test(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR || m == ZYDIS_MNEMONIC_BTC;
}

/* Does the operand in memory lie where insn says, and can its address be made of 32-bit displacements? */
bool jit_plan_address(const struct plan *p, const ZydisDecodedOperand *op)
{
	const struct insn *insn = p->insn;
	if (!(insn->flags & INSN_MEM) || (insn->flags & INSN_LEGACY) || insn->adsize != 8 ||
	    op->encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM)
		return false;
	if (insn->base == REG_RIP) {
		i64 disp = (i64)insn->disp + p->offset + insn->length;
		if (disp != (i32)disp || insn->index != REG_ZERO)
			return false;
	} else if (insn->base > REG_ZERO || insn->index > REG_ZERO || insn->index == RSP) {
		return false;
	}
	return op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_MEM ||
	       op->mem.type == ZYDIS_MEMOP_TYPE_AGEN;
}

/* Likewise, and it has a plain size. */
static bool plan_memory(struct plan *p, const ZydisDecodedOperand *op)
{
	if (!jit_plan_address(p, op))
		return false;
	p->memory_size = (u8)(op->size / 8);
	return op->mem.type == ZYDIS_MEMOP_TYPE_AGEN || op->size == 8 || op->size == 16 || op->size == 32 ||
	       op->size == 64;
}

/* High bytes of registers have no encoding beside a REX prefix. */
static bool high_bytes_fit(const struct plan *p)
{
	bool high = false, rex = p->memory || p->zi.raw.rex.W;
	for (unsigned i = 0; i < p->zi.operand_count_visible; i++) {
		if (!jit_is_gpr(&p->op[i]))
			continue;
		if (jit_is_high_byte(p->op[i].reg.value)) {
			high = true;
			continue;
		}
		unsigned host = host_register[jit_gpr_number(&p->op[i])];
		rex |= host >= 8 || (p->op[i].size == 8 && host >= 4); /* HOST_NONE: a temporary, R10 or R11 */
	}
	return !high || !rex;
}

/*
 * Where a high byte is stored, say, it may change places with the low one for the time being. Nothing else of the
 * instruction must want that register.
 */
static bool plan_swap(struct plan *p)
{
	unsigned high = GPR_COUNT;
	if (!p->memory)
		return false;
	for (unsigned i = 0; i < p->zi.operand_count; i++)
		if (jit_is_gpr(&p->op[i]) && jit_is_high_byte(p->op[i].reg.value))
			high = jit_gpr_number(&p->op[i]);
	for (unsigned i = 0; i < p->zi.operand_count; i++)
		if (jit_is_gpr(&p->op[i]) && !jit_is_high_byte(p->op[i].reg.value) && jit_gpr_number(&p->op[i]) == high)
			return false;
	p->swaps = p->insn->base != high && p->insn->index != high;
	return p->swaps;
}

static bool operand_fits(struct plan *p, const ZydisDecodedOperand *op)
{
	switch (op->type) {
	case ZYDIS_OPERAND_TYPE_IMMEDIATE:
		return true;
	case ZYDIS_OPERAND_TYPE_MEMORY:
		if (p->memory || !plan_memory(p, op))
			return false;
		p->memory = true;
		p->memory_write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
		return true;
	case ZYDIS_OPERAND_TYPE_REGISTER:
		if (op->reg.value == ZYDIS_REGISTER_RFLAGS || op->reg.value == ZYDIS_REGISTER_FLAGS ||
		    op->reg.value == ZYDIS_REGISTER_EFLAGS)
			return true;
		if (!jit_is_gpr(op))
			return false;
		if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG ||
		    op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM || op->encoding == ZYDIS_OPERAND_ENCODING_OPCODE)
			return true;
		/* Implicit ones stay where they are: their number must be the host's. */
		return op->encoding == ZYDIS_OPERAND_ENCODING_NONE &&
		       host_register[jit_gpr_number(op)] == jit_gpr_number(op);
	default:
		return false;
	}
}

static bool plan_copy(const struct jit *jit, struct plan *p)
{
	ZydisMnemonic m = p->zi.mnemonic;
	bool f3 = p->insn->flags & (INSN_REP | INSN_REPNE);

	if (p->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || f3 != has_mandatory_f3(m) ||
	    p->zi.opcode_map > ZYDIS_OPCODE_MAP_0F3A || !jit_host_executes(jit, &p->zi) ||
	    (m == ZYDIS_MNEMONIC_BSWAP && p->insn->opsize == 2))
		return false;
	for (unsigned i = 0; i < p->zi.operand_count; i++)
		if (!operand_fits(p, &p->op[i]))
			return false;
	if ((p->insn->flags & INSN_LOCK) && !p->memory)
		return false;
	return high_bytes_fit(p) || plan_swap(p);
}

static bool plan_lea(struct plan *p)
{
	return p->insn->opsize >= 4 && plan_memory(p, &p->op[1]);
}

static bool is_jcc(const struct plan *p)
{
	return p->zi.meta.category == ZYDIS_CATEGORY_COND_BR &&
	       ((p->zi.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (p->zi.opcode & 0xf0) == 0x70) ||
		(p->zi.opcode_map == ZYDIS_OPCODE_MAP_0F && (p->zi.opcode & 0xf0) == 0x80));
}

bool jit_is_count_branch(const struct plan *p)
{
	i64 target = p->offset + p->insn->length + (i64)p->insn->imm;
	return (p->zi.mnemonic == ZYDIS_MNEMONIC_LOOP || p->zi.mnemonic == ZYDIS_MNEMONIC_JRCXZ) &&
	       p->insn->adsize == 8 && target >= 0 && target < (i64)PAGE_SIZE;
}

/* JMP and CALL: near, to an immediate, a register, or a pointer in memory. */
static bool plan_branch(struct plan *p)
{
	if (p->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR || p->insn->opsize != 8)
		return false;
	if (p->op[0].type != ZYDIS_OPERAND_TYPE_MEMORY)
		return true;
	p->memory = true;
	return plan_memory(p, &p->op[0]) && p->memory_size == 8;
}

/* PUSH and POP of a 64-bit register or an immediate; PUSH of memory, too. */
static bool plan_push_pop(struct plan *p)
{
	if (p->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY) {
		p->memory = p->zi.mnemonic == ZYDIS_MNEMONIC_PUSH && p->insn->opsize == 8 && plan_memory(p, &p->op[0]);
		return p->memory;
	}
	if (p->insn->opsize != 8 || !(jit_is_gpr(&p->op[0]) || p->op[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE))
		return false;
	p->memory = true;
	p->memory_write = p->zi.mnemonic == ZYDIS_MNEMONIC_PUSH;
	p->memory_size = 8;
	return true;
}

/* DIV and IDIV by a register or memory, where the host's registers are the guest's. */
static bool plan_divide(struct plan *p)
{
	if (p->insn->opsize < 4 || p->insn->flags & INSN_LOCK)
		return false;
	if (p->op[0].type != ZYDIS_OPERAND_TYPE_MEMORY)
		return jit_is_gpr(&p->op[0]);
	p->memory = plan_memory(p, &p->op[0]);
	return p->memory;
}

/* BT and its kin on memory, with the bit's number in a register; not locked. */
static bool plan_bit_string(struct plan *p)
{
	p->memory = p->insn->opsize >= 4 && !(p->insn->flags & INSN_LOCK) && plan_memory(p, &p->op[0]);
	p->memory_write = p->zi.mnemonic != ZYDIS_MNEMONIC_BT;
	return p->memory;
}

static bool is_selector_read(const struct plan *p)
{
	return p->zi.mnemonic == ZYDIS_MNEMONIC_MOV && p->insn->opsize >= 4 && jit_is_gpr(&p->op[0]) &&
	       p->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER && p->op[1].reg.value >= ZYDIS_REGISTER_ES &&
	       p->op[1].reg.value <= ZYDIS_REGISTER_GS;
}

static bool plan_push_flags(struct plan *p)
{
	p->memory = p->memory_write = true;
	p->memory_size = 8;
	return p->insn->opsize == 8;
}

static enum plan_kind classify(const struct cpu *cpu, const struct jit *jit, struct plan *p)
{
	const struct insn *insn = p->insn;
	if (jit_plan_system(jit, p))
		return PLAN_SYSTEM;
	if (jit_plan_ring(cpu, jit, p))
		return PLAN_RING;
	if (!insn->mnemonic || insn->exec == insn_exec_checked || insn->exec == insn_exec_undefined)
		return PLAN_HANDLER;
	ZydisMnemonic m = p->zi.mnemonic;
	if (is_bit_test(m) && p->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && jit_is_gpr(&p->op[1]))
		return plan_bit_string(p) ? PLAN_BIT_STRING : PLAN_HANDLER;
	if (jit_plan_string(p))
		return PLAN_STRING;
	if (is_selector_read(p))
		return PLAN_SELECTOR;
	if (is_copied(m) && !(insn->flags & INSN_ENDS))
		return plan_copy(jit, p) ? PLAN_COPY : PLAN_HANDLER;
	/* AMD's near branches with an operand-size prefix are for the interpreter. */
	if (is_jcc(p) || jit_is_count_branch(p))
		return insn->opsize == 8 ? PLAN_JCC : PLAN_HANDLER;
	if (jit_plan_reencode(jit, p))
		return PLAN_REENCODE;
	if (jit_plan_x87(jit, p))
		return PLAN_X87;
	switch (m) {
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_PAUSE:
	case ZYDIS_MNEMONIC_PREFETCHNTA:
	case ZYDIS_MNEMONIC_PREFETCHT0:
	case ZYDIS_MNEMONIC_PREFETCHT1:
	case ZYDIS_MNEMONIC_PREFETCHT2:
	case ZYDIS_MNEMONIC_PREFETCH:
	case ZYDIS_MNEMONIC_PREFETCHW:
		return PLAN_NOTHING;
	case ZYDIS_MNEMONIC_LEA:
		return plan_lea(p) ? PLAN_LEA : PLAN_HANDLER;
	case ZYDIS_MNEMONIC_PUSH:
		return plan_push_pop(p) ? PLAN_PUSH : PLAN_HANDLER;
	case ZYDIS_MNEMONIC_PUSHFQ:
		/* Undefined flags may differ from the interpreter's; on the stack, the checker does not know them. */
		return !jit->options.check && plan_push_flags(p) ? PLAN_PUSH_FLAGS : PLAN_HANDLER;
	case ZYDIS_MNEMONIC_POP:
		return plan_push_pop(p) ? PLAN_POP : PLAN_HANDLER;
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
		return plan_divide(p) ? PLAN_DIVIDE : PLAN_HANDLER;
	case ZYDIS_MNEMONIC_CLD:
	case ZYDIS_MNEMONIC_STD:
		return PLAN_DIRECTION;
	case ZYDIS_MNEMONIC_LEAVE:
		p->memory = insn->opsize == 8;
		p->memory_size = 8;
		return insn->opsize == 8 ? PLAN_LEAVE : PLAN_HANDLER;
	case ZYDIS_MNEMONIC_JMP:
		return plan_branch(p) ? PLAN_JMP : PLAN_HANDLER;
	case ZYDIS_MNEMONIC_CALL:
		return plan_branch(p) ? PLAN_CALL : PLAN_HANDLER;
	case ZYDIS_MNEMONIC_RET:
		return p->zi.meta.branch_type != ZYDIS_BRANCH_TYPE_FAR && insn->opsize == 8 ? PLAN_RET : PLAN_HANDLER;
	default:
		return PLAN_HANDLER;
	}
}

/* --- flags --- */

#define ARITHMETIC                                                                                                     \
	(ZYDIS_CPUFLAG_CF | ZYDIS_CPUFLAG_PF | ZYDIS_CPUFLAG_AF | ZYDIS_CPUFLAG_ZF | ZYDIS_CPUFLAG_SF |                \
	 ZYDIS_CPUFLAG_OF)

/* A count of zero leaves all flags alone. */
static bool is_shift_by_maybe_zero(const struct plan *p)
{
	if (!jit_is_shift(p->zi.mnemonic))
		return false;
	const ZydisDecodedOperand *count = &p->op[p->zi.operand_count_visible - 1];
	return count->type != ZYDIS_OPERAND_TYPE_IMMEDIATE || !(p->insn->imm & (p->insn->opsize == 8 ? 63 : 31));
}

/* An instruction that leaves some flags undefined needs those before it, but where the host lets nothing depend on them
 * (undefined.c). */
static void plan_flags(const struct jit *jit, struct plan *p)
{
	const ZydisAccessedFlags *f = p->zi.cpu_flags;
	if (p->kind < PLAN_COPY || p->kind > PLAN_JCC || !f)
		return;
	u32 defined = (f->modified | f->set_0 | f->set_1) & ARITHMETIC;
	u32 undefined = f->undefined & ARITHMETIC;
	u32 written = defined | (jit_settles_flags(jit, p->zi.mnemonic) ? undefined : 0);
	p->writes_flags = (defined | undefined) != 0;
	p->reads_flags =
		(f->tested & ARITHMETIC) || (p->writes_flags && (written != ARITHMETIC || is_shift_by_maybe_zero(p)));
	/* FCOMI leaves some alone, whatever the tables say. */
	p->reads_flags |= p->kind == PLAN_X87 && p->writes_flags;
}

/* Can somebody look at the flags before the instruction has done anything? */
static bool shows_flags(const struct plan *p)
{
	switch (p->kind) {
	case PLAN_HANDLER:
	case PLAN_SYSTEM:
	case PLAN_STRING:
	case PLAN_PUSH_FLAGS:
	case PLAN_CALL:
	case PLAN_JMP:
	case PLAN_RET:
	case PLAN_RING:
	case PLAN_JCC:
		return true;
	default:
		/* A fault shows them, and a write may change the instructions to come; but not behind a shared check.
		 */
		return p->memory && !p->hoisted && !jit_follows(p);
	}
}

/* Does the instruction have the guest's flags in cpu->arith in any case? */
static bool stores_flags(const struct plan *p)
{
	switch (p->kind) {
	case PLAN_JMP:
		return !p->insn->direct;
	case PLAN_HANDLER:
	case PLAN_SYSTEM:
	case PLAN_STRING:
	case PLAN_PUSH_FLAGS:
	case PLAN_CALL:
	case PLAN_RET:
	case PLAN_RING:
		return true;
	default:
		return false;
	}
}

/* Backwards from the end, where somebody may look at the flags or not. */
static void plan_liveness(struct plan *plan, unsigned count, bool live)
{
	bool stored = false;
	for (unsigned i = count; i-- > 0;) {
		struct plan *p = &plan[i];
		if (p->reads_flags || p->writes_flags)
			stored = false;
		else if (stores_flags(p))
			stored = true;
		p->stored_later = stored;
		p->live_after = live;
		if (shows_flags(p) || p->reads_flags)
			live = true;
		else if (p->writes_flags)
			live = false;
		p->live_before = live;
	}
}

void jit_plan_state(struct plan *plan, unsigned count, unsigned slot, bool loop)
{
	jit_plan_groups(plan, count, slot);
	/* Wherever a trace is left all flags may be looked at; but a loop's end is its beginning. */
	plan_liveness(plan, count, true);
	if (loop && !plan->live_before)
		plan_liveness(plan, count, false);
	jit_plan_vectors(plan, count);
}

/* --- one instruction --- */

static void plan_registers(struct plan *p)
{
	for (unsigned i = 0; i < p->zi.operand_count; i++) {
		if (!jit_is_gpr(&p->op[i]))
			continue;
		u16 bit = (u16)BIT(jit_gpr_number(&p->op[i]));
		p->named |= bit;
		p->written |= p->op[i].actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? bit : 0;
	}
}

static bool decode(const struct cpu *cpu, struct plan *p, size_t n)
{
	const ZydisDecoder *decoder = &cpu->blocks->decoders.mode[DECODER_64];
	ZydisDecoderContext context;

	if (!ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(decoder, &context, p->bytes, n, &p->zi)) ||
	    !ZYAN_SUCCESS(ZydisDecoderDecodeOperands(decoder, &context, &p->zi, p->op, p->zi.operand_count)))
		return false;
	for (unsigned i = p->zi.operand_count; i < ARRAY_SIZE(p->op); i++)
		p->op[i].type = ZYDIS_OPERAND_TYPE_UNUSED;
	plan_registers(p);
	return p->zi.length == p->insn->length && insn_row_find(p->zi.mnemonic) == insn_row(p->insn);
}

/* The block's instruction at a RAM offset; n bytes of it are there. Clearing all of a plan would take its time. */
static void plan_instruction(const struct cpu *cpu, const struct jit *jit, struct plan *p, const struct block *block,
			     const struct insn *insn, u64 ram_offset, const u8 *bytes, size_t n)
{
	memset(p, 0, offsetof(struct plan, zi));
	p->block = block;
	p->insn = insn;
	p->offset = (u16)(ram_offset & (PAGE_SIZE - 1));
	memcpy(p->bytes, bytes, n);
	p->kind = decode(cpu, p, n) ? classify(cpu, jit, p) : PLAN_HANDLER;
	if (p->zi.mnemonic == ZYDIS_MNEMONIC_PAUSE && cpu->config->cpu_count > 1)
		p->kind = PLAN_HANDLER; /* it yields the host's processor */
	p->native = p->kind != PLAN_HANDLER;
	/* MOVBE has no such form. */
	p->may_know = p->kind == PLAN_COPY && p->zi.mnemonic != ZYDIS_MNEMONIC_MOVBE && cpu->config->cpu_count == 1;
	/* The checker wants calls of handlers too, and these have no side effects. */
	if (jit->options.check && !(insn->flags & INSN_ENDS) && (ram_offset * 0x9e3779b97f4a7c15ULL) >> 61 == 0)
		p->kind = PLAN_HANDLER;
	if (p->kind == PLAN_HANDLER)
		p->memory = p->memory_write = false;
	plan_flags(jit, p);
}

enum { UNKNOWN, DEAD, LIVE, AHEAD = 4 /* instructions */ };

/* What becomes of the flags at the instruction? UNKNOWN: nothing. */
static u8 fate_of_flags(const struct plan *p)
{
	if (shows_flags(p) || p->reads_flags)
		return LIVE;
	return p->writes_flags ? DEAD : UNKNOWN;
}

bool jit_flags_are_dead(struct cpu *cpu, const struct jit *jit, struct block *block)
{
	u64 at = block->ram_offset;

	for (unsigned i = 0; block->flags_dead == UNKNOWN; i++) {
		struct plan p;
		if (i == block->count || i == AHEAD) {
			block->flags_dead = LIVE;
			break;
		}
		const struct insn *insn = &block->insn[i];
		plan_instruction(cpu, jit, &p, block, insn, at, cpu->mem->host + at, insn->length);
		block->flags_dead = fate_of_flags(&p);
		at += insn->length;
	}
	return block->flags_dead == DEAD;
}

bool jit_flags_are_dead_ahead(struct cpu *cpu, const struct jit *jit, u64 ram_offset, u32 mode_key, u64 *lines)
{
	u64 start = ram_offset & (PAGE_SIZE - 1), rest = PAGE_SIZE - start;
	u8 bytes[AHEAD * 8], fate = UNKNOWN;
	size_t n = rest < sizeof(bytes) ? rest : sizeof(bytes), done = 0;
	const struct block block = { .ram_offset = ram_offset, .mode_key = mode_key };

	block_cover(cpu, ram_offset, bytes, n);
	for (unsigned i = 0; fate == UNKNOWN && i < AHEAD; i++) {
		struct insn insn;
		struct plan p;
		if (!insn_decode(cpu, mode_key, bytes + done, n - done, &insn))
			return false;
		plan_instruction(cpu, jit, &p, &block, &insn, ram_offset + done, bytes + done, insn.length);
		fate = fate_of_flags(&p);
		done += insn.length;
	}
	if (fate != DEAD)
		return false;
	*lines |= lines_of(start, start + done);
	return true;
}

void jit_plan_crossing(struct cpu *cpu, const struct jit *jit, const struct block *block, const u8 bytes[15],
		       struct plan *plan)
{
	plan_instruction(cpu, jit, plan, block, block->insn, block->ram_offset, bytes, sizeof(plan->bytes));
}

void jit_plan_block(struct cpu *cpu, const struct jit *jit, const struct block *block, struct plan *plan)
{
	u64 at = block->ram_offset, end = block->ram_offset + block->bytes;

	for (unsigned i = 0; i < block->count; i++) {
		const struct insn *insn = &block->insn[i];
		size_t n = end - at < sizeof(plan->bytes) ? end - at : sizeof(plan->bytes);
		plan_instruction(cpu, jit, &plan[i], block, insn, at, cpu->mem->host + at, n);
		at += insn->length;
	}
}
