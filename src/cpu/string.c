/*
 * String instructions: MOVS CMPS STOS LODS SCAS, with REP, REPE and REPNE.
 *
 * Repeated MOVS and STOS run in chunks of whole elements within one page, on host memory. After each chunk or element
 * the registers say what is done, so that a fault or an interrupt finds the instruction restartable; between chunks the
 * block loop gets its turn if it wants it, RIP staying at the instruction (SDM vol. 2, "REP").
 */
#include "cpu/block.h"
#include "cpu/internal.h"
#include "cpu/native.h"
#include "cpu/operand.h"

/* Elements between two looks at `attention` where they go one by one. */
enum { SLICE = 1024 };

/* --- addresses --- */

static u64 source_offset(const struct cpu *cpu, const struct insn *insn)
{
	return cpu->reg[RSI] & size_mask(insn->adsize);
}

static u64 dest_offset(const struct cpu *cpu, const struct insn *insn)
{
	return cpu->reg[RDI] & size_mask(insn->adsize);
}

/* DS:rSI, or the segment that a prefix names. */
static inline u64 source_linear(struct cpu *cpu, const struct insn *insn, unsigned size)
{
	return access_offset_linear(cpu, insn, source_offset(cpu, insn), size, MMU_READ);
}

/* ES:rDI, whatever the prefix. */
static inline u64 dest_linear(struct cpu *cpu, const struct insn *insn, unsigned size, enum mmu_access access)
{
	u64 offset = dest_offset(cpu, insn);
	if (cpu->mode_key & MODE_CODE64)
		return offset;
	if (cpu->mode_key & MODE_FLAT)
		return (u32)offset;
	return access_check_segment(cpu, SEG_ES, offset, size, access);
}

static i64 step_of(const struct cpu *cpu, unsigned size)
{
	return cpu->rflags_sys & RFLAGS_DF ? -(i64)size : (i64)size;
}

static void advance(struct cpu *cpu, const struct insn *insn, unsigned reg, i64 bytes)
{
	reg_set(cpu, reg, insn->adsize, cpu->reg[reg] + (u64)bytes);
}

/* --- repetition --- */

static u64 get_count(const struct cpu *cpu, const struct insn *insn)
{
	return cpu->reg[RCX] & size_mask(insn->adsize);
}

static void set_count(struct cpu *cpu, const struct insn *insn, u64 count)
{
	reg_set(cpu, RCX, insn->adsize, count);
}

/* In single-step each element is a step of its own. */
static bool must_pause(const struct cpu *cpu)
{
	return __atomic_load_n(&cpu->attention, __ATOMIC_RELAXED) || (cpu->mode_key & MODE_STEP);
}

/* Pointers of the two instructions that processors repeat by whole blocks. */
enum { USES_NONE = 0, USES_DEST = 1, USES_BOTH = 3 };

/*
 * The count. With 32-bit addresses in 64-bit mode Intel's processors clear the upper half of RCX, and those of the
 * pointers of MOVS and STOS, before the first element: one sees it if there is none, or if that one faults. AMD's
 * change nothing then. The manuals say nothing, but guests shown one vendor should not meet the other's habits.
 */
static inline u64 begin_repeat(struct cpu *cpu, const struct insn *insn, unsigned pointers)
{
	u64 count = get_count(cpu, insn);
	if (unlikely(insn->adsize == 4 && (cpu->mode_key & MODE_CODE64)) && !cpu_is_amd(cpu)) {
		set_count(cpu, insn, count);
		if (pointers & USES_DEST)
			advance(cpu, insn, RDI, 0);
		if (pointers == USES_BOTH)
			advance(cpu, insn, RSI, 0);
	}
	return count;
}

/*
 * One element after the other while `one` says true (CMPS and SCAS: the comparison's outcome lets the repetition go
 * on). If an element faults the flags are Intel's of before the instruction (SDM vol. 2, "REP"), AMD's of the element
 * before it.
 */
static inline void repeat(struct cpu *cpu, const struct insn *insn, bool (*one)(struct cpu *, const struct insn *),
			  unsigned pointers)
{
	u64 count = begin_repeat(cpu, insn, pointers);
	u16 flags = cpu->arith;
	for (unsigned slice = 1; count; slice++) {
		bool more = one(cpu, insn);
		set_count(cpu, insn, --count);
		if (!more || !count)
			return;
		if ((slice % SLICE == 0 || (cpu->mode_key & MODE_STEP)) && must_pause(cpu)) {
			cpu_run_again(cpu);
			return;
		}
		if (!cpu_is_amd(cpu))
			cpu->arith = flags;
	}
}

