/*
 * Delivery of events: frames of every mode, error codes, the double-fault matrix, interrupt shadow, single-step. Events
 * are delivered by hand and the frames read from memory; where order matters, small guest code runs.
 */
#include "machine.h"

#include "cpu/event.h"
#include "cpu/system.h"

/* One exception with the usual look. */
static struct event exception(u8 vector, bool has_error, u32 error)
{
	return (struct event){
		.valid = true, .vector = vector, .type = EVENT_EXCEPTION, .has_error = has_error, .error = error
	};
}

static u64 read_u64(struct machine *m, u64 gpa)
{
	u64 v;
	memcpy(&v, m->mem.host + gpa, 8);
	return v;
}

static u32 read_u32(struct machine *m, u64 gpa)
{
	return (u32)read_u64(m, gpa);
}

static u16 read_u16(struct machine *m, u64 gpa)
{
	return (u16)read_u64(m, gpa);
}

/* Delivers; true if the delivery itself raised nothing. What it raised is in cpu.pending. */
static bool deliver(struct machine *m, struct event e)
{
	m->cpu.pending.valid = false;
	if (_setjmp(m->cpu.restart) == 0)
		cpu_deliver(&m->cpu, &e);
	return !m->cpu.pending.valid;
}

/* The same through the exception bitmap's place and the double-fault rules. */
static int take(struct machine *m, struct event e)
{
	volatile int stop = 0;
	m->cpu.pending = e;
	_setjmp(m->cpu.restart);
	while (m->cpu.pending.valid && !stop)
		stop = cpu_take_pending(&m->cpu);
	return stop;
}

static void set_gate64(struct machine *m, unsigned vector, u16 selector, u64 offset, unsigned type, unsigned dpl,
		       unsigned ist)
{
	u64 low = (offset & 0xffff) | (u64)selector << 16 | (u64)ist << 32 | (u64)(0x80 | dpl << 5 | type) << 40 |
		  (offset >> 16 & 0xffff) << 48;
	machine_write_u64(m, IDT + 16 * vector, low);
	machine_write_u64(m, IDT + 16 * vector + 8, offset >> 32);
}

enum { USER_CODE = 0x2b, USER_DATA = 0x23 }; /* selectors with RPL 3 */

static void add_user_segments(struct machine *m)
{
	machine_write_u64(m, GDT + 0x20, 0x00cff3000000ffffULL);
	machine_write_u64(m, GDT + 0x28, 0x00affb000000ffffULL);
}

static void enter_user(struct machine *m)
{
	add_user_segments(m);
	m->cpu.seg[SEG_CS].selector = USER_CODE;
	m->cpu.seg[SEG_CS].ar |= 3 << 5;
	m->cpu.seg[SEG_SS].selector = USER_DATA;
	m->cpu.seg[SEG_SS].ar |= 3 << 5;
	m->cpu.cpl = 3;
	cpu_update_mode(&m->cpu);
}

/* --- long mode --- */

static void test_long_frame(void)
{
	struct machine *m = machine_new();
	m->cpu.reg[RSP] = STACK - 3; /* is aligned down to 16 */
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | RFLAGS_IF | RFLAGS_CF | RFLAGS_NT);
	set_gate64(m, 6, 8, 0x123456789abcULL, 14, 0, 0);
	g_assert_true(deliver(m, exception(6, false, 0)));
	u64 sp = m->cpu.reg[RSP];
	g_assert_cmphex(sp, ==, ((STACK - 3) & ~15ULL) - 40);
	g_assert_cmphex(read_u64(m, sp), ==, CODE);
	g_assert_cmphex(read_u64(m, sp + 8), ==, 8);
	/* A fault pushes RF. */
	g_assert_cmphex(read_u64(m, sp + 16), ==, RFLAGS_ONE | RFLAGS_IF | RFLAGS_CF | RFLAGS_NT | RFLAGS_RF);
	g_assert_cmphex(read_u64(m, sp + 24), ==, STACK - 3);
	g_assert_cmphex(read_u64(m, sp + 32), ==, 0x10);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, 0x123456789abcULL);
	g_assert_cmphex(cpu_rflags(&m->cpu), ==, RFLAGS_ONE | RFLAGS_CF);
	g_assert_cmphex(m->cpu.seg[SEG_SS].selector, ==, 0x10); /* no change of ring: SS stays */
	machine_free(m);
}

