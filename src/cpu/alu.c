/*
 * Two-operand arithmetic and logic, and their one-operand kin: ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT.
 */
#include "cpu/operand.h"

/* d op s on the host; f: arith out. */
#define HOST_BINARY(op, bits)                                                                                          \
	static inline u##bits host_##op##bits(u##bits d, u##bits s, u16 *f)                                            \
	{                                                                                                              \
		u16 ax;                                                                                                \
		asm(#op " %[s], %[d]" HOST_FLAGS_OUT : [d] "+r"(d), "=&a"(ax) : [s] "r"(s) : "cc");                    \
		*f = ax;                                                                                               \
		return d;                                                                                              \
	}                                                                                                              \
	static inline void host_lock_##op##bits(u8 *p, u##bits s, u16 *f)                                              \
	{                                                                                                              \
		u16 ax;                                                                                                \
		asm volatile("lock " #op " %[s], %[d]" HOST_FLAGS_OUT                                                  \
			     : [d] "+m"(*(u##bits *)p), "=&a"(ax)                                                      \
			     : [s] "r"(s)                                                                              \
			     : "cc", "memory");                                                                        \
		*f = ax;                                                                                               \
	}

/* The same with CF in. */
#define HOST_BINARY_CARRY(op, bits)                                                                                    \
	static inline u##bits host_##op##bits(u##bits d, u##bits s, u16 *f)                                            \
	{                                                                                                              \
		u16 ax = *f;                                                                                           \
		asm("sahf\n\t" #op " %[s], %[d]" HOST_FLAGS_OUT : [d] "+r"(d), "+&a"(ax) : [s] "r"(s) : "cc");         \
		*f = ax;                                                                                               \
		return d;                                                                                              \
	}                                                                                                              \
	static inline void host_lock_##op##bits(u8 *p, u##bits s, u16 *f)                                              \
	{                                                                                                              \
		u16 ax = *f;                                                                                           \
		asm volatile("sahf\n\tlock " #op " %[s], %[d]" HOST_FLAGS_OUT                                          \
			     : [d] "+m"(*(u##bits *)p), "+&a"(ax)                                                      \
			     : [s] "r"(s)                                                                              \
			     : "cc", "memory");                                                                        \
		*f = ax;                                                                                               \
	}

#define FORMS_BINARY(op, bits)                                                                                         \
	static void op##bits##_rr(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		u16 f = cpu->arith;                                                                                    \
		u##bits v = host_##op##bits(get_dst##bits(cpu, insn), get_src##bits(cpu, insn), &f);                   \
		cpu->arith = f;                                                                                        \
		set_dst##bits(cpu, insn, v);                                                                           \
	}                                                                                                              \
	static void op##bits##_ri(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		u16 f = cpu->arith;                                                                                    \
		u##bits v = host_##op##bits(get_dst##bits(cpu, insn), (u##bits)insn->imm, &f);                         \
		cpu->arith = f;                                                                                        \
		set_dst##bits(cpu, insn, v);                                                                           \
	}                                                                                                              \
	static void op##bits##_rm(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		u##bits s = get_mem##bits(cpu, insn);                                                                  \
		u16 f = cpu->arith;                                                                                    \
		u##bits v = host_##op##bits(get_dst##bits(cpu, insn), s, &f);                                          \
		cpu->arith = f;                                                                                        \
		set_dst##bits(cpu, insn, v);                                                                           \
	}                                                                                                              \
	static inline void op##bits##_mem(struct cpu *cpu, const struct insn *insn, u##bits s, bool lock)              \
	{                                                                                                              \
		u64 copy, linear = access_linear(cpu, insn, bits / 8, MMU_WRITE);                                      \
		u8 *p = lock ? lock_begin##bits(cpu, linear, &copy) : rmw_begin##bits(cpu, linear, &copy);             \
		u16 f = cpu->arith;                                                                                    \
		if (lock)                                                                                              \
			host_lock_##op##bits(p, s, &f);                                                                \
		else                                                                                                   \
			store##bits(p, host_##op##bits(load##bits(p), s, &f));                                         \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		cpu->arith = f;                                                                                        \
	}                                                                                                              \
	static void op##bits##_mr(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		op##bits##_mem(cpu, insn, get_src##bits(cpu, insn), false);                                            \
	}                                                                                                              \
	static void op##bits##_mi(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		op##bits##_mem(cpu, insn, (u##bits)insn->imm, false);                                                  \
	}                                                                                                              \
	static void op##bits##_lmr(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		op##bits##_mem(cpu, insn, get_src##bits(cpu, insn), true);                                             \
	}                                                                                                              \
	static void op##bits##_lmi(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		op##bits##_mem(cpu, insn, (u##bits)insn->imm, true);                                                   \
	}

/* CMP and TEST: flags only. */
#define FORMS_COMPARE(op, bits)                                                                                        \
	static inline void host_##op##bits(struct cpu *cpu, u##bits d, u##bits s)                                      \
	{                                                                                                              \
		u16 ax;                                                                                                \
		asm(#op " %[s], %[d]" HOST_FLAGS_OUT : "=&a"(ax) : [d] "r"(d), [s] "r"(s) : "cc");                     \
		cpu->arith = ax;                                                                                       \
	}                                                                                                              \
	static void op##bits##_rr(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		host_##op##bits(cpu, get_dst##bits(cpu, insn), get_src##bits(cpu, insn));                              \
	}                                                                                                              \
	static void op##bits##_ri(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		host_##op##bits(cpu, get_dst##bits(cpu, insn), (u##bits)insn->imm);                                    \
	}                                                                                                              \
	static void op##bits##_rm(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		host_##op##bits(cpu, get_dst##bits(cpu, insn), get_mem##bits(cpu, insn));                              \
	}                                                                                                              \
	static void op##bits##_mr(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		host_##op##bits(cpu, get_mem##bits(cpu, insn), get_src##bits(cpu, insn));                              \
	}                                                                                                              \
	static void op##bits##_mi(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		host_##op##bits(cpu, get_mem##bits(cpu, insn), (u##bits)insn->imm);                                    \
	}

