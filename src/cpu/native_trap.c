/*
 * Stubs that may raise a SIMD floating-point exception. Only the host knows exactly when an unmasked exception is due
 * and which flags come with it (underflow depends on the mask, and instructions of several steps stop at the first), so
 * the stub runs with the guest's masks, and the host's exception, a SIGFPE of this very thread, ends it.
 *
 * The handler leaves by a jump, which needs no system call. A SIGFPE from anywhere else goes to whoever had it before.
 */
#include "cpu/native_trap.h"

#include <setjmp.h>
#include <signal.h>
#include <ucontext.h>

static _Thread_local jmp_buf *trap; /* of the stub that runs on this thread, NULL for none */
static _Thread_local u32 trap_mxcsr;
static struct sigaction previous;

static void on_fpe(int signal, siginfo_t *info, void *context)
{
	const ucontext_t *uc = context;
	jmp_buf *to = trap;
	if (!to || !uc->uc_mcontext.fpregs) {
		/* The instruction faults again and finds the older handler. */
		sigaction(SIGFPE, &previous, NULL);
		return;
	}
	trap = NULL;
	trap_mxcsr = uc->uc_mcontext.fpregs->mxcsr;
	_longjmp(*to, 1);
}

int native_trap_init(void)
{
	struct sigaction current, action = { .sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO | SA_NODEFER };
	if (sigaction(SIGFPE, NULL, &current))
		return -1;
	if (current.sa_flags & SA_SIGINFO && current.sa_sigaction == on_fpe)
		return 0;
	previous = current;
	return sigaction(SIGFPE, &action, NULL);
}

bool native_run_trapped(stub_fn stub, struct cpu *cpu, void *memory, u32 *mxcsr)
{
	jmp_buf here;
	if (_setjmp(here)) {
		host_set_mxcsr(MXCSR_INIT);
		*mxcsr = trap_mxcsr;
		return false;
	}
	trap = &here;
	host_set_mxcsr(*mxcsr);
	stub(cpu, memory, NULL);
	*mxcsr = host_mxcsr();
	host_set_mxcsr(MXCSR_INIT);
	trap = NULL;
	return true;
}
