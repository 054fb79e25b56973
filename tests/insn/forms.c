/*
 * Every operand form of every row, found by decoding: all prefixes, maps, opcodes and ModRM shapes are tried, and what
 * the decoder takes is kept once per form.
 */
#include "differ.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static ZydisDecoder decoder64, decoder32;

const ZydisDecoder *form_decoder(const struct form *f)
{
	return f->mode32 ? &decoder32 : &decoder64;
}

static void add(struct form_list *list, const struct form *f)
{
	if (list->count % 1024 == 0)
		list->form = realloc(list->form, (list->count + 1024) * sizeof(*f));
	list->form[list->count++] = *f;
}

static unsigned put_opcode(const struct form *f, u8 *b)
{
	static const u8 map2[] = { 0, 0, 0x38, 0x3a };
	unsigned n = 0;
	if (f->map)
		b[n++] = 0x0f;
	if (f->map > 1)
		b[n++] = map2[f->map];
	b[n++] = f->opcode;
	return n;
}

/*
 * Prefixes, REX or VEX with the given extension bits (R 4, X 2, B 1) and vvvv, and the opcode. rex < 0: no REX unless
 * the form asks for W.
 */
static unsigned put_head(const struct form *f, u8 *b, int rex, unsigned vvvv)
{
	unsigned n = 0;
	if (f->lock)
		b[n++] = 0xf0;
	if (f->address_prefix)
		b[n++] = 0x67;
	if (f->vex) {
		unsigned x = rex < 0 ? 0 : (unsigned)rex;
		b[n++] = 0xc4;
		b[n++] = (u8)((~x & 7) << 5 | f->map);
		b[n++] = (u8)(f->rex_w << 7 | (~vvvv & 15) << 3 | f->vex_l << 2 | f->vex_pp);
		b[n++] = f->opcode;
		return n;
	}
	if (f->prefix)
		b[n++] = f->prefix;
	if (f->rex_w || rex >= 0)
		b[n++] = (u8)(0x40 | f->rex_w << 3 | (rex < 0 ? 0 : rex));
	return n + put_opcode(f, b + n);
}

/* Opcodes whose ModRM.rm is part of the opcode when ModRM.mod is 3. */
static bool rm_is_opcode(const struct form *f)
{
	if (f->vex)
		return false;
	if (f->map == 0)
		return f->opcode >= 0xd8 && f->opcode <= 0xdf;
	return f->map == 1 && (f->opcode == 0x01 || f->opcode == 0xae || f->opcode == 0xc7 || f->opcode == 0x1e);
}

static bool decode(const struct form *f, const u8 *b, ZydisDecodedInstruction *zi, ZydisDecodedOperand *op)
{
	return ZYAN_SUCCESS(ZydisDecoderDecodeFull(form_decoder(f), b, 15, zi, op));
}

/* Does ModRM.reg name an operand, or is it part of the opcode? */
static bool reg_is_operand(const ZydisDecodedInstruction *zi, const ZydisDecodedOperand *op)
{
	for (unsigned i = 0; i < zi->operand_count; i++)
		if (op[i].encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG)
			return true;
	return false;
}

static bool same_form(const struct form *a, const struct form *b)
{
	return a->mnemonic == b->mnemonic && a->prefix == b->prefix && a->lock == b->lock && a->rex_w == b->rex_w &&
	       a->vex_l == b->vex_l && a->vex_pp == b->vex_pp && a->map == b->map && a->opcode == b->opcode &&
	       a->has_modrm == b->has_modrm && a->memory == b->memory && a->fixed_reg == b->fixed_reg &&
	       a->reg == b->reg && a->fixed_rm == b->fixed_rm && a->rm == b->rm &&
	       a->address_prefix == b->address_prefix;
}

