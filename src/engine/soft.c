/*
 * The soft engine: Strata's own CPU on the board's local APICs. The CPU asks for interrupts and time through struct
 * cpu_platform; the local APIC tells the CPU through struct lapic_cpu. Both end here.
 *
 * The TSC is the VM's clock at a fixed rate, not the host's: TSC, TSC-deadline timer and the board's other timers can
 * then never disagree, and a run with another clock is the same run.
 */
#include "engine/engine.h"

#include "chip/lapic.h"
#include "cpu/cpu.h"
#include "cpu/group.h"
#include "cpu/hv_ops.h"
#include "cpu/system.h"
#include "jit/jit.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PHYS_BITS = 40, HOT_RUNS = 4, HOTTER_RUNS = 16 };

struct engine_vcpu {
	struct cpu cpu;
	struct engine *engine;
	struct lapic *lapic;
	struct cpu_config config;
	struct cpu_platform platform;
	/* Where the thread of a halted CPU sleeps. `asleep` is atomic: wakers look before they take the lock. */
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool asleep;
	struct timer hv_timer, pmu_timer; /* what attend_at was asked for; under the board lock */
};

struct engine {
	const struct engine_board *board;
	unsigned vcpu_count;
	struct engine_vcpu *vcpu[];
};

/* --- sleeping and waking --- */

/* What a sleeping CPU has to look at. While it waits for a SIPI, interrupts stay pending and wake nobody. */
static u32 attention(struct engine_vcpu *vcpu)
{
	u32 wakes = vcpu->cpu.activity == CPU_WAIT_SIPI ? ATTEND_STOP | ATTEND_INIT | ATTEND_SIPI : (u32)~ATTEND_QUIET;
	return __atomic_load_n(&vcpu->cpu.attention, __ATOMIC_SEQ_CST) & wakes;
}

/* The order "set attention, read asleep" here and "set asleep, read attention" there loses no wake-up. */
static void attend(struct engine_vcpu *vcpu, u32 reasons)
{
	cpu_attend(&vcpu->cpu, reasons);
	if (!__atomic_load_n(&vcpu->asleep, __ATOMIC_SEQ_CST))
		return;
	pthread_mutex_lock(&vcpu->lock);
	pthread_cond_signal(&vcpu->wake);
	pthread_mutex_unlock(&vcpu->lock);
}

static void sleep_until_attended(struct engine_vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	__atomic_store_n(&vcpu->asleep, true, __ATOMIC_SEQ_CST);
	while (!attention(vcpu))
		pthread_cond_wait(&vcpu->wake, &vcpu->lock);
	__atomic_store_n(&vcpu->asleep, false, __ATOMIC_SEQ_CST);
	pthread_mutex_unlock(&vcpu->lock);
}

/* --- what the CPU asks --- */

static struct bus *bus_of(struct engine_vcpu *vcpu)
{
	return vcpu->engine->board->bus;
}

static int ack_interrupt(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	bus_lock(bus_of(vcpu));
	int vector = lapic_ack_interrupt(vcpu->lapic);
	bus_unlock(bus_of(vcpu));
	return vector;
}

static bool interrupt_pending(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	return lapic_interrupt_pending(vcpu->lapic);
}

static bool apic_msr_read(void *opaque, u32 msr, u64 *value)
{
	struct engine_vcpu *vcpu = opaque;
	bus_lock(bus_of(vcpu));
	bool ok = lapic_msr_read(vcpu->lapic, msr, value);
	bus_unlock(bus_of(vcpu));
	return ok;
}

static bool apic_msr_write(void *opaque, u32 msr, u64 value)
{
	struct engine_vcpu *vcpu = opaque;
	bus_lock(bus_of(vcpu));
	bool ok = lapic_msr_write(vcpu->lapic, msr, value);
	bus_unlock(bus_of(vcpu));
	return ok;
}

static u8 tpr_read(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	return lapic_cr8_read(vcpu->lapic);
}

