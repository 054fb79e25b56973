/* The soft engine on the real board: a few bytes of guest code each, started by the Multiboot loader. */
#include "boot_images.h"
#include "vm/vm.h"

#include <glib.h>

enum { CODE_AT = 0x300100 };

static u8 image[IMAGE_BYTES];

static struct vm_config config_of(const u8 *code, size_t size)
{
	memset(image, 0, sizeof image);
	size_t total = image_kludge(image);
	memcpy(image + 0x100, code, size);
	return (struct vm_config){
		.engine = &engine_soft,
		.memory = 16 << 20,
		.cpus = 1,
		.kernel = { .name = "code", .data = image, .size = total },
		.serial_out = -1,
		.serial_in = -1,
		.debug_exit_port = 0xf4,
	};
}

static struct vm *create(const struct vm_config *config)
{
	struct vm_error error;
	struct vm *vm = vm_create(config, &error);
	if (!vm)
		g_error("vm_create: %s", error.text);
	return vm;
}

static struct vm_result run(const u8 *code, size_t size)
{
	struct vm_config config = config_of(code, size);
	struct vm_result result;
	struct vm *vm = create(&config);
	vm_run(vm, &result);
	vm_destroy(vm);
	return result;
}

static void *stop_soon(void *opaque)
{
	g_usleep(20000);
	vm_stop(opaque);
	return NULL;
}

static struct vm_result run_and_stop(const u8 *code, size_t size)
{
	struct vm_config config = config_of(code, size);
	struct vm_result result;
	struct vm *vm = create(&config);
	GThread *thread = g_thread_new("stopper", stop_soon, vm);
	vm_run(vm, &result);
	g_thread_join(thread);
	vm_destroy(vm);
	return result;
}

static void code_runs_and_reaches_ports(void)
{
	static const u8 code[] = {
		0x3d, 0x02, 0xb0, 0xad, 0x2b, /* cmp eax, 0x2badb002 */
		0x0f, 0x94, 0xc0,             /* sete al */
		0x04, 0x20,                   /* add al, 0x20 */
		0xe6, 0xf4,                   /* out 0xf4, al */
		0xeb, 0xfe                    /* jmp $ */
	};
	struct vm_result result = run(code, sizeof code);
	g_assert_cmpint(result.end, ==, VM_DEBUG_EXIT);
	g_assert_cmpint(result.status, ==, 0x43);
}

/* Real time passes for a halted CPU, and an interrupt ends the wait: PIT through the PIC, vector 0x20. */
static void halt_waits_for_an_interrupt(void)
{
	static const u8 code[] = {
		0xbc, 0x00, 0x00, 0x20, 0x00,                   /* mov esp, 0x200000 */
		0x0f, 0x01, 0x1d, 0x60, 0x01, 0x30, 0x00,       /* lidt [0x300160] */
		0xb0, 0x11, 0xe6, 0x20, 0xb0, 0x20, 0xe6, 0x21, /* ICW1, ICW2: vectors from 0x20 */
		0xb0, 0x04, 0xe6, 0x21, 0xb0, 0x01, 0xe6, 0x21, /* ICW3, ICW4 */
		0xb0, 0xfe, 0xe6, 0x21,                         /* only IRQ 0 */
		0xb0, 0x30, 0xe6, 0x43,                         /* channel 0, mode 0 */
		0x30, 0xc0, 0xe6, 0x40, 0xb0, 0x20, 0xe6, 0x40, /* 0x2000 ticks: 6.9 ms */
		0xfb, 0xf4,                                     /* sti; hlt */
		0xb0, 0x01, 0xe6, 0xf4, 0xeb, 0xfe              /* behind it: exit 1, status 3 */
	};
	static const u8 handler[] = { 0xb0, 0x05, 0xe6, 0xf4, 0xeb, 0xfe }; /* exit 5, status 11 */
	u8 all[0x400] = { 0 };
	memcpy(all, code, sizeof code);
	G_STATIC_ASSERT(sizeof code <= 0x60);
	const struct {
		u16 limit;
		u32 base;
	} __attribute__((packed)) idtr = { 0x21 * 8 - 1, CODE_AT + 0x100 };
	const u16 gate[] = { (CODE_AT + 0x80) & 0xffff, 0x10, 0x8e00, (CODE_AT + 0x80) >> 16 };
	memcpy(all + 0x60, &idtr, sizeof idtr);
	memcpy(all + 0x80, handler, sizeof handler);
	memcpy(all + 0x100 + 0x20 * 8, gate, sizeof gate);
	struct vm_result result = run(all, sizeof all);
	g_assert_cmpint(result.status, ==, 11);
	g_assert_cmpuint(result.run_ns, >=, 6 * NS_PER_SEC / 1000);
}

/* No IDT: the first fault is the third. */
static void triple_fault_ends_with_status_9(void)
{
	static const u8 code[] = { 0x0f, 0x01, 0x1d, 0x80, 0x01, 0x30, 0x00, /* lidt [zeroes] */ 0x0f, 0x0b /* ud2 */ };
	struct vm_result result = run(code, sizeof code);
	g_assert_cmpint(result.end, ==, VM_TRIPLE_FAULT);
	g_assert_cmpint(result.status, ==, 9);
}

