/*
 * VMX instructions (SDM vol. 3, 31.3) but for VMREAD and VMWRITE. insn->cond is the basic exit reason of the
 * instruction.
 */
#include "base/trace.h"
#include "cpu/access.h"
#include "hv/vmx/vmx.h"

/* The 64-bit pointer in memory that VMXON, VMCLEAR and VMPTRLD take. */
static u64 pointer_operand(struct cpu *cpu, const struct insn *insn)
{
	return mem_read64(cpu, access_linear(cpu, insn, 8, MMU_READ));
}

static bool region_address_ok(const struct vmx *vmx, gpa_t address)
{
	return vmx_address_ok(vmx, address, VMCS_REGION_SIZE);
}

/* --- the current VMCS and its region --- */

void vmx_vmcs_store(struct vmx *vmx)
{
	if (vmx->current != VMCS_NONE)
		mem_write(vmx->cpu->mem, vmx->current, &vmx->vmcs, sizeof(vmx->vmcs));
	vmx->current = VMCS_NONE;
}

static void vmxon(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx = vmx_of(cpu);
	if (vmx->on) {
		if (cpu->cpl)
			cpu_raise_gp(cpu);
		vmx_fail(cpu, VMERR_VMXON_IN_ROOT);
		return;
	}
	const u64 allowed = FEATURE_CONTROL_LOCK | FEATURE_CONTROL_VMX;
	if (cpu->cpl || !vmx_cr0_fixed(vmx, cpu->cr0, false) || !vmx_cr4_fixed(vmx, cpu->cr4) ||
	    (vmx->feature_control & allowed) != allowed)
		cpu_raise_gp(cpu);
	gpa_t region = pointer_operand(cpu, insn);
	if (!region_address_ok(vmx, region) || mem_read_u32(cpu->mem, region) != VMCS_REVISION) {
		vmx_fail_invalid(cpu);
		return;
	}
	vmx->on = true;
	vmx->vmxon = region;
	vmx->current = VMCS_NONE;
	TRACE(vmx, "VMXON %llx", (unsigned long long)region);
	vmx_succeed(cpu);
}

static void vmxoff(struct cpu *cpu)
{
	struct vmx *vmx = vmx_of(cpu);
	vmx_vmcs_store(vmx);
	vmx->on = false;
	TRACE(vmx, "VMXOFF");
	vmx_succeed(cpu);
	vmx_release_init(cpu);
}

static void vmclear(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx = vmx_of(cpu);
	gpa_t region = pointer_operand(cpu, insn);
	if (!region_address_ok(vmx, region)) {
		vmx_fail(cpu, VMERR_VMCLEAR_ADDRESS);
		return;
	}
	if (region == vmx->vmxon) {
		vmx_fail(cpu, VMERR_VMCLEAR_VMXON_POINTER);
		return;
	}
	if (region == vmx->current) {
		vmx->vmcs.launch = VMCS_CLEAR;
		vmx_vmcs_store(vmx);
	} else {
		mem_write_u32(cpu->mem, region + VMCS_LAUNCH_OFFSET, VMCS_CLEAR);
	}
	TRACE(vmx, "VMCLEAR %llx", (unsigned long long)region);
	vmx_succeed(cpu);
}

/* Any VMCS can be made current; VM entry refuses shadow VMCSs. */
static bool revision_ok(u32 revision)
{
	return (revision & ~VMCS_SHADOW) == VMCS_REVISION;
}

