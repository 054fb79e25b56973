/*
 * The slow path of memory accesses: two pages, devices, code pages, alignment, data breakpoints, and every rule of
 * segment limits and rights.
 */
#include "machine.h"

#include "cpu/access.h"
#include "cpu/event.h"

enum {
	VA = 0x150000, /* a page and the next that tests map elsewhere */
	DEVICE = 0x40000000,
	DEVICE_BYTES = 256,
};

#define PRESENT  BIT(0)
#define WRITABLE BIT(1)
#define USER     BIT(2)

static struct {
	u8 bytes[DEVICE_BYTES];
	unsigned sizes[32], count; /* of accesses, in order */
	u64 last;
} device;

static u64 device_read(void *opaque, u64 offset, unsigned size)
{
	u64 value = 0;
	memcpy(&value, device.bytes + offset, size);
	device.sizes[device.count++] = size;
	return value;
}

static void device_write(void *opaque, u64 offset, unsigned size, u64 value)
{
	memcpy(device.bytes + offset, &value, size);
	device.sizes[device.count++] = size;
	device.last = value;
}

static const struct io_ops device_ops = { .read = device_read, .write = device_write };

static struct machine *start(void)
{
	struct machine *m = machine_new();
	memset(&device, 0, sizeof device);
	for (unsigned i = 0; i < DEVICE_BYTES; i++)
		device.bytes[i] = (u8)i;
	g_assert_cmpint(bus_add_mmio(&m->bus, DEVICE, DEVICE_BYTES, &device_ops, NULL, "device"), ==, 0);
	m->cpu.insn = NULL;
	return m;
}

/* Maps the two pages at VA; 0: absent. */
static void map_two(struct machine *m, u64 first, u64 second)
{
	machine_map(m, VA, first, first ? PRESENT | WRITABLE : 0);
	machine_map(m, VA + PAGE_SIZE, second, second ? PRESENT | WRITABLE : 0);
	mmu_flush_all(&m->cpu.mmu);
}

static void read_at(struct machine *m, u64 va, void *buffer, unsigned size)
{
	access_read(&m->cpu, va, buffer, size, m->cpu.mmu.cls);
}

static void write_at(struct machine *m, u64 va, const void *buffer, unsigned size)
{
	access_write(&m->cpu, va, buffer, size, m->cpu.mmu.cls);
}

enum verb { READ, READ_SYSTEM, WRITE, PROBE_READ, PROBE_WRITE, RMW, CHUNK };

static void act(struct machine *m, enum verb verb, u64 va, unsigned size)
{
	u8 buffer[64] = { 0 };
	u64 chunk = size;
	if (verb == READ)
		read_at(m, va, buffer, size);
	else if (verb == READ_SYSTEM)
		access_read(&m->cpu, va, buffer, size, MMU_SUPERVISOR);
	else if (verb == WRITE)
		write_at(m, va, memset(buffer, 0xff, sizeof buffer), size);
	else if (verb == RMW)
		access_rmw_pointer(&m->cpu, va, size);
	else if (verb == CHUNK)
		access_chunk(&m->cpu, va, MMU_READ, &chunk);
	else
		access_probe(&m->cpu, va, size, verb == PROBE_READ ? MMU_READ : MMU_WRITE);
}

/* Does it, and returns the vector it raised, or -1. */
static int attempt(struct machine *m, enum verb verb, u64 va, unsigned size)
{
	m->cpu.pending.valid = false;
	if (_setjmp(m->cpu.restart) == 0)
		act(m, verb, va, size);
	return m->cpu.pending.valid ? (int)m->cpu.pending.vector : -1;
}

/* The same for a segment check; *linear is its result. */
static int attempt_segment(struct machine *m, unsigned seg, u64 offset, unsigned size, enum mmu_access access,
			   u64 *linear)
{
	m->cpu.pending.valid = false;
	if (_setjmp(m->cpu.restart) == 0)
		*linear = access_check_segment(&m->cpu, seg, offset, size, access);
	return m->cpu.pending.valid ? (int)m->cpu.pending.vector : -1;
}

/* --- pages --- */

