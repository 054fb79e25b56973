/*
 * The performance-monitoring unit; see pmu.h.
 */
#include "cpu/pmu.h"
#include "base/trace.h"
#include "cpu/block_cache.h"
#include "cpu/internal.h"
#include "x86/msr.h"

/* What counters can count. */
enum pmu_event { EVENT_NOTHING, EVENT_INSTRUCTIONS, EVENT_BRANCHES, EVENT_CYCLES };

/* Where the CPU is: one of each line. */
enum {
	PMU_IN_USER = 1,
	PMU_IN_KERNEL = 2,
	PMU_IN_GUEST = 4,
	PMU_IN_HOST = 8,
	PMU_IN_PLAIN = 16, /* neither: the vendor is Intel, or EFER.SVME is 0 */
	PMU_IN_ALL = 31
};

enum { WIDTH = 48, INTEL_PROGRAMMABLE = 4 };
#define VALUE_MASK BITS(WIDTH - 1, 0)

/* Event select registers (SDM vol. 3, 20.2.1.1; APM vol. 2, 13.2.1). */
#define SELECT_EVENT     BITS(7, 0)
#define SELECT_UMASK     BITS(15, 8)
#define SELECT_USER      BIT(16)
#define SELECT_KERNEL    BIT(17)
#define SELECT_EDGE      BIT(18)
#define SELECT_PIN       BIT(19)
#define SELECT_INTERRUPT BIT(20)
#define SELECT_ENABLE    BIT(22)
#define SELECT_INVERT    BIT(23)
#define SELECT_MASK      BITS(31, 24)
#define SELECT_HIGH      BITS(35, 32) /* AMD: more of the event */
#define SELECT_GUEST     BIT(40)
#define SELECT_HOST      BIT(41)
#define SELECT_COMMON                                                                                                  \
	(SELECT_EVENT | SELECT_UMASK | SELECT_USER | SELECT_KERNEL | SELECT_EDGE | SELECT_INTERRUPT | SELECT_ENABLE |  \
	 SELECT_INVERT | SELECT_MASK)
#define SELECT_INTEL (SELECT_COMMON | SELECT_PIN)
#define SELECT_AMD   (SELECT_COMMON | SELECT_HIGH | SELECT_GUEST | SELECT_HOST)

/* A fixed counter's four bits of IA32_FIXED_CTR_CTRL. */
enum { FIXED_KERNEL = 1, FIXED_USER = 2, FIXED_INTERRUPT = 8, FIXED_DEFINED = 0xb };

#define STATUS_BUFFER  BIT(62) /* never set; may be cleared all the same */
#define STATUS_CHANGED BIT(63)

/*
 * What is left below NEAR instructions is interpreted: more than any trace or block has, which are looked at before
 * they run. What is farther than FAR is watched by time alone, for no code runs FASTEST instructions in a tick of the
 * TSC: Linux has all counters interrupt, those it only reads after half their range.
 */
enum { NEAR = 256, FASTEST = 16 };
#define FAR BIT(36)

unsigned pmu_programmable(const struct cpu *cpu)
{
	if (cpu_is_amd(cpu))
		return cpu_has(cpu, FEATURE_PERFCTR_CORE) ? PMU_PROGRAMMABLE : 0;
	return cpu_has(cpu, FEATURE_ARCH_PERFMON) ? INTEL_PROGRAMMABLE : 0;
}

u64 pmu_debugctl_bits(const struct cpu *cpu)
{
	return cpu_has(cpu, FEATURE_ARCH_PERFMON) ? DEBUGCTL_FREEZE_LBRS | DEBUGCTL_FREEZE_PERFMON : 0;
}

/* Its bit in the global registers. */
static u64 global_bit(unsigned counter)
{
	return counter < PMU_PROGRAMMABLE ? BIT(counter) : BIT(32 + counter - PMU_PROGRAMMABLE);
}

static u64 global_defined(const struct cpu *cpu)
{
	return BITS(pmu_programmable(cpu) - 1, 0) | BITS(32 + PMU_FIXED - 1, 32);
}

