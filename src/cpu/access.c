#include "cpu/access.h"

#include "cpu/event.h"
#include "cpu/hv_ops.h"
#include "cpu/internal.h"
#include "cpu/vector.h"

/*
 * Non-canonical address: does the access go through the stack segment? 64-bit mode keeps no SS base to tell by. It is
 * the base register of the operand that says so; or, for the implicit operand of PUSH, CALL, LEAVE and the like, that
 * the address is where the stack pointer (LEAVE: the frame pointer) points.
 */
static bool uses_stack_segment(const struct cpu *cpu, u64 linear)
{
	const u64 near = 64;
	const struct insn *insn = cpu->insn;
	bool has_operand = insn && insn->flags & INSN_MEM;
	if (has_operand && (insn->base == RSP || insn->base == RBP))
		return insn->seg == SEG_FLAT || insn->seg == SEG_SS;
	return linear - cpu->reg[RSP] + near <= 2 * near || (!has_operand && linear == cpu->reg[RBP]);
}

static NORETURN void raise_fault(struct cpu *cpu, u64 linear, const struct mmu_result *fault)
{
	switch (fault->kind) {
	case MMU_NOT_CANONICAL:
		cpu_raise_error(cpu, uses_stack_segment(cpu, linear) ? VEC_SS : VEC_GP, 0);
	case MMU_PAGE_FAULT:
		cpu_raise_page_fault(cpu, linear, fault->error_code);
	default:
		cpu->hv->stage2_fault(cpu, linear, fault);
		__builtin_trap(); /* it exits; there is no stage 2 without hv */
	}
}

static struct mmu_result translate(struct cpu *cpu, u64 linear, enum mmu_access access, enum mmu_class cls)
{
	struct mmu_result r = mmu_translate(&cpu->mmu, linear, access, cls);
	if (unlikely(r.kind != MMU_OK))
		raise_fault(cpu, linear, &r);
	return r;
}

/*
 * The page is no RAM. A device may answer with an event: the instruction runs alone. What the guest's hypervisor keeps
 * for a virtual APIC is its affair.
 */
static __attribute__((noinline)) void begin_device_access(struct cpu *cpu, u64 linear, const struct mmu_result *page,
							  unsigned size, enum mmu_access access)
{
	if (page->apic)
		cpu->hv->apic_access(cpu, linear, page->gpa & (PAGE_SIZE - 1), size, access);
	cpu_run_alone(cpu);
}

static bool is_device(const struct mmu_result *page)
{
	return page->ram_offset == RAM_OFFSET_NONE;
}

/* An access of at most 64 bytes: one or two pages, both translated before any byte moves. */
struct span {
	u64 linear;
	unsigned size;
	unsigned first; /* bytes in the first page; the rest is in `next` */
	struct mmu_result page, next;
};

/*
 * Address of the second page. Outside 64-bit mode linear addresses wrap at 4 GiB, except those of descriptor tables in
 * compatibility mode, which begin above.
 */
static u64 next_page(const struct cpu *cpu, u64 linear, unsigned first)
{
	u64 next = linear + first;
	return cpu->mode == CPU_LONG || linear >> 32 ? next : (u32)next;
}

/*
 * Alignment that #AC checks for (SDM vol. 3, table 6-7): the size itself where it is a power of two. Vector operands of
 * 16 and 32 bytes must lie on 16 for AMD (APM vol. 4, exceptions of the VEX instructions); Intel checks none of them,
 * and leaves out some instructions with smaller ones (SDM vol. 1, 14.9; vol. 3, interrupt 17).
 */
static unsigned required_alignment(const struct cpu *cpu, unsigned size)
{
	if (!cpu_is_amd(cpu) && (size == 16 || size == 32 || vector_is_never_aligned(cpu->insn)))
		return 1;
	switch (size) {
	case 14: /* FLDENV, FSTENV */
		return 2;
	case 6: /* far pointers */
	case 28:
		return 4;
	case 10: /* extended precision */
		return 8;
	case 32:
		return 16;
	default:
		return size <= 16 && !(size & (size - 1)) ? size : 1;
	}
}