static void vmptrld(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx = vmx_of(cpu);
	struct vmcs loaded;
	gpa_t region = pointer_operand(cpu, insn);
	if (!region_address_ok(vmx, region)) {
		vmx_fail(cpu, VMERR_VMPTRLD_ADDRESS);
		return;
	}
	if (region == vmx->vmxon) {
		vmx_fail(cpu, VMERR_VMPTRLD_VMXON_POINTER);
		return;
	}
	if (region == vmx->current) {
		/* Its region in memory is stale; the revision is the only part that software may write meanwhile. */
		if (!revision_ok(mem_read_u32(cpu->mem, region)))
			vmx_fail(cpu, VMERR_VMPTRLD_REVISION);
		else
			vmx_succeed(cpu);
		return;
	}
	if (!mem_read(cpu->mem, region, &loaded, sizeof(loaded)) || !revision_ok(loaded.revision)) {
		vmx_fail(cpu, VMERR_VMPTRLD_REVISION);
		return;
	}
	vmx_vmcs_store(vmx);
	vmx->vmcs = loaded;
	vmx->checked = 0;
	vmx->current = region;
	TRACE(vmx, "VMPTRLD %llx", (unsigned long long)region);
	vmx_succeed(cpu);
}

static void vmptrst(struct cpu *cpu, const struct insn *insn)
{
	mem_write64(cpu, access_linear(cpu, insn, 8, MMU_WRITE), vmx_of(cpu)->current);
	vmx_succeed(cpu);
}

/* --- entering and calling --- */

static void vmlaunch_or_resume(struct cpu *cpu, bool launch)
{
	struct vmx *vmx = vmx_of(cpu);
	if (vmx->current == VMCS_NONE || (vmx->vmcs.revision & VMCS_SHADOW))
		vmx_fail_invalid(cpu);
	else if (cpu->shadow == SHADOW_MOV_SS && cpu->shadow_rip == cpu->rip_start)
		vmx_fail(cpu, VMERR_ENTRY_MOV_SS);
	else if (launch && vmx->vmcs.launch != VMCS_CLEAR)
		vmx_fail(cpu, VMERR_VMLAUNCH_NOT_CLEAR);
	else if (!launch && vmx->vmcs.launch != VMCS_LAUNCHED)
		vmx_fail(cpu, VMERR_VMRESUME_NOT_LAUNCHED);
	else
		vmx_fail(cpu, vmx_enter(cpu, launch));
}

/* --- invalidation --- */

struct descriptor128 {
	u64 low, high;
};

static struct descriptor128 descriptor_operand(struct cpu *cpu, const struct insn *insn)
{
	struct descriptor128 d;
	access_read(cpu, access_linear(cpu, insn, sizeof(d), MMU_READ), &d, sizeof(d), cpu->mmu.cls);
	return d;
}

static void invept(struct cpu *cpu, const struct insn *insn)
{
	enum { SINGLE_CONTEXT = 1, ALL_CONTEXTS };
	u64 type = vmx_register_operand(cpu, insn->dst);
	if (type != SINGLE_CONTEXT && type != ALL_CONTEXTS) {
		vmx_fail(cpu, VMERR_INVALIDATE_OPERAND);
		return;
	}
	struct descriptor128 d = descriptor_operand(cpu, insn);
	if (type == ALL_CONTEXTS) {
		mmu_flush_all(&cpu->mmu);
	} else if (vmx_eptp_valid(vmx_of(cpu), d.low)) {
		mmu_flush_ept(&cpu->mmu, d.low);
	} else {
		vmx_fail(cpu, VMERR_INVALIDATE_OPERAND);
		return;
	}
	vmx_succeed(cpu);
}

static void invvpid(struct cpu *cpu, const struct insn *insn)
{
	enum { ADDRESS, SINGLE_CONTEXT, ALL_CONTEXTS, SINGLE_CONTEXT_BUT_GLOBALS };
	u64 type = vmx_register_operand(cpu, insn->dst);
	if (type > SINGLE_CONTEXT_BUT_GLOBALS) {
		vmx_fail(cpu, VMERR_INVALIDATE_OPERAND);
		return;
	}
	struct descriptor128 d = descriptor_operand(cpu, insn);
	u16 vpid = (u16)d.low;
	if (d.low >> 16 || (type != ALL_CONTEXTS && !vpid) ||
	    (type == ADDRESS && !vmx_canonical(vmx_of(cpu), d.high))) {
		vmx_fail(cpu, VMERR_INVALIDATE_OPERAND);
		return;
	}
	switch (type) {
	case ADDRESS:
		mmu_flush_vpid_page(&cpu->mmu, vpid, d.high);
		break;
	case SINGLE_CONTEXT:
		mmu_flush_vpid(&cpu->mmu, vpid, true);
		break;
	case ALL_CONTEXTS:
		mmu_flush_all(&cpu->mmu);
		break;
	default:
		mmu_flush_vpid(&cpu->mmu, vpid, false);
		break;
	}
	vmx_succeed(cpu);
}

