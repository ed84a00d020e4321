"""Undisturbed drivers in bad weather: a store that refuses half of all requests, is away for a while, or cuts off what it sends.

`python tests/chaos/storm.py --weather refuse` (outage, truncate) prints a line for a run in one process, and ends with 1 if a
row was lost, doubled, unreadable, wrong or failed, or if the run did not end with 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from flaky_proxy import FlakyProxy, flaky_proxy
from servers import Seaweed, connect, free_ports
from storm import CLIPS_PER_SHARD, Storm, judge, put_archive, settings, start_driver

RATES = {"refuse": {"refuse": 0.5}, "truncate": {"truncate": 0.01}, "outage": {}}
HEADER = "| weather | requests | faults | starts | exit | lost | doubled | unreadable | wrong | done again | wall |"
_GIVE_UP_S = 3_600.0


@dataclass
class Weather:
    """One run, what befell it, what came of it."""

    kind: str
    shards: int
    share: float | None = None  # of all requests; None: as RATES say
    outage_s: float = 30.0
    seed: int = 1
    requests: int = 0
    exits: list[int] = field(default_factory=list)
    storm: Storm | None = None

    @property
    def rates(self) -> dict[str, float]:
        """The share of requests that each fault hits."""
        rates = RATES[self.kind]
        return rates if self.share is None else dict.fromkeys(rates, self.share)

    @property
    def clean(self) -> bool:
        """Whether the run ended well, with every row there once and right."""
        return self.storm is not None and self.storm.clean and self.exits[-1] == 0

    def line(self) -> str:
        """A row of the table."""
        storm = self.storm or Storm(self.seed, self.shards, 0)
        share = "".join(f" {rate:.0%}" for rate in self.rates.values())
        name = f"{self.kind}{share}" if share else f"{self.kind} {self.outage_s:.0f} s"
        counts = (storm.lost, storm.doubled, storm.unreadable, storm.wrong)
        exits = " then ".join(map(str, self.exits))
        cells = (name, self.requests, sum(storm.faults.values()), len(self.exits), exits, *counts)
        return f"| {' | '.join(map(str, cells))} | {storm.recomputed:.1%} | {storm.wall_s:.0f} s |"


def weather(wanted: Weather, folder: Path) -> Weather:
    """The run from its first driver to its judgement, on a server of its own: outages are not for others."""
    server = Seaweed(folder, free_ports(8))
    server.start()
    try:
        texts = put_archive(connect(server.endpoint), "chaos", wanted.shards * CLIPS_PER_SHARD)
        with flaky_proxy(server.endpoint.endpoint_url) as proxy:
            proxy.rates, proxy.random = wanted.rates, Random(wanted.seed)
            _run(wanted, server, proxy, texts, folder)
    finally:
        server.kill()
    return wanted


def _run(wanted: Weather, server: Seaweed, proxy: FlakyProxy, texts: dict[str, str], folder: Path) -> None:
    output = f"chaos/{wanted.kind}"
    local = {"runtime.kind": "local", "engine.options": "{seconds_per_audio_s: 0.02}"}
    arguments = settings(proxy.url, *server.endpoint[1:], f"s3://{output}", **local)
    storm = wanted.storm = Storm(wanted.seed, wanted.shards, 0)
    began = time.monotonic()
    while not wanted.exits or (wanted.exits[-1] == 3 and time.monotonic() - began < _GIVE_UP_S):
        driver = start_driver(arguments, folder / f"{wanted.kind}.log")
        if wanted.kind == "outage" and not wanted.exits:
            _wait(lambda: _parts_put(proxy) >= wanted.shards // 4)
            server.kill()
            time.sleep(wanted.outage_s)
            server.start()
        wanted.exits.append(driver.wait())
    storm.wall_s = time.monotonic() - began
    wanted.requests = sum(proxy.requests.values())
    judge(storm, connect(server.endpoint), output, texts, proxy)


def _parts_put(proxy: FlakyProxy) -> int:
    return proxy.requests["PUT"] - 5  # the test of the store and the plan come before


def _wait(until: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not until() and time.monotonic() < deadline:
        time.sleep(0.05)


def table(kinds: list[Weather], folder: Path) -> bool:
    """Print a line for each; whether all went well."""
    print(HEADER, "|" + "---|" * 11, sep="\n", flush=True)
    for number, wanted in enumerate(kinds):
        place = folder / str(number)
        place.mkdir()
        print(weather(wanted, place).line(), flush=True)
        if not wanted.clean:
            print((place / f"{wanted.kind}.log").read_text(errors="replace")[-3000:])
    return all(wanted.clean for wanted in kinds)
