/*
 * Control and debug registers, and the instructions that are allowed or not by them: what may be written, what follows
 * for modes and TLB, and which fault the rest gets.
 */
#include "machine.h"

#include "cpu/event.h"
#include "cpu/system.h"

/* Does the write raise #GP(0)? */
static bool refuses(struct machine *m, void (*write)(struct cpu *, u64), u64 value)
{
	m->cpu.pending.valid = false;
	if (_setjmp(m->cpu.restart) == 0)
		write(&m->cpu, value);
	if (!m->cpu.pending.valid)
		return false;
	g_assert_cmpuint(m->cpu.pending.vector, ==, VEC_GP);
	g_assert_cmphex(m->cpu.pending.error, ==, 0);
	return true;
}

/* Real mode after RESET, with tables for long mode in place. */
static struct machine *machine_in_real_mode(void)
{
	struct machine *m = machine_new();
	cpu_reset(&m->cpu);
	return m;
}

/* --- CR0 --- */

static void test_cr0_combinations(void)
{
	struct machine *m = machine_in_real_mode();
	g_assert_true(refuses(m, cr0_write, CR0_PG));  /* paging needs protection */
	g_assert_true(refuses(m, cr0_write, CR0_NW));  /* NW needs CD */
	g_assert_true(refuses(m, cr0_write, BIT(32))); /* reserved half */
	g_assert_false(refuses(m, cr0_write, CR0_NW | CR0_CD));
	g_assert_cmphex(m->cpu.cr0, ==, CR0_NW | CR0_CD | CR0_ET); /* ET reads 1 */
	g_assert_false(refuses(m, cr0_write, 0x1ff8ffc0));         /* reserved bits of the low half are ignored */
	g_assert_cmphex(m->cpu.cr0, ==, CR0_ET);
	machine_free(m);
}

static void test_long_mode_entry(void)
{
	struct machine *m = machine_in_real_mode();
	efer_write(&m->cpu, EFER_LME);
	cr3_write(&m->cpu, PML4);
	g_assert_false(refuses(m, cr0_write, CR0_PE));
	g_assert_true(refuses(m, cr0_write, CR0_PE | CR0_PG)); /* without CR4.PAE */
	cr4_write(&m->cpu, CR4_PAE);
	m->cpu.seg[SEG_CS].ar |= SEG_AR_L;
	g_assert_true(refuses(m, cr0_write, CR0_PE | CR0_PG)); /* CS.L would be 64-bit code at once */
	m->cpu.seg[SEG_CS].ar &= ~SEG_AR_L;
	m->cpu.seg[SEG_TR] = (struct segment){ .selector = 0x18, .ar = 0x83 };
	g_assert_true(refuses(m, cr0_write, CR0_PE | CR0_PG)); /* a 16-bit TSS */
	m->cpu.seg[SEG_TR].ar = 0x8b;
	g_assert_false(refuses(m, cr0_write, CR0_PE | CR0_PG));
	g_assert_true(m->cpu.efer & EFER_LMA);
	g_assert_cmpuint(m->cpu.mode, ==, CPU_COMPAT);
	g_assert_false(refuses(m, cr0_write, CR0_PE)); /* and out again */
	g_assert_false(m->cpu.efer & EFER_LMA);
	g_assert_cmpuint(m->cpu.mode, ==, CPU_PROT);
	machine_free(m);
}

static void test_paging_off_in_64_bit_mode(void)
{
	struct machine *m = machine_new();
	g_assert_true(refuses(m, cr0_write, CR0_PE));
	machine_free(m);
}

/* --- CR3 --- */

static void test_cr3_reserved(void)
{
	struct machine *m = machine_new();
	g_assert_false(refuses(m, cr3_write, PML4 | 0x18));
	g_assert_true(refuses(m, cr3_write, BIT(m->config.phys_bits)));
	g_assert_true(refuses(m, cr3_write, BIT(63) | PML4)); /* "keep" exists with PCIDs only */
	cr3_write(&m->cpu, PML4);
	cr4_write(&m->cpu, m->cpu.cr4 | CR4_PCIDE);
	g_assert_false(refuses(m, cr3_write, BIT(63) | PML4 | 5));
	g_assert_cmphex(m->cpu.cr3, ==, PML4 | 5); /* bit 63 is never stored */
	machine_free(m);
}

