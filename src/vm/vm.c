#include "vm/vm.h"

#include "base/trace.h"
#include "vm/board.h"
#include "vm/boot.h"
#include "vm/firmware.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/timerfd.h>
#include <unistd.h>

/*
 * Threads. The device thread (vm_run()'s caller) waits in poll() for the clock's next deadline, console input and
 * requests. CPU threads run the engine; every one of them passes through three states:
 *
 *	parked  -- device thread says go -->  running  -- engine stops -->  parked
 *
 * A request (power off, reset, stop …) is recorded once under vm->lock; whoever records it kicks all CPUs and wakes
 * the device thread, which waits until all are parked and then acts. Lock order: board lock before vm->lock.
 */

enum { ESCAPE_KEY = 0x1d, OUTPUT_BUFFER = 4096 };
#define OUTPUT_DELAY_NS (5 * NS_PER_SEC / 1000)

struct cpu_thread {
	struct vm *vm;
	struct engine_vcpu *vcpu;
	unsigned index;
	pthread_t thread;
	bool started; /* the thread exists */
};

struct vm {
	struct vm_config config;
	struct board board;
	struct engine_board engine_board;
	struct engine *engine;
	struct cpu_thread cpu[VM_MAX_CPUS];

	pthread_mutex_t lock;
	pthread_cond_t changed; /* of the three below */
	unsigned running;       /* CPU threads not parked */
	u64 round;              /* counts the device thread's "go"s */
	bool quit;              /* CPU threads shall end */

	/* The guest's or user's wish; the first one counts until it is served. */
	bool requested, want_reset, want_suspend;
	struct vm_result result;

	bool stop_asked;  /* vm_stop(); atomic */
	bool board_ready; /* board_init() succeeded */
	int wake_fd, timer_fd;
	u64 timer_set;    /* deadline the timer_fd is set to; board lock */
	bool input_ended; /* end of file on serial_in */
	/* Console output on its way; board lock. */
	u8 output[OUTPUT_BUFFER];
	size_t output_size;
	struct timer output_timer;
};

static bool fail(struct vm_error *error, enum vm_status status, const char *fmt, ...) PRINTF_LIKE(3, 4);
static bool fail(struct vm_error *error, enum vm_status status, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(error->text, sizeof error->text, fmt, ap);
	va_end(ap);
	error->status = status;
	return false;
}

static void wake_device_thread(struct vm *vm)
{
	u64 one = 1;
	ssize_t done = write(vm->wake_fd, &one, sizeof one); /* can only fail when already readable */
	(void)done;
}

/* --- requests --- */

static void kick_all(struct vm *vm)
{
	for (unsigned i = 0; i < vm->config.cpus; i++)
		vm->config.engine->kick(vm->cpu[i].vcpu);
}

static void request(struct vm *vm, enum vm_end end, int status)
{
	pthread_mutex_lock(&vm->lock);
	bool first = !vm->requested;
	if (first) {
		vm->requested = true;
		vm->result.end = end;
		vm->result.status = status;
	}
	pthread_mutex_unlock(&vm->lock);
	if (!first)
		return;
	kick_all(vm);
	wake_device_thread(vm);
}

static void on_power_off(void *opaque)
{
	request(opaque, VM_POWERED_OFF, VM_STATUS_OK);
}

static void on_reset(void *opaque)
{
	struct vm *vm = opaque;
	pthread_mutex_lock(&vm->lock);
	vm->want_reset |= !vm->requested;
	pthread_mutex_unlock(&vm->lock);
	kick_all(vm);
	wake_device_thread(vm);
}

static void on_suspend(void *opaque)
{
	struct vm *vm = opaque;
	pthread_mutex_lock(&vm->lock);
	vm->want_suspend |= !vm->requested;
	pthread_mutex_unlock(&vm->lock);
	kick_all(vm);
	wake_device_thread(vm);
}

static void on_debug_exit(void *opaque, int status)
{
	request(opaque, VM_DEBUG_EXIT, status);
}

/* --- the console --- */

