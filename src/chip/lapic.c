#include "chip/lapic.h"

#include "base/trace.h"
#include "chip/lapic_timer.h"

#include <string.h>

/* Registers: byte offset in the page / 16, and MSR - 800h (SDM vol. 3, tables 11-1 and 11-6). */
enum {
	REG_ID = 0x02,
	REG_VERSION = 0x03,
	REG_TPR = 0x08,
	REG_APR = 0x09,
	REG_PPR = 0x0a,
	REG_EOI = 0x0b,
	REG_RRD = 0x0c,
	REG_LDR = 0x0d,
	REG_DFR = 0x0e,
	REG_SVR = 0x0f,
	REG_ISR = 0x10,
	REG_TMR = 0x18,
	REG_IRR = 0x20,
	REG_ESR = 0x28,
	REG_ICR = 0x30,
	REG_ICR_HIGH = 0x31,
	REG_LVT_TIMER = 0x32,
	REG_LVT_THERMAL = 0x33,
	REG_LVT_PERF = 0x34,
	REG_LVT_LINT0 = 0x35,
	REG_LVT_LINT1 = 0x36,
	REG_LVT_ERROR = 0x37,
	REG_TIMER_INITIAL = 0x38,
	REG_TIMER_CURRENT = 0x39,
	REG_TIMER_DIVIDE = 0x3e,
	REG_SELF_IPI = 0x3f,
	REG_COUNT
};

enum { MSR_APIC_BASE = 0x1b, MSR_TSC_DEADLINE = 0x6e0, MSR_X2APIC = 0x800 };

#define BASE_BSP    BIT(8)
#define BASE_EXTD   BIT(10)
#define BASE_ENABLE BIT(11)
#define BASE_LOW    (BITS(7, 0) | BIT(9)) /* reserved */

#define SVR_ENABLE           BIT(8)
#define SVR_NO_EOI_BROADCAST BIT(12)
#define SVR_WRITABLE         (BITS(8, 0) | SVR_NO_EOI_BROADCAST)

/* Version 14h, highest LVT entry 5, EOI broadcast can be suppressed. */
#define VERSION (0x14u | (LVT_COUNT - 1) << 16 | 1u << 24)

#define LVT_DELIVERY(lvt) ((lvt) >> 8 & 7)
#define LVT_REMOTE_IRR    BIT(14)
#define LVT_LEVEL         BIT(15)

enum { ERROR_SEND_VECTOR = 0x20, ERROR_RECEIVE_VECTOR = 0x40, ERROR_REGISTER = 0x80 };

#define ICR_LOGICAL   BIT(11)
#define ICR_ASSERT    BIT(14)
#define ICR_LEVEL     BIT(15)
#define ICR_SHORTHAND BITS(19, 18)
#define ICR_SELF      (1u << 18)
#define ICR_ALL       (2u << 18)
#define ICR_OTHERS    (3u << 18)
#define ICR_WRITABLE  (BITS(11, 0) | ICR_ASSERT | ICR_LEVEL | ICR_SHORTHAND)

static const u32 lvt_writable[LVT_COUNT] = {
	[LVT_TIMER] = 0xff | LVT_MASKED | LVT_TIMER_MODE_MASK,
	[LVT_THERMAL] = 0x7ff | LVT_MASKED,
	[LVT_PERF] = 0x7ff | LVT_MASKED,
	[LVT_LINT0] = 0x7ff | BIT(13) | LVT_LEVEL | LVT_MASKED,
	[LVT_LINT1] = 0x7ff | BIT(13) | LVT_LEVEL | LVT_MASKED,
	[LVT_ERROR] = 0xff | LVT_MASKED,
};

/* --- vectors and priorities (SDM vol. 3, 11.8) --- */

static bool vector_test(const u32 set[8], u8 vector)
{
	return set[vector / 32] >> vector % 32 & 1;
}

static void vector_set(u32 set[8], u8 vector)
{
	set[vector / 32] |= 1u << vector % 32;
}

static void vector_clear(u32 set[8], u8 vector)
{
	set[vector / 32] &= ~(1u << vector % 32);
}

