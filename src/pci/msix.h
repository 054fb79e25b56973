/*
 * MSI-X inside pci.c's functions (PCI Local Bus Specification 3.0, 6.8.2). Devices use pci.h; only pci.c includes this.
 */
#ifndef STRATA_PCI_MSIX_H
#define STRATA_PCI_MSIX_H

#include "pci/pci.h"

/* The guest wrote message control: what is pending and no longer masked goes out. */
void pci_msix_unmasked(struct pci_function *fn);
/* RESET: off, every vector masked. */
void pci_msix_reset(struct pci_function *fn);

#endif
