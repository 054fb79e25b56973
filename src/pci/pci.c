#include "pci/pci.h"

#include "base/trace.h"
#include "pci/msix.h"

#include <errno.h>
#include <string.h>

#define ADDRESS_ENABLE BIT(31)

/* Low bits of a memory BAR (PCI 3.0, 6.2.5.1). */
enum { BAR_64BIT = 0x4, BAR_PREFETCHABLE = 0x8, BAR_FLAGS = 0xf };

/* Where BARs wait while decoding is off: no CPU has such addresses. */
#define PARK_BASE BIT(60)
#define PARK_STEP BIT(40)

static u16 get16(const u8 *bytes, unsigned offset)
{
	return (u16)(bytes[offset] | bytes[offset + 1] << 8);
}

static u32 get32(const u8 *bytes, unsigned offset)
{
	return get16(bytes, offset) | (u32)get16(bytes, offset + 2) << 16;
}

static void put16(u8 *bytes, unsigned offset, u16 value)
{
	bytes[offset] = (u8)value;
	bytes[offset + 1] = (u8)(value >> 8);
}

static void put32(u8 *bytes, unsigned offset, u32 value)
{
	put16(bytes, offset, (u16)value);
	put16(bytes, offset + 2, (u16)(value >> 16));
}

static bool overlaps(unsigned offset, unsigned size, unsigned from, unsigned length)
{
	return offset < from + length && from < offset + size;
}

/* --- BARs --- */

static u64 programmed_base(const struct pci_function *fn, unsigned index)
{
	u64 base = get32(fn->config, PCI_BAR0 + 4 * index) & ~(u32)BAR_FLAGS;
	if (fn->bar[index].kind == PCI_BAR_MEM64)
		base |= (u64)get32(fn->config, PCI_BAR0 + 4 * index + 4) << 32;
	return base;
}

/* Moves the range to where the guest wants it; if something else is there, out of the way. */
static void place_bar(struct pci_function *fn, unsigned index)
{
	struct pci_bar *bar = &fn->bar[index];
	u64 wanted = programmed_base(fn, index);

	if (!(get16(fn->config, PCI_COMMAND) & PCI_COMMAND_MEMORY) || wanted == 0)
		wanted = bar->parked;
	if (wanted == bar->base)
		return;
	if (bus_move_mmio(fn->host->bus, bar->device, bar->base, wanted)) {
		TRACE(io, "pci %02x.%u: BAR %u finds no room at 0x%llx", fn->devfn >> 3, fn->devfn & 7, index,
		      (unsigned long long)wanted);
		wanted = bar->parked;
		if (wanted == bar->base || bus_move_mmio(fn->host->bus, bar->device, bar->base, wanted))
			return;
	}
	bar->base = wanted;
}

static void place_bars(struct pci_function *fn)
{
	for (unsigned i = 0; i < PCI_BARS; i++)
		if (fn->bar[i].kind == PCI_BAR_MEM32 || fn->bar[i].kind == PCI_BAR_MEM64)
			place_bar(fn, i);
}

