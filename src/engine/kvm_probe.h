/*
 * What kvm_probe.c and its guest, kvm_probe_guest.S, agree on. Included by the assembler too.
 */
#ifndef STRATA_ENGINE_KVM_PROBE_H
#define STRATA_ENGINE_KVM_PROBE_H

/* Guest-physical layout: RAM from 0; the guest starts in real mode at its first byte. */
#define PROBE_RAM_SIZE 0x40000
#define PROBE_PML4     0x1000
#define PROBE_PDPT     0x2000
#define PROBE_PD       0x3000
#define PROBE_IDT      0x4000
#define PROBE_STACK    0x7000
#define PROBE_CODE     0x8000
#define PROBE_HV_PAGE  0x10000 /* VMXON region, or the page VMSAVE writes */

/* The guest writes a stage's number to this port once it has passed it, and halts after the last. */
#define PROBE_PORT 0xf4

#define PROBE_REAL      1 /* real mode */
#define PROBE_PROTECTED 2 /* 32-bit protected mode */
#define PROBE_LONG      3 /* 64-bit mode with its own page tables */
#define PROBE_SYSTEM    4 /* CPUID, RDMSR and WRMSR */
#define PROBE_FAULTS    5 /* its own IDT: invalid opcode and page fault, and the way back */
#define PROBE_VECTOR    6 /* an SSE2 instruction */
#define PROBE_NESTING   7 /* VMXON or VMSAVE; passed over unless asked for in EBX */
#define PROBE_SPEED     8 /* PROBE_SPEED_ROUNDS times, each after PROBE_SPEED_LOOPS turns of a loop */
#define PROBE_HALTED    9 /* HLT came out; never written to the port */

/*
 * Some kernels run a guest's supervisor code by emulating each instruction in software. Such a guest gets anywhere, but
 * an operating system would take hours.
 */
#define PROBE_SPEED_ROUNDS 3
#define PROBE_SPEED_LOOPS  50000 /* of two instructions */

/* EBX at the start. */
#define PROBE_ASK_NONE 0
#define PROBE_ASK_VTX  1
#define PROBE_ASK_SVM  2

#endif
