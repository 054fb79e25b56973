#include "dev/fw_cfg.h"

#include "base/trace.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

/* Offsets from FW_CFG_PORT. */
enum { SELECTOR = 0, DATA = 1, DMA_HIGH = 4, DMA_LOW = 8 };

/* FW_CFG_ID: the port interface, and DMA. */
enum { ID_TRADITIONAL = 1, ID_DMA = 2 };

/* Control word of a DMA request. Bits 31..16 are the item to select. */
enum { DMA_ERROR = 0x01, DMA_READ = 0x02, DMA_SKIP = 0x04, DMA_SELECT = 0x08, DMA_WRITE = 0x10 };

/* Bit 15 means "architecture-specific": another key space. Bit 14 asked for write access, which is long gone. */
enum { KEY_LOCAL = 0x8000, KEY_WRITE = 0x4000 };

/* The request as it lies in guest memory; big-endian. */
struct dma_request {
	u32 control;
	u32 length;
	u64 address;
};
_Static_assert(sizeof(struct dma_request) == 16, "FWCfgDmaAccess of the fw_cfg specification");

/* What reading the DMA address register gives: "QEMU CFG". */
#define DMA_SIGNATURE 0x51454d5520434647ULL

static const struct fw_cfg_item *selected_item(const struct fw_cfg *fw)
{
	static const struct fw_cfg_item empty;
	u16 key = fw->selected & (u16)~KEY_WRITE;

	/* Of the architecture's own items, we have none: ACPI and SMBIOS travel as files. */
	return key < ARRAY_SIZE(fw->item) ? &fw->item[key] : &empty;
}

static const u8 *item_bytes(const struct fw_cfg_item *item)
{
	return item->data ? item->data : item->integer;
}

static void select_item(struct fw_cfg *fw, u16 key)
{
	fw->selected = key;
	fw->offset = 0;
}

/* Behind an item's end, zeros. */
static u8 read_byte(struct fw_cfg *fw)
{
	const struct fw_cfg_item *item = selected_item(fw);
	return fw->offset < item->size ? item_bytes(item)[fw->offset++] : 0;
}

/* --- DMA --- */

/* Copies the item's next `length` bytes to guest memory, zeros behind its end. false if that is not RAM. */
static bool dma_read(struct fw_cfg *fw, gpa_t address, u32 length)
{
	const struct fw_cfg_item *item = selected_item(fw);
	static const u8 zeros[PAGE_SIZE];

	while (length) {
		u32 left = item->size - fw->offset;
		u32 limit = left ? left : (u32)sizeof(zeros);
		u32 n = length < limit ? length : limit;
		if (!mem_write(fw->mem, address, left ? item_bytes(item) + fw->offset : zeros, n))
			return false;
		if (left)
			fw->offset += n;
		address += n;
		length -= n;
	}
	return true;
}

static void dma_skip(struct fw_cfg *fw, u32 length)
{
	u32 left = selected_item(fw)->size - fw->offset;
	fw->offset += length < left ? length : left;
}

static void dma_run(struct fw_cfg *fw, gpa_t address)
{
	struct dma_request request;
	u32 result = 0;

	if (!mem_read(fw->mem, address, &request, sizeof(request))) {
		REPORT("fw_cfg: DMA request at 0x%llx is not in RAM", (unsigned long long)address);
		return;
	}
	u32 control = be32toh(request.control);
	u32 length = be32toh(request.length);
	if (control & DMA_SELECT)
		select_item(fw, (u16)(control >> 16));
	if (control & DMA_READ) {
		/* Nothing that long exists; a guest must not keep the board waiting for the padding. */
		if (length > fw->mem->size || !dma_read(fw, be64toh(request.address), length))
			result = DMA_ERROR;
	} else if (control & DMA_WRITE) {
		result = DMA_ERROR; /* no item is writable */
	} else if (control & DMA_SKIP) {
		dma_skip(fw, length);
	}
	u32 reply = htobe32(result);
	mem_write(fw->mem, address + offsetof(struct dma_request, control), &reply, sizeof(reply));
}

