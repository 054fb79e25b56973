/* Two 8259A: initialization, priorities, nesting, end of interrupt, spurious requests, polling. */
#include "chip/pic.h"
#include "chip.h"

enum { EOI = 0x20, SPECIFIC_EOI = 0x60, ROTATE_EOI = 0xa0, READ_IRR = 0x0a, READ_ISR = 0x0b };

struct rig {
	struct pic pic;
	struct pins cpu;
};

static u8 in(struct rig *rig, u16 port)
{
	return in8(&pic_ops, &rig->pic.chip[port >= 0xa0], port & 1);
}

static void out(struct rig *rig, u16 port, u8 value)
{
	out8(&pic_ops, &rig->pic.chip[port >= 0xa0], port & 1, value);
}

/* As PCs do it: vectors 0x30 and 0x38, cascade on 2, everything unmasked. */
static struct rig *rig_new(u8 icw4)
{
	struct rig *rig = g_new0(struct rig, 1);
	pic_init(&rig->pic, pin(&rig->cpu, 0));
	out(rig, 0x20, 0x11);
	out(rig, 0x21, 0x30);
	out(rig, 0x21, 0x04);
	out(rig, 0x21, icw4);
	out(rig, 0xa0, 0x11);
	out(rig, 0xa1, 0x38);
	out(rig, 0xa1, 0x02);
	out(rig, 0xa1, icw4);
	return rig;
}

static void set(struct rig *rig, unsigned irq, bool level)
{
	pic_set_irq(&rig->pic, irq, level);
}

static bool intr(const struct rig *rig)
{
	return rig->cpu.level[0];
}

static u8 isr(struct rig *rig, u16 port)
{
	out(rig, port, READ_ISR);
	return in(rig, port);
}

static u8 irr(struct rig *rig, u16 port)
{
	out(rig, port, READ_IRR);
	return in(rig, port);
}

static void test_silent_until_initialized(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	pic_init(&rig->pic, pin(&rig->cpu, 0));
	set(rig, 1, true);
	set(rig, 9, true);
	g_assert_false(intr(rig));
	g_free(rig);
}

static void test_acknowledge_gives_vector(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 4, true);
	g_assert_true(intr(rig));
	g_assert_cmpint(irr(rig, 0x20), ==, 0x10);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x34);
	g_assert_false(intr(rig));
	g_assert_cmpint(irr(rig, 0x20), ==, 0);
	g_assert_cmpint(isr(rig, 0x20), ==, 0x10);
	out(rig, 0x20, EOI);
	g_assert_cmpint(isr(rig, 0x20), ==, 0);
	/* An edge: the level alone asks no second time. */
	g_assert_false(intr(rig));
	set(rig, 4, false);
	set(rig, 4, true);
	g_assert_true(intr(rig));
	g_free(rig);
}

static void test_lower_number_goes_first(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 6, true);
	set(rig, 3, true);
	set(rig, 0, true);
	for (unsigned i = 0; i < 3; i++) {
		static const int order[] = { 0x30, 0x33, 0x36 };
		g_assert_cmpint(pic_ack(&rig->pic), ==, order[i]);
		out(rig, 0x20, EOI);
	}
	g_free(rig);
}

static void test_nesting(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 4, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x34);
	set(rig, 5, true);
	g_assert_false(intr(rig)); /* lower priority waits */
	set(rig, 1, true);
	g_assert_true(intr(rig)); /* higher priority interrupts */
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x31);
	g_assert_cmpint(isr(rig, 0x20), ==, 0x12);
	out(rig, 0x20, EOI);
	g_assert_cmpint(isr(rig, 0x20), ==, 0x10);
	g_assert_false(intr(rig));
	out(rig, 0x20, EOI);
	g_assert_true(intr(rig));
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x35);
	g_free(rig);
}

static void test_cascade(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 10, true);
	g_assert_true(intr(rig));
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x3a);
	g_assert_cmpint(isr(rig, 0x20), ==, 0x04);
	g_assert_cmpint(isr(rig, 0xa0), ==, 0x04);
	set(rig, 12, true);
	g_assert_false(intr(rig));
	set(rig, 3, true); /* below the cascade */
	g_assert_false(intr(rig));
	out(rig, 0xa0, EOI);
	g_assert_false(intr(rig)); /* the master still serves input 2 */
	out(rig, 0x20, EOI);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x3c);
	out(rig, 0xa0, EOI);
	out(rig, 0x20, EOI);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x33);
	g_free(rig);
}

static void test_special_fully_nested(void)
{
	struct rig *rig = rig_new(0x11);
	set(rig, 12, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x3c);
	set(rig, 8, true); /* higher on the slave: passes although the master serves input 2 */
	g_assert_true(intr(rig));
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x38);
	g_free(rig);
}

