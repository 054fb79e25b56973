#include "mmu/mmu.h"

#include "base/trace.h"
#include "mmu/walk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
	CONTEXTS = 16,
	SPACES = 32,
	SAVED_MAX = 512,     /* entries of one space */
	REVISION_MAX = 4095, /* bits 11:0 of a tag */
	/* Bits. */
	LARGE_FILTER = 2048,
	CODE_FILTER = 2048,
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

/*
 * What others cached of a context's code: its generation (see struct mmu), and the pages that have it. The two halves
 * of the address space have filters of their own, so that no INVLPG of a process's page takes its kernel's code along.
 */
struct code_cache {
	u64 generation;
	u64 pages[2][FILTER_WORDS(CODE_FILTER)];
};

static void code_add(struct code_cache *code, u64 va)
{
	filter_add(code->pages[va >> 63], CODE_FILTER, va >> PAGE_SHIFT);
}

static bool code_has(const struct code_cache *code, u64 va)
{
	return filter_has(code->pages[va >> 63], CODE_FILTER, va >> PAGE_SHIFT);
}

/* Copies of a context's entries: see struct mmu_copies. */
struct copy_cache {
	u64 stamp;
	u8 pages[COPY_PAGES];
};

struct mmu_context {
	/* Key. */
	u64 eptp;
	u16 vpid;
	u16 pcid; /* whose entries are in the tables, beside the global ones */
	bool used;
	bool filled;               /* something entered since the last flush */
	u64 registers;             /* what of CR0, CR4, EFER its entries depend on, packed */
	u64 apic_page;             /* the same of struct mmu_paging */
	u64 key_rights, keys_used; /* the same, and of that the bits that entries depend on */
	u64 revision;
	u64 last_used; /* mmu->clock */
	struct code_cache user, supervisor;
	bool local_code; /* the supervisor's code is not in global pages alone */
	struct copy_cache user_copies, supervisor_copies;
	bool local_copies; /* the supervisor's may be of entries that are not global */
	/*
	 * The supervisor uses hardly any pages that are not global: those are not to be copied, for each change of the
	 * address space would invalidate all copies for their sake.
	 */
	bool spare_local;
	/* Entries of pages that are not global, if they are anything. */
	u64 local[MMU_CLASSES][TLB_ENTRIES / 64];
	/* RAM pages with write tags, per class and 64 entries: tells mmu_protect_code where to search. */
	u64 writes[MMU_CLASSES][TLB_ENTRIES / 64];
	/*
	 * Large pages that entries are pieces of, by address and size. INVLPG of any address in a large page must drop
	 * all pieces; where this filter knows the page, the whole context is flushed.
	 */
	u64 large[FILTER_WORDS(LARGE_FILTER)];
	struct tlb_entry *tables; /* MMU_CLASSES of TLB_ENTRIES */
};

/* The local entries of another PCID of a context, put aside until it comes back; as many as fit. */
struct mmu_space {
	struct mmu_context *context; /* NULL: free */
	u16 pcid;
	u16 count;
	u64 last_used;   /* mmu->clock */
	u64 protections; /* mmu->protections when they were put aside */
	struct code_cache user;
	u64 copies; /* the stamp of user_copies */
	struct saved_entry {
		struct tlb_entry entry;
		u16 index;
		u16 cls;
	} saved[SAVED_MAX];
};

#define TABLES_BYTES (sizeof(struct tlb_entry) * TLB_ENTRIES * (CONTEXTS * MMU_CLASSES + 1))

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

/* Of 48 bits. What was copied without checks is not good with them; and nothing is copied then. */
#define CHECKED_STAMP BIT(47)

static void select_class(struct mmu *mmu)
{
	const struct mmu_of_class *of = &mmu->of_class[mmu->cls];
	mmu->generation = of->generation;
	mmu->tlb = of->tlb;
	mmu->stamp.low = (u32)of->stamp;
	mmu->stamp.high = (u16)(of->stamp >> 32);
	mmu->copies.pages = of->pages;
}

