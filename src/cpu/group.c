/*
 * The CPUs of one machine: joining, and stopping the others. Who has which code is in code_pages.c.
 */
#include "cpu/group.h"
#include "cpu/block_cache.h"
#include "cpu/event.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

static _Thread_local struct cpu *current;

static size_t pages_size(const struct cpu_group *group)
{
	return group->page_count * sizeof(struct code_owners);
}

static struct cpu_group *group_new(struct mem *mem)
{
	struct cpu_group *group = calloc(1, sizeof(*group));
	if (!group)
		return NULL;
	group->page_count = mem->size >> PAGE_SHIFT;
	void *pages = mmap(NULL, pages_size(group), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			   -1, 0);
	if (pages == MAP_FAILED) {
		free(group);
		return NULL;
	}
	group->pages = pages;
	pthread_mutex_init(&group->code_lock, NULL);
	pthread_mutex_init(&group->stop_lock, NULL);
	pthread_cond_init(&group->stop_changed, NULL);
	mem->code_opaque = group;
	mem->code_written = code_page_written;
	return group;
}

int group_join(struct cpu *cpu)
{
	struct cpu_group *group = cpu->mem->code_opaque;
	if (!group && !(group = group_new(cpu->mem)))
		return -ENOMEM;
	if (group->count == GROUP_MAX)
		return -ENOSPC;
	cpu->group = group;
	cpu->member = (u8)group->count;
	cpu->fresh_seen = group->fresh;
	group->cpu[group->count++] = cpu;
	return 0;
}

void group_leave(struct cpu *cpu)
{
	struct cpu_group *group = cpu->group;
	if (!group)
		return;
	cpu->group = NULL;
	group->cpu[cpu->member] = NULL;
	for (unsigned i = 0; i < group->count; i++)
		if (group->cpu[i])
			return;
	cpu->mem->code_written = NULL;
	cpu->mem->code_opaque = NULL;
	munmap(group->pages, pages_size(group));
	pthread_cond_destroy(&group->stop_changed);
	pthread_mutex_destroy(&group->stop_lock);
	pthread_mutex_destroy(&group->code_lock);
	free(group);
}

struct cpu *group_current(void)
{
	return current;
}

/* --- running --- */

/*
 * `running` and the attention bits are written and read crosswise: either the CPU sees the bit, or who set it sees that
 * the CPU does not run. So both are sequentially consistent. code_lock, because whoever holds it may drop blocks of a
 * CPU that does not run.
 */
static void set_running(struct cpu *cpu, bool running)
{
	pthread_mutex_lock(&cpu->group->code_lock);
	__atomic_store_n(&cpu->running, running, __ATOMIC_SEQ_CST);
	bool serialize = running && cpu->serialize;
	if (running)
		cpu->serialize = false;
	pthread_mutex_unlock(&cpu->group->code_lock);
	if (unlikely(serialize)) {
		unsigned a, b, c, d;
		__cpuid(0, a, b, c, d);
	}
}

void group_start(struct cpu *cpu)
{
	current = cpu;
	set_running(cpu, true);
}

static void tell_stop_changed(struct cpu_group *group)
{
	pthread_mutex_lock(&group->stop_lock);
	pthread_cond_broadcast(&group->stop_changed);
	pthread_mutex_unlock(&group->stop_lock);
}

void group_stop(struct cpu *cpu)
{
	set_running(cpu, false);
	if (unlikely(__atomic_load_n(&cpu->group->exclusive, __ATOMIC_SEQ_CST)))
		tell_stop_changed(cpu->group);
}

/* --- exclusively --- */

void group_ask_exclusive(struct cpu *cpu)
{
	cpu->exclusive_wanted = true;
	cpu_attend(cpu, ATTEND_PAUSE);
	cpu_retry(cpu);
}

/* Is some other CPU between group_start() and group_stop(), and not waiting here? Under stop_lock. */
static bool others_run(const struct cpu *cpu)
{
	const struct cpu_group *group = cpu->group;
	for (unsigned i = 0; i < group->count; i++) {
		const struct cpu *other = group->cpu[i];
		if (other && other != cpu && __atomic_load_n(&other->running, __ATOMIC_SEQ_CST) && !other->stopped)
			return true;
	}
	return false;
}

static void wait_for_exclusive(struct cpu *cpu)
{
	struct cpu_group *group = cpu->group;
	cpu->stopped = true;
	pthread_cond_broadcast(&group->stop_changed);
	while (group->exclusive)
		pthread_cond_wait(&group->stop_changed, &group->stop_lock);
	cpu->stopped = false;
}

void group_begin_exclusive(struct cpu *cpu)
{
	struct cpu_group *group = cpu->group;
	pthread_mutex_lock(&group->stop_lock);
	wait_for_exclusive(cpu);
	__atomic_store_n(&group->exclusive, cpu, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < group->count; i++)
		if (group->cpu[i] && group->cpu[i] != cpu)
			cpu_attend(group->cpu[i], ATTEND_PAUSE);
	while (others_run(cpu))
		pthread_cond_wait(&group->stop_changed, &group->stop_lock);
	cpu->exclusive = true;
	pthread_mutex_unlock(&group->stop_lock);
}

void group_end_exclusive(struct cpu *cpu)
{
	struct cpu_group *group = cpu->group;
	pthread_mutex_lock(&group->stop_lock);
	cpu->exclusive = false;
	__atomic_store_n(&group->exclusive, NULL, __ATOMIC_SEQ_CST);
	pthread_cond_broadcast(&group->stop_changed);
	pthread_mutex_unlock(&group->stop_lock);
}

void group_pause(struct cpu *cpu)
{
	pthread_mutex_lock(&cpu->group->stop_lock);
	cpu_attended(cpu, ATTEND_PAUSE);
	wait_for_exclusive(cpu);
	pthread_mutex_unlock(&cpu->group->stop_lock);
}
