#include "dev/uart16550.h"

#include <string.h>

/* Registers (PC16550D data sheet); RBR, THR, DLL share offset 0, IER and DLM offset 1, IIR and FCR offset 2. */
enum { RBR = 0, THR = 0, DLL = 0, IER = 1, DLM = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };

enum { IER_RDA = 0x01, IER_THRE = 0x02, IER_RLS = 0x04, IER_MSI = 0x08, IER_WRITABLE = 0x0f };
enum {
	IIR_NONE = 0x01,
	IIR_MSI = 0x00,
	IIR_THRE = 0x02,
	IIR_RDA = 0x04,
	IIR_RLS = 0x06,
	IIR_TIMEOUT = 0x0c,
	IIR_FIFO = 0xc0
};
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_CLEAR_TX = 0x04, FCR_WRITABLE = 0xc9 };
enum { LCR_WLS = 0x03, LCR_STB = 0x04, LCR_PEN = 0x08, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08, MCR_LOOP = 0x10, MCR_WRITABLE = 0x1f };
enum { LSR_DR = 0x01, LSR_OE = 0x02, LSR_BI = 0x10, LSR_ERRORS = 0x1e, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum {
	MSR_DCTS = 0x01,
	MSR_TERI = 0x04,
	MSR_DELTAS = 0x0f,
	MSR_CTS = 0x10,
	MSR_DSR = 0x20,
	MSR_RI = 0x40,
	MSR_DCD = 0x80
};

#define UART_CLOCK_HZ 1843200ULL

static bool fifo_on(const struct uart *uart)
{
	return uart->fcr & FCR_ENABLE;
}

static unsigned fifo_size(const struct uart *uart)
{
	return fifo_on(uart) ? UART_FIFO : 1;
}

static unsigned trigger_level(const struct uart *uart)
{
	static const u8 level[4] = { 1, 4, 8, 14 };
	return fifo_on(uart) ? level[uart->fcr >> 6] : 1;
}

/* --- interrupts --- */

/* The interrupt with the highest priority, as IIR shows it. */
static u8 interrupt_id(const struct uart *uart)
{
	if ((uart->ier & IER_RLS) && (uart->lsr & LSR_ERRORS))
		return IIR_RLS;
	if ((uart->ier & IER_RDA) && uart->rx_count >= trigger_level(uart))
		return IIR_RDA;
	if ((uart->ier & IER_RDA) && uart->rx_timeout)
		return IIR_TIMEOUT;
	if ((uart->ier & IER_THRE) && uart->thre_pending)
		return IIR_THRE;
	if ((uart->ier & IER_MSI) && (uart->msr & MSR_DELTAS))
		return IIR_MSI;
	return IIR_NONE;
}

static void update(struct uart *uart)
{
	/* On PCs, OUT2 gates the interrupt pin; in loopback it is cut off. */
	bool gate = (uart->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
	irq_set(&uart->irq, gate && interrupt_id(uart) != IIR_NONE);
}

/* --- receiver --- */

static u64 character_ns(const struct uart *uart)
{
	unsigned bits = 1 + 5 + (uart->lcr & LCR_WLS) + !!(uart->lcr & LCR_PEN) + 1 + !!(uart->lcr & LCR_STB);
	unsigned divisor = uart->divisor ? uart->divisor : 1;
	return mul_div((u64)bits * 16 * divisor, NS_PER_SEC, UART_CLOCK_HZ);
}

static void restart_timeout(struct uart *uart)
{
	uart->rx_timeout = false;
	if (fifo_on(uart) && uart->rx_count)
		timer_arm(&uart->timeout, clock_now(uart->clock) + 4 * character_ns(uart));
	else
		timer_disarm(&uart->timeout);
}

static void timeout_fired(void *opaque)
{
	struct uart *uart = opaque;
	uart->rx_timeout = uart->rx_count > 0;
	update(uart);
}

static void rx_push(struct uart *uart, u8 byte)
{
	if (uart->rx_count == fifo_size(uart)) {
		uart->lsr |= LSR_OE;
		/* Without FIFO the new character overwrites the old one; with FIFO it is lost in the shift register. */
		if (fifo_on(uart))
			return;
		uart->rx_count = 0;
	}
	uart->rx[(uart->rx_head + uart->rx_count++) % UART_FIFO] = byte;
	uart->lsr |= LSR_DR;
}

/* From the queue into the FIFO, as far as there is room: the other end never overruns the guest. */
static void refill(struct uart *uart)
{
	bool moved = false;

	if (uart->mcr & MCR_LOOP)
		return;
	while (uart->queue_count && uart->rx_count < fifo_size(uart)) {
		rx_push(uart, uart->queue[uart->queue_head]);
		uart->queue_head = (uart->queue_head + 1) % UART_QUEUE;
		uart->queue_count--;
		moved = true;
	}
	if (moved)
		restart_timeout(uart);
	if (uart->queue_was_full && uart->queue_count <= UART_QUEUE / 2) {
		uart->queue_was_full = false;
		if (uart->backend.input_room)
			uart->backend.input_room(uart->opaque);
	}
}

size_t uart_room(const struct uart *uart)
{
	return UART_QUEUE - uart->queue_count;
}

size_t uart_receive(struct uart *uart, const u8 *bytes, size_t n)
{
	size_t taken = 0;

	while (taken < n && uart->queue_count < UART_QUEUE)
		uart->queue[(uart->queue_head + uart->queue_count++) % UART_QUEUE] = bytes[taken++];
	if (uart->queue_count == UART_QUEUE)
		uart->queue_was_full = true;
	refill(uart);
	update(uart);
	return taken;
}

void uart_receive_break(struct uart *uart)
{
	if (uart->mcr & MCR_LOOP)
		return;
	rx_push(uart, 0);
	uart->lsr |= LSR_BI;
	restart_timeout(uart);
	update(uart);
}

static u8 read_rbr(struct uart *uart)
{
	u8 byte = uart->rx[uart->rx_head];

	if (uart->rx_count) {
		uart->rx_head = (uart->rx_head + 1) % UART_FIFO;
		uart->rx_count--;
	}
	restart_timeout(uart);
	refill(uart);
	if (!uart->rx_count)
		uart->lsr &= (u8)~LSR_DR;
	update(uart);
	return byte;
}

/* --- transmitter --- */

static void drain(struct uart *uart)
{
	bool was_busy = uart->tx_count;
	size_t done = 0;

	while (done < uart->tx_count && uart->backend.output) {
		size_t n = uart->backend.output(uart->opaque, uart->tx + done, uart->tx_count - done);
		if (n == 0)
			break;
		done += n;
	}
	if (!uart->backend.output)
		done = uart->tx_count;
	memmove(uart->tx, uart->tx + done, uart->tx_count - done);
	uart->tx_count -= (unsigned)done;
	if (uart->tx_count)
		return;
	uart->lsr |= LSR_THRE | LSR_TEMT;
	if (was_busy)
		uart->thre_pending = true;
}

void uart_output_ready(struct uart *uart)
{
	drain(uart);
	update(uart);
}

bool uart_output_empty(const struct uart *uart)
{
	return uart->tx_count == 0;
}

static void write_thr(struct uart *uart, u8 byte)
{
	uart->thre_pending = false;
	if (uart->mcr & MCR_LOOP) {
		rx_push(uart, byte);
		restart_timeout(uart);
		uart->thre_pending = true;
		update(uart);
		return;
	}
	/* A guest that writes although THRE is 0 loses the byte, as on the chip. */
	if (uart->tx_count < fifo_size(uart))
		uart->tx[uart->tx_count++] = byte;
	uart->lsr &= (u8) ~(LSR_THRE | LSR_TEMT);
	drain(uart);
	update(uart);
}

/* --- control --- */

/* Modem lines: in loopback the outputs come back as inputs; otherwise a modem that is always there. */
static void update_modem(struct uart *uart)
{
	u8 lines = MSR_CTS | MSR_DSR | MSR_DCD;

	if (uart->mcr & MCR_LOOP) {
		lines = 0;
		lines |= uart->mcr & MCR_RTS ? MSR_CTS : 0;
		lines |= uart->mcr & MCR_DTR ? MSR_DSR : 0;
		lines |= uart->mcr & MCR_OUT1 ? MSR_RI : 0;
		lines |= uart->mcr & MCR_OUT2 ? MSR_DCD : 0;
	}
	u8 changed = (lines ^ uart->msr) & (u8)~MSR_DELTAS;
	/* Delta bits lie four below their lines. TERI marks only the falling edge of RI. */
	u8 deltas = changed >> 4;
	if (lines & MSR_RI)
		deltas &= (u8)~MSR_TERI;
	uart->msr = lines | (uart->msr & MSR_DELTAS) | deltas;
}

static void clear_rx(struct uart *uart)
{
	uart->rx_head = uart->rx_count = 0;
	uart->rx_timeout = false;
	timer_disarm(&uart->timeout);
	uart->lsr &= (u8) ~(LSR_DR | LSR_ERRORS);
}

static void clear_tx(struct uart *uart)
{
	uart->tx_count = 0;
	uart->lsr |= LSR_THRE | LSR_TEMT;
	uart->thre_pending = true;
}

static void write_fcr(struct uart *uart, u8 value)
{
	/* Switching the FIFOs on or off empties them; other bits need FCR0 set. */
	bool switched = (value ^ uart->fcr) & FCR_ENABLE;

	if (switched || ((value & FCR_ENABLE) && (value & FCR_CLEAR_RX)))
		clear_rx(uart);
	if ((switched || ((value & FCR_ENABLE) && (value & FCR_CLEAR_TX))) && uart->tx_count)
		clear_tx(uart);
	uart->fcr = value & FCR_ENABLE ? value & FCR_WRITABLE : 0;
	refill(uart);
	restart_timeout(uart);
	update(uart);
}

static void write_ier(struct uart *uart, u8 value)
{
	/* Enabling the transmitter interrupt while it is empty raises it at once; drivers rely on it. */
	if ((value & ~uart->ier & IER_THRE) && (uart->lsr & LSR_THRE))
		uart->thre_pending = true;
	uart->ier = value & IER_WRITABLE;
	update(uart);
}

static void write_mcr(struct uart *uart, u8 value)
{
	uart->mcr = value & MCR_WRITABLE;
	update_modem(uart);
	refill(uart);
	update(uart);
}

static u8 read_iir(struct uart *uart)
{
	u8 id = interrupt_id(uart);

	/* Reading acknowledges the transmitter interrupt, if it is the one shown. */
	if (id == IIR_THRE) {
		uart->thre_pending = false;
		update(uart);
	}
	return id | (fifo_on(uart) ? IIR_FIFO : 0);
}

static u8 read_lsr(struct uart *uart)
{
	u8 value = uart->lsr;
	uart->lsr &= (u8)~LSR_ERRORS;
	update(uart);
	return value;
}

static u8 read_msr(struct uart *uart)
{
	u8 value = uart->msr;
	uart->msr &= (u8)~MSR_DELTAS;
	update(uart);
	return value;
}

static u64 uart_read(void *device, u64 offset, unsigned size)
{
	struct uart *uart = device;
	bool dlab = uart->lcr & LCR_DLAB;

	switch (offset & 7) {
	case RBR:
		return dlab ? uart->divisor & 0xff : read_rbr(uart);
	case IER:
		return dlab ? uart->divisor >> 8 : uart->ier;
	case IIR:
		return read_iir(uart);
	case LCR:
		return uart->lcr;
	case MCR:
		return uart->mcr;
	case LSR:
		return read_lsr(uart);
	case MSR:
		return read_msr(uart);
	default:
		return uart->scr;
	}
}

static void uart_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct uart *uart = device;
	bool dlab = uart->lcr & LCR_DLAB;
	u8 byte = (u8)value;

	switch (offset & 7) {
	case THR:
		if (dlab)
			uart->divisor = (uart->divisor & 0xff00) | byte;
		else
			write_thr(uart, byte);
		break;
	case IER:
		if (dlab)
			uart->divisor = (u16)(byte << 8 | (uart->divisor & 0xff));
		else
			write_ier(uart, byte);
		break;
	case FCR:
		write_fcr(uart, byte);
		break;
	case LCR:
		uart->lcr = byte;
		break;
	case MCR:
		write_mcr(uart, byte);
		break;
	case SCR:
		uart->scr = byte;
		break;
	default: /* LSR and MSR: read-only but for factory tests */
		break;
	}
}

void uart_reset(struct uart *uart)
{
	uart->ier = uart->fcr = uart->lcr = uart->mcr = uart->scr = 0;
	uart->lsr = LSR_THRE | LSR_TEMT;
	uart->msr = MSR_CTS | MSR_DSR | MSR_DCD;
	uart->divisor = 12; /* 9600 bit/s; undefined on the chip */
	uart->tx_count = 0;
	clear_rx(uart);
	uart->thre_pending = false;
	update(uart);
}

void uart_init(struct uart *uart, struct clock *clock, struct irq_line irq, const struct uart_backend *backend,
	       void *opaque)
{
	*uart = (struct uart){ .clock = clock, .irq = irq, .opaque = opaque };
	if (backend)
		uart->backend = *backend;
	timer_init(&uart->timeout, clock, timeout_fired, uart);
	uart_reset(uart);
}

const struct io_ops uart_ops = { .read = uart_read, .write = uart_write, .byte_wide = true };
