/*
 * Preloaded into strata, this stands for a /dev/kvm that misbehaves, in the way that FAKE_KVM names:
 *   hang         KVM_RUN never returns
 *   slow         the guest passes every stage (kvm_probe.h), each after a while
 *   die          KVM_RUN takes the process down
 *   fail-entry   the processor refuses the guest
 *   emulation    KVM cannot run an instruction
 *   triple-fault
 *   halt         the guest halts before it has said anything
 *   wrong        the guest reports a wrong result
 *   interrupted  KVM_RUN is interrupted for ever
 *   error        KVM_RUN fails
 *   old          another version of the interface
 *   poor         no capability at all
 *   no-vm        no VM can be made
 */
/* Both names of open(2) are defined here. */
#undef _FILE_OFFSET_BITS

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { RUN_SIZE = 8192, FAKES_MAX = 8 };

/* Stand-ins for /dev/kvm, the VM and the vCPU: memory, since a vCPU is mapped. */
static int fakes[FAKES_MAX];
static unsigned fake_count;
static struct kvm_run *run;

static int new_fake(void)
{
	int fd = (int)syscall(SYS_memfd_create, "fake-kvm", 0);
	if (fd >= 0 && fake_count < FAKES_MAX && ftruncate(fd, RUN_SIZE) == 0)
		fakes[fake_count++] = fd;
	return fd;
}

static int is_fake(int fd)
{
	for (unsigned i = 0; i < fake_count; i++)
		if (fakes[i] == fd)
			return 1;
	return 0;
}

static int is_mode(const char *mode)
{
	const char *wanted = getenv("FAKE_KVM");
	return wanted && !strcmp(wanted, mode);
}

static int fail(int error)
{
	errno = error;
	return -1;
}

/* What the guest's next port write says: stages in order, the last three times for its loop; then it halts. */
static int slow_run(void)
{
	static const char stages[] = { 1, 2, 3, 4, 5, 6, 7, 8, 8, 8 };
	static unsigned next;
	usleep(next < 7 ? 250000 : 500000);
	if (next == sizeof stages) {
		run->exit_reason = KVM_EXIT_HLT;
		return 0;
	}
	run->exit_reason = KVM_EXIT_IO;
	run->io.data_offset = 4096;
	run->io.port = 0xf4;
	*((char *)run + 4096) = stages[next++];
	return 0;
}

static int fake_run(void)
{
	if (is_mode("hang"))
		for (;;)
			pause();
	if (is_mode("slow"))
		return slow_run();
	if (is_mode("die"))
		abort();
	if (is_mode("interrupted"))
		return fail(EINTR);
	if (is_mode("error"))
		return fail(EIO);
	run->exit_reason = is_mode("fail-entry")     ? KVM_EXIT_FAIL_ENTRY
			   : is_mode("emulation")    ? KVM_EXIT_INTERNAL_ERROR
			   : is_mode("triple-fault") ? KVM_EXIT_SHUTDOWN
			   : is_mode("halt")         ? KVM_EXIT_HLT
						     : KVM_EXIT_IO;
	run->io.data_offset = 4096;
	run->io.port = 0xf4;
	*((char *)run + 4096) = 0;
	return 0;
}

static int fake_ioctl(unsigned long request, void *argument)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return is_mode("old") ? 11 : KVM_API_VERSION;
	case KVM_CHECK_EXTENSION:
		return !is_mode("poor");
	case KVM_GET_SUPPORTED_CPUID:
		((struct kvm_cpuid2 *)argument)->nent = 0;
		return 0;
	case KVM_CREATE_VM:
		return is_mode("no-vm") ? fail(ENOMEM) : new_fake();
	case KVM_CREATE_VCPU:
		return new_fake();
	case KVM_GET_VCPU_MMAP_SIZE:
		return RUN_SIZE;
	case KVM_SET_MSRS:
		return 1;
	case KVM_RUN:
		/* The last one made is the vCPU. */
		if (!run)
			run = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fakes[fake_count - 1], 0);
		return fake_run();
	default:
		return 0;
	}
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	va_start(ap, request);
	void *argument = va_arg(ap, void *);
	va_end(ap);
	return is_fake(fd) ? fake_ioctl(request, argument) : (int)syscall(SYS_ioctl, fd, request, argument);
}

static int fake_open(const char *path, int flags, int mode)
{
	return !strcmp(path, "/dev/kvm") ? new_fake() : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
	va_end(ap);
	return fake_open(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list ap;
	va_start(ap, flags);
	int mode = flags & O_CREAT ? va_arg(ap, int) : 0;
	va_end(ap);
	return fake_open(path, flags, mode);
}
