"""The notebooks as files, and their cells over two quick runs: one with everything, one with next to nothing."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from archive_of_clips import NOTEBOOKS, REPO, code_cells, priced, quarry, run_folder, write_archive

ALLOWED = {"pipeline", "pandas", "duckdb", "pyarrow", "matplotlib", "IPython", "os", "pathlib"}
MOST_LINES = 12
FAKE = ["engine.name=fake", "engine.model=fake", "chunk.vad=energy", "runtime.kind=local", "plan.shard_s=10"]
FAKE += ["plan.probe_workers=1"]


def test_there_are_four() -> None:
    assert [path.stem[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_as_source(path: Path) -> None:
    """No outputs, no counters, nothing of the machine it was last opened on; ids that a diff can follow."""
    text = path.read_text("utf-8")
    book = json.loads(text)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book["metadata"]) == {"kernelspec", "language_info"}
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert book["metadata"]["language_info"] == {"name": "python"}
    ids = [cell["id"] for cell in book["cells"]]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", one) for one in ids), "an id is a word, not a hash"
    for cell in book["cells"]:
        assert cell["metadata"] == {}
        assert cell["cell_type"] == "markdown" or (cell["outputs"], cell["execution_count"]) == ([], None)
    assert not re.search(r"(?<![\w.])(/home|/root|/Users|/work|/tmp|/mnt|/opt|[A-Z]:\\\\)", text)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_no_logic_of_its_own(path: Path) -> None:
    for name, source in code_cells(path):
        assert len(source.splitlines()) <= MOST_LINES, name
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda), name
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {module.partition(".")[0] for module in modules} <= ALLOWED, name


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    """What the notebooks show of a rich run, and of a bare one."""
    folder = tmp_path_factory.mktemp("looked-at")
    # Only a limit that nobody would set flags what the fake engine says.
    rich = [f"manifest={write_archive(folder / 'a')}", f"output={folder / 'rich'}", *FAKE, "flags.chars_per_s=0.001"]
    quarry("run", *rich, *priced(folder))
    quarry("retry", *rich, *priced(folder), "--flagged", "retry.engine.model=another")
    bare = [f"manifest={write_archive(folder / 'b', referenced=False)}", f"output={folder / 'bare'}", *FAKE]
    quarry("run", *bare)
    runs = [str(run_folder(folder / name)) for name in ("rich", "bare")]
    script = [sys.executable, str(Path(__file__).with_name("plain_execution.py")), *runs]
    done = subprocess.run(script, capture_output=True, text=True, env={**os.environ, "MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stderr
    found: list[dict[str, dict[str, Any]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_every_cell_works_and_every_plot_can_be_read(told: list[dict[str, dict[str, Any]]]) -> None:
    for books in told:
        assert {name: book["wrong"] for name, book in books.items()} == {path.stem: [] for path in NOTEBOOKS}


def test_a_rich_run_is_told_of(told: list[dict[str, dict[str, Any]]]) -> None:
    explore, review, speed, export = told[0].values()
    assert "6 recordings" in explore["text"]
    assert "bad_header" in explore["text"]
    assert "site" in explore["text"]
    assert re.search(r"WER \d+\.\d % \(.*\): 5 recordings", review["text"])
    assert "too_fast" in review["text"]
    assert "stretches" in review["text"], "what was heard again"
    assert review["players"] >= 3
    assert review["figures"] == 4, "by language, length and site; flags"
    assert "USD" in speed["text"]
    assert speed["figures"] == 5
    assert re.search(r"Pairs of \d of 6 recordings", export["text"])


def test_a_bare_run_is_told_of(told: list[dict[str, dict[str, Any]]]) -> None:
    _, review, speed, export = told[1].values()
    for sentence in ("so there is no error rate", "Nothing is flagged", "Nothing was heard again", "Nothing failed"):
        assert sentence in review["text"], sentence
    assert review["players"] == 0
    assert "No price was given" in speed["text"]
    assert re.search(r"Pairs of 5 of 5 recordings", export["text"])
    assert re.search(r"\d+ pairs, 0\.01 h", export["text"])


def test_a_notebook_without_a_run_says_so(tmp_path: Path) -> None:
    """In a kernel, too, an error of ours is a sentence (pipeline/errors.py)."""
    script = "from IPython.core.interactiveshell import InteractiveShell as shell\nshell.instance().run_cell('''{}''')"
    cell = "from pipeline import find_run\nfind_run()"
    environment = {key: value for key, value in os.environ.items() if key != "QUARRY_RUN"}
    done = subprocess.run(
        [sys.executable, "-c", script.format(cell)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**environment, "PYTHONPATH": str(REPO)},
    )
    assert "quarry: There is no run to look at: set QUARRY_RUN" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
