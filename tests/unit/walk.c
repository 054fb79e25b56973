/* The walker: every format, every rule of rights, reserved bits, accessed and dirty bits, EPT. */
#include "tables.h"

#define VA 0x40201000ULL /* in the second GiB, and no index is 0 at the levels that matter */
#define PA 0x00345000ULL

static struct mmu_result translate(struct machine *m, u64 va, enum mmu_access access, enum mmu_class cls)
{
	return mmu_translate(&m->mmu, va, access, cls);
}

static void expect_ok(struct machine *m, u64 va, enum mmu_access access, enum mmu_class cls, gpa_t gpa)
{
	struct mmu_result r = translate(m, va, access, cls);
	g_assert_cmpint(r.kind, ==, MMU_OK);
	g_assert_cmphex(r.gpa, ==, gpa);
	g_assert_cmphex(r.ram_offset, ==, mem_ram_offset(&m->mem, gpa));
}

static void expect_fault(struct machine *m, u64 va, enum mmu_access access, enum mmu_class cls, u32 error)
{
	struct mmu_result r = translate(m, va, access, cls);
	g_assert_cmpint(r.kind, ==, MMU_PAGE_FAULT);
	g_assert_cmphex(r.error_code, ==, error);
}

/* --- addresses --- */

static void test_no_paging(void)
{
	struct machine m;
	machine_init(&m, MODE_32);
	m.paging.cr0 = CR0_PE;
	set_paging(&m);
	expect_ok(&m, 0x123456, MMU_WRITE, MMU_USER, 0x123456);
	expect_ok(&m, 0x100123456ULL, MMU_READ, MMU_SUPERVISOR, 0x123456);
	struct mmu_result r = translate(&m, 0xfee00020, MMU_READ, MMU_SUPERVISOR);
	g_assert_cmpint(r.kind, ==, MMU_OK);
	g_assert_cmphex(r.gpa, ==, 0xfee00020);
	g_assert_cmphex(r.ram_offset, ==, RAM_OFFSET_NONE);
	machine_destroy(&m);
}

static void test_small_page(gconstpointer mode)
{
	struct machine m;
	machine_init(&m, GPOINTER_TO_UINT(mode));
	map(&m, VA, 1, PA, PWU);
	expect_ok(&m, VA, MMU_READ, MMU_USER, PA);
	expect_ok(&m, VA + 0xfff, MMU_WRITE, MMU_USER, PA + 0xfff);
	g_assert_cmpuint(translate(&m, VA, MMU_READ, MMU_USER).page_bytes, ==, 4096);
	expect_fault(&m, VA + 0x1000, MMU_READ, MMU_SUPERVISOR, 0);
	expect_fault(&m, VA + 0x1000, MMU_WRITE, MMU_USER, PF_WRITE | PF_USER);
	machine_destroy(&m);
}

static const struct {
	const char *name;
	unsigned mode, level;
	u64 pa, offset;
} large_pages[] = {
	{ "pse-4m", MODE_PSE, 2, 0x00400000, 0x3fffff },   { "pae-2m", MODE_PAE_, 2, 0x00600000, 0x1fffff },
	{ "4-level-2m", MODE_4, 2, 0x00600000, 0x1fffff }, { "4-level-1g", MODE_4, 3, 0, 0xabcdef },
	{ "5-level-2m", MODE_5, 2, 0x00600000, 0x1fffff }, { "5-level-1g", MODE_5, 3, 0, 0xabcdef },
};

static void test_large_page(gconstpointer data)
{
	unsigned i = GPOINTER_TO_UINT(data);
	struct machine m;
	machine_init(&m, large_pages[i].mode);
	u64 va = 0x40000000 | (large_pages[i].level == 2 ? 0x00c00000 : 0);
	map(&m, va, large_pages[i].level, large_pages[i].pa, PWU);
	expect_ok(&m, va, MMU_READ, MMU_USER, large_pages[i].pa);
	expect_ok(&m, va + large_pages[i].offset, MMU_WRITE, MMU_USER, large_pages[i].pa + large_pages[i].offset);
	u64 size = 1ULL << (12 + (large_pages[i].level - 1) * m.mode->index_bits);
	g_assert_cmpuint(translate(&m, va, MMU_READ, MMU_USER).page_bytes, ==, size);
	/* PAT is bit 12 of a large page, and no address bit. */
	map(&m, va, large_pages[i].level, large_pages[i].pa, PWU | BIT(12));
	expect_ok(&m, va, MMU_READ, MMU_USER, large_pages[i].pa);
	machine_destroy(&m);
}

static void test_pse36(void)
{
	struct machine m;
	machine_init(&m, MODE_PSE);
	map(&m, VA, 2, 0x00400000, PWU | 5 << 13);
	struct mmu_result r = translate(&m, VA, MMU_READ, MMU_USER);
	g_assert_cmpint(r.kind, ==, MMU_OK);
	g_assert_cmphex(r.gpa, ==, 0x500400000ULL + (VA & 0x3fffff));
	g_assert_cmphex(r.ram_offset, ==, RAM_OFFSET_NONE);
	machine_destroy(&m);
}

static void test_ps_ignored_without_pse(void)
{
	struct machine m;
	machine_init(&m, MODE_32);
	map(&m, VA, 1, PA, PWU | BIT(7));
	entry_put(&m, entry_at(&m, VA, 2), entry_get(&m, entry_at(&m, VA, 2)) | PS);
	expect_ok(&m, VA, MMU_READ, MMU_USER, PA);
	machine_destroy(&m);
}

