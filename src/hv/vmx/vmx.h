/*
 * VT-x of one CPU, private to this folder. The files follow the chapters of SDM vol. 3:
 *
 *   caps.c                 capability MSRs                              appendix A
 *   instr.c                VMX instructions                             31
 *   field.c                VMREAD, VMWRITE, VMCS shadowing              25.10, 31
 *   check_*.c, check.c     checks of VM entry, in the manual's order    27.2, 27.3
 *   entry.c                loading the guest, event injection           27.3 to 27.7
 *   exit.c                 recording, saving, loading the host          28
 *   exit_insn.c            which instructions exit                      26.1
 *   exit_event.c           which events exit, windows, timer, MTF       26.2, 26.5
 *   vapic.c                APIC virtualization, virtual interrupts      30
 *   vmx.c                  the ops table, life cycle
 *
 * The current VMCS lives in `vmcs`, a copy that VMPTRLD reads from guest memory and VMCLEAR, VMXOFF or the next VMPTRLD
 * writes back. No other CPU can change it, so its fields need not be read just once; what it points to must be.
 *
 * Owner and thread: the CPU's own thread.
 */
#ifndef STRATA_HV_VMX_H
#define STRATA_HV_VMX_H

#include "cpu/cpu.h"
#include "cpu/event.h"
#include "cpu/hv_ops.h"
#include "x86/exit_reason.h"
#include "x86/vmcs.h"
#include "x86/vmx_bits.h"

/* Bits of CR0 that VM entries and exits leave alone: ET, NW, CD and the reserved ones (27.3.2.1, 28.5.1). */
#define VMX_CR0_KEPT (CR0_ET | CR0_NW | CR0_CD | BITS(63, 32) | BITS(28, 19) | BIT(17) | BITS(15, 6))

#define VMCS_NONE UINT64_MAX /* the current-VMCS pointer when it is not valid */

enum {
	VMX_CR3_TARGETS = 4,
	VMX_TIMER_SHIFT = 5,    /* the preemption timer counts changes of this TSC bit */
	VMX_MSR_LIST_MAX = 512, /* entries of an MSR list: more are not guaranteed to work (IA32_VMX_MISC 27:25 = 0) */
};

/* vmx.checked */
enum { CHECKED_CONTROLS = 1, CHECKED_HOST = 2, CHECKED_SEGS = 4 };

struct vmx {
	struct cpu *cpu;
	u64 caps[MSR_VMX_END - MSR_VMX_BASIC]; /* fixed after init */
	u64 feature_control;
	u8 linear_bits; /* of the widest linear address */
	bool on;        /* in VMX operation, root or not */
	bool init_held; /* an INIT came in root operation */
	gpa_t vmxon;    /* the VMXON pointer while `on` */
	gpa_t current;  /* the current-VMCS pointer */
	struct vmcs vmcs;
	/*
	 * Checks that need not be repeated: they passed, and nothing that they look at has changed since. CHECKED_SEGS
	 * holds as long as segs_mode() is what it was.
	 */
	u8 checked;
	u8 checked_mode;
	/* The entry under way. */
	bool guest_pae; /* the guest will use PAE paging */
	u64 guest_pdpte[4];
	/* The running guest (cpu->non_root). */
	u64 timer_end;   /* platform TSC >> VMX_TIMER_SHIFT at which the preemption timer reads 0 */
	u64 timer_armed; /* the same, for what attend_at was last asked; 0: never */
	/* PAUSE-loop exiting: platform TSC at the last PAUSE, and at the first of its loop; 0: none since the entry. */
	u64 pause_last, pause_first;
	bool virtual_nmi_blocked;
	bool mtf_due; /* at the next boundary */
	/* An exit due at the next boundary, before all others: what the virtual APIC has to say. */
	bool apic_exit_due;
	enum exit_reason apic_exit;
	u64 apic_exit_qualification;
	bool virtual_interrupt; /* a pending virtual interrupt is recognized (30.2.1) */
	bool iret_unblocked;    /* the last IRET, at iret_rip, ended NMI blocking */
	u64 iret_rip;
	struct ve_info ve; /* of the #VE that was raised last */
};

