/*
 * The memory management unit of one CPU: page walks for every paging mode, EPT and AMD's nested page tables through
 * one walker (walk.h), and the soft TLB, kept per context so that CR3 loads, VM entries and VM exits swap pointers.
 *
 * A context is one machine as the TLB knows it: (VPID or ASID, EPTP or nested root). Each context has one table of
 * entries per privilege class. Entries cache the whole translation, stage 1 and stage 2 together, down to the host
 * address. The tables hold global pages, and the others ("local" ones) of one PCID: when another one comes, they are
 * put aside, and its own come back. MOV to CR3 drops the local ones, as many as there are; what is to drop everything
 * bumps the context's revision, which is part of every tag.
 *
 * A stale entry would be an access to somebody else's host memory: bounds first; RAM is never unmapped while a CPU
 * runs.
 *
 * Owner and thread: the CPU's own thread, alone.
 */
#ifndef STRATA_MMU_MMU_H
#define STRATA_MMU_MMU_H

#include "base/counters.h"
#include "mem/mem.h"

enum mmu_access { MMU_READ, MMU_WRITE, MMU_EXEC };

/* Privilege of an access (SDM vol. 3, 4.6). */
enum mmu_class {
	MMU_SUPERVISOR,    /* CPL < 3, or implicit (descriptor tables, TSS): SMAP applies */
	MMU_SUPERVISOR_AC, /* CPL < 3 with EFLAGS.AC = 1: SMAP suspended */
	MMU_USER,
	MMU_CLASSES
};

enum { TLB_ENTRIES = 4096 }; /* per table; direct-mapped by page number */
enum { COPY_PAGES = 2048 };  /* told apart by mmu_copies */

/*
 * One page. A tag is the virtual page address with the table's current revision in bits 11:0; it matches only if the
 * access is allowed and needs nothing done (for `write`: dirty bit set, no code on the page). host = va + addend.
 * Pages that are not RAM never get tags here.
 */
struct tlb_entry {
	u64 read, write, exec;
	u64 addend;
};

/* Registers that decide translation; a copy owned by the MMU, replaced by mmu_set_paging. */
struct mmu_paging {
	u64 cr0, cr3, cr4, efer; /* cr4.PAE and efer.LMA choose the format */
	u64 pdpte[4];            /* PAE paging only; loaded by the CPU at MOV CR (mmu_load_pdptes) or VM entry */
	u64 eptp;                /* stage 2: an EPTP, or mmu_nested_root()'s value; 0: none */
	bool mbec;               /* EPT: mode-based execute control */
	u64 apic_page;           /* address | 1 of the guest's APIC, behind EPT or before nested paging; 0: none */
	u16 vpid;                /* VPID or ASID; 0: root or the host, or VPID not in use */
};

enum mmu_fault_kind {
	MMU_OK,
	MMU_PAGE_FAULT,    /* error_code is right for the #PF frame */
	MMU_EPT_VIOLATION, /* qualification (SDM table 28-7), gpa set; linear address valid per bit 7 */
	MMU_EPT_MISCONFIG, /* gpa set */
	MMU_PML_FULL,      /* a dirty flag of EPT could not be logged; nothing was done */
	MMU_NPT_FAULT,     /* qualification is EXITINFO1 (APM vol. 2, 15.25.6), gpa set */
	MMU_NOT_CANONICAL  /* #GP or #SS, the caller knows which */
};

struct mmu_result {
	enum mmu_fault_kind kind;
	u32 error_code;    /* MMU_PAGE_FAULT */
	u64 qualification; /* MMU_EPT_VIOLATION, MMU_NPT_FAULT */
	bool suppress_ve;  /* MMU_EPT_VIOLATION: bit 63 of the entry that says so */
	gpa_t l2_gpa;      /* EPT faults: the guest-physical address that faulted */
	gpa_t gpa;         /* MMU_OK: where the access goes, in L1's machine */
	u64 ram_offset;    /* MMU_OK: the same as RAM offset, or RAM_OFFSET_NONE for a device */
	u64 page_bytes;    /* MMU_OK: smallest page size on the way */
	bool apic;         /* MMU_OK: it goes to paging.apic_page; ram_offset is none */
};

/*
 * Stage 2 by AMD's nested page tables: `ncr3` is their root, in the format that the host's paging registers choose
 * (CR0.PG is on). No EPTP has such a value.
 */
u64 mmu_nested_root(u64 ncr3, u64 host_cr4, u64 host_efer, bool gmet);

struct mmu_context; /* private to tlb.c */
struct mmu_space;   /* likewise */
struct mmu_formats; /* private to walk.c */

