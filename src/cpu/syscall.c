/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT as the CPU's vendor has them (SDM vol. 2; APM vol. 3). Their segments come from no
 * table: fixed attributes, selectors from MSRs. AMD's CPUs have SYSCALL in all protected modes, and no SYSENTER in long
 * mode.
 */
#include "cpu/internal.h"

/* Both segments at once; the selectors get the ring as RPL. */
static void enter_ring(struct cpu *cpu, u32 cs, u32 ss, unsigned cpl, bool is64, u64 rip)
{
	const u32 common = SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_ACCESSED | SEG_AR_G | cpl << 5;
	struct segment *code = &cpu->seg[SEG_CS], *stack = &cpu->seg[SEG_SS];

	code->selector = (u16)((cs & ~3u) | cpl);
	code->ar = common | SEG_AR_CODE | (is64 ? SEG_AR_L : SEG_AR_DB);
	stack->selector = (u16)((ss & ~3u) | cpl);
	stack->ar = common | SEG_AR_DB;
	code->limit = stack->limit = 0xffffffff;
	code->base = stack->base = 0;
	transfer_arrive(cpu, cpl, rip);
}

static void require_syscall(struct cpu *cpu)
{
	if (unlikely(!(cpu->efer & EFER_SCE) || (cpu->mode != CPU_LONG && !cpu_is_amd(cpu))))
		cpu_raise(cpu, VEC_UD);
}

/* Whether the single-step trap comes is decided by TF as SYSCALL and SYSRET leave it. */
static void step_by_new_flags(struct cpu *cpu)
{
	if (likely(!(cpu->step_armed & CPU_STEP_TF) && !(cpu->rflags_sys & RFLAGS_TF)))
		return;
	cpu->step_armed &= (u8)~CPU_STEP_TF;
	if (cpu->rflags_sys & RFLAGS_TF)
		cpu->step_armed |= CPU_STEP_TF;
}

/* AMD's SYSCALL outside long mode: the target is in STAR, and no flags are kept. */
static void legacy_syscall(struct cpu *cpu, u32 cs)
{
	u64 rflags = cpu_rflags(cpu) & ~(RFLAGS_RF | RFLAGS_IF | RFLAGS_VM);

	cpu->reg[RCX] = (u32)cpu->reg[REG_RIP];
	enter_ring(cpu, cs, cs + 8, 0, false, (u32)cpu->msr.star);
	cpu_set_rflags(cpu, rflags);
	/* Virtual-8086 mode may have been left. */
	cpu_update_mode(cpu);
}

static void exec_syscall(struct cpu *cpu, const struct insn *insn)
{
	require_syscall(cpu);
	u64 rflags = cpu_rflags(cpu) & ~RFLAGS_RF;
	u32 cs = (u32)(cpu->msr.star >> 32) & 0xffff;

	if (unlikely(!cpu_long_mode(cpu))) {
		legacy_syscall(cpu, cs);
		return;
	}
	u64 target = likely(cpu->mode == CPU_LONG) ? cpu->msr.lstar : cpu->msr.cstar;
	cpu->reg[RCX] = cpu->reg[REG_RIP];
	cpu->reg[R11] = rflags;
	enter_ring(cpu, cs, cs + 8, 0, true, target);
	cpu_set_rflags(cpu, rflags & ~cpu->msr.fmask);
	step_by_new_flags(cpu);
}

/*
 * AMD's SYSRET does not look whether RIP is canonical, leaves all of SS but the selector alone, and outside 64-bit mode
 * restores no flags but IF.
 */
static void amd_sysret(struct cpu *cpu, const struct insn *insn, u64 rflags)
{
	u32 base = (u32)(cpu->msr.star >> 48);
	bool from64 = cpu->mode == CPU_LONG, to64 = from64 && insn->opsize == 8;
	struct segment ss = cpu->seg[SEG_SS];

	enter_ring(cpu, to64 ? base + 16 : base, base + 8, 3, to64, to64 ? cpu->reg[RCX] : (u32)cpu->reg[RCX]);
	ss.selector = cpu->seg[SEG_SS].selector;
	cpu->seg[SEG_SS] = ss;
	cpu_set_rflags(cpu, from64 ? rflags : cpu_rflags(cpu) | RFLAGS_IF);
	cpu_update_mode(cpu);
	step_by_new_flags(cpu);
}

