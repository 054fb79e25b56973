/*
 * SSE, AVX and MMX instructions on the host (native.h): choice of the form at decode time, and the handlers that bring
 * memory operands to the stub and back. x87 is in x87.c, what C does better or must do by element in vector.c.
 *
 * Fields of struct insn here: stub; opsize = bytes of the memory operand; cond = alignment the operand needs, less one.
 */
#include "cpu/native.h"

#include "cpu/access.h"
#include "cpu/fpu.h"
#include "cpu/vector.h"

/* --- availability --- */

void sse_unavailable(struct cpu *cpu)
{
	cpu_raise(cpu, (cpu->cr0 & CR0_EM) || !(cpu->cr4 & CR4_OSFXSR) ? VEC_UD : VEC_NM);
}

void avx_unavailable(struct cpu *cpu)
{
	const u64 needed = XCR0_SSE | XCR0_AVX;
	bool ud = !(cpu->cr4 & CR4_OSXSAVE) || (cpu->xcr0 & needed) != needed || cpu->mode <= CPU_V86;
	cpu_raise(cpu, ud ? VEC_UD : VEC_NM);
}

/* --- running a stub --- */

static inline stub_fn stub_of(const struct insn *insn)
{
	return (stub_fn)(uintptr_t)insn->stub;
}

/* An unmasked exception leaves everything but the flags in MXCSR as it was (SDM vol. 1, 11.5.2). */
static void run_unmasked(struct cpu *cpu, const struct insn *insn, void *memory, u32 mxcsr)
{
	bool done = native_run_trapped(stub_of(insn), cpu, memory, &mxcsr);
	fpu_set_mxcsr(cpu, mxcsr);
	if (!done)
		cpu_raise(cpu, cpu->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
}

static inline void run_fp(struct cpu *cpu, const struct insn *insn, void *memory)
{
	u32 guest = fpu_mxcsr(cpu);
	if (unlikely((guest & MXCSR_INIT) != MXCSR_INIT)) {
		run_unmasked(cpu, insn, memory, guest);
		return;
	}
	host_set_mxcsr(guest);
	stub_of(insn)(cpu, memory, NULL);
	fpu_set_mxcsr(cpu, host_mxcsr());
	host_set_mxcsr(MXCSR_INIT);
}

/* --- the three shapes --- */

struct bounce {
	u8 bytes[64];
} __attribute__((aligned(64)));

/* Address of the memory operand, checked for segment and alignment. */
static inline u64 operand_address(struct cpu *cpu, const struct insn *insn, enum mmu_access access)
{
	u64 linear = access_linear(cpu, insn, insn->opsize, access);
	if (unlikely(linear & insn->cond))
		cpu_raise_gp(cpu);
	return linear;
}

/* The operand's bytes: in place if the TLB has them, else in the bounce buffer. */
static inline void *operand_load(struct cpu *cpu, const struct insn *insn, struct bounce *bounce)
{
	u64 linear = operand_address(cpu, insn, MMU_READ);
	u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, insn->opsize, false);
	if (likely(p))
		return p;
	access_read(cpu, linear, bounce->bytes, insn->opsize, cpu->mmu.cls);
	return bounce->bytes;
}

static inline void check(struct cpu *cpu, bool avx)
{
	if (avx)
		avx_check(cpu);
	else
		sse_check(cpu);
}

static inline void run(struct cpu *cpu, const struct insn *insn, void *memory, bool fp)
{
	if (fp)
		run_fp(cpu, insn, memory);
	else
		stub_of(insn)(cpu, memory, NULL);
}

static inline void run_store(struct cpu *cpu, const struct insn *insn, bool fp)
{
	struct bounce bounce;
	u64 linear = operand_address(cpu, insn, MMU_WRITE);
	u8 *p = fp ? NULL : access_hit(cpu, cpu->mmu.tlb, linear, insn->opsize, true);
	if (likely(p)) {
		stub_of(insn)(cpu, p, NULL);
		return;
	}
	if (fp) /* flags of MXCSR must not change if the page cannot be written */
		access_probe(cpu, linear, insn->opsize, MMU_WRITE);
	run(cpu, insn, bounce.bytes, fp);
	access_write(cpu, linear, bounce.bytes, insn->opsize, cpu->mmu.cls);
}

