#include "cli/engines.h"

#include "cli/cli.h"

#include <stdio.h>

static const struct engine_ops *choose_named(const struct engine_ops *engine, enum nested_choice nested,
					     char reason[ENGINE_REASON_MAX], int *status)
{
	char found[160] = "";
	if (engine->probe(nested, found, sizeof found) == 0) {
		snprintf(reason, ENGINE_REASON_MAX, "engine %s: %s", engine->name, found);
		return engine;
	}
	snprintf(reason, ENGINE_REASON_MAX, "engine %s cannot run%s%s here: %s", engine->name,
		 nested == NESTING_NONE ? "" : " with --nested ", nested == NESTING_NONE ? "" : nested_name(nested),
		 found);
	/* What the soft engine can nest depends on no host: asking it for more is a mistake. */
	*status = engine == &engine_soft && nested != NESTING_NONE ? CLI_USAGE : CLI_NO_CAPABILITY;
	return NULL;
}

const struct engine_ops *engines_choose(const struct run_options *options, char reason[ENGINE_REASON_MAX], int *status)
{
	char kvm_found[160] = "", soft_found[ENGINE_REASON_MAX];
	if (options->engine == ENGINE_KVM)
		return choose_named(&engine_kvm, options->nested, reason, status);
	if (options->engine == ENGINE_SOFT)
		return choose_named(&engine_soft, options->nested, reason, status);
	if (options->interpret || options->translation.mode || options->translation.dump || options->perf_map ||
	    options->soft_only) {
		snprintf(kvm_found, sizeof kvm_found,
			 options->interpret ? "--interpret asks for it" : "translation asks for it");
	} else if (engine_kvm.probe(options->nested, kvm_found, sizeof kvm_found) == 0) {
		snprintf(reason, ENGINE_REASON_MAX, "engine kvm: %s", kvm_found);
		return &engine_kvm;
	}
	const struct engine_ops *engine = choose_named(&engine_soft, options->nested, soft_found, status);
	if (engine)
		snprintf(reason, ENGINE_REASON_MAX, "engine soft, not kvm: %s", kvm_found);
	else
		snprintf(reason, ENGINE_REASON_MAX, "%.155s; engine kvm cannot either: %.120s", soft_found, kvm_found);
	return engine;
}
