/*
 * The kvm engine: real-mode guests of a few bytes on a bus that remembers. Where no VM can be made on /dev/kvm these
 * are skipped; tests/system runs this program inside a guest of the soft engine, which has KVM on every host.
 */
#include "engine/kvm.h"

#include <errno.h>
#include <glib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CODE = 0x1000, DATA = 0x3000, PORT = 0x500, END_OFFSET = 7, DEVICE_LOG = 16, MEMORY = 4 << 20 };
#define DEVICE_MMIO 0xd0000000ULL

/* Remembers writes; a read gives the bytes 11h, 22h ... of as many as were read before. */
struct device {
	u64 offset[DEVICE_LOG], value[DEVICE_LOG];
	unsigned size[DEVICE_LOG], writes, reads;
	struct engine_vcpu *vcpu; /* kicked, on its own thread, by a write to END_OFFSET, which is not remembered */
};

struct machine {
	struct mem mem;
	struct bus bus;
	struct clock clock;
	struct engine_board board;
	struct engine *engine;
	struct engine_vcpu *vcpu;
	struct device device;
};

static u64 device_read(void *opaque, u64 offset, unsigned size)
{
	struct device *device = opaque;
	return (++device->reads * 0x1111111111111111ULL) & BITS(8 * size - 1, 0);
}

static void device_write(void *opaque, u64 offset, unsigned size, u64 value)
{
	struct device *device = opaque;
	if (offset == END_OFFSET) {
		engine_kvm.kick(device->vcpu);
		return;
	}
	g_assert_cmpuint(device->writes, <, DEVICE_LOG);
	device->offset[device->writes] = offset;
	device->size[device->writes] = size;
	device->value[device->writes++] = value;
}

static const struct io_ops device_ops = { .read = device_read, .write = device_write };

/* The CPU's next instruction is that at CODE. */
static void start_at_code(struct engine_vcpu *vcpu)
{
	struct x86_state state;
	engine_kvm.reset(vcpu);
	engine_kvm.get_state(vcpu, &state);
	state.seg[SEG_CS].selector = 0;
	state.seg[SEG_CS].base = 0;
	state.rip = CODE;
	state.gpr[RSP] = 0x7000;
	engine_kvm.set_state(vcpu, &state);
}

/* false: this host makes no VM, the test is skipped. Of several CPUs the first is started. */
static bool machine_create_cpus(struct machine *m, unsigned cpus, const u8 *code, size_t size)
{
	memset(m, 0, sizeof *m);
	g_assert_cmpint(mem_init(&m->mem, MEMORY), ==, 0);
	bus_init(&m->bus);
	clock_init_monotonic(&m->clock, false);
	g_assert_cmpint(bus_add_pio(&m->bus, PORT, 8, &device_ops, &m->device, "test"), ==, 0);
	g_assert_cmpint(bus_add_mmio(&m->bus, DEVICE_MMIO, 4096, &device_ops, &m->device, "test"), ==, 0);
	m->board = (struct engine_board){ .mem = &m->mem, .bus = &m->bus, .clock = &m->clock, .cpus = cpus };
	int err = engine_kvm.create(&m->board, &m->engine);
	if (err) {
		g_test_skip(strerror(-err));
		bus_destroy(&m->bus);
		mem_destroy(&m->mem);
		return false;
	}
	m->vcpu = m->device.vcpu = engine_kvm.vcpu(m->engine, 0);
	g_assert_true(mem_write(&m->mem, CODE, code, size));
	start_at_code(m->vcpu);
	return true;
}

static bool machine_create(struct machine *m, const u8 *code, size_t size)
{
	return machine_create_cpus(m, 1, code, size);
}

static void machine_destroy(struct machine *m)
{
	engine_kvm.destroy(m->engine);
	bus_destroy(&m->bus);
	mem_destroy(&m->mem);
}

