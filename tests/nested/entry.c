/*
 * VM entry: each kind of check fails the way the manual says, what entry and exit load and save, MSR lists, guests in
 * other modes. (Every single check has its case in tests/unit/vmx_checks.c; here is what they lead to.)
 */
#include "vmx.h"

L2(l2_vmcall, "vmcall")

#define NON_CANONICAL 0xaaaaaaaaaaaaaaaaULL
#define TOO_WIDE      BIT(51)

/* --- failing checks --- */

struct breakage {
	const char *name;
	u64 field, value;
	u32 qualification; /* guest state only */
};

static const struct breakage controls[] = {
	{ "pin-based-controls", F(pin_controls), 0, 0 },
	{ "processor-based-controls", F(cpu_controls), 0, 0 },
	{ "exit-controls", F(exit_controls), 0, 0 },
	{ "entry-controls", F(entry_controls), 0, 0 },
	{ "cr3-target-count", F(cr3_target_count), 5, 0 },
	{ "event-of-reserved-type", F(entry_event), EVENT_INFO_VALID | 1 << 8, 0 },
	{ "nmi-of-wrong-vector", F(entry_event), EVENT_INFO_VALID | 2 << 8 | 3, 0 },
	{ "exception-without-its-error-code", F(entry_event), EVENT_INFO_VALID | 3 << 8 | GP, 0 },
};

static const struct breakage host_state[] = {
	{ "host-cr0", F(host_cr0), 0, 0 },
	{ "host-cr3", F(host_cr3), TOO_WIDE, 0 },
	{ "host-cr4", F(host_cr4), 0, 0 },
	{ "host-efer", F(host_efer), 0, 0 },
	{ "host-selector-with-rpl", F(host_ds_selector), DATA | 3, 0 },
	{ "host-cs-null", F(host_cs_selector), 0, 0 },
	{ "host-tr-null", F(host_tr_selector), 0, 0 },
	{ "host-gs-base", F(host_gs_base), NON_CANONICAL, 0 },
	{ "host-sysenter-esp", F(host_sysenter_esp), NON_CANONICAL, 0 },
};

static const struct breakage guest_state[] = {
	{ "guest-cr0", F(guest_cr0), 0, 0 },
	{ "guest-cr3", F(guest_cr3), TOO_WIDE, 0 },
	{ "guest-cr4", F(guest_cr4), 0, 0 },
	{ "guest-efer", F(guest_efer), 0, 0 },
	{ "guest-dr7", F(guest_dr7), BIT(40), 0 },
	{ "guest-debugctl", F(guest_debugctl), BIT(10), 0 },
	{ "guest-rip", F(guest_rip), NON_CANONICAL, 0 },
	{ "guest-rflags", F(guest_rflags), 0, 0 },
	{ "guest-cs-type", F(guest_cs_ar), 0xa093, 0 },
	{ "guest-ss-dpl", F(guest_ss_ar), 0xc0f3, 0 },
	{ "guest-tr-unusable", F(guest_tr_ar), 0x1008b, 0 },
	{ "guest-gdtr-limit", F(guest_gdtr_limit), 0x10000, 0 },
	{ "guest-activity", F(guest_activity), 4, 0 },
	{ "guest-interruptibility", F(guest_interruptibility), 0x20, 0 },
	{ "guest-pending-debug-exceptions", F(guest_pending_db), BIT(5), 0 },
	{ "link-pointer-unaligned", F(link_pointer), 8, 4 },
	{ "link-pointer-of-wrong-revision", F(link_pointer), (u64)io_bitmaps, 4 },
	{ "link-pointer-to-the-current-vmcs", F(link_pointer), (u64)vmcs_region, 4 },
};

static void test_vmfail(const struct breakage *cases, unsigned count, u32 error)
{
	for (unsigned i = 0; i < count; i++) {
		vmcs_make(l2_vmcall);
		vmwrite(cases[i].field, cases[i].value);
		CHECK_EQUAL(cases[i].name, vmx_run(), VM_FAIL_VALID);
		CHECK_EQUAL("error-number", vmread(F(insn_error)), error);
	}
}

