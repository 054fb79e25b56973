/*
 * Descriptors and segment registers: SDM vol. 3, chapters 3 and 5; and the instructions that only look at descriptors.
 */
#include "cpu/access.h"
#include "cpu/internal.h"

bool descriptor_find(struct cpu *cpu, u16 selector, struct descriptor *d)
{
	u64 base;
	u32 limit, offset = selector & ~7u;

	if (selector & 4) {
		const struct segment *ldt = &cpu->seg[SEG_LDTR];
		if (ldt->ar & SEG_AR_UNUSABLE)
			return false;
		base = ldt->base;
		limit = ldt->limit;
	} else {
		base = cpu->gdtr.base;
		limit = cpu->gdtr.limit;
	}
	if (offset + 7 > limit)
		return false;
	d->selector = selector;
	d->linear = base + offset;
	if (!cpu_long_mode(cpu))
		d->linear = (u32)d->linear;
	d->raw = sys_read64(cpu, d->linear);
	d->ar = (u32)(d->raw >> 40) & 0xf0ff;
	return true;
}

void descriptor_get(struct cpu *cpu, u16 selector, struct descriptor *d, enum vector vector, u32 ext)
{
	if (unlikely(!descriptor_find(cpu, selector, d)))
		cpu_raise_error(cpu, vector, selector_error(selector, ext));
}

u64 descriptor_get_high(struct cpu *cpu, const struct descriptor *d)
{
	u32 limit = d->selector & 4 ? cpu->seg[SEG_LDTR].limit : cpu->gdtr.limit;
	if ((d->selector & ~7u) + 15 > limit)
		cpu_raise_error(cpu, VEC_GP, selector_error(d->selector, 0));
	return sys_read64(cpu, d->linear + 8);
}

/* Type bits change in byte 5 alone; RMW of one byte is as good as the locked update while one CPU owns the table. */
static void write_type(struct cpu *cpu, struct descriptor *d, u32 ar)
{
	d->ar = ar;
	d->raw = (d->raw & ~BITS(47, 40)) | (u64)(ar & 0xff) << 40;
	sys_write8(cpu, d->linear + 5, (u8)ar);
}

void descriptor_set_accessed(struct cpu *cpu, struct descriptor *d)
{
	if (unlikely(!(d->ar & SEG_AR_ACCESSED)))
		write_type(cpu, d, d->ar | SEG_AR_ACCESSED);
}

void descriptor_set_busy(struct cpu *cpu, struct descriptor *d, bool busy)
{
	write_type(cpu, d, busy ? d->ar | 2 : d->ar & ~2u);
}

struct segment segment_unusable(u16 selector, unsigned dpl)
{
	return (struct segment){ .selector = selector, .ar = SEG_AR_UNUSABLE | dpl << 5 };
}

struct segment segment_v86(u16 selector)
{
	return (struct segment){ .selector = selector,
				 .limit = 0xffff,
				 .ar = SEG_AR_P | 3 << 5 | SEG_AR_S | SEG_AR_RW | SEG_AR_ACCESSED,
				 .base = (u64)selector << 4 };
}

void segment_set(struct cpu *cpu, enum seg seg, const struct segment *value)
{
	cpu->seg[seg] = *value;
	if (cpu->mode == CPU_LONG) {
		if (seg == SEG_FS || seg == SEG_GS)
			cpu->seg_base[seg] = value->base;
		return;
	}
	/* Flatness and the stack's width may change with it. */
	cpu_update_mode(cpu);
}

void segment_load_real(struct cpu *cpu, enum seg seg, u16 selector)
{
	struct segment *s = &cpu->seg[seg];
	if (cpu->mode == CPU_V86) {
		*s = segment_v86(selector);
	} else {
		/* Limit and attributes stay: that is how "unreal" mode keeps its 4-GByte segments. */
		s->selector = selector;
		s->base = (u64)selector << 4;
		if (s->ar & SEG_AR_UNUSABLE) {
			s->ar = SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_ACCESSED;
			s->limit = 0xffff;
		}
	}
	cpu->seg_base[seg] = s->base;
}

/* SS: SDM vol. 2, "MOV". */
static void load_ss(struct cpu *cpu, u16 selector)
{
	struct descriptor d;

	if (selector_is_null(selector)) {
		/* 64-bit mode below ring 3 runs on a null SS. */
		if (cpu->mode != CPU_LONG || cpu->cpl == 3 || (selector & 3) != cpu->cpl)
			cpu_raise_gp(cpu);
		struct segment null = segment_unusable(selector, cpu->cpl);
		segment_set(cpu, SEG_SS, &null);
		return;
	}
	descriptor_get(cpu, selector, &d, VEC_GP, 0);
	if ((selector & 3) != cpu->cpl || !desc_is_data(&d) || !(d.ar & SEG_AR_RW) || desc_dpl(&d) != cpu->cpl)
		cpu_raise_error(cpu, VEC_GP, selector_error(selector, 0));
	if (!(d.ar & SEG_AR_P))
		cpu_raise_error(cpu, VEC_SS, selector_error(selector, 0));
	descriptor_set_accessed(cpu, &d);
	struct segment s = descriptor_segment(&d);
	segment_set(cpu, SEG_SS, &s);
}

