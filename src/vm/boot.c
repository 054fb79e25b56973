#include "vm/boot.h"

#include "base/trace.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MIB (1ULL << 20)

/* Flat code and data descriptors as the hidden parts of segment registers; and the same as GDT entries. */
enum {
	AR_CODE64 = 0xa09b,
	AR_CODE32 = 0xc09b,
	AR_DATA = 0xc093,
	AR_TSS_BUSY = 0x008b,
	AR_LDT = 0x0082,
	SELECTOR_CODE = 0x10,
	SELECTOR_DATA = 0x18,
	SELECTOR_TSS = 0x20,
	TSS_LIMIT = 0x67
};
#define GDT_CODE64 0x00af9b000000ffffULL
#define GDT_CODE32 0x00cf9b000000ffffULL
#define GDT_DATA   0x00cf93000000ffffULL

bool boot_fail(struct boot *boot, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(boot->error->text, sizeof boot->error->text, fmt, ap);
	va_end(ap);
	boot->error->status = VM_STATUS_BAD_INPUT;
	return false;
}

static u64 file_number(const struct vm_file *file, u64 offset, unsigned size)
{
	u64 v = 0;
	if (file_has(file, offset, size))
		memcpy(&v, file->data + offset, size);
	return v;
}

u16 file_u16(const struct vm_file *file, u64 offset)
{
	return (u16)file_number(file, offset, 2);
}

u32 file_u32(const struct vm_file *file, u64 offset)
{
	return (u32)file_number(file, offset, 4);
}

u64 file_u64(const struct vm_file *file, u64 offset)
{
	return file_number(file, offset, 8);
}

/* --- the memory map and the room in it --- */

static void add_e820(struct boot *boot, u64 base, u64 end, enum e820_type type)
{
	if (base >= end)
		return;
	boot->e820[boot->e820_count++] = (struct e820_entry){ base, end - base, type };
}

static void describe_memory(struct boot *boot)
{
	const struct mem *mem = boot->mem;
	boot->e820_count = 0;
	add_e820(boot, 0, BOOT_LOW_END, E820_RAM);
	add_e820(boot, BOOT_LOW_END, 0xa0000, E820_RESERVED);
	add_e820(boot, BOOT_ROM_BASE, BOOT_HIGH_BASE, E820_RESERVED);
	add_e820(boot, BOOT_HIGH_BASE, mem->low_size, E820_RAM);
	add_e820(boot, MEM_ECAM_BASE, MEM_ECAM_BASE + MEM_ECAM_SIZE, E820_RESERVED);
	add_e820(boot, MEM_HIGH_BASE, MEM_HIGH_BASE + mem->size - mem->low_size, E820_RAM);
	boot->used_count = 0;
	boot_use(boot, 0, BOOT_LOW_FIRST);
	boot_use(boot, BOOT_LOW_END, BOOT_HIGH_BASE - BOOT_LOW_END);
}

bool boot_use(struct boot *boot, gpa_t base, u64 size)
{
	if (!size)
		return true;
	if (boot->used_count == BOOT_MAX_RANGES)
		return boot_fail(boot, "kernel %s is made of too many pieces", boot->kernel->name);
	boot->used[boot->used_count++] = (struct boot_range){ base, base + size };
	return true;
}

/* The used range that [base, base + size) runs into, or NULL. */
static const struct boot_range *in_the_way(const struct boot *boot, u64 base, u64 size)
{
	for (unsigned i = 0; i < boot->used_count; i++)
		if (base < boot->used[i].end && boot->used[i].base < base + size)
			return &boot->used[i];
	return NULL;
}

bool boot_place_high(struct boot *boot, u64 size, u64 align, u64 first, u64 end, gpa_t *gpa)
{
	if (end > boot->mem->low_size)
		end = boot->mem->low_size;
	while (end >= size && end - size >= first) {
		u64 base = (end - size) & ~(align - 1);
		if (base < first)
			return false;
		const struct boot_range *range = in_the_way(boot, base, size);
		if (!range) {
			*gpa = base;
			return boot_use(boot, base, size);
		}
		end = range->base;
	}
	return false;
}

bool boot_place_low(struct boot *boot, u64 size, u64 align, u64 first, u64 end, gpa_t *gpa)
{
	if (end > boot->mem->low_size)
		end = boot->mem->low_size;
	for (;;) {
		u64 base = (first + align - 1) & ~(align - 1);
		if (base < first || base > end || size > end - base)
			return false;
		const struct boot_range *range = in_the_way(boot, base, size);
		if (!range) {
			*gpa = base;
			return boot_use(boot, base, size);
		}
		first = range->end;
	}
}

