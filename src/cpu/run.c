/*
 * cpu_run(): finds the block at CS:RIP, calls its instructions' handlers, and looks at `attention` between blocks.
 */
#include "cpu/access.h"
#include "cpu/block_cache.h"
#include "cpu/event.h"
#include "cpu/group.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"
#include "cpu/jit_ops.h"

/* --- fetching --- */

static u64 code_linear(const struct cpu *cpu)
{
	u64 rip = cpu->reg[REG_RIP];
	return likely(cpu->mode_key & MODE_CODE64) ? rip : (u32)(rip + cpu->seg[SEG_CS].base);
}

/* Nothing runs while an instruction is fetched: faults belong to the one at RIP. */
static void begin_fetch(struct cpu *cpu)
{
	cpu->insn = &cpu->blocks->fetching;
	cpu->rip_start = cpu->reg[REG_RIP];
}

/* Translates one byte of code; throws as the fetch would. */
static struct mmu_result translate_code(struct cpu *cpu, u64 linear)
{
	begin_fetch(cpu);
	struct mmu_result r = mmu_translate(&cpu->mmu, linear, MMU_EXEC, cpu->mmu.cls);
	switch (r.kind) {
	case MMU_OK:
		if (unlikely(r.apic))
			cpu->hv->apic_access(cpu, linear, r.gpa & (PAGE_SIZE - 1), 1, MMU_EXEC);
		return r;
	case MMU_NOT_CANONICAL:
		cpu_raise_gp(cpu);
	case MMU_PAGE_FAULT:
		cpu_raise_page_fault(cpu, linear, r.error_code);
	default:
		cpu->hv->stage2_fault(cpu, linear, &r);
		__builtin_unreachable();
	}
}

/* RAM offset of code at a linear address that the TLB has; else RAM_OFFSET_NONE. */
static inline u64 code_in_tlb(const struct cpu *cpu, u64 linear)
{
	const struct tlb_entry *e = &cpu->mmu.tlb[tlb_index(linear)];
	if (unlikely(e->exec != ((linear & PAGE_MASK) | cpu->mmu.revision)))
		return RAM_OFFSET_NONE;
	return (u64)((u8 *)(linear + e->addend) - cpu->mem->host);
}

/* The same of any code; RAM_OFFSET_NONE if a device answers. */
static u64 code_ram_offset(struct cpu *cpu, u64 linear)
{
	u64 known = code_in_tlb(cpu, linear);
	return likely(known != RAM_OFFSET_NONE) ? known : translate_code(cpu, linear).ram_offset;
}

/* Copies n bytes of code that lie in one page. */
static void copy_code(struct cpu *cpu, u64 linear, u8 *to, unsigned n)
{
	u64 offset = code_ram_offset(cpu, linear);
	if (offset != RAM_OFFSET_NONE) {
		memcpy(to, cpu->mem->host + offset, n);
		return;
	}
	gpa_t gpa = translate_code(cpu, linear).gpa;
	for (unsigned i = 0; i < n; i++)
		to[i] = (u8)bus_read_mmio(cpu->bus, gpa + i, 1);
}

/* SDM vol. 3, 5.3: every byte of an instruction must be within the limit of CS. 64-bit mode has none. */
static inline bool within_limit(const struct cpu *cpu, unsigned bytes)
{
	return cpu->mode_key & MODE_CODE64 || cpu->reg[REG_RIP] + bytes - 1 <= cpu->seg[SEG_CS].limit;
}

/* May a block run as a whole? Not where EIP would have to wrap inside or behind it: run_one() sees to that. */
static inline bool runs_whole(const struct cpu *cpu, const struct block *block)
{
	return likely(block->mode_key & MODE_CODE64) ||
	       (within_limit(cpu, block->bytes) && cpu->reg[REG_RIP] + block->bytes <= 0xffffffff);
}

