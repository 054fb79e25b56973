#include "chip/hpet.h"

#include "chip/missed.h"

/* Register offsets (HPET specification 1.0a, 2.3). Timer n's registers are 0x20 bytes from TIMER0 on. */
enum { CAPABILITIES = 0x000, CONFIG = 0x010, STATUS = 0x020, COUNTER = 0x0f0, TIMER0 = 0x100, TIMER_STRIDE = 0x20 };
enum { TIMER_CONFIG = 0x00, TIMER_COMPARATOR = 0x08 };

#define FEMTOSECONDS_PER_NS 1000000ULL

enum { CONFIG_ENABLE = 0x1, CONFIG_LEGACY = 0x2 };

/* Timer configuration. */
#define TN_LEVEL    BIT(1)
#define TN_ENABLE   BIT(2)
#define TN_PERIODIC BIT(3)
#define TN_PER_CAP  BIT(4)
#define TN_SIZE_CAP BIT(5)
#define TN_SET      BIT(6)
#define TN_32BIT    BIT(8)
#define TN_ROUTE(c) ((unsigned)((c) >> 9 & 31))
#define TN_WRITABLE (TN_LEVEL | TN_ENABLE | TN_PERIODIC | TN_SET | TN_32BIT | BITS(13, 9))
/* I/O APIC pins a timer may use: 20 to 23, clear of the ISA interrupts and of the first PCI ones. */
#define TN_ROUTES    0x00f00000ULL
#define TN_READ_ONLY (TN_ROUTES << 32 | TN_PER_CAP | TN_SIZE_CAP)

/* The host is woken at most this often for one timer. */
#define MIN_PERIOD_NS 10000ULL

/* Waits longer than this many ticks (30 years) never end. */
#define FAR_TICKS BIT(56)

static bool is_enabled(const struct hpet *hpet)
{
	return hpet->config & CONFIG_ENABLE;
}

static u64 counter_now(const struct hpet *hpet)
{
	if (!is_enabled(hpet))
		return hpet->counter;
	return hpet->counter + (clock_now(hpet->clock) - hpet->started) / HPET_PERIOD_NS;
}

static unsigned timer_index(const struct hpet_timer *t)
{
	return (unsigned)(t - t->hpet->timer);
}

/* Counter and comparator wrap at the timer's width. */
static u64 width_mask(const struct hpet_timer *t)
{
	return t->config & TN_32BIT ? 0xffffffffULL : ~0ULL;
}

/* --- interrupts --- */

static bool uses_legacy(const struct hpet_timer *t)
{
	return (t->hpet->config & CONFIG_LEGACY) && timer_index(t) < 2;
}

static void drive(struct hpet_timer *t, bool level)
{
	struct hpet *hpet = t->hpet;

	if (uses_legacy(t))
		irq_set(&hpet->legacy[timer_index(t)], level);
	else if (hpet->gsi.set)
		hpet->gsi.set(hpet->gsi.controller, TN_ROUTE(t->config), level);
}

/* Takes the timer's line down, if it holds it up. */
static void release(struct hpet_timer *t)
{
	unsigned n = timer_index(t);

	if (t->hpet->line[n])
		drive(t, false);
	t->hpet->line[n] = false;
}

static void raise(struct hpet_timer *t)
{
	struct hpet *hpet = t->hpet;

	if (t->config & TN_LEVEL)
		hpet->status |= BIT(timer_index(t));
	if (!(t->config & TN_ENABLE))
		return;
	drive(t, true);
	if (t->config & TN_LEVEL)
		hpet->line[timer_index(t)] = true;
	else
		drive(t, false);
}

/* --- comparators --- */

static void arm(struct hpet_timer *t, u64 soonest_ns)
{
	struct hpet *hpet = t->hpet;

	timer_disarm(&t->timer);
	if (!is_enabled(hpet))
		return;
	u64 ticks = (t->comparator - counter_now(hpet)) & width_mask(t);
	if (ticks > FAR_TICKS)
		return;
	/* From the last whole tick. */
	u64 now = clock_now(hpet->clock);
	u64 deadline = now - (now - hpet->started) % HPET_PERIOD_NS + ticks * HPET_PERIOD_NS;
	timer_arm(&t->timer, deadline < soonest_ns ? soonest_ns : deadline);
}

