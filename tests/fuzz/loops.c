/*
 * Random loops, interpreted and translated from the same state: they end in the same one. Most of what they access
 * moves by constants, so that the translator checks it before the rounds; pages lie in disorder, some are absent, and
 * some may not be written. Half of them are short, and visited so often that the translator unrolls them; of these some
 * change their own code in one of their rounds.
 *
 *	fuzz-loops [-runs=N] [-seconds=N] [-seed=N]
 */
#include "runs.h"

#include "cpu/fpu.h"
#include "cpu/native.h"
#include "jit/internal.h"
#include "jit/jit.h"
#include "x86/state.h"

#include <Zydis/Zydis.h>
#include <stdio.h>

enum {
	WINDOW = 0x180000, /* what the loop accesses, linear */
	WINDOW_PAGES = 24,
	CODE_PAGES = 100,     /* a page whose code changes all the time is not translated */
	RAM_PAGES = 0x200000, /* where these pages lie, in disorder */
	ROUNDS_MAX = 700,
	VISITS = 6, /* of the loop in one run: the first ones make it hot */
	FEW_ROUNDS = 8,
	MANY_VISITS = 400
};

/* RCX counts the loop's rounds, RBX its visits, RSP points to the stack. */
static const ZydisRegister general[] = {
	ZYDIS_REGISTER_RAX, ZYDIS_REGISTER_RDX, ZYDIS_REGISTER_RBP, ZYDIS_REGISTER_RSI, ZYDIS_REGISTER_RDI,
	ZYDIS_REGISTER_R8,  ZYDIS_REGISTER_R9,  ZYDIS_REGISTER_R10, ZYDIS_REGISTER_R11, ZYDIS_REGISTER_R12,
	ZYDIS_REGISTER_R13, ZYDIS_REGISTER_R14, ZYDIS_REGISTER_R15,
};
enum { BASES = 2, INDICES = 1 };

static struct machine *m;
static const struct jit_ops *translator;
static ZydisRegister base[BASES], idx[INDICES];
static u64 code_start, code_at;
static u8 code[PAGE_SIZE]; /* as it is before each run */
static bool is_short, changes_itself;

/* --- code --- */

static void put(const ZydisEncoderRequest *request)
{
	u8 *to = m->mem.host + code_at;
	ZyanUSize length = ZYDIS_MAX_INSTRUCTION_LENGTH;
	/* What cannot be encoded, as AH beside R8, is left out. */
	if (ZYAN_SUCCESS(ZydisEncoderEncodeInstruction(request, to, &length)))
		code_at += length;
}

static ZydisRegister sized(ZydisRegister reg, unsigned size)
{
	ZydisRegisterClass class = size == 8   ? ZYDIS_REGCLASS_GPR64
				   : size == 4 ? ZYDIS_REGCLASS_GPR32
				   : size == 2 ? ZYDIS_REGCLASS_GPR16
					       : ZYDIS_REGCLASS_GPR8;
	unsigned id = (unsigned)ZydisRegisterGetId(reg);
	return ZydisRegisterEncode(class, (ZyanU8)(size == 1 && id >= 4 ? id + 4 : id)); /* not AH to BH */
}

static ZydisEncoderOperand of_register(ZydisRegister reg)
{
	return (ZydisEncoderOperand){ .type = ZYDIS_OPERAND_TYPE_REGISTER, .reg.value = reg };
}

static ZydisEncoderOperand of_immediate(i64 value)
{
	return (ZydisEncoderOperand){ .type = ZYDIS_OPERAND_TYPE_IMMEDIATE, .imm.s = value };
}

static ZydisRegister some_register(void)
{
	return general[next_random() % G_N_ELEMENTS(general)];
}

static ZydisRegister some_vector(unsigned size)
{
	return (size == 32 ? ZYDIS_REGISTER_YMM0 : ZYDIS_REGISTER_XMM0) + next_random() % 16;
}

static ZydisEncoderOperand of_memory(unsigned size)
{
	ZydisEncoderOperand op = { .type = ZYDIS_OPERAND_TYPE_MEMORY };
	op.mem.size = (ZyanU16)size;
	op.mem.base = one_in(12) ? some_register() : base[next_random() % BASES];
	op.mem.displacement = (i64)(next_random() % 64) * (one_in(3) ? 1 : 8) - (one_in(4) ? 64 : 0);
	if (one_in(2)) {
		op.mem.index = one_in(12) ? some_register() : idx[next_random() % INDICES];
		op.mem.scale = (ZyanU8)(1u << next_random() % 4);
	}
	if (one_in(10)) { /* [RIP + disp32], in the window */
		op.mem.base = ZYDIS_REGISTER_RIP;
		op.mem.index = ZYDIS_REGISTER_NONE;
		op.mem.scale = 0;
		op.mem.displacement = (i64)(WINDOW + next_random() % 0x16000 - code_at);
	}
	return op;
}