static const struct insn *scratch_keep(struct scratch_entry *e, u64 linear, u32 key, const u8 bytes[15],
				       unsigned length)
{
	e->linear = linear;
	e->mode_key = key;
	e->length = (u8)length;
	memcpy(e->bytes, bytes, sizeof(e->bytes));
	return &e->insn;
}

/*
 * The instruction at RIP, where blocks cannot be: across pages, in a page that changes all the time, or in no RAM. Its
 * second page is looked at only if it reaches there.
 */
static const struct insn *scratch_get(struct cpu *cpu, u64 linear)
{
	u32 key = block_key(cpu->mode_key);
	struct scratch_entry *e = &cpu->blocks->scratch[(linear ^ linear >> 12) & (SCRATCH_ENTRIES - 1)];
	unsigned first = (unsigned)(PAGE_SIZE - (linear & (PAGE_SIZE - 1)));
	u8 bytes[sizeof(e->bytes)] = { 0 };

	if (first > sizeof(bytes))
		first = sizeof(bytes);
	copy_code(cpu, linear, bytes, first);
	bool same = e->length && e->linear == linear && e->mode_key == key && !memcmp(e->bytes, bytes, first);
	if (same && e->length == first)
		return &e->insn;
	if (!same) {
		e->length = 0; /* for the next page may throw */
		if (insn_decode(cpu, key, bytes, first, &e->insn))
			return scratch_keep(e, linear, key, bytes, first);
	}
	u64 next = linear + first;
	copy_code(cpu, cpu->mode_key & MODE_CODE64 ? next : (u32)next, bytes + first, sizeof(bytes) - first);
	if (same && !memcmp(e->bytes, bytes, sizeof(bytes)))
		return &e->insn;
	insn_decode(cpu, key, bytes, sizeof(bytes), &e->insn);
	return scratch_keep(e, linear, key, bytes, sizeof(bytes));
}

static u64 jump_stamp(const struct cpu *cpu)
{
	return cpu->mmu.generation << JUMP_STAMP_SHIFT |
	       jump_stamp_key(cpu->mmu.cls == MMU_USER, block_key(cpu->mode_key));
}

/* The block is at this address, whose page was just translated. */
static void note_jump(struct cpu *cpu, u64 linear, struct block *block)
{
	mmu_note_code(&cpu->mmu, linear);
	struct jump_entry *e = jump_entry_of(cpu->blocks, linear);
	if (e->block && e->block->jump == e)
		e->block->jump = NULL;
	if (block->jump)
		block->jump->code = cpu->blocks->by_block;
	*e = (struct jump_entry){ .linear = linear, .stamp = jump_stamp(cpu), .block = block, .code = block->entry };
	block->jump = e;
}

static __attribute__((noinline)) struct block *find_block_slow(struct cpu *cpu, u64 linear)
{
	u64 ram_offset = code_ram_offset(cpu, linear);
	if (ram_offset == RAM_OFFSET_NONE)
		return NULL;
	struct block *block = block_get(cpu, ram_offset, block_key(cpu->mode_key));
	if (block)
		note_jump(cpu, linear, block);
	return block;
}

/* The block that the jump cache has for the address, or NULL. */
static inline struct block *block_in_jump_cache(const struct cpu *cpu, u64 linear)
{
	const struct jump_entry *e = jump_entry_of(cpu->blocks, linear);
	if (likely(e->linear == linear && e->stamp == jump_stamp(cpu) && e->block->mode_key != MODE_DROPPED))
		return e->block;
	return NULL;
}

/* NULL: run one instruction from scratch. Throws if the code cannot be fetched. */
static inline struct block *find_block(struct cpu *cpu, u64 linear)
{
	struct block *block = block_in_jump_cache(cpu, linear);
	return likely(block) ? block : find_block_slow(cpu, linear);
}

u64 cpu_code_at(struct cpu *cpu, u64 linear)
{
	u64 known = code_in_tlb(cpu, linear);
	if (likely(known != RAM_OFFSET_NONE))
		return known;
	struct mmu_result r = mmu_translate(&cpu->mmu, linear, MMU_EXEC, cpu->mmu.cls);
	return r.kind == MMU_OK ? r.ram_offset : RAM_OFFSET_NONE;
}