static void test_guest_state(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(guest_state); i++) {
		const struct breakage *b = &guest_state[i];
		vmcs_make(l2_vmcall);
		vmcs_set(F(entry_controls), ENTRYC_LOAD_DEBUG);
		vmwrite(b->field, b->value);
		CHECK_EQUAL(b->name, vmx_run(), EXIT_ENTRY_GUEST_STATE | EXIT_ENTRY_FAILURE);
		CHECK_EQUAL("qualification", vmread(F(qualification)), b->qualification);
		CHECK_EQUAL("failed-entry-saves-nothing", vmread(b->field), b->value);
	}
}

/* After a failed entry the VMCS is still clear: VMLAUNCH works once it is repaired. */
static void test_failure_keeps_launch_state(void)
{
	vmcs_make(l2_vmcall);
	vmwrite(F(entry_event), EVENT_INFO_VALID | 4 << 8 | 0x80);
	vmwrite(F(entry_insn_length), 2);
	vmwrite(F(guest_activity), 4);
	CHECK_EQUAL("entry-fails", vmx_run(), EXIT_ENTRY_GUEST_STATE | EXIT_ENTRY_FAILURE);
	CHECK("failed-entry-keeps-the-event", vmread(F(entry_event)) & EVENT_INFO_VALID);
	vmwrite(F(guest_activity), 0);
	vmwrite(F(entry_event), 0);
	CHECK_EQUAL("repaired-vmcs-launches", vmx_run(), EXIT_VMCALL);
}

/* A VMCS that has been entered is checked again wherever it, or what it points to, may have changed. */
static void test_checks_are_repeated(void)
{
	static const struct breakage later[] = {
		{ "control", F(cr3_target_count), 5, VM_FAIL_VALID },
		{ "host-state", F(host_cr3), TOO_WIDE, VM_FAIL_VALID },
		{ "guest-register", F(guest_rip), NON_CANONICAL, EXIT_ENTRY_GUEST_STATE | EXIT_ENTRY_FAILURE },
		{ "guest-segment", F(guest_ds_ar), 0xc193, EXIT_ENTRY_GUEST_STATE | EXIT_ENTRY_FAILURE },
		{ "guest-activity", F(guest_activity), 9, EXIT_ENTRY_GUEST_STATE | EXIT_ENTRY_FAILURE },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(later); i++) {
		vmcs_make(l2_vmcall);
		CHECK_EQUAL("enters", vmx_run(), EXIT_VMCALL);
		CHECK_EQUAL("and-again", vmx_run(), EXIT_VMCALL);
		u64 good = vmread(later[i].field);
		vmwrite(later[i].field, later[i].value);
		CHECK_EQUAL(later[i].name, vmx_run(), later[i].qualification);
		vmwrite(later[i].field, good);
		CHECK_EQUAL("repaired-it-enters", vmx_run(), EXIT_VMCALL);
	}
	u32 *vtpr = (u32 *)(virtual_apic + 0x80);
	vmcs_make(l2_vmcall);
	vmcs_set(F(cpu_controls), CPU_TPR_SHADOW);
	vmwrite(F(tpr_threshold), 3);
	*vtpr = 0x30;
	CHECK_EQUAL("tpr-at-threshold-enters", vmx_run(), EXIT_VMCALL);
	*vtpr = 0x20;
	CHECK_EQUAL("tpr-changed-in-memory-fails", vmx_run(), VM_FAIL_VALID);
	*vtpr = 0;
}

/* --- what is loaded and saved --- */

L2(l2_state, "mov $0x277, %ecx; rdmsr; mov %eax, %esi; mov $0x176, %ecx; rdmsr; mov %eax, %edi;"
	     "mov %dr7, %rbx; str %rbp; vmcall")

