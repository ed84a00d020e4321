"""The decoder process, seen from the reader: started clean, given bytes, watched, killed. Knows nothing of codecs.

The child has no credentials, no network (where the kernel lets it go), limits on memory, processor time, files and core dumps,
and a deadline. It can send samples and JSON; nothing it sends is executed or unpickled.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np

from pipeline.audio import wire
from pipeline.audio.fetch import Blob
from pipeline.errors import AudioCode, AudioError
from pipeline.records import Samples

# A clip's samples fit, so the child goes on while the reader still takes them in.
_SOCKET_BUFFER_BYTES = 2**20

_GROWTH_SAMPLES = 16_000 * 60


class SampleBuffer:
    """Collects the samples of one request, never more than `limit`."""

    def __init__(self, limit: int, expected: int | None) -> None:
        self._limit = limit
        self._data = np.empty(_GROWTH_SAMPLES if expected is None else min(expected, limit), np.int16)
        self._filled = 0

    def receive(self, sock: socket.socket, n_bytes: int) -> None:
        """Append `n_bytes` from the socket. Raises AudioError audio_too_long past the limit."""
        count = n_bytes // 2
        if self._filled + count > self._limit or n_bytes % 2:
            raise AudioError("audio_too_long", "The decoder sent more audio than was asked for; the object is refused.")
        if self._filled + count > len(self._data):
            grown = np.empty(min(max(2 * len(self._data), self._filled + count), self._limit), np.int16)
            grown[: self._filled] = self._data[: self._filled]
            self._data = grown
        wire.receive_into(sock, self._data[self._filled : self._filled + count].view(np.uint8).data)
        self._filled += count

    def clear(self) -> None:
        """Forget everything."""
        self._filled = 0

    def samples(self) -> Samples:
        """What came; a copy where much more room was reserved."""
        taken = self._data[: self._filled]
        return taken if 2 * self._filled > len(self._data) else taken.copy()


class Decoder:
    """One persistent decoder process; started at the first call, and again after a crash or a deadline."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    @property
    def pid(self) -> int | None:
        """The process now running, if any."""
        return self._process.pid if self._process else None

    def call(self, request: Mapping[str, Any], blob: Blob, buffer: SampleBuffer, deadline_s: float) -> dict[str, Any]:
        """Have `request` answered from `blob`; samples go to `buffer`. Returns the child's report.

        `deadline_s`: wall seconds, not counting what the store takes to answer. Raises AudioError: the child's own, or
        decode_timeout, decoder_crashed, audio_too_long, fetch_failed.
        """
        sock = self._submit({**request, "size": blob.size, "cpu_s": deadline_s}, blob)
        deadline = time.monotonic() + deadline_s
        try:
            outcome = self._converse(sock, blob, buffer, deadline)
        except TimeoutError:
            self.close()
            raise AudioError(
                "decode_timeout", f"The decoder took longer than {deadline_s:.0f} s and was ended."
            ) from None
        except (wire.WireError, OSError):
            raise AudioError(
                "decoder_crashed", f"The decoder process died ({self._bury()}) while reading this object."
            ) from None
        except BaseException:
            self.close()  # half a conversation is left in the socket
            raise
        if isinstance(outcome, AudioError):
            raise outcome
        return outcome

    def close(self) -> None:
        """End the process and everything it started."""
        self._bury()

    def _submit(self, request: Mapping[str, Any], blob: Blob) -> socket.socket:
        payload = json.dumps(request).encode()
        for fresh in (False, True):
            if fresh or self._socket is None:
                self._start()
            assert self._socket is not None
            try:
                self._socket.settimeout(None)
                wire.send(self._socket, wire.REQUEST, payload, fd=blob.fd)
                return self._socket
            except OSError:
                self._bury()  # it died since the last call: that was not this object's doing
        raise AudioError("decoder_crashed", "The decoder process cannot be started; see its limits under decode.")

    def _converse(
        self, sock: socket.socket, blob: Blob, buffer: SampleBuffer, deadline: float
    ) -> dict[str, Any] | AudioError:
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
            kind, length = wire.receive_header(sock)
            if kind == wire.PCM:
                buffer.receive(sock, length)
            elif kind == wire.RANGE:
                deadline += self._answer(sock, blob, wire.receive_exactly(sock, length))
            elif kind == wire.RESTART:
                buffer.clear()
            elif kind == wire.DONE:
                return dict(json.loads(wire.receive_exactly(sock, length)))
            elif kind == wire.FAILED:
                return _reported(json.loads(wire.receive_exactly(sock, length)))
            else:
                raise wire.WireError("an unknown message")

    def _answer(self, sock: socket.socket, blob: Blob, payload: bytes) -> float:
        """Send the range that was asked for; the seconds that took."""
        begun = time.monotonic()
        offset, length = wire.RANGE_FORMAT.unpack(payload)
        if blob.ranges is None or length > wire.MAX_MESSAGE_BYTES:
            raise wire.WireError("a range that cannot be")
        wire.send(sock, wire.BYTES, blob.ranges.read(offset, length))
        return time.monotonic() - begun

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
        command = [
            sys.executable,
            "-P",
            "-m",
            "pipeline.audio.decoder_child",
            str(theirs.fileno()),
            str(self._memory_bytes),
        ]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=_clean_environment(),
                cwd="/",
                start_new_session=True,
            )
        self._socket = ours

    def _bury(self) -> str:
        """Kill the process group and wait for it; how the process ended."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
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
    }


def _reported(failure: Mapping[str, Any]) -> AudioError:
    code: AudioCode = failure["code"] if failure["code"] in get_args(AudioCode) else "decode_error"
    return AudioError(code, str(failure["message"])[:500])
