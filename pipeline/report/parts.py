"""What the sections of the page are built of: headings, tables, figures, notes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.report.markup import Child, Markup, element


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a table. `kind`: "" text, "number" to the right; "wide" is left out on a phone."""

    name: Child
    kind: str = ""


def section(anchor: str, title: str, *children: Child) -> Markup:
    """A section with its heading."""
    heading = f"{anchor}-title"
    return element("section", element("h2", title, id=heading), *children, id=anchor, aria_labelledby=heading)


def table(fields: Sequence[Field], rows: Iterable[Sequence[Child]], caption: str, kind: str = "") -> Markup:
    """A table with a caption; the first cell of a row is its header."""
    head = element("tr", [element("th", field.name, scope="col", class_=field.kind or None) for field in fields])
    body = [
        element(
            "tr",
            element("th", row[0], scope="row", class_=fields[0].kind or None),
            [element("td", cell, class_=field.kind or None) for field, cell in zip(fields[1:], row[1:], strict=True)],
        )
        for row in rows
    ]
    whole = element(
        "table", element("caption", caption), element("thead", head), element("tbody", body), class_=kind or None
    )
    return element("div", whole, class_="scroll", role="region", aria_label=caption, tabindex="0")


def figures(pairs: Iterable[tuple[str, Child, Child]]) -> Markup:
    """Large numbers: (name, number, what it says)."""
    boxes = [
        element("div", element("dt", name), element("dd", number, class_="figure"), element("dd", note, class_="note"))
        for name, number, note in pairs
    ]
    return element("dl", boxes, class_="figures many" if len(boxes) > 6 else "figures")


def note(*children: Child) -> Markup:
    """A paragraph in small letters."""
    return element("p", *children, class_="note")


def plot(title: str, drawing: Child, *below: Child) -> Markup:
    """A plot with its title above and its legend and numbers below."""
    return element("figure", element("figcaption", title), drawing, *below)


def numbers(content: Child) -> Markup:
    """The numbers behind a plot, folded."""
    return element("details", element("summary", "The numbers"), content)
