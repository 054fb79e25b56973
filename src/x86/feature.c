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

/* The feature that the word `sign` NAME, n bytes long, stands for; FEATURE_BASE if there is none. */
static enum feature find(const char *word, size_t n, bool (*may)(enum feature feature, bool more))
{
	for (enum feature f = FEATURE_BASE + 1; f < FEATURE_COUNT && (*word == '-' || *word == '+'); f++) {
		const char *name = feature_name(f);
		if (may(f, *word == '+') && strlen(name) == n - 1 && !memcmp(name, word + 1, n - 1))
			return f;
	}
	return FEATURE_BASE;
}

const char *feature_list(const char *list, bool (*may)(enum feature feature, bool more), struct feature_choice *choice)
{
	for (;;) {
		size_t n = strcspn(list, ",");
		enum feature found = find(list, n, may);
		if (found == FEATURE_BASE)
			return list;
		u8 bit = (u8)(1 << (found % 8));
		bool more = *list == '+';
		choice->less[found / 8] = (u8)((choice->less[found / 8] & ~bit) | (more ? 0 : bit));
		choice->more[found / 8] = (u8)((choice->more[found / 8] & ~bit) | (more ? bit : 0));
		if (!list[n])
			return NULL;
		list += n + 1;
	}
}
