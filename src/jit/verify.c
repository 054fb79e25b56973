/*
 * The last look at emitted code before it can run: it must decode to nothing but the plain instructions that the
 * translator knows. System calls, far transfers, segment loads, privileged and state-revealing instructions (SYSCALL,
 * INT, CPUID, RDTSC, XRSTOR and the like) are not among them.
 */
#include "jit/loop.h"

/*
 * Vector instructions and their like, by set; without those that reach memory which no operand shows,
 * or only some of it, or change MXCSR as a whole. is_reencoded_right() looks at the operands of the others.
 */
static bool is_reencoded(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ:
	case ZYDIS_MNEMONIC_VMASKMOVPD:
	case ZYDIS_MNEMONIC_VMASKMOVPS:
	case ZYDIS_MNEMONIC_VPMASKMOVD:
	case ZYDIS_MNEMONIC_VPMASKMOVQ:
	case ZYDIS_MNEMONIC_MASKMOVDQU:
	case ZYDIS_MNEMONIC_VMASKMOVDQU:
	case ZYDIS_MNEMONIC_VLDMXCSR:
	case ZYDIS_MNEMONIC_VSTMXCSR:
		return false;
	default:
		break;
	}
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSE4:
	case ZYDIS_ISA_SET_SSE42:
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_AVXAES:
	case ZYDIS_ISA_SET_PCLMULQDQ:
	case ZYDIS_ISA_SET_SHA:
	case ZYDIS_ISA_SET_AVX:
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_FMA:
	case ZYDIS_ISA_SET_F16C:
	case ZYDIS_ISA_SET_BMI1:
	case ZYDIS_ISA_SET_BMI2:
	case ZYDIS_ISA_SET_ADOX_ADCX:
	case ZYDIS_ISA_SET_MOVBE:
		return true;
	default:
		return false;
	}
}

/* x87 instructions, but those that load or store the whole state: it is the host's, too. */
static bool is_x87(const ZydisDecodedInstruction *zi)
{
	if (zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT ||
	    (zi->opcode & 0xf8) != 0xd8)
		return false;
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_FLDENV:
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FRSTOR:
	case ZYDIS_MNEMONIC_FNSAVE:
	case ZYDIS_MNEMONIC_FNINIT:
		return false;
	case ZYDIS_MNEMONIC_FLDCW: /* from struct cpu only, where all exceptions are masked */
		return zi->raw.modrm.rm == (HOST_CPU & 7) && zi->raw.rex.B;
	default:
		return true;
	}
}

static bool is_allowed(const ZydisDecodedInstruction *zi)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_ADC:
	case ZYDIS_MNEMONIC_ADD:
	case ZYDIS_MNEMONIC_AND:
	case ZYDIS_MNEMONIC_BSF:
	case ZYDIS_MNEMONIC_BSR:
	case ZYDIS_MNEMONIC_BSWAP:
	case ZYDIS_MNEMONIC_BT:
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS:
	case ZYDIS_MNEMONIC_CBW:
	case ZYDIS_MNEMONIC_CDQ:
	case ZYDIS_MNEMONIC_CDQE:
	case ZYDIS_MNEMONIC_CLC:
	case ZYDIS_MNEMONIC_CMC:
	case ZYDIS_MNEMONIC_CMP:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_CMPXCHG16B:
	case ZYDIS_MNEMONIC_CMPXCHG8B:
	case ZYDIS_MNEMONIC_CQO:
	case ZYDIS_MNEMONIC_CWD:
	case ZYDIS_MNEMONIC_CWDE:
	case ZYDIS_MNEMONIC_DEC:
	case ZYDIS_MNEMONIC_DIV:
	case ZYDIS_MNEMONIC_IDIV:
	case ZYDIS_MNEMONIC_IMUL:
	case ZYDIS_MNEMONIC_INC:
	case ZYDIS_MNEMONIC_LAHF:
	case ZYDIS_MNEMONIC_LEA:
	case ZYDIS_MNEMONIC_LZCNT:
	case ZYDIS_MNEMONIC_MOV:
	case ZYDIS_MNEMONIC_MOVSX:
	case ZYDIS_MNEMONIC_MOVSXD:
	case ZYDIS_MNEMONIC_MOVZX:
	case ZYDIS_MNEMONIC_MUL:
	case ZYDIS_MNEMONIC_NEG:
	case ZYDIS_MNEMONIC_NOP:
	case ZYDIS_MNEMONIC_NOT:
	case ZYDIS_MNEMONIC_OR:
	case ZYDIS_MNEMONIC_POPCNT:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_SAHF:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SBB:
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_STC:
	case ZYDIS_MNEMONIC_SUB:
	case ZYDIS_MNEMONIC_TEST:
	case ZYDIS_MNEMONIC_TZCNT:
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_XCHG:
	case ZYDIS_MNEMONIC_XOR:
		return true;
	case ZYDIS_MNEMONIC_PUSH: /* of T2: the guest's return address */
		return zi->opcode == (0x50 | (HOST_T2 & 7)) && zi->raw.rex.B;
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_RET:
		return zi->meta.branch_type != ZYDIS_BRANCH_TYPE_FAR;
	default:
		return is_reencoded(zi) || is_x87(zi) || zi->meta.category == ZYDIS_CATEGORY_COND_BR ||
		       zi->meta.category == ZYDIS_CATEGORY_CMOV ||
		       (zi->meta.category == ZYDIS_CATEGORY_SETCC && zi->mnemonic != ZYDIS_MNEMONIC_SETSSBSY);
	}
}

