"""What can be seen of translated code, and how much memory it takes. Needs guests: usage ... STRATA SMC FRESH TRACES INDIRECT."""

import json
import os
import re
import subprocess
import sys

from strata_test import HALT, PROMPT, SPIN, absent, expect, expect_refusal, guest, main, say, scratch, start, strata

SMC, FRESH, TRACES, INDIRECT = sys.argv[2:6]
GUEST = ("run", "--engine", "soft", "--memory", "64M", "--test-devices", "--debug-exit", "0xf4", "--serial", "none",
         "--timeout", "50", "--kernel")
MIB = 1 << 20


def traced():
    result = strata(*GUEST, SMC, "--translate-after", "1", "--trace", "jit")
    expect(result.status == 33, result)
    return result


# --- Looking ---


def test_trace_names_each_block_by_its_guest_address():
    lines = traced().lines()
    pattern = r"^strata: jit: guest 0x[0-9a-f]+, RAM offset 0x[0-9a-f]+: \d+ instructions of \d+ blocks, to \d+ bytes at 0x"
    expect(sum(bool(re.match(pattern, line)) for line in lines) > 100, lines[:20])


def test_trace_names_what_keeps_a_block_interpreted():
    result = strata(*GUEST, TRACES, "--translate-after", "2", "--trace", "jit")
    expect(re.search(r"\d+ instructions stay interpreted, for these need handlers: \w+", result.err), result)


def test_statistics_name_the_handlers_that_translated_code_called():
    result = strata(*GUEST, SMC, "--translate-after", "1", "--stats=json")
    statistics = json.loads(result.err)
    called = sum(statistics["handlers_called"].values())
    expect(0 < called <= statistics["counters"]["instructions_by_handler"], statistics)


def test_statistics_count_loops_of_few_rounds_that_were_unrolled():
    result = strata(*GUEST, TRACES, "--translate-after", "2", "--stats=json")
    counters = json.loads(result.err)["counters"]
    expect(counters["loops_unrolled"] >= 4, counters)


def test_statistics_count_indirect_branches_that_stray():
    result = strata(*GUEST, INDIRECT, "--translate-after", "2", "--stats=json")
    counters = json.loads(result.err)["counters"]
    expect(3 <= counters["branches_straying"] <= 12, counters)


def dumped(address):
    result = strata(*GUEST, SMC, "--translate-after", "1", "--dump-block", address)
    expect(result.status == 33, result)
    expect(result.err.count("strata: the code at") == 1, result)
    return result


def test_dump_block_shows_guest_and_host_code_side_by_side_and_once():
    first = re.search(r"guest (0x[0-9a-f]+), RAM offset 0x[0-9a-f]+: [5-9] instructions", traced().err).group(1)
    result = dumped(first)
    lines = result.lines()
    head = re.match(rf"strata: the code at {first}, RAM offset 0x\w+: (\d+) instructions of \d+ blocks became \d+ bytes$",
                    lines[0])
    expect(head, lines[0])
    shown = [line for line in lines[1:] if re.match(r"[0-9a-f]+  \w+", line)]
    expect(len(shown) == int(head.group(1)), result)
    expect(int(shown[0].split()[0], 16) == int(first, 16), shown)
    expect(all(re.search(r"\| [0-9a-f]+  \w+", line) or "|" not in line for line in lines[1:]), result)
    expect(sum("|" in line for line in lines) > len(shown), result)


def test_dump_block_takes_any_address_within():
    first = re.search(r"guest (0x[0-9a-f]+), RAM offset 0x[0-9a-f]+: [5-9] instructions", traced().err).group(1)
    lines = dumped(first).lines()
    last = [line.split()[0] for line in lines[1:] if re.match(r"[0-9a-f]+  \w+", line)][-1]
    dumped("0x" + last)


def test_dump_block_of_an_address_that_never_runs_prints_nothing():
    result = strata(*GUEST, SMC, "--translate-after", "1", "--dump-block", "0x123456789000")
    expect(result.status == 33 and result.err == "", result)


def test_dump_block_that_is_no_address_is_refused():
    for value in ("here", "0x", "0x1ffffffffffffffff", "-1"):
        expect_refusal(strata("run", f"--dump-block={value}"), 2, "--dump-block .*: that is no address")


def test_perf_map_has_a_line_for_each_translation():
    path = absent() + "-map"
    result = strata(*GUEST, SMC, "--translate-after", "1", f"--perf-map={path}", "--stats=json")
    expect(result.status == 33, result)
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    expect(all(re.match(r"[0-9a-f]+ [0-9a-f]+ \S", line) for line in lines), lines[:10])
    names = [line.split(" ", 2)[2] for line in lines]
    expect(names[0].startswith("strata: "), names[0])
    expect(len(lines) - 1 == json.loads(result.err)["counters"]["traces_translated"], len(lines))
    starts = [int(line.split()[0], 16) for line in lines]
    sizes = [int(line.split()[1], 16) for line in lines]
    expect(all(start + size <= after for start, size, after in zip(starts, sizes, starts[1:])), "they overlap")


