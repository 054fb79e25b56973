/*
 * ELF executables as boot loaders see them: 32- and 64-bit program headers in one form. Everything read is checked
 * against the file.
 */
#ifndef STRATA_VM_ELF_H
#define STRATA_VM_ELF_H

#include "vm/boot.h"

enum { ELF_PT_LOAD = 1, ELF_PT_NOTE = 4 };

struct elf {
	const struct vm_file *file;
	bool is64;
	u64 entry;
	u64 phoff;
	unsigned phentsize, phnum;
};

struct elf_segment {
	u32 type;
	u64 offset, vaddr, paddr, file_size, mem_size;
};

bool elf_magic(const struct vm_file *file);

/* Header of an x86 executable whose program headers lie within the file. NULL if good, or what is wrong with it. */
const char *elf_open(struct elf *elf, const struct vm_file *file);

struct elf_segment elf_segment(const struct elf *elf, unsigned index);

/* Copies every PT_LOAD segment to its physical address. *end: the first byte behind the highest. */
bool elf_load(struct boot *boot, const struct elf *elf, u64 *end);

/* The description of the note `name`, `type` in any PT_NOTE segment: its file offset and size. false: no such note. */
bool elf_find_note(const struct elf *elf, const char *name, u32 type, u64 *offset, u64 *size);

#endif
