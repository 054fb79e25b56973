/*
 * Multiboot 1 (the Multiboot Specification, version 0.6.96): ELF images, 32-bit or 64-bit, and images whose header
 * gives the load addresses itself. Entered in flat 32-bit protected mode, EAX a magic number, EBX the information.
 */
#include "vm/elf.h"

#include "base/trace.h"

#include <stdio.h>
#include <string.h>

enum { HEADER_SEARCH = 8192, HEADER_SIZE = 12, ADDRESSES_SIZE = 32 };
#define HEADER_MAGIC 0x1badb002u
#define LOADER_MAGIC 0x2badb002u

/* Header flags: the low half must be understood, the high half may be ignored. */
#define HEADER_PAGE_ALIGN BIT(0)
#define HEADER_MEMORY     BIT(1)
#define HEADER_VIDEO      BIT(2) /* a wish only; there is no display */
#define HEADER_UNDERSTOOD (HEADER_PAGE_ALIGN | HEADER_MEMORY | HEADER_VIDEO)
#define HEADER_MANDATORY  BITS(15, 0)
#define HEADER_ADDRESSES  BIT(16)

#define INFO_MEMORY  BIT(0)
#define INFO_CMDLINE BIT(2)
#define INFO_MODULES BIT(3)
#define INFO_MMAP    BIT(6)
#define INFO_LOADER  BIT(9)

struct info {
	u32 flags, mem_lower, mem_upper, boot_device, cmdline, module_count, modules;
	u32 symbols[4];
	u32 mmap_size, mmap, drives_size, drives, config_table, loader_name, apm_table, vbe[6];
};

struct module {
	u32 start, end, string, reserved;
};

struct mmap_entry {
	u32 size; /* of the rest */
	struct e820_entry range;
} __attribute__((packed));

static bool find_header(const struct vm_file *file, u64 *at)
{
	for (u64 i = 0; i + HEADER_SIZE <= HEADER_SEARCH && file_has(file, i, HEADER_SIZE); i += 4)
		if (file_u32(file, i) == HEADER_MAGIC &&
		    (u32)(HEADER_MAGIC + file_u32(file, i + 4) + file_u32(file, i + 8)) == 0) {
			*at = i;
			return true;
		}
	return false;
}

static bool multiboot_matches(const struct vm_file *file)
{
	u64 at;
	return find_header(file, &at);
}

/* The header's own addresses, for images that are no ELF (or do not want to be loaded as such). */
static bool load_by_addresses(struct boot *boot, u64 header, u64 *entry, u64 *end)
{
	const struct vm_file *file = boot->kernel;
	if (!file_has(file, header, ADDRESSES_SIZE))
		return boot_fail(boot, "kernel %s is truncated inside its Multiboot header", file->name);
	u32 header_addr = file_u32(file, header + 12), load_addr = file_u32(file, header + 16);
	u32 load_end = file_u32(file, header + 20), bss_end = file_u32(file, header + 24);
	*entry = file_u32(file, header + 28);
	if (load_addr > header_addr || header_addr - load_addr > header)
		return boot_fail(boot, "kernel %s is damaged: its Multiboot header loads from before the file's start",
				 file->name);
	u64 offset = header - (header_addr - load_addr);
	u64 size = load_end ? (u64)load_end - load_addr : file->size - offset; /* 0: up to the file's end */
	if ((load_end && load_end < load_addr) || (bss_end && bss_end < load_addr + size))
		return boot_fail(boot,
				 "kernel %s is damaged: the addresses in its Multiboot header contradict each other",
				 file->name);
	*end = bss_end ? bss_end : load_addr + size;
	return boot_load_part(boot, offset, size, load_addr, *end - load_addr, "its Multiboot image");
}

static bool load_image(struct boot *boot, u64 *entry, u64 *end)
{
	const struct vm_file *file = boot->kernel;
	struct elf elf;
	u64 header = 0;
	find_header(file, &header);
	u32 flags = file_u32(file, header + 4);
	if (flags & HEADER_MANDATORY & ~HEADER_UNDERSTOOD)
		return boot_fail(boot, "kernel %s demands Multiboot features that do not exist (flags 0x%x)",
				 file->name, flags);
	if (flags & HEADER_ADDRESSES)
		return load_by_addresses(boot, header, entry, end);
	if (!elf_magic(file))
		return boot_fail(boot, "kernel %s has a Multiboot header without addresses, and is no ELF file",
				 file->name);
	const char *wrong = elf_open(&elf, file);
	if (wrong)
		return boot_fail(boot, "kernel %s %s", file->name, wrong);
	*entry = elf.entry;
	return elf_load(boot, &elf, end);
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');
	return slash ? slash + 1 : path;
}