static void tpr_write(void *opaque, u8 value)
{
	struct engine_vcpu *vcpu = opaque;
	bus_lock(bus_of(vcpu));
	lapic_cr8_write(vcpu->lapic, value);
	bus_unlock(bus_of(vcpu));
}

static void apic_eoi(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	bus_lock(bus_of(vcpu));
	lapic_eoi(vcpu->lapic);
	bus_unlock(bus_of(vcpu));
}

static void apic_send(void *opaque, u32 destination, u8 vector)
{
	struct engine_vcpu *vcpu = opaque;
	bus_lock(bus_of(vcpu));
	lapic_send(vcpu->lapic, destination, vector);
	bus_unlock(bus_of(vcpu));
}

/* Nothing of the APIC's own: whose ID it is never changes, so that it needs no lock. */
static void doorbell(void *opaque, u32 apic_id)
{
	struct engine_vcpu *vcpu = opaque;
	struct engine *engine = vcpu->engine;
	for (unsigned i = 0; i < engine->vcpu_count; i++)
		if (engine->vcpu[i]->lapic->id == apic_id)
			attend(engine->vcpu[i], ATTEND_HV);
}

static void apic_init(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	bus_lock(bus_of(vcpu));
	lapic_init_signal(vcpu->lapic);
	bus_unlock(bus_of(vcpu));
}

static u64 tsc_ticks(const struct engine_vcpu *vcpu, u64 ns)
{
	u32 khz = vcpu->engine->board->tsc_khz;
	return khz == 1000000 ? ns : mul_div(ns, khz, 1000000);
}

static u64 platform_tsc(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	return tsc_ticks(vcpu, clock_now(vcpu->engine->board->clock));
}

static u64 platform_cycles(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	return tsc_ticks(vcpu, clock_thread_time(vcpu->engine->board->clock));
}

static void tsc_changed(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	bus_lock(bus_of(vcpu));
	lapic_tsc_changed(vcpu->lapic);
	bus_unlock(bus_of(vcpu));
}

static void hv_timer_fired(void *opaque)
{
	attend(opaque, ATTEND_HV);
}

static void pmu_timer_fired(void *opaque)
{
	attend(opaque, ATTEND_PMU);
}

static void attend_at(void *opaque, u32 reason, u64 tsc)
{
	struct engine_vcpu *vcpu = opaque;
	/* Rounded up: never early. */
	u64 ns = mul_div(tsc, 1000000, vcpu->engine->board->tsc_khz) + 1;
	bus_lock(bus_of(vcpu));
	timer_arm(reason == ATTEND_PMU ? &vcpu->pmu_timer : &vcpu->hv_timer, ns);
	bus_unlock(bus_of(vcpu));
}

/* Intel's local APICs mask the LVT entry until software has seen to the interrupt (SDM vol. 3, 11.5.1). */
static void counter_overflow(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	bus_lock(bus_of(vcpu));
	lapic_counter_overflow(vcpu->lapic, vcpu->config.nested != NESTED_SVM);
	bus_unlock(bus_of(vcpu));
}

static const struct cpu_platform platform = {
	.ack_interrupt = ack_interrupt,
	.interrupt_pending = interrupt_pending,
	.apic_msr_read = apic_msr_read,
	.apic_msr_write = apic_msr_write,
	.tpr_read = tpr_read,
	.tpr_write = tpr_write,
	.apic_eoi = apic_eoi,
	.apic_send = apic_send,
	.doorbell = doorbell,
	.apic_init = apic_init,
	.tsc = platform_tsc,
	.cycles = platform_cycles,
	.tsc_changed = tsc_changed,
	.attend_at = attend_at,
	.counter_overflow = counter_overflow,
};

/* --- what the local APIC tells --- */

static void intr_changed(void *opaque)
{
	attend(opaque, ATTEND_INTR);
}

static void nmi(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	cpu_attend_nmi(&vcpu->cpu);
	attend(vcpu, 0);
}

static void smi(void *opaque)
{
	attend(opaque, ATTEND_SMI);
}

