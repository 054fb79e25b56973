/*
 * Integer instructions in 32-bit mode, interpreter against the host: random instructions with random registers, flags
 * and memory run natively in a 32-bit code segment, at the same addresses as in the guest. What only this reaches: the
 * encodings that 64-bit mode gave up, 32-bit stacks and address computation. (Decimal adjustment is decimal.c's.)
 *
 *	insn-compat [--cases N] [--seed N]
 *
 * Skipped (status 77) where the host's kernel runs no 32-bit code.
 */
#undef _GNU_SOURCE
#define _DEFAULT_SOURCE 1

#include "../unit/machine.h"
#include "host_vendor.h"

#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum {
	PAGE = 0xa00000,      /* data and the instruction's stack, on both sides */
	HOST_CODE = 0xa10000, /* host alone: stubs, their save area, the stub's stack */
	SAVED = 0xa11000,
	HOST_STACK = 0xa13000,
	STACK_TOP = PAGE + 0xc00
};

/* Linux's selector of 32-bit user code. */
#define USER32_CS 0x23

/* At SAVED; the stub loads and stores it. */
struct saved {
	u32 gpr[8];
	u32 flags;
	u32 stub_esp;
	u64 rsp, rbx, rbp, r12, r13, r14, r15;
	u32 far_offset;
	u16 far_selector;
};

#define AT(field) ((u32)(SAVED + offsetof(struct saved, field)))

struct code {
	u8 *at;
};

static struct saved *const saved = (struct saved *)SAVED;
static struct machine *m;
static sigjmp_buf fault;
static u64 random_state;

static u64 next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void put(struct code *c, unsigned n, ...)
{
	__builtin_va_list list;
	__builtin_va_start(list, n);
	while (n--)
		*c->at++ = (u8) __builtin_va_arg(list, int);
	__builtin_va_end(list);
}

static void put32(struct code *c, u32 v)
{
	memcpy(c->at, &v, 4);
	c->at += 4;
}

/* --- the host's side --- */

/* 64-bit part: saves what must live, calls the 32-bit part on a stack below 4 GiB. Addresses are absolute. */
static void make_entry(struct code *c)
{
	/* mov [SAVED...], register: 48/4c 89 /r with SIB, absolute disp32 */
	static const u8 keep[][3] = { { 0x48, 4, 0 }, { 0x48, 3, 1 }, { 0x48, 5, 2 }, { 0x4c, 4, 3 },
				      { 0x4c, 5, 4 }, { 0x4c, 6, 5 }, { 0x4c, 7, 6 } };
	for (unsigned i = 0; i < ARRAY_SIZE(keep); i++) {
		put(c, 4, keep[i][0], 0x89, 0x04 | keep[i][1] << 3, 0x25);
		put32(c, AT(rsp) + 8 * keep[i][2]);
	}
	/* 64-bit code may leave DS and ES null; SS is flat: mov eax, ss; mov ds, eax; mov es, eax */
	put(c, 6, 0x8c, 0xd0, 0x8e, 0xd8, 0x8e, 0xc0);
	put(c, 1, 0xbc); /* mov esp, HOST_STACK */
	put32(c, HOST_STACK);
	put(c, 3, 0xff, 0x1c, 0x25); /* call far [far_offset] */
	put32(c, AT(far_offset));
	for (unsigned i = 0; i < ARRAY_SIZE(keep); i++) {
		put(c, 4, keep[i][0], 0x8b, 0x04 | keep[i][1] << 3, 0x25);
		put32(c, AT(rsp) + 8 * keep[i][2]);
	}
	put(c, 1, 0xc3);
}

/* 32-bit part: loads flags and registers, runs the instruction on its own stack, stores them. */
static void make_body(struct code *c, const u8 *insn, unsigned length)
{
	put(c, 2, 0x89, 0x25); /* mov [stub_esp], esp */
	put32(c, AT(stub_esp));
	put(c, 2, 0xff, 0x35); /* push [flags]; popf */
	put32(c, AT(flags));
	put(c, 1, 0x9d);
	for (unsigned r = 0; r < 8; r++) {
		put(c, 2, 0x8b, r << 3 | 5);
		put32(c, AT(gpr) + 4 * r);
	}
	memcpy(c->at, insn, length);
	c->at += length;
	for (unsigned r = 0; r < 8; r++) {
		put(c, 2, 0x89, r << 3 | 5);
		put32(c, AT(gpr) + 4 * r);
	}
	put(c, 2, 0x8b, 0x25); /* mov esp, [stub_esp] */
	put32(c, AT(stub_esp));
	put(c, 3, 0x9c, 0x8f, 0x05); /* pushf; pop [flags]; cld; retf */
	put32(c, AT(flags));
	put(c, 2, 0xfc, 0xcb);
}

