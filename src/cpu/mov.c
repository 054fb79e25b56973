/*
 * Data movement: MOV MOVZX MOVSX MOVSXD MOVBE MOVNTI XCHG BSWAP CMOVcc SETcc LEA XLAT.
 */
#include "cpu/conditions.h"
#include "cpu/internal.h"
#include "cpu/operand.h"
#include "cpu/system.h"

/* --- MOV, MOVBE, MOVNTI --- */

#define MOV_FORMS(bits)                                                                                                \
	static void mov##bits##_rr(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		set_dst##bits(cpu, insn, get_src##bits(cpu, insn));                                                    \
	}                                                                                                              \
	static void mov##bits##_ri(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		set_dst##bits(cpu, insn, (u##bits)insn->imm);                                                          \
	}                                                                                                              \
	static void mov##bits##_rm(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		set_dst##bits(cpu, insn, get_mem##bits(cpu, insn));                                                    \
	}                                                                                                              \
	static void mov##bits##_mr(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		set_mem##bits(cpu, insn, get_src##bits(cpu, insn));                                                    \
	}                                                                                                              \
	static void mov##bits##_mi(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		set_mem##bits(cpu, insn, (u##bits)insn->imm);                                                          \
	}                                                                                                              \
	/* 64-bit mode's MOV with an absolute address of 64 bits, which is in imm. */                                  \
	static void mov##bits##_load_absolute(struct cpu *cpu, const struct insn *insn)                                \
	{                                                                                                              \
		set_dst##bits(cpu, insn, mem_read##bits(cpu, insn->imm + cpu->seg_base[insn->seg]));                   \
	}                                                                                                              \
	static void mov##bits##_store_absolute(struct cpu *cpu, const struct insn *insn)                               \
	{                                                                                                              \
		mem_write##bits(cpu, insn->imm + cpu->seg_base[insn->seg], get_src##bits(cpu, insn));                  \
	}
MOV_FORMS(8)
MOV_FORMS(16)
MOV_FORMS(32)
MOV_FORMS(64)

static form_table mov_forms = {
	[FORM_RR] = { mov8_rr, mov16_rr, mov32_rr, mov64_rr }, [FORM_RM] = { mov8_rm, mov16_rm, mov32_rm, mov64_rm },
	[FORM_MR] = { mov8_mr, mov16_mr, mov32_mr, mov64_mr }, [FORM_RI] = { mov8_ri, mov16_ri, mov32_ri, mov64_ri },
	[FORM_MI] = { mov8_mi, mov16_mi, mov32_mi, mov64_mi },
};
static const insn_fn load_absolute[4] = {
	mov8_load_absolute,
	mov16_load_absolute,
	mov32_load_absolute,
	mov64_load_absolute,
};
static const insn_fn store_absolute[4] = {
	mov8_store_absolute,
	mov16_store_absolute,
	mov32_store_absolute,
	mov64_store_absolute,
};

static bool is_general(const ZydisDecodedOperand *op)
{
	return op->type != OPERAND_REG || (op->reg.value >= ZYDIS_REGISTER_AL && op->reg.value <= ZYDIS_REGISTER_R15);
}

bool select_mov(const struct decode *d, struct insn *insn)
{
	if (!is_general(&d->op[0]) || !is_general(&d->op[1]))
		return system_select_mov(d, insn);
	for (unsigned i = 0; i < 2; i++) {
		const ZydisDecodedOperand *op = &d->op[i];
		if (op->type != OPERAND_MEM || op->encoding != ZYDIS_OPERAND_ENCODING_DISP16_32_64 || insn->adsize != 8)
			continue;
		insn->imm = (u64)op->mem.disp.value;
		insn->exec = (i == 0 ? store_absolute : load_absolute)[size_index(op->size / 8u)];
		return true;
	}
	return select_form(d, insn, mov_forms);
}

#define MOVBE_FORMS(bits)                                                                                              \
	static void movbe##bits##_rm(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		set_dst##bits(cpu, insn, __builtin_bswap##bits(get_mem##bits(cpu, insn)));                             \
	}                                                                                                              \
	static void movbe##bits##_mr(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		set_mem##bits(cpu, insn, __builtin_bswap##bits(get_src##bits(cpu, insn)));                             \
	}
MOVBE_FORMS(16)
MOVBE_FORMS(32)
MOVBE_FORMS(64)

static form_table movbe_forms = {
	[FORM_RM] = { NULL, movbe16_rm, movbe32_rm, movbe64_rm },
	[FORM_MR] = { NULL, movbe16_mr, movbe32_mr, movbe64_mr },
};

bool select_movbe(const struct decode *d, struct insn *insn)
{
	return select_form(d, insn, movbe_forms);
}

static form_table movnti_forms = { [FORM_MR] = { NULL, NULL, mov32_mr, mov64_mr } };

bool select_movnti(const struct decode *d, struct insn *insn)
{
	return select_form(d, insn, movnti_forms);
}

