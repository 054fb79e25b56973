/*
 * The ground small guests stand on: output, results, faults that a test expects, CPL 3, privileged registers.
 *
 * A guest is guest_main() plus this library, in 64-bit or (compiled -m32) 32-bit mode; it prints TAP on the first
 * serial port and ends through the debug-exit port. CHECK() prints one line that names an expectation; a guest that
 * dies, hangs or skips lines fails because the plan comes last.
 */
#ifndef TESTS_GUEST_GUEST_H
#define TESTS_GUEST_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef unsigned long word; /* of the width of the mode */

#define BIT(n)        (1ULL << (n))
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define ALIGNED(n)    __attribute__((aligned(n)))

enum {
	CODE32 = 0x08,
	DATA = 0x10,
	CODE64 = 0x18,
	USER_CODE32 = 0x23,
	USER_DATA = 0x2b,
	TSS = 0x30,
	USER_CODE64 = 0x43,
	GDT_FREE = 0x48 /* first of 23 free entries */
};

enum { DE, DB, NMI, BP, OF, BR, UD, NM, DF, TS = 10, NP, SS, GP, PF, MF = 16, AC, MC, XM, NO_FAULT = 256 };

void guest_main(void); /* the test */

/* --- output and results --- */

void print(const char *format, ...); /* %s %c %u %x; %lu %lx: a word; %llu %llx: a u64 */

/* One expectation, kept or not; the values show only if not. */
void check(bool kept, const char *name, const char *file, int line);
#define CHECK(name, condition) check(condition, name, __FILE__, __LINE__)
/* The same, with two numbers to be equal, which are shown if they are not. */
void check_equal(u64 is, u64 should_be, const char *name, const char *file, int line);
#define CHECK_EQUAL(name, is, should_be) check_equal(is, should_be, name, __FILE__, __LINE__)

void skip(const char *name, const char *why);
__attribute__((noreturn)) void guest_exit(void);

/* --- faults --- */

struct frame {
#ifdef __x86_64__
	word r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
#else
	word es, ds, di, si, bp, unused, bx, dx, cx, ax;
#endif
	word vector, error, ip, cs, flags, sp, ss; /* sp and ss: 64-bit mode, or from CPL 3 */
};

/* What the last expected fault was; `vector` is NO_FAULT if none came. */
struct fault {
	/* Where to go on (0: no fault is expected) and, in 64-bit mode, on which stack. TRY() fills them by offset. */
	word resume, resume_sp;
	word vector, error, ip, address, flags, cs, dr6;
};
extern volatile struct fault fault;

/*
 * Runs assembly that may fault; a fault goes on behind it. The value is the vector. Operands follow as in asm(), e.g.
 * TRY("mov (%0), %%eax", : : "r"(p) : "eax", "memory") (mind the comma); label 99 is taken.
 */
#ifdef __x86_64__
#define TRY_ARM  "movq $99f, fault(%%rip)\n\tmovq %%rsp, fault+8(%%rip)\n\t"
#define TRY_MARK "movq $98f, fault_start(%%rip)\n98:"
#else
#define TRY_ARM  "movl $99f, fault\n\t"
#define TRY_MARK "movl $98f, fault_start\n98:"
#endif
#define TRY(code, ...)                                                                                                 \
	({                                                                                                             \
		fault.vector = NO_FAULT;                                                                               \
		asm volatile(TRY_ARM code "\n99:" __VA_ARGS__);                                                        \
		fault.resume = 0;                                                                                      \
		fault.vector;                                                                                          \
	})

/* TRY() that notes where the code begins: is_fault() then knows that its first instruction faulted, with its own
 * address. */
#define TRY_AT(code, ...) TRY(TRY_MARK code, __VA_ARGS__)
extern volatile word fault_start;
static inline bool is_fault(word vector, word error)
{
	return fault.vector == vector && fault.error == error && fault.ip == fault_start;
}