/*
 * How many bytes from the linear address of `offset` may be treated at once: no checks per element, forwards, up to the
 * point where the address register wraps.
 */
static u64 chunk_limit(const struct insn *insn, u64 offset, u64 bytes)
{
	u64 to_wrap = size_mask(insn->adsize) - offset;
	return bytes - 1 > to_wrap ? to_wrap : bytes;
}

/* Bytes of `count` elements, or a page's worth. */
static u64 chunk_wanted(u64 count, unsigned size)
{
	return count < PAGE_SIZE / size ? count * size : PAGE_SIZE;
}

static bool may_chunk(const struct cpu *cpu, const struct insn *insn)
{
	return !(cpu->rflags_sys & RFLAGS_DF) && !(cpu->mode_key & MODE_STEP) &&
	       (cpu->mode_key & (MODE_CODE64 | MODE_FLAT)) && !(insn->flags & INSN_LEGACY);
}

static inline u8 *chunk_pointer(struct cpu *cpu, u64 linear, enum mmu_access access, u64 *bytes)
{
	u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, 1, access == MMU_WRITE);
	if (unlikely(!p))
		return access_chunk(cpu, linear, access, bytes);
	u64 rest = PAGE_SIZE - (linear & (PAGE_SIZE - 1));
	if (*bytes > rest)
		*bytes = rest;
	return p;
}

/* --- MOVS --- */

/* Forwards, element after element: an overlap repeats the pattern between the two addresses. */
static void copy_elements(u8 *to, const u8 *from, u64 bytes, unsigned size)
{
	u64 distance = (u64)(to - from);
	if (distance >= bytes || (i64)distance < 0) {
		/* The destination lies before or behind the source: nothing is read after it was written. */
		memmove(to, from, bytes);
		return;
	}
	u64 element;
	for (u64 i = 0; i < bytes; i += size) {
		memcpy(&element, from + i, size);
		memcpy(to + i, &element, size);
	}
}

/* Copies a chunk; returns its bytes, 0 if one element must go the slow way. */
static u64 movs_chunk(struct cpu *cpu, const struct insn *insn, u64 count, unsigned size)
{
	u64 source = source_offset(cpu, insn), dest = dest_offset(cpu, insn);
	u64 bytes = chunk_limit(insn, source, chunk_wanted(count, size));

	bytes = chunk_limit(insn, dest, bytes);
	const u8 *from = chunk_pointer(cpu, source_linear(cpu, insn, size), MMU_READ, &bytes);
	if (!from || bytes < size)
		return 0;
	u8 *to = chunk_pointer(cpu, dest_linear(cpu, insn, size, MMU_WRITE), MMU_WRITE, &bytes);
	if (!to || bytes < size) {
		access_done(cpu);
		return 0;
	}
	bytes -= bytes % size;
	copy_elements(to, from, bytes, size);
	access_done(cpu);
	advance(cpu, insn, RSI, (i64)bytes);
	advance(cpu, insn, RDI, (i64)bytes);
	return bytes;
}

typedef u64 (*chunk_fn)(struct cpu *cpu, const struct insn *insn, u64 count, unsigned size);

/* REP forward: by chunks where a chunk is possible, else by elements. RCX is right whenever an element faults. */
static inline __attribute__((always_inline)) void repeat_chunks(struct cpu *cpu, const struct insn *insn,
								chunk_fn chunk, insn_fn element, unsigned size,
								unsigned pointers)
{
	for (u64 count = begin_repeat(cpu, insn, pointers); count;) {
		u64 bytes = chunk(cpu, insn, count, size);
		if (!bytes) {
			element(cpu, insn);
			bytes = size;
		}
		count -= bytes / size;
		set_count(cpu, insn, count);
		if (count && must_pause(cpu)) {
			cpu_run_again(cpu);
			return;
		}
	}
}

