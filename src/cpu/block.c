/*
 * The cache of decoded blocks: finding, decoding, dropping.
 */
#include "cpu/block_cache.h"
#include "cpu/event.h"
#include "cpu/group.h"
#include "cpu/jit_ops.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static_assert(sizeof(struct insn) <= 48, "a guest of some MiB of code has all of it decoded");

enum { DEFAULT_ARENA = 52 << 20 };

static void *map_zero(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return p == MAP_FAILED ? NULL : p;
}

static size_t pages_size(const struct block_cache *cache)
{
	return cache->page_count * sizeof(struct code_page);
}

int block_cache_init(struct cpu *cpu)
{
	struct block_cache *cache = map_zero(sizeof(*cache));

	if (!cache)
		return -ENOMEM;
	cpu->blocks = cache;
	cache->page_count = cpu->mem->size >> PAGE_SHIFT;
	cache->arena_size = cpu->config->block_memory ? cpu->config->block_memory : DEFAULT_ARENA;
	cache->arena_size = group_share(cpu, cache->arena_size);
	if (cache->arena_size > BLOCK_MEMORY_MAX)
		cache->arena_size = BLOCK_MEMORY_MAX;
	cache->hash = map_zero(HASH_BUCKETS * sizeof(*cache->hash));
	cache->pages = map_zero(pages_size(cache));
	cache->arena = map_zero(cache->arena_size);
	/* Blocks are looked at here and there, by the run loop and by each indirect jump. */
	if (cache->arena)
		(void)madvise(cache->arena, cache->arena_size, MADV_HUGEPAGE);
	int error = cache->hash && cache->pages && cache->arena ? decoders_init(cpu, &cache->decoders) : -ENOMEM;
	if (error) {
		block_cache_destroy(cpu);
		return error;
	}
	return 0;
}

void block_cache_destroy(struct cpu *cpu)
{
	struct block_cache *cache = cpu->blocks;

	if (!cache)
		return;
	if (cache->hash)
		munmap(cache->hash, HASH_BUCKETS * sizeof(*cache->hash));
	if (cache->pages)
		munmap(cache->pages, pages_size(cache));
	if (cache->arena)
		munmap(cache->arena, cache->arena_size);
	munmap(cache, sizeof(*cache));
	cpu->blocks = NULL;
}

void block_cache_flush(struct cpu *cpu)
{
	__atomic_store_n(&cpu->blocks->flush_wanted, true, __ATOMIC_SEQ_CST);
	cpu_attend(cpu, ATTEND_CODE);
}

void block_cache_flush_now(struct cpu *cpu)
{
	struct block_cache *cache = cpu->blocks;

	code_pages_lock(cpu);
	for (u64 i = 0; i < cache->page_count; i++) {
		struct code_page *page = &cache->pages[i];
		if (page->predictions)
			page->predictions = 0;
		if (!page->blocks)
			continue;
		page->blocks = NULL;
		page->lines = 0;
		code_page_release(cpu, i);
	}
	cache->writes = 0;
	cache->flush_wanted = false;
	code_pages_unlock(cpu);
	memset(cache->jump, 0, sizeof(cache->jump));
	memset(cache->hash, 0, HASH_BUCKETS * sizeof(*cache->hash));
	memset(cache->scratch, 0, sizeof(cache->scratch));
	cache->arena_used = 0;
	if (cpu->jit)
		cpu->jit->flushed(cpu);
	cache->outgrown = false;
}

static struct block **bucket_of(const struct block_cache *cache, u64 ram_offset, u32 key)
{
	/* Neighbours in a page are neighbours here, too: who looks one up mostly looks up others. */
	u64 page = (ram_offset >> PAGE_SHIFT ^ (u64)key << 40) * 0x9e3779b97f4a7c15ULL;
	u64 place = (ram_offset & (PAGE_SIZE - 1)) >> 4;
	return &cache->hash[((page >> 40) + place) & (HASH_BUCKETS - 1)];
}

u64 block_lines(const struct block *block)
{
	u64 start = block->ram_offset & (PAGE_SIZE - 1);
	return lines_of(start, start + block->bytes);
}

/* Is the page's code written so often that keeping blocks of it costs more than it gains? */
static bool page_is_hot(struct cpu *cpu, struct code_page *page)
{
	u32 window = (u32)(cpu->counters.instructions >> HOT_WINDOW_SHIFT);
	if (page->drops_since != window) {
		page->drops_since = window;
		page->drops = 0;
	}
	return page->drops >= HOT_DROPS;
}

