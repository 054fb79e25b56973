/*
 * Looking at the plainest instructions without a decoder: most of what the translator emits has one of a few shapes,
 * and a table knows them. What is not in the table, or looks odd in any way, is for verify.c.
 */
#include "jit/internal.h"

enum shape {
	OTHER,
	BARE,       /* nothing behind the opcode */
	MODRM,      /* an operand in a register or memory */
	MODRM_IMM8, /* and an immediate behind it */
	MODRM_IMM32,
	ADDRESS, /* LEA: the operand is not accessed */
	SHIFT,   /* MODRM, but not /6 */
	SHIFT_IMM8,
	STORE_IMM8, /* /0 only */
	STORE_IMM32,
	UNARY8, /* F6: TEST has an immediate; no MUL and DIV */
	UNARY,
	STEP,      /* FE: INC and DEC */
	STEP_JUMP, /* FF: and CALL and JMP through memory */
	IMM8,
	IMM32,
	IMM_FULL, /* B8: 4 bytes, or 8 with REX.W */
	BRANCH,   /* 4 bytes: where to */
};

#define ALU(o)                                                                                                         \
	[(o)] = MODRM, [(o) + 1] = MODRM, [(o) + 2] = MODRM, [(o) + 3] = MODRM, [(o) + 4] = IMM8, [(o) + 5] = IMM32

static const u8 shapes[256] = {
	ALU(0x00),
	ALU(0x08),
	ALU(0x10),
	ALU(0x18),
	ALU(0x20),
	ALU(0x28),
	ALU(0x30),
	ALU(0x38),
	[0x63] = MODRM,
	[0x69] = MODRM_IMM32,
	[0x6b] = MODRM_IMM8,
	[0x80] = MODRM_IMM8,
	[0x81] = MODRM_IMM32,
	[0x83] = MODRM_IMM8,
	[0x84 ... 0x8b] = MODRM,
	[0x8d] = ADDRESS,
	[0x98 ... 0x99] = BARE,
	[0x9e ... 0x9f] = BARE,
	[0xa8] = IMM8,
	[0xa9] = IMM32,
	[0xb0 ... 0xb7] = IMM8,
	[0xb8 ... 0xbf] = IMM_FULL,
	[0xc0 ... 0xc1] = SHIFT_IMM8,
	[0xc3] = BARE,
	[0xc6] = STORE_IMM8,
	[0xc7] = STORE_IMM32,
	[0xd0 ... 0xd3] = SHIFT,
	[0xe8 ... 0xe9] = BRANCH,
	[0xf6] = UNARY8,
	[0xf7] = UNARY,
	[0xfe] = STEP,
	[0xff] = STEP_JUMP,
};

/* Behind 0F. */
static const u8 shapes_0f[256] = {
	[0x40 ... 0x4f] = MODRM, [0x80 ... 0x8f] = BRANCH, [0x90 ... 0x9f] = MODRM,
	[0xaf] = MODRM,          [0xb6 ... 0xb7] = MODRM,  [0xbe ... 0xbf] = MODRM,
};

struct operand {
	unsigned length; /* of ModRM, SIB and displacement */
	unsigned reg;    /* the opcode's part of ModRM */
	bool memory;
	bool right; /* a register, or memory that translated code may reach: see is_memory_right() in verify.c */
};

static struct operand look_at_operand(const u8 *at, u8 rex)
{
	unsigned mod = at[0] >> 6, rm = at[0] & 7, b = rex & 1, x = rex >> 1 & 1;
	struct operand o = { .length = 1, .reg = at[0] >> 3 & 7, .memory = mod != 3, .right = mod == 3 };
	if (mod == 3)
		return o;
	unsigned base = rm | b << 3, index = HOST_RSP, scale = 0;
	if (rm == 4) {
		base = (at[1] & 7) | b << 3;
		index = (at[1] >> 3 & 7) | x << 3;
		scale = at[1] >> 6;
		o.length++;
	}
	bool no_base = mod == 0 && (base & 7) == 5;
	o.length += mod == 1 ? 1 : mod == 2 || no_base ? 4 : 0;
	if (no_base || base == HOST_RSP)
		return o;
	if (index != HOST_RSP)
		o.right = index == HOST_T1 && scale == 0 && base != HOST_CPU;
	else
		o.right = base == HOST_CPU || base == HOST_T0 || base == HOST_T1 || base == HOST_T2;
	return o;
}

