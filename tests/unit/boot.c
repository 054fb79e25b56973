/* The boot loaders, on images made here: what a good one becomes in memory, and the line each bad one gets. */
#include "vm/boot.h"
#include "boot_images.h"

#include <glib.h>
#include <stdio.h>
#include <string.h>

enum { MEMORY = 64 << 20 };

struct fixture {
	struct mem mem;
	struct vm_file kernel, initrd;
	struct vm_error error;
	struct boot boot;
	u8 image[IMAGE_BYTES];
};

static void set_up(struct fixture *f, gconstpointer unused)
{
	g_assert_cmpint(mem_init(&f->mem, MEMORY), ==, 0);
	f->kernel = (struct vm_file){ .name = "dir/kernel", .data = f->image, .size = 0 };
	f->initrd = (struct vm_file){ 0 };
	f->boot = (struct boot){
		.mem = &f->mem, .kernel = &f->kernel, .initrd = &f->initrd, .rsdp = 0xe0000, .error = &f->error
	};
}

static void tear_down(struct fixture *f, gconstpointer unused)
{
	mem_destroy(&f->mem);
}

static u64 guest(struct fixture *f, gpa_t gpa, unsigned size)
{
	u64 v = 0;
	g_assert_true(mem_read(&f->mem, gpa, &v, size));
	return v;
}

static void guest_string(struct fixture *f, gpa_t gpa, char *out, unsigned size)
{
	g_assert_true(mem_read(&f->mem, gpa, out, size));
	g_assert_nonnull(memchr(out, 0, size));
}

static void assert_loads(struct fixture *f)
{
	if (!boot_load(&f->boot))
		g_error("does not load: %s", f->error.text);
}

static void assert_fails(struct fixture *f, const char *part)
{
	memset(&f->error, 0, sizeof f->error);
	g_assert_false(boot_load(&f->boot));
	g_assert_cmpint(f->error.status, ==, VM_STATUS_BAD_INPUT);
	if (!strstr(f->error.text, part))
		g_error("expected \"%s\" in: %s", part, f->error.text);
	g_assert_null(strchr(f->error.text, '\n'));
}

/* --- bzImage --- */

static void bzimage_is_entered_in_64_bit_mode(struct fixture *f, gconstpointer unused)
{
	const struct x86_state *s = &f->boot.state;
	f->kernel.size = image_bzimage(f->image);
	assert_loads(f);
	g_assert_cmphex(s->rip, ==, (16 << 20) + 0x200);
	g_assert_cmphex(s->efer & (EFER_LME | EFER_LMA), ==, EFER_LME | EFER_LMA);
	g_assert_cmphex(s->cr0 & (CR0_PE | CR0_PG), ==, CR0_PE | CR0_PG);
	g_assert_cmphex(s->cr4, ==, CR4_PAE);
	g_assert_cmphex(s->rflags, ==, RFLAGS_ONE);
	g_assert_cmphex(s->seg[SEG_CS].selector, ==, 0x10);
	g_assert_cmphex(s->seg[SEG_CS].ar & (SEG_AR_L | SEG_AR_DB), ==, SEG_AR_L);
	g_assert_cmphex(s->seg[SEG_DS].selector, ==, 0x18);
	g_assert_cmpmem(mem_host(&f->mem, 16 << 20, CODE_BYTES), CODE_BYTES, f->image + SETUP_BYTES, CODE_BYTES);
	/* The GDT in memory is what the selectors say. */
	g_assert_cmphex(guest(f, s->gdtr.base + 0x10, 8), ==, 0x00af9b000000ffff);
	g_assert_cmphex(guest(f, s->gdtr.base + 0x18, 8), ==, 0x00cf93000000ffff);
	g_assert_cmpuint(s->gdtr.limit, ==, 31);
}

static void bzimage_tables_map_4_gib_to_themselves(struct fixture *f, gconstpointer unused)
{
	f->kernel.size = image_bzimage(f->image);
	assert_loads(f);
	u64 pdpt = guest(f, f->boot.state.cr3, 8) & PAGE_MASK;
	for (u64 gpa = 0; gpa < 1ULL << 32; gpa += 2 << 20) {
		u64 pd = guest(f, pdpt + (gpa >> 30) * 8, 8);
		g_assert_cmphex(pd & 3, ==, 3);
		g_assert_cmphex(guest(f, (pd & PAGE_MASK) + (gpa >> 21 & 511) * 8, 8), ==, gpa | 0x83);
	}
}