/* Instruction sets that the guest's CPU has: what Zydis decodes of them must have a row. */
static bool is_ours(const ZydisDecodedInstruction *zi)
{
	static const u8 sets[] = {
		ZYDIS_ISA_SET_ADOX_ADCX,  ZYDIS_ISA_SET_AES,          ZYDIS_ISA_SET_AVX,
		ZYDIS_ISA_SET_AVX2,       ZYDIS_ISA_SET_AVX2GATHER,   ZYDIS_ISA_SET_AVXAES,
		ZYDIS_ISA_SET_BMI1,       ZYDIS_ISA_SET_BMI2,         ZYDIS_ISA_SET_CLFLUSHOPT,
		ZYDIS_ISA_SET_CLFSH,      ZYDIS_ISA_SET_CLWB,         ZYDIS_ISA_SET_CMOV,
		ZYDIS_ISA_SET_CMPXCHG16B, ZYDIS_ISA_SET_F16C,         ZYDIS_ISA_SET_FAT_NOP,
		ZYDIS_ISA_SET_FCMOV,      ZYDIS_ISA_SET_FMA,          ZYDIS_ISA_SET_FXSAVE,
		ZYDIS_ISA_SET_FXSAVE64,   ZYDIS_ISA_SET_I186,         ZYDIS_ISA_SET_I286PROTECTED,
		ZYDIS_ISA_SET_I286REAL,   ZYDIS_ISA_SET_I386,         ZYDIS_ISA_SET_I486,
		ZYDIS_ISA_SET_I486REAL,   ZYDIS_ISA_SET_I86,          ZYDIS_ISA_SET_INVPCID,
		ZYDIS_ISA_SET_LAHF,       ZYDIS_ISA_SET_LONGMODE,     ZYDIS_ISA_SET_LZCNT,
		ZYDIS_ISA_SET_MONITOR,    ZYDIS_ISA_SET_MOVBE,        ZYDIS_ISA_SET_PAUSE,
		ZYDIS_ISA_SET_PCLMULQDQ,  ZYDIS_ISA_SET_PENTIUMMMX,   ZYDIS_ISA_SET_PENTIUMREAL,
		ZYDIS_ISA_SET_POPCNT,     ZYDIS_ISA_SET_PPRO,         ZYDIS_ISA_SET_PREFETCH_NOP,
		ZYDIS_ISA_SET_RDPID,      ZYDIS_ISA_SET_RDPMC,        ZYDIS_ISA_SET_RDRAND,
		ZYDIS_ISA_SET_RDSEED,     ZYDIS_ISA_SET_RDTSCP,       ZYDIS_ISA_SET_RDWRFSGS,
		ZYDIS_ISA_SET_SHA,        ZYDIS_ISA_SET_SMAP,         ZYDIS_ISA_SET_SSE,
		ZYDIS_ISA_SET_SSE2,       ZYDIS_ISA_SET_SSE2MMX,      ZYDIS_ISA_SET_SSE3,
		ZYDIS_ISA_SET_SSE3X87,    ZYDIS_ISA_SET_SSE4,         ZYDIS_ISA_SET_SSE42,
		ZYDIS_ISA_SET_SSEMXCSR,   ZYDIS_ISA_SET_SSE_PREFETCH, ZYDIS_ISA_SET_SSSE3,
		ZYDIS_ISA_SET_SSSE3MMX,   ZYDIS_ISA_SET_VTX,          ZYDIS_ISA_SET_X87,
		ZYDIS_ISA_SET_XSAVE,      ZYDIS_ISA_SET_XSAVEC,       ZYDIS_ISA_SET_XSAVEOPT,
		ZYDIS_ISA_SET_XSAVES,
	};
	/* RSM belongs to system-management mode, FEMMS to 3DNow!. */
	return memchr(sets, zi->meta.isa_set, sizeof(sets)) && zi->mnemonic != ZYDIS_MNEMONIC_RSM;
}

static unsigned missing;

static void note_missing(const ZydisDecodedInstruction *zi)
{
	static bool noted[ZYDIS_MNEMONIC_MAX_VALUE + 1];
	if (!is_ours(zi) || noted[zi->mnemonic])
		return;
	noted[zi->mnemonic] = true;
	missing++;
	printf("# %s: decoded, of an instruction set that the guest has, but without a row\n",
	       ZydisMnemonicGetString(zi->mnemonic));
}

unsigned forms_missing(void)
{
	return missing;
}

/* Tries one opcode with every ModRM shape. */
static void try_opcode(struct form_list *list, struct form f, unsigned vvvv)
{
	unsigned first = list->count;
	for (unsigned shape = 0; shape < 2; shape++) {
		for (unsigned reg = 0; reg < 8; reg++) {
			unsigned rms = shape && rm_is_opcode(&f) ? 8 : 1;
			for (unsigned rm = 0; rm < rms; rm++) {
				u8 b[16] = { 0 };
				ZydisDecodedInstruction zi;
				ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
				struct form g = f;
				unsigned n = put_head(&f, b, -1, vvvv);
				/* A memory form through a SIB byte, so that VSIB decodes too. */
				b[n] = (u8)(shape ? 0xc0 | reg << 3 | (rms == 1 ? 1 : rm) : reg << 3 | 4);
				b[n + 1] = 0x0b; /* base RBX, index RCX */
				if (!decode(&f, b, &zi, op))
					continue;
				if (!insn_row_find(zi.mnemonic)) {
					note_missing(&zi);
					continue;
				}
				g.mnemonic = zi.mnemonic;
				g.has_modrm = zi.attributes & ZYDIS_ATTRIB_HAS_MODRM;
				g.memory = g.has_modrm && !shape;
				g.fixed_reg = g.has_modrm && !reg_is_operand(&zi, op);
				g.reg = g.fixed_reg ? (u8)reg : 0;
				g.fixed_rm = g.has_modrm && rms == 8;
				g.rm = g.fixed_rm ? (u8)rm : 0;
				bool known = false;
				for (unsigned i = first; i < list->count && !known; i++)
					known = same_form(&list->form[i], &g);
				if (!known)
					add(list, &g);
			}
		}
	}
}

