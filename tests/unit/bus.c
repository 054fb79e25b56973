/* The bus: who gets an access, what happens to one that spans ranges or hits nobody. */
#include "bus/bus.h"

#include <errno.h>
#include <glib.h>
#include <string.h>

/* A device of 256 bytes that logs what it is asked. */
struct device {
	u8 bytes[256];
	unsigned reads, writes;
	u64 offset, value;
	unsigned size;
};

static u64 device_read(void *opaque, u64 offset, unsigned size)
{
	struct device *d = opaque;
	u64 value = 0;
	memcpy(&value, d->bytes + offset, size);
	d->reads++;
	d->offset = offset;
	d->size = size;
	return value;
}

static void device_write(void *opaque, u64 offset, unsigned size, u64 value)
{
	struct device *d = opaque;
	memcpy(d->bytes + offset, &value, size);
	d->writes++;
	d->offset = offset;
	d->size = size;
	d->value = value;
}

static const struct io_ops device_ops = { .read = device_read, .write = device_write };

static u64 dirty_read(void *opaque, u64 offset, unsigned size)
{
	return 0x1122334455667788;
}

static const struct io_ops dirty_ops = { .read = dirty_read, .write = device_write };

static void test_dispatch(void)
{
	struct bus bus;
	struct device a = { 0 }, b = { 0 };
	bus_init(&bus);
	g_assert_cmpint(bus_add_pio(&bus, 0x60, 1, &device_ops, &a, "a"), ==, 0);
	g_assert_cmpint(bus_add_pio(&bus, 0x64, 1, &device_ops, &b, "b"), ==, 0);
	bus_write_pio(&bus, 0x64, 1, 0xfe);
	g_assert_cmpuint(b.writes, ==, 1);
	g_assert_cmphex(b.value, ==, 0xfe);
	g_assert_cmphex(b.offset, ==, 0);
	a.bytes[0] = 0x5a;
	g_assert_cmphex(bus_read_pio(&bus, 0x60, 1), ==, 0x5a);
	g_assert_cmpuint(a.reads, ==, 1);
	g_assert_cmpuint(a.writes, ==, 0);
	bus_destroy(&bus);
}

static void test_nobody(void)
{
	struct bus bus;
	bus_init(&bus);
	g_assert_cmphex(bus_read_pio(&bus, 0x80, 1), ==, 0xff);
	g_assert_cmphex(bus_read_pio(&bus, 0x80, 2), ==, 0xffff);
	g_assert_cmphex(bus_read_pio(&bus, 0xffff, 4), ==, 0xffffffff);
	g_assert_cmphex(bus_read_mmio(&bus, 0xd0000000, 8), ==, UINT64_MAX);
	g_assert_cmphex(bus_read_mmio(&bus, UINT64_MAX, 4), ==, UINT32_MAX);
	bus_write_pio(&bus, 0xffff, 4, 1);
	bus_write_mmio(&bus, UINT64_MAX - 1, 8, 1);
	bus_destroy(&bus);
}

static void test_whole_access_is_one(void)
{
	struct bus bus;
	struct device d = { 0 };
	bus_init(&bus);
	g_assert_cmpint(bus_add_mmio(&bus, 0xfed00000, 256, &device_ops, &d, "d"), ==, 0);
	for (unsigned size = 1; size <= 8; size *= 2) {
		d.writes = 0;
		bus_write_mmio(&bus, 0xfed00010, size, 0x1122334455667788);
		g_assert_cmpuint(d.writes, ==, 1);
		g_assert_cmpuint(d.size, ==, size);
		g_assert_cmphex(d.offset, ==, 0x10);
		g_assert_cmphex(d.value, ==, 0x1122334455667788 & (UINT64_MAX >> (64 - 8 * size)));
	}
	/* Not aligned, but within the range: still one. */
	g_assert_cmphex(bus_read_mmio(&bus, 0xfed00011, 4), ==, 0x44556677);
	g_assert_cmpuint(d.reads, ==, 1);
	bus_destroy(&bus);
}

static void test_split(void)
{
	struct bus bus;
	struct device a = { 0 }, b = { 0 };
	bus_init(&bus);
	g_assert_cmpint(bus_add_pio(&bus, 0x70, 2, &device_ops, &a, "a"), ==, 0);
	g_assert_cmpint(bus_add_pio(&bus, 0x73, 1, &device_ops, &b, "b"), ==, 0);
	a.bytes[0] = 0x11;
	a.bytes[1] = 0x22;
	b.bytes[0] = 0x44;
	g_assert_cmphex(bus_read_pio(&bus, 0x70, 2), ==, 0x2211);
	g_assert_cmpuint(a.reads, ==, 1);
	/* Byte by byte; 0x72 is nobody's. */
	g_assert_cmphex(bus_read_pio(&bus, 0x70, 4), ==, 0x44ff2211);
	g_assert_cmpuint(a.reads, ==, 3);
	g_assert_cmpuint(b.reads, ==, 1);
	bus_write_pio(&bus, 0x70, 4, 0xd4c3b2a1);
	g_assert_cmpuint(a.writes, ==, 2);
	g_assert_cmphex(a.bytes[0], ==, 0xa1);
	g_assert_cmphex(a.bytes[1], ==, 0xb2);
	g_assert_cmphex(b.bytes[0], ==, 0xd4);
	/* From nobody into a range. */
	g_assert_cmphex(bus_read_pio(&bus, 0x6f, 2), ==, 0xa1ff);
	bus_destroy(&bus);
}

