/* Code that changes under the CPU: by stores of its own, of its neighbours, through other addresses, by string moves.
 */
#include "lib/code.h"

static u64 window_pdpt[512] ALIGNED(4096), window_pd[512] ALIGNED(4096), window_pt[512] ALIGNED(4096);
static u8 code[2][4096] ALIGNED(4096);
#define WINDOW ((u8 *)(1ULL << 39))

static void test_stores(void)
{
	put_function(code[0], 1);
	CHECK("new-code-runs", call(code[0]) == 1);
	*(volatile u32 *)(code[0] + 1) = 2;
	CHECK("changed-immediate-counts-at-once", call(code[0]) == 2);
	for (u32 i = 0; i < 1000; i++) {
		*(volatile u32 *)(code[0] + 1) = i;
		if (call(code[0]) != i) {
			CHECK("changed-immediate-counts-a-thousand-times", false);
			return;
		}
	}
	CHECK("changed-immediate-counts-a-thousand-times", true);
	*(volatile u8 *)(code[0] + 4) = 0x7f;
	CHECK("changed-byte-counts", call(code[0]) == (0x7f000000 | 999));
	put_function(code[0] + 2048, 3);
	CHECK("neighbour-in-the-page-does-no-harm", call(code[0]) == (0x7f000000 | 999) && call(code[0] + 2048) == 3);
	memset(code[0], 0x90, 2048);
	CHECK("rep-stosb-over-code-counts", call(code[0]) == 3);
	put_function(code[1], 4);
	memcpy(code[0] + 2048, code[1], 6);
	CHECK("rep-movsb-over-code-counts", call(code[0] + 2048) == 4);
}

static void test_across_pages(void)
{
	u8 *at = code[1] - 3; /* the immediate lies in both pages */
	put_function(at, 0x11223344);
	CHECK("code-across-pages-runs", call(at) == 0x11223344);
	code[1][0] = 0x55;
	CHECK("its-second-page-changes", call(at) == 0x11553344);
	code[0][4094] = 0x66;
	CHECK("its-first-page-changes", call(at) == 0x11553366);
	*(volatile u32 *)(code[1] - 2) = 0xcafebabe;
	CHECK("a-store-across-pages-changes-it", call(at) == 0xcafebabe);
}

/* The same where the code runs so often that it is translated. */
static void test_hot_code_across_pages(void)
{
	enum { RUNS = 40 };
	static u8 other[4096] ALIGNED(4096);
	bool right = true;
	/* An immediate of eight bytes, for the longest comparison; and a load, which may fault. */
	u8 *at = code[1] - 2;
	static const u8 movabs[] = { 0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8, 0xc3 };
	memcpy(at, movabs, sizeof movabs);
	for (unsigned i = 0; i < RUNS * 3; i++) {
		u64 value;
		if (i % RUNS == 0)
			at[9] = (u8)i;
		asm volatile("call *%1" : "=a"(value) : "r"(at) : "memory", "cc");
		right &= value == (0x0007060504030201ULL | (u64)(i / RUNS * RUNS) << 56);
	}
	CHECK("hot-code-across-pages-changes", right);
	/* mov 0(%rsi), %eax with 32 bits of displacement across the border, at two addresses with other second pages.
	 */
	at = WINDOW + 4096 - 2;
	static const u8 load[] = { 0x8b, 0x86, 0, 0, 0, 0, 0xc3 };
	memcpy(code[0] + 4094, load, 2);
	memcpy(code[1], load + 2, 5);
	memcpy(other, load + 2, 5);
	other[0] = 4;
	window_pt[0] = (u64)code[0] | 3;
	u32 data[2] = { 11, 22 };
	for (unsigned i = 0; i < RUNS * 4; i++) {
		u32 value;
		bool second = i / RUNS % 2;
		if (i % RUNS == 0) {
			window_pt[1] = (u64)(second ? other : code[1]) | 3;
			invlpg(WINDOW + 4096);
		}
		asm volatile("call *%1" : "=a"(value) : "r"(at), "S"(data) : "memory", "cc");
		right &= value == data[second];
	}
	CHECK("hot-code-across-pages-follows-its-mapping", right);
	TRY("call *%0", : : "r"(at), "S"(1ULL << 62) : "rax", "memory", "cc");
	CHECK("hot-code-across-pages-faults-at-its-beginning", fault.vector == GP && fault.ip == (word)at);
	window_pt[1] = 0;
	invlpg(WINDOW + 4096);
	TRY("call *%0", : : "r"(at), "S"(data) : "rax", "memory", "cc");
	CHECK("hot-code-across-pages-whose-second-is-absent",
	      fault.vector == PF && fault.ip == (word)at && fault.address == (word)WINDOW + 4096);
}

