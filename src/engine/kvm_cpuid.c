/*
 * What a guest of the kvm engine sees in CPUID: what KVM supports here, told about this vCPU, and virtualization
 * extensions only if they were asked for. And the MSRs that firmware would have set.
 */
#include "engine/kvm.h"

#include <cpuid.h>
#include <errno.h>
#include <stdlib.h>

/* Bits by leaf and register (SDM vol. 2, CPUID; AMD APM vol. 3, appendix E). */
#define LEAF1_ECX_VMX          (1u << 5)
#define LEAF1_ECX_PDCM         (1u << 15)
#define LEAF1_ECX_X2APIC       (1u << 21)
#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_HYPERVISOR   (1u << 31)
#define LEAF1_EDX_HTT          (1u << 28)
#define LEAF81_ECX_SVM         (1u << 2)
#define LEAF81_ECX_PERFCTR     (1u << 23)

#define MSR_IA32_FEATURE_CONTROL 0x3a
#define MSR_IA32_MISC_ENABLE     0x1a0
#define MSR_IA32_MTRR_DEF_TYPE   0x2ff
#define FEATURE_CONTROL_LOCKED   BIT(0)
#define FEATURE_CONTROL_VMX      BIT(2) /* outside SMX */
#define MISC_ENABLE_FAST_STRING  BIT(0)
#define MTRR_ENABLED_WRITE_BACK  (BIT(11) | 6)

/* KVM's local APIC timers count at this rate before their divider. */
#define KVM_APIC_BUS_HZ 1000000000u

struct kvm_cpuid2 *kvm_supported_cpuid(int kvm_fd)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + KVM_CPUID_MAX * sizeof cpuid->entries[0]);
	if (!cpuid)
		return NULL;
	cpuid->nent = KVM_CPUID_MAX;
	int err = kvm_ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid);
	if (err < 0) {
		free(cpuid);
		errno = -err;
		return NULL;
	}
	return cpuid;
}

static struct kvm_cpuid_entry2 *find(struct kvm_cpuid2 *cpuid, u32 leaf)
{
	for (u32 i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == leaf && cpuid->entries[i].index == 0)
			return &cpuid->entries[i];
	return NULL;
}

enum nested_choice kvm_cpuid_nesting(const struct kvm_cpuid2 *cpuid)
{
	for (u32 i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
		if (e->function == 1 && (e->ecx & LEAF1_ECX_VMX))
			return NESTING_VTX;
		if (e->function == 0x80000001 && (e->ecx & LEAF81_ECX_SVM))
			return NESTING_SVM;
	}
	return NESTING_NONE;
}

/*
 * TSC frequency in leaf 15h, so that guests need not measure it: the "crystal" is the APIC timer's clock, which is what
 * guests take it for as well.
 */
static void add_tsc_frequency(struct kvm_cpuid2 *cpuid, int tsc_khz)
{
	struct kvm_cpuid_entry2 *max = find(cpuid, 0), *e = find(cpuid, 0x15);
	if (tsc_khz <= 0 || !max)
		return;
	if (!e) {
		if (cpuid->nent == KVM_CPUID_MAX)
			return;
		e = &cpuid->entries[cpuid->nent++];
	}
	*e = (struct kvm_cpuid_entry2){
		.function = 0x15, .eax = KVM_APIC_BUS_HZ / 1000, .ebx = (u32)tsc_khz, .ecx = KVM_APIC_BUS_HZ
	};
	if (max->eax < 0x15)
		max->eax = 0x15;
}

/* The processor's name, which KVM leaves out: the host's own. */
static void add_brand(struct kvm_cpuid2 *cpuid)
{
	for (u32 leaf = 0x80000002; leaf <= 0x80000004; leaf++) {
		struct kvm_cpuid_entry2 *e = find(cpuid, leaf);
		if (!e && cpuid->nent < KVM_CPUID_MAX) {
			e = &cpuid->entries[cpuid->nent++];
			*e = (struct kvm_cpuid_entry2){ .function = leaf };
		}
		if (e)
			__get_cpuid(leaf, &e->eax, &e->ebx, &e->ecx, &e->edx);
	}
}

