/*
 * System instructions: descriptor-table registers, TLB invalidation, halting, time, FS and GS bases, interrupt and
 * alignment flags, XCR0, CPUID, MSRs. Rows check CPL and ask hv where no operand matters; the rest asks here.
 */
#include "cpu/access.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"
#include "cpu/native.h"
#include "x86/feature.h"
#include "x86/msr.h"

/* --- GDTR, IDTR, LDTR, TR --- */

/* UMIP: these four and SMSW give away where the kernel lies (SDM vol. 3, 2.5). */
static void check_umip(struct cpu *cpu)
{
	if ((cpu->cr4 & CR4_UMIP) && cpu->cpl != 0)
		cpu_raise_gp(cpu);
}

/* hv wants the displacement; relative to RIP it is the address (SDM vol. 3, 28.2.1). */
static void ask_hv(struct cpu *cpu, const struct insn *insn)
{
	if (!cpu->non_root)
		return;
	u64 displacement = insn->flags & INSN_MEM ? (u64)(i64)insn->disp : 0;
	if ((insn->flags & INSN_MEM) && insn->base == REG_RIP)
		displacement += cpu->reg[REG_RIP];
	cpu->hv->descriptor_table(cpu, insn, displacement);
}

static void store_table(struct cpu *cpu, const struct insn *insn, const struct table_register *table)
{
	u8 image[10];
	unsigned size = cpu->mode == CPU_LONG ? 10 : 6;

	check_umip(cpu);
	ask_hv(cpu, insn);
	memcpy(image, &table->limit, 2);
	memcpy(image + 2, &table->base, 8);
	access_write(cpu, access_linear(cpu, insn, size, MMU_WRITE), image, size, cpu->mmu.cls);
}

static void load_table(struct cpu *cpu, const struct insn *insn, struct table_register *table)
{
	u8 image[10] = { 0 };
	unsigned size = cpu->mode == CPU_LONG ? 10 : 6;
	struct table_register value;

	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	ask_hv(cpu, insn);
	access_read(cpu, access_linear(cpu, insn, size, MMU_READ), image, size, cpu->mmu.cls);
	memcpy(&value.limit, image, 2);
	memcpy(&value.base, image + 2, 8);
	if (cpu->mode == CPU_LONG && !is_canonical_base(cpu, value.base))
		cpu_raise_gp(cpu);
	if (cpu->mode != CPU_LONG && insn->opsize == 2)
		value.base &= 0xffffff;
	*table = value;
}

static void exec_sgdt(struct cpu *cpu, const struct insn *insn)
{
	store_table(cpu, insn, &cpu->gdtr);
}

static void exec_sidt(struct cpu *cpu, const struct insn *insn)
{
	store_table(cpu, insn, &cpu->idtr);
}

static void exec_lgdt(struct cpu *cpu, const struct insn *insn)
{
	load_table(cpu, insn, &cpu->gdtr);
}

static void exec_lidt(struct cpu *cpu, const struct insn *insn)
{
	load_table(cpu, insn, &cpu->idtr);
}

SYSTEM_SELECT(sgdt)
SYSTEM_SELECT(sidt)
SYSTEM_SELECT_END(lgdt)
SYSTEM_SELECT_END(lidt)

static void store_selector(struct cpu *cpu, const struct insn *insn, u16 selector)
{
	check_umip(cpu);
	ask_hv(cpu, insn);
	if (insn->flags & INSN_MEM)
		mem_write16(cpu, access_linear(cpu, insn, 2, MMU_WRITE), selector);
	else
		register_write(cpu, insn->dst, insn->opsize, selector);
}

static void exec_sldt(struct cpu *cpu, const struct insn *insn)
{
	store_selector(cpu, insn, cpu->seg[SEG_LDTR].selector);
}

static void exec_str(struct cpu *cpu, const struct insn *insn)
{
	store_selector(cpu, insn, cpu->seg[SEG_TR].selector);
}

/* Operand of LLDT and LTR, after their checks of privilege and hv's word. */
static u16 selector_operand(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
	ask_hv(cpu, insn);
	if (insn->flags & INSN_MEM)
		return mem_read16(cpu, access_linear(cpu, insn, 2, MMU_READ));
	return (u16)cpu->reg[insn->dst];
}

