/*
 * AMD-V's virtual machine control block, its control bits, and the MSRs of the extension (AMD APM vol. 2, chapter 15
 * and appendix B). Facts only.
 */
#ifndef STRATA_X86_VMCB_H
#define STRATA_X86_VMCB_H

#include "base/types.h"

#define MSR_TSC_RATIO   0xc0000104
#define MSR_VM_CR       0xc0010114
#define MSR_IGNNE       0xc0010115
#define MSR_SMM_CTL     0xc0010116
#define MSR_VM_HSAVE_PA 0xc0010117
#define MSR_SVM_KEY     0xc0010118
#define MSR_DOORBELL    0xc001011b

#define VM_CR_R_INIT BIT(1) /* INIT becomes #SX */
#define VM_CR_LOCK   BIT(3)
#define VM_CR_SVMDIS BIT(4)
#define VM_CR_VALID  BITS(4, 0)

/* 8.32 fixed point; 1 at reset. */
#define TSC_RATIO_ONE   BIT(32)
#define TSC_RATIO_VALID BITS(39, 0)

/* int_ctl. */
#define V_TPR          BITS(3, 0)
#define V_IRQ          BIT(8)
#define V_GIF          BIT(9)
#define V_NMI          BIT(11) /* a virtual NMI is pending */
#define V_NMI_MASK     BIT(12) /* virtual NMIs are blocked */
#define V_INTR_PRIO    BITS(19, 16)
#define V_IGN_TPR      BIT(20)
#define V_INTR_MASKING BIT(24)
#define V_GIF_ENABLE   BIT(25)
#define V_NMI_ENABLE   BIT(26)
#define X2AVIC_ENABLE  BIT(30)
#define AVIC_ENABLE    BIT(31)

#define INT_STATE_SHADOW BIT(0)

/* nested_ctl. */
#define NESTED_PAGING BIT(0)
#define NESTED_GMET   BIT(3)

#define VIRT_EXT_LBR         BIT(0)
#define VIRT_EXT_VMLOAD_SAVE BIT(1)

enum { SVM_ASIDS = 0x8000 }; /* 0 is the host's */

enum tlb_control { TLB_KEEP = 0, TLB_FLUSH_ALL = 1, TLB_FLUSH_ASID = 3, TLB_FLUSH_ASID_LOCAL = 7 };

/* EVENTINJ and EXITINTINFO; the error code is in bits 63:32. */
#define EVENTINJ_VECTOR BITS(7, 0)
#define EVENTINJ_ERROR  BIT(11)
#define EVENTINJ_VALID  BIT(31)

enum eventinj_type { EVENTINJ_INTR = 0, EVENTINJ_NMI = 2, EVENTINJ_EXCEPTION = 3, EVENTINJ_SOFT = 4 };

/* avic_physical: the table's address, and the index of its last entry. */
#define AVIC_MAX_INDEX BITS(11, 0)

/*
 * Entries of AVIC's tables (15.29.5). By a guest's physical APIC ID: where its backing page is, on which physical
 * processor it runs, if it runs. By its logical APIC ID, in 32 bits: its physical one.
 */
#define AVIC_ENTRY_HOST_ID BITS(11, 0)
#define AVIC_ENTRY_PAGE    BITS(51, 12)
#define AVIC_ENTRY_RUNNING BIT(62)
#define AVIC_ENTRY_VALID   BIT(63)
#define AVIC_LOGICAL_ID    BITS(7, 0)
#define AVIC_LOGICAL_VALID BIT(31)

/* AVIC_INCOMPLETE_IPI: EXITINFO2 bits 63:32, with the index of the table's entry in bits 11:0 (15.29.9.1). */
enum avic_ipi_fault {
	AVIC_IPI_TYPE = 0,
	AVIC_IPI_NOT_RUNNING = 1,
	AVIC_IPI_TARGET = 2,
	AVIC_IPI_PAGE = 3,
	AVIC_IPI_VECTOR = 4
};

/* AVIC_NOACCEL: EXITINFO1 is the register's offset, and whether it is written (15.29.9.2). */
#define AVIC_NOACCEL_WRITE BIT(32)

/* Permission maps. */
enum { IOPM_BYTES = 0x2001, MSRPM_BYTES = 0x2000 };

