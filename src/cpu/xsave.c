/*
 * FXSAVE and the XSAVE family (SDM vol. 1, chapter 13). Components: x87, SSE, AVX, MPX's two, PKRU; no supervisor ones,
 * so IA32_XSS has no bit to set, and XSAVES is XSAVEC with the modified optimization.
 */
#include "cpu/access.h"
#include "cpu/fpu.h"
#include "cpu/native.h"
#include "cpu/vector.h"

enum { LEGACY_SIZE = 512, HEADER_SIZE = 64, AVX_OFFSET = 576, AVX_SIZE = 256 };
enum { BNDREGS_OFFSET = 960, BNDREGS_SIZE = 64, BNDCSR_OFFSET = 1024, BNDCSR_SIZE = 64 };
enum { PKRU_OFFSET = AVX_OFFSET + AVX_SIZE, PKRU_OFFSET_MPX = BNDCSR_OFFSET + BNDCSR_SIZE, PKRU_SIZE = 8 };
enum { AREA_MAX = PKRU_OFFSET_MPX + PKRU_SIZE };

/* Components past the header, in the order of their bits. */
static const struct component {
	u64 bit;
	u16 offset, size; /* in the standard format; see standard_offset() */
} extended[] = {
	{ XCR0_AVX, AVX_OFFSET, AVX_SIZE },
	{ XCR0_BNDREGS, BNDREGS_OFFSET, BNDREGS_SIZE },
	{ XCR0_BNDCSR, BNDCSR_OFFSET, BNDCSR_SIZE },
	{ XCR0_PKRU, PKRU_OFFSET, PKRU_SIZE },
};

#define XCOMP_COMPACT BIT(63)

u64 xsave_supported(const struct cpu *cpu)
{
	return XCR0_X87 | XCR0_SSE | (cpu_has(cpu, FEATURE_AVX) ? XCR0_AVX : 0) |
	       (cpu_has(cpu, FEATURE_PKU) ? XCR0_PKRU : 0) |
	       (cpu_has(cpu, FEATURE_MPX) ? XCR0_BNDREGS | XCR0_BNDCSR : 0);
}

bool xsave_xcr0_valid(const struct cpu *cpu, u64 value)
{
	if (!(value & XCR0_X87) || value & ~xsave_supported(cpu))
		return false;
	if (!(value & XCR0_BNDREGS) != !(value & XCR0_BNDCSR))
		return false;
	return !(value & XCR0_AVX) || value & XCR0_SSE;
}

/* Behind MPX's if there are some: Linux wants the order of the bits in both formats. */
static unsigned standard_offset(const struct cpu *cpu, const struct component *c)
{
	return c->bit == XCR0_PKRU && unlikely(cpu_has(cpu, FEATURE_MPX)) ? PKRU_OFFSET_MPX : c->offset;
}

/* Which components an area has, which decides where they are. */
struct layout {
	u64 components;
	bool compacted;
};

static unsigned component_offset(const struct cpu *cpu, const struct layout *l, u64 bit)
{
	unsigned at = LEGACY_SIZE + HEADER_SIZE;
	for (const struct component *c = extended;; c++) {
		if (c->bit == bit)
			return l->compacted ? at : standard_offset(cpu, c);
		if (l->components & c->bit)
			at += c->size;
	}
}

/* Behind the last of these components. */
static unsigned area_end(const struct cpu *cpu, const struct layout *l, u64 components)
{
	unsigned end = LEGACY_SIZE + HEADER_SIZE;
	for (unsigned i = 0; i < ARRAY_SIZE(extended); i++) {
		if (!(components & extended[i].bit))
			continue;
		unsigned at = component_offset(cpu, l, extended[i].bit) + extended[i].size;
		end = at > end ? at : end;
	}
	return end;
}

u32 xsave_size(const struct cpu *cpu, u64 components, bool compacted)
{
	const struct layout layout = { .components = components, .compacted = compacted };
	return area_end(cpu, &layout, components);
}

u32 xsave_component(const struct cpu *cpu, u64 component, u32 *offset)
{
	const struct component *c = extended;
	while (c->bit != component)
		c++;
	*offset = standard_offset(cpu, c);
	return c->size;
}

/* --- memory, in pieces that access_* takes --- */

void state_read(struct cpu *cpu, u64 linear, void *buffer, unsigned size)
{
	for (unsigned at = 0; at < size; at += 64) {
		unsigned n = size - at < 64 ? size - at : 64;
		access_read(cpu, (linear + at) & linear_mask(cpu), (u8 *)buffer + at, n, cpu->mmu.cls);
	}
}

