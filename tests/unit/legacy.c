/*
 * Integer instructions outside 64-bit mode, where the host cannot be asked: 16-bit stacks and addresses, wrap-around,
 * segment limits, and the instructions that 64-bit mode dropped.
 */
#include "machine.h"

#include <setjmp.h>

enum { GATES32 = 0x9000, GDT32 = 0xa000, STACK_BASE = 0x30000, DATA_BASE = 0x40000, EXTRA_BASE = 0x50000 };

static struct machine *m;

static struct segment real_segment(u64 base, u32 ar)
{
	return (struct segment){ .selector = (u16)(base >> 4), .limit = 0xffff, .ar = ar, .base = base };
}

/* Real mode, each segment somewhere else. The IVT leads to the handlers that record the vector in AL and halt. */
static void enter_real(void)
{
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	for (u64 v = 0; v < 32; v++) {
		u32 entry = (u32)(HANDLERS >> 4) << 16 | (u32)(16 * v);
		memcpy(m->mem.host + IDT + 4 * v, &entry, 4);
	}
	s.cr0 = CR0_ET;
	s.cr4 = 0;
	s.efer = 0;
	s.idtr = (struct table_register){ .base = IDT, .limit = 0x3ff };
	s.seg[SEG_CS] = real_segment(CODE, 0x9b);
	s.seg[SEG_SS] = real_segment(STACK_BASE, 0x93);
	s.seg[SEG_DS] = s.seg[SEG_FS] = s.seg[SEG_GS] = real_segment(DATA_BASE, 0x93);
	s.seg[SEG_ES] = real_segment(EXTRA_BASE, 0x93);
	s.rflags = RFLAGS_ONE;
	s.gpr[RSP] = 0x1000;
	s.rip = 0;
	cpu_set_state(&m->cpu, &s);
}

/* Protected mode with 32-bit flat segments and no paging. */
static void enter_flat32(void)
{
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	machine_write_u64(m, GDT32 + 8, 0x00cf9b000000ffffULL);
	machine_write_u64(m, GDT32 + 16, 0x00cf93000000ffffULL);
	for (u64 v = 0; v < 32; v++)
		machine_write_u64(m, GATES32 + 8 * v, (HANDLERS + 16 * v) | 0x8ULL << 16 | 0x8e00ULL << 32);
	s.cr0 = CR0_PE | CR0_ET;
	s.cr4 = 0;
	s.efer = 0;
	s.gdtr = (struct table_register){ .base = GDT32, .limit = 0x17 };
	s.idtr = (struct table_register){ .base = GATES32, .limit = 32 * 8 - 1 };
	for (unsigned i = 0; i < SEG_LDTR; i++)
		s.seg[i] = machine_segment(0x10, 0xc093);
	s.seg[SEG_CS] = machine_segment(0x8, 0xc09b);
	s.rflags = RFLAGS_ONE;
	s.gpr[RSP] = STACK;
	s.rip = CODE;
	cpu_set_state(&m->cpu, &s);
}

/* Runs from RIP as it is. */
static void go(void)
{
	m->cpu.activity = CPU_ACTIVE;
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
}

static u16 word(u64 gpa)
{
	u16 v;
	memcpy(&v, m->mem.host + gpa, 2);
	return v;
}

static u32 dword(u64 gpa)
{
	u32 v;
	memcpy(&v, m->mem.host + gpa, 4);
	return v;
}

static void expect_fault(unsigned vector)
{
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, vector);
	g_assert_cmphex(m->cpu.seg[SEG_CS].selector, ==, HANDLERS >> 4);
}

/* IP that a fault pushed in real mode. */
static u16 fault_ip(void)
{
	return word(STACK_BASE + (u16)m->cpu.reg[RSP]);
}

/* --- stack --- */

GUEST(push_all, ".code16\n pusha\n mov %sp, %bp\n pushal\n popal\n popa\n hlt\n .code64");

