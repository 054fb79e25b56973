"""The kvm engine where KVM is real on every host: inside a guest of the soft engine with VT-x.

A Debian kernel boots on the soft engine, loads KVM, runs the kvm engine's unit tests, and then `strata run` with tiny
guests; at last the same kernel once more, which runs a tiny guest in turn: L3. What it says on its console is looked at
here.

usage: test_kvm_in_guest.py STRATA TEST-KVM GUEST      GUEST: the directory of guest/build, which fetches the kernel
"""

import functools
import os
import re
import shutil
import subprocess
import sys

from strata_test import (DIRECTORY, ECHO_UNTIL_Q, HALT, POWER_OFF, RESET, SPIN, STRATA, TRIPLE_FAULT, expect, guest, main,
                         out_byte, say, suspend)

TEST_KVM, GUEST = (os.path.abspath(path) for path in sys.argv[2:4])
IMAGES = os.path.join(GUEST, "cache")
MODULES = ("irqbypass", "kvm", "kvm-intel")
BOOT_LIMIT = 300

GUESTS = {
    "poweroff": say(b"hello\n") + POWER_OFF,
    "debugexit": out_byte(0xF4, 21) + HALT,
    "triplefault": TRIPLE_FAULT,
    "spin": SPIN,
    "halt": HALT,
    "reset": RESET,
    "suspend": suspend(),
    "echo": ECHO_UNTIL_Q,
}

INIT = r"""#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
echo 1 > /proc/sys/kernel/printk
for module in MODULES; do insmod /modules/$module.ko; done
# check NAME COMMAND...: what it prints, between two lines that name it, and its exit status.
check() {
	name=$1
	shift
	echo "<<< $name"
	"$@" 2>&1
	echo ">>> $name $?"
}
run() {
	kernel=$1
	shift
	strata run --engine kvm --memory ${memory:-16M} --kernel /guests/$kernel --timeout ${limit:-20} "$@"
}
confined() {
	strata run --engine kvm --memory 16M --kernel /guests/spin --serial none --timeout 20 &
	sleep 3
	for task in /proc/$!/task/*; do
		grep -E '^(Seccomp|NoNewPrivs|CapEff):' $task/status
	done
	ls /proc/$!/root/
	kill $!
	wait $!
}
echo_bytes() {
	(sleep 1; printf 'abcq') | run echo
	status=$?
	echo
	return $status
}
deep() {
	strata run --engine kvm --nested vt-x --memory 192M --kernel /vmlinuz --initrd /deep.cpio --timeout 150 \
		--append "console=ttyS0 quiet deep"
}
if grep -q deep /proc/cmdline; then
	run poweroff
	echo "L3 ended with status $?"
	poweroff -f
fi
check unit /test-kvm
check host strata host
check auto strata run --kernel /guests/poweroff
check poweroff run poweroff
check debugexit run debugexit --debug-exit 0xf4
check triplefault run triplefault
limit=1
check spin run spin
check halt run halt
limit=2
check reset run reset --stats=json
limit=20
check suspend run suspend --cpus 2
check echo echo_bytes
check confined confined
check nested run poweroff --nested vt-x
check othernested run poweroff --nested amd-v
memory=2M
check sizes run poweroff
check deep deep
poweroff -f
"""


def add_program(root, program, place):
    """A program with its libraries, which keep their places."""
    shutil.copy(program, root + place)
    libraries = subprocess.run(["ldd", program], stdout=subprocess.PIPE, check=True, text=True).stdout
    for library in re.findall(r"/\S+", libraries):
        os.makedirs(root + os.path.dirname(library), exist_ok=True)
        shutil.copy(library, root + library)


def make_image():
    root = os.path.join(DIRECTORY.name, "root")
    for directory in ("bin", "proc", "sys", "dev", "tmp", "modules", "guests"):
        os.makedirs(f"{root}/{directory}")
    shutil.copy("/bin/busybox", f"{root}/bin/busybox")
    add_program(root, STRATA, "/bin/strata")
    add_program(root, TEST_KVM, "/test-kvm")
    for module in MODULES:
        shutil.copy(f"{IMAGES}/modules/{module}.ko", f"{root}/modules/")
    for name, code in GUESTS.items():
        with open(f"{root}/guests/{name}", "wb") as file:
            file.write(guest(code))
    with open(f"{root}/init", "w", encoding="ascii") as file:
        file.write(INIT.replace("MODULES", " ".join(MODULES)))
    os.chmod(f"{root}/init", 0o755)
    pack(root, root + ".cpio")
    shutil.move(root + ".cpio", f"{root}/deep.cpio")
    shutil.copy(f"{IMAGES}/vmlinuz", f"{root}/vmlinuz")
    image = os.path.join(DIRECTORY.name, "image.cpio")
    pack(root, image)
    return image


