"""A checkpoint nobody trained: random weights under the published names, for tests, benchmarks and trying things out.

Weights are scaled so that a deep stack stays sane, drafts mix blanks with tokens, and the editor changes some of them. The same
seed is the same model in every layout. Its text is nonsense. Heavy libraries are imported where they are used.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

from pipeline.engines.granite_nar.checkpoint import expected_tensors, is_counter, is_identity, stored_names
from pipeline.engines.granite_nar.config import EditorConfig, EncoderConfig, ModelConfig, ProjectorConfig
from pipeline.engines.granite_nar.config_json import PublishedLayout, config_fields, pad_id

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

# Every quirk of the published model, small: heads that are not hidden / head_dim, grouped keys, a tap at the self-conditioning.
TINY = ModelConfig(
    encoder=EncoderConfig(
        layers=5,
        hidden=48,
        heads=3,
        head_dim=20,
        feedforward=192,
        conv_kernel=7,
        conv_inner=96,
        context=32,
        max_distance=45,
        characters=40,
        self_conditioning_layer=2,
        taps=(1, 2, 4, 5),
    ),
    projector=ProjectorConfig(hidden=64, intermediate=128, heads=4),
    editor=EditorConfig(
        vocabulary=480,
        hidden=80,
        intermediate=112,
        layers=3,
        heads=6,
        kv_heads=2,
        head_dim=16,
        attention_multiplier=1 / 16,
    ),
    blank_id=470,
)
BLANK_TOKEN, PAD_TOKEN = "<|end_of_text|>", "<|pad|>"

_CHARACTER_STD, _DRAFT_STD = 2.0, 2.0  # of logits for an input of unit size
_DRAFT_INPUT = 0.7  # size of what the draft head sees: a mean over frames that differ
_EDITOR_SCORE_STD = 1.5  # attention neither uniform nor a copy
_EDITOR_SHARE = 3.0  # what a deep editor adds, relative to the embeddings it starts from
_NEVER = -1000.0  # bias of a label that must not win
# Linear weights have a standard deviation of 1 / sqrt(inputs), times a gain. Attention that picks, and convolutions louder than
# attention and feed-forward steps, keep the frames of a clip apart through the layers.
_GAINS = {
    "encoder.input_linear.": 2.0,
    "encoder.out.": _CHARACTER_STD,
    "encoder.out_bpe.": _DRAFT_STD,
    ".attn.to_q.": 2.0,
    ".attn.to_out.": 0.4,
    ".conv.": 1.5,
    ".ff1.down_proj.": 0.6,
    ".ff2.down_proj.": 0.6,
}
# So do rows that sum to zero behind log-mels and SiLU, which are far from centred, and filters that pass changes alone.
_SUM_TO_ZERO = (
    "input_linear.weight",
    "ff1.down_proj.weight",
    "ff2.down_proj.weight",
    "down_conv.weight",
    "depth_conv.conv.weight",
)
_SENTENCES = (
    "the harbour lay quiet until the first boats came back with the morning tide and a cargo of silver fish",
    "please read the whole contract before you sign it because nobody remembers what was promised over coffee",
    "she counted fourteen windows on the northern side of the building and wrote the number in her notebook",
    "if the weather holds we shall cross the valley on thursday and reach the monastery before it grows dark",
    "an engine that runs without oil makes a sound that every mechanic knows and no owner ever forgets",
    "my grandmother kept the recipe in a drawer under old photographs letters and a broken pair of glasses",
    "quarterly figures were better than expected although shipping costs rose by eleven percent in january",
    "les élèves ont préparé une pièce de théâtre où chaque rôle était joué par deux personnes à la fois",
    "größere flüsse führen nach der schneeschmelze so viel wasser dass die brücken gesperrt werden müssen",
    "el niño encontró una pequeña llave detrás del armario y corrió a enseñársela a su hermana mayor",
    "amanhã começa a colheita das maçãs e ninguém na aldeia vai dormir até que as caixas estejam cheias",
)


def random_tensors(
    config: ModelConfig,
    *,
    seed: int,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    layout: PublishedLayout = "B",
) -> dict[str, torch.Tensor]:
    """Stored name → tensor of a whole model; `dtype` defaults to bfloat16, batch norm counters are int64.

    The values depend on the seed, the sizes and the kind of device, not on the layout.
    """
    import torch

    kind = torch.bfloat16 if dtype is None else dtype
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in expected_tensors(config).items():
        names = stored_names(name, "native" if layout == "D" else "remote")
        if not names:
            continue
        stored = names[-1 if layout == "A" else 0]  # the first revision has the oldest names
        if is_counter(name):
            tensors[stored] = torch.tensor(1000, dtype=torch.int64, device=device)
            continue
        # A seed of its own: no tensor depends on those before it. The generator looks at 32 bits.
        generator = torch.Generator(device).manual_seed(crc32(f"{seed} {name}".encode()))
        tensor = _random_tensor(name, shape, config, generator)
        if layout == "A" and name.startswith("encoder.out_bpe."):
            tensor = _with_blank_first(tensor, config.blank_id)
        tensors[stored] = tensor.to(kind)
    return tensors


def write_checkpoint(
    folder: Path, config: ModelConfig, *, layout: PublishedLayout, seed: int, tokenizer: bool = True
) -> None:
    """Write model.safetensors (bfloat16), config.json and, if asked for, tokenizer.json, as the layout's revision has them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(config, seed=seed, layout=layout)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config_fields(config, layout), indent=2) + "\n", "utf-8")
    if tokenizer:
        train_tokenizer(config.editor.vocabulary, config.blank_id).save(str(folder / "tokenizer.json"))


