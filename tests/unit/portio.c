/* IN, OUT, INS, OUTS: permission, restart of strings, I/O breakpoints. */
#include "machine.h"

/* A device that counts its accesses and remembers the last one. */
struct device {
	unsigned reads, writes, size;
	u64 port, value;
};

static u64 device_read(void *opaque, u64 offset, unsigned size)
{
	struct device *d = opaque;
	d->reads++;
	d->port = offset;
	d->size = size;
	return 0x44332211 + d->reads - 1;
}

static void device_write(void *opaque, u64 offset, unsigned size, u64 value)
{
	struct device *d = opaque;
	d->writes++;
	d->port = offset;
	d->size = size;
	d->value = value;
}

static const struct io_ops device_ops = { .read = device_read, .write = device_write };

enum { PORT = 0x300 };

static struct machine *machine_with_device(struct device *d)
{
	struct machine *m = machine_new();
	*d = (struct device){ 0 };
	g_assert_cmpint(bus_add_pio(&m->bus, PORT, 16, &device_ops, d, "test"), ==, 0);
	return m;
}

GUEST(in_out, "mov $0x304, %edx\n mov $-1, %rax\n in %dx, %al\n mov %rax, %rbx\n mov $-1, %rax\n in %dx, %eax\n"
	      "mov %rax, %rcx\n mov $0x1234abcd, %eax\n out %ax, %dx\n hlt");

static void test_widths(void)
{
	struct device d;
	struct machine *m = machine_with_device(&d);
	machine_load(m, in_out);
	machine_run(m);
	g_assert_cmphex(m->cpu.reg[RBX], ==, 0xffffffffffffff11ULL);
	g_assert_cmphex(m->cpu.reg[RCX], ==, 0x44332212); /* 32 bits clear the upper half */
	g_assert_cmpuint(d.writes, ==, 1);
	g_assert_cmpuint(d.port, ==, 4);
	g_assert_cmpuint(d.size, ==, 2);
	g_assert_cmphex(d.value, ==, 0xabcd);
	machine_free(m);
}

static void set_ring3(struct machine *m, unsigned iopl)
{
	for (u64 page = 0; page < 512; page++)
		machine_write_u64(m, PT + 8 * page, page << 12 | 7);
	machine_write_u64(m, PML4, PDPT | 7);
	machine_write_u64(m, PDPT, PD | 7);
	machine_write_u64(m, PD, PT | 7);
	mmu_flush_all(&m->cpu.mmu);
	m->cpu.seg[SEG_CS].ar |= 3 << 5;
	m->cpu.seg[SEG_SS].ar |= 3 << 5;
	m->cpu.cpl = 3;
	cpu_set_rflags(&m->cpu, RFLAGS_ONE | iopl << 12);
	cpu_update_mode(&m->cpu);
	machine_write_u64(m, TSS + 4, STACK - 0x2000);
}

GUEST(in_word, "mov %r8d, %edx\n in %dx, %ax\n hlt");

/* Every bit of the map guards its port; a word needs both of its bits. */
static void test_bitmap(void)
{
	struct device d;
	struct machine *m = machine_with_device(&d);
	machine_load(m, in_word);
	for (unsigned denied = PORT; denied < PORT + 12; denied++) {
		for (unsigned port = PORT; port < PORT + 11; port++) {
			machine_set_long_mode(m);
			set_ring3(m, 0);
			m->cpu.seg[SEG_TR].limit = 0x68 + 0x2000;
			m->mem.host[TSS + 0x66] = 0x68;
			memset(m->mem.host + TSS + 0x68 + PORT / 8, 0, 4);
			m->mem.host[TSS + 0x68 + denied / 8] = (u8)(1 << denied % 8);
			m->cpu.reg[R8] = port;
			d.reads = 0;
			machine_run(m);
			bool allowed = port != denied && port + 1 != denied;
			g_assert_cmpuint(d.reads, ==, allowed);
			/* HLT in ring 3 is #GP too, but one instruction further. */
			g_assert_cmphex(machine_frame(m, 1), ==, CODE + (allowed ? 5 : 3));
		}
	}
	machine_free(m);
}

