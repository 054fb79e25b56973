#include "mmu/walk.h"

#include "base/trace.h"

/* One entry a walk used: what it held, and where it lies in this process (NULL if its table is not RAM). */
struct used_entry {
	u64 value;
	u8 *host;
	gpa_t gpa;         /* guest-physical, before stage 2 */
	u64 stage2_rights; /* of the page its table is in */
	u64 stage2_leaf;   /* the entry that maps that page */
};

/* A walk of one stage. */
struct walk {
	struct mmu *mmu;
	const struct walk_format *format;
	u64 address;       /* what is translated */
	bool accessed;     /* accessed and dirty bits are kept */
	bool under_stage2; /* table addresses go through stage 2 */
	bool quiet;
	/* Result. */
	u64 rights;     /* what all used entries grant */
	gpa_t page;     /* start of the page */
	unsigned shift; /* log2 of its size */
	unsigned used;
	struct used_entry entry[WALK_LEVELS];
	struct mmu_result *fault; /* where stage 2 reports */
};

enum walk_end {
	WALK_LEAF,
	WALK_NOT_PRESENT,
	WALK_RESERVED, /* reserved bits; for EPT, a misconfiguration */
	WALK_STAGE2    /* stage 2 refused a table; *fault is filled */
};

/* A page as stage 2 maps it. */
struct stage2_page {
	gpa_t gpa; /* of the byte asked for, in L1's machine */
	u64 rights;
	u64 leaf; /* the entry that maps it */
	bool dirty;
	unsigned shift;
};

static bool stage2_translate(struct mmu *mmu, u64 eptp, gpa_t l2_gpa, u64 access, bool quiet, struct stage2_page *page,
			     struct mmu_result *fault);

/* Host address of a table entry, NULL outside RAM; tables are aligned, so entries never straddle pages. */
static u8 *entry_host(const struct mmu *mmu, gpa_t gpa)
{
	u64 offset = mem_ram_offset(mmu->mem, gpa);
	return offset == RAM_OFFSET_NONE ? NULL : mmu->mem->host + offset;
}

/* Outside RAM there is nobody: all ones, as on the bus. */
static u64 entry_load(const u8 *host, unsigned bytes)
{
	if (bytes == 4)
		return host ? __atomic_load_n((const u32 *)host, __ATOMIC_ACQUIRE) : ~0U;
	return host ? __atomic_load_n((const u64 *)host, __ATOMIC_ACQUIRE) : ~0ULL;
}

/*
 * Finds an entry of a stage-1 table. With accessed and dirty flags for EPT, reading a guest's table counts as writing
 * (SDM vol. 3, 29.3.3.2); with nested page tables it always does (APM vol. 2, 15.25.5).
 */
static bool entry_find(struct walk *w, gpa_t gpa, struct used_entry *e)
{
	e->gpa = gpa;
	e->stage2_rights = EPT_ALL;
	if (w->under_stage2) {
		u64 eptp = w->mmu->paging.eptp;
		u64 access = eptp & (NPT_ROOT | EPTP_AD) ? EPT_R | EPT_W : EPT_R;
		struct stage2_page page;
		if (!stage2_translate(w->mmu, eptp, gpa, access, w->quiet, &page, w->fault))
			return false;
		e->stage2_rights = page.rights;
		e->stage2_leaf = page.leaf;
		gpa = page.gpa;
	}
	e->host = entry_host(w->mmu, gpa);
	return true;
}

static bool entry_is_bad(const struct walk_format *f, u64 value, unsigned level, bool leaf)
{
	if (value & f->reserved[leaf][level])
		return true;
	return (f->bad_rights >> (value & 7) & 1) || (leaf && (f->bad_types >> (value >> 3 & 7) & 1));
}

/* Reads entries from `table` down to the one that maps a page. Checks no rights and changes nothing. */
static enum walk_end walk_tables(struct walk *w, gpa_t table)
{
	const struct walk_format *f = w->format;
	w->rights = ~0ULL;
	w->used = 0;
	for (unsigned level = f->levels;; level--) {
		unsigned shift = PAGE_SHIFT + (level - 1) * f->index_bits;
		u64 index = w->address >> shift & (BIT(f->index_bits) - 1);
		struct used_entry *e = &w->entry[w->used];
		if (!entry_find(w, table + index * f->entry_bytes, e))
			return WALK_STAGE2;
		e->value = entry_load(e->host, f->entry_bytes);
		w->used++;
		if (!f->root_level || level < f->root_level)
			w->rights &= e->value ^ f->inverted;
		if (!(e->value & f->present))
			return WALK_NOT_PRESENT;
		bool leaf = level == 1 || ((e->value & PTE_PS) && (f->large >> level & 1));
		if (entry_is_bad(f, e->value, level, leaf))
			return WALK_RESERVED;
		if (leaf) {
			w->shift = shift;
			w->page = (e->value & f->address) >> shift << shift;
			if (f->high_shift && level > 1)
				w->page |= (e->value & BITS(20, 13)) << f->high_shift;
			return WALK_LEAF;
		}
		table = e->value & f->address;
	}
}

