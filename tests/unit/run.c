/*
 * The run loop and the block cache, on snippets of guest code: what is counted, what faults where, and that code which
 * changes, moves or crosses pages runs as its bytes are when it runs.
 */
#include "machine.h"

#include <pthread.h>
#include <unistd.h>

static struct machine *m;

static void fixture_setup(void *fixture, const void *unused)
{
	m = machine_new();
}

static void fixture_teardown(void *fixture, const void *unused)
{
	machine_free(m);
}

/* --- plain running --- */

GUEST(count_loop, "mov $1000, %ecx\n1: add %rcx, %rax\n dec %ecx\n jnz 1b\n hlt");

static void test_counts(void *fixture, const void *unused)
{
	machine_load(m, count_loop);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 500500);
	g_assert_cmpuint(m->cpu.counters.instructions, ==, 1 + 3 * 1000 + 1);
	g_assert_cmpuint(m->cpu.counters.blocks_run, ==, 1000 + 1);
}

GUEST(long_block, ".rept 200\n inc %rax\n .endr\n hlt");

static void test_long_block(void *fixture, const void *unused)
{
	machine_load(m, long_block);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 200);
	g_assert_cmpuint(m->cpu.counters.instructions, ==, 201);
	g_assert_cmpuint(m->cpu.counters.blocks_decoded, ==, (201 + BLOCK_MAX - 1) / BLOCK_MAX);
}

GUEST(fault_inside, "xor %eax, %eax\n inc %rcx\n mov 0x1ff000, %rdx\n inc %rcx\n hlt");

static void test_fault_inside(void *fixture, const void *unused)
{
	machine_load(m, fault_inside);
	machine_map(m, 0x1ff000, 0, 0);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_PF);
	g_assert_cmphex(m->cpu.reg[RBX], ==, 0x1ff000);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 1);
	g_assert_cmphex(machine_frame(m, 1), ==, CODE + 5); /* RIP of the load */
	/* Two before the fault, three in the handler. */
	g_assert_cmpuint(m->cpu.counters.instructions, ==, 5);
}

static void *stop_soon(void *unused)
{
	usleep(20000);
	cpu_attend(&m->cpu, ATTEND_STOP);
	return NULL;
}

GUEST(endless, "1: inc %rax\n jmp 1b");

static void test_stop(void *fixture, const void *unused)
{
	pthread_t thread;
	machine_load(m, endless);
	m->cpu.reg[REG_RIP] = CODE;
	g_assert_cmpint(pthread_create(&thread, NULL, stop_soon, NULL), ==, 0);
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_ASKED);
	pthread_join(thread, NULL);
	g_assert_cmpuint(m->cpu.reg[RAX], >, 0);
	/* It goes on where it was. */
	u64 before = m->cpu.reg[RAX];
	g_assert_cmpint(pthread_create(&thread, NULL, stop_soon, NULL), ==, 0);
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_ASKED);
	pthread_join(thread, NULL);
	g_assert_cmpuint(m->cpu.reg[RAX], >, before);
}

static bool raised;

static bool one_interrupt(void *opaque)
{
	return raised;
}

static int take_vector_2(void *opaque)
{
	raised = false;
	return VEC_NMI; /* any vector with a handler: external interrupts may use them all */
}

GUEST(interrupted, "sti\n nop\n inc %rcx\n inc %rcx\n jmp 1f\n1: hlt");

static void test_interrupt(void *fixture, const void *unused)
{
	machine_load(m, interrupted);
	m->platform.interrupt_pending = one_interrupt;
	m->platform.ack_interrupt = take_vector_2;
	raised = true;
	cpu_attend(&m->cpu, ATTEND_INTR);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_NMI);
	g_assert_cmphex(machine_frame(m, 0), ==, CODE + 2); /* behind the NOP, which the shadow of STI covered */
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 0);
	g_assert_cmpuint(m->cpu.counters.instructions, ==, 2 + 3);
}

