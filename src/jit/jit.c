/*
 * The translator's life: the code area, and what the run loop calls.
 */
#include "jit/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

bool jit_has_room(struct jit *jit, size_t n, unsigned links)
{
	if (jit->used + n + links * sizeof(struct jit_link) > jit->links_start)
		jit->full = true;
	return !jit->full;
}

static void count_translation(struct cpu *cpu, const struct jit *jit, const struct trace *trace)
{
	cpu->counters.traces_translated++;
	cpu->counters.instructions_translated += trace->count;
	for (unsigned i = 0; i < trace->count; i++)
		cpu->counters.instructions_untranslated += jit->plan[i].kind == PLAN_HANDLER;
}

static void translate(struct cpu *cpu, struct block *block)
{
	struct jit *jit = jit_of(cpu);
	struct trace trace;

	if (!jit_select_trace(cpu, jit, block, &trace))
		return;
	const u8 *code = jit_translate(cpu, jit, &trace, 0, trace.count, true);
	if (code) {
		block->entry = code;
		block->lines = jit_trace_lines(&trace);
		count_translation(cpu, jit, &trace);
	} else if (jit->full) {
		block_cache_flush(cpu);
	}
}

/* The jump at `site` leads to `to`, both in the writable mapping. */
static void set_jump(u8 *site, const u8 *to)
{
	struct emit e = { 0 };
	emit_patch(&e, site, to);
}

/* Translated code was left through the link: next time it goes on directly, if its target has a translation. */
static void bind(struct cpu *cpu, struct jit *jit, struct jit_link *link)
{
	struct block *block = block_find(cpu, link->ram_offset, link->mode_key);
	if (link->bound || !block || block->entry == cpu->blocks->untranslated)
		return;
	set_jump(link->site, jit->writable + ((const u8 *)block->entry - jit->executable));
	link->bound = true;
	link->next = block->incoming;
	block->incoming = link;
}

static void run(struct cpu *cpu, struct block *block)
{
	struct jit_link *link = jit_enter(cpu, block->entry);
	if (link)
		bind(cpu, jit_of(cpu), link);
}

static void untranslate(struct cpu *cpu, struct block *block)
{
	for (struct jit_link *link = block->incoming; link; link = link->next) {
		set_jump(link->site, link->unlinked);
		link->bound = false;
	}
	block->incoming = NULL;
}

static void flushed(struct cpu *cpu)
{
	struct jit *jit = jit_of(cpu);
	jit->used = jit->stubs_end;
	jit->links_start = JIT_AREA;
	jit->full = false;
	cpu->counters.translation_flushes++;
}

static const struct jit_ops ops = {
	.translate = translate,
	.run = run,
	.untranslate = untranslate,
	.flushed = flushed,
};
static const struct jit_ops check_ops = {
	.translate = jit_check_translate,
	.run = jit_check_run,
	.untranslate = untranslate,
	.flushed = flushed,
};

/* One memory object, twice: 0 or -errno. */
static int map_area(struct jit *jit)
{
	int fd = memfd_create("strata-translations", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	void *w = MAP_FAILED, *x = MAP_FAILED;
	int error = 0;
	if (ftruncate(fd, JIT_AREA) ||
	    (w = mmap(NULL, JIT_AREA, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)) == MAP_FAILED ||
	    (x = mmap(NULL, JIT_AREA, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0)) == MAP_FAILED)
		error = -errno;
	close(fd);
	if (error && w != MAP_FAILED)
		munmap(w, JIT_AREA);
	if (!error) {
		jit->writable = w;
		jit->executable = x;
	}
	return error;
}

int jit_create(struct cpu *cpu, const struct jit_options *options)
{
	struct jit *jit = calloc(1, sizeof(*jit));
	if (!jit)
		return -ENOMEM;
	jit->options = *options;
	jit->host = jit_host_features();
	int error = map_area(jit);
	if (!error && !ZYAN_SUCCESS(ZydisDecoderInit(&jit->verifier, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)))
		error = -ENOTSUP;
	if (error) {
		free(jit);
		return error;
	}
	jit->links_start = JIT_AREA;
	cpu->jit_state = jit;
	cpu->jit_hot = options->hot;
	cpu->jit = options->check ? &check_ops : &ops;
	jit_make_stubs(cpu, jit);
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
	munmap(jit->writable, JIT_AREA);
	munmap((void *)jit->executable, JIT_AREA);
	free(jit);
}