/* --- ports --- */

static u64 fw_cfg_read(void *device, u64 offset, unsigned size)
{
	struct fw_cfg *fw = device;

	if (offset == DATA && size == 1)
		return read_byte(fw);
	if (offset >= DMA_HIGH && offset + size <= DMA_LOW + 4) {
		/* Big-endian: the register's first byte is the most significant one. */
		u64 value = 0;
		for (unsigned i = 0; i < size; i++)
			value |= (DMA_SIGNATURE >> (8 * (7 - (offset - DMA_HIGH + i))) & 0xff) << 8 * i;
		return value;
	}
	return 0;
}

static void fw_cfg_write(void *device, u64 offset, unsigned size, u64 value)
{
	struct fw_cfg *fw = device;

	if (offset == SELECTOR && size == 2) {
		select_item(fw, (u16)value);
	} else if (offset == DMA_HIGH && size == 4) {
		fw->dma_high = be32toh((u32)value);
	} else if (offset == DMA_LOW && size == 4) {
		u64 high = fw->dma_high;
		fw->dma_high = 0;
		dma_run(fw, high << 32 | be32toh((u32)value));
	} else if (offset == DMA_HIGH && size == 8) {
		dma_run(fw, be64toh(value));
	}
}

/* --- contents --- */

void fw_cfg_add_bytes(struct fw_cfg *fw, u16 key, const void *data, u32 size)
{
	fw->item[key].data = data;
	fw->item[key].size = size;
}

static void add_integer(struct fw_cfg *fw, u16 key, u64 value, u32 size)
{
	u64 le = htole64(value);

	memcpy(fw->item[key].integer, &le, sizeof(le));
	fw->item[key].data = NULL;
	fw->item[key].size = size;
}

void fw_cfg_add_u16(struct fw_cfg *fw, u16 key, u16 value)
{
	add_integer(fw, key, value, 2);
}

void fw_cfg_add_u32(struct fw_cfg *fw, u16 key, u32 value)
{
	add_integer(fw, key, value, 4);
}

void fw_cfg_add_u64(struct fw_cfg *fw, u16 key, u64 value)
{
	add_integer(fw, key, value, 8);
}

int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, u32 size)
{
	if (strlen(name) >= FW_CFG_NAME)
		return -ENAMETOOLONG;
	for (unsigned i = 0; i < fw->files; i++)
		if (!strcmp(fw->directory.file[i].name, name))
			return -EEXIST;
	if (fw->files == FW_CFG_FILES)
		return -ENOSPC;
	u16 key = (u16)(FW_CFG_FILE_FIRST + fw->files);
	struct fw_cfg_file *file = &fw->directory.file[fw->files++];
	file->size = htobe32(size);
	file->select = htobe16(key);
	strcpy(file->name, name);
	fw_cfg_add_bytes(fw, key, data, size);
	fw->directory.count = htobe32(fw->files);
	fw->item[FW_CFG_FILE_DIR].size = (u32)(sizeof(u32) + fw->files * sizeof(struct fw_cfg_file));
	return 0;
}

void fw_cfg_reset(struct fw_cfg *fw)
{
	select_item(fw, FW_CFG_SIGNATURE);
	fw->dma_high = 0;
}

void fw_cfg_init(struct fw_cfg *fw, struct mem *mem)
{
	*fw = (struct fw_cfg){ .mem = mem };
	fw_cfg_add_bytes(fw, FW_CFG_SIGNATURE, "QEMU", 4);
	fw_cfg_add_u32(fw, FW_CFG_ID, ID_TRADITIONAL | ID_DMA);
	fw_cfg_add_bytes(fw, FW_CFG_FILE_DIR, &fw->directory, sizeof(u32));
	fw_cfg_reset(fw);
}

const struct io_ops fw_cfg_ops = { .read = fw_cfg_read, .write = fw_cfg_write };