static void test_pusha(void)
{
	enter_real();
	machine_load(m, push_all);
	for (unsigned i = 0; i < 8; i++)
		if (i != RSP)
			m->cpu.reg[i] = 0x11110001u * (i + 1);
	go();
	for (unsigned i = 0; i < 8; i++)
		if (i != RSP)
			g_assert_cmphex(m->cpu.reg[i], ==, 0x11110001u * (i + 1));
	g_assert_cmphex(m->cpu.reg[RSP], ==, 0x1000);
	g_assert_cmphex(word(STACK_BASE + 0xffe), ==, 1); /* AX first, so highest */
	g_assert_cmphex(word(STACK_BASE + 0xff6), ==, 0x1000);
	g_assert_cmphex(dword(STACK_BASE + 0xff0 - 4), ==, 0x11110001);
	g_assert_cmphex(dword(STACK_BASE + 0xff0 - 20), ==, 0xff0); /* ESP as before PUSHAD */
}

GUEST(stack_wrap, ".code16\n xor %sp, %sp\n push $0x1234\n mov %sp, %ax\n pop %bx\n mov %sp, %cx\n hlt\n .code64");

static void test_stack_wrap(void)
{
	enter_real();
	machine_load(m, stack_wrap);
	m->cpu.reg[RSP] = 0x55550000;
	go();
	g_assert_cmphex(m->cpu.reg[RAX] & 0xffff, ==, 0xfffe);
	g_assert_cmphex(m->cpu.reg[RBX] & 0xffff, ==, 0x1234);
	g_assert_cmphex(m->cpu.reg[RCX] & 0xffff, ==, 0);
	g_assert_cmphex(m->cpu.reg[RSP], ==, 0x55550000); /* the upper half is not the stack's */
	g_assert_cmphex(word(STACK_BASE + 0xfffe), ==, 0x1234);
}

GUEST(odd_push, ".code16\n mov $1, %sp\n push %ax\n hlt\n .code64");

static void test_stack_limit(void)
{
	enter_real();
	machine_load(m, odd_push);
	/* The word at FFFFh crosses the limit; delivering #SS on that stack faults too, and so on: shutdown. */
	m->cpu.activity = CPU_ACTIVE;
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_TRIPLE_FAULT);
	g_assert_cmphex(m->cpu.reg[RSP], ==, 1);
	g_assert_cmphex(m->cpu.rip_start, ==, 3);
}

GUEST(frames, ".code32\n mov $0x20000, %esp\n mov $0x11111111, %ebp\n enter $16, $0\n enter $8, $1\n enter $4, $3\n"
	      " mov %esp, %eax\n mov %ebp, %ebx\n leave\n leave\n leave\n mov %esp, %ecx\n hlt\n .code64");

static void test_enter_leave(void)
{
	enter_flat32();
	machine_load(m, frames);
	go();
	g_assert_cmphex(dword(0x1fffc), ==, 0x11111111); /* frame 1: old EBP, 16 bytes */
	g_assert_cmphex(dword(0x1ffe8), ==, 0x1fffc);    /* frame 2: EBP of 1, its own pointer, 8 bytes */
	g_assert_cmphex(dword(0x1ffe4), ==, 0x1ffe8);
	g_assert_cmphex(dword(0x1ffd8), ==, 0x1ffe8); /* frame 3: EBP of 2, two pointers copied, its own, 4 bytes */
	g_assert_cmphex(dword(0x1ffd4), ==, 0x1ffe8);
	g_assert_cmphex(dword(0x1ffcc), ==, 0x1ffd8);
	g_assert_cmphex(m->cpu.reg[RAX], ==, 0x1ffc8);
	g_assert_cmphex(m->cpu.reg[RBX], ==, 0x1ffd8);
	g_assert_cmphex(m->cpu.reg[RCX], ==, 0x20000);
	g_assert_cmphex(m->cpu.reg[RBP], ==, 0x11111111);
}

GUEST(pop_by_sp, ".code32\n mov $0x20000, %esp\n push $0x77\n push $0x88\n popl 8(%esp)\n hlt\n .code64");

static void test_pop_to_stack(void)
{
	enter_flat32();
	machine_load(m, pop_by_sp);
	go();
	/* The address counts from ESP after the pop: 1FFFCh + 8. */
	g_assert_cmphex(dword(0x20004), ==, 0x88);
	g_assert_cmphex(m->cpu.reg[RSP], ==, 0x1fffc);
}