static void test_aliases(void)
{
	boot_pml4[1] = (u64)window_pdpt | 3;
	window_pdpt[0] = (u64)window_pd | 3;
	window_pd[0] = (u64)window_pt | 3;
	window_pt[0] = (u64)code[0] | 3;
	write_cr3(read_cr3());
	put_function(code[0], 5);
	CHECK("code-runs-at-an-alias", call(WINDOW) == 5);
	*(volatile u32 *)(code[0] + 1) = 6;
	CHECK("store-through-another-address-counts", call(WINDOW) == 6);
	*(volatile u32 *)(WINDOW + 1) = 7;
	CHECK("store-through-the-alias-counts", call(WINDOW) == 7 && call(code[0]) == 7);
	put_function(code[1], 8);
	window_pt[0] = (u64)code[1] | 3;
	invlpg(WINDOW);
	CHECK("another-page-at-the-address-counts", call(WINDOW) == 8);
	window_pt[0] = (u64)code[0] | 3;
	invlpg(WINDOW);
	CHECK("and-back", call(WINDOW) == 7);
}

/* The store is in the same straight run of instructions as what it changes. */
asm(".pushsection .data\n"
    ".global change_next, change_previous\n"
    "change_next: movl %edi, 1f+1(%rip); 1: mov $0, %eax; ret\n"
    "change_loop: xor %eax, %eax; mov $10, %ecx\n"
    "1: add $1, %eax\n" /* 83 c0 01: the immediate grows each time round */
    "   incb 1b+2(%rip)\n"
    "   dec %ecx; jnz 1b\n"
    "   ret\n"
    ".popsection\n");
u32 change_next(u32 value);
u32 change_loop(void);

static void test_next_instruction(void)
{
	CHECK("store-to-the-next-instruction-counts", change_next(0x1234) == 0x1234);
	CHECK("and-again", change_next(0x4321) == 0x4321);
	CHECK("loop-that-changes-itself", change_loop() == 1 + 2 + 3 + 4 + 5 + 6 + 7 + 8 + 9 + 10);
}

static void test_data_beside_code(void)
{
	/* Data and code in one page, both used over and over. */
	put_function(code[0], 9);
	volatile u32 *counter = (volatile u32 *)(code[0] + 3000);
	*counter = 0;
	u32 sum = 0;
	for (u32 i = 0; i < 2000; i++) {
		sum += call(code[0]);
		++*counter;
	}
	CHECK("data-beside-code", sum == 2000 * 9 && *counter == 2000);
	/* Pushes and calls on a stack in the page of the code. */
	put_function(code[0], 10);
	u64 result;
	asm volatile("mov %%rsp, %%rbx; mov %2, %%rsp; call *%1; mov %%rbx, %%rsp"
		     : "=a"(result)
		     : "r"(code[0]), "r"(code[0] + 2048)
		     : "rbx", "memory", "cc");
	CHECK("stack-beside-code", (u32)result == 10);
}

/*
 * Code that ran often, with a branch that was never taken to code that makes flags of its own; until that is changed to
 * code which looks at them. In lines of their own: the branch, where it leads, and something else that runs.
 */
asm(".pushsection .data\n"
    ".global leads, leads_end\n"
    ".balign 64\n"
    "leads: cmp $1, %edi; jz 1f; mov $2, %eax; ret\n"
    ".balign 64\n"
    "1: add $1, %eax; ret\n"
    ".balign 64\n"
    "mov $3, %eax; ret\n"
    "leads_end:\n"
    ".popsection\n");
extern const u8 leads[], leads_end[];

/* With ZF = 0 where it begins. */
static u32 lead(const u8 *code_at, u32 which)
{
	u32 value;
	asm volatile("test %%esp, %%esp; call *%1" : "=a"(value) : "r"(code_at), "D"(which), "a"(0) : "memory", "cc");
	return value;
}

static bool sees_flags_where_it_was_not_before(u8 *at, bool neighbour_changes)
{
	bool right = true;
	memcpy(at, leads, (size_t)(leads_end - leads));
	for (unsigned i = 0; i < 100; i++)
		right &= lead(at, 0) == 2 && call(at + 128) == 3;
	if (neighbour_changes) {
		*(volatile u8 *)(at + 129) = 4;
		right &= call(at + 128) == 4;
	}
	*(volatile u32 *)(at + 64) = 0xc3c0940f; /* setz %al; ret */
	for (unsigned i = 0; i < 100; i++)
		right &= lead(at, 1) == 1 && lead(at, 0) == 2;
	return right;
}

/* The first page has changed too often for anything of it to be kept. */
static void test_code_ahead(void)
{
	CHECK("code-that-never-ran-changes", sees_flags_where_it_was_not_before(code[1], false));
	CHECK("and-behind-a-change-beside-it", sees_flags_where_it_was_not_before(code[1] + 1024, true));
}

void guest_main(void)
{
	test_stores();
	test_across_pages();
	test_aliases();
	test_hot_code_across_pages();
	test_next_instruction();
	test_data_beside_code();
	test_code_ahead();
}
