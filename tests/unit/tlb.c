/* The soft TLB: what enters it, which flush drops what, and what a context switch keeps. */
#include "tables.h"

#define VA 0x40201000ULL
#define PA 0x00345000ULL

static const struct tlb_entry *slot(struct machine *m, u64 va)
{
	return &m->mmu.tlb[tlb_index(va)];
}

static u64 tag(struct machine *m, u64 va)
{
	return (va & PAGE_MASK) | m->mmu.revision;
}

static bool hits(struct machine *m, u64 va, enum mmu_access access)
{
	const struct tlb_entry *e = slot(m, va);
	return (access == MMU_READ ? e->read : access == MMU_WRITE ? e->write : e->exec) == tag(m, va);
}

static void touch(struct machine *m, u64 va, enum mmu_access access)
{
	g_assert_cmpint(mmu_translate(&m->mmu, va, access, m->mmu.cls).kind, ==, MMU_OK);
}

/* A machine in 4-level mode as user, with VA mapped and everything permitted. */
static void start(struct machine *m)
{
	machine_init(m, MODE_4);
	mmu_set_class(&m->mmu, MMU_USER);
	map(m, VA, 1, PA, PWU);
}

static void set_pcid(struct machine *m, unsigned pcid)
{
	m->paging.cr4 |= CR4_PCIDE;
	m->paging.cr3 = (m->paging.cr3 & ~0xfffULL) | pcid;
	set_paging(m);
}

static void set_vpid(struct machine *m, u16 vpid)
{
	m->paging.vpid = vpid;
	set_paging(m);
}

/* --- filling --- */

static void test_fill(void)
{
	struct machine m;
	start(&m);
	g_assert_false(hits(&m, VA, MMU_READ));
	touch(&m, VA + 0x123, MMU_READ);
	g_assert_true(hits(&m, VA, MMU_READ));
	g_assert_true(hits(&m, VA, MMU_EXEC));
	g_assert_false(hits(&m, VA, MMU_WRITE)); /* dirty is not set yet */
	g_assert_true((u8 *)(VA + 0x123 + slot(&m, VA)->addend) == m.mem.host + PA + 0x123);
	touch(&m, VA + 8, MMU_WRITE);
	g_assert_true(hits(&m, VA, MMU_WRITE));
	mmu_flush_all(&m.mmu);
	touch(&m, VA, MMU_READ);
	g_assert_true(hits(&m, VA, MMU_WRITE)); /* dirty already: a read fills all */
	machine_destroy(&m);
}

static void test_fill_rights(void)
{
	struct machine m;
	start(&m);
	map(&m, VA, 1, PA, P | U | A | D | NX);
	touch(&m, VA, MMU_READ);
	g_assert_true(hits(&m, VA, MMU_READ));
	g_assert_false(hits(&m, VA, MMU_WRITE));
	g_assert_false(hits(&m, VA, MMU_EXEC));
	mmu_set_class(&m.mmu, MMU_SUPERVISOR);
	g_assert_false(hits(&m, VA, MMU_READ)); /* each class has a table of its own */
	machine_destroy(&m);
}

static void test_fault_fills_nothing(void)
{
	struct machine m;
	start(&m);
	map(&m, VA, 1, PA, P | U);
	g_assert_cmpint(mmu_translate(&m.mmu, VA, MMU_WRITE, MMU_USER).kind, ==, MMU_PAGE_FAULT);
	g_assert_false(hits(&m, VA, MMU_READ));
	machine_destroy(&m);
}

static void test_devices_never_enter(void)
{
	struct machine m;
	start(&m);
	map(&m, VA, 1, 0xfee00000, PWU);
	touch(&m, VA, MMU_WRITE);
	g_assert_false(hits(&m, VA, MMU_READ));
	g_assert_false(hits(&m, VA, MMU_WRITE));
	machine_destroy(&m);
}

