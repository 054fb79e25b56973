#include "mmu/mmu.h"

#include "base/trace.h"
#include "mmu/walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
	CONTEXTS = 32,
	REVISION_MAX = 4095, /* bits 11:0 of a tag */
	WRITE_FILTER = 4096, /* bits; at most TLB_ENTRIES of them are set by live entries */
	LARGE_FILTER = 256,
};

/* A set of small numbers that may answer yes for one that was never added. */
#define FILTER_WORDS(bits) ((bits) / 64)

static unsigned filter_bit(u64 key, unsigned bits)
{
	return (unsigned)((key * 0x9e3779b97f4a7c15ULL) >> 40) % bits;
}

static void filter_add(u64 *filter, unsigned bits, u64 key)
{
	unsigned n = filter_bit(key, bits);
	filter[n / 64] |= BIT(n % 64);
}

static bool filter_has(const u64 *filter, unsigned bits, u64 key)
{
	unsigned n = filter_bit(key, bits);
	return filter[n / 64] >> (n % 64) & 1;
}

struct mmu_context {
	/* Key. */
	u64 eptp;
	u16 vpid, pcid;
	bool used;
	bool filled;   /* something entered since the last flush */
	u64 registers; /* what of CR0, CR4, EFER its entries depend on, packed */
	u64 apic_page; /* the same of struct mmu_paging */
	u64 revision;
	u64 generation; /* see struct mmu */
	u64 last_used;  /* mmu->clock */
	/* RAM pages with write tags, per class: tells mmu_protect_code which tables to search. */
	u64 writes[MMU_CLASSES][FILTER_WORDS(WRITE_FILTER)];
	/*
	 * Large pages that entries are pieces of, by address and size. INVLPG of any address in a large page must drop
	 * all pieces; where this filter knows the page, the whole context is flushed.
	 */
	u64 large[FILTER_WORDS(LARGE_FILTER)];
	struct tlb_entry *tables; /* MMU_CLASSES of TLB_ENTRIES */
};

static struct tlb_entry *class_table(const struct mmu_context *c, enum mmu_class cls)
{
	return c->tables + (size_t)cls * TLB_ENTRIES;
}

/* Without SMAP the two supervisor classes have the same rights, and share a table. */
static enum mmu_class effective_class(const struct mmu *mmu, enum mmu_class cls)
{
	return cls == MMU_SUPERVISOR_AC && !(mmu->paging.cr4 & CR4_SMAP) ? MMU_SUPERVISOR : cls;
}

static struct tlb_entry *empty_table(const struct mmu *mmu)
{
	return mmu->tables + (size_t)CONTEXTS * MMU_CLASSES * TLB_ENTRIES;
}

/* Points the fast path at the current context and class. */
static void select_tables(struct mmu *mmu)
{
	const struct mmu_context *c = mmu->context;
	mmu->revision = c->revision;
	mmu->generation = c->generation;
	mmu->tlb = mmu->checked ? empty_table(mmu) : class_table(c, effective_class(mmu, mmu->cls));
	mmu->system = mmu->checked ? empty_table(mmu) : class_table(c, MMU_SUPERVISOR);
}

/* What others cached of this context's translations is no longer good. */
static void renew_generation(struct mmu *mmu, struct mmu_context *c)
{
	c->generation = ++mmu->last_generation;
	if (c == mmu->context)
		mmu->generation = c->generation;
}

static void flush_context(struct mmu *mmu, struct mmu_context *c)
{
	renew_generation(mmu, c);
	if (!c->filled)
		return;
	mmu->counters->tlb_flushes++;
	TRACE(mmu, "flush of vpid %u, pcid %u, eptp %#llx", c->vpid, c->pcid, (unsigned long long)c->eptp);
	c->filled = false;
	memset(c->writes, 0, sizeof c->writes);
	memset(c->large, 0, sizeof c->large);
	if (c->revision == REVISION_MAX) {
		memset(c->tables, 0, sizeof(struct tlb_entry) * MMU_CLASSES * TLB_ENTRIES);
		c->revision = 0;
	}
	c->revision++;
	if (c == mmu->context)
		mmu->revision = c->revision;
}

