#include "vm/firmware.h"

#include "vm/acpi.h"
#include "vm/boot.h"

/* BIOS data area, by offset from 0x400. */
enum {
	BDA = 0x400,
	BDA_COM1 = BDA + 0x00,
	BDA_EBDA_SEGMENT = BDA + 0x0e,
	BDA_MEMORY_KIB = BDA + 0x13,
	BDA_TICKS = BDA + 0x6c
};

/* Handlers, in the last 64 KiB below 1 MiB: real-mode segment F000. */
enum { ROM_SEGMENT = 0xf000, HANDLERS = 0xf800, VECTOR_TIMER = 0x08, VECTOR_SLAVE = 0x70, VECTORS = 256 };

static const u8 timer_handler[] = {
	0x50,                         /* push ax */
	0x1e,                         /* push ds */
	0x31, 0xc0,                   /* xor ax, ax */
	0x8e, 0xd8,                   /* mov ds, ax */
	0x66, 0xff, 0x06, 0x6c, 0x04, /* inc dword [0x46c]: the tick count */
	0xb0, 0x20,                   /* mov al, 0x20 */
	0xe6, 0x20,                   /* out 0x20, al: end of interrupt */
	0x1f,                         /* pop ds */
	0x58,                         /* pop ax */
	0xcf                          /* iret */
};
enum { HANDLER_IRET = HANDLERS + sizeof timer_handler - 1 }; /* what every other vector does */

static void write_u16(struct mem *mem, gpa_t gpa, u16 value)
{
	mem_write(mem, gpa, &value, sizeof value);
}

static void leave_vectors(struct mem *mem)
{
	mem_write(mem, ROM_SEGMENT * 16 + HANDLERS, timer_handler, sizeof timer_handler);
	for (unsigned i = 0; i < VECTORS; i++) {
		write_u16(mem, i * 4, i == VECTOR_TIMER ? HANDLERS : HANDLER_IRET);
		write_u16(mem, i * 4 + 2, ROM_SEGMENT);
	}
}

static void leave_data_area(struct mem *mem)
{
	write_u16(mem, BDA_COM1, COM1_BASE);
	write_u16(mem, BDA_EBDA_SEGMENT, BOOT_LOW_END >> 4);
	write_u16(mem, BDA_MEMORY_KIB, BOOT_LOW_END >> 10);
	mem_write_u32(mem, BDA_TICKS, 0);
	write_u16(mem, BOOT_LOW_END, 1); /* the extended data area begins with its own size in KiB */
}

/* Vectors 08h and 70h, everything masked but timer and cascade; the timer ticks 18.2 times a second. */
static void leave_interrupt_chips(struct bus *bus)
{
	static const struct {
		u8 port, value;
	} writes[] = {
		{ 0x20, 0x11 }, { 0x21, VECTOR_TIMER }, { 0x21, 0x04 }, { 0x21, 0x01 }, { 0x21, 0xfa },
		{ 0xa0, 0x11 }, { 0xa1, VECTOR_SLAVE }, { 0xa1, 0x02 }, { 0xa1, 0x01 }, { 0xa1, 0xff },
		{ 0x43, 0x36 }, { 0x40, 0x00 },         { 0x40, 0x00 }, /* channel 0, mode 3, 65536 */
	};
	for (unsigned i = 0; i < ARRAY_SIZE(writes); i++)
		bus_write_pio(bus, writes[i].port, 1, writes[i].value);
}

gpa_t firmware_leave_behind(struct board *board)
{
	leave_vectors(&board->mem);
	leave_data_area(&board->mem);
	bool own_chips = !board->engine_ops->has_irqchip;
	if (own_chips)
		leave_interrupt_chips(&board->bus);
	return acpi_write_tables(&board->mem, board->cpus, own_chips);
}

static void enter_flat(struct x86_state *state)
{
	for (unsigned i = 0; i <= SEG_GS; i++)
		state->seg[i] = (struct segment){ .selector = i == SEG_CS ? 0x10 : 0x18,
						  .limit = 0xffffffff,
						  .ar = i == SEG_CS ? 0xc09b : 0xc093 };
	state->cr0 |= CR0_PE;
}

/* ACPI 6.5, 5.2.10 and 16.3.2: caches on, interrupts off, no paging. */
void firmware_resume(struct board *board, struct x86_state *state)
{
	u64 vector;
	bool flat = acpi_waking_vector(&board->mem, &vector);
	if (!board->engine_ops->has_irqchip)
		leave_interrupt_chips(&board->bus);
	x86_state_reset(state, 0);
	state->cr0 = CR0_ET;
	state->rip = flat ? (u32)vector : vector & 15;
	if (flat) {
		enter_flat(state);
		return;
	}
	state->seg[SEG_CS].selector = (u16)(vector >> 4);
	state->seg[SEG_CS].base = (u64)state->seg[SEG_CS].selector << 4;
}
