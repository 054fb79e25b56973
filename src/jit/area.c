/*
 * The code area: one memory object, mapped twice, so that nothing is writable and executable at one address. Code grows
 * from its start, links grow from its end, and all of it is only ever emptied whole.
 */
#include "cpu/group.h"
#include "jit/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum {
	/* The writable mapping is given back whenever so many bytes more are filled. */
	FORGET_BYTES = 256 << 10,
	PATCHING = 64 << 20, /* instructions: some 50 ms */
	LITTLE = 12 << 20,   /* bytes of code: all of them may be resident twice */
	TOUCHED = 3          /* pieces of 2 MiB that bound jumps have brought in, of more code */
};

/* Traces have one for each 260 bytes of theirs, as they are in Linux; if others need more, that fills the area, too. */
static size_t predictions_size(const struct jit *jit)
{
	enum { BYTES_OF_CODE = 200 };
	return (jit->size / BYTES_OF_CODE * sizeof(struct prediction) + PAGE_SIZE - 1) & ~(size_t)(PAGE_SIZE - 1);
}

/* Address space for `size` bytes that begins at a multiple of the huge-page size; NULL: there is none. */
static void *reserve(size_t size)
{
	u8 *p = mmap(NULL, size + HUGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	u8 *start = (u8 *)(((uintptr_t)p + HUGE_BYTES - 1) & ~(uintptr_t)(HUGE_BYTES - 1));
	size_t before = (size_t)(start - p);
	if (before)
		munmap(p, before);
	munmap(start + size, HUGE_BYTES - before);
	return start;
}

/*
 * Shared anonymous memory, of which mremap() makes a second mapping when asked to move none of it: `perf` takes it for
 * generated code, as it would not a memfd.
 */
int jit_area_create(struct jit *jit)
{
	size_t beside = predictions_size(jit);
	void *w = reserve(jit->size), *x = reserve(jit->size + beside);
	bool mapped = w && x;
	mapped = mapped &&
		 mmap(w, jit->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == w &&
		 mremap(w, 0, jit->size, MREMAP_MAYMOVE | MREMAP_FIXED, x) == x &&
		 !mprotect(x, jit->size, PROT_READ | PROT_EXEC) &&
		 !mprotect((u8 *)x + jit->size, beside, PROT_READ | PROT_WRITE);
	if (!mapped) {
		int error = -errno;
		if (w)
			munmap(w, jit->size);
		if (x)
			munmap(x, jit->size + beside);
		return error;
	}
	jit->writable = w;
	jit->executable = x;
	jit->links_start = jit->size;
	jit->predictions = (struct prediction *)((u8 *)x + jit->size);
	jit->predictions_max = beside / sizeof(*jit->predictions);
	jit->predictions_used = FIRST_PREDICTION;
	/* Each trace has its own, and all are used at any time: pages of 4 KiB would have the host walk its tables. */
	(void)madvise(jit->predictions, beside, MADV_HUGEPAGE);
	jit->prediction_info = calloc(jit->predictions_max, sizeof(*jit->prediction_info));
	jit->prediction_next = calloc(jit->predictions_max, sizeof(*jit->prediction_next));
	if (!jit->prediction_info || !jit->prediction_next) {
		jit_area_destroy(jit);
		return -ENOMEM;
	}
	return 0;
}

void jit_area_destroy(struct jit *jit)
{
	free(jit->prediction_info);
	free(jit->prediction_next);
	munmap(jit->writable, jit->size);
	munmap((void *)jit->executable, jit->size + predictions_size(jit));
}

void jit_area_empty(struct jit *jit)
{
	jit->used = jit->stubs_end;
	jit->forgotten = 0;
	jit->links_start = jit->size;
	jit->full = false;
	jit->predictions_used = FIRST_PREDICTION;
}

bool jit_has_room(struct jit *jit, size_t n, unsigned links)
{
	if (jit->used + n + links * sizeof(struct jit_far) > jit->links_start ||
	    jit->predictions_used + PREDICTIONS > jit->predictions_max)
		jit->full = true;
	return !jit->full;
}

/*
 * Guest code of some MiB jumps about in several times as much: in pages of 4 KiB the host's processor would walk its
 * tables for much of it. Shared memory has huge pages where the host was told so, or when asked for each; where it
 * cannot, all works as well, and slower.
 */
static void make_huge(struct jit *jit)
{
	while (jit->used > jit->huge && jit->huge + HUGE_BYTES <= jit->size) {
		(void)madvise(jit->writable + jit->huge, HUGE_BYTES, MADV_COLLAPSE);
		jit->huge += HUGE_BYTES;
	}
}

/* From the start: binding jumps writes to old code, and each may bring in 2 MiB. */
static void give_back(struct jit *jit, size_t bytes)
{
	madvise(jit->writable, bytes & ~(size_t)(PAGE_SIZE - 1), MADV_DONTNEED);
	jit->patched = 0;
	jit->patched_at = 0;
}

void jit_keep(struct cpu *cpu, struct jit *jit, size_t size)
{
	jit->used += (size + 15) & ~15UL;
	if (jit->used > cpu->counters.translated_bytes)
		cpu->counters.translated_bytes = jit->used;
	if (jit->used > jit->size / 5 * 2 && cpu->jit_hot < jit->options.hotter)
		cpu->jit_hot = jit->options.hotter;
	make_huge(jit);
	size_t filled = jit->used & ~(size_t)(FORGET_BYTES - 1);
	if (filled > jit->forgotten) {
		give_back(jit, filled);
		jit->forgotten = filled;
	}
}

void jit_tidy_patched(struct cpu *cpu, struct jit *jit)
{
	if (!jit->patched_at)
		jit->patched_at = cpu->counters.instructions;
	bool much = jit->used > LITTLE && __builtin_popcountll(jit->patched) > TOUCHED;
	if (much || cpu->counters.instructions - jit->patched_at > PATCHING)
		give_back(jit, jit->used);
}
