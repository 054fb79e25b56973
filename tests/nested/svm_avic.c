/*
 * AVIC: how the guest's accesses to its APIC are treated, TPR and CR8, interrupts from the backing page and their end,
 * virtual IPIs by every kind of destination, the doorbell, x2APIC MSRs, and tables that lead nowhere.
 */
#include "svm.h"

enum { ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0 };
enum { ISR = 0x100, TMR = 0x180, IRR = 0x200, ICR = 0x300, ICR_HIGH = 0x310, CURRENT_COUNT = 0x390 };
enum { VECTOR = 0x61, OTHER = 0x45, OUTSIDE = 0xb0000 }; /* the last is a page number: no RAM is there */

#define WRITE AVIC_NOACCEL_WRITE

/* The guest has its APIC at `apic_page`, and other memory of ours is what it accesses there. */
static u8 apic_page[4096] ALIGNED(4096), backing[4096] ALIGNED(4096), other_backing[4096] ALIGNED(4096);
static u64 physical_ids[512] ALIGNED(4096);
static u32 logical_ids[1024] ALIGNED(4096);

static u32 reg_of(const u8 *page, u32 offset)
{
	return *(const volatile u32 *)(page + offset);
}

static u32 reg(u32 offset)
{
	return reg_of(backing, offset);
}

static void set_reg(u32 offset, u32 value)
{
	*(volatile u32 *)(backing + offset) = value;
}

static bool has_vector(const u8 *page, u32 base, u8 vector)
{
	return reg_of(page, base + vector / 32 * 16) >> vector % 32 & 1;
}

static void set_vector(u32 base, u8 vector)
{
	set_reg(base + vector / 32 * 16, reg(base + vector / 32 * 16) | 1u << vector % 32);
}

static struct {
	u64 count, vector, ip;
} seen;

static void note(struct frame *f)
{
	seen.count++;
	seen.vector = f->vector;
	seen.ip = f->ip;
}

/* APIC ID 0 is this guest, which runs here; 1 is another one, which runs nowhere. */
static void make(void (*code)(void))
{
	vmcb_make(code);
	npt_use();
	memset(backing, 0, sizeof(backing));
	memset(other_backing, 0, sizeof(other_backing));
	memset(physical_ids, 0, sizeof(physical_ids));
	memset(logical_ids, 0, sizeof(logical_ids));
	set_reg(DFR, ~0u);
	physical_ids[0] = (u64)backing | AVIC_ENTRY_VALID | AVIC_ENTRY_RUNNING;
	physical_ids[1] = (u64)other_backing | AVIC_ENTRY_VALID;
	logical_ids[0] = (u32)AVIC_LOGICAL_VALID;
	logical_ids[1] = (u32)AVIC_LOGICAL_VALID | 1;
	vmcb.control.int_ctl = (u32)AVIC_ENABLE | (u32)V_INTR_MASKING;
	vmcb.control.avic_apic_bar = (u64)apic_page;
	vmcb.control.avic_backing_page = (u64)backing;
	vmcb.control.avic_logical = (u64)logical_ids;
	vmcb.control.avic_physical = (u64)physical_ids | 1;
	seen.count = 0;
	seen.vector = NO_FAULT;
}

/* --- accesses (table 15-22) --- */

#define READ(name, offset)   L2(name, "mov apic_page + " #offset ", %eax; vmmcall")
#define WRITES(name, offset) L2(name, "movl $0x35, apic_page + " #offset "; nop; vmmcall")
enum { WRITE_LENGTH = 11 };

READ(l2_read_id, 0x20)
READ(l2_read_tpr, 0x80)
READ(l2_read_apr, 0x90)
READ(l2_read_irr, 0x270)
READ(l2_read_count, 0x390)
READ(l2_read_extended, 0x400)
READ(l2_read_enable, 0x480)
READ(l2_read_reserved, 0xff0)
READ(l2_read_undefined, 0x290)
WRITES(l2_write_id, 0x20)
WRITES(l2_write_version, 0x30)
WRITES(l2_write_tpr, 0x80)
WRITES(l2_write_ppr, 0xa0)
WRITES(l2_write_remote_read, 0xc0)
WRITES(l2_write_ldr, 0xd0)
WRITES(l2_write_dfr, 0xe0)
WRITES(l2_write_svr, 0xf0)
WRITES(l2_write_isr, 0x100)
WRITES(l2_write_irr, 0x270)
WRITES(l2_write_esr, 0x280)
WRITES(l2_write_undefined, 0x290)
WRITES(l2_write_icr_high, 0x310)
WRITES(l2_write_timer, 0x320)
WRITES(l2_write_error, 0x370)
WRITES(l2_write_initial, 0x380)
WRITES(l2_write_count, 0x390)
WRITES(l2_write_divide, 0x3e0)
WRITES(l2_write_enable, 0x480)
L2(l2_write_beside, "movl $0x35, apic_page + 0xd4; nop; vmmcall")
L2(l2_write_64, "movq $0x35, apic_page + 0x80; nop; vmmcall")
L2(l2_or_tpr, "orl $0x50, apic_page + 0x80; nop; vmmcall")
L2(l2_write_tpr8, "movb $0x35, apic_page + 0x80; nop; vmmcall")
L2(l2_rep_ldr, "mov $apic_page + 0xd0, %edi; mov $2, %ecx; rep stosl; nop; vmmcall")
L2(l2_jump, "mov $apic_page, %ecx; jmp *%rcx")

