/*
 * Direct boot without firmware: what the loaders of the three kernel formats share. A loader recognizes its format by
 * content, checks it, copies it to guest RAM, and describes the state the boot CPU starts in.
 *
 * Every byte of a kernel or initrd is foreign: offsets and lengths are checked against the file, addresses against
 * guest RAM, and each failure becomes one line for the user.
 *
 * Thread: the one that creates or resets the VM, while no CPU runs.
 */
#ifndef STRATA_VM_BOOT_H
#define STRATA_VM_BOOT_H

#include "mem/mem.h"
#include "vm/vm.h"
#include "x86/state.h"

/* The firmware's usual areas of the first megabyte. */
enum {
	BOOT_LOW_FIRST = 0x1000,  /* below lie the IVT and the BIOS data area */
	BOOT_LOW_END = 0x9fc00,   /* where conventional memory ends and the extended BIOS data area would start */
	BOOT_ROM_BASE = 0xe0000,  /* ACPI tables */
	BOOT_HIGH_BASE = 0x100000 /* 1 MiB */
};

enum e820_type { E820_RAM = 1, E820_RESERVED = 2, E820_ACPI = 3, E820_NVS = 4 };

/* One range of the memory map as the BIOS call INT 15h AX=E820h reports it, and as Linux and Multiboot take it. */
struct e820_entry {
	u64 base, size;
	u32 type;
} __attribute__((packed));

enum { E820_MAX = 16, BOOT_MAX_RANGES = 64 };

struct boot_range {
	u64 base, end;
};

struct boot {
	/* --- given by the caller --- */
	struct mem *mem;
	const struct vm_file *kernel, *initrd; /* initrd->name is NULL: none */
	const struct vm_module *module;        /* for Multiboot and PVH: `modules` of them */
	unsigned modules;
	const char *cmdline;
	u64 rsdp; /* guest-physical address of the ACPI root pointer */
	struct vm_error *error;
	/* --- worked out by boot_load() --- */
	struct e820_entry e820[E820_MAX];
	unsigned e820_count;
	struct boot_range used[BOOT_MAX_RANGES]; /* RAM that holds something already */
	unsigned used_count;
	struct x86_state state; /* of the boot CPU */
};

/*
 * Recognizes and loads the kernel, its initrd and command line. Returns true with boot->state ready, or false with
 * *boot->error filled.
 */
bool boot_load(struct boot *boot);

/* --- for the loaders --- */

/* One per format. `matches` looks at the content only; `load` may assume that it matched. */
struct boot_format {
	const char *name;
	bool (*matches)(const struct vm_file *file);
	bool (*load)(struct boot *boot);
};

extern const struct boot_format boot_linux, boot_pvh, boot_multiboot;

/* Records why booting fails; returns false. */
bool boot_fail(struct boot *boot, const char *fmt, ...) PRINTF_LIKE(2, 3);

/* Is [offset, offset + size) inside the file? */
static inline bool file_has(const struct vm_file *file, u64 offset, u64 size)
{
	return offset <= file->size && size <= file->size - offset;
}

u16 file_u16(const struct vm_file *file, u64 offset); /* 0 beyond the end; little endian */
u32 file_u32(const struct vm_file *file, u64 offset);
u64 file_u64(const struct vm_file *file, u64 offset);

/*
 * Copies `size` bytes of the kernel file to guest RAM at gpa, zeroes up to `total`, and marks [gpa, gpa + total) used.
 * `what` names the part in the message if it does not fit.
 */
bool boot_load_part(struct boot *boot, u64 offset, u64 size, gpa_t gpa, u64 total, const char *what);

/* Marks RAM as used. */
bool boot_use(struct boot *boot, gpa_t base, u64 size);

/*
 * Finds `size` unused bytes of RAM in [first, end), aligned to `align` (a power of two): the highest such place, or the
 * lowest. Marks them used. False, with *gpa unchanged, if there is none (no message).
 */
bool boot_place_high(struct boot *boot, u64 size, u64 align, u64 first, u64 end, gpa_t *gpa);
bool boot_place_low(struct boot *boot, u64 size, u64 align, u64 first, u64 end, gpa_t *gpa);

/* Places the loader's own small structures in conventional memory; fails with a message. `data` may be NULL: zeroes. */
bool boot_put_low(struct boot *boot, const void *data, u64 size, u64 align, gpa_t *gpa);

/* Copies the initrd to RAM below `end` (exclusive); *gpa and the file's size say where. No initrd: size 0, nothing
 * done. */
bool boot_put_initrd(struct boot *boot, u64 end, gpa_t *gpa);

/*
 * States to enter a kernel in: 64-bit mode with the first 4 GiB mapped to themselves, or flat 32-bit protected mode
 * without paging. Selectors 0x10 code, 0x18 data, interrupts off.
 */
bool boot_enter_long(struct boot *boot, u64 entry);
bool boot_enter_flat32(struct boot *boot, u32 entry);

#endif