/* --- code that changes --- */

/* The second byte of `mov $1, %al` becomes 7 before it runs, in the same block. */
GUEST(patch_ahead, "movb $7, 1f + 1(%rip)\n nop\n1: mov $1, %al\n hlt");

static void test_patch_ahead(void *fixture, const void *unused)
{
	machine_load(m, patch_ahead);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, 7);
	g_assert_cmpuint(m->cpu.counters.blocks_dropped, ==, 1);
	g_assert_cmpuint(m->cpu.counters.instructions, ==, 4);
}

/* A subroutine on the same page is patched each time round; its immediate is the loop counter. */
GUEST(patch_callee, "mov $100, %ecx\n1: mov %cl, 2f + 1(%rip)\n call 2f\n movzx %dl, %edx\n add %rdx, %rax\n"
		    " dec %ecx\n jnz 1b\n hlt\n .balign 64\n2: mov $0, %dl\n ret");

static void test_patch_callee(void *fixture, const void *unused)
{
	machine_load(m, patch_callee);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 5050);
	g_assert_cmpuint(m->cpu.counters.blocks_dropped, >=, 99);
}

/* The same often enough that the page counts as hot, and its blocks are not kept any more. */
GUEST(patch_often, "mov $100000, %ecx\n1: mov %ecx, 2f + 1(%rip)\n call 2f\n add %rdx, %rax\n dec %ecx\n jnz 1b\n hlt\n"
		   " .balign 64\n2: mov $0, %edx\n ret");

static void test_patch_often(void *fixture, const void *unused)
{
	machine_load(m, patch_often);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 5000050000);
	g_assert_cmpuint(m->cpu.counters.blocks_dropped, <, 2000);
}

/* Data on the page of the code, but on another line of 64 bytes. */
GUEST(data_beside,
      "mov $50, %ecx\n1: incq 2f(%rip)\n dec %ecx\n jnz 1b\n mov 2f(%rip), %rax\n hlt\n .balign 128\n2: .quad 0");

static void test_data_beside(void *fixture, const void *unused)
{
	machine_load(m, data_beside);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 50);
	g_assert_cmpuint(m->cpu.counters.blocks_dropped, ==, 0);
}

GUEST(answer_one, "mov $1, %eax\n hlt");
GUEST(answer_two, "mov $2, %eax\n hlt");

static void test_device_write(void *fixture, const void *unused)
{
	machine_load(m, answer_one);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 1);
	g_assert_true(mem_write(&m->mem, CODE, answer_two, (u64)(answer_two_end - answer_two)));
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 2);
}

static void *write_other(void *unused)
{
	mem_write(&m->mem, CODE, answer_two, (u64)(answer_two_end - answer_two));
	return NULL;
}

static void test_thread_write(void *fixture, const void *unused)
{
	pthread_t thread;
	machine_load(m, answer_one);
	machine_run(m);
	g_assert_cmpint(pthread_create(&thread, NULL, write_other, NULL), ==, 0);
	pthread_join(thread, NULL);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 2);
}

static void test_last_block_frees_page(void *fixture, const void *unused)
{
	machine_load(m, answer_one);
	machine_run(m);
	g_assert_true(m->mem.flags[CODE >> PAGE_SHIFT] & PAGE_HAS_CODE);
	g_assert_true(mem_write(&m->mem, CODE, answer_two, (u64)(answer_two_end - answer_two)));
	g_assert_false(m->mem.flags[CODE >> PAGE_SHIFT] & PAGE_HAS_CODE);
}

static void test_flush(void *fixture, const void *unused)
{
	machine_load(m, answer_one);
	machine_run(m);
	u64 decoded = m->cpu.counters.blocks_decoded;
	machine_run(m);
	g_assert_cmpuint(m->cpu.counters.blocks_decoded, ==, decoded);
	block_cache_flush(&m->cpu);
	machine_run(m);
	g_assert_cmpuint(m->cpu.counters.blocks_decoded, ==, 2 * decoded);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 1);
}