static void forget_stack(struct mmu *mmu, bool user)
{
	struct mmu_copy *stack = user == (mmu->cls == MMU_USER) ? &mmu->stack : &mmu->other_stack;
	stack->page = mmu->stack_before[user].page = mmu->nowhere;
}

void mmu_set_nowhere(struct mmu *mmu, u64 page)
{
	mmu->nowhere = page;
	forget_stack(mmu, false);
	forget_stack(mmu, true);
}

static const u64 no_entries[TLB_ENTRIES / 64];

/* Points the fast path at the current context and class. */
static void select_tables(struct mmu *mmu)
{
	struct mmu_context *c = mmu->context;
	mmu->revision = c->revision;
	for (unsigned cls = 0; cls < MMU_CLASSES; cls++) {
		/* With EFLAGS.AC, too, for that changes too often to renew a stamp: see mmu_may_copy(). */
		struct copy_cache *copies = cls == MMU_USER ? &c->user_copies : &c->supervisor_copies;
		u64 stamp = copies->stamp | (mmu->checked ? CHECKED_STAMP : 0);
		if (mmu->of_class[cls].stamp != stamp)
			forget_stack(mmu, cls == MMU_USER);
		mmu->of_class[cls] = (struct mmu_of_class){
			.tlb = mmu->checked ? empty_table(mmu) : class_table(c, effective_class(mmu, cls)),
			.generation = cls == MMU_USER ? c->user.generation : c->supervisor.generation,
			.stamp = stamp,
			.pages = copies->pages,
		};
	}
	mmu->system = mmu->of_class[MMU_SUPERVISOR].tlb;
	mmu->copies.spared = c->spare_local ? c->local[MMU_SUPERVISOR] : no_entries;
	select_class(mmu);
}

static void renew_copies(struct mmu *mmu, struct copy_cache *copies)
{
	copies->stamp = ++mmu->last_stamp;
	memset(copies->pages, 0, sizeof copies->pages);
}

static void renew_all_copies(struct mmu *mmu, struct mmu_context *c)
{
	renew_copies(mmu, &c->user_copies);
	renew_copies(mmu, &c->supervisor_copies);
}

void mmu_renew_copies(struct mmu *mmu)
{
	renew_all_copies(mmu, mmu->context);
	select_tables(mmu);
}

/*
 * What others cached of these translations is no longer good. Nor are copies of entries then: who keeps both need look
 * at the copies' stamp alone.
 */
static void renew_code(struct mmu *mmu, struct code_cache *code, struct copy_cache *copies)
{
	code->generation = ++mmu->last_generation;
	memset(code->pages, 0, sizeof code->pages);
	renew_copies(mmu, copies);
}

static void renew_user_code(struct mmu *mmu, struct mmu_context *c)
{
	renew_code(mmu, &c->user, &c->user_copies);
}

static void renew_supervisor_code(struct mmu *mmu, struct mmu_context *c)
{
	renew_code(mmu, &c->supervisor, &c->supervisor_copies);
	c->local_code = false;
}

static void drop_spaces(struct mmu *mmu, const struct mmu_context *c)
{
	for (struct mmu_space *s = mmu->spaces; s < mmu->spaces + SPACES; s++)
		if (s->context == c)
			s->context = NULL;
}

static void flush_context(struct mmu *mmu, struct mmu_context *c)
{
	drop_spaces(mmu, c);
	renew_user_code(mmu, c);
	renew_supervisor_code(mmu, c);
	if (c->filled) {
		c->local_copies = false;
		mmu->counters->tlb_flushes++;
		TRACE(mmu, "flush of vpid %u, eptp %#llx", c->vpid, (unsigned long long)c->eptp);
		c->filled = false;
		c->keys_used = 0;
		memset(c->local, 0, sizeof c->local);
		memset(c->writes, 0, sizeof c->writes);
		memset(c->large, 0, sizeof c->large);
		if (c->revision == REVISION_MAX) {
			memset(c->tables, 0, sizeof(struct tlb_entry) * MMU_CLASSES * TLB_ENTRIES);
			c->revision = 0;
		}
		c->revision++;
	}
	if (c == mmu->context)
		select_tables(mmu);
}

