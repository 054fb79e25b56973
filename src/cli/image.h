/*
 * Files to boot, opened before the VM exists.
 */
#ifndef STRATA_CLI_IMAGE_H
#define STRATA_CLI_IMAGE_H

#include "vm/vm.h"

/*
 * The contents of `path`, at most `limit` bytes, for as long as the process lasts. `option` is for messages. 0 or an
 * exit status after a message. A regular file is mapped, so that it takes no memory once the guest has it: who cuts it
 * short meanwhile ends the process when the guest resets.
 */
int image_read(const char *option, const char *path, u64 limit, struct vm_file *file);

#endif
