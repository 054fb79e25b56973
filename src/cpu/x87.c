/*
 * x87. Computing instructions run on the host, on a copy of the guest's registers that becomes the guest's when all is
 * done; whatever loads, stores or initializes the control state is done here. Exceptions stay as the architecture has
 * them: an instruction only marks its unmasked ones in FSW, and the next waiting one raises #MF.
 *
 * FIP, FDP and FOP are kept here: those of the host's image are meaningless.
 */
#include "base/trace.h"
#include "cpu/access.h"
#include "cpu/block.h"
#include "cpu/fpu.h"
#include "cpu/native.h"
#include "cpu/vector.h"

void fpu_reset(struct cpu *cpu, bool init_signal)
{
	if (init_signal) /* INIT leaves x87, SSE and AVX state alone (SDM vol. 3, table 10-1) */
		return;
	memset(&cpu->fpu, 0, sizeof(cpu->fpu));
	/* Not 0040h and full, as RESET has them, but as FNINIT in the firmware leaves them: some kernels rely on it. */
	fpu_set_fcw(cpu, 0x37f);
	fpu_set_ftw(cpu, 0);
	fpu_set_mxcsr(cpu, MXCSR_INIT);
	u32 mask = MXCSR_VALID;
	memcpy(cpu->fpu.legacy + FPU_MXCSR_MASK, &mask, 4);
}

void fpu_set_top(struct cpu *cpu, unsigned top)
{
	unsigned by = (top - (fpu_fsw(cpu) >> 11)) & 7;
	if (likely(!by))
		return;
	u8 old[8][16];
	memcpy(old, fpu_st(cpu, 0), sizeof(old));
	for (unsigned i = 0; i < 8; i++)
		memcpy(fpu_st(cpu, i), old[(i + by) & 7], 16);
	fpu_set_fsw(cpu, (fpu_fsw(cpu) & (u16)~FSW_TOP) | (u16)(top << 11));
}

/* Exceptions that are flagged and not masked. */
static u16 pending_errors(const struct cpu *cpu)
{
	return fpu_fsw(cpu) & ~fpu_fcw(cpu) & FSW_ERRORS;
}

void fpu_update_summary(struct cpu *cpu)
{
	u16 fsw = fpu_fsw(cpu) & (u16) ~(FSW_ES | FSW_B);
	fpu_set_fsw(cpu, pending_errors(cpu) ? fsw | FSW_ES | FSW_B : fsw);
}

/* #NM of x87 instructions; WAIT has its own rule. */
static void x87_available(struct cpu *cpu)
{
	if (unlikely(cpu->cr0 & (CR0_EM | CR0_TS)))
		cpu_raise(cpu, VEC_NM);
}

static void x87_pending(struct cpu *cpu)
{
	if (likely(!pending_errors(cpu)))
		return;
	if (cpu->cr0 & CR0_NE)
		cpu_raise(cpu, VEC_MF);
	/* The board wires no FERR# to IRQ 13; the processor behaves as with IGNNE# asserted. */
	REPORT("x87 exception with CR0.NE = 0 at %#llx ignored", (unsigned long long)cpu->rip_start);
}

void x87_check(struct cpu *cpu)
{
	x87_available(cpu);
	x87_pending(cpu);
}

/* --- on the host --- */

struct x87_image {
	u8 bytes[512];
} __attribute__((aligned(64)));

/* Runs the stub on a copy of the guest's state, without what may be pending (only if IGNNE# is on). */
static void x87_run(struct cpu *cpu, const struct insn *insn, void *memory, struct x87_image *image)
{
	u32 mxcsr = MXCSR_INIT;
	u16 pending = pending_errors(cpu);
	u16 fsw = fpu_fsw(cpu) & (u16) ~(pending | FSW_ES | FSW_B);
	memcpy(image->bytes, cpu->fpu.legacy, FPU_X87_BYTES);
	memcpy(image->bytes + FPU_FSW, &fsw, 2);
	memcpy(image->bytes + FPU_MXCSR, &mxcsr, 4);
	memset(image->bytes + FPU_FIP, 0, 16);
	((stub_fn)(uintptr_t)insn->stub)(cpu, memory, image->bytes);
	memcpy(&fsw, image->bytes + FPU_FSW, 2);
	fsw |= pending;
	memcpy(image->bytes + FPU_FSW, &fsw, 2);
}

