#include "chip/pic.h"

/* ICW1 and OCW bits (8259A data sheet). */
enum {
	ICW1_IC4 = 0x01,
	ICW1_SNGL = 0x02,
	ICW1_LTIM = 0x08,
	ICW1 = 0x10, /* even port: this bit makes it ICW1 */
	OCW3 = 0x08, /* even port: this bit makes it OCW3, else OCW2 */
	OCW3_RIS = 0x01,
	OCW3_RR = 0x02,
	OCW3_POLL = 0x04,
	OCW3_SMM = 0x20,
	OCW3_ESMM = 0x40,
	ICW4_AEOI = 0x02,
	ICW4_SFNM = 0x10
};
enum { MASTER_CASCADE = 2 };

static u8 level_inputs(const struct i8259 *chip)
{
	return chip->level_mode ? 0xff : chip->elcr;
}

/* Priority of an input, 0 the highest; 8 for "none" (an empty set). */
static unsigned priority(const struct i8259 *chip, u8 set)
{
	for (unsigned p = 0; p < 8; p++)
		if (set >> ((chip->lowest + 1 + p) & 7) & 1)
			return p;
	return 8;
}

static unsigned input_of(const struct i8259 *chip, unsigned p)
{
	return (chip->lowest + 1 + p) & 7;
}

/* The input that asks for service and may have it, -1 if none. */
static int requesting(const struct i8259 *chip)
{
	u8 in_service = chip->isr;
	unsigned asks = priority(chip, chip->irr & ~chip->imr);

	if (asks == 8)
		return -1;
	/* Special mask mode: an input in service that is masked holds up nobody. */
	if (chip->special_mask)
		in_service &= (u8)~chip->imr;
	unsigned served = priority(chip, in_service);
	/* Special fully nested: the slave may ask again while the master serves it (for a higher one of its own). */
	bool nested_slave = chip->master && (chip->icw4 & ICW4_SFNM) && input_of(chip, asks) == MASTER_CASCADE;
	if (asks < served || (nested_slave && asks == served))
		return (int)input_of(chip, asks);
	return -1;
}

static void update(struct pic *pic);

static void chip_set_input(struct i8259 *chip, unsigned input, bool level)
{
	u8 bit = (u8)(1 << input);

	/*
	 * An edge stays in IRR even if the input falls again before it is acknowledged. The real chip would forget it
	 * and answer with a spurious vector, but a virtual CPU may be late, and no guest wants to lose the tick.
	 */
	if (level_inputs(chip) & bit)
		chip->irr = level ? chip->irr | bit : chip->irr & (u8)~bit;
	else if (level && !(chip->line & bit))
		chip->irr |= bit;
	chip->line = level ? chip->line | bit : chip->line & (u8)~bit;
}

static void update(struct pic *pic)
{
	bool slave_int = requesting(&pic->chip[1]) >= 0 && !pic->chip[1].init_step;
	struct i8259 *master = &pic->chip[0];
	/* The slave's INT pin stays up as long as it has a request: the cascade follows it like a level. */
	u8 cascade = 1 << MASTER_CASCADE;
	master->irr = slave_int ? master->irr | cascade : master->irr & (u8)~cascade;
	master->line = slave_int ? master->line | cascade : master->line & (u8)~cascade;
	bool level = requesting(master) >= 0 && !master->init_step;
	if (level == pic->intr_level)
		return;
	pic->intr_level = level;
	irq_set(&pic->intr, level);
}

void pic_set_irq(void *opaque, unsigned irq, bool level)
{
	struct pic *pic = opaque;

	if (irq > 15 || irq == MASTER_CASCADE)
		return;
	chip_set_input(&pic->chip[irq / 8], irq % 8, level);
	update(pic);
}

/* The second INTA cycle of one chip: the input acknowledged; 7, without going into service, if nothing asks any more.
 */
static unsigned acknowledge(struct i8259 *chip)
{
	int input = requesting(chip);

	if (input < 0)
		return 7;
	u8 bit = (u8)(1 << input);
	if (!(level_inputs(chip) & bit))
		chip->irr &= (u8)~bit;
	if (!(chip->icw4 & ICW4_AEOI))
		chip->isr |= bit;
	else if (chip->rotate_auto_eoi)
		chip->lowest = (u8)input;
	return (unsigned)input;
}

int pic_ack(void *opaque)
{
	struct pic *pic = opaque;
	struct i8259 *master = &pic->chip[0], *slave = &pic->chip[1];
	bool real = requesting(master) >= 0;
	unsigned input = acknowledge(master);
	unsigned vector = master->vector_base + input;

	if (real && input == MASTER_CASCADE)
		vector = slave->vector_base + acknowledge(slave);
	update(pic);
	return (int)vector;
}

