"""Tiny Granite Speech Plus checkpoints with random weights, saved to a folder as the published one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from granite_checkpoints import edit_json

# As granite.md §3.2 gives the rendering of plus.
SYSTEM = (
    "Knowledge Cutoff Date: April 2024.\nToday's Date: December 19, 2024.\n"
    "You are Granite, developed by IBM. You are a helpful AI assistant"
)
CHAT_TEMPLATE = (
    "<|start_of_role|>system<|end_of_role|>"
    + SYSTEM.replace("'", '{{ "\'" }}')
    + "<|end_of_text|>\n{% for message in messages %}<|start_of_role|>{{ message['role'] }}<|end_of_role|>"
    "{{ message['content'] }}<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{{ prefix_text or '' }}{% endif %}"
)
_SENTENCES = [
    SYSTEM,
    "can you transcribe the speech into a written format? Keywords: Margaret Hale, Dashwood",
    "Speaker attribution: Transcribe and denote who is speaking by adding [Speaker 1]: and [Speaker 2]: tags before "
    "speaker turns.",
    "Timestamps: Transcribe the speech. After each word, add a timestamp tag showing the end time in centiseconds, "
    "e.g. hello [T:45] world [T:82]",
]


def write_granite_plus(folder: Path, *, seed: int = 0, taps: tuple[int, ...] = (3,), positions: int = 4096) -> None:
    """config.json, generation_config.json, model.safetensors, tokenizer.json with its chat template; a tied head."""
    import torch
    from transformers import GenerationConfig, GraniteSpeechPlusForConditionalGeneration

    size = _write_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GraniteSpeechPlusForConditionalGeneration(_config(size, taps, positions)).eval()
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
            model.model.language_model.norm.weight.normal_(0, 8)  # else a tied head says the last token again
    model.generation_config = GenerationConfig(eos_token_id=0, bos_token_id=0, pad_token_id=1)
    model.save_pretrained(folder)
    edit_json(folder / "config.json", has_lora_adapter=False)


def _config(size: int, taps: tuple[int, ...], positions: int) -> Any:
    from transformers import Blip2QFormerConfig, GraniteConfig, GraniteSpeechPlusConfig, GraniteSpeechPlusEncoderConfig

    text = GraniteConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=positions,
        embedding_multiplier=12.0,
        residual_multiplier=0.4,
        attention_multiplier=0.2,
        logits_scaling=8.0,
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    encoder = GraniteSpeechPlusEncoderConfig(
        input_dim=160,
        num_layers=6,
        hidden_dim=32,
        feedforward_mult=2,
        num_heads=2,
        dim_head=16,
        output_dim=20,
        context_size=16,
        max_pos_emb=24,
        conv_kernel_size=7,
        conv_expansion_factor=2,
        cat_hidden_layers=list(taps),
    )
    projector = Blip2QFormerConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        encoder_hidden_size=32 * (len(taps) + 1),
    )
    return GraniteSpeechPlusConfig(
        text_config=text,
        encoder_config=encoder,
        projector_config=projector,
        audio_token_index=2,
        has_lora_adapter=False,
        tie_word_embeddings=True,
    )


def _write_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|end_of_text|>", "<|pad|>", "<|audio|>", "<|start_of_role|>", "<|end_of_role|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token=special[0], pad_token=special[1], additional_special_tokens=special[2:]
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    return int(bpe.get_vocab_size())
