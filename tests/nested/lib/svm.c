#include "svm.h"

u64 l2_regs[16];
struct vmcb vmcb ALIGNED(4096), other_vmcb ALIGNED(4096);
u8 iopm[3 * 4096] ALIGNED(4096), msrpm[2 * 4096] ALIGNED(4096), host_save[4096] ALIGNED(4096);
u64 npt_pml4[512] ALIGNED(4096), npt_pdpt[512] ALIGNED(4096), npt_pd[4][512] ALIGNED(4096),
	npt_pt[8][512] ALIGNED(4096);

static u8 l2_stack[8192] ALIGNED(16);

void svm_start(void)
{
	wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
	wrmsr(MSR_VM_HSAVE_PA, (u64)host_save);
	CHECK("svm-is-on", rdmsr(MSR_EFER) & EFER_SVME);
}

struct table_register {
	u16 limit;
	u64 base;
} __attribute__((packed));

static struct vmcb_segment table(const struct table_register *r)
{
	return (struct vmcb_segment){ .limit = r->limit, .base = r->base };
}

void vmcb_make(void (*code)(void))
{
	const struct vmcb_segment data = { DATA, 0xc93, 0xffffffff, 0 };
	struct vmcb_save *s = &vmcb.save;
	struct table_register gdtr, idtr;

	asm volatile("sgdt %0; sidt %1" : "=m"(gdtr), "=m"(idtr));
	memset(&vmcb, 0, sizeof(vmcb));
	asm volatile("vmsave %0" : : "a"(&vmcb) : "memory");
	s->es = s->ss = s->ds = data;
	s->cs = (struct vmcb_segment){ CODE64, 0xa9b, 0xffffffff, 0 };
	s->gdtr = table(&gdtr);
	s->idtr = table(&idtr);
	s->efer = rdmsr(MSR_EFER);
	s->cr0 = read_cr0();
	s->cr3 = read_cr3();
	s->cr4 = read_cr4();
	s->dr6 = 0xffff0ff0;
	s->dr7 = 0x400;
	s->g_pat = rdmsr(0x277);
	s->rflags = 2;
	s->rsp = (u64)l2_stack + sizeof(l2_stack) - 8;
	s->rip = (u64)code;
	vmcb.control.asid = 1;
	vmcb.control.iopm = (u64)iopm;
	vmcb.control.msrpm = (u64)msrpm;
	memset(iopm, 0, sizeof(iopm));
	memset(msrpm, 0, sizeof(msrpm));
	intercept(SVM_EXIT_VMRUN);
	intercept(SVM_EXIT_VMMCALL);
	intercept(SVM_EXIT_SHUTDOWN);
}

u64 svm_run_gif_clear(void)
{
	svm_enter(&vmcb);
	return vmcb.control.exit_code;
}

u64 svm_run(void)
{
	u64 code = svm_run_gif_clear();
	stgi();
	return code;
}

u64 svm_run_fresh(void (*code)(void))
{
	vmcb_make(code);
	return svm_run();
}

/* --- nested paging --- */

void npt_use(void)
{
	const u64 all = PTE_P | PTE_W | PTE_U, large = 0x80;
	memset(npt_pml4, 0, sizeof(npt_pml4));
	memset(npt_pdpt, 0, sizeof(npt_pdpt));
	npt_pml4[0] = (u64)npt_pdpt | all;
	for (u64 i = 0; i < 4; i++)
		npt_pdpt[i] = (u64)npt_pd[i] | all;
	for (u64 i = 0; i < 4 * 512; i++)
		npt_pd[i / 512][i % 512] = i << 21 | large | all;
	for (u64 i = 0; i < 8; i++)
		npt_pd[0][i] = (u64)npt_pt[i] | all;
	for (u64 i = 0; i < 8 * 512; i++)
		npt_pt[i / 512][i % 512] = i << 12 | all;
	vmcb.control.nested_ctl = NESTED_PAGING;
	vmcb.control.ncr3 = (u64)npt_pml4;
	vmcb.control.tlb_control = TLB_FLUSH_ALL;
}
