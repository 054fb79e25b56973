/*
 * Checks of guest segment registers (SDM vol. 3, 27.3.1.2). Failing one is a VM exit for invalid guest state.
 */
#include "hv/vmx/vmx.h"

#define AR_RESERVED (BITS(11, 8) | BITS(31, 17))

enum { TYPE_DATA_RW_ACCESSED = 3, TYPE_DATA_DOWN_ACCESSED = 7, TYPE_TSS16_BUSY = 3, TYPE_TSS_BUSY = 11, TYPE_LDT = 2 };

static u16 selector(const struct vmx *vmx, enum seg seg)
{
	return (&vmx->vmcs.guest_es_selector)[seg];
}

static u32 limit(const struct vmx *vmx, enum seg seg)
{
	return (&vmx->vmcs.guest_es_limit)[seg];
}

static u32 ar(const struct vmx *vmx, enum seg seg)
{
	return (&vmx->vmcs.guest_es_ar)[seg];
}

static u64 base(const struct vmx *vmx, enum seg seg)
{
	return (&vmx->vmcs.guest_es_base)[seg];
}

static u32 type(const struct vmx *vmx, enum seg seg)
{
	return ar(vmx, seg) & SEG_AR_TYPE;
}

static u32 dpl(const struct vmx *vmx, enum seg seg)
{
	return SEG_DPL(ar(vmx, seg));
}

static u32 rpl(const struct vmx *vmx, enum seg seg)
{
	return selector(vmx, seg) & 3;
}

static bool usable(const struct vmx *vmx, enum seg seg)
{
	return !(ar(vmx, seg) & SEG_AR_UNUSABLE);
}

static bool v86(const struct vmx *vmx)
{
	return vmx->vmcs.guest_rflags & RFLAGS_VM;
}

static bool unrestricted(const struct vmx *vmx)
{
	return vmx_cpu2(vmx, CPU2_UNRESTRICTED_GUEST);
}

static bool guest_long(const struct vmx *vmx)
{
	return vmx_entryc(vmx, ENTRYC_GUEST_LONG);
}

/* CS, and the data segments that are usable, outside virtual-8086 mode: where the access rights are looked at. */
static bool matters(const struct vmx *vmx, enum seg seg)
{
	return !v86(vmx) && (seg == SEG_CS || usable(vmx, seg));
}

/* Does `holds` hold for every code and data segment? */
static bool every(const struct vmx *vmx, bool (*holds)(const struct vmx *vmx, enum seg seg))
{
	for (enum seg seg = SEG_ES; seg <= SEG_GS; seg++)
		if (!holds(vmx, seg))
			return false;
	return true;
}

/* --- selectors --- */

#define SELECTOR_TI 4

static bool tr_selector(const struct vmx *vmx)
{
	return !(selector(vmx, SEG_TR) & SELECTOR_TI);
}

static bool ldtr_selector(const struct vmx *vmx)
{
	return !usable(vmx, SEG_LDTR) || !(selector(vmx, SEG_LDTR) & SELECTOR_TI);
}

static bool ss_rpl(const struct vmx *vmx)
{
	return v86(vmx) || unrestricted(vmx) || rpl(vmx, SEG_SS) == rpl(vmx, SEG_CS);
}

/* --- base addresses --- */

static bool v86_base(const struct vmx *vmx, enum seg seg)
{
	return base(vmx, seg) == (u64)selector(vmx, seg) << 4;
}

static bool v86_bases(const struct vmx *vmx)
{
	return !v86(vmx) || every(vmx, v86_base);
}

static bool long_bases(const struct vmx *vmx)
{
	return vmx_canonical(vmx, base(vmx, SEG_TR)) && vmx_canonical(vmx, base(vmx, SEG_FS)) &&
	       vmx_canonical(vmx, base(vmx, SEG_GS));
}

static bool ldtr_base(const struct vmx *vmx)
{
	return !usable(vmx, SEG_LDTR) || vmx_canonical(vmx, base(vmx, SEG_LDTR));
}

