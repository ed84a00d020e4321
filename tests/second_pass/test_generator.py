"""Real models of transformers, tiny and random, loaded from folders as a user's are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from causal_models import write_causal
from safetensors.torch import load_file, save_file

from pipeline.config import SecondPassConfig
from pipeline.errors import AnswerError, EngineDead, EngineOutOfMemory
from pipeline.records import Failure
from pipeline.second_pass.asking import Prompt, Reply
from pipeline.second_pass.checkpoint import read_language_model
from pipeline.second_pass.generator import Generator
from pipeline.second_pass.prompts import prompt

KINDS = [("granite", "granite"), ("llama", "llama3"), ("granite-hybrid", "granite"), ("llama", "plain")]
TEXTS = ["say " * length + "it" for length in (1, 30, 4, 11, 2)]
BUDGETS = [30, 4, 25, 12, 1]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    made: dict[tuple[str, str], Path] = {}

    def folder(kind: str, markup: str) -> Path:
        if (kind, markup) not in made:
            made[kind, markup] = tmp_path_factory.mktemp(kind) / "model"
            write_causal(made[kind, markup], kind, markup)
        return made[kind, markup]

    return folder


def load(folder: Path, most_positions: int = 4096) -> Generator:
    _, described = read_language_model(SecondPassConfig(model=str(folder)))
    return Generator(
        folder,
        described,
        device=torch.device("cpu"),
        dtype=torch.float32,
        threads=1,
        most_positions=most_positions,
    )


@pytest.fixture
def generator(folders: Callable[[str, str], Path]) -> Iterator[Generator]:
    found = load(folders("granite", "granite"))
    yield found
    found.close()


def prompts(markup: Any) -> list[Prompt]:
    return [Prompt(prompt(markup, "Be brief.", text), budget) for text, budget in zip(TEXTS, BUDGETS, strict=True)]


def by_transformers(folder: Path, text: str, budget: int) -> str:
    """A rendered prompt, read by transformers' tokenizer and answered by its greedy `generate`."""
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    found = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        temperature=None,
        repetition_penalty=1.0,
        max_new_tokens=budget,
    )
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)).strip()


@pytest.mark.parametrize(("kind", "markup"), KINDS)
def test_replies_are_transformers_own_and_do_not_depend_on_batch_mates(
    folders: Callable[[str, str], Path], kind: str, markup: str
) -> None:
    folder = folders(kind, markup)
    generator = load(folder)
    together = generator.ask(prompts(markup))
    alone = [generator.ask([each])[0] for each in prompts(markup)]
    backwards = generator.ask(prompts(markup)[::-1])[::-1]
    generator.close()
    assert together == alone == backwards
    assert len({reply.text for reply in together if isinstance(reply, Reply)}) > 1
    for each, reply in zip(prompts(markup), together, strict=True):
        assert isinstance(reply, Reply)
        if reply.stop_reason != "loop":
            rendered = "".join(piece if isinstance(piece, str) else piece.token for piece in each.pieces)
            assert reply.text == by_transformers(folder, rendered, each.budget)