static void test_canonical(void)
{
	static const struct {
		unsigned mode;
		u64 va;
		bool canonical;
	} cases[] = {
		{ MODE_4, 0x00007fffffffffff, true },  { MODE_4, 0x0000800000000000, false },
		{ MODE_4, 0xffff7fffffffffff, false }, { MODE_4, 0xffff800000000000, true },
		{ MODE_5, 0x0000800000000000, true },  { MODE_5, 0x00ffffffffffffff, true },
		{ MODE_5, 0x0100000000000000, false }, { MODE_5, 0xff00000000000000, true },
		{ MODE_5, 0xfeffffffffffffff, false },
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct machine m;
		machine_init(&m, cases[i].mode);
		struct mmu_result r = translate(&m, cases[i].va, MMU_READ, MMU_SUPERVISOR);
		g_assert_cmpint(r.kind, ==, cases[i].canonical ? MMU_PAGE_FAULT : MMU_NOT_CANONICAL);
		map(&m, cases[i].va, 1, PA, PWU);
		r = translate(&m, cases[i].va, MMU_READ, MMU_SUPERVISOR);
		g_assert_cmpint(r.kind, ==, cases[i].canonical ? MMU_OK : MMU_NOT_CANONICAL);
		machine_destroy(&m);
	}
}

static void test_pcid_bits_are_no_address(void)
{
	struct machine m;
	machine_init(&m, MODE_4);
	map(&m, VA, 1, PA, PWU);
	m.paging.cr4 |= CR4_PCIDE;
	m.paging.cr3 |= 0xabc;
	set_paging(&m);
	expect_ok(&m, VA, MMU_READ, MMU_USER, PA);
	machine_destroy(&m);
}

/* --- rights --- */

#define WP   0x01
#define SMEP 0x02
#define SMAP 0x04
#define NXE  0x08

#define S  MMU_SUPERVISOR
#define SA MMU_SUPERVISOR_AC
#define UU MMU_USER
#define OK UINT32_MAX

static const struct rights_case {
	const char *name;
	u64 leaf, upper;
	unsigned flags;
	enum mmu_access access;
	enum mmu_class cls;
	u32 error; /* OK: permitted */
} rights_cases[] = {
	/* Who may read. */
	{ "user-reads-user-page", PWU, PWU, WP, MMU_READ, UU, OK },
	{ "user-reads-supervisor-page", P | W, PWU, WP, MMU_READ, UU, PF_PRESENT | PF_USER },
	{ "user-reads-below-supervisor-directory", PWU, P | W, WP, MMU_READ, UU, PF_PRESENT | PF_USER },
	{ "supervisor-reads-user-page", P | U, P | U, WP, MMU_READ, S, OK },
	{ "supervisor-reads-supervisor-page", P, P, WP, MMU_READ, S, OK },
	/* Who may write. */
	{ "user-writes-writable-page", PWU, PWU, WP, MMU_WRITE, UU, OK },
	{ "user-writes-read-only-page", P | U, PWU, WP, MMU_WRITE, UU, PF_PRESENT | PF_WRITE | PF_USER },
	{ "user-writes-read-only-page-without-wp", P | U, PWU, 0, MMU_WRITE, UU, PF_PRESENT | PF_WRITE | PF_USER },
	{ "user-writes-below-read-only-directory", PWU, P | U, WP, MMU_WRITE, UU, PF_PRESENT | PF_WRITE | PF_USER },
	{ "user-writes-supervisor-page", P | W, PWU, WP, MMU_WRITE, UU, PF_PRESENT | PF_WRITE | PF_USER },
	{ "supervisor-writes-read-only-page-with-wp", P | U, PWU, WP, MMU_WRITE, S, PF_PRESENT | PF_WRITE },
	{ "supervisor-writes-read-only-page-without-wp", P | U, PWU, 0, MMU_WRITE, S, OK },
	{ "supervisor-writes-below-read-only-directory", PWU, P, WP, MMU_WRITE, S, PF_PRESENT | PF_WRITE },
	{ "supervisor-writes-below-read-only-directory-without-wp", PWU, P, 0, MMU_WRITE, S, OK },
	/* SMAP. */
	{ "smap-stops-supervisor-read", PWU, PWU, WP | SMAP, MMU_READ, S, PF_PRESENT },
	{ "smap-stops-supervisor-write", PWU, PWU, WP | SMAP, MMU_WRITE, S, PF_PRESENT | PF_WRITE },
	{ "smap-stops-supervisor-write-without-wp", PWU, PWU, SMAP, MMU_WRITE, S, PF_PRESENT | PF_WRITE },
	{ "smap-lets-pass-with-ac", PWU, PWU, WP | SMAP, MMU_WRITE, SA, OK },
	{ "smap-with-ac-still-knows-wp", P | U, PWU, WP | SMAP, MMU_WRITE, SA, PF_PRESENT | PF_WRITE },
	{ "smap-spares-supervisor-pages", PWU, P | W, WP | SMAP, MMU_WRITE, S, OK },
	{ "smap-spares-users", PWU, PWU, WP | SMAP, MMU_WRITE, UU, OK },
	{ "smap-spares-fetches", PWU, PWU, WP | SMAP, MMU_EXEC, S, OK },
	/* Fetches. */
	{ "user-fetches-user-page", P | U, P | U, WP, MMU_EXEC, UU, OK },
	{ "user-fetches-supervisor-page", P, P, WP, MMU_EXEC, UU, PF_PRESENT | PF_USER },
	{ "user-fetches-supervisor-page-with-nxe", P, P, WP | NXE, MMU_EXEC, UU, PF_PRESENT | PF_USER | PF_FETCH },
	{ "supervisor-fetches-user-page", P | U, P | U, WP, MMU_EXEC, S, OK },
	{ "smep-stops-supervisor-fetch", P | U, P | U, WP | SMEP, MMU_EXEC, S, PF_PRESENT | PF_FETCH },
	{ "smep-stops-supervisor-fetch-with-ac", P | U, P | U, WP | SMEP, MMU_EXEC, SA, PF_PRESENT | PF_FETCH },
	{ "smep-spares-supervisor-pages", P | U, P, WP | SMEP, MMU_EXEC, S, OK },
	{ "smep-spares-users", P | U, P | U, WP | SMEP, MMU_EXEC, UU, OK },
	{ "smep-shows-in-a-user-fetch-fault", P, P, WP | SMEP, MMU_EXEC, UU, PF_PRESENT | PF_USER | PF_FETCH },
	{ "not-present-fetch", 0, PWU, WP, MMU_EXEC, UU, PF_USER },
	{ "not-present-fetch-with-nxe", 0, PWU, WP | NXE, MMU_EXEC, UU, PF_USER | PF_FETCH },
	{ "not-present-fetch-with-smep", 0, PWU, WP | SMEP, MMU_EXEC, S, PF_FETCH },
	/* NX: 64-bit entries only. */
	{ "nx-stops-user-fetch", PWU | NX, PWU, WP | NXE, MMU_EXEC, UU, PF_PRESENT | PF_USER | PF_FETCH },
	{ "nx-stops-supervisor-fetch", PWU | NX, PWU, WP | NXE, MMU_EXEC, S, PF_PRESENT | PF_FETCH },
	{ "nx-of-directory-stops-fetch", PWU, PWU | NX, WP | NXE, MMU_EXEC, S, PF_PRESENT | PF_FETCH },
	{ "nx-spares-reads", PWU | NX, PWU, WP | NXE, MMU_READ, UU, OK },
	{ "nx-spares-writes", PWU | NX, PWU | NX, WP | NXE, MMU_WRITE, UU, OK },
	{ "nx-is-reserved-without-nxe", PWU | NX, PWU, WP, MMU_READ, UU, PF_PRESENT | PF_USER | PF_RSVD },
	{ "nx-of-directory-is-reserved-without-nxe", PWU, PWU | NX, WP, MMU_WRITE, S, PF_PRESENT | PF_WRITE | PF_RSVD },
	/* Not present: P of the error code is 0, whatever else is set. */
	{ "not-present-page", W | U | NX | BIT(50), PWU, WP, MMU_READ, UU, PF_USER },
	{ "not-present-directory", PWU, W | U, WP, MMU_WRITE, S, PF_WRITE },
};

