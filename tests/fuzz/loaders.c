/* Fuzz target: any bytes as a kernel. Loading must fail with a line, or leave the CPU at an address within RAM. */
#include "../unit/boot_images.h"
#include "driver.h"
#include "vm/boot.h"

#include <assert.h>

enum { MEMORY = 24 << 20 };

size_t fuzz_seed(unsigned n, uint8_t *buffer)
{
	size_t size;
	switch (n) {
	case 0:
		return image_bzimage(buffer);
	case 1:
		size = image_elf32(buffer);
		image_add_pvh_note(buffer, 0x200010);
		return size;
	case 2:
		size = image_elf64(buffer);
		image_add_pvh_note(buffer, 0x200010);
		return size;
	case 3:
		size = image_elf32(buffer);
		image_add_multiboot_header(buffer, TEXT_AT, 0);
		return size;
	case 4:
		size = image_elf64(buffer);
		image_add_multiboot_header(buffer, TEXT_AT, 3);
		return size;
	case 5:
		return image_kludge(buffer);
	}
	return 0;
}

/* What has been placed lies in RAM and nothing overlaps but parts of the kernel itself, which come first. */
static void check_places(const struct boot *boot)
{
	for (unsigned i = 0; i < boot->used_count; i++) {
		assert(boot->used[i].base < boot->used[i].end);
		assert(mem_host(boot->mem, boot->used[i].base, boot->used[i].end - boot->used[i].base));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct mem mem;
	static const u8 initrd_bytes[3000];
	if (!mem.host && mem_init(&mem, MEMORY))
		return 0;
	struct vm_file kernel = { .name = "kernel", .data = data, .size = size };
	struct vm_file initrd = { .name = size & 1 ? "initrd" : NULL,
				  .data = initrd_bytes,
				  .size = sizeof initrd_bytes };
	struct vm_error error = { 0 };
	struct boot boot = {
		.mem = &mem, .kernel = &kernel, .initrd = &initrd, .cmdline = "a b c", .rsdp = 0xe0000, .error = &error
	};
	if (boot_load(&boot)) {
		check_places(&boot);
		assert(mem_host(&mem, boot.state.rip, 1));
		assert(mem_host(&mem, boot.state.gdtr.base, boot.state.gdtr.limit + 1u));
	} else {
		assert(error.text[0] && error.status == VM_STATUS_BAD_INPUT);
	}
	return 0;
}
