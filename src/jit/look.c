/*
 * Showing a person what became of guest code: --trace jit, --dump-block and --perf-map. Every line goes out in one
 * write, so that several CPUs' lines do not mix.
 */
#include "jit/internal.h"

#include "base/trace.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { TEXT_MAX = 96, GUEST_COLUMN = 60 };

/* Disassembles the instruction at `code`, which runs at `address`: its length, 0 if it is none. */
static unsigned disassemble(const u8 *code, size_t size, u64 address, char text[TEXT_MAX])
{
	ZydisDecoder decoder;
	ZydisFormatter formatter;
	ZydisDecodedInstruction zi;
	ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
	ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
	ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL);
	if (!ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, code, size, &zi, op)))
		return 0;
	ZydisFormatterFormatInstruction(&formatter, &zi, op, zi.operand_count_visible, text, TEXT_MAX, address, NULL);
	return zi.length;
}

void jit_print_code(const char *title, const u8 *code, size_t size, u64 address)
{
	char text[TEXT_MAX];
	unsigned length;

	if (title)
		fprintf(stderr, "%s\n", title);
	for (size_t at = 0; at < size && (length = disassemble(code + at, size - at, address + at, text)); at += length)
		fprintf(stderr, "  %" PRIx64 "  %s\n", address + at, text);
}

/* --- --dump-block --- */

static const struct plan *first_of(const struct jit *jit)
{
	return &jit->plan[jit->made.first];
}

static u64 ram_offset_of(const struct plan *p)
{
	return (p->block->ram_offset & PAGE_MASK) + p->offset;
}

/* Is the address that of a byte of these instructions? */
static bool is_wanted(const struct jit *jit)
{
	const struct jit_made *made = &jit->made;
	u64 address = jit->options.dump_address;
	for (unsigned i = 0; i < made->count && jit->options.dump; i++) {
		const struct plan *p = first_of(jit) + i;
		if (address - (made->page + p->offset) < p->insn->length ||
		    address - ram_offset_of(p) < p->insn->length)
			return true;
	}
	return false;
}

/* One of the guest's instructions, or NULL for none, and beside it the host's code from `at` to `end`. */
static void dump_lines(const struct jit *jit, const char *guest, const u8 *at, const u8 *end)
{
	char text[TEXT_MAX];

	if (at >= end && guest)
		fprintf(stderr, "%s\n", guest);
	while (at < end) {
		u64 address = (u64)jit_executable(jit, at);
		unsigned length = disassemble(at, (size_t)(end - at), address, text);
		fprintf(stderr, "%-*s| %" PRIx64 "  %s\n", GUEST_COLUMN, guest ? guest : "", address,
			length ? text : "?");
		at += length ? length : (unsigned)(end - at);
		guest = NULL;
	}
}

static void dump_trace(const struct cpu *cpu, const struct jit *jit)
{
	const struct jit_made *made = &jit->made;
	const struct plan *first = first_of(jit);

	fprintf(stderr,
		"strata: the code at %#" PRIx64 ", RAM offset %#" PRIx64
		"%s: %u instructions of %u blocks became %zu bytes\n",
		made->page + first->offset, ram_offset_of(first),
		first->block->mode_key & MODE_NON_ROOT ? ", non-root" : "", made->count, made->trace->blocks,
		made->size);
	dump_lines(jit, "entry", made->start, made->at[0]);
	for (unsigned i = 0; i < made->count; i++) {
		const struct plan *p = first + i;
		char text[TEXT_MAX], line[TEXT_MAX + 40];
		if (!disassemble(p->bytes, p->insn->length, made->page + p->offset, text))
			strcpy(text, "?");
		snprintf(line, sizeof line, "%" PRIx64 "  %s%s", made->page + p->offset, text,
			 p->kind == PLAN_HANDLER ? "  (handler)" : "");
		dump_lines(jit, line, made->at[i], made->at[i + 1]);
	}
	dump_lines(jit, "rare cases", made->at[made->count], made->start + made->size);
}

/* --- --perf-map --- */

static void perf_line(const struct jit *jit, const u8 *start, size_t size, const char *name)
{
	char line[128];
	int n = snprintf(line, sizeof line, "%" PRIxPTR " %zx %s\n", (uintptr_t)start, size, name);
	ssize_t done = write(jit->options.perf_map, line, (size_t)n);
	(void)done; /* a full disk costs names in a profile */
}

void jit_look_start(const struct jit *jit)
{
	if (jit->options.perf_map)
		perf_line(jit, jit->executable, jit->stubs_end, "strata: entry, exit, calls of handlers");
}

void jit_look_emptied(const struct cpu *cpu, const struct jit *jit)
{
	TRACE(jit,
	      "emptied of %zu bytes of translated code; from now on blocks are translated when they run for time %u",
	      jit->used - jit->stubs_end, cpu->jit_hot);
	if (!jit->options.perf_map)
		return;
	/* perf knows no time when a name ends: the old names go. */
	int done = ftruncate(jit->options.perf_map, 0);
	(void)done;
	jit_look_start(jit);
}

/* --- each translation --- */

void jit_look(const struct cpu *cpu, struct jit *jit)
{
	const struct jit_made *made = &jit->made;
	const struct plan *first = first_of(jit);
	const char *where = first->block->mode_key & MODE_NON_ROOT ? "non-root" : "guest";
	u64 linear = made->page + first->offset;

	TRACE(jit, "%s %#" PRIx64 ", RAM offset %#" PRIx64 ": %u instructions of %u blocks, to %zu bytes at %p", where,
	      linear, ram_offset_of(first), made->count, made->trace->blocks, made->size,
	      (const void *)jit_executable(jit, made->start));
	if (jit->options.perf_map) {
		char name[64];
		snprintf(name, sizeof name, "%s 0x%" PRIx64, where, linear);
		perf_line(jit, jit_executable(jit, made->start), made->size, name);
	}
	if (is_wanted(jit)) {
		dump_trace(cpu, jit);
		jit->options.dump = false;
	}
}

void jit_look_refused(const struct cpu *cpu, const struct jit *jit, const struct block *block)
{
	char names[160] = "";
	size_t n = 0;

	if (!(trace_enabled & (1u << TRACE_jit)))
		return;
	for (unsigned i = 0; i < block->count && n < sizeof names; i++) {
		const struct insn_row *row = insn_row(&block->insn[i]);
		if (jit->plan[i].kind == PLAN_HANDLER)
			n += (size_t)snprintf(names + n, sizeof names - n, " %s", row ? row->name : "undefined");
	}
	TRACE(jit,
	      "guest %#" PRIx64 ", RAM offset %#" PRIx64
	      ": %u instructions stay interpreted, for these need handlers:%s",
	      cpu->reg[REG_RIP], block->ram_offset, block->count, names);
}
