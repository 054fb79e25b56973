/*
 * Every chip, on one board, under random register accesses of every size, random lines and random time. Nothing may
 * crash, hang, or leave its bounds (build with -Db_sanitize=address,undefined to see the last).
 *
 *	chips [--seed N] [--rounds N]
 */
#include "base/clock.h"
#include "bus/bus.h"
#include "chip/hpet.h"
#include "chip/ioapic.h"
#include "chip/lapic.h"
#include "chip/pic.h"
#include "chip/pit.h"
#include "chip/pm.h"
#include "chip/rtc.h"
#include "dev/debugexit.h"
#include "dev/fw_cfg.h"
#include "dev/i8042.h"
#include "dev/sysport.h"
#include "dev/testdev.h"
#include "dev/uart16550.h"
#include "mem/mem.h"
#include "pci/q35.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CPUS = 3, RAM = 1 << 20 };

struct board {
	struct clock clock;
	struct bus bus;
	struct mem mem;
	struct apic_bus apic_bus;
	struct lapic lapic[CPUS];
	unsigned current; /* the CPU that does the access */
	struct ioapic ioapic;
	struct pic pic;
	struct pit pit;
	struct rtc rtc;
	struct hpet hpet;
	struct pm pm;
	struct uart uart;
	struct i8042 kbc;
	struct sysport ports;
	struct fw_cfg fw;
	struct debugexit dx;
	struct testdev test;
	struct pci_host pci;
	struct q35 q35;
	struct pci_function fn;
	u8 fn_memory[4096];
	u64 random;
};

/* splitmix64 */
static u64 next_random(struct board *b)
{
	u64 z = b->random += 0x9e3779b97f4a7c15;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
	z = (z ^ z >> 27) * 0x94d049bb133111eb;
	return z ^ z >> 31;
}

/* Values that mean something more often than chance would have it. */
static u64 random_value(struct board *b)
{
	u64 r = next_random(b);
	switch (r & 7) {
	case 0:
		return 0;
	case 1:
		return ~0ULL;
	case 2:
		return 1ULL << (r >> 8 & 63);
	case 3:
		return r >> 56;
	case 4:
		return r >> 48;
	case 5:
		return r >> 8 & 0x1f;
	default:
		return r;
	}
}

/* --- the board --- */

static void set_gsi(void *opaque, unsigned gsi, bool level)
{
	struct board *b = opaque;
	ioapic_set_irq(&b->ioapic, gsi, level);
	pic_set_irq(&b->pic, gsi, level);
}

static struct irq_line gsi_line(struct board *b, unsigned gsi)
{
	return (struct irq_line){ set_gsi, b, gsi };
}

static void ignore(void *opaque)
{
}

static void ignore_status(void *opaque, int status)
{
	assert((status & 1) && status >= 0 && status <= 255);
}

static void ignore_byte(void *opaque, u8 byte)
{
}

static void ignore_sipi(void *opaque, u8 vector)
{
}

static void send_msi(void *opaque, u64 address, u32 data)
{
	struct board *b = opaque;
	apic_bus_msi(&b->apic_bus, address, data);
}

static size_t some_output(void *opaque, const u8 *bytes, size_t n)
{
	return next_random(opaque) % (n + 1);
}

static u64 wall(void *opaque)
{
	struct board *b = opaque;
	return 1700000000ULL * NS_PER_SEC + clock_now(&b->clock);
}

static struct lapic *current_lapic(void *opaque)
{
	struct board *b = opaque;
	return &b->lapic[b->current];
}

static void page_moved(void *opaque, struct lapic *lapic, u64 old_base, u64 new_base)
{
}

static u64 memory_read(void *device, u64 offset, unsigned size)
{
	u64 value = 0;
	memcpy(&value, (u8 *)device + offset, size);
	return value;
}

static void memory_write(void *device, u64 offset, unsigned size, u64 value)
{
	memcpy((u8 *)device + offset, &value, size);
}

static const struct io_ops memory_ops = { .read = memory_read, .write = memory_write };
static const struct lapic_cpu cpu_ops = {
	.intr_changed = ignore, .nmi = ignore, .smi = ignore, .init = ignore, .sipi = ignore_sipi
};
static const struct uart_backend uart_backend = { some_output, ignore };

