/*
 * From bytes to struct insn: Zydis decodes, the generic operand fields are filled, the row's `select` chooses the
 * handler, and rows that need it get the privilege and intercept wrapper.
 */
#include "cpu/block_cache.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"
#include "cpu/operand.h"
#include "x86/feature.h"

#include <assert.h>
#include <errno.h>

void insn_exec_undefined(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise(cpu, VEC_UD);
}

/* Decodes, but has no row: the guest uses something that no CPUID bit of ours promised, or that we forgot. */
static void exec_unimplemented(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise_unimplemented(cpu);
}

static void exec_too_long(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise_gp(cpu);
}

/* Above ring 0, virtual-8086 mode included; PRIV_OSXSAVE in ring 0 too. */
static void check_privilege(struct cpu *cpu, unsigned privilege)
{
	switch (privilege) {
	case PRIV_OSXSAVE:
		if (!(cpu->cr4 & CR4_OSXSAVE))
			cpu_raise(cpu, VEC_UD);
		if (cpu->cpl == 0)
			return;
		break;
	case PRIV_CPL0_UD:
		cpu_raise(cpu, VEC_UD);
	case PRIV_TSC:
		if (!(cpu->cr4 & CR4_TSD))
			return;
		break;
	case PRIV_PMC:
		if (cpu->cr4 & CR4_PCE)
			return;
		break;
	case PRIV_CPL0:
		break;
	default:
		return;
	}
	cpu_raise_gp(cpu);
}

/* What hv must be asked about before the instruction runs in non-root operation; -1: nothing. */
static int row_exit(const struct cpu *cpu, const struct insn_row *row)
{
	return cpu_is_amd(cpu) ? row->svm_exit : row->vmx_exit;
}

void insn_exec_checked(struct cpu *cpu, const struct insn *insn)
{
	const struct insn_row *row = insn_row(insn);
	if (cpu->cpl != 0 || row->privilege == PRIV_OSXSAVE)
		check_privilege(cpu, row->privilege);
	if (cpu->non_root && row_exit(cpu, row) >= 0)
		cpu->hv->instruction(cpu, insn);
	insn->inner(cpu, insn);
}

unsigned gpr_slot(ZydisRegister reg, bool *high)
{
	*high = false;
	if (reg >= ZYDIS_REGISTER_RAX && reg <= ZYDIS_REGISTER_R15)
		return reg - ZYDIS_REGISTER_RAX;
	if (reg >= ZYDIS_REGISTER_EAX && reg <= ZYDIS_REGISTER_R15D)
		return reg - ZYDIS_REGISTER_EAX;
	if (reg >= ZYDIS_REGISTER_AX && reg <= ZYDIS_REGISTER_R15W)
		return reg - ZYDIS_REGISTER_AX;
	/* AL CL DL BL, AH CH DH BH, SPL BPL SIL DIL, R8B to R15B. */
	unsigned n = reg - ZYDIS_REGISTER_AL;
	if (n < 4)
		return n;
	*high = n < 8;
	return n - 4;
}

static bool is_gpr(ZydisRegister reg)
{
	return reg >= ZYDIS_REGISTER_AL && reg <= ZYDIS_REGISTER_R15;
}

/* Register number of a register operand: GPR slot, segment, or the number in its class. */
static u8 register_number(ZydisRegister reg, bool *high)
{
	*high = false;
	if (is_gpr(reg))
		return (u8)gpr_slot(reg, high);
	if (reg >= ZYDIS_REGISTER_ES && reg <= ZYDIS_REGISTER_GS)
		return (u8)(reg - ZYDIS_REGISTER_ES);
	ZyanI8 id = ZydisRegisterGetId(reg);
	return id < 0 ? 0 : (u8)id;
}

static u8 address_slot(ZydisRegister reg)
{
	bool high;
	if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
		return REG_RIP;
	return is_gpr(reg) ? (u8)gpr_slot(reg, &high) : REG_ZERO;
}

/* Does an access through `seg` need segment checks in this mode? Writing through CS is never allowed, so CS always. */
static bool segment_is_flat(u32 mode_key, enum seg seg)
{
	if (mode_key & MODE_CODE64)
		return true;
	return (mode_key & MODE_FLAT) && (seg == SEG_DS || seg == SEG_ES || seg == SEG_SS);
}

void insn_set_segment(u32 mode_key, struct insn *insn, enum seg seg)
{
	insn->seg = (u8)seg;
	insn->flags &= (u8)~INSN_LEGACY;
	if (!segment_is_flat(mode_key, seg))
		insn->flags |= INSN_LEGACY;
	else if (seg != SEG_FS && seg != SEG_GS)
		insn->seg = SEG_FLAT;
}

