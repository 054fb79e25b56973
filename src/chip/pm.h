/*
 * ACPI fixed hardware as the ICH9 places it: PM1a event and control block, power-management timer, GPE0 block, SMI
 * control, and the SMI command port (ACPI 6, chapter 4.8; ICH9 data sheet 13.8).
 *
 *	PM_BASE + 0x00  PM1_STS, PM1_EN (16 bits each)     + 0x08  PM_TMR (32 bits)        + 0x30  SMI_EN
 *	        + 0x04  PM1_CNT (32 bits)                  + 0x20  GPE0_STS, GPE0_EN (64)  + 0x34  SMI_STS
 *
 * There is no system-management mode behind it: writes to the command port do at once what firmware would (ACPI on,
 *off). Sleep type 5 with SLP_EN means power-off; the DSDT's \_S5 must say PM_SLEEP_S5.
 *
 * Life: pm_init(), pm_reset() at RESET. The board maps pm_ops at PM_BASE (PM_SIZE ports) and pm_smi_ops at PM_SMI_CMD
 *(2). Line out: sci (level).
 *
 * Owner: the board, by value. Threads: every call with the board lock held; power_off is called with it.
 */
#ifndef STRATA_CHIP_PM_H
#define STRATA_CHIP_PM_H

#include "base/clock.h"
#include "base/types.h"
#include "bus/bus.h"

enum {
	PM_BASE = 0x600,
	PM_SIZE = 0x80,
	PM_PM1_EVT = PM_BASE + 0x00, /* 4 bytes */
	PM_PM1_CNT = PM_BASE + 0x04, /* 2 bytes */
	PM_TIMER = PM_BASE + 0x08,   /* 4 bytes */
	PM_GPE0 = PM_BASE + 0x20,    /* 16 bytes */
	PM_SMI_CMD = 0xb2,           /* 2 ports: command, status */
	PM_ACPI_ENABLE = 0x02,       /* commands */
	PM_ACPI_DISABLE = 0x03,
	PM_SLEEP_S5 = 0 /* SLP_TYP of S5 */
};
#define PM_TIMER_HZ 3579545ULL

struct pm {
	u16 pm1_status, pm1_enable, pm1_control;
	u64 gpe_status, gpe_enable;
	u32 smi_enable, smi_status;
	u8 apm_command, apm_status;
	bool timer_32bit;      /* FADT's TMR_VAL_EXT says the same */
	u64 timer_seen;        /* PM timer value up to which overflows are in TMR_STS */
	struct timer overflow; /* armed while TMR_EN is set */
	struct clock *clock;
	struct irq_line sci;
	void (*power_off)(void *opaque);
	void *opaque;
};

void pm_init(struct pm *pm, struct clock *clock, bool timer_32bit, struct irq_line sci, void (*power_off)(void *opaque),
	     void *opaque);
void pm_reset(struct pm *pm);

/* The user pressed the power button: the guest sees PWRBTN_STS. */
void pm_power_button(struct pm *pm);
/* General-purpose event n (0..63) happened. */
void pm_gpe(struct pm *pm, unsigned n);

extern const struct io_ops pm_ops, pm_smi_ops;

#endif