static void test_two_pages(void)
{
	struct machine *m = start();
	map_two(m, 0x160000, 0x170000);
	u8 out[64], in[64];
	for (unsigned i = 0; i < 64; i++)
		out[i] = (u8)(i + 1);
	for (unsigned size = 2; size <= 64; size++) {
		memset(m->mem.host + 0x160000 + PAGE_SIZE - 64, 0, 64);
		memset(m->mem.host + 0x170000, 0, 64);
		write_at(m, VA + PAGE_SIZE - 1, out, size);
		g_assert_cmpuint(m->mem.host[0x160fff], ==, 1);
		g_assert_cmpuint(m->mem.host[0x170000 + size - 2], ==, size);
		g_assert_cmpuint(m->mem.host[0x170000 + size - 1], ==, 0);
		memset(in, 0, sizeof in);
		read_at(m, VA + PAGE_SIZE - 1, in, size);
		g_assert_true(!memcmp(in, out, size));
	}
	machine_free(m);
}

static void test_second_page_faults_first(void)
{
	struct machine *m = start();
	map_two(m, 0x160000, 0);
	g_assert_cmpint(attempt(m, WRITE, VA + PAGE_SIZE - 4, 8), ==, VEC_PF);
	g_assert_cmphex(m->cpu.pending.address, ==, VA + PAGE_SIZE);
	g_assert_cmphex(m->cpu.pending.error, ==, PF_WRITE);
	g_assert_cmpuint(m->mem.host[0x160ffc], ==, 0);
	/* Nor does a device in the first page see anything. */
	map_two(m, DEVICE, 0);
	g_assert_cmpint(attempt(m, READ, VA + PAGE_SIZE - 4, 8), ==, VEC_PF);
	g_assert_cmpuint(device.count, ==, 0);
	/* A fault in the first page is the one reported. */
	map_two(m, 0, 0);
	g_assert_cmpint(attempt(m, READ, VA + PAGE_SIZE - 4, 8), ==, VEC_PF);
	g_assert_cmphex(m->cpu.pending.address, ==, VA + PAGE_SIZE - 4);
	machine_free(m);
}

static void test_wrap_at_4_gib(void)
{
	struct machine *m = start();
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	s.cr0 &= ~CR0_PG;
	s.efer = 0;
	s.seg[SEG_CS].ar = 0xc09b;
	cpu_set_state(&m->cpu, &s);
	u32 value;
	m->mem.host[0] = 0x33;
	m->mem.host[1] = 0x44;
	read_at(m, 0xfffffffe, &value, 4);
	g_assert_cmphex(value, ==, 0x4433ffff);
	machine_free(m);
}

/* --- devices --- */

static void test_device_pieces(void)
{
	static const struct {
		unsigned size, pieces[8];
	} cases[] = {
		{ 1, { 1 } },           { 2, { 2 } },
		{ 4, { 4 } },           { 8, { 8 } },
		{ 3, { 2, 1 } },        { 6, { 4, 2 } },
		{ 10, { 8, 2 } },       { 16, { 8, 8 } },
		{ 32, { 8, 8, 8, 8 } }, { 64, { 8, 8, 8, 8, 8, 8, 8, 8 } },
	};
	struct machine *m = start();
	map_two(m, DEVICE, 0);
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		u8 buffer[64];
		device.count = 0;
		read_at(m, VA + 16, buffer, cases[i].size);
		for (unsigned b = 0; b < cases[i].size; b++)
			g_assert_cmpuint(buffer[b], ==, 16 + b);
		for (unsigned p = 0; p < 8 && cases[i].pieces[p]; p++)
			g_assert_cmpuint(device.sizes[p], ==, cases[i].pieces[p]);
		device.count = 0;
		write_at(m, VA + 16, buffer, cases[i].size);
		for (unsigned p = 0; p < 8 && cases[i].pieces[p]; p++)
			g_assert_cmpuint(device.sizes[p], ==, cases[i].pieces[p]);
	}
	g_assert_cmpuint(m->cpu.counters.mmio, >, 20);
	machine_free(m);
}

static void test_ram_beside_device(void)
{
	struct machine *m = start();
	map_two(m, 0x160000, DEVICE);
	m->mem.host[0x160ffe] = 0xaa;
	m->mem.host[0x160fff] = 0xbb;
	u32 value;
	read_at(m, VA + PAGE_SIZE - 2, &value, 4);
	g_assert_cmphex(value, ==, 0x0100bbaa);
	value = 0x44332211;
	write_at(m, VA + PAGE_SIZE - 2, &value, 4);
	g_assert_cmphex(m->mem.host[0x160fff], ==, 0x22);
	g_assert_cmphex(device.last, ==, 0x4433);
	machine_free(m);
}

/* --- pointers into RAM --- */

