/*
 * Where AMD's and Intel's processors do ordinary instructions differently, the CPU follows the vendor that it shows,
 * whatever the host is. Each test runs one instruction as both.
 */
#include "machine.h"

#include "cpu/event.h"
#include "cpu/fpu.h"

#define PRESENT  BIT(0)
#define WRITABLE BIT(1)
#define USER     BIT(2)

enum { VA = 0x150000 }; /* a page of data; the next one is absent */

#define HIGH 0xdead000000000000ULL

static bool is_amd(const struct machine *m)
{
	return m->config.nested == NESTED_SVM;
}

/* Runs a test as Intel's and as AMD's. */
static void test_both(const void *data)
{
	void (*test)(struct machine *) = (void (*)(struct machine *))(uintptr_t)data;
	for (unsigned amd = 0; amd < 2; amd++) {
		struct machine *m = machine_new_nested(amd ? NESTED_SVM : NESTED_NONE, NULL);
		machine_map(m, VA, 0x160000, PRESENT | WRITABLE | USER);
		machine_map(m, VA + PAGE_SIZE, 0, 0);
		machine_write_u64(m, PML4, PDPT | PRESENT | WRITABLE | USER);
		machine_write_u64(m, PDPT, PD | PRESENT | WRITABLE | USER);
		machine_write_u64(m, PD, PT | PRESENT | WRITABLE | USER);
		mmu_flush_all(&m->cpu.mmu);
		memset(m->mem.host + 0x160000, 0, PAGE_SIZE);
		test(m);
		machine_free(m);
	}
}

/* Executes one instruction; the vector that it raised, or -1. */
static int run(struct machine *m, const char *bytes, unsigned size)
{
	static struct insn insn;
	struct cpu *cpu = &m->cpu;
	u8 code[15] = { 0 };
	memcpy(code, bytes, size);
	g_assert_true(insn_decode(cpu, cpu->mode_key, code, sizeof(code), &insn));
	g_assert_cmpuint(insn.length, ==, size);
	cpu->insn = &insn;
	cpu->rip_start = CODE;
	cpu->pending.valid = false;
	if (_setjmp(cpu->restart) == 0) {
		cpu->reg[REG_RIP] = CODE + size;
		insn.exec(cpu, &insn);
	}
	return cpu->pending.valid ? cpu->pending.vector : -1;
}

#define RUN(m, bytes) run(m, bytes, sizeof(bytes) - 1)

static void pause_with_rex_b(struct machine *m)
{
	u64 *reg = m->cpu.reg;
	reg[RAX] = 1;
	reg[R8] = 2;
	g_assert_cmpint(RUN(m, "\xf3\x90"), ==, -1);
	g_assert_cmpint(RUN(m, "\xf3\x48\x90"), ==, -1);
	g_assert_cmphex(reg[RAX], ==, 1);
	g_assert_cmpint(RUN(m, "\xf3\x49\x90"), ==, -1);
	g_assert_cmphex(reg[RAX], ==, is_amd(m) ? 2 : 1);
	g_assert_cmphex(reg[R8], ==, is_amd(m) ? 1 : 2);
}

/* A repetition with 32-bit addresses; which upper halves are there afterwards: bits 0 RCX, 1 RSI, 2 RDI. */
static unsigned upper_halves(struct machine *m, const char *bytes, u32 count, u32 pointer, int vector)
{
	u64 *reg = m->cpu.reg;
	reg[RCX] = HIGH | count;
	reg[RSI] = reg[RDI] = HIGH | pointer;
	g_assert_cmpint(run(m, bytes, 3), ==, vector);
	g_assert_cmphex((u32)reg[RCX], ==, count);
	g_assert_cmphex((u32)reg[RSI], ==, pointer);
	g_assert_cmphex((u32)reg[RDI], ==, pointer);
	return (reg[RCX] >> 32 ? 1 : 0) | (reg[RSI] >> 32 ? 2 : 0) | (reg[RDI] >> 32 ? 4 : 0);
}

static void repetition_without_an_element(struct machine *m)
{
	static const struct {
		const char *bytes;
		unsigned intel;
	} cases[] = {
		{ "\x67\xf3\xa4", 0 }, { "\x67\xf3\xaa", 2 }, { "\x67\xf3\xac", 6 },
		{ "\x67\xf3\xa6", 6 }, { "\x67\xf2\xae", 6 },
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		unsigned left = is_amd(m) ? 7 : cases[i].intel;
		g_assert_cmpuint(upper_halves(m, cases[i].bytes, 0, VA, -1), ==, left);
		g_assert_cmpuint(upper_halves(m, cases[i].bytes, 3, VA + PAGE_SIZE, VEC_PF), ==, left);
	}
}

