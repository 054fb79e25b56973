/*
 * PCI: configuration space through ports 0xcf8/0xcfc and through the PCIe memory window (ECAM), functions with BARs and
 * capabilities, MSI-X. One root bus (bus 0), up to 256 functions; all memory BARs, no port BARs, no bridges.
 *
 * A function is registered by its device: pci_function_init(), then pci_add_bar(), pci_add_capability() or
 * pci_add_msix(), then pci_add(). Its BARs follow what the guest programs: the range moves on the bus, and is out of
 * reach while decoding is off.
 *
 * Configuration bytes: `config` holds the values, `writable` which bits a guest may change, `clear` which bits it
 * clears by writing 1. `config_written` tells the device afterwards.
 *
 * Owner: the host bridge is the board's, functions their devices', by value; not to be moved after pci_add(). Threads:
 * setting up before the machine runs; everything else with the board lock held.
 */
#ifndef STRATA_PCI_PCI_H
#define STRATA_PCI_PCI_H

#include "base/types.h"
#include "bus/bus.h"

enum {
	PCI_CONFIG_SIZE = 256,
	PCIE_CONFIG_SIZE = 4096,
	PCI_BARS = 6,
	PCI_PORT_ADDRESS = 0xcf8, /* PCI_PORTS ports from here */
	PCI_PORTS = 8,
	PCI_MAX_MSIX = 64
};
/* Bytes of ECAM that bus 0 takes: 256 functions of 4 KiB. */
#define PCI_ECAM_BUS_SIZE 0x100000ULL

#define PCI_DEVFN(device, function) ((u8)((device) << 3 | (function)))

/* Offsets in the type 0 header (PCI Local Bus Specification 3.0, 6.1). */
enum {
	PCI_VENDOR_ID = 0x00,
	PCI_DEVICE_ID = 0x02,
	PCI_COMMAND = 0x04,
	PCI_STATUS = 0x06,
	PCI_REVISION = 0x08,
	PCI_CLASS = 0x09, /* 3 bytes: interface, subclass, class */
	PCI_HEADER_TYPE = 0x0e,
	PCI_BAR0 = 0x10,
	PCI_SUBSYSTEM_VENDOR = 0x2c,
	PCI_SUBSYSTEM_ID = 0x2e,
	PCI_CAPABILITIES = 0x34,
	PCI_INTERRUPT_LINE = 0x3c,
	PCI_INTERRUPT_PIN = 0x3d
};
enum { PCI_COMMAND_IO = 1, PCI_COMMAND_MEMORY = 2, PCI_COMMAND_MASTER = 4, PCI_COMMAND_INTX_OFF = 0x400 };
enum { PCI_STATUS_INTX = 0x08, PCI_STATUS_CAPABILITIES = 0x10 };
enum { PCI_CAP_MSI = 0x05, PCI_CAP_VENDOR = 0x09, PCI_CAP_PCIE = 0x10, PCI_CAP_MSIX = 0x11 };

struct pci_host;
struct pci_function;

enum pci_bar_kind { PCI_BAR_NONE, PCI_BAR_MEM32, PCI_BAR_MEM64, PCI_BAR_UPPER /* high half of the one before */ };

struct pci_bar {
	enum pci_bar_kind kind;
	bool prefetchable;
	u64 size;   /* power of two, at least 16 (4096 for tables that guests map) */
	u64 base;   /* where the bus has it now */
	u64 parked; /* where it is while decoding is off: beyond any guest-physical address */
	const struct io_ops *ops;
	void *device;
	const char *name;
};

struct pci_msix_entry {
	u64 address;
	u32 data;
	u32 control; /* bit 0: masked */
};

struct pci_msix {
	unsigned vectors; /* 0: the function has no MSI-X */
	u16 capability;   /* offset of the capability */
	u64 pending;      /* PBA */
	struct pci_msix_entry entry[PCI_MAX_MSIX];
};

