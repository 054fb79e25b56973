/*
 * The native side: loads every register from the frame, jumps to the instruction, and stores everything again. The
 * frame, the code and the data are at fixed low addresses, so that neither needs a register to be found.
 */
#include "differ.h"

#include "host_fault.h"
#include <cpuid.h>

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct frame {
	u64 gpr[GPR_COUNT]; /* 00h */
	u64 rflags;         /* 80h */
	u64 entry;          /* 88h */
	u64 leave;          /* 90h: the code's way out, behind the instruction */
	u64 leave_target;   /* 98h: and where its branch goes */
	u64 host_rsp;       /* a0h */
	u64 branched;       /* a8h */
	u64 components;     /* b0h */
	u64 host_flags;     /* b8h */
	struct {
		u32 offset;
		u16 selector, pad;
	} far_leave, far_leave_target, far_entry; /* c0h, c8h, d0h */
	u8 pad[0x400 - 0xd8];
	struct xsave_area xsave; /* 400h */
};

#define FRAME ((struct frame *)FRAME_BASE)

/* Ways between 64-bit code and the case's 32-bit code, at the start of the code page. */
enum { TO_LEAVE = 0x10, TO_LEAVE_TARGET = 0x20, TO_CODE32 = 0x30 };
enum { USER_CS64 = 0x33, USER_CS32 = 0x23, USER_DS = 0x2b }; /* Linux's */

static u8 *code;
static u64 components;

void host_enter(void);
void host_leave(void);
void host_leave_target(void);

/* clang-format off */
__asm__(
	".text\n"
	"host_enter:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	pushfq; popq 0x600000b8\n"
	"	mov %rsp, 0x600000a0\n"
	"	movq $0, 0x600000a8\n"
	"	mov 0x600000b0, %rax\n"
	"	xor %edx, %edx\n"
	"	mov $0x60000400, %ecx\n"
	"	xrstor64 (%rcx)\n"
	"	pushq 0x60000080; popfq\n"
	"	mov 0x60000000, %rax; mov 0x60000008, %rcx; mov 0x60000010, %rdx; mov 0x60000018, %rbx\n"
	"	mov 0x60000020, %rsp; mov 0x60000028, %rbp; mov 0x60000030, %rsi; mov 0x60000038, %rdi\n"
	"	mov 0x60000040, %r8; mov 0x60000048, %r9; mov 0x60000050, %r10; mov 0x60000058, %r11\n"
	"	mov 0x60000060, %r12; mov 0x60000068, %r13; mov 0x60000070, %r14; mov 0x60000078, %r15\n"
	"	jmp *0x60000088\n"
	"host_leave_target:\n"
	"	movq $1, 0x600000a8\n"
	"host_leave:\n"
	"	mov %rax, 0x60000000; mov %rcx, 0x60000008; mov %rdx, 0x60000010; mov %rbx, 0x60000018\n"
	"	mov %rsp, 0x60000020; mov %rbp, 0x60000028; mov %rsi, 0x60000030; mov %rdi, 0x60000038\n"
	"	mov %r8, 0x60000040; mov %r9, 0x60000048; mov %r10, 0x60000050; mov %r11, 0x60000058\n"
	"	mov %r12, 0x60000060; mov %r13, 0x60000068; mov %r14, 0x60000070; mov %r15, 0x60000078\n"
	"	mov 0x600000a0, %rsp\n"
	"	pushfq; popq 0x60000080\n"
	"	pushq 0x600000b8; popfq\n"
	"	mov 0x600000b0, %rax\n"
	"	xor %edx, %edx\n"
	"	mov $0x60000400, %ecx\n"
	"	xsave64 (%rcx)\n"
	"	fninit\n"
	"	pushq $0x1f80; ldmxcsr (%rsp); pop %rax\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");
/* clang-format on */

u64 host_components(void)
{
	return components;
}

void host_start(void)
{
	host_catch_faults(CODE_BASE, CODE_SIZE, host_leave);
}

