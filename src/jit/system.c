/*
 * System instructions whose usual case reads and writes nothing but struct cpu. A kernel executes them at each entry
 * and exit, and around each access to user memory. What is unusual (CPL, CR4, an interrupt that waits) is left to the
 * handler, which faults, too.
 */
#include "cpu/event.h"
#include "jit/translation.h"

/* --- which ones --- */

static bool reads_control_register(const struct plan *p)
{
	return p->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && p->op[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
	       ZydisRegisterGetClass(p->op[0].reg.value) == ZYDIS_REGCLASS_GPR64 &&
	       ZydisRegisterGetClass(p->op[1].reg.value) == ZYDIS_REGCLASS_CONTROL;
}

bool jit_plan_system(const struct jit *jit, const struct plan *p)
{
	bool root = !(p->block->mode_key & MODE_NON_ROOT);

	if (!p->insn->mnemonic || p->insn->exec == insn_exec_undefined)
		return false;
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_CLI:
	case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_CLAC:
	case ZYDIS_MNEMONIC_RDPKRU:
	case ZYDIS_MNEMONIC_RDFSBASE:
	case ZYDIS_MNEMONIC_RDGSBASE:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		return true;
	case ZYDIS_MNEMONIC_STI: /* the instruction in its shadow follows */
		return p->insn + 1 < p->block->insn + p->block->count;
	case ZYDIS_MNEMONIC_RDTSC: /* never twice the same, for the checker */
	case ZYDIS_MNEMONIC_RDTSCP:
		return root && !jit->options.check;
	case ZYDIS_MNEMONIC_MOV: /* hv has a say in what its guest reads; CR8 is the APIC's */
		return root && reads_control_register(p) && p->insn->src != 8;
	default:
		return false;
	}
}

bool jit_changes_spaces(const struct plan *p)
{
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_SWAPGS:
	case ZYDIS_MNEMONIC_STAC:
	case ZYDIS_MNEMONIC_CLAC:
	case ZYDIS_MNEMONIC_WRFSBASE:
	case ZYDIS_MNEMONIC_WRGSBASE:
		return p->kind == PLAN_SYSTEM;
	default:
		return false;
	}
}

/* --- bytes of struct cpu --- */

/* The byte of a field that holds the flag, and the flag in it. */
static i32 byte_of(i32 field, u64 flag)
{
	return field + __builtin_ctzll(flag) / 8;
}

static u8 in_byte(u64 flag)
{
	return (u8)BIT(__builtin_ctzll(flag) % 8);
}

void require_byte(struct translation *t, const struct plan *p, i32 field, u8 value)
{
	emit_byte(&t->e, 7, field, value);
	emit_handler_if(t, p, COND_NZ);
}

void require_bits(struct translation *t, const struct plan *p, i32 field, u8 bits)
{
	emit_test_byte(&t->e, field, bits);
	emit_handler_if(t, p, COND_Z);
}

static void require_cpl0(struct translation *t, const struct plan *p)
{
	require_byte(t, p, CPU_FIELD(cpl), 0);
}

static void require_cr4(struct translation *t, const struct plan *p, u64 flag, bool set)
{
	emit_test_byte(&t->e, byte_of(CPU_FIELD(cr4), flag), in_byte(flag));
	emit_handler_if(t, p, set ? COND_Z : COND_NZ);
}

/* --- IF and AC --- */

static void translate_cli(struct translation *t, const struct plan *p)
{
	require_cpl0(t, p);
	emit_byte(&t->e, 4, byte_of(CPU_FIELD(rflags_sys), RFLAGS_IF), (u8)~in_byte(RFLAGS_IF));
}

