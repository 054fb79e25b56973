#include "chip/pm.h"

#include "base/trace.h"

/* PM1_STS and PM1_EN (ACPI 6, tables 4.11 and 4.12). */
enum {
	PM1_TIMER = 0x0001,
	PM1_GLOBAL = 0x0020,
	PM1_POWER_BUTTON = 0x0100,
	PM1_SLEEP_BUTTON = 0x0200,
	PM1_RTC = 0x0400,
	PM1_WAKE = 0x8000, /* status only */
	PM1_STATUS_BITS = PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC | PM1_WAKE,
	PM1_ENABLE_BITS = PM1_STATUS_BITS & ~PM1_WAKE
};

/* PM1_CNT. */
enum { CONTROL_SCI_EN = 0x0001, CONTROL_BM_RLD = 0x0002, CONTROL_SLP_EN = 0x2000, CONTROL_WRITABLE = 0x1c03 };
#define CONTROL_SLP_TYP(c) ((c) >> 10 & 7)

/* Offsets from PM_BASE. */
enum {
	PM1_STS = 0x00,
	PM1_EN = 0x02,
	PM1_CNT = 0x04,
	PM_TMR = 0x08,
	GPE0_STS = 0x20,
	GPE0_EN = 0x28,
	SMI_EN = 0x30,
	SMI_STS = 0x34
};

static u64 timer_ticks(const struct pm *pm)
{
	return mul_div(clock_now(pm->clock), PM_TIMER_HZ, NS_PER_SEC);
}

/* TMR_STS is set whenever the counter's highest bit changes. */
static unsigned high_bit(const struct pm *pm)
{
	return pm->timer_32bit ? 31 : 23;
}

static void see_timer(struct pm *pm)
{
	u64 halves = timer_ticks(pm) >> high_bit(pm);
	if (halves != pm->timer_seen)
		pm->pm1_status |= PM1_TIMER;
	pm->timer_seen = halves;
}

/* Firmware hands over with ACPI switched on (ACPI 6.5, 16.3.2). */
static void wake(struct pm *pm)
{
	pm->asleep = false;
	pm->pm1_status |= PM1_WAKE;
	pm->pm1_control |= CONTROL_SCI_EN;
}

/* Brings TMR_STS, its timer and the SCI up to date; wakes the machine. */
static void update(struct pm *pm)
{
	see_timer(pm);
	bool event = (pm->pm1_status & pm->pm1_enable) || (pm->gpe_status & pm->gpe_enable);
	if (event && pm->asleep)
		wake(pm);
	irq_set(&pm->sci, event && (pm->pm1_control & CONTROL_SCI_EN));
	if ((pm->pm1_enable & PM1_TIMER) && !(pm->pm1_status & PM1_TIMER)) {
		u64 next = (pm->timer_seen + 1) << high_bit(pm);
		timer_arm(&pm->overflow, mul_div(next, NS_PER_SEC, PM_TIMER_HZ) + 1);
	} else {
		timer_disarm(&pm->overflow);
	}
}

static void overflow_fired(void *opaque)
{
	update(opaque);
}

void pm_power_button(struct pm *pm)
{
	pm->pm1_status |= PM1_POWER_BUTTON;
	update(pm);
}

void pm_rtc(struct pm *pm, bool level)
{
	if (level && !pm->rtc_level)
		pm->pm1_status |= PM1_RTC;
	pm->rtc_level = level;
	update(pm);
}

void pm_gpe(struct pm *pm, unsigned n)
{
	pm->gpe_status |= BIT(n & 63);
	update(pm);
}

static void sleep(struct pm *pm)
{
	unsigned type = CONTROL_SLP_TYP(pm->pm1_control);

	if (type == PM_SLEEP_S5) {
		pm->power->power_off(pm->opaque);
	} else if (type == PM_SLEEP_S3) {
		/* SCI_EN has no power; an event that is pending already wakes at once. */
		pm->pm1_control &= (u16)~CONTROL_SCI_EN;
		pm->asleep = true;
		pm->power->suspend(pm->opaque);
	} else {
		REPORT("ACPI sleep type %u is not implemented", type);
	}
}

static u8 byte_of(u64 value, u64 index)
{
	return (u8)(value >> 8 * index);
}

static u8 read_byte(struct pm *pm, u64 offset)
{
	switch (offset) {
	case PM1_STS ... PM1_STS + 1:
		return byte_of(pm->pm1_status, offset - PM1_STS);
	case PM1_EN ... PM1_EN + 1:
		return byte_of(pm->pm1_enable, offset - PM1_EN);
	case PM1_CNT ... PM1_CNT + 1:
		return byte_of(pm->pm1_control, offset - PM1_CNT);
	case GPE0_STS ... GPE0_STS + 7:
		return byte_of(pm->gpe_status, offset - GPE0_STS);
	case GPE0_EN ... GPE0_EN + 7:
		return byte_of(pm->gpe_enable, offset - GPE0_EN);
	case SMI_EN ... SMI_EN + 3:
		return byte_of(pm->smi_enable, offset - SMI_EN);
	case SMI_STS ... SMI_STS + 3:
		return byte_of(pm->smi_status, offset - SMI_STS);
	default:
		return 0;
	}
}

