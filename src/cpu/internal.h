/*
 * What the files of src/cpu that hold the system architecture share among themselves: mode updates, segments and
 * descriptors, stacks of far transfers, task switches, debug state.
 */
#ifndef STRATA_CPU_INTERNAL_H
#define STRATA_CPU_INTERNAL_H

#include "cpu/block.h"
#include "cpu/cpu.h"
#include "cpu/event.h"
#include "cpu/insn.h"
#include "cpu/system.h"
#include "x86/feature.h"

/* --- cpu.c: the cheap parts of cpu_update_mode(), for changes of CPL or AC, and of TF, DR7 or hv_step alone --- */
void cpu_update_class(struct cpu *cpu);
void cpu_update_step(struct cpu *cpu);
/* After a change of XCR0 or of what MPX is enabled by. true: what follows is decoded otherwise. */
bool cpu_update_bounds(struct cpu *cpu);

/* MPX's configuration at this privilege. */
static inline u64 bounds_config(const struct cpu *cpu)
{
	return cpu->cpl == 3 ? cpu->bounds.config : cpu->msr.bndcfgs;
}

/* Does anybody wait for IF to become 1? */
static inline bool cpu_if_matters(const struct cpu *cpu)
{
	return cpu->intr_held || (cpu->non_root && !cpu->if_free);
}

/* IF was 0 and is 1 now: an interrupt that was held back may come, or hv's interrupt window opens. */
static inline void cpu_if_set(struct cpu *cpu)
{
	if (unlikely(cpu_if_matters(cpu)))
		cpu_attend(cpu, ATTEND_INTR | (cpu->non_root ? ATTEND_HV : 0));
}

/* Ends a handler whose instruction goes on when the run loop comes back to it: it has not retired. */
static inline void cpu_run_again(struct cpu *cpu)
{
	cpu->reg[REG_RIP] = cpu->rip_start;
	cpu->counters.instructions--;
}

static inline bool cpu_has(const struct cpu *cpu, enum feature feature)
{
	return feature_in(cpu->config->features, feature);
}

/* The vendor that the CPU presents: AMD's own instructions and differences, or Intel's. */
static inline bool cpu_is_amd(const struct cpu *cpu)
{
	return cpu->config->nested == NESTED_SVM;
}

static inline unsigned cpu_iopl(const struct cpu *cpu)
{
	return (unsigned)bits_get(cpu->rflags_sys, 13, 12);
}

/*
 * Canonical for the CPU, whatever CR4.LA57 says: bases of descriptor tables, LDT and TSS, and address MSRs may hold
 * what 5-level paging could use.
 */
static inline bool is_canonical_base(const struct cpu *cpu, u64 va)
{
	return sign_extend(va, cpu_has(cpu, FEATURE_LA57) ? 57 : 48) == va;
}

/* A general register as a destination of `size` bytes, 2 to 8: 32-bit writes clear the upper half. */
static inline void register_write(struct cpu *cpu, unsigned gpr, unsigned size, u64 value)
{
	if (size == 2)
		cpu->reg[gpr] = (cpu->reg[gpr] & ~0xffffULL) | (u16)value;
	else
		cpu->reg[gpr] = size == 4 ? (u32)value : value;
}

/* --- bounds.c --- */

/* With MPX: makes a branch without its prefix one that takes bounds back. */
void bounds_wrap_branch(const struct decode *d, struct insn *insn);

/* --- segment.c --- */
bool segment_select_mov(const struct decode *d, struct insn *insn);

/* System descriptor types (SDM vol. 3, table 3-2) and the fields of a raw descriptor. */
enum {
	DESC_TSS16 = 1,
	DESC_LDT = 2,
	DESC_TSS16_BUSY = 3,
	DESC_CALL16 = 4,
	DESC_TASK_GATE = 5,
	DESC_INT16 = 6,
	DESC_TRAP16 = 7,
	DESC_TSS32 = 9,
	DESC_TSS32_BUSY = 11,
	DESC_CALL32 = 12,
	DESC_INT32 = 14,
	DESC_TRAP32 = 15
};

/* A descriptor as read from GDT or LDT. `raw` is the low 8 bytes; `ar` its rights in SEG_AR_* form. */
struct descriptor {
	u16 selector;
	u64 linear; /* where it lies */
	u64 raw;
	u32 ar;
};

