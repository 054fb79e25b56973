/*
 * REP MOVS and REP STOS of 64-bit code, forwards and within one page of their target, and of their source: as the
 * host's own, in a stub for each width. All else is left to the handlers: what crosses a page, may fault, meets code
 * or a device, or goes backwards. So nothing can interrupt it in the middle.
 */
#include "jit/translation.h"

static bool is_move(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_MOVSB || m == ZYDIS_MNEMONIC_MOVSW || m == ZYDIS_MNEMONIC_MOVSD ||
	       m == ZYDIS_MNEMONIC_MOVSQ;
}

/* Bytes of an element, as a shift count; -1: no such instruction. */
static int width_of(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_MOVSB:
	case ZYDIS_MNEMONIC_STOSB:
		return 0;
	case ZYDIS_MNEMONIC_MOVSW:
	case ZYDIS_MNEMONIC_STOSW:
		return 1;
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_STOSD:
		return 2;
	case ZYDIS_MNEMONIC_MOVSQ:
	case ZYDIS_MNEMONIC_STOSQ:
		return 3;
	default:
		return -1;
	}
}

bool jit_plan_string(struct plan *p)
{
	const struct insn *insn = p->insn;
	/* Of these only the repeated ones end their block; MOVSD of a vector register does not. */
	if (width_of(p->zi.mnemonic) < 0 || !(insn->flags & INSN_ENDS) || insn->adsize != 8 || insn->seg == SEG_FS ||
	    insn->seg == SEG_GS)
		return false;
	p->named |= BIT(RCX);
	p->written |= BIT(RCX);
	return true;
}

void translate_string(struct translation *t, const struct plan *p)
{
	ZydisMnemonic m = p->zi.mnemonic;
	give_up_host_flags(t, p->live_before);
	emit_call(&t->e, t->jit->stub_string[is_move(m)][width_of(m)]);
	emit_handler_if(t, p, COND_NZ);
}

/* --- stubs --- */

/* T1 = addend of the page that has the T0 bytes at a register, by access_hit(); a jump that is taken if the TLB has not
 * all of them. Uses T2. */
static u8 *emit_addend(struct emit *e, unsigned pointer, i32 tag)
{
	emit_rr(e, (struct opcode){ .byte = 0x89 }, pointer, HOST_T1);
	emit_shift(e, 5, false, HOST_T1, 7);
	emit_alu_imm(e, 4, false, HOST_T1, (TLB_ENTRIES - 1) << 5);
	emit_add_to(e, HOST_T1, CPU_FIELD(mmu.tlb));
	emit_rm(e, OPCODE_WIDE(0x8d), HOST_T2, pointer, HOST_T0, 0, -1);
	emit_alu_imm(e, 4, true, HOST_T2, -(i32)PAGE_SIZE);
	emit_rm(e, OPCODE_WIDE(0x0b), HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.revision));
	emit_rm(e, OPCODE_WIDE(0x3b), HOST_T2, HOST_T1, HOST_NONE, 0, tag);
	u8 *unknown = emit_jcc(e, COND_NZ, NULL);
	emit_load(e, HOST_T1, HOST_T1, offsetof(struct tlb_entry, addend));
	return unknown;
}

/* call: ZF = it is done; if not, nothing is. Uses T0 to T2, and RSI's place in struct cpu. */
static void make_string(struct emit *e, bool move, unsigned width)
{
	struct opcode string = { .byte = (u8)((move ? 0xa4 : 0xaa) | (width > 0)),
				 .mandatory = 0xf3,
				 .operand16 = width == 1,
				 .wide = width == 3 };
	u8 *out[5];
	unsigned outs = 0;

	emit_test_byte(e, CPU_FIELD(rflags_sys) + 1, RFLAGS_DF >> 8);
	out[outs++] = emit_jcc(e, COND_NZ, NULL);
	emit_alu_imm(e, 7, true, HOST_RCX, (i32)PAGE_SIZE >> width);
	out[outs++] = emit_jcc(e, COND_A, NULL);
	emit_rm(e, OPCODE_WIDE(0x8d), HOST_T0, HOST_NONE, HOST_RCX, width, 0);
	emit_rr(e, OPCODE_WIDE(0x85), HOST_T0, HOST_T0);
	out[outs++] = emit_jcc(e, COND_Z, NULL);
	if (move) {
		out[outs++] = emit_addend(e, HOST_RSI, offsetof(struct tlb_entry, read));
		emit_rr(e, OPCODE_WIDE(0x01), HOST_RSI, HOST_T1);
		emit_store(e, HOST_T1, HOST_CPU, guest_offset(RSI));
	}
	out[outs++] = emit_addend(e, HOST_RDI, offsetof(struct tlb_entry, write));
	if (move) {
		emit_rr(e, OPCODE_WIDE(0x01), HOST_RSI, HOST_T0);
		emit_load(e, HOST_RSI, HOST_CPU, guest_offset(RSI));
	}
	emit_rr(e, OPCODE_WIDE(0x01), HOST_T1, HOST_RDI);
	emit_o(e, string, HOST_NONE);
	emit_rr(e, OPCODE_WIDE(0x29), HOST_T1, HOST_RDI);
	if (move)
		emit_mov(e, HOST_RSI, HOST_T0);
	emit_rr(e, (struct opcode){ .byte = 0x39 }, HOST_T0, HOST_T0);
	for (unsigned i = 0; i < outs; i++)
		emit_patch(e, out[i], e->at);
	emit8(e, 0xc3);
}

void jit_make_string_stubs(struct jit *jit, struct emit *e)
{
	for (unsigned move = 0; move < 2; move++)
		for (unsigned width = 0; width < 4; width++) {
			jit->stub_string[move][width] = e->at;
			make_string(e, move, width);
		}
}
