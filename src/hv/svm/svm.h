/*
 * AMD-V of one CPU, private to this folder: the twin of src/hv/vmx. The files follow APM vol. 2, chapter 15:
 *
 *   msr.c          MSRs of the extension, EFER.SVME            15.4, 15.30
 *   instr.c        instructions, GIF                           15.5, 15.17
 *   check.c        consistency checks of VMRUN                 15.5.1
 *   entry.c        VMRUN: saving the host, loading the guest,  15.5.1, 15.16, 15.20, 15.25
 *                  event injection
 *   exit.c         #VMEXIT: recording, saving, loading         15.6
 *   exit_insn.c    which instructions exit                     15.8 to 15.11, 15.33
 *   exit_event.c   which events exit, virtual interrupts       15.12, 15.13, 15.21
 *   avic.c         virtual APIC, virtual IPIs                  15.29
 *   svm.c          the ops table, life cycle
 *
 * VMRUN reads the VMCB once into `vmcb`; what runs, and what #VMEXIT writes back, is that copy. The host's state lies
 * here too: the save area that VM_HSAVE_PA names is the processor's own, and stays untouched.
 *
 * Owner and thread: the CPU's own thread.
 */
#ifndef STRATA_HV_SVM_H
#define STRATA_HV_SVM_H

#include "cpu/cpu.h"
#include "cpu/event.h"
#include "cpu/hv_ops.h"
#include "x86/feature.h"
#include "x86/svm_exit.h"
#include "x86/vmcb.h"

#define SVM_INVALID UINT64_MAX /* exit code of a VMRUN whose checks fail */

struct svm_exit {
	u64 code, info1, info2;
	u64 rip;      /* what goes to the guest's RIP */
	u64 next_rip; /* 0 unless an instruction exits */
	bool bytes;   /* the instruction's bytes are recorded (decode assists) */
	bool no_vectoring;
};

/* What VMRUN saves and #VMEXIT loads. */
struct svm_host {
	struct segment es, cs, ss, ds;
	struct table_register gdtr, idtr;
	u64 efer, cr0, cr3, cr4, rflags, rip, rsp, rax;
	u64 pat;                                          /* with nested paging */
	u64 debugctl, br_from, br_to, last_from, last_to; /* with LBR virtualization */
};

struct svm {
	struct cpu *cpu;
	u64 vm_cr, hsave, key;
	u64 tsc_ratio;
	u8 linear_bits; /* of the widest linear address */
	/* The running guest (cpu->non_root). */
	gpa_t vmcb_at;
	struct vmcb vmcb;
	struct svm_host host;
	bool guest_pae; /* the guest uses PAE paging without nested paging: pdpte was read from its CR3 */
	u64 pdpte[4];
	u16 pauses_left;
	u64 last_pause; /* counters.instructions at the last PAUSE */
	bool avic_exit_due;
	struct svm_exit avic_exit; /* behind the running instruction */
};

static inline struct svm *svm_of(struct cpu *cpu)
{
	return cpu->hv_state;
}

static inline bool svm_has(const struct svm *svm, enum feature f)
{
	return svm->cpu->config->features[f / 8] >> f % 8 & 1;
}

/* Does the guest's hypervisor want the exit with this code? */
static inline bool svm_intercepts(const struct svm *svm, unsigned code)
{
	return svm->vmcb.control.intercept[code / 32] >> code % 32 & 1;
}

static inline bool svm_int_ctl(const struct svm *svm, u64 bit)
{
	return svm->vmcb.control.int_ctl & bit;
}

/* Does the guest have branch records of its own (15.23)? */
static inline bool svm_virtual_lbr(const struct svm *svm)
{
	return (svm->vmcb.control.virt_ext & VIRT_EXT_LBR) && svm_has(svm, FEATURE_LBRV);
}

static inline bool svm_nested_paging(const struct svm *svm)
{
	return svm->vmcb.control.nested_ctl & NESTED_PAGING;
}

/* Does the guest have an APIC of its own (15.29)? */
static inline bool svm_avic(const struct svm *svm)
{
	return svm_int_ctl(svm, AVIC_ENABLE) && svm_has(svm, FEATURE_AVIC);
}

/* Does it reach it by MSRs, and in memory not at all? */
static inline bool svm_x2avic(const struct svm *svm)
{
	return svm_avic(svm) && svm_int_ctl(svm, X2AVIC_ENABLE) && svm_has(svm, FEATURE_X2AVIC);
}

