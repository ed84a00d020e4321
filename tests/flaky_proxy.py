"""An HTTP proxy in front of a real S3 server that misbehaves on order: what a store does on a bad day.

Faults, each with a number of requests it is still to hit (by method): "refuse" answers 503; "lose" lets the server do the work
and answers 500; "reset" does the work and drops the connection; "truncate" cuts the body. `ignore_conditions` makes the
server one that does not know If-None-Match. `rates` gives each fault a share of all requests instead, drawn with `random`;
of "truncate", a share of the GETs. `denied`, where set, says of a method and a path which code, if any, S3 would refuse it with.
A server that is not there is a connection that breaks off.
"""

from __future__ import annotations

import http.client
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from threading import Lock, Thread
from urllib.parse import urlsplit


class FlakyProxy:
    def __init__(self, target_url: str) -> None:
        self.target = urlsplit(target_url).netloc
        self.pending: Counter[tuple[str, str]] = Counter()
        self.ignore_conditions = False
        self.requests: Counter[str] = Counter()
        self.rates: dict[str, float] = {}
        self.random = Random(0)
        self.denied: Callable[[str, str], str | None] = lambda method, path: None
        self.faults: Counter[str] = Counter()
        self.given: Counter[str] = Counter()  # paths whose content was sent whole, by GET
        self.sent_bytes = 0
        self.url = ""
        self._lock = Lock()

    def next_fault(self, method: str) -> str:
        with self._lock:
            self.requests[method] += 1
            for fault in ("refuse", "lose", "reset", "truncate"):
                if self.pending[fault, method] > 0:
                    self.pending[fault, method] -= 1
                    return fault
            dice = self.random.random()
            for fault, share in self.rates.items():
                dice -= share
                if dice < 0 and (fault != "truncate" or method == "GET"):
                    self.faults[fault] += 1
                    return fault
        return ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or every answer waits 40 ms for an acknowledgement
    proxy: FlakyProxy

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.proxy.next_fault(self.command)
        if fault == "refuse":
            self._answer(503, [], b"<Error><Code>SlowDown</Code><Message>Reduce your rate.</Message></Error>")
            return
        if code := self.proxy.denied(self.command, urlsplit(self.path).path):
            self.proxy.faults["denied"] += 1
            status = 400 if code.startswith("Expired") else 403
            self._answer(status, [], f"<Error><Code>{code}</Code><Message>No.</Message></Error>".encode())
            return
        connection = http.client.HTTPConnection(self.proxy.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        if self.proxy.ignore_conditions:
            headers.pop("If-None-Match", None)
        try:
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException):
            self.proxy.faults["away"] += 1
            self.close_connection = True
            return
        finally:
            connection.close()
        if fault == "reset":
            self.close_connection = True
        elif fault == "lose":
            self._answer(500, [], b"<Error><Code>InternalError</Code><Message>Try again.</Message></Error>")
        else:
            self._answer(response.status, response.getheaders(), data, cut=fault == "truncate")
            if self.command == "GET" and response.status < 300 and not fault:
                self.proxy.given[urlsplit(self.path).path] += 1

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        kept = [(name, value) for name, value in headers if name.lower() not in ("transfer-encoding", "connection")]
        for name, value in kept:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in kept):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
            self.proxy.sent_bytes += len(data)
        self.close_connection = self.close_connection or cut

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def flaky_proxy(target_url: str) -> Iterator[FlakyProxy]:
    proxy = FlakyProxy(target_url)
    serve = {f"do_{method}": _Handler._serve for method in ("GET", "PUT", "HEAD", "POST", "DELETE")}
    handler = type("Handler", (_Handler,), {"proxy": proxy, **serve})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
