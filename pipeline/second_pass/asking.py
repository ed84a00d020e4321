"""Texts in, answers out: cuts what is too long, asks about all parts together, joins what comes back.

Knows no model: `ask` is handed in. All prompts of a round are asked at once, so that the model can batch them by length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pipeline.config import SecondPassConfig
from pipeline.errors import AnswerError, ConfigError
from pipeline.records import Failure
from pipeline.second_pass.answers import Answer
from pipeline.second_pass.cutting import cut
from pipeline.second_pass.guard import keeps_text
from pipeline.second_pass.prompts import MarkupName, Pieces, Template, Wording, prompt
from pipeline.second_pass.texts import SourceText

MAX_ROUNDS = 8  # of joining: where answers fit two by two, 256 parts are one answer by then
_MARGIN_TOKENS = 16  # tokens at the seam of words and text can come out otherwise than apart
_CORRECTION_GROWTH, _CORRECTION_SLACK = 1.5, 32  # tokens of a corrected text to those of the text
_STOP_WARNINGS = {"length": "answer_budget_hit", "loop": "answer_loop_cut"}


class Prompt(NamedTuple):
    """What the model is asked, and how many tokens its answer may have."""

    pieces: Pieces
    budget: int


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model wrote."""

    text: str
    n_prompt_tokens: int
    n_tokens: int
    stop_reason: str  # "eos" | "length" | "loop"


Ask = Callable[[Sequence[Prompt]], list[Reply | Failure]]


@dataclass(slots=True)
class _Case:
    """One transcript on its way."""

    source: SourceText
    parts: list[str] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)  # to the parts, or of the latest round of joining
    spent: list[Reply] = field(default_factory=list)  # all that was written for it
    warnings: list[str] = field(default_factory=list)
    failure: Failure | None = None

    def take(self, replies: Sequence[Reply | Failure]) -> None:
        """The replies of one round, in order: one that failed fails the whole."""
        self.failure = next((reply for reply in replies if isinstance(reply, Failure)), None)
        self.replies = [reply for reply in replies if isinstance(reply, Reply)]
        self.spent += self.replies


