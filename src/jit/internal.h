/*
 * Inside of the translator.
 *
 * Host registers in translated code: RSP is the host's stack, R15 the CPU, R9 to R11 are free within an instruction,
 * and the others hold guest registers (host_register). Guest registers without a host register stay in cpu->reg. A
 * guest's arithmetic flags are in the host's, or in cpu->arith, as the translator knows at each instruction; always in
 * cpu->arith where a block begins and wherever C code is called.
 */
#ifndef STRATA_JIT_INTERNAL_H
#define STRATA_JIT_INTERNAL_H

#include "cpu/block_cache.h"
#include "cpu/jit_ops.h"
#include "jit/emit.h"
#include "jit/jit.h"

#include <Zydis/Zydis.h>
#include <assert.h>

/* Host register of each guest GPR; HOST_NONE: it lives in cpu->reg. */
extern const u8 host_register[GPR_COUNT];

/* How much of the guest's vector state is in the host's registers; each level has all of those before (vectors.c). */
enum { VECTORS_NONE, VECTORS_SSE, VECTORS_AVX, VECTORS_UPPER, VECTORS_LEVELS };

/* How an instruction is translated. */
enum plan_kind {
	PLAN_HANDLER, /* by a call of the interpreter's handler */
	/* These test and change arithmetic flags as the instruction does. */
	PLAN_COPY,     /* the same instruction, with other registers */
	PLAN_REENCODE, /* likewise, with all its prefixes: reencode.c */
	PLAN_X87,
	PLAN_DIVIDE,
	PLAN_BIT_STRING,
	PLAN_JCC, /* and LOOP and JRCXZ, of those that jit_is_count_branch() knows */
	/* These do not. */
	PLAN_DIRECTION,
	PLAN_SYSTEM,   /* on struct cpu alone: system.c */
	PLAN_STRING,   /* REP MOVS and REP STOS: strings.c */
	PLAN_SELECTOR, /* MOV of a segment register to a whole general one */
	PLAN_NOTHING,
	PLAN_LEA,
	PLAN_PUSH,
	PLAN_PUSH_FLAGS,
	PLAN_POP,
	PLAN_LEAVE,
	PLAN_JMP,
	PLAN_CALL,
	PLAN_RET,
	PLAN_RING /* SYSCALL, SYSRET: rings.c */
};

/*
 * A trace: blocks of one page that mostly run one behind the other, translated as one; several times the same, if they
 * are a loop's. Only its first instruction is entered from outside; wherever else a branch leads, the trace is left.
 */
enum { TRACE_BLOCKS = 16, TRACE_MAX = 120 };

/* How a block of a trace leads to the next one, or the last one back to the first. */
enum follow { FOLLOW_NONE, FOLLOW_NEXT, FOLLOW_TARGET };

struct trace {
	struct block *block[TRACE_BLOCKS];
	unsigned blocks;
	unsigned count; /* instructions of all blocks */
	bool loop;      /* the last block leads to the first */
	bool unrolled;  /* some blocks are there several times */
	bool stretches; /* it is a loop, and has stretches: jit->loop (loop.h) */
	/* The only instruction lies across pages: the block of no instruction that stands for it; or NULL. */
	struct block *crossing;
};