static void x87_commit(struct cpu *cpu, const struct insn *insn, const struct x87_image *image)
{
	memcpy(cpu->fpu.legacy, image->bytes, FPU_FOP);
	memcpy(fpu_st(cpu, 0), image->bytes + FPU_ST, 128);
	fpu_update_summary(cpu);
	fpu_set_fop(cpu, (u16)insn->imm);
	/* Real and virtual-8086 mode show linear pointers, and no selector is kept to make them later. */
	bool real = cpu->mode <= CPU_V86;
	fpu_set_fip(cpu, cpu->rip_start + (real ? cpu->seg[SEG_CS].base : 0));
	if (insn->flags & INSN_MEM)
		fpu_set_fdp(cpu, insn_ea(cpu, insn) + (real ? cpu->seg_base[insn->seg] : 0));
}

static void x87_reg(struct cpu *cpu, const struct insn *insn)
{
	struct x87_image image;
	x87_check(cpu);
	x87_run(cpu, insn, NULL, &image);
	x87_commit(cpu, insn, &image);
}

static void x87_load(struct cpu *cpu, const struct insn *insn)
{
	struct x87_image image;
	u8 operand[16];
	x87_check(cpu);
	u64 linear = access_linear(cpu, insn, insn->opsize, MMU_READ);
	access_read(cpu, linear, operand, insn->opsize, cpu->mmu.cls);
	x87_run(cpu, insn, operand, &image);
	x87_commit(cpu, insn, &image);
}

/*
 * An unmasked exception other than inexact suppresses the store (SDM vol. 1, 8.5). Then Intel's does not look whether
 * the page could be written; AMD's does. The manuals leave the order of these exceptions open (SDM vol. 3, table 6-2;
 * APM vol. 2, table 8-8).
 */
static bool store_suppressed(const struct x87_image *image)
{
	u16 fcw, fsw;
	memcpy(&fcw, image->bytes + FPU_FCW, 2);
	memcpy(&fsw, image->bytes + FPU_FSW, 2);
	return fsw & ~fcw & FSW_ERRORS & ~0x20;
}

static void x87_store(struct cpu *cpu, const struct insn *insn)
{
	struct x87_image image;
	u8 operand[16];
	x87_check(cpu);
	u64 linear = access_linear(cpu, insn, insn->opsize, MMU_WRITE);
	x87_run(cpu, insn, operand, &image);
	if (!store_suppressed(&image))
		access_write(cpu, linear, operand, insn->opsize, cpu->mmu.cls);
	else if (cpu_is_amd(cpu))
		access_probe(cpu, linear, insn->opsize, MMU_WRITE);
	x87_commit(cpu, insn, &image);
}

