/*
 * Instructions that cause #VMEXITs, and what they report (APM vol. 2, 15.8 to 15.11, 15.14, 15.30, 15.33).
 */
#include "cpu/system.h"
#include "hv/svm/svm.h"

#include <string.h>

static void exit_if_intercepted(struct cpu *cpu, unsigned code, u64 info1)
{
	if (unlikely(svm_intercepts(svm_of(cpu), code)))
		svm_exit_insn(cpu, code, info1, 0);
}

/* --- PAUSE (15.14.4) --- */

/*
 * The filter lets so many PAUSEs pass, and starts anew if the last one is longer ago than the threshold. A cycle is an
 * instruction here: what is meant is how much else the guest does in between.
 */
static void pause(struct cpu *cpu)
{
	struct svm *svm = svm_of(cpu);
	const struct vmcb_control *c = &svm->vmcb.control;
	if (!svm_intercepts(svm, SVM_EXIT_PAUSE))
		return;
	u64 now = cpu->counters.instructions;
	if (svm_has(svm, FEATURE_PAUSE_THRESHOLD) && c->pause_threshold && now - svm->last_pause > c->pause_threshold)
		svm->pauses_left = c->pause_count;
	svm->last_pause = now;
	if (svm_has(svm, FEATURE_PAUSE_FILTER) && svm->pauses_left && --svm->pauses_left)
		return;
	svm_exit_insn(cpu, SVM_EXIT_PAUSE, 0, 0);
}

/* --- instructions without details --- */

/* The linear address of INVPCID's descriptor, and its type. */
static void invpcid(struct cpu *cpu, const struct insn *insn)
{
	u64 linear = insn_ea(cpu, insn) + cpu->seg_base[insn->seg];
	if (svm_intercepts(svm_of(cpu), SVM_EXIT_INVPCID))
		svm_exit_insn(cpu, SVM_EXIT_INVPCID, linear & linear_mask(cpu), cpu->reg[insn->dst]);
}

void svm_instruction(struct cpu *cpu, const struct insn *insn)
{
	int code = insn_row(insn)->svm_exit;
	switch (code) {
	case SVM_EXIT_IOIO:
	case SVM_EXIT_MSR:
	case SVM_EXIT_INVLPG:
	case SVM_EXIT_GDTR_READ:
	case SVM_EXIT_GDTR_WRITE:
	case SVM_EXIT_IDTR_READ:
	case SVM_EXIT_IDTR_WRITE:
	case SVM_EXIT_LDTR_READ:
	case SVM_EXIT_LDTR_WRITE:
	case SVM_EXIT_TR_READ:
	case SVM_EXIT_TR_WRITE:
		break; /* the handlers ask */
	case SVM_EXIT_PAUSE:
		pause(cpu);
		break;
	case SVM_EXIT_INVPCID:
		invpcid(cpu, insn);
		break;
	case SVM_EXIT_SWINT:
		exit_if_intercepted(cpu, SVM_EXIT_SWINT, insn->imm & 0xff);
		break;
	case SVM_EXIT_MWAIT:
		exit_if_intercepted(cpu, SVM_EXIT_MWAIT, 0);
		if (cpu->monitor_armed)
			exit_if_intercepted(cpu, SVM_EXIT_MWAIT_CONDITIONAL, 0);
		break;
	case SVM_EXIT_XSETBV:
		if (!(cpu->cr4 & CR4_OSXSAVE))
			cpu_raise(cpu, VEC_UD);
		exit_if_intercepted(cpu, SVM_EXIT_XSETBV, 0);
		break;
	default:
		exit_if_intercepted(cpu, (unsigned)code, 0);
		break;
	}
}

/* --- I/O (15.10) --- */

/* One bit a port, and three more behind the last. A map outside RAM reads as ones. */
static bool port_intercepted(const struct svm *svm, u32 port)
{
	u8 bits = 0xff;
	mem_read(svm->cpu->mem, (svm->vmcb.control.iopm & PAGE_MASK) + port / 8, &bits, 1);
	return bits >> (port & 7) & 1;
}

