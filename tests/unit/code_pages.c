/* What several CPUs agree on about pages with code (cpu/block.h), step by step: nothing here depends on timing. */
#include "machine.h"

#include "cpu/group.h"

enum { PAGE = CODE >> PAGE_SHIFT, KEY = MODE_CODE64 };

/* A second CPU on the first one's machine. */
static struct machine *m;
static struct cpu other;

static void set_up(char *fixture, const void *unused)
{
	m = machine_new();
	memset(&other, 0, sizeof(other));
	g_assert_cmpint(cpu_init(&other, &m->mem, &m->bus, &m->config, &m->platform), ==, 0);
	memset(m->mem.host + CODE, 0x90, PAGE_SIZE - 1);
	m->mem.host[CODE + PAGE_SIZE - 1] = 0xf4;
}

static void tear_down(char *fixture, const void *unused)
{
	cpu_destroy(&other);
	machine_free(m);
}

/* What a CPU in cpu_run() does at its next boundary. */
static void look(struct cpu *cpu)
{
	if (cpu->attention & ATTEND_CODE)
		code_pages_attend(cpu);
}

static bool has_code(void)
{
	return m->mem.flags[PAGE] & PAGE_HAS_CODE;
}

static bool asked(const struct cpu *cpu)
{
	return cpu->attention & ATTEND_CODE;
}

/* Writes a byte on a thread that runs no CPU. */
static void *write_byte(void *at)
{
	u8 byte = 0x90;
	mem_write(&m->mem, (u64)(uintptr_t)at, &byte, 1);
	return NULL;
}

static void device_writes(u64 gpa)
{
	pthread_t thread;
	g_assert_cmpint(pthread_create(&thread, NULL, write_byte, (void *)(uintptr_t)gpa), ==, 0);
	pthread_join(thread, NULL);
}

static void test_fresh_page(char *fixture, const void *unused)
{
	group_start(&other);
	group_start(&m->cpu);
	look(&m->cpu);
	look(&other);
	/* The other CPU may be in the middle of a store: no block, however often one asks. */
	g_assert_null(block_get(&m->cpu, CODE, KEY));
	g_assert_null(block_get(&m->cpu, CODE, KEY));
	g_assert_true(has_code() && asked(&other));
	look(&other);
	g_assert_nonnull(block_get(&m->cpu, CODE, KEY));
	/* The second owner need not wait. */
	g_assert_nonnull(block_get(&other, CODE, KEY));
	group_stop(&m->cpu);
	group_stop(&other);
}

static void test_sleeper(char *fixture, const void *unused)
{
	group_start(&m->cpu);
	g_assert_nonnull(block_get(&m->cpu, CODE, KEY));
	g_assert_true(asked(&other)); /* when it wakes it shall look first */
	group_stop(&m->cpu);
}

/* The other CPU's write entry is gone when it has looked. */
static void test_write_entries(char *fixture, const void *unused)
{
	struct x86_state state;
	cpu_get_state(&m->cpu, &state);
	cpu_set_state(&other, &state);
	group_start(&m->cpu);
	group_start(&other);
	g_assert_cmpint(mmu_translate(&other.mmu, CODE, MMU_WRITE, MMU_SUPERVISOR).kind, ==, MMU_OK);
	const struct tlb_entry *e = &other.mmu.tlb[tlb_index(CODE)];
	g_assert_cmphex(e->write, ==, CODE | other.mmu.revision);
	block_get(&m->cpu, CODE, KEY);
	g_assert_cmphex(e->write, ==, CODE | other.mmu.revision);
	look(&other);
	g_assert_cmphex(e->write, !=, CODE | other.mmu.revision);
	g_assert_cmphex(e->read, ==, CODE | other.mmu.revision);
	/* And none comes back while there is code. */
	mmu_translate(&other.mmu, CODE, MMU_WRITE, MMU_SUPERVISOR);
	g_assert_cmphex(e->write, !=, CODE | other.mmu.revision);
	group_stop(&other);
	group_stop(&m->cpu);
}

static void test_more_fresh_pages_than_remembered(char *fixture, const void *unused)
{
	struct x86_state state;
	cpu_get_state(&m->cpu, &state);
	cpu_set_state(&other, &state);
	group_start(&m->cpu);
	group_start(&other);
	mmu_translate(&other.mmu, CODE, MMU_WRITE, MMU_SUPERVISOR);
	for (u64 page = 0; page < FRESH_PAGES + 10; page++)
		block_get(&m->cpu, CODE + (page << PAGE_SHIFT), KEY);
	look(&other);
	const struct tlb_entry *e = &other.mmu.tlb[tlb_index(CODE)];
	g_assert_cmphex(e->write, !=, CODE | other.mmu.revision);
	g_assert_nonnull(block_get(&m->cpu, CODE, KEY));
	group_stop(&other);
	group_stop(&m->cpu);
}

static struct block *settle(struct cpu *cpu, u64 at)
{
	block_get(cpu, at, KEY);
	look(&m->cpu);
	look(&other);
	return block_get(cpu, at, KEY);
}