static void test_ept_fill(void)
{
	struct machine m;
	start(&m);
	ept_on(&m, EPT_AD_ON);
	map(&m, VA, 1, PA, PWU | A | D);
	gpa_t at = ept_entry_at(&m, PA, 1);
	touch(&m, VA, MMU_READ);
	g_assert_false(hits(&m, VA, MMU_WRITE)); /* EPT's dirty flag is missing */
	touch(&m, VA, MMU_WRITE);
	g_assert_true(hits(&m, VA, MMU_WRITE));
	mem_write_u64(&m.mem, at, PA | ER | EWB);
	mmu_flush_ept(&m.mmu, m.paging.eptp);
	touch(&m, VA, MMU_READ);
	g_assert_true(hits(&m, VA, MMU_READ));
	g_assert_false(hits(&m, VA, MMU_WRITE));
	g_assert_false(hits(&m, VA, MMU_EXEC));
	mem_write_u64(&m.mem, at, (PA + 0x3000) | EX | EWB);
	mmu_flush_ept(&m.mmu, m.paging.eptp);
	touch(&m, VA, MMU_EXEC);
	g_assert_false(hits(&m, VA, MMU_READ));
	g_assert_true(hits(&m, VA, MMU_EXEC));
	g_assert_true((u8 *)(VA + slot(&m, VA)->addend) == m.mem.host + PA + 0x3000);
	machine_destroy(&m);
}

static void test_smap_tables(void)
{
	struct machine m;
	start(&m);
	mmu_set_class(&m.mmu, MMU_SUPERVISOR_AC);
	g_assert_true(m.mmu.tlb == m.mmu.system); /* no difference without SMAP */
	m.paging.cr4 |= CR4_SMAP;
	set_paging(&m);
	g_assert_true(m.mmu.tlb != m.mmu.system);
	touch(&m, VA, MMU_READ);
	g_assert_true(hits(&m, VA, MMU_READ));
	mmu_set_class(&m.mmu, MMU_SUPERVISOR);
	g_assert_false(hits(&m, VA, MMU_READ));
	g_assert_true(m.mmu.tlb == m.mmu.system);
	machine_destroy(&m);
}

static void test_checked(void)
{
	struct machine m;
	start(&m);
	touch(&m, VA, MMU_WRITE);
	mmu_set_checked(&m.mmu, true);
	g_assert_false(hits(&m, VA, MMU_READ));
	touch(&m, VA, MMU_WRITE);
	g_assert_false(hits(&m, VA, MMU_WRITE));
	g_assert_cmphex(m.mmu.system[tlb_index(VA)].read, ==, 0);
	mmu_set_class(&m.mmu, MMU_SUPERVISOR);
	mmu_set_class(&m.mmu, MMU_USER);
	g_assert_false(hits(&m, VA, MMU_WRITE));
	mmu_set_checked(&m.mmu, false);
	g_assert_true(hits(&m, VA, MMU_WRITE)); /* entries were kept */
	machine_destroy(&m);
}

/* --- flushes --- */

static void test_flush_page(void)
{
	struct machine m;
	start(&m);
	map(&m, VA + 0x1000, 1, PA + 0x1000, PWU);
	touch(&m, VA, MMU_WRITE);
	touch(&m, VA + 0x1000, MMU_READ);
	mmu_flush_page(&m.mmu, VA + 0x7ff);
	g_assert_false(hits(&m, VA, MMU_READ));
	g_assert_false(hits(&m, VA, MMU_WRITE));
	g_assert_false(hits(&m, VA, MMU_EXEC));
	g_assert_true(hits(&m, VA + 0x1000, MMU_READ));
	mmu_flush_page(&m.mmu, VA + 0x1000 + (u64)TLB_ENTRIES * PAGE_SIZE); /* same slot, other page */
	g_assert_true(hits(&m, VA + 0x1000, MMU_READ));
	machine_destroy(&m);
}

static void test_flush_page_drops_a_large_page(void)
{
	static const struct {
		unsigned mode, level;
	} cases[] = { { MODE_PSE, 2 }, { MODE_PAE_, 2 }, { MODE_4, 2 }, { MODE_4, 3 } };
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		struct machine m;
		machine_init(&m, cases[i].mode);
		mmu_set_class(&m.mmu, MMU_USER);
		u64 size = 1ULL << (12 + (cases[i].level - 1) * m.mode->index_bits);
		map(&m, 0x40000000, cases[i].level, 0, PWU);
		map(&m, 0x80001000, 1, PA, PWU);
		touch(&m, 0x40000000, MMU_READ);
		touch(&m, 0x40105000, MMU_WRITE);
		mmu_flush_page(&m.mmu, 0x80001000 + 0x5000); /* elsewhere */
		g_assert_true(hits(&m, 0x40000000, MMU_READ));
		mmu_flush_page(&m.mmu, 0x40000000 + size - 1);
		g_assert_false(hits(&m, 0x40000000, MMU_READ));
		g_assert_false(hits(&m, 0x40105000, MMU_READ));
		g_assert_false(hits(&m, 0x40105000, MMU_WRITE));
		machine_destroy(&m);
	}
}

