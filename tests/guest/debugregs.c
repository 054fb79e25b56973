/* Debug registers, single-step and their traps and faults. */
#include "lib/guest.h"

static volatile u64 watched[8] ALIGNED(64);
static volatile word hits, last_ip, last_dr6;

/* Traps and faults that go on: RF lets a fault's instruction run. */
static void on_debug(struct frame *f)
{
	hits++;
	last_ip = f->ip;
	last_dr6 = read_dr6();
	f->flags |= BIT(16);
	f->flags &= ~BIT(8);
	write_dr6(0xffff0ff0);
}

static word dr7(unsigned n, unsigned kind, unsigned length)
{
	unsigned code = length == 1 ? 0 : length == 2 ? 1 : length == 4 ? 3 : 2;
	return 0x400 | BIT(2 * n) | (word)kind << (16 + 4 * n) | (word)code << (18 + 4 * n);
}

enum { CODE = 0, WRITE = 1, IO = 2, ACCESS = 3 };

/* Runs `access` under breakpoint 0 of this kind and returns how many traps came. */
#define HITS(kind, length, address, access)                                                                            \
	({                                                                                                             \
		hits = 0;                                                                                              \
		write_dr0((word)(address));                                                                            \
		write_dr7(dr7(0, kind, length));                                                                       \
		access;                                                                                                \
		write_dr7(0x400);                                                                                      \
		hits;                                                                                                  \
	})

static void test_data(void)
{
	volatile u8 *p = (volatile u8 *)watched;
	CHECK("write-traps", HITS(WRITE, 8, watched, watched[0] = 1) == 1);
	CHECK("write-shows-in-dr6", (last_dr6 & 15) == 1 && !(last_dr6 & BIT(14)));
	CHECK("write-has-happened", watched[0] == 1);
	CHECK("read-does-not-trap-a-write-breakpoint", HITS(WRITE, 8, watched, (void)watched[0]) == 0);
	CHECK("read-traps-an-access-breakpoint", HITS(ACCESS, 8, watched, (void)watched[0]) == 1);
	CHECK("write-traps-an-access-breakpoint", HITS(ACCESS, 4, watched, p[3] = 1) == 1);
	CHECK("next-bytes-do-not-trap", HITS(ACCESS, 4, watched, p[4] = 1) == 0);
	CHECK("one-byte", HITS(WRITE, 1, p + 5, p[5] = 1) == 1);
	CHECK("wider-write-over-one-byte", HITS(WRITE, 1, p + 5, watched[0] = 1) == 1);
	CHECK("unaligned-write-into-it", HITS(WRITE, 2, p + 8, *(volatile u32 *)(p + 5) = 1) == 1);
	CHECK("address-is-aligned-to-length", HITS(WRITE, 8, p + 3, p[0] = 1) == 1);
	word ip;
	HITS(WRITE, 8, watched,
	     asm volatile("lea 1f(%%rip), %0; movq $5, (%1); 1:"
			  : "=&r"(ip)
			  : "r"(watched)
			  : "memory"));
	CHECK("trap-comes-behind-the-instruction", last_ip == ip);
	CHECK("read-modify-write-traps-once", HITS(WRITE, 8, watched,
						   asm volatile("incq (%0)"
								:
								: "r"(watched)
								: "memory")) == 1);
	CHECK("push-traps", HITS(WRITE, 8, 0, ({
					 word sp;
					 asm volatile("mov %%rsp, %0" : "=r"(sp));
					 write_dr0(sp - 256);
					 asm volatile("sub $248, %%rsp; push %%rax; add $256, %%rsp" : : : "memory");
				 })) == 1);
	word cx = 8, di = (word)watched;
	hits = 0;
	write_dr0((word)&watched[3]);
	write_dr7(dr7(0, WRITE, 8));
	asm volatile("rep stosq" : "+D"(di), "+c"(cx) : "a"(0) : "memory");
	write_dr7(0x400);
	CHECK("rep-stosq-traps-after-the-iteration", hits == 1);
	CHECK("and-goes-on-to-its-end", cx == 0 && di == (word)(watched + 8));
	hits = 0;
	watched[0] = 1;
	CHECK("disabled-breakpoints-are-silent", hits == 0);
}

static void test_code(void)
{
	word ip, runs = 0;
	asm volatile("lea 1f(%%rip), %0" : "=r"(ip)); /* only to have a first value */
	hits = 0;
	asm volatile("lea 1f(%%rip), %%rax; mov %%rax, %%dr0; mov %2, %%dr7; nop; 1: inc %1; mov %3, %%dr7; lea "
		     "1b(%%rip), %0"
		     : "=&r"(ip), "+r"(runs)
		     : "r"(dr7(0, CODE, 1)), "r"(0x400ULL)
		     : "rax", "memory");
	CHECK("code-breakpoint-is-a-fault", hits == 1 && last_ip == ip);
	CHECK("rf-lets-it-run-once", runs == 1);
	CHECK("code-breakpoint-shows-in-dr6", (last_dr6 & 15) == 1);
}

static void test_step(void)
{
	word ip;
	hits = 0;
	asm volatile("pushf; orl $0x100, (%%rsp); popf; nop; 1: lea 1b(%%rip), %0" : "=r"(ip) : : "memory", "cc");
	CHECK("single-step-traps-after-the-next-instruction", hits == 1 && last_ip == ip);
	CHECK("single-step-shows-bs", last_dr6 & BIT(14));
	hits = 0;
	asm volatile("mov %%ss, %%eax; pushf; orl $0x100, (%%rsp); popf; mov %%eax, %%ss; nop; 1: lea 1b(%%rip), %0"
		     : "=r"(ip)
		     :
		     : "rax", "memory", "cc");
	CHECK("mov-ss-holds-the-step-back", hits == 1 && last_ip == ip);
}

static void test_registers(void)
{
	write_dr7(0x400 | BIT(13)); /* GD */
	word v = TRY("mov %%dr0, %%rax", : : : "rax", "memory");
	CHECK("gd-faults-a-mov-dr", v == DB && fault.dr6 & BIT(13));
	CHECK("and-is-cleared-by-it", !(read_dr7() & BIT(13)));
	write_dr6(0xffff0ff0);
	write_dr6(0);
	CHECK("dr6-fixed-bits-read-1", (read_dr6() & 0xffff0ff0) == 0xffff0ff0);
	write_dr7(0);
	CHECK("dr7-bit-10-reads-1", read_dr7() == 0x400);
	TRY_AT("mov %0, %%dr7", : : "r"(BIT(40)) : "memory");
	CHECK("high-half-of-dr7-is-gp", is_fault(GP, 0));
	write_cr4(read_cr4() | BIT(3));
	TRY_AT("mov %%dr4, %%rax", : : : "rax", "memory");
	CHECK("dr4-with-de-is-ud", is_fault(UD, 0));
	write_cr4(read_cr4() & ~BIT(3));
	write_dr6(0xffff0ff1);
	word dr4;
	asm volatile("mov %%dr4, %0" : "=r"(dr4));
	CHECK("dr4-without-de-is-dr6", dr4 == read_dr6());
	write_cr4(read_cr4() | BIT(3));
	CHECK("io-breakpoint-traps", HITS(IO, 1, 0x3ff, outb(0x3ff, 1)) == 1);
	CHECK("io-breakpoint-spares-other-ports", HITS(IO, 1, 0x3ff, (void)inb(0x3fe)) == 0);
	write_cr4(read_cr4() & ~BIT(3));
}

void guest_main(void)
{
	handlers[DB] = on_debug;
	test_data();
	test_code();
	test_step();
	test_registers();
}