/* More code than the arena holds: a subroutine of 4 KiB, rewritten again and again by REP MOVS, fills it. */
static void test_arena_full(void *fixture, const void *unused)
{
	struct block_cache *cache = m->cpu.blocks;
	machine_load(m, answer_one);
	cache->arena_used = cache->arena_size - 64;
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 1);
	g_assert_cmpuint(cache->arena_used, <, cache->arena_size / 2);
}

/* --- code that moves --- */

/* 180000h holds a routine; its page is remapped to another frame, with INVLPG. */
GUEST(remap, "mov $0x180000, %edi\n call *%rdi\n mov %eax, %r8d\n"
	     " movq $0x182003, 0x4c00\n" /* PT entry of 180000h */
	     " invlpg (%rdi)\n call *%rdi\n mov %eax, %r9d\n hlt");
GUEST(return_11, "mov $11, %eax\n ret");
GUEST(return_22, "mov $22, %eax\n ret");

static void test_remap(void *fixture, const void *unused)
{
	machine_load(m, remap);
	machine_load_at(m, 0x180000, return_11, return_11_end);
	machine_load_at(m, 0x182000, return_22, return_22_end);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[R8], ==, 11);
	g_assert_cmpuint(m->cpu.reg[R9], ==, 22);
}

GUEST(two_aliases, "mov $0x180000, %edi\n call *%rdi\n mov $0x183000, %edi\n call *%rdi\n hlt");

static void test_aliases(void *fixture, const void *unused)
{
	machine_load(m, two_aliases);
	machine_load_at(m, 0x180000, return_11, return_11_end);
	machine_map(m, 0x183000, 0x180000, 3);
	machine_run(m);
	/* Three blocks of the caller, one routine. */
	g_assert_cmpuint(m->cpu.counters.blocks_decoded, ==, 4);
}

/* --- code and data in one page --- */

/* 180000h holds a routine, which runs, and then data behind it is written often; RDX: it runs once more. */
GUEST(data_after_code, "mov $0x180000, %edi\n call *%rdi\n mov $1000, %ecx\n"
		       "1: mov %ecx, 0x800(%rdi)\n dec %ecx\n jnz 1b\n"
		       " test %edx, %edx\n jz 2f\n call *%rdi\n2: hlt");

static void test_data_after_code(void *fixture, const void *unused)
{
	for (unsigned again = 0; again < 2; again++) {
		machine_load(m, data_after_code);
		machine_load_at(m, 0x180000, return_11, return_11_end);
		m->cpu.reg[RDX] = again;
		machine_run(m);
		g_assert_cmpuint(m->cpu.reg[RAX], ==, 11);
		g_assert_cmpuint(!!(m->mem.flags[0x180] & PAGE_HAS_CODE), ==, again);
	}
}

/* A loop writes beside itself: its blocks go seldom. */
GUEST(data_beside_code, "mov $50000, %ecx\n1: mov %ecx, 2f(%rip)\n add $1, %eax\n dec %ecx\n jnz 1b\n hlt\n"
			" .balign 64\n2: .long 0");

static void test_data_beside_code(void *fixture, const void *unused)
{
	machine_load(m, data_beside_code);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 50000);
	g_assert_cmpuint(m->cpu.counters.blocks_dropped, <, 50);
}

/* --- page borders --- */

GUEST(crossing, "movabs $0x1122334455667788, %rax\n hlt");

