"""S3 through s3fs: the client's settings, and listings in pages.

The client tries once and leaves retries to `patience.persist`: hidden retries would multiply with ours, and would turn the
answer to our own unclear put into "taken" unseen.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from pipeline.store.patience import persist, says_taken
from pipeline.store.remote_folder import Page, RemoteFolder

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0

_PART_BYTES = 32 * 2**20  # of a large file; S3 takes 10,000 parts


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

    def put_if_absent(self, key: str, data: bytes | Path) -> bool:
        """Bytes in one request; a large file in parts, of which each is tried again by itself."""
        if not isinstance(data, Path) or data.stat().st_size <= _PART_BYTES:
            return super().put_if_absent(key, data)
        if not self._conditional_put and self.exists(key):
            return False
        bucket, _, name = self._path(key).partition("/")
        place = {"Bucket": bucket, "Key": name}
        place["UploadId"] = persist(lambda: self._fs.call_s3("create_multipart_upload", **place))["UploadId"]
        try:
            return self._complete(key, place, self._upload(place, data), data)
        except BaseException:
            with suppress(Exception):  # what is left of it nobody sees; a bucket's rules sweep it away
                self._fs.call_s3("abort_multipart_upload", **place)
            raise

    def _upload(self, place: dict[str, str], path: Path) -> list[dict[str, Any]]:
        """The file's parts, one after the other; what S3 calls each."""
        parts: list[dict[str, Any]] = []
        with path.open("rb") as file:
            while part := file.read(_PART_BYTES):
                request = {**place, "PartNumber": len(parts) + 1, "Body": part}
                answer = persist(lambda request=request: self._fs.call_s3("upload_part", **request))  # type: ignore[misc]
                parts.append({"PartNumber": request["PartNumber"], "ETag": answer["ETag"]})
        return parts

    def _complete(self, key: str, place: dict[str, str], parts: list[dict[str, Any]], path: Path) -> bool:
        """The one step that makes the object. Raises what S3 says; False: the key was taken by other bytes."""
        condition = {"IfNoneMatch": "*"} if self._conditional_put else {}
        attempts = 0

        def complete() -> bool:
            nonlocal attempts
            attempts += 1
            try:
                self._fs.call_s3("complete_multipart_upload", **place, MultipartUpload={"Parts": parts}, **condition)
            except Exception as error:  # no common base class; all but two meanings go on
                unclear = attempts > 1
                if not says_taken(error) and not (unclear and isinstance(error, FileNotFoundError)):
                    raise  # after an unclear attempt an upload that is gone was completed by it
                return unclear and self._holds(key, path)
            return True

        return persist(complete)

    def _holds(self, key: str, path: Path) -> bool:
        """Whether the object has the file's bytes."""
        with path.open("rb") as ours, self.open_file(key) as theirs:
            while part := ours.read(_PART_BYTES):
                if theirs.read(len(part)) != part:
                    return False
            return not theirs.read(1)

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