/* A start-up IPI before the INIT came to nothing; one behind it counts. Both are told under the board lock. */
static void init(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	cpu_attended(&vcpu->cpu, ATTEND_SIPI);
	attend(vcpu, ATTEND_INIT);
}

static void sipi(void *opaque, u8 vector)
{
	struct engine_vcpu *vcpu = opaque;
	vcpu->cpu.sipi_vector = vector;
	attend(vcpu, ATTEND_SIPI);
}

static u64 guest_tsc(void *opaque)
{
	struct engine_vcpu *vcpu = opaque;
	return cpu_tsc(&vcpu->cpu);
}

static const struct lapic_cpu lapic_cpu = {
	.intr_changed = intr_changed,
	.nmi = nmi,
	.smi = smi,
	.init = init,
	.sipi = sipi,
	.tsc = guest_tsc,
};

/* Whose registers an access to the APIC page means: those of the CPU that this thread runs. */
static struct lapic *lapic_of_thread(void *opaque)
{
	struct engine *engine = opaque;
	struct cpu *cpu = group_current();
	return engine->board->lapics[cpu && cpu->config->cpu_index < engine->vcpu_count ? cpu->config->cpu_index : 0];
}

/* --- life cycle --- */

static int soft_probe(enum nested_choice nested, char *reason, size_t reason_size)
{
	struct cpu_config config = { .nested = NESTED_NONE, .cpu_count = 1, .phys_bits = PHYS_BITS };
	int err = cpu_cpuid_init(&config);
	if (err)
		snprintf(reason, reason_size, "the host's processor lacks SSE4.2 and the rest of x86-64-v2");
	else
		snprintf(reason, reason_size,
			 "Strata's own CPU, in software: runs on any host, with VT-x or AMD-V for its guest");
	return err;
}

static void destroy_vcpu(struct engine_vcpu *vcpu)
{
	if (!vcpu)
		return;
	timer_disarm(&vcpu->hv_timer);
	timer_disarm(&vcpu->pmu_timer);
	jit_destroy(&vcpu->cpu);
	cpu_destroy(&vcpu->cpu);
	pthread_cond_destroy(&vcpu->wake);
	pthread_mutex_destroy(&vcpu->lock);
	free(vcpu);
}

static void soft_destroy(struct engine *engine)
{
	for (unsigned i = 0; i < engine->vcpu_count; i++)
		destroy_vcpu(engine->vcpu[i]);
	free(engine);
}

/* Decoded blocks take half as much room again as what they become. */
static size_t translated_memory(const struct translation_config *config)
{
	return config->mode == TRANSLATION_OFF ? 0 : config->memory / 5 * 2;
}

static int create_translator(struct engine_vcpu *vcpu, const struct engine_board *board)
{
	const struct translation_config *config = &board->translation;
	struct jit_options options = {
		.hot = (u16)(config->after ? config->after : HOT_RUNS),
		.hotter = (u16)(config->after ? config->after : HOTTER_RUNS),
		.check = config->mode == TRANSLATION_CHECKED,
		.memory = translated_memory(config),
		.dump = config->dump,
		.dump_address = config->dump_address,
		.perf_map = config->perf_map,
	};
	return config->mode == TRANSLATION_OFF ? 0 : jit_create(&vcpu->cpu, &options);
}