static void run_rights_case(const struct rights_case *c, unsigned mode, unsigned leaf_level)
{
	struct machine m;
	machine_init(&m, mode);
	if (m.mode->bytes == 4 && ((c->leaf | c->upper) >> 32)) {
		machine_destroy(&m);
		return;
	}
	map(&m, VA, leaf_level, PA >> 22 << 22, c->leaf);
	gpa_t upper = entry_at(&m, VA, leaf_level + 1);
	entry_put(&m, upper, (entry_get(&m, upper) & BITS(39, 12)) | c->upper);
	m.paging.cr0 = CR0_PE | CR0_PG | (c->flags & WP ? CR0_WP : 0);
	m.paging.cr4 |= (c->flags & SMEP ? CR4_SMEP : 0) | (c->flags & SMAP ? CR4_SMAP : 0);
	m.paging.efer = (m.paging.efer & ~EFER_NXE) | (c->flags & NXE ? EFER_NXE : 0);
	set_paging(&m);
	u32 error = c->error;
	/* NXE adds the fetch bit in formats that know NX only. */
	if (error != OK && (c->flags & NXE) && m.mode->bytes == 4 && !(c->flags & SMEP))
		error &= ~(u32)PF_FETCH;
	struct mmu_result r = translate(&m, VA, c->access, c->cls);
	if (error == OK) {
		g_assert_cmpint(r.kind, ==, MMU_OK);
	} else {
		g_assert_cmpint(r.kind, ==, MMU_PAGE_FAULT);
		g_assert_cmphex(r.error_code, ==, error);
	}
	machine_destroy(&m);
}

static void test_rights(gconstpointer data)
{
	const struct rights_case *c = data;
	for (unsigned mode = 0; mode < MODE_COUNT; mode++) {
		run_rights_case(c, mode, 1);
		if (modes[mode].levels > 2)
			run_rights_case(c, mode, 2);
	}
}

/* --- reserved bits --- */

static const struct {
	const char *name;
	unsigned mode, level;
	bool large; /* the entry maps a page */
	u64 bits;
	bool reserved;
} reserved_cases[] = {
	{ "pte-beyond-maxphyaddr", MODE_4, 1, true, BIT(40), true },
	{ "pte-top-address-bit", MODE_4, 1, true, BIT(51), true },
	{ "pte-below-maxphyaddr", MODE_4, 1, true, BIT(39), false },
	{ "pte-available-bits", MODE_4, 1, true, BITS(62, 52) | BITS(11, 8), false },
	{ "pte-pat", MODE_4, 1, true, BIT(7), false },
	{ "pde-beyond-maxphyaddr", MODE_4, 2, false, BIT(45), true },
	{ "pdpte-beyond-maxphyaddr", MODE_4, 3, false, BIT(40), true },
	{ "pml4e-beyond-maxphyaddr", MODE_4, 4, false, BIT(40), true },
	{ "pml4e-ps", MODE_4, 4, false, PS, true },
	{ "pml4e-of-5-ps", MODE_5, 4, false, PS, true },
	{ "pml5e-ps", MODE_5, 5, false, PS, true },
	{ "pml5e-beyond-maxphyaddr", MODE_5, 5, false, BIT(41), true },
	{ "2m-bit-13", MODE_4, 2, true, BIT(13), true },
	{ "2m-bit-20", MODE_4, 2, true, BIT(20), true },
	{ "2m-pat", MODE_4, 2, true, BIT(12), false },
	{ "2m-beyond-maxphyaddr", MODE_4, 2, true, BIT(44), true },
	{ "1g-bit-13", MODE_4, 3, true, BIT(13), true },
	{ "1g-bit-29", MODE_4, 3, true, BIT(29), true },
	{ "1g-pat", MODE_4, 3, true, BIT(12), false },
	{ "pae-pte-bit-52", MODE_PAE_, 1, true, BIT(52), true },
	{ "pae-pte-bit-62", MODE_PAE_, 1, true, BIT(62), true },
	{ "pae-pte-maxphyaddr", MODE_PAE_, 1, true, BIT(40), true },
	{ "pae-pde-bit-55", MODE_PAE_, 2, false, BIT(55), true },
	{ "pae-2m-bit-13", MODE_PAE_, 2, true, BIT(13), true },
	{ "pae-2m-bit-20", MODE_PAE_, 2, true, BIT(20), true },
	{ "pae-2m-pat", MODE_PAE_, 2, true, BIT(12), false },
	{ "pse-bit-21", MODE_PSE, 2, true, BIT(21), true },
	{ "pse-bits-20-13-are-address", MODE_PSE, 2, true, BITS(20, 13), false },
	{ "pse-small-page", MODE_PSE, 1, true, BITS(31, 12), false },
};