#define MOVS(bits)                                                                                                     \
	static void movs##bits(struct cpu *cpu, const struct insn *insn)                                               \
	{                                                                                                              \
		u##bits v = mem_read##bits(cpu, source_linear(cpu, insn, bits / 8));                                   \
		mem_write##bits(cpu, dest_linear(cpu, insn, bits / 8, MMU_WRITE), v);                                  \
		advance(cpu, insn, RSI, step_of(cpu, bits / 8));                                                       \
		advance(cpu, insn, RDI, step_of(cpu, bits / 8));                                                       \
	}                                                                                                              \
	static bool movs##bits##_one(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		movs##bits(cpu, insn);                                                                                 \
		return true;                                                                                           \
	}                                                                                                              \
	static void rep_movs##bits(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		if (may_chunk(cpu, insn))                                                                              \
			repeat_chunks(cpu, insn, movs_chunk, movs##bits, bits / 8, USES_BOTH);                         \
		else                                                                                                   \
			repeat(cpu, insn, movs##bits##_one, USES_BOTH);                                                \
	}
MOVS(8)
MOVS(16)
MOVS(32)
MOVS(64)

/* --- STOS --- */

static void fill_elements(u8 *to, u64 value, u64 bytes, unsigned size)
{
	u8 byte = (u8)value;
	if (size == 1 || (value & size_mask(size)) == (byte * 0x0101010101010101ULL & size_mask(size))) {
		memset(to, byte, bytes);
		return;
	}
	for (u64 i = 0; i < bytes; i += size)
		memcpy(to + i, &value, size);
}

static u64 stos_chunk(struct cpu *cpu, const struct insn *insn, u64 count, unsigned size)
{
	u64 bytes = chunk_limit(insn, dest_offset(cpu, insn), chunk_wanted(count, size));
	u8 *to = chunk_pointer(cpu, dest_linear(cpu, insn, size, MMU_WRITE), MMU_WRITE, &bytes);
	if (!to || bytes < size) {
		access_done(cpu);
		return 0;
	}
	bytes -= bytes % size;
	fill_elements(to, cpu->reg[RAX], bytes, size);
	access_done(cpu);
	advance(cpu, insn, RDI, (i64)bytes);
	return bytes;
}

#define STOS(bits)                                                                                                     \
	static void stos##bits(struct cpu *cpu, const struct insn *insn)                                               \
	{                                                                                                              \
		mem_write##bits(cpu, dest_linear(cpu, insn, bits / 8, MMU_WRITE), (u##bits)cpu->reg[RAX]);             \
		advance(cpu, insn, RDI, step_of(cpu, bits / 8));                                                       \
	}                                                                                                              \
	static bool stos##bits##_one(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		stos##bits(cpu, insn);                                                                                 \
		return true;                                                                                           \
	}                                                                                                              \
	static void rep_stos##bits(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		if (may_chunk(cpu, insn))                                                                              \
			repeat_chunks(cpu, insn, stos_chunk, stos##bits, bits / 8, USES_DEST);                         \
		else                                                                                                   \
			repeat(cpu, insn, stos##bits##_one, USES_DEST);                                                \
	}
STOS(8)
STOS(16)
STOS(32)
STOS(64)

/* --- LODS --- */

#define LODS(bits)                                                                                                     \
	static void lods##bits(struct cpu *cpu, const struct insn *insn)                                               \
	{                                                                                                              \
		u##bits v = mem_read##bits(cpu, source_linear(cpu, insn, bits / 8));                                   \
		advance(cpu, insn, RSI, step_of(cpu, bits / 8));                                                       \
		reg_set##bits(cpu, RAX, v);                                                                            \
	}                                                                                                              \
	static bool lods##bits##_one(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		lods##bits(cpu, insn);                                                                                 \
		return true;                                                                                           \
	}                                                                                                              \
	static void rep_lods##bits(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		repeat(cpu, insn, lods##bits##_one, USES_NONE);                                                        \
	}
LODS(8)
LODS(16)
LODS(32)
LODS(64)

/* --- CMPS, SCAS: REPE goes on while equal, REPNE while not --- */

static bool goes_on(const struct cpu *cpu, const struct insn *insn)
{
	return !(cpu->arith & ARITH_ZF) == !(insn->flags & INSN_REP);
}

