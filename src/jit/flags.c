/*
 * The guest's arithmetic flags: in the host's, in cpu->arith, or nowhere as long as nobody asks (recipe.c).
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

void emit_recipe_to_memory(struct translation *t, const struct recipe *r)
{
	enum flags_place flags = t->flags;
	emit_recipe(t, r);
	t->flags = IN_HOST;
	emit_save_flags(t);
	t->flags = flags;
}

/* --- for each instruction --- */

static bool spoils_recipe(const struct translation *t, const struct plan *p)
{
	return t->recipe.plan && !recipe_behind(&t->recipe, p).plan;
}

void flags_before(struct translation *t, const struct plan *p)
{
	bool wanted = p->live_after || p->kind == PLAN_JCC;
	if (!wanted || p->writes_flags || !spoils_recipe(t, p))
		return;
	/* Later, or where the trace is left, they cannot be made any more. */
	if (t->flags == IN_RECIPE) {
		emit_recipe_to_memory(t, &t->recipe);
		t->flags = IN_MEMORY;
	}
	t->recipe = (struct recipe){ 0 };
}

void flags_behind(struct translation *t, const struct plan *p)
{
	struct recipe before = t->recipe;
	t->recipe = (struct recipe){ 0 };
	if (p->kind == PLAN_HANDLER)
		return;
	if (p->writes_flags) {
		t->recipe = recipe_of(p);
		return;
	}
	if (before.plan)
		t->recipe = recipe_behind(&before, p);
	if (t->flags == IN_RECIPE && !t->recipe.plan)
		t->flags = IN_MEMORY; /* nobody wants them */
}

void need_host_flags(struct translation *t)
{
	if (t->flags == IN_RECIPE) {
		emit_recipe(t, &t->recipe);
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
	else if (t->flags == IN_HOST && t->recipe.plan)
		t->flags = IN_RECIPE;
	else if (t->flags == IN_HOST)
		give_up_host_flags(t, true);
}

void emit_rflags(struct translation *t, i32 mask)
{
	struct emit *e = &t->e;
	emit_rm(e, (struct opcode){ .byte = 0xb6, .map = 1 }, HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(arith) + 1);
	emit_alu_imm(e, 4, false, HOST_T2, RFLAGS_ARITH & 0xff);
	emit_rm(e, (struct opcode){ .byte = 0xb6, .map = 1 }, HOST_T0, HOST_CPU, HOST_NONE, 0, CPU_FIELD(arith));
	emit_alu_imm(e, 4, false, HOST_T0, ARITH_OF);
	emit_shift(e, 4, false, HOST_T0, __builtin_ctz(RFLAGS_OF));
	emit_rr(e, (struct opcode){ .byte = 0x0b }, HOST_T2, HOST_T0);
	emit_rm(e, OPCODE_WIDE(0x0b), HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(rflags_sys));
	emit_alu_imm(e, 4, true, HOST_T2, mask);
}
