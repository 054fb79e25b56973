/*
 * AMD-V's consistency checks: from a VMCB that passes all, each case breaks one thing and names the check that must
 * notice it; every check has a case. And the table of features against CPUID's.
 */
#undef _GNU_SOURCE /* its <signal.h> has a REG_RIP too */

#include "hv/svm/svm.h"

#include <glib.h>
#include <string.h>

static struct cpu_config config = { .nested = NESTED_SVM, .phys_bits = 40 };
static struct cpu *cpu;
static struct svm svm;

static void make_valid(void)
{
	struct vmcb_control *c = &svm.vmcb.control;
	struct vmcb_save *s = &svm.vmcb.save;
	memset(&svm.vmcb, 0, sizeof(svm.vmcb));
	c->intercept[SVM_EXIT_VMRUN / 32] = 1u << SVM_EXIT_VMRUN % 32;
	c->asid = 1;
	s->efer = EFER_SVME | EFER_LME | EFER_LMA;
	s->cr0 = CR0_PE | CR0_PG;
	s->cr4 = CR4_PAE;
	s->cs.attr = 0xa9b;
	s->g_pat = 0x0007040600070406;
	svm.host.cr0 = CR0_PE | CR0_PG;
	svm.guest_pae = false;
	memset(svm.pdpte, 0, sizeof(svm.pdpte));
}

static void make_avic(void)
{
	svm.vmcb.control.int_ctl = (u32)AVIC_ENABLE;
	svm.vmcb.control.nested_ctl = NESTED_PAGING;
}

#define CASES(X)                                                                                                       \
	X("EFER.SVME is 0", s->efer &= ~EFER_SVME)                                                                     \
	X("EFER: reserved bits", s->efer |= BIT(16))                                                                   \
	X("CR0.NW without CR0.CD", s->cr0 |= CR0_NW)                                                                   \
	X("CR0 bits 63:32", s->cr0 |= BIT(40))                                                                         \
	X("CR3: reserved bits", s->cr3 |= BIT(40))                                                                     \
	X("CR4: reserved bits", s->cr4 |= BIT(40))                                                                     \
	X("DR6 bits 63:32", s->dr6 |= BIT(32))                                                                         \
	X("DR7 bits 63:32", s->dr7 |= BIT(32))                                                                         \
	X("EFER.LME and CR0.PG without CR4.PAE", s->cr4 = 0)                                                           \
	X("EFER.LME and CR0.PG without CR0.PE", s->cr0 = CR0_PG)                                                       \
	X("CS.L and CS.D in long mode", s->cs.attr |= BIT(10))                                                         \
	X("VMRUN is not intercepted", c->intercept[SVM_EXIT_VMRUN / 32] = 0)                                           \
	X("I/O permission map beyond physical addresses", c->iopm = BIT(40) - 2 * PAGE_SIZE)                           \
	X("MSR permission map beyond physical addresses", c->msrpm = ~0ULL)                                            \
	X("ASID", c->asid = SVM_ASIDS)                                                                                 \
	X("TLB_CONTROL", c->tlb_control = 4)                                                                           \
	X("EVENTINJ: type", c->event_inj = EVENTINJ_VALID | 5 << 8)                                                    \
	X("EVENTINJ: vector", c->event_inj = EVENTINJ_VALID | EVENTINJ_EXCEPTION << 8 | 40)                            \
	X("virtual NMIs without NMI intercept", c->int_ctl = V_NMI_ENABLE)                                             \
	X("nested paging without the host's", (c->nested_ctl = NESTED_PAGING, svm.host.cr0 = 0))                       \
	X("nCR3: reserved bits", (c->nested_ctl = NESTED_PAGING, c->ncr3 = BIT(40)))                                   \
	X("x2AVIC without AVIC", c->int_ctl = (u32)X2AVIC_ENABLE)                                                      \
	X("AVIC without nested paging", c->int_ctl = (u32)AVIC_ENABLE)                                                 \
	X("AVIC pointers beyond physical addresses", (make_avic(), c->avic_logical = BIT(40)))                         \
	X("AVIC: index of the last entry", (make_avic(), c->avic_physical = 256))                                      \
	X("guest PAT", (c->nested_ctl = NESTED_PAGING, s->g_pat = 3))                                                  \
	X("PDPTEs: reserved bits", (svm.guest_pae = true, svm.pdpte[2] = 1 | BIT(2)))

