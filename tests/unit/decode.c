/*
 * The decoder and the instruction table: every row is reached by some encoding, and decoding keeps its promises on the
 * way. The encodings are all opcodes of all maps, with every prefix that matters, a few ModRM bytes, in several modes.
 */
/* <ucontext.h>, which GLib brings along, has a REG_RIP of its own for GNU sources. */
#undef _GNU_SOURCE
#define _DEFAULT_SOURCE 1

#include "cpu/block_cache.h"
#include "cpu/cpu.h"
#include "cpu/insn.h"
#include "cpu/native.h"
#include "x86/feature.h"

#include <glib.h>
#include <string.h>

static struct cpu cpu;
static struct mem mem;
static struct cpu_config config;
static bool reached[ZYDIS_MNEMONIC_MAX_VALUE + 1];  /* a row was found */
static bool selected[ZYDIS_MNEMONIC_MAX_VALUE + 1]; /* and its select accepted the form */

static const u32 modes[] = {
	MODE_CODE64,
	MODE_CODE32 | MODE_STACK32,
	MODE_CODE32 | MODE_STACK32 | MODE_FLAT,
	MODE_CODE16 | MODE_STACK16,
	MODE_CODE64 | MODE_BOUNDS,
};

static void setup(void)
{
	g_assert_cmpint(mem_init(&mem, 1 << 20), ==, 0);
	memset(config.features, 0xff, sizeof(config.features));
	cpu.mem = &mem;
	cpu.config = &config;
	g_assert_cmpint(block_cache_init(&cpu), ==, 0);
	g_assert_cmpint(native_init(&cpu), ==, 0);
}

static bool decode(u32 mode, const u8 *bytes, size_t size, struct insn *insn)
{
	return insn_decode(&cpu, mode, bytes, size, insn);
}

/* What holds of anything that was decoded. */
static void check_promises(const struct insn *insn)
{
	g_assert_nonnull(insn->exec);
	g_assert_cmpuint(insn->length, >=, 1);
	g_assert_cmpuint(insn->length, <=, 15);
	g_assert_cmpuint(insn->base, <, REG_SLOTS);
	g_assert_cmpuint(insn->index, <, REG_SLOTS);
	g_assert_cmpuint(insn->scale, <=, 3);
	g_assert_cmpuint(insn->seg, <, SEG_SLOTS);
	if (insn->exec == insn_exec_checked)
		g_assert_nonnull(insn->inner);
}

static void note(const struct insn *insn)
{
	check_promises(insn);
	if (!insn->mnemonic)
		return;
	size_t n = insn->mnemonic;
	reached[n] = true;
	if (insn->exec != insn_exec_undefined)
		selected[n] = true;
}

/* ModRM bytes: each reg field with a register, a memory operand, and one with SIB (which is what gathers want). */
static void try_opcode(u32 mode, u8 *bytes, size_t prefix)
{
	static const u8 rm[] = { 0xc0, 0xc1, 0xc5, 0x03, 0x04 };
	for (unsigned reg = 0; reg < 8; reg++)
		for (unsigned i = 0; i < G_N_ELEMENTS(rm); i++) {
			struct insn insn;
			bytes[prefix] = (u8)(rm[i] | reg << 3);
			g_assert_true(decode(mode, bytes, 15, &insn));
			note(&insn);
		}
}

/* x87 and the system groups give each ModRM byte a meaning. */
static void try_all_modrm(u32 mode, u8 *bytes, size_t prefix)
{
	for (unsigned modrm = 0; modrm < 256; modrm++) {
		struct insn insn;
		bytes[prefix] = (u8)modrm;
		g_assert_true(decode(mode, bytes, 15, &insn));
		note(&insn);
	}
}

static void try_map(u32 mode, const u8 *prefix, size_t prefix_size, const u8 *escape, size_t escape_size)
{
	for (unsigned opcode = 0; opcode < 256; opcode++) {
		u8 bytes[15] = { 0 };
		memcpy(bytes, prefix, prefix_size);
		memcpy(bytes + prefix_size, escape, escape_size);
		size_t at = prefix_size + escape_size;
		bytes[at] = (u8)opcode;
		bool x87 = escape_size == 0 && opcode >= 0xd8 && opcode <= 0xdf;
		bool group = escape_size == 1 && (opcode == 0x01 || opcode == 0xae || opcode == 0xc7);
		(x87 || group ? try_all_modrm : try_opcode)(mode, bytes, at + 1);
	}
}

