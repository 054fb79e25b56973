/*
 * Near control flow: JMP Jcc CALL RET LOOPcc JrCXZ. Targets are checked before anything changes: canonical in 64-bit
 * mode, within the limit of CS elsewhere, #GP(0) of the branch itself if not (SDM vol. 2, "JMP", "CALL", "RET").
 */
#include "cpu/block.h"
#include "cpu/conditions.h"
#include "cpu/internal.h"
#include "cpu/operand.h"
#include "cpu/system.h"

static inline void check_target64(struct cpu *cpu, u64 target)
{
	/* Bits 63..47 alike: canonical whatever the paging depth. */
	if (unlikely((u64)((i64)target >> 47) + 1 > 1) && !is_canonical(cpu, target))
		cpu_raise_gp(cpu);
}

static u64 legacy_target(struct cpu *cpu, const struct insn *insn, u64 target)
{
	target &= size_mask(insn->opsize);
	if (unlikely(target > cpu->seg[SEG_CS].limit && !(cpu->mode_key & MODE_CODE64)))
		cpu_raise_gp(cpu);
	return target;
}

static inline void jump64(struct cpu *cpu, u64 target)
{
	check_target64(cpu, target);
	cpu->reg[REG_RIP] = target;
}

static inline void jump_relative64(struct cpu *cpu, const struct insn *insn)
{
	jump64(cpu, cpu->reg[REG_RIP] + insn->imm);
}

static void jump_relative(struct cpu *cpu, const struct insn *insn)
{
	cpu->reg[REG_RIP] = legacy_target(cpu, insn, cpu->reg[REG_RIP] + insn->imm);
}

/*
 * Branches in 64-bit mode have 64 bits, whatever the prefixes; elsewhere 16 or 32. But AMD's CPUs heed an operand-size
 * prefix in 64-bit mode too: the target has 16 bits then, and depends on where the code runs.
 */
static bool select_branch(const struct decode *d, struct insn *insn, insn_fn wide, insn_fn legacy)
{
	bool code64 = d->mode_key & MODE_CODE64;

	insn->flags |= INSN_ENDS;
	insn->opsize = code64 && !cpu_is_amd(d->cpu) ? 8 : near_operand_size(d);
	insn->exec = insn->opsize == 8 ? wide : legacy;
	insn->direct = operand_is(d, 0, OPERAND_IMM) && (insn->opsize == 8 || !code64);
	return true;
}

/* --- Jcc --- */

