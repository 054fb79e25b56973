/*
 * The guest's vector registers in the host's. While cpu->vectors is not VECTORS_NONE, XMM0 to XMM15 (with their upper
 * halves from VECTORS_AVX on) and MXCSR hold the guest's, and cpu->fpu is stale; C code never sees that: the way from
 * translated code to C stores them first, the way out too. Translated code loads them where it begins to use them: at a
 * block's entry, or behind the handler after which they are used.
 *
 * They are loaded only if nothing but memory can make a vector instruction fault: no #UD, no #NM, and all SIMD
 * exceptions masked. Otherwise the interpreter runs the block.
 *
 * VECTORS_AVX means that all upper halves are zero, in memory and in the host: then they need not be moved, and legacy
 * SSE instructions, which must keep them, run at full speed.
 */
#include "jit/translation.h"

#include "cpu/fpu.h"

u8 jit_vectors_allowed(const struct cpu *cpu)
{
	const u64 avx = XCR0_SSE | XCR0_AVX;
	if (cpu->cr0 & (CR0_EM | CR0_TS) || !(cpu->cr4 & CR4_OSFXSR) || (fpu_mxcsr(cpu) & MXCSR_INIT) != MXCSR_INIT)
		return VECTORS_NONE;
	return cpu->cr4 & CR4_OSXSAVE && (cpu->xcr0 & avx) == avx ? VECTORS_UPPER : VECTORS_SSE;
}

/* --- instructions of the stubs --- */

static i32 xmm_offset(unsigned n)
{
	return (i32)(offsetof(struct cpu, fpu.legacy) + FPU_XMM + 16 * n);
}

static i32 upper_offset(unsigned n)
{
	return (i32)(offsetof(struct cpu, fpu.ymm_high) + 16 * n);
}

static void emit_set_vectors(struct emit *e, u8 value)
{
	emit_set_byte(e, CPU_FIELD(vectors), value);
}

/* VEX instruction on register n, [CPU + disp32], as three bytes; second source vvvv. */
static void emit_vex_cpu(struct emit *e, unsigned map, unsigned last, u8 opcode, unsigned n, i32 disp)
{
	emit8(e, 0xc4);
	emit8(e, (u8)((n < 8 ? 0x80 : 0) | 0x40 | map)); /* R, X = 0, B = 1 for R15 */
	emit8(e, (u8)last);
	emit8(e, opcode);
	emit_modrm(e, n, HOST_CPU, HOST_NONE, 0, disp);
}

static void emit_move_lower(struct emit *e, u8 opcode)
{
	for (unsigned n = 0; n < 16; n++)
		emit_rm(e, (struct opcode){ .byte = opcode, .map = 1 }, n, HOST_CPU, HOST_NONE, 0, xmm_offset(n));
}

/* ZF = all upper halves in memory are zero: VORPS all of them, VPTEST. Uses XMM0. */
static void emit_test_uppers(struct emit *e)
{
	emit_rm(e, (struct opcode){ .byte = 0x10, .map = 1 }, 0, HOST_CPU, HOST_NONE, 0, upper_offset(0));
	for (unsigned n = 1; n < 16; n++)
		emit_vex_cpu(e, 1, 0x78, 0x56, 0, upper_offset(n));
	static const u8 vptest[] = { 0xc4, 0xe2, 0x79, 0x17, 0xc0 };
	for (unsigned i = 0; i < sizeof(vptest); i++)
		emit8(e, vptest[i]);
}

/* VINSERTF128 YMMn, YMMn, half, 1. */
static void emit_load_uppers(struct emit *e)
{
	for (unsigned n = 0; n < 16; n++) {
		emit_vex_cpu(e, 3, 0x05 | (~n & 15) << 3, 0x18, n, upper_offset(n));
		emit8(e, 1);
	}
}

/* VEXTRACTF128 half, YMMn, 1; then VZEROUPPER, as C code wants it. */
static void emit_store_uppers(struct emit *e)
{
	for (unsigned n = 0; n < 16; n++) {
		emit_vex_cpu(e, 3, 0x7d, 0x19, n, upper_offset(n));
		emit8(e, 1);
	}
	emit8(e, 0xc5);
	emit8(e, 0xf8);
	emit8(e, 0x77);
}

