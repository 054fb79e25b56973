/*
 * VT-x instructions on their way to hv. insn->cond holds the basic exit reason of the instruction, which is its name
 * for hv->execute() (and what it exits with in non-root operation).
 */
#include "cpu/event.h"
#include "cpu/hv_ops.h"
#include "cpu/insn.h"
#include "x86/exit_reason.h"

bool vmx_select(const struct decode *d, struct insn *insn);

static void exec_vmx(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu->hv)
		cpu_raise(cpu, VEC_UD);
	cpu->hv->execute(cpu, insn);
}

static u8 vmx_exit_of(ZydisMnemonic mnemonic)
{
	switch (mnemonic) {
	case ZYDIS_MNEMONIC_INVEPT:
		return EXIT_INVEPT;
	case ZYDIS_MNEMONIC_INVVPID:
		return EXIT_INVVPID;
	case ZYDIS_MNEMONIC_VMCALL:
		return EXIT_VMCALL;
	case ZYDIS_MNEMONIC_VMCLEAR:
		return EXIT_VMCLEAR;
	case ZYDIS_MNEMONIC_VMLAUNCH:
		return EXIT_VMLAUNCH;
	case ZYDIS_MNEMONIC_VMPTRLD:
		return EXIT_VMPTRLD;
	case ZYDIS_MNEMONIC_VMPTRST:
		return EXIT_VMPTRST;
	case ZYDIS_MNEMONIC_VMREAD:
		return EXIT_VMREAD;
	case ZYDIS_MNEMONIC_VMRESUME:
		return EXIT_VMRESUME;
	case ZYDIS_MNEMONIC_VMWRITE:
		return EXIT_VMWRITE;
	case ZYDIS_MNEMONIC_VMXOFF:
		return EXIT_VMXOFF;
	case ZYDIS_MNEMONIC_VMXON:
		return EXIT_VMXON;
	default:
		return EXIT_VMFUNC;
	}
}

bool vmx_select(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_vmx;
	insn->cond = vmx_exit_of(d->zi->mnemonic);
	/* VMREAD and VMWRITE are frequent and change nothing that a block depends on. */
	if (insn->cond != EXIT_VMREAD && insn->cond != EXIT_VMWRITE)
		insn->flags |= INSN_ENDS;
	return true;
}
