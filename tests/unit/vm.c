/* The life of a VM, with an engine that runs a script instead of guest code. */
#include "vm/vm.h"
#include "boot_images.h"
#include "vm/board.h"

#include <errno.h>
#include <glib-unix.h>
#include <glib.h>
#include <string.h>
#include <unistd.h>

/* --- the scripted engine --- */

struct engine_vcpu {
	struct engine *engine;
	struct x86_state state;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	bool kicked;
	unsigned runs, resets;
};

struct engine {
	const struct engine_board *board;
	struct engine_vcpu vcpu;
};

/* What the "CPU" does when it runs; returns as engine_ops.run does. One test at a time. */
static enum engine_stop (*script)(struct engine_vcpu *vcpu);
static bool creation_fails;

static int fake_create(const struct engine_board *board, struct engine **engine)
{
	if (creation_fails)
		return -ENODEV;
	*engine = g_new0(struct engine, 1);
	(*engine)->board = board;
	(*engine)->vcpu.engine = *engine;
	pthread_mutex_init(&(*engine)->vcpu.lock, NULL);
	pthread_cond_init(&(*engine)->vcpu.wake, NULL);
	return 0;
}

static void fake_destroy(struct engine *engine)
{
	g_free(engine);
}

static struct engine_vcpu *fake_vcpu(struct engine *engine, unsigned index)
{
	return &engine->vcpu;
}

static void fake_set_state(struct engine_vcpu *vcpu, const struct x86_state *state)
{
	vcpu->state = *state;
}

static enum engine_stop fake_run(struct engine_vcpu *vcpu)
{
	vcpu->runs++;
	return script(vcpu);
}

static void fake_kick(struct engine_vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	vcpu->kicked = true;
	pthread_cond_signal(&vcpu->wake);
	pthread_mutex_unlock(&vcpu->lock);
}

static void fake_reset(struct engine_vcpu *vcpu)
{
	vcpu->resets++;
}

static const struct counters *fake_counters(struct engine_vcpu *vcpu)
{
	return NULL;
}

static void fake_dump(struct engine_vcpu *vcpu, void (*emit)(void *opaque, const char *line), void *opaque)
{
	emit(opaque, "the state of the CPU");
}

static const struct engine_ops fake = {
	.name = "fake",
	.create = fake_create,
	.destroy = fake_destroy,
	.vcpu = fake_vcpu,
	.set_state = fake_set_state,
	.run = fake_run,
	.kick = fake_kick,
	.reset = fake_reset,
	.counters = fake_counters,
	.dump = fake_dump,
};

static void out(struct engine_vcpu *vcpu, u16 port, unsigned size, u32 value)
{
	bus_write_pio(vcpu->engine->board->bus, port, size, value);
}

static u32 in(struct engine_vcpu *vcpu, u16 port, unsigned size)
{
	return bus_read_pio(vcpu->engine->board->bus, port, size);
}

static enum engine_stop wait_for_kick(struct engine_vcpu *vcpu)
{
	pthread_mutex_lock(&vcpu->lock);
	while (!vcpu->kicked)
		pthread_cond_wait(&vcpu->wake, &vcpu->lock);
	vcpu->kicked = false;
	pthread_mutex_unlock(&vcpu->lock);
	return ENGINE_STOP_KICKED;
}

static void type(struct engine_vcpu *vcpu, const char *text)
{
	while (*text) {
		while (!(in(vcpu, COM1_BASE + 5, 1) & 0x20))
			;
		out(vcpu, COM1_BASE, 1, (u8)*text++);
	}
}

/* --- a VM around it --- */

static u8 kernel[IMAGE_BYTES];

static struct vm_config config_of(void)
{
	memset(kernel, 0, sizeof kernel);
	return (struct vm_config){
		.engine = &fake,
		.memory = 32 << 20,
		.cpus = 1,
		.kernel = { .name = "kernel", .data = kernel, .size = image_bzimage(kernel) },
		.serial_out = -1,
		.serial_in = -1,
		.debug_exit_port = -1,
	};
}