class Asker:
    """One task with its wording, for a model with `context` positions whose tokens `count` counts."""

    def __init__(
        self,
        config: SecondPassConfig,
        wording: Wording,
        markup: MarkupName,
        context: int,
        count: Callable[[Pieces], int],
        ask: Ask,
    ) -> None:
        """Raises ConfigError when the context has no room for a text."""
        self._config, self._wording, self._markup, self._count, self._ask = config, wording, markup, count, ask
        self._context = min(context, config.context_tokens)
        self._room = self._room_for(wording.template)
        joins = wording.combine if config.long_text == "split" else None
        self._combine_room = self._room_for(joins) if joins else 0

    def answer(self, texts: Sequence[SourceText]) -> list[Answer]:
        """One answer per text, in order. Raises EngineDead."""
        cases = [_Case(text) for text in texts]
        for case in cases:
            try:
                self._cut(case)
            except AnswerError as error:
                case.failure = Failure.of(error)
        self._round([(case, case.parts) for case in cases if case.parts], self._wording.template)
        for _ in range(MAX_ROUNDS if self._wording.combine else 0):
            open_cases = [case for case in cases if len(case.replies) > 1 and not case.failure]
            if not open_cases:
                break
            self._join(open_cases, self._wording.combine)
        return [self._finish(case) for case in cases]

    def _cut(self, case: _Case) -> None:
        text = case.source.text.strip()
        if case.source.status != "ok":
            case.warnings.append(f"transcript_{case.source.status}")
        if not text:
            return
        parts = cut(text, self._room, self._count_text, case.source.segments)
        if len(parts) > 1 and self._config.long_text == "fail":
            raise _too_long(f"The transcript has more tokens than the {self._room} that fit beside the prompt")
        if len(parts) > 1:
            case.warnings.append("text_split" if self._config.long_text == "split" else "text_cut")
        case.parts = parts if self._config.long_text == "split" else parts[:1]

    def _round(self, wanted: Sequence[tuple[_Case, list[str]]], template: Template) -> None:
        """Ask about all texts of all cases together."""
        prompts = [[self._prompt(template, case, text) for text in texts] for case, texts in wanted]
        asked = [each for group in prompts for each in group if isinstance(each, Prompt)]
        replies = iter(self._ask(asked) if asked else [])
        for (case, _), group in zip(wanted, prompts, strict=True):
            case.take([next(replies) if isinstance(each, Prompt) else each for each in group])

    def _prompt(self, template: Template, case: _Case, text: str) -> Prompt | Failure:
        """The prompt, with an answer that ends inside the context; a failure where there is no room for one."""
        user = template.fill(text.strip(), case.source.language or "", self._wording.question)
        pieces = prompt(self._markup, self._wording.system, user)
        try:
            room = self._context - self._count(pieces)
        except AnswerError as error:
            return Failure.of(error)
        if room < 1:
            return Failure.of(_too_long(f"The prompt alone has {self._context - room} tokens"))
        return Prompt(pieces, min(self._budget(text), room))

    def _join(self, cases: Sequence[_Case], template: Template | None) -> None:
        """One round of joining: neighbouring replies become one as far as they fit in a prompt; a lone one stays."""
        if template is None:
            return
        going_on = []
        for case in cases:
            try:
                going_on.append((case, self._groups(case.replies)))
            except AnswerError as error:
                case.failure = Failure.of(error)
        self._round(
            [(case, [_joined(group) for group in groups if len(group) > 1]) for case, groups in going_on], template
        )
        for case, groups in going_on:
            fresh = iter(case.replies)
            if not case.failure:
                case.replies = [next(fresh) if len(group) > 1 else group[0] for group in groups]

    def _groups(self, replies: Sequence[Reply]) -> list[list[Reply]]:
        groups = [[replies[0]]]
        for reply in replies[1:]:
            if self._count_text(_joined([*groups[-1], reply])) <= self._combine_room:
                groups[-1].append(reply)
            else:
                groups.append([reply])
        if len(groups) == len(replies):
            raise _too_long(f"The answers to {len(groups)} parts do not fit in a prompt two by two")
        return groups

    def _finish(self, case: _Case) -> Answer:
        stops = [reply.stop_reason for reply in case.spent]
        if not case.failure and len(case.replies) > 1 and self._wording.combine:
            case.failure = Failure.of(_too_long(f"The answers to the parts were not joined in {MAX_ROUNDS} rounds"))
        answer = Answer(
            "failed" if case.failure else "ok",
            failure=case.failure,
            parts=len(case.parts),
            chars_read=sum(map(len, case.parts)),
            n_prompt_tokens=sum(reply.n_prompt_tokens for reply in case.spent),
            n_tokens=sum(reply.n_tokens for reply in case.spent),
            warnings=(*case.warnings, *(text for reason, text in _STOP_WARNINGS.items() if reason in stops)),
        )
        if case.failure:
            return answer
        if not case.parts:
            return replace(answer, status="skipped", warnings=(*answer.warnings, "no_text"))
        if self._config.task == "correction":
            return self._corrected(case, answer)
        (last,) = case.replies
        warnings = answer.warnings if last.text else (*answer.warnings, "answer_empty")
        return replace(answer, text=last.text, stop_reason=last.stop_reason, warnings=warnings)

    def _corrected(self, case: _Case, answer: Answer) -> Answer:
        """The corrected parts in the places of the parts; where the guard keeps a correction out, the part itself."""
        texts, rejected = [], 0
        for part, reply in zip(case.parts, case.replies, strict=True):
            kept = reply.stop_reason == "eos" and keeps_text(part, reply.text, self._config.max_change)
            rejected += not kept
            texts.append(reply.text.strip() + part[len(part.rstrip()) :] if kept else part)
        stop = max((reply.stop_reason for reply in case.replies), key=("eos", "length", "loop").index)
        answer = replace(answer, stop_reason=stop, parts_rejected=rejected)
        if rejected == len(texts):
            warnings = (*answer.warnings, "correction_rejected")
            return replace(answer, status="rejected", text=case.source.text, warnings=warnings)
        warnings = (*answer.warnings, "parts_rejected") if rejected else answer.warnings
        return replace(answer, text="".join(texts), warnings=warnings)

    def _budget(self, text: str) -> int:
        if self._config.task != "correction":
            return self._config.max_answer_tokens
        return math.ceil(self._count_text(text) * _CORRECTION_GROWTH) + _CORRECTION_SLACK

    def _room_for(self, template: Template) -> int:
        """Tokens of text that fit beside the words and the answer."""
        words = self._count(prompt(self._markup, self._wording.system, template.fill("", "", self._wording.question)))
        free = self._context - words - _MARGIN_TOKENS - self._budget("")
        room = math.floor(free / (1 + _CORRECTION_GROWTH)) if self._config.task == "correction" else free
        if room < _MARGIN_TOKENS:
            raise ConfigError(
                f"The prompt takes {words} tokens and its answer {self._budget('')} of the {self._context} of the context, which "
                "leaves no room for a transcript; lower second_pass.max_answer_tokens, or raise context_tokens."
            )
        return room

    def _count_text(self, text: str) -> int:
        return self._count((text,))


def _joined(replies: Sequence[Reply]) -> str:
    return "\n\n".join(reply.text for reply in replies)


def _too_long(what: str) -> AnswerError:
    return AnswerError("text_too_long", f"{what}; raise second_pass.context_tokens, or set long_text=split.")
