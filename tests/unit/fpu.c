/*
 * x87, MMX, SSE, AVX and XSAVE where the host cannot serve as a model: availability by control registers, pending x87
 * exceptions, environments of other modes, the XSAVE formats' checks, and the code area. What instructions compute is
 * compared with the host in tests/insn.
 */
#include "machine.h"

#include "cpu/fpu.h"
#include "cpu/native.h"

#include <stdio.h>

static struct machine *m;

static void fixture_setup(void *fixture, const void *unused)
{
	m = machine_new();
	m->cpu.cr0 |= CR0_MP;
	m->cpu.cr4 |= CR4_OSXMMEXCPT | CR4_OSXSAVE;
	m->cpu.xcr0 = xsave_supported(&m->cpu);
	cpu_update_mode(&m->cpu);
}

static void fixture_teardown(void *fixture, const void *unused)
{
	machine_free(m);
}

/* Runs the code; the vector of the exception it ended in, -1 if it came to its own HLT. */
static int run_code(const u8 *code, const u8 *end)
{
	machine_load_at(m, CODE, code, end);
	m->cpu.reg[RSP] = STACK;
	m->cpu.cpl = 0;
	machine_run(m);
	u64 rip = m->cpu.reg[REG_RIP];
	return rip >= HANDLERS && rip < HANDLERS + 32 * 16 ? (int)((rip - HANDLERS) / 16) : -1;
}
#define run(name) run_code(name, name##_end)

static u64 data64(u64 at)
{
	u64 v;
	memcpy(&v, m->mem.host + DATA + at, 8);
	return v;
}

static void put_data(u64 at, u64 v, unsigned size)
{
	memcpy(m->mem.host + DATA + at, &v, size);
}

static bool has_avx(void)
{
	return cpu_has(&m->cpu, FEATURE_AVX);
}

/* --- availability --- */

GUEST(an_sse, "addps %xmm1, %xmm0\n hlt");
GUEST(an_sse_move, "movaps %xmm1, %xmm0\n hlt");
GUEST(an_mmx, "paddb %mm1, %mm0\n hlt");
GUEST(a_conversion, "cvtpi2ps %mm1, %xmm0\n hlt");
GUEST(an_x87, "fld1\n hlt");
GUEST(a_control, "fnstsw %ax\n hlt");
GUEST(an_emms, "emms\n hlt");
GUEST(a_wait, "fwait\n hlt");
GUEST(an_avx, "vaddps %ymm1, %ymm0, %ymm0\n hlt");
GUEST(an_fxsave, "fxsave 0x180000\n hlt");
GUEST(an_xsave, "xsave 0x180000\n hlt");
GUEST(an_ldmxcsr, "ldmxcsr 0x180000\n hlt");

static void test_task_switched(void *fixture, const void *unused)
{
	m->cpu.cr0 |= CR0_TS;
	g_assert_cmpint(run(an_sse), ==, VEC_NM);
	g_assert_cmpint(run(an_sse_move), ==, VEC_NM);
	g_assert_cmpint(run(an_mmx), ==, VEC_NM);
	g_assert_cmpint(run(an_x87), ==, VEC_NM);
	g_assert_cmpint(run(a_control), ==, VEC_NM);
	g_assert_cmpint(run(an_emms), ==, VEC_NM);
	g_assert_cmpint(run(a_wait), ==, VEC_NM);
	g_assert_cmpint(run(an_fxsave), ==, VEC_NM);
	g_assert_cmpint(run(an_xsave), ==, VEC_NM);
	g_assert_cmpint(run(an_ldmxcsr), ==, VEC_NM);
	if (has_avx())
		g_assert_cmpint(run(an_avx), ==, VEC_NM);
	m->cpu.cr0 &= ~CR0_MP;
	g_assert_cmpint(run(a_wait), ==, -1);
	g_assert_cmpint(run(an_x87), ==, VEC_NM);
}

static void test_emulated(void *fixture, const void *unused)
{
	m->cpu.cr0 |= CR0_EM;
	g_assert_cmpint(run(an_sse), ==, VEC_UD);
	g_assert_cmpint(run(an_sse_move), ==, VEC_UD);
	g_assert_cmpint(run(an_mmx), ==, VEC_UD);
	g_assert_cmpint(run(an_emms), ==, VEC_UD);
	g_assert_cmpint(run(an_x87), ==, VEC_NM);
	g_assert_cmpint(run(a_wait), ==, -1);
	m->cpu.cr0 |= CR0_TS; /* #UD comes before #NM */
	g_assert_cmpint(run(an_sse), ==, VEC_UD);
	g_assert_cmpint(run(an_mmx), ==, VEC_UD);
}

