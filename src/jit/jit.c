/*
 * The translator's life: the code area, and what the run loop calls.
 */
#include "jit/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

static void count_translation(struct cpu *cpu, const struct jit *jit, unsigned count)
{
	cpu->counters.blocks_translated++;
	cpu->counters.instructions_translated += count;
	for (unsigned i = 0; i < count; i++)
		cpu->counters.instructions_untranslated += jit->plan[i].kind == PLAN_HANDLER;
}

static void translate(struct cpu *cpu, struct block *block)
{
	struct jit *jit = jit_of(cpu);
	const u8 *code = jit_translate(cpu, jit, block, 0, block->count, true);
	if (code) {
		block->entry = code;
		count_translation(cpu, jit, block->count);
	} else if (jit->full) {
		block_cache_flush(cpu);
	}
}

static struct block **run(struct cpu *cpu, struct block *block)
{
	return jit_enter(cpu, block, block->entry);
}

static void flushed(struct cpu *cpu)
{
	struct jit *jit = jit_of(cpu);
	jit->used = jit->stubs_end;
	jit->full = false;
	cpu->counters.translation_flushes++;
}

static const struct jit_ops ops = { .translate = translate, .run = run, .flushed = flushed };
static const struct jit_ops check_ops = { .translate = jit_check_translate, .run = jit_check_run, .flushed = flushed };

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