bool x87_select(const struct decode *d, struct insn *insn)
{
	const ZydisDecodedOperand *memory = vector_memory_operand(d);
	bool full;
	if (d->zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		return false;
	stub_fn stub = stub_make(d, STUB_X87, &full);
	if (full) {
		insn->exec = native_exec_full;
		return true;
	}
	insn->stub = (void *)(uintptr_t)stub;
	const ZydisDecodedInstruction *zi = d->zi;
	insn->imm = (u64)((zi->opcode & 7) << 8 | zi->raw.modrm.mod << 6 | zi->raw.modrm.reg << 3 | zi->raw.modrm.rm);
	insn->exec = x87_reg;
	if (memory) {
		insn->opsize = (u8)(memory->size / 8);
		insn->exec = memory->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? x87_store : x87_load;
	}
	return stub;
}

/* --- control state --- */

static void x87_init(struct cpu *cpu)
{
	fpu_set_top(cpu, 0);
	fpu_set_fcw(cpu, FCW_INIT);
	fpu_set_fsw(cpu, 0);
	fpu_set_ftw(cpu, 0);
	fpu_set_fop(cpu, 0);
	fpu_set_fip(cpu, 0);
	fpu_set_fdp(cpu, 0);
}

/* Bits 15:13 and 7 do not exist, bit 6 always reads 1. */
static void load_fcw(struct cpu *cpu, u16 v)
{
	fpu_set_fcw(cpu, (v & 0x1f3f) | 0x40);
	fpu_update_summary(cpu);
}

/* Two tag bits for a register: 0 valid, 1 zero, 2 special, 3 empty (SDM vol. 1, 8.1.7). */
static unsigned full_tag(const u8 st[10])
{
	u16 exponent;
	u64 mantissa;
	memcpy(&mantissa, st, 8);
	memcpy(&exponent, st + 8, 2);
	exponent &= 0x7fff;
	if (exponent == 0x7fff)
		return 2;
	if (!exponent)
		return mantissa ? 2 : 1;
	return mantissa >> 63 ? 0 : 2;
}

static u16 full_tags(struct cpu *cpu)
{
	unsigned top = fpu_fsw(cpu) >> 11 & 7, tags = 0;
	for (unsigned physical = 0; physical < 8; physical++) {
		bool used = fpu_ftw(cpu) >> physical & 1;
		tags |= (used ? full_tag(fpu_st(cpu, (physical - top) & 7)) : 3) << 2 * physical;
	}
	return (u16)tags;
}

/*
 * The environment (SDM vol. 1, figures 8-9 to 8-12): seven fields of 4 or 2 bytes. In real and virtual-8086 mode the
 * pointers are linear, split; FCS and FDS are not kept and read 0.
 */
static unsigned environment_store(struct cpu *cpu, const struct insn *insn, u8 *out)
{
	u32 f[7] = { fpu_fcw(cpu), fpu_fsw(cpu), full_tags(cpu) };
	u32 fip = (u32)fpu_fip(cpu), fdp = (u32)fpu_fdp(cpu), fop = fpu_fop(cpu) & 0x7ff;
	bool real = cpu->mode <= CPU_V86;
	if (insn->opsize == 2) {
		f[3] = fip;
		f[4] = real ? (fip >> 4 & 0xf000) | fop : 0;
		f[5] = fdp;
		f[6] = real ? fdp >> 4 & 0xf000 : 0;
		for (unsigned i = 0; i < 7; i++)
			memcpy(out + 2 * i, &f[i], 2);
		return 14;
	}
	f[3] = real ? fip & 0xffff : fip;
	f[4] = real ? (fip >> 16 << 12) | fop : fop << 16;
	f[5] = real ? fdp & 0xffff : fdp;
	f[6] = real ? fdp >> 16 << 12 : 0;
	f[0] |= 0xffff0000;
	f[1] |= 0xffff0000;
	f[2] |= 0xffff0000;
	if (real) {
		f[3] |= 0xffff0000;
		f[5] |= 0xffff0000;
	} else {
		f[6] |= 0xffff0000;
	}
	memcpy(out, f, 28);
	return 28;
}

static void environment_load(struct cpu *cpu, const struct insn *insn, const u8 *in)
{
	u32 f[7] = { 0 };
	bool real = cpu->mode <= CPU_V86, narrow = insn->opsize == 2;
	for (unsigned i = 0; i < 7; i++)
		memcpy(&f[i], in + (narrow ? 2 : 4) * i, narrow ? 2 : 4);
	unsigned ftw = 0;
	for (unsigned i = 0; i < 8; i++)
		ftw |= (f[2] >> 2 * i & 3) != 3 ? 1u << i : 0;
	fpu_set_top(cpu, f[1] >> 11 & 7);
	fpu_set_fsw(cpu, (u16)f[1]);
	fpu_set_ftw(cpu, (u8)ftw);
	load_fcw(cpu, (u16)f[0]);
	if (narrow && real) {
		fpu_set_fip(cpu, (f[3] & 0xffff) | (f[4] & 0xf000) << 4);
		fpu_set_fdp(cpu, (f[5] & 0xffff) | (f[6] & 0xf000) << 4);
		fpu_set_fop(cpu, f[4] & 0x7ff);
	} else if (real) {
		fpu_set_fip(cpu, (f[3] & 0xffff) | (f[4] & 0x0ffff000) << 4);
		fpu_set_fdp(cpu, (f[5] & 0xffff) | (f[6] & 0x0ffff000) << 4);
		fpu_set_fop(cpu, f[4] & 0x7ff);
	} else {
		fpu_set_fip(cpu, f[3]);
		fpu_set_fdp(cpu, f[5]);
		fpu_set_fop(cpu, narrow ? 0 : f[4] >> 16 & 0x7ff);
	}
}

static void exec_fnstenv(struct cpu *cpu, const struct insn *insn)
{
	u8 image[28];
	x87_available(cpu);
	unsigned size = environment_store(cpu, insn, image);
	access_write(cpu, access_linear(cpu, insn, size, MMU_WRITE), image, size, cpu->mmu.cls);
	fpu_set_fcw(cpu, fpu_fcw(cpu) | FSW_ERRORS);
	fpu_update_summary(cpu);
}

static void exec_fldenv(struct cpu *cpu, const struct insn *insn)
{
	u8 image[28];
	unsigned size = insn->opsize == 2 ? 14 : 28;
	x87_check(cpu);
	access_read(cpu, access_linear(cpu, insn, size, MMU_READ), image, size, cpu->mmu.cls);
	environment_load(cpu, insn, image);
}

/* More than one access_* can take: both pieces are probed before the first is written. */
static void exec_fnsave(struct cpu *cpu, const struct insn *insn)
{
	u8 image[108];
	x87_available(cpu);
	unsigned size = environment_store(cpu, insn, image);
	for (unsigned i = 0; i < 8; i++, size += 10)
		memcpy(image + size, fpu_st(cpu, i), 10);
	u64 linear = access_linear(cpu, insn, size, MMU_WRITE);
	state_write(cpu, linear, image, size);
	x87_init(cpu);
}

static void exec_frstor(struct cpu *cpu, const struct insn *insn)
{
	u8 image[108];
	unsigned environment = insn->opsize == 2 ? 14 : 28;
	x87_check(cpu);
	u64 linear = access_linear(cpu, insn, environment + 80, MMU_READ);
	state_read(cpu, linear, image, environment + 80);
	environment_load(cpu, insn, image);
	for (unsigned i = 0; i < 8; i++)
		memcpy(fpu_st(cpu, i), image + environment + 10 * i, 10);
}

static void exec_fninit(struct cpu *cpu, const struct insn *insn)
{
	x87_available(cpu);
	x87_init(cpu);
}

static void exec_fnclex(struct cpu *cpu, const struct insn *insn)
{
	x87_available(cpu);
	fpu_set_fsw(cpu, fpu_fsw(cpu) & (u16) ~(FSW_ERRORS | FSW_SF | FSW_ES | FSW_B));
}

static void exec_fldcw(struct cpu *cpu, const struct insn *insn)
{
	x87_check(cpu);
	load_fcw(cpu, mem_read16(cpu, access_linear(cpu, insn, 2, MMU_READ)));
}

static void exec_fnstcw(struct cpu *cpu, const struct insn *insn)
{
	x87_available(cpu);
	mem_write16(cpu, access_linear(cpu, insn, 2, MMU_WRITE), fpu_fcw(cpu));
}

static void exec_fnstsw(struct cpu *cpu, const struct insn *insn)
{
	x87_available(cpu);
	if (insn->flags & INSN_MEM)
		mem_write16(cpu, access_linear(cpu, insn, 2, MMU_WRITE), fpu_fsw(cpu));
	else
		memcpy(&cpu->reg[RAX], cpu->fpu.legacy + FPU_FSW, 2);
}

static void exec_fwait(struct cpu *cpu, const struct insn *insn)
{
	if ((cpu->cr0 & (CR0_MP | CR0_TS)) == (CR0_MP | CR0_TS))
		cpu_raise(cpu, VEC_NM);
	x87_pending(cpu);
}

static void exec_emms(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->cr0 & CR0_EM)
		cpu_raise(cpu, VEC_UD);
	x87_check(cpu);
	mmx_switch(cpu);
	fpu_set_ftw(cpu, 0);
}

