/*
 * Which instructions are re-encoded (reencode.c): those of the vector units, and the integer ones with VEX or mandatory
 * prefixes. The rows of the instruction table say what the host may execute as it is; here the exceptions are taken
 * out again: MMX registers, memory that no operand shows, and forms whose registers cannot be renumbered.
 */
#include "jit/internal.h"

#include "cpu/native.h"
#include "x86/host.h"

#include <cpuid.h>

/* --- the host --- */

/* Integer instructions that guests have on every host, but only some hosts execute. */
u32 jit_host_features(void)
{
	static const struct {
		enum feature feature;
		u32 bit;
	} rows[] = {
		{ FEATURE_POPCNT, HOST_POPCNT }, { FEATURE_LZCNT, HOST_LZCNT }, { FEATURE_BMI1, HOST_BMI1 },
		{ FEATURE_BMI2, HOST_BMI2 },     { FEATURE_ADX, HOST_ADX },     { FEATURE_MOVBE, HOST_MOVBE },
		{ FEATURE_CX16, HOST_CX16 },
	};
	u32 features = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
		features |= host_has(rows[i].feature) ? rows[i].bit : 0;
	u32 a, b, c, d;
	if (host_has(FEATURE_XSAVE) && __get_cpuid(1, &a, &b, &c, &d) && c & bit_OSXSAVE)
		features |= HOST_XSAVE;
	return features;
}

bool jit_host_executes(const struct jit *jit, const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_POPCNT:
		return jit->host & HOST_POPCNT;
	case ZYDIS_MNEMONIC_LZCNT:
		return jit->host & HOST_LZCNT;
	case ZYDIS_MNEMONIC_TZCNT:
		return jit->host & HOST_BMI1;
	default:
		break;
	}
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_BMI1:
		return jit->host & HOST_BMI1;
	case ZYDIS_ISA_SET_BMI2:
		return jit->host & HOST_BMI2;
	case ZYDIS_ISA_SET_ADOX_ADCX:
		return jit->host & HOST_ADX;
	case ZYDIS_ISA_SET_MOVBE:
		return jit->host & HOST_MOVBE;
	case ZYDIS_ISA_SET_CMPXCHG16B:
		return jit->host & HOST_CX16;
	default:
		return true;
	}
}

/* --- instructions --- */

static bool is_vector(const struct plan *p)
{
	bool (*select)(const struct decode *d, struct insn *insn) = insn_row(p->insn)->select;
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_MOVSD: /* rows of the string instructions */
	case ZYDIS_MNEMONIC_CMPSD:
		return p->zi.meta.isa_set == ZYDIS_ISA_SET_SSE2;
	default:
		return select == native_select || select == vzero_select;
	}
}

static bool is_integer(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_ADCX:
	case ZYDIS_MNEMONIC_ADOX:
	case ZYDIS_MNEMONIC_ANDN:
	case ZYDIS_MNEMONIC_BEXTR:
	case ZYDIS_MNEMONIC_BLSI:
	case ZYDIS_MNEMONIC_BLSMSK:
	case ZYDIS_MNEMONIC_BLSR:
	case ZYDIS_MNEMONIC_BZHI:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CRC32:
	case ZYDIS_MNEMONIC_MOVBE:
	case ZYDIS_MNEMONIC_MOVNTI:
	case ZYDIS_MNEMONIC_MULX:
	case ZYDIS_MNEMONIC_PDEP:
	case ZYDIS_MNEMONIC_PEXT:
	case ZYDIS_MNEMONIC_RORX:
	case ZYDIS_MNEMONIC_SARX:
	case ZYDIS_MNEMONIC_SHLX:
	case ZYDIS_MNEMONIC_SHRX:
	case ZYDIS_MNEMONIC_LFENCE:
	case ZYDIS_MNEMONIC_MFENCE:
	case ZYDIS_MNEMONIC_SFENCE:
		return true;
	default:
		return false;
	}
}

/* --- operands --- */

