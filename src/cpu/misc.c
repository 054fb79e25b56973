/*
 * Integer instructions that belong to no family: NOP and hints, fences, cache lines, UDn, BOUND, CRC32, RDRAND, RDSEED.
 */
#include "cpu/block.h"
#include "cpu/operand.h"

#include <sched.h>

#define ONE_FORM(name)                                                                                                 \
	bool select_##name(const struct decode *d, struct insn *insn)                                                  \
	{                                                                                                              \
		insn->exec = exec_##name;                                                                              \
		return true;                                                                                           \
	}

/* NOP with an operand, prefetches and ENDBR access no memory and never fault. */
static void exec_nop(struct cpu *cpu, const struct insn *insn)
{
}
ONE_FORM(nop)

/*
 * Whoever spins waits for another CPU, which may be waiting for a host processor. One CPU alone waits for a device,
 * whose thread the host's scheduler serves by itself.
 */
static void exec_pause(struct cpu *cpu, const struct insn *insn)
{
	const unsigned patience = 64;
	if (cpu->config->cpu_count > 1 && ++cpu->pauses % patience == 0)
		sched_yield();
}
ONE_FORM(pause)

/* The guest's loads and stores are the host's, in order; only what the compiler and the host may defer is fenced. */
static void exec_fence(struct cpu *cpu, const struct insn *insn)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
ONE_FORM(fence)

/* CLFLUSH, CLFLUSHOPT, CLWB: caches are not modelled, but the address is checked as for a load. */
static void exec_clflush(struct cpu *cpu, const struct insn *insn)
{
	access_probe(cpu, access_linear(cpu, insn, 1, MMU_READ), 1, MMU_READ);
}
ONE_FORM(clflush)

bool select_undefined(const struct decode *d, struct insn *insn)
{
	insn->exec = insn_exec_undefined;
	insn->flags |= INSN_ENDS;
	return true;
}

/* BOUND: a signed index against a pair in memory. The array begins at the pair's first, ends with its second. */
static void exec_bound(struct cpu *cpu, const struct insn *insn)
{
	unsigned size = insn->opsize;
	u64 linear = access_linear(cpu, insn, size * 2, MMU_READ);
	i64 index, low, high;

	if (size == 2) {
		index = (i16)cpu->reg[insn->dst];
		low = (i16)mem_read16(cpu, linear);
		high = (i16)mem_read16(cpu, (linear + 2) & linear_mask(cpu));
	} else {
		index = (i32)cpu->reg[insn->dst];
		low = (i32)mem_read32(cpu, linear);
		high = (i32)mem_read32(cpu, (linear + 4) & linear_mask(cpu));
	}
	if (index >= low && index <= high)
		return;
	/* No fault of MPX's (SDM vol. 1, 17.3.3). */
	if (cpu->mode_key & MODE_BOUNDS)
		cpu->bounds.status = 0;
	cpu_raise(cpu, VEC_BR);
}

bool select_bound(const struct decode *d, struct insn *insn)
{
	insn->opsize = (u8)operand_size(d, 0);
	insn->exec = exec_bound;
	return true;
}

/* --- CRC32: the host has it (x86-64-v2) --- */

#define CRC32_SIZE(bits, suffix)                                                                                       \
	static void run_crc##bits(struct cpu *cpu, const struct insn *insn, u##bits s)                                 \
	{                                                                                                              \
		u64 crc = (u32)cpu->reg[insn->dst];                                                                    \
		asm("crc32" suffix : [crc] "+r"(crc) : [s] "r"(s));                                                    \
		cpu->reg[insn->dst] = (u32)crc;                                                                        \
	}                                                                                                              \
	static void crc##bits##_r(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		run_crc##bits(cpu, insn, get_src##bits(cpu, insn));                                                    \
	}                                                                                                              \
	static void crc##bits##_m(struct cpu *cpu, const struct insn *insn)                                            \
	{                                                                                                              \
		run_crc##bits(cpu, insn, get_mem##bits(cpu, insn));                                                    \
	}
CRC32_SIZE(8, "b %[s], %k[crc]")
CRC32_SIZE(16, "w %[s], %k[crc]")
CRC32_SIZE(32, "l %[s], %k[crc]")
CRC32_SIZE(64, "q %[s], %[crc]")

bool select_crc32(const struct decode *d, struct insn *insn)
{
	static const insn_fn table[4][2] = {
		{ crc8_r, crc8_m }, { crc16_r, crc16_m }, { crc32_r, crc32_m }, { crc64_r, crc64_m }
	};
	insn->exec = table[size_index(operand_size(d, 1))][operand_is(d, 1, OPERAND_MEM)];
	return true;
}

/* --- RDRAND, RDSEED: the host's, with its rare failures, which leave CF and the destination 0 --- */

static void store_random(struct cpu *cpu, const struct insn *insn, u64 v, bool ok)
{
	reg_set(cpu, insn->dst, insn->opsize, v);
	cpu->arith = ARITH_FIXED | (ok ? ARITH_CF : 0);
}

static void exec_rdrand(struct cpu *cpu, const struct insn *insn)
{
	u64 v;
	bool ok;
	asm volatile("rdrand %0" : "=r"(v), "=@ccc"(ok));
	store_random(cpu, insn, v, ok);
}

static void exec_rdseed(struct cpu *cpu, const struct insn *insn)
{
	u64 v;
	bool ok;
	asm volatile("rdseed %0" : "=r"(v), "=@ccc"(ok));
	store_random(cpu, insn, v, ok);
}

bool select_rdrand(const struct decode *d, struct insn *insn)
{
	insn->opsize = (u8)operand_size(d, 0);
	insn->exec = exec_rdrand;
	return true;
}

bool select_rdseed(const struct decode *d, struct insn *insn)
{
	insn->opsize = (u8)operand_size(d, 0);
	insn->exec = exec_rdseed;
	return true;
}
