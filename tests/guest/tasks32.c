/* Hardware task switches: by JMP, CALL, IRET and task gates, with their checks and error codes. */
#include "lib/guest.h"

extern u8 exception_entries[256][16];

enum { TSS_A = GDT_FREE, TSS_B = GDT_FREE + 8, GATE = GDT_FREE + 16, TSS_SHORT = GDT_FREE + 24, TSS_C = GDT_FREE + 32 };

struct tss32 task_a, task_b, task_c;
static u8 stack_b[4096] ALIGNED(16), stack_c[4096] ALIGNED(16);
volatile u32 seen_eax, seen_flags, seen_tr, runs;

static void set_tss(unsigned selector, const void *base, u32 limit, unsigned access)
{
	u32 at = (u32)base;
	gdt[selector / 8] = (limit & 0xffff) | (u64)(at & 0xffffff) << 16 | (u64)access << 40 | (u64)(at >> 24) << 56;
}

static bool is_busy(unsigned selector)
{
	return ((volatile u64 *)gdt)[selector / 8] >> 41 & 1;
}

/* Task B: notes what it finds and goes back, by IRET (from CALL or a gate) or by JMP. */
asm(".text\n"
    "task_b_iret: mov %eax, seen_eax; pushf; pop seen_flags; str %eax; mov %eax, seen_tr; incl runs; mov $0xb1, %eax; "
    "iret\n"
    "	jmp task_b_iret\n" /* a second CALL goes on here */
    "task_b_jump: mov %eax, seen_eax; pushf; pop seen_flags; incl runs; ljmp $0x48, $0; jmp task_b_jump\n"
    /* Task C: a fault came through a task gate. Takes the error code off its stack, and has task A go on at resume_a.
     */
    "task_c_iret: pop %eax; mov %eax, seen_error; incl runs; mov resume_a, %eax; mov %eax, task_a+32; iret; jmp "
    "task_c_iret\n"
    "task_c_jump: pop %eax; mov %eax, seen_error; incl runs; ljmp $0x48, $0; jmp task_c_jump\n");
extern u8 task_b_iret[], task_b_jump[], task_c_iret[], task_c_jump[];
volatile u32 seen_error, resume_a;

static void prepare(struct tss32 *task, unsigned selector, const void *entry, u8 (*stack)[4096])
{
	memset(task, 0, sizeof *task);
	task->eip = (u32)entry;
	task->esp = (u32)(stack + 1);
	task->eflags = 2;
	task->eax = 0xbbbb;
	task->cs = CODE32;
	task->ss = task->ds = task->es = DATA;
	task->iomap = sizeof *task;
	set_tss(selector, task, sizeof *task - 1, 0x89);
	runs = 0;
}

static void prepare_b(const void *entry)
{
	prepare(&task_b, TSS_B, entry, &stack_b);
}

static void test_call(void)
{
	prepare_b(task_b_iret);
	u32 kept = 0x1234;
	asm volatile("lcall %1, $0" : "+a"(kept) : "i"(TSS_B) : "memory");
	CHECK("call-runs-the-task", runs == 1 && seen_eax == 0xbbbb);
	CHECK("call-sets-nt", seen_flags & BIT(14));
	CHECK("call-loads-tr", (u16)seen_tr == TSS_B);
	CHECK("call-links-back", (u16)task_b.link == TSS_A);
	CHECK("iret-brings-registers-back", kept == 0x1234);
	CHECK("iret-clears-nt", !(read_flags() & BIT(14)));
	CHECK("iret-frees-the-inner-task", !is_busy(TSS_B) && is_busy(TSS_A));
	CHECK("task-state-was-saved", task_b.eax == 0xb1);
	CHECK("switch-sets-ts", read_cr0() & BIT(3));
	asm volatile("clts");
	asm volatile("lcall %0, $0" : : "i"(TSS_B) : "memory");
	CHECK("task-goes-on-where-it-left", runs == 2 && seen_eax == 0xb1);
}

static void test_jump(void)
{
	prepare_b(task_b_jump);
	asm volatile("ljmp %0, $0" : : "i"(TSS_B) : "memory");
	CHECK("jmp-runs-the-task", runs == 1);
	CHECK("jmp-sets-no-nt", !(seen_flags & BIT(14)));
	CHECK("jmp-moves-the-busy-bit", is_busy(TSS_A) && !is_busy(TSS_B));
	asm volatile("ljmp %0, $0" : : "i"(TSS_B) : "memory");
	CHECK("jmp-again", runs == 2);
}

static void set_task_gate(void)
{
	gdt[GATE / 8] = (u64)TSS_B << 16 | 0xe5ULL << 40;
}

