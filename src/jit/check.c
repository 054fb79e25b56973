/*
 * The differential tester (--check-translation): each run of instructions that is translated without handlers is
 * executed by the interpreter, undone, and executed by its translation; the CPU, the memory they wrote and any
 * exception must come out the same. The first difference ends the process, with all one wants to know about it.
 *
 * Memory is undone by a journal: before each instruction the bytes it could write are noted, those at its operand and
 * those it could push. Instructions on devices must not run twice, so they end the comparison.
 */
#include "jit/internal.h"

#include "cpu/fpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	CHECKS = 64, /* of each fragment; then its translation runs alone */
	JOURNAL_MAX = 8 * BLOCK_MAX,
	ARITH_MASK = ARITH_SF | ARITH_ZF | ARITH_AF | ARITH_PF | ARITH_CF | ARITH_OF
};

/* Instructions [first, first + count) of a block, all translated without handlers. */
struct fragment {
	const u8 *code;
	u8 first, count;
	u16 checks;    /* done so far */
	u16 undefined; /* ARITH_*: flags that need not agree at the end */
};

/* In the code area; block->entry points to it, and nobody jumps there. */
struct fragments {
	unsigned count;
	struct fragment fragment[];
};

struct write {
	u64 linear, ram_offset;
	u8 size, old[8], new[8];
};

/* What the two executions must agree on. */
struct outcome {
	u64 reg[REG_SLOTS];
	u64 rflags_sys, rip_start;
	u16 arith;
	bool thrown;
	struct event pending;
	const struct insn *insn;
	u32 mxcsr;
	u8 vector[2][16][16]; /* lower halves, upper halves */
};

struct check {
	struct write journal[JOURNAL_MAX];
	unsigned writes;
	bool undoable;
	struct outcome before, interpreted, translated;
};

static struct fragments *fragments_of(const struct jit *jit, const struct block *block)
{
	return (struct fragments *)(jit->writable + ((const u8 *)block->entry - jit->executable));
}

/* RFLAGS bits in the form of cpu->arith. */
static u16 arith_of(u32 flags)
{
	return (u16)((flags & 0xd5) << 8 | (flags >> 11 & 1));
}

/*
 * Which flags instructions [first, end) leave undefined such that interpreter and host may differ. With bit scans,
 * counts and BMI they do, for the interpreter computes those flags itself; all others run on the host either way.
 */
static u16 undefined_flags(const struct jit *jit, unsigned first, unsigned end)
{
	u16 undefined = 0;
	for (unsigned i = first; i < end; i++) {
		const ZydisDecodedInstruction *zi = &jit->plan[i].zi;
		const ZydisAccessedFlags *f = zi->cpu_flags;
		if (!f)
			continue;
		undefined &= (u16)~arith_of(f->modified | f->set_0 | f->set_1 | f->undefined);
		if (zi->meta.isa_set == ZYDIS_ISA_SET_BMI1 || zi->meta.isa_set == ZYDIS_ISA_SET_BMI2 ||
		    zi->mnemonic == ZYDIS_MNEMONIC_TZCNT || zi->mnemonic == ZYDIS_MNEMONIC_LZCNT ||
		    zi->mnemonic == ZYDIS_MNEMONIC_BSF || zi->mnemonic == ZYDIS_MNEMONIC_BSR)
			undefined |= arith_of(f->undefined);
	}
	return undefined;
}

void jit_check_translate(struct cpu *cpu, struct block *block)
{
	struct jit *jit = jit_of(cpu);
	size_t size = sizeof(struct fragments) + BLOCK_MAX * sizeof(struct fragment);
	bool native[BLOCK_MAX];

	if (jit->used + size + JIT_BLOCK_MAX > JIT_AREA) {
		block_cache_flush(cpu);
		return;
	}
	if (!jit_plan(cpu, jit, block, 0, block->count))
		return;
	for (unsigned i = 0; i < block->count; i++)
		native[i] = jit->plan[i].native;
	u16 undefined[BLOCK_MAX];
	for (unsigned i = 0, first = 0; i < block->count; i++) {
		undefined[i] = native[i] ? undefined_flags(jit, first, i + 1) : 0;
		first = native[i] ? first : i + 1;
	}
	struct fragments *f = (struct fragments *)(jit->writable + jit->used);
	jit->used += (size + 15) & ~15UL;
	f->count = 0;
	for (unsigned i = 0; i < block->count;) {
		unsigned first = i;
		while (i < block->count && native[i])
			i++;
		if (i == first) {
			i++;
			continue;
		}
		const u8 *code = jit_translate(cpu, jit, block, first, i - first, false);
		if (!code)
			return;
		cpu->counters.instructions_translated += i - first;
		f->fragment[f->count++] = (struct fragment){
			.code = code,
			.first = (u8)first,
			.count = (u8)(i - first),
			.undefined = undefined[i - 1],
		};
	}
	cpu->counters.blocks_translated++;
	block->entry = jit_executable(jit, (u8 *)f);
}

