#include "mmu/walk.h"

/*
 * Bits that are reserved whatever MAXPHYADDR is. In long mode PS is reserved where no page can be mapped; bits between
 * PS's page offset and the address, but for PAT (bit 12), are reserved in large pages.
 */
static const struct walk_format formats[] = {
	[FORMAT_NONE] = { .name = "none", .va_bits = 32 },
	[FORMAT_LEGACY] = {
		.name = "32-bit", .levels = 2, .index_bits = 10, .entry_bytes = 4, .va_bits = 32,
		.present = PTE_P, .address = BITS(31, 12), .accessed = PTE_A, .dirty = PTE_D,
	},
	[FORMAT_LEGACY_PSE] = {
		.name = "32-bit PSE", .levels = 2, .index_bits = 10, .entry_bytes = 4, .va_bits = 32, .large = BIT(2),
		.present = PTE_P, .address = BITS(31, 12), .accessed = PTE_A, .dirty = PTE_D,
		.reserved[1][2] = BIT(21), .high_shift = 32 - 13,
	},
	[FORMAT_PAE] = {
		.name = "PAE", .levels = 2, .index_bits = 9, .entry_bytes = 8, .va_bits = 32, .large = BIT(2),
		.present = PTE_P, .inverted = PTE_NX, .address = BITS(51, 12), .accessed = PTE_A, .dirty = PTE_D,
		.reserved = { { [1] = BITS(62, 52), [2] = BITS(62, 52) },
			      { [1] = BITS(62, 52), [2] = BITS(62, 52) | BITS(20, 13) } },
	},
	[FORMAT_PAE_WALKED] = {
		.name = "PAE in memory", .levels = 3, .index_bits = 9, .entry_bytes = 8, .va_bits = 32, .large = BIT(2),
		.present = PTE_P, .inverted = PTE_NX, .address = BITS(51, 12), .accessed = PTE_A, .dirty = PTE_D,
		.reserved = { { [1] = BITS(62, 52), [2] = BITS(62, 52), [3] = BITS(63, 52) | BITS(8, 5) | BITS(2, 1) },
			      { [1] = BITS(62, 52), [2] = BITS(62, 52) | BITS(20, 13) } },
		.root_level = 3,
	},
	[FORMAT_4_LEVEL] = {
		.name = "4-level", .levels = 4, .index_bits = 9, .entry_bytes = 8, .va_bits = 48,
		.large = BIT(2) | BIT(3),
		.present = PTE_P, .inverted = PTE_NX, .address = BITS(51, 12), .accessed = PTE_A, .dirty = PTE_D,
		.reserved = { { [4] = PTE_PS }, { [2] = BITS(20, 13), [3] = BITS(29, 13) } },
	},
	[FORMAT_5_LEVEL] = {
		.name = "5-level", .levels = 5, .index_bits = 9, .entry_bytes = 8, .va_bits = 57,
		.large = BIT(2) | BIT(3),
		.present = PTE_P, .inverted = PTE_NX, .address = BITS(51, 12), .accessed = PTE_A, .dirty = PTE_D,
		.reserved = { { [4] = PTE_PS, [5] = PTE_PS }, { [2] = BITS(20, 13), [3] = BITS(29, 13) } },
	},
	[FORMAT_EPT] = {
		.name = "EPT", .levels = 4, .index_bits = 9, .entry_bytes = 8, .large = BIT(2) | BIT(3),
		.present = EPT_R | EPT_W | EPT_X, .address = BITS(51, 12), .accessed = EPT_A, .dirty = EPT_D,
		.reserved = { { [4] = BITS(7, 3), [3] = BITS(6, 3), [2] = BITS(6, 3) },
			      { [3] = BITS(29, 12), [2] = BITS(20, 12) } },
		.bad_rights = BIT(EPT_W) | BIT(EPT_W | EPT_X),
		.bad_types = BIT(2) | BIT(3) | BIT(7),
	},
	[FORMAT_EPT_5_LEVEL] = {
		.name = "5-level EPT", .levels = 5, .index_bits = 9, .entry_bytes = 8, .large = BIT(2) | BIT(3),
		.present = EPT_R | EPT_W | EPT_X, .address = BITS(51, 12), .accessed = EPT_A, .dirty = EPT_D,
		.reserved = { { [5] = BITS(7, 3), [4] = BITS(7, 3), [3] = BITS(6, 3), [2] = BITS(6, 3) },
			      { [3] = BITS(29, 12), [2] = BITS(20, 12) } },
		.bad_rights = BIT(EPT_W) | BIT(EPT_W | EPT_X),
		.bad_types = BIT(2) | BIT(3) | BIT(7),
	},
};

u64 mmu_nested_root(u64 ncr3, u64 host_cr4, u64 host_efer, bool gmet)
{
	const struct mmu_paging host = { .cr0 = CR0_PG, .cr4 = host_cr4, .efer = host_efer, .eptp = NPT_ROOT };
	enum format_id id = format_of(&host);
	bool nx = host_efer & EFER_NXE, fetch = nx || (host_cr4 & CR4_SMEP);
	u64 root = ncr3 & (id == FORMAT_PAE_WALKED ? BITS(31, 5) : id <= FORMAT_PAE ? BITS(31, 12) : BITS(51, 12));
	return NPT_ROOT | (u64)id << 60 | (nx ? NPT_NX : 0) | (fetch ? NPT_FETCH : 0) | (gmet ? NPT_GMET : 0) | root;
}

enum format_id format_of(const struct mmu_paging *paging)
{
	if (!(paging->cr0 & CR0_PG))
		return FORMAT_NONE;
	if (paging->efer & EFER_LMA)
		return paging->cr4 & CR4_LA57 ? FORMAT_5_LEVEL : FORMAT_4_LEVEL;
	if (paging->cr4 & CR4_PAE)
		return paging->eptp & NPT_ROOT ? FORMAT_PAE_WALKED : FORMAT_PAE;
	return paging->cr4 & CR4_PSE ? FORMAT_LEGACY_PSE : FORMAT_LEGACY;
}

void format_prepare(struct walk_format *format, enum format_id id, unsigned phys_bits, bool nxe_or_mbec)
{
	*format = formats[id];
	u64 reserved = 0;
	if (format->entry_bytes == 8) {
		if (phys_bits < 52)
			reserved = BITS(51, phys_bits);
		if (format->inverted && !nxe_or_mbec)
			reserved |= PTE_NX;
		if ((format->present & EPT_W) && nxe_or_mbec)
			format->present |= EPT_XU;
	}
	for (unsigned level = 1; level <= format->levels; level++) {
		format->reserved[0][level] |= reserved;
		format->reserved[1][level] |= reserved;
	}
	/* PSE-36: of the address bits 39:32 in bits 20:13, those beyond MAXPHYADDR are reserved (SDM table 4-4). */
	if (format->high_shift && phys_bits < 40)
		format->reserved[1][2] |= BITS(20, phys_bits <= 32 ? 13 : phys_bits - format->high_shift);
}