/* --- settling --- */

/* Instructions retired before the running one, or before this boundary. */
static u64 instructions_retired(const struct cpu *cpu)
{
	const struct block *block = cpu->blocks->running;
	u64 before = cpu->counters.instructions;
	if (block && cpu->insn >= block->insn && cpu->insn < block->insn + block->count)
		before += (u64)(cpu->insn - block->insn);
	return before;
}

static u8 context_of(const struct cpu *cpu)
{
	if (!cpu->running)
		return 0;
	u8 context = cpu->cpl ? PMU_IN_USER : PMU_IN_KERNEL;
	if (!cpu_is_amd(cpu) || !(cpu->efer & EFER_SVME))
		return context | PMU_IN_PLAIN;
	return context | (cpu->non_root ? PMU_IN_GUEST : PMU_IN_HOST);
}

static bool is_enabled(const struct cpu *cpu, unsigned counter)
{
	const struct pmu_counter *c = &cpu->pmu.counter[counter];
	return c->event != EVENT_NOTHING && c->where &&
	       (cpu_is_amd(cpu) || (cpu->pmu.global_control & global_bit(counter)));
}

/* An interrupt by the local APIC, and what IA32_DEBUGCTL freezes with it (SDM vol. 3, 18.4.7). */
static void interrupt(struct cpu *cpu)
{
	if (cpu->msr.debugctl & DEBUGCTL_FREEZE_PERFMON)
		cpu->pmu.global_control = 0;
	if (cpu->msr.debugctl & DEBUGCTL_FREEZE_LBRS)
		cpu->msr.debugctl &= ~DEBUGCTL_LBR;
	if (cpu->platform->counter_overflow)
		cpu->platform->counter_overflow(cpu->platform->opaque);
}

static u64 tsc_now(const struct cpu *cpu)
{
	return cpu->platform->tsc(cpu->platform->opaque);
}

static u64 cycles_now(const struct cpu *cpu)
{
	return cpu->platform->cycles ? cpu->platform->cycles(cpu->platform->opaque) : tsc_now(cpu);
}

/* Brings the values up to date. refresh() has to follow. */
static void settle(struct cpu *cpu)
{
	struct pmu *pmu = &cpu->pmu;
	u64 retired = instructions_retired(cpu), cycles = pmu->counts_cycles ? cycles_now(cpu) : pmu->cycles;
	u64 counted[] = {
		[EVENT_INSTRUCTIONS] = retired - pmu->instructions,
		[EVENT_BRANCHES] = pmu->branches - pmu->branches_settled,
		[EVENT_CYCLES] = cycles - pmu->cycles,
	};
	bool interrupts = false;

	pmu->instructions = retired;
	pmu->branches_settled = pmu->branches;
	pmu->cycles = cycles;
	for (unsigned left = pmu->counting; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctz(left);
		struct pmu_counter *c = &pmu->counter[i];
		c->value += counted[c->event];
		if (likely(c->value <= VALUE_MASK))
			continue;
		c->value &= VALUE_MASK;
		if (!cpu_is_amd(cpu))
			pmu->global_status |= global_bit(i);
		interrupts |= c->interrupts;
	}
	if (interrupts)
		interrupt(cpu);
}

/* Does the run loop have to stop before it overflows? */
static bool is_bound(const struct pmu_counter *c)
{
	return c->interrupts && c->event != EVENT_CYCLES && VALUE_MASK + 1 - c->value <= FAR;
}

