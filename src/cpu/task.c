/*
 * Hardware task switch: SDM vol. 3, chapter 8. Until the old task's state is saved a fault belongs to the old task;
 * from then on to the new one, whose segment registers are checked last.
 */
#include "cpu/access.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"

/* What a TSS holds of a task, 16- and 32-bit format alike. GPRs and segments are in the order of our enums. */
struct task_image {
	bool wide;
	u32 cr3, eip, eflags, gpr[8];
	u16 seg[6], ldt, trap;
};

/* Offsets of both formats (SDM vol. 3, figures 8-2 and 8-10). */
struct tss_layout {
	u8 size, eip, eflags, gpr, seg, segments, seg_stride, ldt;
	u8 min_limit;
};
static const struct tss_layout layout16 = { .size = 2,
					    .eip = 0x0e,
					    .eflags = 0x10,
					    .gpr = 0x12,
					    .seg = 0x22,
					    .segments = 4,
					    .seg_stride = 2,
					    .ldt = 0x2a,
					    .min_limit = 0x2b };
static const struct tss_layout layout32 = { .size = 4,
					    .eip = 0x20,
					    .eflags = 0x24,
					    .gpr = 0x28,
					    .seg = 0x48,
					    .segments = 6,
					    .seg_stride = 4,
					    .ldt = 0x60,
					    .min_limit = 0x67 };

static const struct tss_layout *layout_of(unsigned type)
{
	return type & 8 ? &layout32 : &layout16;
}

static u32 tss_read(struct cpu *cpu, u64 base, unsigned offset, unsigned size)
{
	u64 linear = (u32)(base + offset);
	return size == 4 ? sys_read32(cpu, linear) : sys_read16(cpu, linear);
}

static void tss_write(struct cpu *cpu, u64 base, unsigned offset, unsigned size, u32 value)
{
	u64 linear = (u32)(base + offset);
	if (size == 4)
		sys_write32(cpu, linear, value);
	else
		sys_write16(cpu, linear, (u16)value);
}

static void read_image(struct cpu *cpu, const struct descriptor *d, struct task_image *image)
{
	const struct tss_layout *l = layout_of(desc_type(d));
	u64 base = descriptor_base(d->raw);

	*image = (struct task_image){ .wide = l == &layout32 };
	image->eip = tss_read(cpu, base, l->eip, l->size);
	image->eflags = tss_read(cpu, base, l->eflags, l->size);
	for (unsigned i = 0; i < 8; i++) {
		image->gpr[i] = tss_read(cpu, base, l->gpr + i * l->size, l->size);
		/* The upper halves are undefined after a 16-bit switch. */
		if (!image->wide)
			image->gpr[i] |= 0xffff0000;
	}
	for (unsigned i = 0; i < l->segments; i++)
		image->seg[i] = (u16)tss_read(cpu, base, l->seg + i * l->seg_stride, 2);
	image->ldt = (u16)tss_read(cpu, base, l->ldt, 2);
	if (image->wide) {
		image->cr3 = tss_read(cpu, base, 0x1c, 4);
		image->trap = tss_read(cpu, base, 0x64, 2) & 1;
	}
}

static void save_old_task(struct cpu *cpu, u64 eflags)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	const struct tss_layout *l = layout_of(tr->ar & SEG_AR_TYPE);

	tss_write(cpu, tr->base, l->eip, l->size, (u32)cpu->reg[REG_RIP]);
	tss_write(cpu, tr->base, l->eflags, l->size, (u32)eflags);
	for (unsigned i = 0; i < 8; i++)
		tss_write(cpu, tr->base, l->gpr + i * l->size, l->size, (u32)cpu->reg[i]);
	for (unsigned i = 0; i < l->segments; i++)
		tss_write(cpu, tr->base, l->seg + i * l->seg_stride, 2, cpu->seg[i].selector);
}

/* The TSS descriptor: IRET wants a busy one and faults with #TS, all others an available one. */
static void find_tss(struct cpu *cpu, u16 selector, enum task_source source, u32 ext, struct descriptor *d)
{
	enum vector vector = source == TASK_IRET ? VEC_TS : VEC_GP;
	unsigned wanted = source == TASK_IRET ? 2 : 0;
	u32 error = selector_error(selector, ext);

	if (selector_is_null(selector) || (selector & 4))
		cpu_raise_error(cpu, vector, error);
	descriptor_get(cpu, selector, d, vector, ext);
	if (!desc_is_system(d) || (desc_type(d) & 7) != (1 | wanted))
		cpu_raise_error(cpu, vector, error);
	if (!(d->ar & SEG_AR_P))
		cpu_raise_error(cpu, VEC_NP, error);
	if (descriptor_limit(d->raw) < layout_of(desc_type(d))->min_limit)
		cpu_raise_error(cpu, VEC_TS, error);
}

/* --- the new task's segments; faults carry the selector --- */

static NORETURN void bad_segment(struct cpu *cpu, enum vector vector, u16 selector, u32 ext)
{
	cpu_raise_error(cpu, vector, selector_error(selector, ext));
}

static void load_ldt(struct cpu *cpu, u16 selector, u32 ext)
{
	struct descriptor d;

	cpu->seg[SEG_LDTR] = segment_unusable(selector, 0);
	if (selector_is_null(selector))
		return;
	if ((selector & 4) || !descriptor_find(cpu, selector, &d) || !desc_is_system(&d) || desc_type(&d) != DESC_LDT ||
	    !(d.ar & SEG_AR_P))
		bad_segment(cpu, VEC_TS, selector, ext);
	cpu->seg[SEG_LDTR] = descriptor_segment(&d);
}

