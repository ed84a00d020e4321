"""Ratios and their empty sides."""

from __future__ import annotations

from pipeline.metrics.rtfx import padding_waste, rtfx


def test_rtfx_is_audio_by_time() -> None:
    assert rtfx(3600, 2) == 1800
    assert rtfx(0, 2) == 0
    assert rtfx(10, 0) is None


def test_padding_is_the_share_of_work_thrown_away() -> None:
    assert padding_waste(30, 120) == 0.75
    assert padding_waste(30, 30) == 0
    assert padding_waste(0, 0) is None
