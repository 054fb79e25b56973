/*
 * Debug registers: SDM vol. 3, chapter 18. Single-step and the traps after an instruction are in event.c; while any
 * breakpoint is on, blocks have one instruction (MODE_STEP). Data accesses are compared in access.c.
 */
#include "cpu/hv_ops.h"
#include "cpu/internal.h"

/* What breakpoint n of DR7 watches: R/W field values. */
enum { WATCH_CODE = 0, WATCH_WRITE = 1, WATCH_IO = 2, WATCH_DATA = 3 };

static bool is_enabled(const struct cpu *cpu, unsigned n)
{
	return cpu->dr[7] >> (2 * n) & 3;
}

static unsigned kind_of(const struct cpu *cpu, unsigned n)
{
	return cpu->dr[7] >> (16 + 4 * n) & 3;
}

static unsigned length_of(const struct cpu *cpu, unsigned n)
{
	static const u8 length[4] = { 1, 2, 8, 4 };
	return length[cpu->dr[7] >> (18 + 4 * n) & 3];
}

/* Does [address, +size) touch breakpoint n? Its own address is aligned to its length. */
static bool touches(const struct cpu *cpu, unsigned n, u64 address, unsigned size)
{
	unsigned length = length_of(cpu, n);
	u64 base = cpu->dr[n] & ~(u64)(length - 1);
	return address < base + length && base < address + size;
}

bool debug_code_hit(struct cpu *cpu, u64 *dr6)
{
	u64 linear = (cpu->seg_base[SEG_CS] + cpu->reg[REG_RIP]) & linear_mask(cpu), bits = 0;

	for (unsigned n = 0; n < 4; n++)
		if (is_enabled(cpu, n) && kind_of(cpu, n) == WATCH_CODE && cpu->dr[n] == linear)
			bits |= BIT(n);
	*dr6 = bits;
	return bits;
}

bool debug_watches_data(const struct cpu *cpu)
{
	for (unsigned n = 0; n < 4; n++)
		if (is_enabled(cpu, n) && (kind_of(cpu, n) & 1))
			return true;
	return false;
}

void debug_io_access(struct cpu *cpu, u16 port, unsigned size)
{
	if (!(cpu->cr4 & CR4_DE))
		return;
	for (unsigned n = 0; n < 4; n++)
		if (is_enabled(cpu, n) && kind_of(cpu, n) == WATCH_IO && touches(cpu, n, port, size))
			cpu->pending_db |= BIT(n);
}

/* --- last-branch records --- */

/* A repeated string instruction that is not done yet goes back to itself, and is no branch. */
void debug_record_branch(struct cpu *cpu, const struct insn *insn, u64 base, u64 from)
{
	u64 rip = cpu->reg[REG_RIP];
	if (rip == from + insn->length || (rip == from && (insn->flags & (INSN_REP | INSN_REPNE))))
		return;
	cpu->msr.last_branch_from = base + from;
	cpu->msr.last_branch_to = cpu->seg_base[SEG_CS] + rip;
}

void debug_record_event(struct cpu *cpu)
{
	cpu->msr.last_int_from = cpu->msr.last_branch_from;
	cpu->msr.last_int_to = cpu->msr.last_branch_to;
}

/* --- MOV DR --- */

/*
 * The register meant, DR4 and DR5 being DR6 and DR7 unless CR4.DE forbids; and every check but the value's. Zydis knows
 * no DR above 7 for us.
 */
static unsigned debug_register(struct cpu *cpu, unsigned dr, bool write, unsigned gpr)
{
	if ((dr == 4 || dr == 5) && (cpu->cr4 & CR4_DE))
		cpu_raise(cpu, VEC_UD);
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	if (cpu->non_root)
		cpu->hv->dr_access(cpu, dr, write, gpr);
	if (cpu->dr[7] & DR7_GD)
		cpu_raise_db(cpu, DR6_BD);
	return dr == 4 || dr == 5 ? dr + 2 : dr;
}

static void exec_read_dr(struct cpu *cpu, const struct insn *insn)
{
	cpu->reg[insn->dst] = cpu->dr[debug_register(cpu, insn->src, false, insn->dst)];
}

void debug_write(struct cpu *cpu, unsigned dr, u64 value)
{
	if (dr == 6)
		value = (value & (DR6_BD | DR6_BS | DR6_BT | 15)) | DR6_FIXED1;
	else if (dr == 7)
		value = (value & (BITS(31, 16) | DR7_GD | BITS(9, 0))) | DR7_FIXED1;
	cpu->dr[dr] = value;
	cpu->rflags_sys &= ~RFLAGS_RF; /* one that was left may not hide a new breakpoint */
	cpu_update_step(cpu);
	cpu_update_class(cpu);
}

static void exec_write_dr(struct cpu *cpu, const struct insn *insn)
{
	unsigned dr = debug_register(cpu, insn->dst, true, insn->src);
	u64 value = cpu->mode == CPU_LONG ? cpu->reg[insn->src] : (u32)cpu->reg[insn->src];
	if (dr >= 6 && value >> 32)
		cpu_raise_gp(cpu);
	debug_write(cpu, dr, value);
}

bool debug_select_mov(const struct decode *d, struct insn *insn)
{
	bool write = ZydisRegisterGetClass(d->op[0].reg.value) == ZYDIS_REGCLASS_DEBUG;
	ZydisRegister dr = d->op[write ? 0 : 1].reg.value, gpr = d->op[write ? 1 : 0].reg.value;
	if (dr > ZYDIS_REGISTER_DR7)
		return false;
	*(write ? &insn->dst : &insn->src) = (u8)(dr - ZYDIS_REGISTER_DR0);
	*(write ? &insn->src : &insn->dst) = (u8)ZydisRegisterGetId(gpr);
	insn->exec = write ? exec_write_dr : exec_read_dr;
	insn->flags |= INSN_ENDS;
	return true;
}