static void put_two(ZydisMnemonic mnemonic, ZydisEncoderOperand to, ZydisEncoderOperand from)
{
	put(&(ZydisEncoderRequest){
		.machine_mode = ZYDIS_MACHINE_MODE_LONG_64,
		.mnemonic = mnemonic,
		.operand_count = 2,
		.operands = { to, from },
	});
}

static void put_one(ZydisMnemonic mnemonic, ZydisEncoderOperand to)
{
	put(&(ZydisEncoderRequest){
		.machine_mode = ZYDIS_MACHINE_MODE_LONG_64,
		.mnemonic = mnemonic,
		.operand_count = 1,
		.operands = { to },
	});
}

static void put_arithmetic(void)
{
	static const ZydisMnemonic mnemonics[] = {
		ZYDIS_MNEMONIC_MOV, ZYDIS_MNEMONIC_ADD, ZYDIS_MNEMONIC_SUB,  ZYDIS_MNEMONIC_XOR, ZYDIS_MNEMONIC_AND,
		ZYDIS_MNEMONIC_OR,  ZYDIS_MNEMONIC_CMP, ZYDIS_MNEMONIC_TEST, ZYDIS_MNEMONIC_ADC, ZYDIS_MNEMONIC_SBB,
	};
	ZydisMnemonic mnemonic = mnemonics[next_random() % G_N_ELEMENTS(mnemonics)];
	unsigned size = one_in(3) ? 1u << next_random() % 4 : one_in(2) ? 8 : 4;
	ZydisEncoderOperand reg = of_register(sized(some_register(), size)), memory = of_memory(size);
	switch (next_random() % 6) {
	case 0:
		put_two(mnemonic, reg, of_register(sized(some_register(), size)));
		break;
	case 1:
		put_two(mnemonic, reg, of_immediate((i64)(next_random() % 256) - 128));
		break;
	case 2:
		put_two(mnemonic, memory, of_immediate((i64)(next_random() % 256) - 128));
		break;
	case 3:
		put_two(mnemonic, memory, reg);
		break;
	default:
		put_two(mnemonic, reg, memory);
		break;
	}
}

static void put_vector(void)
{
	static const ZydisMnemonic unaligned[] = { ZYDIS_MNEMONIC_MOVUPS, ZYDIS_MNEMONIC_MOVDQU };
	static const ZydisMnemonic aligned[] = { ZYDIS_MNEMONIC_MOVAPS, ZYDIS_MNEMONIC_PADDD, ZYDIS_MNEMONIC_PXOR };
	ZydisEncoderOperand reg = of_register(some_vector(16));
	switch (next_random() % 7) {
	case 0:
		put_two(one_in(3) ? ZYDIS_MNEMONIC_MOVAPS : unaligned[next_random() % 2], of_memory(16), reg);
		break;
	case 1:
		put_two(aligned[next_random() % 3], reg, of_memory(16));
		break;
	case 2:
		put_two(ZYDIS_MNEMONIC_VMOVDQU, of_register(some_vector(32)), of_memory(32));
		break;
	case 3: /* general registers in such instructions */
		put_two(ZYDIS_MNEMONIC_MOVQ, reg, of_register(some_register()));
		break;
	case 4:
		put_two(ZYDIS_MNEMONIC_MOVQ, of_register(some_register()), reg);
		break;
	case 5:
		put_two(ZYDIS_MNEMONIC_MOVBE, of_memory(8), of_register(some_register()));
		break;
	default:
		put_two(unaligned[next_random() % 2], reg, of_memory(16));
		break;
	}
}

/* To where the loop ends; the displacement is filled in later. */
static u64 leave_at[64];
static unsigned leaves;

static void put_jcc(u8 condition)
{
	u8 *to = m->mem.host + code_at;
	to[0] = 0x0f;
	to[1] = 0x80 | condition;
	code_at += 6;
	leave_at[leaves++] = code_at;
}

