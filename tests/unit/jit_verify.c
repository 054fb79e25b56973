/*
 * The last look at emitted code: what must never run natively is refused.
 */
#include "jit/internal.h"

/* <glib.h> brings <sys/ucontext.h>, which has a REG_RIP of its own. */
#define REG_RIP UCONTEXT_REG_RIP

#include <glib.h>

#undef REG_RIP

static struct jit jit;

#define BYTES(...) (const u8[]){ __VA_ARGS__ }, sizeof((const u8[]){ __VA_ARGS__ })

static bool verify(const u8 *code, size_t size)
{
	return jit_verify(&jit, code, size, NULL);
}

static void plain_code_passes(void)
{
	g_assert_true(verify(BYTES(0x48, 0x01, 0xd8)));             /* add rax, rbx */
	g_assert_true(verify(BYTES(0x49, 0x8b, 0x01)));             /* mov rax, [r9] */
	g_assert_true(verify(BYTES(0xf0, 0x41, 0x0f, 0xb1, 0x09))); /* lock cmpxchg [r9], ecx */
	g_assert_true(verify(BYTES(0x41, 0xff, 0x62, 0x30)));       /* jmp [r10 + 30h] */
	g_assert_true(verify(BYTES(0x48, 0x8d, 0x04, 0x9b)));       /* lea rax, [rbx + rbx * 4] */
	g_assert_true(verify(BYTES(0x4b, 0x8b, 0x44, 0x16, 0x08))); /* mov rax, [r14 + r10 + 8]: a shared check */
	g_assert_true(verify(BYTES(0x41, 0x53)));                   /* push r11 */
	g_assert_true(verify(BYTES(0x41, 0xff, 0x52, 0x30)));       /* call [r10 + 30h] */
	g_assert_true(verify(BYTES(0x4c, 0x3b, 0x4c, 0x24, 0x08))); /* cmp r9, [rsp + 8] */
	g_assert_true(verify(BYTES(0xc3)));                         /* ret */
}

/* Code at the start of the area, whose predictions begin 100h behind it. */
static bool verify_in_area(const u8 *code, size_t size)
{
	static u8 area[256];
	static struct prediction predictions[4];
	struct jit with = jit;
	with.writable = area;
	with.executable = (const u8 *)((uintptr_t)predictions - sizeof(area));
	with.predictions = predictions;
	with.predictions_max = G_N_ELEMENTS(predictions);
	memcpy(area, code, size);
	return jit_verify(&with, area, size, NULL);
}

static void predictions_are_read_only(void)
{
	g_assert_true(verify_in_area(BYTES(0x4c, 0x2b, 0x1d, 0xf9, 0, 0, 0)));     /* sub r11, [the first] */
	g_assert_true(verify_in_area(BYTES(0x4c, 0x3b, 0x1d, 0x01, 1, 0, 0)));     /* cmp r11, [the first's addend] */
	g_assert_true(verify_in_area(BYTES(0x4c, 0x8b, 0x15, 0x31, 1, 0, 0)));     /* mov r10, [the last qword] */
	g_assert_false(verify_in_area(BYTES(0x4c, 0x8b, 0x15, 0x39, 1, 0, 0)));    /* behind them */
	g_assert_false(verify_in_area(BYTES(0x4c, 0x8b, 0x15, 0xf1, 0, 0, 0)));    /* before them */
	g_assert_false(verify_in_area(BYTES(0x4c, 0x8b, 0x15, 0xfb, 0, 0, 0)));    /* in the middle of a field */
	g_assert_false(verify_in_area(BYTES(0x4c, 0x89, 0x15, 0xf9, 0, 0, 0)));    /* mov [the first], r10 */
	g_assert_false(verify_in_area(BYTES(0x44, 0x8b, 0x15, 0xf9, 0, 0, 0)));    /* 32 bits of it */
	g_assert_false(verify_in_area(BYTES(0xff, 0x25, 0xfa, 0, 0, 0)));          /* jmp [the first] */
	g_assert_false(verify_in_area(BYTES(0x48, 0x83, 0x05, 0xf8, 0, 0, 0, 1))); /* add [the first], 1 */
}

