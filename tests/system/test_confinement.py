"""A running strata, looked at from outside: what the kernel says of its threads and descriptors."""

import os
import re
import signal

from strata_test import PROMPT, SPIN, expect, guest, main, say, start, strata


def running(*words):
    process = start(guest(say(b"!") + SPIN), "--timeout", "30", *words)
    process.stdout.read(1)
    return process


def end(process):
    process.kill()
    process.communicate(timeout=PROMPT)


def thread_statuses(process):
    for thread in os.listdir(f"/proc/{process.pid}/task"):
        with open(f"/proc/{process.pid}/task/{thread}/status", encoding="ascii", errors="replace") as file:
            yield dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def test_every_thread_has_the_filter_and_no_way_to_privileges():
    process = running()
    try:
        statuses = list(thread_statuses(process))
        expect(len(statuses) >= 2, statuses)
        for status in statuses:
            expect(status["Seccomp"] == "2", status)
            expect(status["NoNewPrivs"] == "1", status)
    finally:
        end(process)


def test_no_thread_has_capabilities():
    process = running()
    try:
        for status in thread_statuses(process):
            for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                expect(int(status[kind], 16) == 0, (kind, status[kind]))
    finally:
        end(process)


def test_only_the_guests_descriptors_are_open():
    process = running()
    try:
        for fd in os.listdir(f"/proc/{process.pid}/fd"):
            target = os.readlink(f"/proc/{process.pid}/fd/{fd}")
            expect(int(fd) <= 2 or re.match(r"anon_inode:|/memfd:", target), (fd, target))
    finally:
        end(process)


def test_descriptors_of_the_caller_are_not_inherited():
    read_end, write_end = os.pipe()
    os.set_inheritable(write_end, True)
    process = start(guest(say(b"!") + SPIN), "--timeout", "30", close_fds=False)
    try:
        process.stdout.read(1)
        os.close(write_end)
        # If strata kept the other end, this would wait for ever.
        signal.alarm(PROMPT)
        expect(os.read(read_end, 1) == b"")
        signal.alarm(0)
    finally:
        end(process)
        os.close(read_end)


def test_no_memory_is_writable_and_executable():
    process = running()
    try:
        with open(f"/proc/{process.pid}/maps", encoding="utf-8", errors="replace") as file:
            for line in file:
                permissions = line.split()[1]
                expect(not ("w" in permissions and "x" in permissions), line)
    finally:
        end(process)


def test_file_system_is_empty_where_the_host_allows():
    said = strata("host").out.decode()
    process = running()
    try:
        if "empty root   yes" in said and os.geteuid() == 0:
            expect(os.listdir(f"/proc/{process.pid}/root/") == [])
            expect(os.readlink(f"/proc/{process.pid}/cwd") == "/")
            for kind in ("user", "mnt", "net", "ipc", "uts"):
                expect(os.readlink(f"/proc/{process.pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind)
    finally:
        end(process)


def test_no_sandbox_is_what_it_says():
    process = running("--no-sandbox")
    try:
        for status in thread_statuses(process):
            expect(status["Seccomp"] == "0", status)
    finally:
        end(process)


main(globals())