static void test_flush_page_drops_large_page_in_small_ept_pages(void)
{
	struct machine m;
	start(&m);
	ept_on(&m, 0);
	map(&m, 0x40000000, 2, 0x400000, PWU);
	touch(&m, 0x40003000, MMU_READ);
	mmu_flush_page(&m.mmu, 0x40100000);
	g_assert_false(hits(&m, 0x40003000, MMU_READ));
	machine_destroy(&m);
}

static void test_global_pages(void)
{
	/* INVLPG of a global page reaches every PCID of the VPID. */
	struct machine m;
	start(&m);
	map(&m, VA, 1, PA, PWU | G);
	m.paging.cr4 |= CR4_PGE;
	set_pcid(&m, 1);
	touch(&m, VA, MMU_READ);
	set_pcid(&m, 2);
	touch(&m, VA, MMU_READ);
	mmu_flush_page(&m.mmu, VA);
	g_assert_false(hits(&m, VA, MMU_READ));
	set_pcid(&m, 1);
	g_assert_false(hits(&m, VA, MMU_READ));
	machine_destroy(&m);
}

#define GLOBAL_VA 0xffff800000205000ULL

/* A supervisor with one global page and one that is not, both in the TLB; PCID 1 if `pcide`. */
static void start_global(struct machine *m, bool pcide)
{
	start(m);
	mmu_set_class(&m->mmu, MMU_SUPERVISOR);
	m->paging.cr4 |= CR4_PGE;
	map(m, GLOBAL_VA, 1, PA + 0x1000, P | W | G);
	if (pcide)
		set_pcid(m, 1);
	else
		set_paging(m);
	touch(m, VA, MMU_READ);
	touch(m, GLOBAL_VA, MMU_READ);
}

static void expect_global(struct machine *m, bool local, bool global)
{
	g_assert_cmpint(hits(m, VA, MMU_READ), ==, local);
	g_assert_cmpint(hits(m, GLOBAL_VA, MMU_READ), ==, global);
	machine_destroy(m);
}

static void test_globals_outlive_cr3(void)
{
	struct machine m;
	start_global(&m, false);
	mmu_flush_pcid(&m.mmu, 0);
	expect_global(&m, false, true);
	start_global(&m, true);
	mmu_flush_pcid(&m.mmu, 1);
	expect_global(&m, false, true);
	start_global(&m, true);
	mmu_flush_vpid_all(&m.mmu, false); /* INVPCID type 3 */
	expect_global(&m, false, true);
	start_global(&m, true);
	set_pcid(&m, 2); /* they are every PCID's */
	expect_global(&m, false, true);
}

static void test_globals_end(void)
{
	struct machine m;
	start_global(&m, true);
	mmu_flush_vpid_all(&m.mmu, true); /* INVPCID type 2 */
	expect_global(&m, false, false);
	start_global(&m, true);
	mmu_flush_page(&m.mmu, GLOBAL_VA);
	expect_global(&m, true, false);
	start_global(&m, true);
	set_pcid(&m, 2);
	mmu_flush_page(&m.mmu, GLOBAL_VA);
	set_pcid(&m, 1);
	expect_global(&m, true, false);
	static const u64 bits[] = { CR4_PGE, CR4_SMEP, CR4_SMAP };
	for (unsigned i = 0; i < G_N_ELEMENTS(bits); i++) {
		start_global(&m, true);
		m.paging.cr4 ^= bits[i];
		set_paging(&m);
		expect_global(&m, false, false);
	}
	start_global(&m, true);
	m.paging.cr0 ^= CR0_WP;
	set_paging(&m);
	expect_global(&m, false, false);
	start_global(&m, true);
	m.paging.efer ^= EFER_NXE;
	set_paging(&m);
	expect_global(&m, false, false);
}

