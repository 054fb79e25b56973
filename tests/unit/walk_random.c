/*
 * The walker against a second, plain one on random tables, registers and accesses: same answer, same fault, same bits
 * in memory afterwards. The seed is GLib's (--seed), printed by the test harness.
 */
#include "tables.h"

enum {
	GUEST_PAGES = 8, /* guest tables and data: guest-physical pages 0..7 */
	GUEST_BASE = 32, /* the host-physical page that guest page 0 is, under EPT */
	EPT_BASE = 64,
	EPT_PAGES = 6,
	CASES = 200,   /* sets of tables */
	ACCESSES = 50, /* of each set */
};

struct expected {
	enum mmu_fault_kind kind;
	u64 gpa;
	u32 error;
	u64 qualification;
	u64 l2_gpa;
	bool suppress_ve;
};

struct plain {
	u8 *ram; /* a copy that the plain walker changes */
	struct mmu_paging p;
	unsigned phys_bits;
	bool pml;
	u16 pml_index;
	struct expected e;
};

/* Rights of EPT entries: bits 2:0, and bit 10 where it is of use. */
enum { EPT_RIGHTS = 7, EPT_EXEC_USER = 0x400, PML_PAGE = EPT_BASE + EPT_PAGES };

static bool in_ram(u64 gpa)
{
	return gpa < RAM_BYTES;
}

static u64 plain_load(struct plain *t, u64 gpa, unsigned bytes)
{
	u64 v = 0;
	if (!in_ram(gpa))
		return bytes == 4 ? 0xffffffff : ~0ULL;
	memcpy(&v, t->ram + gpa, bytes);
	return v;
}

static void plain_store(struct plain *t, u64 gpa, u64 value, unsigned bytes)
{
	if (in_ram(gpa))
		memcpy(t->ram + gpa, &value, bytes);
}

static bool plain_violation(struct plain *t, u64 gpa, u64 access, u64 rights, u64 entry)
{
	t->e = (struct expected){ .kind = MMU_EPT_VIOLATION, .l2_gpa = gpa, .suppress_ve = entry >> 63 };
	t->e.qualification = (access & 3) | (access & (4 | EPT_EXEC_USER) ? 4 : 0) | (rights & 7) << 3;
	if (t->p.mbec && rights & EPT_EXEC_USER)
		t->e.qualification |= BIT(6);
	return false;
}

static bool misconfigured(struct plain *t, u64 entry, unsigned level)
{
	unsigned rights = entry & 7, type = entry >> 3 & 7;
	bool leaf = level == 1 || (level < 4 && entry & BIT(7));
	if (rights == 2 || rights == 6)
		return true;
	for (unsigned bit = t->phys_bits; bit < 52; bit++)
		if (entry & BIT(bit))
			return true;
	if (leaf && (type == 2 || type == 3 || type == 7))
		return true;
	if (level == 4 && entry & 0xf8)
		return true;
	if ((level == 3 || level == 2) && !leaf && entry & 0x78)
		return true;
	if (level == 3 && leaf && entry & 0x3ffff000)
		return true;
	return level == 2 && leaf && entry & 0x1ff000;
}

/* What EPT grants, and the entry that maps the page. */
struct rights {
	u64 bits, leaf;
};

