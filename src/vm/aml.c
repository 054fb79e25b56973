#include "vm/aml.h"

#include <assert.h>
#include <string.h>

/* Opcodes (ACPI 6.5, 20.3). */
enum {
	OP_ZERO = 0x00,
	OP_ONE = 0x01,
	OP_NAME = 0x08,
	OP_BYTE = 0x0a,
	OP_WORD = 0x0b,
	OP_DWORD = 0x0c,
	OP_STRING = 0x0d,
	OP_QWORD = 0x0e,
	OP_SCOPE = 0x10,
	OP_BUFFER = 0x11,
	OP_PACKAGE = 0x12,
	OP_METHOD = 0x14,
	OP_EXTENDED = 0x5b,
	OP_EXTENDED_DEVICE = 0x82,
	OP_ARG0 = 0x68,
	OP_RETURN = 0xa4
};

/* Resource descriptors (6.4): small ones carry their length in the tag. */
enum {
	SMALL_IRQ = 0x22,
	SMALL_IO = 0x47,
	SMALL_END = 0x79,
	LARGE_MEMORY32_FIXED = 0x86,
	LARGE_DWORD_SPACE = 0x87,
	LARGE_WORD_SPACE = 0x88,
	LARGE_QWORD_SPACE = 0x8a,
	SPACE_MEMORY = 0,
	SPACE_IO = 1,
	SPACE_BUS = 2,
	SPACE_FIXED = 0x0c,    /* minimum and maximum are fixed; decoded positively; produced for children */
	MEMORY_WRITABLE = 0x01 /* not cached */
};

static void put(struct aml *aml, u64 value, unsigned size)
{
	if (aml->full || size > aml->size - aml->at) {
		aml->full = true;
		return;
	}
	memcpy(aml->bytes + aml->at, &value, size);
	aml->at += size;
}

static void put_name(struct aml *aml, const char *name)
{
	if (*name == '\\') {
		put(aml, '\\', 1);
		name++;
	}
	size_t n = strlen(name);
	assert(n >= 1 && n <= 4);
	for (size_t i = 0; i < 4; i++)
		put(aml, i < n ? (u8)name[i] : '_', 1);
}

void aml_init(struct aml *aml, u8 *bytes, size_t size)
{
	*aml = (struct aml){ .bytes = bytes, .size = size };
}

/* --- objects with a length --- */

static void begin(struct aml *aml)
{
	assert(aml->depth < AML_MAX_DEPTH);
	aml->open[aml->depth++] = aml->at;
}

/*
 * PkgLength (20.2.4) counts itself. One byte holds up to 63; otherwise the first byte has the number of further bytes
 * in bits 7:6 and the low four bits of the length. It is inserted in front of what it measures.
 */
void aml_end(struct aml *aml)
{
	assert(aml->depth > 0);
	size_t start = aml->open[--aml->depth], content = aml->at - start;
	unsigned extra = content + 1 < 64 ? 0 : content + 2 < 1 << 12 ? 1 : 2;
	u64 length = content + 1 + extra;
	u8 prefix[3] = { (u8)length };
	if (extra) {
		prefix[0] = (u8)(extra << 6 | (length & 15));
		prefix[1] = (u8)(length >> 4);
		prefix[2] = (u8)(length >> 12);
	}
	if (aml->full || 1 + extra > aml->size - aml->at) {
		aml->full = true;
		return;
	}
	memmove(aml->bytes + start + 1 + extra, aml->bytes + start, content);
	memcpy(aml->bytes + start, prefix, 1 + extra);
	aml->at += 1 + extra;
}

void aml_begin_scope(struct aml *aml, const char *name)
{
	put(aml, OP_SCOPE, 1);
	begin(aml);
	put_name(aml, name);
}

void aml_begin_device(struct aml *aml, const char *name)
{
	put(aml, OP_EXTENDED, 1);
	put(aml, OP_EXTENDED_DEVICE, 1);
	begin(aml);
	put_name(aml, name);
}

void aml_begin_method(struct aml *aml, const char *name, unsigned arguments)
{
	put(aml, OP_METHOD, 1);
	begin(aml);
	put_name(aml, name);
	put(aml, arguments, 1); /* not serialized */
}

void aml_begin_package(struct aml *aml, unsigned elements)
{
	put(aml, OP_PACKAGE, 1);
	begin(aml);
	put(aml, elements, 1);
}

/* --- values --- */

void aml_name(struct aml *aml, const char *name)
{
	put(aml, OP_NAME, 1);
	put_name(aml, name);
}

