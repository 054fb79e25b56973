/*
 * Which loads are of values that registers have anyway: known.h.
 */
#include "jit/known.h"

static bool has_value(const struct tracker *k, unsigned gpr, const struct value *v)
{
	return k->reg[gpr].root == v->root && k->reg[gpr].offset == v->offset;
}

/* A register with a host register that has the value; GPR_COUNT: none. RSP's may be yet to be settled. */
static unsigned holder(const struct tracker *k, const struct value *v)
{
	unsigned gpr = 0;
	while (gpr < GPR_COUNT && (gpr == RSP || host_register[gpr] == HOST_NONE || !has_value(k, gpr, v)))
		gpr++;
	return gpr;
}

static bool is_same_place(const struct access *a, const struct access *b)
{
	return access_alike(a, b) && a->offset == b->offset && a->size == b->size && !a->wide && !b->wide;
}

/* Surely not the same bytes? Further away there may be another address of the same page. */
static bool is_apart(const struct access *a, const struct access *b)
{
	i64 distance = a->offset - b->offset;
	return access_alike(a, b) && distance < (i64)PAGE_SIZE / 2 && distance > -(i64)PAGE_SIZE / 2 &&
	       (distance >= b->size || -distance >= a->size);
}

/* Could the instruction have a register instead of its operand in memory? */
static bool may_take_register(const struct plan *p)
{
	return p->may_know && p->memory && !p->memory_write && (p->memory_size == 4 || p->memory_size == 8);
}

const struct plan *known_find(const struct known *known, const struct tracker *k, struct plan *p,
			      const struct access *at)
{
	if (!may_take_register(p))
		return NULL;
	for (unsigned i = 0; i < KNOWN_STORES; i++) {
		const struct known_store *s = &known->store[i];
		if (!s->by || !is_same_place(&s->at, at))
			continue;
		unsigned gpr = holder(k, &s->value);
		if (gpr == GPR_COUNT)
			return NULL;
		p->known = (u8)(gpr + 1);
		return s->by;
	}
	return NULL;
}

/* The register that the instruction stores, whole or its lower half; GPR_COUNT: it is no such store. */
static unsigned stored(const struct plan *p)
{
	const ZydisDecodedOperand *from = &p->op[p->kind == PLAN_PUSH ? 0 : 1];
	bool is_store = p->kind == PLAN_PUSH ||
			(p->kind == PLAN_COPY && p->zi.mnemonic == ZYDIS_MNEMONIC_MOV && p->memory_write);
	return is_store && jit_is_gpr(from) && from->size >= 32 ? jit_gpr_number(from) : GPR_COUNT;
}

static bool writes_nothing(const struct plan *p)
{
	switch (p->kind) {
	case PLAN_COPY:
	case PLAN_REENCODE:
	case PLAN_X87:
	case PLAN_DIVIDE:
	case PLAN_BIT_STRING:
		return !p->memory || !p->memory_write;
	case PLAN_JCC:
	case PLAN_JMP:
	case PLAN_DIRECTION:
	case PLAN_NOTHING:
	case PLAN_LEA:
	case PLAN_POP:
	case PLAN_LEAVE:
	case PLAN_SELECTOR:
		return true;
	default:
		return false;
	}
}

void known_follow(struct known *known, const struct tracker *k, const struct plan *p, const struct access *at)
{
	if (writes_nothing(p))
		return;
	for (unsigned i = 0; i < KNOWN_STORES; i++)
		if (!at || !is_apart(&known->store[i].at, at))
			known->store[i].by = NULL;
	unsigned gpr = at ? stored(p) : GPR_COUNT;
	if (gpr == GPR_COUNT)
		return;
	known->store[known->next] = (struct known_store){ *at, k->reg[gpr], p };
	known->next = (known->next + 1) % KNOWN_STORES;
}
