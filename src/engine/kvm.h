/*
 * The kvm engine's insides, shared by its files and by nobody else.
 *
 *   kvm.c        one VM: create, run, exits, interrupts
 *   kvm_state.c  struct x86_state to and from KVM's registers
 *   kvm_cpuid.c  what the guest sees in CPUID, and the few MSRs that firmware would set
 *   kvm_smm.c    what an SMI runs
 *   kvm_reset.c  the state after RESET
 *   kvm_probe.c  does /dev/kvm run a guest at all? (kvm_probe_guest.S is that guest)
 *
 * Errors are -errno. Nothing here is global but the no-op handler of the kick signal.
 */
#ifndef STRATA_ENGINE_KVM_H
#define STRATA_ENGINE_KVM_H

#include "engine/engine.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>

/* Interrupts KVM_RUN; see engine_ops.kick. */
#define KVM_KICK_SIGNAL SIGUSR1

/*
 * Three pages and one page that KVM on Intel hosts wants for itself, to run real mode on processors without
 * unrestricted guest. Between the local APIC and the firmware, where the board has nothing.
 */
#define KVM_IDENTITY_MAP_ADDR 0xfeffc000ULL
#define KVM_TSS_ADDR          0xfeffd000UL

struct engine_vcpu {
	struct engine *engine;
	unsigned index;
	int fd;
	struct kvm_vcpu_snapshot *after_reset;
	struct kvm_run *run; /* shared with the kernel, engine->run_size bytes */
	bool kicked;         /* atomic: kick() was called and run() has not yet returned for it */
	bool running;        /* atomic: `thread` is inside run() */
	pthread_t thread;
	struct counters counters;
};

struct engine {
	const struct engine_board *board;
	int kvm_fd, vm_fd;
	struct kvm_vm_snapshot *after_reset;
	u8 *smram; /* NULL: KVM has no system-management mode */
	size_t run_size;
	struct engine_vcpu *vcpus;
	unsigned vcpu_count;
};

/* ioctl(2) that retries on EINTR and returns -errno. Not for KVM_RUN. */
int kvm_ioctl(int fd, unsigned long request, void *arg);

/* Opens /dev/kvm and checks the API version and what Strata cannot do without. The descriptor, or -errno. */
int kvm_open(char *reason, size_t reason_size);

/*
 * What KVM_GET_SUPPORTED_CPUID says, room for KVM_CPUID_MAX entries; free() it. NULL if out of memory or refused
 * (errno tells).
 */
enum { KVM_CPUID_MAX = 256 };
struct kvm_cpuid2 *kvm_supported_cpuid(int kvm_fd);

/* Which virtualization extension a guest would be given. */
enum nested_choice kvm_cpuid_nesting(const struct kvm_cpuid2 *cpuid);

/* Gives the vCPU its CPUID and the MSRs that firmware would have set. */
int kvm_cpuid_setup(struct engine_vcpu *vcpu, const struct kvm_cpuid2 *supported);

/*
 * Gives the VM a handler for SMIs, and the vCPU, before its snapshot is taken, its own place there. Nothing where KVM
 * has no system-management mode: it drops SMIs.
 */
int kvm_smm_init(struct engine *engine);
int kvm_smm_init_vcpu(struct engine_vcpu *vcpu);
void kvm_smm_destroy(struct engine *engine);

/* struct kvm_msrs with just one entry, for KVM_GET_MSRS and KVM_SET_MSRS. */
struct kvm_one_msr {
	u32 nmsrs, pad;
	struct kvm_msr_entry entry;
};
_Static_assert(offsetof(struct kvm_one_msr, entry) == sizeof(struct kvm_msrs), "layout of struct kvm_msrs");

int kvm_set_msr(int vcpu_fd, u32 index, u64 value);

int kvm_state_get(int vcpu_fd, struct x86_state *state);
int kvm_state_set(int vcpu_fd, const struct x86_state *state);

/*
 * The state of the VM's chips and of a vCPU, as just made, and back to it. A snapshot is free()d, a vCPU's with the
 * function below. NULL on failure (errno tells).
 */
struct kvm_vm_snapshot *kvm_vm_snapshot(int vm_fd);
int kvm_vm_restore(int vm_fd, struct kvm_vm_snapshot *snapshot);
struct kvm_vcpu_snapshot *kvm_vcpu_snapshot(int kvm_fd, int vcpu_fd);
int kvm_vcpu_restore(int vcpu_fd, struct kvm_vcpu_snapshot *snapshot);
void kvm_vcpu_snapshot_free(struct kvm_vcpu_snapshot *snapshot);

int kvm_probe(enum nested_choice nested, char *reason, size_t reason_size);

#endif
