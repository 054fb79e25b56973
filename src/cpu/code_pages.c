/*
 * Pages with code, among several CPUs: who holds blocks of which page, and how everybody learns of writes. The protocol
 * is in block.h.
 */
#include "cpu/block_cache.h"
#include "cpu/group.h"

static void clear_code_flag(struct mem *mem, u64 page)
{
	__atomic_fetch_and(&mem->flags[page], (u8)~PAGE_HAS_CODE, __ATOMIC_SEQ_CST);
}

/* --- letting go of pages that others got code from --- */

/* Drops this CPU's write entries for all pages that became fresh since it last looked. Between instructions. */
static void catch_up(struct cpu *cpu)
{
	struct cpu_group *group = cpu->group;
	u64 fresh = __atomic_load_n(&group->fresh, __ATOMIC_SEQ_CST);
	u64 seen = cpu->fresh_seen;
	if (fresh == seen)
		return;
	for (u64 n = seen; n < fresh && fresh - seen <= FRESH_PAGES; n++)
		mmu_protect_code(&cpu->mmu, group->fresh_page[n % FRESH_PAGES] << PAGE_SHIFT);
	if (fresh - seen > FRESH_PAGES)
		mmu_flush_all(&cpu->mmu);
	__atomic_store_n(&cpu->fresh_seen, fresh, __ATOMIC_SEQ_CST);
}

/* Has every CPU let go of a page that became fresh as number `since`, or will before it runs again? */
static bool is_settled(const struct cpu_group *group, u64 since)
{
	for (unsigned i = 0; since && i < group->count; i++) {
		const struct cpu *cpu = group->cpu[i];
		if (cpu && __atomic_load_n(&cpu->running, __ATOMIC_SEQ_CST) &&
		    __atomic_load_n(&cpu->fresh_seen, __ATOMIC_SEQ_CST) < since)
			return false;
	}
	return true;
}

static bool code_page_settled(const struct cpu_group *group, struct code_owners *owners)
{
	if (likely(!owners->since))
		return true;
	if (!is_settled(group, owners->since))
		return false;
	owners->since = 0;
	return true;
}

static void make_fresh(struct cpu *cpu, u64 page)
{
	struct cpu_group *group = cpu->group;
	__atomic_fetch_or(&cpu->mem->flags[page], PAGE_HAS_CODE, __ATOMIC_SEQ_CST);
	group->fresh_page[group->fresh % FRESH_PAGES] = page;
	group->pages[page].since = group->fresh + 1;
	__atomic_store_n(&group->fresh, group->fresh + 1, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < group->count; i++)
		if (group->cpu[i] && group->cpu[i] != cpu)
			cpu_attend(group->cpu[i], ATTEND_CODE);
}

/* --- owners --- */

void code_pages_lock(struct cpu *cpu)
{
	pthread_mutex_lock(&cpu->group->code_lock);
}

void code_pages_unlock(struct cpu *cpu)
{
	pthread_mutex_unlock(&cpu->group->code_lock);
}

bool code_page_claim(struct cpu *cpu, u64 page)
{
	struct cpu_group *group = cpu->group;
	struct code_owners *owners = &group->pages[page];
	if (!owners->cpus)
		make_fresh(cpu, page);
	owners->cpus |= BIT(cpu->member);
	catch_up(cpu);
	return code_page_settled(group, owners);
}

void code_page_release(struct cpu *cpu, u64 page)
{
	struct code_owners *owners = &cpu->group->pages[page];
	owners->cpus &= ~BIT(cpu->member);
	if (!owners->cpus)
		clear_code_flag(cpu->mem, page);
}

/* --- writes --- */

/* For another running CPU's cache: it drops the blocks itself. */
static void queue_write(struct cpu *cpu, u64 ram_offset, u64 size)
{
	struct block_cache *cache = cpu->blocks;
	if (cache->writes == WRITE_QUEUE) {
		__atomic_store_n(&cache->flush_wanted, true, __ATOMIC_SEQ_CST);
	} else {
		struct code_write *last = cache->writes ? &cache->write[cache->writes - 1] : NULL;
		if (last && last->ram_offset <= ram_offset && ram_offset + size <= last->ram_offset + last->size)
			; /* told before, and not yet looked at */
		else
			cache->write[cache->writes++] = (struct code_write){ ram_offset, (u32)size };
	}
	cpu_attend(cpu, ATTEND_CODE);
}

/* [ram_offset, +size) within one page. */
static void tell_owners(struct cpu_group *group, u64 ram_offset, u64 size)
{
	u64 page = ram_offset >> PAGE_SHIFT, start = ram_offset & (PAGE_SIZE - 1);
	struct code_owners *owners = &group->pages[page];
	for (u64 left = owners->cpus; left; left &= left - 1) {
		struct cpu *cpu = group->cpu[__builtin_ctzll(left)];
		const struct code_page *code = &cpu->blocks->pages[page];
		if (!code->blocks) {
			/* It wanted to decode, and did not come back. */
			if (code_page_settled(group, owners))
				code_page_release(cpu, page);
		} else if (cpu == group_current() || !cpu->running) {
			cpu->serialize |= cpu != group_current();
			block_cache_written(cpu, page, start, start + size);
		} else if (code->lines & lines_of(start, start + size)) {
			queue_write(cpu, ram_offset, size);
		}
	}
}

void code_page_written(void *opaque, u64 ram_offset, u64 size)
{
	struct cpu_group *group = opaque;
	pthread_mutex_lock(&group->code_lock);
	while (size) {
		u64 chunk = PAGE_SIZE - ram_offset % PAGE_SIZE;
		if (chunk > size)
			chunk = size;
		tell_owners(group, ram_offset, chunk);
		ram_offset += chunk;
		size -= chunk;
	}
	pthread_mutex_unlock(&group->code_lock);
}

void code_pages_attend(struct cpu *cpu)
{
	struct block_cache *cache = cpu->blocks;
	cpu_attended(cpu, ATTEND_CODE);
	code_pages_lock(cpu);
	for (unsigned i = 0; i < cache->writes; i++) {
		const struct code_write *w = &cache->write[i];
		u64 start = w->ram_offset & (PAGE_SIZE - 1);
		block_cache_written(cpu, w->ram_offset >> PAGE_SHIFT, start, start + w->size);
	}
	cache->writes = 0;
	catch_up(cpu);
	code_pages_unlock(cpu);
}
