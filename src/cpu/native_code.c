/*
 * The code area of native.h, and the making of stubs: a guest instruction rewritten so that its memory operand is [RSI]
 * and its general registers are RAX and RCX, between loads and stores of the guest registers it uses. RDI holds the
 * CPU, RDX the x87 image; all of these, and every vector register, are the caller's to lose (System V ABI), so a stub
 * saves nothing.
 */
#include "base/trace.h"
#include "cpu/block.h"
#include "cpu/fpu.h"
#include "cpu/native.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
	AREA_SIZE = 4 << 20,
	STUB_ALIGN = 16,
	STUB_MAX = 512,
	TABLE_SIZE = 1 << 16, /* slots; at most half of them used */
	SCRATCH_RM = 0,       /* RAX stands for a general register in ModRM.rm */
	SCRATCH_REG = 1       /* RCX for one in ModRM.reg */
};

struct native {
	u8 *writable;
	const u8 *executable;
	u32 used;
	unsigned stubs;
	u32 table[TABLE_SIZE]; /* open addressing by hash of the code: offset in the area + 1, 0 free */
};

int native_init(struct cpu *cpu)
{
	struct native *native = calloc(1, sizeof(*native));
	if (!native)
		return -ENOMEM;
	int error = native_trap_init() ? -errno : 0;
	int fd = memfd_create("strata-stubs", MFD_CLOEXEC);
	if (!error && (fd < 0 || ftruncate(fd, AREA_SIZE)))
		error = -errno;
	void *w = error ? MAP_FAILED : mmap(NULL, AREA_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	void *x = error ? MAP_FAILED : mmap(NULL, AREA_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (!error && (w == MAP_FAILED || x == MAP_FAILED))
		error = -errno;
	if (fd >= 0)
		close(fd);
	if (error) {
		if (w != MAP_FAILED)
			munmap(w, AREA_SIZE);
		if (x != MAP_FAILED)
			munmap(x, AREA_SIZE);
		free(native);
		return error;
	}
	native->writable = w;
	native->executable = x;
	cpu->native = native;
	host_set_mxcsr(MXCSR_INIT);
	return 0;
}

void native_destroy(struct cpu *cpu)
{
	struct native *native = cpu->native;
	if (!native)
		return;
	munmap(native->writable, AREA_SIZE);
	munmap((void *)native->executable, AREA_SIZE);
	free(native);
	cpu->native = NULL;
}

void native_exec_full(struct cpu *cpu, const struct insn *insn)
{
	struct native *native = cpu->native;
	block_cache_flush(cpu);
	memset(native->table, 0, sizeof(native->table));
	native->used = 0;
	native->stubs = 0;
	cpu_retry(cpu);
}

/* --- emitting --- */

struct code {
	u8 byte[STUB_MAX];
	unsigned length;
};

static void put(struct code *c, u8 b)
{
	if (c->length < STUB_MAX)
		c->byte[c->length++] = b;
}

static void put32(struct code *c, u32 v)
{
	for (unsigned i = 0; i < 4; i++)
		put(c, (u8)(v >> 8 * i));
}

#define PUT(c, ...)                                                                                                    \
	do {                                                                                                           \
		static const u8 bytes_[] = { __VA_ARGS__ };                                                            \
		for (unsigned i_ = 0; i_ < sizeof(bytes_); i_++)                                                       \
			put(c, bytes_[i_]);                                                                            \
	} while (0)

/* ModRM for `reg`, [rdi + disp32]. */
static void put_cpu_field(struct code *c, unsigned reg, size_t offset)
{
	put(c, (u8)(0x87 | (reg & 7) << 3));
	put32(c, (u32)offset);
}

static size_t xmm_offset(unsigned n)
{
	return offsetof(struct cpu, fpu.legacy) + FPU_XMM + 16 * n;
}

static size_t ymm_offset(unsigned n)
{
	return offsetof(struct cpu, fpu.ymm_high) + 16 * n;
}

/* MOVUPS (legacy or VEX) between XMMn and the guest's; opcode 10h loads, 11h stores. */
static void put_movups(struct code *c, bool vex, u8 opcode, unsigned n)
{
	if (vex) {
		put(c, 0xc5);
		put(c, n & 8 ? 0x78 : 0xf8);
	} else {
		if (n & 8)
			put(c, 0x44);
		put(c, 0x0f);
	}
	put(c, opcode);
	put_cpu_field(c, n, xmm_offset(n));
}

/* VINSERTF128 YMMn, YMMn, high half, 1. */
static void put_load_high(struct code *c, unsigned n)
{
	put(c, 0xc4);
	put(c, n & 8 ? 0x63 : 0xe3);
	put(c, (u8)(0x05 | (~n & 15) << 3));
	put(c, 0x18);
	put_cpu_field(c, n, ymm_offset(n));
	put(c, 1);
}

/* VEXTRACTF128 high half, YMMn, 1. */
static void put_store_high(struct code *c, unsigned n)
{
	put(c, 0xc4);
	put(c, n & 8 ? 0x63 : 0xe3);
	put(c, 0x7d);
	put(c, 0x19);
	put_cpu_field(c, n, ymm_offset(n));
	put(c, 1);
}

/* MOV between host register n (RAX, RCX, RDX) and the guest's general register; opcode 8Bh loads, 89h stores. */
static void put_mov_gpr(struct code *c, u8 opcode, unsigned host, unsigned guest)
{
	put(c, 0x48);
	put(c, opcode);
	put_cpu_field(c, host, offsetof(struct cpu, reg) + 8 * guest);
}

/* Arithmetic flags from cpu->arith: MOV AX, arith; ADD AL, 7Fh (sets OF from bit 0); SAHF. */
static void put_load_flags(struct code *c)
{
	PUT(c, 0x66, 0x8b);
	put_cpu_field(c, 0, offsetof(struct cpu, arith));
	PUT(c, 0x04, 0x7f, 0x9e);
}

/* And back: LAHF; SETO AL; MOV arith, AX. */
static void put_store_flags(struct code *c)
{
	PUT(c, 0x9f, 0x0f, 0x90, 0xc0, 0x66, 0x89);
	put_cpu_field(c, 0, offsetof(struct cpu, arith));
}

/* --- what an instruction uses --- */

struct use {
	u16 vec_read, vec_write; /* sets of registers */
	bool vec_256;
	u8 mm_read, mm_write;
	bool rm_gpr, reg_gpr; /* ModRM.rm, ModRM.reg name a general register... */
	struct {
		u8 guest, host;
		bool read, write;
	} gpr[4];
	unsigned gprs;
	bool memory;
	bool flags_in, flags_out;
};

static bool use_gpr(struct use *use, const ZydisDecodedOperand *op)
{
	unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);
	unsigned host = id;
	if (ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_GPR8 && op->reg.value >= ZYDIS_REGISTER_AH &&
	    op->reg.value <= ZYDIS_REGISTER_BH)
		return false;
	if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_RM) {
		use->rm_gpr = true;
		host = SCRATCH_RM;
	} else if (op->encoding == ZYDIS_OPERAND_ENCODING_MODRM_REG) {
		use->reg_gpr = true;
		host = SCRATCH_REG;
	} else if (op->visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT || id > RDX) {
		return false;
	}
	if (use->gprs == ARRAY_SIZE(use->gpr))
		return false;
	use->gpr[use->gprs].guest = (u8)id;
	use->gpr[use->gprs].host = (u8)host;
	use->gpr[use->gprs].read = op->actions & ZYDIS_OPERAND_ACTION_MASK_READ;
	use->gpr[use->gprs].write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	use->gprs++;
	return true;
}

