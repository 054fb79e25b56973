/*
 * The guest's arithmetic flags: in the host's, in cpu->arith, or nowhere as long as nobody asks.
 *
 * A check of an operand destroys the host's flags, and its rare path, which may end in a fault, wants the guest's. Most
 * instructions that make flags can make them once more when they are wanted, from registers that are still there: the
 * last one is the recipe, as long as the registers that it needs are not written.
 */
#include "jit/translation.h"

/* --- saving and loading --- */

/* LAHF; SETO AL: neither changes a flag. Uses T2. */
static void emit_save_flags(struct translation *t)
{
	if (t->flags != IN_HOST)
		return;
	emit_mov(&t->e, HOST_T2, HOST_RAX);
	emit8(&t->e, 0x9f);
	emit_rr(&t->e, (struct opcode){ .byte = 0x90, .map = 1 }, 0, HOST_RAX);
	emit_rm(&t->e, (struct opcode){ .byte = 0x89, .operand16 = true }, HOST_RAX, HOST_CPU, HOST_NONE, 0,
		CPU_FIELD(arith));
	emit_mov(&t->e, HOST_RAX, HOST_T2);
	t->flags = IN_BOTH;
}

/* ADD AL, 7Fh makes OF of bit 0, SAHF the others. Uses T2. */
void emit_load_flags(struct translation *t)
{
	emit_mov(&t->e, HOST_T2, HOST_RAX);
	emit_rm(&t->e, (struct opcode){ .byte = 0xb7, .map = 1 }, HOST_RAX, HOST_CPU, HOST_NONE, 0, CPU_FIELD(arith));
	emit8(&t->e, 0x04);
	emit8(&t->e, 0x7f);
	emit8(&t->e, 0x9e);
	emit_mov(&t->e, HOST_RAX, HOST_T2);
}

/* --- recipes --- */

/* Numbers of ADD and so on as in opcodes 80h to 83h. */
enum { ADD = 0, SUB = 5, CMP = 7 };

static bool is_logic(const struct plan *p)
{
	return p->zi.mnemonic == ZYDIS_MNEMONIC_AND || p->zi.mnemonic == ZYDIS_MNEMONIC_OR ||
	       p->zi.mnemonic == ZYDIS_MNEMONIC_XOR;
}

static bool is_low_register(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       !(op->reg.value >= ZYDIS_REGISTER_AH && op->reg.value <= ZYDIS_REGISTER_BH);
}

static bool is_immediate(const struct plan *p)
{
	return p->op[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE;
}

/* Its negative has 32 bits as well. */
static bool is_small_immediate(const struct plan *p)
{
	return is_immediate(p) && (i32)p->insn->imm != INT32_MIN;
}

/* A register that has a host register at all times; T2 is the only temporary here. */
static bool is_hosted(const ZydisDecodedOperand *op)
{
	return is_low_register(op) && host_register[jit_gpr_number(op)] != HOST_NONE;
}

static bool is_recipe(const struct plan *p)
{
	if (p->kind != PLAN_COPY || p->reads_flags || !is_low_register(&p->op[0]))
		return false;
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_TEST:
		return is_immediate(p) || is_hosted(&p->op[1]);
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_SUB:
		return is_small_immediate(p) ||
		       (is_hosted(&p->op[1]) && jit_gpr_number(&p->op[0]) != jit_gpr_number(&p->op[1]));
	default:
		return is_logic(p);
	}
}

/* Guest registers that must be as the instruction left them. */
static u32 ingredients(const struct plan *p)
{
	u32 set = (u32)BIT(jit_gpr_number(&p->op[0]));
	if (!is_logic(p) && p->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER)
		set |= (u32)BIT(jit_gpr_number(&p->op[1]));
	return set;
}

static struct opcode of_width(const struct plan *p, u8 opcode)
{
	unsigned size = p->insn->opsize;
	return (struct opcode){
		.byte = (u8)(opcode | (size > 1)),
		.operand16 = size == 2,
		.wide = size == 8,
		.byte_registers = true,
	};
}

static void emit_immediate(struct translation *t, const struct plan *p)
{
	unsigned size = p->insn->opsize > 4 ? 4 : p->insn->opsize;
	for (unsigned i = 0; i < size; i++)
		emit8(&t->e, (u8)(p->insn->imm >> 8 * i));
}

