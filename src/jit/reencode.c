/*
 * Instructions that are emitted with their own prefixes and opcode, but other registers and another place in memory:
 * vector instructions, legacy and VEX, and integer ones of these shapes. Vector registers keep their numbers, for the
 * guest's are loaded (vectors.c); general ones are renumbered, or live in temporaries for the time of the instruction.
 */
#include "jit/translation.h"

#include "base/trace.h"

/* A general register that ModRM.reg, ModRM.rm or VEX.vvvv names. `op` NULL: there is none. */
struct place {
	const ZydisDecodedOperand *op;
	unsigned guest, host;
};

struct places {
	struct place reg, rm, vvvv;
};

static struct place find_place(const struct translation *t, const struct plan *p, unsigned encoding, unsigned temporary)
{
	for (unsigned i = 0; i < p->zi.operand_count; i++) {
		const ZydisDecodedOperand *op = &p->op[i];
		if (op->encoding != encoding || !jit_is_gpr(op))
			continue;
		unsigned guest = jit_gpr_number(op), host = t->host[guest];
		return (struct place){ .op = op, .guest = guest, .host = host == HOST_NONE ? temporary : host };
	}
	return (struct place){ 0 };
}

static void load_place(struct translation *t, const struct place *place)
{
	if (!place->op || t->host[place->guest] != HOST_NONE)
		return;
	/* Writing 32 or 64 bits leaves nothing of the old value. */
	if (place->op->size < 32 || place->op->actions != ZYDIS_OPERAND_ACTION_WRITE)
		emit_load(&t->e, place->host, HOST_CPU, guest_offset(place->guest));
}

static void store_place(struct translation *t, const struct place *place)
{
	if (place->op && t->host[place->guest] == HOST_NONE && place->op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)
		emit_store(&t->e, place->host, HOST_CPU, guest_offset(place->guest));
}

static struct places take_places(struct translation *t, const struct plan *p)
{
	struct places at = {
		.reg = find_place(t, p, ZYDIS_OPERAND_ENCODING_MODRM_REG, HOST_T1),
		.rm = find_place(t, p, ZYDIS_OPERAND_ENCODING_MODRM_RM, HOST_T0),
		.vvvv = find_place(t, p, ZYDIS_OPERAND_ENCODING_NDSNDD, HOST_T2),
	};
	/* MULX may write one register twice; which value stays is its business. */
	if (at.reg.op && at.vvvv.op && at.reg.guest == at.vvvv.guest)
		at.vvvv.host = at.reg.host;
	load_place(t, &at.reg);
	load_place(t, &at.rm);
	load_place(t, &at.vvvv);
	return at;
}

/* --- prefixes and opcode --- */

static unsigned map_of(const struct plan *p)
{
	return p->zi.opcode_map; /* Zydis numbers the legacy maps as VEX does */
}

/* SPL to DIL, and nothing else of 8 bits, need a REX prefix. */
static bool needs_rex(const struct place *place)
{
	return place->op && place->op->size == 8 && place->host >= 4;
}

static unsigned index_bit(const struct place_in_memory *m)
{
	return m->index == HOST_NONE ? 0 : m->index >> 3;
}

static void emit_legacy_head(struct translation *t, const struct plan *p, const struct places *at,
			     const struct place_in_memory *m)
{
	struct emit *e = &t->e;
	const ZydisDecodedInstruction *zi = &p->zi;
	if (p->insn->flags & INSN_LOCK)
		emit8(e, 0xf0);
	for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
		u8 v = zi->raw.prefixes[i].value;
		if ((v == 0x66 || v == 0xf2 || v == 0xf3) && zi->raw.prefixes[i].type != ZYDIS_PREFIX_TYPE_IGNORED)
			emit8(e, v);
	}
	unsigned r = at->reg.op ? at->reg.host >> 3 : zi->raw.rex.R;
	unsigned b = p->memory ? m->base >> 3 : at->rm.op ? at->rm.host >> 3 : zi->raw.rex.B;
	unsigned rex = (unsigned)zi->raw.rex.W << 3 | r << 2 | index_bit(m) << 1 | b;
	if (rex || needs_rex(&at->reg) || needs_rex(&at->rm))
		emit8(e, (u8)(0x40 | rex));
	if (map_of(p))
		emit8(e, 0x0f);
	if (map_of(p) >= 2)
		emit8(e, map_of(p) == 2 ? 0x38 : 0x3a);
}