/* An access by something less the index. */
static void put_reversed(void)
{
	ZydisRegister reg = some_register();
	ZydisEncoderOperand memory = of_memory(8);
	if (one_in(3)) {
		put_two(ZYDIS_MNEMONIC_MOV, of_register(reg), of_immediate((i64)(next_random() % 1024)));
		put_two(ZYDIS_MNEMONIC_SUB, of_register(reg), of_register(idx[0]));
	} else {
		put_two(ZYDIS_MNEMONIC_MOV, of_register(reg), of_register(idx[0]));
		put_one(one_in(2) ? ZYDIS_MNEMONIC_NEG : ZYDIS_MNEMONIC_NOT, of_register(reg));
	}
	if (memory.mem.base == ZYDIS_REGISTER_RIP)
		return;
	memory.mem.index = reg;
	memory.mem.scale = (ZyanU8)(1u << next_random() % 4);
	if (one_in(2))
		put_two(ZYDIS_MNEMONIC_ADD, memory, of_register(some_register()));
	else
		put_two(ZYDIS_MNEMONIC_ADD, of_register(some_register()), memory);
}

/* A store, and a load of what may be the same. */
static void put_reload(void)
{
	unsigned size = one_in(3) ? 4 : 8;
	ZydisEncoderOperand memory = of_memory(size);
	put_two(ZYDIS_MNEMONIC_MOV, memory, of_register(sized(some_register(), size)));
	if (one_in(2))
		put_arithmetic();
	put_two(one_in(2) ? ZYDIS_MNEMONIC_MOV : ZYDIS_MNEMONIC_ADD, of_register(sized(some_register(), size)), memory);
}

static void put_something(void)
{
	ZydisRegister reg = some_register();
	switch (next_random() % 16) {
	case 0:
		put_two(ZYDIS_MNEMONIC_LEA, of_register(reg), of_memory(8));
		break;
	case 1:
		put_one(one_in(2) ? ZYDIS_MNEMONIC_INC : ZYDIS_MNEMONIC_DEC,
			of_register(sized(reg, one_in(2) ? 4 : 8)));
		break;
	case 2:
		put_two(ZYDIS_MNEMONIC_MOVSXD, of_register(reg), of_register(sized(some_register(), 4)));
		break;
	case 3:
		put_two(ZYDIS_MNEMONIC_SHL, of_register(reg), of_immediate(next_random() % 64));
		break;
	case 4:
		put_two(ZYDIS_MNEMONIC_MOVZX, of_register(reg), of_memory(1));
		break;
	case 5:
		put_two(ZYDIS_MNEMONIC_IMUL, of_register(reg), of_memory(8));
		break;
	case 6:
		put_one(ZYDIS_MNEMONIC_SETB, of_register(sized(reg, 1)));
		break;
	case 7:
		put_two(ZYDIS_MNEMONIC_CMOVNZ, of_register(reg),
			one_in(2) ? of_memory(8) : of_register(some_register()));
		break;
	case 8:
	case 9:
		put_vector();
		break;
	case 10:
		if (one_in(3) && leaves < 8)
			put_jcc(next_random() & 15);
		break;
	case 11:
		if (one_in(2))
			put_reversed();
		else
			put_reload();
		break;
	default:
		put_arithmetic();
		break;
	}
}

static void move_by_constant(ZydisRegister reg)
{
	static const i64 steps[] = { 1, 4, 8, 8, 16, 24, 64, 256, -1, -8, -16, 3, 1000 };
	i64 step = steps[next_random() % G_N_ELEMENTS(steps)];
	bool narrow = reg == idx[0] && one_in(2);
	if (one_in(4))
		return;
	if (one_in(3)) {
		ZydisEncoderOperand op = { .type = ZYDIS_OPERAND_TYPE_MEMORY };
		op.mem.size = 8;
		op.mem.base = reg;
		op.mem.displacement = step;
		put_two(ZYDIS_MNEMONIC_LEA, of_register(narrow ? sized(reg, 4) : reg), op);
	} else {
		put_two(ZYDIS_MNEMONIC_ADD, of_register(narrow ? sized(reg, 4) : reg), of_immediate(step));
	}
}

/* Counts RCX down, and jumps back to the loop's head unless it is 0. */
static void put_back(u64 head)
{
	i32 back = (i32)(head - code_at - 2);
	if (back >= INT8_MIN && one_in(3)) {
		u8 *to = m->mem.host + code_at;
		to[0] = 0xe2; /* LOOP */
		to[1] = (u8)back;
		code_at += 2;
		return;
	}
	put_two(ZYDIS_MNEMONIC_SUB, of_register(ZYDIS_REGISTER_RCX), of_immediate(1));
	put_jcc(5); /* JNZ */
	back = (i32)(head - code_at);
	memcpy(m->mem.host + code_at - 4, &back, 4);
	leaves--;
}

