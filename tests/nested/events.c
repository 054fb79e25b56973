/*
 * Events across VM entry and exit: injection, IDT-vectoring information, interrupts with and without acknowledgement,
 * windows, NMIs real and virtual, the preemption timer, the monitor trap flag, pending debug exceptions, activity
 * states.
 */
#include "vmx.h"

#define VALID             ((u32)EVENT_INFO_VALID)
#define INTERRUPT(vector) (VALID | EVENT_TYPE_INTERRUPT << 8 | (vector))
enum {
	EVENT_TYPE_INTERRUPT,
	EVENT_TYPE_NMI = 2,
	EVENT_TYPE_HARDWARE,
	EVENT_TYPE_SOFT_INT,
	EVENT_TYPE_PRIVILEGED,
	EVENT_TYPE_SOFT_EXC,
	EVENT_TYPE_OTHER
};
enum { VECTOR = 0x60, EOI = 0xb0, ICR_LOW = 0x300, ICR_HIGH = 0x310, SVR = 0xf0 };

/* The local APIC, in xAPIC mode at its usual place. */
static void apic_write(u32 offset, u32 value)
{
	*(volatile u32 *)(0xfee00000UL + offset) = value;
}

static void send_self_interrupt(void)
{
	apic_write(ICR_LOW, 0x40000 | VECTOR);
}

/* Interrupts that an instruction causes through the APIC need not come at once; they come at branches at the latest. */
static void let_come(void)
{
	asm volatile("jmp 1f; 1: nop; jmp 2f; 2:" : : : "memory");
}

/* To APIC ID 0: the shorthand "self" is for fixed interrupts only. */
static void send_self_nmi(void)
{
	apic_write(ICR_HIGH, 0);
	apic_write(ICR_LOW, 4 << 8);
}

/* What handlers, in L1 or L2, saw. */
static volatile struct {
	u64 count, vector, ip, flags, error;
} seen;

static void note(struct frame *f)
{
	seen.count++;
	seen.vector = f->vector;
	seen.ip = f->ip;
	seen.flags = f->flags;
	seen.error = f->error;
}

static void note_interrupt(struct frame *f)
{
	note(f);
	apic_write(EOI, 0);
}

static void forget(void)
{
	seen.count = 0;
	seen.vector = ~0ULL;
}

/* --- injection --- */

L2(l2_vmcall, "vmcall; vmcall")
L2(l2_nops, "nop; nop; nop; vmcall")

struct injection {
	const char *name;
	u32 type, vector, length;
	bool has_error;
};

static const struct injection injections[] = {
	{ "external-interrupt", EVENT_TYPE_INTERRUPT, VECTOR, 0, false },
	{ "nmi", EVENT_TYPE_NMI, 2, 0, false },
	{ "exception", EVENT_TYPE_HARDWARE, UD, 0, false },
	{ "exception-with-error-code", EVENT_TYPE_HARDWARE, GP, 0, true },
	{ "software-interrupt", EVENT_TYPE_SOFT_INT, 0x61, 2, false },
	{ "software-interrupt-of-length-0", EVENT_TYPE_SOFT_INT, 0x61, 0, false },
	{ "privileged-software-exception", EVENT_TYPE_PRIVILEGED, DB, 1, false },
	{ "software-exception", EVENT_TYPE_SOFT_EXC, BP, 1, false },
};

static void test_injection(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(injections); i++) {
		const struct injection *e = &injections[i];
		handlers[e->vector] = note;
		vmcs_make(l2_nops);
		vmwrite(F(guest_rflags), 2 | FLAG_IF);
		vmwrite(F(entry_event), VALID | e->type << 8 | e->vector | (e->has_error ? EVENT_INFO_ERROR : 0));
		vmwrite(F(entry_event_error), 0x5670);
		vmwrite(F(entry_insn_length), e->length);
		forget();
		CHECK_EQUAL(e->name, vmx_run(), EXIT_VMCALL);
		CHECK("is-delivered-once", seen.count == 1 && seen.vector == e->vector);
		CHECK_EQUAL("return-address", seen.ip, (u64)l2_nops + e->length);
		CHECK_EQUAL("error-code", seen.error, e->has_error ? 0x5670 : 0);
		CHECK_EQUAL("event-is-used-up", vmread(F(entry_event)) >> 31, 0);
		handlers[e->vector] = NULL;
	}
}

