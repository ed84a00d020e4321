"""HTML made of elements that escape what they hold: a page cannot get a tag, an attribute or a script out of a transcript.

Texts, ids and uris come from strangers. They reach a page only as the text of an element or the value of an attribute, through
`element`, which escapes every string that is not Markup; only this module makes Markup. Nothing of theirs becomes an address.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterable
from typing import TypeAlias

_VOID = frozenset({"meta", "link"})
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
# Embeddings, overrides and isolates: they turn the text around them about. The marks for one letter (200E, 200F, 061C) stay:
# texts in Hebrew and Arabic need them, and a <bdi> keeps them to themselves.
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069]")
_LANGUAGE = re.compile(r"[a-zA-Z]{2,3}(-[a-zA-Z0-9]{2,8}){0,3}")


class Markup(str):
    """HTML that may stand in a page as it is."""


Child: TypeAlias = "Markup | str | float | Iterable[Child] | None"


def element(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """An element. Strings are escaped, None and False leave an attribute out, True is one without a value.

    A last `_` of an attribute's name is dropped (`class_`); others become `-`. Raises ValueError for a name that is none.
    """
    parts = [_checked(name)]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        attribute = _checked(key.removesuffix("_").replace("_", "-"))
        parts.append(attribute if value is True else f'{attribute}="{html.escape(_plain(value))}"')
    opening = f"<{' '.join(parts)}>"
    return Markup(opening if name in _VOID else f"{opening}{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Children one after another, escaped."""
    found = []
    for child in children:
        if isinstance(child, Markup):
            found.append(str(child))
        elif isinstance(child, str | int | float):
            found.append(html.escape(_plain(child)))
        elif child is not None:
            found.append(join(*child))
    return Markup("".join(found))


def style_sheet(css: str) -> Markup:
    """A style element of our own. Raises ValueError for CSS that would end it."""
    if "</" in css:
        raise ValueError("a style sheet that ends its element")
    return Markup(f"<style>{css}</style>")


def shown(text: object, most: int = 300) -> str:
    """A stranger's text as a page may show it: no control characters, nothing that turns its neighbours about, not too long."""
    line = _TURNS.sub("\ufffd", " ".join(str(text)[: 4 * most].split()))
    line = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in line)
    return line if len(line) <= most else f"{line[: most - 1].rstrip()}…"


def foreign(text: object, most: int = 300, **attributes: str | None) -> Markup:
    """A stranger's text, with a writing direction of its own."""
    return element("bdi", shown(text, most), **attributes)


def language_tag(language: str | None) -> str | None:
    """The language for a `lang` attribute, if it has the form of one."""
    return language if language and _LANGUAGE.fullmatch(language) else None


def _plain(value: str | float) -> str:
    if isinstance(value, str):
        return "".join("\ufffd" if unicodedata.category(c) == "Cs" else c for c in value)
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an element or attribute")
    return name
