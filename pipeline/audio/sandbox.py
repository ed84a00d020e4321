"""The decoder process, seen from the reader: started clean, given bytes, watched, killed. Knows nothing of codecs.

The child has no credentials, no network (where the kernel lets it go), limits on memory, processor time, files and core dumps,
and a deadline. It is taken for taken over: samples, and reports of known fields in known bounds, are all that it can bring in;
nothing it sends is executed or unpickled. It is replaced when it has served long or grown large: codecs leak, and memory
falls to pieces, over days.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np

from pipeline.audio import wire
from pipeline.audio.fetch import Blob
from pipeline.errors import AudioCode, AudioError
from pipeline.records import Samples

_NO_AREA: Samples = np.zeros(0, np.int16)
_GROWTH_SAMPLES = 16_000 * 60
_MOST_TOLD_BYTES = 8 * 2**10
_MEASURED_EVERY = 64  # objects: to look at its memory costs as much as a small message
_COUNT_BYTES = wire.FILLED_FORMAT.size
_MOST_S = 1e12


class LostError(Exception):
    """The decoder process ended, and nobody can tell over which of its clips."""


class SampleBuffer:
    """Collects the samples of one request, never more than `limit`."""

    def __init__(self, limit: int, expected: int | None) -> None:
        self._limit = limit
        self._data = np.empty(_GROWTH_SAMPLES if expected is None else min(expected, limit), np.int16)
        self._filled = 0

    def take(self, samples: Samples) -> None:
        """Append a copy of some samples. Raises AudioError audio_too_long past the limit."""
        end = self._filled + len(samples)
        if end > self._limit:
            raise AudioError("audio_too_long", "The decoder sent more audio than was asked for; the object is refused.")
        if end > len(self._data):
            grown = np.empty(min(max(2 * len(self._data), end), self._limit), np.int16)
            grown[: self._filled] = self._data[: self._filled]
            self._data = grown
        self._data[self._filled : end] = samples
        self._filled = end

    def write(self, pcm: memoryview) -> None:
        """The same for int16 samples as bytes."""
        self.take(np.frombuffer(pcm, np.int16))

    def restart(self) -> None:
        """Forget everything."""
        self._filled = 0

    def samples(self) -> Samples:
        """What came; a copy where much more room was reserved."""
        taken = self._data[: self._filled]
        return taken if 2 * self._filled > len(self._data) else taken.copy()


class Decoder:
    """One persistent decoder process; started at the first call, and again after a crash or a deadline."""

    def __init__(self, memory_bytes: int, recycle_after_objects: int, recycle_above_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._recycle_after_objects, self._recycle_above_bytes = recycle_after_objects, recycle_above_bytes
        self._served = self._unanswered = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._answers: deque[tuple[bytes, bytes]] = deque()  # of a group, that were not collected
        self._area = _NO_AREA

    @property
    def pid(self) -> int | None:
        """The process now running, if any."""
        return self._process.pid if self._process else None

    def call(self, request: wire.Request, blob: Blob, buffer: SampleBuffer, deadline_s: float) -> dict[str, Any]:
        """Have `request` answered from `blob`; samples go to `buffer`. Returns the child's report.

        `deadline_s`: wall seconds, not counting what the store takes to answer. Raises AudioError: the child's own, or
        decode_timeout, decoder_crashed, audio_too_long, fetch_failed.
        """
        payload = replace(request, size=blob.size, cpu_s=deadline_s).pack()
        sock = self._submit(wire.REQUEST, payload, () if blob.fd is None else (blob.fd,))
        deadline = time.monotonic() + deadline_s
        try:
            outcome = self._converse(sock, blob, buffer, deadline)
        except TimeoutError:
            self.close()
            raise AudioError(
                "decode_timeout", f"The decoder took longer than {deadline_s:.0f} s and was ended."
            ) from None
        except (wire.WireError, struct.error, OSError):
            raise AudioError(
                "decoder_crashed", f"The decoder process died ({self._bury()}) while reading this object."
            ) from None
        except BaseException:
            self.close()  # half a conversation is left in the socket
            raise
        self._served += 1
        if self._is_worn():
            self.close()
        if isinstance(outcome, AudioError):
            raise outcome
        return outcome

    def submit(self, group: Sequence[wire.Request], fds: Sequence[int], half: int) -> None:
        """Hand over clips, each with its descriptor, whose samples are to fill a half of the area; `collect` their answers.

        At most wire.MOST_IN_GROUP, with `size` and `cpu_s` set. Raises LostError, AudioError.
        """
        payload = wire.pack_group(half, group)
        if self._unanswered:
            try:
                assert self._socket is not None
                wire.send(self._socket, wire.GROUP, payload, fds)
            except OSError:
                self.close()
                raise LostError from None
        else:
            self._submit(wire.GROUP, payload, fds)
        self._unanswered += len(group)

    def collect(self, limit: int, patience_s: float) -> tuple[Samples, dict[str, Any]] | AudioError | None:
        """What came of the next clip that was submitted: samples and report, what stood against it, or None: read it alone.

        `limit`: the most samples. Raises LostError: the process ended or said nothing in `patience_s`, over this clip or another
        one; whatever has not been collected is to be read alone, which tells.
        """
        if self._socket is None:
            raise LostError
        try:
            if not self._answers:
                self._answers = self._receive_answers(self._socket, patience_s)
            answer = self._collected(*self._answers.popleft(), limit)
        except Exception:  # noqa: BLE001  whatever it said to provoke that, it is not to be believed again
            self.close()
            raise LostError from None
        self._unanswered -= 1
        self._served += 1
        if not self._unanswered and self._is_worn():
            self.close()
        return answer

    @property
    def has_served_enough(self) -> bool:
        """Whether it should be given nothing more, to be replaced when it has answered."""
        return self._served + self._unanswered >= self._recycle_after_objects

    def _receive_answers(self, sock: socket.socket, patience_s: float) -> deque[tuple[bytes, bytes]]:
        sock.settimeout(patience_s)
        kind, payload = wire.receive(sock)
        answers = deque(wire.unpack_answers(payload)) if kind == wire.ANSWERS else deque()
        if not 0 < len(answers) <= self._unanswered:
            raise wire.WireError("not the answers of a group")
        return answers

    def _collected(self, kind: bytes, payload: bytes, limit: int) -> tuple[Samples, dict[str, Any]] | AudioError | None:
        if len(payload) > _MOST_TOLD_BYTES:
            raise wire.WireError("more words than there are to say")
        if kind == wire.DONE:
            samples = self._samples(payload[:_COUNT_BYTES])
            if len(samples) > limit:
                raise wire.WireError("more audio than was asked for")
            return samples.copy(), _told(payload[_COUNT_BYTES:])
        if kind == wire.FAILED:
            return _reported(_told(payload))
        if kind == wire.FULL:
            return None
        raise wire.WireError("an unknown message")

    def close(self) -> None:
        """End the process and everything it started."""
        self._bury()

    def _is_worn(self) -> bool:
        """Whether the process has served long enough or grown too large."""
        if self._served >= self._recycle_after_objects:
            return True
        return self._served % _MEASURED_EVERY == 0 and self._resident_bytes() > self._recycle_above_bytes

    def _resident_bytes(self) -> int:
        try:
            with open(f"/proc/{self.pid}/statm") as file:
                return int(file.read().split()[1]) * mmap.PAGESIZE
        except OSError:
            return 0  # it is gone: the next request starts another

    def _submit(self, kind: bytes, payload: bytes, fds: Sequence[int]) -> socket.socket:
        for fresh in (False, True):
            if fresh or self._socket is None:
                self._start()
            assert self._socket is not None
            try:
                wire.send(self._socket, kind, payload, fds)
                return self._socket
            except OSError:
                self._bury()  # it died since the last call: that was not this object's doing
        raise AudioError("decoder_crashed", "The decoder process cannot be started; see its limits under decode.")

    def _converse(
        self, sock: socket.socket, blob: Blob, buffer: SampleBuffer, deadline: float
    ) -> dict[str, Any] | AudioError:
        while True:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            sock.settimeout(left_s)
            kind, payload = wire.receive(sock, _MOST_TOLD_BYTES)
            if kind == wire.DONE:
                buffer.take(self._samples(payload[:_COUNT_BYTES]))
                return _told(payload[_COUNT_BYTES:])
            elif kind == wire.PCM:
                buffer.take(self._samples(payload))
                wire.send(sock, wire.TAKEN)
            elif kind == wire.RANGE:
                deadline += self._answer(sock, blob, payload)
            elif kind == wire.RESTART:
                buffer.restart()
            elif kind == wire.FAILED:
                return _reported(_told(payload))
            else:
                raise wire.WireError("an unknown message")

    def _samples(self, payload: bytes) -> Samples:
        """What the child says it has put into the area."""
        start, count = wire.FILLED_FORMAT.unpack(payload)
        if start + count > wire.AREA_BYTES or start % 2 or count % 2:
            raise wire.WireError("more samples than there is room for")
        return self._area[start // 2 : (start + count) // 2]

    def _answer(self, sock: socket.socket, blob: Blob, payload: bytes) -> float:
        """Send the range that was asked for; the seconds that took."""
        begun = time.monotonic()
        offset, length = wire.RANGE_FORMAT.unpack(payload)
        if blob.ranges is None or length > wire.MAX_PAYLOAD_BYTES:
            raise wire.WireError("a range that cannot be")
        wire.send(sock, wire.BYTES, blob.ranges.read(offset, length))
        return time.monotonic() - begun

    def _start(self) -> None:
        ours, theirs = wire.socket_pair()
        # A new one each time: whatever the last child has left behind cannot write into it.
        area = wire.create_area()
        command = [
            sys.executable,
            "-P",
            "-m",
            "pipeline.audio.decoder_child",
            str(theirs.fileno()),
            str(area),
            str(self._memory_bytes),
        ]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), area),
                env=_clean_environment(),
                cwd="/",
                start_new_session=True,
            )
        self._socket = ours
        self._served = 0
        self._area = np.frombuffer(wire.map_area(area, writable=False), np.int16)

    def _bury(self) -> str:
        """Kill the process group and wait for it; how the process ended."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._area, self._unanswered = _NO_AREA, 0
        self._answers.clear()
        if self._process is None:
            return "never started"
        # A child that was dying anyway keeps its own reason.
        ended = self._process.poll()
        if ended is None:
            try:
                ended = self._process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                ended = self._process.wait()
        self._process = None
        return f"signal {-ended}" if ended < 0 else f"exit code {ended}"


