"""Placement: decoding fits beside engines that were given their room first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import RuntimeConfig
from pipeline.runtime.placement import place


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 8, 16, 96])
def test_one_machine_is_used_and_not_overbooked(cpus: int) -> None:
    placed = place([{"CPU": cpus}], RuntimeConfig())
    assert placed.decode_workers * placed.decode_cpus + 0.5 <= cpus
    assert placed.decode_workers >= max(1, cpus - 2)


@given(st.lists(st.integers(1, 16), min_size=1, max_size=4), st.integers(1, 4), st.sampled_from([0.2, 0.5, 1.0, 2.0]))
def test_decoders_fit_wherever_the_engines_are(cpus: list[int], engines: int, engine_cpus: float) -> None:
    free = sorted(map(float, cpus), reverse=True)
    for _ in range(engines):  # as Ray packs them: where there is room
        index = next((n for n, room in enumerate(free) if room >= engine_cpus), None)
        if index is None:
            return
        free[index] -= engine_cpus
    placed = place([{"CPU": count} for count in cpus], RuntimeConfig(engine_workers=engines, engine_cpus=engine_cpus))
    if sum(free) >= len(cpus):
        assert sum(int(room / placed.decode_cpus + 1e-9) for room in free) >= placed.decode_workers


def test_nodes_without_engines_decode() -> None:
    runtime = RuntimeConfig(engine_workers=2, engine_gpus=1.0, engine_cpus=1.0)
    assert place([{"CPU": 8.0, "GPU": 2.0}, {"CPU": 16.0}], runtime).decode_workers >= 20


def test_a_number_that_was_asked_for_is_kept() -> None:
    placed = place([{"CPU": 2.0}], RuntimeConfig(decode_workers=6))
    assert placed.decode_workers == 6
    assert placed.decode_workers * placed.decode_cpus + 0.5 <= 2
