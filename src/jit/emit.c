#include "jit/emit.h"

#include <string.h>

void emit8(struct emit *e, u8 v)
{
	if (e->at < e->end)
		*e->at++ = v;
	else
		e->overflow = true;
}

void emit32(struct emit *e, u32 v)
{
	for (unsigned i = 0; i < 4; i++)
		emit8(e, (u8)(v >> 8 * i));
}

void emit64(struct emit *e, u64 v)
{
	emit32(e, (u32)v);
	emit32(e, (u32)(v >> 32));
}

/* Prefixes, REX and opcode. `rex` has the R, X and B bits; `plus` is added to the opcode byte. */
static void emit_head(struct emit *e, struct opcode op, unsigned rex, unsigned plus)
{
	if (op.lock)
		emit8(e, 0xf0);
	if (op.operand16)
		emit8(e, 0x66);
	if (op.mandatory)
		emit8(e, op.mandatory);
	rex |= op.wide ? 8 : 0;
	if (rex || op.byte_registers)
		emit8(e, (u8)(0x40 | rex));
	if (op.map)
		emit8(e, 0x0f);
	if (op.map >= 2)
		emit8(e, op.map == 2 ? 0x38 : 0x3a);
	emit8(e, (u8)(op.byte + plus));
}

void emit_rr(struct emit *e, struct opcode op, unsigned reg, unsigned rm)
{
	emit_head(e, op, (reg >> 3 & 1) << 2 | (rm >> 3 & 1), 0);
	emit8(e, (u8)(0xc0 | (reg & 7) << 3 | (rm & 7)));
}

static void emit_displacement(struct emit *e, unsigned mod, i32 disp)
{
	if (mod == 1)
		emit8(e, (u8)disp);
	else if (mod == 2)
		emit32(e, (u32)disp);
}

void emit_modrm(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale, i32 disp)
{
	bool has_base = base != HOST_NONE, has_index = index != HOST_NONE;

	reg = (reg & 7) << 3;
	if (!has_base) {
		/* SIB without base: always 32 bits of displacement. */
		emit8(e, (u8)(reg | 4));
		emit8(e, (u8)(scale << 6 | (has_index ? index & 7 : 4) << 3 | 5));
		emit32(e, (u32)disp);
		return;
	}
	/* RBP and R13 as a base have no form without displacement. */
	unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (i8)disp ? 1 : 2;
	if (has_index || (base & 7) == 4) {
		emit8(e, (u8)(mod << 6 | reg | 4));
		emit8(e, (u8)(scale << 6 | (has_index ? index & 7 : 4) << 3 | (base & 7)));
	} else {
		emit8(e, (u8)(mod << 6 | reg | (base & 7)));
	}
	emit_displacement(e, mod, disp);
}

void emit_rm(struct emit *e, struct opcode op, unsigned reg, unsigned base, unsigned index, unsigned scale, i32 disp)
{
	unsigned b = base == HOST_NONE ? 0 : base >> 3 & 1, x = index == HOST_NONE ? 0 : index >> 3 & 1;

	emit_head(e, op, (reg >> 3 & 1) << 2 | x << 1 | b, 0);
	emit_modrm(e, reg, base, index, scale, disp);
}

void emit_o(struct emit *e, struct opcode op, unsigned reg)
{
	if (reg == HOST_NONE)
		emit_head(e, op, 0, 0);
	else
		emit_head(e, op, reg >> 3 & 1, reg & 7);
}

void emit_mov(struct emit *e, unsigned to, unsigned from)
{
	if (to != from)
		emit_rr(e, OPCODE_WIDE(0x89), from, to);
}

void emit_mov_imm(struct emit *e, unsigned to, u64 value)
{
	if (value == (u32)value) {
		emit_o(e, (struct opcode){ .byte = 0xb8 }, to);
		emit32(e, (u32)value);
	} else if ((i64)value == (i32)value) {
		emit_rr(e, OPCODE_WIDE(0xc7), 0, to);
		emit32(e, (u32)value);
	} else {
		emit_o(e, OPCODE_WIDE(0xb8), to);
		emit64(e, value);
	}
}

void emit_load(struct emit *e, unsigned to, unsigned base, i32 disp)
{
	emit_rm(e, OPCODE_WIDE(0x8b), to, base, HOST_NONE, 0, disp);
}

void emit_store(struct emit *e, unsigned from, unsigned base, i32 disp)
{
	emit_rm(e, OPCODE_WIDE(0x89), from, base, HOST_NONE, 0, disp);
}

void emit_rip(struct emit *e, u8 opcode, unsigned reg, i32 disp)
{
	emit_head(e, OPCODE_WIDE(opcode), (reg >> 3 & 1) << 2, 0);
	emit8(e, (u8)((reg & 7) << 3 | 5));
	emit32(e, (u32)disp);
}

void emit_lea(struct emit *e, unsigned to, unsigned base, i32 disp)
{
	if (disp)
		emit_rm(e, OPCODE_WIDE(0x8d), to, base, HOST_NONE, 0, disp);
	else
		emit_mov(e, to, base);
}

void emit_alu_imm(struct emit *e, unsigned n, bool wide, unsigned reg, i32 imm)
{
	bool small = imm == (i8)imm;
	emit_rr(e, (struct opcode){ .byte = small ? 0x83 : 0x81, .wide = wide }, n, reg);
	if (small)
		emit8(e, (u8)imm);
	else
		emit32(e, (u32)imm);
}

static void emit_byte_imm(struct emit *e, u8 opcode, unsigned n, i32 field, u8 value)
{
	emit_rm(e, (struct opcode){ .byte = opcode }, n, HOST_CPU, HOST_NONE, 0, field);
	emit8(e, value);
}

void emit_byte(struct emit *e, unsigned n, i32 field, u8 value)
{
	emit_byte_imm(e, 0x80, n, field, value);
}

void emit_set_byte(struct emit *e, i32 field, u8 value)
{
	emit_byte_imm(e, 0xc6, 0, field, value);
}

void emit_test_byte(struct emit *e, i32 field, u8 bits)
{
	emit_byte_imm(e, 0xf6, 0, field, bits);
}

void emit_shift(struct emit *e, unsigned n, bool wide, unsigned reg, u8 count)
{
	emit_rr(e, (struct opcode){ .byte = 0xc1, .wide = wide }, n, reg);
	emit8(e, count);
}

void emit_patch(struct emit *e, u8 *site, const u8 *to)
{
	i32 displacement = (i32)(to - (site + 4));
	if (!e->overflow)
		memcpy(site, &displacement, 4);
}

static u8 *emit_displacement_to(struct emit *e, const u8 *to)
{
	u8 *site = e->at;
	emit32(e, 0);
	if (to)
		emit_patch(e, site, to);
	return site;
}

u8 *emit_jcc(struct emit *e, unsigned condition, const u8 *to)
{
	emit8(e, 0x0f);
	emit8(e, (u8)(0x80 | condition));
	return emit_displacement_to(e, to);
}

u8 *emit_jmp(struct emit *e, const u8 *to)
{
	emit8(e, 0xe9);
	return emit_displacement_to(e, to);
}

u8 *emit_call(struct emit *e, const u8 *to)
{
	emit8(e, 0xe8);
	return emit_displacement_to(e, to);
}