static void init_interrupts(struct board *b)
{
	apic_bus_init(&b->apic_bus);
	b->apic_bus.extint_ack = pic_ack;
	b->apic_bus.extint_opaque = &b->pic;
	b->apic_bus.current = current_lapic;
	b->apic_bus.current_opaque = b;
	b->apic_bus.page_moved = page_moved;
	for (unsigned n = 0; n < CPUS; n++) {
		lapic_init(&b->lapic[n], &b->apic_bus, &b->clock, n * 9, n == 0, 2000000);
		lapic_connect_cpu(&b->lapic[n], &cpu_ops, b);
	}
	ioapic_init(&b->ioapic, &b->apic_bus);
	pic_init(&b->pic, (struct irq_line){ apic_bus_set_lint, &b->apic_bus, 0 });
}

static void init_devices(struct board *b)
{
	static const struct pm_power power = { ignore, ignore };
	hpet_init(&b->hpet, &b->clock, gsi_line(b, 0), gsi_line(b, 0), gsi_line(b, 8));
	pit_init(&b->pit, &b->clock, (struct irq_line){ hpet_legacy_input, &b->hpet, 0 });
	rtc_init(&b->rtc, &b->clock, wall, b, (struct irq_line){ hpet_legacy_input, &b->hpet, 1 });
	pm_init(&b->pm, &b->clock, false, gsi_line(b, 9), &power, b);
	uart_init(&b->uart, &b->clock, gsi_line(b, 4), &uart_backend, b);
	i8042_init(&b->kbc, gsi_line(b, 1), ignore, b);
	sysport_init(&b->ports, ignore, b);
	debugexit_init(&b->dx, ignore_status, b);
	testdev_init(&b->test, gsi_line(b, 0), ignore_byte, b);
	fw_cfg_init(&b->fw, &b->mem);
	fw_cfg_add_file(&b->fw, "etc/test", b->fn_memory, sizeof(b->fn_memory));
	pci_host_init(&b->pci, &b->bus);
	b->pci.msi = send_msi;
	b->pci.msi_opaque = b;
	b->pci.cf9_ops = &sysport_cf9_ops;
	b->pci.cf9_device = &b->ports;
	q35_init(&b->q35, &b->pci, MEM_ECAM_BASE, PM_BASE);
	pci_function_init(&b->fn, 0x1af4, 0x1041, 0x020000, 0);
	pci_add_bar(&b->fn, 0, PCI_BAR_MEM32, sizeof(b->fn_memory), false, &memory_ops, b->fn_memory, "registers");
	pci_add_msix(&b->fn, 5, 1);
	b->fn.intx = gsi_line(b, 17);
	pci_add(&b->pci, &b->fn, PCI_DEVFN(1, 0));
}

static void map_ports(struct board *b)
{
	bus_add_pio(&b->bus, 0x20, 2, &pic_ops, &b->pic.chip[0], "pic");
	bus_add_pio(&b->bus, 0xa0, 2, &pic_ops, &b->pic.chip[1], "pic2");
	bus_add_pio(&b->bus, 0x4d0, 2, &pic_elcr_ops, &b->pic, "elcr");
	bus_add_pio(&b->bus, 0x40, 4, &pit_ops, &b->pit, "pit");
	bus_add_pio(&b->bus, 0x61, 1, &pit_port61_ops, &b->pit, "port61");
	bus_add_pio(&b->bus, 0x60, 1, &i8042_data_ops, &b->kbc, "i8042");
	bus_add_pio(&b->bus, 0x64, 1, &i8042_command_ops, &b->kbc, "i8042");
	bus_add_pio(&b->bus, 0x70, RTC_PORTS, &rtc_ops, &b->rtc, "rtc");
	bus_add_pio(&b->bus, 0x80, 1, &sysport_post_ops, &b->ports, "post");
	bus_add_pio(&b->bus, 0x92, 1, &sysport_92_ops, &b->ports, "port92");
	bus_add_pio(&b->bus, PM_SMI_CMD, 2, &pm_smi_ops, &b->pm, "smi");
	bus_add_pio(&b->bus, PM_BASE, PM_SIZE, &pm_ops, &b->pm, "pm");
	bus_add_pio(&b->bus, 0x3f8, UART_PORTS, &uart_ops, &b->uart, "uart");
	bus_add_pio(&b->bus, FW_CFG_PORT, FW_CFG_PORTS, &fw_cfg_ops, &b->fw, "fw_cfg");
	bus_add_pio(&b->bus, 0xf4, DEBUGEXIT_PORTS, &debugexit_ops, &b->dx, "debugexit");
	bus_add_pio(&b->bus, TESTDEV_ECHO, 4, &testdev_echo_ops, &b->test, "echo");
	bus_add_pio(&b->bus, TESTDEV_FLUSH, 4, &testdev_flush_ops, &b->test, "flush");
	bus_add_pio(&b->bus, TESTDEV_CONSOLE, 1, &testdev_console_ops, &b->test, "console");
	bus_add_pio(&b->bus, TESTDEV_IRQ, TESTDEV_IRQS, &testdev_irq_ops, &b->test, "irq");
	bus_add_pio(&b->bus, PCI_PORT_ADDRESS, PCI_PORTS, &pci_port_ops, &b->pci, "pci");
}