static void test_long_error_and_trap_gate(void)
{
	struct machine *m = machine_new();
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | RFLAGS_IF);
	set_gate64(m, 13, 8, HANDLERS, 15, 0, 0);
	g_assert_true(deliver(m, exception(13, true, 0xabcd)));
	g_assert_cmphex(machine_frame(m, 0), ==, 0xabcd);
	g_assert_cmphex(machine_frame(m, 1), ==, CODE);
	g_assert_true(cpu_rflags(&m->cpu) & RFLAGS_IF);
	machine_free(m);
}

static void test_long_from_user(void)
{
	struct machine *m = machine_new();
	enter_user(m);
	machine_write_u64(m, TSS + 4, STACK + 0x1000);
	set_gate64(m, 32, 8, HANDLERS, 14, 0, 0);
	m->cpu.idtr.limit = 33 * 16 - 1;
	g_assert_true(deliver(m, (struct event){ .valid = true, .vector = 32, .type = EVENT_INTERRUPT }));
	g_assert_cmphex(m->cpu.reg[RSP], ==, STACK + 0x1000 - 40);
	g_assert_cmphex(machine_frame(m, 1), ==, USER_CODE);
	g_assert_cmphex(machine_frame(m, 3), ==, STACK);
	g_assert_cmphex(machine_frame(m, 4), ==, USER_DATA);
	g_assert_false(machine_frame(m, 2) & RFLAGS_RF); /* an interrupt is no fault */
	g_assert_cmpuint(m->cpu.cpl, ==, 0);
	g_assert_cmphex(m->cpu.seg[SEG_SS].selector, ==, 0);
	g_assert_true(m->cpu.seg[SEG_SS].ar & SEG_AR_UNUSABLE);
	machine_free(m);
}

static void test_long_ist(void)
{
	struct machine *m = machine_new();
	for (unsigned ist = 1; ist <= 7; ist++) {
		machine_write_u64(m, TSS + 0x24 + 8 * (ist - 1), STACK + 0x100 * ist);
		set_gate64(m, 6, 8, HANDLERS, 14, 0, ist);
		g_assert_true(deliver(m, exception(6, false, 0)));
		g_assert_cmphex(m->cpu.reg[RSP], ==, STACK + 0x100 * ist - 40);
	}
	machine_free(m);
}

/* What a broken gate raises; the EXT bit says whether software asked for the interrupt. */
static void check_gate_fault(struct machine *m, struct event e, u8 vector, u32 error)
{
	u64 rsp = m->cpu.reg[RSP], rip = m->cpu.reg[REG_RIP];
	g_assert_false(deliver(m, e));
	g_assert_cmpuint(m->cpu.pending.vector, ==, vector);
	g_assert_cmphex(m->cpu.pending.error, ==, error);
	g_assert_cmphex(m->cpu.reg[RSP], ==, rsp);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, rip);
	m->cpu.vectoring.valid = false;
}

