/*
 * Segment loads and far transfers: every type, privilege and presence of a descriptor against the manual's rules
 * written down once more, and far calls, gates and returns with their stacks.
 */
#include "machine.h"

#include "cpu/event.h"
#include "cpu/system.h"

enum { SLOT = 0x28, GDT_LIMIT = 0x5f }; /* the descriptor under test; the table's end */

/* Result of a load: 0, or the exception with its error code. */
struct outcome {
	unsigned vector;
	u32 error;
};

static struct outcome load(struct machine *m, enum seg seg, u16 selector)
{
	struct cpu *cpu = &m->cpu;
	cpu->pending.valid = false;
	if (_setjmp(cpu->restart) == 0)
		segment_load(cpu, seg, selector);
	if (!cpu->pending.valid)
		return (struct outcome){ 0, 0 };
	return (struct outcome){ cpu->pending.vector, cpu->pending.error };
}

static u64 descriptor(unsigned type, unsigned dpl, bool system, bool present)
{
	u64 ar = type | (system ? 0 : 16) | dpl << 5 | (present ? 0x80 : 0);
	return 0x00cf00000000ffffULL | ar << 40;
}

static void set_cpl(struct machine *m, unsigned cpl)
{
	m->cpu.cpl = (u8)cpl;
	m->cpu.seg[SEG_CS].ar = 0xa09b | cpl << 5;
	m->cpu.seg[SEG_SS].ar = 0xc093 | cpl << 5;
	cpu_update_mode(&m->cpu);
}

/* SDM vol. 2, "MOV": data registers. */
static struct outcome expected_data(unsigned type, unsigned dpl, bool system, bool present, unsigned rpl, unsigned cpl)
{
	bool code = type & 8, readable = !code || (type & 2), conforming = code && (type & 4);
	if (system || !readable || (!conforming && (rpl > dpl || cpl > dpl)))
		return (struct outcome){ VEC_GP, SLOT };
	return present ? (struct outcome){ 0, 0 } : (struct outcome){ VEC_NP, SLOT };
}

static struct outcome expected_stack(unsigned type, unsigned dpl, bool system, bool present, unsigned rpl, unsigned cpl)
{
	if (rpl != cpl || system || (type & 8) || !(type & 2) || dpl != cpl)
		return (struct outcome){ VEC_GP, SLOT };
	return present ? (struct outcome){ 0, 0 } : (struct outcome){ VEC_SS, SLOT };
}

static void check_loads(struct machine *m, enum seg seg,
			struct outcome (*expected)(unsigned, unsigned, bool, bool, unsigned, unsigned))
{
	for (unsigned n = 0; n < 1 << 12; n++) {
		unsigned type = n & 15, dpl = n >> 4 & 3, rpl = n >> 6 & 3, cpl = n >> 8 & 3;
		bool system = n >> 10 & 1, present = n >> 11 & 1;
		u64 raw = descriptor(type, dpl, system, present);
		machine_write_u64(m, GDT + SLOT, raw);
		set_cpl(m, cpl);
		struct outcome want = expected(type, dpl, system, present, rpl, cpl);
		struct outcome got = load(m, seg, (u16)(SLOT | rpl));
		g_assert_cmpuint(got.vector, ==, want.vector);
		g_assert_cmphex(got.error, ==, want.error);
		/* The accessed bit is set by a load that works, and only then. */
		u64 now;
		memcpy(&now, m->mem.host + GDT + SLOT, 8);
		g_assert_cmphex(now, ==, want.vector ? raw : raw | BIT(40));
		if (!want.vector)
			g_assert_cmphex(m->cpu.seg[seg].selector, ==, SLOT | rpl);
	}
}

static struct machine *machine_with_gdt(void)
{
	struct machine *m = machine_new();
	m->cpu.gdtr.limit = GDT_LIMIT;
	return m;
}

static void test_data_loads(void)
{
	struct machine *m = machine_with_gdt();
	check_loads(m, SEG_DS, expected_data);
	check_loads(m, SEG_GS, expected_data);
	machine_free(m);
}

static void test_stack_loads(void)
{
	struct machine *m = machine_with_gdt();
	check_loads(m, SEG_SS, expected_stack);
	machine_free(m);
}