static void test_osfxsr(void *fixture, const void *unused)
{
	m->cpu.cr4 &= ~CR4_OSFXSR;
	g_assert_cmpint(run(an_sse), ==, VEC_UD);
	g_assert_cmpint(run(an_sse_move), ==, VEC_UD);
	g_assert_cmpint(run(an_ldmxcsr), ==, VEC_UD);
	g_assert_cmpint(run(a_conversion), ==, VEC_UD);
	g_assert_cmpint(run(an_mmx), ==, -1);
	g_assert_cmpint(run(an_x87), ==, -1);
	/* FXSAVE then leaves XMM registers out. */
	memset(fpu_xmm(&m->cpu, 0), 0x5a, 256);
	memset(m->mem.host + DATA, 0xee, 512);
	g_assert_cmpint(run(an_fxsave), ==, -1);
	g_assert_cmphex(data64(160), ==, 0xeeeeeeeeeeeeeeee);
}

static void test_avx_enabled(void *fixture, const void *unused)
{
	if (!has_avx()) {
		g_test_skip("this host has no AVX");
		return;
	}
	g_assert_cmpint(run(an_avx), ==, -1);
	m->cpu.xcr0 = XCR0_X87 | XCR0_SSE;
	g_assert_cmpint(run(an_avx), ==, VEC_UD);
	m->cpu.xcr0 |= XCR0_AVX;
	m->cpu.cr4 &= ~CR4_OSXSAVE;
	g_assert_cmpint(run(an_avx), ==, VEC_UD);
	g_assert_cmpint(run(an_xsave), ==, VEC_UD);
}

/* --- SIMD exceptions --- */

GUEST(divide, "ldmxcsr 0x180000\n divps %xmm1, %xmm0\n hlt");

static void test_simd_exception(void *fixture, const void *unused)
{
	put_data(0, 0x1f80 & ~0x200, 4); /* divide by zero unmasked */
	memset(fpu_xmm(&m->cpu, 0), 0x3f, 16);
	memset(fpu_xmm(&m->cpu, 1), 0, 16);
	g_assert_cmpint(run(divide), ==, VEC_XM);
	g_assert_cmphex(fpu_mxcsr(&m->cpu), ==, (0x1f80 & ~0x200) | 4);
	g_assert_cmpint(fpu_xmm(&m->cpu, 0)[0], ==, 0x3f);
	m->cpu.cr4 &= ~CR4_OSXMMEXCPT;
	g_assert_cmpint(run(divide), ==, VEC_UD);
	put_data(0, 0x10000, 4); /* reserved bit of MXCSR */
	g_assert_cmpint(run(divide), ==, VEC_GP);
}

/* --- x87 exceptions and pointers --- */

GUEST(x87_divide, "fninit\n fldcw 0x180000\n fld1\n fldz\n fdivrp\n fnstsw 0x180080\n fnstenv 0x180100\n"
		  "fldcw 0x180000\n fld1\n hlt");
GUEST(x87_cleared, "fninit\n fldcw 0x180000\n fld1\n fldz\n fdivp\n fnclex\n fld1\n hlt");

static void test_x87_exception(void *fixture, const void *unused)
{
	put_data(0, 0x37f & ~4, 2);
	/* 1/0 with ZE unmasked: pending after the division, #MF at the next waiting instruction, FLDCW. */
	m->cpu.cr0 |= CR0_NE;
	g_assert_cmpint(run(x87_cleared), ==, -1);
	g_assert_cmpint(run(x87_divide), ==, VEC_MF);
	g_assert_cmphex(data64(0x80) & 0x8084, ==, 0x8084);
	g_assert_cmphex(data64(0x10c) & 0xffffffff, ==, CODE + 2 + 7 + 2 + 2); /* FIP: the division */
	g_assert_cmphex(data64(0x110) >> 16 & 0x7ff, ==, 0x6f9);               /* FOP of DE F9 */
}

