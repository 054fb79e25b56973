/*
 * AVIC (APM vol. 2, 15.29): a guest's accesses to its APIC that need no hypervisor, in memory and by x2APIC MSRs; its
 * interrupts, and those it sends. The vAPIC backing page says what is pending, so that nothing of it is kept here.
 *
 * Tables and pages are guest memory, which other CPUs write meanwhile: each entry is read once and checked. One that
 * names no RAM is the hypervisor's affair (AVIC_INCOMPLETE_IPI).
 */
#include "chip/lapic.h"
#include "hv/apic_page.h"
#include "hv/svm/svm.h"

#include <string.h>

/* --- the backing page --- */

static gpa_t own_page(const struct svm *svm)
{
	return svm->vmcb.control.avic_backing_page & PAGE_MASK;
}

static u32 reg_read(const struct svm *svm, u64 reg)
{
	return apic_page_read(svm->cpu->mem, own_page(svm), reg);
}

static void reg_write(const struct svm *svm, u64 reg, u32 value)
{
	apic_page_write(svm->cpu->mem, own_page(svm), reg, value);
}

static u8 highest_vector(const struct svm *svm, u64 base)
{
	return apic_page_highest_vector(svm->cpu->mem, own_page(svm), base);
}

/* --- exits behind the instruction, which the manual calls traps --- */

static void exit_when_done(struct cpu *cpu, unsigned code, u64 info1, u64 info2)
{
	struct svm *svm = svm_of(cpu);
	svm->avic_exit_due = true;
	svm->avic_exit = (struct svm_exit){ .code = code, .info1 = info1, .info2 = info2 };
	/* As a step: before debug traps, which the VMCB could not keep for one that comes first. */
	cpu->hv_step = true;
	cpu_attend(cpu, ATTEND_HV);
}

void svm_avic_exit_if_due(struct cpu *cpu)
{
	struct svm *svm = svm_of(cpu);
	if (likely(!svm->avic_exit_due))
		return;
	svm->avic_exit.rip = cpu->reg[REG_RIP];
	svm_exit(cpu, &svm->avic_exit);
}

/* --- virtual interrupts (15.29.8.3) --- */

/*
 * V_TPR counts, not the page's TPR: they are the same unless the hypervisor changed one of them, for VMRUN compares
 * nothing.
 */
int svm_avic_pending(const struct svm *svm)
{
	u8 vector = highest_vector(svm, APIC_IRR);
	u8 tpr = (u8)((svm->vmcb.control.int_ctl & V_TPR) << 4);
	if (!vector || !apic_lets_in(apic_ppr(tpr, highest_vector(svm, APIC_ISR)), vector))
		return -1;
	return vector;
}

static void update_ppr(const struct svm *svm)
{
	reg_write(svm, APIC_PPR, apic_ppr((u8)reg_read(svm, APIC_TPR), highest_vector(svm, APIC_ISR)));
}

void svm_avic_accept(struct svm *svm, u8 vector)
{
	apic_page_clear_vector(svm->cpu->mem, own_page(svm), APIC_IRR, vector);
	apic_page_set_vector(svm->cpu->mem, own_page(svm), APIC_ISR, vector);
	update_ppr(svm);
}

/* --- TPR and EOI (15.29.3.1) --- */

void svm_avic_set_tpr(struct svm *svm, u8 tpr)
{
	svm->vmcb.control.int_ctl = (svm->vmcb.control.int_ctl & ~(u32)V_TPR) | tpr >> 4;
	reg_write(svm, APIC_TPR, tpr);
	update_ppr(svm);
}

/* A level-triggered interrupt is the hypervisor's to end: it stays in service. */
static void end_interrupt(struct cpu *cpu, const struct svm *svm)
{
	u8 vector = highest_vector(svm, APIC_ISR);
	if (vector && apic_page_has_vector(cpu->mem, own_page(svm), APIC_TMR, vector)) {
		exit_when_done(cpu, SVM_EXIT_AVIC_NOACCEL, APIC_EOI | AVIC_NOACCEL_WRITE, vector);
		return;
	}
	apic_page_clear_vector(cpu->mem, own_page(svm), APIC_ISR, vector);
	update_ppr(svm);
	cpu_attend(cpu, ATTEND_HV);
}

