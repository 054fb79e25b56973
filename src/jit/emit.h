/*
 * Writing host instructions. A buffer without room for the longest one swallows what comes and remembers it: look at
 * `overflow` once at the end.
 *
 * Owner and thread: the translator's.
 */
#ifndef STRATA_JIT_EMIT_H
#define STRATA_JIT_EMIT_H

#include "base/types.h"

/* Host registers by number. */
enum { HOST_RAX, HOST_RCX, HOST_RDX, HOST_RBX, HOST_RSP, HOST_RBP, HOST_RSI, HOST_RDI, HOST_R8 };

/* What the translator uses them for; the rest hold guest registers (host_register[], and loop.h). */
enum {
	HOST_T0 = 9,   /* addresses */
	HOST_T1 = 10,  /* TLB entry, operand; entry of the jump cache where one leads */
	HOST_T2 = 11,  /* tag, operand, flags; the link when a block is entered */
	HOST_CPU = 15, /* struct cpu, CPU_BIAS bytes further: as a base, it is the struct */
	HOST_NONE = 0xff
};

enum { CPU_BIAS = 128 /* so that displacements of one byte reach all of its first 256 */ };

/* Conditions as in Jcc's opcode. */
enum { COND_B = 2, COND_AE = 3, COND_Z = 4, COND_NZ = 5, COND_BE = 6, COND_A = 7, COND_S = 8 };

struct emit {
	u8 *at, *end;
	bool overflow;
	u8 swallowed[16];
};

/* An instruction but for its operands. */
struct opcode {
	u8 byte;
	u8 map;                                     /* 0 none, 1 0F, 2 0F 38, 3 0F 3A */
	u8 mandatory;                               /* F2, F3 or 0 */
	bool operand16, wide, lock, byte_registers; /* 66; REX.W; F0; low bytes 4..7 of registers need a REX */
};

#define OPCODE_WIDE(b) ((struct opcode){ .byte = (b), .wide = true })

void emit8(struct emit *e, u8 v);
void emit32(struct emit *e, u32 v);
void emit64(struct emit *e, u64 v);
/* Register and register. */
void emit_rr(struct emit *e, struct opcode op, unsigned reg, unsigned rm);
/* Register and [base + index << scale + disp]; base and index may be HOST_NONE, index not RSP. */
void emit_rm(struct emit *e, struct opcode op, unsigned reg, unsigned base, unsigned index, unsigned scale, i32 disp);
/* ModRM, SIB and displacement of that operand in memory alone: for heads that are made elsewhere. */
void emit_modrm(struct emit *e, unsigned reg, unsigned base, unsigned index, unsigned scale, i32 disp);
/* A register in the opcode's low bits; HOST_NONE: no register at all. */
void emit_o(struct emit *e, struct opcode op, unsigned reg);
void emit_push(struct emit *e, unsigned reg);
void emit_pop(struct emit *e, unsigned reg);
/* 64-bit MOV of registers, of an immediate, from and to [base + disp]. */
void emit_mov(struct emit *e, unsigned to, unsigned from);
void emit_mov_imm(struct emit *e, unsigned to, u64 value);
void emit_load(struct emit *e, unsigned to, unsigned base, i32 disp);
void emit_store(struct emit *e, unsigned from, unsigned base, i32 disp);
void emit_store_zero(struct emit *e, unsigned base, i32 disp);
/* `reg` = address of struct cpu. */
void emit_cpu_address(struct emit *e, unsigned reg);
/* 64-bit, with `reg` and [RIP + disp]. */
void emit_rip(struct emit *e, u8 opcode, unsigned reg, i32 disp);
void emit_lea(struct emit *e, unsigned to, unsigned base, i32 disp);
/* Opcode 81h or 83h, /n: AND 4, OR 1, CMP 7, ADD 0, on 32-bit register or, wide, 64-bit. */
void emit_alu_imm(struct emit *e, unsigned n, bool wide, unsigned reg, i32 imm);
/* On a byte of struct cpu. Opcode 80h, /n, as above; MOV; and TEST: ZF = none of the bits is set. */
void emit_byte(struct emit *e, unsigned n, i32 field, u8 value);
void emit_set_byte(struct emit *e, i32 field, u8 value);
void emit_test_byte(struct emit *e, i32 field, u8 bits);
/* Opcode C1h, /n: SHL 4, SHR 5, SAR 7, by a constant. */
void emit_shift(struct emit *e, unsigned n, bool wide, unsigned reg, u8 count);
/* Jumps with 32-bit displacements; the result is where to patch, for emit_patch(); `to` may be NULL for later. */
u8 *emit_jcc(struct emit *e, unsigned condition, const u8 *to);
u8 *emit_jmp(struct emit *e, const u8 *to);
u8 *emit_call(struct emit *e, const u8 *to);
/* The jump at `site` leads to `to`. Both in the writable mapping. */
void emit_patch(struct emit *e, u8 *site, const u8 *to);

#endif
