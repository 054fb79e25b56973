/*
 * APIC virtualization (SDM vol. 3, 30): the virtual-APIC page that MOV CR8, accesses to the APIC-access page and x2APIC
 * MSRs reach, virtual interrupts, posted interrupts.
 */
#include "base/trace.h"
#include "hv/apic_page.h"
#include "hv/vmx/vmx.h"

/* --- the page --- */

static gpa_t page_of(const struct vmx *vmx)
{
	return vmx->vmcs.virtual_apic;
}

static u32 reg_read(const struct vmx *vmx, u64 reg)
{
	return apic_page_read(vmx->cpu->mem, page_of(vmx), reg);
}

static void reg_write(const struct vmx *vmx, u64 reg, u32 value)
{
	apic_page_write(vmx->cpu->mem, page_of(vmx), reg, value);
}

static void set_vector(const struct vmx *vmx, u64 base, u8 vector)
{
	apic_page_set_vector(vmx->cpu->mem, page_of(vmx), base, vector);
}

static void clear_vector(const struct vmx *vmx, u64 base, u8 vector)
{
	apic_page_clear_vector(vmx->cpu->mem, page_of(vmx), base, vector);
}

static u8 highest_vector(const struct vmx *vmx, u64 base)
{
	return apic_page_highest_vector(vmx->cpu->mem, page_of(vmx), base);
}

/* --- guest interrupt status: the requesting virtual interrupt below, the servicing one above --- */

static u8 rvi(const struct vmx *vmx)
{
	return (u8)vmx->vmcs.guest_interrupt_status;
}

static u8 svi(const struct vmx *vmx)
{
	return (u8)(vmx->vmcs.guest_interrupt_status >> 8);
}

static void set_rvi(struct vmx *vmx, u8 vector)
{
	vmx->vmcs.guest_interrupt_status = (u16)(svi(vmx) << 8 | vector);
}

static void set_svi(struct vmx *vmx, u8 vector)
{
	vmx->vmcs.guest_interrupt_status = (u16)(vector << 8 | rvi(vmx));
}

/* --- exits after the instruction --- */

static void exit_when_done(struct cpu *cpu, enum exit_reason reason, u64 qualification)
{
	struct vmx *vmx = vmx_of(cpu);
	vmx->apic_exit_due = true;
	vmx->apic_exit = reason;
	vmx->apic_exit_qualification = qualification;
	/* As a step: such exits come before debug traps. */
	cpu->hv_step = true;
	cpu_attend(cpu, ATTEND_HV);
}

void vmx_vapic_exit_if_due(struct cpu *cpu)
{
	const struct vmx *vmx = vmx_of(cpu);
	if (unlikely(vmx->apic_exit_due))
		vmx_exit_boundary(cpu, vmx->apic_exit, vmx->apic_exit_qualification);
}

/* --- virtual interrupts (30.1.3, 30.2) --- */

static bool delivers(const struct vmx *vmx)
{
	return vmx_cpu2(vmx, CPU2_VIRTUAL_INTERRUPTS);
}

static void virtualize_ppr(const struct vmx *vmx)
{
	reg_write(vmx, APIC_PPR, apic_ppr((u8)reg_read(vmx, APIC_TPR), svi(vmx)));
}

static void evaluate(struct cpu *cpu, struct vmx *vmx)
{
	u8 vppr = (u8)reg_read(vmx, APIC_PPR);
	vmx->virtual_interrupt = !vmx_cpu(vmx, CPU_INTERRUPT_WINDOW) && apic_lets_in(vppr, rvi(vmx));
	if (vmx->virtual_interrupt) {
		cpu->if_free = false;
		cpu_attend(cpu, ATTEND_HV);
	}
}

static void request(struct cpu *cpu, struct vmx *vmx, u8 vector)
{
	set_vector(vmx, APIC_IRR, vector);
	if (vector > rvi(vmx))
		set_rvi(vmx, vector);
	evaluate(cpu, vmx);
}

