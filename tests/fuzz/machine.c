/*
 * Fuzz target: a whole machine, soft engine and all, that runs guest code made of the input. Each record of 16 bytes
 * becomes a slot of code: port and memory-mapped accesses to the board's chips, MSRs, control registers, VMX
 * instructions, or bytes as they are. Every exception and interrupt goes on with the next slot. However it ends, it
 * must be an end of the VM and not of the process.
 */
#include "../unit/boot_images.h"
#include "driver.h"
#include "vm/board.h"
#include "vm/vm.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

enum {
	RECORD = 16,
	SLOT = 32,
	MAX_SLOTS = 400,
	MILLISECONDS = 50, /* a run may take */
	/* Guest-physical layout behind the kludge image's start at 3 MiB. */
	BASE = 0x300000,
	ENTRY = 0x100,
	DISPATCH = 0x140,
	IDTR = 0x1f0,
	COUNTER = 0x1f8,
	IDT = 0x200,
	SLOTS = 0xa00,
	IMAGE_SIZE = SLOTS + MAX_SLOTS * SLOT
};

static u8 image[IMAGE_SIZE];

/* Loads the IDT and falls into the dispatcher, which counts slots and jumps to the next one, or exits. */
static void put_frame(unsigned slots)
{
	static const u8 entry[] = { 0x0f, 0x01, 0x1d, 0xf0, 0x01, 0x30, 0x00, 0xeb, 0x37 }; /* lidt; jmp dispatch */
	u8 dispatch[] = {
		0xbc, 0x00, 0x00, 0x40, 0x00,       /* mov esp, 4 MiB */
		0xa1, 0xf8, 0x01, 0x30, 0x00,       /* mov eax, [counter] */
		0xff, 0x05, 0xf8, 0x01, 0x30, 0x00, /* inc dword [counter] */
		0x3d, 0x00, 0x00, 0x00, 0x00,       /* cmp eax, slots */
		0x73, 0x0a,                         /* jae exit */
		0xc1, 0xe0, 0x05,                   /* shl eax, 5 */
		0x05, 0x00, 0x0a, 0x30, 0x00,       /* add eax, first slot */
		0xff, 0xe0,                         /* jmp eax */
		0xe6, 0xf4, 0xfa, 0xf4, 0xeb, 0xfc  /* exit: out 0xf4, al; cli; hlt; again */
	};
	const u32 dispatcher = BASE + DISPATCH;
	memcpy(dispatch + 17, &slots, 4);
	memcpy(image + ENTRY, entry, sizeof entry);
	memcpy(image + DISPATCH, dispatch, sizeof dispatch);
	image_put(image, IDTR, 256 * 8 - 1, 2);
	image_put(image, IDTR + 2, BASE + IDT, 4);
	for (unsigned i = 0; i < 256; i++)
		image_put(image, IDT + i * 8,
			  (dispatcher & 0xffff) | 0x10 << 16 | 0x8e00ULL << 32 | (u64)(dispatcher >> 16) << 48, 8);
}

static void put_header(void)
{
	const u32 addresses[] = { BASE + 0x40, BASE, BASE + IMAGE_SIZE, 0, BASE + ENTRY };
	memset(image, 0, sizeof image);
	image_add_multiboot_header(image, 0x40, 0x10000);
	memcpy(image + 0x4c, addresses, sizeof addresses);
}

/* --- slots --- */

static const u16 ports[] = { 0x20,  0xa0,  0x40,        0x60,    0x70,           0x80,  0x92,  0xb2,        0xe0,
			     0x3f8, 0x4d0, FW_CFG_PORT, PM_BASE, PM_BASE + 0x20, 0xcf8, 0xcfc, TESTDEV_IRQ, 0xfff8 };
static const u32 pages[] = { (u32)LAPIC_DEFAULT_BASE,
			     (u32)IOAPIC_DEFAULT_BASE,
			     (u32)HPET_DEFAULT_BASE,
			     (u32)MEM_ECAM_BASE,
			     (u32)TESTDEV_IOMEM,
			     BASE,
			     0xe0000,
			     0xfffff000,
			     0xc0000000 };
static const u32 msrs[] = { 0x1b, 0x3a, 0x10, 0x277, 0x6e0, 0x800, 0xc0000080, 0x174, 0x480, 0x200, 0x1d9, 0xda0 };

struct code {
	u8 *at;
};

static void emit(struct code *c, u64 bytes, unsigned n)
{
	memcpy(c->at, &bytes, n);
	c->at += n;
}

static void mov(struct code *c, unsigned reg, u32 value) /* mov r32, imm32 */
{
	emit(c, 0xb8 + reg, 1);
	emit(c, value, 4);
}

