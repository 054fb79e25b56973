/*
 * Control registers and EFER: every architectural check and side effect (SDM vol. 2 "MOV CR"; vol. 3, 2.5, 4.10.4), and
 * the instructions that move them.
 */
#include "cpu/access.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"
#include "x86/feature.h"

/* PDPTEs of PAE paging are read when CR3, or a bit of CR0 and CR4 that bears on them, is written (SDM vol. 3, 4.4.1).
 */
static void load_pdptes(struct cpu *cpu, u64 cr0, u64 cr3, u64 cr4)
{
	struct mmu_paging paging = cpu->mmu.paging;

	if (!(cr0 & CR0_PG) || !(cr4 & CR4_PAE) || (cpu->efer & EFER_LME))
		return;
	paging.cr0 = cr0;
	paging.cr3 = cr3;
	paging.cr4 = cr4;
	paging.efer = cpu->efer;
	struct mmu_result r = mmu_load_pdptes(&cpu->mmu, &paging, paging.pdpte);
	if (r.kind == MMU_PAGE_FAULT)
		cpu_raise_gp(cpu);
	if (r.kind != MMU_OK)
		cpu->hv->stage2_fault(cpu, 0, &r);
	mmu_set_paging(&cpu->mmu, &paging);
}

/* CR0.PG is about to become 1 with EFER.LME: long mode begins (SDM vol. 3, 10.8.5). */
static void check_long_mode_entry(struct cpu *cpu)
{
	if (!(cpu->cr4 & CR4_PAE) || (cpu->seg[SEG_CS].ar & SEG_AR_L))
		cpu_raise_gp(cpu);
	unsigned tss = cpu->seg[SEG_TR].ar & SEG_AR_TYPE;
	if ((cpu->seg[SEG_TR].selector & ~3) && (tss == DESC_TSS16 || tss == DESC_TSS16_BUSY))
		cpu_raise_gp(cpu);
}

void cr0_write(struct cpu *cpu, u64 value)
{
	const u64 defined = CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG;

	if (value >> 32)
		cpu_raise_gp(cpu);
	value = (value & defined) | CR0_ET;
	if (((value & CR0_PG) && !(value & CR0_PE)) || ((value & CR0_NW) && !(value & CR0_CD)))
		cpu_raise_gp(cpu);
	if (cpu->hv && !cpu->hv->cr0_valid(cpu, value))
		cpu_raise_gp(cpu);

	u64 changed = cpu->cr0 ^ value;
	if (changed & CR0_PG) {
		if (!(value & CR0_PG) && (cpu->mode == CPU_LONG || (cpu->cr4 & CR4_PCIDE)))
			cpu_raise_gp(cpu);
		if ((value & CR0_PG) && (cpu->efer & EFER_LME))
			check_long_mode_entry(cpu);
	}
	if (changed & (CR0_PG | CR0_CD | CR0_NW))
		load_pdptes(cpu, value, cpu->cr3, cpu->cr4);
	cpu->cr0 = value;
	if ((value & CR0_PG) && (cpu->efer & EFER_LME))
		cpu->efer |= EFER_LMA;
	else
		cpu->efer &= ~EFER_LMA;
	cpu_update_mode(cpu);
}

void cr3_write(struct cpu *cpu, u64 value)
{
	bool keep = false;

	if (cpu->cr4 & CR4_PCIDE) {
		keep = value >> 63;
		value &= ~BIT(63);
	}
	if (cpu_long_mode(cpu) ? value & ~BITS(cpu->config->phys_bits - 1, 0) : value >> 32)
		cpu_raise_gp(cpu);
	load_pdptes(cpu, cpu->cr0, value, cpu->cr4);
	cpu->cr3 = value;
	cpu_update_mode(cpu);
	if (!keep)
		mmu_flush_pcid(&cpu->mmu, cpu->cr4 & CR4_PCIDE ? value & 0xfff : 0);
}

