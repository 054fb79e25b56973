/*
 * AVIC between processors: a guest that runs, or sleeps, on the other one is told by the doorbell, the hypervisor's and
 * that of virtual IPIs. CPU 1 is in guest mode all the time; CPU 0 is the hypervisor, or another processor of the
 * guest.
 */
#include "smp.h"
#include "svm.h"

enum { EOI = 0xb0, ISR = 0x100, IRR = 0x200, VECTOR = 0x61, NEVER = 3000000 };

static u8 apic_page[4096] ALIGNED(4096), backing[2][4096] ALIGNED(4096), other_stack[4096] ALIGNED(16);
static u8 other_host_save[4096] ALIGNED(4096);
static u64 physical_ids[512] ALIGNED(4096);
static u32 logical_ids[1024] ALIGNED(4096);
static volatile u8 runs, stop;
static volatile unsigned count[2];

/* The guest's handler, on the processor whose APIC it ends the interrupt of. */
static void on_virtual(struct frame *f)
{
	*(volatile u32 *)(apic_page + EOI) = 0;
	count[this_cpu()]++;
}

L2(l2_spin, "movb $1, runs; sti; 1: pause; cmpb $0, stop; je 1b; cli; vmmcall")
L2(l2_sleep, "movb $1, runs; 1: cli; cmpb $0, stop; jne 2f; sti; hlt; jmp 1b; 2: vmmcall")
L2(l2_send, "movl $0x01000000, apic_page + 0x310; movl $0x61, apic_page + 0x300; nop; vmmcall")
L2(l2_send_others, "movl $0xc0061, apic_page + 0x300; nop; vmmcall")

static void make(void (*code)(void), unsigned cpu)
{
	vmcb_make(code);
	npt_use();
	vmcb.control.asid = 1 + cpu;
	vmcb.control.int_ctl = (u32)AVIC_ENABLE | (u32)V_INTR_MASKING;
	vmcb.control.avic_apic_bar = (u64)apic_page;
	vmcb.control.avic_backing_page = (u64)backing[cpu];
	vmcb.control.avic_logical = (u64)logical_ids;
	vmcb.control.avic_physical = (u64)physical_ids | 1;
}

static void run_guest(unsigned cpu)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
	wrmsr(MSR_VM_HSAVE_PA, (u64)other_host_save);
	svm_enter(&other_vmcb);
	stgi();
}

static void start(void (*code)(void))
{
	memset(backing, 0, sizeof(backing));
	for (unsigned i = 0; i < 2; i++)
		physical_ids[i] = (u64)backing[i] | AVIC_ENTRY_VALID | AVIC_ENTRY_RUNNING | i;
	make(code, 1);
	other_vmcb = vmcb;
	other_vmcb.save.rsp = (u64)other_stack + sizeof(other_stack) - 8;
	count[0] = count[1] = 0;
	runs = stop = 0;
	smp_run(1, run_guest);
	CHECK("the-other-cpu-runs-the-guest", WAIT_FOR(runs));
}

static void request(void)
{
	u32 *irr = (u32 *)(backing[1] + IRR + VECTOR / 32 * 16);
	__atomic_fetch_or(irr, 1u << VECTOR % 32, __ATOMIC_SEQ_CST);
}

static void ring(void)
{
	wrmsr(MSR_DOORBELL, 1);
}

static void let_time_pass(void)
{
	for (u64 end = rdtsc() + NEVER; rdtsc() < end;)
		pause();
}

static void test_doorbells(void (*code)(void))
{
	start(code);
	let_time_pass();
	request();
	let_time_pass();
	CHECK_EQUAL("a-request-in-memory-tells-nobody", count[1], 0);
	ring();
	CHECK("the-doorbell-does", WAIT_FOR(count[1] == 1));
	make(l2_send, 0);
	CHECK_EQUAL("a-virtual-ipi-needs-no-exit", svm_run(), SVM_EXIT_VMMCALL);
	CHECK("and-arrives", WAIT_FOR(count[1] == 2));
	make(l2_send_others, 0);
	CHECK_EQUAL("nor-does-one-to-all-others", svm_run(), SVM_EXIT_VMMCALL);
	CHECK("that-arrives-too", WAIT_FOR(count[1] == 3));
	CHECK_EQUAL("but-not-here", count[0], 0);
	stop = 1;
	request();
	ring();
	CHECK("the-guest-ends", smp_wait(1));
	CHECK_EQUAL("by-its-own-exit", other_vmcb.control.exit_code, SVM_EXIT_VMMCALL);
}

void guest_main(void)
{
	handlers[VECTOR] = on_virtual;
	svm_start();
	CHECK("cpus-start", smp_start());
	test_doorbells(l2_spin);
	test_doorbells(l2_sleep);
}