static void bzimage_gets_its_boot_parameters(struct fixture *f, gconstpointer unused)
{
	char text[32];
	f->kernel.size = image_bzimage(f->image);
	f->boot.cmdline = "console=ttyS0 quiet";
	assert_loads(f);
	gpa_t p = f->boot.state.gpr[RSI];
	g_assert_cmphex(guest(f, p + 0x1fe, 2), ==, 0xaa55);
	g_assert_cmphex(guest(f, p + 0x202, 4), ==, 0x53726448);
	g_assert_cmphex(guest(f, p + 0x1ef, 1), ==, 0); /* the sentinel */
	g_assert_cmphex(guest(f, p + 0x210, 1), ==, 0xff);
	g_assert_cmphex(guest(f, p + 0x070, 8), ==, 0xe0000);
	guest_string(f, guest(f, p + 0x228, 4), text, sizeof text);
	g_assert_cmpstr(text, ==, "console=ttyS0 quiet");
	/* Nothing behind the header's end is copied. */
	f->image[0x268] = 0xee;
	assert_loads(f);
	g_assert_cmphex(guest(f, f->boot.state.gpr[RSI] + 0x268, 1), ==, 0);
}

static void bzimage_sees_the_memory_map(struct fixture *f, gconstpointer unused)
{
	f->kernel.size = image_bzimage(f->image);
	assert_loads(f);
	gpa_t p = f->boot.state.gpr[RSI];
	u64 ram = 0, end = 0;
	for (unsigned i = 0; i < guest(f, p + 0x1e8, 1); i++) {
		gpa_t e = p + 0x2d0 + i * 20;
		g_assert_cmphex(guest(f, e, 8), >=, end); /* sorted, no overlap */
		end = guest(f, e, 8) + guest(f, e + 8, 8);
		if (guest(f, e + 16, 4) == E820_RAM)
			ram += guest(f, e + 8, 8);
	}
	g_assert_cmpuint(ram, ==, MEMORY - (0x100000 - 0x9fc00));
}

static void initrd_lies_page_aligned_below_its_limit(struct fixture *f, gconstpointer unused)
{
	static const u8 bytes[5000] = { 'i', 'n', 'i', 't' };
	f->kernel.size = image_bzimage(f->image);
	image_put(f->image, 0x22c, 0x2ffffff, 4); /* initrd_addr_max */
	f->initrd = (struct vm_file){ .name = "initrd", .data = bytes, .size = sizeof bytes };
	assert_loads(f);
	gpa_t p = f->boot.state.gpr[RSI], at = guest(f, p + 0x218, 4);
	g_assert_cmpuint(guest(f, p + 0x21c, 4), ==, sizeof bytes);
	g_assert_cmphex(at, ==, 0x3000000 - 0x2000);
	g_assert_cmpmem(mem_host(&f->mem, at, sizeof bytes), sizeof bytes, bytes, sizeof bytes);
}

static void initrd_keeps_out_of_the_kernels_way(struct fixture *f, gconstpointer unused)
{
	static u8 bytes[14 << 20];
	f->kernel.size = image_bzimage(f->image);
	image_put(f->image, 0x260, 44 << 20, 4); /* the kernel takes 16 to 60 MiB */
	f->initrd = (struct vm_file){ .name = "initrd", .data = bytes, .size = sizeof bytes };
	assert_loads(f);
	u64 at = guest(f, f->boot.state.gpr[RSI] + 0x218, 4);
	g_assert_cmphex(at + sizeof bytes, <=, 16 << 20);
	g_assert_cmphex(at, >=, 1 << 20);
	f->initrd.size = (14 << 20) - 1;
	f->kernel.name = "k";
	image_put(f->image, 0x258, 4 << 20, 8); /* 4 to 48 MiB: the 14 MiB fit above only */
	assert_loads(f);
	g_assert_cmphex(guest(f, f->boot.state.gpr[RSI] + 0x218, 4), >=, 48 << 20);
}

