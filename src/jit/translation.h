/*
 * One translation as it is made: what the files that emit parts of it share.
 */
#ifndef STRATA_JIT_TRANSLATION_H
#define STRATA_JIT_TRANSLATION_H

#include "jit/internal.h"

/* Where the guest's arithmetic flags are. */
enum flags_place { IN_MEMORY, IN_HOST, IN_BOTH };

/* A jump to a cold piece of code behind the block. */
struct cold {
	enum { COLD_HANDLER, COLD_UNLINKED, COLD_FAR_MISS, COLD_VECTORS } kind;
	u8 *from;         /* the jump's displacement */
	const u8 *resume; /* COLD_HANDLER: where to go on; NULL: the instruction ends its block */
	bool load_flags;
	u8 vectors;      /* COLD_HANDLER: VECTORS_* to load again */
	unsigned index;  /* of the instruction, in the block */
	unsigned offset; /* of the instruction in its page; COLD_UNLINKED: of the target */
};

enum { COLD_MAX = 4 * BLOCK_MAX };

struct translation {
	struct cpu *cpu;
	struct jit *jit;
	struct block *block;
	struct emit e;
	enum flags_place flags;
	unsigned first, count;
	bool chain;
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

/* To the instruction's handler if `condition`; then to the instruction behind. */
void emit_handler_if(struct translation *t, const struct plan *p, unsigned condition);
/* T0 = host address of the instruction's operand, or the handler does it all. Uses T1, T2, and the flags. */
void emit_operand(struct translation *t, const struct plan *p);
/* The instruction's immediates, as the guest has them. */
void emit_immediates(struct translation *t, const struct plan *p);

/* reencode.c */
void translate_reencoded(struct translation *t, const struct plan *p);

/* vectors.c: a jump that is taken if less than `level` is loaded; where to patch it. Uses the flags. */
u8 *emit_vectors_missing(struct translation *t, u8 level);

#endif
