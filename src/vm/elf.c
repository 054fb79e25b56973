#include "vm/elf.h"

#include <string.h>

/* Field offsets of the file header and of a program header (System V ABI, chapters 4 and 5). */
enum {
	EI_CLASS = 4,
	EI_DATA = 5,
	CLASS32 = 1,
	CLASS64 = 2,
	DATA_LITTLE = 1,
	E_TYPE = 16,
	E_MACHINE = 18,
	ET_EXEC = 2,
	ET_DYN = 3,
	EM_386 = 3,
	EM_X86_64 = 62,
	E_ENTRY = 24,
	HEADER32 = 52,
	HEADER64 = 64,
	PHDR32 = 32,
	PHDR64 = 56,
	MAX_SEGMENTS = 32
};

bool elf_magic(const struct vm_file *file)
{
	return file->size >= 4 && !memcmp(file->data, "\177ELF", 4);
}

const char *elf_open(struct elf *elf, const struct vm_file *file)
{
	if (file->size < HEADER32)
		return "is truncated inside its ELF header";
	*elf = (struct elf){ .file = file, .is64 = file->data[EI_CLASS] == CLASS64 };
	if (elf->is64 && file->size < HEADER64)
		return "is truncated inside its ELF header";
	if ((file->data[EI_CLASS] != CLASS32 && !elf->is64) || file->data[EI_DATA] != DATA_LITTLE)
		return "is an ELF file of another byte order or class";
	u16 machine = file_u16(file, E_MACHINE), type = file_u16(file, E_TYPE);
	if (machine != EM_386 && machine != EM_X86_64)
		return "is an ELF file for another processor than x86";
	if (type != ET_EXEC && type != ET_DYN)
		return "is an ELF file but no executable";
	elf->entry = elf->is64 ? file_u64(file, E_ENTRY) : file_u32(file, E_ENTRY);
	elf->phoff = elf->is64 ? file_u64(file, 32) : file_u32(file, 28);
	elf->phentsize = file_u16(file, elf->is64 ? 54 : 42);
	elf->phnum = file_u16(file, elf->is64 ? 56 : 44);
	if (!elf->phnum || elf->phnum > MAX_SEGMENTS || elf->phentsize < (elf->is64 ? PHDR64 : PHDR32))
		return "is an ELF file with damaged program headers";
	if (!file_has(file, elf->phoff, (u64)elf->phnum * elf->phentsize))
		return "is truncated: its program headers lie behind its end";
	return NULL;
}

struct elf_segment elf_segment(const struct elf *elf, unsigned index)
{
	const struct vm_file *f = elf->file;
	u64 at = elf->phoff + (u64)index * elf->phentsize;
	struct elf_segment s = { .type = file_u32(f, at) };
	if (elf->is64) {
		s.offset = file_u64(f, at + 8);
		s.vaddr = file_u64(f, at + 16);
		s.paddr = file_u64(f, at + 24);
		s.file_size = file_u64(f, at + 32);
		s.mem_size = file_u64(f, at + 40);
	} else {
		s.offset = file_u32(f, at + 4);
		s.vaddr = file_u32(f, at + 8);
		s.paddr = file_u32(f, at + 12);
		s.file_size = file_u32(f, at + 16);
		s.mem_size = file_u32(f, at + 20);
	}
	return s;
}

bool elf_load(struct boot *boot, const struct elf *elf, u64 *end)
{
	*end = 0;
	for (unsigned i = 0; i < elf->phnum; i++) {
		struct elf_segment s = elf_segment(elf, i);
		if (s.type != ELF_PT_LOAD)
			continue;
		if (!boot_load_part(boot, s.offset, s.file_size, s.paddr, s.mem_size, "an ELF segment"))
			return false;
		if (s.paddr + s.mem_size > *end)
			*end = s.paddr + s.mem_size;
	}
	if (!*end)
		return boot_fail(boot, "kernel %s is an ELF file with nothing to load", boot->kernel->name);
	return true;
}

static u64 align4(u64 v)
{
	return (v + 3) & ~3ULL;
}

/* A note: sizes of name and description, type, then both, each padded to four bytes. */
static bool find_in_segment(const struct vm_file *file, u64 at, u64 end, const char *name, u32 type, u64 *offset,
			    u64 *size)
{
	u64 name_size = strlen(name) + 1;
	while (end - at >= 12) {
		u64 note_name_size = file_u32(file, at), desc_size = file_u32(file, at + 4);
		u64 desc = at + 12 + align4(note_name_size);
		if (desc > end || desc_size > end - desc)
			return false;
		if (note_name_size == name_size && file_u32(file, at + 8) == type &&
		    !memcmp(file->data + at + 12, name, name_size)) {
			*offset = desc;
			*size = desc_size;
			return true;
		}
		at = desc + align4(desc_size);
		if (at > end)
			return false;
	}
	return false;
}

bool elf_find_note(const struct elf *elf, const char *name, u32 type, u64 *offset, u64 *size)
{
	for (unsigned i = 0; i < elf->phnum; i++) {
		struct elf_segment s = elf_segment(elf, i);
		if (s.type == ELF_PT_NOTE && file_has(elf->file, s.offset, s.file_size) &&
		    find_in_segment(elf->file, s.offset, s.offset + s.file_size, name, type, offset, size))
			return true;
	}
	return false;
}
