/*
 * The kvm engine: a VM over the host's /dev/kvm, with PIC, I/O APIC, local APICs and PIT in the kernel. Port and memory
 * accesses that the kernel does not handle go to the bus, like the soft engine's.
 */
#include "engine/kvm.h"

#include "base/trace.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* EDX after RESET; what it says of the processor is CPUID's business. */
#define KVM_CPU_SIGNATURE 0x600

enum { PIC_PINS = 8, IOAPIC_PINS = 24 };

/* The engine's own failures; unlike REPORT(), said every time, because the run ends here. */
#define FAILED(fmt, ...) fprintf(stderr, "strata: kvm: " fmt "\n", ##__VA_ARGS__)

int kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int result;
	do
		result = ioctl(fd, request, arg);
	while (result < 0 && errno == EINTR);
	return result < 0 ? -errno : result;
}

static const struct {
	int cap;
	const char *name;
} needed[] = {
	{ KVM_CAP_USER_MEMORY, "guest memory from user space" },
	{ KVM_CAP_IRQCHIP, "an in-kernel interrupt controller" },
	{ KVM_CAP_PIT2, "an in-kernel timer (PIT)" },
	{ KVM_CAP_IRQ_ROUTING, "interrupt routing" },
	{ KVM_CAP_EXT_CPUID, "CPUID of the guest" },
	{ KVM_CAP_IMMEDIATE_EXIT, "immediate exits" },
	{ KVM_CAP_SET_TSS_ADDR, "a place for the task-state segment" },
};

int kvm_open(char *reason, size_t reason_size)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		int err = -errno;
		snprintf(reason, reason_size, "/dev/kvm: %s", strerror(errno));
		return err;
	}
	int version = kvm_ioctl(fd, KVM_GET_API_VERSION, NULL);
	if (version != KVM_API_VERSION) {
		snprintf(reason, reason_size, "/dev/kvm speaks version %d of its interface, not %d", version,
			 KVM_API_VERSION);
		close(fd);
		return -ENOTSUP;
	}
	for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
		if (kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)(long)needed[i].cap) <= 0) {
			snprintf(reason, reason_size, "this host's KVM lacks %s", needed[i].name);
			close(fd);
			return -ENOTSUP;
		}
	}
	return fd;
}

/* --- Create and destroy --- */

static int add_slot(struct engine *engine, u32 slot, u64 gpa, u64 size, u8 *host)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (u64)(uintptr_t)host
	};
	return size ? kvm_ioctl(engine->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) : 0;
}

static void add_route(struct kvm_irq_routing *table, u32 gsi, u32 chip, u32 pin)
{
	table->entries[table->nr++] = (struct kvm_irq_routing_entry){ .gsi = gsi,
								      .type = KVM_IRQ_ROUTING_IRQCHIP,
								      .u.irqchip = { .irqchip = chip, .pin = pin } };
}

/*
 * A PC's wiring: ISA interrupts go to the PICs and to the I/O APIC pin of the same number, but the timer goes to pin 2
 * (the MADT says so too). GSI 2 is that pin under its own number.
 */
static int set_routes(struct engine *engine)
{
	size_t size = sizeof(struct kvm_irq_routing) +
		      (2 * PIC_PINS + IOAPIC_PINS + 1) * sizeof(struct kvm_irq_routing_entry);
	struct kvm_irq_routing *table = calloc(1, size);
	if (!table)
		return -ENOMEM;
	for (u32 gsi = 0; gsi < IOAPIC_PINS; gsi++) {
		if (gsi == 2)
			add_route(table, gsi, KVM_IRQCHIP_PIC_MASTER, 0);
		else if (gsi < PIC_PINS)
			add_route(table, gsi, KVM_IRQCHIP_PIC_MASTER, gsi);
		else if (gsi < 2 * PIC_PINS)
			add_route(table, gsi, KVM_IRQCHIP_PIC_SLAVE, gsi - PIC_PINS);
		add_route(table, gsi, KVM_IRQCHIP_IOAPIC, gsi == 0 ? 2 : gsi);
	}
	int err = kvm_ioctl(engine->vm_fd, KVM_SET_GSI_ROUTING, table);
	free(table);
	return err;
}

