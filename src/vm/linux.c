/*
 * Linux bzImage by the 64-bit boot protocol (Documentation/arch/x86/boot.rst of the Linux sources). Offsets are those
 * of the setup header, the same in the file and in the boot parameters ("zero page").
 */
#include "vm/boot.h"

#include "base/trace.h"

#include <stdio.h>
#include <string.h>

enum {
	/* setup header */
	SETUP_SECTS = 0x1f1,
	SYSSIZE = 0x1f4, /* of the protected-mode part, in units of 16 bytes */
	BOOT_FLAG = 0x1fe,
	HEADER_JUMP = 0x201, /* the header ends this many bytes behind 0x202 */
	HEADER_MAGIC = 0x202,
	PROTOCOL = 0x206,
	TYPE_OF_LOADER = 0x210,
	LOADFLAGS = 0x211,
	RAMDISK_IMAGE = 0x218,
	RAMDISK_SIZE = 0x21c,
	CMD_LINE_PTR = 0x228,
	INITRD_ADDR_MAX = 0x22c,
	KERNEL_ALIGNMENT = 0x230,
	XLOADFLAGS = 0x236,
	CMDLINE_SIZE = 0x238,
	PREF_ADDRESS = 0x258,
	INIT_SIZE = 0x260,
	HEADER_LAST = 0x264,
	/* boot parameters */
	ACPI_RSDP_ADDR = 0x070,
	E820_ENTRIES = 0x1e8,
	E820_TABLE = 0x2d0,
	BOOT_PARAMS_SIZE = 0x1000
};

enum {
	MAGIC_HDRS = 0x53726448, /* "HdrS" */
	MAGIC_BOOT_FLAG = 0xaa55,
	LOADED_HIGH = 0x01,
	XLF_KERNEL_64 = 0x01,
	LOADER_UNDEFINED = 0xff,
	PROTOCOL_64BIT = 0x020c, /* 2.12: the first with xloadflags */
	SECTOR = 512,
	ENTRY_64 = 0x200
};

struct bzimage {
	u64 setup_size, kernel_size; /* bytes of the file: real-mode part, protected-mode part */
	u64 address, init_size;      /* where it runs, and how much it needs there */
	u32 cmdline_max;
	u64 initrd_end; /* exclusive */
};

static bool linux_matches(const struct vm_file *file)
{
	return file_u32(file, HEADER_MAGIC) == MAGIC_HDRS && file_u16(file, BOOT_FLAG) == MAGIC_BOOT_FLAG;
}

static bool check_protocol(struct boot *boot)
{
	const struct vm_file *file = boot->kernel;
	unsigned protocol = file_u16(file, PROTOCOL);
	if (!file_has(file, 0, HEADER_LAST))
		return boot_fail(boot, "kernel %s is truncated: a bzImage's header ends at byte %d, the file has %zu",
				 file->name, HEADER_LAST, file->size);
	if (protocol < PROTOCOL_64BIT)
		return boot_fail(boot, "kernel %s speaks boot protocol %u.%u, 2.12 (Linux 3.8) is the oldest possible",
				 file->name, protocol >> 8, protocol & 0xff);
	if (!(file->data[LOADFLAGS] & LOADED_HIGH))
		return boot_fail(boot, "kernel %s is a zImage, which loads low; a bzImage is needed", file->name);
	if (!(file_u16(file, XLOADFLAGS) & XLF_KERNEL_64))
		return boot_fail(boot, "kernel %s has no 64-bit entry point: it is a 32-bit kernel", file->name);
	return true;
}

static bool check_sizes(struct boot *boot, struct bzimage *image)
{
	const struct vm_file *file = boot->kernel;
	unsigned sectors = file->data[SETUP_SECTS] ? file->data[SETUP_SECTS] : 4; /* 0 means 4, for history's sake */
	image->setup_size = (1 + (u64)sectors) * SECTOR;
	image->kernel_size = (u64)file_u32(file, SYSSIZE) * 16;
	if (!image->kernel_size)
		return boot_fail(boot, "kernel %s is damaged: its header says that it has no code", file->name);
	if (image->setup_size >= file->size)
		return boot_fail(boot, "kernel %s is truncated: its setup part alone has %llu bytes, the file %zu",
				 file->name, (unsigned long long)image->setup_size, file->size);
	/* The size is rounded up to 16 in the header, not in the file. */
	if (image->kernel_size > file->size - image->setup_size + 15)
		return boot_fail(boot, "kernel %s is truncated: it should have %llu bytes, the file has %zu",
				 file->name, (unsigned long long)(image->setup_size + image->kernel_size), file->size);
	if (image->kernel_size > file->size - image->setup_size)
		image->kernel_size = file->size - image->setup_size;
	return true;
}

