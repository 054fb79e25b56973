/*
 * The interpreter's side: one CPU in 64-bit mode at CPL 3, with page tables that map the same linear addresses as on
 * the host. An instruction is decoded and its handler called, as cpu_run() would; or it is translated,
 * and the translation runs.
 */
#include "differ.h"

#include "cpu/event.h"
#include "cpu/system.h"
#include "jit/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RAM_SIZE = 16 << 20, TABLES = 0x100000, DATA_GPA = 0x200000, CODE_GPA = 0x300000 };

u8 *guest_data;

static struct mem mem;
static struct bus bus;
static struct cpu_config config;
static struct cpu_platform platform;
static struct cpu *cpu;
static unsigned native_cases;

static u64 no_tsc(void *opaque)
{
	return 0;
}

static bool no_interrupt(void *opaque)
{
	return false;
}

static int no_vector(void *opaque)
{
	return -1;
}

static bool no_msr_read(void *opaque, u32 msr, u64 *value)
{
	return false;
}

static bool no_msr_write(void *opaque, u32 msr, u64 value)
{
	return false;
}

static void no_init(void *opaque)
{
}

static void must(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "guest side: %s failed\n", what);
		exit(1);
	}
}

/* Maps one page for the user through tables that grow from TABLES + 4096. */
static void map_page(u64 va, u64 gpa)
{
	static u64 next = TABLES + 0x1000;
	u64 table = TABLES;
	for (unsigned level = 3; level > 0; level--) {
		u64 at = table + 8 * (va >> (12 + 9 * level) & 511);
		u64 entry = mem_read_u64(&mem, at);
		if (!entry) {
			entry = next | 7;
			next += 0x1000;
			mem_write_u64(&mem, at, entry);
		}
		table = entry & ~0xfffULL;
	}
	mem_write_u64(&mem, table + 8 * (va >> 12 & 511), gpa | 0x67);
}

static void set_segment(struct segment *s, u16 selector, u32 ar)
{
	*s = (struct segment){ .selector = selector, .limit = 0xffffffff, .ar = ar };
}

void guest_init(bool amd)
{
	platform = (struct cpu_platform){
		.ack_interrupt = no_vector,
		.interrupt_pending = no_interrupt,
		.apic_msr_read = no_msr_read,
		.apic_msr_write = no_msr_write,
		.apic_init = no_init,
		.tsc = no_tsc,
	};
	config = (struct cpu_config){
		.nested = amd ? NESTED_SVM : NESTED_NONE, .cpu_count = 1, .tsc_khz = 1000000, .phys_bits = 40
	};
	must(!mem_init(&mem, RAM_SIZE), "mem_init");
	bus_init(&bus);
	must(!cpu_cpuid_init(&config), "cpu_cpuid_init");
	cpu = aligned_alloc(64, (sizeof(*cpu) + 63) & ~63UL);
	memset(cpu, 0, sizeof(*cpu));
	must(!cpu_init(cpu, &mem, &bus, &config, &platform), "cpu_init");
	for (u64 at = 0; at < DATA_SIZE; at += PAGE_SIZE)
		map_page(DATA_BASE + at, DATA_GPA + at);
	map_page(CODE_BASE, CODE_GPA);
	guest_data = mem_host(&mem, DATA_GPA, DATA_SIZE);

	struct x86_state s;
	cpu_get_state(cpu, &s);
	set_segment(&s.seg[SEG_CS], 0x33, 0xa0fb);
	for (unsigned i = SEG_SS; i <= SEG_GS; i++)
		set_segment(&s.seg[i], i == SEG_SS ? 0x2b : 0, 0xc0f3);
	set_segment(&s.seg[SEG_ES], 0, 0xc0f3);
	s.seg[SEG_FS].base = s.seg[SEG_GS].base = 0;
	s.seg[SEG_TR].limit = 0; /* no I/O permission bitmap */
	s.cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
	s.cr3 = TABLES;
	s.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
	s.efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
	s.rflags = RFLAGS_ONE | RFLAGS_IF;
	cpu->xcr0 = host_components();
	cpu->cpl = 3;
	cpu_set_state(cpu, &s);
	cpu->xcr0 = host_components();
	must(cpu->mode == CPU_LONG && cpu->cpl == 3, "64-bit mode at CPL 3");
}