static void test_long_gate_faults(void)
{
	struct machine *m = machine_new();
	struct event ud = exception(6, false, 0);
	struct event soft = { .valid = true, .vector = 6, .type = EVENT_SOFT_INT, .length = 2 };

	set_gate64(m, 6, 8, HANDLERS, 12, 0, 0); /* a call gate */
	check_gate_fault(m, ud, VEC_GP, 6 * 8 + 3);
	check_gate_fault(m, soft, VEC_GP, 6 * 8 + 2);
	set_gate64(m, 6, 8, HANDLERS, 14, 0, 0);
	machine_write_u64(m, IDT + 96, read_u64(m, IDT + 96) & ~BIT(47));
	check_gate_fault(m, ud, VEC_NP, 6 * 8 + 3);
	set_gate64(m, 6, 0x10, HANDLERS, 14, 0, 0); /* data segment */
	check_gate_fault(m, ud, VEC_GP, 0x11);
	check_gate_fault(m, soft, VEC_GP, 0x10);
	set_gate64(m, 6, 0, HANDLERS, 14, 0, 0);
	check_gate_fault(m, ud, VEC_GP, 1);
	set_gate64(m, 6, 0x38, HANDLERS, 14, 0, 0); /* beyond the GDT */
	check_gate_fault(m, ud, VEC_GP, 0x39);
	set_gate64(m, 6, 8, BIT(47), 14, 0, 0); /* not canonical */
	check_gate_fault(m, ud, VEC_GP, 1);
	m->cpu.idtr.limit = 6 * 16 + 14;
	check_gate_fault(m, ud, VEC_GP, 6 * 8 + 3);
	machine_free(m);
}

static void test_long_stack_faults(void)
{
	struct machine *m = machine_new();
	struct event ud = exception(6, false, 0);
	set_gate64(m, 6, 8, HANDLERS, 14, 0, 1);
	machine_write_u64(m, TSS + 0x24, BIT(47));
	check_gate_fault(m, ud, VEC_SS, 1);
	m->cpu.seg[SEG_TR].limit = 0x2a;
	check_gate_fault(m, ud, VEC_TS, 0x18 + 1);
	machine_free(m);
}

/* INT n from ring 3 needs a gate of DPL 3; exceptions do not. */
static void test_gate_dpl(void)
{
	struct machine *m = machine_new();
	struct event soft = { .valid = true, .vector = 6, .type = EVENT_SOFT_INT, .length = 2 };
	enter_user(m);
	machine_write_u64(m, TSS + 4, STACK + 0x1000);
	set_gate64(m, 6, 8, HANDLERS, 14, 2, 0);
	check_gate_fault(m, soft, VEC_GP, 6 * 8 + 2);
	set_gate64(m, 6, 8, HANDLERS, 14, 3, 0);
	g_assert_true(deliver(m, soft));
	g_assert_cmphex(machine_frame(m, 0), ==, CODE + 2); /* behind the instruction */
	enter_user(m);
	m->cpu.reg[RSP] = STACK;
	set_gate64(m, 6, 8, HANDLERS, 14, 0, 0);
	g_assert_true(deliver(m, exception(6, false, 0)));
	machine_free(m);
}

/* --- protected and real mode --- */

static struct segment flat_segment(u16 selector, u32 ar)
{
	return (struct segment){ .selector = selector, .limit = 0xffffffff, .ar = ar };
}

/* 32-bit protected mode without paging, 8-byte gates at IDT. */
static void enter_protected(struct machine *m)
{
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	s.cr0 = CR0_PE | CR0_ET;
	s.cr4 = 0;
	s.efer = 0;
	s.seg[SEG_CS] = flat_segment(8, 0xc09b);
	for (unsigned i = 0; i < SEG_LDTR; i++)
		if (i != SEG_CS)
			s.seg[i] = flat_segment(0x10, 0xc093);
	s.seg[SEG_TR].ar = 0x8b;
	s.idtr.limit = 0x1ff;
	machine_write_u64(m, GDT + 8, 0x00cf9b000000ffffULL);
	machine_write_u64(m, GDT + 0x20, 0x00cff3000000ffffULL);
	machine_write_u64(m, GDT + 0x28, 0x00cffb000000ffffULL);
	cpu_set_state(&m->cpu, &s);
}

static void set_gate32(struct machine *m, unsigned vector, u16 selector, u32 offset, unsigned type)
{
	machine_write_u64(m, IDT + 8 * vector,
			  (offset & 0xffff) | (u64)selector << 16 | (u64)(0x80 | type) << 40 |
				  (u64)(offset >> 16) << 48);
}

