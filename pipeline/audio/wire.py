"""The messages between a reader and its decoder process: a kind, a length, bytes. Knows nothing of audio.

parent ─► child   REQUEST (json, with or without a file descriptor), BYTES (the answer to a RANGE)
child ─► parent   RANGE (offset, length), PCM (int16 samples), RESTART (forget the samples), DONE / FAILED (json)
"""

from __future__ import annotations

import socket
import struct

REQUEST, BYTES = b"J", b"B"
RANGE, PCM, RESTART, DONE, FAILED = b"R", b"P", b"X", b"D", b"E"

MAX_MESSAGE_BYTES = 32 * 2**20
RANGE_FORMAT = struct.Struct("<QQ")
_HEADER = struct.Struct("<cI")


class WireError(Exception):
    """The other side is gone or talks nonsense."""


def send(sock: socket.socket, kind: bytes, payload: bytes | memoryview = b"", fd: int | None = None) -> None:
    """Send one message; `fd` travels with its header."""
    header = _HEADER.pack(kind, len(payload))
    if fd is None:
        sock.sendall(header)
    else:
        socket.send_fds(sock, [header], [fd])
    if len(payload):
        sock.sendall(payload)


def receive_header(sock: socket.socket) -> tuple[bytes, int]:
    """The kind and length of the next message. Raises WireError: end of stream, or a length beyond reason."""
    return _unpack(receive_exactly(sock, _HEADER.size))


def receive_header_with_fd(sock: socket.socket) -> tuple[bytes, int, int | None]:
    """Like receive_header, with the descriptor that came along, if one did."""
    first, fds, _, _ = socket.recv_fds(sock, _HEADER.size, 1)
    if not first:
        raise WireError("end of stream")
    rest = receive_exactly(sock, _HEADER.size - len(first))
    kind, length = _unpack(first + rest)
    return kind, length, fds[0] if fds else None


def receive_exactly(sock: socket.socket, length: int) -> bytes:
    """The next `length` bytes. Raises WireError at the end of the stream."""
    buffer = bytearray(length)
    receive_into(sock, memoryview(buffer))
    return bytes(buffer)


def receive_into(sock: socket.socket, view: memoryview) -> None:
    """Fill `view` (bytes). Raises WireError at the end of the stream."""
    filled = 0
    while filled < len(view):
        got = sock.recv_into(view[filled:])
        if not got:
            raise WireError("end of stream")
        filled += got


def _unpack(header: bytes) -> tuple[bytes, int]:
    kind, length = _HEADER.unpack(header)
    if length > MAX_MESSAGE_BYTES:
        raise WireError(f"a message of {length} bytes")
    return kind, length