static void bad_bzimages_are_refused(struct fixture *f, gconstpointer unused)
{
	static const struct {
		unsigned offset, size;
		u64 value;
		const char *message;
	} cases[] = {
		{ 0x206, 2, 0x020b, "boot protocol 2.11" },
		{ 0x211, 1, 0, "zImage" },
		{ 0x236, 2, 0, "no 64-bit entry point" },
		{ 0x1f4, 4, 0, "no code" },
		{ 0x1f4, 4, 0x10000, "truncated" },
		{ 0x1f4, 4, 0xffffffff, "truncated" },
		{ 0x1f1, 1, 255, "truncated" },
		{ 0x230, 4, 0, "do not go together" },
		{ 0x230, 4, 3, "do not go together" },
		{ 0x258, 8, 0x1234567, "do not go together" },
		{ 0x258, 8, 0, "do not go together" },
		{ 0x258, 8, 0xffffffffffe00000, "needs at least" },
		{ 0x260, 4, 0x100, "do not go together" },
		{ 0x260, 4, 0xfffff000, "needs at least" },
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		f->kernel.size = image_bzimage(f->image);
		image_put(f->image, cases[i].offset, cases[i].value, cases[i].size);
		assert_fails(f, cases[i].message);
	}
	f->kernel.size = image_bzimage(f->image);
	f->kernel.size = 0x240;
	assert_fails(f, "truncated");
	f->kernel.size = image_bzimage(f->image);
	f->kernel.size -= 100;
	assert_fails(f, "truncated");
}

static void too_long_command_lines_are_refused(struct fixture *f, gconstpointer unused)
{
	char text[VM_CMDLINE_MAX + 1];
	f->kernel.size = image_bzimage(f->image);
	memset(text, 'x', sizeof text);
	f->boot.cmdline = text;
	text[VM_CMDLINE_MAX] = 0;
	assert_fails(f, "at most 2047");
	text[VM_CMDLINE_MAX - 1] = 0;
	assert_loads(f);
	image_put(f->image, 0x238, 100, 4);
	assert_fails(f, "takes at most 100");
}

static void an_initrd_without_room_is_refused(struct fixture *f, gconstpointer unused)
{
	static u8 bytes[60 << 20];
	f->kernel.size = image_bzimage(f->image);
	f->initrd = (struct vm_file){ .name = "big.img", .data = bytes, .size = sizeof bytes };
	assert_fails(f, "initrd big.img (61 MiB) does not fit");
	f->initrd.size = 0;
	assert_fails(f, "initrd big.img is empty");
	f->initrd.size = SIZE_MAX;
	assert_fails(f, "does not fit");
}

static void a_kernel_larger_than_memory_is_refused(struct fixture *f, gconstpointer unused)
{
	f->kernel.size = image_bzimage(f->image);
	mem_destroy(&f->mem);
	g_assert_cmpint(mem_init(&f->mem, 18 << 20), ==, 0);
	assert_fails(f, "needs at least 21 MiB of memory");
}

/* --- ELF --- */

static void assert_flat_32_bit_entry(struct fixture *f, u32 entry)
{
	const struct x86_state *s = &f->boot.state;
	g_assert_cmphex(s->rip, ==, entry);
	g_assert_cmphex(s->cr0 & (CR0_PE | CR0_PG), ==, CR0_PE);
	g_assert_cmphex(s->efer, ==, 0);
	g_assert_cmphex(s->rflags, ==, RFLAGS_ONE);
	for (unsigned i = SEG_ES; i <= SEG_GS; i++) {
		g_assert_cmphex(s->seg[i].base, ==, 0);
		g_assert_cmphex(s->seg[i].limit, ==, 0xffffffff);
	}
	g_assert_cmphex(s->seg[SEG_CS].ar & (SEG_AR_L | SEG_AR_DB | SEG_AR_CODE), ==, SEG_AR_DB | SEG_AR_CODE);
}

static void assert_text_loaded_and_bss_zero(struct fixture *f)
{
	g_assert_cmpmem(mem_host(&f->mem, 0x200000, TEXT_BYTES), TEXT_BYTES, f->image + TEXT_AT, TEXT_BYTES);
	for (unsigned i = TEXT_BYTES; i < 0x180; i += 8)
		g_assert_cmphex(guest(f, 0x200000 + i, 8), ==, 0);
}

