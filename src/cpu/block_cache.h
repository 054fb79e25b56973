/*
 * Inside of the block cache, for decode.c, block.c and run.c.
 *
 * Blocks live in an arena that is only ever emptied whole, between blocks; a dropped block is unlinked and its memory
 * stays valid until then, so the running block may drop itself. Three ways lead to a block, fastest first:
 *   jump cache  by linear address, stamped with the MMU's generation and the mode
 *   hash        by RAM offset and mode
 *   decoding
 * The jump cache may still point at a dropped block: such a block has no mode any more (MODE_DROPPED), and never
 * matches.
 */
#ifndef STRATA_CPU_BLOCK_CACHE_H
#define STRATA_CPU_BLOCK_CACHE_H

#include "cpu/block.h"

/* No mode of the CPU has this key. */
#define MODE_DROPPED 0xffffffffu

enum decoder_mode {
	DECODER_16,
	DECODER_32,
	DECODER_64,
	/* With MPX's instructions. */
	DECODER_16_BOUNDS,
	DECODER_32_BOUNDS,
	DECODER_64_BOUNDS,
	DECODER_COUNT
};

struct decoders {
	ZydisDecoder mode[DECODER_COUNT];
};

struct block {
	u64 ram_offset; /* of the first byte */
	u32 mode_key;   /* MODE_DROPPED once dropped */
	u16 bytes;      /* all in one page */
	u16 count;      /* of insns; 0: the first one crosses the page, and is run from scratch */
	struct block *hash_next;
	struct block *page_next;
	struct block *next[2];   /* chains: the block behind it and the branch's target, where known and on this page */
	const void *entry;       /* its translation; or block_cache.untranslated, always for a dropped one */
	struct jump_entry *jump; /* whose `code` is `entry`; or NULL */
	void *incoming;          /* the translator's: jumps in other translations that lead to `entry` */
	u64 lines;               /* of the page, as in struct code_page: what the translation at `entry` was made of */
	i64 stretch_credit;      /* the translator's: how well it pays not to check a loop's operands each round */
	u32 failing_since;       /* likewise: counters.instructions >> FAILURE_WINDOW_SHIFT */
	u16 group_failures;      /* see block_group_failed() */
	u16 runs;                /* up to cpu->jit_hot: then it was given to the translator */
	bool chains;             /* ends in a direct branch of 64-bit mode, or goes straight on */
	bool splits;             /* operands that its translation checks together often lie apart */
	bool plain;              /* so often that each is checked by itself */
	bool unhoisted;          /* a loop from here back to here checks its operands each round */
	u8 flags_dead;           /* the translator's: see jit_flags_are_dead() */
	u8 quiet;                /* bytes of the translation that links may leave out */
	u8 rounds;               /* the translator's, of a loop from here back to here, on average; 0: unknown */
	struct insn insn[];
};

/* What is known of a page of RAM that holds blocks. `blocks` and `lines` change under code_lock (group.h) only. */
struct code_page {
	struct block *blocks;
	u64 lines;       /* bit n: some block or translation relies on bytes of [64 n, 64 n + 64) */
	u32 drops;       /* blocks dropped lately: see page_is_hot() */
	u32 drops_since; /* counters.instructions >> HOT_WINDOW_SHIFT when drops was 0 */
	u16 misses;      /* writes beside the blocks since the last eviction: see is_mostly_data() */
	u16 evictions;
	u32 predictions; /* the translator's; 0 once the cache is emptied */
};

/*
 * Validity of an entry of the jump cache: the MMU's generation, and below it a key. The class of accesses counts
 * because a page may be executable for the supervisor and not for the user, or the other way round.
 */
enum { JUMP_STAMP_SHIFT = 16 };

static inline u64 jump_stamp_key(bool user, u32 mode_key)
{
	return (u64)user << (JUMP_STAMP_SHIFT - 1) | mode_key;
}

/*
 * A place in the jump cache. For translated code alone, it tells where to go on: at the block's entry or, as a block
 * has but one place that is kept up to date, at code that looks there.
 */
struct jump_entry {
	u64 linear;
	u64 stamp;
	struct block *block;
	const void *code;
};

/* An instruction that crosses pages, or comes from no RAM: kept with its bytes, and compared before each use. */
struct scratch_entry {
	u64 linear;
	u32 mode_key;
	u8 length; /* of bytes known; 0: empty */
	u8 bytes[15];
	struct insn insn;
};

enum {
	JUMP_ENTRY_SHIFT = 5,
	JUMP_BITS = 15,
	JUMP_ENTRIES = 1 << JUMP_BITS,
	HASH_BUCKETS = 1 << 18,
	SCRATCH_ENTRIES = 256,
	EVICT_MISSES =
		128, /* after so many news of writes beside a page's blocks they go; twice as many the next time */
	EVICTIONS_MAX = 9,
	BLOCK_MEMORY_MAX = 1 << 30,
	WRITE_QUEUE = 128,
	GROUP_FAILURES = 32, /* so many in SPLIT_WINDOWS, and the block splits; in PLAIN_WINDOWS, and it is plain */
	FAILURE_WINDOW_SHIFT = 13,
	SPLIT_WINDOWS = 16,
	PLAIN_WINDOWS = 2,
	HOT_DROPS = 256,      /* so many drops of one page in one window, and its code is not kept any more */
	HOT_WINDOW_SHIFT = 22 /* a window is 4 M instructions */
};

