"""The terminal: raw while a guest runs, Ctrl-] leaves, and it is put back however the run ends."""

import os
import pty
import select
import signal
import subprocess
import termios
import time

from strata_test import ECHO, PROMPT, STRATA, TRIPLE_FAULT, expect, guest, main, say, scratch

LFLAG = 3
READY = b"ready"


class Console:
    """strata run on a terminal of its own."""

    def __init__(self, code, *words):
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        image = scratch(guest(say(READY) + code))
        self.process = subprocess.Popen(
            [STRATA, "run", "--engine", "soft", "--timeout", "30", "--kernel", image, *words], stdin=self.slave,
            stdout=self.slave, stderr=self.slave, preexec_fn=self.own_terminal)

    def own_terminal(self):
        os.setsid()
        import fcntl
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def read_until(self, wanted):
        seen = b""
        limit = time.monotonic() + PROMPT
        while wanted not in seen:
            left = limit - time.monotonic()
            expect(left > 0, f"{wanted!r} did not come, but {seen!r}")
            if select.select([self.master], [], [], left)[0]:
                seen += os.read(self.master, 4096)
        return seen

    def type(self, data):
        os.write(self.master, data)

    def is_raw(self):
        return not termios.tcgetattr(self.slave)[LFLAG] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def wait_for(self, condition):
        limit = time.monotonic() + PROMPT
        while not condition() and time.monotonic() < limit:
            time.sleep(0.01)
        return condition()

    def is_put_back(self):
        return termios.tcgetattr(self.slave) == self.before

    def wait(self):
        return self.process.wait(timeout=PROMPT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


def test_ctrl_bracket_leaves_with_status_0_and_puts_the_terminal_back():
    with Console(ECHO) as console:
        console.read_until(READY)
        expect(console.is_raw())
        console.type(b"\x1d")
        console.read_until(b"left; the virtual machine is ended")
        expect(console.wait() == 0)
        expect(console.is_put_back())


def test_other_control_keys_reach_the_guest():
    with Console(ECHO) as console:
        console.read_until(READY)
        # Ctrl-C, Ctrl-Z, Ctrl-\, Ctrl-D, Ctrl-S: nothing of that is Strata's while the guest runs.
        console.type(b"\x03\x1a\x1c\x04\x13.")
        console.read_until(b"\x03\x1a\x1c\x04\x13.")
        expect(console.process.poll() is None)
        console.type(b"\x1d")
        expect(console.wait() == 0)


def test_what_comes_before_ctrl_bracket_reaches_the_guest():
    with Console(ECHO) as console:
        console.read_until(READY)
        console.type(b"abc")
        console.read_until(b"abc")
        console.type(b"\x1d")
        expect(console.wait() == 0)


def test_terminal_is_put_back_when_a_signal_ends_the_run():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGXCPU):
        with Console(ECHO) as console:
            console.read_until(READY)
            expect(console.is_raw())
            console.process.send_signal(number)
            expect(console.wait() == -number)
            expect(console.is_put_back(), number)


def test_terminal_is_put_back_when_strata_crashes():
    for number in (signal.SIGSEGV, signal.SIGABRT):
        with Console(ECHO) as console:
            console.read_until(READY)
            console.process.send_signal(number)
            expect(console.wait() == -number)
            expect(console.is_put_back(), number)


def test_terminal_is_put_back_when_the_guest_dies():
    with Console(TRIPLE_FAULT) as console:
        expect(console.wait() == 9)
        expect(console.is_put_back())


def test_terminal_is_put_back_when_the_time_is_over():
    with Console(ECHO) as console:
        console.read_until(READY)
        console.process.send_signal(signal.SIGALRM)
        expect(console.wait() == 7)
        expect(console.is_put_back())


def test_terminal_is_usable_while_strata_is_suspended():
    with Console(ECHO) as console:
        console.read_until(READY)
        console.process.send_signal(signal.SIGTSTP)
        expect(console.wait_for(console.is_put_back))
        console.process.send_signal(signal.SIGCONT)
        expect(console.wait_for(console.is_raw))
        console.type(b"on")
        console.read_until(b"on")
        console.type(b"\x1d")
        expect(console.wait() == 0)


def test_terminal_is_left_alone_without_a_console():
    for words in (("--serial", "none"),):
        with Console(ECHO, *words) as console:
            time.sleep(0.5)
            expect(console.process.poll() is None)
            expect(not console.is_raw())
            console.process.terminate()
            expect(console.wait() == -signal.SIGTERM)


main(globals())
