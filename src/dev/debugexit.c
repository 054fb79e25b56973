#include "dev/debugexit.h"

static u64 debugexit_read(void *device, u64 offset, unsigned size)
{
	return 0;
}

static void debugexit_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct debugexit *dx = device;
	/* An exit status has eight bits. */
	dx->exit(dx->opaque, (int)((value << 1 | 1) & 0xff));
}

void debugexit_init(struct debugexit *dx, void (*exit)(void *opaque, int status), void *opaque)
{
	*dx = (struct debugexit){ .exit = exit, .opaque = opaque };
}

const struct io_ops debugexit_ops = { .read = debugexit_read, .write = debugexit_write };