static void test_rmw_pointer(void)
{
	struct machine *m = start();
	map_two(m, 0x160000, DEVICE);
	g_assert_true(access_rmw_pointer(&m->cpu, VA + 8, 8) == m->mem.host + 0x160008);
	g_assert_true(access_rmw_pointer(&m->cpu, VA + 8, 8) == m->mem.host + 0x160008); /* from the TLB too */
	g_assert_null(access_rmw_pointer(&m->cpu, VA + PAGE_SIZE - 4, 8));
	g_assert_null(access_rmw_pointer(&m->cpu, VA + PAGE_SIZE, 4));
	machine_map(m, VA, 0x160000, PRESENT);
	mmu_flush_all(&m->cpu.mmu);
	g_assert_cmpint(attempt(m, RMW, VA, 4), ==, VEC_PF);
	g_assert_cmphex(m->cpu.pending.error, ==, PF_PRESENT | PF_WRITE);
	machine_free(m);
}

static void test_chunk(void)
{
	struct machine *m = start();
	u64 chunk = 100000;
	map_two(m, 0x160000, DEVICE);
	g_assert_true(access_chunk(&m->cpu, VA + 0x10, MMU_READ, &chunk) == m->mem.host + 0x160010);
	g_assert_cmpuint(chunk, ==, PAGE_SIZE - 0x10);
	chunk = 8;
	g_assert_true(access_chunk(&m->cpu, VA + 0xff8, MMU_WRITE, &chunk) == m->mem.host + 0x160ff8);
	g_assert_cmpuint(chunk, ==, 8);
	g_assert_true(access_chunk(&m->cpu, VA + 0xfff, MMU_WRITE, &chunk) == m->mem.host + 0x160fff);
	g_assert_cmpuint(chunk, ==, 1);
	g_assert_null(access_chunk(&m->cpu, VA + PAGE_SIZE, MMU_READ, &chunk));
	mmu_set_checked(&m->cpu.mmu, true);
	g_assert_null(access_chunk(&m->cpu, VA, MMU_READ, &chunk));
	mmu_set_checked(&m->cpu.mmu, false);
	map_two(m, 0, 0);
	g_assert_cmpint(attempt(m, CHUNK, VA, 1), ==, VEC_PF);
	machine_free(m);
}

static struct {
	unsigned calls;
	u64 offset[8], size[8];
} told;

static void on_code_written(void *opaque, u64 offset, u64 size)
{
	told.offset[told.calls] = offset;
	told.size[told.calls++] = size;
}

static void test_code_pages(void)
{
	struct machine *m = start();
	u64 value = 0, chunk = 0x20;
	m->mem.code_written = on_code_written;
	map_two(m, 0x160000, 0x170000);
	m->mem.flags[0x160] = m->mem.flags[0x170] = PAGE_HAS_CODE;
	told.calls = 0;
	write_at(m, VA + 0x20, &value, 8);
	write_at(m, VA + PAGE_SIZE - 4, &value, 8);
	/* Each before it is written and after. */
	g_assert_cmpuint(told.calls, ==, 6);
	g_assert_cmphex(told.offset[1], ==, 0x160020);
	g_assert_cmpuint(told.size[1], ==, 8);
	g_assert_cmphex(told.offset[2], ==, 0x160ffc);
	g_assert_cmpuint(told.size[2], ==, 4);
	g_assert_cmphex(told.offset[3], ==, 0x160ffc);
	g_assert_cmphex(told.offset[4], ==, 0x170000);
	told.calls = 0;
	read_at(m, VA + 0x20, &value, 8);
	access_probe(&m->cpu, VA, 8, MMU_WRITE);
	g_assert_cmpuint(told.calls, ==, 0);
	access_rmw_pointer(&m->cpu, VA + 0x40, 4);
	g_assert_cmpuint(told.calls, ==, 1);
	g_assert_cmpuint(told.size[0], ==, 4);
	access_done(&m->cpu);
	access_done(&m->cpu);
	g_assert_cmpuint(told.calls, ==, 2);
	g_assert_cmphex(told.offset[1], ==, 0x160040);
	access_chunk(&m->cpu, VA + 0xf00, MMU_WRITE, &chunk);
	g_assert_cmpuint(told.calls, ==, 3);
	access_done(&m->cpu);
	g_assert_cmpuint(told.calls, ==, 4);
	g_assert_cmphex(told.offset[3], ==, 0x160f00);
	g_assert_cmpuint(told.size[3], ==, 0x20);
	machine_free(m);
}

static void test_probe_changes_nothing(void)
{
	struct machine *m = start();
	map_two(m, 0x160000, 0);
	g_assert_cmpint(attempt(m, PROBE_WRITE, VA, 8), ==, -1);
	g_assert_cmpint(attempt(m, PROBE_READ, VA + PAGE_SIZE - 4, 8), ==, VEC_PF);
	g_assert_cmphex(m->cpu.pending.address, ==, VA + PAGE_SIZE);
	machine_free(m);
}

/* --- alignment and breakpoints --- */

static void test_alignment(void)
{
	static const struct {
		unsigned size, needs;
	} cases[] = { { 1, 1 },  { 2, 2 },  { 4, 4 },  { 8, 8 },  { 10, 8 }, { 6, 4 },
		      { 14, 2 }, { 28, 4 }, { 16, 1 }, { 32, 1 }, { 3, 1 } };
	struct machine *m = start();
	machine_map(m, VA, 0x160000, PRESENT | WRITABLE | USER);
	machine_write_u64(m, PML4, PDPT | 7);
	machine_write_u64(m, PDPT, PD | 7);
	machine_write_u64(m, PD, PT | 7);
	mmu_flush_all(&m->cpu.mmu);
	m->cpu.cpl = 3;
	m->cpu.cr0 |= CR0_AM;
	m->cpu.rflags_sys |= RFLAGS_AC;
	mmu_set_class(&m->cpu.mmu, MMU_USER);
	mmu_set_checked(&m->cpu.mmu, true);
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++)
		for (unsigned offset = 0; offset < 16; offset++) {
			int want = offset % cases[i].needs ? VEC_AC : -1;
			g_assert_cmpint(attempt(m, READ, VA + 0x100 + offset, cases[i].size), ==, want);
			g_assert_cmpint(attempt(m, WRITE, VA + 0x100 + offset, cases[i].size), ==, want);
		}
	/* Implicit accesses are the supervisor's. */
	g_assert_cmpint(attempt(m, READ_SYSTEM, VA + 1, 8), ==, -1);
	/* Alignment comes before the page fault. */
	g_assert_cmpint(attempt(m, READ, VA + PAGE_SIZE + 1, 4), ==, VEC_AC);
	m->cpu.rflags_sys &= ~RFLAGS_AC;
	g_assert_cmpint(attempt(m, READ, VA + 1, 8), ==, -1);
	machine_free(m);
}

static u64 hits(struct machine *m, u64 dr7, u64 va, unsigned size, bool write)
{
	u8 buffer[64] = { 0 };
	m->cpu.dr[7] = dr7;
	m->cpu.pending_db = 0;
	mmu_set_checked(&m->cpu.mmu, true);
	if (write)
		write_at(m, va, buffer, size);
	else
		read_at(m, va, buffer, size);
	return m->cpu.pending_db;
}

static void test_breakpoints(void)
{
	struct machine *m = start();
	map_two(m, 0x160000, 0x170000);
	m->cpu.dr[0] = VA + 0x100;
	m->cpu.dr[1] = VA + 0x108;
	m->cpu.dr[2] = VA + PAGE_SIZE;
	const u64 write8 = 1ULL << 16 | 2ULL << 18, access4 = 3ULL << 20 | 3ULL << 22, access1 = 3ULL << 24;
	g_assert_cmphex(hits(m, BIT(0) | write8, VA + 0x100, 8, true), ==, 1);
	g_assert_cmphex(hits(m, BIT(1) | write8, VA + 0x107, 1, true), ==, 1); /* global enable */
	g_assert_cmphex(hits(m, BIT(0) | write8, VA + 0x100, 8, false), ==, 0);
	g_assert_cmphex(hits(m, BIT(0) | write8, VA + 0xf8, 8, true), ==, 0);
	g_assert_cmphex(hits(m, BIT(0) | write8, VA + 0xf9, 8, true), ==, 1);
	g_assert_cmphex(hits(m, BIT(2) | access4, VA + 0x10b, 1, false), ==, 2);
	g_assert_cmphex(hits(m, BIT(2) | access4, VA + 0x10c, 4, false), ==, 0);
	g_assert_cmphex(hits(m, BIT(0) | BIT(2) | write8 | access4, VA + 0x104, 8, true), ==, 3);
	/* One that is not enabled does not trap; DR6 shows it beside one that does. */
	g_assert_cmphex(hits(m, access4, VA + 0x108, 4, true), ==, 0);
	g_assert_cmphex(hits(m, BIT(0) | write8 | access4, VA + 0x104, 8, true), ==, 3);
	/* The second page of an access. */
	g_assert_cmphex(hits(m, BIT(4) | access1, VA + PAGE_SIZE - 4, 8, false), ==, 4);
	machine_free(m);
}

/* --- non-canonical addresses --- */

static void test_non_canonical(void)
{
	struct machine *m = start();
	u64 bad = 0x8000000000000000;
	struct insn insn = { .flags = INSN_MEM, .seg = SEG_FLAT, .base = RAX };
	m->cpu.insn = &insn;
	g_assert_cmpint(attempt(m, READ, bad, 8), ==, VEC_GP);
	g_assert_cmphex(m->cpu.pending.error, ==, 0);
	insn.base = RBP;
	g_assert_cmpint(attempt(m, READ, bad, 8), ==, VEC_SS);
	insn.base = RSP;
	g_assert_cmpint(attempt(m, WRITE, bad, 8), ==, VEC_SS);
	insn.seg = SEG_FS;
	g_assert_cmpint(attempt(m, WRITE, bad, 8), ==, VEC_GP);
	/* PUSH and LEAVE have no operand to tell. */
	insn = (struct insn){ 0 };
	m->cpu.reg[RSP] = bad;
	g_assert_cmpint(attempt(m, WRITE, bad - 8, 8), ==, VEC_SS);
	m->cpu.reg[RSP] = STACK;
	m->cpu.reg[RBP] = bad;
	g_assert_cmpint(attempt(m, READ, bad, 8), ==, VEC_SS);
	/* The last canonical bytes, and one too many. */
	m->cpu.reg[RBP] = 0;
	g_assert_cmpint(attempt(m, READ, 0x7ffffffffff9, 8), ==, VEC_PF);
	m->cpu.insn = NULL;
	machine_free(m);
}

/* --- segments --- */

#define DATA_RW     0xc093
#define DATA_RO     0xc091
#define DATA_DOWN   0xc097
#define DATA_DOWN16 0x0097
#define CODE_READ   0xc09b
#define CODE_ONLY   0xc099
#define UNUSABLE    SEG_AR_UNUSABLE

static const struct {
	const char *name;
	u32 ar, limit;
	u64 offset;
	unsigned size;
	enum mmu_access access;
	bool ok;
} segment_cases[] = {
	{ "last-byte", DATA_RW, 0xfff, 0xfff, 1, MMU_READ, true },
	{ "one-beyond", DATA_RW, 0xfff, 0x1000, 1, MMU_READ, false },
	{ "last-dword", DATA_RW, 0xfff, 0xffc, 4, MMU_WRITE, true },
	{ "dword-across", DATA_RW, 0xfff, 0xffd, 4, MMU_WRITE, false },
	{ "limit-0", DATA_RW, 0, 0, 1, MMU_READ, true },
	{ "limit-0-word", DATA_RW, 0, 0, 2, MMU_READ, false },
	{ "4-gib-last-dword", DATA_RW, 0xffffffff, 0xfffffffc, 4, MMU_READ, true },
	{ "4-gib-wraps", DATA_RW, 0xffffffff, 0xfffffffe, 4, MMU_READ, true },
	{ "almost-4-gib-does-not-wrap", DATA_RW, 0xfffffffe, 0xfffffffe, 2, MMU_READ, false },
	{ "down-above-limit", DATA_DOWN, 0xfff, 0x1000, 4, MMU_READ, true },
	{ "down-at-limit", DATA_DOWN, 0xfff, 0xfff, 1, MMU_READ, false },
	{ "down-top", DATA_DOWN, 0xfff, 0xfffffffc, 4, MMU_WRITE, true },
	{ "down-across-top", DATA_DOWN, 0xfff, 0xfffffffe, 4, MMU_WRITE, false },
	{ "down-16-top", DATA_DOWN16, 0xfff, 0xfffe, 2, MMU_WRITE, true },
	{ "down-16-across-top", DATA_DOWN16, 0xfff, 0xffff, 2, MMU_WRITE, false },
	{ "down-16-beyond", DATA_DOWN16, 0xfff, 0x10000, 1, MMU_READ, false },
	{ "down-limit-4-gib-is-empty", DATA_DOWN, 0xffffffff, 0x1000, 1, MMU_READ, false },
	{ "read-only-read", DATA_RO, 0xfff, 0, 4, MMU_READ, true },
	{ "read-only-write", DATA_RO, 0xfff, 0, 4, MMU_WRITE, false },
	{ "code-read", CODE_READ, 0xfff, 0, 4, MMU_READ, true },
	{ "code-write", CODE_READ, 0xfff, 0, 4, MMU_WRITE, false },
	{ "execute-only-read", CODE_ONLY, 0xfff, 0, 4, MMU_READ, false },
	{ "execute-only-fetch", CODE_ONLY, 0xfff, 0, 4, MMU_EXEC, true },
	{ "unusable", UNUSABLE, 0xffffffff, 0, 1, MMU_READ, false },
};