static void end_of_interrupt(struct i8259 *chip, u8 value)
{
	bool rotate = value & 0x80, specific = value & 0x40;
	unsigned input = value & 7;

	if (!specific) {
		u8 served = chip->isr;
		if (chip->special_mask)
			served &= (u8)~chip->imr;
		unsigned p = priority(chip, served);
		if (p == 8)
			return;
		input = input_of(chip, p);
	}
	chip->isr &= (u8) ~(1 << input);
	if (rotate)
		chip->lowest = (u8)input;
}

static void write_ocw2(struct i8259 *chip, u8 value)
{
	switch (value >> 5) {
	case 1: /* EOI: non-specific, specific, and both rotating */
	case 3:
	case 5:
	case 7:
		end_of_interrupt(chip, value);
		break;
	case 0:
	case 4:
		chip->rotate_auto_eoi = value & 0x80;
		break;
	case 6: /* set priority */
		chip->lowest = value & 7;
		break;
	}
}

static void write_ocw3(struct i8259 *chip, u8 value)
{
	if (value & OCW3_ESMM)
		chip->special_mask = value & OCW3_SMM;
	if (value & OCW3_RR)
		chip->read_isr = value & OCW3_RIS;
	chip->poll = value & OCW3_POLL;
}

static void write_icw1(struct i8259 *chip, u8 value)
{
	chip->single = value & ICW1_SNGL;
	chip->expect_icw4 = value & ICW1_IC4;
	chip->level_mode = value & ICW1_LTIM;
	chip->init_step = 2;
	chip->imr = 0;
	chip->isr = 0;
	chip->lowest = 7;
	chip->special_mask = false;
	chip->read_isr = false;
	chip->poll = false;
	chip->rotate_auto_eoi = false;
	if (!chip->expect_icw4)
		chip->icw4 = 0;
	/* The edge sense is reset: an edge input must go low and high again; active level inputs go on asking. */
	chip->irr = chip->line & level_inputs(chip);
}

static void write_odd(struct i8259 *chip, u8 value)
{
	switch (chip->init_step) {
	case 2:
		chip->vector_base = value & 0xf8;
		chip->init_step = !chip->single ? 3 : chip->expect_icw4 ? 4 : 0;
		break;
	case 3:
		chip->cascade = value;
		chip->init_step = chip->expect_icw4 ? 4 : 0;
		break;
	case 4:
		chip->icw4 = value;
		chip->init_step = 0;
		break;
	default:
		chip->imr = value;
		break;
	}
}

static void pic_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct i8259 *chip = device;

	if (offset & 1)
		write_odd(chip, (u8)value);
	else if (value & ICW1)
		write_icw1(chip, (u8)value);
	else if (value & OCW3)
		write_ocw3(chip, (u8)value);
	else
		write_ocw2(chip, (u8)value);
	update(chip->pair);
}

/* A poll is an acknowledge cycle by reading: bit 7 says whether there was a request, bits 2..0 which. */
static u8 poll(struct i8259 *chip)
{
	chip->poll = false;
	if (requesting(chip) < 0)
		return 0;
	u8 value = (u8)(0x80 | acknowledge(chip));
	update(chip->pair);
	return value;
}

static u64 pic_read(void *device, u64 offset, unsigned size)
{
	struct i8259 *chip = device;

	if (chip->poll)
		return poll(chip);
	if (offset & 1)
		return chip->imr;
	return chip->read_isr ? chip->isr : chip->irr;
}

/* Inputs that must stay edge-triggered: timer, keyboard, cascade; RTC and FPU error. */
static const u8 elcr_writable[2] = { 0xf8, 0xde };

static u64 elcr_read(void *device, u64 offset, unsigned size)
{
	struct pic *pic = device;
	return pic->chip[offset & 1].elcr;
}

static void elcr_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct pic *pic = device;
	struct i8259 *chip = &pic->chip[offset & 1];

	chip->elcr = (u8)value & elcr_writable[offset & 1];
	/* Inputs that are level-triggered now follow their lines. */
	chip->irr = (chip->irr & ~level_inputs(chip)) | (chip->line & level_inputs(chip));
	update(pic);
}

void pic_reset(struct pic *pic)
{
	for (unsigned i = 0; i < 2; i++) {
		struct i8259 *chip = &pic->chip[i];
		*chip = (struct i8259){ .line = chip->line, .lowest = 7, .master = i == 0, .pair = pic };
		/* Until firmware or the guest initializes it, nothing may interrupt. */
		chip->imr = 0xff;
	}
	update(pic);
}

void pic_init(struct pic *pic, struct irq_line intr)
{
	*pic = (struct pic){ .intr = intr };
	pic_reset(pic);
}

const struct io_ops pic_ops = { .read = pic_read, .write = pic_write, .byte_wide = true };
const struct io_ops pic_elcr_ops = { .read = elcr_read, .write = elcr_write, .byte_wide = true };
