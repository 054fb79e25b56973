#include "hv/svm/svm.h"

#include <errno.h>
#include <stdlib.h>

static int init(struct cpu *cpu)
{
	struct svm *svm = calloc(1, sizeof(*svm));
	if (!svm)
		return -ENOMEM;
	svm->cpu = cpu;
	svm->linear_bits = svm_has(svm, FEATURE_LA57) ? 57 : 48;
	cpu->hv_state = svm;
	return 0;
}

static void destroy(struct cpu *cpu)
{
	free(cpu->hv_state);
	cpu->hv_state = NULL;
}

/* INIT leaves the MSRs alone (APM vol. 2, table 14-1). */
static void reset(struct cpu *cpu, bool init_signal)
{
	struct svm *svm = svm_of(cpu);
	if (init_signal)
		return;
	svm->vm_cr = svm->hsave = svm->key = 0;
	svm->tsc_ratio = TSC_RATIO_ONE;
}

static bool any_value(struct cpu *cpu, u64 value)
{
	return true;
}

const struct hv_ops svm_ops = {
	.init = init,
	.destroy = destroy,
	.reset = reset,
	.execute = svm_execute,
	.instruction = svm_instruction,
	.io = svm_io,
	.msr = svm_msr,
	.invlpg = svm_invlpg,
	.descriptor_table = svm_descriptor_table,
	.dr_access = svm_dr_access,
	.cr_read = svm_cr_read,
	.cr_write = svm_cr_write,
	.clts = svm_clts,
	.lmsw = svm_lmsw,
	.cr0_shadowed = svm_cr0_shadowed,
	.task_switch = svm_task_switch,
	.tsc = svm_tsc,
	.exception = svm_exception,
	.triple_fault = svm_triple_fault,
	.init_signal = svm_init_signal,
	.init_blocked = svm_init_blocked,
	.sipi = svm_sipi,
	.nmi = svm_nmi,
	.smi = svm_smi,
	.interrupt = svm_interrupt,
	.attention = svm_attention,
	.virtual_event = svm_virtual_event,
	.iret = svm_iret,
	.stage2_fault = svm_stage2_fault,
	.msr_read = svm_msr_read,
	.msr_write = svm_msr_write,
	.cr0_valid = any_value,
	.cr4_valid = any_value,
	.efer_valid = svm_efer_valid,
	.apic_access = svm_apic_access,
	.apic_read = svm_apic_read,
	.apic_write = svm_apic_write,
	.apic_msr_read = svm_apic_msr_read,
	.apic_msr_write = svm_apic_msr_write,
};