static void test_reserved(gconstpointer data)
{
	unsigned i = GPOINTER_TO_UINT(data);
	struct machine m;
	machine_init(&m, reserved_cases[i].mode);
	unsigned level = reserved_cases[i].level;
	if (reserved_cases[i].large)
		map(&m, VA, level, 0, PWU);
	else
		map(&m, VA, 1, PA, PWU);
	gpa_t at = entry_at(&m, VA, level);
	entry_put(&m, at, entry_get(&m, at) | reserved_cases[i].bits);
	for (unsigned access = MMU_READ; access <= MMU_EXEC; access++) {
		struct mmu_result r = translate(&m, VA, access, MMU_USER);
		if (reserved_cases[i].reserved) {
			g_assert_cmpint(r.kind, ==, MMU_PAGE_FAULT);
			u32 bits = access == MMU_WRITE                        ? PF_WRITE
				   : access == MMU_EXEC && m.mode->bytes == 8 ? PF_FETCH
									      : 0;
			g_assert_cmphex(r.error_code, ==, PF_PRESENT | PF_RSVD | PF_USER | bits);
		} else {
			g_assert_cmpint(r.kind, ==, MMU_OK);
		}
	}
	machine_destroy(&m);
}

static void test_pse36_maxphyaddr(void)
{
	/* With 36 address bits, bits 16:13 are address and 21:17 reserved. */
	struct machine m;
	machine_init(&m, MODE_PSE);
	struct mmu narrow;
	g_assert_cmpint(mmu_init(&narrow, &m.mem, &m.counters, 36), ==, 0);
	mmu_set_paging(&narrow, &m.paging);
	for (unsigned bit = 13; bit <= 21; bit++) {
		map(&m, VA, 2, 0x400000, PWU | BIT(bit));
		struct mmu_result r = mmu_translate(&narrow, VA, MMU_READ, MMU_USER);
		g_assert_cmpint(r.kind, ==, bit <= 16 ? MMU_OK : MMU_PAGE_FAULT);
		if (bit > 16)
			g_assert_cmphex(r.error_code, ==, PF_PRESENT | PF_USER | PF_RSVD);
	}
	mmu_destroy(&narrow);
	machine_destroy(&m);
}

static void test_tables_outside_ram(void)
{
	/* Nobody answers: all ones, which is present with reserved bits set in formats that have some. */
	for (unsigned mode = 0; mode < MODE_COUNT; mode++) {
		struct machine m;
		machine_init(&m, mode);
		entry_put(&m, entry_at(&m, VA, 2), 0x80000000 | PWU);
		struct mmu_result r = translate(&m, VA, MMU_WRITE, MMU_USER);
		if (m.mode->bytes == 8) {
			g_assert_cmpint(r.kind, ==, MMU_PAGE_FAULT);
			g_assert_cmphex(r.error_code, ==, PF_PRESENT | PF_WRITE | PF_USER | PF_RSVD);
		} else {
			g_assert_cmpint(r.kind, ==, MMU_OK);
			g_assert_cmphex(r.gpa, ==, 0xfffff000 | (VA & 0xfff));
			g_assert_cmphex(r.ram_offset, ==, RAM_OFFSET_NONE);
		}
		machine_destroy(&m);
	}
}

/* --- PDPTE registers --- */

static void test_pdptes(void)
{
	struct machine m;
	machine_init(&m, MODE_PAE_);
	u64 pdpte[4] = { 1, 2, 3, 4 };
	gpa_t at = m.paging.cr3;
	m.paging.cr3 |= 0x7e0; /* bits 11:5 are address */
	at |= 0x7e0;
	for (unsigned i = 0; i < 4; i++)
		mem_write_u64(&m.mem, at + 8 * i, 0x1000 * (i + 1) | P);
	g_assert_cmpint(mmu_load_pdptes(&m.mmu, &m.paging, pdpte).kind, ==, MMU_OK);
	for (unsigned i = 0; i < 4; i++)
		g_assert_cmphex(pdpte[i], ==, 0x1000 * (i + 1) | P);

	static const u64 bad[] = { BIT(1), BIT(2), BIT(5), BIT(8), BIT(40), BIT(63) };
	static const u64 good[] = { BIT(3), BIT(4), BIT(9), BIT(11), BIT(39) };
	for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
		mem_write_u64(&m.mem, at + 16, 0x5000 | P | bad[i]);
		g_assert_cmpint(mmu_load_pdptes(&m.mmu, &m.paging, pdpte).kind, ==, MMU_PAGE_FAULT);
		g_assert_cmphex(pdpte[2], ==, 0x3000 | P); /* untouched */
		mem_write_u64(&m.mem, at + 16, 0x5000 | bad[i]);
		g_assert_cmpint(mmu_load_pdptes(&m.mmu, &m.paging, pdpte).kind, ==, MMU_OK);
		pdpte[2] = 0x3000 | P;
	}
	for (unsigned i = 0; i < G_N_ELEMENTS(good); i++) {
		mem_write_u64(&m.mem, at + 16, 0x5000 | P | good[i]);
		g_assert_cmpint(mmu_load_pdptes(&m.mmu, &m.paging, pdpte).kind, ==, MMU_OK);
	}
	machine_destroy(&m);
}

