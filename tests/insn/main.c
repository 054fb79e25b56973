/*
 * Runs the cases, compares what both sides left, and checks that every row is either covered or excluded by name.
 */
#include "differ.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const struct {
	ZydisMnemonic mnemonic;
	const char *reason;
} excluded[] = {
#define EXCLUDE(mnemonic, reason) { ZYDIS_MNEMONIC_##mnemonic, reason },
#include "excluded.def"
#undef EXCLUDE
};

static const char *exclusion(ZydisMnemonic m)
{
	for (unsigned i = 0; i < ARRAY_SIZE(excluded); i++)
		if (excluded[i].mnemonic == m)
			return excluded[i].reason;
	return NULL;
}

/* --- what is defined --- */

static bool is_shift(ZydisMnemonic m)
{
	switch (m) {
	case ZYDIS_MNEMONIC_SHL:
	case ZYDIS_MNEMONIC_SHR:
	case ZYDIS_MNEMONIC_SAR:
	case ZYDIS_MNEMONIC_SHLD:
	case ZYDIS_MNEMONIC_SHRD:
	case ZYDIS_MNEMONIC_ROL:
	case ZYDIS_MNEMONIC_ROR:
	case ZYDIS_MNEMONIC_RCL:
	case ZYDIS_MNEMONIC_RCR:
		return true;
	default:
		return false;
	}
}

/* The count that a shift or rotation uses, masked as the processor does. */
static unsigned shift_count(const struct test_case *c)
{
	unsigned last = c->zi.operand_count_visible - 1, size = c->op[0].size;
	u64 v = c->op[last].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? c->bytes[c->zi.raw.imm[0].offset]
								 : c->start.gpr[RCX];
	if (c->op[last].type == ZYDIS_OPERAND_TYPE_IMMEDIATE && !c->zi.raw.imm[0].size)
		v = 1;
	return v & (size == 64 ? 63 : 31);
}

/* Flags that the manual leaves undefined after this case. */
static u64 undefined_flags(const struct test_case *c)
{
	ZydisMnemonic m = c->zi.mnemonic;
	u64 undefined = c->zi.cpu_flags ? c->zi.cpu_flags->undefined : 0;
	if (is_shift(m)) {
		unsigned count = shift_count(c), size = c->op[0].size;
		bool rotate = m == ZYDIS_MNEMONIC_RCL || m == ZYDIS_MNEMONIC_RCR || m == ZYDIS_MNEMONIC_ROL ||
			      m == ZYDIS_MNEMONIC_ROR;
		undefined = 0;
		if (!count)
			return 0;
		if (!rotate)
			undefined |= RFLAGS_AF;
		if (count != 1)
			undefined |= RFLAGS_OF;
		if (!rotate && count >= size) /* SHL, SHR: CF undefined from the operand's size on */
			undefined |= RFLAGS_CF;
		if ((m == ZYDIS_MNEMONIC_SHLD || m == ZYDIS_MNEMONIC_SHRD) && count > size)
			undefined |= RFLAGS_ARITH;
	}
	return undefined & RFLAGS_ARITH;
}

/* Is the result itself undefined? */
static bool undefined_result(const struct test_case *c)
{
	ZydisMnemonic m = c->zi.mnemonic;
	return (m == ZYDIS_MNEMONIC_SHLD || m == ZYDIS_MNEMONIC_SHRD) && shift_count(c) > c->op[0].size;
}