static void check_pvh(struct fixture *f)
{
	char text[16];
	static const u8 module[100] = { 1, 2, 3 };
	image_add_pvh_note(f->image, 0x200010);
	f->initrd = (struct vm_file){ .name = "initrd", .data = module, .size = sizeof module };
	f->boot.cmdline = "a=b";
	memset(mem_host(&f->mem, 0x200000, 0x1000), 0xee, 0x1000);
	assert_loads(f);
	assert_flat_32_bit_entry(f, 0x200010);
	assert_text_loaded_and_bss_zero(f);
	gpa_t info = f->boot.state.gpr[RBX];
	g_assert_cmphex(guest(f, info, 4), ==, 0x336ec578);
	g_assert_cmpuint(guest(f, info + 4, 4), ==, 1);
	g_assert_cmpuint(guest(f, info + 12, 4), ==, 1);
	gpa_t modules = guest(f, info + 16, 8);
	g_assert_cmpuint(guest(f, modules + 8, 8), ==, sizeof module);
	g_assert_cmpmem(mem_host(&f->mem, guest(f, modules, 8), 100), 100, module, 100);
	guest_string(f, guest(f, info + 24, 8), text, sizeof text);
	g_assert_cmpstr(text, ==, "a=b");
	g_assert_cmphex(guest(f, info + 32, 8), ==, 0xe0000);
	g_assert_cmpuint(guest(f, info + 48, 4), ==, f->boot.e820_count);
	gpa_t map = guest(f, info + 40, 8);
	g_assert_cmphex(guest(f, map + 8, 8), ==, 0x9fc00);
	g_assert_cmpuint(guest(f, map + 16, 4), ==, E820_RAM);
}

static void pvh_is_entered_at_its_note_with_start_info(struct fixture *f, gconstpointer unused)
{
	f->kernel.size = image_elf32(f->image);
	check_pvh(f);
	f->kernel.size = image_elf64(f->image);
	check_pvh(f);
}

static void an_elf_without_any_entry_is_refused(struct fixture *f, gconstpointer unused)
{
	f->kernel.size = image_elf64(f->image);
	assert_fails(f, "neither a PVH entry note nor a Multiboot header");
}

static void bad_elf_files_are_refused(struct fixture *f, gconstpointer unused)
{
	static const struct {
		unsigned offset, size;
		u64 value;
		const char *message;
	} cases[] = {
		{ 5, 1, 2, "byte order" },
		{ 4, 1, 7, "byte order or class" },
		{ 18, 2, 40, "another processor" },
		{ 16, 2, 1, "no executable" },
		{ 24, 4, 0xfff00000, "outside of memory" },
		{ 28, 4, 0xfffffff0, "truncated" },
		{ 44, 2, 0, "damaged program headers" },
		{ 44, 2, 0xffff, "damaged program headers" },
		{ 42, 2, 4, "damaged program headers" },
		{ 52, 4, 0, "nothing to load" },
		{ 52 + 4, 4, 0xffffffff, "truncated" },
		{ 52 + 16, 4, 0xffffffff, "truncated" },
		{ 52 + 20, 4, 0xfffffff0, "does not fit" },
		{ 52 + 12, 4, 0xffffff00, "does not fit" },
		{ 52 + 12, 4, MEMORY - 0x17f, "does not fit" },
		{ 52 + 12, 4, 0x10, "does not fit" },
		{ 52 + 12, 4, 0xa0000, "firmware's area" },
		{ 52 + 12, 4, 0x9fb80, "firmware's area" },
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		f->kernel.size = image_elf32(f->image);
		image_add_multiboot_header(f->image, TEXT_AT, 0);
		image_put(f->image, cases[i].offset, cases[i].value, cases[i].size);
		assert_fails(f, cases[i].message);
	}
}

static void a_64_bit_segment_may_not_wrap(struct fixture *f, gconstpointer unused)
{
	static const unsigned fields[] = { 64 + 8, 64 + 24, 64 + 32, 64 + 40 };
	for (unsigned i = 0; i < G_N_ELEMENTS(fields); i++)
		for (u64 v = ~0ULL - 0x200; v >= ~0ULL - 0x200; v += 0x40) {
			f->kernel.size = image_elf64(f->image);
			image_add_pvh_note(f->image, 0x200010);
			image_put(f->image, fields[i], v, 8);
			assert_fails(f, "kernel dir/kernel");
		}
}