static void fill_memory(const struct decode *d, struct insn *insn, const ZydisDecodedOperand *op)
{
	if (insn->flags & INSN_MEM)
		return;
	insn->flags |= INSN_MEM;
	insn->base = address_slot(op->mem.base);
	insn->index = address_slot(op->mem.index);
	insn->scale = op->mem.scale ? (u8)__builtin_ctz(op->mem.scale) : 0;
	insn->disp = (i32)op->mem.disp.value;
	/* Zydis 4.0 names a base for [disp32] through a SIB byte if REX.B and a 67h prefix are there. */
	if (d->zi->raw.sib.offset && d->zi->raw.sib.base == 5 && d->zi->raw.modrm.mod == 0) {
		insn->base = REG_ZERO;
		insn->disp = (i32)d->zi->raw.disp.value;
	}
	enum seg seg = SEG_DS;
	if (op->mem.segment >= ZYDIS_REGISTER_ES && op->mem.segment <= ZYDIS_REGISTER_GS)
		seg = (enum seg)(op->mem.segment - ZYDIS_REGISTER_ES);
	insn_set_segment(d->mode_key, insn, seg);
}

static void fill_operands(const struct decode *d, struct insn *insn)
{
	unsigned immediates = 0;

	for (unsigned i = 0; i < d->zi->operand_count; i++) {
		const ZydisDecodedOperand *op = &d->op[i];
		bool high;
		switch (op->type) {
		case ZYDIS_OPERAND_TYPE_REGISTER:
			if (i > 1 || i >= d->zi->operand_count_visible)
				break;
			*(i == 0 ? &insn->dst : &insn->src) = register_number(op->reg.value, &high);
			if (high)
				insn->flags |= i == 0 ? INSN_HIGH_DST : INSN_HIGH_SRC;
			break;
		case ZYDIS_OPERAND_TYPE_MEMORY:
			fill_memory(d, insn, op);
			break;
		case ZYDIS_OPERAND_TYPE_POINTER:
			insn->imm = op->ptr.offset;
			insn->imm2 = op->ptr.segment;
			break;
		case ZYDIS_OPERAND_TYPE_IMMEDIATE: {
			/* Implicit ones (shift by 1) have no bytes; the others are sign-extended, whatever they mean.
			 */
			unsigned bits = immediates < 2 ? d->zi->raw.imm[immediates].size : 0;
			u64 v = bits ? sign_extend(op->imm.value.u, bits) : op->imm.value.u;
			if (immediates++ == 0)
				insn->imm = v;
			else
				insn->imm2 = (u16)v;
			break;
		}
		default:
			break;
		}
	}
}

static void fill_prefixes(const struct decode *d, struct insn *insn)
{
	if (d->zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		insn->flags |= INSN_LOCK;
	/* The last of F2 and F3 counts. */
	for (unsigned i = 0; i < d->zi->raw.prefix_count; i++) {
		u8 p = d->zi->raw.prefixes[i].value;
		if (p == 0xf3 || p == 0xf2) {
			insn->flags &= (u8) ~(INSN_REP | INSN_REPNE);
			insn->flags |= p == 0xf3 ? INSN_REP : INSN_REPNE;
		}
	}
}

static bool has_feature(const struct cpu *cpu, unsigned feature)
{
	return feature == FEATURE_BASE || cpu_has(cpu, feature);
}

static void make_undefined(struct insn *insn, insn_fn exec)
{
	insn->exec = exec;
	insn->flags |= INSN_ENDS;
}

/* Encodings of Knights Corner, to which Zydis gives names of ours (VEX TZCNT, POPCNT). */
static bool is_foreign(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_KNCE:
	case ZYDIS_ISA_SET_KNCJKBR:
	case ZYDIS_ISA_SET_KNCSTREAM:
	case ZYDIS_ISA_SET_KNCV:
	case ZYDIS_ISA_SET_KNC_MISC:
	case ZYDIS_ISA_SET_KNC_PF_HINT:
		return true;
	default:
		return false;
	}
}

/* VEX and its successors do not exist in real and virtual-8086 mode (SDM vol. 2, 2.3). */
static bool encoding_exists(const struct decode *d)
{
	return d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY || !(d->mode_key & (MODE_REAL | MODE_V86));
}

/* Finds the row and its handler; wraps it where privilege or intercepts ask for it. */
static void choose_handler(const struct decode *d, struct insn *insn)
{
	const struct insn_row *row = insn_row_find(d->zi->mnemonic);
	insn->mnemonic = row ? (u16)d->zi->mnemonic : 0;
	if (is_foreign(d->zi)) {
		make_undefined(insn, insn_exec_undefined);
		return;
	}
	if (!row) {
		make_undefined(insn, exec_unimplemented);
		return;
	}
	if (!has_feature(d->cpu, row->feature) || !encoding_exists(d) ||
	    (row->privilege == PRIV_PROTECTED && (d->mode_key & (MODE_REAL | MODE_V86))) || !row->select(d, insn)) {
		make_undefined(insn, insn_exec_undefined);
		return;
	}
	if (unlikely(d->mode_key & MODE_BOUNDS))
		bounds_wrap_branch(d, insn);
	bool privileged = row->privilege != PRIV_ANY && row->privilege != PRIV_PROTECTED && !(d->mode_key & MODE_REAL);
	bool intercepted = (d->mode_key & MODE_NON_ROOT) && row_exit(d->cpu, row) >= 0;
	if (privileged || intercepted) {
		assert(!insn->stub);
		insn->inner = insn->exec;
		insn->exec = insn_exec_checked;
	}
}