/* Something changed: nothing is left of what was missed. */
static void restart(struct hpet_timer *t)
{
	t->missed = 0;
	arm(t, 0);
}

/* A match of a periodic timer, or one in place of a match that was missed. */
static void match_periodic(struct hpet_timer *t)
{
	u64 now = clock_now(t->hpet->clock);
	u64 late = (counter_now(t->hpet) - t->comparator) & width_mask(t);

	if (late > width_mask(t) / 2) {
		t->missed--; /* the comparator lies ahead */
	} else {
		t->missed = missed_add(t->missed, late / t->period);
		t->comparator = (t->comparator + (late / t->period + 1) * t->period) & width_mask(t);
	}
	arm(t, now + MIN_PERIOD_NS);
	u64 soon = now + missed_wait(t->period * HPET_PERIOD_NS, MIN_PERIOD_NS);
	if (t->missed && soon < t->timer.deadline)
		timer_arm(&t->timer, soon);
}

static void match(void *opaque)
{
	struct hpet_timer *t = opaque;
	u64 now = clock_now(t->hpet->clock);

	if (t->config & TN_PERIODIC && t->period) {
		match_periodic(t);
	} else {
		/* The next match is a wrap-around away: minutes in 32-bit mode, never in 64-bit mode. */
		if (t->config & TN_32BIT)
			timer_arm(&t->timer, now + (BIT(32) * HPET_PERIOD_NS));
	}
	raise(t);
}

/* What is due happens before the guest sees or changes anything. */
static void catch_up(struct hpet *hpet)
{
	u64 now = clock_now(hpet->clock);

	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		struct hpet_timer *t = &hpet->timer[n];
		if (t->timer.deadline > now)
			continue;
		timer_disarm(&t->timer);
		match(t);
	}
}

/* --- registers --- */

static u64 register_read(const struct hpet *hpet, u64 offset)
{
	switch (offset) {
	case CAPABILITIES:
		return HPET_PERIOD_NS * FEMTOSECONDS_PER_NS << 32 | HPET_ID;
	case CONFIG:
		return hpet->config;
	case STATUS:
		return hpet->status;
	case COUNTER:
		return counter_now(hpet);
	default:
		break;
	}
	unsigned n = (unsigned)((offset - TIMER0) / TIMER_STRIDE);
	if (offset < TIMER0 || n >= HPET_TIMERS)
		return 0;
	switch (offset & (TIMER_STRIDE - 1)) {
	case TIMER_CONFIG:
		return hpet->timer[n].config;
	case TIMER_COMPARATOR:
		return hpet->timer[n].comparator;
	default: /* FSB route: not there */
		return 0;
	}
}

static void write_config(struct hpet *hpet, u64 value)
{
	bool enable = value & CONFIG_ENABLE;
	bool legacy_changes = (value ^ hpet->config) & CONFIG_LEGACY;

	if (legacy_changes)
		for (unsigned n = 0; n < HPET_TIMERS; n++)
			release(&hpet->timer[n]);
	hpet->counter = counter_now(hpet);
	hpet->started = clock_now(hpet->clock);
	hpet->config = value & (CONFIG_ENABLE | CONFIG_LEGACY);
	if (legacy_changes)
		for (unsigned i = 0; i < 2; i++)
			irq_set(&hpet->legacy[i], !(value & CONFIG_LEGACY) && hpet->legacy_in[i]);
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		struct hpet_timer *t = &hpet->timer[n];
		if (!enable)
			release(t);
		restart(t);
	}
}

static void write_counter(struct hpet *hpet, u64 value)
{
	/* Only meant for the halted counter; a running one takes it too. */
	hpet->counter = value;
	hpet->started = clock_now(hpet->clock);
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		restart(&hpet->timer[n]);
}

static void write_status(struct hpet *hpet, u64 value)
{
	for (unsigned n = 0; n < HPET_TIMERS; n++)
		if (value >> n & 1) {
			hpet->status &= ~BIT(n);
			release(&hpet->timer[n]);
		}
}