static void check_alignment(struct cpu *cpu, u64 linear, unsigned size, enum mmu_class cls)
{
	if (cls == MMU_USER && cpu->cpl == 3 && (cpu->cr0 & CR0_AM) && (cpu->rflags_sys & RFLAGS_AC) &&
	    (linear & (required_alignment(cpu, size) - 1)))
		cpu_raise_error(cpu, VEC_AC, 0);
}

/* Data breakpoints (SDM vol. 3, 17.2.5): R/W 01b stops writes, 11b reads and writes; the trap follows the instruction.
 */
static void note_breakpoints(struct cpu *cpu, u64 linear, unsigned size, enum mmu_access access)
{
	static const u8 lengths[] = { 1, 2, 8, 4 };
	u64 dr7 = cpu->dr[7], hits = 0;
	for (unsigned n = 0; n < 4; n++) {
		unsigned kind = dr7 >> (16 + 4 * n) & 3;
		bool wanted = kind == 3 || (kind == 1 && access == MMU_WRITE);
		if (!wanted)
			continue;
		u64 length = lengths[dr7 >> (18 + 4 * n) & 3];
		u64 start = cpu->dr[n] & ~(length - 1);
		if (linear < start + length && start < linear + size)
			hits |= BIT(n);
	}
	/* DR6 shows every match, but only an enabled breakpoint traps. */
	u64 enabled = 0;
	for (unsigned n = 0; n < 4; n++)
		if (dr7 >> (2 * n) & 3)
			enabled |= BIT(n);
	if (hits & enabled) {
		cpu->pending_db |= hits;
		cpu_attend(cpu, ATTEND_TRAP);
	}
}

static void span_translate(struct cpu *cpu, struct span *s, u64 linear, unsigned size, enum mmu_access access,
			   enum mmu_class cls)
{
	unsigned rest = (unsigned)(PAGE_SIZE - (linear & (PAGE_SIZE - 1)));
	s->linear = linear;
	s->size = size;
	s->first = size <= rest ? size : rest;
	if (unlikely(cpu->mmu.checked))
		check_alignment(cpu, linear, size, cls);
	s->page = translate(cpu, linear, access, cls);
	if (s->first < size)
		s->next = translate(cpu, next_page(cpu, linear, s->first), access, cls);
	if (unlikely(is_device(&s->page)))
		begin_device_access(cpu, linear, &s->page, s->first, access);
	if (unlikely(s->first < size && is_device(&s->next)))
		begin_device_access(cpu, next_page(cpu, linear, s->first), &s->next, size - s->first, access);
	if (unlikely(cpu->mmu.checked))
		note_breakpoints(cpu, linear, size, access);
}

/* Guest memory to and from a buffer: sizes that are one access on any bus are one here, as another CPU may look. */
static void copy_in(void *to, const u8 *guest, unsigned size)
{
	switch (size) {
	case 1:
		*(u8 *)to = load8(guest);
		break;
	case 2:
		store16(to, load16(guest));
		break;
	case 4:
		store32(to, load32(guest));
		break;
	case 8:
		store64(to, load64(guest));
		break;
	default:
		memcpy(to, guest, size);
	}
}

static void copy_out(u8 *guest, const void *from, unsigned size)
{
	copy_in(guest, from, size);
}

/* Largest power of two up to 8 that fits: what one device access can carry. */
static unsigned device_piece(unsigned size)
{
	return size >= 8 ? 8 : size >= 4 ? 4 : size >= 2 ? 2 : 1;
}

static void device_read(struct cpu *cpu, gpa_t gpa, u8 *buffer, unsigned size)
{
	while (size) {
		unsigned piece = device_piece(size);
		u64 value = bus_read_mmio(cpu->bus, gpa, piece);
		memcpy(buffer, &value, piece);
		cpu->counters.mmio++;
		gpa += piece;
		buffer += piece;
		size -= piece;
	}
}