static bool register_fits(struct plan *p, const ZydisDecodedOperand *op)
{
	bool numbered = op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG ||
			op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM ||
			op->encoding == ZYDIS_OPERAND_ENCODING_NDSNDD;
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_FLAGS:
		return true;
	case ZYDIS_REGCLASS_YMM:
		p->vectors = VECTORS_UPPER;
		return true;
	case ZYDIS_REGCLASS_XMM:
		return true;
	case ZYDIS_REGCLASS_GPR8:
		if (jit_is_high_byte(op->reg.value))
			return false;
		/* fallthrough */
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64: {
		unsigned guest = jit_gpr_number(op);
		/* Implicit ones stay where they are: their number must be the host's. */
		return numbered || host_register[guest] == guest;
	}
	case ZYDIS_REGCLASS_X87:
		return true;
	default: /* these are the guest's while its registers are loaded */
		return op->reg.value == ZYDIS_REGISTER_MXCSR || op->reg.value == ZYDIS_REGISTER_X87STATUS ||
		       op->reg.value == ZYDIS_REGISTER_X87CONTROL || op->reg.value == ZYDIS_REGISTER_X87TAG;
	}
}

static bool memory_fits(struct plan *p, const ZydisDecodedOperand *op)
{
	if (p->memory || op->visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT || op->mem.type != ZYDIS_MEMOP_TYPE_MEM ||
	    op->size > 256 || !jit_plan_address(p, op))
		return false;
	p->memory = true;
	p->memory_size = (u8)(op->size / 8);
	p->memory_write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	return true;
}

static bool operands_fit(struct plan *p)
{
	for (unsigned i = 0; i < p->zi.operand_count; i++) {
		const ZydisDecodedOperand *op = &p->op[i];
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY     ? !memory_fits(p, op)
		    : op->type == ZYDIS_OPERAND_TYPE_REGISTER ? !register_fits(p, op)
							      : op->type != ZYDIS_OPERAND_TYPE_IMMEDIATE)
			return false;
	}
	return true;
}

/* The only ones here that may be locked. */
static bool is_exchange(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_CMPXCHG8B || m == ZYDIS_MNEMONIC_CMPXCHG16B;
}

bool jit_plan_reencode(const struct jit *jit, struct plan *p)
{
	bool vex = p->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX, vector = is_vector(p);
	if (!(vector || is_integer(p->zi.mnemonic)) || !jit_host_executes(jit, &p->zi) ||
	    (!vex && p->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY) || p->insn->flags & INSN_ENDS ||
	    (p->insn->flags & INSN_LOCK && !is_exchange(p->zi.mnemonic)))
		return false;
	if (p->zi.mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B)
		p->alignment = 15;
	if (vector) {
		p->vectors = vex ? VECTORS_AVX : VECTORS_SSE;
		p->alignment = p->insn->flags & INSN_MEM ? p->insn->cond : 0;
	}
	if (operands_fit(p))
		return true;
	p->memory = false;
	p->vectors = VECTORS_NONE;
	p->alignment = 0;
	return false;
}

static bool is_x87_control(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_FLDCW:
	case ZYDIS_MNEMONIC_FNCLEX:
	case ZYDIS_MNEMONIC_FNSTCW:
	case ZYDIS_MNEMONIC_FNSTSW:
	case ZYDIS_MNEMONIC_FWAIT:
		return true;
	default:
		return false;
	}
}

bool jit_plan_x87(const struct jit *jit, struct plan *p)
{
	p->x87_pointers = insn_row(p->insn)->select == x87_select;
	if (!(p->x87_pointers || is_x87_control(p->zi.mnemonic)) || !(jit->host & HOST_XSAVE) ||
	    p->zi.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || p->insn->flags & (INSN_LOCK | INSN_ENDS))
		return false;
	if (operands_fit(p))
		return true;
	p->memory = false;
	p->vectors = VECTORS_NONE;
	return false;
}

/* --- where vector registers are wanted --- */

void jit_plan_vectors(struct plan *plan, unsigned count)
{
	u8 wanted = VECTORS_NONE;
	for (unsigned i = count; i-- > 0;) {
		struct plan *p = &plan[i];
		p->vectors_after = wanted;
		if (p->kind == PLAN_HANDLER)
			wanted = VECTORS_NONE;
		else if (p->kind == PLAN_REENCODE && p->vectors > wanted)
			wanted = p->vectors;
		p->vectors_before = wanted;
	}
	bool x87 = false;
	for (unsigned i = count; i-- > 0;) {
		struct plan *p = &plan[i];
		p->x87_after = x87;
		x87 = p->kind == PLAN_X87 || (x87 && p->kind != PLAN_HANDLER);
		p->x87_before = x87;
	}
}
