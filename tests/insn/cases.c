/*
 * One random case of a form. Registers that form addresses are solved for, so that memory operands fall into the data
 * pages (and now and then across their end); everything else is random, with a liking for borders.
 */
#include "differ.h"

#include <string.h>

u64 random_state = 1;

u64 random64(void)
{
	u64 x = random_state; /* xorshift64* */
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	random_state = x;
	return x * 0x2545f4914f6cdd1dULL;
}

static bool one_in(unsigned n)
{
	return random64() % n == 0;
}

static u64 random_value(void)
{
	static const u64 borders[] = { 0,
				       1,
				       2,
				       0x7f,
				       0x80,
				       0xff,
				       0x7fff,
				       0x8000,
				       0xffff,
				       0x7fffffff,
				       0x80000000,
				       0xffffffff,
				       0x7fffffffffffffff,
				       0x8000000000000000,
				       0xffffffffffffffff };
	u64 v = random64();
	switch (random64() % 8) {
	case 0:
	case 1:
		return borders[v % ARRAY_SIZE(borders)];
	case 2:
		return v & 0xff;
	case 3:
		return v & 0xffff;
	case 4:
		return v & 0xffffffff;
	case 5:
		return (u64)(i64)(i8)v;
	default:
		return v;
	}
}

/* --- vectors, memory: bytes that look like floating point now and then --- */

static void put_floats(u8 *p, unsigned bytes)
{
	static const u32 single[] = { 0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
				      0x7fc00000, 0x7f800001, 0xffc12345, 0x00000001, 0x007fffff, 0x00800000,
				      0x7f7fffff, 0x4b000000, 0x4f000000, 0x5f000000, 0x3f000000, 0x40490fdb };
	static const u64 wide[] = { 0,
				    0x8000000000000000,
				    0x3ff0000000000000,
				    0xbff0000000000000,
				    0x7ff0000000000000,
				    0xfff0000000000000,
				    0x7ff8000000000000,
				    0x7ff0000000000001,
				    1,
				    0x000fffffffffffff,
				    0x0010000000000000,
				    0x7fefffffffffffff,
				    0x41dfffffffc00000,
				    0x41e0000000000000,
				    0x43e0000000000000,
				    0x400921fb54442d18,
				    0x380fffffffffffff };
	for (unsigned at = 0; at + 8 <= bytes; at += 8) {
		u64 v = random64();
		u32 pair[2];
		switch (random64() % 6) {
		case 0:
			v = wide[v % ARRAY_SIZE(wide)];
			break;
		case 1:
			pair[0] = single[v % ARRAY_SIZE(single)];
			pair[1] = single[(v >> 32) % ARRAY_SIZE(single)];
			memcpy(&v, pair, 8);
			break;
		case 2: /* moderate doubles */
			v = (v & 0x800fffffffffffff) | (0x3f0 + (v >> 52) % 32) << 52;
			break;
		case 3: /* moderate singles */
			pair[0] = ((u32)v & 0x807fffff) | (112 + (u32)(v >> 23) % 32) << 23;
			pair[1] = ((u32)(v >> 32) & 0x807fffff) | (112 + (u32)(v >> 55) % 32) << 23;
			memcpy(&v, pair, 8);
			break;
		case 4:
			v &= 0x0f0f0f0f0f0f0f0f;
			break;
		default:
			break;
		}
		memcpy(p + at, &v, 8);
	}
}

static void put_extended(u8 *p)
{
	static const u16 exponents[] = { 0, 1, 0x7fff, 0x7ffe, 0x3fff, 0x3ffe, 0x4000, 0x403e, 0x401e, 0x3f80 };
	u64 mantissa = random64();
	u16 exponent = (u16)(0x3fe0 + random64() % 0x60);
	if (one_in(3))
		exponent = exponents[random64() % ARRAY_SIZE(exponents)];
	if (!one_in(8))
		mantissa |= BIT(63);
	if (one_in(6))
		mantissa &= BIT(63);
	if (one_in(4))
		mantissa &= ~0ULL << 40;
	if (one_in(2))
		exponent |= 0x8000;
	if (one_in(12))
		mantissa = exponent = 0;
	memset(p, 0, 16);
	memcpy(p, &mantissa, 8);
	memcpy(p + 8, &exponent, 2);
}

