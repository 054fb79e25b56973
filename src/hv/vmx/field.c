/*
 * How VMX instructions end (SDM vol. 3, 31.2), and VMREAD and VMWRITE: of the current VMCS, or in non-root operation
 * with "VMCS shadowing" of the VMCS that the link pointer names (25.10).
 */
#include "base/trace.h"
#include "cpu/access.h"
#include "hv/vmx/vmx.h"

/* --- how they end --- */

void vmx_succeed(struct cpu *cpu)
{
	cpu->arith = 0;
}

void vmx_fail_invalid(struct cpu *cpu)
{
	cpu->arith = ARITH_CF;
}

void vmx_fail(struct cpu *cpu, enum vmx_error error)
{
	struct vmx *vmx = vmx_of(cpu);
	TRACE(vmx, "%s fails: error %d", exit_reason_name(cpu->insn->cond), error);
	if (vmx->current == VMCS_NONE) {
		vmx_fail_invalid(cpu);
		return;
	}
	vmx->vmcs.insn_error = error;
	cpu->arith = ARITH_ZF;
}

/* --- operands --- */

u64 vmx_register_operand(const struct cpu *cpu, unsigned gpr)
{
	return cpu->mode == CPU_LONG ? cpu->reg[gpr] : (u32)cpu->reg[gpr];
}

static unsigned operand_bytes(const struct cpu *cpu)
{
	return cpu->mode == CPU_LONG ? 8 : 4;
}

/* The register that holds the encoding: the second operand of VMREAD, the first of VMWRITE. */
static u64 encoding_operand(const struct cpu *cpu, const struct insn *insn)
{
	return vmx_register_operand(cpu, insn->cond == EXIT_VMREAD ? insn->src : insn->dst);
}

/* --- which VMCS --- */

/* The bitmap's bit for an encoding says that the access exits; so do encodings beyond the bitmap, and one in no RAM. */
bool vmx_field_shadowed(struct cpu *cpu, const struct insn *insn)
{
	const struct vmx *vmx = vmx_of(cpu);
	bool read = insn->cond == EXIT_VMREAD;
	if ((!read && insn->cond != EXIT_VMWRITE) || !vmx_cpu2(vmx, CPU2_VMCS_SHADOWING))
		return false;
	u64 encoding = encoding_operand(cpu, insn);
	if (encoding >> 15)
		return false;
	u8 bits = 0xff;
	mem_read(cpu->mem, (read ? vmx->vmcs.vmread_bitmap : vmx->vmcs.vmwrite_bitmap) + encoding / 8, &bits, 1);
	return !(bits >> (encoding & 7) & 1);
}

/* What VMREAD and VMWRITE work on: a VMCS in this process, which may be guest memory; NULL: the region is no RAM. */
struct target {
	struct vmcs *vmcs;
	u64 ram_offset; /* of a shadow VMCS; RAM_OFFSET_NONE: the current VMCS */
};

/* false: VMfailInvalid. */
static bool find_target(struct vmx *vmx, struct target *t)
{
	*t = (struct target){ &vmx->vmcs, RAM_OFFSET_NONE };
	if (!vmx->cpu->non_root)
		return vmx->current != VMCS_NONE;
	const struct mem *mem = vmx->cpu->mem;
	gpa_t link = vmx->vmcs.link_pointer;
	t->vmcs = (struct vmcs *)mem_host(mem, link, VMCS_REGION_SIZE);
	t->ram_offset = mem_ram_offset(mem, link);
	return link != VMCS_NONE;
}

static const struct vmcs_field *find_field(struct cpu *cpu, u64 encoding)
{
	const struct vmcs_field *field = vmcs_field_find(encoding);
	if (unlikely(!field)) {
		TRACE(vmx, "%s of field %llx, which there is not", exit_reason_name(cpu->insn->cond),
		      (unsigned long long)encoding);
		vmx_fail(cpu, VMERR_UNSUPPORTED_FIELD);
	}
	return field;
}

/* --- the instructions --- */

void vmx_vmread(struct cpu *cpu, const struct insn *insn)
{
	u64 encoding = encoding_operand(cpu, insn);
	struct target target;
	if (unlikely(!find_target(vmx_of(cpu), &target))) {
		vmx_fail_invalid(cpu);
		return;
	}
	const struct vmcs_field *field = find_field(cpu, encoding);
	if (unlikely(!field))
		return;
	u64 value = likely(target.vmcs) ? vmcs_field_read(target.vmcs, field, encoding) : ~0ULL;
	if (!(insn->flags & INSN_MEM))
		cpu->reg[insn->dst] = operand_bytes(cpu) == 8 ? value : (u32)value;
	else if (operand_bytes(cpu) == 8)
		mem_write64(cpu, access_linear(cpu, insn, 8, MMU_WRITE), value);
	else
		mem_write32(cpu, access_linear(cpu, insn, 4, MMU_WRITE), (u32)value);
	vmx_succeed(cpu);
}

static u64 value_operand(struct cpu *cpu, const struct insn *insn)
{
	if (!(insn->flags & INSN_MEM))
		return vmx_register_operand(cpu, insn->src);
	if (operand_bytes(cpu) == 8)
		return mem_read64(cpu, access_linear(cpu, insn, 8, MMU_READ));
	return mem_read32(cpu, access_linear(cpu, insn, 4, MMU_READ));
}

/* Every field can be written, those of exit information too (IA32_VMX_MISC bit 29). */
void vmx_vmwrite(struct cpu *cpu, const struct insn *insn)
{
	struct vmx *vmx = vmx_of(cpu);
	u64 encoding = encoding_operand(cpu, insn);
	struct target target;
	if (unlikely(!find_target(vmx, &target))) {
		vmx_fail_invalid(cpu);
		return;
	}
	u64 value = value_operand(cpu, insn);
	const struct vmcs_field *field = find_field(cpu, encoding);
	if (unlikely(!field))
		return;
	if (target.ram_offset == RAM_OFFSET_NONE && !cpu->non_root)
		vmx->checked &= ~vmx_checks_of_field(encoding);
	bool in_memory = target.vmcs && target.ram_offset != RAM_OFFSET_NONE;
	bool code = in_memory && mem_about_to_write(cpu->mem, target.ram_offset + field->offset, sizeof(u64));
	if (likely(target.vmcs))
		vmcs_field_write(target.vmcs, field, encoding, value);
	if (unlikely(code))
		mem_wrote(cpu->mem, target.ram_offset + field->offset, sizeof(u64));
	vmx_succeed(cpu);
}
