"""Tiny causal language models with random weights, saved to a folder as published ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SENTENCES = [
    "summarise the transcript below in a few sentences, in the language that it is in.",
    "she was the youngest of the two daughters of a most affectionate, indulgent father",
    "leave nothing out, add nothing, and write the corrected transcript alone.",
    "the quick brown fox jumps over the lazy dog",
]
CONTROLS = {
    "granite": ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"],
    "chatml": ["<|im_end|>", "<|im_start|>"],
    "llama3": ["<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|begin_of_text|>"],
    "plain": ["</s>"],
}


def write_causal(folder: Path, kind: str = "granite", markup: str = "granite", seed: int = 0, **fields: Any) -> None:
    """config.json, generation_config.json, model.safetensors, tokenizer.json. `fields` go into the model's config."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    size = _write_tokenizer(folder, CONTROLS[markup], begin="<|begin_of_text|>" if markup == "llama3" else None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(_config(kind, size, fields)).eval()
        with torch.no_grad():
            for name, tensor in model.named_parameters():
                if tensor.ndim > 1 and "conv" not in name:
                    tensor.normal_(0, 1.5 / tensor[0].numel() ** 0.5)
            model.get_output_embeddings().weight.normal_(0, 1)
            model.get_input_embeddings().weight.normal_(0, 1)
    # As published folders do, it asks for sampling: that must not reach greedy decoding.
    model.generation_config = GenerationConfig(
        eos_token_id=0, pad_token_id=0, do_sample=True, temperature=0.9, repetition_penalty=1.3
    )
    model.save_pretrained(folder)


def _config(kind: str, size: int, fields: dict[str, Any]) -> Any:
    from transformers import (
        BloomConfig,
        Gemma2Config,
        GPT2Config,
        GraniteConfig,
        GraniteMoeHybridConfig,
        LlamaConfig,
        MambaConfig,
        MistralConfig,
    )

    common = {
        "vocab_size": size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "eos_token_id": 0,
        "bos_token_id": 0,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    if kind == "granite":
        extra = {"embedding_multiplier": 4.0, "residual_multiplier": 0.6, "attention_multiplier": 0.3}
        return GraniteConfig(**(common | extra | {"logits_scaling": 2.0} | fields))
    if kind == "granite-hybrid":
        extra = {
            "layer_types": ["mamba", "attention"],
            "num_local_experts": 0,
            "num_experts_per_tok": 0,
            "shared_intermediate_size": 48,
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_chunk_size": 16,
        }
        return GraniteMoeHybridConfig(**(common | extra | fields))
    if kind == "llama":
        return LlamaConfig(**(common | fields))
    ends = {"eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0}
    if kind == "gpt2":  # positions are learned: one too many breaks it
        return GPT2Config(vocab_size=size, n_positions=512, n_embd=32, n_layer=2, n_head=4, **ends)
    if kind == "bloom":  # has no positions
        return BloomConfig(vocab_size=size, hidden_size=32, n_layer=2, n_head=4, **ends)
    if kind == "mamba":  # has no attention
        return MambaConfig(vocab_size=size, hidden_size=32, num_hidden_layers=2, state_size=8, **ends)
    if kind == "mistral":  # sees its last 16 tokens alone
        return MistralConfig(**(common | {"sliding_window": 16} | fields))
    return Gemma2Config(**(common | {"head_dim": 8, "sliding_window": 16} | fields))


def _write_tokenizer(folder: Path, controls: list[str], begin: str | None) -> int:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=controls,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES, trainer)
    bpe.add_tokens([AddedToken("<tool_call>", special=False)])  # steers a model, though it is not called special
    if begin:
        number = bpe.token_to_id(begin)
        bpe.post_processor = processors.TemplateProcessing(f"{begin} $A", special_tokens=[(begin, number)])
    folder.mkdir(parents=True, exist_ok=True)
    bpe.save(str(folder / "tokenizer.json"))
    return int(bpe.get_vocab_size())
