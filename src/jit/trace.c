/*
 * Which blocks become one translation: a hot block, and what ran behind it most often so far, as far as that lies in
 * the same page.
 */
#include "jit/internal.h"

enum { SELDOM = 4 /* of jit_hot: blocks that ran less often than hot / SELDOM are left out */ };

/* Where the block's last instruction leads, as a RAM offset; RAM_OFFSET_NONE if not there, or not in this page. */
static u64 successor(const struct plan *last, enum follow follow)
{
	u64 page = last->block->ram_offset & PAGE_MASK;
	i64 offset = last->offset + last->insn->length;
	bool branch = last->insn->flags & INSN_ENDS;

	if (follow == FOLLOW_NEXT ? branch && last->kind != PLAN_JCC
				  : last->kind != PLAN_JCC && (last->kind != PLAN_JMP || !last->insn->direct))
		return RAM_OFFSET_NONE;
	if (follow == FOLLOW_TARGET)
		offset += (i64)last->insn->imm;
	return offset >= 0 && offset < (i64)PAGE_SIZE ? page + (u64)offset : RAM_OFFSET_NONE;
}

static struct block *candidate(const struct cpu *cpu, const struct plan *last, enum follow follow)
{
	u64 ram_offset = successor(last, follow);
	struct block *b = ram_offset == RAM_OFFSET_NONE ? NULL : block_find(cpu, ram_offset, last->block->mode_key);
	return b && b->count && b->runs * SELDOM >= cpu->jit_hot ? b : NULL;
}

/* The block that most often ran behind the trace's last one so far, and on which way. */
static struct block *favourite(const struct cpu *cpu, const struct plan *last, enum follow *follow)
{
	struct block *next = candidate(cpu, last, FOLLOW_NEXT), *target = candidate(cpu, last, FOLLOW_TARGET);
	bool taken = target && (!next || target->runs > next->runs);
	*follow = taken ? FOLLOW_TARGET : FOLLOW_NEXT;
	return taken ? target : next;
}

static bool contains(const struct trace *trace, const struct block *block)
{
	for (unsigned i = 0; i < trace->blocks; i++)
		if (trace->block[i] == block)
			return true;
	return false;
}

/*
 * A handler called from translated code costs more than one called by the run loop: registers and flags go to memory
 * and back. Where there are several and they are a third of a block, the interpreter is faster; leaving translated code
 * for less costs more.
 */
static bool pays(const struct cpu *cpu, const struct plan *plan, unsigned count)
{
	unsigned handlers = 0;
	for (unsigned i = 0; i < count; i++)
		handlers += plan[i].kind == PLAN_HANDLER;
	return handlers <= 2 || handlers * 3 < count || cpu->jit_hot == 1;
}

static bool append(struct cpu *cpu, struct jit *jit, struct trace *trace, struct block *block)
{
	struct plan *plan = &jit->plan[trace->count];
	jit_plan_block(cpu, jit, block, plan);
	if (!pays(cpu, plan, block->count))
		return false;
	for (unsigned i = 0; i < block->count; i++)
		plan[i].before = (u8)trace->count;
	trace->block[trace->blocks++] = block;
	trace->count += block->count;
	return true;
}

bool jit_select_trace(struct cpu *cpu, struct jit *jit, struct block *head, struct trace *trace)
{
	*trace = (struct trace){ 0 };
	if (!head->count)
		return false;
	if (!append(cpu, jit, trace, head)) {
		jit_look_refused(cpu, jit, head);
		return false;
	}
	while (trace->blocks < TRACE_BLOCKS) {
		struct plan *last = &jit->plan[trace->count - 1];
		enum follow follow;
		struct block *block = favourite(cpu, last, &follow);
		bool loop = block == head;
		if (!block || (!loop && (contains(trace, block) || trace->count + block->count > TRACE_MAX ||
					 !append(cpu, jit, trace, block))))
			break;
		last->follow = follow;
		if (loop) {
			trace->loop = true;
			break;
		}
	}
	return true;
}

u64 jit_trace_lines(const struct trace *trace)
{
	u64 lines = 0;
	for (unsigned i = 0; i < trace->blocks; i++)
		lines |= block_lines(trace->block[i]);
	return lines;
}
