/*
 * Stacks of far transfers and event delivery: pushes and pops that change no register until everything has worked.
 */
#include "cpu/access.h"
#include "cpu/internal.h"

void stack_current(struct cpu *cpu, struct stack *stack, u32 error)
{
	stack->ss = cpu->seg[SEG_SS];
	stack->flat = cpu->mode == CPU_LONG;
	stack->mask = stack->flat ? ~0ULL : stack_mask(stack->ss.ar);
	stack->sp = cpu->reg[RSP] & stack->mask;
	stack->cls = cpu->cpl == 3 ? MMU_USER : cpu->mmu.cls;
	stack->error = error;
}

/* Is [offset, +size) inside the segment (SDM vol. 3, 5.3)? */
static bool inside_limit(const struct segment *ss, u64 offset, unsigned size)
{
	u64 last = offset + size - 1;
	if (ss->ar & SEG_AR_UNUSABLE)
		return false;
	if (!(ss->ar & SEG_AR_CODE) && (ss->ar & SEG_AR_DC))
		return offset > ss->limit && last <= (ss->ar & SEG_AR_DB ? 0xffffffff : 0xffff);
	return last <= ss->limit;
}

static u64 stack_linear(struct cpu *cpu, const struct stack *stack, u64 offset, unsigned size)
{
	if (stack->flat) {
		if (unlikely(!is_canonical(cpu, offset) || !is_canonical(cpu, offset + size - 1)))
			cpu_raise_error(cpu, VEC_SS, stack->error);
		return offset;
	}
	if (unlikely(!inside_limit(&stack->ss, offset, size)))
		cpu_raise_error(cpu, VEC_SS, stack->error);
	return (u32)(stack->ss.base + offset);
}

void stack_push(struct cpu *cpu, struct stack *stack, unsigned size, u64 value)
{
	u64 sp = (stack->sp - size) & stack->mask;
	access_write(cpu, stack_linear(cpu, stack, sp, size), &value, size, stack->cls);
	stack->sp = sp;
}

u64 stack_peek(struct cpu *cpu, struct stack *stack, u64 offset, unsigned size)
{
	u64 value = 0;
	access_read(cpu, stack_linear(cpu, stack, (stack->sp + offset) & stack->mask, size), &value, size, stack->cls);
	return value;
}

u64 stack_pop(struct cpu *cpu, struct stack *stack, unsigned size)
{
	u64 value = stack_peek(cpu, stack, 0, size);
	stack->sp = (stack->sp + size) & stack->mask;
	return value;
}

void stack_commit(struct cpu *cpu, const struct stack *stack)
{
	cpu->reg[RSP] = (cpu->reg[RSP] & ~stack->mask) | (stack->sp & stack->mask);
	/* Writing ESP clears the upper half. */
	if (stack->mask == 0xffffffff)
		cpu->reg[RSP] = (u32)cpu->reg[RSP];
}

/* SS:ESP of a ring in the current TSS, 16 or 32 bits wide; #TS(TR) if the TSS is too short. */
static void read_tss_stack(struct cpu *cpu, unsigned cpl, u32 ext, u16 *ss, u32 *esp)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	bool wide = (tr->ar & SEG_AR_TYPE) == DESC_TSS32_BUSY || (tr->ar & SEG_AR_TYPE) == DESC_TSS32;
	u32 offset = wide ? 4 + 8 * cpl : 2 + 4 * cpl;

	if (offset + (wide ? 5 : 3) > tr->limit)
		cpu_raise_error(cpu, VEC_TS, selector_error(tr->selector, ext));
	u64 linear = (u32)(tr->base + offset);
	if (wide) {
		*esp = sys_read32(cpu, linear);
		*ss = sys_read16(cpu, (u32)(linear + 4));
	} else {
		*esp = sys_read16(cpu, linear);
		*ss = sys_read16(cpu, (u32)(linear + 2));
	}
}

void stack_from_tss(struct cpu *cpu, unsigned cpl, struct stack *stack, u32 ext)
{
	struct descriptor d;
	u16 selector = 0;
	u32 esp = 0;

	read_tss_stack(cpu, cpl, ext, &selector, &esp);
	if (selector_is_null(selector))
		cpu_raise_error(cpu, VEC_TS, ext);
	descriptor_get(cpu, selector, &d, VEC_TS, ext);
	if ((selector & 3u) != cpl || desc_dpl(&d) != cpl || !desc_is_data(&d) || !(d.ar & SEG_AR_RW))
		cpu_raise_error(cpu, VEC_TS, selector_error(selector, ext));
	if (!(d.ar & SEG_AR_P))
		cpu_raise_error(cpu, VEC_SS, selector_error(selector, ext));
	descriptor_set_accessed(cpu, &d);
	stack->ss = descriptor_segment(&d);
	stack->flat = false;
	stack->mask = stack_mask(d.ar);
	stack->sp = esp & stack->mask;
	stack->cls = cpl == 3 ? MMU_USER : MMU_SUPERVISOR;
	stack->error = selector_error(selector, ext);
}

u64 stack_pointer64(struct cpu *cpu, unsigned cpl, unsigned ist, u32 ext)
{
	const struct segment *tr = &cpu->seg[SEG_TR];
	u32 offset = ist ? 0x24 + 8 * (ist - 1) : 4 + 8 * cpl;

	if (unlikely(offset + 7 > tr->limit))
		cpu_raise_error(cpu, VEC_TS, selector_error(tr->selector, ext));
	u64 rsp = sys_read64(cpu, tr->base + offset);
	if (unlikely(!is_canonical(cpu, rsp)))
		cpu_raise_error(cpu, VEC_SS, ext);
	return rsp;
}