/* A system descriptor in the GDT, base 64 bits wide in long mode. */
static struct segment system_segment(struct cpu *cpu, const struct descriptor *d)
{
	struct segment s = descriptor_segment(d);
	if (cpu_long_mode(cpu)) {
		u64 high = descriptor_get_high(cpu, d);
		s.base |= high << 32;
		if (!is_canonical_base(cpu, s.base) || bits_get(high, 44, 40))
			cpu_raise_error(cpu, VEC_GP, selector_error(d->selector, 0));
	}
	return s;
}

static void exec_lldt(struct cpu *cpu, const struct insn *insn)
{
	u16 selector = selector_operand(cpu, insn);
	struct descriptor d;

	if (selector_is_null(selector)) {
		cpu->seg[SEG_LDTR] = segment_unusable(selector, 0);
		return;
	}
	if (selector & 4)
		cpu_raise_error(cpu, VEC_GP, selector_error(selector, 0));
	descriptor_get(cpu, selector, &d, VEC_GP, 0);
	if (!desc_is_system(&d) || desc_type(&d) != DESC_LDT)
		cpu_raise_error(cpu, VEC_GP, selector_error(selector, 0));
	if (!(d.ar & SEG_AR_P))
		cpu_raise_error(cpu, VEC_NP, selector_error(selector, 0));
	cpu->seg[SEG_LDTR] = system_segment(cpu, &d);
}

static void exec_ltr(struct cpu *cpu, const struct insn *insn)
{
	u16 selector = selector_operand(cpu, insn);
	struct descriptor d;

	if (selector_is_null(selector))
		cpu_raise_gp(cpu);
	if (selector & 4)
		cpu_raise_error(cpu, VEC_GP, selector_error(selector, 0));
	descriptor_get(cpu, selector, &d, VEC_GP, 0);
	bool available = desc_type(&d) == DESC_TSS32 || (desc_type(&d) == DESC_TSS16 && !cpu_long_mode(cpu));
	if (!desc_is_system(&d) || !available)
		cpu_raise_error(cpu, VEC_GP, selector_error(selector, 0));
	if (!(d.ar & SEG_AR_P))
		cpu_raise_error(cpu, VEC_NP, selector_error(selector, 0));
	struct segment s = system_segment(cpu, &d);
	descriptor_set_busy(cpu, &d, true);
	s.ar = d.ar;
	cpu->seg[SEG_TR] = s;
}

SYSTEM_SELECT(sldt)
SYSTEM_SELECT(str)
SYSTEM_SELECT_END(lldt)
SYSTEM_SELECT_END(ltr)

/* --- TLB and caches --- */

static void exec_invlpg(struct cpu *cpu, const struct insn *insn)
{
	u64 linear = (insn_ea(cpu, insn) + cpu->seg_base[insn->seg]) & linear_mask(cpu);
	if (cpu->non_root)
		cpu->hv->invlpg(cpu, linear);
	if (is_canonical(cpu, linear))
		mmu_flush_page(&cpu->mmu, linear);
}

static void exec_invpcid(struct cpu *cpu, const struct insn *insn)
{
	u64 type = cpu->mode == CPU_LONG ? cpu->reg[insn->dst] : (u32)cpu->reg[insn->dst], descriptor[2];

	access_read(cpu, access_linear(cpu, insn, 16, MMU_READ), descriptor, 16, cpu->mmu.cls);
	u16 pcid = descriptor[0] & 0xfff;
	if (type > 3)
		cpu_raise_gp(cpu);
	if (type <= 1 && ((descriptor[0] >> 12) || (pcid && !(cpu->cr4 & CR4_PCIDE))))
		cpu_raise_gp(cpu);
	switch (type) {
	case 0:
		if (!is_canonical_base(cpu, descriptor[1]))
			cpu_raise_gp(cpu);
		mmu_flush_pcid_page(&cpu->mmu, pcid, descriptor[1]);
		break;
	case 1:
		mmu_flush_pcid(&cpu->mmu, pcid);
		break;
	case 2:
		mmu_flush_vpid_all(&cpu->mmu, true);
		break;
	default:
		mmu_flush_vpid_all(&cpu->mmu, false);
		break;
	}
}

/* WBINVD, WBNOINVD, INVD: no caches to write back. */
static void exec_nothing(struct cpu *cpu, const struct insn *insn)
{
}

