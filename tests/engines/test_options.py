"""Engine options: errors name the option, and docs/engines.md lists every one with its default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import EngineConfig, Section
from pipeline.engines.base import primary_language
from pipeline.engines.fake import FakeOptions
from pipeline.engines.granite.asking import AskingOptions
from pipeline.engines.granite_vllm.engine import VllmOptions
from pipeline.engines.options import read_options
from pipeline.engines.whisper import WhisperOptions
from pipeline.engines.whisper.options import DecodingOptions
from pipeline.engines.whisper_transformers.engine import WhisperTransformersOptions
from pipeline.errors import ConfigError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "engines.md"


@pytest.mark.parametrize(
    ("engine", "options", "told_elsewhere"),
    [
        ("fake", FakeOptions, Section),
        ("whisper", WhisperOptions, Section),
        ("whisper-transformers", WhisperTransformersOptions, DecodingOptions),
        ("vllm", VllmOptions, AskingOptions),
    ],
)
def test_the_page_lists_every_option_with_its_default(
    engine: str, options: type[Section], told_elsewhere: type[Section]
) -> None:
    section = PAGE.read_text("utf-8").partition(f"\n## {engine}\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    listed = {row[0].strip("| `"): row[1] for row in rows}
    for name, field in options.model_fields.items():
        if name in told_elsewhere.model_fields:
            continue
        default = field.default if isinstance(field.default, str) and field.default else json.dumps(field.default)
        assert listed[name] in (default, default.removesuffix(".0")), name
        assert field.description


def test_an_option_that_cannot_be_is_named_with_the_next_step() -> None:
    def read(**options: object) -> WhisperOptions:
        return read_options(WhisperOptions, EngineConfig(options=options))

    assert read(beam_size=2).beam_size == 2
    with pytest.raises(ConfigError, match=r"engine\.options\.beam_size cannot be 0: .* greater .*; correct it"):
        read(beam_size=0)
    with pytest.raises(ConfigError, match=r"The whisper engine has no option 'beam'; .* can hold: .*beam_size, "):
        read(beam=2)


@pytest.mark.parametrize(
    ("tag", "language"), [("en", "en"), ("en-US", "en"), ("pt_BR", "pt"), ("DE", "de"), ("haw", "haw"), (" fr ", "fr")]
)
def test_a_language_tag_is_read_by_its_first_part(tag: str, language: str) -> None:
    assert primary_language(tag) == language