/*
 * The guest gets no performance counters: each of their registers is an exit to the host, and Linux watches for
 * lock-ups with them. AMD's have no CPUID bit to hide them all behind. A kernel that cannot do without (before 5.18)
 * leaves them.
 */
static void disable_counters(struct engine *engine)
{
	struct kvm_enable_cap cap = { .cap = KVM_CAP_PMU_CAPABILITY, .args = { KVM_PMU_CAP_DISABLE } };
	(void)kvm_ioctl(engine->vm_fd, KVM_ENABLE_CAP, &cap);
}

static int create_vm(struct engine *engine)
{
	const struct mem *mem = engine->board->mem;
	u64 identity_map = KVM_IDENTITY_MAP_ADDR;
	/* The speaker's port is the PIT's as well; without the flag it would come out as an unknown port. */
	struct kvm_pit_config pit = { .flags = KVM_PIT_SPEAKER_DUMMY };
	struct kvm_reinject_control reinject = { .pit_reinject = 0 };
	int err = engine->vm_fd = kvm_ioctl(engine->kvm_fd, KVM_CREATE_VM, NULL);
	if (err >= 0)
		disable_counters(engine);
	if (err >= 0)
		err = kvm_ioctl(engine->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
	if (err >= 0)
		err = kvm_ioctl(engine->vm_fd, KVM_SET_TSS_ADDR, (void *)KVM_TSS_ADDR);
	if (err >= 0)
		err = kvm_ioctl(engine->vm_fd, KVM_CREATE_IRQCHIP, NULL);
	if (err >= 0)
		err = kvm_ioctl(engine->vm_fd, KVM_CREATE_PIT2, &pit);
	/*
	 * A tick that comes late is not made up for: KVM would have to see the end of each, and leaves AVIC off for
	 * that. Kernels have better clocks than counting.
	 */
	if (err >= 0)
		err = kvm_ioctl(engine->vm_fd, KVM_REINJECT_CONTROL, &reinject);
	if (err >= 0)
		err = set_routes(engine);
	if (err >= 0) {
		engine->after_reset = kvm_vm_snapshot(engine->vm_fd);
		err = engine->after_reset ? 0 : -errno;
	}
	if (err >= 0)
		err = add_slot(engine, 0, 0, mem->low_size, mem->host);
	if (err >= 0)
		err = add_slot(engine, 1, MEM_HIGH_BASE, mem->size - mem->low_size, mem->host + mem->low_size);
	if (err >= 0)
		err = kvm_smm_init(engine);
	return err < 0 ? err : 0;
}

static int create_vcpu(struct engine *engine, unsigned index, const struct kvm_cpuid2 *cpuid)
{
	struct engine_vcpu *vcpu = &engine->vcpus[index];
	vcpu->fd = kvm_ioctl(engine->vm_fd, KVM_CREATE_VCPU, (void *)(long)index);
	if (vcpu->fd < 0)
		return vcpu->fd;
	vcpu->run = mmap(NULL, engine->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
	if (vcpu->run == MAP_FAILED) {
		vcpu->run = NULL;
		return -errno;
	}
	int err = kvm_cpuid_setup(vcpu, cpuid);
	if (err >= 0)
		err = kvm_smm_init_vcpu(vcpu);
	if (err < 0)
		return err;
	vcpu->after_reset = kvm_vcpu_snapshot(engine->kvm_fd, vcpu->fd);
	return vcpu->after_reset ? 0 : -errno;
}

static int create_vcpus(struct engine *engine)
{
	int size = kvm_ioctl(engine->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
	if (size < 0)
		return size;
	engine->run_size = (size_t)size;
	engine->vcpus = calloc(engine->board->cpus, sizeof engine->vcpus[0]);
	struct kvm_cpuid2 *cpuid = kvm_supported_cpuid(engine->kvm_fd);
	int err = !engine->vcpus ? -ENOMEM : !cpuid ? -errno : 0;
	if (!err && engine->board->nested != NESTING_NONE && kvm_cpuid_nesting(cpuid) != engine->board->nested)
		err = -ENOTSUP;
	while (!err && engine->vcpu_count < engine->board->cpus) {
		struct engine_vcpu *vcpu = &engine->vcpus[engine->vcpu_count];
		vcpu->engine = engine;
		vcpu->index = engine->vcpu_count;
		vcpu->fd = -1;
		err = create_vcpu(engine, engine->vcpu_count++, cpuid);
	}
	free(cpuid);
	return err;
}

static void kick_handler(int signal)
{
	/* Nothing to do: that the signal came is what ends KVM_RUN. */
}

/* A caller's own handler is left alone; it interrupts KVM_RUN as well. */
static int install_kick_handler(void)
{
	struct sigaction old, action = { .sa_handler = kick_handler };
	if (sigaction(KVM_KICK_SIGNAL, NULL, &old) < 0)
		return -errno;
	if (!(old.sa_flags & SA_SIGINFO) && (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) &&
	    sigaction(KVM_KICK_SIGNAL, &action, NULL) < 0)
		return -errno;
	return 0;
}

static void kvm_destroy(struct engine *engine)
{
	for (unsigned i = 0; i < engine->vcpu_count; i++) {
		struct engine_vcpu *vcpu = &engine->vcpus[i];
		if (vcpu->run)
			munmap(vcpu->run, engine->run_size);
		kvm_vcpu_snapshot_free(vcpu->after_reset);
		if (vcpu->fd >= 0)
			close(vcpu->fd);
	}
	free(engine->vcpus);
	free(engine->after_reset);
	if (engine->vm_fd >= 0)
		close(engine->vm_fd);
	kvm_smm_destroy(engine);
	if (engine->kvm_fd >= 0)
		close(engine->kvm_fd);
	free(engine);
}

static int kvm_create(const struct engine_board *board, struct engine **result)
{
	char reason[160];
	struct engine *engine = calloc(1, sizeof *engine);
	if (!engine)
		return -ENOMEM;
	engine->board = board;
	engine->vm_fd = -1;
	int err = engine->kvm_fd = kvm_open(reason, sizeof reason);
	if (err >= 0)
		err = install_kick_handler();
	if (err >= 0)
		err = create_vm(engine);
	if (err >= 0)
		err = create_vcpus(engine);
	if (err < 0) {
		kvm_destroy(engine);
		return err;
	}
	*result = engine;
	return 0;
}

/* --- Exits --- */

static void handle_io(struct engine_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct bus *bus = vcpu->engine->board->bus;
	u8 *data = (u8 *)run + run->io.data_offset;
	unsigned size = run->io.size;
	/* INS and OUTS: `count` elements, one after the other. */
	for (u32 i = 0; i < run->io.count; i++, data += size) {
		u32 value = 0;
		vcpu->counters.port_io++;
		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&value, data, size);
			bus_write_pio(bus, run->io.port, size, value);
		} else {
			value = bus_read_pio(bus, run->io.port, size);
			memcpy(data, &value, size);
		}
	}
}

static void handle_mmio(struct engine_vcpu *vcpu)
{
	struct kvm_run *run = vcpu->run;
	struct bus *bus = vcpu->engine->board->bus;
	u64 gpa = run->mmio.phys_addr;
	/* KVM passes on what one instruction did within a page, up to 8 bytes, of any length; devices know powers of 2.
	 */
	for (unsigned at = 0, size; at < run->mmio.len; at += size) {
		unsigned left = run->mmio.len - at;
		size = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
		u64 value = 0;
		vcpu->counters.mmio++;
		if (run->mmio.is_write) {
			memcpy(&value, &run->mmio.data[at], size);
			bus_write_mmio(bus, gpa + at, size, value);
		} else {
			value = bus_read_mmio(bus, gpa + at, size);
			memcpy(&run->mmio.data[at], &value, size);
		}
	}
}

static void report_internal_error(struct engine_vcpu *vcpu)
{
	static const char *const suberrors[] = {
		[KVM_INTERNAL_ERROR_EMULATION] = "could not emulate an instruction",
		[KVM_INTERNAL_ERROR_SIMUL_EX] = "met an exception while it delivered another",
		[KVM_INTERNAL_ERROR_DELIVERY_EV] = "could not deliver an event",
		[KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON] = "met a VM exit it does not know",
	};
	const struct kvm_run *run = vcpu->run;
	u32 suberror = run->internal.suberror;
	const char *what = suberror < ARRAY_SIZE(suberrors) ? suberrors[suberror] : NULL;
	struct x86_state state = { 0 };
	char bytes[3 * 15 + 1] = "";
	kvm_state_get(vcpu->fd, &state);
	if (suberror == KVM_INTERNAL_ERROR_EMULATION && run->emulation_failure.ndata >= 1 &&
	    (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
		unsigned count = run->emulation_failure.insn_size;
		for (unsigned i = 0; i < count && i < 15; i++)
			sprintf(bytes + 3 * i, " %02x", run->emulation_failure.insn_bytes[i]);
	}
	FAILED("CPU %u: the host's KVM %s (suberror %u) at %04x:%llx%s%s", vcpu->index, what ? what : "failed",
	       suberror, state.seg[SEG_CS].selector, (unsigned long long)state.rip, bytes[0] ? ", bytes" : "", bytes);
}

static enum engine_stop failed_exit(struct engine_vcpu *vcpu)
{
	const struct kvm_run *run = vcpu->run;
	switch (run->exit_reason) {
	case KVM_EXIT_INTERNAL_ERROR:
		report_internal_error(vcpu);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		FAILED("CPU %u: the processor refused the VM entry (hardware reason 0x%llx)", vcpu->index,
		       (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		FAILED("CPU %u: system event %u of a paravirtual interface that Strata does not offer", vcpu->index,
		       run->system_event.type);
		break;
	default:
		FAILED("CPU %u: exit reason %u, which Strata does not handle", vcpu->index, run->exit_reason);
		break;
	}
	return ENGINE_STOP_FAILED;
}

/* true: on with the guest; false: *stop says why not. */
static bool handle_exit(struct engine_vcpu *vcpu, enum engine_stop *stop)
{
	switch (vcpu->run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(vcpu);
		return true;
	case KVM_EXIT_MMIO:
		handle_mmio(vcpu);
		return true;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		return true;
	case KVM_EXIT_HLT:
		/* Only without an in-kernel local APIC; the kernel waits by itself otherwise. */
		vcpu->counters.halts++;
		return true;
	case KVM_EXIT_SHUTDOWN:
		*stop = ENGINE_STOP_TRIPLE_FAULT;
		return false;
	default:
		*stop = failed_exit(vcpu);
		return false;
	}
}

/* --- Run and kick --- */

static enum engine_stop kvm_run_loop(struct engine_vcpu *vcpu)
{
	for (;;) {
		/*
		 * With immediate_exit the kernel completes the access of the last exit and returns at once, so that a
		 * stopped CPU never holds half an instruction.
		 */
		int result = ioctl(vcpu->fd, KVM_RUN, NULL);
		int err = result < 0 ? errno : 0;
		if (err == EINTR || err == EAGAIN) {
			/* In this order: kick() sets them the other way round, so a kick is seen now or the next time.
			 */
			__atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
			if (__atomic_exchange_n(&vcpu->kicked, false, __ATOMIC_SEQ_CST))
				return ENGINE_STOP_KICKED;
			continue;
		}
		if (err) {
			FAILED("CPU %u: KVM_RUN: %s", vcpu->index, strerror(err));
			return ENGINE_STOP_FAILED;
		}
		enum engine_stop stop;
		if (!handle_exit(vcpu, &stop))
			return stop;
	}
}

static enum engine_stop kvm_run_vcpu(struct engine_vcpu *vcpu)
{
	vcpu->thread = pthread_self();
	__atomic_store_n(&vcpu->running, true, __ATOMIC_SEQ_CST);
	enum engine_stop stop = kvm_run_loop(vcpu);
	__atomic_store_n(&vcpu->running, false, __ATOMIC_SEQ_CST);
	return stop;
}

/*
 * immediate_exit catches a CPU that is about to enter the kernel, the signal one that is already there. A kick that
 * comes while run() has just returned makes the next run() return at once.
 */
static void kvm_kick(struct engine_vcpu *vcpu)
{
	__atomic_store_n(&vcpu->kicked, true, __ATOMIC_SEQ_CST);
	__atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&vcpu->running, __ATOMIC_SEQ_CST) && !pthread_equal(vcpu->thread, pthread_self()))
		pthread_kill(vcpu->thread, KVM_KICK_SIGNAL);
}

static void kvm_irq(struct engine *engine, unsigned gsi, bool level)
{
	struct kvm_irq_level line = { .irq = gsi, .level = level };
	int err = kvm_ioctl(engine->vm_fd, KVM_IRQ_LINE, &line);
	if (err < 0)
		REPORT("interrupt line %u: %s", gsi, strerror(-err));
}

/* --- State --- */

static struct engine_vcpu *kvm_vcpu(struct engine *engine, unsigned index)
{
	return &engine->vcpus[index];
}

static void kvm_get_state(struct engine_vcpu *vcpu, struct x86_state *state)
{
	int err = kvm_state_get(vcpu->fd, state);
	if (err < 0) {
		FAILED("CPU %u: reading registers: %s", vcpu->index, strerror(-err));
		memset(state, 0, sizeof *state);
	}
}

static void kvm_set_state(struct engine_vcpu *vcpu, const struct x86_state *state)
{
	int err = kvm_state_set(vcpu->fd, state);
	if (err < 0)
		FAILED("CPU %u: setting registers: %s", vcpu->index, strerror(-err));
}

/* The chips are reset with the first CPU. */
static void kvm_reset(struct engine_vcpu *vcpu)
{
	struct engine *engine = vcpu->engine;
	struct x86_state state;
	int err = vcpu->index == 0 ? kvm_vm_restore(engine->vm_fd, engine->after_reset) : 0;
	if (err >= 0)
		err = kvm_vcpu_restore(vcpu->fd, vcpu->after_reset);
	if (err < 0)
		FAILED("CPU %u: resetting: %s", vcpu->index, strerror(-err));
	x86_state_reset(&state, KVM_CPU_SIGNATURE);
	kvm_set_state(vcpu, &state);
}

static const struct counters *kvm_counters(struct engine_vcpu *vcpu)
{
	return &vcpu->counters;
}

static void kvm_dump(struct engine_vcpu *vcpu, void (*emit)(void *opaque, const char *line), void *opaque)
{
	struct x86_state state;
	kvm_get_state(vcpu, &state);
	x86_state_print(&state, emit, opaque);
}

/* Running, and a reset on the way. */
static const unsigned long run_time_ioctls[] = {
	KVM_RUN,           KVM_IRQ_LINE,        KVM_GET_REGS,     KVM_SET_REGS,
	KVM_GET_SREGS,     KVM_SET_SREGS,       KVM_SET_PIT2,     KVM_SET_IRQCHIP,
	KVM_SET_MSRS,      KVM_SET_LAPIC,       KVM_SET_XCRS,     KVM_SET_FPU,
	KVM_SET_DEBUGREGS, KVM_SET_VCPU_EVENTS, KVM_SET_MP_STATE, 0,
};

const struct engine_ops engine_kvm = {
	.name = "kvm",
	.has_irqchip = true,
	.probe = kvm_probe,
	.create = kvm_create,
	.destroy = kvm_destroy,
	.vcpu = kvm_vcpu,
	.get_state = kvm_get_state,
	.set_state = kvm_set_state,
	.run = kvm_run_vcpu,
	.kick = kvm_kick,
	.reset = kvm_reset,
	.irq = kvm_irq,
	.ioctls = run_time_ioctls,
	.counters = kvm_counters,
	.dump = kvm_dump,
};
