/*
 * A small machine for tests of the MMU: 16 MiB of RAM, an MMU, and functions that build page tables in any mode.
 *
 * Tables are taken from page 16 upward; unless a test says otherwise every entry grants everything (present, writable,
 * user), so that a test names just the bits it is about.
 */
#ifndef TESTS_UNIT_TABLES_H
#define TESTS_UNIT_TABLES_H

#include "mmu/mmu.h"
#include "x86/regs.h"

#include <glib.h>
#include <string.h>

#define P   BIT(0)
#define W   BIT(1)
#define U   BIT(2)
#define A   BIT(5)
#define D   BIT(6)
#define PS  BIT(7)
#define G   BIT(8)
#define NX  BIT(63)
#define PWU (P | W | U)

#define ER        BIT(0)
#define EW        BIT(1)
#define EX        BIT(2)
#define RWX       (ER | EW | EX)
#define EWB       (6ULL << 3)
#define EA        BIT(8)
#define ED        BIT(9)
#define EPT_AD_ON BIT(6)

enum { RAM_BYTES = 16 << 20, PHYS_BITS = 40 };

struct mode {
	const char *name;
	unsigned levels, index_bits, bytes;
	u64 cr4, efer;
};

enum { MODE_32, MODE_PSE, MODE_PAE_, MODE_4, MODE_5, MODE_COUNT };

static const struct mode modes[MODE_COUNT] = {
	{ "32-bit", 2, 10, 4, 0, 0 },
	{ "pse", 2, 10, 4, CR4_PSE, 0 },
	{ "pae", 2, 9, 8, CR4_PAE, EFER_NXE },
	{ "4-level", 4, 9, 8, CR4_PAE, EFER_LME | EFER_LMA | EFER_NXE },
	{ "5-level", 5, 9, 8, CR4_PAE | CR4_LA57, EFER_LME | EFER_LMA | EFER_NXE },
};

struct machine {
	struct mem mem;
	struct mmu mmu;
	struct counters counters;
	struct mmu_paging paging;
	const struct mode *mode;
	gpa_t next_table;
	gpa_t ept_root;
};

static inline gpa_t new_table(struct machine *m)
{
	gpa_t table = m->next_table;
	m->next_table += PAGE_SIZE;
	g_assert_cmpuint(m->next_table, <=, RAM_BYTES);
	return table;
}

static inline void set_paging(struct machine *m)
{
	mmu_set_paging(&m->mmu, &m->paging);
}

static inline void machine_init(struct machine *m, unsigned mode)
{
	memset(m, 0, sizeof *m);
	g_assert_cmpint(mem_init(&m->mem, RAM_BYTES), ==, 0);
	g_assert_cmpint(mmu_init(&m->mmu, &m->mem, &m->counters, PHYS_BITS), ==, 0);
	m->mode = &modes[mode];
	m->next_table = 16 * PAGE_SIZE;
	m->paging = (struct mmu_paging){
		.cr0 = CR0_PE | CR0_PG | CR0_WP, .cr4 = m->mode->cr4, .efer = m->mode->efer, .cr3 = new_table(m)
	};
	if (mode == MODE_PAE_)
		for (unsigned i = 0; i < 4; i++)
			m->paging.pdpte[i] = new_table(m) | P;
	set_paging(m);
}

static inline void machine_destroy(struct machine *m)
{
	mmu_destroy(&m->mmu);
	mem_destroy(&m->mem);
}

static inline u64 entry_get(struct machine *m, gpa_t at)
{
	return m->mode->bytes == 4 ? mem_read_u32(&m->mem, at) : mem_read_u64(&m->mem, at);
}

static inline void entry_put(struct machine *m, gpa_t at, u64 value)
{
	if (m->mode->bytes == 4)
		mem_write_u32(&m->mem, at, (u32)value);
	else
		mem_write_u64(&m->mem, at, value);
}

/* Where the stage-1 entry of `level` for va lies; missing tables above are made. */
static inline gpa_t entry_at(struct machine *m, u64 va, unsigned level)
{
	gpa_t table = m->mode == &modes[MODE_PAE_] ? m->paging.pdpte[va >> 30 & 3] & BITS(39, 12) : m->paging.cr3;
	for (unsigned l = m->mode->levels;; l--) {
		unsigned shift = 12 + (l - 1) * m->mode->index_bits;
		gpa_t at = table + (va >> shift & ((1u << m->mode->index_bits) - 1)) * m->mode->bytes;
		if (l == level)
			return at;
		if (!(entry_get(m, at) & P))
			entry_put(m, at, new_table(m) | PWU);
		table = entry_get(m, at) & (m->mode->bytes == 4 ? BITS(31, 12) : BITS(39, 12));
	}
}

/* Maps va at `level` (1: a small page) to pa with these bits. */
static inline void map(struct machine *m, u64 va, unsigned level, u64 pa, u64 bits)
{
	entry_put(m, entry_at(m, va, level), pa | bits | (level > 1 ? PS : 0));
}

/* Where the EPT entry of `level` for a guest-physical address lies; missing tables above are made. */
static inline gpa_t ept_entry_at(struct machine *m, gpa_t l2_gpa, unsigned level)
{
	gpa_t table = m->ept_root;
	for (unsigned l = 4;; l--) {
		gpa_t at = table + (l2_gpa >> (12 + (l - 1) * 9) & 511) * 8;
		if (l == level)
			return at;
		if (!(mem_read_u64(&m->mem, at) & RWX))
			mem_write_u64(&m->mem, at, new_table(m) | RWX);
		table = mem_read_u64(&m->mem, at) & BITS(39, 12);
	}
}

/* Switches stage 2 on with every page of RAM mapped to itself, one entry a page. */
static inline void ept_on(struct machine *m, u64 eptp_bits)
{
	m->ept_root = new_table(m);
	for (gpa_t gpa = 0; gpa < RAM_BYTES; gpa += PAGE_SIZE)
		mem_write_u64(&m->mem, ept_entry_at(m, gpa, 1), gpa | RWX | EWB);
	m->paging.eptp = m->ept_root | 3 << 3 | 6 | eptp_bits;
	m->paging.vpid = 1;
	set_paging(m);
}

#endif
