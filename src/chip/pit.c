#include "chip/pit.h"

#include "chip/missed.h"

/* Control word (8254 data sheet): SC 7..6, RW 5..4, M 3..1, BCD 0. */
enum { SELECT_READ_BACK = 3, ACCESS_LATCH = 0, ACCESS_LOW = 1, ACCESS_HIGH = 2, ACCESS_BOTH = 3 };

/* Read-back command: these bits are active low. */
enum { READ_BACK_NO_COUNT = 0x20, READ_BACK_NO_STATUS = 0x10 };

enum { STATUS_OUT = 0x80, STATUS_NULL = 0x40 };

enum {
	PORT61_GATE2 = 0x01,
	PORT61_SPEAKER = 0x02,
	PORT61_WRITABLE = 0x0f,
	PORT61_REFRESH = 0x10, /* toggles with each memory refresh, about every 15 us */
	PORT61_OUT2 = 0x20
};
#define REFRESH_NS 15085

/* The host is woken for channel 0 at most this often. */
#define MIN_PERIOD_NS 10000ULL

static u64 ticks_now(const struct pit *pit)
{
	return mul_div(clock_now(pit->clock), PIT_HZ, NS_PER_SEC);
}

/* First nanosecond of a tick. */
static u64 tick_ns(u64 tick)
{
	u64 ns = mul_div(tick, NS_PER_SEC, PIT_HZ);
	return mul_div(ns, PIT_HZ, NS_PER_SEC) < tick ? ns + 1 : ns;
}

/* --- the counting element --- */

static bool is_periodic(const struct pit_channel *ch)
{
	return ch->mode == 2 || ch->mode == 3;
}

static bool needs_trigger(const struct pit_channel *ch)
{
	return ch->mode == 1 || ch->mode == 5;
}

/* The count passes from the count register to the counting element with the next clock pulse. */
static void load(struct pit_channel *ch, u64 now)
{
	ch->count = ch->next_count;
	ch->loaded = true;
	ch->start = now + 1;
	ch->held = 0;
	ch->paused = !ch->gate && !needs_trigger(ch);
	ch->reload_at = UINT64_MAX;
}

/* A periodic mode takes a new count when the period it was written in ends. */
static void settle(struct pit_channel *ch, u64 now)
{
	if (ch->paused || now < ch->reload_at)
		return;
	ch->start = ch->reload_at;
	ch->count = ch->next_count;
	ch->reload_at = UINT64_MAX;
}

static u64 elapsed(const struct pit_channel *ch, u64 now)
{
	if (ch->paused)
		return ch->held;
	return now < ch->start ? 0 : now - ch->start;
}

/* Mode 3 is high for the first half of the period, the longer one if the count is odd. */
static u64 high_ticks(const struct pit_channel *ch)
{
	return (ch->count + 1) / 2;
}

static bool channel_out(struct pit_channel *ch, u64 now)
{
	settle(ch, now);
	if (!ch->loaded)
		return ch->mode != 0;
	u64 gone = elapsed(ch, now);
	switch (ch->mode) {
	case 0:
	case 1:
		return gone >= ch->count;
	case 2:
		return ch->paused || gone % ch->count != ch->count - 1;
	case 3:
		return ch->paused || gone % ch->count < high_ticks(ch);
	default: /* 4, 5: low for one tick */
		return gone != ch->count;
	}
}

static u16 to_bcd(u32 value)
{
	return (u16)(value / 1000 % 10 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 | value % 10);
}

/* What a read of the count shows. */
static u16 channel_value(struct pit_channel *ch, u64 now)
{
	settle(ch, now);
	u32 modulus = ch->bcd ? 10000 : 65536;
	u64 gone = ch->loaded ? elapsed(ch, now) : 0;
	u32 value;

	if (ch->mode == 3 && ch->count) {
		/* Counts down by two, twice per period, always even. */
		u64 phase = gone % ch->count;
		if (phase >= high_ticks(ch))
			phase -= high_ticks(ch);
		value = (ch->count & ~1u) - 2 * (u32)phase;
	} else if (ch->mode == 2 && ch->count) {
		value = ch->count - (u32)(gone % ch->count);
	} else {
		/* The one-shot modes wrap around and count on. */
		value = ch->count - (u32)(gone % modulus) + modulus;
	}
	value %= modulus;
	return ch->bcd ? to_bcd(value) : (u16)value;
}

/* --- channel 0's interrupt --- */

/* Tick at which the current period began; `start` until the first is over. */
static u64 period_start(const struct pit_channel *ch, u64 now)
{
	return ch->start + elapsed(ch, now) / ch->count * ch->count;
}