struct block_cache {
	struct jump_entry jump[JUMP_ENTRIES];
	struct block *running;   /* the one that runs, or ran last: cpu->insn tells if an instruction of it runs now */
	struct block **hash;     /* HASH_BUCKETS */
	struct code_page *pages; /* one for each page of RAM */
	u64 page_count;
	u8 *arena;
	size_t arena_used, arena_size;
	bool outgrown;     /* the flush is for want of room in the arena */
	bool flush_wanted; /* arena or queue is full: flush before the next block; atomic */
	/* Not yet looked at: ATTEND_CODE. Under code_lock (group.h). */
	struct code_write write[WRITE_QUEUE];
	unsigned writes;
	/* Host code for jump_entry.code; NULL without a translator. */
	const void *untranslated; /* leaves for the run loop */
	const void *by_block;     /* goes on at block->entry */
	struct decoders decoders;
	struct scratch_entry scratch[SCRATCH_ENTRIES];
	struct insn fetching; /* cpu->insn while a fetch faults: length 0 */
};

/*
 * The place of an address in the jump cache, in bytes: by the upper bits of a product, to which all of the address's
 * lower half contribute. Translated code computes it likewise.
 */
#define JUMP_FACTOR 0x9e3779b1u
#define JUMP_SHIFT  (32 - JUMP_BITS - JUMP_ENTRY_SHIFT)

static inline struct jump_entry *jump_entry_of(struct block_cache *cache, u64 linear)
{
	return &cache->jump[(u32)linear * JUMP_FACTOR >> JUMP_SHIFT >> JUMP_ENTRY_SHIFT];
}

int decoders_init(struct cpu *cpu, struct decoders *decoders);

/* Empties the cache. Only where no block runs. */
void block_cache_flush_now(struct cpu *cpu);

/*
 * The block at a RAM offset, decoded if need be; NULL if the page changes too often, or there is no room: then the
 * caller runs one instruction from scratch.
 */
struct block *block_get(struct cpu *cpu, u64 ram_offset, u32 mode_key);
/* The same, but NULL if it is not there yet. */
struct block *block_find(const struct cpu *cpu, u64 ram_offset, u32 mode_key);

/*
 * What a block of no instruction stands for: a block of the one that has these bytes, on both sides of the page's end.
 * Nothing leads to it, and it is good until the cache is emptied. NULL: there is no room.
 */
struct block *block_decode_crossing(struct cpu *cpu, const struct block *block, const u8 bytes[15]);

/*
 * Operands of the block that its translation checked together were not in one page of plain memory. If that happens
 * often, its translation is to be ready for that.
 */
void block_group_failed(struct cpu *cpu, struct block *block);

/* From now on its translation, or what stands for it, is there. */
void block_set_entry(struct block *block, const void *entry);

/* Its translation is to be made anew: something was learnt of its instructions. */
void block_retranslate(struct cpu *cpu, struct block *block);

/* Bits of the 64-byte lines of its page that the block's bytes lie in. */
u64 block_lines(const struct block *block);

/* Bits of the lines that [start, end) of a page touches; start < end <= PAGE_SIZE. */
static inline u64 lines_of(u64 start, u64 end)
{
	return BITS((end - 1) >> 6, start >> 6);
}

/*
 * Copies n bytes of a page that has blocks of this CPU's: from now on writes there count as those to blocks do, for
 * some translation is going to have these bytes in its `lines`. Within one page; between blocks.
 */
void block_cover(struct cpu *cpu, u64 ram_offset, u8 *bytes, size_t n);

/* Drops the blocks that overlap [start, end) of a page. On the CPU's thread, under code_lock. */
void block_cache_written(struct cpu *cpu, u64 page, u64 start, u64 end);

/* --- code_pages.c: the protocol of block.h --- */

void code_pages_lock(struct cpu *cpu);
void code_pages_unlock(struct cpu *cpu);
/*
 * The CPU wants to decode from the page; under code_lock, between instructions. true: it may read the bytes and keep
 * blocks of them. false: some CPU may still write there unnoticed, so nothing must be kept; ask again.
 */
bool code_page_claim(struct cpu *cpu, u64 page);
/* It has no blocks of the page any more. Under code_lock. */
void code_page_release(struct cpu *cpu, u64 page);
/* mem->code_written. */
void code_page_written(void *group, u64 ram_offset, u64 size);
/* ATTEND_CODE, between instructions. */
void code_pages_attend(struct cpu *cpu);

/* Bits of mode_key that decoding depends on. */
static inline u32 block_key(u32 mode_key)
{
	return mode_key & ~MODE_STEP;
}

#endif
