"""The sizes and constants of a Granite Speech NAR model, read from the `config.json` of any published layout.

Pure: JSON in, frozen records out. Knows no tensors and no files. Names differ between the layouts (remote code "A" and "B", the
native port "D"); here every quantity has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from pipeline.errors import ConfigError

MODEL_TYPES = ("granite_speech_nar", "nle")  # of every published revision
_MAX_LAYERS, _MAX_WINDOW, _MAX_SLOTS = 1_000, 1_000, 4_096
_MAX_SIZE, _MAX_NUMBER = 10_000_000, 1e12  # like those above beyond any model: a hostile file must not cost memory
_NEXT_STEP = "take config.json and model.safetensors from one revision of a Granite Speech NAR model"


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """A Conformer over 50 Hz frames with attention inside blocks of `context` frames."""

    input_dim: int = 160  # two stacked frames of 80 log-mels
    layers: int = 16
    hidden: int = 1024
    heads: int = 8
    head_dim: int = 128
    feedforward: int = 4096
    conv_kernel: int = 15
    conv_inner: int = 2048  # channels of the depthwise convolution, after the gate
    context: int = 200  # frames of one attention block (4 s)
    max_distance: int = 512  # the table of relative positions has 2 * max_distance + 1 rows
    characters: int = 348  # labels of the middle CTC head; only its softmax is used
    pooling_window: int = 4  # frames of one label of the draft
    self_conditioning_layer: int = 8  # 1-based: after this block
    taps: tuple[int, ...] = (4, 8, 12, 16)  # 1-based blocks whose output the projector reads


@dataclass(frozen=True, slots=True)
class ProjectorConfig:
    """A Q-Former over windows of frames: `window // downsample` audio embeddings for each."""

    hidden: int = 2048
    intermediate: int = 4096
    heads: int = 32
    layers: int = 2
    window: int = 15
    downsample: int = 5
    eps: float = 1e-6


@dataclass(frozen=True, slots=True)
class EditorConfig:
    """The bidirectional Granite language model that edits the draft."""

    vocabulary: int = 100_352
    hidden: int = 2048
    intermediate: int = 4096
    layers: int = 40
    heads: int = 16
    kv_heads: int = 4
    head_dim: int = 128
    eps: float = 1e-5
    rope_theta: float = 10_000.0
    max_positions: int = 4096
    embedding_multiplier: float = 12.0
    residual_multiplier: float = 0.22
    attention_multiplier: float = 0.0078125  # stands in place of 1 / sqrt(head_dim)
    logits_scale: float = 8.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole model. The defaults are the published one's."""

    encoder: EncoderConfig = EncoderConfig()
    projector: ProjectorConfig = ProjectorConfig()
    editor: EditorConfig = EditorConfig()
    blank_id: int = 100_257  # token of the empty slot; bos and eos at once
    min_slots: int = 8
    scale_projected: bool = True  # audio embeddings are divided by embedding_multiplier, which then undoes itself


def read_config(data: Mapping[str, Any], head_rows: int | None = None) -> ModelConfig:
    """The sizes in a `config.json` of any published layout.

    `head_rows`: rows of the stored draft head, where they are known; they must fit the vocabulary. Raises ConfigError, in one
    sentence that names the field, for a config of another model and for whatever this engine does not implement.
    """
    if not isinstance(data, Mapping):
        raise _error("the whole file", data, "an object")
    top = _Section("", data)
    found = top.find("model_type")[1]
    if found not in MODEL_TYPES:
        raise ConfigError(
            f"config.json has model_type {_shown(found)}, but Granite Speech NAR models have {' or '.join(MODEL_TYPES)}; "
            "set engine.model to such a model."
        )
    encoder_section, projector_section = top.section("encoder_config"), top.section("projector_config")
    text_section = top.section("text_config", "llm_config")
    encoder, editor = _encoder(encoder_section, top), _editor(text_section)
    projector_section.only("num_encoder_layers", len(encoder.taps))
    projector_section.only("encoder_dim", encoder.hidden)
    projector_section.only("llm_dim", editor.hidden)
    _check_head_rows(encoder_section, text_section, editor.vocabulary, head_rows)
    return ModelConfig(
        encoder=encoder,
        projector=_projector(projector_section, top),
        editor=editor,
        blank_id=_blank_id(top, encoder_section, text_section, editor.vocabulary),
        min_slots=top.integer("min_edit_sequence_length", default=ModelConfig().min_slots, high=_MAX_SLOTS),
        scale_projected=top.flag("scale_projected_embeddings", default=ModelConfig().scale_projected),
    )


