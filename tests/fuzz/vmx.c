/*
 * VM entries from VMCSs with random controls and a few more random fields, with random EPT entries, MSR lists, bitmaps
 * and code: whatever happens stays in the guest, every run ends in root operation or is stopped, and what an exit saves
 * is in range. Half of the runs are translated, each translation beside the interpreter, which must agree.
 *
 *	fuzz-vmx [-runs=N] [-seconds=N] [-seed=N]
 */
#include "runs.h"

#include "cpu/hv_ops.h"
#include "hv/vmx/vmx.h"
#include "jit/jit.h"

#include <stdio.h>
#include <sys/time.h>

enum { VMXON = 0x200000, VMCS = 0x201000, EPT = 0x202000, EPT_TABLES = 4, LISTS = 0x210000, HOST = 0x190000 };
/* What controls name, below 2 MiB where the guest's own tables reach: APIC pages, bitmaps, logs. */
enum { PAGES = 0x140000, PAGE_COUNT = 16, APIC_PAGE = PAGES, SHADOW_VMCS = PAGES + 0x1000, EPTP_LIST = PAGES + 0x2000 };

static struct machine *m;
static const struct jit_ops *translator;
static unsigned long entries, entered; /* VM entries; runs with any */

static u64 random_value(void)
{
	static const u64 places[] = { CODE, DATA, STACK, PML4, EPT, LISTS, VMCS, 0, ~0ULL, BIT(40), RAM_SIZE - 8 };
	u64 v = next_random();
	switch (v >> 61) {
	case 0:
		return v;
	case 1:
		return v & 0xff;
	case 2:
		return 1ULL << (v & 63);
	case 3:
		return ~(1ULL << (v & 63));
	default:
		return places[v % G_N_ELEMENTS(places)];
	}
}

/* --- memory --- */

static void make_ept(void)
{
	const u64 wb = 6 << 3, rwx = 7;
	machine_write_u64(m, EPT, (EPT + 0x1000) | rwx);
	machine_write_u64(m, EPT + 0x1000, (EPT + 0x2000) | rwx);
	for (u64 i = 0; i < 8; i++)
		machine_write_u64(m, EPT + 0x2000 + 8 * i, i << 21 | 0x80 | wb | rwx);
	machine_write_u64(m, EPT + 0x2000, (EPT + 0x3000) | rwx);
	for (u64 i = 0; i < 512; i++)
		machine_write_u64(m, EPT + 0x3000 + 8 * i, i << 12 | wb | rwx);
	for (unsigned n = next_random() % 4; n--;)
		machine_write_u64(m, EPT + (next_random() % (EPT_TABLES * 512)) * 8, random_value());
}

static void make_lists(void)
{
	static const u32 msrs[] = { 0x10, 0x174, 0x176, 0x277, 0xc0000080, 0xc0000082, 0xc0000102, 0x1d9, 0x800, 0x1b };
	for (u64 i = 0; i < 64; i++) {
		machine_write_u64(m, LISTS + 16 * i, one_in(8) ? next_random() : msrs[next_random() % 10]);
		machine_write_u64(m, LISTS + 16 * i + 8, random_value());
	}
}

static u32 code_at;

static void code(unsigned n, const u8 *bytes)
{
	memcpy(m->mem.host + CODE + code_at, bytes, n);
	code_at += n;
}

static void code_u32(u32 value)
{
	code(sizeof(value), (const u8 *)&value);
}

/* Numbers of what the instructions below name: fields, MSRs, VM functions, EPTP indexes. */
static u32 some_number(void)
{
	static const u32 numbers[] = { VMCS_ENC_guest_rip,
				       VMCS_ENC_guest_es_ar,
				       VMCS_ENC_vpid,
				       VMCS_ENC_exit_reason,
				       0x7ffe,
				       0x808,
				       0x80b,
				       0x83f,
				       0x830,
				       0x10,
				       0xc0000080,
				       0x1d9,
				       0,
				       1,
				       511,
				       512 };
	return one_in(8) ? (u32)next_random() : numbers[next_random() % G_N_ELEMENTS(numbers)];
}