static void deliver(struct cpu *cpu, struct vmx *vmx)
{
	u8 vector = rvi(vmx);
	set_vector(vmx, APIC_ISR, vector);
	set_svi(vmx, vector);
	reg_write(vmx, APIC_PPR, vector & 0xf0);
	clear_vector(vmx, APIC_IRR, vector);
	set_rvi(vmx, highest_vector(vmx, APIC_IRR));
	vmx->virtual_interrupt = false;
	cpu->counters.interrupts++;
	TRACE(irq, "virtual interrupt %02x delivered at %llx", vector, (unsigned long long)cpu->reg[REG_RIP]);
	struct event e = { .valid = true, .vector = vector, .type = EVENT_INTERRUPT };
	cpu_deliver(cpu, &e);
}

bool vmx_virtual_event(struct cpu *cpu, bool shadow)
{
	struct vmx *vmx = vmx_of(cpu);
	if (likely(!vmx->virtual_interrupt) || cpu->activity == CPU_SHUTDOWN || cpu->activity == CPU_WAIT_SIPI)
		return false;
	/* Whoever sets IF in non-root operation asks for attention. */
	if (!(cpu->rflags_sys & RFLAGS_IF))
		return false;
	if (shadow) {
		cpu_attend(cpu, ATTEND_HV);
		return false;
	}
	deliver(cpu, vmx);
	return true;
}

void vmx_vapic_enter(struct cpu *cpu)
{
	struct vmx *vmx = vmx_of(cpu);
	if (!vmx_cpu(vmx, CPU_TPR_SHADOW))
		return;
	if (delivers(vmx)) {
		virtualize_ppr(vmx);
		evaluate(cpu, vmx);
	} else if (vmx_cpu2(vmx, CPU2_APIC_ACCESSES) &&
		   bits_get(reg_read(vmx, APIC_TPR), 7, 4) < (vmx->vmcs.tpr_threshold & 0xf)) {
		exit_when_done(cpu, EXIT_TPR_BELOW_THRESHOLD, 0);
	}
}

/* --- what writes do (30.1) --- */

static void virtualize_tpr(struct cpu *cpu, struct vmx *vmx)
{
	if (delivers(vmx)) {
		virtualize_ppr(vmx);
		evaluate(cpu, vmx);
	} else if (bits_get(reg_read(vmx, APIC_TPR), 7, 4) < (vmx->vmcs.tpr_threshold & 0xf)) {
		exit_when_done(cpu, EXIT_TPR_BELOW_THRESHOLD, 0);
	}
}

static void virtualize_eoi(struct cpu *cpu, struct vmx *vmx)
{
	const u64 exits[] = { vmx->vmcs.eoi_exit0, vmx->vmcs.eoi_exit1, vmx->vmcs.eoi_exit2, vmx->vmcs.eoi_exit3 };
	u8 vector = svi(vmx);
	clear_vector(vmx, APIC_ISR, vector);
	set_svi(vmx, highest_vector(vmx, APIC_ISR));
	virtualize_ppr(vmx);
	if (exits[vector / 64] >> vector % 64 & 1)
		exit_when_done(cpu, EXIT_VIRTUALIZED_EOI, vector);
	else
		evaluate(cpu, vmx);
}

/* An edge-triggered fixed interrupt to oneself of a vector that may be, and nothing reserved (30.4.3.2). */
static bool is_self_ipi(u32 icr)
{
	const u32 must_be_0 = (u32)(BITS(31, 20) | BITS(17, 15) | BITS(13, 12) | BITS(10, 8));
	return !(icr & must_be_0) && bits_get(icr, 19, 18) == 1 && (icr & 0xf0);
}

/*
 * A posted-interrupt descriptor: a bit for every vector, which other processors set, and how they tell of it: bits of
 * `control` are 0 "outstanding notification", 1 "suppress notification", 23:16 its vector, 63:32 its destination.
 */
struct posted_descriptor {
	u64 requests[4];
	u64 control;
	u64 unused[3];
};