static void system_instructions_are_refused(void)
{
	g_assert_false(verify(BYTES(0x0f, 0x05)));                   /* syscall */
	g_assert_false(verify(BYTES(0x0f, 0x34)));                   /* sysenter */
	g_assert_false(verify(BYTES(0xcd, 0x80)));                   /* int 80h */
	g_assert_false(verify(BYTES(0xcc)));                         /* int3 */
	g_assert_false(verify(BYTES(0x0f, 0x0b)));                   /* ud2 */
	g_assert_false(verify(BYTES(0xf4)));                         /* hlt */
	g_assert_false(verify(BYTES(0x0f, 0xa2)));                   /* cpuid */
	g_assert_false(verify(BYTES(0x0f, 0x31)));                   /* rdtsc */
	g_assert_false(verify(BYTES(0x0f, 0x01, 0xf9)));             /* rdtscp */
	g_assert_false(verify(BYTES(0x41, 0x0f, 0x01, 0x01)));       /* sgdt [r9] */
	g_assert_false(verify(BYTES(0x41, 0x0f, 0xae, 0x29)));       /* xrstor [r9] */
	g_assert_false(verify(BYTES(0xf3, 0x48, 0x0f, 0xae, 0xd0))); /* wrfsbase rax */
	g_assert_false(verify(BYTES(0x9d)));                         /* popf */
	g_assert_false(verify(BYTES(0xe4, 0x60)));                   /* in al, 60h */
	g_assert_false(verify(BYTES(0x0f, 0x01, 0xd9)));             /* vmmcall */
}

static void divisions_are_by_what_was_checked(void)
{
	g_assert_true(verify(BYTES(0x49, 0xf7, 0xf2)));  /* div r10 */
	g_assert_true(verify(BYTES(0x41, 0xf7, 0xfa)));  /* idiv r10d */
	g_assert_false(verify(BYTES(0x48, 0xf7, 0xf1))); /* div rcx */
	g_assert_false(verify(BYTES(0x49, 0xf7, 0x31))); /* div [r9] */
	g_assert_false(verify(BYTES(0x41, 0xf6, 0xf2))); /* div r10b */
}

static void far_transfers_and_segments_are_refused(void)
{
	g_assert_false(verify(BYTES(0x41, 0xff, 0x29)));       /* jmp far [r9] */
	g_assert_false(verify(BYTES(0x41, 0xff, 0x19)));       /* call far [r9] */
	g_assert_false(verify(BYTES(0xcb)));                   /* retf */
	g_assert_false(verify(BYTES(0x48, 0xcf)));             /* iretq */
	g_assert_false(verify(BYTES(0x8e, 0xd8)));             /* mov ds, eax */
	g_assert_false(verify(BYTES(0x8c, 0xd8)));             /* mov eax, ds */
	g_assert_false(verify(BYTES(0x0f, 0x22, 0xd8)));       /* mov cr3, rax */
	g_assert_false(verify(BYTES(0x0f, 0x21, 0xf8)));       /* mov rax, dr7 */
	g_assert_false(verify(BYTES(0x41, 0x0f, 0xb2, 0x01))); /* lss eax, [r9] */
}