static int vector_highest(const u32 set[8])
{
	for (int i = 7; i >= 0; i--)
		if (set[i])
			return i * 32 + 31 - __builtin_clz(set[i]);
	return -1;
}

u8 lapic_ppr(const struct lapic *lapic)
{
	u8 in_service = lapic->isr_top < 0 ? 0 : (u8)lapic->isr_top & 0xf0;
	return (lapic->tpr & 0xf0) >= in_service ? lapic->tpr : in_service;
}

int lapic_pending_vector(const struct lapic *lapic)
{
	int vector = vector_highest(lapic->irr);
	return vector >= 0 && (vector & 0xf0) > (lapic_ppr(lapic) & 0xf0) ? vector : -1;
}

static bool extint_pending(const struct lapic *lapic)
{
	if (!lapic->lint[0])
		return lapic->extint_message;
	/* With the APIC off, LINT0 is the CPU's INTR pin. */
	if (!lapic->enabled)
		return true;
	u32 lvt = lapic->lvt[LVT_LINT0];
	return lapic->extint_message || (!(lvt & LVT_MASKED) && LVT_DELIVERY(lvt) == APIC_EXTINT);
}

static void update(struct lapic *lapic)
{
	bool deliverable = extint_pending(lapic) || lapic_pending_vector(lapic) >= 0;
	if (deliverable == lapic->deliverable)
		return;
	__atomic_store_n(&lapic->deliverable, deliverable, __ATOMIC_RELAXED);
	if (deliverable && lapic->cpu.intr_changed)
		lapic->cpu.intr_changed(lapic->cpu_opaque);
}

int lapic_ack_interrupt(struct lapic *lapic)
{
	int vector;

	if (extint_pending(lapic) && lapic->bus->extint_ack) {
		lapic->extint_message = false;
		vector = lapic->bus->extint_ack(lapic->bus->extint_opaque);
	} else {
		vector = lapic_pending_vector(lapic);
		if (vector >= 0) {
			vector_clear(lapic->irr, (u8)vector);
			vector_set(lapic->isr, (u8)vector);
			lapic->isr_top = vector;
		}
	}
	update(lapic);
	return vector;
}

u8 lapic_cr8_read(const struct lapic *lapic)
{
	return lapic->tpr >> 4;
}

void lapic_cr8_write(struct lapic *lapic, u8 value)
{
	lapic->tpr = (u8)(value << 4);
	update(lapic);
}

/* --- accepting interrupts --- */

static bool accept_vector(struct lapic *lapic, u8 vector, bool level);

static void raise_error(struct lapic *lapic, u32 bit)
{
	u32 lvt = lapic->lvt[LVT_ERROR];

	lapic->esr_pending |= bit;
	/* An error interrupt whose own vector is illegal must not raise another one. */
	if (!(lvt & LVT_MASKED) && (lvt & 0xff) >= 16)
		accept_vector(lapic, (u8)lvt, false);
}

static bool accept_vector(struct lapic *lapic, u8 vector, bool level)
{
	if (!lapic->enabled || !(lapic->svr & SVR_ENABLE))
		return false;
	if (vector < 16) {
		raise_error(lapic, ERROR_RECEIVE_VECTOR);
		return false;
	}
	vector_set(lapic->irr, vector);
	if (level)
		vector_set(lapic->tmr, vector);
	else
		vector_clear(lapic->tmr, vector);
	update(lapic);
	return true;
}

static void tell(const struct lapic *lapic, void (*cpu_function)(void *opaque))
{
	if (cpu_function)
		cpu_function(lapic->cpu_opaque);
}

static bool accept(struct lapic *lapic, unsigned delivery, u8 vector, bool level)
{
	switch (delivery) {
	case APIC_FIXED:
	case APIC_LOWEST:
		return accept_vector(lapic, vector, level);
	case APIC_SMI:
		tell(lapic, lapic->cpu.smi);
		return true;
	case APIC_NMI:
		tell(lapic, lapic->cpu.nmi);
		return true;
	case APIC_INIT:
		tell(lapic, lapic->cpu.init);
		return true;
	case APIC_STARTUP:
		if (lapic->cpu.sipi)
			lapic->cpu.sipi(lapic->cpu_opaque, vector);
		return true;
	case APIC_EXTINT:
		lapic->extint_message = true;
		update(lapic);
		return true;
	default:
		return false;
	}
}