int mmu_init(struct mmu *mmu, struct mem *mem, struct counters *counters, unsigned phys_bits)
{
	*mmu = (struct mmu){ .mem = mem, .counters = counters, .phys_bits = phys_bits };
	size_t table_bytes = sizeof(struct tlb_entry) * TLB_ENTRIES;
	mmu->contexts = calloc(CONTEXTS, sizeof *mmu->contexts);
	mmu->formats = calloc(1, sizeof *mmu->formats);
	mmu->tables = aligned_alloc(PAGE_SIZE, table_bytes * (CONTEXTS * MMU_CLASSES + 1));
	if (!mmu->contexts || !mmu->formats || !mmu->tables) {
		mmu_destroy(mmu);
		return -ENOMEM;
	}
	memset(mmu->tables, 0, table_bytes * (CONTEXTS * MMU_CLASSES + 1));
	for (unsigned i = 0; i < CONTEXTS; i++) {
		mmu->contexts[i].tables = mmu->tables + (size_t)i * MMU_CLASSES * TLB_ENTRIES;
		mmu->contexts[i].revision = 1;
		mmu->contexts[i].generation = ++mmu->last_generation;
	}
	format_prepare(&mmu->formats->stage1, FORMAT_NONE, phys_bits, false);
	format_prepare(&mmu->formats->stage2, FORMAT_EPT, phys_bits, false);
	mmu->formats->stage2_id = FORMAT_EPT;
	mmu->context = &mmu->contexts[0];
	mmu->context->used = true;
	select_tables(mmu);
	return 0;
}

void mmu_destroy(struct mmu *mmu)
{
	free(mmu->contexts);
	free(mmu->formats);
	free(mmu->tables);
	*mmu = (struct mmu){ 0 };
}

/*
 * The bits that decide formats and rights have places of their own in CR0 (16, 31), CR4 (below 32) and EFER (8..11); 40
 * is free.
 */
static u64 registers_of(const struct mmu_paging *p)
{
	return (p->cr0 & PAGING_CR0) << 32 | (p->cr4 & PAGING_CR4) | (p->efer & PAGING_EFER) << 24 | (u64)p->mbec << 40;
}

static struct mmu_context *find_context(struct mmu *mmu, u16 vpid, u64 eptp, u16 pcid)
{
	struct mmu_context *oldest = &mmu->contexts[0];
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++) {
		if (c->used && c->vpid == vpid && c->pcid == pcid && c->eptp == eptp)
			return c;
		if (!c->used || c->last_used < oldest->last_used)
			oldest = c;
	}
	flush_context(mmu, oldest);
	oldest->used = true;
	oldest->vpid = vpid;
	oldest->pcid = pcid;
	oldest->eptp = eptp;
	return oldest;
}

static void switch_context(struct mmu *mmu, u16 vpid, u64 eptp, u16 pcid)
{
	struct mmu_context *c = mmu->context;
	if (c->vpid == vpid && c->pcid == pcid && c->eptp == eptp)
		return;
	mmu->context->last_used = ++mmu->clock;
	mmu->context = find_context(mmu, vpid, eptp, pcid);
	mmu->counters->context_switches++;
}

void mmu_set_paging(struct mmu *mmu, const struct mmu_paging *paging)
{
	struct mmu_formats *f = mmu->formats;
	mmu->paging = *paging;
	enum format_id id = format_of(paging);
	bool nxe = paging->efer & EFER_NXE;
	if (id != f->stage1_id || nxe != f->stage1_nxe) {
		format_prepare(&f->stage1, id, mmu->phys_bits, nxe);
		f->stage1_id = id;
		f->stage1_nxe = nxe;
	}
	id = format_of_eptp(paging->eptp);
	if (paging->eptp && (id != f->stage2_id || paging->mbec != f->stage2_mbec)) {
		format_prepare(&f->stage2, id, mmu->phys_bits, paging->mbec);
		f->stage2_id = id;
		f->stage2_mbec = paging->mbec;
	}
	u16 pcid = paging->cr4 & CR4_PCIDE ? paging->cr3 & 0xfff : 0;
	switch_context(mmu, paging->vpid, paging->eptp, pcid);
	u64 registers = registers_of(paging);
	if (mmu->context->registers != registers || mmu->context->apic_page != paging->apic_page) {
		flush_context(mmu, mmu->context);
		mmu->context->registers = registers;
		mmu->context->apic_page = paging->apic_page;
	}
	select_tables(mmu);
}

void mmu_set_class(struct mmu *mmu, enum mmu_class cls)
{
	mmu->cls = cls;
	select_tables(mmu);
}

void mmu_set_checked(struct mmu *mmu, bool checked)
{
	mmu->checked = checked;
	select_tables(mmu);
}

/* Enters a translation of a RAM page. */
static void fill(struct mmu *mmu, u64 va, enum mmu_class cls, const struct translation *t)
{
	struct mmu_context *c = mmu->context;
	cls = effective_class(mmu, cls);
	u64 page = t->result.ram_offset >> PAGE_SHIFT;
	u64 tag = (va & PAGE_MASK) | c->revision;
	bool write = t->write && t->dirty && !(mmu->mem->flags[page] & PAGE_HAS_CODE);
	class_table(c, cls)[tlb_index(va)] = (struct tlb_entry){
		.read = t->read ? tag : 0,
		.write = write ? tag : 0,
		.exec = t->exec ? tag : 0,
		.addend = (u64)(mmu->mem->host + t->result.ram_offset) - va,
	};
	c->filled = true;
	if (write)
		filter_add(c->writes[cls], WRITE_FILTER, page);
	if (t->stage1_shift > PAGE_SHIFT)
		filter_add(c->large, LARGE_FILTER, (va >> t->stage1_shift) * 64 + t->stage1_shift);
}