static void on_signal(int signal)
{
	siglongjmp(fault, signal);
}

/* Runs `insn` with what `saved` holds; 0, or the signal that it caused. */
static int host_run(const u8 *insn, unsigned length)
{
	struct code c = { (u8 *)HOST_CODE };
	make_entry(&c);
	saved->far_offset = (u32)(uintptr_t)c.at;
	saved->far_selector = USER32_CS;
	make_body(&c, insn, length);
	int signal = sigsetjmp(fault, 0);
	if (signal) {
		asm volatile("cld");
		return signal;
	}
	((void (*)(void))HOST_CODE)();
	return 0;
}

static bool host_prepare(void)
{
	const struct sigaction act = { .sa_handler = on_signal, .sa_flags = SA_NODEFER | SA_ONSTACK };
	static u8 stack[65536];
	const stack_t alternate = { .ss_sp = stack, .ss_size = sizeof(stack) };
	const int signals[] = { SIGSEGV, SIGILL, SIGBUS, SIGFPE };

	for (u64 at = PAGE; at < HOST_STACK + 0x1000; at += 0x1000)
		if (mmap((void *)at, 0x1000, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | 0x100000,
			 -1, 0) != (void *)at)
			return false;
	sigaltstack(&alternate, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &act, NULL);
	saved->gpr[RSP] = STACK_TOP;
	return host_run((const u8 *)"\x90", 1) == 0;
}

/* --- the guest's side: flat 32-bit segments, no paging --- */

static void guest_prepare(void)
{
	struct x86_state s;
	m = machine_new_nested(host_is_amd() ? NESTED_SVM : NESTED_NONE, NULL);
	cpu_get_state(&m->cpu, &s);
	s.cr0 = CR0_PE | CR0_ET;
	s.cr4 = 0;
	s.efer = 0;
	s.seg[SEG_CS] = machine_segment(0x8, 0xc09b);
	cpu_set_state(&m->cpu, &s);
	g_assert_true(m->cpu.mode_key & MODE_FLAT);
}

/* -1, or the vector raised. A repetition that pauses is run again, as cpu_run() would. */
static int guest_run(const u8 *bytes, u32 gpr[8], u32 *flags, unsigned *length)
{
	struct insn insn;
	struct cpu *cpu = &m->cpu;
	g_assert_true(insn_decode(cpu, cpu->mode_key, bytes, 15, &insn));
	*length = insn.length;
	for (unsigned r = 0; r < 8; r++)
		cpu->reg[r] = gpr[r];
	cpu_set_rflags(cpu, *flags);
	cpu->insn = &insn;
	cpu->rip_start = 0x1000;
	cpu->pending.valid = false;
	if (_setjmp(cpu->restart) == 0)
		do {
			cpu->reg[REG_RIP] = 0x1000u + insn.length;
			insn.exec(cpu, &insn);
		} while (cpu->reg[REG_RIP] == 0x1000);
	for (unsigned r = 0; r < 8; r++)
		gpr[r] = (u32)cpu->reg[r];
	*flags = (u32)cpu_rflags(cpu);
	return cpu->pending.valid ? cpu->pending.vector : -1;
}

/* --- cases --- */

enum {
	MODRM = 1,
	IMM8 = 2,
	IMM = 4, /* 2 or 4 bytes by operand size */
	MOFFS = 8,
	STRING = 16,
	LOCKABLE = 32, /* if its destination is in memory */
	BITS = 64,     /* the bit number in ECX is small */
	GROUP = 128,   /* reg field is the low nibble of `reg` upwards: reg..last */
	MEMORY = 256   /* no register form */
};