/* --- Multiboot --- */

static void multiboot_elf_gets_its_information(struct fixture *f, gconstpointer unused)
{
	static const u8 module[5000] = { 9, 8, 7 };
	char text[32];
	f->kernel.size = image_elf32(f->image);
	image_add_multiboot_header(f->image, TEXT_AT, 3);
	f->initrd = (struct vm_file){ .name = "some/where/env", .data = module, .size = sizeof module };
	f->boot.cmdline = "one two";
	assert_loads(f);
	assert_flat_32_bit_entry(f, 0x200000);
	assert_text_loaded_and_bss_zero(f);
	g_assert_cmphex(f->boot.state.gpr[RAX], ==, 0x2badb002);
	gpa_t info = f->boot.state.gpr[RBX];
	g_assert_cmphex(info, <, 0xa0000);
	g_assert_cmphex(guest(f, info, 4), ==, 1 | 4 | 8 | 64 | 512);
	g_assert_cmpuint(guest(f, info + 8, 4), ==, MEMORY / 1024 - 1024);
	guest_string(f, guest(f, info + 16, 4), text, sizeof text);
	g_assert_cmpstr(text, ==, "kernel one two");
	g_assert_cmpuint(guest(f, info + 20, 4), ==, 1);
	gpa_t m = guest(f, info + 24, 4), start = guest(f, m, 4);
	g_assert_cmphex(start, ==, 0x201000); /* the next page behind the kernel */
	g_assert_cmpuint(guest(f, m + 4, 4) - start, ==, sizeof module);
	g_assert_cmpmem(mem_host(&f->mem, start, 5000), 5000, module, 5000);
	guest_string(f, guest(f, m + 8, 4), text, sizeof text);
	g_assert_cmpstr(text, ==, "env");
	g_assert_cmpuint(guest(f, info + 44, 4), ==, f->boot.e820_count * 24);
	gpa_t map = guest(f, info + 48, 4);
	g_assert_cmpuint(guest(f, map, 4), ==, 20);
	g_assert_cmphex(guest(f, map + 12, 8), ==, 0x9fc00);
	guest_string(f, guest(f, info + 64, 4), text, sizeof text);
	g_assert_cmpstr(text, ==, "Strata");
}

/* Two modules behind the initrd, the first with words. */
static void add_modules(struct fixture *f, struct vm_module module[2])
{
	static const u8 initrd[100] = { 1 }, first[5000] = { 2 }, second[4096] = { 3 };
	f->initrd = (struct vm_file){ .name = "initrd", .data = initrd, .size = sizeof initrd };
	module[0] = (struct vm_module){ { .name = "dir/linux", .data = first, .size = sizeof first }, "a b" };
	module[1] = (struct vm_module){ { .name = "ramdisk", .data = second, .size = sizeof second }, "" };
	f->boot.module = module;
	f->boot.modules = 2;
}

static void assert_module(struct fixture *f, const struct vm_file *file, gpa_t start)
{
	g_assert_cmphex(start % 4096, ==, 0);
	g_assert_cmpmem(mem_host(&f->mem, start, file->size), file->size, file->data, file->size);
}

static void multiboot_modules_come_in_order_with_their_words(struct fixture *f, gconstpointer unused)
{
	static const char *const strings[] = { "initrd", "linux a b", "ramdisk" };
	struct vm_module module[2];
	char text[32];
	f->kernel.size = image_elf32(f->image);
	image_add_multiboot_header(f->image, TEXT_AT, 0);
	add_modules(f, module);
	assert_loads(f);
	gpa_t info = f->boot.state.gpr[RBX], end = 0;
	g_assert_cmpuint(guest(f, info + 20, 4), ==, 3);
	for (unsigned i = 0; i < 3; i++) {
		gpa_t m = guest(f, info + 24, 4) + 16 * i, start = guest(f, m, 4);
		const struct vm_file *file = i ? &module[i - 1].file : &f->initrd;
		assert_module(f, file, start);
		g_assert_cmpuint(guest(f, m + 4, 4) - start, ==, file->size);
		g_assert_cmphex(start, >=, end);
		end = guest(f, m + 4, 4);
		guest_string(f, guest(f, m + 8, 4), text, sizeof text);
		g_assert_cmpstr(text, ==, strings[i]);
	}
}

