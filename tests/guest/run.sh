#!/bin/sh
# usage: run.sh STRATA GUEST [OPTION]...: runs a guest and shows its TAP; fails unless the guest said that all went well.
# The debug-exit port turns 0x10, which only guest_exit() writes, into status 33.
strata=$1
guest=$2
shift 2
"$strata" run --engine soft --memory 64M --test-devices --debug-exit 0xf4 --serial stdio --kernel "$guest" "$@" </dev/null
status=$?
[ $status -eq 33 ] && exit 0
echo "Bail out! $guest ended with status $status"
exit 1
