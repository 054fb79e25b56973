/* The ACPI tables: checksums, structure, agreement with the chips; and iasl's opinion of the DSDT where it is there. */
#include "vm/acpi.h"
#include "chip/hpet.h"
#include "chip/pm.h"
#include "vm/aml.h"
#include "vm/board.h"

#include <glib.h>
#include <glib/gstdio.h>
#include <string.h>

struct tables {
	struct mem mem;
	gpa_t rsdp;
};

static void set_up(struct tables *t, gconstpointer cpus)
{
	g_assert_cmpint(mem_init(&t->mem, 16 << 20), ==, 0);
	t->rsdp = acpi_write_tables(&t->mem, GPOINTER_TO_UINT(cpus), true);
}

static void set_up_without_hpet(struct tables *t, gconstpointer cpus)
{
	g_assert_cmpint(mem_init(&t->mem, 16 << 20), ==, 0);
	t->rsdp = acpi_write_tables(&t->mem, GPOINTER_TO_UINT(cpus), false);
}

static void tear_down(struct tables *t, gconstpointer cpus)
{
	mem_destroy(&t->mem);
}

static const u8 *at(struct tables *t, gpa_t gpa, u64 size)
{
	g_assert_cmpuint(gpa, >=, ACPI_BASE);
	g_assert_cmpuint(gpa + size, <=, ACPI_BASE + ACPI_SIZE);
	return mem_host(&t->mem, gpa, size);
}

static u64 number(const u8 *p, unsigned size)
{
	u64 v = 0;
	memcpy(&v, p, size);
	return v;
}

static u8 sum(const u8 *p, size_t size)
{
	u8 s = 0;
	while (size--)
		s = (u8)(s + *p++);
	return s;
}

/* A whole table at gpa; checks its length and checksum. */
static const u8 *table(struct tables *t, gpa_t gpa, u32 *length)
{
	*length = (u32)number(at(t, gpa, 36) + 4, 4);
	g_assert_cmpuint(*length, >=, 36);
	const u8 *p = at(t, gpa, *length);
	g_assert_cmpuint(sum(p, *length), ==, 0);
	return p;
}

static const u8 *find_or_null(struct tables *t, const char *signature, u32 *length)
{
	u32 xsdt_length;
	const u8 *xsdt = table(t, number(at(t, t->rsdp, 36) + 24, 8), &xsdt_length);
	for (u32 i = 36; i < xsdt_length; i += 8) {
		const u8 *p = table(t, number(xsdt + i, 8), length);
		if (!memcmp(p, signature, 4))
			return p;
	}
	return NULL;
}

static const u8 *find(struct tables *t, const char *signature, u32 *length)
{
	const u8 *p = find_or_null(t, signature, length);
	g_assert_nonnull(p);
	return p;
}

static const u8 *find_dsdt(struct tables *t, u32 *length)
{
	const u8 *fadt = find(t, "FACP", length);
	return table(t, number(fadt + 140, 8), length);
}

static void rsdp_is_found_and_sound(struct tables *t, gconstpointer unused)
{
	const u8 *p = at(t, t->rsdp, 36);
	g_assert_cmpmem(p, 8, "RSD PTR ", 8);
	g_assert_cmpuint(t->rsdp % 16, ==, 0);
	g_assert_cmpuint(sum(p, 20), ==, 0);
	g_assert_cmpuint(sum(p, 36), ==, 0);
	g_assert_cmpuint(p[15], ==, 2);
}

static void xsdt_lists_every_table(struct tables *t, gconstpointer unused)
{
	static const char *const signatures[] = { "FACP", "APIC", "HPET", "MCFG" };
	u32 length;
	for (unsigned i = 0; i < G_N_ELEMENTS(signatures); i++)
		find(t, signatures[i], &length);
}