static void expect_write(const struct device *device, unsigned n, u64 offset, unsigned size, u64 value)
{
	g_assert_cmpuint(n, <, device->writes);
	g_assert_cmphex(device->offset[n], ==, offset);
	g_assert_cmpuint(device->size[n], ==, size);
	g_assert_cmphex(device->value[n], ==, value);
}

/* mov dx, PORT + END_OFFSET; out dx, al; jmp $ */
#define END 0xba, 0x07, 0x05, 0xee, 0xeb, 0xfe

static void run_to_end(struct machine *m)
{
	g_assert_cmpint(engine_kvm.run(m->vcpu), ==, ENGINE_STOP_KICKED);
}

/* --- Ports and memory --- */

static void port_accesses_reach_the_bus_in_their_width(void)
{
	static const u8 code[] = { 0xba, 0x02, 0x05,                               /* mov dx, PORT + 2 */
				   0xb0, 0xa5, 0xee,                               /* mov al, a5; out dx, al */
				   0xb8, 0x34, 0x12, 0xef,                         /* mov ax, 1234; out dx, ax */
				   0x66, 0xb8, 0x78, 0x56, 0x34, 0x12, 0x66, 0xef, /* mov eax, 12345678; out dx, eax */
				   0xec, 0xee,                                     /* in al, dx; out dx, al */
				   END };
	struct machine m;
	if (!machine_create(&m, code, sizeof code))
		return;
	run_to_end(&m);
	expect_write(&m.device, 0, 2, 1, 0xa5);
	expect_write(&m.device, 1, 2, 2, 0x1234);
	expect_write(&m.device, 2, 2, 4, 0x12345678);
	expect_write(&m.device, 3, 2, 1, 0x11);
	g_assert_cmpuint(engine_kvm.counters(m.vcpu)->port_io, ==, 6);
	machine_destroy(&m);
}

static void string_output_reaches_the_bus_element_by_element(void)
{
	static const u8 code[] = { 0xba, 0x00, 0x05,             /* mov dx, PORT */
				   0xbe, 0x00, 0x31,             /* mov si, DATA + 100 */
				   0xb9, 0x03, 0x00, 0xf3, 0x6f, /* mov cx, 3; rep outsw */
				   END };
	static const u8 data[] = { 1, 2, 3, 4, 5, 6 };
	struct machine m;
	if (!machine_create(&m, code, sizeof code))
		return;
	mem_write(&m.mem, DATA + 0x100, data, sizeof data);
	run_to_end(&m);
	g_assert_cmpuint(m.device.writes, ==, 3);
	expect_write(&m.device, 0, 0, 2, 0x0201);
	expect_write(&m.device, 1, 0, 2, 0x0403);
	expect_write(&m.device, 2, 0, 2, 0x0605);
	machine_destroy(&m);
}

static void string_input_comes_element_by_element(void)
{
	static const u8 code[] = { 0xba, 0x00, 0x05,             /* mov dx, PORT */
				   0xbf, 0x00, 0x31,             /* mov di, DATA + 100 */
				   0xb9, 0x04, 0x00, 0xf3, 0x6c, /* mov cx, 4; rep insb */
				   END };
	u8 data[5];
	struct machine m;
	if (!machine_create(&m, code, sizeof code))
		return;
	run_to_end(&m);
	g_assert_true(mem_read(&m.mem, DATA + 0x100, data, sizeof data));
	static const u8 wanted[] = { 0x11, 0x22, 0x33, 0x44, 0 };
	g_assert_cmpmem(data, sizeof data, wanted, sizeof wanted);
	machine_destroy(&m);
}