static bool use_register(struct use *use, const ZydisDecodedOperand *op, enum stub_kind kind)
{
	unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);
	bool write = op->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE;
	switch (ZydisRegisterGetClass(op->reg.value)) {
	case ZYDIS_REGCLASS_YMM:
		use->vec_256 = true;
		/* fallthrough */
	case ZYDIS_REGCLASS_XMM:
		if (id > 15)
			return false;
		/* A legacy instruction may leave parts of its destination: load that too. */
		if (kind != STUB_AVX || op->actions & ZYDIS_OPERAND_ACTION_MASK_READ)
			use->vec_read |= (u16)(1u << id);
		if (write)
			use->vec_write |= (u16)(1u << id);
		return true;
	case ZYDIS_REGCLASS_MMX:
		use->mm_read |= (u8)(1u << id);
		if (write)
			use->mm_write |= (u8)(1u << id);
		return true;
	case ZYDIS_REGCLASS_GPR8:
	case ZYDIS_REGCLASS_GPR16:
	case ZYDIS_REGCLASS_GPR32:
	case ZYDIS_REGCLASS_GPR64:
		return use_gpr(use, op);
	default: /* ST(n), flags, status words: not by number */
		return true;
	}
}

static bool find_use(const struct decode *d, enum stub_kind kind, struct use *use)
{
	for (unsigned i = 0; i < d->zi->operand_count; i++) {
		const ZydisDecodedOperand *op = &d->op[i];
		if (op->type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (op->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN || op->mem.type != ZYDIS_MEMOP_TYPE_MEM)
				return false;
			use->memory = true;
		} else if (op->type == ZYDIS_OPERAND_TYPE_REGISTER && !use_register(use, op, kind)) {
			return false;
		}
	}
	if (d->zi->cpu_flags) {
		const ZydisAccessedFlags *f = d->zi->cpu_flags;
		use->flags_out = f->modified | f->set_0 | f->set_1 | f->undefined;
		/* FCOMI leaves OF, SF and AF, whatever the tables say: start from the guest's. */
		use->flags_in = f->tested || (use->flags_out && kind == STUB_X87);
	}
	return true;
}

