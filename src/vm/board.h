/*
 * The board: a PC around the CPUs, modelled on Intel's Q35 with the ICH9. board.c is the list of what is on it, where
 * it answers and how the interrupt lines run.
 *
 * If the engine has the interrupt chips in the kernel (engine_ops.has_irqchip), the board has no PIC, I/O APIC, local
 * APICs, PIT and HPET of its own, and lines go to engine_ops.irq.
 *
 * Owner: the VM, by value; not to be moved after board_init(). Threads: see bus.h; the callbacks are called with the
 * board lock held, on the thread of whoever caused them, and must not block.
 */
#ifndef STRATA_VM_BOARD_H
#define STRATA_VM_BOARD_H

#include "base/clock.h"
#include "bus/bus.h"
#include "chip/apic_bus.h"
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
#include "pci/pci.h"
#include "pci/q35.h"
#include "vm/vm.h"

/* Global system interrupts; ISA interrupts have the same numbers but for the timer, as on every PC. */
enum { GSI_TIMER = 2, GSI_COM1 = 4, GSI_RTC = 8, GSI_SCI = 9, ISA_TIMER = 0, ISA_KEYBOARD = 1 };
enum { COM1_BASE = 0x3f8 };
enum { BOARD_TSC_KHZ = 1000000 };

/* What the guest does to the machine as a whole, and its console. */
struct board_ops {
	void (*power_off)(void *opaque);
	void (*reset)(void *opaque);
	void (*suspend)(void *opaque); /* pm.asleep says until when */
	void (*debug_exit)(void *opaque, int status);
	size_t (*console_output)(void *opaque, const u8 *bytes, size_t n); /* returns how many it took */
	void (*console_room)(void *opaque);                                /* COM1 can take input again */
};

struct board {
	struct clock clock;
	struct mem mem;
	struct bus bus;

	struct apic_bus apic_bus;
	struct lapic lapic[VM_MAX_CPUS];
	struct lapic *lapics[VM_MAX_CPUS]; /* for engine_board */
	u64 lapic_page;                    /* where the bus has the local APIC's registers */
	struct ioapic ioapic;
	struct pic pic;
	struct pit pit;
	struct hpet hpet;
	struct rtc rtc;
	struct pm pm;
	struct pci_host pci;
	struct q35 q35;
	struct uart com1;
	struct i8042 i8042;
	struct sysport sysport;
	struct fw_cfg fw_cfg;
	struct debugexit debugexit;
	struct testdev testdev;

	unsigned cpus;
	const struct engine_ops *engine_ops;
	struct engine *engine; /* set by the VM once created; lines of in-kernel interrupt chips go there */
	u32 gsi_levels;        /* what the engine was last told */
	const struct board_ops *ops;
	void *opaque;
};

/* Builds and wires everything, memory included. false with *error filled, nothing left behind. */
bool board_init(struct board *board, const struct vm_config *config, const struct board_ops *ops, void *opaque,
		struct vm_error *error);
void board_destroy(struct board *board);

/* The RESET line, and then what firmware would leave behind. Memory stays. */
void board_reset(struct board *board);

/* What loses power when the machine is suspended to memory is as after RESET. */
void board_suspend(struct board *board);
/* After the engine's RESET that follows: its interrupt chips learn again which lines are up. */
void board_resume(struct board *board);

#endif