#define COMPARE(bits)                                                                                                  \
	static inline void compare##bits(struct cpu *cpu, u##bits a, u##bits b)                                        \
	{                                                                                                              \
		u16 ax;                                                                                                \
		asm("cmp %[b], %[a]" HOST_FLAGS_OUT : "=&a"(ax) : [a] "r"(a), [b] "r"(b) : "cc");                      \
		cpu->arith = ax;                                                                                       \
	}                                                                                                              \
	static void cmps##bits(struct cpu *cpu, const struct insn *insn)                                               \
	{                                                                                                              \
		u##bits a = mem_read##bits(cpu, source_linear(cpu, insn, bits / 8));                                   \
		u##bits b = mem_read##bits(cpu, dest_linear(cpu, insn, bits / 8, MMU_READ));                           \
		compare##bits(cpu, a, b);                                                                              \
		advance(cpu, insn, RSI, step_of(cpu, bits / 8));                                                       \
		advance(cpu, insn, RDI, step_of(cpu, bits / 8));                                                       \
	}                                                                                                              \
	static bool cmps##bits##_one(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		cmps##bits(cpu, insn);                                                                                 \
		return goes_on(cpu, insn);                                                                             \
	}                                                                                                              \
	static void rep_cmps##bits(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		repeat(cpu, insn, cmps##bits##_one, USES_NONE);                                                        \
	}                                                                                                              \
	static void scas##bits(struct cpu *cpu, const struct insn *insn)                                               \
	{                                                                                                              \
		u##bits b = mem_read##bits(cpu, dest_linear(cpu, insn, bits / 8, MMU_READ));                           \
		compare##bits(cpu, (u##bits)cpu->reg[RAX], b);                                                         \
		advance(cpu, insn, RDI, step_of(cpu, bits / 8));                                                       \
	}                                                                                                              \
	static bool scas##bits##_one(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		scas##bits(cpu, insn);                                                                                 \
		return goes_on(cpu, insn);                                                                             \
	}                                                                                                              \
	static void rep_scas##bits(struct cpu *cpu, const struct insn *insn)                                           \
	{                                                                                                              \
		repeat(cpu, insn, scas##bits##_one, USES_NONE);                                                        \
	}
COMPARE(8)
COMPARE(16)
COMPARE(32)
COMPARE(64)

/* --- choosing --- */

typedef const insn_fn string_table[2][4]; /* plain and repeated, by element size */

/* The source operand's segment may be overridden: it is that of the operand addressed by rSI. */
static void set_source_segment(const struct decode *d, struct insn *insn)
{
	for (unsigned i = 0; i < d->zi->operand_count; i++) {
		const ZydisDecodedOperand *op = &d->op[i];
		if (op->type != OPERAND_MEM)
			continue;
		if (op->mem.base == ZYDIS_REGISTER_RSI || op->mem.base == ZYDIS_REGISTER_ESI ||
		    op->mem.base == ZYDIS_REGISTER_SI)
			insn_set_segment(d->mode_key, insn, (enum seg)(op->mem.segment - ZYDIS_REGISTER_ES));
	}
}

static bool select_string(const struct decode *d, struct insn *insn, unsigned size, string_table table)
{
	bool repeated = insn->flags & (INSN_REP | INSN_REPNE);
	set_source_segment(d, insn);
	/* Implicit operands: nobody must take base and disp for an address. */
	insn->flags &= (u8)~INSN_MEM;
	if (repeated)
		insn->flags |= INSN_ENDS;
	insn->exec = table[repeated][size_index(size)];
	return true;
}

#define STRING(op)                                                                                                     \
	static string_table op##_table = { { op##8, op##16, op##32, op##64 },                                          \
					   { rep_##op##8, rep_##op##16, rep_##op##32, rep_##op##64 } };                \
	bool select_##op##b(const struct decode *d, struct insn *insn)                                                 \
	{                                                                                                              \
		return select_string(d, insn, 1, op##_table);                                                          \
	}                                                                                                              \
	bool select_##op##w(const struct decode *d, struct insn *insn)                                                 \
	{                                                                                                              \
		return select_string(d, insn, 2, op##_table);                                                          \
	}                                                                                                              \
	bool select_##op##q(const struct decode *d, struct insn *insn)                                                 \
	{                                                                                                              \
		return select_string(d, insn, 8, op##_table);                                                          \
	}
STRING(movs)
STRING(cmps)
STRING(stos)
STRING(lods)
STRING(scas)

bool select_stosd(const struct decode *d, struct insn *insn)
{
	return select_string(d, insn, 4, stos_table);
}

bool select_lodsd(const struct decode *d, struct insn *insn)
{
	return select_string(d, insn, 4, lods_table);
}

bool select_scasd(const struct decode *d, struct insn *insn)
{
	return select_string(d, insn, 4, scas_table);
}

/* These two mnemonics are SSE2 instructions too. */
bool select_movsd(const struct decode *d, struct insn *insn)
{
	if (d->zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return native_select(d, insn);
	return select_string(d, insn, 4, movs_table);
}

bool select_cmpsd(const struct decode *d, struct insn *insn)
{
	if (d->zi->opcode_map != ZYDIS_OPCODE_MAP_DEFAULT)
		return native_select(d, insn);
	return select_string(d, insn, 4, cmps_table);
}