static void test_segment(gconstpointer data)
{
	unsigned i = GPOINTER_TO_UINT(data);
	struct machine *m = start();
	struct x86_state s;
	cpu_get_state(&m->cpu, &s);
	s.cr0 &= ~CR0_PG;
	s.efer = 0;
	s.seg[SEG_CS].ar = 0xc09b;
	s.seg[SEG_DS] = s.seg[SEG_SS] = (struct segment){
		.selector = 0x10, .base = 0x10000, .limit = segment_cases[i].limit, .ar = segment_cases[i].ar
	};
	cpu_set_state(&m->cpu, &s);
	static const unsigned registers[] = { SEG_DS, SEG_SS };
	for (unsigned r = 0; r < 2; r++) {
		u64 linear = 0;
		int raised = attempt_segment(m, registers[r], segment_cases[i].offset, segment_cases[i].size,
					     segment_cases[i].access, &linear);
		if (segment_cases[i].ok) {
			g_assert_cmpint(raised, ==, -1);
			g_assert_cmphex(linear, ==, (u32)(0x10000 + segment_cases[i].offset));
			continue;
		}
		/* The wrong type is #GP for SS too; limits and unusable segments are #SS. */
		bool type = segment_cases[i].ar == DATA_RO || (segment_cases[i].ar & SEG_AR_CODE);
		g_assert_cmpint(raised, ==, registers[r] == SEG_SS && !type ? VEC_SS : VEC_GP);
		g_assert_cmphex(m->cpu.pending.error, ==, 0);
	}
	machine_free(m);
}

static void test_segment_in_64_bit_mode(void)
{
	struct machine *m = start();
	m->cpu.seg_base[SEG_FS] = 0x1000;
	m->cpu.seg[SEG_FS].limit = 0;
	u64 linear = access_check_segment(&m->cpu, SEG_FS, 0x50, 8, MMU_WRITE);
	g_assert_cmphex(linear, ==, 0x1050);
	g_assert_cmpint(attempt_segment(m, SEG_FS, 0x7ffffffff000, 1, MMU_READ, &linear), ==, VEC_GP);
	g_assert_cmpint(attempt_segment(m, SEG_FLAT, 0x7ffffffffffc, 8, MMU_READ, &linear), ==, VEC_GP);
	g_assert_cmpint(attempt_segment(m, SEG_SS, 0x8000000000000000, 8, MMU_READ, &linear), ==, VEC_SS);
	machine_free(m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/access/two-pages", test_two_pages);
	g_test_add_func("/access/absent-second-page-changes-nothing", test_second_page_faults_first);
	g_test_add_func("/access/wraps-at-4-gib", test_wrap_at_4_gib);
	g_test_add_func("/access/device-gets-pieces-of-at-most-8", test_device_pieces);
	g_test_add_func("/access/ram-beside-a-device", test_ram_beside_device);
	g_test_add_func("/access/rmw-pointer", test_rmw_pointer);
	g_test_add_func("/access/chunk-ends-with-the-page", test_chunk);
	g_test_add_func("/access/writes-to-code-are-told", test_code_pages);
	g_test_add_func("/access/probe", test_probe_changes_nothing);
	g_test_add_func("/access/alignment-by-size", test_alignment);
	g_test_add_func("/access/data-breakpoints", test_breakpoints);
	g_test_add_func("/access/non-canonical-gp-or-ss", test_non_canonical);
	g_test_add_func("/access/segment-in-64-bit-mode", test_segment_in_64_bit_mode);
	for (unsigned i = 0; i < G_N_ELEMENTS(segment_cases); i++) {
		g_autofree char *path = g_strdup_printf("/access/segment/%s", segment_cases[i].name);
		g_test_add_data_func(path, GUINT_TO_POINTER(i), test_segment);
	}
	return g_test_run();
}
