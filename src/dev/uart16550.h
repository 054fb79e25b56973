/*
 * The 16550A UART. Bytes go out as fast as the other end takes them; they come in through a queue behind the 16-byte
 * FIFO, so that pasted text is not lost.
 *
 * Life: uart_init(), uart_reset() at RESET. The board maps uart_ops, 8 ports. Line out: irq (level).
 * Output: `output` takes up to n bytes and returns how many it took. If it takes none, the transmitter stays busy until
 * uart_output_ready(). Input: uart_receive(); `input_room` is called when a full queue has room again.
 *
 * Owner: the board, by value. Threads: every call with the board lock held, callbacks too (they must not block).
 */
#ifndef STRATA_DEV_UART16550_H
#define STRATA_DEV_UART16550_H

#include "base/clock.h"
#include "base/types.h"
#include "bus/bus.h"

enum { UART_PORTS = 8, UART_FIFO = 16, UART_QUEUE = 4096 };

struct uart_backend {
	size_t (*output)(void *opaque, const u8 *bytes, size_t n); /* NULL: everything vanishes */
	void (*input_room)(void *opaque);                          /* may be NULL */
};

struct uart {
	u8 ier, fcr, lcr, mcr, lsr, msr, scr;
	u16 divisor;
	u8 rx[UART_FIFO], tx[UART_FIFO];
	unsigned rx_head, rx_count, tx_count;
	bool rx_timeout;   /* FIFO has had data below its trigger level for four character times */
	bool thre_pending; /* transmitter-empty interrupt not yet acknowledged */
	bool queue_was_full;
	u8 queue[UART_QUEUE]; /* received, not yet in the FIFO */
	unsigned queue_head, queue_count;
	struct timer timeout;
	struct clock *clock;
	struct irq_line irq;
	struct uart_backend backend;
	void *opaque;
};

void uart_init(struct uart *uart, struct clock *clock, struct irq_line irq, const struct uart_backend *backend,
	       void *opaque);
void uart_reset(struct uart *uart);

/* Bytes from the line; returns how many fit. */
size_t uart_receive(struct uart *uart, const u8 *bytes, size_t n);
size_t uart_room(const struct uart *uart);
/* A break condition arrives. */
void uart_receive_break(struct uart *uart);
/* The other end can take bytes again. */
void uart_output_ready(struct uart *uart);
/* Nothing waits to be sent. */
bool uart_output_empty(const struct uart *uart);

extern const struct io_ops uart_ops;

#endif