/* Divisions are by T1, which was looked at. */
static bool is_wrong_division(const ZydisDecodedInstruction *zi)
{
	if (zi->mnemonic != ZYDIS_MNEMONIC_DIV && zi->mnemonic != ZYDIS_MNEMONIC_IDIV)
		return false;
	return zi->opcode != 0xf7 || zi->raw.modrm.mod != 3 || (zi->raw.modrm.rm | zi->raw.rex.B << 3) != HOST_T1;
}

/*
 * 8C and 8E, 0F 20 to 0F 23: MOV of segment, control and debug registers. A0 to A3: MOV with an address of its own,
 * which nobody checked.
 */
static bool is_wrong_mov(const ZydisDecodedInstruction *zi)
{
	if (zi->mnemonic != ZYDIS_MNEMONIC_MOV)
		return false;
	if (zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT)
		return zi->opcode == 0x8c || zi->opcode == 0x8e || (zi->opcode & 0xfc) == 0xa0;
	return true;
}

/* BT and its kin with a bit's number in a register reach any address from their operand. */
static bool is_bit_string(const ZydisDecodedInstruction *zi)
{
	bool number_in_register = zi->opcode == 0xa3 || zi->opcode == 0xab || zi->opcode == 0xb3 || zi->opcode == 0xbb;
	return zi->opcode_map == ZYDIS_OPCODE_MAP_0F && number_in_register && zi->raw.modrm.mod != 3;
}

