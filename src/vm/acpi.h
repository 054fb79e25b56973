/*
 * The ACPI tables that describe the board, as firmware would have left them in the BIOS area below 1 MiB:
 * RSDP, XSDT, FADT, FACS, MADT, HPET, MCFG, DSDT.
 *
 * Thread: the one that creates or resets the VM, while no CPU runs.
 */
#ifndef STRATA_VM_ACPI_H
#define STRATA_VM_ACPI_H

#include "mem/mem.h"

#define ACPI_BASE 0xe0000ULL
#define ACPI_SIZE 0x20000ULL
#define ACPI_FACS (ACPI_BASE + 64) /* the guest leaves its waking vector there */

/* Where 32-bit and 64-bit PCI BARs go: behind ECAM, below the chips; and the top of a 40-bit address space. */
#define ACPI_PCI_MEM_FIRST   0xc0000000ULL
#define ACPI_PCI_MEM_LAST    0xfebfffffULL
#define ACPI_PCI_MEM64_FIRST 0x8000000000ULL
#define ACPI_PCI_MEM64_LAST  0xffffffffffULL

/*
 * The last bus the guest is told of. Linux tries 32 devices on every one through ports; with 256 buses that is most of
 * a nested boot's VM exits. There are no bridges yet, hence one bus.
 */
#define ACPI_PCI_LAST_BUS 0

/* Writes the tables for a machine with `cpus` processors, with or without an HPET; their root pointer's address. */
gpa_t acpi_write_tables(struct mem *mem, unsigned cpus, bool hpet);

/* Where a suspended guest wants to go on: true for flat 32-bit protected mode, false for real mode (5.2.10). */
bool acpi_waking_vector(const struct mem *mem, u64 *vector);

#endif