/* FNENI, FNDISI, FNSETPM: of the 8087 and 287, nothing since. */
static void exec_x87_nop(struct cpu *cpu, const struct insn *insn)
{
	x87_available(cpu);
}

bool x87_control_select(const struct decode *d, struct insn *insn)
{
	static const struct {
		ZydisMnemonic mnemonic;
		insn_fn exec;
	} control[] = {
		{ ZYDIS_MNEMONIC_FNSTENV, exec_fnstenv },
		{ ZYDIS_MNEMONIC_FLDENV, exec_fldenv },
		{ ZYDIS_MNEMONIC_FNSAVE, exec_fnsave },
		{ ZYDIS_MNEMONIC_FRSTOR, exec_frstor },
		{ ZYDIS_MNEMONIC_FNINIT, exec_fninit },
		{ ZYDIS_MNEMONIC_FNCLEX, exec_fnclex },
		{ ZYDIS_MNEMONIC_FLDCW, exec_fldcw },
		{ ZYDIS_MNEMONIC_FNSTCW, exec_fnstcw },
		{ ZYDIS_MNEMONIC_FNSTSW, exec_fnstsw },
		{ ZYDIS_MNEMONIC_FWAIT, exec_fwait },
		{ ZYDIS_MNEMONIC_EMMS, exec_emms },
		{ ZYDIS_MNEMONIC_FDISI8087_NOP, exec_x87_nop },
		{ ZYDIS_MNEMONIC_FENI8087_NOP, exec_x87_nop },
		{ ZYDIS_MNEMONIC_FSETPM287_NOP, exec_x87_nop },
	};
	const ZydisDecodedOperand *memory = vector_memory_operand(d);
	if (d->zi->attributes & ZYDIS_ATTRIB_HAS_LOCK)
		return false;
	/* The operand size chooses the format of the environment: 14 or 28 bytes, plus 80. */
	if (memory)
		insn->opsize = memory->size / 8 == 14 || memory->size / 8 == 94 ? 2 : 4;
	for (unsigned i = 0; i < ARRAY_SIZE(control); i++) {
		if (control[i].mnemonic != d->zi->mnemonic)
			continue;
		insn->exec = control[i].exec;
		return true;
	}
	return false;
}
