"""The programs compute what they should, and bench/run reads, compares and averages rightly. usage: test_bench.py BENCH"""
import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import traceback

BENCH = sys.argv[1]
RUN = os.path.join(os.path.dirname(os.path.realpath(__file__)), "run")
sys.dont_write_bytecode = True
loader = importlib.machinery.SourceFileLoader("bench_run", RUN)
bench = importlib.util.module_from_spec(importlib.util.spec_from_loader("bench_run", loader))
loader.exec_module(bench)

# NAME: (N, checksum). Known from elsewhere: eight queens stand in 92 ways, the 20th Fibonacci number is 6765, the CRC
# is zlib's of the same text; and what counts its successes has all of them. The others were recorded once.
EXPECTED = {
    "sort": (1, 0x750C2E4EB12EDDF5), "hash": (1, 0x97F4A7C150000001), "lz": (1, 0x08B4826B5BE09CCE),
    "interpreter": (1, 0x8E6FCC7BD07315B1), "matrix": (1, 0xAB6D5A7168D30242), "n-body": (100, 0x0A788DC00A046CDB),
    "tree": (1, 0x82CE3FEB71E3D94C), "crc": (1, 0x4D5B099D), "json": (1, 0x780F042C52E61757), "queens": (8, 92),
    "calls": (20, 6765), "chase": (65536, 0), "store": (1, 0x4036E6191FBAC3EC), "memcpy-1M": (1, 0x1715609F7C746C6A),
    "rep-movsb": (1, 0xB54CDA58FBBEE87F), "vector": (1, 0x2B2F9C63395C0ED1), "getppid": (10, 10), "page-fault": (10, 10),
    "fork-exit": (2, 2), "fork-exec": (2, 2), "pipe": (10, 55), "switch": (10, 0x2E2AC13EF8E8D8D3), "cpuid": (2, 2),
}
PROGRAMS = [("a", "whole", 1), ("b", "whole", 1), ("cpuid", "part", 10)]


def expect(condition, seen=""):
    if not condition:
        raise AssertionError(seen)


def run_of(**samples):
    run = bench.Run()
    run.samples = samples
    return run


def every_program_computes_its_checksum():
    for name, kind, _ in bench.programs_of(BENCH):
        if kind in ("guest", "package"):
            continue
        n, checksum = EXPECTED[name]
        done = subprocess.run([BENCH, name, str(n)], capture_output=True, text=True, check=False, timeout=60)
        run = bench.Run()
        run.line(done.stdout.strip(), 0)
        expect(run.sums.get(name) == f"{checksum:016x}", f"{name}: {done}")
        expect(run.samples[name][0] > 0, name)


def quick_keeps_every_program_but_less_of_it():
    for name, _, n in bench.programs_of(BENCH):
        expect(1 <= bench.quick_n(name, n) < n, name)


def lines_are_found_in_console_noise_and_marks_in_order():
    run = bench.Run()
    for at, text in enumerate(["[    0.1] Linux", "bench: user-space", "bench: starts-next", "x bench: user-space",
                               "bench: clock 1.5", "bench: sort 2000000000 00000000000000ff", "bench: clock 3.5",
                               "bench: done"]):
        run.line(text, at)
    expect(run.samples == {"sort": [2.0]} and run.sums == {"sort": "00000000000000ff"}, run.samples)
    expect(run.marks == {"l1": 1, "starts-l2": 2, "l2": 3, "done": 7}, run.marks)
    expect(run.clock_error() == 0, run.clock_error())


def a_clock_not_to_be_trusted_is_replaced_by_the_hosts():
    run = bench.Run(by_arrival=True)
    for at, text in ((1.0, "clock 1.5"), (3.0, "sort 5 00000000000000ff"), (7.0, "sort 5 00000000000000ff"), (9.0, "clock 1.6")):
        run.line("bench: " + text, at)
    expect(run.samples == {"sort": [2.0, 4.0]} and run.clock_error() is None, run.samples)


def a_slow_guest_clock_is_noticed():
    run = bench.Run()
    run.clocks = [(1.0, 10.0), (2.0, 14.0)]
    expect(run.clock_error() == -0.75, run.clock_error())
    run.clocks = [(1.0, 10.0)]
    expect(run.clock_error() is None)


