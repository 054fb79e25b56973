/* Calls and jumps through registers and memory: where they lead must change with what is there and what is mapped. */
#include "lib/code.h"

#define WINDOW ((u8 *)(1ULL << 39))

enum {
	ROUNDS = 100,
	MANY = 40000, /* more than the CPU may remember where they are */
	PLACE = 8     /* bytes of each */
};

static u64 window_pdpt[512] ALIGNED(4096), window_pd[512] ALIGNED(4096), window_pt[512] ALIGNED(4096);
static u64 other_pml4[512] ALIGNED(4096);
static u64 other_pdpt[512] ALIGNED(4096), other_pd[512] ALIGNED(4096), other_pt[512] ALIGNED(4096);
static u8 code[2][4096] ALIGNED(4096);
static u8 many[MANY][PLACE] ALIGNED(4096);

asm(".pushsection .text\n"
    ".global call_both, jump, jump_by_memory, call_on_stack, return_addresses, spin, user_call, user_call_itself\n"
    ".global return_to_one, call_turn, jump_turn, call_kept, call_space, jump_space\n"
    "call_both: push %rbx; push %rbp; xor %ebx, %ebx; mov %rdx, %rbp\n"
    "1: call *%rdi; add %rax, %rbx; call *%rsi; add %rax, %rbx; dec %rbp; jnz 1b\n"
    "	mov %rbx, %rax; pop %rbp; pop %rbx; ret\n"
    "jump: jmp *%rdi\n"
    "jump_by_memory: jmp *8(%rdi)\n"
    "call_on_stack: push %rdi; call *(%rsp); pop %rdi; ret\n"
    "look: mov (%rsp), %rax; ret\n"
    /* The difference of what each kind of call pushed and what it should have, or-ed together. */
    "return_addresses: push %rbx; lea look(%rip), %rsi; push %rsi\n"
    "	call *%rsi; 1: lea 1b(%rip), %rbx; xor %rax, %rbx\n"
    "	call *(%rsp); 1: lea 1b(%rip), %rcx; xor %rax, %rcx; or %rcx, %rbx\n"
    "	call look; 1: lea 1b(%rip), %rcx; xor %rax, %rcx; or %rcx, %rbx\n"
    "	call 2f; 1: lea 1b(%rip), %rcx; xor %rax, %rcx; or %rbx, %rcx\n"
    "	pop %rsi; mov %rcx, %rax; pop %rbx; ret\n"
    "2: mov (%rsp), %rax; ret\n"
    /* The block at 2 runs once more often than that at 1, and nobody jumps there but from 1. */
    "spin: nop; 1: jmp 2f; 2: mov $-1, %eax; dec %rdi; jnz 1b; ret\n"
    /* Each is one branch that its test alone uses. */
    "call_turn: push %rbx; call *%rdi; pop %rbx; ret\n"
    "jump_turn: jmp *%rdi\n"
    "call_kept: sub $24, %rsp; mov %rdi, 8(%rsp); mov 8(%rsp), %rax; call *%rax; add $24, %rsp; ret\n"
    "call_space: push %rbx; call *%rdi; pop %rbx; ret\n"
    "jump_space: jmp *%rdi\n"
    /* Returns where nobody was called: all open calls are forgotten; then to the code at 1, which jumps back. */
    "return_to_one: push %rbx; lea 1f(%rip), %rax; push %rax; ret\n"
    "1: lea 2f(%rip), %rbx; push $1; ret\n"
    "2: mov $7, %eax; pop %rbx; ret\n"
    "user_call: lea look(%rip), %rsi\n"
    "user_call_itself: call *%rsi; int $0x80\n"
    ".popsection\n");
u64 call_both(const void *first, const void *second, u64 rounds), return_addresses(void);
u32 call_turn(const void *to), jump_turn(const void *to), call_kept(const void *to);
u32 return_to_one(void), call_space(const void *to), jump_space(const void *to);
u32 jump(const void *to), call_on_stack(const void *to), jump_by_memory(const void *before_pointer);
void spin(u64 rounds), user_call(void), user_call_itself(void);

static void map(unsigned n, const u8 *page)
{
	window_pt[n] = page ? (u64)page | 3 : 0;
	invlpg(WINDOW + 4096 * n);
}

/* One page at two addresses, and written by way of either. */
static void test_aliases(void)
{
	bool right = true;
	map(0, code[0]);
	put_function(code[0], 0);
	put_function(code[0] + 64, 0);
	for (u32 i = 0; i < ROUNDS; i++) {
		put_function(i & 1 ? WINDOW : code[0], i);
		right &= call_both(WINDOW, code[0], 10) == 20 * i;
		right &= call_both(code[0], WINDOW, 1) == 2 * i;
		put_function(i & 2 ? WINDOW + 64 : code[0] + 64, i + 1);
		right &= call_both(code[0] + 64, WINDOW, 10) == 10 * (2 * i + 1);
	}
	CHECK("code-at-two-addresses-is-called-by-both", right);
}

static void test_mapping(void)
{
	bool right = true;
	put_function(code[0], 1);
	put_function(code[1], 2);
	for (u32 i = 0; i < ROUNDS; i++) {
		map(0, code[i & 1]);
		right &= call_both(WINDOW, code[0], 10) == 10 * ((i & 1) + 2);
		if (i % 10)
			continue;
		map(0, NULL);
		TRY("call *%0", : : "r"(WINDOW) : "memory", "cc");
		right &= fault.vector == PF && fault.ip == (word)WINDOW && fault.address == (word)WINDOW;
	}
	CHECK("calls-go-where-the-page-is-mapped-now", right);
	map(0, code[0]);
}