/* EPT. access: bits 0 to 2 as in the qualification, or EPT_EXEC_USER. */
static bool plain_ept(struct plain *t, u64 gpa, u64 access, u64 *out, struct rights *r)
{
	u64 table = t->p.eptp & BITS(51, 12), rights = EPT_RIGHTS | EPT_EXEC_USER, where[4], entry = 0;
	unsigned n = 0, level = 4, shift;
	if (!t->p.eptp) {
		*out = gpa;
		*r = (struct rights){ 7, 0 };
		return true;
	}
	for (;; level--) {
		shift = 12 + 9 * (level - 1);
		where[n] = table + (gpa >> shift) % 512 * 8;
		entry = plain_load(t, where[n++], 8);
		if (!(entry & (t->p.mbec ? EPT_RIGHTS | EPT_EXEC_USER : EPT_RIGHTS)))
			return plain_violation(t, gpa, access, 0, entry);
		if (misconfigured(t, entry, level)) {
			t->e = (struct expected){ .kind = MMU_EPT_MISCONFIG, .l2_gpa = gpa };
			return false;
		}
		rights &= entry;
		if (level == 1 || (level < 4 && entry & BIT(7)))
			break;
		table = entry & BITS(51, 12);
	}
	if ((access & rights) != access)
		return plain_violation(t, gpa, access, rights, entry);
	bool logged = t->pml && t->p.eptp & BIT(6) && access & 2 && !(entry & BIT(9));
	if (logged && t->pml_index > 511) {
		t->e = (struct expected){ .kind = MMU_PML_FULL, .l2_gpa = gpa };
		return false;
	}
	if (logged)
		plain_store(t, PML_PAGE * PAGE_SIZE + 8 * t->pml_index--, gpa & PAGE_MASK, 8);
	for (unsigned i = 0; i < n && t->p.eptp & BIT(6); i++) {
		u64 v = plain_load(t, where[i], 8) | BIT(8);
		if (i == n - 1 && access & 2)
			v |= BIT(9);
		plain_store(t, where[i], v, 8);
	}
	*out = (entry & BITS(51, 12) & ~((1ULL << shift) - 1)) | (gpa & ((1ULL << shift) - 1));
	*r = (struct rights){ rights, entry };
	return true;
}

static void plain_page_fault(struct plain *t, enum mmu_access access, enum mmu_class cls, bool present, bool reserved)
{
	u32 error = 0;
	if (present)
		error |= 1;
	if (access == MMU_WRITE)
		error |= 2;
	if (cls == MMU_USER)
		error |= 4;
	if (reserved)
		error |= 8;
	if (access == MMU_EXEC)
		if ((t->p.efer & EFER_NXE && t->p.cr4 & CR4_PAE) || t->p.cr4 & CR4_SMEP)
			error |= 16;
	t->e = (struct expected){ .kind = MMU_PAGE_FAULT, .error = error };
}

static bool plain_reserved(struct plain *t, unsigned mode, u64 entry, unsigned level, bool leaf)
{
	if (modes[mode].bytes == 4) {
		if (!leaf || level == 1)
			return false;
		if (entry & BIT(21))
			return true;
		for (unsigned a = 32; a < 40; a++)
			if (a >= t->phys_bits && entry & BIT(a - 32 + 13))
				return true;
		return false;
	}
	for (unsigned bit = t->phys_bits; bit < 52; bit++)
		if (entry & BIT(bit))
			return true;
	if (mode == MODE_PAE_ && entry & BITS(62, 52))
		return true;
	if (!(t->p.efer & EFER_NXE) && entry & NX)
		return true;
	if (level >= 4 && entry & PS)
		return true;
	return leaf && ((level == 2 && entry & BITS(20, 13)) || (level == 3 && entry & BITS(29, 13)));
}

static bool plain_allowed(struct plain *t, bool w, bool u, bool nx, enum mmu_access access, enum mmu_class cls)
{
	if (access == MMU_EXEC && nx)
		return false;
	if (cls == MMU_USER)
		return u && (access != MMU_WRITE || w);
	if (access == MMU_EXEC)
		return !(u && t->p.cr4 & CR4_SMEP);
	if (u && t->p.cr4 & CR4_SMAP && cls != MMU_SUPERVISOR_AC)
		return false;
	return access == MMU_READ || w || !(t->p.cr0 & CR0_WP);
}

struct step {
	u64 l2_gpa, gpa;
	struct rights rights;
};

/* What a walk down to the leaf found. */
struct path {
	struct step steps[5];
	unsigned count, level, shift;
	u64 leaf;
	bool w, u, nx;
};

static bool plain_canonical(const struct mode *m, u64 va)
{
	if (m->levels < 4)
		return true;
	unsigned bits = m->levels == 4 ? 48 : 57;
	u64 high = va >> (bits - 1);
	return high == 0 || high == ~0ULL >> (bits - 1);
}

static bool plain_is_leaf(unsigned mode, unsigned level, u64 entry)
{
	if (level == 1)
		return true;
	if (!(entry & PS))
		return false;
	return (level == 2 && mode != MODE_32) || (level == 3 && modes[mode].levels >= 4);
}

