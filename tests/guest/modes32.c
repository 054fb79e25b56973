/* Real mode and virtual-8086 mode: addressing, limits, interrupts through the IVT, and what virtual-8086 mode traps. */
#include "lib/guest.h"

/*
 * 16-bit code is copied to 0x8000 and addressed as segment 0x0800; its results go to 0x9000, segment 0x0900.
 * The interrupt vector table stays at 0.
 */
#define LOW_CODE 0x8000
#define RESULTS  ((volatile u16 *)0x9000)

asm(".text\n"
    "low_begin:\n"
    ".code16\n"
    /* Entered in 16-bit protected mode; the real thing after CR0.PE is cleared and CS is loaded. */
    "real_entry:\n"
    "	mov $0x58, %ax; mov %ax, %ds; mov %ax, %es; mov %ax, %ss\n" /* limits of 64 KiB stay behind */
    "	mov %cr0, %eax; and $~1, %eax; mov %eax, %cr0\n"
    "	ljmp $0x0800, $1f - low_begin\n"
    "1:	mov $0x0900, %ax; mov %ax, %ds; mov %ax, %ss; mov $0x0f00, %sp\n"
    "	mov %cs, %ax; mov %ax, 0\n"
    "	mov $0x1234, %ax; mov %ax, %es; mov %es, 2\n"
    "	movw $0xabcd, %es:0x10\n" /* 0x12340 + 0x10 */
    "	mov $0x5555, %ax; int $0x60; mov %ax, 4\n"
    "	pushf; pop %ax; mov %ax, 6\n"
    "	sti; pushf; pop %ax; cli; mov %ax, 8\n"
    /* A word at the end of the segment: #GP through the IVT, vector 13, no error code. */
    "	mov $0xffff, %bx; mov $2f - low_begin, %cx; mov (%bx), %ax\n"
    "2:	mov %dx, 10; mov %sp, 12\n"
    /* The same by the stack: #SS, vector 12. */
    "	mov $0, %dx; mov $3f - low_begin, %cx; mov $0xffff, %bp; mov %ss:(%bp), %ax\n"
    "3:	mov %dx, 14\n"
    "	mov $0, %dx; mov $4f - low_begin, %cx; xor %ax, %ax; div %al\n"
    "4:	mov %dx, 16\n"
    "	mov $0, %dx; mov $5f - low_begin, %cx; .byte 0x0f, 0x0b\n"
    "5:	mov %dx, 18\n"
    /* 32-bit operands and addresses work, within the limit. */
    "	mov $0x12345678, %eax; mov $0x20, %ebx; mov %eax, (%ebx)\n"
    "	mov $0, %dx; mov $6f - low_begin, %cx; mov $0x10000, %ebx; mov (%ebx), %al\n"
    "6:	mov %dx, 22\n"
    /* Protected-mode instructions do not exist here. */
    "	mov $0, %dx; mov $7f - low_begin, %cx; str %ax\n"
    "7:	mov %dx, 24\n"
    /* A far call and a jump to another segment with the same code. */
    "	mov $0, %ax; lcall $0x07f0, $far_function - low_begin + 0x100; mov %ax, 26\n"
    "	smsw %ax; mov %ax, 28\n"
    "	mov %cr0, %eax; or $1, %eax; mov %eax, %cr0\n"
    "	ljmpl $0x08, $real_leave\n"
    "far_function: mov %cs, %ax; lret\n"
    "ivt_60: xor $0xffff, %ax; iret\n"
    /* Fault handlers note the vector and go on at CX. */
    "ivt_13: mov $13, %dx; jmp 1f\n"
    "ivt_12: mov $12, %dx; jmp 1f\n"
    "ivt_6:  mov $6, %dx; jmp 1f\n"
    "ivt_0:  mov $0x100, %dx\n"
    "1:	mov %sp, %bp; mov %cx, (%bp); iret\n"
    /* Virtual-8086 mode: each ends in an exception that the monitor takes. */
    "v86_hlt: mov $0x0900, %ax; mov %ax, %ds; movw $0x8686, 0x40; pushf; pop %ax; mov %ax, 0x42; hlt\n"
    "v86_cli: cli; hlt\n"
    "v86_int: int $0x80; hlt\n"
    "v86_limit: mov $0xffff, %bx; mov (%bx), %ax; hlt\n"
    "v86_in: in $0x80, %al; hlt\n"
    "v86_cr0: mov %cr0, %eax; hlt\n"
    "v86_sti: sti; pushf; pop %ax; hlt\n"
    "v86_str: str %ax; hlt\n"
    "low_end:\n"
    ".code32\n"
    "enter_real:\n"
    "	pusha; mov %esp, saved_esp; sidt saved_idt; lidt real_idt; ljmp $0x50, $0\n"
    "real_leave:\n"
    "	mov $0x10, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss; mov saved_esp, %esp; lidt saved_idt; popa; ret\n"
    ".data\n"
    "real_idt: .word 0x3ff; .long 0\n"
    "saved_idt: .word 0; .long 0\n"
    "saved_esp: .long 0\n"
    ".text\n");
extern u8 low_begin[], low_end[], ivt_60[], ivt_13[], ivt_12[], ivt_6[], ivt_0[];
extern u8 v86_hlt[], v86_cli[], v86_int[], v86_limit[], v86_in[], v86_cr0[], v86_sti[], v86_str[];
void enter_real(void);

static void set_ivt(unsigned vector, const u8 *handler)
{
	((volatile u32 *)0)[vector] = 0x0800u << 16 | (u32)(handler - low_begin);
}

