#include "x86/feature.h"

#include <stddef.h>
#include <string.h>

static const char *const names[FEATURE_COUNT] = {
#define X(name, ...) [FEATURE_##name] = #name,
#include "x86/feature.def"
#undef X
};

enum { NAME_MAX_BYTES = 32 };

const char *feature_name(enum feature feature)
{
	static _Thread_local char name[NAME_MAX_BYTES];
	if (!names[feature])
		return NULL;
	unsigned n = 0;
	for (; names[feature][n] && n < sizeof name - 1; n++) {
		char c = names[feature][n];
		name[n] = (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
	}
	name[n] = 0;
	return name;
}

const char *feature_list(const char *list, bool (*may)(enum feature feature), u8 set[FEATURE_SET_BYTES])
{
	for (;;) {
		size_t n = strcspn(list, ",");
		enum feature found = FEATURE_BASE;
		for (enum feature f = FEATURE_BASE + 1; f < FEATURE_COUNT && *list == '-'; f++) {
			const char *name = feature_name(f);
			if (may(f) && strlen(name) == n - 1 && !memcmp(name, list + 1, n - 1))
				found = f;
		}
		if (found == FEATURE_BASE)
			return list;
		set[found / 8] |= (u8)(1 << (found % 8));
		if (!list[n])
			return NULL;
		list += n + 1;
	}
}
