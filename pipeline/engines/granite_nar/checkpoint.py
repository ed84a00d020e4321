"""The names in a Granite Speech NAR checkpoint: what has to be there, and what a file calls it.

Every tensor has one canonical name, that of the published remote code. Two families of layouts are published: "remote" (the
canonical names, but for the first revision, which calls the language model `llm`) and "native" (the port to transformers, whose
drafts differ in a few names). Matching is strict. Reads headers alone: knows no values, needs no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from pipeline.engines.granite_nar.config import EditorConfig, EncoderConfig, ModelConfig, ProjectorConfig
from pipeline.engines.granite_nar.header import Shape, StoredTensor, parse_header, read_header
from pipeline.errors import ConfigError

__all__ = [  # with the reading of headers, so that a checkpoint is one import
    "Match",
    "StoredTensor",
    "expected_tensors",
    "is_counter",
    "is_identity",
    "match",
    "parameter_counts",
    "parse_header",
    "read_header",
    "stored_names",
]

Layout = Literal["remote", "native"]

FLOAT_DTYPES = ("BF16", "F16", "F32")
COUNTER_DTYPE = "I64"
_DRAFT_HEAD: dict[Layout, str] = {"remote": "encoder.out_bpe.weight", "native": "model.out_bpe.weight"}
_OTHER: dict[Layout, Layout] = {"remote": "native", "native": "remote"}
_EMBEDDING = "language_model.model.embed_tokens.weight"
_TIED_HEADS = ("lm_head.weight", "language_model.lm_head.weight", "llm.lm_head.weight")
_NEXT_STEP = "take model.safetensors and config.json from one revision of a Granite Speech NAR model"


@dataclass(frozen=True, slots=True)
class Match:
    """How a file stores a model."""

    layout: Layout
    names: Mapping[str, str]  # canonical → stored; without the identity norms where the layout drops them
    draft_blank: int  # label of the draft head that means "nothing"
    label_shift: int  # a label of the draft head minus this is a token
    identity: tuple[
        str, ...
    ]  # canonical names of stored norms that the model code leaves out: exact identities, or refuse
    tied_head: str | None  # stored name of a head that must equal the embedding; None where it is not stored


def expected_tensors(config: ModelConfig) -> dict[str, Shape]:
    """Canonical name → shape of every tensor, in the order of the model; `is_counter` tells the integers among them.

    The draft head has one label per token here, as in every revision but the first, which has one row more.
    """
    tensors = dict(_encoder_tensors(config.encoder, config.editor.vocabulary))
    tensors.update(_projector_tensors(config.projector, config.encoder, config.editor.hidden))
    tensors.update(_editor_tensors(config.editor))
    return tensors


def is_counter(name: str) -> bool:
    """Whether a canonical name is a batch norm's counter: a scalar int64, without use here."""
    return name.endswith(".num_batches_tracked")


