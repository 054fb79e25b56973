#include "pci/msix.h"

#include <errno.h>
#include <string.h>

/* The BAR: the table, then the pending bits on a page of their own. */
enum { TABLE = 0x0000, PBA = 0x1000, BAR_SIZE = 0x2000, ENTRY_SIZE = 16 };

/* Message control, the capability's bytes 2 and 3; these are bits of byte 3. */
enum { CONTROL_ENABLE = 0x80, CONTROL_MASK_ALL = 0x40 };
enum { CAPABILITY_SIZE = 12 };

enum { ENTRY_MASKED = 1 };

_Static_assert(sizeof(struct pci_msix_entry) == ENTRY_SIZE, "a table entry as the guest sees it");
_Static_assert(PCI_MAX_MSIX <= 64 && PCI_MAX_MSIX * ENTRY_SIZE <= PBA,
	       "pending bits are one word; the table has a page");

static u8 control(const struct pci_function *fn)
{
	return fn->config[fn->msix.capability + 3];
}

bool pci_msix_enabled(const struct pci_function *fn)
{
	return fn->msix.vectors && (control(fn) & CONTROL_ENABLE);
}

/* Sends vector n, or keeps it for later. */
static void send(struct pci_function *fn, unsigned n)
{
	const struct pci_msix_entry *entry = &fn->msix.entry[n];

	if ((control(fn) & CONTROL_MASK_ALL) || (entry->control & ENTRY_MASKED)) {
		fn->msix.pending |= BIT(n);
		return;
	}
	fn->msix.pending &= ~BIT(n);
	/* Messages are memory writes: without bus mastering they go nowhere. */
	if ((fn->config[PCI_COMMAND] & PCI_COMMAND_MASTER) && fn->host->msi)
		fn->host->msi(fn->host->msi_opaque, entry->address, entry->data);
}

bool pci_msix_notify(struct pci_function *fn, unsigned vector)
{
	if (!pci_msix_enabled(fn))
		return false;
	if (vector < fn->msix.vectors)
		send(fn, vector);
	return true;
}

void pci_msix_unmasked(struct pci_function *fn)
{
	if (!pci_msix_enabled(fn))
		return;
	for (unsigned n = 0; n < fn->msix.vectors; n++)
		if (fn->msix.pending >> n & 1)
			send(fn, n);
}

static u64 low_bytes(u64 value, unsigned size)
{
	return size < 8 ? value & BITS(8 * size - 1, 0) : value;
}

static u64 table_read(void *device, u64 offset, unsigned size)
{
	struct pci_function *fn = device;
	u64 value = 0;

	if (offset + size <= fn->msix.vectors * ENTRY_SIZE)
		memcpy(&value, (u8 *)fn->msix.entry + offset, size);
	else if (offset >= PBA && offset + size <= PBA + 8)
		value = low_bytes(fn->msix.pending >> 8 * (offset - PBA), size);
	return value;
}

static void table_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct pci_function *fn = device;

	/* Only aligned dwords and quadwords mean anything (6.8.2); the pending bits are read-only. */
	if (size < 4 || (offset & (size - 1)) || offset + size > fn->msix.vectors * ENTRY_SIZE)
		return;
	memcpy((u8 *)fn->msix.entry + offset, &value, size);
	struct pci_msix_entry *entry = &fn->msix.entry[offset / ENTRY_SIZE];
	entry->address &= ~3ULL;
	entry->control &= ENTRY_MASKED;
	pci_msix_unmasked(fn);
}

static const struct io_ops table_ops = { .read = table_read, .write = table_write };

void pci_msix_reset(struct pci_function *fn)
{
	memset(fn->msix.entry, 0, sizeof(fn->msix.entry));
	for (unsigned n = 0; n < fn->msix.vectors; n++)
		fn->msix.entry[n].control = ENTRY_MASKED;
	fn->msix.pending = 0;
	fn->config[fn->msix.capability + 3] &= (u8) ~(CONTROL_ENABLE | CONTROL_MASK_ALL);
}

int pci_add_msix(struct pci_function *fn, unsigned vectors, unsigned bar)
{
	if (vectors == 0 || vectors > PCI_MAX_MSIX)
		return -EINVAL;
	u8 at = pci_add_capability(fn, PCI_CAP_MSIX, CAPABILITY_SIZE);
	if (!at)
		return -ENOSPC;
	fn->msix.vectors = vectors;
	fn->msix.capability = at;
	fn->config[at + 2] = (u8)(vectors - 1);
	fn->writable[at + 3] = CONTROL_ENABLE | CONTROL_MASK_ALL;
	fn->config[at + 4] = (u8)(TABLE | bar);
	/* PBA offset and BAR number, little-endian. */
	fn->config[at + 8] = (u8)bar;
	fn->config[at + 9] = PBA >> 8;
	pci_add_bar(fn, bar, PCI_BAR_MEM32, BAR_SIZE, false, &table_ops, fn, "msi-x");
	pci_msix_reset(fn);
	return 0;
}
