/*
 * The translator's life, and what the run loop calls.
 */
#include "cpu/group.h"
#include "jit/loop.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

static void count_translation(struct cpu *cpu, const struct jit *jit, const struct trace *trace)
{
	cpu->counters.traces_translated++;
	cpu->counters.loops_unrolled += trace->unrolled;
	cpu->counters.instructions_translated += trace->count;
	for (unsigned i = 0; i < trace->count; i++)
		cpu->counters.instructions_untranslated += jit->plan[i].kind == PLAN_HANDLER;
}

/* A block of no instruction: where it cannot be translated, its entry names it to the stub. */
static void translate_crossing(struct cpu *cpu, struct jit *jit, struct block *block)
{
	enum { SIZE = 32 };
	const u8 *code = jit_translate_crossing(cpu, jit, block);
	if (code) {
		block_set_entry(block, code);
		block->quiet = jit->made.quiet;
		block->lines = block_lines(block);
		cpu->counters.traces_translated++;
		cpu->counters.instructions_translated++;
		return;
	}
	u8 *start = jit->writable + jit->used;
	struct emit e = { .at = start, .end = start + SIZE };

	if (!jit_has_room(jit, SIZE, 0)) {
		block_cache_flush(cpu);
		return;
	}
	emit_mov_imm(&e, HOST_T1, (u64)block);
	emit_jmp(&e, jit->stub_crossing);
	if (e.overflow || !jit_verify(jit, start, (size_t)(e.at - start), NULL))
		return;
	jit->used += SIZE;
	block->quiet = 0;
	block_set_entry(block, jit_executable(jit, start));
	block->lines = block_lines(block);
}

static void translate(struct cpu *cpu, struct block *block)
{
	struct jit *jit = jit_of(cpu);
	struct trace trace;

	if (!block->count) {
		translate_crossing(cpu, jit, block);
		return;
	}
	if (!jit_select_trace(cpu, jit, block, &trace))
		return;
	const u8 *code = jit_translate(cpu, jit, &trace, 0, trace.count, true);
	if (code) {
		block_set_entry(block, code);
		block->quiet = jit->made.quiet;
		block->lines = jit_trace_lines(&trace) | jit->made.lines;
		count_translation(cpu, jit, &trace);
	} else if (jit->full) {
		block_cache_flush(cpu);
	}
}

/* The jump at `site` leads to `to`, both in the writable mapping. */
static void set_jump(struct jit *jit, u8 *site, const u8 *to)
{
	struct emit e = { 0 };
	emit_patch(&e, site, to);
	jit->patched |= BIT((site - jit->writable) / HUGE_BYTES % 64);
}

void jit_bind(struct jit *jit, struct jit_link *link, struct block *block)
{
	const u8 *to = (const u8 *)block->entry + (link->quiet ? block->quiet : 0);
	set_jump(jit, link->site, jit->writable + (to - jit->executable));
	link->bound = true;
	link->next = block->incoming;
	block->incoming = link;
}

/* Translated code was left through the link: next time it goes on directly, if its target has a translation. */
static void bind(struct cpu *cpu, struct jit *jit, struct jit_link *link)
{
	struct block *block = block_find(cpu, link->ram_offset, link->mode_key);
	if (!link->bound && block && block->entry != cpu->blocks->untranslated)
		jit_bind(jit, link, block);
}

static void run(struct cpu *cpu, struct block *block)
{
	struct jit_link *link = jit_enter(cpu, block->entry);
	if (link)
		bind(cpu, jit_of(cpu), link);
	if (unlikely(jit_of(cpu)->patched))
		jit_tidy_patched(cpu, jit_of(cpu));
}

static void untranslate(struct cpu *cpu, struct block *block)
{
	for (struct jit_link *link = block->incoming; link; link = link->next) {
		set_jump(jit_of(cpu), link->site, link->unlinked);
		link->bound = false;
		if (link->far)
			jit_unbind_far(jit_of(cpu), link->far);
	}
	block->incoming = NULL;
}

/*
 * Code that does not fit is translated over and over: then only what runs more often is worth its place, until the
 * area lasts longer again. A translation costs about what interpreting it a hundred times does.
 */
static void adapt_hotness(struct cpu *cpu, struct jit *jit)
{
	enum { SOON = 1 << 30, HOT_MAX = 256 };
	u64 lasted = cpu->counters.instructions - jit->emptied_at;

	jit->emptied_at = cpu->counters.instructions;
	if (jit->options.hot == 1 || !(jit->full || cpu->blocks->outgrown))
		return; /* somebody wants everything translated; or it was emptied for another reason */
	if (lasted < SOON && cpu->jit_hot < HOT_MAX)
		cpu->jit_hot *= 2;
	else if (lasted / 16 > SOON && cpu->jit_hot > jit->options.hot)
		cpu->jit_hot /= 2;
}

static void flushed(struct cpu *cpu)
{
	struct jit *jit = jit_of(cpu);
	adapt_hotness(cpu, jit);
	jit_look_emptied(cpu, jit);
	jit_area_empty(jit);
	cpu->pmu.tracked = cpu->pmu.tracks;
	cpu->jit_missed = NULL;
	cpu->counters.translation_flushes++;
}

static const struct jit_ops ops = {
	.translate = translate,
	.run = run,
	.untranslate = untranslate,
	.attend = jit_attend,
	.flushed = flushed,
};
static const struct jit_ops check_ops = {
	.translate = jit_check_translate,
	.run = jit_check_run,
	.untranslate = untranslate,
	.attend = jit_attend,
	.flushed = flushed,
};

/* From 2^62 up to 2^63. 0 or -errno. */
static int draw_nowhere(struct jit *jit)
{
	u64 any;
	if (getrandom(&any, sizeof(any), 0) != sizeof(any))
		return -errno;
	jit->nowhere = (any >> 2 | BIT(62)) & PAGE_MASK;
	return 0;
}

int jit_create(struct cpu *cpu, const struct jit_options *options)
{
	struct jit *jit = calloc(1, sizeof(*jit));
	struct loop *loop = calloc(1, sizeof(*loop));
	if (!jit || !loop) {
		free(jit);
		free(loop);
		return -ENOMEM;
	}
	jit->loop = loop;
	jit->options = *options;
	jit->host = jit_host_features() | jit_settled_flags();
	jit->size = group_share(cpu, options->memory ? options->memory : JIT_DEFAULT_SIZE) & ~(size_t)(PAGE_SIZE - 1);
	/* XSAVE faults on what is not aligned. */
	if ((uintptr_t)&cpu->fpu % 64)
		jit->host &= ~(u32)HOST_XSAVE;
	int error = draw_nowhere(jit);
	if (!error)
		error = jit_area_create(jit);
	if (!error && !ZYAN_SUCCESS(ZydisDecoderInit(&jit->verifier, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)))
		error = -ENOTSUP;
	if (error) {
		free(loop);
		free(jit);
		return error;
	}
	mmu_set_nowhere(&cpu->mmu, jit->nowhere);
	cpu->jit_state = jit;
	cpu->jit_hot = options->hot;
	cpu->jit = options->check ? &check_ops : &ops;
	jit_make_stubs(cpu, jit);
	jit_look_start(jit);
	return 0;
}

void jit_destroy(struct cpu *cpu)
{
	struct jit *jit = jit_of(cpu);
	if (!jit)
		return;
	cpu->jit = NULL;
	cpu->jit_state = NULL;
	cpu->blocks->untranslated = NULL;
	jit_area_destroy(jit);
	free(jit->loop);
	free(jit);
}
