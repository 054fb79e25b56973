/*
 * A small machine to run snippets of guest code on: one CPU, 16 MiB of RAM, no devices. Code is written as assembly in
 * the test (GUEST), copied to CODE and run in 64-bit mode at CPL 0 until it halts.
 *
 * Pages are 4 KiB, mapped one to one for [0, 2 MiB) by tables that the tests may change; exceptions go to a handler
 * that records the vector and halts.
 */
#ifndef STRATA_TESTS_UNIT_MACHINE_H
#define STRATA_TESTS_UNIT_MACHINE_H

/* <ucontext.h>, which GLib brings along, has a REG_RIP of its own for GNU sources. */
#undef _GNU_SOURCE
#define _DEFAULT_SOURCE 1

#include "cpu/block_cache.h"
#include "cpu/cpu.h"

#include <glib.h>
#include <string.h>

/* Guest code in AT&T syntax, as the bytes from name to name_end. */
#define GUEST(name, ...)                                                                                               \
	asm(".pushsection .rodata\n" #name ":\n" __VA_ARGS__ "\n" #name "_end:\n\t.popsection");                       \
	extern const u8 name[], name##_end[]

enum {
	RAM_SIZE = 16 << 20,
	PML4 = 0x1000,
	PDPT = 0x2000,
	PD = 0x3000,
	PT = 0x4000, /* maps [0, 2 MiB) */
	GDT = 0x5000,
	IDT = 0x6000,
	TSS = 0x7000,
	HANDLERS = 0x8000, /* 16 bytes for each of 32 vectors */
	STACK = 0x20000,
	CODE = 0x100000,
	DATA = 0x180000
};

struct machine {
	struct cpu cpu;
	struct mem mem;
	struct bus bus;
	struct cpu_config config;
	struct cpu_platform platform;
};

static u64 machine_tsc(void *opaque)
{
	return 0;
}

static bool machine_no_interrupt(void *opaque)
{
	return false;
}

static int machine_no_vector(void *opaque)
{
	return -1;
}

static void machine_write_u64(struct machine *m, u64 gpa, u64 value)
{
	mem_about_to_write(&m->mem, gpa, 8);
	memcpy(m->mem.host + gpa, &value, 8);
}

/* Maps the page of va, below 2 MiB, to the page of gpa; flags 0 unmaps. The guest must invalidate it. */
static inline void machine_map(struct machine *m, u64 va, u64 gpa, u64 flags)
{
	machine_write_u64(m, PT + 8 * (va >> 12), flags ? (gpa & PAGE_MASK) | flags : 0);
}

static void machine_tables(struct machine *m)
{
	machine_write_u64(m, PML4, PDPT | 3);
	machine_write_u64(m, PDPT, PD | 3);
	machine_write_u64(m, PD, PT | 3);
	for (u64 page = 0; page < 512; page++)
		machine_write_u64(m, PT + 8 * page, page << 12 | 3);
	machine_write_u64(m, GDT + 8, 0x00af9b000000ffffULL);  /* 8: 64-bit code */
	machine_write_u64(m, GDT + 16, 0x00cf93000000ffffULL); /* 10h: data */
	for (u64 v = 0; v < 32; v++) {
		/* mov $v, %al; mov %cr2, %rbx; hlt; the error code and the frame stay on the stack */
		u64 at = HANDLERS + 16 * v;
		const u8 code[] = { 0xb0, (u8)v, 0x0f, 0x20, 0xd3, 0xf4 };
		memcpy(m->mem.host + at, code, sizeof(code));
		machine_write_u64(m, IDT + 16 * v, (at & 0xffff) | 0x8ULL << 16 | 0x8e01ULL << 32 | (at >> 16) << 48);
		machine_write_u64(m, IDT + 16 * v + 8, 0);
	}
	machine_write_u64(m, TSS + 0x24, STACK - 0x1000); /* IST1: faults do not disturb the stack under test */
}

static struct segment machine_segment(u16 selector, u32 ar)
{
	return (struct segment){ .selector = selector, .limit = 0xffffffff, .ar = ar };
}

static void machine_set_long_mode(struct machine *m)
{
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	s.cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_ET;
	s.cr3 = PML4;
	s.cr4 = CR4_PAE | CR4_OSFXSR;
	s.efer = EFER_LME | EFER_LMA | EFER_NXE;
	s.gdtr = (struct table_register){ .base = GDT, .limit = 0x2f };
	s.idtr = (struct table_register){ .base = IDT, .limit = 32 * 16 - 1 };
	for (unsigned i = 0; i < SEG_LDTR; i++)
		s.seg[i] = machine_segment(0x10, 0xc093);
	s.seg[SEG_CS] = machine_segment(0x8, 0xa09b);
	s.seg[SEG_TR] = (struct segment){ .selector = 0x18, .limit = 0x67, .ar = 0x8b, .base = TSS };
	s.rip = CODE;
	s.rflags = RFLAGS_ONE;
	s.gpr[RSP] = STACK;
	cpu_set_state(&m->cpu, &s);
}

/* There is no APIC: its MSRs are not there. */
static bool machine_no_msr_read(void *opaque, u32 msr, u64 *value)
{
	return false;
}

static bool machine_no_msr_write(void *opaque, u32 msr, u64 value)
{
	return false;
}

static u8 machine_no_tpr(void *opaque)
{
	return 0;
}

static void machine_drop_tpr(void *opaque, u8 value)
{
}

static void machine_drop_init(void *opaque)
{
}

/* With extensions `hv` (NULL: none) of the kind `nested`. */
static inline struct machine *machine_new_nested(enum nested_kind nested, const struct hv_ops *hv)
{
	struct machine *m = g_new0(struct machine, 1);
	m->config.nested = nested;
	m->cpu.hv = hv;
	m->config.tsc_khz = 1000000;
	m->config.phys_bits = 40;
	m->config.cpu_count = 1;
	m->platform.tsc = machine_tsc;
	m->platform.interrupt_pending = machine_no_interrupt;
	m->platform.ack_interrupt = machine_no_vector;
	m->platform.apic_msr_read = machine_no_msr_read;
	m->platform.apic_msr_write = machine_no_msr_write;
	m->platform.tpr_read = machine_no_tpr;
	m->platform.tpr_write = machine_drop_tpr;
	m->platform.apic_init = machine_drop_init;
	g_assert_cmpint(mem_init(&m->mem, RAM_SIZE), ==, 0);
	bus_init(&m->bus);
	g_assert_cmpint(cpu_init(&m->cpu, &m->mem, &m->bus, &m->config, &m->platform), ==, 0);
	machine_tables(m);
	machine_set_long_mode(m);
	return m;
}

static inline struct machine *machine_new(void)
{
	return machine_new_nested(NESTED_NONE, NULL);
}

static inline void machine_free(struct machine *m)
{
	cpu_destroy(&m->cpu);
	bus_destroy(&m->bus);
	mem_destroy(&m->mem);
	g_free(m);
}

static inline void machine_load_at(struct machine *m, u64 gpa, const u8 *code, const u8 *end)
{
	mem_about_to_write(&m->mem, gpa, (u64)(end - code));
	memcpy(m->mem.host + gpa, code, (size_t)(end - code));
}
#define machine_load(m, name) machine_load_at(m, CODE, name, name##_end)

/* Runs from CODE until HLT. */
static inline void machine_run(struct machine *m)
{
	m->cpu.reg[REG_RIP] = CODE;
	m->cpu.activity = CPU_ACTIVE;
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
	g_assert_cmpint(m->cpu.activity, ==, CPU_HALTED);
}

/* The 64-bit word n of the exception frame: with an error code, that is word 0, RIP the next. */
static inline u64 machine_frame(struct machine *m, unsigned n)
{
	u64 v;
	memcpy(&v, m->mem.host + m->cpu.reg[RSP] + 8 * n, 8);
	return v;
}

#endif
