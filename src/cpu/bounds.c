/*
 * Memory protection extensions (SDM vol. 1, chapter 17, "Intel MPX", up to revision 075; vol. 2, BNDMK and its kin). A
 * CPU has them only if it is asked for (--cpu-features=+mpx). Code that runs with them enabled is a mode of its own
 * (MODE_BOUNDS): elsewhere these opcodes are the NOPs that they always were, and branches leave bounds alone.
 *
 * Outside 64-bit mode bounds and addresses have 32 bits.
 */
#include "cpu/access.h"
#include "cpu/block.h"
#include "cpu/internal.h"
#include "cpu/operand.h"

#include <string.h>

enum { STATUS_BOUNDS = 1, STATUS_DIRECTORY = 2 }; /* BNDSTATUS, bits 1:0 */

#define TABLE_VALID BIT(0) /* of an entry of the bound directory */

static u64 address_mask(const struct insn *insn)
{
	return insn->opsize == 8 ? ~0ULL : 0xffffffffULL;
}

static NORETURN void raise_br(struct cpu *cpu, u64 status)
{
	cpu->bounds.status = status;
	cpu_raise(cpu, VEC_BR);
}

/* --- making and checking bounds --- */

static void exec_bndmk(struct cpu *cpu, const struct insn *insn)
{
	cpu->bounds.reg[insn->dst].lower = cpu->reg[insn->base] & address_mask(insn);
	cpu->bounds.reg[insn->dst].upper = ~insn_ea(cpu, insn) & address_mask(insn);
}

/* What is checked: a register, or the address that a memory operand has. */
static u64 pointer(const struct cpu *cpu, const struct insn *insn)
{
	u64 value = insn->flags & INSN_MEM ? insn_ea(cpu, insn) : cpu->reg[insn->src];
	return value & address_mask(insn);
}

static void exec_bndcl(struct cpu *cpu, const struct insn *insn)
{
	if (pointer(cpu, insn) < (cpu->bounds.reg[insn->dst].lower & address_mask(insn)))
		raise_br(cpu, STATUS_BOUNDS);
}

static void exec_bndcu(struct cpu *cpu, const struct insn *insn)
{
	if (pointer(cpu, insn) > (~cpu->bounds.reg[insn->dst].upper & address_mask(insn)))
		raise_br(cpu, STATUS_BOUNDS);
}

static void exec_bndcn(struct cpu *cpu, const struct insn *insn)
{
	if (pointer(cpu, insn) > (cpu->bounds.reg[insn->dst].upper & address_mask(insn)))
		raise_br(cpu, STATUS_BOUNDS);
}

/* --- moving them --- */

static void exec_bndmov_rr(struct cpu *cpu, const struct insn *insn)
{
	cpu->bounds.reg[insn->dst] = cpu->bounds.reg[insn->src];
}

static void exec_bndmov_load(struct cpu *cpu, const struct insn *insn)
{
	u64 wide[2];
	u32 narrow[2];
	u64 linear = access_linear(cpu, insn, 2 * insn->opsize, MMU_READ);
	if (insn->opsize == 8) {
		access_read(cpu, linear, wide, sizeof(wide), cpu->mmu.cls);
	} else {
		access_read(cpu, linear, narrow, sizeof(narrow), cpu->mmu.cls);
		wide[0] = narrow[0];
		wide[1] = narrow[1];
	}
	cpu->bounds.reg[insn->dst].lower = wide[0];
	cpu->bounds.reg[insn->dst].upper = wide[1];
}

static void exec_bndmov_store(struct cpu *cpu, const struct insn *insn)
{
	const u64 wide[] = { cpu->bounds.reg[insn->src].lower, cpu->bounds.reg[insn->src].upper };
	const u32 narrow[] = { (u32)wide[0], (u32)wide[1] };
	u64 linear = access_linear(cpu, insn, 2 * insn->opsize, MMU_WRITE);
	if (insn->opsize == 8)
		access_write(cpu, linear, wide, sizeof(wide), cpu->mmu.cls);
	else
		access_write(cpu, linear, narrow, sizeof(narrow), cpu->mmu.cls);
}

/* --- tables: bounds of a pointer, by where the pointer lies --- */

/* The pointer's own address: base and displacement; without a base 0. The index is the pointer, whatever its scale. */
static u64 pointer_place(const struct cpu *cpu, const struct insn *insn)
{
	u64 offset = insn->base == REG_ZERO ? 0 : cpu->reg[insn->base] + (u64)(i64)insn->disp;
	return ((offset & address_mask(insn)) + cpu->seg_base[insn->seg]) & address_mask(insn);
}

/* Tables are in no segment: never #SS. */
static u64 canonical(struct cpu *cpu, u64 linear)
{
	if (!is_canonical(cpu, linear))
		cpu_raise_gp(cpu);
	return linear;
}

static u64 entry64(struct cpu *cpu, u64 place)
{
	u64 at = canonical(cpu, (bounds_config(cpu) & PAGE_MASK) + bits_get(place, 47, 20) * 8);
	u64 table = mem_read64(cpu, at);
	if (!(table & TABLE_VALID))
		raise_br(cpu, at | STATUS_DIRECTORY);
	return canonical(cpu, (table & ~7ULL) + bits_get(place, 19, 3) * 32);
}

