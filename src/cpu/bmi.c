/*
 * BMI1, BMI2 and ADX, in C: the host need not have them. Three-operand forms keep the third operand's register in cond.
 */
#include "cpu/operand.h"

/* SF, ZF of the result, CF as given, OF clear. AF and PF are undefined: clear. */
static void logic_flags(struct cpu *cpu, u64 result, unsigned bits, bool carry)
{
	bool sign = result >> (bits - 1) & 1;
	cpu->arith = (u16)(ARITH_FIXED | (sign ? ARITH_SF : 0) | (result ? 0 : ARITH_ZF) | (carry ? ARITH_CF : 0));
}

/* --- operations: a is the register operand that the encoding calls vvvv or reg, b the register-or-memory one --- */

static u64 run_andn(struct cpu *cpu, u64 a, u64 b, unsigned bits)
{
	u64 r = ~a & b;
	logic_flags(cpu, bits == 64 ? r : (u32)r, bits, false);
	return r;
}

static u64 run_bextr(struct cpu *cpu, u64 control, u64 b, unsigned bits)
{
	unsigned start = control & 0xff, length = control >> 8 & 0xff;
	u64 r = start < bits ? b >> start : 0;
	if (length < bits)
		r &= BIT(length) - 1;
	logic_flags(cpu, r, bits, false);
	cpu->arith &= (u16)~ARITH_SF; /* undefined */
	return r;
}

static u64 run_bzhi(struct cpu *cpu, u64 index, u64 b, unsigned bits)
{
	unsigned n = index & 0xff;
	u64 r = n < bits ? b & (BIT(n) - 1) : b;
	logic_flags(cpu, r, bits, n >= bits);
	return r;
}

static u64 run_pdep(struct cpu *cpu, u64 a, u64 mask, unsigned bits)
{
	u64 r = 0;
	for (; mask; mask &= mask - 1, a >>= 1)
		if (a & 1)
			r |= mask & -mask;
	return r;
}

static u64 run_pext(struct cpu *cpu, u64 a, u64 mask, unsigned bits)
{
	u64 r = 0, bit = 1;
	for (; mask; mask &= mask - 1, bit <<= 1)
		if (a & mask & -mask)
			r |= bit;
	return r;
}

static u64 run_shlx(struct cpu *cpu, u64 count, u64 b, unsigned bits)
{
	return b << (count & (bits - 1));
}

static u64 run_shrx(struct cpu *cpu, u64 count, u64 b, unsigned bits)
{
	return b >> (count & (bits - 1));
}

static u64 run_sarx(struct cpu *cpu, u64 count, u64 b, unsigned bits)
{
	return (u64)((i64)sign_extend(b, bits) >> (count & (bits - 1)));
}

static u64 run_rorx(struct cpu *cpu, u64 count, u64 b, unsigned bits)
{
	unsigned n = count & (bits - 1);
	return n ? b >> n | b << (bits - n) : b;
}

static u64 run_blsi(struct cpu *cpu, u64 unused, u64 b, unsigned bits)
{
	u64 r = b & -b;
	logic_flags(cpu, r, bits, b != 0);
	return r;
}

static u64 run_blsmsk(struct cpu *cpu, u64 unused, u64 b, unsigned bits)
{
	u64 r = b ^ (b - 1);
	logic_flags(cpu, bits == 64 ? r : (u32)r, bits, b == 0);
	return r;
}

static u64 run_blsr(struct cpu *cpu, u64 unused, u64 b, unsigned bits)
{
	u64 r = b & (b - 1);
	logic_flags(cpu, r, bits, b == 0);
	return r;
}

/* --- forms: 32 and 64 bits; b in a register or in memory, a in register cond or the immediate --- */

#define BMI_SIZE(op, bits, a)                                                                                          \
	static void op##bits##_r(struct cpu *cpu, const struct insn *insn)                                             \
	{                                                                                                              \
		u##bits r = (u##bits)run_##op(cpu, a, get_src##bits(cpu, insn), bits);                                 \
		set_dst##bits(cpu, insn, r);                                                                           \
	}                                                                                                              \
	static void op##bits##_m(struct cpu *cpu, const struct insn *insn)                                             \
	{                                                                                                              \
		u##bits r = (u##bits)run_##op(cpu, a, get_mem##bits(cpu, insn), bits);                                 \
		set_dst##bits(cpu, insn, r);                                                                           \
	}

