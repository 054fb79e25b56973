/* Hardware task switches: what is saved, what is loaded, busy bits, links, and faults before and after the switch. */
#include "machine.h"

#include "cpu/internal.h"

enum { OLD_TSS = 0x18, NEW_TSS = 0x20, OLD_BASE = TSS, NEW_BASE = TSS + 0x400 };

static u32 read_u32(struct machine *m, u64 gpa)
{
	u32 v;
	memcpy(&v, m->mem.host + gpa, 4);
	return v;
}

static void write_u32(struct machine *m, u64 gpa, u32 v)
{
	memcpy(m->mem.host + gpa, &v, 4);
}

static void set_tss(struct machine *m, u16 selector, u32 base, u32 limit, unsigned type)
{
	machine_write_u64(m, GDT + selector,
			  (u64)(limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)(0x80 | type) << 40 |
				  (u64)(base >> 24) << 56);
}

static unsigned tss_type(struct machine *m, u16 selector)
{
	return read_u32(m, GDT + selector + 4) >> 8 & 15;
}

/* Protected mode in the task of OLD_TSS; NEW_TSS holds another, with all registers distinct. */
static struct machine *machine_with_tasks(void)
{
	struct machine *m = machine_new();
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	s.cr0 = CR0_PE | CR0_ET;
	s.cr4 = s.efer = 0;
	s.seg[SEG_CS].ar = 0xc09b;
	s.gpr[RBX] = 0xb0b;
	s.rflags = RFLAGS_ONE | RFLAGS_IF;
	s.seg[SEG_TR] = (struct segment){ .selector = OLD_TSS, .base = OLD_BASE, .limit = 0x67, .ar = 0x8b };
	cpu_set_state(&m->cpu, &s);
	machine_write_u64(m, GDT + 8, 0x00cf9b000000ffffULL);
	set_tss(m, OLD_TSS, OLD_BASE, 0x67, 11);
	set_tss(m, NEW_TSS, NEW_BASE, 0x67, 9);
	memset(m->mem.host + NEW_BASE, 0, 0x68);
	write_u32(m, NEW_BASE + 0x20, 0x4444);
	write_u32(m, NEW_BASE + 0x24, RFLAGS_ONE | RFLAGS_CF);
	for (unsigned i = 0; i < 8; i++)
		write_u32(m, NEW_BASE + 0x28 + 4 * i, 0x1000 * (i + 1));
	for (unsigned i = 0; i < 6; i++)
		write_u32(m, NEW_BASE + 0x48 + 4 * i, i == SEG_CS ? 8 : 0x10);
	return m;
}

/* true if nothing was raised. */
static bool switch_to(struct machine *m, u16 selector, enum task_source source)
{
	m->cpu.pending.valid = false;
	if (_setjmp(m->cpu.restart) == 0)
		task_switch(&m->cpu, selector, source, false, 0, 0);
	return !m->cpu.pending.valid;
}

static void check_new_task(struct machine *m)
{
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, 0x4444);
	for (unsigned i = 0; i < 8; i++)
		g_assert_cmphex(m->cpu.reg[i], ==, 0x1000 * (i + 1));
	g_assert_cmphex(m->cpu.seg[SEG_TR].selector, ==, NEW_TSS);
	g_assert_cmphex(m->cpu.seg[SEG_TR].base, ==, NEW_BASE);
	g_assert_cmphex(m->cpu.seg[SEG_GS].selector, ==, 0x10);
	g_assert_true(m->cpu.cr0 & CR0_TS);
	g_assert_cmpuint(tss_type(m, NEW_TSS), ==, 11);
}

static void test_jump(void)
{
	struct machine *m = machine_with_tasks();
	m->cpu.dr[7] |= 0x1; /* a local breakpoint ends with its task */
	g_assert_true(switch_to(m, NEW_TSS, TASK_JMP));
	check_new_task(m);
	g_assert_cmphex(cpu_rflags(&m->cpu), ==, RFLAGS_ONE | RFLAGS_CF);
	g_assert_cmpuint(tss_type(m, OLD_TSS), ==, 9);
	g_assert_cmphex(read_u32(m, OLD_BASE + 0x20), ==, CODE);
	g_assert_cmphex(read_u32(m, OLD_BASE + 0x24), ==, RFLAGS_ONE | RFLAGS_IF);
	g_assert_cmphex(read_u32(m, OLD_BASE + 0x28 + 4 * RBX), ==, 0xb0b);
	g_assert_cmphex(read_u32(m, OLD_BASE + 0x4c), ==, 8);
	g_assert_cmphex(m->cpu.dr[7], ==, DR7_FIXED1);
	machine_free(m);
}

