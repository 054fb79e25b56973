/* The paging modes of 32-bit protected mode: 32-bit, with 4 MiB pages and PSE-36, and PAE. */
#include "lib/guest.h"

enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
enum { E_P = 1, E_W = 2, E_U = 4, E_RSVD = 8, E_FETCH = 16 };
#define CR0_PG  BIT(31)
#define CR4_PSE BIT(4)
#define CR4_PAE BIT(5)

static u32 directory[1024] ALIGNED(4096), low_tables[4][1024] ALIGNED(4096), window_table[1024] ALIGNED(4096);
static u64 pdpt[4] ALIGNED(32), pae_directory[4][512] ALIGNED(4096), pae_window[512] ALIGNED(4096);
static u8 pages[3][4096] ALIGNED(4096);

#define WINDOW ((volatile u8 *)0x40000000)

static word read_at(volatile u8 *p)
{
	return TRY("movb (%0), %%al", : : "r"(p) : "eax", "memory");
}

static word write_at(volatile u8 *p)
{
	return TRY("movb $9, (%0)", : : "r"(p) : "memory");
}

static word jump_to(volatile u8 *p)
{
	return TRY("jmp *%0", : : "r"(p) : "memory");
}

static bool page_fault(word vector, volatile u8 *p, word error)
{
	return vector == PF && fault.error == error && fault.address == (word)p;
}

static void fill_pages(void)
{
	for (unsigned i = 0; i < 3; i++)
		memset(pages[i], (int)i + 1, 4096);
}

/* --- 32-bit paging --- */

static void map(unsigned page, const void *target, u32 bits)
{
	window_table[page] = (u32)target | bits;
	invlpg(WINDOW + page * 4096);
}

static void test_legacy(void)
{
	fill_pages();
	for (u32 i = 0; i < 4 * 1024; i++)
		low_tables[i / 1024][i % 1024] = i << 12 | P | W;
	for (u32 i = 0; i < 4; i++)
		directory[i] = (u32)low_tables[i] | P | W | U | PS; /* PS means nothing yet */
	directory[256] = (u32)window_table | P | W | U;
	write_cr3((word)directory);
	write_cr0(read_cr0() | CR0_PG);
	CHECK("32-bit-paging-is-on", read_cr0() & CR0_PG);
	map(0, pages[0], P | W);
	CHECK("32-bit-reads", WINDOW[0] == 1);
	(void)*(volatile u8 *)pages[2];
	CHECK("32-bit-ps-is-ignored-without-pse", low_tables[0][(u32)pages[2] / 4096] & A);
	CHECK("32-bit-read-sets-accessed", (window_table[0] & (A | D)) == A && directory[256] & A);
	WINDOW[0] = 5;
	CHECK("32-bit-write-sets-dirty", (window_table[0] & (A | D)) == (A | D) && !(directory[256] & D));
	CHECK("32-bit-absent", page_fault(write_at(WINDOW + 4096), WINDOW + 4096, E_W));
	map(0, pages[0], P);
	CHECK("32-bit-read-only", page_fault(write_at(WINDOW), WINDOW, E_P | E_W));
	map(1, pages[1], P | W);
	map(0, pages[0], P | W);
	*(volatile u32 *)(WINDOW + 4094) = 0xddccbbaa;
	CHECK("32-bit-write-across-pages", pages[0][4094] == 0xaa && pages[1][1] == 0xdd);
}

static void test_pse(void)
{
	u32 base = (u32)pages >> 22 << 22;
	directory[257] = base | P | W | PS;
	write_cr4(read_cr4() | CR4_PSE);
	/* The low directory entries have PS set and point to tables: 4 MiB pages now would be wrong. */
	volatile u8 *p = WINDOW + 0x400000 + ((u32)pages - base);
	CHECK("4m-page-reads", p[1] == pages[0][1]);
	p[2] = 0x77;
	CHECK("4m-page-writes", pages[0][2] == 0x77);
	CHECK("4m-page-sets-accessed-and-dirty", (directory[257] & (A | D)) == (A | D));
	directory[257] = base | P | W | PS | (u32)BIT(21);
	write_cr3(read_cr3());
	CHECK("4m-bit-21-is-reserved", page_fault(read_at(p), p, E_P | E_RSVD));
	directory[257] = base | P | W | PS | 1 << 13; /* PSE-36: 4 GiB up, where there is no RAM */
	write_cr3(read_cr3());
	CHECK("pse-36-reaches-beyond-4-gib", *p == 0xff && pages[0][0] != 0xff);
	directory[257] = 0;
	invlpg(WINDOW + 0x400000 + 0x3ff000);
	CHECK("invlpg-drops-all-of-a-4m-page", read_at(p) == PF);
}