static void memory_mapped_accesses_reach_the_bus(void)
{
	/* With the base of DS beyond RAM. */
	static const u8 code[] = {
		0xc6, 0x06, 0x10, 0x00, 0xa5,                         /* mov byte [10], a5 */
		0x66, 0xc7, 0x06, 0x20, 0x00, 0x78, 0x56, 0x34, 0x12, /* mov dword [20], 12345678 */
		0xa0, 0x30, 0x00, 0xa2, 0x31, 0x00,                   /* mov al, [30]; mov [31], al */
		0xba, 0x00, 0x05, 0xee,                               /* mov dx, PORT; out dx, al */
		END,
	};
	struct machine m;
	struct x86_state state;
	if (!machine_create(&m, code, sizeof code))
		return;
	engine_kvm.get_state(m.vcpu, &state);
	state.seg[SEG_DS].base = DEVICE_MMIO;
	engine_kvm.set_state(m.vcpu, &state);
	run_to_end(&m);
	expect_write(&m.device, 0, 0x10, 1, 0xa5);
	expect_write(&m.device, 1, 0x20, 4, 0x12345678);
	expect_write(&m.device, 2, 0x31, 1, 0x11);
	expect_write(&m.device, 3, 0, 1, 0x11);
	g_assert_cmpuint(engine_kvm.counters(m.vcpu)->mmio, ==, 4);
	machine_destroy(&m);
}

/* --- Stops --- */

static void triple_fault_stops_with_the_state_readable(void)
{
	/* mov eax, 12345678; mov ds, ax: beyond the GDT, #GP, and there is no IDT */
	static const u8 code[] = { 0xb8, 0x78, 0x56, 0x34, 0x12, 0x8e, 0xd8 };
	struct machine m;
	struct x86_state state;
	if (!machine_create(&m, code, sizeof code))
		return;
	engine_kvm.get_state(m.vcpu, &state);
	for (unsigned i = 0; i <= SEG_GS; i++)
		state.seg[i] = (struct segment){ .selector = 0x10, .limit = 0xffffffff, .ar = 0xc093 };
	state.seg[SEG_CS] = (struct segment){ .selector = 8, .limit = 0xffffffff, .ar = 0xc09b };
	state.cr0 |= CR0_PE;
	state.gdtr.limit = state.idtr.limit = 0;
	engine_kvm.set_state(m.vcpu, &state);
	g_assert_cmpint(engine_kvm.run(m.vcpu), ==, ENGINE_STOP_TRIPLE_FAULT);
	engine_kvm.get_state(m.vcpu, &state);
	g_assert_cmphex(state.gpr[RAX], ==, 0x12345678);
	g_assert_cmphex(state.rip, ==, CODE + 5);
	machine_destroy(&m);
}

static void kick_before_run_makes_run_return_at_once(void)
{
	static const u8 code[] = { 0xeb, 0xfe };
	struct machine m;
	if (!machine_create(&m, code, sizeof code))
		return;
	for (unsigned i = 0; i < 3; i++) {
		engine_kvm.kick(m.vcpu);
		g_assert_cmpint(engine_kvm.run(m.vcpu), ==, ENGINE_STOP_KICKED);
	}
	machine_destroy(&m);
}

static void *run_thread(void *opaque)
{
	struct machine *m = opaque;
	return GINT_TO_POINTER((gint)engine_kvm.run(m->vcpu));
}

static void expect_kick_ends(const u8 *code, size_t size)
{
	struct machine m;
	if (!machine_create(&m, code, size))
		return;
	for (unsigned i = 0; i < 20; i++) {
		GThread *thread = g_thread_new("cpu", run_thread, &m);
		g_usleep(i * 500);
		engine_kvm.kick(m.vcpu);
		g_assert_cmpint(GPOINTER_TO_INT(g_thread_join(thread)), ==, ENGINE_STOP_KICKED);
	}
	machine_destroy(&m);
}

static void kick_ends_a_guest_that_spins(void)
{
	static const u8 code[] = { 0xeb, 0xfe };
	expect_kick_ends(code, sizeof code);
}

static void kick_ends_a_guest_that_halts(void)
{
	static const u8 code[] = { 0xfa, 0xf4, 0xeb, 0xfd };
	expect_kick_ends(code, sizeof code);
}

/* A device that stops the machine in the middle of an instruction, as power-off does, leaves it completed. */
static void kick_by_a_device_completes_the_instruction(void)
{
	static const u8 code[] = { END };
	struct machine m;
	struct x86_state state;
	if (!machine_create(&m, code, sizeof code))
		return;
	run_to_end(&m);
	engine_kvm.get_state(m.vcpu, &state);
	g_assert_cmphex(state.rip, ==, CODE + 4);
	machine_destroy(&m);
}

