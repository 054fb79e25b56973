/*
 * PVH: an ELF kernel with the note XEN_ELFNOTE_PHYS32_ENTRY is entered in flat 32-bit protected mode, EBX pointing to a
 * structure that describes the machine (Xen's public headers, "start_info.h", version 1).
 */
#include "vm/elf.h"

#include <string.h>

enum { XEN_ELFNOTE_PHYS32_ENTRY = 18, START_INFO_VERSION = 1 };
#define START_INFO_MAGIC 0x336ec578

struct start_info {
	u32 magic, version, flags, module_count;
	u64 modules, cmdline, rsdp, memmap;
	u32 memmap_count, reserved;
};

struct start_module {
	u64 base, size, cmdline, reserved;
};

struct start_memmap {
	u64 base, size;
	u32 type, reserved; /* enum e820_type */
};

static bool find_entry(const struct vm_file *file, struct elf *elf, u64 *entry)
{
	u64 offset, size;
	if (!elf_magic(file) || elf_open(elf, file) ||
	    !elf_find_note(elf, "Xen", XEN_ELFNOTE_PHYS32_ENTRY, &offset, &size) || size < 4)
		return false;
	*entry = size >= 8 ? file_u64(file, offset) : file_u32(file, offset);
	return true;
}

static bool pvh_matches(const struct vm_file *file)
{
	struct elf elf;
	u64 entry;
	return find_entry(file, &elf, &entry);
}

static bool put_memmap(struct boot *boot, struct start_info *info)
{
	struct start_memmap map[E820_MAX];
	for (unsigned i = 0; i < boot->e820_count; i++)
		map[i] = (struct start_memmap){ boot->e820[i].base, boot->e820[i].size, boot->e820[i].type, 0 };
	info->memmap_count = boot->e820_count;
	return boot_put_low(boot, map, boot->e820_count * sizeof map[0], 8, &info->memmap);
}

static bool put_module(struct boot *boot, const struct vm_module *from, struct start_module *module)
{
	const struct vm_file *file = &from->file;
	module->size = file->size;
	if (!boot_place_high(boot, file->size, PAGE_SIZE, BOOT_HIGH_BASE, MEM_LOW_LIMIT, &module->base))
		return boot_fail(boot, "module %s (%zu bytes) does not fit in guest memory beside kernel %s",
				 file->name, file->size, boot->kernel->name);
	mem_write(boot->mem, module->base, file->data, file->size);
	return !*from->text || boot_put_low(boot, from->text, strlen(from->text) + 1, 16, &module->cmdline);
}

static bool put_modules(struct boot *boot, struct start_info *info)
{
	struct start_module module[1 + VM_MAX_MODULES] = { 0 };
	if (boot->initrd->name) {
		module[info->module_count].size = boot->initrd->size;
		if (!boot_put_initrd(boot, MEM_LOW_LIMIT, &module[info->module_count++].base))
			return false;
	}
	for (unsigned i = 0; i < boot->modules; i++)
		if (!put_module(boot, &boot->module[i], &module[info->module_count++]))
			return false;
	return !info->module_count ||
	       boot_put_low(boot, module, info->module_count * sizeof module[0], 8, &info->modules);
}

static bool pvh_load(struct boot *boot)
{
	struct start_info info = { .magic = START_INFO_MAGIC, .version = START_INFO_VERSION, .rsdp = boot->rsdp };
	struct elf elf;
	u64 entry, end;
	gpa_t at;
	if (!find_entry(boot->kernel, &elf, &entry) || !elf_load(boot, &elf, &end))
		return false;
	if (entry >= boot->mem->low_size)
		return boot_fail(boot, "kernel %s is damaged: its PVH entry point 0x%llx lies outside of memory",
				 boot->kernel->name, (unsigned long long)entry);
	if (!put_modules(boot, &info) || !put_memmap(boot, &info) ||
	    !boot_put_low(boot, boot->cmdline, strlen(boot->cmdline) + 1, 16, &info.cmdline) ||
	    !boot_put_low(boot, &info, sizeof info, 8, &at))
		return false;
	boot->state.gpr[RBX] = at;
	return boot_enter_flat32(boot, (u32)entry);
}

const struct boot_format boot_pvh = { "PVH ELF", pvh_matches, pvh_load };