/* --- the journal --- */

/* Notes up to 8 bytes in one page. */
static void note_piece(struct cpu *cpu, struct check *c, u64 linear, unsigned size)
{
	struct mmu_result r = mmu_peek(&cpu->mmu, linear);
	if (r.kind != MMU_OK)
		return; /* nothing can be written there without a fault */
	if (r.ram_offset == RAM_OFFSET_NONE || c->writes == JOURNAL_MAX) {
		c->undoable = false;
		return;
	}
	struct write *w = &c->journal[c->writes++];
	*w = (struct write){ .linear = linear, .ram_offset = r.ram_offset, .size = (u8)size };
	memcpy(w->old, cpu->mem->host + r.ram_offset, size);
}

static void note_write(struct cpu *cpu, struct check *c, u64 linear, unsigned size)
{
	for (unsigned at = 0, n; at < size; at += n) {
		unsigned rest = (unsigned)(PAGE_SIZE - ((linear + at) & (PAGE_SIZE - 1)));
		n = size - at < 8 ? size - at : 8;
		n = rest < n ? rest : n;
		note_piece(cpu, c, linear + at, n);
	}
}

static void note_instruction(struct cpu *cpu, struct check *c, const struct insn *insn)
{
	note_write(cpu, c, cpu->reg[RSP] - 8, 8);
	if (!(insn->flags & INSN_MEM))
		return;
	cpu->reg[REG_RIP] += insn->length; /* operands relative to RIP count from behind */
	note_write(cpu, c, insn_ea(cpu, insn) + cpu->seg_base[insn->seg], insn->opsize > 8 ? insn->opsize : 8);
	cpu->reg[REG_RIP] -= insn->length;
}

static void undo_writes(struct cpu *cpu, struct check *c)
{
	for (unsigned i = 0; i < c->writes; i++)
		memcpy(c->journal[i].new, cpu->mem->host + c->journal[i].ram_offset, c->journal[i].size);
	for (unsigned i = c->writes; i-- > 0;)
		memcpy(cpu->mem->host + c->journal[i].ram_offset, c->journal[i].old, c->journal[i].size);
}

/* --- the two executions --- */

static void take_outcome(const struct cpu *cpu, struct outcome *o, bool thrown)
{
	memset(o, 0, sizeof(*o));
	memcpy(o->reg, cpu->reg, sizeof(o->reg));
	o->arith = cpu->arith;
	o->rflags_sys = cpu->rflags_sys;
	o->rip_start = cpu->rip_start;
	o->insn = cpu->insn;
	o->mxcsr = fpu_mxcsr(cpu);
	memcpy(o->vector[0], cpu->fpu.legacy + FPU_XMM, sizeof(o->vector[0]));
	memcpy(o->vector[1], cpu->fpu.ymm_high, sizeof(o->vector[1]));
	o->thrown = thrown;
	if (thrown)
		o->pending = cpu->pending;
}

static void put_outcome(struct cpu *cpu, const struct outcome *o)
{
	memcpy(cpu->reg, o->reg, sizeof(o->reg));
	cpu->arith = o->arith;
	cpu->rflags_sys = o->rflags_sys;
	cpu->rip_start = o->rip_start;
	cpu->insn = o->insn;
	fpu_set_mxcsr(cpu, o->mxcsr);
	memcpy(cpu->fpu.legacy + FPU_XMM, o->vector[0], sizeof(o->vector[0]));
	memcpy(cpu->fpu.ymm_high, o->vector[1], sizeof(o->vector[1]));
	cpu->pending.valid = false;
}

static void step(struct cpu *cpu, struct block *block, unsigned index)
{
	const struct insn *insn = &block->insn[index];
	cpu->blocks->running = block;
	cpu->insn = insn;
	cpu->rip_start = cpu->reg[REG_RIP];
	cpu->reg[REG_RIP] += insn->length;
	insn->exec(cpu, insn);
}

