/*
 * The way into translated code and out of it, and from it to the interpreter's handlers. Made once, at the start of the
 * code area.
 */
#include "cpu/access.h"
#include "jit/translation.h"

const u8 host_register[GPR_COUNT] = {
	[RAX] = HOST_RAX, [RCX] = HOST_RCX, [RDX] = HOST_RDX,  [RBX] = HOST_RBX,  [RSP] = 14,        [RBP] = HOST_RBP,
	[RSI] = HOST_RSI, [RDI] = HOST_RDI, [R8] = HOST_R8,    [R9] = HOST_NONE,  [R10] = HOST_NONE, [R11] = HOST_NONE,
	[R12] = 12,       [R13] = 13,       [R14] = HOST_NONE, [R15] = HOST_NONE,
};

enum {
	STUBS_MAX = 8192,
	NO_RETURN = 1 /* where no CALL leads back to, for none is so short that it pushes that */
};

/* Pushed by `enter`, besides 8 bytes that align the stack. */
static const u8 saved[] = { HOST_RBX, HOST_RBP, 12, 13, 14, 15 };

static void emit_store_guest(struct emit *e)
{
	for (unsigned g = 0; g < GPR_COUNT; g++)
		if (host_register[g] != HOST_NONE)
			emit_store(e, host_register[g], HOST_CPU, guest_offset(g));
}

static void emit_store_state(struct emit *e, const struct jit *jit)
{
	emit_store_guest(e);
	emit_load(e, HOST_RAX, HOST_CPU, CPU_FIELD(jit_instructions));
	emit_rm(e, OPCODE_WIDE(0x01), HOST_RAX, HOST_CPU, HOST_NONE, 0, CPU_FIELD(counters.instructions));
	emit_store_zero(e, HOST_CPU, CPU_FIELD(jit_instructions));
	emit_store_vectors(e, jit);
	emit_store_x87(e, jit);
}

static void emit_load_guest(struct emit *e)
{
	for (unsigned g = 0; g < GPR_COUNT; g++)
		if (host_register[g] != HOST_NONE)
			emit_load(e, host_register[g], HOST_CPU, guest_offset(g));
}

/* enter(RDI = cpu, RSI = code). `no_call`: where a RET goes on if no call is open. */
static void make_enter(struct emit *e, const u8 *no_call)
{
	for (unsigned i = 0; i < ARRAY_SIZE(saved); i++)
		emit_push(e, saved[i]);
	emit_mov(e, HOST_T1, HOST_RSP);
	emit_alu_imm(e, 4, true, HOST_RSP, -CALLS_BYTES);
	emit_push(e, HOST_T1);
	emit_alu_imm(e, 5, true, HOST_RSP, 8);
	emit_lea(e, HOST_CPU, HOST_RDI, CPU_BIAS);
	emit_mov(e, HOST_T0, HOST_RSI);
	/* As an open call has its return addresses, guest's and host's, for a RET without CALL may lead there. */
	emit_mov_imm(e, HOST_T1, NO_RETURN);
	emit_push(e, HOST_T1);
	emit_mov_imm(e, HOST_T1, (u64)no_call);
	emit_push(e, HOST_T1);
	emit_store(e, HOST_RSP, HOST_CPU, CPU_FIELD(jit_stack));
	emit_load_guest(e);
	emit_rr(e, (struct opcode){ .byte = 0xff }, 4, HOST_T0);
}

/* Back to the caller of enter(), whatever calls are open; RAX is set. */
static void make_return(struct emit *e)
{
	emit_load(e, HOST_RSP, HOST_CPU, CPU_FIELD(jit_stack));
	emit_alu_imm(e, 0, true, HOST_RSP, 8 + 16);
	emit_pop(e, HOST_RSP);
	for (unsigned i = ARRAY_SIZE(saved); i-- > 0;)
		emit_pop(e, saved[i]);
	emit8(e, 0xc3);
}

static void emit_call_c(struct emit *e, u64 function)
{
	emit_mov_imm(e, HOST_RAX, function);
	emit_rr(e, (struct opcode){ .byte = 0xff }, 2, HOST_RAX);
}

