/*
 * Each user-mode instruction, with random operands, in the interpreter and on the host's CPU, and what they left
 * compared.
 *
 *   forms.c  finds every operand form of every row of the instruction table by decoding the whole opcode space
 *   cases.c  makes one case of a form: bytes, registers, flags, memory, such that addresses hit the data pages
 *   host.c   runs it natively, with signal handlers for the faults
 *   guest.c  runs it in the interpreter
 *   main.c   compares, counts, reports
 *
 * All of it in 64-bit code, and then in 32-bit code (compatibility mode) for the registers and rows that are there.
 *
 * Both sides see the same linear addresses: data, code and a frame for registers lie at fixed places far apart.
 */
#ifndef STRATA_TESTS_INSN_DIFFER_H
#define STRATA_TESTS_INSN_DIFFER_H

#include "base/types.h"
#include "cpu/cpu.h"
#include "cpu/insn.h"
#include "host_vendor.h"

#define DATA_BASE  0x10000000ULL /* two pages, nothing mapped around them */
#define DATA_SIZE  0x2000ULL
#define CODE_BASE  0x50000000ULL /* one page */
#define CODE_SIZE  0x1000ULL
#define CODE_START (CODE_BASE + 0x800) /* where the instruction is */
#define FRAME_BASE 0x60000000ULL

/* Registers of both sides. `xsave` is in the standard format, components x87, SSE and AVX. */
struct machine {
	u64 gpr[GPR_COUNT];
	u64 rip, rflags;
	struct xsave_area xsave;
	int vector; /* exception that the instruction raised, -1 for none */
	u64 error;  /* its error code */
	u64 cr2;
};

struct form {
	ZydisMnemonic mnemonic;
	u8 prefix; /* mandatory or size prefix: 0, 66, F2, F3 */
	bool lock, vex, rex_w;
	u8 vex_l, vex_pp;
	u8 map; /* 0: one byte, 1: 0F, 2: 0F38, 3: 0F3A */
	u8 opcode;
	bool has_modrm, memory, fixed_reg, fixed_rm;
	u8 reg, rm;          /* if fixed */
	bool address_prefix; /* 67h */
	bool mode32;         /* for 32-bit code */
};

struct form_list {
	struct form *form;
	unsigned count;
};

/* One case: what to run, from which state. */
struct test_case {
	const struct form *form;
	u8 bytes[16];
	unsigned length;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	struct machine start;
	u64 memory_at; /* linear address of the memory operand, 0 if none */
	unsigned memory_size;
	u64 target; /* where a branch would go; 0 if the instruction does not branch */
};

/* forms.c: adds the forms of 64-bit or of 32-bit code. */
void forms_find(struct form_list *list, bool mode32);
bool form_encode(const struct form *form, u64 (*rnd)(void), u8 *bytes);
/* Mnemonics of the guest's instruction sets that have no row: each printed once. */
unsigned forms_missing(void);
const ZydisDecoder *form_decoder(const struct form *form);

/* cases.c */
extern u64 random_state;
u64 random64(void);
/* Fills the case; writes the data pages of `data`. false: this encoding is not to be run (try again). */
bool case_make(const struct form *form, struct test_case *c, u8 *data);

/* host.c; data pages at DATA_BASE are the native ones. */
bool host_init(void);    /* false: this host lacks what the test needs */
void host_start(void);   /* after guest_init(): takes the fault signals, passing on the interpreter's */
bool host_runs_32(void); /* does its kernel let a process run 32-bit code? */
void host_run(const struct test_case *c, struct machine *end);
u64 host_components(void);

/* guest.c */
extern u8 *guest_data;             /* the guest's data pages */
void guest_init(bool amd);         /* the vendor whose CPU the guest's is */
void guest_translate(void);        /* from now on 64-bit instructions run translated */
unsigned guest_native_cases(void); /* how many of them did so without the interpreter's handler */
void guest_set_mode(bool mode32);
void guest_run(const struct test_case *c, struct machine *end);
/* Does the guest's CPU show the feature of this row? */
bool guest_has_row(ZydisMnemonic mnemonic);

#endif