/* Nothing waits for IF, nor has come up: then the next instruction follows at once, as exec_sti() has it. */
static void translate_sti(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	require_cpl0(t, p);
	emit_compare_attention(t);
	emit_handler_if(t, p, COND_NZ);
	require_byte(t, p, CPU_FIELD(intr_held), false);
	if (p->block->mode_key & MODE_NON_ROOT)
		require_byte(t, p, CPU_FIELD(if_free), true);
	emit_test_byte(&t->e, byte_of(CPU_FIELD(rflags_sys), RFLAGS_IF), in_byte(RFLAGS_IF));
	emit_handler_if(t, p, COND_NZ);
	emit_byte(&t->e, 1, byte_of(CPU_FIELD(rflags_sys), RFLAGS_IF), in_byte(RFLAGS_IF));
	emit_set_byte(&t->e, CPU_FIELD(shadow), SHADOW_STI);
	emit_set_byte(&t->e, CPU_FIELD(shadow_seen), false);
	emit_page_address(t, HOST_T0, p->offset + p->insn->length);
	emit_store(e, HOST_T0, HOST_CPU, CPU_FIELD(shadow_rip));
	emit_mov_imm(e, HOST_T0, (u64)p->insn);
	emit_store(e, HOST_T0, HOST_CPU, CPU_FIELD(shadow_insn));
}

/* STAC, CLAC: at CPL 0 AC chooses the class of accesses, and nothing else. */
static void translate_ac(struct translation *t, const struct plan *p, bool set)
{
	struct emit *e = &t->e;
	enum mmu_class cls = set ? MMU_SUPERVISOR_AC : MMU_SUPERVISOR;
	u8 ac = in_byte(RFLAGS_AC);
	require_cpl0(t, p);
	emit_byte(&t->e, set ? 1 : 4, byte_of(CPU_FIELD(rflags_sys), RFLAGS_AC), set ? ac : (u8)~ac);
	emit_rm(e, (struct opcode){ .byte = 0xc7 }, 0, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.cls));
	emit32(e, cls);
	emit_load(e, HOST_T0, HOST_CPU, OF_CLASS(cls, tlb));
	emit_store(e, HOST_T0, HOST_CPU, CPU_FIELD(mmu.tlb));
}

/* --- bases of FS and GS --- */

static i32 base_field(enum seg seg)
{
	return (i32)(offsetof(struct cpu, seg) + sizeof(struct segment) * seg + offsetof(struct segment, base));
}

static i32 base_copy(enum seg seg)
{
	return (i32)(offsetof(struct cpu, seg_base) + sizeof(u64) * seg);
}

static void translate_swapgs(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	require_cpl0(t, p);
	emit_load(e, HOST_T0, HOST_CPU, base_field(SEG_GS));
	emit_load(e, HOST_T1, HOST_CPU, CPU_FIELD(msr.kernel_gs_base));
	emit_store(e, HOST_T0, HOST_CPU, CPU_FIELD(msr.kernel_gs_base));
	emit_store(e, HOST_T1, HOST_CPU, base_field(SEG_GS));
	emit_store(e, HOST_T1, HOST_CPU, base_copy(SEG_GS));
}

/* A guest register = T0, which a write of 32 bits clears the upper half of. */
static void emit_result(struct translation *t, unsigned guest, bool wide)
{
	struct opcode mov = { .byte = 0x8b, .wide = wide };
	unsigned host = t->host[guest] == HOST_NONE ? HOST_T0 : t->host[guest];
	if (host != HOST_T0 || !wide)
		emit_rr(&t->e, mov, host, HOST_T0);
	if (host == HOST_T0)
		emit_store(&t->e, HOST_T0, HOST_CPU, guest_offset(guest));
}

static void translate_read_base(struct translation *t, const struct plan *p, enum seg seg)
{
	require_cr4(t, p, CR4_FSGSBASE, true);
	emit_load(&t->e, HOST_T0, HOST_CPU, base_field(seg));
	emit_result(t, p->insn->dst, p->insn->opsize == 8);
}