/* The map must hold the byte after the port's, too. */
static void test_bitmap_limit(void)
{
	struct device d;
	struct machine *m = machine_with_device(&d);
	machine_load(m, in_word);
	for (unsigned short_by = 0; short_by < 2; short_by++) {
		machine_set_long_mode(m);
		set_ring3(m, 0);
		m->mem.host[TSS + 0x66] = 0x68;
		memset(m->mem.host + TSS + 0x68, 0, 0x2000 / 8);
		m->cpu.seg[SEG_TR].limit = 0x68 + PORT / 8 + 1 - short_by;
		m->cpu.reg[R8] = PORT;
		d.reads = 0;
		machine_run(m);
		g_assert_cmpuint(d.reads, ==, short_by ? 0 : 1);
	}
	machine_free(m);
}

static void test_iopl(void)
{
	struct device d;
	struct machine *m = machine_with_device(&d);
	machine_load(m, in_word);
	set_ring3(m, 3);
	m->cpu.reg[R8] = PORT;
	machine_run(m);
	g_assert_cmpuint(d.reads, ==, 1);
	machine_free(m);
}

GUEST(rep_ins, "mov $0x300, %edx\n mov $0x180ffe, %edi\n mov $5, %ecx\n cld\n rep insb\n hlt");

/* A page fault in the middle: what was read is stored and counted, and no element is read from the port for nothing. */
static void test_rep_ins_fault(void)
{
	struct device d;
	struct machine *m = machine_with_device(&d);
	machine_load(m, rep_ins);
	machine_map(m, 0x181000, 0, 0);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_PF);
	g_assert_cmphex(m->cpu.cr2, ==, 0x181000);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 3);
	g_assert_cmphex(m->cpu.reg[RDI], ==, 0x181000);
	g_assert_cmpuint(d.reads, ==, 2);
	g_assert_cmphex(m->mem.host[0x180fff], ==, 0x12);
	machine_free(m);
}

GUEST(rep_outs, "mov $0x300, %edx\n mov $0x180003, %esi\n mov $4, %ecx\n std\n rep outsb\n hlt");

static void test_rep_outs_backwards(void)
{
	struct device d;
	struct machine *m = machine_with_device(&d);
	machine_load(m, rep_outs);
	memcpy(m->mem.host + DATA, "\x0a\x0b\x0c\x0d", 4);
	machine_run(m);
	g_assert_cmpuint(d.writes, ==, 4);
	g_assert_cmphex(d.value, ==, 0x0a);
	g_assert_cmphex(m->cpu.reg[RSI], ==, DATA - 1);
	g_assert_cmpuint(m->cpu.reg[RCX], ==, 0);
	machine_free(m);
}

GUEST(rep_none, "mov $0x300, %edx\n xor %ecx, %ecx\n rep insb\n hlt");

static void test_rep_zero(void)
{
	struct device d;
	struct machine *m = machine_with_device(&d);
	machine_load(m, rep_none);
	machine_run(m);
	g_assert_cmpuint(d.reads, ==, 0);
	machine_free(m);
}

static void test_io_breakpoint(void)
{
	struct device d;
	struct machine *m = machine_with_device(&d);
	machine_load(m, in_out);
	m->cpu.cr4 |= CR4_DE;
	m->cpu.dr[1] = PORT + 4;
	m->cpu.dr[7] = DR7_FIXED1 | 0x4 | 0x2ULL << 20;
	cpu_update_mode(&m->cpu);
	machine_run(m);
	g_assert_cmpuint(m->cpu.reg[RAX] & 0xff, ==, VEC_DB);
	g_assert_cmphex(m->cpu.dr[6], ==, DR6_FIXED1 | 2);
	g_assert_cmpuint(d.reads, ==, 1); /* after the first access */
	machine_free(m);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_test_add_func("/portio/widths-merge-like-registers", test_widths);
	g_test_add_func("/portio/bitmap-guards-every-port", test_bitmap);
	g_test_add_func("/portio/bitmap-needs-the-next-byte", test_bitmap_limit);
	g_test_add_func("/portio/iopl-allows-without-bitmap", test_iopl);
	g_test_add_func("/portio/rep-ins-stops-before-a-page-fault", test_rep_ins_fault);
	g_test_add_func("/portio/rep-outs-runs-backwards", test_rep_outs_backwards);
	g_test_add_func("/portio/rep-with-no-count-does-nothing", test_rep_zero);
	g_test_add_func("/portio/io-breakpoint-traps-after-the-access", test_io_breakpoint);
	return g_test_run();
}
