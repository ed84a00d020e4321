"""The decoder process: takes away its own rights, then answers one request after another on its socket.

Imports numpy, PyAV, soxr, libsndfile, and of the package only what decodes: it must start fast and hold no secrets.
"""

from __future__ import annotations

import ctypes
import json
import math
import mmap
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pipeline.audio import syscalls, wire
from pipeline.errors import AudioError

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG = 1
_CPU_SLACK_S = 60.0
_WORN_OUT = 70  # exit code, seen in no message but a second decoder_crashed
_OUT_OF_MEMORY = "The decoder ran out of memory on this object; raise decode.memory_bytes to accept it."


def main(arguments: list[str]) -> None:
    """Serve a socket until its other end closes.

    `arguments`: the descriptors of the socket and of the area for samples, and the bytes of address space to live in.
    """
    sock = socket.socket(fileno=int(arguments[0]))
    output = Output(sock, wire.map_area(int(arguments[1]), writable=True))
    _give_up_rights(memory_bytes=int(arguments[2]))
    decode = import_module("pipeline.audio.decode")  # only now: the libraries load under the limits
    syscalls.forbid()  # best effort, and not before: a library may look for its parts with another program
    allowed_s = 0.0
    fresh = True

    while True:
        answers = b""  # of a group: one message, one change of process
        try:
            for request, source in _next_requests(sock, output):
                until_s = time.process_time() + request.cpu_s
                if until_s > allowed_s:
                    allowed_s = _limit_cpu(until_s)
                with source:
                    output.begin()
                    kind, payload = _outcome(decode, request, source, output)
                if kind != wire.DONE:
                    output.forget()
                fresh = False
                if not output.in_group:
                    wire.send(sock, kind, payload)
                    continue
                answer = wire.pack_answer(kind, payload)
                if len(answers) + len(answer) > wire.MAX_PAYLOAD_BYTES:
                    wire.send(sock, wire.ANSWERS, answers)
                    answers = b""
                answers += answer
            if answers:
                wire.send(sock, wire.ANSWERS, answers)
        except MemoryError:
            if not fresh or output.in_group:
                # What is left of earlier objects may have taken the room, and of a group nothing may be left out:
                # the reader tries a new process.
                os._exit(_WORN_OUT)
            wire.send(sock, *_failed("decode_error", _OUT_OF_MEMORY))
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
        """Up to `length` bytes from `offset`, fewer only at the end."""
        if self._fd is not None:
            return os.pread(self._fd, length, offset)
        end = min(offset + length, self.size)
        pieces = [
            self._ask(at, min(wire.MAX_PAYLOAD_BYTES, end - at)) for at in range(offset, end, wire.MAX_PAYLOAD_BYTES)
        ]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _ask(self, offset: int, length: int) -> bytes:
        wire.send(self._sock, wire.RANGE, wire.RANGE_FORMAT.pack(offset, length))
        kind, payload = wire.receive(self._sock)
        if kind != wire.BYTES:
            raise wire.WireError("an answer out of turn")
        return payload


class Output:
    """Where samples go: into the area, which the reader empties when it is full and at the end."""

    def __init__(self, sock: socket.socket, area: mmap.mmap) -> None:
        self._sock, self._area = sock, area
        self.in_group = False
        self._room = (0, wire.SPAN_BYTES)
        self._start = self._at = 0
        self._handed_over = False

    def use_span(self) -> None:
        """For one object, however long: its samples are handed over whenever the span is full."""
        self.in_group, self._room, self._at = False, (0, wire.SPAN_BYTES), 0

    def use_half(self, half: int) -> None:
        """For a group: its clips lie one behind the other, and stay there."""
        start = half * wire.HALF_BYTES
        self.in_group, self._room, self._at = True, (start, start + wire.HALF_BYTES), start

    def begin(self) -> None:
        """The samples to come are another object's."""
        self._start, self._handed_over = self._at, False

    @property
    def filled(self) -> bytes:
        """Where the object's samples lie that were not handed over."""
        return wire.FILLED_FORMAT.pack(self._start, self._at - self._start)

    def write(self, pcm: memoryview) -> None:
        """Take int16 samples, as bytes."""
        at = 0
        while at < len(pcm):
            if self._at == self._room[1]:
                self._hand_over()
            count = min(len(pcm) - at, self._room[1] - self._at)
            self._area[self._at : self._at + count] = pcm[at : at + count]
            self._at += count
            at += count

    def forget(self) -> None:
        """Nothing comes of this object: the next one may have its room."""
        self._at = self._start

    def restart(self) -> None:
        """What was written of this object so far does not count."""
        self.forget()
        if self._handed_over:
            wire.send(self._sock, wire.RESTART)

    def _hand_over(self) -> None:
        if self.in_group:
            raise _NoRoomError
        wire.send(self._sock, wire.PCM, self.filled)
        kind, _ = wire.receive(self._sock)
        if kind != wire.TAKEN:
            raise wire.WireError("an answer out of turn")
        self._at, self._handed_over = self._start, True


class _NoRoomError(Exception):
    """A clip is longer than the room that is left to its group."""


def _next_requests(sock: socket.socket, output: Output) -> Iterator[tuple[wire.Request, Source]]:
    """What the reader asks for next: an object, or the clips of a group."""
    kind, payload, fds = wire.receive_with_fds(sock)
    if kind == wire.REQUEST:
        output.use_span()
        request = wire.Request.unpack(payload)
        yield request, Source(sock, request.size, fds[0] if fds else None)
    elif kind == wire.GROUP:
        half, requests = wire.unpack_group(payload)
        output.use_half(half)
        for request, fd in zip(requests, fds, strict=True):
            yield request, Source(sock, request.size, fd)
    else:
        raise wire.WireError("an unknown request")


def _outcome(decode: Any, request: wire.Request, source: Source, output: Output) -> tuple[bytes, bytes]:
    """The message that answers a request: its report, or what stood against it."""
    begun_s = time.thread_time()  # the process's own clock moves by ticks once a limit is set on it
    try:
        report = decode.answer(request, source, output)
    except AudioError as error:
        return _failed(error.code, error.message)
    except _NoRoomError:
        return wire.FULL, b""
    except (MemoryError, wire.WireError):
        raise
    except Exception as error:  # noqa: BLE001  the boundary: whatever a strange file provokes becomes a failure of that file
        name = type(error).__name__
        return _failed("decode_error", f"The decoder stumbled over this object ({name}); check it with another player.")
    told = json.dumps({**report, "decode_s": time.thread_time() - begun_s}).encode()
    return wire.DONE, output.filled + told


def _failed(code: str, message: str) -> tuple[bytes, bytes]:
    return wire.FAILED, json.dumps({"code": code, "message": message[:500]}).encode()


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


def _limit_cpu(until_s: float) -> float:
    """Allow the process to compute until its clock shows `until_s`: the deadline's twin, for a reader that is gone.

    Returns until when it may in fact: a little more, so that not every object costs a call.
    """
    allowed_s = until_s + _CPU_SLACK_S
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(allowed_s), resource.RLIM_INFINITY))
    return allowed_s


if __name__ == "__main__":
    main(sys.argv[1:])
