#include "hv/vmx/vmx.h"

#include <errno.h>
#include <stdlib.h>

static int init(struct cpu *cpu)
{
	struct vmx *vmx = calloc(1, sizeof(*vmx));
	if (!vmx)
		return -ENOMEM;
	vmx->cpu = cpu;
	vmx->current = VMCS_NONE;
	vmx_caps_init(vmx);
	cpu->hv_state = vmx;
	return 0;
}

static void destroy(struct cpu *cpu)
{
	free(cpu->hv_state);
	cpu->hv_state = NULL;
}

/*
 * RESET forgets everything, the current VMCS too: what was not written back by VMCLEAR is lost, as in silicon. INIT is
 * blocked in VMX root operation and exits in non-root operation, so that it comes here outside VMX operation only.
 */
static void reset(struct cpu *cpu, bool init_signal)
{
	struct vmx *vmx = vmx_of(cpu);
	vmx->on = vmx->init_held = false;
	vmx->current = VMCS_NONE;
	vmx->timer_armed = 0;
	cpu->mmu.pml_index = NULL;
	vmx->virtual_nmi_blocked = vmx->mtf_due = vmx->iret_unblocked = false;
	vmx->apic_exit_due = vmx->virtual_interrupt = false;
}

const struct hv_ops vmx_ops = {
	.init = init,
	.destroy = destroy,
	.reset = reset,
	.execute = vmx_execute,
	.instruction = vmx_instruction,
	.io = vmx_io,
	.msr = vmx_msr,
	.invlpg = vmx_invlpg,
	.descriptor_table = vmx_descriptor_table,
	.dr_access = vmx_dr_access,
	.cr_read = vmx_cr_read,
	.cr_write = vmx_cr_write,
	.clts = vmx_clts,
	.lmsw = vmx_lmsw,
	.cr0_shadowed = vmx_cr0_shadowed,
	.task_switch = vmx_task_switch,
	.tsc = vmx_tsc,
	.exception = vmx_exception,
	.triple_fault = vmx_triple_fault,
	.init_signal = vmx_init_signal,
	.init_blocked = vmx_init_blocked,
	.sipi = vmx_sipi,
	.nmi = vmx_nmi,
	.interrupt = vmx_interrupt,
	.attention = vmx_attention,
	.virtual_event = vmx_virtual_event,
	.iret = vmx_iret,
	.stage2_fault = vmx_stage2_fault,
	.msr_read = vmx_msr_read,
	.msr_write = vmx_msr_write,
	.cr0_valid = vmx_cr0_valid,
	.cr4_valid = vmx_cr4_valid,
	.apic_access = vmx_apic_access,
	.apic_read = vmx_apic_read,
	.apic_write = vmx_apic_write,
	.apic_msr_read = vmx_apic_msr_read,
	.apic_msr_write = vmx_apic_msr_write,
};
