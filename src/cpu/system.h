/*
 * System-level services that several instruction families and hv share: segment loads, control registers, MSRs, CPUID.
 */
#ifndef STRATA_CPU_SYSTEM_H
#define STRATA_CPU_SYSTEM_H

#include "cpu/cpu.h"
#include "cpu/insn.h"

/* MOV to Sreg, POP Sreg, LDS…: every check of SDM vol. 2 "MOV", then the load. Throws. */
void segment_load(struct cpu *cpu, enum seg seg, u16 selector);
/* Real and virtual-8086 mode: base = selector << 4. */
void segment_load_real(struct cpu *cpu, enum seg seg, u16 selector);

/* Control registers with every architectural check and side effect (TLB flushes, mode switch). Throw #GP. Not
 * intercepted. */
void cr0_write(struct cpu *cpu, u64 value);
void cr3_write(struct cpu *cpu, u64 value);
void cr4_write(struct cpu *cpu, u64 value);
void efer_write(struct cpu *cpu, u64 value);

/* CR4 bits that the CPU's features allow. */
u64 cr4_supported(const struct cpu *cpu);

/* MSRs without intercepts and CPL check, for RDMSR/WRMSR and VMX MSR lists. false: #GP. */
bool msr_read(struct cpu *cpu, u32 msr, u64 *value);
bool msr_write(struct cpu *cpu, u32 msr, u64 value);
/* May IA32_DEBUGCTL have this value? */
bool msr_valid_debugctl(const struct cpu *cpu, u64 value);

/* CPUID leaf and subleaf as the guest sees them now (OSXSAVE and the like follow CR4). out: EAX EBX ECX EDX. */
void cpuid_query(struct cpu *cpu, u32 leaf, u32 subleaf, u32 out[4]);

/*
 * Fills config->features from the host and from what Strata implements, as config->choice has it, less what
 * needs something that is not there. Returns 0, or -ENOTSUP below x86-64-v2.
 */
int cpu_cpuid_init(struct cpu_config *config);

/*
 * May config->choice name the feature? Without those it may take away the CPU is as a processor that never had them;
 * those it may ask for (`more`) it has not otherwise.
 */
bool cpu_may_choose(enum feature feature, bool more);

/*
 * Selects of forms that share a mnemonic with an integer instruction: MOV to and from segment, control and debug
 * registers, and far JMP, CALL and RET (meta.branch_type FAR).
 */
bool system_select_mov(const struct decode *d, struct insn *insn);
bool transfer_select_far(const struct decode *d, struct insn *insn);

#endif
