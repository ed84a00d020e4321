"""Clocks of the Granite NAR benchmark: the model clock through the production loop, stages one by one, and what the GPU did.

The model clock runs from int16 packed on the host to token ids on the host, through `DeviceLoop` with several callers, as the
engine does it. On a CPU, CPU-seconds of the process count, on a GPU the wall clock.
"""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from granite_nar_batches import Work
from torch import Tensor

from pipeline.engines.granite_nar import draft, projector
from pipeline.engines.granite_nar.device import DeviceLoop, Plan
from pipeline.engines.granite_nar.model import Model
from pipeline.engines.granite_nar.packing import pack_edit
from pipeline.engines.granite_nar.weights import Linear, Weights

GPU_EVENTS = ("kernel", "gpu_memcpy", "gpu_memset")


@dataclass(frozen=True, slots=True)
class Pass:
    """What one go through some batches took."""

    audio_s: float
    computed_s: float
    flops: int  # useful ones
    batches: int
    wall_s: float
    cpu_s: float


def hear_all(
    loop: DeviceLoop,
    model: Model,
    works: Sequence[Work],
    flops: Callable[[Work], int],
    *,
    callers: int = 2,
    at_least_s: float = 0.0,
    at_most_s: float = float("inf"),
) -> Pass:
    """Hear every batch once, and again while less than `at_least_s` has passed; hand out none after `at_most_s`.

    Filling and draining the loop is in the time. Raises what a caller met.
    """
    lock, done, errors = threading.Lock(), list[Work](), list[BaseException]()
    handed_out = 0

    def take() -> Work | None:
        nonlocal handed_out
        passed_s = time.perf_counter() - began_s
        with lock:
            enough = handed_out >= len(works) and passed_s >= at_least_s
            if errors or (handed_out and (enough or passed_s > at_most_s)):
                return None
            handed_out += 1
            return works[(handed_out - 1) % len(works)]

    def call() -> None:
        try:
            while (work := take()) is not None:
                heard = loop.hear(work.batch)
                if heard.edited is not None:
                    model.tokens(heard.edited)
                done.append(work)
        except BaseException as error:  # noqa: BLE001 - it is raised below, in the thread that asked
            errors.append(error)

    threads = [threading.Thread(target=call, daemon=True) for _ in range(callers)]
    wait_for_device(model.device)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    wait_for_device(model.device)
    took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    audio_s, computed_s = sum(work.audio_s for work in done), sum(work.computed_s for work in done)
    return Pass(audio_s, computed_s, sum(map(flops, done)), len(done), took_s, cpu_s)


def wait_for_device(device: torch.device) -> None:
    """Return when all that was queued is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Laps:
    """Time between marks: of the device's own clock on CUDA, CPU-seconds elsewhere."""

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self._device = device
        self._marks: list[tuple[str, Any]] = []

    def mark(self, name: str) -> None:
        """What was queued since the last mark is called `name`."""
        if self._on_cuda:
            event: Any = torch.cuda.Event(enable_timing=True)
            event.record()
        else:
            event = time.process_time()
        self._marks.append((name, event))

    def seconds(self) -> dict[str, float]:
        """Of every name but the first; waits for the device."""
        wait_for_device(self._device)
        laps: dict[str, float] = {}
        for (_, before), (name, after) in zip(self._marks, self._marks[1:], strict=False):
            laps[name] = before.elapsed_time(after) / 1e3 if self._on_cuda else after - before
        return laps


def stage_seconds(model: Model, weights: Weights, work: Work, plan: Plan) -> dict[str, float]:
    """Every stage of one batch, queued behind one another."""
    kernels = model._kernels
    laps, config, packing = Laps(model.device), model.config, work.batch.packing
    edit = pack_edit(packing, plan.clips, plan.drafts, config)
    with torch.inference_mode():
        uploaded = model.upload(work.batch)
        laps.mark("begin")
        x = model.features(uploaded, len(packing.frames)).to(model.dtype)
        laps.mark("features")
        found = model.encode(x, uploaded.places)
        laps.mark("encoder")
        pooled = draft.pool(found.taps[-1], found.blank, uploaded.label)
        draft.read_head(pooled, weights.encoder.draft, best=kernels.best_label)
        laps.mark("draft_head")
        audio: Tensor = projector.project(found.taps, uploaded.window, weights.projector, config.projector)
        audio = audio[uploaded.audio]
        laps.mark("projector")
        h = model.read_slots(audio, edit)
        laps.mark("editor")
        head = Linear(weights.editor.embedding, None)
        draft.read_head(h, head, config.editor.logits_scale, best=kernels.best_label)
        laps.mark("head")
    return laps.seconds()


class Busy(NamedTuple):
    """What a GPU did while it was looked at."""

    share: float  # of the time from its first to its last piece of work
    seconds: float  # that time
    kernels: list[tuple[str, float, int]]  # name, seconds, calls; the longest first


@contextmanager
def gpu_trace(into: list[Mapping[str, Any]]) -> Any:
    """Append the GPU's events while the block runs."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        yield
        torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        into.extend(json.loads(path.read_text("utf-8"))["traceEvents"])


def busy(events: Iterable[Mapping[str, Any]], categories: Sequence[str] = GPU_EVENTS) -> Busy:
    """Union of the events' intervals, and the sum of each name's. Events as Chrome traces have them, in µs.

    Raises ValueError where there are none of these categories.
    """
    spans: list[tuple[float, float]] = []
    by_name: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") in categories and "dur" in event:
            begin, took = float(event["ts"]), float(event["dur"])
            spans.append((begin, begin + took))
            by_name[str(event["name"])].append(took)
    if not spans:
        raise ValueError(f"the profiler saw no {' or '.join(categories)}")
    spans.sort()
    first, reached, busy_us = spans[0][0], spans[0][0], 0.0
    for begin, end in spans:
        busy_us += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    kernels = sorted(((name, sum(took) / 1e6, len(took)) for name, took in by_name.items()), key=lambda row: -row[1])
    return Busy(busy_us / max(reached - first, 1e-9), (reached - first) / 1e6, kernels)