static void test_each_check(void)
{
	struct vmcb_control *c = &svm.vmcb.control;
	struct vmcb_save *s = &svm.vmcb.save;
	const struct svm_check *failed;
	unsigned cases = 0;
	make_valid();
	g_assert_null(svm_check(&svm));
#define X(name_, spoil)                                                                                                \
	make_valid();                                                                                                  \
	(void)(spoil);                                                                                                 \
	failed = svm_check(&svm);                                                                                      \
	g_assert_nonnull(failed);                                                                                      \
	g_assert_cmpstr(failed->name, ==, name_);                                                                      \
	cases++;
	CASES(X)
#undef X
	g_assert_cmpuint(cases, ==, svm_check_count());
}

static void test_maps_may_reach_the_end(void)
{
	make_valid();
	svm.vmcb.control.iopm = BIT(40) - 3 * PAGE_SIZE + 0xfff;
	svm.vmcb.control.msrpm = BIT(40) - 3 * PAGE_SIZE;
	g_assert_null(svm_check(&svm));
}

static void test_avic_of_either_kind(void)
{
	struct vmcb_control *c = &svm.vmcb.control;
	make_valid();
	make_avic();
	c->avic_physical = BIT(39) | 255;
	g_assert_null(svm_check(&svm));
	c->int_ctl |= (u32)X2AVIC_ENABLE;
	c->avic_physical |= 511;
	c->avic_logical = ~0ULL;
	g_assert_null(svm_check(&svm));
	c->avic_physical = 512;
	g_assert_nonnull(svm_check(&svm));
}

/* Events that are not valid may be anything. */
static void test_event_that_is_not_valid(void)
{
	make_valid();
	svm.vmcb.control.event_inj = 5 << 8 | 40;
	g_assert_null(svm_check(&svm));
}

static void test_features_are_documented(void)
{
	static const struct {
		u32 leaf;
		enum feature feature;
	} all[] = {
#define X(name, leaf, subleaf, reg, bit, source) { leaf, FEATURE_##name },
#include "x86/feature.def"
#undef X
	};
	static const enum feature documented[] = {
#define FEATURE(where, bit, needs, name, section, test) FEATURE_##bit,
#include "hv/svm/features.def"
#undef FEATURE
	};
	unsigned n = 0;
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		if (all[i].leaf != 0x8000000a)
			continue;
		g_assert_cmpuint(n, <, ARRAY_SIZE(documented));
		g_assert_cmpuint(documented[n++], ==, all[i].feature);
	}
	g_assert_cmpuint(n, ==, ARRAY_SIZE(documented));
}

static void test_segments_keep_their_attributes(void)
{
	for (u32 attr = 0; attr < 0x1000; attr++) {
		const struct vmcb_segment from = { 8, (u16)attr, 0x1234, 0x5678 };
		struct segment s = svm_segment_load(&svm, &from);
		g_assert_true(!(s.ar & SEG_AR_UNUSABLE) == !!(attr & VMCB_ATTR_P));
		g_assert_true(!(s.ar & SEG_AR_L) == !(attr & BIT(9)));
		struct vmcb_segment to = svm_segment_save(&s);
		g_assert_cmpint(memcmp(&from, &to, sizeof(from)), ==, 0);
	}
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	cpu = g_new0(struct cpu, 1);
	memset(config.features, 0xff, sizeof(config.features));
	cpu->config = &config;
	cpu->hv_state = &svm;
	svm.cpu = cpu;
	svm.linear_bits = 48;
	g_test_add_func("/svm-checks/each-notices-its-fault", test_each_check);
	g_test_add_func("/svm-checks/maps-may-reach-the-end", test_maps_may_reach_the_end);
	g_test_add_func("/svm-checks/avic-of-either-kind-passes", test_avic_of_either_kind);
	g_test_add_func("/svm-checks/an-event-that-is-not-valid-may-be-anything", test_event_that_is_not_valid);
	g_test_add_func("/svm/features-are-documented", test_features_are_documented);
	g_test_add_func("/svm/segments-keep-their-attributes", test_segments_keep_their_attributes);
	int result = g_test_run();
	g_free(cpu);
	return result;
}