static void test_x87_ignored_without_ne(void *fixture, const void *unused)
{
	put_data(0, 0x37f & ~4, 2);
	m->cpu.cr0 &= ~CR0_NE;
	g_assert_cmpint(run(x87_divide), ==, -1);
	g_assert_cmphex(fpu_fsw(&m->cpu) & 0x84, ==, 0x84);
}

GUEST(x87_load, "fninit\n fldl 0x180010\n fnstenv 0x180100\n hlt");
GUEST(x87_load16, "fninit\n fldl 0x180010\n .byte 0x66\n fnstenv 0x180100\n hlt");

static void test_pointers(void *fixture, const void *unused)
{
	put_data(0x10, 0x3ff0000000000000, 8);
	g_assert_cmpint(run(x87_load), ==, -1);
	g_assert_cmphex(data64(0x10c) & 0xffffffff, ==, CODE + 2);
	g_assert_cmphex(data64(0x114) & 0xffffffff, ==, DATA + 0x10);
	g_assert_cmphex(data64(0x100), ==, 0xffff3800ffff037f);
	g_assert_cmphex(data64(0x108) & 0xffffffff, ==, 0xffff3fff); /* R7 valid, the others empty */
	/* Everything is masked afterwards. */
	g_assert_cmphex(fpu_fcw(&m->cpu) & 0x3f, ==, 0x3f);
	g_assert_cmpint(run(x87_load16), ==, -1);
	g_assert_cmphex(data64(0x106) & 0xffff, ==, (CODE + 2) & 0xffff);
	g_assert_cmphex(data64(0x10a) & 0xffff, ==, (DATA + 0x10) & 0xffff);
}

/* Real mode: the 20-bit linear address, split; FOP beside its high part. */
static void test_real_mode_environment(void *fixture, const void *unused)
{
	static const u8 code[] = { 0xdb, 0xe3,                           /* fninit */
				   0xd9, 0x06, 0x10, 0x00,               /* flds 0x10 */
				   0xd9, 0x36, 0x40, 0x00,               /* fnstenv 0x40 */
				   0x66, 0xd9, 0x36, 0x80, 0x00, 0xf4 }; /* fnstenvd 0x80; hlt */
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	s.cr0 = CR0_ET | CR0_NE;
	s.cr4 = 0;
	s.efer = 0;
	for (unsigned i = 0; i < SEG_LDTR; i++)
		s.seg[i] = (struct segment){ .selector = 0x1000, .base = 0x10000, .limit = 0xffff, .ar = 0x93 };
	s.seg[SEG_CS] = (struct segment){ .selector = 0x2000, .base = 0x20000, .limit = 0xffff, .ar = 0x9b };
	s.rip = 0x100;
	memcpy(m->mem.host + 0x20100, code, sizeof(code));
	cpu_set_state(&m->cpu, &s);
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
	u16 e[7];
	memcpy(e, m->mem.host + 0x10040, sizeof(e));
	g_assert_cmphex(e[0], ==, 0x37f);
	g_assert_cmphex(e[3], ==, 0x0102);
	g_assert_cmphex(e[4] >> 12, ==, 0x2);
	g_assert_cmphex(e[4] & 0x7ff, ==, 0x106);
	g_assert_cmphex(e[5], ==, 0x0010);
	g_assert_cmphex(e[6] >> 12, ==, 0x1);
	u32 wide[7];
	memcpy(wide, m->mem.host + 0x10080, sizeof(wide));
	g_assert_cmphex(wide[3] & 0xffff, ==, 0x0102);
	g_assert_cmphex(wide[4] >> 12 & 0xffff, ==, 0x2);
}

/* --- FXSAVE --- */

GUEST(fx_misaligned, "fxsave 0x180008\n hlt");
GUEST(fx_wide, "fxrstor64 0x180000\n fxsave64 0x180200\n fxsave 0x180400\n hlt");

static void test_fxsave(void *fixture, const void *unused)
{
	g_assert_cmpint(run(fx_misaligned), ==, VEC_GP);
	for (unsigned i = 0; i < 512; i += 8)
		put_data(i, 0x1111111111111111 * (i / 8 % 15), 8);
	put_data(0, 0x037f, 2);
	put_data(2, 0x3800, 2);
	put_data(4, 0x80, 2);
	put_data(8, 0x0000123456789abc, 8);
	put_data(24, 0x1f80, 4);
	memset(m->mem.host + DATA + 0x200, 0xee, 0x400);
	g_assert_cmpint(run(fx_wide), ==, -1);
	g_assert_cmphex(data64(0x208), ==, 0x0000123456789abc);
	g_assert_cmphex(data64(0x408), ==, 0x56789abc); /* 32 bits, and no selector */
	g_assert_cmpmem(m->mem.host + DATA + 160, 256, m->mem.host + DATA + 0x200 + 160, 256);
	g_assert_cmphex(data64(0x200 + 416), ==, 0xeeeeeeeeeeeeeeee); /* software's */
	g_assert_cmphex(data64(0x218) >> 32, ==, 0xffff);
}

