#include "x86/state.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void x86_state_reset(struct x86_state *state, u32 signature)
{
	memset(state, 0, sizeof(*state));
	for (unsigned s = 0; s < SEG_COUNT; s++) {
		state->seg[s].limit = 0xffff;
		state->seg[s].ar = SEG_AR_P | SEG_AR_S | SEG_AR_RW | SEG_AR_ACCESSED;
	}
	state->seg[SEG_CS].selector = 0xf000;
	state->seg[SEG_CS].base = 0xffff0000;
	state->seg[SEG_CS].ar |= SEG_AR_CODE;
	state->seg[SEG_LDTR].ar = SEG_AR_P | 2;
	state->seg[SEG_TR].ar = SEG_AR_P | 11;
	state->gdtr.limit = state->idtr.limit = 0xffff;
	state->cr0 = CR0_CD | CR0_NW | CR0_ET;
	state->rip = 0xfff0;
	state->rflags = RFLAGS_ONE;
	state->gpr[RDX] = signature;
}

struct printer {
	void (*emit)(void *opaque, const char *line);
	void *opaque;
};

static void PRINTF_LIKE(2, 3) print_line(const struct printer *p, const char *fmt, ...)
{
	char line[160];
	va_list args;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	p->emit(p->opaque, line);
}

static void print_registers(const struct printer *p, const struct x86_state *s)
{
	static const char names[GPR_COUNT][4] = { "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
						  "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15" };
	for (unsigned i = 0; i < GPR_COUNT; i += 4)
		print_line(p, "%s %016llx  %s %016llx  %s %016llx  %s %016llx", names[i], (unsigned long long)s->gpr[i],
			   names[i + 1], (unsigned long long)s->gpr[i + 1], names[i + 2],
			   (unsigned long long)s->gpr[i + 2], names[i + 3], (unsigned long long)s->gpr[i + 3]);
}

static void print_flags(const struct printer *p, const struct x86_state *s)
{
	static const struct {
		u64 bit;
		const char *name;
	} flags[] = {
		{ RFLAGS_CF, "CF" }, { RFLAGS_PF, "PF" },   { RFLAGS_AF, "AF" },   { RFLAGS_ZF, "ZF" },
		{ RFLAGS_SF, "SF" }, { RFLAGS_TF, "TF" },   { RFLAGS_IF, "IF" },   { RFLAGS_DF, "DF" },
		{ RFLAGS_OF, "OF" }, { RFLAGS_NT, "NT" },   { RFLAGS_RF, "RF" },   { RFLAGS_VM, "VM" },
		{ RFLAGS_AC, "AC" }, { RFLAGS_VIF, "VIF" }, { RFLAGS_VIP, "VIP" },
	};
	char set[64] = "";
	for (unsigned i = 0; i < ARRAY_SIZE(flags); i++)
		if (s->rflags & flags[i].bit) {
			strcat(set, " ");
			strcat(set, flags[i].name);
		}
	print_line(p, "RIP %016llx  RFLAGS %08llx IOPL %u%s", (unsigned long long)s->rip, (unsigned long long)s->rflags,
		   (unsigned)bits_get(s->rflags, 13, 12), set);
}

void x86_state_print(const struct x86_state *state, void (*emit)(void *opaque, const char *line), void *opaque)
{
	static const char names[SEG_COUNT][5] = { "ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR" };
	struct printer p = { emit, opaque };

	print_registers(&p, state);
	print_flags(&p, state);
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		const struct segment *seg = &state->seg[i];
		print_line(&p, "%-4s %04x  base %016llx  limit %08x  rights %05x%s", names[i], seg->selector,
			   (unsigned long long)seg->base, seg->limit, seg->ar,
			   seg->ar & SEG_AR_UNUSABLE ? " unusable" : "");
	}
	print_line(&p, "GDTR base %016llx  limit %04x   IDTR base %016llx  limit %04x",
		   (unsigned long long)state->gdtr.base, state->gdtr.limit, (unsigned long long)state->idtr.base,
		   state->idtr.limit);
	print_line(&p, "CR0 %08llx  CR2 %016llx  CR3 %016llx  CR4 %08llx  EFER %04llx", (unsigned long long)state->cr0,
		   (unsigned long long)state->cr2, (unsigned long long)state->cr3, (unsigned long long)state->cr4,
		   (unsigned long long)state->efer);
}
