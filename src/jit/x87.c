/*
 * The guest's x87 registers in the host's, like vectors.c for the others: while cpu->x87 is set, the host's FCW, FSW,
 * tags and ST registers are the guest's, and cpu->fpu has stale ones. They are loaded if no x87 instruction can fault
 * or leave an exception pending: no #NM, and all exceptions masked. XSAVE and XRSTOR of that component alone move them.
 *
 * FIP, FDP and FOP of the host would show the host's addresses: the guest's are always in cpu->fpu, and each translated
 * instruction that changes them writes them there.
 */
#include "jit/translation.h"

#include "cpu/fpu.h"

bool jit_x87_allowed(const struct cpu *cpu)
{
	return !(cpu->cr0 & (CR0_EM | CR0_TS)) && (fpu_fcw(cpu) & FSW_ERRORS) == FSW_ERRORS;
}

/* --- stubs --- */

enum { FPU_AREA = offsetof(struct cpu, fpu), FPU_HEADER = offsetof(struct cpu, fpu.header) };

static u8 *emit_jump_if(struct emit *e, i32 field, bool set)
{
	emit_byte(e, 7, field, 0);
	return emit_jcc(e, set ? COND_NZ : COND_Z, NULL);
}

/* XSAVE64 (4) or XRSTOR64 (5) of component 0, in the standard format. The header is all zero otherwise. */
static void emit_component(struct emit *e, unsigned n)
{
	emit_mov_imm(e, HOST_RAX, XCR0_X87);
	emit_mov_imm(e, HOST_RDX, 0);
	emit_rm(e, (struct opcode){ .byte = 0xae, .map = 1, .wide = true }, n, HOST_CPU, HOST_NONE, 0, FPU_AREA);
}

/* call: RAX and RDX are kept; uses T1 and T2. */
static void make_load(struct emit *e)
{
	u8 *loaded = emit_jump_if(e, CPU_FIELD(x87), true);
	emit_mov(e, HOST_T1, HOST_RAX);
	emit_mov(e, HOST_T2, HOST_RDX);
	emit_set_byte(e, FPU_HEADER, XCR0_X87);
	emit_component(e, 5);
	emit_set_byte(e, FPU_HEADER, 0);
	emit_mov(e, HOST_RAX, HOST_T1);
	emit_mov(e, HOST_RDX, HOST_T2);
	emit_set_byte(e, CPU_FIELD(x87), true);
	emit_patch(e, loaded, e->at);
	emit8(e, 0xc3);
}

/* call, on the way to C: the guest's general registers are stored, and free. C finds an empty stack. */
static void make_store(struct emit *e)
{
	struct opcode load_fop = { .byte = 0xb7, .map = 1 }, store_fop = { .byte = 0x89, .operand16 = true };
	emit_load(e, HOST_RCX, HOST_CPU, FPU_AREA + FPU_FIP);
	emit_load(e, HOST_RBX, HOST_CPU, FPU_AREA + FPU_FDP);
	emit_rm(e, load_fop, HOST_RSI, HOST_CPU, HOST_NONE, 0, FPU_AREA + FPU_FOP);
	emit_component(e, 4);
	emit_store(e, HOST_RCX, HOST_CPU, FPU_AREA + FPU_FIP);
	emit_store(e, HOST_RBX, HOST_CPU, FPU_AREA + FPU_FDP);
	emit_rm(e, store_fop, HOST_RSI, HOST_CPU, HOST_NONE, 0, FPU_AREA + FPU_FOP);
	emit_set_byte(e, FPU_HEADER, 0);
	emit8(e, 0xdb); /* FNINIT */
	emit8(e, 0xe3);
	emit_set_byte(e, CPU_FIELD(x87), false);
	emit8(e, 0xc3);
}

void jit_make_x87_stubs(struct jit *jit, struct emit *e)
{
	jit->stub_load_x87 = e->at;
	make_load(e);
	jit->stub_store_x87 = e->at;
	make_store(e);
}

/* At a trace's entry, T1 = site: loads, or has the interpreter run the block. */
void jit_make_x87_entry(struct jit *jit, struct emit *e)
{
	jit->stub_enter_x87 = e->at;
	emit_patch(e, emit_jump_if(e, CPU_FIELD(x87_allowed), true), jit->stub_load_x87);
	emit_alu_imm(e, 0, true, HOST_RSP, 8);
	emit_jmp(e, jit->stub_interpret);
}

void emit_store_x87(struct emit *e, const struct jit *jit)
{
	u8 *none = emit_jump_if(e, CPU_FIELD(x87), false);
	emit_call(e, jit->stub_store_x87);
	emit_patch(e, none, e->at);
}

u8 *emit_x87_missing(struct translation *t)
{
	return emit_jump_if(&t->e, CPU_FIELD(x87), false);
}

/* --- instructions --- */

/* A new control word: with an exception unmasked it is the handler's. It is read once, and has no bits that do not
 * exist. */
static void translate_fldcw(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	const i32 fcw = FPU_AREA + FPU_FCW;
	give_up_host_flags(t, p->live_before);
	emit_operand(t, p);
	emit_rm(e, (struct opcode){ .byte = 0xb7, .map = 1 }, HOST_T1, HOST_T0, HOST_NONE, 0, 0);
	emit_rr(e, (struct opcode){ .byte = 0x89 }, HOST_T1, HOST_T2);
	emit_rr(e, (struct opcode){ .byte = 0xf7 }, 2, HOST_T2); /* NOT */
	emit_rr(e, (struct opcode){ .byte = 0xf7 }, 0, HOST_T2);
	emit32(e, FSW_ERRORS);
	emit_handler_if(t, p, COND_NZ);
	emit_alu_imm(e, 4, false, HOST_T1, 0x1f3f);
	emit_alu_imm(e, 1, false, HOST_T1, 0x40);
	emit_rm(e, (struct opcode){ .byte = 0x89, .operand16 = true }, HOST_T1, HOST_CPU, HOST_NONE, 0, fcw);
	emit_rm(e, (struct opcode){ .byte = 0xd9 }, 5, HOST_CPU, HOST_NONE, 0, fcw);
}

/* FIP and FOP, FDP if there is memory. Another instruction right behind that sets the former makes them superfluous. */
static void emit_pointers(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	const struct plan *next = p + 1;
	if (p->memory) {
		emit_address(t, p, HOST_T0, true);
		emit_store(e, HOST_T0, HOST_CPU, FPU_AREA + FPU_FDP);
	}
	if (next < t->plan + t->count && next->kind == PLAN_X87 && next->x87_pointers && !next->memory)
		return;
	emit_page_address(t, HOST_T0, p->offset);
	emit_store(e, HOST_T0, HOST_CPU, FPU_AREA + FPU_FIP);
	emit_rm(e, (struct opcode){ .byte = 0xc7, .operand16 = true }, 0, HOST_CPU, HOST_NONE, 0, FPU_AREA + FPU_FOP);
	emit8(e, (u8)p->insn->imm);
	emit8(e, (u8)(p->insn->imm >> 8));
}

void translate_x87(struct translation *t, const struct plan *p)
{
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_FWAIT: /* nothing is pending */
		break;
	case ZYDIS_MNEMONIC_FLDCW:
		translate_fldcw(t, p);
		break;
	default:
		translate_reencoded(t, p);
		break;
	}
	if (p->x87_pointers)
		emit_pointers(t, p);
}