static void test_pdptes_are_registers(void)
{
	struct machine m;
	machine_init(&m, MODE_PAE_);
	map(&m, VA, 1, PA, PWU);
	for (unsigned i = 0; i < 4; i++)
		mem_write_u64(&m.mem, m.paging.cr3 + 8 * i, 0); /* memory does not count */
	expect_ok(&m, VA, MMU_READ, MMU_USER, PA);
	m.paging.pdpte[VA >> 30] = 0;
	set_paging(&m);
	expect_fault(&m, VA, MMU_READ, MMU_USER, PF_USER);
	machine_destroy(&m);
}

/* --- accessed and dirty --- */

static void test_accessed_dirty(gconstpointer mode)
{
	struct machine m;
	machine_init(&m, GPOINTER_TO_UINT(mode));
	map(&m, VA, 1, PA, PWU);
	translate(&m, VA, MMU_READ, MMU_USER);
	for (unsigned level = 1; level <= m.mode->levels; level++)
		g_assert_cmphex(entry_get(&m, entry_at(&m, VA, level)) & (A | D), ==, A);
	translate(&m, VA, MMU_WRITE, MMU_USER);
	for (unsigned level = 1; level <= m.mode->levels; level++)
		g_assert_cmphex(entry_get(&m, entry_at(&m, VA, level)) & (A | D), ==, level == 1 ? A | D : A);
	machine_destroy(&m);
}

static void test_accessed_dirty_of_large_page(gconstpointer mode)
{
	struct machine m;
	machine_init(&m, GPOINTER_TO_UINT(mode));
	map(&m, VA, 2, 0x400000, PWU);
	translate(&m, VA, MMU_EXEC, MMU_USER);
	g_assert_cmphex(entry_get(&m, entry_at(&m, VA, 2)), ==, 0x400000 | PWU | PS | A);
	translate(&m, VA, MMU_WRITE, MMU_USER);
	g_assert_cmphex(entry_get(&m, entry_at(&m, VA, 2)), ==, 0x400000 | PWU | PS | A | D);
	machine_destroy(&m);
}

static void test_fault_sets_no_dirty(void)
{
	struct machine m;
	machine_init(&m, MODE_4);
	map(&m, VA, 1, PA, P | U);
	expect_fault(&m, VA, MMU_WRITE, MMU_USER, PF_PRESENT | PF_WRITE | PF_USER);
	g_assert_cmphex(entry_get(&m, entry_at(&m, VA, 1)) & D, ==, 0);
	machine_destroy(&m);
}

static void test_peek_changes_nothing(void)
{
	struct machine m;
	machine_init(&m, MODE_4);
	map(&m, VA, 1, PA, P);
	struct mmu_result r = mmu_peek(&m.mmu, VA + 5);
	g_assert_cmpint(r.kind, ==, MMU_OK);
	g_assert_cmphex(r.gpa, ==, PA + 5);
	g_assert_cmphex(entry_get(&m, entry_at(&m, VA, 1)), ==, PA | P);
	g_assert_cmphex(m.mmu.tlb[tlb_index(VA)].read, ==, 0);
	g_assert_cmpint(mmu_peek(&m.mmu, VA + 0x1000).kind, ==, MMU_PAGE_FAULT);
	machine_destroy(&m);
}

/* --- EPT --- */

static void expect_violation(struct mmu_result r, gpa_t l2_gpa, u64 qualification)
{
	g_assert_cmpint(r.kind, ==, MMU_EPT_VIOLATION);
	g_assert_cmphex(r.l2_gpa, ==, l2_gpa);
	/* What paging says of the page, walk_random.c looks at. */
	g_assert_cmphex(r.qualification & ~BITS(11, 9), ==, qualification);
}

/* Qualification bits (SDM vol. 3, table 28-7). */
#define Q_R           BIT(0)
#define Q_W           BIT(1)
#define Q_X           BIT(2)
#define Q_MAY(rights) ((u64)(rights) << 3)
#define Q_LINEAR      BIT(7)
#define Q_FINAL       BIT(8)

static const struct {
	const char *name;
	u64 rights;
	enum mmu_access access;
	bool permitted;
} ept_rights_cases[] = {
	{ "r-read", ER, MMU_READ, true },        { "r-write", ER, MMU_WRITE, false },
	{ "r-exec", ER, MMU_EXEC, false },       { "rw-write", ER | EW, MMU_WRITE, true },
	{ "rw-exec", ER | EW, MMU_EXEC, false }, { "rx-write", ER | EX, MMU_WRITE, false },
	{ "rx-exec", ER | EX, MMU_EXEC, true },  { "x-read", EX, MMU_READ, false },
	{ "x-exec", EX, MMU_EXEC, true },        { "none-read", 0, MMU_READ, false },
	{ "none-write", 0, MMU_WRITE, false },   { "none-exec", 0, MMU_EXEC, false },
	{ "rwx-read", RWX, MMU_READ, true },     { "rwx-write", RWX, MMU_WRITE, true },
	{ "rwx-exec", RWX, MMU_EXEC, true },
};