def pack(root, image):
    subprocess.run(f"find . | cpio --quiet -o -H newc -R 0:0 > {image}", shell=True, cwd=root, check=True)


class Checked:
    def __init__(self, text, status):
        self.text = text
        self.status = int(status)

    def __repr__(self):
        return f"status {self.status}\n{self.text}"


@functools.cache
def console():
    """Boots once; {name: Checked}."""
    subprocess.run([f"{GUEST}/build", STRATA], check=True, timeout=BOOT_LIMIT)
    words = [STRATA, "run", "--engine", "soft", "--nested", "vt-x", "--memory", "512M", "--timeout", str(BOOT_LIMIT),
             "--kernel", f"{IMAGES}/vmlinuz", "--initrd", make_image(), "--append", "console=ttyS0 quiet"]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                          timeout=BOOT_LIMIT + 30)
    text = done.stdout.decode("utf-8", "replace").replace("\r", "")
    found = {name: Checked(body, status)
             for name, body, status in re.findall(r"^<<< (\w+)\n(.*?)^>>> \1 (\d+)$", text, re.MULTILINE | re.DOTALL)}
    found["all"] = Checked(text + done.stderr.decode("utf-8", "replace"), done.returncode)
    return found


def checked(name):
    found = console()
    expect(name in found, f"{name} was not reached\n{found['all']!r}"[-6000:])
    return found[name]


def expect_status(name, status, pattern=""):
    seen = checked(name)
    expect(seen.status == status, seen)
    expect(re.search(pattern, seen.text, re.MULTILINE), f"/{pattern}/ expected\n{seen}")


def test_the_whole_script_ran_and_powered_off():
    checked("deep")
    expect(console()["all"].status == 0, console()["all"].status)


def test_unit_tests_of_the_kvm_engine_pass_and_none_is_skipped():
    seen = checked("unit")
    expect(seen.status == 0, seen)
    passed = re.findall(r"^ok \d+ /kvm/", seen.text, re.MULTILINE)
    expect(len(passed) == int(re.search(r"^1\.\.(\d+)", seen.text, re.MULTILINE).group(1)), seen)
    expect("SKIP" not in seen.text, seen)


def test_host_finds_kvm_and_vt_x_for_its_guests():
    expect_status("host", 0, r"^engine kvm +yes: its test guest ran$")
    expect_status("host", 0, r"^  nested vt-x +yes: its test guest ran, and may use VT-x$")
    expect_status("host", 0, r"^  nested amd-v +no: ")
    expect_status("host", 0, r"^--engine auto uses kvm$")


def test_auto_takes_kvm():
    expect_status("auto", 0, r"^strata: engine kvm: its test guest ran$")


def test_power_off_is_status_0_after_its_output():
    expect_status("poweroff", 0, r"\Ahello\n\Z")


def test_debug_exit_is_its_status():
    expect_status("debugexit", 43)


def test_triple_fault_is_status_9_with_the_state():
    expect_status("triplefault", 9, r"triple fault")
    expect_status("triplefault", 9, r"(?i)rip")


def test_time_limit_ends_a_guest_that_spins():
    expect_status("spin", 7, "time limit of 1 s")


def test_time_limit_ends_a_guest_that_halts():
    expect_status("halt", 7, "time limit of 1 s")


def test_reset_boots_again():
    seen = checked("reset")
    expect(seen.status == 7, seen)
    resets = re.search(r'"resets": (\d+)', seen.text)
    expect(resets and int(resets.group(1)) >= 1, seen)


def test_suspended_machine_goes_on_at_the_waking_vector():
    expect_status("suspend", 0, r"W")


def test_serial_input_reaches_the_guest():
    expect_status("echo", 0, r"abcq")


def test_every_thread_is_confined():
    seen = checked("confined")
    modes = re.findall(r"^Seccomp:\s+(\d)", seen.text, re.MULTILINE)
    expect(len(modes) >= 2 and set(modes) == {"2"}, seen)
    expect(set(re.findall(r"^NoNewPrivs:\s+(\d)", seen.text, re.MULTILINE)) == {"1"}, seen)
    expect(set(re.findall(r"^CapEff:\s+(\w+)", seen.text, re.MULTILINE)) == {"0" * 16}, seen)


def test_nested_guest_gets_vt_x():
    expect_status("nested", 0, "hello")


def test_nesting_of_the_other_vendor_is_a_missing_capability():
    expect_status("othernested", 6, "engine kvm cannot run with --nested amd-v here")


def test_least_memory_is_enough():
    expect_status("sizes", 0, "hello")


def test_guest_of_a_guest_of_a_guest_runs():
    expect_status("deep", 0, r"^hello\nL3 ended with status 0$")


main(globals())
