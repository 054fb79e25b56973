/*
 * Consistency checks of VMRUN (APM vol. 2, 15.5.1, "Canonicalization and Consistency
 * Checks"; 15.20, 15.21, 15.25, 15.29.4).
 */
#include "cpu/system.h"
#include "hv/svm/svm.h"

static const struct vmcb_control *control(const struct svm *svm)
{
	return &svm->vmcb.control;
}

static const struct vmcb_save *save(const struct svm *svm)
{
	return &svm->vmcb.save;
}

static bool address_fits(const struct svm *svm, u64 address)
{
	return !(address >> svm->cpu->config->phys_bits);
}

static bool svme(const struct svm *svm)
{
	return save(svm)->efer & EFER_SVME;
}

static bool efer_reserved(const struct svm *svm)
{
	return !(save(svm)->efer & ~(EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE | EFER_SVME));
}

static bool cr0_caching(const struct svm *svm)
{
	return !(save(svm)->cr0 & CR0_NW) || (save(svm)->cr0 & CR0_CD);
}

static bool cr0_high(const struct svm *svm)
{
	return !(save(svm)->cr0 >> 32);
}

static bool cr3_reserved(const struct svm *svm)
{
	return address_fits(svm, save(svm)->cr3);
}

static bool cr4_reserved(const struct svm *svm)
{
	return !(save(svm)->cr4 & ~cr4_supported(svm->cpu));
}

static bool dr6_high(const struct svm *svm)
{
	return !(save(svm)->dr6 >> 32);
}

static bool dr7_high(const struct svm *svm)
{
	return !(save(svm)->dr7 >> 32);
}

/* EFER.LME and CR0.PG: the guest is in long mode. */
static bool guest_long(const struct svm *svm)
{
	return (save(svm)->efer & EFER_LME) && (save(svm)->cr0 & CR0_PG);
}

static bool long_mode_pae(const struct svm *svm)
{
	return !guest_long(svm) || (save(svm)->cr4 & CR4_PAE);
}

static bool long_mode_protected(const struct svm *svm)
{
	return !guest_long(svm) || (save(svm)->cr0 & CR0_PE);
}

static bool code_size(const struct svm *svm)
{
	const u16 l_and_d = BIT(9) | BIT(10);
	return !guest_long(svm) || (save(svm)->cs.attr & l_and_d) != l_and_d;
}

static bool vmrun_intercepted(const struct svm *svm)
{
	return svm_intercepts(svm, SVM_EXIT_VMRUN);
}

/* A map must end below the end of physical addresses; the low bits of its address are ignored. */
static bool map_fits(const struct svm *svm, u64 at, u64 bytes)
{
	return address_fits(svm, at) && address_fits(svm, (at & PAGE_MASK) + bytes);
}

static bool iopm(const struct svm *svm)
{
	return map_fits(svm, control(svm)->iopm, IOPM_BYTES);
}

static bool msrpm(const struct svm *svm)
{
	return map_fits(svm, control(svm)->msrpm, MSRPM_BYTES);
}

static bool asid(const struct svm *svm)
{
	return control(svm)->asid != 0 && control(svm)->asid < SVM_ASIDS;
}

static bool tlb_control(const struct svm *svm)
{
	switch (control(svm)->tlb_control) {
	case TLB_KEEP:
	case TLB_FLUSH_ALL:
		return true;
	case TLB_FLUSH_ASID:
	case TLB_FLUSH_ASID_LOCAL:
		return svm_has(svm, FEATURE_FLUSH_BY_ASID);
	default:
		return false;
	}
}

static bool injecting(const struct svm *svm)
{
	return control(svm)->event_inj & EVENTINJ_VALID;
}

static bool event_type(const struct svm *svm)
{
	switch (bits_get(control(svm)->event_inj, 10, 8)) {
	case EVENTINJ_INTR:
	case EVENTINJ_NMI:
	case EVENTINJ_EXCEPTION:
	case EVENTINJ_SOFT:
		return true;
	default:
		return !injecting(svm);
	}
}

/* An exception is one that exists: vectors 0 to 31, but for the NMI's. */
static bool event_vector(const struct svm *svm)
{
	u64 event = control(svm)->event_inj, vector = event & EVENTINJ_VECTOR;
	if (!injecting(svm) || bits_get(event, 10, 8) != EVENTINJ_EXCEPTION)
		return true;
	return vector < 32 && vector != VEC_NMI;
}

