"""A model's files from the Hugging Face hub at a pinned commit.

The true hub was not reached: the real library talks to a small server that speaks our reading of the hub's protocol
(hub_server.py), in a process of its own, since the library reads HF_ENDPOINT when it is imported.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import TOKEN, Hub, serve_hub

COMMIT = "99a4df9007ac5682f9daa093fb7008ff606e9a5d"
WEIGHTS = np.random.default_rng(3).bytes(3_000_000)
FILES = {
    "model.safetensors": WEIGHTS,
    "config.json": b'{"model_type": "nle"}',
    "modeling_nle.py": b"boom",
    "pytorch_model.pt": b"boom",
    "figures/one.png": b"not seen",
    ".gitattributes": b"not seen",
}
WANTED = ["config.json", "model.safetensors"]

# Each line of the input is a method and its arguments; each line of the output what came of it.
_CLIENT = """
import json, sys
from pathlib import Path
from pipeline.engines.model_files import find_model
from pipeline.errors import ConfigError
from pipeline.store import patience
patience.FIRST_PAUSE_S = 0.02  # that it is asked again is looked at, not how long the pauses are
model = find_model(sys.argv[1])
for method, *arguments in json.loads(sys.argv[2]):
    try:
        found = getattr(model, method)(*arguments)
    except ConfigError as error:
        found = {"error": str(error)}
    if isinstance(found, frozenset):
        found = sorted(found)
    print(json.dumps(found.hex() if isinstance(found, bytes) else str(found) if isinstance(found, Path) else found))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub("ibm/nle", COMMIT, dict(FILES)) as running:
        yield running


class Client:
    """A machine with an empty home; every call is a new process on it."""

    def __init__(self, hub: Hub, home: Path) -> None:
        self.home = home
        self.uri = f"hf://{hub.repo}@{COMMIT}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        self.env = {**kept, "HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hf"), "QUARRY_CACHE": str(home / "quarry")}

    def ask(self, *calls: list[Any], uri: str = "", **env: str) -> list[Any]:
        command = [sys.executable, "-c", _CLIENT, uri or self.uri, json.dumps(calls)]
        done = subprocess.run(command, env={**self.env, **env}, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def error(self, *call: Any, **env: str) -> str:
        (found,) = self.ask(list(call), **env)
        assert set(found) == {"error"}, found
        assert "\n" not in found["error"]
        return str(found["error"])


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path)


def test_what_is_there_is_told_and_only_what_is_asked_for_is_fetched(hub: Hub, client: Client) -> None:
    names, size_bytes, head, revision = client.ask(
        ["names"],
        ["size_bytes", "model.safetensors"],
        ["fetch_head", "model.safetensors", 1000],
        ["revision", "config.json"],
    )
    assert names == ["config.json", "model.safetensors", "modeling_nle.py", "pytorch_model.pt"]
    assert (size_bytes, bytes.fromhex(head), revision) == (len(WEIGHTS), WEIGHTS[:1000], COMMIT[:12])
    assert sum(asked.bytes_sent for asked in hub.asked) < 5000, "telling fetches nothing"

    found, head = client.ask(["fetch", WANTED], ["fetch_head", "model.safetensors", 7])
    assert {path.name: path.read_bytes() for path in Path(found).iterdir()} == {name: FILES[name] for name in WANTED}
    assert bytes.fromhex(head) == WEIGHTS[:7]
    assert hub.count("modeling") == hub.count("pytorch_model") == hub.count("gitattributes") == 0
    assert hub.count("/api/models") == 1, "the listing of a commit is kept"

    before = len(hub.asked)
    assert client.ask(["fetch", WANTED], ["names"]) == [found, names]
    assert len(hub.asked) == before, "what is there needs no hub"


def test_code_pickles_and_paths_are_not_asked_for(hub: Hub, client: Client) -> None:
    names = ("../../config.json", "modeling_nle.py", "pytorch_model.pt", "figures/one.png")
    told = client.ask(*(call for name in names for call in (["fetch", [name]], ["fetch_head", name, 10])))
    assert len(told) == 2 * len(names)
    for found in told:
        assert "only plain files of data are fetched" in found["error"]
    assert hub.count("resolve") == 0


def test_a_missing_file_is_named(client: Client) -> None:
    assert "lacks tokenizer.json" in client.error("fetch", ["config.json", "tokenizer.json"])


def test_a_private_model_needs_the_token_which_goes_to_the_hub_alone(hub: Hub, client: Client) -> None:
    hub.kind = "private"
    assert "The hub knows no ibm/nle, or keeps it private; check the name, or set HF_TOKEN." in client.error("names")
    saved = client.home / "hf" / "token"  # where `hf auth login` puts it: a machine's own, not this run's
    saved.parent.mkdir(exist_ok=True)
    saved.write_text(TOKEN)
    assert "keeps it private" in client.error("names")
    calls = (["fetch_head", "model.safetensors", 10], ["fetch", WANTED])
    head, found = client.ask(*calls, HF_TOKEN=f" {TOKEN}\n")
    assert bytes.fromhex(head) == WEIGHTS[:10]
    assert (Path(found) / "model.safetensors").read_bytes() == WEIGHTS
    assert {asked.authorized for asked in hub.asked if asked.at == "storage"} == {False}


def test_no_token_is_shown_whatever_is_wrong_with_it(hub: Hub, client: Client) -> None:
    wrong = client.error("names", HF_TOKEN="hf_SECRET")
    assert "answered with status 401; check HF_TOKEN" in wrong
    broken = client.error("names", HF_TOKEN="hf_SEC\nRET")  # no header may hold this; the library's error would show it
    assert "hf_SEC" not in wrong + broken


