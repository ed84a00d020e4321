"""Manifests in several files, named by one uri with braces, as NeMo names them. Pure: opens nothing."""

from __future__ import annotations

import re

from pipeline.errors import ManifestError

MAX_FILES = 10_000

_RANGE = re.compile(r"(?:\{|_OP_)([0-9]{1,9})\.\.([0-9]{1,9})(?:\}|_CL_)")


def expand(uri: str) -> list[str]:
    """The files behind `manifest_{0..7}.jsonl` or `manifest__OP_0..7_CL_.jsonl`, in order; the uri itself without a range.

    Numbers are padded with zeros to the width of the wider bound if one of the bounds is, as shells do it.
    Raises ManifestError: a range in the folder's part, one that runs backwards, more than MAX_FILES files.
    """
    folder, slash, name = uri.rpartition("/")
    if _RANGE.search(folder):
        raise ManifestError(f"The manifest {uri} has a range in the name of its folder; put it into the file's name.")
    names = [name]
    while match := _RANGE.search(names[0]):
        names = [_RANGE.sub(number, one, count=1) for one in names for number in _numbers(uri, match, len(names))]
    return [f"{folder}{slash}{one}" for one in names]


def _numbers(uri: str, match: re.Match[str], times: int) -> list[str]:
    low, high = match.groups()
    count = int(high) - int(low) + 1
    if count < 1:
        raise ManifestError(f"The manifest {uri} has the range {match.group()}, which runs backwards; turn it round.")
    if count * times > MAX_FILES:
        raise ManifestError(
            f"The manifest {uri} names {count * times} files, more than {MAX_FILES}; join some of them."
        )
    padded = any(len(bound) > 1 and bound.startswith("0") for bound in (low, high))
    width = max(len(low), len(high)) if padded else 1
    return [f"{number:0{width}d}" for number in range(int(low), int(high) + 1)]