static int create_vcpu(struct engine *engine, unsigned index)
{
	const struct engine_board *board = engine->board;
	size_t size = (sizeof(struct engine_vcpu) + 63) & ~63UL;
	struct engine_vcpu *vcpu = aligned_alloc(64, size);
	if (!vcpu)
		return -ENOMEM;
	*vcpu = (struct engine_vcpu){ .engine = engine, .lapic = board->lapics[index], .platform = platform };
	vcpu->platform.opaque = vcpu;
	vcpu->config = (struct cpu_config){
		.nested = board->nested == NESTING_VTX   ? NESTED_VTX
			  : board->nested == NESTING_SVM ? NESTED_SVM
							 : NESTED_NONE,
		.cpu_index = index,
		.cpu_count = board->cpus,
		.tsc_khz = board->tsc_khz,
		.phys_bits = PHYS_BITS,
		.block_memory = board->translation.memory - translated_memory(&board->translation),
	};
	vcpu->config.choice = board->choice;
	vcpu->cpu.hv = board->nested == NESTING_VTX ? &vmx_ops : board->nested == NESTING_SVM ? &svm_ops : NULL;
	pthread_mutex_init(&vcpu->lock, NULL);
	pthread_cond_init(&vcpu->wake, NULL);
	timer_init(&vcpu->hv_timer, board->clock, hv_timer_fired, vcpu);
	timer_init(&vcpu->pmu_timer, board->clock, pmu_timer_fired, vcpu);
	int err = cpu_init(&vcpu->cpu, board->mem, board->bus, &vcpu->config, &vcpu->platform);
	if (err) {
		free(vcpu);
		return err;
	}
	err = create_translator(vcpu, board);
	if (err) {
		cpu_destroy(&vcpu->cpu);
		free(vcpu);
		return err;
	}
	vcpu->lapic->phys_bits = PHYS_BITS;
	vcpu->lapic->has_x2apic = feature_in(vcpu->config.features, FEATURE_X2APIC);
	lapic_connect_cpu(vcpu->lapic, &lapic_cpu, vcpu);
	engine->vcpu[index] = vcpu;
	return 0;
}

static int soft_create(const struct engine_board *board, struct engine **result)
{
	struct engine *engine = calloc(1, sizeof *engine + board->cpus * sizeof engine->vcpu[0]);
	if (!engine)
		return -ENOMEM;
	engine->board = board;
	for (; engine->vcpu_count < board->cpus; engine->vcpu_count++) {
		int err = create_vcpu(engine, engine->vcpu_count);
		if (err) {
			soft_destroy(engine);
			return err;
		}
	}
	struct apic_bus *bus = board->lapics[0]->bus;
	bus->current = lapic_of_thread;
	bus->current_opaque = engine;
	*result = engine;
	return 0;
}

static struct engine_vcpu *soft_vcpu(struct engine *engine, unsigned index)
{
	return index < engine->vcpu_count ? engine->vcpu[index] : NULL;
}

static void soft_get_state(struct engine_vcpu *vcpu, struct x86_state *state)
{
	cpu_get_state(&vcpu->cpu, state);
}

static void soft_set_state(struct engine_vcpu *vcpu, const struct x86_state *state)
{
	cpu_set_state(&vcpu->cpu, state);
}

static enum engine_stop soft_run(struct engine_vcpu *vcpu)
{
	for (;;) {
		switch (cpu_run(&vcpu->cpu)) {
		case CPU_STOP_ASKED:
			cpu_attended(&vcpu->cpu, ATTEND_STOP);
			return ENGINE_STOP_KICKED;
		case CPU_STOP_IDLE:
			sleep_until_attended(vcpu);
			break;
		case CPU_STOP_TRIPLE_FAULT:
			return ENGINE_STOP_TRIPLE_FAULT;
		}
	}
}

static void soft_kick(struct engine_vcpu *vcpu)
{
	attend(vcpu, ATTEND_STOP);
}

static void soft_reset(struct engine_vcpu *vcpu)
{
	cpu_reset(&vcpu->cpu);
}

static const struct counters *soft_counters(struct engine_vcpu *vcpu)
{
	return &vcpu->cpu.counters;
}

static void soft_dump(struct engine_vcpu *vcpu, void (*emit)(void *opaque, const char *line), void *opaque)
{
	cpu_dump(&vcpu->cpu, emit, opaque);
}

const struct engine_ops engine_soft = {
	.name = "soft",
	.probe = soft_probe,
	.create = soft_create,
	.destroy = soft_destroy,
	.vcpu = soft_vcpu,
	.get_state = soft_get_state,
	.set_state = soft_set_state,
	.run = soft_run,
	.kick = soft_kick,
	.reset = soft_reset,
	.counters = soft_counters,
	.dump = soft_dump,
};