static void test_pae_pdptes(void)
{
	struct machine *m = machine_in_real_mode();
	machine_write_u64(m, PDPT, PD | 1);
	machine_write_u64(m, PDPT + 8, 0);
	machine_write_u64(m, PDPT + 16, 0);
	machine_write_u64(m, PDPT + 24, 0);
	cr4_write(&m->cpu, CR4_PAE);
	cr3_write(&m->cpu, PDPT);
	g_assert_false(refuses(m, cr0_write, CR0_PE | CR0_PG));
	machine_write_u64(m, PDPT + 8, PD | 3); /* bit 1 is reserved in a PDPTE */
	g_assert_cmphex(m->cpu.mmu.paging.pdpte[0], ==, PD | 1);
	g_assert_true(refuses(m, cr3_write, PDPT));
	machine_free(m);
}

/* --- CR4 --- */

static void test_cr4_rules(void)
{
	struct machine *m = machine_new();
	u64 cr4 = m->cpu.cr4;
	g_assert_true(refuses(m, cr4_write, cr4 | BIT(15)));  /* reserved */
	g_assert_true(refuses(m, cr4_write, cr4 | CR4_VMXE)); /* no VMX in this CPU */
	g_assert_true(refuses(m, cr4_write, cr4 | CR4_SMXE));
	g_assert_true(refuses(m, cr4_write, cr4 & ~CR4_PAE)); /* long mode needs it */
	g_assert_true(refuses(m, cr4_write, cr4 | CR4_LA57)); /* and its depth is fixed while on */
	cr3_write(&m->cpu, PML4 | 8);
	g_assert_true(refuses(m, cr4_write, cr4 | CR4_PCIDE)); /* CR3 must name PCID 0 */
	cr3_write(&m->cpu, PML4);
	g_assert_false(
		refuses(m, cr4_write, cr4 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_FSGSBASE | CR4_PGE));
	g_assert_true(refuses(m, cr0_write, CR0_PE));
	machine_free(m);

	m = machine_in_real_mode();
	g_assert_true(refuses(m, cr4_write, CR4_PCIDE)); /* outside of long mode */
	machine_free(m);
}

/* --- the TLB --- */

static bool cached(struct machine *m, u64 va)
{
	const struct tlb_entry *e = &m->cpu.mmu.tlb[tlb_index(va)];
	return e->read == ((va & PAGE_MASK) | m->cpu.mmu.revision);
}

static void touch(struct machine *m)
{
	g_assert_cmpint(mmu_translate(&m->cpu.mmu, DATA, MMU_READ, MMU_SUPERVISOR).kind, ==, MMU_OK);
	g_assert_cmpint(mmu_translate(&m->cpu.mmu, DATA + 0x1000, MMU_READ, MMU_SUPERVISOR).kind, ==, MMU_OK);
}

/* SDM vol. 3, 4.10.4.1. A global page may be dropped more often than it must, but never kept where it must go. */
static void test_tlb_flushes(void)
{
	struct machine *m = machine_new();
	cr4_write(&m->cpu, m->cpu.cr4 | CR4_PGE);
	machine_map(m, DATA + 0x1000, DATA + 0x1000, 0x103); /* global */
	touch(m);
	g_assert_true(cached(m, DATA));
	cr3_write(&m->cpu, PML4);
	g_assert_false(cached(m, DATA));
	touch(m);
	cr4_write(&m->cpu, m->cpu.cr4 & ~CR4_PGE);
	g_assert_false(cached(m, DATA));
	g_assert_false(cached(m, DATA + 0x1000));
	touch(m);
	cr0_write(&m->cpu, m->cpu.cr0 & ~CR0_WP);
	g_assert_cmpint(mmu_translate(&m->cpu.mmu, DATA, MMU_WRITE, MMU_SUPERVISOR).kind, ==, MMU_OK);

	cr4_write(&m->cpu, m->cpu.cr4 | CR4_PCIDE);
	cr3_write(&m->cpu, PML4 | 1);
	touch(m);
	cr3_write(&m->cpu, PML4 | 2);
	g_assert_false(cached(m, DATA)); /* another PCID's */
	cr3_write(&m->cpu, BIT(63) | PML4 | 1);
	g_assert_true(cached(m, DATA)); /* kept */
	cr3_write(&m->cpu, PML4 | 1);
	g_assert_false(cached(m, DATA));
	machine_free(m);
}

/* --- instructions --- */

static unsigned run(struct machine *m)
{
	m->cpu.reg[RAX] = 0xff;
	machine_run(m);
	return m->cpu.reg[RAX] & 0xff; /* of machine.h's handlers: the vector */
}

GUEST(lmsw,
      "mov $0xf, %eax\n lmsw %ax\n smsw %ecx\n xor %eax, %eax\n lmsw %ax\n mov %cr0, %rdx\n mov $0xff, %al\n hlt");