/* Sees to it that the unit settles when the next interrupt is due: cycles go by no faster than the TSC. */
static void arm(struct cpu *cpu)
{
	struct pmu *pmu = &cpu->pmu;
	const struct cpu_platform *platform = cpu->platform;
	u64 wait = ~0ULL;

	for (unsigned left = pmu->counting; left; left &= left - 1) {
		const struct pmu_counter *c = &pmu->counter[__builtin_ctz(left)];
		u64 rest = VALUE_MASK + 1 - c->value;
		if (!c->interrupts)
			continue;
		if (is_bound(c)) { /* each instruction is a branch at most */
			pmu->bound = rest < pmu->bound ? rest : pmu->bound;
			continue;
		}
		u64 ticks = c->event == EVENT_CYCLES ? rest : (rest - FAR) / FASTEST;
		wait = ticks < wait ? ticks : wait;
	}
	if (pmu->bound != ~0ULL && pmu->bound > NEAR)
		pmu->stop_at = pmu->instructions + pmu->bound - NEAR;
	if (pmu->bound <= NEAR || (wait != ~0ULL && !platform->attend_at))
		cpu_attend(cpu, ATTEND_PMU);
	if (wait == ~0ULL || !platform->attend_at)
		return;
	/* A wish that comes no later is kept: it is then looked at too early, and armed again. */
	u64 now = tsc_now(cpu);
	if (pmu->armed <= now || pmu->armed > now + wait) {
		pmu->armed = now + wait;
		platform->attend_at(platform->opaque, ATTEND_PMU, pmu->armed);
	}
}

/* What counts from here on. settle() came before. */
static void refresh(struct cpu *cpu)
{
	struct pmu *pmu = &cpu->pmu;
	bool counted_cycles = pmu->counts_cycles;

	pmu->context = context_of(cpu);
	pmu->counting = 0;
	pmu->bound = pmu->stop_at = ~0ULL;
	pmu->active = pmu->filters = pmu->tracks = pmu->counts_cycles = pmu->counts_branches = false;
	for (unsigned i = 0; i < PMU_COUNTERS; i++) {
		const struct pmu_counter *c = &pmu->counter[i];
		if (!is_enabled(cpu, i))
			continue;
		pmu->active = true;
		pmu->filters |= c->where != PMU_IN_ALL;
		pmu->counts_cycles |= c->event == EVENT_CYCLES;
		pmu->counts_branches |= c->event == EVENT_BRANCHES;
		pmu->tracks |= c->event == EVENT_BRANCHES || is_bound(c);
		if (pmu->context && !(pmu->context & ~c->where))
			pmu->counting |= (u16)(1u << i);
	}
	if (unlikely(pmu->tracks && !pmu->tracked)) {
		pmu->tracked = true;
		block_cache_flush(cpu);
	}
	if (pmu->counts_cycles && !counted_cycles)
		pmu->cycles = cycles_now(cpu);
	if (pmu->counting)
		arm(cpu);
	else if (!pmu->context)
		cpu_attended(cpu, ATTEND_PMU); /* or the CPU could not sleep */
}

void pmu_changed(struct cpu *cpu)
{
	if (cpu->pmu.context == context_of(cpu))
		return;
	settle(cpu);
	refresh(cpu);
}

void pmu_attend(struct cpu *cpu)
{
	cpu_attended(cpu, ATTEND_PMU); /* first, for the timer may ask again meanwhile */
	settle(cpu);
	refresh(cpu);
}

/* --- what a counter counts --- */