static void fadt_agrees_with_the_pm_chip(struct tables *t, gconstpointer unused)
{
	u32 length;
	const u8 *p = find(t, "FACP", &length);
	g_assert_cmpuint(length, ==, 276);
	g_assert_cmpuint(number(p + 46, 2), ==, GSI_SCI);
	g_assert_cmpuint(number(p + 48, 4), ==, PM_SMI_CMD);
	g_assert_cmpuint(p[52], ==, PM_ACPI_ENABLE);
	g_assert_cmpuint(p[53], ==, PM_ACPI_DISABLE);
	g_assert_cmpuint(number(p + 56, 4), ==, PM_PM1_EVT);
	g_assert_cmpuint(number(p + 64, 4), ==, PM_PM1_CNT);
	g_assert_cmpuint(number(p + 76, 4), ==, PM_TIMER);
	g_assert_cmpuint(number(p + 112, 4) & 1 << 10, !=, 0); /* RESET_REG_SUP */
	g_assert_cmpuint(number(p + 112, 4) & 1 << 20, ==, 0); /* not hardware-reduced */
	g_assert_cmpuint(number(p + 116 + 4, 8), ==, 0xcf9);
	g_assert_cmpuint(number(p + 148 + 4, 8), ==, PM_PM1_EVT);
	g_assert_cmpuint(number(p + 36, 4) % 64, ==, 0);
	g_assert_cmpmem(at(t, number(p + 36, 4), 64), 4, "FACS", 4);
}

static void madt_has_each_cpu_and_the_overrides(struct tables *t, gconstpointer cpus)
{
	u32 length, seen_cpus = 0, ioapics = 0, overrides = 0;
	const u8 *p = find(t, "APIC", &length);
	for (u32 i = 44; i < length; i += p[i + 1]) {
		g_assert_cmpuint(p[i + 1], >=, 2);
		g_assert_cmpuint(i + p[i + 1], <=, length);
		if (p[i] == 0) {
			g_assert_cmpuint(p[i + 3], ==, seen_cpus++);
			g_assert_cmpuint(number(p + i + 4, 4), ==, 1);
		} else if (p[i] == 1) {
			ioapics++;
			g_assert_cmpuint(number(p + i + 4, 4), ==, IOAPIC_DEFAULT_BASE);
		} else if (p[i] == 2 && p[i + 3] == 0) {
			overrides++;
			g_assert_cmpuint(number(p + i + 4, 4), ==, 2);
		} else if (p[i] == 2) {
			overrides++;
			g_assert_cmpuint(number(p + i + 4, 4), ==, GSI_SCI);
			g_assert_cmpuint(number(p + i + 8, 2), ==, 0xd); /* level, active high */
		}
	}
	g_assert_cmpuint(seen_cpus, ==, GPOINTER_TO_UINT(cpus));
	g_assert_cmpuint(ioapics, ==, 1);
	g_assert_cmpuint(overrides, ==, 2);
}

static void hpet_and_mcfg_name_the_boards_addresses(struct tables *t, gconstpointer unused)
{
	u32 length;
	const u8 *p = find(t, "HPET", &length);
	g_assert_cmpuint(number(p + 36, 4), ==, HPET_ID);
	g_assert_cmpuint(number(p + 44, 8), ==, HPET_DEFAULT_BASE);
	p = find(t, "MCFG", &length);
	g_assert_cmpuint(length, ==, 60);
	g_assert_cmpuint(number(p + 44, 8), ==, MEM_ECAM_BASE);
	g_assert_cmpuint(p[55], ==, ACPI_PCI_LAST_BUS);
	g_assert_cmpuint((ACPI_PCI_LAST_BUS + 1ULL) << 20, <=, MEM_ECAM_SIZE);
}

static void dsdt_has_s5(struct tables *t, gconstpointer unused)
{
	static const u8 s5[] = { 0x08, '\\', '_', 'S', '5', '_', 0x12, 0x06, 0x04, 0x00, 0x00, 0x00, 0x00 };
	u32 length;
	const u8 *p = find_dsdt(t, &length);
	G_STATIC_ASSERT(PM_SLEEP_S5 == 0);
	g_assert_nonnull(memmem(p, length, s5, sizeof s5));
}