static void test_g_needs_pge(void)
{
	struct machine m;
	start(&m);
	map(&m, VA, 1, PA, PWU | G);
	touch(&m, VA, MMU_READ);
	mmu_flush_pcid(&m.mmu, 0);
	g_assert_false(hits(&m, VA, MMU_READ));
	machine_destroy(&m);
}

/* A PCID's entries are put aside while another one runs; a flush must find them there. */
static void test_flush_reaches_what_is_put_aside(void)
{
	struct machine m;
	for (unsigned how = 0; how < 6; how++) {
		start_global(&m, true);
		set_pcid(&m, 2);
		switch (how) {
		case 0:
			mmu_flush_pcid(&m.mmu, 1);
			break;
		case 1:
			mmu_flush_pcid_page(&m.mmu, 1, VA);
			break;
		case 2:
			mmu_flush_vpid_all(&m.mmu, false);
			break;
		case 3:
			mmu_flush_vpid_page(&m.mmu, 0, VA);
			break;
		case 4: /* as another VPID: then this context is not the current one */
			set_vpid(&m, 5);
			mmu_flush_vpid(&m.mmu, 0, false);
			set_vpid(&m, 0);
			break;
		default: /* the current PCID's page alone */
			mmu_flush_page(&m.mmu, VA);
			break;
		}
		set_pcid(&m, 1);
		expect_global(&m, how == 5, true);
	}
}

/* More local pages than are put aside: what does not come back is walked anew, and nothing else shows up. */
static void test_many_local_pages(void)
{
	struct machine m;
	start(&m);
	for (unsigned i = 0; i < 1200; i++)
		map(&m, VA + i * PAGE_SIZE, 1, PA + i * PAGE_SIZE, PWU);
	set_pcid(&m, 1);
	for (unsigned i = 0; i < 1200; i++)
		touch(&m, VA + i * PAGE_SIZE, MMU_WRITE);
	set_pcid(&m, 2);
	for (unsigned i = 0; i < 1200; i++)
		g_assert_false(hits(&m, VA + i * PAGE_SIZE, MMU_READ));
	set_pcid(&m, 1);
	unsigned back = 0;
	for (unsigned i = 0; i < 1200; i++)
		if (hits(&m, VA + i * PAGE_SIZE, MMU_WRITE)) {
			back++;
			g_assert_true((u8 *)(VA + i * PAGE_SIZE + slot(&m, VA + i * PAGE_SIZE)->addend) ==
				      m.mem.host + PA + i * PAGE_SIZE);
		}
	g_assert_cmpuint(back, >=, 100);
	machine_destroy(&m);
}

/* --- cached code --- */

/* What a flush must make of the generation that code in GLOBAL_VA (supervisor) or VA (user) is cached under. */
static void test_code_generations(void)
{
	struct machine m;
	start_global(&m, true);
	touch(&m, GLOBAL_VA, MMU_EXEC);
	mmu_note_code(&m.mmu, GLOBAL_VA);
	u64 supervisor = m.mmu.generation;
	mmu_set_class(&m.mmu, MMU_USER);
	touch(&m, VA, MMU_EXEC);
	mmu_note_code(&m.mmu, VA);
	u64 user = m.mmu.generation;
	g_assert_cmpuint(user, !=, supervisor);

	/* INVLPG of pages without code changes nothing. */
	mmu_flush_page(&m.mmu, VA + 0x40000);
	g_assert_cmpuint(m.mmu.generation, ==, user);
	/* Another process and back: the user's changes and returns, the supervisor's stays. */
	set_pcid(&m, 2);
	g_assert_cmpuint(m.mmu.generation, !=, user);
	mmu_set_class(&m.mmu, MMU_SUPERVISOR);
	g_assert_cmpuint(m.mmu.generation, ==, supervisor);
	set_pcid(&m, 1);
	mmu_set_class(&m.mmu, MMU_USER);
	g_assert_cmpuint(m.mmu.generation, ==, user);
	/* INVLPG of the page with code, in between which another process ran. */
	set_pcid(&m, 2);
	set_pcid(&m, 1);
	mmu_flush_page(&m.mmu, VA);
	g_assert_cmpuint(m.mmu.generation, !=, user);
	user = m.mmu.generation;
	mmu_flush_pcid(&m.mmu, 1);
	g_assert_cmpuint(m.mmu.generation, !=, user);
	mmu_set_class(&m.mmu, MMU_SUPERVISOR);
	g_assert_cmpuint(m.mmu.generation, ==, supervisor);
	mmu_flush_page(&m.mmu, GLOBAL_VA);
	g_assert_cmpuint(m.mmu.generation, !=, supervisor);
	machine_destroy(&m);
}