/* In one visit or two, and one round, an immediate of the loop becomes another. */
static void put_change(void)
{
	put_two(ZYDIS_MNEMONIC_CMP, of_register(ZYDIS_REGISTER_BL), of_immediate(1 + (i64)(next_random() % 127)));
	u8 *visit = m->mem.host + code_at;
	code_at += 2;
	put_two(ZYDIS_MNEMONIC_CMP, of_register(ZYDIS_REGISTER_CL),
		of_immediate(1 + (i64)(next_random() % FEW_ROUNDS)));
	u8 *round = m->mem.host + code_at;
	code_at += 2;
	u64 store = code_at;
	memcpy(m->mem.host + store, (const u8[]){ 0x88, 0x1d, 0, 0, 0, 0 }, 6); /* MOV [RIP + disp32], BL */
	code_at += 6;
	memcpy(visit, (const u8[]){ 0x75, (u8)(m->mem.host + code_at - (visit + 2)) }, 2);
	memcpy(round, (const u8[]){ 0x75, (u8)(m->mem.host + code_at - (round + 2)) }, 2);
	for (unsigned n = next_random() % 3; n--;)
		put_something();
	put_two(ZYDIS_MNEMONIC_ADD, of_register(some_register()), of_immediate((i64)(next_random() % 128)));
	i32 way = (i32)(code_at - 1 - (store + 6));
	memcpy(m->mem.host + store + 2, &way, 4);
}

static u64 rounds_of_visit(void)
{
	return 1 + next_random() % (is_short ? FEW_ROUNDS : ROUNDS_MAX);
}

/* RCX = rounds of this visit: always as many, or by the visit's number. */
static void put_rounds(void)
{
	put_two(ZYDIS_MNEMONIC_MOV, of_register(ZYDIS_REGISTER_RCX), of_immediate((i64)rounds_of_visit()));
	if (!is_short || one_in(2))
		return;
	put_two(ZYDIS_MNEMONIC_MOV, of_register(ZYDIS_REGISTER_ECX), of_register(ZYDIS_REGISTER_EBX));
	put_two(ZYDIS_MNEMONIC_AND, of_register(ZYDIS_REGISTER_ECX), of_immediate((1 << (1 + next_random() % 3)) - 1));
	put_two(ZYDIS_MNEMONIC_ADD, of_register(ZYDIS_REGISTER_ECX), of_immediate(1));
}

/* The next visit begins elsewhere. */
static void put_next_place(unsigned i)
{
	static const i64 ways[] = { 8, 24, 40, -16, 1, 200 };
	ZydisEncoderOperand saved = { .type = ZYDIS_OPERAND_TYPE_MEMORY };
	saved.mem = (typeof(saved.mem)){ .base = ZYDIS_REGISTER_RSP, .size = 8, .displacement = 8 * i };
	if (is_short && one_in(3))
		put_two(ZYDIS_MNEMONIC_ADD, saved, of_immediate(ways[next_random() % G_N_ELEMENTS(ways)]));
}

/* The loop, its visits, and HLT. */
static void make_code(void)
{
	mem_about_to_write(&m->mem, code_start, PAGE_SIZE);
	leaves = 0;
	code_at = code_start + (one_in(4) ? next_random() % 64 : 0);
	memset(m->mem.host + code_start, 0x90, 64);
	u64 visit = code_start, head;
	put_rounds();
	head = code_at;
	for (unsigned n = 1 + next_random() % 12; n--;)
		put_something();
	if (changes_itself)
		put_change();
	for (unsigned i = 0; i < BASES; i++)
		move_by_constant(base[i]);
	move_by_constant(idx[0]);
	put_back(head);
	for (unsigned i = 0; i < leaves; i++) {
		i32 way = (i32)(code_at - leave_at[i]);
		memcpy(m->mem.host + leave_at[i] - 4, &way, 4);
	}
	/* Each visit begins with the registers as the last one left them, but for bases and index: those are kept
	 * below. */
	for (unsigned i = 0; i < BASES + INDICES; i++) {
		ZydisEncoderOperand saved = { .type = ZYDIS_OPERAND_TYPE_MEMORY };
		saved.mem = (typeof(saved.mem)){ .base = ZYDIS_REGISTER_RSP, .size = 8, .displacement = 8 * i };
		put_next_place(i);
		put_two(ZYDIS_MNEMONIC_MOV, of_register(i < BASES ? base[i] : idx[i - BASES]), saved);
	}
	put_two(ZYDIS_MNEMONIC_SUB, of_register(ZYDIS_REGISTER_RBX), of_immediate(1));
	put_jcc(5);
	i32 back = (i32)(visit - code_at);
	memcpy(m->mem.host + code_at - 4, &back, 4);
	m->mem.host[code_at++] = 0xf4;
	memcpy(code, m->mem.host + code_start, PAGE_SIZE);
}

