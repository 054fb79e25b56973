/* The keyboard controller, and the single-port registers beside it. */
#include "dev/i8042.h"
#include "chip.h"
#include "dev/debugexit.h"
#include "dev/sysport.h"
#include "dev/testdev.h"

struct rig {
	struct i8042 kbc;
	struct sysport ports;
	struct pins pins;
	unsigned resets;
};

static void on_reset(void *opaque)
{
	((struct rig *)opaque)->resets++;
}

static struct rig *rig_new(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	i8042_init(&rig->kbc, pin(&rig->pins, 1), on_reset, rig);
	sysport_init(&rig->ports, on_reset, rig);
	return rig;
}

static u8 status(struct rig *rig)
{
	return in8(&i8042_command_ops, &rig->kbc, 0);
}

static void command(struct rig *rig, u8 value)
{
	out8(&i8042_command_ops, &rig->kbc, 0, value);
}

static void data(struct rig *rig, u8 value)
{
	out8(&i8042_data_ops, &rig->kbc, 0, value);
}

/* The next byte of the output buffer, which must be full. */
static u8 answer(struct rig *rig)
{
	g_assert_true(status(rig) & 1);
	return in8(&i8042_data_ops, &rig->kbc, 0);
}

static void test_self_tests(void)
{
	struct rig *rig = rig_new();
	g_assert_cmphex(status(rig) & 0x05, ==, 0);
	command(rig, 0xaa);
	g_assert_true(status(rig) & 8); /* the last write was a command */
	g_assert_cmphex(answer(rig), ==, 0x55);
	g_assert_false(status(rig) & 1);
	g_assert_true(status(rig) & 4); /* passed */
	command(rig, 0xab);
	g_assert_cmphex(answer(rig), ==, 0);
	g_free(rig);
}

static void test_command_byte(void)
{
	struct rig *rig = rig_new();
	command(rig, 0x60);
	data(rig, 0x45);
	command(rig, 0x20);
	g_assert_cmphex(answer(rig), ==, 0x45);
	command(rig, 0xad);
	command(rig, 0x20);
	g_assert_cmphex(answer(rig), ==, 0x55);
	command(rig, 0xae);
	command(rig, 0xa7);
	command(rig, 0x20);
	g_assert_cmphex(answer(rig), ==, 0x65);
	command(rig, 0x7f); /* controller RAM, byte 31 */
	data(rig, 0x99);
	command(rig, 0x3f);
	g_assert_cmphex(answer(rig), ==, 0x99);
	g_free(rig);
}

static void test_keyboard(void)
{
	struct rig *rig = rig_new();
	command(rig, 0x60);
	data(rig, 0x01); /* interrupts on, keyboard on */
	data(rig, 0xff);
	g_assert_true(rig->pins.level[1]);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	g_assert_cmphex(answer(rig), ==, 0xaa);
	g_assert_false(rig->pins.level[1]);
	g_assert_cmpint(rig->pins.rises[1], ==, 2); /* an edge for each byte */
	data(rig, 0xf2);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	g_assert_cmphex(answer(rig), ==, 0xab);
	g_assert_cmphex(answer(rig), ==, 0x83);
	data(rig, 0xee);
	g_assert_cmphex(answer(rig), ==, 0xee);
	data(rig, 0xed);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	data(rig, 0x07);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	g_assert_cmphex(rig->kbc.leds, ==, 7);
	data(rig, 0xf0);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	data(rig, 0x00);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	g_assert_cmphex(answer(rig), ==, 0x02); /* scan code set */
	data(rig, 0x12);                        /* no such command */
	g_assert_cmphex(answer(rig), ==, 0xfe);
	g_free(rig);
}

static void test_no_mouse(void)
{
	struct rig *rig = rig_new();
	command(rig, 0xd4);
	data(rig, 0xff);
	g_assert_cmphex(status(rig) & 0x61, ==, 0x61); /* for the mouse, time-out */
	g_assert_cmphex(answer(rig), ==, 0xfe);
	command(rig, 0xd3);
	data(rig, 0x5a);
	g_assert_cmphex(status(rig) & 0x61, ==, 0x21);
	g_assert_cmphex(answer(rig), ==, 0x5a);
	g_assert_cmpint(rig->pins.rises[1], ==, 0);
	g_free(rig);
}

static void test_resets(void)
{
	struct rig *rig = rig_new();
	command(rig, 0xfe);
	g_assert_cmpint(rig->resets, ==, 1);
	command(rig, 0xff); /* pulses nothing */
	g_assert_cmpint(rig->resets, ==, 1);
	command(rig, 0xd1);
	data(rig, 0x02);
	g_assert_cmpint(rig->resets, ==, 2);
	g_free(rig);
}

