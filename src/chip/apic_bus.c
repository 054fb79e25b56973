#include "chip/apic_bus.h"

#include "base/trace.h"
#include "chip/lapic.h"

#include <errno.h>

void apic_bus_init(struct apic_bus *bus)
{
	*bus = (struct apic_bus){ 0 };
}

int apic_bus_add(struct apic_bus *bus, struct lapic *lapic)
{
	if (bus->count == APIC_BUS_MAX_CPUS)
		return -ENOSPC;
	bus->lapic[bus->count++] = lapic;
	return 0;
}

int apic_bus_add_listener(struct apic_bus *bus, void (*eoi)(void *ioapic, u8 vector), void *ioapic)
{
	if (bus->listeners == APIC_BUS_MAX_IOAPICS)
		return -ENOSPC;
	bus->listener[bus->listeners].eoi = eoi;
	bus->listener[bus->listeners++].ioapic = ioapic;
	return 0;
}

/* Lowest priority: one of the destinations, the least busy; among equals they take turns (SDM vol. 3, 11.6.2.4). */
static bool deliver_lowest(struct apic_bus *bus, const struct apic_message *message)
{
	struct lapic *best = NULL;
	unsigned best_index = 0;

	for (unsigned i = 0; i < bus->count; i++) {
		unsigned n = (bus->last_lowest + 1 + i) % bus->count;
		struct lapic *lapic = bus->lapic[n];
		if (!lapic_is_destination(lapic, message) || !lapic_software_enabled(lapic))
			continue;
		if (!best || lapic_ppr(lapic) < lapic_ppr(best)) {
			best = lapic;
			best_index = n;
		}
	}
	if (!best)
		return false;
	bus->last_lowest = best_index;
	return lapic_accept(best, message);
}

bool apic_bus_deliver(struct apic_bus *bus, const struct apic_message *message)
{
	bool accepted = false;

	if (message->delivery == APIC_LOWEST)
		return deliver_lowest(bus, message);
	for (unsigned i = 0; i < bus->count; i++)
		if (lapic_is_destination(bus->lapic[i], message))
			accepted |= lapic_accept(bus->lapic[i], message);
	return accepted;
}

bool apic_bus_msi(struct apic_bus *bus, u64 address, u32 data)
{
	/* Address: destination in bits 19..12, redirection hint 3, destination mode 2; data: trigger mode 15. */
	if (address >> 20 != LAPIC_DEFAULT_BASE >> 20)
		return false;
	bool hint = address >> 3 & 1, logical = address >> 2 & 1;
	struct apic_message message = {
		.destination = address >> 12 & 0xff,
		.logical = logical,
		.level = data >> 15 & 1,
		.delivery = data >> 8 & 7,
		.vector = (u8)data,
	};
	message.broadcast = message.destination == 0xff && !logical;
	/* The hint asks that one of a logical set be chosen. */
	if (hint && logical && message.delivery == APIC_FIXED)
		message.delivery = APIC_LOWEST;
	return apic_bus_deliver(bus, &message);
}

void apic_bus_set_lint(void *opaque, unsigned input, bool level)
{
	struct apic_bus *bus = opaque;
	for (unsigned i = 0; i < bus->count; i++)
		lapic_set_lint(bus->lapic[i], input & 1, level);
}

void apic_bus_eoi(struct apic_bus *bus, u8 vector)
{
	for (unsigned i = 0; i < bus->listeners; i++)
		bus->listener[i].eoi(bus->listener[i].ioapic, vector);
}

static struct lapic *current_lapic(struct apic_bus *bus)
{
	if (bus->current)
		return bus->current(bus->current_opaque);
	return bus->count ? bus->lapic[0] : NULL;
}

static u64 page_read(void *device, u64 offset, unsigned size)
{
	struct lapic *lapic = current_lapic(device);
	/* Nobody answers a CPU whose APIC is off or in x2APIC mode. */
	if (!lapic || !lapic->enabled || lapic->x2apic)
		return ~0ULL;
	return lapic_page_read(lapic, (u32)offset, size);
}

static void page_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct lapic *lapic = current_lapic(device);
	if (lapic)
		lapic_page_write(lapic, (u32)offset, size, (u32)value);
}

const struct io_ops apic_bus_page_ops = { .read = page_read, .write = page_write };
