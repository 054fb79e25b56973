/*
 * One translation as it is made: what the files that emit parts of it share.
 */
#ifndef STRATA_JIT_TRANSLATION_H
#define STRATA_JIT_TRANSLATION_H

#include "jit/internal.h"
#include "jit/loop.h"

/* Where the guest's arithmetic flags are. IN_RECIPE: nowhere, but an instruction can make them again (recipe.c). */
enum flags_place { IN_MEMORY, IN_HOST, IN_BOTH, IN_RECIPE };

/*
 * What can make the guest's flags once more (recipe.c): the instruction that made them, from what it left in the
 * register of its first operand. That register may change by a constant, and the value may be in another one, too.
 */
struct recipe {
	const struct plan *plan; /* NULL: nothing can */
	struct kept {
		u8 reg;   /* guest register; REG_ZERO: none */
		i32 plus; /* how much more than the value it has now */
	} first, copy;
};

/* Bytes in memory that are to be accessed: `size` from host register + disp, a linear address, on. */
struct range {
	unsigned base;
	i32 disp;
	unsigned size;
	bool write;
};

/* A jump to a cold piece of code behind the trace. */
struct cold {
	enum {
		COLD_HANDLER,
		COLD_FILL,
		COLD_FORGET,
		COLD_PREDICT,
		COLD_PREDICT_GROUP,
		COLD_PREDICT_STRETCH,
		COLD_UNGROUP,
		COLD_SPLIT,
		COLD_PREDICT_SPLIT,
		COLD_TOO_DEEP,
		COLD_ODD_RETURN,
		COLD_EXIT,
		COLD_UNLINKED,
		COLD_ATTENTION,
		COLD_FAR,
		COLD_AIM,
		COLD_FAR_UNBOUND,
		COLD_FAR_MISS,
		COLD_VECTORS,
		COLD_X87,
		COLD_NO_STRETCH,
		COLD_NO_CREDIT,
		COLD_GO_ON_PLAIN,
		COLD_CROSSING
	} kind;
	u8 *from; /* the jump's displacement */
	u8 *also; /* another jump's, or NULL */
	const struct plan *plan;
	struct recipe recipe; /* makes the guest's flags, if they are not in cpu->arith */
	const u8 *resume;     /* COLD_HANDLER, COLD_AIM: where to go on; NULL: the instruction ends its trace */
	u8 vectors;           /* COLD_VECTORS: VECTORS_* to load */
	const u8 *back;       /* COLD_FILL, COLD_PREDICT, COLD_TOO_DEEP, COLD_FAR, COLD_AIM: where to go on */
	struct range range;   /* COLD_PREDICT */
	struct prediction *prediction;
	bool stack_page;       /* COLD_PREDICT: it is asked for the stack's */
	bool keyed;            /* COLD_PREDICT: see is_keyed() */
	bool load_flags;       /* COLD_HANDLER: the flags are wanted there */
	bool save_flags;       /* COLD_EXIT: they are in the host's alone */
	struct recipe made;    /* COLD_EXIT: what could make them once more */
	bool taken;            /* COLD_EXIT: by a branch */
	bool stretch;          /* COLD_EXIT: out of a stretch */
	i64 offset;            /* COLD_EXIT, COLD_UNLINKED: of the target, from this page's start */
	unsigned executed;     /* COLD_FAR_MISS, COLD_FAR: instructions of the trace */
	i32 rsp;               /* as in struct translation */
	struct jit_link *link; /* COLD_UNLINKED */
	struct jit_far *far;   /* COLD_FAR, COLD_FAR_UNBOUND, COLD_AIM */
};

enum { COLD_MAX = 4 * TRACE_MAX };