/* C4, RXB mmmmm, W vvvv L pp; R, X, B and vvvv are stored inverted (SDM vol. 2, 2.3.5). */
static void emit_vex_head(struct translation *t, const struct plan *p, const struct places *at,
			  const struct place_in_memory *m)
{
	struct emit *e = &t->e;
	const u8 *vex = p->bytes + p->zi.raw.vex.offset;
	bool two = vex[0] == 0xc5;
	unsigned not_r = at->reg.op ? !(at->reg.host >> 3) : vex[1] >> 7;
	unsigned not_b = p->memory ? !(m->base >> 3) : at->rm.op ? !(at->rm.host >> 3) : two ? 1 : vex[1] >> 5 & 1;
	unsigned last = two ? vex[1] & 0x7f : vex[2];
	if (at->vvvv.op)
		last = (last & 0x87) | (~at->vvvv.host & 15) << 3;
	emit8(e, 0xc4);
	emit8(e, (u8)(not_r << 7 | !index_bit(m) << 6 | not_b << 5 | map_of(p)));
	emit8(e, (u8)last);
}

/*
 * What was emitted, decoded again: the same instruction, of the same width, with that memory. jit_verify() says
 * that nothing forbidden is there; this, that it is the one that was meant.
 */
static bool is_memory_as_meant(const ZydisDecodedOperand *op, const struct place_in_memory *m)
{
	bool index = op->mem.index != ZYDIS_REGISTER_NONE;
	return ZydisRegisterGetId(op->mem.base) == m->base && index == (m->index != HOST_NONE) &&
	       (!index || (ZydisRegisterGetId(op->mem.index) == m->index && op->mem.scale == 1 << m->scale)) &&
	       op->mem.disp.value == m->disp;
}

static bool is_as_meant(const struct jit *jit, const struct plan *p, const struct place_in_memory *m, const u8 *code,
			size_t length)
{
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&jit->verifier, code, length, &zi, op)) || zi.length != length ||
	    zi.mnemonic != p->zi.mnemonic || zi.operand_count != p->zi.operand_count)
		return false;
	for (unsigned i = 0; i < zi.operand_count; i++)
		if (op[i].type != p->op[i].type || op[i].size != p->op[i].size ||
		    (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY && !is_memory_as_meant(&op[i], m)))
			return false;
	return true;
}

/* Is a register of the instruction loaded to T1? Not if T1 is its host register, in a stretch. */
static bool loads_t1(const struct translation *t, const struct plan *p)
{
	struct place reg = find_place(t, p, ZYDIS_OPERAND_ENCODING_MODRM_REG, HOST_NONE);
	return reg.op && reg.host == HOST_NONE;
}

void translate_reencoded(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	struct place_in_memory m = { .index = HOST_NONE };
	if (p->memory)
		m = emit_place(t, p);
	if (p->reads_flags)
		need_host_flags(t);
	/* That is where addends and places are. */
	if ((m.base == HOST_T1 || m.index == HOST_T1) && loads_t1(t, p))
		m = emit_one_register(t, m);
	struct places at = take_places(t, p);
	const u8 *start = e->at;
	if (p->zi.encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		emit_vex_head(t, p, &at, &m);
	else
		emit_legacy_head(t, p, &at, &m);
	emit8(e, p->zi.opcode);
	if (p->zi.attributes & ZYDIS_ATTRIB_HAS_MODRM) {
		unsigned reg = at.reg.op ? at.reg.host & 7 : p->zi.raw.modrm.reg;
		unsigned rm = at.rm.op ? at.rm.host & 7 : p->zi.raw.modrm.rm;
		if (p->memory)
			emit_modrm(e, reg, m.base, m.index, m.scale, m.disp);
		else
			emit8(e, (u8)(3 << 6 | reg << 3 | rm));
	}
	emit_immediates(t, p);
	if (!e->overflow && !is_as_meant(t->jit, p, &m, start, (size_t)(e->at - start))) {
		REPORT("jit: a re-encoded %s is not what was meant; interpreted",
		       ZydisMnemonicGetString(p->zi.mnemonic));
		t->refused = true;
	}
	if (p->writes_flags)
		t->flags = IN_HOST;
	store_place(t, &at.reg);
	store_place(t, &at.rm);
	store_place(t, &at.vvvv);
}
