/*
 * The software x86-64 CPU: its architectural state and its life. The CPU is the hardware: it executes root and
 * non-root operation alike, and asks `hv` (hv_ops.h) wherever the virtualization extensions have a say.
 *
 * How it runs: cpu_run() looks up the block of decoded instructions at CS:RIP (block.h), calls each instruction's
 * handler (insn.h), and between blocks looks at `attention`. Handlers raise exceptions by calling cpu_raise*(), which
 * never return: they jump back into cpu_run(), which delivers the event. So a handler changes nothing before its last
 * point of failure.
 *
 * Registers: `rip` is the address of the NEXT instruction while a handler runs; `rip_start` is the running one's.
 * Arithmetic flags live in `arith`, in the form LAHF and SETO leave them in AX; the rest of RFLAGS in `rflags_sys`.
 *
 * Owner and thread: one thread runs a CPU; only cpu_attend() and the reading of counters may come from others.
 */
#ifndef STRATA_CPU_CPU_H
#define STRATA_CPU_CPU_H

#include "base/counters.h"
#include "bus/bus.h"
#include "cpu/pmu.h"
#include "mem/mem.h"
#include "mmu/mmu.h"
#include "x86/feature.h"
#include "x86/regs.h"
#include "x86/state.h"

#include <setjmp.h>

struct block;
struct block_cache;
struct cpu_group;
struct hv_ops;
struct insn;
struct jit_ops;
struct native;

/* Register-file slots beyond the 16 general ones, so that address computation needs no tests. */
enum { REG_ZERO = GPR_COUNT, REG_RIP, REG_SLOTS };
/* Segment slot of an access without base or limit: 64-bit mode's CS, DS, ES, SS. */
enum { SEG_FLAT = SEG_COUNT, SEG_SLOTS };

/* Groups of operands in memory that share a check, in one translation. */
enum { JIT_GROUPS = 12 };

/* arith: SF ZF 0 AF 0 PF 1 CF in bits 15..8 (as LAHF), OF in bit 0 (as SETO AL). */
#define ARITH_OF 0x0001u
#define ARITH_CF 0x0100u
#define ARITH_PF 0x0400u
#define ARITH_AF 0x1000u
#define ARITH_ZF 0x4000u
#define ARITH_SF 0x8000u

/* Why the CPU must look up between blocks. Set from any thread with cpu_attend(). */
#define ATTEND_INTR   BIT(0) /* the interrupt controller may have a vector */
#define ATTEND_NMI    BIT(1)
#define ATTEND_INIT   BIT(2)
#define ATTEND_SIPI   BIT(3)
#define ATTEND_STOP   BIT(4) /* leave cpu_run() */
#define ATTEND_TRAP   BIT(5) /* single-step, data breakpoint or MTF is due after this instruction */
#define ATTEND_HV     BIT(6) /* hv->attention wants a call: windows, preemption timer, pending MTF */
#define ATTEND_SHADOW BIT(7) /* STI or MOV SS just ran: the block loop runs one instruction, then looks again */
#define ATTEND_SMI    BIT(8)
#define ATTEND_ALONE  BIT(9) /* the next instruction runs alone; cpu_run() itself sees to it */
/* These are cpu_run()'s own business too; those of ATTEND_QUIET wake nobody. */
#define ATTEND_CODE  BIT(10) /* another thread wrote to pages with code, or is about to decode from some */
#define ATTEND_PAUSE BIT(11) /* a CPU wants all others to stop */
#define ATTEND_NMI_2 BIT(12) /* a second NMI came before the CPU looked at the first; see cpu_attend_nmi() */
#define ATTEND_PMU   BIT(13) /* a performance counter is about to overflow */
#define ATTEND_JIT   BIT(14) /* the translator has something to do between blocks */
#define ATTEND_QUIET (ATTEND_CODE | ATTEND_PAUSE | ATTEND_JIT)

enum cpu_activity { CPU_ACTIVE, CPU_HALTED, CPU_SHUTDOWN, CPU_WAIT_SIPI, CPU_MWAIT };