struct translation {
	struct cpu *cpu;
	struct jit *jit;
	const struct trace *trace;
	const struct plan *plan; /* the first of `count` instructions */
	unsigned count;
	const u8 *host;          /* host register of each guest GPR: host_register[], but in a stretch */
	const struct loop *loop; /* a stretch of it is emitted now (loop.h); or NULL */
	bool split;              /* what is emitted now has groups, and a plain copy comes behind it */
	/* Where each instruction's code begins in the plain copy; behind its flags' saving, if it has memory. */
	const u8 *plain_at[TRACE_MAX];
	const u8 *plain; /* where the plain copy begins */
	bool chain;
	const u8 *start; /* of the code, where a loop goes back to */
	struct emit e;
	enum flags_place flags;
	struct recipe recipe; /* of the flags that the latest instruction to change any made */
	u8 held;              /* the group whose addend T1 has; 0: none */
	/* Where groups that keep no more than an addend find theirs: in the leader's prediction, or the stack's page;
	 * NULL: jit_addend[]. */
	const u64 *group_addend[JIT_GROUPS];
	i32 rsp;           /* the guest's RSP is its host register plus this: settle_rsp() */
	struct cold *cold; /* COLD_MAX */
	unsigned colds;
	struct page_predictions *page;
	unsigned predictions; /* its own, from jit->predictions_used on */
	const u8 *quiet;      /* behind what is looked at where it is entered */
	u64 lines;            /* besides its own, that it relies on */
	bool refused;         /* something came out that was not meant */
};

#define CPU_FIELD(field) ((i32)offsetof(struct cpu, field))
/* mmu.of_class[cls].field */
#define OF_CLASS(cls, field)                                                                                           \
	(CPU_FIELD(mmu.of_class) + (i32)((cls) * sizeof(struct mmu_of_class) + offsetof(struct mmu_of_class, field)))

static inline i32 guest_offset(unsigned guest)
{
	return (i32)(offsetof(struct cpu, reg) + 8 * guest);
}

/* --- flags.c; all of it may use T2 --- */

/* What follows tests the guest's flags, or leaves some as they were: they are in the host's. */
void need_host_flags(struct translation *t);
/* What follows destroys the host's flags. `live`: the guest's are still wanted, in cpu->arith. */
void give_up_host_flags(struct translation *t, bool live);
/* The same for a check, whose rare path alone wants them there: cold code makes them by `recipe`. */
void set_flags_aside(struct translation *t, bool live);
/* cpu->arith = the guest's flags, by the recipe. */
void emit_recipe_to_memory(struct translation *t, const struct recipe *r);
/* The host's flags = cpu->arith. */
void emit_load_flags(struct translation *t);
/* T2 = RFLAGS & mask; the guest's arithmetic flags are in cpu->arith. Uses T0, and the flags. */
void emit_rflags(struct translation *t, i32 mask);
/* Around each instruction's code. */
void flags_before(struct translation *t, const struct plan *p);
void flags_behind(struct translation *t, const struct plan *p);

/* --- recipe.c --- */

/* Of an instruction that changes flags; `plan` is NULL: none. */
struct recipe recipe_of(const struct plan *p);
/* The same recipe behind an instruction that changes no flags. */
struct recipe recipe_behind(const struct recipe *r, const struct plan *p);
/* The host's flags = the guest's. Uses T2. */
void emit_recipe(struct translation *t, const struct recipe *r);

/* --- translate.c --- */

/* What the trace has found out of a page, by slot. */
static inline i32 addend_offset(unsigned slot)
{
	return (i32)(offsetof(struct cpu, jit_addend) + 8 * slot);
}

/* Instructions of the trace up to this one, with it. */
unsigned executed(const struct translation *t, const struct plan *p);
/* Which group's addend T1 has behind the instruction; `held`: before it. */
u8 held_behind(const struct translation *t, const struct plan *p, u8 held);
/* The same instruction of the plain copy, if there is one. */
const struct plan *plain_plan(const struct translation *t, const struct plan *p);
/* A jump to cold code whose displacement is at `from`; to be filled in. */
struct cold *add_cold(struct translation *t, u8 *from);
/* T1 = what stubs must know of the instruction; `vectors` and x87 registers must be loaded behind it. */
void emit_site(struct translation *t, const struct plan *p, u8 vectors, bool x87);
/* To the instruction's handler if `condition`; then to the instruction behind. */
void emit_handler_if(struct translation *t, const struct plan *p, unsigned condition);

/* --- copy.c --- */