struct mmu {
	/*
	 * Stamp of copies, see below: 48 bits, which last for months of nothing but renewals. First, because the upper
	 * 16 bits of these 8 bytes are not the MMU's, which never writes them: see struct cpu.
	 */
	struct mmu_stamp {
		u32 low;
		u16 high, owners;
	} stamp;
	/*
	 * A copy that most accesses of a stack share: the page where that was last, which may be read and written. For
	 * whoever keeps copies; forgotten whenever the privilege's stamp is another one.
	 */
	struct mmu_copy {
		u64 page; /* mmu_set_nowhere()'s: none */
		u64 addend;
	} stack;
	/* Hot: where the fast path looks. Set by mmu_set_class and context switches only. */
	struct tlb_entry *tlb;    /* table of the current class */
	u64 revision;             /* of the current context, 0..4095, never 0 */
	struct tlb_entry *system; /* table of MMU_SUPERVISOR, for implicit accesses */
	/* What these are for each class; for STAC, SYSCALL and their like in translated code. */
	struct mmu_of_class {
		struct tlb_entry *tlb;
		u64 generation;
		u64 stamp;
		u8 *pages; /* copies.pages */
	} of_class[MMU_CLASSES];
	/*
	 * Copies of entries that others keep, beside the code that uses them. They are good while `stamp` is what it
	 * was when they were made: no two contexts, address spaces or privileges ever share one, and switching back
	 * brings the old one back; while accesses are `checked`, no copy is good. Whoever makes a copy of what
	 * mmu_may_copy() notes it by mmu_note_copy(), or as that does: invalidation of a page that has no copies, nor
	 * code, leaves the stamp alone. It is another one whenever `generation` is.
	 */
	struct mmu_copies {
		u8 *pages;    /* by copy_index(): nonzero if there may be copies */
		u8 *writable; /* likewise, by the host's page, copies of `write` */
		/* A bit for each entry of `system`: it must not be copied, for that would last for too short a time. */
		const u64 *spared;
	} copies;
	/* The other privilege's `stack`; and by privilege, the user's last, the page before that one. */
	struct mmu_copy other_stack, stack_before[2];
	/* Cold. */
	u64 nowhere; /* a page where nothing can be */
	struct mem *mem;
	struct counters *counters;
	enum mmu_class cls;
	struct mmu_paging paging;
	struct mmu_context *context;
	struct mmu_context *contexts; /* all of them, recycled least recently used */
	struct mmu_space *spaces;     /* what was put aside, likewise */
	/*
	 * Names the code of the current context, address space and privilege, as last flushed: no two ever share it,
	 * and switching back brings the old one back. Whoever caches where code is stores it and compares it. The
	 * supervisor's outlives address spaces if its code is in global pages.
	 */
	u64 generation, last_generation;
	u64 last_stamp;     /* of copies */
	u64 protections;    /* how often mmu_protect_code() was called */
	unsigned phys_bits; /* MAXPHYADDR; bits above are reserved in tables */
	bool checked;       /* see mmu_set_checked */
	/*
	 * Rights of protection keys: PKRU, in use with CR4.PKE, and in the upper half IA32_PKRS, in use with CR4.PKS.
	 * The CPU's only copy.
	 */
	u64 key_rights;
	/*
	 * Page-modification log (SDM vol. 3, 29.3.6): where the guest-physical pages go whose EPT dirty flag becomes
	 * set. The index counts down to FFFFh, "full". NULL: nothing is logged. Whoever owns the index sets both.
	 */
	u16 *pml_index;
	gpa_t pml_log;
	u64 clock; /* counts switches, for least recently used */
	struct mmu_formats *formats;
	struct tlb_entry *tables; /* of all contexts, then one that stays empty */
};

int mmu_init(struct mmu *mmu, struct mem *mem, struct counters *counters, unsigned phys_bits);
void mmu_destroy(struct mmu *mmu);

/*
 * Takes new paging registers and switches to their context. Flushes nothing that the registers' change does not force:
 * a change of CR0.PG/WP, CR4.PAE/PSE/PGE/SMEP/SMAP/LA57/PCIDE, EFER.NXE within a context flushes that context;
 * flushing on MOV to CR3 is the caller's choice (mmu_flush_pcid).
 */
void mmu_set_paging(struct mmu *mmu, const struct mmu_paging *paging);
void mmu_set_class(struct mmu *mmu, enum mmu_class cls);
/* Rights of protection keys, PKRU and IA32_PKRS. The next access sees new ones. */
void mmu_set_pkru(struct mmu *mmu, u32 pkru);
void mmu_set_pkrs(struct mmu *mmu, u32 pkrs);
static inline u32 mmu_pkru(const struct mmu *mmu)
{
	return (u32)mmu->key_rights;
}
static inline u32 mmu_pkrs(const struct mmu *mmu)
{
	return (u32)(mmu->key_rights >> 32);
}