static bool io_intercepted(const struct svm *svm, u16 port, unsigned size)
{
	if (!svm_intercepts(svm, SVM_EXIT_IOIO))
		return false;
	for (u32 p = port; p < (u32)port + size; p++)
		if (port_intercepted(svm, p))
			return true;
	return false;
}

/*
 * EXITINFO1:  31:16 port  12:10 segment  9:7 address size 64/32/16  6:4 operand size 32/16/8  3 REP  2 string  0 IN
 */
void svm_io(struct cpu *cpu, const struct insn *insn, u16 port, unsigned size, bool in, u64 linear)
{
	if (likely(!io_intercepted(svm_of(cpu), port, size)))
		return;
	const char *name = insn_row(insn)->name; /* INSB or IN, OUTSB or OUT */
	bool string = name[in ? 2 : 3] == 'S';
	u64 info = (u64)port << 16 | (u64)(insn->adsize >> 1) << 7 | (u64)size << 4 | in;
	if (string)
		info |= BIT(2) | (u64)(in ? SEG_ES : insn->seg < SEG_COUNT ? insn->seg : SEG_DS) << 10;
	if (string && (insn->flags & (INSN_REP | INSN_REPNE)))
		info |= BIT(3);
	u64 next = cpu->rip_start + insn->length;
	svm_exit_insn(cpu, SVM_EXIT_IOIO, info, cpu->mode == CPU_LONG ? next : (u32)next);
}

/* --- MSRs (15.11) --- */

/* Three ranges of 8 Ki MSRs, two bits each: read, write. Others exit always. */
static bool msr_intercepted(const struct svm *svm, u32 msr, bool write)
{
	static const u32 bases[] = { 0, 0xc0000000, 0xc0010000 };
	for (unsigned i = 0; i < ARRAY_SIZE(bases); i++) {
		u32 n = msr - bases[i];
		if (n >= 0x2000)
			continue;
		u8 bits = 0xff;
		mem_read(svm->cpu->mem, (svm->vmcb.control.msrpm & PAGE_MASK) + i * 0x800 + n / 4, &bits, 1);
		return bits >> (n % 4 * 2 + write) & 1;
	}
	return true;
}

void svm_msr(struct cpu *cpu, u32 msr, bool write)
{
	const struct svm *svm = svm_of(cpu);
	if (svm_intercepts(svm, SVM_EXIT_MSR) && msr_intercepted(svm, msr, write))
		svm_exit_insn(cpu, SVM_EXIT_MSR, write, 0);
}

/* --- memory management, descriptor tables --- */

void svm_invlpg(struct cpu *cpu, u64 va)
{
	exit_if_intercepted(cpu, SVM_EXIT_INVLPG, va);
}

void svm_descriptor_table(struct cpu *cpu, const struct insn *insn, u64 displacement)
{
	exit_if_intercepted(cpu, (unsigned)insn_row(insn)->svm_exit, 0);
}

/* --- control and debug registers (15.8.1) --- */

#define INFO_MOV_CR BIT(63) /* MOV CR, with the general register in 3:0; otherwise CLTS, LMSW, SMSW */

void svm_dr_access(struct cpu *cpu, unsigned dr, bool write, unsigned gpr)
{
	exit_if_intercepted(cpu, (write ? SVM_EXIT_DR_WRITE : SVM_EXIT_DR_READ) + dr, gpr);
}

/* Is CR8 V_TPR (15.21.2, 15.29.4.1)? */
static bool has_vtpr(const struct svm *svm)
{
	return svm_int_ctl(svm, V_INTR_MASKING) || svm_avic(svm);
}