static bool check_placement(struct boot *boot, struct bzimage *image)
{
	const struct vm_file *file = boot->kernel;
	u64 align = file_u32(file, KERNEL_ALIGNMENT);
	image->address = file_u64(file, PREF_ADDRESS);
	image->init_size = file_u32(file, INIT_SIZE);
	image->cmdline_max = file_u32(file, CMDLINE_SIZE);
	image->initrd_end = (u64)file_u32(file, INITRD_ADDR_MAX) + 1;
	if (!align || (align & (align - 1)) || (image->address & (align - 1)) || image->address < BOOT_HIGH_BASE ||
	    image->init_size < image->kernel_size)
		return boot_fail(boot,
				 "kernel %s is damaged: address 0x%llx, alignment 0x%llx and size 0x%llx in its header "
				 "do not go together",
				 file->name, (unsigned long long)image->address, (unsigned long long)align,
				 (unsigned long long)image->init_size);
	u64 low = boot->mem->low_size;
	if (image->address > low || image->init_size > low - image->address)
		return boot_fail(boot,
				 "kernel %s needs at least %llu MiB of memory (it unpacks to 0x%llx-0x%llx), "
				 "the guest has %llu MiB",
				 file->name, (unsigned long long)((image->address + image->init_size) >> 20) + 1,
				 (unsigned long long)image->address,
				 (unsigned long long)(image->address + image->init_size),
				 (unsigned long long)(boot->mem->size >> 20));
	if (strlen(boot->cmdline) > image->cmdline_max)
		return boot_fail(boot, "the kernel command line is %zu bytes long, kernel %s takes at most %u",
				 strlen(boot->cmdline), file->name, image->cmdline_max);
	return true;
}

static void set(u8 *params, unsigned offset, u64 value, unsigned size)
{
	memcpy(params + offset, &value, size);
}

/* The boot parameters: the image's own setup header, and what the boot loader has to say. */
static bool put_boot_params(struct boot *boot, gpa_t initrd, gpa_t cmdline, gpa_t *gpa)
{
	const struct vm_file *file = boot->kernel;
	u8 params[BOOT_PARAMS_SIZE] = { 0 };
	u64 header_end = HEADER_MAGIC + (u64)file->data[HEADER_JUMP];
	if (header_end > E820_TABLE) /* what a header cannot reach; more would be damage */
		header_end = E820_TABLE;
	if (header_end > file->size)
		header_end = file->size;
	if (header_end > SETUP_SECTS)
		memcpy(params + SETUP_SECTS, file->data + SETUP_SECTS, header_end - SETUP_SECTS);
	set(params, TYPE_OF_LOADER, LOADER_UNDEFINED, 1);
	set(params, RAMDISK_IMAGE, initrd, 4);
	set(params, RAMDISK_SIZE, boot->initrd->name ? boot->initrd->size : 0, 4);
	set(params, CMD_LINE_PTR, cmdline, 4);
	set(params, ACPI_RSDP_ADDR, boot->rsdp, 8);
	set(params, E820_ENTRIES, boot->e820_count, 1);
	memcpy(params + E820_TABLE, boot->e820, boot->e820_count * sizeof boot->e820[0]);
	return boot_put_low(boot, params, sizeof params, PAGE_SIZE, gpa);
}

static bool linux_load(struct boot *boot)
{
	struct bzimage image;
	gpa_t initrd, cmdline, params;
	if (!check_protocol(boot) || !check_sizes(boot, &image) || !check_placement(boot, &image))
		return false;
	if (!boot_load_part(boot, image.setup_size, image.kernel_size, image.address, image.init_size, "its code"))
		return false;
	if (!boot_put_initrd(boot, image.initrd_end, &initrd) ||
	    !boot_put_low(boot, boot->cmdline, strlen(boot->cmdline) + 1, 16, &cmdline) ||
	    !put_boot_params(boot, initrd, cmdline, &params))
		return false;
	boot->state.gpr[RSI] = params;
	return boot_enter_long(boot, image.address + ENTRY_64);
}

const struct boot_format boot_linux = { "Linux bzImage", linux_matches, linux_load };
