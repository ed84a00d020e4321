"""The cases of the Granite NAR benchmark: every function measures one thing and returns what goes into the raw results."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from granite_nar_batches import Clips, Forced, Work, in_order, packed
from granite_nar_clock import Pass, busy, gpu_trace, hear_all, stage_seconds, wait_for_device

from pipeline.engines.granite_nar.attention import BACKENDS, Backend, choose_backend, missing
from pipeline.engines.granite_nar.config import EditorConfig, EncoderConfig, ModelConfig, ProjectorConfig
from pipeline.engines.granite_nar.device import DeviceLoop
from pipeline.engines.granite_nar.model import DraftLabels, Model
from pipeline.engines.granite_nar.random_checkpoint import random_tensors
from pipeline.engines.granite_nar.weights import Weights, build_weights

Row = dict[str, Any]
SHARES = (0.35, 0.0, 0.5, 0.75, 0.25)  # the ones that matter most first
PASSES = 3
PACKED, TOGETHER, PADDED = "packed by Quarry", "128 as they come, packed", "128 as they come, padded"
_NEVER = float("inf")


@dataclass
class Bench:
    """A random model on a device, and how it is run and measured."""

    config: ModelConfig
    weights: Weights
    device: torch.device
    seconds: float  # of a pass of the main case; the passes of other cases take a third
    backend: Backend
    compiled: bool
    callers: int = 2
    threads: int | None = None
    roofs: dict[str, float] = field(default_factory=dict)  # name → FLOP/s
    _models: dict[tuple[Backend, bool], Model] = field(default_factory=dict)

    @property
    def on_cuda(self) -> bool:
        """Whether the wall clock counts; on a CPU, CPU-seconds do."""
        return self.device.type == "cuda"

    @property
    def model(self) -> Model:
        """The model as it is run by default."""
        return self.variant(self.backend, self.compiled)

    def variant(self, backend: Backend, compiled: bool) -> Model:
        """The model with other kernels and the same weights."""
        if (backend, compiled) not in self._models:
            labels = DraftLabels(self.config.blank_id, 0)
            self._models[backend, compiled] = Model(
                self.weights, self.config, labels, backend=backend, compiled=compiled
            )
        return self._models[backend, compiled]

    def speed(self, one: Pass) -> float:
        """Seconds of audio per second that counts."""
        return one.audio_s / (one.wall_s if self.on_cuda else one.cpu_s)


def model_of_size(size: str) -> ModelConfig:
    """full: as published. medium: a quarter of its widths and layers, for a CPU. small: half of that."""
    if size == "full":
        return ModelConfig()
    by = {"small": 1, "medium": 2}[size]
    return ModelConfig(
        encoder=EncoderConfig(
            layers=2 * by,
            hidden=128 * by,
            heads=2 * by,
            head_dim=64,
            feedforward=512 * by,
            conv_inner=256 * by,
            self_conditioning_layer=by,
            taps=(1, 2) if by == 1 else (1, 2, 3, 4),
        ),
        projector=ProjectorConfig(hidden=256 * by, intermediate=512 * by, heads=4 * by),
        editor=EditorConfig(
            vocabulary=4096,
            hidden=256 * by,
            intermediate=512 * by,
            layers=4 * by,
            heads=4 * by,
            kv_heads=by,
            head_dim=64,
            attention_multiplier=1 / 64,
        ),
        blank_id=4000,
    )


def random_weights(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Weights:
    """Made on the device; every tensor is let go as soon as it is fused."""
    tensors = random_tensors(config, seed=0, dtype=dtype, device=device)
    return build_weights(tensors.pop, config, dtype=dtype, device=device)


@contextmanager
def loop_of(bench: Bench, model: Model, works: Sequence[Work], forced: Forced) -> Any:
    """A device loop with the forced hypothesis."""
    plans = forced.plans(works, bench.config)
    loop = DeviceLoop(model, lambda batch, drafts: plans[batch], threads=bench.threads)
    try:
        yield loop
    finally:
        loop.close()


def measure(
    bench: Bench,
    works: Sequence[Work],
    forced: Forced,
    *,
    model: Model | None = None,
    pass_s: float | None = None,
    callers: int | None = None,
) -> Row:
    """The model clock: warm-up, then three passes."""
    model, limit_s = model or bench.model, pass_s or bench.seconds / 3
    useful = count_flops(bench, forced)
    with loop_of(bench, model, works, forced) as loop:
        warm = hear_all(loop, model, works[:6], useful, at_most_s=limit_s)
        before_bytes = reset_peak(bench)
        passes = [
            hear_all(
                loop,
                model,
                works,
                useful,
                callers=callers or bench.callers,
                at_least_s=limit_s if bench.on_cuda else 0.0,
                at_most_s=limit_s if bench.on_cuda else _NEVER,
            )
            for _ in range(PASSES)
        ]
    peak_bytes = torch.cuda.max_memory_allocated(bench.device) if bench.on_cuda else 0
    batch_s = max(work.audio_s for work in works)
    return {
        "tokens_per_s": forced.tokens_per_s,
        "edited": forced.edited,
        "batch_audio_s": batch_s,
        "clips_per_batch": statistics.mean(len(work.clips.samples) for work in works),
        "warm_up_s": warm.wall_s,
        "passes": [asdict(one) for one in passes],
        "peak_bytes": peak_bytes,
        "bytes_before": before_bytes,
        "peak_bytes_per_audio_s": (peak_bytes - before_bytes) / batch_s,
        **summary(bench, passes),
    }


def count_flops(bench: Bench, forced: Forced) -> Callable[[Work], int]:
    """Useful operations of a batch, counted once for each."""
    known: dict[Work, int] = {}

    def flops(work: Work) -> int:
        if work not in known:
            known[work] = forced.flops(work, bench.config).total
        return known[work]

    return flops


def summary(bench: Bench, passes: Sequence[Pass]) -> Row:
    """Median and spread of the speed; utilisation of each roof."""
    speeds = [bench.speed(one) for one in passes]
    rates = [one.flops / one.audio_s * speed for one, speed in zip(passes, speeds, strict=True)]
    used = {f"utilisation_of_{name}": statistics.median(rates) / roof for name, roof in bench.roofs.items()}
    return {
        "speed": statistics.median(speeds),
        "speed_low": min(speeds),
        "speed_high": max(speeds),
        "gflop_per_audio_s": passes[0].flops / passes[0].audio_s / 1e9,
        "flops_per_s": statistics.median(rates),
        **used,
    }


def reset_peak(bench: Bench) -> int:
    """Begin a new peak of CUDA memory; what is taken now."""
    if not bench.on_cuda:
        return 0
    wait_for_device(bench.device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(bench.device)
    return torch.cuda.memory_allocated(bench.device)


def forms_of(bench: Bench, drawn: Clips, audio_s: float) -> dict[str, list[Work]]:
    """The same clips, packed and padded in every way."""
    model = bench.model
    forms = {
        PACKED: packed(model, drawn, audio_s),
        TOGETHER: in_order(model, drawn, "packed"),
        PADDED: in_order(model, drawn, "padded"),
        "128 as they come, padded but for the editor": in_order(model, drawn, "editor packed"),
    }
    if bench.on_cuda:
        by_length = drawn.of(np.argsort(-drawn.samples, kind="stable"))
        forms["128 of similar length, padded"] = in_order(model, by_length, "padded")
    else:  # small enough for its caches
        forms["32 as they come, padded"] = in_order(model, drawn, "padded", clips=32)
    return forms


def against_padded(bench: Bench, drawn: Clips, audio_s: float, rounds: int, until_s: float) -> Row:
    """Packed and padded batches of the same clips in turns, through the same code. `until_s`: of time.monotonic().

    The first rounds have every form, the others those that matter most.
    """
    full_rounds = 2 if bench.on_cuda else 1
    forced, model, forms = Forced(), bench.model, forms_of(bench, drawn, audio_s)
    useful = count_flops(bench, forced)
    limit_s = bench.seconds if bench.on_cuda else _NEVER
    passes: dict[str, dict[int, Pass]] = {name: {} for name in forms}
    failed: dict[str, str] = {}
    with loop_of(bench, model, [work for works in forms.values() for work in works], forced) as loop:

        def go(name: str, number: int, works: Sequence[Work]) -> None:
            try:
                found = hear_all(loop, model, works, useful, callers=bench.callers, at_most_s=limit_s)
            except Exception as error:  # noqa: BLE001 - too little memory for the longest rows, say
                failed[name] = str(error)
                return
            if number >= 0:
                passes[name][number] = found

        for name, works in forms.items() if bench.on_cuda else ():
            go(name, -1, works[:2])  # to warm up
        for number in range(rounds):
            began_s = time.monotonic()
            for name, works in forms.items():
                if name not in failed and (number < full_rounds or name in (PACKED, TOGETHER, PADDED)):
                    go(name, number, works)
            took_s = time.monotonic() - began_s
            if time.monotonic() + took_s > until_s or PACKED in failed:
                break
    if not passes[PACKED]:
        raise RuntimeError(failed[PACKED])
    return {
        "clips": len(drawn.samples),
        "rounds": len(passes[PACKED]),
        "failed": failed,
        "forms": [_form_row(bench, name, forms[name], passes) for name in forms if passes[name]],
    }


def _form_row(bench: Bench, name: str, works: Sequence[Work], passes: Mapping[str, Mapping[int, Pass]]) -> Row:
    taken = list(passes[name].values())

    def ratios(other: str) -> list[float]:
        """How much faster another form was, in each round that had both."""
        both = passes[other].keys() & passes[name].keys()
        return [bench.speed(passes[other][number]) / bench.speed(passes[name][number]) for number in sorted(both)]

    return {
        "form": name,
        "batches": len(works),
        "computed_per_true": taken[0].computed_s / taken[0].audio_s,
        "ratios": ratios(PACKED),
        "ratios_of_128": ratios(TOGETHER),
        "passes": [asdict(one) for one in taken],
        **summary(bench, taken),
    }


def stages(bench: Bench, works: Sequence[Work]) -> Row:
    """Every stage's seconds per second of audio over some batches, its share, and its useful FLOP/s."""
    forced = Forced()
    plans = forced.plans(works, bench.config)
    taken: defaultdict[str, float] = defaultdict(float)
    flops: defaultdict[str, int] = defaultdict(int)
    stage_seconds(bench.model, bench.weights, works[0], plans[works[0].batch])  # to warm up
    for work in works:
        for name, took_s in stage_seconds(bench.model, bench.weights, work, plans[work.batch]).items():
            taken[name] += took_s
        for name, count in forced.flops(work, bench.config)._asdict().items():
            flops[name] += count
    audio_s, total_s = sum(work.audio_s for work in works), sum(taken.values())
    rows = {
        name: {
            "seconds_per_audio_s": took_s / audio_s,
            "share": took_s / total_s,
            "flops_per_s": flops[name] / max(took_s, 1e-9),
        }
        for name, took_s in taken.items()
    }
    return {"batches": len(works), "speed": audio_s / total_s, "stages": rows}