/* The tick of the next edge worth waking for, UINT64_MAX if none will come. */
static u64 next_edge(const struct pit_channel *ch, u64 now)
{
	if (!ch->loaded || ch->paused)
		return UINT64_MAX;
	u64 gone = elapsed(ch, now), start = period_start(ch, now);
	switch (ch->mode) {
	case 0:
		return gone < ch->count ? ch->start + ch->count : UINT64_MAX;
	case 2: /* low for just one tick: only the rising edge */
		return start + ch->count;
	case 3:
		return gone % ch->count < high_ticks(ch) && ch->count > 1 ? start + high_ticks(ch) : start + ch->count;
	case 4:
		return gone <= ch->count ? ch->start + ch->count + 1 : UINT64_MAX;
	default:
		return UINT64_MAX;
	}
}

/* A rising edge, whatever OUT is now. */
static void pulse(struct pit *pit)
{
	irq_set(&pit->irq, false);
	irq_set(&pit->irq, true);
}

/*
 * Periods that are over: the last one's edge comes now, those before it are still to come. false: there are none, or
 * the mode knows none.
 */
static bool note_periods(struct pit *pit, u64 now)
{
	struct pit_channel *ch = &pit->channel[0];
	settle(ch, now);
	if (!is_periodic(ch) || !ch->loaded || ch->paused)
		return false;
	u64 start = period_start(ch, now);
	if (start <= pit->period)
		return false;
	u64 passed = (start - pit->period) / ch->count;
	pit->missed = missed_add(pit->missed, passed ? passed - 1 : 0);
	pit->period = start;
	pulse(pit);
	return true;
}

/* Channel 0 was programmed: it begins anew. */
static void forget_periods(struct pit *pit, u64 now)
{
	const struct pit_channel *ch = &pit->channel[0];
	pit->missed = 0;
	pit->period = ch->loaded ? period_start(ch, now) : UINT64_MAX;
}

static void update_irq(struct pit *pit)
{
	struct pit_channel *ch = &pit->channel[0];
	u64 now = ticks_now(pit);

	note_periods(pit, now);
	irq_set(&pit->irq, channel_out(ch, now));
	u64 edge = next_edge(ch, now);
	if (edge == UINT64_MAX) {
		timer_disarm(&pit->timer);
		return;
	}
	u64 soonest = clock_now(pit->clock) + (is_periodic(ch) ? MIN_PERIOD_NS : 0);
	u64 deadline = tick_ns(edge);
	deadline = deadline < soonest ? soonest : deadline;
	if (pit->missed) {
		pit->make_up_at = clock_now(pit->clock) + missed_wait(tick_ns(ch->count), MIN_PERIOD_NS);
		deadline = pit->make_up_at < deadline ? pit->make_up_at : deadline;
	}
	timer_arm(&pit->timer, deadline);
}

static void edge_fired(void *opaque)
{
	struct pit *pit = opaque;
	bool make_up = pit->missed && clock_now(pit->clock) >= pit->make_up_at;

	/* The low tick of mode 4, which nobody woke up for. */
	if (pit->channel[0].mode == 4)
		irq_set(&pit->irq, false);
	if (!note_periods(pit, ticks_now(pit)) && make_up) {
		pit->missed--;
		pulse(pit);
	}
	update_irq(pit);
}

bool pit_out(struct pit *pit, unsigned channel)
{
	return channel_out(&pit->channel[channel], ticks_now(pit));
}

/* --- programming --- */

static u32 from_register(const struct pit_channel *ch, u16 value)
{
	if (!ch->bcd)
		return value ? value : 65536;
	u32 n = (value >> 12) * 1000u + (value >> 8 & 15) * 100u + (value >> 4 & 15) * 10u + (value & 15u);
	n %= 10000;
	return n ? n : 10000;
}

static void set_count(struct pit_channel *ch, u16 value, u64 now)
{
	settle(ch, now);
	ch->next_count = from_register(ch, value);
	if (needs_trigger(ch)) /* from the next trigger on */
		return;
	if (is_periodic(ch) && ch->loaded && !ch->paused)
		ch->reload_at = ch->start + (elapsed(ch, now) / ch->count + 1) * ch->count;
	else
		load(ch, now);
}

static void write_count(struct pit_channel *ch, u8 byte, u64 now)
{
	switch (ch->access) {
	case ACCESS_LOW:
		set_count(ch, byte, now);
		break;
	case ACCESS_HIGH:
		set_count(ch, (u16)(byte << 8), now);
		break;
	default:
		if (ch->write_high) {
			set_count(ch, (u16)(byte << 8 | ch->low_written), now);
		} else {
			ch->low_written = byte;
			/* The first byte of a new count stops mode 0. */
			if (ch->mode == 0)
				ch->loaded = false;
		}
		ch->write_high = !ch->write_high;
		break;
	}
}

static void latch_count(struct pit_channel *ch, u64 now)
{
	if (ch->latch_left)
		return;
	ch->latch = channel_value(ch, now);
	if (ch->access == ACCESS_HIGH)
		ch->latch >>= 8;
	ch->latch_left = ch->access == ACCESS_BOTH ? 2 : 1;
}

