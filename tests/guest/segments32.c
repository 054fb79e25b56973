/* Protected mode without paging: segment limits and rights, 16-bit code, call gates, rings. */
#include "lib/guest.h"

enum { A = GDT_FREE, B = GDT_FREE + 8, C = GDT_FREE + 16, D = GDT_FREE + 24 };

static u8 area[65536] ALIGNED(4096);

static void set_descriptor(unsigned selector, u32 base, u32 limit, unsigned access, unsigned flags)
{
	gdt[selector / 8] = (limit & 0xffff) | (u64)(base & 0xffffff) << 16 | (u64)access << 40 |
			    (u64)(limit >> 16 & 15) << 48 | (u64)flags << 52 | (u64)(base >> 24) << 56;
}

enum { FLAG_32 = 4, FLAG_G = 8 };

static word load_fs(u16 selector)
{
	return TRY_AT("mov %%eax, %%fs", : : "a"(selector) : "memory");
}

static word read_fs(u32 offset)
{
	return TRY_AT("mov %%fs:(%0), %%al", : : "r"(offset) : "eax", "memory");
}

static word read_fs_dword(u32 offset)
{
	return TRY_AT("mov %%fs:(%0), %%eax", : : "r"(offset) : "eax", "memory");
}

static word write_fs(u32 offset)
{
	return TRY_AT("movb $1, %%fs:(%0)", : : "r"(offset) : "memory");
}

static void test_limits(void)
{
	set_descriptor(A, (u32)area, 0xfff, 0x93, FLAG_32);
	CHECK("data-segment-loads", load_fs(A) == NO_FAULT);
	area[5] = 0x77;
	u8 byte;
	asm("mov %%fs:5, %0" : "=q"(byte));
	CHECK("base-is-added", byte == 0x77);
	CHECK("last-byte-is-inside", read_fs(0xfff) == NO_FAULT);
	read_fs(0x1000);
	CHECK("byte-behind-the-limit-is-gp", is_fault(GP, 0));
	CHECK("last-dword-is-inside", read_fs_dword(0xffc) == NO_FAULT);
	read_fs_dword(0xffd);
	CHECK("dword-across-the-limit-is-gp", is_fault(GP, 0));
	read_fs(0xffffffff);
	CHECK("far-beyond-the-limit-is-gp", is_fault(GP, 0));
	set_descriptor(A, (u32)area, 0xf, 0x93, FLAG_32 | FLAG_G);
	load_fs(A);
	CHECK("granularity-counts-pages", read_fs(0xffff) == NO_FAULT && read_fs(0x10000) == GP);
	set_descriptor(A, (u32)area, 0xfff, 0x97, FLAG_32); /* expand down */
	load_fs(A);
	CHECK("expand-down-begins-above-its-limit", read_fs(0x1000) == NO_FAULT && read_fs(0xfff) == GP);
	CHECK("expand-down-reaches-4-gib", read_fs(0xffffffff - (u32)area) == NO_FAULT);
	set_descriptor(A, (u32)area, 0xfff, 0x97, 0);
	load_fs(A);
	CHECK("16-bit-expand-down-reaches-64-kib", read_fs(0xffff) == NO_FAULT && read_fs(0x10000) == GP);
	read_fs_dword(0xfffe);
	CHECK("dword-across-64-kib-is-gp", is_fault(GP, 0));
}