/* Bytes of an immediate behind an operand; -1: not this one. */
static int immediate_of(enum shape shape, const struct operand *o)
{
	switch (shape) {
	case MODRM:
	case ADDRESS:
		return 0;
	case MODRM_IMM8:
		return 1;
	case MODRM_IMM32:
		return 4;
	case SHIFT:
		return o->reg != 6 ? 0 : -1;
	case SHIFT_IMM8:
		return o->reg != 6 ? 1 : -1;
	case STORE_IMM8:
		return o->reg == 0 ? 1 : -1;
	case STORE_IMM32:
		return o->reg == 0 ? 4 : -1;
	case UNARY8:
		return o->reg == 0 ? 1 : o->reg == 2 || o->reg == 3 ? 0 : -1;
	case UNARY:
		return o->reg == 0 ? 4 : o->reg == 2 || o->reg == 3 ? 0 : -1;
	case STEP:
		return o->reg <= 1 ? 0 : -1;
	case STEP_JUMP:
		return o->reg <= 1 || ((o->reg == 2 || o->reg == 4) && o->memory) ? 0 : -1;
	default:
		return -1;
	}
}

static i64 displacement(const u8 *at)
{
	return (i32)(at[0] | (u32)at[1] << 8 | (u32)at[2] << 16 | (u32)at[3] << 24);
}

/* CMP, SUB or MOV of a 64-bit register and [RIP + displacement]: is that a prediction? */
static bool is_prediction(const struct jit *jit, const u8 *at)
{
	return (at[0] & 0xfb) == 0x48 && (at[1] == 0x2b || at[1] == 0x3b || at[1] == 0x8b) && (at[2] & 0xc7) == 5 &&
	       jit_prediction_is_right(jit, at + 7, displacement(at + 3));
}

unsigned jit_verify_plain(const struct jit *jit, const u8 *at, const u8 *code, const u8 *end)
{
	enum { LONGEST = 15, PREDICTION = 7 };
	const u8 *start = at;
	u8 rex = 0;

	if (end - at < LONGEST)
		return 0;
	if (is_prediction(jit, at))
		return PREDICTION;
	bool operand16 = *at == 0x66;
	at += operand16;
	if ((*at & 0xf0) == 0x40)
		rex = *at++;
	bool two = *at == 0x0f;
	at += two;
	enum shape shape = two ? shapes_0f[*at] : shapes[*at];
	at++;
	bool with_operand = shape >= MODRM && shape <= STEP_JUMP;
	/* The length of an immediate may depend on the prefix, and what a branch or RET makes of it is not for here. */
	if (shape == OTHER || (operand16 && (!with_operand || shape > ADDRESS || shape == MODRM_IMM32)))
		return 0;
	switch (shape) {
	case BARE:
		break;
	case IMM8:
		at += 1;
		break;
	case IMM32:
		at += 4;
		break;
	case IMM_FULL:
		at += rex & 8 ? 8 : 4;
		break;
	case BRANCH:
		at += 4;
		if (!jit_branch_is_right(jit, at + displacement(at - 4), code, end))
			return 0;
		break;
	default: {
		struct operand o = look_at_operand(at, rex);
		int immediate = immediate_of(shape, &o);
		if (immediate < 0 || (!o.right && shape != ADDRESS) || (shape == ADDRESS && !o.memory))
			return 0;
		at += o.length + (unsigned)immediate;
	}
	}
	return (unsigned)(at - start);
}