static void map_memory(struct board *b)
{
	bus_add_mmio(&b->bus, LAPIC_DEFAULT_BASE, LAPIC_PAGE_SIZE, &apic_bus_page_ops, &b->apic_bus, "lapic");
	bus_add_mmio(&b->bus, IOAPIC_DEFAULT_BASE, IOAPIC_PAGE_SIZE, &ioapic_ops, &b->ioapic, "ioapic");
	bus_add_mmio(&b->bus, HPET_DEFAULT_BASE, HPET_PAGE_SIZE, &hpet_ops, &b->hpet, "hpet");
	bus_add_mmio(&b->bus, MEM_ECAM_BASE, PCI_ECAM_BUS_SIZE, &pci_ecam_ops, &b->pci, "ecam");
	bus_add_mmio(&b->bus, TESTDEV_IOMEM, TESTDEV_IOMEM_SIZE, &testdev_iomem_ops, &b->test, "iomem");
}

static void reset(struct board *b)
{
	uart_reset(&b->uart);
	i8042_reset(&b->kbc);
	sysport_reset(&b->ports);
	testdev_reset(&b->test);
	fw_cfg_reset(&b->fw);
	pci_host_reset(&b->pci);
	pm_reset(&b->pm);
	rtc_reset(&b->rtc);
	hpet_reset(&b->hpet);
	pit_reset(&b->pit);
	pic_reset(&b->pic);
	ioapic_reset(&b->ioapic);
	for (unsigned n = 0; n < CPUS; n++)
		lapic_reset(&b->lapic[n]);
}

/* --- what happens to it --- */

/* A random place of a random range; sometimes across its end. */
static u64 random_address(struct board *b, const struct io_range *ranges, unsigned count)
{
	const struct io_range *range = &ranges[next_random(b) % count];
	u64 offset = next_random(b) % range->size;
	/* Registers lie on 4 and 16 bytes; ECAM's on the functions that exist. */
	if (next_random(b) & 1)
		offset &= ~15ULL;
	else if (next_random(b) & 1)
		offset &= ~3ULL;
	if (range->base == MEM_ECAM_BASE && next_random(b) % 4)
		offset = (next_random(b) & 1 ? PCI_DEVFN(1, 0) : PCI_DEVFN(31, 0)) << 12 | (offset & 0xff);
	return range->base + offset;
}

static void access_port(struct board *b)
{
	u16 port = (u16)random_address(b, b->bus.pio, b->bus.pio_count);
	unsigned size = 1u << next_random(b) % 3;
	u64 value = random_value(b);
	if (next_random(b) & 1)
		bus_write_pio(&b->bus, port, size, (u32)value);
	else
		assert(size == 4 || bus_read_pio(&b->bus, port, size) >> 8 * size == 0);
}

static void access_memory(struct board *b)
{
	u64 gpa = random_address(b, b->bus.mmio, b->bus.mmio_count);
	unsigned size = 1u << next_random(b) % 4;
	u64 value = random_value(b);
	if (next_random(b) & 1)
		bus_write_mmio(&b->bus, gpa, size, value);
	else
		assert(size == 8 || bus_read_mmio(&b->bus, gpa, size) >> 8 * size == 0);
}

