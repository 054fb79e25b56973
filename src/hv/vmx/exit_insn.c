/*
 * Instructions that cause VM exits, and what they report (SDM vol. 3, 26.1, 26.3, 28.2.1, 28.2.5).
 */
#include "base/trace.h"
#include "cpu/system.h"
#include "hv/vmx/vmx.h"

#include <string.h>

/* --- VM-exit instruction information --- */

static u32 address_size(const struct insn *insn)
{
	return (insn->adsize >> 2) << 7; /* 2, 4, 8 bytes: 0, 1, 2 */
}

/* The flat slot stands for a segment of base 0: SS for stack-relative operands, DS otherwise. */
static u32 segment_number(const struct insn *insn)
{
	if (insn->seg < SEG_COUNT)
		return insn->seg;
	return insn->base == RSP || insn->base == RBP ? SEG_SS : SEG_DS;
}

u32 vmx_info_memory(const struct insn *insn)
{
	u32 info = insn->scale | address_size(insn) | segment_number(insn) << 15;
	info |= insn->index < GPR_COUNT ? (u32)insn->index << 18 : 1u << 22;
	info |= insn->base < GPR_COUNT ? (u32)insn->base << 23 : 1u << 27;
	return info;
}

u64 vmx_displacement(const struct cpu *cpu, const struct insn *insn)
{
	u64 displacement = (u64)(i64)insn->disp;
	if (insn->base == REG_RIP)
		displacement += cpu->reg[REG_RIP];
	return insn->adsize == 8 ? displacement : (u32)displacement;
}

/* r/m operand in `rm`: memory form, or bit 10 and the register in bits 6:3. */
static u32 info_rm(const struct insn *insn, u8 rm)
{
	return insn->flags & INSN_MEM ? vmx_info_memory(insn) : 1u << 10 | (u32)rm << 3;
}

/* --- VMX instructions --- */

void vmx_exit_vmx_insn(struct cpu *cpu, const struct insn *insn)
{
	u32 info = 0;
	switch (insn->cond) {
	case EXIT_VMREAD:
		info = info_rm(insn, insn->dst) | (u32)insn->src << 28;
		break;
	case EXIT_VMWRITE:
		info = info_rm(insn, insn->src) | (u32)insn->dst << 28;
		break;
	case EXIT_INVEPT:
	case EXIT_INVVPID:
		info = vmx_info_memory(insn) | (u32)insn->dst << 28;
		break;
	case EXIT_VMCLEAR:
	case EXIT_VMPTRLD:
	case EXIT_VMPTRST:
	case EXIT_VMXON:
		info = vmx_info_memory(insn);
		break;
	default:
		break;
	}
	u64 qualification = insn->flags & INSN_MEM ? vmx_displacement(cpu, insn) : 0;
	vmx_exit_insn(cpu, insn->cond, qualification, info);
}

/* --- instructions by control bit --- */

static void exit_if(struct cpu *cpu, bool condition, enum exit_reason reason)
{
	if (condition)
		vmx_exit_insn(cpu, reason, 0, 0);
}

/* Instructions that a guest has only if a control enables them. */
static void require(struct cpu *cpu, bool enabled)
{
	if (!enabled)
		cpu_raise(cpu, VEC_UD);
}

static void random_number(struct cpu *cpu, const struct insn *insn, u64 control)
{
	enum { SIZE16, SIZE32, SIZE64 };
	if (!vmx_cpu2(vmx_of(cpu), control))
		return;
	u32 size = insn->opsize == 8 ? SIZE64 : insn->opsize == 4 ? SIZE32 : SIZE16;
	vmx_exit_insn(cpu, insn_row(insn)->vmx_exit, 0, (u32)insn->dst << 3 | size << 11);
}

