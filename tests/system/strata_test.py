"""What the system tests share: how to call strata, the tiny guests they boot, and a runner that speaks TAP.

Every test is a function whose name says what is expected. The program's path is the first argument of each script.
"""

import os
import re
import struct
import subprocess
import sys
import tempfile
import traceback

STRATA = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else "strata"
LIMIT = 60  # seconds that no call may exceed
PROMPT = 10  # seconds in which something quick has happened, on a busy machine too

# --- Calling strata ---


class Result:
    def __init__(self, completed):
        self.status = completed.returncode
        self.out = completed.stdout
        self.err = completed.stderr.decode("utf-8", "replace")

    def lines(self):
        return self.err.splitlines()

    def __repr__(self):
        return f"status {self.status}\n--- stdout\n{self.out[:2000]!r}\n--- stderr\n{self.err[:4000]}"


def strata(*words, stdin=subprocess.DEVNULL, input=None, **more):
    if input is not None:
        more["input"] = input
    else:
        more["stdin"] = stdin
    completed = subprocess.run([STRATA, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               timeout=LIMIT, check=False, **more)
    return Result(completed)


def run(image, *words, **more):
    """strata run, soft engine, with this guest image (bytes) as the kernel."""
    return strata("run", "--engine", "soft", "--kernel", scratch(image), *words, **more)


def start(image, *words, **more):
    more.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.Popen([STRATA, "run", "--engine", "soft", "--kernel", scratch(image), *map(str, words)],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def expect(condition, seen=""):
    if not condition:
        raise AssertionError(seen)


def expect_refusal(result, status, pattern):
    """One line on standard error that matches, nothing on standard output, this status."""
    expect(result.status == status, f"status {status} expected\n{result}")
    expect(len(result.lines()) == 1, f"one line expected\n{result}")
    expect(result.err.startswith("strata: "), result)
    expect(re.search(pattern, result.err), f"/{pattern}/ expected\n{result}")
    expect(result.out == b"", result)


# --- Files ---

DIRECTORY = tempfile.TemporaryDirectory(prefix="strata-test-")
_count = 0


def scratch(contents=b""):
    """A new file with these contents; its path."""
    global _count
    _count += 1
    path = os.path.join(DIRECTORY.name, f"file{_count}")
    with open(path, "wb") as file:
        file.write(contents)
    return path


def absent():
    """A path where nothing is, in a directory that is."""
    return os.path.join(DIRECTORY.name, "absent")


# --- Guests ---
# Multiboot 1 images of a few bytes, entered in 32-bit protected mode, flat, interrupts off.

LOAD = 0x100000


def guest(code):
    """A Multiboot image whose header says where it goes; `code` is its entry point."""
    header_size = 32
    flags = 0x10000
    size = header_size + len(code)
    magic = 0x1BADB002
    header = struct.pack("<8I", magic, flags, -(magic + flags) & 0xFFFFFFFF, LOAD, LOAD, LOAD + size, LOAD + size + 4096,
                         LOAD + header_size)
    return header + code


def mov_dx(port):
    return b"\x66\xba" + struct.pack("<H", port)


def out_byte(port, value):
    """mov dx, port; mov al, value; out dx, al"""
    return mov_dx(port) + b"\xb0" + bytes([value]) + b"\xee"


def out_word(port, value):
    """mov dx, port; mov ax, value; out dx, ax"""
    return mov_dx(port) + b"\x66\xb8" + struct.pack("<H", value) + b"\x66\xef"


COM1 = 0x3F8
SPIN = b"\xeb\xfe"  # jmp to itself
HALT = b"\xfa\xf4\xeb\xfd"  # cli; hlt; once more
# mov esp, 180000h; push 0; push 0; lidt [esp]; int3. Multiboot leaves ESP undefined.
TRIPLE_FAULT = b"\xbc\x00\x00\x18\x00\x6a\x00\x6a\x00\x0f\x01\x1c\x24\xcc"
POWER_OFF = out_word(0x604, 0x2000) + HALT  # PM1 control: SLP_EN
RESET = out_byte(0xCF9, 0x06) + HALT


def suspend():
    """Suspends to memory until the RTC's alarm of the next second; the waking vector, in real mode, says W on a line
    and powers off."""
    facs, vector = 0xE0040, 0x1000
    # mov dx, COM1; mov al, 'W'; out dx, al; mov al, '\n'; out dx, al; mov dx, PM1 control; mov ax, SLP_EN; out dx, ax;
    # hlt
    awake = b"\xba\xf8\x03\xb0W\xee\xb0\n\xee\xba\x04\x06\xb8\x00\x20\xef\xf4"
    code = b"\xc7\x05" + struct.pack("<II", facs + 12, vector)
    code += out_word(0x602, 0x400)  # PM1 enable: RTC
    for register, value in ((1, 0xC0), (3, 0xC0), (5, 0xC0), (11, 0x22)):  # an alarm at every second
        code += out_byte(0x70, register) + out_byte(0x71, value)
    code += out_word(0x604, 0x2400) + HALT  # SLP_TYP of S3, SLP_EN
    # mov esi, awake; mov edi, vector; mov ecx, size; rep movsb
    copy = struct.pack("<BIBIBI", 0xBE, 0, 0xBF, vector, 0xB9, len(awake)) + b"\xf3\xa4"
    entry = LOAD + 32
    copy = copy[:1] + struct.pack("<I", entry + len(copy) + len(code)) + copy[5:]
    return copy + code + awake


def say(data):
    """Sends bytes to the serial port, waiting for room before each."""
    code = b""
    for byte in data:
        # mov dx, LSR; in al, dx; test al, 0x20; jz back
        code += mov_dx(COM1 + 5) + b"\xec\xa8\x20\x74\xfb" + out_byte(COM1, byte)
    return code


# mov dx, LSR; in al, dx; test al, 1; jz back; mov dx, COM1; in al, dx; out dx, al; from the start
ECHO = mov_dx(COM1 + 5) + b"\xec\xa8\x01\x74\xfb" + mov_dx(COM1) + b"\xec\xee\xeb\xef"

# The same, but a 'q' powers the machine off.
ECHO_UNTIL_Q = (mov_dx(COM1 + 5) + b"\xec\xa8\x01\x74\xfb" + mov_dx(COM1) + b"\xec\xee\x3c\x71\x75\xed" + POWER_OFF)

# --- The runner ---


def main(tests):
    """Runs the functions called test_..., in order, and prints TAP. Exit status 1 if one failed."""
    chosen = [(name, test) for name, test in tests.items() if name.startswith("test_") and callable(test)]
    failures = 0
    print(f"1..{len(chosen)}")
    for number, (name, test) in enumerate(chosen, 1):
        shown = name.removeprefix("test_").replace("_", " ")
        try:
            test()
            print(f"ok {number} - {shown}", flush=True)
        except Exception:  # a test may fail in any way
            failures += 1
            print(f"not ok {number} - {shown}")
            print("\n".join("# " + line for line in traceback.format_exc().splitlines()), flush=True)
    DIRECTORY.cleanup()
    sys.exit(1 if failures else 0)