/* --- moving bytes to the guest --- */

static bool zero(struct mem *mem, gpa_t gpa, u64 size)
{
	static const u8 zeroes[PAGE_SIZE];
	while (size) {
		u64 n = size < PAGE_SIZE ? size : PAGE_SIZE;
		if (!mem_write(mem, gpa, zeroes, n))
			return false;
		gpa += n;
		size -= n;
	}
	return true;
}

bool boot_load_part(struct boot *boot, u64 offset, u64 size, gpa_t gpa, u64 total, const char *what)
{
	const struct vm_file *file = boot->kernel;
	if (!file_has(file, offset, size))
		return boot_fail(boot, "kernel %s is truncated: %s needs %llu bytes from offset %llu, the file has %zu",
				 file->name, what, (unsigned long long)size, (unsigned long long)offset, file->size);
	if (total < size)
		total = size;
	if (!total)
		return true;
	if (gpa < BOOT_LOW_FIRST || total > boot->mem->low_size || gpa > boot->mem->low_size - total)
		return boot_fail(boot,
				 "kernel %s does not fit: %s needs memory from 0x%llx to 0x%llx, "
				 "the guest has it from 0x%x to 0x%llx",
				 file->name, what, (unsigned long long)gpa, (unsigned long long)(gpa + total),
				 BOOT_LOW_FIRST, (unsigned long long)boot->mem->low_size);
	if (gpa < BOOT_HIGH_BASE && gpa + total > BOOT_LOW_END)
		return boot_fail(boot, "kernel %s wants %s at 0x%llx, which is the firmware's area (0x%x to 0x%x)",
				 file->name, what, (unsigned long long)gpa, BOOT_LOW_END, BOOT_HIGH_BASE);
	mem_write(boot->mem, gpa, file->data + offset, size);
	zero(boot->mem, gpa + size, total - size);
	TRACE(boot, "%s: %llu bytes at 0x%llx, %llu with zeroes", what, (unsigned long long)size,
	      (unsigned long long)gpa, (unsigned long long)total);
	return boot_use(boot, gpa, total);
}

bool boot_put_low(struct boot *boot, const void *data, u64 size, u64 align, gpa_t *gpa)
{
	if (!boot_place_high(boot, size, align, BOOT_LOW_FIRST, BOOT_LOW_END, gpa))
		return boot_fail(boot, "kernel %s leaves no %llu bytes of conventional memory for the boot parameters",
				 boot->kernel->name, (unsigned long long)size);
	return data ? mem_write(boot->mem, *gpa, data, size) : zero(boot->mem, *gpa, size);
}

bool boot_put_initrd(struct boot *boot, u64 end, gpa_t *gpa)
{
	const struct vm_file *initrd = boot->initrd;
	*gpa = 0;
	if (!initrd->name)
		return true;
	if (!boot_place_high(boot, initrd->size, PAGE_SIZE, BOOT_HIGH_BASE, end, gpa))
		return boot_fail(boot,
				 "initrd %s (%llu MiB) does not fit in guest memory beside kernel %s: "
				 "give the guest more than %llu MiB",
				 initrd->name, (unsigned long long)(initrd->size / MIB + 1), boot->kernel->name,
				 (unsigned long long)(boot->mem->size / MIB));
	TRACE(boot, "initrd: %zu bytes at 0x%llx", initrd->size, (unsigned long long)*gpa);
	return mem_write(boot->mem, *gpa, initrd->data, initrd->size);
}

/* --- the boot CPU --- */

static void flat_segments(struct x86_state *s, u32 code_ar)
{
	for (unsigned i = SEG_ES; i <= SEG_GS; i++)
		s->seg[i] = (struct segment){ SELECTOR_DATA, 0xffffffff, AR_DATA, 0 };
	s->seg[SEG_CS] = (struct segment){ SELECTOR_CODE, 0xffffffff, code_ar, 0 };
	s->seg[SEG_TR] = (struct segment){ SELECTOR_TSS, TSS_LIMIT, AR_TSS_BUSY, 0 };
	s->seg[SEG_LDTR] = (struct segment){ 0, 0, AR_LDT, 0 };
}

static bool put_gdt(struct boot *boot, u64 code)
{
	u64 gdt[] = { 0, 0, code, GDT_DATA };
	gpa_t gpa;
	if (!boot_put_low(boot, gdt, sizeof gdt, 16, &gpa))
		return false;
	boot->state.gdtr = (struct table_register){ gpa, sizeof gdt - 1 };
	return true;
}