/* Data or readable code, visible at this privilege: nonconforming needs DPL >= max(CPL, RPL). */
static bool may_load_data(const struct cpu *cpu, const struct descriptor *d)
{
	if (desc_is_system(d) || (desc_is_code(d) && !(d->ar & SEG_AR_RW)))
		return false;
	if (desc_is_conforming(d))
		return true;
	return desc_dpl(d) >= cpu->cpl && desc_dpl(d) >= (d->selector & 3u);
}

void segment_load(struct cpu *cpu, enum seg seg, u16 selector)
{
	struct descriptor d;
	struct segment s;

	if (cpu->mode <= CPU_V86) {
		segment_load_real(cpu, seg, selector);
		return;
	}
	if (seg == SEG_SS) {
		load_ss(cpu, selector);
		return;
	}
	if (selector_is_null(selector)) {
		s = segment_unusable(selector, 0);
	} else {
		descriptor_get(cpu, selector, &d, VEC_GP, 0);
		if (!may_load_data(cpu, &d))
			cpu_raise_error(cpu, VEC_GP, selector_error(selector, 0));
		if (!(d.ar & SEG_AR_P))
			cpu_raise_error(cpu, VEC_NP, selector_error(selector, 0));
		descriptor_set_accessed(cpu, &d);
		s = descriptor_segment(&d);
	}
	segment_set(cpu, seg, &s);
}

void segment_drop_privileged(struct cpu *cpu, unsigned cpl)
{
	static const enum seg data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	bool dropped = false;

	for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
		struct segment *s = &cpu->seg[data[i]];
		bool conforming = (s->ar & SEG_AR_CODE) && (s->ar & SEG_AR_DC);
		if (s->ar & SEG_AR_UNUSABLE) {
			s->selector = 0;
		} else if (!conforming && SEG_DPL(s->ar) < cpl) {
			/* The bases stay: those of FS and GS still count in 64-bit mode. */
			s->selector = 0;
			s->ar = SEG_AR_UNUSABLE;
			dropped = true;
		}
	}
	if (unlikely(dropped))
		cpu_update_mode(cpu);
}

/* --- MOV Sreg --- */

static void exec_mov_to_segment(struct cpu *cpu, const struct insn *insn)
{
	u16 selector = insn->flags & INSN_MEM ? mem_read16(cpu, access_linear(cpu, insn, 2, MMU_READ))
					      : (u16)cpu->reg[insn->src];
	segment_load(cpu, insn->dst, selector);
	if (insn->dst == SEG_SS)
		cpu_set_shadow(cpu, SHADOW_MOV_SS);
}

static void exec_mov_from_segment(struct cpu *cpu, const struct insn *insn)
{
	u16 selector = cpu->seg[insn->src].selector;
	if (insn->flags & INSN_MEM)
		mem_write16(cpu, access_linear(cpu, insn, 2, MMU_WRITE), selector);
	else
		register_write(cpu, insn->dst, insn->opsize, selector);
}

bool segment_select_mov(const struct decode *d, struct insn *insn)
{
	bool load = ZydisRegisterGetClass(d->op[0].reg.value) == ZYDIS_REGCLASS_SEGMENT &&
		    d->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER;
	const ZydisDecodedOperand *other = &d->op[load ? 1 : 0];
	u8 seg = (u8)(d->op[load ? 0 : 1].reg.value - ZYDIS_REGISTER_ES);

	*(load ? &insn->dst : &insn->src) = seg;
	if (other->type == ZYDIS_OPERAND_TYPE_REGISTER)
		*(load ? &insn->src : &insn->dst) = (u8)ZydisRegisterGetId(other->reg.value);
	insn->exec = load ? exec_mov_to_segment : exec_mov_from_segment;
	/* SS brings a shadow; outside of 64-bit mode any segment changes how the next instructions are decoded. */
	if (load && (seg == SEG_SS || !(d->mode_key & MODE_CODE64)))
		insn->flags |= INSN_ENDS;
	return !(load && seg == SEG_CS);
}

/* --- LAR, LSL, VERR, VERW, ARPL --- */

static void set_zf(struct cpu *cpu, bool zf)
{
	cpu->arith = (u16)((cpu->arith & ~ARITH_ZF) | (zf ? ARITH_ZF : 0));
}