/* Bits 6 to 11 of an EPT violation's qualification (SDM table 28-7). */
#define QUAL_EXEC_USER     BIT(6) /* executable for user-mode linear addresses, with mode-based execute control */
#define QUAL_LINEAR_VALID  BIT(7)
#define QUAL_TRANSLATED    BIT(8) /* the access was to the translation of the linear address */
#define QUAL_USER_PAGE     BIT(9) /* and what paging says of it: "advanced VM-exit information" */
#define QUAL_WRITABLE_PAGE BIT(10)
#define QUAL_NX_PAGE       BIT(11)

/* Sets `bits` in an entry that still holds the value seen; false: somebody changed it, and the walk is void. */
static bool entry_set(struct walk *w, struct used_entry *e, u64 bits)
{
	if ((e->value & bits) == bits)
		return true;
	u64 value = e->value | bits;
	if (!e->host) {
		e->value = value;
		return true;
	}
	u64 ram_offset = (u64)(e->host - w->mmu->mem->host);
	bool code = mem_about_to_write(w->mmu->mem, ram_offset, w->format->entry_bytes);
	bool done;
	if (w->format->entry_bytes == 4) {
		u32 seen = (u32)e->value;
		done = __atomic_compare_exchange_n((u32 *)e->host, &seen, (u32)value, false, __ATOMIC_SEQ_CST,
						   __ATOMIC_RELAXED);
	} else {
		u64 seen = e->value;
		done = __atomic_compare_exchange_n((u64 *)e->host, &seen, value, false, __ATOMIC_SEQ_CST,
						   __ATOMIC_RELAXED);
	}
	if (unlikely(code))
		mem_wrote(w->mmu->mem, ram_offset, w->format->entry_bytes);
	if (done)
		e->value = value;
	return done;
}

/* What a walk of stage 2 grants, in EPT's terms. Nested page tables are looked at as user accesses. */
static u64 stage2_rights(const struct walk *w, u64 eptp)
{
	if (!(eptp & NPT_ROOT))
		return w->mmu->formats->stage2_mbec ? w->rights : w->rights & ~EPT_XU;
	bool user = w->rights & PTE_U, gmet = eptp & NPT_GMET;
	if (!user && !gmet)
		return 0;
	bool exec = !w->format->inverted || (w->rights & PTE_NX);
	return EPT_R | (w->rights & PTE_W ? EPT_W : 0) | (exec ? EPT_XU : 0) | (exec && !(user && gmet) ? EPT_X : 0);
}

/* A fault of nested page tables, as EXITINFO1 has it but for bits 33:32 (APM vol. 2, 15.25.6). */
static void report_npt_fault(struct mmu_result *fault, u64 eptp, gpa_t l2_gpa, u64 access, enum walk_end end)
{
	u64 error = PF_USER | (end == WALK_NOT_PRESENT ? 0 : PF_PRESENT) | (access & EPT_W ? PF_WRITE : 0) |
		    (end == WALK_RESERVED ? PF_RSVD : 0);
	if ((access & (EPT_X | EPT_XU)) && (eptp & NPT_FETCH))
		error |= PF_FETCH;
	*fault = (struct mmu_result){ .kind = MMU_NPT_FAULT, .l2_gpa = l2_gpa, .gpa = l2_gpa, .qualification = error };
}

/* `entry`: the one that maps the page, or that is not present. */
static void report_violation(struct mmu_result *fault, gpa_t l2_gpa, u64 access, u64 rights, u64 entry)
{
	*fault = (struct mmu_result){
		.kind = MMU_EPT_VIOLATION,
		.l2_gpa = l2_gpa,
		.gpa = l2_gpa,
		.suppress_ve = entry & EPT_SUPPRESS_VE,
		.qualification = (access & (EPT_R | EPT_W)) | (access & (EPT_X | EPT_XU) ? EPT_X : 0) |
				 (rights & 7) << 3 | (rights & EPT_XU ? QUAL_EXEC_USER : 0),
	};
}

