"""Price files: what they say, and one sentence for everything that can be wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.engines.base import describe_engine
from pipeline.errors import ConfigError
from pipeline.metrics.cost import Terms
from pipeline.prices import load_prices, terms_of

SHIPPED = Path(__file__).resolve().parent.parent / "configs" / "prices.yaml"
TEXT = """
machines:
  gpu: {usd_per_hour: 3.5}
  head: {usd_per_hour: 0.5}
  unpriced: {}
speeds:
  - {engine: fake, machine: gpu, rtfx_per_worker: 120}
  - {engine: fake, machine: gpu, rtfx_per_worker: 90, model: fake}
  - {engine: whisper, machine: gpu, rtfx_per_worker: 40}
"""


def terms(folder: Path, machines: dict[str, int], model: str = "fake", text: str = TEXT) -> Terms:
    file = folder / "prices.yaml"
    file.write_text(text)
    cost = {"prices": str(file), "machines": machines}
    config = RunConfig.model_validate(
        {"manifest": "m", "output": "o", "engine": {"name": "fake", "model": model}, "cost": cost}
    )
    return terms_of(config, describe_engine(config.engine))


def test_machines_add_up_and_the_closest_speed_is_taken(tmp_path: Path) -> None:
    assert terms(tmp_path, {"gpu": 2, "head": 1}) == Terms(90.0, measured=True, usd_per_hour=7.5)
    assert terms(tmp_path, {"gpu": 1}, model="other").rtfx_per_worker == 120


def test_a_machine_without_a_price_leaves_the_cost_unknown(tmp_path: Path) -> None:
    found = terms(tmp_path, {"head": 1, "unpriced": 1})
    assert (found.usd_per_hour, found.measured) == (None, False)
    assert terms(tmp_path, {}).usd_per_hour is None


@pytest.mark.parametrize(
    ("text", "machines", "said"),
    [
        (TEXT, {"gpus": 1}, "no machine 'gpus'; it has gpu, head, unpriced"),
        ("machines: {gpu: {usd_per_hour: -1}}", {}, "machines.gpu.usd_per_hour is wrong"),
        ("machines: {gpu: {usd: 1}}", {}, "machines.gpu.usd is wrong"),
        ("speeds: [{engine: fake, machine: gpu, rtfx_per_worker: 0}]", {}, "speeds.0.rtfx_per_worker is wrong"),
        ("- 1", {}, "the whole is wrong"),
        ("machines: {gpu: !!python/object/apply:os.getcwd []}", {}, "cannot be read"),
        ("measured: 2026-02-30", {}, "cannot be read"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path: Path, text: str, machines: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        terms(tmp_path, machines, text=text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_machines_without_a_price_file_are_an_error() -> None:
    config = RunConfig.model_validate({"manifest": "m", "output": "o", "cost": {"machines": {"gpu": 1}}})
    with pytest.raises(ConfigError, match=r"cost\.prices"):
        terms_of(config, describe_engine(config.engine))


def test_the_shipped_file_makes_no_price_up() -> None:
    prices = load_prices(str(SHIPPED))
    assert all(
        machine.source and machine.date for machine in prices.machines.values() if machine.usd_per_hour is not None
    )
    assert all(speed.source and speed.date and speed.machine in prices.machines for speed in prices.speeds)
