/* fw_cfg: items, the file directory, DMA and its bounds. */
#include "dev/fw_cfg.h"
#include "chip.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

enum { DMA_ERROR = 1, DMA_READ = 2, DMA_SKIP = 4, DMA_SELECT = 8, DMA_WRITE = 16 };
enum { RAM = 1 << 20, REQUEST = 0x1000, BUFFER = 0x2000 };

struct request {
	u32 control, length;
	u64 address;
};

struct rig {
	struct fw_cfg fw;
	struct mem mem;
};

static struct rig *rig_new(void)
{
	struct rig *rig = g_new0(struct rig, 1);
	g_assert_cmpint(mem_init(&rig->mem, RAM), ==, 0);
	fw_cfg_init(&rig->fw, &rig->mem);
	return rig;
}

static void rig_free(struct rig *rig)
{
	mem_destroy(&rig->mem);
	g_free(rig);
}

static void select_key(struct rig *rig, u16 key)
{
	fw_cfg_ops.write(&rig->fw, 0, 2, key);
}

static u8 next(struct rig *rig)
{
	return in8(&fw_cfg_ops, &rig->fw, 1);
}

static u64 read_le(struct rig *rig, u16 key, unsigned size)
{
	u64 value = 0;
	select_key(rig, key);
	for (unsigned i = 0; i < size; i++)
		value |= (u64)next(rig) << 8 * i;
	return value;
}

/* Does one request; its control word afterwards. */
static u32 dma(struct rig *rig, u32 control, u32 length, u64 address)
{
	struct request request = { htobe32(control), htobe32(length), htobe64(address) };
	g_assert_true(mem_write(&rig->mem, REQUEST, &request, sizeof(request)));
	out32(&fw_cfg_ops, &rig->fw, 4, 0);
	out32(&fw_cfg_ops, &rig->fw, 8, htobe32(REQUEST));
	g_assert_true(mem_read(&rig->mem, REQUEST, &request, sizeof(request)));
	return be32toh(request.control);
}

static void test_signature(void)
{
	struct rig *rig = rig_new();
	select_key(rig, FW_CFG_SIGNATURE);
	for (const char *c = "QEMU"; *c; c++)
		g_assert_cmpint(next(rig), ==, *c);
	g_assert_cmpint(next(rig), ==, 0); /* zeros behind the end */
	g_assert_cmphex(read_le(rig, FW_CFG_ID, 4), ==, 3);
	g_assert_cmphex(be32toh(in32(&fw_cfg_ops, &rig->fw, 4)), ==, 0x51454d55); /* DMA's own: "QEMU CFG" */
	g_assert_cmphex(be32toh(in32(&fw_cfg_ops, &rig->fw, 8)), ==, 0x20434647);
	rig_free(rig);
}

static void test_integers(void)
{
	struct rig *rig = rig_new();
	fw_cfg_add_u16(&rig->fw, FW_CFG_NB_CPUS, 4);
	fw_cfg_add_u64(&rig->fw, FW_CFG_RAM_SIZE, 0x123456789a);
	g_assert_cmphex(read_le(rig, FW_CFG_NB_CPUS, 2), ==, 4);
	g_assert_cmphex(read_le(rig, FW_CFG_NB_CPUS, 4), ==, 4);
	g_assert_cmphex(read_le(rig, FW_CFG_RAM_SIZE, 8), ==, 0x123456789a);
	g_assert_cmphex(read_le(rig, 0x8001, 8), ==, 0); /* unknown items are empty */
	g_assert_cmphex(read_le(rig, 0xffff, 8), ==, 0);
	g_assert_cmphex(read_le(rig, 0x3fff, 8), ==, 0);
	rig_free(rig);
}

static void test_directory(void)
{
	struct rig *rig = rig_new();
	struct fw_cfg_file file;
	g_assert_cmpint(fw_cfg_add_file(&rig->fw, "etc/one", "1", 1), ==, 0);
	g_assert_cmpint(fw_cfg_add_file(&rig->fw, "etc/two", "two", 3), ==, 0);
	g_assert_cmpint(fw_cfg_add_file(&rig->fw, "etc/two", "two", 3), ==, -EEXIST);
	g_assert_cmpint(fw_cfg_add_file(&rig->fw, "12345678901234567890123456789012345678901234567890123456", "", 0),
			==, -ENAMETOOLONG);
	select_key(rig, FW_CFG_FILE_DIR);
	u32 count = 0;
	for (unsigned i = 0; i < 4; i++)
		count = count << 8 | next(rig);
	g_assert_cmpint(count, ==, 2);
	for (unsigned n = 0; n < 2; n++)
		for (unsigned i = 0; i < sizeof(file); i++)
			((u8 *)&file)[i] = next(rig);
	g_assert_cmpstr(file.name, ==, "etc/two");
	g_assert_cmpint(be32toh(file.size), ==, 3);
	select_key(rig, be16toh(file.select));
	g_assert_cmpint(next(rig), ==, 't');
	g_assert_cmpint(next(rig), ==, 'w');
	char name[16];
	int error = 0;
	for (unsigned i = 0; !error; i++) {
		g_assert_cmpint(i, <, FW_CFG_FILES);
		g_snprintf(name, sizeof(name), "file%u", i);
		error = fw_cfg_add_file(&rig->fw, name, "", 0);
	}
	g_assert_cmpint(error, ==, -ENOSPC);
	rig_free(rig);
}

