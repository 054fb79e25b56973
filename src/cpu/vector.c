/*
 * Vector instructions that C executes: plain moves (faster than a stub), MXCSR loads and stores, and those that touch
 * memory element by element and must fault only for the elements they use: gathers and masked moves.
 */
#include "cpu/vector.h"

#include "cpu/access.h"
#include "cpu/fpu.h"
#include "cpu/native.h"

/* Exception types 6 (masked moves), 11 (half precision) and 12 (gathers) of SDM vol. 2, table 2-14. */
bool vector_is_never_aligned(const struct insn *insn)
{
	const struct insn_row *row = insn ? insn_row(insn) : NULL;
	return row &&
	       (row->feature == FEATURE_F16C || row->select == gather_select || row->select == masked_move_select);
}

/* --- plain moves: MOVUPS and kin; insn->dst, insn->src are vector registers --- */

static inline void copy16(void *to, const void *from)
{
	u64 v[2];
	memcpy(v, from, 16);
	memcpy(to, v, 16);
}

static inline u64 move_address(struct cpu *cpu, const struct insn *insn, unsigned size, enum mmu_access access)
{
	u64 linear = access_linear(cpu, insn, size, access);
	if (unlikely(linear & insn->cond))
		cpu_raise_gp(cpu);
	return linear;
}

static void move16_load(struct cpu *cpu, const struct insn *insn)
{
	sse_check(cpu);
	u64 linear = move_address(cpu, insn, 16, MMU_READ);
	const u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, 16, false);
	if (likely(p))
		copy16(fpu_xmm(cpu, insn->dst), p);
	else
		access_read(cpu, linear, fpu_xmm(cpu, insn->dst), 16, cpu->mmu.cls);
}

static void move16_store(struct cpu *cpu, const struct insn *insn)
{
	sse_check(cpu);
	u64 linear = move_address(cpu, insn, 16, MMU_WRITE);
	u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, 16, true);
	if (likely(p))
		copy16(p, fpu_xmm(cpu, insn->src));
	else
		access_write(cpu, linear, fpu_xmm(cpu, insn->src), 16, cpu->mmu.cls);
}

static void move16_reg(struct cpu *cpu, const struct insn *insn)
{
	sse_check(cpu);
	copy16(fpu_xmm(cpu, insn->dst), fpu_xmm(cpu, insn->src));
}

/* VEX: opsize bytes, upper half cleared if 16. */
static void vmove_load(struct cpu *cpu, const struct insn *insn)
{
	u8 buffer[32] = { 0 };
	avx_check(cpu);
	u64 linear = move_address(cpu, insn, insn->opsize, MMU_READ);
	const u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, insn->opsize, false);
	if (likely(p && insn->opsize == 32))
		memcpy(buffer, p, 32);
	else if (likely(p))
		copy16(buffer, p);
	else
		access_read(cpu, linear, buffer, insn->opsize, cpu->mmu.cls);
	copy16(fpu_xmm(cpu, insn->dst), buffer);
	copy16(cpu->fpu.ymm_high[insn->dst], buffer + 16);
}

static void vmove_store(struct cpu *cpu, const struct insn *insn)
{
	u8 buffer[32];
	avx_check(cpu);
	u64 linear = move_address(cpu, insn, insn->opsize, MMU_WRITE);
	copy16(buffer, fpu_xmm(cpu, insn->src));
	copy16(buffer + 16, cpu->fpu.ymm_high[insn->src]);
	u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, insn->opsize, true);
	if (likely(p && insn->opsize == 32))
		memcpy(p, buffer, 32);
	else if (likely(p))
		copy16(p, buffer);
	else
		access_write(cpu, linear, buffer, insn->opsize, cpu->mmu.cls);
}

static void zero16(struct cpu *cpu, const struct insn *insn)
{
	sse_check(cpu);
	memset(fpu_xmm(cpu, insn->dst), 0, 16);
}