static void try_legacy_maps(u32 mode)
{
	static const u8 prefixes[][2] = { { 0 },    { 0x66 }, { 0xf2 },       { 0xf3 },
					  { 0x67 }, { 0x48 }, { 0x66, 0x48 }, { 0xf3, 0x48 } };
	static const u8 sizes[] = { 0, 1, 1, 1, 1, 1, 2, 2 };
	static const u8 escapes[][2] = { { 0 }, { 0x0f }, { 0x0f, 0x38 }, { 0x0f, 0x3a } };
	static const u8 escape_sizes[] = { 0, 1, 2, 2 };

	for (unsigned p = 0; p < G_N_ELEMENTS(sizes); p++)
		for (unsigned e = 0; e < G_N_ELEMENTS(escape_sizes); e++)
			try_map(mode, prefixes[p], sizes[p], escapes[e], escape_sizes[e]);
}

/* Three-byte VEX: map 1..3, pp 0..3, L, W; vvvv once unused and once a register. */
static void try_vex(u32 mode)
{
	for (unsigned map = 1; map <= 3; map++)
		for (unsigned bits = 0; bits < 32; bits++) {
			u8 vvvv = bits & 16 ? 0x70 : 0x78;
			u8 prefix[3] = { 0xc4, (u8)(0xe0 | map), (u8)((bits & 8) << 4 | vvvv | (bits & 7)) };
			try_map(mode, prefix, 3, (const u8 *)"", 0);
		}
}

static void test_every_row(void)
{
	for (unsigned i = 0; i < G_N_ELEMENTS(modes); i++) {
		try_legacy_maps(modes[i]);
		if (modes[i] & (MODE_CODE64 | MODE_CODE32))
			try_vex(modes[i]);
	}
	unsigned rows = 0, bad = 0;
	for (unsigned n = 0; n <= ZYDIS_MNEMONIC_MAX_VALUE; n++) {
		const struct insn_row *row = insn_row_find((ZydisMnemonic)n);
		if (!row)
			continue;
		rows++;
		bool undefined = n == ZYDIS_MNEMONIC_UD0 || n == ZYDIS_MNEMONIC_UD1 || n == ZYDIS_MNEMONIC_UD2;
		if (reached[n] && (selected[n] || undefined))
			continue;
		bad++;
		g_test_message("%s: %s", row->name, reached[n] ? "always undefined" : "no encoding found");
	}
	g_assert_cmpuint(bad, ==, 0);
	g_assert_cmpuint(rows, >, 500);
}

/* One instruction in 64-bit mode, from bytes. */
static struct insn one(u32 mode, size_t size, const char *bytes)
{
	struct insn insn;
	u8 padded[15] = { 0 };
	memcpy(padded, bytes, size);
	g_assert_true(decode(mode, padded, size, &insn));
	return insn;
}
#define ONE(mode, bytes) one(mode, sizeof(bytes) - 1, bytes)

static void test_operands(void)
{
	struct insn i = ONE(MODE_CODE64, "\x48\x8b\x84\x8b\x78\x56\x34\x12"); /* mov rax, [rbx + 4*rcx + 12345678h] */
	g_assert_cmpuint(i.dst, ==, RAX);
	g_assert_cmpuint(i.base, ==, RBX);
	g_assert_cmpuint(i.index, ==, RCX);
	g_assert_cmpuint(i.scale, ==, 2);
	g_assert_cmpint(i.disp, ==, 0x12345678);
	g_assert_cmpuint(i.seg, ==, SEG_FLAT);
	g_assert_cmpuint(i.adsize, ==, 8);
	i = ONE(MODE_CODE64, "\x88\xe7"); /* mov bh, ah */
	g_assert_cmpuint(i.dst, ==, RBX);
	g_assert_cmpuint(i.src, ==, RAX);
	g_assert_cmpuint(i.flags & (INSN_HIGH_DST | INSN_HIGH_SRC), ==, INSN_HIGH_DST | INSN_HIGH_SRC);
	i = ONE(MODE_CODE64, "\x40\x88\xe7"); /* mov dil, spl */
	g_assert_cmpuint(i.dst, ==, RDI);
	g_assert_cmpuint(i.src, ==, RSP);
	g_assert_cmpuint(i.flags & (INSN_HIGH_DST | INSN_HIGH_SRC), ==, 0);
	i = ONE(MODE_CODE64, "\x65\x48\x8b\x05\x10\x00\x00\x00"); /* mov rax, gs:[rip + 10h] */
	g_assert_cmpuint(i.base, ==, REG_RIP);
	g_assert_cmpuint(i.index, ==, REG_ZERO);
	g_assert_cmpuint(i.seg, ==, SEG_GS);
	i = ONE(MODE_CODE64, "\x48\x81\xc0\x00\x00\x00\x80"); /* add rax, -80000000h */
	g_assert_cmphex(i.imm, ==, 0xffffffff80000000ULL);
	i = ONE(MODE_CODE64, "\x48\xb8\x88\x77\x66\x55\x44\x33\x22\x11"); /* mov rax, 1122334455667788h */
	g_assert_cmphex(i.imm, ==, 0x1122334455667788ULL);
	i = ONE(MODE_CODE64, "\x48\xa1\x88\x77\x66\x55\x44\x33\x22\x11"); /* mov rax, [1122334455667788h] */
	g_assert_cmphex(i.imm, ==, 0x1122334455667788ULL);
}