/* --- State --- */

static void state_is_as_it_was_set(void)
{
	static const u8 code[] = { 0xf4 };
	struct machine m;
	struct x86_state set, got;
	if (!machine_create(&m, code, sizeof code))
		return;
	memset(&set, 0, sizeof set);
	for (unsigned i = 0; i < GPR_COUNT; i++)
		set.gpr[i] = 0x1111111111111111ULL * i + i;
	set.rip = 0x123456;
	set.rflags = RFLAGS_ONE | RFLAGS_IF | RFLAGS_ZF;
	for (unsigned i = 0; i < SEG_COUNT; i++)
		set.seg[i] = (struct segment){
			.selector = (u16)(8 * i + 8), .limit = 0xffffffff, .ar = 0xc093, .base = i << 12
		};
	set.seg[SEG_CS] = (struct segment){ .selector = 0x10, .limit = 0xffffffff, .ar = 0xa09b };
	set.seg[SEG_LDTR] = (struct segment){ .ar = SEG_AR_UNUSABLE };
	set.seg[SEG_TR] = (struct segment){ .selector = 0x40, .limit = 0x67, .ar = 0x8b, .base = 0xffffffff80001000 };
	set.gdtr = (struct table_register){ .base = 0xffffffff80002000, .limit = 0x7f };
	set.idtr = (struct table_register){ .base = 0xffffffff80003000, .limit = 0xfff };
	set.cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_WP | CR0_NE;
	set.cr2 = 0xdeadbeef000;
	set.cr3 = 0x2000;
	set.cr4 = CR4_PAE | CR4_PGE;
	set.efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
	engine_kvm.set_state(m.vcpu, &set);
	memset(&got, 0xff, sizeof got);
	engine_kvm.get_state(m.vcpu, &got);
	g_assert_cmpmem(got.gpr, sizeof got.gpr, set.gpr, sizeof set.gpr);
	g_assert_cmphex(got.rip, ==, set.rip);
	g_assert_cmphex(got.rflags, ==, set.rflags);
	for (unsigned i = 0; i < SEG_COUNT; i++) {
		g_assert_cmphex(got.seg[i].ar, ==, set.seg[i].ar);
		if (set.seg[i].ar & SEG_AR_UNUSABLE)
			continue;
		g_assert_cmphex(got.seg[i].selector, ==, set.seg[i].selector);
		g_assert_cmphex(got.seg[i].limit, ==, set.seg[i].limit);
		g_assert_cmphex(got.seg[i].base, ==, set.seg[i].base);
	}
	g_assert_cmphex(got.gdtr.base, ==, set.gdtr.base);
	g_assert_cmphex(got.idtr.limit, ==, set.idtr.limit);
	g_assert_cmphex(got.cr0, ==, set.cr0);
	g_assert_cmphex(got.cr2, ==, set.cr2);
	g_assert_cmphex(got.cr3, ==, set.cr3);
	g_assert_cmphex(got.cr4, ==, set.cr4);
	g_assert_cmphex(got.efer, ==, set.efer);
	machine_destroy(&m);
}

