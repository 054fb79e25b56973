/*
 * What PC firmware leaves behind for a kernel that it has started: ACPI tables, BIOS data area, real-mode interrupt
 * vectors, and interrupt chips in the state that 16-bit code counts on. There is no firmware; this is all of it.
 *
 * Thread: the one that creates or resets the VM, while no CPU runs and without the board lock.
 */
#ifndef STRATA_VM_FIRMWARE_H
#define STRATA_VM_FIRMWARE_H

#include "vm/board.h"
#include "x86/state.h"

/* After board_reset(). Returns the guest-physical address of the ACPI root pointer. */
gpa_t firmware_leave_behind(struct board *board);

/* After a suspend to memory, in the place of all that: the state in which the boot CPU goes on. */
void firmware_resume(struct board *board, struct x86_state *state);

#endif