/* Bytes that are prefixes or escapes, not opcodes. */
static bool is_prefix(unsigned b, bool mode32)
{
	if (mode32 && (b == 0x62 || (b >= 0x40 && b <= 0x4f)))
		return false; /* BOUND, INC and DEC */
	switch (b) {
	case 0x0f:
	case 0x26:
	case 0x2e:
	case 0x36:
	case 0x3e:
	case 0x62:
	case 0x64 ... 0x67:
	case 0xc4:
	case 0xc5:
	case 0xf0:
	case 0xf2:
	case 0xf3:
	case 0x40 ... 0x4f:
		return true;
	default:
		return false;
	}
}

static void find_legacy(struct form_list *list, bool mode32)
{
	static const u8 prefixes[] = { 0, 0x66, 0xf3, 0xf2 };
	for (unsigned map = 0; map < 4; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned p = 0; p < 4 && !(map == 0 && is_prefix(opcode, mode32)); p++)
				for (unsigned w = 0; w < 2u - mode32; w++)
					for (unsigned lock = 0; lock < 2; lock++)
						try_opcode(list,
							   (struct form){ .map = (u8)map,
									  .opcode = (u8)opcode,
									  .prefix = prefixes[p],
									  .rex_w = w,
									  .lock = lock,
									  .mode32 = mode32 },
							   0);
}

/* JRCXZ has another name with each address size. */
static void find_jecxz(struct form_list *list, bool mode32)
{
	try_opcode(list, (struct form){ .opcode = 0xe3, .address_prefix = true, .mode32 = mode32 }, 0);
}

/* Has the form an address without a ModRM byte: MOV moffs, string instructions, XLAT, LOOPcc? */
static bool has_implicit_address(const struct form *f)
{
	if (f->vex || f->map)
		return false;
	return (f->opcode >= 0xa0 && f->opcode <= 0xa7) || (f->opcode >= 0xaa && f->opcode <= 0xaf) ||
	       (f->opcode >= 0xe0 && f->opcode <= 0xe2) || f->opcode == 0xd7;
}

static void find_vex(struct form_list *list, bool mode32)
{
	for (unsigned map = 1; map < 4; map++)
		for (unsigned opcode = 0; opcode < 256; opcode++)
			for (unsigned bits = 0; bits < 16; bits++)
				for (unsigned v = 0; v < 2; v++) {
					unsigned before = list->count;
					try_opcode(list,
						   (struct form){ .vex = true,
								  .map = (u8)map,
								  .opcode = (u8)opcode,
								  .rex_w = bits >> 3,
								  .vex_l = bits >> 2 & 1,
								  .vex_pp = bits & 3,
								  .mode32 = mode32 },
						   v ? 2 : 0);
					if (list->count != before)
						break;
				}
}

void forms_find(struct form_list *list, bool mode32)
{
	ZydisDecoder *decoder = mode32 ? &decoder32 : &decoder64;
	if (mode32)
		ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_COMPAT_32, ZYDIS_STACK_WIDTH_32);
	else
		ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
	ZydisDecoderEnableMode(decoder, ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
	find_legacy(list, mode32);
	find_jecxz(list, mode32);
	find_vex(list, mode32);
}

static unsigned put_memory_modrm(const struct form *f, u64 (*rnd)(void), u8 *b, unsigned reg)
{
	unsigned n = 0;
	bool vsib = f->vex && f->map == 2 && f->opcode >= 0x90 && f->opcode <= 0x93;
	unsigned mod = (unsigned)rnd() % 3, rm = vsib ? 4 : (unsigned)rnd() & 7;
	b[n++] = (u8)(mod << 6 | reg << 3 | rm);
	bool disp32 = mod == 2 || (mod == 0 && rm == 5);
	if (rm == 4) {
		u8 sib = (u8)rnd();
		b[n++] = sib;
		disp32 |= mod == 0 && (sib & 7) == 5;
	}
	if (disp32) {
		i32 disp = (i32)(rnd() & 0xffff) - 0x8000;
		memcpy(b + n, &disp, 4);
		n += 4;
	} else if (mod == 1) {
		b[n++] = (u8)rnd();
	}
	return n;
}

bool form_encode(const struct form *f, u64 (*rnd)(void), u8 *b)
{
	int rex = rnd() & 1 && !f->mode32 ? (int)(rnd() & 7) : -1;
	struct form g = *f;
	/* In 32-bit code the data cannot be reached with 16 bits. */
	g.address_prefix |= (f->memory || has_implicit_address(f)) && !f->mode32 && rnd() % 8 == 0;
	memset(b, 0, 16);
	unsigned n = put_head(&g, b, rex, rnd() & 3 ? (unsigned)rnd() & (f->mode32 ? 7 : 15) : 0);
	unsigned reg = f->fixed_reg ? f->reg : (unsigned)rnd() & 7;
	if (f->has_modrm && f->memory)
		n += put_memory_modrm(f, rnd, b + n, reg);
	else if (f->has_modrm)
		b[n++] = (u8)(0xc0 | reg << 3 | (f->fixed_rm ? f->rm : (unsigned)rnd() & 7));
	/* Whatever immediate there may be. */
	u64 imm = rnd();
	if (rnd() & 1)
		imm = (u64)(i64)(i8)imm;
	for (unsigned i = 0; i < 8 && n < 15; i++)
		b[n++] = (u8)(imm >> 8 * i);
	return true;
}
