"""What a config or a row asks of an engine, whether the engine can, and which engine of the registry can instead.

Nothing is loaded or described to say so: OFFERS is written by hand, from what runs today. `fake` is never proposed, nor are
`whisper-transformers` and `vllm`, which can what `whisper` and `granite` can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.engines.base import EngineSpec

_FEW_LANGUAGES = 12  # listed in a sentence, so that a slip such as "eng" explains itself


@dataclass(frozen=True, slots=True)
class Wish:
    """What a recording needs of the engine that transcribes it."""

    task: str
    language: str | None  # as engines write it ("en"); None: not named, so to be detected
    keywords: bool = False

    @staticmethod
    def of(task: str, tag: str | None, keywords: bool = False) -> Wish:
        """The wish with a language as people write it: "en-US"."""
        return Wish(task, primary_language(tag) if tag else None, keywords)


@dataclass(frozen=True, slots=True)
class Offer:
    """What an engine can do with the right model."""

    engine: str  # a name in ENGINES
    model: str  # which model: the end of "<engine> with …"
    languages: frozenset[str]
    tasks: frozenset[str] = frozenset({"transcribe"})
    features: frozenset[str] = frozenset()  # those that a request can need: "keywords", "language_detection"

    def serves(self, wish: Wish) -> bool:
        """Whether nothing of the wish is left out."""
        known = "language_detection" in self.features if wish.language is None else wish.language in self.languages
        return known and wish.task in self.tasks and ("keywords" in self.features or not wish.keywords)


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
    Offer("granite-plus", "granite-speech-4.1-2b-plus", _GRANITE - {"ja"}, features=_HINTS),  # in its mode transcript
    Offer("granite-nar", "granite-speech-4.1-2b-nar", frozenset({"de", "en", "es", "fr", "pt"})),
)


def primary_language(tag: str) -> str:
    """The language of a tag as engines write it: "en-US" and "EN" are "en"."""
    return tag.replace("_", "-").split("-")[0].strip().lower()


def knows_language(spec: EngineSpec, language: str | None) -> bool:
    """Whether the engine takes audio in a language (as engines write it; None: not named)."""
    return spec.languages is None or language is None or language in spec.languages


def shortfall(wish: Wish, spec: EngineSpec) -> str | None:
    """What the engine cannot do of a wish and which one can, to follow "the engine"; None: it can do all of it."""
    lacking = []
    if wish.task not in spec.tasks:
        lacking.append(wish.task)
    elif not knows_language(spec, wish.language):
        known = sorted(spec.languages or ())
        listed = f" (it knows {', '.join(known)})" if len(known) <= _FEW_LANGUAGES else ""
        lacking.append(f"{wish.task} {wish.language!r}{listed}")
    if wish.keywords and "keywords" not in spec.features:
        lacking.append("take keywords")
    if not lacking:
        return None
    # What is translated from English alone is translated into another language, as no offer is.
    if (
        wish.task == "translate"
        and "translate" in spec.tasks
        and spec.languages == frozenset({"en"})
        and wish.language != "en"
    ):
        who = "no engine here can (one of the two languages has to be English)"
        return f"{spec.name} with the model {spec.model} cannot {' or '.join(lacking)}; {who}"
    able: dict[str, str] = {}
    for offer in OFFERS:
        if offer.serves(wish):
            able.setdefault(offer.engine, f"{offer.engine} with {offer.model}")
    who = (
        f"{' or '.join(able.values())} can"
        if able
        else "no engine here can (languages are named as in 'en' or 'pt-BR')"
    )
    return f"{spec.name} with the model {spec.model} cannot {' or '.join(lacking)}; {who}"