static void make_fpu(struct xsave_area *x)
{
	u16 fcw = 0x37f, fsw = (u16)random64() & 0x7f00;
	u32 mxcsr = 0x1f80, mask = 0xffff;
	u8 ftw = (u8)random64();
	memset(x, 0, sizeof(*x));
	if (one_in(3))
		fcw = (u16)((random64() & 0x0f3f) | 0x40);
	if (one_in(2))
		ftw = 0xff;
	if (one_in(4))
		fsw |= (u16)(random64() & 0x7f & (fcw | 0x40));
	if (one_in(40)) /* something pending */
		fsw |= (u16)random64() & 0x3f;
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	if (one_in(3))
		mxcsr = (u32)random64() & 0xffff;
	else if (one_in(2))
		mxcsr |= (u32)random64() & 0xe03f;
	memcpy(x->legacy, &fcw, 2);
	memcpy(x->legacy + 2, &fsw, 2);
	x->legacy[4] = ftw;
	memcpy(x->legacy + 24, &mxcsr, 4);
	memcpy(x->legacy + 28, &mask, 4);
	for (unsigned i = 0; i < 8; i++)
		put_extended(x->legacy + 32 + 16 * i);
	put_floats(x->legacy + 160, 256);
	put_floats(x->ymm_high[0], 256);
	x->header[0] = (u8)host_components();
}

static void make_registers(struct machine *m, bool mode32)
{
	for (unsigned i = 0; i < GPR_COUNT; i++)
		m->gpr[i] = mode32 ? (u32)random_value() : random_value();
	if (one_in(2))
		m->gpr[RCX] = random64() & 0x7f;
	if (one_in(2)) /* divisions that do not overflow */
		m->gpr[RDX] = one_in(2) ? 0 : random64() & 0x3f;
	m->gpr[RSP] = DATA_BASE + 0x1800 + (random64() & 0xf8);
	m->rflags = RFLAGS_ONE | RFLAGS_IF | (random64() & (RFLAGS_ARITH | RFLAGS_DF));
	m->rip = CODE_START;
	m->vector = -1;
	m->error = m->cr2 = 0;
}

/* --- addresses --- */

static unsigned gpr_of(ZydisRegister reg)
{
	return (unsigned)ZydisRegisterGetId(ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, reg));
}

static u64 choose_address(unsigned size)
{
	u64 at = DATA_BASE + 0x600 + random64() % 0xc00;
	if (size >= 512)
		at = DATA_BASE + 0x400 + random64() % 0x1000;
	if (one_in(16)) /* across the pages, or out at the end */
		at = DATA_BASE + (one_in(2) ? 0x1000 : DATA_SIZE) - random64() % (size + 4);
	unsigned align = size >= 64 ? 64 : size >= 16 ? size : 1;
	if (!one_in(8))
		at &= ~(u64)(align - 1);
	return at;
}

/* Sets base and index so that the operand is at `*at`, which may move a little; patches the displacement without a
 * base. */
static bool solve_address(struct test_case *c, const ZydisDecodedOperand *op, u64 *at)
{
	u64 *gpr = c->start.gpr, disp = (u64)op->mem.disp.value, scale = op->mem.scale;
	bool has_base = op->mem.base != ZYDIS_REGISTER_NONE, has_index = op->mem.index != ZYDIS_REGISTER_NONE;
	bool rip = op->mem.base == ZYDIS_REGISTER_RIP || op->mem.base == ZYDIS_REGISTER_EIP;
	bool narrow = c->zi.address_width == 32;
	unsigned base = has_base && !rip ? gpr_of(op->mem.base) : 0;
	unsigned index = has_index && op->mem.type != ZYDIS_MEMOP_TYPE_VSIB ? gpr_of(op->mem.index) : 0;
	bool gpr_index = has_index && op->mem.type != ZYDIS_MEMOP_TYPE_VSIB;

	if (!has_base || rip) {
		u64 part = 0;
		if (gpr_index) {
			gpr[index] &= 0xff;
			part = gpr[index] * scale;
		}
		u64 value = *at - part - (rip ? CODE_START + c->length : 0);
		memcpy(c->bytes + c->zi.raw.disp.offset, &value, c->zi.raw.disp.size / 8);
		return c->zi.raw.disp.size >= 32;
	}
	if (gpr_index && base == index) {
		u64 value = (*at - disp) / (1 + scale);
		*at = value * (1 + scale) + disp;
		gpr[base] = value;
	} else if (gpr_index && ZydisRegisterGetClass(op->mem.index) == ZYDIS_REGCLASS_GPR8) {
		gpr[base] = *at - (gpr[index] & 0xff);
	} else {
		if (gpr_index && base == RSP) /* pushes must stay in the data pages */
			gpr[index] &= 15;
		gpr[base] = *at - disp - (gpr_index ? gpr[index] * scale : 0);
	}
	if (narrow) /* the upper half of what was solved does not count; the others' neither */
		gpr[base] = (u32)gpr[base] | (base == RSP || c->form->mode32 ? 0 : random64() << 32);
	return base != RSP || !narrow || c->form->mode32;
}