static void *map_fixed(u64 at, u64 size, int prot)
{
	void *p = mmap((void *)at, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	if (p != (void *)at) {
		fprintf(stderr, "cannot map %#llx: %s\n", (unsigned long long)at, strerror(errno));
		exit(1);
	}
	return p;
}

bool host_init(void)
{
	unsigned a, b, c, d;

	if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE))
		return false;
	components = 3 | (c & bit_AVX ? 4 : 0);
	map_fixed(DATA_BASE, DATA_SIZE, PROT_READ | PROT_WRITE);
	code = map_fixed(CODE_BASE, CODE_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC);
	map_fixed(FRAME_BASE, sizeof(struct frame), PROT_READ | PROT_WRITE);
	memset(code, 0xcc, CODE_SIZE);
	FRAME->leave = (u64)(uintptr_t)host_leave;
	FRAME->leave_target = (u64)(uintptr_t)host_leave_target;
	FRAME->components = components;
	return true;
}

/* JMP [field of the frame] in 64-bit code; `reg` 4: near, 5: far. */
static void put_jump64(u64 at, unsigned reg, unsigned field)
{
	u8 jump[7] = { 0xff, (u8)(0x04 | reg << 3), 0x25 };
	u32 address = (u32)(FRAME_BASE + field);
	memcpy(jump + 3, &address, 4);
	memcpy(code + (at - CODE_BASE), jump, 7);
}

/* The way out behind the instruction, or where its branch goes. From 32-bit code through a far pointer. */
static void put_exit(u64 at, bool mode32, bool target)
{
	u8 jump[6] = { 0xff, 0x2d };
	u32 address = (u32)(FRAME_BASE + (target ? 0xc8 : 0xc0));
	if (!mode32) {
		put_jump64(at, 4, target ? 0x98 : 0x90);
		return;
	}
	memcpy(jump + 2, &address, 4);
	memcpy(code + (at - CODE_BASE), jump, 6);
}

bool host_runs_32(void)
{
	/* Is there such a segment, present, code, DPL 3, 32-bit? LAR knows. */
	u32 rights = 0;
	u16 cs;
	u8 found;
	__asm__("mov %%cs, %0" : "=r"(cs));
	__asm__("lar %2, %0\n\tsetz %1" : "+r"(rights), "=q"(found) : "r"((u32)USER_CS32) : "cc");
	if (cs != USER_CS64 || !found || (rights & 0x60f800) != 0x40f800)
		return false;
	/* 64-bit code does not care what is in DS and ES; 32-bit code does. */
	__asm__ volatile("mov %0, %%ds\n\tmov %0, %%es" : : "r"(USER_DS));
	FRAME->far_leave.offset = (u32)CODE_BASE + TO_LEAVE;
	FRAME->far_leave_target.offset = (u32)CODE_BASE + TO_LEAVE_TARGET;
	FRAME->far_entry.offset = (u32)CODE_START;
	FRAME->far_leave.selector = FRAME->far_leave_target.selector = USER_CS64;
	FRAME->far_entry.selector = USER_CS32;
	put_jump64(CODE_BASE + TO_LEAVE, 4, 0x90);
	put_jump64(CODE_BASE + TO_LEAVE_TARGET, 4, 0x98);
	put_jump64(CODE_BASE + TO_CODE32, 5, 0xd0);
	return true;
}

void host_run(const struct test_case *c, struct machine *end)
{
	memcpy(code + (CODE_START - CODE_BASE), c->bytes, c->length);
	bool mode32 = c->form->mode32;
	put_exit(CODE_START + c->length, mode32, false);
	if (c->target)
		put_exit(c->target, mode32, true);
	memcpy(FRAME->gpr, c->start.gpr, sizeof(FRAME->gpr));
	FRAME->rflags = c->start.rflags;
	FRAME->entry = mode32 ? CODE_BASE + TO_CODE32 : CODE_START;
	FRAME->xsave = c->start.xsave;
	for (unsigned i = 0; i < c->length; i++)
		sprintf(host_running + 3 * i, "%02x ", c->bytes[i]);
	host_fault.vector = -1;
	host_fault.error = host_fault.cr2 = 0;

	host_enter();

	memcpy(end->gpr, FRAME->gpr, sizeof(end->gpr));
	end->rflags = FRAME->rflags;
	end->xsave = FRAME->xsave;
	end->vector = host_fault.vector;
	end->error = host_fault.error;
	end->cr2 = host_fault.cr2;
	end->rip = host_fault.vector >= 0 ? host_fault.rip : FRAME->branched ? c->target : CODE_START + c->length;
	if (c->target)
		memset(code + (c->target - CODE_BASE), 0xcc, 7);
}