/* --- widening moves --- */

/* name, destination bits, source bits, type that extends */
#define WIDENINGS(X)                                                                                                   \
	X(movzx, 16, 8, u8)                                                                                            \
	X(movzx, 32, 8, u8)                                                                                            \
	X(movzx, 64, 8, u8)                                                                                            \
	X(movzx, 16, 16, u16)                                                                                          \
	X(movzx, 32, 16, u16)                                                                                          \
	X(movzx, 64, 16, u16)                                                                                          \
	X(movsx, 16, 8, i8)                                                                                            \
	X(movsx, 32, 8, i8)                                                                                            \
	X(movsx, 64, 8, i8)                                                                                            \
	X(movsx, 16, 16, i16)                                                                                          \
	X(movsx, 32, 16, i16)                                                                                          \
	X(movsx, 64, 16, i16)                                                                                          \
	X(movsx, 16, 32, i32)                                                                                          \
	X(movsx, 32, 32, i32)                                                                                          \
	X(movsx, 64, 32, i32)

#define WIDENING(name, to, from, type)                                                                                 \
	static void name##to##_##from##_r(struct cpu *cpu, const struct insn *insn)                                    \
	{                                                                                                              \
		set_dst##to(cpu, insn, (u##to)(type)get_src##from(cpu, insn));                                         \
	}                                                                                                              \
	static void name##to##_##from##_m(struct cpu *cpu, const struct insn *insn)                                    \
	{                                                                                                              \
		set_dst##to(cpu, insn, (u##to)(type)get_mem##from(cpu, insn));                                         \
	}
WIDENINGS(WIDENING)

