/*
 * Integer instructions that are more than a copy: divisions, bit strings, the direction flag.
 */
#include "jit/translation.h"

/*
 * --- DIV and IDIV of 32 and 64 bits ---
 *
 * A quotient that is not defined or does not fit would be a fault of the host: the divisor is looked at first, and
 * whatever may be #DE is the handler's.
 */

/* AND so on, register and register, at the operand's width. */
static void emit_width(struct translation *t, const struct plan *p, u8 opcode, unsigned reg, unsigned rm)
{
	emit_rr(&t->e, (struct opcode){ .byte = opcode, .wide = p->insn->opsize == 8 }, reg, rm);
}

/* T1 = the divisor; the host's flags are no longer the guest's. */
static void emit_divisor(struct translation *t, const struct plan *p)
{
	struct opcode load = { .byte = 0x8b, .wide = p->insn->opsize == 8 };
	give_up_host_flags(t, p->live_before);
	if (p->memory) {
		emit_operand(t, p);
		emit_rm(&t->e, load, HOST_T1, HOST_T0, HOST_NONE, 0, 0);
		return;
	}
	unsigned guest = jit_gpr_number(&p->op[0]);
	if (t->host[guest] == HOST_NONE)
		emit_load(&t->e, HOST_T1, HOST_CPU, guest_offset(guest));
	else
		emit_rr(&t->e, load, HOST_T1, t->host[guest]);
}

/* The quotient fits if the dividend's upper half is below the divisor; so that is not 0 either. */
static void check_unsigned(struct translation *t, const struct plan *p)
{
	emit_width(t, p, 0x3b, HOST_RDX, HOST_T1);
	emit_handler_if(t, p, COND_AE);
}

/*
 * The quotient fits if the dividend is its own lower half, sign-extended, and the divisor is neither 0 nor -1. That is
 * how compilers divide; all else is left to the handler.
 */
static void check_signed(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	unsigned bits = p->insn->opsize * 8u;
	emit_width(t, p, 0x8b, HOST_T2, HOST_RAX);
	emit_width(t, p, 0xc1, 7, HOST_T2);
	emit8(e, (u8)(bits - 1));
	emit_width(t, p, 0x3b, HOST_T2, HOST_RDX);
	emit_handler_if(t, p, COND_NZ);
	emit_rm(e, (struct opcode){ .byte = 0x8d, .wide = p->insn->opsize == 8 }, HOST_T2, HOST_T1, HOST_NONE, 0, 1);
	emit_alu_imm(e, 7, p->insn->opsize == 8, HOST_T2, 1);
	emit_handler_if(t, p, COND_BE);
}

void translate_divide(struct translation *t, const struct plan *p)
{
	bool is_signed = p->zi.mnemonic == ZYDIS_MNEMONIC_IDIV;
	emit_divisor(t, p);
	if (is_signed)
		check_signed(t, p);
	else
		check_unsigned(t, p);
	/* The flags are undefined: what the host makes of the guest's, as in the interpreter. */
	if (p->live_after)
		need_host_flags(t);
	emit_width(t, p, 0xf7, is_signed ? 7 : 6, HOST_T1);
	if (p->live_after)
		t->flags = IN_HOST;
}

/*
 * --- BT and kin on memory, with the bit's number in a register ---
 *
 * The operand is a string of bits of any length. Numbers of its first 32 or 64 bits need no address but the operand's;
 * all others are the handler's.
 */

static unsigned bit_number(struct translation *t, const struct plan *p)
{
	unsigned guest = jit_gpr_number(&p->op[1]);
	if (t->host[guest] != HOST_NONE)
		return t->host[guest];
	emit_load(&t->e, HOST_T1, HOST_CPU, guest_offset(guest));
	return HOST_T1;
}

void translate_bit_string(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	bool wide = p->insn->opsize == 8;
	i32 mask = wide ? 63 : 31;
	give_up_host_flags(t, p->live_before);
	emit_rr(e, (struct opcode){ .byte = 0xf7, .wide = wide }, 0, bit_number(t, p));
	emit32(e, (u32)~mask);
	emit_handler_if(t, p, COND_NZ);
	emit_operand(t, p);
	need_host_flags(t);
	/* On a register, the number is taken modulo its width. */
	emit_rm(e, (struct opcode){ .byte = 0x8b, .wide = wide }, HOST_T2, HOST_T0, HOST_NONE, 0, 0);
	emit_rr(e, (struct opcode){ .byte = p->zi.opcode, .map = 1, .wide = wide }, bit_number(t, p), HOST_T2);
	if (p->memory_write)
		emit_rm(e, (struct opcode){ .byte = 0x89, .wide = wide }, HOST_T2, HOST_T0, HOST_NONE, 0, 0);
	t->flags = IN_HOST;
}

/* --- CLD and STD --- */

void translate_direction(struct translation *t, const struct plan *p)
{
	bool set = p->zi.mnemonic == ZYDIS_MNEMONIC_STD;
	give_up_host_flags(t, p->live_before);
	emit_byte(&t->e, set ? 1 : 4, CPU_FIELD(rflags_sys) + 1, (u8)((set ? RFLAGS_DF : ~RFLAGS_DF) >> 8));
}
