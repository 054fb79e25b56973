/*
 * #VMEXIT: recording why, saving the guest, loading the host (APM vol. 2, 15.6).
 */
#include "base/trace.h"
#include "cpu/system.h"
#include "hv/svm/svm.h"

#include <string.h>

/* --- recording --- */

/* What the hypervisor may need to emulate the instruction (15.8.4). Bytes that cannot be read are left out. */
static void record_bytes(struct cpu *cpu, struct vmcb_control *c)
{
	for (unsigned i = 0; i < sizeof(c->insn_bytes); i++) {
		u64 linear = cpu->seg_base[SEG_CS] + cpu->rip_start + i;
		if (cpu->mode != CPU_LONG)
			linear = (u32)linear;
		struct mmu_result at = mmu_peek(&cpu->mmu, linear);
		if (at.kind != MMU_OK || !mem_read(cpu->mem, at.gpa, &c->insn_bytes[i], 1))
			return;
		c->insn_length = (u8)(i + 1);
	}
}

static void record(struct cpu *cpu, struct svm *svm, const struct svm_exit *x)
{
	struct vmcb_control *c = &svm->vmcb.control;
	c->exit_code = x->code;
	c->exit_info1 = x->info1;
	c->exit_info2 = x->info2;
	c->exit_int_info = cpu->vectoring.valid && !x->no_vectoring ? svm_event_info(&cpu->vectoring) : 0;
	/* The whole field: hypervisors ask whether an event is on its way by comparing it with 0. */
	if (c->event_inj & EVENTINJ_VALID)
		c->event_inj = 0;
	c->next_rip = svm_has(svm, FEATURE_NRIPS) ? x->next_rip : 0;
	c->insn_length = 0;
	memset(c->insn_bytes, 0, sizeof(c->insn_bytes));
	if (x->bytes && svm_has(svm, FEATURE_DECODE_ASSISTS))
		record_bytes(cpu, c);
	bool shadow = !cpu->vectoring.valid && cpu_shadow(cpu, x->rip);
	c->int_state = (c->int_state & ~INT_STATE_SHADOW) | (shadow ? INT_STATE_SHADOW : 0);
}

/* --- saving the guest --- */

static void save_branches(struct cpu *cpu, struct vmcb_save *s)
{
	s->dbgctl = cpu->msr.debugctl;
	s->br_from = cpu->msr.last_branch_from;
	s->br_to = cpu->msr.last_branch_to;
	s->last_excp_from = cpu->msr.last_int_from;
	s->last_excp_to = cpu->msr.last_int_to;
}

static void save_guest(struct cpu *cpu, struct svm *svm, u64 rip)
{
	struct vmcb_save *s = &svm->vmcb.save;
	s->es = svm_segment_save(&cpu->seg[SEG_ES]);
	s->cs = svm_segment_save(&cpu->seg[SEG_CS]);
	s->ss = svm_segment_save(&cpu->seg[SEG_SS]);
	s->ds = svm_segment_save(&cpu->seg[SEG_DS]);
	s->gdtr.base = cpu->gdtr.base;
	s->gdtr.limit = cpu->gdtr.limit;
	s->idtr.base = cpu->idtr.base;
	s->idtr.limit = cpu->idtr.limit;
	s->cpl = cpu->cpl;
	s->efer = cpu->efer;
	s->cr4 = cpu->cr4;
	s->cr3 = cpu->cr3;
	s->cr0 = cpu->cr0;
	s->cr2 = cpu->cr2;
	s->dr7 = cpu->dr[7];
	s->dr6 = cpu->dr[6];
	s->rflags = cpu_rflags(cpu);
	s->rip = rip;
	s->rsp = cpu->reg[RSP];
	s->rax = cpu->reg[RAX];
	if (svm_nested_paging(svm))
		s->g_pat = cpu->msr.pat;
	if (svm_virtual_lbr(svm))
		save_branches(cpu, s);
}

/* Writes [first, last] of the VMCB back. */
#define WRITE_BACK(cpu, svm, first, last)                                                                              \
	mem_write((cpu)->mem, (svm)->vmcb_at + offsetof(struct vmcb, first), &(svm)->vmcb.first,                       \
		  offsetof(struct vmcb, last) + sizeof((svm)->vmcb.last) - offsetof(struct vmcb, first))

/* Only what the processor writes: the rest may have changed meanwhile. */
static void write_back_control(struct cpu *cpu, struct svm *svm)
{
	WRITE_BACK(cpu, svm, control.int_ctl, control.int_ctl);
	WRITE_BACK(cpu, svm, control.int_state, control.exit_int_info);
	WRITE_BACK(cpu, svm, control.event_inj, control.event_inj);
	WRITE_BACK(cpu, svm, control.next_rip, control.insn_bytes);
}

static void write_back_save(struct cpu *cpu, struct svm *svm)
{
	WRITE_BACK(cpu, svm, save.es, save.ds);
	WRITE_BACK(cpu, svm, save.gdtr, save.gdtr);
	WRITE_BACK(cpu, svm, save.idtr, save.idtr);
	WRITE_BACK(cpu, svm, save.cpl, save.cpl);
	WRITE_BACK(cpu, svm, save.efer, save.efer);
	WRITE_BACK(cpu, svm, save.cr4, save.rip);
	WRITE_BACK(cpu, svm, save.rsp, save.rsp);
	WRITE_BACK(cpu, svm, save.rax, save.rax);
	WRITE_BACK(cpu, svm, save.cr2, save.cr2);
	if (svm_nested_paging(svm))
		WRITE_BACK(cpu, svm, save.g_pat, save.g_pat);
	if (svm_virtual_lbr(svm))
		WRITE_BACK(cpu, svm, save.dbgctl, save.last_excp_to);
}