/* --- interprocessor interrupts (15.29.6.1, 15.29.9.1) --- */

#define ICR_DELIVERY_MODE BITS(10, 8) /* 0: fixed */
#define ICR_LOGICAL       BIT(11)
#define ICR_PENDING       BIT(12) /* "delivery status", read-only: it is sent at once */
#define ICR_LEVEL         BIT(15)

enum shorthand { NO_SHORTHAND, TO_SELF, TO_ALL, TO_OTHERS };

struct ipi {
	u64 icr; /* ICR high and ICR low */
	u32 destination;
	/* Those it names one by one: their physical APIC IDs, and which entry of a table says so. */
	unsigned count;
	struct {
		u32 id, index;
	} target[16];
	/* The first thing that keeps it from being complete. */
	bool incomplete;
	enum avic_ipi_fault fault;
	u32 index;
};

static void note_fault(struct ipi *ipi, enum avic_ipi_fault fault, u32 index)
{
	if (ipi->incomplete)
		return;
	ipi->incomplete = true;
	ipi->fault = fault;
	ipi->index = index;
}

static u32 last_id(const struct svm *svm)
{
	return (u32)(svm->vmcb.control.avic_physical & AVIC_MAX_INDEX);
}

static u64 physical_entry(const struct svm *svm, u32 id)
{
	return mem_read_u64(svm->cpu->mem, (svm->vmcb.control.avic_physical & PAGE_MASK) + id * 8ULL);
}

static bool page_is_ram(const struct svm *svm, u64 entry)
{
	return mem_host(svm->cpu->mem, entry & AVIC_ENTRY_PAGE, PAGE_SIZE) != NULL;
}

/* IsRunning counts once the interrupt is in the page: a hypervisor that ends it looks into the page behind that. */
static void send(struct cpu *cpu, const struct svm *svm, struct ipi *ipi, u32 id, u64 entry, u32 index)
{
	gpa_t page = entry & AVIC_ENTRY_PAGE;
	apic_page_set_vector(cpu->mem, page, APIC_IRR, (u8)ipi->icr);
	if (page == own_page(svm))
		cpu_attend(cpu, ATTEND_HV);
	entry = physical_entry(svm, id);
	if (!(entry & AVIC_ENTRY_RUNNING))
		note_fault(ipi, AVIC_IPI_NOT_RUNNING, index);
	else if (cpu->platform->doorbell)
		cpu->platform->doorbell(cpu->platform->opaque, (u32)(entry & AVIC_ENTRY_HOST_ID));
}

/* Entries that are not valid are passed over. */
static void broadcast(struct cpu *cpu, const struct svm *svm, struct ipi *ipi, bool others)
{
	for (u32 id = 0; id <= last_id(svm); id++) {
		u64 entry = physical_entry(svm, id);
		if (!(entry & AVIC_ENTRY_VALID) || (others && (entry & AVIC_ENTRY_PAGE) == own_page(svm)))
			continue;
		if (page_is_ram(svm, entry))
			send(cpu, svm, ipi, id, entry, id);
		else
			note_fault(ipi, AVIC_IPI_PAGE, id);
	}
}

static void add_target(struct ipi *ipi, u32 id, u32 index)
{
	ipi->target[ipi->count].id = id;
	ipi->target[ipi->count++].index = index;
}

/* The destination format is the sender's: 8 processors, or up to 15 clusters of four. */
static void find_logical(const struct svm *svm, struct ipi *ipi)
{
	bool flat = reg_read(svm, APIC_DFR) >> 28 == 0xf;
	u32 bits = flat ? ipi->destination : ipi->destination & 0xf, first = flat ? 0 : (ipi->destination >> 4) * 4;
	for (; bits; bits &= bits - 1) {
		u32 index = first + (u32)__builtin_ctz(bits);
		u32 entry = mem_read_u32(svm->cpu->mem, (svm->vmcb.control.avic_logical & PAGE_MASK) + index * 4ULL);
		if (entry & AVIC_LOGICAL_VALID)
			add_target(ipi, entry & AVIC_LOGICAL_ID, index);
		else
			note_fault(ipi, AVIC_IPI_TARGET, index);
	}
}

