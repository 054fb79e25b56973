/*
 * Slow halves of operand.h.
 */
#include "cpu/operand.h"
#include "cpu/group.h"

u8 *rmw_begin_slow(struct cpu *cpu, u64 linear, unsigned size, u64 *copy)
{
	u8 *p = access_rmw_pointer(cpu, linear, size);
	return p ? p : rmw_begin_copy(cpu, linear, size, copy);
}

u8 *rmw_begin_copy(struct cpu *cpu, u64 linear, unsigned size, u64 *copy)
{
	access_probe(cpu, linear, size, MMU_WRITE);
	access_read(cpu, linear, copy, size, cpu->mmu.cls);
	return (u8 *)copy;
}

u8 *lock_begin_slow(struct cpu *cpu, u64 linear, unsigned size, u64 *copy)
{
	u8 *p = lock_crosses_line(linear, size) ? NULL : access_rmw_pointer(cpu, linear, size);
	if (p)
		return p;
	access_probe(cpu, linear, size, MMU_WRITE);
	if (!group_is_exclusive(cpu))
		group_ask_exclusive(cpu);
	return rmw_begin_copy(cpu, linear, size, copy);
}

bool select_form(const struct decode *d, struct insn *insn, form_table table)
{
	bool mem0 = operand_is(d, 0, OPERAND_MEM);
	bool lock = insn->flags & INSN_LOCK;
	enum form form;

	if (!mem0 && !operand_is(d, 0, OPERAND_REG))
		return false;
	if (operand_is(d, 1, OPERAND_IMM))
		form = mem0 ? (lock ? FORM_LMI : FORM_MI) : FORM_RI;
	else if (operand_is(d, 1, OPERAND_MEM))
		form = FORM_RM;
	else if (operand_is(d, 1, OPERAND_REG))
		form = mem0 ? (lock ? FORM_LMR : FORM_MR) : FORM_RR;
	else
		form = mem0 ? (lock ? FORM_LM : FORM_M) : FORM_R;
	insn->exec = table[form][size_index(operand_size(d, 0))];
	return insn->exec != NULL;
}
