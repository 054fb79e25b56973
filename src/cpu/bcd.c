/*
 * Decimal adjustment, which 64-bit mode, and so the host, does not have: DAA DAS AAA AAS AAM AAD (SDM vol. 2).
 */
#include "cpu/operand.h"

static u8 get_al(const struct cpu *cpu)
{
	return (u8)cpu->reg[RAX];
}

static u8 get_ah(const struct cpu *cpu)
{
	return (u8)(cpu->reg[RAX] >> 8);
}

static void set_ax(struct cpu *cpu, u8 ah, u8 al)
{
	reg_set16(cpu, RAX, (u16)(ah << 8 | al));
}

/* SF, ZF and PF of AL; AF and CF as given; OF, undefined everywhere here, clear. */
static void set_flags(struct cpu *cpu, u8 al, bool adjust, bool carry)
{
	unsigned flags = ARITH_FIXED;
	if (al & 0x80)
		flags |= ARITH_SF;
	if (!al)
		flags |= ARITH_ZF;
	if (!__builtin_parity(al))
		flags |= ARITH_PF;
	if (adjust)
		flags |= ARITH_AF;
	if (carry)
		flags |= ARITH_CF;
	cpu->arith = (u16)flags;
}

/* Low digit above 9, or a carry out of it? */
static bool low_digit_carries(const struct cpu *cpu)
{
	return (get_al(cpu) & 0xf) > 9 || (cpu->arith & ARITH_AF);
}

static void exec_daa(struct cpu *cpu, const struct insn *insn)
{
	u8 al = get_al(cpu);
	bool low = low_digit_carries(cpu), high = al > 0x99 || (cpu->arith & ARITH_CF);
	u8 r = (u8)(al + (low ? 6 : 0) + (high ? 0x60 : 0));
	reg_set8(cpu, RAX, r);
	set_flags(cpu, r, low, high);
}

static void exec_das(struct cpu *cpu, const struct insn *insn)
{
	u8 al = get_al(cpu);
	bool low = low_digit_carries(cpu), high = al > 0x99 || (cpu->arith & ARITH_CF);
	bool borrow = low && al < 6;
	u8 r = (u8)(al - (low ? 6 : 0) - (high ? 0x60 : 0));
	reg_set8(cpu, RAX, r);
	set_flags(cpu, r, low, high || borrow);
}

/* AAA and AAS work on AX as a whole: AL's overflow reaches AH. */
static void exec_aaa(struct cpu *cpu, const struct insn *insn)
{
	bool adjust = low_digit_carries(cpu);
	u16 ax = (u16)(cpu->reg[RAX] + (adjust ? 0x106 : 0));
	reg_set16(cpu, RAX, ax & 0xff0f);
	set_flags(cpu, get_al(cpu), adjust, adjust);
}

static void exec_aas(struct cpu *cpu, const struct insn *insn)
{
	bool adjust = low_digit_carries(cpu);
	u16 ax = (u16)(cpu->reg[RAX] - (adjust ? 0x106 : 0));
	reg_set16(cpu, RAX, ax & 0xff0f);
	set_flags(cpu, get_al(cpu), adjust, adjust);
}

static void exec_aam(struct cpu *cpu, const struct insn *insn)
{
	u8 base = (u8)insn->imm, al = get_al(cpu);
	if (!base)
		cpu_raise(cpu, VEC_DE);
	set_ax(cpu, al / base, al % base);
	set_flags(cpu, al % base, false, false);
}

static void exec_aad(struct cpu *cpu, const struct insn *insn)
{
	u8 r = (u8)(get_al(cpu) + get_ah(cpu) * (u8)insn->imm);
	set_ax(cpu, 0, r);
	set_flags(cpu, r, false, false);
}

/* Zydis knows that 64-bit mode has none of them. */
#define ONE_FORM(name)                                                                                                 \
	bool select_##name(const struct decode *d, struct insn *insn)                                                  \
	{                                                                                                              \
		insn->exec = exec_##name;                                                                              \
		return true;                                                                                           \
	}
ONE_FORM(daa)
ONE_FORM(das)
ONE_FORM(aaa)
ONE_FORM(aas)
ONE_FORM(aam)
ONE_FORM(aad)
