/*
 * Life of a CPU, its state in and out, RFLAGS, and what follows from a change of mode.
 */
#include "cpu/cpu.h"
#include "cpu/block.h"
#include "cpu/event.h"
#include "cpu/group.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"
#include "cpu/native.h"
#include "cpu/system.h"

#include <stdio.h>
#include <string.h>

u64 cpu_rflags(const struct cpu *cpu)
{
	u64 arith = cpu->arith, sys = cpu->rflags_sys;
	/* RF lasts for one instruction: that is over if another one is next. */
	if (unlikely(sys & RFLAGS_RF) && cpu->reg[REG_RIP] != cpu->rf_rip)
		sys &= ~RFLAGS_RF;
	return sys | (arith >> 8 & (RFLAGS_ARITH & 0xff)) | (arith & ARITH_OF) << 11;
}

/* The class of explicit accesses (SDM vol. 3, 4.6). */
static enum mmu_class access_class(const struct cpu *cpu)
{
	if (cpu->cpl == 3)
		return MMU_USER;
	return cpu->rflags_sys & RFLAGS_AC ? MMU_SUPERVISOR_AC : MMU_SUPERVISOR;
}

/* Must every access be looked at: for alignment (SDM vol. 3, 6.15 "#AC"), or for a data breakpoint? */
static bool wants_checks(const struct cpu *cpu)
{
	if (unlikely((cpu->rflags_sys & RFLAGS_AC) && cpu->cpl == 3 && (cpu->cr0 & CR0_AM)))
		return true;
	return unlikely(cpu->dr[7] & 0xff) && debug_watches_data(cpu);
}

bool cpu_update_bounds(struct cpu *cpu)
{
	const u64 needed = XCR0_BNDREGS | XCR0_BNDCSR;
	u32 old = cpu->mode_key;
	if ((bounds_config(cpu) & BNDCFG_EN) && (cpu->xcr0 & needed) == needed && (cpu->cr4 & CR4_OSXSAVE))
		cpu->mode_key |= MODE_BOUNDS;
	else
		cpu->mode_key &= ~(u32)MODE_BOUNDS;
	return cpu->mode_key != old;
}

void cpu_update_class(struct cpu *cpu)
{
	enum mmu_class cls = access_class(cpu);
	bool checked = wants_checks(cpu);
	if (cls != cpu->mmu.cls)
		mmu_set_class(&cpu->mmu, cls);
	if (unlikely(checked != cpu->mmu.checked))
		mmu_set_checked(&cpu->mmu, checked);
	if (unlikely(cpu->pmu.filters))
		pmu_changed(cpu);
	if (unlikely(cpu->xcr0 & XCR0_BNDREGS))
		cpu_update_bounds(cpu);
}

/*
 * After a change of TF, DR7, hv_step, or of branch recording: blocks of one instruction, and a look after each, as long
 * as one of them asks for it. RF alone does not: it means something to breakpoints only, which step anyway
 * (cpu_rflags() hides an old one).
 */
void cpu_update_step(struct cpu *cpu)
{
	if (unlikely((cpu->rflags_sys & RFLAGS_TF) || (cpu->dr[7] & 0xff) || cpu->hv_step) ||
	    debug_records_branches(cpu)) {
		cpu->mode_key |= MODE_STEP;
		cpu_attend(cpu, ATTEND_TRAP);
	} else {
		cpu->mode_key &= ~(u32)MODE_STEP;
	}
}

void cpu_set_rflags(struct cpu *cpu, u64 value)
{
	const u64 defined = RFLAGS_TF | RFLAGS_IF | RFLAGS_DF | RFLAGS_IOPL | RFLAGS_NT | RFLAGS_RF | RFLAGS_VM |
			    RFLAGS_AC | RFLAGS_VIF | RFLAGS_VIP | RFLAGS_ID;
	u64 old = cpu->rflags_sys;
	cpu->arith = (u16)((value & (RFLAGS_ARITH & 0xff)) << 8 | (value >> 11 & ARITH_OF) | 0x200);
	cpu->rflags_sys = (value & defined) | RFLAGS_ONE;
	u64 changed = old ^ cpu->rflags_sys;
	if (value & RFLAGS_RF)
		cpu->rf_rip = cpu->reg[REG_RIP];
	if (!(changed & (RFLAGS_IF | RFLAGS_TF | RFLAGS_AC)))
		return;
	if (changed & RFLAGS_TF)
		cpu_update_step(cpu);
	if (changed & RFLAGS_AC)
		cpu_update_class(cpu);
	if (changed & value & RFLAGS_IF)
		cpu_if_set(cpu);
}

u64 cpu_tsc(struct cpu *cpu)
{
	return cpu->platform->tsc(cpu->platform->opaque) + cpu->msr.tsc_adjust;
}

