#include "jit/emit.h"

#include <string.h>

enum { LONGEST = 16 }; /* bytes that are written between begin() and end() at most */

/* Where to write; elsewhere once the buffer is full. */
static u8 *begin(struct emit *e)
{
	if (likely(e->end - e->at >= LONGEST))
		return e->at;
	e->overflow = true;
	return e->swallowed;
}

static void end(struct emit *e, u8 *at)
{
	if (likely(!e->overflow))
		e->at = at;
}

static u8 *put32(u8 *at, u32 v)
{
	memcpy(at, &v, 4);
	return at + 4;
}

void emit8(struct emit *e, u8 v)
{
	u8 *at = begin(e);
	*at++ = v;
	end(e, at);
}

void emit32(struct emit *e, u32 v)
{
	end(e, put32(begin(e), v));
}

void emit64(struct emit *e, u64 v)
{
	u8 *at = begin(e);
	memcpy(at, &v, 8);
	end(e, at + 8);
}

/* Prefixes, REX and opcode. `rex` has the R, X and B bits; `plus` is added to the opcode byte. */
static u8 *put_head(u8 *at, struct opcode op, unsigned rex, unsigned plus)
{
	/* What is not wanted is written over. */
	*at = 0xf0;
	at += op.lock;
	*at = 0x66;
	at += op.operand16;
	*at = op.mandatory;
	at += op.mandatory != 0;
	rex |= op.wide ? 8 : 0;
	*at = (u8)(0x40 | rex);
	at += rex || op.byte_registers;
	if (op.map) {
		*at++ = 0x0f;
		*at = op.map == 2 ? 0x38 : 0x3a;
		at += op.map >= 2;
	}
	*at++ = (u8)(op.byte + plus);
	return at;
}

static u8 *put_rr(u8 *at, struct opcode op, unsigned reg, unsigned rm)
{
	at = put_head(at, op, (reg >> 3 & 1) << 2 | (rm >> 3 & 1), 0);
	*at++ = (u8)(0xc0 | (reg & 7) << 3 | (rm & 7));
	return at;
}

void emit_rr(struct emit *e, struct opcode op, unsigned reg, unsigned rm)
{
	end(e, put_rr(begin(e), op, reg, rm));
}

static u8 *put_modrm(u8 *at, unsigned reg, unsigned base, unsigned index, unsigned scale, i32 disp)
{
	bool has_base = base != HOST_NONE, has_index = index != HOST_NONE;

	if (base == HOST_CPU)
		disp -= CPU_BIAS;
	reg = (reg & 7) << 3;
	if (!has_base) {
		/* SIB without base: always 32 bits of displacement. */
		*at++ = (u8)(reg | 4);
		*at++ = (u8)(scale << 6 | (has_index ? index & 7 : 4) << 3 | 5);
		return put32(at, (u32)disp);
	}
	/* RBP and R13 as a base have no form without displacement. */
	unsigned mod = disp == 0 && (base & 7) != 5 ? 0 : disp == (i8)disp ? 1 : 2;
	if (has_index || (base & 7) == 4) {
		*at++ = (u8)(mod << 6 | reg | 4);
		*at++ = (u8)(scale << 6 | (has_index ? index & 7 : 4) << 3 | (base & 7));
	} else {
		*at++ = (u8)(mod << 6 | reg | (base & 7));
	}
	if (mod == 2)
		return put32(at, (u32)disp);
	*at = (u8)disp;
	return at + mod;
}

void emit_modrm(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale, i32 disp)
{
	end(e, put_modrm(begin(e), reg, base, index, scale, disp));
}

static u8 *put_rm(u8 *at, struct opcode op, unsigned reg, unsigned base, unsigned index, unsigned scale, i32 disp)
{
	unsigned b = base == HOST_NONE ? 0 : base >> 3 & 1, x = index == HOST_NONE ? 0 : index >> 3 & 1;

	at = put_head(at, op, (reg >> 3 & 1) << 2 | x << 1 | b, 0);
	return put_modrm(at, reg, base, index, scale, disp);
}

void emit_rm(struct emit *e, struct opcode op, unsigned reg, unsigned base, unsigned index, unsigned scale, i32 disp)
{
	end(e, put_rm(begin(e), op, reg, base, index, scale, disp));
}

void emit_o(struct emit *e, struct opcode op, unsigned reg)
{
	if (reg == HOST_NONE)
		end(e, put_head(begin(e), op, 0, 0));
	else
		end(e, put_head(begin(e), op, reg >> 3 & 1, reg & 7));
}

void emit_push(struct emit *e, unsigned reg)
{
	emit_o(e, (struct opcode){ .byte = 0x50 }, reg);
}

void emit_pop(struct emit *e, unsigned reg)
{
	emit_o(e, (struct opcode){ .byte = 0x58 }, reg);
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

void emit_store_zero(struct emit *e, unsigned base, i32 disp)
{
	emit_rm(e, OPCODE_WIDE(0xc7), 0, base, HOST_NONE, 0, disp);
	emit32(e, 0);
}

void emit_cpu_address(struct emit *e, unsigned reg)
{
	emit_rm(e, OPCODE_WIDE(0x8d), reg, HOST_CPU, HOST_NONE, 0, 0);
}

void emit_rip(struct emit *e, u8 opcode, unsigned reg, i32 disp)
{
	u8 *at = put_head(begin(e), OPCODE_WIDE(opcode), (reg >> 3 & 1) << 2, 0);
	*at++ = (u8)((reg & 7) << 3 | 5);
	end(e, put32(at, (u32)disp));
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

/* A branch whose opcode ends at `at`. */
static u8 *emit_displacement_to(struct emit *e, u8 *at, const u8 *to)
{
	end(e, put32(at, 0));
	if (to)
		emit_patch(e, at, to);
	return at;
}

u8 *emit_jcc(struct emit *e, unsigned condition, const u8 *to)
{
	u8 *at = begin(e);
	*at++ = 0x0f;
	*at++ = (u8)(0x80 | condition);
	return emit_displacement_to(e, at, to);
}

u8 *emit_jmp(struct emit *e, const u8 *to)
{
	u8 *at = begin(e);
	*at++ = 0xe9;
	return emit_displacement_to(e, at, to);
}

u8 *emit_call(struct emit *e, const u8 *to)
{
	u8 *at = begin(e);
	*at++ = 0xe8;
	return emit_displacement_to(e, at, to);
}
