/*
 * What is known of a guest's registers in straight code: each one is an unknown value (its root), or none, plus a
 * constant, so that one sees which operands in memory lie at a constant distance from each other.
 *
 * Owner and thread: the translator's.
 */
#ifndef STRATA_JIT_TRACKER_H
#define STRATA_JIT_TRACKER_H

#include "jit/internal.h"

enum {
	ROOT_RIP = 1, /* the page's start */
	ROOT_ZERO,    /* no value: a constant, or no register */
	ROOT_FIRST
};

enum { NEGATED = 1 << 30 /* of a root: the value is the offset less what the root stands for */ };

struct value {
	u32 root;
	i64 offset;
};

/*
 * With `narrow`, additions and moves of 32 bits count as if of 64, which they are while no value leaves 0 to 2^31 - 1:
 * whoever asks for it must see to that. For each register that has its root in such a value, `narrow_low` and
 * `narrow_high` say by how much those values differ from what it was at the beginning; 0 is always between them.
 */
enum {
	NARROW_MAX = 1 << 19, /* of such differences */
	INITIAL_ROOT = ROOT_FIRST + 1
};

enum { UNBOUNDED = UINT16_MAX };

struct tracker {
	struct value reg[GPR_COUNT];
	u16 most[GPR_COUNT];    /* the register is from 0 to this, or UNBOUNDED */
	u8 most_low[GPR_COUNT]; /* and so is its lowest byte */
	u32 last_root;
	u32 era; /* counts handlers, and what changes address spaces */
	bool narrow;
	u16 bounded; /* these registers */
	i32 narrow_low[GPR_COUNT], narrow_high[GPR_COUNT];
};

/*
 * An operand's address: base + (index << scale) + segment base, by roots, and the constant rest. Of a `wide` one the
 * index is so small that the whole range where the operand may lie is taken for it, and there is no index.
 */
struct access {
	u32 base, index, era;
	u8 scale, seg, size, alignment;
	bool write, wide;
	i64 offset;
};

/* Nothing is known of any register: each has a root of its own, INITIAL_ROOT + its number. */
void tracker_begin(struct tracker *k);
/* The instruction's operand in memory; false: none, or one that is checked by itself. */
bool tracker_access(const struct tracker *k, const struct plan *p, struct access *a);
/* The registers behind the instruction. */
void tracker_follow(struct tracker *k, const struct plan *p);
/* The same if its operand in memory is known to hold what the register `from` has. */
void tracker_load(struct tracker *k, const struct plan *p, unsigned from);

/* Do the two lie at a constant distance, as far as `offset` says? */
static inline bool access_alike(const struct access *a, const struct access *b)
{
	return a->base == b->base && a->index == b->index && a->era == b->era && a->seg == b->seg &&
	       (a->index == ROOT_ZERO || a->scale == b->scale);
}

/* Is what follows from the leader's alignment enough for the other? */
static inline bool access_aligned_with(const struct access *a, const struct access *leader)
{
	return !a->alignment || (a->alignment <= leader->alignment && !((a->offset - leader->offset) & a->alignment));
}

#endif
