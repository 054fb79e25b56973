/*
 * Confinement. Code running in this process once the guest runs may be the attacker's, so from then on the process can
 * do nothing but compute, use what it has open, and end.
 *
 * In two steps, because some bars hold only for threads made later and some would bar the VM's own creation:
 *
 *   sandbox_enter()  on the only thread, after the front opened everything, before vm_create(): no new privileges, own
 *                    empty namespaces with an empty root, no capabilities, Landlock with no rule but /dev/kvm's
 *   sandbox_close()  after vm_create(), before vm_run(): the seccomp filter, on all threads
 *
 * The filter is the bar that everything rests on: without it a run fails. The others are used where the host allows.
 */
#ifndef STRATA_CLI_SANDBOX_H
#define STRATA_CLI_SANDBOX_H

#include "base/types.h"

enum sandbox_bar {
	SANDBOX_NO_NEW_PRIVS = 1 << 0,
	SANDBOX_NAMESPACES = 1 << 1, /* user, mount, network, IPC and UTS */
	SANDBOX_EMPTY_ROOT = 1 << 2,
	SANDBOX_NO_CAPABILITIES = 1 << 3,
	SANDBOX_LANDLOCK = 1 << 4,
	SANDBOX_SECCOMP = 1 << 5,
};

/* `needs_kvm`: /dev/kvm stays reachable. Returns the bars that are in force (SANDBOX_*). */
unsigned sandbox_enter(bool needs_kvm);

/*
 * `ioctls` are the engine's requests, ended by 0; NULL: none. `resizable`: the one descriptor whose file may be cut
 * short; 0: none. 0 or -errno. A system call that is not allowed does not
 * happen: at_denial (async-signal-safe, may be NULL) is called, then the process ends with status 1 and one line.
 */
int sandbox_close(const unsigned long *ioctls, int resizable, void (*at_denial)(void));

/* Highest version of Landlock's interface that the kernel has; 0: none. */
int sandbox_landlock_version(void);

#endif