static void test_call_and_iret(void)
{
	struct machine *m = machine_with_tasks();
	g_assert_true(switch_to(m, NEW_TSS, TASK_CALL));
	check_new_task(m);
	g_assert_true(cpu_rflags(&m->cpu) & RFLAGS_NT);
	g_assert_cmphex(read_u32(m, NEW_BASE) & 0xffff, ==, OLD_TSS);
	g_assert_cmpuint(tss_type(m, OLD_TSS), ==, 11); /* nested: both are busy */

	g_assert_true(switch_to(m, OLD_TSS, TASK_IRET));
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, CODE);
	g_assert_cmphex(m->cpu.reg[RBX], ==, 0xb0b);
	g_assert_cmpuint(tss_type(m, NEW_TSS), ==, 9);
	g_assert_cmpuint(tss_type(m, OLD_TSS), ==, 11);
	g_assert_false(read_u32(m, NEW_BASE + 0x24) & RFLAGS_NT);
	machine_free(m);
}

static void test_error_code(void)
{
	struct machine *m = machine_with_tasks();
	task_switch(&m->cpu, NEW_TSS, TASK_GATE, true, 0x1234, 1);
	g_assert_cmphex(m->cpu.reg[RSP], ==, 0x5000 - 4);
	g_assert_cmphex(read_u32(m, 0x5000 - 4), ==, 0x1234);
	machine_free(m);
}

/* A fault through a task gate saves RF in the old task, so that its instruction restarts past a breakpoint. */
static void test_gate_saves_rf(void)
{
	struct machine *m = machine_with_tasks();
	machine_write_u64(m, IDT + 8 * VEC_UD, (u64)NEW_TSS << 16 | 0x85ULL << 40);
	cpu_deliver(&m->cpu, &(struct event){ .valid = true, .vector = VEC_UD, .type = EVENT_EXCEPTION });
	check_new_task(m);
	g_assert_cmphex(read_u32(m, OLD_BASE + 0x24), ==, RFLAGS_ONE | RFLAGS_IF | RFLAGS_RF);
	g_assert_cmphex(read_u32(m, OLD_BASE + 0x20), ==, CODE);
	machine_free(m);
}

static void check_fault(struct machine *m, u16 selector, enum task_source source, unsigned vector, u32 error)
{
	g_assert_false(switch_to(m, selector, source));
	g_assert_cmpuint(m->cpu.pending.vector, ==, vector);
	g_assert_cmphex(m->cpu.pending.error, ==, error);
}

/* Faults that still belong to the old task. */
static void test_early_faults(void)
{
	struct machine *m = machine_with_tasks();
	check_fault(m, 0, TASK_JMP, VEC_GP, 0);
	check_fault(m, NEW_TSS | 4, TASK_JMP, VEC_GP, NEW_TSS | 4);
	check_fault(m, OLD_TSS, TASK_JMP, VEC_GP, OLD_TSS);  /* busy */
	check_fault(m, NEW_TSS, TASK_IRET, VEC_TS, NEW_TSS); /* not busy */
	check_fault(m, 0x10, TASK_CALL, VEC_GP, 0x10);
	set_tss(m, NEW_TSS, NEW_BASE, 0x66, 9);
	check_fault(m, NEW_TSS, TASK_JMP, VEC_TS, NEW_TSS);
	set_tss(m, NEW_TSS, NEW_BASE, 0x67, 9);
	write_u32(m, GDT + NEW_TSS + 4, read_u32(m, GDT + NEW_TSS + 4) & ~0x8000u);
	check_fault(m, NEW_TSS, TASK_JMP, VEC_NP, NEW_TSS);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, CODE);
	g_assert_cmphex(m->cpu.seg[SEG_TR].selector, ==, OLD_TSS);
	machine_free(m);
}

