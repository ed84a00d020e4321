"""A run on a small Ray cluster and a real S3 server while drivers, workers and nodes are killed and requests fail, by a seed.

`python tests/chaos/storm.py --seeds 10 --kills 12` prints a table with a line per seed and ends with 1 if anything was lost,
doubled or unreadable. Only processes that it started itself are killed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "tests")]

import numpy as np  # noqa: E402
import psutil  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import soundfile  # noqa: E402
from flaky_proxy import FlakyProxy, flaky_proxy  # noqa: E402
from servers import S3Endpoint, connect, start_seaweed  # noqa: E402

RATES = {"refuse": 0.10, "lose": 0.05, "reset": 0.02}
CLIPS_PER_SHARD = 2
SPEED = {"seconds_per_audio_s": 0.15}
# Seconds until Ray and its pools stand (a kill before would hit nothing), and then between kills, on average.
PACE = {"ray": (12.0, 6.0), "local": (2.5, 1.0)}
GIVE_UP_S = 900.0


@dataclass
class Storm:
    """One seed: what is run, what befell it, what came of it."""

    seed: int
    shards: int
    kills: int
    drivers: int = 0
    workers: int = 0
    nodes: int = 0
    starts: int = 0
    wall_s: float = 0.0
    lost: int = 0
    doubled: int = 0
    unreadable: int = 0
    wrong: int = 0
    recomputed: float = 0.0  # audio fetched again, as a share of the archive's
    heard_again: float = 0.0  # audio that went into an engine again, as a share of the archive's
    faults: dict[str, int] = field(default_factory=dict)

    @property
    def killed(self) -> int:
        """Processes and nodes ended by force."""
        return self.drivers + self.workers + self.nodes

    @property
    def clean(self) -> bool:
        """Whether every row is there once, readable and right."""
        return not (self.lost or self.doubled or self.unreadable or self.wrong)


def put_archive(filesystem: Any, bucket: str, clips: int) -> dict[str, str]:
    """Clips of a second, each its own noise, and their manifest; the text that the fake engine hears in each.

    Every other one needs a decoder.
    """
    from pipeline.config import EngineConfig
    from pipeline.engines.base import create_engine
    from pipeline.records import ChunkAudio

    engine, random = create_engine(EngineConfig(name="fake", language="en")), np.random.default_rng(1)
    rows, texts = [], {}
    filesystem.mkdirs(bucket, exist_ok=True)
    for number in range(clips):
        samples = random.integers(-9_000, 9_000, 16_000).astype(np.int16)
        data, name = BytesIO(), f"{number:05d}.{('flac', 'wav')[number % 2]}"
        soundfile.write(data, samples, 16_000, format=name[-4:].strip("."))
        filesystem.pipe_file(f"{bucket}/archive/{name}", data.getvalue())
        rows.append({"id": f"{number:05d}", "audio_filepath": name, "duration": 1.0})
        texts[f"{number:05d}"] = engine.transcribe([ChunkAudio(samples)])[0].text
    manifest = "".join(json.dumps(row) + "\n" for row in rows)
    filesystem.pipe_file(f"{bucket}/archive/manifest.jsonl", manifest.encode())
    return texts


@contextmanager
def cluster() -> Iterator[Any]:
    """A head and two nodes on this machine; deaths are noticed within seconds."""
    from ray.cluster_utils import Cluster

    beats = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 1,
            "include_dashboard": False,
            "_system_config": beats,
            "object_store_memory": 100 * 2**20,
        },
    )
    try:
        for _ in range(2):
            add_node(made)
        yield made
    finally:
        made.shutdown()


def add_node(made: Any) -> None:
    """A node with room for a decoder and an engine. On a busy machine Ray may not see it start in time: then another."""
    for last in (False, False, True):
        try:
            made.add_node(num_cpus=2, object_store_memory=100 * 2**20)
            return
        except Exception:  # Ray raises nothing narrower
            if last:
                raise


def settings(endpoint_url: str, key: str, secret: str, output: str, **extra: Any) -> list[str]:
    """A run that lasts long enough to be hit: the fake engine takes its time."""
    options = json.dumps({"endpoint_url": endpoint_url, "key": key, "secret": secret})
    found = {
        "manifest": "s3://chaos/archive/manifest.jsonl",
        "output": output,
        "source.storage_options": options,
        "store.storage_options": options,
        "engine.name": "fake",
        "engine.model": "fake",
        "engine.language": "en",
        "engine.options": json.dumps(SPEED),
        "chunk.vad": "none",
        "plan.shard_s": float(CLIPS_PER_SHARD),
        "runtime.engine_workers": 2,
        "runtime.decode_workers": 2,
        "runtime.engine_cpus": 0.4,
        **extra,
    }
    return [f"{name}={value}" for name, value in found.items()]


def start_driver(arguments: list[str], log: Path) -> subprocess.Popen[bytes]:
    """`quarry run` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(REPO), "RAY_AUTH_MODE": "disabled"}
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", "run", *arguments], cwd=REPO, env=environment, stdout=out, stderr=out
        )


