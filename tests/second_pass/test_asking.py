"""How transcripts become prompts, and replies answers: parts, rounds of joining, budgets, what is kept out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import SecondPassConfig
from pipeline.errors import AnswerError, ConfigError
from pipeline.records import Failure
from pipeline.second_pass.asking import Asker, Prompt, Reply
from pipeline.second_pass.prompts import Pieces, Wording
from pipeline.second_pass.texts import SourceText

LONG = " ".join(f"Sentence number {number} is here." for number in range(200))  # 1000 words
LOST = Failure("transcribe", "engine_oom", "It did not fit.")


def count(pieces: Pieces) -> int:
    """A model whose tokens are words."""
    return sum(len(piece.split()) if isinstance(piece, str) else 1 for piece in pieces)


class Model:
    """Answers each prompt by a rule, and keeps what it was asked: a round is one list."""

    def __init__(self, rule: Callable[[str], str | Failure | Reply]) -> None:
        self._rule = rule
        self.rounds: list[list[Prompt]] = []

    def ask(self, prompts: Sequence[Prompt]) -> list[Reply | Failure]:
        self.rounds.append(list(prompts))
        return [self._reply(prompt) for prompt in prompts]

    def _reply(self, prompt: Prompt) -> Reply | Failure:
        found = self._rule(text_of(prompt))
        return found if not isinstance(found, str) else Reply(found, count(prompt.pieces), count((found,)), "eos")


def text_of(prompt: Prompt) -> str:
    """What stands behind the marker of the template, without the end of a plain prompt."""
    (words,) = prompt.pieces
    assert isinstance(words, str)
    return re.split(r"TEXT:|JOIN:", words)[1].removesuffix("\n\nAnswer:\n")


def asker(model: Model, **settings: object) -> Asker:
    words = {"template": "TEXT:{text}", "system": "", "context_tokens": 150, "max_answer_tokens": 20}
    if settings.get("task") != "correction":
        words["combine_template"] = "JOIN:{text}"
    config = SecondPassConfig.model_validate({**words, **settings})
    return Asker(config, Wording.of(config), "plain", 1000, count, model.ask)


def source(text: str, **fields: object) -> SourceText:
    return SourceText("r1", text, **fields)  # type: ignore[arg-type]


def test_texts_are_asked_about_together_and_answered_in_order() -> None:
    model = Model(str.upper)
    found = asker(model).answer([source("one"), source("  "), source("three.", status="partial")])
    assert [(answer.status, answer.text, answer.warnings) for answer in found] == [
        ("ok", "ONE", ()),
        ("skipped", "", ("no_text",)),
        ("ok", "THREE.", ("transcript_partial",)),
    ]
    assert [len(asked) for asked in model.rounds] == [2]
    assert [(answer.parts, answer.n_tokens) for answer in found] == [(1, 1), (0, 0), (1, 1)]


def test_nothing_to_ask_asks_nothing() -> None:
    model = Model(str.upper)
    assert asker(model).answer([source(""), source("", status="failed")])[1].warnings == (
        "transcript_failed",
        "no_text",
    )
    assert model.rounds == []


def test_a_long_text_is_read_whole_and_its_answers_joined() -> None:
    model = Model(lambda text: " ".join(re.findall(r"\d+", text)[:1]))  # the first number of a part
    (answer,) = asker(model).answer([source(LONG)])
    first, second = model.rounds
    assert "".join(text_of(prompt) + " " for prompt in first).split() == LONG.split()
    assert all(count(prompt.pieces) + prompt.budget <= 150 for asked in model.rounds for prompt in asked)
    assert [text_of(prompt).split() for prompt in second] == [
        [re.findall(r"\d+", text_of(prompt))[0] for prompt in first]
    ]
    assert (answer.text, answer.status, answer.parts, answer.warnings) == ("0", "ok", len(first), ("text_split",))
    assert answer.chars_read == len(LONG)
    assert answer.n_prompt_tokens == sum(count(prompt.pieces) for asked in model.rounds for prompt in asked)


def test_many_answers_are_joined_in_rounds_and_a_lone_one_is_not_asked_about_again() -> None:
    model = Model(lambda text: "word " * 19 + re.findall(r"\S+", text)[-1])  # 20 words: five fit into one prompt
    short, long = asker(model).answer([source("Short one."), source(LONG)])
    sizes = [len(asked) for asked in model.rounds]
    assert sizes[0] > sizes[1] > sizes[-1] == 1
    assert short.parts == 1
    assert short.n_tokens == 20
    assert long.text.endswith("here.")


def test_answers_that_cannot_be_joined_fail_their_recording_alone() -> None:
    model = Model(lambda text: "word " * 100 if len(text) > 20 else "fine")
    long, short = asker(model).answer([source(LONG), source("Short.")])
    assert (long.status, long.failure and long.failure.code) == ("failed", "text_too_long")
    assert (short.status, short.text) == ("ok", "fine")


@pytest.mark.parametrize("policy", ["cut", "fail"])
def test_long_texts_can_be_cut_or_refused(policy: str) -> None:
    model = Model(lambda text: "fine")
    long, short = asker(model, long_text=policy).answer([source(LONG), source("Short.")])
    assert short.status == "ok"
    if policy == "fail":
        assert (long.status, long.failure and long.failure.code, long.chars_read) == ("failed", "text_too_long", 0)
        assert len(model.rounds[0]) == 1
    else:
        assert (long.status, long.parts, long.warnings) == ("ok", 1, ("text_cut",))
        assert 0 < long.chars_read < len(LONG)
        assert LONG.startswith(text_of(model.rounds[0][0]))


def test_a_part_that_fails_fails_its_recording_alone() -> None:
    model = Model(lambda text: LOST if "number 100 " in text else "fine")
    long, short = asker(model).answer([source(LONG), source("Short.")])
    assert (long.status, long.failure, long.text) == ("failed", LOST, "")
    assert short.status == "ok"


def test_a_text_that_cannot_be_counted_fails_alone() -> None:
    def strict(pieces: Pieces) -> int:
        if any("</s>" in piece for piece in pieces if isinstance(piece, str)):
            raise AnswerError("text_unreadable", "It reads a control token.")
        return count(pieces)

    model = Model(str.upper)
    config = SecondPassConfig(template="TEXT:{text}", system="")
    found = Asker(config, Wording.of(config), "plain", 1000, strict, model.ask).answer(
        [source("a </s> b"), source("b")]
    )
    assert [(answer.status, answer.failure and answer.failure.code) for answer in found] == [
        ("failed", "text_unreadable"),
        ("ok", None),
    ]
    assert found[0].failure is not None
    assert found[0].failure.stage == "answer"


def test_what_ended_the_answers_is_told() -> None:
    model = Model(lambda text: Reply("cut", 1, 1, "length") if "number 0 " in text else "fine")
    (answer,) = asker(model).answer([source(LONG)])
    assert (answer.stop_reason, answer.warnings) == ("eos", ("text_split", "answer_budget_hit"))
    model = Model(lambda text: Reply("", 1, 0, "loop"))
    (answer,) = asker(model).answer([source("Short.")])
    assert (answer.stop_reason, answer.warnings) == ("loop", ("answer_loop_cut", "answer_empty"))


@given(st.lists(st.sampled_from(["one", "two.", "three?", "four\n"]), max_size=300).map(" ".join))
def test_a_correction_that_changes_nothing_gives_the_text_back(text: str) -> None:
    (answer,) = asker(Model(str.strip), task="correction").answer([source(text)])
    assert answer.text.split() == text.split()
    assert answer.status == ("ok" if text.strip() else "skipped")
    assert answer.parts_rejected == 0


def test_corrections_have_room_to_grow() -> None:
    model = Model(str.strip)
    asker(model, task="correction").answer([source(LONG), source("Short one.")])
    for prompt in model.rounds[0]:
        assert prompt.budget >= 1.5 * count((text_of(prompt),))
        assert count(prompt.pieces) + prompt.budget <= 150


def test_where_a_correction_is_kept_out_the_transcript_stands() -> None:
    model = Model(lambda text: "I cannot help." if "number 100 " in text else text.replace("number", "numbr").strip())
    (answer,) = asker(model, task="correction").answer([source(LONG)])
    assert (answer.status, answer.parts_rejected, answer.warnings) == ("ok", 1, ("text_split", "parts_rejected"))
    assert "number 100 " in answer.text
    assert "numbr 0 " in answer.text
    assert len(answer.text.split()) == len(LONG.split())


@pytest.mark.parametrize("reply", ["", "No.", Reply("Short one", 1, 2, "length"), Reply("Short one", 1, 2, "loop")])
def test_a_correction_of_which_nothing_is_kept_is_rejected(reply: str | Reply) -> None:
    (answer,) = asker(Model(lambda text: reply), task="correction").answer([source("Short one of six words here.")])
    assert (answer.status, answer.text) == ("rejected", "Short one of six words here.")
    assert answer.warnings[-1] == "correction_rejected"


def test_a_prompt_that_leaves_no_room_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"second_pass\.max_answer_tokens"):
        asker(Model(str.upper), context_tokens=64, max_answer_tokens=60)


def test_a_row_whose_language_fills_the_context_fails_alone() -> None:
    """Languages come from manifests, so they can be anything."""
    model = Model(str.upper)
    odd, plain = asker(model, template="{language} TEXT:{text}").answer(
        [source("One.", language="en " * 200), source("Two.", language="en")]
    )
    assert (odd.status, odd.failure and odd.failure.code) == ("failed", "text_too_long")
    assert (plain.status, plain.text) == ("ok", "TWO.")