/* As find_block(), but NULL if there is no block yet, or nothing can be fetched. */
static struct block *block_at(struct cpu *cpu, u64 linear)
{
	struct block *block = block_in_jump_cache(cpu, linear);
	if (block)
		return block;
	u64 ram_offset = cpu_code_at(cpu, linear);
	if (ram_offset == RAM_OFFSET_NONE)
		return NULL;
	block = block_find(cpu, ram_offset, block_key(cpu->mode_key));
	if (block)
		note_jump(cpu, linear, block);
	return block;
}

/* --- running --- */

static inline void note_block(struct cpu *cpu, u64 linear)
{
	cpu->last_rip[cpu->last_rip_at++ % ARRAY_SIZE(cpu->last_rip)] = linear;
	cpu->counters.blocks_run++;
}

/* One instruction: under a shadow, in single-step, near the limit of CS, or from scratch. */
static __attribute__((noinline)) void run_one(struct cpu *cpu)
{
	struct block_cache *cache = cpu->blocks;
	u64 linear = code_linear(cpu);

	begin_fetch(cpu);
	if (unlikely(!within_limit(cpu, 1)))
		cpu_raise_gp(cpu);
	struct block *block = find_block(cpu, linear);
	if (block && !block->count)
		block = NULL;
	const struct insn *insn = block ? block->insn : scratch_get(cpu, linear);
	begin_fetch(cpu);
	if (unlikely(!within_limit(cpu, insn->length)))
		cpu_raise_gp(cpu);
	note_block(cpu, linear);
	cache->running = block;
	cpu->insn = insn;
	cpu->reg[REG_RIP] += insn->length;
	if (!(cpu->mode_key & MODE_CODE64))
		cpu->reg[REG_RIP] = (u32)cpu->reg[REG_RIP];
	if (cpu->attention & ATTEND_ALONE)
		cpu_attended(cpu, ATTEND_ALONE);
	cpu->alone = true;
	u64 from = cpu->rip_start, base = cpu->seg_base[SEG_CS];
	insn->exec(cpu, insn);
	cpu->alone = false;
	pmu_retired(&cpu->pmu, insn);
	cpu->counters.instructions++;
	cpu->counters.instructions_interpreted++;
	if (debug_records_branches(cpu))
		debug_record_branch(cpu, insn, base, from);
}

static inline void run_block(struct cpu *cpu, struct block *block)
{
	const struct insn *insn = block->insn, *end = insn + block->count;
	u64 rip = cpu->reg[REG_RIP];

	cpu->blocks->running = block;
	do {
		cpu->insn = insn;
		cpu->rip_start = rip;
		rip += insn->length;
		cpu->reg[REG_RIP] = rip;
		insn->exec(cpu, insn);
	} while (++insn != end);
	pmu_retired(&cpu->pmu, end - 1);
	cpu->counters.instructions += block->count;
	cpu->counters.instructions_interpreted += block->count;
}

/* A block that ends before the next overflow of a performance counter, or one instruction. */
static void run_bounded(struct cpu *cpu)
{
	u64 linear = code_linear(cpu);
	struct block *block = find_block(cpu, linear);
	if (!block || !block->count || block->count > cpu->pmu.bound || !runs_whole(cpu, block)) {
		run_one(cpu);
		return;
	}
	note_block(cpu, linear);
	run_block(cpu, block);
}

/*
 * Runs the instruction that asked for it with all other CPUs stopped. This is still the same boundary, so nothing else
 * is looked at; if it throws, enter_loop() lets the others go.
 */
static void run_exclusively(struct cpu *cpu)
{
	cpu->exclusive_wanted = false;
	group_begin_exclusive(cpu);
	run_one(cpu);
	group_end_exclusive(cpu);
}

