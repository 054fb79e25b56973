/*
 * The page of guest memory that is a guest's local APIC: VT-x calls it the virtual-APIC page (SDM vol. 3, 30.1), AMD-V
 * the vAPIC backing page (APM vol. 2, 15.29.3). Registers lie where the memory-mapped APIC has them; ISR, TMR and IRR
 * are 32 vectors in every 16 bytes.
 *
 * The page is guest memory: whoever else writes it finds its guest confused, and nobody else. Outside RAM registers
 * read as all ones, and writes vanish.
 *
 * Threads: any; each call is one access of the host's, or a locked one where it changes a vector.
 */
#ifndef STRATA_HV_APIC_PAGE_H
#define STRATA_HV_APIC_PAGE_H

#include "mem/mem.h"

#include <stdbool.h>

enum apic_register {
	APIC_ID = 0x20,
	APIC_VERSION = 0x30,
	APIC_TPR = 0x80,
	APIC_APR = 0x90,
	APIC_PPR = 0xa0,
	APIC_EOI = 0xb0,
	APIC_REMOTE_READ = 0xc0,
	APIC_LDR = 0xd0,
	APIC_DFR = 0xe0,
	APIC_SVR = 0xf0,
	APIC_ISR = 0x100,
	APIC_TMR = 0x180,
	APIC_IRR = 0x200,
	APIC_ESR = 0x280,
	APIC_ICR = 0x300,
	APIC_ICR_HIGH = 0x310,
	APIC_LVT = 0x320,
	APIC_LVT_LAST = 0x370,
	APIC_TIMER_INITIAL = 0x380,
	APIC_TIMER_CURRENT = 0x390,
	APIC_TIMER_DIVIDE = 0x3e0,
	APIC_SELF_IPI = 0x3f0, /* x2APIC only */
};

/* MSRs 800h to 8FFh are the registers in units of 16 bytes. */
static inline u64 apic_register_of_msr(u32 msr)
{
	return (msr & 0xff) << 4;
}

u32 apic_page_read(const struct mem *mem, gpa_t page, u64 reg);
void apic_page_write(struct mem *mem, gpa_t page, u64 reg, u32 value);

/* One vector of ISR, TMR or IRR (`base`). Other CPUs may set those of IRR meanwhile. */
bool apic_page_has_vector(const struct mem *mem, gpa_t page, u64 base, u8 vector);
void apic_page_set_vector(struct mem *mem, gpa_t page, u64 base, u8 vector);
void apic_page_clear_vector(struct mem *mem, gpa_t page, u64 base, u8 vector);

/* The highest vector of ISR or IRR; 0 if there is none. */
u8 apic_page_highest_vector(const struct mem *mem, gpa_t page, u64 base);

/* Processor priority: that of the task, or of the interrupt in service (its vector; 0: none), if its class is higher.
 */
static inline u8 apic_ppr(u8 tpr, u8 service)
{
	return tpr >> 4 >= service >> 4 ? tpr : service & 0xf0;
}

/* Does that priority let the interrupt in? */
static inline bool apic_lets_in(u8 ppr, u8 vector)
{
	return vector >> 4 > ppr >> 4;
}

#endif
