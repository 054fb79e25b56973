/*
 * VMRUN of VMCBs with random intercepts and controls, AVIC's tables, and a few more random bytes, with random nested
 *page tables, permission maps and code: whatever happens stays in the guest, every run ends in host mode or is stopped.
 *Half of the runs are translated, each translation beside the interpreter, which must agree.
 *
 *	fuzz-svm [-runs=N] [-seconds=N] [-seed=N]
 */
#include "runs.h"

#include "cpu/hv_ops.h"
#include "hv/svm/svm.h"
#include "jit/jit.h"

#include <stdio.h>
#include <sys/time.h>

enum { NPT = 0x202000, NPT_TABLES = 4, HOST = 0x190000 };
/* What VMCBs name, below 2 MiB where the guest's own tables reach: the VMCB itself, another one, permission maps. */
enum { PAGES = 0x140000, PAGE_COUNT = 16, VMCB = PAGES, OTHER_VMCB = PAGES + 0x1000 };

static struct machine *m;
static const struct jit_ops *translator;
static unsigned long entries, entered; /* VMRUNs; runs with any */

static u64 random_value(void)
{
	static const u64 places[] = { CODE, DATA, STACK, PML4, NPT, VMCB, OTHER_VMCB, 0, ~0ULL, BIT(40), RAM_SIZE - 8 };
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

/* Mostly a page that is there; else one of no RAM, which whoever uses it must survive. */
static u64 some_page(void)
{
	static const u64 nowhere[] = { 0xf0000000, 0xfee00000, BIT(39), RAM_SIZE };
	return one_in(8) ? nowhere[next_random() % G_N_ELEMENTS(nowhere)]
			 : PAGES + next_random() % PAGE_COUNT * PAGE_SIZE;
}

/* --- memory --- */

static void make_npt(void)
{
	const u64 all = 7;
	machine_write_u64(m, NPT, (NPT + 0x1000) | all);
	machine_write_u64(m, NPT + 0x1000, (NPT + 0x2000) | all);
	for (u64 i = 0; i < 8; i++)
		machine_write_u64(m, NPT + 0x2000 + 8 * i, i << 21 | 0x80 | all);
	machine_write_u64(m, NPT + 0x2000, (NPT + 0x3000) | all);
	for (u64 i = 0; i < 512; i++)
		machine_write_u64(m, NPT + 0x3000 + 8 * i, i << 12 | all);
	for (unsigned n = next_random() % 4; n--;)
		machine_write_u64(m, NPT + (next_random() % (NPT_TABLES * 512)) * 8, random_value());
}

static void make_pages(void)
{
	memset(m->mem.host + PAGES, 0, PAGE_COUNT * PAGE_SIZE);
	for (unsigned n = next_random() % 64; n--;)
		machine_write_u64(m, PAGES + next_random() % (PAGE_COUNT * 512) * 8, random_value());
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

/* Numbers of what the instructions below name: MSRs, ASIDs, pages. */
static u32 some_number(void)
{
	static const u32 numbers[] = { 0x10,       0x1d9, 0x277, 0xc0000080, 0xc0000104, 0xc0010114, 0xc0010117,
				       0xc0010015, 1,     2,     VMCB,       OTHER_VMCB, 0xc001011b, 0x808,
				       0x80b,      0x830, 0x83f, 0x40041,    0x4061 };
	return one_in(8) ? (u32)next_random() : numbers[next_random() % G_N_ELEMENTS(numbers)];
}

/* An instruction that the extension has a word in. */
static void special_instruction(void)
{
	static const struct {
		u8 bytes[4], count;
	} all[] = {
		{ { 0x0f, 0x01, 0xd8 }, 3 },       /* vmrun */
		{ { 0x0f, 0x01, 0xd9 }, 3 },       /* vmmcall */
		{ { 0x0f, 0x01, 0xda }, 3 },       /* vmload */
		{ { 0x0f, 0x01, 0xdb }, 3 },       /* vmsave */
		{ { 0x0f, 0x01, 0xdc }, 3 },       /* stgi */
		{ { 0x0f, 0x01, 0xdd }, 3 },       /* clgi */
		{ { 0x0f, 0x01, 0xdf }, 3 },       /* invlpga */
		{ { 0x44, 0x0f, 0x22, 0xc0 }, 4 }, /* mov %rax, %cr8 */
		{ { 0x44, 0x0f, 0x20, 0xc0 }, 4 }, /* mov %cr8, %rax */
		{ { 0x0f, 0x32 }, 2 },             /* rdmsr */
		{ { 0x0f, 0x30 }, 2 },             /* wrmsr */
		{ { 0x0f, 0x31 }, 2 },             /* rdtsc */
		{ { 0xf3, 0x90 }, 2 },             /* pause */
		{ { 0xfb }, 1 },                   /* sti */
		{ { 0x9c }, 1 },                   /* pushf */
		{ { 0x9d }, 1 },                   /* popf */
		{ { 0xf4 }, 1 },                   /* hlt */
		{ { 0xcd, 0x80 }, 2 },             /* int $0x80 */
		{ { 0xec }, 1 },                   /* in %dx, %al */
		{ { 0x0f, 0x05 }, 2 },             /* syscall */
		{ { 0x0f, 0x20, 0xc0 }, 3 },       /* mov %cr0, %rax */
		{ { 0x0f, 0x22, 0xc0 }, 3 },       /* mov %rax, %cr0 */
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
	case 1:
		code(1, &memory[next_random() % sizeof(memory)]);
		code(2, (const u8[]){ 0x04, 0x25 });
		code_u32((u32)(PAGES + next_random() % (PAGE_COUNT * PAGE_SIZE)));
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

/* The host: VMRUN, STGI, and again. RAX comes back from each VMRUN. */
static void host_code(void)
{
	static const u8 bytes[] = { 0x0f, 0x01, 0xd8, 0x0f, 0x01, 0xdc, 0xeb, 0xf8 };
	memcpy(m->mem.host + HOST, bytes, sizeof(bytes));
}

/* --- the VMCB --- */

/* Its tables are pages that the code writes, too. */
static void make_avic(struct vmcb_control *c)
{
	u64 table = some_page();
	c->int_ctl |= (u32)AVIC_ENABLE;
	c->nested_ctl |= NESTED_PAGING;
	c->avic_apic_bar = PAGES + next_random() % PAGE_COUNT * PAGE_SIZE;
	c->avic_backing_page = some_page();
	c->avic_logical = some_page();
	c->avic_physical = table | next_random() % 4;
	for (unsigned n = next_random() % 4; n--;)
		mem_write_u64(&m->mem, table + next_random() % 4 * 8, some_page() | next_random() << 62);
}

static void make_control(struct vmcb_control *c)
{
	static const u8 tlb[] = { TLB_KEEP, TLB_FLUSH_ALL, TLB_FLUSH_ASID, TLB_FLUSH_ASID_LOCAL };
	for (unsigned i = 0; i < G_N_ELEMENTS(c->intercept); i++)
		c->intercept[i] = (u32)(next_random() & next_random());
	c->intercept[SVM_EXIT_VMRUN / 32] |= 1u << SVM_EXIT_VMRUN % 32;
	c->intercept[SVM_EXIT_SHUTDOWN / 32] |= 1u << SVM_EXIT_SHUTDOWN % 32;
	c->intercept[SVM_EXIT_NMI / 32] |= 1u << SVM_EXIT_NMI % 32;
	c->iopm = one_in(2) ? some_page() : PAGES;
	c->msrpm = one_in(2) ? some_page() : PAGES;
	c->tsc_offset = next_random();
	c->asid = 1 + next_random() % 3;
	c->tlb_control = tlb[next_random() % G_N_ELEMENTS(tlb)];
	c->int_ctl = (u32)next_random() & ~(u32)(AVIC_ENABLE | (one_in(2) ? X2AVIC_ENABLE : 0));
	c->int_vector = next_random() & 0xff;
	c->int_state = next_random() & 1;
	c->nested_ctl = one_in(2) ? NESTED_PAGING | (next_random() & NESTED_GMET) : 0;
	c->ncr3 = NPT;
	c->virt_ext = next_random() & 3;
	c->next_rip = CODE + (next_random() & 31);
	c->pause_count = next_random() & 7;
	c->pause_threshold = next_random() & 0xff;
	if (one_in(4))
		c->event_inj = EVENTINJ_VALID | (next_random() & 0xfff);
	if (one_in(3))
		make_avic(c);
	else
		c->int_ctl &= ~(u32)X2AVIC_ENABLE;
}

static void make_save(struct vmcb_save *s)
{
	const struct vmcb_segment data = { 0x10, 0xc93, 0xffffffff, 0 };
	s->es = s->ss = s->ds = s->fs = s->gs = data;
	s->cs = (struct vmcb_segment){ 8, 0xa9b, 0xffffffff, 0 };
	s->tr = (struct vmcb_segment){ 0x18, 0x8b, 0x67, TSS };
	s->gdtr = (struct vmcb_segment){ .limit = 0x2f, .base = GDT };
	s->idtr = (struct vmcb_segment){ .limit = 0x1ff, .base = IDT };
	s->efer = EFER_SVME | EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	s->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_ET;
	s->cr3 = PML4;
	s->cr4 = CR4_PAE | CR4_OSFXSR;
	s->dr6 = DR6_FIXED1;
	s->dr7 = DR7_FIXED1;
	s->g_pat = 0x0007040600070406;
	s->dbgctl = next_random() & 3;
	s->rflags = RFLAGS_ONE | (next_random() & (RFLAGS_IF | RFLAGS_TF | RFLAGS_AC));
	s->rip = CODE;
	s->rsp = STACK - 0x800;
}

/* Real mode, or 32-bit mode without paging. */
static void leave_long_mode(struct vmcb_save *s)
{
	bool protected = one_in(2);
	s->efer = EFER_SVME;
	s->cr0 = CR0_NE | CR0_ET | (protected ? CR0_PE : 0);
	s->cs.attr = 0xc9b;
	if (protected)
		return;
	s->cs = (struct vmcb_segment){ 0, 0x9b, 0xffff, CODE };
	s->es = s->ss = s->ds = (struct vmcb_segment){ 0, 0x93, 0xffff, 0 };
	s->rip = 0;
	s->rsp = 0x8000;
}

static void make_vmcb(void)
{
	struct vmcb v;
	memset(&v, 0, sizeof(v));
	make_control(&v.control);
	make_save(&v.save);
	if (one_in(4))
		leave_long_mode(&v.save);
	memcpy(m->mem.host + VMCB, &v, sizeof(v));
	memcpy(m->mem.host + OTHER_VMCB, &v, sizeof(v));
	for (unsigned n = next_random() % 4; n--;) {
		u64 offset = one_in(2) ? next_random() % 0x100 : 0x400 + next_random() % 0x298;
		machine_write_u64(m, VMCB + (offset & ~7ULL), random_value());
	}
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

static void ring(void *opaque, u32 apic_id)
{
	cpu_attend(&m->cpu, ATTEND_HV);
}

/* --- one run --- */

static void check_outcome(void)
{
	const struct cpu *cpu = &m->cpu;
	g_assert_cmpuint(cpu->reg[REG_ZERO], ==, 0);
	g_assert_true(cpu->rflags_sys & RFLAGS_ONE);
	if (!cpu->non_root && cpu->activity != CPU_SHUTDOWN) {
		g_assert_cmphex(cpu->mmu.paging.eptp, ==, 0);
		g_assert_cmpuint(cpu->mmu.paging.vpid, ==, 0);
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
	make_npt();
	make_pages();
	make_vmcb();
	random_code();
	host_code();
	mmu_flush_all(&m->cpu.mmu);
	cpu_get_state(&m->cpu, &s);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		s.gpr[i] = random_value();
	s.gpr[RAX] = VMCB;
	s.gpr[RSP] = STACK;
	s.rip = HOST;
	s.efer |= EFER_SVME | (one_in(2) ? EFER_NXE : 0);
	cpu_set_state(&m->cpu, &s);
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
	m = machine_new_nested(NESTED_SVM, &svm_ops);
	m->platform.interrupt_pending = interrupt_sometimes;
	m->platform.ack_interrupt = some_vector;
	m->platform.doorbell = ring;
	const struct jit_options options = { .hot = 1, .check = true };
	g_assert_cmpint(jit_create(&m->cpu, &options), ==, 0);
	translator = m->cpu.jit;
	unsigned long runs = fuzz_runs(m, try_once);
	printf("ok: %lu runs, %lu of them entered, %lu VMRUNs\n", runs, entered, entries);
	m->cpu.jit = translator;
	jit_destroy(&m->cpu);
	machine_free(m);
	/* A target whose entries all fail would test nothing. */
	return entered > runs / 10 ? 0 : 1;
}