int mmu_init(struct mmu *mmu, struct mem *mem, struct counters *counters, unsigned phys_bits)
{
	*mmu = (struct mmu){ .mem = mem, .counters = counters, .phys_bits = phys_bits };
	mmu->contexts = calloc(CONTEXTS, sizeof *mmu->contexts);
	mmu->spaces = calloc(SPACES, sizeof *mmu->spaces);
	mmu->formats = calloc(1, sizeof *mmu->formats);
	/* Zeros that cost nothing until they are used: each CPU has this many tables, and few guests use all. */
	mmu->copies.writable = calloc(1, COPY_PAGES);
	mmu->tables = mmap(NULL, TABLES_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (mmu->tables == MAP_FAILED)
		mmu->tables = NULL;
	if (!mmu->contexts || !mmu->spaces || !mmu->formats || !mmu->copies.writable || !mmu->tables) {
		mmu_destroy(mmu);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < CONTEXTS; i++) {
		struct mmu_context *c = &mmu->contexts[i];
		c->tables = mmu->tables + (size_t)i * MMU_CLASSES * TLB_ENTRIES;
		c->revision = 1;
		renew_user_code(mmu, c);
		renew_supervisor_code(mmu, c);
	}
	format_prepare(&mmu->formats->stage1, FORMAT_NONE, phys_bits, false);
	format_prepare(&mmu->formats->stage2, FORMAT_EPT, phys_bits, false);
	mmu->context = &mmu->contexts[0];
	mmu->context->used = true;
	select_tables(mmu);
	return 0;
}

void mmu_destroy(struct mmu *mmu)
{
	free(mmu->contexts);
	free(mmu->spaces);
	free(mmu->formats);
	free(mmu->copies.writable);
	if (mmu->tables)
		munmap(mmu->tables, TABLES_BYTES);
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

/* --- address spaces of a context --- */

static u64 page_of_entry(const struct mmu *mmu, u64 tag, const struct tlb_entry *e)
{
	return ((tag & PAGE_MASK) + e->addend - (u64)mmu->mem->host) >> PAGE_SHIFT;
}

static bool is_live(const struct mmu_context *c, const struct tlb_entry *e)
{
	u64 tag = e->read ? e->read : e->write ? e->write : e->exec;
	return (tag & ~PAGE_MASK) == c->revision;
}

/* All entries that are not global are about to go. */
static void decide_copies(struct mmu_context *c)
{
	enum { FEW = 8 };
	unsigned entries = 0;
	for (unsigned word = 0; word < ARRAY_SIZE(c->local[MMU_SUPERVISOR]); word++)
		entries += (unsigned)__builtin_popcountll(c->local[MMU_SUPERVISOR][word]);
	c->spare_local = entries <= FEW;
}

/* Empties the tables of all entries that are not global, and gives them to `space` if it is not NULL. */
static void take_local(struct mmu *mmu, struct mmu_context *c, struct mmu_space *space)
{
	decide_copies(c);
	renew_copies(mmu, &c->user_copies);
	if (c->local_copies)
		renew_copies(mmu, &c->supervisor_copies);
	c->local_copies = false;
	for (unsigned cls = MMU_CLASSES; cls-- > 0;)
		for (unsigned word = 0; word < ARRAY_SIZE(c->local[cls]); word++)
			for (; c->local[cls][word]; c->local[cls][word] &= c->local[cls][word] - 1) {
				unsigned index = word * 64 + (unsigned)__builtin_ctzll(c->local[cls][word]);
				struct tlb_entry *e = &class_table(c, cls)[index];
				if (space && space->count < SAVED_MAX && is_live(c, e))
					space->saved[space->count++] = (struct saved_entry){ *e, (u16)index, (u16)cls };
				*e = (struct tlb_entry){ 0 };
			}
}

/* MOV to CR3, INVPCID: what is not global goes. */
static void flush_local(struct mmu *mmu, struct mmu_context *c)
{
	mmu->counters->tlb_flushes++;
	take_local(mmu, c, NULL);
	renew_user_code(mmu, c);
	if (c->local_code)
		renew_supervisor_code(mmu, c);
	if (c == mmu->context)
		select_tables(mmu);
}

static struct mmu_space *find_space(const struct mmu *mmu, const struct mmu_context *c, u16 pcid)
{
	for (struct mmu_space *s = mmu->spaces; s < mmu->spaces + SPACES; s++)
		if (s->context == c && s->pcid == pcid)
			return s;
	return NULL;
}

static void drop_space(struct mmu *mmu, const struct mmu_context *c, u16 pcid)
{
	struct mmu_space *s = find_space(mmu, c, pcid);
	if (s)
		s->context = NULL;
}

static void save_space(struct mmu *mmu, struct mmu_context *c)
{
	struct mmu_space *space = mmu->spaces;
	for (struct mmu_space *s = mmu->spaces; s < mmu->spaces + SPACES && space->context; s++)
		if (!s->context || s->last_used < space->last_used)
			space = s;
	space->context = c;
	space->pcid = c->pcid;
	space->count = 0;
	space->last_used = ++mmu->clock;
	space->protections = mmu->protections;
	space->user = c->user;
	space->copies = c->user_copies.stamp;
	take_local(mmu, c, space);
}

static u64 write_bit(u64 page)
{
	return BIT((page * 0x9e3779b97f4a7c15ULL) >> 58);
}

/* An entry has a write tag for this RAM page. */
static void note_write(struct mmu_context *c, enum mmu_class cls, unsigned index, u64 page)
{
	c->writes[cls][index / 64] |= write_bit(page);
}

static void restore_space(struct mmu *mmu, struct mmu_context *c, struct mmu_space *space)
{
	for (unsigned i = 0; i < space->count; i++) {
		struct saved_entry *s = &space->saved[i];
		struct tlb_entry *e = &class_table(c, s->cls)[s->index];
		*e = s->entry;
		c->local[s->cls][s->index / 64] |= BIT(s->index % 64);
		c->local_copies |= s->cls == MMU_SUPERVISOR && !c->spare_local;
		if (!e->write)
			continue;
		u64 page = page_of_entry(mmu, e->write, e);
		if (space->protections != mmu->protections && (mmu->mem->flags[page] & PAGE_HAS_CODE))
			e->write = 0;
		else
			note_write(c, s->cls, s->index, page);
	}
	c->user = space->user;
	/* Which pages have copies was not put aside: any may. */
	if (space->protections == mmu->protections) {
		c->user_copies.stamp = space->copies;
		memset(c->user_copies.pages, 1, sizeof c->user_copies.pages);
	}
	space->context = NULL;
}

static void switch_space(struct mmu *mmu, struct mmu_context *c, u16 pcid)
{
	if (c->pcid == pcid)
		return;
	struct mmu_space *next = find_space(mmu, c, pcid);
	if (next)
		next->last_used = ++mmu->clock; /* not the one to make room */
	save_space(mmu, c);
	c->pcid = pcid;
	if (next)
		restore_space(mmu, c, next);
	else
		renew_user_code(mmu, c);
	if (c->local_code)
		renew_supervisor_code(mmu, c);
	mmu->counters->context_switches++;
}

/* --- contexts --- */

static struct mmu_context *find_context(struct mmu *mmu, u16 vpid, u64 eptp)
{
	struct mmu_context *oldest = &mmu->contexts[0];
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++) {
		if (c->used && c->vpid == vpid && c->eptp == eptp)
			return c;
		if (!c->used || c->last_used < oldest->last_used)
			oldest = c;
	}
	flush_context(mmu, oldest);
	oldest->used = true;
	oldest->vpid = vpid;
	oldest->eptp = eptp;
	return oldest;
}

static void switch_context(struct mmu *mmu, u16 vpid, u64 eptp)
{
	struct mmu_context *c = mmu->context;
	if (c->vpid == vpid && c->eptp == eptp)
		return;
	mmu->context->last_used = ++mmu->clock;
	mmu->context = find_context(mmu, vpid, eptp);
	mmu->counters->context_switches++;
}

/* Key rights are the same for all contexts: each finds out when its turn comes that its entries know others. */
static void update_keys(struct mmu *mmu)
{
	struct mmu_context *c = mmu->context;
	if (unlikely((c->key_rights ^ mmu->key_rights) & c->keys_used))
		flush_context(mmu, c);
	c->key_rights = mmu->key_rights;
}

void mmu_set_pkru(struct mmu *mmu, u32 pkru)
{
	mmu->key_rights = (u64)mmu_pkrs(mmu) << 32 | pkru;
	update_keys(mmu);
}

void mmu_set_pkrs(struct mmu *mmu, u32 pkrs)
{
	mmu->key_rights = (u64)pkrs << 32 | mmu_pkru(mmu);
	update_keys(mmu);
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
	u64 kind = stage2_kind(paging);
	if (paging->eptp && kind != f->stage2_kind) {
		bool nested = paging->eptp & NPT_ROOT;
		format_prepare(&f->stage2, format_of_stage2(paging->eptp), mmu->phys_bits,
			       nested ? paging->eptp & NPT_NX : paging->mbec);
		/* AMD's PML4 entries have one reserved bit more (APM vol. 2, figure 5-20); Intel's ignore it. */
		if (nested && f->stage2.levels >= 4)
			f->stage2.reserved[0][4] |= PTE_G;
		f->stage2_kind = kind;
		f->stage2_mbec = !nested && paging->mbec;
	}
	switch_context(mmu, paging->vpid, paging->eptp);
	u64 registers = registers_of(paging);
	if (mmu->context->registers != registers || mmu->context->apic_page != paging->apic_page) {
		flush_context(mmu, mmu->context);
		mmu->context->registers = registers;
		mmu->context->apic_page = paging->apic_page;
	}
	update_keys(mmu);
	switch_space(mmu, mmu->context, paging->cr4 & CR4_PCIDE ? paging->cr3 & 0xfff : 0);
	select_tables(mmu);
}

void mmu_set_class(struct mmu *mmu, enum mmu_class cls)
{
	if ((cls == MMU_USER) != (mmu->cls == MMU_USER)) {
		struct mmu_copy stack = mmu->stack;
		mmu->stack = mmu->other_stack;
		mmu->other_stack = stack;
	}
	mmu->cls = cls;
	select_class(mmu);
}

void mmu_set_checked(struct mmu *mmu, bool checked)
{
	mmu->checked = checked;
	select_tables(mmu);
}

/* --- filling --- */

/* Enters a translation of a RAM page. */
static void fill(struct mmu *mmu, u64 va, enum mmu_class cls, const struct translation *t)
{
	struct mmu_context *c = mmu->context;
	cls = effective_class(mmu, cls);
	unsigned index = tlb_index(va);
	u64 page = t->result.ram_offset >> PAGE_SHIFT;
	u64 tag = (va & PAGE_MASK) | c->revision;
	u8 flags = __atomic_load_n(&mmu->mem->flags[page], __ATOMIC_RELAXED);
	bool write = t->write && t->dirty && !(flags & PAGE_HAS_CODE);
	class_table(c, cls)[index] = (struct tlb_entry){
		.read = t->read ? tag : 0,
		.write = write ? tag : 0,
		.exec = t->exec ? tag : 0,
		.addend = (u64)(mmu->mem->host + t->result.ram_offset) - va,
	};
	c->filled = true;
	c->keys_used |= t->keys_used;
	u64 *local = &c->local[cls][index / 64], bit = BIT(index % 64);
	*local = t->global ? *local & ~bit : *local | bit;
	c->local_copies |= !t->global && cls == MMU_SUPERVISOR && !c->spare_local;
	if (write)
		note_write(c, cls, index, page);
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

void mmu_note_code(struct mmu *mmu, u64 va)
{
	struct mmu_context *c = mmu->context;
	if (mmu->cls == MMU_USER) {
		code_add(&c->user, va);
		return;
	}
	code_add(&c->supervisor, va);
	unsigned index = tlb_index(va);
	if (c->local[effective_class(mmu, mmu->cls)][index / 64] >> (index % 64) & 1)
		c->local_code = true;
}

/* --- flushes --- */

/* Drops one address from a context's tables, and what else a large page there may have brought in. */
static void flush_context_page(struct mmu *mmu, struct mmu_context *c, u64 va)
{
	static const u8 large_shifts[] = { 21, 22, 30 };
	if (!c->filled)
		return;
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
	if (c->user_copies.pages[copy_index(va)])
		renew_copies(mmu, &c->user_copies);
	if (c->supervisor_copies.pages[copy_index(va)])
		renew_copies(mmu, &c->supervisor_copies);
	if (code_has(&c->user, va))
		renew_user_code(mmu, c);
	if (code_has(&c->supervisor, va))
		renew_supervisor_code(mmu, c);
	if (c == mmu->context)
		select_tables(mmu);
}

/* The same for one PCID, whether its entries are in the tables or not. */
static void flush_space_page(struct mmu *mmu, struct mmu_context *c, u16 pcid, u64 va)
{
	if (c->pcid == pcid)
		flush_context_page(mmu, c, va);
	else
		drop_space(mmu, c, pcid);
}

/* The architecture allows dropping too much at any time. */
void mmu_flush_page(struct mmu *mmu, u64 va)
{
	u16 pcid = mmu->context->pcid;
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		if (c->used && c->vpid == mmu->paging.vpid) {
			flush_context_page(mmu, c, va); /* a global page is in the tables whatever the PCID */
			if (c->pcid != pcid)
				drop_space(mmu, c, pcid);
		}
}

void mmu_flush_vpid_page(struct mmu *mmu, u16 vpid, u64 va)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		if (c->used && c->vpid == vpid) {
			flush_context_page(mmu, c, va);
			drop_spaces(mmu, c);
		}
}

void mmu_flush_pcid_page(struct mmu *mmu, u16 pcid, u64 va)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++)
		if (c->used && c->vpid == mmu->paging.vpid)
			flush_space_page(mmu, c, pcid, va);
}