static void test_protected_gates(void)
{
	struct machine *m = machine_new();
	enter_protected(m);
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | RFLAGS_IF);
	set_gate32(m, 13, 8, 0x123456, 14);
	g_assert_true(deliver(m, exception(13, true, 0x55)));
	u64 sp = m->cpu.reg[RSP];
	g_assert_cmphex(sp, ==, STACK - 16);
	g_assert_cmphex(read_u32(m, sp), ==, 0x55);
	g_assert_cmphex(read_u32(m, sp + 4), ==, CODE);
	g_assert_cmphex(read_u32(m, sp + 8), ==, 8);
	g_assert_cmphex(read_u32(m, sp + 12), ==, RFLAGS_ONE | RFLAGS_IF | RFLAGS_RF);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, 0x123456);
	/* A 16-bit gate has a 16-bit offset and pushes words. */
	m->cpu.reg[RSP] = STACK;
	m->cpu.reg[REG_RIP] = 0x1234;
	set_gate32(m, 6, 8, 0xffff5678, 6);
	g_assert_true(deliver(m, exception(6, false, 0)));
	g_assert_cmphex(m->cpu.reg[RSP], ==, STACK - 6);
	g_assert_cmphex(read_u16(m, STACK - 6), ==, 0x1234);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, 0x5678);
	machine_free(m);
}

static void test_protected_inner(void)
{
	struct machine *m = machine_new();
	enter_protected(m);
	m->cpu.seg[SEG_CS] = flat_segment(USER_CODE, 0xc0fb);
	m->cpu.seg[SEG_SS] = flat_segment(USER_DATA, 0xc0f3);
	m->cpu.cpl = 3;
	cpu_update_mode(&m->cpu);
	machine_write_u64(m, TSS + 4, (STACK + 0x800) | (u64)0x10 << 32);
	set_gate32(m, 6, 8, HANDLERS, 15);
	g_assert_true(deliver(m, exception(6, false, 0)));
	u64 sp = m->cpu.reg[RSP];
	g_assert_cmphex(sp, ==, STACK + 0x800 - 20);
	g_assert_cmphex(read_u32(m, sp + 4), ==, USER_CODE);
	g_assert_cmphex(read_u32(m, sp + 12), ==, STACK);
	g_assert_cmphex(read_u32(m, sp + 16), ==, USER_DATA);
	g_assert_cmphex(m->cpu.seg[SEG_SS].selector, ==, 0x10);
	/* A stack segment of the wrong ring is #TS with its selector. */
	m->cpu.seg[SEG_CS] = flat_segment(USER_CODE, 0xc0fb);
	m->cpu.seg[SEG_SS] = flat_segment(USER_DATA, 0xc0f3);
	m->cpu.cpl = 3;
	cpu_update_mode(&m->cpu);
	machine_write_u64(m, TSS + 4, (STACK + 0x800) | (u64)USER_DATA << 32);
	check_gate_fault(m, exception(6, false, 0), VEC_TS, (USER_DATA & ~3) + 1);
	machine_free(m);
}

static void test_v86_frame(void)
{
	struct machine *m = machine_new();
	enter_protected(m);
	static const u16 selectors[] = { 0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666 }; /* ES CS SS DS FS GS */
	for (unsigned i = 0; i < 6; i++)
		m->cpu.seg[i].selector = selectors[i];
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | RFLAGS_VM);
	cpu_update_mode(&m->cpu);
	m->cpu.reg[REG_RIP] = 0x1234;
	m->cpu.reg[RSP] = 0x5678;
	machine_write_u64(m, TSS + 4, (STACK + 0x800) | (u64)0x10 << 32);
	set_gate32(m, 13, 8, HANDLERS, 14);
	g_assert_true(deliver(m, exception(13, true, 0)));
	static const u32 frame[] = { 0,      0x1234, 0x2222, RFLAGS_ONE | RFLAGS_VM | RFLAGS_RF, 0x5678, 0x3333, 0x1111,
				     0x4444, 0x5555, 0x6666 };
	g_assert_cmphex(m->cpu.reg[RSP], ==, STACK + 0x800 - sizeof(frame));
	for (unsigned i = 0; i < ARRAY_SIZE(frame); i++)
		g_assert_cmphex(read_u32(m, m->cpu.reg[RSP] + 4 * i), ==, frame[i]);
	g_assert_cmpuint(m->cpu.mode, ==, CPU_PROT);
	g_assert_cmphex(m->cpu.seg[SEG_DS].selector, ==, 0);
	machine_free(m);
}

