/*
 * Instructions across two pages. Neither page alone decides what such an instruction is: a block of no instruction
 * stands for it in the first one, and is dropped when that is written. Its translation compares the bytes in the second
 * page, wherever that is mapped now, and leaves all other cases to the interpreter.
 */
#include "jit/translation.h"

#include <string.h>

enum { LENGTH_MAX = 15 };

/* The bytes behind the page of `linear`, if the TLB knows them as code. */
static bool copy_beyond(const struct cpu *cpu, u64 linear, u8 *to, unsigned n)
{
	u64 next = (linear & PAGE_MASK) + PAGE_SIZE;
	const struct tlb_entry *e = &cpu->mmu.tlb[tlb_index(next)];
	if (e->exec != (next | cpu->mmu.revision))
		return false;
	memcpy(to, (const u8 *)(next + e->addend), n);
	return true;
}

/* T2 = up to 8 bytes of [T0 + at], which must be those of the instruction. Uses T1. */
static void emit_compare_bytes(struct translation *t, unsigned at, unsigned n, const u8 *bytes)
{
	struct emit *e = &t->e;
	u64 value = 0;

	memcpy(&value, bytes, n);
	emit_load(e, HOST_T2, HOST_T0, (i32)at);
	if (n < 8) {
		emit_rr(e, OPCODE_WIDE(0xc1), 4, HOST_T2);
		emit8(e, (u8)(64 - 8 * n));
		value <<= 64 - 8 * n;
	}
	emit_mov_imm(e, HOST_T1, value);
	emit_rr(e, OPCODE_WIDE(0x39), HOST_T1, HOST_T2);
	add_cold(t, emit_jcc(e, COND_NZ, NULL))->kind = COLD_CROSSING;
}

void emit_crossing(struct translation *t)
{
	struct emit *e = &t->e;
	const struct plan *p = t->plan;
	unsigned first = (unsigned)PAGE_SIZE - p->offset, beyond = p->insn->length - first;

	emit_page_address(t, HOST_T0, PAGE_SIZE);
	emit_compare_tag(t, HOST_T0, 0, 1, offsetof(struct tlb_entry, exec));
	add_cold(t, emit_jcc(e, COND_NZ, NULL))->kind = COLD_CROSSING;
	emit_rm(e, OPCODE_WIDE(0x03), HOST_T0, HOST_T1, HOST_NONE, 0, offsetof(struct tlb_entry, addend));
	for (unsigned at = 0; at < beyond; at += 8)
		emit_compare_bytes(t, at, beyond - at < 8 ? beyond - at : 8, p->bytes + first + at);
}

const u8 *jit_translate_crossing(struct cpu *cpu, struct jit *jit, struct block *block)
{
	u8 bytes[LENGTH_MAX];
	u64 linear = cpu->reg[REG_RIP];
	unsigned first = (unsigned)(PAGE_SIZE - (block->ram_offset & (PAGE_SIZE - 1)));

	memcpy(bytes, cpu->mem->host + block->ram_offset, first);
	if (!copy_beyond(cpu, linear, bytes + first, LENGTH_MAX - first))
		return NULL;
	struct block *decoded = block_decode_crossing(cpu, block, bytes);
	if (!decoded)
		return NULL;
	struct trace trace = { .block = { decoded }, .blocks = 1, .count = 1, .crossing = block };
	jit_plan_crossing(cpu, jit, decoded, bytes, jit->plan);
	return jit_translate(cpu, jit, &trace, 0, 1, true);
}
