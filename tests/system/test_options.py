"""The command line: help, version, and one clear line for each mistake."""

import os

from strata_test import DIRECTORY, HALT, POWER_OFF, absent, expect, expect_refusal, guest, main, scratch, strata

KERNEL = scratch(guest(HALT))


def refused(*words, status=2, pattern):
    expect_refusal(strata("run", *words), status, pattern)


# --- Help and version ---


def test_version_is_one_line_on_stdout():
    result = strata("--version")
    expect(result.status == 0 and result.err == "", result)
    expect(result.out.startswith(b"strata 0.") and result.out.count(b"\n") == 1, result)


def test_help_lists_the_verbs():
    result = strata("--help")
    expect(result.status == 0 and result.err == "", result)
    expect(b"  run " in result.out and b"  host " in result.out and b"Exit status" in result.out, result)


def test_help_of_run_names_every_option_and_shows_examples():
    result = strata("run", "--help")
    expect(result.status == 0 and result.err == "", result)
    for option in ("engine", "interpret", "translate", "translate-after", "check-translation",
                   "translation-memory", "host-features", "cpu-features", "dump-block", "perf-map", "cpus",
                   "memory", "nested", "kernel", "initrd", "module", "append", "firmware", "disk", "nic", "serial", "debug-exit", "test-devices", "timeout", "trace", "stats", "no-sandbox"):
        expect(f"  --{option}".encode() in result.out, f"--{option} is missing\n{result}")
    expect(b"Examples:" in result.out and b"Trace channels" in result.out, result)


def test_trace_help_lists_the_channels():
    result = strata("run", "--trace", "help")
    expect(result.status == 0 and b"\n  vmx " in result.out, result)


def test_help_of_host_is_there():
    result = strata("host", "--help")
    expect(result.status == 0 and b"usage: strata host" in result.out, result)


def test_help_that_cannot_be_written_is_a_failure():
    with open("/dev/full", "wb") as full:
        import subprocess
        done = subprocess.run([os.environ.get("STRATA") or __import__("strata_test").STRATA, "--help"], stdout=full,
                              stderr=subprocess.PIPE, timeout=10, check=False)
    expect(done.returncode == 1 and b"standard output" in done.stderr, done)


# --- Verbs and options ---


def test_no_verb_is_refused():
    expect_refusal(strata(), 2, "which verb")


def test_unknown_verb_is_refused():
    expect_refusal(strata("frobnicate"), 2, "unknown verb 'frobnicate'")


def test_unknown_option_before_a_verb_is_refused():
    expect_refusal(strata("--frobnicate"), 2, "unknown option '--frobnicate'")


def test_unknown_option_is_refused():
    refused("--frobnicate", pattern="unknown option '--frobnicate'")


def test_abbreviated_option_is_refused():
    refused("--mem", "1G", pattern="unknown option '--mem'")


def test_unknown_option_of_host_is_refused():
    expect_refusal(strata("host", "--kernel", "x"), 2, "unknown option '--kernel'")


def test_word_that_is_no_option_is_refused():
    refused("kernel", pattern="'kernel' is no option")


def test_option_without_its_value_is_refused():
    refused("--kernel", pattern="--kernel wants a value")


def test_option_as_value_of_another_is_refused():
    refused("--kernel", "--initrd", pattern="--kernel wants a value")


def test_value_for_a_flag_is_refused():
    refused("--interpret=yes", pattern="--interpret takes no value")


def test_option_given_twice_is_refused():
    refused("--memory", "1G", "--memory", "1G", pattern="--memory is given twice")


def test_two_serial_ports_on_stdio_are_refused():
    refused("--serial", "stdio", "--serial", "stdio", pattern="--serial is given twice")


def test_control_characters_of_a_name_do_not_reach_the_terminal():
    result = strata("run", "--engine", "\x1b[2Jx\ny")
    expect("\x1b" not in result.err, result)
    expect(len(result.lines()) == 1, result)


# --- Memory ---


def test_memory_of_0_is_refused():
    refused("--kernel", KERNEL, "--memory", "0", pattern="--memory 0: too small")


def test_memory_below_the_least_is_refused():
    refused("--kernel", KERNEL, "--memory", "64K", pattern="too small")


def test_memory_too_small_for_the_kernel_is_refused():
    large = scratch(guest(HALT + bytes(3 << 20)))
    refused("--kernel", large, "--engine", "soft", "--memory", "3M", pattern="memory")


def test_memory_that_is_no_number_is_refused():
    for text in ("many", "", "-1", "1.5G", "0x1000", "1GG", "G", " 1G", "1G ", "1Q"):
        refused("--kernel", KERNEL, "--memory=" + text, pattern="that is no size")


def test_memory_that_overflows_64_bits_is_refused():
    for text in ("99999999999999999999", "18446744073709551615T"):
        refused("--kernel", KERNEL, "--memory", text, pattern="that is no size")


def test_memory_larger_than_the_host_has_is_refused():
    refused("--kernel", KERNEL, "--memory", "1000000G", pattern="this host has")


def test_memory_that_is_no_multiple_of_a_page_is_refused():
    refused("--kernel", KERNEL, "--memory", "4097K", pattern="multiple of 4K")


# --- The other values ---


def test_unknown_engine_is_refused():
    refused("--kernel", KERNEL, "--engine", "warp", pattern="auto, soft and kvm")


def test_unknown_nested_value_is_refused():
    refused("--kernel", KERNEL, "--nested", "vmx", pattern="none, vt-x and amd-v")


def test_no_cpu_is_refused():
    refused("--kernel", KERNEL, "--cpus", "0", pattern="no number of CPUs")


def test_more_cpus_than_a_machine_has_are_refused():
    refused("--kernel", KERNEL, "--cpus", "65", pattern="at most 64")