static void dsdt_has_s3(struct tables *t, gconstpointer unused)
{
	static const u8 s3[] = { 0x08, '\\', '_', 'S', '3', '_', 0x12, 0x06, 0x04, 0x01, 0x01, 0x00, 0x00 };
	u32 length;
	const u8 *p = find_dsdt(t, &length);
	G_STATIC_ASSERT(PM_SLEEP_S3 == 1);
	g_assert_nonnull(memmem(p, length, s3, sizeof s3));
}

static void waking_vector_is_read_from_the_facs(struct tables *t, gconstpointer unused)
{
	u64 vector;
	u32 length, real = 0x9a123;
	u64 flat = 0x12345678;
	u64 facs = number(find(t, "FACP", &length) + 36, 4);
	mem_write(&t->mem, facs + 12, &real, sizeof real);
	g_assert_false(acpi_waking_vector(&t->mem, &vector));
	g_assert_cmphex(vector, ==, real);
	mem_write(&t->mem, facs + 24, &flat, sizeof flat);
	g_assert_true(acpi_waking_vector(&t->mem, &vector));
	g_assert_cmphex(vector, ==, flat);
}

static void no_table_names_an_hpet_that_is_not_there(struct tables *t, gconstpointer unused)
{
	u32 length;
	g_assert_null(find_or_null(t, "HPET", &length));
	g_assert_nonnull(find_or_null(t, "MCFG", &length));
	const u8 *dsdt = find_dsdt(t, &length);
	g_assert_null(memmem(dsdt, length, "HPET", 4));
}

/* Disassembled and compiled again: iasl reports what it does not like in either. */
static void iasl_accepts_every_table(struct tables *t, gconstpointer unused)
{
	static const char *const signatures[] = { "FACP", "APIC", "HPET", "MCFG", "DSDT" };
	g_autofree char *iasl = g_find_program_in_path("iasl");
	if (!iasl) {
		g_test_skip("iasl (package acpica-tools) is not installed");
		return;
	}
	g_autofree char *dir = g_dir_make_tmp("strata-acpi-XXXXXX", NULL);
	for (unsigned i = 0; i < G_N_ELEMENTS(signatures); i++) {
		u32 length;
		const u8 *p = i == 4 ? find_dsdt(t, &length) : find(t, signatures[i], &length);
		g_autofree char *aml = g_build_filename(dir, "table.aml", NULL);
		g_autofree char *dsl = g_build_filename(dir, "table.dsl", NULL);
		g_autofree char *out = NULL, *err = NULL;
		g_assert_true(g_file_set_contents(aml, (const char *)p, length, NULL));
		for (unsigned step = 0; step < 2; step++) {
			const char *argv[] = { iasl, step ? "-f" : "-d", step ? dsl : aml, NULL };
			int status;
			g_free(g_steal_pointer(&out));
			g_free(g_steal_pointer(&err));
			g_assert_true(g_spawn_sync(dir, (char **)argv, NULL, 0, NULL, NULL, &out, &err, &status, NULL));
			if (status)
				g_test_message("%s\n%s", out, err);
			g_assert_cmpint(status, ==, 0);
		}
		if (g_getenv("STRATA_TEST_SHOW")) {
			g_autofree char *text = NULL;
			g_file_get_contents(dsl, &text, NULL, NULL);
			g_test_message("%s\n%s", text, out);
		}
		g_assert_nonnull(strstr(out, " 0 Errors"));
		g_unlink(aml);
		g_unlink(dsl);
	}
	g_rmdir(dir);
}

/* --- the AML writer --- */

