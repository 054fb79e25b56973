/*
 * The instruction table: one row per Zydis mnemonic, gathered from the .def files.
 */
#include "cpu/insn.h"
#include "x86/exit_reason.h"
#include "x86/feature.h"
#include "x86/svm_exit.h"

#include <assert.h>

#define ROW(mnemonic, select_fn, ...) bool select_fn(const struct decode *d, struct insn *insn);
#include "cpu/insn_integer.def"
#include "cpu/insn_svm.def"
#include "cpu/insn_system.def"
#include "cpu/insn_vector.def"
#include "cpu/insn_vmx.def"
#undef ROW

static const struct insn_row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define ROW(mnemonic, select_fn, priv, feat, vmx, svm)                                                                 \
	[ZYDIS_MNEMONIC_##mnemonic] = {                                                                                \
		.name = #mnemonic,                                                                                     \
		.select = select_fn,                                                                                   \
		.privilege = priv,                                                                                     \
		.feature = FEATURE_##feat,                                                                             \
		.vmx_exit = EXIT_##vmx,                                                                                \
		.svm_exit = SVM_EXIT_##svm,                                                                            \
	},
#include "cpu/insn_integer.def"
#include "cpu/insn_svm.def"
#include "cpu/insn_system.def"
#include "cpu/insn_vector.def"
#include "cpu/insn_vmx.def"
#undef ROW
};

static_assert(ARRAY_SIZE(rows) <= COUNTERS_HANDLERS, "a counter for each row");

const char *insn_row_name(unsigned mnemonic)
{
	return mnemonic < ARRAY_SIZE(rows) ? rows[mnemonic].name : NULL;
}

const struct insn_row *insn_row_find(ZydisMnemonic mnemonic)
{
	if ((size_t)mnemonic >= ARRAY_SIZE(rows) || !rows[mnemonic].select)
		return NULL;
	return &rows[mnemonic];
}
