/*
 * A hypervisor small enough for one test: L1 is guest_main(), L2 a few instructions in the same address space (or
 * behind EPT). L2 code is written with L2(), begins at the given function and leaves by any exit; l2_regs holds its
 * registers.
 */
#ifndef TESTS_NESTED_VMX_H
#define TESTS_NESTED_VMX_H

#include "guest.h"

#include "x86/exit_reason.h"
#include "x86/vmcs.h"
#include "x86/vmx_bits.h"

#define CR0_PE   BIT(0)
#define CR0_TS   BIT(3)
#define CR0_NE   BIT(5)
#define CR0_PG   BIT(31)
#define CR4_PAE  BIT(5)
#define CR4_VMXE BIT(13)
#define FLAG_TF  BIT(8)
#define FLAG_IF  BIT(9)

enum { L2_RAX, L2_RCX, L2_RDX, L2_RBX, L2_RBP = 5, L2_RSI, L2_RDI };
extern u64 l2_regs[16];

/* Results of vmx_enter() and vmx_run() that are not exit reasons. */
enum { VM_FAIL_INVALID = 0x1001, VM_FAIL_VALID };

#define L2(name, code)                                                                                                 \
	static __attribute__((naked)) void name(void)                                                                  \
	{                                                                                                              \
		asm volatile(code);                                                                                    \
	}

/* Encodings by field name: F(guest_rip). */
#define F(field) VMCS_ENC_##field

/* --- instructions: 0 success, 1 VMfailInvalid, 2 VMfailValid --- */

#define VMX_RESULT(code, ...)                                                                                          \
	({                                                                                                             \
		bool cf_, zf_;                                                                                         \
		asm volatile(code : "=@ccc"(cf_), "=@ccz"(zf_) : __VA_ARGS__ : "memory");                              \
		cf_ ? 1u : zf_ ? 2u : 0u;                                                                              \
	})

static inline unsigned vmxon(u64 address)
{
	return VMX_RESULT("vmxon %2", "m"(address));
}

static inline unsigned vmxoff(void)
{
	return VMX_RESULT("vmxoff", "r"(0));
}

static inline unsigned vmclear(u64 address)
{
	return VMX_RESULT("vmclear %2", "m"(address));
}

static inline unsigned vmptrld(u64 address)
{
	return VMX_RESULT("vmptrld %2", "m"(address));
}

static inline u64 vmptrst(void)
{
	u64 address;
	asm volatile("vmptrst %0" : "=m"(address) : : "memory", "cc");
	return address;
}

static inline unsigned vmwrite(u64 field, u64 value)
{
	return VMX_RESULT("vmwrite %2, %3", "r"(value), "r"(field));
}

static inline u64 vmread(u64 field)
{
	u64 value = ~0ULL;
	asm volatile("vmread %1, %0" : "+r"(value) : "r"(field) : "cc");
	return value;
}

static inline unsigned vmread_result(u64 field)
{
	u64 value;
	bool cf, zf;
	asm volatile("vmread %3, %0" : "=r"(value), "=@ccc"(cf), "=@ccz"(zf) : "r"(field));
	return cf ? 1 : zf ? 2 : 0;
}

struct invalidate {
	u64 low, high;
};

static inline unsigned invept(u64 type, u64 eptp)
{
	struct invalidate d = { eptp, 0 };
	return VMX_RESULT("invept %2, %3", "m"(d), "r"(type));
}

static inline unsigned invvpid(u64 type, u64 vpid, u64 address)
{
	struct invalidate d = { vpid, address };
	return VMX_RESULT("invvpid %2, %3", "m"(d), "r"(type));
}

/* --- the hypervisor --- */

extern u8 vmxon_region[4096], vmcs_region[4096], other_region[4096];
extern u8 io_bitmaps[2][4096], msr_bitmap[4096], virtual_apic[4096];

/* Switches VMX operation on. */
void vmx_start(void);

/* A fresh VMCS that enters L2 at `code` in this address space, with no optional control set. */
void vmcs_make(void (*code)(void));

/* Sets bits of a 32-bit control. The secondary controls are activated too. */
void vmcs_set(u64 field, u32 bits);
void vmcs_clear_bits(u64 field, u32 bits);

/*
 * Enters L2 until its next exit. The exit reason as in the VMCS (with bit 31 for failed entries), VM_FAIL_INVALID or
 * VM_FAIL_VALID.
 */
u32 vmx_run(void);

/* A fresh VMCS for `code`, and one run. */
u32 vmx_run_fresh(void (*code)(void));

/* Moves L2 past the instruction that exited. */
void l2_skip(void);

/* Identity map of the first 4 GiB by EPT, in 2 MiB pages; the first 16 MiB in 4 KiB pages. */
extern u64 ept_pml4[512], ept_pdpt[512], ept_pd[4][512], ept_pt[8][512];
void ept_make(void);
void ept_use(void);
static inline u64 *ept_entry(const volatile void *address)
{
	u64 page = (u64)address >> 12;
	return &ept_pt[page >> 9][page & 511];
}
u64 ept_pointer(void);

#endif