/* An x2APIC's logical ID is made of its ID: no table is needed (15.29.10). */
static void find_x2apic_logical(struct ipi *ipi)
{
	u32 first = ipi->destination >> 16 << 4;
	for (u32 bits = ipi->destination & 0xffff; bits; bits &= bits - 1)
		add_target(ipi, first + (u32)__builtin_ctz(bits), first + (u32)__builtin_ctz(bits));
}

static void find_targets(const struct svm *svm, struct ipi *ipi)
{
	if (!(ipi->icr & ICR_LOGICAL))
		add_target(ipi, ipi->destination, ipi->destination);
	else if (svm_x2avic(svm))
		find_x2apic_logical(ipi);
	else
		find_logical(svm, ipi);
}

/* All are looked up before the first is sent to: if one cannot be, the hypervisor sends to all. */
static void send_to_targets(struct cpu *cpu, const struct svm *svm, struct ipi *ipi)
{
	u64 entries[ARRAY_SIZE(ipi->target)];
	find_targets(svm, ipi);
	for (unsigned i = 0; i < ipi->count; i++) {
		u32 id = ipi->target[i].id;
		entries[i] = id <= last_id(svm) ? physical_entry(svm, id) : 0;
		if (!(entries[i] & AVIC_ENTRY_VALID))
			note_fault(ipi, AVIC_IPI_TARGET, ipi->target[i].index);
		else if (!page_is_ram(svm, entries[i]))
			note_fault(ipi, AVIC_IPI_PAGE, ipi->target[i].index);
	}
	if (ipi->incomplete)
		return;
	for (unsigned i = 0; i < ipi->count; i++)
		send(cpu, svm, ipi, ipi->target[i].id, entries[i], ipi->target[i].index);
}

static void deliver(struct cpu *cpu, const struct svm *svm, struct ipi *ipi)
{
	enum shorthand shorthand = (enum shorthand)bits_get(ipi->icr, 19, 18);
	u32 everybody = svm_x2avic(svm) ? ~0U : 0xff;
	if (ipi->icr & (ICR_DELIVERY_MODE | ICR_LEVEL)) {
		note_fault(ipi, AVIC_IPI_TYPE, 0);
	} else if ((u8)ipi->icr < 16) {
		note_fault(ipi, AVIC_IPI_VECTOR, 0);
	} else if (shorthand == TO_SELF) {
		apic_page_set_vector(cpu->mem, own_page(svm), APIC_IRR, (u8)ipi->icr);
		cpu_attend(cpu, ATTEND_HV);
	} else if (shorthand != NO_SHORTHAND || ipi->destination == everybody) {
		broadcast(cpu, svm, ipi, shorthand == TO_OTHERS);
	} else {
		send_to_targets(cpu, svm, ipi);
	}
}

static void send_ipi(struct cpu *cpu, const struct svm *svm, u64 icr)
{
	struct ipi ipi = { .icr = icr, .destination = (u32)(icr >> (svm_x2avic(svm) ? 32 : 56)) };
	deliver(cpu, svm, &ipi);
	if (ipi.incomplete)
		exit_when_done(cpu, SVM_EXIT_AVIC_INCOMPLETE_IPI, icr, (u64)ipi.fault << 32 | (ipi.index & 0xfff));
}

/* --- accesses to registers (table 15-22) --- */

enum treatment { ALLOWED, TRAPS, FAULTS };

static enum treatment treatment_of_read(u64 reg)
{
	switch (reg) {
	case APIC_APR:
	case APIC_TIMER_CURRENT:
	case 0x400 ... 0x420: /* extended features, their control, specific EOI */
	case 0x480 ... 0xff0: /* interrupt enable, extended LVT, reserved */
		return FAULTS;
	default:
		return ALLOWED;
	}
}

static enum treatment treatment_of_write(u64 reg)
{
	switch (reg) {
	case APIC_VERSION:
	case APIC_PPR:
	case APIC_ISR ... APIC_ESR - 16:
		return FAULTS;
	case APIC_ID:
	case APIC_REMOTE_READ:
	case APIC_LDR:
	case APIC_DFR:
	case APIC_SVR:
	case APIC_ESR:
	case APIC_LVT ... APIC_LVT_LAST:
	case APIC_TIMER_INITIAL:
	case APIC_TIMER_DIVIDE:
		return TRAPS;
	default:
		return treatment_of_read(reg);
	}
}

