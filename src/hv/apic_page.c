#include "hv/apic_page.h"

u32 apic_page_read(const struct mem *mem, gpa_t page, u64 reg)
{
	return mem_read_u32(mem, page + reg);
}

void apic_page_write(struct mem *mem, gpa_t page, u64 reg, u32 value)
{
	mem_write_u32(mem, page + reg, value);
}

static u64 register_of_vector(u64 base, u8 vector)
{
	return base + (vector / 32) * 16;
}

static u32 bit_of_vector(u8 vector)
{
	return 1u << vector % 32;
}

bool apic_page_has_vector(const struct mem *mem, gpa_t page, u64 base, u8 vector)
{
	return apic_page_read(mem, page, register_of_vector(base, vector)) & bit_of_vector(vector);
}

static void change_vector(struct mem *mem, gpa_t page, u64 base, u8 vector, bool set)
{
	gpa_t at = page + register_of_vector(base, vector);
	u32 *bits = (u32 *)mem_host(mem, at, sizeof(*bits));
	if (!bits)
		return;
	u64 offset = mem_ram_offset(mem, at);
	bool code = mem_about_to_write(mem, offset, sizeof(*bits));
	if (set)
		__atomic_fetch_or(bits, bit_of_vector(vector), __ATOMIC_SEQ_CST);
	else
		__atomic_fetch_and(bits, ~bit_of_vector(vector), __ATOMIC_SEQ_CST);
	if (unlikely(code))
		mem_wrote(mem, offset, sizeof(*bits));
}

void apic_page_set_vector(struct mem *mem, gpa_t page, u64 base, u8 vector)
{
	change_vector(mem, page, base, vector, true);
}

void apic_page_clear_vector(struct mem *mem, gpa_t page, u64 base, u8 vector)
{
	change_vector(mem, page, base, vector, false);
}

u8 apic_page_highest_vector(const struct mem *mem, gpa_t page, u64 base)
{
	for (unsigned i = 8; i-- > 0;) {
		u32 bits = apic_page_read(mem, page, base + i * 16);
		if (bits)
			return (u8)(i * 32 + 31 - (unsigned)__builtin_clz(bits));
	}
	return 0;
}