static bool is_plain_move(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_MOVUPS:
	case ZYDIS_MNEMONIC_MOVUPD:
	case ZYDIS_MNEMONIC_MOVAPS:
	case ZYDIS_MNEMONIC_MOVAPD:
	case ZYDIS_MNEMONIC_MOVDQU:
	case ZYDIS_MNEMONIC_MOVDQA:
	case ZYDIS_MNEMONIC_LDDQU:
	case ZYDIS_MNEMONIC_MOVNTPS:
	case ZYDIS_MNEMONIC_MOVNTPD:
	case ZYDIS_MNEMONIC_MOVNTDQ:
	case ZYDIS_MNEMONIC_MOVNTDQA:
	case ZYDIS_MNEMONIC_VMOVUPS:
	case ZYDIS_MNEMONIC_VMOVUPD:
	case ZYDIS_MNEMONIC_VMOVAPS:
	case ZYDIS_MNEMONIC_VMOVAPD:
	case ZYDIS_MNEMONIC_VMOVDQU:
	case ZYDIS_MNEMONIC_VMOVDQA:
	case ZYDIS_MNEMONIC_VLDDQU:
	case ZYDIS_MNEMONIC_VMOVNTPS:
	case ZYDIS_MNEMONIC_VMOVNTPD:
	case ZYDIS_MNEMONIC_VMOVNTDQ:
	case ZYDIS_MNEMONIC_VMOVNTDQA:
		return true;
	default:
		return false;
	}
}

static bool is_register(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER;
}

bool vector_move_select(const struct decode *d, struct insn *insn)
{
	const ZydisDecodedOperand *op = d->op;
	bool vex = d->zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX;
	if (d->zi->mnemonic == ZYDIS_MNEMONIC_PXOR || d->zi->mnemonic == ZYDIS_MNEMONIC_XORPS) {
		if (!is_register(&op[0]) || !is_register(&op[1]) || op[0].reg.value != op[1].reg.value ||
		    ZydisRegisterGetClass(op[0].reg.value) != ZYDIS_REGCLASS_XMM)
			return false;
		insn->dst = (u8)ZydisRegisterGetId(op[0].reg.value);
		insn->exec = zero16;
		return true;
	}
	if (!is_plain_move(d->zi->mnemonic) || (vex && is_register(&op[0]) && is_register(&op[1])))
		return false;
	if (is_register(&op[0]))
		insn->dst = (u8)ZydisRegisterGetId(op[0].reg.value);
	if (is_register(&op[1]))
		insn->src = (u8)ZydisRegisterGetId(op[1].reg.value);
	if (!is_register(&op[0]))
		insn->exec = vex ? vmove_store : move16_store;
	else if (!is_register(&op[1]))
		insn->exec = vex ? vmove_load : move16_load;
	else
		insn->exec = move16_reg;
	return true;
}

/* --- VZEROUPPER, VZEROALL --- */

static void vzeroupper(struct cpu *cpu, const struct insn *insn)
{
	avx_check(cpu);
	memset(cpu->fpu.ymm_high, 0, cpu->mode == CPU_LONG ? 256 : 128);
}

static void vzeroall(struct cpu *cpu, const struct insn *insn)
{
	vzeroupper(cpu, insn);
	memset(fpu_xmm(cpu, 0), 0, cpu->mode == CPU_LONG ? 256 : 128);
}

bool vzero_select(const struct decode *d, struct insn *insn)
{
	insn->exec = d->zi->mnemonic == ZYDIS_MNEMONIC_VZEROALL ? vzeroall : vzeroupper;
	return vector_form_exists(d);
}

/* --- MXCSR --- */

static void load_mxcsr(struct cpu *cpu, const struct insn *insn)
{
	u32 v = mem_read32(cpu, access_linear(cpu, insn, 4, MMU_READ));
	if (v & ~MXCSR_VALID)
		cpu_raise_gp(cpu);
	fpu_set_mxcsr(cpu, v);
}

