#include "chip/lapic_timer.h"

/*
 * A guest may ask for a period of a nanosecond. The host is woken at most this often, and the guest has time to do more
 * than take interrupts; those that fall between merge, as they would in the IRR.
 */
#define MIN_PERIOD_NS 100000ULL

/* TSC ticks further away than this are waited for in steps, so that no conversion overflows. */
#define MAX_TSC_STEP BIT(50)

static u32 timer_mode(const struct lapic *lapic)
{
	return lapic->lvt[LVT_TIMER] & LVT_TIMER_MODE_MASK;
}

/* Divide configuration, bits 3, 1, 0: 0 divides by 2, 6 by 128, 7 by 1 (SDM vol. 3, figure 11-10). */
static unsigned divide_shift(const struct lapic *lapic)
{
	unsigned code = (lapic->timer_divide & 3) | (lapic->timer_divide >> 1 & 4);
	return (code + 1) & 7;
}

/* Nanoseconds from loading the initial count to zero; one input tick is a nanosecond. */
static u64 count_ns(const struct lapic *lapic)
{
	_Static_assert(LAPIC_TIMER_HZ == NS_PER_SEC, "counts are taken for nanoseconds");
	return (u64)lapic->timer_initial << divide_shift(lapic);
}

static u64 tsc_now(struct lapic *lapic)
{
	if (lapic->cpu.tsc)
		return lapic->cpu.tsc(lapic->cpu_opaque);
	return mul_div(clock_now(lapic->clock), lapic->tsc_khz, 1000000);
}

static void arm_deadline(struct lapic *lapic, u64 tsc)
{
	u64 ticks = lapic->tsc_deadline - tsc;
	if (ticks > MAX_TSC_STEP)
		ticks = MAX_TSC_STEP;
	timer_arm(&lapic->timer, clock_now(lapic->clock) + mul_div(ticks, 1000000, lapic->tsc_khz) + 1);
}

static void arm_periodic(struct lapic *lapic, u64 now, u64 least_ns)
{
	u64 period = count_ns(lapic);
	u64 next = lapic->timer_start + ((now - lapic->timer_start) / period + 1) * period;
	timer_arm(&lapic->timer, next < now + least_ns ? now + least_ns : next);
}

/* Starts the wait for the next expiry, if any; expiries in the past are over. */
static void rearm(struct lapic *lapic)
{
	u64 now = clock_now(lapic->clock);
	u64 end = lapic->timer_start + count_ns(lapic);

	timer_disarm(&lapic->timer);
	if (timer_mode(lapic) == LVT_TIMER_DEADLINE) {
		if (lapic->tsc_deadline)
			arm_deadline(lapic, tsc_now(lapic));
	} else if (lapic->timer_initial == 0 || lapic->timer_stopped || (lapic->lvt[LVT_TIMER] & LVT_MASKED)) {
		return;
	} else if (timer_mode(lapic) == LVT_TIMER_PERIODIC) {
		arm_periodic(lapic, now, 0);
	} else {
		timer_arm(&lapic->timer, end); /* a short count may have ended meanwhile: then at once */
	}
}

static void fire(void *opaque)
{
	struct lapic *lapic = opaque;

	if (timer_mode(lapic) == LVT_TIMER_DEADLINE) {
		u64 tsc = tsc_now(lapic);
		if (tsc < lapic->tsc_deadline) {
			arm_deadline(lapic, tsc);
			return;
		}
		lapic->tsc_deadline = 0;
	} else if (timer_mode(lapic) == LVT_TIMER_PERIODIC) {
		arm_periodic(lapic, clock_now(lapic->clock), MIN_PERIOD_NS);
	}
	lapic_timer_expired(lapic);
}

/* The waiting thread may be late: an expiry that is due happens before the guest sees or changes the timer. */
static void catch_up(struct lapic *lapic)
{
	if (lapic->timer.deadline == CLOCK_NEVER || lapic->timer.deadline > clock_now(lapic->clock))
		return;
	timer_disarm(&lapic->timer);
	fire(lapic);
}

void lapic_timer_init(struct lapic *lapic)
{
	timer_init(&lapic->timer, lapic->clock, fire, lapic);
}