static void test_loaded_state(void)
{
	vmcs_make(l2_state);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	vmcs_set(F(entry_controls), ENTRYC_LOAD_PAT | ENTRYC_LOAD_DEBUG);
	vmcs_set(F(exit_controls), EXITC_LOAD_PAT | EXITC_SAVE_PAT | EXITC_SAVE_DEBUG);
	vmwrite(F(guest_pat), 0x0606060600060601);
	vmwrite(F(host_pat), 0x0007040600070406);
	vmwrite(F(guest_sysenter_eip), 0x1234);
	vmwrite(F(host_sysenter_eip), 0x5678);
	vmwrite(F(guest_dr7), 0x700);
	write_dr7(0x600);
	CHECK_EQUAL("runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("guest-pat-is-loaded", l2_regs[L2_RSI], 0x00060601);
	CHECK_EQUAL("guest-sysenter-eip-is-loaded", l2_regs[L2_RDI], 0x1234);
	CHECK_EQUAL("guest-dr7-is-loaded", l2_regs[L2_RBX], 0x700);
	CHECK_EQUAL("guest-tr-is-loaded", l2_regs[L2_RBP], TSS);
	CHECK_EQUAL("guest-pat-is-saved", vmread(F(guest_pat)), 0x0606060600060601);
	CHECK_EQUAL("host-pat-is-loaded", rdmsr(0x277), 0x0007040600070406);
	CHECK_EQUAL("host-sysenter-eip-is-loaded", rdmsr(0x176), 0x5678);
	CHECK_EQUAL("dr7-is-reset-by-the-exit", read_dr7(), 0x400);
	u16 ldt;
	asm volatile("sldt %0" : "=r"(ldt));
	CHECK_EQUAL("ldtr-is-null-after-the-exit", ldt, 0);
	CHECK_EQUAL("rflags-are-clear-after-the-exit", read_flags() & 0x3f7fd7 & ~0x44UL, 2);
}

enum { MSR_PKRS = 0x6e1 };

L2(l2_pkrs, "mov $0x6e1, %ecx; rdmsr; mov %eax, %esi; mov $0x50, %eax; xor %edx, %edx; wrmsr; vmcall")

static void test_pkrs(void)
{
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[2] & BIT(31))) {
		skip("guest-pkrs-is-loaded", "not in CPUID");
		return;
	}
	vmcs_make(l2_pkrs);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	vmcs_set(F(entry_controls), ENTRYC_LOAD_PKRS);
	vmwrite(F(guest_pkrs), 0x40);
	wrmsr(MSR_PKRS, 0x10);
	CHECK_EQUAL("runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("guest-pkrs-is-loaded", l2_regs[L2_RSI], 0x40);
	CHECK_EQUAL("guest-pkrs-is-saved", vmread(F(guest_pkrs)), 0x50);
	CHECK_EQUAL("without-control-the-exit-leaves-pkrs", rdmsr(MSR_PKRS), 0x50);
	vmcs_make(l2_pkrs);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	vmcs_set(F(exit_controls), EXITC_LOAD_PKRS);
	vmwrite(F(guest_pkrs), 0x40);
	vmwrite(F(host_pkrs), 0x80);
	CHECK_EQUAL("runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("without-control-the-entry-leaves-pkrs", l2_regs[L2_RSI], 0x50);
	CHECK_EQUAL("host-pkrs-is-loaded", rdmsr(MSR_PKRS), 0x80);
	wrmsr(MSR_PKRS, 0);
}

/* DR7 and IA32_DEBUGCTL stay as they are, unless controls say otherwise. */
static void test_debug_controls(void)
{
	vmcs_make(l2_state);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	vmcs_clear_bits(F(entry_controls), ENTRYC_LOAD_DEBUG);
	vmcs_clear_bits(F(exit_controls), EXITC_SAVE_DEBUG);
	vmwrite(F(guest_dr7), 0x700);
	write_dr7(0x600);
	CHECK_EQUAL("runs-without-debug-controls", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("without-loading-debug-controls-dr7-stays", l2_regs[L2_RBX], 0x600);
	CHECK_EQUAL("without-saving-debug-controls-the-fields-stay", vmread(F(guest_dr7)), 0x700);
}

static void test_unused_controls(void)
{
	vmcs_make(l2_state);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	vmwrite(F(cpu_controls2), 0xffffffff);
	vmcs_clear_bits(F(cpu_controls), CPU_SECONDARY);
	CHECK_EQUAL("secondary-controls-that-are-off-count-nothing", vmx_run(), EXIT_VMCALL);
	vmcs_make(l2_state);
	vmcs_clear_bits(F(exit_controls), EXITC_HOST_LONG);
	CHECK_EQUAL("32-bit-host-of-64-bit-code-fails", vmx_run(), VM_FAIL_VALID);
	CHECK_EQUAL("for-its-host-state", vmread(F(insn_error)), VMERR_ENTRY_HOST_STATE);
}

L2(l2_efer, "mov $0xc0000080, %ecx; rdmsr; and $~1, %eax; wrmsr; vmcall")
static void test_efer(void)
{
	u64 efer = rdmsr(0xc0000080);
	vmcs_make(l2_efer);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	CHECK_EQUAL("runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("guest-efer-is-saved", vmread(F(guest_efer)), efer & ~1ULL);
	CHECK_EQUAL("host-efer-is-loaded", rdmsr(0xc0000080), efer);
}

/* --- MSR lists --- */

struct msr_entry {
	u32 index, reserved;
	u64 value;
} __attribute__((packed));
static struct msr_entry entry_load[2] ALIGNED(16), exit_store[2] ALIGNED(16), exit_load[2] ALIGNED(16);

enum { LSTAR = 0xc0000082, KERNEL_GS_BASE = 0xc0000102, FS_BASE = 0xc0000100 };

L2(l2_lstar, "mov $0xc0000082, %ecx; rdmsr; mov %eax, %esi; mov $0x2222, %eax; wrmsr; vmcall")
static void test_msr_lists(void)
{
	vmcs_make(l2_lstar);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	entry_load[0] = (struct msr_entry){ LSTAR, 0, 0x1111 };
	entry_load[1] = (struct msr_entry){ KERNEL_GS_BASE, 0, 0x4444 };
	exit_store[0] = exit_store[1] = (struct msr_entry){ LSTAR, 0, 0 };
	exit_load[0] = (struct msr_entry){ LSTAR, 0, 0x3333 };
	vmwrite(F(entry_msr_load), (u64)entry_load);
	vmwrite(F(entry_msr_load_count), 2);
	vmwrite(F(exit_msr_store), (u64)exit_store);
	vmwrite(F(exit_msr_store_count), 1);
	vmwrite(F(exit_msr_load), (u64)exit_load);
	vmwrite(F(exit_msr_load_count), 1);
	CHECK_EQUAL("runs-with-msr-lists", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("entry-loads-its-list", l2_regs[L2_RSI], 0x1111);
	CHECK_EQUAL("all-of-it", rdmsr(KERNEL_GS_BASE), 0x4444);
	CHECK_EQUAL("exit-stores-its-list", exit_store[0].value, 0x2222);
	CHECK_EQUAL("no-further-than-the-count", exit_store[1].value, 0);
	CHECK_EQUAL("exit-loads-its-list", rdmsr(LSTAR), 0x3333);
}

static void test_bad_msr_entry(const char *name, struct msr_entry bad)
{
	vmcs_make(l2_vmcall);
	entry_load[0] = (struct msr_entry){ LSTAR, 0, 0x1111 };
	entry_load[1] = bad;
	vmwrite(F(entry_msr_load), (u64)entry_load);
	vmwrite(F(entry_msr_load_count), 2);
	CHECK_EQUAL(name, vmx_run(), EXIT_ENTRY_MSR_LOADING | EXIT_ENTRY_FAILURE);
	CHECK_EQUAL("qualification-is-the-number-of-the-entry", vmread(F(qualification)), 2);
}

static void test_bad_msr_entries(void)
{
	test_bad_msr_entry("fs-base-in-the-list-fails", (struct msr_entry){ FS_BASE, 0, 0 });
	test_bad_msr_entry("unknown-msr-in-the-list-fails", (struct msr_entry){ 0xdead0000, 0, 0 });
	test_bad_msr_entry("reserved-bits-in-the-list-fail", (struct msr_entry){ LSTAR, 1, 0 });
	test_bad_msr_entry("bad-value-in-the-list-fails", (struct msr_entry){ LSTAR, 0, NON_CANONICAL });
}

/* --- performance counters --- */

enum { PMC0 = 0xc1, PERFEVTSEL0 = 0x186, PERF_GLOBAL_CTRL = 0x38f };
#define COUNT_INSTRUCTIONS (0xc0 | BIT(16) | BIT(17) | BIT(22))
#define COUNT_INTERRUPTS   BIT(20)

/* Reads the control; without the VM entry, and without the VMCALL that exits, nine instructions retire. */
L2(l2_counted, "mov $0x38f, %ecx; rdmsr; mov %eax, %esi; mov %edx, %edi; nop; nop; nop; nop; nop; vmcall")
enum { L2_COUNTED = 9 };

static void counted_make(u32 entry, u32 exit)
{
	vmcs_make(l2_counted);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	vmcs_set(F(entry_controls), entry);
	vmcs_set(F(exit_controls), exit);
	vmwrite(F(guest_perf_global_ctrl), 1);
	vmwrite(F(host_perf_global_ctrl), 2);
	wrmsr(PERF_GLOBAL_CTRL, 4);
	wrmsr(PERFEVTSEL0, COUNT_INSTRUCTIONS);
	wrmsr(PMC0, 0);
}

static void test_counter_interrupt(void)
{
	volatile u32 *lvt = (volatile u32 *)0xfee00340, *svr = (volatile u32 *)0xfee000f0;
	*svr = 0x1ff;
	*lvt = 0x400;
	counted_make(ENTRYC_LOAD_PERF_GLOBAL_CTRL, EXITC_LOAD_PERF_GLOBAL_CTRL);
	vmcs_set(F(pin_controls), PIN_NMI);
	wrmsr(PERFEVTSEL0, COUNT_INSTRUCTIONS | COUNT_INTERRUPTS);
	wrmsr(PMC0, (u32)-6);
	CHECK_EQUAL("a-counter-of-the-guest-overflows", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("behind-its-second-nop", vmread(F(guest_rip)), (u64)l2_counted + 5 + 3 * 2 + 2);
	*lvt = 0x10000;
}

static void test_perf_global_ctrl(void)
{
	u32 r[4];
	cpuid(0xa, 0, r);
	if (!(r[0] & 0xff)) {
		skip("guest-perf-global-ctrl-is-loaded", "not in CPUID");
		return;
	}
	counted_make(ENTRYC_LOAD_PERF_GLOBAL_CTRL, EXITC_LOAD_PERF_GLOBAL_CTRL);
	CHECK_EQUAL("runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("guest-perf-global-ctrl-is-loaded", l2_regs[L2_RSI], 1);
	CHECK_EQUAL("host-perf-global-ctrl-is-loaded", rdmsr(PERF_GLOBAL_CTRL), 2);
	CHECK_EQUAL("the-counter-counts-in-the-guest-alone", rdmsr(PMC0), L2_COUNTED);
	counted_make(0, 0);
	CHECK_EQUAL("runs", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("without-control-the-entry-leaves-it", l2_regs[L2_RSI], 4);
	CHECK_EQUAL("without-control-the-exit-leaves-it", rdmsr(PERF_GLOBAL_CTRL), 4);
	CHECK_EQUAL("and-the-counter-stands", rdmsr(PMC0), 0);
	test_counter_interrupt();

	counted_make(0, 0);
	entry_load[0] = (struct msr_entry){ PERF_GLOBAL_CTRL, 0, 1 };
	exit_store[0] = (struct msr_entry){ PMC0, 0, 0 };
	exit_load[0] = (struct msr_entry){ PERF_GLOBAL_CTRL, 0, 0 };
	vmwrite(F(entry_msr_load), (u64)entry_load);
	vmwrite(F(entry_msr_load_count), 1);
	vmwrite(F(exit_msr_store), (u64)exit_store);
	vmwrite(F(exit_msr_store_count), 1);
	vmwrite(F(exit_msr_load), (u64)exit_load);
	vmwrite(F(exit_msr_load_count), 1);
	CHECK_EQUAL("runs-with-its-msrs-in-the-lists", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("the-list-stores-the-count", exit_store[0].value, L2_COUNTED);
	CHECK_EQUAL("which-the-list-then-stopped", rdmsr(PMC0), L2_COUNTED);
	entry_load[0].value = BIT(4);
	CHECK_EQUAL("a-reserved-bit-in-the-list-fails", vmx_run(), EXIT_ENTRY_MSR_LOADING | EXIT_ENTRY_FAILURE);

	counted_make(ENTRYC_LOAD_PERF_GLOBAL_CTRL, EXITC_LOAD_PERF_GLOBAL_CTRL);
	vmwrite(F(guest_perf_global_ctrl), BIT(4));
	CHECK_EQUAL("a-reserved-bit-for-the-guest-fails", vmx_run(), EXIT_ENTRY_GUEST_STATE | EXIT_ENTRY_FAILURE);
	counted_make(ENTRYC_LOAD_PERF_GLOBAL_CTRL, EXITC_LOAD_PERF_GLOBAL_CTRL);
	vmwrite(F(host_perf_global_ctrl), BIT(35));
	CHECK_EQUAL("a-reserved-bit-for-the-host-fails", vmx_run(), VM_FAIL_VALID);
	wrmsr(PERFEVTSEL0, 0);
}

/* --- guests in other modes --- */

enum { ES, CS, SS_, DS, FS, GS };

static void set_segment(unsigned n, u16 selector, u32 ar, u32 limit, u64 base)
{
	vmwrite(F(guest_es_selector) + 2 * n, selector);
	vmwrite(F(guest_es_ar) + 2 * n, ar);
	vmwrite(F(guest_es_limit) + 2 * n, limit);
	vmwrite(F(guest_es_base) + 2 * n, base);
}

/* 32-bit protected mode code: the same bytes mean the same there. */
L2(l2_32, "mov $0xffffffff, %eax; inc %eax; vmcall")

/* From 32-bit code without paging into IA-32e mode (compatibility mode). */
L2(l2_go_long, ".code32; mov %cr4, %eax; or $0x20, %eax; mov %eax, %cr4; mov $0xc0000080, %ecx; rdmsr;"
	       "or $0x100, %eax; wrmsr; mov %cr0, %eax; or $0x80000000, %eax; mov %eax, %cr0; cpuid; .code64")

static void test_going_long(void)
{
	vmcs_make(l2_go_long);
	vmcs_clear_bits(F(entry_controls), ENTRYC_GUEST_LONG);
	ept_use();
	vmcs_set(F(cpu_controls2), CPU2_UNRESTRICTED_GUEST);
	vmcs_set(F(cpu_controls), CPU_MSR_BITMAPS);
	vmwrite(F(guest_cr0), CR0_PE | CR0_NE);
	vmwrite(F(guest_cr4), CR4_VMXE);
	vmwrite(F(guest_efer), 0);
	set_segment(CS, CODE32, 0xc09b, 0xffffffff, 0);
	CHECK_EQUAL("guest-that-goes-long-runs", vmx_run(), EXIT_CPUID);
	CHECK("the-exit-stores-lma", vmread(F(entry_controls)) & ENTRYC_GUEST_LONG);
}

static void test_32_bits(void)
{
	vmcs_make(l2_32);
	vmcs_clear_bits(F(entry_controls), ENTRYC_GUEST_LONG);
	ept_use();
	vmcs_set(F(cpu_controls2), CPU2_UNRESTRICTED_GUEST);
	vmwrite(F(guest_cr0), CR0_PE | CR0_NE);
	vmwrite(F(guest_cr4), CR4_VMXE);
	vmwrite(F(guest_efer), 0);
	set_segment(CS, CODE32, 0xc09b, 0xffffffff, 0);
	CHECK_EQUAL("unpaged-32-bit-guest-runs", vmx_run(), EXIT_VMCALL);
	CHECK("it-stays-out-of-long-mode", !(vmread(F(entry_controls)) & ENTRYC_GUEST_LONG));
	CHECK_EQUAL("its-cr0-is-saved-without-pe-and-pg", vmread(F(guest_cr0)) & (CR0_PE | CR0_PG), CR0_PE);
}

static void test_real_mode(void)
{
	static const u8 code[] = { 0xb8, 0x34, 0x12, 0x0f, 0x01, 0xc1 }; /* mov $0x1234, %ax; vmcall */
	u8 *low = (u8 *)0x8000;
	memcpy(low, code, sizeof(code));
	vmcs_make(l2_vmcall);
	vmcs_clear_bits(F(entry_controls), ENTRYC_GUEST_LONG);
	ept_use();
	vmcs_set(F(cpu_controls2), CPU2_UNRESTRICTED_GUEST);
	vmwrite(F(guest_cr0), CR0_NE);
	vmwrite(F(guest_cr4), CR4_VMXE);
	vmwrite(F(guest_efer), 0);
	for (unsigned n = ES; n <= GS; n++)
		set_segment(n, 0, 0x93, 0xffff, 0);
	set_segment(CS, 0x800, 0x9b, 0xffff, 0x8000);
	vmwrite(F(guest_rip), 0);
	l2_regs[L2_RAX] = 0;
	vmwrite(F(exception_bitmap), BIT(UD));
	/* VMCALL is undefined in real mode. */
	CHECK_EQUAL("real-mode-guest-runs", vmx_run(), EXIT_EXCEPTION_NMI);
	CHECK_EQUAL("in-16-bit-code", l2_regs[L2_RAX], 0x1234);
	CHECK_EQUAL("rip-counts-from-its-segment", vmread(F(guest_rip)), 3);
}

static u64 pdpt32[4] ALIGNED(32);
static void make_pae(void)
{
	for (unsigned i = 0; i < 4; i++)
		pdpt32[i] = (u64)boot_pd[i] | 1;
	vmcs_make(l2_32);
	vmcs_clear_bits(F(entry_controls), ENTRYC_GUEST_LONG);
	vmwrite(F(guest_cr3), (u64)pdpt32);
	vmwrite(F(guest_efer), 0x800); /* NXE only */
	vmwrite(F(guest_cr4), CR4_VMXE | CR4_PAE);
	set_segment(CS, CODE32, 0xc09b, 0xffffffff, 0);
}

static void test_pae(void)
{
	make_pae();
	CHECK_EQUAL("pae-guest-takes-pdptes-from-memory", vmx_run(), EXIT_VMCALL);
	make_pae();
	pdpt32[1] |= 6;
	CHECK_EQUAL("reserved-bits-in-pdptes-fail", vmx_run(), EXIT_ENTRY_GUEST_STATE | EXIT_ENTRY_FAILURE);
	CHECK_EQUAL("qualification-pdptes", vmread(F(qualification)), 2);
	make_pae();
	pdpt32[0] = 0;
	ept_use();
	for (unsigned i = 0; i < 4; i++)
		vmwrite(F(guest_pdpte0) + 2 * i, (u64)boot_pd[i] | 1);
	CHECK_EQUAL("with-ept-pdptes-are-fields", vmx_run(), EXIT_VMCALL);
	CHECK_EQUAL("and-are-saved", vmread(F(guest_pdpte0)), (u64)boot_pd[0] | 1);
	vmwrite(F(guest_pdpte3), 7);
	CHECK_EQUAL("reserved-bits-in-the-fields-fail", vmx_run(), EXIT_ENTRY_GUEST_STATE | EXIT_ENTRY_FAILURE);
}

void guest_main(void)
{
	vmx_start();
	test_vmfail(controls, ARRAY_SIZE(controls), VMERR_ENTRY_CONTROLS);
	test_vmfail(host_state, ARRAY_SIZE(host_state), VMERR_ENTRY_HOST_STATE);
	test_guest_state();
	test_failure_keeps_launch_state();
	test_checks_are_repeated();
	test_loaded_state();
	test_pkrs();
	test_debug_controls();
	test_unused_controls();
	test_efer();
	test_msr_lists();
	test_bad_msr_entries();
	test_perf_global_ctrl();
	test_32_bits();
	test_going_long();
	test_real_mode();
	test_pae();
}