enum cpu_mode { CPU_REAL, CPU_V86, CPU_PROT, CPU_COMPAT, CPU_LONG };

/* Why cpu_run() returned. */
enum cpu_stop {
	CPU_STOP_ASKED,       /* ATTEND_STOP */
	CPU_STOP_IDLE,        /* halted with nothing to do: call again after the next cpu_attend() */
	CPU_STOP_TRIPLE_FAULT /* state is as at the fault */
};

/* What an interrupted instruction was doing when an event had to be delivered; the shape of VT-x's event fields. */
enum event_type {
	EVENT_INTERRUPT = 0,
	EVENT_NMI = 2,
	EVENT_EXCEPTION = 3,     /* hardware exception */
	EVENT_SOFT_INT = 4,      /* INT n */
	EVENT_PRIV_SOFT_EXC = 5, /* INT1 */
	EVENT_SOFT_EXC = 6,      /* INT3, INTO */
	EVENT_OTHER = 7          /* MTF, pending */
};

struct event {
	bool valid;
	u8 vector;
	enum event_type type;
	bool has_error;
	u32 error;
	u8 length;   /* instruction length for software events: the return address is rip + length */
	u64 address; /* #PF: the linear address for CR2; #DB: bits to set in DR6 */
};

/* Was it an instruction that asked for it? */
static inline bool event_is_software(const struct event *event)
{
	return event->type == EVENT_SOFT_INT || event->type == EVENT_SOFT_EXC || event->type == EVENT_PRIV_SOFT_EXC;
}

/*
 * What the CPU needs of the machine; filled by the soft engine. Called on the CPU's thread, without the board lock
 * (each function takes it where needed).
 */
struct cpu_platform {
	/* Acknowledges the highest pending external interrupt; its vector, or -1 if there is none (any more). */
	int (*ack_interrupt)(void *opaque);
	/* Is an external interrupt pending and above the TPR? Without acknowledging. */
	bool (*interrupt_pending)(void *opaque);
	/* APIC MSRs: IA32_APIC_BASE, TSC_DEADLINE, x2APIC 800h-8ffh. false: #GP. */
	bool (*apic_msr_read)(void *opaque, u32 msr, u64 *value);
	bool (*apic_msr_write)(void *opaque, u32 msr, u64 value);
	/* End of interrupt, as software would write it. May be NULL. */
	void (*apic_eoi)(void *opaque);
	/* Sends a fixed interrupt to the CPU with this APIC ID: in xAPIC mode, bits 15:8 of it. May be NULL. */
	void (*apic_send)(void *opaque, u32 destination, u8 vector);
	/*
	 * AMD-V's doorbell to the CPU with this APIC ID: its guest's virtual interrupts are looked at anew (ATTEND_HV).
	 * May be NULL.
	 */
	void (*doorbell)(void *opaque, u32 apic_id);
	/* CR8: task priority, 0..15. */
	u8 (*tpr_read)(void *opaque);
	void (*tpr_write)(void *opaque, u8 value);
	/* INIT was received: the APIC resets too. */
	void (*apic_init)(void *opaque);
	/* Guest-visible time-stamp counter before TSC_ADJUST and offsets; constant rate of tsc_khz. */
	u64 (*tsc)(void *opaque);
	/* Clock cycles that this CPU has run for, at the TSC's rate: those in which the host let it. NULL: the TSC. */
	u64 (*cycles)(void *opaque);
	/* The guest moved its TSC (TSC, TSC_ADJUST): the TSC-deadline timer must look anew. May be NULL. */
	void (*tsc_changed)(void *opaque);
	/*
	 * Calls cpu_attend(reason), and wakes the CPU, once tsc() reaches `tsc`; replaces the last such wish for this
	 * reason. ATTEND_HV: the VMX-preemption timer; ATTEND_PMU: cycles. May be NULL: then these are polled.
	 */
	void (*attend_at)(void *opaque, u32 reason, u64 tsc);
	/* A performance counter overflowed and interrupts: the local APIC's LVT says how. May be NULL. */
	void (*counter_overflow)(void *opaque);
	/* May be NULL: called on HLT, before the CPU reports idle. */
	void *opaque;
};

