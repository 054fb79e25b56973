#include "cli/cli.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void say(const char *fmt, va_list ap)
{
	char line[1024];
	int n = snprintf(line, sizeof line, "strata: ");
	int m = vsnprintf(line + n, sizeof line - (size_t)n - 1, fmt, ap);
	size_t length = (size_t)n + (m > 0 ? (size_t)m : 0);
	if (length > sizeof line - 2)
		length = sizeof line - 2;
	/* File names come from the user: no control character of theirs reaches the terminal, and a message is a line.
	 */
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)line[i] < ' ' || line[i] == 0x7f)
			line[i] = '?';
	line[length++] = '\n';
	ssize_t done = write(STDERR_FILENO, line, length);
	(void)done;
}

void cli_say(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
}

int cli_fail(int status, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	say(fmt, ap);
	va_end(ap);
	return status;
}

int cli_close_stdout(int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	return cli_fail(CLI_FAILED, "writing to standard output: %s", strerror(errno));
}