static void test_ept_rights(gconstpointer data)
{
	unsigned i = GPOINTER_TO_UINT(data);
	struct machine m;
	machine_init(&m, MODE_4);
	ept_on(&m, 0);
	map(&m, VA, 1, PA, PWU);
	mem_write_u64(&m.mem, ept_entry_at(&m, PA, 1), PA | ept_rights_cases[i].rights | EWB);
	struct mmu_result r = translate(&m, VA + 4, ept_rights_cases[i].access, MMU_USER);
	if (ept_rights_cases[i].permitted) {
		g_assert_cmpint(r.kind, ==, MMU_OK);
		g_assert_cmphex(r.gpa, ==, PA + 4);
	} else {
		u64 access = ept_rights_cases[i].access == MMU_READ    ? Q_R
			     : ept_rights_cases[i].access == MMU_WRITE ? Q_W
								       : Q_X;
		expect_violation(r, PA + 4, access | Q_MAY(ept_rights_cases[i].rights) | Q_LINEAR | Q_FINAL);
	}
	machine_destroy(&m);
}

static void test_ept_upper_entries_take_rights(void)
{
	struct machine m;
	machine_init(&m, MODE_4);
	ept_on(&m, 0);
	/* Guest-physical 5 GiB, whose tables are its own. */
	gpa_t far_page = 5ULL << 30;
	map(&m, VA, 1, far_page, PWU);
	mem_write_u64(&m.mem, ept_entry_at(&m, far_page, 1), PA | RWX | EWB);
	gpa_t upper = ept_entry_at(&m, far_page, 3);
	mem_write_u64(&m.mem, upper, mem_read_u64(&m.mem, upper) & ~(EW | EX));
	expect_ok(&m, VA, MMU_READ, MMU_USER, PA);
	expect_violation(translate(&m, VA, MMU_WRITE, MMU_USER), far_page, Q_W | Q_MAY(ER) | Q_LINEAR | Q_FINAL);
	expect_violation(translate(&m, VA, MMU_EXEC, MMU_USER), far_page, Q_X | Q_MAY(ER) | Q_LINEAR | Q_FINAL);
	/* No entry at all: no rights. */
	mem_write_u64(&m.mem, upper, 0);
	expect_violation(translate(&m, VA, MMU_READ, MMU_USER), far_page, Q_R | Q_LINEAR | Q_FINAL);
	/* Beyond what four levels reach, too. */
	g_assert_cmpint(mmu_translate_gpa(&m.mmu, 1ULL << 48, MMU_READ).kind, ==, MMU_EPT_VIOLATION);
	machine_destroy(&m);
}

static void test_ept_large_pages(void)
{
	struct machine m;
	machine_init(&m, MODE_4);
	ept_on(&m, EPT_AD_ON);
	gpa_t two = 6ULL << 30, one = 7ULL << 30;
	gpa_t two_at = ept_entry_at(&m, two, 2), one_at = ept_entry_at(&m, one, 3);
	mem_write_u64(&m.mem, two_at, 0x400000 | RWX | EWB | PS);
	mem_write_u64(&m.mem, one_at, 0 | RWX | EWB | PS);
	map(&m, VA, 1, two + 0x1ff000, PWU);
	map(&m, VA + 0x1000, 1, one + 0xabc000, PWU);
	expect_ok(&m, VA + 7, MMU_WRITE, MMU_USER, 0x5ff007);
	expect_ok(&m, VA + 0x1007, MMU_READ, MMU_USER, 0xabc007);
	g_assert_cmphex(mem_read_u64(&m.mem, two_at) & (EA | ED), ==, EA | ED);
	g_assert_cmphex(mem_read_u64(&m.mem, one_at) & (EA | ED), ==, EA);
	struct mmu_result r = mmu_translate_gpa(&m.mmu, two + 0x123456, MMU_READ);
	g_assert_cmpint(r.kind, ==, MMU_OK);
	g_assert_cmphex(r.gpa, ==, 0x523456);
	g_assert_cmphex(r.page_bytes, ==, 0x200000);
	machine_destroy(&m);
}

/* A violation of the guest's page table: which bits depends on dirty flags for EPT and on what the walk had to do. */
static void test_ept_guest_tables(void)
{
	static const struct {
		bool ad;     /* accessed and dirty flags for EPT */
		bool marked; /* the guest's entries have A (and D) already */
		u64 rights;  /* of the page that holds the guest's page table */
		bool ok;
		u64 qualification;
	} cases[] = {
		{ false, false, RWX, true, 0 },
		{ false, true, ER, true, 0 },
		{ false, false, ER, false, Q_R | Q_W | Q_MAY(ER) | Q_LINEAR },
		{ false, true, EX, false, Q_R | Q_MAY(EX) | Q_LINEAR },
		{ false, true, 0, false, Q_R | Q_LINEAR },
		{ true, true, ER, false, Q_R | Q_W | Q_MAY(ER) | Q_LINEAR },
		{ true, true, ER | EX, false, Q_R | Q_W | Q_MAY(ER | EX) | Q_LINEAR },
		{ true, true, 0, false, Q_R | Q_W | Q_LINEAR },
		{ true, false, ER | EW, true, 0 },
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct machine m;
		machine_init(&m, MODE_4);
		ept_on(&m, cases[i].ad ? EPT_AD_ON : 0);
		map(&m, VA, 1, PA, PWU | (cases[i].marked ? A | D : 0));
		gpa_t entry = entry_at(&m, VA, 1), ept_at = ept_entry_at(&m, entry, 1);
		mem_write_u64(&m.mem, ept_at, (entry & PAGE_MASK) | cases[i].rights | EWB);
		struct mmu_result r = translate(&m, VA, MMU_READ, MMU_USER);
		if (cases[i].ok) {
			g_assert_cmpint(r.kind, ==, MMU_OK);
			/* Reading a guest's table counts as a write to it. */
			g_assert_cmphex(mem_read_u64(&m.mem, ept_at) & (EA | ED), ==, cases[i].ad ? EA | ED : 0);
		} else {
			expect_violation(r, entry, cases[i].qualification);
			g_assert_cmphex(entry_get(&m, entry) & A, ==, cases[i].marked ? A : 0);
		}
		machine_destroy(&m);
	}
}