bool lapic_accept(struct lapic *lapic, const struct apic_message *message)
{
	TRACE(irq, "lapic %u: delivery mode %u, vector 0x%02x%s", lapic->id, message->delivery, message->vector,
	      message->level ? ", level" : "");
	return lapic->enabled && accept(lapic, message->delivery, message->vector, message->level);
}

/* Logical address of an x2APIC (SDM vol. 3, 11.12.10.2). */
static u32 x2apic_ldr(const struct lapic *lapic)
{
	return (lapic->id & ~15u) << 12 | 1u << (lapic->id & 15);
}

static bool is_logical_destination(const struct lapic *lapic, u32 destination)
{
	if (lapic->x2apic) {
		u32 ldr = x2apic_ldr(lapic);
		return destination >> 16 == ldr >> 16 && (destination & ldr & 0xffff);
	}
	if (destination > 0xff)
		return false;
	u32 ldr = lapic->ldr >> 24;
	if (destination == 0xff)
		return true;
	if (lapic->dfr >> 28 == 0xf) /* flat model */
		return destination & ldr;
	if (lapic->dfr >> 28 == 0) /* cluster model */
		return destination >> 4 == ldr >> 4 && (destination & ldr & 0xf);
	return false;
}

bool lapic_is_destination(const struct lapic *lapic, const struct apic_message *message)
{
	if (!lapic->enabled || lapic == message->except)
		return false;
	if (message->broadcast)
		return true;
	if (message->logical)
		return is_logical_destination(lapic, message->destination);
	return message->destination == (lapic->x2apic ? lapic->id : lapic->xapic_id);
}

/* --- local sources --- */

void lapic_timer_expired(struct lapic *lapic)
{
	u32 lvt = lapic->lvt[LVT_TIMER];
	if (!(lvt & LVT_MASKED))
		accept_vector(lapic, (u8)lvt, false);
}

void lapic_counter_overflow(struct lapic *lapic, bool masks)
{
	u32 *lvt = &lapic->lvt[LVT_PERF];
	if (!lapic->enabled || (*lvt & LVT_MASKED))
		return;
	if (masks)
		*lvt |= LVT_MASKED;
	accept(lapic, LVT_DELIVERY(*lvt), (u8)*lvt, false);
}

/* Only LINT0 in fixed mode can be level-triggered (SDM vol. 3, 11.5.1). */
static bool lint_is_level(const struct lapic *lapic, unsigned pin)
{
	u32 lvt = lapic->lvt[LVT_LINT0 + pin];
	return pin == 0 && LVT_DELIVERY(lvt) == APIC_FIXED && (lvt & LVT_LEVEL);
}

static void lint_deliver(struct lapic *lapic, unsigned pin)
{
	u32 *lvt = &lapic->lvt[LVT_LINT0 + pin];
	bool level = lint_is_level(lapic, pin);

	if ((*lvt & LVT_MASKED) || (level && (*lvt & LVT_REMOTE_IRR)))
		return;
	if (accept(lapic, LVT_DELIVERY(*lvt), (u8)*lvt, level) && level)
		*lvt |= LVT_REMOTE_IRR;
}

void lapic_set_lint(struct lapic *lapic, unsigned pin, bool level)
{
	bool rises = level && !lapic->lint[pin];

	lapic->lint[pin] = level;
	if (!lapic->enabled) {
		if (pin == 1 && rises)
			tell(lapic, lapic->cpu.nmi);
	} else if (LVT_DELIVERY(lapic->lvt[LVT_LINT0 + pin]) != APIC_EXTINT && rises) {
		lint_deliver(lapic, pin);
	}
	/* ExtINT follows the line. */
	update(lapic);
}

/* --- commands --- */

