"""Cuts a process off from the network at the operating system: a socket of the internet kills it.

A filter of the Linux kernel (seccomp) stands in front of the system call that makes sockets, so that whatever library
or thread tries it, however deep, cannot go unnoticed. It needs no privilege and cannot be taken off again.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import socket
import struct
import subprocess
import sys

MACHINES = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Machine -> its name in audit records (linux/audit.h) and the number of its system call `socket`."""

LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF: load a word, jump if equal, return
ALLOW, KILL = 0x7FFF0000, 0x80000000
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2  # prctl
NUMBER, MACHINE, FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data
KILLED = -signal.SIGSYS

SCRIPT = "import sys; sys.path.insert(0, {root!r}); from tests.cutoff import cut_off; cut_off()\n{code}"


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def cut_off() -> None:
    """Kill this process, its threads and its children as soon as one makes a socket of the internet.

    Raises:
        OSError: the kernel does not allow it.
    """
    machine, number = MACHINES[platform.machine()]
    steps = [
        (LOAD, 0, 0, MACHINE),
        (EQUAL, 0, 6, machine),  # another machine's system calls have other numbers: kill
        (LOAD, 0, 0, NUMBER),
        (EQUAL, 0, 3, number),
        (LOAD, 0, 0, FIRST_ARGUMENT),
        (EQUAL, 2, 0, int(socket.AF_INET)),
        (EQUAL, 1, 0, int(socket.AF_INET6)),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, KILL),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((NO_NEW_PRIVILEGES, 1, 0, 0, 0), (SECCOMP, FILTER, ctypes.byref(program), 0, 0)):
        if libc.prctl(*call):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    # urllib3, when it is imported, looks whether there is IPv6 by binding a socket to this machine's own ::1. That
    # reaches nobody, and is not done where Python says that there is none.
    socket.has_ipv6 = False


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process that is cut off; `arguments` are its sys.argv behind the first."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    script = SCRIPT.format(root=root, code=code)
    known = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, env={**known, **environment}
    )


def why_not() -> str:
    """Why processes cannot be cut off here; empty if they can."""
    if platform.system() != "Linux" or platform.machine() not in MACHINES:
        return f"no filter is written for {platform.system()} on {platform.machine()}"
    done = run("pass")
    return "" if done.returncode == 0 else f"the kernel allows no seccomp filter: {done.stderr.strip()[-200:]}"