/* Does a general register of the guest that it names live in a temporary meanwhile? */
bool uses_temporary(const struct translation *t, const struct plan *p);
/* The instruction's immediates, as the guest has them. */
void emit_immediates(struct translation *t, const struct plan *p);
void translate_copy(struct translation *t, const struct plan *p);
void translate_lea(struct translation *t, const struct plan *p);
void translate_selector(struct translation *t, const struct plan *p);

/* --- stack.c --- */

/*
 * Pushes and pops that cannot fault leave RSP's host register alone until something wants to see it; then this adds to
 * it what they have not. Changes no flag.
 */
void settle_rsp(struct translation *t);
/*
 * Can the instruction be done while RSP is still to be settled? It must neither leave nor fault, nor use RSP otherwise.
 */
bool may_defer_rsp(const struct plan *p);
/* Changes no flag. */
void emit_adjust_rsp(struct translation *t, i32 change);
void translate_push(struct translation *t, const struct plan *p);
void translate_push_flags(struct translation *t, const struct plan *p);
void translate_pop(struct translation *t, const struct plan *p);
void translate_leave(struct translation *t, const struct plan *p);

/* --- leave.c --- */

/* The first n instructions of the trace, the last of which may be a branch; those before it are counted. Uses the
 * flags. */
void emit_count(struct translation *t, unsigned n);
/* A branch, where the trace goes on behind it: with the flags as they are. Uses T0. */
void emit_count_passed(struct translation *t);
/* Leaves for RIP = T0. */
void emit_leave(struct translation *t);
/* Leaves for `offset` in this page if `condition`. */
void emit_leave_if(struct translation *t, unsigned condition, i64 offset);
/* The same if something wants attention. */
void emit_leave_for_attention(struct translation *t, i64 offset);
/* To `offset` in this page, by a jump, or call, that jit.c makes direct. */
void emit_link(struct translation *t, i64 offset, bool call, bool quiet);
/* May links of the page lead behind what is looked at where a trace is entered? */
bool has_quiet_links(const struct translation *t);
/*
 * Leaves the trace behind instruction `p` for an offset counted from this page's start. A branch (`taken`) must find
 * its target canonical.
 */
void emit_exit(struct translation *t, const struct plan *p, bool taken, i64 offset);
/* From the trace's end back to its beginning. */
void emit_loop(struct translation *t, const struct plan *p);
/* ZF = nothing wants attention. */
void emit_compare_attention(struct translation *t);
/* Bits 63..47 of T0 are alike, or the handler sees to it. Uses T1. */
void emit_canonical(struct translation *t, const struct plan *p);
/*
 * Looks up T0 in the jump cache: goes on with T1 = its entry there, or jumps to cold code. `p`: a miss is for its
 * handler, which does the whole branch; NULL: it leaves with RIP = T0, and `executed` instructions to count. Uses T2.
 */
void emit_lookup(struct translation *t, const struct plan *p, unsigned executed);
/* Linear address T0 is where the CPU is from now on. */
void emit_enter_page(struct translation *t);
/* After emit_lookup(): a jump (4), or call (2), to where T1 says; T0 is its address. */
void emit_enter_far(struct translation *t, unsigned n);
/* After emit_lookup(), behind instruction `p`. */
void emit_go_far(struct translation *t, const struct plan *p);
/* Behind the last instruction, to T0, wherever that is. */
void emit_go_to(struct translation *t, const struct plan *p);

static inline bool is_in_page(i64 offset)
{
	return offset >= 0 && offset < (i64)PAGE_SIZE;
}

/* Where the instruction behind this one lies, and where a direct branch leads, from this page's start. */
static inline i64 next_offset(const struct plan *p)
{
	return p->offset + p->insn->length;
}

static inline i64 target_offset(const struct plan *p)
{
	return next_offset(p) + (i64)p->insn->imm;
}

/* --- branches.c --- */

/* Where the code goes on behind the instruction: FOLLOW_NONE at the end, but for a loop. */
enum follow following(const struct translation *t, const struct plan *p);
void translate_jcc(struct translation *t, const struct plan *p);
void translate_jmp(struct translation *t, const struct plan *p);
void translate_call(struct translation *t, const struct plan *p);
void translate_ret(struct translation *t, const struct plan *p);
/* To T0, which is not where the branch is aimed at. */
void emit_missed_aim(struct translation *t, const struct cold *c);
/* The guest returns to somewhere else than behind the last open call: all are forgotten. */
void emit_odd_return(struct translation *t, const struct plan *p);

