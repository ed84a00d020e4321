"""A server that speaks what `huggingface_hub` asks of the hub for a model: its files, and their bytes.

This is our reading of the protocol, from the library's code and pages; the true hub was not reached. Small files come from the
hub itself; large ones are redirected to a second server, as to the hub's storage, which must never see the token. Large files
in Xet storage, another protocol, are not served.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_CANARY"
LARGE_BYTES = 10_000


@dataclass(frozen=True)
class Asked:
    """One request."""

    at: str  # "hub" or "storage"
    method: str
    path: str
    authorized: bool
    bytes_sent: int


@dataclass
class Hub:
    """One model at one commit, and how the hub is to behave."""

    repo: str
    commit: str
    files: dict[str, bytes]
    kind: str = "open"  # "private", "gated"
    says_commit: str = ""  # another one, of a hub that lies
    knows_ranges: bool = True
    faults: Counter[str] = field(default_factory=Counter)  # "refuse" | "truncate" → requests still to hit
    asked: list[Asked] = field(default_factory=list)
    url: str = ""
    storage_url: str = ""

    def count(self, path: str) -> int:
        return sum(path in asked.path for asked in self.asked)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    at: str
    sent = 0

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        self.sent = 0
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if path == "/api/agent-harnesses":  # the library's statistics, which nothing here rests on
            self._answer(404, b"")
        elif self._has_fault("refuse"):
            self._answer(503, b"busy")
        elif self.at == "storage":
            self._send_file(path.rpartition("/")[2])
        elif token and token != TOKEN:
            self._refuse(401, message="Invalid credentials in Authorization header")
        else:
            self._serve_hub(path, bool(token))
        self.hub.asked.append(Asked(self.at, self.command, path, bool(token), self.sent))

    def _serve_hub(self, path: str, authorized: bool) -> None:
        hub = self.hub
        is_listing = path.startswith("/api/models/")
        repo, _, rest = (
            path.removeprefix("/api/models/").lstrip("/").partition("/revision/" if is_listing else "/resolve/")
        )
        revision, _, name = rest.partition("/")
        if repo != hub.repo or (hub.kind == "private" and not authorized):
            self._refuse(404 if authorized else 401, "RepoNotFound")
        elif revision != hub.commit:
            self._refuse(404, "RevisionNotFound")
        elif is_listing:
            self._answer(200, json.dumps(self._listing()).encode(), {"Content-Type": "application/json"})
        elif hub.kind == "gated":
            self._refuse(403 if authorized else 401, "GatedRepo")
        elif name not in hub.files:
            self._refuse(404, "EntryNotFound", headers=self._commit())
        elif len(hub.files[name]) < LARGE_BYTES:
            etag = hashlib.sha1(hub.files[name]).hexdigest()
            self._send_file(name, {**self._commit(), "ETag": f'"{etag}"'})
        else:
            linked = {"X-Linked-Size": str(len(hub.files[name])), "X-Linked-Etag": f'"{_sha256(hub.files[name])}"'}
            self._answer(302, b"", {**self._commit(), **linked, "Location": f"{hub.storage_url}/signed/{name}"})

    def _listing(self) -> dict[str, object]:
        siblings = [{"rfilename": name, "size": len(data)} for name, data in self.hub.files.items()]
        return {"id": self.hub.repo, "sha": self.hub.says_commit or self.hub.commit, "siblings": siblings}

    def _commit(self) -> dict[str, str]:
        return {"X-Repo-Commit": self.hub.says_commit or self.hub.commit}

    def _send_file(self, name: str, headers: dict[str, str] | None = None) -> None:
        data, wanted = self.hub.files[name], self.headers.get("Range")
        if not wanted or not self.hub.knows_ranges:
            self._answer(200, data, headers)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = data[int(first) : int(last) + 1 if last else None]
        place = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        self._answer(206, part, {**(headers or {}), "Content-Range": place})

    def _refuse(self, status: int, code: str = "", message: str = "", headers: dict[str, str] | None = None) -> None:
        told = {"X-Error-Code": code, "X-Error-Message": message or code}
        self._answer(status, b"", {**(headers or {}), **{name: value for name, value in told.items() if value}})

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if len(body) > LARGE_BYTES and self._has_fault("truncate"):
            body, self.close_connection = body[: len(body) // 2], True
        try:
            for start in range(0, len(body), LARGE_BYTES):
                self.wfile.write(body[start : start + LARGE_BYTES])
                self.sent += len(body[start : start + LARGE_BYTES])
        except ConnectionError:  # the client has what it wants
            self.close_connection = True

    def _has_fault(self, fault: str) -> bool:
        if self.hub.faults[fault] <= 0:
            return False
        self.hub.faults[fault] -= 1
        return True

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def serve_hub(repo: str, commit: str, files: dict[str, bytes]) -> Iterator[Hub]:
    hub = Hub(repo, commit, files)
    servers = []
    for at in ("hub", "storage"):
        handler = type("Handler", (_Handler,), {"hub": hub, "at": at})
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
    hub.url, hub.storage_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
