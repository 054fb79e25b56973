/*
 * Random x87, MMX, SSE and AVX instructions on the CPU, in every width of code, with random register contents,
 * exception masks and control registers: none of them faults on the host, or leaves the host's floating-point state
 * changed.
 *
 *	fuzz-vectors [-runs=N] [-seconds=N] [-seed=N]
 */
#include "runs.h"

#include "cpu/fpu.h"
#include "cpu/native.h"

#include <stdio.h>

static struct machine *m;

/* An opcode of the 0F map that MMX and SSE use. */
static u8 two_byte_opcode(void)
{
	static const struct {
		u8 first, count;
	} ranges[] = { { 0x10, 8 }, { 0x28, 8 }, { 0x50, 48 }, { 0xae, 1 }, { 0xc2, 5 }, { 0xd0, 48 } };
	unsigned i = (unsigned)next_random() % G_N_ELEMENTS(ranges);
	return (u8)(ranges[i].first + next_random() % ranges[i].count);
}

/* One instruction of these families, operands and all; returns its length at most. */
static unsigned put_instruction(u8 *b)
{
	static const u8 prefixes[] = { 0x66, 0xf3, 0xf2, 0x67, 0x2e, 0x64 };
	static const u8 maps[] = { 0, 0x38, 0x3a };
	unsigned n = 0, map = (unsigned)next_random() % 4;
	if (one_in(4)) { /* x87 */
		b[n++] = 0xd8 | (next_random() & 7);
	} else if (one_in(2)) { /* VEX */
		b[n++] = 0xc4;
		b[n++] = (u8)((next_random() & 0xe0) | (1 + next_random() % 3));
		b[n++] = (u8)next_random();
		b[n++] = (u8)next_random();
	} else {
		if (one_in(2))
			b[n++] = prefixes[next_random() % sizeof(prefixes)];
		if (m->cpu.mode == CPU_LONG && one_in(2))
			b[n++] = 0x40 | (next_random() & 15);
		b[n++] = 0x0f;
		if (map > 1)
			b[n++] = maps[map - 1];
		b[n++] = map > 1 ? (u8)next_random() : two_byte_opcode();
	}
	b[n++] = (u8)next_random(); /* ModRM */
	b[n++] = (u8)next_random(); /* SIB, displacement, immediate */
	return n;
}

static void random_code(void)
{
	u8 *code = m->mem.host + CODE;
	unsigned n = 0;
	mem_about_to_write(&m->mem, CODE, 512);
	memset(code, 0xf4, 512);
	for (unsigned i = 0; i < 12; i++)
		n += put_instruction(code + n);
}

static void random_fpu(void)
{
	struct cpu *cpu = &m->cpu;
	for (unsigned i = 0; i < sizeof(cpu->fpu); i += 8) {
		u64 v = next_random();
		memcpy((u8 *)&cpu->fpu + i, &v, 8);
	}
	fpu_set_mxcsr(cpu, (u32)next_random() & MXCSR_VALID);
	fpu_set_fcw(cpu, (u16)((next_random() & 0x1f3f) | 0x40));
	fpu_set_fop(cpu, fpu_fop(cpu) & 0x7ff);
	fpu_update_summary(cpu);
	memset(cpu->fpu.header, 0, sizeof(cpu->fpu.header));
}

static void enter_mode(void)
{
	static const u32 code_rights[] = { 0xa09b, 0xa09b, 0xc09b, 0x809b };
	struct x86_state s;
	machine_set_long_mode(m);
	cpu_get_state(&m->cpu, &s);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		s.gpr[i] = one_in(3) ? next_random() : DATA + (next_random() & 0x3fff);
	s.cr0 |= CR0_MP | (one_in(8) ? CR0_TS : 0) | (one_in(16) ? CR0_EM : 0);
	s.cr0 &= one_in(8) ? ~CR0_NE : ~0ULL;
	s.cr4 |= (one_in(8) ? 0 : CR4_OSXMMEXCPT) | (one_in(8) ? 0 : CR4_OSXSAVE);
	s.seg[SEG_CS].ar = code_rights[next_random() % 4];
	cpu_set_state(&m->cpu, &s);
	m->cpu.xcr0 = one_in(8) ? XCR0_X87 : xsave_supported(&m->cpu);
}

/* What compiled code relies on: MXCSR and the x87 control word as they were, no x87 register in use. */
static void check_host(void)
{
	u16 environment[14];
	g_assert_cmphex(host_mxcsr() & 0xffc0, ==, 0x1f80);
	__asm__ volatile("fnstenv %0\n\tfldenv %0" : "+m"(environment));
	g_assert_cmphex(environment[0], ==, 0x37f);
	g_assert_cmphex(environment[2] & 0x3800, ==, 0);
	g_assert_cmphex(environment[4], ==, 0xffff);
}

static void try_once(void)
{
	machine_tables(m);
	enter_mode();
	random_code();
	random_fpu();
	fuzz_run_a_moment(m);
	check_host();
	g_assert_cmphex(fpu_mxcsr(&m->cpu) & ~MXCSR_VALID, ==, 0);
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
