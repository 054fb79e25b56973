#include "dev/sysport.h"

/* Port 0x92. */
enum { PORT92_INIT = 0x01, PORT92_A20 = 0x02 };

/* Reset control (ICH9 data sheet, 13.7.5): RST_CPU rising resets; SYS_RST says how thoroughly, FULL_RST with power
 * cycle. */
enum { CF9_SYS_RST = 0x02, CF9_RST_CPU = 0x04, CF9_FULL_RST = 0x08 };

static void ask_reset(struct sysport *ports)
{
	if (ports->reset)
		ports->reset(ports->opaque);
}

static u64 read_92(void *device, u64 offset, unsigned size)
{
	struct sysport *ports = device;
	return ports->port92;
}

static void write_92(void *device, u64 offset, unsigned size, u64 value)
{
	struct sysport *ports = device;
	bool rises = (value & PORT92_INIT) && !(ports->port92 & PORT92_INIT);

	ports->port92 = (u8)value & (PORT92_INIT | PORT92_A20);
	if (rises)
		ask_reset(ports);
}

static u64 read_post(void *device, u64 offset, unsigned size)
{
	struct sysport *ports = device;
	return ports->post;
}

static void write_post(void *device, u64 offset, unsigned size, u64 value)
{
	struct sysport *ports = device;
	ports->post = (u8)value;
}

static u64 read_cf9(void *device, u64 offset, unsigned size)
{
	struct sysport *ports = device;
	return ports->cf9;
}

static void write_cf9(void *device, u64 offset, unsigned size, u64 value)
{
	struct sysport *ports = device;
	bool rises = (value & CF9_RST_CPU) && !(ports->cf9 & CF9_RST_CPU);

	ports->cf9 = (u8)value & (CF9_SYS_RST | CF9_RST_CPU | CF9_FULL_RST);
	if (rises)
		ask_reset(ports);
}

void sysport_reset(struct sysport *ports)
{
	ports->port92 = PORT92_A20;
	ports->cf9 = 0;
	ports->post = 0;
}

void sysport_init(struct sysport *ports, void (*reset)(void *opaque), void *opaque)
{
	*ports = (struct sysport){ .reset = reset, .opaque = opaque };
	sysport_reset(ports);
}

const struct io_ops sysport_92_ops = { .read = read_92, .write = write_92, .byte_wide = true };
const struct io_ops sysport_post_ops = { .read = read_post, .write = write_post, .byte_wide = true };
const struct io_ops sysport_cf9_ops = { .read = read_cf9, .write = write_cf9, .byte_wide = true };