#define HANDLERS(name, avx, fp)                                                                                        \
	static void name##_reg(struct cpu *cpu, const struct insn *insn)                                               \
	{                                                                                                              \
		check(cpu, avx);                                                                                       \
		run(cpu, insn, NULL, fp);                                                                              \
	}                                                                                                              \
	static void name##_load(struct cpu *cpu, const struct insn *insn)                                              \
	{                                                                                                              \
		struct bounce bounce;                                                                                  \
		check(cpu, avx);                                                                                       \
		run(cpu, insn, operand_load(cpu, insn, &bounce), fp);                                                  \
	}                                                                                                              \
	static void name##_store(struct cpu *cpu, const struct insn *insn)                                             \
	{                                                                                                              \
		check(cpu, avx);                                                                                       \
		run_store(cpu, insn, fp);                                                                              \
	}
HANDLERS(sse, false, false)
HANDLERS(sse_fp, false, true)
HANDLERS(avx, true, false)
HANDLERS(avx_fp, true, true)
#undef HANDLERS

/* --- MMX --- */

void mmx_switch(struct cpu *cpu)
{
	fpu_set_top(cpu, 0);
	fpu_set_ftw(cpu, 0xff);
}

/* insn->imm: MMX_* */
enum { MMX_FP = 1, MMX_SSE = 2 };

static void mmx_check(struct cpu *cpu, const struct insn *insn)
{
	if ((cpu->cr0 & CR0_EM) || (insn->imm & MMX_SSE && !(cpu->cr4 & CR4_OSFXSR)))
		cpu_raise(cpu, VEC_UD);
	x87_check(cpu);
}

static void mmx_run(struct cpu *cpu, const struct insn *insn, void *memory)
{
	fpu_set_top(cpu, 0);
	fpu_set_ftw(cpu, 0xff);
	if (insn->imm & MMX_FP)
		run_fp(cpu, insn, memory);
	else
		stub_of(insn)(cpu, memory, NULL);
}

static void mmx_reg(struct cpu *cpu, const struct insn *insn)
{
	mmx_check(cpu, insn);
	mmx_run(cpu, insn, NULL);
}

static void mmx_load(struct cpu *cpu, const struct insn *insn)
{
	struct bounce bounce;
	mmx_check(cpu, insn);
	mmx_run(cpu, insn, operand_load(cpu, insn, &bounce));
}

static void mmx_store(struct cpu *cpu, const struct insn *insn)
{
	struct bounce bounce;
	mmx_check(cpu, insn);
	u64 linear = operand_address(cpu, insn, MMU_WRITE);
	access_probe(cpu, linear, insn->opsize, MMU_WRITE);
	mmx_run(cpu, insn, bounce.bytes);
	access_write(cpu, linear, bounce.bytes, insn->opsize, cpu->mmu.cls);
}

/* --- choice --- */

/* The feature that this form needs, by Zydis' instruction sets. FEATURE_COUNT: not for our guests. */
static enum feature form_feature(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.isa_set) {
	case ZYDIS_ISA_SET_PENTIUMMMX:
		return FEATURE_MMX;
	case ZYDIS_ISA_SET_SSE:
	case ZYDIS_ISA_SET_SSEMXCSR:
		return FEATURE_SSE;
	case ZYDIS_ISA_SET_SSE2:
	case ZYDIS_ISA_SET_SSE2MMX:
		return FEATURE_SSE2;
	case ZYDIS_ISA_SET_SSE3:
	case ZYDIS_ISA_SET_SSE3X87:
		return FEATURE_SSE3;
	case ZYDIS_ISA_SET_SSSE3:
	case ZYDIS_ISA_SET_SSSE3MMX:
		return FEATURE_SSSE3;
	case ZYDIS_ISA_SET_SSE4:
		return FEATURE_SSE41;
	case ZYDIS_ISA_SET_SSE42:
		return FEATURE_SSE42;
	case ZYDIS_ISA_SET_AES:
	case ZYDIS_ISA_SET_AVXAES:
		return FEATURE_AES;
	case ZYDIS_ISA_SET_PCLMULQDQ:
		return FEATURE_PCLMULQDQ;
	case ZYDIS_ISA_SET_SHA:
		return FEATURE_SHA;
	case ZYDIS_ISA_SET_AVX:
		return zi->mnemonic == ZYDIS_MNEMONIC_VPCLMULQDQ ? FEATURE_PCLMULQDQ : FEATURE_AVX;
	case ZYDIS_ISA_SET_AVX2:
	case ZYDIS_ISA_SET_AVX2GATHER:
		return FEATURE_AVX2;
	case ZYDIS_ISA_SET_FMA:
		return FEATURE_FMA;
	case ZYDIS_ISA_SET_F16C:
		return FEATURE_F16C;
	default: /* VAES, GFNI, VPCLMULQDQ, AVX-512, AVX-VNNI, XOP, FMA4, SSE4A, 3DNow */
		return FEATURE_COUNT;
	}
}

