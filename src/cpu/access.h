/*
 * Guest memory as instructions see it. Fast paths are inline TLB hits; everything else (misses, page crossing, devices,
 * pages with code, segment checks) goes to access.c. All functions throw guest faults (event.h, hv->stage2_fault).
 *
 * `linear` addresses come from access_linear(), which adds the segment base and checks limits and rights where the
 * mode demands it, or are used directly in 64-bit flat segments.
 */
#ifndef STRATA_CPU_ACCESS_H
#define STRATA_CPU_ACCESS_H

#include "cpu/cpu.h"
#include "cpu/insn.h"

#include <string.h>

/*
 * Legacy segment check of [offset, offset+size) in segment slot seg (SDM vol. 3, 5.3 to 5.5): #SS for SS, #GP
 * otherwise; null or unusable segments, limits, expand-down, read-only, execute-only. In 64-bit mode: canonical check
 * (#GP, or #SS for SS, RSP- and RBP-based addresses). Returns the linear address.
 */
u64 access_check_segment(struct cpu *cpu, unsigned seg, u64 offset, unsigned size, enum mmu_access access);

static inline __attribute__((always_inline)) u64 access_linear(struct cpu *cpu, const struct insn *insn, unsigned size,
							       enum mmu_access access)
{
	/* Only 64-bit mode has 64-bit addresses, and no checks. */
	if (likely(insn->adsize == 8))
		return cpu->reg[insn->base] + (cpu->reg[insn->index] << insn->scale) + (u64)(i64)insn->disp +
		       cpu->seg_base[insn->seg];
	u64 ea = insn_ea(cpu, insn);
	if (unlikely(insn->flags & INSN_LEGACY))
		return access_check_segment(cpu, insn->seg, ea, size, access);
	u64 linear = ea + cpu->seg_base[insn->seg];
	return cpu->mode == CPU_LONG ? linear : (u32)linear;
}

/*
 * Guest memory in this process, one access each: other CPUs and devices may use it at the same time, and the compiler
 * must neither split an access nor repeat it.
 */
#define HOST_ACCESS(bits)                                                                                              \
	typedef u##bits __attribute__((may_alias, aligned(1))) guest_u##bits;                                          \
	static inline u##bits load##bits(const u8 *p)                                                                  \
	{                                                                                                              \
		return *(const volatile guest_u##bits *)p;                                                             \
	}                                                                                                              \
	static inline void store##bits(u8 *p, u##bits v)                                                               \
	{                                                                                                              \
		*(volatile guest_u##bits *)p = v;                                                                      \
	}
HOST_ACCESS(8)
HOST_ACCESS(16)
HOST_ACCESS(32)
HOST_ACCESS(64)
#undef HOST_ACCESS

/* Slow paths: any size 1..64, any alignment. In class `cls`. Non-canonical: #GP(0), or #SS(0) if the running insn uses
 * SS. */
void access_read(struct cpu *cpu, u64 linear, void *buffer, unsigned size, enum mmu_class cls);
void access_write(struct cpu *cpu, u64 linear, const void *buffer, unsigned size, enum mmu_class cls);
/* Throws if [linear, +size) cannot be written (or read); does nothing else than setting A/D bits. */
void access_probe(struct cpu *cpu, u64 linear, unsigned size, enum mmu_access access);

/*
 * Host address for a read-modify-write of `size` bytes, if they lie in one page of RAM that may be written; NULL if it
 * must be done by access_read and access_write (devices, page crossing) after access_probe. Throws on faults. After the
 * write: access_done().
 */
u8 *access_rmw_pointer(struct cpu *cpu, u64 linear, unsigned size);

/*
 * Host pointer for REP string chunks. *chunk: bytes wanted, then how many of them may be used, at most the page's rest;
 * NULL if they must be accessed one by one. Throws on faults of the first byte. After a write: access_done().
 */
u8 *access_chunk(struct cpu *cpu, u64 linear, enum mmu_access access, u64 *chunk);

/* The bytes are written: if there was code, all CPUs must know. Throws nothing, and neither may what lies between. */
void access_tell_written(struct cpu *cpu);
static inline void access_done(struct cpu *cpu)
{
	if (unlikely(cpu->code_write.size))
		access_tell_written(cpu);
}

static inline u8 *access_hit(struct cpu *cpu, const struct tlb_entry *table, u64 linear, unsigned size, bool write)
{
	const struct tlb_entry *e = &table[tlb_index(linear)];
	u64 tag = (linear & PAGE_MASK) | cpu->mmu.revision;
	if (likely((write ? e->write : e->read) == tag && (linear & (PAGE_SIZE - 1)) + size <= PAGE_SIZE))
		return (u8 *)(linear + e->addend);
	return NULL;
}

#define ACCESS_SIZED(bits, bytes)                                                                                      \
	static inline u##bits mem_read##bits(struct cpu *cpu, u64 linear)                                              \
	{                                                                                                              \
		u##bits v;                                                                                             \
		const u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, bytes, false);                                     \
		if (likely(p))                                                                                         \
			v = load##bits(p);                                                                             \
		else                                                                                                   \
			access_read(cpu, linear, &v, bytes, cpu->mmu.cls);                                             \
		return v;                                                                                              \
	}                                                                                                              \
	static inline void mem_write##bits(struct cpu *cpu, u64 linear, u##bits v)                                     \
	{                                                                                                              \
		u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, bytes, true);                                            \
		if (likely(p))                                                                                         \
			store##bits(p, v);                                                                             \
		else                                                                                                   \
			access_write(cpu, linear, &v, bytes, cpu->mmu.cls);                                            \
	}                                                                                                              \
	/* Implicit supervisor accesses: descriptor tables, TSS, interrupt stacks of ring 0. */                        \
	static inline u##bits sys_read##bits(struct cpu *cpu, u64 linear)                                              \
	{                                                                                                              \
		u##bits v;                                                                                             \
		const u8 *p = access_hit(cpu, cpu->mmu.system, linear, bytes, false);                                  \
		if (likely(p))                                                                                         \
			v = load##bits(p);                                                                             \
		else                                                                                                   \
			access_read(cpu, linear, &v, bytes, MMU_SUPERVISOR);                                           \
		return v;                                                                                              \
	}                                                                                                              \
	static inline void sys_write##bits(struct cpu *cpu, u64 linear, u##bits v)                                     \
	{                                                                                                              \
		u8 *p = access_hit(cpu, cpu->mmu.system, linear, bytes, true);                                         \
		if (likely(p))                                                                                         \
			store##bits(p, v);                                                                             \
		else                                                                                                   \
			access_write(cpu, linear, &v, bytes, MMU_SUPERVISOR);                                          \
	}
ACCESS_SIZED(8, 1)
ACCESS_SIZED(16, 2)
ACCESS_SIZED(32, 4)
ACCESS_SIZED(64, 8)
#undef ACCESS_SIZED

#endif
