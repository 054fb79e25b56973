#include "dev/i8042.h"

#include <string.h>

/* Status register. */
enum {
	STATUS_OBF = 0x01,
	STATUS_SYS = 0x04,
	STATUS_COMMAND = 0x08,
	STATUS_UNLOCKED = 0x10,
	STATUS_AUX = 0x20,
	STATUS_TIMEOUT = 0x40
};

/* Command byte. */
enum { MODE_KBD_INT = 0x01, MODE_SYS = 0x04, MODE_KBD_OFF = 0x10, MODE_AUX_OFF = 0x20 };

/* Output port. */
enum { OUT_RESET = 0x01, OUT_A20 = 0x02, OUT_OBF = 0x10 };

/* Controller commands (port 0x64). 0x20..0x3f read and 0x60..0x7f write controller RAM. */
enum {
	CMD_READ_RAM = 0x20,
	CMD_WRITE_RAM = 0x60,
	CMD_AUX_DISABLE = 0xa7,
	CMD_AUX_ENABLE = 0xa8,
	CMD_AUX_TEST = 0xa9,
	CMD_SELF_TEST = 0xaa,
	CMD_KBD_TEST = 0xab,
	CMD_KBD_DISABLE = 0xad,
	CMD_KBD_ENABLE = 0xae,
	CMD_READ_INPUT = 0xc0,
	CMD_READ_OUTPUT = 0xd0,
	CMD_WRITE_OUTPUT = 0xd1,
	CMD_WRITE_KBD_BUFFER = 0xd2,
	CMD_WRITE_AUX_BUFFER = 0xd3,
	CMD_WRITE_AUX = 0xd4,
	CMD_A20_OFF = 0xdd,
	CMD_A20_ON = 0xdf,
	CMD_PULSE = 0xf0 /* low nibble: the output port's bits that stay 1 */
};

/* Keyboard commands (port 0x60) and answers. */
enum {
	KBD_SET_LEDS = 0xed,
	KBD_ECHO = 0xee,
	KBD_SCAN_SET = 0xf0,
	KBD_IDENTIFY = 0xf2,
	KBD_RATE = 0xf3,
	KBD_ENABLE = 0xf4,
	KBD_DISABLE = 0xf5,
	KBD_DEFAULTS = 0xf6,
	KBD_RESEND = 0xfe,
	KBD_RESET = 0xff,
	KBD_ACK = 0xfa,
	KBD_SELF_TEST_OK = 0xaa
};

/* Queue flag beside the status bits: the byte comes from the keyboard, which the command byte can hold off. */
enum { FROM_KEYBOARD = 0x02 };

/* Is the byte at the queue's head in the output buffer, for the guest to read? */
static bool output_full(const struct i8042 *kbc)
{
	return kbc->count && !((kbc->queue[kbc->head].flags & FROM_KEYBOARD) && (kbc->ram[0] & MODE_KBD_OFF));
}

static void update(struct i8042 *kbc)
{
	bool aux = kbc->count && (kbc->queue[kbc->head].flags & STATUS_AUX);
	irq_set(&kbc->irq1, output_full(kbc) && !aux && (kbc->ram[0] & MODE_KBD_INT));
}

static void queue(struct i8042 *kbc, u8 byte, u8 flags)
{
	if (kbc->count == I8042_QUEUE)
		return;
	unsigned tail = (kbc->head + kbc->count++) % I8042_QUEUE;
	kbc->queue[tail].byte = byte;
	kbc->queue[tail].flags = flags;
}

static void from_keyboard(struct i8042 *kbc, u8 byte)
{
	kbc->last_sent = byte;
	queue(kbc, byte, FROM_KEYBOARD);
}

static void set_output_port(struct i8042 *kbc, u8 value)
{
	kbc->output_port = value & (u8)~OUT_OBF;
	if (!(value & OUT_RESET)) {
		/* The bit is the CPU's reset pin: the machine comes out of it with the bit set. */
		kbc->output_port |= OUT_RESET;
		if (kbc->reset)
			kbc->reset(kbc->opaque);
	}
}