void lapic_eoi(struct lapic *lapic)
{
	if (lapic->isr_top < 0)
		return;
	u8 vector = (u8)lapic->isr_top;
	vector_clear(lapic->isr, vector);
	lapic->isr_top = vector_highest(lapic->isr);
	if (unlikely(vector_test(lapic->tmr, vector))) {
		u32 *lint0 = &lapic->lvt[LVT_LINT0];
		if ((*lint0 & LVT_REMOTE_IRR) && (u8)*lint0 == vector) {
			*lint0 &= ~LVT_REMOTE_IRR;
			if (lapic->lint[0])
				lint_deliver(lapic, 0);
		}
		if (!(lapic->svr & SVR_NO_EOI_BROADCAST))
			apic_bus_eoi(lapic->bus, vector);
	}
	update(lapic);
}

static void send_ipi(struct lapic *lapic)
{
	u32 icr = (u32)lapic->icr;
	u32 shorthand = icr & ICR_SHORTHAND;
	struct apic_message message = {
		.destination = lapic->x2apic ? (u32)(lapic->icr >> 32) : (u32)(lapic->icr >> 56),
		.logical = icr & ICR_LOGICAL,
		.delivery = icr >> 8 & 7,
		.vector = (u8)icr,
		.except = shorthand == ICR_OTHERS ? lapic : NULL,
	};
	bool has_vector = message.delivery == APIC_FIXED || message.delivery == APIC_LOWEST;

	message.broadcast = shorthand == ICR_ALL || shorthand == ICR_OTHERS ||
			    message.destination == (lapic->x2apic ? 0xffffffff : 0xff);
	if (has_vector && message.vector < 16)
		raise_error(lapic, ERROR_SEND_VECTOR);
	/* INIT level de-assert only mattered to the APICs of the Pentium (SDM vol. 3, 11.4.4). */
	if (message.delivery == APIC_INIT && (icr & ICR_LEVEL) && !(icr & ICR_ASSERT))
		return;
	if (shorthand == ICR_SELF)
		lapic_accept(lapic, &message);
	else
		apic_bus_deliver(lapic->bus, &message);
}

void lapic_send(struct lapic *lapic, u32 destination, u8 vector)
{
	u32 id = lapic->x2apic ? destination : destination >> 8 & 0xff;
	const struct apic_message message = { .destination = id, .delivery = APIC_FIXED, .vector = vector };
	apic_bus_deliver(lapic->bus, &message);
}

static void write_svr(struct lapic *lapic, u32 value)
{
	lapic->svr = value & SVR_WRITABLE;
	if (!(lapic->svr & SVR_ENABLE)) {
		/* A software-disabled APIC has all its LVT entries masked, and they cannot be unmasked (11.4.7.2). */
		for (unsigned i = 0; i < LVT_COUNT; i++)
			if (i != LVT_TIMER)
				lapic->lvt[i] |= LVT_MASKED;
		lapic_timer_write_lvt(lapic, lapic->lvt[LVT_TIMER] | LVT_MASKED);
	}
	update(lapic);
}

static void write_lvt(struct lapic *lapic, enum lapic_lvt index, u32 value)
{
	value &= lvt_writable[index];
	if (!(lapic->svr & SVR_ENABLE))
		value |= LVT_MASKED;
	if (index == LVT_TIMER) {
		lapic_timer_write_lvt(lapic, value);
		return;
	}
	lapic->lvt[index] = value | (lapic->lvt[index] & LVT_REMOTE_IRR);
	if (index == LVT_LINT0) {
		if (!lint_is_level(lapic, 0))
			lapic->lvt[LVT_LINT0] &= ~LVT_REMOTE_IRR;
		else if (lapic->lint[0])
			lint_deliver(lapic, 0);
	}
	update(lapic);
}

/* --- registers --- */