static void test_mask(void)
{
	struct rig *rig = rig_new(1);
	out(rig, 0x21, 0x02);
	g_assert_cmpint(in(rig, 0x21), ==, 0x02);
	set(rig, 1, true);
	g_assert_false(intr(rig));
	g_assert_cmpint(irr(rig, 0x20), ==, 0x02);
	out(rig, 0x21, 0x00);
	g_assert_true(intr(rig));
	g_free(rig);
}

static void test_spurious_is_7(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 3, true);
	g_assert_true(intr(rig));
	out(rig, 0x21, 0xff); /* withdrawn after INT went up */
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x37);
	g_assert_cmpint(isr(rig, 0x20), ==, 0); /* nothing is in service: no EOI needed */
	g_free(rig);
}

static void test_level(void)
{
	struct rig *rig = rig_new(1);
	out8(&pic_elcr_ops, &rig->pic, 0, 0xff);
	out8(&pic_elcr_ops, &rig->pic, 1, 0xff);
	/* Timer, keyboard, cascade, RTC and FPU stay edges. */
	g_assert_cmpint(in8(&pic_elcr_ops, &rig->pic, 0), ==, 0xf8);
	g_assert_cmpint(in8(&pic_elcr_ops, &rig->pic, 1), ==, 0xde);
	set(rig, 5, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x35);
	out(rig, 0x20, EOI);
	g_assert_true(intr(rig)); /* still asked for */
	set(rig, 5, false);
	g_assert_false(intr(rig)); /* and withdrawn */
	g_free(rig);
}

static void test_spurious_of_slave_is_15(void)
{
	struct rig *rig = rig_new(1);
	out8(&pic_elcr_ops, &rig->pic, 1, 0x04);
	set(rig, 10, true);
	set(rig, 10, false);
	g_assert_false(intr(rig));
	/* A request that goes between the master's and the slave's turn: mask it there only. */
	set(rig, 10, true);
	rig->pic.chip[1].imr = 0xff;
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x3f);
	g_assert_cmpint(isr(rig, 0x20), ==, 0x04); /* the master did serve its input 2 */
	g_assert_cmpint(isr(rig, 0xa0), ==, 0);
	g_free(rig);
}

static void test_specific_eoi(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 5, true);
	pic_ack(&rig->pic);
	set(rig, 2 + 1, true);
	pic_ack(&rig->pic);
	g_assert_cmpint(isr(rig, 0x20), ==, 0x28);
	out(rig, 0x20, SPECIFIC_EOI | 5);
	g_assert_cmpint(isr(rig, 0x20), ==, 0x08);
	g_free(rig);
}

static void test_rotation(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 4, true);
	pic_ack(&rig->pic);
	out(rig, 0x20, ROTATE_EOI); /* 4 is lowest now, 5 highest */
	set(rig, 4, false);
	set(rig, 4, true);
	set(rig, 0, true);
	set(rig, 5, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x35);
	out(rig, 0x20, EOI);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x30);
	out(rig, 0x20, EOI);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x34);
	out(rig, 0x20, EOI);
	out(rig, 0x20, 0xc0 | 2); /* set priority: 2 lowest, 3 highest */
	set(rig, 0, false);
	set(rig, 0, true);
	set(rig, 3, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x33);
	g_free(rig);
}

static void test_auto_eoi(void)
{
	struct rig *rig = rig_new(0x03);
	set(rig, 1, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x31);
	g_assert_cmpint(isr(rig, 0x20), ==, 0);
	set(rig, 6, true);
	g_assert_true(intr(rig));
	g_free(rig);
}

static void test_special_mask(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 1, true);
	pic_ack(&rig->pic);
	set(rig, 6, true);
	g_assert_false(intr(rig));
	out(rig, 0x21, 0x02);
	g_assert_false(intr(rig)); /* masking alone does not help */
	out(rig, 0x20, 0x68);
	g_assert_true(intr(rig));
	out(rig, 0x20, 0x48);
	g_assert_false(intr(rig));
	g_free(rig);
}

static void test_poll(void)
{
	struct rig *rig = rig_new(1);
	out(rig, 0x20, 0x0c);
	g_assert_cmpint(in(rig, 0x20), ==, 0);
	set(rig, 6, true);
	out(rig, 0x20, 0x0c);
	g_assert_cmpint(in(rig, 0x20), ==, 0x86);
	g_assert_cmpint(isr(rig, 0x20), ==, 0x40);
	g_assert_false(intr(rig));
	g_free(rig);
}

