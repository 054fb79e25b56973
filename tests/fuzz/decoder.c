/*
 * Random bytes through the decoder in every mode: whatever they are, there is an instruction to run, its fields index
 * nothing out of bounds, and more bytes never change what fewer bytes already were.
 *
 *	fuzz-decoder [-runs=N] [-seed=N]
 */
#include "cpu/block_cache.h"
#include "cpu/cpu.h"
#include "cpu/native.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static struct cpu cpu;
static struct mem mem;
static struct cpu_config config;
static u64 random_state;

static u64 next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* Bytes that lead somewhere: prefixes and escapes first, then anything. */
static void make_bytes(u8 bytes[16])
{
	static const u8 leads[] = { 0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x2e, 0x64, 0x65, 0x48, 0x41,
				    0x4f, 0xc4, 0xc5, 0x62, 0x8f, 0x0f, 0x0f, 0x0f, 0xd9, 0xff };
	unsigned at = 0;
	for (unsigned n = next_random() % 4; at < n; at++)
		bytes[at] = leads[next_random() % sizeof(leads)];
	if (bytes[0] == 0x0f && next_random() % 4 == 0)
		bytes[at++] = next_random() & 1 ? 0x38 : 0x3a;
	for (; at < 16; at++)
		bytes[at] = (u8)next_random();
}

static void check(bool ok, const char *what, u32 mode, const u8 *bytes)
{
	if (ok)
		return;
	fprintf(stderr, "mode %03x: %s:", mode, what);
	for (unsigned i = 0; i < 15; i++)
		fprintf(stderr, " %02x", bytes[i]);
	fputc('\n', stderr);
	abort();
}

static void try_bytes(u32 mode, const u8 bytes[16])
{
	struct insn insn, again;
	bool complete = insn_decode(&cpu, mode, bytes, 15, &insn);
	check(complete, "fifteen bytes are not enough", mode, bytes);
	check(insn.exec, "no handler", mode, bytes);
	check(insn.exec != insn_exec_checked || (insn.inner && insn.mnemonic), "wrapper around nothing", mode, bytes);
	check(insn.length >= 1 && insn.length <= 15, "length", mode, bytes);
	check(insn.base < REG_SLOTS && insn.index < REG_SLOTS && insn.scale <= 3 && insn.seg < SEG_SLOTS, "address",
	      mode, bytes);
	check(insn.dst < 32 && insn.src < 32, "register", mode, bytes);
	check((insn.flags & INSN_LEGACY) == 0 || !(mode & MODE_CODE64), "segment checks in 64-bit mode", mode, bytes);
	/* The instruction itself is enough, one byte less is not, and what follows it does not matter. */
	if (insn.exec == insn_exec_undefined || !insn.mnemonic)
		return;
	complete = insn_decode(&cpu, mode, bytes, insn.length, &again);
	check(complete && again.length == insn.length && again.exec == insn.exec, "depends on what follows", mode,
	      bytes);
	check(!insn_decode(&cpu, mode, bytes, insn.length - 1u, &again), "complete without its last byte", mode, bytes);
}

int main(int argc, char **argv)
{
	static const u32 modes[] = { MODE_CODE64,
				     MODE_CODE64 | MODE_NON_ROOT,
				     MODE_CODE64 | MODE_BOUNDS,
				     MODE_CODE32 | MODE_STACK32 | MODE_BOUNDS,
				     MODE_CODE32 | MODE_STACK32 | MODE_FLAT,
				     MODE_CODE32 | MODE_STACK16,
				     MODE_CODE16 | MODE_STACK16,
				     MODE_CODE16 | MODE_STACK16 | MODE_REAL,
				     MODE_CODE16 | MODE_STACK16 | MODE_V86 };
	unsigned long runs = 300000;
	u64 seed = (u64)time(NULL);

	for (int i = 1; i < argc; i++) {
		if (!strncmp(argv[i], "-runs=", 6))
			runs = strtoul(argv[i] + 6, NULL, 0);
		else if (!strncmp(argv[i], "-seed=", 6))
			seed = strtoull(argv[i] + 6, NULL, 0);
	}
	printf("seed %llu\n", (unsigned long long)seed);
	fflush(stdout);
	random_state = seed * 2 + 1;
	memset(config.features, 0xff, sizeof(config.features));
	cpu.config = &config;
	cpu.mem = &mem;
	if (mem_init(&mem, 1 << 20) || block_cache_init(&cpu) || native_init(&cpu))
		return 1;
	for (unsigned long run = 0; run < runs; run++) {
		u8 bytes[16];
		make_bytes(bytes);
		try_bytes(modes[next_random() % ARRAY_SIZE(modes)], bytes);
	}
	return 0;
}