/* SDM vol. 2, table 2-1: mod 01, with an 8-bit displacement. */
static void test_addresses16(void)
{
	static const struct {
		u8 base, index, seg;
	} forms[8] = {
		{ RBX, RSI, SEG_DS },      { RBX, RDI, SEG_DS },      { RBP, RSI, SEG_SS },
		{ RBP, RDI, SEG_SS },      { RSI, REG_ZERO, SEG_DS }, { RDI, REG_ZERO, SEG_DS },
		{ RBP, REG_ZERO, SEG_SS }, { RBX, REG_ZERO, SEG_DS },
	};
	for (unsigned rm = 0; rm < 8; rm++) {
		const char bytes[3] = { (char)0x8b, (char)(0x40 | rm), (char)0x85 };
		struct insn i = one(MODE_CODE16 | MODE_STACK16, 3, bytes);
		g_assert_cmpuint(i.base, ==, forms[rm].base);
		g_assert_cmpuint(i.index, ==, forms[rm].index);
		g_assert_cmpuint(i.seg, ==, forms[rm].seg);
		g_assert_cmpuint(i.scale, ==, 0);
		g_assert_cmpint(i.disp, ==, -0x7b);
		g_assert_cmpuint(i.adsize, ==, 2);
	}
	struct insn i = ONE(MODE_CODE16 | MODE_STACK16, "\x8b\x06\x34\xf2"); /* mov ax, [0f234h] */
	cpu.reg[REG_ZERO] = 0;
	g_assert_cmphex(insn_ea(&cpu, &i), ==, 0xf234);
}

static void test_segment_checks(void)
{
	const u32 flat = MODE_CODE32 | MODE_STACK32 | MODE_FLAT, checked = MODE_CODE32 | MODE_STACK32;
	g_assert_false(ONE(flat, "\x8b\x03").flags & INSN_LEGACY);
	g_assert_true(ONE(checked, "\x8b\x03").flags & INSN_LEGACY);
	g_assert_true(ONE(flat, "\x64\x8b\x03").flags & INSN_LEGACY);
	g_assert_true(ONE(flat, "\x2e\x89\x03").flags & INSN_LEGACY); /* writing through CS is never allowed */
	g_assert_false(ONE(MODE_CODE64, "\x64\x8b\x03").flags & INSN_LEGACY);
}

static void test_truncated(void)
{
	struct insn insn;
	const u8 mov[] = { 0x48, 0x8b, 0x84, 0x8b, 0x78, 0x56, 0x34, 0x12 };
	for (size_t n = 1; n < sizeof(mov); n++)
		g_assert_false(decode(MODE_CODE64, mov, n, &insn));
	g_assert_true(decode(MODE_CODE64, mov, sizeof(mov), &insn));
	/* An undefined opcode is known at once, however little follows. */
	g_assert_true(decode(MODE_CODE64, (const u8 *)"\x06", 1, &insn));
	g_assert_true(insn.exec == insn_exec_undefined);
}

static void test_too_long(void)
{
	struct insn insn;
	u8 bytes[15];
	memset(bytes, 0x66, sizeof(bytes));
	g_assert_false(decode(MODE_CODE64, bytes, 14, &insn));
	g_assert_true(decode(MODE_CODE64, bytes, 15, &insn));
	g_assert_nonnull(insn.exec);
	g_assert_true(insn.exec != insn_exec_undefined); /* it is #GP, not #UD */
	bytes[14] = 0x90;
	g_assert_true(decode(MODE_CODE64, bytes, 15, &insn));
	g_assert_cmpuint(insn.length, ==, 15);
}

static void test_lock(void)
{
	g_assert_false(ONE(MODE_CODE64, "\xf0\x01\x03").exec == insn_exec_undefined); /* lock add [rbx], eax */
	g_assert_true(ONE(MODE_CODE64, "\xf0\x01\xc3").exec == insn_exec_undefined);  /* of a register */
	g_assert_true(ONE(MODE_CODE64, "\xf0\x03\x03").exec == insn_exec_undefined);  /* source in memory */
	g_assert_true(ONE(MODE_CODE64, "\xf0\x8b\x03").exec == insn_exec_undefined);  /* lock mov */
	g_assert_true(ONE(MODE_CODE64, "\xf0\x39\x03").exec == insn_exec_undefined);  /* lock cmp */
}