/*
 * While `checked` is set `tlb` and `system` point to a table that stays empty, so that every access takes the slow
 * path, where data breakpoints (DR7) and alignment (CR0.AM, EFLAGS.AC at CPL 3) are looked at. Costs nothing while off.
 */
void mmu_set_checked(struct mmu *mmu, bool checked);

/* Reads the four PDPTEs at CR3 (through stage 2 if on). MMU_OK; a fault; MMU_PAGE_FAULT stands for "reserved bits set:
 * #GP". */
struct mmu_result mmu_load_pdptes(struct mmu *mmu, const struct mmu_paging *paging, u64 pdpte[4]);

/*
 * Full translation of one byte: walks, checks rights, sets accessed and dirty bits as the access demands, and fills the
 * TLB if the page is RAM. Accesses never span pages here.
 */
struct mmu_result mmu_translate(struct mmu *mmu, u64 va, enum mmu_access access, enum mmu_class cls);

/* The same, but changes nothing: no A/D, no fill. For debuggers and dumps. */
struct mmu_result mmu_peek(struct mmu *mmu, u64 va);

/* Stage 2 alone: L2's guest-physical address to L1's (identity without stage 2). For VT-x (e.g. PDPTEs, event info). */
struct mmu_result mmu_translate_gpa(struct mmu *mmu, gpa_t l2_gpa, enum mmu_access access);

/* Flushes. All of the current VPID and EPTP unless said otherwise. */
void mmu_flush_page(struct mmu *mmu, u64 va);                 /* INVLPG: current PCID and global pages */
void mmu_flush_pcid(struct mmu *mmu, u16 pcid);               /* MOV to CR3; INVPCID type 1: global pages stay */
void mmu_flush_pcid_page(struct mmu *mmu, u16 pcid, u64 va);  /* INVPCID type 0 */
void mmu_flush_vpid_all(struct mmu *mmu, bool globals);       /* INVPCID types 2, 3; CR4.PGE toggles */
void mmu_flush_vpid(struct mmu *mmu, u16 vpid, bool globals); /* INVVPID types 1, 3; VM transitions with VPID 0 */
void mmu_flush_vpid_page(struct mmu *mmu, u16 vpid, u64 va);  /* INVVPID type 0 */
void mmu_flush_ept(struct mmu *mmu, u64 eptp);                /* INVEPT type 1: contexts whose EP4TA matches */
void mmu_flush_all(struct mmu *mmu);

/* A page where no access ever is: neither canonical nor to be guessed. Before the first use of `stack`. */
void mmu_set_nowhere(struct mmu *mmu, u64 page);

/* Copies of the current address space and privilege are no longer good. */
void mmu_renew_copies(struct mmu *mmu);

/* The caller caches where the code at va is, under mmu->generation. Its page was just translated. */
void mmu_note_code(struct mmu *mmu, u64 va);

/* The page now holds decoded code: no context may keep a write entry for it. */
void mmu_protect_code(struct mmu *mmu, u64 ram_offset);

static inline unsigned tlb_index(u64 va)
{
	return (unsigned)(va >> PAGE_SHIFT) & (TLB_ENTRIES - 1);
}

/* By halves of the address space: no INVLPG of a process's page shall be taken for one of its kernel's. */
static inline unsigned copy_index(u64 address)
{
	unsigned half = address >> 63 ? COPY_PAGES / 2 : 0;
	return half + ((unsigned)(address >> PAGE_SHIFT) & (COPY_PAGES / 2 - 1));
}

static inline u64 mmu_copy_stamp(const struct mmu *mmu)
{
	return (u64)mmu->stamp.high << 32 | mmu->stamp.low;
}

/* The current table's entry for va: none that is good only while EFLAGS.AC is set. */
static inline bool mmu_may_copy(const struct mmu *mmu, u64 va)
{
	unsigned index = (unsigned)(va >> PAGE_SHIFT) % TLB_ENTRIES;
	return mmu->tlb == mmu->system ? !(mmu->copies.spared[index / 64] >> index % 64 & 1) : mmu->cls == MMU_USER;
}

/* Somebody copied the entry of va, to write if `write`. */
static inline void mmu_note_copy(struct mmu *mmu, u64 va, u64 addend, bool write)
{
	mmu->copies.pages[copy_index(va)] = 1;
	if (write)
		mmu->copies.writable[copy_index(va + addend)] = 1;
}

#endif