def _clean_environment() -> dict[str, str]:
    """Enough to import this package, and no secrets."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONDONTWRITEBYTECODE": "1",
        # One thread: decoders are processes, and each idle thread's stack counts against the memory limit.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        # glibc gives a clip's buffers back to the kernel and takes them anew for the next: 1,700 page faults, a quarter of the
        # time that an MP3 of 10 s takes. What it keeps instead is less than a clip's own need.
        "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
        "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    }


_WORDS = ("decoder", "container", "codec", "code", "message")
_COUNTS = ("source_rate_hz", "source_channels", "split_channels", "rate_hz", "channels")
_SECONDS = ("decode_s", "missing_s", "duration_s", "header_s")


def _told(payload: bytes) -> dict[str, Any]:
    """The json object of a message, if it is one that a decoder sends. Raises WireError."""
    try:
        told = json.loads(payload)
    except (ValueError, RecursionError):
        raise wire.WireError("words that are none") from None
    if not isinstance(told, dict) or not all(_is_likely(name, value) for name, value in told.items()):
        raise wire.WireError("a report that cannot be")
    return told


def _is_likely(name: str, value: Any) -> bool:
    """Whether a field of a report is known and its value of a kind that tables can hold."""
    if name in _WORDS:
        return isinstance(value, str) and value.isprintable()
    if name in _COUNTS:
        return isinstance(value, int) and 0 <= value < 2**31
    if name in _SECONDS:
        # Compared and not asked whether it is finite: an integer may be too large for that question.
        return (value is None and name == "header_s") or (isinstance(value, int | float) and abs(value) < _MOST_S)
    return (
        name == "warnings"
        and isinstance(value, list)
        and all(isinstance(one, str) and one.isprintable() for one in value)
    )


def _reported(failure: Mapping[str, Any]) -> AudioError:
    code: AudioCode = failure["code"] if failure.get("code") in get_args(AudioCode) else "decode_error"
    return AudioError(code, str(failure.get("message", "The decoder gave no reason; decode the object again."))[:500])
