/*
 * Running the tables of entry checks, and what several of them share.
 */
#include "hv/vmx/vmx.h"

/* vmcs_selector() and its kin index these fields by enum seg. */
_Static_assert(offsetof(struct vmcs, guest_tr_selector) - offsetof(struct vmcs, guest_es_selector) == SEG_TR * 2, "");
_Static_assert(offsetof(struct vmcs, guest_tr_limit) - offsetof(struct vmcs, guest_es_limit) == SEG_TR * 4, "");
_Static_assert(offsetof(struct vmcs, guest_tr_ar) - offsetof(struct vmcs, guest_es_ar) == SEG_TR * 4, "");
_Static_assert(offsetof(struct vmcs, guest_tr_base) - offsetof(struct vmcs, guest_es_base) == SEG_TR * 8, "");

const struct vmx_check *vmx_check_run(const struct vmx_check *table, const struct vmx *vmx)
{
	for (; table->name; table++)
		if (unlikely(!table->holds(vmx)))
			return table;
	return NULL;
}

const struct vmx_check *vmx_check_memory(const struct vmx_check *table, const struct vmx *vmx)
{
	for (; table->name; table++)
		if (unlikely(table->memory) && !table->holds(vmx))
			return table;
	return NULL;
}

static bool is_segment_field(u64 encoding)
{
	return (encoding >= VMCS_ENC_guest_es_selector && encoding <= VMCS_ENC_guest_tr_selector) ||
	       (encoding >= VMCS_ENC_guest_es_limit && encoding <= VMCS_ENC_guest_tr_limit) ||
	       (encoding >= VMCS_ENC_guest_es_ar && encoding <= VMCS_ENC_guest_tr_ar) ||
	       (encoding >= VMCS_ENC_guest_es_base && encoding <= VMCS_ENC_guest_tr_base);
}

/*
 * Controls bear on every check, but for the natural-width ones (masks, shadows, CR3 targets), which none looks at. The
 * event to inject is checked against CR0.PE. Checks of guest registers and non-register state are always repeated.
 */
u8 vmx_checks_of_field(u64 encoding)
{
	switch (VMCS_GROUP(encoding)) {
	case VMCS_CONTROL:
		return VMCS_WIDTH(encoding) == VMCS_NATURAL ? 0 : CHECKED_CONTROLS | CHECKED_HOST | CHECKED_SEGS;
	case VMCS_HOST:
		return encoding == VMCS_ENC_host_rsp ? 0 : CHECKED_HOST;
	case VMCS_GUEST:
		if (encoding == VMCS_ENC_guest_cr0)
			return CHECKED_CONTROLS;
		return is_segment_field(encoding) ? CHECKED_SEGS : 0;
	default:
		return 0;
	}
}

bool vmx_address_ok(const struct vmx *vmx, u64 address, u64 alignment)
{
	return !(address & (alignment - 1)) && vmx_address_fits(vmx, address);
}

/* Each byte one of UC, WC, WT, WP, WB, UC- (SDM vol. 3, 12.12.2). */
bool vmx_pat_valid(u64 pat)
{
	for (unsigned i = 0; i < 8; i++) {
		u8 type = (u8)(pat >> i * 8);
		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return true;
}

/* SDM vol. 3, 4.4.1: bits 2:1, 8:5 and those above the physical-address width are reserved in present PDPTEs. */
bool vmx_pdptes_valid(const struct vmx *vmx, const u64 pdpte[4])
{
	for (unsigned i = 0; i < 4; i++)
		if ((pdpte[i] & 1) && ((pdpte[i] & (BITS(2, 1) | BITS(8, 5))) || !vmx_address_fits(vmx, pdpte[i])))
			return false;
	return true;
}