/* --- address.c --- */

/* Where an operand lies, in the host's addresses. */
struct place_in_memory {
	u8 base, index; /* host registers; HOST_NONE: no index */
	u8 scale;
	i32 disp;
};

/* ADD `reg`, [CPU + field]; the segment's base, for those that have one. Uses the flags. */
void emit_add_to(struct emit *e, unsigned reg, i32 field);
void emit_add_segment(struct translation *t, unsigned reg, unsigned seg);
/* The host register that holds a guest register's value: its own, or `temporary`, loaded. */
unsigned emit_use(struct translation *t, unsigned guest, unsigned temporary);
/* `to` = linear address of an offset in this page; RIP is not known before the code runs. Uses T1. */
void emit_page_address(struct translation *t, unsigned to, i64 offset);
/* LEA `to`, the operand's offset; changes no flags. Uses T0 and T1. */
void emit_address(struct translation *t, const struct plan *p, unsigned to, bool wide);
/* Does that use T1 indeed? */
bool address_takes_t1(const struct translation *t, const struct plan *p);
/* The instruction's operand; does not return to here if the handler must do it all. Uses T0 to T2, and the flags. */
struct place_in_memory emit_place(struct translation *t, const struct plan *p);
/* The same, in T0 alone. */
void emit_operand(struct translation *t, const struct plan *p);
struct place_in_memory emit_one_register(struct translation *t, struct place_in_memory m);
/* The 8 bytes at [base + change]. */
struct place_in_memory emit_stack(struct translation *t, const struct plan *p, unsigned base, i32 change, bool write);
/* ZF = the TLB has the `size` bytes at linear address base + disp, in one page. T1 = its entry. Uses T2. */
void emit_compare(struct translation *t, unsigned base, i32 disp, unsigned size, bool write);
/* The same by the tag at this offset of the entry. */
void emit_compare_tag(struct translation *t, unsigned base, i32 disp, unsigned size, i32 tag);
/* MOV of 64 bits, from and to there. */
void emit_load_place(struct translation *t, unsigned to, struct place_in_memory m);
void emit_store_place(struct translation *t, unsigned from, struct place_in_memory m);
/* ZF = T0 & mask is 0. */
void emit_test_alignment(struct translation *t, u32 mask);
void emit_cold_ungroup(struct translation *t, const struct cold *c);
void emit_cold_fill(struct translation *t, const struct cold *c);

/* crossing.c: is the second page's part of the instruction what it was? Uses T0 to T2, and the flags. */
void emit_crossing(struct translation *t);

/* --- predict.c --- */

/*
 * Where a trace is entered: leaves if something wants attention, and forgets predictions that are no longer good. Uses
 * T0, T1, T2, and the flags.
 */
void emit_begin_predictions(struct translation *t);
/*
 * T1 = addend of the range, by a prediction; where that is wrong by the TLB, which is filled if need be; where that
 * cannot have it, the handler of `p` does it all, or the interpreter the rest of a group's block. false: it cannot be
 * predicted, and nothing was emitted. Uses T2, in cold code T0, and the flags.
 */
bool emit_predicted(struct translation *t, const struct plan *p, struct range r, bool group);
/* `reg` = a group's addend, which its leader has predicted. */
void emit_load_predicted(struct translation *t, unsigned reg, const u64 *addend);
/* Room beside the code for one that predicts nothing yet, or where a far jump is right; NULL: there is none. */
struct prediction *new_place(struct translation *t);
/* The same of an indirect branch: of where it leads. */
struct prediction *new_aim(struct translation *t, const struct plan *p);
/* CMP `reg`, with a field of it. */
void emit_compare_place(struct translation *t, unsigned reg, const u64 *field);
/* T2 = which page's predictions, for stubs. */
void emit_page_reference(struct translation *t);
void emit_cold_forget(struct translation *t, const struct cold *c);
/* A jump, whose displacement is at `from`, to where a prediction of the range was wrong. */
struct cold *add_mispredicted(struct translation *t, u8 *from, const struct plan *p, struct range r, bool group);
/* As stubs want it. */
u32 range_reference(const struct cold *c);
/* Goes back if the TLB has the range, or could be filled with its page; else on. */
void emit_cold_predict(struct translation *t, const struct cold *c);