static void test_initialization_clears(void)
{
	struct rig *rig = rig_new(1);
	out(rig, 0x21, 0xfe);
	set(rig, 0, true);
	pic_ack(&rig->pic);
	out(rig, 0x20, 0x11);
	out(rig, 0x21, 0x50);
	out(rig, 0x21, 0x04);
	out(rig, 0x21, 0x01);
	g_assert_cmpint(in(rig, 0x21), ==, 0);
	g_assert_cmpint(isr(rig, 0x20), ==, 0);
	g_assert_cmpint(irr(rig, 0x20), ==, 0);
	set(rig, 0, false);
	set(rig, 0, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x50);
	g_free(rig);
}

static void test_auto_eoi_rotates(void)
{
	struct rig *rig = rig_new(0x03);
	out(rig, 0x20, 0x80); /* rotate in automatic EOI */
	set(rig, 3, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x33);
	set(rig, 3, false);
	set(rig, 3, true);
	set(rig, 4, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x34); /* 3 is lowest now */
	out(rig, 0x20, 0x00);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x33);
	set(rig, 4, false);
	set(rig, 4, true);
	set(rig, 0, true);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x30); /* 4 still lowest: no more rotation */
	g_free(rig);
}

static void test_every_input(void)
{
	for (unsigned irq = 0; irq < 16; irq++) {
		struct rig *rig = rig_new(1);
		set(rig, irq, true);
		g_assert_cmpint(intr(rig), ==, irq != 2);
		if (irq != 2)
			g_assert_cmpint(pic_ack(&rig->pic), ==, (int)(0x30 + irq));
		set(rig, 16, true);
		g_free(rig);
	}
}

static void test_poll_once(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 0, true);
	out(rig, 0x20, 0x0c);
	g_assert_cmpint(in(rig, 0x20), ==, 0x80);
	g_assert_cmpint(isr(rig, 0x20), ==, 1);
	g_assert_cmpint(in(rig, 0x21), ==, 0); /* the mask again */
	g_free(rig);
}

static void test_reset(void)
{
	struct rig *rig = rig_new(1);
	out(rig, 0x20, READ_ISR);
	set(rig, 5, true);
	g_assert_true(intr(rig));
	pic_reset(&rig->pic);
	g_assert_false(intr(rig));
	g_assert_cmpint(in(rig, 0x21), ==, 0xff);
	g_assert_cmpint(in(rig, 0x20), ==, 0); /* IRR, empty */
	g_free(rig);
}

static void test_initialization_selects_irr(void)
{
	struct rig *rig = rig_new(1);
	set(rig, 5, true);
	pic_ack(&rig->pic);
	out(rig, 0x20, READ_ISR);
	out(rig, 0x20, 0x13); /* single, ICW4 follows */
	out(rig, 0x21, 0x40);
	out(rig, 0x21, 0x01);
	set(rig, 6, true);
	g_assert_cmpint(in(rig, 0x20), ==, 0x40);
	g_assert_cmpint(pic_ack(&rig->pic), ==, 0x46);
	g_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/pic/silent-until-initialized", test_silent_until_initialized);
	g_test_add_func("/pic/acknowledge-gives-vector-and-an-edge-asks-once", test_acknowledge_gives_vector);
	g_test_add_func("/pic/lower-number-goes-first", test_lower_number_goes_first);
	g_test_add_func("/pic/higher-priority-nests", test_nesting);
	g_test_add_func("/pic/slave-comes-through-input-2", test_cascade);
	g_test_add_func("/pic/special-fully-nested-lets-the-slave-nest", test_special_fully_nested);
	g_test_add_func("/pic/masked-request-waits", test_mask);
	g_test_add_func("/pic/withdrawn-request-gives-irq-7", test_spurious_is_7);
	g_test_add_func("/pic/withdrawn-request-of-slave-gives-irq-15", test_spurious_of_slave_is_15);
	g_test_add_func("/pic/level-input-asks-until-it-falls", test_level);
	g_test_add_func("/pic/specific-eoi-ends-just-that", test_specific_eoi);
	g_test_add_func("/pic/priorities-rotate", test_rotation);
	g_test_add_func("/pic/auto-eoi-leaves-nothing-in-service", test_auto_eoi);
	g_test_add_func("/pic/special-mask-opens-lower-priorities", test_special_mask);
	g_test_add_func("/pic/poll-acknowledges-by-reading", test_poll);
	g_test_add_func("/pic/initialization-clears-masks-and-service", test_initialization_clears);
	g_test_add_func("/pic/auto-eoi-rotates", test_auto_eoi_rotates);
	g_test_add_func("/pic/every-input-has-its-vector", test_every_input);
	g_test_add_func("/pic/poll-is-one-read", test_poll_once);
	g_test_add_func("/pic/reset-silences", test_reset);
	g_test_add_func("/pic/initialization-selects-irr", test_initialization_selects_irr);
	return g_test_run();
}