def gpu_busy(bench: Bench, works: Sequence[Work]) -> Row:
    """Share of the time in which the GPU works, under the production loop, and the kernels that take longest."""
    forced, model = Forced(), bench.model
    useful, events = count_flops(bench, forced), list[Mapping[str, Any]]()
    with loop_of(bench, model, works, forced) as loop:
        hear_all(loop, model, works[:4], useful)
        with gpu_trace(events):
            taken = hear_all(loop, model, works[:12], useful, callers=bench.callers)
    found = busy(events)
    kernels: list[Row] = [{"name": name[:160], "seconds": took_s, "calls": n} for name, took_s, n in found.kernels]
    return {
        "busy": found.share,
        "seconds": found.seconds,
        "speed": bench.speed(taken),
        "batches": taken.batches,
        "kernel_calls_per_batch": sum(row["calls"] for row in kernels) / taken.batches,
        "kernels": kernels[:40],
    }


def measure_budget(bench: Bench, drawn: Clips, audio_s: float) -> Row:
    """The model clock with batches of another size."""
    return measure(bench, packed(bench.model, drawn, audio_s), Forced())


def measure_kernels(bench: Bench, works: Sequence[Work], backend: Backend, compiled: bool) -> Row:
    """The model clock with other kernels, and whether they compute the same."""
    model = bench.variant(backend, compiled)
    return {"same_labels": same_labels(bench, model, works[0]), **measure(bench, works, Forced(), model=model)}