static void device_write(struct cpu *cpu, gpa_t gpa, const u8 *buffer, unsigned size)
{
	while (size) {
		unsigned piece = device_piece(size);
		u64 value = 0;
		memcpy(&value, buffer, piece);
		bus_write_mmio(cpu->bus, gpa, piece, value);
		cpu->counters.mmio++;
		gpa += piece;
		buffer += piece;
		size -= piece;
	}
}

static void page_read(struct cpu *cpu, const struct mmu_result *page, u8 *buffer, unsigned size)
{
	if (likely(!is_device(page)))
		copy_in(buffer, cpu->mem->host + page->ram_offset, size);
	else if (page->apic)
		cpu->hv->apic_read(cpu, page->gpa & (PAGE_SIZE - 1), buffer, size);
	else
		device_read(cpu, page->gpa, buffer, size);
}

static void page_write(struct cpu *cpu, const struct mmu_result *page, const u8 *buffer, unsigned size)
{
	if (likely(!is_device(page))) {
		bool code = mem_about_to_write(cpu->mem, page->ram_offset, size);
		copy_out(cpu->mem->host + page->ram_offset, buffer, size);
		if (unlikely(code))
			mem_wrote(cpu->mem, page->ram_offset, size);
	} else if (page->apic) {
		cpu->hv->apic_write(cpu, page->gpa & (PAGE_SIZE - 1), buffer, size);
	} else {
		device_write(cpu, page->gpa, buffer, size);
	}
}

/* Callers with a class of their own come here without having tried the TLB. */
static u8 *class_hit(struct cpu *cpu, u64 linear, unsigned size, enum mmu_class cls, bool write)
{
	if (cls == cpu->mmu.cls)
		return access_hit(cpu, cpu->mmu.tlb, linear, size, write);
	return cls == MMU_SUPERVISOR ? access_hit(cpu, cpu->mmu.system, linear, size, write) : NULL;
}

void access_read(struct cpu *cpu, u64 linear, void *buffer, unsigned size, enum mmu_class cls)
{
	struct span s;
	const u8 *hit = class_hit(cpu, linear, size, cls, false);
	if (hit) {
		copy_in(buffer, hit, size);
		return;
	}
	span_translate(cpu, &s, linear, size, MMU_READ, cls);
	page_read(cpu, &s.page, buffer, s.first);
	if (s.first < size)
		page_read(cpu, &s.next, (u8 *)buffer + s.first, size - s.first);
}

void access_write(struct cpu *cpu, u64 linear, const void *buffer, unsigned size, enum mmu_class cls)
{
	struct span s;
	u8 *hit = class_hit(cpu, linear, size, cls, true);
	if (hit) {
		copy_out(hit, buffer, size);
		return;
	}
	span_translate(cpu, &s, linear, size, MMU_WRITE, cls);
	page_write(cpu, &s.page, buffer, s.first);
	if (s.first < size)
		page_write(cpu, &s.next, (const u8 *)buffer + s.first, size - s.first);
}

void access_probe(struct cpu *cpu, u64 linear, unsigned size, enum mmu_access access)
{
	unsigned rest = (unsigned)(PAGE_SIZE - (linear & (PAGE_SIZE - 1)));
	if (access != MMU_EXEC && access_hit(cpu, cpu->mmu.tlb, linear, size, access == MMU_WRITE))
		return;
	if (unlikely(cpu->mmu.checked))
		check_alignment(cpu, linear, size, cpu->mmu.cls);
	unsigned first = size < rest ? size : rest;
	struct mmu_result page = translate(cpu, linear, access, cpu->mmu.cls), next = page;
	/* Operands of more than a page do not exist, but a frame of ENTER or an XSAVE area spans two. */
	if (size > rest)
		next = translate(cpu, next_page(cpu, linear, rest), access, cpu->mmu.cls);
	if (unlikely(is_device(&page)))
		begin_device_access(cpu, linear, &page, first, access);
	if (unlikely(size > rest && is_device(&next)))
		begin_device_access(cpu, next_page(cpu, linear, rest), &next, size - rest, access);
}