static void load_code(struct cpu *cpu, u16 selector, u32 ext)
{
	struct descriptor d;

	if (selector_is_null(selector))
		bad_segment(cpu, VEC_TS, 0, ext);
	descriptor_get(cpu, selector, &d, VEC_TS, ext);
	unsigned rpl = selector & 3u;
	if (!desc_is_code(&d) || (desc_is_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
		bad_segment(cpu, VEC_TS, selector, ext);
	if (!(d.ar & SEG_AR_P))
		bad_segment(cpu, VEC_NP, selector, ext);
	descriptor_set_accessed(cpu, &d);
	cpu->seg[SEG_CS] = descriptor_segment(&d);
}

static void load_stack_segment(struct cpu *cpu, u16 selector, u32 ext)
{
	struct descriptor d;

	if (selector_is_null(selector))
		bad_segment(cpu, VEC_TS, 0, ext);
	descriptor_get(cpu, selector, &d, VEC_TS, ext);
	if (!desc_is_data(&d) || !(d.ar & SEG_AR_RW) || (selector & 3u) != cpu->cpl || desc_dpl(&d) != cpu->cpl)
		bad_segment(cpu, VEC_TS, selector, ext);
	if (!(d.ar & SEG_AR_P))
		bad_segment(cpu, VEC_SS, selector, ext);
	descriptor_set_accessed(cpu, &d);
	cpu->seg[SEG_SS] = descriptor_segment(&d);
}

static void load_data(struct cpu *cpu, enum seg seg, u16 selector, u32 ext)
{
	struct descriptor d;

	if (selector_is_null(selector))
		return;
	descriptor_get(cpu, selector, &d, VEC_TS, ext);
	if (desc_is_system(&d) || (desc_is_code(&d) && !(d.ar & SEG_AR_RW)))
		bad_segment(cpu, VEC_TS, selector, ext);
	if (!desc_is_conforming(&d) && (desc_dpl(&d) < cpu->cpl || desc_dpl(&d) < (selector & 3u)))
		bad_segment(cpu, VEC_TS, selector, ext);
	if (!(d.ar & SEG_AR_P))
		bad_segment(cpu, VEC_NP, selector, ext);
	descriptor_set_accessed(cpu, &d);
	cpu->seg[seg] = descriptor_segment(&d);
}

static void load_segments(struct cpu *cpu, const struct task_image *image, u32 ext)
{
	load_ldt(cpu, image->ldt, ext);
	if (cpu->mode == CPU_V86)
		return;
	load_code(cpu, image->seg[SEG_CS], ext);
	load_stack_segment(cpu, image->seg[SEG_SS], ext);
	static const enum seg data[] = { SEG_ES, SEG_DS, SEG_FS, SEG_GS };
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		load_data(cpu, data[i], image->seg[data[i]], ext);
	cpu_update_mode(cpu);
}

/* Registers of the new task; segment registers hold their selectors, but cannot be used yet. */
static void load_registers(struct cpu *cpu, const struct task_image *image, u64 eflags)
{
	for (unsigned i = 0; i < 8; i++)
		cpu->reg[i] = image->gpr[i];
	cpu->reg[REG_RIP] = cpu->rip_start = image->eip;
	bool v86 = image->wide && (eflags & RFLAGS_VM);
	for (unsigned i = 0; i < 6; i++)
		cpu->seg[i] = v86 ? segment_v86(image->seg[i]) : segment_unusable(image->seg[i], 0);
	cpu->cpl = image->seg[SEG_CS] & 3;
	cpu->cr0 |= CR0_TS;
	/* Local breakpoints were the old task's. */
	cpu->dr[7] &= ~0x155ULL;
	cpu_set_rflags(cpu, eflags);
	cpu_update_mode(cpu);
}

static void push_error(struct cpu *cpu, const struct task_image *image, u32 error, u32 ext)
{
	struct stack stack;
	stack_current(cpu, &stack, ext);
	stack_push(cpu, &stack, image->wide ? 4 : 2, error);
	stack_commit(cpu, &stack);
}

void task_switch(struct cpu *cpu, u16 selector, enum task_source source, bool has_error, u32 error, u32 ext)
{
	bool nested = source == TASK_CALL || source == TASK_GATE;
	u16 old_selector = cpu->seg[SEG_TR].selector;
	struct descriptor old_tss, new_tss;
	struct task_image image;

	find_tss(cpu, selector, source, ext, &new_tss);
	if (cpu->non_root)
		cpu->hv->task_switch(cpu, selector, source);
	read_image(cpu, &new_tss, &image);
	u64 eflags = cpu_rflags(cpu);
	if (source == TASK_IRET)
		eflags &= ~RFLAGS_NT;
	bool old_known = descriptor_find(cpu, old_selector, &old_tss);
	save_old_task(cpu, eflags);

	/* The switch can no longer fail: busy bits, link and registers. */
	if (!nested && old_known)
		descriptor_set_busy(cpu, &old_tss, false);
	if (nested)
		tss_write(cpu, descriptor_base(new_tss.raw), 0, 2, old_selector);
	if (source != TASK_IRET)
		descriptor_set_busy(cpu, &new_tss, true);
	cpu->seg[SEG_TR] = descriptor_segment(&new_tss);
	load_registers(cpu, &image, nested ? image.eflags | RFLAGS_NT : image.eflags);
	if (image.wide && (cpu->cr0 & CR0_PG))
		cr3_write(cpu, image.cr3);
	load_segments(cpu, &image, ext);
	if (image.eip > cpu->seg[SEG_CS].limit)
		cpu_raise_error(cpu, VEC_GP, ext);
	if (has_error)
		push_error(cpu, &image, error, ext);
	if (image.trap) {
		cpu->pending_db |= DR6_BT;
		cpu_attend(cpu, ATTEND_TRAP);
	}
}