static void unchecked_memory_is_refused(void)
{
	g_assert_false(verify(BYTES(0x48, 0x8b, 0x03)));             /* mov rax, [rbx] */
	g_assert_false(verify(BYTES(0x49, 0x8b, 0x04, 0x19)));       /* mov rax, [r9 + rbx] */
	g_assert_false(verify(BYTES(0x48, 0x8b, 0x04, 0x24)));       /* mov rax, [rsp] */
	g_assert_false(verify(BYTES(0x48, 0x8b, 0x44, 0x24, 8)));    /* mov rax, [rsp + 8] */
	g_assert_false(verify(BYTES(0x4c, 0x3b, 0x4c, 0x24, 0x10))); /* cmp r9, [rsp + 10h] */
	g_assert_false(verify(BYTES(0x4b, 0x8b, 0x04, 0x56)));       /* mov rax, [r14 + r10 * 2] */
	g_assert_false(verify(BYTES(0x4b, 0x8b, 0x04, 0x17)));       /* mov rax, [r15 + r10] */
	g_assert_false(verify(BYTES(0x4a, 0x8b, 0x04, 0x14)));       /* mov rax, [rsp + r10] */
	g_assert_false(verify(BYTES(0x48, 0x8b, 0x05, 0, 0, 0, 0))); /* mov rax, [rip] */
	g_assert_false(verify(BYTES(0x8b, 0x04, 0x25, 0, 0, 0, 0))); /* mov eax, [0] */
	g_assert_false(verify(BYTES(0x65, 0x49, 0x8b, 0x01)));       /* mov rax, gs:[r9] */
	g_assert_false(verify(BYTES(0x67, 0x41, 0x8b, 0x01)));       /* mov eax, [r9d] */
	g_assert_false(verify(BYTES(0xa1, 0, 0, 0, 0, 0, 0, 0, 0))); /* mov eax, [0] */
	g_assert_false(verify(BYTES(0xf3, 0xa4)));                   /* rep movsb */
	g_assert_false(verify(BYTES(0x50)));                         /* push rax */
	g_assert_false(verify(BYTES(0x49, 0x0f, 0xa3, 0x01)));       /* bt [r9], rax: any address */
}

static void vector_code_passes(void)
{
	g_assert_true(verify(BYTES(0x41, 0x0f, 0x58, 0x01)));             /* addps xmm0, [r9] */
	g_assert_true(verify(BYTES(0xf2, 0x45, 0x0f, 0x10, 0x39)));       /* movsd xmm15, [r9] */
	g_assert_true(verify(BYTES(0xc4, 0xc1, 0x75, 0x58, 0x01)));       /* vaddpd ymm0, ymm1, [r9] */
	g_assert_true(verify(BYTES(0xc4, 0xe2, 0xf1, 0xb8, 0xc2)));       /* vfmadd231pd xmm0, xmm1, xmm2 */
	g_assert_true(verify(BYTES(0xc5, 0xf8, 0x77)));                   /* vzeroupper */
	g_assert_true(verify(BYTES(0xc4, 0xe2, 0xf1, 0xf7, 0xc2)));       /* shlx rax, rdx, rcx */
	g_assert_true(verify(BYTES(0x41, 0x0f, 0x38, 0xf0, 0x01)));       /* movbe eax, [r9] */
	g_assert_true(verify(BYTES(0xf2, 0x41, 0x0f, 0x38, 0xf1, 0x09))); /* crc32 ecx, [r9d] */
}

