/*
 * The local APIC of one CPU, as xAPIC (memory page) and x2APIC (MSRs): SDM vol. 3, chapter 11. Version 0x14 with six
 * LVT entries, TSC-deadline timer and suppressible EOI broadcast.
 *
 * The timer counts LAPIC_TIMER_HZ divided by the divide configuration; if CPUID leaf 15h names a crystal, it must be
 * this.
 *
 * Life: lapic_init(), lapic_connect_cpu() (the engine, before the CPU runs), then any calls. lapic_reset() is power-up
 * or RESET; lapic_init_signal() is INIT.
 *
 * Owner: the board, by value. Threads: every call with the board lock held, except lapic_interrupt_pending(). The
 * callbacks of lapic_cpu are called with the lock held, from whichever thread caused them: they only set attention
 * bits.
 */
#ifndef STRATA_CHIP_LAPIC_H
#define STRATA_CHIP_LAPIC_H

#include "base/clock.h"
#include "base/types.h"
#include "chip/apic_bus.h"

#define LAPIC_DEFAULT_BASE 0xfee00000ULL
#define LAPIC_PAGE_SIZE    0x1000ULL
#define LAPIC_TIMER_HZ     1000000000ULL

/* The CPU's side. Functions may be NULL. */
struct lapic_cpu {
	/* lapic_interrupt_pending() may have become true. */
	void (*intr_changed)(void *opaque);
	void (*nmi)(void *opaque);
	void (*smi)(void *opaque);
	void (*init)(void *opaque); /* the CPU then calls lapic_init_signal() when it takes the INIT */
	void (*sipi)(void *opaque, u8 vector);
	/* The CPU's TSC as RDTSC shows it outside of virtualization (with IA32_TSC_ADJUST). NULL: from the clock, no
	 * adjust. */
	u64 (*tsc)(void *opaque);
};

enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

struct lapic {
	/* --- what a CPU looks at all the time --- */
	bool deliverable;     /* an interrupt could be taken now; atomic, written with the lock held */
	bool x2apic, enabled; /* copies of IA32_APIC_BASE bits */
	u8 tpr;
	u32 isr[8], irr[8], tmr[8];
	int isr_top; /* highest vector in service, -1 if none */
	/* --- registers --- */
	u64 base;    /* IA32_APIC_BASE */
	u32 id;      /* APIC ID: all 32 bits */
	u8 xapic_id; /* what the xAPIC ID register says: software may write it */
	u32 ldr, dfr, svr, esr, esr_pending;
	u64 icr;
	u32 lvt[LVT_COUNT];
	u32 timer_initial, timer_divide;
	u64 tsc_deadline;
	/* --- inputs --- */
	bool lint[2];        /* level of LINT0, LINT1 */
	bool extint_message; /* an I/O APIC or MSI sent ExtINT */
	bool bsp;
	u8 phys_bits;    /* MAXPHYADDR: bits of IA32_APIC_BASE from here on are reserved; lapic_init() says 52 */
	bool has_x2apic; /* IA32_APIC_BASE.EXTD may be set; lapic_init() says yes */
	/* --- timer --- */
	struct timer timer;
	u64 timer_start;    /* clock ns at which timer_initial began to count */
	bool timer_stopped; /* a one-shot ran out: nothing counts until the initial count is written */
	u32 tsc_khz;        /* of the guest's TSC */
	struct clock *clock;
	struct apic_bus *bus;
	struct lapic_cpu cpu;
	void *cpu_opaque;
};

/* Joins the bus. APIC ID `id`; the bootstrap processor says so in IA32_APIC_BASE. 0, or -ENOSPC. */
int lapic_init(struct lapic *lapic, struct apic_bus *bus, struct clock *clock, u32 id, bool bsp, u32 tsc_khz);
void lapic_connect_cpu(struct lapic *lapic, const struct lapic_cpu *cpu, void *opaque);
void lapic_reset(struct lapic *lapic);
void lapic_init_signal(struct lapic *lapic);
/* What PC firmware leaves behind: software-enabled, LINT0 ExtINT (bootstrap processor only), LINT1 NMI. For direct
 * boot. */
void lapic_virtual_wire(struct lapic *lapic);

/* Is an external interrupt pending with a priority above PPR, or ExtINT? Any thread, no lock: may be old news. */
static inline bool lapic_interrupt_pending(const struct lapic *lapic)
{
	return __atomic_load_n(&lapic->deliverable, __ATOMIC_RELAXED);
}

/* Is the APIC on? CPUID.01H:EDX[9] shows it. */
static inline bool lapic_enabled(const struct lapic *lapic)
{
	return lapic->enabled;
}

/* Is it on by SVR bit 8? Otherwise it accepts no vectors. */
static inline bool lapic_software_enabled(const struct lapic *lapic)
{
	return lapic->svr & BIT(8);
}

/* The vector that lapic_ack_interrupt() would take from the APIC's own IRR, -1 if none is above PPR. */
int lapic_pending_vector(const struct lapic *lapic);

/* Acknowledges the interrupt to be taken: moves IRR to ISR, or asks the PIC. Its vector, or -1. */
int lapic_ack_interrupt(struct lapic *lapic);

/* End of interrupt, as a write of the EOI register does it. */
void lapic_eoi(struct lapic *lapic);

/* Sends a fixed, edge-triggered interrupt; destination as in posted-interrupt descriptors: xAPIC IDs in bits 15:8. */
void lapic_send(struct lapic *lapic, u32 destination, u8 vector);

/* Task priority as CR8 shows it: 0..15. */
u8 lapic_cr8_read(const struct lapic *lapic);
void lapic_cr8_write(struct lapic *lapic, u8 value);

/* IA32_APIC_BASE, IA32_TSC_DEADLINE, 800h to 8ffh. false: #GP. */
bool lapic_msr_read(struct lapic *lapic, u32 msr, u64 *value);
bool lapic_msr_write(struct lapic *lapic, u32 msr, u64 value);

/* In x2APIC mode, whatever the APIC's state: may RDMSR read the register, does WRMSR take the value? */
bool lapic_x2apic_readable(u32 msr);
bool lapic_x2apic_takes(u32 msr, u64 value);

/* The register page, by byte offset. What is not a naturally aligned 32-bit access to a register reads 0 and writes
 * nothing. */
u32 lapic_page_read(struct lapic *lapic, u32 offset, unsigned size);
void lapic_page_write(struct lapic *lapic, u32 offset, unsigned size, u32 value);

/* A performance counter of the CPU's overflowed. `masks`: the LVT entry's mask is set when it delivers. */
void lapic_counter_overflow(struct lapic *lapic, bool masks);

/* LINT0 (pin 0) or LINT1 (pin 1). */
void lapic_set_lint(struct lapic *lapic, unsigned pin, bool level);

/* An interrupt message arrives; destination was already matched. Returns whether it was accepted. */
bool lapic_accept(struct lapic *lapic, const struct apic_message *message);
/* Does this APIC answer to the message's destination? */
bool lapic_is_destination(const struct lapic *lapic, const struct apic_message *message);
/* Processor priority (PPR), 0..255. */
u8 lapic_ppr(const struct lapic *lapic);

/* IA32_TSC_ADJUST or the TSC changed: the TSC-deadline timer looks anew. */
void lapic_tsc_changed(struct lapic *lapic);

#endif