/* In which order the parts of an x87 environment, a state image or masked bytes are touched is not said. */
static bool address_undefined(const struct test_case *c)
{
	ZydisMnemonic m = c->zi.mnemonic;
	return c->memory_size == 14 || c->memory_size == 28 || c->memory_size >= 64 || m == ZYDIS_MNEMONIC_MASKMOVQ ||
	       m == ZYDIS_MNEMONIC_MASKMOVDQU || m == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

/* Bytes of an image in memory that depend on the processor: x87 pointers, the MXCSR mask, reserved bytes. */
static bool memory_byte_ignored(const struct test_case *c, u64 linear)
{
	u64 at = linear - c->memory_at;
	switch (c->zi.mnemonic) {
	case ZYDIS_MNEMONIC_FNSTENV:
	case ZYDIS_MNEMONIC_FNSAVE:
		if (c->memory_size == 14 || c->memory_size == 94)
			return at >= 6 && at < 14;
		return at >= 12 && at < 28;
	case ZYDIS_MNEMONIC_FXSAVE:
	case ZYDIS_MNEMONIC_FXSAVE64:
	case ZYDIS_MNEMONIC_XSAVE:
	case ZYDIS_MNEMONIC_XSAVE64:
	case ZYDIS_MNEMONIC_XSAVEC:
	case ZYDIS_MNEMONIC_XSAVEC64:
	case ZYDIS_MNEMONIC_XSAVEOPT:
	case ZYDIS_MNEMONIC_XSAVEOPT64:
		return (at >= 5 && at < 24) || (at >= 28 && at < 32);
	default:
		return false;
	}
}

/* --- what Intel's processors do beyond the architecture, allowed only where the host is one --- */

/* Does the operand begin on one page and end on the next? */
static bool crosses_page(const struct test_case *c)
{
	return (c->memory_at & PAGE_MASK) != ((c->memory_at + c->memory_size - 1) & PAGE_MASK);
}

static bool stores_class(const struct test_case *c, ZydisRegisterClass class)
{
	return c->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && c->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(c->op[1].reg.value) == class;
}

/*
 * An MMX store that faults has made TOP 0 already (the first half of switching to MMX: SDM vol. 3, 12.2), though a
 * fault should leave the state as it was (6.5). Makes it what it was.
 */
static void undo_mmx_switch(const struct test_case *c, struct machine *host)
{
	u8 *x = host->xsave.legacy, old[8][16];
	const u8 *start = c->start.xsave.legacy;
	if (host->vector < 0 || !stores_class(c, ZYDIS_REGCLASS_MMX) || x[3] & 0x38)
		return;
	memcpy(old, x + 32, sizeof(old));
	for (unsigned i = 0; i < 8; i++)
		memcpy(x + 32 + 16 * i, old[(i + (start[3] >> 3 & 7)) & 7], 16);
	x[3] |= start[3] & 0x38;
}

/*
 * Exceptions of one class, whose order is left open (SDM vol. 3, table 6-2): VCVTPS2PH may find #XM before the page
 * fault of its store, BOUND a number below the lower bound before it reads the upper one on the next page, and XRSTOR
 * that a part behind the header is not there before it looks whether the header is valid.
 */
static bool order_open(const struct test_case *c, const struct machine *host, const struct machine *guest)
{
	switch (c->zi.mnemonic) {
	case ZYDIS_MNEMONIC_VCVTPS2PH:
		return host->vector == 19 && guest->vector == 14;
	case ZYDIS_MNEMONIC_BOUND:
		return host->vector == 5 && guest->vector == 14 && crosses_page(c);
	case ZYDIS_MNEMONIC_XRSTOR:
	case ZYDIS_MNEMONIC_XRSTOR64:
		return host->vector == 14 && guest->vector == 13 && host->cr2 >= c->memory_at + 576;
	default:
		return false;
	}
}

/* Flags of a masked exception may be there before the store faults. They are sticky: it will run again. */
static void allow_early_flags(const struct test_case *c, struct machine *host, const struct machine *guest)
{
	if (c->zi.mnemonic == ZYDIS_MNEMONIC_VCVTPS2PH && host->vector == 14)
		host->xsave.legacy[24] = (host->xsave.legacy[24] & 0xc0) | (guest->xsave.legacy[24] & 0x3f);
}

/* Which byte of a masked store CR2 names is not said (SDM vol. 3, 4.7): here its last. */
static bool is_masked_store(const struct test_case *c)
{
	ZydisMnemonic m = c->zi.mnemonic;
	return c->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY &&
	       (m == ZYDIS_MNEMONIC_VMASKMOVPS || m == ZYDIS_MNEMONIC_VMASKMOVPD || m == ZYDIS_MNEMONIC_VPMASKMOVD ||
		m == ZYDIS_MNEMONIC_VPMASKMOVQ);
}

/* An x87 store of 10 bytes goes in pieces, some of which may be done before another one faults (SDM vol. 3, 8.1.1). */
static bool may_be_half_stored(const struct test_case *c, const struct machine *host)
{
	return host->vector == 14 && crosses_page(c) && c->memory_size == 10 &&
	       (c->zi.mnemonic == ZYDIS_MNEMONIC_FSTP || c->zi.mnemonic == ZYDIS_MNEMONIC_FBSTP);
}

/* Makes equal what may differ; false: do not compare at all. */
static bool allow_for_intel(const struct test_case *c, struct machine *host, struct machine *guest)
{
	if (host_is_amd())
		return true;
	undo_mmx_switch(c, host);
	allow_early_flags(c, host, guest);
	if (order_open(c, host, guest))
		return false;
	if (host->vector == 14 && guest->vector == 14 && is_masked_store(c) &&
	    host->cr2 - c->memory_at < c->memory_size && !((host->cr2 ^ guest->cr2) & PAGE_MASK))
		host->cr2 = guest->cr2;
	if (may_be_half_stored(c, host))
		memcpy((void *)c->memory_at, guest_data + (c->memory_at - DATA_BASE),
		       DATA_BASE + DATA_SIZE - c->memory_at);
	return true;
}

/* --- comparing --- */

static char difference[256];

#define DIFFER(...)                                                                                                    \
	do {                                                                                                           \
		snprintf(difference, sizeof(difference), __VA_ARGS__);                                                 \
		return true;                                                                                           \
	} while (0)

static const u8 *vector_bytes(const struct machine *m, unsigned reg, bool high)
{
	return high ? m->xsave.ymm_high[reg] : m->xsave.legacy + 160 + 16 * reg;
}

static void hex(char *out, const u8 *p, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		sprintf(out + 2 * i, "%02x", p[n - 1 - i]);
}

static bool fpu_differs(const struct machine *host, const struct machine *guest)
{
	char h[40], g[40];
	static const struct {
		const char *name;
		unsigned at, size;
	} fields[] = { { "FCW", 0, 2 }, { "FSW", 2, 2 }, { "FTW", 4, 1 }, { "MXCSR", 24, 4 } };
	for (unsigned i = 0; i < ARRAY_SIZE(fields); i++) {
		const u8 *a = host->xsave.legacy + fields[i].at, *b = guest->xsave.legacy + fields[i].at;
		if (!memcmp(a, b, fields[i].size))
			continue;
		hex(h, a, fields[i].size);
		hex(g, b, fields[i].size);
		DIFFER("%s host %s interpreter %s", fields[i].name, h, g);
	}
	for (unsigned i = 0; i < 8; i++) {
		const u8 *a = host->xsave.legacy + 32 + 16 * i, *b = guest->xsave.legacy + 32 + 16 * i;
		if (!memcmp(a, b, 10))
			continue;
		hex(h, a, 10);
		hex(g, b, 10);
		DIFFER("ST%u host %s interpreter %s", i, h, g);
	}
	for (unsigned i = 0; i < 32; i++) {
		const u8 *a = vector_bytes(host, i & 15, i > 15), *b = vector_bytes(guest, i & 15, i > 15);
		if ((i > 15 && !(host_components() & 4)) || !memcmp(a, b, 16))
			continue;
		hex(h, a, 16);
		hex(g, b, 16);
		DIFFER("%s%u host %s interpreter %s", i > 15 ? "YMM high " : "XMM", i & 15, h, g);
	}
	return false;
}

static bool memory_differs(const struct test_case *c)
{
	const u8 *host = (const u8 *)DATA_BASE;
	if (!memcmp(host, guest_data, DATA_SIZE))
		return false;
	for (u64 at = 0; at < DATA_SIZE; at++) {
		if (host[at] == guest_data[at] || memory_byte_ignored(c, DATA_BASE + at))
			continue;
		DIFFER("memory at operand%+lld: host %02x interpreter %02x", (long long)(DATA_BASE + at - c->memory_at),
		       host[at], guest_data[at]);
	}
	return false;
}

static bool ends_differ(const struct test_case *c, const struct machine *host, const struct machine *guest)
{
	static const char *const names[] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
					     "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15" };
	if (host->vector != guest->vector)
		DIFFER("exception: host %d interpreter %d", host->vector, guest->vector);
	if (host->rip != guest->rip)
		DIFFER("RIP: host %#llx interpreter %#llx", (unsigned long long)host->rip,
		       (unsigned long long)guest->rip);
	if (host->vector == 14 && host->cr2 != guest->cr2 && !address_undefined(c))
		DIFFER("CR2: host %#llx interpreter %#llx", (unsigned long long)host->cr2,
		       (unsigned long long)guest->cr2);
	if ((host->vector == 14 || host->vector == 13) && host->error != guest->error)
		DIFFER("error code: host %#llx interpreter %#llx", (unsigned long long)host->error,
		       (unsigned long long)guest->error);
	if (undefined_result(c))
		return false;
	/* 32-bit code shows the lower halves of eight registers. */
	u64 shown = c->form->mode32 ? 0xffffffff : ~0ULL;
	for (unsigned i = 0; i < (c->form->mode32 ? 8u : GPR_COUNT); i++)
		if ((host->gpr[i] ^ guest->gpr[i]) & shown)
			DIFFER("%s: host %#llx interpreter %#llx", names[i], (unsigned long long)host->gpr[i],
			       (unsigned long long)guest->gpr[i]);
	/* Whether a fault leaves RF in the saved image is the kernel's business. */
	u64 defined = ~undefined_flags(c) & ~RFLAGS_RF;
	if (host->vector >= 0)
		defined = ~(u64)RFLAGS_RF;
	if ((host->rflags ^ guest->rflags) & defined)
		DIFFER("RFLAGS: host %#llx interpreter %#llx, defined %#llx", (unsigned long long)host->rflags,
		       (unsigned long long)guest->rflags, (unsigned long long)(defined & RFLAGS_ARITH));
	return fpu_differs(host, guest) || memory_differs(c);
}

