"""strata host, the choice of the engine, and choices by what the host's processor has."""

import os
import re
import time

from strata_test import COM1, POWER_OFF, expect, expect_refusal, guest, main, mov_dx, run, scratch, strata


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


# --- The host's features ---

# mov eax, 1; xor ecx, ecx; cpuid; mov ebx, ecx; then EBX to the serial port, low byte first
LEAF_1_ECX = b"\xb8\x01\x00\x00\x00\x31\xc9\x0f\xa2\x89\xcb" + \
    (mov_dx(COM1) + b"\x88\xd8\xee\xc1\xeb\x08") * 4 + POWER_OFF
FMA, SSE42, X2APIC, AES, XSAVE, AVX, F16C = (1 << bit for bit in (12, 20, 21, 25, 26, 28, 29))


def leaf_1_ecx(*words):
    result = run(guest(LEAF_1_ECX), *words)
    expect(result.status == 0, result)
    return int.from_bytes(result.out, "little")


def test_host_lists_its_features():
    out = strata("host").out.decode()
    used = re.search(r"^  features used (.*)$", out, re.MULTILINE).group(1).split()
    expect("sse42" in used and "popcnt" in used, out)
    expect(re.search(r"^  not there ", out, re.MULTILINE), out)


def test_hidden_feature_is_not_the_guests():
    expect(leaf_1_ecx() & SSE42)
    expect(not leaf_1_ecx("--host-features", "-aes") & AES)


def test_without_avx_nothing_is_left_that_needs_it():
    expect(not leaf_1_ecx("--host-features", "-avx") & (AVX | FMA | F16C))


def test_without_xsave_there_is_no_avx():
    expect(not leaf_1_ecx("--host-features", "-xsave") & (XSAVE | AVX | FMA | F16C))


def test_guest_does_without_the_features_it_shall_not_have():
    expect(leaf_1_ecx() & X2APIC)
    expect(not leaf_1_ecx("--cpu-features", "-x2apic,-avx") & (X2APIC | AVX | FMA | F16C))


def test_feature_that_a_guest_cannot_do_without_is_refused():
    for value in ("pcid", "-sse42", "-pcid,-nothing", "+pcid", "-mpx", "", "-", "+"):
        expect_refusal(strata("run", f"--cpu-features={value}"), 2, "--cpu-features: not '.*', but a list of .*-pcid.* [+]mpx")
    expect_refusal(strata("run", "--engine", "kvm", "--cpu-features=-pcid", "--kernel", scratch(guest(POWER_OFF))), 2,
                   "--cpu-features is for engine soft")


def test_feature_that_no_choice_depends_on_is_refused():
    for value in ("avx", "-vmx", "-avx,-nothing", "", "-"):
        expect_refusal(strata("run", f"--host-features={value}"), 2, "--host-features: not '.*', but a list of .*-avx2")


def test_host_that_lacks_what_strata_needs_is_a_missing_capability():
    result = strata("run", "--engine", "soft", "--host-features", "-sse42", "--kernel", scratch(guest(POWER_OFF)))
    expect_refusal(result, 6, "lacks SSE4.2")


main(globals())
