/*
 * ACPI fixed hardware as the ICH9 places it: PM1a event and control block, power-management timer, GPE0 block, SMI
 * control, and the SMI command port (ACPI 6, chapter 4.8; ICH9 data sheet 13.8).
 *
 *	PM_BASE + 0x00  PM1_STS, PM1_EN (16 bits each)     + 0x08  PM_TMR (32 bits)        + 0x30  SMI_EN
 *	        + 0x04  PM1_CNT (32 bits)                  + 0x20  GPE0_STS, GPE0_EN (64)  + 0x34  SMI_STS
 *
 * There is no system-management mode behind it: writes to the command port do at once what firmware would (ACPI on,
 * off). SLP_EN with one of the sleep types below, which the DSDT's \_S3 and \_S5 name, suspends to memory or powers
 * off. Asleep, an event that is enabled wakes the machine: power button, RTC alarm, a general-purpose event.
 *
 * Life: pm_init(), pm_reset() at RESET. The board maps pm_ops at PM_BASE (PM_SIZE ports) and pm_smi_ops at PM_SMI_CMD
 *(2). Line out: sci (level). A suspended machine's other chips are reset by the board; this one and the RTC have power.
 *
 * Owner: the board, by value. Threads: every call with the board lock held.
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
	PM_SLEEP_S5 = 0, /* SLP_TYP: off */
	PM_SLEEP_S3 = 1  /* memory and wake-up logic alone have power */
};
#define PM_TIMER_HZ 3579545ULL

/* What the machine is told to do, with the board lock held. */
struct pm_power {
	void (*power_off)(void *opaque);
	void (*suspend)(void *opaque); /* pm->asleep says until when */
};

struct pm {
	u16 pm1_status, pm1_enable, pm1_control;
	u64 gpe_status, gpe_enable;
	u32 smi_enable, smi_status;
	u8 apm_command, apm_status;
	bool asleep;           /* suspended, and no event came yet */
	bool rtc_level;        /* of the RTC's interrupt line */
	bool timer_32bit;      /* FADT's TMR_VAL_EXT says the same */
	u64 timer_seen;        /* PM timer value up to which overflows are in TMR_STS */
	struct timer overflow; /* armed while TMR_EN is set */
	struct clock *clock;
	struct irq_line sci;
	const struct pm_power *power;
	void *opaque;
};

void pm_init(struct pm *pm, struct clock *clock, bool timer_32bit, struct irq_line sci, const struct pm_power *power,
	     void *opaque);
void pm_reset(struct pm *pm);

/* The user pressed the power button: the guest sees PWRBTN_STS. */
void pm_power_button(struct pm *pm);
/* The RTC's interrupt line, too: RTC_STS is set by its rising edge. */
void pm_rtc(struct pm *pm, bool level);
/* General-purpose event n (0..63) happened. */
void pm_gpe(struct pm *pm, unsigned n);

extern const struct io_ops pm_ops, pm_smi_ops;

#endif