def workers_of(made: Any) -> list[psutil.Process]:
    """Ray's worker processes below our own raylets that hold a pool's actor."""
    found = []
    for node in (made.head_node, *made.worker_nodes):
        for info in node.all_processes.get("raylet", []):
            try:
                children = psutil.Process(info.process.pid).children(recursive=True)
                found += [child for child in children if child.cmdline()[:1] and "Map" in child.cmdline()[0]]
            except psutil.NoSuchProcess:
                continue
    return found


def strike(storm: Storm, random: Random, driver: subprocess.Popen[bytes], made: Any | None) -> None:
    """End a driver, a worker or a node."""
    kind = random.choices(["driver", "worker", "node"], [0.2, 0.55, 0.25])[0] if made else "driver"
    if kind == "worker":
        victims = workers_of(made)
        if victims:
            victims[random.randrange(len(victims))].kill()
            storm.workers += 1
    elif kind == "node" and made is not None:
        made.remove_node(random.choice(list(made.worker_nodes)), allow_graceful=False)
        storm.nodes += 1
        add_node(made)
    elif kind == "driver":
        driver.send_signal(signal.SIGKILL)
        storm.drivers += 1


def weather(storm: Storm, arguments: list[str], log: Path, made: Any | None) -> int:
    """Run, kill, run again, until the run is complete; the last exit code."""
    random = Random(storm.seed)
    start_s, pause_s = PACE["ray" if made else "local"]
    begun = time.monotonic()
    while time.monotonic() - begun < GIVE_UP_S:
        driver = start_driver(arguments, log)
        storm.starts += 1
        next_strike = time.monotonic() + start_s + random.expovariate(1 / pause_s)
        while driver.poll() is None and time.monotonic() - begun < GIVE_UP_S:
            if storm.killed < storm.kills and time.monotonic() > next_strike:
                strike(storm, random, driver, made)
                next_strike = time.monotonic() + random.expovariate(1 / pause_s)
            time.sleep(0.05)
        if driver.poll() is None:
            driver.kill()
        if driver.wait() in (0, 1, 2):
            break
    storm.wall_s = time.monotonic() - begun
    return int(driver.returncode)


def judge(storm: Storm, filesystem: Any, output: str, texts: dict[str, str], proxy: FlakyProxy) -> None:
    """Compare the tables of the last snapshot with what was to be heard, read every part, and count what was done twice."""
    storm.faults = dict(proxy.faults)
    snapshots = sorted(path for path in filesystem.find(output) if "/snapshots/" in path)
    folder = snapshots[-1].rpartition("/snapshots/")[0] if snapshots else output
    files = json.loads(filesystem.cat_file(snapshots[-1]))["files"]["transcripts"] if snapshots else []
    rows = [row for file in files for row in read(filesystem, f"{folder}/{file['key']}")]
    ids = [row["id"] for row in rows]
    storm.lost = len(texts.keys() - set(ids))
    storm.doubled = len(ids) - len(set(ids))
    storm.wrong = sum(row["text"] != texts.get(row["id"]) or row["status"] != "ok" for row in rows)
    for path in filesystem.find(f"{folder}/parts"):
        try:
            read(filesystem, path)
        except Exception as error:  # noqa: BLE001 - whatever it is, a reader could not read it
            print(f"{path}: {error}", file=sys.stderr)
            storm.unreadable += 1
    audio = {path: count for path, count in proxy.given.items() if path.endswith((".wav", ".flac"))}
    storm.recomputed = sum(audio.values()) / max(1, len(texts)) - 1