static void test_crossing(void *fixture, const void *unused)
{
	for (u64 split = 1; split < 10; split++) {
		u64 at = CODE + 0x1000 - split;
		machine_load_at(m, at, crossing, crossing_end);
		for (unsigned i = 0; i < 2; i++) {
			m->cpu.reg[RAX] = 0;
			m->cpu.reg[REG_RIP] = at;
			m->cpu.activity = CPU_ACTIVE;
			g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
			g_assert_cmphex(m->cpu.reg[RAX], ==, 0x1122334455667788);
		}
		/* A byte on either page changes: no block holds them, but it must be seen. */
		m->mem.host[at + 9] = 0x99;
		m->mem.host[at] = 0x48;
		m->cpu.reg[REG_RIP] = at;
		m->cpu.activity = CPU_ACTIVE;
		g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
		g_assert_cmphex(m->cpu.reg[RAX], ==, 0x9922334455667788);
	}
}

static void test_crossing_faults(void *fixture, const void *unused)
{
	u64 at = CODE + 0x1000 - 4;
	machine_load_at(m, at, crossing, crossing_end);
	machine_map(m, CODE + 0x1000, 0, 0);
	m->cpu.reg[REG_RIP] = at;
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_PF);
	g_assert_cmphex(m->cpu.reg[RBX], ==, CODE + 0x1000); /* CR2: the second page */
	g_assert_cmphex(machine_frame(m, 1), ==, at);        /* RIP: the instruction */
}

/* The page's last bytes are a whole instruction, HLT: what follows does not matter. */
static void test_page_end(void *fixture, const void *unused)
{
	u64 at = CODE + 0x1000 - (u64)(answer_one_end - answer_one);
	machine_load_at(m, at, answer_one, answer_one_end);
	machine_map(m, CODE + 0x1000, 0, 0);
	m->cpu.reg[REG_RIP] = at;
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 1);
}

static void test_no_execute(void *fixture, const void *unused)
{
	machine_load_at(m, 0x180000, answer_one, answer_one_end);
	machine_map(m, 0x180000, 0x180000, 3 | BIT(63));
	m->cpu.reg[REG_RIP] = 0x180000;
	g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_IDLE);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_PF);
	g_assert_cmphex(machine_frame(m, 0), ==, PF_PRESENT | PF_FETCH);
}

GUEST(wild_jump, "movabs $0x1000000000000000, %rax\n jmp *%rax");

static void test_wild_jump(void *fixture, const void *unused)
{
	machine_load(m, wild_jump);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_GP);
	g_assert_cmphex(machine_frame(m, 1), ==, CODE + 10); /* of the jump, not of its target */
}

/* --- strings --- */

GUEST(overlap, "cld\n mov $0x180000, %esi\n lea 1(%rsi), %edi\n mov $63, %ecx\n rep movsb\n"
	       " mov $0x180100, %esi\n lea 8(%rsi), %edi\n mov $15, %ecx\n rep movsq\n"
	       " mov $0x180204, %esi\n mov $0x180200, %edi\n mov $32, %ecx\n rep movsb\n hlt");

static void test_overlap(void *fixture, const void *unused)
{
	machine_load(m, overlap);
	m->mem.host[0x180000] = 0xa5;
	memcpy(m->mem.host + 0x180100, "pattern!", 8);
	memcpy(m->mem.host + 0x180200, "0123456789abcdefghijklmnopqrstuvwxyz", 36);
	machine_run(m);
	for (u64 i = 0; i < 64; i++)
		g_assert_cmphex(m->mem.host[0x180000 + i], ==, 0xa5);
	for (u64 i = 0; i < 128; i += 8)
		g_assert_cmpmem(m->mem.host + 0x180100 + i, 8, "pattern!", 8);
	g_assert_cmpmem(m->mem.host + 0x180200, 32, "456789abcdefghijklmnopqrstuvwxyz", 32);
}

GUEST(copy_into_hole, "cld\n mov $0x180800, %esi\n mov $0x184800, %edi\n mov $0x1000, %ecx\n rep movsb\n hlt");

