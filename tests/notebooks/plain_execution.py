"""Execute the cells of all notebooks in this process, over each of the runs that are named; print what came of it as JSON.

    python plain_execution.py RUN [RUN ...]

No kernel and no messages: what a default test run can afford. tests/notebooks/test_kernels.py has real kernels.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from archive_of_clips import NOTEBOOKS, code_cells
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from matplotlib.axes import Axes


def complaints(axes: Axes) -> list[str]:
    """What is wrong with a plot for a person who looks at it."""
    found = [] if axes.get_title(loc="left") else ["no title"]
    bars = [container for container in axes.containers if hasattr(container, "orientation")]
    flat = any(container.orientation == "horizontal" for container in bars)
    named = axes.get_xlabel() if flat else axes.get_ylabel()
    lowest = axes.get_xlim()[0] if flat else axes.get_ylim()[0]
    found += [] if named else ["an axis of numbers without a name"]
    return found + (["does not begin at zero"] if lowest != 0 else [])


def execute(shell: InteractiveShell, notebook: Path) -> dict[str, Any]:
    """Text, figures, players of sound, and what is wrong, of one notebook."""
    shell.reset(new_session=False)
    told: dict[str, Any] = {"text": "", "figures": 0, "players": 0, "wrong": []}
    for cell, source in code_cells(notebook):
        with capture_output() as captured:
            outcome = shell.run_cell(source, store_history=False)
        told["text"] += f"\n[{cell}]\n{captured.stdout}"
        if not outcome.success:
            told["wrong"].append(f"{cell}: {outcome.error_in_exec or outcome.error_before_exec!r}")
        for output in captured.outputs:
            told["players"] += "<audio" in output.data.get("text/html", "")
            told["text"] += output.data.get("text/plain", "")
        for number in plt.get_fignums():
            figure = plt.figure(number)
            figure.canvas.draw()
            told["figures"] += 1
            told["wrong"] += [f"{cell}: {one}" for axes in figure.axes for one in complaints(axes)]
        plt.close("all")
    return told


def main(runs: list[str]) -> None:
    """All notebooks over all runs."""
    warnings.simplefilter("error", UserWarning)  # matplotlib says so when a plot cannot be laid out
    warnings.filterwarnings("ignore", "Glyph")  # a script that the default font lacks
    shell = InteractiveShell.instance()
    os.chdir(NOTEBOOKS[0].parent)
    told = []
    for run in runs:
        os.environ["QUARRY_RUN"] = run
        told.append({notebook.stem: execute(shell, notebook) for notebook in NOTEBOOKS})
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1:])