static void test_gates(void)
{
	prepare_b(task_b_iret);
	set_task_gate();
	asm volatile("lcall %0, $0" : : "i"(GATE) : "memory");
	CHECK("call-through-a-task-gate", runs == 1);
	prepare_b(task_b_iret);
	set_gate(0x90, NULL, TSS_B, 0xe5, 0);
	asm volatile("int $0x90" : : : "memory");
	CHECK("int-through-a-task-gate", runs == 1 && seen_flags & BIT(14));
	/* #GP has an error code, which goes on the new task's stack. */
	prepare(&task_c, TSS_C, task_c_iret, &stack_c);
	set_gate(GP, NULL, TSS_C, 0x85, 0);
	seen_error = 0xdead;
	asm volatile("movl $1f, resume_a; mov %0, %%fs; 1:" : : "r"(0x400) : "eax", "memory");
	CHECK("fault-through-a-task-gate", runs == 1);
	CHECK("error-code-is-on-the-new-stack", seen_error == 0x400);
	set_gate(GP, exception_entries[GP], CODE32, 0x8e, 0);
	asm volatile("clts");
}

static void test_checks(void)
{
	prepare_b(task_b_iret);
	set_tss(TSS_B, &task_b, sizeof task_b - 1, 0x8b);
	TRY_AT("lcall %0, $0", : : "i"(TSS_B) : "memory");
	CHECK("call-of-a-busy-task-is-gp", is_fault(GP, TSS_B));
	set_tss(TSS_B, &task_b, sizeof task_b - 1, 0x09);
	TRY_AT("lcall %0, $0", : : "i"(TSS_B) : "memory");
	CHECK("absent-task-is-np", is_fault(NP, TSS_B));
	set_tss(TSS_SHORT, &task_b, 0x66, 0x89);
	TRY_AT("lcall %0, $0", : : "i"(TSS_SHORT) : "memory");
	CHECK("short-tss-is-ts", is_fault(TS, TSS_SHORT));
	TRY_AT("mov %0, %%eax; ltr %%ax", : : "i"(TSS_A) : "eax", "memory");
	CHECK("ltr-of-a-busy-tss-is-gp", fault.vector == GP && fault.error == TSS_A);
	TRY_AT("ltr %w0", : : "r"(DATA) : "memory");
	CHECK("ltr-of-data-is-gp", is_fault(GP, DATA));
	TRY_AT("ltr %w0", : : "r"(0) : "memory");
	CHECK("ltr-of-null-is-gp", is_fault(GP, 0));
	TRY_AT("pushf; orl $0x4000, (%%esp); popf; movl $98f, fault_start; 98: iret", : : : "memory", "cc");
	CHECK("iret-with-nt-to-a-free-task-is-ts", fault.vector == TS);
	asm volatile("pushf; andl $~0x4000, (%%esp); popf" : : : "cc");
}

/*
 * A fault while the new task's segments load comes in the new task, with the bad selector as the error code. Its stack
 * may be the bad one: only a task gate can take it.
 */
static bool faults_with(unsigned selector)
{
	prepare(&task_c, TSS_C, task_c_jump, &stack_c);
	seen_error = 0xdead;
	asm volatile("ljmp %0, $0; clts" : : "i"(TSS_B) : "memory");
	return runs == 1 && seen_error == selector;
}

static void test_bad_segments(void)
{
	set_gate(TS, NULL, TSS_C, 0x85, 0);
	prepare_b(task_b_iret);
	task_b.cs = DATA;
	CHECK("data-in-cs-of-the-new-task-is-ts", faults_with(DATA));
	prepare_b(task_b_iret);
	task_b.ss = CODE32;
	CHECK("code-in-ss-of-the-new-task-is-ts", faults_with(CODE32));
	prepare_b(task_b_iret);
	task_b.ldt = DATA;
	CHECK("data-in-ldtr-of-the-new-task-is-ts", faults_with(DATA));
	prepare_b(task_b_iret);
	task_b.ds = TSS_SHORT;
	CHECK("tss-in-ds-of-the-new-task-is-ts", faults_with(TSS_SHORT));
	set_gate(TS, exception_entries[TS], CODE32, 0x8e, 0);
}

void guest_main(void)
{
	memset(&task_a, 0, sizeof task_a);
	task_a.esp0 = tss.esp0;
	task_a.ss0 = DATA;
	task_a.iomap = sizeof task_a;
	set_tss(TSS_A, &task_a, sizeof task_a - 1, 0x89);
	asm volatile("ltr %w0" : : "r"(TSS_A) : "memory");
	CHECK("ltr-sets-busy", is_busy(TSS_A));
	test_call();
	test_jump();
	test_gates();
	test_checks();
	test_bad_segments();
}