static struct vm_result run(const struct vm_config *config)
{
	struct vm_error error;
	struct vm_result result;
	struct vm *vm = vm_create(config, &error);
	if (!vm)
		g_error("vm_create: %s", error.text);
	vm_run(vm, &result);
	vm_destroy(vm);
	return result;
}

static enum engine_stop power_off(struct engine_vcpu *vcpu)
{
	out(vcpu, PM_PM1_CNT, 2, PM_SLEEP_S5 << 10 | 1 << 13);
	return wait_for_kick(vcpu);
}

static void s5_powers_off(void)
{
	struct vm_config config = config_of();
	script = power_off;
	struct vm_result result = run(&config);
	g_assert_cmpint(result.end, ==, VM_POWERED_OFF);
	g_assert_cmpint(result.status, ==, 0);
	g_assert_cmpuint(result.resets, ==, 0);
}

static enum engine_stop debug_exit_3(struct engine_vcpu *vcpu)
{
	out(vcpu, 0xf4, 4, 3);
	return wait_for_kick(vcpu);
}

static void debug_exit_gives_the_status(void)
{
	struct vm_config config = config_of();
	config.debug_exit_port = 0xf4;
	script = debug_exit_3;
	struct vm_result result = run(&config);
	g_assert_cmpint(result.end, ==, VM_DEBUG_EXIT);
	g_assert_cmpint(result.status, ==, 7);
}

static enum engine_stop die(struct engine_vcpu *vcpu)
{
	return ENGINE_STOP_TRIPLE_FAULT;
}

static void triple_fault_has_status_9(void)
{
	struct vm_config config = config_of();
	script = die;
	struct vm_result result = run(&config);
	g_assert_cmpint(result.end, ==, VM_TRIPLE_FAULT);
	g_assert_cmpint(result.status, ==, 9);
}

static enum engine_stop break_down(struct engine_vcpu *vcpu)
{
	return ENGINE_STOP_FAILED;
}

static void engine_failure_has_status_1(void)
{
	struct vm_config config = config_of();
	script = break_down;
	g_assert_cmpint(run(&config).status, ==, 1);
}

/* Resets by each of the ways there are, then powers off; every boot must find kernel and boot CPU fresh. */
static enum engine_stop reset_four_ways(struct engine_vcpu *vcpu)
{
	struct mem *mem = vcpu->engine->board->mem;
	u8 first;
	g_assert_cmpuint(vcpu->runs, ==, vcpu->resets);
	g_assert_cmphex(vcpu->state.rip, ==, (16 << 20) + 0x200);
	g_assert_true(mem_read(mem, 16 << 20, &first, 1));
	g_assert_cmphex(first, ==, kernel[SETUP_BYTES]);
	g_assert_cmphex(in(vcpu, COM1_BASE + 7, 1), ==, 0); /* the scratch register, cleared by RESET */
	out(vcpu, COM1_BASE + 7, 1, 0x5a);
	first = 0xee;
	mem_write(mem, 16 << 20, &first, 1);
	memset(&vcpu->state, 0, sizeof vcpu->state);
	switch (vcpu->runs) {
	case 1:
		out(vcpu, 0x64, 1, 0xfe);
		break;
	case 2:
		out(vcpu, 0xcf9, 1, 0x02);
		out(vcpu, 0xcf9, 1, 0x06);
		break;
	case 3:
		out(vcpu, 0xcf9, 1, 0x0e);
		break;
	case 4:
		out(vcpu, 0x92, 1, 0x01);
		break;
	default:
		out(vcpu, PM_PM1_CNT, 2, PM_SLEEP_S5 << 10 | 1 << 13);
	}
	return wait_for_kick(vcpu);
}

static void resets_boot_again(void)
{
	struct vm_config config = config_of();
	script = reset_four_ways;
	struct vm_result result = run(&config);
	g_assert_cmpint(result.end, ==, VM_POWERED_OFF);
	g_assert_cmpuint(result.resets, ==, 4);
}

/* --- the console --- */

static enum engine_stop say_all_bytes(struct engine_vcpu *vcpu)
{
	for (unsigned i = 0; i < 256; i++) {
		while (!(in(vcpu, COM1_BASE + 5, 1) & 0x20))
			;
		out(vcpu, COM1_BASE, 1, i);
	}
	return power_off(vcpu);
}