static void unchecked_vector_memory_is_refused(void)
{
	g_assert_false(verify(BYTES(0x0f, 0x58, 0x01)));                   /* addps xmm0, [rcx] */
	g_assert_false(verify(BYTES(0xc5, 0xf5, 0x58, 0x01)));             /* vaddpd ymm0, ymm1, [rcx] */
	g_assert_false(verify(BYTES(0xc4, 0xe1, 0x75, 0x58, 0x01)));       /* the same, three bytes of VEX */
	g_assert_false(verify(BYTES(0xc4, 0x81, 0x75, 0x58, 0x04, 0x01))); /* [r9 + r8] */
	g_assert_false(verify(BYTES(0xc4, 0xc2, 0x75, 0x92, 0x04, 0x11))); /* vgatherdps ymm0, [r9 + ymm2], ymm1 */
	g_assert_false(verify(BYTES(0xc4, 0xc2, 0x75, 0x2e, 0x01)));       /* vmaskmovps [r9], ymm1, ymm0 */
	g_assert_false(verify(BYTES(0x66, 0x0f, 0xf7, 0xc1)));             /* maskmovdqu: [rdi] */
	g_assert_false(verify(BYTES(0xc5, 0xf9, 0xf7, 0xc1)));             /* vmaskmovdqu: [rdi] */
	g_assert_false(verify(BYTES(0x0f, 0xf7, 0xc1)));                   /* maskmovq: [rdi] */
	g_assert_false(verify(BYTES(0xa5)));                               /* movsd of strings */
	g_assert_false(verify(BYTES(0xf2, 0x67, 0x41, 0x0f, 0x10, 0x01))); /* movsd xmm0, [r9d] */
	g_assert_false(verify(BYTES(0x64, 0x41, 0x0f, 0x58, 0x01)));       /* addps xmm0, fs:[r9] */
}

static void other_vector_state_is_refused(void)
{
	g_assert_false(verify(BYTES(0x41, 0x0f, 0xae, 0x11)));             /* ldmxcsr [r9] */
	g_assert_false(verify(BYTES(0xc4, 0xc1, 0x78, 0xae, 0x11)));       /* vldmxcsr [r9] */
	g_assert_false(verify(BYTES(0x0f, 0xfc, 0xc1)));                   /* paddb mm0, mm1 */
	g_assert_false(verify(BYTES(0xf3, 0x0f, 0xd6, 0xc1)));             /* movq2dq xmm0, mm1 */
	g_assert_false(verify(BYTES(0x0f, 0x2a, 0xc1)));                   /* cvtpi2ps xmm0, mm1 */
	g_assert_false(verify(BYTES(0x0f, 0x77)));                         /* emms */
	g_assert_false(verify(BYTES(0x41, 0x0f, 0xae, 0x09)));             /* fxrstor [r9] */
	g_assert_false(verify(BYTES(0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1))); /* vaddps zmm0, zmm0, zmm1 */
}

static void x87_code_passes_but_for_whole_states(void)
{
	g_assert_true(verify(BYTES(0xd8, 0xc1)));                               /* fadd st0, st1 */
	g_assert_true(verify(BYTES(0x41, 0xdb, 0x29)));                         /* fld tbyte [r9] */
	g_assert_true(verify(BYTES(0xdf, 0xe0)));                               /* fnstsw ax */
	g_assert_true(verify(BYTES(0x41, 0xd9, 0xaf, 0x00, 0x04, 0x00, 0x00))); /* fldcw [r15 + 400h] */
	g_assert_false(verify(BYTES(0x41, 0xd9, 0x29)));                        /* fldcw [r9] */
	g_assert_false(verify(BYTES(0xdb, 0x29)));                              /* fld tbyte [rcx] */
	g_assert_false(verify(BYTES(0x41, 0xd9, 0x21)));                        /* fldenv [r9] */
	g_assert_false(verify(BYTES(0x41, 0xd9, 0x31)));                        /* fnstenv [r9] */
	g_assert_false(verify(BYTES(0x41, 0xdd, 0x21)));                        /* frstor [r9] */
	g_assert_false(verify(BYTES(0x41, 0xdd, 0x31)));                        /* fnsave [r9] */
	g_assert_false(verify(BYTES(0xdb, 0xe3)));                              /* fninit */
}

static void jumps_elsewhere_are_refused(void)
{
	g_assert_true(verify(BYTES(0x74, 0x00, 0x90)));     /* jz to the nop */
	g_assert_false(verify(BYTES(0x74, 0x10)));          /* jz to what is not there */
	g_assert_false(verify(BYTES(0xe9, 0, 0, 0, 0x40))); /* jmp far away */
	g_assert_false(verify(BYTES(0xff, 0xe0)));          /* jmp rax */
	g_assert_false(verify(BYTES(0x41, 0xff, 0xd2)));    /* call r10 */
	g_assert_false(verify(BYTES(0xc2, 0x08, 0x00)));    /* ret 8 */
}