static void leave_paging(void)
{
	write_cr0(read_cr0() & ~CR0_PG);
	write_cr4(read_cr4() & ~CR4_PSE);
}

/* --- PAE --- */

static void map_pae(unsigned page, const void *target, u64 bits)
{
	pae_window[page] = (u32)target | bits;
	invlpg(WINDOW + page * 4096);
}

static void test_pae(void)
{
	fill_pages();
	for (u64 i = 0; i < 16; i++)
		pae_directory[0][i] = i << 21 | P | W | PS;
	pae_directory[1][0] = (u32)pae_window | P | W | U;
	for (unsigned i = 0; i < 2; i++)
		pdpt[i] = (u32)pae_directory[i] | P;
	wrmsr(0xc0000080, rdmsr(0xc0000080) | BIT(11)); /* NXE */
	write_cr4(read_cr4() | CR4_PAE);
	write_cr3((word)pdpt);
	write_cr0(read_cr0() | CR0_PG);
	map_pae(0, pages[0], P | W);
	CHECK("pae-reads", WINDOW[0] == 1);
	CHECK("pae-sets-accessed", (pae_window[0] & (A | D)) == A && pae_directory[1][0] & A);
	WINDOW[0] = 6;
	CHECK("pae-sets-dirty", pae_window[0] & D);
	CHECK("pae-absent", page_fault(read_at(WINDOW + 4096), WINDOW + 4096, 0));
	CHECK("pae-absent-pdpte", page_fault(read_at(WINDOW + 0x40000000), WINDOW + 0x40000000, 0));
	map_pae(0, pages[0], P);
	CHECK("pae-read-only", page_fault(write_at(WINDOW), WINDOW, E_P | E_W));
	map_pae(0, pages[0], P | W | BIT(63));
	CHECK("pae-nx-stops-fetch", page_fault(jump_to(WINDOW), WINDOW, E_P | E_FETCH));
	map_pae(0, pages[0], P | W | BIT(52));
	CHECK("pae-bit-52-is-reserved", page_fault(read_at(WINDOW), WINDOW, E_P | E_RSVD));
	pae_directory[1][1] = P | W | PS | BIT(13);
	CHECK("pae-2m-bit-13-is-reserved", page_fault(read_at(WINDOW + 0x200000), WINDOW + 0x200000, E_P | E_RSVD));
	u32 two = (u32)pages >> 21 << 21;
	pae_directory[1][1] = two | P | W | PS;
	volatile u8 *p = WINDOW + 0x200000 + ((u32)pages - two);
	CHECK("pae-2m-page", p[1] == pages[0][1]);
	/* PDPTEs are registers: a change in memory waits for MOV to CR3. */
	map_pae(0, pages[0], P | W);
	pdpt[1] = 0;
	invlpg(WINDOW);
	CHECK("pdpte-in-memory-does-not-count", read_at(WINDOW) == NO_FAULT);
	write_cr3(read_cr3());
	CHECK("mov-to-cr3-loads-pdptes", page_fault(read_at(WINDOW), WINDOW, 0));
	pdpt[1] = (u32)pae_directory[1] | P | W; /* bit 1 is reserved in a PDPTE */
	TRY_AT("mov %0, %%cr3", : : "r"(read_cr3()) : "memory");
	CHECK("reserved-pdpte-bit-is-gp-at-mov-cr3", is_fault(GP, 0));
	pdpt[1] = (u32)pae_directory[1] | P;
	write_cr3(read_cr3());
	CHECK("good-pdptes-again", read_at(WINDOW) == NO_FAULT);
}

void guest_main(void)
{
	test_legacy();
	/* With PSE the identity entries must be what they say. */
	for (u32 i = 0; i < 4; i++)
		directory[i] &= ~(u32)PS;
	write_cr3(read_cr3());
	test_pse();
	leave_paging();
	test_pae();
	write_cr0(read_cr0() & ~CR0_PG);
}