static void xsaves(struct cpu *cpu, const struct insn *insn)
{
	const struct vmx *vmx = vmx_of(cpu);
	require(cpu, vmx_cpu2(vmx, CPU2_XSAVES));
	u64 components = cpu->reg[RDX] << 32 | (u32)cpu->reg[RAX];
	if (components & cpu->msr.xss & vmx->vmcs.xss_bitmap)
		vmx_exit_insn(cpu, insn_row(insn)->vmx_exit, vmx_displacement(cpu, insn), vmx_info_memory(insn));
}

static void invpcid(struct cpu *cpu, const struct insn *insn)
{
	const struct vmx *vmx = vmx_of(cpu);
	require(cpu, vmx_cpu2(vmx, CPU2_INVPCID));
	if (vmx_cpu(vmx, CPU_INVLPG))
		vmx_exit_insn(cpu, EXIT_INVPCID, vmx_displacement(cpu, insn),
			      vmx_info_memory(insn) | (u32)insn->dst << 28);
}

/*
 * PAUSE-loop exiting (26.1.3): PAUSEs at CPL 0 less than PLE_Gap apart are a loop, which exits when it is older than
 * PLE_Window.
 */
static bool pause_loop_exits(struct cpu *cpu, struct vmx *vmx)
{
	if (!vmx_cpu2(vmx, CPU2_PAUSE_LOOP) || cpu->cpl)
		return false;
	u64 now = cpu->platform->tsc(cpu->platform->opaque);
	bool first = !vmx->pause_last || now - vmx->pause_last > vmx->vmcs.ple_gap;
	vmx->pause_last = now;
	if (first)
		vmx->pause_first = now;
	return now - vmx->pause_first > vmx->vmcs.ple_window;
}

void vmx_instruction(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx = vmx_of(cpu);
	enum exit_reason reason = insn_row(insn)->vmx_exit;
	switch (reason) {
	case EXIT_HLT:
		exit_if(cpu, vmx_cpu(vmx, CPU_HLT), reason);
		break;
	case EXIT_MWAIT:
		if (vmx_cpu(vmx, CPU_MWAIT_EXITING))
			vmx_exit_insn(cpu, reason, cpu->monitor_armed, 0);
		break;
	case EXIT_MONITOR:
		exit_if(cpu, vmx_cpu(vmx, CPU_MONITOR), reason);
		break;
	case EXIT_PAUSE:
		exit_if(cpu, vmx_cpu(vmx, CPU_PAUSE) || pause_loop_exits(cpu, vmx), reason);
		break;
	case EXIT_RDPMC:
		exit_if(cpu, vmx_cpu(vmx, CPU_RDPMC), reason);
		break;
	case EXIT_RDTSC:
		exit_if(cpu, vmx_cpu(vmx, CPU_RDTSC), reason);
		break;
	case EXIT_RDTSCP: /* and RDPID, which reads no TSC */
		require(cpu, vmx_cpu2(vmx, CPU2_RDTSCP));
		exit_if(cpu, vmx_cpu(vmx, CPU_RDTSC) && !strcmp(insn_row(insn)->name, "RDTSCP"), reason);
		break;
	case EXIT_WBINVD:
		exit_if(cpu, vmx_cpu2(vmx, CPU2_WBINVD), reason);
		break;
	case EXIT_RDRAND:
		random_number(cpu, insn, CPU2_RDRAND);
		break;
	case EXIT_RDSEED:
		random_number(cpu, insn, CPU2_RDSEED);
		break;
	case EXIT_INVPCID:
		invpcid(cpu, insn);
		break;
	case EXIT_XSAVES:
	case EXIT_XRSTORS:
		xsaves(cpu, insn);
		break;
	case EXIT_XSETBV:
		require(cpu, cpu->cr4 & CR4_OSXSAVE);
		vmx_exit_insn(cpu, reason, 0, 0);
	default:
		vmx_exit_insn(cpu, reason, 0, 0); /* CPUID, INVD, GETSEC: always */
	}
}

/* --- I/O --- */