static void test_real_frame(void)
{
	struct machine *m = machine_new();
	cpu_reset(&m->cpu);
	m->cpu.seg[SEG_CS].selector = 0x1000;
	m->cpu.seg[SEG_SS].base = 0x20000;
	m->cpu.reg[RSP] = 0xaaaa0002; /* SP wraps inside 64 KiB, the upper half stays */
	m->cpu.reg[REG_RIP] = 0x100;
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | RFLAGS_IF | RFLAGS_TF | RFLAGS_AC);
	machine_write_u64(m, 6 * 4, 0x40005678);
	g_assert_true(deliver(m, exception(6, false, 0)));
	g_assert_cmphex(m->cpu.reg[RSP], ==, 0xaaaafffc);
	g_assert_cmphex(read_u16(m, 0x20000), ==, (u16)(RFLAGS_ONE | RFLAGS_IF | RFLAGS_TF));
	g_assert_cmphex(read_u16(m, 0x2fffe), ==, 0x1000);
	g_assert_cmphex(read_u16(m, 0x2fffc), ==, 0x100);
	g_assert_cmphex(m->cpu.seg[SEG_CS].base, ==, 0x40000);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, 0x5678);
	g_assert_cmphex(cpu_rflags(&m->cpu) & (RFLAGS_IF | RFLAGS_TF | RFLAGS_AC), ==, 0);
	machine_free(m);
}

/* --- double faults --- */

static enum event_type type_of_first(unsigned vector)
{
	return vector == VEC_NMI ? EVENT_NMI : EVENT_EXCEPTION;
}

/* SDM vol. 3, table 6-5, written out for every pair that this CPU can produce. */
static unsigned expected(unsigned first, unsigned second)
{
	const u32 contributory = BIT(VEC_DE) | BIT(VEC_TS) | BIT(VEC_NP) | BIT(VEC_SS) | BIT(VEC_GP);
	bool a = contributory >> first & 1, b = contributory >> second & 1;
	if (first == VEC_DF)
		return b || second == VEC_PF ? 255 : second;
	if (first == VEC_PF)
		return b || second == VEC_PF ? VEC_DF : second;
	return a && b ? VEC_DF : second;
}

static void test_double_fault_matrix(void)
{
	static const u8 vectors[] = { VEC_DE, VEC_DB, VEC_NMI, VEC_BP, VEC_UD, VEC_NM, VEC_DF,
				      VEC_TS, VEC_NP, VEC_SS,  VEC_GP, VEC_PF, VEC_MF, VEC_AC };
	struct machine *m = machine_new();
	for (unsigned i = 0; i < ARRAY_SIZE(vectors); i++) {
		for (unsigned j = 0; j < ARRAY_SIZE(vectors); j++) {
			unsigned first = vectors[i], second = vectors[j];
			if (second == VEC_NMI || second == VEC_DF)
				continue;
			machine_set_long_mode(m);
			m->cpu.vectoring = exception((u8)first, false, 0);
			m->cpu.vectoring.type = type_of_first(first);
			int stop = take(m, exception((u8)second, second >= VEC_TS && second <= VEC_PF, 0));
			unsigned want = expected(first, second);
			if (want == 255) {
				g_assert_cmpint(stop, ==, CPU_STOP_TRIPLE_FAULT + 1);
				g_assert_cmpint(m->cpu.activity, ==, CPU_SHUTDOWN);
			} else {
				g_assert_cmpint(stop, ==, 0);
				g_assert_cmphex(m->cpu.reg[REG_RIP], ==, HANDLERS + 16 * want);
				if (want == VEC_DF)
					g_assert_cmphex(machine_frame(m, 0), ==, 0);
			}
			m->cpu.activity = CPU_ACTIVE;
		}
	}
	machine_free(m);
}

