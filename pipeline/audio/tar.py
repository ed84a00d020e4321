"""The members of a tar file, from its headers alone: what lies between them is never read. Knows nothing of audio.

The standard library parses one header block; the walk over the file is ours, for it must be bounded whatever a file claims: long
names and extended headers have a limit, sizes are held against the file's, links and sparse members are told and never followed.
ustar, GNU and pax, as GNU tar, Python and WebDataset write them: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.audio.member import Piece

BLOCK_BYTES = 512

_MAX_NAME_BYTES = 4_096
_MAX_EXTENDED_BYTES = 2**20
_MAX_PREFIXES = 8  # long name, long link and extended headers before one member
_LONG_NAME, _LONG_LINK = tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE)
_GLOBAL = tarfile.XGLTYPE
_REGULAR = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_BODILESS = (
    *(tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE),
    *(tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE),
)
_OCTAL_LIMIT = 8 * 2**30  # longer members have their size in an extended header alone

Read = Callable[[int, int], bytes]  # offset, length → the bytes there, fewer at the end


class BadTar(Exception):
    """The file cannot be read on from here; the message says what is wrong, in words."""


@dataclass(frozen=True, slots=True)
class Member:
    """What a header says: a name, where the bytes lie, and why they cannot be had, if so."""

    name: str
    start: int
    end: int
    objection: str | None = None


def members(read: Read, size: int) -> Iterator[Member]:
    """Files, links and sparse files of a tar of `size` bytes, in its order; folders and devices are passed over.

    Raises BadTar: no tar, cut short, a header that cannot be believed.
    """
    offset = 0
    while offset < size:
        block = read(offset, BLOCK_BYTES)
        if not any(block):
            return
        offset, said = _prefixes(read, size, offset)
        info = _header(read(offset, BLOCK_BYTES), offset)
        start = offset + BLOCK_BYTES
        length = 0 if info.type in _BODILESS else _number(said.get("size"), info.size, offset)
        if start + length > size:
            raise BadTar(
                f"is cut short: the header at byte {offset} tells of {length} bytes, and {size - start} follow"
            )
        name = said.get("path", info.name)
        objection = _objection(info, said)
        if (info.type in _REGULAR and not name.endswith("/")) or objection:
            yield Member(name, start, start + length, objection)
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise BadTar(f"has a sparse member at byte {offset}; pack it without --sparse")
        offset = start + _padded(length)


def check_piece(block: bytes, piece: Piece) -> bool:
    """Whether the header block right before a piece is still the one that was indexed: the file may have been written anew."""
    try:
        info = _header(block, 0)
    except BadTar:
        return False
    length = piece.end - piece.start
    same_size = info.size == length or (length >= _OCTAL_LIMIT and info.size == 0)
    # Longer and other names stand in the header as every program likes; there they are not compared.
    plain = piece.name.isascii() and len(piece.name) <= 100
    return same_size and info.type in _REGULAR and (not plain or info.name == piece.name)


def _prefixes(read: Read, size: int, offset: int) -> tuple[int, dict[str, str]]:
    """Where the member's own header lies, and what the headers before it say: `path`, `size` and the like."""
    said: dict[str, str] = {}
    for _ in range(_MAX_PREFIXES):
        info = _header(read(offset, BLOCK_BYTES), offset)
        if info.type not in (_LONG_NAME, _LONG_LINK, _GLOBAL, *_EXTENDED):
            return offset, said
        limit = _MAX_NAME_BYTES if info.type in (_LONG_NAME, _LONG_LINK) else _MAX_EXTENDED_BYTES
        start, stop = offset + BLOCK_BYTES, offset + BLOCK_BYTES + info.size
        if not 0 <= info.size <= limit or stop > size:
            raise BadTar(f"has a name or extended header of {info.size} bytes at byte {offset}")
        if info.type == _LONG_NAME:
            said["path"] = _text(read(start, info.size).split(b"\0")[0])
        elif info.type in _EXTENDED:
            said.update(_records(read(start, info.size), offset))
        offset = start + _padded(info.size)
    raise BadTar(f"has more than {_MAX_PREFIXES} extended headers in a row before byte {offset}")


def _records(data: bytes, offset: int) -> dict[str, str]:
    """The records of a pax header, each `<its own length> <key>=<value>\\n`."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        digits, space, _ = data[at : at + 12].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        record = data[at : at + length]
        key, equals, value = record[len(digits) + 1 :].partition(b"=")
        if not space or not equals or len(record) != length or not value.endswith(b"\n"):
            raise BadTar(f"has an extended header at byte {offset} that makes no sense")
        found[_text(key)] = _text(value[:-1])
        at += length
    return found


def _header(block: bytes, offset: int) -> tarfile.TarInfo:
    try:
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise BadTar(f"has no tar header at byte {offset} ({error}); is it packed or cut short?") from None
    if info.size < 0:
        raise BadTar(f"has a member of {info.size} bytes at byte {offset}")
    return info


def _number(text: str | None, size: int, offset: int) -> int:
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadTar(f"has a member of {text[:20]!a} bytes at byte {offset}")
    return int(text)


def _objection(info: tarfile.TarInfo, said: dict[str, str]) -> str | None:
    if info.type in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        return "a link"
    if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in said):
        return "sparse"
    return None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _padded(length: int) -> int:
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES
