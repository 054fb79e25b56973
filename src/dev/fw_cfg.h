/*
 * The firmware configuration device: numbered items and named files that the guest's firmware reads by port or DMA,
 * compatible with QEMU's fw_cfg (its specification: selector 0x510, data 0x511, DMA address 0x514, big-endian).
 *
 * Items refer to the caller's bytes, which must live as long as the device; small integers are kept inside.
 *
 * Life: fw_cfg_init(), fw_cfg_add_*(), then the machine runs; fw_cfg_reset() at RESET. The board maps fw_cfg_ops at
 * FW_CFG_PORT (FW_CFG_PORTS ports).
 *
 * Owner: the board, by value. Threads: every call with the board lock held; DMA goes through the memory gateway.
 */
#ifndef STRATA_DEV_FW_CFG_H
#define STRATA_DEV_FW_CFG_H

#include "base/types.h"
#include "bus/bus.h"
#include "mem/mem.h"

enum { FW_CFG_PORT = 0x510, FW_CFG_PORTS = 12, FW_CFG_FILES = 32, FW_CFG_KEYS = 0x40, FW_CFG_NAME = 56 };

/* Selector keys. */
enum {
	FW_CFG_SIGNATURE = 0x00,
	FW_CFG_ID = 0x01,
	FW_CFG_UUID = 0x02,
	FW_CFG_RAM_SIZE = 0x03,
	FW_CFG_NOGRAPHIC = 0x04,
	FW_CFG_NB_CPUS = 0x05,
	FW_CFG_KERNEL_ADDR = 0x07,
	FW_CFG_KERNEL_SIZE = 0x08,
	FW_CFG_KERNEL_CMDLINE = 0x09,
	FW_CFG_INITRD_ADDR = 0x0a,
	FW_CFG_INITRD_SIZE = 0x0b,
	FW_CFG_BOOT_MENU = 0x0e,
	FW_CFG_MAX_CPUS = 0x0f,
	FW_CFG_FILE_DIR = 0x19,
	FW_CFG_FILE_FIRST = 0x20
};

struct fw_cfg_item {
	const u8 *data; /* NULL: the integer */
	u32 size;
	u8 integer[8]; /* little-endian */
};

struct fw_cfg_file { /* a directory entry as the guest reads it; big-endian */
	u32 size;
	u16 select;
	u16 reserved;
	char name[FW_CFG_NAME];
};
_Static_assert(sizeof(struct fw_cfg_file) == 64, "directory entry of the fw_cfg specification");

struct fw_cfg {
	struct fw_cfg_item item[FW_CFG_FILE_FIRST + FW_CFG_FILES];
	struct {
		u32 count; /* big-endian */
		struct fw_cfg_file file[FW_CFG_FILES];
	} directory;
	unsigned files;
	u16 selected;
	u32 offset;   /* next byte of the selected item */
	u32 dma_high; /* upper half of the DMA address, until the lower half comes */
	struct mem *mem;
};

void fw_cfg_init(struct fw_cfg *fw, struct mem *mem);
void fw_cfg_reset(struct fw_cfg *fw);

/* Well-known items, below FW_CFG_FILE_FIRST. */
void fw_cfg_add_bytes(struct fw_cfg *fw, u16 key, const void *data, u32 size);
void fw_cfg_add_u16(struct fw_cfg *fw, u16 key, u16 value);
void fw_cfg_add_u32(struct fw_cfg *fw, u16 key, u32 value);
void fw_cfg_add_u64(struct fw_cfg *fw, u16 key, u64 value);
/* 0, -ENAMETOOLONG, -EEXIST, -ENOSPC. */
int fw_cfg_add_file(struct fw_cfg *fw, const char *name, const void *data, u32 size);

extern const struct io_ops fw_cfg_ops;

#endif