GUEST(flags_words, ".code16\n stc\n std\n pushf\n pop %ax\n pushfl\n pop %ebx\n push $0xfeff\n popf\n pushf\n pop %cx\n"
		   " push $2\n popf\n hlt\n .code64");

static void test_flag_words(void)
{
	enter_real();
	machine_load(m, flags_words);
	go();
	g_assert_cmphex(m->cpu.reg[RAX] & 0xffff, ==, RFLAGS_ONE | RFLAGS_CF | RFLAGS_DF);
	g_assert_cmphex(m->cpu.reg[RBX], ==, RFLAGS_ONE | RFLAGS_CF | RFLAGS_DF);
	g_assert_cmphex(m->cpu.reg[RCX] & 0xffff, ==, 0x7ed7); /* bits 3, 5 and 15 are always 0; no TF was asked for */
	g_assert_cmphex(cpu_rflags(&m->cpu), ==, RFLAGS_ONE);
}

/* --- PUSHF and POPF by privilege: handlers called one by one, for no IDT of ours serves virtual-8086 mode --- */

/* Runs one instruction of the current mode; the vector it raised, or -1. */
static int execute(const char *bytes, size_t size)
{
	struct insn insn;
	u8 padded[15] = { 0 };
	memcpy(padded, bytes, size);
	g_assert_true(insn_decode(&m->cpu, m->cpu.mode_key, padded, sizeof(padded), &insn));
	m->cpu.pending.valid = false;
	m->cpu.insn = &insn;
	m->cpu.rip_start = m->cpu.reg[REG_RIP];
	if (_setjmp(m->cpu.restart) == 0)
		insn.exec(&m->cpu, &insn);
	int vector = m->cpu.pending.valid ? m->cpu.pending.vector : -1;
	m->cpu.pending.valid = false;
	return vector;
}
#define EXECUTE(bytes) execute(bytes, sizeof(bytes) - 1)

static void enter_v86(u64 flags, u64 cr4)
{
	struct x86_state s;
	enter_real();
	cpu_get_state(&m->cpu, &s);
	s.cr0 |= CR0_PE;
	s.cr4 = cr4;
	for (unsigned i = 0; i < SEG_LDTR; i++)
		s.seg[i].ar = 0xf3;
	s.rflags = RFLAGS_ONE | RFLAGS_VM | flags;
	cpu_set_state(&m->cpu, &s);
	g_assert_cmpuint(m->cpu.mode, ==, CPU_V86);
}

static void enter_user32(u64 flags)
{
	struct x86_state s;
	enter_flat32();
	cpu_get_state(&m->cpu, &s);
	s.seg[SEG_CS].ar = 0xc0fb;
	s.seg[SEG_SS].ar = 0xc0f3;
	s.rflags = RFLAGS_ONE | flags;
	cpu_set_state(&m->cpu, &s);
	g_assert_cmpuint(m->cpu.cpl, ==, 3);
}

/* Pops `value` into the flags; what they are then. */
static u64 popf32(u32 value)
{
	u64 sp = m->cpu.reg[RSP];
	memcpy(m->mem.host + m->cpu.seg[SEG_SS].base + sp, &value, 4);
	g_assert_cmpint(EXECUTE("\x9d"), ==, -1);
	g_assert_cmphex(m->cpu.reg[RSP], ==, sp + 4);
	return cpu_rflags(&m->cpu);
}

static int popf16(u16 value)
{
	memcpy(m->mem.host + m->cpu.seg[SEG_SS].base + (u16)m->cpu.reg[RSP], &value, 2);
	return EXECUTE("\x9d");
}

/* All but TF, whose trap is not at stake here. */
#define ALL_FLAGS 0xfffffeffu