static void an_endless_loop_can_be_stopped(void)
{
	static const u8 code[] = { 0xeb, 0xfe };
	g_assert_cmpint(run_and_stop(code, sizeof code).end, ==, VM_STOPPED);
}

static void a_halted_cpu_can_be_stopped(void)
{
	static const u8 code[] = { 0xfa, 0xf4, 0xeb, 0xfd };
	g_assert_cmpint(run_and_stop(code, sizeof code).end, ==, VM_STOPPED);
}

/* The first boot resets; the second sees it by a CMOS byte, which survives a reset as RAM does not (it is reloaded). */
static void reset_restores_the_image_and_the_cpu(void)
{
	static const u8 code[] = {
		0xb0, 0x40, 0xe6, 0x70,                   /* CMOS index 0x40 */
		0xe4, 0x71, 0x3c, 0x77, 0x74, 0x11,       /* is it 0x77? then the second boot */
		0xb0, 0x77, 0xe6, 0x71,                   /* set it */
		0xc6, 0x05, 0x30, 0x01, 0x30, 0x00, 0x55, /* spoil the byte at code + 0x30 */
		0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe,       /* reset */
		0xa0, 0x30, 0x01, 0x30, 0x00,             /* second boot: mov al, [code + 0x30] */
		0xe6, 0xf4, 0xeb, 0xfe                    /* exit with it */
	};
	u8 all[0x40] = { 0 };
	memcpy(all, code, sizeof code);
	all[0x30] = 0x12;
	struct vm_result result = run(all, sizeof all);
	g_assert_cmpint(result.end, ==, VM_DEBUG_EXIT);
	g_assert_cmpint(result.status, ==, 0x25);
	g_assert_cmpuint(result.resets, ==, 1);
}

/*
 * Back in real mode, with what firmware left behind: three timer ticks through the interrupt vectors, counted in the
 * BIOS data area. The code copies its second half below 1 MiB first.
 */
asm(".pushsection .rodata\n"
    "real_mode: .code32\n"
    " mov $0x300100 + real_part - real_mode, %esi\n mov $0x7000, %edi\n mov $real_mode_end - real_part, %ecx\n"
    " rep movsb\n"
    " lgdt 0x300100 + gdtr - real_mode\n"
    " ljmp $8, $0x7000\n"
    "gdtr: .word 23\n .long 0x300100 + gdt - real_mode\n"
    "gdt: .quad 0, 0x00009b000000ffff, 0x000093000000ffff\n"
    "real_part: .code16\n"
    " mov $0x10, %ax\n mov %ax, %ds\n mov %ax, %ss\n"
    " mov %cr0, %eax\n and $0xfe, %al\n mov %eax, %cr0\n"
    " ljmp $0, $0x7000 + 1f - real_part\n"
    "1: xor %ax, %ax\n mov %ax, %ds\n mov %ax, %ss\n mov $0x7000, %sp\n"
    " lidt 0x7000 + idtr - real_part\n"
    " sti\n"
    "2: hlt\n cmpl $3, 0x46c\n jb 2b\n"
    " mov $9, %al\n out %al, $0xf4\n"
    "3: jmp 3b\n"
    "idtr: .word 0x3ff\n .long 0\n"
    "real_mode_end: .code64\n"
    ".popsection");
extern const u8 real_mode[], real_mode_end[];

static void real_mode_finds_what_firmware_leaves(void)
{
	struct vm_result result = run(real_mode, (size_t)(real_mode_end - real_mode));
	g_assert_cmpint(result.end, ==, VM_DEBUG_EXIT);
	g_assert_cmpint(result.status, ==, 19);
	g_assert_cmpuint(result.run_ns, >=, NS_PER_SEC * 65536 / 1193182);
}

static void probe_offers_both_extensions(void)
{
	char reason[160];
	g_assert_cmpint(engine_soft.probe(NESTING_NONE, reason, sizeof reason), ==, 0);
	g_assert_cmpint(engine_soft.probe(NESTING_VTX, reason, sizeof reason), ==, 0);
	g_assert_cmpint(engine_soft.probe(NESTING_SVM, reason, sizeof reason), ==, 0);
	g_assert_nonnull(strstr(reason, "AMD-V"));
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/soft/code-runs-and-reaches-ports", code_runs_and_reaches_ports);
	g_test_add_func("/soft/halt-waits-for-an-interrupt", halt_waits_for_an_interrupt);
	g_test_add_func("/soft/triple-fault-ends-with-status-9", triple_fault_ends_with_status_9);
	g_test_add_func("/soft/an-endless-loop-can-be-stopped", an_endless_loop_can_be_stopped);
	g_test_add_func("/soft/a-halted-cpu-can-be-stopped", a_halted_cpu_can_be_stopped);
	g_test_add_func("/soft/reset-restores-the-image-and-the-cpu", reset_restores_the_image_and_the_cpu);
	g_test_add_func("/soft/real-mode-finds-what-firmware-leaves", real_mode_finds_what_firmware_leaves);
	g_test_add_func("/soft/probe-offers-both-extensions", probe_offers_both_extensions);
	return g_test_run();
}
