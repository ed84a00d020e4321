"""What the granite engine's own parts save: packed listening against padded, drafts against plain greedy decoding.

    python benchmarks/granite_ar.py [--out FILE]

Random weights, so nothing is said of words. On a CPU a model of an eighth of the published widths and layers in float32, in
CPU-seconds; on a GPU the published size in bfloat16, in seconds. Padded is transformers' own encoder. Drafts are
planted: what the model writes, with so many of their tokens kept right.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a checkout need not be installed
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # read when torch is imported: CPU-seconds must not count threads that spin

import numpy as np
import torch
from torch import Tensor

from pipeline.engines.granite.decoding import Decoded, decode_greedily
from pipeline.engines.granite.drafting import Draft
from pipeline.engines.granite.listening import Ear
from pipeline.records import SAMPLE_RATE_HZ, Samples

ROUNDS = 3
AGREEMENT = (0.0, 0.5, 0.9)  # share of the draft's tokens that are the model's
N_PROMPTS, N_TOKENS, PROMPT_POSITIONS = 16, 48, 150  # a clip of 13 s and its instruction
LONGEST_S, SHORTEST_S = 30.0, 2.0


def build(on_gpu: bool) -> Any:
    """A GraniteSpeechForConditionalGeneration with random weights."""
    from transformers import (
        Blip2QFormerConfig,
        GraniteConfig,
        GraniteSpeechConfig,
        GraniteSpeechEncoderConfig,
        GraniteSpeechForConditionalGeneration,
    )

    part = 1 if on_gpu else 8
    text = GraniteConfig(
        vocab_size=100_353 if on_gpu else 8192,
        hidden_size=2048 // part,
        intermediate_size=4096 // part,
        num_hidden_layers=40 // part,
        num_attention_heads=16 // part,
        num_key_value_heads=max(4 // part, 1),
        embedding_multiplier=12.0,
        residual_multiplier=0.22,
        attention_multiplier=1 / 128,
        logits_scaling=8.0,
        tie_word_embeddings=False,
    )
    encoder = GraniteSpeechEncoderConfig(
        input_dim=160, num_layers=16 // part, hidden_dim=1024 // part, num_heads=8 // part, dim_head=128, output_dim=348
    )
    projector = Blip2QFormerConfig(
        hidden_size=1024 // part,
        num_hidden_layers=2,
        num_attention_heads=16 // part,
        intermediate_size=4096 // part,
        encoder_hidden_size=1024 // part,
    )
    config = GraniteSpeechConfig(
        text_config=text,
        encoder_config=encoder,
        projector_config=projector,
        has_lora_adapter=False,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    made: Any = GraniteSpeechForConditionalGeneration(config)
    made.model.language_model.embed_tokens.weight.data.normal_(0, 0.1)  # so that it does not say one word for ever
    return (made.to("cuda", torch.bfloat16) if on_gpu else made).eval()


def seconds(run: Callable[[], Any], on_gpu: bool) -> float:
    """CPU-seconds of a call, or seconds with the GPU's work in them."""
    clock = time.perf_counter if on_gpu else time.process_time
    if on_gpu:
        torch.cuda.synchronize()
    begun_s = clock()
    run()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - begun_s


def in_turns(runs: dict[str, Callable[[], Any]], on_gpu: bool) -> dict[str, list[float]]:
    """Seconds of each, round by round: what else the machine does falls on all alike. The first round only warms up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(1 + ROUNDS):
        for name, run in runs.items():
            found[name].append(seconds(run, on_gpu))
    return {name: values[1:] for name, values in found.items()}


def listening(model: Any, ear: Ear, encoder: Any, clips: Sequence[Samples], on_gpu: bool) -> dict[str, Any]:
    """The same clips through the packed encoder, and through transformers' own, padded to the longest."""
    longest = max(map(len, clips))
    padded = [np.pad(clip, (0, longest - len(clip))) for clip in clips]

    def theirs() -> None:
        features = torch.stack([ear.features(clip) for clip in padded]).to(model.dtype)
        model.model.projector(encoder(features).last_hidden_state)

    found = in_turns({"packed": lambda: ear.listen(clips), "padded": theirs}, on_gpu)
    ratios = [slow / fast for slow, fast in zip(found["padded"], found["packed"], strict=True)]
    audio_s = sum(map(len, clips)) / SAMPLE_RATE_HZ
    padding = longest * len(clips) / SAMPLE_RATE_HZ / audio_s
    return {"audio_s": audio_s, "computed_to_true": padding, "seconds": found, "faster_by": ratios}