SYSTEM_SELECT_END(invlpg)
SYSTEM_SELECT_END(invpcid)
SYSTEM_SELECT(nothing)

/* --- HLT, MONITOR, MWAIT --- */

static void halt(struct cpu *cpu, enum cpu_activity activity)
{
	cpu->activity = (u8)activity;
	cpu->counters.halts++;
	cpu_attend(cpu, ATTEND_INTR);
}

static void exec_hlt(struct cpu *cpu, const struct insn *insn)
{
	halt(cpu, CPU_HALTED);
}

/* The monitored line is not watched: a machine with one CPU has nobody else to write it, and others do not show
 * MONITOR. */
static void exec_monitor(struct cpu *cpu, const struct insn *insn)
{
	if (cpu->reg[RCX] & (cpu->mode == CPU_LONG ? ~0ULL : 0xffffffff))
		cpu_raise_gp(cpu);
	u8 byte;
	u64 mask = insn->adsize == 8 ? ~0ULL : insn->adsize == 4 ? 0xffffffff : 0xffff;
	u64 linear = access_check_segment(cpu, insn->flags & INSN_MEM ? insn->seg : SEG_DS, cpu->reg[RAX] & mask, 1,
					  MMU_READ);
	access_read(cpu, linear, &byte, 1, cpu->mmu.cls);
	cpu->monitor_armed = true;
}

static void exec_mwait(struct cpu *cpu, const struct insn *insn)
{
	if ((cpu->mode == CPU_LONG ? cpu->reg[RCX] : (u32)cpu->reg[RCX]) > 1)
		cpu_raise_gp(cpu);
	/* Each MONITOR is good for one wait. */
	if (!cpu->monitor_armed)
		return;
	cpu->monitor_armed = false;
	/* Without ECX bit 0 only an interrupt that would be taken ends the wait. */
	halt(cpu, cpu->reg[RCX] & 1 ? CPU_MWAIT : CPU_HALTED);
}

SYSTEM_SELECT_END(hlt)
SYSTEM_SELECT(monitor)
SYSTEM_SELECT_END(mwait)

/* --- time --- */

static u64 guest_tsc(struct cpu *cpu)
{
	u64 tsc = cpu_tsc(cpu);
	return cpu->non_root ? cpu->hv->tsc(cpu, tsc) : tsc;
}

static void set_edx_eax(struct cpu *cpu, u64 value)
{
	cpu->reg[RAX] = (u32)value;
	cpu->reg[RDX] = value >> 32;
}

static u64 edx_eax(const struct cpu *cpu)
{
	return cpu->reg[RDX] << 32 | (u32)cpu->reg[RAX];
}

static void exec_rdtsc(struct cpu *cpu, const struct insn *insn)
{
	set_edx_eax(cpu, guest_tsc(cpu));
}

static void exec_rdtscp(struct cpu *cpu, const struct insn *insn)
{
	set_edx_eax(cpu, guest_tsc(cpu));
	cpu->reg[RCX] = (u32)cpu->msr.tsc_aux;
}

/* AMD's oldest four counters are there in any case (msr.c), and stay 0 without the others. */
static void exec_rdpmc(struct cpu *cpu, const struct insn *insn)
{
	bool idle = cpu_is_amd(cpu) && !pmu_programmable(cpu);
	u64 value = 0;
	if (idle ? (u32)cpu->reg[RCX] > 3 : !pmu_read(cpu, (u32)cpu->reg[RCX], &value))
		cpu_raise_gp(cpu);
	set_edx_eax(cpu, value);
}

static void exec_rdpid(struct cpu *cpu, const struct insn *insn)
{
	cpu->reg[insn->dst] = (u32)cpu->msr.tsc_aux;
}

SYSTEM_SELECT(rdtsc)
SYSTEM_SELECT(rdtscp)
SYSTEM_SELECT(rdpmc)
SYSTEM_SELECT(rdpid)

/* --- FS and GS bases --- */

static void require_fsgsbase(struct cpu *cpu)
{
	if (!(cpu->cr4 & CR4_FSGSBASE))
		cpu_raise(cpu, VEC_UD);
}

static void read_base(struct cpu *cpu, const struct insn *insn, enum seg seg)
{
	require_fsgsbase(cpu);
	register_write(cpu, insn->dst, insn->opsize == 8 ? 8 : 4, cpu->seg[seg].base);
}

