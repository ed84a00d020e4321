"""Tiny CTC checkpoints of transformers with random weights, saved to a folder as published ones are, and clips for them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.records import Samples

SENTENCES = [
    "the quick brown fox jumps over the lazy dog",
    "pack my box with five dozen liquor jugs",
    "how now brown cow",
]
LETTERS = "abcdefghijklmnopqrstuvwxyz'"


def murmur(n_samples: int) -> Samples:
    """A clip whose tones and loudness change every 60 ms, so that its frames are not alike; the same for the same length."""
    source = np.random.default_rng(n_samples)
    parts = range(0, n_samples, 960)
    pitches_hz = source.uniform(60, 7_900, (len(parts), 4, 1))
    loudness = 10 ** source.uniform(1, 3.8, (len(parts), 4, 1))
    tones = (loudness * np.sin(2 * np.pi * pitches_hz * np.arange(960) / 16_000)).sum(1)
    return (tones + source.normal(0, 30, tones.shape)).ravel()[:n_samples].clip(-32_768, 32_767).astype(np.int16)


def write_turboctc(folder: Path, *, vocabulary: int = 86) -> None:
    """Granite Speech 5: byte-level BPE, blank and padding 0, frames of 80 ms."""
    from transformers import GraniteSpeech5CTCConfig, GraniteSpeech5EncoderConfig, GraniteSpeech5ForCTC

    size = _byte_level_tokenizer(folder, vocabulary)
    encoder = GraniteSpeech5EncoderConfig(
        vocab_size=size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=32,
        context_size=16,
        initializer_range=0.3,
    )
    config = GraniteSpeech5CTCConfig(vocab_size=size, encoder_config=encoder)
    extractor = {
        "feature_extractor_type": "GraniteSpeech5FeatureExtractor",
        "num_mel_bins": 80,
        "sampling_rate": 16_000,
        "n_fft": 512,
        "win_length": 400,
        "hop_length": 160,
        "delta_win_length": 3,
        "logmel_floor_db": 8.0,
        "padding_value": 0.0,
    }
    _save(folder, GraniteSpeech5ForCTC, config)
    processor = {"processor_class": "GraniteSpeech5Processor", "feature_extractor": extractor}
    (folder / "processor_config.json").write_text(json.dumps(processor))


def write_parakeet(folder: Path) -> None:
    """Parakeet: the blank and padding are the last token, frames of 80 ms."""
    from transformers import ParakeetCTCConfig, ParakeetEncoderConfig, ParakeetFeatureExtractor, ParakeetForCTC

    size = _metaspace_tokenizer(folder)
    encoder = ParakeetEncoderConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        subsampling_conv_channels=8,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    _save(
        folder,
        ParakeetForCTC,
        ParakeetCTCConfig(vocab_size=size, pad_token_id=size - 1, encoder_config=encoder),
        unsaid=(0,),
    )
    ParakeetFeatureExtractor().save_pretrained(folder)


def write_wav2vec2(
    folder: Path, *, norm: str = "layer", family: str = "wav2vec2", spaces: float = 5.0, **fields: Any
) -> None:
    """Wav2Vec2 and those built like it: letters, the blank and padding are 0, frames of 20 ms."""
    from transformers import AutoConfig, AutoModelForCTC, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor

    tokens = ["<pad>", "<s>", "</s>", "<unk>", "|", *LETTERS]
    folder.mkdir(exist_ok=True)
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({token: at for at, token in enumerate(tokens)}))
    Wav2Vec2CTCTokenizer(str(vocabulary), do_lower_case=False).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(return_attention_mask=norm == "layer").save_pretrained(folder)
    shape = {
        "vocab_size": len(tokens),
        "pad_token_id": 0,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 48,
        "conv_dim": (16,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "feat_extract_norm": norm,
        "do_stable_layer_norm": norm == "layer",
        "initializer_range": 0.3,
    }
    config = AutoConfig.for_model(family, **(shape | fields))
    _save(folder, AutoModelForCTC.from_config, config, unsaid=(1, 2, 3), bonus={4: spaces})


def _save(
    folder: Path,
    build: Callable[[Any], Any],
    config: Any,
    *,
    unsaid: Sequence[int] = (),
    bonus: Mapping[int, float] = {},
) -> None:
    """Random weights that give varied text; `unsaid`: labels that a trained model never gives; `bonus`: added to logits."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build(config).eval()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                is_head = name.startswith(("lm_head", "ctc_head", "encoder.out."))
                if tensor.ndim > 1:
                    tensor.normal_(0, 1 if is_head else 2 / tensor[0].numel() ** 0.5)
                elif "norm" not in name:
                    tensor.normal_(0, 0.3)
            head = model.lm_head if hasattr(model, "lm_head") else model.ctc_head
            head.bias[list(unsaid)] = -1e4
            for label, logit in bonus.items():
                head.bias[label] += logit
    model.save_pretrained(folder)


def _byte_level_tokenizer(folder: Path, vocabulary: int) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import ParakeetTokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<pad>"], show_progress=False)
    bpe.train_from_iterator(SENTENCES, trainer)
    ParakeetTokenizer(tokenizer_object=bpe, pad_token="<pad>").save_pretrained(folder)
    return int(bpe.get_vocab_size())


def _metaspace_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import ParakeetTokenizer

    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Metaspace()
    bpe.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>"], show_progress=False)
    )
    bpe.add_special_tokens(["<pad>"])
    ParakeetTokenizer(tokenizer_object=bpe, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return int(bpe.get_vocab_size())