/* Down to the leaf; false: t->e says why not. */
static bool plain_walk(struct plain *t, unsigned mode, u64 va, enum mmu_access access, enum mmu_class cls, u64 table,
		       struct path *p)
{
	const struct mode *m = &modes[mode];
	*p = (struct path){ .w = true, .u = true };
	for (p->level = m->levels;; p->level--) {
		p->shift = 12 + (p->level - 1) * m->index_bits;
		struct step *s = &p->steps[p->count++];
		s->l2_gpa = table + (va >> p->shift) % (1u << m->index_bits) * m->bytes;
		if (!plain_ept(t, s->l2_gpa, t->p.eptp & BIT(6) ? 3 : 1, &s->gpa, &s->rights)) {
			if (t->e.kind == MMU_EPT_VIOLATION)
				t->e.qualification |= BIT(7);
			return false;
		}
		u64 entry = plain_load(t, s->gpa, m->bytes);
		bool leaf = plain_is_leaf(mode, p->level, entry);
		if (!(entry & 1) || plain_reserved(t, mode, entry, p->level, leaf)) {
			plain_page_fault(t, access, cls, entry & 1, entry & 1);
			return false;
		}
		p->w = p->w && entry & W;
		p->u = p->u && entry & U;
		p->nx = p->nx || (m->bytes == 8 && entry & NX);
		p->leaf = entry;
		if (leaf)
			return true;
		table = entry & (m->bytes == 4 ? 0xfffff000 : BITS(51, 12));
	}
}

/* Accessed and dirty bits; false: stage 2 does not let the table be written. */
static bool plain_mark(struct plain *t, const struct path *p, unsigned bytes, enum mmu_access access)
{
	for (unsigned i = 0; i < p->count; i++) {
		u64 old = plain_load(t, p->steps[i].gpa, bytes), now = old | A;
		if (i == p->count - 1 && access == MMU_WRITE)
			now |= D;
		if (old == now)
			continue;
		if (!(p->steps[i].rights.bits & 2)) {
			plain_violation(t, p->steps[i].l2_gpa, 3, p->steps[i].rights.bits, p->steps[i].rights.leaf);
			t->e.qualification |= BIT(7);
			return false;
		}
		plain_store(t, p->steps[i].gpa, now, bytes);
	}
	return true;
}

static void plain_translate(struct plain *t, unsigned mode, u64 va, enum mmu_access access, enum mmu_class cls)
{
	const struct mode *m = &modes[mode];
	u64 table = t->p.cr3 & ~0xfffULL;
	struct rights rights;
	struct path p;
	if (!plain_canonical(m, va)) {
		t->e = (struct expected){ .kind = MMU_NOT_CANONICAL };
		return;
	}
	if (mode == MODE_PAE_) {
		u64 pdpte = t->p.pdpte[va >> 30 & 3];
		if (!(pdpte & 1)) {
			plain_page_fault(t, access, cls, false, false);
			return;
		}
		table = pdpte & BITS(51, 12);
	}
	if (!plain_walk(t, mode, va, access, cls, table, &p))
		return;
	if (!plain_allowed(t, p.w, p.u, p.nx, access, cls)) {
		plain_page_fault(t, access, cls, true, false);
		return;
	}
	if (!plain_mark(t, &p, m->bytes, access))
		return;
	u64 offset_mask = (1ULL << p.shift) - 1;
	u64 page = p.leaf & (m->bytes == 4 ? 0xfffff000 : BITS(51, 12)) & ~offset_mask;
	if (m->bytes == 4 && p.level == 2)
		page |= (p.leaf >> 13 & 0xff) << 32;
	u64 l2_gpa = page | (va & offset_mask);
	t->e = (struct expected){ .kind = MMU_OK, .l2_gpa = l2_gpa };
	u64 kind = access == MMU_READ ? 1 : access == MMU_WRITE ? 2 : t->p.mbec && p.u ? EPT_EXEC_USER : 4;
	if (!plain_ept(t, l2_gpa, kind, &t->e.gpa, &rights) && t->e.kind == MMU_EPT_VIOLATION)
		t->e.qualification |= BIT(7) | BIT(8) | (p.u ? BIT(9) : 0) | (p.w ? BIT(10) : 0) | (p.nx ? BIT(11) : 0);
}

