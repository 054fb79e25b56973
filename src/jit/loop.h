/*
 * Loops whose memory is checked beforehand.
 *
 * In most loops that take time, addresses move by the same constant each round. So one look before the first round
 * tells how many rounds stay within the pages that operands are in now, and these rounds (a "stretch") run without a
 * check, without a look at `attention`, and without counting instructions. Registers of the guest that the loop does
 * not use lie in memory meanwhile, and lend theirs to the addends of the pages, to the count of rounds left, and to
 * guest registers that have no host register elsewhere.
 *
 * A stretch ends at a side exit; or when its rounds are used up; or at an operand that could not be checked beforehand
 * and misses the TLB. The last two go on in a second, plain copy of the loop, from that instruction on, which leads
 * back to the check.
 *
 * Owner and thread: the translator's.
 */
#ifndef STRATA_JIT_LOOP_H
#define STRATA_JIT_LOOP_H

#include "jit/internal.h"

/* Operands that lie at constant distances and move by one constant each round: what is checked together. */
struct hoisted {
	u8 base, index; /* guest registers; REG_RIP: the page's start; REG_ZERO: none */
	u8 scale, seg;
	bool negated; /* the index counts the other way: base - (index << scale) */
	bool write;
	u8 alignment; /* less one */
	u16 size;     /* bytes that all of them reach over, from `low` behind base and index on */
	i64 low;
	i32 step; /* per round */
	/* What is kept through the stretch: the page's addend by itself, or with the base or the index added. */
	enum hoisted_form { HOISTED_ADDEND, HOISTED_BASE, HOISTED_INDEX } form;
	u8 host; /* host register of that; HOST_NONE: it is in cpu->jit_addend[] */
};

enum { ROUNDS_MAX = 512 /* of a stretch: interrupts wait for its end */ };

struct loop {
	struct plan plan[TRACE_MAX]; /* of the stretch's instructions */
	unsigned count;
	struct hoisted check[JIT_GROUPS];
	unsigned checks;
	unsigned saved;     /* operands that need no check of their own any more */
	unsigned round_at;  /* the round is counted before this instruction, where no flag is wanted */
	u8 host[GPR_COUNT]; /* as host_register[], for the stretch */
	u8 rounds_left;     /* host register, or HOST_NONE: in cpu->jit_rounds_left */
	u16 bounded;        /* guest registers that must be in [bound_low, 2^31 - bound_high) for a stretch */
	i32 bound_low[GPR_COUNT], bound_high[GPR_COUNT];
	u16 written;           /* guest registers that the loop writes */
	u16 lent;              /* host registers that hold something else than between stretches */
	const u8 *start, *end; /* its code */
};

/* What jit_verify() may find as base or index of an operand in memory in [start, end): host registers of checks. */
u32 loop_bases(const struct loop *loop);

/* plan_loop.c: can the trace in jit->plan[] have stretches? Fills in jit->loop. */
bool jit_plan_loop(struct jit *jit, const struct trace *trace);

#endif
