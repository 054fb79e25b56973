#include "base/host_clock.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

enum {
	FIRST_NS = 20000000,  /* measured for so long, a rate is good enough to begin with */
	LONG_TICKS_SHIFT = 35 /* a rate is measured over so many ticks, and up to twice as many: some 10 to 30 s */
};

bool host_clock_fits(void)
{
	char name[16] = "";
	FILE *file = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");
	if (!file)
		return false;
	bool read = fgets(name, sizeof(name), file);
	fclose(file);
	return read && !strcmp(name, "tsc\n");
}

/*
 * Behind all that the program does before: RDTSC alone may be executed ahead of it (SDM vol. 2, RDTSC; APM vol. 3), and
 * so behind what another CPU read first, and was seen to have read.
 */
static u64 ordered_tsc(void)
{
	_mm_lfence();
	return __rdtsc();
}

static u64 monotonic_now(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (u64)ts.tv_sec * 1000000000 + (u64)ts.tv_nsec;
}

void host_clock_init(struct host_clock *clock, bool counts)
{
	struct host_line now = { .tsc = ordered_tsc(), .ns = monotonic_now() };
	*clock = (struct host_clock){ .counts = counts, .from = now, .since = now };
}

static u64 on_line(const struct host_line *line, u64 tsc)
{
	/* Another CPU's counter may be a few ticks behind the one that the line was drawn by. */
	i64 ticks = (i64)(tsc - line->tsc);
	return line->ns + (ticks < 0 ? 0 : (u64)((unsigned __int128)(u64)ticks * line->rate >> 32));
}

static void get_line(const struct host_line *from, struct host_line *line)
{
	line->tsc = __atomic_load_n(&from->tsc, __ATOMIC_RELAXED);
	line->ns = __atomic_load_n(&from->ns, __ATOMIC_RELAXED);
	line->rate = __atomic_load_n(&from->rate, __ATOMIC_RELAXED);
}

static void put_line(struct host_line *to, const struct host_line *line)
{
	__atomic_thread_fence(__ATOMIC_RELEASE);
	__atomic_store_n(&to->tsc, line->tsc, __ATOMIC_RELAXED);
	__atomic_store_n(&to->ns, line->ns, __ATOMIC_RELAXED);
	__atomic_store_n(&to->rate, line->rate, __ATOMIC_RELAXED);
}

/* false: there is none yet. */
static bool latest_line(const struct host_clock *clock, struct host_line *line)
{
	u32 latest, now = __atomic_load_n(&clock->latest, __ATOMIC_ACQUIRE);
	do {
		latest = now;
		get_line(&clock->line[latest % 2], line);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		now = __atomic_load_n(&clock->latest, __ATOMIC_RELAXED);
	} while (now != latest); /* the line after the next one takes its place */
	return latest != 0;
}

u64 host_clock_at(const struct host_clock *clock, u64 tsc)
{
	struct host_line line;
	return latest_line(clock, &line) ? on_line(&line, tsc) : 0;
}

static u64 measured_rate(const struct host_line *from, u64 tsc, u64 ns)
{
	return (u64)(((unsigned __int128)(ns - from->ns) << 32) / (tsc - from->tsc));
}

/* A rate by which a line that begins `ahead` ns too late meets the time at its end, or comes nearer at least. */
static u64 slower(u64 rate, u64 ahead)
{
	u64 whole = (u64)((unsigned __int128)HOST_LINE_TICKS * rate >> 32);
	return ahead < whole / 16 ? rate - rate * ahead / whole : rate - rate / 16;
}

/* The counter began anew, as it does where the host slept: so does all that is measured, but for the rate. */
static void begin_anew(struct host_clock *clock, const struct host_line *old, u64 tsc, u64 ns)
{
	clock->from = clock->since = (struct host_line){ .tsc = tsc, .ns = ns };
	clock->from.rate = old->rate;
}

void host_clock_draw(struct host_clock *clock, u64 tsc, u64 ns)
{
	struct host_line old, line = { .tsc = tsc, .ns = ns };
	bool drawn = latest_line(clock, &old);

	if (drawn && tsc < old.tsc)
		begin_anew(clock, &old, tsc, ns);
	if (ns >= clock->from.ns + FIRST_NS && tsc > clock->from.tsc)
		line.rate = measured_rate(&clock->from, tsc, ns);
	else if (clock->from.rate)
		line.rate = clock->from.rate;
	else
		return;
	u64 shown = drawn && tsc >= old.tsc ? on_line(&old, tsc) : 0;
	if (shown > ns) {
		line.ns = shown;
		line.rate = slower(line.rate, shown - ns);
	}
	u32 next = clock->latest + 1;
	put_line(&clock->line[next % 2], &line);
	__atomic_store_n(&clock->latest, next ? next : 2, __ATOMIC_RELEASE);
	if ((tsc - clock->since.tsc) >> LONG_TICKS_SHIFT) {
		clock->from = clock->since;
		clock->since = (struct host_line){ .tsc = tsc, .ns = ns };
	}
}

/*
 * One thread looks at CLOCK_MONOTONIC, and what others see meanwhile is on the old line. The tick before the look, so
 * that no line is behind what others saw there directly.
 */
static void draw_now(struct host_clock *clock)
{
	const u64 undisturbed = 2000;
	if (__atomic_exchange_n(&clock->drawing, true, __ATOMIC_ACQUIRE))
		return;
	u64 before = ordered_tsc(), ns = monotonic_now(), after = ordered_tsc();
	if (after - before < undisturbed)
		host_clock_draw(clock, before, ns);
	__atomic_store_n(&clock->drawing, false, __ATOMIC_RELEASE);
}

u64 host_clock_now(struct host_clock *clock)
{
	const i64 apart = 4096; /* counters of two CPUs, at most */
	struct host_line line;

	if (!clock->counts)
		return monotonic_now();
	u64 tsc = ordered_tsc();
	if (likely(latest_line(clock, &line)) && likely((u64)((i64)(tsc - line.tsc) + apart) < HOST_LINE_TICKS))
		return on_line(&line, tsc);
	draw_now(clock);
	tsc = ordered_tsc();
	return latest_line(clock, &line) ? on_line(&line, tsc) : monotonic_now();
}
