/*
 * The architectural state of one CPU that every engine can hold: what boot loaders set up, engines exchange and
 * register dumps print. Segments carry their hidden parts.
 */
#ifndef STRATA_X86_STATE_H
#define STRATA_X86_STATE_H

#include "x86/regs.h"

/*
 * Access rights as VT-x stores them (SDM vol. 3, 25.4.1):
 *
 *   16       15 14 13 12  11..8  7  6..5 4  3..0
 *   unusable G  DB L  AVL   0    P  DPL  S  type
 */
#define SEG_AR_TYPE     BITS(3, 0)
#define SEG_AR_ACCESSED BIT(0)
#define SEG_AR_RW       BIT(1) /* data: writable; code: readable */
#define SEG_AR_DC       BIT(2) /* data: expand down; code: conforming */
#define SEG_AR_CODE     BIT(3)
#define SEG_AR_S        BIT(4) /* code or data, not system */
#define SEG_AR_DPL      BITS(6, 5)
#define SEG_AR_P        BIT(7)
#define SEG_AR_AVL      BIT(12)
#define SEG_AR_L        BIT(13)
#define SEG_AR_DB       BIT(14)
#define SEG_AR_G        BIT(15)
#define SEG_AR_UNUSABLE BIT(16)

#define SEG_DPL(ar) (((ar) >> 5) & 3)

struct segment {
	u16 selector;
	u32 limit; /* in bytes, already scaled by G */
	u32 ar;    /* SEG_AR_* */
	u64 base;
};

struct table_register {
	u64 base;
	u16 limit;
};

struct x86_state {
	u64 gpr[GPR_COUNT];
	u64 rip, rflags;
	struct segment seg[SEG_COUNT];
	struct table_register gdtr, idtr;
	u64 cr0, cr2, cr3, cr4, efer;
};

/* State after RESET (SDM vol. 3, table 10-1): real mode at FFFF:FFF0. `signature` is what EDX then holds. */
void x86_state_reset(struct x86_state *state, u32 signature);

/* A few lines of registers, segments and control registers, as a person reads them; one line per `emit` call. */
void x86_state_print(const struct x86_state *state, void (*emit)(void *opaque, const char *line), void *opaque);

#endif
