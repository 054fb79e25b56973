#include "x86/exit_reason.h"

static const char *const names[EXIT_REASON_COUNT] = {
#define X(number, name, text) [number] = text,
#include "x86/exit_reason.def"
#undef X
};

const char *exit_reason_name(unsigned reason)
{
	return reason < EXIT_REASON_COUNT && names[reason] ? names[reason] : "reserved";
}