enum walk_mark { MARKED, MARK_AGAIN, MARK_STAGE2 };

/* Will a write set a dirty flag that page-modification logging wants to hear of? */
static bool is_logged(const struct walk *w)
{
	bool stage2 = w->format == &w->mmu->formats->stage2;
	return stage2 && unlikely(w->mmu->pml_index) && !(w->entry[w->used - 1].value & EPT_D);
}

/* Two CPUs that share tables may both log a page, as on silicon: they race for the flag, not for the log. */
static void log_page(struct mmu *mmu, gpa_t l2_gpa)
{
	mem_write_u64(mmu->mem, mmu->pml_log + (u64)*mmu->pml_index * 8, l2_gpa & PAGE_MASK);
	--*mmu->pml_index;
}

/*
 * Sets accessed bits, and the dirty bit of the leaf for a write. Where stage 2 keeps no dirty flags, that this is a
 * write to the table's page is found out only now.
 */
static enum walk_mark walk_mark(struct walk *w, bool write)
{
	if (!w->accessed)
		return MARKED;
	bool logged = write && is_logged(w);
	if (unlikely(logged && *w->mmu->pml_index > 511)) {
		*w->fault = (struct mmu_result){ .kind = MMU_PML_FULL, .l2_gpa = w->address, .gpa = w->address };
		return MARK_STAGE2;
	}
	for (unsigned i = w->format->root_level != 0; i < w->used; i++) {
		struct used_entry *e = &w->entry[i];
		u64 bits = w->format->accessed | (write && i + 1 == w->used ? w->format->dirty : 0);
		if ((e->value & bits) == bits)
			continue;
		if (!(e->stage2_rights & EPT_W)) {
			/* Another CPU set them meanwhile, or this walk did: tables may be one another's tables. */
			if (entry_load(e->host, w->format->entry_bytes) != e->value)
				return MARK_AGAIN;
			report_violation(w->fault, e->gpa, EPT_R | EPT_W, e->stage2_rights, e->stage2_leaf);
			return MARK_STAGE2;
		}
		if (!entry_set(w, e, bits))
			return MARK_AGAIN;
	}
	if (unlikely(logged))
		log_page(w->mmu, w->address);
	return MARKED;
}

/* A walk of stage 2 that grants no such access. */
static void report_stage2(struct walk *w, u64 eptp, u64 access, enum walk_end end)
{
	u64 rights = end == WALK_LEAF ? stage2_rights(w, eptp) : 0;
	u64 entry = w->used ? w->entry[w->used - 1].value : EPT_SUPPRESS_VE;
	if (eptp & NPT_ROOT)
		report_npt_fault(w->fault, eptp, w->address, access, end);
	else if (end == WALK_RESERVED)
		*w->fault = (struct mmu_result){ .kind = MMU_EPT_MISCONFIG, .l2_gpa = w->address, .gpa = w->address };
	else
		report_violation(w->fault, w->address, access, rights, entry);
}

/* Do the tables reach the address? What lies beyond is mapped by nothing. */
static bool stage2_reaches(const struct walk_format *f, gpa_t l2_gpa)
{
	unsigned bits = f->va_bits ? f->va_bits : PAGE_SHIFT + f->levels * f->index_bits;
	return !(l2_gpa >> bits);
}

/*
 * Stage 2: L2's guest-physical address to L1's, for `access` (EPT_R, EPT_W, EPT_X or EPT_XU). false: *fault is filled,
 * but for the qualification's bits about the linear address, which the caller knows.
 */
static bool stage2_translate(struct mmu *mmu, u64 eptp, gpa_t l2_gpa, u64 access, bool quiet, struct stage2_page *page,
			     struct mmu_result *fault)
{
	if (!eptp) {
		*page = (struct stage2_page){ .gpa = l2_gpa, .rights = EPT_ALL, .dirty = true, .shift = 63 };
		return true;
	}
	struct walk w = { .mmu = mmu,
			  .format = &mmu->formats->stage2,
			  .address = l2_gpa,
			  .accessed = eptp & (NPT_ROOT | EPTP_AD),
			  .quiet = quiet,
			  .fault = fault };
	gpa_t root = eptp & (eptp & NPT_ROOT ? NPT_ADDRESS : EPTP_ADDRESS);
	enum walk_mark mark = MARKED;
	u64 rights;
	do {
		w.used = 0;
		enum walk_end end = stage2_reaches(w.format, l2_gpa) ? walk_tables(&w, root) : WALK_NOT_PRESENT;
		rights = stage2_rights(&w, eptp);
		if (end != WALK_LEAF || (!quiet && (access & ~rights))) {
			report_stage2(&w, eptp, access, end);
			return false;
		}
		if (quiet)
			break;
		mark = walk_mark(&w, access & EPT_W);
		if (mark == MARK_STAGE2)
			return false;
	} while (mark == MARK_AGAIN);
	*page = (struct stage2_page){ .gpa = w.page | (l2_gpa & (BIT(w.shift) - 1)),
				      .rights = rights,
				      .leaf = w.entry[w.used - 1].value,
				      .dirty = !w.accessed || (w.entry[w.used - 1].value & w.format->dirty),
				      .shift = w.shift };
	return true;
}