static void test_lmsw(void)
{
	struct machine *m = machine_new();
	machine_load(m, lmsw);
	g_assert_cmpuint(run(m), ==, 0xff);
	g_assert_cmphex(m->cpu.reg[RCX] & 15, ==, 15);
	g_assert_cmphex(m->cpu.reg[RDX] & 15, ==, CR0_PE); /* PE cannot be cleared so */
	machine_free(m);
}

GUEST(bad_dr7, "mov $1, %ecx\n shl $32, %rcx\n mov %rcx, %dr7\n hlt");
GUEST(dr_masks, "mov $-1, %rcx\n shr $32, %rcx\n mov %rcx, %dr6\n mov %dr6, %rdx\n mov $0xfc00, %ecx\n mov %rcx, %dr7\n"
		"mov $0xff, %al\n hlt");
GUEST(dr4, "mov %dr4, %rcx\n mov $0xff, %al\n hlt");
GUEST(general_detect, "mov $0x2400, %ecx\n mov %rcx, %dr7\n mov %dr0, %rcx\n hlt");

static void test_debug_registers(void)
{
	struct machine *m = machine_new();
	machine_load(m, bad_dr7);
	g_assert_cmpuint(run(m), ==, VEC_GP);

	machine_load(m, dr4);
	machine_set_long_mode(m);
	g_assert_cmpuint(run(m), ==, 0xff); /* another name of DR6 */
	g_assert_cmphex(m->cpu.reg[RCX], ==, DR6_FIXED1);
	machine_set_long_mode(m);
	cr4_write(&m->cpu, m->cpu.cr4 | CR4_DE);
	g_assert_cmpuint(run(m), ==, VEC_UD);
	machine_free(m);
}

static void test_dr_masks(void)
{
	struct machine *m = machine_new();
	machine_load(m, dr_masks);
	g_assert_cmpuint(run(m), ==, 0xff);
	g_assert_cmphex(m->cpu.reg[RDX], ==, DR6_FIXED1 | 0xe00f);
	g_assert_cmphex(m->cpu.dr[7], ==, DR7_FIXED1 | DR7_GD);
	machine_free(m);
}

static void test_general_detect(void)
{
	struct machine *m = machine_new();
	machine_load(m, general_detect);
	g_assert_cmpuint(run(m), ==, VEC_DB);
	g_assert_cmphex(m->cpu.dr[6], ==, DR6_FIXED1 | DR6_BD);
	g_assert_cmphex(machine_frame(m, 0), ==, CODE + 8); /* a fault, before the instruction */
	g_assert_false(m->cpu.dr[7] & DR7_GD);              /* or the handler could not look */
	machine_free(m);
}

/* 64-bit code in ring 3; faults go to ring 0 on RSP0. */
static void enter_ring3(struct machine *m)
{
	for (u64 page = 0; page < 512; page++)
		machine_write_u64(m, PT + 8 * page, page << 12 | 7);
	for (u64 level = PML4; level <= PD; level += 0x1000)
		machine_write_u64(m, level, (level + 0x1000) | 7);
	machine_set_long_mode(m);
	m->cpu.seg[SEG_CS].ar |= 3 << 5;
	m->cpu.seg[SEG_SS].ar |= 3 << 5;
	m->cpu.cpl = 3;
	cpu_update_mode(&m->cpu);
	machine_write_u64(m, TSS + 4, STACK - 0x2000);
}

GUEST(ring3_sgdt, "sgdt 0x180000\n hlt");
GUEST(ring3_sidt, "sidt 0x180000\n hlt");
GUEST(ring3_sldt, "sldt %eax\n hlt");
GUEST(ring3_str, "str %eax\n hlt");
GUEST(ring3_smsw, "smsw %eax\n hlt");
GUEST(ring3_rdtsc, "rdtsc\n hlt");
GUEST(ring3_rdpmc, "xor %ecx, %ecx\n rdpmc\n hlt");
GUEST(ring3_rdfsbase, "rdfsbase %rax\n hlt");
GUEST(ring3_clts, "clts\n hlt");
GUEST(ring3_wrmsr, "wrmsr\n hlt");
GUEST(ring3_lgdt, "lgdt 0x180000\n hlt");
GUEST(ring3_ltr, "ltr %ax\n hlt");
GUEST(ring3_invlpg, "invlpg 0x180000\n hlt");
GUEST(ring3_swapgs, "swapgs\n hlt");
GUEST(ring3_read_cr, "mov %cr0, %rax\n hlt");
GUEST(ring3_read_dr, "mov %dr7, %rax\n hlt");
GUEST(ring3_stac, "stac\n hlt");
GUEST(ring3_cli, "cli\n hlt");
GUEST(ring3_xgetbv, "xor %ecx, %ecx\n xgetbv\n hlt");
GUEST(ring3_xsetbv, "xor %ecx, %ecx\n xor %edx, %edx\n mov $1, %eax\n xsetbv\n hlt");

