"""What the pipeline costs over a plain loop: CPU-seconds per audio-hour, at two sizes, and the slope between them.

    python benchmarks/overhead.py [--hours 1 4] [--rounds 3]

Same clips, same fake engine, no VAD in either, so that what differs is the plan, the sandbox, Ray, and Parquet with its checks.
The slope removes what a run costs once (Ray's start, imports).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from corpus import make_clips
from process_tree import measure

PLAIN = """
import json, sys
from pathlib import Path
import numpy, soundfile
from pipeline.config import EngineConfig
from pipeline.engines.base import create_engine
from pipeline.records import ChunkAudio
engine = create_engine(EngineConfig(name="fake", model="fake", language="en"))
engine.load()
manifest = Path(sys.argv[1])
with open(sys.argv[2], "w") as out:
    for line in manifest.read_text().splitlines():
        row = json.loads(line)
        samples, _ = soundfile.read(manifest.parent / row["audio_filepath"], dtype="int16")
        (hypothesis,) = engine.transcribe([ChunkAudio(samples)])
        out.write(json.dumps({"path": row["audio_filepath"], "text": hypothesis.text}) + "\\n")
"""


def commands(manifest: Path, scratch: Path) -> dict[str, list[str]]:
    """The three contenders for one corpus."""
    settings = [
        f"manifest={manifest}",
        f"output={scratch / 'out'}",
        "engine.name=fake",
        "engine.model=fake",
        "engine.language=en",
        "chunk.vad=none",
    ]
    quarry = [sys.executable, "-m", "pipeline.cli", "run", *settings]
    return {
        "plain loop": [sys.executable, "-c", PLAIN, str(manifest), str(scratch / "plain.jsonl")],
        "quarry, one process": [*quarry, "runtime.kind=local"],
        "quarry, Ray": [*quarry, "runtime.kind=ray"],
    }


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, nargs=2, default=[1.0, 4.0])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        manifests = [make_clips(Path(folder) / f"{hours:g}", hours) for hours in arguments.hours]
        cpu_s: dict[tuple[str, float], list[float]] = {}
        for _ in range(arguments.rounds):  # in turn, so that a slow minute of the machine hits all alike
            for hours, manifest in zip(arguments.hours, manifests, strict=True):
                for name in commands(manifest, Path(folder)):
                    with tempfile.TemporaryDirectory(dir=folder) as scratch:
                        cost = measure(commands(manifest, Path(scratch))[name])
                    if cost.returncode:
                        sys.exit(f"{name} ended with {cost.returncode}")
                    cpu_s.setdefault((name, hours), []).append(cost.cpu_s)
    _print(arguments.hours, cpu_s)


def _print(hours: list[float], cpu_s: dict[tuple[str, float], list[float]]) -> None:
    small, large = hours
    print(f"| pipeline | CPU-s at {small:g} h | CPU-s at {large:g} h | marginal CPU-s per audio-hour |")
    print("|---|---|---|---|")
    for name in dict.fromkeys(name for name, _ in cpu_s):
        low, high = (statistics.median(cpu_s[name, size]) for size in hours)
        print(f"| {name} | {low:.1f} | {high:.1f} | {(high - low) / (large - small):.2f} |")


if __name__ == "__main__":
    main()