static inline struct vmx *vmx_of(struct cpu *cpu)
{
	return cpu->hv_state;
}

/* Controls by name; the secondary and tertiary ones read 0 unless activated (SDM vol. 3, 25.6.2). */
static inline bool vmx_pin(const struct vmx *vmx, u64 bit)
{
	return vmx->vmcs.pin_controls & bit;
}

static inline bool vmx_cpu(const struct vmx *vmx, u64 bit)
{
	return vmx->vmcs.cpu_controls & bit;
}

static inline bool vmx_cpu2(const struct vmx *vmx, u64 bit)
{
	return (vmx->vmcs.cpu_controls & CPU_SECONDARY) && (vmx->vmcs.cpu_controls2 & bit);
}

static inline bool vmx_cpu3(const struct vmx *vmx, u64 bit)
{
	return (vmx->vmcs.cpu_controls & CPU_TERTIARY) && (vmx->vmcs.cpu_controls3 & bit);
}

static inline bool vmx_exitc(const struct vmx *vmx, u64 bit)
{
	return vmx->vmcs.exit_controls & bit;
}

static inline bool vmx_entryc(const struct vmx *vmx, u64 bit)
{
	return vmx->vmcs.entry_controls & bit;
}

/* Copies of a segment's VMCS fields, by enum seg. Guest fields of each kind lie in the same order, which check.c pins.
 */
static inline u16 *vmcs_selector(struct vmcs *v, unsigned seg)
{
	return &v->guest_es_selector + seg;
}

static inline u32 *vmcs_limit(struct vmcs *v, unsigned seg)
{
	return &v->guest_es_limit + seg;
}

static inline u32 *vmcs_ar(struct vmcs *v, unsigned seg)
{
	return &v->guest_es_ar + seg;
}

static inline natural *vmcs_base(struct vmcs *v, unsigned seg)
{
	return &v->guest_es_base + seg;
}

/* --- caps.c --- */

void vmx_caps_init(struct vmx *vmx);
static inline u64 vmx_cap(const struct vmx *vmx, enum vmx_msr msr)
{
	return vmx->caps[msr - MSR_VMX_BASIC];
}

bool vmx_msr_read(struct cpu *cpu, u32 msr, u64 *value);
bool vmx_msr_write(struct cpu *cpu, u32 msr, u64 value);
bool vmx_cr0_valid(struct cpu *cpu, u64 value);
bool vmx_cr4_valid(struct cpu *cpu, u64 value);
/* CR0 and CR4 against the fixed-bit MSRs; unrestricted: PE and PG may be 0. */
bool vmx_cr0_fixed(const struct vmx *vmx, u64 value, bool unrestricted);
bool vmx_cr4_fixed(const struct vmx *vmx, u64 value);
/* A control word against the true capability MSR: allowed-0 in 31:0, allowed-1 in 63:32. */
bool vmx_control_allowed(const struct vmx *vmx, enum vmx_msr msr, u32 value);
/* May the EPTP be used by VM entry and INVEPT? (SDM vol. 3, 27.2.1.1) */
bool vmx_eptp_valid(const struct vmx *vmx, u64 eptp);

/* --- check.c and check_*.c --- */

struct vmx_check {
	const char *name;
	bool (*holds)(const struct vmx *vmx);
	u8 qualification; /* enum entry_failure, for guest-state checks */
	bool memory;      /* looks at guest memory, which changes without a VMWRITE */
};

#define CHECK(text, predicate)                                                                                         \
	{                                                                                                              \
		.name = text, .holds = predicate                                                                       \
	}
#define CHECK_SAYING(text, predicate, entry_failure)                                                                   \
	{                                                                                                              \
		.name = text, .holds = predicate, .qualification = entry_failure                                       \
	}

/* Each ends with a NULL name. */
extern const struct vmx_check vmx_checks_controls[], vmx_checks_host[], vmx_checks_guest_regs[],
	vmx_checks_guest_segs[], vmx_checks_guest_nonreg[];