/* Does register `reg` exist in xAPIC (page) or x2APIC (MSR) mode? */
static bool reg_exists(unsigned reg, bool x2apic)
{
	if (reg >= REG_ISR && reg < REG_ESR)
		return true;
	switch (reg) {
	case REG_APR:
	case REG_RRD:
	case REG_DFR:
	case REG_ICR_HIGH:
		return !x2apic;
	case REG_SELF_IPI:
		return x2apic;
	case REG_ID:
	case REG_VERSION:
	case REG_TPR:
	case REG_PPR:
	case REG_EOI:
	case REG_LDR:
	case REG_SVR:
	case REG_ESR:
	case REG_ICR:
	case REG_TIMER_DIVIDE:
		return true;
	default:
		return reg >= REG_LVT_TIMER && reg <= REG_TIMER_CURRENT;
	}
}

static u32 reg_read(struct lapic *lapic, unsigned reg)
{
	switch (reg) {
	case REG_ID:
		return lapic->x2apic ? lapic->id : (u32)lapic->xapic_id << 24;
	case REG_VERSION:
		return VERSION;
	case REG_TPR:
		return lapic->tpr;
	case REG_PPR:
		return lapic_ppr(lapic);
	case REG_LDR:
		return lapic->x2apic ? x2apic_ldr(lapic) : lapic->ldr;
	case REG_DFR:
		return lapic->dfr;
	case REG_SVR:
		return lapic->svr;
	case REG_ISR ... REG_ISR + 7:
		return lapic->isr[reg - REG_ISR];
	case REG_TMR ... REG_TMR + 7:
		return lapic->tmr[reg - REG_TMR];
	case REG_IRR ... REG_IRR + 7:
		return lapic->irr[reg - REG_IRR];
	case REG_ESR:
		return lapic->esr;
	case REG_ICR:
		return (u32)lapic->icr;
	case REG_ICR_HIGH:
		return (u32)(lapic->icr >> 32);
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		return lapic->lvt[reg - REG_LVT_TIMER];
	case REG_TIMER_INITIAL:
		return lapic->timer_initial;
	case REG_TIMER_CURRENT:
		return lapic_timer_current(lapic);
	case REG_TIMER_DIVIDE:
		return lapic->timer_divide;
	default: /* write-only, and those that newer APICs read as 0 (APR, RRD) */
		return 0;
	}
}

static void reg_write(struct lapic *lapic, unsigned reg, u32 value)
{
	switch (reg) {
	case REG_ID:
		lapic->xapic_id = (u8)(value >> 24);
		break;
	case REG_TPR:
		lapic->tpr = (u8)value;
		update(lapic);
		break;
	case REG_EOI:
		lapic_eoi(lapic);
		break;
	case REG_LDR:
		lapic->ldr = value & 0xff000000;
		break;
	case REG_DFR:
		lapic->dfr = value | 0x0fffffff;
		break;
	case REG_SVR:
		write_svr(lapic, value);
		break;
	case REG_ESR:
		lapic->esr = lapic->esr_pending;
		lapic->esr_pending = 0;
		break;
	case REG_ICR:
		lapic->icr = (lapic->icr & BITS(63, 32)) | (value & ICR_WRITABLE);
		send_ipi(lapic);
		break;
	case REG_ICR_HIGH:
		lapic->icr = (lapic->icr & BITS(31, 0)) | (u64)(value & 0xff000000) << 32;
		break;
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		write_lvt(lapic, (enum lapic_lvt)(reg - REG_LVT_TIMER), value);
		break;
	case REG_TIMER_INITIAL:
		lapic_timer_write_initial(lapic, value);
		break;
	case REG_TIMER_DIVIDE:
		lapic_timer_write_divide(lapic, value);
		break;
	default: /* read-only */
		break;
	}
}

u32 lapic_page_read(struct lapic *lapic, u32 offset, unsigned size)
{
	if (!lapic->enabled || lapic->x2apic)
		return 0xffffffff;
	if (size != 4 || offset % 16 || offset >= LAPIC_PAGE_SIZE)
		return 0;
	if (!reg_exists(offset / 16, false)) {
		raise_error(lapic, ERROR_REGISTER);
		return 0;
	}
	return reg_read(lapic, offset / 16);
}