static inline unsigned desc_type(const struct descriptor *d)
{
	return d->ar & SEG_AR_TYPE;
}

static inline unsigned desc_dpl(const struct descriptor *d)
{
	return SEG_DPL(d->ar);
}

static inline bool desc_is_code(const struct descriptor *d)
{
	return (d->ar & (SEG_AR_S | SEG_AR_CODE)) == (SEG_AR_S | SEG_AR_CODE);
}

static inline bool desc_is_data(const struct descriptor *d)
{
	return (d->ar & (SEG_AR_S | SEG_AR_CODE)) == SEG_AR_S;
}

static inline bool desc_is_conforming(const struct descriptor *d)
{
	return desc_is_code(d) && (d->ar & SEG_AR_DC);
}

static inline bool desc_is_system(const struct descriptor *d)
{
	return !(d->ar & SEG_AR_S);
}

/* Base and limit (scaled) of a code, data or system descriptor. */
static inline u32 descriptor_base(u64 raw)
{
	return (u32)((raw >> 16 & 0xffffff) | (raw >> 56 & 0xff) << 24);
}

static inline u32 descriptor_limit(u64 raw)
{
	u32 limit = (u32)((raw & 0xffff) | (raw >> 32 & 0xf0000));
	return raw & BIT(55) ? limit << 12 | 0xfff : limit;
}

/* The segment register's contents for a descriptor. */
static inline void descriptor_unpack(const struct descriptor *d, struct segment *segment)
{
	segment->selector = d->selector;
	segment->limit = descriptor_limit(d->raw);
	segment->ar = d->ar;
	segment->base = descriptor_base(d->raw);
}

static inline struct segment descriptor_segment(const struct descriptor *d)
{
	struct segment segment;
	descriptor_unpack(d, &segment);
	return segment;
}

/* Selector with the EXT bit as an error code: RPL cleared. */
static inline u32 selector_error(u16 selector, u32 ext)
{
	return (selector & ~3u) | ext;
}

static inline bool selector_is_null(u16 selector)
{
	return (selector & ~3u) == 0;
}

/* Reads the descriptor; false if it lies outside its table. Page faults throw. */
bool descriptor_find(struct cpu *cpu, u16 selector, struct descriptor *d);
/* The same, raising `vector`(selector + ext) if there is none. */
void descriptor_get(struct cpu *cpu, u16 selector, struct descriptor *d, enum vector vector, u32 ext);
/* Upper half of a 16-byte descriptor of 64-bit mode; raises #GP(selector) if it does not fit the table. */
u64 descriptor_get_high(struct cpu *cpu, const struct descriptor *d);
/* Sets the accessed bit, in memory too. */
void descriptor_set_accessed(struct cpu *cpu, struct descriptor *d);
/* Writes the type's busy bit of a TSS descriptor. */
void descriptor_set_busy(struct cpu *cpu, struct descriptor *d, bool busy);
/* A null or otherwise unusable segment register. */
struct segment segment_unusable(u16 selector, unsigned dpl);
/* Real and virtual-8086 mode contents. */
struct segment segment_v86(u16 selector);
/* Returns to an outer level: data segments that the new CPL may not use become null (SDM vol. 3, 5.8.4). */
void segment_drop_privileged(struct cpu *cpu, unsigned cpl);
/* Replaces a data segment register, seg_base and what hangs on it. */
void segment_set(struct cpu *cpu, enum seg seg, const struct segment *value);

/* --- stack.c: pushes and pops of far transfers and events, without touching RSP until all has worked --- */

/*
 * A stack under construction. `error` is what a #SS carries (EXT bit, selector). Pushes of `size` bytes; the caller
 * writes `sp` back with stack_commit().
 */
struct stack {
	struct segment ss;
	u64 sp, mask;
	enum mmu_class cls;
	u32 error;
	bool flat; /* 64-bit: no limits, canonical addresses */
};