void guest_set_mode(bool mode32)
{
	struct x86_state s;
	cpu_get_state(cpu, &s);
	set_segment(&s.seg[SEG_CS], mode32 ? 0x23 : 0x33, mode32 ? 0xc0fb : 0xa0fb);
	s.rip = CODE_START;
	s.rflags = RFLAGS_ONE | RFLAGS_IF;
	cpu_set_state(cpu, &s);
	must(cpu->mode == (mode32 ? CPU_COMPAT : CPU_LONG) && cpu->cpl == 3, "the mode of the code");
}

bool guest_has_row(ZydisMnemonic mnemonic)
{
	unsigned f = insn_row_find(mnemonic)->feature;
	return f == 0 || (config.features[f / 8] >> (f % 8) & 1);
}

void guest_translate(void)
{
	must(!jit_create(cpu, &(struct jit_options){ .hot = 1 }), "jit_create");
}

unsigned guest_native_cases(void)
{
	return native_cases;
}

/* Runs the translation of the one instruction, as the start of a block. */
static void run_translated(const struct test_case *c)
{
	const u64 at = CODE_GPA + (CODE_START & (PAGE_SIZE - 1));
	struct block_cache *cache = cpu->blocks;
	struct jit *jit = cpu->jit_state;

	if (cache->arena_used > cache->arena_size / 2 || jit->used > jit->size / 2)
		block_cache_flush_now(cpu);
	must(mem_write(&mem, at, c->bytes, sizeof(c->bytes)), "mem_write");
	cache->pages[at >> PAGE_SHIFT].drops = 0; /* all this writing shall not stop the keeping of blocks */
	struct block *block = block_get(cpu, at, block_key(cpu->mode_key));
	must(block, "block_get");
	struct trace trace = { .block = { block }, .blocks = 1, .count = 1 };
	jit_plan_block(cpu, jit, block, jit->plan);
	const u8 *code = jit_translate(cpu, jit, &trace, 0, 1, false);
	must(code, "jit_translate");
	native_cases += jit->plan[0].native;
	cpu->reg[REG_RIP] = CODE_START;
	cpu->jit_page = CODE_START & PAGE_MASK;
	jit_enter(cpu, code);
}

static void run_handler(const struct test_case *c)
{
	static struct insn insn;
	must(insn_decode(cpu, cpu->mode_key, c->bytes, 15, &insn), "insn_decode");
	cpu->insn = &insn;
	cpu->rip_start = CODE_START;
	cpu->reg[REG_RIP] = CODE_START + insn.length;
	insn.exec(cpu, &insn);
}

/* Runs the instruction, again and again if it is a REP that stops to look for interrupts. */
static void run_to_end(const struct test_case *c)
{
	for (volatile unsigned tries = 0; tries < 100; tries++) {
		if (_setjmp(cpu->restart)) {
			if (cpu->pending.valid)
				return;
		} else {
			if (cpu->jit && cpu->mode == CPU_LONG)
				run_translated(c);
			else
				run_handler(c);
		}
		if (cpu->reg[REG_RIP] != CODE_START)
			return;
	}
	fprintf(stderr, "guest side: the instruction does not end\n");
}

void guest_run(const struct test_case *c, struct machine *end)
{
	memcpy(cpu->reg, c->start.gpr, sizeof(c->start.gpr));
	cpu_set_rflags(cpu, c->start.rflags);
	cpu->fpu = c->start.xsave;
	cpu->pending.valid = false;
	cpu->vectoring.valid = false;

	run_to_end(c);

	memcpy(end->gpr, cpu->reg, sizeof(end->gpr));
	end->rflags = cpu_rflags(cpu);
	end->xsave = cpu->fpu;
	end->rip = cpu->reg[REG_RIP];
	end->vector = cpu->pending.valid ? cpu->pending.vector : -1;
	end->error = cpu->pending.valid && cpu->pending.has_error ? cpu->pending.error : 0;
	end->cr2 = cpu->pending.valid && cpu->pending.vector == VEC_PF ? cpu->pending.address : 0;
}