/* INT n is benign: a fault while it is delivered is just that fault. */
static void test_software_first_is_benign(void)
{
	struct machine *m = machine_new();
	m->cpu.vectoring = (struct event){ .valid = true, .vector = VEC_GP, .type = EVENT_SOFT_INT };
	g_assert_cmpint(take(m, exception(VEC_GP, true, 0)), ==, 0);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, HANDLERS + 16 * VEC_GP);
	machine_free(m);
}

/* Without any usable gate a fault becomes a double and then a triple fault. */
static void test_triple_fault(void)
{
	struct machine *m = machine_new();
	m->cpu.idtr.limit = 0;
	g_assert_cmpint(take(m, exception(VEC_GP, true, 0)), ==, CPU_STOP_TRIPLE_FAULT + 1);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, CODE);
	machine_free(m);
}

static void test_cr2(void)
{
	struct machine *m = machine_new();
	struct event pf = exception(VEC_PF, true, PF_WRITE);
	pf.address = 0x123456;
	m->cpu.cr2 = 1;
	/* Injected as VM entry does: CR2 stays. */
	g_assert_true(deliver(m, pf));
	g_assert_cmphex(m->cpu.cr2, ==, 1);
	g_assert_cmpint(take(m, pf), ==, 0);
	g_assert_cmphex(m->cpu.cr2, ==, 0x123456);
	machine_free(m);
}

static void test_nmi_blocks(void)
{
	struct machine *m = machine_new();
	g_assert_true(deliver(m, (struct event){ .valid = true, .vector = 2, .type = EVENT_NMI }));
	g_assert_true(m->cpu.nmi_blocked);
	machine_free(m);
}

/* Counts in ECX. */
GUEST(count_nmi, "inc %ecx\n iretq");
GUEST(await_nmis, "nop\n jmp 1f\n1: nop\n hlt");
/* Returns to the HLT, which ends the blocking of NMIs. */
GUEST(end_blocking,
      "mov %rsp, %rax\n push $0x10\n push %rax\n pushf\n push $8\n lea 1f(%rip), %rax\n push %rax\n iretq\n"
      "1: nop\n hlt");

/* How many of `count` NMIs does a CPU take that looks for them once they are all there? */
static u64 taken_nmis(struct machine *m, unsigned count)
{
	machine_load_at(m, HANDLERS + 16 * VEC_NMI, count_nmi, count_nmi_end);
	m->cpu.reg[RCX] = 0;
	for (unsigned i = 0; i < count; i++)
		cpu_attend_nmi(&m->cpu);
	machine_run(m);
	g_assert_cmphex(m->cpu.attention & (ATTEND_NMI | ATTEND_NMI_2), ==, 0);
	return m->cpu.reg[RCX];
}

static void test_second_nmi_is_kept(void)
{
	for (unsigned count = 1; count <= 3; count++) {
		struct machine *m = machine_new();
		machine_load(m, await_nmis);
		g_assert_cmpuint(taken_nmis(m, count), ==, count < 2 ? count : 2);
		g_assert_false(m->cpu.nmi_blocked);
		machine_free(m);
	}
}

static void test_blocked_nmis_are_one(void)
{
	struct machine *m = machine_new();
	machine_load(m, end_blocking);
	m->cpu.nmi_blocked = true;
	g_assert_cmpuint(taken_nmis(m, 3), ==, 1);
	machine_free(m);
}