static void reset_brings_back_cpu_and_chips(void)
{
	static const u8 code[] = { 0xf4 };
	struct machine m;
	struct x86_state state, after;
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_IOAPIC };
	struct kvm_lapic_state lapic, lapic_after;
	if (!machine_create(&m, code, sizeof code))
		return;
	g_assert_cmpint(kvm_ioctl(m.vcpu->fd, KVM_GET_LAPIC, &lapic), >=, 0);
	g_assert_cmpint(kvm_ioctl(m.engine->vm_fd, KVM_GET_IRQCHIP, &chip), >=, 0);
	struct kvm_irqchip chip_before = chip;
	chip.chip.ioapic.redirtbl[4].fields.vector = 0x44;
	g_assert_cmpint(kvm_ioctl(m.engine->vm_fd, KVM_SET_IRQCHIP, &chip), >=, 0);
	struct kvm_lapic_state changed = lapic;
	changed.regs[0x80] = 0x50; /* task priority */
	g_assert_cmpint(kvm_ioctl(m.vcpu->fd, KVM_SET_LAPIC, &changed), >=, 0);
	engine_kvm.get_state(m.vcpu, &state);
	state.gpr[RBX] = 1;
	state.cr0 |= CR0_PE;
	engine_kvm.set_state(m.vcpu, &state);

	engine_kvm.reset(m.vcpu);

	engine_kvm.get_state(m.vcpu, &after);
	g_assert_cmphex(after.gpr[RBX], ==, 0);
	g_assert_cmphex(after.cr0 & CR0_PE, ==, 0);
	g_assert_cmphex(after.rip, ==, 0xfff0);
	g_assert_cmphex(after.seg[SEG_CS].base, ==, 0xffff0000);
	g_assert_cmpint(kvm_ioctl(m.vcpu->fd, KVM_GET_LAPIC, &lapic_after), >=, 0);
	g_assert_cmpint(lapic_after.regs[0x80], ==, lapic.regs[0x80]);
	g_assert_cmpint(kvm_ioctl(m.engine->vm_fd, KVM_GET_IRQCHIP, &chip), >=, 0);
	g_assert_cmphex(chip.chip.ioapic.redirtbl[4].bits, ==, chip_before.chip.ioapic.redirtbl[4].bits);
	machine_destroy(&m);
}

/* --- Interrupts --- */

/* The master PIC, set up for vectors 20h on, with line 4 alone open; its handler tells and ends. */
static void interrupt_line_reaches_the_guest_through_the_pic(void)
{
	static const u8 code[] = {
		0xb0, 0x11, 0xe6, 0x20, /* ICW1: edge, cascade, ICW4 */
		0xb0, 0x20, 0xe6, 0x21, /* ICW2: vector 20h */
		0xb0, 0x04, 0xe6, 0x21, /* ICW3 */
		0xb0, 0x01, 0xe6, 0x21, /* ICW4: 8086 */
		0xb0, 0xef, 0xe6, 0x21, /* all but line 4 masked */
		0xba, 0x07, 0x05, 0xee, /* ready: the machine stops, the line is raised */
		0xfb, 0xf4, 0xeb, 0xfd  /* sti; hlt; again */
	};
	static const u8 handler[] = { 0xba, 0x00, 0x05, 0xb0, 0x99, 0xee, END };
	static const u16 vector[] = { 0x2000, 0 };
	struct machine m;
	if (!machine_create(&m, code, sizeof code))
		return;
	mem_write(&m.mem, 0x2000, handler, sizeof handler);
	mem_write(&m.mem, 4 * 0x24, vector, sizeof vector);
	run_to_end(&m);
	engine_kvm.irq(m.engine, 4, true);
	run_to_end(&m);
	g_assert_cmpuint(m.device.writes, ==, 1);
	expect_write(&m.device, 0, 0, 1, 0x99);
	engine_kvm.irq(m.engine, 4, false);
	machine_destroy(&m);
}

/* --- System-management mode --- */

enum { SMIS = 300 };
#define APIC_PAGE 0xfee00000ULL

/* With DS at the local APIC: SMIs for every CPU, then what EBX holds. */
static const u8 send_smis[] = {
	0xb9, SMIS & 0xff, SMIS >> 8,                                     /* mov cx, SMIS */
	0x66, 0xc7,        0x06,      0x10, 0x03, 0x00, 0x00, 0x00, 0xff, /* mov dword [310], ff000000: everybody */
	0x66, 0xc7,        0x06,      0x00, 0x03, 0x00, 0x42, 0x00, 0x00, /* mov dword [300], 4200: SMI */
	0xe2, 0xec,                                                       /* loop: the first mov */
	0xba, 0x00,        0x05,      0x66, 0x89, 0xd8, 0x66, 0xef,       /* mov dx, PORT; mov eax, ebx; out dx, eax */
	END
};