static void write_timer_config(struct hpet_timer *t, u64 value)
{
	u64 changed = value ^ t->config;

	if (changed & (TN_LEVEL | TN_ENABLE | BITS(13, 9)))
		release(t);
	/* A route that the capabilities do not offer does not stick. */
	if (!(TN_ROUTES >> TN_ROUTE(value) & 1))
		value &= ~BITS(13, 9);
	t->config = (value & TN_WRITABLE) | TN_READ_ONLY;
	t->comparator &= width_mask(t);
	t->period &= width_mask(t);
	if (changed & (TN_32BIT | TN_PERIODIC))
		restart(t);
}

/*
 * In periodic mode the value written is the period from now on; with TN_SET also the next match (2.3.9.2.2). Drivers
 * write twice: first the match, then the period.
 */
static void write_comparator(struct hpet_timer *t, u64 value, u64 written)
{
	bool periodic = t->config & TN_PERIODIC;

	if (periodic)
		t->period = ((t->period & ~written) | (value & written)) & width_mask(t);
	if (!periodic || (t->config & TN_SET)) {
		t->comparator = ((t->comparator & ~written) | (value & written)) & width_mask(t);
		/* A value written in two halves is complete with the upper one, unless there is none. */
		if ((written >> 32) || (t->config & TN_32BIT))
			t->config &= ~TN_SET;
		restart(t);
	}
}

/* `written` masks the bits of the 64-bit register that the access covers. */
static void register_write(struct hpet *hpet, u64 offset, u64 value, u64 written)
{
	u64 merged = (register_read(hpet, offset) & ~written) | (value & written);

	switch (offset) {
	case CONFIG:
		write_config(hpet, merged);
		return;
	case STATUS:
		write_status(hpet, value & written);
		return;
	case COUNTER:
		write_counter(hpet, merged);
		return;
	default:
		break;
	}
	unsigned n = (unsigned)((offset - TIMER0) / TIMER_STRIDE);
	if (offset < TIMER0 || n >= HPET_TIMERS)
		return;
	struct hpet_timer *t = &hpet->timer[n];
	if ((offset & (TIMER_STRIDE - 1)) == TIMER_CONFIG)
		write_timer_config(t, merged);
	else if ((offset & (TIMER_STRIDE - 1)) == TIMER_COMPARATOR)
		write_comparator(t, value, written);
}

/* Accesses are aligned, of 4 or 8 bytes (2.1.1); smaller reads are harmless. */
static u64 hpet_read(void *device, u64 offset, unsigned size)
{
	struct hpet *hpet = device;
	unsigned shift = (offset & 7) * 8;

	if ((offset & 7) + size > 8)
		return 0;
	catch_up(hpet);
	u64 value = register_read(hpet, offset & ~7ULL) >> shift;
	return size < 8 ? value & BITS(8 * size - 1, 0) : value;
}

static void hpet_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct hpet *hpet = device;
	unsigned shift = (offset & 7) * 8;

	if (size < 4 || (offset & (size - 1)))
		return;
	catch_up(hpet);
	u64 written = (size == 8 ? ~0ULL : 0xffffffffULL) << shift;
	register_write(hpet, offset & ~7ULL, value << shift, written);
}

void hpet_legacy_input(void *opaque, unsigned input, bool level)
{
	struct hpet *hpet = opaque;

	hpet->legacy_in[input & 1] = level;
	if (!(hpet->config & CONFIG_LEGACY))
		irq_set(&hpet->legacy[input & 1], level);
}

void hpet_reset(struct hpet *hpet)
{
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		struct hpet_timer *t = &hpet->timer[n];
		release(t);
		timer_disarm(&t->timer);
		t->missed = 0;
		t->config = TN_READ_ONLY;
		t->comparator = ~0ULL;
		t->period = 0;
	}
	hpet->config = 0;
	hpet->status = 0;
	hpet->counter = 0;
}

void hpet_init(struct hpet *hpet, struct clock *clock, struct irq_line gsi, struct irq_line irq0, struct irq_line irq8)
{
	*hpet = (struct hpet){ .clock = clock, .gsi = gsi, .legacy = { irq0, irq8 } };
	for (unsigned n = 0; n < HPET_TIMERS; n++) {
		hpet->timer[n].hpet = hpet;
		timer_init(&hpet->timer[n].timer, clock, match, &hpet->timer[n]);
	}
	hpet_reset(hpet);
}

const struct io_ops hpet_ops = { .read = hpet_read, .write = hpet_write };