static void test_ports_wrap(void)
{
	struct bus bus;
	struct device a = { 0 }, z = { 0 };
	bus_init(&bus);
	g_assert_cmpint(bus_add_pio(&bus, 0, 1, &device_ops, &a, "a"), ==, 0);
	g_assert_cmpint(bus_add_pio(&bus, 0xffff, 1, &device_ops, &z, "z"), ==, 0);
	bus_write_pio(&bus, 0xffff, 2, 0x0102);
	g_assert_cmphex(z.bytes[0], ==, 2);
	g_assert_cmphex(a.bytes[0], ==, 1);
	g_assert_cmpint(bus_add_pio(&bus, 0xfff0, 0x20, &device_ops, &a, "beyond"), <, 0);
	bus_destroy(&bus);
}

static void test_high_bits_are_cut(void)
{
	struct bus bus;
	bus_init(&bus);
	g_assert_cmpint(bus_add_mmio(&bus, 0x1000, 16, &dirty_ops, NULL, "dirty"), ==, 0);
	g_assert_cmphex(bus_read_mmio(&bus, 0x1000, 1), ==, 0x88);
	g_assert_cmphex(bus_read_mmio(&bus, 0x1000, 4), ==, 0x55667788);
	bus_destroy(&bus);
}

static void test_overlap(void)
{
	struct bus bus;
	struct device d = { 0 };
	bus_init(&bus);
	g_assert_cmpint(bus_add_mmio(&bus, 0x1000, 0x1000, &device_ops, &d, "d"), ==, 0);
	g_assert_cmpint(bus_add_mmio(&bus, 0x1fff, 1, &device_ops, &d, "x"), ==, -EEXIST);
	g_assert_cmpint(bus_add_mmio(&bus, 0x0fff, 2, &device_ops, &d, "x"), ==, -EEXIST);
	g_assert_cmpint(bus_add_mmio(&bus, 0, 0x10000, &device_ops, &d, "x"), ==, -EEXIST);
	g_assert_cmpint(bus_add_mmio(&bus, 0x1000, 0x1000, &device_ops, &d, "x"), ==, -EEXIST);
	g_assert_cmpint(bus_add_mmio(&bus, 0x2000, 0x1000, &device_ops, &d, "behind"), ==, 0);
	g_assert_cmpint(bus_add_mmio(&bus, 0, 0x1000, &device_ops, &d, "before"), ==, 0);
	g_assert_cmpuint(bus.mmio_count, ==, 3);
	for (unsigned i = 1; i < bus.mmio_count; i++)
		g_assert_cmphex(bus.mmio[i - 1].base, <, bus.mmio[i].base);
	bus_destroy(&bus);
}

static void test_full(void)
{
	struct bus bus;
	struct device d = { 0 };
	bus_init(&bus);
	for (unsigned i = 0; i < BUS_MAX_RANGES; i++)
		g_assert_cmpint(bus_add_mmio(&bus, (u64)(i * 7 % BUS_MAX_RANGES) << 12, 16, &device_ops, &d, "d"), ==,
				0);
	g_assert_cmpint(bus_add_mmio(&bus, 0x10000000, 16, &device_ops, &d, "x"), ==, -ENOSPC);
	bus_destroy(&bus);
}

static void test_move(void)
{
	struct bus bus;
	struct device a = { 0 }, b = { 0 };
	bus_init(&bus);
	g_assert_cmpint(bus_add_mmio(&bus, 0x1000, 0x100, &device_ops, &a, "a"), ==, 0);
	g_assert_cmpint(bus_add_mmio(&bus, 0x3000, 0x100, &device_ops, &b, "b"), ==, 0);
	g_assert_cmpint(bus_move_mmio(&bus, &a, 0x1000, 0x5000), ==, 0);
	bus_write_mmio(&bus, 0x1000, 1, 7);
	g_assert_cmpuint(a.writes, ==, 0);
	bus_write_mmio(&bus, 0x5000, 1, 7);
	g_assert_cmpuint(a.writes, ==, 1);
	/* A move onto another range leaves all as it was. */
	g_assert_cmpint(bus_move_mmio(&bus, &a, 0x5000, 0x3080), ==, -EEXIST);
	bus_write_mmio(&bus, 0x5000, 1, 7);
	g_assert_cmpuint(a.writes, ==, 2);
	g_assert_cmpint(bus_move_mmio(&bus, &b, 0x5000, 0x6000), ==, -ENOENT);
	/* Onto its own old place. */
	g_assert_cmpint(bus_move_mmio(&bus, &a, 0x5000, 0x5080), ==, 0);
	bus_write_mmio(&bus, 0x5080, 1, 7);
	g_assert_cmpuint(a.writes, ==, 3);
	bus_destroy(&bus);
}

static void test_irq_line(void)
{
	struct irq_line unwired = { 0 };
	irq_set(&unwired, true); /* a pin nobody wired */
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/bus/each-range-gets-its-own", test_dispatch);
	g_test_add_func("/bus/nobody-reads-all-ones", test_nobody);
	g_test_add_func("/bus/access-within-a-range-is-one", test_whole_access_is_one);
	g_test_add_func("/bus/access-across-ranges-is-bytes", test_split);
	g_test_add_func("/bus/ports-wrap-at-64k", test_ports_wrap);
	g_test_add_func("/bus/high-bits-of-a-read-are-cut", test_high_bits_are_cut);
	g_test_add_func("/bus/refuses-overlap", test_overlap);
	g_test_add_func("/bus/refuses-more-than-it-holds", test_full);
	g_test_add_func("/bus/moves-mmio", test_move);
	g_test_add_func("/bus/unwired-line", test_irq_line);
	return g_test_run();
}