/* --- the instruction itself --- */

/* The fourth operand of VBLENDV: a register in bits 7:4 of the immediate. */
static bool has_register_immediate(const struct decode *d)
{
	for (unsigned i = 0; i < d->zi->operand_count; i++)
		if (d->op[i].encoding == ZYDIS_OPERAND_ENCODING_IS4)
			return true;
	return false;
}

static void put_immediate(struct code *c, const struct decode *d)
{
	const ZydisDecodedInstruction *zi = d->zi;
	for (unsigned i = 0; i < 2; i++)
		for (unsigned b = 0; b < zi->raw.imm[i].size / 8; b++)
			put(c, d->bytes[zi->raw.imm[i].offset + b]);
	/* A register in the immediate has three bits outside 64-bit mode. */
	if (zi->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && has_register_immediate(d))
		c->byte[c->length - 1] &= 0x7f;
}

static void put_modrm(struct code *c, const struct decode *d, const struct use *use)
{
	unsigned mod = d->zi->raw.modrm.mod, reg = d->zi->raw.modrm.reg, rm = d->zi->raw.modrm.rm;
	if (use->memory) {
		mod = 0;
		rm = 6; /* RSI */
	} else if (use->rm_gpr) {
		rm = SCRATCH_RM;
	}
	if (use->reg_gpr)
		reg = SCRATCH_REG;
	put(c, (u8)(mod << 6 | reg << 3 | rm));
}

static bool put_legacy(struct code *c, const struct decode *d, const struct use *use)
{
	const ZydisDecodedInstruction *zi = d->zi;
	for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
		u8 p = zi->raw.prefixes[i].value;
		if ((p == 0x66 || p == 0xf2 || p == 0xf3) && zi->raw.prefixes[i].type != ZYDIS_PREFIX_TYPE_IGNORED)
			put(c, p);
	}
	u8 rex = (u8)(zi->raw.rex.W << 3);
	if (!use->reg_gpr)
		rex |= (u8)(zi->raw.rex.R << 2);
	if (!use->memory && !use->rm_gpr)
		rex |= zi->raw.rex.B;
	if (rex)
		put(c, 0x40 | rex);
	if (zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		put(c, 0x0f);
	switch (zi->opcode_map) {
	case ZYDIS_OPCODE_MAP_DEFAULT:
	case ZYDIS_OPCODE_MAP_0F:
		break;
	case ZYDIS_OPCODE_MAP_0F38:
		put(c, 0x38);
		break;
	case ZYDIS_OPCODE_MAP_0F3A:
		put(c, 0x3a);
		break;
	default:
		return false;
	}
	put(c, zi->opcode);
	return true;
}