bool pmu_is_branch(const struct insn *insn)
{
	switch (insn->mnemonic) {
	case ZYDIS_MNEMONIC_CALL:
	case ZYDIS_MNEMONIC_INT:
	case ZYDIS_MNEMONIC_INT1:
	case ZYDIS_MNEMONIC_INT3:
	case ZYDIS_MNEMONIC_INTO:
	case ZYDIS_MNEMONIC_IRET:
	case ZYDIS_MNEMONIC_IRETD:
	case ZYDIS_MNEMONIC_IRETQ:
	case ZYDIS_MNEMONIC_JB:
	case ZYDIS_MNEMONIC_JBE:
	case ZYDIS_MNEMONIC_JCXZ:
	case ZYDIS_MNEMONIC_JECXZ:
	case ZYDIS_MNEMONIC_JL:
	case ZYDIS_MNEMONIC_JLE:
	case ZYDIS_MNEMONIC_JMP:
	case ZYDIS_MNEMONIC_JNB:
	case ZYDIS_MNEMONIC_JNBE:
	case ZYDIS_MNEMONIC_JNL:
	case ZYDIS_MNEMONIC_JNLE:
	case ZYDIS_MNEMONIC_JNO:
	case ZYDIS_MNEMONIC_JNP:
	case ZYDIS_MNEMONIC_JNS:
	case ZYDIS_MNEMONIC_JNZ:
	case ZYDIS_MNEMONIC_JO:
	case ZYDIS_MNEMONIC_JP:
	case ZYDIS_MNEMONIC_JRCXZ:
	case ZYDIS_MNEMONIC_JS:
	case ZYDIS_MNEMONIC_JZ:
	case ZYDIS_MNEMONIC_LOOP:
	case ZYDIS_MNEMONIC_LOOPE:
	case ZYDIS_MNEMONIC_LOOPNE:
	case ZYDIS_MNEMONIC_RET:
	case ZYDIS_MNEMONIC_SYSCALL:
	case ZYDIS_MNEMONIC_SYSENTER:
	case ZYDIS_MNEMONIC_SYSEXIT:
	case ZYDIS_MNEMONIC_SYSRET:
		return true;
	default:
		return false;
	}
}

/* Conditions on how often in a cycle nobody can count here. */
static enum pmu_event selected_event(const struct cpu *cpu, u64 select)
{
	u64 event = select & (SELECT_EVENT | SELECT_UMASK | SELECT_HIGH);

	if (!(select & (SELECT_EDGE | SELECT_MASK))) {
		if (event == 0x00c0)
			return EVENT_INSTRUCTIONS;
		if (event == (cpu_is_amd(cpu) ? 0x00c2 : 0x00c4))
			return EVENT_BRANCHES;
		if (cpu_is_amd(cpu) ? event == 0x0076 : event == 0x003c || event == 0x013c)
			return EVENT_CYCLES;
	}
	if (select & SELECT_ENABLE)
		REPORT("performance event %llx is not counted", (unsigned long long)select);
	return EVENT_NOTHING;
}

/* AMD's counters can be for guests or hosts only, which nothing is as long as SVM is off (APM vol. 2, 13.2.1). */
static u8 select_where(const struct cpu *cpu, u64 select)
{
	u8 where = 0;

	if (!(select & SELECT_ENABLE) || !(select & (SELECT_USER | SELECT_KERNEL)))
		return 0;
	if (select & SELECT_USER)
		where |= PMU_IN_USER;
	if (select & SELECT_KERNEL)
		where |= PMU_IN_KERNEL;
	if (!(select & (SELECT_GUEST | SELECT_HOST)))
		return where | PMU_IN_GUEST | PMU_IN_HOST | PMU_IN_PLAIN;
	if (select & SELECT_GUEST)
		where |= PMU_IN_GUEST;
	if (select & SELECT_HOST)
		where |= PMU_IN_HOST;
	return where;
}

static bool write_select(struct cpu *cpu, unsigned n, u64 value)
{
	if (cpu_is_amd(cpu))
		value &= SELECT_AMD; /* the others read as 0 */
	else if (value & ~SELECT_INTEL)
		return false;
	cpu->pmu.select[n] = value;
	struct pmu_counter *c = &cpu->pmu.counter[n];
	c->event = selected_event(cpu, value);
	c->where = select_where(cpu, value);
	c->interrupts = value & SELECT_INTERRUPT;
	return true;
}

static bool write_fixed_control(struct cpu *cpu, u64 value)
{
	static const u8 events[PMU_FIXED] = { EVENT_INSTRUCTIONS, EVENT_CYCLES, EVENT_CYCLES };

	for (unsigned n = 0; n < 16; n++)
		if ((value >> 4 * n & 15) & ~(n < PMU_FIXED ? (u64)FIXED_DEFINED : 0))
			return false;
	cpu->pmu.fixed_control = value;
	for (unsigned n = 0; n < PMU_FIXED; n++) {
		struct pmu_counter *c = &cpu->pmu.counter[PMU_PROGRAMMABLE + n];
		u64 control = value >> 4 * n;
		c->event = events[n];
		c->where =
			(u8)((control & FIXED_KERNEL ? PMU_IN_KERNEL : 0) | (control & FIXED_USER ? PMU_IN_USER : 0));
		if (c->where)
			c->where |= PMU_IN_ALL & ~(PMU_IN_KERNEL | PMU_IN_USER);
		c->interrupts = control & FIXED_INTERRUPT;
	}
	return true;
}