/* An instruction that the extensions have a word in. */
static void special_instruction(void)
{
	static const struct {
		u8 bytes[4], count;
	} all[] = {
		{ { 0x0f, 0x78, 0xc8 }, 3 },       /* vmread %rcx, %rax */
		{ { 0x0f, 0x79, 0xc8 }, 3 },       /* vmwrite %rax, %rcx */
		{ { 0x0f, 0x01, 0xd4 }, 3 },       /* vmfunc */
		{ { 0x44, 0x0f, 0x22, 0xc0 }, 4 }, /* mov %rax, %cr8 */
		{ { 0x44, 0x0f, 0x20, 0xc0 }, 4 }, /* mov %cr8, %rax */
		{ { 0x0f, 0x32 }, 2 },             /* rdmsr */
		{ { 0x0f, 0x30 }, 2 },             /* wrmsr */
		{ { 0x0f, 0x31 }, 2 },             /* rdtsc */
		{ { 0xf3, 0x90 }, 2 },             /* pause */
		{ { 0xfb }, 1 },                   /* sti */
		{ { 0xf4 }, 1 },                   /* hlt */
		{ { 0x0f, 0x20, 0xd8 }, 3 },       /* mov %cr3, %rax */
		{ { 0x0f, 0x22, 0xd8 }, 3 },       /* mov %rax, %cr3 */
		{ { 0x48, 0xcf }, 2 },             /* iretq */
	};
	unsigned n = next_random() % G_N_ELEMENTS(all);
	code(all[n].count, all[n].bytes);
}

static void random_instruction(void)
{
	static const u8 loads[] = { 0xb8, 0xb9, 0xba };                    /* mov $n, %eax, %ecx or %edx */
	static const u8 memory[] = { 0x89, 0x8b, 0x01, 0x87, 0x88, 0x8f }; /* mov, mov, add, xchg, movb, pop */
	switch (next_random() % 4) {
	case 0:
		code(1, &loads[next_random() % sizeof(loads)]);
		code_u32(some_number());
		break;
	case 1: /* of a page that controls name, often one that is an APIC's register */
		code(1, &memory[next_random() % sizeof(memory)]);
		code(2, (const u8[]){ 0x04, 0x25 });
		code_u32((u32)(PAGES + (one_in(2) ? 0 : next_random() % PAGE_COUNT * 0x1000) +
			       (next_random() & (one_in(2) ? 0xff0 : 0xfff))));
		break;
	case 2:
		special_instruction();
		break;
	default:
		for (unsigned n = next_random() % 8; n--;)
			code(1, (const u8[]){ one_in(10) ? 0x0f : (u8)next_random() });
	}
}

static void random_code(void)
{
	for (code_at = 0; code_at < 256;)
		random_instruction();
	/* The host wrote it: no block that was made of the old bytes may live on. */
	mem_about_to_write(&m->mem, CODE, code_at);
}

/* Pages of mostly zeros: nothing is intercepted, requested, in service. */
static void make_pages(void)
{
	memset(m->mem.host + PAGES, 0, PAGE_COUNT * PAGE_SIZE);
	for (unsigned n = next_random() % 64; n--;)
		machine_write_u64(m, PAGES + next_random() % (PAGE_COUNT * 512) * 8, random_value());
	for (u64 i = 0; i < 512; i++)
		machine_write_u64(m, EPTP_LIST + 8 * i,
				  one_in(8) ? random_value()
					    : EPT | EPTP_WALK4 | EPTP_TYPE_WB | (one_in(2) ? EPTP_AD : 0));
	machine_write_u64(m, SHADOW_VMCS, VMCS_REVISION | VMCS_SHADOW);
}

/* Root: VMLAUNCH; then, where exits come back to, VMRESUME for ever; HLT if either fails. */
static void host_code(void)
{
	static const u8 code[] = { 0x0f, 0x01, 0xc2, 0xf4, 0x90, 0x90, 0x90, 0x90, 0x0f, 0x01, 0xc3, 0xf4 };
	memcpy(m->mem.host + HOST, code, sizeof(code));
}

/* --- the VMCS --- */

/* Must-be bits, and about half of those that may be. */
static u32 random_control(enum vmx_msr msr)
{
	u64 cap = vmx_cap(vmx_of(&m->cpu), msr);
	return (u32)(cap | (next_random() & cap >> 32));
}