/* --- random tables --- */

static u64 random64(void)
{
	return (u64)(u32)g_test_rand_int() << 32 | (u32)g_test_rand_int();
}

static bool chance(unsigned one_in)
{
	return g_test_rand_int_range(0, (i32)one_in) == 0;
}

/* Mostly present and pointing into the guest's few pages, now and then anything. */
static u64 random_entry(unsigned mode)
{
	u64 page = (u64)g_test_rand_int_range(0, GUEST_PAGES) << 12;
	u64 entry = page | (random64() & 0xe78) | (chance(16) ? 0 : P) | (chance(6) ? 0 : W) | (chance(6) ? 0 : U);
	if (chance(6))
		entry |= PS;
	if (chance(24))
		entry |= BIT(g_test_rand_int_range(12, 64));
	if (modes[mode].bytes == 8 && chance(12))
		entry |= NX;
	if (entry & PS && !chance(4))
		entry &= ~BITS(29, 13);
	return chance(40) ? random64() : entry;
}

/* An entry of EPT page 0, 1, 2 (levels 4 to 2, each pointing one page on), or 3 and up (level 1). */
static u64 random_ept_entry(unsigned page)
{
	u64 entry = (chance(24) ? random64() & 7 : 7) | (random64() & BITS(11, 8));
	if (page >= 3)
		entry |= (u64)(GUEST_BASE + g_test_rand_int_range(0, GUEST_PAGES)) << 12 |
			 (chance(60) ? (random64() & 7) << 3 : EWB);
	else if (page && chance(20))
		entry |= PS | EWB;
	else
		entry |= (u64)(EPT_BASE + (page < 2 ? page + 1 : (unsigned)g_test_rand_int_range(3, EPT_PAGES))) << 12;
	if (chance(6))
		entry ^= EPT_EXEC_USER;
	if (chance(3))
		entry |= BIT(63);
	return entry | (chance(100) ? BIT(g_test_rand_int_range(3, 52)) : 0);
}

static void random_tables(struct machine *m, unsigned mode, bool ept)
{
	u64 base = ept ? GUEST_BASE : 0;
	for (u64 gpa = base << 12; gpa < (base + GUEST_PAGES) << 12; gpa += m->mode->bytes)
		entry_put(m, gpa, random_entry(mode));
	for (unsigned page = 0; ept && page < EPT_PAGES; page++)
		for (unsigned i = 0; i < 512; i++)
			mem_write_u64(&m->mem, (EPT_BASE + page) * PAGE_SIZE + i * 8, random_ept_entry(page));
}

static void random_registers(struct machine *m, unsigned mode, bool ept)
{
	static const u64 cr4_bits[] = { CR4_SMEP, CR4_SMAP };
	m->paging.cr0 = CR0_PE | CR0_PG | (chance(2) ? CR0_WP : 0);
	m->paging.cr4 = m->mode->cr4;
	for (unsigned i = 0; i < G_N_ELEMENTS(cr4_bits); i++)
		if (chance(3))
			m->paging.cr4 |= cr4_bits[i];
	m->paging.efer = m->mode->efer & ~(chance(3) ? EFER_NXE : 0);
	m->paging.cr3 = (u64)g_test_rand_int_range(0, GUEST_PAGES) << 12;
	for (unsigned i = 0; i < 4; i++)
		m->paging.pdpte[i] = (u64)g_test_rand_int_range(0, GUEST_PAGES) << 12 | (chance(8) ? 0 : P);
	m->paging.eptp = ept ? EPT_BASE * PAGE_SIZE | 3 << 3 | 6 | (chance(2) ? EPT_AD_ON : 0) : 0;
	m->paging.vpid = ept;
	m->paging.mbec = ept && chance(2);
	set_paging(m);
	mmu_flush_all(&m->mmu);
}

static u64 random_va(void)
{
	u64 va = random64();
	return chance(10) ? va : chance(2) ? sign_extend(va, 48) : va & 0x7fffffffffff;
}