/* ADD and so on of `reg` and the recipe's second operand, at its width. */
static void emit_operation(struct translation *t, const struct plan *p, unsigned n, unsigned reg)
{
	if (is_immediate(p)) {
		emit_rr(&t->e, of_width(p, 0x80), n, reg);
		emit_immediate(t, p);
	} else {
		emit_rr(&t->e, of_width(p, (u8)(n << 3)), t->host[jit_gpr_number(&p->op[1])], reg);
	}
}

/* T2 = what the first operand was before ADD or SUB. */
static void emit_undo(struct translation *t, const struct plan *p, unsigned now)
{
	bool add = p->zi.mnemonic == ZYDIS_MNEMONIC_ADD;
	if (is_immediate(p)) {
		emit_lea(&t->e, HOST_T2, now, add ? -(i32)p->insn->imm : (i32)p->insn->imm);
		return;
	}
	emit_mov(&t->e, HOST_T2, now);
	emit_rr(&t->e, OPCODE_WIDE(add ? 0x29 : 0x01), t->host[jit_gpr_number(&p->op[1])], HOST_T2);
}

void emit_recipe(struct translation *t, const struct plan *p)
{
	settle_rsp(t);
	unsigned now = emit_use(t, jit_gpr_number(&p->op[0]), HOST_T2);
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_CMP:
		emit_operation(t, p, CMP, now);
		break;
	case ZYDIS_MNEMONIC_TEST:
		if (is_immediate(p)) {
			emit_rr(&t->e, of_width(p, 0xf6), 0, now);
			emit_immediate(t, p);
		} else {
			emit_rr(&t->e, of_width(p, 0x84), t->host[jit_gpr_number(&p->op[1])], now);
		}
		break;
	case ZYDIS_MNEMONIC_ADD:
		emit_undo(t, p, now);
		emit_operation(t, p, ADD, HOST_T2);
		break;
	case ZYDIS_MNEMONIC_SUB:
		emit_undo(t, p, now);
		emit_operation(t, p, SUB, HOST_T2);
		break;
	default: /* logic: the flags follow from the result alone */
		emit_rr(&t->e, of_width(p, 0x84), now, now);
		break;
	}
}

void emit_recipe_to_memory(struct translation *t, const struct plan *recipe)
{
	enum flags_place flags = t->flags;
	emit_recipe(t, recipe);
	t->flags = IN_HOST;
	emit_save_flags(t);
	t->flags = flags;
}

/* --- for each instruction --- */

/* Does it write a register that the recipe needs? */
static bool spoils_recipe(const struct translation *t, const struct plan *p)
{
	return t->recipe && jit_written_registers(p) & ingredients(t->recipe);
}

void flags_before(struct translation *t, const struct plan *p)
{
	bool wanted = p->live_after || p->kind == PLAN_JCC;
	if (!spoils_recipe(t, p) || !wanted || p->writes_flags)
		return;
	/* Later, or where the trace is left, they cannot be made any more. */
	if (t->flags == IN_RECIPE) {
		emit_recipe_to_memory(t, t->recipe);
		t->flags = IN_MEMORY;
	}
	t->recipe = NULL;
}

void flags_behind(struct translation *t, const struct plan *p)
{
	if (p->kind == PLAN_HANDLER) {
		t->recipe = NULL;
	} else if (p->writes_flags) {
		t->recipe = is_recipe(p) ? p : NULL;
	} else if (spoils_recipe(t, p)) {
		if (t->flags == IN_RECIPE)
			t->flags = IN_MEMORY; /* nobody wants them */
		t->recipe = NULL;
	}
}

void need_host_flags(struct translation *t)
{
	if (t->flags == IN_RECIPE) {
		emit_recipe(t, t->recipe);
		t->flags = IN_HOST;
	} else if (t->flags == IN_MEMORY) {
		emit_load_flags(t);
		t->flags = IN_BOTH;
	}
}

void give_up_host_flags(struct translation *t, bool live)
{
	if (live && t->flags == IN_RECIPE)
		need_host_flags(t);
	if (live)
		emit_save_flags(t);
	t->flags = IN_MEMORY;
}

void set_flags_aside(struct translation *t, bool live)
{
	if (!live || t->flags == IN_BOTH)
		t->flags = IN_MEMORY;
	else if (t->flags == IN_HOST && t->recipe)
		t->flags = IN_RECIPE;
	else if (t->flags == IN_HOST)
		give_up_host_flags(t, true);
}