static u64 stage2_access(enum mmu_access access)
{
	return access == MMU_READ ? EPT_R : access == MMU_WRITE ? EPT_W : EPT_X;
}

/*
 * The right that a fetch needs. For EPT it goes by the linear address, which without paging is a user-mode one (SDM
 * table 28-7); for nested page tables by who fetches.
 */
static u64 stage2_fetch(const struct mmu *mmu, bool user_page, enum mmu_class cls)
{
	bool user = mmu->paging.eptp & NPT_ROOT ? cls == MMU_USER : mmu->formats->stage2_mbec && user_page;
	return user ? EPT_XU : EPT_X;
}

/* Root table of stage 1; false: a PDPTE register is not present (SDM vol. 3, 4.4.2). */
static bool stage1_root(const struct mmu *mmu, u64 va, gpa_t *table)
{
	const struct walk_format *f = &mmu->formats->stage1;
	if (mmu->formats->stage1_id == FORMAT_PAE) {
		u64 pdpte = mmu->paging.pdpte[va >> 30 & 3];
		*table = pdpte & f->address;
		return pdpte & PTE_P;
	}
	if (mmu->formats->stage1_id == FORMAT_PAE_WALKED) {
		*table = mmu->paging.cr3 & BITS(31, 5);
		return true;
	}
	/* Bits of CR3 beyond MAXPHYADDR cannot be set; bit 63 and PCID are none of the address. */
	*table = mmu->paging.cr3 & (f->va_bits == 32 ? BITS(31, 12) : BITS(51, 12));
	return true;
}

static bool is_nx(const struct mmu *mmu, u64 rights)
{
	return mmu->formats->stage1.inverted && !(rights & PTE_NX);
}

/* What the class may do with a page whose entries grant `rights` (SDM vol. 3, 4.6.1). */
static void stage1_rights(const struct mmu *mmu, u64 rights, enum mmu_class cls, struct translation *t)
{
	const struct mmu_paging *p = &mmu->paging;
	bool user_page = rights & PTE_U;
	bool nx = is_nx(mmu, rights);
	if (cls == MMU_USER) {
		t->read = user_page;
		t->write = user_page && (rights & PTE_W);
		t->exec = user_page && !nx;
		return;
	}
	t->read = !(user_page && cls == MMU_SUPERVISOR && (p->cr4 & CR4_SMAP));
	t->write = t->read && ((rights & PTE_W) || !(p->cr0 & CR0_WP));
	t->exec = !nx && !(user_page && (p->cr4 & CR4_SMEP));
}

/*
 * Protection keys take rights of data accesses away (SDM vol. 3, 4.6.2): two bits for each key, "access disable" and
 * "write disable". PKRU is for user-mode addresses, whoever accesses them, IA32_PKRS for the others.
 */
static void key_rights(const struct mmu *mmu, u64 rights, u64 leaf, enum mmu_class cls, struct translation *t)
{
	const struct mmu_paging *p = &mmu->paging;
	bool user_page = rights & PTE_U;
	if (!(p->cr4 & (user_page ? CR4_PKE : CR4_PKS)) || !(p->efer & EFER_LMA))
		return;
	unsigned shift = 2 * PTE_KEY(leaf) + (user_page ? 0 : 32);
	bool access_disable = mmu->key_rights >> shift & 1, write_disable = mmu->key_rights >> shift & 2;
	t->keys_used = 3ULL << shift;
	t->key_denies[false] = access_disable;
	t->key_denies[true] = access_disable || (write_disable && (cls == MMU_USER || (p->cr0 & CR0_WP)));
	t->read = t->read && !t->key_denies[false];
	t->write = t->write && !t->key_denies[true];
}