#define POSTED_OUTSTANDING BIT(0)
#define POSTED_SUPPRESSED  BIT(1)

/* Before a descriptor changes, and behind that. NULL: it is not in RAM. */
static struct posted_descriptor *descriptor_begin(struct mem *mem, gpa_t at)
{
	struct posted_descriptor *d = (struct posted_descriptor *)mem_host(mem, at, sizeof(*d));
	if (d)
		mem_about_to_write(mem, mem_ram_offset(mem, at), sizeof(*d));
	return d;
}

static void descriptor_end(struct mem *mem, gpa_t at)
{
	mem_wrote(mem, mem_ram_offset(mem, at), sizeof(struct posted_descriptor));
}

/* A fixed, edge-triggered interrupt to one processor by its APIC ID. */
static bool is_unicast_ipi(u32 icr)
{
	return !(icr & (u32)(BITS(31, 15) | BITS(13, 8)));
}

/* true: the target must be told, as `control` says. */
static bool post(struct posted_descriptor *d, u8 vector, u64 *control)
{
	__atomic_fetch_or(&d->requests[vector / 64], 1ULL << vector % 64, __ATOMIC_SEQ_CST);
	*control = __atomic_load_n(&d->control, __ATOMIC_SEQ_CST);
	do
		if (*control & (POSTED_OUTSTANDING | POSTED_SUPPRESSED))
			return false;
	while (!__atomic_compare_exchange_n(&d->control, control, *control | POSTED_OUTSTANDING, false,
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
	return true;
}

/* IPI virtualization (30.1.6): posts to the descriptor that a table names by APIC ID. false: the hypervisor must. */
static bool virtualize_ipi(struct cpu *cpu, const struct vmx *vmx, u8 vector, u32 target)
{
	const struct vmcs *v = &vmx->vmcs;
	if (!vmx_cpu3(vmx, CPU3_IPI) || vector < 16 || target > v->last_pid_index)
		return false;
	u64 entry = mem_read_u64(cpu->mem, v->pid_table + target * 8ULL);
	if (!(entry & 1) || (entry & BITS(5, 1)) || !vmx_address_fits(vmx, entry))
		return false;
	struct posted_descriptor *d = descriptor_begin(cpu->mem, entry & ~1ULL);
	if (!d)
		return false;
	u64 control;
	bool notify = post(d, vector, &control);
	descriptor_end(cpu->mem, entry & ~1ULL);
	if (notify && cpu->platform->apic_send)
		cpu->platform->apic_send(cpu->platform->opaque, (u32)(control >> 32), (u8)(control >> 16));
	return true;
}

/* Interrupt command: what can be done without the hypervisor. */
static bool virtualize_icr(struct cpu *cpu, struct vmx *vmx, u32 icr, u32 target)
{
	if (delivers(vmx) && is_self_ipi(icr)) {
		request(cpu, vmx, (u8)icr);
		return true;
	}
	return is_unicast_ipi(icr) && virtualize_ipi(cpu, vmx, (u8)icr, target);
}

/* What follows a write to the page by an access to the APIC-access page (30.4.3.2). */
static void emulate_write(struct cpu *cpu, struct vmx *vmx, u64 reg)
{
	switch (reg) {
	case APIC_TPR:
		reg_write(vmx, APIC_TPR, (u8)reg_read(vmx, APIC_TPR));
		virtualize_tpr(cpu, vmx);
		return;
	case APIC_EOI:
		if (!delivers(vmx))
			break;
		reg_write(vmx, APIC_EOI, 0);
		virtualize_eoi(cpu, vmx);
		return;
	case APIC_ICR:
		if (!virtualize_icr(cpu, vmx, reg_read(vmx, APIC_ICR), reg_read(vmx, APIC_ICR_HIGH) >> 24))
			break;
		return;
	case APIC_ICR_HIGH:
		reg_write(vmx, APIC_ICR_HIGH, reg_read(vmx, APIC_ICR_HIGH) & 0xff000000);
		return;
	default:
		break;
	}
	exit_when_done(cpu, EXIT_APIC_WRITE, reg);
}

/* --- the APIC-access page (30.4) --- */

/* Registers that APIC-register virtualization lets be read. */
static bool is_readable(u64 reg)
{
	switch (reg) {
	case APIC_ID:
	case APIC_VERSION:
	case APIC_TPR:
	case APIC_EOI:
	case APIC_LDR:
	case APIC_DFR:
	case APIC_SVR:
	case APIC_ESR:
	case APIC_ICR:
	case APIC_ICR_HIGH:
	case APIC_TIMER_INITIAL:
	case APIC_TIMER_DIVIDE:
		return true;
	default:
		return (reg >= APIC_ISR && reg < APIC_ESR) || (reg >= APIC_LVT && reg <= APIC_LVT_LAST);
	}
}

static bool is_writable(u64 reg)
{
	return is_readable(reg) && reg != APIC_VERSION && (reg < APIC_ISR || reg >= APIC_ESR);
}

/* Is the access to a register of the page (30.4.2, 30.4.3.1)? */
static bool is_virtualized(const struct vmx *vmx, u64 offset, unsigned size, enum mmu_access access)
{
	u64 reg = offset & ~15ULL;
	bool all = vmx_cpu2(vmx, CPU2_APIC_REGISTERS), write = access == MMU_WRITE;
	if (!vmx_cpu(vmx, CPU_TPR_SHADOW) || access == MMU_EXEC || (offset & 15) + size > 4)
		return false;
	if (all && (write ? is_writable(reg) : is_readable(reg)))
		return true;
	if (write && (reg == APIC_ICR || reg == APIC_ICR_HIGH) && vmx_cpu3(vmx, CPU3_IPI))
		return true;
	return reg == APIC_TPR || (write && delivers(vmx) && (reg == APIC_EOI || reg == APIC_ICR));
}

void vmx_apic_access(struct cpu *cpu, u64 linear, u64 offset, unsigned size, enum mmu_access access)
{
	static const enum apic_access types[] = {
		[MMU_READ] = APIC_ACCESS_READ, [MMU_WRITE] = APIC_ACCESS_WRITE, [MMU_EXEC] = APIC_ACCESS_FETCH
	};
	bool delivery = cpu->vectoring.valid;
	if (!delivery && likely(is_virtualized(vmx_of(cpu), offset, size, access)))
		return;
	vmx_exit(cpu, &(struct vmx_exit){
			      .reason = EXIT_APIC_ACCESS,
			      .qualification = offset | (u64)(delivery ? APIC_ACCESS_EVENT : types[access]) << 12,
			      .rip = cpu->rip_start,
			      .linear = linear,
			      .length = delivery || access == MMU_EXEC ? 0 : cpu->insn->length,
			      .rf = RF_SET,
		      });
}

void vmx_apic_read(struct cpu *cpu, u64 offset, void *buffer, unsigned size)
{
	u32 value = reg_read(vmx_of(cpu), offset & ~15ULL) >> (offset & 3) * 8;
	for (unsigned i = 0; i < size; i++)
		((u8 *)buffer)[i] = (u8)(value >> i * 8);
}

void vmx_apic_write(struct cpu *cpu, u64 offset, const void *buffer, unsigned size)
{
	struct vmx *vmx = vmx_of(cpu);
	mem_write(cpu->mem, page_of(vmx) + offset, buffer, size);
	emulate_write(cpu, vmx, offset & ~15ULL);
}

/* --- MOV CR8 (30.3) and x2APIC MSRs (30.5) --- */

u64 vmx_vapic_read_cr8(struct cpu *cpu)
{
	return bits_get(reg_read(vmx_of(cpu), APIC_TPR), 7, 4);
}

void vmx_vapic_write_cr8(struct cpu *cpu, u64 value)
{
	struct vmx *vmx = vmx_of(cpu);
	reg_write(vmx, APIC_TPR, (u32)value << 4);
	virtualize_tpr(cpu, vmx);
	cpu_resume(cpu);
}

bool vmx_apic_msr_read(struct cpu *cpu, u32 msr, u64 *value)
{
	const struct vmx *vmx = vmx_of(cpu);
	u64 reg = apic_register_of_msr(msr);
	if (!vmx_cpu2(vmx, CPU2_X2APIC) || (reg != APIC_TPR && !vmx_cpu2(vmx, CPU2_APIC_REGISTERS)))
		return false;
	*value = mem_read_u64(cpu->mem, page_of(vmx) + reg);
	return true;
}

static bool takes_msr_write(const struct vmx *vmx, u64 reg)
{
	if (reg == APIC_ICR)
		return vmx_cpu3(vmx, CPU3_IPI);
	return reg == APIC_TPR || (delivers(vmx) && (reg == APIC_EOI || reg == APIC_SELF_IPI));
}

static u64 reserved_of(u64 reg)
{
	switch (reg) {
	case APIC_EOI:
		return ~0ULL;
	case APIC_ICR:
		return BITS(31, 20) | BITS(17, 16) | BIT(13);
	default:
		return BITS(63, 8);
	}
}

bool vmx_apic_msr_write(struct cpu *cpu, u32 msr, u64 value)
{
	struct vmx *vmx = vmx_of(cpu);
	u64 reg = apic_register_of_msr(msr);
	if (!vmx_cpu2(vmx, CPU2_X2APIC) || !takes_msr_write(vmx, reg))
		return false;
	if (value & reserved_of(reg))
		cpu_raise_gp(cpu);
	mem_write_u64(cpu->mem, page_of(vmx) + reg, value);
	bool done = true;
	if (reg == APIC_TPR)
		virtualize_tpr(cpu, vmx);
	else if (reg == APIC_EOI)
		virtualize_eoi(cpu, vmx);
	else if (reg == APIC_ICR)
		done = virtualize_icr(cpu, vmx, (u32)value, (u32)(value >> 32));
	else if ((done = value >> 4))
		request(cpu, vmx, (u8)value);
	if (!done)
		exit_when_done(cpu, EXIT_APIC_WRITE, reg);
	return true;
}

/* --- posted interrupts (30.6) --- */

static void take_posted(struct vmx *vmx, struct posted_descriptor *d)
{
	u8 highest = 0;
	for (unsigned i = 0; i < 4; i++) {
		u64 bits = __atomic_exchange_n(&d->requests[i], 0, __ATOMIC_SEQ_CST);
		if (!bits)
			continue;
		u64 reg = APIC_IRR + i * 32;
		reg_write(vmx, reg, reg_read(vmx, reg) | (u32)bits);
		reg_write(vmx, reg + 16, reg_read(vmx, reg + 16) | (u32)(bits >> 32));
		highest = (u8)(i * 64 + 63 - (unsigned)__builtin_clzll(bits));
	}
	if (highest > rvi(vmx))
		set_rvi(vmx, highest);
}

bool vmx_vapic_posted(struct cpu *cpu, u8 vector)
{
	struct vmx *vmx = vmx_of(cpu);
	if (!vmx_pin(vmx, PIN_POSTED_INTERRUPTS) || vector != vmx->vmcs.posted_vector)
		return false;
	gpa_t at = vmx->vmcs.posted_descriptor;
	struct posted_descriptor *d = descriptor_begin(cpu->mem, at);
	if (d)
		__atomic_fetch_and(&d->control, ~POSTED_OUTSTANDING, __ATOMIC_SEQ_CST);
	if (cpu->platform->apic_eoi)
		cpu->platform->apic_eoi(cpu->platform->opaque);
	if (d) {
		take_posted(vmx, d);
		descriptor_end(cpu->mem, at);
	}
	evaluate(cpu, vmx);
	cpu_attend(cpu, ATTEND_INTR); /* there may be another one */
	return true;
}
