#include "host_fault.h"

#include <signal.h>
#include <stdio.h>
#include <ucontext.h>
#include <unistd.h>

volatile struct host_fault host_fault;
char host_running[64];

static u64 code_base, code_size;
static void (*way_out)(void);
static struct sigaction older[NSIG];

/* The fault's registers are what sigreturn puts back; only RIP goes to the way out. */
static void on_fault(int sig, siginfo_t *info, void *context)
{
	ucontext_t *uc = context;
	greg_t *regs = uc->uc_mcontext.gregs;
	u64 rip = (u64)regs[REG_RIP];
	if (rip - code_base >= code_size && older[sig].sa_flags & SA_SIGINFO) {
		older[sig].sa_sigaction(sig, info, context); /* the interpreter's own */
		return;
	}
	if (rip - code_base >= code_size) {
		dprintf(2, "# native side: exception %d at %#llx, outside the code page, after %s\n",
			(int)regs[REG_TRAPNO], (unsigned long long)rip, host_running);
		_exit(98);
	}
	host_fault.vector = (int)regs[REG_TRAPNO];
	host_fault.error = (u64)regs[REG_ERR];
	host_fault.cr2 = (u64)regs[REG_CR2];
	host_fault.rip = rip;
	regs[REG_RIP] = (greg_t)(uintptr_t)way_out;
	u16 cs; /* the way out is 64-bit code */
	__asm__("mov %%cs, %0" : "=r"(cs));
	regs[REG_CSGSFS] = (regs[REG_CSGSFS] & ~0xffffLL) | cs;
}

void host_catch_faults(u64 base, u64 size, void (*leave)(void))
{
	static const int signals[] = { SIGILL, SIGSEGV, SIGFPE, SIGBUS, SIGTRAP };
	static u8 stack[65536];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	code_base = base;
	code_size = size;
	way_out = leave;
	sigaltstack(&ss, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
		sigaction(signals[i], &sa, &older[signals[i]]);
}