static void state_probe(struct cpu *cpu, u64 linear, unsigned size)
{
	for (unsigned at = 0; at < size; at += 64) {
		unsigned n = size - at < 64 ? size - at : 64;
		access_probe(cpu, (linear + at) & linear_mask(cpu), n, MMU_WRITE);
	}
}

void state_write(struct cpu *cpu, u64 linear, const void *buffer, unsigned size)
{
	state_probe(cpu, linear, size);
	for (unsigned at = 0; at < size; at += 64) {
		unsigned n = size - at < 64 ? size - at : 64;
		access_write(cpu, (linear + at) & linear_mask(cpu), (const u8 *)buffer + at, n, cpu->mmu.cls);
	}
}

/* --- components in the image --- */

/* How many XMM and YMM registers instructions reach: eight outside 64-bit mode. */
static unsigned vector_registers(const struct cpu *cpu)
{
	return cpu->mode == CPU_LONG ? 16 : 8;
}

static bool all_zero(const u8 *p, size_t n)
{
	return !p[0] && !memcmp(p, p + 1, n - 1);
}

/* SDM vol. 1, 13.6. MXCSR belongs to none of them. */
u64 xsave_in_use(struct cpu *cpu)
{
	u64 in_use = 0;
	const u8 *x = cpu->fpu.legacy;
	if (fpu_fcw(cpu) != FCW_INIT || fpu_fsw(cpu) || fpu_ftw(cpu) || !all_zero(x + FPU_FOP, 18) ||
	    !all_zero(x + FPU_ST, 128))
		in_use |= XCR0_X87;
	if (!all_zero(x + FPU_XMM, 256))
		in_use |= XCR0_SSE;
	if (!all_zero(cpu->fpu.ymm_high[0], AVX_SIZE))
		in_use |= XCR0_AVX;
	if (mmu_pkru(&cpu->mmu))
		in_use |= XCR0_PKRU;
	for (unsigned i = 0; i < ARRAY_SIZE(cpu->bounds.reg); i++)
		if (cpu->bounds.reg[i].lower | cpu->bounds.reg[i].upper)
			in_use |= XCR0_BNDREGS;
	if (cpu->bounds.config | cpu->bounds.status)
		in_use |= XCR0_BNDCSR;
	return in_use;
}

/*
 * The x87 fields at the head of the image. Without REX.W the pointers are 32 bits and a selector each; the CPU keeps
 * no selectors and stores 0.
 */
static void image_put_x87(struct cpu *cpu, u8 *image, bool wide)
{
	memcpy(image, cpu->fpu.legacy, FPU_MXCSR);
	image[5] = 0;
	if (!wide) {
		memset(image + FPU_FIP + 4, 0, 4);
		memset(image + FPU_FDP + 4, 0, 4);
	}
	for (unsigned i = 0; i < 8; i++) {
		memcpy(image + FPU_ST + 16 * i, fpu_st(cpu, i), 10);
		memset(image + FPU_ST + 16 * i + 10, 0, 6);
	}
}

static void image_get_x87(struct cpu *cpu, const u8 *image, bool wide)
{
	memcpy(cpu->fpu.legacy, image, FPU_MXCSR);
	cpu->fpu.legacy[5] = 0;
	fpu_set_fop(cpu, fpu_fop(cpu) & 0x7ff);
	fpu_set_fcw(cpu, (fpu_fcw(cpu) & 0x1f3f) | 0x40);
	if (!wide) {
		fpu_set_fip(cpu, (u32)fpu_fip(cpu));
		fpu_set_fdp(cpu, (u32)fpu_fdp(cpu));
	}
	for (unsigned i = 0; i < 8; i++) {
		memcpy(fpu_st(cpu, i), image + FPU_ST + 16 * i, 10);
		memset(fpu_st(cpu, i) + 10, 0, 6);
	}
	fpu_update_summary(cpu);
}

static void image_put_mxcsr(struct cpu *cpu, u8 *image)
{
	u32 mxcsr = fpu_mxcsr(cpu), mask = MXCSR_VALID;
	memcpy(image + FPU_MXCSR, &mxcsr, 4);
	memcpy(image + FPU_MXCSR_MASK, &mask, 4);
}

static u32 image_mxcsr(const u8 *image)
{
	u32 v;
	memcpy(&v, image + FPU_MXCSR, 4);
	return v;
}

