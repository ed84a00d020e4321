"""What is asked of an engine: what it cannot do is said in one sentence, with an engine that can."""

from __future__ import annotations

from dataclasses import replace

import pytest
from faster_whisper.tokenizer import _LANGUAGE_CODES  # what its multilingual models have tokens for

from pipeline.config import EngineConfig
from pipeline.engines.base import ENGINES, check_request, describe_engine
from pipeline.engines.granite_nar.engine import LANGUAGES
from pipeline.engines.requests import OFFERS, Wish, shortfall
from pipeline.errors import ConfigError

ENGLISH = describe_engine(EngineConfig(name="fake", model="m", options={"languages": ["en"]}))
CANNOT = "fake with the model m cannot"
GRANITE = "granite with granite-speech-4.1-2b"
PLUS = "granite-plus with granite-speech-4.1-2b-plus"
NAR = "granite-nar with granite-speech-4.1-2b-nar"


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (
            Wish("transcribe", "fr"),
            f"{CANNOT} transcribe 'fr' (it knows en); whisper with a multilingual model or {GRANITE} "
            f"or {PLUS} or {NAR} can",
        ),
        (
            Wish("transcribe", "yue"),
            f"{CANNOT} transcribe 'yue' (it knows en); whisper with large-v3 or turbo can",
        ),
        (
            Wish("transcribe", "en", keywords=True),
            f"{CANNOT} take keywords; whisper with any model or {GRANITE} or {PLUS} can",
        ),
        (Wish("transcribe", None, keywords=True), f"{CANNOT} take keywords; whisper with a multilingual model can"),
        (
            Wish("transcribe", "ja", keywords=True),
            f"{CANNOT} transcribe 'ja' (it knows en) or take keywords; whisper with a multilingual model or {GRANITE} can",
        ),
        (
            Wish("translate", "fr"),
            f"{CANNOT} translate; whisper with a multilingual model other than turbo or {GRANITE} can",
        ),
        (
            Wish("transcribe", "french"),
            f"{CANNOT} transcribe 'french' (it knows en); no engine here can "
            "(languages are named as in 'en' or 'pt-BR')",
        ),
    ],
)
def test_what_cannot_be_done_names_an_engine_that_can(wish: Wish, expected: str) -> None:
    assert shortfall(wish, ENGLISH) == expected


def test_what_can_be_done_is_not_objected_to() -> None:
    assert shortfall(Wish("transcribe", "en"), ENGLISH) is None
    assert shortfall(Wish.of("transcribe", "EN_us"), ENGLISH) is None
    assert shortfall(Wish("transcribe", None), ENGLISH) is None
    able = replace(
        ENGLISH, languages=None, tasks=frozenset({"transcribe", "translate"}), features=frozenset({"keywords"})
    )
    assert shortfall(Wish("translate", "xx", keywords=True), able) is None


def test_nobody_is_proposed_for_a_pair_without_english() -> None:
    """Granite with another target than English knows English alone; whisper writes nothing else than English."""
    into_french = replace(ENGLISH, tasks=frozenset({"transcribe", "translate"}))
    told = shortfall(Wish("translate", "de"), into_french)
    assert (
        told
        == f"{CANNOT} translate 'de' (it knows en); no engine here can (one of the two languages has to be English)"
    )
    assert shortfall(Wish("translate", "en"), into_french) is None


def test_an_engine_is_proposed_only_if_it_does_all_that_is_asked() -> None:
    assert (shortfall(Wish("transcribe", "fr", keywords=True), ENGLISH) or "").endswith(
        f"multilingual model or {GRANITE} or {PLUS} can"
    )
    assert (shortfall(Wish("translate", "fr"), ENGLISH) or "").endswith(f"other than turbo or {GRANITE} can")


def test_a_long_list_of_languages_is_left_out_of_the_sentence() -> None:
    spec = replace(ENGLISH, languages=frozenset(_LANGUAGE_CODES))
    assert (shortfall(Wish("transcribe", "xx"), spec) or "").startswith(f"{CANNOT} transcribe 'xx'; no engine")


def test_offers_are_of_engines_that_are_there() -> None:
    assert {offer.engine for offer in OFFERS} == set(ENGINES) - {"fake", "whisper-transformers", "vllm"}
    assert next(offer for offer in OFFERS if offer.engine == "granite-nar").languages == LANGUAGES
    whisper = [offer for offer in OFFERS if offer.engine == "whisper"]
    assert frozenset().union(*(offer.languages for offer in whisper)) == frozenset(_LANGUAGE_CODES)


def test_an_english_whisper_keeps_what_is_offered_of_any_model() -> None:
    spec = describe_engine(EngineConfig(name="whisper", model="tiny.en"))
    assert shortfall(Wish("transcribe", "en", keywords=True), spec) is None
    offered = next(offer for offer in OFFERS if (offer.engine, offer.model) == ("whisper", "any model"))
    assert offered.languages == spec.languages
    assert offered.tasks <= spec.tasks
    assert offered.features <= spec.features
    assert shortfall(Wish("transcribe", "fr", keywords=True), spec) == (
        "whisper with the model tiny.en cannot transcribe 'fr' (it knows en); "
        f"whisper with a multilingual model or {GRANITE} or {PLUS} can"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"task": "translate"},
            "engine.task cannot be 'translate': the engine fake with the model tiny.en cannot transl",
        ),
        (
            {"language": "fr-CA"},
            "engine.language cannot be 'fr-CA': the engine fake with the model tiny.en cannot tran",
        ),
    ],
)
def test_a_config_that_the_engine_cannot_serve_is_refused(wrong: dict[str, str], message: str) -> None:
    config = EngineConfig(name="fake", options={"languages": ["en"]})
    spec = describe_engine(config.model_copy(update={"language": "en-GB"}))
    for ask in (describe_engine, lambda asked: check_request(asked, spec)):
        with pytest.raises(ConfigError) as caught:
            ask(config.model_copy(update=wrong))
        assert str(caught.value).startswith(message)
        assert "whisper with a multilingual model" in str(caught.value)


def test_whisper_says_more_of_itself() -> None:
    with pytest.raises(ConfigError, match=r"does not know 'fr'; engine\.language can be en, or take a multilingual"):
        describe_engine(EngineConfig(name="whisper", language="fr"))
    with pytest.raises(ConfigError, match=r"cannot translate; take a multilingual one"):
        describe_engine(EngineConfig(name="whisper", task="translate"))