def test_cpus_that_are_no_number_are_refused():
    for text in ("two", "-1", "1x", "", "4294967297"):
        refused("--kernel", KERNEL, "--cpus=" + text, pattern="--cpus")


def test_unknown_serial_is_refused():
    for text in ("tcp:1", "file:", "", "file"):
        refused("--kernel", KERNEL, "--serial=" + text, pattern="stdio, file:PATH and none")


def test_debug_exit_that_is_no_port_is_refused():
    for text in ("0x10000", "-1", "port", "", "0xf4x"):
        refused("--kernel", KERNEL, "--debug-exit=" + text, pattern="no I/O port")


def test_timeout_that_is_no_time_is_refused():
    for text in ("0", "-1", "soon", "", "1.5"):
        refused("--kernel", KERNEL, "--timeout=" + text, pattern="no number of seconds")


def test_unknown_trace_channel_is_refused_and_the_known_are_listed():
    refused("--kernel", KERNEL, "--trace", "irq,frob", pattern="'frob'; there are all, exits.*vmx")


def test_interpret_and_translate_are_refused_together():
    refused("--kernel", KERNEL, "--interpret", "--translate", pattern="--interpret does without")


def test_translation_is_not_for_kvm():
    refused("--kernel", KERNEL, "--engine", "kvm", "--check-translation", pattern="engine soft")


def test_translate_after_no_runs_is_refused():
    refused("--kernel", KERNEL, "--translate-after", "0", pattern="1 to 1000")


def test_unknown_form_of_stats_is_refused():
    refused("--kernel", KERNEL, "--stats=xml", pattern="--stats=json")


def test_command_line_longer_than_a_kernel_takes_is_refused():
    refused("--kernel", KERNEL, "--append", "x" * 5000, pattern="characters, not 5000")


def test_firmware_disk_and_nic_are_not_there_yet():
    refused("--firmware", "seabios", pattern="--firmware is not there yet")
    refused("--disk", "x.img", pattern="--disk is not there yet")
    refused("--nic", "user", pattern="--nic is not there yet")


# --- Contradictions ---


def test_nothing_to_boot_is_refused():
    refused(pattern="give --kernel FILE")


def test_initrd_without_kernel_is_refused():
    refused("--initrd", KERNEL, pattern="--initrd without --kernel")


def test_module_without_kernel_is_refused():
    refused("--module", KERNEL, pattern="--module without --kernel")


def test_missing_module_is_not_found():
    refused("--kernel", KERNEL, "--module", absent() + " its words", status=3, pattern="--module .*absent: No such file")


def test_module_may_be_given_again_but_not_for_ever():
    refused("--kernel", KERNEL, *["--module", KERNEL] * 17, pattern="--module: at most 16")


def test_append_without_kernel_is_refused():
    refused("--append", "quiet", pattern="--append without --kernel")


def test_interpret_with_engine_kvm_is_refused():
    refused("--kernel", KERNEL, "--interpret", "--engine", "kvm", pattern="--interpret is for engine soft")


# --- Files ---


def test_missing_kernel_is_not_found():
    refused("--kernel", absent(), status=3, pattern="absent: No such file")


def test_missing_initrd_is_not_found():
    refused("--kernel", KERNEL, "--initrd", absent(), status=3, pattern="absent: No such file")


def test_file_below_a_file_is_not_found():
    refused("--kernel", KERNEL + "/x", status=3, pattern="Not a directory")


def test_directory_as_kernel_is_refused():
    refused("--kernel", DIRECTORY.name, pattern="Is a directory")


def test_empty_kernel_is_refused():
    refused("--kernel", scratch(), pattern="the file is empty")


def test_empty_initrd_is_refused():
    refused("--kernel", KERNEL, "--initrd", scratch(), pattern="the file is empty")


def test_foreign_kernel_is_refused():
    for contents in (b"#!/bin/sh\necho hello\n", os.urandom(100000), b"\x7fELF", bytes(70000)):
        refused("--engine", "soft", "--kernel", scratch(contents), pattern=r"file\d+")


def test_truncated_kernel_is_refused():
    image = guest(POWER_OFF)
    for size in (4, 12, 31, len(image) - 1):
        refused("--engine", "soft", "--kernel", scratch(image[:size]), pattern=r"file\d+")


def test_endless_kernel_is_refused():
    refused("--kernel", "/dev/zero", "--memory", "8M", pattern="larger than the guest's memory")


def test_initrd_larger_than_memory_is_refused():
    refused("--kernel", KERNEL, "--memory", "2M", "--initrd", scratch(bytes(3 << 20)),
            pattern="larger than the guest's memory")


def test_serial_file_in_a_directory_that_is_not_there_is_not_found():
    refused("--kernel", KERNEL, "--serial", "file:" + absent() + "/x", status=3, pattern="No such file")


def test_serial_file_that_is_the_kernel_is_refused_and_the_kernel_kept():
    before = os.stat(KERNEL).st_size
    refused("--kernel", KERNEL, "--serial", "file:" + KERNEL, pattern="would be overwritten")
    expect(os.stat(KERNEL).st_size == before)


def test_statistics_into_the_serial_file_are_refused():
    path = absent() + "-both"
    refused("--kernel", KERNEL, "--serial", "file:" + path, "--stats=json:" + path, pattern="same file")


def test_bad_input_leaves_no_file_behind():
    log, stats = absent() + "-log", absent() + "-stats"
    outputs = ("--serial", "file:" + log, "--stats=json:" + stats)
    refused("--kernel", absent(), *outputs, status=3, pattern="No such file")
    refused("--kernel", scratch(b"no kernel"), "--engine", "soft", *outputs, pattern=r"file\d+")
    expect(not os.path.exists(log) and not os.path.exists(stats))


main(globals())