/* PML4, PDPT and four page directories of 2-MiB pages, in this order. */
static bool put_identity_map(struct boot *boot)
{
	enum { PRESENT_WRITABLE = 0x3, LARGE = 0x80, TABLES = 6, ENTRIES = 512 };
	static const u64 large_page = 2 * MIB;
	u64 table[ENTRIES];
	gpa_t base;
	if (!boot_put_low(boot, NULL, TABLES * PAGE_SIZE, PAGE_SIZE, &base))
		return false;
	mem_write_u64(boot->mem, base, (base + PAGE_SIZE) | PRESENT_WRITABLE);
	for (unsigned directory = 0; directory < 4; directory++) {
		gpa_t at = base + (2 + directory) * PAGE_SIZE;
		mem_write_u64(boot->mem, base + PAGE_SIZE + directory * 8, at | PRESENT_WRITABLE);
		for (unsigned i = 0; i < ENTRIES; i++)
			table[i] = (directory * ENTRIES + i) * large_page | PRESENT_WRITABLE | LARGE;
		mem_write(boot->mem, at, table, sizeof table);
	}
	boot->state.cr3 = base;
	return true;
}

bool boot_enter_long(struct boot *boot, u64 entry)
{
	struct x86_state *s = &boot->state;
	flat_segments(s, AR_CODE64);
	s->rip = entry;
	s->rflags = RFLAGS_ONE;
	s->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	s->cr4 = CR4_PAE;
	s->efer = EFER_LME | EFER_LMA;
	return put_gdt(boot, GDT_CODE64) && put_identity_map(boot);
}

bool boot_enter_flat32(struct boot *boot, u32 entry)
{
	struct x86_state *s = &boot->state;
	flat_segments(s, AR_CODE32);
	s->rip = entry;
	s->rflags = RFLAGS_ONE;
	s->cr0 = CR0_PE | CR0_ET | CR0_NE;
	return put_gdt(boot, GDT_CODE32);
}

/* --- recognizing --- */

static bool starts_with(const struct vm_file *file, const void *magic, size_t size)
{
	return file->size >= size && !memcmp(file->data, magic, size);
}

/* None of the formats matched: say what the file looks like instead. */
static bool fail_unknown(struct boot *boot)
{
	static const struct {
		const char *magic;
		size_t size;
		const char *what;
	} known[] = {
		{ "\177ELF", 4, "is an ELF file with neither a PVH entry note nor a Multiboot header" },
		{ "\x1f\x8b", 2, "is a gzip file: unpack it first" },
		{ "\xfd"
		  "7zXZ",
		  5, "is an xz file: unpack it first" },
		{ "\x28\xb5\x2f\xfd", 4, "is a zstd file: unpack it first" },
		{ "070701", 6, "is a cpio archive, as initrds are: not a kernel" },
		{ "QFI\xfb", 4, "is a qcow2 disk image, not a kernel" },
	};
	for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
		if (starts_with(boot->kernel, known[i].magic, known[i].size))
			return boot_fail(boot, "kernel %s %s", boot->kernel->name, known[i].what);
	return boot_fail(boot,
			 "kernel %s is no kernel Strata can boot: it must be a Linux bzImage, a PVH ELF or a "
			 "Multiboot image",
			 boot->kernel->name);
}

bool boot_load(struct boot *boot)
{
	/* PVH before Multiboot: Xen's image is both, and as Multiboot image it would call a BIOS. */
	static const struct boot_format *const formats[] = { &boot_linux, &boot_pvh, &boot_multiboot };
	const struct vm_file *kernel = boot->kernel;
	if (!kernel->name)
		return boot_fail(boot, "no kernel given: there is nothing to boot (--kernel FILE)");
	if (!kernel->size)
		return boot_fail(boot, "kernel %s is empty", kernel->name);
	if (boot->initrd->name && !boot->initrd->size)
		return boot_fail(boot, "initrd %s is empty", boot->initrd->name);
	if (boot->modules && !boot_multiboot.matches(kernel) && !boot_pvh.matches(kernel))
		return boot_fail(boot, "kernel %s takes no modules: only Multiboot and PVH kernels do", kernel->name);
	if (!boot->cmdline)
		boot->cmdline = "";
	if (strlen(boot->cmdline) >= VM_CMDLINE_MAX)
		return boot_fail(boot, "the kernel command line is %zu bytes long, at most %d are possible",
				 strlen(boot->cmdline), VM_CMDLINE_MAX - 1);
	describe_memory(boot);
	memset(&boot->state, 0, sizeof boot->state);
	for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
		if (formats[i]->matches(kernel)) {
			TRACE(boot, "%s is a %s image", kernel->name, formats[i]->name);
			return formats[i]->load(boot);
		}
	return fail_unknown(boot);
}