static void write_base(struct cpu *cpu, const struct insn *insn, enum seg seg)
{
	u64 base = insn->opsize == 8 ? cpu->reg[insn->dst] : (u32)cpu->reg[insn->dst];
	require_fsgsbase(cpu);
	if (!is_canonical(cpu, base))
		cpu_raise_gp(cpu);
	cpu->seg[seg].base = cpu->seg_base[seg] = base;
}

static void exec_rdfsbase(struct cpu *cpu, const struct insn *insn)
{
	read_base(cpu, insn, SEG_FS);
}

static void exec_rdgsbase(struct cpu *cpu, const struct insn *insn)
{
	read_base(cpu, insn, SEG_GS);
}

static void exec_wrfsbase(struct cpu *cpu, const struct insn *insn)
{
	write_base(cpu, insn, SEG_FS);
}

static void exec_wrgsbase(struct cpu *cpu, const struct insn *insn)
{
	write_base(cpu, insn, SEG_GS);
}

SYSTEM_SELECT(rdfsbase)
SYSTEM_SELECT(rdgsbase)
SYSTEM_SELECT(wrfsbase)
SYSTEM_SELECT(wrgsbase)

static void exec_swapgs(struct cpu *cpu, const struct insn *insn)
{
	u64 base = cpu->seg[SEG_GS].base;
	cpu->seg[SEG_GS].base = cpu->seg_base[SEG_GS] = cpu->msr.kernel_gs_base;
	cpu->msr.kernel_gs_base = base;
}
SYSTEM_SELECT(swapgs)

/* --- flags --- */

/* May IF be changed? Else: VIF under VME or PVI (SDM vol. 3, 20.3.3, 20.4), or #GP. */
static bool may_change_if(struct cpu *cpu)
{
	if (cpu->mode == CPU_REAL || cpu_iopl(cpu) >= cpu->cpl)
		return true;
	bool virtual = cpu->mode == CPU_V86 ? cpu->cr4 & CR4_VME : cpu->cpl == 3 && (cpu->cr4 & CR4_PVI);
	if (!virtual)
		cpu_raise_gp(cpu);
	return false;
}

static void exec_cli(struct cpu *cpu, const struct insn *insn)
{
	cpu->rflags_sys &= may_change_if(cpu) ? ~RFLAGS_IF : ~RFLAGS_VIF;
}

static void exec_sti(struct cpu *cpu, const struct insn *insn)
{
	if (!may_change_if(cpu)) {
		if (cpu->rflags_sys & RFLAGS_VIP)
			cpu_raise_gp(cpu);
		cpu->rflags_sys |= RFLAGS_VIF;
		return;
	}
	if (cpu->rflags_sys & RFLAGS_IF) {
		cpu->shadow = 0;
		return;
	}
	/*
	 * Where nothing waits the next instruction follows at once, unless something comes up just now: then the shadow
	 * is found there. Else this boundary must be, for the next instructions may clear IF again.
	 */
	if (likely(cpu_goes_on(cpu) && !cpu->attention && !cpu_if_matters(cpu))) {
		cpu->rflags_sys |= RFLAGS_IF;
		cpu->shadow = SHADOW_STI;
		cpu->shadow_rip = cpu->reg[REG_RIP];
		cpu->shadow_insn = insn;
		cpu->shadow_seen = false;
		return;
	}
	cpu_run_alone(cpu);
	cpu->rflags_sys |= RFLAGS_IF;
	cpu_if_set(cpu);
	cpu_set_shadow(cpu, SHADOW_STI);
}

SYSTEM_SELECT(cli)
SYSTEM_SELECT(sti)

static void set_ac(struct cpu *cpu, bool ac)
{
	if (cpu->cpl != 0)
		cpu_raise(cpu, VEC_UD);
	cpu->rflags_sys = ac ? cpu->rflags_sys | RFLAGS_AC : cpu->rflags_sys & ~RFLAGS_AC;
	cpu_update_class(cpu);
}

static void exec_clac(struct cpu *cpu, const struct insn *insn)
{
	set_ac(cpu, false);
}

static void exec_stac(struct cpu *cpu, const struct insn *insn)
{
	set_ac(cpu, true);
}

