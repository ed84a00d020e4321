"""Loading a checkpoint: the same weights from every layout, and one sentence with the first wrong tensor from any other file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from models import babble, one_thread, transcribe
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.engines.granite_nar.config_json import PublishedLayout
from pipeline.engines.granite_nar.loading import load_weights, read_json
from pipeline.engines.granite_nar.model import DraftLabels, Model
from pipeline.engines.granite_nar.random_checkpoint import TINY, random_tensors, write_checkpoint
from pipeline.engines.granite_nar.weights import Linear, Weights, build_weights
from pipeline.errors import ConfigError

LAYOUTS: tuple[PublishedLayout, ...] = ("A", "B", "D")
CPU = torch.device("cpu")
EMBEDDING = "language_model.model.embed_tokens.weight"
Tensors = dict[str, Tensor]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """TINY in every layout, without a tokenizer: loading weights needs none."""
    folders: dict[str, Path] = {layout: tmp_path_factory.mktemp(layout) / "model" for layout in LAYOUTS}
    for layout in LAYOUTS:
        write_checkpoint(folders[layout], TINY, layout=layout, seed=5, tokenizer=False)
    return folders


def load(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Weights, DraftLabels]:
    weights, config, labels = load_weights(folder, dtype=dtype, device=CPU)
    assert config == TINY
    return weights, labels


def leaves(weights: Any, name: str = "weights") -> Iterator[tuple[str, Tensor]]:
    """Every tensor of nested records with where it stands."""
    if isinstance(weights, Tensor):
        yield name, weights
    elif weights is not None:
        fields = getattr(weights, "_fields", range(len(weights)))
        for field, part in zip(fields, weights, strict=True):
            yield from leaves(part, f"{name}.{field}")


def without_draft_head(weights: Weights) -> dict[str, Tensor]:
    found = dict(leaves(weights))
    assert {"weights.encoder.draft.weight", "weights.encoder.draft.bias"} <= found.keys()
    return {name: tensor for name, tensor in found.items() if ".draft." not in name}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_layout_gives_the_same_weights(
    written: dict[str, Path], layout: PublishedLayout, dtype: torch.dtype
) -> None:
    in_memory = build_weights(random_tensors(TINY, seed=5).__getitem__, TINY, dtype=dtype, device=CPU)
    weights, labels = load(written[layout], dtype)
    found, wanted = without_draft_head(weights), without_draft_head(in_memory)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype
    head, plain = weights.encoder.draft, in_memory.encoder.draft
    if layout == "A":
        assert labels == DraftLabels(blank=0, shift=1)
        assert_shifted(head, plain)
    else:
        assert labels == DraftLabels(blank=TINY.blank_id, shift=0)
        assert all(torch.equal(here, there) for here, there in zip(head, plain, strict=True))


def assert_shifted(head: Linear, plain: Linear) -> None:
    """The blank's row stands first; the row of the blank's own token never wins and need not agree."""
    tokens = torch.arange(TINY.editor.vocabulary) != TINY.blank_id
    for here, there in zip(head, plain, strict=True):
        assert here is not None
        assert there is not None
        assert torch.equal(here[0], there[TINY.blank_id])
        assert torch.equal(here[1:][tokens], there[tokens])


def test_every_layout_hears_the_same(written: dict[str, Path]) -> None:
    clips = [babble(n) for n in (30_000, 4_000, 61_000)]
    heard = []
    for layout in LAYOUTS:
        weights, labels = load(written[layout])
        found = transcribe(Model(weights, TINY, labels, backend="sdpa"), clips)
        heard.append([(clip.draft.tolist(), clip.final.tolist()) for clip in found])
    assert heard[0] == heard[1] == heard[2]
    assert sum(len(draft) for draft, _ in heard[0]) > 20


Damage = Callable[[Tensors], None]


def change(name: str, value: float) -> Damage:
    """One number of a tensor."""

    def damage(tensors: Tensors) -> None:
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[-1] = value

    return damage


def drop(*names: str) -> Damage:
    def damage(tensors: Tensors) -> None:
        for name in names:
            del tensors[name]

    return damage


def add(name: str, *shape: int) -> Damage:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


def reshape(name: str, *shape: int) -> Damage:
    return lambda tensors: tensors.update({name: tensors[name].reshape(shape)})


def retype(name: str, dtype: torch.dtype) -> Damage:
    return lambda tensors: tensors.update({name: tensors[name].to(dtype)})


def both(*damages: Damage) -> Damage:
    def damage(tensors: Tensors) -> None:
        for one in damages:
            one(tensors)

    return damage


def refusal(folder: Path, tmp_path: Path, damage: Damage, dtype: torch.dtype = torch.float32) -> str:
    """What loading says about a damaged copy; one sentence."""
    tensors = load_file(folder / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, dtype)
    assert_one_sentence(str(caught.value))
    return str(caught.value)


def assert_one_sentence(message: str) -> None:
    assert "\n" not in message
    assert message.endswith(".")
    assert ". " not in message
    assert len(message) < 400


NORM, QUERIES = "projector.qformer.layers.0.attn_norm.weight", "model.projector.qformer.queries"
DAMAGES: list[tuple[PublishedLayout, Damage, str]] = [
    (
        "B",
        change("projector.layer_norms.2.weight", 1.0078125),
        "tensor projector.layer_norms.2.weight is not 1 through",
    ),
    ("A", change("projector.out_norm.bias", 1e-30), "tensor projector.out_norm.bias is not 0 throughout"),
    ("B", change(NORM, float("nan")), f"tensor {NORM} is not 1 throughout"),
    (
        "B",
        both(change(NORM, 2.0), change("projector.out_norm.weight", 2.0)),
        "tensor projector.out_norm.weight is not 1",
    ),
    ("B", drop("encoder.layers.3.ff2.up_proj.bias"), "lacks tensor encoder.layers.3.ff2.up_proj.bias"),
    ("A", drop("llm.model.norm.weight"), "lacks tensor llm.model.norm.weight"),
    ("D", drop(QUERIES), f"lacks tensor {QUERIES}"),
    ("B", drop("projector.query", "encoder.out.bias"), "lacks tensor encoder.out.bias"),
    ("B", drop(NORM), f"lacks tensor {NORM}"),
    ("B", add("encoder.extra.weight", 3), "a tensor encoder.extra.weight that this model does not have"),
    ("D", add("projector.out_norm.weight", 64), "a tensor projector.out_norm.weight that this model does not have"),
    ("B", reshape("projector.query", 3, 64), "Tensor projector.query of the checkpoint has shape [3, 64]"),
    ("D", reshape(QUERIES, 1, 64, 3), f"Tensor {QUERIES} of the checkpoint has shape [1, 64, 3]"),
    ("B", retype("encoder.out.bias", torch.int32), "Tensor encoder.out.bias of the checkpoint has type I32"),
    ("B", change("encoder.out_bpe.bias", float("nan")), "tensor encoder.out_bpe.bias has numbers that are not finite"),
    (
        "B",
        change("encoder.layers.1.conv.up_conv.bias", float("inf")),
        "tensor encoder.layers.1.conv.up_conv.bias has num",
    ),
    (
        "A",
        change("llm.model.norm.weight", -float("inf")),
        "tensor llm.model.norm.weight has numbers that are not finite",
    ),
    (
        "D",
        change("model.language_model.norm.weight", float("nan")),
        "tensor model.language_model.norm.weight has numbers",
    ),
]


@pytest.mark.parametrize(("layout", "damage", "says"), DAMAGES, ids=[says[:40] for _, _, says in DAMAGES])
def test_damage_is_refused_with_the_first_wrong_tensor(
    written: dict[str, Path], tmp_path: Path, layout: PublishedLayout, damage: Damage, says: str
) -> None:
    assert says in refusal(written[layout], tmp_path, damage)


@pytest.mark.parametrize(
    ("layout", "head", "embedding"),
    [
        ("A", "llm.lm_head.weight", "llm.model.embed_tokens.weight"),
        ("B", "language_model.lm_head.weight", EMBEDDING),
        ("B", "lm_head.weight", EMBEDDING),
        ("D", "lm_head.weight", "model.language_model.embed_tokens.weight"),
    ],
)
def test_a_stored_head_has_to_be_the_embedding(
    written: dict[str, Path], tmp_path: Path, layout: PublishedLayout, head: str, embedding: str
) -> None:
    def tie(tensors: Tensors) -> None:
        tensors[head] = tensors[embedding].clone()

    message = refusal(written[layout], tmp_path, both(tie, change(head, 0.25)))
    assert f"The tensor {head} is not the embedding" in message
    tensors = load_file(written[layout] / "model.safetensors")
    tie(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(load(tmp_path)[0].editor.embedding, load(written[layout])[0].editor.embedding)


def test_a_number_too_large_for_float16_is_refused_for_float16_alone(written: dict[str, Path], tmp_path: Path) -> None:
    name = "encoder.layers.0.ff1.up_proj.weight"
    message = refusal(written["B"], tmp_path, change(name, -70_000.0), torch.float16)
    assert f"The tensor {name} has numbers that are not finite in float16" in message
    assert "set engine.options.dtype=float32" in message
    for dtype in (torch.float32, torch.bfloat16):
        assert load(tmp_path, dtype)[0].encoder.blocks[0].first.up.weight.isfinite().all()


def test_the_same_dtype_is_no_next_step(written: dict[str, Path], tmp_path: Path) -> None:
    message = refusal(written["B"], tmp_path, change("encoder.out.bias", float("nan")))
    assert "not finite in float32; download the model again." in message


@pytest.mark.parametrize("kept", [0, 4, 1000, -2, -1])
def test_a_truncated_file_is_refused(written: dict[str, Path], tmp_path: Path, kept: int) -> None:
    shutil.copy(written["B"] / "config.json", tmp_path)
    whole = (written["B"] / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:kept])
    with pytest.raises(ConfigError, match=r"model\.safetensors is not a complete safetensors file") as caught:
        load(tmp_path)
    assert_one_sentence(str(caught.value))


def test_missing_weights_are_refused(written: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(written["B"] / "config.json", tmp_path)
    with pytest.raises(ConfigError, match=r"model\.safetensors cannot be read \(No such file"):
        load(tmp_path)


def test_a_config_of_another_model_is_refused(written: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(written["B"] / "model.safetensors", tmp_path)
    settings = json.loads((written["B"] / "config.json").read_text("utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(settings | {"model_type": "granite_speech"}), "utf-8")
    with pytest.raises(
        ConfigError, match="has model_type 'granite_speech', but Granite Speech NAR models have"
    ) as caught:
        load(tmp_path)
    assert_one_sentence(str(caught.value))
    settings["encoder_config"]["num_layers"] += 1
    (tmp_path / "config.json").write_text(json.dumps(settings), "utf-8")
    with pytest.raises(ConfigError, match=r"lacks tensor encoder\.layers\.5\.ff1\.pre_norm\.weight"):
        load(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b"1"])
def test_what_is_no_object_of_settings_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json (cannot be read|holds a .* not settings)") as caught:
        read_json(path)
    assert_one_sentence(str(caught.value))