u64 cr4_supported(const struct cpu *cpu)
{
	static const struct {
		u64 bit;
		u8 feature;
	} bits[] = {
		{ CR4_VME | CR4_PVI, FEATURE_VME }, { CR4_TSD, FEATURE_TSC },     { CR4_DE, FEATURE_DE },
		{ CR4_PSE, FEATURE_PSE },           { CR4_PAE, FEATURE_PAE },     { CR4_MCE, FEATURE_MCE },
		{ CR4_PGE, FEATURE_PGE },           { CR4_OSFXSR, FEATURE_FXSR }, { CR4_OSXMMEXCPT, FEATURE_SSE },
		{ CR4_UMIP, FEATURE_UMIP },         { CR4_LA57, FEATURE_LA57 },   { CR4_VMXE, FEATURE_VMX },
		{ CR4_FSGSBASE, FEATURE_FSGSBASE }, { CR4_PCIDE, FEATURE_PCID },  { CR4_OSXSAVE, FEATURE_XSAVE },
		{ CR4_SMEP, FEATURE_SMEP },         { CR4_SMAP, FEATURE_SMAP },   { CR4_PKE, FEATURE_PKU },
		{ CR4_PKS, FEATURE_PKS },
	};
	u64 supported = CR4_PCE;
	for (unsigned i = 0; i < ARRAY_SIZE(bits); i++)
		if (cpu_has(cpu, bits[i].feature))
			supported |= bits[i].bit;
	return supported;
}

void cr4_write(struct cpu *cpu, u64 value)
{
	u64 changed = cpu->cr4 ^ value;

	if (value & ~cr4_supported(cpu))
		cpu_raise_gp(cpu);
	if (cpu->hv && !cpu->hv->cr4_valid(cpu, value))
		cpu_raise_gp(cpu);
	if (cpu_long_mode(cpu) && (!(value & CR4_PAE) || (changed & CR4_LA57)))
		cpu_raise_gp(cpu);
	if ((changed & value & CR4_PCIDE) && (!cpu_long_mode(cpu) || (cpu->cr3 & 0xfff)))
		cpu_raise_gp(cpu);
	if (changed & (CR4_PAE | CR4_PSE | CR4_PGE | CR4_SMEP))
		load_pdptes(cpu, cpu->cr0, cpu->cr3, value);
	cpu->cr4 = value;
	cpu_update_mode(cpu);
	if ((changed & CR4_PGE) || (changed & ~value & CR4_PCIDE))
		mmu_flush_vpid_all(&cpu->mmu, true);
}

bool efer_set(struct cpu *cpu, u64 value)
{
	u64 defined = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | (cpu_has(cpu, FEATURE_SVM) ? EFER_SVME : 0);
	if (value & ~defined)
		return false;
	value = (value & ~EFER_LMA) | (cpu->efer & EFER_LMA);
	if (((value ^ cpu->efer) & EFER_LME) && (cpu->cr0 & CR0_PG))
		return false;
	if (cpu->hv && cpu->hv->efer_valid && !cpu->hv->efer_valid(cpu, value))
		return false;
	cpu->efer = value;
	cpu_update_mode(cpu);
	return true;
}

void efer_write(struct cpu *cpu, u64 value)
{
	if (!efer_set(cpu, value))
		cpu_raise_gp(cpu);
}

/* --- MOV CR --- */

static void require_cpl0(struct cpu *cpu)
{
	if (cpu->cpl != 0)
		cpu_raise_gp(cpu);
}

static void exec_read_cr(struct cpu *cpu, const struct insn *insn)
{
	u64 value = 0;

	require_cpl0(cpu);
	switch (insn->src) {
	case 0:
		value = cpu->cr0;
		break;
	case 2:
		value = cpu->cr2;
		break;
	case 3:
		value = cpu->cr3;
		break;
	case 4:
		value = cpu->cr4;
		break;
	case 8:
		value = cpu->platform->tpr_read(cpu->platform->opaque);
		break;
	}
	if (cpu->non_root)
		cpu->hv->cr_read(cpu, insn->src, insn->dst, &value);
	cpu->reg[insn->dst] = cpu->mode == CPU_LONG ? value : (u32)value;
}