static void test_write_reaches_both(char *fixture, const void *unused)
{
	group_start(&other);
	group_start(&m->cpu);
	struct block *mine = settle(&m->cpu, CODE), *theirs = settle(&other, CODE + 0x100);
	g_assert_true(mine && theirs);
	device_writes(CODE + 0x101);
	/* The first one's block does not reach so far. */
	look(&m->cpu);
	g_assert_cmphex(mine->mode_key, ==, KEY);
	g_assert_cmphex(theirs->mode_key, ==, KEY);
	look(&other);
	g_assert_cmphex(theirs->mode_key, ==, MODE_DROPPED);
	g_assert_true(has_code());
	device_writes(CODE);
	look(&m->cpu);
	g_assert_cmphex(mine->mode_key, ==, MODE_DROPPED);
	/* Nobody has blocks of it any more. */
	g_assert_false(has_code());
	group_stop(&m->cpu);
	group_stop(&other);
}

/* A CPU writes itself: its own block goes at once; the other's, told before and after the bytes change, when it looks.
 */
static void test_cpu_writes(char *fixture, const void *unused)
{
	group_start(&other);
	group_start(&m->cpu);
	struct block *mine = settle(&m->cpu, CODE), *theirs = settle(&other, CODE);
	g_assert_nonnull(settle(&m->cpu, CODE + 0x200)); /* keeps the page flagged */
	u8 byte = 0x90;
	g_assert_true(mem_about_to_write(&m->mem, CODE, 1));
	g_assert_cmphex(mine->mode_key, ==, MODE_DROPPED);
	look(&other);
	g_assert_cmphex(theirs->mode_key, ==, MODE_DROPPED);
	/* It is so quick that it decodes the old byte again. */
	theirs = block_get(&other, CODE, KEY);
	g_assert_nonnull(theirs);
	m->mem.host[CODE] = byte;
	mem_wrote(&m->mem, CODE, 1);
	look(&other);
	g_assert_cmphex(theirs->mode_key, ==, MODE_DROPPED);
	group_stop(&m->cpu);
	group_stop(&other);
}

static void test_write_to_sleeper(char *fixture, const void *unused)
{
	group_start(&other);
	struct block *theirs = settle(&other, CODE);
	g_assert_nonnull(theirs);
	group_stop(&other);
	device_writes(CODE);
	g_assert_cmphex(theirs->mode_key, ==, MODE_DROPPED);
	g_assert_false(has_code());
}

static void test_queue_full(char *fixture, const void *unused)
{
	group_start(&other);
	for (u64 n = 0; n < WRITE_QUEUE + 1; n++)
		m->mem.host[CODE + n * 16 + 1] = 0xf4;
	for (u64 n = 0; n < WRITE_QUEUE + 1; n++)
		g_assert_nonnull(settle(&other, CODE + n * 16));
	group_start(&m->cpu); /* this thread is that CPU now, and the other one somebody else */
	for (u64 n = 0; n < WRITE_QUEUE; n++) {
		mem_about_to_write(&m->mem, CODE + n * 16, 1);
		g_assert_false(other.blocks->flush_wanted);
	}
	mem_about_to_write(&m->mem, CODE + WRITE_QUEUE * 16, 1);
	g_assert_true(other.blocks->flush_wanted);
	block_cache_flush_now(&other);
	g_assert_false(has_code());
	group_stop(&m->cpu);
	group_stop(&other);
}

/* The write made the page plain memory: decoded anew it is fresh, and the writer not yet at a boundary. */
static void test_write_ends_code(char *fixture, const void *unused)
{
	group_start(&other);
	group_start(&m->cpu);
	g_assert_nonnull(settle(&other, CODE));
	mem_about_to_write(&m->mem, CODE, 1);
	look(&other);
	g_assert_false(has_code());
	g_assert_null(block_get(&other, CODE, KEY));
	mem_wrote(&m->mem, CODE, 1);
	look(&m->cpu);
	g_assert_nonnull(block_get(&other, CODE, KEY));
	group_stop(&m->cpu);
	group_stop(&other);
}

/* Who asked for a page and never came back does not make its writes slow for ever. */
static void test_idle_claim(char *fixture, const void *unused)
{
	group_start(&other);
	group_start(&m->cpu);
	g_assert_null(block_get(&m->cpu, CODE, KEY));
	device_writes(CODE);
	g_assert_true(has_code()); /* it may still come */
	look(&other);
	device_writes(CODE);
	g_assert_false(has_code());
	group_stop(&m->cpu);
	group_stop(&other);
}

#define ADD(name, function) g_test_add("/code-pages/" name, char, NULL, set_up, function, tear_down)

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	ADD("fresh-page-waits-for-every-running-cpu", test_fresh_page);
	ADD("nobody-waits-for-a-sleeper", test_sleeper);
	ADD("write-entries-go-when-a-cpu-looks", test_write_entries);
	ADD("too-many-fresh-pages-flush", test_more_fresh_pages_than_remembered);
	ADD("write-reaches-all-owners", test_write_reaches_both);
	ADD("owners-hear-of-a-write-twice", test_cpu_writes);
	ADD("page-without-code-is-fresh-again", test_write_ends_code);
	ADD("write-drops-a-sleepers-blocks", test_write_to_sleeper);
	ADD("full-queue-empties-the-cache", test_queue_full);
	ADD("idle-claim-is-forgotten", test_idle_claim);
	return g_test_run();
}