/* --- XSAVE --- */

GUEST(xsavec_all, "mov $0x207, %eax\n xor %edx, %edx\n xsavec64 0x180000\n hlt");
GUEST(xsaves_all, "mov $0x207, %eax\n xor %edx, %edx\n xsaves64 0x180000\n hlt");
GUEST(xrstors_all, "mov $0x207, %eax\n xor %edx, %edx\n xrstors64 0x180000\n hlt");
GUEST(xrstor_all, "mov $0x207, %eax\n xor %edx, %edx\n xrstor64 0x180000\n hlt");
GUEST(xrstor_sse, "mov $2, %eax\n xor %edx, %edx\n xrstor64 0x180000\n hlt");
GUEST(xsaveopt_all, "mov $0x207, %eax\n xor %edx, %edx\n xsaveopt64 0x180000\n hlt");
GUEST(xrstor_misaligned, "mov $0x207, %eax\n xor %edx, %edx\n xrstor64 0x180020\n hlt");

static void fill_vectors(u8 v)
{
	memset(fpu_xmm(&m->cpu, 0), v, 256);
	memset(m->cpu.fpu.ymm_high, v ? v + 1 : 0, 256);
}

static void test_compacted(void *fixture, const void *unused)
{
	u64 all = xsave_supported(&m->cpu);
	fill_vectors(0x31);
	fpu_set_mxcsr(&m->cpu, 0x1fa0);
	fpu_set_fcw(&m->cpu, 0x27f); /* not as FNINIT leaves it: in use */
	mmu_set_pkru(&m->cpu.mmu, 0x30);
	g_assert_cmpint(run(xsaves_all), ==, -1);
	g_assert_cmphex(data64(512), ==, all);
	g_assert_cmphex(data64(520), ==, all | BIT(63));
	fill_vectors(0);
	fpu_set_mxcsr(&m->cpu, 0x1f80);
	mmu_set_pkru(&m->cpu.mmu, 0);
	g_assert_cmpint(run(xrstors_all), ==, -1);
	g_assert_cmphex(mmu_pkru(&m->cpu.mmu), ==, 0x30);
	g_assert_cmpint(fpu_xmm(&m->cpu, 5)[3], ==, 0x31);
	g_assert_cmphex(fpu_mxcsr(&m->cpu), ==, 0x1fa0);
	if (has_avx())
		g_assert_cmpint(m->cpu.fpu.ymm_high[15][3], ==, 0x32);
	/* XRSTORS takes no standard form, XRSTOR both. */
	g_assert_cmpint(run(xrstor_all), ==, -1);
	put_data(520, 0, 8);
	g_assert_cmpint(run(xrstors_all), ==, VEC_GP);
}

GUEST(x87_initial, "fninit\n mov $0x207, %eax\n xor %edx, %edx\n xsavec64 0x180000\n hlt");

static void test_initial_components(void *fixture, const void *unused)
{
	memset(fpu_st(&m->cpu, 0), 0, 128);
	fill_vectors(0);
	memset(m->mem.host + DATA, 0xee, 1024);
	g_assert_cmpint(run(x87_initial), ==, -1);
	g_assert_cmphex(data64(512), ==, 0); /* nothing in use */
	g_assert_cmphex(data64(160), ==, 0xeeeeeeeeeeeeeeee);
	/* And what is not in the image comes back initial. */
	fill_vectors(0x55);
	memset(m->mem.host + DATA + 528, 0, 48);
	g_assert_cmpint(run(xrstor_all), ==, -1);
	g_assert_cmpint(fpu_xmm(&m->cpu, 9)[0], ==, 0);
	g_assert_cmphex(fpu_fcw(&m->cpu), ==, 0x37f);
	fill_vectors(0x44);
	memset(m->mem.host + DATA, 0xee, 512);
	memset(m->mem.host + DATA + 512, 0, 64);
	g_assert_cmpint(run(xsaveopt_all), ==, -1);
	g_assert_cmphex(data64(512) & 2, ==, 2);
	g_assert_cmphex(data64(160), ==, 0x4444444444444444);
	g_assert_cmphex(data64(0), ==, 0xeeeeeeeeeeeeeeee); /* x87 is initial: XSAVEOPT skips it */
}