/* --- reporting --- */

static void print_case(const struct test_case *c, u64 seed)
{
	ZydisFormatter formatter;
	char text[96] = "?";
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	if (ZYAN_SUCCESS(ZydisDecoderDecodeFull(form_decoder(c->form), c->bytes, 15, &zi, op)))
		ZydisFormatterFormatInstruction(&formatter, &zi, op, zi.operand_count_visible, text, sizeof(text),
						CODE_START, NULL);
	printf("# %s  [", text);
	for (unsigned i = 0; i < c->length; i++)
		printf("%s%02x", i ? " " : "", c->bytes[i]);
	printf("]  operand at %#llx, %u-bit code\n#   %s\n#   --only %s --seed %llu\n",
	       (unsigned long long)c->memory_at, c->form->mode32 ? 32 : 64, difference,
	       insn_row_find(c->zi.mnemonic)->name, (unsigned long long)seed);
}

static bool print_start;

static void print_machine(const char *title, const struct machine *m)
{
	printf("#   %s: flags %llx vector %d", title, (unsigned long long)m->rflags, m->vector);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		printf("%s%016llx", i % 8 ? " " : "\n#     ", (unsigned long long)m->gpr[i]);
	printf("\n#     fcw %02x%02x fsw %02x%02x ftw %02x mxcsr %02x%02x\n", m->xsave.legacy[1], m->xsave.legacy[0],
	       m->xsave.legacy[3], m->xsave.legacy[2], m->xsave.legacy[4], m->xsave.legacy[25], m->xsave.legacy[24]);
}