struct mmu_result mmu_translate(struct mmu *mmu, u64 va, enum mmu_access access, enum mmu_class cls)
{
	struct translation t;
	mmu->counters->tlb_misses++;
	walk_translate(mmu, va, access, cls, false, &t);
	if (unlikely(t.result.kind != MMU_OK))
		TRACE(mmu, "va %#llx access %d class %d: fault kind %d, error code %#x, qualification %#llx, gpa %#llx",
		      (unsigned long long)va, access, cls, t.result.kind, t.result.error_code,
		      (unsigned long long)t.result.qualification, (unsigned long long)t.result.l2_gpa);
	else if (t.result.ram_offset != RAM_OFFSET_NONE)
		fill(mmu, va, cls, &t);
	return t.result;
}

/* Drops one address from a context, and what else a large page there may have brought in. */
static void flush_context_page(struct mmu *mmu, struct mmu_context *c, u64 va)
{
	static const u8 large_shifts[] = { 21, 22, 30 };
	if (!c->filled)
		return;
	renew_generation(mmu, c);
	for (unsigned i = 0; i < ARRAY_SIZE(large_shifts); i++) {
		unsigned shift = large_shifts[i];
		if (filter_has(c->large, LARGE_FILTER, (va >> shift) * 64 + shift)) {
			flush_context(mmu, c);
			return;
		}
	}
	for (unsigned cls = 0; cls < MMU_CLASSES; cls++) {
		struct tlb_entry *e = &class_table(c, cls)[tlb_index(va)];
		u64 tag = (va & PAGE_MASK) | c->revision;
		if (e->read == tag || e->write == tag || e->exec == tag)
			*e = (struct tlb_entry){ 0 };
	}
}

/*
 * Global pages: entries do not remember that their page is global, so whatever must reach global pages reaches every
 * PCID, and whatever may spare them does not. The architecture allows dropping too much at any time.
 */
void mmu_flush_page(struct mmu *mmu, u64 va)
{
	mmu_flush_vpid_page(mmu, mmu->paging.vpid, va);
}

void mmu_flush_vpid_page(struct mmu *mmu, u16 vpid, u64 va)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		if (c->used && c->vpid == vpid)
			flush_context_page(mmu, c, va);
}

void mmu_flush_pcid_page(struct mmu *mmu, u16 pcid, u64 va)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		if (c->used && c->vpid == mmu->paging.vpid && c->pcid == pcid)
			flush_context_page(mmu, c, va);
}

void mmu_flush_pcid(struct mmu *mmu, u16 pcid, bool globals)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		if (c->used && c->vpid == mmu->paging.vpid && (globals || c->pcid == pcid))
			flush_context(mmu, c);
}

void mmu_flush_vpid(struct mmu *mmu, u16 vpid, bool globals)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		if (c->used && c->vpid == vpid)
			flush_context(mmu, c);
}

void mmu_flush_vpid_all(struct mmu *mmu, bool globals)
{
	mmu_flush_vpid(mmu, mmu->paging.vpid, globals);
}

void mmu_flush_ept(struct mmu *mmu, u64 eptp)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		if (c->used && c->eptp && !((c->eptp ^ eptp) & EPTP_ADDRESS))
			flush_context(mmu, c);
}

void mmu_flush_all(struct mmu *mmu)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		flush_context(mmu, c);
}

/* Drops the write tags of a RAM page from one table, and makes the filter exact again. */
static void protect_in_table(struct mmu *mmu, struct mmu_context *c, enum mmu_class cls, u64 page)
{
	struct tlb_entry *table = class_table(c, cls);
	memset(c->writes[cls], 0, sizeof c->writes[cls]);
	for (unsigned i = 0; i < TLB_ENTRIES; i++) {
		struct tlb_entry *e = &table[i];
		if ((e->write & ~PAGE_MASK) != c->revision)
			continue;
		u64 host = (e->write & PAGE_MASK) + e->addend;
		u64 found = (host - (u64)mmu->mem->host) >> PAGE_SHIFT;
		if (found == page)
			e->write = 0;
		else
			filter_add(c->writes[cls], WRITE_FILTER, found);
	}
}

void mmu_protect_code(struct mmu *mmu, u64 ram_offset)
{
	u64 page = ram_offset >> PAGE_SHIFT;
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		for (unsigned cls = 0; c->filled && cls < MMU_CLASSES; cls++)
			if (filter_has(c->writes[cls], WRITE_FILTER, page))
				protect_in_table(mmu, c, cls, page);
}