bool vector_form_exists(const struct decode *d)
{
	enum feature f = form_feature(d->zi);
	if (f == FEATURE_COUNT || !cpu_has(d->cpu, f))
		return false;
	return d->zi->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX || cpu_has(d->cpu, FEATURE_AVX);
}

/* Does the instruction obey and change MXCSR? By exception class, and the MMX conversions, which have none. */
static bool uses_mxcsr(const ZydisDecodedInstruction *zi)
{
	switch (zi->meta.exception_class) {
	case ZYDIS_EXCEPTION_CLASS_SSE2:
	case ZYDIS_EXCEPTION_CLASS_SSE3:
	case ZYDIS_EXCEPTION_CLASS_AVX2:
	case ZYDIS_EXCEPTION_CLASS_AVX3:
	case ZYDIS_EXCEPTION_CLASS_AVX11:
		return true;
	default:
		break;
	}
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_CVTPD2PI:
	case ZYDIS_MNEMONIC_CVTPI2PD:
	case ZYDIS_MNEMONIC_CVTPI2PS:
	case ZYDIS_MNEMONIC_CVTPS2PI:
	case ZYDIS_MNEMONIC_CVTTPD2PI:
	case ZYDIS_MNEMONIC_CVTTPS2PI:
		return true;
	default:
		return false;
	}
}

/* Alignment of the memory operand less one: 16-byte operands of legacy SSE but for a few, explicitly aligned VEX moves.
 */
static u8 alignment_mask(const ZydisDecodedInstruction *zi, unsigned bytes)
{
	switch (zi->mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_PCMPESTRI:
	case ZYDIS_MNEMONIC_PCMPESTRM:
	case ZYDIS_MNEMONIC_PCMPISTRI:
	case ZYDIS_MNEMONIC_PCMPISTRM:
		return 0;
	default:
		break;
	}
	if (zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX)
		return zi->meta.exception_class == ZYDIS_EXCEPTION_CLASS_AVX1 ? (u8)(bytes - 1) : 0;
	return bytes == 16 ? 15 : 0;
}

const ZydisDecodedOperand *vector_memory_operand(const struct decode *d)
{
	for (unsigned i = 0; i < d->zi->operand_count_visible; i++)
		if (d->op[i].type == ZYDIS_OPERAND_TYPE_MEMORY)
			return &d->op[i];
	return NULL;
}

static bool uses_mmx(const struct decode *d, bool *uses_xmm)
{
	bool mmx = false;
	*uses_xmm = false;
	for (unsigned i = 0; i < d->zi->operand_count; i++) {
		if (d->op[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		ZydisRegisterClass c = ZydisRegisterGetClass(d->op[i].reg.value);
		mmx |= c == ZYDIS_REGCLASS_MMX;
		*uses_xmm |= c == ZYDIS_REGCLASS_XMM;
	}
	return mmx;
}

/* Handlers by shape: register, load, store. */
static const insn_fn handlers[][3] = {
	{ sse_reg, sse_load, sse_store }, { sse_fp_reg, sse_fp_load, sse_fp_store },
	{ avx_reg, avx_load, avx_store }, { avx_fp_reg, avx_fp_load, avx_fp_store },
	{ mmx_reg, mmx_load, mmx_store },
};

bool native_select(const struct decode *d, struct insn *insn)
{
	const ZydisDecodedOperand *memory = vector_memory_operand(d);
	bool vex = d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	bool fp = uses_mxcsr(d->zi), xmm, full;
	unsigned shape = 0;

	if (!vector_form_exists(d) || d->zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		return false;
	if (memory) {
		insn->opsize = (u8)(memory->size / 8);
		insn->cond = alignment_mask(d->zi, insn->opsize);
		shape = memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? 2 : 1;
	}
	if (vector_move_select(d, insn))
		return true;
	/* CVTPI2PS and CVTPI2PD from memory use no MMX register and do not switch to MMX. */
	bool mmx = uses_mmx(d, &xmm);
	stub_fn stub = stub_make(d, mmx ? STUB_MMX : vex ? STUB_AVX : STUB_SSE, &full);
	if (full) {
		insn->exec = native_exec_full;
		return true;
	}
	insn->stub = (void *)(uintptr_t)stub;
	if (mmx)
		insn->imm = (fp ? MMX_FP : 0) | (xmm ? MMX_SSE : 0);
	insn->exec = handlers[mmx ? 4 : 2 * vex + fp][shape];
	return stub;
}
