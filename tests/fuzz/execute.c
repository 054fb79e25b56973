/*
 * Random code on the CPU, in every mode, with random registers, segments and descriptor tables: whatever it does stays
 * in the guest. Each run is ended by a signal after a moment, or by the guest itself.
 *
 *	fuzz-execute [-runs=N] [-seconds=N] [-seed=N]
 */
#include "runs.h"

#include <stdio.h>

static struct machine *m;

/* Addresses that may mean something, and any. */
static u64 random_value(void)
{
	static const u64 places[] = { CODE, DATA, STACK, 0x1ffff8, 0, ~0ULL, 0x7ffffffffff8, IDT, GDT, PT };
	u64 v = next_random();
	switch (v >> 61) {
	case 0:
		return v;
	case 1:
		return v & 0xff;
	case 2:
		return v & 0x1fffff;
	default:
		return places[v % G_N_ELEMENTS(places)] + (v >> 32 & 0xff);
	}
}

/* Code: random bytes, with opcodes of the two-byte map and REP prefixes more often than chance gives. */
static void random_code(u64 gpa, u64 size)
{
	for (u64 i = 0; i < size; i++) {
		u8 byte = (u8)next_random();
		if (one_in(12))
			byte = 0x0f;
		else if (one_in(20))
			byte = one_in(2) ? 0xf3 : 0x48;
		m->mem.host[gpa + i] = byte;
	}
}

static void random_segments(struct x86_state *s, u32 code_ar)
{
	for (unsigned i = 0; i < SEG_LDTR; i++) {
		struct segment *seg = &s->seg[i];
		*seg = machine_segment((u16)(one_in(4) ? next_random() : 0x10), 0xc093);
		if (one_in(3))
			seg->ar = (u32)(next_random() & 0xf0ff) | SEG_AR_S | SEG_AR_P;
		if (one_in(3))
			seg->limit = (u32)next_random() >> (next_random() & 31);
		if (one_in(3))
			seg->base = next_random() & 0x1fffff;
	}
	s->seg[SEG_CS] = (struct segment){ .selector = 8, .limit = 0xffffffff, .ar = code_ar };
	if (one_in(2))
		s->seg[SEG_CS].limit = 0x1fffff;
}

static void enter_mode(void)
{
	struct x86_state s;

	machine_set_long_mode(m);
	cpu_get_state(&m->cpu, &s);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		s.gpr[i] = random_value();
	s.rflags = (next_random() & 0x3f7fd7) | RFLAGS_ONE;
	s.rflags &= ~(one_in(8) ? 0 : RFLAGS_TF) & ~RFLAGS_VM;
	switch (next_random() % 6) {
	case 0: /* real mode */
		s.cr0 = CR0_ET;
		s.efer = s.cr4 = 0;
		random_segments(&s, 0x9b);
		s.idtr = (struct table_register){ .base = 0, .limit = 0x3ff };
		s.seg[SEG_CS].base = CODE;
		s.rip = next_random() & 0xff;
		break;
	case 1: /* protected, 16 or 32 bits, no paging */
		s.cr0 = CR0_PE | CR0_ET | (one_in(2) ? CR0_AM : 0);
		s.efer = s.cr4 = 0;
		random_segments(&s, one_in(2) ? 0xc09b : 0x9b);
		break;
	case 2: /* virtual-8086 */
		s.cr0 = CR0_PE | CR0_ET;
		s.efer = 0;
		s.cr4 = one_in(2) ? CR4_VME : 0;
		s.rflags |= RFLAGS_VM;
		random_segments(&s, 0xf3);
		s.seg[SEG_CS].base = CODE;
		s.seg[SEG_CS].limit = 0xffff;
		s.seg[SEG_SS].ar = 0xf3;
		s.rip = next_random() & 0xff;
		break;
	case 3: /* compatibility */
		random_segments(&s, 0xc09b);
		break;
	case 4: /* 64 bits, user */
		for (u64 page = 0; page < 512; page++)
			machine_write_u64(m, PT + 8 * page, page << 12 | 7);
		for (u64 level = PML4; level <= PD; level += 0x1000)
			machine_write_u64(m, level, (level + 0x1000) | 7);
		s.seg[SEG_CS].ar = 0xa0fb;
		s.seg[SEG_SS].ar = 0xc0f3;
		break;
	default:
		break;
	}
	cpu_set_state(&m->cpu, &s);
}

static void try_once(void)
{
	machine_tables(m);
	random_code(CODE, 512);
	if (one_in(4))
		for (unsigned i = 0; i < 64; i++)
			m->mem.host[GDT + 24 + next_random() % 256] = (u8)next_random();
	if (one_in(4))
		for (unsigned i = 0; i < 16; i++)
			m->mem.host[IDT + next_random() % 512] = (u8)next_random();
	enter_mode();
	fuzz_run_a_moment(m);
	g_assert_cmpuint(m->cpu.reg[REG_ZERO], ==, 0);
	g_assert_cmphex(m->cpu.rflags_sys & RFLAGS_ARITH, ==, 0);
	g_assert_true(m->cpu.rflags_sys & RFLAGS_ONE);
	cpu_reset(&m->cpu);
}

int main(int argc, char **argv)
{
	fuzz_begin(argc, argv);
	m = machine_new();
	printf("ok: %lu runs\n", fuzz_runs(m, try_once));
	machine_free(m);
	return 0;
}