static void pvh_modules_come_in_order_with_their_words(struct fixture *f, gconstpointer unused)
{
	struct vm_module module[2];
	char text[32];
	f->kernel.size = image_elf32(f->image);
	image_add_pvh_note(f->image, 0x200010);
	add_modules(f, module);
	assert_loads(f);
	gpa_t info = f->boot.state.gpr[RBX];
	g_assert_cmpuint(guest(f, info + 12, 4), ==, 3);
	for (unsigned i = 0; i < 3; i++) {
		gpa_t m = guest(f, info + 16, 8) + 32 * i;
		const struct vm_file *file = i ? &module[i - 1].file : &f->initrd;
		assert_module(f, file, guest(f, m, 8));
		g_assert_cmpuint(guest(f, m + 8, 8), ==, file->size);
		if (i == 1) {
			guest_string(f, guest(f, m + 16, 8), text, sizeof text);
			g_assert_cmpstr(text, ==, "a b");
		} else {
			g_assert_cmphex(guest(f, m + 16, 8), ==, 0);
		}
	}
}

static void modules_for_a_kernel_that_takes_none_are_refused(struct fixture *f, gconstpointer unused)
{
	struct vm_module module[2];
	f->kernel.size = image_bzimage(f->image);
	add_modules(f, module);
	assert_fails(f, "takes no modules");
}

static void a_module_that_does_not_fit_is_refused(struct fixture *f, gconstpointer unused)
{
	struct vm_module module[2];
	f->kernel.size = image_elf32(f->image);
	image_add_multiboot_header(f->image, TEXT_AT, 0);
	add_modules(f, module);
	module[1].file.size = MEMORY;
	assert_fails(f, "module ramdisk");
}

static void multiboot_without_arguments_is_named_only(struct fixture *f, gconstpointer unused)
{
	char text[32];
	f->kernel.size = image_elf64(f->image);
	image_add_multiboot_header(f->image, TEXT_AT, 0);
	assert_loads(f);
	guest_string(f, guest(f, f->boot.state.gpr[RBX] + 16, 4), text, sizeof text);
	g_assert_cmpstr(text, ==, "kernel");
}

static void multiboot_addresses_in_the_header_are_followed(struct fixture *f, gconstpointer unused)
{
	f->kernel.size = image_kludge(f->image);
	memset(mem_host(&f->mem, 0x300000, 0x2000), 0xee, 0x2000);
	assert_loads(f);
	assert_flat_32_bit_entry(f, 0x300100);
	g_assert_cmphex(guest(f, 0x300040, 4), ==, 0x1badb002);
	g_assert_cmphex(guest(f, 0x300100, 1), ==, 0xf4);
	g_assert_cmphex(guest(f, 0x300ff8, 8), ==, 0);
	g_assert_cmphex(guest(f, 0x301000, 1), ==, 0xee);
	image_put(f->image, 0x54, 0, 4); /* no load_end, no bss_end: the whole file */
	image_put(f->image, 0x58, 0, 4);
	assert_loads(f);
	g_assert_cmphex(guest(f, 0x300ff8, 8), ==, 0);
	g_assert_cmphex(guest(f, 0x301000, 1), ==, 0xee);
}

static void bad_multiboot_headers_are_refused(struct fixture *f, gconstpointer unused)
{
	static const struct {
		unsigned offset;
		u32 value;
		const char *message;
	} cases[] = {
		{ 0x50, 0x300041, "before the file's start" },
		{ 0x50, 0x2fff00, "before the file's start" },
		{ 0x54, 0x2fffff, "contradict" },
		{ 0x54, 0x309000, "truncated" },
		{ 0x58, 0x300700, "contradict" },
		{ 0x58, 0xfffffff0, "does not fit" },
		{ 0x5c, 0xf0000000, "outside of memory" },
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		f->kernel.size = image_kludge(f->image);
		image_put(f->image, cases[i].offset, cases[i].value, 4);
		/* load_end below bss_end's case: keep bss_end out of the way */
		if (cases[i].offset == 0x54)
			image_put(f->image, 0x58, 0, 4);
		assert_fails(f, cases[i].message);
	}
	f->kernel.size = image_kludge(f->image);
	f->kernel.size = 0x50;
	assert_fails(f, "truncated inside its Multiboot header");
	f->kernel.size = image_elf32(f->image);
	image_add_multiboot_header(f->image, TEXT_AT, 0x8000);
	assert_fails(f, "features that do not exist");
	memset(f->image, 0, 0x1000);
	image_add_multiboot_header(f->image, 0, 0);
	assert_fails(f, "no ELF file");
}