/* Which operands hold a and b differs: `a_at` 0 if there is no a or it is the immediate. */
static bool select_bmi(const struct decode *d, struct insn *insn, unsigned a_at, unsigned b_at,
		       const insn_fn table[2][2])
{
	bool high;
	if (a_at)
		insn->cond = (u8)gpr_slot(d->op[a_at].reg.value, &high);
	bool memory = d->op[b_at].type == OPERAND_MEM;
	if (!memory)
		insn->src = (u8)gpr_slot(d->op[b_at].reg.value, &high);
	insn->exec = table[operand_size(d, 0) == 8][memory];
	return true;
}

#define BMI(op, a, a_at, b_at)                                                                                         \
	BMI_SIZE(op, 32, a)                                                                                            \
	BMI_SIZE(op, 64, a)                                                                                            \
	bool select_##op(const struct decode *d, struct insn *insn)                                                    \
	{                                                                                                              \
		static const insn_fn table[2][2] = { { op##32_r, op##32_m }, { op##64_r, op##64_m } };                 \
		return select_bmi(d, insn, a_at, b_at, table);                                                         \
	}
BMI(andn, cpu->reg[insn->cond], 1, 2)
BMI(bextr, cpu->reg[insn->cond], 2, 1)
BMI(bzhi, cpu->reg[insn->cond], 2, 1)
BMI(pdep, cpu->reg[insn->cond], 1, 2)
BMI(pext, cpu->reg[insn->cond], 1, 2)
BMI(shlx, cpu->reg[insn->cond], 2, 1)
BMI(shrx, cpu->reg[insn->cond], 2, 1)
BMI(sarx, cpu->reg[insn->cond], 2, 1)
BMI(rorx, insn->imm, 0, 1)
BMI(blsi, 0, 0, 1)
BMI(blsmsk, 0, 0, 1)
BMI(blsr, 0, 0, 1)

/* --- MULX: high half to operand 0, low half to operand 1 (in cond); the same register gets the high half --- */

static void store_mulx(struct cpu *cpu, const struct insn *insn, u64 b)
{
	if (insn->opsize == 8) {
		unsigned __int128 r = (unsigned __int128)cpu->reg[RDX] * b;
		reg_set64(cpu, insn->cond, (u64)r);
		reg_set64(cpu, insn->dst, (u64)(r >> 64));
	} else {
		u64 r = (u64)(u32)cpu->reg[RDX] * (u32)b;
		reg_set32(cpu, insn->cond, (u32)r);
		reg_set32(cpu, insn->dst, (u32)(r >> 32));
	}
}

static void mulx_r(struct cpu *cpu, const struct insn *insn)
{
	store_mulx(cpu, insn, cpu->reg[insn->src]);
}

static void mulx32_m(struct cpu *cpu, const struct insn *insn)
{
	store_mulx(cpu, insn, get_mem32(cpu, insn));
}

static void mulx64_m(struct cpu *cpu, const struct insn *insn)
{
	store_mulx(cpu, insn, get_mem64(cpu, insn));
}

bool select_mulx(const struct decode *d, struct insn *insn)
{
	static const insn_fn table[2][2] = { { mulx_r, mulx32_m }, { mulx_r, mulx64_m } };
	insn->opsize = (u8)operand_size(d, 0);
	return select_bmi(d, insn, 1, 2, table);
}

/* --- ADCX, ADOX: one carry flag each, all others untouched --- */

#define ADX_SIZE(op, bits, flag)                                                                                       \
	static inline void run_##op##bits(struct cpu *cpu, const struct insn *insn, u##bits s)                         \
	{                                                                                                              \
		u##bits r, d = get_dst##bits(cpu, insn);                                                               \
		bool carry = __builtin_add_overflow(d, s, &r);                                                         \
		carry |= __builtin_add_overflow(r, (u##bits)((cpu->arith & flag) != 0), &r);                           \
		set_dst##bits(cpu, insn, r);                                                                           \
		set_flag(cpu, flag, carry);                                                                            \
	}                                                                                                              \
	static void op##bits##_rr(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		run_##op##bits(cpu, insn, get_src##bits(cpu, insn));                                                   \
	}                                                                                                              \
	static void op##bits##_rm(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		run_##op##bits(cpu, insn, get_mem##bits(cpu, insn));                                                   \
	}

#define ADX(op, flag)                                                                                                  \
	ADX_SIZE(op, 32, flag)                                                                                         \
	ADX_SIZE(op, 64, flag)                                                                                         \
	static form_table op##_forms = {                                                                               \
		[FORM_RR] = { NULL, NULL, op##32_rr, op##64_rr },                                                      \
		[FORM_RM] = { NULL, NULL, op##32_rm, op##64_rm },                                                      \
	};                                                                                                             \
	bool select_##op(const struct decode *d, struct insn *insn)                                                    \
	{                                                                                                              \
		return select_form(d, insn, op##_forms);                                                               \
	}
ADX(adcx, ARITH_CF)
ADX(adox, ARITH_OF)