static void comparison_that_faults(struct machine *m)
{
	u64 *reg = m->cpu.reg;
	reg[RCX] = 5;
	reg[RSI] = reg[RDI] = VA + PAGE_SIZE - 2;
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | RFLAGS_CF | RFLAGS_OF);
	g_assert_cmpint(RUN(m, "\xf3\xa6"), ==, VEC_PF);
	g_assert_cmphex(reg[RCX], ==, 3);
	g_assert_cmphex(reg[RSI], ==, VA + PAGE_SIZE);
	u64 flags = cpu_rflags(&m->cpu) & RFLAGS_ARITH;
	g_assert_cmphex(flags, ==, is_amd(m) ? RFLAGS_ZF | RFLAGS_PF : RFLAGS_CF | RFLAGS_OF);
	/* One that ends leaves those of its last element. */
	reg[RCX] = 2;
	reg[RSI] = reg[RDI] = VA;
	g_assert_cmpint(RUN(m, "\xf3\xa6"), ==, -1);
	g_assert_cmphex(cpu_rflags(&m->cpu) & RFLAGS_ARITH, ==, RFLAGS_ZF | RFLAGS_PF);
}

static void movsxd_to_16_bits(struct machine *m)
{
	m->cpu.reg[RAX] = VA + PAGE_SIZE - 2;
	m->cpu.reg[RSI] = HIGH;
	memcpy(m->mem.host + 0x160000 + PAGE_SIZE - 2, "\x34\x92", 2);
	g_assert_cmpint(RUN(m, "\x66\x63\x30"), ==, is_amd(m) ? VEC_PF : -1);
	g_assert_cmphex(m->cpu.reg[RSI], ==, is_amd(m) ? HIGH : HIGH | 0x9234);
	m->cpu.reg[RAX] = VA;
	g_assert_cmpint(RUN(m, "\x66\x63\x30"), ==, -1);
	g_assert_cmphex(m->cpu.reg[RSI], ==, HIGH);
}

/* FISTP with nothing on the stack, which is not masked: there is nothing to store. */
static void suppressed_x87_store(struct machine *m)
{
	m->cpu.reg[RAX] = VA + PAGE_SIZE;
	fpu_set_fcw(&m->cpu, 0x37e);
	g_assert_cmpint(RUN(m, "\xdb\x18"), ==, is_amd(m) ? VEC_PF : -1);
	g_assert_cmphex(fpu_fsw(&m->cpu) & 1, ==, is_amd(m) ? 0 : 1);
}

static void let_user_check_alignment(struct machine *m)
{
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	s.cr0 |= CR0_AM;
	s.cr4 |= CR4_OSXSAVE;
	s.rflags |= RFLAGS_AC;
	s.seg[SEG_CS] = machine_segment(0x33, 0xa0fb);
	s.seg[SEG_SS] = machine_segment(0x2b, 0xc0f3);
	cpu_set_state(&m->cpu, &s);
	m->cpu.xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX;
	g_assert_cmpuint(m->cpu.cpl, ==, 3);
}

static void alignment_of_vectors(struct machine *m)
{
	int amd_only = is_amd(m) ? VEC_AC : -1;
	let_user_check_alignment(m);
	m->cpu.reg[RAX] = VA + 8;
	g_assert_cmpint(RUN(m, "\xf3\x0f\x7e\x00"), ==, -1);   /* MOVQ xmm0, [rax] */
	g_assert_cmpint(RUN(m, "\x0f\x10\x00"), ==, amd_only); /* MOVUPS xmm0, [rax] */
	g_assert_cmpint(RUN(m, "\x0f\x11\x00"), ==, amd_only);
	m->cpu.reg[RAX] = VA + 1;
	g_assert_cmpint(RUN(m, "\xf3\x0f\x7e\x00"), ==, VEC_AC);
	g_assert_cmpint(RUN(m, "\xf3\x0f\x6f\x00"), ==, amd_only); /* MOVDQU xmm0, [rax] */
	if (!cpu_has(&m->cpu, FEATURE_AVX2) || !cpu_has(&m->cpu, FEATURE_F16C)) {
		g_test_skip("this host has no AVX2 or F16C");
		return;
	}
	memset(fpu_xmm(&m->cpu, 2), 0xff, 16);
	g_assert_cmpint(RUN(m, "\xc5\xfe\x6f\x00"), ==, amd_only);         /* VMOVDQU ymm0, [rax] */
	g_assert_cmpint(RUN(m, "\xc4\xe2\x79\x13\x00"), ==, amd_only);     /* VCVTPH2PS xmm0, [rax] */
	g_assert_cmpint(RUN(m, "\xc4\xe2\x69\x2c\x00"), ==, amd_only);     /* VMASKMOVPS xmm0, xmm2, [rax] */
	g_assert_cmpint(RUN(m, "\xc4\xe2\x69\x90\x04\x08"), ==, amd_only); /* VPGATHERDD xmm0, [rax + xmm1], xmm2 */
	g_assert_cmpint(RUN(m, "\xc4\xe2\x79\x18\x00"), ==, VEC_AC);       /* VBROADCASTSS xmm0, [rax] */
}