/* Decodes until the block ends; 0 instructions if the first one does not lie in this page alone. */
static void decode_insns(struct cpu *cpu, struct block *block)
{
	u64 rest = PAGE_SIZE - (block->ram_offset & (PAGE_SIZE - 1));

	while (block->count < BLOCK_MAX && block->bytes < rest) {
		/* Copied first: other CPUs may write the bytes meanwhile, and each must be looked at once. */
		u8 bytes[15];
		u64 n = rest - block->bytes < sizeof(bytes) ? rest - block->bytes : sizeof(bytes);
		memcpy(bytes, cpu->mem->host + block->ram_offset + block->bytes, n);
		struct insn *insn = &block->insn[block->count];
		if (!insn_decode(cpu, block->mode_key, bytes, n, insn))
			break;
		block->count++;
		block->bytes = (u16)(block->bytes + insn->length);
		if (insn->flags & INSN_ENDS)
			break;
	}
	if (!block->count || !(block->mode_key & MODE_CODE64))
		return;
	const struct insn *last = &block->insn[block->count - 1];
	block->chains = !(last->flags & INSN_ENDS) || last->direct;
}

static void link_block(struct cpu *cpu, struct block *block)
{
	struct block_cache *cache = cpu->blocks;
	struct block **bucket = bucket_of(cache, block->ram_offset, block->mode_key);
	struct code_page *page = &cache->pages[block->ram_offset >> PAGE_SHIFT];

	block->hash_next = *bucket;
	*bucket = block;
	block->page_next = page->blocks;
	page->blocks = block;
	page->lines |= block_lines(block);
}

struct block *block_find(const struct cpu *cpu, u64 ram_offset, u32 mode_key)
{
	struct block *b = *bucket_of(cpu->blocks, ram_offset, mode_key);
	while (b && (b->ram_offset != ram_offset || b->mode_key != mode_key))
		b = b->hash_next;
	return b;
}

/* Of a page that the CPU has claimed. */
static struct block *decode_block(struct cpu *cpu, u64 ram_offset, u32 mode_key)
{
	struct block_cache *cache = cpu->blocks;
	struct block *block = (struct block *)(cache->arena + cache->arena_used);

	*block = (struct block){ .ram_offset = ram_offset, .mode_key = mode_key, .entry = cache->untranslated };
	decode_insns(cpu, block);
	if (!block->count)
		block->bytes = (u16)(PAGE_SIZE - (ram_offset & (PAGE_SIZE - 1)));
	cache->arena_used += sizeof(struct block) + block->count * sizeof(struct insn);
	cpu->counters.blocks_decoded++;
	if (cache->arena_used > cpu->counters.decoded_bytes)
		cpu->counters.decoded_bytes = cache->arena_used;
	link_block(cpu, block);
	return block;
}

struct block *block_decode_crossing(struct cpu *cpu, const struct block *block, const u8 bytes[15])
{
	struct block_cache *cache = cpu->blocks;
	struct block *decoded = (struct block *)(cache->arena + cache->arena_used);
	size_t size = sizeof(struct block) + sizeof(struct insn);

	if (cache->arena_used + size > cache->arena_size)
		return NULL;
	*decoded = (struct block){ .ram_offset = block->ram_offset,
				   .mode_key = block->mode_key,
				   .entry = cache->untranslated };
	if (!insn_decode(cpu, block->mode_key, bytes, 15, decoded->insn))
		return NULL;
	decoded->count = 1;
	decoded->bytes = decoded->insn->length;
	cache->arena_used += size;
	return decoded;
}

struct block *block_get(struct cpu *cpu, u64 ram_offset, u32 mode_key)
{
	struct block_cache *cache = cpu->blocks;
	const size_t largest = sizeof(struct block) + BLOCK_MAX * sizeof(struct insn);
	struct block *known = block_find(cpu, ram_offset, mode_key);

	if (known)
		return known;
	if (page_is_hot(cpu, &cache->pages[ram_offset >> PAGE_SHIFT]))
		return NULL;
	if (cache->arena_used + largest > cache->arena_size) {
		cache->outgrown = true;
		block_cache_flush(cpu);
		return NULL;
	}
	code_pages_lock(cpu);
	struct block *block = NULL;
	if (code_page_claim(cpu, ram_offset >> PAGE_SHIFT))
		block = decode_block(cpu, ram_offset, mode_key);
	code_pages_unlock(cpu);
	return block;
}

