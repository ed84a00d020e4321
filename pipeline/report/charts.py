"""Plots as inline SVG, without a script: widths in per cent, heights and letters in pixels, so that they fit any screen.

Every mark has a <title>, which a pointer over it shows; the sections give the same numbers as tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.report.markup import Markup, element

_TOP, _FLOOR, _BELOW = 18, 128, 22  # pixels: room for a label, where bars stand, room for ticks
_GAP = 0.12  # of a bar's width


@dataclass(frozen=True, slots=True)
class Tick:
    """A label under the axis; `at` is 0 at its left end and 1 at its right."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Column:
    """One bar, or layers of one: (class, value) from the ground up, and what a pointer over it says."""

    layers: tuple[tuple[str, float], ...]
    title: str

    @property
    def height(self) -> float:
        """All layers."""
        return sum(value for _, value in self.layers)


@dataclass(frozen=True, slots=True)
class Mark:
    """A line across the plot."""

    at: float
    label: str


def columns(
    bars: Sequence[Column], ticks: Sequence[Tick], name: str, top: str, most: float = 0.0, marks: Sequence[Mark] = ()
) -> Markup:
    """Bars side by side over the whole width. `top` labels the line at the highest value, or at `most` if that is higher."""
    highest = max([most, *(bar.height for bar in bars)], default=0.0) or 1.0
    width = 100 / max(1, len(bars))
    drawn = [_column(bar, at * width, width, highest) for at, bar in enumerate(bars)]
    return element(
        "svg",
        _line(0, 100, _TOP, "grid"),
        element("text", top, x=0, y=_TOP - 5, class_="label"),
        drawn,
        _line(0, 100, _FLOOR, "axis"),
        [_tick(tick) for tick in ticks],
        [_mark(mark) for mark in marks],
        class_="plot",
        role="img",
        aria_label=name,
        width="100%",
        height=_FLOOR + _BELOW,
    )


def interval(rate: float | None, low: float | None, high: float | None, scale: float, title: str) -> Markup | None:
    """A rate as a dot on the line of its interval; `scale` is the rate at the right end, an arrow one beyond it."""
    if rate is None or low is None or high is None or not scale:
        return None
    at, start, end = (100 * min(1.0, value / scale) for value in (rate, low, high))
    # An svg of its own has the percentages of an x with the pixels of a path.
    arrow = element("svg", element("path", d="M-6 4 L2 9 L-6 14 Z", class_="dot"), x="100%", overflow="visible")
    dot = element("circle", cx=f"{at:.2f}%", cy=9, r=4, class_="dot") if rate <= scale else arrow
    return element(
        "svg",
        element("title", title),
        element("line", x1="0%", x2="100%", y1=9, y2=9, class_="grid"),
        element("line", x1=f"{start:.2f}%", x2=f"{end:.2f}%", y1=9, y2=9, class_="range"),
        dot,
        class_="interval",
        role="img",
        aria_label=title,
        width="100%",
        height=18,
    )


def shares(parts: Sequence[tuple[str, float, str]], name: str) -> Markup:
    """One bar of parts: (class, value, title)."""
    total = sum(value for _, value, _ in parts) or 1.0
    drawn, at = [], 0.0
    for kind, value, title in parts:
        width = 100 * value / total
        box = element(
            "rect", element("title", title), x=f"{at:.3f}%", y=0, width=f"{width:.3f}%", height=10, class_=kind
        )
        drawn.append(box)
        at += width
    return element("svg", drawn, class_="shares", role="img", aria_label=name, width="100%", height=10)


def swatch(kind: str) -> Markup:
    """The colour of a layer, for a legend."""
    return element(
        "svg",
        element("rect", x=0, y=0, width=10, height=10, class_=kind),
        class_="swatch",
        width=10,
        height=10,
        aria_hidden="true",
    )


def nice_scale(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * 0.999999)


def _column(bar: Column, left: float, width: float, highest: float) -> Markup:
    boxes, floor = [], float(_FLOOR)
    for kind, value in bar.layers:
        height = (_FLOOR - _TOP) * value / highest
        if value > 0:
            height = max(height, 1.0)  # one of a million is still to be seen
            boxes.append(
                element(
                    "rect",
                    x=f"{left + width * _GAP / 2:.3f}%",
                    y=f"{floor - height:.1f}",
                    width=f"{width * (1 - _GAP):.3f}%",
                    height=f"{height:.1f}",
                    class_=kind,
                )
            )
            floor -= height
    hit = element(
        "rect", x=f"{left:.3f}%", y=_TOP, width=f"{width:.3f}%", height=_FLOOR - _TOP, class_="hit", aria_hidden="true"
    )
    return element("g", element("title", bar.title), boxes, hit)


def _line(left: float, right: float, y: float, kind: str) -> Markup:
    return element("line", x1=f"{left:g}%", x2=f"{right:g}%", y1=y, y2=y, class_=kind)


def _tick(tick: Tick) -> Markup:
    at = min(1.0, max(0.0, tick.at))
    anchor = "start" if at < 0.04 else "end" if at > 0.96 else "middle"
    return element("text", tick.label, x=f"{100 * at:.2f}%", y=_FLOOR + 15, text_anchor=anchor, class_="label")


def _mark(mark: Mark) -> Markup:
    x, anchor = f"{100 * mark.at:.2f}%", "start" if mark.at < 0.7 else "end"
    line = element("line", x1=x, x2=x, y1=_TOP - 12, y2=_FLOOR, class_="mark")
    label = element(
        "text", mark.label, x=x, y=_TOP - 5, dx=4 if anchor == "start" else -4, text_anchor=anchor, class_="label"
    )
    return element("g", line, label)