static u64 entry32(struct cpu *cpu, u64 place)
{
	u32 at = (u32)((bounds_config(cpu) & PAGE_MASK) + bits_get(place, 31, 12) * 4);
	u32 table = mem_read32(cpu, at);
	if (!(table & TABLE_VALID))
		raise_br(cpu, at | STATUS_DIRECTORY);
	return (u32)((table & ~3U) + bits_get(place, 11, 2) * 16);
}

/* An entry of the bound table: lower, upper, the pointer they are for. One of 64 bits has 8 more bytes. */
static void exec_bndldx(struct cpu *cpu, const struct insn *insn)
{
	u64 wide[3], place = pointer_place(cpu, insn);
	u32 narrow[3];
	if (insn->opsize == 8) {
		access_read(cpu, entry64(cpu, place), wide, sizeof(wide), cpu->mmu.cls);
	} else {
		access_read(cpu, entry32(cpu, place), narrow, sizeof(narrow), cpu->mmu.cls);
		for (unsigned i = 0; i < ARRAY_SIZE(wide); i++)
			wide[i] = narrow[i];
	}
	bool same = wide[2] == (cpu->reg[insn->index] & address_mask(insn));
	cpu->bounds.reg[insn->dst].lower = same ? wide[0] : 0;
	cpu->bounds.reg[insn->dst].upper = same ? wide[1] : 0;
}

static void exec_bndstx(struct cpu *cpu, const struct insn *insn)
{
	const u64 wide[] = { cpu->bounds.reg[insn->src].lower, cpu->bounds.reg[insn->src].upper,
			     cpu->reg[insn->index] };
	const u32 narrow[] = { (u32)wide[0], (u32)wide[1], (u32)wide[2] };
	u64 place = pointer_place(cpu, insn);
	if (insn->opsize == 8)
		access_write(cpu, entry64(cpu, place), wide, sizeof(wide), cpu->mmu.cls);
	else
		access_write(cpu, entry32(cpu, place), narrow, sizeof(narrow), cpu->mmu.cls);
}

/* --- selects --- */

static void exec_nothing(struct cpu *cpu, const struct insn *insn)
{
}

/* In 64-bit mode 67H means nothing here, elsewhere 16-bit addresses do not exist (table 17-3). */
static bool select_bounds(const struct decode *d, struct insn *insn, insn_fn exec)
{
	bool code64 = d->mode_key & MODE_CODE64;
	if ((insn->flags & INSN_LOCK) || ((insn->flags & INSN_MEM) && insn->adsize == 2))
		return false;
	insn->opsize = insn->adsize = code64 ? 8 : 4;
	insn->exec = exec;
	return true;
}

/* Those that compute with the parts of a memory operand: not relative to RIP; a NOP between registers. */
static bool select_address(const struct decode *d, struct insn *insn, insn_fn exec)
{
	if (insn->base == REG_RIP)
		return false;
	return select_bounds(d, insn, insn->flags & INSN_MEM ? exec : exec_nothing);
}

bool select_bndmk(const struct decode *d, struct insn *insn)
{
	return select_address(d, insn, exec_bndmk);
}

bool select_bndldx(const struct decode *d, struct insn *insn)
{
	return select_address(d, insn, exec_bndldx);
}

bool select_bndstx(const struct decode *d, struct insn *insn)
{
	return select_address(d, insn, exec_bndstx);
}

bool select_bndcl(const struct decode *d, struct insn *insn)
{
	return select_bounds(d, insn, exec_bndcl);
}

bool select_bndcu(const struct decode *d, struct insn *insn)
{
	return select_bounds(d, insn, exec_bndcu);
}

bool select_bndcn(const struct decode *d, struct insn *insn)
{
	return select_bounds(d, insn, exec_bndcn);
}

bool select_bndmov(const struct decode *d, struct insn *insn)
{
	bool store = operand_is(d, 0, OPERAND_MEM), load = operand_is(d, 1, OPERAND_MEM);
	return select_bounds(d, insn, store ? exec_bndmov_store : load ? exec_bndmov_load : exec_bndmov_rr);
}

/* --- branches (17.5.3) --- */

static void exec_legacy_branch(struct cpu *cpu, const struct insn *insn)
{
	insn->inner(cpu, insn);
	if (!(bounds_config(cpu) & BNDCFG_PRESERVE))
		memset(cpu->bounds.reg, 0, sizeof(cpu->bounds.reg));
}

/* Near CALL, RET, JMP and Jcc; neither JMP with 8 bits nor LOOPcc and JrCXZ, which have no prefix to tell by. */
static bool takes_prefix(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.category) {
	case ZYDIS_CATEGORY_CALL:
	case ZYDIS_CATEGORY_RET:
		return zi->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR;
	case ZYDIS_CATEGORY_UNCOND_BR:
		return zi->meta.branch_type == ZYDIS_BRANCH_TYPE_NEAR && zi->opcode != 0xeb;
	case ZYDIS_CATEGORY_COND_BR:
		return zi->opcode < 0xe0 || zi->opcode > 0xe3;
	default:
		return false;
	}
}

void bounds_wrap_branch(const struct decode *d, struct insn *insn)
{
	if ((insn->flags & INSN_REPNE) || !takes_prefix(d->zi))
		return;
	insn->inner = insn->exec;
	insn->exec = exec_legacy_branch;
}
