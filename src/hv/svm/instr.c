/*
 * The instructions of AMD-V (APM vol. 3; vol. 2, 15.5, 15.16, 15.17).
 */
#include "base/trace.h"
#include "cpu/system.h"
#include "hv/svm/svm.h"

#include <string.h>

/* rAX in the width of the address size: a physical address, or INVLPGA's linear one. */
static u64 operand_rax(const struct cpu *cpu, const struct insn *insn)
{
	u64 rax = cpu->reg[RAX];
	return insn->adsize == 8 ? rax : insn->adsize == 4 ? (u32)rax : (u16)rax;
}

/* The VMCB's address. #GP if it is not aligned or beyond physical addresses. */
static gpa_t operand_vmcb(struct cpu *cpu, const struct insn *insn)
{
	gpa_t at = operand_rax(cpu, insn);
	if ((at & (PAGE_SIZE - 1)) || at >> cpu->config->phys_bits)
		cpu_raise_gp(cpu);
	return at;
}

/*
 * Where VMLOAD and VMSAVE go: a guest's address is the machine's own, unless they are virtualized (15.33.1), and then
 * nested paging has its say.
 */
static gpa_t save_area(struct cpu *cpu, const struct insn *insn, enum mmu_access access)
{
	const struct svm *svm = svm_of(cpu);
	gpa_t at = operand_vmcb(cpu, insn);
	if (!cpu->non_root || !(svm->vmcb.control.virt_ext & VIRT_EXT_VMLOAD_SAVE) || !svm_nested_paging(svm) ||
	    !svm_has(svm, FEATURE_VIRTUAL_VMLOAD))
		return at;
	struct mmu_result r = mmu_translate_gpa(&cpu->mmu, at, access);
	if (r.kind != MMU_OK)
		svm_stage2_fault(cpu, 0, &r);
	return r.gpa;
}

static void vmload(struct cpu *cpu, const struct insn *insn)
{
	const struct svm *svm = svm_of(cpu);
	struct vmcb_save s;
	if (!mem_read(cpu->mem, save_area(cpu, insn, MMU_READ) + offsetof(struct vmcb, save), &s, sizeof(s)))
		memset(&s, 0xff, sizeof(s));
	cpu->seg[SEG_FS] = svm_segment_load(svm, &s.fs);
	cpu->seg[SEG_GS] = svm_segment_load(svm, &s.gs);
	cpu->seg[SEG_TR] = svm_segment_load(svm, &s.tr);
	cpu->seg[SEG_LDTR] = svm_segment_load(svm, &s.ldtr);
	cpu->msr.star = s.star;
	cpu->msr.lstar = svm_canonical(svm, s.lstar);
	cpu->msr.cstar = svm_canonical(svm, s.cstar);
	cpu->msr.fmask = (u32)s.sfmask;
	cpu->msr.kernel_gs_base = svm_canonical(svm, s.kernel_gs_base);
	cpu->msr.sysenter_cs = (u32)s.sysenter_cs;
	cpu->msr.sysenter_esp = svm_canonical(svm, s.sysenter_esp);
	cpu->msr.sysenter_eip = svm_canonical(svm, s.sysenter_eip);
	cpu_update_mode(cpu);
}

static void vmsave(struct cpu *cpu, const struct insn *insn)
{
	gpa_t at = save_area(cpu, insn, MMU_WRITE) + offsetof(struct vmcb, save);
	const struct {
		struct vmcb_segment fs, gs;
	} data = { svm_segment_save(&cpu->seg[SEG_FS]), svm_segment_save(&cpu->seg[SEG_GS]) };
	struct vmcb_segment ldtr = svm_segment_save(&cpu->seg[SEG_LDTR]), tr = svm_segment_save(&cpu->seg[SEG_TR]);
	const u64 msrs[] = {
		cpu->msr.star,           cpu->msr.lstar,       cpu->msr.cstar,        cpu->msr.fmask,
		cpu->msr.kernel_gs_base, cpu->msr.sysenter_cs, cpu->msr.sysenter_esp, cpu->msr.sysenter_eip,
	};
	mem_write(cpu->mem, at + offsetof(struct vmcb_save, fs), &data, sizeof(data));
	mem_write(cpu->mem, at + offsetof(struct vmcb_save, ldtr), &ldtr, sizeof(ldtr));
	mem_write(cpu->mem, at + offsetof(struct vmcb_save, tr), &tr, sizeof(tr));
	mem_write(cpu->mem, at + offsetof(struct vmcb_save, star), msrs, sizeof(msrs));
}

/* STGI and CLGI: a guest's, unless intercepted, change its virtual flag if it has one, and the real one otherwise. */
static void set_gif(struct cpu *cpu, bool set)
{
	struct svm *svm = svm_of(cpu);
	if (!cpu->non_root || !svm_int_ctl(svm, V_GIF_ENABLE) || !svm_has(svm, FEATURE_VGIF)) {
		cpu_hold_events(cpu, !set);
		return;
	}
	u32 *ctl = &svm->vmcb.control.int_ctl;
	*ctl = set ? *ctl | (u32)V_GIF : *ctl & ~(u32)V_GIF;
	if (set)
		cpu_attend(cpu, ATTEND_HV);
}

static void invlpga(struct cpu *cpu, const struct insn *insn)
{
	u32 asid = (u32)cpu->reg[RCX];
	if (asid <= UINT16_MAX)
		mmu_flush_vpid_page(&cpu->mmu, (u16)asid, operand_rax(cpu, insn));
}

/* VMMCALL exits or is undefined, whatever the mode and the privilege. */
static NORETURN void vmmcall(struct cpu *cpu)
{
	if (cpu->non_root && svm_intercepts(svm_of(cpu), SVM_EXIT_VMMCALL))
		svm_exit_insn(cpu, SVM_EXIT_VMMCALL, 0, 0);
	cpu_raise(cpu, VEC_UD);
}

/* Checks in the order of the instructions' pages: #UD, #GP, then the intercept. */
static void check(struct cpu *cpu, const struct insn *insn)
{
	if (insn->cond == SVM_EXIT_SKINIT || !(cpu->efer & EFER_SVME) || cpu->mode == CPU_REAL || cpu->mode == CPU_V86)
		cpu_raise(cpu, VEC_UD);
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	if (cpu->non_root && svm_intercepts(svm_of(cpu), insn->cond))
		svm_exit_insn(cpu, insn->cond, insn->cond == SVM_EXIT_INVLPGA ? operand_rax(cpu, insn) : 0, 0);
}

void svm_execute(struct cpu *cpu, const struct insn *insn)
{
	if (insn->cond == SVM_EXIT_VMMCALL)
		vmmcall(cpu);
	check(cpu, insn);
	switch (insn->cond) {
	case SVM_EXIT_VMRUN:
		svm_enter(cpu, operand_vmcb(cpu, insn));
	case SVM_EXIT_VMLOAD:
		vmload(cpu, insn);
		break;
	case SVM_EXIT_VMSAVE:
		vmsave(cpu, insn);
		break;
	case SVM_EXIT_STGI:
		set_gif(cpu, true);
		break;
	case SVM_EXIT_CLGI:
		set_gif(cpu, false);
		break;
	default:
		invlpga(cpu, insn);
		break;
	}
}
