/*
 * The VMCS: its fields as a struct, which is also the layout of Strata's VMCS regions, and the encodings by which
 * VMREAD and VMWRITE name them.
 *
 *   encoding  31..15  14:13  12  11:10  9..1   0
 *             zero    width  0   group  index  high half (64-bit fields only)
 */
#ifndef STRATA_X86_VMCS_H
#define STRATA_X86_VMCS_H

#include "base/types.h"

typedef u64 natural;

#define VMCS_REVISION 0x00535408u
#define VMCS_SHADOW   BIT(31) /* of the region's first word: a shadow VMCS */

enum vmcs_width { VMCS_U16, VMCS_U64, VMCS_U32, VMCS_NATURAL };
enum vmcs_group { VMCS_CONTROL, VMCS_READ_ONLY, VMCS_GUEST, VMCS_HOST };
enum vmcs_launch { VMCS_CLEAR, VMCS_LAUNCHED };

/* Offsets of the architectural head of a region (SDM vol. 3, table 25-1), and of Strata's launch state behind it. */
enum { VMCS_REVISION_OFFSET = 0, VMCS_ABORT_OFFSET = 4, VMCS_LAUNCH_OFFSET = 8, VMCS_REGION_SIZE = 4096 };

struct vmcs {
	u32 revision;
	u32 abort;
	u32 launch; /* enum vmcs_launch */
#define X(type, name, encoding) type name;
#include "x86/vmcs.def"
#undef X
};

enum vmcs_encoding {
#define X(type, name, encoding) VMCS_ENC_##name = encoding,
#include "x86/vmcs.def"
#undef X
};

#define VMCS_WIDTH(encoding) (((encoding) >> 13) & 3)
#define VMCS_GROUP(encoding) (((encoding) >> 10) & 3)
#define VMCS_HIGH(encoding)  ((encoding)&1)

/* Highest index of any field: what IA32_VMX_VMCS_ENUM reports (in bits 9:1). */
enum { VMCS_INDEX_MAX = 0x42 >> 1 };

/* One field by its encoding without the high-half bit. */
struct vmcs_field {
	const char *name; /* NULL: there is no such field */
	u16 offset;       /* in struct vmcs */
	u8 bytes;
};

/* The field an encoding (high-half bit allowed where it may be) names; NULL if there is none. */
const struct vmcs_field *vmcs_field_find(u64 encoding);

/* All 64-bit encodings work; `field` is vmcs_field_find's answer. Writing truncates to the field's width. */
u64 vmcs_field_read(const struct vmcs *vmcs, const struct vmcs_field *field, u64 encoding);
void vmcs_field_write(struct vmcs *vmcs, const struct vmcs_field *field, u64 encoding, u64 value);

#endif
