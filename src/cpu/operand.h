/*
 * What the integer instruction families share: guest registers as operands, flags from the host's own ALU, memory
 * operands that are read, changed and written back, and the choice of a handler by operand form and size.
 *
 * Private to the integer families of src/cpu. Everything here runs on the CPU's thread and may throw guest faults.
 */
#ifndef STRATA_CPU_OPERAND_H
#define STRATA_CPU_OPERAND_H

#include "cpu/access.h"
#include "cpu/event.h"
#include "cpu/insn.h"

/* --- registers --- */

static inline u8 *reg8_pointer(struct cpu *cpu, unsigned n, bool high)
{
	return (u8 *)&cpu->reg[n] + high;
}

/* Operand registers of the running form. AH to BH are byte 1 of their register. */
static inline u8 get_dst8(struct cpu *cpu, const struct insn *insn)
{
	return *reg8_pointer(cpu, insn->dst, insn->flags & INSN_HIGH_DST);
}

static inline u8 get_src8(struct cpu *cpu, const struct insn *insn)
{
	return *reg8_pointer(cpu, insn->src, insn->flags & INSN_HIGH_SRC);
}

static inline void set_dst8(struct cpu *cpu, const struct insn *insn, u8 v)
{
	*reg8_pointer(cpu, insn->dst, insn->flags & INSN_HIGH_DST) = v;
}

static inline void set_src8(struct cpu *cpu, const struct insn *insn, u8 v)
{
	*reg8_pointer(cpu, insn->src, insn->flags & INSN_HIGH_SRC) = v;
}

/* Any register as an operand of 8 (low byte), 16, 32 or 64 bits. Writing 32 bits clears the upper half. */
static inline void reg_set8(struct cpu *cpu, unsigned n, u8 v)
{
	*(u8 *)&cpu->reg[n] = v;
}

static inline void reg_set16(struct cpu *cpu, unsigned n, u16 v)
{
	*(u16 *)&cpu->reg[n] = v;
}

static inline void reg_set32(struct cpu *cpu, unsigned n, u32 v)
{
	cpu->reg[n] = v;
}

static inline void reg_set64(struct cpu *cpu, unsigned n, u64 v)
{
	cpu->reg[n] = v;
}

static inline void reg_set(struct cpu *cpu, unsigned n, unsigned size, u64 v)
{
	switch (size) {
	case 1:
		reg_set8(cpu, n, (u8)v);
		break;
	case 2:
		reg_set16(cpu, n, (u16)v);
		break;
	case 4:
		reg_set32(cpu, n, (u32)v);
		break;
	default:
		reg_set64(cpu, n, v);
	}
}

#define DEFINE_OPERAND(bits)                                                                                           \
	static inline u##bits get_dst##bits(struct cpu *cpu, const struct insn *insn)                                  \
	{                                                                                                              \
		return (u##bits)cpu->reg[insn->dst];                                                                   \
	}                                                                                                              \
	static inline u##bits get_src##bits(struct cpu *cpu, const struct insn *insn)                                  \
	{                                                                                                              \
		return (u##bits)cpu->reg[insn->src];                                                                   \
	}                                                                                                              \
	static inline void set_dst##bits(struct cpu *cpu, const struct insn *insn, u##bits v)                          \
	{                                                                                                              \
		reg_set##bits(cpu, insn->dst, v);                                                                      \
	}                                                                                                              \
	static inline void set_src##bits(struct cpu *cpu, const struct insn *insn, u##bits v)                          \
	{                                                                                                              \
		reg_set##bits(cpu, insn->src, v);                                                                      \
	}
DEFINE_OPERAND(16)
DEFINE_OPERAND(32)
DEFINE_OPERAND(64)
#undef DEFINE_OPERAND

/* --- memory operands --- */

static inline u64 size_mask(unsigned size)
{
	return size == 8 ? ~0ULL : (1ULL << (8 * size)) - 1;
}

/* Out of the fast path: bytes to change, in place if possible, else a copy in *copy that rmw_end writes back. */
u8 *rmw_begin_slow(struct cpu *cpu, u64 linear, unsigned size, u64 *copy);

/* Always in a copy. */
u8 *rmw_begin_copy(struct cpu *cpu, u64 linear, unsigned size, u64 *copy);

/*
 * The same for locked instructions. Across cache lines the host may refuse a lock ("split locks": its kernel can slow
 * them down or end the process), and on devices there is none: these run on a copy with all other CPUs stopped, after
 * the instruction began anew.
 */
u8 *lock_begin_slow(struct cpu *cpu, u64 linear, unsigned size, u64 *copy);

enum { CACHE_LINE = 64 };

static inline bool lock_crosses_line(u64 linear, unsigned size)
{
	return (linear & (CACHE_LINE - 1)) > CACHE_LINE - size;
}

#define DEFINE_MEMORY(bits)                                                                                            \
	static inline __attribute__((always_inline)) u##bits get_mem##bits(struct cpu *cpu, const struct insn *insn)   \
	{                                                                                                              \
		return mem_read##bits(cpu, access_linear(cpu, insn, bits / 8, MMU_READ));                              \
	}                                                                                                              \
	static inline                                                                                                  \
		__attribute__((always_inline)) void set_mem##bits(struct cpu *cpu, const struct insn *insn, u##bits v) \
	{                                                                                                              \
		mem_write##bits(cpu, access_linear(cpu, insn, bits / 8, MMU_WRITE), v);                                \
	}                                                                                                              \
	static inline u8 *rmw_begin##bits(struct cpu *cpu, u64 linear, u64 *copy)                                      \
	{                                                                                                              \
		u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, bits / 8, true);                                         \
		return likely(p) ? p : rmw_begin_slow(cpu, linear, bits / 8, copy);                                    \
	}                                                                                                              \
	/* For the host's locked instructions. */                                                                      \
	static inline u8 *lock_begin##bits(struct cpu *cpu, u64 linear, u64 *copy)                                     \
	{                                                                                                              \
		if (unlikely(lock_crosses_line(linear, bits / 8)))                                                     \
			return lock_begin_slow(cpu, linear, bits / 8, copy);                                           \
		u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, bits / 8, true);                                         \
		return likely(p) ? p : lock_begin_slow(cpu, linear, bits / 8, copy);                                   \
	}
