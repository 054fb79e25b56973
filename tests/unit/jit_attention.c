/*
 * Attention from another thread while translated code runs: none is lost, though the CPU writes beside it all the time.
 */
#include "machine.h"

#include "jit/jit.h"

#include <pthread.h>
#include <unistd.h>

enum { ROUNDS = 3000, LOST_AFTER = 10 /* seconds */ };

/* Into the kernel and back: each changes the stamp of copies, and attention is looked at nowhere but beside it. */
GUEST(program, "1: syscall\n jmp *%rbx");
GUEST(kernel, "sysretq");
GUEST(renewing_kernel, "mov (%rsi), %rax\n invlpg (%rsi)\n sysretq");

/* Nothing but calls that lead back. */
GUEST(calls, "1: lea 8(%rsp), %rsp\n call 1b");

static unsigned stops; /* of the CPU; atomic */
static bool lost;      /* atomic */

static u64 now(void)
{
	return (u64)g_get_monotonic_time();
}

static bool wait_for_stop(unsigned n)
{
	for (u64 end = now() + LOST_AFTER * 1000000ULL; now() < end; g_thread_yield())
		if (__atomic_load_n(&stops, __ATOMIC_SEQ_CST) == n)
			return true;
	return false;
}

/* Asks the CPU to stop, at one time or another, again and again. */
static void *ask(void *opaque)
{
	struct cpu *cpu = opaque;
	for (unsigned n = 1; n <= ROUNDS; n++) {
		for (unsigned wait = n * 7919 % 512; wait; wait--)
			__builtin_ia32_pause();
		cpu_attend(cpu, ATTEND_STOP);
		if (wait_for_stop(n))
			continue;
		__atomic_store_n(&lost, true, __ATOMIC_SEQ_CST);
		while (__atomic_load_n(&stops, __ATOMIC_SEQ_CST) < n)
			cpu_attend(cpu, ATTEND_STOP);
		break;
	}
	return NULL;
}

static void enter_user_mode(struct machine *m, u64 kernel_at)
{
	struct x86_state s;
	const u64 tables[] = { PML4, PDPT, PD, PT + 8 * (CODE >> PAGE_SHIFT) };
	for (unsigned i = 0; i < G_N_ELEMENTS(tables); i++)
		m->mem.host[tables[i]] |= 4;
	cpu_get_state(&m->cpu, &s);
	s.efer |= EFER_SCE;
	s.rip = s.gpr[RBX] = CODE;
	s.gpr[RSI] = DATA;
	s.seg[SEG_CS] = (struct segment){ .selector = 0x2b, .limit = 0xffffffff, .ar = 0xa0fb };
	s.seg[SEG_SS] = (struct segment){ .selector = 0x23, .limit = 0xffffffff, .ar = 0xc0f3 };
	cpu_set_state(&m->cpu, &s);
	m->cpu.msr.star = 0x0018000800000000;
	m->cpu.msr.lstar = kernel_at;
	m->cpu.msr.fmask = RFLAGS_ARITH | RFLAGS_AC;
}

static void run_and_ask(struct machine *m)
{
	pthread_t thread;
	stops = 0;
	lost = false;
	g_assert_cmpint(jit_create(&m->cpu, &(struct jit_options){ .hot = 1 }), ==, 0);
	g_assert_cmpint(pthread_create(&thread, NULL, ask, &m->cpu), ==, 0);
	for (unsigned n = 1; n <= ROUNDS && !__atomic_load_n(&lost, __ATOMIC_SEQ_CST); n++) {
		g_assert_cmpint(cpu_run(&m->cpu), ==, CPU_STOP_ASKED);
		__atomic_store_n(&stops, n, __ATOMIC_SEQ_CST);
	}
	pthread_join(thread, NULL);
	g_assert_false(lost);
	/* It was translated code that ran. */
	g_assert_cmpuint(m->cpu.counters.instructions, >, 10 * ROUNDS);
	g_assert_cmpuint(m->cpu.counters.instructions_interpreted, <, m->cpu.counters.instructions / 2);
	jit_destroy(&m->cpu);
	machine_free(m);
}

static void test(u64 kernel_at, const u8 *code, const u8 *end)
{
	struct machine *m = machine_new();
	machine_load(m, program);
	machine_load_at(m, kernel_at, code, end);
	enter_user_mode(m, kernel_at);
	run_and_ask(m);
}

/* Each of the two pages always has the same stamp. */
static void two_pages(void)
{
	test(CODE + PAGE_SIZE, kernel, kernel_end);
}

/* The page has the other one's at each entry. */
static void one_page(void)
{
	test(CODE + 0x100, kernel, kernel_end);
}

/* A new one all the time. */
static void renewed(void)
{
	test(CODE + PAGE_SIZE, renewing_kernel, renewing_kernel_end);
}

static void in_calls(void)
{
	struct machine *m = machine_new();
	machine_load(m, calls);
	run_and_ask(m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/jit/attention/in-two-pages", two_pages);
	g_test_add_func("/jit/attention/in-one-page", one_page);
	g_test_add_func("/jit/attention/with-stamps-renewed", renewed);
	g_test_add_func("/jit/attention/in-calls-that-lead-back", in_calls);
	return g_test_run();
}
