/* The 16550A: registers, FIFO and interrupts, loopback, back-pressure on output, the queue on input. */
#include "chip.h"
#include "dev/uart16550.h"

#include <string.h>

enum { RBR = 0, THR = 0, IER = 1, IIR = 2, FCR = 2, LCR = 3, MCR = 4, LSR = 5, MSR = 6, SCR = 7 };
enum { OUT2 = 8, LOOP = 16 };
enum { IIR_NONE = 1, IIR_MSI = 0, IIR_THRE = 2, IIR_RDA = 4, IIR_RLS = 6, IIR_TIMEOUT = 0xc };

struct rig {
	struct uart uart;
	struct clock clock;
	struct pins pins;
	char sent[256];
	size_t count, limit; /* the other end takes up to `limit` bytes in all */
	unsigned rooms;
};

static size_t on_output(void *opaque, const u8 *bytes, size_t n)
{
	struct rig *rig = opaque;
	if (n > rig->limit - rig->count)
		n = rig->limit - rig->count;
	memcpy(rig->sent + rig->count, bytes, n);
	rig->count += n;
	return n;
}

static void on_room(void *opaque)
{
	((struct rig *)opaque)->rooms++;
}

static u8 in(struct rig *rig, u64 reg)
{
	return in8(&uart_ops, &rig->uart, reg);
}

static void out(struct rig *rig, u64 reg, u8 value)
{
	out8(&uart_ops, &rig->uart, reg, value);
}

static struct rig *rig_new(void)
{
	static const struct uart_backend backend = { on_output, on_room };
	struct rig *rig = g_new0(struct rig, 1);
	rig->limit = sizeof(rig->sent);
	clock_init_manual(&rig->clock);
	uart_init(&rig->uart, &rig->clock, pin(&rig->pins, 4), &backend, rig);
	out(rig, MCR, OUT2);
	in(rig, MSR);
	return rig;
}

static size_t receive(struct rig *rig, const char *text)
{
	return uart_receive(&rig->uart, (const u8 *)text, strlen(text));
}

static bool irq(const struct rig *rig)
{
	return rig->pins.level[4];
}

static void test_registers(void)
{
	struct rig *rig = rig_new();
	out(rig, SCR, 0x5a);
	g_assert_cmphex(in(rig, SCR), ==, 0x5a);
	out(rig, LCR, 0x83);
	out(rig, 0, 0x01);
	out(rig, 1, 0x00);
	g_assert_cmphex(in(rig, 0), ==, 0x01);
	out(rig, 1, 0xab);
	g_assert_cmphex(in(rig, 1), ==, 0xab);
	out(rig, LCR, 0x03);
	g_assert_cmphex(in(rig, IER), ==, 0);
	out(rig, IER, 0xff);
	g_assert_cmphex(in(rig, IER), ==, 0x0f);
	g_assert_cmphex(in(rig, LSR), ==, 0x60);
	g_assert_cmphex(in(rig, MSR), ==, 0xb0); /* CTS, DSR, DCD */
	g_assert_cmphex(in(rig, IIR) & 0xc0, ==, 0);
	out(rig, FCR, 0x01);
	g_assert_cmphex(in(rig, IIR) & 0xc0, ==, 0xc0); /* it is a 16550A */
	out(rig, MCR, 0xff);
	g_assert_cmphex(in(rig, MCR), ==, 0x1f);
	g_free(rig);
}

static void test_output(void)
{
	struct rig *rig = rig_new();
	for (const char *c = "hello\n"; *c; c++) {
		g_assert_true(in(rig, LSR) & 0x20);
		out(rig, THR, (u8)*c);
	}
	g_assert_cmpstr(rig->sent, ==, "hello\n");
	g_assert_true(uart_output_empty(&rig->uart));
	g_free(rig);
}