/* A segment that needs no limit or rights check in protected mode. */
static bool is_flat(const struct segment *seg)
{
	const u32 want = SEG_AR_P | SEG_AR_S | SEG_AR_RW;
	if (seg->base != 0 || seg->limit != 0xffffffff || (seg->ar & (want | SEG_AR_UNUSABLE)) != want)
		return false;
	return (seg->ar & SEG_AR_CODE) || !(seg->ar & SEG_AR_DC);
}

static bool all_flat(const struct cpu *cpu)
{
	/* CS is readable code; the others must be writable data, or they would need a check on writes. */
	if (!is_flat(&cpu->seg[SEG_CS]))
		return false;
	static const enum seg data[] = { SEG_SS, SEG_DS, SEG_ES };
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		if (!is_flat(&cpu->seg[data[i]]) || (cpu->seg[data[i]].ar & SEG_AR_CODE))
			return false;
	return true;
}

/* Segment bases, widths and mode_key. Long mode first: it is the only one that must be fast. */
static void update_segments(struct cpu *cpu)
{
	u32 key = cpu->mode_key & MODE_STEP;
	if (cpu->non_root)
		key |= MODE_NON_ROOT;
	for (unsigned s = SEG_FS; s < SEG_COUNT; s++)
		cpu->seg_base[s] = cpu->seg[s].base;
	if (cpu->mode == CPU_LONG) {
		cpu->seg_base[SEG_ES] = cpu->seg_base[SEG_CS] = cpu->seg_base[SEG_SS] = cpu->seg_base[SEG_DS] = 0;
		cpu->code_size = cpu->stack_size = 8;
		cpu->mode_key = key | MODE_CODE64;
		return;
	}
	for (unsigned s = SEG_ES; s <= SEG_DS; s++)
		cpu->seg_base[s] = cpu->seg[s].base;
	cpu->code_size = cpu->seg[SEG_CS].ar & SEG_AR_DB ? 4 : 2;
	cpu->stack_size = cpu->seg[SEG_SS].ar & SEG_AR_DB ? 4 : 2;
	key |= cpu->code_size == 4 ? MODE_CODE32 : MODE_CODE16;
	key |= cpu->stack_size == 4 ? MODE_STACK32 : MODE_STACK16;
	if (cpu->mode == CPU_REAL)
		key |= MODE_REAL;
	else if (cpu->mode == CPU_V86)
		key |= MODE_V86;
	else if (all_flat(cpu))
		key |= MODE_FLAT;
	cpu->mode_key = key;
}

static void update_paging(struct cpu *cpu)
{
	const struct mmu_paging *now = &cpu->mmu.paging;
	if (likely(now->cr0 == cpu->cr0 && now->cr3 == cpu->cr3 && now->cr4 == cpu->cr4 && now->efer == cpu->efer))
		return;
	struct mmu_paging paging = *now;
	paging.cr0 = cpu->cr0;
	paging.cr3 = cpu->cr3;
	paging.cr4 = cpu->cr4;
	paging.efer = cpu->efer;
	mmu_set_paging(&cpu->mmu, &paging);
}

void cpu_update_mode(struct cpu *cpu)
{
	if (!(cpu->cr0 & CR0_PE)) {
		cpu->mode = CPU_REAL;
		cpu->cpl = 0;
	} else if (cpu->rflags_sys & RFLAGS_VM) {
		cpu->mode = CPU_V86;
		cpu->cpl = 3;
	} else if (cpu->efer & EFER_LMA) {
		cpu->mode = cpu->seg[SEG_CS].ar & SEG_AR_L ? CPU_LONG : CPU_COMPAT;
	} else {
		cpu->mode = CPU_PROT;
	}
	update_segments(cpu);
	cpu_update_step(cpu);
	update_paging(cpu);
	cpu_update_class(cpu);
}

void cpu_get_state(const struct cpu *cpu, struct x86_state *state)
{
	memcpy(state->gpr, cpu->reg, sizeof(state->gpr));
	memcpy(state->seg, cpu->seg, sizeof(state->seg));
	state->rip = cpu->reg[REG_RIP];
	state->rflags = cpu_rflags(cpu);
	state->gdtr = cpu->gdtr;
	state->idtr = cpu->idtr;
	state->cr0 = cpu->cr0;
	state->cr2 = cpu->cr2;
	state->cr3 = cpu->cr3;
	state->cr4 = cpu->cr4;
	state->efer = cpu->efer;
}