/*
 * A segment's attributes are bits 55:52 and 47:40 of its descriptor:
 *
 *   11 10 9  8    7  6..5 4  3..0
 *   G  DB L  AVL  P  DPL  S  type
 */
#define VMCB_ATTR_P BIT(7)

struct vmcb_segment {
	u16 selector, attr;
	u32 limit; /* scaled by G */
	u64 base;
};

struct vmcb_control {
	u32 intercept[6]; /* bit n of the array: exit with code n (x86/svm_exit.h) */
	u32 reserved_18[9];
	u16 pause_threshold, pause_count;
	u64 iopm, msrpm;
	u64 tsc_offset;
	u32 asid;
	u8 tlb_control; /* enum tlb_control */
	u8 reserved_5d[3];
	u32 int_ctl;
	u32 int_vector; /* bits 7:0 */
	u64 int_state;
	u64 exit_code, exit_info1, exit_info2, exit_int_info;
	u64 nested_ctl;
	u64 avic_apic_bar, ghcb;
	u64 event_inj;
	u64 ncr3;
	u64 virt_ext;
	u32 clean, reserved_c4;
	u64 next_rip;
	u8 insn_length, insn_bytes[15];
	u64 avic_backing_page, reserved_e8, avic_logical, avic_physical, reserved_100, vmsa;
	u8 reserved_110[0x400 - 0x110];
};

struct vmcb_save {
	struct vmcb_segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
	u8 reserved_a0[0xcb - 0xa0];
	u8 cpl;
	u32 reserved_cc;
	u64 efer;
	u8 reserved_d8[0x148 - 0xd8];
	u64 cr4, cr3, cr0, dr7, dr6, rflags, rip;
	u8 reserved_180[0x1d8 - 0x180];
	u64 rsp, s_cet, ssp, isst_addr, rax;
	u64 star, lstar, cstar, sfmask, kernel_gs_base, sysenter_cs, sysenter_esp, sysenter_eip;
	u64 cr2;
	u8 reserved_248[0x268 - 0x248];
	u64 g_pat, dbgctl, br_from, br_to, last_excp_from, last_excp_to;
};

struct vmcb {
	struct vmcb_control control;
	struct vmcb_save save;
};

#define VMCB_AT(part, field, offset)                                                                                   \
	_Static_assert(offsetof(struct vmcb_##part, field) == (offset), #field " is not where the manual has it")
VMCB_AT(control, pause_threshold, 0x3c);
VMCB_AT(control, iopm, 0x40);
VMCB_AT(control, tsc_offset, 0x50);
VMCB_AT(control, asid, 0x58);
VMCB_AT(control, int_ctl, 0x60);
VMCB_AT(control, int_state, 0x68);
VMCB_AT(control, exit_code, 0x70);
VMCB_AT(control, exit_int_info, 0x88);
VMCB_AT(control, nested_ctl, 0x90);
VMCB_AT(control, avic_apic_bar, 0x98);
VMCB_AT(control, event_inj, 0xa8);
VMCB_AT(control, ncr3, 0xb0);
VMCB_AT(control, virt_ext, 0xb8);
VMCB_AT(control, clean, 0xc0);
VMCB_AT(control, next_rip, 0xc8);
VMCB_AT(control, insn_length, 0xd0);
VMCB_AT(control, avic_backing_page, 0xe0);
VMCB_AT(control, avic_physical, 0xf8);
VMCB_AT(control, vmsa, 0x108);
VMCB_AT(save, gdtr, 0x60);
VMCB_AT(save, tr, 0x90);
VMCB_AT(save, cpl, 0xcb);
VMCB_AT(save, efer, 0xd0);
VMCB_AT(save, cr4, 0x148);
VMCB_AT(save, rip, 0x178);
VMCB_AT(save, rsp, 0x1d8);
VMCB_AT(save, rax, 0x1f8);
VMCB_AT(save, star, 0x200);
VMCB_AT(save, sysenter_eip, 0x238);
VMCB_AT(save, cr2, 0x240);
VMCB_AT(save, g_pat, 0x268);
VMCB_AT(save, last_excp_to, 0x290);
_Static_assert(offsetof(struct vmcb, save) == 0x400, "");
#undef VMCB_AT

#endif