/* An instruction of a trace and what is to become of it. */
struct plan {
	enum plan_kind kind;
	bool native; /* could be translated without the handler */
	const struct block *block;
	const struct insn *insn;
	u16 offset;         /* of the instruction in its page */
	u8 before;          /* instructions of the trace before this block */
	enum follow follow; /* where the trace goes on behind a block's last instruction */
	bool reads_flags;   /* needs the guest's flags in the host's: tests some, or leaves some as they were */
	bool writes_flags;
	bool live_before, live_after; /* may somebody see the flags there? */
	bool stored_later; /* will they be in cpu->arith later on in any case, with no use for them before? */
	bool memory;       /* has an operand in memory that the translation accesses */
	bool memory_write;
	u8 memory_size;
	u8 alignment;                     /* of the operand in memory, less one: a handler raises the fault */
	bool swaps;                       /* uses the low byte for a high one, while they are exchanged */
	u8 vectors;                       /* VECTORS_* that must be loaded while it runs */
	u8 vectors_before, vectors_after; /* and that instructions from here to the next handler want */
	/* Operands that share one check (plan_groups.c). */
	u8 group;   /* 1 + number of its slot in cpu->jit_addend; 0: checked by itself */
	bool leads; /* checks for all: group_size bytes from group_low before its own operand on */
	bool group_write;
	u16 group_size;
	i32 group_low;
	/* The slot has the host address of the leader's operand, and all lie at such distances from it; or the page's
	 * addend. */
	bool group_place;
	i16 group_offset;
	bool may_know; /* may take its operand from a register that is known to have the same (known.h) */
	u8 known;      /* 1 + that guest register; 0: none */
	/* Operands of a stretch that were checked before it (loop.h). */
	u8 hoisted; /* 1 + number of the check; 0: none */
	i32 hoisted_disp;
	bool x87_pointers;          /* PLAN_X87: sets FIP, FOP and FDP */
	bool x87_before, x87_after; /* do instructions from here to the next handler want x87 registers? */
	/* Guest registers that operands are, hidden ones included, and those that it writes, in whatever part; a bit
	 * for each. */
	u16 named, written;
	u8 bytes[15];
	/* From here on the decoder fills in all that counts. */
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/*
 * A jump from a translation to a block of the same page. While that block has no translation, the jump goes to code
 * that leaves; jit_bind() makes it direct, untranslating the target undoes that.
 */
struct jit_link {
	u8 *site;              /* the jump's displacement, in the writable mapping */
	const u8 *unlinked;    /* where it leads while not bound, likewise */
	u64 ram_offset;        /* of the target */
	u32 mode_key;          /* likewise */
	bool bound;            /* in the target's list */
	bool quiet;            /* leads behind what is looked at where a trace is entered */
	struct jit_link *next; /* in that list: block->incoming */
	struct jit_far *far;   /* NULL: the target is in the same page */
};

/* A direct jump to another page, or an indirect one that is aimed (far.c). */
struct jit_far {
	/* Where it is right: where these are the CPU's. */
	struct far_place {
		u64 key;   /* jit_page; if aimed, where the branch leads */
		u64 stamp; /* jit_stamp; 0: not bound, and the jump is never taken */
	} bound;
	/*
	 * Beside the code: `page` is bound.key, or jit->nowhere, and is forgotten with the predictions; NULL: no room.
	 * If aimed, `addend` is the target's page.
	 */
	struct prediction *near;
	struct page_predictions *predictions; /* the page's, with whom */
	i64 offset;                           /* of the target from bound.key */
	bool aimed;
	u32 patience, misses_left; /* if aimed: misses until it is aimed anew, at all and from now on */
	struct jit_link link;
};

/* Integer instructions that not every host executes, and what else differs between hosts. */
enum {
	HOST_POPCNT = BIT(0),
	HOST_LZCNT = BIT(1),
	HOST_BMI1 = BIT(2),
	HOST_BMI2 = BIT(3),
	HOST_ADX = BIT(4),
	HOST_MOVBE = BIT(5),
	HOST_CX16 = BIT(6),
	HOST_XSAVE = BIT(7),
	/* Flags that these leave undefined do not depend on those before: undefined.c. */
	HOST_SETTLES_SHIFTS = BIT(8),
	HOST_SETTLES_PRODUCTS = BIT(9),
	HOST_SETTLES_SCANS = BIT(10)
};

/* A translation, for those who look at it: instructions jit->plan[first, +count). */
struct jit_made {
	const struct trace *trace;
	u64 page;                    /* linear address of the page they are in, now */
	const u8 *start;             /* in the writable mapping */
	const u8 *at[TRACE_MAX + 1]; /* each instruction's code; [count]: what comes behind them all */
	size_t size;
	unsigned first, count;
	u8 quiet;  /* bytes that links of the same page may leave out */
	u64 lines; /* of the page, besides the trace's own: what it relies on */
};

/*
 * Open calls take 16 bytes each of the host's stack, from the end of a piece of CALLS_BYTES on that is aligned to its
 * size. They are too many when the bits CALLS_ROOM of the stack pointer are 0: in the first page of it.
 */
enum { CALLS_BYTES = 64 << 10, CALLS_ROOM = CALLS_BYTES - PAGE_SIZE };

/*
 * Where an operand in memory was last: predict.c. Translated code reaches it relative to RIP. No larger than that code
 * needs it, for a big program has so many that they would crowd others out of the host's cache.
 */
struct prediction {
	u64 page;   /* linear address; or a key, see is_keyed(); jit->nowhere: nothing is predicted */
	u64 addend; /* as in struct tlb_entry; of the latest access, if its page may not be predicted */
};

/* Numbers in lists of predictions; others are places in jit->predictions. */
enum { NOT_LISTED, LAST_LISTED, FIRST_PREDICTION };

struct prediction_info {
	u32 insn, head; /* places in the arena of the instruction, and of its trace's first block */
	u16 misses;     /* that were looked at */
	bool aim;       /* of where the instruction leads, not of its operand */
};

/* Room for a trace's: three of each instruction, a header. With two copies of each it may run out: new_place(). */
enum { PREDICTIONS = 3 * TRACE_MAX + 1 };

/* A header in jit->predictions, of a page with code: those that have looked for something since they were forgotten. */
struct page_predictions {
	u64 stamp; /* the MMU's copies' when they were made */
	u64 first; /* number; those behind it by jit->prediction_next */
};

enum { JIT_DEFAULT_SIZE = 38 << 20, JIT_TRACE_MAX = 64 << 10, HUGE_BYTES = 2 << 20 };

struct loop;

struct jit {
	struct jit_options options;
	u8 *writable;
	const u8 *executable;
	/* Bytes: code grows from the start, links grow from the end. */
	size_t size, used, stubs_end, links_start;
	size_t forgotten; /* as much of the writable mapping was last given back: see jit_keep() */
	u64 patched;      /* since then jumps were bound; a bit for each 2 MiB, or several, where */
	u64 patched_at;   /* counters.instructions when somebody saw that */
	size_t huge;      /* as much of the area was made huge pages, where the host can */
	bool full;
	struct prediction *predictions;          /* beside the executable mapping, neither of them executable */
	struct prediction_info *prediction_info; /* as many */
	u32 *prediction_next;                    /* as many: the number behind each one in its page's list */
	size_t predictions_max, predictions_used;
	/*
	 * A page where nothing can be: neither canonical (SDM vol. 1, 3.3.7.1) nor within 2^57 of what is, and drawn by
	 * lot: an operand that lay there would be taken for one that is predicted, and end Strata.
	 */
	u64 nowhere;
	u64 missed_at;  /* counters.instructions when one that missed was looked at */
	u64 emptied_at; /* counters.instructions then */
	u32 host;       /* HOST_POPCNT and so on */
	/* Stubs, in the writable mapping. */
	const u8 *stub_handler;      /* call: T1 = site */
	const u8 *stub_handler_end;  /* jump: T1 = site; the instruction ends its block */
	const u8 *stub_crossing;     /* jump: T1 = block of no instruction, which begins at RIP */
	const u8 *stub_untranslated; /* jump: T1 = struct jump_entry: leave, RIP there */
	const u8 *stub_leave;        /* jump: T0 = RIP */
	const u8 *stub_leave_at;     /* jump: T2 = offset of RIP in this page */
	const u8 *stub_leave_by;   /* jump: T2 = place of the link in the writable mapping, which leads to this page */
	const u8 *stub_fill;       /* call: see make_fill() */
	const u8 *stub_forget;     /* call: see make_forget() */
	const u8 *stub_look[2];    /* call, for reads and writes: see make_look() */
	const u8 *stub_predict[2]; /* likewise: see make_predict() */
	const u8 *stub_predict_keyed[2]; /* likewise: see make_predict_keyed() */
	const u8 *stub_stack_page[2];    /* likewise: see stack_page.c */
	const u8 *stub_ungroup; /* jump: T1 = site: the group's range does not lie in one page; as stub_interpret */
	/* jump: T1 = site: runs the rest of the instruction's block by the interpreter; leaves */
	const u8 *stub_interpret;
	/* call: T0 = key, T1 = struct jit_far: T2 = 1: it is bound now; 0: its target has no translation. Keeps T0. */
	const u8 *stub_far;
	const u8 *stub_far_near;     /* the same, for one with a place beside the code: see make_far_near() */
	const u8 *stub_aim;          /* likewise, for one that is aimed; T2 = 2: it stays aimed elsewhere */
	const u8 *stub_string[2][4]; /* call, by is it MOVS, and width: see strings.c */
	const u8 *stub_tsc;          /* call: EDX:EAX = the TSC; what the code behind wants is to be loaded again */
	const u8 *stub_store_vectors;
	const u8 *stub_load_vectors[VECTORS_LEVELS];  /* call: they can be loaded */
	const u8 *stub_enter_vectors[VECTORS_LEVELS]; /* call: T1 = site; loads them, or interprets and leaves */
	const u8 *stub_store_x87;
	const u8 *stub_load_x87;  /* call: they can be loaded */
	const u8 *stub_enter_x87; /* call: T1 = site; loads them, or interprets and leaves */
	/* Runs translated code; the link through which it left, or NULL. */
	struct jit_link *(*enter)(struct cpu *cpu, const void *code);
	const u8 *stub_no_credit; /* jump: T1 = site: a loop's stretches do not pay; as stub_interpret */
	struct plan plan[TRACE_MAX];
	struct loop *loop;    /* of the trace that is translated now, if it has stretches */
	struct jit_made made; /* the latest translation */
	ZydisDecoder verifier;
};

static inline struct jit *jit_of(const struct cpu *cpu)
{
	return cpu->jit_state;
}

static inline const u8 *jit_executable(const struct jit *jit, const u8 *writable)
{
	return jit->executable + (writable - jit->writable);
}

/*
 * What stubs must know of an instruction, in one register.
 *
 *	63..62   VECTORS_* that the code behind it wants loaded
 *	61       does it want x87 registers?
 *	60..32   place of its block in the arena, in units of 8 bytes
 *	31..20   its offset in its page
 *	19..13   how many instructions of the block are translated
 *	12..7    its index in the block
 *	6..0     instructions of the trace before the block
 */
enum { SITE_VECTORS = 62, SITE_X87 = 61, SITE_BLOCK = 32, SITE_OFFSET = 20, SITE_END = 13, SITE_INDEX = 7 };

static_assert(BLOCK_MAX <= 64 && TRACE_MAX < 128 && BLOCK_MEMORY_MAX <= 1 << 30 && _Alignof(struct block) >= 8,
	      "sites have room for them");

static inline u64 jit_site(const struct cpu *cpu, const struct plan *p, unsigned end, u8 vectors, bool x87)
{
	u64 block = (u64)((const u8 *)p->block - cpu->blocks->arena), index = (u64)(p->insn - p->block->insn);
	return (u64)vectors << SITE_VECTORS | (u64)x87 << SITE_X87 | block / 8 << SITE_BLOCK |
	       (u64)p->offset << SITE_OFFSET | (u64)end << SITE_END | index << SITE_INDEX | p->before;
}

/* --- area.c --- */

/* Maps jit->size bytes. 0 or -errno. */
int jit_area_create(struct jit *jit);
void jit_area_destroy(struct jit *jit);
/* Nothing but the stubs is left in it. */
void jit_area_empty(struct jit *jit);
/* Room for `n` bytes more of code, `links` links and a trace's predictions? If not, all is to be emptied. */
bool jit_has_room(struct jit *jit, size_t n, unsigned links);
/*
 * The bytes from jit->used are translated code now. What is filled of the writable mapping is given back from time to
 * time, or the code would count twice in the process's memory.
 */
void jit_keep(struct cpu *cpu, struct jit *jit, size_t size);
/* Jumps were bound. Once that has brought much in, or some time has passed since the first: gives it back. */
void jit_tidy_patched(struct cpu *cpu, struct jit *jit);

/* --- predict_miss.c --- */

void jit_make_prediction_stubs(struct cpu *cpu, struct jit *jit, struct emit *e);
/* ATTEND_JIT: an operand that has missed its prediction. */
void jit_attend(struct cpu *cpu);

enum {
	STAMP_BITS = 48, /* of struct mmu_stamp; `attention` is above them */
	/*
	 * T2 as a reference: bytes of a range, less one; whether the operand itself is written, by which it was found;
	 * where the number of a prediction's page begins, and its own.
	 */
	REFERENCE_SIZE = 0x1ff,
	REFERENCE_WRITE = 0x200,
	REFERENCE_PAGE = 10,
	REFERENCE_NUMBER = 32
};

/* ZF = the TLB has the range T2 from T0 on. RAX = its entry, RCX = the tag that it should have. */
void emit_find_entry(struct emit *e, bool write);
/* CF = mmu_may_copy() of T0's entry says no. Uses RAX and RCX. */
void emit_test_copies(struct emit *e);
/* mmu_note_copy() of T0's entry, whose addend is that register. Uses RCX and T2. */
void emit_note_copy(struct emit *e, unsigned addend, bool write);
/*
 * A stub that calls `look`: T0 = linear address, T2 = reference; ZF = the TLB has it. If not, the TLB is filled, and
 * looked at once more. A range across pages is not for it.
 */
void make_look_twice(struct emit *e, const struct jit *jit, const u8 *look);

/* stack_page.c */
void jit_make_stack_page_stubs(struct jit *jit, struct emit *e);

/* jit.c: a jump leads to the block's translation from now on. */
void jit_bind(struct jit *jit, struct jit_link *link, struct block *block);

/* far.c: binds the jump for where the CPU is now. 0: its target has no translation. */
u64 jit_bind_far(struct cpu *cpu, struct jit_far *far, u64 key);
/* Its target's translation is gone. */
void jit_unbind_far(const struct jit *jit, struct jit_far *far);

/* stubs.c: makes the stubs at the area's start. */
void jit_make_stubs(struct cpu *cpu, struct jit *jit);

/* trace.c: which blocks to translate with this one; plans all their instructions. false: none of them pays. */
bool jit_select_trace(struct cpu *cpu, struct jit *jit, struct block *head, struct trace *trace);
u64 jit_trace_lines(const struct trace *trace);

/* plan.c: fills plan[] for the block's instructions. */
void jit_plan_block(struct cpu *cpu, const struct jit *jit, const struct block *block, struct plan *plan);
/* The same for the block's only instruction, which lies across pages, and has these bytes. */
void jit_plan_crossing(struct cpu *cpu, const struct jit *jit, const struct block *block, const u8 bytes[15],
		       struct plan *plan);
/*
 * Are the arithmetic flags overwritten where the block begins, before anything may look at them? Then a jump to there
 * need not bring them along.
 */
bool jit_flags_are_dead(struct cpu *cpu, const struct jit *jit, struct block *block);
/*
 * The same at code that has not run yet, in a page with blocks. If so, adds the lines that the answer relies on to
 * `lines`, which are to be the translation's.
 */
bool jit_flags_are_dead_ahead(struct cpu *cpu, const struct jit *jit, u64 ram_offset, u32 mode_key, u64 *lines);
/*
 * Decides which operands share checks, with slots from `slot` on, where flags are live, and vectors wanted. `loop`: the
 * last instruction leads to the first.
 */
void jit_plan_state(struct plan *plan, unsigned count, unsigned slot, bool loop);

/* plan_groups.c: which operands of the instructions share a check, but for hoisted ones. */
enum { NO_GROUPS = JIT_GROUPS + 1 /* as `slot` */ };
void jit_plan_groups(struct plan *plan, unsigned count, unsigned slot);

/* LOOP and JRCXZ whose target is in the page: it is canonical then, so nothing need be undone for a fault. */
bool jit_is_count_branch(const struct plan *p);

/* Does the instruction write to its operand in memory, or on the stack? */
static inline bool jit_writes(const struct plan *p)
{
	return p->memory_write || p->kind == PLAN_CALL;
}

/* Is its operand, or place on the stack, one that its group's leader has checked? */
static inline bool jit_follows(const struct plan *p)
{
	return p->group && !p->leads;
}

bool jit_plan_address(const struct plan *p, const ZydisDecodedOperand *op);

/* plan_reencode.c: can the instruction be re-encoded? Fills in its operand in memory and the vectors it needs. */
bool jit_plan_reencode(const struct jit *jit, struct plan *p);
/* Fills in vectors_before and vectors_after, and those of x87, once all else is planned. */
void jit_plan_vectors(struct plan *plan, unsigned count);
/* HOST_POPCNT and so on. */
u32 jit_host_features(void);
/* Does the host have this integer instruction? */
bool jit_host_executes(const struct jit *jit, const ZydisDecodedInstruction *zi);

/* Those whose flags all but CF and OF come from the result: not rotations. */
static inline bool jit_is_shift(ZydisMnemonic m)
{
	return m == ZYDIS_MNEMONIC_SHL || m == ZYDIS_MNEMONIC_SHR || m == ZYDIS_MNEMONIC_SAR ||
	       m == ZYDIS_MNEMONIC_SHLD || m == ZYDIS_MNEMONIC_SHRD;
}

/* undefined.c: HOST_SETTLES_*; asks the processor. */
u32 jit_settled_flags(void);
/* Does no flag that the instruction leaves undefined depend, on this host, on those before it? */
bool jit_settles_flags(const struct jit *jit, ZydisMnemonic m);

bool jit_plan_x87(const struct jit *jit, struct plan *p);

/* system.c: is it PLAN_SYSTEM, unless forbidden? Does one change what is mapped where for the instructions behind it?
 */
bool jit_plan_system(const struct jit *jit, const struct plan *p);
bool jit_changes_spaces(const struct plan *p);

/* strings.c: is it PLAN_STRING? */
bool jit_plan_string(struct plan *p);
void jit_make_string_stubs(struct jit *jit, struct emit *e);

/* rings.c */
bool jit_plan_ring(const struct cpu *cpu, const struct jit *jit, const struct plan *p);

/* x87.c: what cpu->x87_allowed must be. */
bool jit_x87_allowed(const struct cpu *cpu);
void jit_make_x87_stubs(struct jit *jit, struct emit *e);
void jit_make_x87_entry(struct jit *jit, struct emit *e);
void emit_store_x87(struct emit *e, const struct jit *jit);

/* vectors.c: what cpu->vectors_allowed must be. */
u8 jit_vectors_allowed(const struct cpu *cpu);

/* Runs translated code. As jit->enter. */
static inline struct jit_link *jit_enter(struct cpu *cpu, const void *code)
{
	cpu->vectors_allowed = jit_vectors_allowed(cpu);
	cpu->x87_allowed = jit_x87_allowed(cpu);
	return jit_of(cpu)->enter(cpu, code);
}

/* Make the stubs that move vectors; the latter, once stub_interpret is made. */
void jit_make_vector_stubs(struct jit *jit, struct emit *e);
void jit_make_vector_entries(struct jit *jit, struct emit *e);
/* On the way to C code: stores what is loaded. Uses the flags. */
void emit_store_vectors(struct emit *e, const struct jit *jit);

/* Is the operand a general register, of whatever width? */
static inline bool jit_is_gpr(const ZydisDecodedOperand *op)
{
	return op->type == ZYDIS_OPERAND_TYPE_REGISTER && op->reg.value >= ZYDIS_REGISTER_AL &&
	       op->reg.value <= ZYDIS_REGISTER_R15;
}

/* AH to BH? */
static inline bool jit_is_high_byte(ZydisRegister reg)
{
	return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH;
}

static_assert(ZYDIS_REGISTER_AX == ZYDIS_REGISTER_AL + 20 && ZYDIS_REGISTER_RAX == ZYDIS_REGISTER_AX + 2 * GPR_COUNT &&
		      ZYDIS_REGISTER_R15 == ZYDIS_REGISTER_RAX + GPR_COUNT - 1,
	      "general registers by number, one width behind the other; AH to BH in the midst of the bytes");

/* The guest register of a general register operand. */
static inline unsigned jit_gpr_number(const ZydisDecodedOperand *op)
{
	unsigned reg = op->reg.value;
	if (reg >= ZYDIS_REGISTER_AX)
		return (reg - ZYDIS_REGISTER_AX) % GPR_COUNT;
	return reg - ZYDIS_REGISTER_AL - (reg >= ZYDIS_REGISTER_AH ? 4 : 0);
}

/*
 * translate.c: code for instructions jit->plan[first, +count) of the trace; NULL if there is no room, or if it must not
 * be. `chain`: leads to other blocks, and back to its beginning, by itself.
 */
const u8 *jit_translate(struct cpu *cpu, struct jit *jit, const struct trace *trace, unsigned first, unsigned count,
			bool chain);

/* crossing.c: the translation of a block of no instruction; NULL: none, or there is no room. */
const u8 *jit_translate_crossing(struct cpu *cpu, struct jit *jit, struct block *block);

/* verify.c: is [code, +size) nothing but instructions that translated code may contain? `loop`: has a stretch; or NULL.
 */
bool jit_verify(const struct jit *jit, const u8 *code, size_t size, const struct loop *loop);
/*
 * The length of the instruction at `at` in code [code, end), 0 if it must not be there; `bases`: registers besides the
 * usual ones that operands in memory may be reached through.
 */
unsigned jit_verify_decoded(const struct jit *jit, const u8 *at, const u8 *code, const u8 *end, u32 bases);
/* verify_plain.c: the same without a decoder, for the most usual ones; 0: ask the decoder. */
unsigned jit_verify_plain(const struct jit *jit, const u8 *at, const u8 *code, const u8 *end);

/* Is it a prediction's field that the instruction behind which `next` lies (in the writable mapping) refers to? */
static inline bool jit_prediction_is_right(const struct jit *jit, const u8 *next, i64 disp)
{
	u64 at = (u64)jit_executable(jit, next) + (u64)disp - (u64)jit->predictions;
	return at % 8 == 0 && at / sizeof(struct prediction) < jit->predictions_max;
}

/* Jumps and calls stay in their code or go to a stub. */
static inline bool jit_branch_is_right(const struct jit *jit, const u8 *target, const u8 *code, const u8 *end)
{
	return (target >= code && target < end) || (target >= jit->writable && target < jit->writable + jit->stubs_end);
}

/* look.c: what a person may see: of a new translation (jit->made), of a block that stays interpreted, of the code area.
 */
void jit_look(const struct cpu *cpu, struct jit *jit);
void jit_look_refused(const struct cpu *cpu, const struct jit *jit, const struct block *block);
void jit_look_start(const struct jit *jit);
void jit_look_emptied(const struct cpu *cpu, const struct jit *jit);
/* Disassembles on standard error until the first byte that is no instruction. `title` may be NULL. */
void jit_print_code(const char *title, const u8 *code, size_t size, u64 address);

/* check.c: jit_ops that run each piece of native code beside the interpreter. */
void jit_check_translate(struct cpu *cpu, struct block *block);
void jit_check_run(struct cpu *cpu, struct block *block);

#endif