/* --- loading the host --- */

static void load_segments(struct cpu *cpu, const struct svm_host *h)
{
	cpu->seg[SEG_ES] = h->es;
	cpu->seg[SEG_CS] = h->cs;
	cpu->seg[SEG_SS] = h->ss;
	cpu->seg[SEG_DS] = h->ds;
	cpu->gdtr = h->gdtr;
	cpu->idtr = h->idtr;
	cpu->cpl = 0;
}

static void load_branches(struct cpu *cpu, const struct svm_host *h)
{
	cpu->msr.debugctl = h->debugctl;
	cpu->msr.last_branch_from = h->br_from;
	cpu->msr.last_branch_to = h->br_to;
	cpu->msr.last_int_from = h->last_from;
	cpu->msr.last_int_to = h->last_to;
}

/* A host whose PDPTEs are gone cannot go on: shutdown. */
static NORETURN void shut_down(struct cpu *cpu)
{
	REPORT("#VMEXIT to a host whose PDPTEs are not valid: shutdown");
	cpu->activity = CPU_SHUTDOWN;
	cpu_attend(cpu, ATTEND_TRAP);
	cpu_resume(cpu);
}

static void load_paging(struct cpu *cpu)
{
	struct mmu_paging paging = { .cr0 = cpu->cr0, .cr3 = cpu->cr3, .cr4 = cpu->cr4, .efer = cpu->efer };
	bool pae = (cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !cpu_long_mode(cpu);
	if (pae && mmu_load_pdptes(&cpu->mmu, &paging, paging.pdpte).kind != MMU_OK)
		shut_down(cpu);
	mmu_set_paging(&cpu->mmu, &paging);
}

/* A host that single-steps has its trap after VMRUN, and that is now. */
static void load_non_register(struct cpu *cpu, const struct svm_host *h)
{
	cpu->activity = CPU_ACTIVE;
	cpu->shadow = 0;
	cpu->step_armed = 0;
	cpu->monitor_armed = false;
	cpu->pending_db = h->rflags & RFLAGS_TF ? DR6_BS : 0;
	cpu->pending.valid = cpu->vectoring.valid = false;
	cpu->hv_step = cpu->if_free = false;
	svm_of(cpu)->avic_exit_due = false;
	cpu_attended(cpu, ATTEND_HV);
	if (cpu->pending_db)
		cpu_attend(cpu, ATTEND_TRAP);
}

static NORETURN void load_host(struct cpu *cpu, struct svm *svm)
{
	const struct svm_host *h = &svm->host;
	cpu->non_root = false;
	cpu_hold_events(cpu, true);
	cpu->efer = h->efer;
	cpu->cr0 = h->cr0 | CR0_PE;
	cpu->cr3 = h->cr3;
	cpu->cr4 = h->cr4;
	cpu->dr[7] = DR7_FIXED1;
	if (svm_nested_paging(svm))
		cpu->msr.pat = h->pat;
	if (svm_virtual_lbr(svm))
		load_branches(cpu, h);
	load_segments(cpu, h);
	cpu->reg[RAX] = h->rax;
	cpu->reg[RSP] = h->rsp;
	cpu->reg[REG_RIP] = cpu->rip_start = h->rip;
	cpu_set_rflags(cpu, h->rflags & ~RFLAGS_VM);
	load_non_register(cpu, h);
	load_paging(cpu);
	cpu_update_mode(cpu);
	cpu_resume(cpu);
}

/* --- the whole --- */

_Static_assert(COUNTERS_EXIT_REASONS == COUNTERS_SVM_EXITS + SVM_EXIT_SLOTS, "as many counters as kinds of exits");

static void count(struct cpu *cpu, u64 code)
{
	cpu->counters.vm_exits++;
	cpu->counters.exit_reason[COUNTERS_SVM_EXITS + svm_exit_slot(code)]++;
}

void svm_exit(struct cpu *cpu, const struct svm_exit *x)
{
	struct svm *svm = svm_of(cpu);
	count(cpu, x->code);
	cpu->retry = x->rip == cpu->rip_start; /* or the instruction has retired */
	record(cpu, svm, x);
	save_guest(cpu, svm, x->rip);
	char name[32];
	TRACE(exits, "#VMEXIT %s rip %llx info %llx %llx vectoring %llx", svm_exit_name(svm_exit_slot(x->code), name),
	      (unsigned long long)x->rip, (unsigned long long)x->info1, (unsigned long long)x->info2,
	      (unsigned long long)svm->vmcb.control.exit_int_info);
	write_back_control(cpu, svm);
	write_back_save(cpu, svm);
	load_host(cpu, svm);
}

/* The guest's state in the VMCB stays as it is. */
void svm_exit_invalid(struct cpu *cpu)
{
	struct svm *svm = svm_of(cpu);
	const struct svm_exit x = { .code = SVM_INVALID };
	count(cpu, x.code);
	/* Neither a guest's PAT was loaded nor its branch records. */
	svm->vmcb.control.nested_ctl = svm->vmcb.control.virt_ext = 0;
	record(cpu, svm, &x);
	write_back_control(cpu, svm);
	load_host(cpu, svm);
}

void svm_exit_insn(struct cpu *cpu, unsigned code, u64 info1, u64 info2)
{
	u64 next = cpu->rip_start + cpu->insn->length;
	svm_exit(cpu, &(struct svm_exit){
			      .code = code,
			      .info1 = info1,
			      .info2 = info2,
			      .rip = cpu->rip_start,
			      .next_rip = cpu->mode == CPU_LONG ? next : (u32)next,
		      });
}

void svm_exit_boundary(struct cpu *cpu, unsigned code)
{
	svm_exit(cpu, &(struct svm_exit){ .code = code, .rip = cpu->reg[REG_RIP] });
}