static void set_ds_and_ebx(struct engine_vcpu *vcpu, u32 ebx)
{
	struct x86_state state;
	engine_kvm.get_state(vcpu, &state);
	state.seg[SEG_DS].base = APIC_PAGE;
	state.gpr[RBX] = ebx;
	engine_kvm.set_state(vcpu, &state);
}

static void smi_changes_nothing_that_the_guest_sees(void)
{
	struct machine m;
	if (!machine_create(&m, send_smis, sizeof send_smis))
		return;
	set_ds_and_ebx(m.vcpu, 0x12345678);
	run_to_end(&m);
	g_assert_cmpuint(m.device.writes, ==, 1);
	expect_write(&m.device, 0, 0, 4, 0x12345678);
	machine_destroy(&m);
}

static void reset_leaves_the_smi_its_handler(void)
{
	struct machine m;
	if (!machine_create(&m, send_smis, sizeof send_smis))
		return;
	start_at_code(m.vcpu);
	set_ds_and_ebx(m.vcpu, 0x12345678);
	run_to_end(&m);
	expect_write(&m.device, 0, 0, 4, 0x12345678);
	machine_destroy(&m);
}

static u64 smbase(struct engine_vcpu *vcpu)
{
	struct kvm_one_msr msr = { .nmsrs = 1, .entry = { .index = 0x9e } };
	g_assert_cmpint(kvm_ioctl(vcpu->fd, KVM_GET_MSRS, &msr), ==, 1);
	return msr.entry.data;
}

/* With one SMBASE, SMIs to both at once would save their states over each other. */
static void every_cpu_has_its_own_place_for_smis(void)
{
	struct machine m;
	struct kvm_mp_state runnable = { .mp_state = KVM_MP_STATE_RUNNABLE };
	if (!machine_create_cpus(&m, 2, send_smis, sizeof send_smis))
		return;
	struct engine_vcpu *first = m.vcpu, *second = engine_kvm.vcpu(m.engine, 1);
	if (m.engine->smram)
		g_assert_cmphex(smbase(first), !=, smbase(second));
	m.vcpu = m.device.vcpu = second;
	start_at_code(second);
	set_ds_and_ebx(second, 0x12345678);
	g_assert_cmpint(kvm_ioctl(second->fd, KVM_SET_MP_STATE, &runnable), >=, 0);
	run_to_end(&m);
	expect_write(&m.device, 0, 0, 4, 0x12345678);
	machine_destroy(&m);
}

/* --- CPUID --- */

static void guests_have_no_performance_counters(void)
{
	struct machine m;
	static const u8 code[] = {
		0x66, 0xb8, 0x0a, 0,    0,    0,    0x0f, 0xa2, /* mov eax, 0xa; cpuid */
		0xba, 0x00, 0x05, 0x66, 0xef,                   /* mov dx, PORT; out dx, eax */
		0x66, 0xb8, 1,    0,    0,    0,    0x0f, 0xa2, /* mov eax, 1; cpuid */
		0xba, 0x00, 0x05, 0x66, 0x89, 0xc8, 0x66, 0xef, /* mov dx, PORT; mov eax, ecx; out dx, eax */
		END
	};
	if (!machine_create(&m, code, sizeof code))
		return;
	run_to_end(&m);
	expect_write(&m.device, 0, 0, 4, 0);
	g_assert_cmphex(m.device.value[1] & BIT(15), ==, 0);
	machine_destroy(&m);
}

/* --- Creation and probe --- */

static void nesting_that_the_host_lacks_is_refused(void)
{
	struct machine m;
	static const u8 code[] = { 0xf4 };
	if (!machine_create(&m, code, sizeof code))
		return;
	struct kvm_cpuid2 *cpuid = kvm_supported_cpuid(m.engine->kvm_fd);
	g_assert_nonnull(cpuid);
	enum nested_choice has = kvm_cpuid_nesting(cpuid);
	g_free(cpuid);
	struct engine *other;
	m.board.nested = has == NESTING_VTX ? NESTING_SVM : NESTING_VTX;
	g_assert_cmpint(engine_kvm.create(&m.board, &other), ==, -ENOTSUP);
	machine_destroy(&m);
}

