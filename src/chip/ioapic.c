#include "chip/ioapic.h"

#include "base/trace.h"

/* Byte offsets in the page. */
enum { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40 };

/* Registers behind IOREGSEL. */
enum { REG_ID = 0x00, REG_VERSION = 0x01, REG_ARBITRATION = 0x02, REG_REDIRECTION = 0x10 };

enum { IOAPIC_VERSION = 0x20 };

/* Redirection entry (82093AA, 3.2.4). */
#define ENTRY_VECTOR(e)      ((u8)(e))
#define ENTRY_DELIVERY(e)    ((e) >> 8 & 7)
#define ENTRY_LOGICAL        BIT(11)
#define ENTRY_STATUS         BIT(12)
#define ENTRY_REMOTE_IRR     BIT(14)
#define ENTRY_LEVEL          BIT(15)
#define ENTRY_MASKED         BIT(16)
#define ENTRY_DESTINATION(e) ((u8)((e) >> 56))
#define ENTRY_READ_ONLY      (ENTRY_STATUS | ENTRY_REMOTE_IRR)
#define ENTRY_WRITABLE       ((BITS(63, 56) | BITS(16, 0)) & ~ENTRY_READ_ONLY)

/* Sends the pin's interrupt message. Returns whether a CPU took it. */
static bool send(struct ioapic *ioapic, unsigned pin)
{
	u64 entry = ioapic->redirection[pin];
	struct apic_message message = {
		.destination = ENTRY_DESTINATION(entry),
		.logical = entry & ENTRY_LOGICAL,
		.level = entry & ENTRY_LEVEL,
		.delivery = ENTRY_DELIVERY(entry),
		.vector = ENTRY_VECTOR(entry),
	};
	message.broadcast = message.destination == 0xff && !message.logical;
	TRACE(irq, "ioapic: pin %u, vector 0x%02x", pin, message.vector);
	return apic_bus_deliver(ioapic->bus, &message);
}

/* A level-triggered pin that is active and not being served yet. */
static void serve_level(struct ioapic *ioapic, unsigned pin)
{
	u64 *entry = &ioapic->redirection[pin];

	if (!(ioapic->level >> pin & 1) || !(*entry & ENTRY_LEVEL) || (*entry & (ENTRY_MASKED | ENTRY_REMOTE_IRR)))
		return;
	/* Set first: the CPU's EOI can only come afterwards, but must find it. */
	*entry |= ENTRY_REMOTE_IRR;
	if (!send(ioapic, pin))
		*entry &= ~ENTRY_REMOTE_IRR;
}

void ioapic_set_irq(void *opaque, unsigned pin, bool level)
{
	struct ioapic *ioapic = opaque;

	if (pin >= IOAPIC_PINS)
		return;
	u32 bit = 1u << pin;
	bool rises = level && !(ioapic->level & bit);
	ioapic->level = level ? ioapic->level | bit : ioapic->level & ~bit;
	u64 entry = ioapic->redirection[pin];
	if (entry & ENTRY_LEVEL)
		serve_level(ioapic, pin);
	else if (rises && !(entry & ENTRY_MASKED))
		send(ioapic, pin);
}

static void end_of_interrupt(void *opaque, u8 vector)
{
	struct ioapic *ioapic = opaque;

	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
		u64 *entry = &ioapic->redirection[pin];
		if (ENTRY_VECTOR(*entry) != vector || !(*entry & ENTRY_REMOTE_IRR))
			continue;
		*entry &= ~ENTRY_REMOTE_IRR;
		serve_level(ioapic, pin);
	}
}

static void write_entry(struct ioapic *ioapic, unsigned pin, u64 value, u64 mask)
{
	u64 *entry = &ioapic->redirection[pin];

	mask &= ENTRY_WRITABLE;
	*entry = (*entry & ~mask) | (value & mask);
	/* An edge-triggered entry serves nothing: older drivers clear a stuck remote IRR this way. */
	if (!(*entry & ENTRY_LEVEL))
		*entry &= ~ENTRY_REMOTE_IRR;
	serve_level(ioapic, pin);
}

static u32 register_read(struct ioapic *ioapic)
{
	unsigned reg = ioapic->index;

	if (reg == REG_ID || reg == REG_ARBITRATION)
		return (u32)ioapic->id << 24;
	if (reg == REG_VERSION)
		return IOAPIC_VERSION | (IOAPIC_PINS - 1) << 16;
	if (reg >= REG_REDIRECTION && reg < REG_REDIRECTION + 2 * IOAPIC_PINS) {
		u64 entry = ioapic->redirection[(reg - REG_REDIRECTION) / 2];
		return (u32)(reg & 1 ? entry >> 32 : entry);
	}
	return 0;
}

static void register_write(struct ioapic *ioapic, u32 value)
{
	unsigned reg = ioapic->index;

	if (reg == REG_ID) {
		ioapic->id = value >> 24 & 0xf;
	} else if (reg >= REG_REDIRECTION && reg < REG_REDIRECTION + 2 * IOAPIC_PINS) {
		unsigned shift = reg & 1 ? 32 : 0;
		write_entry(ioapic, (reg - REG_REDIRECTION) / 2, (u64)value << shift, 0xffffffffULL << shift);
	}
}

static u64 ioapic_read(void *device, u64 offset, unsigned size)
{
	struct ioapic *ioapic = device;

	if (offset == IOREGSEL)
		return ioapic->index;
	if (offset == IOWIN) {
		u32 value = register_read(ioapic);
		return size < 4 ? value & BITS(size * 8 - 1, 0) : value;
	}
	return 0;
}

static void ioapic_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct ioapic *ioapic = device;

	if (offset == IOREGSEL)
		ioapic->index = (u8)value;
	else if (offset == IOWIN && size == 4)
		register_write(ioapic, (u32)value);
	else if (offset == IOEOI)
		end_of_interrupt(ioapic, (u8)value);
}

void ioapic_reset(struct ioapic *ioapic)
{
	ioapic->id = 0;
	ioapic->index = 0;
	for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
		ioapic->redirection[pin] = ENTRY_MASKED;
}

int ioapic_init(struct ioapic *ioapic, struct apic_bus *bus)
{
	*ioapic = (struct ioapic){ .bus = bus };
	ioapic_reset(ioapic);
	return apic_bus_add_listener(bus, end_of_interrupt, ioapic);
}

const struct io_ops ioapic_ops = { .read = ioapic_read, .write = ioapic_write };
