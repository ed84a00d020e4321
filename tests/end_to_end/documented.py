"""The commands that README and docs tell people to type: lines of fenced `sh` blocks, and `quarry …` in running text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
PAGES = [
    *(REPO / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "notebooks/README.md")),
    *sorted((REPO / "docs").rglob("*.md")),
    *sorted((REPO / "deploy").rglob("*.md")),
]
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(quarry [^`]+)`")


@dataclass(frozen=True)
class Command:
    """One line of a page, as words; comments are gone, continued lines joined."""

    page: str
    line: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.line, comments=True)

    def __str__(self) -> str:
        return f"{self.page}: {self.line.split('#')[0].strip()[:90]}"


def commands() -> list[Command]:
    """Every command of every block, in the order of the pages."""
    return [command for page in PAGES if page.exists() for command in _of_page(page)]


def inline() -> list[Command]:
    """Every `quarry …` in running text; those with an ellipsis stand for more than they say."""
    found = []
    for page in PAGES:
        if page.exists():
            text = _BLOCK.sub("", page.read_text("utf-8"))
            found += [Command(page.relative_to(REPO).as_posix(), line) for line in _INLINE.findall(text)]
    return list(dict.fromkeys(found))


def _of_page(page: Path) -> Iterator[Command]:
    for block in _BLOCK.findall(page.read_text("utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.strip().startswith("#"):
                yield Command(page.relative_to(REPO).as_posix(), line.strip())