static void test_null(void)
{
	struct machine *m = machine_with_gdt();
	for (u16 selector = 0; selector < 4; selector++) {
		for (unsigned cpl = 0; cpl < 4; cpl++) {
			set_cpl(m, cpl);
			g_assert_cmpuint(load(m, SEG_ES, selector).vector, ==, 0);
			g_assert_true(m->cpu.seg[SEG_ES].ar & SEG_AR_UNUSABLE);
			/* 64-bit mode: a null SS of the own ring, but not in ring 3. */
			bool allowed = cpl < 3 && selector == cpl;
			g_assert_cmpuint(load(m, SEG_SS, selector).vector, ==, allowed ? 0 : VEC_GP);
		}
	}
	machine_free(m);
}

static void test_table_limit(void)
{
	struct machine *m = machine_with_gdt();
	machine_write_u64(m, GDT + 0x58, descriptor(3, 0, false, true));
	g_assert_cmpuint(load(m, SEG_DS, 0x58).vector, ==, 0);
	m->cpu.gdtr.limit = 0x5e; /* one byte short */
	struct outcome o = load(m, SEG_DS, 0x5a);
	g_assert_cmpuint(o.vector, ==, VEC_GP);
	g_assert_cmphex(o.error, ==, 0x58);
	/* No LDT at all. */
	m->cpu.seg[SEG_LDTR].ar = SEG_AR_UNUSABLE;
	g_assert_cmphex(load(m, SEG_DS, 0xc).error, ==, 0xc);
	machine_free(m);
}

static void test_hidden_part(void)
{
	struct machine *m = machine_with_gdt();
	machine_write_u64(m, GDT + SLOT, 0x12cf92345678abcdULL);
	g_assert_cmpuint(load(m, SEG_FS, SLOT).vector, ==, 0);
	g_assert_cmphex(m->cpu.seg[SEG_FS].base, ==, 0x12345678);
	g_assert_cmphex(m->cpu.seg[SEG_FS].limit, ==, 0xfabcdfff);
	g_assert_cmphex(m->cpu.seg[SEG_FS].ar, ==, 0xc093);
	g_assert_cmphex(m->cpu.seg_base[SEG_FS], ==, 0x12345678);
	machine_free(m);
}

/* Real mode changes selector and base; limit and rights stay as they were in protected mode ("unreal" mode). */
static void test_real(void)
{
	struct machine *m = machine_with_gdt();
	cpu_reset(&m->cpu);
	m->cpu.seg[SEG_DS].limit = 0xffffffff;
	segment_load(&m->cpu, SEG_DS, 0x1234);
	g_assert_cmphex(m->cpu.seg[SEG_DS].base, ==, 0x12340);
	g_assert_cmphex(m->cpu.seg[SEG_DS].limit, ==, 0xffffffff);
	machine_free(m);
}

/* --- far transfers, by guest code; handlers of machine.h halt with the vector in AL --- */

enum { CODE64 = 8, USER_DATA = 0x33, USER_CODE = 0x3b, CODE32 = 0x40, GATE = 0x48 };

static void set_call_gate(struct machine *m, u16 selector, u64 offset, unsigned dpl, unsigned type)
{
	machine_write_u64(m, GDT + GATE,
			  (offset & 0xffff) | (u64)selector << 16 | (u64)(0x80 | dpl << 5 | type) << 40 |
				  (offset >> 16 & 0xffff) << 48);
	machine_write_u64(m, GDT + GATE + 8, offset >> 32);
}

static struct machine *machine_with_segments(void)
{
	struct machine *m = machine_with_gdt();
	machine_write_u64(m, GDT + (USER_DATA & ~7), 0x00cff3000000ffffULL);
	machine_write_u64(m, GDT + (USER_CODE & ~7), 0x00affb000000ffffULL);
	machine_write_u64(m, GDT + CODE32, 0x00cf9b000000ffffULL);
	for (u64 page = 0; page < 512; page++)
		machine_write_u64(m, PT + 8 * page, page << 12 | 7);
	machine_write_u64(m, PML4, PDPT | 7);
	machine_write_u64(m, PDPT, PD | 7);
	machine_write_u64(m, PD, PT | 7);
	mmu_flush_all(&m->cpu.mmu);
	machine_write_u64(m, TSS + 4, STACK - 0x2000);
	return m;
}