/* --- stack_page.c --- */

/* As emit_predicted(), by the page of the stack, if the range lies close to RSP. */
bool emit_stack_page(struct translation *t, const struct plan *p, struct range r, bool group);
/* As emit_cold_predict(). */
void emit_cold_stack_page(struct translation *t, const struct cold *c);
/* Does the page stay the latest until the leader's group ends? Others that ask for it may change it. */
bool is_stack_page_kept(const struct translation *t, const struct plan *leader);

/* --- far.c --- */

/*
 * Is a direct branch to `offset`, in another page, bound for where the CPU is now? If it cannot be, instruction `p` is
 * done by its handler; or, if that is NULL, the trace is left for there with `executed` instructions to count. Uses T0
 * to T2, and the flags.
 */
struct jit_far *emit_far_check(struct translation *t, const struct plan *p, unsigned executed, i64 offset);
/*
 * Does an indirect branch, to T0, lead where it is aimed at? If not, cold code looks up where it does lead. NULL: it is
 * not to be aimed, and nothing was emitted.
 */
struct cold *emit_aim(struct translation *t, const struct plan *p);
/* Then: the jump, or call. `from_t0`: T0 still has the page that the branch lies in, from emit_far_check(). */
void emit_far_branch(struct translation *t, struct jit_far *far, bool call, bool from_t0);
/* Tries to bind it, and goes back to the check if that is done. */
void emit_cold_far(struct translation *t, const struct cold *c);
/* The same; the handler does all of a branch that cannot be. Else goes on, for it stays aimed elsewhere. */
void emit_cold_aim(struct translation *t, const struct cold *c);
void emit_cold_far_unbound(struct translation *t, const struct cold *c);

/* --- loop.c --- */

/* The checks of a stretch, behind which its instructions come, and what comes behind those. */
void emit_begin_stretch(struct translation *t, struct loop *loop);
/* Where it ends the plain copy begins, once registers that were lent are taken back. */
void emit_end_stretch(struct translation *t);
/* Counts a round; before instruction `p`. Uses the flags. */
void emit_round(struct translation *t, const struct plan *p);
struct place_in_memory emit_hoisted(struct translation *t, const struct plan *p);
/* Guest registers where they are outside of stretches, and T0 = rounds left; changes no flag. */
void emit_leave_stretch(struct translation *t);
/* From T0, counts the instructions of the rounds done; `p` (of jit->plan) is the last, or next, of this one. */
void emit_rounds_done(struct translation *t, const struct plan *p);
/* Out of the stretch if `condition`: instruction `p` and those behind are done by the plain copy. */
void emit_go_on_plain_if(struct translation *t, const struct plan *p, unsigned condition);

/* integer.c */
void translate_divide(struct translation *t, const struct plan *p);
void translate_bit_string(struct translation *t, const struct plan *p);
void translate_direction(struct translation *t, const struct plan *p);

/* strings.c */
void translate_string(struct translation *t, const struct plan *p);

/* rings.c */
void translate_ring(struct translation *t, const struct plan *p);

/* system.c */
void translate_system(struct translation *t, const struct plan *p);
/* To the instruction's handler unless a byte of struct cpu is this; or has one of these bits. */
void require_byte(struct translation *t, const struct plan *p, i32 field, u8 value);
void require_bits(struct translation *t, const struct plan *p, i32 field, u8 bits);

/* reencode.c */
void translate_reencoded(struct translation *t, const struct plan *p);

/* x87.c */
void translate_x87(struct translation *t, const struct plan *p);
/* A jump that is taken if x87 registers are not loaded; where to patch it. Uses the flags. */
u8 *emit_x87_missing(struct translation *t);

/* vectors.c: a jump that is taken if less than `level` is loaded; where to patch it. Uses the flags. */
u8 *emit_vectors_missing(struct translation *t, u8 level);

#endif