/* Whatever keeps the loop from going straight on. Returns like cpu_attend_events(). */
static __attribute__((noinline)) int run_attentive(struct cpu *cpu)
{
	cpu->blocks->running = NULL; /* what throws from here is no instruction of it */
	u32 attention = __atomic_load_n(&cpu->attention, __ATOMIC_SEQ_CST);
	if (attention & ATTEND_CODE)
		code_pages_attend(cpu);
	if (attention & ATTEND_PAUSE)
		group_pause(cpu);
	if (attention & ATTEND_JIT) {
		cpu_attended(cpu, ATTEND_JIT);
		if (cpu->jit)
			cpu->jit->attend(cpu);
	}
	if (__atomic_load_n(&cpu->blocks->flush_wanted, __ATOMIC_SEQ_CST))
		block_cache_flush_now(cpu);
	if (cpu->exclusive_wanted) {
		run_exclusively(cpu);
		return 0;
	}
	if (cpu->attention) {
		int stop = cpu_attend_events(cpu);
		if (stop)
			return stop;
	}
	/* Single-step, a shadow, or something new: one instruction, and then another look. */
	if (unlikely(!(cpu->mode_key & MODE_STEP) && cpu->attention == ATTEND_PMU))
		run_bounded(cpu);
	else if ((cpu->mode_key & MODE_STEP) || cpu->attention)
		run_one(cpu);
	return 0;
}

/*
 * The block at RIP. `link` is where the block before keeps what a direct branch within the page leads to; NULL if it
 * ended otherwise. Nothing in between could have changed the mapping, for whatever does ends its block and is no direct
 * branch.
 */
static inline struct block *next_block(struct cpu *cpu, struct block **link, u64 start)
{
	if (!link)
		return find_block(cpu, code_linear(cpu));
	if (likely(*link && (*link)->mode_key != MODE_DROPPED))
		return *link;
	u64 rip = cpu->reg[REG_RIP];
	struct block *block = find_block(cpu, rip);
	if (block && !((rip ^ start) & PAGE_MASK))
		*link = block;
	return block;
}

static inline bool is_translated(struct cpu *cpu, struct block *block)
{
	if (!cpu->jit || (block->mode_key & (MODE_CODE64 | MODE_BOUNDS)) != MODE_CODE64)
		return false;
	if (likely(block->entry != cpu->blocks->untranslated))
		return true;
	if (block->runs < cpu->jit_hot && ++block->runs == cpu->jit_hot)
		cpu->jit->translate(cpu, block);
	return block->entry != cpu->blocks->untranslated;
}

/* Runs the block, as host code if it has any, and returns the link to the next one. */
static inline struct block **run_any(struct cpu *cpu, struct block *block, u64 start)
{
	if (is_translated(cpu, block)) {
		note_block(cpu, code_linear(cpu));
		cpu->jit_page = start & PAGE_MASK;
		cpu->jit_stamp = jump_stamp(cpu);
		cpu->blocks->running = NULL;
		cpu->jit->run(cpu, block);
		cpu->blocks->running = NULL;
		return NULL;
	}
	if (unlikely(!block->count)) {
		run_one(cpu);
		return NULL;
	}
	note_block(cpu, code_linear(cpu));
	run_block(cpu, block);
	return block->chains ? &block->next[cpu->reg[REG_RIP] != start + block->bytes] : NULL;
}

struct block *cpu_next_translated(struct cpu *cpu)
{
	u64 linear = cpu->reg[REG_RIP];

	if (unlikely(cpu->attention) || (cpu->mode_key & (MODE_STEP | MODE_CODE64)) != MODE_CODE64)
		return NULL;
	struct block *block = block_at(cpu, linear);
	if (!block || block->entry == cpu->blocks->untranslated)
		return NULL;
	cpu->jit_page = linear & PAGE_MASK;
	cpu->jit_stamp = jump_stamp(cpu);
	return block;
}