static void probe_answers_in_time_with_a_reason(void)
{
	char reason[160];
	gint64 start = g_get_monotonic_time();
	for (int nested = NESTING_NONE; nested <= NESTING_SVM; nested++) {
		memset(reason, 0, sizeof reason);
		int err = engine_kvm.probe((enum nested_choice)nested, reason, sizeof reason);
		g_assert_cmpint(err, <=, 0);
		g_assert_cmpuint(strlen(reason), >, 10);
		g_assert_null(strchr(reason, '\n'));
	}
	g_assert_cmpint(g_get_monotonic_time() - start, <, 3 * 2500000);
}

/* Every probe's descriptors are gone afterwards, and its child as soon as the kernel lets it go. */
static void probe_leaves_nothing_behind(void)
{
	char reason[160];
	int before = dup(0);
	engine_kvm.probe(NESTING_NONE, reason, sizeof reason);
	int after = dup(0);
	g_assert_cmpint(after, ==, before + 1);
	close(before);
	close(after);
	pid_t left = waitpid(-1, NULL, WNOHANG);
	for (unsigned tries = 0; tries < 3000 && left != -1; tries++) {
		g_usleep(10000);
		left = waitpid(-1, NULL, WNOHANG);
	}
	g_assert_cmpint(left, ==, -1);
	g_assert_cmpint(errno, ==, ECHILD);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/kvm/port-accesses-reach-the-bus-in-their-width", port_accesses_reach_the_bus_in_their_width);
	g_test_add_func("/kvm/string-output-reaches-the-bus-element-by-element",
			string_output_reaches_the_bus_element_by_element);
	g_test_add_func("/kvm/string-input-comes-element-by-element", string_input_comes_element_by_element);
	g_test_add_func("/kvm/memory-mapped-accesses-reach-the-bus", memory_mapped_accesses_reach_the_bus);
	g_test_add_func("/kvm/triple-fault-stops-with-the-state-readable", triple_fault_stops_with_the_state_readable);
	g_test_add_func("/kvm/kick-before-run-makes-run-return-at-once", kick_before_run_makes_run_return_at_once);
	g_test_add_func("/kvm/kick-ends-a-guest-that-spins", kick_ends_a_guest_that_spins);
	g_test_add_func("/kvm/kick-ends-a-guest-that-halts", kick_ends_a_guest_that_halts);
	g_test_add_func("/kvm/kick-by-a-device-completes-the-instruction", kick_by_a_device_completes_the_instruction);
	g_test_add_func("/kvm/state-is-as-it-was-set", state_is_as_it_was_set);
	g_test_add_func("/kvm/reset-brings-back-cpu-and-chips", reset_brings_back_cpu_and_chips);
	g_test_add_func("/kvm/interrupt-line-reaches-the-guest-through-the-pic",
			interrupt_line_reaches_the_guest_through_the_pic);
	g_test_add_func("/kvm/smi-changes-nothing-that-the-guest-sees", smi_changes_nothing_that_the_guest_sees);
	g_test_add_func("/kvm/reset-leaves-the-smi-its-handler", reset_leaves_the_smi_its_handler);
	g_test_add_func("/kvm/every-cpu-has-its-own-place-for-smis", every_cpu_has_its_own_place_for_smis);
	g_test_add_func("/kvm/guests-have-no-performance-counters", guests_have_no_performance_counters);
	g_test_add_func("/kvm/nesting-that-the-host-lacks-is-refused", nesting_that_the_host_lacks_is_refused);
	g_test_add_func("/kvm/probe-answers-in-time-with-a-reason", probe_answers_in_time_with_a_reason);
	g_test_add_func("/kvm/probe-leaves-nothing-behind", probe_leaves_nothing_behind);
	return g_test_run();
}
