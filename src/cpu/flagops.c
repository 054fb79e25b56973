/*
 * Flags and sign: CLC STC CMC CLD STD LAHF SAHF SALC, CBW CWDE CDQE, CWD CDQ CQO.
 */
#include "cpu/block.h"
#include "cpu/internal.h"
#include "cpu/operand.h"
#include "x86/feature.h"

#define ONE_FORM(name)                                                                                                 \
	bool select_##name(const struct decode *d, struct insn *insn)                                                  \
	{                                                                                                              \
		insn->exec = exec_##name;                                                                              \
		return true;                                                                                           \
	}

static void exec_clc(struct cpu *cpu, const struct insn *insn)
{
	cpu->arith &= (u16)~ARITH_CF;
}
ONE_FORM(clc)

static void exec_stc(struct cpu *cpu, const struct insn *insn)
{
	cpu->arith |= ARITH_CF;
}
ONE_FORM(stc)

static void exec_cmc(struct cpu *cpu, const struct insn *insn)
{
	cpu->arith ^= ARITH_CF;
}
ONE_FORM(cmc)

static void exec_cld(struct cpu *cpu, const struct insn *insn)
{
	cpu->rflags_sys &= ~RFLAGS_DF;
}
ONE_FORM(cld)

static void exec_std(struct cpu *cpu, const struct insn *insn)
{
	cpu->rflags_sys |= RFLAGS_DF;
}
ONE_FORM(std)

#define AH_FLAGS (ARITH_SF | ARITH_ZF | ARITH_AF | ARITH_PF | ARITH_CF)

static void exec_lahf(struct cpu *cpu, const struct insn *insn)
{
	*reg8_pointer(cpu, RAX, true) = (u8)(((cpu->arith & AH_FLAGS) | ARITH_FIXED) >> 8);
}

static void exec_sahf(struct cpu *cpu, const struct insn *insn)
{
	u16 ah = (u16)(cpu->reg[RAX] & AH_FLAGS);
	cpu->arith = (u16)((cpu->arith & ARITH_OF) | ah | ARITH_FIXED);
}

/* In 64-bit mode they are a feature of their own. */
static bool select_ah(const struct decode *d, struct insn *insn, insn_fn exec)
{
	insn->exec = exec;
	return !(d->mode_key & MODE_CODE64) || cpu_has(d->cpu, FEATURE_LAHF_LM);
}

bool select_lahf(const struct decode *d, struct insn *insn)
{
	return select_ah(d, insn, exec_lahf);
}

bool select_sahf(const struct decode *d, struct insn *insn)
{
	return select_ah(d, insn, exec_sahf);
}

static void exec_salc(struct cpu *cpu, const struct insn *insn)
{
	reg_set8(cpu, RAX, cpu->arith & ARITH_CF ? 0xff : 0);
}
ONE_FORM(salc)

static void exec_cbw(struct cpu *cpu, const struct insn *insn)
{
	reg_set16(cpu, RAX, (u16)(i8)cpu->reg[RAX]);
}
ONE_FORM(cbw)

static void exec_cwde(struct cpu *cpu, const struct insn *insn)
{
	reg_set32(cpu, RAX, (u32)(i16)cpu->reg[RAX]);
}
ONE_FORM(cwde)

static void exec_cdqe(struct cpu *cpu, const struct insn *insn)
{
	reg_set64(cpu, RAX, (u64)(i32)cpu->reg[RAX]);
}
ONE_FORM(cdqe)

static void exec_cwd(struct cpu *cpu, const struct insn *insn)
{
	reg_set16(cpu, RDX, (i16)cpu->reg[RAX] < 0 ? 0xffff : 0);
}
ONE_FORM(cwd)

static void exec_cdq(struct cpu *cpu, const struct insn *insn)
{
	reg_set32(cpu, RDX, (i32)cpu->reg[RAX] < 0 ? ~0u : 0);
}
ONE_FORM(cdq)

static void exec_cqo(struct cpu *cpu, const struct insn *insn)
{
	reg_set64(cpu, RDX, (i64)cpu->reg[RAX] < 0 ? ~0ULL : 0);
}
ONE_FORM(cqo)
