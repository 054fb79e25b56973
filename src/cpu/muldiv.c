/*
 * MUL IMUL DIV IDIV. Quotients that do not fit raise #DE before the host could.
 */
#include "cpu/operand.h"

/* --- one operand: rDX:rAX (AX for bytes) times or divided by the operand --- */

/* Runs `op` on the host with lo in rAX and hi in rDX. */
#define HOST_WIDE(op, bits)                                                                                            \
	static inline void host_##op##bits(u##bits *lo, u##bits *hi, u##bits s, u16 *f)                                \
	{                                                                                                              \
		u16 ax = *f;                                                                                           \
		u64 low = *lo, high = *hi;                                                                             \
		asm(HOST_FLAGS_IN "mov %[low], %%rax\n\t" #op " %[s]\n\tmov %%rax, %[low]" HOST_FLAGS_OUT              \
		    : [low] "+&r"(low), "+&d"(high), "+&a"(ax)                                                         \
		    : [s] "r"(s)                                                                                       \
		    : "cc");                                                                                           \
		*f = ax;                                                                                               \
		*lo = (u##bits)low;                                                                                    \
		*hi = (u##bits)high;                                                                                   \
	}

/* Bytes: AX alone, AH being the upper half. */
#define HOST_WIDE8(op)                                                                                                 \
	static inline void host_##op##8(u8 * lo, u8 * hi, u8 s, u16 * f)                                               \
	{                                                                                                              \
		u16 ax = *f;                                                                                           \
		u64 low = *lo | (u64)*hi << 8;                                                                         \
		asm(HOST_FLAGS_IN "mov %[low], %%rax\n\t" #op " %[s]\n\tmov %%rax, %[low]" HOST_FLAGS_OUT              \
		    : [low] "+&r"(low), "+&a"(ax)                                                                      \
		    : [s] "r"(s)                                                                                       \
		    : "cc");                                                                                           \
		*f = ax;                                                                                               \
		*lo = (u8)low;                                                                                         \
		*hi = (u8)(low >> 8);                                                                                  \
	}

/* Does the division raise #DE: by zero, or a quotient too large? */
static bool div_overflows(u64 hi, u64 lo, u64 s, unsigned bits)
{
	return hi >= s; /* s = 0 too */
}

static bool idiv_overflows(u64 hi, u64 lo, u64 s, unsigned bits)
{
	__int128 n = (__int128)((unsigned __int128)hi << bits | lo);
	/* The dividend has twice the operand's bits. */
	if (bits < 64)
		n = (i64)sign_extend((u64)n, 2 * bits);
	i64 divisor = (i64)sign_extend(s, bits), max = (i64)(BIT(bits - 1) - 1);
	if (divisor == 0)
		return true;
	if (divisor == -1) /* the host's own division would overflow with the least dividend */
		return n < -(__int128)max || n > (__int128)max + 1;
	__int128 q = n / divisor;
	return q > max || q < -(__int128)max - 1;
}

static bool never_overflows(u64 hi, u64 lo, u64 s, unsigned bits)
{
	return false;
}

#define WIDE_RUN(op, bits, overflows, get_hi, set_hi)                                                                  \
	static inline void run_##op##bits(struct cpu *cpu, u##bits s)                                                  \
	{                                                                                                              \
		u##bits lo = (u##bits)cpu->reg[RAX], hi = get_hi;                                                      \
		if (overflows(hi, lo, s, bits))                                                                        \
			cpu_raise(cpu, VEC_DE);                                                                        \
		u16 f = cpu->arith;                                                                                    \
		host_##op##bits(&lo, &hi, s, &f);                                                                      \
		cpu->arith = f;                                                                                        \
		reg_set##bits(cpu, RAX, lo);                                                                           \
		set_hi;                                                                                                \
	}                                                                                                              \
	static void op##bits##_r(struct cpu *cpu, const struct insn *insn)                                             \
	{                                                                                                              \
		run_##op##bits(cpu, get_dst##bits(cpu, insn));                                                         \
	}                                                                                                              \
	static void op##bits##_m(struct cpu *cpu, const struct insn *insn)                                             \
	{                                                                                                              \
		run_##op##bits(cpu, get_mem##bits(cpu, insn));                                                         \
	}

#define WIDE_SIZE(op, bits, overflows)                                                                                 \
	HOST_WIDE(op, bits)                                                                                            \
	WIDE_RUN(op, bits, overflows, (u##bits)cpu->reg[RDX], reg_set##bits(cpu, RDX, hi))

#define WIDE(op, overflows)                                                                                            \
	HOST_WIDE8(op)                                                                                                 \
	WIDE_RUN(op, 8, overflows, (u8)(cpu->reg[RAX] >> 8), *reg8_pointer(cpu, RAX, true) = hi)                       \
	WIDE_SIZE(op, 16, overflows)                                                                                   \
	WIDE_SIZE(op, 32, overflows)                                                                                   \
	WIDE_SIZE(op, 64, overflows)                                                                                   \
	static form_table op##_forms = {                                                                               \
		[FORM_R] = { op##8_r, op##16_r, op##32_r, op##64_r },                                                  \
		[FORM_M] = { op##8_m, op##16_m, op##32_m, op##64_m },                                                  \
	};
WIDE(mul, never_overflows)
WIDE(imul, never_overflows)
WIDE(div, div_overflows)
WIDE(idiv, idiv_overflows)

/* Zydis counts the implicit accumulator among the visible operands of some: only operand 0 matters. */
static bool select_wide(const struct decode *d, struct insn *insn, form_table table)
{
	bool memory = operand_is(d, 0, OPERAND_MEM);
	insn->exec = table[memory ? FORM_M : FORM_R][size_index(operand_size(d, 0))];
	return true;
}

bool select_mul(const struct decode *d, struct insn *insn)
{
	return select_wide(d, insn, mul_forms);
}

bool select_div(const struct decode *d, struct insn *insn)
{
	return select_wide(d, insn, div_forms);
}

bool select_idiv(const struct decode *d, struct insn *insn)
{
	return select_wide(d, insn, idiv_forms);
}

/* --- IMUL with two and three operands --- */

#define IMUL_FORMS(bits)                                                                                               \
	static inline u##bits host_imul_##bits(struct cpu *cpu, u##bits d, u##bits s)                                  \
	{                                                                                                              \
		u16 ax = cpu->arith;                                                                                   \
		asm(HOST_FLAGS_IN "imul %[s], %[d]" HOST_FLAGS_OUT : [d] "+r"(d), "+&a"(ax) : [s] "r"(s) : "cc");      \
		cpu->arith = ax;                                                                                       \
		return d;                                                                                              \
	}                                                                                                              \
	static void imul##bits##_rr(struct cpu *cpu, const struct insn *insn)                                          \
	{                                                                                                              \
		set_dst##bits(cpu, insn, host_imul_##bits(cpu, get_dst##bits(cpu, insn), get_src##bits(cpu, insn)));   \
	}                                                                                                              \
	static void imul##bits##_rm(struct cpu *cpu, const struct insn *insn)                                          \
	{                                                                                                              \
		u##bits s = get_mem##bits(cpu, insn);                                                                  \
		set_dst##bits(cpu, insn, host_imul_##bits(cpu, get_dst##bits(cpu, insn), s));                          \
	}                                                                                                              \
	static void imul##bits##_rri(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		set_dst##bits(cpu, insn, host_imul_##bits(cpu, (u##bits)insn->imm, get_src##bits(cpu, insn)));         \
	}                                                                                                              \
	static void imul##bits##_rmi(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		u##bits s = get_mem##bits(cpu, insn);                                                                  \
		set_dst##bits(cpu, insn, host_imul_##bits(cpu, (u##bits)insn->imm, s));                                \
	}
IMUL_FORMS(16)
IMUL_FORMS(32)
IMUL_FORMS(64)

static form_table imul2_forms = {
	[FORM_RR] = { NULL, imul16_rr, imul32_rr, imul64_rr },
	[FORM_RM] = { NULL, imul16_rm, imul32_rm, imul64_rm },
};
static form_table imul3_forms = {
	[FORM_RR] = { NULL, imul16_rri, imul32_rri, imul64_rri },
	[FORM_RM] = { NULL, imul16_rmi, imul32_rmi, imul64_rmi },
};

bool select_imul(const struct decode *d, struct insn *insn)
{
	/* F6 /5 and F7 /5 are the one-operand form. */
	if (d->zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (d->zi->opcode == 0xf6 || d->zi->opcode == 0xf7))
		return select_wide(d, insn, imul_forms);
	return select_form(d, insn, operand_is(d, 2, OPERAND_IMM) ? imul3_forms : imul2_forms);
}