static void store_mxcsr(struct cpu *cpu, const struct insn *insn)
{
	mem_write32(cpu, access_linear(cpu, insn, 4, MMU_WRITE), fpu_mxcsr(cpu));
}

static void exec_ldmxcsr(struct cpu *cpu, const struct insn *insn)
{
	sse_check(cpu);
	load_mxcsr(cpu, insn);
}

static void exec_stmxcsr(struct cpu *cpu, const struct insn *insn)
{
	sse_check(cpu);
	store_mxcsr(cpu, insn);
}

static void exec_vldmxcsr(struct cpu *cpu, const struct insn *insn)
{
	avx_check(cpu);
	load_mxcsr(cpu, insn);
}

static void exec_vstmxcsr(struct cpu *cpu, const struct insn *insn)
{
	avx_check(cpu);
	store_mxcsr(cpu, insn);
}

bool mxcsr_select(const struct decode *d, struct insn *insn)
{
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_LDMXCSR:
		insn->exec = exec_ldmxcsr;
		break;
	case ZYDIS_MNEMONIC_STMXCSR:
		insn->exec = exec_stmxcsr;
		break;
	case ZYDIS_MNEMONIC_VLDMXCSR:
		insn->exec = exec_vldmxcsr;
		break;
	default:
		insn->exec = exec_vstmxcsr;
		break;
	}
	return vector_form_exists(d);
}

/* --- elements of a vector register, over both halves --- */

static u8 *vector_byte(struct cpu *cpu, unsigned reg, unsigned at)
{
	return at < 16 ? fpu_xmm(cpu, reg) + at : &cpu->fpu.ymm_high[reg][at - 16];
}

/* The top bit of an element of `size` bytes. */
static bool element_selected(struct cpu *cpu, unsigned reg, unsigned element, unsigned size)
{
	return *vector_byte(cpu, reg, element * size + size - 1) & 0x80;
}

/*
 * Linear address of `size` bytes at `offset` from the operand's effective address. The address size wraps, the segment
 * is checked, for each element alone.
 */
static u64 element_linear(struct cpu *cpu, const struct insn *insn, u64 offset, unsigned size, enum mmu_access access)
{
	u64 ea = insn_ea(cpu, insn) + offset;
	if (insn->adsize != 8)
		ea &= insn->adsize == 4 ? 0xffffffffULL : 0xffffULL;
	if (insn->flags & INSN_LEGACY)
		return access_check_segment(cpu, insn->seg, ea, size, access);
	return (ea + cpu->seg_base[insn->seg]) & linear_mask(cpu);
}

/* --- VGATHER, VPGATHER --- */

/*
 * insn: dst, cond = mask register, src = index register, opsize = element bytes; imm: bits 7:0 index bytes, 15:8
 * elements, 23:16 scale.
 */
static u64 gather_offset(struct cpu *cpu, const struct insn *insn, unsigned element)
{
	unsigned index_size = insn->imm & 0xff;
	u64 index = 0;
	memcpy(&index, vector_byte(cpu, insn->src, element * index_size), index_size);
	if (index_size == 4)
		index = sign_extend(index, 32);
	return index * (insn->imm >> 16 & 0xff);
}

/* Each element that has arrived has its mask cleared, so that after a fault the instruction goes on where it was. */
static void exec_gather(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize, elements = insn->imm >> 8 & 0xff;
	avx_check(cpu);
	for (unsigned i = 0; i < elements; i++) {
		bool selected = element_selected(cpu, insn->cond, i, size);
		/* The mask element becomes all ones or zero in any case. */
		memset(vector_byte(cpu, insn->cond, i * size), selected ? 0xff : 0, size);
	}
	for (unsigned i = 0; i < elements; i++) {
		if (!element_selected(cpu, insn->cond, i, size))
			continue;
		u64 linear = element_linear(cpu, insn, gather_offset(cpu, insn, i), size, MMU_READ);
		u64 v = size == 4 ? mem_read32(cpu, linear) : mem_read64(cpu, linear);
		memcpy(vector_byte(cpu, insn->dst, i * size), &v, size);
		memset(vector_byte(cpu, insn->cond, i * size), 0, size);
	}
	for (unsigned at = elements * size; at < 32; at++) {
		*vector_byte(cpu, insn->cond, at) = 0;
		*vector_byte(cpu, insn->dst, at) = 0;
	}
}