static void compare(struct machine *m, struct plain *t, unsigned mode)
{
	u64 va = random_va();
	if (m->mode->levels < 4)
		va = (u32)va;
	enum mmu_access access = (enum mmu_access)g_test_rand_int_range(0, 3);
	enum mmu_class cls = (enum mmu_class)g_test_rand_int_range(0, MMU_CLASSES);
	t->e = (struct expected){ 0 };
	plain_translate(t, mode, va, access, cls);
	struct mmu_result r = mmu_translate(&m->mmu, va, access, cls);
	g_assert_cmpint(r.kind, ==, t->e.kind);
	if (r.kind == MMU_OK)
		g_assert_cmphex(r.gpa, ==, t->e.gpa);
	if (r.kind == MMU_PAGE_FAULT)
		g_assert_cmphex(r.error_code, ==, t->e.error);
	if (r.kind == MMU_EPT_VIOLATION)
		g_assert_cmphex(r.qualification, ==, t->e.qualification);
	if (r.kind == MMU_EPT_VIOLATION)
		g_assert_cmpint(r.suppress_ve, ==, t->e.suppress_ve);
	if (r.kind == MMU_PML_FULL || r.kind == MMU_EPT_VIOLATION || r.kind == MMU_EPT_MISCONFIG)
		g_assert_cmphex(r.l2_gpa, ==, t->e.l2_gpa);
}

static unsigned seen[MMU_NOT_CANONICAL + 1];

static void run_case(unsigned mode, bool ept)
{
	struct machine m;
	machine_init(&m, mode);
	mmu_destroy(&m.mmu);
	unsigned phys_bits = (unsigned)g_test_rand_int_range(34, 47);
	g_assert_cmpint(mmu_init(&m.mmu, &m.mem, &m.counters, phys_bits), ==, 0);
	random_tables(&m, mode, ept);
	random_registers(&m, mode, ept);
	const u64 tables = (PML_PAGE + 1) * PAGE_SIZE;
	struct plain t = { .ram = g_malloc0(RAM_BYTES), .p = m.paging, .phys_bits = phys_bits };
	u16 pml_index = (u16)g_test_rand_int_range(-1, 2);
	if (ept && chance(2)) {
		t.pml = true;
		t.pml_index = pml_index;
		m.mmu.pml_index = &pml_index;
		m.mmu.pml_log = PML_PAGE * PAGE_SIZE;
	}
	memcpy(t.ram, m.mem.host, tables);
	for (unsigned i = 0; i < ACCESSES; i++) {
		compare(&m, &t, mode);
		seen[t.e.kind]++;
		g_assert_true(!memcmp(t.ram, m.mem.host, tables));
	}
	g_free(t.ram);
	machine_destroy(&m);
}

static void test_random(gconstpointer data)
{
	unsigned mode = GPOINTER_TO_UINT(data) / 2;
	bool ept = GPOINTER_TO_UINT(data) & 1;
	memset(seen, 0, sizeof seen);
	for (unsigned i = 0; i < CASES / MODE_COUNT; i++)
		run_case(mode, ept);
	g_test_message("%u translated, %u page faults, %u violations, %u misconfigurations", seen[MMU_OK],
		       seen[MMU_PAGE_FAULT], seen[MMU_EPT_VIOLATION], seen[MMU_EPT_MISCONFIG]);
	/* The tables are of use only if every answer comes up. */
	g_assert_cmpuint(seen[MMU_OK], >, 100);
	g_assert_cmpuint(seen[MMU_PAGE_FAULT], >, 100);
	if (ept) {
		g_assert_cmpuint(seen[MMU_EPT_VIOLATION], >, 0);
		g_assert_cmpuint(seen[MMU_EPT_MISCONFIG], >, 0);
		g_assert_cmpuint(seen[MMU_PML_FULL], >, 0);
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	for (unsigned i = 0; i < 2 * MODE_COUNT; i++) {
		g_autofree char *path =
			g_strdup_printf("/walk-random/%s%s", modes[i / 2].name, i & 1 ? "-under-ept" : "");
		g_test_add_data_func(path, GUINT_TO_POINTER(i), test_random);
	}
	return g_test_run();
}
