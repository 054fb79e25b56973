/*
 * Which operands in memory share one check. Operands of a trace whose addresses differ only by small constants lie in
 * one page more often than not: the first of them checks the whole range and keeps the page's addend, and the others
 * use that, without a check and without touching the flags. Nothing between them can withdraw a translation, for
 * whatever may do that ends its trace, or is a handler, behind which no group goes on.
 */
#include "jit/known.h"

enum { GROUP_RANGE = 256 /* bytes; a longer range crosses a page too often */ };

struct candidate {
	struct plan *plan; /* NULL: no operand to share, or it has its group already */
	struct access at;
	const struct plan *store; /* that it is known from */
};

static bool is_in_register(unsigned guest)
{
	return guest < GPR_COUNT && host_register[guest] != HOST_NONE;
}

/*
 * Does a leader's address take more than one register that is the host's, too? Then members had better not compute
 * theirs anew.
 */
static bool keeps_place(const struct plan *leader)
{
	const struct insn *insn = leader->insn;
	return insn->flags & INSN_MEM &&
	       (insn->index != REG_ZERO || !is_in_register(insn->base) || insn->seg == SEG_FS || insn->seg == SEG_GS);
}

/*
 * One whose place is not known from the leader's, because it may lie here or there, or the leader does not keep its
 * own, computes its address each time: an index must be in a register that is the host's, too, for then T1 is left
 * alone.
 */
static bool may_follow(const struct plan *p, const struct access *a, const struct plan *leader)
{
	if (keeps_place(leader))
		return !a->wide;
	return !(p->insn->flags & INSN_MEM) || p->insn->index == REG_ZERO ||
	       (is_in_register(p->insn->base) && is_in_register(p->insn->index));
}

static void join(struct plan *p, const struct plan *leader, unsigned slot, i64 offset)
{
	p->group = (u8)slot;
	p->group_place = keeps_place(leader);
	p->group_offset = (i16)offset;
}

/* Makes a group of the first candidate and those behind it that fit; true if there are any. */
static bool make_group(struct candidate *c, unsigned count, u8 slot)
{
	const struct access first = c[0].at;
	i64 low = first.offset, high = first.offset + first.size;
	unsigned members = 1;
	bool write = first.write;

	for (unsigned i = 1; i < count; i++) {
		const struct access *a = &c[i].at;
		if (!c[i].plan || !access_alike(a, &first) || !access_aligned_with(a, &first) ||
		    !may_follow(c[i].plan, a, c[0].plan))
			continue;
		i64 l = a->offset < low ? a->offset : low;
		l -= (l - first.offset) & first.alignment; /* the range begins where the leader's alignment shows */
		i64 h = a->offset + a->size > high ? a->offset + a->size : high;
		if (h - l > GROUP_RANGE)
			continue;
		low = l;
		high = h;
		write |= a->write;
		members++;
		join(c[i].plan, c[0].plan, slot, a->offset - first.offset);
		c[i].plan = NULL;
	}
	if (members == 1)
		return false;
	join(c[0].plan, c[0].plan, slot, 0);
	c[0].plan->leads = true;
	c[0].plan->group_low = (i32)(low - first.offset);
	c[0].plan->group_size = (u16)(high - low);
	c[0].plan->group_write = write;
	return true;
}

/* Finds out where operands lie, and which are `known`. */
static void find_operands(struct plan *plan, unsigned count, struct candidate *c, bool know)
{
	struct tracker k;
	struct known known = { 0 };

	tracker_begin(&k);
	for (unsigned i = 0; i < count; i++) {
		struct plan *p = &plan[i];
		p->group = p->known = 0;
		p->leads = false;
		c[i] = (struct candidate){ 0 };
		bool access = tracker_access(&k, p, &c[i].at);
		if (access && !p->hoisted && !p->block->plain)
			c[i].plan = p;
		if (know && c[i].plan)
			c[i].store = known_find(&known, &k, p, &c[i].at);
		if (know)
			known_follow(&known, &k, p, access ? &c[i].at : NULL);
		if (p->known)
			tracker_load(&k, p, p->known - 1u);
		else
			tracker_follow(&k, p);
	}
}

/* Are all operands that are known in the groups of the stores that they are known from? */
static bool knowledge_holds(const struct candidate *c, const struct plan *plan, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (plan[i].known && (!plan[i].group || plan[i].group != c[i].store->group))
			return false;
	return true;
}

static void make_groups(struct candidate *c, unsigned count, unsigned slot)
{
	for (unsigned i = 0; i < count && slot <= JIT_GROUPS; i++)
		if (c[i].plan && !c[i].at.wide && make_group(&c[i], count - i, (u8)slot))
			slot++;
}

void jit_plan_groups(struct plan *plan, unsigned count, unsigned slot)
{
	struct candidate c[TRACE_MAX];
	bool know = slot <= JIT_GROUPS;

	find_operands(plan, count, c, know);
	make_groups(c, count, slot);
	if (know && !knowledge_holds(c, plan, count)) {
		find_operands(plan, count, c, false);
		make_groups(c, count, slot);
	}
}
