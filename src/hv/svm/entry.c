/*
 * VMRUN: saving the host, checks, loading the guest, event injection (APM vol. 2, 15.5.1, 15.16, 15.20, 15.25).
 */
#include "base/trace.h"
#include "cpu/system.h"
#include "hv/svm/svm.h"

#include <string.h>

/* --- segments --- */

u64 svm_canonical(const struct svm *svm, u64 base)
{
	return sign_extend(base, svm->linear_bits);
}

/* Type, S, DPL and P stay where they are; AVL, L, DB and G move up. A segment that is not present cannot be used. */
struct segment svm_segment_load(const struct svm *svm, const struct vmcb_segment *from)
{
	return (struct segment){
		.selector = from->selector,
		.limit = from->limit,
		.ar = (from->attr & 0xffu) | (from->attr & 0xf00u) << 4 |
		      (from->attr & VMCB_ATTR_P ? 0 : (u32)SEG_AR_UNUSABLE),
		.base = svm_canonical(svm, from->base),
	};
}

struct vmcb_segment svm_segment_save(const struct segment *from)
{
	u16 attr = (u16)((from->ar & 0xff) | (from->ar >> 4 & 0xf00));
	if (from->ar & SEG_AR_UNUSABLE)
		attr &= (u16)~VMCB_ATTR_P;
	return (struct vmcb_segment){ from->selector, attr, from->limit, from->base };
}

static struct table_register table_load(const struct svm *svm, const struct vmcb_segment *from)
{
	return (struct table_register){ svm_canonical(svm, from->base), (u16)from->limit };
}

/* --- saving the host --- */

/* The return address is the instruction behind VMRUN, whose completion ends RF. */
static void save_host(struct cpu *cpu, struct svm *svm)
{
	svm->host = (struct svm_host){
		.es = cpu->seg[SEG_ES],
		.cs = cpu->seg[SEG_CS],
		.ss = cpu->seg[SEG_SS],
		.ds = cpu->seg[SEG_DS],
		.gdtr = cpu->gdtr,
		.idtr = cpu->idtr,
		.efer = cpu->efer,
		.cr0 = cpu->cr0,
		.cr3 = cpu->cr3,
		.cr4 = cpu->cr4,
		.rflags = cpu_rflags(cpu) & ~RFLAGS_RF,
		.rip = cpu->reg[REG_RIP],
		.rsp = cpu->reg[RSP],
		.rax = cpu->reg[RAX],
		.pat = cpu->msr.pat,
		.debugctl = cpu->msr.debugctl,
		.br_from = cpu->msr.last_branch_from,
		.br_to = cpu->msr.last_branch_to,
		.last_from = cpu->msr.last_int_from,
		.last_to = cpu->msr.last_int_to,
	};
}

/* --- loading the guest --- */

static void load_control_registers(struct cpu *cpu, const struct svm *svm)
{
	const struct vmcb_save *s = &svm->vmcb.save;
	const u64 cr0_bits = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;
	cpu->efer = s->efer & ~EFER_LMA;
	if ((s->efer & EFER_LME) && (s->cr0 & CR0_PG))
		cpu->efer |= EFER_LMA;
	cpu->cr0 = (s->cr0 & cr0_bits) | CR0_ET;
	cpu->cr2 = s->cr2;
	cpu->cr3 = s->cr3;
	cpu->cr4 = s->cr4;
	cpu->dr[6] = (s->dr6 & ~BIT(12)) | DR6_FIXED1;
	cpu->dr[7] = (s->dr7 & ~(BIT(12) | BITS(15, 14))) | DR7_FIXED1;
	if (svm_nested_paging(svm))
		cpu->msr.pat = s->g_pat;
	if (svm_virtual_lbr(svm)) {
		cpu->msr.debugctl = s->dbgctl & (DEBUGCTL_LBR | DEBUGCTL_BTF);
		cpu->msr.last_branch_from = s->br_from;
		cpu->msr.last_branch_to = s->br_to;
		cpu->msr.last_int_from = s->last_excp_from;
		cpu->msr.last_int_to = s->last_excp_to;
	}
}

