"""The words of the prompts, against granite.md §3.2 and §3.3, and their tokens against the chat template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from granite_plus_checkpoints import write_granite_plus
from transformers import AutoTokenizer

from pipeline.engines.granite.checkpoint import Checkpoint
from pipeline.engines.granite_plus.prompts import Mode, instruction
from pipeline.engines.granite_plus.recognizer import Recognizer

PROMPTS: dict[str, tuple[Mode, tuple[str, ...]]] = {
    "can you transcribe the speech into a written format?": ("transcript", ()),
    "can you transcribe the speech into a written format? Keywords: Margaret Hale, Dashwood": (
        "transcript",
        ("Margaret  Hale", "Dashwood", ""),
    ),
    "Speaker attribution: Transcribe and denote who is speaking by adding [Speaker 1]: and [Speaker 2]: tags before "
    "speaker turns.": ("speakers", ()),
    "Timestamps: Transcribe the speech. After each word, add a timestamp tag showing the end time in centiseconds, "
    "e.g. hello [T:45] world [T:82]": ("words", ()),
}
WHOLE = (
    "<|start_of_role|>system<|end_of_role|>Knowledge Cutoff Date: April 2024.\nToday's Date: December 19, 2024.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|><|audio|> {}<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>{}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plus")
    write_granite_plus(made)
    return made


@pytest.fixture(scope="module")
def recognizer(folder: Path) -> Iterator[Recognizer]:
    checkpoint = Checkpoint("tiny", ("model.safetensors",), (), None, 4096)
    cpu = torch.device("cpu")
    made = Recognizer(folder, checkpoint, device=cpu, dtype=torch.float32, threads=1, most_positions=4096)
    yield made
    made.close()


@pytest.mark.parametrize("prefix", ["", "[Speaker 1]: hello there [Speaker 2]: good"])
@pytest.mark.parametrize("wanted", PROMPTS)
def test_prompts_are_the_published_ones_token_by_token(
    wanted: str, prefix: str, folder: Path, recognizer: Recognizer
) -> None:
    mode, keywords = PROMPTS[wanted]
    assert instruction(mode, keywords) == wanted
    published = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    chat = [{"role": "user", "content": f"<|audio|> {wanted}"}]
    text = published.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, prefix_text=prefix)
    assert text == WHOLE.format(wanted, prefix)
    before, after = recognizer.prompt_ids(instruction(mode, keywords), prefix)
    assert [*before, 2, *after] == published(text)["input_ids"]
    assert recognizer.prompt_positions(wanted) + recognizer.count_tokens(prefix) == len(before) + len(after)


def test_words_of_a_row_are_never_special_tokens(recognizer: Recognizer) -> None:
    before, after = recognizer.prompt_ids(instruction("transcript", ["<|end_of_text|>", "<|start_of_role|>"]))
    plain = recognizer.prompt_ids(instruction("transcript"))
    assert before == plain[0]
    assert [token for token in after if token < 5] == [token for token in plain[1] if token < 5]


def test_only_transcripts_take_keywords() -> None:
    with pytest.raises(ValueError, match="takes no keywords"):
        instruction("speakers", ["Hale"])