/* A supervisor that runs in pages of its own process loses them with it. */
static void test_local_supervisor_code(void)
{
	struct machine m;
	start_global(&m, true);
	mmu_note_code(&m.mmu, VA);
	u64 generation = m.mmu.generation;
	mmu_flush_pcid(&m.mmu, 1);
	g_assert_cmpuint(m.mmu.generation, !=, generation);
	generation = m.mmu.generation;
	touch(&m, VA, MMU_EXEC);
	mmu_note_code(&m.mmu, VA);
	set_pcid(&m, 2);
	g_assert_cmpuint(m.mmu.generation, !=, generation);
	machine_destroy(&m);
}

static void test_switch_keeps(void)
{
	struct machine m;
	start(&m);
	u64 root = m.paging.cr3;
	set_pcid(&m, 1);
	touch(&m, VA, MMU_WRITE);
	u64 generation = m.mmu.generation, switches = m.counters.context_switches;
	m.paging.cr3 = new_table(&m); /* another process */
	set_pcid(&m, 2);
	g_assert_cmpuint(m.mmu.generation, >, generation);
	g_assert_cmpuint(m.counters.context_switches, ==, switches + 1);
	g_assert_false(hits(&m, VA, MMU_READ));
	m.paging.cr3 = root;
	set_pcid(&m, 1);
	g_assert_true(hits(&m, VA, MMU_WRITE));
	/* VM entry and exit likewise. */
	set_vpid(&m, 7);
	g_assert_false(hits(&m, VA, MMU_READ));
	set_vpid(&m, 0);
	g_assert_true(hits(&m, VA, MMU_WRITE));
	machine_destroy(&m);
}

static void test_pcid_needs_pcide(void)
{
	struct machine m;
	start(&m);
	touch(&m, VA, MMU_READ);
	m.paging.cr3 |= 0x18; /* PCD and PWT, no PCID */
	set_paging(&m);
	g_assert_true(hits(&m, VA, MMU_READ));
	g_assert_cmpuint(m.counters.context_switches, ==, 0);
	machine_destroy(&m);
}

/* Fills VA in the contexts (vpid, pcid) = (0,1) (0,2) (5,1), and leaves the machine in (0,1). */
static void fill_three(struct machine *m)
{
	start(m);
	set_vpid(m, 5);
	set_pcid(m, 1);
	touch(m, VA, MMU_READ);
	set_vpid(m, 0);
	set_pcid(m, 2);
	touch(m, VA, MMU_READ);
	set_pcid(m, 1);
	touch(m, VA, MMU_READ);
}

static void expect_three(struct machine *m, bool pcid1, bool pcid2, bool vpid5)
{
	set_vpid(m, 0);
	set_pcid(m, 1);
	g_assert_cmpint(hits(m, VA, MMU_READ), ==, pcid1);
	set_pcid(m, 2);
	g_assert_cmpint(hits(m, VA, MMU_READ), ==, pcid2);
	set_vpid(m, 5);
	set_pcid(m, 1);
	g_assert_cmpint(hits(m, VA, MMU_READ), ==, vpid5);
	machine_destroy(m);
}

static void test_flush_pcid(void)
{
	struct machine m;
	fill_three(&m);
	mmu_flush_pcid(&m.mmu, 1);
	expect_three(&m, false, true, true);
	fill_three(&m);
	mmu_flush_pcid(&m.mmu, 2);
	expect_three(&m, true, false, true);
}