static u16 operand16(struct cpu *cpu, const struct insn *insn)
{
	if (insn->flags & INSN_MEM)
		return mem_read16(cpu, access_linear(cpu, insn, 2, MMU_READ));
	return (u16)cpu->reg[insn->src];
}

/* Is the descriptor visible to CPL and RPL? Conforming code always is. */
static bool is_visible(const struct cpu *cpu, const struct descriptor *d)
{
	return desc_is_conforming(d) || (desc_dpl(d) >= cpu->cpl && desc_dpl(d) >= (d->selector & 3u));
}

/* System descriptors that LAR (gates too) and LSL know (SDM vol. 2, tables of LAR and LSL). */
static bool system_type_known(const struct cpu *cpu, unsigned type, bool gates)
{
	unsigned legacy =
		BIT(DESC_TSS16) | BIT(DESC_LDT) | BIT(DESC_TSS16_BUSY) | BIT(DESC_TSS32) | BIT(DESC_TSS32_BUSY);
	unsigned longmode = BIT(DESC_LDT) | BIT(DESC_TSS32) | BIT(DESC_TSS32_BUSY);
	if (gates) {
		legacy |= BIT(DESC_CALL16) | BIT(DESC_TASK_GATE) | BIT(DESC_CALL32);
		longmode |= BIT(DESC_CALL32);
	}
	return (cpu_long_mode(cpu) ? longmode : legacy) >> type & 1;
}

/* In long mode system descriptors have 16 bytes, and all of them must lie in the table. */
static bool system_fits(struct cpu *cpu, const struct descriptor *d)
{
	u32 limit = d->selector & 4 ? cpu->seg[SEG_LDTR].limit : cpu->gdtr.limit;
	return !cpu_long_mode(cpu) || (d->selector & ~7u) + 15 <= limit;
}

static bool look_up(struct cpu *cpu, u16 selector, struct descriptor *d, bool gates)
{
	if (selector_is_null(selector) || !descriptor_find(cpu, selector, d) || !is_visible(cpu, d))
		return false;
	return !desc_is_system(d) || (system_type_known(cpu, desc_type(d), gates) && system_fits(cpu, d));
}

static void exec_lar(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	bool found = look_up(cpu, operand16(cpu, insn), &d, true);
	if (found)
		register_write(cpu, insn->dst, insn->opsize == 2 ? 2 : 4,
			       d.raw >> 32 & 0x00f0ff00); /* bits 19:16 are undefined */
	set_zf(cpu, found);
}

static void exec_lsl(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	bool found = look_up(cpu, operand16(cpu, insn), &d, false);
	if (found)
		register_write(cpu, insn->dst, insn->opsize == 2 ? 2 : 4, descriptor_limit(d.raw));
	set_zf(cpu, found);
}

static u16 verify_operand(struct cpu *cpu, const struct insn *insn)
{
	if (insn->flags & INSN_MEM)
		return mem_read16(cpu, access_linear(cpu, insn, 2, MMU_READ));
	return (u16)cpu->reg[insn->dst];
}

static void exec_verr(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	u16 selector = verify_operand(cpu, insn);
	set_zf(cpu, !selector_is_null(selector) && descriptor_find(cpu, selector, &d) && !desc_is_system(&d) &&
			    is_visible(cpu, &d) && (desc_is_data(&d) || (d.ar & SEG_AR_RW)));
}

static void exec_verw(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor d;
	u16 selector = verify_operand(cpu, insn);
	set_zf(cpu, !selector_is_null(selector) && descriptor_find(cpu, selector, &d) && desc_is_data(&d) &&
			    is_visible(cpu, &d) && (d.ar & SEG_AR_RW));
}

static void exec_arpl(struct cpu *cpu, const struct insn *insn)
{
	unsigned rpl = cpu->reg[insn->src] & 3;
	if (insn->flags & INSN_MEM) {
		u64 linear = access_linear(cpu, insn, 2, MMU_WRITE);
		u16 value = mem_read16(cpu, linear);
		bool raise = (value & 3u) < rpl;
		mem_write16(cpu, linear, raise ? (u16)((value & ~3u) | rpl) : value);
		set_zf(cpu, raise);
		return;
	}
	bool raise = (cpu->reg[insn->dst] & 3) < rpl;
	if (raise)
		cpu->reg[insn->dst] = (cpu->reg[insn->dst] & ~3ULL) | rpl;
	set_zf(cpu, raise);
}

SYSTEM_SELECT(lar)
SYSTEM_SELECT(lsl)
SYSTEM_SELECT(verr)
SYSTEM_SELECT(verw)
SYSTEM_SELECT(arpl)