static bool cs_base(const struct vmx *vmx)
{
	return !(base(vmx, SEG_CS) >> 32);
}

static bool short_base(const struct vmx *vmx, enum seg seg)
{
	return !usable(vmx, seg) || !(base(vmx, seg) >> 32);
}

static bool data_bases(const struct vmx *vmx)
{
	return short_base(vmx, SEG_SS) && short_base(vmx, SEG_DS) && short_base(vmx, SEG_ES);
}

/* --- virtual-8086 mode --- */

static bool v86_limit(const struct vmx *vmx, enum seg seg)
{
	return limit(vmx, seg) == 0xffff;
}

static bool v86_limits(const struct vmx *vmx)
{
	return !v86(vmx) || every(vmx, v86_limit);
}

static bool v86_right(const struct vmx *vmx, enum seg seg)
{
	return ar(vmx, seg) == 0xf3;
}

static bool v86_rights(const struct vmx *vmx)
{
	return !v86(vmx) || every(vmx, v86_right);
}

/* --- access rights outside it --- */

static bool cs_type(const struct vmx *vmx)
{
	u32 t = type(vmx, SEG_CS);
	return v86(vmx) || (t & (SEG_AR_CODE | SEG_AR_ACCESSED)) == (SEG_AR_CODE | SEG_AR_ACCESSED) ||
	       (unrestricted(vmx) && t == TYPE_DATA_RW_ACCESSED);
}

static bool ss_type(const struct vmx *vmx)
{
	u32 t = type(vmx, SEG_SS);
	return !matters(vmx, SEG_SS) || t == TYPE_DATA_RW_ACCESSED || t == TYPE_DATA_DOWN_ACCESSED;
}

static bool data_type(const struct vmx *vmx, enum seg seg)
{
	u32 t = type(vmx, seg);
	if (seg == SEG_CS || seg == SEG_SS || !matters(vmx, seg))
		return true;
	return (t & SEG_AR_ACCESSED) && (!(t & SEG_AR_CODE) || (t & SEG_AR_RW));
}

static bool data_types(const struct vmx *vmx)
{
	return every(vmx, data_type);
}

static bool s_set(const struct vmx *vmx, enum seg seg)
{
	return !matters(vmx, seg) || (ar(vmx, seg) & SEG_AR_S);
}

static bool all_s(const struct vmx *vmx)
{
	return every(vmx, s_set);
}

static bool cs_dpl(const struct vmx *vmx)
{
	u32 t = type(vmx, SEG_CS);
	if (v86(vmx))
		return true;
	if (t == TYPE_DATA_RW_ACCESSED)
		return dpl(vmx, SEG_CS) == 0;
	return t & SEG_AR_DC ? dpl(vmx, SEG_CS) <= dpl(vmx, SEG_SS) : dpl(vmx, SEG_CS) == dpl(vmx, SEG_SS);
}

static bool ss_dpl_is_rpl(const struct vmx *vmx)
{
	return v86(vmx) || unrestricted(vmx) || dpl(vmx, SEG_SS) == rpl(vmx, SEG_SS);
}

static bool ss_dpl_zero(const struct vmx *vmx)
{
	bool must = type(vmx, SEG_CS) == TYPE_DATA_RW_ACCESSED || !(vmx->vmcs.guest_cr0 & CR0_PE);
	return v86(vmx) || !must || dpl(vmx, SEG_SS) == 0;
}

/* Data and non-conforming code: DPL must not be below RPL. */
static bool data_dpl(const struct vmx *vmx, enum seg seg)
{
	if (seg == SEG_CS || seg == SEG_SS || !matters(vmx, seg) || unrestricted(vmx))
		return true;
	return type(vmx, seg) > 11 || dpl(vmx, seg) >= rpl(vmx, seg);
}

static bool data_dpls(const struct vmx *vmx)
{
	return every(vmx, data_dpl);
}