void lapic_page_write(struct lapic *lapic, u32 offset, unsigned size, u32 value)
{
	if (!lapic->enabled || lapic->x2apic || size != 4 || offset % 16 || offset >= LAPIC_PAGE_SIZE)
		return;
	if (reg_exists(offset / 16, false))
		reg_write(lapic, offset / 16, value);
	else
		raise_error(lapic, ERROR_REGISTER);
}

/* Bits a WRMSR may set in x2APIC mode (SDM vol. 3, 11.12.1.2 and the register layouts); others raise #GP. */
static u64 x2apic_writable(unsigned reg)
{
	switch (reg) {
	case REG_TPR:
	case REG_SELF_IPI:
		return 0xff;
	case REG_SVR:
		return SVR_WRITABLE;
	case REG_ICR:
		return BITS(63, 32) | ICR_WRITABLE;
	case REG_LVT_TIMER ... REG_LVT_ERROR:
		/* Read-only bits (delivery status, remote IRR) may come back as they were read. */
		return lvt_writable[reg - REG_LVT_TIMER] | BIT(12) | LVT_REMOTE_IRR;
	case REG_TIMER_INITIAL:
		return BITS(31, 0);
	case REG_TIMER_DIVIDE:
		return 0xb;
	default: /* EOI and ESR take only 0 */
		return 0;
	}
}

static bool x2apic_is_writable(unsigned reg)
{
	switch (reg) {
	case REG_TPR:
	case REG_EOI:
	case REG_SVR:
	case REG_ESR:
	case REG_ICR:
	case REG_LVT_TIMER ... REG_LVT_ERROR:
	case REG_TIMER_INITIAL:
	case REG_TIMER_DIVIDE:
	case REG_SELF_IPI:
		return true;
	default:
		return false;
	}
}

static bool x2apic_is_readable(unsigned reg)
{
	return reg_exists(reg, true) && reg != REG_EOI && reg != REG_SELF_IPI;
}

bool lapic_x2apic_readable(u32 msr)
{
	return x2apic_is_readable(msr - MSR_X2APIC);
}

bool lapic_x2apic_takes(u32 msr, u64 value)
{
	unsigned reg = msr - MSR_X2APIC;
	return x2apic_is_writable(reg) && !(value & ~x2apic_writable(reg));
}

static bool x2apic_read(struct lapic *lapic, unsigned reg, u64 *value)
{
	if (!lapic->x2apic || !x2apic_is_readable(reg))
		return false;
	*value = reg == REG_ICR ? lapic->icr : reg_read(lapic, reg);
	return true;
}

static bool x2apic_write(struct lapic *lapic, unsigned reg, u64 value)
{
	if (!lapic->x2apic)
		return false;
	/* First, since a guest does it for every interrupt. */
	if (likely(reg == REG_EOI && value == 0)) {
		lapic_eoi(lapic);
		return true;
	}
	if (!x2apic_is_writable(reg) || (value & ~x2apic_writable(reg)))
		return false;
	if (reg == REG_ICR) {
		lapic->icr = value;
		send_ipi(lapic);
	} else if (reg == REG_SELF_IPI) {
		if (value < 16)
			raise_error(lapic, ERROR_SEND_VECTOR);
		accept_vector(lapic, (u8)value, false);
	} else {
		reg_write(lapic, reg, (u32)value);
	}
	return true;
}

/* --- IA32_APIC_BASE (SDM vol. 3, 11.12.5) --- */

/* Everything but the ID and IA32_APIC_BASE, as after INIT (11.4.7.3). */
static void reset_registers(struct lapic *lapic)
{
	lapic->tpr = 0;
	memset(lapic->isr, 0, sizeof(lapic->isr));
	memset(lapic->irr, 0, sizeof(lapic->irr));
	memset(lapic->tmr, 0, sizeof(lapic->tmr));
	lapic->isr_top = -1;
	lapic->ldr = 0;
	lapic->dfr = 0xffffffff;
	lapic->svr = 0xff;
	lapic->esr = lapic->esr_pending = 0;
	lapic->icr = 0;
	for (unsigned i = 0; i < LVT_COUNT; i++)
		lapic->lvt[i] = LVT_MASKED;
	lapic->extint_message = false;
	lapic_timer_reset(lapic);
	update(lapic);
}