GUEST(far_call, "push $0x48\n push $0\n .byte 0x48\n lcall *(%rsp)\n mov $55, %edx\n hlt\n"
		".org far_call + 0x100\n mov %cs, %ecx\n mov (%rsp), %rbx\n lretq");

/* CALL through a gate of the same ring, and back. */
static void test_call_gate_same_ring(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, far_call);
	set_call_gate(m, CODE64, CODE + 0x100, 0, 12);
	/* The pointer is 64-bit offset then selector: the pushes put it in the right order. */
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RDX], ==, 55);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, CODE64);
	g_assert_cmphex(m->cpu.reg[RSP], ==, STACK - 16);
	machine_free(m);
}

GUEST(to_user, "push $0x33\n push %rsp\n pushf\n push $0x3b\n lea 1f(%rip), %rax\n push %rax\n iretq\n"
	       "1: mov %cs, %ecx\n mov %ss, %edx\n push $0x4b\n push $0\n .byte 0x48\n lcall *(%rsp)\n"
	       ".org to_user + 0x100\n mov %cs, %edi\n mov %ss, %esi\n hlt");

/* IRETQ to ring 3, then CALL through a gate of DPL 3 to ring 0 on RSP0, SS null. */
static void test_call_gate_inner_ring(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, to_user);
	set_call_gate(m, CODE64, CODE + 0x100, 3, 12);
	machine_run(m);
	g_assert_cmphex(m->cpu.reg[RCX], ==, USER_CODE);
	g_assert_cmphex(m->cpu.reg[RDX], ==, USER_DATA);
	g_assert_cmphex(m->cpu.reg[RDI], ==, CODE64);
	g_assert_cmphex(m->cpu.reg[RSI], ==, 0);
	g_assert_cmphex(m->cpu.reg[RSP], ==, STACK - 0x2000 - 32);
	g_assert_cmphex(machine_frame(m, 1), ==, USER_CODE);
	g_assert_cmphex(machine_frame(m, 3), ==, USER_DATA);
	machine_free(m);
}

/* A gate that ring 3 may not use: #GP with the gate's selector. */
static void test_call_gate_privilege(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, to_user);
	set_call_gate(m, CODE64, CODE + 0x100, 2, 12);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_GP);
	g_assert_cmphex(machine_frame(m, 0), ==, GATE);
	machine_free(m);
}

GUEST(to_compat,
      "push $0x40\n lea 1f(%rip), %rax\n push %rax\n lretq\n .code32\n 1: mov %cs, %ecx\n"
      "inc %eax\n ljmp $8, $0x100080\n .code64\n .org to_compat + 0x80\n mov %cs, %edx\n mov $1, %edi\n hlt");

/* RETF to a 32-bit code segment, where 40h is INC EAX, and a far JMP back. */
static void test_compatibility_mode(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, to_compat);
	machine_run(m);
	g_assert_cmphex(m->cpu.reg[RCX], ==, CODE32);
	g_assert_cmphex(m->cpu.reg[RDX], ==, CODE64);
	g_assert_cmpuint(m->cpu.reg[RDI], ==, 1);
	g_assert_cmpuint(m->cpu.mode, ==, CPU_LONG);
	machine_free(m);
}

GUEST(lar_lsl, "mov $0x10, %eax\n lar %ax, %ecx\n setz %dl\n lsl %ax, %ebx\n setz %dh\n verw %ax\n setz %sil\n"
	       "mov $0x58, %eax\n mov $-1, %edi\n lar %ax, %edi\n setz %r8b\n verr %ax\n setz %r9b\n hlt");

static void test_lar_lsl(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, lar_lsl);
	m->cpu.reg[RDX] = m->cpu.reg[RSI] = m->cpu.reg[R8] = m->cpu.reg[R9] = 0;
	machine_write_u64(m, GDT + 0x58, 0); /* type 0: known to none of them */
	machine_run(m);
	g_assert_cmphex(m->cpu.reg[RCX], ==, 0xc09300);
	g_assert_cmphex(m->cpu.reg[RBX], ==, 0xffffffff);
	g_assert_cmphex(m->cpu.reg[RDX], ==, 0x101);
	g_assert_cmphex(m->cpu.reg[RSI], ==, 1);
	g_assert_cmphex(m->cpu.reg[RDI], ==, 0xffffffff); /* unchanged */
	g_assert_cmphex(m->cpu.reg[R8] | m->cpu.reg[R9], ==, 0);
	machine_free(m);
}

