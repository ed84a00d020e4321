"""The Granite NAR benchmark: its counting, its batches, its clocks, and the whole of it on a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))

import numpy as np
import pytest
import torch
from granite_nar_batches import Clips, Forced, Work, draw_clips, in_order, packed
from granite_nar_cases import Bench, measure, model_of_size, random_weights, stages
from granite_nar_clock import busy
from granite_nar_flops import Rows, products, useful_flops
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.engines.granite_nar import draft, projector
from pipeline.engines.granite_nar.config import ModelConfig
from pipeline.engines.granite_nar.packing import frames_of, pack_edit
from pipeline.engines.granite_nar.weights import Linear

REPO = Path(__file__).resolve().parents[2]
SMALL = model_of_size("small")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(SMALL, random_weights(SMALL, CPU, torch.float32), CPU, seconds=1.0, backend="sdpa", compiled=False)


def test_the_published_model_needs_103_gflop_per_second_of_audio() -> None:
    """12 s clips with 3.4 tokens per second: the figure that utilisations are quoted with."""
    slots = np.array([2 * 41 + 1] * 8 + [2 * 40 + 1] * 2)
    flops = useful_flops(ModelConfig(), np.full(10, 600), np.full(10, 120), slots)
    per_s = {name: count / 120 / 1e9 for name, count in flops._asdict().items()}
    expected = {"encoder": 44.7, "draft_head": 2.6, "projector": 3.6, "editor": 49.3, "head": 2.8}
    assert per_s == pytest.approx(expected, abs=0.05)
    assert flops.total / 120 / 1e9 == pytest.approx(103.0, abs=0.05)


def test_flops_are_those_that_torch_counts(bench: Bench) -> None:
    """Every product that the model runs, where no length has a remainder; the taps of the convolution are no product."""
    tokens, clips = 30, 3
    batch = bench.model.pack([np.arange(600 * 320, dtype=np.int64).astype(np.int16)] * clips)
    edit = pack_edit(batch.packing, np.arange(clips), [np.arange(tokens)] * clips, SMALL)
    counted: dict[str, int] = {}

    def count(stage, run):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            result = run()
        counted[stage] = counter.get_total_flops()
        return result

    model, weights = bench.model, bench.weights
    with torch.inference_mode():
        uploaded = model.upload(batch)
        x = model.features(uploaded, clips)
        found = count("encoder", lambda: model.encode(x, uploaded.places))
        pooled = draft.pool(found.taps[-1], found.blank, uploaded.label)
        count("draft_head", lambda: draft.read_head(pooled, weights.encoder.draft))
        run = (found.taps, uploaded.window, weights.projector, SMALL.projector)
        audio = count("projector", lambda: projector.project(*run))
        h = count("editor", lambda: model.read_slots(audio, edit))
        count("head", lambda: draft.read_head(h, Linear(weights.editor.embedding, None)))
    encoder, frames = SMALL.encoder, clips * 600
    taps = frames * encoder.conv_inner * encoder.conv_kernel
    # Of each query's product with all distances, half is read.
    unread = frames * encoder.context * encoder.heads * encoder.head_dim
    counted["encoder"] += 2 * encoder.layers * (taps - unread)
    useful = useful_flops(SMALL, batch.packing.frames, batch.packing.audios, edit.slots)._asdict()
    assert useful.pop("encoder") == pytest.approx(counted.pop("encoder"), rel=1e-3)  # gaps between clips are rows too
    assert useful == counted


def test_clips_without_an_editor_cost_none() -> None:
    frames, audios, none = np.array([600, 75]), np.array([120, 15]), np.zeros(2, np.int64)
    flops = useful_flops(SMALL, frames, audios, none)
    assert flops.editor == flops.head == 0
    assert flops.projector == useful_flops(SMALL, frames, audios, none + 9).projector


def test_products_have_the_shapes_of_the_fused_weights(bench: Bench) -> None:
    sizes = {(product.inputs, product.outputs) for product in products(SMALL, Rows(1, 1, 1, 1, 1, 1))}
    linears: list[Linear] = []

    def walk(node: object) -> None:
        if isinstance(node, Linear):
            linears.append(node)
        elif isinstance(node, tuple):
            for part in node:
                walk(part)

    walk(bench.weights)
    shapes = {(linear.weight.shape[1], linear.weight.shape[0]) for linear in linears}
    shapes.add((SMALL.editor.hidden, SMALL.editor.vocabulary))  # the tied head
    assert sizes == shapes


def test_batches_hold_every_clip_once_and_pad_as_they_say(bench: Bench) -> None:
    drawn = draw_clips(300)
    works = packed(bench.model, drawn, 120.0)
    assert sorted(np.concatenate([work.clips.samples for work in works])) == sorted(drawn.samples)
    assert all(work.audio_s <= 120.0 for work in works)
    together, padded = in_order(bench.model, drawn, "packed"), in_order(bench.model, drawn, "padded")
    for true, full in zip(together, padded, strict=True):
        longest = int(frames_of(true.clips.samples).max())
        assert full.batch.packing.frames.tolist() == [longest] * len(true.clips.samples)
        assert true.batch.packing.frames.tolist() == frames_of(true.clips.samples).tolist()
    assert sum(work.computed_s for work in padded) > 2 * sum(work.audio_s for work in padded)


def test_the_hypothesis_is_forced(bench: Bench) -> None:
    drawn = draw_clips(2000)
    works = in_order(bench.model, drawn.of(slice(0, 256)), "padded") + packed(bench.model, drawn, 480.0)
    for rate in (2.5, 3.4, 4.5):
        plans = Forced(rate).plans(works, SMALL)
        for work in works:
            counts = [len(tokens) for tokens in plans[work.batch].drafts]
            if work.form == "padded":
                assert set(counts) == {max(work.clips.tokens(rate))}
            else:
                assert counts == work.clips.tokens(rate).tolist()
            assert all(SMALL.blank_id not in tokens for tokens in plans[work.batch].drafts)
        total = sum(len(tokens) for work in works[2:] for tokens in plans[work.batch].drafts)
        assert total / drawn.audio_s.sum() == pytest.approx(rate, rel=0.005)
    chosen = sum(len(plan.clips) for plan in Forced(edited=0.35).plans(works[2:], SMALL).values())
    assert chosen / 2000 == pytest.approx(0.35, abs=0.03)


def test_a_padded_encoder_hands_the_editor_true_lengths(bench: Bench) -> None:
    """The published remote code: the audio embeddings of a clip are the first of its padded ones."""
    drawn = draw_clips(40)
    (whole,), (cut,) = in_order(bench.model, drawn, "padded"), in_order(bench.model, drawn, "editor packed")
    frames = frames_of(drawn.samples)
    assert cut.batch.packing.audios.tolist() == (frames // SMALL.projector.downsample).tolist()
    starts = np.cumsum(whole.batch.packing.audios) - whole.batch.packing.audios
    kept = [
        whole.batch.packing.audio[start : start + count]
        for start, count in zip(starts, cut.batch.packing.audios, strict=True)
    ]
    assert np.array_equal(cut.batch.packing.audio, np.concatenate(kept))


def test_clocks_count_audio_not_padding(bench: Bench) -> None:
    drawn = Clips(np.array([16_000, 48_000]), np.zeros(2), np.zeros(2))
    works: list[Work] = in_order(bench.model, drawn, "padded")
    row = measure(bench, works, Forced())
    assert [(one["audio_s"], one["computed_s"]) for one in row["passes"]] == [(4.0, 6.0)] * 3
    assert row["speed"] > 0
    found = stages(bench, works)
    assert sum(stage["share"] for stage in found["stages"].values()) == pytest.approx(1)


def test_busy_is_the_union_of_what_the_gpu_did() -> None:
    """Overlapping streams count once; the host's events and the time before and after do not count."""
    events = [
        {"cat": "kernel", "name": "gemm", "ts": 100.0, "dur": 10.0},
        {"cat": "gpu_memcpy", "name": "copy", "ts": 105.0, "dur": 10.0},
        {"cat": "kernel", "name": "gemm", "ts": 130.0, "dur": 10.0},
        {"cat": "kernel", "name": "gemm", "ts": 132.0, "dur": 2.0},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 0.0, "dur": 500.0},
        {"cat": "kernel", "name": "an instant", "ts": 131.0},
    ]
    found = busy(events)
    assert found.share == pytest.approx(25 / 40)
    assert found.seconds == pytest.approx(40e-6)
    assert [(name, calls) for name, _, calls in found.kernels] == [("gemm", 3), ("copy", 1)]
    with pytest.raises(ValueError, match="kernel"):
        busy(events[4:5])


def test_the_script_measures_goes_on_after_a_failure_and_writes(tmp_path: Path) -> None:
    out = tmp_path / "raw.json"
    command = [sys.executable, str(REPO / "benchmarks" / "granite_nar.py"), "--device", "cpu", "--clips", "3"]
    command += [
        "--rounds",
        "1",
        "--out",
        str(out),
        "--backend",
        "none",
        "--parts",
        "prepare",
        "clock",
        "forms",
        "stages",
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=170)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text("utf-8"))
    assert "no attention backend 'none'" in found["failed"]["prepare"]
    assert {"clock:3.4", "clock:2.5", "clock:4.5", "forms", "stages"} <= set(found)
    assert found["clock:2.5"]["gflop_per_audio_s"] < found["clock:4.5"]["gflop_per_audio_s"]
    for told in ("WER is untested", "small model on a CPU", "forced", "128 as they come, padded", "encoder"):
        assert told in done.stdout