void aml_integer(struct aml *aml, u64 value)
{
	if (value <= 1) {
		put(aml, value ? OP_ONE : OP_ZERO, 1);
		return;
	}
	unsigned size = value <= 0xff ? 1 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;
	put(aml, size == 1 ? OP_BYTE : size == 2 ? OP_WORD : size == 4 ? OP_DWORD : OP_QWORD, 1);
	put(aml, value, size);
}

void aml_string(struct aml *aml, const char *text)
{
	put(aml, OP_STRING, 1);
	while (*text)
		put(aml, (u8)*text++, 1);
	put(aml, 0, 1);
}

static u32 hex_digit(char c)
{
	return (u32)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three letters of five bits each, four hexadecimal digits; stored with the bytes swapped (ACPI 6.5, 19.3.4). */
void aml_eisa_id(struct aml *aml, const char *id)
{
	assert(strlen(id) == 7);
	u32 value = (u32)(id[0] - '@') << 26 | (u32)(id[1] - '@') << 21 | (u32)(id[2] - '@') << 16 |
		    hex_digit(id[3]) << 12 | hex_digit(id[4]) << 8 | hex_digit(id[5]) << 4 | hex_digit(id[6]);
	put(aml, OP_DWORD, 1);
	put(aml, __builtin_bswap32(value), 4);
}

void aml_return_argument(struct aml *aml, unsigned n)
{
	put(aml, OP_RETURN, 1);
	put(aml, OP_ARG0 + n, 1);
}

/* --- resources --- */

enum { RESOURCE_SIZE_FIELD = 3 }; /* the buffer's size as a word, opcode included */

void aml_begin_resources(struct aml *aml)
{
	aml_name(aml, "_CRS");
	put(aml, OP_BUFFER, 1);
	begin(aml);
	put(aml, OP_WORD, 1);
	put(aml, 0, 2); /* filled in at the end */
}

void aml_end_resources(struct aml *aml)
{
	put(aml, SMALL_END, 1);
	put(aml, 0, 1); /* no checksum */
	size_t start = aml->open[aml->depth - 1];
	u16 size = (u16)(aml->at - start - RESOURCE_SIZE_FIELD);
	if (!aml->full)
		memcpy(aml->bytes + start + 1, &size, sizeof size);
	aml_end(aml);
}

void aml_resource_io(struct aml *aml, u16 base, u8 count)
{
	put(aml, SMALL_IO, 1);
	put(aml, 1, 1); /* decodes 16 bits */
	put(aml, base, 2);
	put(aml, base, 2);
	put(aml, 1, 1); /* alignment */
	put(aml, count, 1);
}

void aml_resource_irq(struct aml *aml, unsigned irq)
{
	put(aml, SMALL_IRQ, 1);
	put(aml, 1u << irq, 2); /* edge-triggered, active high: what the two-byte form means */
}

void aml_resource_memory(struct aml *aml, u32 base, u32 size)
{
	put(aml, LARGE_MEMORY32_FIXED, 1);
	put(aml, 9, 2);
	put(aml, 1, 1); /* writable */
	put(aml, base, 4);
	put(aml, size, 4);
}

/* An address space descriptor of `width` bytes a field: granularity, minimum, maximum, translation, length. */
static void window(struct aml *aml, unsigned tag, unsigned width, unsigned type, unsigned flags, u64 first, u64 last)
{
	put(aml, tag, 1);
	put(aml, 3 + 5 * width, 2);
	put(aml, type, 1);
	put(aml, SPACE_FIXED, 1);
	put(aml, flags, 1);
	put(aml, 0, width);
	put(aml, first, width);
	put(aml, last, width);
	put(aml, 0, width);
	put(aml, last - first + 1, width);
}

void aml_window_bus(struct aml *aml, u16 first, u16 last)
{
	window(aml, LARGE_WORD_SPACE, 2, SPACE_BUS, 0, first, last);
}

void aml_window_io(struct aml *aml, u16 first, u16 last)
{
	window(aml, LARGE_WORD_SPACE, 2, SPACE_IO, 3 /* ISA and other addresses */, first, last);
}

void aml_window_memory32(struct aml *aml, u32 first, u32 last)
{
	window(aml, LARGE_DWORD_SPACE, 4, SPACE_MEMORY, MEMORY_WRITABLE, first, last);
}

void aml_window_memory64(struct aml *aml, u64 first, u64 last)
{
	window(aml, LARGE_QWORD_SPACE, 8, SPACE_MEMORY, MEMORY_WRITABLE, first, last);
}