/* The caller writes there, and then calls access_done(). */
static u8 *host_to_write(struct cpu *cpu, u64 ram_offset, u64 size)
{
	if (unlikely(mem_about_to_write(cpu->mem, ram_offset, size)))
		cpu->code_write = (struct code_write){ ram_offset, (u32)size };
	return cpu->mem->host + ram_offset;
}

void access_tell_written(struct cpu *cpu)
{
	mem_wrote(cpu->mem, cpu->code_write.ram_offset, cpu->code_write.size);
	cpu->code_write.size = 0;
}

u8 *access_rmw_pointer(struct cpu *cpu, u64 linear, unsigned size)
{
	u8 *hit = access_hit(cpu, cpu->mmu.tlb, linear, size, true);
	if (likely(hit))
		return hit;
	struct span s;
	span_translate(cpu, &s, linear, size, MMU_WRITE, cpu->mmu.cls);
	if (s.first < size || is_device(&s.page))
		return NULL;
	return host_to_write(cpu, s.page.ram_offset, size);
}

u8 *access_chunk(struct cpu *cpu, u64 linear, enum mmu_access access, u64 *chunk)
{
	u64 rest = PAGE_SIZE - (linear & (PAGE_SIZE - 1));
	if (*chunk > rest)
		*chunk = rest;
	u8 *hit = access_hit(cpu, cpu->mmu.tlb, linear, 1, access == MMU_WRITE);
	if (likely(hit))
		return hit;
	struct mmu_result page = translate(cpu, linear, access, cpu->mmu.cls);
	/* Element by element where each one is to be checked. */
	if (is_device(&page) || cpu->mmu.checked)
		return NULL;
	return access == MMU_WRITE ? host_to_write(cpu, page.ram_offset, *chunk) : cpu->mem->host + page.ram_offset;
}

static NORETURN void raise_segment(struct cpu *cpu, unsigned seg)
{
	cpu_raise_error(cpu, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

/* Does the segment's type forbid the access (SDM vol. 3, 5.5)? Real and virtual-8086 mode know no types. */
static bool type_forbids(u32 ar, enum mmu_access access)
{
	if (!(ar & SEG_AR_S))
		return access != MMU_READ;
	if (ar & SEG_AR_CODE)
		return access == MMU_WRITE || (access == MMU_READ && !(ar & SEG_AR_RW));
	return access == MMU_EXEC || (access == MMU_WRITE && !(ar & SEG_AR_RW));
}

/* Is [offset, +size) outside the segment's limit (SDM vol. 3, 5.3)? */
static bool limit_forbids(const struct segment *s, u64 offset, unsigned size)
{
	u64 last = offset + size - 1;
	bool expand_down = (s->ar & (SEG_AR_S | SEG_AR_CODE | SEG_AR_DC)) == (SEG_AR_S | SEG_AR_DC);
	if (expand_down)
		return offset <= s->limit || last > (s->ar & SEG_AR_DB ? 0xffffffffULL : 0xffffULL);
	/* A 4 GiB segment forbids nothing: the last bytes wrap, as they do in flat mode where nobody checks. */
	return s->limit != 0xffffffff && last > s->limit;
}

u64 access_check_segment(struct cpu *cpu, unsigned seg, u64 offset, unsigned size, enum mmu_access access)
{
	if (cpu->mode == CPU_LONG) {
		u64 linear = offset + cpu->seg_base[seg];
		if (!is_canonical(cpu, linear) || !is_canonical(cpu, linear + size - 1))
			cpu_raise_error(cpu, seg == SEG_SS || uses_stack_segment(cpu, linear) ? VEC_SS : VEC_GP, 0);
		return linear;
	}
	if (seg == SEG_FLAT)
		return (u32)offset;
	const struct segment *s = &cpu->seg[seg];
	bool protected = cpu->mode == CPU_PROT || cpu->mode == CPU_COMPAT;
	if (protected && (s->ar & SEG_AR_UNUSABLE))
		raise_segment(cpu, seg);
	if (protected && type_forbids(s->ar, access))
		cpu_raise_gp(cpu);
	if (limit_forbids(s, offset, size))
		raise_segment(cpu, seg);
	return (u32)(s->base + offset);
}