bool gather_select(const struct decode *d, struct insn *insn)
{
	const ZydisDecodedOperand *op = d->op;
	if (!vector_form_exists(d) || op[1].type != ZYDIS_OPERAND_TYPE_MEMORY)
		return false;
	unsigned dst = (unsigned)ZydisRegisterGetId(op[0].reg.value);
	unsigned index = (unsigned)ZydisRegisterGetId(op[1].mem.index);
	unsigned mask = (unsigned)ZydisRegisterGetId(op[2].reg.value);
	if (dst == index || dst == mask || index == mask) /* SDM vol. 2, VPGATHERDD: #UD */
		return false;
	ZydisMnemonic m = d->zi->mnemonic;
	bool dword_index = m == ZYDIS_MNEMONIC_VGATHERDPD || m == ZYDIS_MNEMONIC_VGATHERDPS ||
			   m == ZYDIS_MNEMONIC_VPGATHERDD || m == ZYDIS_MNEMONIC_VPGATHERDQ;
	bool dword_data = m == ZYDIS_MNEMONIC_VGATHERDPS || m == ZYDIS_MNEMONIC_VGATHERQPS ||
			  m == ZYDIS_MNEMONIC_VPGATHERDD || m == ZYDIS_MNEMONIC_VPGATHERQD;
	unsigned vector = d->zi->raw.vex.L ? 32 : 16;
	unsigned index_size = dword_index ? 4 : 8;
	insn->opsize = dword_data ? 4 : 8;
	unsigned elements = vector / (insn->opsize > index_size ? insn->opsize : index_size);
	insn->dst = (u8)dst;
	insn->src = (u8)index;
	insn->cond = (u8)mask;
	insn->index = REG_ZERO;
	insn->imm = index_size | elements << 8 | (u64)op[1].mem.scale << 16;
	insn->exec = exec_gather;
	return true;
}

/* --- VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ --- */

/* insn: dst or src = data, cond = mask register, opsize = element bytes, imm = bytes of the vector. */
static void exec_masked_load(struct cpu *cpu, const struct insn *insn)
{
	u8 result[32] = { 0 };
	unsigned size = insn->opsize;
	avx_check(cpu);
	for (unsigned at = 0; at < insn->imm; at += size) {
		if (!element_selected(cpu, insn->cond, at / size, size))
			continue;
		u64 linear = element_linear(cpu, insn, at, size, MMU_READ);
		u64 v = size == 4 ? mem_read32(cpu, linear) : mem_read64(cpu, linear);
		memcpy(result + at, &v, size);
	}
	copy16(fpu_xmm(cpu, insn->dst), result);
	copy16(cpu->fpu.ymm_high[insn->dst], result + 16);
}

static void exec_masked_store(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	avx_check(cpu);
	/* First every element that can fault, then the writes. */
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned at = 0; at < insn->imm; at += size) {
			if (!element_selected(cpu, insn->cond, at / size, size))
				continue;
			u64 linear = element_linear(cpu, insn, at, size, MMU_WRITE);
			if (!pass)
				access_probe(cpu, linear, size, MMU_WRITE);
			else
				access_write(cpu, linear, vector_byte(cpu, insn->src, at), size, cpu->mmu.cls);
		}
	}
}