static void test_flush_pcid_page(void)
{
	struct machine m;
	fill_three(&m);
	mmu_flush_pcid_page(&m.mmu, 2, VA);
	expect_three(&m, true, false, true);
	fill_three(&m);
	mmu_flush_pcid_page(&m.mmu, 1, VA + 0x1000);
	expect_three(&m, true, true, true);
}

static void test_flush_vpid_all(void)
{
	struct machine m;
	fill_three(&m);
	mmu_flush_vpid_all(&m.mmu, true);
	expect_three(&m, false, false, true);
}

static void test_flush_vpid(void)
{
	struct machine m;
	fill_three(&m);
	mmu_flush_vpid(&m.mmu, 5, true);
	expect_three(&m, true, true, false);
	fill_three(&m);
	mmu_flush_vpid_page(&m.mmu, 5, VA);
	expect_three(&m, true, true, false);
	fill_three(&m);
	mmu_flush_vpid_page(&m.mmu, 0, VA);
	expect_three(&m, false, false, true);
}

static void test_flush_all(void)
{
	struct machine m;
	fill_three(&m);
	u64 flushes = m.counters.tlb_flushes;
	mmu_flush_all(&m.mmu);
	g_assert_cmpuint(m.counters.tlb_flushes, ==, flushes + 2); /* two PCIDs are one context */
	expect_three(&m, false, false, false);
}

static void test_flush_ept(void)
{
	struct machine m;
	start(&m);
	touch(&m, VA, MMU_READ); /* root: no EPT */
	ept_on(&m, 0);
	touch(&m, VA, MMU_READ);
	u64 eptp = m.paging.eptp;
	mmu_flush_ept(&m.mmu, (eptp & PAGE_MASK) + 0x1000); /* another hierarchy */
	g_assert_true(hits(&m, VA, MMU_READ));
	mmu_flush_ept(&m.mmu, eptp & PAGE_MASK); /* only the address counts */
	g_assert_false(hits(&m, VA, MMU_READ));
	m.paging.eptp = 0;
	set_vpid(&m, 0);
	g_assert_true(hits(&m, VA, MMU_READ));
	machine_destroy(&m);
}

static void test_register_changes(void)
{
	static const struct {
		u64 cr0, cr4, efer;
	} changes[] = {
		{ CR0_WP, 0, 0 },  { 0, CR4_SMEP, 0 }, { 0, CR4_SMAP, 0 },
		{ 0, CR4_PGE, 0 }, { 0, 0, EFER_NXE }, { CR0_PG, 0, 0 },
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(changes); i++) {
		struct machine m;
		start(&m);
		touch(&m, VA, MMU_READ);
		m.paging.cr0 ^= changes[i].cr0;
		m.paging.cr4 ^= changes[i].cr4;
		m.paging.efer ^= changes[i].efer;
		set_paging(&m);
		g_assert_false(hits(&m, VA, MMU_READ));
		machine_destroy(&m);
	}
	/* Bits that mean nothing to translation flush nothing. */
	struct machine m;
	start(&m);
	touch(&m, VA, MMU_READ);
	m.paging.cr0 ^= CR0_TS | CR0_MP | CR0_NE;
	m.paging.cr4 ^= CR4_OSFXSR | CR4_FSGSBASE;
	m.paging.efer ^= EFER_SCE;
	set_paging(&m);
	g_assert_true(hits(&m, VA, MMU_READ));
	machine_destroy(&m);
}

static void test_revision_wraps(void)
{
	struct machine m;
	start(&m);
	touch(&m, VA, MMU_READ);
	u64 first = m.mmu.revision;
	map(&m, VA + 0x1000, 1, PA, PWU);
	for (unsigned i = 0; i < 5000; i++) {
		touch(&m, VA + 0x1000, MMU_READ);
		mmu_flush_all(&m.mmu);
		g_assert_cmpuint(m.mmu.revision, >=, 1);
		g_assert_cmpuint(m.mmu.revision, <=, 4095);
		if (m.mmu.revision == first)
			g_assert_false(hits(&m, VA, MMU_READ)); /* the entry of 4095 flushes ago */
	}
	machine_destroy(&m);
}