int decoders_init(struct cpu *cpu, struct decoders *decoders)
{
	static const struct {
		ZydisMachineMode machine;
		ZydisStackWidth stack;
	} modes[DECODER_COUNT] = {
		[DECODER_16] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[DECODER_32] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[DECODER_64] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
		[DECODER_16_BOUNDS] = { ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16 },
		[DECODER_32_BOUNDS] = { ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32 },
		[DECODER_64_BOUNDS] = { ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64 },
	};

	for (unsigned i = 0; i < DECODER_COUNT; i++) {
		ZydisDecoder *z = &decoders->mode[i];
		if (!ZYAN_SUCCESS(ZydisDecoderInit(z, modes[i].machine, modes[i].stack)))
			return -ENOTSUP;
		/* Encodings that are NOPs, or BSF and BSR, on a CPU without the extension. */
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_MPX, i >= DECODER_16_BOUNDS);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_AMD_BRANCHES, cpu_is_amd(cpu));
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_LZCNT, has_feature(cpu, FEATURE_LZCNT));
		ZydisDecoderEnableMode(z, ZYDIS_DECODER_MODE_TZCNT, has_feature(cpu, FEATURE_BMI1));
	}
	return 0;
}

static const ZydisDecoder *decoder_of(const struct cpu *cpu, u32 mode_key)
{
	const struct decoders *all = &cpu->blocks->decoders;
	unsigned bounds = mode_key & MODE_BOUNDS ? DECODER_16_BOUNDS : 0;
	if (mode_key & MODE_CODE64)
		return &all->mode[DECODER_64 + bounds];
	return &all->mode[(mode_key & MODE_CODE32 ? DECODER_32 : DECODER_16) + bounds];
}

/*
 * F3 90 is PAUSE. With REX.B it stays that for Intel (SDM vol. 2, "PAUSE", which names no register that REX.B could
 * extend); for AMD it is XCHG of RAX and R8 with a prefix that means nothing.
 */
static void refine_pause(const struct cpu *cpu, ZydisDecodedInstruction *zi, ZydisDecodedOperand *op)
{
	bool wide = zi->raw.rex.W, narrow = !wide && zi->attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE;
	if (zi->mnemonic != ZYDIS_MNEMONIC_PAUSE || !zi->raw.rex.B || !cpu_is_amd(cpu))
		return;
	zi->mnemonic = ZYDIS_MNEMONIC_XCHG;
	zi->operand_count = zi->operand_count_visible = 2;
	memset(op, 0, 2 * sizeof(*op));
	op[0].type = op[1].type = ZYDIS_OPERAND_TYPE_REGISTER;
	op[0].size = op[1].size = wide ? 64 : narrow ? 16 : 32;
	op[0].reg.value = wide ? ZYDIS_REGISTER_RAX : narrow ? ZYDIS_REGISTER_AX : ZYDIS_REGISTER_EAX;
	op[1].reg.value = wide ? ZYDIS_REGISTER_R8 : narrow ? ZYDIS_REGISTER_R8W : ZYDIS_REGISTER_R8D;
}

/* AMD's prefetches of a register are undefined (APM vol. 3, PREFETCHx); Intel's opcode does nothing then. */
static bool amd_prefetches_register(const struct cpu *cpu, const ZydisDecodedInstruction *zi)
{
	return zi->opcode_map == ZYDIS_OPCODE_MAP_0F && zi->opcode == 0x0d && zi->raw.modrm.mod == 3 && cpu_is_amd(cpu);
}

bool insn_decode(struct cpu *cpu, u32 mode_key, const u8 *bytes, size_t available, struct insn *insn)
{
	const ZydisDecoder *decoder = decoder_of(cpu, mode_key);
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecoderContext context;

	*insn = (struct insn){ .base = REG_ZERO, .index = REG_ZERO, .seg = SEG_FLAT };
	if (available > 15)
		available = 15;
	ZyanStatus status = ZydisDecoderDecodeInstruction(decoder, &context, bytes, available, &zi);
	if (ZYAN_SUCCESS(status))
		status = ZydisDecoderDecodeOperands(decoder, &context, &zi, op, zi.operand_count);
	if (!ZYAN_SUCCESS(status)) {
		bool truncated = status == ZYDIS_STATUS_NO_MORE_DATA;
		if (truncated && available < 15)
			return false;
		insn->length = 1;
		make_undefined(insn, truncated || status == ZYDIS_STATUS_INSTRUCTION_TOO_LONG ? exec_too_long
											      : insn_exec_undefined);
		return true;
	}

	refine_pause(cpu, &zi, op);
	struct decode d = { .zi = &zi, .op = op, .bytes = bytes, .cpu = cpu, .mode_key = mode_key };
	insn->length = zi.length;
	insn->opsize = (u8)(zi.operand_width / 8);
	insn->adsize = (u8)(zi.address_width / 8);
	fill_prefixes(&d, insn);
	fill_operands(&d, insn);
	if (unlikely(amd_prefetches_register(cpu, &zi)))
		make_undefined(insn, insn_exec_undefined);
	else
		choose_handler(&d, insn);
	return true;
}