/* A port's bit in bitmap A (0000h to 7FFFh) or B. Bitmaps outside RAM read as ones. */
static bool port_intercepted(const struct vmx *vmx, u32 port)
{
	gpa_t bitmap = port & 0x8000 ? vmx->vmcs.io_bitmap_b : vmx->vmcs.io_bitmap_a;
	u8 bits = 0xff;
	mem_read(vmx->cpu->mem, bitmap + (port & 0x7fff) / 8, &bits, 1);
	return bits >> (port & 7) & 1;
}

static bool io_intercepted(const struct vmx *vmx, u16 port, unsigned size)
{
	if (!vmx_cpu(vmx, CPU_IO_BITMAPS))
		return vmx_cpu(vmx, CPU_UNCONDITIONAL_IO);
	for (u32 p = port; p < (u32)port + size; p++)
		if (p > 0xffff || port_intercepted(vmx, p)) /* wrapping around FFFFh always exits */
			return true;
	return false;
}

void vmx_io(struct cpu *cpu, const struct insn *insn, u16 port, unsigned size, bool in, u64 linear)
{
	const struct vmx *vmx = vmx_of(cpu);
	if (likely(!io_intercepted(vmx, port, size)))
		return;
	const char *name = insn_row(insn)->name; /* INSB or IN, OUTSB or OUT */
	bool string = name[in ? 2 : 3] == 'S';
	u64 qualification = (size - 1) | (u64)in << 3 | (u64)string << 4 | (u64)port << 16;
	if (string && (insn->flags & (INSN_REP | INSN_REPNE)))
		qualification |= BIT(5);
	if (!string && !insn->cond) /* cond: the port is in DX */
		qualification |= BIT(6);
	u32 info = 0;
	if (string)
		info = address_size(insn) | (in ? SEG_ES : segment_number(insn)) << 15;
	vmx_exit(cpu, &(struct vmx_exit){
			      .reason = EXIT_IO,
			      .qualification = qualification,
			      .rip = cpu->rip_start,
			      .linear = linear,
			      .info = info,
			      .length = insn->length,
			      .rf = RF_CLEAR,
		      });
}

/* --- MSRs --- */

/* The bitmap page: reads of low MSRs, reads of high ones, writes of low, writes of high; 1 KiB each (25.6.9). */
static bool msr_intercepted(const struct vmx *vmx, u32 msr, bool write)
{
	const u32 high_base = 0xc0000000, range = 0x2000;
	bool low = msr < range, high = msr >= high_base && msr < high_base + range;
	if (!vmx_cpu(vmx, CPU_MSR_BITMAPS) || (!low && !high))
		return true;
	u32 offset = (write ? 2048 : 0) + (high ? 1024 : 0) + (msr & (range - 1)) / 8;
	u8 bits = 0xff;
	mem_read(vmx->cpu->mem, vmx->vmcs.msr_bitmap + offset, &bits, 1);
	return bits >> (msr & 7) & 1;
}

void vmx_msr(struct cpu *cpu, u32 msr, bool write)
{
	if (!msr_intercepted(vmx_of(cpu), msr, write))
		return;
	TRACE(exits, "MSR %x %s", msr, write ? "written" : "read");
	vmx_exit_insn(cpu, write ? EXIT_WRMSR : EXIT_RDMSR, 0, 0);
}

/* --- memory management --- */

void vmx_invlpg(struct cpu *cpu, u64 va)
{
	if (vmx_cpu(vmx_of(cpu), CPU_INVLPG))
		vmx_exit_insn(cpu, EXIT_INVLPG, va, 0);
}