/* Each of the checks of SDM vol. 1, 13.8. */
static void test_xrstor_checks(void *fixture, const void *unused)
{
	static const struct {
		u64 at, value;
		unsigned size;
	} bad[] = {
		{ 512, BIT(3), 8 }, /* XSTATE_BV: not in XCR0 */
		{ 512, BIT(63), 8 },
		{ 520, 1, 8 },                /* XCOMP_BV without bit 63 */
		{ 520, BIT(63) | BIT(4), 8 }, /* compacted, not in XCR0 */
		{ 528, 1, 1 },                /* reserved bytes */
		{ 24, 0x10000, 4 },           /* MXCSR */
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
		memset(m->mem.host + DATA, 0, 1024);
		put_data(24, 0x1f80, 4);
		put_data(512, 2, 8);
		g_assert_cmpint(run(xrstor_all), ==, -1);
		put_data(bad[i].at, bad[i].value, bad[i].size);
		g_assert_cmpint(run(xrstor_all), ==, VEC_GP);
	}
	/* Compacted: XSTATE_BV must lie within XCOMP_BV, and all 48 bytes count. */
	memset(m->mem.host + DATA, 0, 1024);
	put_data(24, 0x1f80, 4);
	put_data(512, 3, 8);
	put_data(520, BIT(63) | 2, 8);
	g_assert_cmpint(run(xrstor_all), ==, VEC_GP);
	put_data(512, 2, 8);
	g_assert_cmpint(run(xrstor_all), ==, -1);
	put_data(575, 1, 1);
	g_assert_cmpint(run(xrstor_all), ==, VEC_GP);
	g_assert_cmpint(run(xrstor_misaligned), ==, VEC_GP);
}

static void test_xcr0_values(void *fixture, const void *unused)
{
	g_assert_true(xsave_xcr0_valid(&m->cpu, 1));
	g_assert_true(xsave_xcr0_valid(&m->cpu, 3));
	g_assert_cmpint(xsave_xcr0_valid(&m->cpu, 7), ==, has_avx());
	g_assert_false(xsave_xcr0_valid(&m->cpu, 0));
	g_assert_false(xsave_xcr0_valid(&m->cpu, 2));
	g_assert_false(xsave_xcr0_valid(&m->cpu, 5));
	g_assert_false(xsave_xcr0_valid(&m->cpu, 0xb));
}

/* --- faults change nothing --- */

GUEST(pop_to_nowhere, "fninit\n fld1\n fstpl 0x1ff000\n hlt");
GUEST(cross_store, "movups %xmm0, 0x1feff8\n hlt");

static void test_precise(void *fixture, const void *unused)
{
	machine_map(m, 0x1ff000, 0, 0);
	g_assert_cmpint(run(pop_to_nowhere), ==, VEC_PF);
	g_assert_cmphex(fpu_fsw(&m->cpu) & FSW_TOP, ==, 0x3800);
	g_assert_cmphex(fpu_ftw(&m->cpu), ==, 0x80);
	memset(m->mem.host + 0x1feff8, 0x77, 8);
	memset(fpu_xmm(&m->cpu, 0), 0x11, 16);
	g_assert_cmpint(run(cross_store), ==, VEC_PF);
	g_assert_cmphex(m->cpu.reg[RBX], ==, 0x1ff000);
	g_assert_cmpint(m->mem.host[0x1feff8], ==, 0x77);
}

/* --- the code area --- */

GUEST(after_flood, "paddd %xmm1, %xmm0\n paddd %xmm1, %xmm0\n hlt");

