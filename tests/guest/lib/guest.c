#include "guest.h"

#include <stdarg.h>

enum { SERIAL = 0x3f8, DEBUG_EXIT = 0xf4, EXIT_PASSED = 0x10, EXIT_FAILED = 0x11 };

volatile struct fault fault;
volatile word fault_start;
void (*handlers[256])(struct frame *frame);
u8 user_stack[4096] ALIGNED(4096);

static u8 interrupt_stack[16384] ALIGNED(16);
static unsigned checks, failures;

/* --- output --- */

static void put(char c)
{
	while (!(inb(SERIAL + 5) & 0x20))
		;
	outb(SERIAL, (u8)c);
}

static void put_number(u64 value, unsigned base)
{
	char digits[24];
	unsigned n = 0;
	/* No 64-bit division in 32-bit mode: decimal numbers are small here. */
	do {
		unsigned digit = base == 16 ? value & 15 : (u32)value % 10;
		digits[n++] = "0123456789abcdef"[digit];
		value = base == 16 ? value >> 4 : (u32)value / 10;
	} while (value);
	while (n)
		put(digits[--n]);
}

void print(const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	for (; *format; format++) {
		if (*format != '%') {
			put(*format);
			continue;
		}
		unsigned longs = 0;
		while (*++format == 'l')
			longs++;
		if (*format == 's') {
			for (const char *s = va_arg(ap, const char *); *s; s++)
				put(*s);
		} else if (*format == 'c') {
			put((char)va_arg(ap, int));
		} else {
			u64 value = longs == 2 ? va_arg(ap, u64) : longs ? va_arg(ap, word) : va_arg(ap, u32);
			put_number(value, *format == 'x' ? 16 : 10);
		}
	}
	va_end(ap);
}

void check(bool kept, const char *name, const char *file, int line)
{
	print("%sok %u - %s\n", kept ? "" : "not ", ++checks, name);
	if (kept)
		return;
	failures++;
	print("# %s:%u: last fault: vector %lu error %lx ip %lx address %lx\n", file, (u32)line, fault.vector,
	      fault.error, fault.ip, fault.address);
}

void check_equal(u64 is, u64 should_be, const char *name, const char *file, int line)
{
	check(is == should_be, name, file, line);
	if (is != should_be)
		print("# is %llx, should be %llx\n", is, should_be);
}

void skip(const char *name, const char *why)
{
	print("ok %u - %s # SKIP %s\n", ++checks, name, why);
}

void guest_exit(void)
{
	print("1..%u\n", checks);
	outl(DEBUG_EXIT, failures ? EXIT_FAILED : EXIT_PASSED);
	for (;;)
		asm volatile("cli; hlt");
}

/* --- exceptions --- */

struct gate {
	u16 low, selector, type, middle;
#ifdef __x86_64__
	u32 high, reserved;
#endif
};
static struct gate idt[256] ALIGNED(16);
extern u8 exception_entries[256][16];

void set_gate(unsigned vector, void *entry, u16 selector, unsigned type_dpl, unsigned ist)
{
	word at = (word)entry;
	idt[vector] = (struct gate){ .low = (u16)at,
				     .selector = selector,
				     .type = (u16)(type_dpl << 8 | ist),
				     .middle = (u16)(at >> 16),
#ifdef __x86_64__
				     .high = (u32)(at >> 32)
#endif
	};
}

void guest_exception(struct frame *f);
void guest_exception(struct frame *f)
{
	bool from_user = user_return && ((f->cs & 3) == 3 || f->flags & BIT(17)); /* CPL 3, or virtual-8086 mode */
	bool is_exception = f->vector < 32 && f->vector != NMI;
	if (handlers[f->vector] && !(is_exception && fault.resume)) {
		handlers[f->vector](f);
		return;
	}
	fault.vector = f->vector;
	fault.error = f->error;
	fault.ip = f->ip;
	fault.address = read_cr2();
	fault.flags = f->flags;
	fault.cs = f->cs;
	fault.dr6 = f->vector == DB ? read_dr6() : 0;
	if (from_user)
		leave_user();
	if (fault.resume) {
		f->ip = fault.resume;
#ifdef __x86_64__
		f->sp = fault.resume_sp;
#endif
		fault.resume = 0;
		return;
	}
	CHECK("no unexpected exception", false);
	guest_exit();
}

/* --- start --- */

#ifdef __x86_64__
struct tss64 tss;
#else
struct tss32 tss;
#endif

static void load_tss(void)
{
	word base = (word)&tss, limit = sizeof tss - 1;
	word stack = (word)interrupt_stack + sizeof interrupt_stack;
#ifdef __x86_64__
	tss.rsp[0] = stack;
	gdt[TSS / 8 + 1] = base >> 32;
#else
	tss.esp0 = stack;
	tss.ss0 = DATA;
#endif
	tss.iomap = sizeof tss;
	gdt[TSS / 8] = limit | (u64)(base & 0xffffff) << 16 | 0x89ULL << 40 | (u64)(base >> 24 & 0xff) << 56;
	asm volatile("ltr %w0" : : "r"(TSS));
}

void open_to_user(void)
{
#ifdef __x86_64__
	boot_pml4[0] |= 4;
	boot_pdpt[0] |= 4;
	for (unsigned i = 0; i < 512; i++)
		boot_pd[0][i] |= 4;
	write_cr3(read_cr3());
#endif
}

void guest_begin(void);
void guest_begin(void)
{
	struct {
		u16 limit;
		word base;
	} __attribute__((packed)) pointer = { sizeof idt - 1, (word)idt };
	u16 selector = sizeof(word) == 8 ? CODE64 : CODE32;
	for (unsigned i = 0; i < 256; i++)
		set_gate(i, exception_entries[i], selector, i == BP || i == OF || i == 0x80 ? 0xee : 0x8e, 0);
	asm volatile("lidt %0" : : "m"(pointer));
	load_tss();
	/* The firmware left the timer's interrupt on, and PIC vectors are those of exceptions. */
	outb(0x21, 0xff);
	outb(0xa1, 0xff);
	guest_main();
	guest_exit();
}

void *memset(void *to, int byte, size_t size)
{
	void *d = to;
	asm volatile("rep stosb" : "+D"(d), "+c"(size) : "a"(byte) : "memory");
	return to;
}

void *memcpy(void *to, const void *from, size_t size)
{
	void *d = to;
	asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(size) : : "memory");
	return to;
}

int memcmp(const void *a, const void *b, size_t size)
{
	const u8 *x = a, *y = b;
	for (size_t i = 0; i < size; i++)
		if (x[i] != y[i])
			return x[i] - y[i];
	return 0;
}
