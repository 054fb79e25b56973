/* Guest RAM: its bounds, the hole, atomic accesses, and who hears of writes to code. */
#include "mem/mem.h"

#include <glib.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>

static void test_layout(void)
{
	struct mem mem;
	g_assert_cmpint(mem_init(&mem, MEM_LOW_LIMIT + (16 << 20)), ==, 0);
	g_assert_cmphex(mem.low_size, ==, MEM_LOW_LIMIT);
	g_assert_cmphex(mem_ram_offset(&mem, 0), ==, 0);
	g_assert_cmphex(mem_ram_offset(&mem, MEM_LOW_LIMIT - 1), ==, MEM_LOW_LIMIT - 1);
	g_assert_cmphex(mem_ram_offset(&mem, MEM_LOW_LIMIT), ==, RAM_OFFSET_NONE);
	g_assert_cmphex(mem_ram_offset(&mem, MEM_HIGH_BASE - 1), ==, RAM_OFFSET_NONE);
	g_assert_cmphex(mem_ram_offset(&mem, MEM_HIGH_BASE), ==, MEM_LOW_LIMIT);
	g_assert_cmphex(mem_ram_offset(&mem, MEM_HIGH_BASE + (16 << 20) - 1), ==, mem.size - 1);
	g_assert_cmphex(mem_ram_offset(&mem, MEM_HIGH_BASE + (16 << 20)), ==, RAM_OFFSET_NONE);
	g_assert_cmphex(mem_ram_offset(&mem, UINT64_MAX), ==, RAM_OFFSET_NONE);
	for (u64 offset = 0; offset < mem.size; offset += 8 << 20)
		g_assert_cmphex(mem_ram_offset(&mem, mem_gpa(&mem, offset)), ==, offset);
	mem_destroy(&mem);
}

static void test_bad_sizes(void)
{
	struct mem mem;
	g_assert_cmpint(mem_init(&mem, 0), <, 0);
	g_assert_cmpint(mem_init(&mem, 4097), <, 0);
	g_assert_cmpint(mem_init(&mem, BIT(52)), <, 0);
}

static void test_bounds(void)
{
	struct mem mem;
	u8 buffer[32];
	memset(buffer, 0xaa, sizeof buffer);
	g_assert_cmpint(mem_init(&mem, MEM_LOW_LIMIT + (2 << 20)), ==, 0);
	g_assert_true(mem_write(&mem, MEM_LOW_LIMIT - 32, buffer, 32));
	g_assert_false(mem_write(&mem, MEM_LOW_LIMIT - 31, buffer, 32));
	g_assert_null(mem_host(&mem, MEM_LOW_LIMIT - 1, 2)); /* contiguous here, not in the guest */
	g_assert_false(mem_read(&mem, MEM_HIGH_BASE - 1, buffer, 2));
	u64 end = MEM_HIGH_BASE + (2 << 20);
	g_assert_true(mem_read(&mem, end - 32, buffer, 32));
	g_assert_false(mem_read(&mem, end - 31, buffer, 32));
	g_assert_null(mem_host(&mem, 0, UINT64_MAX));
	g_assert_null(mem_host(&mem, 4096, UINT64_MAX - 4000));
	mem_destroy(&mem);
}

static void test_refused_write_copies_nothing(void)
{
	struct mem mem;
	u8 ones[8] = { 1, 1, 1, 1, 1, 1, 1, 1 }, back[4];
	g_assert_cmpint(mem_init(&mem, 1 << 20), ==, 0);
	g_assert_false(mem_write(&mem, (1 << 20) - 4, ones, 8));
	g_assert_true(mem_read(&mem, (1 << 20) - 4, back, 4));
	g_assert_cmpuint(back[0] | back[1] | back[2] | back[3], ==, 0);
	mem_destroy(&mem);
}