struct pci_function {
	u8 config[PCI_CONFIG_SIZE], writable[PCI_CONFIG_SIZE], clear[PCI_CONFIG_SIZE];
	u8 devfn;
	u16 capabilities_end; /* first free byte for a capability */
	u8 last_capability;   /* the one whose next pointer is 0; 0 if none */
	bool pcie;            /* has an extended configuration space (empty: reads 0) */
	struct pci_bar bar[PCI_BARS];
	struct pci_msix msix;
	struct irq_line intx; /* the interrupt pin, wired by the board; level */
	bool intx_level;
	struct pci_host *host;
	/* Configuration bytes [offset, +size) changed by a guest's write. May be NULL. */
	void (*config_written)(void *opaque, unsigned offset, unsigned size);
	/* Called before a read of [offset, +size), to refresh `config`. May be NULL. */
	void (*config_read)(void *opaque, unsigned offset, unsigned size);
	void *opaque;
};

struct pci_host {
	u32 address; /* CONFIG_ADDRESS */
	struct pci_function *function[256];
	struct bus *bus;
	unsigned parked; /* BARs so far, to park each at an address of its own */
	/* A function's message-signalled interrupt goes here: apic_bus_msi, or the engine. */
	void (*msi)(void *opaque, u64 address, u32 data);
	void *msi_opaque;
	/*
	 * Ports 0xcf8..0xcfb are CONFIG_ADDRESS only for aligned 32-bit accesses. Byte accesses to 0xcf9 are the
	 * chip set's reset control: passed on as offset 0 of these.
	 */
	const struct io_ops *cf9_ops;
	void *cf9_device;
};

void pci_host_init(struct pci_host *host, struct bus *bus);
/* RESET: every function's command register, BARs and MSI-X go back to their defaults. */
void pci_host_reset(struct pci_host *host);

/* Header of a function without BARs, capabilities and interrupt pin. class_code: 0xCCSSPP. */
void pci_function_init(struct pci_function *fn, u16 vendor, u16 device, u32 class_code, u8 revision);

/* A memory BAR of `size` bytes; a 64-bit one takes index and index+1. `device` must be unique to this BAR on the bus.
 */
void pci_add_bar(struct pci_function *fn, unsigned index, enum pci_bar_kind kind, u64 size, bool prefetchable,
		 const struct io_ops *ops, void *device, const char *name);

/* Room for a capability of `size` bytes, header included. Its offset, or 0 if the space is full. Contents are zero,
 * read-only. */
u8 pci_add_capability(struct pci_function *fn, u8 id, u8 size);

/*
 * MSI-X with its table and pending bits in a memory BAR of its own (8 KiB: table at 0, PBA at 0x1000).
 * Returns 0, -EINVAL for too many vectors, -ENOSPC without room.
 */
int pci_add_msix(struct pci_function *fn, unsigned vectors, unsigned bar);

/* Puts the function on the bus. 0, -EEXIST, or what registering a BAR's range gave. */
int pci_add(struct pci_host *host, struct pci_function *fn, u8 devfn);

/* Interrupt pin (level). Silent while the guest disables INTx. */
void pci_set_intx(struct pci_function *fn, bool level);
/* MSI-X vector n: sends it, or marks it pending while masked. False if MSI-X is off: use the pin. */
bool pci_msix_notify(struct pci_function *fn, unsigned vector);
/* Is MSI-X switched on by the guest? */
bool pci_msix_enabled(const struct pci_function *fn);

/* One configuration access; offset up to PCIE_CONFIG_SIZE; size 1, 2, 4 within one naturally aligned dword. */
u32 pci_config_read(struct pci_host *host, u8 bus_number, u8 devfn, unsigned offset, unsigned size);
void pci_config_write(struct pci_host *host, u8 bus_number, u8 devfn, unsigned offset, unsigned size, u32 value);

/* Device is the pci_host: PCI_PORTS ports at PCI_PORT_ADDRESS; memory at MEM_ECAM_BASE (a megabyte for each bus). */
extern const struct io_ops pci_port_ops, pci_ecam_ops;

#endif