def planted(ids: Sequence[int], agreement: float, chance: random.Random) -> Draft:
    """A draft of which so many tokens are right."""
    return Draft([token if chance.random() < agreement else token + 1 for token in ids])


def _with(model: Any, prompts: Sequence[Tensor], plain: Sequence[Decoded], agreement: float) -> list[Decoded]:
    chance = random.Random(1)
    drafts = [planted(one.ids, agreement, chance) for one in plain]
    return decode_greedily(model, prompts, [N_TOKENS] * len(prompts), (), drafts)


def speculating(model: Any, prompts: Sequence[Tensor], on_gpu: bool) -> dict[str, Any]:
    """Greedy decoding without drafts and with some that are right to a known part."""
    budgets = [N_TOKENS] * len(prompts)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    hook = model.model.language_model.register_forward_hook(count)
    plain = decode_greedily(model, prompts, budgets, ())
    found: dict[str, Any] = {"tokens": sum(len(one.ids) for one in plain), "passes": passes, "with_drafts": []}
    for agreement in AGREEMENT:
        passes = 0
        drafted = _with(model, prompts, plain, agreement)
        same = [one.ids for one in drafted] == [one.ids for one in plain]
        row: dict[str, Any] = {"agreement": agreement, "passes": passes, "same_text": same}
        row["foretold"] = sum(one.foretold for one in drafted) / found["tokens"]
        row["seconds"] = in_turns(
            {
                "greedy": lambda: decode_greedily(model, prompts, budgets, ()),
                "drafted": partial(_with, model, prompts, plain, agreement),
            },
            on_gpu,
        )
        row["faster_by"] = [a / b for a, b in zip(row["seconds"]["greedy"], row["seconds"]["drafted"], strict=True)]
        found["with_drafts"].append(row)
    hook.remove()
    return found


@torch.inference_mode()
def main() -> None:
    """Measure, print, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, help="where the raw figures go")
    options.add_argument("--clips", type=int, help="clips of the listening part; 8 on a CPU, 128 on a GPU")
    given = options.parse_args()
    on_gpu = torch.cuda.is_available()
    source = np.random.default_rng(0)
    lengths_s = source.uniform(SHORTEST_S, LONGEST_S, given.clips or (128 if on_gpu else 8))
    clips = [source.integers(-9999, 9999, int(length_s * SAMPLE_RATE_HZ), np.int16) for length_s in lengths_s]
    model = build(on_gpu)
    encoder = model.model.encoder
    ear = Ear(model)
    hidden = model.config.get_text_config().hidden_size
    torch.manual_seed(1)
    prompts = [torch.randn(PROMPT_POSITIONS, hidden).to(model.device, model.dtype) * 0.1 for _ in range(N_PROMPTS)]
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if on_gpu else f"CPU, {torch.get_num_threads()} threads",
        "listening": listening(model, ear, encoder, clips, on_gpu),
        "speculating": speculating(model, prompts, on_gpu),
    }
    heard, spoken = found["listening"], found["speculating"]
    print(f"{found['device']}; {'seconds' if on_gpu else 'CPU-seconds'}, medians of {ROUNDS} rounds")
    fast, slow = (statistics.median(heard["seconds"][name]) for name in ("packed", "padded"))
    print(f"listening: packed {fast:.2f}, padded {slow:.2f} ({heard['computed_to_true']:.2f} times the audio)", end="")
    print(f"; faster by {statistics.median(heard['faster_by']):.2f}")
    print(f"decoding: {N_PROMPTS} rows, {spoken['tokens']} tokens, {spoken['passes']} passes without drafts")
    for row in spoken["with_drafts"]:
        ratio = statistics.median(row["faster_by"])
        print(f"  agreement {row['agreement']:.0%}: {row['foretold']:.0%} foretold, {row['passes']} passes", end="")
        print(f", faster by {ratio:.2f}, {'same' if row['same_text'] else 'OTHER'} text")
    if given.out:
        given.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