void vmx_descriptor_table(struct cpu *cpu, const struct insn *insn, u64 displacement)
{
	if (!vmx_cpu2(vmx_of(cpu), CPU2_DESCRIPTOR_TABLE))
		return;
	/* In the order of the instruction identities: bits 29:28 of the information, for either exit reason. */
	static const char *const names[] = { "SGDT", "SIDT", "LGDT", "LIDT", "SLDT", "STR", "LLDT", "LTR" };
	u32 which = 0;
	while (which < ARRAY_SIZE(names) - 1 && strcmp(insn_row(insn)->name, names[which]))
		which++;
	bool table = which < 4;
	u32 info = (which & 3) << 28;
	if (table)
		info |= vmx_info_memory(insn) | (insn->opsize == 2 ? 0 : 1u << 11);
	else
		info |= info_rm(insn, insn->dst);
	u64 qualification = insn->flags & INSN_MEM ? vmx_displacement(cpu, insn) : 0;
	vmx_exit_insn(cpu, table ? EXIT_GDTR_IDTR : EXIT_LDTR_TR, qualification, info);
}

/* --- control and debug registers --- */

static NORETURN void exit_cr(struct cpu *cpu, unsigned cr, enum cr_access access, unsigned gpr)
{
	vmx_exit_insn(cpu, EXIT_CR_ACCESS, cr | (u64)access << 4 | (u64)gpr << 8, 0);
}

void vmx_dr_access(struct cpu *cpu, unsigned dr, bool write, unsigned gpr)
{
	if (vmx_cpu(vmx_of(cpu), CPU_MOV_DR))
		vmx_exit_insn(cpu, EXIT_DR_ACCESS, dr | (write ? 0 : BIT(4)) | (u64)gpr << 8, 0);
}

/* What the guest reads: the shadow's bits where the host owns them. */
static u64 shadowed(u64 real, u64 mask, u64 shadow)
{
	return (real & ~mask) | (shadow & mask);
}

u64 vmx_cr0_shadowed(struct cpu *cpu)
{
	const struct vmcs *v = &vmx_of(cpu)->vmcs;
	return shadowed(cpu->cr0, v->cr0_mask, v->cr0_shadow);
}

void vmx_cr_read(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value)
{
	struct vmx *vmx = vmx_of(cpu);
	switch (cr) {
	case 0:
		*value = vmx_cr0_shadowed(cpu);
		break;
	case 3:
		if (vmx_cpu(vmx, CPU_CR3_STORE))
			exit_cr(cpu, 3, CR_ACCESS_READ, gpr);
		break;
	case 4:
		*value = shadowed(cpu->cr4, vmx->vmcs.cr4_mask, vmx->vmcs.cr4_shadow);
		break;
	case 8:
		if (vmx_cpu(vmx, CPU_CR8_STORE))
			exit_cr(cpu, 8, CR_ACCESS_READ, gpr);
		if (vmx_cpu(vmx, CPU_TPR_SHADOW))
			*value = vmx_vapic_read_cr8(cpu);
		break;
	default:
		break;
	}
}

/* MOV to CR0 or CR4: exits if a bit that the host owns differs from its shadow; otherwise those bits stay. */
static void masked_write(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value, u64 real, u64 mask, u64 shadow)
{
	if ((*value ^ shadow) & mask)
		exit_cr(cpu, cr, CR_ACCESS_WRITE, gpr);
	*value = (*value & ~mask) | (real & mask);
}

static bool is_cr3_target(const struct vmcs *v, u64 value)
{
	const natural *target = &v->cr3_target0;
	for (unsigned i = 0; i < v->cr3_target_count; i++)
		if (target[i] == value)
			return true;
	return false;
}

void vmx_cr_write(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value)
{
	struct vmx *vmx = vmx_of(cpu);
	const struct vmcs *v = &vmx->vmcs;
	switch (cr) {
	case 0:
		masked_write(cpu, 0, gpr, value, cpu->cr0, v->cr0_mask, v->cr0_shadow);
		break;
	case 3:
		if (vmx_cpu(vmx, CPU_CR3_LOAD) && !is_cr3_target(v, *value))
			exit_cr(cpu, 3, CR_ACCESS_WRITE, gpr);
		break;
	case 4:
		masked_write(cpu, 4, gpr, value, cpu->cr4, v->cr4_mask, v->cr4_shadow);
		break;
	case 8:
		if (vmx_cpu(vmx, CPU_CR8_LOAD))
			exit_cr(cpu, 8, CR_ACCESS_WRITE, gpr);
		if (*value > 15)
			cpu_raise_gp(cpu);
		if (vmx_cpu(vmx, CPU_TPR_SHADOW))
			vmx_vapic_write_cr8(cpu, *value);
		break;
	default:
		break;
	}
}

