/* One service of the kernel each, and two instructions that leave an L2 guest. */
#include "bench.h"

#include <cpuid.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

uint64_t bench_getppid(uint64_t n)
{
	pid_t parent = getppid();
	uint64_t same = 0;

	for (uint64_t i = 0; i < n; i++) {
		same += syscall(SYS_getppid) == parent;
	}
	return same;
}

/* Touches fresh pages of 4 KiB, 256 a mapping. */
uint64_t bench_page_fault(uint64_t n)
{
	enum { PAGES = 256, PAGE = 4096 };
	uint64_t touched = 0;

	while (touched < n) {
		uint8_t *map = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (map == MAP_FAILED) {
			bench_die("mmap");
		}
		madvise(map, PAGES * PAGE, MADV_NOHUGEPAGE);
		for (int i = 0; i < PAGES && touched < n; i++) {
			map[i * PAGE] = 1;
			touched += map[i * PAGE];
		}
		munmap(map, PAGES * PAGE);
	}
	return touched;
}

static uint64_t children(uint64_t n, int exec)
{
	uint64_t good = 0;

	for (uint64_t i = 0; i < n; i++) {
		int status = 1;
		pid_t child = fork();

		if (child < 0) {
			bench_die("fork");
		}
		if (child == 0) {
			if (exec) {
				execl("/proc/self/exe", "bench", "--nothing", (char *)NULL);
				_exit(1);
			}
			_exit(0);
		}
		waitpid(child, &status, 0);
		good += status == 0;
	}
	return good;
}

uint64_t bench_fork_exit(uint64_t n)
{
	return children(n, 0);
}

uint64_t bench_fork_exec(uint64_t n)
{
	return children(n, 1);
}

/* A byte to another process and back. */
uint64_t bench_pipe(uint64_t n)
{
	int to[2], from[2];
	uint64_t sum = 0;
	uint8_t byte = 0;

	if (pipe(to) < 0 || pipe(from) < 0) {
		bench_die("pipe");
	}
	pid_t child = fork();

	if (child < 0) {
		bench_die("fork");
	}
	if (child == 0) {
		close(to[1]);
		while (read(to[0], &byte, 1) == 1) {
			byte++;
			if (write(from[1], &byte, 1) != 1) {
				_exit(1);
			}
		}
		_exit(0);
	}
	while (n--) {
		if (write(to[1], &byte, 1) != 1 || read(from[0], &byte, 1) != 1) {
			bench_die("pipe");
		}
		sum += byte;
	}
	close(to[0]);
	close(to[1]);
	close(from[0]);
	close(from[1]);
	waitpid(child, NULL, 0);
	return sum;
}

static struct {
	uint32_t turn;
	uint64_t rounds;
} hand_off;

/* Thread `me` of two waits for its turn and gives it to the other. On one CPU each gift is a context switch. */
static void take_turns(uint32_t me)
{
	for (uint64_t i = 0; i < hand_off.rounds; i++) {
		while (__atomic_load_n(&hand_off.turn, __ATOMIC_ACQUIRE) != me) {
			syscall(SYS_futex, &hand_off.turn, FUTEX_WAIT_PRIVATE, !me, NULL, NULL, 0);
		}
		__atomic_store_n(&hand_off.turn, !me, __ATOMIC_RELEASE);
		syscall(SYS_futex, &hand_off.turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
}

static void *other_thread(void *unused)
{
	take_turns(1);
	return NULL;
}

uint64_t bench_switch(uint64_t n)
{
	pthread_t thread;

	hand_off.turn = 0;
	hand_off.rounds = n;
	if (pthread_create(&thread, NULL, other_thread, NULL) != 0) {
		bench_die("pthread_create");
	}
	take_turns(0);
	pthread_join(thread, NULL);
	return bench_mix(hand_off.turn, n);
}

/* Leaf 0: always exits from VMX and, when the hypervisor asks for it, from SVM. What it returns is the machine's. */
uint64_t bench_cpuid(uint64_t n)
{
	uint32_t a, b, c, d;

	for (uint64_t i = 0; i < n; i++) {
		__cpuid(0, a, b, c, d);
	}
	return n;
}

/* Port 0x80, which only PCs' power-on tests use: safe to write anywhere, but needs root. */
uint64_t bench_port(uint64_t n)
{
	if (ioperm(0x80, 1, 1) < 0) {
		bench_die("ioperm");
	}
	for (uint64_t i = 0; i < n; i++) {
		outb(0, 0x80);
	}
	return n;
}