static void test_back_pressure(void)
{
	struct rig *rig = rig_new();
	rig->limit = 2;
	out(rig, FCR, 0x01);
	out(rig, IER, 0x02);
	in(rig, IIR);
	for (unsigned i = 0; i < 10; i++)
		out(rig, THR, (u8)('a' + i));
	g_assert_cmpint(rig->count, ==, 2);
	g_assert_cmphex(in(rig, LSR) & 0x60, ==, 0); /* busy */
	g_assert_false(irq(rig));
	rig->limit = 6;
	uart_output_ready(&rig->uart);
	g_assert_cmphex(in(rig, LSR) & 0x60, ==, 0);
	rig->limit = 100;
	uart_output_ready(&rig->uart);
	g_assert_cmphex(in(rig, LSR) & 0x60, ==, 0x60);
	g_assert_true(irq(rig));
	g_assert_cmpstr(rig->sent, ==, "abcdefghij");
	g_free(rig);
}

static void test_thre_interrupt(void)
{
	struct rig *rig = rig_new();
	g_assert_false(irq(rig));
	out(rig, IER, 0x02); /* enabling while empty raises it */
	g_assert_true(irq(rig));
	g_assert_cmphex(in(rig, IIR), ==, IIR_THRE);
	g_assert_false(irq(rig)); /* reading IIR acknowledges */
	g_assert_cmphex(in(rig, IIR), ==, IIR_NONE);
	out(rig, THR, 'x');
	g_assert_true(irq(rig));
	out(rig, IER, 0);
	g_assert_false(irq(rig));
	g_free(rig);
}

static void test_receive(void)
{
	struct rig *rig = rig_new();
	out(rig, IER, 0x01);
	g_assert_cmpint(receive(rig, "ab"), ==, 2);
	g_assert_true(irq(rig));
	g_assert_cmphex(in(rig, IIR), ==, IIR_RDA);
	g_assert_true(in(rig, LSR) & 1);
	g_assert_cmpint(in(rig, RBR), ==, 'a');
	g_assert_true(irq(rig)); /* the next one moves up from the queue */
	g_assert_cmpint(in(rig, RBR), ==, 'b');
	g_assert_false(irq(rig));
	g_assert_false(in(rig, LSR) & 1);
	g_free(rig);
}

static void test_trigger_and_timeout(void)
{
	struct rig *rig = rig_new();
	out(rig, LCR, 0x83);
	out(rig, 0, 1); /* 115200 bit/s: a character takes 86.8 us */
	out(rig, 1, 0);
	out(rig, LCR, 0x03);
	out(rig, FCR, 0x81); /* trigger at 8 */
	out(rig, IER, 0x01);
	receive(rig, "1234567");
	g_assert_false(irq(rig));
	receive(rig, "8");
	g_assert_cmphex(in(rig, IIR), ==, 0xc0 | IIR_RDA);
	in(rig, RBR);
	g_assert_false(irq(rig));
	clock_advance(&rig->clock, 340000);
	g_assert_false(irq(rig));
	clock_advance(&rig->clock, 10000); /* four characters later */
	g_assert_true(irq(rig));
	g_assert_cmphex(in(rig, IIR), ==, 0xc0 | IIR_TIMEOUT);
	in(rig, RBR); /* reading restarts the time-out */
	g_assert_false(irq(rig));
	clock_advance(&rig->clock, 350000);
	g_assert_true(irq(rig));
	for (unsigned i = 0; i < 6; i++)
		in(rig, RBR);
	g_assert_false(irq(rig));
	clock_advance(&rig->clock, 1000000);
	g_assert_false(irq(rig)); /* nothing left to wait for */
	g_free(rig);
}