static const struct {
	u8 map; /* 0: one byte; 1: 0F */
	u8 first, last;
	u16 kind;
	u8 reg_first, reg_last;
} opcodes[] = {
	{ 0, 0x00, 0x01, MODRM | LOCKABLE, 0, 7 },
	{ 0, 0x02, 0x03, MODRM, 0, 7 },
	{ 0, 0x04, 0x04, IMM8, 0, 0 },
	{ 0, 0x05, 0x05, IMM, 0, 0 },
	{ 0, 0x08, 0x09, MODRM, 0, 7 },
	{ 0, 0x10, 0x13, MODRM, 0, 7 },
	{ 0, 0x18, 0x1b, MODRM, 0, 7 },
	{ 0, 0x20, 0x23, MODRM, 0, 7 },
	{ 0, 0x28, 0x2b, MODRM, 0, 7 },
	{ 0, 0x30, 0x33, MODRM, 0, 7 },
	{ 0, 0x38, 0x3b, MODRM, 0, 7 },
	{ 0, 0x40, 0x61, 0, 0, 0 },
	{ 0, 0x68, 0x68, IMM, 0, 0 },
	{ 0, 0x69, 0x69, MODRM | IMM, 0, 7 },
	{ 0, 0x6a, 0x6a, IMM8, 0, 0 },
	{ 0, 0x6b, 0x6b, MODRM | IMM8, 0, 7 },
	{ 0, 0x80, 0x80, MODRM | IMM8 | GROUP, 0, 7 },
	{ 0, 0x81, 0x81, MODRM | IMM | GROUP, 0, 7 },
	{ 0, 0x82, 0x83, MODRM | IMM8 | GROUP, 0, 7 },
	{ 0, 0x84, 0x85, MODRM, 0, 7 },
	{ 0, 0x86, 0x87, MODRM | LOCKABLE, 0, 7 },
	{ 0, 0x88, 0x8b, MODRM, 0, 7 },
	{ 0, 0x8d, 0x8d, MODRM | MEMORY, 0, 7 },
	{ 0, 0x8f, 0x8f, MODRM | GROUP, 0, 0 },
	{ 0, 0x90, 0x99, 0, 0, 0 },
	{ 0, 0x9c, 0x9c, 0, 0, 0 },
	{ 0, 0x9e, 0x9f, 0, 0, 0 },
	{ 0, 0xa0, 0xa3, MOFFS, 0, 0 },
	{ 0, 0xa4, 0xa7, STRING, 0, 0 },
	{ 0, 0xa8, 0xa8, IMM8, 0, 0 },
	{ 0, 0xa9, 0xa9, IMM, 0, 0 },
	{ 0, 0xaa, 0xaf, STRING, 0, 0 },
	{ 0, 0xb0, 0xb7, IMM8, 0, 0 },
	{ 0, 0xb8, 0xbf, IMM, 0, 0 },
	{ 0, 0xc0, 0xc1, MODRM | IMM8 | GROUP, 0, 7 },
	{ 0, 0xc6, 0xc6, MODRM | IMM8 | GROUP, 0, 0 },
	{ 0, 0xc7, 0xc7, MODRM | IMM | GROUP, 0, 0 },
	{ 0, 0xc9, 0xc9, 0, 0, 0 },
	{ 0, 0xd0, 0xd3, MODRM | GROUP, 0, 7 },
	{ 0, 0xd6, 0xd6, 0, 0, 0 },
	{ 0, 0xf5, 0xf5, 0, 0, 0 },
	{ 0, 0xf6, 0xf6, MODRM | IMM8 | GROUP, 0, 1 },
	{ 0, 0xf7, 0xf7, MODRM | IMM | GROUP, 0, 1 },
	{ 0, 0xf6, 0xf7, MODRM | GROUP, 2, 7 },
	{ 0, 0xf8, 0xf9, 0, 0, 0 },
	{ 0, 0xfc, 0xfd, 0, 0, 0 },
	{ 0, 0xfe, 0xff, MODRM | GROUP | LOCKABLE, 0, 1 },
	{ 0, 0xff, 0xff, MODRM | GROUP, 6, 6 },
	{ 1, 0x1f, 0x1f, MODRM | GROUP, 0, 0 },
	{ 1, 0x40, 0x4f, MODRM, 0, 7 },
	{ 1, 0x90, 0x9f, MODRM, 0, 7 },
	{ 1, 0xa3, 0xa3, MODRM | BITS, 1, 1 },
	{ 1, 0xa4, 0xa4, MODRM | IMM8, 0, 7 },
	{ 1, 0xa5, 0xa5, MODRM, 0, 7 },
	{ 1, 0xab, 0xab, MODRM | BITS | LOCKABLE, 1, 1 },
	{ 1, 0xac, 0xac, MODRM | IMM8, 0, 7 },
	{ 1, 0xad, 0xad, MODRM, 0, 7 },
	{ 1, 0xaf, 0xaf, MODRM, 0, 7 },
	{ 1, 0xb0, 0xb1, MODRM | LOCKABLE, 0, 7 },
	{ 1, 0xb3, 0xb3, MODRM | BITS, 1, 1 },
	{ 1, 0xb6, 0xb7, MODRM, 0, 7 },
	{ 1, 0xba, 0xba, MODRM | IMM8 | GROUP, 4, 7 },
	{ 1, 0xbb, 0xbb, MODRM | BITS, 1, 1 },
	{ 1, 0xbc, 0xbf, MODRM, 0, 7 },
	{ 1, 0xc0, 0xc1, MODRM | LOCKABLE, 0, 7 },
	{ 1, 0xc7, 0xc7, MODRM | GROUP | LOCKABLE | MEMORY, 1, 1 },
	{ 1, 0xc8, 0xcf, 0, 0, 0 },
};