static u64 page_base(u64 base)
{
	return (base & BASE_ENABLE) && !(base & BASE_EXTD) ? base & ~BITS(11, 0) : 0;
}

static void set_base(struct lapic *lapic, u64 value)
{
	u64 old = lapic->base;

	lapic->base = value;
	lapic->enabled = value & BASE_ENABLE;
	lapic->x2apic = value & BASE_EXTD;
	if (page_base(old) != page_base(value) && lapic->bus->page_moved)
		lapic->bus->page_moved(lapic->bus->page_moved_opaque, lapic, page_base(old), page_base(value));
}

static bool write_base(struct lapic *lapic, u64 value)
{
	u64 old = lapic->base;
	u64 reserved = BASE_LOW | ~BITS(lapic->phys_bits - 1, 0) | (lapic->has_x2apic ? 0 : BASE_EXTD);

	if (value & reserved)
		return false;
	if ((value & BASE_EXTD) && !(value & BASE_ENABLE))
		return false;
	/* Into x2APIC only from xAPIC, out of it only by disabling. */
	if ((value & BASE_EXTD) && !(old & BASE_ENABLE))
		return false;
	if ((old & BASE_EXTD) && (value & BASE_ENABLE) && !(value & BASE_EXTD))
		return false;
	set_base(lapic, value);
	if ((old & BASE_ENABLE) && !(value & BASE_ENABLE)) {
		lapic->xapic_id = (u8)lapic->id;
		reset_registers(lapic);
	}
	if ((value & BASE_EXTD) && !(old & BASE_EXTD))
		lapic->icr &= BITS(31, 0);
	update(lapic);
	return true;
}

bool lapic_msr_read(struct lapic *lapic, u32 msr, u64 *value)
{
	if (msr == MSR_TSC_DEADLINE) {
		*value = lapic_timer_read_deadline(lapic);
		return true;
	}
	if (msr == MSR_APIC_BASE) {
		*value = lapic->base;
		return true;
	}
	return x2apic_read(lapic, msr - MSR_X2APIC, value);
}

bool lapic_msr_write(struct lapic *lapic, u32 msr, u64 value)
{
	if (msr == MSR_TSC_DEADLINE) {
		lapic_timer_write_deadline(lapic, value);
		return true;
	}
	if (msr == MSR_APIC_BASE)
		return write_base(lapic, value);
	return x2apic_write(lapic, msr - MSR_X2APIC, value);
}

/* --- life --- */

void lapic_reset(struct lapic *lapic)
{
	lapic->xapic_id = (u8)lapic->id;
	set_base(lapic, LAPIC_DEFAULT_BASE | BASE_ENABLE | (lapic->bsp ? BASE_BSP : 0));
	reset_registers(lapic);
}

void lapic_init_signal(struct lapic *lapic)
{
	reset_registers(lapic);
}

void lapic_virtual_wire(struct lapic *lapic)
{
	write_svr(lapic, SVR_ENABLE | 0xff);
	if (lapic->bsp)
		write_lvt(lapic, LVT_LINT0, APIC_EXTINT << 8);
	write_lvt(lapic, LVT_LINT1, APIC_NMI << 8);
}

int lapic_init(struct lapic *lapic, struct apic_bus *bus, struct clock *clock, u32 id, bool bsp, u32 tsc_khz)
{
	*lapic = (struct lapic){
		.bus = bus,
		.clock = clock,
		.id = id,
		.xapic_id = (u8)id,
		.bsp = bsp,
		.tsc_khz = tsc_khz,
		.phys_bits = 52,
		.has_x2apic = true,
		/* The page starts out mapped, so that the first reset moves nothing. */
		.base = LAPIC_DEFAULT_BASE | BASE_ENABLE,
	};
	lapic_timer_init(lapic);
	lapic_reset(lapic);
	return apic_bus_add(bus, lapic);
}

void lapic_connect_cpu(struct lapic *lapic, const struct lapic_cpu *cpu, void *opaque)
{
	lapic->cpu = *cpu;
	lapic->cpu_opaque = opaque;
}