/* Writes what is buffered, however long the other side takes; a closed other side gets no more. */
static void flush_output(struct vm *vm)
{
	size_t done = 0;
	timer_disarm(&vm->output_timer);
	while (done < vm->output_size && vm->config.serial_out >= 0) {
		ssize_t n = write(vm->config.serial_out, vm->output + done, vm->output_size - done);
		if (n > 0) {
			done += (size_t)n;
		} else if (n < 0 && errno == EAGAIN) {
			struct pollfd fd = { vm->config.serial_out, POLLOUT, 0 };
			poll(&fd, 1, 100);
		} else if (n < 0 && errno != EINTR) {
			vm->config.serial_out = -1;
		}
	}
	vm->output_size = 0;
}

static void on_output_timer(void *opaque)
{
	flush_output(opaque);
}

/* A line is written as one; a prompt without its end after a moment. */
static size_t on_console_output(void *opaque, const u8 *bytes, size_t n)
{
	struct vm *vm = opaque;
	for (size_t i = 0; i < n; i++) {
		vm->output[vm->output_size++] = bytes[i];
		if (bytes[i] == '\n' || vm->output_size == sizeof vm->output)
			flush_output(vm);
	}
	if (vm->output_size && vm->output_timer.deadline == CLOCK_NEVER)
		timer_arm(&vm->output_timer, clock_now(&vm->board.clock) + OUTPUT_DELAY_NS);
	return n;
}

static void on_console_room(void *opaque)
{
	wake_device_thread(opaque);
}

static const struct board_ops board_ops = {
	.power_off = on_power_off,
	.reset = on_reset,
	.suspend = on_suspend,
	.debug_exit = on_debug_exit,
	.console_output = on_console_output,
	.console_room = on_console_room,
};

static void receive_input(struct vm *vm)
{
	u8 bytes[256];
	bus_lock(&vm->board.bus);
	size_t room = uart_room(&vm->board.com1);
	bus_unlock(&vm->board.bus);
	ssize_t n = read(vm->config.serial_in, bytes, room < sizeof bytes ? room : sizeof bytes);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		vm->input_ended = true;
		return;
	}
	const u8 *escape = vm->config.escape ? memchr(bytes, ESCAPE_KEY, (size_t)n) : NULL;
	bus_lock(&vm->board.bus);
	uart_receive(&vm->board.com1, bytes, escape ? (size_t)(escape - bytes) : (size_t)n);
	bus_unlock(&vm->board.bus);
	if (escape)
		request(vm, VM_LEFT, VM_STATUS_OK);
}

/* --- the CPU threads --- */

static void emit_line(void *opaque, const char *line)
{
	(void)opaque;
	fprintf(stderr, "strata: %s\n", line);
}

static void report_triple_fault(struct vm *vm, struct cpu_thread *cpu)
{
	fprintf(stderr,
		"strata: CPU %u: triple fault: an exception could not be delivered, nor the double fault after "
		"it. State:\n",
		cpu->index);
	vm->config.engine->dump(cpu->vcpu, emit_line, NULL);
	request(vm, VM_TRIPLE_FAULT, VM_STATUS_DIED);
}

/* Parks until the next round; false when the thread shall end. */
static bool wait_for_go(struct vm *vm, u64 *round)
{
	pthread_mutex_lock(&vm->lock);
	while (vm->round == *round && !vm->quit)
		pthread_cond_wait(&vm->changed, &vm->lock);
	*round = vm->round;
	bool go = !vm->quit;
	pthread_mutex_unlock(&vm->lock);
	return go;
}

static void park(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->running--;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	wake_device_thread(vm);
}

static bool stop_wanted(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	bool wanted = vm->requested || vm->want_reset || vm->want_suspend;
	pthread_mutex_unlock(&vm->lock);
	return wanted;
}

static void *cpu_main(void *opaque)
{
	struct cpu_thread *cpu = opaque;
	struct vm *vm = cpu->vm;
	u64 round = 0;
	while (wait_for_go(vm, &round)) {
		while (!stop_wanted(vm)) {
			switch (vm->config.engine->run(cpu->vcpu)) {
			case ENGINE_STOP_KICKED:
				break;
			case ENGINE_STOP_TRIPLE_FAULT:
				report_triple_fault(vm, cpu);
				break;
			case ENGINE_STOP_FAILED:
				request(vm, VM_FAILED, VM_STATUS_FAILED);
				break;
			}
		}
		park(vm);
	}
	return NULL;
}

