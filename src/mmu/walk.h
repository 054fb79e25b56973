/*
 * Table formats as data, and the one walker over them. Private to src/mmu.
 *
 * A format says how a radix tree of translation tables is laid out: depth, entry size, where addresses, rights and the
 * accessed and dirty bits are, which bits must be 0. The walker (walk.c) knows none of the modes by name. What a format
 * cannot say is added around it: who may use a page (rights to #PF error codes), the PDPTE registers of PAE paging, and
 * stage 2 under the addresses of stage-1 tables.
 *
 * Levels count from the leaf: 1 is the page table, 5 the PML5.
 */
#ifndef STRATA_MMU_WALK_H
#define STRATA_MMU_WALK_H

#include "mmu/mmu.h"
#include "x86/regs.h"

enum { WALK_LEVELS = 6 }; /* array size: levels 1..5, 0 unused */

/* Stage-1 entry bits (SDM vol. 3, 4.3 to 4.5). */
#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_U  BIT(2)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_PS BIT(7)
#define PTE_G  BIT(8)
#define PTE_NX BIT(63)

/* The protection key of an entry that maps a page, with IA-32e paging. */
#define PTE_KEY(entry) ((unsigned)bits_get(entry, 62, 59))

/* EPT entry bits (SDM vol. 3, 29.3.2). */
#define EPT_R BIT(0)
#define EPT_W BIT(1)
#define EPT_X BIT(2)
#define EPT_A BIT(8)
#define EPT_D BIT(9)

/* With mode-based execute control EPT_X is for supervisor-mode linear addresses, and this for user-mode ones. */
#define EPT_XU          BIT(10)
#define EPT_SUPPRESS_VE BIT(63)
#define EPT_ALL         (EPT_R | EPT_W | EPT_X | EPT_XU)

/* EPTP bits. */
#define EPTP_WALK    BITS(5, 3) /* levels minus one */
#define EPTP_AD      BIT(6)
#define EPTP_ADDRESS BITS(51, 12)

/*
 * What stands for an EPTP if stage 2 is nested page tables: their root, and what is to know of the host's paging mode.
 *
 *   63  62:60   59  58         57    51..12 (PAE: 31..5)
 *   1   format  NX  fetch bit  GMET  root
 *
 * "Fetch bit": faults tell fetches apart, since EFER.NXE or CR4.SMEP is on. GMET: the U bit of an entry says nothing
 * but that supervisors may not execute the page (guest mode execute trap). The bits of EPTPs above 51 are reserved.
 */
#define NPT_ROOT    BIT(63)
#define NPT_FORMAT  BITS(62, 60)
#define NPT_NX      BIT(59)
#define NPT_FETCH   BIT(58)
#define NPT_GMET    BIT(57)
#define NPT_KIND    (NPT_ROOT | NPT_FORMAT | NPT_NX)
#define NPT_ADDRESS BITS(51, 5)

struct walk_format {
	const char *name;
	u8 levels;      /* of tables, counted from the page table; 0: no translation */
	u8 index_bits;  /* of the address per level */
	u8 entry_bytes; /* 4 or 8 */
	u8 va_bits;     /* 32: higher bits are cut off; else addresses are sign-extended from here; 0: zero-extended */
	u8 large;       /* bit n: an entry of level n with PS maps a page */
	u64 present;    /* an entry with none of these bits ends the walk */
	u64 inverted;   /* rights that an entry grants by a 0 */
	u64 address;    /* bits of an entry that are an address */
	u64 accessed, dirty;
	u64 reserved[2][WALK_LEVELS]; /* must be 0 in [maps a page][level] */
	/* EPT: values of bits 2:0 that are misconfigured, and of bits 5:3 (memory type) in entries that map a page. */
	u8 bad_rights, bad_types;
	u8 root_level; /* entries from this level up are PDPTEs: they grant no rights and keep no flags; 0: none are */
	u8 high_shift; /* PSE-36: bits 20:13 of a 4 MiB entry, shifted left by this, are address bits 39:32 */
};

enum format_id {
	FORMAT_NONE,
	FORMAT_LEGACY,
	FORMAT_LEGACY_PSE,
	FORMAT_PAE,
	FORMAT_PAE_WALKED, /* AMD's nested paging: the PDPTEs are read from memory by each walk */
	FORMAT_4_LEVEL,
	FORMAT_5_LEVEL,
	FORMAT_EPT,
	FORMAT_EPT_5_LEVEL,
};

/* Everything in CR0, CR4 and EFER that means another format or other rights. */
#define PAGING_CR0  (CR0_PG | CR0_WP)
#define PAGING_CR4  (CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE | CR4_PKS)
#define PAGING_EFER (EFER_NXE | EFER_LMA)

enum format_id format_of(const struct mmu_paging *paging);

/* The format of stage 2, and all that it depends on. */
static inline enum format_id format_of_stage2(u64 eptp)
{
	if (eptp & NPT_ROOT)
		return (enum format_id)bits_get(eptp, 62, 60);
	return (eptp & EPTP_WALK) >> 3 == 4 ? FORMAT_EPT_5_LEVEL : FORMAT_EPT;
}

static inline u64 stage2_kind(const struct mmu_paging *paging)
{
	return paging->eptp & NPT_ROOT ? paging->eptp & NPT_KIND : (paging->eptp & EPTP_WALK) | paging->mbec;
}

/* Fills `format` with format `id` under the given MAXPHYADDR and EFER.NXE; for EPT, mode-based execute control. */
void format_prepare(struct walk_format *format, enum format_id id, unsigned phys_bits, bool nxe_or_mbec);

/* What the walker derives from mmu_paging; kept by the MMU. */
struct mmu_formats {
	struct walk_format stage1, stage2;
	enum format_id stage1_id;
	bool stage1_nxe;
	u64 stage2_kind; /* stage2_kind() of what stage2 is prepared for */
	bool stage2_mbec;
};

/* A full translation with what the TLB needs beyond the answer. */
struct translation {
	struct mmu_result result;
	bool read, write, exec; /* rights of the page for the class, of both stages */
	bool dirty;             /* no dirty bit is left to set before writing */
	bool global;            /* the same in every PCID (SDM vol. 3, 4.10.2.4) */
	u64 keys_used;          /* the bits of mmu->key_rights that the rights depend on */
	bool key_denies[2];     /* [write]: what its protection key alone refuses */
	unsigned stage1_shift;  /* log2 of the stage-1 page size */
};

/* Translates one byte; `quiet` ignores rights and changes nothing in the tables. */
void walk_translate(struct mmu *mmu, u64 va, enum mmu_access access, enum mmu_class cls, bool quiet,
		    struct translation *out);

#endif
