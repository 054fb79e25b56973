/*
 * Files read whole into memory before the VM exists.
 */
#ifndef STRATA_CLI_IMAGE_H
#define STRATA_CLI_IMAGE_H

#include "vm/vm.h"

/*
 * Reads `path`, at most `limit` bytes of it, into memory that lasts as long as the process. `option` is for messages.
 * 0 or an exit status after a message.
 */
int image_read(const char *option, const char *path, u64 limit, struct vm_file *file);

#endif