/* --- foreign files --- */

static void foreign_files_are_named(struct fixture *f, gconstpointer unused)
{
	static const struct {
		const char *bytes, *message;
	} cases[] = {
		{ "#!/bin/sh\n", "is no kernel Strata can boot: it must be a Linux bzImage, a PVH ELF or a Multiboot" },
		{ "\x1f\x8b\x08", "gzip" },
		{ "\xfd"
		  "7zXZ",
		  "xz" },
		{ "070701", "cpio" },
		{ "QFI\xfb", "qcow2" },
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		memset(f->image, 0, 0x1000);
		strcpy((char *)f->image, cases[i].bytes);
		f->kernel.size = 0x1000;
		assert_fails(f, cases[i].message);
		f->kernel.size = strlen(cases[i].bytes);
		assert_fails(f, cases[i].message);
	}
	f->kernel.size = 0;
	assert_fails(f, "kernel dir/kernel is empty");
	f->kernel.name = NULL;
	assert_fails(f, "no kernel given");
}

#define ADD(path, function) g_test_add(path, struct fixture, NULL, set_up, function, tear_down)

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	ADD("/boot/bzimage-is-entered-in-64-bit-mode", bzimage_is_entered_in_64_bit_mode);
	ADD("/boot/bzimage-tables-map-4-gib-to-themselves", bzimage_tables_map_4_gib_to_themselves);
	ADD("/boot/bzimage-gets-its-boot-parameters", bzimage_gets_its_boot_parameters);
	ADD("/boot/bzimage-sees-the-memory-map", bzimage_sees_the_memory_map);
	ADD("/boot/initrd-lies-page-aligned-below-its-limit", initrd_lies_page_aligned_below_its_limit);
	ADD("/boot/initrd-keeps-out-of-the-kernels-way", initrd_keeps_out_of_the_kernels_way);
	ADD("/boot/bad-bzimages-are-refused", bad_bzimages_are_refused);
	ADD("/boot/too-long-command-lines-are-refused", too_long_command_lines_are_refused);
	ADD("/boot/an-initrd-without-room-is-refused", an_initrd_without_room_is_refused);
	ADD("/boot/a-kernel-larger-than-memory-is-refused", a_kernel_larger_than_memory_is_refused);
	ADD("/boot/pvh-is-entered-at-its-note-with-start-info", pvh_is_entered_at_its_note_with_start_info);
	ADD("/boot/an-elf-without-any-entry-is-refused", an_elf_without_any_entry_is_refused);
	ADD("/boot/bad-elf-files-are-refused", bad_elf_files_are_refused);
	ADD("/boot/a-64-bit-segment-may-not-wrap", a_64_bit_segment_may_not_wrap);
	ADD("/boot/multiboot-elf-gets-its-information", multiboot_elf_gets_its_information);
	ADD("/boot/multiboot-modules-come-in-order-with-their-words", multiboot_modules_come_in_order_with_their_words);
	ADD("/boot/pvh-modules-come-in-order-with-their-words", pvh_modules_come_in_order_with_their_words);
	ADD("/boot/modules-for-a-kernel-that-takes-none-are-refused", modules_for_a_kernel_that_takes_none_are_refused);
	ADD("/boot/a-module-that-does-not-fit-is-refused", a_module_that_does_not_fit_is_refused);
	ADD("/boot/multiboot-without-arguments-is-named-only", multiboot_without_arguments_is_named_only);
	ADD("/boot/multiboot-addresses-in-the-header-are-followed", multiboot_addresses_in_the_header_are_followed);
	ADD("/boot/bad-multiboot-headers-are-refused", bad_multiboot_headers_are_refused);
	ADD("/boot/foreign-files-are-named", foreign_files_are_named);
	return g_test_run();
}