static bool present(const struct vmx *vmx, enum seg seg)
{
	return !matters(vmx, seg) || (ar(vmx, seg) & SEG_AR_P);
}

static bool all_present(const struct vmx *vmx)
{
	return every(vmx, present);
}

static bool no_reserved(const struct vmx *vmx, enum seg seg)
{
	return !matters(vmx, seg) || !(ar(vmx, seg) & AR_RESERVED);
}

static bool all_reserved(const struct vmx *vmx)
{
	return every(vmx, no_reserved);
}

static bool cs_db(const struct vmx *vmx)
{
	u32 a = ar(vmx, SEG_CS);
	return v86(vmx) || !guest_long(vmx) || !(a & SEG_AR_L) || !(a & SEG_AR_DB);
}

/* G scales by 4 KiB: then the low 12 bits are ones; without it the limit fits in 20 bits. */
static bool granular(const struct vmx *vmx, enum seg seg)
{
	u32 l = limit(vmx, seg);
	return ar(vmx, seg) & SEG_AR_G ? (l & 0xfff) == 0xfff : !(l >> 20);
}

static bool granularity(const struct vmx *vmx, enum seg seg)
{
	return !matters(vmx, seg) || granular(vmx, seg);
}

static bool all_granular(const struct vmx *vmx)
{
	return every(vmx, granularity);
}

/* --- TR and LDTR --- */

static bool tr_type(const struct vmx *vmx)
{
	u32 t = type(vmx, SEG_TR);
	return t == TYPE_TSS_BUSY || (t == TYPE_TSS16_BUSY && !guest_long(vmx));
}

static bool system_right(const struct vmx *vmx, enum seg seg)
{
	u32 a = ar(vmx, seg);
	return !(a & SEG_AR_S) && (a & SEG_AR_P) && !(a & AR_RESERVED) && granular(vmx, seg);
}

static bool tr_rights(const struct vmx *vmx)
{
	return usable(vmx, SEG_TR) && system_right(vmx, SEG_TR);
}

static bool ldtr_type(const struct vmx *vmx)
{
	return !usable(vmx, SEG_LDTR) || type(vmx, SEG_LDTR) == TYPE_LDT;
}

static bool ldtr_rights(const struct vmx *vmx)
{
	return !usable(vmx, SEG_LDTR) || system_right(vmx, SEG_LDTR);
}

const struct vmx_check vmx_checks_guest_segs[] = {
	CHECK("guest TR selector: TI", tr_selector),
	CHECK("guest LDTR selector: TI", ldtr_selector),
	CHECK("guest SS selector: RPL is not CS's", ss_rpl),
	CHECK("guest segment bases in virtual-8086 mode", v86_bases),
	CHECK("guest TR, FS and GS bases", long_bases),
	CHECK("guest LDTR base", ldtr_base),
	CHECK("guest CS base", cs_base),
	CHECK("guest SS, DS and ES bases", data_bases),
	CHECK("guest segment limits in virtual-8086 mode", v86_limits),
	CHECK("guest access rights in virtual-8086 mode", v86_rights),
	CHECK("guest CS: type", cs_type),
	CHECK("guest SS: type", ss_type),
	CHECK("guest data segments: type", data_types),
	CHECK("guest segments: S", all_s),
	CHECK("guest CS: DPL", cs_dpl),
	CHECK("guest SS: DPL is not RPL", ss_dpl_is_rpl),
	CHECK("guest SS: DPL is not 0", ss_dpl_zero),
	CHECK("guest data segments: DPL below RPL", data_dpls),
	CHECK("guest segments: P", all_present),
	CHECK("guest segments: reserved access rights", all_reserved),
	CHECK("guest CS: L and D/B", cs_db),
	CHECK("guest segments: G against the limit", all_granular),
	CHECK("guest TR: type", tr_type),
	CHECK("guest TR: access rights", tr_rights),
	CHECK("guest LDTR: type", ldtr_type),
	CHECK("guest LDTR: access rights", ldtr_rights),
	{ .name = NULL },
};
