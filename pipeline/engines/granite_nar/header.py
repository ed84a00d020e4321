"""The header of a safetensors file: names, types and shapes of its tensors, checked against the size of the file.

A file from elsewhere is hostile input until its header adds up. Knows no model; needs no library.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import ConfigError

Shape = tuple[int, ...]

MAX_HEADER_BYTES = 16 * 2**20  # the published header has 0.1 MB; a hostile one must not cost memory
_DTYPE_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2}
_DTYPE_BYTES |= {"U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
_MAX_NAME, _MAX_RANK, _MAX_DIMENSION = 256, 8, 2**40


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One entry of a safetensors header."""

    name: str
    dtype: str  # as safetensors writes it: BF16, F32, I64 …
    shape: Shape


def read_header(path: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """`parse_header` of a local file; the weights behind the header are not read. Raises ConfigError."""
    where = Path(path)
    try:
        with where.open("rb") as file:
            return parse_header(lambda n_bytes: _first(file, n_bytes), where.stat().st_size, where)
    except OSError as error:
        raise ConfigError(
            f"{where} cannot be read ({error.strerror or error}); set engine.model to a folder with a model.safetensors."
        ) from None


def parse_header(
    first: Callable[[int], bytes], size_bytes: int, where: str | os.PathLike[str]
) -> dict[str, StoredTensor]:
    """Name → entry of a safetensors file, in the order of its header.

    `first(n)` gives the first n bytes of the file. Raises ConfigError for what is no safetensors file, for a truncated one,
    and where the header contradicts itself or the size of the file.
    """
    length = int.from_bytes(first(8), "little")
    if size_bytes < 8 or length > min(size_bytes - 8, MAX_HEADER_BYTES):
        raise _unreadable(where, f"a header of {length} bytes in a file of {size_bytes}")
    try:
        entries = json.loads(first(8 + length)[8:].decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _unreadable(where, f"a header that is no JSON ({str(error)[:80]})") from None
    if not isinstance(entries, dict):
        raise _unreadable(where, "a header that is no JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _unreadable(where, "metadata that are no texts")
    return _checked_entries(where, entries, size_bytes - 8 - length)


def _first(file: BinaryIO, n_bytes: int) -> bytes:
    file.seek(0)
    return file.read(n_bytes)


def _checked_entries(
    where: str | os.PathLike[str], entries: Mapping[str, Any], data_bytes: int
) -> dict[str, StoredTensor]:
    """The entries of a header whose tensors cover the data without gap or overlap."""
    tensors: dict[str, StoredTensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
        dtype, shape, span = (fields.get(key, ()) for key in ("dtype", "shape", "data_offsets"))
        if len(name) > _MAX_NAME or not name.isprintable():
            raise _unreadable(where, f"a tensor with the impossible name {_shown(name)}")
        if not isinstance(dtype, str) or dtype not in _DTYPE_BYTES:
            raise _unreadable(where, f"tensor {name} of an unknown type, {_shown(dtype)}")
        if not _are_sizes(shape) or len(shape) > _MAX_RANK:
            raise _unreadable(where, f"tensor {name} of an impossible shape, {_shown(shape)}")
        if not _are_sizes(span) or len(span) != 2 or span[1] - span[0] != math.prod(shape) * _DTYPE_BYTES[dtype]:
            raise _unreadable(where, f"tensor {name} of {dtype} {shape} in a span that does not fit, {_shown(span)}")
        tensors[name] = StoredTensor(name, dtype, tuple(shape))
        spans.append((span[0], span[1], name))
    reached = 0
    for begin, end, name in sorted(spans):
        if begin != reached or end > data_bytes:
            raise _unreadable(where, f"tensor {name} at bytes {begin} to {end}, behind {reached} of {data_bytes} bytes")
        reached = end
    if reached != data_bytes:
        raise _unreadable(where, f"{data_bytes - reached} bytes that belong to no tensor")
    return tensors


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(size) is int and 0 <= size <= _MAX_DIMENSION for size in value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a name stand twice and then forgets the first one; a strict match must not."""
    entries: dict[str, Any] = {}
    for name, value in pairs:
        if name in entries:
            raise ValueError(f"{_shown(name)} stands in it twice")
        entries[name] = value
    return entries


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _unreadable(where: str | os.PathLike[str], problem: str) -> ConfigError:
    return ConfigError(
        f"{where} is not a complete safetensors file: it has {problem}; fetch it again, or another revision of the model."
    )
