"""The metrics: names and labels as they are declared, few values per label, and a real Ray's endpoint that has them all."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from events_read import events_in, named

from pipeline.config import BatchConfig, EngineConfig
from pipeline.config.file import load_config
from pipeline.engines.fake import Fake
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.metrics.measures import (
    BATCH_FILL,
    MEASURES,
    OOM_BACKOFFS,
    PADDING,
    PREFIX,
    STAGES,
    Measure,
    code_label,
    language_label,
)
from pipeline.prepare import prepare
from pipeline.records import ChunkAudio
from pipeline.run import execute
from pipeline.runtime.events import EventLog

LABELS = {"lang", "stage", "code", "status", "outcome"}
ASKED_FOR = {
    "audio_seconds_total": ("lang", "stage"),
    "rows_failed_total": ("code",),
    "batch_fill_ratio": (),
    "padding_ratio": (),
    "engine_busy_ratio": (),
    "queue_depth": ("stage",),
    "decode_seconds": (),
    "oom_backoffs_total": (),
}


def test_names_and_labels_are_what_dashboards_rely_on() -> None:
    found = {measure.name: measure for measure in MEASURES}
    assert len(found) == len(MEASURES)
    assert {name: found[PREFIX + name].labels for name in ASKED_FOR} == ASKED_FOR
    for measure in MEASURES:
        assert re.fullmatch(r"quarry_[a-z_]+", measure.name)
        assert set(measure.labels) <= LABELS
        assert measure.meaning
        assert (measure.kind == "counter") == measure.name.endswith("_total")
        assert (measure.kind == "histogram") == bool(measure.bounds)
        assert list(measure.bounds) == sorted(set(measure.bounds))


@pytest.mark.parametrize(
    ("tag", "label"),
    [("en", "en"), ("pt-BR", "pt"), ("EN_us", "en"), (None, "unknown"), ("", "unknown"), ('x"} evil{', "other")],
)
def test_a_language_of_the_manifest_cannot_make_up_labels(tag: str | None, label: str) -> None:
    assert language_label(tag) == label


def test_labels_have_few_values_whatever_comes() -> None:
    tags = [f"{a}{b}{c}" for a in "abcdefghij" for b in "abcdefghij" for c in ["", *"abcdefghij"]]
    assert len({language_label(tag) for tag in tags}) < 150
    assert {code_label(code) for code in ("not_audio", "poison", "made_up", "/home/x.wav")} == {
        "not_audio",
        "poison",
        "other",
    }


def test_the_page_has_every_metric_as_it_is() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "monitoring.md").read_text("utf-8")
    for measure in MEASURES:
        labels = ", ".join(f"`{label}`" for label in measure.labels)
        assert f"| `ray_{measure.name}` | {measure.kind} | {labels} | {measure.meaning} |" in page
    assert page.count("| `ray_quarry_") == len(MEASURES)


class Heard:
    """A recorder that remembers."""

    def __init__(self) -> None:
        self.values: dict[str, list[float]] = {}

    def record(self, measure: Measure, value: float = 1.0, **labels: str) -> None:
        assert set(labels) == set(measure.labels)
        self.values.setdefault(measure.name, []).append(value)


def test_batches_tell_how_full_they_were_and_what_did_not_fit() -> None:
    chunks = [ChunkAudio(np.full(seconds * 16_000, 9_000, np.int16)) for seconds in (8, 8, 4, 4)]
    engine = Fake(EngineConfig(name="fake", options={"oom_above_s": 20}))
    heard = Heard()
    _, stats = run_batches(engine, chunks, BatchConfig(max_audio_s=32), MemoryBudget(heard))
    assert sum(heard.values[OOM_BACKOFFS.name]) == stats.backoffs == 1
    assert heard.values[BATCH_FILL.name][0] == pytest.approx(1.0)
    assert heard.values[PADDING.name][0] == pytest.approx(1 - 24 / 32)
    assert len(heard.values[PADDING.name]) == stats.batches


@pytest.fixture
def ray_with_metrics() -> Iterator[str]:
    """A Ray of its own that reports every second; the address of its node's metrics."""
    import ray

    if ray.is_initialized():
        pytest.skip("another test's Ray is running in this process, and reports too rarely")
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"metrics_report_interval_ms": 1000},
    )
    port = ray.nodes()[0]["MetricsExportPort"]
    yield f"http://127.0.0.1:{port}/metrics"
    ray.shutdown()