static void x87_to_init(struct cpu *cpu)
{
	memset(cpu->fpu.legacy, 0, FPU_MXCSR);
	memset(fpu_st(cpu, 0), 0, 128);
	fpu_set_fcw(cpu, FCW_INIT);
}

/* --- FXSAVE, FXRSTOR; insn->cond: REX.W --- */

static u64 fx_address(struct cpu *cpu, const struct insn *insn, enum mmu_access access)
{
	if (cpu->cr0 & (CR0_EM | CR0_TS))
		cpu_raise(cpu, VEC_NM);
	u64 linear = access_linear(cpu, insn, LEGACY_SIZE, access);
	if (linear & 15)
		cpu_raise_gp(cpu);
	return linear;
}

/* Bytes 416 to 511 are software's: left as they are. */
static void exec_fxsave(struct cpu *cpu, const struct insn *insn)
{
	u8 image[LEGACY_SIZE];
	u64 linear = fx_address(cpu, insn, MMU_WRITE);
	state_probe(cpu, linear, LEGACY_SIZE);
	image_put_x87(cpu, image, insn->cond);
	image_put_mxcsr(cpu, image);
	unsigned end = FPU_XMM;
	if (cpu->cr4 & CR4_OSFXSR) {
		end += 16 * vector_registers(cpu);
		memcpy(image + FPU_XMM, fpu_xmm(cpu, 0), end - FPU_XMM);
	}
	state_write(cpu, linear, image, end);
}

static void exec_fxrstor(struct cpu *cpu, const struct insn *insn)
{
	u8 image[LEGACY_SIZE];
	u64 linear = fx_address(cpu, insn, MMU_READ);
	state_read(cpu, linear, image, LEGACY_SIZE);
	if (image_mxcsr(image) & ~MXCSR_VALID)
		cpu_raise_gp(cpu);
	image_get_x87(cpu, image, insn->cond);
	if (cpu->cr4 & CR4_OSFXSR) {
		fpu_set_mxcsr(cpu, image_mxcsr(image));
		memcpy(fpu_xmm(cpu, 0), image + FPU_XMM, 16 * vector_registers(cpu));
	}
}

/* --- XSAVE and its kin --- */

static u64 requested(const struct cpu *cpu)
{
	return cpu->xcr0 & ((u64)(u32)cpu->reg[RDX] << 32 | (u32)cpu->reg[RAX]);
}

static u64 xsave_address(struct cpu *cpu, const struct insn *insn, unsigned size, enum mmu_access access)
{
	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, VEC_UD);
	if (cpu->cr0 & CR0_TS)
		cpu_raise(cpu, VEC_NM);
	u64 linear = access_linear(cpu, insn, size, access);
	if (linear & 63)
		cpu_raise_gp(cpu);
	return linear;
}

static void write_field(struct cpu *cpu, u64 linear, const u8 *image, unsigned at, unsigned size)
{
	if (size)
		state_write(cpu, (linear + at) & linear_mask(cpu), image + at, size);
}

static void write_extended(struct cpu *cpu, u64 linear, const struct layout *l, u64 bit, const void *from,
			   unsigned size)
{
	state_write(cpu, (linear + component_offset(cpu, l, bit)) & linear_mask(cpu), from, size);
}

static void write_bounds(struct cpu *cpu, u64 linear, const struct layout *l, u64 store)
{
	const u64 csr[BNDCSR_SIZE / 8] = { cpu->bounds.config, cpu->bounds.status };
	if (store & XCR0_BNDREGS)
		write_extended(cpu, linear, l, XCR0_BNDREGS, cpu->bounds.reg, BNDREGS_SIZE);
	if (store & XCR0_BNDCSR)
		write_extended(cpu, linear, l, XCR0_BNDCSR, csr, BNDCSR_SIZE);
}

static void write_components(struct cpu *cpu, u64 linear, const struct layout *l, u64 store, bool mxcsr, bool wide)
{
	u8 image[LEGACY_SIZE];
	unsigned n = vector_registers(cpu);
	if (store & XCR0_X87) {
		image_put_x87(cpu, image, wide);
		write_field(cpu, linear, image, 0, FPU_MXCSR);
		write_field(cpu, linear, image, FPU_ST, 128);
	}
	if (mxcsr) {
		image_put_mxcsr(cpu, image);
		write_field(cpu, linear, image, FPU_MXCSR, 8);
	}
	if (store & XCR0_SSE)
		state_write(cpu, (linear + FPU_XMM) & linear_mask(cpu), fpu_xmm(cpu, 0), 16 * n);
	if (store & XCR0_AVX)
		state_write(cpu, (linear + AVX_OFFSET) & linear_mask(cpu), cpu->fpu.ymm_high[0], 16 * n);
	if (unlikely(store & (XCR0_BNDREGS | XCR0_BNDCSR)))
		write_bounds(cpu, linear, l, store);
	if (store & XCR0_PKRU)
		mem_write64(cpu, linear + component_offset(cpu, l, XCR0_PKRU), mmu_pkru(&cpu->mmu));
}

