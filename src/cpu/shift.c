/*
 * Shifts and rotates: ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD. The host's own instruction runs with the guest's flags
 * loaded, so that a count of zero, and the flags a count leaves alone or undefined, need no thought here.
 */
#include "cpu/operand.h"

#define HOST_SHIFT(op, bits)                                                                                           \
	static inline u##bits host_##op##bits(u##bits d, u8 count, u16 *f)                                             \
	{                                                                                                              \
		u16 ax = *f;                                                                                           \
		asm(HOST_FLAGS_IN #op " %%cl, %[d]" HOST_FLAGS_OUT : [d] "+r"(d), "+&a"(ax) : "c"(count) : "cc");      \
		*f = ax;                                                                                               \
		return d;                                                                                              \
	}

/* `count` is by register (CL) or immediate. */
#define SHIFT_FORMS(op, bits, form, count)                                                                             \
	static void op##bits##_r##form(struct cpu *cpu, const struct insn *insn)                                       \
	{                                                                                                              \
		u16 f = cpu->arith;                                                                                    \
		u##bits v = host_##op##bits(get_dst##bits(cpu, insn), (u8)count, &f);                                  \
		cpu->arith = f;                                                                                        \
		set_dst##bits(cpu, insn, v);                                                                           \
	}                                                                                                              \
	static void op##bits##_m##form(struct cpu *cpu, const struct insn *insn)                                       \
	{                                                                                                              \
		u64 copy, linear = access_linear(cpu, insn, bits / 8, MMU_WRITE);                                      \
		u8 *p = rmw_begin##bits(cpu, linear, &copy);                                                           \
		u16 f = cpu->arith;                                                                                    \
		store##bits(p, host_##op##bits(load##bits(p), (u8)count, &f));                                         \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		cpu->arith = f;                                                                                        \
	}

#define SHIFT_SIZE(op, bits)                                                                                           \
	HOST_SHIFT(op, bits)                                                                                           \
	SHIFT_FORMS(op, bits, i, insn->imm)                                                                            \
	SHIFT_FORMS(op, bits, r, cpu->reg[RCX])

#define SHIFT(op)                                                                                                      \
	SHIFT_SIZE(op, 8)                                                                                              \
	SHIFT_SIZE(op, 16)                                                                                             \
	SHIFT_SIZE(op, 32)                                                                                             \
	SHIFT_SIZE(op, 64)                                                                                             \
	static form_table op##_forms = {                                                                               \
		[FORM_RI] = { op##8_ri, op##16_ri, op##32_ri, op##64_ri },                                             \
		[FORM_MI] = { op##8_mi, op##16_mi, op##32_mi, op##64_mi },                                             \
		[FORM_RR] = { op##8_rr, op##16_rr, op##32_rr, op##64_rr },                                             \
		[FORM_MR] = { op##8_mr, op##16_mr, op##32_mr, op##64_mr },                                             \
	};                                                                                                             \
	bool select_##op(const struct decode *d, struct insn *insn)                                                    \
	{                                                                                                              \
		return select_form(d, insn, op##_forms);                                                               \
	}
SHIFT(rol)
SHIFT(ror)
SHIFT(rcl)
SHIFT(rcr)
SHIFT(shl)
SHIFT(shr)
SHIFT(sar)

/* --- SHLD, SHRD: bits come in from a second register; cond is 1 if the count is CL --- */

static inline u8 double_count(const struct cpu *cpu, const struct insn *insn)
{
	return (u8)(insn->cond ? cpu->reg[RCX] : insn->imm);
}

#define DOUBLE_SHIFT_SIZE(op, bits)                                                                                    \
	static inline u##bits host_##op##bits(u##bits d, u##bits s, u8 count, u16 *f)                                  \
	{                                                                                                              \
		u16 ax = *f;                                                                                           \
		asm(HOST_FLAGS_IN #op " %%cl, %[s], %[d]" HOST_FLAGS_OUT                                               \
		    : [d] "+r"(d), "+&a"(ax)                                                                           \
		    : [s] "r"(s), "c"(count)                                                                           \
		    : "cc");                                                                                           \
		*f = ax;                                                                                               \
		return d;                                                                                              \
	}                                                                                                              \
	static void op##bits##_rr(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		u16 f = cpu->arith;                                                                                    \
		u##bits s = get_src##bits(cpu, insn), d = get_dst##bits(cpu, insn);                                    \
		d = host_##op##bits(d, s, double_count(cpu, insn), &f);                                                \
		cpu->arith = f;                                                                                        \
		set_dst##bits(cpu, insn, d);                                                                           \
	}                                                                                                              \
	static void op##bits##_mr(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		u64 copy, linear = access_linear(cpu, insn, bits / 8, MMU_WRITE);                                      \
		u8 *p = rmw_begin##bits(cpu, linear, &copy);                                                           \
		u16 f = cpu->arith;                                                                                    \
		u##bits s = get_src##bits(cpu, insn);                                                                  \
		store##bits(p, host_##op##bits(load##bits(p), s, double_count(cpu, insn), &f));                        \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		cpu->arith = f;                                                                                        \
	}

#define DOUBLE_SHIFT(op)                                                                                               \
	DOUBLE_SHIFT_SIZE(op, 16)                                                                                      \
	DOUBLE_SHIFT_SIZE(op, 32)                                                                                      \
	DOUBLE_SHIFT_SIZE(op, 64)                                                                                      \
	static form_table op##_forms = {                                                                               \
		[FORM_RR] = { NULL, op##16_rr, op##32_rr, op##64_rr },                                                 \
		[FORM_MR] = { NULL, op##16_mr, op##32_mr, op##64_mr },                                                 \
	};                                                                                                             \
	bool select_##op(const struct decode *d, struct insn *insn)                                                    \
	{                                                                                                              \
		insn->cond = operand_is(d, 2, OPERAND_REG);                                                            \
		return select_form(d, insn, op##_forms);                                                               \
	}
DOUBLE_SHIFT(shld)
DOUBLE_SHIFT(shrd)