static void test_hint_nops(void)
{
	insn_fn nop = ONE(MODE_CODE64, "\x90").exec;
	g_assert_true(ONE(MODE_CODE64, "\xf3\x0f\x1e\xfa").exec == nop);     /* endbr64 */
	g_assert_true(ONE(MODE_CODE64, "\xf3\x0f\x1e\xc8").exec == nop);     /* rdsspd eax */
	g_assert_true(ONE(MODE_CODE64, "\x0f\x1f\x44\x00\x00").exec == nop); /* nop [rax + rax] */
	g_assert_true(ONE(MODE_CODE64, "\x66\x0f\x1a\x03").exec == nop);     /* bndmov */
	g_assert_true(ONE(MODE_CODE64, "\x0f\x1c\x03").exec == nop);         /* cldemote */
}

static void test_features(void)
{
	const char lzcnt[] = "\xf3\x0f\xbd\xc3";
	g_assert_cmpuint(ONE(MODE_CODE64, lzcnt).mnemonic, ==, ZYDIS_MNEMONIC_LZCNT);
	u8 *byte = &config.features[FEATURE_POPCNT / 8], saved = *byte;
	*byte &= (u8)~BIT(FEATURE_POPCNT % 8);
	g_assert_true(ONE(MODE_CODE64, "\xf3\x0f\xb8\xc3").exec == insn_exec_undefined);
	*byte = saved;
	g_assert_false(ONE(MODE_CODE64, "\xf3\x0f\xb8\xc3").exec == insn_exec_undefined);
}

static void test_vex(void)
{
	const char andn[] = "\xc4\xe2\x60\xf2\xc1", vaddps[] = "\xc5\xf8\x58\xc1";
	const u32 protected16 = MODE_CODE16 | MODE_STACK16;
	g_assert_false(ONE(protected16, andn).exec == insn_exec_undefined);
	g_assert_true(ONE(protected16 | MODE_REAL, andn).exec == insn_exec_undefined);
	g_assert_true(ONE(protected16 | MODE_V86, andn).exec == insn_exec_undefined);
	g_assert_false(ONE(MODE_CODE64, vaddps).exec == insn_exec_undefined);
	g_assert_true(ONE(protected16 | MODE_REAL, vaddps).exec == insn_exec_undefined);
	/* C5 is LDS with an operand in memory. */
	g_assert_cmpuint(ONE(protected16 | MODE_REAL, "\xc5\x07").mnemonic, ==, ZYDIS_MNEMONIC_LDS);
}

static void test_evex(void)
{
	struct insn zmm = ONE(MODE_CODE64, "\x62\xf1\x7c\x48\x58\xc1"); /* vaddps zmm0, zmm0, zmm1 */
	struct insn xmm = ONE(MODE_CODE64, "\x62\xf1\x7c\x08\x58\xc1"); /* vaddps xmm0, xmm0, xmm1 */
	g_assert_true(zmm.exec == insn_exec_undefined);
	g_assert_true(xmm.exec == insn_exec_undefined);
}

static void test_wrappers(void)
{
	const char hlt[] = "\xf4", cpuid[] = "\x0f\xa2";
	g_assert_true(ONE(MODE_CODE64, hlt).exec == insn_exec_checked);
	g_assert_true(ONE(MODE_CODE16 | MODE_REAL, hlt).exec != insn_exec_checked);
	g_assert_true(ONE(MODE_CODE64, cpuid).exec != insn_exec_checked);
	g_assert_true(ONE(MODE_CODE64 | MODE_NON_ROOT, cpuid).exec == insn_exec_checked);
	g_assert_true(ONE(MODE_CODE16 | MODE_REAL, "\x0f\x00\xc0").exec == insn_exec_undefined); /* sldt */
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	setup();
	g_test_add_func("/decode/every-row-is-reached-by-an-encoding", test_every_row);
	g_test_add_func("/decode/operand-fields-say-what-the-bytes-say", test_operands);
	g_test_add_func("/decode/addresses-of-16-bits", test_addresses16);
	g_test_add_func("/decode/only-flat-segments-go-unchecked", test_segment_checks);
	g_test_add_func("/decode/too-few-bytes-ask-for-more", test_truncated);
	g_test_add_func("/decode/sixteen-bytes-are-too-many", test_too_long);
	g_test_add_func("/decode/lock-only-where-it-may-be", test_lock);
	g_test_add_func("/decode/hints-of-absent-features-are-nops", test_hint_nops);
	g_test_add_func("/decode/absent-features-are-undefined", test_features);
	g_test_add_func("/decode/vex-needs-protected-mode", test_vex);
	g_test_add_func("/decode/evex-is-undefined", test_evex);
	g_test_add_func("/decode/privilege-and-intercepts-are-wrapped", test_wrappers);
	return g_test_run();
}
