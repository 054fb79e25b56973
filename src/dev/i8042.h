/*
 * The 8042 keyboard controller: commands, self tests, output port (reset, A20), and a keyboard that answers commands
 * but has no keys. There is no mouse: bytes for it time out.
 *
 * A20 is a bit and nothing else: like CPUs without A20M#, ours always has address line 20.
 *
 * Life: i8042_init(), i8042_reset() at RESET. The board maps i8042_data_ops at 0x60 and i8042_command_ops at 0x64 (1
 * port each). Line out: irq1 (edge on each byte). `reset` is called on command 0xfe or when the output port's bit 0
 * goes 0.
 *
 * Owner: the board, by value. Threads: every call with the board lock held.
 */
#ifndef STRATA_DEV_I8042_H
#define STRATA_DEV_I8042_H

#include "base/types.h"
#include "bus/bus.h"

enum { I8042_QUEUE = 16, I8042_RAM = 32 };

struct i8042 {
	u8 ram[I8042_RAM]; /* ram[0] is the command byte */
	u8 output_port;
	u8 status_command;   /* status bit 3: the last write was to 0x64 */
	u8 pending_command;  /* controller command that waits for its data byte; 0 if none */
	u8 keyboard_command; /* keyboard command that waits for its data byte; 0 if none */
	bool scanning;
	u8 scan_set, leds;
	u8 last_sent; /* for the keyboard's RESEND */
	u8 last_read; /* what an empty output buffer reads */
	struct {
		u8 byte;
		u8 flags; /* status bits that go with it (AUX, time-out), and whether the keyboard sent it */
	} queue[I8042_QUEUE];
	unsigned head, count;
	struct irq_line irq1;
	void (*reset)(void *opaque);
	void *opaque;
};

void i8042_init(struct i8042 *kbc, struct irq_line irq1, void (*reset)(void *opaque), void *opaque);
void i8042_reset(struct i8042 *kbc);

extern const struct io_ops i8042_data_ops, i8042_command_ops;

#endif