/* --- boundaries --- */

struct interrupts {
	int vector; /* pending one; -1 none */
};

static bool interrupt_pending(void *opaque)
{
	return ((struct interrupts *)opaque)->vector >= 0;
}

static int ack_interrupt(void *opaque)
{
	struct interrupts *i = opaque;
	int vector = i->vector;
	i->vector = -1;
	return vector;
}

static void connect_interrupts(struct machine *m, struct interrupts *i)
{
	i->vector = 20;
	m->platform.opaque = i;
	m->platform.interrupt_pending = interrupt_pending;
	m->platform.ack_interrupt = ack_interrupt;
	cpu_attend(&m->cpu, ATTEND_INTR);
}

/* The handlers of machine.h halt with the vector in AL; frame word 0 is the return address. */
GUEST(sti_shadow, "cli\n nop\n sti\n inc %ecx\n inc %ecx\n hlt");

static void test_sti_shadow(void)
{
	struct machine *m = machine_new();
	struct interrupts interrupts;
	connect_interrupts(m, &interrupts);
	machine_load(m, sti_shadow);
	m->cpu.reg[RCX] = 0;
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, 20);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 1); /* one instruction in the shadow */
	machine_free(m);
}

GUEST(mov_ss_shadow, "sti\n nop\n mov %ss, %eax\n mov %eax, %ss\n inc %ecx\n inc %ecx\n hlt");

/* The interrupt is there before MOV SS ends, but waits for the instruction behind it. */
static void test_mov_ss_shadow(void)
{
	struct machine *m = machine_new();
	struct interrupts interrupts;
	machine_load(m, mov_ss_shadow);
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | RFLAGS_IF);
	m->cpu.reg[RCX] = 0;
	m->cpu.reg[REG_RIP] = CODE + 6; /* behind MOV SS */
	m->cpu.shadow_rip = m->cpu.reg[REG_RIP];
	cpu_set_shadow(&m->cpu, SHADOW_MOV_SS);
	connect_interrupts(m, &interrupts);
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 1);
	machine_free(m);
}

GUEST(masked, "cli\n inc %ecx\n inc %ecx\n hlt");

static void test_masked_interrupt_waits(void)
{
	struct machine *m = machine_new();
	struct interrupts interrupts;
	connect_interrupts(m, &interrupts);
	machine_load(m, masked);
	m->cpu.reg[RCX] = 0;
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 2);
	g_assert_cmpint(interrupts.vector, ==, 20);
	g_assert_true(m->cpu.intr_held);
	g_assert_cmphex(m->cpu.attention, ==, 0); /* nothing keeps the sleeping thread awake */
	machine_free(m);
}

GUEST(halt_and_go, "sti\n hlt\n mov $77, %ecx\n cli\n hlt");

static void test_interrupt_wakes_halt(void)
{
	struct machine *m = machine_new();
	struct interrupts interrupts = { .vector = -1 };
	machine_load(m, halt_and_go);
	m->platform.opaque = &interrupts;
	m->platform.interrupt_pending = interrupt_pending;
	m->platform.ack_interrupt = ack_interrupt;
	machine_run(m);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, CODE + 2);
	connect_interrupts(m, &interrupts);
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, 20);
	g_assert_cmphex(machine_frame(m, 0), ==, CODE + 2); /* returns behind HLT */
	machine_free(m);
}

/* POPF sets TF; the trap comes after the instruction that follows it. */
GUEST(single_step, "pushf\n orl $0x100, (%rsp)\n popf\n inc %ecx\n inc %ecx\n hlt");

static void test_single_step(void)
{
	struct machine *m = machine_new();
	machine_load(m, single_step);
	m->cpu.reg[RCX] = 0;
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_DB);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 1);
	g_assert_cmphex(m->cpu.dr[6], ==, DR6_FIXED1 | DR6_BS);
	g_assert_true(machine_frame(m, 2) & RFLAGS_TF);
	g_assert_false(cpu_rflags(&m->cpu) & RFLAGS_TF);
	machine_free(m);
}