/* MSRs that are plain storage; the table is msr.def. */
struct cpu_msrs {
#define MSR_STORED(field, ...)  u64 field;
#define MSR_CHECKED(field, ...) u64 field;
#define MSR_COMPUTED(...)
#include "cpu/msr.def"
#undef MSR_STORED
#undef MSR_CHECKED
#undef MSR_COMPUTED
};

/* XSAVE image in the standard format: legacy region 512, header 64, AVX high halves 256 at offset 576. */
struct xsave_area {
	u8 legacy[512]; /* FXSAVE64 layout; FIP and FDP hold guest addresses */
	u8 header[64];
	u8 ymm_high[16][16];
	u8 spare[256];
} __attribute__((aligned(64)));

/* MPX: bounds and what they are looked up by. An upper bound is in ones' complement, so that 0 allows everything. */
struct cpu_bounds {
	struct {
		u64 lower, upper;
	} reg[4];
	u64 config, status; /* BNDCFGU, BNDSTATUS; BNDCFGS is an MSR */
};

/* Bytes of one page with code that are written. */
struct code_write {
	u64 ram_offset;
	u32 size;
};

struct cpu {
	/* --- hot: what translated code uses most is in the first 256 bytes, which short displacements reach --- */
	u64 reg[REG_SLOTS]; /* GPRs, then a zero, then RIP (next instruction) */
	u16 arith;          /* ARITH_* */
	u8 cpl;
	u8 mode;            /* enum cpu_mode */
	u8 vectors;         /* translated code: how much of `fpu` is in the host's registers; 0 wherever C code runs */
	u8 vectors_allowed; /* translated code: how much may be */
	u8 x87;             /* translated code: are the x87 registers of `fpu` in the host's? Never where C code runs */
	u8 x87_allowed;     /* translated code: may they be? */
	u64 jit_page;       /* translated code: linear address of the page it runs in */
	u64 jit_instructions; /* translated code: to be added to counters.instructions; 0 wherever C code runs */
	struct block_cache *blocks;
	u64 jit_stamp;  /* translated code: what valid entries of the jump cache are stamped with */
	u64 jit_stack;  /* translated code: the host's stack pointer when no call is open */
	u64 rflags_sys; /* RFLAGS without the six arithmetic flags; bit 1 set */
	/*
	 * Translated code wants to know at once whether something wants attention and whether the stamp of copies of
	 * TLB entries is another one, so both lie in one 8-byte word, which one aligned load reads. Other threads set
	 * bits of `attention` by a locked instruction on these 2 bytes; this CPU's own writes the other 6, alone and
	 * without reading. So no raise is ever overwritten, and each load sees either.
	 */
	union {
		struct mmu mmu;
		struct {
			u16 mmu_stamp[3];
			u16 attention; /* ATTEND_*; atomic */
		};
	};
	u64 rip_start;                   /* address (offset in CS) of the running instruction */
	const struct insn *insn;         /* the running instruction */
	u64 seg_base[SEG_SLOTS];         /* copy of seg[].base as address computation wants it: 0 for SEG_FLAT */
	u64 jit_addend[JIT_GROUPS];      /* translated code: host less guest address of pages that it has checked */
	u64 jit_rounds, jit_rounds_left; /* translated code: of a loop without checks */
	u32 jit_misses_left;             /* translated code: until a missed prediction is looked at */
	void *jit_missed;                /* translated code: that one; private to src/jit */
	/* --- warm --- */
	u32 mode_key;  /* what blocks depend on besides their bytes: MODE_* in block.h */
	bool non_root; /* VMX non-root or SVM guest mode */
	u8 code_size;  /* 2, 4, 8: default operand/address width of CS */
	u8 stack_size; /* 2, 4, 8: width of the stack pointer */
	struct segment seg[SEG_COUNT];
	struct table_register gdtr, idtr;
	u64 cr0, cr2, cr3, cr4, efer, xcr0;
	u64 dr[8];
	u8 activity; /* enum cpu_activity */
	bool nmi_blocked;
	u64 shadow_rip;   /* CS offset of the instruction under the STI or MOV SS shadow; valid with shadow != 0 */
	u8 shadow;        /* SHADOW_*, see event.h */
	bool shadow_seen; /* the boundary before the shadowed instruction has passed: the next one ends the shadow */
	const struct insn *shadow_insn; /* the STI, if what it shadows follows in its block; see cpu_shadow() */
	bool intr_held;   /* an interrupt waits for IF: whoever sets IF sets ATTEND_INTR (cpu_set_rflags does) */
	bool if_free;     /* hv, in non-root operation, need not be told that IF becomes 1 */
	u8 step_armed;    /* CPU_STEP_*, see event.h */
	u64 step_rip;     /* where that instruction begins */
	u64 rf_rip;       /* the instruction that RFLAGS.RF is for */
	bool alone;       /* the running instruction is followed by a boundary */
	bool retry;       /* the last throw does not count its instruction: it runs again, or is counted */
	bool hv_step;     /* hv wants a boundary after each instruction (MTF); cpu_update_mode() puts it in mode_key */
	bool events_held; /* AMD-V's global interrupt flag is 0: see cpu_hold_events() */
	u32 held;         /* ATTEND_* that came meanwhile */
	bool monitor_armed; /* MONITOR was executed and no MWAIT, VM entry or VM exit since */
	u8 sipi_vector;     /* written before cpu_attend(ATTEND_SIPI) */
	u32 pauses;         /* PAUSEs executed */
	struct pmu pmu;
	struct cpu_msrs msr;
	struct xsave_area fpu;
	/* --- events --- */
	struct event pending;   /* raised, to be delivered by cpu_run() */
	struct event vectoring; /* being delivered now: what a fault during it reports (IDT-vectoring, #DF rules) */
	u64 pending_db;         /* DR6 bits of debug traps due at the next boundary */
	jmp_buf restart;        /* cpu_run()'s: where cpu_raise*() and cpu_resume() jump to */
	/* --- attachments --- */
	struct mem *mem;
	struct bus *bus;
	struct cpu_group *group;          /* group.h, as is what follows up to code_write */
	u8 member;                        /* which of it */
	bool running;                     /* in cpu_run(); atomic */
	bool stopped;                     /* waits for the CPU that runs exclusively; stop_lock */
	bool exclusive, exclusive_wanted; /* all other CPUs are stopped, or shall be */
	bool serialize;                   /* other threads changed its translations while it did not run; code_lock */
	u64 fresh_seen;                   /* group->fresh as of this CPU's last look; atomic */
	struct code_write code_write;     /* by the running instruction, through a host address; size 0: none */
	const struct jit_ops *jit;        /* jit_ops.h; NULL: no translation */
	u16 jit_hot;                      /* translate a block when it runs for this time */
	void *jit_state;                  /* private to src/jit */
	struct native *native;            /* stubs that run vector and x87 instructions on the host CPU */
	const struct hv_ops *hv;          /* NULL: no virtualization extensions */
	void *hv_state;                   /* private to src/hv */
	const struct cpu_platform *platform;
	struct cpu_config *config;
	struct counters counters;
	u64 last_rip[16]; /* linear start addresses of the last blocks, a ring, for the state dump */
	unsigned last_rip_at;
	struct cpu_bounds bounds;
};