static void access_msr(struct board *b)
{
	struct lapic *lapic = &b->lapic[b->current];
	u64 r = next_random(b), value = random_value(b);
	u32 msr = r % 8 == 0 ? 0x1b : r % 8 == 1 ? 0x6e0 : 0x800 + (r >> 8) % 0x100;
	if (msr == 0x1b && (r >> 16 & 1))
		value = LAPIC_DEFAULT_BASE | (r >> 20 & 0xd00);
	if (r >> 32 & 1)
		lapic_msr_write(lapic, msr, value);
	else
		lapic_msr_read(lapic, msr, &value);
}

/* What a CPU does with interrupts; the invariants of priority hold whatever the guest wrote. */
static void take_interrupt(struct board *b)
{
	struct lapic *lapic = &b->lapic[b->current];
	bool pending = lapic_interrupt_pending(lapic);
	int mine = lapic_pending_vector(lapic);
	assert(pending || mine < 0);
	int vector = lapic_ack_interrupt(lapic);
	assert(vector >= -1 && vector <= 255);
	assert(pending || vector < 0);
	assert(vector < 0 || vector >= 16 || mine != vector);
	if (next_random(b) & 1)
		lapic_cr8_write(lapic, next_random(b) & 15);
	assert(lapic_cr8_read(lapic) <= 15);
}

static void outside_world(struct board *b)
{
	u64 r = next_random(b);
	u8 bytes[64];
	switch (r % 10) {
	case 0:
		set_gsi(b, r >> 8 & 31, r >> 16 & 1);
		break;
	case 1:
		memset(bytes, (int)(r >> 8), sizeof(bytes));
		uart_receive(&b->uart, bytes, (r >> 16) % sizeof(bytes));
		break;
	case 2:
		uart_output_ready(&b->uart);
		break;
	case 3:
		uart_receive_break(&b->uart);
		break;
	case 4:
		pm_power_button(&b->pm);
		break;
	case 5:
		pm_gpe(&b->pm, r >> 8 & 63);
		break;
	case 6:
		pci_set_intx(&b->fn, r >> 8 & 1);
		break;
	case 7:
		pci_msix_notify(&b->fn, r >> 8 & 7);
		break;
	case 8:
		apic_bus_msi(&b->apic_bus, 0xfee00000 | (r >> 8 & 0xfffff), (u32)(r >> 32));
		break;
	default:
		apic_bus_set_lint(&b->apic_bus, 1, r >> 8 & 1);
		break;
	}
}

/* Mostly a little; now and then longer. At most 100 wakes a millisecond can come of it. */
static void pass_time(struct board *b)
{
	u64 r = next_random(b);
	u64 ns = r % 100 ? (r >> 8) % 20000 : (r >> 8) % 20000000;
	bus_lock(&b->bus);
	clock_advance_to(&b->clock, clock_now(&b->clock) + ns);
	bus_unlock(&b->bus);
}

static void step(struct board *b)
{
	u64 r = next_random(b) % 1000;
	b->current = next_random(b) % CPUS;
	if (r < 350) {
		access_port(b);
	} else if (r < 650) {
		access_memory(b);
	} else if (r < 750) {
		access_msr(b);
	} else if (r < 850) {
		pass_time(b);
	} else if (r < 999) {
		bus_lock(&b->bus);
		if (r < 930)
			take_interrupt(b);
		else
			outside_world(b);
		bus_unlock(&b->bus);
	} else {
		reset(b);
	}
}

int main(int argc, char **argv)
{
	u64 seed = (u64)time(NULL), rounds = 3000000;
	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--seed"))
			seed = strtoull(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--rounds"))
			rounds = strtoull(argv[i + 1], NULL, 0);
	}
	printf("seed %llu, %llu rounds\n", (unsigned long long)seed, (unsigned long long)rounds);
	fflush(stdout);

	struct board *b = calloc(1, sizeof(*b));
	if (!b || mem_init(&b->mem, RAM))
		return 77; /* skipped: the host has no memory for it */
	b->random = seed;
	clock_init_manual(&b->clock);
	bus_init(&b->bus);
	init_interrupts(b);
	init_devices(b);
	map_ports(b);
	map_memory(b);
	for (u64 i = 0; i < rounds; i++)
		step(b);
	mem_destroy(&b->mem);
	bus_destroy(&b->bus);
	free(b);
	return 0;
}
