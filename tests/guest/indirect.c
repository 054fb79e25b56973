/* Calls and jumps through registers and memory: where they lead must change with what is there and what is mapped. */
#include "lib/code.h"

#define WINDOW ((u8 *)(1ULL << 39))

enum {
	ROUNDS = 100,
	MANY = 40000, /* more than the CPU may remember where they are */
	PLACE = 8     /* bytes of each */
};

static u64 window_pdpt[512] ALIGNED(4096), window_pd[512] ALIGNED(4096), window_pt[512] ALIGNED(4096);
static u8 code[2][4096] ALIGNED(4096);
static u8 many[MANY][PLACE] ALIGNED(4096);

asm(".pushsection .text\n"
    ".global call_both, jump, jump_by_memory, call_on_stack, return_addresses, spin, user_call, user_call_itself\n"
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
    "user_call: lea look(%rip), %rsi\n"
    "user_call_itself: call *%rsi; int $0x80\n"
    ".popsection\n");
u64 call_both(const void *first, const void *second, u64 rounds), return_addresses(void);
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
	test_kinds();
	test_faults();
}
