"""S3 through s3fs: the client's settings, and listings in pages.

The client tries once and leaves retries to `patience.persist`: hidden retries would multiply with ours, and would turn the
answer to our own unclear put into "taken" unseen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from pipeline.store.patience import persist
from pipeline.store.remote_folder import Page, RemoteFolder

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0


def s3_options(options: Mapping[str, Any], timeout_s: float | None = None) -> dict[str, Any]:
    """The user's s3fs options beside our time limits (`timeout_s`: for everything); what the user sets wins."""
    limits = {
        "connect_timeout": timeout_s or CONNECT_TIMEOUT_S,
        "read_timeout": timeout_s or READ_TIMEOUT_S,
        "retries": {"total_max_attempts": 1},
    }
    return {**options, "config_kwargs": {**limits, **options.get("config_kwargs", {})}}


class S3Folder(RemoteFolder):
    """Objects below `bucket/prefix`."""

    def __init__(self, filesystem: Any, root: str, conditional_put: bool) -> None:
        filesystem.retries = 1  # s3fs's own loop round the client
        super().__init__(filesystem, root, conditional_put)

    def check_reachable(self) -> None:
        """Ask for one key below the root: tells a missing bucket and bad credentials apart, and needs no rights elsewhere."""
        self._page(self._root, MaxKeys=1)

    def _pages(self, folder: str, deep: bool) -> Iterator[Page]:
        """Pages of 1000 keys: s3fs's own `find` keeps every entry of the listing in memory."""
        bucket = folder.partition("/")[0]
        depth = {} if deep else {"Delimiter": "/"}
        following: dict[str, str] = {}
        while True:
            page = persist(lambda token=following: self._page(folder, **depth, **token))  # type: ignore[misc]
            yield [
                (f"{bucket}/{it['Key']}", int(it["Size"]), it["ETag"].strip('"'), it["LastModified"].timestamp())
                for it in page.get("Contents", [])
            ]
            if not page.get("IsTruncated"):
                return
            following = {"ContinuationToken": page["NextContinuationToken"]}

    def clock_s(self) -> float:
        """The date that the server puts on its answers; this machine's clock where it puts none."""
        page: dict[str, Any] = persist(lambda: self._page(self._root, MaxKeys=1))
        date = page.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        return parsedate_to_datetime(date).timestamp() if date else time.time()

    def _page(self, folder: str, **arguments: Any) -> dict[str, Any]:
        bucket, _, prefix = folder.partition("/")
        inside = f"{prefix}/" if prefix else ""
        page: dict[str, Any] = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=inside, **arguments)
        return page
