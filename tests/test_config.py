"""Settings: what changes text makes another fingerprint, what changes speed does not; every mistake is one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli import _without_secrets
from pipeline.config import RunConfig
from pipeline.config.file import load_config
from pipeline.errors import ConfigError

BASE = ["manifest=a.jsonl", "output=out"]


def test_overrides_win_over_the_file_and_reach_deep(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("manifest: a.jsonl\noutput: out\nengine:\n  name: whisper\n  options: {beam_size: 5}\n")
    config = load_config(str(path), ["engine.options.beam_size=2", "plan.shard_s=600"])
    assert config.engine.options == {"beam_size": 2}
    assert config.plan.shard_s == 600.0
    assert config.engine.name == "whisper"


@pytest.mark.parametrize(
    "change", ["engine.model=other", "chunk.vad=none", "plan.window_s=600", "score.normalizer=basic"]
)
def test_text_settings_change_the_fingerprint(change: str) -> None:
    assert load_config(None, [*BASE, change]).fingerprint() != load_config(None, BASE).fingerprint()


def test_a_text_setting_that_came_later_leaves_older_fingerprints_alone() -> None:
    """A run of before is found, not silently begun anew: at its default such a setting is not in the fingerprint."""
    plain = load_config(None, BASE)
    assert "source" not in plain.text_settings()
    assert load_config(None, [*BASE, "source.channels=mix"]).fingerprint() == plain.fingerprint()
    assert load_config(None, [*BASE, "source.channels=split"]).fingerprint() != plain.fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        "runtime.kind=local",
        "batch.max_audio_s=60",
        "decode.timeout_s=5",
        "name=x",
        "output=elsewhere",
        "engine.threads=2",
        "engine.storage_options={profile: models}",
        "retry.engine.model=other",
        "retry.min_coverage=0.5",
    ],
)
def test_speed_settings_do_not(change: str) -> None:
    assert load_config(None, [*BASE, change]).fingerprint() == load_config(None, BASE).fingerprint()


@pytest.mark.parametrize("section", ["source", "store", "engine"])
def test_keys_of_a_store_are_not_told(section: str) -> None:
    config = load_config(None, [*BASE, f"{section}.storage_options={{endpoint_url: 'http://a', secret: CANARY}}"])
    assert getattr(config, section).storage_options["secret"] == "CANARY"
    assert config.public()[section]["storage_options"] == {"endpoint_url": "http://a", "secret": "…"}
    assert "CANARY" not in str(config.public()) + str(config.text_settings())


@pytest.mark.parametrize(
    "place", ["output={}", "manifest={}", "source.roots=[{}]", "engine.model={}", "retry.engine.model={}"]
)
def test_users_in_addresses_are_not_told(place: str) -> None:
    config = load_config(None, [*BASE, place.format('"s3://name:CANARY@bucket/x"')])
    assert "CANARY" in str(config.model_dump())
    assert "CANARY" not in str(config.public())
    assert "s3://…@bucket/x" in str(config.public())


@pytest.mark.parametrize("setting", ["manifest", "output"])
@pytest.mark.parametrize("address", ["s3://", "s3:/", "s3:/bucket/x", "gs:///"])
def test_an_address_without_a_bucket_is_no_folder_on_this_disk(setting: str, address: str) -> None:
    with pytest.raises(ConfigError, match=f"The setting '{setting}' cannot be '{address}': .*s3://BUCKET/FOLDER"):
        load_config(None, [*BASE, f"{setting}={address}"])


def test_keys_of_the_second_engines_store_are_not_told() -> None:
    config = load_config(None, [*BASE, "retry.engine.storage_options={profile: models, secret: CANARY}"])
    assert config.public()["retry"]["engine"]["storage_options"] == {"profile": "models", "secret": "…"}
    assert "CANARY" not in str(config.public())


def test_every_setting_says_what_it_does_and_of_which_kind_it_is() -> None:
    def fields(model: type) -> list[tuple[str, object]]:
        found = []
        for name, info in model.model_fields.items():  # type: ignore[attr-defined]
            inner = info.annotation
            found += fields(inner) if hasattr(inner, "model_fields") else [(f"{model.__name__}.{name}", info)]
        return found

    for name, info in fields(RunConfig):
        assert info.description, name  # type: ignore[attr-defined]
        assert "text" in (info.json_schema_extra or {}), f"{name} is made with neither text_field nor speed_field"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "'manifest' is missing"),
        ([*BASE, "engine.nmae=whisper"], "did you mean 'engine.name'"),
        ([*BASE, "chunk.vad=loud"], "'chunk.vad'"),
        ([*BASE, "plan.shard_s=true"], "true or false"),
        ([*BASE, "engine.model=true"], "in quotes"),
        ([*BASE, "cost.machines={gpu: true}"], "true or false"),
        ([*BASE, f"name=0x{'f' * 5_000}"], "thousands of digits"),
        ([*BASE, f"{'k' * 5_000}=1"], "kkk...kkk"),
        ([*BASE, "manifest.x=1"], "single value"),
        ([*BASE, "=1"], "not of the form"),
        ([*BASE, "engine.options={a: "], "not valid YAML"),
        ([*BASE, "backfill.since=2026-13-01"], "not valid YAML"),
        ([*BASE, f"engine.options={'[' * 5_000}"], "not valid YAML"),
    ],
)
def test_mistakes_are_one_sentence(overrides: list[str], expected: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_of_a_thousand_million_items_is_one_sentence(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, "output: out", "manifest: *a8"]))
    with pytest.raises(ConfigError, match=r"manifest.*cannot be") as caught:
        load_config(str(tmp_path / "bomb.yaml"))
    assert len(str(caught.value)) < 1000


def test_a_mistake_in_an_override_is_not_looked_for_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("manifest: m.jsonl\noutput: out\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path / "a.yaml"), [" plan.shard_s =long"])
    assert "a.yaml" not in str(caught.value)
    (tmp_path / "a.yaml").write_text("manifest: m.jsonl\noutput: out\nengine: {language_policy: wrong}\n")
    with pytest.raises(ConfigError, match=r"language_policy.*a\.yaml"):
        load_config(str(tmp_path / "a.yaml"), ["engine.language=de"])


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\x00", "backfill: {since: 2026-02-30}", "[" * 5_000])
def test_files_that_hold_no_settings(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        load_config(str(path))


@pytest.mark.parametrize(
    "settings", [["plan.overlap_s=40", "plan.window_s=60"], ["plan.overlap_s=20", "plan.window_s=31"]]
)
def test_seams_of_one_window_stay_apart(settings: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"'plan\.overlap_s' cannot be .*at most half of plan\.window_s; correct it"):
        load_config(None, ["manifest=m.jsonl", "output=out", *settings])
    load_config(None, ["manifest=m.jsonl", "output=out", settings[0], "plan.window_s=80"])


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("output=s3://name:CANARY@bucket/x", "output=s3://…@bucket/x"),
        ("store.storage_options.secret=CANARY", "store.storage_options.secret=…"),
        ("store={storage_options: {secret: CANARY}}", "store=…"),
    ],
)
def test_a_command_that_is_proposed_tells_no_secret(override: str, told: str) -> None:
    assert _without_secrets(override) == told