struct test_case {
	u8 bytes[16];
	u32 gpr[8], flags;
	u8 memory[0x1000];
};

/* EBX, EBP, ESI, EDI point into the page; ECX is small half of the time, and then may be an index. */
static void random_registers(struct test_case *t, u16 kind)
{
	for (unsigned r = 0; r < 8; r++)
		t->gpr[r] = (u32)next_random() >> (next_random() % 4 ? 0 : next_random() & 31);
	for (unsigned r = RBX; r < 8; r++)
		t->gpr[r] = PAGE + 0x400 + (u32)(next_random() & 0x3ff);
	t->gpr[RSP] = STACK_TOP + (u32)(next_random() & 3);
	if (kind & (STRING | BITS) || next_random() & 1)
		t->gpr[RCX] &= kind & STRING ? 0x1f : 0x3f;
	t->flags = (u32)(next_random() & (RFLAGS_ARITH | RFLAGS_DF)) | RFLAGS_ONE | RFLAGS_IF;
	for (unsigned i = 0; i < sizeof(t->memory); i += 8) {
		u64 v = next_random();
		memcpy(t->memory + i, &v, 8);
	}
}

/* Returns how many bytes it put. */
static unsigned random_modrm(u8 *at, unsigned reg, bool memory, bool small_ecx)
{
	static const u8 pointers[] = { 3, 5, 6, 7 };
	if (!memory) {
		unsigned rm = next_random() & 7;
		at[0] = (u8)(0xc0 | reg << 3 | (rm == RSP ? RAX : rm));
		return 1;
	}
	if (small_ecx && next_random() % 3 == 0) {
		at[0] = (u8)(0x44 | reg << 3);
		at[1] = (u8)((next_random() & 3) << 6 | RCX << 3 | pointers[next_random() & 3]);
		at[2] = (u8)next_random();
		return 3;
	}
	at[0] = (u8)(0x40 | reg << 3 | pointers[next_random() & 3]);
	at[1] = (u8)next_random();
	return 2;
}

static void random_case(struct test_case *t)
{
	unsigned n = (unsigned)(next_random() % ARRAY_SIZE(opcodes)), at = 0;
	u16 kind = opcodes[n].kind;
	u8 opcode = (u8)(opcodes[n].first + next_random() % (opcodes[n].last - opcodes[n].first + 1u));
	bool memory = (kind & MODRM) && ((kind & MEMORY) || next_random() & 1);
	bool word = next_random() % 3 == 0;

	memset(t->bytes, 0x90, sizeof(t->bytes));
	random_registers(t, kind);
	if (word)
		t->bytes[at++] = 0x66;
	if ((kind & STRING) && next_random() & 1)
		t->bytes[at++] = next_random() & 1 ? 0xf3 : 0xf2;
	if ((kind & LOCKABLE) && memory && next_random() & 1)
		t->bytes[at++] = 0xf0;
	if (opcodes[n].map)
		t->bytes[at++] = 0x0f;
	t->bytes[at++] = opcode;
	if (kind & MODRM) {
		unsigned reg = opcodes[n].reg_first +
			       (unsigned)(next_random() % (opcodes[n].reg_last - opcodes[n].reg_first + 1u));
		if (!(kind & GROUP) && reg == RSP)
			reg = RAX;
		at += random_modrm(t->bytes + at, reg, memory, t->gpr[RCX] < 0x40);
	}
	for (unsigned i = 0; i < (kind & IMM8 ? 1u : kind & IMM ? (word ? 2u : 4u) : 0u); i++)
		t->bytes[at++] = (u8)next_random();
	if (kind & MOFFS) {
		u32 address = PAGE + (u32)(next_random() & 0x7ff);
		memcpy(t->bytes + at, &address, 4);
	}
}

