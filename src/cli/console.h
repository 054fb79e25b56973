/*
 * The terminal and the signals of a running VM. While a guest runs, a terminal on standard input is in raw mode, so
 * that every key reaches the guest; it is put back however the process ends, but for SIGKILL.
 *
 * One console per process: signals are the process's. Main thread, except the handlers.
 */
#ifndef STRATA_CLI_CONSOLE_H
#define STRATA_CLI_CONSOLE_H

#include "base/types.h"

struct vm;

/* Why the handlers stopped the VM. */
enum console_stop { CONSOLE_NOT_STOPPED, CONSOLE_SIGNAL, CONSOLE_TIMEOUT };

/*
 * Installs the handlers: signals that ask a process to end, and the time limit, stop `vm`; fatal signals put the
 * terminal back first. Then raw mode if `raw` and standard input is a terminal. `timeout` is in seconds, 0 for none,
 * and counts from here. 0 or -errno.
 */
int console_open(struct vm *vm, bool raw, u64 timeout);

/* Ends the time limit and puts the terminal back. May be called twice. */
void console_close(void);

/* What stopped the VM; *signal is its number for CONSOLE_SIGNAL. */
enum console_stop console_stopped(int *signal);

/* Puts the terminal back and ends the process as `signal` would have done, so that a shell sees what happened. */
void console_die(int signal);

/* To be called by handlers of fatal signals elsewhere; async-signal-safe. */
void console_restore(void);

#endif