static const struct {
	const char *name;
	unsigned level;
	u64 entry;
	bool bad;
} ept_misconfig_cases[] = {
	{ "w-without-r", 1, PA | EW | EWB, true },
	{ "wx-without-r", 1, PA | EW | EX | EWB, true },
	{ "x-only", 1, PA | EX | EWB, false },
	{ "type-2", 1, PA | RWX | 2 << 3, true },
	{ "type-3", 1, PA | RWX | 3 << 3, true },
	{ "type-7", 1, PA | RWX | 7 << 3, true },
	{ "type-uncached", 1, PA | RWX | 0 << 3, false },
	{ "type-write-combining", 1, PA | RWX | 1 << 3, false },
	{ "type-write-through", 1, PA | RWX | 4 << 3, false },
	{ "type-write-protected", 1, PA | RWX | 5 << 3, false },
	{ "beyond-maxphyaddr", 1, PA | RWX | EWB | BIT(40), true },
	{ "ignored-bits", 1, PA | RWX | EWB | BITS(63, 52) | BIT(6) | BIT(7) | BIT(11), false },
	{ "absent-is-never-misconfigured", 1, PA | BIT(45) | 7 << 3, false },
	{ "2m-bit-12", 2, RWX | EWB | PS | BIT(12), true },
	{ "2m-bit-20", 2, RWX | EWB | PS | BIT(20), true },
	{ "2m-type-3", 2, RWX | 3 << 3 | PS, true },
	{ "2m-good", 2, RWX | EWB | PS, false },
	{ "1g-bit-29", 3, RWX | EWB | PS | BIT(29), true },
	{ "1g-bit-12", 3, RWX | EWB | PS | BIT(12), true },
	{ "1g-good", 3, RWX | EWB | PS, false },
	{ "directory-bit-3", 2, 0x100000 | RWX | BIT(3), true },
	{ "directory-bit-6", 2, 0x100000 | RWX | BIT(6), true },
	{ "directory-w-only", 2, 0x100000 | EW, true },
	{ "pdpt-bit-5", 3, 0x100000 | RWX | BIT(5), true },
	{ "pml4-bit-7", 4, 0x100000 | RWX | BIT(7), true },
	{ "pml4-bit-3", 4, 0x100000 | RWX | BIT(3), true },
	{ "pml4-beyond-maxphyaddr", 4, 0x100000 | RWX | BIT(47), true },
};

static void test_ept_misconfig(gconstpointer data)
{
	unsigned i = GPOINTER_TO_UINT(data);
	struct machine m;
	machine_init(&m, MODE_4);
	ept_on(&m, 0);
	gpa_t far_page = (3ULL << 39) + (9ULL << 30);
	mem_write_u64(&m.mem, ept_entry_at(&m, far_page, 1), PA | RWX | EWB);
	mem_write_u64(&m.mem, ept_entry_at(&m, far_page, ept_misconfig_cases[i].level), ept_misconfig_cases[i].entry);
	for (unsigned access = MMU_READ; access <= MMU_EXEC; access++) {
		struct mmu_result r = mmu_translate_gpa(&m.mmu, far_page + 8, access);
		if (ept_misconfig_cases[i].bad) {
			g_assert_cmpint(r.kind, ==, MMU_EPT_MISCONFIG);
			g_assert_cmphex(r.l2_gpa, ==, far_page + 8);
			g_assert_cmphex(r.qualification, ==, 0);
		} else {
			g_assert_cmpint(r.kind, !=, MMU_EPT_MISCONFIG);
		}
	}
	machine_destroy(&m);
}

static void test_ept_gpa_violation_has_no_linear_address(void)
{
	struct machine m;
	machine_init(&m, MODE_4);
	ept_on(&m, 0);
	mem_write_u64(&m.mem, ept_entry_at(&m, PA, 1), 0);
	expect_violation(mmu_translate_gpa(&m.mmu, PA + 1, MMU_WRITE), PA + 1, Q_W);
	machine_destroy(&m);
}

static void test_ept_pdptes(void)
{
	struct machine m;
	machine_init(&m, MODE_PAE_);
	ept_on(&m, EPT_AD_ON);
	u64 pdpte[4];
	gpa_t root = m.paging.cr3;
	gpa_t elsewhere = new_table(&m);
	mem_write_u64(&m.mem, elsewhere, 0x7000 | P);
	gpa_t ept_at = ept_entry_at(&m, root, 1);
	mem_write_u64(&m.mem, ept_at, elsewhere | ER | EWB);
	g_assert_cmpint(mmu_load_pdptes(&m.mmu, &m.paging, pdpte).kind, ==, MMU_OK);
	g_assert_cmphex(pdpte[0], ==, 0x7000 | P);
	/* The one access to a guest's tables that is a read even with dirty flags. */
	g_assert_cmphex(mem_read_u64(&m.mem, ept_at) & (EA | ED), ==, EA);
	mem_write_u64(&m.mem, ept_at, 0);
	expect_violation(mmu_load_pdptes(&m.mmu, &m.paging, pdpte), root, Q_R);
	machine_destroy(&m);
}

static void test_ept_guest_fault_comes_first(void)
{
	struct machine m;
	machine_init(&m, MODE_4);
	ept_on(&m, 0);
	map(&m, VA, 1, PA, P | U);
	mem_write_u64(&m.mem, ept_entry_at(&m, PA, 1), 0);
	expect_fault(&m, VA, MMU_WRITE, MMU_USER, PF_PRESENT | PF_WRITE | PF_USER);
	expect_violation(translate(&m, VA, MMU_READ, MMU_USER), PA, Q_R | Q_LINEAR | Q_FINAL);
	machine_destroy(&m);
}

