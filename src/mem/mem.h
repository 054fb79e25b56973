/*
 * Guest RAM and the one checked gateway to it.
 *
 * RAM is one host mapping with guard pages on both sides. Guest-physical layout: [0, low_size) and, if there is more
 * than fits below the PCI hole, [4 GiB, 4 GiB + rest). A "RAM offset" counts bytes of RAM from 0 without the hole; it
 * names a byte of RAM whatever guest-physical address it has, and is what code blocks are keyed by.
 *
 * Owner: the VM. Threads: any thread may read and write RAM through the gateway; flags are atomic bytes.
 */
#ifndef STRATA_MEM_MEM_H
#define STRATA_MEM_MEM_H

#include "base/types.h"

#define PAGE_SHIFT 12
#define PAGE_SIZE  4096ULL
#define PAGE_MASK  (~(PAGE_SIZE - 1))

/* RAM below the PCI hole ends here at the latest, where the PCIe ECAM window starts. */
#define MEM_ECAM_BASE 0xb0000000ULL
#define MEM_LOW_LIMIT MEM_ECAM_BASE
#define MEM_ECAM_SIZE 0x10000000ULL /* 256 buses */
#define MEM_HIGH_BASE 0x100000000ULL

/* Guest-physical address of L1's machine. What L2 calls physical goes through the MMU's stage 2 first. */
typedef u64 gpa_t;

#define RAM_OFFSET_NONE UINT64_MAX

/* Per-page flags. */
#define PAGE_HAS_CODE 0x01 /* blocks were decoded from it: writers must tell code_written */
#define PAGE_DIRTY    0x02 /* reserved for the dirty log */

struct mem {
	u8 *host;          /* first byte of RAM in this process */
	u64 size;          /* bytes of RAM, a multiple of PAGE_SIZE */
	u64 low_size;      /* how many of them lie below the hole */
	u8 *flags;         /* PAGE_* of each RAM page */
	int fd;            /* the memory object behind it; -1: private memory, which can have huge pages */
	void *reservation; /* whole mapping with its guard pages */
	u64 reservation_size;
	/*
	 * Called before bytes of a page with PAGE_HAS_CODE change, and again behind that, by whoever writes (CPU or
	 * device). NULL until a soft engine registers.
	 */
	void (*code_written)(void *opaque, u64 ram_offset, u64 size);
	void *code_opaque;
};

/* Reserves and maps `size` bytes. Returns 0 or -errno. Memory is zero, and costs nothing until touched. */
int mem_init(struct mem *mem, u64 size);
void mem_destroy(struct mem *mem);

/* RAM offset of a guest-physical byte, RAM_OFFSET_NONE where there is no RAM. */
static inline u64 mem_ram_offset(const struct mem *mem, gpa_t gpa)
{
	if (likely(gpa < mem->low_size))
		return gpa;
	if (gpa >= MEM_HIGH_BASE && gpa - MEM_HIGH_BASE < mem->size - mem->low_size)
		return gpa - MEM_HIGH_BASE + mem->low_size;
	return RAM_OFFSET_NONE;
}

/* Guest-physical address of a byte of RAM. */
static inline gpa_t mem_gpa(const struct mem *mem, u64 ram_offset)
{
	return ram_offset < mem->low_size ? ram_offset : ram_offset - mem->low_size + MEM_HIGH_BASE;
}

/*
 * Host address of [gpa, gpa+size), or NULL unless all of it is RAM and contiguous. For reading, or for writing by
 * callers that tell mem_about_to_write() and mem_wrote() themselves.
 */
u8 *mem_host(const struct mem *mem, gpa_t gpa, u64 size);

/* Copies between a buffer and guest RAM. false, with nothing copied, unless all of it is RAM. */
bool mem_read(const struct mem *mem, gpa_t gpa, void *buffer, u64 size);
bool mem_write(struct mem *mem, gpa_t gpa, const void *buffer, u64 size);

/* Naturally aligned accesses, single-copy atomic; outside RAM reads give all ones and writes vanish. */
u64 mem_read_u64(const struct mem *mem, gpa_t gpa);
u32 mem_read_u32(const struct mem *mem, gpa_t gpa);
void mem_write_u64(struct mem *mem, gpa_t gpa, u64 value);
void mem_write_u32(struct mem *mem, gpa_t gpa, u32 value);

/*
 * To be called before [ram_offset, +size) is written, of two pages at most: tells code_written if one has code. true:
 * mem_wrote() must be called when the bytes are there, for another CPU may have decoded the old ones meanwhile.
 */
static inline bool mem_about_to_write(struct mem *mem, u64 ram_offset, u64 size)
{
	u8 flags = __atomic_load_n(&mem->flags[ram_offset >> PAGE_SHIFT], __ATOMIC_RELAXED) |
		   __atomic_load_n(&mem->flags[(ram_offset + size - 1) >> PAGE_SHIFT], __ATOMIC_RELAXED);
	if (likely(!(flags & PAGE_HAS_CODE)) || !mem->code_written)
		return false;
	mem->code_written(mem->code_opaque, ram_offset, size);
	return true;
}

static inline void mem_wrote(struct mem *mem, u64 ram_offset, u64 size)
{
	mem_about_to_write(mem, ram_offset, size);
}

#endif