void block_cover(struct cpu *cpu, u64 ram_offset, u8 *bytes, size_t n)
{
	u64 start = ram_offset & (PAGE_SIZE - 1);
	code_pages_lock(cpu);
	cpu->blocks->pages[ram_offset >> PAGE_SHIFT].lines |= lines_of(start, start + n);
	memcpy(bytes, cpu->mem->host + ram_offset, n);
	code_pages_unlock(cpu);
}

/* Stands for the rest of a running block whose bytes changed: back to the run loop, at this instruction. */
static void exec_leave(struct cpu *cpu, const struct insn *insn)
{
	cpu->reg[REG_RIP] = cpu->rip_start;
	cpu->counters.instructions--; /* what resumes is counted, but this did nothing */
	cpu_resume(cpu);
}

void block_set_entry(struct block *block, const void *entry)
{
	block->entry = entry;
	if (block->jump)
		block->jump->code = entry;
}

/* Its translation must not be entered any more; one that runs is left behind the handler that brought this about. */
static void untranslate(struct cpu *cpu, struct block *block)
{
	if (block->entry == cpu->blocks->untranslated)
		return;
	cpu->jit->untranslate(cpu, block);
	block_set_entry(block, cpu->blocks->untranslated);
	block->lines = 0;
	block->runs = 0;
	cpu->counters.translations_dropped++;
}

void block_group_failed(struct cpu *cpu, struct block *block)
{
	u32 window = (u32)(cpu->counters.instructions >> FAILURE_WINDOW_SHIFT);
	if (window - block->failing_since >= SPLIT_WINDOWS) {
		block->failing_since = window;
		block->group_failures = 0;
	}
	if (++block->group_failures < GROUP_FAILURES || block->splits)
		return;
	block->splits = true;
	block->plain = window - block->failing_since < PLAIN_WINDOWS;
	struct block *b = cpu->blocks->pages[block->ram_offset >> PAGE_SHIFT].blocks;
	for (; b; b = b->page_next)
		if (b->lines & block_lines(block))
			untranslate(cpu, b);
}

void block_retranslate(struct cpu *cpu, struct block *block)
{
	untranslate(cpu, block);
}

static void drop_block(struct cpu *cpu, struct block *block)
{
	struct block_cache *cache = cpu->blocks;
	struct block **at = bucket_of(cache, block->ram_offset, block->mode_key);

	while (*at != block)
		at = &(*at)->hash_next;
	*at = block->hash_next;
	block->mode_key = MODE_DROPPED;
	untranslate(cpu, block);
	cpu->counters.blocks_dropped++;
	bool runs = cache->running == block && cpu->insn >= block->insn && cpu->insn < block->insn + block->count;
	if (runs)
		for (const struct insn *i = cpu->insn + 1; i < block->insn + block->count; i++)
			block->insn[i - block->insn].exec = exec_leave;
}

/*
 * Pages that held code are given to other uses, and each write to one takes the slow path as long as old blocks are
 * there. Has this page been written so often, beside its blocks, that they should go? Code that lives beside data comes
 * back, and is spared for twice as long each time.
 */
static bool is_mostly_data(struct code_page *page)
{
	if (++page->misses < EVICT_MISSES << page->evictions)
		return false;
	page->misses = 0;
	page->evictions += page->evictions < EVICTIONS_MAX;
	return true;
}

void block_cache_written(struct cpu *cpu, u64 number, u64 start, u64 end)
{
	struct code_page *page = &cpu->blocks->pages[number];
	bool beside = !(page->lines & lines_of(start, end));

	if (beside) {
		if (!is_mostly_data(page))
			return;
		start = 0;
		end = PAGE_SIZE;
	}
	page_is_hot(cpu, page); /* a new window forgets old drops */
	page->lines = 0;
	for (struct block **at = &page->blocks; *at;) {
		struct block *block = *at;
		u64 first = block->ram_offset & (PAGE_SIZE - 1);
		if (first < end && start < first + block->bytes) {
			*at = block->page_next;
			drop_block(cpu, block);
			page->drops += !beside;
		} else {
			/* Its translation may go on into blocks that are dropped. */
			if (block->lines & lines_of(start, end))
				untranslate(cpu, block);
			page->lines |= block_lines(block) | block->lines;
			at = &block->page_next;
		}
	}
	if (!page->blocks)
		code_page_release(cpu, number);
}