struct access_case {
	const char *name;
	void (*code)(void);
	u64 info;
};

static void test_faults(void)
{
	static const struct access_case cases[] = {
		{ "read-of-the-apr-exits", l2_read_apr, 0x90 },
		{ "read-of-the-current-count-exits", l2_read_count, CURRENT_COUNT },
		{ "read-of-extended-features-exits", l2_read_extended, 0x400 },
		{ "read-of-interrupt-enables-exits", l2_read_enable, 0x480 },
		{ "read-of-what-is-reserved-exits", l2_read_reserved, 0xff0 },
		{ "write-of-the-version-exits", l2_write_version, VERSION | WRITE },
		{ "write-of-the-ppr-exits", l2_write_ppr, PPR | WRITE },
		{ "write-of-the-isr-exits", l2_write_isr, ISR | WRITE },
		{ "write-of-the-irr-exits", l2_write_irr, 0x270 | WRITE },
		{ "write-of-the-current-count-exits", l2_write_count, CURRENT_COUNT | WRITE },
		{ "write-of-interrupt-enables-exits", l2_write_enable, 0x480 | WRITE },
		{ "write-beside-a-register-exits", l2_write_beside, LDR | WRITE },
		{ "64-bit-write-exits", l2_write_64, TPR | WRITE },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		make(cases[i].code);
		CHECK_EQUAL(cases[i].name, svm_run(), SVM_EXIT_AVIC_NOACCEL);
		CHECK_EQUAL("exitinfo1-is-the-access", vmcb.control.exit_info1, cases[i].info);
		CHECK_EQUAL("rip-is-the-instruction", vmcb.save.rip, (u64)cases[i].code);
		CHECK_EQUAL("there-is-no-next-rip", vmcb.control.next_rip, 0);
		CHECK_EQUAL("nothing-was-written", reg((u32)cases[i].info), 0);
	}
	make(l2_jump);
	CHECK_EQUAL("fetch-exits", svm_run(), SVM_EXIT_AVIC_NOACCEL);
}

static void test_traps(void)
{
	static const struct access_case cases[] = {
		{ "write-of-the-id-exits", l2_write_id, ID | WRITE },
		{ "write-of-remote-read-exits", l2_write_remote_read, 0xc0 | WRITE },
		{ "write-of-the-ldr-exits", l2_write_ldr, LDR | WRITE },
		{ "write-of-the-dfr-exits", l2_write_dfr, DFR | WRITE },
		{ "write-of-the-svr-exits", l2_write_svr, SVR | WRITE },
		{ "write-of-the-esr-exits", l2_write_esr, 0x280 | WRITE },
		{ "write-of-the-timer-exits", l2_write_timer, 0x320 | WRITE },
		{ "write-of-the-error-entry-exits", l2_write_error, 0x370 | WRITE },
		{ "write-of-the-initial-count-exits", l2_write_initial, 0x380 | WRITE },
		{ "write-of-the-divisor-exits", l2_write_divide, 0x3e0 | WRITE },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		make(cases[i].code);
		CHECK_EQUAL(cases[i].name, svm_run(), SVM_EXIT_AVIC_NOACCEL);
		CHECK_EQUAL("exitinfo1-is-the-access", vmcb.control.exit_info1, cases[i].info);
		CHECK_EQUAL("rip-is-behind-the-instruction", vmcb.save.rip, (u64)cases[i].code + WRITE_LENGTH);
		CHECK_EQUAL("there-is-no-next-rip", vmcb.control.next_rip, 0);
		CHECK_EQUAL("it-is-written", reg((u32)cases[i].info), 0x35);
	}
	make(l2_rep_ldr);
	l2_regs[L2_RCX] = 0;
	vmcb.save.rax = 7;
	CHECK_EQUAL("repeated-write-exits", svm_run(), SVM_EXIT_AVIC_NOACCEL);
	CHECK_EQUAL("after-one-iteration", l2_regs[L2_RCX], 1);
	CHECK_EQUAL("before-the-next", vmcb.save.rip, (u64)l2_rep_ldr + 10);
	make(l2_write_ldr);
	vmcb.save.rflags |= FLAG_TF;
	intercept(SVM_EXIT_EXCEPTION + DB);
	CHECK_EQUAL("it-comes-before-the-step", svm_run(), SVM_EXIT_AVIC_NOACCEL);
}

