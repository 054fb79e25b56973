#include "chip/rtc.h"

/* Registers (MC146818A data sheet); CENTURY is where PCs and the FADT have it. */
enum {
	SECONDS = 0,
	SECONDS_ALARM = 1,
	MINUTES = 2,
	MINUTES_ALARM = 3,
	HOURS = 4,
	HOURS_ALARM = 5,
	DAY_OF_WEEK = 6, /* 1 is Sunday */
	DAY_OF_MONTH = 7,
	MONTH = 8,
	YEAR = 9,
	REG_A = 10,
	REG_B = 11,
	REG_C = 12,
	REG_D = 13,
	CENTURY = 0x32
};

enum { A_UIP = 0x80, A_DIVIDER = 0x70, A_DIVIDER_RUNS = 0x20, A_RATE = 0x0f };
enum { B_24H = 0x02, B_BINARY = 0x04, B_UIE = 0x10, B_AIE = 0x20, B_PIE = 0x40, B_SET = 0x80, B_SQWE = 0x08 };
enum { C_UF = 0x10, C_AF = 0x20, C_PF = 0x40, C_IRQF = 0x80, C_FLAGS = C_UF | C_AF | C_PF };
enum { D_VRT = 0x80 };

enum { HOUR_PM = 0x80, ALARM_ANY = 0xc0 };
enum { SECONDS_PER_DAY = 86400 };

/* UIP announces an update this long before. */
#define UIP_NS 244000

/* Periodic rates divide this. */
#define CRYSTAL_HZ 32768ULL

/* The host is woken at most this often. */
#define MIN_PERIOD_NS 100000ULL

/* --- calendar --- */

struct date {
	int year;
	unsigned month, day; /* from 1 */
};

static i64 floor_div(i64 a, i64 b)
{
	return a / b - (a % b < 0);
}

/*
 * Days since 1970-01-01. Years are counted from March, so that the leap day is the last one; 153 days are five months
 * of alternating length.
 */
static i64 days_from_date(struct date d)
{
	i64 y = d.month <= 2 ? d.year - 1 : d.year;
	i64 months = (d.month + 9) % 12;
	return 365 * y + floor_div(y, 4) - floor_div(y, 100) + floor_div(y, 400) + (153 * months + 2) / 5 + d.day - 1 -
	       719468;
}

static struct date date_from_days(i64 days)
{
	/* The year is at most one off this estimate. */
	struct date d = { .year = (int)floor_div(days * 400, 146097) + 1970, .month = 1, .day = 1 };
	while (days_from_date(d) > days)
		d.year--;
	for (struct date next = d; next.year++, days_from_date(next) <= days;)
		d = next;
	while (d.month < 12) {
		struct date next = { d.year, d.month + 1, 1 };
		if (days_from_date(next) > days)
			break;
		d = next;
	}
	d.day = (unsigned)(days - days_from_date(d)) + 1;
	return d;
}

/* --- register formats --- */