static void translate_write_base(struct translation *t, const struct plan *p, enum seg seg)
{
	struct emit *e = &t->e;
	require_cr4(t, p, CR4_FSGSBASE, true);
	emit_rr(e, (struct opcode){ .byte = 0x8b, .wide = p->insn->opsize == 8 }, HOST_T0,
		emit_use(t, p->insn->dst, HOST_T0));
	emit_canonical(t, p);
	emit_store(e, HOST_T0, HOST_CPU, base_field(seg));
	emit_store(e, HOST_T0, HOST_CPU, base_copy(seg));
}

/* --- what tells of the state --- */

static void translate_read_cr(struct translation *t, const struct plan *p)
{
	static const i32 field[] = { CPU_FIELD(cr0), 0, CPU_FIELD(cr2), CPU_FIELD(cr3), CPU_FIELD(cr4) };
	require_cpl0(t, p);
	emit_load(&t->e, HOST_T0, HOST_CPU, field[p->insn->src]);
	emit_result(t, p->insn->dst, true);
}

static void translate_rdpkru(struct translation *t, const struct plan *p)
{
	struct emit *e = &t->e;
	require_cr4(t, p, CR4_PKE, true);
	emit_rr(e, (struct opcode){ .byte = 0x85 }, HOST_RCX, HOST_RCX);
	emit_handler_if(t, p, COND_NZ);
	emit_rm(e, (struct opcode){ .byte = 0x8b }, HOST_RAX, HOST_CPU, HOST_NONE, 0, CPU_FIELD(mmu.key_rights));
	emit_rr(e, (struct opcode){ .byte = 0x31 }, HOST_RDX, HOST_RDX);
}

/* With CR4.TSD it depends on CPL. The call is one of C code: what is loaded of vectors is in memory then. */
static void translate_rdtsc(struct translation *t, const struct plan *p)
{
	require_cr4(t, p, CR4_TSD, false);
	emit_call(&t->e, t->jit->stub_tsc);
	if (p->vectors_after)
		emit_call(&t->e, t->jit->stub_load_vectors[p->vectors_after]);
	if (p->x87_after)
		emit_call(&t->e, t->jit->stub_load_x87);
	if (p->zi.mnemonic == ZYDIS_MNEMONIC_RDTSCP)
		emit_rm(&t->e, (struct opcode){ .byte = 0x8b }, HOST_RCX, HOST_CPU, HOST_NONE, 0,
			CPU_FIELD(msr.tsc_aux));
}

void translate_system(struct translation *t, const struct plan *p)
{
	give_up_host_flags(t, p->live_before);
	switch (p->zi.mnemonic) {
	case ZYDIS_MNEMONIC_CLI:
		translate_cli(t, p);
		break;
	case ZYDIS_MNEMONIC_STI:
		translate_sti(t, p);
		break;
	case ZYDIS_MNEMONIC_STAC:
		translate_ac(t, p, true);
		break;
	case ZYDIS_MNEMONIC_CLAC:
		translate_ac(t, p, false);
		break;
	case ZYDIS_MNEMONIC_SWAPGS:
		translate_swapgs(t, p);
		break;
	case ZYDIS_MNEMONIC_RDFSBASE:
		translate_read_base(t, p, SEG_FS);
		break;
	case ZYDIS_MNEMONIC_RDGSBASE:
		translate_read_base(t, p, SEG_GS);
		break;
	case ZYDIS_MNEMONIC_WRFSBASE:
		translate_write_base(t, p, SEG_FS);
		break;
	case ZYDIS_MNEMONIC_WRGSBASE:
		translate_write_base(t, p, SEG_GS);
		break;
	case ZYDIS_MNEMONIC_RDPKRU:
		translate_rdpkru(t, p);
		break;
	case ZYDIS_MNEMONIC_RDTSC:
	case ZYDIS_MNEMONIC_RDTSCP:
		translate_rdtsc(t, p);
		break;
	default:
		translate_read_cr(t, p);
	}
}