/* LDMXCSR 2, STMXCSR 3. */
static void emit_mxcsr(struct emit *e, unsigned n)
{
	emit_rm(e, (struct opcode){ .byte = 0xae, .map = 1 }, n, HOST_CPU, HOST_NONE, 0,
		(i32)(offsetof(struct cpu, fpu.legacy) + FPU_MXCSR));
}

static void emit_ret(struct emit *e)
{
	emit8(e, 0xc3);
}

/* --- the stubs --- */

/* Loads what is allowed; cpu->vectors is VECTORS_NONE. */
static void make_load(struct emit *e)
{
	emit_mxcsr(e, 2);
	emit_byte(e, 7, CPU_FIELD(vectors_allowed), VECTORS_SSE);
	u8 *avx = emit_jcc(e, COND_NZ, NULL);
	emit_move_lower(e, 0x10);
	emit_set_vectors(e, VECTORS_SSE);
	emit_ret(e);
	emit_patch(e, avx, e->at);
	emit_test_uppers(e);
	u8 *upper = emit_jcc(e, COND_NZ, NULL);
	emit_move_lower(e, 0x10);
	emit_set_vectors(e, VECTORS_AVX);
	emit_ret(e);
	emit_patch(e, upper, e->at);
	emit_move_lower(e, 0x10);
	emit_load_uppers(e);
	emit_set_vectors(e, VECTORS_UPPER);
	emit_ret(e);
}

/*
 * Stores what is loaded, and gives the host its MXCSR; changes no general register. The legacy moves come when the
 * upper halves are clean.
 */
static void make_store(struct emit *e, const u8 *host_mxcsr)
{
	emit_byte(e, 7, CPU_FIELD(vectors), VECTORS_UPPER);
	u8 *lower = emit_jcc(e, COND_NZ, NULL);
	emit_store_uppers(e);
	emit_patch(e, lower, e->at);
	emit_mxcsr(e, 3);
	emit_move_lower(e, 0x11);
	emit8(e, 0x0f); /* LDMXCSR [RIP + disp32] */
	emit8(e, 0xae);
	emit8(e, 0x15);
	emit32(e, (u32)(host_mxcsr - (e->at + 4)));
	emit_set_vectors(e, VECTORS_NONE);
	emit_ret(e);
}

/* `level` or more is loaded when this returns; with upper halves, they are to be stored from now on. */
static void make_load_level(struct emit *e, const u8 *load, u8 level)
{
	emit_byte(e, 7, CPU_FIELD(vectors), VECTORS_NONE);
	u8 *loaded = emit_jcc(e, COND_NZ, NULL);
	emit_call(e, load);
	emit_patch(e, loaded, e->at);
	if (level == VECTORS_UPPER)
		emit_set_vectors(e, VECTORS_UPPER);
	emit_ret(e);
}

/* At a block's entry, T1 = site: loads, or has the interpreter run the block. */
static void make_enter_level(struct emit *e, const struct jit *jit, u8 level)
{
	emit_byte(e, 7, CPU_FIELD(vectors_allowed), level);
	emit_jcc(e, COND_AE, jit->stub_load_vectors[level]);
	emit_alu_imm(e, 0, true, HOST_RSP, 8);
	emit_jmp(e, jit->stub_interpret);
}

void jit_make_vector_stubs(struct jit *jit, struct emit *e)
{
	const u8 *host_mxcsr = e->at;
	emit32(e, MXCSR_INIT);
	const u8 *load = e->at;
	make_load(e);
	jit->stub_store_vectors = e->at;
	make_store(e, host_mxcsr);
	for (u8 level = VECTORS_SSE; level <= VECTORS_UPPER; level++) {
		jit->stub_load_vectors[level] = e->at;
		make_load_level(e, load, level);
	}
}

void jit_make_vector_entries(struct jit *jit, struct emit *e)
{
	for (u8 level = VECTORS_SSE; level <= VECTORS_UPPER; level++) {
		jit->stub_enter_vectors[level] = e->at;
		make_enter_level(e, jit, level);
	}
}

void emit_store_vectors(struct emit *e, const struct jit *jit)
{
	emit_byte(e, 7, CPU_FIELD(vectors), VECTORS_NONE);
	u8 *none = emit_jcc(e, COND_Z, NULL);
	emit_call(e, jit->stub_store_vectors);
	emit_patch(e, none, e->at);
}

u8 *emit_vectors_missing(struct translation *t, u8 level)
{
	emit_byte(&t->e, 7, CPU_FIELD(vectors), level);
	return emit_jcc(&t->e, COND_B, NULL);
}
