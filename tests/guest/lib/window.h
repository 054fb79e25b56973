/*
 * Pages of a guest's own choice at an address of their own: a window of 512 pages at 512 GiB, beyond the identity map.
 * 64-bit mode.
 */
#ifndef TESTS_GUEST_WINDOW_H
#define TESTS_GUEST_WINDOW_H

#include "guest.h"

#define WINDOW ((u8 *)(1ULL << 39))

enum { PRESENT = 1, WRITE = 2, USER = 4 };

struct window_tables {
	u64 pdpt[512], pd[512], pt[512];
};
static struct window_tables window ALIGNED(4096);

/* The address space has these tables there. */
static inline void window_open(u64 *pml4, struct window_tables *t)
{
	pml4[1] = (u64)t->pdpt | PRESENT | WRITE | USER;
	t->pdpt[0] = (u64)t->pd | PRESENT | WRITE | USER;
	t->pd[0] = (u64)t->pt | PRESENT | WRITE | USER;
}

/* The window's page `n` is `page`, in the address space that has `window`; NULL: there is none. */
static inline void map(unsigned n, const u8 *page, u64 rights)
{
	window.pt[n] = page ? (u64)page | rights : 0;
	invlpg(WINDOW + 4096 * n);
}

#endif