static NORETURN void fault(struct cpu *cpu, u64 reg, bool write)
{
	svm_exit(cpu, &(struct svm_exit){
			      .code = SVM_EXIT_AVIC_NOACCEL,
			      .info1 = reg | (write ? AVIC_NOACCEL_WRITE : 0),
			      .rip = cpu->rip_start,
		      });
}

/* The register has its new value. */
static void written(struct cpu *cpu, struct svm *svm, u64 reg)
{
	switch (reg) {
	case APIC_TPR:
		svm_avic_set_tpr(svm, (u8)reg_read(svm, APIC_TPR));
		cpu_attend(cpu, ATTEND_HV);
		break;
	case APIC_EOI:
		end_interrupt(cpu, svm);
		break;
	case APIC_ICR:
		reg_write(svm, APIC_ICR, reg_read(svm, APIC_ICR) & ~(u32)ICR_PENDING);
		send_ipi(cpu, svm, (u64)reg_read(svm, APIC_ICR_HIGH) << 32 | reg_read(svm, APIC_ICR));
		break;
	default:
		if (treatment_of_write(reg) == TRAPS)
			exit_when_done(cpu, SVM_EXIT_AVIC_NOACCEL, reg | AVIC_NOACCEL_WRITE, 0);
		break;
	}
}

/* --- in memory (15.29.3) --- */

/* What is no register is not defined: it can be read as memory, and is the hypervisor's to write or to execute. */
void svm_apic_access(struct cpu *cpu, u64 linear, u64 offset, unsigned size, enum mmu_access access)
{
	u64 reg = offset & ~15ULL;
	bool write = access == MMU_WRITE, in_register = (offset & 15) + size <= 4;
	enum treatment treatment = write ? treatment_of_write(reg) : treatment_of_read(reg);
	if (treatment == FAULTS || (write && !in_register) || access == MMU_EXEC)
		fault(cpu, reg, write);
}

void svm_apic_read(struct cpu *cpu, u64 offset, void *buffer, unsigned size)
{
	if (!mem_read(cpu->mem, own_page(svm_of(cpu)) + offset, buffer, size))
		memset(buffer, 0xff, size);
}

void svm_apic_write(struct cpu *cpu, u64 offset, const void *buffer, unsigned size)
{
	struct svm *svm = svm_of(cpu);
	mem_write(cpu->mem, own_page(svm) + offset, buffer, size);
	written(cpu, svm, offset & ~15ULL);
}

/* --- by x2APIC MSRs (15.29.10), whose own checks come first --- */

bool svm_apic_msr_read(struct cpu *cpu, u32 msr, u64 *value)
{
	const struct svm *svm = svm_of(cpu);
	u64 reg = apic_register_of_msr(msr);
	if (!svm_x2avic(svm))
		return false;
	if (!lapic_x2apic_readable(msr))
		cpu_raise_gp(cpu);
	if (treatment_of_read(reg) == FAULTS)
		fault(cpu, reg, false);
	*value = reg_read(svm, reg);
	if (reg == APIC_ICR)
		*value |= (u64)reg_read(svm, APIC_ICR_HIGH) << 32;
	return true;
}

bool svm_apic_msr_write(struct cpu *cpu, u32 msr, u64 value)
{
	struct svm *svm = svm_of(cpu);
	u64 reg = apic_register_of_msr(msr);
	if (!svm_x2avic(svm))
		return false;
	if (!lapic_x2apic_takes(msr, value))
		cpu_raise_gp(cpu);
	if (reg == APIC_SELF_IPI) {
		send_ipi(cpu, svm, (u8)value | (u64)TO_SELF << 18);
		return true;
	}
	if (reg == APIC_ICR)
		reg_write(svm, APIC_ICR_HIGH, (u32)(value >> 32));
	reg_write(svm, reg, (u32)value);
	written(cpu, svm, reg);
	return true;
}
