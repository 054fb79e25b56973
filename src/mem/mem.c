#include "mem/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/*
 * Address space without access on both sides of RAM: wider than any single access or displacement that could slip past
 * a wrong bound by a page or so, and keeps RAM aligned for huge pages.
 */
#define GUARD_BYTES (2ULL << 20)

int mem_init(struct mem *mem, u64 size)
{
	if (!size || size % PAGE_SIZE || size > BIT(52))
		return -EINVAL;
	*mem = (struct mem){ .size = size, .low_size = size < MEM_LOW_LIMIT ? size : MEM_LOW_LIMIT, .fd = -1 };
	/* One guard more than needed, so that RAM can begin at a multiple of the huge-page size. */
	mem->reservation_size = size + 3 * GUARD_BYTES;
	void *whole = mmap(NULL, mem->reservation_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (whole == MAP_FAILED)
		return -errno;
	mem->reservation = whole;
	mem->flags = calloc(size >> PAGE_SHIFT, 1);
	if (!mem->flags) {
		mem_destroy(mem);
		return -ENOMEM;
	}
	uintptr_t first = ((uintptr_t)whole + 2 * GUARD_BYTES - 1) & ~(uintptr_t)(GUARD_BYTES - 1);
	mem->host = (u8 *)first;
	if (mprotect(mem->host, size, PROT_READ | PROT_WRITE)) {
		int error = errno;
		mem_destroy(mem);
		return -error;
	}
	/* Guest memory is touched at random: huge pages save host TLB misses. Without them everything works too. */
	(void)madvise(mem->host, size, MADV_HUGEPAGE);
	return 0;
}

void mem_destroy(struct mem *mem)
{
	if (mem->reservation)
		munmap(mem->reservation, mem->reservation_size);
	free(mem->flags);
	*mem = (struct mem){ .fd = -1 };
}

/* Offset of [gpa, +size) if all of it is RAM without a hole in between. */
static u64 ram_range(const struct mem *mem, gpa_t gpa, u64 size)
{
	u64 offset = mem_ram_offset(mem, gpa);
	if (offset == RAM_OFFSET_NONE)
		return RAM_OFFSET_NONE;
	u64 end = offset < mem->low_size ? mem->low_size : mem->size;
	return size <= end - offset ? offset : RAM_OFFSET_NONE;
}

u8 *mem_host(const struct mem *mem, gpa_t gpa, u64 size)
{
	u64 offset = ram_range(mem, gpa, size);
	return offset == RAM_OFFSET_NONE ? NULL : mem->host + offset;
}

bool mem_read(const struct mem *mem, gpa_t gpa, void *buffer, u64 size)
{
	const u8 *host = mem_host(mem, gpa, size);
	if (!host)
		return false;
	memcpy(buffer, host, size);
	return true;
}

/* Tells code_written page by page: a device may write megabytes, of which few pages hold code. */
static void about_to_write_range(struct mem *mem, u64 offset, u64 size)
{
	while (size) {
		u64 chunk = PAGE_SIZE - offset % PAGE_SIZE;
		if (chunk > size)
			chunk = size;
		mem_about_to_write(mem, offset, chunk);
		offset += chunk;
		size -= chunk;
	}
}

bool mem_write(struct mem *mem, gpa_t gpa, const void *buffer, u64 size)
{
	u64 offset = ram_range(mem, gpa, size);
	if (offset == RAM_OFFSET_NONE)
		return false;
	about_to_write_range(mem, offset, size);
	memcpy(mem->host + offset, buffer, size);
	/* Once more: a CPU on another thread may have decoded the old bytes meanwhile. It flags the page, then reads.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	about_to_write_range(mem, offset, size);
	return true;
}

u64 mem_read_u64(const struct mem *mem, gpa_t gpa)
{
	const u8 *host = mem_host(mem, gpa, 8);
	return host ? __atomic_load_n((const u64 *)host, __ATOMIC_ACQUIRE) : ~0ULL;
}

u32 mem_read_u32(const struct mem *mem, gpa_t gpa)
{
	const u8 *host = mem_host(mem, gpa, 4);
	return host ? __atomic_load_n((const u32 *)host, __ATOMIC_ACQUIRE) : ~0U;
}

void mem_write_u64(struct mem *mem, gpa_t gpa, u64 value)
{
	u64 offset = ram_range(mem, gpa, 8);
	if (offset == RAM_OFFSET_NONE)
		return;
	mem_about_to_write(mem, offset, 8);
	__atomic_store_n((u64 *)(mem->host + offset), value, __ATOMIC_SEQ_CST);
	mem_wrote(mem, offset, 8);
}

void mem_write_u32(struct mem *mem, gpa_t gpa, u32 value)
{
	u64 offset = ram_range(mem, gpa, 4);
	if (offset == RAM_OFFSET_NONE)
		return;
	mem_about_to_write(mem, offset, 4);
	__atomic_store_n((u32 *)(mem->host + offset), value, __ATOMIC_SEQ_CST);
	mem_wrote(mem, offset, 4);
}