static void load_segments(struct cpu *cpu, const struct svm *svm)
{
	const struct vmcb_save *s = &svm->vmcb.save;
	cpu->seg[SEG_ES] = svm_segment_load(svm, &s->es);
	cpu->seg[SEG_CS] = svm_segment_load(svm, &s->cs);
	cpu->seg[SEG_SS] = svm_segment_load(svm, &s->ss);
	cpu->seg[SEG_DS] = svm_segment_load(svm, &s->ds);
	cpu->gdtr = table_load(svm, &s->gdtr);
	cpu->idtr = table_load(svm, &s->idtr);
	cpu->cpl = s->cpl & 3;
}

static void control_tlb(struct cpu *cpu, const struct vmcb_control *c)
{
	if (c->tlb_control == TLB_FLUSH_ALL)
		mmu_flush_all(&cpu->mmu);
	else if (c->tlb_control != TLB_KEEP)
		mmu_flush_vpid(&cpu->mmu, (u16)c->asid, c->tlb_control == TLB_FLUSH_ASID);
}

static void load_paging(struct cpu *cpu, const struct svm *svm)
{
	const struct vmcb_control *c = &svm->vmcb.control;
	const struct svm_host *h = &svm->host;
	struct mmu_paging paging = {
		.cr0 = cpu->cr0,
		.cr3 = cpu->cr3,
		.cr4 = cpu->cr4,
		.efer = cpu->efer,
		.vpid = (u16)c->asid,
		.apic_page = svm_avic(svm) && !svm_x2avic(svm) ? (c->avic_apic_bar & PAGE_MASK) | 1 : 0,
		.eptp = svm_nested_paging(svm) ? mmu_nested_root(c->ncr3, h->cr4, h->efer, svm_gmet(svm)) : 0,
	};
	if (svm->guest_pae)
		memcpy(paging.pdpte, svm->pdpte, sizeof(paging.pdpte));
	control_tlb(cpu, c);
	mmu_set_paging(&cpu->mmu, &paging);
}

static void load_non_register(struct cpu *cpu, struct svm *svm)
{
	cpu->activity = CPU_ACTIVE;
	cpu->shadow = 0;
	cpu->step_armed = 0;
	cpu->monitor_armed = false;
	cpu->pending_db = 0;
	if (svm->vmcb.control.int_state & INT_STATE_SHADOW)
		cpu_set_shadow(cpu, SHADOW_STI);
	svm->pauses_left = svm->vmcb.control.pause_count;
	svm->last_pause = cpu->counters.instructions;
}

static void load_guest(struct cpu *cpu, struct svm *svm)
{
	const struct vmcb_save *s = &svm->vmcb.save;
	cpu->non_root = true;
	load_control_registers(cpu, svm);
	load_segments(cpu, svm);
	cpu->reg[RAX] = s->rax;
	cpu->reg[RSP] = s->rsp;
	cpu->reg[REG_RIP] = cpu->rip_start = s->rip;
	cpu_set_rflags(cpu, s->rflags);
	load_paging(cpu, svm);
	load_non_register(cpu, svm);
	cpu_update_mode(cpu);
	/* Interrupts may be masked otherwise now, and virtual ones pending. */
	cpu_hold_events(cpu, false);
	cpu_attend(cpu, ATTEND_INTR | ATTEND_HV);
}

/* --- event injection (15.20) --- */

/*
 * Software interrupts, and the exceptions of INT3 and INTO, return behind their instruction: with next-RIP saving to
 * the next RIP of the VMCB.
 */
static void set_return_address(struct cpu *cpu, const struct svm *svm, struct event *e)
{
	const struct vmcb_control *c = &svm->vmcb.control;
	bool soft = e->type == EVENT_SOFT_INT ||
		    (e->type == EVENT_EXCEPTION && (e->vector == VEC_BP || e->vector == VEC_OF));
	if (!soft || !svm_has(svm, FEATURE_NRIPS))
		return;
	if (e->type == EVENT_EXCEPTION)
		e->type = EVENT_SOFT_EXC;
	u64 length = c->next_rip - cpu->reg[REG_RIP];
	if (length <= 15)
		e->length = (u8)length;
	else
		cpu->reg[REG_RIP] = c->next_rip;
}

