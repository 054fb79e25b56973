/*
 * Two 8259A interrupt controllers, the second cascaded on IRQ 2 of the first, with the edge/level registers (ELCR) of
 * PCI chip sets.
 *
 * Life: pic_init(), pic_reset() at RESET. The board maps pic_ops at 0x20 and 0xa0 (2 ports each; devices &pic.chip[0]
 * and &pic.chip[1]) and pic_elcr_ops at 0x4d0 (2 ports; device &pic). Line out: intr, the master's INT pin; the CPU
 * side answers it with pic_ack().
 *
 * Owner: the board, by value; not to be moved after pic_init(). Threads: every call with the board lock held.
 */
#ifndef STRATA_CHIP_PIC_H
#define STRATA_CHIP_PIC_H

#include "base/types.h"
#include "bus/bus.h"

struct pic;

struct i8259 {
	u8 irr, isr, imr;
	u8 line; /* input levels */
	u8 elcr; /* 1: level-triggered */
	u8 icw4;
	u8 vector_base; /* ICW2, low three bits 0 */
	u8 cascade;     /* ICW3 as written */
	u8 init_step;   /* next ICW expected at the odd port: 2, 3, 4; 0 when initialized */
	bool single;    /* ICW1.SNGL */
	bool expect_icw4;
	bool level_mode; /* ICW1.LTIM */
	bool read_isr;   /* OCW3: the even port reads ISR */
	bool poll;       /* OCW3: the next read is a poll */
	bool special_mask;
	bool rotate_auto_eoi;
	u8 lowest; /* input with the lowest priority */
	bool master;
	struct pic *pair;
};

struct pic {
	struct i8259 chip[2]; /* master, slave */
	struct irq_line intr;
	bool intr_level;
};

void pic_init(struct pic *pic, struct irq_line intr);
void pic_reset(struct pic *pic);

/* Level of IRQ 0..15 (2 is the cascade: ignored). An irq_line.set: controller is the pic. */
void pic_set_irq(void *pic, unsigned irq, bool level);

/* INTA cycles: acknowledges and gives the vector; that of IRQ 7 (or 15) if the request has gone: a spurious one. */
int pic_ack(void *pic);

extern const struct io_ops pic_ops, pic_elcr_ops;

#endif
