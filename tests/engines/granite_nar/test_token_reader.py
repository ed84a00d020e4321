"""From tokens to text: as the tokenizer's own decoding says, word by word, with the posteriors' means beside it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from pipeline.engines.granite_nar.collapse import Floats, Ints
from pipeline.engines.granite_nar.random_checkpoint import TINY, train_tokenizer
from pipeline.engines.granite_nar.reading import Reading, TokenReader
from pipeline.errors import ConfigError

VOCABULARY, BLANK, PAD = TINY.editor.vocabulary, TINY.blank_id, TINY.blank_id - 1
SPECIAL = (BLANK, PAD)
SENTENCE = "größere flüsse in 漢字 und 🙂 élèves"
NOTHING = Reading("", None, ())

token_ids = st.lists(st.integers(0, VOCABULARY - 1), max_size=30)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(VOCABULARY, BLANK)


@pytest.fixture(scope="module")
def reader(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> TokenReader:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(path))
    return TokenReader(path, VOCABULARY)


def with_posteriors(ids: Sequence[int]) -> tuple[Ints, Floats]:
    """The tokens with a posterior for each that depends on its place alone."""
    places = np.arange(len(ids))
    return np.array(ids, np.int64), ((places * 37 % 100 + 1) / 101).astype(np.float32)


def read(reader: TokenReader, ids: Sequence[int], words: bool = True) -> Reading:
    return reader.read([with_posteriors(ids)], words=words)[0]


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text).ids
    return ids


def plain_words(tokenizer: Tokenizer, ids: Ints, posteriors: Floats) -> list[tuple[str, float]]:
    """A loop over the tokens: a word begins with every token that begins with a space."""
    groups: list[tuple[list[int], list[float]]] = []
    for token, posterior in zip(ids.tolist(), posteriors.tolist(), strict=True):
        if token in SPECIAL:
            continue
        if not groups or str(tokenizer.id_to_token(token)).startswith("Ġ"):
            groups.append(([], []))
        groups[-1][0].append(token)
        groups[-1][1].append(posterior)
    spoken = [(tokenizer.decode(group).strip(), sum(of) / len(of)) for group, of in groups]
    return [(word, confidence) for word, confidence in spoken if word]


@given(clips=st.lists(token_ids, max_size=5))
@example(clips=[[], [BLANK], [BLANK, PAD, BLANK]])
def test_any_tokens_are_read_as_the_tokenizer_decodes_them(
    reader: TokenReader, tokenizer: Tokenizer, clips: list[list[int]]
) -> None:
    pairs = [with_posteriors(ids) for ids in clips]
    found = reader.read(pairs, words=True)
    assert len(found) == len(clips)
    for reading, (ids, posteriors) in zip(found, pairs, strict=True):
        plain = [token for token in ids.tolist() if token not in SPECIAL]
        assert reading.text == tokenizer.decode(plain, skip_special_tokens=False).strip()
        assert reading.text == tokenizer.decode(ids.tolist(), skip_special_tokens=True).strip()
        wanted = plain_words(tokenizer, ids, posteriors)
        assert [word.word for word in reading.words] == [word for word, _ in wanted]
        confidences = [word.confidence for word in reading.words]
        assert confidences == pytest.approx([confidence for _, confidence in wanted])
        assert all(confidence is not None and 0 <= confidence <= 1 for confidence in confidences)
        assert all((word.start_s, word.end_s) == (None, None) for word in reading.words)
        if reading.text:
            assert reading.confidence == pytest.approx(posteriors[~np.isin(ids, SPECIAL)].mean())
        else:
            assert reading == NOTHING


@given(ids=token_ids)
def test_words_are_those_of_the_text(reader: TokenReader, ids: list[int]) -> None:
    """Also where tokens are no valid UTF-8: a space ends a broken character whether or not the rest is decoded with it.

    Not where the text has white space besides the space (a newline, a no-break space): it stays within a word.
    """
    reading = read(reader, ids)
    spoken = [word.word for word in reading.words]
    assert " ".join(spoken).split() == reading.text.split()
    if {character for character in reading.text if character.isspace()} <= {" "}:
        assert spoken == reading.text.split()


@given(text=st.text(st.characters(codec="utf-8", exclude_categories=["Z", "Cc"]), max_size=20))
def test_any_word_comes_back(reader: TokenReader, tokenizer: Tokenizer, text: str) -> None:
    reading = read(reader, encode(tokenizer, f"so {text} it is"))
    assert reading.text == f"so {text} it is"
    assert [word.word for word in reading.words] == reading.text.split()


def test_a_character_may_lie_in_several_tokens(reader: TokenReader, tokenizer: Tokenizer) -> None:
    ids = encode(tokenizer, SENTENCE)
    assert any("�" in tokenizer.decode([token]) for token in ids)
    reading = read(reader, ids)
    assert reading.text == SENTENCE
    assert [word.word for word in reading.words] == SENTENCE.split()


def test_a_broken_character_ends_with_its_word(reader: TokenReader, tokenizer: Tokenizer) -> None:
    smile, more = encode(tokenizer, "🙂"), encode(tokenizer, " he said")
    assert len(smile) == 4
    reading = read(reader, [*smile[:2], *more, smile[3]])
    assert reading.text == "� he said�"
    assert [word.word for word in reading.words] == ["�", "he", "said�"]


def test_other_white_space_stays_within_a_word(reader: TokenReader, tokenizer: Tokenizer) -> None:
    reading = read(reader, encode(tokenizer, "one\ntwo three\u00a0four"))
    assert [word.word for word in reading.words] == ["one\ntwo", "three\u00a0four"]


def test_special_tokens_say_nothing_and_count_for_nothing(reader: TokenReader, tokenizer: Tokenizer) -> None:
    one, two = encode(tokenizer, "no")[0], encode(tokenizer, " in")[0]
    ids = np.array([BLANK, one, PAD, two, BLANK])
    posteriors = np.array([0.0, 0.5, 0.0, 1.0, 0.0], np.float32)
    reading = reader.read([(ids, posteriors)], words=True)[0]
    assert reading.confidence == 0.75
    assert [word.confidence for word in reading.words] == [0.5, 1.0]


def test_what_says_nothing_has_no_confidence(reader: TokenReader, tokenizer: Tokenizer) -> None:
    spaces = encode(tokenizer, "  ")
    assert reader.read([], words=True) == []
    for ids in ([], [BLANK], [PAD, BLANK], spaces, [*spaces, BLANK]):
        assert read(reader, ids) == NOTHING
        assert read(reader, ids, words=False) == NOTHING


def test_words_only_where_they_are_wished(reader: TokenReader, tokenizer: Tokenizer) -> None:
    ids = encode(tokenizer, SENTENCE)
    with_words, without = read(reader, ids), read(reader, ids, words=False)
    assert with_words.words
    assert without == with_words._replace(words=())


def test_several_threads_read_what_one_reads(reader: TokenReader) -> None:
    source = np.random.default_rng(0)
    calls = [
        [with_posteriors(source.integers(0, VOCABULARY, source.integers(0, 60)).tolist()) for _ in range(8)]
        for _ in range(200)
    ]
    wanted = [reader.read(call, words=True) for call in calls]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda call: reader.read(call, words=True), calls)) == wanted


def test_a_vocabulary_may_be_larger_than_the_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Models round their vocabulary up; what the rest of it means, nobody knows."""
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    ids = encode(tokenizer, "she counted")
    reading = TokenReader(path, VOCABULARY + 20).read([with_posteriors([*ids, VOCABULARY + 7])], words=True)[0]
    assert reading.text == "she counted"


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    with pytest.raises(
        ConfigError, match=f"tokenizer.json has {VOCABULARY} tokens, the model {VOCABULARY - 1}; take both"
    ):
        TokenReader(path, VOCABULARY - 1)
    sparse = Tokenizer.from_file(str(path))
    sparse.add_tokens([f"extra {number}" for number in range(3)])
    sparse.save(str(path))
    with pytest.raises(ConfigError, match=f"has {VOCABULARY + 3} tokens, the model {VOCABULARY};"):
        TokenReader(path, VOCABULARY)


def test_a_tokenizer_whose_ids_have_holes_is_measured_by_its_last(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text('{"model": {"type": "BPE", "vocab": {"a": 0, "b": 900}, "merges": []}}', "utf-8")
    with pytest.raises(ConfigError, match="has 901 tokens, the model 480;"):
        TokenReader(path, VOCABULARY)


@pytest.mark.parametrize("content", [None, "", "no json", "[]", '{"model": {"type": "?"}}'])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content, "utf-8")
    with pytest.raises(
        ConfigError, match=r"tokenizer\.json cannot be read \(.+\); download the model again\.$"
    ) as caught:
        TokenReader(path, VOCABULARY)
    assert "\n" not in str(caught.value)