static void aml_length_takes_as_many_bytes_as_it_needs(void)
{
	static const struct {
		unsigned content;
		u8 length[3];
		unsigned length_size;
	} cases[] = {
		{ 62 - 4, { 63 }, 1 },
		{ 63 - 4, { 0x40 | (65 & 15), 65 >> 4 }, 2 },
		{ 4093 - 4, { 0x40 | (4095 & 15), 4095 >> 4 }, 2 },
		{ 4094 - 4, { 0x80 | (4097 & 15), (4097 >> 4) & 0xff, 4097 >> 12 }, 3 },
	};
	for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++) {
		u8 bytes[8192];
		struct aml aml;
		aml_init(&aml, bytes, sizeof bytes);
		aml_begin_scope(&aml, "_SB");
		for (unsigned n = 0; n < cases[i].content; n++)
			aml_integer(&aml, 0);
		aml_end(&aml);
		g_assert_false(aml.full);
		g_assert_cmpuint(aml.at, ==, 1 + cases[i].length_size + 4 + cases[i].content);
		g_assert_cmpmem(bytes + 1, cases[i].length_size, cases[i].length, cases[i].length_size);
		g_assert_cmpmem(bytes + 1 + cases[i].length_size, 4, "_SB_", 4);
	}
}

static void aml_remembers_that_it_ran_out_of_room(void)
{
	for (unsigned size = 0; size < 20; size++) {
		u8 bytes[32];
		struct aml aml;
		memset(bytes, 0xee, sizeof bytes);
		aml_init(&aml, bytes, size);
		aml_begin_device(&aml, "PCI0");
		aml_begin_resources(&aml);
		aml_resource_memory(&aml, 0x1000, 0x1000);
		aml_end_resources(&aml);
		aml_end(&aml);
		g_assert_true(aml.full);
		for (unsigned i = size; i < sizeof bytes; i++)
			g_assert_cmpuint(bytes[i], ==, 0xee);
	}
}

static void aml_compresses_eisa_ids(void)
{
	static const u8 expected[] = { 0x0c, 0x41, 0xd0, 0x0a, 0x08 }; /* PNP0A08 */
	u8 bytes[8];
	struct aml aml;
	aml_init(&aml, bytes, sizeof bytes);
	aml_eisa_id(&aml, "PNP0A08");
	g_assert_cmpmem(bytes, aml.at, expected, sizeof expected);
}

#define ADD(path, cpus, function) g_test_add(path, struct tables, GUINT_TO_POINTER(cpus), set_up, function, tear_down)

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	ADD("/acpi/rsdp-is-found-and-sound", 1, rsdp_is_found_and_sound);
	ADD("/acpi/xsdt-lists-every-table", 1, xsdt_lists_every_table);
	ADD("/acpi/fadt-agrees-with-the-pm-chip", 1, fadt_agrees_with_the_pm_chip);
	ADD("/acpi/madt-has-each-cpu-and-the-overrides/1", 1, madt_has_each_cpu_and_the_overrides);
	ADD("/acpi/madt-has-each-cpu-and-the-overrides/64", 64, madt_has_each_cpu_and_the_overrides);
	ADD("/acpi/hpet-and-mcfg-name-the-boards-addresses", 1, hpet_and_mcfg_name_the_boards_addresses);
	ADD("/acpi/dsdt-has-s5", 1, dsdt_has_s5);
	ADD("/acpi/dsdt-has-s3", 1, dsdt_has_s3);
	ADD("/acpi/waking-vector-is-read-from-the-facs", 1, waking_vector_is_read_from_the_facs);
	ADD("/acpi/iasl-accepts-every-table", 3, iasl_accepts_every_table);
	g_test_add("/acpi/no-table-names-an-hpet-that-is-not-there", struct tables, GUINT_TO_POINTER(1),
		   set_up_without_hpet, no_table_names_an_hpet_that_is_not_there, tear_down);
	g_test_add_func("/aml/length-takes-as-many-bytes-as-it-needs", aml_length_takes_as_many_bytes_as_it_needs);
	g_test_add_func("/aml/remembers-that-it-ran-out-of-room", aml_remembers_that_it_ran_out_of_room);
	g_test_add_func("/aml/compresses-eisa-ids", aml_compresses_eisa_ids);
	return g_test_run();
}