void lapic_timer_reset(struct lapic *lapic)
{
	timer_disarm(&lapic->timer);
	lapic->timer_initial = 0;
	lapic->timer_divide = 0;
	lapic->timer_start = 0;
	lapic->timer_stopped = false;
	lapic->tsc_deadline = 0;
}

static u32 current_count(const struct lapic *lapic)
{
	if (lapic->timer_initial == 0 || lapic->timer_stopped || timer_mode(lapic) == LVT_TIMER_DEADLINE)
		return 0;
	u64 ticks = (clock_now(lapic->clock) - lapic->timer_start) >> divide_shift(lapic);
	if (timer_mode(lapic) == LVT_TIMER_PERIODIC)
		return lapic->timer_initial - (u32)(ticks % lapic->timer_initial);
	return ticks >= lapic->timer_initial ? 0 : lapic->timer_initial - (u32)ticks;
}

/* The count goes on from `current`, in the mode and at the rate that are set now; from 0 it goes nowhere. */
static void count_on(struct lapic *lapic, u32 current)
{
	u64 gone = (u64)(lapic->timer_initial - current) << divide_shift(lapic);

	/* May wrap below 0, which is harmless: only differences to timer_start are used. */
	lapic->timer_start = clock_now(lapic->clock) - gone;
	lapic->timer_stopped = current == 0;
}

void lapic_timer_write_lvt(struct lapic *lapic, u32 value)
{
	catch_up(lapic);
	u32 changed = lapic->lvt[LVT_TIMER] ^ value;
	u32 old_mode = timer_mode(lapic);
	u32 current = current_count(lapic);

	lapic->lvt[LVT_TIMER] = value;
	if (!(changed & (LVT_TIMER_MODE_MASK | LVT_MASKED)))
		return;
	/* Switching between deadline mode and the others disarms the timer (SDM vol. 3, 11.5.4.1). */
	if (old_mode != timer_mode(lapic) &&
	    (old_mode == LVT_TIMER_DEADLINE || timer_mode(lapic) == LVT_TIMER_DEADLINE)) {
		lapic->timer_initial = 0;
		lapic->tsc_deadline = 0;
	}
	if (lapic->timer_initial)
		count_on(lapic, current);
	rearm(lapic);
}

void lapic_timer_write_initial(struct lapic *lapic, u32 value)
{
	if (timer_mode(lapic) == LVT_TIMER_DEADLINE)
		return;
	catch_up(lapic);
	lapic->timer_initial = value;
	lapic->timer_start = clock_now(lapic->clock);
	lapic->timer_stopped = false;
	rearm(lapic);
}

u32 lapic_timer_current(struct lapic *lapic)
{
	catch_up(lapic);
	return current_count(lapic);
}

void lapic_timer_write_divide(struct lapic *lapic, u32 value)
{
	catch_up(lapic);
	u32 current = current_count(lapic);

	lapic->timer_divide = value & 0xb;
	if (lapic->timer_initial && timer_mode(lapic) != LVT_TIMER_DEADLINE) {
		count_on(lapic, current);
		rearm(lapic);
	}
}

void lapic_timer_write_deadline(struct lapic *lapic, u64 value)
{
	/* Outside deadline mode, writes are ignored and reads give 0 (SDM vol. 3, 11.5.4.1). */
	if (timer_mode(lapic) != LVT_TIMER_DEADLINE)
		return;
	lapic->tsc_deadline = value;
	if (value == 0) {
		timer_disarm(&lapic->timer);
		return;
	}
	u64 tsc = tsc_now(lapic);
	if (value > tsc) {
		arm_deadline(lapic, tsc);
		return;
	}
	timer_disarm(&lapic->timer);
	lapic->tsc_deadline = 0;
	lapic_timer_expired(lapic);
}

u64 lapic_timer_read_deadline(struct lapic *lapic)
{
	catch_up(lapic);
	return lapic->tsc_deadline;
}

void lapic_tsc_changed(struct lapic *lapic)
{
	if (lapic->tsc_deadline && timer_mode(lapic) == LVT_TIMER_DEADLINE)
		lapic_timer_write_deadline(lapic, lapic->tsc_deadline);
}
