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

/* How an instruction is translated. */
enum plan_kind {
	PLAN_HANDLER, /* by a call of the interpreter's handler */
	PLAN_COPY,    /* the same instruction, with other registers */
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
	u8 bytes[15];
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
};

enum { JIT_AREA = 32 << 20, JIT_BLOCK_MAX = 32 << 10 };

struct jit {
	struct jit_options options;
	u8 *writable;
	const u8 *executable;
	size_t used, stubs_end; /* bytes */
	bool full;
	/* Stubs, in the writable mapping. */
	const u8 *stub_handler;      /* call: T1 = site */
	const u8 *stub_handler_end;  /* jump: T1 = site; the instruction ends its block */
	const u8 *stub_untranslated; /* jump: T1 = block, T2 = link: leave, RIP at the block */
	const u8 *stub_leave;        /* jump: T0 = RIP, T2 = link */
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
 * its page, its index, and how many instructions were counted when the code was entered.
 */
static inline u64 jit_site(const struct cpu *cpu, const struct block *block, unsigned index, unsigned offset,
			   unsigned counted)
{
	return (u64)((const u8 *)block - cpu->blocks->arena) << 32 | (u64)offset << 16 | index << 8 | counted;
}

/* stubs.c: makes the stubs at the area's start. */
void jit_make_stubs(struct cpu *cpu, struct jit *jit);

/* plan.c: fills jit->plan for instructions [first, first + count); false: the bytes are no longer those decoded. */
bool jit_plan(struct cpu *cpu, struct jit *jit, const struct block *block, unsigned first, unsigned count);

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
