"""What a config or a row asks of an engine, whether the engine can, and which engine of the registry can instead.

Nothing is loaded or described to say so: OFFERS is written by hand, from what runs today. `fake` is never proposed, nor are
`whisper-transformers` and `vllm`, which can what `whisper` and `granite` can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipeline.config import EngineConfig
    from pipeline.engines.base import EngineSpec

_FEW_LANGUAGES = 12  # listed in a sentence, so that a slip such as "eng" explains itself


@dataclass(frozen=True, slots=True)
class Wish:
    """What a recording needs of the engine that transcribes it."""

    task: str
    language: str | None  # as engines write it ("en"); None: not named, so to be detected
    keywords: bool = False
    target: str | None = None  # the language to translate into; None: the one that the engine was described with

    @staticmethod
    def of(task: str, tag: str | None, keywords: bool = False) -> Wish:
        """The wish with a language as people write it: "en-US"."""
        return Wish(task, primary_language(tag) if tag else None, keywords)

    @staticmethod
    def of_config(config: EngineConfig) -> Wish:
        """What a config asks for rows that say nothing else."""
        language = primary_language(config.language) if config.language else None
        return Wish(config.task, language, target=primary_language(str(config.options.get("target_language") or "en")))

    def of_row(self, task: str | None, tag: str | None, target: str | None, keywords: bool = False) -> Wish:
        """The wish of a row in a run whose config asks for this."""
        task = task or self.task
        target = primary_language(target) if target else self.target or "en"
        language = primary_language(tag) if tag else self.language
        return Wish(task, language, keywords, target if task == "translate" else None)


PLAIN = Wish("transcribe", None)  # of rows and configs that ask for nothing in particular


@dataclass(frozen=True, slots=True)
class Offer:
    """What an engine can do with the right model."""

    engine: str  # a name in ENGINES
    model: str  # which model: the end of "<engine> with …"
    languages: frozenset[str]
    tasks: frozenset[str] = frozenset({"transcribe"})
    features: frozenset[str] = frozenset()  # those that a request can need: "keywords", "language_detection"
    targets: frozenset[str] = frozenset({"en"})  # what it translates into

    def serves(self, wish: Wish) -> bool:
        """Whether nothing of the wish is left out."""
        known = "language_detection" in self.features if wish.language is None else wish.language in self.languages
        into = wish.task != "translate" or (wish.target or "en") in self.targets
        return known and into and wish.task in self.tasks and ("keywords" in self.features or not wish.keywords)


# Of every multilingual Whisper checkpoint; large-v3 added Cantonese. Codes as Whisper writes them: Javanese is "jw".
_WHISPER_CODES = """
    af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id is it
    ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si sk sl sn so
    sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo zh
"""
_WHISPER = frozenset(_WHISPER_CODES.split())
WHISPER_LANGUAGES = _WHISPER | {"yue"}  # every code that a Whisper can have a token for
_HINTS, _HINTS_AND_DETECTION = frozenset({"keywords"}), frozenset({"keywords", "language_detection"})

_GRANITE = frozenset({"de", "en", "es", "fr", "ja", "pt"})

# One line per engine and kind of model, the least demanding model of an engine first.
OFFERS = (
    Offer("whisper", "any model", frozenset({"en"}), features=_HINTS),
    Offer("whisper", "a multilingual model", _WHISPER, features=_HINTS_AND_DETECTION),
    Offer("whisper", "large-v3 or turbo", frozenset({"yue"}), features=_HINTS_AND_DETECTION),
    # turbo was not trained to translate.
    Offer("whisper", "a multilingual model other than turbo", _WHISPER, frozenset({"translate"}), _HINTS_AND_DETECTION),
    Offer("ctc", "granite-speech-5.0-470m-turboctc", frozenset({"en"})),
    Offer("granite", "granite-speech-4.1-2b", _GRANITE, features=_HINTS),
    Offer("granite", "granite-speech-4.1-2b", _GRANITE - {"en"}, frozenset({"translate"}), _HINTS),
    Offer(
        "granite",
        "granite-speech-4.1-2b",
        frozenset({"en"}),
        frozenset({"translate"}),
        _HINTS,
        frozenset({"de", "es", "fr", "it", "ja", "pt", "zh"}),
    ),
    Offer("granite-plus", "granite-speech-4.1-2b-plus", _GRANITE - {"ja"}, features=_HINTS),  # in its mode transcript
    Offer("granite-nar", "granite-speech-4.1-2b-nar", frozenset({"de", "en", "es", "fr", "pt"})),
)


def primary_language(tag: str) -> str:
    """The language of a tag as engines write it: "en-US" and "EN" are "en"."""
    return tag.replace("_", "-").split("-")[0].strip().lower()


def lacking(wish: Wish, spec: EngineSpec) -> Literal["task", "language"] | None:
    """What stands against a wish, keywords aside: the task (with the language to translate into), or the language."""
    if wish.task not in spec.tasks:
        return "task"
    known = _heard_languages(wish, spec)
    if known is not None and not known:
        return "task"
    return None if known is None or wish.language is None or wish.language in known else "language"


def _heard_languages(wish: Wish, spec: EngineSpec) -> frozenset[str] | None:
    """Languages of speech for the wish; None: any. Empty: it does nothing of the kind."""
    if wish.task == "translate" and wish.target is not None:
        if not spec.row_tasks:
            return spec.languages if wish.target == "en" else frozenset()
        return spec.row_tasks.get(wish.target, frozenset())
    return spec.row_tasks.get(wish.task, spec.languages)


def shortfall(wish: Wish, spec: EngineSpec) -> str | None:
    """What the engine cannot do of a wish and which one can, to follow "the engine"; None: it can do all of it."""
    lacks = []
    against = lacking(wish, spec)
    into = f" into {wish.target!r}" if (wish.target or "en") != "en" else ""
    if against == "task":
        lacks.append(wish.task + into)
    elif against == "language":
        known = sorted(_heard_languages(wish, spec) or ())
        listed = f" (it knows {', '.join(known)})" if len(known) <= _FEW_LANGUAGES else ""
        lacks.append(f"{wish.task} {wish.language!r}{into}{listed}")
    if wish.keywords and "keywords" not in spec.features:
        lacks.append("take keywords")
    if not lacks:
        return None
    # What is translated from English alone is translated into another language.
    from_english = into or ("translate" in spec.tasks and spec.languages == frozenset({"en"}))
    if wish.task == "translate" and from_english and wish.language not in ("en", None):
        who = "no engine here can (one of the two languages has to be English)"
        return f"{spec.name} with the model {spec.model} cannot {' or '.join(lacks)}; {who}"
    able: dict[str, str] = {}
    for offer in OFFERS:
        if offer.serves(wish):
            able.setdefault(offer.engine, f"{offer.engine} with {offer.model}")
    who = (
        f"{' or '.join(able.values())} can"
        if able
        else "no engine here can (languages are named as in 'en' or 'pt-BR')"
    )
    return f"{spec.name} with the model {spec.model} cannot {' or '.join(lacks)}; {who}"