void stack_current(struct cpu *cpu, struct stack *stack, u32 error);
void stack_push(struct cpu *cpu, struct stack *stack, unsigned size, u64 value);
u64 stack_pop(struct cpu *cpu, struct stack *stack, unsigned size);
/* Reads at sp + offset without popping. */
u64 stack_peek(struct cpu *cpu, struct stack *stack, u64 offset, unsigned size);
/* Writes sp to RSP, in the width of the stack. */
void stack_commit(struct cpu *cpu, const struct stack *stack);
static inline u64 stack_mask(u32 ss_ar)
{
	return ss_ar & SEG_AR_DB ? 0xffffffff : 0xffff;
}

/* Stack of privilege level `cpl` in the TSS, legacy modes: all checks of the new SS; #TS and #SS as the manual says. */
void stack_from_tss(struct cpu *cpu, unsigned cpl, struct stack *stack, u32 ext);
/* RSP of level cpl (ist = 0) or IST entry from the 64-bit TSS; #TS(TR + ext) beyond its limit, #SS(ext) if not
 * canonical. */
u64 stack_pointer64(struct cpu *cpu, unsigned cpl, unsigned ist, u32 ext);

/* --- task.c --- */
enum task_source { TASK_CALL = 0, TASK_IRET = 1, TASK_JMP = 2, TASK_GATE = 3 };

/*
 * Hardware task switch to the TSS that `selector` names (not a gate). `d` is its descriptor, type and busy bit not yet
 * checked. RIP to save is in reg[REG_RIP]. An error code to push comes with has_error. ext is the EXT bit of error
 * codes.
 */
void task_switch(struct cpu *cpu, u16 selector, enum task_source source, bool has_error, u32 error, u32 ext);

/* --- transfer.c --- */
/* Enters a code segment: CS, CPL, RIP; then modes. The rest of the state is already that of the new level. */
void transfer_enter(struct cpu *cpu, const struct descriptor *cs, unsigned cpl, u64 rip);
/* The same once CS holds its new contents. */
void transfer_arrive(struct cpu *cpu, unsigned cpl, u64 rip);

/* --- debug.c --- */
/* Is an instruction breakpoint at CS:RIP? Which, as DR6 bits. */
bool debug_code_hit(struct cpu *cpu, u64 *dr6);
/* Does an enabled breakpoint watch data? */
bool debug_watches_data(const struct cpu *cpu);
/* Notes the I/O breakpoints that an access hits; they trap after the instruction. */
void debug_io_access(struct cpu *cpu, u16 port, unsigned size);
/* Does the CPU record branches? AMD's alone does: one source, one destination (APM vol. 2, 13.1.5). */
static inline bool debug_records_branches(const struct cpu *cpu)
{
	return unlikely(cpu->msr.debugctl & DEBUGCTL_LBR) && cpu_is_amd(cpu);
}

/* The instruction that ran from CS offset `from` of base `base` is done: was it a branch that was taken? */
void debug_record_branch(struct cpu *cpu, const struct insn *insn, u64 base, u64 from);
/* An event is about to be delivered from here: what was the last branch before it is kept. */
void debug_record_event(struct cpu *cpu);
/* MOV to DR without checks. */
void debug_write(struct cpu *cpu, unsigned dr, u64 value);
bool debug_select_mov(const struct decode *d, struct insn *insn);

/* --- control.c --- */
bool control_select_mov(const struct decode *d, struct insn *insn);
/* WRMSR of IA32_EFER; false: #GP. */
bool efer_set(struct cpu *cpu, u64 value);

/* --- msr.c --- */
void msr_reset(struct cpu *cpu);

/* Rows: a select function that has but one form, and prototypes of all of them. */
#define SYSTEM_SELECT(name)                                                                                            \
	bool select_##name(const struct decode *d, struct insn *insn)                                                  \
	{                                                                                                              \
		insn->exec = exec_##name;                                                                              \
		return true;                                                                                           \
	}
/* The same for instructions after which the block must end: control flow, modes, whatever makes an event possible. */
#define SYSTEM_SELECT_END(name)                                                                                        \
	bool select_##name(const struct decode *d, struct insn *insn)                                                  \
	{                                                                                                              \
		insn->exec = exec_##name;                                                                              \
		insn->flags |= INSN_ENDS;                                                                              \
		return true;                                                                                           \
	}
#define ROW(mnemonic, select_fn, ...) bool select_fn(const struct decode *d, struct insn *insn);
#include "cpu/insn_system.def"
#undef ROW

#endif
