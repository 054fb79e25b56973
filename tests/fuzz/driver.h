/*
 * What a fuzz target gives the driver. LLVMFuzzerTestOneInput() is libFuzzer's name for "try these bytes": it returns
 * 0, and crashes or asserts if something is wrong.
 */
#ifndef STRATA_TESTS_FUZZ_DRIVER_H
#define STRATA_TESTS_FUZZ_DRIVER_H

#include "base/types.h"

enum { FUZZ_MAX_INPUT = 0x10000 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Writes seed n, at most FUZZ_MAX_INPUT bytes, to a zeroed buffer; its size, or 0 if there are only n of them. */
size_t fuzz_seed(unsigned n, uint8_t *buffer);

#endif
