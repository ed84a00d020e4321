"""File names for recordings. Pure.

Ids come from strangers: they may hold slashes, ten thousand letters, NUL, or differ only in capitals. A name depends on its id
alone, so it is the same in every export and no table of names has to be kept, and two ids never share one.
"""

from __future__ import annotations

import hashlib
import re

_PLAIN = re.compile(r"[a-z0-9][a-z0-9_-]*(\.[a-z0-9_-]+)*")
_DIGITS = 20  # 80 bits of SHA-256
_LIKE_OURS = re.compile(rf".*-[0-9a-f]{{{_DIGITS}}}")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?")  # such files cannot be made on Windows
_LONGEST_PLAIN = 100
_LONGEST_STEM = 60


def safe_name(recording_id: str) -> str:
    """The id, where it is a plain file name; else what is plain of it and the start of its hash: `a-b-1f3ac9d2…`.

    Made of [a-z0-9._-], at most 100 characters, and it never begins with a dot, a dash or an underscore. Ids with capitals get a
    hash too: some file systems take `A` and `a` for the same name.
    """
    plain = len(recording_id) <= _LONGEST_PLAIN and _PLAIN.fullmatch(recording_id) is not None
    if plain and not _LIKE_OURS.fullmatch(recording_id) and not _DEVICE.fullmatch(recording_id):
        return recording_id
    # The end of a path says more than its beginning.
    stem = re.sub(r"[^a-z0-9]+", "-", recording_id[-4 * _LONGEST_STEM :].lower())[-_LONGEST_STEM:].strip("-")
    digest = hashlib.sha256(recording_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{stem or 'recording'}-{digest[:_DIGITS]}"
