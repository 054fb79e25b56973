/*
 * MSRs of AMD-V (APM vol. 2, 15.30), with AVIC's doorbell (15.29.8.2), which cannot be read; EFER.SVME. Firmware left
 * VM_CR unlocked.
 */
#include "hv/svm/svm.h"

bool svm_msr_read(struct cpu *cpu, u32 msr, u64 *value)
{
	const struct svm *svm = svm_of(cpu);
	switch (msr) {
	case MSR_VM_CR:
		*value = svm->vm_cr;
		return true;
	case MSR_VM_HSAVE_PA:
		*value = svm->hsave;
		return true;
	case MSR_TSC_RATIO:
		*value = svm->tsc_ratio;
		return svm_has(svm, FEATURE_TSC_RATE_MSR);
	case MSR_IGNNE:
		*value = 0;
		return true;
	case MSR_SVM_KEY:
		*value = 0; /* write-only: reads as zero */
		return svm_has(svm, FEATURE_SVM_LOCK);
	default:
		return false;
	}
}

/* Once LOCK is set, it and SVMDIS stay; SVMDIS cannot be set while SVM is in use. */
static bool write_vm_cr(struct svm *svm, u64 value)
{
	const u64 locked = VM_CR_LOCK | VM_CR_SVMDIS;
	if (value & ~VM_CR_VALID)
		return false;
	if (svm->vm_cr & VM_CR_LOCK)
		value = (value & ~locked) | (svm->vm_cr & locked);
	if ((value & VM_CR_SVMDIS) && (svm->cpu->efer & EFER_SVME))
		return false;
	svm->vm_cr = value;
	return true;
}

/* The key is set while VM_CR is unlocked; the same key, unless zero, unlocks it (15.31). */
static void write_key(struct svm *svm, u64 value)
{
	if (!(svm->vm_cr & VM_CR_LOCK))
		svm->key = value;
	else if (svm->key && svm->key == value)
		svm->vm_cr &= ~VM_CR_LOCK;
}

bool svm_msr_write(struct cpu *cpu, u32 msr, u64 value)
{
	struct svm *svm = svm_of(cpu);
	switch (msr) {
	case MSR_VM_CR:
		return write_vm_cr(svm, value);
	case MSR_VM_HSAVE_PA:
		if (value & (PAGE_SIZE - 1) || value >> cpu->config->phys_bits)
			return false;
		svm->hsave = value;
		return true;
	case MSR_TSC_RATIO:
		if (!svm_has(svm, FEATURE_TSC_RATE_MSR) || (value & ~TSC_RATIO_VALID))
			return false;
		svm->tsc_ratio = value;
		return true;
	case MSR_IGNNE:
		return !(value & ~BIT(0));
	case MSR_DOORBELL:
		if (!svm_has(svm, FEATURE_AVIC) || value > 0xff)
			return false;
		if (cpu->platform->doorbell)
			cpu->platform->doorbell(cpu->platform->opaque, (u32)value);
		return true;
	case MSR_SVM_KEY:
		if (!svm_has(svm, FEATURE_SVM_LOCK))
			return false;
		write_key(svm, value);
		return true;
	default:
		return false;
	}
}

/* Without SVM there is no GIF: it counts as set again. */
bool svm_efer_valid(struct cpu *cpu, u64 value)
{
	if ((value & EFER_SVME) && (svm_of(cpu)->vm_cr & VM_CR_SVMDIS))
		return false;
	if (!(value & EFER_SVME))
		cpu_hold_events(cpu, false);
	return true;
}