static void test_words(void)
{
	struct mem mem;
	g_assert_cmpint(mem_init(&mem, 1 << 20), ==, 0);
	mem_write_u64(&mem, 0x1000, 0x1122334455667788);
	g_assert_cmphex(mem_read_u64(&mem, 0x1000), ==, 0x1122334455667788);
	g_assert_cmphex(mem_read_u32(&mem, 0x1004), ==, 0x11223344);
	mem_write_u32(&mem, 0x1000, 0xdeadbeef);
	g_assert_cmphex(mem_read_u64(&mem, 0x1000), ==, 0x11223344deadbeef);
	g_assert_cmphex(mem_read_u64(&mem, 1 << 20), ==, UINT64_MAX);
	g_assert_cmphex(mem_read_u32(&mem, 0xfee00000), ==, UINT32_MAX);
	mem_write_u64(&mem, 1 << 20, 0);
	mem_write_u32(&mem, UINT64_MAX - 3, 0);
	mem_destroy(&mem);
}

static struct {
	unsigned calls;
	u64 offset, size;
} told;

static void on_code_written(void *opaque, u64 ram_offset, u64 size)
{
	g_assert_true(opaque == &told);
	told.calls++;
	told.offset = ram_offset;
	told.size = size;
}

static void test_code_written(void)
{
	struct mem mem;
	g_assert_cmpint(mem_init(&mem, 1 << 20), ==, 0);
	mem.code_written = on_code_written;
	mem.code_opaque = &told;
	mem.flags[2] = PAGE_HAS_CODE;
	u8 page[3 * PAGE_SIZE] = { 0 };

	memset(&told, 0, sizeof told);
	mem_write(&mem, 0x1000, page, PAGE_SIZE);
	mem_write_u64(&mem, 0x3000, 1);
	g_assert_cmpuint(told.calls, ==, 0);

	mem_write_u32(&mem, 0x2ffc, 1);
	g_assert_cmpuint(told.calls, ==, 2); /* before and after */
	g_assert_cmphex(told.offset, ==, 0x2ffc);
	g_assert_cmpuint(told.size, ==, 4);

	/* Of a long write just the page that holds code: before it, and after it for who decoded meanwhile. */
	mem_write(&mem, 0x1800, page, 3 * PAGE_SIZE);
	g_assert_cmpuint(told.calls, ==, 4);
	g_assert_cmphex(told.offset, ==, 0x2000);
	g_assert_cmpuint(told.size, ==, PAGE_SIZE);

	g_assert_true(mem_about_to_write(&mem, 0x1fff, 2));
	g_assert_cmpuint(told.calls, ==, 5);
	g_assert_false(mem_about_to_write(&mem, 0x1ff0, 2));
	g_assert_cmpuint(told.calls, ==, 5);
	mem_destroy(&mem);
}

static sigjmp_buf trap;

static void on_segv(int signal)
{
	siglongjmp(trap, 1);
}

static bool can_read(const u8 *p)
{
	if (sigsetjmp(trap, 1))
		return false;
	(void)*(const volatile u8 *)p;
	return true;
}

static void test_guards(void)
{
	struct mem mem;
	struct sigaction old, catch = { .sa_handler = on_segv };
	g_assert_cmpint(mem_init(&mem, 4 << 20), ==, 0);
	sigaction(SIGSEGV, &catch, &old);
	g_assert_true(can_read(mem.host));
	g_assert_true(can_read(mem.host + mem.size - 1));
	g_assert_false(can_read(mem.host - 1));
	g_assert_false(can_read(mem.host - (1 << 20)));
	g_assert_false(can_read(mem.host + mem.size));
	g_assert_false(can_read(mem.host + mem.size + (1 << 20)));
	sigaction(SIGSEGV, &old, NULL);
	mem_destroy(&mem);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/mem/hole-below-4-gib", test_layout);
	g_test_add_func("/mem/refuses-bad-sizes", test_bad_sizes);
	g_test_add_func("/mem/bounds", test_bounds);
	g_test_add_func("/mem/refused-write-copies-nothing", test_refused_write_copies_nothing);
	g_test_add_func("/mem/words", test_words);
	g_test_add_func("/mem/tells-of-writes-to-code", test_code_written);
	g_test_add_func("/mem/guards-on-both-sides", test_guards);
	return g_test_run();
}
