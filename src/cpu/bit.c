/*
 * Single bits and counts of them: BT BTS BTR BTC, BSF BSR, TZCNT LZCNT POPCNT.
 */
#include "cpu/operand.h"

/* --- BT and kin --- */

/*
 * With a bit number from a register, a memory operand is a bit string of any length: the number is signed and moves the
 * address by whole operands (SDM vol. 2, "BT").
 */
static u64 bit_string_linear(struct cpu *cpu, const struct insn *insn, u64 number, unsigned size,
			     enum mmu_access access)
{
	unsigned bits = size * 8;
	i64 units = (i64)sign_extend(number, bits) >> __builtin_ctz(bits);
	u64 offset = (insn_ea(cpu, insn) + (u64)units * size) & size_mask(insn->adsize);
	return access_offset_linear(cpu, insn, offset, size, access);
}

#define BIT_HOST(op, bits)                                                                                             \
	static inline u##bits host_##op##bits(u##bits d, u##bits n, u16 *f)                                            \
	{                                                                                                              \
		u16 ax = *f;                                                                                           \
		asm(HOST_FLAGS_IN #op " %[n], %[d]" HOST_FLAGS_OUT : [d] "+r"(d), "+&a"(ax) : [n] "r"(n) : "cc");      \
		*f = ax;                                                                                               \
		return d;                                                                                              \
	}

#define BIT_REGISTER_FORMS(op, bits, form, number)                                                                     \
	static void op##bits##_r##form(struct cpu *cpu, const struct insn *insn)                                       \
	{                                                                                                              \
		u16 f = cpu->arith;                                                                                    \
		u##bits v = host_##op##bits(get_dst##bits(cpu, insn), (u##bits)number, &f);                            \
		cpu->arith = f;                                                                                        \
		set_dst##bits(cpu, insn, v);                                                                           \
	}

/* BT only reads; its register forms write back what they read, which for 32 bits must not clear the upper half. */
#define BIT_TEST_FORMS(bits, form, number, address)                                                                    \
	static void bt##bits##_r##form(struct cpu *cpu, const struct insn *insn)                                       \
	{                                                                                                              \
		u16 f = cpu->arith;                                                                                    \
		host_bt##bits(get_dst##bits(cpu, insn), (u##bits)number, &f);                                          \
		cpu->arith = f;                                                                                        \
	}                                                                                                              \
	static void bt##bits##_m##form(struct cpu *cpu, const struct insn *insn)                                       \
	{                                                                                                              \
		u##bits v = mem_read##bits(cpu, address(cpu, insn, MMU_READ));                                         \
		u16 f = cpu->arith;                                                                                    \
		host_bt##bits(v, (u##bits)number, &f);                                                                 \
		cpu->arith = f;                                                                                        \
	}

/* The bit number is masked here for memory: the host must not go looking for other operands. */
#define BIT_MEMORY_FORMS(op, bits, form, number, address)                                                              \
	static void op##bits##_m##form(struct cpu *cpu, const struct insn *insn)                                       \
	{                                                                                                              \
		u64 copy, linear = address(cpu, insn, MMU_WRITE);                                                      \
		u8 *p = rmw_begin##bits(cpu, linear, &copy);                                                           \
		u16 f = cpu->arith;                                                                                    \
		store##bits(p, host_##op##bits(load##bits(p), (u##bits)number, &f));                                   \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		cpu->arith = f;                                                                                        \
	}                                                                                                              \
	static void op##bits##_lm##form(struct cpu *cpu, const struct insn *insn)                                      \
	{                                                                                                              \
		u64 copy, linear = address(cpu, insn, MMU_WRITE);                                                      \
		u8 *p = lock_begin##bits(cpu, linear, &copy);                                                          \
		u16 ax = cpu->arith;                                                                                   \
		u##bits n = (u##bits)number & (bits - 1);                                                              \
		asm volatile(HOST_FLAGS_IN "lock " #op " %[n], %[d]" HOST_FLAGS_OUT                                    \
			     : [d] "+m"(*(u##bits *)p), "+&a"(ax)                                                      \
			     : [n] "r"(n)                                                                              \
			     : "cc", "memory");                                                                        \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		cpu->arith = ax;                                                                                       \
	}

#define BIT_ADDRESSES(bits)                                                                                            \
	static inline u64 string_address##bits(struct cpu *cpu, const struct insn *insn, enum mmu_access access)       \
	{                                                                                                              \
		return bit_string_linear(cpu, insn, cpu->reg[insn->src], bits / 8, access);                            \
	}                                                                                                              \
	static inline u64 plain_address##bits(struct cpu *cpu, const struct insn *insn, enum mmu_access access)        \
	{                                                                                                              \
		return access_linear(cpu, insn, bits / 8, access);                                                     \
	}
BIT_ADDRESSES(16)
BIT_ADDRESSES(32)
BIT_ADDRESSES(64)

#define BIT_TEST_SIZE(bits)                                                                                            \
	BIT_HOST(bt, bits)                                                                                             \
	BIT_TEST_FORMS(bits, i, insn->imm, plain_address##bits)                                                        \
	BIT_TEST_FORMS(bits, r, cpu->reg[insn->src], string_address##bits)
BIT_TEST_SIZE(16)
BIT_TEST_SIZE(32)
BIT_TEST_SIZE(64)

static form_table bt_forms = {
	[FORM_RI] = { NULL, bt16_ri, bt32_ri, bt64_ri },
	[FORM_RR] = { NULL, bt16_rr, bt32_rr, bt64_rr },
	[FORM_MI] = { NULL, bt16_mi, bt32_mi, bt64_mi },
	[FORM_MR] = { NULL, bt16_mr, bt32_mr, bt64_mr },
};

bool select_bt(const struct decode *d, struct insn *insn)
{
	return select_form(d, insn, bt_forms);
}

#define BIT_CHANGE_SIZE(op, bits)                                                                                      \
	BIT_HOST(op, bits)                                                                                             \
	BIT_REGISTER_FORMS(op, bits, i, insn->imm)                                                                     \
	BIT_REGISTER_FORMS(op, bits, r, cpu->reg[insn->src])                                                           \
	BIT_MEMORY_FORMS(op, bits, i, insn->imm, plain_address##bits)                                                  \
	BIT_MEMORY_FORMS(op, bits, r, cpu->reg[insn->src], string_address##bits)

#define BIT_CHANGE(op)                                                                                                 \
	BIT_CHANGE_SIZE(op, 16)                                                                                        \
	BIT_CHANGE_SIZE(op, 32)                                                                                        \
	BIT_CHANGE_SIZE(op, 64)                                                                                        \
	static form_table op##_forms = {                                                                               \
		[FORM_RI] = { NULL, op##16_ri, op##32_ri, op##64_ri },                                                 \
		[FORM_RR] = { NULL, op##16_rr, op##32_rr, op##64_rr },                                                 \
		[FORM_MI] = { NULL, op##16_mi, op##32_mi, op##64_mi },                                                 \
		[FORM_MR] = { NULL, op##16_mr, op##32_mr, op##64_mr },                                                 \
		[FORM_LMI] = { NULL, op##16_lmi, op##32_lmi, op##64_lmi },                                             \
		[FORM_LMR] = { NULL, op##16_lmr, op##32_lmr, op##64_lmr },                                             \
	};                                                                                                             \
	bool select_##op(const struct decode *d, struct insn *insn)                                                    \
	{                                                                                                              \
		return select_form(d, insn, op##_forms);                                                               \
	}
BIT_CHANGE(bts)
BIT_CHANGE(btr)
BIT_CHANGE(btc)

/* --- BSF, BSR: with a source of 0 the host decides what the destination keeps --- */

#define SCAN_SIZE(op, bits, width)                                                                                     \
	static inline void run_##op##bits(struct cpu *cpu, const struct insn *insn, u64 s)                             \
	{                                                                                                              \
		u16 ax = cpu->arith;                                                                                   \
		u64 d = cpu->reg[insn->dst];                                                                           \
		asm(HOST_FLAGS_IN #op " %" width "[s], %" width "[d]" HOST_FLAGS_OUT                                   \
		    : [d] "+r"(d), "+&a"(ax)                                                                           \
		    : [s] "r"(s)                                                                                       \
		    : "cc");                                                                                           \
		cpu->arith = ax;                                                                                       \
		cpu->reg[insn->dst] = d;                                                                               \
	}                                                                                                              \
	static void op##bits##_rr(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		run_##op##bits(cpu, insn, get_src##bits(cpu, insn));                                                   \
	}                                                                                                              \
	static void op##bits##_rm(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		run_##op##bits(cpu, insn, get_mem##bits(cpu, insn));                                                   \
	}

#define SCAN(op)                                                                                                       \
	SCAN_SIZE(op, 16, "w")                                                                                         \
	SCAN_SIZE(op, 32, "k")                                                                                         \
	SCAN_SIZE(op, 64, "q")                                                                                         \
	static form_table op##_forms = {                                                                               \
		[FORM_RR] = { NULL, op##16_rr, op##32_rr, op##64_rr },                                                 \
		[FORM_RM] = { NULL, op##16_rm, op##32_rm, op##64_rm },                                                 \
	};                                                                                                             \
	bool select_##op(const struct decode *d, struct insn *insn)                                                    \
	{                                                                                                              \
		return select_form(d, insn, op##_forms);                                                               \
	}
SCAN(bsf)
SCAN(bsr)

/* --- TZCNT, LZCNT, POPCNT: the host need not have them --- */

static void counted(struct cpu *cpu, bool carry, bool zero)
{
	set_flag(cpu, ARITH_CF, carry);
	set_flag(cpu, ARITH_ZF, zero);
}

static u64 count_tzcnt(struct cpu *cpu, u64 s, unsigned bits)
{
	u64 n = s ? (u64)__builtin_ctzll(s) : bits;
	counted(cpu, !s, !n);
	return n;
}

static u64 count_lzcnt(struct cpu *cpu, u64 s, unsigned bits)
{
	u64 n = s ? (u64)__builtin_clzll(s) - (64 - bits) : bits;
	counted(cpu, !s, !n);
	return n;
}

static u64 count_popcnt(struct cpu *cpu, u64 s, unsigned bits)
{
	cpu->arith = ARITH_FIXED | (s ? 0 : ARITH_ZF);
	return (u64)__builtin_popcountll(s);
}

#define COUNT_SIZE(op, bits)                                                                                           \
	static void op##bits##_rr(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		set_dst##bits(cpu, insn, (u##bits)count_##op(cpu, get_src##bits(cpu, insn), bits));                    \
	}                                                                                                              \
	static void op##bits##_rm(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		set_dst##bits(cpu, insn, (u##bits)count_##op(cpu, get_mem##bits(cpu, insn), bits));                    \
	}

#define COUNT(op)                                                                                                      \
	COUNT_SIZE(op, 16)                                                                                             \
	COUNT_SIZE(op, 32)                                                                                             \
	COUNT_SIZE(op, 64)                                                                                             \
	static form_table op##_forms = {                                                                               \
		[FORM_RR] = { NULL, op##16_rr, op##32_rr, op##64_rr },                                                 \
		[FORM_RM] = { NULL, op##16_rm, op##32_rm, op##64_rm },                                                 \
	};                                                                                                             \
	bool select_##op(const struct decode *d, struct insn *insn)                                                    \
	{                                                                                                              \
		return select_form(d, insn, op##_forms);                                                               \
	}
COUNT(tzcnt)
COUNT(lzcnt)
COUNT(popcnt)