void svm_cr_read(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value)
{
	const struct svm *svm = svm_of(cpu);
	exit_if_intercepted(cpu, SVM_EXIT_CR_READ + cr, INFO_MOV_CR | gpr);
	if (cr == 8 && has_vtpr(svm))
		*value = svm->vmcb.control.int_ctl & V_TPR;
}

/* The instruction is done. */
static NORETURN void write_vtpr(struct cpu *cpu, struct svm *svm, u64 value)
{
	if (value > 15)
		cpu_raise_gp(cpu);
	if (svm_avic(svm))
		svm_avic_set_tpr(svm, (u8)(value << 4));
	else
		svm->vmcb.control.int_ctl = (svm->vmcb.control.int_ctl & ~(u32)V_TPR) | (u32)value;
	cpu_attend(cpu, ATTEND_HV);
	cpu_resume(cpu);
}

void svm_cr_write(struct cpu *cpu, unsigned cr, unsigned gpr, u64 *value)
{
	struct svm *svm = svm_of(cpu);
	exit_if_intercepted(cpu, SVM_EXIT_CR_WRITE + cr, INFO_MOV_CR | gpr);
	/* The selective intercept: anything but TS and MP changes. */
	if (cr == 0 && ((*value ^ cpu->cr0) & ~(CR0_TS | CR0_MP)))
		exit_if_intercepted(cpu, SVM_EXIT_CR0_SEL_WRITE, INFO_MOV_CR | gpr);
	if (cr == 8 && has_vtpr(svm))
		write_vtpr(cpu, svm, *value);
}

void svm_clts(struct cpu *cpu, u64 *value)
{
	exit_if_intercepted(cpu, SVM_EXIT_CR_WRITE, 0);
}

/* LMSW exits by the selective intercept whatever it writes. */
void svm_lmsw(struct cpu *cpu, u16 source, bool memory, u64 linear, u64 *value)
{
	exit_if_intercepted(cpu, SVM_EXIT_CR_WRITE, 0);
	exit_if_intercepted(cpu, SVM_EXIT_CR0_SEL_WRITE, 0);
}

u64 svm_cr0_shadowed(struct cpu *cpu)
{
	exit_if_intercepted(cpu, SVM_EXIT_CR_READ, 0);
	return cpu->cr0;
}

/* --- the rest --- */

/* EXITINFO2: the error code to push, and what kind of task switch it is (15.14.1). */
#define TASK_INFO_IRET  BIT(36)
#define TASK_INFO_JMP   BIT(38)
#define TASK_INFO_ERROR BIT(44)
#define TASK_INFO_RF    BIT(48)

/* RIP: of the instruction that asked for it; for other events, where the old task would go on. */
void svm_task_switch(struct cpu *cpu, u16 selector, unsigned source)
{
	enum { BY_IRET = 1, BY_JMP = 2 };
	const struct event *event = &cpu->vectoring;
	if (!svm_intercepts(svm_of(cpu), SVM_EXIT_TASK_SWITCH))
		return;
	u64 info = source == BY_IRET ? TASK_INFO_IRET : source == BY_JMP ? TASK_INFO_JMP : 0;
	if (event->valid && event->has_error)
		info |= TASK_INFO_ERROR | event->error;
	if (cpu_rflags(cpu) & RFLAGS_RF)
		info |= TASK_INFO_RF;
	svm_exit(cpu, &(struct svm_exit){
			      .code = SVM_EXIT_TASK_SWITCH,
			      .info1 = selector,
			      .info2 = info,
			      .rip = event->valid && !event_is_software(event) ? cpu->reg[REG_RIP] : cpu->rip_start,
		      });
}

/* 15.30.5: the ratio counts in guest mode alone. */
u64 svm_tsc(struct cpu *cpu, u64 root_tsc)
{
	const struct svm *svm = svm_of(cpu);
	unsigned __int128 scaled = (unsigned __int128)root_tsc * svm->tsc_ratio >> 32;
	return (u64)scaled + svm->vmcb.control.tsc_offset;
}
