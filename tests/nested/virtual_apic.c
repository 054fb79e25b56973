/*
 * APIC virtualization: accesses to the APIC-access page, the virtual-APIC page, TPR threshold, register virtualization,
 * virtual interrupts and their end, x2APIC MSRs, posted interrupts.
 */
#include "vmx.h"

enum { ID = 0x20, VERSION = 0x30, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, ISR = 0x100, IRR = 0x200 };
enum { ICR = 0x300, ICR_HIGH = 0x310, SELF_IPI = 0x3f0, REAL_SVR = 0xf0 };
enum { READ, WRITE, FETCH, EVENT }; /* of the exit qualification */
enum { VECTOR = 0x61, OTHER = 0x45, NOTIFICATION = 0xf2 };

#define QUAL(offset, type) ((u64)(offset) | (u64)(type) << 12)

static u8 apic_page[4096] ALIGNED(4096);
static u64 descriptor[8] ALIGNED(64);

static u32 reg(u32 offset)
{
	return *(volatile u32 *)(virtual_apic + offset);
}

static void set_reg(u32 offset, u32 value)
{
	*(volatile u32 *)(virtual_apic + offset) = value;
}

static bool vector_bit(u32 base, u8 vector)
{
	return reg(base + vector / 32 * 16) >> vector % 32 & 1;
}

static void set_vector_bit(u32 base, u8 vector)
{
	set_reg(base + vector / 32 * 16, reg(base + vector / 32 * 16) | 1u << vector % 32);
}

static void make(void (*code)(void), u32 secondary)
{
	vmcs_make(code);
	memset(virtual_apic, 0, sizeof(virtual_apic));
	vmwrite(F(apic_access), (u64)apic_page);
	vmcs_set(F(cpu_controls2), secondary);
}

static void make_shadow(void (*code)(void), u32 secondary)
{
	make(code, secondary);
	vmcs_set(F(cpu_controls), CPU_TPR_SHADOW);
}

/* --- accesses that exit (30.4.1) --- */

/* Each access is 8 bytes long where its length is looked at. */
L2(l2_read_tpr, "mov apic_page + 0x80, %eax; vmcall")
L2(l2_read_tpr64, "mov apic_page + 0x80, %rax; vmcall")
L2(l2_read_behind_tpr, "mov apic_page + 0x84, %eax; vmcall")
L2(l2_read_across, "mov apic_page + 0x82, %eax; vmcall")
L2(l2_read_id, "mov apic_page + 0x20, %eax; vmcall")
L2(l2_read_ppr, "mov apic_page + 0xa0, %eax; vmcall")
L2(l2_write_tpr, "movl $0x35, apic_page + 0x80; nop; vmcall")
L2(l2_write_tpr8, "movb $0x35, apic_page + 0x80; nop; vmcall")
L2(l2_or_tpr, "orl $0x50, apic_page + 0x80; nop; vmcall")
L2(l2_write_ldr, "movl $0x1234, apic_page + 0xd0; nop; vmcall")
L2(l2_write_version, "movl $0x1234, apic_page + 0x30; nop; vmcall")
L2(l2_write_icr, "movl $0x4500, apic_page + 0x300; nop; vmcall")
L2(l2_write_self_ipi, "movl $0x40061, apic_page + 0x300; nop; vmcall")
L2(l2_write_icr_high, "movl $0x12345678, apic_page + 0x310; nop; vmcall")
L2(l2_write_eoi, "movl $7, apic_page + 0xb0; nop; vmcall")
L2(l2_jump, "mov $apic_page, %eax; jmp *%rax")
L2(l2_fault, "ud2")

struct access_case {
	const char *name;
	void (*code)(void);
	u32 offset, type;
};

