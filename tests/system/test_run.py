"""Runs of tiny guests: how they end, what comes out of the serial port, statistics, time limit, signals."""

import json
import os
import re
import signal
import subprocess
import time

from strata_test import (ECHO, ECHO_UNTIL_Q, HALT, POWER_OFF, PROMPT, RESET, SPIN, TRIPLE_FAULT, absent, expect, guest,
                         main, out_byte, out_word, run, say, scratch, start, suspend)

# --- How a guest ends ---


def test_power_off_is_status_0_and_says_nothing():
    result = run(guest(POWER_OFF))
    expect(result.status == 0 and result.err == "" and result.out == b"", result)


def test_debug_exit_of_v_is_status_2v_plus_1():
    for value in (0, 1, 5, 127):
        result = run(guest(out_byte(0xF4, value) + HALT), "--debug-exit", "0xf4")
        expect(result.status == value << 1 | 1, f"value {value}\n{result}")


def test_debug_exit_port_is_nothing_unless_asked_for():
    result = run(guest(out_byte(0xF4, 3) + POWER_OFF))
    expect(result.status == 0, result)


def test_triple_fault_is_status_9_with_the_state_on_stderr():
    result = run(guest(TRIPLE_FAULT))
    expect(result.status == 9, result)
    expect("triple fault" in result.err, result)
    for register in ("RAX", "RSP", "RIP", "CR0", "CR3"):
        expect(re.search(register, result.err, re.IGNORECASE), f"{register} is missing\n{result}")
    expect(result.out == b"", result)


def test_suspended_machine_goes_on_at_the_waking_vector():
    result = run(guest(suspend()), "--cpus", 2, "--timeout", PROMPT)
    expect(result.status == 0 and result.out == b"W\n", result)


def test_suspended_machine_without_a_way_to_wake_can_be_ended():
    result = run(guest(out_word(0x604, 0x2400) + HALT), "--timeout", 1)
    expect(result.status == 7, result)


def test_reset_boots_again_and_counts():
    # The first run finds a zero in memory that a reset keeps, the second does not.
    marker = 0x8000
    code = b"\x83\x3d" + marker.to_bytes(4, "little") + b"\x00"  # cmp dword [marker], 0
    code += b"\x75" + bytes([10 + len(RESET)])  # jne: past the reset
    code += b"\xc7\x05" + marker.to_bytes(4, "little") + b"\x01\x00\x00\x00" + RESET
    result = run(guest(code + POWER_OFF), "--stats=json", "--timeout", "20")
    expect(result.status == 0, result)
    expect(json.loads(result.err[result.err.index("{"):])["resets"] == 1, result)


def test_time_limit_is_status_7_and_takes_as_long_as_asked():
    for code in (SPIN, HALT):
        began = time.monotonic()
        result = run(guest(code), "--timeout", "1")
        took = time.monotonic() - began
        expect(result.status == 7, result)
        expect(result.lines() == ["strata: run: the time limit of 1 s is over; ended"], result)
        expect(0.9 < took < PROMPT, f"{took} s")


# --- The serial port ---


def test_serial_output_is_byte_for_byte_on_stdout():
    everything = bytes(range(256))
    result = run(guest(say(everything) + POWER_OFF))
    expect(result.status == 0 and result.err == "", result)
    expect(result.out == everything, result)


def test_serial_output_without_a_newline_is_not_kept_back():
    with start(guest(say(b"prompt> ") + SPIN), "--timeout", "20") as process:
        expect(process.stdout.read(8) == b"prompt> ")
        process.terminate()
        process.communicate(timeout=PROMPT)


def test_serial_output_goes_into_a_file():
    path = absent() + "-serial"
    result = run(guest(say(b"hello\n") + POWER_OFF), "--serial", "file:" + path)
    expect(result.status == 0 and result.out == b"", result)
    with open(path, "rb") as file:
        expect(file.read() == b"hello\n")


def test_serial_none_drops_output_and_reads_no_input():
    result = run(guest(say(b"hello\n") + POWER_OFF), "--serial", "none", input=b"x")
    expect(result.status == 0 and result.out == b"" and result.err == "", result)


def test_serial_input_from_a_pipe_reaches_the_guest_unchanged():
    data = bytes(b for b in range(256) if b != ord("q"))
    result = run(guest(ECHO_UNTIL_Q), "--timeout", "20", input=data + b"q")
    expect(result.status == 0, result)
    expect(result.out == data + b"q", result)