static void exec_write_cr(struct cpu *cpu, const struct insn *insn)
{
	u64 value = cpu->mode == CPU_LONG ? cpu->reg[insn->src] : (u32)cpu->reg[insn->src];

	require_cpl0(cpu);
	/* An exit comes before #GP for the value (SDM vol. 3, 26.1.1). */
	if (cpu->non_root)
		cpu->hv->cr_write(cpu, insn->dst, insn->src, &value);
	if (insn->dst == 8 && value > 15)
		cpu_raise_gp(cpu);
	switch (insn->dst) {
	case 0:
		cr0_write(cpu, value);
		break;
	case 2:
		cpu->cr2 = value;
		break;
	case 3:
		cr3_write(cpu, value);
		break;
	case 4:
		cr4_write(cpu, value);
		break;
	case 8:
		cpu->platform->tpr_write(cpu->platform->opaque, (u8)value);
		break;
	}
}

bool control_select_mov(const struct decode *d, struct insn *insn)
{
	bool write = ZydisRegisterGetClass(d->op[0].reg.value) == ZYDIS_REGCLASS_CONTROL;
	unsigned cr = d->op[write ? 0 : 1].reg.value - ZYDIS_REGISTER_CR0;
	ZydisRegister gpr = d->op[write ? 1 : 0].reg.value;
	if (cr != 0 && cr != 2 && cr != 3 && cr != 4 && cr != 8)
		return false;
	*(write ? &insn->dst : &insn->src) = (u8)cr;
	*(write ? &insn->src : &insn->dst) = (u8)ZydisRegisterGetId(gpr);
	insn->exec = write ? exec_write_cr : exec_read_cr;
	if (write)
		insn->flags |= INSN_ENDS;
	return true;
}

bool system_select_mov(const struct decode *d, struct insn *insn)
{
	for (unsigned i = 0; i < 2; i++) {
		if (d->op[i].type != ZYDIS_OPERAND_TYPE_REGISTER)
			continue;
		switch (ZydisRegisterGetClass(d->op[i].reg.value)) {
		case ZYDIS_REGCLASS_CONTROL:
			return control_select_mov(d, insn);
		case ZYDIS_REGCLASS_DEBUG:
			return debug_select_mov(d, insn);
		case ZYDIS_REGCLASS_SEGMENT:
			return segment_select_mov(d, insn);
		default:
			break;
		}
	}
	return false;
}

/* --- CLTS, LMSW, SMSW --- */

static void exec_clts(struct cpu *cpu, const struct insn *insn)
{
	u64 value = cpu->cr0 & ~CR0_TS;
	if (cpu->non_root)
		cpu->hv->clts(cpu, &value);
	cpu->cr0 = value;
}
SYSTEM_SELECT_END(clts)

static void exec_lmsw(struct cpu *cpu, const struct insn *insn)
{
	bool memory = insn->flags & INSN_MEM;
	u64 linear = memory ? access_linear(cpu, insn, 2, MMU_READ) : 0;
	u16 source = memory ? mem_read16(cpu, linear) : (u16)cpu->reg[insn->dst];
	/* PE can be set here, never cleared. */
	u64 value = (cpu->cr0 & ~(CR0_MP | CR0_EM | CR0_TS)) | (source & (CR0_PE | CR0_MP | CR0_EM | CR0_TS));
	if (cpu->non_root)
		cpu->hv->lmsw(cpu, source, memory, linear, &value);
	cr0_write(cpu, value);
}
SYSTEM_SELECT_END(lmsw)

static void exec_smsw(struct cpu *cpu, const struct insn *insn)
{
	if ((cpu->cr4 & CR4_UMIP) && cpu->cpl != 0)
		cpu_raise_gp(cpu);
	u64 value = cpu->non_root ? cpu->hv->cr0_shadowed(cpu) : cpu->cr0;
	if (insn->flags & INSN_MEM)
		mem_write16(cpu, access_linear(cpu, insn, 2, MMU_WRITE), (u16)value);
	else
		register_write(cpu, insn->dst, insn->opsize, value);
}
SYSTEM_SELECT(smsw)