static void test_output_port(void)
{
	struct rig *rig = rig_new();
	command(rig, 0xd1);
	data(rig, 0xdd);
	command(rig, 0xd0);
	g_assert_cmphex(answer(rig) & 0x03, ==, 0x01); /* A20 off */
	command(rig, 0xdf);
	command(rig, 0xd0);
	g_assert_cmphex(answer(rig) & 0x03, ==, 0x03);
	g_assert_cmpint(rig->resets, ==, 0);
	g_free(rig);
}

static void test_full_queue(void)
{
	struct rig *rig = rig_new();
	for (unsigned i = 0; i < 100; i++)
		data(rig, 0xee);
	unsigned n = 0;
	while (status(rig) & 1) {
		in8(&i8042_data_ops, &rig->kbc, 0);
		n++;
	}
	g_assert_cmpint(n, ==, I8042_QUEUE);
	in8(&i8042_data_ops, &rig->kbc, 0); /* empty: the last byte again */
	g_free(rig);
}

static void test_port92(void)
{
	struct rig *rig = rig_new();
	g_assert_cmphex(in8(&sysport_92_ops, &rig->ports, 0), ==, 2);
	out8(&sysport_92_ops, &rig->ports, 0, 0);
	g_assert_cmphex(in8(&sysport_92_ops, &rig->ports, 0), ==, 0);
	out8(&sysport_92_ops, &rig->ports, 0, 3);
	g_assert_cmpint(rig->resets, ==, 1);
	out8(&sysport_92_ops, &rig->ports, 0, 3); /* only the rising bit resets */
	g_assert_cmpint(rig->resets, ==, 1);
	g_free(rig);
}

static void test_cf9(void)
{
	struct rig *rig = rig_new();
	out8(&sysport_cf9_ops, &rig->ports, 0, 0x02);
	g_assert_cmpint(rig->resets, ==, 0);
	out8(&sysport_cf9_ops, &rig->ports, 0, 0x06);
	g_assert_cmpint(rig->resets, ==, 1);
	sysport_reset(&rig->ports);
	g_assert_cmphex(in8(&sysport_cf9_ops, &rig->ports, 0), ==, 0);
	g_free(rig);
}

static void test_post(void)
{
	struct rig *rig = rig_new();
	out8(&sysport_post_ops, &rig->ports, 0, 0x42);
	g_assert_cmphex(in8(&sysport_post_ops, &rig->ports, 0), ==, 0x42);
	g_assert_cmpint(rig->resets, ==, 0);
	g_free(rig);
}

static void on_exit_status(void *opaque, int status_code)
{
	*(int *)opaque = status_code;
}

static void test_debugexit(void)
{
	struct debugexit dx;
	int code = -1;
	debugexit_init(&dx, on_exit_status, &code);
	debugexit_ops.write(&dx, 0, 4, 0);
	g_assert_cmpint(code, ==, 1);
	debugexit_ops.write(&dx, 0, 4, 0x10);
	g_assert_cmpint(code, ==, 0x21);
	debugexit_ops.write(&dx, 0, 4, 0xffffffff);
	g_assert_cmpint(code, ==, 0xff);
}

static void on_console(void *opaque, u8 byte)
{
	*(u8 *)opaque = byte;
}

static void test_testdev(void)
{
	struct testdev *dev = g_new0(struct testdev, 1);
	struct pins pins = { 0 };
	u8 byte = 0;
	testdev_init(dev, pin(&pins, 0), on_console, &byte);
	out32(&testdev_echo_ops, dev, 0, 0x12345678);
	g_assert_cmphex(in32(&testdev_echo_ops, dev, 0), ==, 0x12345678);
	testdev_echo_ops.write(dev, 0, 2, 0xabcd);
	g_assert_cmphex(testdev_echo_ops.read(dev, 0, 2), ==, 0xabcd);
	out8(&testdev_echo_ops, dev, 0, 0x99);
	g_assert_cmphex(in8(&testdev_echo_ops, dev, 0), ==, 0x99);
	out8(&testdev_irq_ops, dev, 23, 1);
	g_assert_true(pins.level[23]);
	out8(&testdev_irq_ops, dev, 23, 0);
	g_assert_false(pins.level[23]);
	out8(&testdev_console_ops, dev, 0, 'k');
	g_assert_cmpint(byte, ==, 'k');
	testdev_iomem_ops.write(dev, TESTDEV_IOMEM_SIZE - 8, 8, 0x1122334455667788);
	g_assert_cmphex(testdev_iomem_ops.read(dev, TESTDEV_IOMEM_SIZE - 4, 4), ==, 0x11223344);
	testdev_iomem_ops.write(dev, TESTDEV_IOMEM_SIZE - 4, 8, 0);
	g_assert_cmphex(testdev_iomem_ops.read(dev, TESTDEV_IOMEM_SIZE - 4, 4), ==, 0x11223344);
	g_free(dev);
}

