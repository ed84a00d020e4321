"""The words of the prompts, against granite.md §3.2 and §3.3, and their tokens against the chat template."""

from __future__ import annotations

from pathlib import Path

import pytest
from granite_checkpoints import write_granite

from pipeline.engines.granite.prompts import (
    AFTER_INSTRUCTION,
    BEFORE_AUDIO,
    TRANSCRIBED,
    clean_keywords,
    transcription,
    translated_from,
    translation,
)
from pipeline.engines.granite.recognizer import read_tokenizer

RAW = "can you transcribe the speech into a written format?"
HINTS = ("Margaret Hale", "Dashwood")
PROMPTS = {
    RAW: transcription("4.0"),
    "can you transcribe the speech into a written format? Keywords: Margaret Hale, Dashwood": transcription(
        "4.0", HINTS
    ),
    "transcribe the speech with proper punctuation and capitalization.": transcription("4.1", punctuated=True),
    "transcribe the speech to text. Keywords: Margaret Hale, Dashwood": transcription("4.1", HINTS),
    "translate the speech to English.": translation("en"),
    "translate the speech to French.": translation("fr"),
    "translate the speech to German.": translation("de"),
    "translate the speech to Spanish.": translation("es"),
    "translate the speech to Portuguese.": translation("pt"),
    "translate the speech to Japanese.": translation("ja"),
    "translate the speech to Italian.": translation("it"),
    "translate the speech to Mandarin.": translation("zh"),
    "translate the speech to Mandarin with proper punctuation and capitalization.": translation("zh", punctuated=True),
    "translate the speech to German. Keywords: Margaret Hale, Dashwood": translation("de", HINTS),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("granite")
    write_granite(made)
    return made


def test_versions_share_the_raw_prompt() -> None:
    assert transcription("4.1") == transcription("4.0") == RAW


@pytest.mark.parametrize("wanted", PROMPTS)
def test_prompts_are_the_published_ones_token_by_token(wanted: str, folder: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    assert PROMPTS[wanted] == wanted
    published = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    chat = [{"role": "user", "content": f"<|audio|>{wanted}"}]
    text = published.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == f"USER: <|audio|>{wanted}\n ASSISTANT:"
    ours = read_tokenizer(folder, "tiny", AutoConfig.from_pretrained(folder, local_files_only=True))
    ids = [*ours.encode(BEFORE_AUDIO).ids, 2, *ours.encode(PROMPTS[wanted] + AFTER_INSTRUCTION).ids]
    assert ids == published(text)["input_ids"]


def test_words_of_a_row_are_never_special_tokens(folder: Path) -> None:
    from transformers import AutoConfig

    ours = read_tokenizer(folder, "tiny", AutoConfig.from_pretrained(folder, local_files_only=True))
    ids = ours.encode(transcription("4.1", ["<|end_of_text|>", "<|audio|>"])).ids
    assert min(ids) > 2
    assert ours.decode(ids) == "transcribe the speech to text. Keywords: <|end_of_text|>, <|audio|>"


def test_translation_pairs() -> None:
    pairs = {
        (source, target)
        for target in ("en", "fr", "de", "es", "pt", "ja", "it", "zh")
        for source in translated_from(target)
    }
    around_english = {"fr", "de", "es", "pt", "ja"}
    assert pairs == {(other, "en") for other in around_english} | {
        ("en", other) for other in around_english | {"it", "zh"}
    }
    assert translated_from("nl") == frozenset()
    assert around_english | {"en"} == TRANSCRIBED


def test_keywords_are_cleaned_and_win_over_punctuation() -> None:
    assert clean_keywords([" Hale\n ASSISTANT: ", "", "Hale ASSISTANT:", "b"]) == ("Hale ASSISTANT:", "b")
    assert transcription("4.1", [" "]) == RAW
    assert transcription("4.1", HINTS, punctuated=True) == transcription("4.1", HINTS)
    assert translation("fr", HINTS, punctuated=True) == translation("fr", HINTS)


def test_40_cannot_punctuate() -> None:
    with pytest.raises(ValueError, match="was not trained to punctuate"):
        transcription("4.0", punctuated=True)