DEFINE_MEMORY(8)
DEFINE_MEMORY(16)
DEFINE_MEMORY(32)
DEFINE_MEMORY(64)
#undef DEFINE_MEMORY

/* Writes the copy back, if rmw_begin made one. Flags and registers are changed after this, for it may throw. */
static inline void rmw_end(struct cpu *cpu, u64 linear, unsigned size, const u8 *p, const u64 *copy)
{
	if (unlikely(p == (const u8 *)copy))
		access_write(cpu, linear, copy, size, cpu->mmu.cls);
	access_done(cpu);
}

/* Linear address of an offset that the handler computed itself, in the segment of its operand. */
static inline u64 access_offset_linear(struct cpu *cpu, const struct insn *insn, u64 offset, unsigned size,
				       enum mmu_access access)
{
	if (unlikely(insn->flags & INSN_LEGACY))
		return access_check_segment(cpu, insn->seg, offset, size, access);
	u64 linear = offset + cpu->seg_base[insn->seg];
	return cpu->mode == CPU_LONG ? linear : (u32)linear;
}

/* --- the near stack (push.c) --- */

/* RSP + change and its setting, in the width of the stack segment. Reads and writes at SS:sp, size 2, 4 or 8. */
u64 near_sp(const struct cpu *cpu, i64 change);
void near_set_sp(struct cpu *cpu, u64 sp);
u64 near_stack_read(struct cpu *cpu, u64 sp, unsigned size);
void near_stack_write(struct cpu *cpu, u64 sp, unsigned size, u64 value);
void near_push(struct cpu *cpu, unsigned size, u64 value);
/* Operand size of instructions that have 64 bits by default in 64-bit mode. */
u8 near_operand_size(const struct decode *d);

/* --- flags --- */

/*
 * Assembly around a host instruction: HOST_FLAGS_OUT leaves its arithmetic flags in AX as cpu->arith keeps them;
 * HOST_FLAGS_IN before it makes AX the host's flags (adding 7Fh to the 0 or 1 in AL sets OF), so that flags which the
 * instruction leaves alone, or leaves undefined, come out as they would on the host.
 */
#define HOST_FLAGS_OUT "\n\tlahf\n\tseto %%al"
#define HOST_FLAGS_IN  "addb $0x7f, %%al\n\tsahf\n\t"

/* Bit 1 of RFLAGS, as LAHF shows it: handlers that make `arith` from nothing start with this. */
#define ARITH_FIXED 0x0200u

static inline void set_flag(struct cpu *cpu, u16 flag, bool on)
{
	cpu->arith = (u16)(on ? cpu->arith | flag : cpu->arith & ~flag);
}

/* --- forms --- */

/* Operand forms: R register, M memory, I immediate, in the manual's order; L: with LOCK. */
enum form { FORM_R, FORM_M, FORM_LM, FORM_RR, FORM_RM, FORM_MR, FORM_RI, FORM_MI, FORM_LMR, FORM_LMI, FORM_COUNT };

/* Handlers of one instruction by form and operand size 1, 2, 4, 8; NULL where there is none. */
typedef const insn_fn form_table[FORM_COUNT][4];

/* 0 to 3 for 1, 2, 4, 8 bytes. */
static inline unsigned size_index(unsigned size)
{
	return (unsigned)__builtin_ctz(size);
}

/* Chooses by operands 0 and 1 and operand 0's size; false if the table has no such form. */
bool select_form(const struct decode *d, struct insn *insn, form_table table);

/* Size in bytes of visible operand n. */
static inline unsigned operand_size(const struct decode *d, unsigned n)
{
	return d->op[n].size / 8u;
}

static inline bool operand_is(const struct decode *d, unsigned n, ZydisOperandType type)
{
	return n < d->zi->operand_count_visible && d->op[n].type == type;
}

#define OPERAND_REG ZYDIS_OPERAND_TYPE_REGISTER
#define OPERAND_MEM ZYDIS_OPERAND_TYPE_MEMORY
#define OPERAND_IMM ZYDIS_OPERAND_TYPE_IMMEDIATE

#define ROW(mnemonic, select_fn, ...) bool select_fn(const struct decode *d, struct insn *insn);
#include "cpu/insn_integer.def"
#undef ROW

/* GPR slot of a general register; *high for AH, CH, DH, BH. */
unsigned gpr_slot(ZydisRegister reg, bool *high);

#endif