/* Throws if delivery faults: the guest's handler, or an exit, sees the injected event as the one being delivered. */
static void inject(struct cpu *cpu, struct svm *svm)
{
	static const u8 types[8] = {
		[EVENTINJ_INTR] = EVENT_INTERRUPT,
		[EVENTINJ_NMI] = EVENT_NMI,
		[EVENTINJ_EXCEPTION] = EVENT_EXCEPTION,
		[EVENTINJ_SOFT] = EVENT_SOFT_INT,
	};
	u64 info = svm->vmcb.control.event_inj;
	struct event e = {
		.valid = true,
		.vector = (u8)(info & EVENTINJ_VECTOR),
		.type = types[bits_get(info, 10, 8)],
		.has_error = (info & EVENTINJ_ERROR) != 0,
		.error = (u32)(info >> 32),
	};
	if (e.type == EVENT_NMI) {
		e.vector = VEC_NMI;
		if (svm_int_ctl(svm, V_NMI_ENABLE) && svm_has(svm, FEATURE_VNMI))
			svm->vmcb.control.int_ctl |= V_NMI_MASK;
	}
	set_return_address(cpu, svm, &e);
	TRACE(exits, "VMRUN injects vector %u type %d", e.vector, e.type);
	cpu_deliver(cpu, &e);
	/* What blocks virtual NMIs is V_NMI_MASK. */
	if (e.type == EVENT_NMI && svm_int_ctl(svm, V_NMI_ENABLE) && svm_has(svm, FEATURE_VNMI))
		cpu->nmi_blocked = false;
}

/* --- the whole --- */

/* Outside RAM a VMCB reads as all ones, which no check lets pass. */
static void read_vmcb(struct cpu *cpu, struct svm *svm, gpa_t at)
{
	if (!mem_read(cpu->mem, at, &svm->vmcb, sizeof(svm->vmcb)))
		memset(&svm->vmcb, 0xff, sizeof(svm->vmcb));
	struct vmcb_control *c = &svm->vmcb.control;
	if (!svm_has(svm, FEATURE_NPT))
		c->nested_ctl = 0;
	if (!svm_has(svm, FEATURE_FLUSH_BY_ASID))
		c->tlb_control &= 7;
}

/* PDPTEs of a guest with PAE paging: with nested paging the walker reads them as it needs them. */
static void fetch_pdptes(struct cpu *cpu, struct svm *svm)
{
	const struct vmcb_save *s = &svm->vmcb.save;
	svm->guest_pae = (s->cr0 & CR0_PG) && (s->cr4 & CR4_PAE) && !(s->efer & EFER_LME) && !svm_nested_paging(svm);
	for (unsigned i = 0; svm->guest_pae && i < 4; i++)
		svm->pdpte[i] = mem_read_u64(cpu->mem, (s->cr3 & BITS(31, 5)) + i * 8);
}

void svm_enter(struct cpu *cpu, gpa_t vmcb)
{
	struct svm *svm = svm_of(cpu);
	save_host(cpu, svm);
	svm->vmcb_at = vmcb;
	read_vmcb(cpu, svm, vmcb);
	fetch_pdptes(cpu, svm);
	cpu->counters.vm_entries++;
	const struct svm_check *failed = svm_check(svm);
	if (unlikely(failed)) {
		TRACE(vmx, "VMRUN fails: %s", failed->name);
		svm_exit_invalid(cpu);
	}
	load_guest(cpu, svm);
	TRACE(exits, "VMRUN rip %llx", (unsigned long long)svm->vmcb.save.rip);
	if (svm->vmcb.control.event_inj & EVENTINJ_VALID)
		inject(cpu, svm);
	cpu_resume(cpu);
}
