"""Which URIs a manifest row may name. A manifest comes from strangers: what is not allowed is refused.

Allowed is what lies under a root: a local folder, or a bucket with an optional prefix. Opens nothing; follows local links to
see where they lead. A recording inside a container is where its container is; what the uri says behind that leads nowhere else.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from pipeline.audio.member import Member, Piece, split_member
from pipeline.audio.tar import BLOCK_BYTES
from pipeline.errors import AudioError

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_USER_INFO = re.compile(r"://[^/?#]*@")
_SIGNED_QUERY = re.compile(
    r"\?(?:[^?]*&)?(?:x-\w+-|\w+_)?(?:signature|sig|(?:security-)?token|credential|secret|password|key|auth)=.*$",
    re.IGNORECASE,
)
_NEVER = {"http", "https", "ftp"}  # redirects and private addresses: mirror such objects into a bucket


@dataclass(frozen=True, slots=True)
class Location:
    """A URI that passed: `path` is a real local path, or bucket/key; `member`: what is meant in there, None: all of it."""

    scheme: str
    path: str
    member: Member | None = None


def is_plain(name: str) -> bool:
    """Whether a name holds nothing but what is seen; the wide spaces of French and Japanese names are."""
    return all(letter.isprintable() or unicodedata.category(letter) == "Zs" for letter in name)


def resolve(uri: str, roots: Sequence[str], schemes: Sequence[str]) -> Location:
    """Where `uri` leads, if it is allowed; a relative one starts at the first root.

    Raises AudioError uri_refused; the message names the config field that would allow it.
    """
    if not uri or not is_plain(uri) or "::" in uri:
        raise _refused(uri, "is not a plain path or uri; correct the row")
    if not roots:
        raise _refused(uri, "has no root to lie under; set source.roots")
    whole, (uri, member) = uri, split_member(uri)
    if not uri or not _is_likely(member):
        raise _refused(whole, "names something that no container can hold; correct the row")
    scheme, rest = _split(uri)
    if scheme is None and not uri.startswith("/"):
        scheme, rest = _join(roots[0], uri)
    scheme = scheme or "file"
    if scheme in _NEVER:
        raise _refused(uri, f"uses {scheme}, which is never read; copy the audio under one of source.roots")
    if scheme not in schemes:
        raise _refused(uri, f"uses {scheme}, which source.schemes does not list")
    inside = _local(uri, rest, roots) if scheme == "file" else _remote(uri, scheme, rest, roots)
    if inside is None:
        raise _refused(uri, "lies outside the allowed folders and buckets; add its folder to source.roots")
    return Location(scheme, inside, member)


def _is_likely(member: Member | None) -> bool:
    """Whether a tar file can have such a member: behind a header, at a whole block."""
    if isinstance(member, Piece):
        return BLOCK_BYTES <= member.start <= member.end and member.start % BLOCK_BYTES == 0
    return member is None or bool(member.column)


def _split(uri: str) -> tuple[str | None, str]:
    """Scheme and what follows `scheme://` or `scheme:`; (None, uri) where there is none."""
    match = _SCHEME.match(uri)
    if match is None:
        return None, uri
    rest = uri[match.end() :]
    if not rest.startswith("//"):
        raise _refused(uri, "is not a uri of the form scheme://…; for a file name with a colon write ./name")
    return match[1].lower(), rest[2:]


def _join(root: str, relative: str) -> tuple[str | None, str]:
    scheme, rest = _split(root)
    return scheme, f"{rest.rstrip('/')}/{relative}"


def _local(uri: str, rest: str, roots: Sequence[str]) -> str | None:
    path = rest
    if _SCHEME.match(uri):
        host, slash, tail = rest.partition("/")
        if host not in ("", "localhost"):
            raise _refused(uri, "names another machine; mount it and write file:///path")
        path = unquote(slash + tail)
    if "\0" in path:
        raise _refused(uri, "is not a plain path or uri; correct the row")
    real = os.path.realpath(path)
    for root in roots:
        scheme, folder = _split(root)
        if scheme in (None, "file") and _under(real, os.path.realpath(folder)):
            return real
    return None


def _under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _remote(uri: str, scheme: str, rest: str, roots: Sequence[str]) -> str | None:
    bucket, _, key = rest.partition("/")
    if not bucket or not key or "@" in bucket or {".", ".."} & set(key.split("/")):
        raise _refused(uri, "is not a plain object name (scheme://bucket/key without . or ..); correct the row")
    for root in roots:
        root_scheme, folder = _split(root)
        if root_scheme == scheme and _under(rest, folder.rstrip("/")):
            return rest
    return None


def _refused(uri: str, reason: str) -> AudioError:
    return AudioError("uri_refused", f"The uri {shown(uri)} {reason}.")


def without_secrets(uri: str) -> str:
    """The uri as it may be planned and stored: without user and password, and without a query that signs or lets in.

    Other question marks stay: they may belong to a key. What is left out is never needed: reading has credentials of its own.
    """
    if "://" not in uri:
        return uri
    return _SIGNED_QUERY.sub("?…", _USER_INFO.sub("://", uri))


def shown(uri: str) -> str:
    """The uri as messages may show it: no user info, no query string, no control characters, not too long."""
    plain = re.sub(r"//[^/@]*@", "//", uri.split("?")[0])
    plain = "".join(c if c.isprintable() else "�" for c in plain)
    return plain if len(plain) <= 200 else f"{plain[:100]}…{plain[-99:]}"