def _encoder(section: _Section, top: _Section) -> EncoderConfig:
    section.only("attn_type", "block")
    section.only("input_dim", EncoderConfig().input_dim)
    hidden, heads = section.integer("hidden_dim"), section.integer("num_heads")
    layers = section.integer("num_layers", high=_MAX_LAYERS)
    kernel = section.integer("conv_kernel_size")
    if kernel % 2 == 0:
        raise _error(section.path("conv_kernel_size"), kernel, "odd, as a convolution that keeps the length needs it")
    max_distance = section.integer("max_pos_emb")
    return EncoderConfig(
        layers=layers,
        hidden=hidden,
        heads=heads,
        head_dim=_head_dim(section, "dim_head", hidden, heads),
        feedforward=hidden * section.integer("feedforward_mult"),
        conv_kernel=kernel,
        conv_inner=hidden * section.integer("conv_expansion_factor"),
        context=section.integer("context_size", high=max_distance),
        max_distance=max_distance,
        characters=section.integer("output_dim"),
        pooling_window=section.integer("bpe_pooling_window", "pooling_window", high=_MAX_WINDOW),
        self_conditioning_layer=section.integer("self_conditioning_layer", default=max(1, layers // 2), high=layers),
        taps=_taps(section, top, layers),
    )


def _taps(section: _Section, top: _Section, layers: int) -> tuple[int, ...]:
    """1-based blocks. The native layout lists them without the last one, which it always appends."""
    name, listed = top.find("encoder_layer_indices")
    appended: list[int] = []
    if listed is None:
        name, listed = section.find("cat_hidden_layers")
        name, appended = (name, [layers]) if listed is not None else ("encoder_layer_indices", [])
    if not isinstance(listed, list) or not all(_is_int(tap) for tap in listed):
        raise _error(name, listed, "a list of block numbers")
    taps = [tap + layers + 1 if tap < 0 else tap for tap in listed] + appended
    if not taps or taps[0] < 1 or taps[-1] != layers or any(here >= there for here, there in pairwise(taps)):
        raise _error(name, listed, f"ascending from 1 to the last block, {layers}")
    return tuple(taps)


def _projector(section: _Section, top: _Section) -> ProjectorConfig:
    section.only("hidden_act", "silu")
    for name in ("attn_bias", "attention_bias", "mlp_bias"):
        section.only(name, True)
    hidden = section.integer("hidden_size")
    heads = section.divisor("num_heads", "num_attention_heads", of=hidden)
    section.only("num_key_value_heads", heads)
    at_top = section.find("block_size", "window_size")[1] is None and top.find("window_size")[1] is not None
    windows = top if at_top else section  # a draft of the native port kept these two at the top
    window = windows.integer("block_size", "window_size")
    return ProjectorConfig(
        hidden=hidden,
        intermediate=_intermediate(section, hidden),
        heads=heads,
        layers=section.integer("num_layers", "num_hidden_layers", high=_MAX_LAYERS),
        window=window,
        downsample=windows.divisor("downsample_rate", of=window),
        eps=section.number("layernorm_eps", "layer_norm_eps"),
    )


def _intermediate(section: _Section, hidden: int) -> int:
    if section.find("mlp_ratio")[1] is None:
        return section.integer("intermediate_size")
    intermediate = hidden * section.number("mlp_ratio")
    if not intermediate.is_integer() or intermediate > _MAX_SIZE:
        raise _error(section.path("mlp_ratio"), section.number("mlp_ratio"), f"a ratio over {hidden} units")
    return int(intermediate)


def _editor(section: _Section) -> EditorConfig:
    section.only("hidden_act", "silu")
    section.only("attention_bias", False)
    section.only("mlp_bias", False)
    section.only("tie_word_embeddings", True)
    hidden, heads = section.integer("hidden_size"), section.integer("num_attention_heads")
    head_dim = _head_dim(section, "head_dim", hidden, heads)
    if head_dim % 2:
        raise _error(section.path("head_dim"), head_dim, "even, as rotary positions need it")
    return EditorConfig(
        vocabulary=section.integer("vocab_size"),
        hidden=hidden,
        intermediate=section.integer("intermediate_size"),
        layers=section.integer("num_hidden_layers", high=_MAX_LAYERS),
        heads=heads,
        kv_heads=section.divisor("num_key_value_heads", of=heads, default=heads),
        head_dim=head_dim,
        eps=section.number("rms_norm_eps"),
        rope_theta=_rope_theta(section),
        max_positions=section.integer("max_position_embeddings"),
        embedding_multiplier=section.number("embedding_multiplier"),
        residual_multiplier=section.number("residual_multiplier"),
        attention_multiplier=section.number("attention_multiplier"),
        logits_scale=section.number("logits_scaling"),
    )


def _rope_theta(section: _Section) -> float:
    """Flat in the first revision, later inside `rope_parameters`."""
    for holder in ("rope_scaling", "rope_parameters"):
        if section.find(holder)[1] is None:
            continue
        rope = section.section(holder)
        rope.only("rope_type", "default")
        rope.only("type", "default")
        rope.only("partial_rotary_factor", 1)
        if rope.find("rope_theta")[1] is not None:
            section.only("rope_theta", rope.number("rope_theta"))
            return rope.number("rope_theta")
    return section.number("rope_theta")


def _head_dim(section: _Section, name: str, hidden: int, heads: int) -> int:
    if section.find(name)[1] is None and hidden % heads:
        raise _error(section.path(name), None, f"stated where {heads} heads do not divide {hidden}")
    return section.integer(name, default=hidden // heads)


def _blank_id(top: _Section, encoder: _Section, text: _Section, vocabulary: int) -> int:
    """The editor's blank is the end of text. The encoder's may count labels of its own: it is asked last."""
    holders = (top, "blank_token_id"), (text, "eos_token_id"), (encoder, "blank_token_id")
    section, name = next((holder for holder in holders if holder[0].find(holder[1])[1] is not None), holders[0])
    blank = section.integer(name, low=0, high=vocabulary - 1)
    text.only("eos_token_id", blank)
    return blank


def _check_head_rows(encoder: _Section, text: _Section, vocabulary: int, head_rows: int | None) -> None:
    """The draft has a label for every token and, in the first published revision, one more for the blank."""
    fitting = (vocabulary, vocabulary + 1)
    path, stated = encoder.find("bpe_output_dim", "vocabulary_size")
    if stated is not None and stated not in fitting:
        raise _error(path, stated, f"{fitting[0]} or {fitting[1]}, as {text.path('vocab_size')} has it")
    if head_rows is not None and head_rows not in fitting:
        needed = f"{head_rows} or {head_rows - 1}, as the stored draft head has {head_rows} rows"
        raise _error(text.path("vocab_size"), vocabulary, needed)
    if head_rows is not None and stated not in (None, head_rows):
        raise _error(path, stated, f"{head_rows}, the rows of the stored draft head")


@dataclass(frozen=True, slots=True)
class _Section:
    """One object of config.json, read field by field. As everywhere in such files, null is the same as absent."""

    name: str  # dotted; empty for the whole file
    fields: Mapping[str, Any]

    def path(self, name: str) -> str:
        return f"{self.name}.{name}" if self.name else name

    def find(self, *names: str) -> tuple[str, Any]:
        """(path, value) of the first name that is there; (path of the first name, None) where none is."""
        found = next((name for name in names if self.fields.get(name) is not None), names[0])
        return self.path(found), self.fields.get(found)

    def section(self, *names: str) -> _Section:
        path, value = self.find(*names)
        if not isinstance(value, Mapping):
            raise _error(path, value, "an object")
        return _Section(path, value)

    def integer(self, *names: str, default: int | None = None, low: int = 1, high: int = _MAX_SIZE) -> int:
        path, found = self.find(*names)
        value: Any = default if found is None else found
        if not _is_int(value) or not low <= value <= high:
            raise _error(path, value, f"an integer from {low} to {high}")
        return int(value)

    def divisor(self, *names: str, of: int, default: int | None = None) -> int:
        value = self.integer(*names, default=default)
        if of % value:
            raise _error(self.find(*names)[0], value, f"a divisor of {of}")
        return value

    def number(self, *names: str) -> float:
        path, value = self.find(*names)
        if not (_is_int(value) or isinstance(value, float)) or not 0 < value < _MAX_NUMBER:
            raise _error(path, value, "a number above 0")
        return float(value)

    def flag(self, name: str, *, default: bool) -> bool:
        path, value = self.find(name)
        if value is not None and not isinstance(value, bool):
            raise _error(path, value, "true or false")
        return default if value is None else value

    def only(self, name: str, needed: bool | float | str) -> None:
        """A field may be absent, but must not differ from what is implemented, or from what another field says."""
        path, value = self.find(name)
        if value is not None and (value != needed or isinstance(value, bool) != isinstance(needed, bool)):
            raise _error(path, value, f"{_shown(needed)}, all that fits here")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _error(path: str, value: Any, needed: str) -> ConfigError:
    problem = "is missing" if value is None else f"is {_shown(value)}"
    return ConfigError(f"config.json: {path} {problem}, but must be {needed}; {_NEXT_STEP}.")
