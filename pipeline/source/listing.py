"""The audio below a folder or prefix, by the names of its files: streamed, in one order. Opens none of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.opening import is_local, kind_of, local_path, reaching

# Containers that hold speech in archives; what lies beside them (texts, tables, pictures) is passed over.
_LOSSLESS = {".aif", ".aifc", ".aiff", ".au", ".caf", ".flac", ".snd", ".sph", ".w64", ".wav", ".wave"}
_LOSSY = {".aac", ".ac3", ".amr", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".oga", ".ogg", ".opus", ".wma"}
_VIDEO = {".3gp", ".avi", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv"}
_PAGE_KEYS = 1_000  # the most that S3 gives
AUDIO_SUFFIXES = _LOSSLESS | _LOSSY | _VIDEO


def list_audio(folder: str, config: SourceConfig) -> Iterator[str]:
    """Names of audio files, relative to `folder`, in the order of their paths; hidden files and folders are passed over.

    Holds one folder's names at a time, of S3 one page. Raises ManifestError where the folder cannot be listed.
    """
    if kind_of(folder, config) != "directory":
        raise ManifestError(f"There is no folder {folder} to list; check the path, and that something lies in it.")
    with reaching(folder, config) as (file_system, path):
        if is_local(folder):
            names = _walk(local_path(folder), "")
        elif folder.startswith("s3://"):
            names = _pages(file_system, path)
        else:
            names = _levels(file_system, path, "")
        yield from (name for name in names if _is_audio(name))


def _is_audio(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES and not any(
        part.startswith(".") for part in name.split("/")
    )


def _walk(root: str, below: str) -> Iterator[str]:
    """Links to files count, links to folders do not: they may lead round in a circle."""
    with os.scandir(os.path.join(root, below)) as found:
        names = sorted(
            f"{below}{one.name}/" if one.is_dir(follow_symlinks=False) else f"{below}{one.name}"
            for one in found
            if one.is_dir(follow_symlinks=False) or one.is_file()
        )
    for name in names:
        if not name.endswith("/"):
            yield name
        elif not os.path.basename(name[:-1]).startswith("."):
            yield from _walk(root, name)


def _pages(file_system: Any, path: str) -> Iterator[str]:
    """S3 lists keys in order, a thousand at a time, whatever the depth."""
    bucket, _, prefix = path.strip("/").partition("/")
    prefix = f"{prefix}/" if prefix else ""
    more: dict[str, str] = {}
    while True:
        page = file_system.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=_PAGE_KEYS, **more)
        for item in page.get("Contents", ()):
            name: str = item["Key"].removeprefix(prefix)
            if name and not name.endswith("/"):
                yield name
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _levels(file_system: Any, root: str, below: str) -> Iterator[str]:
    """Of any other store, folder by folder."""
    listed = file_system.ls(f"{root}/{below}".rstrip("/"), detail=True)
    folders = {f"{below}{item['name'].rstrip('/').rpartition('/')[2]}": item["type"] == "directory" for item in listed}
    for name, is_folder in sorted((f"{name}/" if inner else name, inner) for name, inner in folders.items()):
        if is_folder:
            yield from _levels(file_system, root, name)
        else:
            yield name