static void test_popf_privilege(void)
{
	const u64 always = RFLAGS_ONE | RFLAGS_ARITH | RFLAGS_DF | RFLAGS_NT | RFLAGS_AC | RFLAGS_ID;
	enter_flat32();
	g_assert_cmphex(popf32(ALL_FLAGS), ==, always | RFLAGS_IF | RFLAGS_IOPL);
	enter_user32(0);
	g_assert_cmphex(popf32(ALL_FLAGS), ==, always);
	enter_user32(RFLAGS_IF);
	g_assert_cmphex(popf32(0), ==, RFLAGS_ONE | RFLAGS_IF);
	enter_user32(RFLAGS_IOPL);
	g_assert_cmphex(popf32(ALL_FLAGS), ==, always | RFLAGS_IF | RFLAGS_IOPL);
	g_assert_cmphex(popf32(0), ==, RFLAGS_ONE | RFLAGS_IOPL);
}

static void test_v86_flags(void)
{
	enter_v86(RFLAGS_IOPL, 0);
	g_assert_cmpint(EXECUTE("\x9c"), ==, -1);
	g_assert_cmphex(word(STACK_BASE + 0xffe), ==, RFLAGS_ONE | RFLAGS_IOPL);
	g_assert_cmpint(popf16(RFLAGS_IF | RFLAGS_CF), ==, -1);
	g_assert_cmphex(cpu_rflags(&m->cpu), ==, RFLAGS_ONE | RFLAGS_VM | RFLAGS_IOPL | RFLAGS_IF | RFLAGS_CF);
	enter_v86(0, 0);
	g_assert_cmpint(EXECUTE("\x9c"), ==, VEC_GP);
	g_assert_cmpint(EXECUTE("\x9d"), ==, VEC_GP);
	g_assert_cmphex(m->cpu.reg[RSP], ==, 0x1000);
}

static void test_v86_virtual_flags(void)
{
	enter_v86(RFLAGS_VIF, CR4_VME);
	g_assert_cmpint(EXECUTE("\x9c"), ==, -1);
	g_assert_cmphex(word(STACK_BASE + 0xffe), ==, RFLAGS_ONE | RFLAGS_IOPL | RFLAGS_IF); /* VIF shows as IF */
	g_assert_cmpint(popf16(RFLAGS_CF), ==, -1);
	g_assert_cmphex(cpu_rflags(&m->cpu), ==, RFLAGS_ONE | RFLAGS_VM | RFLAGS_CF);
	g_assert_cmpint(popf16(RFLAGS_IF), ==, -1);
	g_assert_cmphex(cpu_rflags(&m->cpu), ==, RFLAGS_ONE | RFLAGS_VM | RFLAGS_VIF);
	g_assert_cmpint(popf16(RFLAGS_TF), ==, VEC_GP);
	g_assert_cmpint(EXECUTE("\x66\x9c"), ==, VEC_GP); /* 32 bits have no virtual form */
	enter_v86(RFLAGS_VIP, CR4_VME);
	g_assert_cmpint(popf16(RFLAGS_IF), ==, VEC_GP);
	g_assert_cmpint(popf16(0), ==, -1);
}

/* --- branches --- */

GUEST(jump_back, ".code16\n .byte 0xeb, 0xfd - 5"); /* at 0: to IP -6, which is FFFAh */
GUEST(at_the_end, ".code16\n mov $0x77, %al\n hlt\n .code64");

static void test_ip_wraps(void)
{
	enter_real();
	machine_load(m, jump_back);
	machine_load_at(m, CODE + 0xfffa, at_the_end, at_the_end_end);
	go();
	g_assert_cmphex(m->cpu.reg[RAX] & 0xff, ==, 0x77);
	g_assert_cmphex(m->cpu.reg[REG_RIP], ==, 0xfffd);
}

GUEST(two_bytes, ".code16\n inc %ax\n inc %bx\n .code64");

static void test_code_limit(void)
{
	enter_real();
	machine_load_at(m, CODE + 0xffff, two_bytes, two_bytes_end);
	m->cpu.reg[REG_RIP] = 0xffff;
	m->cpu.reg[RCX] = m->cpu.reg[RAX];
	go();
	/* INC AX fits into the last byte; what follows is beyond the limit. */
	expect_fault(VEC_GP);
	g_assert_cmphex(m->cpu.reg[RBX] & 0xff, !=, 1);
}

GUEST(across_limit, ".code16\n mov $0x1234, %ax\n .code64");