def heard_again(diary: Path, clips: int) -> float:
    """Seconds of audio that engines took in beyond the archive's (clips of a second), dead engines included."""
    from pipeline.engines.fake import ChunkNote

    return sum(note.audio_s for note in ChunkNote.read(diary)) / clips - 1


def read(filesystem: Any, path: str) -> list[dict[str, Any]]:
    """A Parquet object's rows."""
    rows: list[dict[str, Any]] = pq.ParquetFile(BytesIO(filesystem.cat_file(path))).read().to_pylist()
    return rows


def run_seed(storm: Storm, endpoint: S3Endpoint, texts: dict[str, str], folder: Path, on_ray: bool = True) -> Storm:
    """One storm from its first driver to its judgement."""
    output = f"chaos/out-{storm.seed}"
    with flaky_proxy(endpoint.endpoint_url) as proxy:
        proxy.rates, proxy.random = RATES, Random(storm.seed)
        log, diary = folder / f"{storm.seed}.log", folder / f"{storm.seed}.diary"
        extra: dict[str, Any] = {"engine.options": json.dumps(SPEED | {"diary": str(diary)})}
        if on_ray:
            with cluster() as made:
                extra |= {"runtime.kind": "ray", "runtime.address": made.address}
                weather(storm, settings(proxy.url, *endpoint[1:], f"s3://{output}", **extra), log, made)
        else:
            extra["runtime.kind"] = "local"
            weather(storm, settings(proxy.url, *endpoint[1:], f"s3://{output}", **extra), log, None)
        storm.heard_again = heard_again(diary, len(texts))
        judge(storm, connect(endpoint), output, texts, proxy)
    return storm


def main() -> None:
    """Weather some storms and print what they did."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--shards", type=int, default=480)
    parser.add_argument("--kills", type=int, default=12, help="per seed")
    parser.add_argument(
        "--weather", nargs="+", choices=("refuse", "outage", "truncate"), help="instead: no kills, one process"
    )
    parser.add_argument("--share", type=float, help="of all requests, for refuse and truncate")
    args = parser.parse_args()
    if args.weather:
        sys.exit(not in_weather(args.weather, args.shards, args.share))
    os.environ["RAY_AUTH_MODE"] = "disabled"
    columns = ["seed", "drivers", "workers", "nodes", "faults", "starts", "lost", "doubled", "unreadable", "wrong"]
    print(f"| {' | '.join([*columns, 'fetched again', 'heard again', 'wall'])} |")
    print(f"|{'---|' * 13}", flush=True)
    storms = []
    with tempfile.TemporaryDirectory() as name, start_seaweed(Path(name)) as endpoint:
        texts = put_archive(connect(endpoint), "chaos", args.shards * CLIPS_PER_SHARD)
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            storms.append(run_seed(Storm(seed, args.shards, args.kills), endpoint, texts, Path(name)))
            print(line(storms[-1]), flush=True)
            if not storms[-1].clean:
                print((Path(name) / f"{seed}.log").read_text(errors="replace")[-3000:], file=sys.stderr)
    kills = sum(storm.killed for storm in storms)
    print(
        f"\n{kills} kills over {len(storms)} seeds; every row there once and right: {all(storm.clean for storm in storms)}"
    )
    sys.exit(not all(storm.clean for storm in storms))


def in_weather(kinds: list[str], shards: int, share: float | None) -> bool:
    """Runs in the weathers named; whether all went well."""
    from weather import Weather, table

    with tempfile.TemporaryDirectory() as name:
        return table([Weather(kind, shards, share) for kind in kinds], Path(name))


def line(storm: Storm) -> str:
    """A row of the table."""
    faults = "+".join(str(storm.faults.get(name, 0)) for name in RATES)
    counts = (storm.lost, storm.doubled, storm.unreadable, storm.wrong)
    cells = (storm.seed, storm.drivers, storm.workers, storm.nodes, faults, storm.starts, *counts)
    return (
        f"| {' | '.join(map(str, cells))} | {storm.recomputed:.1%} | {storm.heard_again:.1%} | {storm.wall_s:.0f} s |"
    )


if __name__ == "__main__":
    main()
