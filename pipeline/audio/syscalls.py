"""What the decoder process may no longer ask of the kernel, whatever a codec's bug lets a file do with it (Linux seccomp).

No process can be started and no program run, so nothing outlives the decoder when it is killed; nobody else can be signalled,
traced, read or reached. Threads, files that are open and memory work on.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _SPEC_ALLOW = 1, 4  # without the latter old kernels slow the whole process down
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data

# Numbers: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux.
_X86_64 = {
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
    "kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "pidfd_send_signal": 424,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438,
    "socket": 41, "connect": 42, "bind": 49, "listen": 50, "io_uring_setup": 425, "bpf": 321,
}  # fmt: skip
_AARCH64 = {
    "execve": 221, "execveat": 281,
    "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240, "pidfd_send_signal": 424,
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438,
    "socket": 198, "connect": 203, "bind": 200, "listen": 201, "io_uring_setup": 425, "bpf": 280,
}  # fmt: skip
_CLONE3 = 435
# machine -> (audit architecture, clone, seccomp, what is refused)
_MACHINES = {"x86_64": (0xC000003E, 56, 317, _X86_64), "aarch64": (0xC00000B7, 220, 277, _AARCH64)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def forbid() -> bool:
    """Have the kernel refuse it from now on, to this thread and those that it starts. False where the machine cannot."""
    machine = _MACHINES.get(platform.machine()) if sys.platform == "linux" else None
    if machine is None:
        return False
    architecture, clone, seccomp, refused = machine
    code = _filter(architecture, clone, sorted(refused.values()))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return False
    program = _Program(len(code) // 8, code)
    return not libc.syscall(seccomp, _SET_MODE_FILTER, _SPEC_ALLOW, ctypes.byref(program))


def _filter(architecture: int, clone: int, refused: list[int]) -> bytes:
    """A classic BPF program over struct seccomp_data; jumps count instructions from the next one on."""
    last = len(refused)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, last + 5, architecture),  # another one's system calls have other numbers: refused
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, last + 3, 0, _X32),
        (_EQUAL, last + 5, 0, _CLONE3),
        (_EQUAL, last + 2, 0, clone),
        *((_EQUAL, last - at, 0, number) for at, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_ANY_BIT, 1, 2, _CLONE_THREAD),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),  # its flags lie in memory, out of sight: libc falls back to clone
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