void pci_add_bar(struct pci_function *fn, unsigned index, enum pci_bar_kind kind, u64 size, bool prefetchable,
		 const struct io_ops *ops, void *device, const char *name)
{
	unsigned offset = PCI_BAR0 + 4 * index;
	u64 mask = ~(size - 1);

	fn->bar[index] = (struct pci_bar){
		.kind = kind, .prefetchable = prefetchable, .size = size, .ops = ops, .device = device, .name = name
	};
	put32(fn->config, offset, (kind == PCI_BAR_MEM64 ? BAR_64BIT : 0) | (prefetchable ? BAR_PREFETCHABLE : 0));
	put32(fn->writable, offset, (u32)mask & ~(u32)BAR_FLAGS);
	if (kind == PCI_BAR_MEM64) {
		fn->bar[index + 1].kind = PCI_BAR_UPPER;
		put32(fn->writable, offset + 4, (u32)(mask >> 32));
	}
	fn->writable[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
}

static int add_bar_range(struct pci_host *host, struct pci_bar *bar)
{
	bar->parked = PARK_BASE + PARK_STEP * host->parked++;
	bar->base = bar->parked;
	return bus_add_mmio(host->bus, bar->base, bar->size, bar->ops, bar->device, bar->name);
}

/* --- capabilities --- */

u8 pci_add_capability(struct pci_function *fn, u8 id, u8 size)
{
	if (fn->capabilities_end + size > PCI_CONFIG_SIZE)
		return 0;
	u8 at = (u8)fn->capabilities_end;
	fn->config[at] = id;
	fn->config[at + 1] = 0;
	fn->config[fn->last_capability ? fn->last_capability + 1 : PCI_CAPABILITIES] = at;
	fn->config[PCI_STATUS] |= PCI_STATUS_CAPABILITIES;
	fn->last_capability = at;
	/* Capabilities begin on dwords. */
	fn->capabilities_end = (u16)((at + size + 3u) & ~3u);
	return at;
}

/* --- configuration accesses --- */

static u32 all_ones(unsigned size)
{
	return (u32)BITS(8 * size - 1, 0);
}

static struct pci_function *find_function(struct pci_host *host, u8 bus_number, u8 devfn)
{
	return bus_number == 0 ? host->function[devfn] : NULL;
}

u32 pci_config_read(struct pci_host *host, u8 bus_number, u8 devfn, unsigned offset, unsigned size)
{
	struct pci_function *fn = find_function(host, bus_number, devfn);
	u32 value = 0;

	if (!fn)
		return all_ones(size);
	if (offset + size > PCI_CONFIG_SIZE)
		return fn->pcie ? 0 : all_ones(size);
	if (fn->config_read)
		fn->config_read(fn->opaque, offset, size);
	for (unsigned i = 0; i < size; i++)
		value |= (u32)fn->config[offset + i] << 8 * i;
	return value;
}

static void update_intx(struct pci_function *fn)
{
	bool silent = get16(fn->config, PCI_COMMAND) & PCI_COMMAND_INTX_OFF;

	if (fn->intx_level)
		fn->config[PCI_STATUS] |= PCI_STATUS_INTX;
	else
		fn->config[PCI_STATUS] &= (u8)~PCI_STATUS_INTX;
	irq_set(&fn->intx, fn->intx_level && !silent);
}

void pci_config_write(struct pci_host *host, u8 bus_number, u8 devfn, unsigned offset, unsigned size, u32 value)
{
	struct pci_function *fn = find_function(host, bus_number, devfn);

	if (!fn || offset + size > PCI_CONFIG_SIZE)
		return;
	for (unsigned i = 0; i < size; i++) {
		u8 byte = (u8)(value >> 8 * i), writable = fn->writable[offset + i];
		u8 *at = &fn->config[offset + i];
		*at = (*at & (u8)~writable) | (byte & writable);
		*at &= (u8) ~(byte & fn->clear[offset + i]);
	}
	if (overlaps(offset, size, PCI_COMMAND, 2) || overlaps(offset, size, PCI_BAR0, 4 * PCI_BARS))
		place_bars(fn);
	if (overlaps(offset, size, PCI_COMMAND, 2))
		update_intx(fn);
	if (fn->msix.vectors && overlaps(offset, size, fn->msix.capability + 2, 2))
		pci_msix_unmasked(fn);
	if (fn->config_written)
		fn->config_written(fn->opaque, offset, size);
}

void pci_set_intx(struct pci_function *fn, bool level)
{
	if (level == fn->intx_level)
		return;
	fn->intx_level = level;
	update_intx(fn);
}

/* --- the ways to configuration space --- */

/* Ports 0xcf8..0xcfb: the address register for a dword, the chip set's ports behind it for anything smaller. */
static u64 port_read(void *device, u64 offset, unsigned size)
{
	struct pci_host *host = device;

	if (offset < 4) {
		if (offset == 0 && size == 4)
			return host->address;
		if (offset == 1 && size == 1 && host->cf9_ops)
			return host->cf9_ops->read(host->cf9_device, 0, 1);
		return all_ones(size);
	}
	if (!(host->address & ADDRESS_ENABLE) || (offset & 3) + size > 4)
		return all_ones(size);
	return pci_config_read(host, (u8)(host->address >> 16), (u8)(host->address >> 8),
			       (host->address & 0xfc) | (offset & 3), size);
}

static void port_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct pci_host *host = device;

	if (offset < 4) {
		if (offset == 0 && size == 4)
			host->address = (u32)value & (ADDRESS_ENABLE | 0x00fffffc);
		else if (offset == 1 && size == 1 && host->cf9_ops)
			host->cf9_ops->write(host->cf9_device, 0, 1, value);
		return;
	}
	if ((host->address & ADDRESS_ENABLE) && (offset & 3) + size <= 4)
		pci_config_write(host, (u8)(host->address >> 16), (u8)(host->address >> 8),
				 (host->address & 0xfc) | (offset & 3), size, (u32)value);
}