/* The first check that does not hold; NULL if all do. */
const struct vmx_check *vmx_check_run(const struct vmx_check *table, const struct vmx *vmx);
/* The same, of those that look at guest memory. */
const struct vmx_check *vmx_check_memory(const struct vmx_check *table, const struct vmx *vmx);
/* CHECKED_*: what a VMWRITE of this field makes unknown again. */
u8 vmx_checks_of_field(u64 encoding);

/* Helpers of several tables. */
/* No bit above the physical-address width. */
static inline bool vmx_address_fits(const struct vmx *vmx, u64 address)
{
	return !(address >> vmx->cpu->config->phys_bits);
}

/* Canonical for the widest linear address of this CPU, whatever paging is on. */
static inline bool vmx_canonical(const struct vmx *vmx, u64 va)
{
	return sign_extend(va, vmx->linear_bits) == va;
}

bool vmx_address_ok(const struct vmx *vmx, u64 address, u64 alignment);
bool vmx_pat_valid(u64 pat);
bool vmx_pdptes_valid(const struct vmx *vmx, const u64 pdpte[4]);

/* --- instr.c --- */

void vmx_execute(struct cpu *cpu, const struct insn *insn);
/* Writes the current VMCS, if any, back to its region. */
void vmx_vmcs_store(struct vmx *vmx);

/* --- field.c --- */

/* Ends of VMX instructions: success; no VMCS; an error number if there is a current VMCS to note it in. */
void vmx_succeed(struct cpu *cpu);
void vmx_fail_invalid(struct cpu *cpu);
void vmx_fail(struct cpu *cpu, enum vmx_error error);

/* VMREAD, VMWRITE, INVEPT and INVVPID take 64-bit registers in 64-bit mode and 32-bit ones elsewhere. */
u64 vmx_register_operand(const struct cpu *cpu, unsigned gpr);

/* In non-root operation: is this a VMREAD or VMWRITE that goes to the shadow VMCS? */
bool vmx_field_shadowed(struct cpu *cpu, const struct insn *insn);
void vmx_vmread(struct cpu *cpu, const struct insn *insn);
void vmx_vmwrite(struct cpu *cpu, const struct insn *insn);

/* --- entry.c --- */

/*
 * VMLAUNCH and VMRESUME after the checks of the instruction itself. Returns the VM-instruction error if a control or
 * host-state check fails; otherwise does not return: the guest runs, or the entry failed with a VM exit.
 */
enum vmx_error vmx_enter(struct cpu *cpu, bool launch);

/* --- exit.c --- */

/* What the exit-information fields get (SDM vol. 3, 28.2). */
struct vmx_exit {
	u32 reason;
	u64 qualification;
	u64 rip; /* what goes to the guest's RIP */
	u64 linear, physical;
	u32 info;                              /* VM-exit instruction information */
	u8 length;                             /* VM-exit instruction length */
	u32 event, event_error;                /* VM-exit interruption information */
	bool no_vectoring;                     /* an exit during event delivery that does not count as such */
	bool boundary;                         /* between instructions: debug traps of the last one may be pending */
	enum { RF_KEEP, RF_SET, RF_CLEAR } rf; /* RF of the saved RFLAGS (28.3.3) */
};

NORETURN void vmx_exit(struct cpu *cpu, const struct vmx_exit *x);
/* An entry that failed after its guest-state checks began: loads the host's state only (SDM vol. 3, 27.8). */
NORETURN void vmx_entry_failed(struct cpu *cpu, enum exit_reason reason, u64 qualification);
/* The running instruction exits. */
NORETURN void vmx_exit_insn(struct cpu *cpu, enum exit_reason reason, u64 qualification, u32 info);
/* Exits between instructions. */
NORETURN void vmx_exit_boundary(struct cpu *cpu, enum exit_reason reason, u64 qualification);

/* An entry of the MSR lists in guest memory. */
struct vmx_msr_entry {
	u32 index, reserved;
	u64 value;
};

/* Loads an MSR list; the number (from 1) of the entry that cannot be loaded, 0 if all could (SDM vol. 3, 27.4). */
u32 vmx_msr_list_load(struct cpu *cpu, gpa_t list, u32 count);