/* MASKMOVQ and MASKMOVDQU may or may not fault for bytes that are not selected: keep them inside. */
static bool faults_differ(const struct test_case *c)
{
	return c->zi.mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || c->zi.mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
	       c->zi.mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

/* RAX and RDX are operands of the XSAVE family: not for its addresses. */
static bool masks_address(const struct test_case *c, const ZydisDecodedOperand *op)
{
	unsigned base = gpr_of(op->mem.base), index = gpr_of(op->mem.index);
	const char *name = ZydisMnemonicGetString(c->zi.mnemonic);
	return (!strncmp(name, "xsave", 5) || !strncmp(name, "xrstor", 6)) &&
	       (base == RAX || base == RDX || index == RAX || index == RDX);
}

/* Index elements of a gather: near. */
static void make_gather(struct test_case *c, const ZydisDecodedOperand *op)
{
	unsigned reg = (unsigned)ZydisRegisterGetId(op->mem.index);
	bool dword = (c->zi.opcode & 1) == 0; /* 90h, 92h: dword indices */
	for (unsigned at = 0; at < 32; at += dword ? 4 : 8) {
		i64 v = (i64)(random64() % 64) - 32;
		u8 *p = at < 16 ? c->start.xsave.legacy + 160 + 16 * reg + at : c->start.xsave.ymm_high[reg] + at - 16;
		memcpy(p, &v, dword ? 4 : 8);
	}
}

/* Intel demands alignment of the memory operand as for all legacy SSE, AMD does not. */
static bool alignment_differs(const struct test_case *c)
{
	return host_is_amd() && c->zi.meta.isa_set == ZYDIS_ISA_SET_SHA;
}

/*
 * Where #AC is checked too: not for images of state and masked bytes, in which processors differ, nor for strings,
 * whose two operands may each fault; masked elements only where Intel says that they are left out (SDM vol. 2, table
 * 2-14).
 */
static bool checks_alignment(const struct test_case *c)
{
	const char *name = ZydisMnemonicGetString(c->zi.mnemonic);
	if (strstr(name, "gather") || (strstr(name, "maskmov") && !faults_differ(c)))
		return !host_is_amd();
	return c->memory_size <= 32 && !faults_differ(c) && c->zi.meta.category != ZYDIS_CATEGORY_STRINGOP;
}

static bool is_bit_string(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_BT || m == ZYDIS_MNEMONIC_BTS || m == ZYDIS_MNEMONIC_BTR || m == ZYDIS_MNEMONIC_BTC;
}

/* Implicit operands first ([RSI], [RDI], the stack), then the explicit one, which may override. */
static bool make_addresses(struct test_case *c)
{
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned i = 0; i < c->zi.operand_count; i++) {
			const ZydisDecodedOperand *op = &c->op[i];
			bool explicit = op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT;
			if (op->type != ZYDIS_OPERAND_TYPE_MEMORY || op->mem.type == ZYDIS_MEMOP_TYPE_AGEN ||
			    explicit != pass)
				continue;
			if (op->mem.segment == ZYDIS_REGISTER_FS || op->mem.segment == ZYDIS_REGISTER_GS)
				return false;
			if (!explicit && gpr_of(op->mem.base) == RSP)
				continue;
			if (is_bit_string(c->zi.mnemonic) && c->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER) {
				u64 bit = (u64)((i64)(random64() % 2048) - 1024);
				unsigned reg = gpr_of(c->op[1].reg.value);
				if (reg == RSP || reg == gpr_of(op->mem.base) || reg == gpr_of(op->mem.index))
					return false;
				c->start.gpr[reg] = bit;
			}
			u64 at = choose_address(op->size / 8);
			if (alignment_differs(c))
				at &= ~15ULL;
			if (faults_differ(c))
				at = DATA_BASE + 0x800 + random64() % 64;
			if (masks_address(c, op))
				return false;
			if (op->mem.type == ZYDIS_MEMOP_TYPE_VSIB) {
				at = DATA_BASE + (one_in(8) ? 0x1e80 : 0x1000) + random64() % 64;
				make_gather(c, op);
			}
			if (!solve_address(c, op, &at))
				return false;
			if (alignment_differs(c) && at & 15)
				return false;
			c->memory_at = at;
			c->memory_size = op->size / 8;
		}
	}
	return true;
}

