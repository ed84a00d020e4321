"""What README.md says is there: its file tree, its commands, its links."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent
README = (REPO / "README.md").read_text("utf-8")
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]


def tracked() -> set[str]:
    """The files of the repository, as git has them; what is ignored or not added does not count."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPO, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout: the real tree is not known")
    return {path for path in listed.stdout.splitlines() if (REPO / path).exists()}


def tree_of_readme() -> set[str]:
    """Paths of the file tree: lines of the code block under "What lies where", folders with a slash at the end."""
    block = README.split("## What lies where")[1].split("```")[1]
    paths: set[str] = set()
    folder = ""
    for line in block.splitlines()[1:]:
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        paths.add(folder + name if line.startswith(" ") else name)
    return paths


def test_tree_is_the_real_one() -> None:
    """Every entry of the top level; and of each folder that the tree opens, every entry."""
    said = tree_of_readme()
    opened = {path.partition("/")[0] + "/" for path in said if path.partition("/")[2]}
    real = set()
    for parts in (path.split("/") for path in tracked()):
        top = parts[0] + "/" * (len(parts) > 1)
        real.add(top)
        if top in opened and parts[1] != "__init__.py":
            real.add(top + parts[1] + "/" * (len(parts) > 2))
    assert said == {path for path in real if path != ".gitignore"}


def test_commands_are_make_targets() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (REPO / "Makefile").read_text("utf-8"), re.MULTILINE))
    told = set(re.findall(r"^make ([a-z0-9-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= told <= targets


def test_configs_exist() -> None:
    told = set(re.findall(r"configs/[\w.-]+\.yaml", "".join(page.read_text("utf-8") for page in PAGES)))
    assert {path for path in told if not (REPO / path).is_file()} <= {
        "configs/mine.yaml",
        "configs/yours.yaml",
    }  # the reader's own


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPO).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text("utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []
