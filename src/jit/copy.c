/*
 * Instructions that keep their own opcode and get other registers, which are most of all; and MOV and LEA of what has
 * no such form.
 */
#include "jit/translation.h"

struct operand {
	const ZydisDecodedOperand *op;
	unsigned guest;
	unsigned host;
	bool high;
};

/* Does the instruction need the register's old value? Writing 32 or 64 bits always leaves nothing of it. */
static bool needs_old(const struct plan *p, const ZydisDecodedOperand *op)
{
	/* Without a bit set in the source these leave their destination alone. */
	if (p->zi.mnemonic == ZYDIS_MNEMONIC_BSF || p->zi.mnemonic == ZYDIS_MNEMONIC_BSR)
		return true;
	return op->size < 32 || op->actions != ZYDIS_OPERAND_ACTION_WRITE;
}

/* A register operand: finds or loads its host register. */
static void take_operand(struct translation *t, const struct plan *p, unsigned encoding, unsigned temporary,
			 struct operand *o)
{
	*o = (struct operand){ 0 };
	for (unsigned i = 0; i < p->zi.operand_count; i++)
		if (p->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER && p->op[i].encoding == encoding)
			o->op = &p->op[i];
	if (!o->op)
		return;
	o->guest = jit_gpr_number(o->op);
	o->high = jit_is_high_byte(o->op->reg.value);
	o->host = t->host[o->guest];
	if (o->host == HOST_NONE)
		o->host = temporary;
}

bool uses_temporary(const struct translation *t, const struct plan *p)
{
	for (u16 named = p->named; named; named &= (u16)(named - 1))
		if (t->host[__builtin_ctz(named)] == HOST_NONE)
			return true;
	return false;
}

static void load_operand(struct translation *t, const struct plan *p, const struct operand *o)
{
	if (o->op && t->host[o->guest] == HOST_NONE && needs_old(p, o->op))
		emit_load(&t->e, o->host, HOST_CPU, guest_offset(o->guest));
}

