"""Tiny autoregressive Granite Speech checkpoints with random weights, saved to a folder as published ones are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import GraniteSpeechConfig

SENTENCES = [
    "can you transcribe the speech into a written format?",
    "transcribe the speech with proper punctuation and capitalization.",
    "translate the speech to German. Keywords: Margaret Hale, Dashwood",
    "the quick brown fox jumps over the lazy dog",
]
# As granite.md §3.2 gives the rendering of 4.0 and 4.1: no system turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}"
    "USER: {{ message['content'] }}\n ASSISTANT:"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] }}{% endif %}{% endfor %}"
)


# Letters that the tokenizer never joins: text of these alone has only one way to be cut into tokens.
LETTERS = "bdfgjklmqvxyz"

# As granite.md §3.2 describes the rendering of 3.3: roles, and a system turn if there is one.
ROLES_TEMPLATE = (
    "{% for message in messages %}"
    "<|start_of_role|>{{ message['role'] }}<|end_of_role|>{{ message['content'] }}<|end_of_text|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
ROLE_MARKS = ("<|start_of_role|>", "<|end_of_role|>")


def write_granite(
    folder: Path,
    *,
    seed: int = 0,
    shard_bytes: str = "1GB",
    encoder: Mapping[str, int] = {},
    letters: str = "",
    roles: bool = False,
    **fields: Any,
) -> None:
    """config.json, generation_config.json, model.safetensors (or shards), tokenizer.json with its chat template.

    `encoder`: other sizes of the encoder. `letters`: all that the model writes beside the end token; empty: any token.
    `roles`: with the tokens and the template of 3.3.
    """
    import torch
    from transformers import GenerationConfig, GraniteSpeechForConditionalGeneration

    size = _write_tokenizer(folder, ROLE_MARKS if roles else ())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GraniteSpeechForConditionalGeneration(_config(size, encoder, **fields)).eval()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if tensor.ndim > 1:
                    tensor.normal_(0, 1.5 / tensor[0].numel() ** 0.5)
                elif "norm" not in name.lower():
                    tensor.normal_(0, 0.3)
            for name, tensor in model.named_buffers():
                if name.endswith("running_var"):
                    tensor.uniform_(0.5, 2)
                elif name.endswith("running_mean"):
                    tensor.normal_(0, 0.3)
            model.model.language_model.embed_tokens.weight.normal_(0, 0.1)
            model.lm_head.weight.normal_(0, 4)
            if letters:
                # Its last token tells such a model most of what to say. Small embeddings and sharp attention let it listen.
                model.model.language_model.embed_tokens.weight *= 0.3
                for name, tensor in model.model.language_model.named_parameters():
                    if "q_proj" in name or "k_proj" in name:
                        tensor *= 3
                kept = [0, *(read_tokenizer(folder).token_to_id(letter) for letter in letters)]
                model.lm_head.weight[[token for token in range(size) if token not in kept]] = 0
    model.generation_config = GenerationConfig(eos_token_id=0, bos_token_id=0, pad_token_id=1)
    model.save_pretrained(folder, max_shard_size=shard_bytes)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def edit_json(path: Path, **fields: Any) -> None:
    """Set fields of a JSON file; None takes one out."""
    found = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


def _config(size: int, sizes: Mapping[str, int], **fields: Any) -> GraniteSpeechConfig:
    from transformers import Blip2QFormerConfig, GraniteConfig, GraniteSpeechConfig, GraniteSpeechEncoderConfig

    text = GraniteConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        embedding_multiplier=12.0,
        residual_multiplier=0.4,
        attention_multiplier=0.2,
        logits_scaling=8.0,
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=1,
        tie_word_embeddings=False,
    )
    given = {
        "input_dim": 160,
        "num_layers": 4,
        "hidden_dim": 32,
        "feedforward_mult": 2,
        "num_heads": 2,
        "dim_head": 16,
        "output_dim": 20,
        "context_size": 16,
        "max_pos_emb": 24,
        "conv_kernel_size": 7,
        "conv_expansion_factor": 2,
    }
    encoder = GraniteSpeechEncoderConfig(**(given | dict(sizes)))
    projector = Blip2QFormerConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        encoder_hidden_size=encoder.hidden_dim,
    )
    return GraniteSpeechConfig(
        text_config=text,
        encoder_config=encoder,
        projector_config=projector,
        audio_token_index=2,
        has_lora_adapter=False,
        tie_word_embeddings=False,
        **fields,
    )


def _write_tokenizer(folder: Path, marks: tuple[str, ...]) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end_of_text|>", "<|pad|>", "<|audio|>", *marks],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|end_of_text|>",
        pad_token="<|pad|>",
        additional_special_tokens=["<|audio|>", *marks],
    )
    tokenizer.chat_template = ROLES_TEMPLATE if marks else CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return int(bpe.get_vocab_size())