static void expect_access(const struct access_case *c)
{
	CHECK_EQUAL(c->name, vmx_run(), EXIT_APIC_ACCESS);
	CHECK_EQUAL("qualification", vmread(F(qualification)), QUAL(c->offset, c->type));
	CHECK("saved-rf", vmread(F(guest_rflags)) & BIT(16));
	if (c->type == FETCH)
		return;
	CHECK_EQUAL("rip-is-the-instruction", vmread(F(guest_rip)), (u64)c->code);
	CHECK("length-is-that-of-the-instruction", vmread(F(exit_insn_length)) >= 7);
}

static void test_access_exits(void)
{
	static const struct access_case without_shadow[] = {
		{ "read-without-tpr-shadow-exits", l2_read_tpr, TPR, READ },
		{ "write-without-tpr-shadow-exits", l2_write_tpr, TPR, WRITE },
		{ "read-modify-write-exits", l2_or_tpr, TPR, WRITE },
		{ "fetch-exits", l2_jump, 0, FETCH },
	};
	static const struct access_case with_shadow[] = {
		{ "64-bit-read-of-the-tpr-exits", l2_read_tpr64, TPR, READ },
		{ "read-behind-the-tpr-exits", l2_read_behind_tpr, TPR + 4, READ },
		{ "read-across-the-tpr-exits", l2_read_across, TPR + 2, READ },
		{ "read-of-the-id-exits", l2_read_id, ID, READ },
		{ "write-of-the-ldr-exits", l2_write_ldr, LDR, WRITE },
		{ "write-of-eoi-exits", l2_write_eoi, EOI, WRITE },
		{ "fetch-exits-with-the-shadow-too", l2_jump, 0, FETCH },
	};
	static const struct access_case with_registers[] = {
		{ "read-of-the-ppr-exits", l2_read_ppr, PPR, READ },
		{ "write-of-the-version-exits", l2_write_version, VERSION, WRITE },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(without_shadow); i++) {
		make(without_shadow[i].code, CPU2_APIC_ACCESSES);
		expect_access(&without_shadow[i]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(with_shadow); i++) {
		make_shadow(with_shadow[i].code, CPU2_APIC_ACCESSES);
		expect_access(&with_shadow[i]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(with_registers); i++) {
		make_shadow(with_registers[i].code, CPU2_APIC_ACCESSES | CPU2_APIC_REGISTERS);
		expect_access(&with_registers[i]);
	}
	make(l2_fault, CPU2_APIC_ACCESSES);
	vmwrite(F(guest_rsp), (u64)apic_page + 0x800);
	CHECK_EQUAL("event-delivery-exits", vmx_run(), EXIT_APIC_ACCESS);
	CHECK_EQUAL("as-event-delivery", vmread(F(qualification)) >> 12, EVENT);
	CHECK_EQUAL("with-the-event", vmread(F(vectoring_event)), EVENT_INFO_VALID | 3 << 8 | UD);
	make(l2_read_tpr, 0);
	*(u32 *)(apic_page + TPR) = 0x77;
	CHECK_EQUAL("without-the-control-the-page-is-memory", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-read-as-such", l2_regs[L2_RAX], 0x77);
	make(l2_read_tpr, CPU2_APIC_ACCESSES);
	ept_use();
	CHECK_EQUAL("read-behind-ept-exits", vmx_run(), EXIT_APIC_ACCESS);
}

/* --- the TPR (30.1.2, 30.3) --- */

L2(l2_cr8, "mov $3, %eax; mov %rax, %cr8; mov %cr8, %rbx; vmcall")

static void test_tpr(void)
{
	make_shadow(l2_read_tpr, CPU2_APIC_ACCESSES);
	set_reg(TPR, 0x42);
	CHECK_EQUAL("read-of-the-tpr-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-reads-the-virtual-apic-page", l2_regs[L2_RAX], 0x42);
	make_shadow(l2_write_tpr, CPU2_APIC_ACCESSES);
	CHECK_EQUAL("write-of-the-tpr-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-writes-the-virtual-apic-page", reg(TPR), 0x35);
	make_shadow(l2_write_tpr8, CPU2_APIC_ACCESSES);
	set_reg(TPR, 0xffffff00);
	CHECK_EQUAL("byte-write-of-the-tpr-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-clears-the-upper-bytes", reg(TPR), 0x35);
	make_shadow(l2_or_tpr, CPU2_APIC_ACCESSES);
	set_reg(TPR, 0x03);
	CHECK_EQUAL("read-modify-write-of-the-tpr-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-does-both", reg(TPR), 0x53);

	make_shadow(l2_write_tpr, CPU2_APIC_ACCESSES);
	set_reg(TPR, 0x40);
	vmwrite(F(tpr_threshold), 4);
	CHECK_EQUAL("write-below-the-threshold-exits", vmx_run(), EXIT_TPR_BELOW_THRESHOLD);
	CHECK_EQUAL("after-the-instruction", vmread(F(guest_rip)), (u64)l2_write_tpr + 11);
	CHECK_EQUAL("without-qualification", vmread(F(qualification)), 0);
	make_shadow(l2_write_tpr, CPU2_APIC_ACCESSES);
	vmwrite(F(tpr_threshold), 4);
	CHECK_EQUAL("entry-below-the-threshold-exits", vmx_run(), EXIT_TPR_BELOW_THRESHOLD);
	CHECK_EQUAL("before-the-first-instruction", vmread(F(guest_rip)), (u64)l2_write_tpr);
	make_shadow(l2_cr8, CPU2_APIC_ACCESSES);
	set_reg(TPR, 0x40);
	vmwrite(F(tpr_threshold), 4);
	CHECK_EQUAL("mov-cr8-below-the-threshold-exits", vmx_run(), EXIT_TPR_BELOW_THRESHOLD);
	vmwrite(F(tpr_threshold), 3);
	CHECK_EQUAL("mov-from-cr8-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-reads-the-virtual-tpr", l2_regs[L2_RBX], 3);
}

/* --- register virtualization (30.4.2, 30.4.3) --- */

L2(l2_rep_ldr, "mov $apic_page + 0xd0, %edi; mov $2, %ecx; rep stosl; nop; vmcall")

static void test_registers(void)
{
	const u32 controls = CPU2_APIC_ACCESSES | CPU2_APIC_REGISTERS;
	make_shadow(l2_read_id, controls);
	set_reg(ID, 0x99000000);
	CHECK_EQUAL("read-of-the-id-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-reads-the-page", l2_regs[L2_RAX], 0x99000000);
	make_shadow(l2_write_ldr, controls);
	CHECK_EQUAL("write-of-the-ldr-exits-as-apic-write", vmx_run(), EXIT_APIC_WRITE);
	CHECK_EQUAL("with-its-offset", vmread(F(qualification)), LDR);
	CHECK_EQUAL("after-the-instruction", vmread(F(guest_rip)), (u64)l2_write_ldr + 11);
	CHECK_EQUAL("which-wrote-the-page", reg(LDR), 0x1234);
	make_shadow(l2_rep_ldr, controls);
	CHECK_EQUAL("repeated-write-exits", vmx_run(), EXIT_APIC_WRITE);
	CHECK_EQUAL("after-one-iteration", l2_regs[L2_RCX], 1);
	CHECK_EQUAL("before-the-next", vmread(F(guest_rip)), (u64)l2_rep_ldr + 10);
	make_shadow(l2_write_icr, controls);
	CHECK_EQUAL("write-of-the-icr-exits-as-apic-write", vmx_run(), EXIT_APIC_WRITE);
	make_shadow(l2_write_icr_high, controls);
	CHECK_EQUAL("write-of-the-icrs-high-half-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-keeps-the-destination", reg(ICR_HIGH), 0x12000000);
	make_shadow(l2_write_eoi, controls);
	CHECK_EQUAL("eoi-without-virtual-interrupts-exits-as-apic-write", vmx_run(), EXIT_APIC_WRITE);
	make_shadow(l2_write_ldr, controls);
	vmcs_set(F(cpu_controls), CPU_MTF);
	CHECK_EQUAL("apic-write-comes-before-mtf", vmx_run(), EXIT_APIC_WRITE);
	make_shadow(l2_write_ldr, controls);
	vmwrite(F(guest_rflags), 2 | FLAG_TF);
	CHECK_EQUAL("apic-write-comes-before-the-step", vmx_run(), EXIT_APIC_WRITE);
	CHECK_EQUAL("which-stays-pending", vmread(F(guest_pending_db)), BIT(14));
}

/* --- virtual interrupts (30.2) --- */

static struct {
	u64 count, vector, ip;
} seen;

static void note(struct frame *f)
{
	seen.count++;
	seen.vector = f->vector;
	seen.ip = f->ip;
}

L2(l2_nops, "nop; nop; vmcall")
L2(l2_sti, "sti; nop; nop; vmcall")
L2(l2_hlt, "hlt; vmcall")
L2(l2_lower_cr8, "xor %eax, %eax; mov %rax, %cr8; nop; vmcall")

static void make_interrupts(void (*code)(void), u32 secondary, u8 rvi, u8 svi)
{
	make_shadow(code, CPU2_VIRTUAL_INTERRUPTS | secondary);
	vmcs_set(F(pin_controls), PIN_EXTERNAL_INTERRUPT);
	vmwrite(F(guest_interrupt_status), rvi | svi << 8);
	for (unsigned i = 0; i < 4; i++)
		vmwrite(F(eoi_exit0) + 2 * i, 0);
	if (rvi)
		set_vector_bit(IRR, rvi);
	if (svi)
		set_vector_bit(ISR, svi);
	vmwrite(F(guest_rflags), 2 | FLAG_IF);
	seen.count = 0;
}

static void test_delivery(void)
{
	make_interrupts(l2_nops, 0, VECTOR, 0);
	set_vector_bit(IRR, OTHER);
	CHECK_EQUAL("pending-virtual-interrupt", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("is-delivered-once", seen.count, 1);
	CHECK_EQUAL("with-its-vector", seen.vector, VECTOR);
	CHECK_EQUAL("before-the-first-instruction", seen.ip, (u64)l2_nops);
	CHECK_EQUAL("status-moves-it-to-service", vmread(F(guest_interrupt_status)), VECTOR << 8 | OTHER);
	CHECK("so-do-the-registers", vector_bit(ISR, VECTOR) && !vector_bit(IRR, VECTOR) && vector_bit(IRR, OTHER));
	CHECK_EQUAL("ppr-is-its-class", reg(PPR), VECTOR & 0xf0);

	make_interrupts(l2_nops, 0, VECTOR, VECTOR + 1);
	CHECK_EQUAL("class-in-service", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("holds-its-class-back", seen.count, 0);
	make_interrupts(l2_lower_cr8, 0, VECTOR, 0);
	set_reg(TPR, 0x70);
	CHECK_EQUAL("lowering-the-tpr", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("lets-it-in", seen.count, 1);
	CHECK_EQUAL("right-after-the-write", seen.ip, (u64)l2_lower_cr8 + 6);
	make_interrupts(l2_sti, 0, VECTOR, 0);
	vmwrite(F(guest_rflags), 2);
	CHECK_EQUAL("sti", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("lets-it-in-after-one-instruction", seen.ip, (u64)l2_sti + 2);
	make_interrupts(l2_nops, 0, VECTOR, 0);
	vmwrite(F(guest_rflags), 2);
	CHECK_EQUAL("with-if-clear", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("it-waits", seen.count, 0);
	make_interrupts(l2_hlt, 0, 0, 0);
	vmwrite(F(guest_activity), ACTIVITY_HLT);
	vmwrite(F(guest_interrupt_status), VECTOR);
	set_vector_bit(IRR, VECTOR);
	CHECK_EQUAL("it-ends-hlt", (vmwrite(F(guest_rip), (u64)l2_nops), vmx_run()), EXIT_VMCALL);
	CHECK_EQUAL("for-its-handler", seen.count, 1);
	make_interrupts(l2_nops, 0, VECTOR, 0);
	vmcs_set(F(cpu_controls), CPU_INTERRUPT_WINDOW);
	CHECK_EQUAL("interrupt-window-exiting-comes-instead", vmx_run(), EXIT_INTERRUPT_WINDOW);
	make_interrupts(l2_nops, 0, VECTOR, 0);
	vmwrite(F(guest_idtr_limit), VECTOR * 16 - 1);
	vmwrite(F(exception_bitmap), BIT(GP));
	CHECK_EQUAL("fault-in-its-delivery-exits", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("with-the-interrupt", vmread(F(vectoring_event)), EVENT_INFO_VALID | VECTOR);
}

static void test_end_of_interrupt(void)
{
	make_interrupts(l2_write_eoi, CPU2_APIC_ACCESSES, OTHER, VECTOR);
	CHECK_EQUAL("eoi-runs", vmx_run(), EXIT_VMCALL);
	CHECK("it-ends-the-interrupt-in-service", !vector_bit(ISR, VECTOR));
	CHECK_EQUAL("so-that-the-lower-one-comes", seen.vector, OTHER);
	CHECK_EQUAL("right-after-it", seen.ip, (u64)l2_write_eoi + 11);
	CHECK_EQUAL("the-eoi-register-stays-0", reg(EOI), 0);
	make_interrupts(l2_write_eoi, CPU2_APIC_ACCESSES, 0, VECTOR);
	set_vector_bit(ISR, OTHER);
	vmwrite(F(eoi_exit1), BIT(VECTOR - 64));
	CHECK_EQUAL("eoi-of-a-vector-in-the-bitmap-exits", vmx_run(), EXIT_VIRTUALIZED_EOI);
	CHECK_EQUAL("with-the-vector", vmread(F(qualification)), VECTOR);
	CHECK_EQUAL("after-the-instruction", vmread(F(guest_rip)), (u64)l2_write_eoi + 11);
	CHECK_EQUAL("the-next-one-is-in-service", vmread(F(guest_interrupt_status)), OTHER << 8);
}

static void test_self_ipi(void)
{
	make_interrupts(l2_write_self_ipi, CPU2_APIC_ACCESSES, 0, 0);
	CHECK_EQUAL("self-ipi-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-interrupts", seen.vector, VECTOR);
	CHECK_EQUAL("right-after-the-write", seen.ip, (u64)l2_write_self_ipi + 11);
	make_interrupts(l2_write_icr, CPU2_APIC_ACCESSES, 0, 0);
	CHECK_EQUAL("other-ipis-exit", vmx_run(), EXIT_APIC_WRITE);
	CHECK_EQUAL("with-the-offset", vmread(F(qualification)), ICR);
}

/* --- x2APIC MSRs (30.5) --- */

L2(l2_rdmsr, "rdmsr; vmcall")
L2(l2_wrmsr, "wrmsr; nop; vmcall")

static u32 run_msr(u32 msr, u64 value)
{
	l2_regs[L2_RCX] = msr;
	l2_regs[L2_RAX] = (u32)value;
	l2_regs[L2_RDX] = value >> 32;
	return vmx_run();
}

static void make_x2apic(void (*code)(void), u32 secondary, u8 rvi, u8 svi)
{
	make_interrupts(code, CPU2_X2APIC | secondary, rvi, svi);
	memset(msr_bitmap, 0, 4096);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	vmwrite(F(exception_bitmap), BIT(GP));
}

static void test_x2apic(void)
{
	make_x2apic(l2_rdmsr, 0, 0, 0);
	set_reg(TPR, 0x42);
	CHECK_EQUAL("rdmsr-of-the-tpr-runs", run_msr(0x808, 0), EXIT_VMCALL);
	CHECK_EQUAL("and-reads-the-page", l2_regs[L2_RAX], 0x42);
	make_x2apic(l2_rdmsr, 0, 0, 0);
	CHECK_EQUAL("rdmsr-of-others-reaches-the-apic", run_msr(0x802, 0), EXIT_EXCEPTION_NMI);
	make_x2apic(l2_rdmsr, CPU2_APIC_REGISTERS, 0, 0);
	set_reg(ICR, 0x11);
	set_reg(ICR + 4, 0x22);
	CHECK_EQUAL("rdmsr-with-register-virtualization-runs", run_msr(0x830, 0), EXIT_VMCALL);
	CHECK_EQUAL("and-reads-low-bits", l2_regs[L2_RAX], 0x11);
	CHECK_EQUAL("and-high-bits", l2_regs[L2_RDX], 0x22);
	make_x2apic(l2_wrmsr, 0, VECTOR, 0);
	set_reg(TPR, 0x70);
	CHECK_EQUAL("wrmsr-of-the-tpr-runs", run_msr(0x808, 0x20), EXIT_VMCALL);
	CHECK_EQUAL("it-writes-the-page", reg(TPR), 0x20);
	CHECK_EQUAL("and-lets-interrupts-in", seen.ip, (u64)l2_wrmsr + 2);
	make_x2apic(l2_wrmsr, 0, 0, 0);
	CHECK_EQUAL("reserved-bits-of-the-tpr-are-gp", run_msr(0x808, 0x100), EXIT_EXCEPTION_NMI);
	make_x2apic(l2_wrmsr, 0, 0, VECTOR);
	vmwrite(F(eoi_exit1), BIT(VECTOR - 64));
	CHECK_EQUAL("wrmsr-of-eoi-ends-the-interrupt", run_msr(0x80b, 0), EXIT_VIRTUALIZED_EOI);
	make_x2apic(l2_wrmsr, 0, 0, VECTOR);
	CHECK_EQUAL("eoi-of-non-zero-is-gp", run_msr(0x80b, 1), EXIT_EXCEPTION_NMI);
	make_x2apic(l2_wrmsr, 0, 0, 0);
	CHECK_EQUAL("wrmsr-of-self-ipi-runs", run_msr(0x83f, VECTOR), EXIT_VMCALL);
	CHECK_EQUAL("and-interrupts", seen.vector, VECTOR);
	make_x2apic(l2_wrmsr, 0, 0, 0);
	CHECK_EQUAL("self-ipi-of-a-low-vector-exits", run_msr(0x83f, 5), EXIT_APIC_WRITE);
	CHECK_EQUAL("with-its-offset", vmread(F(qualification)), SELF_IPI);
	make_x2apic(l2_wrmsr, 0, 0, 0);
	msr_bitmap[2048 + 0x808 / 8] = 1;
	CHECK_EQUAL("msr-bitmaps-come-first", run_msr(0x808, 0), EXIT_WRMSR);
	make_x2apic(l2_rdmsr, 0, 0, 0);
	vmcs_clear_bits(F(cpu_controls2), CPU2_X2APIC);
	CHECK_EQUAL("without-the-control-they-are-the-apics", run_msr(0x808, 0), EXIT_EXCEPTION_NMI);
}

/* --- posted interrupts (30.6) --- */

static volatile u32 *const lapic = (volatile u32 *)0xfee00000;

static void make_posted(void (*code)(void), u8 notification)
{
	make_interrupts(code, 0, 0, 0);
	vmcs_set(F(pin_controls), PIN_POSTED_INTERRUPTS);
	vmcs_set(F(exit_controls), EXITC_ACK_INTERRUPT);
	vmwrite(F(posted_vector), notification);
	vmwrite(F(posted_descriptor), (u64)descriptor);
	memset(descriptor, 0, sizeof(descriptor));
	descriptor[VECTOR / 64] |= BIT(VECTOR % 64);
	descriptor[OTHER / 64] |= BIT(OTHER % 64);
	descriptor[4] = 3; /* outstanding, and another bit that stays */
	lapic[ICR / 4] = 0x40000 | NOTIFICATION;
}

static void test_posted(void)
{
	lapic[REAL_SVR / 4] = 0x1ff;
	make_posted(l2_nops, NOTIFICATION);
	CHECK_EQUAL("notification-does-not-exit", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("the-posted-interrupt-comes", seen.vector, VECTOR);
	CHECK_EQUAL("first", seen.ip, (u64)l2_nops);
	CHECK("the-other-one-waits", vector_bit(IRR, OTHER) && !vector_bit(IRR, VECTOR));
	CHECK_EQUAL("requests-are-taken", descriptor[VECTOR / 64] | descriptor[OTHER / 64], 0);
	CHECK_EQUAL("the-notification-is-no-longer-outstanding", descriptor[4], 2);
	CHECK_EQUAL("and-has-ended", lapic[(0x100 + NOTIFICATION / 32 * 16) / 4], 0);
	make_posted(l2_hlt, NOTIFICATION);
	vmwrite(F(guest_activity), ACTIVITY_HLT);
	CHECK_EQUAL("it-ends-hlt", (vmwrite(F(guest_rip), (u64)l2_nops), vmx_run()), EXIT_VMCALL);
	CHECK_EQUAL("for-the-posted-interrupt", seen.vector, VECTOR);
	make_posted(l2_nops, NOTIFICATION);
	vmwrite(F(posted_descriptor), 0xf0000000);
	CHECK_EQUAL("descriptor-outside-ram-posts-nothing", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("to-nobody", seen.count, 0);
	make_posted(l2_nops, NOTIFICATION - 1);
	CHECK_EQUAL("other-interrupts-exit", vmx_run(), EXIT_EXTERNAL_INTERRUPT);
	CHECK_EQUAL("with-their-vector", vmread(F(exit_event)), EVENT_INFO_VALID | NOTIFICATION);
	lapic[EOI / 4] = 0;
}

/* --- IPI virtualization (30.1.6) --- */

static u64 pid_table[4] ALIGNED(64);

/* To the processor with APIC ID 0, or 1. */
L2(l2_ipi, "movl $0, apic_page + 0x310; movl $0x4061, apic_page + 0x300; nop; vmcall")
L2(l2_ipi_to_1, "movl $0x01000000, apic_page + 0x310; movl $0x4061, apic_page + 0x300; nop; vmcall")
L2(l2_ipi_logical, "movl $0, apic_page + 0x310; movl $0x4861, apic_page + 0x300; nop; vmcall")
L2(l2_ipi_low, "movl $0, apic_page + 0x310; movl $0x400f, apic_page + 0x300; nop; vmcall")

static void make_ipi(void (*code)(void), u32 mode)
{
	make_posted(code, NOTIFICATION);
	/* That sent a notification already: the entry takes it, with nothing posted yet. */
	memset(descriptor, 0, sizeof(descriptor));
	descriptor[4] = (u64)NOTIFICATION << 16; /* to APIC ID 0 */
	memset(pid_table, 0, sizeof(pid_table));
	pid_table[0] = (u64)descriptor | 1;
	vmcs_set(F(cpu_controls2), mode);
	vmcs_set(F(cpu_controls), CPU_TERTIARY);
	vmwrite(F(cpu_controls3), CPU3_IPI);
	vmwrite(F(pid_table), (u64)pid_table);
	vmwrite(F(last_pid_index), 1);
	if (mode == CPU2_X2APIC) {
		memset(msr_bitmap, 0, 4096);
		vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
		vmwrite(F(exception_bitmap), BIT(GP));
	}
}

static void test_ipi(void)
{
	make_ipi(l2_ipi, CPU2_APIC_ACCESSES);
	CHECK_EQUAL("ipi-to-a-descriptor-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("its-notification-brings-it", seen.vector, VECTOR);
	CHECK_EQUAL("right-after-the-write", seen.ip, (u64)l2_ipi + 22);
	CHECK_EQUAL("and-is-no-longer-outstanding", descriptor[4] & 3, 0);
	make_ipi(l2_ipi, CPU2_APIC_ACCESSES);
	descriptor[4] |= 2;
	CHECK_EQUAL("suppressed-ipi-runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("nobody-is-told", seen.count, 0);
	CHECK_EQUAL("but-it-is-posted", descriptor[VECTOR / 64], BIT(VECTOR % 64));
	make_ipi(l2_ipi_to_1, CPU2_APIC_ACCESSES);
	CHECK_EQUAL("ipi-to-an-empty-entry-exits", vmx_run(), EXIT_APIC_WRITE);
	CHECK_EQUAL("with-the-icrs-offset", vmread(F(qualification)), ICR);
	make_ipi(l2_ipi, CPU2_APIC_ACCESSES);
	pid_table[0] |= 2;
	CHECK_EQUAL("ipi-to-an-entry-with-reserved-bits-exits", vmx_run(), EXIT_APIC_WRITE);
	make_ipi(l2_ipi, CPU2_APIC_ACCESSES);
	pid_table[0] = 0xf0000001;
	CHECK_EQUAL("ipi-to-a-descriptor-outside-ram-exits", vmx_run(), EXIT_APIC_WRITE);
	make_ipi(l2_ipi_to_1, CPU2_APIC_ACCESSES);
	pid_table[1] = pid_table[0];
	vmwrite(F(last_pid_index), 0);
	CHECK_EQUAL("ipi-beyond-the-table-exits", vmx_run(), EXIT_APIC_WRITE);
	make_ipi(l2_ipi_logical, CPU2_APIC_ACCESSES);
	CHECK_EQUAL("logical-ipi-exits", vmx_run(), EXIT_APIC_WRITE);
	make_ipi(l2_ipi_low, CPU2_APIC_ACCESSES);
	CHECK_EQUAL("ipi-of-a-low-vector-exits", vmx_run(), EXIT_APIC_WRITE);
	make_ipi(l2_ipi, CPU2_APIC_ACCESSES | CPU2_APIC_REGISTERS);
	vmcs_clear_bits(F(cpu_controls), CPU_TERTIARY);
	CHECK_EQUAL("without-tertiary-controls-ipis-exit", vmx_run(), EXIT_APIC_WRITE);
	make_ipi(l2_wrmsr, CPU2_X2APIC);
	CHECK_EQUAL("x2apic-ipi-runs", run_msr(0x830, VECTOR), EXIT_VMCALL);
	CHECK_EQUAL("and-comes", seen.vector, VECTOR);
	make_ipi(l2_wrmsr, CPU2_X2APIC);
	CHECK_EQUAL("x2apic-ipi-to-nobody-exits", run_msr(0x830, BIT(32) | VECTOR), EXIT_APIC_WRITE);
	make_ipi(l2_wrmsr, CPU2_X2APIC);
	CHECK_EQUAL("reserved-bits-of-the-icr-are-gp", run_msr(0x830, BIT(20)), EXIT_EXCEPTION_NMI);
}

void guest_main(void)
{
	handlers[VECTOR] = handlers[OTHER] = note;
	vmx_start();
	test_access_exits();
	test_tpr();
	test_registers();
	test_delivery();
	test_end_of_interrupt();
	test_self_ipi();
	test_x2apic();
	test_posted();
	test_ipi();
}