static void exec_sysret(struct cpu *cpu, const struct insn *insn)
{
	require_syscall(cpu);
	if (unlikely(cpu->cpl != 0 || !(cpu->cr0 & CR0_PE)))
		cpu_raise_gp(cpu);
	u32 base = (u32)(cpu->msr.star >> 48);
	u64 rip = cpu->reg[RCX];

	if (unlikely(cpu_is_amd(cpu))) {
		amd_sysret(cpu, insn, cpu->reg[R11] & RFLAGS_SYSRET);
		return;
	}
	if (insn->opsize == 8) {
		if (unlikely(!is_canonical(cpu, rip)))
			cpu_raise_gp(cpu);
		enter_ring(cpu, base + 16, base + 8, 3, true, rip);
	} else {
		enter_ring(cpu, base, base + 8, 3, false, (u32)rip);
	}
	cpu_set_rflags(cpu, cpu->reg[R11] & RFLAGS_SYSRET);
}

static void require_sysenter(struct cpu *cpu)
{
	if (cpu_is_amd(cpu) && cpu_long_mode(cpu))
		cpu_raise(cpu, VEC_UD);
}

static void exec_sysenter(struct cpu *cpu, const struct insn *insn)
{
	require_sysenter(cpu);
	u32 cs = (u32)cpu->msr.sysenter_cs & 0xfffc;
	bool is64 = cpu_long_mode(cpu);

	if (!(cpu->cr0 & CR0_PE) || !cs)
		cpu_raise_gp(cpu);
	cpu_set_rflags(cpu, cpu_rflags(cpu) & ~(RFLAGS_VM | RFLAGS_IF | RFLAGS_RF));
	cpu->reg[RSP] = is64 ? cpu->msr.sysenter_esp : (u32)cpu->msr.sysenter_esp;
	enter_ring(cpu, cs, cs + 8, 0, is64, is64 ? cpu->msr.sysenter_eip : (u32)cpu->msr.sysenter_eip);
	/* Virtual-8086 mode may have been left. */
	cpu_update_mode(cpu);
}

static void exec_sysexit(struct cpu *cpu, const struct insn *insn)
{
	require_sysenter(cpu);
	u32 base = (u32)cpu->msr.sysenter_cs & 0xfffc;
	u64 rip = cpu->reg[RDX], rsp = cpu->reg[RCX];

	if (!(cpu->cr0 & CR0_PE) || !base || cpu->cpl != 0)
		cpu_raise_gp(cpu);
	if (insn->opsize == 8) {
		if (!is_canonical(cpu, rip) || !is_canonical(cpu, rsp))
			cpu_raise_gp(cpu);
		cpu->reg[RSP] = rsp;
		enter_ring(cpu, base + 32, base + 40, 3, true, rip);
	} else {
		cpu->reg[RSP] = (u32)rsp;
		enter_ring(cpu, base + 16, base + 24, 3, false, (u32)rip);
	}
}

/* The operand size of the returns is REX.W alone. */
static void select_wide(const struct decode *d, struct insn *insn, insn_fn exec)
{
	insn->exec = exec;
	insn->opsize = d->zi->attributes & ZYDIS_ATTRIB_HAS_REX && d->zi->raw.rex.W ? 8 : 4;
	insn->flags |= INSN_ENDS;
}

bool select_sysret(const struct decode *d, struct insn *insn)
{
	select_wide(d, insn, exec_sysret);
	return true;
}

bool select_sysexit(const struct decode *d, struct insn *insn)
{
	select_wide(d, insn, exec_sysexit);
	return true;
}

SYSTEM_SELECT_END(syscall)
SYSTEM_SELECT_END(sysenter)