/* function(cpu, `first`, `second`), once the state is in struct cpu. HOST_NONE: there is no second. */
static void emit_call_with(struct emit *e, const struct jit *jit, u64 function, unsigned first, unsigned second)
{
	emit_store_state(e, jit);
	emit_cpu_address(e, HOST_RDI);
	emit_mov(e, HOST_RSI, first);
	if (second != HOST_NONE)
		emit_mov(e, HOST_RDX, second);
	emit_call_c(e, function);
}

static struct block *site_block(const struct cpu *cpu, u64 site)
{
	return (struct block *)(cpu->blocks->arena + (site >> SITE_BLOCK & 0x1fffffff) * 8);
}

static unsigned site_offset(u64 site)
{
	return site >> SITE_OFFSET & 0xfff;
}

static unsigned site_end(u64 site)
{
	return site >> SITE_END & 0x7f;
}

static unsigned site_index(u64 site)
{
	return site >> SITE_INDEX & 0x3f;
}

static unsigned site_before(u64 site)
{
	return site & 0x7f;
}

/* Runs an instruction's handler in the interpreter's circumstances: a throw counts from the block's beginning. */
static void execute(struct cpu *cpu, u64 site)
{
	struct block *block = site_block(cpu, site);
	const struct insn *insn = &block->insn[site_index(site)];

	cpu->blocks->running = block;
	cpu->insn = insn;
	cpu->rip_start = cpu->jit_page + site_offset(site);
	cpu->reg[REG_RIP] = cpu->rip_start + insn->length;
	cpu->counters.instructions += site_before(site);
	cpu->counters.instructions_by_handler++;
	if (insn->mnemonic)
		cpu->counters.handler[insn->mnemonic]++;
	insn->exec(cpu, insn);
	pmu_retired(&cpu->pmu, insn);
}

/* A handler may have changed what can be loaded: can still be what the code behind wants? */
static bool may_load(struct cpu *cpu, u64 site)
{
	cpu->vectors_allowed = jit_vectors_allowed(cpu);
	cpu->x87_allowed = jit_x87_allowed(cpu);
	return cpu->vectors_allowed >= site >> SITE_VECTORS && cpu->x87_allowed >= (site >> SITE_X87 & 1);
}

/*
 * Within a trace, which counts its instructions where it is left. Nonzero: translated code must be left, and RIP is
 * right. A translation was dropped meanwhile, perhaps this one; or its predictions are no longer good; or something
 * wants attention; or what the code behind wants loaded cannot be any more.
 */
static u64 run_handler(struct cpu *cpu, u64 site)
{
	u64 dropped = cpu->counters.translations_dropped, stamp = mmu_copy_stamp(&cpu->mmu);
	execute(cpu, site);
	bool loadable = may_load(cpu, site);
	if (likely(cpu->counters.translations_dropped == dropped && mmu_copy_stamp(&cpu->mmu) == stamp &&
		   !cpu->attention && loadable)) {
		cpu->counters.instructions -= site_before(site);
		return 0;
	}
	cpu->counters.instructions += site_index(site) + 1;
	return 1;
}

/* The translated block to go on with after a handler, if there is one. */
static struct block *next_block(struct cpu *cpu)
{
	cpu->blocks->running = NULL;
	cpu->vectors_allowed = jit_vectors_allowed(cpu);
	return jit_of(cpu)->options.check ? NULL : cpu_next_translated(cpu);
}

/* The instruction ends the trace. */
static struct block *run_last(struct cpu *cpu, u64 site)
{
	execute(cpu, site);
	cpu->counters.instructions += site_index(site) + 1;
	return next_block(cpu);
}

/* Runs the instruction across pages that a block of no instruction stands for. */
static struct block *run_crossing(struct cpu *cpu, const struct block *block)
{
	cpu->reg[REG_RIP] = cpu->jit_page + (block->ram_offset & (PAGE_SIZE - 1));
	return cpu_run_crossing(cpu) ? next_block(cpu) : NULL;
}

