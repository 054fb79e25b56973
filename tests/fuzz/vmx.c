/*
 * VM entries from VMCSs of which a few fields are random, with random EPT entries, MSR lists and code: whatever happens
 * stays in the guest, every run ends in root operation or is stopped, and what an exit saves is in range.
 *
 *	fuzz-vmx [-runs=N] [-seconds=N] [-seed=N]
 */
#include "runs.h"

#include "cpu/hv_ops.h"
#include "hv/vmx/vmx.h"

#include <stdio.h>
#include <sys/time.h>

enum { VMXON = 0x200000, VMCS = 0x201000, EPT = 0x202000, EPT_TABLES = 4, LISTS = 0x210000, HOST = 0x190000 };

static struct machine *m;
static unsigned long entries;

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

static void random_code(void)
{
	for (u64 i = 0; i < 256; i++)
		m->mem.host[CODE + i] = one_in(10) ? 0x0f : (u8)next_random();
}

/* Root: VMLAUNCH; then, where exits come back to, VMRESUME for ever; HLT if either fails. */
static void host_code(void)
{
	static const u8 code[] = { 0x0f, 0x01, 0xc2, 0xf4, 0x90, 0x90, 0x90, 0x90, 0x0f, 0x01, 0xc3, 0xf4 };
	memcpy(m->mem.host + HOST, code, sizeof(code));
}

/* --- the VMCS --- */

static void make_controls(struct vmcs *v)
{
	static const u64 secondary[] = { 0, CPU2_EPT, CPU2_VPID, CPU2_EPT | CPU2_VPID | CPU2_UNRESTRICTED_GUEST,
					 CPU2_EPT | CPU2_UNRESTRICTED_GUEST | CPU2_DESCRIPTOR_TABLE };
	v->pin_controls = PIN_DEFAULT1 | (next_random() & (PIN_PREEMPTION_TIMER | PIN_EXTERNAL_INTERRUPT));
	v->cpu_controls = (u32)(CPU_DEFAULT1 | CPU_SECONDARY);
	if (one_in(2))
		v->cpu_controls |= next_random() & vmx_cap(vmx_of(&m->cpu), MSR_VMX_CPU) >> 32 & ~CPU_NMI_WINDOW;
	v->cpu_controls2 = (u32)secondary[next_random() % G_N_ELEMENTS(secondary)];
	v->exit_controls = EXITC_DEFAULT1 | EXITC_HOST_LONG | EXITC_LOAD_EFER | EXITC_SAVE_EFER;
	v->entry_controls = ENTRYC_DEFAULT1 | ENTRYC_GUEST_LONG | ENTRYC_LOAD_EFER;
	v->exception_bitmap = (u32)(next_random() & next_random());
	v->vpid = 1;
	v->eptp = EPT | EPTP_WALK4 | EPTP_TYPE_WB | (one_in(2) ? EPTP_AD : 0);
	v->link_pointer = VMCS_NONE;
	v->preemption_timer = one_in(4) ? 0 : ~0u;
	v->msr_bitmap = v->io_bitmap_a = v->io_bitmap_b = v->virtual_apic = DATA;
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

static bool no_msr_read(void *opaque, u32 msr, u64 *value)
{
	return false;
}

static bool no_msr_write(void *opaque, u32 msr, u64 value)
{
	return false;
}

static u8 no_tpr_read(void *opaque)
{
	return 0;
}

static void no_tpr_write(void *opaque, u8 value)
{
}

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
	} else {
		g_assert_true(vmx->on && vmx->current == VMCS);
	}
	entries += cpu->counters.vm_entries;
}

static void try_once(void)
{
	const struct itimerval soon = { .it_value.tv_usec = 1000 }, never = { 0 };
	struct x86_state s;

	machine_tables(m);
	machine_set_long_mode(m);
	make_ept();
	make_lists();
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
	m->platform.apic_msr_read = no_msr_read;
	m->platform.apic_msr_write = no_msr_write;
	m->platform.tpr_read = no_tpr_read;
	m->platform.tpr_write = no_tpr_write;
	m->platform.interrupt_pending = interrupt_sometimes;
	m->platform.ack_interrupt = some_vector;
	unsigned long runs = fuzz_runs(m, try_once);
	printf("ok: %lu runs, %lu VM entries\n", runs, entries);
	machine_free(m);
	/* A target whose entries all fail would test nothing. */
	return entries > runs / 10 ? 0 : 1;
}
