/*
 * Several CPUs for small guests, 64-bit mode only. CPU 0 runs guest_main() and gives the others work. A CPU's number is
 * its APIC ID. Only CPU 0 may print, check and expect faults.
 */
#ifndef TESTS_GUEST_SMP_H
#define TESTS_GUEST_SMP_H

#include "guest.h"

enum { SMP_MAX = 64, AP_START = 0x8000 };

enum {
	LAPIC_ID = 0x20,
	LAPIC_EOI = 0xb0,
	LAPIC_LDR = 0xd0,
	LAPIC_DFR = 0xe0,
	LAPIC_SVR = 0xf0,
	LAPIC_ICR = 0x300,
	LAPIC_ICR_HIGH = 0x310,
	LAPIC_TIMER = 0x320,
	LAPIC_INITIAL = 0x380,
	LAPIC_DIVIDE = 0x3e0
};

/* Delivery modes and destinations of the ICR. */
enum {
	ICR_LOWEST = 0x100,
	ICR_NMI = 0x400,
	ICR_INIT = 0x500,
	ICR_STARTUP = 0x600,
	ICR_LOGICAL = 0x800,
	ICR_ASSERT = 0x4000,
	ICR_SELF = 0x40000,
	ICR_ALL = 0x80000,
	ICR_OTHERS = 0xc0000
};

extern unsigned smp_cpus;                      /* how many there are, as CPUID says */
extern volatile unsigned smp_started[SMP_MAX]; /* how often each CPU came out of reset */

/* Starts all others with INIT and start-up IPIs; true once each of them waits for work. */
bool smp_start(void);
/* INIT and a start-up IPI for one CPU. */
void smp_restart(unsigned cpu);

/* CPU n runs the function, and then waits again, with interrupts on. One at a time each. */
void smp_run(unsigned cpu, void (*function)(unsigned cpu));
/* All CPUs do, this one included; returns when all are done. */
void smp_run_all(void (*function)(unsigned cpu));
/* Is CPU n done? Waits long, but not for ever. */
bool smp_wait(unsigned cpu);

/* Lets CPUs [0, smp_cpus) go on together. */
void smp_barrier(void);

static inline u32 lapic_read(u32 reg)
{
	return *(volatile u32 *)(0xfee00000UL + reg);
}

static inline void lapic_write(u32 reg, u32 value)
{
	*(volatile u32 *)(0xfee00000UL + reg) = value;
}

/* An IPI in xAPIC mode, physical or logical as `icr` says. */
static inline void ipi(u8 destination, u32 icr)
{
	lapic_write(LAPIC_ICR_HIGH, (u32)destination << 24);
	lapic_write(LAPIC_ICR, icr);
}

static inline void pause(void)
{
	asm volatile("pause" : : : "memory");
}

static inline unsigned this_cpu(void)
{
	u32 r[4];
	cpuid(1, 0, r);
	return r[1] >> 24;
}

/* Waits for a condition; false if it takes far too long. */
#define WAIT_FOR(condition)                                                                                            \
	({                                                                                                             \
		u64 smp_end = rdtsc() + 30000000000ULL;                                                                \
		while (!(condition) && rdtsc() < smp_end)                                                              \
			pause();                                                                                       \
		(condition);                                                                                           \
	})

#endif