/* Does the page of RAM at this place have blocks? */
static bool has_code(const struct cpu *cpu, const u8 *host)
{
	return cpu->blocks->pages[(u64)(host - cpu->mem->host) >> PAGE_SHIFT].blocks;
}

/*
 * The TLB has not got an operand that is about to be accessed: fills it with the page, if there is one. It never has
 * pages with code for writing: what writes there walks the tables once, in its handler.
 */
static void fill(struct cpu *cpu, u64 linear, u64 write)
{
	const u8 *known = access_hit(cpu, cpu->mmu.tlb, linear, 1, false);
	if (known && (!write || has_code(cpu, known)))
		return;
	mmu_translate(&cpu->mmu, linear, write ? MMU_WRITE : MMU_READ, cpu->mmu.cls);
}

/* Runs what is translated of a block, from the site's instruction on, as the interpreter does. */
static void interpret(struct cpu *cpu, u64 site)
{
	struct block *block = site_block(cpu, site);
	const struct insn *insn = &block->insn[site_index(site)], *end = block->insn + site_end(site);

	cpu->blocks->running = block;
	cpu->reg[REG_RIP] = cpu->jit_page + site_offset(site);
	cpu->counters.instructions += site_before(site);
	for (; insn != end; insn++) {
		cpu->insn = insn;
		cpu->rip_start = cpu->reg[REG_RIP];
		cpu->reg[REG_RIP] += insn->length;
		insn->exec(cpu, insn);
	}
	pmu_retired(&cpu->pmu, end - 1);
	cpu->counters.instructions += site_end(site);
	cpu->counters.instructions_interpreted += site_end(site) - site_index(site);
}

/* The group's range crosses a page, or is no plain memory. */
static void ungroup(struct cpu *cpu, u64 site)
{
	block_group_failed(cpu, site_block(cpu, site));
	interpret(cpu, site);
}

/* Setting stretches up costs this loop more than it saves. */
static void stop_hoisting(struct cpu *cpu, u64 site)
{
	struct block *block = site_block(cpu, site);
	block->unhoisted = true;
	block_retranslate(cpu, block);
	interpret(cpu, site);
}

/* T2 = [CPU + field], a byte. */
static void emit_load_byte(struct emit *e, i32 field)
{
	emit_rm(e, (struct opcode){ .byte = 0xb6, .map = 1 }, HOST_T2, HOST_CPU, HOST_NONE, 0, field);
}

/* Loads vectors again, if that many were loaded: T2. */
static void emit_reload_vectors(struct emit *e, const struct jit *jit)
{
	emit_alu_imm(e, 7, false, HOST_T2, VECTORS_UPPER);
	u8 *less = emit_jcc(e, COND_NZ, NULL);
	emit_call(e, jit->stub_load_vectors[VECTORS_UPPER]);
	u8 *done = emit_jmp(e, NULL);
	emit_patch(e, less, e->at);
	emit_alu_imm(e, 7, false, HOST_T2, VECTORS_NONE);
	u8 *none = emit_jcc(e, COND_Z, NULL);
	emit_call(e, jit->stub_load_vectors[VECTORS_SSE]);
	emit_patch(e, done, e->at);
	emit_patch(e, none, e->at);
}

static void emit_reload_x87(struct emit *e, const struct jit *jit)
{
	emit_alu_imm(e, 7, false, HOST_T2, false);
	u8 *none = emit_jcc(e, COND_Z, NULL);
	emit_call(e, jit->stub_load_x87);
	emit_patch(e, none, e->at);
}

/*
 * call: T0 = linear address of an operand, T2 = is it to be written? The TLB has it then, if it can. What is loaded of
 * vectors and x87 registers stays so. Keeps T0 and T1.
 */