void mmu_flush_pcid(struct mmu *mmu, u16 pcid)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++) {
		if (!c->used || c->vpid != mmu->paging.vpid)
			continue;
		if (c->pcid == pcid)
			flush_local(mmu, c);
		else
			drop_space(mmu, c, pcid);
	}
}

void mmu_flush_vpid(struct mmu *mmu, u16 vpid, bool globals)
{
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++) {
		if (!c->used || c->vpid != vpid)
			continue;
		if (globals) {
			flush_context(mmu, c);
		} else {
			drop_spaces(mmu, c);
			flush_local(mmu, c);
		}
	}
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

/* --- pages with code --- */

/* Drops the write tags of a RAM page from one table, and makes what is noted of where it looks exact again. */
static void protect_in_table(struct mmu *mmu, struct mmu_context *c, enum mmu_class cls, u64 page)
{
	for (unsigned first = 0; first < TLB_ENTRIES; first += 64) {
		u64 *writes = &c->writes[cls][first / 64];
		if (!(*writes & write_bit(page)))
			continue;
		*writes = 0;
		for (unsigned index = first; index < first + 64; index++) {
			struct tlb_entry *e = &class_table(c, cls)[index];
			if ((e->write & ~PAGE_MASK) != c->revision)
				continue;
			u64 found = page_of_entry(mmu, e->write, e);
			if (found == page)
				e->write = 0;
			else
				note_write(c, cls, index, found);
		}
	}
}

void mmu_protect_code(struct mmu *mmu, u64 ram_offset)
{
	u64 page = ram_offset >> PAGE_SHIFT;
	mmu->protections++; /* for what is put aside */
	u8 *copied = &mmu->copies.writable[copy_index((u64)mmu->mem->host + ram_offset)];
	bool renew = *copied;
	if (renew)
		memset(mmu->copies.writable, 0, COPY_PAGES);
	for (struct mmu_context *c = mmu->contexts; c < mmu->contexts + CONTEXTS; c++) {
		for (unsigned cls = 0; c->filled && cls < MMU_CLASSES; cls++)
			protect_in_table(mmu, c, cls, page);
		if (renew)
			renew_all_copies(mmu, c);
	}
	if (renew)
		select_tables(mmu);
}
