"""The decoder process: takes away its own rights, then answers one request after another on its socket.

Imports numpy, PyAV, soxr, libsndfile, and of the package only what decodes: it must start fast and hold no secrets.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
import time
from importlib import import_module
from typing import Any

from pipeline.audio import wire
from pipeline.errors import AudioError

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_PCM_MESSAGE_BYTES = 2**20


def main(arguments: list[str]) -> None:
    """Serve the socket with descriptor `arguments[0]` under `arguments[1]` bytes of address space, until its other end closes."""
    sock = socket.socket(fileno=int(arguments[0]))
    _give_up_rights(memory_bytes=int(arguments[1]))
    decode = import_module("pipeline.audio.decode")  # only now: the libraries load under the limits

    while True:
        try:
            request, source = _next_request(sock)
            with source:
                kind, outcome = _outcome(decode, request, source, Output(sock))
            wire.send(sock, kind, json.dumps(outcome).encode())
        except (wire.WireError, OSError):
            return  # the reader is gone


class Source:
    """The object's bytes, by position: from a descriptor, or asked from the reader."""

    def __init__(self, sock: socket.socket, size: int, fd: int | None) -> None:
        self._sock, self.size, self._fd = sock, size, fd

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd is not None:
            os.close(self._fd)

    def pread(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; empty at the end."""
        if self._fd is not None:
            return os.pread(self._fd, length, offset)
        length = min(length, self.size - offset, wire.MAX_MESSAGE_BYTES)
        if length <= 0:
            return b""
        wire.send(self._sock, wire.RANGE, wire.RANGE_FORMAT.pack(offset, length))
        kind, got = wire.receive_header(self._sock)
        if kind != wire.BYTES:
            raise wire.WireError("an answer out of turn")
        return wire.receive_exactly(self._sock, got)


class Output:
    """Where samples go: the socket, in messages of bounded size."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def write(self, pcm: memoryview) -> None:
        """Send int16 samples (as bytes)."""
        for at in range(0, len(pcm), _PCM_MESSAGE_BYTES):
            wire.send(self._sock, wire.PCM, pcm[at : at + _PCM_MESSAGE_BYTES])

    def restart(self) -> None:
        """What was sent so far does not count."""
        wire.send(self._sock, wire.RESTART)


def _next_request(sock: socket.socket) -> tuple[dict[str, Any], Source]:
    kind, length, fd = wire.receive_header_with_fd(sock)
    request = json.loads(wire.receive_exactly(sock, length))
    if kind != wire.REQUEST:
        raise wire.WireError("an unknown request")
    _limit_cpu(request["cpu_s"])
    return request, Source(sock, request["size"], fd)


def _outcome(decode: Any, request: dict[str, Any], source: Source, output: Output) -> tuple[bytes, dict[str, Any]]:
    """The report of a request, or what stood against it."""
    begun = time.process_time()
    try:
        report = decode.answer(request, source, output)
    except AudioError as error:
        return wire.FAILED, {"code": error.code, "message": error.message}
    except MemoryError:
        return _failed("The decoder ran out of memory on this object; raise decode.memory_bytes to accept it.")
    except wire.WireError:
        raise
    except Exception as error:  # noqa: BLE001  the boundary: whatever a strange file provokes becomes a failure of that file
        return _failed(f"The decoder stumbled over this object ({type(error).__name__}); check it with another player.")
    return wire.DONE, {**report, "decode_s": time.process_time() - begun}


def _failed(message: str) -> tuple[bytes, dict[str, Any]]:
    return wire.FAILED, {"code": "decode_error", "message": message}


def _give_up_rights(memory_bytes: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # Best effort: some containers forbid new namespaces, and the decoder is given no URL in any case.
    libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    # After unshare, which clears it. Covers a parent that dies while the decoder computes without touching the socket.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))


def _limit_cpu(seconds: float) -> None:
    """Allow this many more processor seconds: the deadline's twin, for a reader that is gone."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(usage.ru_utime + usage.ru_stime + seconds) + 5
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main(sys.argv[1:])