static bool vnmi_intercepted(const struct svm *svm)
{
	return !svm_has(svm, FEATURE_VNMI) || !svm_int_ctl(svm, V_NMI_ENABLE) || svm_intercepts(svm, SVM_EXIT_NMI);
}

static bool host_paging(const struct svm *svm)
{
	return !svm_nested_paging(svm) || (svm->host.cr0 & CR0_PG);
}

static bool ncr3(const struct svm *svm)
{
	return !svm_nested_paging(svm) || address_fits(svm, control(svm)->ncr3);
}

static bool x2avic(const struct svm *svm)
{
	return !svm_has(svm, FEATURE_X2AVIC) || !svm_int_ctl(svm, X2AVIC_ENABLE) || svm_avic(svm);
}

/* The manual demands it, and does not say what follows otherwise. */
static bool avic_nested_paging(const struct svm *svm)
{
	return !svm_avic(svm) || svm_nested_paging(svm);
}

static bool avic_pointers(const struct svm *svm)
{
	const struct vmcb_control *c = control(svm);
	return !svm_avic(svm) || (address_fits(svm, c->avic_backing_page) && address_fits(svm, c->avic_physical) &&
				  (svm_x2avic(svm) || address_fits(svm, c->avic_logical)));
}

static bool avic_max_index(const struct svm *svm)
{
	return !svm_avic(svm) || (control(svm)->avic_physical & AVIC_MAX_INDEX) <= (svm_x2avic(svm) ? 511u : 255u);
}

/* Each byte one of UC, WC, WT, WP, WB, UC- (7.8.1). */
static bool g_pat(const struct svm *svm)
{
	for (unsigned i = 0; svm_nested_paging(svm) && i < 64; i += 8) {
		u8 type = (u8)(save(svm)->g_pat >> i);
		if (type > 7 || type == 2 || type == 3)
			return false;
	}
	return true;
}

/* Without nested paging the PDPTEs were read before the checks. */
static bool pdptes(const struct svm *svm)
{
	const u64 reserved = BITS(2, 1) | BITS(8, 5);
	for (unsigned i = 0; svm->guest_pae && i < 4; i++)
		if ((svm->pdpte[i] & 1) && ((svm->pdpte[i] & reserved) || !address_fits(svm, svm->pdpte[i])))
			return false;
	return true;
}

static const struct svm_check checks[] = {
	{ "EFER.SVME is 0", svme },
	{ "EFER: reserved bits", efer_reserved },
	{ "CR0.NW without CR0.CD", cr0_caching },
	{ "CR0 bits 63:32", cr0_high },
	{ "CR3: reserved bits", cr3_reserved },
	{ "CR4: reserved bits", cr4_reserved },
	{ "DR6 bits 63:32", dr6_high },
	{ "DR7 bits 63:32", dr7_high },
	{ "EFER.LME and CR0.PG without CR4.PAE", long_mode_pae },
	{ "EFER.LME and CR0.PG without CR0.PE", long_mode_protected },
	{ "CS.L and CS.D in long mode", code_size },
	{ "VMRUN is not intercepted", vmrun_intercepted },
	{ "I/O permission map beyond physical addresses", iopm },
	{ "MSR permission map beyond physical addresses", msrpm },
	{ "ASID", asid },
	{ "TLB_CONTROL", tlb_control },
	{ "EVENTINJ: type", event_type },
	{ "EVENTINJ: vector", event_vector },
	{ "virtual NMIs without NMI intercept", vnmi_intercepted },
	{ "nested paging without the host's", host_paging },
	{ "nCR3: reserved bits", ncr3 },
	{ "x2AVIC without AVIC", x2avic },
	{ "AVIC without nested paging", avic_nested_paging },
	{ "AVIC pointers beyond physical addresses", avic_pointers },
	{ "AVIC: index of the last entry", avic_max_index },
	{ "guest PAT", g_pat },
	{ "PDPTEs: reserved bits", pdptes },
};

unsigned svm_check_count(void)
{
	return ARRAY_SIZE(checks);
}

const struct svm_check *svm_check(const struct svm *svm)
{
	for (unsigned i = 0; i < ARRAY_SIZE(checks); i++)
		if (unlikely(!checks[i].holds(svm)))
			return &checks[i];
	return NULL;
}