bool cpu_run_crossing(struct cpu *cpu)
{
	cpu->blocks->running = NULL;
	if (unlikely(cpu->attention))
		return false;
	begin_fetch(cpu);
	const struct insn *insn = scratch_get(cpu, cpu->reg[REG_RIP]);
	begin_fetch(cpu);
	cpu->insn = insn;
	cpu->reg[REG_RIP] += insn->length;
	cpu->alone = true;
	insn->exec(cpu, insn);
	cpu->alone = false;
	pmu_retired(&cpu->pmu, insn);
	cpu->counters.instructions++;
	cpu->counters.instructions_interpreted++;
	return true;
}

static int run_blocks(struct cpu *cpu)
{
	struct block **link = NULL;
	u64 start = 0;

	for (;;) {
		if (unlikely(cpu->counters.instructions >= cpu->pmu.stop_at))
			cpu_attend(cpu, ATTEND_PMU);
		u32 attention = __atomic_load_n(&cpu->attention, __ATOMIC_RELAXED);
		if (unlikely(attention | (cpu->mode_key & MODE_STEP))) {
			int stop = run_attentive(cpu);
			if (stop)
				return stop;
			link = NULL;
			continue;
		}
		struct block *block = next_block(cpu, link, start);
		if (unlikely(!block || !runs_whole(cpu, block))) {
			run_one(cpu);
			link = NULL;
			continue;
		}
		start = cpu->reg[REG_RIP];
		link = run_any(cpu, block, start);
	}
}

/* After a throw: counts what the interrupted block had done. The instruction that resumes is done, one that faults not.
 */
static void account_thrown(struct cpu *cpu)
{
	struct block *block = cpu->blocks->running;
	bool done = !cpu->pending.valid && !cpu->retry;
	bool in_block = block && cpu->insn >= block->insn && cpu->insn < block->insn + block->count;
	if (in_block)
		cpu->counters.instructions += (u64)(cpu->insn - block->insn) + done;
	else if (cpu->alone)
		cpu->counters.instructions += done;
	if (done && (in_block || cpu->alone))
		pmu_retired(&cpu->pmu, cpu->insn);
	cpu->blocks->running = NULL;
	cpu->alone = cpu->retry = false;
}

bool cpu_goes_on(const struct cpu *cpu)
{
	const struct block *block = cpu->blocks->running;
	return !cpu->alone && block && cpu->insn >= block->insn && cpu->insn + 1 < block->insn + block->count;
}

void cpu_retire(struct cpu *cpu)
{
	cpu->counters.instructions++;
	cpu->retry = true;
}

void cpu_run_alone(struct cpu *cpu)
{
	if (cpu->vectoring.valid || !cpu_goes_on(cpu))
		return;
	cpu_attend(cpu, ATTEND_ALONE);
	cpu_retry(cpu);
}

/* Enters the loop after cpu_run()'s setjmp returned: `thrown` if by a throw. Nothing of cpu_run() lives across it. */
static int enter_loop(struct cpu *cpu, bool thrown)
{
	int stop = 0;

	if (!thrown) {
		cpu->blocks->running = NULL;
		/* The CPU may be halted: the loop shall look first. Once only, for a second look ends shadows. */
		cpu_attend(cpu, ATTEND_INTR);
	} else {
		account_thrown(cpu);
		if (cpu->exclusive)
			group_end_exclusive(cpu);
		if (cpu->pending.valid)
			stop = cpu_take_pending(cpu);
	}
	return stop ? stop : run_blocks(cpu);
}

enum cpu_stop cpu_run(struct cpu *cpu)
{
	group_start(cpu);
	if (unlikely(cpu->pmu.active))
		pmu_changed(cpu);
	bool thrown = _setjmp(cpu->restart) != 0;
	int stop = enter_loop(cpu, thrown);
	group_stop(cpu);
	if (unlikely(cpu->pmu.active))
		pmu_changed(cpu);
	return (enum cpu_stop)(stop - 1);
}