/* --- registers --- */

enum kind {
	NO_REGISTER,
	SELECT,
	VALUE,
	VALUE_LOW, /* a write sign-extends bit 31 */
	FIXED_CONTROL,
	GLOBAL_STATUS,
	GLOBAL_CONTROL,
	OVERFLOW_CONTROL,
	CAPABILITIES
};

struct pmu_register {
	enum kind kind;
	unsigned n; /* counter */
};

static struct pmu_register amd_register(u32 msr)
{
	const unsigned old = 4;
	if (msr >= MSR_PERF_CTL0 && msr < MSR_PERF_CTL0 + old)
		return (struct pmu_register){ SELECT, msr - MSR_PERF_CTL0 };
	if (msr > MSR_PERF_CTR3 - old && msr <= MSR_PERF_CTR3)
		return (struct pmu_register){ VALUE, msr - (MSR_PERF_CTR3 - old + 1) };
	if (msr >= MSR_PERF_CTL_CORE0 && msr < MSR_PERF_CTL_CORE0 + 2 * PMU_PROGRAMMABLE) {
		unsigned at = msr - MSR_PERF_CTL_CORE0;
		return (struct pmu_register){ at & 1 ? VALUE : SELECT, at / 2 };
	}
	return (struct pmu_register){ NO_REGISTER, 0 };
}

static struct pmu_register intel_register(const struct cpu *cpu, u32 msr)
{
	bool capabilities = cpu_has(cpu, FEATURE_PDCM);

	if (msr >= MSR_PERFEVTSEL0 && msr < MSR_PERFEVTSEL0 + INTEL_PROGRAMMABLE)
		return (struct pmu_register){ SELECT, msr - MSR_PERFEVTSEL0 };
	if (msr >= MSR_PMC0 && msr < MSR_PMC0 + INTEL_PROGRAMMABLE)
		return (struct pmu_register){ VALUE_LOW, msr - MSR_PMC0 };
	if (msr >= MSR_A_PMC0 && msr < MSR_A_PMC0 + INTEL_PROGRAMMABLE && capabilities)
		return (struct pmu_register){ VALUE, msr - MSR_A_PMC0 };
	if (msr >= MSR_FIXED_CTR0 && msr < MSR_FIXED_CTR0 + PMU_FIXED)
		return (struct pmu_register){ VALUE, PMU_PROGRAMMABLE + msr - MSR_FIXED_CTR0 };
	switch (msr) {
	case MSR_PERF_CAPABILITIES:
		return (struct pmu_register){ capabilities ? CAPABILITIES : NO_REGISTER, 0 };
	case MSR_FIXED_CTR_CTRL:
		return (struct pmu_register){ FIXED_CONTROL, 0 };
	case MSR_PERF_GLOBAL_STATUS:
		return (struct pmu_register){ GLOBAL_STATUS, 0 };
	case MSR_PERF_GLOBAL_CTRL:
		return (struct pmu_register){ GLOBAL_CONTROL, 0 };
	case MSR_PERF_GLOBAL_OVF_CTRL:
		return (struct pmu_register){ OVERFLOW_CONTROL, 0 };
	default:
		return (struct pmu_register){ NO_REGISTER, 0 };
	}
}

static struct pmu_register find_register(const struct cpu *cpu, u32 msr)
{
	if (!pmu_programmable(cpu))
		return (struct pmu_register){ NO_REGISTER, 0 };
	return cpu_is_amd(cpu) ? amd_register(msr) : intel_register(cpu, msr);
}

