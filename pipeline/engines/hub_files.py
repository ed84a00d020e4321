"""A model's files on the Hugging Face hub, at one commit: what hf://owner/name@commit means.

The hub's library does the work, in its own cache, so that files which lie there are used, and HF_HOME, HF_ENDPOINT and
HF_HUB_OFFLINE mean what they always mean. The token comes from HF_TOKEN alone. No message repeats what the library says: it can
hold a header, and with it the token.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from pipeline.engines.model_files import REVISION_DIGITS, ModelFiles, cache_folder, is_plain_name
from pipeline.errors import ConfigError
from pipeline.store.patience import persist

T = TypeVar("T")

_URI = re.compile(r"hf://([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)@([0-9a-f]{40})", re.ASCII)
_TIMEOUT_S = 20.0
_ATTEMPTS = 4  # a person waits
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class HubFiles(ModelFiles):
    """The files of one commit. A commit never changes, so its listing is asked for once per machine and kept."""

    repo: str
    commit: str

    def fetch_head(self, name: str, n_bytes: int) -> bytes:
        """The first bytes: of the file in the hub's cache if it is there, else by one range request."""
        end = min(n_bytes, self.size_bytes(name))
        with self._config_errors():
            if cached := self._cached(name):
                with cached.open("rb") as file:
                    return file.read(end)
            return _ask(lambda: self._read_range(name, end)) if end else b""

    def revision(self, weights: str) -> str:
        """The front of the commit."""
        self.size_bytes(weights)  # it is there
        return self.commit[:REVISION_DIGITS]

    def _fetch(self, names: Sequence[str]) -> Path:
        sizes = self._pick(names, self._sizes())
        with self._config_errors():
            paths = [self._cached(name) or self._download(name) for name in sizes]
        for path, size_bytes in zip(paths, sizes.values(), strict=True):
            if path.parent.name != self.commit:
                raise ConfigError(f"The hub answered for {self.model} with another commit; check HF_ENDPOINT.")
            if path.stat().st_size != size_bytes:
                raise ConfigError(f"The file {path.resolve()} is not as long as the hub's; delete it and run again.")
        return paths[0].parent

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def _download(self, name: str) -> Path:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(self.repo, name, revision=self.commit, token=_token()))

    def _sizes(self) -> Mapping[str, int]:
        noted = cache_folder() / "hub" / f"{self.repo.replace('/', '--')}@{self.commit}.json"
        with suppress(OSError, ValueError):
            kept: dict[str, int] = json.loads(noted.read_text("utf-8"))
            return kept
        try:
            info = _ask(self._model_info)
        except Exception as error:  # noqa: BLE001 - the hub's library and its HTTP library share no base class
            if not 400 <= _status(error) < 500 and (cached := self._cached_sizes()):
                return cached  # not kept: it may be less than all
            raise ConfigError(self._explain(error)) from None
        if info.sha != self.commit:  # a branch can be called like a commit
            raise ConfigError(f"The hub answered for {self.model} with another commit; check HF_ENDPOINT.")
        sizes = {it.rfilename: it.size for it in info.siblings if is_plain_name(it.rfilename)}
        with suppress(OSError):  # a cache that cannot be written costs a request
            noted.parent.mkdir(parents=True, exist_ok=True)
            part = noted.with_name(f".{uuid4().hex}.part")
            part.write_text(json.dumps(sizes), "utf-8")
            part.replace(noted)
        return sizes

    def _model_info(self) -> Any:
        from huggingface_hub import HfApi

        # Not `list_repo_tree`: that one waits for ever on a hub that does not answer.
        return HfApi().model_info(
            self.repo, revision=self.commit, files_metadata=True, timeout=_TIMEOUT_S, token=_token()
        )

    def _cached_sizes(self) -> dict[str, int]:
        """What lies in the hub's cache, for a machine that cannot reach the hub."""
        from huggingface_hub import constants

        folder = Path(constants.HF_HUB_CACHE, f"models--{self.repo.replace('/', '--')}", "snapshots", self.commit)
        files = [path for path in folder.glob("*") if is_plain_name(path.name) and path.is_file()]
        return {path.name: path.stat().st_size for path in files}

    def _read_range(self, name: str, end: int) -> bytes:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import (  # type: ignore[attr-defined]  # loaded lazily, which mypy does not see
            build_hf_headers,
            hf_raise_for_status,
            http_stream_backoff,
        )

        wanted = {"range": f"bytes=0-{end - 1}", "accept-encoding": "identity"}
        data = bytearray()
        with http_stream_backoff(
            "GET",
            hf_hub_url(self.repo, name, revision=self.commit),
            headers=build_hf_headers(token=_token(), headers=wanted),
            timeout=_TIMEOUT_S,
            retry_on_exceptions=(),
            retry_on_status_codes=(),
        ) as response:
            hf_raise_for_status(response)
            for chunk in response.iter_bytes():
                data += chunk
                if len(data) >= end:  # a proxy that knows no ranges sends all of it
                    return bytes(data[:end])
        raise OSError(f"{len(data)} bytes came where {end} were asked for")

    @contextmanager
    def _config_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the hub's library and its HTTP library share no base class
            raise ConfigError(self._explain(error)) from None

    def _explain(self, error: BaseException) -> str:
        """One sentence, in which nothing stands that the library or the hub said."""
        from huggingface_hub import constants, errors

        what = f"The model {self.model}"
        if isinstance(error, ConfigError):
            return str(error)
        if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
            return self._explain(error.__cause__)
        if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
            cache = constants.HF_HUB_CACHE
            return f"{what} is not in {cache}, and HF_HUB_OFFLINE forbids to fetch it; unset that, or fill the cache."
        if isinstance(error, errors.GatedRepoError):
            return f"{what} is gated; ask for access on its page, and set HF_TOKEN to a token of that account."
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"The hub knows no {self.repo}, or keeps it private; check the name, or set HF_TOKEN."
        if isinstance(error, errors.RevisionNotFoundError):
            return f"The hub's {self.repo} has no commit {self.commit}; its page lists them under History."
        if isinstance(error, errors.EntryNotFoundError):
            return f"{what} lacks a file that its listing names; check HF_ENDPOINT."
        if status := _status(error):
            advice = "check HF_TOKEN" if status in (401, 403) else "run again later"
            return f"{what} cannot be had: the hub answered with status {status}; {advice}."
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            return f"{what} cannot be written to {constants.HF_HUB_CACHE} ({error.strerror}); free some space, or set HF_HOME."
        hub = constants.ENDPOINT.rpartition("@")[2]
        return f"{what} cannot be had from {hub} ({type(error).__name__}); check the network, and run again."


def parse_hub_uri(uri: str) -> HubFiles:
    """hf://owner/name@commit. Raises ConfigError for all but a full commit: anything else can come to mean other weights."""
    match = _URI.fullmatch(uri)
    if not match or ".." in uri or "--" in match[1]:
        raise ConfigError(
            f"The model {uri} names no commit; write hf://owner/name@ and the 40 hex digits of one, "
            "which the model's page lists under History."
        )
    return HubFiles(uri, *match.groups())


def _token() -> str | bool:
    """False keeps the library from looking elsewhere."""
    return os.environ.get("HF_TOKEN", "").strip() or False


def _ask(request: Callable[[], T]) -> T:
    from huggingface_hub import constants

    return persist(request, 1 if constants.HF_HUB_OFFLINE else _ATTEMPTS)


def _status(error: BaseException) -> int:
    return int(getattr(getattr(error, "response", None), "status_code", 0))
