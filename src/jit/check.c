/*
 * The differential tester (--check-translation): each run of instructions that is translated without handlers is
 * executed by the interpreter, undone, and executed by its translation; the CPU, the memory they wrote and any
 * exception must come out the same. The first difference ends the process, with all one wants to know about it.
 *
 * Memory is undone by a journal: before each instruction the bytes it could write are noted, those at its operand and
 * those it could push. Instructions on devices must not run twice, so they end the comparison.
 */
#include "cpu/access.h"
#include "cpu/group.h"
#include "jit/internal.h"

#include "cpu/fpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
	CHECKS = 64, /* of each fragment; then its translation runs alone */
	JOURNAL_MAX = 8 * TRACE_MAX,
	ARITH_MASK = ARITH_SF | ARITH_ZF | ARITH_AF | ARITH_PF | ARITH_CF | ARITH_OF
};

/* Instructions [first, first + count) of a trace, all translated without handlers. */
struct fragment {
	const u8 *code;
	u8 first, count;
	u16 checks; /* done so far */
};

/* An instruction of the trace. */
struct step {
	struct block *block;
	u8 index;      /* in the block */
	u8 before;     /* instructions of the trace before the block */
	u16 offset;    /* in its page */
	u16 undefined; /* ARITH_*: flags that need not agree behind it */
};