static void test_contexts_are_recycled(void)
{
	/* More address spaces than contexts: the oldest go, none is mistaken for another. */
	struct machine m;
	start(&m);
	u64 roots[100];
	for (unsigned i = 0; i < G_N_ELEMENTS(roots); i++) {
		m.paging.cr3 = roots[i] = new_table(&m);
		map(&m, VA, 1, PA + i * PAGE_SIZE, PWU);
	}
	for (unsigned round = 0; round < 3; round++)
		for (unsigned i = 0; i < G_N_ELEMENTS(roots); i++) {
			m.paging.cr3 = roots[i];
			set_pcid(&m, i + 1);
			g_assert_false(hits(&m, VA, MMU_READ));
			touch(&m, VA, MMU_READ);
			g_assert_true((u8 *)(VA + slot(&m, VA)->addend) == m.mem.host + PA + i * PAGE_SIZE);
		}
	for (unsigned i = G_N_ELEMENTS(roots) - 20; i < G_N_ELEMENTS(roots); i++) {
		m.paging.cr3 = roots[i];
		set_pcid(&m, i + 1);
		g_assert_true(hits(&m, VA, MMU_READ)); /* the last 20 are still there */
	}
	machine_destroy(&m);
}

/* --- code --- */

static void test_protect_code(void)
{
	struct machine m;
	start(&m);
	set_pcid(&m, 0);
	/* The page under two addresses, another page, two classes and two contexts. */
	map(&m, VA + 0x5000, 1, PA, PWU);
	map(&m, VA + 0x1000, 1, PA + 0x1000, PWU);
	touch(&m, VA, MMU_WRITE);
	touch(&m, VA + 0x5000, MMU_WRITE);
	touch(&m, VA + 0x1000, MMU_WRITE);
	mmu_set_class(&m.mmu, MMU_SUPERVISOR);
	touch(&m, VA, MMU_WRITE);
	set_pcid(&m, 3);
	touch(&m, VA, MMU_WRITE);

	m.mem.flags[PA >> PAGE_SHIFT] |= PAGE_HAS_CODE;
	mmu_protect_code(&m.mmu, PA + 0x10);
	g_assert_false(hits(&m, VA, MMU_WRITE));
	g_assert_true(hits(&m, VA, MMU_READ));
	touch(&m, VA, MMU_WRITE);
	g_assert_false(hits(&m, VA, MMU_WRITE)); /* nor does it come back */
	set_pcid(&m, 0);
	g_assert_false(hits(&m, VA, MMU_WRITE));
	mmu_set_class(&m.mmu, MMU_USER);
	g_assert_false(hits(&m, VA, MMU_WRITE));
	g_assert_false(hits(&m, VA + 0x5000, MMU_WRITE));
	g_assert_true(hits(&m, VA + 0x5000, MMU_EXEC));
	g_assert_true(hits(&m, VA + 0x1000, MMU_WRITE));

	/* PCID 3's entry was put aside when the page got its code. */
	mmu_set_class(&m.mmu, MMU_SUPERVISOR);
	m.mem.flags[PA >> PAGE_SHIFT] = 0;
	set_pcid(&m, 3);
	touch(&m, VA, MMU_WRITE);
	g_assert_true(hits(&m, VA, MMU_WRITE));
	set_pcid(&m, 0);
	m.mem.flags[PA >> PAGE_SHIFT] |= PAGE_HAS_CODE;
	mmu_protect_code(&m.mmu, PA);
	set_pcid(&m, 3);
	g_assert_true(hits(&m, VA, MMU_READ));
	g_assert_false(hits(&m, VA, MMU_WRITE));
	set_pcid(&m, 0);
	mmu_set_class(&m.mmu, MMU_USER);

	/* The search left the filter right: the other page is still found. */
	mmu_protect_code(&m.mmu, PA + 0x1000);
	g_assert_false(hits(&m, VA + 0x1000, MMU_WRITE));

	m.mem.flags[PA >> PAGE_SHIFT] = 0;
	touch(&m, VA, MMU_WRITE);
	g_assert_true(hits(&m, VA, MMU_WRITE));
	machine_destroy(&m);
}