/* Places a string; a Multiboot address is 32 bits wide, and so is all conventional memory. */
static bool put_string(struct boot *boot, const char *text, u32 *address)
{
	gpa_t at;
	if (!boot_put_low(boot, text, strlen(text) + 1, 4, &at))
		return false;
	*address = (u32)at;
	return true;
}

/* One module: its contents at the lowest place from `first` on, its string in conventional memory. */
static bool put_module(struct boot *boot, u64 first, const struct vm_file *file, const char *words,
		       struct module *module)
{
	char text[VM_CMDLINE_MAX + 256];
	gpa_t base;
	int n = snprintf(text, sizeof text, "%s%s%s", base_name(file->name), *words ? " " : "", words);
	if (n < 0 || (size_t)n >= sizeof text)
		return boot_fail(boot, "the name of module %.80s... and its command line are too long together",
				 file->name);
	if (!boot_place_low(boot, file->size, PAGE_SIZE, first, MEM_LOW_LIMIT, &base))
		return boot_fail(boot, "module %s (%zu bytes) does not fit in guest memory behind kernel %s",
				 file->name, file->size, boot->kernel->name);
	TRACE(boot, "module %s: %zu bytes at 0x%llx", file->name, file->size, (unsigned long long)base);
	mem_write(boot->mem, base, file->data, file->size);
	module->start = (u32)base;
	module->end = (u32)(base + file->size);
	return put_string(boot, text, &module->string);
}

/* Modules follow the kernel, as boot loaders have always placed them; kernels look for free memory behind both. */
static bool put_modules(struct boot *boot, u64 kernel_end, struct info *info)
{
	struct module module[1 + VM_MAX_MODULES] = { 0 };
	u64 first = kernel_end > BOOT_HIGH_BASE ? kernel_end : BOOT_HIGH_BASE;
	unsigned count = 0;
	gpa_t at;
	if (boot->initrd->name && !put_module(boot, first, boot->initrd, "", &module[count++]))
		return false;
	for (unsigned i = 0; i < boot->modules; i++)
		if (!put_module(boot, first, &boot->module[i].file, boot->module[i].text, &module[count++]))
			return false;
	if (!count)
		return true;
	if (!boot_put_low(boot, module, count * sizeof module[0], 4, &at))
		return false;
	info->flags |= INFO_MODULES;
	info->module_count = count;
	info->modules = (u32)at;
	return true;
}

static bool put_memory_map(struct boot *boot, struct info *info)
{
	struct mmap_entry map[E820_MAX];
	gpa_t at;
	for (unsigned i = 0; i < boot->e820_count; i++)
		map[i] = (struct mmap_entry){ sizeof map[i].range, boot->e820[i] };
	info->mmap_size = (u32)(boot->e820_count * sizeof map[0]);
	if (!boot_put_low(boot, map, info->mmap_size, 4, &at))
		return false;
	info->mmap = (u32)at;
	info->mem_lower = BOOT_LOW_END >> 10;
	info->mem_upper = (u32)((boot->mem->low_size - BOOT_HIGH_BASE) >> 10);
	info->flags |= INFO_MEMORY | INFO_MMAP;
	return true;
}

/* By custom the command line starts with the kernel's own name. */
static bool put_command_line(struct boot *boot, struct info *info)
{
	char text[VM_CMDLINE_MAX + 256];
	int n = snprintf(text, sizeof text, "%s%s%s", base_name(boot->kernel->name), *boot->cmdline ? " " : "",
			 boot->cmdline);
	if (n < 0 || (size_t)n >= sizeof text)
		return boot_fail(boot, "the name of kernel %.80s... and its command line are too long together",
				 boot->kernel->name);
	info->flags |= INFO_CMDLINE | INFO_LOADER;
	return put_string(boot, text, &info->cmdline) && put_string(boot, "Strata", &info->loader_name);
}

static bool multiboot_load(struct boot *boot)
{
	struct info info = { 0 };
	u64 entry = 0, end = 0;
	gpa_t at;
	if (!load_image(boot, &entry, &end))
		return false;
	if (entry >= boot->mem->low_size)
		return boot_fail(boot, "kernel %s is damaged: its entry point 0x%llx lies outside of memory",
				 boot->kernel->name, (unsigned long long)entry);
	if (!put_modules(boot, end, &info) || !put_memory_map(boot, &info) || !put_command_line(boot, &info) ||
	    !boot_put_low(boot, &info, sizeof info, 8, &at))
		return false;
	boot->state.gpr[RAX] = LOADER_MAGIC;
	boot->state.gpr[RBX] = at;
	return boot_enter_flat32(boot, (u32)entry);
}

const struct boot_format boot_multiboot = { "Multiboot", multiboot_matches, multiboot_load };
