/*
 * Writes ACPI Machine Language (ACPI 6.5, chapter 20): just the terms a DSDT of ours needs. Objects that contain others
 * are opened with aml_begin_*() and closed with aml_end(), which fills in their length; they nest.
 *
 * Running out of room is remembered (`full`) and checked once at the end. Names are single segments of up to four
 * characters, padded with '_', or paths written as AML wants them are built from nested scopes.
 */
#ifndef STRATA_VM_AML_H
#define STRATA_VM_AML_H

#include "base/types.h"

enum { AML_MAX_DEPTH = 8 };

struct aml {
	u8 *bytes;
	size_t size, at;
	size_t open[AML_MAX_DEPTH]; /* where the lengths of the open objects go */
	unsigned depth;
	bool full;
};

void aml_init(struct aml *aml, u8 *bytes, size_t size);

void aml_begin_scope(struct aml *aml, const char *name);
void aml_begin_device(struct aml *aml, const char *name);
void aml_begin_method(struct aml *aml, const char *name, unsigned arguments);
void aml_begin_package(struct aml *aml, unsigned elements);
void aml_end(struct aml *aml);

/* Name (name, …): the value is what is written next. */
void aml_name(struct aml *aml, const char *name);
void aml_integer(struct aml *aml, u64 value);
void aml_string(struct aml *aml, const char *text);
void aml_eisa_id(struct aml *aml, const char *id); /* "PNP0A08" */
void aml_return_argument(struct aml *aml, unsigned n);

static inline void aml_name_integer(struct aml *aml, const char *name, u64 value)
{
	aml_name(aml, name);
	aml_integer(aml, value);
}

static inline void aml_name_eisa_id(struct aml *aml, const char *name, const char *id)
{
	aml_name(aml, name);
	aml_eisa_id(aml, id);
}

/* A resource template (chapter 6.4): Name (_CRS, ResourceTemplate () { … }). */
void aml_begin_resources(struct aml *aml);
void aml_resource_io(struct aml *aml, u16 base, u8 count);
void aml_resource_irq(struct aml *aml, unsigned irq);
void aml_resource_memory(struct aml *aml, u32 base, u32 size);
/* Windows a bridge passes on to its bus. */
void aml_window_bus(struct aml *aml, u16 first, u16 last);
void aml_window_io(struct aml *aml, u16 first, u16 last);
void aml_window_memory32(struct aml *aml, u32 first, u32 last);
void aml_window_memory64(struct aml *aml, u64 first, u64 last);
void aml_end_resources(struct aml *aml);

#endif