/* --- branches --- */

static bool make_branch(struct test_case *c, u8 *data)
{
	const ZydisDecodedOperand *op = &c->op[0];
	if (c->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_NONE)
		return true;
	/* With 66h the target has 16 bits, but for Intel's in 64-bit mode (SDM vol. 2, "Jcc"): not in the code page. */
	if (c->zi.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR ||
	    (c->form->prefix == 0x66 && (c->form->mode32 || host_is_amd())))
		return false;
	/* Reserved before LOOPcc: AMD takes F3 for LOOPE and F2 for LOOPNE, whichever the opcode says. */
	if ((c->zi.mnemonic == ZYDIS_MNEMONIC_LOOPE || c->zi.mnemonic == ZYDIS_MNEMONIC_LOOPNE) && c->form->prefix &&
	    host_is_amd())
		return false;
	unsigned size = c->form->mode32 ? 4 : 8;
	i64 d = (i64)(64 + random64() % 60);
	if (one_in(2))
		d = -d;
	c->target = CODE_START + c->length + (u64)d;
	if (c->zi.mnemonic == ZYDIS_MNEMONIC_RET) {
		if (c->start.gpr[RSP] < DATA_BASE || c->start.gpr[RSP] + size > DATA_BASE + DATA_SIZE)
			return false;
		memcpy(data + (c->start.gpr[RSP] - DATA_BASE), &c->target, size);
	} else if (op->type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
		memcpy(c->bytes + c->zi.raw.imm[0].offset, &d, c->zi.raw.imm[0].size / 8);
	} else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER) {
		if (gpr_of(op->reg.value) == RSP)
			return false;
		c->start.gpr[gpr_of(op->reg.value)] = c->target;
	} else {
		if (c->memory_at < DATA_BASE || c->memory_at + size > DATA_BASE + DATA_SIZE)
			return true; /* will fault */
		memcpy(data + (c->memory_at - DATA_BASE), &c->target, size);
	}
	return true;
}

/* --- what single mnemonics need --- */

static void put_image(struct test_case *c, u8 *data)
{
	if (c->memory_at < DATA_BASE || c->memory_at + 832 > DATA_BASE + DATA_SIZE)
		return;
	u8 *p = data + (c->memory_at - DATA_BASE);
	struct xsave_area image;
	make_fpu(&image);
	memcpy(p, &image, 832);
	u64 bv = random64() & host_components(), comp = 0;
	if (one_in(4)) {
		comp = (random64() & host_components()) | BIT(63);
		bv &= comp;
	}
	if (one_in(16))
		bv = random64() & 0x7;
	if (one_in(16))
		p[512 + 8 + random64() % 56] = (u8)random64() & 0x7f;
	memcpy(p + 512, &bv, 8);
	memcpy(p + 520, &comp, 8);
}

/* Operands in memory that random bytes seldom make interesting. */
static void make_operand(const struct test_case *c, u8 *at)
{
	switch (c->zi.mnemonic) {
	case ZYDIS_MNEMONIC_LDMXCSR:
	case ZYDIS_MNEMONIC_VLDMXCSR:
		if (!one_in(4)) /* bit 17 is AMD's misaligned mode */
			at[2] = at[3] = 0;
		else
			at[2] &= 0xfd;
		break;
	case ZYDIS_MNEMONIC_FLD:
	case ZYDIS_MNEMONIC_FBLD:
		if (c->memory_size == 10 && one_in(2)) {
			put_extended(at);
		} else if (c->memory_size == 10) {
			for (unsigned i = 0; i < 9; i++)
				at[i] = (u8)(random64() % 10 << 4 | random64() % 10);
		}
		break;
	default:
		break;
	}
}

