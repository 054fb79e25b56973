/*
 * Virtual-8086 mode and its extensions (SDM vol. 3, chapter 20): who handles INT n, what CLI, STI, PUSHF, POPF and IRET
 * do with IF and VIF, and PVI's share of it in protected mode. Guest code ends with HLT, which is #GP in ring 3: the
 * handlers halt in ring 0 with the vector in AL.
 */
#include "machine.h"

#include "cpu/event.h"

enum { CODE_V86 = 0x10000, STACK_V86 = 0x18000, HANDLER_V86 = 0x11000 };

static struct segment v86_segment(u32 base)
{
	return (struct segment){ .selector = (u16)(base >> 4), .limit = 0xffff, .ar = 0xf3, .base = base };
}

/* A virtual-8086 task under a 32-bit kernel whose TSS has a redirection bit map, all zero: INT n stays in the task. */
static struct machine *machine_in_v86(unsigned iopl, bool vme, const u8 *code, const u8 *end)
{
	struct machine *m = machine_new();
	struct x86_state s;

	cpu_get_state(&m->cpu, &s);
	s.cr0 = CR0_PE | CR0_ET;
	s.cr4 = vme ? CR4_VME : 0;
	s.efer = 0;
	for (unsigned i = 0; i < SEG_LDTR; i++)
		s.seg[i] = v86_segment(i == SEG_SS ? STACK_V86 : CODE_V86);
	s.seg[SEG_TR] = (struct segment){ .selector = 0x18, .base = TSS, .limit = 0x68 + 32 + 0x100, .ar = 0x8b };
	s.rflags = RFLAGS_ONE | RFLAGS_VM | iopl << 12;
	s.rip = 0;
	s.idtr.limit = 32 * 8 - 1;
	s.gpr[RSP] = 0x1000;
	machine_write_u64(m, GDT + 8, 0x00cf9b000000ffffULL);
	machine_write_u64(m, TSS + 4, STACK | (u64)0x10 << 32);
	machine_write_u64(m, TSS + 0x60, (u64)(0x68 + 32) << 48);
	memset(m->mem.host + TSS + 0x68, 0, 32);
	for (u64 v = 0; v < 32; v++) {
		u64 at = HANDLERS + 16 * v;
		machine_write_u64(m, IDT + 8 * v, (at & 0xffff) | 0x8ULL << 16 | 0xeeULL << 40 | (at >> 16) << 48);
	}
	cpu_set_state(&m->cpu, &s);
	machine_load_at(m, CODE_V86, code, end);
	return m;
}
#define start(iopl, vme, name) machine_in_v86(iopl, vme, name, name##_end)

/* Runs until a handler halts; its vector. */
static unsigned run(struct machine *m)
{
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
	g_assert_cmpuint(m->cpu.mode, ==, CPU_PROT);
	return m->cpu.reg[RAX] & 0xff;
}

/* EFLAGS of the task, as the handler finds it behind `words` words of its frame. */
static u32 frame(struct machine *m, unsigned n)
{
	u32 v;
	memcpy(&v, m->mem.host + (u32)m->cpu.reg[RSP] + 4 * n, 4);
	return v;
}

static u16 stack_word(struct machine *m, unsigned sp)
{
	u16 v;
	memcpy(&v, m->mem.host + STACK_V86 + sp, 2);
	return v;
}

GUEST(int_n, ".code16\n int $0x20\n nop\n hlt\n .code64");
GUEST(handler, ".code16\n mov $0x77, %cx\n iret\n .code64");

/* Vector 20h of the task's own table at 0 leads to HANDLER_V86. */
static void set_vector(struct machine *m)
{
	machine_load_at(m, HANDLER_V86, handler, handler_end);
	machine_write_u64(m, 0x20 * 4, (u64)(HANDLER_V86 >> 4) << 16);
}

static void test_int_redirected(void)
{
	for (unsigned iopl = 0; iopl <= 3; iopl += 3) {
		struct machine *m = start(iopl, true, int_n);
		set_vector(m);
		cpu_set_rflags(&m->cpu, cpu_rflags(&m->cpu) | RFLAGS_VIF);
		g_assert_cmpuint(run(m), ==, VEC_GP); /* of HLT */
		g_assert_cmpuint(m->cpu.reg[RCX], ==, 0x77);
		g_assert_cmpuint(frame(m, 1), ==, 3);
		/* With IOPL < 3 the pushed image shows VIF as IF, and IOPL 3. */
		u16 flags = stack_word(m, 0xffe);
		g_assert_cmphex(flags & RFLAGS_IF, ==, iopl == 3 ? 0 : RFLAGS_IF);
		g_assert_cmphex(flags & RFLAGS_IOPL, ==, RFLAGS_IOPL);
		g_assert_cmphex(frame(m, 3) & RFLAGS_VIF, ==, RFLAGS_VIF); /* IRET brought it back */
		machine_free(m);
	}
}

/* A set bit of the map, or no VME: IOPL 3 goes through the IDT, less is #GP. */
static void test_int_not_redirected(void)
{
	for (unsigned n = 0; n < 4; n++) {
		bool vme = n & 1, trusted = n & 2;
		struct machine *m = start(trusted ? 3 : 0, vme, int_n);
		set_vector(m);
		m->mem.host[TSS + 0x68 + 0x20 / 8] = 1;
		g_assert_cmpuint(run(m), ==, VEC_GP);
		g_assert_cmpuint(m->cpu.reg[RCX], !=, 0x77);
		/* Vector 20h is beyond the IDT: #GP names it, without EXT, since software asked. */
		g_assert_cmphex(frame(m, 0), ==, trusted ? 0x20 * 8 + 2 : 0);
		g_assert_cmphex(frame(m, 1), ==, 0); /* at the INT */
		machine_free(m);
	}
}