static void make_fill(struct emit *e, const struct jit *jit)
{
	emit_push(e, HOST_T0);
	emit_push(e, HOST_T1);
	emit_push(e, HOST_T2);
	emit_load_byte(e, CPU_FIELD(x87));
	emit_push(e, HOST_T2);
	emit_load_byte(e, CPU_FIELD(vectors));
	emit_push(e, HOST_T2);
	emit_load(e, HOST_T2, HOST_RSP, 16);
	emit_call_with(e, jit, (u64)fill, HOST_T0, HOST_T2);
	emit_load_guest(e);
	emit_pop(e, HOST_T2);
	emit_reload_vectors(e, jit);
	emit_pop(e, HOST_T2);
	emit_reload_x87(e, jit);
	emit_pop(e, HOST_T2);
	emit_pop(e, HOST_T1);
	emit_pop(e, HOST_T0);
	emit8(e, 0xc3);
}

static void make_far(struct emit *e, const struct jit *jit)
{
	emit_push(e, HOST_T0);
	emit_call_with(e, jit, (u64)jit_bind_far, HOST_T1, HOST_T0);
	emit_mov(e, HOST_T2, HOST_RAX);
	emit_load_guest(e);
	emit_pop(e, HOST_T0);
	emit8(e, 0xc3);
}

/* Calls `function`, and enters the block that it returns, if any. */
static void make_going_on(struct emit *e, const struct jit *jit, u64 function, const u8 *leave)
{
	emit_call_with(e, jit, function, HOST_T1, HOST_NONE);
	emit_rr(e, OPCODE_WIDE(0x85), HOST_RAX, HOST_RAX);
	emit_jcc(e, COND_Z, leave);
	emit_load(e, HOST_RSP, HOST_CPU, CPU_FIELD(jit_stack)); /* as on entry: no call is open */
	emit_mov(e, HOST_T1, HOST_RAX);
	emit_load_guest(e);
	emit_rm(e, (struct opcode){ .byte = 0xff }, 4, HOST_T1, HOST_NONE, 0, offsetof(struct block, entry));
}

static void make_handler(struct emit *e, const struct jit *jit, const u8 *leave)
{
	emit_lea(e, HOST_RSP, HOST_RSP, -8);
	emit_call_with(e, jit, (u64)run_handler, HOST_T1, HOST_NONE);
	emit_rr(e, OPCODE_WIDE(0x85), HOST_RAX, HOST_RAX);
	emit_jcc(e, COND_NZ, leave);
	emit_load_guest(e);
	emit_lea(e, HOST_RSP, HOST_RSP, 8);
	emit8(e, 0xc3);
}

/*
 * EDX:EAX = the TSC. C code leaves most registers alone that hold the guest's; the others are kept, and RBX, which is
 * used where x87 registers are stored.
 */
static void make_tsc(struct emit *e, const struct jit *jit)
{
	static const u8 kept[] = { RCX, RBX, RSI, RDI, R8 };
	emit_lea(e, HOST_RSP, HOST_RSP, -8);
	for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
		emit_store(e, host_register[kept[i]], HOST_CPU, guest_offset(kept[i]));
	emit_store_vectors(e, jit);
	emit_store_x87(e, jit);
	emit_cpu_address(e, HOST_RDI);
	emit_call_c(e, (u64)cpu_tsc);
	for (unsigned i = 0; i < ARRAY_SIZE(kept); i++)
		emit_load(e, host_register[kept[i]], HOST_CPU, guest_offset(kept[i]));
	emit_mov(e, HOST_RDX, HOST_RAX);
	emit_rr(e, OPCODE_WIDE(0xc1), 5, HOST_RDX);
	emit8(e, 32);
	emit_rr(e, (struct opcode){ .byte = 0x8b }, HOST_RAX, HOST_RAX);
	emit_lea(e, HOST_RSP, HOST_RSP, 8);
	emit8(e, 0xc3);
}

/* Calls `function`, which did the rest of the block. */
static void make_leaving(struct emit *e, const struct jit *jit, u64 function, const u8 *leave)
{
	emit_call_with(e, jit, function, HOST_T1, HOST_NONE);
	emit_jmp(e, leave);
}