/* XSAVE, XSAVEOPT: standard format. XSTATE_BV bits outside the request stay as memory has them. */
static void save_standard(struct cpu *cpu, const struct insn *insn, bool optimized)
{
	u64 rfbm = requested(cpu);
	unsigned size = xsave_size(cpu, rfbm, false);
	u64 linear = xsave_address(cpu, insn, size, MMU_WRITE);
	u64 in_use = xsave_in_use(cpu);
	state_probe(cpu, linear, size);
	u64 bv = mem_read64(cpu, linear + LEGACY_SIZE);
	bv = (bv & ~rfbm) | (rfbm & in_use);
	const struct layout layout = { .components = rfbm };
	write_components(cpu, linear, &layout, optimized ? rfbm & in_use : rfbm, rfbm & (XCR0_SSE | XCR0_AVX),
			 insn->cond);
	mem_write64(cpu, linear + LEGACY_SIZE, bv);
}

static void exec_xsave(struct cpu *cpu, const struct insn *insn)
{
	save_standard(cpu, insn, false);
}

static void exec_xsaveopt(struct cpu *cpu, const struct insn *insn)
{
	save_standard(cpu, insn, true);
}

/* XSAVEC, XSAVES: compacted, initial components not written. Here MXCSR counts as part of SSE. */
static void exec_xsave_compacted(struct cpu *cpu, const struct insn *insn)
{
	u64 rfbm = requested(cpu);
	unsigned size = xsave_size(cpu, rfbm, true);
	u64 linear = xsave_address(cpu, insn, size, MMU_WRITE);
	u64 in_use = xsave_in_use(cpu);
	if (fpu_mxcsr(cpu) != MXCSR_INIT)
		in_use |= XCR0_SSE;
	u64 bv = rfbm & in_use, comp = rfbm | XCOMP_COMPACT;
	state_probe(cpu, linear, size);
	const struct layout layout = { .components = rfbm, .compacted = true };
	write_components(cpu, linear, &layout, bv, bv & XCR0_SSE, insn->cond);
	mem_write64(cpu, linear + LEGACY_SIZE, bv);
	mem_write64(cpu, linear + LEGACY_SIZE + 8, comp);
}

/* --- XRSTOR, XRSTORS; insn->imm: the latter --- */

struct header {
	u64 bv, comp;
	u8 reserved[48];
};

/* SDM vol. 1, 13.8 and 13.12. */
static bool header_valid(const struct cpu *cpu, const struct header *h, bool supervisor)
{
	if (h->comp & XCOMP_COMPACT) {
		u64 comp = h->comp & ~XCOMP_COMPACT;
		return !(comp & ~cpu->xcr0) && !(h->bv & ~comp) && all_zero(h->reserved, 48);
	}
	/* Standard form: XCOMP_BV and the next 8 bytes must be 0. */
	return !supervisor && !h->comp && !(h->bv & ~cpu->xcr0) && all_zero(h->reserved, 8);
}

/* BNDCFGU takes any value, and keeps what is defined of it, its address made canonical (SDM vol. 1, 17.3.3). */
static u64 bndcfgu_of(const struct cpu *cpu, u64 value)
{
	return sign_extend(value & BNDCFG_DEFINED, cpu_has(cpu, FEATURE_LA57) ? 57 : 48);
}

static void load_bounds(struct cpu *cpu, const u8 *image, const struct layout *l, u64 rfbm, u64 bv)
{
	if (rfbm & XCR0_BNDREGS) {
		memset(cpu->bounds.reg, 0, sizeof(cpu->bounds.reg));
		if (bv & XCR0_BNDREGS)
			memcpy(cpu->bounds.reg, image + component_offset(cpu, l, XCR0_BNDREGS), BNDREGS_SIZE);
	}
	if (rfbm & XCR0_BNDCSR) {
		u64 csr[2] = { 0 };
		if (bv & XCR0_BNDCSR)
			memcpy(csr, image + component_offset(cpu, l, XCR0_BNDCSR), sizeof(csr));
		cpu->bounds.config = bndcfgu_of(cpu, csr[0]);
		cpu->bounds.status = csr[1];
	}
}

