/*
 * Events across VMRUN and #VMEXIT: injection, EXITINTINFO, exceptions, physical interrupts with and without masking,
 * GIF, virtual interrupts and NMIs, shutdown, traps.
 */
#include "svm.h"

enum { VECTOR = 0x60, VIRTUAL = 0x61, EOI = 0xb0, ICR_LOW = 0x300, ICR_HIGH = 0x310, SVR = 0xf0 };

/* The local APIC, in xAPIC mode at its usual place. */
static void apic_write(u32 offset, u32 value)
{
	*(volatile u32 *)(0xfee00000UL + offset) = value;
}

static void send_self_interrupt(void)
{
	apic_write(ICR_LOW, 0x40000 | VECTOR);
}

static void send_self_nmi(void)
{
	apic_write(ICR_HIGH, 0);
	apic_write(ICR_LOW, 4 << 8);
}

/* Interrupts that an instruction causes through the APIC come at branches at the latest. */
static void let_come(void)
{
	asm volatile("jmp 1f; 1: nop; jmp 2f; 2:" : : : "memory");
}

/* What handlers, in L1 or L2, saw. */
static volatile struct {
	u64 count, vector, ip, error;
} seen;

static void note(struct frame *f)
{
	seen.count++;
	seen.vector = f->vector;
	seen.ip = f->ip;
	seen.error = f->error;
	if (f->vector == VECTOR)
		apic_write(EOI, 0);
}

static void forget(void)
{
	seen.count = 0;
	seen.vector = NO_FAULT;
}

L2(l2_vmmcall, "vmmcall")
L2(l2_nops, "nop; nop; vmmcall")
L2(l2_sti, "sti; nop; nop; vmmcall")
L2(l2_spin, "1: pause; jmp 1b")
L2(l2_ud, "ud2; vmmcall")
L2(l2_int3, "int3; vmmcall")
L2(l2_int1, ".byte 0xf1; vmmcall")
L2(l2_int_80, "int $0x80; vmmcall")
L2(l2_page_fault, "mov 0x7fff00000000, %rax; vmmcall")
L2(l2_hlt, "sti; hlt; vmmcall")

/* --- injection --- */

static u64 inject(u64 event)
{
	vmcb_make(l2_vmmcall);
	vmcb.control.event_inj = event;
	forget();
	return svm_run();
}

