#include "dev/testdev.h"

#include <string.h>

/* What a Bochs-style debug port reads, so that a guest can tell it is there. */
enum { CONSOLE_PRESENT = 0xe9 };

static u64 low_bytes(u64 value, unsigned size)
{
	return size < 8 ? value & BITS(size * 8 - 1, 0) : value;
}

static u64 echo_read(void *device, u64 offset, unsigned size)
{
	struct testdev *dev = device;
	return low_bytes((u64)dev->echo >> (offset & 3) * 8, size);
}

static void echo_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct testdev *dev = device;
	unsigned shift = (offset & 3) * 8;
	u64 mask = low_bytes(~0ULL, size) << shift;
	dev->echo = (u32)((dev->echo & ~mask) | (value << shift & mask));
}

static u64 flush_read(void *device, u64 offset, unsigned size)
{
	return 0;
}

static void flush_write(void *device, u64 offset, unsigned size, u64 value)
{
}

static u64 console_read(void *device, u64 offset, unsigned size)
{
	return CONSOLE_PRESENT;
}

static void console_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct testdev *dev = device;
	if (dev->console)
		dev->console(dev->opaque, (u8)value);
}

static u64 irq_read(void *device, u64 offset, unsigned size)
{
	return 0;
}

static void set_line(struct testdev *dev, unsigned gsi, bool level)
{
	dev->raised = level ? dev->raised | 1u << gsi : dev->raised & ~(1u << gsi);
	if (dev->gsi.set)
		dev->gsi.set(dev->gsi.controller, gsi, level);
}

static void irq_write(void *device, u64 offset, unsigned size, u64 value)
{
	if (offset < TESTDEV_IRQS)
		set_line(device, (unsigned)offset, value & 1);
}

static u64 iomem_read(void *device, u64 offset, unsigned size)
{
	struct testdev *dev = device;
	u64 value = 0;

	if (offset + size <= TESTDEV_IOMEM_SIZE)
		memcpy(&value, dev->iomem + offset, size);
	return value;
}

static void iomem_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct testdev *dev = device;
	if (offset + size <= TESTDEV_IOMEM_SIZE)
		memcpy(dev->iomem + offset, &value, size);
}

void testdev_reset(struct testdev *dev)
{
	dev->echo = 0;
	memset(dev->iomem, 0, sizeof(dev->iomem));
	for (unsigned gsi = 0; gsi < TESTDEV_IRQS; gsi++)
		if (dev->raised & 1u << gsi)
			set_line(dev, gsi, false);
}

void testdev_init(struct testdev *dev, struct irq_line gsi, void (*console)(void *opaque, u8 byte), void *opaque)
{
	dev->gsi = gsi;
	dev->console = console;
	dev->opaque = opaque;
	dev->raised = 0;
	testdev_reset(dev);
}

const struct io_ops testdev_echo_ops = { .read = echo_read, .write = echo_write };
const struct io_ops testdev_flush_ops = { .read = flush_read, .write = flush_write };
const struct io_ops testdev_console_ops = { .read = console_read, .write = console_write, .byte_wide = true };
const struct io_ops testdev_irq_ops = { .read = irq_read, .write = irq_write };
const struct io_ops testdev_iomem_ops = { .read = iomem_read, .write = iomem_write };
