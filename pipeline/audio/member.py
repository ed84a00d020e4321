"""Recordings inside a container object: how a uri names one. Pure: opens nothing.

    s3://bucket/shard-000000.tar#member=a/b.flac&bytes=1536-99840       a member of a tar file, and where its bytes lie
    s3://bucket/train-00000.parquet#group=3&row=17&column=audio         a value of a Parquet column, by its row group

What stands before the `#` is an object like any other, and is allowed or refused like one. Names behind it are percent-quoted,
are compared with what the container says, and are never used as a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

# For Arrow, on the uris of a Parquet file's rows: everything up to the row, which is the same for a whole row group, and the row.
ROW_PATTERN = r"^(?P<group>.*#group=[0-9]{1,9})&row=(?P<row>[0-9]{1,9})&column=[^#&]*$"

_PIECE = re.compile(r"#member=([^#&]*)&bytes=([0-9]{1,18})-([0-9]{1,18})\Z")
_ROW = re.compile(r"#group=([0-9]{1,9})&row=([0-9]{1,9})&column=([^#&]*)\Z")


@dataclass(frozen=True, slots=True)
class Piece:
    """A member of a tar file: its name there, and its bytes [start, end) of the file."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Row:
    """A value of a Parquet file: the row group, the row in it, and the column."""

    group: int
    row: int
    column: str


Member = Piece | Row


def split_member(uri: str) -> tuple[str, Member | None]:
    """The container's uri and what is meant in it; None: the whole object. A `#` of any other form belongs to a name."""
    if "#" not in uri:
        return uri, None
    if match := _PIECE.search(uri):
        return uri[: match.start()], Piece(unquote(match[1]), int(match[2]), int(match[3]))
    if match := _ROW.search(uri):
        return uri[: match.start()], Row(int(match[1]), int(match[2]), unquote(match[3]))
    return uri, None


def row_group_of(uri: str) -> str | None:
    """What uris of one Parquet row group have in common; None: not in Parquet."""
    match = _ROW.search(uri)
    return uri[: match.end(1)] if match else None


def piece_uri(container: str, piece: Piece) -> str:
    """The uri of a tar member. Raises UnicodeEncodeError for a name that is no text."""
    return f"{container}#member={quote(piece.name)}&bytes={piece.start}-{piece.end}"


def row_uri(container: str, row: Row) -> str:
    """The uri of a Parquet value."""
    return f"{container}#group={row.group}&row={row.row}&column={quote(row.column, safe='')}"
