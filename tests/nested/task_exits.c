/*
 * Task switches exit, after what they check themselves. RIP and instruction length say where they came from: an
 * instruction, INT n and its like among them, or an event that met a task gate (SDM vol. 3, 28.3.3 and 28.2.5). L2 is
 * 32-bit code without paging.
 */
#include "vmx.h"

enum { TASK = 0x28, SOURCE_CALL = 0, SOURCE_JMP = 2, SOURCE_GATE = 3 };

static u8 task_state[0x68];
static u64 task_gdt[8], task_idt[256];

L2(l2_int, ".code32; int $0x40; .code64")
L2(l2_int3, "int3")
L2(l2_into, ".code32; into; .code64")
L2(l2_int1, ".byte 0xf1")
L2(l2_ud2, "ud2")
L2(l2_call, ".code32; lcall $0x28, $0; .code64")
L2(l2_jmp, ".code32; ljmp $0x28, $0; .code64")

static void make(void (*code)(void))
{
	const u64 base = (u64)task_state;
	task_gdt[TASK / 8] = 0x67 | (base & 0xffffff) << 16 | 0x89ULL << 40 | base >> 24 << 56;
	for (unsigned i = 0; i < ARRAY_SIZE(task_idt); i++)
		task_idt[i] = (u64)TASK << 16 | 0x85ULL << 40;
	vmcs_make(code);
	vmcs_clear_bits(F(entry_controls), ENTRYC_GUEST_LONG);
	ept_use();
	vmcs_set(F(cpu_controls2), CPU2_UNRESTRICTED_GUEST);
	vmwrite(F(guest_cr0), CR0_PE | CR0_NE);
	vmwrite(F(guest_cr4), CR4_VMXE);
	vmwrite(F(guest_efer), 0);
	vmwrite(F(guest_cs_selector), CODE32);
	vmwrite(F(guest_cs_ar), 0xc09b);
	vmwrite(F(guest_gdtr_base), (u64)task_gdt);
	vmwrite(F(guest_gdtr_limit), sizeof(task_gdt) - 1);
	vmwrite(F(guest_idtr_base), (u64)task_idt);
	vmwrite(F(guest_idtr_limit), sizeof(task_idt) - 1);
	vmwrite(F(guest_rflags), 2 | BIT(11));
}

static void expect(void (*code)(void), u64 source, u32 vectoring)
{
	CHECK_EQUAL("it-exits", vmx_run(), EXIT_TASK_SWITCH);
	CHECK_EQUAL("qualification-has-selector-and-source", vmread(F(qualification)), TASK | source << 30);
	CHECK_EQUAL("rip-is-the-instruction", vmread(F(guest_rip)), (u64)code);
	CHECK_EQUAL("vectoring-information", vmread(F(vectoring_event)), vectoring);
}

static const struct {
	const char *name;
	void (*code)(void);
	u32 length;
	u64 source;
	u32 vectoring;
} instructions[] = {
	{ "int", l2_int, 2, SOURCE_GATE, EVENT_INFO_VALID | 4 << 8 | 0x40 },
	{ "int3", l2_int3, 1, SOURCE_GATE, EVENT_INFO_VALID | 6 << 8 | BP },
	{ "into", l2_into, 1, SOURCE_GATE, EVENT_INFO_VALID | 6 << 8 | OF },
	{ "int1", l2_int1, 1, SOURCE_GATE, EVENT_INFO_VALID | 5 << 8 | DB },
	{ "call", l2_call, 7, SOURCE_CALL, 0 },
	{ "jmp", l2_jmp, 7, SOURCE_JMP, 0 },
};

static void test_instructions(void)
{
	for (unsigned i = 0; i < ARRAY_SIZE(instructions); i++) {
		print("# %s\n", instructions[i].name);
		make(instructions[i].code);
		expect(instructions[i].code, instructions[i].source, instructions[i].vectoring);
		CHECK_EQUAL("length-is-the-instructions", vmread(F(exit_insn_length)), instructions[i].length);
	}
}

/* The old task would go on at the faulting instruction. */
static void test_fault(void)
{
	make(l2_ud2);
	expect(l2_ud2, SOURCE_GATE, EVENT_INFO_VALID | 3 << 8 | UD);
}

/* An injected INT n is one of the guest's; an interrupt is not, and RIP is where the old task would go on. */
static void test_injection(void)
{
	make(l2_int);
	vmwrite(F(entry_event), EVENT_INFO_VALID | 4 << 8 | 0x41);
	vmwrite(F(entry_insn_length), 2);
	expect(l2_int, SOURCE_GATE, EVENT_INFO_VALID | 4 << 8 | 0x41);
	CHECK_EQUAL("length-is-the-injected-one", vmread(F(exit_insn_length)), 2);
	make(l2_int);
	vmwrite(F(guest_rflags), 2 | FLAG_IF);
	vmwrite(F(entry_event), EVENT_INFO_VALID | 0x41);
	expect(l2_int, SOURCE_GATE, EVENT_INFO_VALID | 0x41);
}

void guest_main(void)
{
	vmx_start();
	test_instructions();
	test_fault();
	test_injection();
}
