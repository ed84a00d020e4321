"""The audio below a folder or prefix, by the names of its files: streamed, in one order. Opens none of them."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import groupby, islice
from typing import Any

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.opening import as_folder, is_local, kind_of, local_path, reaching
from pipeline.store.remote_folder import etag_of, modified_of

# Containers that hold speech in archives; what lies beside them (texts, tables, pictures) is passed over.
_LOSSLESS = {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".snd", ".sph", ".w64", ".wav", ".wave"}
_LOSSY = {".aac", ".ac3", ".amr", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".oga", ".ogg", ".opus", ".wma"}
_VIDEO = {".3gp", ".avi", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
_PAGE_KEYS = 1_000  # the most that S3 gives
AUDIO_SUFFIXES = _LOSSLESS | _LOSSY | _VIDEO


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a listing. `version` changes when its bytes do; `age_s` since its last change, None where nobody tells."""

    name: str
    size_bytes: int
    version: str
    age_s: float | None

    def is_settled(self, min_age_s: float) -> bool:
        """Whether nobody writes it any more, as far as its age tells."""
        return self.age_s is None or self.age_s >= min_age_s


def list_audio(folder: str, config: SourceConfig) -> Iterator[str]:
    """Names of audio files, relative to `folder`, in the order of their paths; hidden files and folders are passed over,
    and what is younger than `config.min_age_s`.

    Holds one folder's names at a time, of S3 one page. Raises ManifestError where the folder cannot be listed.
    """
    if kind_of(folder, config) != "directory":
        raise ManifestError(f"There is no folder {folder} to list; check the path, and that something lies in it.")
    for file in list_files(folder, config):
        if is_audio(file.name) and file.is_settled(config.min_age_s):
            yield file.name


def list_files(folder: str, config: SourceConfig) -> Iterator[Listed]:
    """Every file below a folder, in the order of their paths; nothing, where there is no such folder.

    Ages are by the store's clock where it sends its time with a listing (S3), else by this machine's. Raises ManifestError.
    """
    with reaching(folder, config) as (file_system, path):
        if is_local(folder):
            found = _walk(local_path(folder), "")
        elif folder.startswith("s3://"):
            found = _pages(file_system, path)
        else:
            found = _levels(file_system, path, "")
        yield from (file for file in found if not any(part.startswith(".") for part in file.name.split("/")))


def first_look(folder: str, wanted: Collection[str], config: SourceConfig) -> tuple[list[str], set[str]]:
    """The first names below a folder, _PAGE_KEYS at most, and which of some files in it are there.

    Of a bucket the first page of its listing tells both, where the folder is small; else one more listing for each place
    where a wanted file may lie, whatever else lies there. Raises ManifestError.
    """
    folder = as_folder(folder)
    names = [file.name for file in islice(list_files(folder, config), _PAGE_KEYS)]
    there = set(names).intersection(wanted)
    if len(names) < _PAGE_KEYS:
        return names, there
    # Names come in order: of those that are earlier we know.
    later = sorted(name for name in wanted if name > names[-1])
    if not folder.startswith("s3://"):
        return names, there | {name for name in later if kind_of(f"{folder}/{name}", config) == "file"}
    with reaching(folder, config) as (file_system, path):
        for top, below in groupby(later, lambda name: name[: name.find("/") + 1]):
            if top and next(_pages(file_system, path, top), None) is None:
                continue
            for stem, _ in groupby(below, lambda name: os.path.splitext(name)[0]):
                there |= {file.name for file in _pages(file_system, path, f"{stem}.")}.intersection(wanted)
    return names, there


def is_audio(name: str) -> bool:
    """Whether a file's name is that of audio or video."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def _walk(root: str, below: str) -> Iterator[Listed]:
    """Links to files count, links to folders do not: they may lead round in a circle."""
    try:
        with os.scandir(os.path.join(root, below)) as found:
            entries = sorted(
                (f"{below}{one.name}/" if one.is_dir(follow_symlinks=False) else f"{below}{one.name}", one)
                for one in found
                if one.is_dir(follow_symlinks=False) or one.is_file()
            )
    except FileNotFoundError:
        return
    for name, entry in entries:
        if not name.endswith("/"):
            if (file := _local(name, entry)) is not None:
                yield file
        elif not os.path.basename(name[:-1]).startswith("."):
            yield from _walk(root, name)


def _local(name: str, entry: os.DirEntry[str]) -> Listed | None:
    try:
        status = entry.stat()
    except FileNotFoundError:
        return None
    # A copy may bring an old time of writing along; that of the inode is when it came.
    age_s = time.time() - max(status.st_mtime, status.st_ctime)
    return Listed(name, status.st_size, f"{status.st_mtime_ns:x}", age_s)


def _pages(file_system: Any, path: str, beginning: str = "") -> Iterator[Listed]:
    """S3 lists keys in order, a thousand at a time, whatever the depth. `beginning`: of the names below the path."""
    bucket, _, prefix = path.strip("/").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    more: dict[str, str] = {}
    while True:
        page = file_system.call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=prefix + beginning, MaxKeys=_PAGE_KEYS, **more
        )
        now_s = _time_of(page)
        for item in page.get("Contents", ()):
            name: str = item["Key"].removeprefix(prefix)
            if name and not name.endswith("/"):
                age_s = now_s - item["LastModified"].timestamp()
                yield Listed(name, int(item["Size"]), item["ETag"].strip('"'), age_s)
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _time_of(page: dict[str, Any]) -> float:
    """What time it was for the server that answered."""
    said = page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
    try:
        return parsedate_to_datetime(said).timestamp() if said else time.time()
    except ValueError:
        return time.time()


def _levels(file_system: Any, root: str, below: str) -> Iterator[Listed]:
    """Of any other store, folder by folder."""
    try:
        listed = file_system.ls(f"{root}/{below}".rstrip("/"), detail=True)
    except FileNotFoundError:
        return
    entries = {f"{below}{item['name'].rstrip('/').rpartition('/')[2]}": item for item in listed}
    inner = {f"{name}/" if item["type"] == "directory" else name: item for name, item in entries.items()}
    for name, item in sorted(inner.items()):
        if name.endswith("/"):
            yield from _levels(file_system, root, name)
        else:
            modified_s = modified_of(item)
            age_s = None if modified_s is None else time.time() - modified_s
            yield Listed(name, int(item.get("size") or 0), etag_of(item) or "", age_s)