static void test_rights(void)
{
	set_descriptor(A, (u32)area, 0xffff, 0x91, FLAG_32); /* read-only */
	load_fs(A);
	CHECK("read-only-reads", read_fs(0) == NO_FAULT);
	write_fs(0);
	CHECK("read-only-write-is-gp", is_fault(GP, 0));
	set_descriptor(A, (u32)area, 0xffff, 0x9b, FLAG_32); /* readable code */
	load_fs(A);
	CHECK("readable-code-reads", read_fs(0) == NO_FAULT);
	write_fs(0);
	CHECK("code-write-is-gp", is_fault(GP, 0));
	set_descriptor(A, (u32)area, 0xffff, 0x99, FLAG_32); /* execute-only */
	load_fs(A);
	CHECK("execute-only-in-fs-is-gp", is_fault(GP, A));
	CHECK("null-in-fs-loads", load_fs(0) == NO_FAULT);
	read_fs(0);
	CHECK("use-of-null-fs-is-gp", is_fault(GP, 0));
	TRY_AT("mov %%eax, %%ss", : : "a"(0) : "memory");
	CHECK("null-in-ss-is-gp", is_fault(GP, 0));
	set_descriptor(A, (u32)area, 0xffff, 0x13, FLAG_32);
	load_fs(A);
	CHECK("absent-data-is-np", is_fault(NP, A));
	TRY_AT("mov %%eax, %%ss", : : "a"(A) : "memory");
	CHECK("absent-stack-is-ss", is_fault(SS, A));
	set_descriptor(A, (u32)area, 0xffff, 0x91, FLAG_32);
	TRY_AT("mov %%eax, %%ss", : : "a"(A) : "memory");
	CHECK("read-only-stack-is-gp", is_fault(GP, A));
	set_descriptor(A, (u32)area, 0xffff, 0x92, FLAG_32);
	load_fs(A);
	CHECK("load-sets-accessed", gdt[A / 8] >> 40 & 1);
	set_descriptor(A, (u32)area, 0xffff, 0xf2, FLAG_32);
	CHECK("dpl-3-data-at-cpl-0-loads", load_fs(A) == NO_FAULT);
	set_descriptor(A, (u32)area, 0xffff, 0x93, FLAG_32);
	load_fs(A | 3);
	CHECK("rpl-3-for-dpl-0-is-gp", is_fault(GP, A));
}

static void test_instructions(void)
{
	set_descriptor(A, (u32)area, 0x1fff, 0x93, FLAG_32);
	u32 limit = 0, rights = 0;
	bool ok;
	asm("lsl %2, %0; setz %1" : "=r"(limit), "=q"(ok) : "r"((u32)A) : "cc");
	CHECK("lsl-gives-the-limit", ok && limit == 0x1fff);
	asm("lar %2, %0; setz %1" : "=r"(rights), "=q"(ok) : "r"((u32)A) : "cc");
	CHECK("lar-gives-the-rights", ok && (rights & 0xff00) == 0x9300);
	asm("lsl %2, %0; setz %1" : "+r"(limit), "=q"(ok) : "r"(0x1f8u + 0x200) : "cc");
	CHECK("lsl-of-nothing-clears-zf", !ok && limit == 0x1fff);
	asm("verr %w1; setz %0" : "=q"(ok) : "r"(A) : "cc");
	CHECK("verr-of-data", ok);
	asm("verw %w1; setz %0" : "=q"(ok) : "r"(CODE32) : "cc");
	CHECK("verw-of-code-clears-zf", !ok);
	u16 selector = 0x40;
	asm("arpl %2, %0; setz %1" : "+r"(selector), "=q"(ok) : "r"((u16)3) : "cc");
	CHECK("arpl-raises-rpl", ok && selector == 0x43);
	static const u32 bounds[2] = { 10, 20 };
	TRY_AT("bound %0, %1", : : "r"(15), "m"(bounds) : "memory");
	CHECK("bound-inside", fault.vector == NO_FAULT);
	TRY_AT("bound %0, %1", : : "r"(21), "m"(bounds) : "memory");
	CHECK("bound-outside-is-br", is_fault(BR, 0));
	TRY("movb $0x7f, %%al; addb $1, %%al; into", : : : "eax", "memory");
	CHECK("into-with-of-traps", fault.vector == OF);
	TRY("xor %%eax, %%eax; into", : : : "eax", "memory");
	CHECK("into-without-of-goes-on", fault.vector == NO_FAULT);
}

/* --- 16-bit code --- */

asm(".text\n"
    ".code16\n"
    "code_16: push %ax\n" /* 16-bit push on a 32-bit or 16-bit stack */
    "	pop %bx\n"
    "	mov $0x1234, %cx\n"
    "	lea 2(%bx,%si), %dx\n"
    "	.byte 0x66\n"
    "	lret\n"
    ".code32\n"
    "call_16: push %ebx; push %esi\n"
    "	mov $0xaaaa5555, %eax; mov $0xffff0000, %ebx; mov $0x77770000, %ecx; mov $0xfffe, %esi; mov $-1, %edx\n"
    "	lcall *far_16\n"
    "	mov %eax, results; mov %ebx, results+4; mov %ecx, results+8; mov %edx, results+12\n"
    "	pop %esi; pop %ebx; ret\n");