static void test_injection(void)
{
	CHECK_EQUAL("l2-runs", inject(EVENTINJ_VALID | VECTOR), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("an-injected-interrupt-comes-whatever-if-is", seen.vector, VECTOR);
	CHECK_EQUAL("before-the-first-instruction", seen.ip, (u64)l2_vmmcall);
	CHECK_EQUAL("eventinj-is-cleared", vmcb.control.event_inj, 0);
	CHECK_EQUAL("l2-runs", inject(EVENTINJ_VALID | EVENTINJ_EXCEPTION << 8 | EVENTINJ_ERROR | GP | 0x1238ULL << 32),
		    SVM_EXIT_VMMCALL);
	CHECK_EQUAL("an-injected-exception-comes", seen.vector, GP);
	CHECK_EQUAL("with-its-error-code", seen.error, 0x1238);
	CHECK_EQUAL("l2-runs", inject(EVENTINJ_VALID | EVENTINJ_NMI << 8), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("an-injected-nmi-comes", seen.vector, NMI);
	vmcb_make(l2_vmmcall);
	vmcb.control.event_inj = EVENTINJ_VALID | EVENTINJ_SOFT << 8 | 0x80;
	vmcb.control.next_rip = (u64)l2_vmmcall + 2;
	vmcb.save.rip = (u64)l2_vmmcall;
	handlers[0x80] = note;
	intercept(SVM_EXIT_EXCEPTION + UD);
	svm_run();
	CHECK_EQUAL("a-software-interrupt-returns-to-the-next-rip", seen.ip, (u64)l2_vmmcall + 2);
}

/* --- exceptions --- */

static void test_exceptions(void)
{
	vmcb_make(l2_ud);
	intercept(SVM_EXIT_EXCEPTION + UD);
	CHECK_EQUAL("ud-exits", svm_run(), SVM_EXIT_EXCEPTION + UD);
	CHECK_EQUAL("at-its-instruction", vmcb.save.rip, (u64)l2_ud);
	CHECK_EQUAL("a-fault-has-no-next-rip", vmcb.control.next_rip, 0);
	vmcb_make(l2_int3);
	intercept(SVM_EXIT_EXCEPTION + BP);
	CHECK_EQUAL("int3-exits", svm_run(), SVM_EXIT_EXCEPTION + BP);
	CHECK_EQUAL("at-the-instruction", vmcb.save.rip, (u64)l2_int3);
	CHECK_EQUAL("whose-next-rip-is-known", vmcb.control.next_rip, (u64)l2_int3 + 1);
	vmcb_make(l2_int1);
	intercept(SVM_EXIT_EXCEPTION + DB);
	CHECK_EQUAL("int1-exits-as-db", svm_run(), SVM_EXIT_EXCEPTION + DB);
	CHECK_EQUAL("behind-the-instruction", vmcb.save.rip, (u64)l2_int1 + 1);
	vmcb_make(l2_page_fault);
	vmcb.save.cr2 = 0x55;
	intercept(SVM_EXIT_EXCEPTION + PF);
	CHECK_EQUAL("page-fault-exits", svm_run(), SVM_EXIT_EXCEPTION + PF);
	CHECK_EQUAL("exitinfo1-is-the-error-code", vmcb.control.exit_info1, 0);
	CHECK_EQUAL("exitinfo2-is-the-address", vmcb.control.exit_info2, 0x7fff00000000);
	CHECK_EQUAL("cr2-stays", vmcb.save.cr2, 0x55);
	CHECK("the-instructions-bytes-are-there", vmcb.control.insn_length && vmcb.control.insn_bytes[0] == 0x48);
}

static void no_idt(void)
{
	vmcb.save.idtr.limit = 0;
}

static void test_delivery(void)
{
	vmcb_make(l2_int_80);
	no_idt();
	intercept(SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("a-fault-of-delivery-exits", svm_run(), SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("exitintinfo-has-the-event", (u32)vmcb.control.exit_int_info,
		    EVENTINJ_VALID | EVENTINJ_SOFT << 8 | 0x80);
	CHECK_EQUAL("rip-is-the-instructions", vmcb.save.rip, (u64)l2_int_80);
	vmcb_make(l2_vmmcall);
	no_idt();
	intercept(SVM_EXIT_EXCEPTION + GP);
	vmcb.control.event_inj = EVENTINJ_VALID | EVENTINJ_EXCEPTION << 8 | EVENTINJ_ERROR | NP | 8ULL << 32;
	CHECK_EQUAL("so-does-that-of-an-injected-one", svm_run(), SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("exitintinfo-is-eventinj", vmcb.control.exit_int_info,
		    EVENTINJ_VALID | EVENTINJ_EXCEPTION << 8 | EVENTINJ_ERROR | NP | 8ULL << 32);
	vmcb_make(l2_ud);
	no_idt();
	CHECK_EQUAL("three-faults-are-a-shutdown", svm_run(), SVM_EXIT_SHUTDOWN);
	vmcb_make(l2_ud);
	no_idt();
	intercept(SVM_EXIT_EXCEPTION + 8);
	CHECK_EQUAL("double-faults-can-be-had-before", svm_run(), SVM_EXIT_EXCEPTION + 8);
}

/* --- physical interrupts --- */

static void test_masking(void)
{
	vmcb_make(l2_nops);
	vmcb.control.int_ctl = V_INTR_MASKING;
	intercept(SVM_EXIT_INTR);
	forget();
	irq_disable();
	send_self_interrupt();
	CHECK_EQUAL("the-hosts-if-masks-it", svm_run(), SVM_EXIT_VMMCALL);
	vmcb.save.rip = (u64)l2_nops;
	clgi();
	irq_enable();
	CHECK_EQUAL("or-lets-it-exit", svm_run_gif_clear(), SVM_EXIT_INTR);
	CHECK_EQUAL("before-the-guest-ran", vmcb.save.rip, (u64)l2_nops);
	CHECK_EQUAL("gif-holds-it-back", seen.count, 0);
	stgi();
	let_come();
	CHECK_EQUAL("and-then-the-host-takes-it", seen.count, 1);
	irq_disable();
}

static void test_no_masking(void)
{
	vmcb_make(l2_sti);
	intercept(SVM_EXIT_INTR);
	forget();
	send_self_interrupt();
	CHECK_EQUAL("the-guests-if-lets-it-exit", svm_run(), SVM_EXIT_INTR);
	CHECK_EQUAL("after-the-shadow-of-sti", vmcb.save.rip, (u64)l2_sti + 2);
	no_intercept(SVM_EXIT_INTR);
	CHECK_EQUAL("without-intercept-the-guest-goes-on", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-takes-it", seen.vector, VECTOR);
	vmcb_make(l2_spin);
	intercept(SVM_EXIT_INTR);
	vmcb.save.rflags |= FLAG_IF;
	send_self_interrupt();
	CHECK_EQUAL("one-that-waits-exits-at-once", svm_run(), SVM_EXIT_INTR);
	irq_enable();
	let_come();
	irq_disable();
}

static void test_halt(void)
{
	vmcb_make(l2_hlt);
	forget();
	vmcb.control.int_ctl = V_INTR_MASKING | V_IRQ | 15ULL << 16;
	vmcb.control.int_vector = VIRTUAL;
	CHECK_EQUAL("a-virtual-interrupt-ends-hlt", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-comes", seen.vector, VIRTUAL);
}

static void test_nmi(void)
{
	vmcb_make(l2_nops);
	intercept(SVM_EXIT_NMI);
	forget();
	clgi();
	send_self_nmi();
	let_come();
	CHECK_EQUAL("gif-holds-nmis-back", seen.count, 0);
	CHECK_EQUAL("vmrun-lets-it-exit", svm_run_gif_clear(), SVM_EXIT_NMI);
	CHECK_EQUAL("it-is-still-pending", seen.count, 0);
	stgi();
	let_come();
	CHECK_EQUAL("and-comes-with-gif", seen.vector, NMI);
	CHECK_EQUAL("once", seen.count, 1);
	vmcb_make(l2_nops);
	forget();
	clgi();
	send_self_nmi();
	CHECK_EQUAL("without-intercept-the-guest-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-takes-it", seen.vector, NMI);
}

/* --- virtual interrupts --- */

static u64 run_virtual(void (*code)(void), u64 ctl)
{
	vmcb_make(code);
	vmcb.control.int_ctl = (u32)(V_INTR_MASKING | V_IRQ | ctl);
	vmcb.control.int_vector = VIRTUAL;
	forget();
	return svm_run();
}

#define PRIO(n) ((u64)(n) << 16)

static void test_virtual_interrupts(void)
{
	CHECK_EQUAL("l2-runs", run_virtual(l2_nops, PRIO(15)), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("the-guests-if-masks-it", seen.count, 0);
	CHECK("it-stays-pending", vmcb.control.int_ctl & V_IRQ);
	CHECK_EQUAL("l2-runs", run_virtual(l2_sti, PRIO(15)), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("sti-lets-it-come", seen.vector, VIRTUAL);
	CHECK_EQUAL("behind-its-shadow", seen.ip, (u64)l2_sti + 2);
	CHECK("it-is-no-longer-pending", !(vmcb.control.int_ctl & V_IRQ));
	CHECK_EQUAL("l2-runs", run_virtual(l2_sti, PRIO(5) | 5), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("v-tpr-masks-it", seen.count, 0);
	CHECK_EQUAL("l2-runs", run_virtual(l2_sti, PRIO(5) | 5 | V_IGN_TPR), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("unless-told-not-to", seen.vector, VIRTUAL);
	vmcb_make(l2_sti);
	vmcb.control.int_ctl = V_INTR_MASKING | V_IRQ | (u32)PRIO(5) | V_IGN_TPR;
	intercept(SVM_EXIT_VINTR);
	forget();
	CHECK_EQUAL("the-intercept-opens-a-window", svm_run(), SVM_EXIT_VINTR);
	CHECK_EQUAL("where-it-would-have-come", vmcb.save.rip, (u64)l2_sti + 2);
	CHECK_EQUAL("but-it-did-not", seen.count, 0);
	vmcb_make(l2_nops);
	vmcb.save.rflags |= FLAG_IF;
	vmcb.control.int_ctl = V_INTR_MASKING | V_IRQ | (u32)PRIO(15);
	vmcb.control.int_vector = VIRTUAL;
	vmcb.control.int_state = INT_STATE_SHADOW;
	forget();
	CHECK_EQUAL("l2-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("a-shadow-of-the-vmcb-holds-it-back", seen.ip, (u64)l2_nops + 1);
	CHECK_EQUAL("and-is-over", vmcb.control.int_state, 0);
}

L2(l2_lower_tpr, "sti; xor %eax, %eax; mov %rax, %cr8; nop; vmmcall")
L2(l2_read_tpr, "mov %cr8, %rbx; vmmcall")

static void test_virtual_tpr(void)
{
	CHECK_EQUAL("l2-runs", run_virtual(l2_lower_tpr, PRIO(5) | 9), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("lowering-v-tpr-lets-it-come", seen.vector, VIRTUAL);
	CHECK_EQUAL("v-tpr-is-saved", vmcb.control.int_ctl & V_TPR, 0);
	vmcb_make(l2_read_tpr);
	vmcb.control.int_ctl = V_INTR_MASKING | 7;
	CHECK_EQUAL("l2-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("cr8-is-v-tpr", l2_regs[L2_RBX], 7);
	u64 cr8;
	asm volatile("mov %%cr8, %0" : "=r"(cr8));
	CHECK_EQUAL("the-hosts-cr8-is-its-own", cr8, 0);
}

L2(l2_stgi, "sti; nop; stgi; nop; clgi; vmmcall")
L2(l2_iret_nmi, "nop; nop; vmmcall")

static void test_virtual_gif(void)
{
	CHECK_EQUAL("l2-runs", run_virtual(l2_sti, PRIO(15) | V_GIF_ENABLE), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("v-gif-masks-virtual-interrupts", seen.count, 0);
	CHECK_EQUAL("l2-runs", run_virtual(l2_stgi, PRIO(15) | V_GIF_ENABLE), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("the-guests-stgi-lets-them-come", seen.vector, VIRTUAL);
	CHECK("and-its-clgi-clears-v-gif", !(vmcb.control.int_ctl & V_GIF));
}

static void test_virtual_nmi(void)
{
	vmcb_make(l2_iret_nmi);
	intercept(SVM_EXIT_NMI);
	vmcb.control.int_ctl = V_NMI_ENABLE | V_NMI;
	forget();
	CHECK_EQUAL("l2-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("a-virtual-nmi-comes", seen.vector, NMI);
	CHECK("it-is-no-longer-pending-and-iret-unblocked-them", !(vmcb.control.int_ctl & (V_NMI | V_NMI_MASK)));
	vmcb_make(l2_iret_nmi);
	intercept(SVM_EXIT_NMI);
	vmcb.control.int_ctl = V_NMI_ENABLE | V_NMI | V_NMI_MASK;
	forget();
	CHECK_EQUAL("l2-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("blocked-ones-do-not-come", seen.count, 0);
	CHECK("and-stay-pending", vmcb.control.int_ctl & V_NMI);
}

/* --- traps --- */

/* The frame says TF = 0. */
L2(l2_iret_step,
   "mov %ss, %eax; mov %rsp, %rbx; push %rax; push %rbx; push $2; mov %cs, %eax; push %rax; lea 2f(%rip), %rax; "
   "push %rax; l2_the_iret: iretq; 2: nop; l2_end: nop; vmmcall")
extern u8 l2_the_iret[];

static void step_over_iret(void)
{
	vmcb_make(l2_iret_step);
	intercept(SVM_EXIT_IRET);
	intercept(SVM_EXIT_EXCEPTION + DB);
	CHECK_EQUAL("iret-exits", svm_run(), SVM_EXIT_IRET);
	no_intercept(SVM_EXIT_IRET);
	vmcb.save.rflags |= FLAG_TF | BIT(16);
}

static void test_iret_step(void)
{
	step_over_iret();
	CHECK_EQUAL("tf-traps-after-iret-that-clears-it", svm_run(), SVM_EXIT_EXCEPTION + DB);
	CHECK_EQUAL("at-the-iret's-target", vmcb.save.rip, (u64)l2_the_iret + 2);
	step_over_iret();
	intercept(SVM_EXIT_INTR);
	vmcb.control.int_ctl = V_INTR_MASKING;
	send_self_interrupt();
	clgi();
	irq_enable();
	CHECK_EQUAL("interrupt-exits-before-iret", svm_run_gif_clear(), SVM_EXIT_INTR);
	CHECK_EQUAL("there", vmcb.save.rip, (u64)l2_the_iret);
	CHECK("tf-is-saved", vmcb.save.rflags & FLAG_TF);
	stgi();
	let_come();
	irq_disable();
	CHECK_EQUAL("then-tf-traps-after-iret", svm_run(), SVM_EXIT_EXCEPTION + DB);
	CHECK_EQUAL("at-the-iret's-target-again", vmcb.save.rip, (u64)l2_the_iret + 2);
}

static void test_single_step(void)
{
	vmcb_make(l2_nops);
	intercept(SVM_EXIT_EXCEPTION + DB);
	vmcb.save.rflags |= FLAG_TF;
	CHECK_EQUAL("tf-traps", svm_run(), SVM_EXIT_EXCEPTION + DB);
	CHECK_EQUAL("after-the-first-instruction", vmcb.save.rip, (u64)l2_nops + 1);
	CHECK("dr6-says-so", vmcb.save.dr6 & BIT(14));
}

/* --- INIT and SMI --- */

enum { SX = 30, SX_INIT = 1 };

/* To itself, through the ICR; by the address's register, as it does not fit into a displacement. */
L2(l2_init, "mov $0xfee00300, %ecx; movl $0, 0x10(%rcx); movl $0x4500, (%rcx)\n"
	    "l2_init_sent: jmp 1f; 1: nop; vmmcall")
L2(l2_smi, "mov $0xfee00300, %ecx; movl $0, 0x10(%rcx); movl $0x4200, (%rcx)\n"
	   "l2_smi_sent: jmp 1f; 1: nop; vmmcall")
extern u8 l2_init_sent[], l2_smi_sent[];

/* The intercepted signal is not taken: it waits for GIF, and R_INIT lets it become #SX then (15.13.3, 15.28). */
static void test_init(void)
{
	wrmsr(MSR_VM_CR, rdmsr(MSR_VM_CR) | VM_CR_R_INIT);
	handlers[SX] = note;
	vmcb_make(l2_init);
	intercept(SVM_EXIT_INIT);
	forget();
	CHECK_EQUAL("an-intercepted-init-exits", svm_run_gif_clear(), SVM_EXIT_INIT);
	CHECK_EQUAL("behind-the-instruction-that-sent-it", vmcb.save.rip, (u64)l2_init_sent);
	CHECK_EQUAL("and-is-not-taken", seen.count, 0);
	stgi();
	let_come();
	CHECK_EQUAL("gif-lets-it-come-redirected", seen.vector, SX);
	CHECK_EQUAL("with-init-as-its-reason", seen.error, SX_INIT);
	CHECK_EQUAL("once", seen.count, 1);
	wrmsr(MSR_VM_CR, rdmsr(MSR_VM_CR) & ~VM_CR_R_INIT);
}

/* An SMI that is not intercepted does nothing that anybody sees. */
static void test_smi(void)
{
	vmcb_make(l2_smi);
	intercept(SVM_EXIT_SMI);
	CHECK_EQUAL("an-intercepted-smi-exits", svm_run(), SVM_EXIT_SMI);
	CHECK_EQUAL("behind-the-instruction-that-sent-it", vmcb.save.rip, (u64)l2_smi_sent);
	CHECK_EQUAL("l2-goes-on-behind-it", svm_run(), SVM_EXIT_VMMCALL);
	vmcb_make(l2_smi);
	CHECK_EQUAL("an-smi-that-is-not-intercepted-is-not-seen", svm_run(), SVM_EXIT_VMMCALL);
}

void guest_main(void)
{
	for (unsigned i = 0; i < 256; i++)
		if (i == GP || i == NMI || i >= 0x30)
			handlers[i] = note;
	apic_write(SVR, 0x1ff);
	irq_disable();
	svm_start();
	test_injection();
	test_exceptions();
	test_delivery();
	test_masking();
	test_no_masking();
	test_halt();
	test_nmi();
	test_virtual_interrupts();
	test_virtual_tpr();
	test_virtual_gif();
	test_virtual_nmi();
	test_single_step();
	test_iret_step();
	test_init();
	test_smi();
	guest_exit();
}