static void test_string_fault(void *fixture, const void *unused)
{
	machine_load(m, copy_into_hole);
	machine_map(m, 0x185000, 0, 0);
	memset(m->mem.host + 0x180800, 0x5a, 0x1000);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_PF);
	g_assert_cmphex(m->cpu.reg[RBX], ==, 0x185000);
	g_assert_cmphex(m->cpu.reg[RCX], ==, 0x800);
	g_assert_cmphex(m->cpu.reg[RSI], ==, 0x181000);
	g_assert_cmphex(m->cpu.reg[RDI], ==, 0x185000);
	g_assert_cmphex(machine_frame(m, 1), ==, CODE + 16); /* at the REP MOVSB itself */
	g_assert_cmphex(m->mem.host[0x184fff], ==, 0x5a);
}

GUEST(backwards, "std\n mov $0x180007, %esi\n mov $0x180107, %edi\n mov $8, %ecx\n rep movsb\n cld\n hlt");

static void test_backwards(void *fixture, const void *unused)
{
	machine_load(m, backwards);
	memcpy(m->mem.host + 0x180000, "abcdefgh", 8);
	machine_run(m);
	g_assert_cmpmem(m->mem.host + 0x180100, 8, "abcdefgh", 8);
	g_assert_cmphex(m->cpu.reg[RDI], ==, 0x1800ff);
}

GUEST(copy_code, "cld\n lea 2f(%rip), %rsi\n lea 1f(%rip), %rdi\n mov $5, %ecx\n rep movsb\n1: mov $1, %eax\n hlt\n"
		 "2: mov $9, %eax");

static void test_string_over_code(void *fixture, const void *unused)
{
	machine_load(m, copy_code);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 9);
	machine_load(m, copy_code);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX], ==, 9);
}

/* TF is set by the POPF; its traps count in R8. */
GUEST(step_string,
      "cld\n mov $0x180000, %esi\n mov $0x180100, %edi\n mov $3, %ecx\n pushfq\n orl $0x100, (%rsp)\n popfq\n"
      " rep movsb\n pushfq\n andl $~0x100, (%rsp)\n popfq\n hlt");
GUEST(count_trap, "inc %r8d\n iretq");

static void test_step_string(void *fixture, const void *unused)
{
	machine_load(m, step_string);
	machine_load_at(m, HANDLERS + 16 * VEC_DB, count_trap, count_trap_end);
	memcpy(m->mem.host + 0x180000, "xyz", 3);
	machine_run(m);
	/* One for each element, one each for PUSHF, AND and the POPF that ends it. */
	g_assert_cmpuint(m->cpu.reg[R8], ==, 6);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 0);
	g_assert_cmpmem(m->mem.host + 0x180100, 3, "xyz", 3);
}

/* --- atomics across pages: no host address holds the operand whole --- */

GUEST(split_lock, "mov $0x180ffd, %edi\n movq $41, (%rdi)\n lock incq (%rdi)\n mov $42, %eax\n mov $77, %edx\n"
		  " lock cmpxchg %rdx, (%rdi)\n mov (%rdi), %rbx\n hlt");

static void test_split_lock(void *fixture, const void *unused)
{
	machine_load(m, split_lock);
	machine_map(m, 0x181000, 0x190000, 3); /* not adjacent in RAM */
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RBX], ==, 77);
	g_assert_true(m->cpu.arith & ARITH_ZF);
	g_assert_cmpuint(m->mem.host[0x180ffd], ==, 77);
}

/* Across cache lines within a page: every locked instruction there is, on one counter. */
GUEST(split_line,
      "mov $0x18003d, %edi\n movq $0, (%rdi)\n lock addq $5, (%rdi)\n lock incq (%rdi)\n lock btsq $4, (%rdi)\n"
      " mov $100, %eax\n lock xadd %rax, (%rdi)\n mov %rax, %rcx\n mov $7, %edx\n xchg %rdx, (%rdi)\n"
      " mov $7, %eax\n mov $9, %esi\n lock cmpxchg %rsi, (%rdi)\n mov (%rdi), %rbx\n lock notq (%rdi)\n hlt");