/* --- VM functions (26.5.6) --- */

static bool eptp_switch(struct cpu *cpu, struct vmx *vmx)
{
	u32 index = (u32)cpu->reg[RCX];
	if (index >= 512)
		return false;
	u64 eptp = mem_read_u64(cpu->mem, vmx->vmcs.eptp_list + (u64)index * 8);
	if (!vmx_eptp_valid(vmx, eptp))
		return false;
	struct mmu_paging paging = cpu->mmu.paging;
	vmx->vmcs.eptp = paging.eptp = eptp;
	if (vmx_cpu2(vmx, CPU2_EPT_VE))
		vmx->vmcs.eptp_index = (u16)index;
	mmu_set_paging(&cpu->mmu, &paging);
	return true;
}

static void vmfunc(struct cpu *cpu, const struct insn *insn)
{
	enum { EPTP_SWITCHING = 0 };
	struct vmx *vmx = vmx_of(cpu);
	u32 function = (u32)cpu->reg[RAX];
	if (!cpu->non_root || !vmx_cpu2(vmx, CPU2_VM_FUNCTIONS) || function >= 64)
		cpu_raise(cpu, VEC_UD);
	bool enabled = vmx->vmcs.vm_functions >> function & 1;
	if (!enabled || function != EPTP_SWITCHING || !eptp_switch(cpu, vmx))
		vmx_exit_vmx_insn(cpu, insn);
}

/* --- dispatch --- */

/* VMX instructions other than VMXON need VMX operation; all need protected mode, and 64-bit code in IA-32e mode. */
static bool undefined(const struct cpu *cpu, u8 which)
{
	const struct vmx *vmx = vmx_of((struct cpu *)cpu);
	if (cpu->mode != CPU_LONG && cpu->mode != CPU_PROT)
		return true;
	if (which == EXIT_VMXON)
		return !(cpu->cr4 & CR4_VMXE);
	return !vmx->on;
}

void vmx_execute(struct cpu *cpu, const struct insn *insn)
{
	u8 which = insn->cond;
	if (which == EXIT_VMFUNC) {
		vmfunc(cpu, insn);
		return;
	}
	if (unlikely(undefined(cpu, which)))
		cpu_raise(cpu, VEC_UD);
	if (cpu->non_root && !vmx_field_shadowed(cpu, insn))
		vmx_exit_vmx_insn(cpu, insn);
	if (cpu->cpl && which != EXIT_VMXON)
		cpu_raise_gp(cpu);
	switch (which) {
	case EXIT_VMREAD:
		vmx_vmread(cpu, insn);
		break;
	case EXIT_VMWRITE:
		vmx_vmwrite(cpu, insn);
		break;
	case EXIT_VMRESUME:
		vmlaunch_or_resume(cpu, false);
		break;
	case EXIT_VMLAUNCH:
		vmlaunch_or_resume(cpu, true);
		break;
	case EXIT_VMPTRLD:
		vmptrld(cpu, insn);
		break;
	case EXIT_VMPTRST:
		vmptrst(cpu, insn);
		break;
	case EXIT_VMCLEAR:
		vmclear(cpu, insn);
		break;
	case EXIT_VMXON:
		vmxon(cpu, insn);
		break;
	case EXIT_VMXOFF:
		vmxoff(cpu);
		break;
	case EXIT_INVEPT:
		invept(cpu, insn);
		break;
	case EXIT_INVVPID:
		invvpid(cpu, insn);
		break;
	default:
		vmx_fail(cpu, VMERR_VMCALL_IN_ROOT);
		break;
	}
}