def test_end_of_serial_input_does_not_end_the_guest():
    result = run(guest(ECHO), "--timeout", "2", input=b"abc")
    expect(result.status == 7 and result.out == b"abc", result)


def test_closed_standard_output_does_not_end_the_guest():
    process = start(guest(say(b"x" * 500) + POWER_OFF), "--timeout", "20")
    process.stdout.close()
    expect(process.wait(timeout=PROMPT * 2) == 0, process.stderr.read())
    process.stderr.close()


def test_closed_descriptors_are_survived():
    result = run(guest(say(b"x") + POWER_OFF), preexec_fn=lambda: (os.close(0), os.close(1)))
    expect(result.status == 0, result)


# --- Statistics ---


def test_statistics_are_a_table_on_stderr():
    result = run(guest(say(b"hi") + POWER_OFF), "--stats")
    expect(result.status == 0 and result.out == b"hi", result)
    expect(re.search(r"strata: engine soft, \d+\.\d+ s, 0 resets, status 0", result.err), result)
    expect(re.search(r"^  instructions executed +\d+$", result.err, re.MULTILINE), result)


def test_statistics_as_json_are_one_object_on_stderr():
    result = run(guest(POWER_OFF), "--stats=json")
    stats = json.loads(result.err)
    expect(stats["engine"] == "soft" and stats["status"] == 0 and stats["resets"] == 0, result)
    expect(stats["counters"]["instructions"] > 0 and stats["counters"]["port_io"] >= 1, result)
    expect(stats["counters"]["vm_entries"] == 0 and stats["vm_exits_by_reason"] == {}, result)


def test_statistics_as_json_go_into_a_file():
    path = absent() + "-stats"
    result = run(guest(TRIPLE_FAULT), "--stats=json:" + path)
    expect(result.status == 9, result)
    with open(path, encoding="utf-8") as file:
        expect(json.load(file)["status"] == 9)


def test_counted_instructions_are_those_of_the_guest():
    # mov ecx, 1000000; loop to itself
    result = run(guest(b"\xb9\x40\x42\x0f\x00\xe2\xfe" + POWER_OFF), "--stats=json")
    count = json.loads(result.err)["counters"]["instructions"]
    expect(1000000 <= count <= 1000100, result)


def test_trace_lines_name_their_channel():
    result = run(guest(out_byte(0x3F8, 65) + POWER_OFF), "--trace", "boot,io")
    expect(result.status == 0 and result.out == b"A", result)
    expect(re.search(r"^strata: boot: ", result.err, re.MULTILINE), result)


# --- Signals ---


def test_signals_end_the_run_by_the_same_signal_with_statistics():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        with start(guest(say(b"!") + SPIN), "--stats=json", "--timeout", "30") as process:
            process.stdout.read(1)
            process.send_signal(number)
            _, err = process.communicate(timeout=PROMPT)
            expect(process.returncode == -number, (process.returncode, err))
            expect(json.loads(err)["engine"] == "soft", err)


def test_second_signal_does_not_wait():
    with start(guest(say(b"!") + SPIN), "--timeout", "30") as process:
        process.stdout.read(1)
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        process.communicate(timeout=PROMPT)
        expect(process.returncode in (-signal.SIGTERM, -signal.SIGINT), process.returncode)


def test_signal_ends_a_guest_that_halts_for_good():
    with start(guest(say(b"!") + HALT), "--timeout", "30") as process:
        process.stdout.read(1)
        process.terminate()
        process.communicate(timeout=PROMPT)
        expect(process.returncode == -signal.SIGTERM, process.returncode)


def test_ignored_hangup_stays_ignored():
    hangup_ignored = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    with start(guest(say(b"!") + SPIN), "--timeout", "3", **hangup_ignored) as process:
        process.stdout.read(1)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=PROMPT)
        expect(process.returncode == 7, process.returncode)


def test_pipe_whose_reader_ended_is_no_signal_death():
    command = f"{os.path.abspath(__import__('strata_test').STRATA)} run --engine soft --timeout 20 --kernel " + \
        scratch(guest(say(b"line\n" * 100) + POWER_OFF)) + "; echo status $? >&2"
    done = subprocess.run(["sh", "-c", f"({command}) | head -n 1"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, timeout=30, check=False)
    expect(done.stdout == b"line\n" and b"status 0" in done.stderr, done)


main(globals())