static void test_protect_code_many(void)
{
	struct machine m;
	start(&m);
	for (unsigned i = 0; i < 1000; i++) {
		map(&m, VA + i * PAGE_SIZE, 1, PA + i * PAGE_SIZE, PWU);
		touch(&m, VA + i * PAGE_SIZE, MMU_WRITE);
	}
	for (unsigned i = 0; i < 1000; i += 2)
		mmu_protect_code(&m.mmu, PA + i * PAGE_SIZE);
	for (unsigned i = 0; i < 1000; i++)
		g_assert_cmpint(hits(&m, VA + i * PAGE_SIZE, MMU_WRITE), ==, i % 2 == 1);
	machine_destroy(&m);
}

/* An entry that was put aside and came back is found like any other, though its slot was noted anew in between. */
static void test_protect_code_reaches_what_came_back(void)
{
	struct machine m;
	start(&m);
	map(&m, VA, 1, PA, PWU);
	set_pcid(&m, 1);
	touch(&m, VA, MMU_WRITE);
	set_pcid(&m, 2);
	mmu_protect_code(&m.mmu, PA); /* makes what is noted exact: nothing of PCID 1 */
	set_pcid(&m, 1);
	g_assert_true(hits(&m, VA, MMU_WRITE));
	mmu_protect_code(&m.mmu, PA);
	g_assert_false(hits(&m, VA, MMU_WRITE));
	machine_destroy(&m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/tlb/fill/write-waits-for-dirty", test_fill);
	g_test_add_func("/tlb/fill/only-what-is-permitted", test_fill_rights);
	g_test_add_func("/tlb/fill/fault-fills-nothing", test_fault_fills_nothing);
	g_test_add_func("/tlb/fill/devices-never-enter", test_devices_never_enter);
	g_test_add_func("/tlb/fill/rights-and-dirty-of-both-stages", test_ept_fill);
	g_test_add_func("/tlb/fill/smap-parts-the-supervisor-tables", test_smap_tables);
	g_test_add_func("/tlb/checked-turns-the-fast-path-off-and-keeps-entries", test_checked);
	g_test_add_func("/tlb/flush/page", test_flush_page);
	g_test_add_func("/tlb/flush/page-drops-a-whole-large-page", test_flush_page_drops_a_large_page);
	g_test_add_func("/tlb/flush/large-page-in-small-ept-pages",
			test_flush_page_drops_large_page_in_small_ept_pages);
	g_test_add_func("/tlb/flush/page-reaches-globals-of-all-pcids", test_global_pages);
	g_test_add_func("/tlb/global/outlive-mov-to-cr3", test_globals_outlive_cr3);
	g_test_add_func("/tlb/global/end-with-their-page-and-registers", test_globals_end);
	g_test_add_func("/tlb/global/only-with-pge", test_g_needs_pge);
	g_test_add_func("/tlb/code/generations", test_code_generations);
	g_test_add_func("/tlb/code/supervisor-in-local-pages", test_local_supervisor_code);
	g_test_add_func("/tlb/flush/reaches-what-is-put-aside", test_flush_reaches_what_is_put_aside);
	g_test_add_func("/tlb/context/many-local-pages", test_many_local_pages);
	g_test_add_func("/tlb/flush/pcid", test_flush_pcid);
	g_test_add_func("/tlb/flush/pcid-page", test_flush_pcid_page);
	g_test_add_func("/tlb/flush/all-of-vpid", test_flush_vpid_all);
	g_test_add_func("/tlb/flush/vpid", test_flush_vpid);
	g_test_add_func("/tlb/flush/everything", test_flush_all);
	g_test_add_func("/tlb/flush/ept-by-its-address", test_flush_ept);
	g_test_add_func("/tlb/flush/register-changes", test_register_changes);
	g_test_add_func("/tlb/context/switch-keeps-entries", test_switch_keeps);
	g_test_add_func("/tlb/context/no-pcid-without-pcide", test_pcid_needs_pcide);
	g_test_add_func("/tlb/context/recycled-least-recently-used", test_contexts_are_recycled);
	g_test_add_func("/tlb/revision-wraps", test_revision_wraps);
	g_test_add_func("/tlb/code/protect-drops-every-write-entry", test_protect_code);
	g_test_add_func("/tlb/code/protect-spares-other-pages", test_protect_code_many);
	g_test_add_func("/tlb/code/protect-reaches-what-came-back", test_protect_code_reaches_what_came_back);
	return g_test_run();
}
