"""Runs that notebooks look at: the clips of recorded speech in demos/speech, by the real command."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from pipeline.cli import main

REPO = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
_SPEECH = REPO / "demos" / "speech"
_PRICES = "machines: {my-machine: {usd_per_hour: 3.6, source: mine, date: '2026-11-21'}}\n"


def code_cells(path: Path) -> Iterator[tuple[str, str]]:
    """Id and source of every cell of code."""
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            yield cell["id"], "".join(cell["source"])


def write_archive(folder: Path, referenced: bool = True) -> Path:
    """Five clips with references, and a broken file; or the clips alone, without what was said. Returns the manifest."""
    folder.mkdir(parents=True)
    shutil.copy(_SPEECH / "austen.flac", folder)
    rows: list[dict[str, Any]] = []
    with (_SPEECH / "sources.tsv").open(newline="") as sources:
        for clip in csv.DictReader(sources, delimiter="\t"):
            if clip["file"] == "austen.flac":
                start_s, end_s = float(clip["start_s"]), float(clip["end_s"])
                row = {"id": clip["recording"], "audio_filepath": "austen.flac", "offset": start_s, "lang": "en"}
                rows.append(
                    {
                        **row,
                        "duration": end_s - start_s,
                        "text": clip["text"],
                        "site": rf"$\frac$ studio {len(rows) % 2}",
                    }
                )
    if referenced:
        (folder / "broken.wav").write_bytes(b"RIFF and no more")
        rows.append({"id": "broken", "audio_filepath": "broken.wav", "lang": "en", "site": "elsewhere"})
    else:
        rows = [{key: value for key, value in row.items() if key not in ("text", "site", "lang")} for row in rows]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def priced(folder: Path) -> list[str]:
    """Settings that put a price on the hours."""
    prices = folder / "prices.yaml"
    prices.write_text(_PRICES)
    return [f"cost.prices={prices}", "cost.machines={my-machine: 1}"]


def quarry(*arguments: str) -> None:
    """The command; what it says is told if it cannot run."""
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = main(arguments)
    assert code in (0, 1), said.getvalue()


def run_folder(output: Path) -> Path:
    """The one run in an output folder."""
    (folder,) = (path for path in output.iterdir() if path.is_dir())
    return folder