bool pmu_has_msr(const struct cpu *cpu, u32 msr)
{
	return find_register(cpu, msr).kind != NO_REGISTER;
}

bool pmu_msr_read(struct cpu *cpu, u32 msr, u64 *value)
{
	const struct pmu *pmu = &cpu->pmu;
	struct pmu_register r = find_register(cpu, msr);

	settle(cpu);
	refresh(cpu);
	switch (r.kind) {
	case SELECT:
		*value = pmu->select[r.n];
		return true;
	case VALUE:
	case VALUE_LOW:
		*value = pmu->counter[r.n].value;
		return true;
	case FIXED_CONTROL:
		*value = pmu->fixed_control;
		return true;
	case GLOBAL_STATUS:
		*value = pmu->global_status;
		return true;
	case GLOBAL_CONTROL:
		*value = pmu->global_control;
		return true;
	case OVERFLOW_CONTROL:
		*value = 0;
		return true;
	case CAPABILITIES: /* no last-branch records, no PEBS */
		*value = PERF_CAP_FULL_WRITE;
		return true;
	case NO_REGISTER:
		break;
	}
	return false;
}

bool pmu_global_control_valid(const struct cpu *cpu, u64 value)
{
	return !(value & ~global_defined(cpu));
}

static bool write_value(struct cpu *cpu, unsigned n, u64 value)
{
	if (value & ~VALUE_MASK) {
		if (!cpu_is_amd(cpu))
			return false;
		value &= VALUE_MASK;
	}
	cpu->pmu.counter[n].value = value;
	return true;
}

static bool write_register(struct cpu *cpu, struct pmu_register r, u64 value)
{
	struct pmu *pmu = &cpu->pmu;

	switch (r.kind) {
	case SELECT:
		return write_select(cpu, r.n, value);
	case VALUE:
		return write_value(cpu, r.n, value);
	case VALUE_LOW:
		pmu->counter[r.n].value = sign_extend(value, 32) & VALUE_MASK;
		return true;
	case FIXED_CONTROL:
		return write_fixed_control(cpu, value);
	case GLOBAL_CONTROL:
		if (!pmu_global_control_valid(cpu, value))
			return false;
		pmu->global_control = value;
		return true;
	case OVERFLOW_CONTROL:
		if (value & ~(global_defined(cpu) | STATUS_BUFFER | STATUS_CHANGED))
			return false;
		pmu->global_status &= ~value;
		return true;
	default: /* read-only */
		return false;
	}
}

bool pmu_msr_write(struct cpu *cpu, u32 msr, u64 value)
{
	settle(cpu);
	bool written = write_register(cpu, find_register(cpu, msr), value);
	refresh(cpu);
	return written;
}

void pmu_set_global_control(struct cpu *cpu, u64 value)
{
	if (cpu->pmu.global_control == value)
		return;
	settle(cpu);
	cpu->pmu.global_control = value;
	refresh(cpu);
}

bool pmu_read(struct cpu *cpu, u32 index, u64 *value)
{
	const u32 fixed = BIT(30);
	unsigned n = index;

	if (index >= pmu_programmable(cpu)) {
		if (cpu_is_amd(cpu) || !pmu_programmable(cpu) || index < fixed || index >= fixed + PMU_FIXED)
			return false;
		n = PMU_PROGRAMMABLE + (index - fixed);
	}
	settle(cpu);
	refresh(cpu);
	*value = cpu->pmu.counter[n].value;
	return true;
}

/* The programmable counters' global enable bits are 1 from the start (SDM vol. 3, table 10-1). */
void pmu_reset(struct cpu *cpu)
{
	cpu->pmu = (struct pmu){ .bound = ~0ULL, .stop_at = ~0ULL };
	cpu_attended(cpu, ATTEND_PMU);
	if (cpu_has(cpu, FEATURE_ARCH_PERFMON))
		cpu->pmu.global_control = BITS(INTEL_PROGRAMMABLE - 1, 0);
	else
		cpu->msr.misc_enable &= ~MISC_ENABLE_PERFMON;
}