static void store_operand(struct translation *t, const struct operand *o)
{
	if (o->op && t->host[o->guest] == HOST_NONE && (o->op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
		emit_store(&t->e, o->host, HOST_CPU, guest_offset(o->guest));
}

static unsigned encoded(const struct operand *o)
{
	return o->high ? o->host + 4 : o->host;
}

static bool needs_rex(const struct operand *o)
{
	return o->op && o->op->size == 8 && !o->high && o->host >= 4;
}

static struct opcode copied_opcode(const struct plan *p)
{
	return (struct opcode){
		.byte = p->zi.opcode,
		.map = (u8)p->zi.opcode_map,
		.mandatory = p->insn->flags & INSN_REP ? 0xf3 : 0,
		.operand16 = p->zi.attributes & ZYDIS_ATTRIB_HAS_OPERANDSIZE,
		.wide = p->zi.raw.rex.W,
		.lock = p->insn->flags & INSN_LOCK,
	};
}

void emit_immediates(struct translation *t, const struct plan *p)
{
	for (unsigned i = 0; i < 2; i++)
		for (unsigned n = 0; n < p->zi.raw.imm[i].size / 8u; n++)
			emit8(&t->e, p->bytes[p->zi.raw.imm[i].offset + n]);
}

/*
 * May the instruction use a guest register where it lives in memory, instead of ModRM.rm's register? Not where that
 * would leave bits 63..32 alone, or where memory means more than a register does.
 */
static bool fits_in_memory(const struct translation *t, const struct plan *p, const struct operand *rm)
{
	bool written = rm->op && rm->op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	if (p->memory || !rm->op || t->host[rm->guest] != HOST_NONE || (written && rm->op->size == 32))
		return false;
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_XCHG: /* a lock */
	case ZYDIS_MNEMONIC_XADD:
	case ZYDIS_MNEMONIC_CMPXCHG:
	case ZYDIS_MNEMONIC_BT: /* a string of bits */
	case ZYDIS_MNEMONIC_BTC:
	case ZYDIS_MNEMONIC_BTR:
	case ZYDIS_MNEMONIC_BTS:
		return false;
	default:
		return true;
	}
}

/* XCHG of a register's low byte and its high one; changes no flag. */
static void emit_swap(struct translation *t, const struct operand *o)
{
	emit_rr(&t->e, (struct opcode){ .byte = 0x86 }, o->host, o->host + 4);
}

void translate_copy(struct translation *t, const struct plan *p)
{
	struct operand reg, rm, low;
	struct place_in_memory m = { 0 };
	bool memory = p->memory && !p->known;
	if (memory)
		m = emit_place(t, p);
	if (p->reads_flags)
		need_host_flags(t);
	take_operand(t, p, ZYDIS_OPERAND_ENCODING_MODRM_REG, memory ? HOST_T2 : HOST_T1, &reg);
	take_operand(t, p, ZYDIS_OPERAND_ENCODING_MODRM_RM, HOST_T2, &rm);
	take_operand(t, p, ZYDIS_OPERAND_ENCODING_OPCODE, HOST_T1, &low);
	bool in_memory = fits_in_memory(t, p, &rm);
	/* One register twice is one temporary. */
	if (reg.op && rm.op && reg.guest == rm.guest)
		rm.host = reg.host;
	load_operand(t, p, &reg);
	if (!in_memory)
		load_operand(t, p, &rm);
	load_operand(t, p, &low);
	if (p->swaps) {
		emit_swap(t, &reg);
		reg.high = false;
	}
	struct opcode op = copied_opcode(p);
	op.byte_registers = needs_rex(&reg) || (!in_memory && needs_rex(&rm)) || needs_rex(&low);
	if (p->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		unsigned r = reg.op ? encoded(&reg) : p->zi.raw.modrm.reg;
		if (p->known)
			emit_rr(&t->e, op, r, t->host[p->known - 1]);
		else if (memory)
			emit_rm(&t->e, op, r, m.base, m.index, m.scale, m.disp);
		else if (in_memory)
			emit_rm(&t->e, op, r, HOST_CPU, HOST_NONE, 0, guest_offset(rm.guest));
		else
			emit_rr(&t->e, op, r, encoded(&rm));
	} else {
		if (low.op)
			op.byte &= 0xf8;
		emit_o(&t->e, op, low.op ? encoded(&low) : HOST_NONE);
	}
	emit_immediates(t, p);
	if (p->swaps)
		emit_swap(t, &reg);
	if (p->writes_flags)
		t->flags = IN_HOST;
	store_operand(t, &reg);
	if (!in_memory)
		store_operand(t, &rm);
	store_operand(t, &low);
}

void translate_lea(struct translation *t, const struct plan *p)
{
	unsigned guest = jit_gpr_number(&p->op[0]), host = t->host[guest];
	unsigned to = host == HOST_NONE ? HOST_T0 : host;
	emit_address(t, p, to, p->insn->opsize == 8);
	if (host == HOST_NONE)
		emit_store(&t->e, to, HOST_CPU, guest_offset(guest));
}

void translate_selector(struct translation *t, const struct plan *p)
{
	unsigned guest = jit_gpr_number(&p->op[0]), host = t->host[guest];
	unsigned to = host == HOST_NONE ? HOST_T0 : host, seg = (unsigned)ZydisRegisterGetId(p->op[1].reg.value);
	emit_rm(&t->e, (struct opcode){ .byte = 0xb7, .map = 1 }, to, HOST_CPU, HOST_NONE, 0,
		(i32)(offsetof(struct cpu, seg) + sizeof(struct segment) * seg + offsetof(struct segment, selector)));
	if (host == HOST_NONE)
		emit_store(&t->e, to, HOST_CPU, guest_offset(guest));
}
