#include "vm/board.h"

#include "base/trace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* --- interrupt lines --- */

/* Devices drive their lines more often than they change them, and telling costs a system call. */
static void tell_engine(struct board *board, unsigned gsi, bool level)
{
	u32 bit = (u32)BIT(gsi % 32);
	if (!board->engine || !(board->gsi_levels & bit) == !level)
		return;
	board->gsi_levels ^= bit;
	board->engine_ops->irq(board->engine, gsi, level);
}

/* An I/O APIC pin, and the PIC's input of the same number. */
static void set_gsi(void *opaque, unsigned gsi, bool level)
{
	struct board *board = opaque;
	if (board->engine_ops->has_irqchip) {
		tell_engine(board, gsi, level);
		return;
	}
	ioapic_set_irq(&board->ioapic, gsi, level);
	if (gsi < 16)
		pic_set_irq(&board->pic, gsi == GSI_TIMER ? ISA_TIMER : gsi, level);
}

/* An ISA interrupt: the timer's goes to pin 2 of the I/O APIC (the MADT says so too), all others to their own. */
static void set_isa(void *opaque, unsigned irq, bool level)
{
	set_gsi(opaque, irq == ISA_TIMER ? GSI_TIMER : irq, level);
}

/* --- callbacks --- */

static void on_power_off(void *opaque)
{
	struct board *board = opaque;
	board->ops->power_off(board->opaque);
}

static void on_reset(void *opaque)
{
	struct board *board = opaque;
	board->ops->reset(board->opaque);
}

static void on_suspend(void *opaque)
{
	struct board *board = opaque;
	board->ops->suspend(board->opaque);
}

/* The RTC's interrupt goes where the HPET lets it; its alarm can wake the machine, too. */
static void on_rtc(void *opaque, unsigned input, bool level)
{
	struct board *board = opaque;
	hpet_legacy_input(&board->hpet, 1, level);
	pm_rtc(&board->pm, level);
}

static void on_debug_exit(void *opaque, int status)
{
	struct board *board = opaque;
	board->ops->debug_exit(board->opaque, status);
}

static size_t on_console_output(void *opaque, const u8 *bytes, size_t n)
{
	struct board *board = opaque;
	return board->ops->console_output(board->opaque, bytes, n);
}

static void on_console_room(void *opaque)
{
	struct board *board = opaque;
	board->ops->console_room(board->opaque);
}

static void on_test_console(void *opaque, u8 byte)
{
	on_console_output(opaque, &byte, 1);
}

static void on_msi(void *opaque, u64 address, u32 data)
{
	struct board *board = opaque;
	apic_bus_msi(&board->apic_bus, address, data);
}

static u64 wall_clock(void *opaque)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (u64)now.tv_sec * NS_PER_SEC + (u64)now.tv_nsec;
}

/*
 * The boot CPU's IA32_APIC_BASE decides where the bus has the register page. The page stays when that CPU switches its
 * own off, or to x2APIC mode: others may still use theirs.
 */
static void on_lapic_page_moved(void *opaque, struct lapic *lapic, u64 old_base, u64 new_base)
{
	struct board *board = opaque;
	if (new_base == 0 || new_base == board->lapic_page)
		return;
	if (lapic != &board->lapic[0])
		REPORT("CPU %u has its local APIC at %#llx, not where CPU 0 has it; it answers there only", lapic->id,
		       (unsigned long long)new_base);
	else if (!bus_move_mmio(&board->bus, &board->apic_bus, board->lapic_page, new_base))
		board->lapic_page = new_base;
}

/* --- the chips and their interrupt lines --- */

static int init_interrupt_chips(struct board *board)
{
	apic_bus_init(&board->apic_bus);
	board->apic_bus.extint_ack = pic_ack;
	board->apic_bus.extint_opaque = &board->pic;
	board->apic_bus.page_moved = on_lapic_page_moved;
	board->apic_bus.page_moved_opaque = board;
	board->lapic_page = LAPIC_DEFAULT_BASE;
	for (unsigned i = 0; i < board->cpus; i++) {
		int err = lapic_init(&board->lapic[i], &board->apic_bus, &board->clock, i, i == 0, BOARD_TSC_KHZ);
		if (err)
			return err;
		board->lapics[i] = &board->lapic[i];
	}
	pic_init(&board->pic, (struct irq_line){ apic_bus_set_lint, &board->apic_bus, 0 });
	pit_init(&board->pit, &board->clock, (struct irq_line){ hpet_legacy_input, &board->hpet, 0 });
	return ioapic_init(&board->ioapic, &board->apic_bus);
}

