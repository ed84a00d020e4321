"""The speed of the Granite Speech NAR engine on this machine, read against what the machine can do.

    python benchmarks/granite_nar.py

From a checkout, with torch, numpy, safetensors and tokenizers alone; nothing is downloaded. On a GPU the published size with
random weights, in bfloat16; on a CPU a small model, in float32. Tables are printed last; the raw figures are written after every
part, to --out or beside you. A part that fails prints why, and the rest still runs.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read when torch is imported: CPU-seconds must not count threads that spin

import torch
from granite_nar_batches import Forced, Work, draw_clips, packed
from granite_nar_cases import (
    SHARES,
    Bench,
    against_padded,
    gpu_busy,
    measure,
    measure_budget,
    measure_kernels,
    model_of_size,
    other_backends,
    prepare,
    random_weights,
    stages,
)
from granite_nar_flops import products
from granite_nar_roofs import copy_bandwidth, describe, keep_freed_memory, model_products, square_product
from granite_nar_tables import headline, tables

from pipeline.engines.granite_nar.attention import Backend

BUDGETS_S = (240.0, 960.0, 1500.0)  # beside the default


class Report:
    """Runs the parts, keeps what they found, and writes it after each."""

    def __init__(self, out: Path, total_s: float, only: set[str]) -> None:
        self.results: dict[str, Any] = {"skipped": {}, "failed": {}, "took_s": {}}
        self._out = out
        self._only = only
        self._until_s = time.monotonic() + total_s

    @property
    def left_s(self) -> float:
        """Seconds until no more is begun."""
        return self._until_s - time.monotonic()

    def part(self, name: str, run: Callable[[], Any], needs_s: float = 0.0) -> Any:
        """Run a part and keep its result; None where it was skipped or failed."""
        if self._only and name.partition(":")[0] not in {*self._only, "prepare"}:
            return None
        if self.left_s < needs_s:
            self.results["skipped"][name] = f"{self.left_s:.0f} s are left, and it may need {needs_s:.0f}"
            print(f"[{name}] skipped: {self.results['skipped'][name]}", flush=True)
            return None
        began_s, found = time.monotonic(), None
        try:
            found = self.results[name] = run()
        except Exception as error:  # noqa: BLE001 - the other parts still run
            self.results["failed"][name] = f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"
            traceback.print_exc(limit=-8, file=sys.stdout)
        took_s = self.results["took_s"][name] = time.monotonic() - began_s
        told = headline(found) if found is not None else f"FAILED {self.results['failed'][name]}"
        print(f"[{name}] {took_s:.1f} s: {told}", flush=True)
        self.write()
        return found

    def write(self) -> None:
        """Write the raw results. A disk that refuses must not cost the figures."""
        try:
            self._out.parent.mkdir(parents=True, exist_ok=True)
            self._out.write_text(json.dumps(self.results, indent=1, default=str) + "\n", "utf-8")
        except OSError as error:
            print(f"{self._out} cannot be written ({error})", flush=True)


def main() -> None:
    """Measure what the arguments ask for and print the tables."""
    args = arguments()
    device = torch.device(args.device)
    on_cuda = device.type == "cuda"
    dtype = getattr(torch, args.dtype) if args.dtype else best_type(device)
    out = args.out or Path(f"granite_nar_{device.type}.json")
    report = Report(out, args.total_seconds or (400 if on_cuda else 150), set(args.parts))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Stopped by SIGTERM; what was measured so far is above."))
    report.results["command"] = " ".join(["python", "benchmarks/granite_nar.py", *sys.argv[1:]])
    try:
        run(report, args, device, dtype)
    finally:
        report.write()
        print()
        print(tables(report.results))
        print(f"\nRaw figures: {out}", flush=True)


def run(report: Report, args: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    """All parts, the most important ones first."""
    on_cuda = device.type == "cuda"
    if args.threads:
        torch.set_num_threads(args.threads)
    report.results["machine"] = describe(device, dtype)
    if not on_cuda:
        report.results["machine"]["freed_memory_is_kept"] = keep_freed_memory()
    size = args.size or ("full" if on_cuda else "small")
    config = model_of_size(size)
    seconds = args.seconds or 8.0
    audio_s = args.audio_s or (480.0 if on_cuda else 60.0)
    clips = args.clips or (4096 if on_cuda else 128)
    report.results["settings"] = {"size": size, "seconds": seconds}
    report.results["settings"] |= {"audio_s": audio_s, "clips": clips, "callers": args.callers}
    bench = Bench(
        config=config,
        weights=random_weights(config, device, dtype),
        device=device,
        seconds=seconds,
        backend="sdpa",
        compiled=args.compile == "yes" or (args.compile == "auto" and on_cuda),
        callers=args.callers,
        threads=args.threads,
    )
    drawn = draw_clips(clips)
    works = packed(bench.model, drawn, audio_s)
    measure_roofs(report, bench, max(works, key=lambda work: work.audio_s), dtype)
    if report.part("prepare", lambda: prepare(bench, works[:4], args.backend)) is None and on_cuda:
        bench.backend, bench.compiled = "sdpa", False
    report.part("clock:3.4", partial(measure, bench, works, Forced(), pass_s=seconds), 4 * seconds)
    few = drawn.of(slice(0, 1024 if on_cuda else clips))
    until_s = time.monotonic() + (report.left_s if args.rounds else 90.0)
    report.part("forms", lambda: against_padded(bench, few, audio_s, args.rounds or 5, until_s), 40)
    report.part("stages", lambda: stages(bench, works[:5]), 5)
    if on_cuda:
        report.part("busy", lambda: gpu_busy(bench, works), 15)
    for rate in (2.5, 4.5):
        report.part(f"clock:{rate}", partial(measure, bench, works, Forced(rate)), 2 * seconds)
    if on_cuda or args.parts:
        measure_variants(report, bench, works, seconds / 3)


def measure_roofs(report: Report, bench: Bench, work: Work, dtype: torch.dtype) -> None:
    """Products and copies: what the rest is read against."""
    device, on_cuda = bench.device, bench.on_cuda
    found = report.part("roofs:square", lambda: square_product(device, dtype, 8192 if on_cuda else 2048, 2.0))
    if found:
        bench.roofs["square_product"] = found["flops_per_s"]
    mix = products(bench.config, Forced().rows(work, bench.config))
    found = report.part("roofs:model", lambda: model_products(device, dtype, mix))
    if found:
        bench.roofs["model_products"] = found["flops_per_s"]
    report.part("roofs:copy", lambda: copy_bandwidth(device, 2**32 if on_cuda else 2**28))


def measure_variants(report: Report, bench: Bench, works: list[Work], pass_s: float) -> None:
    """Budgets, compiling, callers, routing and other attention kernels, each for a short time."""
    few = draw_clips(1024)
    needs_s = 5 * pass_s
    for audio_s in BUDGETS_S:
        report.part(f"budget:{audio_s:.0f}", partial(measure_budget, bench, few, audio_s), needs_s)

    def try_kernels(backend: Backend, compiled: bool) -> None:
        name = f"kernels:{backend}, {'compiled' if compiled else 'eager'}"
        report.part(name, partial(measure_kernels, bench, works, backend, compiled), needs_s + 10)

    try_kernels(bench.backend, not bench.compiled)
    report.part("callers:3", partial(measure, bench, works, Forced(), callers=3), needs_s)
    for share in SHARES:
        report.part(f"edited:{share}", partial(measure, bench, works, Forced(edited=share)), needs_s)
    for backend in other_backends(bench):
        try_kernels(backend, bench.compiled)


def best_type(device: torch.device) -> torch.dtype:
    """bfloat16 where the GPU computes in it."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--size", choices=("full", "medium", "small"), help="of the model; full on a GPU, small on a CPU"
    )
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--backend", default="auto", help="attention kernels: auto, flash, varlen, flex, sdpa")
    parser.add_argument("--compile", choices=("auto", "yes", "no"), default="auto", help="auto: on a GPU")
    parser.add_argument("--clips", type=int, help="of the seven-set mix")
    parser.add_argument("--audio-s", type=float, help="seconds of audio in a packed batch")
    parser.add_argument("--callers", type=int, default=2, help="threads that hand in batches")
    parser.add_argument("--threads", type=int, help="of a product on a CPU")
    parser.add_argument("--rounds", type=int, help="of packed against padded; else 5, or as many as 90 s hold")
    parser.add_argument("--seconds", type=float, help="of a pass of the main case on a GPU; of others a third")
    parser.add_argument("--total-seconds", type=float, help="begin nothing that would end later")
    parser.add_argument(
        "--parts",
        nargs="*",
        default=[],
        help="roofs clock forms stages busy budget kernels callers edited; all if none",
    )
    parser.add_argument("--out", type=Path, help="of the raw figures")
    return parser.parse_args()


if __name__ == "__main__":
    main()