static void test_allowed(void)
{
	make(l2_read_id);
	set_reg(ID, 0x99000000);
	*(u32 *)(apic_page + ID) = 0x11;
	CHECK_EQUAL("read-of-the-id-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-reads-the-backing-page", vmcb.save.rax, 0x99000000);
	make(l2_read_irr);
	set_reg(0x270, 0x1234);
	CHECK_EQUAL("read-of-the-irr-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-reads-what-waits", vmcb.save.rax, 0x1234);
	make(l2_read_undefined);
	CHECK_EQUAL("read-of-what-is-not-defined-runs", svm_run(), SVM_EXIT_VMMCALL);
	make(l2_write_undefined);
	CHECK_EQUAL("so-does-a-write", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("into-the-backing-page", reg(0x290), 0x35);
	make(l2_write_icr_high);
	CHECK_EQUAL("write-of-the-icrs-high-half-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-is-kept", reg(ICR_HIGH), 0x35);
}

static void test_page(void)
{
	make(l2_read_id);
	vmcb.control.int_ctl = 0;
	*(u32 *)(apic_page + ID) = 0x77;
	CHECK_EQUAL("without-avic-the-page-is-memory", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-read-as-such", vmcb.save.rax, 0x77);
	make(l2_write_tpr);
	*npt_entry(apic_page) &= ~PTE_W;
	CHECK_EQUAL("nested-paging-may-forbid-the-write", svm_run(), SVM_EXIT_NPF);
	CHECK_EQUAL("of-the-apics-address", vmcb.control.exit_info2, (u64)apic_page + TPR);
	CHECK_EQUAL("and-nothing-is-written", reg(TPR), 0);
	make(l2_read_id);
	*npt_entry(apic_page) = (u64)other_backing | PTE_P | PTE_W | PTE_U;
	set_reg(ID, 0x55);
	CHECK_EQUAL("where-it-leads-does-not-matter", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("the-page-is-the-vmcbs", vmcb.save.rax, 0x55);
}

/* --- TPR and CR8 --- */

L2(l2_cr8, "mov $3, %ecx; mov %rcx, %cr8; mov %cr8, %rbx; vmmcall")
L2(l2_cr8_16, "mov $16, %ecx; mov %rcx, %cr8; vmmcall")

static u64 host_cr8(void)
{
	u64 value;
	asm volatile("mov %%cr8, %0" : "=r"(value));
	return value;
}

static u32 v_tpr(void)
{
	return vmcb.control.int_ctl & V_TPR;
}

static void test_tpr(void)
{
	make(l2_read_tpr);
	set_reg(TPR, 0x42);
	CHECK_EQUAL("read-of-the-tpr-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-reads-the-page", vmcb.save.rax, 0x42);
	make(l2_write_tpr);
	set_vector(ISR, OTHER);
	CHECK_EQUAL("write-of-the-tpr-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-writes-the-page", reg(TPR), 0x35);
	CHECK_EQUAL("its-class-goes-to-v-tpr", v_tpr(), 3);
	CHECK_EQUAL("the-ppr-is-that-of-the-interrupt-in-service", reg(PPR), OTHER & 0xf0);
	make(l2_write_tpr8);
	set_reg(TPR, 0xffffff00);
	CHECK_EQUAL("byte-write-of-the-tpr-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-clears-the-upper-bytes", reg(TPR), 0x35);
	CHECK_EQUAL("the-ppr-is-the-tpr", reg(PPR), 0x35);
	make(l2_or_tpr);
	set_reg(TPR, 0x03);
	CHECK_EQUAL("read-modify-write-of-the-tpr-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-does-both", reg(TPR), 0x53);
	for (unsigned masking = 0; masking < 2; masking++) {
		make(l2_cr8);
		vmcb.control.int_ctl = (u32)AVIC_ENABLE | (masking ? (u32)V_INTR_MASKING : 0);
		CHECK_EQUAL("cr8-runs", svm_run(), SVM_EXIT_VMMCALL);
		CHECK_EQUAL("it-is-v-tpr", v_tpr(), 3);
		CHECK_EQUAL("and-the-pages-tpr", reg(TPR), 0x30);
		CHECK_EQUAL("and-the-ppr", reg(PPR), 0x30);
		CHECK_EQUAL("and-can-be-read", l2_regs[L2_RBX], 3);
		CHECK_EQUAL("the-hosts-own-stays", host_cr8(), 0);
	}
	make(l2_cr8_16);
	intercept(SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("cr8-beyond-15-is-gp", svm_run(), SVM_EXIT_EXCEPTION + GP);
	make(l2_cr8);
	intercept(SVM_EXIT_CR_WRITE + 8);
	CHECK_EQUAL("cr8-can-be-intercepted", svm_run(), SVM_EXIT_CR_WRITE + 8);
}

/* --- interrupts --- */

L2(l2_nops, "nop; nop; vmmcall")
L2(l2_sti, "sti; nop; nop; vmmcall")
L2(l2_lower_cr8, "xor %eax, %eax; mov %rax, %cr8; nop; vmmcall")
L2(l2_eoi, "movl $0, apic_page + 0xb0; nop; vmmcall")
/* Sets the bit of VECTOR itself, lets time pass, rings at APIC ID 0. */
L2(l2_ring, "lock orl $2, backing + 0x230; jmp 1f; 1: nop; jmp 2f; 2: nop; mov $0xc001011b, %ecx; xor %eax, %eax;"
	    "xor %edx, %edx; l2_rings: wrmsr; l2_rang: nop; vmmcall")
L2(l2_halt, "sti; hlt; vmmcall")
extern u8 l2_rings[], l2_rang[];

static void make_interrupt(void (*code)(void), u8 waiting, u8 in_service)
{
	make(code);
	if (waiting)
		set_vector(IRR, waiting);
	if (in_service)
		set_vector(ISR, in_service);
	vmcb.save.rflags |= FLAG_IF;
}

static void test_delivery(void)
{
	make_interrupt(l2_nops, VECTOR, 0);
	set_vector(IRR, OTHER);
	CHECK_EQUAL("pending-interrupt", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("is-delivered-once", seen.count, 1);
	CHECK_EQUAL("with-its-vector", seen.vector, VECTOR);
	CHECK_EQUAL("before-the-first-instruction", seen.ip, (u64)l2_nops);
	CHECK("it-is-in-service", has_vector(backing, ISR, VECTOR) && !has_vector(backing, IRR, VECTOR));
	CHECK("a-lower-one-waits", has_vector(backing, IRR, OTHER));
	CHECK_EQUAL("ppr-is-its-class", reg(PPR), VECTOR & 0xf0);
	make_interrupt(l2_nops, VECTOR, VECTOR + 1);
	CHECK_EQUAL("class-in-service", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("holds-its-class-back", seen.count, 0);
	make_interrupt(l2_lower_cr8, VECTOR, 0);
	set_reg(TPR, 0x70);
	vmcb.control.int_ctl |= 7;
	CHECK_EQUAL("lowering-the-tpr", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("lets-it-in", seen.count, 1);
	CHECK_EQUAL("right-after-the-write", seen.ip, (u64)l2_lower_cr8 + 6);
	make_interrupt(l2_nops, VECTOR, 0);
	vmcb.control.int_ctl |= 7;
	CHECK_EQUAL("v-tpr-alone", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("holds-it-back", seen.count, 0);
	make_interrupt(l2_sti, VECTOR, 0);
	vmcb.save.rflags = 2;
	CHECK_EQUAL("sti", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("lets-it-in-after-one-instruction", seen.ip, (u64)l2_sti + 2);
	make_interrupt(l2_nops, VECTOR, 0);
	vmcb.save.rflags = 2;
	CHECK_EQUAL("with-if-clear", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("it-waits", seen.count, 0);
	make_interrupt(l2_nops, 0, 0);
	vmcb.control.int_ctl |= (u32)V_IRQ | (u32)V_IGN_TPR;
	vmcb.control.int_vector = VECTOR;
	CHECK_EQUAL("v-irq", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("counts-nothing", seen.count, 0);
	make_interrupt(l2_nops, VECTOR, 0);
	intercept(SVM_EXIT_VINTR);
	CHECK_EQUAL("virtual-interrupts-can-be-intercepted", svm_run(), SVM_EXIT_VINTR);
	CHECK("and-then-it-still-waits", has_vector(backing, IRR, VECTOR));
	make_interrupt(l2_nops, VECTOR, 0);
	vmcb.save.idtr.limit = VECTOR * 16 - 1;
	intercept(SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("fault-in-its-delivery-exits", svm_run(), SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("with-the-interrupt", vmcb.control.exit_int_info, EVENTINJ_VALID | VECTOR);
}

static void test_doorbell(void)
{
	make_interrupt(l2_ring, 0, 0);
	CHECK_EQUAL("the-doorbell-rings", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-brings-what-was-set-in-memory", seen.vector, VECTOR);
	CHECK_EQUAL("not-earlier", seen.ip, (u64)l2_rang);
	make_interrupt(l2_ring, 0, 0);
	memset(msrpm, 0xff, sizeof(msrpm));
	intercept(SVM_EXIT_MSR);
	CHECK_EQUAL("the-doorbell-can-be-intercepted", svm_run(), SVM_EXIT_MSR);
	CHECK_EQUAL("at-its-instruction", vmcb.save.rip, (u64)l2_rings);
	CHECK_EQUAL("it-cannot-be-read", TRY("rdmsr", : : "c"(MSR_DOORBELL) : "rax", "rdx"), GP);
	CHECK_EQUAL("it-takes-8-bits", TRY("wrmsr", : : "c"(MSR_DOORBELL), "a"(0x100), "d"(0)), GP);
	CHECK_EQUAL("nobody-may-have-the-id", TRY("wrmsr", : : "c"(MSR_DOORBELL), "a"(0x99), "d"(0)), NO_FAULT);
	make_interrupt(l2_halt, 0, 0);
	vmcb.save.rflags = 2;
	set_vector(IRR, VECTOR);
	CHECK_EQUAL("an-interrupt-ends-hlt", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("for-its-handler", seen.vector, VECTOR);
}

static void test_end_of_interrupt(void)
{
	make_interrupt(l2_eoi, OTHER, VECTOR);
	CHECK_EQUAL("eoi-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK("it-ends-the-interrupt-in-service", !has_vector(backing, ISR, VECTOR));
	CHECK_EQUAL("so-that-the-lower-one-comes", seen.vector, OTHER);
	CHECK_EQUAL("right-after-it", seen.ip, (u64)l2_eoi + WRITE_LENGTH);
	make_interrupt(l2_eoi, 0, VECTOR);
	set_vector(ISR, OTHER);
	CHECK_EQUAL("the-next-one-in-service", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("decides-the-ppr", reg(PPR), OTHER & 0xf0);
	make_interrupt(l2_eoi, 0, VECTOR);
	set_vector(TMR, VECTOR);
	CHECK_EQUAL("eoi-of-a-level-triggered-one-exits", svm_run(), SVM_EXIT_AVIC_NOACCEL);
	CHECK_EQUAL("as-a-write-of-eoi", vmcb.control.exit_info1, EOI | WRITE);
	CHECK_EQUAL("with-the-vector", vmcb.control.exit_info2, VECTOR);
	CHECK_EQUAL("after-the-instruction", vmcb.save.rip, (u64)l2_eoi + WRITE_LENGTH);
	CHECK("it-stays-in-service", has_vector(backing, ISR, VECTOR));
	make_interrupt(l2_eoi, 0, 0);
	CHECK_EQUAL("eoi-of-nothing-runs", svm_run(), SVM_EXIT_VMMCALL);
}

/* --- interprocessor interrupts --- */

L2(l2_ipi, "mov %ecx, apic_page + 0x310; mov %edx, apic_page + 0x300; l2_sent: nop; vmmcall")
extern u8 l2_sent[];

static u64 send(u32 high, u32 low)
{
	l2_regs[L2_RCX] = high;
	l2_regs[L2_RDX] = low;
	vmcb.save.rip = (u64)l2_ipi;
	vmcb.save.rflags |= FLAG_IF;
	seen.count = 0;
	return svm_run();
}

static void expect_incomplete(const char *name, u32 high, u32 low, enum avic_ipi_fault id, u32 index)
{
	CHECK_EQUAL(name, send(high, low), SVM_EXIT_AVIC_INCOMPLETE_IPI);
	CHECK_EQUAL("exitinfo1-is-the-icr", vmcb.control.exit_info1, (u64)high << 32 | low);
	CHECK_EQUAL("exitinfo2-is-why", vmcb.control.exit_info2, (u64)id << 32 | index);
	CHECK_EQUAL("rip-is-behind-the-write", vmcb.save.rip, (u64)l2_sent);
}

#define FLAT    BIT(11)
#define TO(id)  ((u32)(id) << 24)
#define SELF    (1u << 18)
#define ALL     (2u << 18)
#define OTHERS  (3u << 18)
#define LEVEL   BIT(15)
#define PENDING BIT(12)

static void test_ipi(void)
{
	make(l2_ipi);
	CHECK_EQUAL("self-ipi-runs", send(0, SELF | VECTOR), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-interrupts", seen.vector, VECTOR);
	CHECK_EQUAL("right-after-the-write", seen.ip, (u64)l2_sent);
	make(l2_ipi);
	CHECK_EQUAL("ipi-to-one-that-runs-runs", send(TO(0), (u32)PENDING | VECTOR), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-interrupts-it", seen.vector, VECTOR);
	CHECK_EQUAL("it-is-not-pending", reg(ICR), VECTOR);
	make(l2_ipi);
	physical_ids[1] |= AVIC_ENTRY_RUNNING | 0x99;
	CHECK_EQUAL("ipi-to-another-that-runs-runs", send(TO(1), VECTOR), SVM_EXIT_VMMCALL);
	CHECK("it-is-in-its-page", has_vector(other_backing, IRR, VECTOR));
	make(l2_ipi);
	expect_incomplete("ipi-to-one-that-does-not-run-exits", TO(1), VECTOR, AVIC_IPI_NOT_RUNNING, 1);
	CHECK("but-is-in-its-page", has_vector(other_backing, IRR, VECTOR));
	make(l2_ipi);
	expect_incomplete("ipi-beyond-the-last-entry-exits", TO(2), VECTOR, AVIC_IPI_TARGET, 2);
	physical_ids[0] = 0;
	expect_incomplete("ipi-to-an-entry-that-is-not-valid-exits", TO(0), VECTOR, AVIC_IPI_TARGET, 0);
	physical_ids[1] = (u64)OUTSIDE << 12 | AVIC_ENTRY_VALID | AVIC_ENTRY_RUNNING;
	expect_incomplete("ipi-to-a-page-outside-ram-exits", TO(1), VECTOR, AVIC_IPI_PAGE, 1);
	expect_incomplete("ipi-of-a-low-vector-exits", TO(0), 0xf, AVIC_IPI_VECTOR, 0);
	expect_incomplete("level-triggered-ipi-exits", TO(0), (u32)LEVEL | VECTOR, AVIC_IPI_TYPE, 0);
	expect_incomplete("nmi-exits", TO(0), 4 << 8, AVIC_IPI_TYPE, 0);
	expect_incomplete("lowest-priority-ipi-exits", TO(0), 1 << 8 | VECTOR, AVIC_IPI_TYPE, 0);
	expect_incomplete("init-exits", TO(1), 5 << 8, AVIC_IPI_TYPE, 0);
}

static void test_broadcast(void)
{
	make(l2_ipi);
	physical_ids[1] |= AVIC_ENTRY_RUNNING | 0x99;
	CHECK_EQUAL("ipi-to-all-runs", send(0, ALL | VECTOR), SVM_EXIT_VMMCALL);
	CHECK("and-reaches-the-others", has_vector(other_backing, IRR, VECTOR));
	CHECK_EQUAL("and-the-sender", seen.vector, VECTOR);
	make(l2_ipi);
	physical_ids[1] |= AVIC_ENTRY_RUNNING | 0x99;
	CHECK_EQUAL("ipi-to-all-others-runs", send(0, OTHERS | VECTOR), SVM_EXIT_VMMCALL);
	CHECK("and-reaches-them", has_vector(other_backing, IRR, VECTOR));
	CHECK_EQUAL("but-not-the-sender", seen.count, 0);
	make(l2_ipi);
	expect_incomplete("ipi-to-ffh-is-one-to-all", TO(0xff), VECTOR, AVIC_IPI_NOT_RUNNING, 1);
	CHECK_EQUAL("the-sender-too", (vmcb.save.rip = (u64)l2_nops, svm_run(), seen.vector), VECTOR);
	make(l2_ipi);
	physical_ids[1] = 0;
	CHECK_EQUAL("entries-that-are-not-valid-are-passed-over", send(0, OTHERS | VECTOR), SVM_EXIT_VMMCALL);
	physical_ids[1] = (u64)OUTSIDE << 12 | AVIC_ENTRY_VALID;
	expect_incomplete("a-page-outside-ram-is-not", 0, OTHERS | VECTOR, AVIC_IPI_PAGE, 1);
}

static void test_logical(void)
{
	make(l2_ipi);
	CHECK_EQUAL("flat-ipi-runs", send(TO(1), FLAT | VECTOR), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("to-whom-the-table-says", seen.vector, VECTOR);
	make(l2_ipi);
	physical_ids[1] |= AVIC_ENTRY_RUNNING | 0x99;
	CHECK_EQUAL("flat-ipi-to-two-runs", send(TO(3), FLAT | VECTOR), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("to-one", seen.vector, VECTOR);
	CHECK("and-the-other", has_vector(other_backing, IRR, VECTOR));
	make(l2_ipi);
	expect_incomplete("its-index-is-the-logical-tables", TO(2), FLAT | VECTOR, AVIC_IPI_NOT_RUNNING, 1);
	expect_incomplete("an-entry-that-is-not-valid-exits", TO(0x81), FLAT | VECTOR, AVIC_IPI_TARGET, 7);
	make(l2_ipi);
	send(TO(0x81), FLAT | VECTOR);
	CHECK("and-then-nobody-has-it", !has_vector(backing, IRR, VECTOR));
	logical_ids[4] = (u32)AVIC_LOGICAL_VALID | 0xfe;
	expect_incomplete("so-does-a-physical-id-beyond-the-table", TO(0x10), FLAT | VECTOR, AVIC_IPI_TARGET, 4);
	CHECK_EQUAL("ipi-to-nobody-runs", send(0, FLAT | VECTOR), SVM_EXIT_VMMCALL);
	make(l2_ipi);
	set_reg(DFR, 0x0fffffff);
	logical_ids[2 * 4 + 3] = (u32)AVIC_LOGICAL_VALID;
	logical_ids[2 * 4 + 1] = (u32)AVIC_LOGICAL_VALID | 1;
	CHECK_EQUAL("ipi-in-a-cluster-runs", send(TO(0x28), FLAT | VECTOR), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-comes", seen.vector, VECTOR);
	expect_incomplete("or-exits-with-its-index", TO(0x22), FLAT | VECTOR, AVIC_IPI_NOT_RUNNING, 9);
	expect_incomplete("cluster-15-has-entries-too", TO(0xf1), FLAT | VECTOR, AVIC_IPI_TARGET, 60);
}

/* Whatever the tables say, it is the guest's own affair. */
static void test_bad_pages(void)
{
	make_interrupt(l2_read_id, 0, 0);
	vmcb.control.avic_backing_page = (u64)OUTSIDE << 12;
	CHECK_EQUAL("a-backing-page-outside-ram-runs", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("it-reads-as-ones", (u32)vmcb.save.rax, ~0u);
	CHECK_EQUAL("and-interrupts-nobody", seen.count, 0);
	make(l2_ipi);
	vmcb.control.avic_backing_page = 0xfee00000;
	CHECK_EQUAL("nor-is-a-devices-page-written", send(0, SELF | VECTOR), SVM_EXIT_AVIC_INCOMPLETE_IPI);
	make(l2_ipi);
	vmcb.control.avic_physical = (u64)OUTSIDE << 12 | 255;
	expect_incomplete("a-table-outside-ram-names-no-page", TO(3), VECTOR, AVIC_IPI_PAGE, 3);
	expect_incomplete("not-for-broadcasts-either", 0, ALL | VECTOR, AVIC_IPI_PAGE, 0);
	make(l2_ipi);
	vmcb.control.avic_logical = (u64)OUTSIDE << 12;
	expect_incomplete("nor-does-a-logical-one", TO(1), FLAT | VECTOR, AVIC_IPI_TARGET, 0);
	make(l2_nops);
	vmcb.control.avic_physical = BIT(51);
	CHECK_EQUAL("an-address-too-wide-is-refused", svm_run(), EXIT_FAILED);
	make(l2_nops);
	vmcb.control.nested_ctl = 0;
	CHECK_EQUAL("avic-without-nested-paging-is-refused", svm_run(), EXIT_FAILED);
	make(l2_nops);
	vmcb.control.avic_physical |= 256;
	CHECK_EQUAL("a-last-entry-beyond-255-is-refused", svm_run(), EXIT_FAILED);
	make(l2_nops);
	vmcb.control.int_ctl = (u32)X2AVIC_ENABLE;
	CHECK_EQUAL("x2avic-alone-is-refused", svm_run(), EXIT_FAILED);
}

/* --- x2APIC MSRs (15.29.10) --- */

L2(l2_rdmsr, "rdmsr; vmmcall")
L2(l2_wrmsr, "wrmsr; l2_wrote: nop; vmmcall")
extern u8 l2_wrote[];

static void make_x2apic(void (*code)(void))
{
	make_interrupt(code, 0, 0);
	vmcb.control.int_ctl |= (u32)X2AVIC_ENABLE;
	vmcb.control.avic_logical = ~0ULL; /* of no use */
	intercept(SVM_EXIT_EXCEPTION + GP);
}

static u64 run_msr(u32 msr, u64 value)
{
	l2_regs[L2_RCX] = msr;
	vmcb.save.rax = (u32)value;
	l2_regs[L2_RDX] = value >> 32;
	return svm_run();
}

static u64 rdmsr_of(u32 msr)
{
	make_x2apic(l2_rdmsr);
	return run_msr(msr, 0);
}

static u64 wrmsr_of(u32 msr, u64 value)
{
	make_x2apic(l2_wrmsr);
	return run_msr(msr, value);
}

static void test_x2apic_accesses(void)
{
	make_x2apic(l2_rdmsr);
	set_reg(TPR, 0x42);
	CHECK_EQUAL("rdmsr-of-the-tpr-runs", run_msr(0x808, 0), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-reads-the-backing-page", vmcb.save.rax, 0x42);
	make_x2apic(l2_rdmsr);
	set_reg(ICR, 0x11);
	set_reg(ICR_HIGH, 0x22);
	CHECK_EQUAL("rdmsr-of-the-icr-runs", run_msr(0x830, 0), SVM_EXIT_VMMCALL);
	CHECK("and-reads-both-halves", vmcb.save.rax == 0x11 && l2_regs[L2_RDX] == 0x22);
	CHECK_EQUAL("rdmsr-of-the-current-count-exits", rdmsr_of(0x839), SVM_EXIT_AVIC_NOACCEL);
	CHECK_EQUAL("with-its-offset", vmcb.control.exit_info1, CURRENT_COUNT);
	CHECK_EQUAL("at-the-instruction", vmcb.save.rip, (u64)l2_rdmsr);
	CHECK_EQUAL("rdmsr-of-eoi-is-gp", rdmsr_of(0x80b), SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("rdmsr-of-no-register-is-gp", rdmsr_of(0x80e), SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("wrmsr-of-the-ldr-is-gp", wrmsr_of(0x80d, 0), SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("wrmsr-of-the-tpr-runs", wrmsr_of(0x808, 0x35), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("it-writes-the-page", reg(TPR), 0x35);
	CHECK_EQUAL("and-v-tpr", v_tpr(), 3);
	CHECK_EQUAL("reserved-bits-of-the-tpr-are-gp", wrmsr_of(0x808, 0x100), SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("wrmsr-of-the-svr-exits", wrmsr_of(0x80f, 0x1ff), SVM_EXIT_AVIC_NOACCEL);
	CHECK_EQUAL("as-its-write", vmcb.control.exit_info1, SVR | WRITE);
	CHECK_EQUAL("behind-the-instruction", vmcb.save.rip, (u64)l2_wrote);
	CHECK_EQUAL("which-wrote-the-page", reg(SVR), 0x1ff);
	make_x2apic(l2_rdmsr);
	memset(msrpm, 0xff, sizeof(msrpm));
	intercept(SVM_EXIT_MSR);
	CHECK_EQUAL("the-intercept-comes-first", run_msr(0x808, 0), SVM_EXIT_MSR);
	make_x2apic(l2_read_id);
	*(u32 *)(apic_page + ID) = 0x66;
	CHECK_EQUAL("with-x2avic-the-page-is-memory", svm_run(), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-read-as-such", vmcb.save.rax, 0x66);
	make(l2_rdmsr);
	intercept(SVM_EXIT_EXCEPTION + GP);
	CHECK_EQUAL("without-it-msrs-reach-the-hosts-apic", run_msr(0x808, 0), SVM_EXIT_EXCEPTION + GP);
}

static void test_x2apic_interrupts(void)
{
	make_x2apic(l2_wrmsr);
	set_vector(ISR, VECTOR);
	CHECK_EQUAL("wrmsr-of-eoi-runs", run_msr(0x80b, 0), SVM_EXIT_VMMCALL);
	CHECK("and-ends-the-interrupt", !has_vector(backing, ISR, VECTOR));
	CHECK_EQUAL("wrmsr-of-self-ipi-runs", wrmsr_of(0x83f, VECTOR), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-interrupts", seen.vector, VECTOR);
	CHECK_EQUAL("right-after-it", seen.ip, (u64)l2_wrote);
	CHECK_EQUAL("self-ipi-of-a-low-vector-exits", wrmsr_of(0x83f, 3), SVM_EXIT_AVIC_INCOMPLETE_IPI);
	CHECK_EQUAL("x2apic-ipi-runs", wrmsr_of(0x830, VECTOR), SVM_EXIT_VMMCALL);
	CHECK_EQUAL("and-comes", seen.vector, VECTOR);
	CHECK_EQUAL("x2apic-ipi-to-one-that-does-not-run-exits", wrmsr_of(0x830, 1ULL << 32 | VECTOR),
		    SVM_EXIT_AVIC_INCOMPLETE_IPI);
	CHECK_EQUAL("with-its-index", vmcb.control.exit_info2, (u64)AVIC_IPI_NOT_RUNNING << 32 | 1);
	CHECK_EQUAL("logical-x2apic-ipi-exits-too", wrmsr_of(0x830, 3ULL << 32 | FLAT | VECTOR),
		    SVM_EXIT_AVIC_INCOMPLETE_IPI);
	CHECK_EQUAL("with-the-index-of-the-second", vmcb.control.exit_info2, (u64)AVIC_IPI_NOT_RUNNING << 32 | 1);
	CHECK("both-have-it", has_vector(other_backing, IRR, VECTOR) && has_vector(backing, IRR, VECTOR));
	CHECK_EQUAL("a-cluster-beyond-the-table-exits", wrmsr_of(0x830, 0x10001ULL << 32 | FLAT | VECTOR),
		    SVM_EXIT_AVIC_INCOMPLETE_IPI);
	CHECK_EQUAL("as-no-target", vmcb.control.exit_info2, (u64)AVIC_IPI_TARGET << 32 | 16);
	CHECK_EQUAL("x2apic-ipi-to-all-exits", wrmsr_of(0x830, 0xffffffffULL << 32 | VECTOR),
		    SVM_EXIT_AVIC_INCOMPLETE_IPI);
	CHECK("everybody-has-it", has_vector(other_backing, IRR, VECTOR) && has_vector(backing, IRR, VECTOR));
	CHECK_EQUAL("reserved-bits-of-the-icr-are-gp", wrmsr_of(0x830, BIT(20)), SVM_EXIT_EXCEPTION + GP);
	make_x2apic(l2_wrmsr);
	vmcb.control.avic_physical |= 511;
	physical_ids[511] = (u64)other_backing | AVIC_ENTRY_VALID | AVIC_ENTRY_RUNNING | 0x99;
	CHECK_EQUAL("x2apic-ids-go-to-511", run_msr(0x830, 511ULL << 32 | VECTOR), SVM_EXIT_VMMCALL);
	CHECK("and-reach-their-pages", has_vector(other_backing, IRR, VECTOR));
}

void guest_main(void)
{
	handlers[VECTOR] = handlers[OTHER] = note;
	svm_start();
	test_faults();
	test_traps();
	test_allowed();
	test_page();
	test_tpr();
	test_delivery();
	test_doorbell();
	test_end_of_interrupt();
	test_ipi();
	test_broadcast();
	test_logical();
	test_bad_pages();
	test_x2apic_accesses();
	test_x2apic_interrupts();
}