static void load_components(struct cpu *cpu, const u8 *image, const struct layout *l, u64 rfbm, u64 bv, bool wide)
{
	unsigned n = vector_registers(cpu);
	if (rfbm & XCR0_X87) {
		if (bv & XCR0_X87)
			image_get_x87(cpu, image, wide);
		else
			x87_to_init(cpu);
	}
	if (rfbm & XCR0_SSE) {
		if (bv & XCR0_SSE)
			memcpy(fpu_xmm(cpu, 0), image + FPU_XMM, 16 * n);
		else
			memset(fpu_xmm(cpu, 0), 0, 16 * n);
	}
	if (rfbm & XCR0_AVX) {
		if (bv & XCR0_AVX)
			memcpy(cpu->fpu.ymm_high[0], image + AVX_OFFSET, 16 * n);
		else
			memset(cpu->fpu.ymm_high[0], 0, 16 * n);
	}
	if (rfbm & XCR0_PKRU) {
		u32 pkru = 0;
		if (bv & XCR0_PKRU)
			memcpy(&pkru, image + component_offset(cpu, l, XCR0_PKRU), sizeof(pkru));
		mmu_set_pkru(&cpu->mmu, pkru);
	}
	if (unlikely(rfbm & (XCR0_BNDREGS | XCR0_BNDCSR)))
		load_bounds(cpu, image, l, rfbm, bv);
}

static void read_extended(struct cpu *cpu, u64 linear, const struct layout *l, const struct component *c, u8 *image)
{
	unsigned at = component_offset(cpu, l, c->bit);
	state_read(cpu, (linear + at) & linear_mask(cpu), image + at, c->size);
}

static void exec_xrstor(struct cpu *cpu, const struct insn *insn)
{
	u8 image[AREA_MAX];
	struct header h;
	u64 rfbm = requested(cpu);
	u64 linear = xsave_address(cpu, insn, LEGACY_SIZE + HEADER_SIZE, MMU_READ);
	state_read(cpu, (linear + LEGACY_SIZE) & linear_mask(cpu), &h, sizeof(h));
	if (!header_valid(cpu, &h, insn->imm))
		cpu_raise_gp(cpu);
	bool compacted = h.comp & XCOMP_COMPACT;
	/* What is restored from memory; what is requested but not there becomes initial. */
	u64 load = rfbm & h.bv;
	const struct layout layout = { .components = h.comp, .compacted = compacted };
	access_linear(cpu, insn, area_end(cpu, &layout, load), MMU_READ);
	state_read(cpu, linear, image, LEGACY_SIZE);
	for (unsigned i = 0; i < ARRAY_SIZE(extended); i++)
		if (load & extended[i].bit)
			read_extended(cpu, linear, &layout, &extended[i], image);
	/* Standard form: MXCSR comes with SSE or AVX whether in use or not. Compacted: with SSE, initial if not in use.
	 */
	bool mxcsr = compacted ? load & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
	if (mxcsr && image_mxcsr(image) & ~MXCSR_VALID)
		cpu_raise_gp(cpu);
	load_components(cpu, image, &layout, rfbm, h.bv, insn->cond);
	if (mxcsr)
		fpu_set_mxcsr(cpu, image_mxcsr(image));
	else if (compacted && rfbm & XCR0_SSE)
		fpu_set_mxcsr(cpu, MXCSR_INIT);
	/* What follows in the block was decoded for another mode. */
	if (unlikely(rfbm & XCR0_BNDCSR) && cpu_update_bounds(cpu))
		cpu_resume(cpu);
}

bool xsave_select(const struct decode *d, struct insn *insn)
{
	insn->cond = d->zi->raw.rex.W;
	insn->imm = 0;
	if (d->zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		return false;
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
		insn->exec = exec_fxsave;
		return true;
	case ZYDIS_MNEMONIC_FXRSTOR:
	case ZYDIS_MNEMONIC_FXRSTOR64:
		insn->exec = exec_fxrstor;
		return true;
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
		insn->exec = exec_xsave;
		return true;
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		insn->exec = exec_xsaveopt;
		return true;
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVES:
	case ZYDIS_MNEMONIC_XSAVES64:
		insn->exec = exec_xsave_compacted;
		return true;
	case ZYDIS_MNEMONIC_XRSTORS:
	case ZYDIS_MNEMONIC_XRSTORS64:
		insn->imm = 1;
		insn->exec = exec_xrstor;
		return true;
	default:
		insn->exec = exec_xrstor;
		return true;
	}
}