GUEST(breakpoints, "inc %ecx\n inc %ecx\n movl $1, 0x180000\n inc %ecx\n hlt");

static void test_code_breakpoint(void)
{
	struct machine *m = machine_new();
	machine_load(m, breakpoints);
	m->cpu.reg[RCX] = 0;
	m->cpu.dr[0] = CODE + 2;
	m->cpu.dr[7] = DR7_FIXED1 | 1;
	cpu_update_mode(&m->cpu);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 1);
	g_assert_cmphex(machine_frame(m, 0), ==, CODE + 2); /* a fault: before the instruction */
	g_assert_cmphex(m->cpu.dr[6], ==, DR6_FIXED1 | 1);
	machine_free(m);
}

static void test_data_breakpoint(void)
{
	struct machine *m = machine_new();
	machine_load(m, breakpoints);
	m->cpu.reg[RCX] = 0;
	m->cpu.dr[3] = DATA;
	m->cpu.dr[7] = DR7_FIXED1 | 0x80 | 0xdULL << 28; /* 4 bytes, writes */
	cpu_update_mode(&m->cpu);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 2);
	g_assert_cmpuint(m->mem.host[DATA], ==, 1); /* a trap: after the instruction */
	g_assert_cmphex(m->cpu.dr[6], ==, DR6_FIXED1 | 8);
	machine_free(m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/event/long-mode-frame", test_long_frame);
	g_test_add_func("/event/long-mode-error-code-and-trap-gate", test_long_error_and_trap_gate);
	g_test_add_func("/event/long-mode-from-user-takes-rsp0-and-null-ss", test_long_from_user);
	g_test_add_func("/event/long-mode-ist-chooses-the-stack", test_long_ist);
	g_test_add_func("/event/long-mode-broken-gates-fault-and-change-nothing", test_long_gate_faults);
	g_test_add_func("/event/long-mode-broken-stacks-fault", test_long_stack_faults);
	g_test_add_func("/event/gate-dpl-binds-software-only", test_gate_dpl);
	g_test_add_func("/event/protected-mode-16-and-32-bit-gates", test_protected_gates);
	g_test_add_func("/event/protected-mode-inner-ring-takes-the-tss-stack", test_protected_inner);
	g_test_add_func("/event/virtual-8086-frame-has-data-segments", test_v86_frame);
	g_test_add_func("/event/real-mode-frame-wraps-in-64k", test_real_frame);
	g_test_add_func("/event/double-fault-matrix", test_double_fault_matrix);
	g_test_add_func("/event/software-interrupt-is-benign", test_software_first_is_benign);
	g_test_add_func("/event/no-usable-gate-is-a-triple-fault", test_triple_fault);
	g_test_add_func("/event/cr2-changes-on-real-page-faults-only", test_cr2);
	g_test_add_func("/event/nmi-blocks-nmi", test_nmi_blocks);
	g_test_add_func("/event/second-nmi-before-the-first-is-taken-is-kept", test_second_nmi_is_kept);
	g_test_add_func("/event/nmis-that-come-while-blocked-are-one", test_blocked_nmis_are_one);
	g_test_add_func("/event/sti-shadow-covers-one-instruction", test_sti_shadow);
	g_test_add_func("/event/mov-ss-shadow-covers-one-instruction", test_mov_ss_shadow);
	g_test_add_func("/event/masked-interrupt-waits-quietly", test_masked_interrupt_waits);
	g_test_add_func("/event/interrupt-wakes-hlt", test_interrupt_wakes_halt);
	g_test_add_func("/event/single-step-traps-after-one-instruction", test_single_step);
	g_test_add_func("/event/code-breakpoint-faults-before-the-instruction", test_code_breakpoint);
	g_test_add_func("/event/data-breakpoint-traps-after-the-instruction", test_data_breakpoint);
	return g_test_run();
}
