/*
 * How fast the interpreter is, in millions of guest instructions a second, on loops that each lean on one thing:
 *
 *	bench-interp [NAME]...
 *
 * Time is that of the processor, not of the clock on the wall. Compare runs of one build with those of another on the
 *same idle machine; single figures mean little.
 */
#include "../tests/unit/machine.h"

#include <stdio.h>
#include <time.h>

GUEST(alu, "mov $10000000, %ecx\n1: add %rcx, %rax\n xor %rax, %rdx\n lea 3(%rdx,%rax,2), %rbx\n shr $3, %rbx\n"
	   " sub $1, %ecx\n jnz 1b\n hlt");
GUEST(memory, "mov $300, %r8d\n2: mov $16000, %ecx\n mov $0x180000, %esi\n mov $0x184000, %edi\n"
	      "1: movzbl (%rsi), %eax\n mov %al, (%rdi)\n add %rax, (%rsp)\n inc %rsi\n inc %rdi\n dec %ecx\n jnz 1b\n"
	      " dec %r8d\n jnz 2b\n hlt");
GUEST(calls,
      "mov $4000000, %ecx\n1: call 2f\n dec %ecx\n jnz 1b\n hlt\n"
      " .balign 16\n2: push %rbx\n mov %rcx, %rbx\n call 3f\n pop %rbx\n ret\n .balign 16\n3: add %rbx, %rax\n ret");
/* Each routine on a page of its own, called through a pointer. */
GUEST(pages, "mov $200000, %ecx\n1: mov $0x150000, %ebx\n2: call *%rbx\n add $0x1000, %rbx\n cmp $0x160000, %ebx\n"
	     " jb 2b\n dec %ecx\n jnz 1b\n hlt");
GUEST(routine, "inc %rax\n test %al, %al\n jz 1f\n inc %rdx\n1: ret");
GUEST(branches,
      "mov $5000000, %ecx\n mov $12345, %eax\n1: imul $1103515245, %eax, %eax\n add $12345, %eax\n"
      " test $0x10000, %eax\n jz 2f\n inc %rdx\n2: test $0x20000, %eax\n jz 3f\n inc %rbx\n3: dec %ecx\n jnz 1b\n hlt");
GUEST(locked, "mov $5000000, %ecx\n mov $0x180000, %edi\n1: lock incl (%rdi)\n lock cmpxchg %edx, 8(%rdi)\n dec %ecx\n"
	      " jnz 1b\n hlt");
GUEST(vector,
      "mov $3000000, %ecx\n1: paddd %xmm1, %xmm0\n pxor %xmm0, %xmm2\n movdqu %xmm2, 0x180000\n dec %ecx\n jnz 1b\n"
      " hlt");
GUEST(strings,
      "mov $200000, %ecx\n cld\n1: mov %ecx, %edx\n mov $0x180000, %esi\n mov $0x181000, %edi\n mov $64, %ecx\n"
      " rep movsq\n mov $100, %ecx\n rep stosb\n mov %edx, %ecx\n dec %ecx\n jnz 1b\n hlt");

static const struct {
	const char *name;
	const u8 *code, *end;
} loops[] = {
#define LOOP(name)                                                                                                     \
	{                                                                                                              \
#name, name, name##_end                                                                                \
	}
	LOOP(alu), LOOP(memory), LOOP(calls), LOOP(pages), LOOP(branches), LOOP(locked), LOOP(vector), LOOP(strings),
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void run(unsigned n)
{
	struct machine *m = machine_new();
	for (u64 page = 0x150000; page < 0x160000; page += 0x1000)
		machine_load_at(m, page, routine, routine_end);
	machine_load_at(m, CODE, loops[n].code, loops[n].end);
	double start = now();
	machine_run(m);
	double seconds = now() - start;
	const struct counters *c = &m->cpu.counters;
	printf("%-10s %8.1f M instructions/s, %6.1f M blocks/s, %6.3f s\n", loops[n].name,
	       (double)c->instructions / seconds / 1e6, (double)c->blocks_run / seconds / 1e6, seconds);
	machine_free(m);
}

static bool wanted(const char *name, int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], name))
			return true;
	return argc == 1;
}

int main(int argc, char **argv)
{
	for (unsigned n = 0; n < G_N_ELEMENTS(loops); n++)
		if (wanted(loops[n].name, argc, argv))
			run(n);
	return 0;
}