/* --- the keyboard --- */

static void keyboard_defaults(struct i8042 *kbc)
{
	kbc->scan_set = 2;
	kbc->leds = 0;
	kbc->scanning = true;
	kbc->keyboard_command = 0;
}

static void keyboard_argument(struct i8042 *kbc, u8 command, u8 byte)
{
	from_keyboard(kbc, KBD_ACK);
	if (command == KBD_SET_LEDS)
		kbc->leds = byte & 7;
	else if (command == KBD_SCAN_SET && byte == 0)
		from_keyboard(kbc, kbc->scan_set);
	else if (command == KBD_SCAN_SET && byte <= 3)
		kbc->scan_set = byte;
}

static void keyboard_write(struct i8042 *kbc, u8 byte)
{
	u8 command = kbc->keyboard_command;

	kbc->keyboard_command = 0;
	if (command && byte < KBD_SET_LEDS) {
		keyboard_argument(kbc, command, byte);
		return;
	}
	switch (byte) {
	case KBD_ECHO:
		from_keyboard(kbc, KBD_ECHO);
		return;
	case KBD_RESEND:
		from_keyboard(kbc, kbc->last_sent);
		return;
	case KBD_SET_LEDS:
	case KBD_SCAN_SET:
	case KBD_RATE:
		kbc->keyboard_command = byte;
		from_keyboard(kbc, KBD_ACK);
		return;
	case KBD_IDENTIFY:
		from_keyboard(kbc, KBD_ACK);
		from_keyboard(kbc, 0xab);
		from_keyboard(kbc, 0x83);
		return;
	case KBD_ENABLE:
	case KBD_DISABLE:
	case KBD_DEFAULTS:
		if (byte != KBD_ENABLE)
			keyboard_defaults(kbc);
		kbc->scanning = byte != KBD_DISABLE;
		from_keyboard(kbc, KBD_ACK);
		return;
	case KBD_RESET:
		keyboard_defaults(kbc);
		from_keyboard(kbc, KBD_ACK);
		from_keyboard(kbc, KBD_SELF_TEST_OK);
		return;
	default:
		from_keyboard(kbc, KBD_RESEND);
		return;
	}
}

/* --- the controller --- */

static void command_argument(struct i8042 *kbc, u8 command, u8 byte)
{
	switch (command) {
	case CMD_WRITE_OUTPUT:
		set_output_port(kbc, byte);
		break;
	case CMD_WRITE_KBD_BUFFER:
		queue(kbc, byte, 0);
		break;
	case CMD_WRITE_AUX_BUFFER:
		queue(kbc, byte, STATUS_AUX);
		break;
	case CMD_WRITE_AUX:
		/* Nobody is there: the controller gives up with a time-out and RESEND. */
		queue(kbc, KBD_RESEND, STATUS_AUX | STATUS_TIMEOUT);
		break;
	default:
		kbc->ram[command & (I8042_RAM - 1)] = byte;
		break;
	}
}

static void command_simple(struct i8042 *kbc, u8 command)
{
	switch (command) {
	case CMD_AUX_DISABLE:
		kbc->ram[0] |= MODE_AUX_OFF;
		break;
	case CMD_AUX_ENABLE:
		kbc->ram[0] &= (u8)~MODE_AUX_OFF;
		break;
	case CMD_AUX_TEST: /* 0: lines are good */
	case CMD_KBD_TEST:
		queue(kbc, 0, 0);
		break;
	case CMD_SELF_TEST:
		kbc->ram[0] |= MODE_SYS | MODE_KBD_OFF | MODE_AUX_OFF;
		queue(kbc, 0x55, 0);
		break;
	case CMD_KBD_DISABLE:
		kbc->ram[0] |= MODE_KBD_OFF;
		break;
	case CMD_KBD_ENABLE:
		kbc->ram[0] &= (u8)~MODE_KBD_OFF;
		break;
	case CMD_READ_INPUT:
		queue(kbc, 0x80, 0); /* keyboard not locked */
		break;
	case CMD_READ_OUTPUT:
		queue(kbc, kbc->output_port | (output_full(kbc) ? OUT_OBF : 0), 0);
		break;
	case CMD_A20_OFF:
		kbc->output_port &= (u8)~OUT_A20;
		break;
	case CMD_A20_ON:
		kbc->output_port |= OUT_A20;
		break;
	default:
		break;
	}
}