GUEST(syscall_return, "syscall\n .org syscall_return + 0x100\n mov %cs, %r10d\n mov %ss, %esi\n mov %rcx, %rdi\n"
		      "lea 0x100200, %rcx\n mov $0x202, %r11d\n sysretq\n"
		      ".org syscall_return + 0x200\n mov %cs, %r8d\n mov %ss, %r9d\n hlt");

/* SYSCALL and SYSRET: selectors from STAR, RIP from LSTAR, flags through FMASK; HLT in ring 3 then is #GP. */
static void test_syscall(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, syscall_return);
	m->cpu.efer |= EFER_SCE;
	m->cpu.msr.star = (u64)(0x28 | 3) << 48 | (u64)CODE64 << 32;
	m->cpu.msr.lstar = CODE + 0x100;
	m->cpu.msr.fmask = RFLAGS_IF | RFLAGS_CF;
	machine_run(m);
	g_assert_cmphex(m->cpu.reg[R10], ==, CODE64);
	g_assert_cmphex(m->cpu.reg[RSI], ==, CODE64 + 8);
	g_assert_cmphex(m->cpu.reg[RDI], ==, CODE + 2);
	g_assert_cmphex(m->cpu.reg[R8], ==, USER_CODE);
	g_assert_cmphex(m->cpu.reg[R9], ==, USER_DATA);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_GP);
	g_assert_true(machine_frame(m, 3) & RFLAGS_IF);
	machine_free(m);
}

GUEST(sysret_far_away, "mov $1, %ecx\n shl $47, %rcx\n mov $2, %r11d\n sysretq\n hlt");

/* Intel's SYSRET checks RCX while still in ring 0. */
static void test_sysret_canonical(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, sysret_far_away);
	m->cpu.efer |= EFER_SCE;
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_GP);
	g_assert_cmphex(machine_frame(m, 2), ==, CODE64);
	machine_free(m);
}

GUEST(sysenter, "sysenter\n .org sysenter + 0x100\n mov %cs, %r10d\n mov %ss, %r11d\n mov %rsp, %r12\n"
		"pushf\n pop %r13\n lea 0x100200, %rdx\n lea 0x21000, %rcx\n .byte 0x48, 0x0f, 0x35\n"
		".org sysenter + 0x200\n mov %cs, %r8d\n mov %ss, %r9d\n hlt");

static void test_sysenter(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, sysenter);
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | RFLAGS_IF);
	m->cpu.msr.sysenter_cs = 0x1b; /* RPL is masked: CS 18h, SS 20h, and 38h, 40h for the way back */
	m->cpu.msr.sysenter_esp = STACK - 0x800;
	m->cpu.msr.sysenter_eip = CODE + 0x100;
	machine_run(m);
	g_assert_cmphex(m->cpu.reg[R10], ==, 0x18);
	g_assert_cmphex(m->cpu.reg[R11], ==, 0x20);
	g_assert_cmphex(m->cpu.reg[R12], ==, STACK - 0x800);
	g_assert_false(m->cpu.reg[R13] & RFLAGS_IF);
	g_assert_cmphex(m->cpu.reg[R8], ==, 0x3b);
	g_assert_cmphex(m->cpu.reg[R9], ==, 0x43);
	g_assert_cmphex(machine_frame(m, 4), ==, 0x21000);
	machine_free(m);
}

GUEST(sysenter_alone, "sysenter\n hlt");

static void test_sysenter_needs_cs(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, sysenter_alone);
	m->cpu.msr.sysenter_cs = 3; /* null but for the RPL */
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_GP);
	g_assert_cmphex(machine_frame(m, 1), ==, CODE);
	machine_free(m);
}

GUEST(nested_iret, "pushf\n orl $0x4000, (%rsp)\n popf\n iretq\n hlt");

/* There is no task to go back to in long mode. */
static void test_iret_nested_task(void)
{
	struct machine *m = machine_with_segments();
	machine_load(m, nested_iret);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_GP);
	g_assert_cmphex(machine_frame(m, 1), ==, CODE + 9);
	machine_free(m);
}

GUEST(iret_frame, "push %r8\n push %r9\n push %r10\n push %r11\n push %r12\n iretq\n"
		  ".org iret_frame + 0x100\n mov $0x77, %ecx\n hlt");