static void prefetch_of_a_register(struct machine *m)
{
	m->cpu.reg[RAX] = VA;
	g_assert_cmpint(RUN(m, "\x0f\x0d\x08"), ==, -1); /* PREFETCHW [rax] */
	g_assert_cmpint(RUN(m, "\x0f\x0d\xc8"), ==, is_amd(m) ? VEC_UD : -1);
	g_assert_cmpint(RUN(m, "\x0f\x0d\xc0"), ==, is_amd(m) ? VEC_UD : -1);
	g_assert_cmpint(RUN(m, "\x0f\x18\xc8"), ==, -1); /* PREFETCHT0's opcode: a NOP */
}

/* LGS rsi, [rax] with REX.W: the selector is behind 8 bytes or behind 4. */
static void far_pointer_with_rex_w(struct machine *m)
{
	u64 *reg = m->cpu.reg;
	reg[RAX] = VA;
	memcpy(m->mem.host + 0x160000, "\x44\x33\x22\x11\0\0\x66\x55\0\0", 10);
	g_assert_cmpint(RUN(m, "\x48\x0f\xb5\x30"), ==, -1);
	g_assert_cmphex(reg[RSI], ==, is_amd(m) ? 0x11223344 : 0x5566000011223344);
	/* The last 6 bytes of the page are enough for one. */
	reg[RAX] = VA + PAGE_SIZE - 6;
	g_assert_cmpint(RUN(m, "\x48\x0f\xb5\x30"), ==, is_amd(m) ? -1 : VEC_PF);
	g_assert_cmpint(RUN(m, "\x66\x0f\xb5\x30"), ==, -1);
	/* JMP and CALL far read 64 bits whoever made the CPU. */
	g_assert_cmpint(RUN(m, "\x48\xff\x28"), ==, VEC_PF);
	g_assert_cmpint(RUN(m, "\x48\xff\x18"), ==, VEC_PF);
}

static void let_run_compatibility_code(struct machine *m)
{
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	s.seg[SEG_CS] = machine_segment(0x23, 0xc0fb);
	s.seg[SEG_SS] = machine_segment(0x2b, 0xc0f3);
	cpu_set_state(&m->cpu, &s);
}

/* PUSH FS with a 32-bit operand; POP FS where the page ends behind the selector. */
static void segment_register_on_the_stack(struct machine *m)
{
	u64 *reg = m->cpu.reg;
	let_run_compatibility_code(m);
	memset(m->mem.host + 0x160000, 0xff, 8);
	reg[RSP] = VA + 4;
	g_assert_cmpint(RUN(m, "\x0f\xa0"), ==, -1);
	g_assert_cmphex(reg[RSP], ==, VA);
	g_assert_cmphex(mem_read_u32(&m->mem, 0x160000), ==, is_amd(m) ? 0x10 : 0xffff0010);
	memset(m->mem.host + 0x160000 + PAGE_SIZE - 2, 0, 2);
	reg[RSP] = VA + PAGE_SIZE - 2;
	g_assert_cmpint(RUN(m, "\x0f\xa1"), ==, is_amd(m) ? VEC_PF : -1);
	g_assert_cmphex(reg[RSP], ==, is_amd(m) ? VA + PAGE_SIZE - 2 : VA + PAGE_SIZE + 2);
}

/* Neither vendor's CPU here has AMD's mode for misaligned operands (MXCSR bit 17). */
static void mxcsr_without_misaligned_mode(struct machine *m)
{
	m->cpu.reg[RAX] = VA;
	memcpy(m->mem.host + 0x160000, "\x80\x1f\x02\0", 4);
	g_assert_cmpint(RUN(m, "\x0f\xae\x10"), ==, VEC_GP);
}

static void add(const char *path, void (*test)(struct machine *))
{
	g_test_add_data_func(path, (const void *)(uintptr_t)test, test_both);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	add("/vendor/pause-with-rex-b-is-intels-pause-and-amds-exchange", pause_with_rex_b);
	add("/vendor/intels-repetition-with-32-bit-addresses-clears-upper-halves-first", repetition_without_an_element);
	add("/vendor/intels-comparison-that-faults-puts-flags-back", comparison_that_faults);
	add("/vendor/movsxd-to-16-bits-reads-intels-16-and-amds-32", movsxd_to_16_bits);
	add("/vendor/suppressed-x87-store-touches-amds-page-only", suppressed_x87_store);
	add("/vendor/alignment-of-whole-vectors-is-checked-by-amd-only", alignment_of_vectors);
	add("/vendor/prefetch-of-a-register-is-amds-ud-and-intels-nop", prefetch_of_a_register);
	add("/vendor/rex-w-loads-far-pointers-of-64-bits-for-intel-only", far_pointer_with_rex_w);
	add("/vendor/segment-register-on-the-stack-takes-intels-16-bits", segment_register_on_the_stack);
	add("/vendor/misaligned-mode-is-a-reserved-bit-of-mxcsr", mxcsr_without_misaligned_mode);
	return g_test_run();
}