enum nested_kind { NESTED_NONE, NESTED_VTX, NESTED_SVM };

/* Fixed for the life of a CPU. */
struct cpu_config {
	enum nested_kind nested;
	unsigned cpu_index, cpu_count;
	u32 tsc_khz;
	unsigned phys_bits;           /* MAXPHYADDR shown in CPUID */
	size_t block_memory;          /* bytes for decoded blocks; 0: as is usual */
	struct feature_choice choice; /* features asked for; see cpu_may_choose() */
	/* Filled by cpu_cpuid_init() from what the host can execute and what Strata implements. */
	u8 features[FEATURE_SET_BYTES];
};

/*
 * Life cycle. cpu_init wires a zeroed struct to its machine and resets it; `config` and `platform` stay the caller's.
 * `hv` is set before it, if the CPU is to have virtualization extensions. Returns 0 or -errno.
 */
int cpu_init(struct cpu *cpu, struct mem *mem, struct bus *bus, struct cpu_config *config,
	     const struct cpu_platform *platform);
void cpu_destroy(struct cpu *cpu);
void cpu_reset(struct cpu *cpu);       /* RESET pin */
void cpu_init_signal(struct cpu *cpu); /* INIT */

/* Runs until something stops it. */
enum cpu_stop cpu_run(struct cpu *cpu);

