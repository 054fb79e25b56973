#include "x86/svm_exit.h"

#include <stdio.h>

static const char *const names[] = {
	[SVM_EXIT_INTR] = "interrupt",
	[SVM_EXIT_NMI] = "NMI",
	[SVM_EXIT_SMI] = "SMI",
	[SVM_EXIT_INIT] = "INIT signal",
	[SVM_EXIT_VINTR] = "virtual interrupt",
	[SVM_EXIT_CR0_SEL_WRITE] = "selective CR0 write",
	[SVM_EXIT_IDTR_READ] = "IDTR read",
	[SVM_EXIT_GDTR_READ] = "GDTR read",
	[SVM_EXIT_LDTR_READ] = "LDTR read",
	[SVM_EXIT_TR_READ] = "TR read",
	[SVM_EXIT_IDTR_WRITE] = "IDTR write",
	[SVM_EXIT_GDTR_WRITE] = "GDTR write",
	[SVM_EXIT_LDTR_WRITE] = "LDTR write",
	[SVM_EXIT_TR_WRITE] = "TR write",
	[SVM_EXIT_RDTSC] = "RDTSC",
	[SVM_EXIT_RDPMC] = "RDPMC",
	[SVM_EXIT_PUSHF] = "PUSHF",
	[SVM_EXIT_POPF] = "POPF",
	[SVM_EXIT_CPUID] = "CPUID",
	[SVM_EXIT_RSM] = "RSM",
	[SVM_EXIT_IRET] = "IRET",
	[SVM_EXIT_SWINT] = "INT n",
	[SVM_EXIT_INVD] = "INVD",
	[SVM_EXIT_PAUSE] = "PAUSE",
	[SVM_EXIT_HLT] = "HLT",
	[SVM_EXIT_INVLPG] = "INVLPG",
	[SVM_EXIT_INVLPGA] = "INVLPGA",
	[SVM_EXIT_IOIO] = "I/O instruction",
	[SVM_EXIT_MSR] = "RDMSR or WRMSR",
	[SVM_EXIT_TASK_SWITCH] = "task switch",
	[SVM_EXIT_FERR_FREEZE] = "FERR freeze",
	[SVM_EXIT_SHUTDOWN] = "shutdown",
	[SVM_EXIT_VMRUN] = "VMRUN",
	[SVM_EXIT_VMMCALL] = "VMMCALL",
	[SVM_EXIT_VMLOAD] = "VMLOAD",
	[SVM_EXIT_VMSAVE] = "VMSAVE",
	[SVM_EXIT_STGI] = "STGI",
	[SVM_EXIT_CLGI] = "CLGI",
	[SVM_EXIT_SKINIT] = "SKINIT",
	[SVM_EXIT_RDTSCP] = "RDTSCP",
	[SVM_EXIT_ICEBP] = "INT1",
	[SVM_EXIT_WBINVD] = "WBINVD",
	[SVM_EXIT_MONITOR] = "MONITOR",
	[SVM_EXIT_MWAIT] = "MWAIT",
	[SVM_EXIT_MWAIT_CONDITIONAL] = "MWAIT, armed",
	[SVM_EXIT_XSETBV] = "XSETBV",
	[SVM_EXIT_RDPRU] = "RDPRU",
	[SVM_EXIT_INVPCID] = "INVPCID",
	[SVM_EXIT_SLOT_NPF] = "nested page fault",
	[SVM_EXIT_SLOT_INCOMPLETE_IPI] = "AVIC incomplete IPI",
	[SVM_EXIT_SLOT_NOACCEL] = "AVIC access not accelerated",
	[SVM_EXIT_SLOT_INVALID] = "invalid VMCB",
};

unsigned svm_exit_slot(u64 code)
{
	if (code < SVM_EXIT_SLOT_NPF)
		return (unsigned)code;
	if (code >= SVM_EXIT_NPF && code <= SVM_EXIT_AVIC_NOACCEL)
		return SVM_EXIT_SLOT_NPF + (unsigned)(code - SVM_EXIT_NPF);
	return SVM_EXIT_SLOT_INVALID;
}

const char *svm_exit_name(unsigned slot, char buffer[32])
{
	static const char *const ranges[] = { "CR%u read", "CR%u write", "DR%u read", "DR%u write" };
	if (slot < ARRAY_SIZE(names) && names[slot])
		return names[slot];
	if (slot < SVM_EXIT_EXCEPTION)
		snprintf(buffer, 32, ranges[slot / 16], slot % 16);
	else if (slot < SVM_EXIT_INTR)
		snprintf(buffer, 32, "exception %u", slot - SVM_EXIT_EXCEPTION);
	else
		snprintf(buffer, 32, "code %#x", slot);
	return buffer;
}