static int init_chips(struct board *board)
{
	struct clock *clock = &board->clock;
	struct irq_line gsi = { set_gsi, board, 0 };
	struct irq_line timer = { set_isa, board, ISA_TIMER }, keyboard = { set_isa, board, ISA_KEYBOARD };
	struct irq_line com1 = { set_gsi, board, GSI_COM1 }, rtc = { set_gsi, board, GSI_RTC };
	struct irq_line sci = { set_gsi, board, GSI_SCI };
	static const struct pm_power power = { on_power_off, on_suspend };
	static const struct uart_backend console = { on_console_output, on_console_room };

	hpet_init(&board->hpet, clock, gsi, timer, rtc);
	pm_init(&board->pm, clock, true, sci, &power, board);
	rtc_init(&board->rtc, clock, wall_clock, NULL, (struct irq_line){ on_rtc, board, 0 });
	uart_init(&board->com1, clock, com1, &console, board);
	i8042_init(&board->i8042, keyboard, on_reset, board);
	sysport_init(&board->sysport, on_reset, board);
	debugexit_init(&board->debugexit, on_debug_exit, board);
	testdev_init(&board->testdev, gsi, on_test_console, board);

	pci_host_init(&board->pci, &board->bus);
	board->pci.msi = on_msi;
	board->pci.msi_opaque = board;
	board->pci.cf9_ops = &sysport_cf9_ops;
	board->pci.cf9_device = &board->sysport;
	return q35_init(&board->q35, &board->pci, MEM_ECAM_BASE, PM_BASE);
}

static void describe_machine(struct board *board)
{
	const struct mem *mem = &board->mem;
	rtc_set_memory(&board->rtc, mem->low_size, mem->size - mem->low_size, board->cpus);
	fw_cfg_init(&board->fw_cfg, &board->mem);
	fw_cfg_add_u64(&board->fw_cfg, FW_CFG_RAM_SIZE, mem->size);
	fw_cfg_add_u16(&board->fw_cfg, FW_CFG_NOGRAPHIC, 1);
	fw_cfg_add_u16(&board->fw_cfg, FW_CFG_NB_CPUS, (u16)board->cpus);
	fw_cfg_add_u16(&board->fw_cfg, FW_CFG_MAX_CPUS, (u16)board->cpus);
}

/* --- where everything answers --- */

typedef int add_range(struct bus *bus, const struct io_range *range);

static int add_ports(struct bus *bus, const struct io_range *r)
{
	return bus_add_pio(bus, (u16)r->base, (u16)r->size, r->ops, r->device, r->name);
}

static int add_memory(struct bus *bus, const struct io_range *r)
{
	return bus_add_mmio(bus, r->base, r->size, r->ops, r->device, r->name);
}

static int add_all(struct board *board, add_range *add, const struct io_range *ranges, unsigned count)
{
	int err = 0;
	for (unsigned i = 0; i < count && !err; i++)
		err = add(&board->bus, &ranges[i]);
	return err;
}

/*
 * What the kernel has instead when it has the interrupt chips; and the HPET, which it has not. A guest has better
 * clocks there, and every access to an HPET would leave the kernel. Without one Linux waits for the local APIC's ticks;
 * with one it takes the HPET's through the PIC before those, and at L4 each takes longer than the time to the next.
 */
static int map_interrupt_chips(struct board *b)
{
	const struct io_range ports[] = {
		{ "pic", 0x20, 2, &pic_ops, &b->pic.chip[0] },   { "pit", 0x40, 4, &pit_ops, &b->pit },
		{ "port61", 0x61, 1, &pit_port61_ops, &b->pit }, { "pic2", 0xa0, 2, &pic_ops, &b->pic.chip[1] },
		{ "elcr", 0x4d0, 2, &pic_elcr_ops, &b->pic },
	};
	const struct io_range memory[] = {
		{ "ioapic", IOAPIC_DEFAULT_BASE, IOAPIC_PAGE_SIZE, &ioapic_ops, &b->ioapic },
		{ "hpet", HPET_DEFAULT_BASE, HPET_PAGE_SIZE, &hpet_ops, &b->hpet },
		{ "lapic", LAPIC_DEFAULT_BASE, LAPIC_PAGE_SIZE, &apic_bus_page_ops, &b->apic_bus },
	};
	int err = add_all(b, add_ports, ports, ARRAY_SIZE(ports));
	return err ? err : add_all(b, add_memory, memory, ARRAY_SIZE(memory));
}

static int map_chips(struct board *b)
{
	const struct io_range ports[] = {
		{ "i8042", 0x60, 1, &i8042_data_ops, &b->i8042 },
		{ "i8042-command", 0x64, 1, &i8042_command_ops, &b->i8042 },
		{ "rtc", 0x70, RTC_PORTS, &rtc_ops, &b->rtc },
		{ "post", 0x80, 1, &sysport_post_ops, &b->sysport },
		{ "port92", 0x92, 1, &sysport_92_ops, &b->sysport },
		{ "smi", PM_SMI_CMD, 2, &pm_smi_ops, &b->pm },
		{ "com1", COM1_BASE, UART_PORTS, &uart_ops, &b->com1 },
		{ "fw_cfg", FW_CFG_PORT, FW_CFG_PORTS, &fw_cfg_ops, &b->fw_cfg },
		{ "pm", PM_BASE, PM_SIZE, &pm_ops, &b->pm },
		{ "pci", PCI_PORT_ADDRESS, PCI_PORTS, &pci_port_ops, &b->pci },
	};
	const struct io_range ecam = { "ecam", MEM_ECAM_BASE, MEM_ECAM_SIZE, &pci_ecam_ops, &b->pci };
	int err = add_all(b, add_ports, ports, ARRAY_SIZE(ports));
	return err ? err : add_memory(&b->bus, &ecam);
}

