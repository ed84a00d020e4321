"""The messages between a reader and its decoder process, one datagram each, and the memory that samples go through.

parent ─► child   REQUEST (with or without a file descriptor), TAKEN (the area may be filled again), BYTES (answers RANGE),
                  GROUP (a half of the area, then requests, each with a descriptor: clips, answered together)
child ─► parent   RANGE (offset, length), PCM (bytes in the area), RESTART (forget the samples),
                  DONE (where in the area they begin, bytes, then a report as json), FAILED (json),
                  ANSWERS (of a group: a DONE, FAILED or FULL, no room for this clip, for each in turn)

Samples do not travel in messages: the child writes them into an area that both have mapped, which saves two copies through the
kernel and a message for each block. The parent cannot write there, and nobody can make it smaller under the parent's eyes.
Knows nothing of audio.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

REQUEST, TAKEN, BYTES, GROUP = b"J", b"T", b"B", b"G"
RANGE, PCM, RESTART, DONE, FAILED, FULL, ANSWERS = b"R", b"P", b"X", b"D", b"E", b"F", b"A"

MAX_SPLIT_CHANNELS = 8  # a window of half an hour is 58 MB of each
SPAN_BYTES = 2**20  # 33 s: what one object may fill before it is emptied; its samples stay in the processor's cache
HALF_BYTES = 2 * 2**20  # 65 s of clips, while the other half is being emptied
AREA_BYTES = 2 * HALF_BYTES
MOST_IN_GROUP = 16
MAX_PAYLOAD_BYTES = 64 * 2**10  # a datagram has to fit into the kernel's default buffers
RANGE_FORMAT = struct.Struct("<QQ")
FILLED_FORMAT = struct.Struct("<II")  # where they begin, and how many: bytes
_ANSWER_FORMAT = struct.Struct("<cI")  # what it is, and its bytes
_REQUEST_FORMAT = struct.Struct("<?qqqqqd")
_NONE = -2
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class WireError(Exception):
    """The other side is gone or talks nonsense."""


@dataclass(frozen=True, slots=True)
class Request:
    """What the child is asked for: the length, or the samples [start, end) at 16 kHz; `end` None: to the last one.

    `limit`: the most samples that are taken of a channel; `channel` None: the mix, SPLIT: all of them, sample by sample in turn;
    `size`: bytes of the object; `cpu_s`: processor seconds it may take.
    """

    probe: bool = False
    start: int = 0
    end: int | None = None
    limit: int = 0
    channel: int | None = None
    size: int = 0
    cpu_s: float = 0.0

    def pack(self) -> bytes:
        """The payload of a REQUEST."""
        end = _NONE if self.end is None else self.end
        channel = _NONE if self.channel is None else self.channel
        return _REQUEST_FORMAT.pack(self.probe, self.start, end, self.limit, channel, self.size, self.cpu_s)

    @classmethod
    def unpack(cls, payload: bytes) -> Request:
        """The request of a payload."""
        probe, start, end, limit, channel, size, cpu_s = _REQUEST_FORMAT.unpack(payload)
        return cls(
            probe, start, None if end == _NONE else end, limit, None if channel == _NONE else channel, size, cpu_s
        )


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends that keep messages apart: what is sent in one piece arrives in one piece, or not at all."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def create_area() -> int:
    """A descriptor of new memory for samples, its size sealed: who maps it can rely on it."""
    fd = os.memfd_create("samples", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, AREA_BYTES)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    return fd


def map_area(fd: int, writable: bool) -> mmap.mmap:
    """The area as memory; closes the descriptor."""
    try:
        return mmap.mmap(fd, AREA_BYTES, mmap.MAP_SHARED, mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
    finally:
        os.close(fd)


def pack_group(half: int, requests: Iterable[Request]) -> bytes:
    """The payload of a GROUP."""
    return bytes([half]) + b"".join(request.pack() for request in requests)


def unpack_group(payload: bytes) -> tuple[int, list[Request]]:
    """The half of the area, and the requests."""
    size = _REQUEST_FORMAT.size
    return payload[0], [Request.unpack(payload[at : at + size]) for at in range(1, len(payload), size)]


def pack_answer(kind: bytes, payload: bytes) -> bytes:
    """One answer in an ANSWERS."""
    return _ANSWER_FORMAT.pack(kind, len(payload)) + payload


def unpack_answers(payload: bytes) -> list[tuple[bytes, bytes]]:
    """The kind and payload of each answer. Raises WireError."""
    answers, at = [], 0
    while at < len(payload):
        kind, length = _ANSWER_FORMAT.unpack_from(payload, at)
        at += _ANSWER_FORMAT.size + length
        if at > len(payload):
            raise WireError("half an answer")
        answers.append((kind, payload[at - length : at]))
    return answers


def send(sock: socket.socket, kind: bytes, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
    """Send one message; descriptors travel with it."""
    if fds:
        socket.send_fds(sock, [kind + payload], fds)
    else:
        sock.send(kind + payload)


def receive(sock: socket.socket, room_bytes: int = MAX_PAYLOAD_BYTES) -> tuple[bytes, bytes]:
    """The kind and payload of the next message; a longer one is cut off. Raises WireError at the end of the stream."""
    message = sock.recv(1 + room_bytes)
    if not message:
        raise WireError("end of stream")
    return message[:1], message[1:]


def receive_with_fds(sock: socket.socket) -> tuple[bytes, bytes, list[int]]:
    """Like receive, with the descriptors that came along."""
    message, fds, _, _ = socket.recv_fds(sock, 2 + MOST_IN_GROUP * _REQUEST_FORMAT.size, MOST_IN_GROUP)
    if not message:
        raise WireError("end of stream")
    return message[:1], message[1:], fds