/* Guest mode execute trap: no supervisor of the guest executes user pages of the nested page tables. */
static inline bool svm_gmet(const struct svm *svm)
{
	return (svm->vmcb.control.nested_ctl & NESTED_GMET) && svm_has(svm, FEATURE_GMET);
}

/* --- msr.c --- */

bool svm_msr_read(struct cpu *cpu, u32 msr, u64 *value);
bool svm_msr_write(struct cpu *cpu, u32 msr, u64 value);
bool svm_efer_valid(struct cpu *cpu, u64 value);

/* --- check.c --- */

struct svm_check {
	const char *name;
	bool (*holds)(const struct svm *svm);
};

/* The first consistency check that does not hold; NULL if all do. */
const struct svm_check *svm_check(const struct svm *svm);
unsigned svm_check_count(void);

/* --- instr.c --- */

void svm_execute(struct cpu *cpu, const struct insn *insn);

/* --- entry.c --- */

NORETURN void svm_enter(struct cpu *cpu, gpa_t vmcb);
/* A segment as the VMCB has it, and back. */
struct segment svm_segment_load(const struct svm *svm, const struct vmcb_segment *from);
struct vmcb_segment svm_segment_save(const struct segment *from);
/* Bases are made canonical. */
u64 svm_canonical(const struct svm *svm, u64 base);

/* --- exit.c --- */

NORETURN void svm_exit(struct cpu *cpu, const struct svm_exit *x);
/* VMRUN whose checks fail. */
NORETURN void svm_exit_invalid(struct cpu *cpu);
/* The running instruction exits. */
NORETURN void svm_exit_insn(struct cpu *cpu, unsigned code, u64 info1, u64 info2);
/* Exits between instructions. */
NORETURN void svm_exit_boundary(struct cpu *cpu, unsigned code);

/* --- exit_insn.c --- */

void svm_instruction(struct cpu *cpu, const struct insn *insn);
void svm_io(struct cpu *cpu, const struct insn *insn, u16 port, unsigned size, bool in, u64 linear);
void svm_msr(struct cpu *cpu, u32 msr, bool write);
void svm_invlpg(struct cpu *cpu, u64 va);
void svm_descriptor_table(struct cpu *cpu, const struct insn *insn, u64 displacement);
void svm_dr_access(struct cpu *cpu, unsigned dr, bool write, unsigned gpr);
void svm_cr_read(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value);
void svm_cr_write(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value);
void svm_clts(struct cpu *cpu, u64 *value);
void svm_lmsw(struct cpu *cpu, u16 source, bool memory, u64 linear, u64 *value);
u64 svm_cr0_shadowed(struct cpu *cpu);
void svm_task_switch(struct cpu *cpu, u16 selector, unsigned source);
u64 svm_tsc(struct cpu *cpu, u64 root_tsc);

/* --- exit_event.c --- */

/* EVENTINJ's and EXITINTINFO's form of an event. */
u64 svm_event_info(const struct event *event);
void svm_exception(struct cpu *cpu, const struct event *event);
void svm_triple_fault(struct cpu *cpu);
void svm_init_signal(struct cpu *cpu);
bool svm_init_blocked(struct cpu *cpu);
void svm_sipi(struct cpu *cpu, u8 vector);
void svm_nmi(struct cpu *cpu);
void svm_smi(struct cpu *cpu);
bool svm_interrupt(struct cpu *cpu);
void svm_attention(struct cpu *cpu);
bool svm_virtual_event(struct cpu *cpu, bool shadow);
void svm_iret(struct cpu *cpu);
void svm_stage2_fault(struct cpu *cpu, u64 va, const struct mmu_result *fault);

/* --- avic.c: with AVIC alone --- */

/* The exit that the guest's last access to its APIC asked for, if any. */
void svm_avic_exit_if_due(struct cpu *cpu);
/* The vector of the interrupt that priorities let in, or -1. */
int svm_avic_pending(const struct svm *svm);
/* It is delivered: from now on it is in service. */
void svm_avic_accept(struct svm *svm, u8 vector);
/* The guest's TPR, and with it V_TPR. The caller sees to what that lets in. */
void svm_avic_set_tpr(struct svm *svm, u8 tpr);
void svm_apic_access(struct cpu *cpu, u64 linear, u64 offset, unsigned size, enum mmu_access access);
void svm_apic_read(struct cpu *cpu, u64 offset, void *buffer, unsigned size);
void svm_apic_write(struct cpu *cpu, u64 offset, const void *buffer, unsigned size);
bool svm_apic_msr_read(struct cpu *cpu, u32 msr, u64 *value);
bool svm_apic_msr_write(struct cpu *cpu, u32 msr, u64 value);

#endif