static bool permitted(const struct translation *t, enum mmu_access access)
{
	return access == MMU_READ ? t->read : access == MMU_WRITE ? t->write : t->exec;
}

static void report_page_fault(const struct mmu *mmu, enum walk_end end, enum mmu_access access, enum mmu_class cls,
			      struct mmu_result *result)
{
	const struct mmu_paging *p = &mmu->paging;
	u32 error = (end == WALK_NOT_PRESENT ? 0 : PF_PRESENT) | (access == MMU_WRITE ? PF_WRITE : 0) |
		    (cls == MMU_USER ? PF_USER : 0) | (end == WALK_RESERVED ? PF_RSVD : 0);
	/* The fetch bit exists only where a fetch can be refused for being one. */
	if (access == MMU_EXEC && ((p->cr4 & CR4_SMEP) || ((p->cr4 & CR4_PAE) && (p->efer & EFER_NXE))))
		error |= PF_FETCH;
	*result = (struct mmu_result){ .kind = MMU_PAGE_FAULT, .error_code = error };
}

/* Nested page tables tell by one bit each what the fault was about. */
#define NPF_TRANSLATED BIT(32)
#define NPF_TABLE      BIT(33)

/* QUAL_* bits; of a nested page table's fault, whether it was the translation of a linear address or a table. */
static void add_linear_address(struct mmu_result *fault, u64 bits)
{
	/* A misconfiguration has no qualification. */
	if (fault->kind == MMU_EPT_VIOLATION)
		fault->qualification |= bits;
	else if (fault->kind == MMU_NPT_FAULT)
		fault->qualification |= bits & QUAL_TRANSLATED ? NPF_TRANSLATED : NPF_TABLE;
}

/* Stage 1 with rights and A/D bits; w->page and w->shift are the answer. MARK_AGAIN: the tables changed meanwhile. */
static enum walk_mark stage1_translate(struct walk *w, enum mmu_access access, enum mmu_class cls,
				       struct translation *out)
{
	const struct mmu *mmu = w->mmu;
	gpa_t table;
	enum walk_end end = stage1_root(mmu, w->address, &table) ? walk_tables(w, table) : WALK_NOT_PRESENT;
	if (end == WALK_STAGE2)
		return MARK_STAGE2;
	if (end != WALK_LEAF) {
		report_page_fault(mmu, end, access, cls, &out->result);
		return MARKED;
	}
	stage1_rights(mmu, w->rights, cls, out);
	key_rights(mmu, w->rights, w->entry[w->used - 1].value, cls, out);
	if (w->quiet)
		return MARKED;
	if (!permitted(out, access)) {
		report_page_fault(mmu, end, access, cls, &out->result);
		if (access != MMU_EXEC && out->key_denies[access == MMU_WRITE])
			out->result.error_code |= PF_KEY;
		return MARKED;
	}
	enum walk_mark mark = walk_mark(w, access == MMU_WRITE);
	u64 leaf = w->entry[w->used - 1].value;
	out->dirty = leaf & PTE_D;
	out->global = (leaf & PTE_G) && (mmu->paging.cr4 & CR4_PGE);
	return mark;
}

/* Stage 2 of the final address, and the answer. */
static void finish(struct mmu *mmu, const struct walk *w, enum mmu_access access, enum mmu_class cls,
		   struct translation *out)
{
	struct mmu_result *r = &out->result;
	struct stage2_page page;
	gpa_t l2_gpa = w->page | (w->address & (BIT(w->shift) - 1));
	u64 fetch = stage2_fetch(mmu, w->rights & PTE_U, cls);
	u64 needed = access == MMU_EXEC ? fetch : stage2_access(access);
	if (!stage2_translate(mmu, mmu->paging.eptp, l2_gpa, needed, w->quiet, &page, r)) {
		add_linear_address(r, QUAL_LINEAR_VALID | QUAL_TRANSLATED | (w->rights & PTE_U ? QUAL_USER_PAGE : 0) |
					      (w->rights & PTE_W ? QUAL_WRITABLE_PAGE : 0) |
					      (is_nx(mmu, w->rights) ? QUAL_NX_PAGE : 0));
		return;
	}
	out->read = out->read && (page.rights & EPT_R);
	out->write = out->write && (page.rights & EPT_W);
	out->exec = out->exec && (page.rights & fetch);
	out->dirty = out->dirty && page.dirty;
	out->stage1_shift = w->shift;
	*r = (struct mmu_result){ .kind = MMU_OK,
				  .l2_gpa = l2_gpa,
				  .gpa = page.gpa,
				  .ram_offset = mem_ram_offset(mmu->mem, page.gpa),
				  .page_bytes = BIT(w->shift < page.shift ? w->shift : page.shift) };
	gpa_t apic = mmu->paging.eptp & NPT_ROOT ? l2_gpa : page.gpa;
	if (unlikely(((apic & PAGE_MASK) | 1) == mmu->paging.apic_page)) {
		r->apic = true;
		r->ram_offset = RAM_OFFSET_NONE;
	}
}

