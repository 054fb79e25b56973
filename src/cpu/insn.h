/*
 * A decoded instruction, its row in the instruction table, and what handlers may use.
 *
 * Decoding (decode.c, over Zydis) finds the row by mnemonic; the row's `select` looks at the operands once and chooses
 * the handler for just that form. Handlers then read small fields only. Operand fields mean the same for every
 * instruction; a form that does not use one leaves it 0.
 */
#ifndef STRATA_CPU_INSN_H
#define STRATA_CPU_INSN_H

#include "cpu/cpu.h"

#include <Zydis/Zydis.h>

typedef void (*insn_fn)(struct cpu *cpu, const struct insn *insn);

/* insn.flags */
#define INSN_LOCK     0x01
#define INSN_REP      0x02 /* F3 */
#define INSN_REPNE    0x04 /* F2 */
#define INSN_MEM      0x08 /* has a memory operand (base, index, scale, disp, seg) */
#define INSN_LEGACY   0x10 /* address needs segment limit and rights checks (not 64-bit mode, and segment not flat) */
#define INSN_HIGH_DST 0x20 /* dst is AH, CH, DH or BH: dst holds 0..3, byte 1 of it */
#define INSN_HIGH_SRC 0x40
#define INSN_ENDS     0x80 /* ends its block: control flow, mode changes, serializing */

struct insn {
	insn_fn exec; /* what cpu_run() calls */
	union {
		insn_fn inner; /* the real handler, when exec is a wrapper that checks privilege or asks hv first */
		void *stub;    /* native.h; no such instruction has a wrapper */
	};
	u64 imm; /* sign-extended immediate; branch displacement; far offset */
	i32 disp;
	u16 imm2;     /* second immediate (ENTER), far selector */
	u16 mnemonic; /* ZYDIS_MNEMONIC_*, which row describes it: insn_row(); 0: none does */
	u8 length;
	u8 opsize, adsize;     /* bytes: 1, 2, 4, 8 (vector: operand bytes in opsize) */
	u8 seg;                /* enum seg or SEG_FLAT */
	u8 dst, src;           /* register numbers: GPR slots, or vector, segment, CR, DR numbers */
	u8 base, index, scale; /* slots in cpu->reg (REG_ZERO if absent, REG_RIP); shift count 0..3 */
	u8 flags;
	u8 cond;     /* condition code 0..15, or a small constant of the form */
	bool direct; /* a near branch whose only targets are the next instruction and a fixed one */
	bool roams;  /* the translator's: its operand in memory is in another page each time */
	bool strays; /* likewise: it is an indirect branch, and leads somewhere else each time */
};

/* What Zydis found, for select functions. */
struct decode {
	const ZydisDecodedInstruction *zi;
	const ZydisDecodedOperand *op; /* zi->operand_count of them, hidden ones last */
	const u8 *bytes;
	struct cpu *cpu;
	u32 mode_key;
};

/* Privilege of a row. */
enum insn_privilege {
	PRIV_ANY,
	PRIV_CPL0,     /* #GP(0) unless CPL 0 */
	PRIV_CPL0_UD,  /* #UD unless CPL 0 */
	PRIV_TSC,      /* #GP(0) if CR4.TSD, unless CPL 0 */
	PRIV_PMC,      /* #GP(0) if CR4.PCE = 0, unless CPL 0 */
	PRIV_OSXSAVE,  /* #UD if CR4.OSXSAVE = 0, #GP(0) unless CPL 0 */
	PRIV_PROTECTED /* #UD in real and virtual-8086 mode */
};

/*
 * One row per mnemonic; the tables are insn_integer.def, insn_system.def and insn_vector.def, lines of
 *   ROW(MNEMONIC, select, PRIV_*, FEATURE, VMX_EXIT, SVM_EXIT)
 * MNEMONIC: the part behind ZYDIS_MNEMONIC_. FEATURE: the part behind FEATURE_ (x86/feature.h), BASE if always there.
 * VMX_EXIT: part behind EXIT_ of the basic exit reason that the CPU must ask hv->instruction about before executing,
 * or NONE (also where the handler itself asks hv with details). SVM_EXIT likewise, part behind SVM_EXIT_; it also names
 * the exit of the instructions whose handlers ask, which hv->instruction then leaves to them.
 */
struct insn_row {
	const char *name;
	/* Fills insn's handler and form; false: this operand form does not exist (#UD). */
	bool (*select)(const struct decode *d, struct insn *insn);
	u8 privilege;
	u8 feature;
	i16 vmx_exit; /* -1: none */
	i16 svm_exit;
};

/* The row of a Zydis mnemonic, NULL if not implemented. */
const struct insn_row *insn_row_find(ZydisMnemonic mnemonic);
/* The row that describes the instruction, NULL if none does. */
static inline const struct insn_row *insn_row(const struct insn *insn)
{
	return insn_row_find((ZydisMnemonic)insn->mnemonic);
}

/* The name of a mnemonic's row, NULL if there is none. */
const char *insn_row_name(unsigned mnemonic);

/*
 * Decodes the instruction at `bytes` (`available` of them, at most 15 used). Always yields a runnable insn: one that
 * raises #UD (or #GP if longer than 15 bytes) if need be. Returns false only if `available` bytes were too few.
 */
bool insn_decode(struct cpu *cpu, u32 mode_key, const u8 *bytes, size_t available, struct insn *insn);

/* Generic operand filling that insn_decode does before `select`: memory operand, sizes, prefixes, dst/src registers,
 * immediate. Register numbers follow the explicit operands: operand 0 register -> dst, operand 1 register -> src. */

/* For selects of implicit memory operands (string instructions): sets seg and INSN_LEGACY for accesses through `seg`.
 */
void insn_set_segment(u32 mode_key, struct insn *insn, enum seg seg);

/* Effective address: offset within the segment, address-size masked. */
static inline u64 insn_ea(const struct cpu *cpu, const struct insn *insn)
{
	u64 ea = cpu->reg[insn->base] + (cpu->reg[insn->index] << insn->scale) + (u64)(i64)insn->disp;
	if (unlikely(insn->adsize != 8))
		ea &= insn->adsize == 4 ? 0xffffffffULL : 0xffffULL;
	return ea;
}

/* Condition code cc (0..15, as in Jcc's opcode) on the current flags. */
static inline bool cpu_condition(const struct cpu *cpu, unsigned cc)
{
	unsigned f = cpu->arith;
	bool r;
	switch (cc >> 1) {
	case 0:
		r = f & ARITH_OF;
		break;
	case 1:
		r = f & ARITH_CF;
		break;
	case 2:
		r = f & ARITH_ZF;
		break;
	case 3:
		r = f & (ARITH_CF | ARITH_ZF);
		break;
	case 4:
		r = f & ARITH_SF;
		break;
	case 5:
		r = f & ARITH_PF;
		break;
	case 6:
		r = ((f >> 15) ^ f) & 1;
		break;
	default:
		r = (((f >> 15) ^ f) & 1) || (f & ARITH_ZF);
		break;
	}
	return r ^ (cc & 1);
}

/* Wrappers that insn_decode puts around handlers whose row asks for it. */
void insn_exec_checked(struct cpu *cpu, const struct insn *insn);
/* Handler of everything undefined. */
void insn_exec_undefined(struct cpu *cpu, const struct insn *insn);

#endif
