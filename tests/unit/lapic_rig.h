/* Several local APICs on a bus, for the tests of both. */
#ifndef STRATA_TESTS_LAPIC_RIG_H
#define STRATA_TESTS_LAPIC_RIG_H

#include "chip.h"
#include "chip/lapic.h"

enum { CPUS = 4, TSC_KHZ = 2000000 };

/* xAPIC offsets. */
enum {
	ID = 0x20,
	VERSION = 0x30,
	TPR = 0x80,
	PPR = 0xa0,
	EOI = 0xb0,
	LDR = 0xd0,
	DFR = 0xe0,
	SVR = 0xf0,
	ISR = 0x100,
	TMR = 0x180,
	IRR = 0x200,
	ESR = 0x280,
	ICR = 0x300,
	ICR_HIGH = 0x310,
	LVT_TIMER_REG = 0x320,
	LVT_PERF_REG = 0x340,
	LVT_LINT0_REG = 0x350,
	LVT_LINT1_REG = 0x360,
	LVT_ERROR_REG = 0x370,
	INITIAL = 0x380,
	CURRENT = 0x390,
	DIVIDE = 0x3e0
};
enum { MSR_BASE = 0x1b, MSR_DEADLINE = 0x6e0 };
enum { LVT_MASK = 0x10000, PERIODIC = 0x20000, DEADLINE = 0x40000 };

#define X2(offset) (0x800u + (offset) / 16)

struct cpu_side {
	unsigned intr, nmi, smi, init, sipi;
	u8 sipi_vector;
};

struct rig {
	struct clock clock;
	struct apic_bus bus;
	struct lapic lapic[CPUS];
	struct cpu_side cpu[CPUS];
	unsigned eois, extint_acks;
	u8 eoi_vector;
};

static inline void on_intr(void *opaque)
{
	((struct cpu_side *)opaque)->intr++;
}

static inline void on_nmi(void *opaque)
{
	((struct cpu_side *)opaque)->nmi++;
}

static inline void on_smi(void *opaque)
{
	((struct cpu_side *)opaque)->smi++;
}

static inline void on_init(void *opaque)
{
	((struct cpu_side *)opaque)->init++;
}

static inline void on_sipi(void *opaque, u8 vector)
{
	((struct cpu_side *)opaque)->sipi++;
	((struct cpu_side *)opaque)->sipi_vector = vector;
}

static inline void on_eoi(void *opaque, u8 vector)
{
	struct rig *rig = opaque;
	rig->eois++;
	rig->eoi_vector = vector;
}

static inline int on_extint(void *opaque)
{
	((struct rig *)opaque)->extint_acks++;
	return 0x77;
}

static const struct lapic_cpu cpu_ops = {
	.intr_changed = on_intr, .nmi = on_nmi, .smi = on_smi, .init = on_init, .sipi = on_sipi
};

static inline void write_reg(struct rig *rig, unsigned n, u32 offset, u32 value)
{
	lapic_page_write(&rig->lapic[n], offset, 4, value);
}

static inline u32 read_reg(struct rig *rig, unsigned n, u32 offset)
{
	return lapic_page_read(&rig->lapic[n], offset, 4);
}

/* CPUS local APICs, software-enabled. */
static inline struct rig *rig_new(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	clock_init_manual(&rig->clock);
	apic_bus_init(&rig->bus);
	apic_bus_add_listener(&rig->bus, on_eoi, rig);
	rig->bus.extint_ack = on_extint;
	rig->bus.extint_opaque = rig;
	for (unsigned n = 0; n < CPUS; n++) {
		lapic_init(&rig->lapic[n], &rig->bus, &rig->clock, n, n == 0, TSC_KHZ);
		lapic_connect_cpu(&rig->lapic[n], &cpu_ops, &rig->cpu[n]);
		write_reg(rig, n, SVR, 0x1ff);
	}
	return rig;
}

static inline void wrmsr(struct rig *rig, unsigned n, u32 msr, u64 value)
{
	g_assert_true(lapic_msr_write(&rig->lapic[n], msr, value));
}

static inline bool wrmsr_faults(struct rig *rig, unsigned n, u32 msr, u64 value)
{
	return !lapic_msr_write(&rig->lapic[n], msr, value);
}

static inline u64 rdmsr(struct rig *rig, unsigned n, u32 msr)
{
	u64 value = 0;
	g_assert_true(lapic_msr_read(&rig->lapic[n], msr, &value));
	return value;
}

static inline bool rdmsr_faults(struct rig *rig, unsigned n, u32 msr)
{
	u64 value;
	return !lapic_msr_read(&rig->lapic[n], msr, &value);
}

static inline void to_x2apic(struct rig *rig, unsigned n)
{
	wrmsr(rig, n, MSR_BASE, rdmsr(rig, n, MSR_BASE) | 0xc00);
}

static inline void send_fixed(struct rig *rig, u8 vector, bool level)
{
	struct apic_message message = { .destination = 0, .delivery = APIC_FIXED, .vector = vector, .level = level };
	g_assert_true(apic_bus_deliver(&rig->bus, &message));
}

/* Which CPUs have `vector` in IRR: a bit for each; takes it away again. */
static inline unsigned who_got(struct rig *rig, u8 vector)
{
	unsigned who = 0;
	for (unsigned n = 0; n < CPUS; n++) {
		u32 *irr = &rig->lapic[n].irr[vector / 32];
		if (*irr >> vector % 32 & 1)
			who |= 1u << n;
		*irr &= ~(1u << vector % 32);
	}
	return who;
}

#endif