static void interpret(struct cpu *cpu, struct check *c, struct block *block, const struct fragment *f, unsigned done)
{
	for (unsigned i = f->first + done; i < (unsigned)f->first + f->count && block->mode_key != MODE_DROPPED; i++) {
		if (c)
			note_instruction(cpu, c, &block->insn[i]);
		step(cpu, block, i);
	}
}

/* Translated code may leave behind a handler; what it left undone is interpreted, as the run loop would. */
static void run_translation(struct cpu *cpu, struct block *block, const struct fragment *f)
{
	const u64 before = cpu->counters.instructions;
	jit_enter(cpu, block, f->code);
	interpret(cpu, NULL, block, f, (unsigned)(cpu->counters.instructions - before));
}

/* Either execution, with throws caught; true if it threw. */
static bool execute(struct cpu *cpu, struct check *c, struct block *block, const struct fragment *f, bool translated)
{
	jmp_buf outer;
	memcpy(&outer, &cpu->restart, sizeof(outer));
	bool thrown = _setjmp(cpu->restart) != 0;
	if (!thrown) {
		if (translated)
			run_translation(cpu, block, f);
		else
			interpret(cpu, c, block, f, 0);
	}
	memcpy(&cpu->restart, &outer, sizeof(outer));
	return thrown;
}

/* --- reports --- */

static void print_code(const char *title, const u8 *code, size_t size, u64 address)
{
	ZydisDecoder decoder;
	ZydisFormatter formatter;
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	fprintf(stderr, "%s\n", title);
	for (size_t at = 0; at < size;) {
		ZydisDecodedInstruction zi;
		ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
		char text[96];
		if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code + at, size - at, &zi, op)))
			break;
		ZydisFormatterFormatInstruction(&formatter, &zi, op, zi.operand_count_visible, text, sizeof(text),
						address + at, NULL);
		fprintf(stderr, "  %llx  %s\n", (unsigned long long)(address + at), text);
		at += zi.length;
	}
}

static unsigned long long quad(const u8 *bytes, unsigned n)
{
	u64 v;
	memcpy(&v, bytes + 8 * n, 8);
	return v;
}

static void print_outcome(const char *title, const struct outcome *o)
{
	fprintf(stderr, "%s:", title);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		fprintf(stderr, "%s r%u=%llx", i % 4 ? "" : "\n ", i, (unsigned long long)o->reg[i]);
	for (unsigned i = 0; i < 16; i++)
		fprintf(stderr, "%s v%u=%016llx%016llx:%016llx%016llx", i % 2 ? "" : "\n ", i, quad(o->vector[1][i], 1),
			quad(o->vector[1][i], 0), quad(o->vector[0][i], 1), quad(o->vector[0][i], 0));
	fprintf(stderr, "\n  mxcsr=%x rip=%llx start=%llx arith=%04x sys=%llx", o->mxcsr,
		(unsigned long long)o->reg[REG_RIP], (unsigned long long)o->rip_start, o->arith & ARITH_MASK,
		(unsigned long long)o->rflags_sys);
	if (o->thrown)
		fprintf(stderr, " threw %s %u error %x address %llx", o->pending.valid ? "vector" : "nothing",
			o->pending.vector, o->pending.error, (unsigned long long)o->pending.address);
	fprintf(stderr, "\n");
}

static NORETURN void report(struct cpu *cpu, const struct check *c, struct block *block, const struct fragment *f)
{
	u64 at = block->ram_offset, bytes = 0;
	for (unsigned i = 0; i < (unsigned)f->first + f->count; i++)
		*(i < f->first ? &at : &bytes) += block->insn[i].length;
	fprintf(stderr, "strata: a translation differs from the interpreter\n");
	print_code("guest code:", cpu->mem->host + at, bytes, c->before.reg[REG_RIP]);
	print_code("translation:", f->code, 4096, (u64)f->code);
	print_outcome("before", &c->before);
	print_outcome("interpreted", &c->interpreted);
	print_outcome("translated", &c->translated);
	for (unsigned i = 0; i < c->writes; i++) {
		const struct write *w = &c->journal[i];
		u64 values[3] = { 0 };
		memcpy(&values[0], w->old, w->size);
		memcpy(&values[1], w->new, w->size);
		memcpy(&values[2], cpu->mem->host + w->ram_offset, w->size);
		if (values[1] != values[2])
			fprintf(stderr, "memory at %llx: before %llx, interpreted %llx, translated %llx\n",
				(unsigned long long)w->linear, (unsigned long long)values[0],
				(unsigned long long)values[1], (unsigned long long)values[2]);
	}
	abort();
}