static void test_map_outside_tss(void)
{
	struct machine *m = start(0, true, int_n);
	set_vector(m);
	m->cpu.seg[SEG_TR].limit = 0x68 + 3; /* ends before the byte of vector 20h */
	g_assert_cmpuint(run(m), ==, VEC_GP);
	g_assert_cmphex(frame(m, 1), ==, 0);
	machine_free(m);
}

GUEST(cli_sti, ".code16\n sti\n pushf\n cli\n pushf\n hlt\n .code64");

static void test_cli_sti(void)
{
	struct machine *m = start(0, true, cli_sti);
	g_assert_cmpuint(run(m), ==, VEC_GP);
	g_assert_cmphex(frame(m, 1), ==, 4); /* HLT: everything before it worked */
	g_assert_cmphex(stack_word(m, 0xffe) & (RFLAGS_IF | RFLAGS_IOPL), ==, RFLAGS_IF | RFLAGS_IOPL);
	g_assert_cmphex(stack_word(m, 0xffc) & (RFLAGS_IF | RFLAGS_IOPL), ==, RFLAGS_IOPL);
	g_assert_false(frame(m, 3) & (RFLAGS_IF | RFLAGS_VIF));
	machine_free(m);

	m = start(0, false, cli_sti); /* without VME: the first one faults */
	g_assert_cmpuint(run(m), ==, VEC_GP);
	g_assert_cmphex(frame(m, 1), ==, 0);
	machine_free(m);

	m = start(3, false, cli_sti); /* IOPL 3: the real IF */
	g_assert_cmpuint(run(m), ==, VEC_GP);
	g_assert_cmphex(frame(m, 1), ==, 4);
	g_assert_cmphex(stack_word(m, 0xffe) & RFLAGS_IF, ==, RFLAGS_IF);
	machine_free(m);
}

/* STI, POPF and IRET that would set VIF while VIP waits: #GP, so that the monitor can deliver. */
GUEST(sti, ".code16\n sti\n hlt\n .code64");
GUEST(popf, ".code16\n popf\n hlt\n .code64");
GUEST(iret, ".code16\n iret\n hlt\n .code64");

static void test_vip(void)
{
	const struct {
		const u8 *code, *end;
	} all[] = { { sti, sti_end }, { popf, popf_end }, { iret, iret_end } };
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		struct machine *m = machine_in_v86(0, true, all[i].code, all[i].end);
		u16 words[3] = { 0, CODE_V86 >> 4, RFLAGS_IF | 2 };
		if (all[i].code == popf)
			words[0] = RFLAGS_IF | 2;
		memcpy(m->mem.host + STACK_V86 + 0x1000, words, sizeof(words));
		cpu_set_rflags(&m->cpu, cpu_rflags(&m->cpu) | RFLAGS_VIP);
		g_assert_cmpuint(run(m), ==, VEC_GP);
		g_assert_cmphex(frame(m, 1), ==, 0);
		g_assert_false(frame(m, 3) & RFLAGS_VIF);
		machine_free(m);
	}
}

GUEST(io, ".code16\n in $0x80, %al\n hlt\n .code64");

/* Ports go by the bit map alone, whatever IOPL says. */
static void test_ports(void)
{
	for (unsigned denied = 0; denied < 2; denied++) {
		struct machine *m = start(3, false, io);
		memset(m->mem.host + TSS + 0x68 + 32, denied ? 0xff : 0, 0x101);
		g_assert_cmpuint(run(m), ==, VEC_GP);
		g_assert_cmphex(frame(m, 1), ==, denied ? 0 : 2);
		machine_free(m);
	}
}

GUEST(pvi, ".code32\n sti\n cli\n sti\n hlt\n .code64");

/* Protected-mode virtual interrupts: ring 3, IOPL 0. PUSHF shows no difference, so EFLAGS of the fault is looked at. */
static void test_pvi(void)
{
	for (unsigned on = 0; on < 2; on++) {
		struct machine *m = start(0, false, pvi);
		struct x86_state s;
		cpu_get_state(&m->cpu, &s);
		s.cr4 = on ? CR4_PVI : 0;
		s.rflags = RFLAGS_ONE;
		s.seg[SEG_CS] =
			(struct segment){ .selector = 0x2b, .limit = 0xffffffff, .ar = 0xc0fb, .base = CODE_V86 };
		s.seg[SEG_SS] =
			(struct segment){ .selector = 0x23, .limit = 0xffffffff, .ar = 0xc0f3, .base = STACK_V86 };
		cpu_set_state(&m->cpu, &s);
		g_assert_cmpuint(run(m), ==, VEC_GP);
		g_assert_cmphex(frame(m, 1), ==, on ? 3 : 0);
		g_assert_cmphex(frame(m, 3) & RFLAGS_VIF, ==, on ? RFLAGS_VIF : 0);
		g_assert_false(frame(m, 3) & RFLAGS_IF);
		machine_free(m);
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/v86/int-n-is-redirected-into-the-task", test_int_redirected);
	g_test_add_func("/v86/int-n-needs-iopl-3-to-reach-the-idt", test_int_not_redirected);
	g_test_add_func("/v86/redirection-map-must-lie-in-the-tss", test_map_outside_tss);
	g_test_add_func("/v86/cli-and-sti-move-vif-with-vme", test_cli_sti);
	g_test_add_func("/v86/vif-cannot-be-set-while-vip-waits", test_vip);
	g_test_add_func("/v86/ports-go-by-the-bit-map-alone", test_ports);
	g_test_add_func("/v86/pvi-moves-vif-in-ring-3", test_pvi);
	return g_test_run();
}
