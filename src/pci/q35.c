#include "pci/q35.h"

/* Host bridge registers (82Q35 data sheet): where ECAM is. */
enum { PCIEXBAR = 0x60, PCIEXBAR_ENABLE = 1 /* bits 2..1: 0 is 256 MiB */ };

/* LPC bridge registers (ICH9 data sheet, 13.1). */
enum {
	PMBASE = 0x40,
	ACPI_CNTL = 0x44,
	GPIOBASE = 0x48,
	PIRQA_ROUT = 0x60,
	PIRQE_ROUT = 0x68,
	LPC_IO_DEC = 0x80,
	LPC_EN = 0x82,
	RCBA = 0xf0
};
enum { PORT_BAR = 0x01, ACPI_CNTL_ENABLE = 0x80, PIRQ_OFF = 0x80 };

static void put(struct pci_function *fn, unsigned offset, u64 value, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		fn->config[offset + i] = (u8)(value >> 8 * i);
}

static void init_host_bridge(struct pci_function *fn, u64 ecam_base)
{
	pci_function_init(fn, 0x8086, 0x29c0, 0x060000, 0);
	put(fn, PCIEXBAR, ecam_base | PCIEXBAR_ENABLE, 8);
	/* Memory decoding and bus mastering cannot be switched off. */
	put(fn, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	fn->writable[PCI_COMMAND] = 0;
}

static void init_lpc(struct pci_function *fn, u16 pm_base)
{
	pci_function_init(fn, 0x8086, 0x2918, 0x060100, 2);
	put(fn, PCI_HEADER_TYPE, 0x80, 1); /* multi-function: other functions may follow */
	put(fn, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
	fn->writable[PCI_COMMAND] = 0;
	put(fn, PMBASE, pm_base | PORT_BAR, 4);
	put(fn, ACPI_CNTL, ACPI_CNTL_ENABLE, 1); /* SCI on IRQ 9 */
	put(fn, GPIOBASE, PORT_BAR, 4);
	for (unsigned i = 0; i < 4; i++) {
		put(fn, PIRQA_ROUT + i, PIRQ_OFF, 1);
		put(fn, PIRQE_ROUT + i, PIRQ_OFF, 1);
		fn->writable[PIRQA_ROUT + i] = fn->writable[PIRQE_ROUT + i] = 0x8f;
	}
	put(fn, LPC_EN, 0x000f, 2); /* both serial ports, parallel port, floppy */
	fn->writable[LPC_IO_DEC] = 0x77;
	fn->writable[LPC_EN] = 0xff;
	fn->writable[LPC_EN + 1] = 0x3f;
	put(fn, RCBA, 0, 4); /* no chip-set register block */
}

int q35_init(struct q35 *q35, struct pci_host *host, u64 ecam_base, u16 pm_base)
{
	init_host_bridge(&q35->host_bridge, ecam_base);
	init_lpc(&q35->lpc, pm_base);
	int error = pci_add(host, &q35->host_bridge, PCI_DEVFN(0, 0));
	return error ? error : pci_add(host, &q35->lpc, PCI_DEVFN(31, 0));
}