/* VEX.W chooses the width of a general register or its like in memory: outside 64-bit mode it is ignored. */
static bool w_is_gpr_width(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_VMOVD:
	case ZYDIS_MNEMONIC_VPINSRD:
	case ZYDIS_MNEMONIC_VPEXTRD:
	case ZYDIS_MNEMONIC_VCVTSI2SD:
	case ZYDIS_MNEMONIC_VCVTSI2SS:
	case ZYDIS_MNEMONIC_VCVTSD2SI:
	case ZYDIS_MNEMONIC_VCVTSS2SI:
	case ZYDIS_MNEMONIC_VCVTTSD2SI:
	case ZYDIS_MNEMONIC_VCVTTSS2SI:
	case ZYDIS_MNEMONIC_VPCMPESTRI:
	case ZYDIS_MNEMONIC_VPCMPESTRM:
		return true;
	default:
		return false;
	}
}

static void put_vex(struct code *c, const struct decode *d, const struct use *use)
{
	const u8 *vex = d->bytes + d->zi->raw.vex.offset;
	/* As three bytes: C4, R X B mmmmm, W vvvv L pp; R X B are stored inverted. */
	u8 b1 = vex[0] == 0xc5 ? (vex[1] & 0x80) | 0x61 : vex[1];
	u8 b2 = vex[0] == 0xc5 ? vex[1] & 0x7f : vex[2];
	b1 |= 0x40;
	if (use->memory || use->rm_gpr)
		b1 |= 0x20;
	if (use->reg_gpr)
		b1 |= 0x80;
	if (d->zi->machine_mode != ZYDIS_MACHINE_MODE_LONG_64 && w_is_gpr_width(d->zi->mnemonic))
		b2 &= 0x7f;
	put(c, 0xc4);
	put(c, b1);
	put(c, b2);
	put(c, d->zi->opcode);
}

/*
 * What is about to run on the host is decoded again and must be what was meant: the same instruction, that long, with
 * no memory operand but [RSI], and no general register but the scratch ones. A mistake in the rewriting above would
 * otherwise be the guest's way into this process.
 */
static bool is_as_meant(const u8 *bytes, unsigned length, const struct decode *d)
{
	ZydisDecoder decoder;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, length, &zi, op)) || zi.length != length ||
	    zi.mnemonic != d->zi->mnemonic || zi.meta.branch_type != ZYDIS_BRANCH_TYPE_NONE)
		return false;
	for (unsigned i = 0; i < zi.operand_count; i++) {
		if (op[i].type == ZYDIS_OPERAND_TYPE_MEMORY) {
			if (op[i].mem.base != ZYDIS_REGISTER_RSI || op[i].mem.index != ZYDIS_REGISTER_NONE ||
			    op[i].mem.disp.value || op[i].mem.segment != ZYDIS_REGISTER_DS ||
			    op[i].size > d->op[i].size)
				return false;
		} else if (op[i].type == ZYDIS_OPERAND_TYPE_REGISTER) {
			ZydisRegister r = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, op[i].reg.value);
			if (r > ZYDIS_REGISTER_RDX && r <= ZYDIS_REGISTER_R15)
				return false;
		}
	}
	return true;
}