static u8 encode(const struct rtc *rtc, unsigned value)
{
	return (u8)(rtc->cmos[REG_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static unsigned decode(const struct rtc *rtc, u8 value)
{
	return rtc->cmos[REG_B] & B_BINARY ? value : (value >> 4) * 10u + (value & 15u);
}

static u8 encode_hour(const struct rtc *rtc, unsigned hour)
{
	if (rtc->cmos[REG_B] & B_24H)
		return encode(rtc, hour);
	return encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0);
}

static unsigned decode_hour(const struct rtc *rtc, u8 value)
{
	if (rtc->cmos[REG_B] & B_24H)
		return decode(rtc, value);
	return decode(rtc, value & (u8)~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

/* --- time of day --- */

static bool divider_runs(const struct rtc *rtc)
{
	return (rtc->cmos[REG_A] & A_DIVIDER) == A_DIVIDER_RUNS;
}

/* While SET or the divider stops the clock, the registers are just memory. */
static bool is_running(const struct rtc *rtc)
{
	return divider_runs(rtc) && !(rtc->cmos[REG_B] & B_SET);
}

static i64 guest_ns(const struct rtc *rtc)
{
	return (i64)rtc->wall(rtc->opaque) + rtc->offset;
}

static i64 guest_seconds(const struct rtc *rtc)
{
	return floor_div(guest_ns(rtc), NS_PER_SEC);
}

/* Time into the registers. */
static void show_time(struct rtc *rtc)
{
	if (!is_running(rtc))
		return;
	i64 seconds = guest_seconds(rtc);
	i64 days = floor_div(seconds, SECONDS_PER_DAY);
	unsigned in_day = (unsigned)(seconds - days * SECONDS_PER_DAY);
	struct date date = date_from_days(days);

	rtc->cmos[SECONDS] = encode(rtc, in_day % 60);
	rtc->cmos[MINUTES] = encode(rtc, in_day / 60 % 60);
	rtc->cmos[HOURS] = encode_hour(rtc, in_day / 3600);
	/* 1970-01-01 was a Thursday. */
	rtc->cmos[DAY_OF_WEEK] = (u8)(((days + 4) % 7 + 7) % 7 + 1);
	rtc->cmos[DAY_OF_MONTH] = encode(rtc, date.day);
	rtc->cmos[MONTH] = encode(rtc, date.month);
	rtc->cmos[YEAR] = encode(rtc, (unsigned)date.year % 100);
	rtc->cmos[CENTURY] = encode(rtc, (unsigned)date.year / 100 % 100);
}

static unsigned limit(unsigned value, unsigned low, unsigned high)
{
	return value < low ? low : value > high ? high : value;
}

/* Registers into the time, which goes on from there; the fraction of the running second stays. */
static void take_time(struct rtc *rtc)
{
	struct date date = {
		.year = (int)(limit(decode(rtc, rtc->cmos[CENTURY]), 0, 99) * 100 +
			      limit(decode(rtc, rtc->cmos[YEAR]), 0, 99)),
		.month = limit(decode(rtc, rtc->cmos[MONTH]), 1, 12),
		.day = limit(decode(rtc, rtc->cmos[DAY_OF_MONTH]), 1, 31),
	};
	i64 in_day = limit(decode_hour(rtc, rtc->cmos[HOURS]), 0, 23) * 3600 +
		     limit(decode(rtc, rtc->cmos[MINUTES]), 0, 59) * 60 + limit(decode(rtc, rtc->cmos[SECONDS]), 0, 59);
	i64 seconds = days_from_date(date) * SECONDS_PER_DAY + in_day;

	/* Nanoseconds in 64 bits end in 2262; a guest's year beyond that stands still at the edge. */
	i64 edge = INT64_MAX / (i64)NS_PER_SEC / 2;
	seconds = seconds > edge ? edge : seconds < -edge ? -edge : seconds;
	rtc->offset += (seconds - guest_seconds(rtc)) * (i64)NS_PER_SEC;
	rtc->update_seen = seconds;
}

/* --- events --- */

static bool alarm_field_matches(u8 alarm, u8 now)
{
	return alarm >= ALARM_ANY || alarm == now;
}

static bool alarm_matches(const struct rtc *rtc, i64 seconds)
{
	unsigned in_day = (unsigned)(seconds - floor_div(seconds, SECONDS_PER_DAY) * SECONDS_PER_DAY);
	return alarm_field_matches(rtc->cmos[SECONDS_ALARM], encode(rtc, in_day % 60)) &&
	       alarm_field_matches(rtc->cmos[MINUTES_ALARM], encode(rtc, in_day / 60 % 60)) &&
	       alarm_field_matches(rtc->cmos[HOURS_ALARM], encode_hour(rtc, in_day / 3600));
}

/* Updates since the last look: UF, and AF if one of them hit the alarm. */
static void see_updates(struct rtc *rtc)
{
	i64 now = guest_seconds(rtc);

	if (!is_running(rtc) || now <= rtc->update_seen) {
		rtc->update_seen = now;
		return;
	}
	rtc->cmos[REG_C] |= C_UF;
	/* One day holds every alarm time. */
	i64 from = now - rtc->update_seen > SECONDS_PER_DAY ? now - SECONDS_PER_DAY : rtc->update_seen;
	for (i64 s = from + 1; s <= now && !(rtc->cmos[REG_C] & C_AF); s++)
		if (alarm_matches(rtc, s))
			rtc->cmos[REG_C] |= C_AF;
	rtc->update_seen = now;
}

/* Periodic period in crystal ticks, 0 if off. */
static unsigned periodic_ticks(const struct rtc *rtc)
{
	unsigned rate = rtc->cmos[REG_A] & A_RATE;

	if (rate == 0 || !divider_runs(rtc))
		return 0;
	/* Rates 1 and 2 are those of 8 and 9 (256 and 128 Hz). */
	return 1u << ((rate <= 2 ? rate + 7 : rate) - 1);
}

static u64 crystal_now(const struct rtc *rtc)
{
	return mul_div(clock_now(rtc->clock), CRYSTAL_HZ, NS_PER_SEC);
}

static void see_periodic(struct rtc *rtc)
{
	unsigned period = periodic_ticks(rtc);
	u64 now = crystal_now(rtc);

	if (period && now / period > rtc->periodic_seen / period)
		rtc->cmos[REG_C] |= C_PF;
	rtc->periodic_seen = now;
}

static void arm(struct rtc *rtc)
{
	u64 now = clock_now(rtc->clock);
	u8 enables = rtc->cmos[REG_B];
	unsigned period = periodic_ticks(rtc);

	if (is_running(rtc) && (enables & (B_UIE | B_AIE))) {
		u64 left = (u64)((guest_seconds(rtc) + 1) * (i64)NS_PER_SEC - guest_ns(rtc));
		timer_arm(&rtc->update, now + left);
	} else {
		timer_disarm(&rtc->update);
	}
	if (period && (enables & B_PIE)) {
		u64 next = (crystal_now(rtc) / period + 1) * period;
		u64 deadline = mul_div(next, NS_PER_SEC, CRYSTAL_HZ) + 1;
		timer_arm(&rtc->periodic, deadline < now + MIN_PERIOD_NS ? now + MIN_PERIOD_NS : deadline);
	} else {
		timer_disarm(&rtc->periodic);
	}
}

/* Finds events, sets the interrupt line, waits for the next. */
static void update(struct rtc *rtc)
{
	see_updates(rtc);
	see_periodic(rtc);
	bool irq = rtc->cmos[REG_C] & rtc->cmos[REG_B] & C_FLAGS;
	rtc->cmos[REG_C] = (rtc->cmos[REG_C] & C_FLAGS) | (irq ? C_IRQF : 0);
	irq_set(&rtc->irq, irq);
	arm(rtc);
}

static void event_fired(void *opaque)
{
	update(opaque);
}

/* --- registers --- */

static u8 read_a(const struct rtc *rtc)
{
	u8 value = rtc->cmos[REG_A];

	if (is_running(rtc)) {
		i64 left = (guest_seconds(rtc) + 1) * (i64)NS_PER_SEC - guest_ns(rtc);
		if (left <= UIP_NS)
			value |= A_UIP;
	}
	return value;
}

static u8 read_c(struct rtc *rtc)
{
	update(rtc);
	u8 value = rtc->cmos[REG_C];
	rtc->cmos[REG_C] = 0;
	irq_set(&rtc->irq, false);
	return value;
}

static void write_a(struct rtc *rtc, u8 value)
{
	bool ran = divider_runs(rtc);

	show_time(rtc);
	rtc->cmos[REG_A] = value & (u8)~A_UIP;
	/* Out of divider reset, the first update comes half a second later. */
	if (!ran && divider_runs(rtc)) {
		i64 fraction = guest_ns(rtc) - guest_seconds(rtc) * (i64)NS_PER_SEC;
		rtc->offset += (i64)NS_PER_SEC / 2 - fraction;
		take_time(rtc);
	}
	rtc->periodic_seen = crystal_now(rtc);
}

static void write_b(struct rtc *rtc, u8 value)
{
	bool ran = is_running(rtc);

	show_time(rtc);
	/* SET ends the update interrupt. */
	rtc->cmos[REG_B] = value & B_SET ? value & (u8)~B_UIE : value;
	if (!ran && is_running(rtc))
		take_time(rtc);
}

static bool is_time(u8 index)
{
	return index == SECONDS || index == MINUTES || index == HOURS || (index >= DAY_OF_WEEK && index <= YEAR) ||
	       index == CENTURY;
}

static u8 cmos_read(struct rtc *rtc, u8 index)
{
	if (index == REG_A)
		return read_a(rtc);
	if (index == REG_C)
		return read_c(rtc);
	if (is_time(index))
		show_time(rtc);
	return rtc->cmos[index];
}

static void cmos_write(struct rtc *rtc, u8 index, u8 value)
{
	if (index == REG_C || index == REG_D)
		return;
	update(rtc);
	if (index == REG_A) {
		write_a(rtc, value);
	} else if (index == REG_B) {
		write_b(rtc, value);
	} else if (is_time(index)) {
		show_time(rtc);
		rtc->cmos[index] = value;
		if (is_running(rtc))
			take_time(rtc);
	} else {
		rtc->cmos[index] = value;
	}
	update(rtc);
}

/* Ports: index and data of the first bank, then of the second. */
static u64 rtc_read(void *device, u64 offset, unsigned size)
{
	struct rtc *rtc = device;

	switch (offset) {
	case 1:
		return cmos_read(rtc, rtc->index);
	case 2:
		return rtc->index_high;
	case 3:
		return rtc->cmos[128 + rtc->index_high];
	default: /* the index is write-only */
		return 0xff;
	}
}

static void rtc_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct rtc *rtc = device;

	switch (offset) {
	case 0:
		rtc->index = value & 0x7f;
		break;
	case 1:
		cmos_write(rtc, rtc->index, (u8)value);
		break;
	case 2:
		rtc->index_high = value & 0x7f;
		break;
	default:
		rtc->cmos[128 + rtc->index_high] = (u8)value;
		break;
	}
}

/* --- memory size --- */

static u64 at_most(u64 value, u64 max)
{
	return value < max ? value : max;
}

static void put16(struct rtc *rtc, unsigned index, u64 value)
{
	rtc->cmos[index] = (u8)value;
	rtc->cmos[index + 1] = (u8)(value >> 8);
}

void rtc_set_memory(struct rtc *rtc, u64 below_4g, u64 above_4g, unsigned cpus)
{
	const u64 kib = 1024, mib = 1024 * kib;
	/* Extended memory from 1 MiB on in KiB (at most 64 MiB less one), and from 16 MiB on in units of 64 KiB. */
	u64 extended = below_4g > mib ? at_most((below_4g - mib) / kib, 65535) : 0;
	u64 above_16m = below_4g > 16 * mib ? at_most((below_4g - 16 * mib) / (64 * kib), 65535) : 0;
	u64 high = at_most(above_4g / (64 * kib), 0xffffff);

	put16(rtc, 0x15, 640);
	put16(rtc, 0x17, extended);
	put16(rtc, 0x30, extended);
	put16(rtc, 0x34, above_16m);
	put16(rtc, 0x5b, high);
	rtc->cmos[0x5d] = (u8)(high >> 16);
	rtc->cmos[0x5f] = (u8)(cpus - 1);
}

void rtc_reset(struct rtc *rtc)
{
	rtc->index = rtc->index_high = 0;
	rtc->cmos[REG_B] &= (u8) ~(B_PIE | B_AIE | B_UIE | B_SQWE);
	rtc->cmos[REG_C] = 0;
	update(rtc);
}

void rtc_init(struct rtc *rtc, struct clock *clock, u64 (*wall)(void *opaque), void *opaque, struct irq_line irq)
{
	*rtc = (struct rtc){ .clock = clock, .wall = wall, .opaque = opaque, .irq = irq };
	timer_init(&rtc->update, clock, event_fired, rtc);
	timer_init(&rtc->periodic, clock, event_fired, rtc);
	rtc->cmos[REG_A] = A_DIVIDER_RUNS | 6; /* 1024 Hz */
	rtc->cmos[REG_B] = B_24H;
	rtc->cmos[REG_D] = D_VRT;
	rtc->update_seen = guest_seconds(rtc);
	rtc->periodic_seen = crystal_now(rtc);
	rtc_reset(rtc);
}

const struct io_ops rtc_ops = { .read = rtc_read, .write = rtc_write, .byte_wide = true };
