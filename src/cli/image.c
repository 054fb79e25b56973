#include "cli/image.h"

#include "cli/cli.h"
#include "cli/option.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_image(const char *option, const char *path, struct stat *st)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0 && fstat(fd, st) == 0 && !S_ISDIR(st->st_mode))
		return fd;
	int err = fd >= 0 && S_ISDIR(st->st_mode) ? EISDIR : errno;
	if (fd >= 0)
		close(fd);
	cli_fail(CLI_FAILED, "run: --%s %s: %s", option, path, strerror(err));
	return err == ENOENT || err == ENOTDIR ? -CLI_NOT_FOUND : -CLI_USAGE;
}

/* The size is not known before the end: it may be a pipe. */
static int read_all(int fd, u64 expected, u64 limit, u8 **data, size_t *size)
{
	size_t room = expected && expected <= limit ? expected + 1 : 1 << 20;
	*size = 0;
	*data = malloc(room);
	while (*data) {
		ssize_t n = read(fd, *data + *size, room - *size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return 0;
		*size += (size_t)n;
		if (*size > limit)
			return -EFBIG;
		if (*size == room) {
			u8 *larger = realloc(*data, room *= 2);
			if (!larger)
				break;
			*data = larger;
		}
	}
	return -ENOMEM;
}

static void *map_file(int fd, const struct stat *st, u64 limit)
{
	if (!S_ISREG(st->st_mode) || st->st_size <= 0 || (u64)st->st_size > limit)
		return NULL;
	void *data = mmap(NULL, (size_t)st->st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	return data == MAP_FAILED ? NULL : data;
}

int image_read(const char *option, const char *path, u64 limit, struct vm_file *file)
{
	struct stat st = { 0 };
	u8 *data;
	size_t size;
	char text[SIZE_TEXT_MAX];
	int fd = open_image(option, path, &st);
	if (fd < 0)
		return -fd;
	data = map_file(fd, &st, limit);
	if (data) {
		close(fd);
		*file = (struct vm_file){ .name = path, .data = data, .size = (size_t)st.st_size, .mapped = true };
		return 0;
	}
	int err = read_all(fd, S_ISREG(st.st_mode) ? (u64)st.st_size : 0, limit, &data, &size);
	close(fd);
	if (!err && size > 0) {
		*file = (struct vm_file){ .name = path, .data = data, .size = size };
		return 0;
	}
	free(data);
	if (err == -EFBIG)
		return cli_fail(CLI_USAGE, "run: --%s %s: larger than the guest's memory (%s)", option, path,
				option_size_text(limit, text));
	if (err)
		return cli_fail(err == -ENOMEM ? CLI_FAILED : CLI_USAGE, "run: --%s %s: %s", option, path,
				strerror(-err));
	return cli_fail(CLI_USAGE, "run: --%s %s: the file is empty", option, path);
}
