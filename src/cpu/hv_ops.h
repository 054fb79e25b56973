/*
 * What the CPU asks the virtualization extensions. src/hv fills it (vmx/ or svm/); the CPU calls it. Functions marked
 * "may exit" do not return if they cause a VM exit: they load the host's state and end in cpu_resume(). All but
 * `execute`, `msr_*`, `*_valid` and `reset` are called in non-root operation only.
 *
 * On a VM exit the guest's RIP is that of the running instruction (rip_start) for intercepts and faults.
 */
#ifndef STRATA_CPU_HV_OPS_H
#define STRATA_CPU_HV_OPS_H

#include "cpu/cpu.h"
#include "cpu/insn.h"

struct hv_ops {
	int (*init)(struct cpu *cpu); /* allocates hv_state */
	void (*destroy)(struct cpu *cpu);
	void (*reset)(struct cpu *cpu, bool init_signal);

	/* VMXON, VMREAD, VMRUN…: in root and non-root. Checks everything itself, #UD included. insn->cond: see
	 * insn_vmx.c. */
	void (*execute)(struct cpu *cpu, const struct insn *insn);

	/* The row names an unconditional or control-bit exit: CPUID, HLT, RDTSC, PAUSE, … May exit. After #UD and CPL
	 * checks. */
	void (*instruction)(struct cpu *cpu, const struct insn *insn);
	/* Instruction exits with details. May exit. */
	void (*io)(struct cpu *cpu, const struct insn *insn, u16 port, unsigned size, bool in, u64 linear);
	void (*msr)(struct cpu *cpu, u32 msr, bool write);
	void (*invlpg)(struct cpu *cpu, u64 va);
	void (*descriptor_table)(struct cpu *cpu, const struct insn *insn, u64 displacement); /* LGDT…STR */
	void (*dr_access)(struct cpu *cpu, unsigned dr, bool write, unsigned gpr);
	/* MOV from CR: may exit; may change what is read (masks and shadows). cr: 0, 2, 3, 4, 8. */
	void (*cr_read)(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value);
	/* MOV to CR, CLTS (value with TS clear), LMSW: may exit; may replace bits owned by the host. */
	void (*cr_write)(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value);
	void (*clts)(struct cpu *cpu, u64 *value);
	void (*lmsw)(struct cpu *cpu, u16 source, bool memory, u64 linear, u64 *value);
	/* SMSW: may exit; the CR0 to read, through mask and shadow. */
	u64 (*cr0_shadowed)(struct cpu *cpu);
	void (*task_switch)(struct cpu *cpu, u16 selector, unsigned source); /* source: SDM table 28-2. May exit */

	/* TSC as the guest sees it, given root's. May exit. */
	u64 (*tsc)(struct cpu *cpu, u64 root_tsc);

	/* Events. May exit. */
	void (*exception)(struct cpu *cpu, const struct event *event);
	void (*triple_fault)(struct cpu *cpu); /* may exit; else the CPU shuts down */
	void (*init_signal)(struct cpu *cpu);  /* may exit; else init_blocked is asked */
	/* INIT that did not exit. true: it is blocked now, and hv sets ATTEND_INIT again once it is not. */
	bool (*init_blocked)(struct cpu *cpu);
	void (*sipi)(struct cpu *cpu, u8 vector);
	void (*nmi)(struct cpu *cpu);
	void (*smi)(struct cpu *cpu); /* may be NULL */
	/* An external interrupt is pending. May exit; returns true if the interrupt is to be delivered when IF allows.
	 */
	bool (*interrupt)(struct cpu *cpu);
	/* ATTEND_HV at an instruction boundary: interrupt and NMI windows, preemption timer, MTF. May exit. */
	void (*attention)(struct cpu *cpu);
	/*
	 * ATTEND_HV where no external interrupt came: events that hv itself has for the guest. `shadow`: STI or MOV SS
	 * holds them back. Exits, or delivers one and returns true, or returns false. May be NULL.
	 */
	bool (*virtual_event)(struct cpu *cpu, bool shadow);
	/* Does the guest's IRET end NMI blocking or virtual-NMI blocking? Called by IRET in non-root. */
	void (*iret)(struct cpu *cpu);

	/* Stage-2 fault of an access; always exits, or raises an exception. */
	void (*stage2_fault)(struct cpu *cpu, u64 va, const struct mmu_result *fault);

	/* MSRs that belong to the extensions (IA32_FEATURE_CONTROL, IA32_VMX_*). false: #GP. */
	bool (*msr_read)(struct cpu *cpu, u32 msr, u64 *value);
	bool (*msr_write)(struct cpu *cpu, u32 msr, u64 value);
	/* CR0 and CR4 bits fixed by VMX operation, EFER.SVME; false: #GP. In root and non-root. */
	bool (*cr0_valid)(struct cpu *cpu, u64 value);
	bool (*cr4_valid)(struct cpu *cpu, u64 value);
	bool (*efer_valid)(struct cpu *cpu, u64 value); /* may be NULL */
	/*
	 * A virtual APIC; may all be NULL. Accesses to mmu.paging.apic_page: apic_access comes first, before anything
	 * is done, and may exit; it does for every fetch. RDMSR and WRMSR of 800h to 8FFh: true if the virtual APIC
	 * took it, which may exit or raise #GP.
	 */
	void (*apic_access)(struct cpu *cpu, u64 linear, u64 offset, unsigned size, enum mmu_access access);
	void (*apic_read)(struct cpu *cpu, u64 offset, void *buffer, unsigned size);
	void (*apic_write)(struct cpu *cpu, u64 offset, const void *buffer, unsigned size);
	bool (*apic_msr_read)(struct cpu *cpu, u32 msr, u64 *value);
	bool (*apic_msr_write)(struct cpu *cpu, u32 msr, u64 value);
};

extern const struct hv_ops vmx_ops, svm_ops; /* src/hv; the engine hands one to cpu->hv */

#endif