/* What one control needs of the others; a random choice would hardly ever get it right. */
static void make_consistent(struct vmcs *v)
{
	u32 *pin = &v->pin_controls, *cpu = &v->cpu_controls, *cpu2 = &v->cpu_controls2;
	v->exit_controls |= EXITC_HOST_LONG | EXITC_LOAD_EFER | EXITC_SAVE_EFER;
	v->entry_controls |= ENTRYC_GUEST_LONG | ENTRYC_LOAD_EFER;
	*cpu |= (u32)CPU_SECONDARY;
	if (*pin & PIN_POSTED_INTERRUPTS) {
		*cpu2 |= CPU2_VIRTUAL_INTERRUPTS;
		v->exit_controls |= EXITC_ACK_INTERRUPT;
	}
	if (*cpu2 & CPU2_APIC_ACCESSES)
		*cpu2 &= ~(u32)CPU2_X2APIC;
	if ((*cpu2 & (CPU2_X2APIC | CPU2_APIC_REGISTERS | CPU2_VIRTUAL_INTERRUPTS)) || (*cpu & CPU_TERTIARY))
		*cpu |= CPU_TPR_SHADOW;
	if (*cpu2 & CPU2_VIRTUAL_INTERRUPTS)
		*pin |= PIN_EXTERNAL_INTERRUPT;
	if (*cpu & CPU_NMI_WINDOW)
		*pin |= PIN_VIRTUAL_NMIS;
	if (*pin & PIN_VIRTUAL_NMIS)
		*pin |= PIN_NMI;
	if (!(*cpu2 & CPU2_EPT))
		*cpu2 &= ~(u32)(CPU2_PML | CPU2_UNRESTRICTED_GUEST | CPU2_MODE_BASED_EXECUTE | CPU2_VM_FUNCTIONS);
	if (v->exit_controls & EXITC_SAVE_PREEMPTION)
		*pin |= PIN_PREEMPTION_TIMER;
}

/* Mostly a page that is there; else one of no RAM, which whoever uses it must survive. */
static u64 some_page(void)
{
	static const u64 nowhere[] = { 0xf0000000, 0xfee00000, BIT(39), RAM_SIZE };
	return one_in(8) ? nowhere[next_random() % G_N_ELEMENTS(nowhere)]
			 : PAGES + next_random() % PAGE_COUNT * PAGE_SIZE;
}

static void make_virtual_apic(struct vmcs *v)
{
	v->apic_access = one_in(2) ? APIC_PAGE : some_page();
	v->virtual_apic = some_page();
	v->posted_descriptor = some_page() + (next_random() & 0xfc0);
	v->posted_vector = next_random() & 0xff;
	v->guest_interrupt_status = one_in(2) ? 0 : (u16)next_random();
	v->pid_table = some_page();
	v->last_pid_index = next_random() & 3;
	v->tpr_threshold = one_in(4) ? next_random() & 0xf : 0;
	for (u64 *bitmap = &v->eoi_exit0; bitmap <= &v->eoi_exit3; bitmap++)
		*bitmap = next_random() & next_random();
}

static void make_controls(struct vmcs *v)
{
	v->pin_controls = random_control(MSR_VMX_TRUE_PIN);
	v->cpu_controls = random_control(MSR_VMX_TRUE_CPU);
	v->cpu_controls2 = random_control(MSR_VMX_CPU2);
	v->exit_controls = random_control(MSR_VMX_TRUE_EXIT);
	v->entry_controls = random_control(MSR_VMX_TRUE_ENTRY);
	make_consistent(v);
	v->exception_bitmap = (u32)(next_random() & next_random());
	v->vpid = 1;
	v->eptp = EPT | EPTP_WALK4 | EPTP_TYPE_WB | (one_in(2) ? EPTP_AD : 0);
	v->link_pointer = v->cpu_controls2 & CPU2_VMCS_SHADOWING ? SHADOW_VMCS : VMCS_NONE;
	v->preemption_timer = one_in(4) ? 0 : ~0u;
	v->msr_bitmap = some_page();
	v->io_bitmap_a = some_page();
	v->io_bitmap_b = some_page();
	v->vmread_bitmap = some_page();
	v->vmwrite_bitmap = some_page();
	v->pml_address = some_page();
	v->guest_pml_index = (u16)(one_in(4) ? next_random() : next_random() & 511);
	v->ve_info = some_page();
	v->eptp_list = one_in(4) ? some_page() : EPTP_LIST;
	v->vm_functions = next_random() & 1;
	v->tsc_multiplier = next_random() | 1;
	v->ple_gap = v->ple_window = one_in(2) ? 0 : ~0u;
	v->cpu_controls3 = vmx_cap(vmx_of(&m->cpu), MSR_VMX_CPU3) & next_random();
	make_virtual_apic(v);
	v->entry_msr_load = v->exit_msr_load = v->exit_msr_store = LISTS + (next_random() % 60) * 16;
	if (one_in(4))
		v->entry_msr_load_count = next_random() % 3;
	if (one_in(8))
		v->exit_msr_load_count = v->exit_msr_store_count = next_random() % 3;
	if (one_in(4))
		v->entry_event = (u32)(EVENT_INFO_VALID | (next_random() & 0xfff));
}