static void make_special(struct test_case *c, u8 *data)
{
	u64 sp = c->start.gpr[RSP] - DATA_BASE;
	if (c->memory_at >= DATA_BASE && c->memory_at + 128 <= DATA_BASE + DATA_SIZE)
		make_operand(c, data + (c->memory_at - DATA_BASE));
	switch (c->zi.mnemonic) {
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		put_image(c, data);
		break;
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
		put_image(c, data);
		/* fallthrough */
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		c->start.gpr[RAX] = random64() & host_components();
		c->start.gpr[RDX] = 0;
		break;
	case ZYDIS_MNEMONIC_POPF:
	case ZYDIS_MNEMONIC_POPFD:
	case ZYDIS_MNEMONIC_POPFQ:
		if (sp < DATA_SIZE - 8) /* no TF, NT or AC */
			data[sp + 1] &= 0xbe, data[sp + 2] &= 0xf9;
		break;
	case ZYDIS_MNEMONIC_LEAVE:
	case ZYDIS_MNEMONIC_ENTER:
		c->start.gpr[RBP] = DATA_BASE + 0x1400 + random64() % 64;
		break;
	default:
		break;
	}
	if (c->zi.attributes & (ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE))
		c->start.gpr[RCX] =
			(c->start.gpr[RCX] & ~0xffffffffULL) * (c->zi.address_width == 32) + random64() % 12;
}

/* Segment registers depend on the host's descriptor tables. */
static bool touches_segments(const struct test_case *c)
{
	for (unsigned i = 0; i < c->zi.operand_count_visible; i++)
		if (c->op[i].type == ZYDIS_OPERAND_TYPE_REGISTER &&
		    ZydisRegisterGetClass(c->op[i].reg.value) == ZYDIS_REGCLASS_SEGMENT)
			return true;
	return false;
}

/* Wider forms of AES and carry-less multiplication that this host may have and the guest does not. */
static bool for_other_cpus(const struct test_case *c)
{
	switch (c->zi.meta.isa_set) {
	case ZYDIS_ISA_SET_VAES:
	case ZYDIS_ISA_SET_VPCLMULQDQ:
		return true;
	default:
		return false;
	}
}

/* Reserved: a NOP on Intel, #UD on AMD. */
static bool is_prefetch_of_register(const struct test_case *c)
{
	return host_is_amd() && c->zi.opcode_map == ZYDIS_OPCODE_MAP_0F && c->zi.opcode == 0x0d &&
	       c->zi.raw.modrm.mod == 3;
}

/* In 32-bit code Intel ignores W of these, and has no SYSRET; AMD refuses the former and has the latter. */
static bool differs_in_32_bits(const struct test_case *c)
{
	if (!c->form->mode32 || !host_is_amd())
		return false;
	if (c->zi.mnemonic == ZYDIS_MNEMONIC_VPEXTRD || c->zi.mnemonic == ZYDIS_MNEMONIC_VPINSRD)
		return c->zi.raw.vex.W;
	return c->zi.mnemonic == ZYDIS_MNEMONIC_SYSRET;
}

/* Zydis 4.0 takes [disp32] through a SIB byte with REX.B and a 67h prefix for [r13d]. */
static void repair_base(struct test_case *c)
{
	if (!c->zi.raw.sib.offset || c->zi.raw.sib.base != 5 || c->zi.raw.modrm.mod != 0)
		return;
	for (unsigned i = 0; i < c->zi.operand_count; i++) {
		if (c->op[i].type != ZYDIS_OPERAND_TYPE_MEMORY ||
		    c->op[i].visibility != ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			continue;
		c->op[i].mem.base = ZYDIS_REGISTER_NONE;
		c->op[i].mem.disp.value = c->zi.raw.disp.value;
	}
}

bool case_make(const struct form *form, struct test_case *c, u8 *data)
{
	memset(c, 0, offsetof(struct test_case, start));
	c->form = form;
	c->memory_at = 0;
	c->memory_size = 0;
	c->target = 0;
	form_encode(form, random64, c->bytes);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(form_decoder(form), c->bytes, 15, &c->zi, c->op)) ||
	    c->zi.mnemonic != form->mnemonic || touches_segments(c) || for_other_cpus(c) ||
	    is_prefetch_of_register(c) || differs_in_32_bits(c))
		return false;
	repair_base(c);
	c->length = c->zi.length;
	make_registers(&c->start, form->mode32);
	make_fpu(&c->start.xsave);
	put_floats(data, DATA_SIZE);
	if (!make_addresses(c))
		return false;
	if (one_in(12) && checks_alignment(c))
		c->start.rflags |= RFLAGS_AC;
	make_special(c, data);
	return make_branch(c, data);
}