/* Three ways out, of which one tells the caller of enter() a link. */
static void make_leave(struct emit *e, struct jit *jit)
{
	jit->stub_leave = e->at;
	emit_mov_imm(e, HOST_T2, 0);
	u8 *unlinked = emit_jmp(e, NULL);
	jit->stub_leave_at = e->at;
	emit_rm(e, OPCODE_WIDE(0x03), HOST_T2, HOST_CPU, HOST_NONE, 0, CPU_FIELD(jit_page));
	emit_mov(e, HOST_T0, HOST_T2);
	emit_jmp(e, jit->stub_leave);
	jit->stub_leave_by = e->at;
	emit_mov_imm(e, HOST_T0, (u64)jit->writable);
	emit_rr(e, OPCODE_WIDE(0x01), HOST_T0, HOST_T2);
	emit_load(e, HOST_T0, HOST_T2, offsetof(struct jit_link, ram_offset));
	emit_alu_imm(e, 4, true, HOST_T0, PAGE_SIZE - 1);
	emit_rm(e, OPCODE_WIDE(0x03), HOST_T0, HOST_CPU, HOST_NONE, 0, CPU_FIELD(jit_page));
	emit_patch(e, unlinked, e->at);
	emit_store(e, HOST_T0, HOST_CPU, guest_offset(REG_RIP));
	emit_store_state(e, jit);
	emit_mov(e, HOST_RAX, HOST_T2);
	make_return(e);
}

void jit_make_stubs(struct cpu *cpu, struct jit *jit)
{
	struct emit e = { .at = jit->writable, .end = jit->writable + STUBS_MAX };

	jit_make_vector_stubs(jit, &e);
	jit_make_x87_stubs(jit, &e);
	const u8 *no_call = e.at; /* T0 = RIP, as behind any RET */
	emit_load(&e, HOST_RSP, HOST_CPU, CPU_FIELD(jit_stack));
	u8 *no_call_leaves = emit_jmp(&e, NULL);
	u8 *enter = e.at;
	make_enter(&e, jit_executable(jit, no_call));

	u8 *leave_no_link = e.at; /* the state is in struct cpu already */
	emit_mov_imm(&e, HOST_RAX, 0);
	make_return(&e);

	jit->stub_handler_end = e.at;
	make_going_on(&e, jit, (u64)run_last, leave_no_link);
	jit->stub_crossing = e.at;
	make_going_on(&e, jit, (u64)run_crossing, leave_no_link);
	jit->stub_handler = e.at;
	make_handler(&e, jit, leave_no_link);
	jit->stub_fill = e.at;
	make_fill(&e, jit);
	jit->stub_tsc = e.at;
	make_tsc(&e, jit);
	jit_make_string_stubs(jit, &e);
	jit->stub_far = e.at;
	make_far(&e, jit);
	jit->stub_ungroup = e.at;
	make_leaving(&e, jit, (u64)ungroup, leave_no_link);
	jit->stub_no_credit = e.at;
	make_leaving(&e, jit, (u64)stop_hoisting, leave_no_link);
	jit->stub_interpret = e.at;
	make_leaving(&e, jit, (u64)interpret, leave_no_link);

	jit_make_vector_entries(jit, &e);
	jit_make_x87_entry(jit, &e);

	jit->stub_untranslated = e.at;
	emit_load(&e, HOST_T0, HOST_T1, offsetof(struct jump_entry, linear));
	make_leave(&e, jit);
	emit_patch(&e, no_call_leaves, jit->stub_leave);
	const u8 *by_block = e.at;
	emit_load(&e, HOST_T2, HOST_T1, offsetof(struct jump_entry, block));
	emit_rm(&e, (struct opcode){ .byte = 0xff }, 4, HOST_T2, HOST_NONE, 0, offsetof(struct block, entry));
	jit_make_prediction_stubs(cpu, jit, &e);
	jit_make_stack_page_stubs(jit, &e);

	jit->enter = (struct jit_link * (*)(struct cpu *, const void *)) jit_executable(jit, enter);
	jit->stubs_end = (size_t)(e.at - jit->writable + 15) & ~15UL;
	jit->used = jit->stubs_end;
	cpu->blocks->untranslated = jit_executable(jit, jit->stub_untranslated);
	cpu->blocks->by_block = jit_executable(jit, by_block);
}