/* --- running --- */

struct tally {
	unsigned cases, faults, failures;
};

static struct tally tally[ZYDIS_MNEMONIC_MAX_VALUE + 1];
static unsigned shown;

/* One case of a form; false if no encoding could be made. */
static bool run_form(const struct form *form)
{
	static struct test_case c;
	static struct machine host, guest;
	u64 seed = random_state;
	unsigned tries = 0;
	while (!case_make(form, &c, guest_data))
		if (++tries == 40)
			return false;
	memcpy((void *)DATA_BASE, guest_data, DATA_SIZE);
	host_run(&c, &host);
	guest_run(&c, &guest);
	struct tally *t = &tally[form->mnemonic];
	t->cases++;
	t->faults += host.vector >= 0;
	if (!allow_for_intel(&c, &host, &guest) || !ends_differ(&c, &host, &guest))
		return true;
	if (t->failures++ < 3 && shown++ < 150) {
		print_case(&c, seed);
		if (print_start) {
			print_machine("start", &c.start);
			print_machine("host", &host);
			print_machine("interpreter", &guest);
		}
	}
	return true;
}

static bool selected(const struct form *f, const char *only)
{
	const char *name = insn_row_find(f->mnemonic)->name;
	return (!only || !strcmp(only, name)) && !exclusion(f->mnemonic) && guest_has_row(f->mnemonic);
}