static void make_host(struct vmcs *v)
{
	v->host_cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_ET;
	v->host_cr3 = PML4;
	v->host_cr4 = CR4_PAE | CR4_OSFXSR | CR4_VMXE;
	v->host_efer = EFER_LME | EFER_LMA | EFER_NXE;
	v->host_cs_selector = 8;
	v->host_ss_selector = 0x10;
	v->host_tr_selector = 0x18;
	v->host_tr_base = TSS;
	v->host_gdtr_base = GDT;
	v->host_idtr_base = IDT;
	v->host_rip = HOST + 8;
	v->host_rsp = STACK;
}

static void make_guest(struct vmcs *v)
{
	v->guest_cr0 = v->host_cr0;
	v->guest_cr3 = PML4;
	v->guest_cr4 = v->host_cr4;
	v->guest_efer = v->host_efer;
	v->guest_pat = v->host_pat = 0x0007040600070406;
	for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++) {
		*vmcs_limit(v, seg) = 0xffffffff;
		*vmcs_ar(v, seg) = 0xc093;
	}
	v->guest_cs_ar = 0xa09b;
	v->guest_cs_selector = 8;
	v->guest_tr_ar = 0x8b;
	v->guest_tr_limit = 0x67;
	v->guest_tr_base = TSS;
	v->guest_ldtr_ar = SEG_AR_UNUSABLE;
	v->guest_gdtr_base = GDT;
	v->guest_gdtr_limit = 0x2f;
	v->guest_idtr_base = IDT;
	v->guest_idtr_limit = 0x1ff;
	v->guest_rip = CODE;
	v->guest_rsp = STACK - 0x800;
	v->guest_rflags = RFLAGS_ONE | (next_random() & (RFLAGS_IF | RFLAGS_TF | RFLAGS_AC));
}

/* Real mode, or 32-bit mode without paging, for unrestricted guests. */
static void leave_long_mode(struct vmcs *v)
{
	bool protected = one_in(2);
	v->entry_controls &= ~(u32)ENTRYC_GUEST_LONG;
	v->guest_efer = 0;
	v->guest_cr0 = CR0_NE | CR0_ET | (protected ? CR0_PE : 0);
	v->guest_cs_ar = 0xc09b;
	if (protected)
		return;
	for (unsigned seg = SEG_ES; seg <= SEG_GS; seg++) {
		*vmcs_limit(v, seg) = 0xffff;
		*vmcs_ar(v, seg) = 0x93;
	}
	v->guest_cs_base = CODE;
	v->guest_rip = 0;
	v->guest_rsp = 0x8000;
}

/* Now and then a field, by its encoding as VMWRITE has it. */
static void spoil(struct vmcs *v)
{
	for (unsigned n = next_random() % 4; n;) {
		u64 encoding = next_random() & 0x6c3f;
		const struct vmcs_field *field = vmcs_field_find(encoding);
		/* The host must come back to code that goes on. */
		if (!field || VMCS_GROUP(encoding) == VMCS_READ_ONLY || VMCS_GROUP(encoding) == VMCS_HOST)
			continue;
		vmcs_field_write(v, field, encoding, random_value());
		n--;
	}
	if (one_in(10)) {
		u64 encoding = 0xc00 | (next_random() & 0x603f);
		const struct vmcs_field *field = vmcs_field_find(encoding);
		if (field)
			vmcs_field_write(v, field, encoding, random_value());
	}
}