/* ECAM: bus number in bits 27..20, device and function 19..12, register 11..0 (PCIe 3.0, 7.2.2). */
static u64 ecam_read(void *device, u64 offset, unsigned size)
{
	struct pci_host *host = device;

	if (size == 8)
		return ecam_read(host, offset, 4) | ecam_read(host, offset + 4, 4) << 32;
	if ((offset & 3) + size > 4)
		return all_ones(size);
	return pci_config_read(host, (u8)(offset >> 20), (u8)(offset >> 12), offset & 0xfff, size);
}

static void ecam_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct pci_host *host = device;

	if (size == 8) {
		ecam_write(host, offset, 4, value & 0xffffffff);
		ecam_write(host, offset + 4, 4, value >> 32);
	} else if ((offset & 3) + size <= 4) {
		pci_config_write(host, (u8)(offset >> 20), (u8)(offset >> 12), offset & 0xfff, size, (u32)value);
	}
}

/* --- life --- */

void pci_function_init(struct pci_function *fn, u16 vendor, u16 device, u32 class_code, u8 revision)
{
	*fn = (struct pci_function){ .capabilities_end = 0x40 };
	put16(fn->config, PCI_VENDOR_ID, vendor);
	put16(fn->config, PCI_DEVICE_ID, device);
	put32(fn->config, PCI_REVISION, class_code << 8 | revision);
	put16(fn->writable, PCI_COMMAND, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF);
	fn->writable[PCI_INTERRUPT_LINE] = 0xff;
}

int pci_add(struct pci_host *host, struct pci_function *fn, u8 devfn)
{
	if (host->function[devfn])
		return -EEXIST;
	for (unsigned i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &fn->bar[i];
		if (bar->kind != PCI_BAR_MEM32 && bar->kind != PCI_BAR_MEM64)
			continue;
		int error = add_bar_range(host, bar);
		if (error)
			return error;
	}
	fn->devfn = devfn;
	fn->host = host;
	host->function[devfn] = fn;
	return 0;
}

static void reset_function(struct pci_function *fn)
{
	put16(fn->config, PCI_COMMAND, get16(fn->config, PCI_COMMAND) & (u16)~get16(fn->writable, PCI_COMMAND));
	for (unsigned i = PCI_BAR0; i < PCI_BAR0 + 4 * PCI_BARS; i++)
		fn->config[i] &= (u8)~fn->writable[i];
	fn->config[PCI_INTERRUPT_LINE] = 0;
	fn->intx_level = false;
	if (fn->msix.vectors)
		pci_msix_reset(fn);
	place_bars(fn);
	update_intx(fn);
}

void pci_host_reset(struct pci_host *host)
{
	host->address = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(host->function); i++)
		if (host->function[i])
			reset_function(host->function[i]);
}

void pci_host_init(struct pci_host *host, struct bus *bus)
{
	*host = (struct pci_host){ .bus = bus };
}

const struct io_ops pci_port_ops = { .read = port_read, .write = port_write };
const struct io_ops pci_ecam_ops = { .read = ecam_read, .write = ecam_write };
