"""Where a model's files lie, and how they get here: from a folder, an object store, or the Hugging Face hub at a commit.

The one way for every engine. It refuses to know what the files are: it fetches those that are asked for by name and no others,
and none of a kind that can hold code. Imports no heavy library.

What a store holds is copied to $QUARRY_CACHE/models/<key>/, where the key changes with the uri and with every change of the files
asked for; what the hub holds goes to the hub's own cache (`hub_files`). A file that stands under its name is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from pipeline.errors import ConfigError, StoreError
from pipeline.store.base import ObjectInfo, StoreKeyMissing, is_key

if TYPE_CHECKING:
    from pipeline.store.objects import ObjectStore

T = TypeVar("T")

REVISION_DIGITS = 12
_CODE = (".py", ".pkl", ".pickle", ".pt", ".pth", ".ckpt")  # pickles run code when they are opened
_SECRET = re.compile(r"://[^/]*:[^/]*@|[?]")
_ABANDONED_S = 24 * 3600.0  # a part that nobody has written to for so long, on a machine that we cannot ask


@dataclass(frozen=True, slots=True)
class ModelFiles(ABC):
    """Where a model's files lie; nothing is read until asked for. Every method raises ConfigError, in one sentence."""

    model: str

    def names(self) -> frozenset[str]:
        """The plain files of the folder, not of folders below it."""
        return frozenset(self._sizes())

    def size_bytes(self, name: str) -> int:
        """How long a file is."""
        return self._pick([name], self._sizes())[name]

    def fetch(self, names: Sequence[str]) -> Path:
        """The local folder that holds at least these files, complete; those that are not there yet are fetched.

        Name the weights and what lies beside them in one call: another set of names can be another folder.
        """
        if not names:
            raise ValueError("fetch needs the name of a file")
        return self._fetch(names)

    @abstractmethod
    def fetch_head(self, name: str, n_bytes: int) -> bytes:
        """The first `n_bytes` of a file (all of a shorter one), without the rest."""

    @abstractmethod
    def revision(self, weights: str) -> str:
        """12 hex digits that change with the file of the weights; on the hub, the front of the commit."""

    @abstractmethod
    def _sizes(self) -> Mapping[str, int]: ...

    @abstractmethod
    def _fetch(self, names: Sequence[str]) -> Path: ...

    def _pick(self, names: Sequence[str], found: Mapping[str, T]) -> dict[str, T]:
        """The entries of these names: each has to be a plain name of a file that is there."""
        for name in names:
            if not is_plain_name(name) or name.lower().endswith(_CODE):
                raise ConfigError(f"The model {self.model} asks for {name!r}: only plain files of data are fetched.")
        missing = [name for name in names if name not in found]
        if missing:
            raise ConfigError(
                f"The model {self.model} lacks {', '.join(missing)}; check that engine.model is its folder."
            )
        return {name: found[name] for name in names}


def find_model(model: str, storage_options: Mapping[str, Any] = {}) -> ModelFiles:
    """The files of `engine.model`: a folder, the uri of one, or hf://owner/name@commit. `storage_options` are fsspec's, for uris.

    Raises ConfigError: there is no such folder, or the uri is not of a form that can be used; nobody is asked yet.
    """
    if model.startswith("hf://"):
        from pipeline.engines.hub_files import parse_hub_uri

        return parse_hub_uri(model)
    if "://" in model and not model.startswith(("file://", "local://")):
        return _stored_files(model, storage_options)
    folder = Path(model.partition("://")[2] or model).expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"There is no folder {model!r}; engine.model can be a folder, a uri of one (s3://…), or hf://owner/name@commit."
        )
    return _FolderFiles(model, folder)


def is_plain_name(name: str) -> bool:
    """Whether it is the name of a file right in a folder: no path, nothing hidden."""
    return is_key(name) and "/" not in name