static void make_vmcs(void)
{
	struct vmx *vmx = vmx_of(&m->cpu);
	struct vmcs *v = &vmx->vmcs;
	memset(v, 0, sizeof(*v));
	v->revision = VMCS_REVISION;
	make_controls(v);
	make_host(v);
	make_guest(v);
	if (vmx_cpu2(vmx, CPU2_UNRESTRICTED_GUEST) && one_in(2))
		leave_long_mode(v);
	spoil(v);
	vmx->on = true;
	vmx->vmxon = VMXON;
	vmx->current = VMCS;
	vmx->checked = 0;
}

/* --- a machine without an APIC --- */

static bool interrupt_sometimes(void *opaque)
{
	return one_in(2);
}

static int some_vector(void *opaque)
{
	return one_in(4) ? -1 : (int)(next_random() & 0xff);
}

/* --- one run --- */

static void check_outcome(void)
{
	const struct vmx *vmx = vmx_of(&m->cpu);
	const struct cpu *cpu = &m->cpu;
	g_assert_cmpuint(cpu->reg[REG_ZERO], ==, 0);
	g_assert_true(cpu->rflags_sys & RFLAGS_ONE);
	if (cpu->activity == CPU_SHUTDOWN && !cpu->non_root)
		; /* a VMX abort leaves the state as it is */
	else if (!cpu->non_root) {
		g_assert_cmphex(cpu->mmu.paging.eptp, ==, 0);
		g_assert_cmpuint(cpu->mmu.paging.vpid, ==, 0);
		g_assert_false(cpu->hv_step);
		g_assert_cmphex(cpu->mmu.paging.apic_page, ==, 0);
		g_assert_null(cpu->mmu.pml_index);
	} else {
		g_assert_true(vmx->on && vmx->current == VMCS);
	}
	entries += cpu->counters.vm_entries;
	entered += cpu->counters.vm_entries != 0;
}

static void try_once(void)
{
	const struct itimerval soon = { .it_value.tv_usec = 1000 }, never = { 0 };
	struct x86_state s;

	machine_tables(m);
	machine_set_long_mode(m);
	make_ept();
	make_lists();
	make_pages();
	random_code();
	host_code();
	mmu_flush_all(&m->cpu.mmu);
	cpu_get_state(&m->cpu, &s);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		s.gpr[i] = random_value();
	s.gpr[RSP] = STACK;
	s.rip = HOST;
	s.cr4 |= CR4_VMXE;
	cpu_set_state(&m->cpu, &s);
	make_vmcs();
	fuzz_choose_translation(m, translator);
	m->cpu.activity = CPU_ACTIVE;
	if (one_in(2))
		cpu_attend(&m->cpu, ATTEND_INTR | (one_in(4) ? ATTEND_NMI : 0));
	m->cpu.counters.vm_entries = 0;
	setitimer(ITIMER_REAL, &soon, NULL);
	cpu_run(&m->cpu);
	setitimer(ITIMER_REAL, &never, NULL);
	cpu_attended(&m->cpu, ATTEND_STOP);
	check_outcome();
	cpu_reset(&m->cpu);
}

int main(int argc, char **argv)
{
	fuzz_begin(argc, argv);
	m = machine_new_nested(NESTED_VTX, &vmx_ops);
	m->platform.interrupt_pending = interrupt_sometimes;
	m->platform.ack_interrupt = some_vector;
	const struct jit_options options = { .hot = 1, .check = true };
	g_assert_cmpint(jit_create(&m->cpu, &options), ==, 0);
	translator = m->cpu.jit;
	unsigned long runs = fuzz_runs(m, try_once);
	printf("ok: %lu runs, %lu of them entered, %lu VM entries\n", runs, entered, entries);
	m->cpu.jit = translator;
	jit_destroy(&m->cpu);
	machine_free(m);
	/* A target whose entries all fail would test nothing. */
	return entered > runs / 10 ? 0 : 1;
}