def test_perf_map_names_code_where_it_is_executable():
    path = absent() + "-map2"
    process = start(guest(say(b"!") + SPIN), "--timeout", "30", f"--perf-map={path}")
    try:
        process.stdout.read(1)
        with open(path, encoding="utf-8") as file:
            at = int(file.readline().split()[0], 16)
        with open(f"/proc/{process.pid}/maps", encoding="utf-8") as file:
            ranges = [line.split(None, 5) for line in file]
        inside = [r for r in ranges if int(r[0].split("-")[0], 16) <= at < int(r[0].split("-")[1], 16)]
        # perf looks into its map only for memory that is anonymous or of /dev/zero.
        expect(len(inside) == 1 and "x" in inside[0][1] and inside[0][5].startswith("/dev/zero"), inside)
    finally:
        process.kill()
        process.communicate(timeout=PROMPT)


def test_perf_map_goes_where_perf_looks_unless_told():
    process = start(guest(say(b"!") + SPIN), "--timeout", "30", "--perf-map")
    path = f"/tmp/perf-{process.pid}.map"
    try:
        process.stdout.read(1)
        expect(os.path.getsize(path) > 0)
    finally:
        process.kill()
        process.communicate(timeout=PROMPT)
        os.unlink(path)


def test_looking_is_for_translated_code():
    kernel = scratch(guest(HALT))
    for option in (("--perf-map",), ("--dump-block", "0")):
        expect_refusal(strata("run", "--kernel", kernel, "--interpret", *option), 2, "--interpret")
        expect_refusal(strata("run", "--kernel", kernel, "--engine", "kvm", *option), 2, "engine soft")


# --- Memory ---


def measured(*words):
    """Runs the guest that makes new code all the time: its counters, and the most memory the process had, in bytes."""
    path = absent() + "-stats"
    with subprocess.Popen([sys.argv[1], *GUEST, FRESH, "--translate-after", "1", f"--stats=json:{path}", *words],
                          stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        err = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    expect(process.returncode == 33, (process.returncode, err))
    with open(path, encoding="utf-8") as file:
        return json.load(file)["counters"], usage.ru_maxrss * 1024


def test_new_code_for_ever_takes_no_more_than_translation_memory():
    counters, most = measured("--translation-memory", "6M")
    expect(counters["translation_flushes"] >= 5, counters)
    expect(counters["traces_translated"] > 100000, counters)
    # What so many operands predict fills its memory before code fills two fifths, and goes with it.
    expect(counters["translated_bytes"] <= 0.9 * 6 * MIB * 2 / 5, counters)
    expect(counters["decoded_bytes"] <= 6 * MIB * 3 / 5, counters)
    # 64 MiB of guest, of which not all is used; the program and its tables.
    expect(most < (64 + 6 + 20) * MIB, most)


def test_code_that_does_not_fit_must_run_more_often():
    result = strata(*GUEST, FRESH, "--translation-memory", "6M", "--translate-after", "2", "--trace", "jit")
    times = [int(line.split()[-1]) for line in result.lines() if "emptied" in line]
    expect(len(times) >= 2 and times[:2] == [4, 8] and max(times) <= 256, times)


def test_once_much_is_translated_code_must_run_more_often():
    def counters(*words):
        result = strata(*GUEST, INDIRECT, "--translation-memory", "16M", "--stats=json", *words)
        return json.loads(result.err)["counters"]
    few, many = counters(), counters("--translate-after", "4")
    expect(few["translation_flushes"] == 0 < many["translation_flushes"], (few, many))
    expect(2.5 * MIB < few["translated_bytes"] < 3 * MIB, few)
    expect(many["translated_bytes"] <= 16 * MIB * 2 / 5, many)


def test_translation_memory_may_be_large():
    counters, _ = measured("--translation-memory", "400M")
    expect(counters["translation_flushes"] == 0, counters)


def test_process_stays_within_its_guest_and_128_mib():
    counters, most = measured()
    expect(counters["traces_translated"] > 100000, counters)
    expect(most < (64 + 128) * MIB, most)


def test_translation_memory_that_makes_no_sense_is_refused():
    for value in ("0", "3M", "2G", "much"):
        expect_refusal(strata("run", "--translation-memory", value), 2, "--translation-memory .*4M to 1G")


main(globals())