def test_a_model_whose_two_embeddings_are_one_loads(tmp_path: Path) -> None:
    """As most small Granite models are saved: the weights of the head are not in the file."""
    write_causal(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    generator = load(tmp_path)
    together = generator.ask(prompts("granite"))
    assert together == [generator.ask([each])[0] for each in prompts("granite")]
    generator.close()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gpt2", "bloom", "mamba", "mistral", "gemma2"])
def test_other_families_answer_as_if_alone(tmp_path: Path, kind: str) -> None:
    write_causal(tmp_path, kind, "chatml")
    generator = load(tmp_path)
    together = generator.ask(prompts("chatml"))
    assert together == [generator.ask([each])[0] for each in prompts("chatml")]
    assert all(isinstance(reply, Reply) for reply in together)
    generator.close()


def test_budgets_and_ends_are_kept(generator: Generator) -> None:
    replies = generator.ask(prompts("granite"))
    for reply, budget in zip(replies, BUDGETS, strict=True):
        assert isinstance(reply, Reply)
        assert reply.n_tokens <= budget
        assert (reply.n_tokens == budget) >= (reply.stop_reason == "length")


@pytest.mark.parametrize(("kind", "markup"), KINDS)
def test_no_text_becomes_a_control_token(folders: Callable[[str, str], Path], kind: str, markup: str) -> None:
    folder = folders(kind, markup)
    generator = load(folder)
    tokenizer = generator._tokenizer
    added = json.loads((folder / "tokenizer.json").read_text())["added_tokens"]
    control = {token["id"] for token in added}
    for token in added:
        text = f"a{token['content']}b {token['content']}"
        ids = tokenizer.encode((text,))
        assert control.isdisjoint(ids), token
        assert tokenizer.decode(ids) == text
    generator.close()


def test_a_tokenizer_that_reads_control_tokens_all_the_same_is_noticed(
    folders: Callable[[str, str], Path], tmp_path: Path
) -> None:
    """A unigram vocabulary holds the end token as a word like others."""
    from tokenizers import AddedToken, Tokenizer, models

    from pipeline.second_pass.tokens import PromptTokenizer

    words = Tokenizer(models.Unigram([("<unk>", 0.0), ("</s>", -1.0), ("a", -2.0), ("b", -2.0)], unk_id=0))
    words.add_special_tokens([AddedToken("</s>", special=True), AddedToken("<unk>", special=True)])
    words.save(str(tmp_path / "tokenizer.json"))

    class Config:
        vocab_size = 10

        def get_text_config(self) -> Config:
            return self

    tokenizer = PromptTokenizer(tmp_path, "m", Config())
    assert len(tokenizer.encode(("abc",))) == 3
    with pytest.raises(AnswerError, match="control token"):
        tokenizer.encode(("a</s>b",))


def test_a_batch_that_does_not_fit_is_halved(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = generator.ask(prompts("granite"))
    refused: list[int] = []
    generate = generator._generate

    def small(batch: Sequence[Sequence[int]], budgets: Sequence[int]) -> list[Reply]:
        if len(batch) * max(map(len, batch)) > 200:
            refused.append(len(batch))
            raise EngineOutOfMemory()
        return generate(batch, budgets)

    monkeypatch.setattr(generator, "_generate", small)
    assert generator.ask(prompts("granite")) == expected
    assert max(refused) == len(TEXTS)
    refused.clear()
    assert generator.ask(prompts("granite")) == expected
    assert refused == []  # it has learned how much fits


def test_what_fails_alone_is_a_failure_and_a_dead_device_is_raised(
    generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(batch: Sequence[Sequence[int]], budgets: Sequence[int]) -> list[Reply]:
        raise EngineOutOfMemory()

    monkeypatch.setattr(generator, "_generate", never)
    assert [each.code for each in generator.ask(prompts("granite")) if isinstance(each, Failure)] == ["engine_oom"] * 5

    def dead(batch: Sequence[Sequence[int]], budgets: Sequence[int]) -> list[Reply]:
        raise EngineDead()

    monkeypatch.setattr(generator, "_generate", dead)
    with pytest.raises(EngineDead):
        generator.ask(prompts("granite"))


def test_numbers_that_are_not_finite_are_noticed(folders: Callable[[str, str], Path], tmp_path: Path) -> None:
    write_causal(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"][5, 0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    generator = load(tmp_path)
    (found,) = generator.ask(prompts("granite")[:1])
    generator.close()
    assert isinstance(found, Failure)
    assert (found.code, "not finite" in found.message) == ("engine_error", True)


def test_a_reply_that_goes_round_in_circles_is_cut(tmp_path: Path) -> None:
    """A model without layers' say: the next token hangs on the last one alone, so it must come round."""
    write_causal(tmp_path, seed=3)
    weights = load_file(tmp_path / "model.safetensors")
    for name in weights:
        if "o_proj" in name or "down_proj" in name:
            weights[name].zero_()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    generator = load(tmp_path)
    (found,) = generator.ask([Prompt(prompt("granite", "", "it"), 400)])
    generator.close()
    assert isinstance(found, Reply)
    assert found.stop_reason == "loop"
    assert found.n_tokens < 100