enum { WORKS = 0x100 };

/* `plain` and `restricted`: what the first instruction does without and with the CR4 bits; HLT then is #GP. */
static const struct {
	const char *name;
	const u8 *code, *end;
	u64 cr4;
	unsigned plain, restricted;
} ring3[] = {
#define CASE(insn, cr4, plain, restricted)                                                                             \
	{                                                                                                              \
#insn, ring3_##insn, ring3_##insn##_end, cr4, plain, restricted                                        \
	}
	CASE(sgdt, CR4_UMIP, WORKS, VEC_GP),
	CASE(sidt, CR4_UMIP, WORKS, VEC_GP),
	CASE(sldt, CR4_UMIP, WORKS, VEC_GP),
	CASE(str, CR4_UMIP, WORKS, VEC_GP),
	CASE(smsw, CR4_UMIP, WORKS, VEC_GP),
	CASE(rdtsc, CR4_TSD, WORKS, VEC_GP),
	CASE(rdpmc, CR4_PCE, VEC_GP, WORKS),
	CASE(rdfsbase, CR4_FSGSBASE, VEC_UD, WORKS),
	CASE(xgetbv, CR4_OSXSAVE, VEC_UD, WORKS),
	CASE(xsetbv, CR4_OSXSAVE, VEC_UD, VEC_GP),
	CASE(clts, 0, VEC_GP, VEC_GP),
	CASE(wrmsr, 0, VEC_GP, VEC_GP),
	CASE(lgdt, 0, VEC_GP, VEC_GP),
	CASE(ltr, 0, VEC_GP, VEC_GP),
	CASE(invlpg, 0, VEC_GP, VEC_GP),
	CASE(swapgs, 0, VEC_GP, VEC_GP),
	CASE(read_cr, 0, VEC_GP, VEC_GP),
	CASE(read_dr, 0, VEC_GP, VEC_GP),
	CASE(stac, 0, VEC_UD, VEC_UD),
	CASE(cli, 0, VEC_GP, VEC_GP),
#undef CASE
};

static void check_ring3(struct machine *m, unsigned i, bool restricted)
{
	enter_ring3(m);
	cr4_write(&m->cpu, m->cpu.cr4 | (restricted ? ring3[i].cr4 : 0));
	machine_load_at(m, CODE, ring3[i].code, ring3[i].end);
	unsigned want = restricted ? ring3[i].restricted : ring3[i].plain, got = run(m);
	bool error = got != VEC_UD;
	/* Where the fault lies tells the instruction under test from the HLT behind it. */
	u64 fault = machine_frame(m, error), hlt = CODE + (u64)(ring3[i].end - ring3[i].code) - 1;
	if (fault == hlt)
		got = WORKS;
	if (got != want)
		g_error("%s%s: %#x instead of %#x", ring3[i].name, restricted ? ", CR4 bit set" : "", got, want);
}

static void test_ring3(void)
{
	struct machine *m = machine_new();
	for (unsigned i = 0; i < ARRAY_SIZE(ring3); i++) {
		check_ring3(m, i, false);
		check_ring3(m, i, true);
	}
	machine_free(m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/control/cr0-refuses-impossible-combinations", test_cr0_combinations);
	g_test_add_func("/control/long-mode-begins-and-ends-with-paging", test_long_mode_entry);
	g_test_add_func("/control/paging-cannot-end-in-64-bit-mode", test_paging_off_in_64_bit_mode);
	g_test_add_func("/control/cr3-checks-reserved-bits-and-bit-63", test_cr3_reserved);
	g_test_add_func("/control/pae-loads-and-checks-pdptes", test_pae_pdptes);
	g_test_add_func("/control/cr4-follows-features-and-mode", test_cr4_rules);
	g_test_add_func("/control/writes-flush-what-they-must", test_tlb_flushes);
	g_test_add_func("/control/lmsw-cannot-clear-pe", test_lmsw);
	g_test_add_func("/control/dr4-and-bad-dr7", test_debug_registers);
	g_test_add_func("/control/dr6-and-dr7-have-fixed-bits", test_dr_masks);
	g_test_add_func("/control/general-detect-faults-once", test_general_detect);
	g_test_add_func("/control/ring-3-may-do-what-cr4-says", test_ring3);
	return g_test_run();
}