/* By source size (1, 2, 4), destination size (2, 4, 8), and whether the source is in memory. */
#define WIDENING_ROW(name, from)                                                                                       \
	{                                                                                                              \
		{ name##16_##from##_r, name##16_##from##_m }, { name##32_##from##_r, name##32_##from##_m },            \
		{                                                                                                      \
			name##64_##from##_r, name##64_##from##_m                                                       \
		}                                                                                                      \
	}
static const insn_fn movzx_table[2][3][2] = { WIDENING_ROW(movzx, 8), WIDENING_ROW(movzx, 16) };
static const insn_fn movsx_table[3][3][2] = { WIDENING_ROW(movsx, 8), WIDENING_ROW(movsx, 16),
					      WIDENING_ROW(movsx, 32) };

static bool select_widening(const struct decode *d, struct insn *insn, const insn_fn (*table)[3][2])
{
	insn->exec = table[size_index(operand_size(d, 1))][size_index(operand_size(d, 0)) - 1]
			  [operand_is(d, 1, OPERAND_MEM)];
	return true;
}

bool select_movzx(const struct decode *d, struct insn *insn)
{
	return select_widening(d, insn, movzx_table);
}

bool select_movsx(const struct decode *d, struct insn *insn)
{
	return select_widening(d, insn, movsx_table);
}

/*
 * MOVSXD without REX.W moves 32 or 16 bits without extending. With 16, AMD's still reads 32 (APM vol. 3, "MOVSXD"),
 * Intel's has a source of 16 (SDM vol. 2): what lies behind it cannot fault.
 */
bool select_movsxd(const struct decode *d, struct insn *insn)
{
	bool narrow = operand_size(d, 0) == 2 && !cpu_is_amd(d->cpu);
	if (narrow || operand_size(d, 0) == operand_size(d, 1))
		return select_form(d, insn, mov_forms);
	return select_widening(d, insn, movsx_table);
}

/* --- XCHG, BSWAP --- */

#define XCHG_FORMS(bits)                                                                                               \
	static void xchg##bits##_rr(struct cpu *cpu, const struct insn *insn)                                          \
	{                                                                                                              \
		u##bits d = get_dst##bits(cpu, insn), s = get_src##bits(cpu, insn);                                    \
		set_dst##bits(cpu, insn, s);                                                                           \
		set_src##bits(cpu, insn, d);                                                                           \
	}                                                                                                              \
	/* With memory it locks, prefix or not. */                                                                     \
	static void xchg##bits##_mr(struct cpu *cpu, const struct insn *insn)                                          \
	{                                                                                                              \
		u64 copy, linear = access_linear(cpu, insn, bits / 8, MMU_WRITE);                                      \
		u8 *p = lock_begin##bits(cpu, linear, &copy);                                                          \
		u##bits old = __atomic_exchange_n((u##bits *)p, get_src##bits(cpu, insn), __ATOMIC_SEQ_CST);           \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		set_src##bits(cpu, insn, old);                                                                         \
	}
XCHG_FORMS(8)
XCHG_FORMS(16)
XCHG_FORMS(32)
XCHG_FORMS(64)

static form_table xchg_forms = {
	[FORM_RR] = { xchg8_rr, xchg16_rr, xchg32_rr, xchg64_rr },
	[FORM_MR] = { xchg8_mr, xchg16_mr, xchg32_mr, xchg64_mr },
	[FORM_LMR] = { xchg8_mr, xchg16_mr, xchg32_mr, xchg64_mr },
};

bool select_xchg(const struct decode *d, struct insn *insn)
{
	return select_form(d, insn, xchg_forms);
}

/* Undefined with 16 bits: whatever the host does. */
static void bswap16_r(struct cpu *cpu, const struct insn *insn)
{
	u32 v = get_dst32(cpu, insn);
	asm(".byte 0x66\n\tbswap %[v]" : [v] "+a"(v));
	set_dst16(cpu, insn, (u16)v);
}

static void bswap32_r(struct cpu *cpu, const struct insn *insn)
{
	set_dst32(cpu, insn, __builtin_bswap32(get_dst32(cpu, insn)));
}

static void bswap64_r(struct cpu *cpu, const struct insn *insn)
{
	set_dst64(cpu, insn, __builtin_bswap64(get_dst64(cpu, insn)));
}

static form_table bswap_forms = { [FORM_R] = { NULL, bswap16_r, bswap32_r, bswap64_r } };

bool select_bswap(const struct decode *d, struct insn *insn)
{
	return select_form(d, insn, bswap_forms);
}

/* --- CMOVcc, SETcc --- */

/* The memory operand is read, and a 32-bit destination's upper half cleared, whether the condition holds or not. */
#define CMOV_FORMS(code, cc, bits)                                                                                     \
	static void cmov##cc##bits##_rr(struct cpu *cpu, const struct insn *insn)                                      \
	{                                                                                                              \
		u##bits s = get_src##bits(cpu, insn), d = get_dst##bits(cpu, insn);                                    \
		set_dst##bits(cpu, insn, cpu_condition(cpu, code) ? s : d);                                            \
	}                                                                                                              \
	static void cmov##cc##bits##_rm(struct cpu *cpu, const struct insn *insn)                                      \
	{                                                                                                              \
		u##bits s = get_mem##bits(cpu, insn), d = get_dst##bits(cpu, insn);                                    \
		set_dst##bits(cpu, insn, cpu_condition(cpu, code) ? s : d);                                            \
	}

#define CONDITIONAL(code, cc)                                                                                          \
	CMOV_FORMS(code, cc, 16)                                                                                       \
	CMOV_FORMS(code, cc, 32)                                                                                       \
	CMOV_FORMS(code, cc, 64)                                                                                       \
	static form_table cmov##cc##_forms = {                                                                         \
		[FORM_RR] = { NULL, cmov##cc##16_rr, cmov##cc##32_rr, cmov##cc##64_rr },                               \
		[FORM_RM] = { NULL, cmov##cc##16_rm, cmov##cc##32_rm, cmov##cc##64_rm },                               \
	};                                                                                                             \
	bool select_cmov##cc(const struct decode *d, struct insn *insn)                                                \
	{                                                                                                              \
		return select_form(d, insn, cmov##cc##_forms);                                                         \
	}                                                                                                              \
	static void set##cc##_r(struct cpu *cpu, const struct insn *insn)                                              \
	{                                                                                                              \
		set_dst8(cpu, insn, cpu_condition(cpu, code));                                                         \
	}                                                                                                              \
	static void set##cc##_m(struct cpu *cpu, const struct insn *insn)                                              \
	{                                                                                                              \
		set_mem8(cpu, insn, cpu_condition(cpu, code));                                                         \
	}                                                                                                              \
	bool select_set##cc(const struct decode *d, struct insn *insn)                                                 \
	{                                                                                                              \
		insn->exec = operand_is(d, 0, OPERAND_MEM) ? set##cc##_m : set##cc##_r;                                \
		return true;                                                                                           \
	}
CONDITIONS(CONDITIONAL)

/* --- LEA, XLAT --- */

static void lea16(struct cpu *cpu, const struct insn *insn)
{
	set_dst16(cpu, insn, (u16)insn_ea(cpu, insn));
}

static void lea32(struct cpu *cpu, const struct insn *insn)
{
	set_dst32(cpu, insn, (u32)insn_ea(cpu, insn));
}

static void lea64(struct cpu *cpu, const struct insn *insn)
{
	set_dst64(cpu, insn, insn_ea(cpu, insn));
}

static form_table lea_forms = { [FORM_RM] = { NULL, lea16, lea32, lea64 } };

bool select_lea(const struct decode *d, struct insn *insn)
{
	return select_form(d, insn, lea_forms);
}

/* Its operand is [rBX + AL]: base is filled in, AL is added here, within the address size. */
static void exec_xlat(struct cpu *cpu, const struct insn *insn)
{
	u64 offset = (cpu->reg[RBX] + (u8)cpu->reg[RAX]) & size_mask(insn->adsize);
	u64 linear = access_offset_linear(cpu, insn, offset, 1, MMU_READ);
	reg_set8(cpu, RAX, mem_read8(cpu, linear));
}

bool select_xlat(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_xlat;
	return true;
}
