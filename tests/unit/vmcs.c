/* The table of VMCS fields: encodings, widths, lookup, and access by halves. */
#include "x86/vmcs.h"
#include "x86/exit_reason.h"

#include <glib.h>
#include <string.h>

static const struct {
	const char *name;
	u64 encoding;
	size_t bytes, offset;
} all[] = {
#define X(type, field, encoding) { #field, encoding, sizeof(type), offsetof(struct vmcs, field) },
#include "x86/vmcs.def"
#undef X
};

static void test_unique(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		for (size_t j = 0; j < i; j++)
			g_assert_cmphex(all[i].encoding, !=, all[j].encoding);
}

static void test_width(void)
{
	static const size_t bytes[] = { [VMCS_U16] = 2, [VMCS_U64] = 8, [VMCS_U32] = 4, [VMCS_NATURAL] = 8 };
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		g_assert_cmpuint(all[i].bytes, ==, bytes[VMCS_WIDTH(all[i].encoding)]);
}

static void test_group(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		unsigned group = VMCS_GROUP(all[i].encoding);
		g_assert_true(g_str_has_prefix(all[i].name, "host_") == (group == VMCS_HOST));
		if (g_str_has_prefix(all[i].name, "guest_") && group != VMCS_READ_ONLY)
			g_assert_cmpuint(group, ==, VMCS_GUEST);
	}
}

static void test_found(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		const struct vmcs_field *f = vmcs_field_find(all[i].encoding);
		g_assert_nonnull(f);
		g_assert_cmpstr(f->name, ==, all[i].name);
		g_assert_cmpuint(f->offset, ==, all[i].offset);
		g_assert_cmpuint(f->bytes, ==, all[i].bytes);
	}
}

/* Every 32-bit encoding that is not in the table, and some wider ones, name nothing. */
static void test_others_not_found(void)
{
	for (u64 encoding = 0; encoding < 0x20000; encoding++) {
		bool known = false;
		for (size_t i = 0; i < ARRAY_SIZE(all) && !known; i++)
			known = all[i].encoding == encoding ||
				(all[i].encoding + 1 == encoding && VMCS_WIDTH(all[i].encoding) == VMCS_U64);
		g_assert_true(!!vmcs_field_find(encoding) == known);
	}
	g_assert_null(vmcs_field_find(BIT(32)));
	g_assert_null(vmcs_field_find(~0ULL));
}

static void test_highest_index(void)
{
	u64 highest = 0;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		highest = MAX(highest, all[i].encoding >> 1 & 0x1ff);
	g_assert_cmpuint(highest, ==, VMCS_INDEX_MAX);
}

/* Every field keeps what was written to it and touches no other; it truncates to its width. */
static void test_write_read(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		struct vmcs vmcs, expected;
		memset(&vmcs, 0x55, sizeof(vmcs));
		expected = vmcs;
		const struct vmcs_field *f = vmcs_field_find(all[i].encoding);
		u64 value = 0x8877665544332211ULL;
		vmcs_field_write(&vmcs, f, all[i].encoding, value);
		memcpy((u8 *)&expected + all[i].offset, &value, all[i].bytes);
		g_assert_cmpmem(&vmcs, sizeof(vmcs), &expected, sizeof(expected));
		u64 mask = all[i].bytes == 8 ? ~0ULL : BIT(all[i].bytes * 8) - 1;
		g_assert_cmphex(vmcs_field_read(&vmcs, f, all[i].encoding), ==, value & mask);
	}
}

static void test_high_half(void)
{
	struct vmcs vmcs = { .eptp = 0x1111111122222222ULL };
	u64 high = VMCS_ENC_eptp + 1;
	const struct vmcs_field *f = vmcs_field_find(high);
	g_assert_nonnull(f);
	g_assert_cmphex(vmcs_field_read(&vmcs, f, high), ==, 0x11111111);
	vmcs_field_write(&vmcs, f, high, 0xdeadbeef33333333ULL);
	g_assert_cmphex(vmcs.eptp, ==, 0x3333333322222222ULL);
}

static void test_exit_names(void)
{
	g_assert_cmpstr(exit_reason_name(EXIT_CPUID), ==, "CPUID");
	g_assert_cmpstr(exit_reason_name(35), ==, "reserved");
	g_assert_cmpstr(exit_reason_name(~0u), ==, "reserved");
	for (unsigned i = 0; i < EXIT_REASON_COUNT; i++)
		g_assert_nonnull(exit_reason_name(i));
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/vmcs/encodings-are-unique", test_unique);
	g_test_add_func("/vmcs/encoding-states-the-width", test_width);
	g_test_add_func("/vmcs/encoding-states-the-group", test_group);
	g_test_add_func("/vmcs/every-field-is-found", test_found);
	g_test_add_func("/vmcs/no-other-encoding-is-found", test_others_not_found);
	g_test_add_func("/vmcs/highest-index-is-the-one-reported", test_highest_index);
	g_test_add_func("/vmcs/field-keeps-what-is-written", test_write_read);
	g_test_add_func("/vmcs/high-encoding-reaches-the-high-half", test_high_half);
	g_test_add_func("/vmcs/exit-reasons-have-names", test_exit_names);
	return g_test_run();
}