/* In the code area; block->entry points to it, and nobody jumps there. */
struct fragments {
	unsigned count, steps;
	unsigned reached; /* the step that ran last in the interpreter */
	struct step step[TRACE_MAX];
	struct fragment fragment[TRACE_MAX];
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
	u8 x87[FPU_MXCSR], st[8][16];
	struct system {
		u64 base[2], base_copy[2], kernel_gs_base; /* of FS and GS */
		const struct tlb_entry *tlb;
		enum mmu_class cls;
		const struct insn *shadow_insn;
		u64 shadow_rip;
		u8 shadow;
		bool shadow_seen;
	} system;
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
 * Such a rotation, but for one by 1, leaves OF undefined (SDM vol. 2, "RCL/RCR/ROL/ROR"). The interpreter rotates by
 * CL, for which Intel's processors set OF otherwise.
 */
static bool rotates_by_immediate(const ZydisDecodedInstruction *zi)
{
	return (zi->mnemonic == ZYDIS_MNEMONIC_ROL || zi->mnemonic == ZYDIS_MNEMONIC_ROR) && zi->raw.imm[0].size &&
	       (zi->raw.imm[0].value.u & (zi->operand_width == 64 ? 63 : 31)) > 1;
}

/*
 * Which flags are undefined behind an instruction such that interpreter and host may differ, given those before it.
 * With bit scans, counts and BMI they do, for the interpreter computes those flags itself; all others run on the host
 * either way.
 */
static u16 undefined_flags(const struct plan *p, u16 before)
{
	const ZydisAccessedFlags *f = p->native ? p->zi.cpu_flags : NULL;
	if (!p->native)
		return 0;
	if (!f)
		return before;
	u16 undefined = before & (u16)~arith_of(f->modified | f->set_0 | f->set_1 | f->undefined);
	if (p->zi.meta.isa_set == ZYDIS_ISA_SET_BMI1 || p->zi.meta.isa_set == ZYDIS_ISA_SET_BMI2 ||
	    p->zi.mnemonic == ZYDIS_MNEMONIC_TZCNT || p->zi.mnemonic == ZYDIS_MNEMONIC_LZCNT ||
	    p->zi.mnemonic == ZYDIS_MNEMONIC_BSF || p->zi.mnemonic == ZYDIS_MNEMONIC_BSR)
		undefined |= arith_of(f->undefined);
	if (rotates_by_immediate(&p->zi))
		undefined |= ARITH_OF;
	return undefined;
}

static void fill_steps(const struct jit *jit, const struct trace *trace, struct fragments *f)
{
	u16 undefined = 0;
	f->count = 0;
	f->steps = trace->count;
	for (unsigned i = 0; i < trace->count; i++) {
		const struct plan *p = &jit->plan[i];
		undefined = undefined_flags(p, undefined);
		f->step[i] = (struct step){
			.block = (struct block *)p->block,
			.index = (u8)(p->insn - p->block->insn),
			.before = p->before,
			.offset = p->offset,
			.undefined = undefined,
		};
	}
}

void jit_check_translate(struct cpu *cpu, struct block *block)
{
	struct jit *jit = jit_of(cpu);
	struct trace trace;

	if (!jit_has_room(jit, sizeof(struct fragments) + JIT_TRACE_MAX, 2 * TRACE_MAX)) {
		block_cache_flush(cpu);
		return;
	}
	if (!jit_select_trace(cpu, jit, block, &trace))
		return;
	struct fragments *f = (struct fragments *)(jit->writable + jit->used);
	jit_keep(cpu, jit, sizeof(*f));
	fill_steps(jit, &trace, f);
	for (unsigned i = 0, first; i < trace.count; i++) {
		for (first = i; i < trace.count && jit->plan[i].native;)
			i++;
		if (i == first)
			continue;
		const u8 *code = jit_translate(cpu, jit, &trace, first, i - first, false);
		if (!code)
			return;
		cpu->counters.instructions_translated += i - first;
		f->fragment[f->count++] =
			(struct fragment){ .code = code, .first = (u8)first, .count = (u8)(i - first) };
	}
	cpu->counters.traces_translated++;
	block_set_entry(block, jit_executable(jit, (u8 *)f));
	block->lines = jit_trace_lines(&trace);
}

/* --- the journal --- */

/* Where a write goes: by the TLB, which may know an older mapping than the tables say now. false: it would fault. */
static bool find_place(struct cpu *cpu, u64 linear, unsigned size, u64 *ram_offset)
{
	const u8 *hit = access_hit(cpu, cpu->mmu.tlb, linear, size, true);
	if (hit) {
		*ram_offset = (u64)(hit - cpu->mem->host);
		return true;
	}
	struct mmu_result r = mmu_peek(&cpu->mmu, linear);
	*ram_offset = r.ram_offset;
	return r.kind == MMU_OK;
}

/* Notes up to 8 bytes in one page. */
static void note_piece(struct cpu *cpu, struct check *c, u64 linear, unsigned size)
{
	u64 ram_offset;
	if (!find_place(cpu, linear, size, &ram_offset))
		return; /* nothing can be written there without a fault */
	if (ram_offset == RAM_OFFSET_NONE || c->writes == JOURNAL_MAX) {
		c->undoable = false;
		return;
	}
	struct write *w = &c->journal[c->writes++];
	*w = (struct write){ .linear = linear, .ram_offset = ram_offset, .size = (u8)size };
	memcpy(w->old, cpu->mem->host + ram_offset, size);
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

/* How far from its operand a bit string's instruction writes, by the number in its register. */
static u64 bit_string_offset(const struct cpu *cpu, const struct insn *insn)
{
	unsigned bits = insn->opsize * 8u;
	i64 number = (i64)sign_extend(cpu->reg[insn->src], bits);
	return (u64)(number >> __builtin_ctz(bits)) * insn->opsize;
}

static bool is_bit_string(const struct insn *insn)
{
	return insn->mnemonic == ZYDIS_MNEMONIC_BTS || insn->mnemonic == ZYDIS_MNEMONIC_BTR ||
	       insn->mnemonic == ZYDIS_MNEMONIC_BTC;
}

/* Bytes of an element of a repeated MOVS or STOS that is translated; 0: it is none. */
static unsigned string_element(const struct insn *insn)
{
	if (!(insn->flags & INSN_ENDS))
		return 0;
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_MOVSB:
	case ZYDIS_MNEMONIC_MOVSW:
	case ZYDIS_MNEMONIC_MOVSD:
	case ZYDIS_MNEMONIC_MOVSQ:
	case ZYDIS_MNEMONIC_STOSB:
	case ZYDIS_MNEMONIC_STOSW:
	case ZYDIS_MNEMONIC_STOSD:
	case ZYDIS_MNEMONIC_STOSQ:
		return insn->opsize;
	default:
		return 0;
	}
}

/* One that handlers do for more than a page may be interrupted the first time, and not the second. */
static void note_string(struct cpu *cpu, struct check *c, unsigned element)
{
	u64 count = cpu->reg[RCX];
	bool backwards = cpu->rflags_sys & RFLAGS_DF;
	if (count > PAGE_SIZE / element)
		c->undoable = false;
	else if (count)
		note_write(cpu, c, cpu->reg[RDI] - (backwards ? (count - 1) * element : 0), (unsigned)count * element);
}

static void note_instruction(struct cpu *cpu, struct check *c, const struct insn *insn)
{
	note_write(cpu, c, cpu->reg[RSP] - 8, 8);
	unsigned element = string_element(insn);
	if (element)
		note_string(cpu, c, element);
	if (!(insn->flags & INSN_MEM))
		return;
	cpu->reg[REG_RIP] += insn->length; /* operands relative to RIP count from behind */
	note_write(cpu, c, insn_ea(cpu, insn) + cpu->seg_base[insn->seg], insn->opsize > 16 ? insn->opsize : 16);
	/* Or, with an immediate for the number, some bytes more than need be. */
	if (is_bit_string(insn))
		note_write(cpu, c, insn_ea(cpu, insn) + cpu->seg_base[insn->seg] + bit_string_offset(cpu, insn), 8);
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

static void take_system(const struct cpu *cpu, struct system *s)
{
	for (unsigned i = 0; i < 2; i++) {
		s->base[i] = cpu->seg[SEG_FS + i].base;
		s->base_copy[i] = cpu->seg_base[SEG_FS + i];
	}
	s->kernel_gs_base = cpu->msr.kernel_gs_base;
	s->tlb = cpu->mmu.tlb;
	s->cls = cpu->mmu.cls;
	s->shadow_insn = cpu->shadow_insn;
	s->shadow_rip = cpu->shadow_rip;
	s->shadow = cpu->shadow;
	s->shadow_seen = cpu->shadow_seen;
}

static void put_system(struct cpu *cpu, const struct system *s)
{
	for (unsigned i = 0; i < 2; i++) {
		cpu->seg[SEG_FS + i].base = s->base[i];
		cpu->seg_base[SEG_FS + i] = s->base_copy[i];
	}
	cpu->msr.kernel_gs_base = s->kernel_gs_base;
	mmu_set_class(&cpu->mmu, s->cls);
	cpu->shadow_insn = s->shadow_insn;
	cpu->shadow_rip = s->shadow_rip;
	cpu->shadow = s->shadow;
	cpu->shadow_seen = s->shadow_seen;
}

static void take_outcome(const struct cpu *cpu, struct outcome *o, bool thrown)
{
	memset(o, 0, sizeof(*o));
	memcpy(o->reg, cpu->reg, sizeof(o->reg));
	o->arith = cpu->arith;
	o->rflags_sys = cpu->rflags_sys;
	o->rip_start = cpu->rip_start;
	o->insn = cpu->insn;
	o->mxcsr = fpu_mxcsr(cpu);
	memcpy(o->x87, cpu->fpu.legacy, sizeof(o->x87));
	memcpy(o->st, cpu->fpu.legacy + FPU_ST, sizeof(o->st));
	memcpy(o->vector[0], cpu->fpu.legacy + FPU_XMM, sizeof(o->vector[0]));
	memcpy(o->vector[1], cpu->fpu.ymm_high, sizeof(o->vector[1]));
	take_system(cpu, &o->system);
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
	memcpy(cpu->fpu.legacy, o->x87, sizeof(o->x87));
	memcpy(cpu->fpu.legacy + FPU_ST, o->st, sizeof(o->st));
	memcpy(cpu->fpu.legacy + FPU_XMM, o->vector[0], sizeof(o->vector[0]));
	memcpy(cpu->fpu.ymm_high, o->vector[1], sizeof(o->vector[1]));
	put_system(cpu, &o->system);
	cpu->pending.valid = false;
}

static void interpret_step(struct cpu *cpu, const struct step *s)
{
	const struct insn *insn = &s->block->insn[s->index];
	cpu->blocks->running = s->block;
	cpu->insn = insn;
	cpu->rip_start = cpu->reg[REG_RIP];
	cpu->reg[REG_RIP] += insn->length;
	insn->exec(cpu, insn);
}

/* Is the step's instruction the one at RIP, and still the same? */
static bool is_next(const struct cpu *cpu, const struct step *s)
{
	return cpu->reg[REG_RIP] == cpu->jit_page + s->offset && s->block->mode_key != MODE_DROPPED;
}

/* From step `from` on, as far as the trace is followed; where it ended. */
static unsigned interpret(struct cpu *cpu, struct check *c, struct fragments *all, const struct fragment *f,
			  unsigned from)
{
	unsigned i = from;
	for (; i < (unsigned)f->first + f->count && is_next(cpu, &all->step[i]); i++) {
		all->reached = i;
		if (c)
			note_instruction(cpu, c, &all->step[i].block->insn[all->step[i].index]);
		interpret_step(cpu, &all->step[i]);
	}
	return i;
}

/* Translated code may leave behind a handler; what it left undone is interpreted, as the run loop would. */
static unsigned run_translation(struct cpu *cpu, struct fragments *all, const struct fragment *f)
{
	const u64 start = cpu->counters.instructions;
	jit_enter(cpu, f->code);
	return interpret(cpu, NULL, all, f, (unsigned)(cpu->counters.instructions - start));
}

/*
 * The step that threw, or the fragment's first if none of its did. An unrolled loop has the same instruction several
 * times; `before`: instructions before the block, if it was called from the translation.
 */
static unsigned step_that_threw(const struct cpu *cpu, const struct fragments *all, const struct fragment *f,
				i64 before)
{
	for (unsigned i = before > all->reached ? (unsigned)before : all->reached; i < (unsigned)f->first + f->count;
	     i++)
		if (&all->step[i].block->insn[all->step[i].index] == cpu->insn)
			return i;
	return f->first;
}

/*
 * Either execution, with throws caught: the fragment's translation, or, with a journal, the interpreter. `done`: steps
 * of the trace that are done then. true if it threw.
 */
static bool execute(struct cpu *cpu, struct check *c, struct fragments *all, const struct fragment *f, unsigned *done)
{
	const u64 start = cpu->counters.instructions;
	all->reached = f->first;
	jmp_buf outer;
	memcpy(&outer, &cpu->restart, sizeof(outer));
	bool thrown = _setjmp(cpu->restart) != 0;
	if (!thrown)
		*done = c ? interpret(cpu, c, all, f, f->first) : run_translation(cpu, all, f);
	else
		*done = step_that_threw(cpu, all, f, (i64)(cpu->counters.instructions - start));
	cpu->counters.instructions = start;
	memcpy(&cpu->restart, &outer, sizeof(outer));
	return thrown;
}

/* --- reports --- */

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
	fprintf(stderr, "\n ");
	for (unsigned i = 0; i < FPU_MXCSR / 8; i++)
		fprintf(stderr, " x87=%016llx", quad(o->x87, i));
	for (unsigned i = 0; i < 8; i++)
		fprintf(stderr, "%sst%u=%04llx:%016llx", i % 4 ? " " : "\n  ", i, quad(o->st[i], 1), quad(o->st[i], 0));
	fprintf(stderr, "\n  mxcsr=%x rip=%llx start=%llx arith=%04x sys=%llx", o->mxcsr,
		(unsigned long long)o->reg[REG_RIP], (unsigned long long)o->rip_start, o->arith & ARITH_MASK,
		(unsigned long long)o->rflags_sys);
	fprintf(stderr, "\n  fs=%llx gs=%llx kernel_gs=%llx class=%u shadow=%u at %llx",
		(unsigned long long)o->system.base[0], (unsigned long long)o->system.base[1],
		(unsigned long long)o->system.kernel_gs_base, o->system.cls, o->system.shadow,
		(unsigned long long)o->system.shadow_rip);
	if (o->thrown)
		fprintf(stderr, " threw %s %u error %x address %llx", o->pending.valid ? "vector" : "nothing",
			o->pending.vector, o->pending.error, (unsigned long long)o->pending.address);
	fprintf(stderr, "\n");
}

static NORETURN void report(struct cpu *cpu, const struct check *c, const struct fragments *all,
			    const struct fragment *f)
{
	fprintf(stderr, "strata: a translation differs from the interpreter\n");
	for (unsigned i = f->first; i < (unsigned)f->first + f->count; i++) {
		const struct step *s = &all->step[i];
		jit_print_code(i == f->first ? "guest code:" : NULL,
			       cpu->mem->host + (s->block->ram_offset & PAGE_MASK) + s->offset,
			       s->block->insn[s->index].length, cpu->jit_page + s->offset);
	}
	jit_print_code("translation:", f->code, 4096, (u64)f->code);
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
	       a->rflags_sys == b->rflags_sys && a->mxcsr == b->mxcsr && !memcmp(a->x87, b->x87, sizeof(a->x87)) &&
	       !memcmp(a->st, b->st, sizeof(a->st)) && !memcmp(a->vector, b->vector, sizeof(a->vector)) &&
	       !memcmp(&a->system, &b->system, sizeof(a->system)) && a->thrown == b->thrown &&
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
	mmu_renew_copies(&cpu->mmu);
}

/* Did something come up in the middle of a string, which goes on from there another time? */
static bool is_within_string(const struct cpu *cpu)
{
	return string_element(cpu->insn) && cpu->reg[REG_RIP] == cpu->rip_start;
}

/*
 * Runs a fragment both ways. false: they differ. `*thrown`: it threw; then, as where what was done cannot be undone,
 * there may have been nothing to compare.
 */
static bool ways_agree(struct cpu *cpu, struct check *c, struct fragments *all, const struct fragment *f, bool forget,
		       unsigned *done, bool *thrown)
{
	c->writes = 0;
	c->undoable = true;
	u64 dropped = cpu->counters.blocks_dropped;
	take_outcome(cpu, &c->before, false);
	*thrown = execute(cpu, c, all, f, done);
	/* A throw without an event was a VM exit, say: that cannot be undone either. */
	if (!c->undoable || cpu->counters.blocks_dropped != dropped || (*thrown && !cpu->pending.valid) ||
	    is_within_string(cpu))
		return true;
	u16 undefined = *done == f->first ? 0 : all->step[*done - 1].undefined;
	take_outcome(cpu, &c->interpreted, *thrown);
	undo_writes(cpu, c);
	put_outcome(cpu, &c->before);
	if (forget)
		forget_pages(cpu, c);
	*thrown = execute(cpu, NULL, all, f, done);
	/* A page of data gave up its old blocks, with these writes as the last of many, or something just came up that
	 * an STI lets through: this one was left in the middle. */
	if (cpu->counters.blocks_dropped != dropped || (*thrown && !cpu->pending.valid) || is_within_string(cpu))
		return true;
	take_outcome(cpu, &c->translated, *thrown);
	cpu->counters.translations_checked++;
	return outcomes_equal(&c->interpreted, &c->translated, undefined) && memory_equal(cpu, c);
}

/*
 * Runs a fragment, both ways if that is still due; true if it threw. What a walk sets in tables, accessed flags say, is
 * not undone, and code that has its own tables for data may see it the second time only. So if there were walks, a
 * difference must show once more, when the TLB knows all.
 */
static bool run_fragment(struct cpu *cpu, struct fragments *all, struct fragment *f, unsigned *done)
{
	static _Thread_local struct check c;
	u64 misses = cpu->counters.tlb_misses;
	bool thrown;

	if (f->checks >= CHECKS)
		return execute(cpu, NULL, all, f, done);
	f->checks++;
	bool agree = ways_agree(cpu, &c, all, f, f->checks & 1, done, &thrown);
	if (!agree && cpu->counters.tlb_misses != misses) {
		undo_writes(cpu, &c);
		put_outcome(cpu, &c.before);
		agree = ways_agree(cpu, &c, all, f, false, done, &thrown);
	}
	if (!agree)
		report(cpu, &c, all, f);
	return thrown;
}

/* Of the first steps. */
static u64 branches_among(const struct fragments *all, unsigned steps)
{
	u64 n = 0;
	for (unsigned i = 0; i < steps; i++)
		n += pmu_is_branch(&all->step[i].block->insn[all->step[i].index]);
	return n;
}

/* `before`, and the branches that this trace has made, once, whatever ran how often. NULL: they are not counted. */
static void set_branches(struct cpu *cpu, const struct fragments *all, const u64 *before, unsigned steps)
{
	if (unlikely(before))
		cpu->pmu.branches = *before + branches_among(all, steps);
}

static bool checks_are_left(const struct fragments *all)
{
	for (unsigned n = 0; n < all->count; n++)
		if (all->fragment[n].checks < CHECKS)
			return true;
	return false;
}

void jit_check_run(struct cpu *cpu, struct block *block)
{
	struct fragments *all = fragments_of(jit_of(cpu), block);
	u64 start = cpu->counters.instructions;
	const u64 branches_before = cpu->pmu.branches, *branches = cpu->pmu.counts_branches ? &branches_before : NULL;
	unsigned at = 0, n = 0;
	/* What is done twice must not be seen in between, nor memory change. Throws end this in the run loop. */
	bool others_stop = !group_is_exclusive(cpu) && checks_are_left(all);

	if (others_stop)
		group_begin_exclusive(cpu);
	while (at < all->steps && is_next(cpu, &all->step[at])) {
		if (n == all->count || all->fragment[n].first != at) {
			const u64 before = start + all->step[at].before;
			cpu->counters.instructions = before;
			set_branches(cpu, all, branches, at);
			interpret_step(cpu, &all->step[at++]);
			/* An instruction that is to go on takes itself back. */
			start += cpu->counters.instructions - before;
			cpu->counters.instructions = start;
			continue;
		}
		if (run_fragment(cpu, all, &all->fragment[n++], &at)) {
			/* Throws count from the block's beginning. */
			unsigned done = all->step[at].before;
			cpu->counters.instructions = start + done;
			set_branches(cpu, all, branches, done);
			_longjmp(cpu->restart, 1);
		}
	}
	cpu->counters.instructions = start + at;
	set_branches(cpu, all, branches, at);
	if (others_stop)
		group_end_exclusive(cpu);
}