static void test_long_input(void)
{
	struct rig *rig = rig_new();
	u8 bytes[UART_QUEUE];
	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (u8)(i * 7);
	out(rig, FCR, 0x01);
	/* The FIFO is filled after the queue: both hold more than the queue alone. */
	g_assert_cmpint(uart_receive(&rig->uart, bytes, sizeof(bytes)), ==, sizeof(bytes));
	g_assert_cmpint(uart_room(&rig->uart), ==, UART_FIFO);
	g_assert_cmpint(uart_receive(&rig->uart, bytes, 100), ==, UART_FIFO);
	g_assert_cmpint(uart_receive(&rig->uart, bytes, 1), ==, 0);
	for (unsigned i = 0; i < sizeof(bytes); i++)
		g_assert_cmphex(in(rig, RBR), ==, bytes[i]);
	g_assert_cmpint(rig->rooms, ==, 1);
	g_assert_false(in(rig, LSR) & 2); /* no overrun */
	g_free(rig);
}

static void test_loopback(void)
{
	struct rig *rig = rig_new();
	out(rig, MCR, LOOP | OUT2 | 0x3);
	out(rig, THR, 'q');
	g_assert_cmpint(rig->count, ==, 0); /* nothing leaves */
	g_assert_true(in(rig, LSR) & 1);
	g_assert_cmpint(in(rig, RBR), ==, 'q');
	in(rig, MSR);
	g_assert_cmphex(in(rig, MSR), ==, 0xb0); /* RTS, DTR, OUT2 as CTS, DSR, DCD */
	out(rig, MCR, LOOP | 0x4);
	g_assert_cmphex(in(rig, MSR), ==, 0x4b); /* OUT1 as RI; three deltas */
	out(rig, MCR, LOOP);
	g_assert_cmphex(in(rig, MSR), ==, 0x04); /* trailing edge of RI */
	receive(rig, "z");                       /* the line is cut off */
	g_assert_false(in(rig, LSR) & 1);
	out(rig, MCR, OUT2);
	g_assert_cmpint(in(rig, RBR), ==, 'z');
	g_free(rig);
}

static void test_overrun(void)
{
	struct rig *rig = rig_new();
	out(rig, IER, 0x04);
	out(rig, MCR, LOOP | OUT2);
	out(rig, THR, 'a');
	out(rig, THR, 'b');
	g_assert_cmphex(in(rig, IIR), ==, IIR_RLS);
	g_assert_cmphex(in(rig, LSR) & 0x1f, ==, 0x03);
	g_assert_cmphex(in(rig, LSR) & 0x1f, ==, 0x01); /* read clears */
	g_assert_cmpint(in(rig, RBR), ==, 'b');
	g_free(rig);
}

static void test_break(void)
{
	struct rig *rig = rig_new();
	out(rig, IER, 0x05);
	uart_receive_break(&rig->uart);
	g_assert_cmphex(in(rig, IIR), ==, IIR_RLS); /* before data */
	g_assert_cmphex(in(rig, LSR) & 0x1f, ==, 0x11);
	g_assert_cmphex(in(rig, IIR), ==, IIR_RDA);
	g_assert_cmphex(in(rig, RBR), ==, 0);
	g_free(rig);
}

static void test_out2_gates(void)
{
	struct rig *rig = rig_new();
	out(rig, IER, 0x02);
	g_assert_true(irq(rig));
	out(rig, MCR, 0);
	g_assert_false(irq(rig));
	out(rig, MCR, OUT2);
	g_assert_true(irq(rig));
	g_free(rig);
}

static void test_fifo_reset(void)
{
	struct rig *rig = rig_new();
	out(rig, FCR, 0x01);
	receive(rig, "abc");
	out(rig, FCR, 0x03);
	g_assert_false(in(rig, LSR) & 1);
	receive(rig, "d");
	g_assert_cmpint(in(rig, RBR), ==, 'd');
	receive(rig, "e");
	out(rig, FCR, 0x00); /* switching off empties, too */
	g_assert_false(in(rig, LSR) & 1);
	g_free(rig);
}