static void serial_output_is_unchanged_and_complete(void)
{
	struct vm_config config = config_of();
	int fd[2];
	u8 bytes[512];
	g_assert_true(g_unix_open_pipe(fd, 0, NULL));
	config.serial_out = fd[1];
	script = say_all_bytes;
	run(&config);
	g_assert_cmpint(read(fd[0], bytes, sizeof bytes), ==, 256);
	for (unsigned i = 0; i < 256; i++)
		g_assert_cmpuint(bytes[i], ==, i);
	close(fd[0]);
	close(fd[1]);
}

static enum engine_stop prompt_and_wait(struct engine_vcpu *vcpu)
{
	type(vcpu, "login: ");
	return wait_for_kick(vcpu);
}

static void *read_prompt_then_leave(void *opaque)
{
	int *fd = opaque;
	char text[16] = "";
	size_t n = 0;
	while (n < 7) {
		ssize_t got = read(fd[0], text + n, sizeof text - n);
		g_assert_cmpint(got, >, 0);
		n += (size_t)got;
	}
	g_assert_cmpstr(text, ==, "login: ");
	g_assert_cmpint(write(fd[3], "\x1d", 1), ==, 1);
	return NULL;
}

static void a_prompt_comes_out_and_ctrl_bracket_leaves(void)
{
	struct vm_config config = config_of();
	int fd[4];
	g_assert_true(g_unix_open_pipe(fd, 0, NULL));
	g_assert_true(g_unix_open_pipe(fd + 2, 0, NULL));
	config.serial_out = fd[1];
	config.serial_in = fd[2];
	config.escape = true;
	script = prompt_and_wait;
	GThread *user = g_thread_new("user", read_prompt_then_leave, fd);
	struct vm_result result = run(&config);
	g_thread_join(user);
	g_assert_cmpint(result.end, ==, VM_LEFT);
	g_assert_cmpint(result.status, ==, 0);
	for (unsigned i = 0; i < 4; i++)
		close(fd[i]);
}

static enum engine_stop echo_until_dot(struct engine_vcpu *vcpu)
{
	u8 byte;
	do {
		while (!(in(vcpu, COM1_BASE + 5, 1) & 1))
			g_usleep(100);
		byte = (u8)in(vcpu, COM1_BASE, 1);
		char text[2] = { (char)byte, 0 };
		type(vcpu, text);
	} while (byte != '.');
	return power_off(vcpu);
}

static void serial_input_arrives_in_order(void)
{
	struct vm_config config = config_of();
	int fd[4];
	char sent[10001], got[10001];
	for (unsigned i = 0; i < 10000; i++)
		sent[i] = (char)('a' + i % 26);
	sent[9999] = '.';
	g_assert_true(g_unix_open_pipe(fd, 0, NULL));
	g_assert_true(g_unix_open_pipe(fd + 2, 0, NULL));
	g_assert_cmpint(write(fd[3], sent, 10000), ==, 10000);
	close(fd[3]); /* end of file is the end of input, not of the guest */
	config.serial_out = fd[1];
	config.serial_in = fd[2];
	script = echo_until_dot;
	g_assert_cmpint(run(&config).end, ==, VM_POWERED_OFF);
	for (size_t n = 0; n < 10000;) {
		ssize_t more = read(fd[0], got + n, 10000 - n);
		g_assert_cmpint(more, >, 0);
		n += (size_t)more;
	}
	g_assert_cmpmem(got, 10000, sent, 10000);
	for (unsigned i = 0; i < 3; i++)
		close(fd[i]);
}

/* --- timers and stopping --- */

/* PIT channel 0, mode 0: its interrupt must reach the local APIC through the PIC while the "CPU" waits. */
static enum engine_stop wait_for_the_pit(struct engine_vcpu *vcpu)
{
	struct lapic *lapic = vcpu->engine->board->lapics[0];
	static const u8 init[][2] = { { 0x20, 0x11 }, { 0x21, 0x20 }, { 0x21, 4 },    { 0x21, 1 },
				      { 0x21, 0xfe }, { 0x43, 0x30 }, { 0x40, 0x00 }, { 0x40, 0x10 } };
	for (unsigned i = 0; i < G_N_ELEMENTS(init); i++)
		out(vcpu, init[i][0], 1, init[i][1]);
	while (!lapic_interrupt_pending(lapic))
		g_usleep(100);
	bus_lock(vcpu->engine->board->bus);
	g_assert_cmpint(lapic_ack_interrupt(lapic), ==, 0x20);
	bus_unlock(vcpu->engine->board->bus);
	return power_off(vcpu);
}