/* Jumps and calls stay in this code or go to a stub; those through memory only to a block's entry. */
static bool is_branch_right(const struct jit *jit, const ZydisDecodedInstruction *zi, const u8 *next, const u8 *code,
			    size_t size)
{
	if (zi->meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
		return true;
	if (zi->mnemonic == ZYDIS_MNEMONIC_RET)
		return zi->opcode == 0xc3;
	if (!zi->raw.imm[0].is_relative)
		return zi->raw.modrm.mod != 3;
	return jit_branch_is_right(jit, next + (i64)zi->raw.imm[0].value.s, code, code + size);
}

/*
 * Memory operands are predictions, or go through a checked address in T0, a TLB entry or block in T1, a link in T2, or
 * to struct cpu: any other base is wrong, but for those beside a group's addend in T1. In stretches, `bases` have
 * addends, or checked addresses, too. LEA computes only.
 */
static bool is_memory_right(const struct jit *jit, const ZydisDecodedInstruction *zi, const u8 *next, u32 bases)
{
	if (!(zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) || zi->raw.modrm.mod == 3 || zi->mnemonic == ZYDIS_MNEMONIC_LEA)
		return true;
	bool sib = zi->attributes & ZYDIS_ATTRIB_HAS_SIB;
	bool vex = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX; /* VEX has these bits inverted */
	unsigned b = vex ? !zi->raw.vex.B : zi->raw.rex.B, x = vex ? !zi->raw.vex.X : zi->raw.rex.X;
	unsigned base = (unsigned)(sib ? zi->raw.sib.base : zi->raw.modrm.rm) | b << 3;
	unsigned index = sib ? zi->raw.sib.index | x << 3 : HOST_RSP;
	bool no_base = zi->raw.modrm.mod == 0 && (base & 7) == 5;
	if (no_base && !sib) /* relative to RIP: read only */
		return (zi->opcode == 0x2b || zi->opcode == 0x3b || zi->opcode == 0x8b) &&
		       zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && zi->operand_width == 64 &&
		       jit_prediction_is_right(jit, next, zi->raw.disp.value);
	if (bases & BIT(base) && !no_base && (index == HOST_RSP || index != HOST_CPU))
		return true;
	if (index != HOST_RSP && bases & BIT(index) && zi->raw.sib.scale == 0 && !no_base && base != HOST_RSP &&
	    base != HOST_CPU)
		return true;
	if (base == HOST_RSP) /* an open call's return address */
		return index == HOST_RSP && zi->mnemonic == ZYDIS_MNEMONIC_CMP && zi->raw.disp.value == 8;
	if (index != HOST_RSP) /* a guest's register and its page's addend */
		return index == HOST_T1 && zi->raw.sib.scale == 0 && !no_base && base != HOST_CPU;
	return !no_base && (base == HOST_CPU || base == HOST_T0 || base == HOST_T1 || base == HOST_T2);
}

/* Nothing of MMX, whose registers are the x87's, and no memory but by ModRM. */
static bool is_reencoded_right(const struct jit *jit, const ZydisDecodedInstruction *zi,
			       const ZydisDecoderContext *context)
{
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	if (!is_reencoded(zi))
		return true;
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeOperands(&jit->verifier, context, zi, op, zi->operand_count)))
		return false;
	for (unsigned i = 0; i < zi->operand_count; i++) {
		if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY &&
		    (op[i].encoding != ZYDIS_OPERAND_ENCODING_MODRM_RM || op[i].mem.type != ZYDIS_MEMOP_TYPE_MEM))
			return false;
		if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(op[i].reg.value) == ZYDIS_REGCLASS_MMX)
			return false;
	}
	return true;
}

unsigned jit_verify_decoded(const struct jit *jit, const u8 *at, const u8 *code, const u8 *end, u32 bases)
{
	ZydisDecodedInstruction zi;
	ZydisDecoderContext context;
	bool right =
		ZYAN_SUCCESS(ZydisDecoderDecodeInstruction(&jit->verifier, &context, at, (size_t)(end - at), &zi)) &&
		is_allowed(&zi) && !is_wrong_mov(&zi) && !is_wrong_division(&zi) && !is_bit_string(&zi) &&
		is_memory_right(jit, &zi, at + zi.length, bases) && is_reencoded_right(jit, &zi, &context) &&
		is_branch_right(jit, &zi, at + zi.length, code, (size_t)(end - code)) &&
		!(zi.attributes & (ZYDIS_ATTRIB_HAS_SEGMENT | ZYDIS_ATTRIB_HAS_ADDRESSSIZE));
	return right ? zi.length : 0;
}

bool jit_verify(const struct jit *jit, const u8 *code, size_t size, const struct loop *loop)
{
	const u8 *end = code + size;
	for (const u8 *at = code; at < end;) {
		u32 bases = loop && at >= loop->start && at < loop->end ? loop_bases(loop) : 0;
		unsigned length = jit_verify_plain(jit, at, code, end);
		if (!length)
			length = jit_verify_decoded(jit, at, code, end, bases);
		if (!length)
			return false;
		at += length;
	}
	return true;
}
