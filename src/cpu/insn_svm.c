/*
 * AMD-V instructions on their way to hv. insn->cond holds the exit code of the instruction, which is its name for
 * hv->execute() (and what it exits with in guest mode).
 */
#include "cpu/event.h"
#include "cpu/hv_ops.h"
#include "cpu/insn.h"
#include "x86/svm_exit.h"

bool svm_select(const struct decode *d, struct insn *insn);
bool select_rsm(const struct decode *d, struct insn *insn);

static void exec_svm(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu->hv)
		cpu_raise(cpu, VEC_UD);
	cpu->hv->execute(cpu, insn);
}

static u8 svm_exit_of(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_CLGI:
		return SVM_EXIT_CLGI;
	case ZYDIS_MNEMONIC_INVLPGA:
		return SVM_EXIT_INVLPGA;
	case ZYDIS_MNEMONIC_STGI:
		return SVM_EXIT_STGI;
	case ZYDIS_MNEMONIC_VMLOAD:
		return SVM_EXIT_VMLOAD;
	case ZYDIS_MNEMONIC_VMMCALL:
		return SVM_EXIT_VMMCALL;
	case ZYDIS_MNEMONIC_VMRUN:
		return SVM_EXIT_VMRUN;
	case ZYDIS_MNEMONIC_VMSAVE:
		return SVM_EXIT_VMSAVE;
	default:
		return SVM_EXIT_SKINIT;
	}
}

bool svm_select(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_svm;
	insn->cond = svm_exit_of(d->zi->mnemonic);
	insn->flags |= INSN_ENDS;
	return true;
}

static void exec_rsm(struct cpu *cpu, const struct insn *insn)
{
	cpu_raise(cpu, VEC_UD);
}

bool select_rsm(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_rsm;
	insn->flags |= INSN_ENDS;
	return true;
}
