/*
 * System-management mode (SDM vol. 3, chapter 33). KVM's CPUs have it, so an SMI needs a handler: without one they
 * would run on in whatever memory is at 3000:8000. What a PC's firmware does first of all is done here before the guest
 * runs: each CPU has an SMBASE of its own, in memory that only system-management mode sees. The handler returns at
 * once, so an SMI has no effect that a guest sees, as on the soft engine, which has no such mode.
 *
 *	SMBASE + 8000h         the handler: RSM
 *	SMBASE + FE00h..FFFFh  where the CPU saves its state
 *
 * The CPUs' areas overlap: a stride of 1 KiB leaves every handler outside every other CPU's saved state.
 */
#include "engine/kvm.h"

#include <errno.h>
#include <sys/mman.h>

#define MSR_IA32_SMBASE 0x9e

/* Where chip sets have it: beneath the display's memory. The second address space is the one of this mode. */
enum { SMRAM_BASE = 0xa0000, SMRAM_SIZE = 0x20000, SMRAM_STRIDE = 0x400, SMRAM_SLOT = 1 << 16 };
enum { HANDLER = 0x8000, SAVED_STATE_END = 0x10000 }; /* from SMBASE */
enum { SMRAM_CPUS = (SMRAM_SIZE - (SAVED_STATE_END - HANDLER)) / SMRAM_STRIDE + 1 };

static const u8 handler[] = { 0x0f, 0xaa }; /* rsm */

int kvm_smm_init(struct engine *engine)
{
	if (kvm_ioctl(engine->vm_fd, KVM_CHECK_EXTENSION, (void *)KVM_CAP_X86_SMM) <= 0)
		return 0;
	if (engine->board->cpus > SMRAM_CPUS)
		return -EINVAL;
	u8 *smram = mmap(NULL, SMRAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (smram == MAP_FAILED)
		return -errno;
	engine->smram = smram;
	for (unsigned i = 0; i < engine->board->cpus; i++)
		__builtin_memcpy(smram + i * SMRAM_STRIDE, handler, sizeof handler);
	struct kvm_userspace_memory_region region = { .slot = SMRAM_SLOT,
						      .guest_phys_addr = SMRAM_BASE,
						      .memory_size = SMRAM_SIZE,
						      .userspace_addr = (u64)(uintptr_t)smram };
	return kvm_ioctl(engine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

int kvm_smm_init_vcpu(struct engine_vcpu *vcpu)
{
	if (!vcpu->engine->smram)
		return 0;
	return kvm_set_msr(vcpu->fd, MSR_IA32_SMBASE, SMRAM_BASE - HANDLER + vcpu->index * SMRAM_STRIDE);
}

void kvm_smm_destroy(struct engine *engine)
{
	if (engine->smram)
		munmap(engine->smram, SMRAM_SIZE);
}