/*
 * One operand. `in` and `out` are the assembly around the operation for the flags: INC and DEC keep CF, so it goes in;
 * NOT touches none.
 */
#define FORMS_UNARY(op, bits, suffix, in, out)                                                                         \
	static inline u##bits host_##op##bits(u##bits d, u16 *f)                                                       \
	{                                                                                                              \
		u16 ax = *f;                                                                                           \
		asm(in #op " %[d]" out : [d] "+r"(d), "+&a"(ax) : : "cc");                                             \
		*f = ax;                                                                                               \
		return d;                                                                                              \
	}                                                                                                              \
	static void op##bits##_r(struct cpu *cpu, const struct insn *insn)                                             \
	{                                                                                                              \
		u16 f = cpu->arith;                                                                                    \
		u##bits v = host_##op##bits(get_dst##bits(cpu, insn), &f);                                             \
		cpu->arith = f;                                                                                        \
		set_dst##bits(cpu, insn, v);                                                                           \
	}                                                                                                              \
	static void op##bits##_m(struct cpu *cpu, const struct insn *insn)                                             \
	{                                                                                                              \
		u64 copy, linear = access_linear(cpu, insn, bits / 8, MMU_WRITE);                                      \
		u8 *p = rmw_begin##bits(cpu, linear, &copy);                                                           \
		u16 f = cpu->arith;                                                                                    \
		store##bits(p, host_##op##bits(load##bits(p), &f));                                                    \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		cpu->arith = f;                                                                                        \
	}                                                                                                              \
	static void op##bits##_lm(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		u64 copy, linear = access_linear(cpu, insn, bits / 8, MMU_WRITE);                                      \
		u8 *p = lock_begin##bits(cpu, linear, &copy);                                                          \
		u16 ax = cpu->arith;                                                                                   \
		asm volatile(in "lock " #op suffix " %[d]" out                                                         \
			     : [d] "+m"(*(u##bits *)p), "+&a"(ax)                                                      \
			     :                                                                                         \
			     : "cc", "memory");                                                                        \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		cpu->arith = ax;                                                                                       \
	}

/* clang-format off */
#define SIZES(form, op) { op##8##form, op##16##form, op##32##form, op##64##form }
#define ALL_SIZES(make, ...) \
	make(__VA_ARGS__, 8) make(__VA_ARGS__, 16) make(__VA_ARGS__, 32) make(__VA_ARGS__, 64)

#define SELECT(op)                                                                                                     \
	bool select_##op(const struct decode *d, struct insn *insn)                                                    \
	{                                                                                                              \
		return select_form(d, insn, op##_forms);                                                               \
	}

#define BINARY(op, host)                                                                                               \
	ALL_SIZES(host, op)                                                                                            \
	ALL_SIZES(FORMS_BINARY, op)                                                                                    \
	static form_table op##_forms = {                                                                               \
		[FORM_RR] = SIZES(_rr, op),                                                                            \
		[FORM_RM] = SIZES(_rm, op),                                                                            \
		[FORM_MR] = SIZES(_mr, op),                                                                            \
		[FORM_RI] = SIZES(_ri, op),                                                                            \
		[FORM_MI] = SIZES(_mi, op),                                                                            \
		[FORM_LMR] = SIZES(_lmr, op),                                                                          \
		[FORM_LMI] = SIZES(_lmi, op),                                                                          \
	};                                                                                                             \
	SELECT(op)

#define COMPARE(op)                                                                                                    \
	ALL_SIZES(FORMS_COMPARE, op)                                                                                   \
	static form_table op##_forms = {                                                                               \
		[FORM_RR] = SIZES(_rr, op),                                                                            \
		[FORM_RM] = SIZES(_rm, op),                                                                            \
		[FORM_MR] = SIZES(_mr, op),                                                                            \
		[FORM_RI] = SIZES(_ri, op),                                                                            \
		[FORM_MI] = SIZES(_mi, op),                                                                            \
	};                                                                                                             \
	SELECT(op)

#define UNARY(op, in, out)                                                                                             \
	FORMS_UNARY(op, 8, "b", in, out)                                                                               \
	FORMS_UNARY(op, 16, "w", in, out)                                                                              \
	FORMS_UNARY(op, 32, "l", in, out)                                                                              \
	FORMS_UNARY(op, 64, "q", in, out)                                                                              \
	static form_table op##_forms = {                                                                               \
		[FORM_R] = SIZES(_r, op),                                                                              \
		[FORM_M] = SIZES(_m, op),                                                                              \
		[FORM_LM] = SIZES(_lm, op),                                                                            \
	};                                                                                                             \
	SELECT(op)

BINARY(add, HOST_BINARY)
BINARY(or, HOST_BINARY)
BINARY(adc, HOST_BINARY_CARRY)
BINARY(sbb, HOST_BINARY_CARRY)
BINARY(and, HOST_BINARY)
BINARY(sub, HOST_BINARY)
BINARY(xor, HOST_BINARY)
COMPARE(cmp)
COMPARE(test)
UNARY(inc, "sahf\n\t", HOST_FLAGS_OUT)
UNARY(dec, "sahf\n\t", HOST_FLAGS_OUT)
UNARY(neg, "", HOST_FLAGS_OUT)
UNARY(not, "", "")
/* clang-format on */
