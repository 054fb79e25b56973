/* The twin of task_exits.c for AMD-V: the task-switch intercept (APM vol. 2, 15.14.1). */
#include "svm.h"

enum { TASK = 0x28 };

static u8 task_state[0x68];
static u64 task_gdt[8], task_idt[256];

L2(l2_int, ".code32; int $0x40; .code64")
L2(l2_int3, "int3")
L2(l2_into, ".code32; into; .code64")
L2(l2_ud2, "ud2")
L2(l2_call, ".code32; lcall $0x28, $0; .code64")
L2(l2_jmp, ".code32; ljmp $0x28, $0; .code64")

static void make(void (*code)(void))
{
	struct vmcb_save *s = &vmcb.save;
	const u64 base = (u64)task_state;
	task_gdt[TASK / 8] = 0x67 | (base & 0xffffff) << 16 | 0x89ULL << 40 | base >> 24 << 56;
	for (unsigned i = 0; i < ARRAY_SIZE(task_idt); i++)
		task_idt[i] = (u64)TASK << 16 | 0x85ULL << 40;
	vmcb_make(code);
	s->efer = EFER_SVME;
	s->cr0 = CR0_PE;
	s->cr4 = 0;
	s->cs = (struct vmcb_segment){ CODE32, 0xc9b, 0xffffffff, 0 };
	s->gdtr = (struct vmcb_segment){ .base = (u64)task_gdt, .limit = sizeof(task_gdt) - 1 };
	s->idtr = (struct vmcb_segment){ .base = (u64)task_idt, .limit = sizeof(task_idt) - 1 };
	s->rflags = 2 | BIT(11);
	intercept(SVM_EXIT_TASK_SWITCH);
}

static void expect(void (*code)(void), u64 info2, u64 exit_int_info)
{
	CHECK_EQUAL("it-exits", svm_run(), SVM_EXIT_TASK_SWITCH);
	CHECK_EQUAL("info-1-is-the-selector", vmcb.control.exit_info1, TASK);
	CHECK_EQUAL("info-2-says-what-kind", vmcb.control.exit_info2 & ~BIT(48), info2);
	CHECK_EQUAL("rip-is-the-instruction", vmcb.save.rip, (u64)code);
	CHECK_EQUAL("event-that-was-delivered", vmcb.control.exit_int_info, exit_int_info);
}

static const struct {
	const char *name;
	void (*code)(void);
	u64 info2, exit_int_info;
} cases[] = {
	{ "int", l2_int, 0, EVENTINJ_VALID | EVENTINJ_SOFT << 8 | 0x40 },
	{ "int3", l2_int3, 0, EVENTINJ_VALID | EVENTINJ_EXCEPTION << 8 | BP },
	{ "into", l2_into, 0, EVENTINJ_VALID | EVENTINJ_EXCEPTION << 8 | OF },
	{ "ud2", l2_ud2, 0, EVENTINJ_VALID | EVENTINJ_EXCEPTION << 8 | UD },
	{ "call", l2_call, 0, 0 },
	{ "jmp", l2_jmp, BIT(38), 0 },
};

void guest_main(void)
{
	svm_start();
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		print("# %s\n", cases[i].name);
		make(cases[i].code);
		expect(cases[i].code, cases[i].info2, cases[i].exit_int_info);
	}
	make(l2_int);
	vmcb.control.event_inj = EVENTINJ_VALID | 0x41;
	expect(l2_int, 0, EVENTINJ_VALID | 0x41);
	make(l2_int);
	no_intercept(SVM_EXIT_TASK_SWITCH);
	CHECK("without-the-intercept-the-task-is-switched", svm_run() != SVM_EXIT_TASK_SWITCH);
	guest_exit();
}
