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

/* Host register of each guest GPR; HOST_NONE: it lives in cpu->reg. */
extern const u8 host_register[GPR_COUNT];

/* How much of the guest's vector state is in the host's registers; each level has all of those before (vectors.c). */
enum { VECTORS_NONE, VECTORS_SSE, VECTORS_AVX, VECTORS_UPPER, VECTORS_LEVELS };

/* How an instruction is translated. */
enum plan_kind {
	PLAN_HANDLER,  /* by a call of the interpreter's handler */
	PLAN_COPY,     /* the same instruction, with other registers */
	PLAN_REENCODE, /* likewise, with all its prefixes: reencode.c */
	PLAN_NOTHING,
	PLAN_LEA,
	PLAN_PUSH,
	PLAN_POP,
	PLAN_LEAVE,
	PLAN_JCC,
	PLAN_JMP,
	PLAN_CALL,
	PLAN_RET
};

struct plan {
	enum plan_kind kind;
	bool native; /* could be translated without the handler */
	const struct insn *insn;
	u16 offset;       /* of the instruction in its page */
	bool reads_flags; /* needs the guest's flags in the host's: tests some, or leaves some as they were */
	bool writes_flags;
	bool live_before, live_after; /* may somebody see the flags there? */
	bool memory;                  /* has an operand in memory that the translation accesses */
	bool memory_write;
	u8 memory_size;
	u8 alignment;                     /* of the operand in memory, less one: a handler raises the fault */
	u8 vectors;                       /* VECTORS_* that must be loaded while it runs */
	u8 vectors_before, vectors_after; /* and that instructions from here to the next handler want */
	u8 bytes[15];
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

/* Integer instructions that not every host executes. */
enum {
	HOST_POPCNT = BIT(0),
	HOST_LZCNT = BIT(1),
	HOST_BMI1 = BIT(2),
	HOST_BMI2 = BIT(3),
	HOST_ADX = BIT(4),
	HOST_MOVBE = BIT(5)
};

enum { JIT_AREA = 32 << 20, JIT_BLOCK_MAX = 32 << 10 };

struct jit {
	struct jit_options options;
	u8 *writable;
	const u8 *executable;
	size_t used, stubs_end; /* bytes */
	bool full;
	u32 host; /* HOST_POPCNT and so on */
	/* Stubs, in the writable mapping. */
	const u8 *stub_handler;      /* call: T1 = site */
	const u8 *stub_handler_end;  /* jump: T1 = site; the instruction ends its block */
	const u8 *stub_untranslated; /* jump: T1 = block, T2 = link: leave, RIP at the block */
	const u8 *stub_leave;        /* jump: T0 = RIP, T2 = link */
	const u8 *stub_interpret; /* jump: T1 = site of the first instruction: all of them by the interpreter; leave */
	const u8 *stub_store_vectors;
	const u8 *stub_load_vectors[VECTORS_LEVELS];  /* call: they can be loaded */
	const u8 *stub_enter_vectors[VECTORS_LEVELS]; /* call: T1 = site; loads them, or interprets and leaves */
	struct block **(*enter)(struct cpu *cpu, const struct block *block, const void *code);
	struct plan plan[BLOCK_MAX];
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
 * What stubs must know of an instruction, in one register: the block's place in the arena, the instruction's offset in
 * its page, its index, and how many instructions were counted when the code was entered. In the top bits: VECTORS_*
 * that the code behind it wants loaded.
 */
enum { SITE_VECTORS_SHIFT = 62 };
static inline u64 jit_site(const struct cpu *cpu, const struct block *block, unsigned index, unsigned offset,
			   unsigned counted)
{
	return (u64)((const u8 *)block - cpu->blocks->arena) << 32 | (u64)offset << 16 | index << 8 | counted;
}

/* stubs.c: makes the stubs at the area's start. */
void jit_make_stubs(struct cpu *cpu, struct jit *jit);

/* plan.c: fills jit->plan for instructions [first, first + count); false: the bytes are no longer those decoded. */
bool jit_plan(struct cpu *cpu, struct jit *jit, const struct block *block, unsigned first, unsigned count);

bool jit_plan_address(const struct plan *p, const ZydisDecodedOperand *op);

/* plan_reencode.c: can the instruction be re-encoded? Fills in its operand in memory and the vectors it needs. */
bool jit_plan_reencode(const struct jit *jit, struct plan *p);
/* Fills in vectors_before and vectors_after, once all else is planned. */
void jit_plan_vectors(struct plan *plan, unsigned count);
/* HOST_POPCNT and so on. */
u32 jit_host_features(void);
/* Does the host have this integer instruction? */
bool jit_host_executes(const struct jit *jit, const ZydisDecodedInstruction *zi);

/* vectors.c: what cpu->vectors_allowed must be. */
u8 jit_vectors_allowed(const struct cpu *cpu);

/* Runs `code`, a translation of `block`. As jit_ops.run. */
static inline struct block **jit_enter(struct cpu *cpu, const struct block *block, const void *code)
{
	cpu->vectors_allowed = jit_vectors_allowed(cpu);
	return jit_of(cpu)->enter(cpu, block, code);
}

/* Make the stubs that move vectors; the latter, once stub_interpret is made. */
void jit_make_vector_stubs(struct jit *jit, struct emit *e);
void jit_make_vector_entries(struct jit *jit, struct emit *e);
/* On the way to C code: stores what is loaded. Uses the flags. */
void emit_store_vectors(struct emit *e, const struct jit *jit);

/* The guest register of a general register operand; Zydis counts AH to BH among the 8-bit ones. */
static inline unsigned jit_gpr_number(const ZydisDecodedOperand *op)
{
	unsigned id = (unsigned)ZydisRegisterGetId(op->reg.value);
	return ZydisRegisterGetClass(op->reg.value) == ZYDIS_REGCLASS_GPR8 && id >= 4 ? id - 4 : id;
}

/* translate.c: code for instructions [first, first + count) of the block; NULL if there is no room, or if it must not
 * be. `chain`: leads to other blocks by itself. */
const u8 *jit_translate(struct cpu *cpu, struct jit *jit, struct block *block, unsigned first, unsigned count,
			bool chain);

/* verify.c: is [code, +size) nothing but instructions that translated code may contain? */
bool jit_verify(const struct jit *jit, const u8 *code, size_t size);

/* check.c: jit_ops that run each piece of native code beside the interpreter. */
void jit_check_translate(struct cpu *cpu, struct block *block);
struct block **jit_check_run(struct cpu *cpu, struct block *block);

#endif