static void bytes_cut_short_are_refused(void)
{
	g_assert_false(verify(BYTES(0x48, 0x01)));
	g_assert_false(verify(BYTES(0x90, 0x49, 0x8b)));
}

/* Random bytes that look like an instruction: perhaps prefixes, any opcode, operands near what is allowed. */
static void make_bytes(u8 bytes[32])
{
	unsigned n = 0;
	for (unsigned i = 0; i < 32; i++)
		bytes[i] = (u8)g_test_rand_int();
	if (g_test_rand_int_range(0, 4) == 0)
		bytes[n++] = 0x66;
	if (g_test_rand_int_range(0, 4) != 0)
		bytes[n++] = (u8)(0x40 | g_test_rand_int_range(0, 16));
	if (g_test_rand_int_range(0, 3) == 0)
		bytes[n++] = 0x0f;
	n++;
	if (g_test_rand_bit())
		bytes[n + 2] = bytes[n + 3] = bytes[n + 1] = 0; /* short branches forward */
}

static void what_needs_no_decoder_is_what_the_decoder_says(void)
{
	unsigned plain = 0, kinds = 0;
	bool seen[512] = { false };
	for (unsigned i = 0; i < 1000000; i++) {
		u8 bytes[32];
		make_bytes(bytes);
		const u8 *end = bytes + sizeof bytes;
		unsigned length = jit_verify_plain(&jit, bytes, bytes, end);
		if (!length)
			continue;
		g_assert_cmpuint(jit_verify_decoded(&jit, bytes, bytes, end, 0), ==, length);
		plain++;
		unsigned at = bytes[0] == 0x66;
		at += (bytes[at] & 0xf0) == 0x40;
		unsigned opcode = bytes[at] == 0x0f ? 256u + bytes[at + 1] : bytes[at];
		kinds += !seen[opcode];
		seen[opcode] = true;
	}
	g_assert_cmpuint(plain, >, 50000);
	g_assert_cmpuint(kinds, >, 140);
}

int main(int argc, char **argv)
{
	g_test_init(&argc, &argv, NULL);
	g_assert_true(ZYAN_SUCCESS(ZydisDecoderInit(&jit.verifier, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64)));
	g_test_add_func("/jit-verify/plain-code-passes", plain_code_passes);
	g_test_add_func("/jit-verify/predictions-are-read-only", predictions_are_read_only);
	g_test_add_func("/jit-verify/system-instructions-are-refused", system_instructions_are_refused);
	g_test_add_func("/jit-verify/divisions-are-by-what-was-checked", divisions_are_by_what_was_checked);
	g_test_add_func("/jit-verify/far-transfers-and-segments-are-refused", far_transfers_and_segments_are_refused);
	g_test_add_func("/jit-verify/unchecked-memory-is-refused", unchecked_memory_is_refused);
	g_test_add_func("/jit-verify/vector-code-passes", vector_code_passes);
	g_test_add_func("/jit-verify/unchecked-vector-memory-is-refused", unchecked_vector_memory_is_refused);
	g_test_add_func("/jit-verify/other-vector-state-is-refused", other_vector_state_is_refused);
	g_test_add_func("/jit-verify/x87-code-passes-but-for-whole-states", x87_code_passes_but_for_whole_states);
	g_test_add_func("/jit-verify/jumps-elsewhere-are-refused", jumps_elsewhere_are_refused);
	g_test_add_func("/jit-verify/bytes-cut-short-are-refused", bytes_cut_short_are_refused);
	g_test_add_func("/jit-verify/what-needs-no-decoder-is-what-the-decoder-says",
			what_needs_no_decoder_is_what_the_decoder_says);
	return g_test_run();
}
