/*
 * XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B. On RAM the host's own locked instruction runs on the guest's bytes, so that
 * other virtual CPUs and threads see one access; across cache lines and on devices no other CPU runs meanwhile.
 */
#include "cpu/operand.h"

/* --- XADD --- */

#define XADD_SIZE(bits)                                                                                                \
	static void xadd##bits##_rr(struct cpu *cpu, const struct insn *insn)                                          \
	{                                                                                                              \
		u##bits d = get_dst##bits(cpu, insn), s = get_src##bits(cpu, insn);                                    \
		u16 ax;                                                                                                \
		asm("xadd %[s], %[d]" HOST_FLAGS_OUT : [d] "+r"(d), [s] "+r"(s), "=&a"(ax) : : "cc");                  \
		cpu->arith = ax;                                                                                       \
		set_src##bits(cpu, insn, s);                                                                           \
		set_dst##bits(cpu, insn, d);                                                                           \
	}                                                                                                              \
	static void xadd##bits##_mr(struct cpu *cpu, const struct insn *insn)                                          \
	{                                                                                                              \
		u64 copy, linear = access_linear(cpu, insn, bits / 8, MMU_WRITE);                                      \
		u8 *p = lock_begin##bits(cpu, linear, &copy);                                                          \
		u##bits s = get_src##bits(cpu, insn);                                                                  \
		u16 ax;                                                                                                \
		asm volatile("lock xadd %[s], %[d]" HOST_FLAGS_OUT                                                     \
			     : [d] "+m"(*(u##bits *)p), [s] "+r"(s), "=&a"(ax)                                         \
			     :                                                                                         \
			     : "cc", "memory");                                                                        \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		cpu->arith = ax;                                                                                       \
		set_src##bits(cpu, insn, s);                                                                           \
	}
XADD_SIZE(8)
XADD_SIZE(16)
XADD_SIZE(32)
XADD_SIZE(64)

/* Without LOCK the exchange may be locked all the same. */
static form_table xadd_forms = {
	[FORM_RR] = { xadd8_rr, xadd16_rr, xadd32_rr, xadd64_rr },
	[FORM_MR] = { xadd8_mr, xadd16_mr, xadd32_mr, xadd64_mr },
	[FORM_LMR] = { xadd8_mr, xadd16_mr, xadd32_mr, xadd64_mr },
};

bool select_xadd(const struct decode *d, struct insn *insn)
{
	return select_form(d, insn, xadd_forms);
}

/* --- CMPXCHG: whole registers go in, so that the upper halves of 32-bit operands come out as on the host --- */

#define CMPXCHG_MEMORY(name, bits, lock)                                                                               \
	static void name##bits(struct cpu *cpu, const struct insn *insn)                                               \
	{                                                                                                              \
		u64 copy, linear = access_linear(cpu, insn, bits / 8, MMU_WRITE);                                      \
		u8 *p = lock_begin##bits(cpu, linear, &copy);                                                          \
		u64 rax = cpu->reg[RAX], flags;                                                                        \
		u##bits s = get_src##bits(cpu, insn);                                                                  \
		asm volatile(lock "cmpxchg %[s], %[d]\n\tmov %%rax, %[flags]" HOST_FLAGS_OUT                           \
				  "\n\txchg %%rax, %[flags]"                                                           \
			     : [d] "+m"(*(u##bits *)p), "+&a"(rax), [flags] "=&r"(flags)                               \
			     : [s] "r"(s)                                                                              \
			     : "cc", "memory");                                                                        \
		rmw_end(cpu, linear, bits / 8, p, &copy);                                                              \
		cpu->arith = (u16)flags;                                                                               \
		cpu->reg[RAX] = rax;                                                                                   \
	}

#define CMPXCHG_SIZE(bits)                                                                                             \
	CMPXCHG_MEMORY(cmpxchg_mr, bits, "")                                                                           \
	CMPXCHG_MEMORY(cmpxchg_lmr, bits, "lock ")

CMPXCHG_SIZE(8)
CMPXCHG_SIZE(16)
CMPXCHG_SIZE(32)
CMPXCHG_SIZE(64)

#define CMPXCHG_REGISTER(bits, width)                                                                                  \
	static void cmpxchg_rr##bits(struct cpu *cpu, const struct insn *insn)                                         \
	{                                                                                                              \
		u64 rax = cpu->reg[RAX], d = cpu->reg[insn->dst], s = cpu->reg[insn->src], flags;                      \
		asm("cmpxchg %" width "[s], %" width "[d]\n\tmov %%rax, %[flags]" HOST_FLAGS_OUT                       \
		    "\n\txchg %%rax, %[flags]"                                                                         \
		    : [d] "+r"(d), "+&a"(rax), [flags] "=&r"(flags)                                                    \
		    : [s] "r"(s)                                                                                       \
		    : "cc");                                                                                           \
		cpu->arith = (u16)flags;                                                                               \
		cpu->reg[RAX] = rax;                                                                                   \
		if (insn->dst != RAX || (cpu->arith & ARITH_ZF))                                                       \
			cpu->reg[insn->dst] = d;                                                                       \
	}
CMPXCHG_REGISTER(16, "w")
CMPXCHG_REGISTER(32, "k")
CMPXCHG_REGISTER(64, "q")

/* Bytes: registers may be high ones. */
static void cmpxchg_rr8(struct cpu *cpu, const struct insn *insn)
{
	u8 d = get_dst8(cpu, insn), al = (u8)cpu->reg[RAX];
	u16 ax;
	asm("cmp %[d], %[al]" HOST_FLAGS_OUT : "=&a"(ax) : [d] "r"(d), [al] "r"(al) : "cc");
	cpu->arith = ax;
	if (ax & ARITH_ZF)
		set_dst8(cpu, insn, get_src8(cpu, insn));
	else
		reg_set8(cpu, RAX, d);
}

static form_table cmpxchg_forms = {
	[FORM_RR] = { cmpxchg_rr8, cmpxchg_rr16, cmpxchg_rr32, cmpxchg_rr64 },
	[FORM_MR] = { cmpxchg_mr8, cmpxchg_mr16, cmpxchg_mr32, cmpxchg_mr64 },
	[FORM_LMR] = { cmpxchg_lmr8, cmpxchg_lmr16, cmpxchg_lmr32, cmpxchg_lmr64 },
};

bool select_cmpxchg(const struct decode *d, struct insn *insn)
{
	return select_form(d, insn, cmpxchg_forms);
}

/* --- CMPXCHG8B, CMPXCHG16B: ZF alone changes --- */

static void exec_cmpxchg8b(struct cpu *cpu, const struct insn *insn)
{
	u64 copy, linear = access_linear(cpu, insn, 8, MMU_WRITE);
	u8 *p = lock_begin64(cpu, linear, &copy);
	u64 expected = (u32)cpu->reg[RAX] | cpu->reg[RDX] << 32;
	u64 wanted = (u32)cpu->reg[RBX] | cpu->reg[RCX] << 32;
	bool equal =
		__atomic_compare_exchange_n((u64 *)p, &expected, wanted, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	rmw_end(cpu, linear, 8, p, &copy);
	if (!equal) {
		reg_set32(cpu, RAX, (u32)expected);
		reg_set32(cpu, RDX, (u32)(expected >> 32));
	}
	set_flag(cpu, ARITH_ZF, equal);
}

bool select_cmpxchg8b(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_cmpxchg8b;
	return true;
}

static void exec_cmpxchg16b(struct cpu *cpu, const struct insn *insn)
{
	u64 copy[2] __attribute__((aligned(16)));
	u64 linear = access_linear(cpu, insn, 16, MMU_WRITE);
	if (linear & 15)
		cpu_raise_gp(cpu);
	u8 *p = access_hit(cpu, cpu->mmu.tlb, linear, 16, true);
	if (!p)
		p = lock_begin_slow(cpu, linear, 16, copy);
	u64 rax = cpu->reg[RAX], rdx = cpu->reg[RDX];
	bool equal;
	asm volatile("lock cmpxchg16b %[m]"
		     : [m] "+m"(*(unsigned __int128 *)p), "+a"(rax), "+d"(rdx), "=@ccz"(equal)
		     : "b"(cpu->reg[RBX]), "c"(cpu->reg[RCX])
		     : "memory");
	rmw_end(cpu, linear, 16, p, copy);
	if (!equal) {
		cpu->reg[RAX] = rax;
		cpu->reg[RDX] = rdx;
	}
	set_flag(cpu, ARITH_ZF, equal);
}

bool select_cmpxchg16b(const struct decode *d, struct insn *insn)
{
	insn->exec = exec_cmpxchg16b;
	return true;
}