/* IRETQ's checks, each with the frame that breaks just it. */
static void test_iret_checks(void)
{
	static const struct {
		u64 ss, cs, rip;
		unsigned vector; /* 0: none */
		u32 error;
	} cases[] = {
		{ 0x10, CODE64, CODE + 0x100, 0, 0 },
		{ 0, CODE64, CODE + 0x100, 0, 0 },                              /* null SS in ring 0 */
		{ 3, CODE64, CODE + 0x100, VEC_GP, 0 },                         /* but with its RPL */
		{ 0x10, 0, CODE + 0x100, VEC_GP, 0 },                           /* null CS */
		{ 0x10, 0x10, CODE + 0x100, VEC_GP, 0x10 },                     /* data */
		{ 0x10, 0x68, CODE + 0x100, VEC_GP, 0x68 },                     /* beyond the table */
		{ 8, CODE64, CODE + 0x100, VEC_GP, 8 },                         /* code as stack */
		{ USER_DATA, CODE64, CODE + 0x100, VEC_GP, USER_DATA & ~3 },    /* ring of SS */
		{ 0x10, CODE64, 1ULL << 47, VEC_GP, 0 },                        /* not canonical */
		{ 0, USER_CODE, CODE + 0x100, VEC_GP, 0 },                      /* null SS in ring 3 */
		{ 0x10, USER_CODE & ~3, CODE + 0x100, VEC_GP, USER_CODE & ~3 }, /* DPL 3, RPL 0 */
	};
	struct machine *m = machine_with_segments();
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		machine_set_long_mode(m);
		m->cpu.gdtr.limit = GDT_LIMIT;
		machine_load(m, iret_frame);
		m->cpu.reg[R8] = cases[i].ss;
		m->cpu.reg[R9] = STACK;
		m->cpu.reg[R10] = RFLAGS_ONE;
		m->cpu.reg[R11] = cases[i].cs;
		m->cpu.reg[R12] = cases[i].rip;
		m->cpu.reg[RAX] = m->cpu.reg[RCX] = 0;
		machine_run(m);
		g_assert_cmpuint(m->cpu.reg[RCX], ==, cases[i].vector ? 0 : 0x77);
		g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, cases[i].vector);
		if (cases[i].vector) {
			g_assert_cmphex(machine_frame(m, 0), ==, cases[i].error);
			g_assert_cmphex(machine_frame(m, 1), ==, CODE + 10);
			g_assert_cmphex(machine_frame(m, 4), ==, STACK - 40); /* RSP as before the IRET */
		}
	}
	machine_free(m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/segment/data-loads-follow-type-and-privilege", test_data_loads);
	g_test_add_func("/segment/stack-loads-follow-type-and-privilege", test_stack_loads);
	g_test_add_func("/segment/null-selectors", test_null);
	g_test_add_func("/segment/selector-beyond-the-table-faults", test_table_limit);
	g_test_add_func("/segment/hidden-part-is-unpacked", test_hidden_part);
	g_test_add_func("/segment/real-mode-keeps-limit-and-rights", test_real);
	g_test_add_func("/segment/call-gate-in-the-same-ring-returns", test_call_gate_same_ring);
	g_test_add_func("/segment/call-gate-to-ring-0-switches-stacks", test_call_gate_inner_ring);
	g_test_add_func("/segment/call-gate-guards-its-privilege", test_call_gate_privilege);
	g_test_add_func("/segment/far-return-enters-compatibility-mode", test_compatibility_mode);
	g_test_add_func("/segment/lar-lsl-verr-verw", test_lar_lsl);
	g_test_add_func("/segment/syscall-and-sysret-switch-rings", test_syscall);
	g_test_add_func("/segment/sysret-refuses-a-non-canonical-rip", test_sysret_canonical);
	g_test_add_func("/segment/sysenter-and-sysexit-switch-rings", test_sysenter);
	g_test_add_func("/segment/sysenter-needs-a-code-segment", test_sysenter_needs_cs);
	g_test_add_func("/segment/iret-of-a-nested-task-faults-in-long-mode", test_iret_nested_task);
	g_test_add_func("/segment/iret-checks-its-frame", test_iret_checks);
	return g_test_run();
}
