/* 5-level paging: switched on with paging off, one level more, 57-bit addresses. */
#include "lib/guest.h"

static u64 pml5[512] ALIGNED(4096), high_pml4[512] ALIGNED(4096), high_pdpt[512] ALIGNED(4096),
	high_pd[512] ALIGNED(4096), high_pt[512] ALIGNED(4096);
static u8 page[4096] ALIGNED(4096);

#define CR4_LA57 BIT(12)
#define HIGH     ((volatile u8 *)(3ULL << 48))

/* switch_la57(cr3, cr4): from 64-bit mode through compatibility mode without paging, and back. */
asm(".text\n"
    "switch_la57:\n"
    "	mov %rsp, %r10\n"
    "	push $0x08\n"
    "	push $1f\n"
    "	lretq\n"
    "	.code32\n"
    "1:	mov $0x10, %eax\n"
    "	mov %eax, %ss\n"
    "	mov %cr0, %eax\n"
    "	btr $31, %eax\n"
    "	mov %eax, %cr0\n"
    "	mov %edi, %cr3\n"
    "	mov %esi, %cr4\n"
    "	bts $31, %eax\n"
    "	mov %eax, %cr0\n"
    "	ljmp $0x18, $2f\n"
    "	.code64\n"
    "2:	mov %r10d, %esp\n"
    "	ret\n");
void switch_la57(u64 cr3, u64 cr4);

void guest_main(void)
{
	u32 r[4];
	cpuid(7, 0, r);
	if (!(r[2] & BIT(16))) {
		skip("la57", "not in CPUID");
		return;
	}
	TRY_AT("mov %0, %%cr4", : : "r"(read_cr4() | CR4_LA57) : "memory");
	CHECK("la57-cannot-change-in-long-mode", is_fault(GP, 0));
	TRY("movb $1, (%0)", : : "a"(HIGH) : "memory");
	CHECK("57-bit-address-is-gp-with-4-levels", fault.vector == GP);

	pml5[0] = (u64)boot_pml4 | 3;
	pml5[3] = (u64)high_pml4 | 3;
	high_pml4[0] = (u64)high_pdpt | 3;
	high_pdpt[0] = (u64)high_pd | 3;
	high_pd[0] = (u64)high_pt | 3;
	high_pt[0] = (u64)page | 3;
	pml5[511] = (u64)high_pml4 | 3;
	switch_la57((u64)pml5, read_cr4() | CR4_LA57);
	CHECK("la57-is-on", read_cr4() & CR4_LA57);
	page[0] = 0x5a;
	CHECK("57-bit-address-reads", *HIGH == 0x5a);
	*HIGH = 0x5b;
	CHECK("57-bit-address-writes", page[0] == 0x5b);
	CHECK("accessed-at-all-five-levels",
	      pml5[3] & 0x20 && high_pml4[0] & 0x20 && high_pdpt[0] & 0x20 && high_pd[0] & 0x20 && high_pt[0] & 0x20);
	CHECK("dirty-at-the-last", high_pt[0] & 0x40 && !(pml5[3] & 0x40));
	CHECK("negative-57-bit-address", *(volatile u8 *)(511ULL << 48 | 0xfe00000000000000) == 0x5b);
	TRY("movb $1, (%0)", : : "a"(0x0100000000000000) : "memory");
	CHECK("58-bit-address-is-gp", fault.vector == GP && fault.error == 0);
	TRY("movb $1, (%0)", : : "a"(5ULL << 48) : "memory");
	CHECK("absent-pml5e-is-pf", fault.vector == PF && fault.error == 2 && fault.address == 5ULL << 48);
	pml5[5] = (u64)high_pml4 | 3 | 0x80;
	TRY("movb $1, (%0)", : : "a"(5ULL << 48) : "memory");
	CHECK("ps-of-pml5e-is-reserved", fault.vector == PF && fault.error == 0xb);
	switch_la57((u64)boot_pml4, read_cr4() & ~CR4_LA57);
	CHECK("and-off-again", !(read_cr4() & CR4_LA57) && TRY("movb $1, (%0)", : : "a"(HIGH) : "memory") == GP);
}