/* Faults over the new task's segments: raised in the new task, at its EIP. */
static void test_late_faults(void)
{
	static const struct {
		enum seg seg;
		u16 selector;
		u8 vector;
	} cases[] = {
		{ SEG_CS, 0, VEC_TS },    { SEG_CS, 0x10, VEC_TS }, { SEG_SS, 0, VEC_TS },
		{ SEG_SS, 8, VEC_TS },    { SEG_SS, 0x13, VEC_TS }, { SEG_DS, NEW_TSS, VEC_TS },
		{ SEG_ES, 0x28, VEC_NP }, { SEG_SS, 0x28, VEC_SS }, { SEG_FS, 0xfff8, VEC_TS },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct machine *m = machine_with_tasks();
		machine_write_u64(m, GDT + 0x28, 0x00cf13000000ffffULL); /* not present */
		write_u32(m, NEW_BASE + 0x48 + 4 * cases[i].seg, cases[i].selector);
		check_fault(m, NEW_TSS, TASK_JMP, cases[i].vector, cases[i].selector & ~3u);
		g_assert_cmphex(m->cpu.reg[REG_RIP], ==, 0x4444);
		g_assert_cmphex(m->cpu.seg[SEG_TR].selector, ==, NEW_TSS);
		machine_free(m);
	}
}

static void test_v86_task(void)
{
	struct machine *m = machine_with_tasks();
	write_u32(m, NEW_BASE + 0x24, RFLAGS_ONE | RFLAGS_VM);
	write_u32(m, NEW_BASE + 0x48 + 4 * SEG_DS, 0x1234);
	g_assert_true(switch_to(m, NEW_TSS, TASK_JMP));
	g_assert_cmpuint(m->cpu.mode, ==, CPU_V86);
	g_assert_cmpuint(m->cpu.cpl, ==, 3);
	g_assert_cmphex(m->cpu.seg[SEG_DS].base, ==, 0x12340);
	machine_free(m);
}

static void test_16_bit(void)
{
	struct machine *m = machine_with_tasks();
	set_tss(m, NEW_TSS, NEW_BASE, 0x2b, 1);
	u16 image[0x16] = { 0 };
	image[0x0e / 2] = 0x4444;
	image[0x10 / 2] = RFLAGS_ONE;
	for (unsigned i = 0; i < 8; i++)
		image[0x12 / 2 + i] = (u16)(0x100 * (i + 1));
	for (unsigned i = 0; i < 4; i++)
		image[0x22 / 2 + i] = i == SEG_CS ? 8 : 0x10;
	memcpy(m->mem.host + NEW_BASE, image, sizeof(image));
	g_assert_true(switch_to(m, NEW_TSS, TASK_JMP));
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, 0x4444);
	g_assert_cmphex(m->cpu.reg[RDI] & 0xffff, ==, 0x800);
	g_assert_true(m->cpu.seg[SEG_FS].ar & SEG_AR_UNUSABLE); /* it has no FS and GS */
	g_assert_cmpuint(tss_type(m, NEW_TSS), ==, 3);
	machine_free(m);
}

static void test_trap_flag(void)
{
	struct machine *m = machine_with_tasks();
	write_u32(m, NEW_BASE + 0x64, 1);
	g_assert_true(switch_to(m, NEW_TSS, TASK_JMP));
	g_assert_cmphex(m->cpu.pending_db, ==, DR6_BT);
	g_assert_true(m->cpu.attention & ATTEND_TRAP);
	machine_free(m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/task/jump-saves-and-loads-every-register", test_jump);
	g_test_add_func("/task/call-links-and-iret-returns", test_call_and_iret);
	g_test_add_func("/task/error-code-is-pushed-on-the-new-stack", test_error_code);
	g_test_add_func("/task/gate-saves-rf-of-a-fault", test_gate_saves_rf);
	g_test_add_func("/task/early-faults-belong-to-the-old-task", test_early_faults);
	g_test_add_func("/task/late-faults-belong-to-the-new-task", test_late_faults);
	g_test_add_func("/task/virtual-8086-task", test_v86_task);
	g_test_add_func("/task/16-bit-tss", test_16_bit);
	g_test_add_func("/task/t-flag-raises-bt", test_trap_flag);
	return g_test_run();
}