static bool events_equal(const struct event *a, const struct event *b)
{
	if (!a->valid || !b->valid)
		return a->valid == b->valid;
	return a->vector == b->vector && a->type == b->type && a->has_error == b->has_error && a->error == b->error &&
	       a->address == b->address;
}

static bool outcomes_equal(const struct outcome *a, const struct outcome *b, u16 undefined)
{
	return !memcmp(a->reg, b->reg, sizeof(a->reg)) && !((a->arith ^ b->arith) & ARITH_MASK & ~undefined) &&
	       a->rflags_sys == b->rflags_sys && a->mxcsr == b->mxcsr &&
	       !memcmp(a->vector, b->vector, sizeof(a->vector)) && a->thrown == b->thrown &&
	       (!a->thrown ||
		(events_equal(&a->pending, &b->pending) && a->insn == b->insn && a->rip_start == b->rip_start));
}

static bool memory_equal(const struct cpu *cpu, const struct check *c)
{
	for (unsigned i = 0; i < c->writes; i++)
		if (memcmp(cpu->mem->host + c->journal[i].ram_offset, c->journal[i].new, c->journal[i].size))
			return false;
	return true;
}

/* Every other time the translation finds none of its pages in the TLB, and so takes its cold paths. */
static void forget_pages(struct cpu *cpu, const struct check *c)
{
	for (unsigned i = 0; i < c->writes; i++)
		cpu->mmu.tlb[tlb_index(c->journal[i].linear)] = (struct tlb_entry){ 0 };
}

/* Runs a fragment, both ways if that is still due; true if it threw. */
static bool run_fragment(struct cpu *cpu, struct block *block, struct fragment *f)
{
	static _Thread_local struct check c;
	if (f->checks >= CHECKS)
		return execute(cpu, NULL, block, f, true);
	f->checks++;
	c.writes = 0;
	c.undoable = true;
	take_outcome(cpu, &c.before, false);
	bool thrown = execute(cpu, &c, block, f, false);
	/* A throw without an event was a VM exit, say: that cannot be undone either. */
	if (!c.undoable || block->mode_key == MODE_DROPPED || (thrown && !cpu->pending.valid))
		return thrown;
	take_outcome(cpu, &c.interpreted, thrown);
	undo_writes(cpu, &c);
	put_outcome(cpu, &c.before);
	if (f->checks & 1)
		forget_pages(cpu, &c);
	thrown = execute(cpu, &c, block, f, true);
	take_outcome(cpu, &c.translated, thrown);
	if (!outcomes_equal(&c.interpreted, &c.translated, f->undefined) || !memory_equal(cpu, &c))
		report(cpu, &c, block, f);
	cpu->counters.translations_checked++;
	return thrown;
}

struct block **jit_check_run(struct cpu *cpu, struct block *block)
{
	struct fragments *all = fragments_of(jit_of(cpu), block);
	const u64 instructions = cpu->counters.instructions;
	const u64 start = cpu->reg[REG_RIP];
	unsigned at = 0, done;

	for (unsigned n = 0; at < block->count && block->mode_key != MODE_DROPPED; at = done) {
		bool thrown = false;
		struct fragment *f = n < all->count && all->fragment[n].first == at ? &all->fragment[n++] : NULL;
		if (f) {
			done = at + f->count;
			cpu->blocks->running = block;
			thrown = run_fragment(cpu, block, f);
			cpu->counters.instructions = instructions;
		} else {
			done = at + 1;
			step(cpu, block, at);
		}
		if (thrown) {
			cpu->blocks->running = block;
			_longjmp(cpu->restart, 1);
		}
	}
	/* Dropped within a fragment: as many as lie before RIP are done. */
	u64 bytes = 0;
	unsigned count = 0;
	if (block->mode_key == MODE_DROPPED)
		for (; count < block->count && start + bytes != cpu->reg[REG_RIP]; count++)
			bytes += block->insn[count].length;
	else
		count = block->count;
	cpu->counters.instructions += count;
	return NULL;
}