/* MASKMOVDQU, MASKMOVQ, VMASKMOVDQU: bytes of dst to [DS:RDI], selected by src. imm: 16 or 8 bytes. */
static void write_masked_bytes(struct cpu *cpu, const struct insn *insn, const u8 *data, const u8 *mask)
{
	for (unsigned pass = 0; pass < 2; pass++) {
		for (unsigned at = 0; at < insn->imm; at++) {
			if (!(mask[at] & 0x80))
				continue;
			u64 linear = element_linear(cpu, insn, at, 1, MMU_WRITE);
			if (!pass)
				access_probe(cpu, linear, 1, MMU_WRITE);
			else
				access_write(cpu, linear, data + at, 1, cpu->mmu.cls);
		}
	}
}

static void exec_maskmovdqu(struct cpu *cpu, const struct insn *insn)
{
	sse_check(cpu);
	write_masked_bytes(cpu, insn, fpu_xmm(cpu, insn->dst), fpu_xmm(cpu, insn->src));
}

static void exec_vmaskmovdqu(struct cpu *cpu, const struct insn *insn)
{
	avx_check(cpu);
	write_masked_bytes(cpu, insn, fpu_xmm(cpu, insn->dst), fpu_xmm(cpu, insn->src));
}

static void exec_maskmovq(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->cr0 & CR0_EM)
		cpu_raise(cpu, VEC_UD);
	x87_check(cpu);
	unsigned top = fpu_fsw(cpu) >> 11 & 7;
	write_masked_bytes(cpu, insn, fpu_st(cpu, (insn->dst - top) & 7), fpu_st(cpu, (insn->src - top) & 7));
	mmx_switch(cpu);
}

static bool select_mask_bytes(const struct decode *d, struct insn *insn)
{
	const ZydisDecodedOperand *op = d->op;
	/* The two vector registers are the explicit ones. */
	unsigned reg[2] = { 0, 0 }, n = 0;
	for (unsigned i = 0; i < d->zi->operand_count && n < 2; i++)
		if (is_register(&op[i]) && op[i].visibility == ZYDIS_OPERAND_VISIBILITY_EXPLICIT)
			reg[n++] = (unsigned)ZydisRegisterGetId(op[i].reg.value);
	if (n != 2)
		return false;
	insn->dst = (u8)reg[0];
	insn->src = (u8)reg[1];
	switch (d->zi->mnemonic) {
	case ZYDIS_MNEMONIC_MASKMOVQ:
		insn->imm = 8;
		insn->exec = exec_maskmovq;
		return true;
	case ZYDIS_MNEMONIC_MASKMOVDQU:
		insn->imm = 16;
		insn->exec = exec_maskmovdqu;
		return true;
	default:
		insn->imm = 16;
		insn->exec = exec_vmaskmovdqu;
		return true;
	}
}

bool masked_move_select(const struct decode *d, struct insn *insn)
{
	const ZydisDecodedOperand *op = d->op;
	if (!vector_form_exists(d))
		return false;
	ZydisMnemonic m = d->zi->mnemonic;
	if (m == ZYDIS_MNEMONIC_MASKMOVQ || m == ZYDIS_MNEMONIC_MASKMOVDQU || m == ZYDIS_MNEMONIC_VMASKMOVDQU)
		return select_mask_bytes(d, insn);
	bool load = is_register(&op[0]);
	const ZydisDecodedOperand *data = &op[load ? 0 : 2];
	insn->cond = (u8)ZydisRegisterGetId(op[1].reg.value);
	insn->opsize = m == ZYDIS_MNEMONIC_VMASKMOVPS || m == ZYDIS_MNEMONIC_VPMASKMOVD ? 4 : 8;
	insn->imm = d->zi->raw.vex.L ? 32 : 16;
	if (load)
		insn->dst = (u8)ZydisRegisterGetId(data->reg.value);
	else
		insn->src = (u8)ZydisRegisterGetId(data->reg.value);
	insn->exec = load ? exec_masked_load : exec_masked_store;
	return true;
}
