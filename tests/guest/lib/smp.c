#include "smp.h"

enum { APIC_ON = 0x1ff };

unsigned smp_cpus;
volatile unsigned smp_started[SMP_MAX];
u8 smp_stacks[SMP_MAX][4096] ALIGNED(16);
struct {
	u16 limit;
	word base;
} __attribute__((packed)) smp_idt;

static void (*volatile work[SMP_MAX])(unsigned cpu);
static volatile unsigned arrived, barriers;

extern u8 ap_start[], ap_start_end[], ap_gdt[];

__attribute__((noreturn)) void smp_ap_main(unsigned cpu);
void smp_ap_main(unsigned cpu)
{
	lapic_write(LAPIC_SVR, APIC_ON);
	work[cpu] = NULL;
	smp_started[cpu]++;
	irq_enable();
	for (;;) {
		if (work[cpu]) {
			work[cpu](cpu);
			irq_enable();
			work[cpu] = NULL;
		}
		pause();
	}
}

static bool all_started(void)
{
	for (unsigned i = 1; i < smp_cpus; i++)
		if (!smp_started[i])
			return false;
	return true;
}

static void copy_trampoline(void)
{
	u8 *gdt_pointer = (u8 *)AP_START + (ap_gdt - ap_start);
	memcpy((void *)AP_START, ap_start, (size_t)(ap_start_end - ap_start));
	asm volatile("sgdt (%0)" : : "r"(gdt_pointer) : "memory");
	asm volatile("sidt %0" : "=m"(smp_idt));
}

bool smp_start(void)
{
	u32 r[4];
	cpuid(0xb, 1, r);
	smp_cpus = r[1] & 0xffff;
	copy_trampoline();
	lapic_write(LAPIC_SVR, APIC_ON);
	ipi(0, ICR_OTHERS | ICR_INIT | ICR_ASSERT);
	ipi(0, ICR_OTHERS | ICR_STARTUP | AP_START >> 12);
	ipi(0, ICR_OTHERS | ICR_STARTUP | AP_START >> 12);
	return WAIT_FOR(all_started());
}

void smp_restart(unsigned cpu)
{
	ipi((u8)cpu, ICR_INIT | ICR_ASSERT);
	ipi((u8)cpu, ICR_STARTUP | AP_START >> 12);
}

void smp_run(unsigned cpu, void (*function)(unsigned cpu))
{
	work[cpu] = function;
}

bool smp_wait(unsigned cpu)
{
	return WAIT_FOR(!work[cpu]);
}

void smp_run_all(void (*function)(unsigned cpu))
{
	for (unsigned i = 1; i < smp_cpus; i++)
		smp_run(i, function);
	function(0);
	for (unsigned i = 1; i < smp_cpus; i++)
		if (!smp_wait(i)) {
			CHECK("every-cpu-comes-to-an-end", false);
			guest_exit();
		}
}

void smp_barrier(void)
{
	unsigned now = barriers;
	if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == smp_cpus) {
		arrived = 0;
		__atomic_store_n(&barriers, now + 1, __ATOMIC_SEQ_CST);
	}
	while (barriers == now)
		pause();
}
