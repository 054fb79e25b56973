/*
 * One translation as it is made: what the files that emit parts of it share.
 */
#ifndef STRATA_JIT_TRANSLATION_H
#define STRATA_JIT_TRANSLATION_H

#include "jit/internal.h"

/* Where the guest's arithmetic flags are. */
enum flags_place { IN_MEMORY, IN_HOST, IN_BOTH };

/* A jump to a cold piece of code behind the trace. */
struct cold {
	enum {
		COLD_HANDLER,
		COLD_FILL,
		COLD_UNGROUP,
		COLD_TOO_DEEP,
		COLD_ODD_RETURN,
		COLD_EXIT,
		COLD_UNLINKED,
		COLD_ATTENTION,
		COLD_FAR,
		COLD_FAR_UNBOUND,
		COLD_FAR_MISS,
		COLD_VECTORS,
		COLD_X87
	} kind;
	u8 *from; /* the jump's displacement */
	const struct plan *plan;
	const u8 *resume;      /* COLD_HANDLER: where to go on; NULL: the instruction ends its trace */
	u8 vectors;            /* COLD_VECTORS: VECTORS_* to load */
	const u8 *back;        /* COLD_FILL, COLD_TOO_DEEP, COLD_FAR: where to go on */
	bool load_flags;       /* COLD_HANDLER: the flags are wanted there */
	bool save_flags;       /* COLD_EXIT: they are in the host's alone */
	bool taken;            /* COLD_EXIT: by a branch */
	i64 offset;            /* COLD_EXIT, COLD_UNLINKED: of the target, from this page's start */
	unsigned executed;     /* COLD_EXIT, COLD_FAR_MISS, COLD_FAR: instructions of the trace */
	struct jit_link *link; /* COLD_UNLINKED */
	struct jit_far *far;   /* COLD_FAR, COLD_FAR_UNBOUND */
};

enum { COLD_MAX = 4 * TRACE_MAX };

struct translation {
	struct cpu *cpu;
	struct jit *jit;
	const struct trace *trace;
	const struct plan *plan; /* the first of `count` instructions */
	unsigned count;
	bool chain;
	const u8 *start; /* of the code, where a loop goes back to */
	struct emit e;
	enum flags_place flags;
	u8 held; /* the group whose addend T1 has; 0: none */
	struct cold cold[COLD_MAX];
	unsigned colds;
	bool refused; /* something came out that was not meant */
};

#define CPU_FIELD(field) ((i32)offsetof(struct cpu, field))

static inline i32 guest_offset(unsigned guest)
{
	return (i32)(offsetof(struct cpu, reg) + 8 * guest);
}

/* What follows tests the guest's flags, or leaves some as they were: they are in the host's. Uses T2. */
void need_host_flags(struct translation *t);
/* What follows destroys the host's flags. `live`: the guest's are still wanted. Uses T2. */
void give_up_host_flags(struct translation *t, bool live);

/* A jump to cold code whose displacement is at `from`; to be filled in. */
struct cold *add_cold(struct translation *t, u8 *from);
/* T1 = what stubs must know of the instruction; `vectors` and x87 registers must be loaded behind it. */
void emit_site(struct translation *t, const struct plan *p, u8 vectors, bool x87);
/* Leaves for RIP = T0, through `link`, which may be NULL. */
void emit_leave(struct translation *t, const struct jit_link *link);
/* To the instruction's handler if `condition`; then to the instruction behind. */
void emit_handler_if(struct translation *t, const struct plan *p, unsigned condition);
/* --- address.c --- */

/* Where an operand lies, in the host's addresses. */
struct place_in_memory {
	u8 base, index; /* host registers; index is T1 or HOST_NONE */
	i32 disp;
};

/* The host register that holds a guest register's value: its own, or `temporary`, loaded. */
unsigned emit_use(struct translation *t, unsigned guest, unsigned temporary);
/* `to` = linear address of an offset in this page; RIP is not known before the code runs. Uses T1. */
void emit_page_address(struct translation *t, unsigned to, i64 offset);
/* LEA `to`, the operand's offset; changes no flags. Uses T0 and T1. */
void emit_address(struct translation *t, const struct plan *p, unsigned to, bool wide);
/* The instruction's operand; does not return to here if the handler must do it all. Uses T0 to T2, and the flags. */
struct place_in_memory emit_place(struct translation *t, const struct plan *p);
/* The same, in T0. */
void emit_operand(struct translation *t, const struct plan *p);
/* The 8 bytes at [base + change]. */
struct place_in_memory emit_stack(struct translation *t, const struct plan *p, unsigned base, i32 change, bool write);
void emit_cold_ungroup(struct translation *t, const struct cold *c);
void emit_cold_fill(struct translation *t, const struct cold *c);

/* The instruction's immediates, as the guest has them. */
void emit_immediates(struct translation *t, const struct plan *p);

/* --- far.c --- */

/*
 * Is a direct branch to `offset`, in another page, bound for where the CPU is now? If it cannot be, instruction `p` is
 * done by its handler; or, if that is NULL, the trace is left for there with `executed` instructions to count. Uses T0
 * to T2, and the flags.
 */
struct jit_far *emit_far_check(struct translation *t, const struct plan *p, unsigned executed, i64 offset);
/* Then: the jump, or call. */
void emit_far_branch(struct translation *t, struct jit_far *far, bool call);
/* Tries to bind it, and goes back to the check if that is done. */
void emit_cold_far(struct translation *t, const struct cold *c);
void emit_cold_far_unbound(struct translation *t, const struct cold *c);

/* integer.c */
void translate_divide(struct translation *t, const struct plan *p);
void translate_bit_string(struct translation *t, const struct plan *p);
void translate_direction(struct translation *t, const struct plan *p);

/* reencode.c */
void translate_reencoded(struct translation *t, const struct plan *p);

/* x87.c */
void translate_x87(struct translation *t, const struct plan *p);
/* A jump that is taken if x87 registers are not loaded; where to patch it. Uses the flags. */
u8 *emit_x87_missing(struct translation *t);

/* vectors.c: a jump that is taken if less than `level` is loaded; where to patch it. Uses the flags. */
u8 *emit_vectors_missing(struct translation *t, u8 level);

#endif