@pytest.mark.parametrize("token", ["", TOKEN])
def test_a_gated_model_says_where_to_ask(hub: Hub, client: Client, token: str) -> None:
    hub.kind = "gated"
    calls = (["size_bytes", "model.safetensors"], ["fetch", WANTED], ["fetch_head", "model.safetensors", 10])
    size_bytes, *told = client.ask(*calls, HF_TOKEN=token)
    assert size_bytes == len(WEIGHTS)
    assert len(told) == 2
    for found in told:
        assert "is gated; ask for access on its page, and set HF_TOKEN" in found["error"]


def test_what_the_hub_does_not_know_is_named(hub: Hub, client: Client) -> None:
    client.uri = f"hf://ibm/nle@{'0' * 40}"
    assert f"The hub's ibm/nle has no commit {'0' * 40}" in client.error("names")
    client.uri = f"hf://ibm/none@{COMMIT}"
    assert "The hub knows no ibm/none" in client.error("names", HF_TOKEN=TOKEN)
    assert hub.count("/api/models") == 2, "a final answer is not asked for again"


def test_a_hub_that_has_another_commit_is_refused(hub: Hub, client: Client) -> None:
    hub.says_commit = "1" * 40
    assert "with another commit" in client.error("names")
    hub.says_commit = ""
    client.ask(["names"])
    hub.says_commit = "1" * 40
    assert "with another commit" in client.error("fetch", WANTED)


def test_offline_takes_what_is_there_and_names_what_is_not(hub: Hub, client: Client, tmp_path: Path) -> None:
    told = client.error("names", HF_HUB_OFFLINE="1")
    assert f"is not in {tmp_path / 'hf' / 'hub'}, and HF_HUB_OFFLINE forbids to fetch it" in told
    (found,) = client.ask(["fetch", ["config.json"]])
    before = len(hub.asked)
    assert client.ask(["fetch", ["config.json"]], ["names"], HF_HUB_OFFLINE="1")[0] == found
    for missing in client.ask(["fetch", WANTED], ["fetch_head", "model.safetensors", 9], HF_HUB_OFFLINE="1"):
        assert "HF_HUB_OFFLINE forbids" in missing["error"]
    # A cache that was filled by other means has no listing of ours.
    fresh = str(tmp_path / "fresh")
    assert client.ask(["names"], ["fetch", ["config.json"]], HF_HUB_OFFLINE="1", QUARRY_CACHE=fresh) == [
        ["config.json"],
        found,
    ]
    assert len(hub.asked) == before


def test_a_hub_that_is_not_there_is_named_and_not_needed_for_what_is(hub: Hub, client: Client, tmp_path: Path) -> None:
    (found,) = client.ask(["fetch", ["config.json"]])
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{unused.getsockname()[1]}"
    fresh = str(tmp_path / "fresh")
    assert client.ask(["fetch", ["config.json"]], HF_ENDPOINT=away, QUARRY_CACHE=fresh) == [found]
    told = client.error("names", HF_ENDPOINT=away, QUARRY_CACHE=fresh, HF_HOME=fresh)
    assert f"cannot be had from {away} (ConnectError); check the network" in told


def test_a_busy_hub_is_asked_again(hub: Hub, client: Client) -> None:
    hub.faults["refuse"] = 2
    assert client.ask(["size_bytes", "config.json"]) == [len(FILES["config.json"])]
    hub.faults["refuse"] = 2
    (head,) = client.ask(["fetch_head", "model.safetensors", 10])
    assert bytes.fromhex(head) == WEIGHTS[:10]
    hub.faults["refuse"] = 1000
    assert "answered with status 503; run again later" in client.error("fetch_head", "model.safetensors", 10)


def test_a_connection_that_breaks_is_mended(hub: Hub, client: Client) -> None:
    hub.faults["truncate"] = 2
    (found,) = client.ask(["fetch", WANTED])
    assert hub.faults["truncate"] == 0
    assert (Path(found) / "model.safetensors").read_bytes() == WEIGHTS
    assert not list(client.home.rglob("*.incomplete"))


def test_a_head_is_read_without_the_rest_even_where_ranges_are_not_known(hub: Hub, client: Client) -> None:
    hub.files["model.safetensors"] = WEIGHTS * 20
    hub.knows_ranges = False
    (head,) = client.ask(["fetch_head", "model.safetensors", 1000])
    assert bytes.fromhex(head) == WEIGHTS[:1000]
    assert max(asked.bytes_sent for asked in hub.asked) < len(WEIGHTS) * 10


def test_a_cached_file_that_lost_its_end_is_refused(hub: Hub, client: Client) -> None:
    (found,) = client.ask(["fetch", WANTED])
    blob = (Path(found) / "model.safetensors").resolve()
    os.truncate(blob, 1000)
    assert f"The file {blob} is not as long as the hub's; delete it" in client.error("fetch", WANTED)
    blob.unlink()
    assert client.ask(["fetch", WANTED]) == [found]
    assert blob.read_bytes() == WEIGHTS


def test_a_full_disk_is_told(hub: Hub, client: Client) -> None:
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n" + _CLIENT
    command = [sys.executable, "-c", script, client.uri, json.dumps([["fetch", WANTED]])]
    done = subprocess.run(command, env=client.env, capture_output=True, text=True, check=True)
    assert "cannot be written to" in json.loads(done.stdout)["error"]
    assert "(File too large); free some space, or set HF_HOME." in json.loads(done.stdout)["error"]
    assert not list(client.home.rglob("*.incomplete"))
