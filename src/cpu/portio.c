/*
 * IN, OUT, INS, OUTS: permission by IOPL and the TSS's I/O bit map (SDM vol. 1, 19.5), then hv, then the bus.
 * insn->opsize is the size of the access; insn->cond says that the port is DX.
 */
#include "base/trace.h"
#include "cpu/access.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"

static u16 tss_word(struct cpu *cpu, u32 offset)
{
	u64 linear = cpu->seg[SEG_TR].base + offset;
	return sys_read16(cpu, cpu_long_mode(cpu) ? linear : (u32)linear);
}

/* The two bytes of the bit map that hold the port's bits must lie in the TSS. */
static bool bitmap_allows(struct cpu *cpu, u16 port, unsigned size)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	unsigned type = tr->ar & SEG_AR_TYPE;

	if ((tr->ar & SEG_AR_UNUSABLE) || (type != DESC_TSS32 && type != DESC_TSS32_BUSY) || tr->limit < 0x67)
		return false;
	u32 offset = tss_word(cpu, 0x66) + port / 8u;
	if (offset + 1 > tr->limit)
		return false;
	unsigned bits = tss_word(cpu, offset) >> (port & 7);
	return !(bits & ((1u << size) - 1));
}

static void check_permission(struct cpu *cpu, u16 port, unsigned size)
{
	if (cpu->mode == CPU_REAL || (cpu->mode != CPU_V86 && cpu->cpl <= cpu_iopl(cpu)))
		return;
	if (!bitmap_allows(cpu, port, size))
		cpu_raise_gp(cpu);
}

/* All that comes before the access itself. `linear` is the memory operand of INS and OUTS. */
static inline void begin_access(struct cpu *cpu, const struct insn *insn, u16 port, bool in, u64 linear)
{
	if (unlikely(cpu->non_root))
		cpu->hv->io(cpu, insn, port, insn->opsize, in, linear);
	if (unlikely(cpu->dr[7] & 0xff))
		debug_io_access(cpu, port, insn->opsize);
	cpu->counters.port_io++;
}

static inline u16 port_of(const struct cpu *cpu, const struct insn *insn)
{
	return (u16)(insn->cond ? cpu->reg[RDX] : insn->imm & 0xff);
}

static void exec_in(struct cpu *cpu, const struct insn *insn)
{
	u16 port = port_of(cpu, insn);
	check_permission(cpu, port, insn->opsize);
	begin_access(cpu, insn, port, true, 0);
	u32 value = bus_read_pio(cpu->bus, port, insn->opsize);
	if (insn->opsize == 1)
		cpu->reg[RAX] = (cpu->reg[RAX] & ~0xffULL) | (u8)value;
	else
		register_write(cpu, RAX, insn->opsize, value);
}

static void exec_out(struct cpu *cpu, const struct insn *insn)
{
	u16 port = port_of(cpu, insn);
	check_permission(cpu, port, insn->opsize);
	begin_access(cpu, insn, port, false, 0);
	u32 value = (u32)cpu->reg[RAX];
	if (insn->opsize < 4)
		value &= (1u << 8 * insn->opsize) - 1;
	bus_write_pio(cpu->bus, port, insn->opsize, value);
}

/* Accesses change what the machine is doing (timers, interrupts, power): the block ends, so that attention is looked
 * at. */
bool select_in(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_in;
	insn->opsize = (u8)(d->op[0].size / 8);
	insn->cond = d->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
	insn->flags |= INSN_ENDS;
	return true;
}

bool select_out(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_out;
	insn->opsize = (u8)(d->op[1].size / 8);
	insn->cond = d->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
	insn->flags |= INSN_ENDS;
	return true;
}

/* --- strings --- */

static u64 address_mask(const struct insn *insn)
{
	return insn->adsize == 8 ? ~0ULL : insn->adsize == 4 ? 0xffffffff : 0xffff;
}

static void input_element(struct cpu *cpu, const struct insn *insn, u16 port)
{
	u64 linear = access_linear(cpu, insn, insn->opsize, MMU_WRITE);
	begin_access(cpu, insn, port, true, linear);
	/* The port must not be read if the store is going to fault. */
	access_probe(cpu, linear, insn->opsize, MMU_WRITE);
	u32 value = bus_read_pio(cpu->bus, port, insn->opsize);
	access_write(cpu, linear, &value, insn->opsize, cpu->mmu.cls);
}

static void output_element(struct cpu *cpu, const struct insn *insn, u16 port)
{
	u64 linear = access_linear(cpu, insn, insn->opsize, MMU_READ);
	u32 value = 0;
	begin_access(cpu, insn, port, false, linear);
	access_read(cpu, linear, &value, insn->opsize, cpu->mmu.cls);
	bus_write_pio(cpu->bus, port, insn->opsize, value);
}

/* Moves element by element; each leaves the registers as they must be if the next one faults or an event comes. */
static void string_io(struct cpu *cpu, const struct insn *insn, void (*element)(struct cpu *, const struct insn *, u16),
		      unsigned pointer)
{
	bool repeat = insn->flags & (INSN_REP | INSN_REPNE);
	u64 step = cpu->rflags_sys & RFLAGS_DF ? (u64) - (i64)insn->opsize : insn->opsize, mask = address_mask(insn);
	u16 port = (u16)cpu->reg[RDX];

	check_permission(cpu, port, insn->opsize);
	if (repeat && !(cpu->reg[RCX] & mask))
		return;
	for (;;) {
		element(cpu, insn, port);
		register_write(cpu, pointer, insn->adsize, cpu->reg[pointer] + step);
		if (!repeat)
			return;
		register_write(cpu, RCX, insn->adsize, cpu->reg[RCX] - 1);
		if (!(cpu->reg[RCX] & mask))
			return;
		if (__atomic_load_n(&cpu->attention, __ATOMIC_RELAXED)) {
			cpu_run_again(cpu);
			return;
		}
	}
}

static void exec_ins(struct cpu *cpu, const struct insn *insn)
{
	string_io(cpu, insn, input_element, RDI);
}

static void exec_outs(struct cpu *cpu, const struct insn *insn)
{
	string_io(cpu, insn, output_element, RSI);
}

bool select_ins(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_ins;
	insn->opsize = (u8)(d->op[0].size / 8);
	insn->flags |= INSN_ENDS;
	return true;
}

bool select_outs(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_outs;
	insn->opsize = (u8)(d->op[1].size / 8);
	insn->flags |= INSN_ENDS;
	return true;
}
