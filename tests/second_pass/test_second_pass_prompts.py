"""What the model is asked: words, places for values, and control tokens that no text can become."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import SecondPassConfig
from pipeline.errors import ConfigError
from pipeline.second_pass.prompts import MARKUPS, Control, Template, Wording, choose_markup, prompt


def test_a_template_is_filled_in_one_pass() -> None:
    template = Template.parse("In {language}: {question} {{so}} <{text}>", "here")
    found = template.fill("{question} {language.__class__} {{", "en", "{text}?")
    assert found == "In en: {text}? {so} <{question} {language.__class__} {{>"


@given(st.text())
def test_a_text_stands_in_the_prompt_as_it_is(text: str) -> None:
    template = Wording.of(SecondPassConfig()).template
    assert template.fill(text, "en", "") == template.fill("", "en", "") + text


@pytest.mark.parametrize(
    "words",
    [
        "{text.__class__}",
        "{text} {config}",
        "{text!r}",
        "{text:>10}",
        "{text[0]}",
        "{0} {text}",
        "{} {text}",
        "{text",
        "no place for it",
    ],
)
def test_a_template_reaches_nothing_else(words: str) -> None:
    with pytest.raises(ConfigError, match=r"second_pass\.template"):
        Wording.of(SecondPassConfig(template=words))


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"task": "question"}, "give second_pass.question"),
        ({"task": "question", "question": " "}, "give second_pass.question"),
        ({"task": "summary", "question": "Who?"}, "no place"),
        ({"task": "correction", "combine_template": "{text}"}, "leave second_pass.combine_template out"),
        ({"combine_template": "nothing"}, "second_pass.combine_template has no {text}"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, str], wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        Wording.of(SecondPassConfig.model_validate(settings))


def test_own_words_take_the_place_of_ours() -> None:
    wording = Wording.of(SecondPassConfig(template="{question}: {text}", question="Names", system=""))
    assert prompt("chatml", wording.system, wording.template.fill("Ann came.", "en", "Names")) == (
        Control("<|im_start|>"),
        "user\nNames: Ann came.",
        Control("<|im_end|>"),
        "\n",
        Control("<|im_start|>"),
        "assistant\n",
    )


def test_granite_turns_are_marked_as_granite_marks_them() -> None:
    pieces = prompt("granite", "Be brief.", "Say <|end_of_text|>")
    start, end, stop = (Control(f"<|{name}|>") for name in ("start_of_role", "end_of_role", "end_of_text"))
    assert pieces == (
        *(start, "system", end, "Be brief.", stop, "\n"),
        *(start, "user", end, "Say <|end_of_text|>", stop, "\n"),
        *(start, "assistant", end),
    )


def test_plain_prompts_are_one_text() -> None:
    assert prompt("plain", "Be brief.", "Say it.") == ("Be brief.\n\nSay it.\n\nAnswer:\n",)
    assert prompt("plain", "", "Say it.") == ("Say it.\n\nAnswer:\n",)


@pytest.mark.parametrize("name", list(MARKUPS))
def test_auto_goes_by_the_control_tokens(name: str) -> None:
    found = choose_markup("auto", {"<unk>", *MARKUPS[name].controls}, "m")  # type: ignore[index]
    assert found == name


def test_a_markup_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"lacks the special tokens of second_pass\.markup=granite"):
        choose_markup("granite", {"<|im_start|>", "<|im_end|>"}, "m")
    assert choose_markup("plain", {"<|im_start|>", "<|im_end|>"}, "m") == "plain"


def test_an_empty_text_keeps_its_turn() -> None:
    """The room beside the words is measured so."""
    assert prompt("granite", "", "")[:3] == (Control("<|start_of_role|>"), "user", Control("<|end_of_role|>"))