static void test_real_mode(void)
{
	memcpy((void *)LOW_CODE, low_begin, (size_t)(low_end - low_begin));
	memset((void *)RESULTS, 0xee, 256);
	set_ivt(0x60, ivt_60);
	set_ivt(13, ivt_13);
	set_ivt(12, ivt_12);
	set_ivt(6, ivt_6);
	set_ivt(0, ivt_0);
	gdt[GDT_FREE / 8 + 1] = 0x00009b000000ffff | (u64)LOW_CODE << 16; /* selector 0x50: 16-bit code at 0x8000 */
	gdt[GDT_FREE / 8 + 2] = 0x000093000000ffff;                       /* 0x58: 16-bit data */
	*(volatile u16 *)0x12350 = 0;
	enter_real();
	CHECK("real-mode-cs", RESULTS[0] == 0x0800);
	CHECK("real-mode-segment-load-takes-any-value", RESULTS[1] == 0x1234);
	CHECK("real-mode-base-is-16-times-the-selector", *(volatile u16 *)0x12350 == 0xabcd);
	CHECK("real-mode-int-through-the-ivt", RESULTS[2] == 0xaaaa);
	CHECK("real-mode-flags", (RESULTS[3] & 0xf002) == 0x0002);
	CHECK("real-mode-sti", RESULTS[4] & BIT(9));
	CHECK("real-mode-word-across-64-kib-is-gp", RESULTS[5] == 13);
	CHECK("real-mode-exception-has-no-error-code", RESULTS[6] == 0x0f00);
	CHECK("real-mode-stack-word-across-64-kib-is-ss", RESULTS[7] == 12);
	CHECK("real-mode-divide-error", RESULTS[8] == 0x100);
	CHECK("real-mode-ud2", RESULTS[9] == 6);
	CHECK("real-mode-32-bit-operands", *(volatile u32 *)(0x9000 + 0x20) == 0x12345678);
	CHECK("real-mode-32-bit-offset-beyond-limit-is-gp", RESULTS[11] == 13);
	CHECK("real-mode-str-is-ud", RESULTS[12] == 6);
	CHECK("real-mode-far-call", RESULTS[13] == 0x07f0);
	CHECK("real-mode-smsw-shows-pe-clear", !(RESULTS[14] & 1));
}

/* --- virtual-8086 mode --- */

#define VM BIT(17)

/* enter_v86(ip, flags): like enter_user(), with the stack frame that IRET to virtual-8086 mode wants. */
asm(".text\n"
    "enter_v86:\n"
    "	mov 4(%esp), %eax; mov 8(%esp), %ecx\n"
    "	push %ebx; push %ebp; push %esi; push %edi; mov %esp, user_return\n"
    "	push $0; push $0; push $0x0900; push $0x0900\n" /* GS FS DS ES */
    "	push $0x0900; push $0x0f00; push %ecx; push $0x0800; push %eax; iret\n");
void enter_v86(word ip, word flags);

static word run_v86(const u8 *code, word flags)
{
	fault.vector = NO_FAULT;
	enter_v86((word)(code - low_begin), flags | VM | 2);
	return fault.vector;
}

static bool v86_gp(const u8 *code, word flags)
{
	return run_v86(code, flags) == GP && fault.error == 0 && fault.cs == 0x0800 && fault.flags & VM;
}

enum { IOPL_3 = 3 << 12 };

static void test_v86(void)
{
	CHECK("v86-hlt-is-gp", v86_gp(v86_hlt, IOPL_3));
	CHECK("v86-writes-at-16-times-the-selector", *(volatile u16 *)0x9040 == 0x8686);
	CHECK("v86-pushf-shows-iopl", (*(volatile u16 *)0x9042 & IOPL_3) == IOPL_3);
	CHECK("v86-saved-ip-is-the-offset", fault.ip == (word)(v86_cli - low_begin) - 1);
	CHECK("v86-cli-with-iopl-3-runs", v86_gp(v86_cli, IOPL_3) && fault.ip == (word)(v86_int - low_begin) - 1);
	CHECK("v86-cli-with-iopl-0-is-gp", v86_gp(v86_cli, 0) && fault.ip == (word)(v86_cli - low_begin));
	CHECK("v86-int-with-iopl-3-takes-the-idt", run_v86(v86_int, IOPL_3) == 0x80 && fault.flags & VM);
	CHECK("v86-int-with-iopl-0-is-gp", v86_gp(v86_int, 0) && fault.ip == (word)(v86_int - low_begin));
	CHECK("v86-limit-is-64-kib", v86_gp(v86_limit, IOPL_3) && fault.ip == (word)(v86_limit - low_begin) + 3);
	CHECK("v86-in-asks-the-permission-map", v86_gp(v86_in, IOPL_3) && fault.ip == (word)(v86_in - low_begin));
	CHECK("v86-mov-cr0-is-gp", v86_gp(v86_cr0, IOPL_3) && fault.ip == (word)(v86_cr0 - low_begin));
	CHECK("v86-str-is-ud", run_v86(v86_str, IOPL_3) == UD);
	/* VME: STI sets the virtual flag, which the saved flags show. */
	u32 r[4];
	cpuid(1, 0, r);
	if (r[3] & BIT(1)) {
		write_cr4(read_cr4() | BIT(0));
		CHECK("vme-sti-with-iopl-0-sets-vif",
		      v86_gp(v86_sti, 0) && fault.flags & BIT(19) && !(fault.flags & BIT(9)));
		CHECK("vme-sti-with-vip-is-gp", v86_gp(v86_sti, BIT(20)) && fault.ip == (word)(v86_sti - low_begin));
		write_cr4(read_cr4() & ~BIT(0));
	} else {
		skip("vme", "not in CPUID");
	}
}

void guest_main(void)
{
	test_real_mode();
	test_v86();
}