@pytest.mark.slow
def test_the_endpoint_of_a_real_ray_has_what_the_events_say(ray_with_metrics: str, tmp_path: Path) -> None:
    parser = pytest.importorskip("prometheus_client.parser", reason="the extra `cluster` is not installed")
    file = tmp_path / "events.jsonl"
    log = EventLog(str(file), "run-0")
    config = load_config(None, small_archive(tmp_path))
    outcome = execute(prepare(config), events=log)
    assert outcome.exit_code == 1
    done = named(events_in(file), "shard_done")
    want_s = sum(event["audio_s"] for event in done)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:  # every process reports at its own time
        samples = scraped(parser, ray_with_metrics)
        came_s = added(samples, "ray_quarry_audio_seconds_total", stage="store")
        if came_s >= want_s - 1e-6 and added(samples, "ray_quarry_shards_total") >= len(done):
            break
        time.sleep(1)
    families = {name for name, _, _ in samples}
    for measure in MEASURES:
        if measure.name not in ("quarry_workers_replaced_total",):  # nobody died
            suffix = "_count" if measure.kind == "histogram" else ""
            assert f"ray_{measure.name}{suffix}" in families, measure.name
    assert added(samples, "ray_quarry_audio_seconds_total", stage="store") == pytest.approx(want_s)
    assert added(samples, "ray_quarry_shards_total", outcome="won") == len(done)
    codes = Counter[str]()
    for event in done:
        codes.update(event["failure_codes"])
    assert {code: added(samples, "ray_quarry_rows_failed_total", code=code) for code in codes} == dict(codes)
    assert added(samples, "ray_quarry_oom_backoffs_total") == pytest.approx(sum(event["backoffs"] for event in done))
    for stage in STAGES:
        want = sum(event[f"{stage}_s"] for event in done)
        assert added(samples, "ray_quarry_stage_busy_seconds_total", stage=stage) == pytest.approx(want)
    values = {(key, value) for _, labels, _ in samples for key, value in labels.items() if key in LABELS}
    assert not [value for _, value in values if "/" in value or ".wav" in value or "-" in value]


def scraped(parser: object, address: str) -> list[tuple[str, dict[str, str], float]]:
    """Our samples, as Prometheus would read them."""
    text = urllib.request.urlopen(address, timeout=10).read().decode()
    families = parser.text_string_to_metric_families(text)  # type: ignore[attr-defined]
    return [
        (sample.name, sample.labels, sample.value)
        for family in families
        for sample in family.samples
        if sample.name.startswith("ray_quarry_")
    ]


def added(samples: list[tuple[str, dict[str, str], float]], name: str, **labels: str) -> float:
    """The sum over workers."""
    return sum(value for found, have, value in samples if found == name and labels.items() <= have.items())


def small_archive(folder: Path) -> list[str]:
    """Settings for a dozen short recordings, one of them broken; a batch does not fit in the engine's memory."""
    noise = np.random.default_rng(0)
    rows = []
    for number in range(12):
        samples = noise.integers(-8_000, 8_000, 16_000 * (2 + number % 3)).astype(np.int16)
        soundfile.write(folder / f"{number}.wav", samples, 16_000)
        rows.append({"id": f"r{number}", "audio_filepath": f"{number}.wav", "duration": 2 + number % 3, "lang": "en"})
    (folder / "5.wav").write_bytes(b"no audio at all")
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "manifest": folder / "manifest.jsonl",
        "output": folder / "out",
        "engine.name": "fake",
        "engine.model": "fake",
        "engine.options": "{oom_above_s: 7, seconds_per_audio_s: 0.01}",
        "chunk.vad": "none",
        "plan.shard_s": 12,
        "runtime.kind": "ray",
        "runtime.engine_cpus": 0.2,
    }
    return [f"{key}={value}" for key, value in settings.items()]
