"""The other sections: failures, what was heard or asked again, settings and versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from pipeline.report.advice import next_step
from pipeline.report.facts import Facts, FailureGroup
from pipeline.report.figures import NOTHING, count, percent, plural
from pipeline.report.markup import Child, Markup, element, foreign, join, shown
from pipeline.report.parts import Field, note, section, table


def failures(facts: Facts) -> Markup:
    """By code: how many, what to do, and some of them."""
    if not facts.failures:
        return section("failures", "What went wrong", element("p", "Nothing: every recording was heard to its end."))
    return section("failures", "What went wrong", [_failure(code, group) for code, group in facts.failures.items()])


def again(facts: Facts) -> Markup | None:
    """Retries and second passes; None where there were none."""
    retries, passes = facts.run.get("retries", []), facts.second_passes
    if not retries and not passes:
        return None
    return section(
        "again",
        "Heard and asked again",
        _retries(retries) if retries else None,
        _passes(passes, facts.snapshot.number) if passes else None,
    )


def about(facts: Facts) -> Markup:
    """Where the tables lie, the settings, the versions."""
    run = facts.run
    versions = run["sessions"][-1]["versions"] if run["sessions"] else {}
    rows: list[Sequence[Child]] = [
        ["tables", element("code", foreign(f"{run['uri'].rstrip('/')}/{facts.snapshot.tables}/", 400))],
        ["engine", foreign(run["engine"], 80)],
        ["model", foreign(run["model"], 200)],
        ["revision", element("code", foreign(run["model_revision"], 80))],
        ["fingerprint", element("code", foreign(run["fingerprint"], 80))],
        *([element("span", foreign(name, 40)), foreign(version, 40)] for name, version in versions.items()),
    ]
    settings = yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=False)
    return section(
        "about",
        "Settings and versions",
        table([Field("what"), Field("which")], rows, "What made this run", "plain"),
        element("details", element("summary", "All settings"), element("pre", element("code", settings[:40_000]))),
        note("Words are compared after normalisation; raw text is what the tables hold. This page fetches nothing."),
    )


def _failure(code: str, group: FailureGroup) -> Markup:
    parts = [
        f"{count(group.failed)} failed" if group.failed else "",
        f"{count(group.partial)} in part" if group.partial else "",
    ]
    how_many = ", ".join(part for part in parts if part)
    examples = [
        element(
            "li",
            foreign(example["recording_id"], 160),
            element("span", foreign(example["message"], 500), class_="aside"),
            element("span", element("code", foreign(example["uri"], 240)), class_="aside"),
        )
        for example in group.examples
    ]
    more = group.count - len(group.examples)
    return join(
        element("h3", element("code", shown(code, 60)), " ", element("span", how_many, class_="aside-inline")),
        element("p", _with_code(next_step(code)), class_="step"),
        element("ul", examples, class_="examples"),
        note(f"… and {plural(more, 'more', 'more')}; the table failures has them all.") if more > 0 else None,
    )


def _with_code(sentence: str) -> list[Child]:
    """A sentence of ours; what stands between backticks is code."""
    return [element("code", part) if at % 2 else part for at, part in enumerate(sentence.split("`"))]


def _retries(retries: Sequence[dict[str, Any]]) -> Markup:
    fields = [
        Field("retry"),
        Field("stretches", "number"),
        Field("replaced", "number"),
        Field("share", "number"),
        Field("why", "wide"),
    ]
    rows: list[Sequence[Child]] = [
        [
            [
                foreign(retry["name"], 40),
                " ",
                foreign(retry["model"], 80),
                element("span", foreign(retry["id"], 80), class_="aside"),
            ],
            count(retry["stretches"]),
            count(retry["replaced"]),
            percent(retry["replaced"] / retry["stretches"] if retry["stretches"] else None),
            ", ".join(f"{shown(reason, 40)} {number:,}" for reason, number in retry["reasons"].items()),
        ]
        for retry in retries[-20:]
    ]
    return table(fields, rows, "Stretches that a second engine heard again")


def _passes(passes: Sequence[dict[str, Any]], number: int) -> Markup:
    fields = [
        Field("second pass"),
        Field("transcripts", "number"),
        Field("ok", "number"),
        Field("other", "number"),
        Field("tokens written", "wide number"),
    ]
    rows: list[Sequence[Child]] = []
    for one in passes:
        totals = one["totals"]
        asked = totals["recordings"]
        older = "" if one["source_snapshot"] == number else f", of snapshot {one['source_snapshot']}"
        name = [foreign(one["task"], 40), element("span", foreign(one["model"], 120), older, class_="aside")]
        ok = totals.get("ok", 0)
        share = percent(ok / asked) if asked else NOTHING
        rows.append([name, count(asked), share, count(asked - ok), count(totals.get("n_tokens", 0))])
    return table(fields, rows, "Finished transcripts that a language model was asked about")
