/*
 * The ports of QEMU's pc-testdev that kvm-unit-tests use (--test-devices). The board maps:
 *	testdev_echo_ops     0xe0, 4 ports     what was written last reads back, by width
 *	testdev_flush_ops    0xe4, 4 ports     page to make absent: accepted and ignored
 *	testdev_console_ops  0xf1, 1 port      bytes for the test's console; reads 0xe9
 *	testdev_irq_ops      0x2000, 24 ports  level of global system interrupt n
 *	testdev_iomem_ops    TESTDEV_IOMEM (memory), TESTDEV_IOMEM_SIZE bytes that behave like RAM
 *
 * Owner: the board, by value. Threads: every call with the board lock held, callbacks too.
 */
#ifndef STRATA_DEV_TESTDEV_H
#define STRATA_DEV_TESTDEV_H

#include "base/types.h"
#include "bus/bus.h"

#define TESTDEV_IOMEM      0xff000000ULL
#define TESTDEV_IOMEM_SIZE 0x10000ULL
enum { TESTDEV_ECHO = 0xe0, TESTDEV_FLUSH = 0xe4, TESTDEV_CONSOLE = 0xf1, TESTDEV_IRQ = 0x2000, TESTDEV_IRQS = 24 };

struct testdev {
	u32 echo;
	u32 raised; /* lines that the guest has up, bit n is GSI n */
	u8 iomem[TESTDEV_IOMEM_SIZE];
	struct irq_line gsi;                    /* input is ignored: the device passes the GSI */
	void (*console)(void *opaque, u8 byte); /* may be NULL */
	void *opaque;
};

void testdev_init(struct testdev *dev, struct irq_line gsi, void (*console)(void *opaque, u8 byte), void *opaque);
void testdev_reset(struct testdev *dev);

extern const struct io_ops testdev_echo_ops, testdev_flush_ops, testdev_console_ops, testdev_irq_ops, testdev_iomem_ops;

#endif