def train_tokenizer(vocabulary: int, blank_id: int) -> Tokenizer:
    """A byte-level BPE with exactly `vocabulary` ids: the end-of-text token at `blank_id`, padding beside it, as published.

    Ids for which the built-in sentences are too few become unused special tokens. Raises ValueError below 258 ids.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + 2:
        raise ValueError(f"a byte-level vocabulary needs {len(alphabet) + 2} ids or more, got {vocabulary}")
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    size = vocabulary - 2
    trained.train_from_iterator(
        _SENTENCES, trainers.BpeTrainer(vocab_size=size, initial_alphabet=sorted(alphabet), show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    specials = [f"<|unused_{number}|>" for number in range(size - len(pieces))]
    ids = iter(pieces + specials)
    taken = {blank_id: BLANK_TOKEN, pad_id(blank_id): PAD_TOKEN}
    tokens = [taken.get(number) or next(ids) for number in range(vocabulary)]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in [BLANK_TOKEN, PAD_TOKEN, *specials]])
    return tokenizer


def _random_tensor(name: str, shape: tuple[int, ...], config: ModelConfig, generator: torch.Generator) -> torch.Tensor:
    """Float32 values for a canonical name."""
    import torch

    device = generator.device
    if is_identity(name):
        return torch.full(shape, 1.0 if name.endswith(".weight") else 0.0, device=device)
    if name.endswith(".running_var"):
        return 0.5 + torch.rand(shape, generator=generator, device=device)
    values = torch.randn(shape, generator=generator, device=device).mul_(_std(name, shape, config))
    if name.endswith(_SUM_TO_ZERO):
        values = (values.flatten(1) - values.flatten(1).mean(1, keepdim=True)).view(shape)
    if name.endswith(".weight") and len(shape) == 1:  # a norm
        values += 1
    elif name == "encoder.out.bias":
        values[0] = _rest_of_softmax(config.encoder.characters, _CHARACTER_STD)
    elif name == "encoder.out_bpe.bias":
        values[config.blank_id] = _DRAFT_INPUT * _largest_of(config.editor.vocabulary, _DRAFT_STD)
    return values


def _std(name: str, shape: tuple[int, ...], config: ModelConfig) -> float:
    editor = config.editor
    if len(shape) == 1:
        return 0.2 if ".batch_norm." in name else 0.1
    if "embed_tokens" in name:
        return 1 / editor.embedding_multiplier
    if name.startswith("encoder.out_mid."):
        return 1.0  # fed with a distribution, whose length is about 1 whatever its width
    if "rel_pos_emb" in name or name in ("projector.query", "projector.window_positions"):
        return 0.7
    gain = next((gain for part, gain in _GAINS.items() if part in name), 1.0)
    if ".self_attn.q_proj" in name or ".self_attn.k_proj" in name:
        gain = math.sqrt(_EDITOR_SCORE_STD / (editor.attention_multiplier * math.sqrt(editor.head_dim)))
    elif ".self_attn.o_proj" in name or ".mlp.down_proj" in name:
        gain = _EDITOR_SHARE / (editor.residual_multiplier * math.sqrt(editor.layers))
    return gain / math.sqrt(math.prod(shape[1:]))


def _largest_of(count: int, std: float) -> float:
    """About the largest of so many normal numbers: a blank with this bias wins about half the time."""
    reach = math.sqrt(2 * math.log(count))
    return std * (reach - (math.log(math.log(count)) + math.log(4 * math.pi)) / (2 * reach))


def _rest_of_softmax(count: int, std: float) -> float:
    """About the log of the sum of so many exponentials: a blank with this bias has a posterior of about a half."""
    return math.log(count) + std * std / 2


def _with_blank_first(head: torch.Tensor, blank_id: int) -> torch.Tensor:
    """A draft head, weight or bias, with the blank's row in front; the row that the blank's own token then has never wins."""
    import torch

    shifted = torch.cat([head[blank_id : blank_id + 1], head])
    shifted[blank_id + 1] = 0.0 if head.dim() > 1 else _NEVER
    return shifted