static void test_instruction_across_limit(void)
{
	enter_real();
	machine_load_at(m, CODE + 0xfffe, across_limit, across_limit_end);
	m->cpu.reg[REG_RIP] = 0xfffe;
	go();
	expect_fault(VEC_GP);
	g_assert_cmphex(fault_ip(), ==, 0xfffe);
}

GUEST(loops, ".code16\n mov $0x10003, %ecx\n1: inc %ax\n loop 1b\n mov %ecx, %edx\n mov $0x10003, %ecx\n"
	     "2: inc %ebx\n .byte 0x67\n loop 2b\n jcxz 3f\n hlt\n3: mov $0x5a, %si\n hlt\n .code64");

static void test_loop_counts(void)
{
	enter_real();
	machine_load(m, loops);
	m->cpu.reg[RAX] = m->cpu.reg[RBX] = 0;
	go();
	g_assert_cmphex(m->cpu.reg[RAX] & 0xffff, ==, 3);
	g_assert_cmphex(m->cpu.reg[RDX], ==, 0x10000); /* CX counted, the upper half stayed */
	g_assert_cmphex(m->cpu.reg[RBX], ==, 0x10003);
	g_assert_cmphex(m->cpu.reg[RSI] & 0xffff, ==, 0x5a);
}

GUEST(calls16, ".code16\n call 1f\n calll 2f\n hlt\n1: inc %bx\n ret\n2: inc %cx\n retl $0\n .code64");

static void test_call_sizes(void)
{
	enter_real();
	machine_load(m, calls16);
	m->cpu.reg[RBX] = m->cpu.reg[RCX] = 0;
	go();
	g_assert_cmphex(m->cpu.reg[RBX], ==, 1);
	g_assert_cmphex(m->cpu.reg[RCX], ==, 1);
	g_assert_cmphex(m->cpu.reg[RSP], ==, 0x1000);
	g_assert_cmphex(dword(STACK_BASE + 0xffc), ==, 9); /* return address of the 32-bit call */
}

GUEST(far_target, ".code16\n mov $0x10000, %eax\n jmpl *%eax\n .code64");

static void test_target_limit(void)
{
	enter_real();
	machine_load(m, far_target);
	go();
	expect_fault(VEC_GP);
	g_assert_cmphex(fault_ip(), ==, 6); /* of the jump itself */
}

/* --- memory --- */

GUEST(beyond, ".code16\n mov $0xffff, %bx\n mov (%bx), %ax\n hlt\n .code64");

static void test_data_limit(void)
{
	enter_real();
	machine_load(m, beyond);
	go();
	expect_fault(VEC_GP);
	g_assert_cmphex(fault_ip(), ==, 3);
}

GUEST(address_wrap, ".code16\n mov $0xfff0, %bx\n mov $0x20, %si\n mov 1(%bx,%si), %al\n"
		    " mov %es:(%si), %ah\n hlt\n .code64");

static void test_address_wraps(void)
{
	enter_real();
	machine_load(m, address_wrap);
	m->mem.host[DATA_BASE + 0x11] = 0xa1;
	m->mem.host[EXTRA_BASE + 0x20] = 0xb2;
	go();
	g_assert_cmphex(m->cpu.reg[RAX] & 0xffff, ==, 0xb2a1);
}

GUEST(string_wrap, ".code16\n cld\n mov $0xfffe, %si\n mov $0xfffd, %di\n mov $4, %cx\n rep movsb\n"
		   " mov $0x10, %di\n mov $2, %cx\n mov $0x41, %al\n rep stosb\n hlt\n .code64");

static void test_string_wraps(void)
{
	enter_real();
	machine_load(m, string_wrap);
	memcpy(m->mem.host + DATA_BASE + 0xfffe, "ab", 2);
	memcpy(m->mem.host + DATA_BASE, "cd", 2);
	go();
	g_assert_cmpmem(m->mem.host + EXTRA_BASE + 0xfffd, 3, "abc", 3);
	g_assert_cmphex(m->mem.host[EXTRA_BASE], ==, 'd');
	g_assert_cmphex(m->cpu.reg[RSI] & 0xffff, ==, 2);
	g_assert_cmpmem(m->mem.host + EXTRA_BASE + 0x10, 2, "AA", 2);
}