static void latch_status(struct pit_channel *ch, u64 now)
{
	if (ch->status_latched)
		return;
	bool out = channel_out(ch, now);
	bool null = !ch->loaded || ch->reload_at != UINT64_MAX || now < ch->start || ch->count != ch->next_count;
	ch->status = ch->control | (out ? STATUS_OUT : 0) | (null ? STATUS_NULL : 0);
	ch->status_latched = true;
}

static void read_back(struct pit *pit, u8 value, u64 now)
{
	for (unsigned i = 0; i < 3; i++) {
		if (!(value >> (i + 1) & 1))
			continue;
		if (!(value & READ_BACK_NO_COUNT))
			latch_count(&pit->channel[i], now);
		if (!(value & READ_BACK_NO_STATUS))
			latch_status(&pit->channel[i], now);
	}
}

static void write_control(struct pit *pit, u8 value, u64 now)
{
	unsigned select = value >> 6;

	if (select == SELECT_READ_BACK) {
		read_back(pit, value, now);
		return;
	}
	struct pit_channel *ch = &pit->channel[select];
	if ((value >> 4 & 3) == ACCESS_LATCH) {
		latch_count(ch, now);
		return;
	}
	*ch = (struct pit_channel){
		.control = value & 0x3f,
		.access = value >> 4 & 3,
		.mode = value >> 1 & 7,
		.bcd = value & 1,
		.gate = ch->gate,
		.count = ch->count,
		.reload_at = UINT64_MAX,
	};
	/* Modes 6 and 7 are 2 and 3. */
	if (ch->mode > 5)
		ch->mode -= 4;
}

static u8 read_count(struct pit_channel *ch, u64 now)
{
	if (ch->status_latched) {
		ch->status_latched = false;
		return ch->status;
	}
	if (ch->latch_left) {
		u8 byte = (u8)ch->latch;
		ch->latch >>= 8;
		ch->latch_left--;
		return byte;
	}
	u16 value = channel_value(ch, now);
	bool high = ch->access == ACCESS_HIGH || (ch->access == ACCESS_BOTH && ch->read_high);
	if (ch->access == ACCESS_BOTH)
		ch->read_high = !ch->read_high;
	return (u8)(high ? value >> 8 : value);
}

static void set_gate(struct pit_channel *ch, bool gate, u64 now)
{
	if (gate == ch->gate)
		return;
	settle(ch, now);
	u64 gone = elapsed(ch, now);
	ch->gate = gate;
	if (needs_trigger(ch)) {
		if (gate && ch->next_count)
			load(ch, now);
	} else if (!ch->loaded) {
		return;
	} else if (!gate) {
		ch->held = gone;
		ch->paused = true;
	} else if (is_periodic(ch)) {
		load(ch, now);
	} else {
		ch->paused = false;
		ch->start = now - gone;
	}
}

/* --- ports --- */

static u64 pit_read(void *device, u64 offset, unsigned size)
{
	struct pit *pit = device;
	/* The control word cannot be read. */
	return offset < 3 ? read_count(&pit->channel[offset], ticks_now(pit)) : 0xff;
}

static void pit_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct pit *pit = device;
	u64 now = ticks_now(pit);
	bool programs = offset == 0 || (offset == 3 && !(value >> 6 & 3) && (value >> 4 & 3) != ACCESS_LATCH);

	if (programs)
		note_periods(pit, now);
	if (offset < 3)
		write_count(&pit->channel[offset], (u8)value, now);
	else
		write_control(pit, (u8)value, now);
	if (programs)
		forget_periods(pit, now);
	if (offset == 0 || offset == 3)
		update_irq(pit);
}

static u64 port61_read(void *device, u64 offset, unsigned size)
{
	struct pit *pit = device;
	u8 value = pit->port61;

	if (clock_now(pit->clock) / REFRESH_NS & 1)
		value |= PORT61_REFRESH;
	if (pit_out(pit, 2))
		value |= PORT61_OUT2;
	return value;
}

static void port61_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct pit *pit = device;

	pit->port61 = (u8)value & PORT61_WRITABLE;
	set_gate(&pit->channel[2], value & PORT61_GATE2, ticks_now(pit));
}

void pit_reset(struct pit *pit)
{
	/* The chip has no reset state; a channel in mode 0 without a count is quiet, with OUT low. */
	for (unsigned i = 0; i < 3; i++)
		pit->channel[i] = (struct pit_channel){
			.control = ACCESS_BOTH << 4,
			.access = ACCESS_BOTH,
			.mode = 0,
			.gate = i != 2,
			.reload_at = UINT64_MAX,
		};
	pit->port61 = 0;
	forget_periods(pit, ticks_now(pit));
	update_irq(pit);
}

void pit_init(struct pit *pit, struct clock *clock, struct irq_line irq)
{
	*pit = (struct pit){ .clock = clock, .irq = irq };
	timer_init(&pit->timer, clock, edge_fired, pit);
	pit_reset(pit);
}

const struct io_ops pit_ops = { .read = pit_read, .write = pit_write, .byte_wide = true };
const struct io_ops pit_port61_ops = { .read = port61_read, .write = port61_write, .byte_wide = true };