static void test_dma_read(void)
{
	struct rig *rig = rig_new();
	char buffer[16];
	fw_cfg_add_file(&rig->fw, "etc/text", "0123456789", 10);
	memset(mem_host(&rig->mem, BUFFER, 16), 0xee, 16);
	g_assert_cmphex(dma(rig, DMA_READ | DMA_SELECT | (u32)FW_CFG_FILE_FIRST << 16, 4, BUFFER), ==, 0);
	g_assert_cmphex(dma(rig, DMA_SKIP, 2, 0), ==, 0);
	g_assert_cmphex(dma(rig, DMA_READ, 8, BUFFER + 4), ==, 0);
	mem_read(&rig->mem, BUFFER, buffer, sizeof(buffer));
	g_assert_cmpmem(buffer, 16,
			"0123"
			"6789\0\0\0\0"
			"\xee\xee\xee\xee",
			16);
	rig_free(rig);
}

static void test_dma_bounds(void)
{
	struct rig *rig = rig_new();
	u8 zero[64] = { 0 };
	fw_cfg_add_file(&rig->fw, "etc/text", "0123456789", 10);
	u32 select = DMA_READ | DMA_SELECT | (u32)FW_CFG_FILE_FIRST << 16;
	g_assert_cmphex(dma(rig, select, 10, RAM - 4), ==, DMA_ERROR);
	g_assert_cmpmem(mem_host(&rig->mem, RAM - 4, 4), 4, zero, 4); /* nothing of it */
	g_assert_cmphex(dma(rig, select, 10, UINT64_MAX - 3), ==, DMA_ERROR);
	g_assert_cmphex(dma(rig, select, 0xffffffff, BUFFER), ==, DMA_ERROR);
	g_assert_cmphex(dma(rig, DMA_SELECT | DMA_WRITE | (u32)FW_CFG_FILE_FIRST << 16, 4, BUFFER), ==, DMA_ERROR);
	g_assert_cmphex(dma(rig, DMA_SKIP, 0xffffffff, 0), ==, 0);
	g_assert_cmphex(dma(rig, DMA_READ, 4, BUFFER), ==, 0);
	g_assert_cmpmem(mem_host(&rig->mem, BUFFER, 4), 4, zero, 4);
	g_assert_cmphex(dma(rig, DMA_READ | DMA_SELECT | 0xffffu << 16, 4, BUFFER), ==, 0); /* no such item */
	/* The request itself outside of RAM. */
	out32(&fw_cfg_ops, &rig->fw, 4, 0xffffffff);
	out32(&fw_cfg_ops, &rig->fw, 8, 0xffffffff);
	out32(&fw_cfg_ops, &rig->fw, 8, htobe32(RAM - 8));
	rig_free(rig);
}

static void test_dma_quadword(void)
{
	struct rig *rig = rig_new();
	struct request request = { htobe32(DMA_READ | DMA_SELECT), htobe32(4), htobe64(BUFFER) };
	mem_write(&rig->mem, REQUEST, &request, sizeof(request));
	fw_cfg_ops.write(&rig->fw, 4, 8, htobe64(REQUEST));
	g_assert_cmpmem(mem_host(&rig->mem, BUFFER, 4), 4, "QEMU", 4);
	rig_free(rig);
}

static void test_sizes(void)
{
	struct rig *rig = rig_new();
	select_key(rig, FW_CFG_SIGNATURE);
	out8(&fw_cfg_ops, &rig->fw, 0, 1);
	out32(&fw_cfg_ops, &rig->fw, 0, 1);
	fw_cfg_ops.write(&rig->fw, 8, 2, 0xffff);
	fw_cfg_ops.write(&rig->fw, 2, 8, UINT64_MAX);
	g_assert_cmpint(fw_cfg_ops.read(&rig->fw, 1, 2), ==, 0);
	g_assert_cmpint(next(rig), ==, 'Q'); /* still the signature, from its start */
	rig_free(rig);
}

static void test_reset(void)
{
	struct rig *rig = rig_new();
	select_key(rig, FW_CFG_ID);
	next(rig);
	out32(&fw_cfg_ops, &rig->fw, 4, 0xffffffff);
	fw_cfg_reset(&rig->fw);
	g_assert_cmpint(next(rig), ==, 'Q');
	struct request request = { htobe32(DMA_READ | DMA_SELECT), htobe32(4), htobe64(BUFFER) };
	mem_write(&rig->mem, REQUEST, &request, sizeof(request));
	out32(&fw_cfg_ops, &rig->fw, 8, htobe32(REQUEST)); /* the upper half was forgotten */
	g_assert_cmpmem(mem_host(&rig->mem, BUFFER, 4), 4, "QEMU", 4);
	rig_free(rig);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/fw_cfg/signature-and-id", test_signature);
	g_test_add_func("/fw_cfg/integers-are-little-endian", test_integers);
	g_test_add_func("/fw_cfg/directory-lists-files", test_directory);
	g_test_add_func("/fw_cfg/dma-reads-and-skips", test_dma_read);
	g_test_add_func("/fw_cfg/dma-stays-in-ram", test_dma_bounds);
	g_test_add_func("/fw_cfg/dma-address-in-one-write", test_dma_quadword);
	g_test_add_func("/fw_cfg/accesses-of-other-sizes-are-nothing", test_sizes);
	g_test_add_func("/fw_cfg/reset-selects-the-signature", test_reset);
	return g_test_run();
}