extern u8 code_16[];
void call_16(void);
u32 results[4];
struct {
	u32 offset;
	u16 selector;
} __attribute__((packed)) far_16;

static void test_16_bit(void)
{
	set_descriptor(B, (u32)code_16, 0xffff, 0x9b, 0);
	far_16.offset = 0;
	far_16.selector = B;
	call_16();
	CHECK("16-bit-code-keeps-high-halves", results[2] == 0x77771234);
	CHECK("16-bit-push-and-pop", results[1] == 0xffff5555);
	CHECK("16-bit-addresses-wrap", results[3] == 0xffff5555);
	/* A 16-bit stack uses SP alone. */
	set_descriptor(C, (u32)area, 0xffff, 0x93, 0);
	u32 sp;
	asm volatile(
		"mov %%esp, %%edx; mov %%ss, %%ecx; mov %1, %%ss; mov $0x12340000, %%esp; push %%eax; mov %%esp, %0;"
		"mov %%ecx, %%ss; mov %%edx, %%esp"
		: "=r"(sp)
		: "r"((u32)C), "a"(0xcafebabe)
		: "ecx", "edx", "memory");
	CHECK("16-bit-stack-wraps-sp-only", sp == 0x1234fffc && *(u32 *)(area + 0xfffc) == 0xcafebabe);
}

/* --- gates and rings --- */

asm(".text\n"
    "gate_target: mov %cs, %ax; mov %ax, gate_cs; mov %ss, %ax; mov %ax, gate_ss; mov 8(%esp), %eax; mov %eax, "
    "gate_argument\n"
    "	lret $4\n"
    "call_gate: push $0x5151; lcall $0x48, $0; ret\n"
    "user_gate: push $0x6161; lcall $0x4b, $0; mov %cs, %ax; int $0x80\n"
    "user_gate_dpl_0: lcall $0x53, $0; int $0x80\n"
    "user_far: lcall $0x08, $user_far; int $0x80\n"
    "user_conforming: lcall $0x5b, $conforming; int $0x80\n"
    "conforming: mov %cs, %ax; mov %ax, gate_cs; lret\n");
extern u8 gate_target[];
void call_gate(void), user_gate(void), user_gate_dpl_0(void), user_far(void), user_conforming(void);
volatile u16 gate_cs, gate_ss;
volatile u32 gate_argument;

static void set_call_gate(unsigned selector, const void *target, unsigned access, unsigned words)
{
	u32 at = (u32)target;
	gdt[selector / 8] = (at & 0xffff) | CODE32 << 16 | (u64)words << 32 | (u64)access << 40 | (u64)(at >> 16) << 48;
}

static void test_gates(void)
{
	set_call_gate(A, gate_target, 0xec, 1); /* 32-bit call gate, DPL 3, one parameter */
	call_gate();
	CHECK("call-gate-at-the-same-level", gate_cs == CODE32 && gate_argument == 0x5151);
	u16 flat = 0;
	run_user(user_gate);
	CHECK("call-gate-from-cpl-3", fault.vector == 0x80 && gate_cs == CODE32);
	asm("mov %%ss, %0" : "=r"(flat));
	CHECK("call-gate-takes-ss0", gate_ss == DATA && flat == DATA);
	/* On the inner stack: return address, then the parameter, copied. */
	CHECK("call-gate-copies-parameters", gate_argument == 0x6161);
	set_call_gate(B, gate_target, 0x8c, 0);
	run_user(user_gate_dpl_0);
	CHECK("dpl-0-gate-from-cpl-3-is-gp", fault.vector == GP && fault.error == B);
	run_user(user_far);
	CHECK("far-call-to-dpl-0-code-is-gp", fault.vector == GP && fault.error == CODE32);
	set_descriptor(C, 0, 0xfffff, 0x9f, FLAG_32 | FLAG_G);
	run_user(user_conforming);
	CHECK("conforming-code-keeps-cpl", fault.vector == 0x80 && gate_cs == (C | 3));
}

void guest_main(void)
{
	test_limits();
	test_rights();
	test_instructions();
	test_16_bit();
	test_gates();
	asm volatile("mov %0, %%fs" : : "r"(0));
}