void vmx_clts(struct cpu *cpu, u64 *value)
{
	const struct vmcs *v = &vmx_of(cpu)->vmcs;
	if (!(v->cr0_mask & CR0_TS))
		return;
	if (v->cr0_shadow & CR0_TS)
		exit_cr(cpu, 0, CR_ACCESS_CLTS, 0);
	*value = cpu->cr0;
}

/* LMSW can set PE but not clear it, and writes MP, EM and TS; *value is what CR0 would become. */
void vmx_lmsw(struct cpu *cpu, u16 source, bool memory, u64 linear, u64 *value)
{
	const struct vmcs *v = &vmx_of(cpu)->vmcs;
	const u64 written = CR0_PE | CR0_MP | CR0_EM | CR0_TS;
	bool sets_pe = (v->cr0_mask & CR0_PE) && (source & CR0_PE) && !(v->cr0_shadow & CR0_PE);
	bool differs = (source ^ v->cr0_shadow) & v->cr0_mask & (written & ~CR0_PE);
	if (sets_pe || differs)
		vmx_exit(cpu, &(struct vmx_exit){
				      .reason = EXIT_CR_ACCESS,
				      .qualification = CR_ACCESS_LMSW << 4 | (memory ? BIT(6) : 0) | (u64)source << 16,
				      .rip = cpu->rip_start,
				      .linear = memory ? linear : 0,
				      .length = cpu->insn->length,
				      .rf = RF_CLEAR,
			      });
	*value = (*value & ~v->cr0_mask) | (cpu->cr0 & v->cr0_mask);
}

/* --- the rest --- */

/*
 * RIP is that of the instruction which asked for it, INT n and its like included; if a gate was met by another event,
 * it is what the old TSS would get (28.3.3).
 */
void vmx_task_switch(struct cpu *cpu, u16 selector, unsigned source)
{
	const struct event *event = &cpu->vectoring;
	bool by_event = event->valid && !event_is_software(event);
	vmx_exit(cpu, &(struct vmx_exit){
			      .reason = EXIT_TASK_SWITCH,
			      .qualification = selector | (u64)source << 30,
			      .rip = by_event ? cpu->reg[REG_RIP] : cpu->rip_start,
			      .length = event->valid ? 0 : cpu->insn->length,
		      });
}

/*
 * The preemption timer counts with the TSC: a guest never reads a TSC past the timer's end, however late the platform's
 * call for attention is. The reading instruction has not run then.
 */
u64 vmx_tsc(struct cpu *cpu, u64 root_tsc)
{
	const struct vmx *vmx = vmx_of(cpu);
	if (vmx_pin(vmx, PIN_PREEMPTION_TIMER) && (root_tsc - cpu->msr.tsc_adjust) >> VMX_TIMER_SHIFT >= vmx->timer_end)
		vmx_exit(cpu, &(struct vmx_exit){ .reason = EXIT_PREEMPTION_TIMER, .rip = cpu->rip_start });
	if (!vmx_cpu(vmx, CPU_TSC_OFFSETTING))
		return root_tsc;
	/* The multiplier is a fixed-point number with 48 bits behind the point (25.3). */
	if (vmx_cpu2(vmx, CPU2_TSC_SCALING))
		root_tsc = (u64)((unsigned __int128)root_tsc * vmx->vmcs.tsc_multiplier >> 48);
	return root_tsc + vmx->vmcs.tsc_offset;
}