/* --- memory and registers --- */

static u8 pages[WINDOW_PAGES][PAGE_SIZE], changed[WINDOW_PAGES][PAGE_SIZE];

static void make_pages(void)
{
	unsigned order[WINDOW_PAGES];
	/* Small numbers are addresses, too, and steps lead out of the window: only what is looked at is there. */
	for (u64 at = 0; at < 0x200000; at += PAGE_SIZE)
		machine_map(m, at, at, at >= GDT && at < HANDLERS + PAGE_SIZE ? 1 : 0);
	for (u64 at = STACK - 2 * PAGE_SIZE; at <= STACK; at += PAGE_SIZE)
		machine_map(m, at, at, 3);
	machine_map(m, code_start, code_start, changes_itself ? 3 : 1);
	for (unsigned i = 0; i < WINDOW_PAGES; i++)
		order[i] = i;
	for (unsigned i = WINDOW_PAGES; i-- > 1;) {
		unsigned other = next_random() % (i + 1), kept = order[i];
		order[i] = order[other];
		order[other] = kept;
	}
	for (unsigned i = 0; i < WINDOW_PAGES; i++) {
		u64 rights = one_in(20) ? 0 : one_in(20) ? 1 : 3;
		machine_map(m, WINDOW + i * PAGE_SIZE, RAM_PAGES + order[i] * PAGE_SIZE, rights);
		for (unsigned at = 0; at < PAGE_SIZE; at += 8) {
			u64 v = next_random();
			memcpy(pages[i] + at, &v, 8);
		}
	}
}

/* The stack has what bases and index begin with. */
static void fill_stack(const struct x86_state *s)
{
	mem_about_to_write(&m->mem, STACK - 2 * PAGE_SIZE, 3 * PAGE_SIZE);
	memset(m->mem.host + STACK - 2 * PAGE_SIZE, 0, 3 * PAGE_SIZE);
	for (unsigned i = 0; i < BASES + INDICES; i++)
		memcpy(m->mem.host + STACK + 8 * i, &s->gpr[ZydisRegisterGetId(i < BASES ? base[i] : idx[i - BASES])],
		       8);
}

static void fill_pages(void)
{
	mem_about_to_write(&m->mem, RAM_PAGES, sizeof pages);
	memcpy(m->mem.host + RAM_PAGES, pages, sizeof pages);
}

static void choose_registers(struct x86_state *s)
{
	cpu_get_state(&m->cpu, s);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		s->gpr[i] = one_in(2) ? next_random() : next_random() & 0xff;
	for (unsigned i = 0; i < BASES; i++) {
		base[i] = some_register();
		u64 near_end = WINDOW + (1 + next_random() % 22) * PAGE_SIZE - (next_random() & 0xff);
		s->gpr[ZydisRegisterGetId(base[i])] =
			(one_in(2) ? near_end : WINDOW + next_random() % 0x16000) & (one_in(3) ? ~0ULL : ~15ULL);
	}
	idx[0] = some_register();
	if (idx[0] != base[0] && idx[0] != base[1])
		s->gpr[ZydisRegisterGetId(idx[0])] = next_random() & (one_in(2) ? 0xff : 0xff0);
	s->gpr[RBX] = is_short ? MANY_VISITS : VISITS;
	s->gpr[RSP] = STACK;
	s->rip = code_start;
	s->rflags = RFLAGS_ONE | (next_random() & RFLAGS_ARITH);
	s->cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
	mem_about_to_write(&m->mem, STACK, 8 * (BASES + INDICES));
	for (unsigned i = 0; i < BASES + INDICES; i++)
		memcpy(m->mem.host + STACK + 8 * i, &s->gpr[ZydisRegisterGetId(i < BASES ? base[i] : idx[i - BASES])],
		       8);
}