static void test_reset(void)
{
	struct rig *rig = rig_new();
	rig->limit = 0;
	out(rig, IER, 0x0f);
	out(rig, FCR, 0x01);
	out(rig, THR, 'x');
	receive(rig, "abc");
	uart_reset(&rig->uart);
	g_assert_false(irq(rig));
	g_assert_cmphex(in(rig, LSR), ==, 0x60);
	g_assert_cmphex(in(rig, IIR), ==, IIR_NONE);
	g_assert_cmphex(in(rig, MCR), ==, 0);
	rig->limit = 10;
	uart_output_ready(&rig->uart);
	g_assert_cmpint(rig->count, ==, 0);
	clock_advance(&rig->clock, NS_PER_SEC);
	g_assert_false(irq(rig));
	g_free(rig);
}

static void test_loopback_thre(void)
{
	struct rig *rig = rig_new();
	out(rig, MCR, LOOP | OUT2);
	out(rig, IER, 0x02);
	in(rig, IIR);
	out(rig, THR, 'x');
	g_assert_cmphex(in(rig, IIR), ==, IIR_THRE);
	g_free(rig);
}

static void test_fifo_reset_tx(void)
{
	struct rig *rig = rig_new();
	rig->limit = 0;
	out(rig, FCR, 0x01);
	out(rig, THR, 'x');
	g_assert_cmphex(in(rig, LSR) & 0x60, ==, 0);
	out(rig, FCR, 0x03); /* the receiver's alone */
	g_assert_false(uart_output_empty(&rig->uart));
	out(rig, FCR, 0x05);
	g_assert_true(uart_output_empty(&rig->uart));
	g_assert_cmphex(in(rig, LSR) & 0x60, ==, 0x60);
	g_free(rig);
}

static void test_status_irq(void)
{
	struct rig *rig = rig_new();
	out(rig, IER, 0x04);
	uart_receive_break(&rig->uart);
	g_assert_true(irq(rig));
	in(rig, LSR);
	g_assert_false(irq(rig));
	out(rig, IER, 0x08);
	out(rig, MCR, OUT2 | LOOP);
	out(rig, MCR, OUT2); /* the lines changed twice */
	g_assert_true(irq(rig));
	g_assert_cmphex(in(rig, IIR), ==, IIR_MSI);
	in(rig, MSR);
	g_assert_false(irq(rig));
	g_free(rig);
}

static void test_idle_fifo_reset(void)
{
	struct rig *rig = rig_new();
	out(rig, IER, 0x02);
	in(rig, IIR);
	out(rig, FCR, 0x05);
	g_assert_false(irq(rig));
	g_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/uart/registers-keep-what-they-should", test_registers);
	g_test_add_func("/uart/output-leaves-at-once", test_output);
	g_test_add_func("/uart/transmitter-waits-for-the-other-end", test_back_pressure);
	g_test_add_func("/uart/transmitter-interrupt", test_thre_interrupt);
	g_test_add_func("/uart/receiver-interrupt", test_receive);
	g_test_add_func("/uart/fifo-trigger-and-time-out", test_trigger_and_timeout);
	g_test_add_func("/uart/long-input-waits-in-the-queue", test_long_input);
	g_test_add_func("/uart/loopback", test_loopback);
	g_test_add_func("/uart/overrun-in-loopback", test_overrun);
	g_test_add_func("/uart/break-comes-before-data", test_break);
	g_test_add_func("/uart/out2-gates-the-interrupt", test_out2_gates);
	g_test_add_func("/uart/fifo-reset-empties", test_fifo_reset);
	g_test_add_func("/uart/reset-is-quiet-and-empty", test_reset);
	g_test_add_func("/uart/loopback-transmitter-interrupts", test_loopback_thre);
	g_test_add_func("/uart/fifo-reset-drops-output", test_fifo_reset_tx);
	g_test_add_func("/uart/status-interrupt-ends-with-the-read", test_status_irq);
	g_test_add_func("/uart/transmit-interrupt-not-raised-by-idle-fifo-reset", test_idle_fifo_reset);
	return g_test_run();
}
