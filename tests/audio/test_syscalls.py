"""The filter on system calls: tried in a process of its own, and found on a decoder."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
from made_audio import encode, signal

from pipeline.audio.reader import AudioReader
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.records import Recording

ATTEMPTS = """
import os, signal, socket, subprocess, sys, threading
from pipeline.audio import syscalls
def refused(action):
    try:
        action()
    except PermissionError:
        return True
    return False
assert not refused(lambda: subprocess.run(["true"], check=True))
assert syscalls.forbid()
tried = {
    "fork": os.fork, "posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "exec": lambda: os.execv("/bin/true", ["true"]), "program": lambda: subprocess.run(["true"]),
    "signal": lambda: os.kill(os.getppid(), 0), "network": lambda: socket.create_connection(("127.0.0.1", 9)),
    "socket": lambda: socket.socket(socket.AF_UNIX),
}
assert all(refused(action) for action in tried.values()), {name: refused(action) for name, action in tried.items()}
thread = threading.Thread(target=print, args=("threads work",))
thread.start()
thread.join()
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="no filter is written for this machine")
def test_the_kernel_refuses_what_a_decoder_never_needs(tmp_path: Path) -> None:
    """No process, no program, no network, no signal to others; the decoder is under that filter when its first file comes."""
    (tmp_path / "a.flac").write_bytes(encode(signal(1, 16_000), 16_000, "flac", "flac"))
    done = subprocess.run([sys.executable, "-c", ATTEMPTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "threads work\n"), done.stderr
    with AudioReader(DecodeConfig(), SourceConfig(), [str(tmp_path)]) as reader:
        reader.read(Recording("x", str(tmp_path / "a.flac")), 0, 0.1)
        status = Path(f"/proc/{reader.decoder_pid}/status").read_text()
        assert "\nSeccomp:\t2\n" in status
        assert "\nNoNewPrivs:\t1\n" in status
