/*
 * An engine executes guest code for one VM's virtual CPUs: `soft` (Strata's own CPU) or `kvm` (the host's /dev/kvm).
 * The board, devices and loaders are the same for both.
 *
 * Threads: create, destroy and state calls while the CPU does not run; run on the CPU's own thread; kick and interrupt
 * calls from any thread.
 */
#ifndef STRATA_ENGINE_ENGINE_H
#define STRATA_ENGINE_ENGINE_H

#include "base/clock.h"
#include "base/counters.h"
#include "bus/bus.h"
#include "mem/mem.h"
#include "x86/feature.h"
#include "x86/state.h"

struct engine; /* one VM's worth, private to the engine */
struct engine_vcpu;

/* How the soft engine runs hot 64-bit code. CHECKED: interpreted and translated, comparing. */
enum translation { TRANSLATION_OFF, TRANSLATION_ON, TRANSLATION_CHECKED };

struct translation_config {
	enum translation mode;
	u64 memory;     /* bytes of decoded blocks and translated code together; 0: as is usual */
	unsigned after; /* runs of a block before it is translated; 0: as is best */
	bool dump;      /* print what becomes of the block at this linear address or RAM offset */
	u64 dump_address;
	int perf_map; /* descriptor to write a map for `perf` to; 0: none */
};

enum nested_choice { NESTING_NONE, NESTING_VTX, NESTING_SVM };

/* What the engine needs of the board to run; owned by the VM, outlives the engine. */
struct engine_board {
	struct mem *mem;
	struct bus *bus;
	struct clock *clock;
	unsigned cpus;
	u32 tsc_khz; /* soft: rate of the guest's TSC, counted from `clock`; the local APICs know the same */
	enum nested_choice nested;
	struct feature_choice choice;          /* soft: CPU features asked for; see cpu_may_choose() */
	struct translation_config translation; /* soft */
	/* soft: local APIC of CPU n (chip/lapic.h) and the PIC's INTR pin behind it. NULL with an in-kernel irqchip. */
	struct lapic **lapics;
};

enum engine_stop {
	ENGINE_STOP_KICKED, /* engine_ops.kick */
	ENGINE_STOP_TRIPLE_FAULT,
	ENGINE_STOP_FAILED /* the engine itself failed; it said why on stderr */
};

struct engine_ops {
	const char *name;
	bool has_irqchip; /* PIC, I/O APIC, local APICs and PIT are the engine's (in the kernel): the board builds none
			   */

	/*
	 * Can this engine run here, and with this nesting? 0, or -errno; `reason` (at least 160 bytes) says in one line
	 * what was found. kvm runs a tiny guest, bounded in time.
	 */
	int (*probe)(enum nested_choice nested, char *reason, size_t reason_size);

	int (*create)(const struct engine_board *board, struct engine **engine); /* 0 or -errno */
	void (*destroy)(struct engine *engine);

	struct engine_vcpu *(*vcpu)(struct engine *engine, unsigned index);
	void (*get_state)(struct engine_vcpu *vcpu, struct x86_state *state);
	void (*set_state)(struct engine_vcpu *vcpu, const struct x86_state *state);

	/* Runs guest code, handling I/O through the bus and halting by itself, until a stop. */
	enum engine_stop (*run)(struct engine_vcpu *vcpu);
	void (*kick)(struct engine_vcpu *vcpu); /* run() returns soon */
	void (*reset)(struct engine_vcpu *vcpu);

	/* ioctl(2) requests the engine makes while the guest runs, ended by 0, for the sandbox; NULL: none. */
	const unsigned long *ioctls;

	/* has_irqchip only: level of global system interrupt gsi. */
	void (*irq)(struct engine *engine, unsigned gsi, bool level);

	const struct counters *(*counters)(struct engine_vcpu *vcpu); /* NULL if it has none */
	void (*dump)(struct engine_vcpu *vcpu, void (*emit)(void *opaque, const char *line), void *opaque);
};

extern const struct engine_ops engine_soft, engine_kvm;

#endif