def is_identity(name: str) -> bool:
    """Whether a canonical name is the affine part of a norm that is an identity in every published checkpoint."""
    parts = name.split(".")
    return parts[0] == "projector" and any(
        part in ("layer_norms", "out_norm", "attn_norm", "mlp_norm") for part in parts
    )


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Floating numbers stored for the encoder, the draft head, the projector and the editor."""
    counts = dict.fromkeys(("encoder", "draft_head", "projector", "editor"), 0)
    for name, shape in expected_tensors(config).items():
        if not is_counter(name):
            part = "draft_head" if name.startswith("encoder.out_bpe.") else name.partition(".")[0]
            counts["editor" if part == "language_model" else part] += math.prod(shape)
    return counts


def stored_names(name: str, layout: Layout) -> tuple[str, ...]:
    """What files of a layout call a canonical name, the newest revision first; none for a norm that the layout drops."""
    if layout == "remote":
        head, _, rest = name.partition(".")
        return (name, f"llm.{rest}") if head == "language_model" else (name,)
    if is_identity(name):
        return ()
    head, _, rest = name.partition(".")
    if head == "language_model":
        return (f"model.language_model.{rest.removeprefix('model.')}",)
    if rest.startswith("out_bpe."):
        return (f"model.{rest}",)
    if head == "encoder":
        return (f"model.{name}",)
    return tuple(f"model.projector.{new}" for new in _native_projector_names(rest))


def match(header: Mapping[str, StoredTensor], config: ModelConfig) -> Match:
    """Find every tensor of the model in a file, in whichever layout it is.

    Raises ConfigError that names the first tensor, in the order of the model, that is missing or has another shape or type; then
    the first one stored that has no place in the model.
    """
    layout = _layout(header)
    expected = expected_tensors(config)
    label_shift = _label_shift(header[_DRAFT_HEAD[layout]], config)
    for name in ("encoder.out_bpe.weight", "encoder.out_bpe.bias"):
        expected[name] = (expected[name][0] + label_shift, *expected[name][1:])
    names: dict[str, str] = {}
    for name, shape in expected.items():
        candidates = stored_names(name, layout)
        stored = [candidate for candidate in candidates if candidate in header]
        if len(stored) > 1:
            raise ConfigError(f"The checkpoint holds one tensor twice, as {' and as '.join(stored)}; {_NEXT_STEP}.")
        if candidates and not stored:
            raise _missing(header, name, expected, layout)
        for one in stored:
            _check(header[one], name, shape)
            names[name] = one
    tied = [stored for stored in _TIED_HEADS if stored in header]
    for one in tied[:1]:
        _check(header[one], _EMBEDDING, expected[_EMBEDDING])
    used = {*names.values(), *tied[:1]}
    if unknown := next((stored for stored in header if stored not in used), None):
        raise ConfigError(f"The checkpoint holds a tensor {unknown} that this model does not have; {_NEXT_STEP}.")
    return Match(
        layout=layout,
        names=names,
        draft_blank=0 if label_shift else config.blank_id,
        label_shift=label_shift,
        identity=tuple(name for name in names if is_identity(name)),
        tied_head=tied[0] if tied else None,
    )


def _encoder_tensors(config: EncoderConfig, vocabulary: int) -> Iterator[tuple[str, Shape]]:
    yield from _linear("encoder.input_linear", config.input_dim, config.hidden)
    yield from _linear("encoder.out", config.hidden, config.characters)
    yield from _linear("encoder.out_mid", config.characters, config.hidden)
    yield from _linear("encoder.out_bpe", config.hidden, vocabulary)
    for layer in range(config.layers):
        for name, shape in _encoder_block_tensors(config):
            yield f"encoder.layers.{layer}.{name}", shape


def _encoder_block_tensors(config: EncoderConfig) -> Iterator[tuple[str, Shape]]:
    hidden, channels, inner = config.hidden, config.conv_inner, config.heads * config.head_dim
    for name in ("ff1", "ff2"):
        yield from _norm(f"{name}.pre_norm", hidden)
        yield from _linear(f"{name}.up_proj", hidden, config.feedforward)
        yield from _linear(f"{name}.down_proj", config.feedforward, hidden)
    yield from _norm("attn.pre_norm", hidden)
    yield "attn.to_q.weight", (inner, hidden)
    yield "attn.to_kv.weight", (2 * inner, hidden)  # keys first
    yield from _linear("attn.to_out", inner, hidden)
    yield "attn.rel_pos_emb.weight", (2 * config.max_distance + 1, config.head_dim)
    yield from _norm("conv.norm", hidden)
    yield "conv.up_conv.weight", (2 * channels, hidden, 1)  # values first, then their gates
    yield "conv.up_conv.bias", (2 * channels,)
    yield "conv.depth_conv.conv.weight", (channels, 1, config.conv_kernel)
    for name in ("weight", "bias", "running_mean", "running_var"):
        yield f"conv.batch_norm.{name}", (channels,)
    yield "conv.batch_norm.num_batches_tracked", ()
    yield "conv.down_conv.weight", (hidden, channels, 1)
    yield "conv.down_conv.bias", (hidden,)
    yield from _norm("post_norm", hidden)


def _projector_tensors(
    config: ProjectorConfig, encoder: EncoderConfig, editor_hidden: int
) -> Iterator[tuple[str, Shape]]:
    hidden = config.hidden
    for tap in range(len(encoder.taps)):
        yield from _norm(f"projector.layer_norms.{tap}", encoder.hidden)
    yield from _linear("projector.layer_projector", encoder.hidden * len(encoder.taps), hidden)
    yield "projector.query", (1, config.window // config.downsample, hidden)
    yield "projector.window_positions", (1, config.window, hidden)
    yield from _norm("projector.out_norm", hidden)
    yield from _linear("projector.out_linear", hidden, editor_hidden)
    for layer in range(config.layers):
        name = f"projector.qformer.layers.{layer}"
        yield from _norm(f"{name}.attn_norm", hidden)
        for projection in "qkvo":
            yield from _linear(f"{name}.cross_attention.{projection}_proj", hidden, hidden)
        yield from _norm(f"{name}.mlp_norm", hidden)
        yield from _linear(f"{name}.mlp.fc1", hidden, config.intermediate)
        yield from _linear(f"{name}.mlp.fc2", config.intermediate, hidden)


def _editor_tensors(config: EditorConfig) -> Iterator[tuple[str, Shape]]:
    hidden, inner, kv_inner = config.hidden, config.heads * config.head_dim, config.kv_heads * config.head_dim
    yield _EMBEDDING, (config.vocabulary, hidden)
    yield "language_model.model.norm.weight", (hidden,)
    for layer in range(config.layers):
        name = f"language_model.model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", (hidden,)
        yield f"{name}.post_attention_layernorm.weight", (hidden,)
        for projection, width in (("q", inner), ("k", kv_inner), ("v", kv_inner)):
            yield f"{name}.self_attn.{projection}_proj.weight", (width, hidden)
        yield f"{name}.self_attn.o_proj.weight", (hidden, inner)
        yield f"{name}.mlp.gate_proj.weight", (config.intermediate, hidden)
        yield f"{name}.mlp.up_proj.weight", (config.intermediate, hidden)
        yield f"{name}.mlp.down_proj.weight", (hidden, config.intermediate)


def _linear(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _native_projector_names(name: str) -> tuple[str, ...]:
    """A name below `projector`, in the final port and in the draft that was published before it."""
    first, _, rest = name.partition(".")
    if first == "layer_projector":
        return f"proj.{rest}", name
    if first == "out_linear":
        return f"qformer.linear.{rest}", f"linear.{rest}"
    if name == "query":
        return "qformer.queries", name
    if name == "window_positions":
        return "qformer.pos_emb", "qformer.window_positions"
    if ".cross_attention." not in name:
        return (name,)
    layer, _, projection = name.partition(".cross_attention.")
    final = f"{layer}.cross_attn.{projection}"
    part, _, kind = projection.partition(".")
    if part == "o_proj":
        return final, f"{layer}.o_proj.{kind}"
    draft = {"q_proj": "query", "k_proj": "key", "v_proj": "value"}[part]
    return final, f"{layer}.cross_attention.{draft}.{kind}"


def _layout(header: Mapping[str, StoredTensor]) -> Layout:
    layouts: list[Layout] = [layout for layout, name in _DRAFT_HEAD.items() if name in header]
    if len(layouts) != 1:
        there = "both" if layouts else "neither"
        raise ConfigError(
            f"The checkpoint has {there} of {' and '.join(_DRAFT_HEAD.values())}, by which its layout is told; {_NEXT_STEP}."
        )
    return layouts[0]


def _label_shift(head: StoredTensor, config: ModelConfig) -> int:
    """1 where the draft head has a label of its own for the blank, before those of the tokens; else 0."""
    vocabulary, hidden = config.editor.vocabulary, config.encoder.hidden
    if len(head.shape) != 2 or head.shape[0] not in (vocabulary, vocabulary + 1):
        raise ConfigError(
            f"Tensor {head.name} of the checkpoint has shape {list(head.shape)}, but config.json asks for "
            f"[{vocabulary}, {hidden}] or [{vocabulary + 1}, {hidden}]; {_NEXT_STEP}."
        )
    return head.shape[0] - vocabulary


def _missing(
    header: Mapping[str, StoredTensor], name: str, expected: Mapping[str, Shape], layout: Layout
) -> ConfigError:
    other, tops = _OTHER[layout], {stored.partition(".")[0] for stored in header}
    names = stored_names(name, layout)
    wanted = next((one for one in names if one.partition(".")[0] in tops), names[0])  # as this file would have it
    known = {stored for one in expected for stored in stored_names(one, layout)}
    strangers = [stored for stored in header if stored not in known][:1000]
    own = [stored for stored in strangers if stored in stored_names(name, other)]
    foreign = own or [stored for one in expected for stored in stored_names(one, other) if stored in strangers]
    hint = ""
    if foreign:
        hint = f" and holds {foreign[0]}, a name of the {other} layout"
    elif close := get_close_matches(wanted, strangers, n=1):
        hint = f" and holds an unknown {close[0]}"
    shape, types = list(expected[name]), " or ".join(_dtypes(name))
    return ConfigError(f"The checkpoint lacks tensor {wanted} (shape {shape}, {types}){hint}; {_NEXT_STEP}.")


def _check(tensor: StoredTensor, name: str, shape: Shape) -> None:
    if tensor.shape != shape:
        raise ConfigError(
            f"Tensor {tensor.name} of the checkpoint has shape {list(tensor.shape)}, but config.json asks for {list(shape)}; "
            f"{_NEXT_STEP}."
        )
    if tensor.dtype not in _dtypes(name):
        raise ConfigError(
            f"Tensor {tensor.name} of the checkpoint has type {tensor.dtype}, but must have {' or '.join(_dtypes(name))}; "
            f"{_NEXT_STEP}."
        )


def _dtypes(name: str) -> tuple[str, ...]:
    return (COUNTER_DTYPE,) if is_counter(name) else FLOAT_DTYPES