def a_checksum_that_changes_is_trouble():
    run = bench.Run()
    run.line("bench: a 1 0000000000000001", 0)
    run.line("bench: a 1 0000000000000002", 0)
    expect(len(run.trouble) == 1, run.trouble)
    other = bench.Run()
    other.line("bench: a 9 0000000000000003", 0)
    expect(len(bench.checksum_differences({"native": run, "tcg L1": other})) == 1)
    expect(bench.checksum_differences({"native": run, "tcg L1": run}) == [])


def ratios_are_of_medians_and_their_mean_is_geometric():
    runs = {"native": run_of(a=[1, 2, 90], b=[1, 1, 1]), "m L1": run_of(a=[4, 4, 70], b=[8, 1, 9])}
    got = bench.ratios(runs, PROGRAMS)["m L1"]
    expect(got["a"] == 2 and got["b"] == 8 and abs(got["geometric mean"] - 4) < 1e-9, got)


def a_machine_that_missed_a_whole_program_has_no_mean():
    runs = {"native": run_of(a=[1], b=[1]), "m L1": run_of(a=[1])}
    expect("geometric mean" not in bench.ratios(runs, PROGRAMS)["m L1"])
    row = next(line for line in bench.table(runs, PROGRAMS).splitlines() if line.startswith("geometric mean"))
    expect(row.split()[-1] == "-", row)


def the_table_gives_exits_in_microseconds_each():
    runs = {"native": run_of(cpuid=[10e-6]), "m L2": run_of(cpuid=[50e-6])}
    row = next(line for line in bench.table(runs, PROGRAMS).splitlines() if line.startswith("cpuid, each"))
    expect(row.split()[2:] == ["1.00", "us", "5.00", "us"], row)


def exits_are_given_in_cycles_beside_what_is_known():
    runs = {"native": run_of(cpuid=[10e-6]), "m L3": run_of(cpuid=[100e-6, 200e-6, 300e-6])}
    lines = bench.exits(runs, PROGRAMS, 2000)
    expect(len(lines) == 1 and "20.00 us" in lines[0] and "40,000 cycles" in lines[0] and "857,578" in lines[0], lines)


def boots_are_compared_with_tcg_of_the_same_level():
    runs = {"native": run_of(), "translated L2": run_of(**{"boot-l2": [1.0]}), "tcg L2": run_of(**{"boot-l2": [4.0]}),
            "tcg L1": run_of(**{"boot-l2": [9.0]})}
    lines = bench.boot_ratios(runs)
    expect(len(lines) == 1 and "0.25 x TCG" in lines[0], lines)


def each_level_has_its_marks():
    run = bench.Run()
    for at, text in enumerate(["user-space", "starts-next", "user-space", "starts-next", "user-space", "done", "done"]):
        run.line("bench: " + text, at)
    expect(run.marks == {"l1": 0, "starts-l2": 1, "l2": 2, "starts-l3": 3, "l3": 4, "done": 5}, run.marks)


def memory_is_that_besides_the_largest_mapping():
    own = bench.memory_besides_guest(os.getpid())
    expect(own > 1 << 20, own)
    expect(bench.memory_besides_guest(2**30) is None)


def a_machine_that_hangs_is_stopped_and_said():
    run = bench.follow(["sleep", "60"], 1)
    expect(any("stopped after 1 s" in text for text in run.trouble), run.trouble)


def a_machine_that_dies_is_trouble():
    run = bench.follow(["sh", "-c", "echo panic"], 30)
    expect(len(run.trouble) == 1 and "panic" in run.trouble[0], run.trouble)


def help_names_the_options():
    done = subprocess.run([sys.executable, RUN, "--help"], capture_output=True, text=True, check=False, timeout=60)
    expect(done.returncode == 0 and "--levels" in done.stdout and "--json" in done.stdout, done)


def wrong_options_are_refused():
    for words in (["--levels", "5"], ["--machines", "vax"], ["--repeat", "0"]):
        done = subprocess.run([sys.executable, RUN, *words], capture_output=True, text=True, check=False, timeout=60)
        expect(done.returncode == 2, words)


def main():
    tests = [(name, value) for name, value in globals().items()
             if callable(value) and "_" in name and name not in ("run_of",) and value.__module__ == __name__]
    print(f"1..{len(tests)}")
    failed = 0
    for number, (name, test) in enumerate(tests, 1):
        try:
            test()
            print(f"ok {number} {name}")
        except Exception:  # any failure is a failed test
            failed += 1
            print(f"not ok {number} {name}")
            print("\n".join("# " + line for line in traceback.format_exc().splitlines()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
