"""Make the demo archive: real speech in many formats, with one broken and one silent file among it.

    python demos/make_archive.py [FOLDER]        (default: demo/archive)

The speech lies in `demos/speech/`, as prompts with their texts; here it is put together into recordings, one of them more
than ten minutes long, and written as a caller would find them in an archive. Same bytes every time. The folder appears
complete or not at all, and a second call finds it and does nothing. Knows nothing of Quarry.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
import soundfile

HERE = Path(__file__).resolve().parent
SPEECH = HERE / "speech"
DEFAULT_FOLDER = HERE.parent / "demo" / "archive"
PAUSE_S = 1.0  # between two prompts

Samples = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Format:
    """How a recording is stored. The suffix of `file` names the container."""

    file: str
    codec: str
    rate_hz: int
    layout: str = "mono"
    states_duration: bool = False  # give the manifest row a duration; the others are probed by whoever reads them


@dataclass(frozen=True, slots=True)
class Prompt:
    """A stretch of one file in `demos/speech/` and what is said in it."""

    file: str
    start_s: float
    end_s: float
    text: str


FORMATS = {
    "switchboard": Format("switchboard.mp3", "libmp3lame", 16_000),  # the long one
    "tour": Format("tour.m4a", "aac", 44_100, "stereo"),
    "instructions": Format("instructions.webm", "libopus", 48_000),
    "queue": Format("queue.ogg", "libopus", 48_000),
    "agent": Format("agent.wav", "pcm_mulaw", 8_000, states_duration=True),
    "follow": Format("follow.flac", "flac", 48_000, "stereo"),
    "monkeys": Format("monkeys.aac", "aac", 22_050),  # a bare stream: no header says how long it is
    "austen-0870": Format("austen-0870.wav", "pcm_s16le", 16_000, states_duration=True),
    "austen-0880": Format("austen-0880.flac", "flac", 16_000),
    "austen-0890": Format("austen-0890.mp3", "libmp3lame", 44_100, "stereo"),
    "austen-0920": Format("austen-0920.m4a", "aac", 32_000),
    "austen-0930": Format("austen-0930.opus", "libopus", 48_000),
}
SILENCE = Format("silence.wav", "pcm_s16le", 16_000)
SILENCE_S = 20
BROKEN = "upload-cut-off.m4a"  # the front part of tour.m4a: an MP4's index comes last, so no decoder can read this


def main(arguments: list[str]) -> int:
    """Make the archive, or find it made."""
    folder = Path(arguments[0]) if arguments else DEFAULT_FOLDER
    if is_complete(folder):
        print(f"{folder} is already made")
        return 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        audio_s = make(draft)
        (draft / "made-from").write_text(recipe_hash())
        draft.chmod(0o755)  # mkdtemp's 0700 would hide the archive from other users
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    print(f"made {folder}: {len(FORMATS) + 2} files, {audio_s / 60:.1f} min of audio")
    return 0


def is_complete(folder: Path) -> bool:
    """Whether the folder holds every file of the manifest, made from today's speech by today's recipe."""
    try:
        rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()]
        return (folder / "made-from").read_text() == recipe_hash() and all(
            (folder / row["audio_filepath"]).is_file() for row in rows
        )
    except FileNotFoundError:
        return False


def recipe_hash() -> str:
    """One hash of this script and of the speech it uses."""
    digest = hashlib.sha256()
    for path in [Path(__file__), *sorted(SPEECH.iterdir())]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def make(folder: Path) -> float:
    """Write the recordings and the manifest into `folder`; returns the seconds of audio."""
    (folder / "audio").mkdir()
    speech = {
        path.name: soundfile.read(path, dtype="int16") for path in SPEECH.iterdir() if path.suffix in (".opus", ".flac")
    }
    rows, total_s = [], 0.0
    for recording, prompts in read_prompts().items():
        form = FORMATS[recording]
        rate_hz = speech[prompts[0].file][1]
        samples = join(prompts, speech[prompts[0].file][0], rate_hz)
        write_audio(folder / "audio" / form.file, samples, rate_hz, form)
        audio_s = len(samples) / rate_hz
        total_s += audio_s
        row = {
            "id": recording,
            "audio_filepath": f"audio/{form.file}",
            "text": " ".join(p.text for p in prompts),
            "lang": "en",
        }
        rows.append(row | ({"duration": round(audio_s, 3)} if form.states_duration else {}))
    whole = (folder / "audio" / FORMATS["tour"].file).read_bytes()
    (folder / "audio" / BROKEN).write_bytes(whole[: len(whole) * 2 // 3])
    write_audio(folder / "audio" / SILENCE.file, np.zeros(SILENCE_S * 16_000, np.int16), 16_000, SILENCE)
    rows += [
        {"id": Path(file).stem, "audio_filepath": f"audio/{file}", "lang": "en"} for file in (BROKEN, SILENCE.file)
    ]
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    (folder / "manifest.jsonl").write_text("".join(lines), "utf-8")
    return total_s + SILENCE_S


def read_prompts() -> dict[str, list[Prompt]]:
    """The prompts of every recording, in the order of `speech/sources.tsv`."""
    prompts: dict[str, list[Prompt]] = {}
    with open(SPEECH / "sources.tsv", encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            prompt = Prompt(row["file"], float(row["start_s"]), float(row["end_s"]), row["text"])
            prompts.setdefault(row["recording"], []).append(prompt)
    return prompts


def join(prompts: list[Prompt], speech: Samples, rate_hz: int) -> Samples:
    """The prompts one after the other, with a pause between two: int16 [n]."""
    pause = np.zeros(int(PAUSE_S * rate_hz), np.int16)
    pieces = [speech[round(p.start_s * rate_hz) : round(p.end_s * rate_hz)] for p in prompts]
    return np.concatenate([part for piece in pieces for part in (pause, piece)][1:])


def write_audio(path: Path, samples: Samples, rate_hz: int, form: Format) -> None:
    """Encode mono int16 samples; PyAV's encoder resamples and spreads them over the channels."""
    # bitexact: without it Ogg and Matroska carry random stream numbers, and two runs differ.
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = cast(av.AudioStream, container.add_stream(form.codec, rate=form.rate_hz, layout=form.layout))
        for block in blocks(samples, rate_hz):
            frame = av.AudioFrame.from_ndarray(block[np.newaxis, :], format="s16", layout="mono")
            frame.sample_rate = rate_hz
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def blocks(samples: Samples, size: int) -> Iterator[Samples]:
    """Consecutive pieces of at most `size` samples."""
    for start in range(0, len(samples), size):
        yield samples[start : start + size]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