static bool wants_argument(u8 command)
{
	return (command >= CMD_WRITE_RAM && command < CMD_WRITE_RAM + I8042_RAM) ||
	       (command >= CMD_WRITE_OUTPUT && command <= CMD_WRITE_AUX);
}

static void command_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct i8042 *kbc = device;
	u8 command = (u8)value;

	kbc->status_command = STATUS_COMMAND;
	kbc->pending_command = 0;
	if (wants_argument(command))
		kbc->pending_command = command;
	else if (command >= CMD_READ_RAM && command < CMD_READ_RAM + I8042_RAM)
		queue(kbc, kbc->ram[command & (I8042_RAM - 1)], 0);
	else if (command >= CMD_PULSE)
		/* Only the reset pin means anything; the other pulses end before anyone could look. */
		set_output_port(kbc, kbc->output_port & ((command & OUT_RESET) | (u8)~OUT_RESET));
	else
		command_simple(kbc, command);
	update(kbc);
}

static void data_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct i8042 *kbc = device;
	u8 command = kbc->pending_command;

	kbc->status_command = 0;
	kbc->pending_command = 0;
	if (command) {
		command_argument(kbc, command, (u8)value);
	} else {
		/* Writing to the keyboard switches its interface on. */
		kbc->ram[0] &= (u8)~MODE_KBD_OFF;
		keyboard_write(kbc, (u8)value);
	}
	update(kbc);
}

static u64 command_read(void *device, u64 offset, unsigned size)
{
	struct i8042 *kbc = device;
	u8 status = kbc->status_command | STATUS_UNLOCKED | (kbc->ram[0] & MODE_SYS ? STATUS_SYS : 0);

	if (output_full(kbc))
		status |= STATUS_OBF | (kbc->queue[kbc->head].flags & (STATUS_AUX | STATUS_TIMEOUT));
	return status;
}

static u64 data_read(void *device, u64 offset, unsigned size)
{
	struct i8042 *kbc = device;

	if (output_full(kbc)) {
		kbc->last_read = kbc->queue[kbc->head].byte;
		kbc->head = (kbc->head + 1) % I8042_QUEUE;
		kbc->count--;
		/* The line falls between two bytes, so that each is an edge. */
		irq_set(&kbc->irq1, false);
		update(kbc);
	}
	return kbc->last_read;
}

void i8042_reset(struct i8042 *kbc)
{
	memset(kbc->ram, 0, sizeof(kbc->ram));
	kbc->ram[0] = MODE_KBD_OFF | MODE_AUX_OFF;
	kbc->output_port = OUT_RESET | OUT_A20;
	kbc->status_command = STATUS_COMMAND;
	kbc->pending_command = 0;
	kbc->head = kbc->count = 0;
	kbc->last_sent = kbc->last_read = 0;
	keyboard_defaults(kbc);
	update(kbc);
}

void i8042_init(struct i8042 *kbc, struct irq_line irq1, void (*reset)(void *opaque), void *opaque)
{
	*kbc = (struct i8042){ .irq1 = irq1, .reset = reset, .opaque = opaque };
	i8042_reset(kbc);
}

const struct io_ops i8042_data_ops = { .read = data_read, .write = data_write, .byte_wide = true };
const struct io_ops i8042_command_ops = { .read = command_read, .write = command_write, .byte_wide = true };