/* Topology: cores of one package, one thread each. */
static void adapt_topology(struct engine_vcpu *vcpu, struct kvm_cpuid_entry2 *e)
{
	u32 cpus = vcpu->engine->board->cpus, index = vcpu->index;
	u32 core_bits = cpus > 1 ? 32 - (u32)__builtin_clz(cpus - 1) : 0;
	bool shared = (e->eax >> 5 & 7) == 3; /* the cache of level 3 */
	switch (e->function) {
	case 1: /* APIC ID, logical processors; HTT: the latter is valid */
		e->ebx = (e->ebx & 0xffff) | cpus << 16 | index << 24;
		e->edx = cpus > 1 ? e->edx | LEAF1_EDX_HTT : e->edx & ~LEAF1_EDX_HTT;
		break;
	case 4:
		e->eax = (e->eax & 0x3ff) | (e->eax & 31 ? (cpus - 1) << 26 | (shared ? cpus - 1 : 0) << 14 : 0);
		break;
	case 0x8000001d:
		e->eax = (e->eax & 0x3ff) | (shared ? cpus - 1 : 0) << 14;
		break;
	case 0xb:
	case 0x1f:
		e->edx = index;
		e->eax = e->index == 1 ? core_bits : 0;
		e->ebx = e->index == 0 ? 1 : e->index == 1 ? cpus : 0;
		e->ecx = e->index < 2 ? (e->index + 1) << 8 | e->index : e->index;
		break;
	case 0x80000008: /* cores, and how many bits of the APIC ID name them */
		e->ecx = (e->ecx & ~0xffffu) | core_bits << 12 | (cpus - 1);
		break;
	case 0x8000001e:
		e->eax = index;
		e->ebx = index;
		e->ecx = 0;
		break;
	}
}

static void adapt(struct engine_vcpu *vcpu, struct kvm_cpuid2 *cpuid)
{
	const struct engine_board *board = vcpu->engine->board;
	for (u32 i = 0; i < cpuid->nent; i++) {
		struct kvm_cpuid_entry2 *e = &cpuid->entries[i];
		adapt_topology(vcpu, e);
		switch (e->function) {
		case 1:
			e->ecx |= LEAF1_ECX_X2APIC | LEAF1_ECX_TSC_DEADLINE | LEAF1_ECX_HYPERVISOR;
			e->ecx &= ~LEAF1_ECX_PDCM;
			if (board->nested != NESTING_VTX)
				e->ecx &= ~LEAF1_ECX_VMX;
			break;
		case 0x80000001:
			e->ecx &= ~LEAF81_ECX_PERFCTR;
			if (board->nested != NESTING_SVM)
				e->ecx &= ~LEAF81_ECX_SVM;
			break;
		case 0x8000000a:
			if (board->nested != NESTING_SVM)
				e->eax = e->ebx = e->ecx = e->edx = 0;
			break;
		case 0xa: /* performance monitoring */
		case 0x80000022:
			e->eax = e->ebx = e->ecx = e->edx = 0;
			break;
		}
	}
}

int kvm_set_msr(int vcpu_fd, u32 index, u64 value)
{
	struct kvm_one_msr msrs = { .nmsrs = 1, .entry = { .index = index, .data = value } };
	int done = kvm_ioctl(vcpu_fd, KVM_SET_MSRS, &msrs);
	return done < 0 ? done : done == 1 ? 0 : -EINVAL;
}

int kvm_cpuid_setup(struct engine_vcpu *vcpu, const struct kvm_cpuid2 *supported)
{
	size_t size = sizeof *supported + KVM_CPUID_MAX * sizeof supported->entries[0];
	struct kvm_cpuid2 *cpuid = malloc(size);
	if (!cpuid)
		return -ENOMEM;
	__builtin_memcpy(cpuid, supported, size);
	adapt(vcpu, cpuid);
	add_brand(cpuid);
	add_tsc_frequency(cpuid, kvm_ioctl(vcpu->fd, KVM_GET_TSC_KHZ, NULL));
	int err = kvm_ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid);
	free(cpuid);
	if (err < 0)
		return err;
	/* Not every vendor's KVM has every one of these; the guest does without. */
	kvm_set_msr(vcpu->fd, MSR_IA32_MISC_ENABLE, MISC_ENABLE_FAST_STRING);
	kvm_set_msr(vcpu->fd, MSR_IA32_MTRR_DEF_TYPE, MTRR_ENABLED_WRITE_BACK);
	if (vcpu->engine->board->nested == NESTING_VTX)
		return kvm_set_msr(vcpu->fd, MSR_IA32_FEATURE_CONTROL, FEATURE_CONTROL_LOCKED | FEATURE_CONTROL_VMX);
	return 0;
}