/* Asks the CPU to look at `reasons` (ATTEND_*). Any thread; the caller wakes the CPU's thread if it sleeps. */
static inline void cpu_attend(struct cpu *cpu, u32 reasons)
{
	__atomic_fetch_or(&cpu->attention, (u16)reasons, __ATOMIC_SEQ_CST);
}

static inline void cpu_attended(struct cpu *cpu, u32 reasons)
{
	__atomic_fetch_and(&cpu->attention, (u16)~reasons, __ATOMIC_SEQ_CST);
}

/*
 * An NMI has arrived. Any thread, as cpu_attend(). While NMIs are blocked one is kept, however many come (SDM vol. 3,
 * 6.7.1). Where they are not, silicon would take the first before the next instruction and keep the second; this CPU
 * looks between blocks, so that it has to keep both.
 */
void cpu_attend_nmi(struct cpu *cpu);

/* One NMI that had arrived is taken. Its own thread. */
void cpu_take_nmi(struct cpu *cpu);

/* Whole state in and out, for boot, engines and dumps. Setting re-derives modes and flushes what it must. */
void cpu_get_state(const struct cpu *cpu, struct x86_state *state);
void cpu_set_state(struct cpu *cpu, const struct x86_state *state);

/*
 * Re-derives mode, code and stack widths, CPL class, mode_key, seg_base and MMU paging from the registers. Call after
 * changing CR0, CR3, CR4, EFER, RFLAGS.VM, TF or AC, CS, SS or CPL, or non_root; hv calls it after loading a VMCS.
 * CPL is `cpl` as stored, but always 0 in real mode and 3 in virtual-8086 mode. PDPTEs, EPTP and VPID have no register
 * here: they are taken from mmu.paging, where hv and the PDPTE loads put them with mmu_set_paging().
 */
void cpu_update_mode(struct cpu *cpu);

/*
 * RFLAGS as the architecture shows them. Setting takes every defined bit as given (callers mask by privilege), and sees
 * to what depends on IF, TF and AC; RF counts for the instruction at RIP. A change of VM needs cpu_update_mode() after
 * it.
 */
u64 cpu_rflags(const struct cpu *cpu);
void cpu_set_rflags(struct cpu *cpu, u64 value);

/* TSC as RDTSC shows it at root: platform TSC + IA32_TSC_ADJUST. hv adds its offset in non-root. */
u64 cpu_tsc(struct cpu *cpu);

static inline bool cpu_long_mode(const struct cpu *cpu)
{
	return cpu->efer & EFER_LMA;
}

static inline u64 linear_mask(const struct cpu *cpu)
{
	return cpu->mode == CPU_LONG ? ~0ULL : 0xffffffffULL;
}

/* Is `va` canonical with the current paging depth (48 or 57 bits)? */
static inline bool is_canonical(const struct cpu *cpu, u64 va)
{
	unsigned bits = cpu->cr4 & CR4_LA57 ? 57 : 48;
	return sign_extend(va, bits) == va;
}

/* Registers, segments, control registers and the last 16 blocks, one line per emit. */
void cpu_dump(const struct cpu *cpu, void (*emit)(void *opaque, const char *line), void *opaque);

#endif