static void complain(const struct test_case *t, const u32 guest[8], u32 guest_flags, const char *what)
{
	fprintf(stderr, "%s:", what);
	for (unsigned i = 0; i < 15; i++)
		fprintf(stderr, " %02x", t->bytes[i]);
	for (unsigned r = 0; r < 8; r++)
		fprintf(stderr, "\n  r%u %08x: host %08x guest %08x", r, t->gpr[r], saved->gpr[r], guest[r]);
	fprintf(stderr, "\n  flags %x: host %x guest %x\n", t->flags, saved->flags, guest_flags);
}

/*
 * All flags are compared, undefined ones too: they come from the same host. But the interpreter rotates by CL, whatever
 * the form, and Intel's processors then set OF otherwise than for an immediate count; above 1 it is undefined (SDM vol.
 * 2, "RCL/RCR/ROL/ROR").
 */
static u32 compared_flags(const struct test_case *t, unsigned length)
{
	const u32 all = RFLAGS_ARITH | RFLAGS_DF;
	const u8 *b = t->bytes + (t->bytes[0] == 0x66);
	bool rol_or_ror = (b[0] & 0xfe) == 0xc0 && (b[1] & 0x30) == 0; /* C0 and C1, /0 and /1 */
	bool undefined = rol_or_ror && (t->bytes[length - 1] & 31) > 1;
	return undefined && !host_is_amd() ? all & ~(u32)RFLAGS_OF : all;
}

static bool agrees(const struct test_case *t)
{
	u32 gpr[8], flags = t->flags;
	unsigned length;
	u8 *guest_page = m->mem.host + PAGE;

	memcpy(gpr, t->gpr, sizeof(gpr));
	memcpy(guest_page, t->memory, sizeof(t->memory));
	memcpy((void *)PAGE, t->memory, sizeof(t->memory));
	memcpy(saved->gpr, t->gpr, sizeof(gpr));
	saved->flags = t->flags;
	int vector = guest_run(t->bytes, gpr, &flags, &length);
	int signal = host_run(t->bytes, length);
	if ((vector == -1) != (signal == 0)) {
		complain(t, gpr, flags, vector == -1 ? "only the host faults" : "only the guest faults");
		return false;
	}
	if (signal)
		return true;
	bool same = !memcmp(gpr, saved->gpr, sizeof(gpr)) && !((flags ^ saved->flags) & compared_flags(t, length));
	/* PUSHF shows flags that are the host kernel's business. */
	bool pushf = t->bytes[0] == 0x9c || (t->bytes[0] == 0x66 && t->bytes[1] == 0x9c);
	bool memory = pushf || !memcmp(guest_page, (void *)PAGE, sizeof(t->memory));
	if (same && memory)
		return true;
	complain(t, gpr, flags, same ? "memory differs" : "registers differ");
	return false;
}

int main(int argc, char **argv)
{
	unsigned long cases = 200000, differ = 0;
	u64 seed = (u64)time(NULL);

	for (int i = 1; i + 1 < argc; i += 2) {
		if (!strcmp(argv[i], "--cases"))
			cases = strtoul(argv[i + 1], NULL, 0);
		else if (!strcmp(argv[i], "--seed"))
			seed = strtoull(argv[i + 1], NULL, 0);
	}
	printf("# seed %llu\n", (unsigned long long)seed);
	random_state = seed * 2 + 1;
	if (!host_prepare()) {
		printf("# this host runs no 32-bit code\n");
		return 77;
	}
	guest_prepare();
	static struct test_case t;
	for (unsigned long i = 0; i < cases && differ < 10; i++) {
		random_case(&t);
		differ += !agrees(&t);
	}
	printf("# %lu cases, %lu differ\n", cases, differ);
	return differ != 0;
}
