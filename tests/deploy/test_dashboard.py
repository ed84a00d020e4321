"""The Grafana dashboard: its expressions are PromQL, and everything in them is something that Quarry exports."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.metrics.measures import MEASURES, STAGES, Measure

promql = pytest.importorskip("promql_parser")

REPO = Path(__file__).resolve().parents[2]
DASHBOARD: dict[str, Any] = json.loads((REPO / "deploy" / "grafana" / "quarry.json").read_text("utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
BY_RAY = {"SessionName", "NodeAddress", "WorkerId"}  # labels that Ray adds
GRAFANA = {"$__rate_interval": "5m", "$__range": "1h", "$session": ".*"}
COLUMNS = 24


def parsed(expression: str) -> Any:
    for name, value in GRAFANA.items():
        expression = expression.replace(name, value)
    return promql.parse(expression)


def nodes(expression: Any) -> Iterator[Any]:
    """The expression and all that is in it."""
    yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "param", "args"):
        inner = getattr(expression, name, None)
        for one in inner if isinstance(inner, list) else [inner]:
            if isinstance(one, promql.Expr):
                yield from nodes(one)


def series() -> dict[str, Measure]:
    """Names as Prometheus has them."""
    found = {}
    for measure in MEASURES:
        for suffix in ("_bucket", "_sum", "_count") if measure.kind == "histogram" else ("",):
            found[f"ray_{measure.name}{suffix}"] = measure
    return found


def selectors(expression: str) -> list[Any]:
    return [node for node in nodes(parsed(expression)) if isinstance(node, promql.VectorSelector)]


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_an_expression_asks_for_what_there_is(title: str, expression: str) -> None:
    known = series()
    found = selectors(expression)
    assert found
    assert len(found) == len(re.findall(r"\bray_quarry_\w+", expression)), "the parser's tree was walked as a whole"
    allowed = set()
    for selector in found:
        measure = known[selector.name]
        labels = {*measure.labels, *BY_RAY, *(["le"] if selector.name.endswith("_bucket") else [])}
        allowed |= labels
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels
            assert matcher.name != "stage" or matcher.value in {*STAGES, "plan"}
    for node in nodes(parsed(expression)):
        modifier = getattr(node, "modifier", None)
        if isinstance(node, promql.AggregateExpr) and modifier is not None:
            assert set(modifier.labels) <= allowed


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_only_what_grows_is_rated(title: str, expression: str) -> None:
    rated = {
        selector.name
        for node in nodes(parsed(expression))
        if isinstance(node, promql.Call) and node.func.name in ("rate", "increase")
        for argument in node.args
        for selector in nodes(argument)
        if isinstance(selector, promql.VectorSelector)
    }
    grows = {name for name, measure in series().items() if measure.kind != "gauge"}
    assert rated == {selector.name for selector in selectors(expression)} & grows


def test_a_wrong_expression_would_be_found() -> None:
    with pytest.raises(ValueError, match="parenthesis"):
        parsed("sum by (lang (rate(ray_quarry_audio_seconds_total[5m]))")
    assert [selector.name for selector in selectors("sum(rate(ray_quarry_no_such_total[5m])) / 2")] == [
        "ray_quarry_no_such_total"
    ]
    assert "ray_quarry_no_such_total" not in series()


def test_every_metric_is_on_it() -> None:
    shown = {series()[selector.name].name for _, expression in EXPRESSIONS for selector in selectors(expression)}
    assert shown == {measure.name for measure in MEASURES}


def test_the_variables_are_those_that_panels_use() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    query = variables["session"]["query"]["query"]
    name, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()  # type: ignore[union-attr]
    assert name in series()
    assert label in BY_RAY
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used <= {*variables, "__rate_interval", "__range"}
    for panel in PANELS:
        for thing in (panel, *panel["targets"]):
            assert thing["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_panels_have_ids_units_and_room() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: dict[tuple[int, int], int] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        for cell in [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]:
            assert taken.setdefault(cell, panel["id"]) == panel["id"], f"{panel['title']} lies on another panel"
    units = {"none", "short", "percentunit", "s", "h"}  # ids that Grafana knows
    for panel in PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"] in units, panel["title"]
        assert panel["description"], panel["title"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_a_legend_names_labels_that_are_left(title: str, expression: str) -> None:
    (legend,) = {
        target["legendFormat"]
        for panel in PANELS
        if panel["title"] == title
        for target in panel["targets"]
        if target["expr"] == expression
    }
    named = set(re.findall(r"\{\{(\w+)\}\}", legend))
    tree = parsed(expression)
    left = {
        label
        for node in nodes(tree)
        if isinstance(node, promql.AggregateExpr) and node.modifier
        for label in node.modifier.labels
    }
    assert named <= (left or BY_RAY)