static bool put_instruction(struct code *c, const struct decode *d, const struct use *use)
{
	unsigned start = c->length;
	if (d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		put_vex(c, d, use);
	else if (d->zi->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY || !put_legacy(c, d, use))
		return false;
	if (d->zi->attributes & ZYDIS_ATTRIB_HAS_MODRM)
		put_modrm(c, d, use);
	put_immediate(c, d);
	bool good = is_as_meant(c->byte + start, c->length - start, d);
	if (!good)
		REPORT("a rewritten %s is not what was meant: refused", ZydisMnemonicGetString(d->zi->mnemonic));
	return good;
}

/* --- the stub around it --- */

static void put_loads(struct code *c, const struct use *use, enum stub_kind kind)
{
	if (kind == STUB_X87)
		PUT(c, 0x48, 0x0f, 0xae, 0x0a); /* FXRSTOR64 [rdx] */
	if (use->flags_in)
		put_load_flags(c);
	for (unsigned i = 0; i < use->gprs; i++)
		if (use->gpr[i].read)
			put_mov_gpr(c, 0x8b, use->gpr[i].host, use->gpr[i].guest);
	for (unsigned n = 0; n < 16; n++) {
		if (!(use->vec_read & 1u << n))
			continue;
		put_movups(c, kind == STUB_AVX, 0x10, n);
		if (use->vec_256)
			put_load_high(c, n);
	}
	for (unsigned n = 0; n < 8; n++) {
		if (use->mm_read & 1u << n) {
			PUT(c, 0x0f, 0x6f); /* MOVQ mm, m64 */
			put_cpu_field(c, n, offsetof(struct cpu, fpu.legacy) + FPU_ST + 16 * n);
		}
	}
}

static void put_stores(struct code *c, const struct use *use, enum stub_kind kind)
{
	for (unsigned n = 0; n < 16; n++) {
		if (!(use->vec_write & 1u << n))
			continue;
		put_movups(c, kind == STUB_AVX, 0x11, n);
		if (kind == STUB_AVX)
			put_store_high(c, n);
	}
	for (unsigned n = 0; n < 8; n++) {
		if (use->mm_write & 1u << n) {
			size_t at = offsetof(struct cpu, fpu.legacy) + FPU_ST + 16 * n;
			PUT(c, 0x0f, 0x7f); /* MOVQ m64, mm */
			put_cpu_field(c, n, at);
			PUT(c, 0x66, 0xc7); /* MOV m16, FFFFh: exponent and sign */
			put_cpu_field(c, 0, at + 8);
			PUT(c, 0xff, 0xff);
		}
	}
	for (unsigned i = 0; i < use->gprs; i++)
		if (use->gpr[i].write)
			put_mov_gpr(c, 0x89, use->gpr[i].host, use->gpr[i].guest);
	if (use->flags_out)
		put_store_flags(c);
	if (kind == STUB_X87)
		PUT(c, 0x48, 0x0f, 0xae, 0x02, 0xdb, 0xe3); /* FXSAVE64 [rdx]; FNINIT */
	if (kind == STUB_MMX)
		PUT(c, 0x0f, 0x77); /* EMMS */
	if (kind == STUB_AVX)
		PUT(c, 0xc5, 0xf8, 0x77); /* VZEROUPPER */
	put(c, 0xc3);
}

/* The stub with this code, old or new; NULL if there is no room. */
static stub_fn share(struct native *native, const struct code *c)
{
	u32 hash = 2166136261u; /* FNV-1a */
	for (unsigned i = 0; i < c->length; i++)
		hash = (hash ^ c->byte[i]) * 16777619u;
	u32 slot = (hash ^ hash >> 16) & (TABLE_SIZE - 1);
	for (; native->table[slot]; slot = (slot + 1) & (TABLE_SIZE - 1)) {
		u32 at = native->table[slot] - 1;
		if (at + c->length <= AREA_SIZE && !memcmp(native->writable + at, c->byte, c->length))
			return (stub_fn)(uintptr_t)(native->executable + at);
	}
	if (native->used + STUB_MAX > AREA_SIZE || native->stubs >= TABLE_SIZE / 2)
		return NULL;
	u32 at = native->used;
	memcpy(native->writable + at, c->byte, c->length);
	native->table[slot] = at + 1;
	native->used = (at + c->length + STUB_ALIGN - 1) & ~(u32)(STUB_ALIGN - 1);
	native->stubs++;
	return (stub_fn)(uintptr_t)(native->executable + at);
}

stub_fn stub_make(const struct decode *d, enum stub_kind kind, bool *full)
{
	struct use use = { 0 };
	struct code code = { .length = 0 };
	*full = false;
	if (!d->cpu->native || !find_use(d, kind, &use))
		return NULL;
	put_loads(&code, &use, kind);
	if (!put_instruction(&code, d, &use))
		return NULL;
	put_stores(&code, &use, kind);
	if (code.length >= STUB_MAX)
		return NULL;
	stub_fn stub = share(d->cpu->native, &code);
	*full = !stub;
	return stub;
}
