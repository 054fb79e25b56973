/* Posted-interrupt descriptors: who keeps code of their page hears of each change, and last when all bytes are there.
 */
#undef _GNU_SOURCE /* its <signal.h> has a REG_RIP too */

#include "hv/vmx/vmx.h"

#include <glib.h>
#include <string.h>

enum { DESCRIPTOR = 0x2040, VIRTUAL_APIC = 0x4000, PID_TABLE = 0x5000, VECTOR = 0x61, NOTIFICATION = 0xf2 };
enum { MSR_ICR = 0x830, TARGET = 1 };

static struct cpu_config config = { .nested = NESTED_VTX, .phys_bits = 40 };
static struct cpu_platform platform;
static struct mem mem;
static struct vmx vmx;
static struct cpu *cpu;
static u64 last_heard[8]; /* the descriptor as it was at the last call */

static void on_code_written(void *opaque, u64 offset, u64 size)
{
	g_assert_cmphex(offset, ==, DESCRIPTOR);
	g_assert_cmpuint(size, ==, sizeof(last_heard));
	memcpy(last_heard, mem.host + DESCRIPTOR, sizeof(last_heard));
}

static void setup(void)
{
	cpu = g_new0(struct cpu, 1);
	memset(&vmx, 0, sizeof(vmx));
	g_assert_cmpint(mem_init(&mem, 1 << 20), ==, 0);
	mem.code_written = on_code_written;
	mem.flags[DESCRIPTOR >> PAGE_SHIFT] = PAGE_HAS_CODE;
	memset(last_heard, 0, sizeof(last_heard));
	cpu->config = &config;
	cpu->platform = &platform;
	cpu->mem = &mem;
	cpu->hv_state = &vmx;
	vmx.cpu = cpu;
	vmx.vmcs.cpu_controls = CPU_TPR_SHADOW | CPU_SECONDARY | CPU_TERTIARY;
	vmx.vmcs.cpu_controls2 = CPU2_VIRTUAL_INTERRUPTS | CPU2_X2APIC;
	vmx.vmcs.cpu_controls3 = CPU3_IPI;
	vmx.vmcs.pin_controls = PIN_POSTED_INTERRUPTS;
	vmx.vmcs.posted_vector = NOTIFICATION;
	vmx.vmcs.posted_descriptor = DESCRIPTOR;
	vmx.vmcs.virtual_apic = VIRTUAL_APIC;
	vmx.vmcs.pid_table = PID_TABLE;
	vmx.vmcs.last_pid_index = TARGET;
	mem_write_u64(&mem, PID_TABLE + TARGET * 8, DESCRIPTOR | 1);
}

static void teardown(void)
{
	mem_destroy(&mem);
	g_free(cpu);
}

static void expect_all_heard(void)
{
	g_assert_cmpmem(last_heard, sizeof(last_heard), mem.host + DESCRIPTOR, sizeof(last_heard));
}

static void test_posting(void)
{
	setup();
	g_assert_true(vmx_apic_msr_write(cpu, MSR_ICR, (u64)TARGET << 32 | VECTOR));
	g_assert_cmphex(mem_read_u64(&mem, DESCRIPTOR + VECTOR / 64 * 8), ==, BIT(VECTOR % 64));
	g_assert_cmphex(mem_read_u64(&mem, DESCRIPTOR + 32), ==, 1);
	expect_all_heard();
	teardown();
}

static void test_taking(void)
{
	u64 descriptor[8] = { [VECTOR / 64] = BIT(VECTOR % 64), [4] = 1 };
	setup();
	memcpy(mem.host + DESCRIPTOR, descriptor, sizeof(descriptor));
	g_assert_true(vmx_vapic_posted(cpu, NOTIFICATION));
	g_assert_cmphex(vmx.vmcs.guest_interrupt_status, ==, VECTOR);
	g_assert_cmphex(mem_read_u64(&mem, DESCRIPTOR + VECTOR / 64 * 8), ==, 0);
	g_assert_cmphex(mem_read_u64(&mem, DESCRIPTOR + 32), ==, 0);
	expect_all_heard();
	teardown();
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/vmx-posted/posting-tells-of-the-write", test_posting);
	g_test_add_func("/vmx-posted/taking-tells-of-the-writes", test_taking);
	return g_test_run();
}