static void test_split_line(void *fixture, const void *unused)
{
	machine_load(m, split_line);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 5 + 1 + 16);
	g_assert_cmpuint(m->cpu.reg[RDX], ==, 122);
	g_assert_cmpuint(m->cpu.reg[RBX], ==, 9);
	u64 last;
	memcpy(&last, m->mem.host + 0x18003d, 8);
	g_assert_cmphex(last, ==, ~9ULL);
}

GUEST(split_fault, "mov $0x180ffd, %edi\n stc\n incq (%rdi)\n hlt");

static void test_split_fault(void *fixture, const void *unused)
{
	machine_load(m, split_fault);
	machine_map(m, 0x181000, 0x181000, 1); /* read-only */
	m->mem.host[0x180ffd] = 0xff;
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_PF);
	g_assert_cmphex(m->cpu.reg[RBX], ==, 0x181000);
	g_assert_cmphex(m->mem.host[0x180ffd], ==, 0xff); /* nothing was written */
	g_assert_true(machine_frame(m, 3) & RFLAGS_CF);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*test)(void *, const void *);
	} tests[] = {
		{ "/run/instructions-and-blocks-are-counted", test_counts },
		{ "/run/blocks-have-a-largest-size", test_long_block },
		{ "/run/a-fault-inside-a-block-is-precise", test_fault_inside },
		{ "/run/attention-from-a-thread-stops-it", test_stop },
		{ "/run/an-interrupt-waits-for-the-shadow-of-sti", test_interrupt },
		{ "/code/patching-ahead-in-the-running-block-is-seen", test_patch_ahead },
		{ "/code/patching-a-subroutine-is-seen-each-time", test_patch_callee },
		{ "/code/a-page-patched-often-keeps-no-blocks", test_patch_often },
		{ "/code/data-beside-code-drops-nothing", test_data_beside },
		{ "/code/a-device-write-is-seen", test_device_write },
		{ "/code/a-write-of-another-thread-is-seen", test_thread_write },
		{ "/code/a-page-without-blocks-is-no-code-page", test_last_block_frees_page },
		{ "/code/a-flush-decodes-anew", test_flush },
		{ "/code/a-full-arena-is-emptied", test_arena_full },
		{ "/code/remapping-a-page-is-seen", test_remap },
		{ "/code/aliases-share-blocks", test_aliases },
		{ "/code/a-page-that-became-data-is-none", test_data_after_code },
		{ "/code/a-loop-beside-its-data-is-spared", test_data_beside_code },
		{ "/page/instructions-may-cross", test_crossing },
		{ "/page/a-crossing-instruction-faults-on-its-second-page", test_crossing_faults },
		{ "/page/the-next-page-matters-only-if-reached", test_page_end },
		{ "/page/no-execute-faults-with-the-fetch-bit", test_no_execute },
		{ "/page/a-jump-to-no-canonical-address-faults-itself", test_wild_jump },
		{ "/string/overlapping-moves-repeat-the-pattern", test_overlap },
		{ "/string/a-fault-leaves-the-registers-at-the-element", test_string_fault },
		{ "/string/backwards", test_backwards },
		{ "/string/moving-over-code-is-seen", test_string_over_code },
		{ "/string/single-step-traps-after-each-element", test_step_string },
		{ "/atomic/operands-across-pages", test_split_lock },
		{ "/atomic/operands-across-cache-lines", test_split_line },
		{ "/atomic/a-fault-on-the-second-page-changes-nothing", test_split_fault },
	};
	g_test_init(&argc, &argv, NULL);
	for (unsigned i = 0; i < G_N_ELEMENTS(tests); i++)
		g_test_add(tests[i].name, char, NULL, (void (*)(char *, const void *))fixture_setup,
			   (void (*)(char *, const void *))tests[i].test,
			   (void (*)(char *, const void *))fixture_teardown);
	return g_test_run();
}