/* --- both ways --- */

static const u16 arith_mask = 0xd501; /* as LAHF and SETO leave it */

struct outcome {
	u64 reg[GPR_COUNT], rip, instructions;
	u16 arith;
	u8 vectors[512], uppers[256];
	u8 stack[3 * PAGE_SIZE]; /* with the frame of the fault that ended it */
};

static void run(const struct x86_state *s, const struct jit_ops *jit, struct outcome *o)
{
	struct cpu *cpu = &m->cpu;
	block_cache_flush_now(cpu);
	cpu->jit = jit;
	cpu->jit_hot = is_short ? 16 : 2;
	mem_about_to_write(&m->mem, code_start, PAGE_SIZE);
	memcpy(m->mem.host + code_start, code, PAGE_SIZE);
	fill_pages();
	fill_stack(s);
	cpu_set_state(cpu, s);
	cpu->xcr0 = xsave_supported(cpu);
	memset(&cpu->fpu.legacy[FPU_XMM], 0x11, 256);
	memset(cpu->fpu.ymm_high, 0, sizeof cpu->fpu.ymm_high);
	mmu_flush_all(&cpu->mmu);
	cpu->counters.instructions = 0;
	cpu->activity = CPU_ACTIVE;
	g_assert_cmpint(cpu_run(cpu), ==, CPU_STOP_IDLE);
	memcpy(o->reg, cpu->reg, sizeof o->reg);
	o->rip = cpu->reg[REG_RIP];
	o->instructions = cpu->counters.instructions;
	o->arith = cpu->arith & arith_mask;
	memcpy(o->vectors, cpu->fpu.legacy, sizeof o->vectors);
	memcpy(o->uppers, cpu->fpu.ymm_high, sizeof o->uppers);
	memcpy(o->stack, m->mem.host + STACK - 2 * PAGE_SIZE, sizeof o->stack);
}

static void compare(const struct outcome *a, const struct outcome *b)
{
	bool same = !memcmp(changed, m->mem.host + RAM_PAGES, sizeof changed);
	if (!memcmp(a, b, sizeof *a) && same)
		return;
	jit_print_code("guest code:", code, code_at - code_start, code_start);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		fprintf(stderr, "r%-2u interpreted %16llx translated %16llx%s\n", i, (unsigned long long)a->reg[i],
			(unsigned long long)b->reg[i], a->reg[i] == b->reg[i] ? "" : "  !");
	fprintf(stderr, "rip %llx %llx, instructions %llu %llu, flags %x %x, memory %s\n", (unsigned long long)a->rip,
		(unsigned long long)b->rip, (unsigned long long)a->instructions, (unsigned long long)b->instructions,
		a->arith, b->arith, same ? "same" : "differs");
	for (unsigned i = 0; i < sizeof a->stack; i += 8)
		if (memcmp(a->stack + i, b->stack + i, 8))
			fprintf(stderr, "the stack differs at %#x\n", STACK - 2 * (unsigned)PAGE_SIZE + i);
	abort();
}

static unsigned long translated;

static void try_once(void)
{
	static struct outcome interpreted, again;
	struct x86_state s;
	code_start = CODE + next_random() % CODE_PAGES * PAGE_SIZE;
	m->cpu.blocks->pages[code_start >> PAGE_SHIFT].drops = 0; /* time stands still between runs */
	is_short = one_in(2);
	changes_itself = is_short && one_in(4);
	machine_tables(m);
	make_pages();
	choose_registers(&s);
	make_code();
	run(&s, NULL, &interpreted);
	memcpy(changed, m->mem.host + RAM_PAGES, sizeof changed);
	u64 before = m->cpu.counters.traces_translated;
	run(&s, translator, &again);
	translated += m->cpu.counters.traces_translated - before;
	compare(&interpreted, &again);
}

int main(int argc, char **argv)
{
	const struct jit_options options = { .hot = 2 };
	fuzz_begin(argc, argv);
	m = machine_new();
	g_assert_cmpint(jit_create(&m->cpu, &options), ==, 0);
	translator = m->cpu.jit;
	unsigned long runs = fuzz_runs(m, try_once);
	printf("ok: %lu runs, %lu translations\n", runs, translated);
	g_assert_cmpuint(translated, >=, runs / 2);
	m->cpu.jit = translator;
	jit_destroy(&m->cpu);
	machine_free(m);
	return 0;
}