static void timers_run_while_the_cpu_waits(void)
{
	struct vm_config config = config_of();
	script = wait_for_the_pit;
	struct vm_result result = run(&config);
	g_assert_cmpint(result.end, ==, VM_POWERED_OFF);
	g_assert_cmpuint(result.run_ns, >=, 0x1000 * NS_PER_SEC / PIT_HZ);
}

static void *stop_soon(void *opaque)
{
	g_usleep(20000);
	vm_stop(opaque);
	return NULL;
}

static void vm_stop_ends_the_run(void)
{
	struct vm_config config = config_of();
	struct vm_error error;
	struct vm_result result;
	script = wait_for_kick;
	struct vm *vm = vm_create(&config, &error);
	g_assert_nonnull(vm);
	GThread *thread = g_thread_new("stopper", stop_soon, vm);
	vm_run(vm, &result);
	g_thread_join(thread);
	vm_destroy(vm);
	g_assert_cmpint(result.end, ==, VM_STOPPED);
}

/* --- bad configurations --- */

static void assert_refused(const struct vm_config *config, enum vm_status status, const char *part)
{
	struct vm_error error = { 0 };
	g_assert_null(vm_create(config, &error));
	g_assert_cmpint(error.status, ==, status);
	if (!strstr(error.text, part))
		g_error("expected \"%s\" in: %s", part, error.text);
}

static void impossible_configurations_are_refused(void)
{
	struct vm_config config = config_of();
	config.memory = 0;
	assert_refused(&config, VM_STATUS_BAD_INPUT, "memory size of 0");
	config.memory = (2 << 20) + 1;
	assert_refused(&config, VM_STATUS_BAD_INPUT, "multiple of 4 KiB");
	config.memory = 1ULL << 60;
	assert_refused(&config, VM_STATUS_BAD_INPUT, "more than the host's");
	config.memory = 8 << 20;
	assert_refused(&config, VM_STATUS_BAD_INPUT, "needs at least 21 MiB");
	config = config_of();
	config.cpus = 0;
	assert_refused(&config, VM_STATUS_BAD_INPUT, "CPUs");
	config = config_of();
	config.debug_exit_port = COM1_BASE;
	assert_refused(&config, VM_STATUS_BAD_INPUT, "port 0x3f8");
	config.debug_exit_port = 0xfffe;
	assert_refused(&config, VM_STATUS_BAD_INPUT, "port 0xfffe");
	config = config_of();
	creation_fails = true;
	assert_refused(&config, VM_STATUS_FAILED, "engine fake cannot start");
	creation_fails = false;
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/vm/s5-powers-off", s5_powers_off);
	g_test_add_func("/vm/debug-exit-gives-the-status", debug_exit_gives_the_status);
	g_test_add_func("/vm/triple-fault-has-status-9", triple_fault_has_status_9);
	g_test_add_func("/vm/engine-failure-has-status-1", engine_failure_has_status_1);
	g_test_add_func("/vm/resets-boot-again", resets_boot_again);
	g_test_add_func("/vm/serial-output-is-unchanged-and-complete", serial_output_is_unchanged_and_complete);
	g_test_add_func("/vm/a-prompt-comes-out-and-ctrl-bracket-leaves", a_prompt_comes_out_and_ctrl_bracket_leaves);
	g_test_add_func("/vm/serial-input-arrives-in-order", serial_input_arrives_in_order);
	g_test_add_func("/vm/timers-run-while-the-cpu-waits", timers_run_while_the_cpu_waits);
	g_test_add_func("/vm/vm-stop-ends-the-run", vm_stop_ends_the_run);
	g_test_add_func("/vm/impossible-configurations-are-refused", impossible_configurations_are_refused);
	return g_test_run();
}
