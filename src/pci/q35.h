/*
 * The two functions every q35 board has, as far as configuration space goes: the host bridge (00:00.0, 8086:29c0),
 * whose PCIEXBAR tells where ECAM is, and the ICH9 LPC bridge (00:1f.0, 8086:2918) with PM base, ACPI control and
 * interrupt routing registers. What they describe is fixed: writing them moves nothing.
 *
 * Owner: the board, by value. Threads: as pci.h.
 */
#ifndef STRATA_PCI_Q35_H
#define STRATA_PCI_Q35_H

#include "pci/pci.h"

struct q35 {
	struct pci_function host_bridge; /* 00:00.0 */
	struct pci_function lpc;         /* 00:1f.0 */
};

/* ecam_base, and pm_base as the LPC's PMBASE shows it. 0 or -errno of pci_add(). */
int q35_init(struct q35 *q35, struct pci_host *host, u64 ecam_base, u16 pm_base);

#endif