SYSTEM_SELECT(clac)
SYSTEM_SELECT(stac)

/* --- XCR0 --- */

static void exec_xgetbv(struct cpu *cpu, const struct insn *insn)
{
	u32 index = (u32)cpu->reg[RCX];

	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, VEC_UD);
	if (index == 0)
		set_edx_eax(cpu, cpu->xcr0);
	else if (index == 1 && cpu_has(cpu, FEATURE_XGETBV1))
		set_edx_eax(cpu, cpu->xcr0 & xsave_in_use(cpu));
	else
		cpu_raise_gp(cpu);
}

static void exec_xsetbv(struct cpu *cpu, const struct insn *insn)
{
	if (!(cpu->cr4 & CR4_OSXSAVE))
		cpu_raise(cpu, VEC_UD);
	if (!xsave_xcr0_valid(cpu, edx_eax(cpu)) || (u32)cpu->reg[RCX] != 0)
		cpu_raise_gp(cpu);
	cpu->xcr0 = edx_eax(cpu);
	cpu_update_bounds(cpu);
}

SYSTEM_SELECT_END(xsetbv)
SYSTEM_SELECT(xgetbv)

/* --- protection keys --- */

static void check_pkru_access(struct cpu *cpu)
{
	if (!(cpu->cr4 & CR4_PKE))
		cpu_raise(cpu, VEC_UD);
	if ((u32)cpu->reg[RCX] != 0)
		cpu_raise_gp(cpu);
}

static void exec_rdpkru(struct cpu *cpu, const struct insn *insn)
{
	check_pkru_access(cpu);
	set_edx_eax(cpu, mmu_pkru(&cpu->mmu));
}

static void exec_wrpkru(struct cpu *cpu, const struct insn *insn)
{
	check_pkru_access(cpu);
	if ((u32)cpu->reg[RDX] != 0)
		cpu_raise_gp(cpu);
	mmu_set_pkru(&cpu->mmu, (u32)cpu->reg[RAX]);
}

SYSTEM_SELECT(rdpkru)
SYSTEM_SELECT(wrpkru)

/* --- CPUID, MSRs --- */

/* Programs use it to serialize: it ends its block, so that changed code is seen (block.h), and it is a fence. */
static void exec_cpuid(struct cpu *cpu, const struct insn *insn)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	u32 out[4];
	cpuid_query(cpu, (u32)cpu->reg[RAX], (u32)cpu->reg[RCX], out);
	cpu->reg[RAX] = out[0];
	cpu->reg[RBX] = out[1];
	cpu->reg[RCX] = out[2];
	cpu->reg[RDX] = out[3];
}

static bool is_virtual_apic_msr(const struct cpu *cpu, u32 msr)
{
	return cpu->non_root && msr >= MSR_X2APIC_FIRST && msr <= MSR_X2APIC_LAST && cpu->hv->apic_msr_read;
}

static void exec_rdmsr(struct cpu *cpu, const struct insn *insn)
{
	u32 msr = (u32)cpu->reg[RCX];
	u64 value = 0;

	if (cpu->non_root)
		cpu->hv->msr(cpu, msr, false);
	if (is_virtual_apic_msr(cpu, msr) && cpu->hv->apic_msr_read(cpu, msr, &value)) {
		set_edx_eax(cpu, value);
		return;
	}
	if (!msr_read(cpu, msr, &value))
		cpu_raise_gp(cpu);
	/* RDMSR sees hv's TSC offset, the MSR lists of VM exits do not. */
	if (cpu->non_root && msr == MSR_TSC)
		value = cpu->hv->tsc(cpu, value);
	set_edx_eax(cpu, value);
}

static void exec_wrmsr(struct cpu *cpu, const struct insn *insn)
{
	u32 msr = (u32)cpu->reg[RCX];

	if (cpu->non_root)
		cpu->hv->msr(cpu, msr, true);
	if (is_virtual_apic_msr(cpu, msr) && cpu->hv->apic_msr_write(cpu, msr, edx_eax(cpu)))
		return;
	if (!msr_write(cpu, msr, edx_eax(cpu)))
		cpu_raise_gp(cpu);
}

SYSTEM_SELECT_END(cpuid)
SYSTEM_SELECT(rdmsr)
SYSTEM_SELECT_END(wrmsr)