static void test_many(void)
{
	bool right = true;
	for (u32 i = 0; i < MANY; i++)
		put_function(many[i], i);
	for (unsigned round = 0; round < 3; round++)
		for (u32 i = 0; i < MANY; i++)
			right &= call(many[i]) == i;
	for (u32 i = 0; i < MANY; i += 97) {
		put_function(many[i], ~i);
		right &= call(many[i]) == ~i;
	}
	for (u32 i = 0; i < MANY; i++)
		right &= call(many[i]) == (i % 97 ? i : ~i);
	CHECK("more-targets-than-anybody-remembers", right);
}

/* Code that becomes hot once the others have taken its place in whatever remembers where targets are. */
static void test_late(void)
{
	bool right = true;
	spin(2);
	for (u32 i = 0; i < MANY; i++)
		right &= call(many[i]) == (i % 97 ? i : ~i);
	spin(ROUNDS);
	for (u32 i = MANY; i-- > 0;) /* the latest first: it is what took a place */
		right &= call(many[i]) == (i % 97 ? i : ~i);
	CHECK("a-target-that-became-hot-late", right);
}

/* Branches that lead to one place for a while, and then to another, or one whose code was written meanwhile. */
static void test_turns(void)
{
	bool right = true;
	for (u32 n = 1; n < 600; n += n / 4 + 1) {
		for (u32 i = 0; i < 4 * n; i++) {
			u32 which = i / n % 3;
			if (i % n == 0)
				put_function(many[which], n + which);
			right &= call_turn(many[which]) == n + which && jump_turn(many[which]) == n + which;
			right &= call_kept(many[which]) == n + which;
		}
	}
	for (u32 i = 0; i < 50; i++)
		put_function(many[i], i);
	for (u32 i = 0; i < 100 * ROUNDS; i++) {
		u32 which = i * i / 7 % 50;
		right &= call_turn(many[which]) == which && jump_turn(many[which]) == which;
		right &= call_kept(many[which]) == which;
	}
	CHECK("branches-turn-to-where-they-lead-now", right);
}

/* What lies at the target depends on the address space; so the target stays the same, and its code does not. */
static void test_spaces(void)
{
	volatile u32 *data = (u32 *)(WINDOW + 4096);
	u64 here = read_cr3();
	bool right = true;
	memcpy(other_pml4, boot_pml4, sizeof(other_pml4));
	other_pml4[1] = (u64)other_pdpt | 3;
	other_pdpt[0] = (u64)other_pd | 3;
	other_pd[0] = (u64)other_pt | 3;
	other_pt[0] = (u64)code[1] | 3;
	map(0, code[0]);
	map(1, many[0]);
	put_function(code[0], 1);
	put_function(code[1], 2);
	for (u32 i = 0; i < 3 * ROUNDS; i++) {
		u32 round = i < ROUNDS ? 1 : 7;
		write_cr3((u64)other_pml4);
		for (u32 j = 0; j < round; j++)
			right &= call_space(WINDOW) == 2 && jump_space(WINDOW) == 2;
		write_cr3(here);
		*data = i;
		for (u32 j = 0; j < round; j++) {
			right &= call_space(WINDOW) == 1 && jump_space(WINDOW) == 1;
			/* Where data is must be looked up again, where code is need not. */
			right &= *data == i;
			invlpg((void *)data);
		}
	}
	CHECK("branches-go-where-this-address-space-says", right);
}

static void test_kinds(void)
{
	bool right = true;
	for (u32 i = 0; i < ROUNDS; i++) {
		const void *pointers[2] = { NULL, code[1] };
		put_function(code[1], i);
		right &= jump(code[1]) == i && jump_by_memory(pointers) == i && call_on_stack(code[1]) == i;
		right &= return_addresses() == 0;
	}
	CHECK("jumps-and-calls-of-all-kinds", right);
}

/* Whatever address the translator may take for that of no call, a guest may return there. */
static void test_odd_returns(void)
{
	static const u8 jmp_rbx[] = { 0xff, 0xe3 };
	u8 *one = (u8 *)1;
	bool right = true;
	asm("" : "+r"(one)); /* it is no object of C's */
	memcpy(one, jmp_rbx, sizeof jmp_rbx);
	for (u32 i = 0; i < ROUNDS; i++)
		right &= return_to_one() == 7;
	CHECK("returns-where-nobody-was-called", right);
}

static void test_faults(void)
{
	bool right = true;
	const u64 wild = 1ULL << 47;
	for (u32 i = 0; i < ROUNDS; i++) {
		TRY_AT("call *%0", : : "r"(wild) : "memory", "cc");
		right &= is_fault(GP, 0);
		TRY_AT("jmp *%0", : : "r"(wild) : "memory", "cc");
		right &= is_fault(GP, 0);
		TRY_AT("call *%0", : : "m"(wild) : "memory", "cc");
		right &= is_fault(GP, 0);
	}
	CHECK("wild-targets-fault-the-branch", right);
	right = true;
	open_to_user();
	for (u32 i = 0; i < ROUNDS; i++) {
		right &= run_user(user_call) == 0x80;
		fault.vector = NO_FAULT;
		enter_user((word)user_call, (word)WINDOW, 2);
		right &= fault.vector == PF && fault.ip == (word)user_call_itself && fault.address == (word)WINDOW - 8;
	}
	CHECK("a-call-without-stack-faults-itself", right);
}

void guest_main(void)
{
	boot_pml4[1] = (u64)window_pdpt | 3;
	window_pdpt[0] = (u64)window_pd | 3;
	window_pd[0] = (u64)window_pt | 3;
	write_cr3(read_cr3());
	test_aliases();
	test_mapping();
	test_many();
	test_late();
	test_turns();
	test_spaces();
	test_kinds();
	test_odd_returns();
	test_faults();
}