static void test_area_full(void *fixture, const void *unused)
{
	/* More different instructions than the area has room for: SSE with every pair of registers and immediate. */
	struct insn insn;
	unsigned decoded = 0;
	for (unsigned imm = 0; imm < 256; imm++)
		for (unsigned reg = 0; reg < 8; reg++)
			for (unsigned rm = 0; rm < 64; rm++) {
				u8 rex = 0x40 | (rm >> 3 & 5), modrm = (u8)(0xc0 | reg << 3 | (rm & 7));
				const u8 b[] = { 0x66, rex, 0x0f, 0x70, modrm, (u8)imm };
				g_assert_true(insn_decode(&m->cpu, m->cpu.mode_key, b, sizeof(b), &insn));
				decoded++;
			}
	g_assert_true(insn.exec == native_exec_full);
	u32 one[4] = { 1, 2, 3, 4 };
	memcpy(fpu_xmm(&m->cpu, 1), one, 16);
	memset(fpu_xmm(&m->cpu, 0), 0, 16);
	g_assert_cmpint(run(after_flood), ==, -1);
	memcpy(one, fpu_xmm(&m->cpu, 0), 16);
	g_assert_cmpuint(one[0], ==, 2);
	g_assert_cmpuint(one[3], ==, 8);
	g_assert_cmpuint(decoded, >, 100000);
}

static void test_never_writable_and_executable(void *fixture, const void *unused)
{
	char line[512];
	unsigned executable = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	g_assert_nonnull(maps);
	while (fgets(line, sizeof(line), maps)) {
		char *rights = strchr(line, ' ') + 1;
		if (!strstr(line, "strata-stubs"))
			continue;
		g_assert_false(rights[1] == 'w' && rights[2] == 'x');
		executable += rights[2] == 'x';
	}
	fclose(maps);
	g_assert_cmpuint(executable, ==, 1);
}

/* --- W of VEX outside 64-bit mode --- */

static void test_vex_w_ignored(void *fixture, const void *unused)
{
	/* vmovd %xmm0, 0x180000 with W = 1: a doubleword, not a quadword */
	static const u8 code[] = { 0xc4, 0xe1, 0xf9, 0x7e, 0x05, 0x00, 0x00, 0x18, 0x00, 0xf4 };
	struct x86_state s;
	if (!has_avx()) {
		g_test_skip("this host has no AVX");
		return;
	}
	cpu_get_state(&m->cpu, &s);
	s.seg[SEG_CS].ar = 0xc09b;
	s.rip = CODE;
	cpu_set_state(&m->cpu, &s);
	memset(fpu_xmm(&m->cpu, 0), 0x22, 16);
	memset(m->mem.host + DATA, 0xee, 16);
	machine_load_at(m, CODE, code, code + sizeof(code));
	machine_run(m);
	g_assert_cmphex(data64(0), ==, 0xeeeeeeee22222222);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*test)(void *fixture, const void *unused);
	} tests[] = {
		{ "/fpu/task-switched-raises-nm", test_task_switched },
		{ "/fpu/em-leaves-no-sse-and-traps-x87", test_emulated },
		{ "/fpu/sse-needs-osfxsr-and-mmx-does-not", test_osfxsr },
		{ "/fpu/avx-needs-osxsave-and-xcr0", test_avx_enabled },
		{ "/fpu/simd-exception-keeps-destination-and-needs-osxmmexcpt", test_simd_exception },
		{ "/fpu/x87-exception-waits-for-next-waiting-instruction", test_x87_exception },
		{ "/fpu/x87-exception-is-ignored-without-ne", test_x87_ignored_without_ne },
		{ "/fpu/pointers-are-the-guests", test_pointers },
		{ "/fpu/real-mode-environment-has-linear-pointers", test_real_mode_environment },
		{ "/fpu/fxsave-writes-416-aligned-bytes", test_fxsave },
		{ "/fpu/faults-change-nothing", test_precise },
		{ "/xsave/compacted-form-round-trip", test_compacted },
		{ "/xsave/initial-components-are-left-out", test_initial_components },
		{ "/xsave/xrstor-checks-header-and-mxcsr", test_xrstor_checks },
		{ "/xsave/xcr0-combinations", test_xcr0_values },
		{ "/native/full-area-starts-over", test_area_full },
		{ "/native/code-is-never-writable-and-executable", test_never_writable_and_executable },
		{ "/native/vex-w-is-ignored-outside-64-bit-mode", test_vex_w_ignored },
	};
	g_test_init(&argc, &argv, NULL);
	for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++)
		g_test_add(tests[i].name, char, NULL, (void (*)(char *, const void *))fixture_setup,
			   (void (*)(char *, const void *))tests[i].test,
			   (void (*)(char *, const void *))fixture_teardown);
	return g_test_run();
}
