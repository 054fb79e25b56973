"""The probe of /dev/kvm, with a device that misbehaves in each way: one line that says why, in bounded time.

usage: test_probe.py STRATA FAKE-KVM      FAKE-KVM: the library made of fake_kvm.c
"""

import os
import re
import sys
import time

from strata_test import POWER_OFF, expect, expect_refusal, guest, main, scratch, strata

FAKE = os.path.abspath(sys.argv[2])
KERNEL = scratch(guest(POWER_OFF))


def with_kvm(mode):
    return {**os.environ, "LD_PRELOAD": FAKE, "FAKE_KVM": mode}


def expect_verdict(mode, pattern, limit=2.0):
    """Asked for by name it is a missing capability, and the reason is `pattern`."""
    began = time.monotonic()
    result = strata("run", "--engine", "kvm", "--kernel", KERNEL, env=with_kvm(mode))
    took = time.monotonic() - began
    expect_refusal(result, 6, "engine kvm cannot run here: .*" + pattern)
    expect(took < limit, f"{took} s")
    return took


def test_kvm_that_hangs_is_given_up_after_two_seconds():
    took = expect_verdict("hang", "test guest took more than 2 s to run real mode", limit=4)
    expect(took >= 1.9, took)


def test_slow_kvm_has_the_time_it_needs_and_is_told_from_its_speed():
    took = expect_verdict("slow", r"emulates guests in software \(0\.\d million instructions/s\)", limit=20)
    expect(took >= 3, took)


def test_kvm_that_kills_its_user_kills_only_the_probe():
    expect_verdict("die", "the process that tried it died")


def test_refused_entry_is_told():
    expect_verdict("fail-entry", "could not run real mode: it was refused by the processor")


def test_instruction_that_kvm_cannot_run_is_told():
    expect_verdict("emulation", "could not run real mode: it met an instruction that this KVM cannot run")


def test_triple_fault_is_told():
    expect_verdict("triple-fault", "could not run real mode: it triple-faulted")


def test_early_halt_is_told():
    expect_verdict("halt", "could not run real mode: it halted too early")


def test_wrong_result_is_told():
    expect_verdict("wrong", "could not run real mode: it gave a wrong result")


def test_endless_interruption_is_told():
    expect_verdict("interrupted", "KVM_RUN: Interrupted system call")


def test_failure_of_kvm_run_is_told():
    expect_verdict("error", "KVM_RUN: Input/output error")


def test_other_version_of_the_interface_is_told():
    expect_verdict("old", "speaks version 11 of its interface, not 12")


def test_missing_capability_of_kvm_is_named():
    expect_verdict("poor", "this host's KVM lacks guest memory from user space")


def test_failure_to_make_a_vm_is_told():
    expect_verdict("no-vm", "no guest can be made: Cannot allocate memory")


def test_nesting_that_no_guest_gets_is_told():
    result = strata("run", "--engine", "kvm", "--nested", "vt-x", "--kernel", KERNEL, env=with_kvm("wrong"))
    expect_refusal(result, 6, "with --nested vt-x here: this host's KVM gives guests no VT-x")


def test_auto_takes_soft_and_says_why():
    result = strata("run", "--kernel", KERNEL, "--timeout", "20", env=with_kvm("fail-entry"))
    expect(result.status == 0, result)
    expect(len(result.lines()) == 1, result)
    expect(re.search("engine soft, not kvm: .*refused by the processor", result.err), result)


def test_host_says_no_and_why():
    result = strata("host", env=with_kvm("hang"))
    expect(result.status == 0, result)
    expect(b"engine kvm    no: /dev/kvm opens, but its test guest took more than 2 s to run real mode" in result.out, result)
    expect(b"--engine auto uses soft" in result.out, result)


main(globals())
