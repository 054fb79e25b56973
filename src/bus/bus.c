#include "bus/bus.h"

#include "base/trace.h"

#include <errno.h>
#include <string.h>

void bus_init(struct bus *bus)
{
	memset(bus, 0, sizeof *bus);
	pthread_mutex_init(&bus->lock, NULL);
}

void bus_destroy(struct bus *bus)
{
	pthread_mutex_destroy(&bus->lock);
}

/* Number of ranges that begin at or below `address`: the last of them is the only one that can hold it. */
static unsigned ranges_up_to(const struct io_range *ranges, unsigned count, u64 address)
{
	unsigned low = 0, high = count;
	while (low < high) {
		unsigned middle = (low + high) / 2;
		if (ranges[middle].base <= address)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static const struct io_range *find(const struct io_range *ranges, unsigned count, u64 address)
{
	unsigned n = ranges_up_to(ranges, count, address);
	if (!n || address - ranges[n - 1].base >= ranges[n - 1].size)
		return NULL;
	return &ranges[n - 1];
}

static int insert(struct io_range *ranges, unsigned *count, const struct io_range *range)
{
	if (!range->size || range->base + range->size - 1 < range->base)
		return -EINVAL;
	unsigned at = ranges_up_to(ranges, *count, range->base);
	if (at && range->base - ranges[at - 1].base < ranges[at - 1].size)
		return -EEXIST;
	if (at < *count && ranges[at].base - range->base < range->size)
		return -EEXIST;
	if (*count == BUS_MAX_RANGES)
		return -ENOSPC;
	memmove(&ranges[at + 1], &ranges[at], (*count - at) * sizeof *ranges);
	ranges[at] = *range;
	++*count;
	return 0;
}

int bus_add_pio(struct bus *bus, u16 base, u16 size, const struct io_ops *ops, void *device, const char *name)
{
	if ((u32)base + size > 0x10000)
		return -EINVAL;
	return insert(bus->pio, &bus->pio_count, &(struct io_range){ name, base, size, ops, device });
}

int bus_add_mmio(struct bus *bus, u64 base, u64 size, const struct io_ops *ops, void *device, const char *name)
{
	return insert(bus->mmio, &bus->mmio_count, &(struct io_range){ name, base, size, ops, device });
}

int bus_move_mmio(struct bus *bus, void *device, u64 old_base, u64 new_base)
{
	const struct io_range *old = find(bus->mmio, bus->mmio_count, old_base);
	if (!old || old->base != old_base || old->device != device)
		return -ENOENT;
	struct io_range range = *old;
	unsigned at = (unsigned)(old - bus->mmio);
	memmove(&bus->mmio[at], &bus->mmio[at + 1], (bus->mmio_count - at - 1) * sizeof range);
	bus->mmio_count--;
	range.base = new_base;
	int error = insert(bus->mmio, &bus->mmio_count, &range);
	if (error) {
		range.base = old_base;
		insert(bus->mmio, &bus->mmio_count, &range);
	}
	return error;
}

/* One of the two maps, as an access sees it. */
struct map {
	const char *what; /* for the trace */
	const struct io_range *ranges;
	unsigned count;
	u64 last; /* highest address: a piece beyond it wraps to 0 */
};

static u64 size_mask(unsigned size)
{
	return ~0ULL >> (64 - 8 * size);
}

static bool sound_size(unsigned size)
{
	return size == 1 || size == 2 || size == 4 || size == 8;
}

/* The range that takes the whole access in one piece, or NULL. */
static const struct io_range *find_whole(const struct map *map, u64 address, unsigned size)
{
	const struct io_range *range = find(map->ranges, map->count, address);
	if (!range || !sound_size(size) || (range->ops->byte_wide && size > 1))
		return NULL;
	return range->size - (address - range->base) >= size ? range : NULL;
}

/* Does no range hold any byte of the access? */
static bool nobody_there(const struct map *map, u64 address, unsigned size)
{
	for (unsigned i = 0; i < size; i++)
		if (find(map->ranges, map->count, (address + i) & map->last))
			return false;
	return true;
}

static u64 read_map(const struct map *map, u64 address, unsigned size)
{
	const struct io_range *range = find_whole(map, address, size);
	u64 value;
	if (range) {
		value = range->ops->read(range->device, address - range->base, size) & size_mask(size);
	} else if (size == 1 || nobody_there(map, address, size)) {
		value = size_mask(size);
	} else {
		value = 0;
		for (unsigned i = 0; i < size; i++)
			value |= read_map(map, (address + i) & map->last, 1) << (8 * i);
		return value;
	}
	TRACE(io, "%s read  %#llx size %u = %#llx (%s)", map->what, (unsigned long long)address, size,
	      (unsigned long long)value, range ? range->name : "nobody");
	return value;
}

static void write_map(const struct map *map, u64 address, unsigned size, u64 value)
{
	const struct io_range *range = find_whole(map, address, size);
	if (!range && size > 1 && !nobody_there(map, address, size)) {
		for (unsigned i = 0; i < size; i++)
			write_map(map, (address + i) & map->last, 1, value >> (8 * i) & 0xff);
		return;
	}
	value &= size_mask(size);
	TRACE(io, "%s write %#llx size %u = %#llx (%s)", map->what, (unsigned long long)address, size,
	      (unsigned long long)value, range ? range->name : "nobody");
	if (range)
		range->ops->write(range->device, address - range->base, size, value);
}

static struct map pio_map(const struct bus *bus)
{
	return (struct map){ "port", bus->pio, bus->pio_count, 0xffff };
}

static struct map mmio_map(const struct bus *bus)
{
	return (struct map){ "mmio", bus->mmio, bus->mmio_count, UINT64_MAX };
}

u32 bus_read_pio(struct bus *bus, u16 port, unsigned size)
{
	bus_lock(bus);
	struct map map = pio_map(bus);
	u32 value = (u32)read_map(&map, port, size);
	bus_unlock(bus);
	return value;
}

void bus_write_pio(struct bus *bus, u16 port, unsigned size, u32 value)
{
	bus_lock(bus);
	struct map map = pio_map(bus);
	write_map(&map, port, size, value);
	bus_unlock(bus);
}

u64 bus_read_mmio(struct bus *bus, u64 gpa, unsigned size)
{
	bus_lock(bus);
	struct map map = mmio_map(bus);
	u64 value = read_map(&map, gpa, size);
	bus_unlock(bus);
	return value;
}

void bus_write_mmio(struct bus *bus, u64 gpa, unsigned size, u64 value)
{
	bus_lock(bus);
	struct map map = mmio_map(bus);
	write_map(&map, gpa, size, value);
	bus_unlock(bus);
}
