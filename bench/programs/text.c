/* Whole programs over bytes: LZ compression, CRC, JSON. */
#include "bench.h"

#include <stdio.h>
#include <string.h>

enum { TEXT = 1 << 16 };

/* Words drawn from a small vocabulary: compresses about as prose does. */
static void write_text(uint8_t *text, uint64_t seed)
{
	static const char *const words[] = { "guest", "host",   "page",   "the",   "of",
					     "a",     "enters", "leaves", "table", "walks" };
	size_t at = 0;

	while (at < TEXT) {
		const char *word = words[bench_random(&seed) % 10];
		size_t length = strlen(word);

		for (size_t i = 0; i <= length && at < TEXT; i++) {
			text[at++] = i < length ? word[i] : ' ';
		}
	}
}

/* Out: 0 LITERAL, or LENGTH DISTANCE-LOW DISTANCE-HIGH with LENGTH of 4 to 255. */
static size_t compress(const uint8_t *in, uint8_t *out)
{
	static uint32_t last[1 << 12]; /* where four bytes with this hash were seen, plus 1 */
	size_t at = 0, size = 0;

	memset(last, 0, sizeof(last));
	while (at < TEXT) {
		size_t length = 0, from = 0;

		if (at + 4 <= TEXT) {
			uint32_t four;

			memcpy(&four, in + at, 4);
			uint32_t *seen = &last[(four * 2654435761u) >> 20];

			from = *seen;
			*seen = at + 1;
			while (from && length < 255 && at + length < TEXT && in[from - 1 + length] == in[at + length]) {
				length++;
			}
			if (at - (from - 1) > 0xffff) {
				length = 0;
			}
		}
		if (length >= 4) {
			size_t distance = at - (from - 1);

			out[size++] = length;
			out[size++] = distance;
			out[size++] = distance >> 8;
			at += length;
		} else {
			out[size++] = 0;
			out[size++] = in[at++];
		}
	}
	return size;
}

static size_t expand(const uint8_t *in, size_t size, uint8_t *out)
{
	size_t at = 0;

	for (size_t i = 0; i < size;) {
		if (in[i] == 0) {
			out[at++] = in[i + 1];
			i += 2;
			continue;
		}
		size_t distance = in[i + 1] | in[i + 2] << 8;

		for (int k = 0; k < in[i]; k++, at++) {
			out[at] = out[at - distance];
		}
		i += 3;
	}
	return at;
}

uint64_t bench_lz(uint64_t n)
{
	static uint8_t text[TEXT], packed[2 * TEXT], back[TEXT];
	uint64_t sum = 0;

	while (n--) {
		write_text(text, n + 1);
		size_t size = compress(text, packed);

		if (expand(packed, size, back) != TEXT || memcmp(text, back, TEXT) != 0) {
			return 0;
		}
		sum = bench_mix(sum, size);
	}
	return sum;
}

/* CRC-32 with a table of 256, a byte at a time. */
uint64_t bench_crc(uint64_t n)
{
	static uint8_t text[TEXT];
	static uint32_t table[256];
	uint32_t crc = 0;

	for (uint32_t i = 0; i < 256; i++) {
		table[i] = i;
		for (int bit = 0; bit < 8; bit++) {
			table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320 : 0);
		}
	}
	write_text(text, 3);
	while (n--) {
		crc = ~crc;
		for (int i = 0; i < TEXT; i++) {
			crc = crc >> 8 ^ table[(crc ^ text[i]) & 0xff];
		}
		crc = ~crc;
	}
	return crc;
}

struct json {
	const char *at;
	uint64_t sum;
	int depth;
};

static void json_space(struct json *json)
{
	while (*json->at == ' ' || *json->at == '\n') {
		json->at++;
	}
}

static void json_string(struct json *json)
{
	uint64_t hash = 5381;

	for (json->at++; *json->at && *json->at != '"'; json->at++) {
		if (*json->at == '\\') {
			json->at++;
		}
		hash = hash * 33 + (uint8_t)*json->at;
	}
	json->at++;
	json->sum = bench_mix(json->sum, hash);
}

static void json_value(struct json *json)
{
	json_space(json);
	char close = *json->at == '{' ? '}' : ']';

	if (*json->at == '{' || *json->at == '[') {
		json->depth++;
		do {
			json->at++;
			json_space(json);
			if (*json->at == close) {
				break;
			}
			if (close == '}') {
				json_string(json);
				json_space(json);
				json->at++; /* the colon */
			}
			json_value(json);
			json_space(json);
		} while (*json->at == ',');
		json->at++;
		json->sum = bench_mix(json->sum, json->depth--);
	} else if (*json->at == '"') {
		json_string(json);
	} else if (*json->at == '-' || (*json->at >= '0' && *json->at <= '9')) {
		int64_t value = 0, sign = *json->at == '-' ? -1 : 1;

		for (json->at += sign < 0; *json->at >= '0' && *json->at <= '9'; json->at++) {
			value = value * 10 + (*json->at - '0');
		}
		json->sum = bench_mix(json->sum, sign * value);
	} else {
		for (; *json->at >= 'a' && *json->at <= 'z'; json->at++) {
			json->sum = bench_mix(json->sum, *json->at); /* true, false, null */
		}
	}
}

uint64_t bench_json(uint64_t n)
{
	static char text[TEXT];
	size_t size = 0;
	uint64_t seed = 5, sum = 0;

	text[size++] = '[';
	while (size < TEXT - 256) {
		size += snprintf(
			text + size, TEXT - size,
			"%s\n  {\"id\": %d, \"name\": \"guest \\\"%x\\\"\", \"up\": %s, \"exits\": [%d, %d, {}, null]}",
			size > 1 ? "," : "", (int)bench_random(&seed), (unsigned)bench_random(&seed),
			bench_random(&seed) & 1 ? "true" : "false", (int)bench_random(&seed),
			(int)bench_random(&seed) % 100);
	}
	text[size++] = ']';
	while (n--) {
		struct json json = { .at = text, .sum = sum };

		json_value(&json);
		sum = json.sum;
	}
	return sum;
}
