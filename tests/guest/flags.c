/*
 * Arithmetic flags that are wanted some instructions behind the one that made them, when its registers have something
 * else: a translator need not have kept them in between. Code is made for each instruction that makes flags, each
 * change of its registers, and each way to look at the flags.
 */
#include "lib/guest.h"

enum { CF = 1, PF_ = 4, AF = 0x10, ZF = 0x40, SF = 0x80, OF_ = 0x800, ARITH = CF | PF_ | AF | ZF | SF | OF_ };
enum { RAX, RCX, RDX, R10 = 10 };

/* --- what the flags should be --- */

/* Opcode 80h /n, and one more. */
enum operation { ADD, OR, AND = 4, SUB, XOR, CMP, TEST };

static u64 low(u64 value, unsigned size)
{
	return size == 8 ? value : value & (BIT(8 * size) - 1);
}

static u64 result(enum operation op, u64 a, u64 b)
{
	switch (op) {
	case ADD:
		return a + b;
	case OR:
		return a | b;
	case AND:
	case TEST:
		return a & b;
	case XOR:
		return a ^ b;
	default:
		return a - b;
	}
}

/* SDM vol. 1, 3.4.3.1; AF is clear behind logic, as on all processors. */
static word flags_of(enum operation op, u64 a, u64 b, unsigned size)
{
	u64 sign = BIT(8 * size - 1), r;
	a = low(a, size);
	b = low(b, size);
	r = low(result(op, a, b), size);
	word f = (r ? 0 : ZF) | (r & sign ? SF : 0) | (__builtin_parity((u8)r) ? 0 : PF_);
	bool add = op == ADD, arithmetic = add || op == SUB || op == CMP;
	if (!arithmetic)
		return f;
	f |= ((a ^ b ^ r) & 0x10 ? AF : 0) | ((add ? r < a : a < b) ? CF : 0);
	return f | ((add ? (a ^ r) & (b ^ r) : (a ^ b) & (a ^ r)) & sign ? OF_ : 0);
}

/* --- code --- */

static u8 code[16 << 20] ALIGNED(4096);
static u8 *at;

static void byte(unsigned b)
{
	*at++ = (u8)b;
}

static void bytes(u64 value, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		byte(value >> 8 * i & 0xff);
}

/* REX if need be, of size `size`; opcode; ModRM of two registers. */
static void emit(unsigned size, unsigned opcode, unsigned reg, unsigned rm)
{
	unsigned rex = (size == 8 ? 8 : 0) | (reg >= 8 ? 4 : 0) | (rm >= 8 ? 1 : 0);
	if (size == 2)
		byte(0x66);
	if (rex)
		byte(0x40 | rex);
	if (opcode > 0xff)
		byte(opcode >> 8);
	byte(opcode & 0xff);
	byte(0xc0 | (reg & 7) << 3 | (rm & 7));
}

static void emit_operation(enum operation op, unsigned size, unsigned first, bool immediate, int imm, unsigned second)
{
	unsigned wide = size > 1;
	if (!immediate) {
		emit(size, (op == TEST ? 0x84 : op << 3) | wide, second, first);
		return;
	}
	bool is_short = wide && op != TEST && imm == (signed char)imm;
	emit(size, op == TEST ? 0xf6 | wide : is_short ? 0x83 : 0x80 | wide, op == TEST ? 0 : op, first);
	bytes((u32)imm, is_short || size == 1 ? 1 : size == 2 ? 2 : 4);
}

/* LEA to, [from + disp8], of 32 or 64 bits. */
static void emit_lea_of(unsigned size, unsigned to, unsigned from, int disp)
{
	byte(0x40 | (size == 8 ? 8 : 0) | (to >= 8 ? 4 : 0) | (from >= 8 ? 1 : 0));
	byte(0x8d);
	byte(0x40 | (to & 7) << 3 | (from & 7));
	byte((u8)disp);
}

static void emit_lea(unsigned to, unsigned from, int disp)
{
	emit_lea_of(8, to, from, disp);
}

