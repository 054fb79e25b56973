/*
 * Which blocks become one translation: a hot block, and what ran behind it most often so far, as far as that lies in
 * the same page. Loops of few rounds are unrolled: their blocks are in the trace once for each round.
 */
#include "jit/loop.h"

enum {
	SELDOM = 4, /* of jit_hot: blocks that ran less often than hot / SELDOM are left out */
	FEW_ROUNDS = 6,
	MANY_ROUNDS = UINT8_MAX,
	UNROLLED = 4,      /* rounds, if nobody knows how many there are */
	UNROLLED_MAX = 64, /* instructions of them all */
};

/* Where the block's last instruction leads, as a RAM offset; RAM_OFFSET_NONE if not there, or not in this page. */
static u64 successor(const struct plan *last, enum follow follow)
{
	u64 page = last->block->ram_offset & PAGE_MASK;
	i64 offset = last->offset + last->insn->length;
	bool branch = last->insn->flags & INSN_ENDS && last->kind != PLAN_STRING;

	if (follow == FOLLOW_NEXT ? branch && last->kind != PLAN_JCC
				  : last->kind != PLAN_JCC && (last->kind != PLAN_JMP || !last->insn->direct))
		return RAM_OFFSET_NONE;
	if (follow == FOLLOW_TARGET)
		offset += (i64)last->insn->imm;
	return offset >= 0 && offset < (i64)PAGE_SIZE ? page + (u64)offset : RAM_OFFSET_NONE;
}

/* How often it ran, as far as that is counted: until it is translated. */
static unsigned runs_of(const struct cpu *cpu, const struct block *block)
{
	return block->entry == cpu->blocks->untranslated ? block->runs : cpu->jit_hot;
}

static struct block *candidate(const struct cpu *cpu, const struct plan *last, enum follow follow)
{
	u64 ram_offset = successor(last, follow);
	struct block *b = ram_offset == RAM_OFFSET_NONE ? NULL : block_find(cpu, ram_offset, last->block->mode_key);
	return b && b->count && runs_of(cpu, b) * SELDOM >= cpu->jit_hot ? b : NULL;
}

static unsigned times_in(const struct trace *trace, const struct block *block)
{
	unsigned times = 0;
	for (unsigned i = 0; i < trace->blocks; i++)
		times += trace->block[i] == block;
	return times;
}

/* Does it begin a loop of few rounds? */
static bool is_short_loop(const struct block *block)
{
	return block->rounds > 1 && block->rounds != MANY_ROUNDS;
}

/* May the block follow? Only those of short loops are in a trace once more; `round`: where the latest one began. */
static bool may_follow(const struct trace *trace, const struct block *block, unsigned round)
{
	if (block == trace->block[0])
		return true;
	if (is_short_loop(block))
		return times_in(trace, block) < block->rounds;
	for (unsigned i = round; i < trace->blocks; i++)
		if (trace->block[i] == block)
			return false;
	return true;
}

/* Is a branch back to `target` to be followed, rather than the way to `next`? */
static bool goes_round(const struct cpu *cpu, const struct trace *trace, const struct block *target,
		       const struct block *next)
{
	bool head = target == trace->block[0];
	if (is_short_loop(target))
		return may_follow(trace, target, 0);
	if (head && target->rounds == MANY_ROUNDS)
		return true;
	/* Both have run as often as is counted, perhaps. */
	unsigned back = runs_of(cpu, target), on = runs_of(cpu, next);
	return head ? back >= on : back > on;
}

/*
 * The block that most often ran behind the trace's last one so far, and on which way; NULL if none did, or if it must
 * not follow.
 */
static struct block *favourite(const struct cpu *cpu, const struct trace *trace, const struct plan *last,
			       unsigned round, enum follow *follow)
{
	struct block *next = candidate(cpu, last, FOLLOW_NEXT), *target = candidate(cpu, last, FOLLOW_TARGET);
	bool taken = target && (!next || runs_of(cpu, target) > runs_of(cpu, next));
	if (target && next && (i64)last->insn->imm < 0)
		taken = goes_round(cpu, trace, target, next);
	struct block *block = taken ? target : next;
	*follow = taken ? FOLLOW_TARGET : FOLLOW_NEXT;
	return block && may_follow(trace, block, round) ? block : NULL;
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
	trace->unrolled |= times_in(trace, block) > 0;
	trace->block[trace->blocks++] = block;
	trace->count += block->count;
	return true;
}

/*
 * How many rounds the loop that the trace is has, on average: so often its first block ran for each time that the block
 * behind it did. Only the first translation knows, up to which all was interpreted.
 */
static void note_rounds(const struct cpu *cpu, const struct trace *trace, const struct plan *last)
{
	struct block *head = trace->block[0];
	if (head->rounds)
		return;
	u64 ram_offset = successor(last, last->follow == FOLLOW_NEXT ? FOLLOW_TARGET : FOLLOW_NEXT);
	const struct block *behind =
		ram_offset == RAM_OFFSET_NONE ? NULL : block_find(cpu, ram_offset, last->block->mode_key);
	unsigned visits = behind ? runs_of(cpu, behind) : 0;
	unsigned rounds = visits ? (head->runs + visits / 2) / visits : MANY_ROUNDS;
	bool few = rounds <= FEW_ROUNDS && rounds * trace->count <= UNROLLED_MAX;
	head->rounds = few ? (u8)rounds : MANY_ROUNDS;
}

/* The loop that the trace is takes several rounds before it leads back. */
static void unroll(struct cpu *cpu, struct jit *jit, struct trace *trace)
{
	const struct block *head = trace->block[0];
	unsigned blocks = trace->blocks, count = trace->count;
	unsigned rounds = is_short_loop(head) ? head->rounds : UNROLLED;

	while (--rounds && trace->count + count <= UNROLLED_MAX && trace->blocks + blocks <= TRACE_BLOCKS)
		for (unsigned i = 0; i < blocks; i++)
			append(cpu, jit, trace, trace->block[i]);
	for (unsigned i = count; i < trace->count; i++)
		jit->plan[i].follow = jit->plan[i - count].follow;
}

bool jit_select_trace(struct cpu *cpu, struct jit *jit, struct block *head, struct trace *trace)
{
	unsigned round = 0; /* where the latest round of a loop within begins */

	*trace = (struct trace){ 0 };
	if (!head->count)
		return false;
	if (!append(cpu, jit, trace, head)) {
		jit_look_refused(cpu, jit, head);
		return false;
	}
	while (trace->blocks < TRACE_BLOCKS && !trace->loop) {
		struct plan *last = &jit->plan[trace->count - 1];
		enum follow follow;
		struct block *block = favourite(cpu, trace, last, round, &follow);
		trace->loop = block == head;
		if (block && times_in(trace, block))
			round = trace->blocks;
		if (!block ||
		    (!trace->loop && (trace->count + block->count > TRACE_MAX || !append(cpu, jit, trace, block))))
			break;
		last->follow = follow;
	}
	if (trace->loop)
		note_rounds(cpu, trace, &jit->plan[trace->count - 1]);
	/* Stretches neither count as they go nor look at anything, and cannot be cut to pieces for the checker. */
	trace->stretches = !jit->options.check && !cpu->pmu.tracked && jit_plan_loop(jit, trace);
	if (trace->loop && !trace->stretches)
		unroll(cpu, jit, trace);
	return true;
}

u64 jit_trace_lines(const struct trace *trace)
{
	u64 lines = 0;
	for (unsigned i = 0; i < trace->blocks; i++)
		lines |= block_lines(trace->block[i]);
	return lines;
}