/*
 * One entry used at two levels, at the second one through a page that stage 2 makes read-only: the first use has set
 * its accessed bit, so the second one writes nothing.
 */
static void test_ept_entry_used_twice(void)
{
	struct machine m;
	machine_init(&m, MODE_4);
	gpa_t root = m.paging.cr3, alias = 0x200000, directory = new_table(&m);
	const u64 va = 1ULL << 21 | 5ULL << 12; /* indices 0, 0, 1, 5 */
	mem_write_u64(&m.mem, root, alias | PWU);
	mem_write_u64(&m.mem, root + 8, directory | PWU | A);
	mem_write_u64(&m.mem, directory + 5 * 8, 0x300000 | PWU | A);
	ept_on(&m, 0);
	mem_write_u64(&m.mem, ept_entry_at(&m, alias, 1), root | ER | EX | EWB);
	struct mmu_result r = mmu_translate(&m.mmu, va, MMU_READ, MMU_USER);
	g_assert_cmpint(r.kind, ==, MMU_OK);
	g_assert_cmphex(r.gpa, ==, 0x300000);
	g_assert_cmphex(mem_read_u64(&m.mem, root), ==, alias | PWU | A);
	machine_destroy(&m);
}

static void test_ept_without_guest_paging(void)
{
	struct machine m;
	machine_init(&m, MODE_4);
	ept_on(&m, 0);
	m.paging.cr0 = CR0_PE;
	m.paging.efer = 0;
	set_paging(&m);
	mem_write_u64(&m.mem, ept_entry_at(&m, PA, 1), (PA + 0x5000) | ER | EWB);
	expect_ok(&m, PA + 3, MMU_READ, MMU_SUPERVISOR, PA + 0x5003);
	expect_violation(translate(&m, PA, MMU_EXEC, MMU_SUPERVISOR), PA, Q_X | Q_MAY(ER) | Q_LINEAR | Q_FINAL);
	machine_destroy(&m);
}

static void add_cases(void)
{
	for (unsigned mode = 0; mode < MODE_COUNT; mode++) {
		g_autofree char *small = g_strdup_printf("/walk/%s/small-page", modes[mode].name);
		g_test_add_data_func(small, GUINT_TO_POINTER(mode), test_small_page);
		g_autofree char *ad = g_strdup_printf("/walk/%s/sets-accessed-and-dirty", modes[mode].name);
		g_test_add_data_func(ad, GUINT_TO_POINTER(mode), test_accessed_dirty);
		if (mode == MODE_32)
			continue;
		g_autofree char *large = g_strdup_printf("/walk/%s/large-page-accessed-and-dirty", modes[mode].name);
		g_test_add_data_func(large, GUINT_TO_POINTER(mode), test_accessed_dirty_of_large_page);
	}
#define ADD_TABLE(table, prefix, function, data)                                                                       \
	for (unsigned i = 0; i < G_N_ELEMENTS(table); i++) {                                                           \
		g_autofree char *path = g_strdup_printf("/walk/" prefix "/%s", table[i].name);                         \
		g_test_add_data_func(path, data, function);                                                            \
	}
	ADD_TABLE(large_pages, "large", test_large_page, GUINT_TO_POINTER(i))
	ADD_TABLE(rights_cases, "rights", test_rights, &rights_cases[i])
	ADD_TABLE(reserved_cases, "reserved", test_reserved, GUINT_TO_POINTER(i))
	ADD_TABLE(ept_rights_cases, "ept/rights", test_ept_rights, GUINT_TO_POINTER(i))
	ADD_TABLE(ept_misconfig_cases, "ept/misconfig", test_ept_misconfig, GUINT_TO_POINTER(i))
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	add_cases();
	g_test_add_func("/walk/no-paging-is-identity", test_no_paging);
	g_test_add_func("/walk/pse/bits-20-13-are-address-39-32", test_pse36);
	g_test_add_func("/walk/pse/maxphyaddr-reserves-high-bits", test_pse36_maxphyaddr);
	g_test_add_func("/walk/32-bit/ps-is-ignored-without-pse", test_ps_ignored_without_pse);
	g_test_add_func("/walk/canonical", test_canonical);
	g_test_add_func("/walk/pcid-bits-are-no-address", test_pcid_bits_are_no_address);
	g_test_add_func("/walk/tables-outside-ram-read-all-ones", test_tables_outside_ram);
	g_test_add_func("/walk/pae/pdptes-load-and-check", test_pdptes);
	g_test_add_func("/walk/pae/pdptes-are-registers", test_pdptes_are_registers);
	g_test_add_func("/walk/fault-sets-no-dirty", test_fault_sets_no_dirty);
	g_test_add_func("/walk/peek-changes-nothing", test_peek_changes_nothing);
	g_test_add_func("/walk/ept/upper-entries-take-rights", test_ept_upper_entries_take_rights);
	g_test_add_func("/walk/ept/large-pages", test_ept_large_pages);
	g_test_add_func("/walk/ept/guest-tables", test_ept_guest_tables);
	g_test_add_func("/walk/ept/gpa-violation-has-no-linear-address", test_ept_gpa_violation_has_no_linear_address);
	g_test_add_func("/walk/ept/pdpte-loads-are-reads", test_ept_pdptes);
	g_test_add_func("/walk/ept/guest-page-fault-comes-first", test_ept_guest_fault_comes_first);
	g_test_add_func("/walk/ept/entry-used-twice-is-marked-once", test_ept_entry_used_twice);
	g_test_add_func("/walk/ept/without-guest-paging", test_ept_without_guest_paging);
	return g_test_run();
}