#define JCC(code, cc)                                                                                                  \
	static void j##cc##_64(struct cpu *cpu, const struct insn *insn)                                               \
	{                                                                                                              \
		if (cpu_condition(cpu, code))                                                                          \
			jump_relative64(cpu, insn);                                                                    \
	}                                                                                                              \
	static void j##cc##_legacy(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		if (cpu_condition(cpu, code))                                                                          \
			jump_relative(cpu, insn);                                                                      \
	}                                                                                                              \
	bool select_j##cc(const struct decode *d, struct insn *insn)                                                   \
	{                                                                                                              \
		return select_branch(d, insn, j##cc##_64, j##cc##_legacy);                                             \
	}
CONDITIONS(JCC)

/* --- JrCXZ, LOOPcc: count in rCX of the address size --- */

static void branch_relative(struct cpu *cpu, const struct insn *insn)
{
	if (insn->opsize == 8)
		jump_relative64(cpu, insn);
	else
		jump_relative(cpu, insn);
}

static void exec_jrcxz(struct cpu *cpu, const struct insn *insn)
{
	if (!(cpu->reg[RCX] & size_mask(insn->adsize)))
		branch_relative(cpu, insn);
}

bool select_jrcxz(const struct decode *d, struct insn *insn)
{
	return select_branch(d, insn, exec_jrcxz, exec_jrcxz);
}

static void loop_while(struct cpu *cpu, const struct insn *insn, bool condition)
{
	u64 count = (cpu->reg[RCX] - 1) & size_mask(insn->adsize);
	if (count && condition)
		branch_relative(cpu, insn);
	reg_set(cpu, RCX, insn->adsize, count);
}

static void exec_loop(struct cpu *cpu, const struct insn *insn)
{
	loop_while(cpu, insn, true);
}

static void exec_loope(struct cpu *cpu, const struct insn *insn)
{
	loop_while(cpu, insn, cpu->arith & ARITH_ZF);
}

static void exec_loopne(struct cpu *cpu, const struct insn *insn)
{
	loop_while(cpu, insn, !(cpu->arith & ARITH_ZF));
}

bool select_loop(const struct decode *d, struct insn *insn)
{
	return select_branch(d, insn, exec_loop, exec_loop);
}

bool select_loope(const struct decode *d, struct insn *insn)
{
	return select_branch(d, insn, exec_loope, exec_loope);
}

bool select_loopne(const struct decode *d, struct insn *insn)
{
	return select_branch(d, insn, exec_loopne, exec_loopne);
}

/* --- JMP --- */

static void jmp_rel64(struct cpu *cpu, const struct insn *insn)
{
	jump_relative64(cpu, insn);
}

static void jmp_r64(struct cpu *cpu, const struct insn *insn)
{
	jump64(cpu, cpu->reg[insn->dst]);
}

static void jmp_m64(struct cpu *cpu, const struct insn *insn)
{
	jump64(cpu, get_mem64(cpu, insn));
}

static void jmp_r(struct cpu *cpu, const struct insn *insn)
{
	cpu->reg[REG_RIP] = legacy_target(cpu, insn, cpu->reg[insn->dst]);
}

static u64 legacy_pointer(struct cpu *cpu, const struct insn *insn)
{
	return insn->opsize == 2 ? get_mem16(cpu, insn) : get_mem32(cpu, insn);
}

static void jmp_m(struct cpu *cpu, const struct insn *insn)
{
	cpu->reg[REG_RIP] = legacy_target(cpu, insn, legacy_pointer(cpu, insn));
}

bool select_jmp(const struct decode *d, struct insn *insn)
{
	if (d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return transfer_select_far(d, insn);
	if (operand_is(d, 0, OPERAND_IMM))
		return select_branch(d, insn, jmp_rel64, jump_relative);
	if (operand_is(d, 0, OPERAND_REG))
		return select_branch(d, insn, jmp_r64, jmp_r);
	return select_branch(d, insn, jmp_m64, jmp_m);
}

/* --- CALL --- */

static inline void call64(struct cpu *cpu, u64 target)
{
	u64 sp = cpu->reg[RSP] - 8;
	check_target64(cpu, target);
	mem_write64(cpu, sp, cpu->reg[REG_RIP]);
	cpu->reg[RSP] = sp;
	cpu->reg[REG_RIP] = target;
}

static void call_legacy(struct cpu *cpu, const struct insn *insn, u64 target)
{
	target = legacy_target(cpu, insn, target);
	near_push(cpu, insn->opsize, cpu->reg[REG_RIP]);
	cpu->reg[REG_RIP] = target;
}

static void call_rel64(struct cpu *cpu, const struct insn *insn)
{
	call64(cpu, cpu->reg[REG_RIP] + insn->imm);
}

static void call_r64(struct cpu *cpu, const struct insn *insn)
{
	call64(cpu, cpu->reg[insn->dst]);
}

static void call_m64(struct cpu *cpu, const struct insn *insn)
{
	call64(cpu, get_mem64(cpu, insn));
}

static void call_rel(struct cpu *cpu, const struct insn *insn)
{
	call_legacy(cpu, insn, cpu->reg[REG_RIP] + insn->imm);
}

static void call_r(struct cpu *cpu, const struct insn *insn)
{
	call_legacy(cpu, insn, cpu->reg[insn->dst]);
}

static void call_m(struct cpu *cpu, const struct insn *insn)
{
	call_legacy(cpu, insn, legacy_pointer(cpu, insn));
}

bool select_call(const struct decode *d, struct insn *insn)
{
	if (d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return transfer_select_far(d, insn);
	if (operand_is(d, 0, OPERAND_IMM))
		return select_branch(d, insn, call_rel64, call_rel);
	if (operand_is(d, 0, OPERAND_REG))
		return select_branch(d, insn, call_r64, call_r);
	return select_branch(d, insn, call_m64, call_m);
}

/* --- RET: imm holds how many bytes of arguments to drop --- */

static void ret64(struct cpu *cpu, const struct insn *insn)
{
	u64 sp = cpu->reg[RSP];
	u64 target = mem_read64(cpu, sp);
	check_target64(cpu, target);
	cpu->reg[RSP] = sp + 8 + (u16)insn->imm;
	cpu->reg[REG_RIP] = target;
}

static void ret_legacy(struct cpu *cpu, const struct insn *insn)
{
	u64 target = near_stack_read(cpu, near_sp(cpu, 0), insn->opsize);
	target = legacy_target(cpu, insn, target);
	near_set_sp(cpu, near_sp(cpu, insn->opsize + (u16)insn->imm));
	cpu->reg[REG_RIP] = target;
}

bool select_ret(const struct decode *d, struct insn *insn)
{
	if (d->zi->meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
		return transfer_select_far(d, insn);
	select_branch(d, insn, ret64, ret_legacy);
	insn->direct = false; /* its immediate is no target */
	return true;
}
