/*
 * Whose processor the host's is: the interpreter that is compared with it shows the same vendor, and what one vendor's
 * processors do beyond the architecture is allowed on that vendor's hosts only.
 */
#ifndef STRATA_TESTS_INSN_HOST_VENDOR_H
#define STRATA_TESTS_INSN_HOST_VENDOR_H

#include <cpuid.h>
#include <stdbool.h>

static inline bool host_is_amd(void)
{
	static unsigned vendor; /* asked for once: CPUID is slow where a hypervisor intercepts it */
	unsigned a, c, d;
	if (!vendor)
		__get_cpuid(0, &a, &vendor, &c, &d);
	return vendor == signature_AMD_ebx;
}

#endif
