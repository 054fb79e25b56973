/*
 * DAA DAS AAA AAS AAM AAD, which 64-bit mode does not have: each value of AX, AF and CF is tried in the interpreter and
 * on the host's CPU, by a far call into 32-bit code. Hosts whose kernel allows no 32-bit code skip it.
 */
#undef _GNU_SOURCE
#define _DEFAULT_SOURCE 1

#include "../unit/machine.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

/* Linux's selector of 32-bit user code. */
#define USER32_CS "0x23"

/*
 * Copied below 4 GiB, for in 32-bit code addresses have 32 bits, and so has the return address of the far call.
 * host_call(rdi: AX, rsi: flags in, rdx: 64 words of stack, rcx: where the flags go) returns AX. RSP is kept in memory:
 * nothing promises that the upper halves of registers live through 32-bit code.
 */
asm(".pushsection .rodata\n"
    "stub: mov %rsp, 1f(%rip)\n"
    "	mov %rbx, 2f(%rip)\n"
    "	mov %rcx, 3f(%rip)\n"
    "	lea 504(%rdx), %rsp\n"
    "	mov %edi, %eax\n"
    "	lea stub_code(%rip), %rbx\n"
    "	mov %ebx, 4f(%rip)\n"
    "	push %rsi\n"
    "	popfq\n"
    "	lcall *4f(%rip)\n"
    "	pushfq\n"
    "	pop %rdx\n"
    "	mov 3f(%rip), %rcx\n"
    "	mov %rdx, (%rcx)\n"
    "	mov 2f(%rip), %rbx\n"
    "	mov 1f(%rip), %rsp\n"
    "	ret\n"
    "	.balign 8\n"
    "1:	.quad 0\n"
    "2:	.quad 0\n"
    "3:	.quad 0\n"
    "4:	.long 0\n"
    "	.word " USER32_CS "\n"
    "stub_code: .fill 16, 1, 0x90\n"
    "stub_end: .popsection");
extern const u8 stub[], stub_code[], stub_end[];

typedef u64 host_call(u64 ax, u64 flags, void *stack, u64 *flags_out);

static u8 *low; /* a page for the stub, and one for its stack */
static struct machine *m;
static sigjmp_buf refused;

static void on_fault(int signal)
{
	siglongjmp(refused, 1);
}

static void host_prepare(const u8 *code, size_t size)
{
	u8 *at = low + (stub_code - stub);
	memcpy(low, stub, (size_t)(stub_end - stub));
	memcpy(at, code, size);
	at[size] = 0xcb; /* far return, 32 bits in 32-bit code */
}

static bool host_run(u16 *ax, u64 *flags)
{
	if (sigsetjmp(refused, 0))
		return false;
	*ax = (u16)((host_call *)low)(*ax, *flags, low + 4096, flags);
	return true;
}

/* Runs one decoded instruction of 32-bit code. */
static void guest_run(const struct insn *insn, u16 *ax, u64 *flags)
{
	m->cpu.reg[RAX] = *ax;
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | (*flags & RFLAGS_ARITH));
	insn->exec(&m->cpu, insn);
	*ax = (u16)m->cpu.reg[RAX];
	*flags = cpu_rflags(&m->cpu) & RFLAGS_ARITH;
}

struct subject {
	const char *name;
	u8 code[2];
	u8 size;
	u64 defined; /* flags to compare (SDM vol. 2) */
};

static void compare(const struct subject *s, const struct insn *insn, u16 ax, u64 flags)
{
	u16 host_ax = ax, guest_ax = ax;
	u64 host_flags = flags | RFLAGS_ONE, guest_flags = flags;
	if (!host_run(&host_ax, &host_flags))
		g_error("the host refused %s after it had run it", s->name);
	guest_run(insn, &guest_ax, &guest_flags);
	if (host_ax != guest_ax || ((host_flags ^ guest_flags) & s->defined))
		g_error("%s %02x: AX %04x flags %llx: host %04x %llx, guest %04x %llx", s->name, s->code[1], ax,
			(unsigned long long)flags, host_ax, (unsigned long long)(host_flags & s->defined), guest_ax,
			(unsigned long long)(guest_flags & s->defined));
}

static void test_subject(const void *data)
{
	const struct subject *s = data;
	const struct sigaction act = { .sa_handler = on_fault, .sa_flags = SA_NODEFER };
	const int signals[] = { SIGSEGV, SIGILL, SIGBUS };
	struct sigaction old[3];
	struct insn insn;
	u8 bytes[15] = { 0 };
	u16 ax = 0;
	u64 flags = RFLAGS_ONE;

	memcpy(bytes, s->code, s->size);
	g_assert_true(insn_decode(&m->cpu, MODE_CODE32 | MODE_STACK32 | MODE_FLAT, bytes, sizeof(bytes), &insn));
	host_prepare(s->code, s->size);
	for (unsigned i = 0; i < 3; i++)
		sigaction(signals[i], &act, &old[i]);
	bool can = host_run(&ax, &flags);
	for (unsigned i = 0; i < 3; i++)
		sigaction(signals[i], &old[i], NULL);
	if (!can) {
		g_test_skip("this host runs no 32-bit code");
		return;
	}
	for (unsigned v = 0; v < 0x10000; v++)
		for (unsigned f = 0; f < 4; f++)
			compare(s, &insn, (u16)v, (f & 1 ? RFLAGS_CF : 0) | (f & 2 ? RFLAGS_AF : 0));
}

#define RESULT_FLAGS (RFLAGS_SF | RFLAGS_ZF | RFLAGS_PF)
#define DIGIT_FLAGS  (RFLAGS_AF | RFLAGS_CF)

static const struct subject subjects[] = {
	{ "daa", { 0x27 }, 1, RESULT_FLAGS | DIGIT_FLAGS },
	{ "das", { 0x2f }, 1, RESULT_FLAGS | DIGIT_FLAGS },
	{ "aaa", { 0x37 }, 1, DIGIT_FLAGS },
	{ "aas", { 0x3f }, 1, DIGIT_FLAGS },
	{ "aam-10", { 0xd4, 10 }, 2, RESULT_FLAGS },
	{ "aam-7", { 0xd4, 7 }, 2, RESULT_FLAGS },
	{ "aam-255", { 0xd4, 255 }, 2, RESULT_FLAGS },
	{ "aad-10", { 0xd5, 10 }, 2, RESULT_FLAGS },
	{ "aad-0", { 0xd5, 0 }, 2, RESULT_FLAGS },
	{ "aad-200", { 0xd5, 200 }, 2, RESULT_FLAGS },
	{ "salc", { 0xd6 }, 1, RFLAGS_CF },
};

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	low = mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	g_assert_true(low != MAP_FAILED);
	m = machine_new();
	for (unsigned i = 0; i < G_N_ELEMENTS(subjects); i++) {
		char *name = g_strdup_printf("/decimal/%s-is-the-hosts", subjects[i].name);
		g_test_add_data_func(name, &subjects[i], test_subject);
		g_free(name);
	}
	int result = g_test_run();
	machine_free(m);
	return result;
}