/* Cases of 64-bit or 32-bit code, form by form, round and round until there are enough. Returns how many. */
static unsigned run_pass(bool mode32, u64 cases, const char *only, unsigned *total_forms)
{
	struct form_list list = { 0 };
	unsigned forms = 0, done = 0;
	forms_find(&list, mode32);
	guest_set_mode(mode32);
	for (unsigned i = 0; i < list.count; i++)
		if (selected(&list.form[i], only))
			list.form[forms++] = list.form[i];
	for (unsigned idle = 0; done < cases && idle < forms;) {
		for (unsigned i = 0; i < forms; i++) {
			bool ran = run_form(&list.form[i]);
			done += ran;
			idle = ran ? 0 : idle + 1;
		}
	}
	*total_forms += forms;
	free(list.form);
	return done;
}

/* Every row: covered, excluded by name, or a feature this host does not give. Returns the number of rows that are not.
 */
static unsigned check_rows(void)
{
	unsigned missing = 0;
	for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
		const struct insn_row *row = insn_row_find((ZydisMnemonic)m);
		if (!row)
			continue;
		bool out = exclusion((ZydisMnemonic)m);
		if (tally[m].cases && out)
			printf("# %s is excluded, but ran\n", row->name);
		if (tally[m].cases || out)
			continue;
		if (!guest_has_row((ZydisMnemonic)m)) {
			printf("# %s: this host does not have it\n", row->name);
			continue;
		}
		printf("# %s: neither covered nor excluded\n", row->name);
		missing++;
	}
	return missing;
}

static void usage(void)
{
	printf("usage: insn-differ [--seed N] [--cases N] [--only MNEMONIC] [--vendor amd|intel]\n"
	       "                   [--translated] [--verbose] [--list-excluded]\n");
	exit(2);
}

int main(int argc, char **argv)
{
	u64 seed = (u64)time(NULL) * 2654435761u + 1, cases = 250000;
	const char *only = NULL;
	bool translated = false, amd = host_is_amd();
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--verbose"))
			print_start = true;
		else if (!strcmp(argv[i], "--list-excluded"))
			for (unsigned e = 0; e < ARRAY_SIZE(excluded); e++)
				printf("%s: %s\n", ZydisMnemonicGetString(excluded[e].mnemonic), excluded[e].reason);
		else if (!strcmp(argv[i], "--translated"))
			translated = true;
		else if (i + 1 == argc)
			usage();
		else if (!strcmp(argv[i], "--seed"))
			seed = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--cases"))
			cases = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "--only"))
			only = argv[++i];
		else if (!strcmp(argv[i], "--vendor"))
			amd = !strcmp(argv[++i], "amd");
		else
			usage();
	}
	random_state = seed ? seed : 1;
	printf("# seed %llu\n", (unsigned long long)random_state);
	if (!host_init()) {
		printf("# this host has no XSAVE: nothing to compare with\n");
		return 77;
	}
	guest_init(amd);
	if (translated)
		guest_translate();
	host_start();
	unsigned forms = 0, done = 0, failures = 0;
	done = run_pass(false, cases * 2 / 3, only, &forms);
	if (host_runs_32())
		done += run_pass(true, cases / 3, only, &forms);
	else
		printf("# this host's kernel runs no 32-bit code: that half is left out\n");
	if (!forms) {
		printf("# no such row\n");
		return 2;
	}
	for (unsigned m = 0; m <= ZYDIS_MNEMONIC_MAX_VALUE; m++) {
		failures += tally[m].failures;
		if (tally[m].failures)
			printf("# %s: %u of %u cases differ\n", insn_row_find((ZydisMnemonic)m)->name,
			       tally[m].failures, tally[m].cases);
	}
	unsigned missing = only ? 0 : check_rows() + forms_missing();
	printf("# %u cases of %u forms, %u differ, %u rows uncovered or missing\n", done, forms, failures, missing);
	if (translated)
		printf("# %u cases ran without a handler\n", guest_native_cases());
	return failures || missing || (translated && !only && guest_native_cases() < done / 10) ? 1 : 0;
}