static void let_cpus_go(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->want_reset = vm->want_suspend = false;
	vm->running = vm->config.cpus;
	vm->round++;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
}

static void wait_until_parked(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	while (vm->running)
		pthread_cond_wait(&vm->changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
}

/* --- the device thread --- */

/* Sets the timer only if it would ring too late; if it rings too early, the next deadline is set then. */
static void on_deadline_changed(void *opaque, u64 deadline)
{
	struct vm *vm = opaque;
	if (deadline >= vm->timer_set)
		return;
	u64 now = clock_now(&vm->board.clock);
	u64 wait = deadline > now ? deadline - now : 1;
	struct itimerspec at = { .it_value = { (time_t)(wait / NS_PER_SEC), (long)(wait % NS_PER_SEC) } };
	vm->timer_set = deadline;
	timerfd_settime(vm->timer_fd, 0, &at, NULL);
}

static void run_timers(struct vm *vm)
{
	u64 expirations;
	ssize_t n = read(vm->timer_fd, &expirations, sizeof expirations);
	(void)n;
	bus_lock(&vm->board.bus);
	vm->timer_set = CLOCK_NEVER;
	clock_run_due(&vm->board.clock); /* tells on_deadline_changed() what comes next */
	bus_unlock(&vm->board.bus);
}

static bool input_wanted(struct vm *vm)
{
	if (vm->config.serial_in < 0 || vm->input_ended)
		return false;
	bus_lock(&vm->board.bus);
	bool room = uart_room(&vm->board.com1) > 0;
	bus_unlock(&vm->board.bus);
	return room;
}

static void take_stop(struct vm *vm)
{
	if (__atomic_exchange_n(&vm->stop_asked, false, __ATOMIC_SEQ_CST))
		request(vm, VM_STOPPED, VM_STATUS_OK);
}

/* Waits for timers, input and requests, and serves those that came. */
static void serve_once(struct vm *vm)
{
	struct pollfd fd[] = {
		{ vm->wake_fd, POLLIN, 0 },
		{ vm->timer_fd, POLLIN, 0 },
		{ input_wanted(vm) ? vm->config.serial_in : -1, POLLIN, 0 },
	};
	if (poll(fd, ARRAY_SIZE(fd), -1) < 0)
		return;
	if (fd[0].revents) {
		u64 count;
		ssize_t n = read(vm->wake_fd, &count, sizeof count);
		(void)n;
		take_stop(vm);
	}
	if (fd[1].revents)
		run_timers(vm);
	if (fd[2].revents)
		receive_input(vm);
}

static void serve_devices(struct vm *vm)
{
	while (!stop_wanted(vm))
		serve_once(vm);
	/* A guest that resets at once, each time, would else never let the loop look. */
	take_stop(vm);
}

/* --- booting --- */

/* The guest has its own copy, and a reset can have the file's pages once more. */
static void release(const struct vm_file *file)
{
	if (file->mapped)
		madvise((void *)file->data, file->size, MADV_DONTNEED);
}

/* What firmware and a boot loader would do. */
static bool boot(struct vm *vm, struct vm_error *error)
{
	struct boot b = {
		.mem = &vm->board.mem,
		.kernel = &vm->config.kernel,
		.initrd = &vm->config.initrd,
		.module = vm->config.module,
		.modules = vm->config.modules,
		.cmdline = vm->config.append,
		.rsdp = firmware_leave_behind(&vm->board),
		.error = error,
	};
	if (!boot_load(&b))
		return false;
	release(&vm->config.kernel);
	release(&vm->config.initrd);
	for (unsigned i = 0; i < vm->config.modules; i++)
		release(&vm->config.module[i].file);
	for (unsigned i = 0; i < vm->config.cpus; i++)
		vm->config.engine->reset(vm->cpu[i].vcpu);
	vm->config.engine->set_state(vm->cpu[0].vcpu, &b.state);
	return true;
}

/* All CPUs are parked. */
static bool reset(struct vm *vm)
{
	struct vm_error error;
	vm->result.resets++;
	REPORT("resets the machine");
	bus_lock(&vm->board.bus);
	flush_output(vm);
	board_reset(&vm->board);
	bus_unlock(&vm->board.bus);
	if (boot(vm, &error))
		return true;
	fprintf(stderr, "strata: cannot boot again: %s\n", error.text);
	request(vm, VM_FAILED, VM_STATUS_FAILED);
	return false;
}

/* --- suspend to memory --- */

static bool asleep(struct vm *vm)
{
	bus_lock(&vm->board.bus);
	bool asleep = vm->board.pm.asleep;
	bus_unlock(&vm->board.bus);
	return asleep;
}

static void resume(struct vm *vm)
{
	struct x86_state state;
	firmware_resume(&vm->board, &state);
	for (unsigned i = 0; i < vm->config.cpus; i++)
		vm->config.engine->reset(vm->cpu[i].vcpu);
	bus_lock(&vm->board.bus);
	board_resume(&vm->board);
	bus_unlock(&vm->board.bus);
	vm->config.engine->set_state(vm->cpu[0].vcpu, &state);
}

/* All CPUs are parked. false: the machine's end was requested before anything woke it. */
static bool suspend(struct vm *vm)
{
	REPORT("suspends the machine to memory");
	bus_lock(&vm->board.bus);
	flush_output(vm);
	board_suspend(&vm->board);
	bus_unlock(&vm->board.bus);
	pthread_mutex_lock(&vm->lock);
	vm->want_suspend = false;
	pthread_mutex_unlock(&vm->lock);
	while (!stop_wanted(vm) && asleep(vm))
		serve_once(vm);
	take_stop(vm);
	if (vm->requested)
		return false;
	resume(vm);
	return true;
}

void vm_run(struct vm *vm, struct vm_result *result)
{
	u64 start = clock_now(&vm->board.clock);
	for (;;) {
		let_cpus_go(vm);
		serve_devices(vm);
		wait_until_parked(vm);
		bool goes_on = !vm->requested && (vm->want_reset || !vm->want_suspend ? reset(vm) : suspend(vm));
		if (!goes_on)
			break;
	}
	bus_lock(&vm->board.bus);
	flush_output(vm);
	bus_unlock(&vm->board.bus);
	*result = vm->result;
	result->run_ns = clock_now(&vm->board.clock) - start;
}

void vm_stop(struct vm *vm)
{
	__atomic_store_n(&vm->stop_asked, true, __ATOMIC_SEQ_CST);
	wake_device_thread(vm);
}

const struct counters *vm_counters(const struct vm *vm, unsigned cpu)
{
	return cpu < vm->config.cpus ? vm->config.engine->counters(vm->cpu[cpu].vcpu) : NULL;
}

/* --- life cycle --- */

static bool check_config(const struct vm_config *config, struct vm_error *error)
{
	u64 host = (u64)sysconf(_SC_PHYS_PAGES) * (u64)sysconf(_SC_PAGESIZE);
	if (config->memory < VM_MIN_MEMORY || config->memory % PAGE_SIZE)
		return fail(
			error, VM_STATUS_BAD_INPUT,
			"a memory size of %llu bytes is not possible: it must be a multiple of 4 KiB, 2 MiB at least",
			(unsigned long long)config->memory);
	if (config->memory > host)
		return fail(error, VM_STATUS_BAD_INPUT, "a memory size of %llu MiB is more than the host's %llu MiB",
			    (unsigned long long)(config->memory >> 20), (unsigned long long)(host >> 20));
	if (config->cpus < 1 || config->cpus > VM_MAX_CPUS)
		return fail(error, VM_STATUS_BAD_INPUT, "%u CPUs are not possible: 1 to %d", config->cpus, VM_MAX_CPUS);
	return true;
}

bool vm_check(const struct vm_config *config, struct vm_error *error)
{
	struct mem mem;
	if (!check_config(config, error))
		return false;
	int err = mem_init(&mem, config->memory);
	if (err)
		return fail(error, VM_STATUS_FAILED, "cannot map guest memory: %s", strerror(-err));
	struct boot b = {
		.mem = &mem,
		.kernel = &config->kernel,
		.initrd = &config->initrd,
		.module = config->module,
		.modules = config->modules,
		.cmdline = config->append,
		.error = error,
	};
	bool loads = boot_load(&b);
	mem_destroy(&mem);
	return loads;
}

static bool open_descriptors(struct vm *vm, struct vm_error *error)
{
	vm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vm->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (vm->wake_fd >= 0 && vm->timer_fd >= 0)
		return true;
	return fail(error, VM_STATUS_FAILED, "cannot create event descriptors: %s", strerror(errno));
}

static bool create_engine(struct vm *vm, struct vm_error *error)
{
	const struct engine_ops *ops = vm->config.engine;
	vm->engine_board = (struct engine_board){
		.mem = &vm->board.mem,
		.bus = &vm->board.bus,
		.clock = &vm->board.clock,
		.cpus = vm->config.cpus,
		.tsc_khz = BOARD_TSC_KHZ,
		.nested = vm->config.nested,
		.translation = vm->config.translation,
		.lapics = ops->has_irqchip ? NULL : vm->board.lapics,
	};
	vm->engine_board.choice = vm->config.choice;
	int err = ops->create(&vm->engine_board, &vm->engine);
	if (err)
		return fail(error, VM_STATUS_FAILED, "engine %s cannot start: %s", ops->name, strerror(-err));
	vm->board.engine = vm->engine;
	for (unsigned i = 0; i < vm->config.cpus; i++)
		vm->cpu[i] = (struct cpu_thread){ .vm = vm, .vcpu = ops->vcpu(vm->engine, i), .index = i };
	return true;
}

static bool start_threads(struct vm *vm, struct vm_error *error)
{
	for (unsigned i = 0; i < vm->config.cpus; i++) {
		int err = pthread_create(&vm->cpu[i].thread, NULL, cpu_main, &vm->cpu[i]);
		if (err)
			return fail(error, VM_STATUS_FAILED, "cannot start a CPU's thread: %s", strerror(err));
		vm->cpu[i].started = true;
	}
	return true;
}

struct vm *vm_create(const struct vm_config *config, struct vm_error *error)
{
	if (!check_config(config, error))
		return NULL;
	struct vm *vm = calloc(1, sizeof *vm);
	if (!vm) {
		fail(error, VM_STATUS_FAILED, "out of memory");
		return NULL;
	}
	vm->config = *config;
	vm->wake_fd = vm->timer_fd = -1;
	vm->timer_set = CLOCK_NEVER;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
	vm->board_ready = board_init(&vm->board, config, &board_ops, vm, error);
	if (vm->board_ready && open_descriptors(vm, error) && create_engine(vm, error)) {
		timer_init(&vm->output_timer, &vm->board.clock, on_output_timer, vm);
		vm->board.clock.rearm = on_deadline_changed;
		vm->board.clock.rearm_opaque = vm;
		bus_lock(&vm->board.bus);
		board_reset(&vm->board);
		bus_unlock(&vm->board.bus);
		if (boot(vm, error) && start_threads(vm, error))
			return vm;
	}
	vm_destroy(vm);
	return NULL;
}

static void end_threads(struct vm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->quit = true;
	pthread_cond_broadcast(&vm->changed);
	pthread_mutex_unlock(&vm->lock);
	for (unsigned i = 0; i < vm->config.cpus; i++)
		if (vm->cpu[i].started)
			pthread_join(vm->cpu[i].thread, NULL);
}

void vm_destroy(struct vm *vm)
{
	if (!vm)
		return;
	end_threads(vm);
	if (vm->engine)
		vm->config.engine->destroy(vm->engine);
	if (vm->board_ready)
		board_destroy(&vm->board);
	if (vm->wake_fd >= 0)
		close(vm->wake_fd);
	if (vm->timer_fd >= 0)
		close(vm->timer_fd);
	pthread_cond_destroy(&vm->changed);
	pthread_mutex_destroy(&vm->lock);
	free(vm);
}