/* Handlers of interrupts and of exceptions that are not expected through TRY(). They return to what was interrupted. */
extern void (*handlers[256])(struct frame *frame);

/* Gate n of the IDT; guest_begin() has made all of them interrupt gates of DPL 0, but vectors 3, 4 and 0x80: DPL 3. */
void set_gate(unsigned vector, void *entry, u16 selector, unsigned type_dpl, unsigned ist);

/* --- CPL 3 --- */

/*
 * Runs `ip` at CPL 3 until its first exception or INT 0x80, which ends in `fault`. user_cs: USER_CODE64 or USER_CODE32.
 * In 64-bit mode open_to_user() must have opened the first GiB of the identity map to CPL 3.
 */
void open_to_user(void);
void enter_user(word ip, word sp, word flags);
void leave_user(void);
extern word user_cs, user_return;
extern u8 user_stack[4096];
static inline word run_user(void (*code)(void))
{
	fault.vector = NO_FAULT;
	enter_user((word)code, (word)user_stack + sizeof user_stack, 2);
	return fault.vector;
}

/* --- the machine --- */

extern u64 gdt[];
extern u64 boot_pml4[512], boot_pdpt[512], boot_pd[4][512];

struct tss64 {
	u32 reserved0;
	u64 rsp[3], reserved1, ist[7], reserved2;
	u16 reserved3, iomap;
} __attribute__((packed));

struct tss32 {
	u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss,
		ds, fs, gs, ldt;
	u16 trap, iomap;
};

#ifdef __x86_64__
extern struct tss64 tss;
#else
extern struct tss32 tss;
#endif

static inline void outb(u16 port, u8 value)
{
	asm volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline void outl(u16 port, u32 value)
{
	asm volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline u8 inb(u16 port)
{
	u8 value;
	asm volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline u64 rdmsr(u32 msr)
{
	u32 low, high;
	asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(msr));
	return low | (u64)high << 32;
}

static inline void wrmsr(u32 msr, u64 value)
{
	asm volatile("wrmsr" : : "c"(msr), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}

static inline u64 rdtsc(void)
{
	u32 low, high;
	asm volatile("rdtsc" : "=a"(low), "=d"(high));
	return low | (u64)high << 32;
}

static inline void cpuid(u32 leaf, u32 subleaf, u32 r[4])
{
	asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(subleaf));
}

/* read_cr0(), write_cr0(v), … */
#define CONTROL_REGISTER(name)                                                                                         \
	static inline word read_##name(void)                                                                           \
	{                                                                                                              \
		word value;                                                                                            \
		asm volatile("mov %%" #name ", %0" : "=r"(value) : : "memory");                                        \
		return value;                                                                                          \
	}                                                                                                              \
	static inline void write_##name(word value)                                                                    \
	{                                                                                                              \
		asm volatile("mov %0, %%" #name : : "r"(value) : "memory");                                            \
	}
CONTROL_REGISTER(cr0)
CONTROL_REGISTER(cr2)
CONTROL_REGISTER(cr3)
CONTROL_REGISTER(cr4)
CONTROL_REGISTER(dr0)
CONTROL_REGISTER(dr1)
CONTROL_REGISTER(dr2)
CONTROL_REGISTER(dr3)
CONTROL_REGISTER(dr6)
CONTROL_REGISTER(dr7)

static inline void invlpg(const volatile void *address)
{
	asm volatile("invlpg (%0)" : : "r"(address) : "memory");
}

static inline word read_flags(void)
{
	word flags;
	asm volatile("pushf; pop %0" : "=r"(flags));
	return flags;
}

static inline void irq_enable(void)
{
	asm volatile("sti" : : : "memory");
}

static inline void irq_disable(void)
{
	asm volatile("cli" : : : "memory");
}

void *memset(void *to, int byte, size_t size);
void *memcpy(void *to, const void *from, size_t size);
int memcmp(const void *a, const void *b, size_t size);

#endif
