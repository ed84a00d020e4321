"""Tiny Whisper checkpoints with random weights, saved to a folder in Hugging Face format as published ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MULTILINGUAL, ENGLISH = 51_865, 51_864
LANGUAGES = 99


def write_whisper(folder: Path, *, seed: int = 0, vocabulary: int = MULTILINGUAL, shard_bytes: str = "1GB") -> None:
    """config.json, generation_config.json, model.safetensors (or shards), tokenizer.json, with a vocabulary of published size.

    It says something else of every clip, and ends its texts now and then.
    """
    import torch
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

    numbers = _write_tokenizer(folder, vocabulary)
    end = numbers["<|endoftext|>"]
    config = WhisperConfig(
        vocab_size=vocabulary,
        num_mel_bins=80,
        d_model=32,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=48,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=48,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=end + 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config).eval()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if tensor.ndim > 1 and "positions" not in name:
                    tensor.normal_(0, (4 if "_proj" in name else 1.5) / tensor[0].numel() ** 0.5)
            model.model.decoder.embed_tokens.weight[end] *= 1.5
            model.model.decoder.embed_tokens.weight[end + 1 :] *= 0.3  # trained ones seldom write marks among words
    model.generation_config = GenerationConfig(
        eos_token_id=end,
        decoder_start_token_id=end + 1,
        is_multilingual=vocabulary == MULTILINGUAL,
        alignment_heads=[[0, 1], [1, 0]],
    )
    model.save_pretrained(folder, max_shard_size=shard_bytes)


def _write_tokenizer(folder: Path, vocabulary: int) -> dict[str, int]:
    """Bytes and made-up words up to the end token; behind it what every Whisper has there. The numbers of all tokens."""
    from faster_whisper.tokenizer import _LANGUAGE_CODES
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    marks = ["<|endoftext|>", "<|startoftranscript|>"]
    marks += [f"<|{code}|>" for code in _LANGUAGE_CODES if code != "yue"]
    marks += [
        f"<|{name}|>" for name in ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
    ]
    times = 1501
    words = vocabulary - len(marks) - times
    numbers: dict[str, Any] = {letter: at for at, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    numbers |= {f"Ġw{at}": at for at in range(len(numbers), words)}
    bpe = Tokenizer(models.BPE(numbers, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken(mark, special=True) for mark in marks])
    bpe.add_special_tokens([AddedToken(f"<|{at * 0.02:.2f}|>", special=True) for at in range(times)])
    assert bpe.get_vocab_size() == vocabulary
    bpe.save(str(folder / "tokenizer.json"))
    return bpe.get_vocab()
