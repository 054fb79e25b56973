/*
 * RESET: a VM's chips and CPUs go back to what they were when made. KVM has no such call, so their state is read then
 * and written back; even a guest's paravirtual clock, which would otherwise go on writing into the next guest's memory.
 */
#include "engine/kvm.h"

#include <errno.h>
#include <stdlib.h>

#define MSR_IA32_TSC        0x10
#define MSR_IA32_TSC_ADJUST 0x3b

enum { IRQCHIPS = 3, MSRS_MAX = 512 };

/* Two PICs and the I/O APIC, and the PIT. */
struct kvm_vm_snapshot {
	struct kvm_irqchip irqchip[IRQCHIPS];
	struct kvm_pit_state2 pit;
};

struct kvm_vcpu_snapshot {
	struct kvm_sregs sregs;
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debug;
	struct kvm_fpu fpu;
	struct kvm_xcrs xcrs;
	struct kvm_mp_state mp;
	struct kvm_msrs *msrs;
};

struct kvm_vm_snapshot *kvm_vm_snapshot(int vm_fd)
{
	struct kvm_vm_snapshot *snapshot = calloc(1, sizeof *snapshot);
	if (!snapshot)
		return NULL;
	int err = kvm_ioctl(vm_fd, KVM_GET_PIT2, &snapshot->pit);
	for (u32 i = 0; err >= 0 && i < IRQCHIPS; i++) {
		snapshot->irqchip[i].chip_id = i;
		err = kvm_ioctl(vm_fd, KVM_GET_IRQCHIP, &snapshot->irqchip[i]);
	}
	if (err >= 0)
		return snapshot;
	free(snapshot);
	errno = -err;
	return NULL;
}

int kvm_vm_restore(int vm_fd, struct kvm_vm_snapshot *snapshot)
{
	int err = kvm_ioctl(vm_fd, KVM_SET_PIT2, &snapshot->pit);
	for (u32 i = 0; err >= 0 && i < IRQCHIPS; i++)
		err = kvm_ioctl(vm_fd, KVM_SET_IRQCHIP, &snapshot->irqchip[i]);
	return err < 0 ? err : 0;
}

/* Every MSR that KVM saves and that can be read, but the TSC, which counts on as on a board with power. */
static struct kvm_msrs *read_msrs(int kvm_fd, int vcpu_fd)
{
	struct kvm_msr_list *list = calloc(1, sizeof *list + MSRS_MAX * sizeof list->indices[0]);
	struct kvm_msrs *msrs = calloc(1, sizeof *msrs + MSRS_MAX * sizeof msrs->entries[0]);
	if (list)
		list->nmsrs = MSRS_MAX;
	if (!list || !msrs || kvm_ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, list) < 0) {
		free(list);
		free(msrs);
		return NULL;
	}
	for (u32 i = 0; i < list->nmsrs; i++) {
		struct kvm_one_msr one = { .nmsrs = 1, .entry = { .index = list->indices[i] } };
		if (list->indices[i] == MSR_IA32_TSC || list->indices[i] == MSR_IA32_TSC_ADJUST)
			continue;
		if (kvm_ioctl(vcpu_fd, KVM_GET_MSRS, &one) == 1)
			msrs->entries[msrs->nmsrs++] = one.entry;
	}
	free(list);
	return msrs;
}

static int write_msrs(int vcpu_fd, const struct kvm_msrs *msrs)
{
	for (u32 i = 0; i < msrs->nmsrs; i++) {
		struct kvm_one_msr one = { .nmsrs = 1, .entry = msrs->entries[i] };
		/* Some may be read and not written; those did not change either. */
		int done = kvm_ioctl(vcpu_fd, KVM_SET_MSRS, &one);
		if (done < 0)
			return done;
	}
	return 0;
}

struct kvm_vcpu_snapshot *kvm_vcpu_snapshot(int kvm_fd, int vcpu_fd)
{
	struct kvm_vcpu_snapshot *snapshot = calloc(1, sizeof *snapshot);
	if (!snapshot)
		return NULL;
	int err = kvm_ioctl(vcpu_fd, KVM_GET_SREGS, &snapshot->sregs);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_GET_LAPIC, &snapshot->lapic);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_GET_VCPU_EVENTS, &snapshot->events);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_GET_DEBUGREGS, &snapshot->debug);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_GET_FPU, &snapshot->fpu);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_GET_XCRS, &snapshot->xcrs);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_GET_MP_STATE, &snapshot->mp);
	if (err >= 0) {
		snapshot->msrs = read_msrs(kvm_fd, vcpu_fd);
		err = snapshot->msrs ? 0 : -ENOMEM;
	}
	if (err >= 0)
		return snapshot;
	free(snapshot);
	errno = -err;
	return NULL;
}

int kvm_vcpu_restore(int vcpu_fd, struct kvm_vcpu_snapshot *snapshot)
{
	/* The APIC's mode, part of sregs, decides how its registers are read; XCR0 what FPU state there is. */
	int err = kvm_ioctl(vcpu_fd, KVM_SET_SREGS, &snapshot->sregs);
	if (err >= 0)
		err = write_msrs(vcpu_fd, snapshot->msrs);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_SET_LAPIC, &snapshot->lapic);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_SET_XCRS, &snapshot->xcrs);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_SET_FPU, &snapshot->fpu);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_SET_DEBUGREGS, &snapshot->debug);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_SET_VCPU_EVENTS, &snapshot->events);
	if (err >= 0)
		err = kvm_ioctl(vcpu_fd, KVM_SET_MP_STATE, &snapshot->mp);
	return err < 0 ? err : 0;
}

void kvm_vcpu_snapshot_free(struct kvm_vcpu_snapshot *snapshot)
{
	if (snapshot)
		free(snapshot->msrs);
	free(snapshot);
}