/* kind, choice, offset (2), value (4), bytes */
static void put_slot(struct code *c, const u8 *r)
{
	static const u8 transfers[] = { 0xec, 0xed, 0xee, 0xef }; /* in al, in eax, out al, out eax */
	u8 kind = r[0], choice = r[1];
	u16 offset;
	u32 value;
	memcpy(&offset, r + 2, 2);
	memcpy(&value, r + 4, 4);
	mov(c, RAX, value);
	switch (kind % 8) {
	case 0:
	case 1:
	case 2:
		mov(c, RDX, ports[choice % ARRAY_SIZE(ports)] + (offset & 31));
		if (offset & 0x100)
			emit(c, 0x66, 1);
		emit(c, transfers[offset >> 12 & 3], 1);
		break;
	case 3:
	case 4:
		mov(c, RDX, pages[choice % ARRAY_SIZE(pages)] + (offset & 0xfff));
		emit(c, (offset & 0x1000 ? 0x0289 : 0x028b) - (offset >> 13 & 1), 2); /* mov [edx], eax or back */
		break;
	case 5:
		mov(c, RCX, msrs[choice % ARRAY_SIZE(msrs)] + (offset & 15));
		mov(c, RDX, offset & 0x10 ? value : 0);
		emit(c, offset & 0x20 ? 0x300f : 0x320f, 2);
		break;
	case 6: /* VMXON … VMREAD on memory, LGDT and kin: 0f 01, 0f 78, 0f 79, 0f c7 with any operand */
		emit(c, 0x0f, 1);
		emit(c, (const u8[]){ 0x01, 0x78, 0x79, 0xc7, 0x00, 0x22, 0x20, 0x23 }[choice & 7], 1);
		emit(c, value, 4);
		break;
	default: /* bytes as they are; few, since many of them halt or loop */
		if (choice >= 16)
			break;
		memcpy(c->at, r + 4, 12);
		c->at += 12;
	}
	emit(c, 0xe9, 1); /* jmp dispatcher */
	emit(c, (u32)(DISPATCH - (c->at + 4 - image)), 4);
}

size_t fuzz_seed(unsigned n, uint8_t *buffer)
{
	if (n)
		return 0;
	for (unsigned i = 0; i < MAX_SLOTS * RECORD; i++)
		buffer[i] = (uint8_t)random();
	return MAX_SLOTS * RECORD;
}

/* --- the run --- */

struct watch {
	struct vm *vm;
	pthread_mutex_t lock;
	pthread_cond_t ended_cond;
	bool ended;
};

/* Many inputs loop or halt for good. */
static void *stop_in_time(void *opaque)
{
	struct watch *watch = opaque;
	struct timespec until;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += MILLISECONDS * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_nsec -= 1000000000L;
		until.tv_sec++;
	}
	pthread_mutex_lock(&watch->lock);
	while (!watch->ended && !pthread_cond_timedwait(&watch->ended_cond, &watch->lock, &until))
		;
	pthread_mutex_unlock(&watch->lock);
	vm_stop(watch->vm);
	return NULL;
}

static struct vm_result run(struct vm *vm)
{
	struct watch watch = { .vm = vm, .lock = PTHREAD_MUTEX_INITIALIZER, .ended_cond = PTHREAD_COND_INITIALIZER };
	struct vm_result result;
	pthread_t stopper;
	if (pthread_create(&stopper, NULL, stop_in_time, &watch))
		abort();
	vm_run(vm, &result);
	pthread_mutex_lock(&watch.lock);
	watch.ended = true;
	pthread_cond_signal(&watch.ended_cond);
	pthread_mutex_unlock(&watch.lock);
	pthread_join(stopper, NULL);
	return result;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned slots = (unsigned)(size / RECORD < MAX_SLOTS ? size / RECORD : MAX_SLOTS);
	struct vm_config config = {
		.engine = &engine_soft,
		.memory = 8 << 20,
		.cpus = 1,
		.nested = NESTING_VTX,
		.kernel = { .name = "fuzz", .data = image, .size = sizeof image },
		.serial_out = -1,
		.serial_in = -1,
		.debug_exit_port = 0xf4,
		.test_devices = true,
	};
	struct vm_error error;
	put_header();
	put_frame(slots);
	for (unsigned i = 0; i < slots; i++)
		put_slot(&(struct code){ image + SLOTS + i * SLOT }, data + i * RECORD);
	struct vm *vm = vm_create(&config, &error);
	assert(vm);
	assert(run(vm).end != VM_FAILED);
	vm_destroy(vm);
	return 0;
}