static int map_test_devices(struct board *b)
{
	const struct io_range ports[] = {
		{ "test-echo", TESTDEV_ECHO, 4, &testdev_echo_ops, &b->testdev },
		{ "test-flush", TESTDEV_FLUSH, 4, &testdev_flush_ops, &b->testdev },
		{ "test-console", TESTDEV_CONSOLE, 1, &testdev_console_ops, &b->testdev },
		{ "test-irq", TESTDEV_IRQ, TESTDEV_IRQS, &testdev_irq_ops, &b->testdev },
	};
	const struct io_range memory = { "test-memory", TESTDEV_IOMEM, TESTDEV_IOMEM_SIZE, &testdev_iomem_ops,
					 &b->testdev };
	int err = add_all(b, add_ports, ports, ARRAY_SIZE(ports));
	return err ? err : add_memory(&b->bus, &memory);
}

static int map_everything(struct board *board, const struct vm_config *config)
{
	int err = map_chips(board);
	if (!err && !config->engine->has_irqchip)
		err = map_interrupt_chips(board);
	if (!err && config->test_devices)
		err = map_test_devices(board);
	return err;
}

static bool map_debug_exit(struct board *board, int port, struct vm_error *error)
{
	const struct io_range range = { "debug-exit", (u64)port, DEBUGEXIT_PORTS, &debugexit_ops, &board->debugexit };
	if (port < 0)
		return true;
	if (port <= 0xffff - DEBUGEXIT_PORTS + 1 && add_ports(&board->bus, &range) == 0)
		return true;
	error->status = VM_STATUS_BAD_INPUT;
	snprintf(error->text, sizeof error->text,
		 "the debug-exit port 0x%x (and the three behind it) must be free and below 0x10000, as 0xf4 is", port);
	return false;
}

/* --- life cycle --- */

bool board_init(struct board *board, const struct vm_config *config, const struct board_ops *ops, void *opaque,
		struct vm_error *error)
{
	memset(board, 0, sizeof *board);
	board->cpus = config->cpus;
	board->engine_ops = config->engine;
	board->ops = ops;
	board->opaque = opaque;
	clock_init_monotonic(&board->clock, config->host_tsc);
	int err = mem_init(&board->mem, config->memory);
	if (err) {
		error->status = VM_STATUS_NO_HOST;
		snprintf(error->text, sizeof error->text, "the host has no %llu MiB of memory for the guest: %s",
			 (unsigned long long)(config->memory >> 20), strerror(-err));
		return false;
	}
	bus_init(&board->bus);
	err = init_interrupt_chips(board);
	if (!err)
		err = init_chips(board);
	if (!err)
		err = map_everything(board, config);
	if (err) {
		error->status = VM_STATUS_FAILED;
		snprintf(error->text, sizeof error->text, "cannot build the board: %s", strerror(-err));
	} else if (map_debug_exit(board, config->debug_exit_port, error)) {
		describe_machine(board);
		return true;
	}
	board_destroy(board);
	return false;
}

void board_destroy(struct board *board)
{
	bus_destroy(&board->bus);
	mem_destroy(&board->mem);
}

void board_suspend(struct board *board)
{
	/* Outputs first, then what they run into, so that no line stays up behind a reset controller. */
	uart_reset(&board->com1);
	i8042_reset(&board->i8042);
	sysport_reset(&board->sysport);
	testdev_reset(&board->testdev);
	fw_cfg_reset(&board->fw_cfg);
	pci_host_reset(&board->pci);
	hpet_reset(&board->hpet);
	if (board->engine_ops->has_irqchip)
		return;
	pit_reset(&board->pit);
	pic_reset(&board->pic);
	ioapic_reset(&board->ioapic);
	for (unsigned i = 0; i < board->cpus; i++)
		lapic_reset(&board->lapic[i]);
	lapic_virtual_wire(&board->lapic[0]);
}

void board_resume(struct board *board)
{
	for (unsigned gsi = 0; gsi < 32; gsi++)
		if (board->gsi_levels >> gsi & 1)
			board->engine_ops->irq(board->engine, gsi, true);
}

void board_reset(struct board *board)
{
	pm_reset(&board->pm);
	rtc_reset(&board->rtc);
	board_suspend(board);
}