void walk_translate(struct mmu *mmu, u64 va, enum mmu_access access, enum mmu_class cls, bool quiet,
		    struct translation *out)
{
	const struct walk_format *f = &mmu->formats->stage1;
	struct walk w = { .mmu = mmu,
			  .format = f,
			  .address = f->va_bits == 32 ? (u32)va : va,
			  .accessed = true,
			  .under_stage2 = mmu->paging.eptp != 0,
			  .quiet = quiet,
			  .fault = &out->result };
	*out = (struct translation){ .result.kind = MMU_OK };
	if (!f->levels) {
		out->read = out->write = out->exec = out->dirty = true;
		w.shift = 30; /* no page of stage 1 bounds it; INVLPG of anything may drop it */
		w.page = w.address >> w.shift << w.shift;
		w.rights = ~0ULL;
		finish(mmu, &w, access, cls, out);
		return;
	}
	if (f->va_bits != 32 && sign_extend(va, f->va_bits) != va) {
		out->result = (struct mmu_result){ .kind = MMU_NOT_CANONICAL };
		return;
	}
	enum walk_mark mark;
	do
		mark = stage1_translate(&w, access, cls, out);
	while (mark == MARK_AGAIN);
	if (mark == MARK_STAGE2)
		add_linear_address(&out->result, QUAL_LINEAR_VALID);
	else if (out->result.kind == MMU_OK)
		finish(mmu, &w, access, cls, out);
}

struct mmu_result mmu_peek(struct mmu *mmu, u64 va)
{
	struct translation t;
	walk_translate(mmu, va, MMU_READ, MMU_SUPERVISOR, true, &t);
	return t.result;
}

struct mmu_result mmu_translate_gpa(struct mmu *mmu, gpa_t l2_gpa, enum mmu_access access)
{
	struct mmu_result result = { .kind = MMU_OK };
	struct stage2_page page;
	if (!stage2_translate(mmu, mmu->paging.eptp, l2_gpa, stage2_access(access), false, &page, &result)) {
		if (result.kind == MMU_NPT_FAULT)
			add_linear_address(&result, QUAL_TRANSLATED);
		return result;
	}
	result.l2_gpa = l2_gpa;
	result.gpa = page.gpa;
	result.ram_offset = mem_ram_offset(mmu->mem, page.gpa);
	result.page_bytes = BIT(page.shift);
	return result;
}

/* Bits 2:1, 8:5 and those from MAXPHYADDR up are reserved in a PDPTE that is present (SDM vol. 3, table 4-8). */
static bool pdpte_is_bad(const struct mmu *mmu, u64 pdpte)
{
	return (pdpte & PTE_P) && (pdpte & (BITS(2, 1) | BITS(8, 5) | BITS(63, mmu->phys_bits)));
}

struct mmu_result mmu_load_pdptes(struct mmu *mmu, const struct mmu_paging *paging, u64 pdpte[4])
{
	struct mmu_result result = { .kind = MMU_OK };
	u64 loaded[4];
	gpa_t l2_gpa = paging->cr3 & BITS(31, 5);
	struct stage2_page page;
	if (paging->eptp & NPT_ROOT)
		return result; /* FORMAT_PAE_WALKED */
	/* The load counts as a read even with dirty flags for EPT (SDM vol. 3, 29.3.3.2). All four share a page. */
	if (!stage2_translate(mmu, paging->eptp, l2_gpa, EPT_R, false, &page, &result))
		return result;
	for (unsigned i = 0; i < 4; i++) {
		loaded[i] = entry_load(entry_host(mmu, page.gpa + 8 * i), 8);
		if (pdpte_is_bad(mmu, loaded[i])) {
			TRACE(mmu, "PDPTE %u at %#llx = %#llx: reserved bits", i, (unsigned long long)page.gpa,
			      (unsigned long long)loaded[i]);
			result.kind = MMU_PAGE_FAULT;
			return result;
		}
	}
	for (unsigned i = 0; i < 4; i++)
		pdpte[i] = loaded[i];
	return result;
}
