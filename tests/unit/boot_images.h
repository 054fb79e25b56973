/*
 * Small kernels of each format, made in memory: for the loaders' unit tests and as seeds of their fuzz target.
 * Each function fills a zeroed buffer of at least IMAGE_BYTES and returns the image's size.
 */
#ifndef STRATA_TESTS_BOOT_IMAGES_H
#define STRATA_TESTS_BOOT_IMAGES_H

#include "base/types.h"

#include <string.h>

enum {
	IMAGE_BYTES = 0x8000,
	/* bzImage */
	SETUP_SECTORS = 4,
	SETUP_BYTES = (SETUP_SECTORS + 1) * 512,
	CODE_BYTES = 0x3000,
	/* ELF */
	TEXT_AT = 0x100,
	TEXT_BYTES = 0x80,
	NOTE_AT = 0x300
};

static inline void image_put(u8 *image, unsigned offset, u64 value, unsigned size)
{
	memcpy(image + offset, &value, size);
}

/* A kernel of three pages that runs at 16 MiB and wants 4 MiB there. */
static inline size_t image_bzimage(u8 *image)
{
	image_put(image, 0x1f1, SETUP_SECTORS, 1);
	image_put(image, 0x1f4, CODE_BYTES / 16, 4);
	image_put(image, 0x1fe, 0xaa55, 2);
	image_put(image, 0x200, 0x66eb, 2); /* the header ends at 0x202 + 0x66 */
	image_put(image, 0x202, 0x53726448, 4);
	image_put(image, 0x206, 0x20f, 2);
	image_put(image, 0x211, 1, 1);
	image_put(image, 0x22c, 0x7fffffff, 4);
	image_put(image, 0x230, 0x200000, 4);
	image_put(image, 0x234, 1, 1);
	image_put(image, 0x236, 1, 2);
	image_put(image, 0x238, 2047, 4);
	image_put(image, 0x258, 16 << 20, 8);
	image_put(image, 0x260, 4 << 20, 4);
	for (unsigned i = 0; i < CODE_BYTES; i++)
		image[SETUP_BYTES + i] = (u8)(i * 7 + 1);
	return SETUP_BYTES + CODE_BYTES;
}

/* 32 bits: a PT_LOAD of 0x80 bytes (0x180 in memory) at 2 MiB; a PT_NOTE. */
static inline size_t image_elf32(u8 *image)
{
	memset(image, 0, 0x1000);
	memcpy(image, "\177ELF\1\1\1", 7);
	image_put(image, 16, 2, 2);
	image_put(image, 18, 3, 2);
	image_put(image, 24, 0x200000, 4);
	image_put(image, 28, 52, 4);
	image_put(image, 42, 32, 2);
	image_put(image, 44, 2, 2);
	const u32 load[] = { 1, TEXT_AT, 0xc0200000, 0x200000, TEXT_BYTES, 0x180, 5, 16 };
	const u32 note[] = { 4, NOTE_AT, 0, 0, 0x40, 0x40, 4, 4 };
	memcpy(image + 52, load, sizeof load);
	memcpy(image + 84, note, sizeof note);
	memset(image + TEXT_AT, 0x90, TEXT_BYTES);
	return 0x400;
}

static inline size_t image_elf64(u8 *image)
{
	size_t size = image_elf32(image);
	memset(image + 4, 0, TEXT_AT - 4);
	memcpy(image + 4, "\2\1\1", 3);
	image_put(image, 16, 2, 2);
	image_put(image, 18, 62, 2);
	image_put(image, 24, 0x200000, 8);
	image_put(image, 32, 64, 8);
	image_put(image, 54, 56, 2);
	image_put(image, 56, 2, 2);
	const u64 load[] = { 1, TEXT_AT, 0xffffffff80200000, 0x200000, TEXT_BYTES, 0x180, 16 };
	const u64 note[] = { 4, NOTE_AT, 0, 0, 0x40, 0x40, 4 };
	memcpy(image + 64, load, sizeof load);
	memcpy(image + 64 + 56, note, sizeof note);
	return size;
}

/* A foreign note, then the one that matters. */
static inline void image_add_pvh_note(u8 *image, u32 entry)
{
	const u32 other[] = { 4, 4, 1, 0x00554e47 /* "GNU" */, 0x11223344 };
	const u32 pvh[] = { 4, 4, 18, 0x006e6558 /* "Xen" */, entry };
	memcpy(image + NOTE_AT, other, sizeof other);
	memcpy(image + NOTE_AT + sizeof other, pvh, sizeof pvh);
}

static inline void image_add_multiboot_header(u8 *image, unsigned at, u32 flags)
{
	image_put(image, at, 0x1badb002, 4);
	image_put(image, at + 4, flags, 4);
	image_put(image, at + 8, (u32) - (0x1badb002 + flags), 4);
}

/* Multiboot with the load addresses in the header: 3 MiB to 3 MiB + 0x800, zeroes to + 0x1000. */
static inline size_t image_kludge(u8 *image)
{
	const u32 addresses[] = { 0x300040, 0x300000, 0x300800, 0x301000, 0x300100 };
	memset(image, 0, 0x1000);
	image_add_multiboot_header(image, 0x40, 0x10000);
	memcpy(image + 0x4c, addresses, sizeof addresses);
	image[0x100] = 0xf4;
	return 0x1000;
}

#endif
