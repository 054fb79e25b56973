"""strata host, and the choice of the engine."""

import os
import re
import time

from strata_test import POWER_OFF, expect, expect_refusal, guest, main, scratch, strata


def test_host_answers_within_its_bounds():
    began = time.monotonic()
    result = strata("host")
    expect(result.status == 0 and result.err == "", result)
    # Three probes of two seconds at most, on a host where each has to be given up.
    expect(time.monotonic() - began < 10, result)


def test_host_says_of_each_engine_whether_and_why():
    out = strata("host").out.decode()
    for engine in ("soft", "kvm"):
        expect(re.search(rf"^engine {engine} +(yes|no): \S", out, re.MULTILINE), out)
    expect(re.search(r"^--engine auto uses (kvm|soft)$", out, re.MULTILINE), out)


def test_host_says_that_soft_nests_both_extensions_on_any_host():
    out = strata("host").out.decode()
    section = out[out.index("engine soft"):out.index("engine kvm")]
    expect(re.search(r"nested vt-x +yes", section), out)
    expect(re.search(r"nested amd-v +yes", section), out)
    expect(re.search(r"translation +yes: \S", section), out)


def test_host_says_what_confines_a_guest():
    out = strata("host").out.decode()
    expect(re.search(r"^  seccomp +yes", out, re.MULTILINE), out)
    for bar in ("privileges", "capabilities", "namespaces", "empty root", "landlock"):
        expect(re.search(rf"^  {bar} +(yes|no)", out, re.MULTILINE), out)


def test_auto_says_in_one_line_what_it_chose_and_runs_it():
    out = strata("host").out.decode()
    chosen = re.search(r"^--engine auto uses (\w+)", out, re.MULTILINE).group(1)
    result = strata("run", "--kernel", scratch(guest(POWER_OFF)), "--timeout", "20")
    expect(result.status == 0, result)
    expect(len(result.lines()) == 1 and result.err.startswith(f"strata: engine {chosen}"), result)


def test_kvm_asked_for_by_name_is_a_missing_capability_where_it_cannot_run():
    out = strata("host").out.decode()
    if re.search(r"^engine kvm +yes", out, re.MULTILINE):
        return
    began = time.monotonic()
    result = strata("run", "--engine", "kvm", "--kernel", scratch(guest(POWER_OFF)))
    expect_refusal(result, 6, "engine kvm cannot run here: .*kvm")
    expect(time.monotonic() - began < 5, result)


def test_kvm_without_the_right_to_its_device_is_a_missing_capability():
    if os.geteuid() != 0 or not os.path.exists("/dev/kvm"):
        return
    if os.stat("/dev/kvm").st_mode & 0o006:
        return
    kernel = scratch(guest(POWER_OFF))
    os.chmod(os.path.dirname(kernel), 0o755)
    result = strata("run", "--engine", "kvm", "--kernel", kernel, user=65534, group=65534, extra_groups=[])
    expect_refusal(result, 6, "/dev/kvm: Permission denied")


main(globals())