static void test_reset(void)
{
	struct rig *rig = rig_new();
	command(rig, 0x60);
	data(rig, 0x01);
	data(rig, 0xee);
	g_assert_true(rig->pins.level[1]);
	command(rig, 0xd1); /* waits for its byte */
	i8042_reset(&rig->kbc);
	g_assert_false(rig->pins.level[1]);
	g_assert_cmphex(status(rig) & 1, ==, 0);
	g_assert_true(status(rig) & 8);
	data(rig, 0xee); /* goes to the keyboard */
	g_assert_cmphex(answer(rig), ==, 0xee);
	g_assert_cmpint(rig->resets, ==, 0);
	g_free(rig);
}

static void test_command_replaces(void)
{
	struct rig *rig = rig_new();
	command(rig, 0xd1);
	command(rig, 0xa8);
	data(rig, 0xee);
	g_assert_cmphex(answer(rig), ==, 0xee);
	g_assert_cmpint(rig->resets, ==, 0);
	data(rig, 0xed); /* LEDs, but then another command instead of their byte */
	g_assert_cmphex(answer(rig), ==, 0xfa);
	data(rig, 0xf2);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	g_assert_cmphex(answer(rig), ==, 0xab);
	g_free(rig);
}

static void test_keyboard_state(void)
{
	struct rig *rig = rig_new();
	data(rig, 0xf5);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	g_assert_false(rig->kbc.scanning);
	data(rig, 0xf4);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	g_assert_true(rig->kbc.scanning);
	data(rig, 0xf0);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	data(rig, 0x01);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	g_assert_false(status(rig) & 1); /* no answer to setting */
	g_assert_cmpint(rig->kbc.scan_set, ==, 1);
	data(rig, 0xf6);
	g_assert_cmphex(answer(rig), ==, 0xfa);
	g_assert_cmpint(rig->kbc.scan_set, ==, 2);
	data(rig, 0xfe);
	g_assert_cmphex(answer(rig), ==, 0xfa); /* the last byte again */
	g_free(rig);
}

static void test_testdev_reset(void)
{
	struct testdev *dev = g_new0(struct testdev, 1);
	testdev_init(dev, (struct irq_line){ 0 }, NULL, NULL);
	out32(&testdev_echo_ops, dev, 0, 0x12345678);
	out32(&testdev_iomem_ops, dev, 0x100, 0x12345678);
	testdev_reset(dev);
	g_assert_cmphex(in32(&testdev_echo_ops, dev, 0), ==, 0);
	g_assert_cmphex(in32(&testdev_iomem_ops, dev, 0x100), ==, 0);
	out8(&testdev_console_ops, dev, 0, 'x'); /* nobody listens */
	out8(&testdev_irq_ops, dev, 0, 1);
	g_free(dev);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/i8042/self-tests-pass", test_self_tests);
	g_test_add_func("/i8042/command-byte-and-ram", test_command_byte);
	g_test_add_func("/i8042/keyboard-answers", test_keyboard);
	g_test_add_func("/i8042/no-mouse", test_no_mouse);
	g_test_add_func("/i8042/resets-the-machine", test_resets);
	g_test_add_func("/i8042/output-port-and-a20", test_output_port);
	g_test_add_func("/i8042/full-queue-drops", test_full_queue);
	g_test_add_func("/sysport/port-92-resets-on-a-rising-bit", test_port92);
	g_test_add_func("/sysport/cf9-resets-on-rst-cpu", test_cf9);
	g_test_add_func("/sysport/post-code-reads-back", test_post);
	g_test_add_func("/debugexit/status-is-twice-plus-one", test_debugexit);
	g_test_add_func("/testdev/ports-and-memory", test_testdev);
	g_test_add_func("/i8042/reset-forgets", test_reset);
	g_test_add_func("/i8042/new-command-drops-the-waiting-one", test_command_replaces);
	g_test_add_func("/i8042/keyboard-state", test_keyboard_state);
	g_test_add_func("/testdev/reset-clears", test_testdev_reset);
	return g_test_run();
}