void cpu_set_state(struct cpu *cpu, const struct x86_state *state)
{
	memcpy(cpu->reg, state->gpr, sizeof(state->gpr));
	cpu->reg[REG_ZERO] = 0;
	memcpy(cpu->seg, state->seg, sizeof(state->seg));
	cpu->reg[REG_RIP] = cpu->rip_start = state->rip;
	cpu->gdtr = state->gdtr;
	cpu->idtr = state->idtr;
	cpu->cr0 = state->cr0;
	cpu->cr2 = state->cr2;
	cpu->cr3 = state->cr3;
	cpu->cr4 = state->cr4;
	cpu->efer = state->efer;
	cpu->cpl = SEG_DPL(cpu->seg[SEG_SS].ar);
	cpu_set_rflags(cpu, state->rflags);
	if ((cpu->cr0 & CR0_PG) && (cpu->cr4 & CR4_PAE) && !(cpu->efer & EFER_LMA)) {
		struct mmu_paging paging = cpu->mmu.paging;
		paging.cr0 = cpu->cr0;
		paging.cr3 = cpu->cr3;
		paging.cr4 = cpu->cr4;
		paging.efer = cpu->efer;
		mmu_load_pdptes(&cpu->mmu, &paging, paging.pdpte);
		mmu_set_paging(&cpu->mmu, &paging);
	}
	cpu_update_mode(cpu);
	mmu_flush_all(&cpu->mmu);
}

/* What RESET and INIT have in common (SDM vol. 3, table 10-1). */
static void reset_registers(struct cpu *cpu)
{
	struct x86_state state;
	u32 leaf[4];

	cpuid_query(cpu, 1, 0, leaf);
	x86_state_reset(&state, leaf[0]);
	cpu->non_root = false;
	cpu->hv_step = cpu->if_free = false;
	cpu->monitor_armed = false;
	cpu->shadow = 0;
	cpu->nmi_blocked = false;
	cpu->intr_held = false;
	cpu->events_held = false;
	cpu->held = 0;
	cpu->step_armed = 0;
	cpu->pending_db = 0;
	cpu->pending.valid = cpu->vectoring.valid = false;
	memset(cpu->dr, 0, sizeof(cpu->dr));
	cpu->dr[6] = DR6_FIXED1;
	cpu->dr[7] = DR7_FIXED1;
	cpu->bounds = (struct cpu_bounds){ 0 };
	cpu->msr.bndcfgs = 0;
	cpu_set_state(cpu, &state);
	/* An application processor waits for its start-up IPI (SDM vol. 3, 9.4.3). */
	cpu->activity = cpu->config->cpu_index == 0 ? CPU_ACTIVE : CPU_WAIT_SIPI;
}

void cpu_reset(struct cpu *cpu)
{
	const struct mmu_paging none = { .cr0 = CR0_ET };
	mmu_set_paging(&cpu->mmu, &none);
	mmu_set_pkru(&cpu->mmu, 0);
	mmu_set_pkrs(&cpu->mmu, 0);
	reset_registers(cpu);
	cpu->xcr0 = XCR0_X87;
	msr_reset(cpu);
	pmu_reset(cpu);
	fpu_reset(cpu, false);
	cpu_attended(cpu, ATTEND_NMI | ATTEND_NMI_2 | ATTEND_INIT | ATTEND_SIPI | ATTEND_SMI | ATTEND_HV |
				  ATTEND_SHADOW | ATTEND_TRAP);
	if (cpu->hv)
		cpu->hv->reset(cpu, false);
}

void cpu_init_signal(struct cpu *cpu)
{
	u64 cache = cpu->cr0 & (CR0_CD | CR0_NW);
	reset_registers(cpu);
	cpu->cr0 = (cpu->cr0 & ~(CR0_CD | CR0_NW)) | cache;
	cpu_update_mode(cpu);
	fpu_reset(cpu, true);
	if (cpu->platform->apic_init)
		cpu->platform->apic_init(cpu->platform->opaque);
	if (cpu->hv)
		cpu->hv->reset(cpu, true);
}

int cpu_init(struct cpu *cpu, struct mem *mem, struct bus *bus, struct cpu_config *config,
	     const struct cpu_platform *platform)
{
	int r;

	cpu->mem = mem;
	cpu->bus = bus;
	cpu->config = config;
	cpu->platform = platform;
	if ((r = cpu_cpuid_init(config)) < 0)
		return r;
	if ((r = mmu_init(&cpu->mmu, mem, &cpu->counters, config->phys_bits)) < 0)
		return r;
	if ((r = group_join(cpu)) < 0)
		goto no_group;
	if ((r = block_cache_init(cpu)) < 0)
		goto no_blocks;
	if ((r = native_init(cpu)) < 0)
		goto no_native;
	if (cpu->hv && (r = cpu->hv->init(cpu)) < 0)
		goto no_hv;
	cpu_reset(cpu);
	return 0;
no_hv:
	native_destroy(cpu);
no_native:
	block_cache_destroy(cpu);
no_blocks:
	group_leave(cpu);
no_group:
	mmu_destroy(&cpu->mmu);
	return r;
}

void cpu_destroy(struct cpu *cpu)
{
	if (cpu->hv)
		cpu->hv->destroy(cpu);
	native_destroy(cpu);
	block_cache_destroy(cpu);
	group_leave(cpu);
	mmu_destroy(&cpu->mmu);
}