def other_backends(bench: Bench) -> list[Backend]:
    """The attention backends that can run here, but for the default one."""
    return [
        name for name in BACKENDS if name != bench.backend and missing(name, bench.device, bench.model.dtype) is None
    ]


def same_labels(bench: Bench, model: Model, work: Work) -> float:
    """Share of the draft's and the editor's labels that plain kernels and SDPA give too: near 1, or a kernel is wrong.

    In half precision other kernels round otherwise, and of random weights' close calls some turn.
    """
    plan = Forced().plans([work], bench.config)[work.batch]

    def labels(of: Model) -> npt.NDArray[np.int64]:
        with torch.inference_mode():
            begun = of.begin(work.batch, of.upload(work.batch))
            edited = of.edit(begun, plan.clips, plan.drafts)
        return np.concatenate([begun.labels.wait()[0], edited.labels.wait()[0]])

    return float(np.equal(labels(model), labels(bench.variant("sdpa", False))).mean())


def prepare(bench: Bench, works: Sequence[Work], wanted: str) -> Row:
    """Compile, warm up, and settle on kernels that run: the backend asked for, else SDPA; compiled, else not."""
    notes: list[str] = []
    bench.backend = choose_backend(wanted, bench.device, bench.model.dtype)
    ways = dict.fromkeys([(bench.backend, bench.compiled), (bench.backend, False), ("sdpa", False)])
    for backend, compiled in ways:
        bench.backend, bench.compiled = backend, compiled
        began_s = time.perf_counter()
        try:
            with loop_of(bench, bench.model, works, Forced()) as loop:
                hear_all(loop, bench.model, works, count_flops(bench, Forced()))
        except Exception as error:  # noqa: BLE001 - the next way may run
            notes.append(f"{backend}, {'compiled' if compiled else 'eager'}: {error}")
            continue
        took_s = time.perf_counter() - began_s
        return {"backend": backend, "compiled": compiled, "warm_up_s": took_s, "notes": notes, **_compiler()}
    raise RuntimeError("; ".join(notes))


def _compiler() -> Row:
    from torch._dynamo.utils import counters

    return {"dynamo": {name: {str(key): value for key, value in counters[name].items()} for name in list(counters)}}