/* An injected exception is not looked up in the exception bitmap. */
static void test_injection_is_not_intercepted(void)
{
	handlers[UD] = note;
	vmcs_make(l2_vmcall);
	vmwrite(F(exception_bitmap), BIT(UD));
	vmwrite(F(entry_event), VALID | EVENT_TYPE_HARDWARE << 8 | UD);
	forget();
	CHECK_EQUAL("injected-exception-does-not-exit", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("it-is-delivered", seen.count, 1);
	handlers[UD] = NULL;
}

/* --- IDT-vectoring information --- */

static u64 vectoring_stack[1024] ALIGNED(4096);

static void test_vectoring(void)
{
	handlers[UD] = note;
	vmcs_make(l2_vmcall);
	ept_use();
	*ept_entry(vectoring_stack) &= ~7ULL;
	*ept_entry((u8 *)vectoring_stack + 4096) &= ~7ULL;
	invept(2, 0);
	vmwrite(F(guest_rsp), (u64)vectoring_stack + sizeof(vectoring_stack) - 64);
	vmwrite(F(entry_event), VALID | EVENT_TYPE_SOFT_INT << 8 | 0x61);
	vmwrite(F(entry_insn_length), 2);
	CHECK_EQUAL("ept-violation-of-the-stack-in-delivery", vmx_run(), EXIT_EPT_VIOLATION);
	CHECK_EQUAL("vectoring-is-the-software-interrupt", vmread(F(vectoring_event)),
		    VALID | EVENT_TYPE_SOFT_INT << 8 | 0x61);
	CHECK_EQUAL("its-length-is-kept", vmread(F(exit_insn_length)), 2);
	CHECK_EQUAL("rip-is-before-the-event", vmread(F(guest_rip)), (u64)l2_vmcall);
	vmwrite(F(entry_event), VALID | EVENT_TYPE_HARDWARE << 8 | EVENT_INFO_ERROR | GP);
	vmwrite(F(entry_event_error), 0x40);
	CHECK_EQUAL("once-more-with-an-error-code", vmx_run(), EXIT_EPT_VIOLATION);
	CHECK_EQUAL("vectoring-is-the-exception", vmread(F(vectoring_event)),
		    VALID | EVENT_TYPE_HARDWARE << 8 | EVENT_INFO_ERROR | GP);
	CHECK_EQUAL("vectoring-error-code", vmread(F(vectoring_error)), 0x40);
	vmcs_set(F(pin_controls), PIN_NMI | PIN_VIRTUAL_NMIS);
	vmwrite(F(entry_event), VALID | EVENT_TYPE_NMI << 8 | NMI);
	CHECK_EQUAL("and-with-an-nmi", vmx_run(), EXIT_EPT_VIOLATION);
	CHECK_EQUAL("vectoring-is-the-nmi", vmread(F(vectoring_event)), VALID | EVENT_TYPE_NMI << 8 | NMI);
	CHECK_EQUAL("its-delivery-blocks-virtual-nmis", vmread(F(guest_interruptibility)), INTR_STATE_NMI);
	handlers[NMI] = note;
	forget();
	send_self_nmi();
	let_come();
	CHECK_EQUAL("but-none-in-root", seen.count, 1);
	handlers[NMI] = NULL;
	ept_make();
	invept(2, 0);
	vmwrite(F(entry_event), 0);
	CHECK_EQUAL("mapped-it-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("an-exit-without-delivery-has-no-vectoring", vmread(F(vectoring_event)) >> 31, 0);
	handlers[UD] = NULL;
}

/* --- external interrupts --- */

L2(l2_sti_nop, "sti; nop; nop; nop; vmcall")
L2(l2_sti_hlt, "sti; hlt; nop; vmcall")

static void test_external_interrupt(void)
{
	handlers[VECTOR] = note_interrupt;
	forget();
	vmcs_make(l2_nops);
	vmcs_set(F(pin_controls), PIN_EXTERNAL_INTERRUPT);
	send_self_interrupt();
	CHECK_EQUAL("interrupt-exits-even-with-if-clear", vmx_run(), EXIT_EXTERNAL_INTERRUPT);
	CHECK_EQUAL("before-the-first-instruction", vmread(F(guest_rip)), (u64)l2_nops);
	CHECK_EQUAL("without-acknowledgement-there-is-no-vector", vmread(F(exit_event)) >> 31, 0);
	irq_enable();
	let_come();
	irq_disable();
	CHECK("and-the-interrupt-is-still-pending", seen.count == 1 && seen.vector == VECTOR);

	vmcs_make(l2_nops);
	vmcs_set(F(pin_controls), PIN_EXTERNAL_INTERRUPT);
	vmcs_set(F(exit_controls), EXITC_ACK_INTERRUPT);
	send_self_interrupt();
	CHECK_EQUAL("interrupt-exits-with-acknowledgement", vmx_run(), EXIT_EXTERNAL_INTERRUPT);
	CHECK_EQUAL("and-says-its-vector", vmread(F(exit_event)), INTERRUPT(VECTOR));
	apic_write(EOI, 0);

	forget();
	vmcs_make(l2_sti_nop);
	send_self_interrupt();
	CHECK_EQUAL("without-the-control-the-guest-takes-it", vmx_run(), EXIT_VMCALL);
	CHECK("after-the-shadow-of-sti", seen.count == 1 && seen.ip == (u64)l2_sti_nop + 2);
	forget();
	vmcs_make(l2_nops);
	send_self_interrupt();
	CHECK_EQUAL("with-if-clear-it-waits", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-is-not-taken", seen.count, 0);
	irq_enable();
	let_come();
	irq_disable();
	CHECK_EQUAL("but-kept-for-root", seen.count, 1);
}

/* --- INIT, shutdown --- */

static void test_init(void)
{
	apic_write(ICR_HIGH, 0);
	apic_write(ICR_LOW, 0x4000 | 5 << 8);
	let_come();
	CHECK("init-is-blocked-in-root-operation", true);
	CHECK_EQUAL("and-exits-after-the-next-entry", vmx_run_fresh(l2_nops), EXIT_INIT);
	CHECK_EQUAL("before-the-first-instruction", vmread(F(guest_rip)), (u64)l2_nops);
	CHECK_EQUAL("once", vmx_run(), EXIT_VMCALL);
}

/* One that waits for a start-up IPI is woken by nothing that comes here. */
static void test_wait_for_sipi(void)
{
	vmcs_make(l2_nops);
	vmwrite(F(guest_activity), ACTIVITY_WAIT_SIPI);
	vmwrite(F(entry_event), INTERRUPT(VECTOR));
	vmwrite(F(guest_rflags), 2 | FLAG_IF);
	CHECK_EQUAL("guest-that-waits-for-a-sipi-takes-no-event", vmx_run(),
		    EXIT_ENTRY_GUEST_STATE | (u32)EXIT_ENTRY_FAILURE);
}

static void test_shutdown(void)
{
	vmcs_make(l2_nops);
	vmcs_set(F(pin_controls), PIN_PREEMPTION_TIMER | PIN_EXTERNAL_INTERRUPT);
	vmwrite(F(preemption_timer), 20000);
	vmwrite(F(guest_activity), ACTIVITY_SHUTDOWN);
	send_self_interrupt();
	CHECK_EQUAL("a-guest-in-shutdown-takes-no-interrupt", vmx_run(), EXIT_PREEMPTION_TIMER);
	CHECK_EQUAL("and-stays-there", vmread(F(guest_activity)), ACTIVITY_SHUTDOWN);
	handlers[VECTOR] = note_interrupt;
	irq_enable();
	let_come();
	irq_disable();
	handlers[VECTOR] = NULL;
}

/* --- windows --- */

static void test_interrupt_window(void)
{
	vmcs_make(l2_sti_nop);
	vmcs_set(F(cpu_controls), CPU_INTERRUPT_WINDOW);
	CHECK_EQUAL("window-opens-with-if", vmx_run(), EXIT_INTERRUPT_WINDOW);
	CHECK_EQUAL("after-the-shadow-of-sti", vmread(F(guest_rip)), (u64)l2_sti_nop + 2);
	CHECK_EQUAL("then-nothing-blocks", vmread(F(guest_interruptibility)), 0);
	vmcs_make(l2_nops);
	vmcs_set(F(cpu_controls), CPU_INTERRUPT_WINDOW);
	CHECK_EQUAL("with-if-clear-it-stays-shut", vmx_run(), EXIT_VMCALL);
	vmcs_make(l2_nops);
	vmcs_set(F(cpu_controls), CPU_INTERRUPT_WINDOW);
	vmwrite(F(guest_rflags), 2 | FLAG_IF);
	CHECK_EQUAL("an-open-window-exits-at-once", vmx_run(), EXIT_INTERRUPT_WINDOW);
	CHECK_EQUAL("before-the-first-instruction", vmread(F(guest_rip)), (u64)l2_nops);
	vmwrite(F(guest_interruptibility), INTR_STATE_MOV_SS);
	CHECK_EQUAL("mov-ss-shadow-delays-it", vmx_run(), EXIT_INTERRUPT_WINDOW);
	CHECK_EQUAL("by-one-instruction", vmread(F(guest_rip)), (u64)l2_nops + 1);
	vmwrite(F(guest_rip), (u64)l2_nops);
	vmwrite(F(guest_activity), ACTIVITY_HLT);
	CHECK_EQUAL("a-halted-guest-has-its-window-too", vmx_run(), EXIT_INTERRUPT_WINDOW);
}

L2(l2_iret_nop, "mov %ss, %eax; mov %rsp, %rcx; push %rax; push %rcx; pushf; mov %cs, %eax; push %rax;"
		"push $1f; iretq; 1: nop; nop; vmcall")

static void make_virtual_nmis(void (*code)(void))
{
	vmcs_make(code);
	vmcs_set(F(pin_controls), PIN_NMI | PIN_VIRTUAL_NMIS);
}

static void test_nmi_window(void)
{
	make_virtual_nmis(l2_nops);
	vmcs_set(F(cpu_controls), CPU_NMI_WINDOW);
	CHECK_EQUAL("nmi-window-exits-at-once", vmx_run(), EXIT_NMI_WINDOW);
	make_virtual_nmis(l2_iret_nop);
	vmcs_set(F(cpu_controls), CPU_NMI_WINDOW);
	vmwrite(F(guest_interruptibility), INTR_STATE_NMI);
	CHECK_EQUAL("blocked-by-nmi-it-opens-with-iret", vmx_run(), EXIT_NMI_WINDOW);
	CHECK("right-behind-it", vmread(F(guest_rip)) > (u64)l2_iret_nop + 10);
	CHECK_EQUAL("blocking-is-over", vmread(F(guest_interruptibility)), 0);
	make_virtual_nmis(l2_nops);
	vmwrite(F(guest_interruptibility), INTR_STATE_NMI);
	CHECK_EQUAL("without-iret-blocking-lasts", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-is-saved", vmread(F(guest_interruptibility)), INTR_STATE_NMI);
}

static void test_nmi(void)
{
	handlers[NMI] = note;
	forget();
	vmcs_make(l2_nops);
	send_self_nmi();
	let_come();
	CHECK_EQUAL("nmi-in-root-is-taken", seen.count, 1);
	make_virtual_nmis(l2_nops);
	vmwrite(F(entry_event), VALID | EVENT_TYPE_NMI << 8 | 2);
	forget();
	CHECK_EQUAL("injected-nmi-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-is-delivered", seen.count, 1);
	CHECK_EQUAL("its-iret-ends-blocking", vmread(F(guest_interruptibility)), 0);
}

L2(l2_send_nmi, "mov $0xfee00310, %eax; movl $0, (%rax); movl $0x400, -0x10(%rax); jmp 1f; 1: nop; vmcall")
static void test_nmi_exit(void)
{
	make_virtual_nmis(l2_send_nmi);
	vmwrite(F(guest_interruptibility), INTR_STATE_NMI);
	forget();
	CHECK_EQUAL("nmi-exits-even-with-virtual-nmis-blocked", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("information-nmi", vmread(F(exit_event)), VALID | EVENT_TYPE_NMI << 8 | NMI);
	CHECK_EQUAL("virtual-blocking-is-saved", vmread(F(guest_interruptibility)), INTR_STATE_NMI);
	send_self_nmi();
	let_come();
	CHECK_EQUAL("after-the-exit-nmis-are-blocked", seen.count, 0);
	asm volatile("mov %%ss, %%eax; mov %%rsp, %%rcx; push %%rax; push %%rcx; pushf; mov %%cs, %%eax; push %%rax;"
		     "push $1f; iretq; 1: nop; jmp 2f; 2:"
		     :
		     :
		     : "rax", "rcx", "memory");
	CHECK_EQUAL("until-the-next-iret", seen.count, 1);
	vmcs_make(l2_send_nmi);
	forget();
	CHECK_EQUAL("without-the-control-the-guest-takes-it", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("once", seen.count, 1);
	handlers[NMI] = NULL;
}

/* An IRET that unblocks NMIs and then faults says so in bit 12. */
L2(l2_bad_iret, "mov $0x7fff00000000, %rsp; iretq")
static void test_iret_fault(void)
{
	make_virtual_nmis(l2_bad_iret);
	vmwrite(F(guest_interruptibility), INTR_STATE_NMI);
	vmwrite(F(exception_bitmap), BIT(PF));
	CHECK_EQUAL("faulting-iret-exits", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("bit-12-tells-of-unblocking", vmread(F(exit_event)),
		    VALID | EVENT_INFO_IRET | EVENT_TYPE_HARDWARE << 8 | EVENT_INFO_ERROR | PF);
	CHECK_EQUAL("blocking-is-over-in-the-saved-state", vmread(F(guest_interruptibility)), 0);
	make_virtual_nmis(l2_bad_iret);
	vmwrite(F(exception_bitmap), BIT(PF));
	vmx_run();
	CHECK("without-blocking-bit-12-is-clear", !(vmread(F(exit_event)) & EVENT_INFO_IRET));
}

/* --- preemption timer --- */

L2(l2_loop, "1: pause; jmp 1b")

static void make_timer(void (*code)(void), u32 value)
{
	vmcs_make(code);
	vmcs_set(F(pin_controls), PIN_PREEMPTION_TIMER);
	vmwrite(F(preemption_timer), value);
}

static void test_preemption_timer(void)
{
	unsigned shift = rdmsr(MSR_VMX_MISC) & 31;
	make_timer(l2_loop, 100000);
	u64 before = rdtsc();
	CHECK_EQUAL("timer-ends-a-loop", vmx_run(), EXIT_PREEMPTION_TIMER);
	CHECK("not-early", rdtsc() - before >= 99999ULL << shift);
	CHECK_EQUAL("value-is-kept-without-the-save-control", vmread(F(preemption_timer)), 100000);
	make_timer(l2_nops, 0);
	CHECK_EQUAL("timer-of-0-exits-at-once", vmx_run(), EXIT_PREEMPTION_TIMER);
	CHECK_EQUAL("before-the-first-instruction", vmread(F(guest_rip)), (u64)l2_nops);
	make_timer(l2_nops, 0);
	handlers[0x61] = note;
	vmwrite(F(entry_event), VALID | EVENT_TYPE_SOFT_INT << 8 | 0x61);
	vmwrite(F(entry_insn_length), 0);
	forget();
	CHECK_EQUAL("but-after-an-injected-event", vmx_run(), EXIT_PREEMPTION_TIMER);
	CHECK_EQUAL("which-has-reached-its-handler", seen.count, 0);
	CHECK("rip-is-in-the-handler", vmread(F(guest_rip)) != (u64)l2_nops);
	handlers[0x61] = NULL;
	make_timer(l2_vmcall, 0x7fffffff);
	vmcs_set(F(exit_controls), EXITC_SAVE_PREEMPTION);
	CHECK_EQUAL("another-exit-comes-first", vmx_run(), EXIT_VMCALL);
	u64 value = vmread(F(preemption_timer));
	CHECK("and-saves-what-is-left", value <= 0x7fffffff && value > 0x70000000);
	make_timer(l2_vmcall, 20000);
	vmwrite(F(guest_activity), ACTIVITY_HLT);
	CHECK_EQUAL("timer-wakes-a-halted-guest", vmx_run(), EXIT_PREEMPTION_TIMER);
	CHECK_EQUAL("whose-state-stays-halted", vmread(F(guest_activity)), ACTIVITY_HLT);
}

/* A guest that reads the TSC all the time never reads one past the timer's end. */
L2(l2_rdtsc_loop, "rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rsi;"
		  "1: rdtsc; shl $32, %rdx; or %rdx, %rax; mov %rax, %rdi; jmp 1b")

static void test_timer_against_tsc(void)
{
	const u32 value = 20000;
	unsigned shift = rdmsr(MSR_VMX_MISC) & 31;
	for (unsigned i = 0; i < 20; i++) {
		make_timer(l2_rdtsc_loop, value);
		l2_regs[L2_RSI] = l2_regs[L2_RDI] = 0;
		if (vmx_run() != EXIT_PREEMPTION_TIMER || l2_regs[L2_RDI] >= ((l2_regs[L2_RSI] >> shift) + value)
										     << shift) {
			CHECK("no-tsc-past-the-timers-end", false);
			return;
		}
	}
	CHECK("no-tsc-past-the-timers-end", true);
}

/* --- monitor trap flag --- */

static void test_mtf(void)
{
	vmcs_make(l2_nops);
	vmcs_set(F(cpu_controls), CPU_MTF);
	for (unsigned i = 1; i <= 3; i++) {
		CHECK_EQUAL("mtf-exits-after-an-instruction", vmx_run(), EXIT_MTF);
		CHECK_EQUAL("after-just-one", vmread(F(guest_rip)), (u64)l2_nops + i);
	}
	vmcs_make(l2_nops);
	handlers[0x61] = note;
	vmcs_set(F(cpu_controls), CPU_MTF);
	vmwrite(F(entry_event), VALID | EVENT_TYPE_SOFT_INT << 8 | 0x61);
	vmwrite(F(entry_insn_length), 1);
	forget();
	CHECK_EQUAL("mtf-exits-after-an-injected-event", vmx_run(), EXIT_MTF);
	CHECK("before-its-handler-runs", seen.count == 0 && vmread(F(guest_rip)) != (u64)l2_nops + 1);
	handlers[0x61] = NULL;
	vmcs_make(l2_nops);
	vmwrite(F(entry_event), VALID | EVENT_TYPE_OTHER << 8);
	CHECK_EQUAL("a-pending-mtf-can-be-injected", vmx_run(), EXIT_MTF);
	CHECK_EQUAL("without-an-instruction", vmread(F(guest_rip)), (u64)l2_nops);
	CHECK_EQUAL("and-is-over-then", vmx_run(), EXIT_VMCALL);
}

/* --- pending debug exceptions, shadows, activity --- */

static void test_pending_debug(void)
{
	handlers[DB] = note;
	vmcs_make(l2_nops);
	vmwrite(F(guest_pending_db), BIT(14) | 1 | PENDING_DB_ENABLED);
	forget();
	CHECK_EQUAL("pending-debug-exception-runs", vmx_run(), EXIT_VMCALL);
	CHECK("is-delivered-before-the-first-instruction", seen.count == 1 && seen.ip == (u64)l2_nops);
	CHECK_EQUAL("with-its-dr6-bits", read_dr6() & 0x400f, BIT(14) | 1);
	write_dr6(0xffff0ff0);
	vmcs_make(l2_nops);
	vmwrite(F(guest_pending_db), BIT(14));
	vmwrite(F(exception_bitmap), BIT(DB));
	CHECK_EQUAL("intercepted-it-exits", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("qualification-has-its-bits", vmread(F(qualification)), BIT(14));
	CHECK_EQUAL("and-nothing-is-pending-any-more", vmread(F(guest_pending_db)), 0);
	handlers[DB] = NULL;
}

L2(l2_mov_ss, "mov %ss, %eax; mov %eax, %ss; vmcall")
L2(l2_sti, "sti; vmcall")
/* The APIC is read, and then there is no stack. */
L2(l2_sti_device, "mov $0xfee00020, %edi; mov $1 << 62, %rsp; sti; pushq (%rdi); vmcall")
L2(l2_sti_again, "mov $2, %ecx; 1: sti; dec %ecx; jz 2f; jmp 1b; 2: sti; vmcall")

static void test_shadows(void)
{
	vmx_run_fresh(l2_mov_ss);
	CHECK_EQUAL("exit-in-mov-ss-shadow-saves-it", vmread(F(guest_interruptibility)), INTR_STATE_MOV_SS);
	vmx_run_fresh(l2_sti);
	CHECK_EQUAL("exit-in-sti-shadow-saves-it", vmread(F(guest_interruptibility)), INTR_STATE_STI);
	vmcs_make(l2_sti_device);
	vmwrite(F(exception_bitmap), BIT(SS));
	CHECK_EQUAL("fault-behind-a-device-access", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("is-in-sti-shadow-too", vmread(F(guest_interruptibility)), INTR_STATE_STI);
	vmx_run_fresh(l2_sti_again);
	CHECK_EQUAL("sti-with-if-set-makes-none", vmread(F(guest_interruptibility)), 0);
	vmcs_make(l2_mov_ss);
	vmwrite(F(guest_rflags), 2 | FLAG_TF);
	vmwrite(F(exception_bitmap), BIT(DB));
	vmwrite(F(guest_rip), (u64)l2_mov_ss + 2);
	CHECK_EQUAL("exit-in-mov-ss-shadow-with-tf", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("leaves-the-trap-pending", vmread(F(guest_pending_db)), BIT(14));
}

static void test_activity(void)
{
	handlers[VECTOR] = note_interrupt;
	vmcs_make(l2_vmcall);
	vmwrite(F(guest_rflags), 2 | FLAG_IF);
	vmwrite(F(guest_activity), ACTIVITY_HLT);
	send_self_interrupt();
	forget();
	CHECK_EQUAL("interrupt-wakes-a-halted-guest", vmx_run(), EXIT_VMCALL);
	CHECK("through-its-handler", seen.count == 1 && seen.ip == (u64)l2_vmcall);
	vmcs_make(l2_vmcall);
	vmwrite(F(guest_activity), ACTIVITY_HLT);
	vmwrite(F(guest_rflags), 2 | FLAG_IF);
	vmwrite(F(entry_event), INTERRUPT(VECTOR));
	forget();
	CHECK_EQUAL("injection-wakes-it-too", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-is-delivered", seen.count, 1);
	vmcs_make(l2_sti_hlt);
	send_self_interrupt();
	forget();
	CHECK_EQUAL("hlt-in-the-guest-waits-for-an-interrupt", vmx_run(), EXIT_VMCALL);
	CHECK("that-returns-behind-it", seen.count == 1 && seen.ip == (u64)l2_sti_hlt + 2);
	handlers[VECTOR] = NULL;
}

void guest_main(void)
{
	apic_write(SVR, 0x1ff);
	vmx_start();
	test_injection();
	test_injection_is_not_intercepted();
	test_vectoring();
	test_external_interrupt();
	test_init();
	test_shutdown();
	test_wait_for_sipi();
	test_interrupt_window();
	test_nmi_window();
	test_nmi();
	test_nmi_exit();
	test_iret_fault();
	test_preemption_timer();
	test_timer_against_tsc();
	test_mtf();
	test_pending_debug();
	test_shadows();
	test_activity();
}