static u64 pm_read(void *device, u64 offset, unsigned size)
{
	struct pm *pm = device;
	u64 value = 0;

	if (offset >= PM_TMR && offset + size <= PM_TMR + 4) {
		/* All bytes of one read come from one count. */
		u64 ticks = timer_ticks(pm) & BITS(high_bit(pm), 0);
		return ticks >> 8 * (offset - PM_TMR) & BITS(8 * size - 1, 0);
	}
	if (offset < PM_TMR)
		see_timer(pm);
	for (unsigned i = 0; i < size; i++)
		value |= (u64)read_byte(pm, offset + i) << 8 * i;
	return value;
}

static void set_byte(u64 *value, u64 index, u8 byte)
{
	*value = (*value & ~(0xffULL << 8 * index)) | (u64)byte << 8 * index;
}

static void write_control(struct pm *pm, u64 index, u8 byte)
{
	u64 value = pm->pm1_control;

	set_byte(&value, index, byte);
	pm->pm1_control = value & CONTROL_WRITABLE;
	if (value & CONTROL_SLP_EN)
		sleep(pm);
}

static void write_byte(struct pm *pm, u64 offset, u8 byte)
{
	u64 value;

	switch (offset) {
	case PM1_STS ... PM1_STS + 1: /* write 1 to clear */
		pm->pm1_status &= (u16) ~((byte << 8 * (offset - PM1_STS)) & PM1_STATUS_BITS);
		break;
	case PM1_EN ... PM1_EN + 1:
		value = pm->pm1_enable;
		set_byte(&value, offset - PM1_EN, byte);
		pm->pm1_enable = value & PM1_ENABLE_BITS;
		break;
	case PM1_CNT ... PM1_CNT + 1:
		write_control(pm, offset - PM1_CNT, byte);
		break;
	case GPE0_STS ... GPE0_STS + 7:
		pm->gpe_status &= ~((u64)byte << 8 * (offset - GPE0_STS));
		break;
	case GPE0_EN ... GPE0_EN + 7:
		set_byte(&pm->gpe_enable, offset - GPE0_EN, byte);
		break;
	case SMI_EN ... SMI_EN + 3:
		value = pm->smi_enable;
		set_byte(&value, offset - SMI_EN, byte);
		pm->smi_enable = (u32)value;
		break;
	case SMI_STS ... SMI_STS + 3:
		pm->smi_status &= ~((u32)byte << 8 * (offset - SMI_STS));
		break;
	default:
		break;
	}
}

static void pm_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct pm *pm = device;

	see_timer(pm);
	for (unsigned i = 0; i < size; i++)
		write_byte(pm, offset + i, byte_of(value, i));
	update(pm);
}

static u64 smi_read(void *device, u64 offset, unsigned size)
{
	struct pm *pm = device;
	return offset ? pm->apm_status : pm->apm_command;
}

static void smi_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct pm *pm = device;

	if (offset) {
		pm->apm_status = (u8)value;
		return;
	}
	pm->apm_command = (u8)value;
	if (pm->apm_command == PM_ACPI_ENABLE)
		pm->pm1_control |= CONTROL_SCI_EN;
	else if (pm->apm_command == PM_ACPI_DISABLE)
		pm->pm1_control &= (u16)~CONTROL_SCI_EN;
	update(pm);
}

void pm_reset(struct pm *pm)
{
	pm->pm1_status = pm->pm1_enable = pm->pm1_control = 0;
	pm->gpe_status = pm->gpe_enable = 0;
	pm->asleep = false;
	pm->smi_enable = pm->smi_status = 0;
	pm->apm_command = pm->apm_status = 0;
	pm->timer_seen = timer_ticks(pm) >> high_bit(pm);
	update(pm);
}

void pm_init(struct pm *pm, struct clock *clock, bool timer_32bit, struct irq_line sci, const struct pm_power *power,
	     void *opaque)
{
	*pm = (struct pm){ .clock = clock, .timer_32bit = timer_32bit, .sci = sci, .power = power, .opaque = opaque };
	timer_init(&pm->overflow, clock, overflow_fired, pm);
	pm_reset(pm);
}

const struct io_ops pm_ops = { .read = pm_read, .write = pm_write };
const struct io_ops pm_smi_ops = { .read = smi_read, .write = smi_write, .byte_wide = true };