/* What happens to the first operand's register before anybody looks. RSI and RDI are free. */
enum { CHANGES = 15 };
static void emit_change(unsigned n, unsigned first)
{
	enum { RSI = 6, RDI };
	switch (n) {
	case 1:
		emit_lea(first, first, 24);
		break;
	case 2:
		emit_lea(first, first, -120);
		emit_lea(first, first, -8);
		break;
	case 3: /* MOV to itself: bits 63..32 become 0 */
		emit(4, 0x89, first, first);
		break;
	case 4: /* MOVSXD */
		emit(8, 0x63, first, first);
		break;
	case 5: /* MOVZX of 8 bits */
		emit(4, 0x0fb6, first, first);
		break;
	case 6: /* MOVSX of 16 bits */
		emit(8, 0x0fbf, first, first);
		break;
	case 7: /* MOV to elsewhere, and something else there */
		emit(8, 0x89, first, RSI);
		emit(4, 0xc7, 0, first);
		bytes(77, 4);
		break;
	case 8: /* likewise, 32 bits of it, and those moved on */
		emit(4, 0x89, first, RDI);
		emit_lea(first, RDI, 5);
		emit_lea(RDI, RDI, 11);
		break;
	case 9: /* a copy with a constant more, which changes once more */
		emit_lea(RSI, first, 100);
		emit(8, 0x89, RCX, first);
		emit_lea(RSI, RSI, -50);
		break;
	case 10: /* the copy is gone, then the register */
		emit(8, 0x89, first, RSI);
		emit(8, 0x89, RCX, RSI);
		emit(8, 0x89, RCX, first);
		break;
	case 11: /* the other way round */
		emit(8, 0x89, first, RSI);
		emit(8, 0x89, RCX, first);
		emit(8, 0x89, RCX, RSI);
		break;
	case 12: /* the second operand is */
		emit_lea(RDX, RDX, 1);
		break;
	case 13: /* the register has 1 more in 32 bits */
		emit_lea_of(4, first, first, 1);
		break;
	case 14: /* the address has 32 bits */
		byte(0x67);
		emit_lea(first, first, 1);
		break;
	}
}

/*
 * How they are looked at: in RAX, or by a fault. RCX is an address where nothing is, R8 that of a RET. There is an
 * access to memory before flags are tested, and others are made behind one that faults.
 */
enum { RETURNS, JUMPS, PUSHES, MOVES, BRANCHES, FAULTS, LOOKS };
static const u8 looks[LOOKS][20] = {
	[RETURNS] = { 0xc3 },
	[JUMPS] = { 0x41, 0xff, 0xe0 },              /* JMP R8 */
	[PUSHES] = { 0x9c, 0x58, 0x50, 0x9d, 0xc3 }, /* PUSHF; POP RAX; PUSH RAX; POPF */
	[MOVES] = { 0x41, 0x8b, 0x08, 0x9f, 0x0f, 0x90, 0xc0, 0x04, 0x7f, 0x9e, 0xc3 }, /* MOV ECX, [R8]; LAHF; SETO AL;
										    ADD AL, 7Fh; SAHF */
	[BRANCHES] = { 0x41, 0x8b, 0x08, 0x77, 0x02, 0x90, 0x90, 0xc3 }, /* MOV ECX, [R8]; JA to the RET */
	[FAULTS] = { 0x48, 0x8b, 0x01, 0x01, 0xc0, 0xc3 },               /* MOV RAX, [RCX]; ADD EAX, EAX */
};
static const u8 looks_length[LOOKS] = { 1, 3, 5, 11, 8, 6 };

#define NOTHING (1UL << 39)
static const u8 ret[1] = { 0xc3 };

/* Calls the function; `then` leaves its flags in RAX. */
#define CALL(then)                                                                                                     \
	asm volatile("stc; call *%[f]; " then                                                                          \
		     : [f] "+b"(function), "+a"(a), "+d"(b), "+r"(r10), "+r"(r8), "+c"(nothing)                        \
		     :                                                                                                 \
		     : "rsi", "rdi", "memory", "cc")

/* The flags behind the function, with these operands. The caller has three ways to look, or it is a fault that shows
 * them. */
static word call(const u8 *function, u64 a, u64 b, bool faults, unsigned how)
{
	word nothing = NOTHING;
	register u64 r10 asm("r10") = a;
	register word r8 asm("r8") = (word)ret;
	if (faults) {
		word vector = TRY("call *%[f]",
				  : [f] "+b"(function), "+a"(a), "+d"(b), "+r"(r10), "+r"(r8), "+c"(nothing)
				  :
				  : "rsi", "rdi", "memory", "cc");
		return vector == PF && fault.address == NOTHING ? fault.flags : ~0UL;
	}
	if (how == 0) {
		CALL("pushf; pop %%rax");
	} else if (how == 1) { /* behind an instruction that translators leave to an interpreter */
		CALL("sldt %%esi; pushf; pop %%rax");
	} else {
		CALL("lahf; seto %%al; movzx %%ax, %%eax");
		a = (a >> 8) | (a & 1) << 11;
	}
	return a;
}

/* --- all of them --- */

struct form {
	enum operation op;
	unsigned size;
	unsigned first;
	bool immediate, same; /* the second operand is the first one */
	int imm;
};

static const u64 values[] = { 0, 0x7f, 0x8000, 0x80000000, 0xffffffff, 1ULL << 63, 0x123456789abcdef0 };

static unsigned wrong;

static void try_function(const struct form *f, const u8 *function, unsigned look)
{
	for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
		u64 a = values[i], b = values[(3 * i + 1) % ARRAY_SIZE(values)];
		u64 second = f->same ? a : f->immediate ? (u64)(long)f->imm : b;
		word is = call(function, a, b, look == FAULTS, (i + look) % 3) & ARITH,
		     expected = flags_of(f->op, a, second, f->size);
		if (is != expected && wrong++ < 10)
			print("# operation %u size %u first %u immediate %x same %u: %lx and %lx make %lx, not %lx\n",
			      f->op, f->size, f->first, f->immediate ? (u32)f->imm : 0, f->same, a, second, is,
			      expected);
	}
}