/* --- exit_insn.c --- */

/* Memory operand's part of the VM-exit instruction information (SDM vol. 3, 28.2.5). */
u32 vmx_info_memory(const struct insn *insn);
/* Displacement of a memory operand as exit qualification: RIP-relative ones count from the next instruction. */
u64 vmx_displacement(const struct cpu *cpu, const struct insn *insn);
/* A VMX instruction in non-root operation. */
NORETURN void vmx_exit_vmx_insn(struct cpu *cpu, const struct insn *insn);

void vmx_instruction(struct cpu *cpu, const struct insn *insn);
void vmx_io(struct cpu *cpu, const struct insn *insn, u16 port, unsigned size, bool in, u64 linear);
void vmx_msr(struct cpu *cpu, u32 msr, bool write);
void vmx_invlpg(struct cpu *cpu, u64 va);
void vmx_descriptor_table(struct cpu *cpu, const struct insn *insn, u64 displacement);
void vmx_dr_access(struct cpu *cpu, unsigned dr, bool write, unsigned gpr);
void vmx_cr_read(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value);
void vmx_cr_write(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value);
void vmx_clts(struct cpu *cpu, u64 *value);
void vmx_lmsw(struct cpu *cpu, u16 source, bool memory, u64 linear, u64 *value);
u64 vmx_cr0_shadowed(struct cpu *cpu);
void vmx_task_switch(struct cpu *cpu, u16 selector, unsigned source);
u64 vmx_tsc(struct cpu *cpu, u64 root_tsc);

/* --- vapic.c --- */

/* VM entry: virtual interrupts and the TPR threshold. */
void vmx_vapic_enter(struct cpu *cpu);
/* The exit that the virtual APIC asked for, if any. */
void vmx_vapic_exit_if_due(struct cpu *cpu);
/* MOV to CR8 with the TPR shadow: the instruction is done, and may exit after itself (30.3). */
NORETURN void vmx_vapic_write_cr8(struct cpu *cpu, u64 value);
u64 vmx_vapic_read_cr8(struct cpu *cpu);
/* An external interrupt was acknowledged: true if it announced posted interrupts, which were taken over (30.6). */
bool vmx_vapic_posted(struct cpu *cpu, u8 vector);
bool vmx_virtual_event(struct cpu *cpu, bool shadow);
void vmx_apic_access(struct cpu *cpu, u64 linear, u64 offset, unsigned size, enum mmu_access access);
void vmx_apic_read(struct cpu *cpu, u64 offset, void *buffer, unsigned size);
void vmx_apic_write(struct cpu *cpu, u64 offset, const void *buffer, unsigned size);
bool vmx_apic_msr_read(struct cpu *cpu, u32 msr, u64 *value);
bool vmx_apic_msr_write(struct cpu *cpu, u32 msr, u64 value);

/* --- exit_event.c --- */

/* Interruption or IDT-vectoring information of an event. */
u32 vmx_event_info(const struct event *event);
void vmx_exception(struct cpu *cpu, const struct event *event);
void vmx_triple_fault(struct cpu *cpu);
void vmx_init_signal(struct cpu *cpu);
bool vmx_init_blocked(struct cpu *cpu);
/* INIT is no longer blocked: one that came meanwhile comes now. */
void vmx_release_init(struct cpu *cpu);
void vmx_sipi(struct cpu *cpu, u8 vector);
void vmx_nmi(struct cpu *cpu);
bool vmx_interrupt(struct cpu *cpu);
void vmx_attention(struct cpu *cpu);
void vmx_iret(struct cpu *cpu);
void vmx_stage2_fault(struct cpu *cpu, u64 va, const struct mmu_result *fault);
/* Did the running instruction, an IRET, end NMI blocking before it faulted? */
bool vmx_iret_unblocked(struct cpu *cpu);
/* The preemption timer's value now. */
u32 vmx_timer_value(struct vmx *vmx);
/* VM entry: starts the timer, and asks for attention as the controls need it. */
void vmx_events_arm(struct cpu *cpu);
/* VM exit: the reverse. */
void vmx_events_disarm(struct cpu *cpu);

#endif