def sha256_of(path: Path) -> str:
    """64 hex digits of a file, which is read once per process as long as its size and time stay. Raises OSError."""
    stat = path.stat()
    return _sha256(str(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: str, size_bytes: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """$QUARRY_CACHE, or ~/.cache/quarry."""
    return Path(os.environ.get("QUARRY_CACHE") or Path.home() / ".cache" / "quarry")


@dataclass(frozen=True, slots=True)
class _FolderFiles(ModelFiles):
    """A folder of this machine: nothing to fetch."""

    folder: Path

    def fetch_head(self, name: str, n_bytes: int) -> bytes:
        with self._readable(), (self.fetch([name]) / name).open("rb") as file:
            return file.read(n_bytes)

    def revision(self, weights: str) -> str:
        with self._readable():
            return sha256_of(self.fetch([weights]) / weights)[:REVISION_DIGITS]

    def _sizes(self) -> Mapping[str, int]:
        with self._readable():
            files = [path for path in self.folder.iterdir() if is_plain_name(path.name) and path.is_file()]
            return {path.name: path.stat().st_size for path in files}

    def _fetch(self, names: Sequence[str]) -> Path:
        self._pick(names, self._sizes())
        return self.folder

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError(
                f"The model {self.model} cannot be read ({reason}); check its files and rights."
            ) from None


@dataclass(frozen=True, slots=True)
class _StoredFiles(ModelFiles):
    """A folder behind a uri, through the door that the run's own objects go through."""

    store: ObjectStore = field(repr=False)

    def fetch_head(self, name: str, n_bytes: int) -> bytes:
        info = self._pick([name], self._listing())[name]
        with self._config_errors():
            return self.store.get_range(name, 0, min(n_bytes, info.size_bytes))

    def revision(self, weights: str) -> str:
        return _digest(_facts(self._pick([weights], self._listing()).values()))[:REVISION_DIGITS]

    def _sizes(self) -> Mapping[str, int]:
        return {name: info.size_bytes for name, info in self._listing().items()}

    def _listing(self) -> dict[str, ObjectInfo]:
        with self._config_errors():
            found = {info.key: info for info in self.store.list("", deep=False) if is_plain_name(info.key)}
        if not found:
            raise ConfigError(f"There are no files of a model in {self.store}; check that engine.model is its folder.")
        return found

    def _fetch(self, names: Sequence[str]) -> Path:
        wanted = self._pick(names, self._listing())
        folder = cache_folder() / "models" / _digest([str(self.store), *_facts(wanted.values())])[:16]
        try:
            if not _missing(folder, wanted.values()):
                return folder
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder.with_suffix(".lock")):
                _remove_abandoned(folder)
                missing = _missing(folder, wanted.values())  # another process may have fetched them meanwhile
                _check_room(self.model, folder, missing)
                for info in missing:
                    self._copy(info, folder)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError(
                f"The model {self.model} cannot be written to {folder} ({reason}); free some space, or set QUARRY_CACHE."
            ) from None
        return folder

    def _copy(self, info: ObjectInfo, folder: Path) -> None:
        """Beside its final name first: a process that is killed leaves a part, never half a file."""
        part = folder / f".{info.key}.{_machine()}.{os.getpid()}.{uuid4().hex[:8]}.part"
        with self._config_errors():
            self.store.get_to_file(info, part)
        part.replace(folder / info.key)

    @contextmanager
    def _config_errors(self) -> Iterator[None]:
        try:
            yield
        except StoreKeyMissing:
            raise ConfigError(f"A file of {self.model} vanished while it was read; run again.") from None
        except StoreError as error:
            raise ConfigError(str(error)) from None


def _stored_files(uri: str, storage_options: Mapping[str, Any]) -> ModelFiles:
    from pipeline.config import StoreConfig
    from pipeline.store.objects import ObjectStore

    store = ObjectStore(uri, StoreConfig(storage_options=dict(storage_options)), section="engine")
    if _SECRET.search(uri):  # the uri is written with every row
        raise ConfigError(
            f"The uri of the model {store} has a password or a query; put it into engine.storage_options."
        )
    return _StoredFiles(uri, store)


def _facts(files: Iterable[ObjectInfo]) -> list[Any]:
    return sorted([info.key, info.size_bytes, info.etag] for info in files)


def _digest(facts: list[Any]) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _missing(folder: Path, files: Iterable[ObjectInfo]) -> list[ObjectInfo]:
    def is_there(info: ObjectInfo) -> bool:
        path = folder / info.key
        return path.is_file() and path.stat().st_size == info.size_bytes

    return [info for info in files if not is_there(info)]


def _check_room(model: str, folder: Path, files: Sequence[ObjectInfo]) -> None:
    """Refuse before gigabytes have been fetched in vain."""
    needed, free = sum(info.size_bytes for info in files), shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"The model {model} needs {needed / 1e6:,.0f} MB in {folder}, where {free / 1e6:,.0f} MB are free; "
            "free some space, or set QUARRY_CACHE."
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time, so that the engines of a machine fetch a model once.

    Nothing rests on it: on a file system without locks, each fetches a copy of its own, and the last one's name stays.
    """
    import fcntl

    with lock.open("w") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_abandoned(folder: Path) -> None:
    """Parts of fetches that were killed: of processes of this machine that are gone, or old ones."""
    for part in folder.glob(".*.part"):
        machine, pid = part.name.split(".")[-4:-2]
        with suppress(FileNotFoundError):
            gone = machine == _machine() and not _runs(int(pid))
            if gone or time.time() - part.stat().st_mtime > _ABANDONED_S:
                part.unlink()


def _machine() -> str:
    return re.sub("[^A-Za-z0-9-]", "-", socket.gethostname())


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's
    return True
