/*
 * Exceptions, interrupts and how they reach the guest.
 *
 * cpu_raise*() throw: they restore RIP to the running instruction's start, record the event and jump into cpu_run(),
 * which asks hv (exception bitmap), applies the double-fault rules (SDM vol. 3, 6.15) and delivers through IVT or IDT
 * (cpu_take_pending).
 */
#ifndef STRATA_CPU_EVENT_H
#define STRATA_CPU_EVENT_H

#include "cpu/cpu.h"

#define SHADOW_STI    0x01
#define SHADOW_MOV_SS 0x02

/* cpu->step_armed: at the end of the coming instruction a single-step trap is due; RF is to be cleared. */
enum { CPU_STEP_TF = 1, CPU_STEP_RF = 2 };

NORETURN void cpu_raise(struct cpu *cpu, enum vector vector); /* without error code */
NORETURN void cpu_raise_error(struct cpu *cpu, enum vector vector, u32 error);
NORETURN void cpu_raise_page_fault(struct cpu *cpu, u64 va, u32 error);
NORETURN void cpu_raise_db(struct cpu *cpu, u64 dr6_bits); /* fault-class #DB */
/* #GP(0), the commonest. */
NORETURN void cpu_raise_gp(struct cpu *cpu);
/* Undefined opcode that the table does not know: one report line with the bytes, then #UD. */
NORETURN void cpu_raise_unimplemented(struct cpu *cpu);

/* INT n, INT3, INTO, INT1: delivers with the return address behind the instruction. */
NORETURN void cpu_software_interrupt(struct cpu *cpu, u8 vector, enum event_type type);

/*
 * Back into cpu_run() with the state as it is now: no event, RIP not rolled back. For hv after a VM exit or entry, for
 * writes that change the running code, and for anything else that makes the current block stale.
 */
NORETURN void cpu_resume(struct cpu *cpu);

/*
 * Goes back to before the running instruction, of which nothing is done yet, and runs it anew from cpu_run(). A shadow
 * that it is under stays.
 */
NORETURN void cpu_retry(struct cpu *cpu);

/* The running instruction retires here, in the circumstances it began in; a throw does not count it again. */
void cpu_retire(struct cpu *cpu);

/*
 * Before an instruction does what may cause an event, or cannot be done twice: if others of its block follow, goes back
 * and runs it alone, so that the boundary behind it is looked at. Nothing of it may have been done yet.
 */
void cpu_run_alone(struct cpu *cpu);

/*
 * Delivers one event now, on the current state: RIP is that of the interrupted instruction (software events return
 * `length` behind it). Throws if the delivery itself faults. VM entry injects with it, since cpu_take_pending() would
 * ask the exception bitmap; CR2, DR6 and DR7 stay as they are.
 */
void cpu_deliver(struct cpu *cpu, const struct event *event);

/*
 * Takes cpu->pending, an event that cpu_raise*() or hv left: hv's exception bitmap, double-fault rules, CR2 and DR6,
 * then cpu_deliver(). cpu_run() calls it when `pending.valid` after its setjmp. Returns 0, or CPU_STOP_* + 1 (triple
 * fault).
 */
int cpu_take_pending(struct cpu *cpu);

/* Holds interrupts, NMI, SMI and INIT back, or lets those that came meanwhile through. */
void cpu_hold_events(struct cpu *cpu, bool hold);

/* Will the next instruction of the running one's block follow without a look at anything between them? */
bool cpu_goes_on(const struct cpu *cpu);

/* STI, MOV SS and POP SS: the next instruction runs without interrupts. Call as the handler's last act. */
void cpu_set_shadow(struct cpu *cpu, u8 kind);

/* The shadow (SHADOW_*) that the running instruction, at `rip`, is under; 0: none. */
u8 cpu_shadow(const struct cpu *cpu, u64 rip);

/*
 * Between blocks, with attention set: INIT, SMI, NMI, debug traps, hv, interrupts, in the order of SDM vol. 3 table
 * 6-2. Returns CPU_STOP_* + 1 if cpu_run() must return, 0 to go on. cpu_run() calls it on entry too, attention or not
 * (the CPU may be halted). If it leaves ATTEND_SHADOW set or blocks step (MODE_STEP), exactly one instruction runs
 * before the next call.
 */
int cpu_attend_events(struct cpu *cpu);

#endif
