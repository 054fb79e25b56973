#include "x86/vmcs.h"

#include <string.h>

enum { INDEXES = 64, SLOTS = 16 * INDEXES };

_Static_assert(sizeof(struct vmcs) == 960, "the layout of VMCS regions changed: so must VMCS_REVISION");
_Static_assert(offsetof(struct vmcs, host_sysenter_cs) + 8 <= sizeof(struct vmcs), "");
_Static_assert(offsetof(struct vmcs, abort) == VMCS_ABORT_OFFSET, "");
_Static_assert(offsetof(struct vmcs, launch) == VMCS_LAUNCH_OFFSET, "");

/* Width and group beside the index: dense enough for a direct table. */
#define SLOT(encoding)                                                                                                 \
	((VMCS_WIDTH(encoding) << 2 | VMCS_GROUP(encoding)) * INDEXES + (((encoding) >> 1) & (INDEXES - 1)))

static const struct vmcs_field fields[SLOTS] = {
#define X(type, field, encoding) [SLOT(encoding)] = { #field, offsetof(struct vmcs, field), sizeof(type) },
#include "x86/vmcs.def"
#undef X
};

const struct vmcs_field *vmcs_field_find(u64 encoding)
{
	const u64 index_unused = BITS(9, 7), reserved = BITS(63, 15) | BIT(12);
	if (encoding & (reserved | index_unused))
		return NULL;
	if (VMCS_HIGH(encoding) && VMCS_WIDTH(encoding) != VMCS_U64)
		return NULL;
	const struct vmcs_field *field = &fields[SLOT(encoding)];
	return field->name ? field : NULL;
}

/*
 * Fields are read and written as 8 bytes of which a mask picks the field's: the widest ones come last in struct vmcs,
 * so that this never leaves it.
 */
static u64 field_mask(const struct vmcs_field *field)
{
	return ~0ULL >> (64 - 8 * field->bytes);
}

u64 vmcs_field_read(const struct vmcs *vmcs, const struct vmcs_field *field, u64 encoding)
{
	u64 value;
	memcpy(&value, (const u8 *)vmcs + field->offset, sizeof(value));
	value &= field_mask(field);
	return VMCS_HIGH(encoding) ? value >> 32 : value;
}

void vmcs_field_write(struct vmcs *vmcs, const struct vmcs_field *field, u64 encoding, u64 value)
{
	u64 old, mask = field_mask(field);
	if (VMCS_HIGH(encoding)) {
		mask = BITS(63, 32);
		value <<= 32;
	}
	memcpy(&old, (u8 *)vmcs + field->offset, sizeof(old));
	value = (old & ~mask) | (value & mask);
	memcpy((u8 *)vmcs + field->offset, &value, sizeof(value));
}