static void try_form(const struct form *f)
{
	for (unsigned change = 0; change < CHANGES; change++) {
		for (unsigned look = 0; look < LOOKS; look++) {
			const u8 *function = at;
			emit_operation(f->op, f->size, f->first, f->immediate, f->imm, f->same ? f->first : RDX);
			emit_change(change, f->first);
			for (unsigned i = 0; i < looks_length[look]; i++)
				byte(looks[look][i]);
			for (unsigned round = 0; round < 2; round++)
				try_function(f, function, look);
		}
	}
}

static void try_forms(enum operation op, unsigned size)
{
	static const int immediates[] = { 5, -128, 0x1234, 0x40000000, -0x7fffffff - 1 };
	for (unsigned n = 0; n < 2; n++) {
		unsigned first = n ? R10 : RAX;
		try_form(&(struct form){ op, size, first, false, false, 0 });
		try_form(&(struct form){ op, size, first, false, true, 0 });
		for (unsigned i = 0; i < (size == 1 ? 2 : size == 2 ? 3 : 5); i++)
			try_form(&(struct form){ op, size, first, true, false, immediates[i] });
	}
}

static void test_registers(void)
{
	static const char *const names[] = { "add", "or", "", "", "and", "sub", "xor", "cmp", "test" };
	for (enum operation op = ADD; op <= TEST; op++) {
		if (!*names[op])
			continue;
		wrong = 0;
		at = code; /* over what was there for the last one */
		for (unsigned size = 1; size <= 8; size *= 2)
			try_forms(op, size);
		check(!wrong, names[op], __FILE__, __LINE__);
	}
}

/* --- the stack pointer, which PUSH and POP change --- */

asm(".pushsection .text\n"
    ".global stack_returns, stack_moves, stack_pops, stack_faults\n"
    "stack_returns: mov %rsp, %rax; sub $0x28, %rsp; push %rbx; push $1; pop %rsi; pop %rbx; lea 0x28(%rsp), %rsp; "
    "ret\n"
    /* RSP changes in another way. */
    "stack_moves: mov %rsp, %rax; push %rbx; sub $0x28, %rsp; mov %rax, %rsp; mov fault(%rip), %rsi; ja 1f; nop; 1: "
    "ret\n"
    /* They are read behind a run of POPs, whose check is not that of the PUSHes. */
    "stack_pops: mov %rsp, %rdi; push %rbx; push %rbx; push %rbx; sldt %esi; add $8, %rsp; pop %rsi; pop %rsi\n"
    "lahf; seto %al; add $0x7f, %al; sahf; mov %rdi, %rax; ret\n"
    "stack_faults: mov %rsp, %rax; push %rbx; push %rbx; add $16, %rsp; push %rax; mov (%rcx), %rbx; add %ebx, %ebx\n"
    "ret\n"
    ".popsection\n");
extern const u8 stack_returns[], stack_moves[], stack_pops[], stack_faults[];

/* RFLAGS behind the function, which leaves RSP in `sp`; `n` lower in the stack. */
static word call_on_stack(const u8 *function, u64 n, u64 *sp)
{
	word flags;
	asm volatile("mov %%rsp, %%r12; sub %[n], %%rsp; call *%[f]; pushf; pop %[flags]; mov %%r12, %%rsp"
		     : "=&a"(*sp), [flags] "=&r"(flags)
		     : [f] "r"(function), [n] "r"(n)
		     : "rsi", "rdi", "r12", "memory", "cc");
	return flags & ARITH;
}

static void test_stack(void)
{
	bool returned = true, moved = true, popped = true, faulted = true;
	for (u64 n = 0; n < 8 * 300; n += 8) {
		u64 sp;
		word flags = call_on_stack(stack_returns, n, &sp);
		returned &= flags == flags_of(SUB, sp, 0x28, 8);
		flags = call_on_stack(stack_moves, n, &sp);
		moved &= flags == flags_of(SUB, sp - 8, 0x28, 8);
		flags = call_on_stack(stack_pops, n, &sp);
		popped &= flags == flags_of(ADD, sp - 24, 8, 8);
		word vector = TRY("mov %%rsp, %%r12; sub %[n], %%rsp; call *%[f]; mov %%r12, %%rsp",
				  : "=&a"(sp)
				  : [f] "r"(stack_faults), [n] "r"(n), "c"(NOTHING)
				  : "rsi", "r12", "memory", "cc");
		faulted &= vector == PF && (fault.flags & ARITH) == flags_of(ADD, sp - 16, 16, 8);
	}
	CHECK("flags-of-sub-from-rsp-pass-push-and-pop", returned);
	CHECK("they-pass-a-new-rsp", moved);
	CHECK("they-are-read-behind-pops", popped);
	CHECK("a-fault-shows-flags-of-add-to-rsp", faulted);
}

void guest_main(void)
{
	test_registers();
	test_stack();
}