GUEST(bounds, ".code16\n movw $-5, 0x100\n movw $5, 0x102\n mov $-5, %ax\n bound %ax, 0x100\n mov $5, %ax\n"
	      " bound %ax, 0x100\n mov $6, %ax\n bound %ax, 0x100\n hlt\n .code64");

static void test_bound(void)
{
	enter_real();
	machine_load(m, bounds);
	go();
	expect_fault(VEC_BR);
	g_assert_cmphex(fault_ip(), ==, bounds_end - bounds - 5); /* of the third BOUND, which is not stepped over */
}

GUEST(zero_base, ".code16\n mov $0x1234, %ax\n .byte 0xd4, 0\n hlt\n .code64");

static void test_aam_zero(void)
{
	enter_real();
	machine_load(m, zero_base);
	go();
	expect_fault(VEC_DE);
	g_assert_cmphex(fault_ip(), ==, 3);
}

GUEST(flat_segments, ".code32\n mov $0x180000, %esi\n movl $0x12345678, (%esi)\n mov $0x80180000, %ebx\n"
		     " mov -0x80000000(%ebx), %eax\n xlat\n hlt\n .code64");

static void test_flat_wraps(void)
{
	enter_flat32();
	machine_load(m, flat_segments);
	go();
	g_assert_cmphex(m->cpu.reg[RAX] >> 8, ==, 0x123456);
}

GUEST(write_code, ".code32\n mov $0x180000, %esi\n movb $1, %cs:(%esi)\n hlt\n .code64");

static void test_code_is_read_only(void)
{
	enter_flat32();
	machine_load(m, write_code);
	go();
	g_assert_cmphex(m->cpu.reg[RAX] & 0xff, ==, VEC_GP);
	g_assert_cmphex(dword((u32)m->cpu.reg[RSP]), ==, 0); /* error code */
	g_assert_cmphex(dword((u32)m->cpu.reg[RSP] + 4), ==, CODE + 5);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*test)(void);
	} tests[] = {
		{ "/legacy/stack/pusha-and-popa-of-both-sizes", test_pusha },
		{ "/legacy/stack/a-16-bit-stack-wraps", test_stack_wrap },
		{ "/legacy/stack/beyond-the-limit-is-ss", test_stack_limit },
		{ "/legacy/stack/enter-copies-frame-pointers", test_enter_leave },
		{ "/legacy/stack/pop-addresses-with-the-new-pointer", test_pop_to_stack },
		{ "/legacy/stack/flag-words", test_flag_words },
		{ "/legacy/flags/popf-changes-what-privilege-allows", test_popf_privilege },
		{ "/legacy/flags/virtual-8086-needs-iopl-3", test_v86_flags },
		{ "/legacy/flags/vme-shows-vif-as-if", test_v86_virtual_flags },
		{ "/legacy/branch/ip-wraps-at-16-bits", test_ip_wraps },
		{ "/legacy/branch/running-past-the-limit-is-gp", test_code_limit },
		{ "/legacy/branch/an-instruction-across-the-limit-is-gp", test_instruction_across_limit },
		{ "/legacy/branch/loops-count-in-the-address-size", test_loop_counts },
		{ "/legacy/branch/calls-of-both-sizes", test_call_sizes },
		{ "/legacy/branch/a-target-beyond-the-limit-is-gp-of-the-branch", test_target_limit },
		{ "/legacy/memory/beyond-the-limit-is-gp", test_data_limit },
		{ "/legacy/memory/16-bit-addresses-wrap", test_address_wraps },
		{ "/legacy/memory/strings-wrap", test_string_wraps },
		{ "/legacy/memory/bound-faults-at-itself", test_bound },
		{ "/legacy/memory/aam-by-zero-is-de", test_aam_zero },
		{ "/legacy/memory/flat-addresses-wrap-at-4-gib", test_flat_wraps },
		{ "/legacy/memory/code-segments-are-read-only", test_code_is_read_only },
	};
	g_test_init(&argc, &argv, NULL);
	m = machine_new();
	for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++)
		g_test_add_func(tests[i].name, tests[i].test);
	int result = g_test_run();
	machine_free(m);
	return result;
}
